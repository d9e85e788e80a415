"""Backing up one source into a snapshot: the walk, what is read, what the files cache spares.

Directories take the short way (`_DirectoryJob`): a file that is as it was when it was last stored is not opened. A
wallet's files are always read, because its coins are counted, and go the way of archives (`core.backup.MemberJob`), so
that an unlocked wallet is encrypted, and guarded, by the same code.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from blake3 import blake3

from holdfast_server.archive.writer import ArchiveWriter
from holdfast_server.core.backup import NAME_TOO_LONG, MemberJob
from holdfast_server.core.control import Control, Problem, Progress
from holdfast_server.core.plaintext_guard import PlaintextGuard
from holdfast_server.core.reading import TRIES, FileReader, file_state, is_sparse, read_small, read_unchanged
from holdfast_server.core.snapshot_members import SnapshotMembers
from holdfast_server.core.source_entries import SourceEntries
from holdfast_server.core.source_job import CHANGED, BackupPlan, SourceJob, refuse_folder
from holdfast_server.core.source_process import FoundFile
from holdfast_server.core.statistics import Statistics
from holdfast_server.repository import (
    LARGE_FILE,
    EntryFlag,
    EntryKind,
    SnapshotWriter,
    encode_entry,
    encode_extras,
    folder_tail,
    link_tail,
)
from holdfast_server.storage.descent import Level
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.storage.names import escape
from holdfast_server.storage.tree import (
    EntryKind as SourceKind,
)
from holdfast_server.storage.tree import ProblemReason, TreeEntry, TreeProblem, Xattrs, problem_from, read_xattrs

__all__ = ["CacheScope", "write_entries"]

_FILE, _DIRECTORY, _SYMLINK, _HARDLINK = (int(kind) for kind in EntryKind)
_SPARSE, _CHANGED, _XATTRS = (int(flag) for flag in (EntryFlag.SPARSE, EntryFlag.CHANGED, EntryFlag.XATTRS))
#: Extended attributes of one entry together, at most.
_XATTRS_MAX: Final = 1 << 20
#: Small files are shown as the present one now and then: nobody sees them all.
_SHOWN_SIZE: Final = 64 << 10
_SHOWN_EVERY: Final = 15
#: The longest path of a folder: one below it must fit into a page of the tree.
_FOLDER_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class CacheScope:
    """The part of a files cache that belongs to a source under one transformation.

    `key` (32 bytes) hashes what a file looked like. `safe_before_ns`: a file that changed later than this may change
    again without looking different, and is read next time too.
    """

    key: bytes
    safe_before_ns: int


def write_entries(
    source: OpenFolder,
    plan: BackupPlan,
    writer: SnapshotWriter,
    cache: CacheScope,
    control: Control,
    progress: Progress,
    report: Callable[[Problem], None],
) -> Statistics:
    """Hand every entry of the source to the writer, in the tree's order.

    Raises Stopped when asked to, FailedPrecondition (SOURCE_UNREADABLE with `fail_on_error`, FOLDER_INSIDE_SOURCE,
    WALLET_UNLOCKED), DataLoss/PLAINTEXT_COIN, and what the store raises.
    """
    if not plan.is_wallet:
        job = _DirectoryJob(plan, writer, cache, control, progress, report)
        job.add_tree(source)
        return job.statistics
    members = SnapshotMembers(writer, control)
    taken = cast(ArchiveWriter, members)
    guarded = PlaintextGuard(taken, plan.wallet_key) if plan.wallet_key else taken
    whole = MemberJob(plan, guarded, control, progress, report, has_hardlinks=True, by_directory=True)
    whole.add_tree(source)
    members.settle()
    return whole.statistics


class _DirectoryJob(SourceJob):
    """One run over a directory's tree."""

    def __init__(
        self,
        plan: BackupPlan,
        writer: SnapshotWriter,
        cache: CacheScope,
        control: Control,
        progress: Progress,
        report: Callable[[Problem], None],
    ) -> None:
        super().__init__(plan, control, progress, report)
        self._writer = writer
        self._cache_key, self._safe_before_ns = cache.key, cache.safe_before_ns
        self._links: dict[tuple[int, int], bytes] = {}
        self._folder = b""
        #: Of the files that were looked up lately: how many had to be read, less how many were known.
        self._unknown = 0
        self._wanted = True

    def add_tree(self, source: OpenFolder) -> None:
        plan = self._plan
        entries = SourceEntries(
            source, plan.ignore, plan.skip, self._cache_key, self._tell, self._wants_content, self._control.check
        )
        with contextlib.closing(iter(entries)) as found:
            for entry in found:
                self._folder = entries.folder
                if len(self._folder) > _FOLDER_MAX:
                    self._leave_out(entry)
                elif isinstance(entry, TreeEntry):
                    self._add(entry)
                else:
                    self._add_found(entry, entries)
        self.statistics.files_ignored = entries.ignored

    def _wants_content(self) -> bool:
        """Whether more files have to be read than not; where none was looked up, what was so before."""
        if self._unknown:
            self._wanted, self._unknown = self._unknown > 0, 0
        return self._wanted

    def _tell(self, problem: TreeProblem) -> None:
        self._problem(problem.path, problem.reason, problem.message)

    def _path(self, name: bytes) -> bytes:
        return self._folder + b"/" + name if self._folder else name

    def _add(self, entry: TreeEntry) -> None:
        try:
            if entry.kind is SourceKind.FILE:
                self._add_file(entry)
            else:
                self._add_other(entry)
        except OSError as error:
            self._tell(problem_from(entry.path, error, "cannot be read"))

    def _add_found(self, found: FoundFile, entries: SourceEntries) -> None:
        """A regular file with one name, that was looked at elsewhere and perhaps read."""
        name, key, mode, uid, gid, mtime_ns, ctime_ns, size, sparse, content, attributes = found
        known = self._writer.cached(key)
        if known is not None:
            self._show(name, size)
            self._add_known(name, mode, uid, gid, mtime_ns, key, known)
        elif content is None:
            self._add_unread(self._path(name), name, entries.level)
            return
        else:
            self._unknown += 1
            self._show(name, size)
            flags, extras = self._extras(self._path(name), attributes)
            self._writer.add_small(
                self._folder, name, flags | _SPARSE if sparse else flags, mode, uid, gid, mtime_ns, content, extras,
                key if ctime_ns < self._safe_before_ns else None,
            )  # fmt: skip
        self._progress.count(size, 1)
        counted = self.statistics
        counted.files += 1
        counted.original_size += size

    def _add_known(
        self, name: bytes, mode: int, uid: int, gid: int, mtime_ns: int, key: bytes, known: tuple[int, bytes, bytes]
    ) -> None:
        """A file that is as it was when it was last stored."""
        self._unknown -= 1
        flags, tail, value = known
        record = encode_entry(_FILE, flags, mode, uid, gid, mtime_ns, name, tail)
        self._writer.add_cached(self._folder, name, record, key, value)

    def _add_unread(self, path: bytes, name: bytes, level: Level) -> None:
        """A file that has to be looked at again and read: it is large, or changed just now."""
        try:
            status = os.stat(name, dir_fd=level.fd, follow_symlinks=False)
        except OSError as error:
            self._tell(problem_from(path, error, "cannot be examined"))
            return
        if stat.S_ISREG(status.st_mode):
            self._add(TreeEntry(path, name, SourceKind.FILE, status, b"", level))
        else:
            text = f"{escape(path)} was a file and was replaced while the tree was read"
            self._tell(TreeProblem(path, ProblemReason.VANISHED, text))

    def _leave_out(self, entry: TreeEntry | FoundFile) -> None:
        self.statistics.complete = False
        self.statistics.files_skipped += 1
        path = entry.path if isinstance(entry, TreeEntry) else self._path(entry[0])
        text = f"its folder's path has {len(self._folder)} bytes, a snapshot holds {_FOLDER_MAX}"
        self._warn(path, NAME_TOO_LONG, text)

    def _add_other(self, entry: TreeEntry) -> None:
        flags, extras = self._extras(entry.path, entry.xattrs())
        if entry.kind is SourceKind.DIRECTORY:
            refuse_folder(self._plan, entry)
            kind, tail = _DIRECTORY, folder_tail() + extras
            self.statistics.directories += 1
        else:
            kind, tail = _SYMLINK, link_tail(entry.link_target) + extras
            self.statistics.symlinks += 1
        self._add_entry(entry, kind, flags, tail)

    def _add_entry(self, entry: TreeEntry, kind: int, flags: int, tail: bytes) -> None:
        status = entry.stat
        record = encode_entry(
            kind, flags, status.st_mode & 0o7777, status.st_uid, status.st_gid, status.st_mtime_ns, entry.name, tail
        )
        self._writer.add_entry(self._folder, entry.name, record)

    def _show(self, name: bytes, size: int) -> None:
        """Show a file of the present folder as the present one."""
        if size >= _SHOWN_SIZE or not self.statistics.files & _SHOWN_EVERY:
            self._progress.current_file = self._path(name)

    def _add_file(self, entry: TreeEntry) -> None:
        status = entry.stat
        size = status.st_size
        self._show(entry.name, size)
        if status.st_nlink > 1 and self._add_hardlink(entry):
            return
        state = file_state(status)
        key = blake3(entry.path + state, key=self._cache_key).digest(16)
        known = self._writer.cached(key)
        if known is not None:
            mode = status.st_mode & 0o7777
            self._add_known(entry.name, mode, status.st_uid, status.st_gid, status.st_mtime_ns, key, known)
            self._count(entry, status, size, changed=False)
            self._progress.count(size, 1)
        elif size < LARGE_FILE:
            self._unknown += 1
            self._add_small(entry, key, state)
        else:
            self._add_large(entry, key)

    def _add_hardlink(self, entry: TreeEntry) -> bool:
        """A further name of a file that is in the snapshot already."""
        first = self._links.get((entry.dev, entry.ino))
        if first is None:
            return False
        self._add_entry(entry, _HARDLINK, 0, link_tail(first))
        self.statistics.hardlinks += 1
        self._progress.advance(entry.size, 1)
        return True

    def _add_small(self, entry: TreeEntry, key: bytes | None, state: bytes) -> None:
        status, changed = entry.stat, False
        found = read_unchanged(entry.parent.fd, entry.name, state)
        if found is not None:
            content, attributes = found
        else:
            # Something happened to it since it was listed: what was remembered of it then is void.
            stable = read_small(entry, self._control.wait, LARGE_FILE - 1)
            if stable is None:
                self._add_large(entry, None)
                return
            content, status, changed, key = stable.data, stable.stat, stable.changed, None
            attributes = entry.xattrs()
        flags, extras = self._extras(entry.path, attributes)
        if status.st_blocks * 512 < status.st_size:
            flags |= _SPARSE
        if changed:
            flags |= _CHANGED
        if status.st_ctime_ns >= self._safe_before_ns:
            key = None
        self._writer.add_small(
            self._folder, entry.name, flags, status.st_mode & 0o7777, status.st_uid, status.st_gid,
            status.st_mtime_ns, content, extras, key,
        )  # fmt: skip
        self._progress.count(len(content), 1)
        self._count(entry, status, len(content), changed=changed)

    def _add_large(self, entry: TreeEntry, key: bytes | None) -> None:
        for attempt in range(1, TRIES + 1):
            counted = self._progress.original_size
            with FileReader(entry) as reader:
                stored = self._writer.store_content(self._counted(reader))
                before, attributes = reader.before, read_xattrs(reader.fd)
                changed = stored.size != before.st_size or reader.changed
            if not changed or attempt == TRIES:
                break
            self._progress.original_size = counted
            self._control.wait(0.1 * attempt)
        flags, extras = self._extras(entry.path, attributes)
        flags |= (_SPARSE if is_sparse(before) else 0) | (_CHANGED if changed else 0)
        same = before.st_ino == entry.ino and before.st_ctime_ns == entry.ctime_ns
        if changed or not same or before.st_ctime_ns >= self._safe_before_ns:
            key = None
        self._writer.add_large(
            self._folder, entry.name, flags, before.st_mode & 0o7777, before.st_uid, before.st_gid, before.st_mtime_ns,
            stored, extras, key,
        )  # fmt: skip
        self._progress.count(0, 1)
        self._count(entry, before, stored.size, changed=changed)

    def _counted(self, reader: FileReader) -> Callable[[memoryview], int]:
        def fill(view: memoryview) -> int:
            self._control.check()
            count = reader.fill(view)
            self._progress.count(abs(count))
            return count

        return fill

    def _count(self, entry: TreeEntry, status: os.stat_result, size: int, *, changed: bool) -> None:
        found = self.statistics
        found.files += 1
        found.original_size += size
        if status.st_nlink > 1 and not changed:
            self._links[status.st_dev, status.st_ino] = entry.path
        if changed:
            text = f"{escape(entry.path)} changed while it was read, {TRIES} times; it may mix two states"
            self._warn(entry.path, CHANGED, text)

    def _extras(self, path: bytes, attributes: Xattrs) -> tuple[int, bytes]:
        """Flag and record of extended attributes."""
        if not attributes:
            return 0, b""
        size = sum(len(name) + len(value) for name, value in attributes)
        if size > _XATTRS_MAX:
            text = f"{escape(path)} has {size} bytes of extended attributes; they are left out"
            self._warn(path, "XATTRS_TOO_LARGE", text)
            return 0, b""
        return _XATTRS, encode_extras(attributes, None)
