"""Restoring an archive into a folder, strictly below it and only what the manifest vouches for.

The order is: directories and files as they come, hard links to files that are there already, then, once the manifest
is known to agree with all of it, symbolic links, and last the attributes of directories. So nothing is ever created
through a link of the archive. The caller extracts into a staging folder of its own, discards it on any exception, and
makes it durable by one syncfs: nothing is synced here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from holdfast_server.archive.comparison import Outcome, run
from holdfast_server.archive.manifest import ManifestEntry, ProvedManifest, pack, unpack
from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.archive.reading import ArchiveReader, Budget, Limits, Report, invalid, leaves_on_windows, show
from holdfast_server.archive.sink import LeftOut, Progress, Sink
from holdfast_server.archive.spool import RecordSpool
from holdfast_server.archive.tree import Tree, changed_by_others, system_errors

__all__ = ["SPECIAL_BITS", "Arrange", "Extracted", "allowance", "dropped_bits", "extract", "ignore"]

_HOLE = 64 << 10
_ZEROS = bytes(_HOLE)
_MAX_WARNINGS = 100
SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
_REOPEN = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


#: Makes out of what was proved and lies in the tree what is wanted of it; gets the manifest if there is one.
Arrange = Callable[[Tree, ProvedManifest | None], None]


def ignore(path: bytes, what: str, whole: bool) -> None:
    """A report that nobody reads."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """What was restored, or by a survey would be. `bytes` counts file contents.

    `warnings` is text for people: one for each kind of thing in the archive that a restore does not apply (extended
    attributes, devices, …), and then the first 100 about single entries.
    """

    files: int
    directories: int
    symlinks: int
    hardlinks: int
    bytes: int
    manifest_header: Mapping[str, Any] | None
    manifest_totals: Mapping[str, Any] | None
    warnings: tuple[str, ...]
    warning_count: int


def extract(
    reader: ArchiveReader,
    root_fd: int,
    *,
    check: Callable[[], None],
    on_progress: Progress = lambda _bytes, _files, _path: None,
    select: Callable[[bytes], bool] | None = None,
    preserve_owner: bool = False,
    preserve_special_bits: bool = False,
    expect_manifest: bool = True,
    report: Report = ignore,
    max_bytes: int | None = None,
    arrange: Arrange | None = None,
) -> Extracted:
    """Restore the members for which `select` holds (all without it) below the opened, empty directory `root_fd`.

    Nothing outside of it is created or changed, whatever the archive says and whatever others do to the folder
    meanwhile. Files are hashed while they are written and compared with the manifest, and so are all headers; the
    manifest and the list of checksums are not restored. `select` must be a pure function of the path; parents of
    selected members are made in any case, with the archive's attributes only if selected too. Set-id and sticky bits
    are dropped unless `preserve_special_bits`; owners are set only with `preserve_owner`, which needs root. `report` is
    told of what the tree lacks: of every entry as a whole or of its bits, of other attributes once for each kind.
    `max_bytes` bounds the content of the selected files, as it is really unpacked. `arrange` is called once all of it
    is proved and in place, with the manifest if there is one. Folders get their attributes after it: what it makes and
    removes in them does not show in their times.

    Raises FailedPrecondition (ARCHIVE_INVALID, FOLDER_NOT_WRITABLE), DataLoss, ResourceExhausted, Unavailable, or what
    `check` raises. After any exception the folder's content is worthless.
    """
    sink = _Extractor(root_fd, select, check, preserve_owner, preserve_special_bits, report, max_bytes)
    try:
        outcome = run(
            reader,
            sink,
            check=check,
            on_progress=on_progress,
            expect_manifest=expect_manifest,
            keep_manifest=arrange is not None,
        )
        if sink.take_unselected_targets():
            run(
                reader,
                sink,
                check=check,
                on_progress=lambda _bytes, _files, _path: None,
                expect_manifest=expect_manifest,
            )
        sink.finish_entries(outcome)
        if arrange is not None:
            arrange(sink.tree, _proved_manifest(reader, outcome))
        sink.finish_directories()
    finally:
        sink.abort()
    return Extracted(
        files=sink.files,
        directories=sink.tree.directories,
        symlinks=sink.symlinks,
        hardlinks=sink.hardlinks,
        bytes=sink.bytes,
        manifest_header=outcome.header,
        manifest_totals=outcome.totals,
        warnings=(*sink.lost.texts(), *sink.warnings),
        warning_count=sink.warning_count + len(sink.lost.texts()),
    )


class _Extractor(Sink):
    def __init__(
        self,
        root_fd: int,
        select: Callable[[bytes], bool] | None,
        check: Callable[[], None],
        preserve_owner: bool,
        preserve_special_bits: bool,
        report: Report,
        max_bytes: int | None,
    ) -> None:
        self.tree = Tree(root_fd)
        self.files = self.symlinks = self.hardlinks = self.bytes = 0
        self.warnings: list[str] = []
        self.warning_count = 0
        self._select = select or (lambda _path: True)
        self._check = check
        self._preserve_owner = preserve_owner
        self._mode_mask = 0o7777 if preserve_special_bits else 0o7777 & ~SPECIAL_BITS
        self._links = RecordSpool()
        self._holed = RecordSpool()
        #: Files outside the selection that selected hard links refer to, with those links' paths.
        self._unselected: dict[bytes, list[bytes]] = {}
        self.lost = LeftOut(report)
        self._report = report
        self._allowance = allowance(max_bytes)
        self._windows: bytes | None = None
        self._more_links: list[bytes] = []
        self._second_pass = False
        self._fd = -1
        self._file: Member | None = None
        self._make_holes = self._has_holes = self._wait_for_manifest = False
        self._position = 0

    def wants(self, member: Member) -> bool:
        if self._second_pass:
            return member.path in self._unselected
        return self._select(member.path)

    def begin(self, member: Member, expected: ManifestEntry | None) -> None:
        wanted = expected.member if expected is not None else member
        if self._windows is None and leaves_on_windows(member.path):
            self._windows = member.path
        if self._second_pass:
            first, *self._more_links = self._unselected[member.path]
            wanted = replace(wanted, path=first)
        if member.kind is MemberKind.DIRECTORY:
            self.tree.add_directory(wanted)
        elif member.kind is MemberKind.FILE:
            # Before a tar's manifest is read nobody knows whether the file is sparse: holes first, filled later.
            self._make_holes = expected is None or wanted.sparse
            self._wait_for_manifest = expected is None
            self._create(wanted)
        elif member.kind is MemberKind.SYMLINK:
            self._links.add(pack(wanted))
        elif self._select(member.link_target):
            self._link(member.link_target, member.path)
        else:
            self._unselected.setdefault(member.link_target, []).append(member.path)

    def write(self, block: bytes) -> None:
        if self._file is None:
            return
        self._allowance.produced(len(block))
        with system_errors(self._file.path):
            if not self._make_holes:
                _write_all(self._fd, block)
                self._position += len(block)
                return
            at = 0
            while at < len(block):
                end = min(len(block), at + _HOLE - self._position % _HOLE)
                part = block[at:end]
                if len(part) == _HOLE and part == _ZEROS:
                    os.lseek(self._fd, _HOLE, os.SEEK_CUR)
                    self._has_holes = True
                else:
                    _write_all(self._fd, part)
                self._position += end - at
                at = end

    def end(self) -> None:
        if self._file is None:
            return
        member, fd = self._file, self._fd
        with system_errors(member.path):
            if self._has_holes:
                os.ftruncate(fd, self._position)
            if self._has_holes and self._wait_for_manifest:
                # Filling what should be no hole needs the file writable: its attributes wait too.
                self._holed.add(pack(member))
            else:
                self._attributes(fd, member)
            self._fd, self._file = -1, None
            os.close(fd)
        self.files += 1
        self.bytes += self._position
        if self._second_pass:
            for path in self._more_links:
                self._link(member.path, path)

    def abort(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd, self._file = -1, None
        self.tree.close()

    def withdraw(self, path: bytes) -> None:
        with system_errors(path):
            parent, name = self.tree.place(path, make=False)
            size = os.stat(name, dir_fd=parent, follow_symlinks=False).st_size
            os.unlink(name, dir_fd=parent)
        self.files -= 1
        self.bytes -= size

    def left_out(self, path: bytes, what: str, whole: bool) -> None:
        if not self._second_pass and self._select(path):
            self.lost.add(path, what, whole)

    def take_unselected_targets(self) -> bool:
        """Whether a second pass must fetch the content of hard links whose files were not selected; prepares it."""
        self._second_pass = bool(self._unselected)
        return self._second_pass

    def finish_entries(self, outcome: Outcome) -> None:
        """What waits for the manifest's word: holes and symbolic links."""
        if self._windows is not None and outcome.header is None:
            # In an archive of our own it is an odd file of the source; elsewhere it is bait for another system.
            raise invalid("a name leads out of the folder where backslashes separate folders", self._windows)
        for record in self._holed:
            self._check()
            self._settle_holes(unpack(record).member, outcome)
        for record in self._links:
            self._check()
            self._symlink(unpack(record).member)

    def finish_directories(self) -> None:
        """The directories' attributes, after which nothing changes in them."""
        self.tree.finish(self._directory_attributes, self._check)
        self.lost.finish()

    def _create(self, member: Member) -> None:
        parent, name = self.tree.place(member.path)
        with system_errors(member.path, parent, name):
            self._fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
        self._file = member
        self._position = 0
        self._has_holes = False

    def _link(self, target: bytes, path: bytes) -> None:
        self.tree.add_link(target, path)
        self.hardlinks += 1

    def _settle_holes(self, member: Member, outcome: Outcome) -> None:
        """Allocate the zeros of a file that had no holes; then set its attributes."""
        with system_errors(member.path):
            parent, name = self.tree.place(member.path, make=False)
            try:
                fd = os.open(name, _REOPEN, dir_fd=parent)
            except FileNotFoundError:
                # The manifest or the list of checksums, withdrawn.
                return
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise changed_by_others(member.path)
                if outcome.header is not None and member.path not in outcome.sparse:
                    os.posix_fallocate(fd, 0, member.size)
                self._attributes(fd, member)
            finally:
                os.close(fd)

    def _symlink(self, member: Member) -> None:
        parent, name = self.tree.place(member.path)
        with system_errors(member.path, parent, name):
            os.symlink(member.link_target, name, dir_fd=parent)
            if self._preserve_owner:
                os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
            try:
                os.utime(name, ns=(member.mtime_ns, member.mtime_ns), dir_fd=parent, follow_symlinks=False)
            except (OverflowError, OSError):
                self._warn("the time cannot be set", member)
        self.symlinks += 1

    def _directory_attributes(self, fd: int, member: Member) -> None:
        with system_errors(member.path):
            self._attributes(fd, member)

    def _attributes(self, fd: int, member: Member) -> None:
        if self._preserve_owner:
            if max(member.uid, member.gid) >= (1 << 32) - 1 or min(member.uid, member.gid) < 0:
                raise invalid("an owner or group is out of range", member.path)
            os.fchown(fd, member.uid, member.gid)
        mode = member.mode & self._mode_mask
        if mode != member.mode:
            self._warn(dropped_bits(member.mode), member)
        # After the owner: chown clears set-id bits.
        os.fchmod(fd, mode)
        try:
            os.utime(fd, ns=(member.mtime_ns, member.mtime_ns))
        except (OverflowError, OSError):
            self._warn("the time cannot be set", member)

    def _warn(self, what: str, member: Member) -> None:
        self.warning_count += 1
        self._report(member.path, what, False)
        if len(self.warnings) < _MAX_WARNINGS:
            self.warnings.append(f"'{show(member.path)}': {what}")


def _proved_manifest(reader: ArchiveReader, outcome: Outcome) -> ProvedManifest | None:
    if outcome.header is None or outcome.totals is None:
        return None
    kept = outcome.manifest
    blocks = kept.blocks if kept is not None else (lambda: reader.manifest() or ())
    return ProvedManifest(outcome.header, outcome.totals, blocks)


def allowance(max_bytes: int | None) -> Budget:
    """Counts the content that is taken out of an archive."""
    most = Limits().total_bytes if max_bytes is None else max_bytes
    return Budget(Limits(total_bytes=most, ratio_floor=most), 0)


def dropped_bits(mode: int) -> str:
    """What is told of an entry whose set-id or sticky bits are not restored."""
    return f"special permission bits dropped from mode {mode:04o}"


def _write_all(fd: int, block: bytes) -> None:
    written = os.write(fd, block)
    while written < len(block):
        written += os.write(fd, memoryview(block)[written:])
