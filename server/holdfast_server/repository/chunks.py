"""Which chunks there are and where: the index in memory, below 100 bytes a chunk."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from typing import Final

from holdfast_server.repository.format import CHUNK_RECORD, Tier
from holdfast_server.repository.packs import ChunkRecord, PackRecord, SegmentRecord

__all__ = ["ChunkIndex"]

_CHUNK: Final = struct.Struct("<32s16sBxHIIIII")
_KEYS: Final = struct.Struct(f"<Q{CHUNK_RECORD - 8}x")
_KIND_AT, _LENGTH_AT, _RAW_LENGTH_AT, _SMALL_FILES_AT = 48, 60, 64, 68
_NOWHERE: Final = 0xFFFFFFFF
_FIRST_SLOTS: Final = 1 << 10


class ChunkIndex:
    """Chunks by id, as numbers from 0 that stay as they are. For one thread.

    Records lie in one array as they are stored; a table with open addressing finds them by the first bytes of the
    id, which is a keyed hash, so that nobody can make ids collide. With `keep_keys` the sealed keys of segments are
    kept, which reading needs and writing does not.
    """

    def __init__(self, *, keep_keys: bool) -> None:
        self._keep_keys = keep_keys
        self._records = bytearray()
        self._pack_of = array("I")
        self._slots = array("I", bytes(4 * _FIRST_SLOTS))
        self._packs: list[tuple[bytes, array[int]]] = []
        self._pack_ids: set[bytes] = set()
        #: Further places of chunks that lie in several packs, by number; for reading only.
        self._others: dict[int, list[tuple[int, bytes]]] = {}
        self._segments: list[SegmentRecord] = []
        self._segment_numbers: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._pack_of)

    @property
    def pack_ids(self) -> set[bytes]:
        """The packs that records were added of."""
        return self._pack_ids

    def find(self, chunk_id: bytes) -> int:
        """The number of the chunk with this id, or whose id begins so (8 bytes at least), or -1."""
        slots, records, length = self._slots, self._records, len(chunk_id)
        mask = len(slots) - 1
        slot = int.from_bytes(chunk_id[:8], "little") & mask
        while number := slots[slot]:
            at = (number - 1) * CHUNK_RECORD
            if records[at : at + length] == chunk_id:
                return number - 1
            slot = (slot + 1) & mask
        return -1

    def add_pack(self, record: PackRecord) -> None:
        """Add what a pack holds. Chunks that are known already stay where they are."""
        if record.pack_id in self._pack_ids:
            return
        self._pack_ids.add(record.pack_id)
        pack = len(self._packs)
        numbers = array("I", [self._segment_number(segment) for segment in record.segments])
        self._packs.append((record.pack_id, numbers))
        chunks, keys = record.chunks, _KEYS.iter_unpack(record.chunks)
        at = 0
        for (key,) in keys:
            self._insert(key, chunks[at : at + CHUNK_RECORD], pack)
            at += CHUNK_RECORD

    def add_new(self, chunk_id: bytes, kind: int, raw_length: int) -> int:
        """Add a chunk that is on its way into a pack; gives its number. It must not be known."""
        record = _CHUNK.pack(chunk_id, b"", kind, 0, 0, 0, 0, raw_length, 0)
        self._insert(int.from_bytes(chunk_id[:8], "little"), record, _NOWHERE)
        return len(self._pack_of) - 1

    def chunk_id(self, number: int) -> bytes:
        at = number * CHUNK_RECORD
        return bytes(self._records[at : at + 32])

    def kind(self, number: int) -> int:
        return self._records[number * CHUNK_RECORD + _KIND_AT]

    def raw_length(self, number: int) -> int:
        """Length of the chunk's content in bytes."""
        at = number * CHUNK_RECORD + _RAW_LENGTH_AT
        return int.from_bytes(self._records[at : at + 4], "little")

    def length(self, number: int) -> int:
        """Length of the chunk's message in bytes."""
        at = number * CHUNK_RECORD + _LENGTH_AT
        return int.from_bytes(self._records[at : at + 4], "little")

    def holds_small_files(self, number: int) -> bool:
        """Whether the chunk is one of small files, as far as a pack record tells."""
        at = number * CHUNK_RECORD + _SMALL_FILES_AT
        return self._records[at : at + 4] != bytes(4)

    def pack_of(self, number: int) -> bytes:
        """The pack that the chunk lies in, of several the first. Raises KeyError as `location`."""
        pack = self._pack_of[number]
        if pack == _NOWHERE:
            raise KeyError(number)
        return self._packs[pack][0]

    def location(self, number: int) -> tuple[bytes, SegmentRecord, ChunkRecord]:
        """(pack id, segment, record) of a chunk that lies in a pack. Raises KeyError for one that does not yet."""
        pack = self._pack_of[number]
        if pack == _NOWHERE:
            raise KeyError(number)
        pack_id, segments = self._packs[pack]
        record = ChunkRecord(*_CHUNK.unpack_from(self._records, number * CHUNK_RECORD))
        return pack_id, self._segments[segments[record.segment]], record

    def locations(self, number: int) -> Iterator[tuple[bytes, SegmentRecord, ChunkRecord]]:
        """All places of a chunk, with `keep_keys`."""
        yield self.location(number)
        for pack, raw in self._others.get(number, ()):
            pack_id, segments = self._packs[pack]
            record = ChunkRecord(*_CHUNK.unpack(raw))
            yield pack_id, self._segments[segments[record.segment]], record

    def duplicated(self) -> Iterator[int]:
        """The chunks that lie in several packs, with `keep_keys`."""
        return iter(self._others)

    def numbers(self) -> Iterator[int]:
        return iter(range(len(self._pack_of)))

    def _segment_number(self, segment: SegmentRecord) -> int:
        number = self._segment_numbers.get(segment.segment_id)
        if number is None:
            number = self._segment_numbers[segment.segment_id] = len(self._segments)
            bare = self._keep_keys or segment.tier is Tier.INDEX
            kept = segment if bare else SegmentRecord(segment.segment_id, segment.tier, segment.epoch, b"")
            self._segments.append(kept)
        return number

    def _insert(self, key: int, record: bytes, pack: int) -> None:
        slots, records = self._slots, self._records
        mask = len(slots) - 1
        slot = key & mask
        while number := slots[slot]:
            at = (number - 1) * CHUNK_RECORD
            if records[at : at + 32] == record[:32]:
                if self._keep_keys:
                    self._others.setdefault(number - 1, []).append((pack, record))
                return
            slot = (slot + 1) & mask
        records += record
        self._pack_of.append(pack)
        count = len(self._pack_of)
        slots[slot] = count
        if count * 3 > len(slots) * 2:
            self._grow()

    def _grow(self) -> None:
        slots = self._slots = array("I", bytes(8 * len(self._slots)))
        mask = len(slots) - 1
        for number, (key,) in enumerate(_KEYS.iter_unpack(self._records), 1):
            slot = key & mask
            while slots[slot]:
                slot = (slot + 1) & mask
            slots[slot] = number
