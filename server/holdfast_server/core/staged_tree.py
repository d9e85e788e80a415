"""Making a snapshot's entries below one opened directory, in full fidelity and without leaving it.

No path is resolved as a string: every entry is made by one name in the opened directory that holds it, and only
directories that were made here are entered (`archive.tree`). Entries come folder by folder, so that directory stays
open from one to the next. Files are nobody's but ours until their attributes are set, which is done through the
descriptor that they were written by; directories get theirs last.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, Protocol

from holdfast_server.archive.extract import dropped_bits
from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.archive.reading import Report
from holdfast_server.archive.sink import LeftOut
from holdfast_server.archive.tree import Tree, system_errors
from holdfast_server.errors import DataLoss, Reason
from holdfast_server.repository import Blocks, Entry, EntryFlag, Hole
from holdfast_server.storage.entry import Xattrs, replace_xattrs, set_xattrs
from holdfast_server.storage.names import escape

__all__ = ["StagedTree"]

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SPARSE: Final = int(EntryFlag.SPARSE)
#: Zeros of a file with holes become a hole again when they fill a page, or what a block has of one.
_PAGE: Final = 4096
_ZEROS: Final = bytes(_PAGE)
_PERMISSIONS: Final = 0o777
_CREATED_MODE: Final = 0o600
_LARGEST_ID: Final = (1 << 32) - 2


class _Attributed(Protocol):
    """What an entry and a member have in common."""

    @property
    def path(self) -> bytes: ...
    @property
    def mode(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def xattrs(self) -> Xattrs: ...


class StagedTree:
    """What one restore makes below `root_fd`, which stays the caller's. `close` in any case.

    `report` is told of what is not restored of an entry: of extended attributes once for each namespace. Everything
    raises FailedPrecondition (FOLDER_NOT_WRITABLE, ARCHIVE_INVALID), ResourceExhausted or Unavailable for what the
    system refuses, naming the entry.
    """

    def __init__(self, root_fd: int, report: Report) -> None:
        self.tree = Tree(root_fd)
        self.files = self.symlinks = self.hardlinks = self.bytes = 0
        self._report = report
        self._warnings = 0
        self._lost = LeftOut(report)
        self._root = root_fd
        self._is_root = os.geteuid() == 0
        #: The folder of the last entry and its descriptor; None when it is to be looked up.
        self._folder: bytes | None = None
        self._fd = -1
        #: Whom files made in that folder belong to; None when it is to be looked up.
        self._owner: tuple[int, int] | None = None

    @property
    def warning_count(self) -> int:
        return self._warnings + len(self._lost.texts())

    def close(self) -> None:
        self.tree.close()

    def add_directory(self, entry: Entry) -> None:
        """Make a directory, 0700 until `finish`."""
        member = Member(
            entry.path, MemberKind.DIRECTORY, entry.mode, entry.mtime_ns, entry.uid, entry.gid, xattrs=entry.xattrs
        )
        self.tree.add_directory(member)

    def add_file(self, folder: bytes, name: bytes, entry: Entry, blocks: Blocks) -> int:
        """Make a file with the entry's attributes and the content of `blocks`; gives its size."""
        if folder != self._folder:
            self._enter(folder)
        try:
            fd = os.open(name, _CREATE, _CREATED_MODE, dir_fd=self._fd)
            try:
                size = _fill(fd, blocks, with_holes=bool(entry.flags & _SPARSE))
                self._attributes(fd, entry, is_file=True)
            finally:
                os.close(fd)
        except OSError:
            with system_errors(_join(folder, name), self._fd, name):
                raise
        if size != entry.size:
            raise entry.damaged(f"it has {size} bytes of content instead of {entry.size}")
        self.files += 1
        self.bytes += size
        return size

    def add_symlink(self, entry: Entry) -> None:
        """Make a symbolic link. Nothing is ever made through it."""
        folder, name = entry.folder, entry.name
        if folder != self._folder:
            self._enter(folder)
        fd = self._fd
        with system_errors(entry.path, fd, name):
            os.symlink(entry.link_target, name, dir_fd=fd)
            if self._is_root:
                _check_owner(entry)
                os.chown(name, entry.uid, entry.gid, dir_fd=fd, follow_symlinks=False)
            if entry.xattrs:
                # No link but the last is on this way, and that one is not followed.
                self._set_xattrs(b"/proc/self/fd/%d/%b" % (fd, name), entry.path, entry.xattrs, follow=False)
            try:
                os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=fd, follow_symlinks=False)
            except (OverflowError, OSError):
                self._warn(entry.path, "the time cannot be set")
        self.symlinks += 1

    def add_link(self, target: bytes, path: bytes) -> None:
        """Give a file that was made here another name."""
        self._folder = None  # its descriptor may be closed on the way to the link
        self.tree.add_link(target, path)
        self.hardlinks += 1

    def finish(self, check: Callable[[], None]) -> None:
        """The directories' attributes, after which nothing changes in them."""
        self._folder = None
        self.tree.finish(self._directory_attributes, check)

    def set_root_xattrs(self, xattrs: Xattrs) -> None:
        """Give the root these extended attributes, and no others."""
        self._refused(b"", replace_xattrs(self._root, xattrs))

    def tell(self) -> None:
        """Report what was gathered."""
        self._lost.finish()

    def _enter(self, folder: bytes) -> None:
        self._folder = None
        self._fd, _ = self.tree.place(_join(folder, b"_"))
        self._folder, self._owner = folder, None

    def _directory_attributes(self, fd: int, member: Member) -> None:
        with system_errors(member.path):
            self._attributes(fd, member, is_file=False)

    def _attributes(self, fd: int, entry: _Attributed, *, is_file: bool) -> None:
        if self._is_root:
            self._give_to(fd, entry, is_file=is_file)
        # After the owner: chown removes capabilities. Before the mode: the file may not be writable then.
        if entry.xattrs:
            self._set_xattrs(fd, entry.path, entry.xattrs)
        mode = entry.mode
        if mode != mode & _PERMISSIONS:
            self._warn(entry.path, dropped_bits(mode))
            mode &= _PERMISSIONS
        if mode != _CREATED_MODE or entry.xattrs or not is_file:
            os.fchmod(fd, mode)
        try:
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        except (OverflowError, OSError):
            self._warn(entry.path, "the time cannot be set")

    def _give_to(self, fd: int, entry: _Attributed, *, is_file: bool) -> None:
        wanted = entry.uid, entry.gid
        if is_file:
            if self._owner is None:
                # The group may be the folder's; all files made in it are alike.
                status = os.fstat(fd)
                self._owner = status.st_uid, status.st_gid
            if wanted == self._owner:
                return
        _check_owner(entry)
        os.fchown(fd, *wanted)

    def _set_xattrs(self, place: int | bytes, path: bytes, xattrs: Xattrs, *, follow: bool = True) -> None:
        self._refused(path, set_xattrs(place, xattrs, follow=follow))

    def _refused(self, path: bytes, names: list[bytes]) -> None:
        for name in names:
            namespace = escape(name.partition(b".")[0])
            self._lost.add(path, f"extended attributes of the namespace '{namespace}', which were refused", False)

    def _warn(self, path: bytes, what: str) -> None:
        self._warnings += 1
        self._report(path, what, False)


def _fill(fd: int, blocks: Blocks, *, with_holes: bool) -> int:
    """Write a file's content; gives its size."""
    size, has_holes = 0, False
    for block in blocks:
        if isinstance(block, Hole):
            size += block.length
            os.lseek(fd, size, os.SEEK_SET)
            has_holes = True
            continue
        if with_holes:
            has_holes |= _write_around_holes(fd, block, size)
        else:
            _write_all(fd, block)
        size += len(block)
    if has_holes:
        os.ftruncate(fd, size)
    return size


def _write_around_holes(fd: int, block: bytes | memoryview, position: int) -> bool:
    """Write a block that belongs at `position`, but for its pages of zeros; says whether there were any."""
    found, view = False, memoryview(block)
    begin = at = 0
    while at < len(view):
        end = min(len(view), at + _PAGE - (position + at) % _PAGE)
        # The first byte spares most comparisons.
        if not view[at] and view[at:end] == _ZEROS[: end - at]:
            _write_all(fd, view[begin:at])
            os.lseek(fd, end - at, os.SEEK_CUR)
            begin, found = end, True
        at = end
    _write_all(fd, view[begin:])
    return found


def _write_all(fd: int, block: bytes | memoryview) -> None:
    if not len(block):
        return
    written = os.write(fd, block)
    while written < len(block):
        written += os.write(fd, memoryview(block)[written:])


def _check_owner(entry: _Attributed) -> None:
    if max(entry.uid, entry.gid) > _LARGEST_ID:
        shown = escape(entry.path)
        raise DataLoss(
            Reason.CHECKSUM_MISMATCH, f"{shown} has an owner or group that nobody can have", metadata={"path": shown}
        )


def _join(folder: bytes, name: bytes) -> bytes:
    return folder + b"/" + name if folder else name
