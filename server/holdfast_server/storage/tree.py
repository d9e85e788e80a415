"""Reading a source's tree without trusting it: it may change, loop, lie and be of any depth while it is read.

Every entry is reached by one name relative to an opened directory and no link is followed, so nothing outside the root
is read, but for what is mounted below it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass
from enum import StrEnum

from holdfast_server.records import frozen_record
from holdfast_server.storage.descent import DIRECTORY_FLAGS, DirectoryChain, Level
from holdfast_server.storage.names import escape

__all__ = ["STAGING_PREFIX", "EntryKind", "ProblemReason", "TreeEntry", "TreeProblem", "problem_from", "walk"]

_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NO_ACCESS_TIME: int = getattr(os, "O_NOATIME", 0)

#: The service's own staging folders, at any level of a tree.
STAGING_PREFIX = b".holdfast-restore-"

#: The process is at its limits, which says nothing about the source: going on would call everything unreadable.
_OUR_LIMITS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


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


def problem_from(path: bytes, error: OSError, doing: str) -> TreeProblem:
    """The problem that a failed system call on an entry amounts to. `doing` is such as `cannot be opened`."""
    reason = ProblemReason.READ_ERROR
    if error.errno in (errno.EACCES, errno.EPERM):
        reason = ProblemReason.PERMISSION_DENIED
    elif error.errno in (errno.ENOENT, errno.ESTALE):
        reason = ProblemReason.VANISHED
    return TreeProblem(path, reason, f"{escape(path) or 'the root'} {doing}: {error.strerror or error}")


_SPECIAL = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}

_Item = TreeEntry | TreeProblem


class _Walk:
    """One run of `walk`."""

    def __init__(
        self,
        chain: DirectoryChain,
        keep: Callable[[bytes, bool], bool],
        check: Callable[[], None],
        skip_identities: Collection[tuple[int, int]],
        cross_devices: bool,
    ) -> None:
        self._chain = chain
        self._keep = keep
        self._check = check
        self._skip = skip_identities
        self._cross_devices = cross_devices
        self._device = chain.innermost.device
        self._ancestors = {chain.innermost.identity}
        # One growing buffer: a prefix kept per level would need memory by the square of the depth.
        self._prefix = bytearray()

    def run(self) -> Iterator[_Item]:
        root = self._chain.innermost
        if root.identity in self._skip:
            yield self._service_data(b"")
            return
        yield from self._list(root, b"")
        while True:
            level = self._chain.innermost
            if level.lost and level.pending:
                path = bytes(self._prefix[:-1])
                text = f"{escape(path)} was moved while it was read; what was not read before is missing"
                yield TreeProblem(path, ProblemReason.VANISHED, text)
            elif level.pending and (yield from self._entries(level)):
                continue
            if len(self._chain.levels) == 1:
                return
            left = self._chain.leave()
            self._ancestors.discard(left.identity)
            del self._prefix[len(self._prefix) - len(left.name) - 1 :]

    def _entries(self, level: Level) -> Generator[_Item, None, bool]:
        """Yield the pending entries up to and including the first directory that is entered; says if one was."""
        prefix, fd = bytes(self._prefix), level.fd
        pending, directories, keep, check = level.pending, level.directories, self._keep, self._check
        while pending:
            check()
            name = pending.pop()
            path = prefix + name
            is_directory = name in directories
            if not is_directory:
                if not keep(path, False):
                    continue
                try:
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                except OSError as error:
                    yield problem_from(path, error, "cannot be examined")
                    continue
                if (kind := stat.S_IFMT(status.st_mode)) == stat.S_IFREG:
                    yield TreeEntry(path, name, EntryKind.FILE, status, b"", level)
                    continue
                if kind != stat.S_IFDIR:
                    yield self._link_or_special(path, name, status, level)
                    continue
            # Also what has become a directory since it was listed: it is asked about again, as a directory.
            if name.startswith(STAGING_PREFIX) or not keep(path, True):
                continue
            if (yield from self._directory(path, name, level)):
                return True
        return False

    @staticmethod
    def _link_or_special(path: bytes, name: bytes, status: os.stat_result, level: Level) -> _Item:
        kind = stat.S_IFMT(status.st_mode)
        if kind != stat.S_IFLNK:
            text = f"{escape(path)} is {_SPECIAL.get(kind, 'a special file')}; such files hold nothing to back up"
            return TreeProblem(path, ProblemReason.SPECIAL_FILE_SKIPPED, text)
        try:
            target = os.readlink(name, dir_fd=level.fd)
        except OSError as error:
            if error.errno == errno.EINVAL:  # replaced by something else since
                error = FileNotFoundError(errno.ENOENT, "the link was replaced while it was read")
            return problem_from(path, error, "cannot be read")
        return TreeEntry(path, name, EntryKind.SYMLINK, status, target, level)

    def _directory(self, path: bytes, name: bytes, parent: Level) -> Generator[_Item, None, bool]:
        """Open a directory, yield it, list it and make it the innermost one; says if that was done."""
        try:
            fd = os.open(name, DIRECTORY_FLAGS, dir_fd=parent.fd)
        except OSError as error:
            yield from self._not_opened(path, name, parent, error)
            return False
        status = os.fstat(fd)
        level = Level(fd, name, status)
        entry = TreeEntry(path, name, EntryKind.DIRECTORY, status, b"", parent)
        refusal: _Item | None = None
        # Asked of the opened directory: what the name led to before does not count.
        if level.identity in self._skip:
            refusal = self._service_data(path)
        elif level.identity in self._ancestors:
            text = f"{escape(path)} is a mount of a directory that contains it; it is not followed"
            refusal = TreeProblem(path, ProblemReason.MOUNT_LOOP, text)
        elif not self._cross_devices and level.device != self._device:
            refusal = entry
        if refusal is not None:
            level.close()
            yield refusal
            return False
        self._chain.enter(level)  # from here on the chain closes it
        self._ancestors.add(level.identity)
        self._prefix += name + b"/"
        yield entry
        yield from self._list(level, path)
        return True

    @staticmethod
    def _not_opened(path: bytes, name: bytes, parent: Level, error: OSError) -> Iterator[_Item]:
        if error.errno in _OUR_LIMITS:
            raise error
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            text = f"{escape(path)} was a directory and was replaced while the tree was read"
            yield TreeProblem(path, ProblemReason.NOT_A_DIRECTORY_ANYMORE, text)
            return
        if error.errno in (errno.EACCES, errno.EPERM):
            # The directory itself can be kept, though not what it holds.
            try:
                status = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
            except OSError as second:
                yield problem_from(path, second, "cannot be examined")
                return
            if stat.S_ISDIR(status.st_mode):
                yield TreeEntry(path, name, EntryKind.DIRECTORY, status, b"", parent)
        yield problem_from(path, error, "cannot be opened")

    def _list(self, level: Level, path: bytes) -> Iterator[TreeProblem]:
        """Fill in what there is to visit; what a failing directory gave before it failed is still visited."""
        names: list[bytes] = []
        try:
            with os.scandir(level.fd) as entries:
                for number, entry in enumerate(entries):
                    if not number % 256:
                        self._check()
                    name = os.fsencode(entry.name)
                    names.append(name)
                    if entry.is_dir(follow_symlinks=False):
                        level.directories.add(name)
        except OSError as error:
            if error.errno in _OUR_LIMITS:
                raise
            yield problem_from(path, error, "cannot be listed to its end")
        names.sort(reverse=True)
        level.pending = names

    @staticmethod
    def _service_data(path: bytes) -> TreeProblem:
        text = f"{escape(path) or 'the root'} belongs to the backup service and is left out"
        return TreeProblem(path, ProblemReason.SERVICE_DATA_SKIPPED, text)


def walk(
    root_fd: int,
    *,
    keep: Callable[[bytes, bool], bool],
    check: Callable[[], None],
    skip_identities: Collection[tuple[int, int]] = frozenset(),
    cross_devices: bool = True,
) -> Iterator[TreeEntry | TreeProblem]:
    """Everything below an opened directory: each directory before what it holds, names in the order of their bytes.

    The root itself is not yielded. `keep(path, is_directory)` says what to visit; a directory it refuses is not
    entered. `check` is called before each entry and ends the walk by raising. Directories whose (st_dev, st_ino) is in
    `skip_identities` are reported as SERVICE_DATA_SKIPPED and not entered; the staging folders of restores
    (`.holdfast-restore-*`) are passed over in silence. Without `cross_devices`, a directory on another file system is
    yielded and not entered.

    What cannot be read, vanishes, is a special file, or loops, is yielded as a `TreeProblem`, and the walk goes on. A
    directory that may not be read is yielded and followed by its problem. `OSError` is raised only where the process
    itself is at its limits (EMFILE, ENFILE, ENOMEM) or the root cannot be opened.
    """
    try:
        chain = DirectoryChain(root_fd)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM):
            raise
        yield problem_from(b"", error, "cannot be opened")
        return
    try:
        yield from _Walk(chain, keep, check, skip_identities, cross_devices).run()
    finally:
        chain.close()
