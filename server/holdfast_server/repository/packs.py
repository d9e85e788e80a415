"""Packs: messages of encrypted chunks with an encrypted directory behind them (docs/format.md, "Packs").

A pack's directory and the records of index objects are one thing, `PackRecord`: what was written is found by either.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from holdfast_server.records import frozen_record
from holdfast_server.repository.crypto import Buffer, IndexKeys, Segment
from holdfast_server.repository.format import (
    CHUNK_MAX,
    CHUNK_RECORD,
    MESSAGE_TAG,
    PACK_CHUNKS,
    PACK_MAX,
    PACK_SMALL_FILES,
    PACK_TARGET,
    SEALED_SEGMENT_KEY,
    SMALL_FILE_RECORD,
    TIER_OF,
    TRAILER,
    ChunkType,
    Tier,
    damaged,
    pack_name,
    padded_size,
)
from holdfast_server.storage.objects import ObjectStore

__all__ = ["ChunkRecord", "Message", "PackBuilder", "PackRecord", "SegmentRecord", "decode_directory", "read_directory"]

_HEAD: Final = struct.Struct("<16sIHII")
_SEGMENT: Final = struct.Struct("<16sBIH")
_CHUNK: Final = struct.Struct("<32s16sBxHIIIII")
_SMALL_LENGTH: Final = struct.Struct("<16xI")
_TRAILER: Final = struct.Struct("<IIQ")
_NONCE_TRAILER: Final = bytes(12)
_NONCE_DIRECTORY: Final = (1).to_bytes(12, "little")

assert _CHUNK.size == CHUNK_RECORD


@frozen_record
class SegmentRecord:
    """A data key as it is stored: sealed to a content key, or empty in the index tier, where it is derived."""

    segment_id: bytes
    tier: Tier
    epoch: int
    sealed: bytes


@frozen_record
class ChunkRecord:
    """Where one chunk's message lies. `raw_length` is the length of its content, `small_files` how many it holds."""

    chunk_id: bytes
    check: bytes
    kind: int
    segment: int
    number: int
    offset: int
    length: int
    raw_length: int
    small_files: int


@frozen_record
class Message:
    """One encrypted chunk on its way into a pack. `small_files` are its 20-byte records."""

    chunk_id: bytes
    kind: ChunkType
    segment: Segment | SegmentRecord
    number: int
    raw_length: int
    body: bytearray | bytes
    check: bytes
    small_files: bytes


@dataclass(frozen=True, slots=True)
class PackRecord:
    """What a pack holds. `chunks` and `small_files` are their records one behind the other, as they are stored."""

    pack_id: bytes
    size: int
    segments: tuple[SegmentRecord, ...]
    chunks: bytes
    small_files: bytes

    @property
    def name(self) -> str:
        return pack_name(self.pack_id)

    @property
    def chunk_count(self) -> int:
        return len(self.chunks) // CHUNK_RECORD

    def __iter__(self) -> Iterator[ChunkRecord]:
        for fields in _CHUNK.iter_unpack(self.chunks):
            yield ChunkRecord(*fields)

    def with_small_files(self) -> Iterator[tuple[ChunkRecord, bytes]]:
        """Each chunk, and the records of its small files."""
        at = 0
        for chunk in self:
            end = at + chunk.small_files * SMALL_FILE_RECORD
            yield chunk, self.small_files[at:end]
            at = end

    def small_of(self) -> Iterator[tuple[bytes, bytes, int, int]]:
        """(digest, chunk id, offset, length) of each small file."""
        at = 0
        for chunk in self:
            offset = 0
            for _ in range(chunk.small_files):
                digest = self.small_files[at : at + 16]
                length = int.from_bytes(self.small_files[at + 16 : at + 20], "little")
                yield digest, chunk.chunk_id, offset, length
                offset += length
                at += SMALL_FILE_RECORD

    def encode(self) -> bytes:
        parts = [
            _HEAD.pack(
                self.pack_id,
                self.size,
                len(self.segments),
                self.chunk_count,
                len(self.small_files) // SMALL_FILE_RECORD,
            )
        ]
        for one in self.segments:
            parts += [_SEGMENT.pack(one.segment_id, one.tier, one.epoch, len(one.sealed)), one.sealed]
        return b"".join((*parts, self.chunks, self.small_files))

    @classmethod
    def decode(cls, content: bytes, at: int, name: str) -> tuple[PackRecord, int]:
        """The record at an offset, and where it ends. Raises DataLoss naming the object `name` it was read from.

        Only lengths are looked at: the text is authentic. `require_sound` looks at all of it.
        """
        try:
            pack_id, size, segment_count, chunk_count, small_count = _HEAD.unpack_from(content, at)
            at += _HEAD.size
            segments = []
            for _ in range(segment_count):
                segment_id, tier, epoch, length = _SEGMENT.unpack_from(content, at)
                at += _SEGMENT.size
                segments.append(SegmentRecord(segment_id, Tier(tier), epoch, content[at : at + length]))
                at += length
        except (struct.error, ValueError) as error:
            raise damaged(name, f"a pack record cannot be read: {error}") from error
        chunks = content[at : at + chunk_count * CHUNK_RECORD]
        at += len(chunks)
        small_files = content[at : at + small_count * SMALL_FILE_RECORD]
        at += len(small_files)
        if len(chunks) != chunk_count * CHUNK_RECORD or len(small_files) != small_count * SMALL_FILE_RECORD:
            raise damaged(name, "a pack record is cut off")
        return cls(pack_id, size, tuple(segments), chunks, small_files), at

    def require_sound(self, name: str) -> int:
        """Check all that docs/format.md says of a record; gives where the pack's messages end.

        Raises DataLoss naming the object it was read from.
        """
        for segment in self.segments:
            if len(segment.sealed) != (SEALED_SEGMENT_KEY if segment.tier is Tier.CONTENT else 0):
                raise damaged(name, "a segment's key has a wrong length")
        if self.chunk_count > PACK_CHUNKS or len(self.small_files) > PACK_SMALL_FILES * SMALL_FILE_RECORD:
            raise damaged(name, "a pack record lists too much")
        end = small = 0
        for chunk in self:
            if chunk.offset != end or chunk.segment >= len(self.segments) or chunk.raw_length > CHUNK_MAX:
                raise damaged(name, f"the record of chunk {chunk.chunk_id.hex()} is out of order")
            try:
                tier = TIER_OF[ChunkType(chunk.kind)]
            except ValueError as error:
                raise damaged(name, f"chunk {chunk.chunk_id.hex()} has the unknown type {chunk.kind}") from error
            if tier is not self.segments[chunk.segment].tier:
                raise damaged(name, f"chunk {chunk.chunk_id.hex()} is in a segment of another tier")
            if not MESSAGE_TAG <= chunk.length <= chunk.raw_length + MESSAGE_TAG:
                raise damaged(name, f"chunk {chunk.chunk_id.hex()} has impossible lengths")
            self._require_small(chunk, small, name)
            small += chunk.small_files
            end += chunk.length
        if small * SMALL_FILE_RECORD != len(self.small_files) or not end <= self.size <= PACK_MAX:
            raise damaged(name, "a pack record does not add up")
        return end

    def _require_small(self, chunk: ChunkRecord, first: int, name: str) -> None:
        start, end = first * SMALL_FILE_RECORD, (first + chunk.small_files) * SMALL_FILE_RECORD
        lengths = sum(length for (length,) in _SMALL_LENGTH.iter_unpack(self.small_files[start:end]))
        if end > len(self.small_files) or lengths > chunk.raw_length:
            raise damaged(name, f"the small files of chunk {chunk.chunk_id.hex()} do not fit in it")


class PackBuilder:
    """Messages that become one pack. Nothing is encrypted here but the directory."""

    def __init__(self, keys: IndexKeys) -> None:
        self.pack_id = os.urandom(16)
        self.size = 0
        self._keys = keys
        self._bodies: list[bytearray | bytes] = []
        self._segments: dict[bytes, int] = {}
        self._segment_records: list[SegmentRecord] = []
        self._chunks: list[bytes] = []
        self._small_files: list[bytes] = []
        self._small_count = 0

    def __len__(self) -> int:
        return len(self._bodies)

    def fits(self, message: Message) -> bool:
        """Whether the pack stays within its target with one more message. An empty pack takes anything."""
        if not self._bodies:
            return True
        more = len(message.small_files) // SMALL_FILE_RECORD
        directory = CHUNK_RECORD * (len(self._chunks) + 1) + SMALL_FILE_RECORD * (self._small_count + more)
        whole = self.size + len(message.body) + directory + SEALED_SEGMENT_KEY * (len(self._segments) + 1) + 256
        return (
            whole <= PACK_TARGET
            and len(self._chunks) < PACK_CHUNKS
            and self._small_count + more <= PACK_SMALL_FILES // 2
        )

    def add(self, message: Message) -> None:
        segment = message.segment
        number = self._segments.setdefault(segment.segment_id, len(self._segments))
        if number == len(self._segment_records):
            self._segment_records.append(SegmentRecord(segment.segment_id, segment.tier, segment.epoch, segment.sealed))
        count = len(message.small_files) // SMALL_FILE_RECORD
        length = len(message.body)
        self._chunks.append(
            _CHUNK.pack(
                message.chunk_id,
                message.check,
                message.kind,
                number,
                message.number,
                self.size,
                length,
                message.raw_length,
                count,
            )
        )
        self._small_files.append(message.small_files)
        self._small_count += count
        self._bodies.append(message.body)
        self.size += length

    def finish(self) -> tuple[PackRecord, list[bytes | bytearray]]:
        """The pack's record, and the parts of the object in order."""
        chunks, small_files = b"".join(self._chunks), b"".join(self._small_files)
        segments = tuple(self._segment_records)
        bare = PackRecord(self.pack_id, 0, segments, chunks, small_files)
        least = self.size + len(bare.encode()) + MESSAGE_TAG + TRAILER
        size = padded_size(least)
        record = PackRecord(self.pack_id, size, segments, chunks, small_files)
        salt = os.urandom(32)
        cipher = AESGCM(self._keys.pack_key(self.pack_id, salt))
        directory = cipher.encrypt(_NONCE_DIRECTORY, record.encode() + bytes(size - least), b"")
        trailer = salt + cipher.encrypt(_NONCE_TRAILER, _TRAILER.pack(len(directory), size, 0), b"")
        return record, [*self._bodies, directory, trailer]


def read_directory(store: ObjectStore, keys: IndexKeys, pack_id: bytes, size: int) -> PackRecord:
    """What a pack says of itself. `size` is what the store says. Raises DataLoss for a pack that is not whole."""
    name = pack_name(pack_id)
    return decode_directory(keys, pack_id, size, lambda offset, length: store.get(name, offset, length))


def decode_directory(keys: IndexKeys, pack_id: bytes, size: int, read: Callable[[int, int], Buffer]) -> PackRecord:
    """As `read_directory`; `read` gives a pack's bytes from an offset on, as many as asked for."""
    name = pack_name(pack_id)
    if size < TRAILER:
        raise damaged(name, "it is too short for a pack")
    trailer = bytes(read(size - TRAILER, TRAILER))
    cipher = AESGCM(keys.pack_key(pack_id, trailer[:32]))
    try:
        length, stated, zero = _TRAILER.unpack(cipher.decrypt(_NONCE_TRAILER, trailer[32:], b""))
        if stated != size or zero or length > size - TRAILER:
            raise damaged(name, f"it has {size} bytes and says {stated}")
        content = cipher.decrypt(_NONCE_DIRECTORY, read(size - TRAILER - length, length), b"")
    except (InvalidTag, struct.error, ValueError) as error:
        raise damaged(name, "its directory does not open") from error
    record, end = PackRecord.decode(content, 0, name)
    if record.pack_id != pack_id or record.size != size or any(content[end:]):
        raise damaged(name, "its directory is that of another pack")
    if record.require_sound(name) != size - TRAILER - length:
        raise damaged(name, "its messages do not fill it")
    return record


def encode_records(records: Sequence[PackRecord]) -> bytes:
    """The content of an index object."""
    return b"".join((len(records).to_bytes(4, "little"), *(record.encode() for record in records)))


def decode_records(content: bytes, name: str) -> Iterator[PackRecord]:
    """The pack records of an index object. Raises DataLoss naming it."""
    count, at = int.from_bytes(content[:4], "little"), 4
    for _ in range(count):
        record, at = PackRecord.decode(content, at, name)
        yield record
    if at != len(content):
        raise damaged(name, "there is something behind its last record")
