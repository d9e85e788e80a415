"""Backing up one source into one archive: scan, write, read back. Publishing it is `core.publish`.

Data's way: `storage.tree` walks the opened source, `core.reading` reads each file in one state, the `archive` writer
compresses in parallel into the `.partial`, and the strict reader then proves that what lies there is the source.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
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
from holdfast_server.core.selection import Selection
from holdfast_server.core.statistics import Statistics
from holdfast_server.core.wallet_files import LargeFile, StoredName, WalletFiles
from holdfast_server.errors import FailedPrecondition, Reason
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.storage.names import escape
from holdfast_server.storage.tree import EntryKind, ProblemReason, TreeEntry, TreeProblem, problem_from, walk
from holdfast_server.wallets.classify import SNIFF_SIZE, classify
from holdfast_server.wallets.envelope import ContentChanged, WalletKey
from holdfast_server.wallets.exposure import PARSE_LIMIT

__all__ = ["NAME_TOO_LONG", "ArchivePlan", "scan_source", "wallet_unlocked", "write_archive"]

#: What is missing from a backup when one of these happens; the rest are warnings only.
_MISSING = frozenset(
    {
        ProblemReason.PERMISSION_DENIED,
        ProblemReason.READ_ERROR,
        ProblemReason.VANISHED,
        ProblemReason.NOT_A_DIRECTORY_ANYMORE,
    }
)
#: What `on_source_error = FAIL` fails on: a file that vanished is no file of the source any more.
_UNREADABLE = frozenset({ProblemReason.PERMISSION_DENIED, ProblemReason.READ_ERROR})

CHANGED = "CHANGED_WHILE_READ"
NAME_TOO_LONG = "NAME_TOO_LONG"


@dataclass(frozen=True, slots=True)
class ArchivePlan:
    """What to back up, and what the manifest says about it."""

    backup_id: str
    name: str
    source_id: str
    source_kind: str
    display_name: str
    format: ArchiveFormat
    ignore: list[str]
    created_us: int
    software: str
    fail_on_error: bool = False
    #: Folders left out wherever the walk meets them: the service's own data.
    skip: frozenset[tuple[int, int]] = frozenset()
    #: The archive's own folder: meeting it below the source is an error.
    forbidden: frozenset[tuple[int, int]] = frozenset()
    #: Seal the archive to these; then it is written forward only, and nothing of it is on a disk in clear.
    recipients: Recipients | None = None
    #: Unlocked wallets other than the source, by (device, inode): their coins would go in as they are.
    unlocked: Mapping[tuple[int, int], str] = field(default_factory=dict)
    #: The key of an unlocked wallet: nothing that may show its coins goes in but as an envelope.
    wallet_key: WalletKey | None = field(default=None, repr=False)

    @property
    def is_wallet(self) -> bool:
        return self.source_kind == "WALLET"


def scan_source(source: OpenFolder, plan: ArchivePlan, control: Control) -> Statistics:
    """Count what a backup would hold, without opening a file. Problems are counted as warnings only."""
    selection, found = Selection(plan.ignore), Statistics()
    for item in walk(source.fd, keep=selection.keep, check=control.check, skip_identities=plan.skip):
        if isinstance(item, TreeProblem):
            _count_problem(found, item.reason)
        elif item.kind is EntryKind.FILE:
            found.files += 1
            found.original_size += item.size
        elif item.kind is EntryKind.DIRECTORY:
            _refuse_folder(plan, item)
            found.directories += 1
        else:
            found.symlinks += 1
    found.files_ignored = selection.ignored
    return found


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
        job = _ArchiveJob(plan, guarded, control, progress, report)
        job.add_tree(source)
        return job.statistics

    return produce(shape, fill, partial_fd, pool, control, progress)


class _ArchiveJob:
    """One run over the source's tree into a writer."""

    def __init__(
        self,
        plan: ArchivePlan,
        writer: ArchiveWriter | PlaintextGuard,
        control: Control,
        progress: Progress,
        report: Callable[[Problem], None],
    ) -> None:
        self._plan = plan
        self._writer = writer
        self._control = control
        self._progress = progress
        self._report = report
        self._selection = Selection(plan.ignore)
        self._links: dict[tuple[int, int], StoredName] = {}
        self._files = WalletFiles(plan.wallet_key)
        self._held = PARSE_LIMIT if plan.is_wallet else SMALL_FILE
        self.statistics = Statistics(census=self._files.census if plan.is_wallet else None)

    def add_tree(self, source: OpenFolder) -> None:
        for item in walk(
            source.fd, keep=self._selection.keep, check=self._control.check, skip_identities=self._plan.skip
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
            _refuse_folder(self._plan, entry)
            self._writer.add(_member(entry.path, MemberKind.DIRECTORY, entry.stat))
            self.statistics.directories += 1
        elif entry.kind is EntryKind.SYMLINK:
            self._writer.add(_member(entry.path, MemberKind.SYMLINK, entry.stat, target=entry.link_target))
            self.statistics.symlinks += 1
        elif not self._add_hardlink(entry):
            try:
                self._add_file(entry)
            except OSError as error:
                problem = problem_from(entry.path, error, "cannot be read")
                self._problem(problem.path, problem.reason, problem.message)

    def _add_hardlink(self, entry: TreeEntry) -> bool:
        """A further name of a file that is in the archive already; zip has no such thing and stores copies."""
        if entry.nlink < 2 or not self._plan.format.has_hardlinks:
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
                    member = _large_member(large, reader)
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

    def _problem(self, path: bytes, reason: ProblemReason, message: str) -> None:
        if reason in _UNREADABLE and self._plan.fail_on_error:
            raise FailedPrecondition(
                Reason.SOURCE_UNREADABLE,
                f"source {self._plan.source_id}: {message}",
                metadata={"source_id": self._plan.source_id, "path": escape(path), "problem": reason.value},
            )
        _count_problem(self.statistics, reason)
        if reason is not ProblemReason.SERVICE_DATA_SKIPPED:
            self._report(Problem(path, reason.value, message))

    def _warn(self, path: bytes, reason: str, message: str) -> None:
        self.statistics.warnings += 1
        self._report(Problem(path, reason, message))


def _count_problem(found: Statistics, reason: ProblemReason) -> None:
    if reason is ProblemReason.SERVICE_DATA_SKIPPED:
        return  # by design, and said in the docs: no warning at every backup of a parent folder
    found.warnings += 1
    if reason in _MISSING:
        found.complete = False
        found.files_skipped += 1
        found.wallet.skip()


def _refuse_folder(plan: ArchivePlan, entry: TreeEntry) -> None:
    identity = (entry.dev, entry.ino)
    if identity in plan.forbidden:
        raise FailedPrecondition(
            Reason.FOLDER_INSIDE_SOURCE,
            f"the archive's folder lies inside source {plan.source_id}, at {escape(entry.path)}",
            metadata={"source_id": plan.source_id, "path": escape(entry.path)},
        )
    if identity in plan.unlocked:
        raise wallet_unlocked(plan.source_id, plan.unlocked[identity], escape(entry.path))


def wallet_unlocked(source_id: str, wallet_id: str, path: str) -> FailedPrecondition:
    """The source holds another wallet, or lies in it, whose coins are to be stored encrypted only."""
    return FailedPrecondition(
        Reason.WALLET_UNLOCKED,
        f"source {source_id} holds coins of wallet {wallet_id}, at {path}, which is unlocked: here they would be "
        "stored in clear",
        metadata={"source_id": source_id, "wallet_id": wallet_id, "path": path},
    )


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
