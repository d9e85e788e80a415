"""The content keys: pairs by epoch, whose private halves alone open names and content. HPKE with a post-quantum KEM.

docs/format.md ("Repository", "Keys") specifies them. Nothing here shows a key, in a `repr`, a pickle or an error.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from holdfast_server.errors import FailedPrecondition, Reason
from holdfast_server.repository.format import PRIVATE_KEY, PUBLIC_KEY, damaged

__all__ = [
    "HPKE_OVERHEAD",
    "KEY",
    "ContentKeys",
    "ContentPublicKey",
    "hpke_open",
    "hpke_seal",
    "key_required",
    "new_private_key",
    "public_half",
]

#: Length in bytes of every symmetric key, hash and salt.
KEY: Final = 32
#: What `hpke_seal` adds.
HPKE_OVERHEAD: Final = 1_136
CONTEXT_SEGMENT: Final = b"holdfast repository 1 segment"

_KEM_PUBLIC: Final = 1_184
_KEM_SEED: Final = 64
_EPOCH = struct.Struct("<I")
_KEYS_TEXT = "hfrk1"


def new_private_key() -> bytes:
    """A new key pair, as its private half: 96 bytes, of which `public_half` makes the other."""
    return (
        mlkem.MLKEM768PrivateKey.generate().private_bytes_raw() + x25519.X25519PrivateKey.generate().private_bytes_raw()
    )


def public_half(private: bytes) -> bytes:
    """The public key, 1,216 bytes, that belongs to a private one. Raises ValueError for what is no private key."""
    kem, exchange = _private_halves(private)
    return kem.public_key().public_bytes_raw() + exchange.public_key().public_bytes_raw()


def hpke_seal(public: bytes, info: bytes, content: bytes) -> bytes:
    """`hpke` of the format: `HPKE_OVERHEAD` bytes more than `content`. Raises ValueError for what is no public key."""
    sealed: bytes = _suite().encrypt(content, _public_key(public), info=info)
    return sealed


def hpke_open(private: bytes, info: bytes, sealed: bytes) -> bytes | None:
    """What was sealed to the public half of `private` with the same `info`; None when it was not, or was altered."""
    return _hpke_open(_private_key(private), info, sealed)


class ContentPublicKey:
    """The public content key of one epoch: encrypts, opens nothing."""

    __slots__ = ("_key", "epoch", "raw")

    def __init__(self, epoch: int, raw: bytes) -> None:
        """Raises ValueError for what is no public key (1,216 bytes)."""
        self._key = _public_key(raw)
        self.epoch = epoch
        self.raw = raw

    def seal_segment(self, uuid: bytes, segment_id: bytes, data_key: bytes) -> bytes:
        """A segment's data key for the repository `uuid`, 1,168 bytes. Raises ValueError when the key takes none."""
        sealed: bytes = _suite().encrypt(data_key, self._key, info=_segment_info(uuid, segment_id, self.epoch))
        return sealed

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ContentPublicKey):
            return NotImplemented
        return (self.epoch, self.raw) == (other.epoch, other.raw)

    def __hash__(self) -> int:
        return hash((self.epoch, self.raw))

    def __repr__(self) -> str:
        return f"ContentPublicKey(epoch={self.epoch})"


class ContentKeys:
    """The private content keys by epoch: open names and content. Thread-safe; shows nothing of itself."""

    __slots__ = ("_keys", "_raw")

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        """Raises ValueError for no key at all, and for what is no private key (96 bytes)."""
        if not keys or min(keys) < 1:
            raise ValueError("content keys begin with epoch 1")
        self._raw = dict(sorted(keys.items()))
        self._keys = {epoch: _private_key(raw) for epoch, raw in self._raw.items()}

    @classmethod
    def generate(cls) -> ContentKeys:
        """New keys, of the first epoch alone."""
        return cls({1: new_private_key()})

    def including(self, keys: Mapping[int, bytes]) -> ContentKeys:
        """These keys and others; of one epoch the others."""
        return ContentKeys({**self._raw, **keys})

    @property
    def epochs(self) -> tuple[int, ...]:
        return tuple(self._raw)

    def private(self, epoch: int) -> bytes:
        """The private key itself, 96 bytes: to be sealed for a slot, or kept in the data directory."""
        return self._raw[epoch]

    def public(self, epoch: int) -> ContentPublicKey:
        return ContentPublicKey(epoch, public_half(self._raw[epoch]))

    def open_segment(self, uuid: bytes, segment_id: bytes, epoch: int, sealed: bytes) -> bytes:
        """The data key, 32 bytes, that `ContentPublicKey.seal_segment` was given.

        Raises FailedPrecondition/KEY_REQUIRED for an epoch that these keys lack, DataLoss/CHECKSUM_MISMATCH otherwise.
        """
        private = self._keys.get(epoch)
        if private is None:
            raise key_required(epoch)
        data_key = _hpke_open(private, _segment_info(uuid, segment_id, epoch), sealed)
        if data_key is None or len(data_key) != KEY:
            raise damaged(f"segment {segment_id.hex()}", "its data key does not open with this repository's keys")
        return data_key

    def to_text(self) -> str:
        """The keys themselves as a line of ASCII: for the sealed way between processes only."""
        return " ".join([_KEYS_TEXT, *(f"{epoch}:{raw.hex()}" for epoch, raw in self._raw.items())])

    @classmethod
    def from_text(cls, text: str) -> ContentKeys:
        """What `to_text` gave. Raises ValueError, without the text, for anything else."""
        try:
            name, *keys = text.split(" ")
            if name != _KEYS_TEXT:
                raise ValueError
            pairs = [key.split(":") for key in keys]
            return cls({int(epoch): bytes.fromhex(raw) for epoch, raw in pairs})
        except ValueError:
            raise ValueError("these are no content keys") from None

    def __repr__(self) -> str:
        return "ContentKeys(…)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys of a repository are never pickled")


def _segment_info(uuid: bytes, segment_id: bytes, epoch: int) -> bytes:
    return CONTEXT_SEGMENT + uuid + segment_id + _EPOCH.pack(epoch)


def key_required(epoch: int) -> FailedPrecondition:
    """The error for content that needs a private key which is not at hand."""
    return FailedPrecondition(
        Reason.KEY_REQUIRED,
        f"the content key of epoch {epoch} is not here: the repository is sealed, or the key was rotated since",
        metadata={"epoch": str(epoch)},
    )


def _suite() -> Any:
    return Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def _public_key(raw: bytes) -> MLKEM768X25519PublicKey:
    if len(raw) != PUBLIC_KEY:
        raise ValueError(f"a public key has {PUBLIC_KEY} bytes")
    return MLKEM768X25519PublicKey(
        mlkem.MLKEM768PublicKey.from_public_bytes(raw[:_KEM_PUBLIC]),
        x25519.X25519PublicKey.from_public_bytes(raw[_KEM_PUBLIC:]),
    )


def _private_halves(raw: bytes) -> tuple[mlkem.MLKEM768PrivateKey, x25519.X25519PrivateKey]:
    if len(raw) != PRIVATE_KEY:
        raise ValueError(f"a private key has {PRIVATE_KEY} bytes")
    return (
        mlkem.MLKEM768PrivateKey.from_seed_bytes(raw[:_KEM_SEED]),
        x25519.X25519PrivateKey.from_private_bytes(raw[_KEM_SEED:]),
    )


def _private_key(raw: bytes) -> MLKEM768X25519PrivateKey:
    return MLKEM768X25519PrivateKey(*_private_halves(raw))


def _hpke_open(private: MLKEM768X25519PrivateKey, info: bytes, sealed: bytes) -> bytes | None:
    try:
        content: bytes = _suite().decrypt(sealed, private, info=info)
    except InvalidTag:
        return None
    return content
