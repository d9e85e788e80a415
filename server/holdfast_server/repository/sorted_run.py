"""Sorted runs: immutable files of the small-file table's records, searched by digest.

    magic (8)  repository id (16)  u32 length of the sources  sources  record*  BLAKE3 of all before (32)

A record has 40 bytes: digest (16), first bytes of a chunk's id (16), offset u32, length u32, little-endian; records are
sorted by digest. `sources` are the ids of the index objects that they came from, a line each.

Digests are uniform, which the filter in memory lives on: where each range of digests begins, of 8 to 15 records, and
one byte of each digest, 1.5 bytes a record in all. A few operations over the whole run make it, where the bits of a
Bloom filter would be set one by one. A digest that is not in a run costs a search of some ten bytes, and nineteen of
twenty such no look at the file.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from operator import itemgetter

from blake3 import blake3

__all__ = ["RECORD", "RECORD_SIZE", "Damaged", "SortedRun", "in_order", "merged", "write_run"]

#: digest, chunk, offset, length
RECORD = struct.Struct("<16s16sII")
RECORD_SIZE = RECORD.size
_unpack_from = RECORD.unpack_from

_MAGIC = b"HFsmall\x01"
_HEADER = struct.Struct("<8s16sI")
_CHECKSUM_SIZE = 32
_READ_SIZE = 1 << 20
_MERGED_AT_ONCE = 1 << 16
_WHOLE = 1 << 32

#: The byte of a digest that the filter keeps; the first four choose the range.
_TAG = 8

_digest_of = itemgetter(slice(0, 16))


class Damaged(Exception):
    """The file is no run of this repository, or not as it was written."""


class SortedRun:
    """One run, mapped. `starts`, `shift` and `tags` are the filter: see `SmallFiles.lookup`."""

    __slots__ = ("_base", "_map", "count", "shift", "sources", "starts", "tags")

    def __init__(self, fd: int, uuid: bytes, *, trusted: bool = False) -> None:
        """Map the run that `fd` is open on, which stays the caller's; `trusted` was written by this process.

        `Damaged` unless its checksum is right; `OSError` where it cannot be read.
        """
        size = os.fstat(fd).st_size
        header = os.pread(fd, _HEADER.size, 0)
        if len(header) != _HEADER.size:
            raise Damaged
        magic, whose, length = _HEADER.unpack(header)
        content = size - _HEADER.size - length - _CHECKSUM_SIZE
        if magic != _MAGIC or whose != uuid or content < 0 or content % RECORD_SIZE:
            raise Damaged
        # Read and not mapped: a disk that fails here is an error, and not the end of the process.
        if not trusted and not _is_whole(fd, size - _CHECKSUM_SIZE):
            raise Damaged
        self._base = _HEADER.size + length
        self.count: int = content // RECORD_SIZE
        self.sources = frozenset(os.pread(fd, length, _HEADER.size).decode(errors="replace").split())
        self._map = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
        with memoryview(self._map) as whole, whole[self._base : size - _CHECKSUM_SIZE] as records:
            self.tags = records[_TAG::RECORD_SIZE].tobytes()
            prefixes = _prefixes(records)
        bits = max((self.count // 8).bit_length() - 1, 0)
        self.shift = 32 - bits
        bounds = range(0, _WHOLE + 1, 1 << self.shift)
        #: Where the records begin whose digest's first four bytes, shifted, are 0, 1, …; and where the last ones end.
        self.starts: array[int] = array("I", map(bisect_left, repeat(prefixes), bounds))

    @property
    def filter_size(self) -> int:
        """Bytes of memory."""
        return len(self.tags) + len(self.starts) * self.starts.itemsize

    def close(self) -> None:
        self._map.close()

    def unpacked(self, position: int) -> tuple[bytes, bytes, int, int]:
        """Digest, chunk, offset and length of a record."""
        fields: tuple[bytes, bytes, int, int] = _unpack_from(self._map, self._base + position * RECORD_SIZE)
        return fields

    def all_of(self, digest: bytes) -> Iterator[tuple[bytes, int, int]]:
        """Chunk, offset and length of each record of a digest."""
        bucket = int.from_bytes(digest[:4], "big") >> self.shift
        at, end = self.starts[bucket], self.starts[bucket + 1]
        while (at := self.tags.find(digest[_TAG], at, end)) >= 0:
            found, chunk, offset, length = self.unpacked(at)
            if found == digest:
                yield chunk, offset, length
            at += 1

    def records(self, start: int, end: int) -> list[bytes]:
        content = self._map[self._base + start * RECORD_SIZE : self._base + end * RECORD_SIZE]
        return [content[at : at + RECORD_SIZE] for at in range(0, len(content), RECORD_SIZE)]

    def first_from(self, prefix: int) -> int:
        """The position of the first record whose digest's first four bytes are at least this."""
        if prefix >= _WHOLE:
            return self.count
        bucket = prefix >> self.shift
        start, end = self.starts[bucket], self.starts[bucket + 1]
        return bisect_left(range(end), prefix, start, key=self._prefix)

    def _prefix(self, position: int) -> int:
        return int.from_bytes(self.unpacked(position)[0][:4], "big")


def _prefixes(records: memoryview) -> array[int]:
    """The first four bytes of each digest as a number."""
    joined = bytearray(len(records) // RECORD_SIZE * 4)
    for byte in range(4):
        joined[3 - byte :: 4] = records[byte::RECORD_SIZE]
    prefixes = array("I")
    prefixes.frombytes(joined)
    if sys.byteorder == "big":
        prefixes.byteswap()
    return prefixes


def _is_whole(fd: int, length: int) -> bool:
    hasher = blake3()
    done = 0
    while done < length:
        part = os.pread(fd, min(_READ_SIZE, length - done), done)
        if not part:
            return False
        hasher.update(part)
        done += len(part)
    return os.pread(fd, _CHECKSUM_SIZE + 1, length) == hasher.digest()


def merged(runs: Sequence[SortedRun]) -> Iterator[list[bytes]]:
    """The records of several runs, newest run first, in batches; of equal digests the newest comes first.

    A record that is there more than once is given once. Memory is that of a batch.
    """
    parts = sum(run.count for run in runs) // _MERGED_AT_ONCE + 1
    starts = [0] * len(runs)
    for part in range(1, parts + 1):
        batch: list[bytes] = []
        for index, run in enumerate(runs):
            end = run.first_from(_WHOLE * part // parts)
            batch += run.records(starts[index], end)
            starts[index] = end
        yield in_order(batch)


def in_order(records: list[bytes]) -> list[bytes]:
    """Sorted by digest, those of one digest left as they are, no record twice."""
    return list(dict.fromkeys(sorted(records, key=_digest_of)))


def write_run(fd: int, uuid: bytes, sources: Iterable[str], batches: Iterable[list[bytes]]) -> None:
    """Write a run to an empty file, from batches that follow one another in order."""
    names = "\n".join(sorted(sources)).encode()
    hasher = blake3()
    for content in (_HEADER.pack(_MAGIC, uuid, len(names)), names):
        hasher.update(content)
        _write(fd, content)
    for batch in batches:
        content = b"".join(batch)
        hasher.update(content)
        _write(fd, content)
    _write(fd, hasher.digest())


def _write(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
