"""What all archive writers share: batches, order, marks, the manifest and the closing members.

Small members are collected to batches of about `BLOCK` bytes and packed by one job each; large files are packed block
by block. Jobs run in the shared `CompressorPool`; their results land in the file in order, on the writer's own thread.

A job proves what it packed before it hands it over: the strict reader's own code parses the headers and inflates the
bytes, and both have to say what went in (ADR 7). What landed is remembered as `Stretch`es, so that reading the finished
file back shows every byte that the disk did not keep.
"""

from __future__ import annotations

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from isal import isal_zlib

from holdfast_server.archive.blocks import BLOCK, Taken
from holdfast_server.archive.manifest import (
    MANIFEST_NAME,
    SUMS_NAME,
    EntryEncryption,
    ManifestEntry,
    ManifestSpool,
    free_name,
    sums_line,
)
from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.archive.reading import Limits
from holdfast_server.archive.spool import ByteSpool
from holdfast_server.records import frozen_record

__all__ = [
    "ArchiveWriter",
    "Landing",
    "Listing",
    "Mark",
    "MemberNotRepresentable",
    "Small",
    "Stretch",
    "WrittenArchive",
]

#: What a member costs in a batch beside content and names: at most its headers, and the objects that hold it.
_MEMBER_COST = 2304

#: Bytes of the archive under one CRC-32: short enough for the checksum, few enough for an archive of terabytes.
_STRETCH = 16 * BLOCK

#: The readers' limit: what they would refuse is not written.
_DEPTH = Limits().depth

#: How long a name is kept for the choice of the closing members' names.
_CLOSING_NAMES = (SUMS_NAME.partition(b".")[0], MANIFEST_NAME.partition(b".")[0])


class MemberNotRepresentable(ValueError):
    """The format cannot hold this member. Raised before anything was written; the writer goes on as if never asked."""


@dataclass(slots=True)
class Mark:
    """A place in an archive that the writer can return to. Opaque to callers."""

    offset: int = -1  # known once everything before it has landed
    stretches: int = 0  # how many had landed there
    begun: bool = False  # a member was begun after it
    root: bytes | None = None  # the name that this member put into the writer's root names


class Stretch(NamedTuple):
    """Bytes that follow the stretch before: how many, and their CRC-32."""

    size: int
    crc: int


@dataclass(frozen=True, slots=True)
class WrittenArchive:
    """What `finish` wrote. Counts are those of the manifest, so without the closing members.

    `stretches` cover the file from its first byte to its last.
    """

    size: int
    members: int
    files: int
    bytes_in: int
    manifest_name: bytes
    sums_name: bytes
    stretches: Sequence[Stretch]


class Listing:
    """Members that a job completes, in the form in which the archive's end lists them. Filled in the job's thread."""

    __slots__ = ("bytes_in", "entries", "files", "lines", "records", "sums")

    def __init__(self) -> None:
        self.lines: list[bytes] = []  # of the manifest
        self.sums: list[bytes] = []
        self.records: list[bytes] = []  # the format's own
        self.entries = self.files = self.bytes_in = 0

    def add(self, entry: ManifestEntry | None, record: bytes) -> None:
        """`record` is the format's own note of the member. `entry` None: a closing member, not in the manifest."""
        self.records.append(record)
        if entry is None:
            return
        self.lines.append(entry.to_line())
        self.entries += 1
        if entry.sha256 is not None:
            self.sums.append(sums_line(entry.member.path, entry.sha256))
            self.files += 1
            self.bytes_in += entry.member.size


@dataclass(slots=True)
class Landing:
    """What a job made: bytes for the archive, and the members that are complete with them.

    `then` is called with the offset of `data` before that is written, and may still change the rest. `base` is the
    offset that the format's records count from; unset: that of `data`.
    """

    data: bytes | bytearray = b""
    listing: Listing | None = None
    then: Callable[[int], None] | None = None
    base: int | None = None


@frozen_record
class Small:
    """A member whose whole content waits in a batch. `listed` is False for the closing members."""

    member: Member
    content: bytes
    changed: bool
    listed: bool = True
    encryption: EntryEncryption | None = None

    def entry(self, sha256: bytes | None) -> ManifestEntry | None:
        return ManifestEntry(self.member, sha256, self.changed, self.encryption) if self.listed else None


class ArchiveWriter(ABC):
    """Writes one archive, member after member, then the checksums, the manifest and the format's end.

    `file` is an unbuffered binary file open for writing, at position 0; it stays the caller's to sync, rename and
    close. Only `rollback` needs one that can seek. `check` is called between blocks and in every wait and may raise;
    `on_written` gets the archive's size so far after each write. `created_ns` is the time of the closing members.

    For one thread. After an exception that is no MemberNotRepresentable only two things are allowed: `abort`, or, when
    it came from `add_stream`'s own `blocks`, `rollback` to a mark set directly before that member.
    """

    #: Longest path in bytes that the format can hold, or None without a limit.
    max_path: int | None = None

    #: How many bytes of small members go to one job, about.
    batch_size: int = BLOCK

    def __init__(
        self,
        file: io.RawIOBase,
        pool: CompressorPool,
        manifest: ManifestSpool,
        *,
        check: Callable[[], None],
        on_written: Callable[[int], None],
        created_ns: int,
    ) -> None:
        self._file = file
        self._manifest = manifest
        self._check = check
        self._on_written = on_written
        self._created_ns = created_ns
        self._jobs = pool.open(self._land, check)
        self._batch: list[Small] = []
        self._batch_size = 0
        self._position = 0
        self._stretches: list[Stretch] = []
        self._stretch_full = True  # what comes next begins another
        self._mark: Mark | None = None
        self._tentative: list[tuple[Listing, int]] = []
        self._roots: set[bytes] = set()
        self._sums = ByteSpool()
        self._members = self._files = self._bytes_in = 0
        self._open = True
        self._torn = False  # a member was left half written

    # -- for the core ---------------------------------------------------------------------------------------------

    @property
    def bytes_written(self) -> int:
        """The archive's size so far, without what is still being compressed."""
        return self._position

    @property
    def can_rollback(self) -> bool:
        """Whether `rollback` works: not where the file only goes forward."""
        return self._file.seekable()

    def add(
        self,
        member: Member,
        content: bytes = b"",
        *,
        changed: bool = False,
        encryption: EntryEncryption | None = None,
    ) -> None:
        """Add a directory, a link, or a file whose whole content is `content`; `encryption` goes into the manifest.

        Raises MemberNotRepresentable before any effect, ValueError when content and size disagree.
        """
        if len(content) != member.size or (content and member.kind is not MemberKind.FILE):
            raise ValueError("content and member.size disagree")
        self._begin(member)
        if len(content) > BLOCK:
            slices = (content[at : at + BLOCK] for at in range(0, len(content), BLOCK))
            self._stream(member, slices, lambda: (changed, encryption), listed=True)
        else:
            self._append(Small(member, content, changed, encryption=encryption))

    def add_stream(
        self,
        member: Member,
        blocks: Iterable[bytes | memoryview],
        *,
        changed: bool | Callable[[], bool] = False,
        encryption: Callable[[], EntryEncryption | None] = lambda: None,
    ) -> int:
        """Add a file of exactly `member.size` bytes from `blocks`; returns how many bytes these really gave.

        Too few are padded with zeros; too many are not taken. A block that is no `bytes` is copied at once, so its
        buffer may be reused. `changed` may be a function; it and `encryption` are asked after the last block was taken.
        """
        if member.kind is not MemberKind.FILE:
            raise ValueError("only files have content")
        self._begin(member)
        return self._stream(
            member, blocks, lambda: (changed() if callable(changed) else changed, encryption()), listed=True
        )

    def mark(self) -> Mark:
        """A place to return to. It holds until a second member is begun after it, or another mark is set."""
        self._require_sound()
        self._expire_mark()
        self._flush()
        mark = Mark()

        def reached(offset: int) -> None:
            mark.offset, mark.stretches = offset, len(self._stretches)
            self._stretch_full = True

        self._mark = mark
        self._jobs.put(Landing(then=reached))
        return mark

    def rollback(self, mark: Mark) -> None:
        """Take back the member added since `mark`, from file and manifest. The mark stays valid for another try.

        Raises ValueError for a mark that has expired, and io.UnsupportedOperation where the file cannot seek.
        """
        if mark is not self._mark or not self._open:
            raise ValueError("this mark has expired")
        self._batch.clear()
        self._batch_size = 0
        self._jobs.drain()
        self._file.seek(mark.offset)
        self._file.truncate(mark.offset)
        self._position = mark.offset
        del self._stretches[mark.stretches :]
        self._stretch_full = True
        self._tentative.clear()
        if mark.root is not None:
            self._roots.discard(mark.root)
        mark.begun, mark.root = False, None
        self._torn = False
        self._on_written(self._position)

    def finish(self, totals: Mapping[str, Any]) -> WrittenArchive:
        """Write the closing members and the format's end. Syncing and renaming the file is the caller's."""
        self._require_sound()
        self._expire_mark()
        self._flush()
        self._jobs.drain()
        self._manifest.finish(totals)
        sums_name = free_name(SUMS_NAME, self._roots)
        manifest_name = free_name(MANIFEST_NAME, self._roots)
        self._closing_member(sums_name, self._sums.size, self._sums.blocks())
        self._closing_member(manifest_name, self._manifest.size, self._manifest.blocks())
        self._end()
        self._flush()
        self._jobs.drain()
        self._jobs.close()
        self._open = False
        return WrittenArchive(
            self._position, self._members, self._files, self._bytes_in, manifest_name, sums_name, self._stretches
        )

    def abort(self) -> None:
        """Stop at once: no thread stays busy for this archive, no memory is held. The file is left as it is."""
        self._open = False
        self._jobs.abort()
        self._batch.clear()
        self._tentative.clear()

    # -- for the formats ------------------------------------------------------------------------------------------

    @abstractmethod
    def _require_representable(self, member: Member) -> None:
        """Raise MemberNotRepresentable, or ValueError for kinds that never go into the format."""

    @abstractmethod
    def _job(self, batch: list[Small]) -> Callable[[], Landing]:
        """The job that packs a batch."""

    @abstractmethod
    def _stream_start(self, member: Member) -> None:
        """Begin a file of more than one block; `_batch` may be extended."""

    @abstractmethod
    def _stream_block(self, block: bytes, *, last: bool) -> None:
        """The file's next block; all but the last have BLOCK bytes."""

    @abstractmethod
    def _stream_end(self, member: Member, entry: ManifestEntry | None) -> None:
        """The file is complete."""

    @abstractmethod
    def _keep(self, records: list[bytes], base: int) -> None:
        """The members of these records stay in the archive; their offsets count from `base`."""

    @abstractmethod
    def _end(self) -> None:
        """Write what follows the last member."""

    def _append(self, small: Small) -> None:
        self._batch.append(small)
        member = small.member
        self._batch_size += member.size + len(member.path) + len(member.link_target) + _MEMBER_COST
        if self._batch_size >= self.batch_size:
            self._flush()

    def _flush(self) -> None:
        """Hand the batch to the pool."""
        if self._batch:
            self._check()
            batch, size = self._batch, self._batch_size
            self._batch, self._batch_size = [], 0
            self._jobs.submit(self._job(batch), size)

    def _write(self, data: bytes | bytearray) -> None:
        """Append to the archive. A raw file may take less than it was given."""
        view = memoryview(data)
        while view:
            self._check()
            view = view[self._file.write(view[: 8 * BLOCK]) or 0 :]
        self._position += len(data)
        before = Stretch(0, 0) if self._stretch_full else self._stretches.pop()
        stretch = Stretch(before.size + len(data), isal_zlib.crc32(data, before.crc))
        self._stretches.append(stretch)
        self._stretch_full = stretch.size >= _STRETCH
        self._on_written(self._position)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _require_sound(self) -> None:
        if not self._open or self._torn:
            raise RuntimeError("this writer was finished or aborted, or its last member is incomplete")

    def _begin(self, member: Member) -> None:
        self._require_sound()
        if self.max_path is not None and len(member.path) > self.max_path:
            raise MemberNotRepresentable(f"a name of {len(member.path)} bytes is too long for this archive format")
        if len(member.path) > _DEPTH and member.path.count(b"/") >= _DEPTH:
            raise MemberNotRepresentable(f"it is nested deeper than {_DEPTH:,} folders, which no archive of ours holds")
        self._require_representable(member)
        mark = self._mark
        if mark is not None:
            if mark.begun:
                self._expire_mark()
                mark = None
            else:
                mark.begun = True
        root = member.path.partition(b"/")[0]
        if root.startswith(_CLOSING_NAMES) and root not in self._roots:
            self._roots.add(root)
            if mark is not None:
                mark.root = root

    def _expire_mark(self) -> None:
        self._mark = None
        for listing, base in self._tentative:
            self._list(listing, base)
        self._tentative.clear()

    def _stream(
        self,
        member: Member,
        blocks: Iterable[bytes | memoryview],
        marks: Callable[[], tuple[bool, EntryEncryption | None]],
        *,
        listed: bool,
    ) -> int:
        """`marks` gives the entry's `changed` and `encryption`, once the last block was taken."""
        self._torn = True
        taken = Taken(blocks, member.size, self._check)
        if member.size <= BLOCK:
            content = b"".join(taken)
            changed, encryption = marks()
            self._append(Small(member, content, changed, listed, encryption))
        else:
            self._stream_start(member)
            sha256 = hashlib.sha256()
            left = member.size
            for block in taken:
                sha256.update(block)
                left -= len(block)
                self._stream_block(block, last=not left)
            entry = ManifestEntry(member, sha256.digest(), *marks())
            self._stream_end(member, entry if listed else None)
        self._torn = False
        return taken.read

    def _closing_member(self, name: bytes, size: int, blocks: Iterable[bytes]) -> None:
        member = Member(name, MemberKind.FILE, mode=0o600, mtime_ns=self._created_ns, size=size)
        self._stream(member, blocks, lambda: (False, None), listed=False)

    def _land(self, landing: Landing) -> None:
        """Take a job's result: called in order, on the writer's thread."""
        offset = self._position
        if landing.then is not None:
            landing.then(offset)
        if landing.data:
            self._write(landing.data)
        if landing.listing is None:
            return
        base = offset if landing.base is None else landing.base
        if self._mark is not None and self._mark.offset >= 0:
            self._tentative.append((landing.listing, base))
        else:
            self._list(landing.listing, base)

    def _list(self, listing: Listing, base: int) -> None:
        self._keep(listing.records, base)
        if listing.entries:
            self._manifest.add_lines(listing.lines)
            self._sums.add(b"".join(listing.sums))
        self._members += listing.entries
        self._files += listing.files
        self._bytes_in += listing.bytes_in
