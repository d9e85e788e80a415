"""The small-file table: where in the repository the content of a small file lies, by its digest.

Small files are packed many to a chunk, so that content can only be recognised file by file. The table is made of what
index objects say, in sorted runs in the data directory: 40 bytes a file on disk, 1.5 in memory. Nothing depends on it:
a damaged run is dropped and what it held is added again, and an entry whose chunk is gone is the caller's to reject.
"""

from __future__ import annotations

import contextlib
import os
import re
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Self

from holdfast_server.records import frozen_record
from holdfast_server.repository.sorted_run import RECORD, Damaged, SortedRun, in_order, merged, write_run

__all__ = ["SmallFile", "SmallFiles"]

#: A lookup asks each run in turn, a fifth of a microsecond for one that does not have it.
_MAX_RUNS = 4
#: Records that are kept in memory one by one, some 200 bytes each.
_IN_MEMORY = 128 << 10

#: The first and the last number of what was merged into the run; a run is newer the higher these are.
_NAME = re.compile(r"([0-9a-f]{8})-([0-9a-f]{8})\.run")
_PART = ".part"


@frozen_record
class SmallFile:
    """Where a small file lies: the first 16 bytes of the chunk's id; offset and length in it, in bytes."""

    chunk: bytes
    offset: int
    length: int


class _StoredRun:
    """A run that has a name: the numbers in it say its age."""

    __slots__ = ("first", "last", "run")

    def __init__(self, first: int, last: int, run: SortedRun) -> None:
        self.first = first
        self.last = last
        self.run = run

    @property
    def name(self) -> str:
        return f"{self.first:08x}-{self.last:08x}.run"


class SmallFiles:
    """The table of one repository, for one thread. Others may use the same folder: at worst an index is added again.

    What cannot be written is left out without an error, for then a file is only stored again.
    """

    def __init__(self, folder_fd: int, uuid: bytes) -> None:
        """An empty one; use `open`."""
        self._folder = folder_fd
        self._uuid = uuid
        #: Newest first.
        self._stored: list[_StoredRun] = []
        #: Of the backup under way: packed records by digest, and what was too much for that, newest first.
        self._recent: dict[bytes, bytes] = {}
        self._spilled: list[SortedRun] = []
        self._existing: set[str] | None = None
        #: For `lookup`, largest first: most of what is known is found at once. Shift, starts, search in the tags, run.
        self._searched: list[tuple[int, array[int], Callable[[int, int, int], int], SortedRun]] = []

    @classmethod
    def open(cls, folder_fd: int, uuid: bytes) -> Self:
        """Open the table in a folder, which stays the caller's and open; `uuid` is the repository's id of 16 bytes.

        Each run is read once and proved; one that is damaged or another repository's is removed. `OSError` where the
        folder cannot be listed.
        """
        if len(uuid) != 16:
            raise ValueError("a repository's id has 16 bytes")
        table = cls(folder_fd, uuid)
        found: list[tuple[int, int]] = []
        for name in os.listdir(folder_fd):
            if match := _NAME.fullmatch(name):
                found.append((int(match[1], 16), int(match[2], 16)))
            elif name.endswith(_PART):
                table._remove(name)
        # Widest first: what was merged into another run is still there if a crash left it.
        found.sort(key=lambda numbers: (numbers[0] - numbers[1], numbers))
        for first, last in found:
            table._open_stored(first, last)
        table._stored.sort(key=lambda stored: stored.last, reverse=True)
        table._arrange()
        return table

    @property
    def covers(self) -> set[str]:
        """The ids of the index objects whose small files are in the table."""
        return {source for stored in self._stored for source in stored.run.sources}

    @property
    def filter_size(self) -> int:
        """Bytes of memory that the filters of all runs take."""
        return sum(run.filter_size for run in self._runs())

    def close(self) -> None:
        """Let go of all files; nothing may be asked from then on."""
        self.forget_run()
        for stored in self._stored:
            stored.run.close()
        self._stored = []
        self._arrange()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def lookup(self, digest: bytes) -> SmallFile | None:
        """An entry of a digest of 16 bytes, if there is one: of the backup under way, else of any run."""
        if (known := self._recent.get(digest)) is not None:
            return SmallFile(*RECORD.unpack(known)[1:])
        prefix, tag = int.from_bytes(digest[:4], "big"), digest[8]
        for shift, starts, find, run in self._searched:
            # `SortedRun.all_of`, spelled out: each file of a backup pays for it.
            bucket = prefix >> shift
            end = starts[bucket + 1]
            at = find(tag, starts[bucket], end)
            while at >= 0:
                found, chunk, offset, length = run.unpacked(at)
                if found == digest:
                    return SmallFile(chunk, offset, length)
                at = find(tag, at + 1, end)
        return None

    def lookup_all(self, digest: bytes) -> Iterator[SmallFile]:
        """All entries of a digest, newest first; for whoever finds that the chunk of one is gone."""
        if (record := self._recent.get(digest)) is not None:
            yield SmallFile(*RECORD.unpack(record)[1:])
        for run in self._runs():
            for chunk, offset, length in run.all_of(digest):
                yield SmallFile(chunk, offset, length)

    def remember(self, digest: bytes, chunk: bytes, offset: int, length: int) -> None:
        """Add a file of the backup under way; it is found until `forget_run`."""
        self._recent[digest] = _packed(digest, chunk, offset, length)
        if len(self._recent) >= _IN_MEMORY:
            batch = in_order(list(self._recent.values()))
            self._recent = {}
            self._spill(batch)

    def remember_all(self, chunk: bytes, offsets: Mapping[bytes, int], lengths: Iterable[int]) -> None:
        """Add the files of one chunk of the backup under way: offsets by digest, lengths in the same order."""
        recent, pack = self._recent, RECORD.pack
        for (digest, offset), length in zip(offsets.items(), lengths, strict=True):
            recent[digest] = pack(digest, chunk, offset, length)
        if len(recent) >= _IN_MEMORY:
            self._recent = {}
            self._spill(in_order(list(recent.values())))

    def forget_run(self) -> None:
        """Forget what was remembered: the backup has ended, and its index objects were added or there are none."""
        self._recent = {}
        for run in self._spilled:
            run.close()
        self._spilled = []
        self._arrange()

    def add_index(self, index_id: str, records: Iterable[tuple[bytes, bytes, int, int]]) -> bool:
        """Add an index object's small files in any order: digest, first 16 bytes of the chunk's id, offset, length.

        False: they could not be written, and `covers` says so.
        """
        if not index_id or index_id.split() != [index_id]:
            raise ValueError("an index object's id is one word")
        pieces: list[SortedRun] = []
        batch: list[bytes] = []
        try:
            for digest, chunk, offset, length in records:
                batch.append(_packed(digest, chunk, offset, length))
                if len(batch) >= _IN_MEMORY:
                    pieces.append(self._temporary([in_order(batch)]))
                    batch = []
            if pieces:
                pieces.append(self._temporary([in_order(batch)]))
            batches = merged(pieces) if pieces else iter([in_order(batch)])
            number = self._stored[0].last + 1 if self._stored else 0
            self._stored.insert(0, self._store(number, number, {index_id}, batches))
        except OSError:
            return False
        finally:
            for piece in pieces:
                piece.close()
        if self._existing is not None:
            self._existing.add(index_id)
        self._merge()
        self._arrange()
        return True

    def retain(self, index_ids: Collection[str]) -> None:
        """Drop every run of which none of the index objects exists any more.

        Other runs keep what they have of those that are gone: an entry found is no proof that its chunk exists.
        """
        self._existing = set(index_ids)
        for stored in self._stored:
            if stored.run.sources.isdisjoint(self._existing):
                self._remove(stored.name)
                stored.run.close()
        self._stored = [stored for stored in self._stored if not stored.run.sources.isdisjoint(self._existing)]
        self._arrange()

    def _runs(self) -> list[SortedRun]:
        """All, newest first."""
        return [*self._spilled, *(stored.run for stored in self._stored)]

    def _arrange(self) -> None:
        runs = sorted(self._runs(), key=lambda run: run.count, reverse=True)
        self._searched = [(run.shift, run.starts, run.tags.find, run) for run in runs if run.count]

    def _open_stored(self, first: int, last: int) -> None:
        name = f"{first:08x}-{last:08x}.run"
        if last < first or any(other.first <= first and last <= other.last for other in self._stored):
            self._remove(name)
            return
        with contextlib.suppress(OSError):
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._folder)
            try:
                self._stored.append(_StoredRun(first, last, SortedRun(fd, self._uuid)))
            except Damaged:
                self._remove(name)
            finally:
                os.close(fd)

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._folder)

    def _spill(self, batch: list[bytes]) -> None:
        with contextlib.suppress(OSError):
            self._spilled.insert(0, self._temporary([batch]))
            if len(self._spilled) > _MAX_RUNS:
                old, self._spilled = self._spilled, [self._temporary(merged(self._spilled))]
                for run in old:
                    run.close()
        self._arrange()

    def _create(self) -> tuple[int, str]:
        name = os.urandom(8).hex() + _PART
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return os.open(name, flags, 0o600, dir_fd=self._folder), name

    def _temporary(self, batches: Iterable[list[bytes]]) -> SortedRun:
        """A run without a name, which ends with its last use."""
        fd, name = self._create()
        try:
            self._remove(name)
            write_run(fd, self._uuid, (), batches)
            return SortedRun(fd, self._uuid, trusted=True)
        finally:
            os.close(fd)

    def _store(
        self, first: int, last: int, sources: Iterable[str], batches: Iterable[list[bytes]], *, durable: bool = False
    ) -> _StoredRun:
        fd, name = self._create()
        try:
            write_run(fd, self._uuid, sources, batches)
            if durable:
                os.fsync(fd)
            stored = _StoredRun(first, last, SortedRun(fd, self._uuid, trusted=True))
            os.rename(name, stored.name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            return stored
        except BaseException:
            self._remove(name)
            raise
        finally:
            os.close(fd)

    def _merge(self) -> None:
        """Where there are too many runs, make one of the newest: each of about its size is merged a few times only."""
        if len(self._stored) <= _MAX_RUNS:
            return
        count, total = 2, self._stored[0].run.count + self._stored[1].run.count
        while count < len(self._stored) and self._stored[count].run.count <= 2 * total:
            total += self._stored[count].run.count
            count += 1
        newest = self._stored[:count]
        sources = {source for stored in newest for source in stored.run.sources}
        if self._existing is not None:
            sources &= self._existing
        with contextlib.suppress(OSError):
            batches = merged([stored.run for stored in newest])
            # Durable before what it replaces is gone; a run that is lost otherwise is added again.
            self._stored[:count] = [self._store(newest[-1].first, newest[0].last, sources, batches, durable=True)]
            for stored in newest:
                self._remove(stored.name)
                stored.run.close()


def _packed(digest: bytes, chunk: bytes, offset: int, length: int) -> bytes:
    if len(digest) != 16 or len(chunk) != 16:
        raise ValueError("digests and beginnings of chunk ids have 16 bytes")
    return RECORD.pack(digest, chunk, offset, length)
