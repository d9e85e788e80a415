"""The coin envelope: one file's bytes encrypted under a wallet's password (docs/format.md, "Coin envelope").

Deterministic: the same content under the same key is the same envelope. Nonces come from the content, and AES-GCM-SIV
keeps what it promises even where one is used twice. Nothing here shows a key, a password or a byte of content in an
error or a repr.
"""

from __future__ import annotations

import hmac
import secrets
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from blake3 import blake3
from cryptography.exceptions import InvalidTag

from holdfast_server.errors import DataLoss, FailedPrecondition, Reason
from holdfast_server.wallets.wallet_key import MAX_PASSWORD, KeyParameters, WalletKey

__all__ = [
    "CHUNK",
    "HEADER_SIZE",
    "MAGIC",
    "MAX_PASSWORD",
    "OVERHEAD",
    "SUFFIX",
    "ContentChanged",
    "ContentTag",
    "EnvelopeHeader",
    "KeyParameters",
    "Keyring",
    "StreamEncryption",
    "WalletKey",
    "encrypt",
    "read_header",
]

MAGIC = b"HFCC"
SUFFIX = b".hfcc"
VERSION = 1

#: Bytes of content in a chunk, and what encrypting a chunk adds.
CHUNK = 1 << 20
OVERHEAD = 16

_FIELDS = struct.Struct("<4sBBBBI16s16sQ32s")
_CHECK_SIZE = 8
HEADER_SIZE = _FIELDS.size + _CHECK_SIZE
_RANDOM_TAG = 1

_TAG_SIZE = 32
_MAX_SIZE = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class EnvelopeHeader:
    """What an envelope says of itself in clear. `plain_size` in bytes of content; `content_tag` is secret-keyed and
    tells nothing of the content; `random_tag` says that it is not a tag of the content at all."""

    key_id: str
    parameters: KeyParameters
    plain_size: int
    content_tag: bytes
    random_tag: bool = False

    @property
    def chunks(self) -> int:
        return max(1, -(-self.plain_size // CHUNK))

    @property
    def size(self) -> int:
        """Bytes of the whole envelope."""
        return HEADER_SIZE + self.plain_size + self.chunks * OVERHEAD

    def to_bytes(self) -> bytes:
        p = self.parameters
        fields = _FIELDS.pack(
            MAGIC,
            VERSION,
            _RANDOM_TAG if self.random_tag else 0,
            p.passes,
            p.lanes,
            p.memory_kib,
            p.salt,
            bytes.fromhex(self.key_id),
            self.plain_size,
            self.content_tag,
        )
        return fields + _check(fields)


def read_header(first: bytes) -> EnvelopeHeader | None:
    """The header from a file's first bytes (HEADER_SIZE, 92, are needed); None when there is none that can be trusted.

    Never raises. A file that begins with MAGIC and gives None is a damaged envelope, or one of a later version.
    """
    if len(first) < HEADER_SIZE or not first.startswith(MAGIC):
        return None
    fields = bytes(first[: _FIELDS.size])
    if fields[4] != VERSION or _check(fields) != first[_FIELDS.size : HEADER_SIZE]:
        return None
    _, _, flags, passes, lanes, memory_kib, salt, key_id, plain_size, tag = _FIELDS.unpack(fields)
    if flags & ~_RANDOM_TAG or plain_size > _MAX_SIZE:
        return None
    try:
        parameters = KeyParameters(salt, memory_kib, passes, lanes)
    except ValueError:
        return None
    return EnvelopeHeader(key_id.hex(), parameters, plain_size, tag, bool(flags & _RANDOM_TAG))


def encrypt(content: bytes, key: WalletKey) -> bytes:
    """The envelope of a file that fits into memory."""
    tag = ContentTag(key)
    tag.update(content)
    return b"".join(StreamEncryption(key, len(content), tag.digest()).blocks([content]))


class ContentChanged(ValueError):
    """What is to be encrypted is not what its content tag was made of."""


class ContentTag:
    """Takes the content of a large file block by block and gives the tag that `StreamEncryption` wants."""

    def __init__(self, key: WalletKey) -> None:
        self._hash = key.content_hash()
        self.size = 0

    def update(self, block: bytes) -> None:
        self._hash.update(block)
        self.size += len(block)

    def digest(self) -> bytes:
        return self._hash.digest()


class StreamEncryption:
    """Makes the envelope of a file too large for memory. `size` is that of the whole envelope, known beforehand.

    `content_tag` is what `ContentTag` gave in a first pass over the same content; None, where there can be no first
    pass, takes a random one, and the envelope is a duplicate of nothing.
    """

    def __init__(self, key: WalletKey, plain_size: int, content_tag: bytes | None) -> None:
        self._key = key
        self._expected = content_tag
        self.header = EnvelopeHeader(
            key.key_id,
            key.parameters,
            plain_size,
            content_tag or secrets.token_bytes(_TAG_SIZE),
            random_tag=content_tag is None,
        )
        self.size = self.header.size

    def blocks(self, content: Iterable[bytes]) -> Iterator[bytes]:
        """The envelope: the header, then chunk by chunk.

        Raises ContentChanged before the last chunk is given, so that what was given opens to nobody, when the content
        is not as long as `plain_size`, or is not what the content tag was made of.
        """
        clear = self.header.to_bytes()
        yield clear
        tag = ContentTag(self._key)
        number, pending, taken = 0, bytearray(), 0
        for block in content:
            tag.update(block)
            taken += len(block)
            pending += block
            while len(pending) > CHUNK:
                yield self._key.encrypt(bytes(pending[:CHUNK]), self.header.content_tag, number, False, clear)
                del pending[:CHUNK]
                number += 1
        if taken != self.header.plain_size:
            raise ContentChanged(f"{taken} bytes of content instead of {self.header.plain_size}")
        if self._expected is not None and tag.digest() != self._expected:
            raise ContentChanged("the content is not what its tag was made of")
        yield self._key.encrypt(bytes(pending), self.header.content_tag, number, True, clear)


class Keyring:
    """The keys, and at most one password, that may open envelopes. Shows nothing of itself; false when empty.

    A password is tried once for each set of parameters, and the key is remembered. Not thread-safe.
    """

    __slots__ = ("_derived", "_keys", "_password")

    def __init__(self, keys: Iterable[WalletKey] = (), password: str | None = None) -> None:
        self._keys = {key.key_id: key for key in keys}
        self._password = password
        self._derived: dict[KeyParameters, WalletKey] = {}

    def __bool__(self) -> bool:
        return bool(self._keys) or self._password is not None

    def __repr__(self) -> str:
        return f"Keyring({len(self._keys)} keys{', a password' if self._password is not None else ''})"

    def __reduce__(self) -> str:
        raise TypeError("a keyring is not to be stored")

    def to_texts(self) -> list[str]:
        """Everything in it, for a pipe only."""
        texts = [key.to_text() for key in self._keys.values()]
        return texts if self._password is None else [*texts, f"password {self._password}"]

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> Keyring:
        """What `to_texts` gave. Raises ValueError for anything else."""
        keys, password = [], None
        for text in texts:
            if text.startswith("password "):
                password = text.removeprefix("password ")
            else:
                keys.append(WalletKey.from_text(text))
        return cls(keys, password)

    def key_for(self, header: EnvelopeHeader) -> WalletKey:
        """The key of an envelope.

        Raises FailedPrecondition: KEY_WRONG when the password is another's, KEY_REQUIRED when there is none and no key
        fits (keys are those of unlocked wallets: nobody gave them for this); InvalidArgument/INVALID_FIELD for a
        password that can be none.
        """
        key = self._keys.get(header.key_id)
        if key is None and self._password is not None:
            key = self._derived.get(header.parameters)
            if key is None:
                key = self._derived[header.parameters] = WalletKey.derive(self._password, header.parameters)
        if key is not None and key.is_named(header.key_id):
            return key
        encrypted = f"the content is encrypted with wallet key {header.key_id}"
        metadata = {"key_id": header.key_id}
        if self._password is None:
            text = f"{encrypted}; no password came, and no unlocked wallet has that key"
            raise FailedPrecondition(Reason.KEY_REQUIRED, text, metadata=metadata)
        raise FailedPrecondition(Reason.KEY_WRONG, f"{encrypted}; the password given is another", metadata=metadata)

    def open(self, content: bytes) -> bytes:
        """The content of a whole envelope.

        Raises as `key_for`, and DataLoss/CHECKSUM_MISMATCH when the envelope is damaged, cut off or none.
        """
        return b"".join(self.open_blocks([content]))

    def open_blocks(self, envelope: Iterable[bytes]) -> Iterator[bytes]:
        """The content of a large envelope, chunk by chunk as each is proved to belong in its place.

        Raises as `open`; only when the iteration ends without an error was that all, and the content whole.
        """
        source = _Bytes(envelope)
        clear = source.take(HEADER_SIZE)
        header = read_header(clear)
        if header is None:
            raise _damaged("its header is damaged, cut off, or of a later version")
        key = self.key_for(header)
        tag = ContentTag(key)
        for number in range(header.chunks):
            last = number == header.chunks - 1
            size = header.plain_size - number * CHUNK if last else CHUNK
            sealed = source.take(size + OVERHEAD)
            try:
                chunk = key.decrypt(sealed, header.content_tag, number, last, clear)
            except InvalidTag:
                cut = len(sealed) != size + OVERHEAD
                raise _damaged("it is cut off" if cut else f"chunk {number} does not open") from None
            tag.update(chunk)
            if chunk:
                yield chunk
        if source.take(1):
            raise _damaged("bytes follow its end")
        if not header.random_tag and not hmac.compare_digest(tag.digest(), header.content_tag):
            raise _damaged("its content is not what its tag was made of")


class _Bytes:
    """Takes blocks of any size and gives them out in the sizes asked for."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._rest = b""
        self._at = 0

    def take(self, size: int) -> bytes:
        """The next bytes; fewer only at the end."""
        parts, missing = [], size
        while missing:
            if self._at == len(self._rest):
                block = next(self._blocks, None)
                if block is None:
                    break
                self._rest, self._at = block, 0
            part = self._rest[self._at : self._at + missing]
            self._at += len(part)
            missing -= len(part)
            parts.append(part)
        return b"".join(parts)


def _check(fields: bytes) -> bytes:
    return blake3(fields).digest(_CHECK_SIZE)


def _damaged(what: str) -> DataLoss:
    return DataLoss(Reason.CHECKSUM_MISMATCH, f"a coin envelope is damaged: {what}", metadata={"detail": what})
