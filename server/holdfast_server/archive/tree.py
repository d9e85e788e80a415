"""Creating a tree strictly below one opened directory.

No path is ever resolved as a string: each component is opened from its parent's descriptor without following links. A
directory that somebody swaps for a link or moves away makes the work fail instead of leading it elsewhere.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from holdfast_server.archive.manifest import pack, unpack
from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.archive.reading import Names, invalid, show
from holdfast_server.archive.spool import RecordSpool
from holdfast_server.errors import FailedPrecondition, HoldfastError, Reason, ResourceExhausted, Unavailable

__all__ = ["Tree", "changed_by_others", "system_errors"]

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT_OPEN = 128
_MAX_LATE = 100_000
_IMPLICIT_MODE = 0o755
_IMPLICIT, _EXPLICIT = b"i", b"e"


class Tree:
    """The directories that an extraction makes below `root_fd`, which stays the caller's.

    Only directories made here are entered, whatever else has their name. Descriptors of those used last stay open, so
    that a tree in depth-first order costs one open per directory at any depth.
    """

    def __init__(self, root_fd: int) -> None:
        self._root = root_fd
        self._open: OrderedDict[bytes, int] = OrderedDict()
        self._made = Names()
        # Device, inode, mark and attributes of each directory; parents come before what they hold.
        self._spool = RecordSpool()
        self._late: dict[bytes, Member] = {}
        self.directories = 0

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def place(self, path: bytes, *, make: bool = True) -> tuple[int, bytes]:
        """The descriptor of a path's parent, valid until the next call, and the last component."""
        parent, _, name = path.rpartition(b"/")
        return (self._directory(parent, make=make) if parent else self._root), name

    def add_directory(self, member: Member) -> None:
        """Make a directory, 0700 until `finish`. One that was made before gets these attributes."""
        if member.path in self._made:
            if self._made.has_directory(member.path) or member.path in self._late:
                self.directories -= 1  # listed twice
            if len(self._late) >= _MAX_LATE:
                raise invalid("too many directories come after their content", member.path)
            self._late[member.path] = member
        else:
            parent, name = self.place(member.path)
            self._make(parent, name, member.path, member)
        self.directories += 1

    def finish(self, apply: Callable[[int, Member], None], check: Callable[[], None]) -> None:
        """Give every directory its attributes, children before parents.

        All are opened anew from the root: one that was moved away or replaced meanwhile is noticed here.
        """
        self.close()
        for line in reversed(self._spool):
            check()
            device, inode, mark, record = line.split(b" ", 3)
            member = unpack(record).member
            fd = self._directory(member.path, make=False)
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) != (int(device), int(inode)):
                raise changed_by_others(member.path)
            late = self._late.get(member.path)
            if late is not None:
                apply(fd, late)
            elif mark == _EXPLICIT:
                apply(fd, member)
            else:
                os.fchmod(fd, member.mode)
        self.close()

    def _directory(self, path: bytes, *, make: bool) -> int:
        """Open a directory that was made here; with `make` it and its parents may have to be made first."""
        ends: list[int] = []
        end = len(path)
        while end > 0 and path[:end] not in self._open:
            ends.append(end)
            end = max(path.rfind(b"/", 0, end), 0)
        fd = self._root
        if end > 0:
            self._open.move_to_end(path[:end])
            fd = self._open[path[:end]]
        for following in reversed(ends):
            here, name = path[:following], path[end + (end > 0) : following]
            if make and here not in self._made:
                self._make(fd, name, here, None)
            fd = self._enter(fd, name, here)
            end = following
        return fd

    def _enter(self, parent: int, name: bytes, path: bytes) -> int:
        with system_errors(path):
            fd = os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
        self._open[path] = fd
        if len(self._open) > _KEPT_OPEN:
            os.close(self._open.popitem(last=False)[1])
        return fd

    def _make(self, parent: int, name: bytes, path: bytes, member: Member | None) -> None:
        with system_errors(path, parent, name):
            os.mkdir(name, 0o700, dir_fd=parent)
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        self._made.add(path, is_directory=member is not None)
        mark = _IMPLICIT if member is None else _EXPLICIT
        record = pack(member or Member(path=path, kind=MemberKind.DIRECTORY, mode=_IMPLICIT_MODE))
        self._spool.add(b"%d %d %b %b" % (status.st_dev, status.st_ino, mark, record))


def changed_by_others(path: bytes) -> FailedPrecondition:
    """Somebody else works in the folder: what was made there is no longer what it was."""
    return FailedPrecondition(
        Reason.FOLDER_NOT_WRITABLE,
        f"'{show(path)}' was changed by somebody else while it was being restored",
        metadata={"path": show(path)},
    )


@contextmanager
def system_errors(path: bytes, parent: int | None = None, name: bytes = b"") -> Iterator[None]:
    """Turn OSError into the error tree. `parent` and `name` say where to look for what has a name already."""
    try:
        yield
    except FileExistsError as error:
        other = _other_name(parent, name) if parent is not None else None
        what = (
            "a name is taken already"
            if other in (None, name)
            else f"the file system takes it for '{show(other or b'')}'"
        )
        raise invalid(f"{what}; two members collide", path) from error
    except OSError as error:
        raise _translated(error, path) from error


def _translated(error: OSError, path: bytes) -> HoldfastError:
    metadata = {"path": show(path), "errno": errno.errorcode.get(error.errno or 0, str(error.errno))}
    text = f"'{show(path)}' cannot be restored: {error.strerror}"
    if error.errno == errno.ENOSPC:
        return ResourceExhausted(Reason.DISK_FULL, text, metadata=metadata)
    if error.errno == errno.EDQUOT:
        return ResourceExhausted(Reason.QUOTA_EXCEEDED, text, metadata=metadata)
    if error.errno in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.EFBIG, errno.EMLINK):
        return FailedPrecondition(Reason.ARCHIVE_INVALID, text, metadata=metadata)
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE):
        return changed_by_others(path)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return FailedPrecondition(Reason.FOLDER_NOT_WRITABLE, text, metadata=metadata)
    return Unavailable(Reason.STORAGE_UNREACHABLE, text, metadata=metadata)


def _other_name(parent: int, name: bytes) -> bytes | None:
    """The name under which a directory lists what it finds under `name`."""
    try:
        inode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_ino
        for listed in os.listdir(parent):
            found = os.fsencode(listed)
            if os.stat(found, dir_fd=parent, follow_symlinks=False).st_ino == inode:
                return found
    except OSError:
        pass
    return None
