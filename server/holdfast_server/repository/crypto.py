"""Ciphers of a repository: what the index key gives, sealed objects, segments.

docs/format.md ("Repository") specifies every byte. Whoever has the index key reads the index tier; the content tier
needs `ContentKeys` besides. Nothing here shows a key, in a `repr`, a pickle or an error.
"""

from __future__ import annotations

import secrets
import struct
import threading
from typing import Final, NoReturn, Protocol

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from holdfast_server.repository.content_keys import KEY, ContentKeys, ContentPublicKey, key_required
from holdfast_server.repository.format import (
    MESSAGE_TAG,
    OBJECT_CONTENT_MAX,
    SEALED_OBJECT_MAX,
    SEALED_SEGMENT_KEY,
    TIER_OF,
    ChunkType,
    Tier,
    damaged,
)
from holdfast_server.storage.objects import Buffer

__all__ = [
    "KEY",
    "Buffer",
    "ContentKeys",
    "ContentPublicKey",
    "IndexKeys",
    "SealedSegment",
    "Segment",
    "hkdf",
    "unpack",
]

#: Lengths in bytes: of the ids of repositories, segments and packs; of short digests.
UUID: Final = 16
SHORT_DIGEST: Final = 16
#: Messages that one data key may encrypt.
SEGMENT_MESSAGES: Final = 1 << 31
MESSAGE_MAGIC: Final = b"HFM1"

CONTEXT_CONFIG: Final = b"holdfast repository 1 config"
CONTEXT_CHUNK_ID: Final = b"holdfast repository 1 chunk id "
CONTEXT_SMALL: Final = b"holdfast repository 1 small file"
CONTEXT_CHECK: Final = b"holdfast repository 1 check"
CONTEXT_SLOT: Final = b"holdfast repository 1 slot"
CONTEXT_OBJECT: Final = b"holdfast repository 1 object "
CONTEXT_PACK: Final = b"holdfast repository 1 pack"
CONTEXT_LIST_SEGMENT: Final = b"holdfast repository 1 list segment"

_ZERO_NONCE: Final = bytes(12)
_OBJECT_HEAD = struct.Struct("<BI")
_RAW, _ZSTD = 0, 1
_OBJECT_LEVEL = 3


class _Zstd(threading.local):
    """The codecs of one thread: neither may be used by two at a time."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_OBJECT_LEVEL)
        self.decompressor = zstandard.ZstdDecompressor()


_zstd = _Zstd()


def unpack(frame: Buffer, length: int) -> bytes | None:
    """What one zstd frame holds, if that is exactly `length` bytes; None if not. Never takes more memory than that."""
    try:
        stated = zstandard.get_frame_parameters(frame).content_size
        if stated not in (length, zstandard.CONTENTSIZE_UNKNOWN):
            return None
        # A limit of zero means none.
        content: bytes = _zstd.decompressor.decompress(frame, max_output_size=max(length, 1), allow_extra_data=False)
    except zstandard.ZstdError:
        return None
    return content if len(content) == length else None


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    """`kdf` of the format: HKDF-SHA256, 32 bytes."""
    return HKDF(SHA256(), KEY, salt, info).derive(key)


class IndexKeys:
    """Everything that is derived from the index key. Thread-safe; shows nothing of itself."""

    __slots__ = ("_index_key", "check", "config", "id_keys", "slot", "small", "uuid")

    def __init__(self, index_key: bytes, uuid: bytes) -> None:
        if len(index_key) != KEY or len(uuid) != UUID:
            raise ValueError(f"an index key has {KEY} bytes, the id of a repository {UUID}")
        self._index_key = index_key
        self.uuid = uuid
        self.config = self.derive(uuid, CONTEXT_CONFIG)
        self.small = self.derive(uuid, CONTEXT_SMALL)
        self.check = self.derive(uuid, CONTEXT_CHECK)
        self.slot = self.derive(uuid, CONTEXT_SLOT)
        #: By the value of `ChunkType`, for loops that hash much; index 0 is none's.
        self.id_keys: tuple[bytes, ...] = (
            b"",
            *(self.derive(uuid, CONTEXT_CHUNK_ID + bytes([kind])) for kind in sorted(ChunkType)),
        )

    def derive(self, salt: bytes, info: bytes) -> bytes:
        """`kdf(index key, salt, info)`, 32 bytes."""
        return hkdf(self._index_key, salt, info)

    def chunk_id(self, kind: int, content: Buffer) -> bytes:
        return blake3(content, key=self.id_keys[kind]).digest()

    def small_digest(self, content: Buffer) -> bytes:
        """By which a small file of this content is known, 16 bytes."""
        return blake3(content, key=self.small).digest(SHORT_DIGEST)

    def check_of(self, message: Buffer) -> bytes:
        """What tells a stored message from a damaged one without its data key, 16 bytes."""
        return blake3(message, key=self.check).digest(SHORT_DIGEST)

    def pack_key(self, pack_id: bytes, salt: bytes) -> bytes:
        return self.derive(salt, CONTEXT_PACK + self.uuid + pack_id)

    def seal(self, name: str, content: bytes) -> bytes:
        """A sealed object of that full name, compressed when that is shorter. ValueError when it is too large."""
        if len(content) > OBJECT_CONTENT_MAX:
            raise ValueError(f"{name}: {len(content)} bytes are more than an object holds")
        frame: bytes = _zstd.compressor.compress(content)
        form, stored = (_ZSTD, frame) if len(frame) < len(content) else (_RAW, content)
        salt = secrets.token_bytes(KEY)
        sealed = salt + self._object_cipher(name, salt).encrypt(
            _ZERO_NONCE, _OBJECT_HEAD.pack(form, len(content)) + stored, None
        )
        if len(sealed) > SEALED_OBJECT_MAX:
            raise ValueError(f"{name}: {len(sealed)} bytes are more than an object may have")
        return sealed

    def open(self, name: str, sealed: bytes) -> bytes:
        """The content of a sealed object of that full name.

        Raises DataLoss/CHECKSUM_MISMATCH when it was altered, or written under another name or for another repository.
        """
        if not KEY + _OBJECT_HEAD.size + MESSAGE_TAG <= len(sealed) <= SEALED_OBJECT_MAX:
            raise damaged(name, f"an object cannot have {len(sealed)} bytes")
        try:
            plain = self._object_cipher(name, sealed[:KEY]).decrypt(_ZERO_NONCE, memoryview(sealed)[KEY:], None)
        except InvalidTag:
            raise damaged(name, "it does not open under its name with this repository's key") from None
        form, length = _OBJECT_HEAD.unpack_from(plain)
        stored = memoryview(plain)[_OBJECT_HEAD.size :]
        if length > OBJECT_CONTENT_MAX:
            raise damaged(name, f"it states {length} bytes of content")
        content = bytes(stored) if form == _RAW else unpack(stored, length) if form == _ZSTD else None
        if content is None or len(content) != length:
            raise damaged(name, "its content is not of the stated form and length")
        return content

    def _object_cipher(self, name: str, salt: bytes) -> AESGCM:
        return AESGCM(self.derive(salt, CONTEXT_OBJECT + self.uuid + name.encode()))

    def __repr__(self) -> str:
        return "IndexKeys(…)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys of a repository are never pickled")


class SealedSegment(Protocol):
    """What a pack record tells of a segment: all that is needed to open it, but for the keys."""

    @property
    def segment_id(self) -> bytes: ...
    @property
    def tier(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def sealed(self) -> bytes: ...


class Segment:
    """One data key and the messages 0, 1, 2, … encrypted under it. Thread-safe; shows nothing of its key.

    The caller counts: a number is used once, also when what it was used for fails.
    """

    __slots__ = ("_cipher", "_prefixes", "epoch", "sealed", "segment_id", "tier")

    def __init__(
        self, uuid: bytes, segment_id: bytes, data_key: bytes, *, tier: Tier, epoch: int = 0, sealed: bytes = b""
    ) -> None:
        self.segment_id = segment_id
        self.tier = tier
        self.epoch = epoch
        self.sealed = sealed
        self._cipher = AESGCM(data_key)
        self._prefixes = {
            int(kind): MESSAGE_MAGIC + bytes([kind]) + uuid + segment_id
            for kind, its_tier in TIER_OF.items()
            if its_tier is tier
        }

    @classmethod
    def new_content(cls, public: ContentPublicKey, uuid: bytes) -> Segment:
        """A new random data key, sealed to the content key; takes 0.1 ms."""
        segment_id, data_key = secrets.token_bytes(UUID), secrets.token_bytes(KEY)
        sealed = public.seal_segment(uuid, segment_id, data_key)
        return cls(uuid, segment_id, data_key, tier=Tier.CONTENT, epoch=public.epoch, sealed=sealed)

    @classmethod
    def new_index(cls, keys: IndexKeys) -> Segment:
        """A segment of the index tier: its data key comes from its id and the index key."""
        segment_id = secrets.token_bytes(UUID)
        return cls(keys.uuid, segment_id, _list_key(keys, segment_id), tier=Tier.INDEX)

    @classmethod
    def open(cls, record: SealedSegment, keys: IndexKeys, content: ContentKeys | None) -> Segment:
        """The segment of a pack record; of the index tier without content keys.

        Raises FailedPrecondition/KEY_REQUIRED when a content key lacks, DataLoss/CHECKSUM_MISMATCH for a bad record.
        """
        segment_id, epoch, sealed = record.segment_id, record.epoch, record.sealed
        if record.tier == Tier.INDEX and epoch == 0 and not sealed:
            return cls(keys.uuid, segment_id, _list_key(keys, segment_id), tier=Tier.INDEX)
        if record.tier != Tier.CONTENT or len(sealed) != SEALED_SEGMENT_KEY:
            raise damaged(f"segment {segment_id.hex()}", "its record is of no known form")
        if content is None:
            raise key_required(epoch)
        data_key = content.open_segment(keys.uuid, segment_id, epoch, sealed)
        return cls(keys.uuid, segment_id, data_key, tier=Tier.CONTENT, epoch=epoch, sealed=sealed)

    def encrypt_into(self, kind: int, number: int, chunk_id: bytes, content: Buffer, out: memoryview) -> None:
        """Encrypt message `number`; `out` is 16 bytes longer than `content`.

        Raises ValueError for a chunk type of the other tier, and past the last number.
        """
        prefix = self._prefixes.get(kind)
        if prefix is None or not 0 <= number < SEGMENT_MESSAGES:
            raise ValueError(f"no message {number} of type {kind} in a segment of tier {self.tier}")
        aad = prefix + number.to_bytes(4, "little") + chunk_id
        self._cipher.encrypt_into(number.to_bytes(12, "little"), content, aad, out)

    def decrypt(self, kind: int, number: int, chunk_id: bytes, message: Buffer) -> bytes:
        """What message `number` holds: a chunk's content, or its frame. The caller compares the id.

        Raises DataLoss/CHECKSUM_MISMATCH when it was altered, or is that of another chunk, type, number or segment.
        """
        prefix = self._prefixes.get(kind)
        if prefix is None or not 0 <= number < SEGMENT_MESSAGES:
            raise damaged(f"chunk {chunk_id.hex()}", f"no message {number} of type {kind} in a segment of {self.tier}")
        aad = prefix + number.to_bytes(4, "little") + chunk_id
        try:
            return self._cipher.decrypt(number.to_bytes(12, "little"), message, aad)
        except InvalidTag:
            raise damaged(f"chunk {chunk_id.hex()}", "its message is not what was encrypted") from None

    def __repr__(self) -> str:
        return f"Segment({self.segment_id.hex()}, …)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys of a repository are never pickled")


def _list_key(keys: IndexKeys, segment_id: bytes) -> bytes:
    return keys.derive(segment_id, CONTEXT_LIST_SEGMENT + keys.uuid)
