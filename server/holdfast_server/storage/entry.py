"""What a tree holds, entry by entry: names below opened directories, never paths that are resolved again."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from holdfast_server.records import frozen_record
from holdfast_server.storage.descent import Level
from holdfast_server.storage.names import escape

__all__ = [
    "EntryKind",
    "ProblemReason",
    "TreeEntry",
    "TreeProblem",
    "Xattrs",
    "problem_from",
    "read_xattrs",
    "replace_xattrs",
    "set_xattrs",
]

_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NO_ACCESS_TIME: int = getattr(os, "O_NOATIME", 0)

#: Extended attributes belong to the entry and not to what a link leads to, which only a path can say.
_HAS_XATTRS = hasattr(os, "listxattr")
_HAS_PROC = os.path.isdir("/proc/self/fd")

#: The file system has no extended attributes, or none that this process may know of.
_NO_XATTRS = frozenset({errno.ENOTSUP, errno.EPERM, errno.ENODATA, errno.ENOSYS})


#: The filesystem or the user's rights do not allow the attribute; its disk being full shows elsewhere.
_REFUSED = frozenset(
    {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EINVAL, errno.E2BIG, errno.ERANGE, errno.ENOSPC, errno.EDQUOT}
)

#: Says where a file lies, whatever tree it is in: no attribute of a file that goes elsewhere.
_OF_THE_PLACE = b"security."


#: Extended attributes by name, sorted.
Xattrs = tuple[tuple[bytes, bytes], ...]


class EntryKind(StrEnum):
    """The kinds of entry that are backed up; the values are those of an archive's members."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"


class ProblemReason(StrEnum):
    """Why something in a tree was left out."""

    PERMISSION_DENIED = "PERMISSION_DENIED"
    VANISHED = "VANISHED"
    SPECIAL_FILE_SKIPPED = "SPECIAL_FILE_SKIPPED"
    READ_ERROR = "READ_ERROR"
    MOUNT_LOOP = "MOUNT_LOOP"
    NOT_A_DIRECTORY_ANYMORE = "NOT_A_DIRECTORY_ANYMORE"
    SERVICE_DATA_SKIPPED = "SERVICE_DATA_SKIPPED"


@dataclass(frozen=True, slots=True)
class TreeProblem:
    """Something that was left out: `path` relative to the root (empty: the root itself), and a line for people."""

    path: bytes
    reason: ProblemReason
    message: str


@frozen_record
class TreeEntry:
    """One file, directory or symbolic link; `path` is relative to the root, `stat` that of the entry itself."""

    path: bytes
    name: bytes
    kind: EntryKind
    stat: os.stat_result
    link_target: bytes
    parent: Level

    @property
    def mode(self) -> int:
        """Type and permission bits, as in `st_mode`."""
        return self.stat.st_mode

    @property
    def size(self) -> int:
        return self.stat.st_size

    @property
    def mtime_ns(self) -> int:
        return self.stat.st_mtime_ns

    @property
    def ctime_ns(self) -> int:
        return self.stat.st_ctime_ns

    @property
    def uid(self) -> int:
        return self.stat.st_uid

    @property
    def gid(self) -> int:
        return self.stat.st_gid

    @property
    def dev(self) -> int:
        return self.stat.st_dev

    @property
    def ino(self) -> int:
        return self.stat.st_ino

    @property
    def nlink(self) -> int:
        return self.stat.st_nlink

    @property
    def blocks(self) -> int:
        """Allocated blocks of 512 bytes; fewer than the size needs where the file has holes."""
        return self.stat.st_blocks

    def open_file(self) -> tuple[int, os.stat_result]:
        """Open the file for reading; gives the descriptor, which the caller closes, and what `fstat` says of it.

        To be called before the walk is advanced: later the parent may be closed, which is `OSError(EBADF)`. Never
        blocks and follows no link; what is no regular file any more is `OSError(EINVAL)`, or ELOOP for a link. The file
        may be another than the one that the entry's `stat` describes.
        """
        if self.parent.fd < 0:
            raise OSError(errno.EBADF, "the walk has left the file's directory", self.path)
        try:
            fd = os.open(self.name, _FILE_FLAGS | _NO_ACCESS_TIME, dir_fd=self.parent.fd)
        except OSError as error:
            if error.errno != errno.EPERM or not _NO_ACCESS_TIME:
                raise
            # Only the owner may leave access times alone.
            fd = os.open(self.name, _FILE_FLAGS, dir_fd=self.parent.fd)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "is no regular file any more", self.path)
        except BaseException:
            os.close(fd)
            raise
        return fd, status

    def xattrs(self) -> Xattrs:
        """The entry's own extended attributes, sorted by name; empty where there are none or they are not supported.

        To be called before the walk is advanced, as `open_file`; for a file that is open already `read_xattrs` costs a
        quarter. `OSError` where they cannot be read. They may be those of what took the entry's place.
        """
        parent = self.parent.fd
        if parent < 0:
            raise OSError(errno.EBADF, "the walk has left the directory", self.path)
        if not _HAS_XATTRS:
            return ()
        if _HAS_PROC:
            # No link but the last is on this way, and that one is not followed.
            return _read_xattrs(b"/proc/self/fd/%d/%b" % (parent, self.name), False)
        if self.kind is EntryKind.SYMLINK:
            return ()  # a link cannot be opened; what it could have is not the user's
        fd = os.open(self.name, _FILE_FLAGS, dir_fd=parent)
        try:
            return _read_xattrs(fd, True)
        finally:
            os.close(fd)


def read_xattrs(fd: int) -> Xattrs:
    """The same of an opened file or directory."""
    return _read_xattrs(fd, True) if _HAS_XATTRS else ()


def _read_xattrs(place: int | bytes, follow: bool) -> Xattrs:
    try:
        names = os.listxattr(place, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return ()
        raise
    if not names:
        return ()
    found: list[tuple[bytes, bytes]] = []
    for name in names:
        try:
            found.append((os.fsencode(name), os.getxattr(place, name, follow_symlinks=follow)))
        except OSError as error:  # removed since, or listed to everybody and not for everybody
            if error.errno not in _NO_XATTRS:
                raise
    found.sort()
    return tuple(found)


def set_xattrs(place: int | bytes, xattrs: Iterable[tuple[bytes, bytes]], *, follow: bool = True) -> list[bytes]:
    """Set extended attributes; gives the names of those that were refused. Raises OSError for everything else."""
    refused: list[bytes] = []
    for name, value in xattrs:
        try:
            if not _HAS_XATTRS:
                raise OSError(errno.ENOTSUP, "this system has no extended attributes")
            os.setxattr(place, name, value, follow_symlinks=follow)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            refused.append(name)
    return refused


def replace_xattrs(fd: int, xattrs: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """Give an opened file or directory these extended attributes and no others, but for those that say where it lies;
    gives the names of those that were refused."""
    wanted = [(name, value) for name, value in xattrs if not name.startswith(_OF_THE_PLACE)]
    names = {name for name, _ in wanted}
    for name, _ in read_xattrs(fd):
        if name not in names and not name.startswith(_OF_THE_PLACE):
            os.removexattr(fd, name)
    return set_xattrs(fd, wanted)


def problem_from(path: bytes, error: OSError, doing: str) -> TreeProblem:
    """The problem that a failed system call on an entry amounts to. `doing` is such as `cannot be opened`."""
    reason = ProblemReason.READ_ERROR
    if error.errno in (errno.EACCES, errno.EPERM):
        reason = ProblemReason.PERMISSION_DENIED
    elif error.errno in (errno.ENOENT, errno.ESTALE):
        reason = ProblemReason.VANISHED
    return TreeProblem(path, reason, f"{escape(path) or 'the root'} {doing}: {error.strerror or error}")
