"""The key of a wallet: made from its password, shown to nobody, and what it does to one chunk of a coin envelope.

docs/format.md ("Coin envelope", "Keys") specifies it; `wallets.envelope` is the format around the chunks.
"""

from __future__ import annotations

import hmac
import struct

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from holdfast_server.errors import invalid_field
from holdfast_server.key_derivation import KeyParameters

__all__ = ["MAX_PASSWORD", "KeyParameters", "WalletKey"]

#: Longest password in bytes of UTF-8.
MAX_PASSWORD = 1024

KEY_ID_SIZE = 16
_ROOT_SIZE, _NONCE_SIZE = 32, 12
_POSITION = struct.Struct("<Q?")
_CONTEXT = "holdfast 2026 coin envelope 1: "
_KEY_TEXT = "hfck1"


class WalletKey:
    """The key of a wallet: what its password gave under `parameters`. Shows nothing of itself.

    `key_id` (32 hexadecimal digits) is derived one way: it may be stored and shown, and tells the right password.
    """

    __slots__ = ("_aead", "_content_key", "_nonce_key", "_root", "key_id", "parameters")

    def __init__(self, root: bytes, parameters: KeyParameters) -> None:
        if len(root) != _ROOT_SIZE:
            raise ValueError(f"a key needs {_ROOT_SIZE} bytes")
        self._root = root
        self.parameters = parameters
        self._aead = AESGCMSIV(_subkey(root, "encryption"))
        self._content_key = _subkey(root, "content tag")
        self._nonce_key = _subkey(root, "nonce")
        self.key_id = _subkey(root, "key id")[:KEY_ID_SIZE].hex()

    @classmethod
    def derive(cls, password: str, parameters: KeyParameters) -> WalletKey:
        """The key of a password; takes `memory_kib` of memory, and 0.2 s with the default parameters. Thread-safe: one
        is made at a time.

        Raises InvalidArgument/INVALID_FIELD unless the password is 1..1024 bytes of UTF-8; they are taken as they are.
        """
        try:
            given = password.encode()
        except UnicodeEncodeError:
            raise invalid_field("credentials.wallet_password", "this is no UTF-8") from None
        if not 1 <= len(given) <= MAX_PASSWORD:
            raise invalid_field("credentials.wallet_password", f"a password has 1 to {MAX_PASSWORD} bytes of UTF-8")
        return cls(parameters.derive(given), parameters)

    def to_text(self) -> str:
        """The key itself as a line of ASCII: for the sealed way to a worker and the pipe to the reader process only."""
        p = self.parameters
        return f"{_KEY_TEXT} {p.memory_kib} {p.passes} {p.lanes} {p.salt.hex()} {self._root.hex()}"

    @classmethod
    def from_text(cls, text: str) -> WalletKey:
        """What `to_text` gave. Raises ValueError, without the text, for anything else."""
        try:
            name, memory, passes, lanes, salt, root = text.split(" ")
            if name != _KEY_TEXT:
                raise ValueError
            return cls(bytes.fromhex(root), KeyParameters(bytes.fromhex(salt), int(memory), int(passes), int(lanes)))
        except ValueError:
            raise ValueError("this is no wallet key") from None

    def is_named(self, key_id: str) -> bool:
        """Whether this is the key with that id; compared in constant time."""
        return hmac.compare_digest(self.key_id.encode(), key_id.encode())

    def encrypt(self, chunk: bytes, content_tag: bytes, number: int, last: bool, header: bytes) -> bytes:
        """One chunk of an envelope; `header` are its bytes, `content_tag` and `number` give the nonce."""
        nonce, position = self._nonce(content_tag, number, last)
        return self._aead.encrypt(nonce, chunk, header + position)

    def decrypt(self, sealed: bytes, content_tag: bytes, number: int, last: bool, header: bytes) -> bytes:
        """What `encrypt` was given. Raises InvalidTag (of cryptography) when that is not what `sealed` was made of."""
        nonce, position = self._nonce(content_tag, number, last)
        return self._aead.decrypt(nonce, sealed, header + position)

    def content_hash(self) -> blake3:
        """A running hash whose digest is the content tag of what it is given."""
        return blake3(key=self._content_key)

    def _nonce(self, content_tag: bytes, number: int, last: bool) -> tuple[bytes, bytes]:
        position = _POSITION.pack(number, last)
        return blake3(content_tag + position, key=self._nonce_key).digest(_NONCE_SIZE), position

    def __repr__(self) -> str:
        return "WalletKey(…)"

    def __reduce__(self) -> str:
        raise TypeError("a wallet key is not to be stored")


def _subkey(root: bytes, purpose: str) -> bytes:
    return blake3(root, derive_key_context=_CONTEXT + purpose).digest()
