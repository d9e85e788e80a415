"""Backing up one source into one archive: scan, write, read back. Publishing it is `core.publish`.

Data's way: `storage.tree` walks the opened source, `core.reading` reads each file in one state, the `archive` writer
compresses in parallel into the `.partial`, and the strict reader then proves that what lies there is the source.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.manifest import EntryEncryption, format_mtime
from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.archive.sealing import Recipients
from holdfast_server.archive.writer import ArchiveWriter, MemberNotRepresentable
from holdfast_server.core.archive_file import ArchiveShape, ProvedArchive, produce
from holdfast_server.core.control import Control, Problem, Progress
from holdfast_server.core.plaintext_guard import PlaintextGuard
from holdfast_server.core.reading import SMALL_FILE, TRIES, FileReader, StableContent, is_sparse, read_small
from holdfast_server.core.source_job import CHANGED, BackupPlan, SourceJob, refuse_folder
from holdfast_server.core.statistics import Statistics
from holdfast_server.core.wallet_files import LargeFile, StoredName, WalletFiles
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.storage.names import escape
from holdfast_server.storage.tree import EntryKind, TreeEntry, TreeProblem, problem_from, walk
from holdfast_server.wallets.classify import SNIFF_SIZE, classify
from holdfast_server.wallets.envelope import ContentChanged
from holdfast_server.wallets.exposure import PARSE_LIMIT

__all__ = ["NAME_TOO_LONG", "ArchivePlan", "MemberJob", "write_archive"]

NAME_TOO_LONG = "NAME_TOO_LONG"


@dataclass(frozen=True, slots=True)
class ArchivePlan(BackupPlan):
    """What to back up into one archive file."""

    format: ArchiveFormat = field(kw_only=True)
    #: Seal the archive to these; then it is written forward only, and nothing of it is on a disk in clear.
    recipients: Recipients | None = field(default=None, kw_only=True)


def write_archive(
    source: OpenFolder,
    plan: ArchivePlan,
    partial_fd: int,
    pool: CompressorPool,
    control: Control,
    progress: Progress,
    report: Callable[[Problem], None],
) -> ProvedArchive:
    """Write the source into the open, empty file, sync it and read it back.

    Raises Stopped when asked to, FailedPrecondition (SOURCE_UNREADABLE with `fail_on_error`, FOLDER_INSIDE_SOURCE),
    DataLoss (CHECKSUM_MISMATCH when what was read back is not what was written, PLAINTEXT_COIN when a coin of an
    unlocked wallet was about to be stored in clear), ResourceExhausted/DISK_FULL and the like for the archive's own
    disk. The file is the caller's to remove then.
    """
    shape = ArchiveShape(
        plan.format, _manifest_header(source, plan), plan.created_us, plan.recipients, is_wallet=plan.is_wallet
    )

    def fill(writer: ArchiveWriter) -> Statistics:
        guarded = PlaintextGuard(writer, plan.wallet_key) if plan.wallet_key else writer
        job = MemberJob(plan, guarded, control, progress, report, has_hardlinks=plan.format.has_hardlinks)
        job.add_tree(source)
        return job.statistics

    return produce(shape, fill, partial_fd, pool, control, progress)


class MemberJob(SourceJob):
    """One run over the source's tree into a writer of members. `by_directory`: in the order of `walk` of that name."""

    def __init__(
        self,
        plan: BackupPlan,
        writer: ArchiveWriter | PlaintextGuard,
        control: Control,
        progress: Progress,
        report: Callable[[Problem], None],
        *,
        has_hardlinks: bool,
        by_directory: bool = False,
    ) -> None:
        super().__init__(plan, control, progress, report)
        self._writer = writer
        self._has_hardlinks = has_hardlinks
        self._by_directory = by_directory
        self._links: dict[tuple[int, int], StoredName] = {}
        self._files = WalletFiles(plan.wallet_key)
        self._held = PARSE_LIMIT if plan.is_wallet else SMALL_FILE
        self.statistics.census = self._files.census if plan.is_wallet else None

    def add_tree(self, source: OpenFolder) -> None:
        for item in walk(
            source.fd,
            keep=self._selection.keep,
            check=self._control.check,
            skip_identities=self._plan.skip,
            by_directory=self._by_directory,
        ):
            if isinstance(item, TreeProblem):
                self._problem(item.path, item.reason, item.message)
                continue
            try:
                self._add(item)
            except MemberNotRepresentable as error:
                self.statistics.complete = False
                self.statistics.files_skipped += 1
                self._warn(item.path, NAME_TOO_LONG, f"the archive format cannot hold this entry: {error}")
        self.statistics.files_ignored = self._selection.ignored

    def _add(self, entry: TreeEntry) -> None:
        self._progress.current_file = entry.path
        if entry.kind is EntryKind.DIRECTORY:
            refuse_folder(self._plan, entry)
            self._writer.add(self._with_xattrs(entry, _member(entry.path, MemberKind.DIRECTORY, entry.stat)))
            self.statistics.directories += 1
        elif entry.kind is EntryKind.SYMLINK:
            member = _member(entry.path, MemberKind.SYMLINK, entry.stat, target=entry.link_target)
            self._writer.add(self._with_xattrs(entry, member))
            self.statistics.symlinks += 1
        elif not self._add_hardlink(entry):
            try:
                self._add_file(entry)
            except OSError as error:
                problem = problem_from(entry.path, error, "cannot be read")
                self._problem(problem.path, problem.reason, problem.message)

    def _with_xattrs(self, entry: TreeEntry, member: Member) -> Member:
        """The member with its extended attributes, which snapshots keep and archives do not."""
        if not self._by_directory:
            return member
        try:
            return replace(member, xattrs=entry.xattrs())
        except OSError as error:
            text = f"the extended attributes of {escape(entry.path)} cannot be read: {error.strerror}"
            self._warn(entry.path, "XATTRS_UNREADABLE", text)
            return member

    def _add_hardlink(self, entry: TreeEntry) -> bool:
        """A further name of a file that is in the archive already; zip has no such thing and stores copies."""
        if entry.nlink < 2 or not self._has_hardlinks:
            return False
        first = self._links.get((entry.dev, entry.ino))
        named = self._files.link_path(entry, first) if first else None
        if first is None or named is None:
            return False
        path, original = named
        encryption = replace(first.encryption, path=original) if first.encryption else None
        self._writer.add(_member(path, MemberKind.HARDLINK, entry.stat, target=first.path), encryption=encryption)
        self.statistics.hardlinks += 1
        self._files.count_link(entry.path, first)
        self._progress.advance(entry.size, 1)
        return True

    def _add_file(self, entry: TreeEntry) -> None:
        if entry.size <= self._held:
            content = read_small(entry, self._control.wait, self._held)
            if content is not None:
                self._add_held_file(entry, content)
                return
        self._add_large_file(entry)

    def _add_held_file(self, entry: TreeEntry, content: StableContent) -> None:
        data, encryption, stored = content.data, None, None
        path = entry.path
        if self._plan.is_wallet:
            stored = self._files.store(entry, content.data)
            path, data, encryption = stored.path, stored.content, stored.encryption
        member = _member(path, MemberKind.FILE, content.stat, size=len(data), encrypted=encryption is not None)
        member = self._with_xattrs(entry, member)
        self._writer.add(member, data, changed=content.changed, encryption=encryption)
        self._progress.count(len(content.data), 1)
        self._added(entry, member, content.data[:SNIFF_SIZE], encryption, content.changed)
        if stored:
            self._files.count(entry.path, stored.coins)
        if content.stat.st_nlink > 1 and not content.changed:
            self._links[content.stat.st_dev, content.stat.st_ino] = (
                StoredName.of(stored) if stored else StoredName(path)
            )

    def _add_large_file(self, entry: TreeEntry) -> None:
        if not self._writer.can_rollback:
            self._add_large_file_once(entry)
            return
        mark = self._writer.mark()
        for attempt in range(1, TRIES + 1):
            counted = self._progress.original_size
            with FileReader(entry) as reader:
                last_try = attempt == TRIES
                try:
                    large = self._files.store_large(entry, reader, None if last_try else self._control.check)
                    member = self._with_xattrs(entry, _large_member(large, reader))
                    self._writer.add_stream(
                        member,
                        large.blocks(self._counted_blocks(reader)),
                        changed=(lambda source=reader: source.changed) if last_try else False,  # type: ignore[misc]
                        encryption=large.encryption,
                    )
                    changed = large.read != large.plain_size or reader.changed
                except ContentChanged:
                    changed = True
                except OSError:
                    self._writer.rollback(mark)
                    raise
                if not changed or last_try:
                    self._added_large(entry, member, large, reader, changed=changed)
                    return
            self._writer.rollback(mark)
            self._progress.original_size = counted
            self._control.wait(0.1 * attempt)

    def _add_large_file_once(self, entry: TreeEntry) -> None:
        """Into an archive that takes nothing back: what could not be read becomes zeros, and the entry says so."""
        failure: list[OSError] = []

        def blocks() -> Iterator[bytes]:
            try:
                yield from self._counted_blocks(reader)
            except OSError as error:
                failure.append(error)

        with FileReader(entry) as reader:
            large = self._files.store_large(entry, reader, None)
            member = _large_member(large, reader)
            self._writer.add_stream(
                member,
                large.blocks(blocks()),
                changed=lambda: bool(failure) or reader.changed,
                encryption=large.encryption,
            )
            changed = not failure and (large.read != large.plain_size or reader.changed)
            self._added_large(entry, member, large, reader, changed=changed)
        if failure:
            problem = problem_from(entry.path, failure[0], f"cannot be read past {large.read} bytes; the rest is zeros")
            self._problem(problem.path, problem.reason, problem.message)

    def _counted_blocks(self, reader: FileReader) -> Iterator[bytes]:
        for block in reader.blocks():
            self._control.check()
            self._progress.count(len(block))  # before the yield: the writer asks for no block past the last
            yield block

    def _added_large(
        self, entry: TreeEntry, member: Member, large: LargeFile, reader: FileReader, *, changed: bool
    ) -> None:
        self._progress.count(0, 1)
        first = os.pread(reader.fd, SNIFF_SIZE, 0) if self._plan.is_wallet else b""
        encryption = large.encryption()
        self._added(entry, member, first, encryption, changed)
        if reader.before.st_nlink > 1 and not changed:
            self._links[reader.before.st_dev, reader.before.st_ino] = StoredName(large.path, encryption)

    def _added(
        self, entry: TreeEntry, member: Member, first: bytes, encryption: EntryEncryption | None, changed: bool
    ) -> None:
        """Count a file that is in the archive; `first` are its first bytes in the source."""
        found = self.statistics
        found.files += 1
        found.original_size += member.size
        if encryption is not None:
            found.key_ids.add(encryption.key_id)
        if self._plan.is_wallet:
            size = encryption.size if encryption else member.size
            found.wallet.add(classify(entry.path, size, first), reencrypted=encryption is not None)
        if changed:
            times = f"{TRIES} times" if self._writer.can_rollback else "into an archive that takes nothing back"
            text = f"{escape(entry.path)} changed while it was read, {times}; it may mix two states"
            self._warn(entry.path, CHANGED, text)


def _large_member(large: LargeFile, reader: FileReader) -> Member:
    encrypted = large.size != large.plain_size
    return _member(large.path, MemberKind.FILE, reader.before, size=large.size, encrypted=encrypted)


def _member(
    path: bytes,
    kind: MemberKind,
    status: os.stat_result,
    *,
    size: int = 0,
    target: bytes = b"",
    encrypted: bool = False,
) -> Member:
    return Member(
        path=path,
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        mtime_ns=status.st_mtime_ns,
        uid=status.st_uid,
        gid=status.st_gid,
        size=size,
        link_target=target,
        sparse=kind is MemberKind.FILE and not encrypted and is_sparse(status),
    )


def _manifest_header(source: OpenFolder, plan: ArchivePlan) -> dict[str, Any]:
    root = os.fstat(source.fd)
    return {
        "backup_id": plan.backup_id,
        "name": plan.name,
        "source": {"source_id": plan.source_id, "kind": plan.source_kind, "display_name": plan.display_name},
        "archive_format": plan.format.value,
        "create_time": datetime.fromtimestamp(plan.created_us / 1e6, UTC).isoformat().replace("+00:00", "Z"),
        "software": plan.software,
        "ignore": plan.ignore,
        "root": {
            "mode": f"{stat.S_IMODE(root.st_mode):04o}",
            "mtime": format_mtime(root.st_mtime_ns),
            "uid": root.st_uid,
            "gid": root.st_gid,
        },
    }
