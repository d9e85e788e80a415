"""Reading a source's tree without trusting it: it may change, loop, lie and be of any depth while it is read.

Every entry is reached by one name relative to an opened directory and no link is followed, so nothing outside the root
is read, but for what is mounted below it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection, Generator, Iterator

from holdfast_server.storage.descent import DIRECTORY_FLAGS, DirectoryChain, Level
from holdfast_server.storage.entry import (
    EntryKind,
    ProblemReason,
    TreeEntry,
    TreeProblem,
    Xattrs,
    problem_from,
    read_xattrs,
)
from holdfast_server.storage.names import escape

__all__ = [
    "STAGING_PREFIX",
    "EntryKind",
    "ProblemReason",
    "TreeEntry",
    "TreeProblem",
    "Xattrs",
    "problem_from",
    "read_xattrs",
    "walk",
]

#: The service's own staging folders, at any level of a tree.
STAGING_PREFIX = b".holdfast-restore-"

#: The process is at its limits, which says nothing about the source: going on would call everything unreadable.
_OUR_LIMITS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

_SPECIAL = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}

_Item = TreeEntry | TreeProblem


class _Walk:
    """One run of `walk`, depth first."""

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
            elif level.pending and (yield from self._advance(level)):
                continue
            if len(self._chain.levels) == 1:
                return
            left = self._chain.leave()
            self._ancestors.discard(left.identity)
            del self._prefix[len(self._prefix) - len(left.name) - 1 :]

    def _advance(self, level: Level) -> Generator[_Item, None, bool]:
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
        # Asked of the opened directory: what the name led to before does not count.
        refusal: _Item | None = self._refusal(path, level.identity)
        if refusal is None and not self._cross_devices and level.device != self._device:
            refusal = entry
        if refusal is not None:
            level.close()
            yield refusal
            return False
        self._enter(level)
        yield entry
        yield from self._list(level, path)
        return True

    def _refusal(self, path: bytes, identity: tuple[int, int]) -> TreeProblem | None:
        """Why a directory is not to be read, whatever is in it."""
        if identity in self._skip:
            return self._service_data(path)
        if identity in self._ancestors:
            text = f"{escape(path)} is a mount of a directory that contains it; it is not followed"
            return TreeProblem(path, ProblemReason.MOUNT_LOOP, text)
        return None

    def _enter(self, level: Level) -> None:
        """Make an opened directory the innermost one; from here on the chain closes it."""
        self._chain.enter(level)
        self._ancestors.add(level.identity)
        self._prefix += level.name + b"/"

    @staticmethod
    def _not_opened(path: bytes, name: bytes, parent: Level, error: OSError) -> Iterator[_Item]:
        if error.errno in _OUR_LIMITS:
            raise error
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            yield _replaced(path)
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

    def _list(self, level: Level, path: bytes) -> Iterator[_Item]:
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


class _WalkByDirectory(_Walk):
    """One run of `walk` that yields all of a directory before it enters what is in it."""

    def _list(self, level: Level, path: bytes) -> Iterator[_Item]:
        """Yield what the directory holds and leave pending which of its directories are to be entered."""
        if not self._names(level):
            yield from super()._list(level, path)
            level.directories.clear()
        names = level.pending  # stays there while it gets shorter: what comes later is looked at by who stores files
        prefix, fd, entered = bytes(self._prefix), level.fd, []
        keep, check, look = self._keep, self._check, os.stat
        file, regular, directory = EntryKind.FILE, stat.S_IFREG, stat.S_IFDIR
        while names:
            check()
            name = names.pop()
            path = prefix + name
            try:
                status = look(name, dir_fd=fd, follow_symlinks=False)
            except OSError as error:
                if keep(path, False):
                    yield problem_from(path, error, "cannot be examined")
                continue
            kind = stat.S_IFMT(status.st_mode)
            if kind == directory:
                if name.startswith(STAGING_PREFIX) or not keep(path, True):
                    continue
                # Where something is mounted this is what is mounted, so most that is refused is not even named.
                refusal = self._refusal(path, (status.st_dev, status.st_ino))
                yield refusal or TreeEntry(path, name, EntryKind.DIRECTORY, status, b"", level)
                if refusal is None and (self._cross_devices or status.st_dev == self._device):
                    entered.append(name)
            elif not keep(path, False):
                continue
            elif kind == regular:
                yield TreeEntry(path, name, file, status, b"", level)
            else:
                yield self._link_or_special(path, name, status, level)
        entered.reverse()
        level.pending = entered

    def _names(self, level: Level) -> bool:
        """List the names alone, which takes a quarter of the time: every entry is examined anyway."""
        self._check()
        try:
            names = list(map(os.fsencode, os.listdir(level.fd)))
        except OSError:
            return False
        names.sort(reverse=True)
        level.pending = names
        return True

    def _advance(self, level: Level) -> Generator[_Item, None, bool]:
        """Enter the next pending directory that can be entered; says if one was."""
        prefix = bytes(self._prefix)
        while level.pending:
            self._check()
            name = level.pending.pop()
            path = prefix + name
            try:
                fd = os.open(name, DIRECTORY_FLAGS, dir_fd=level.fd)
            except OSError as error:
                yield self._left_out(path, error)
                continue
            inner = Level(fd, name, os.fstat(fd))
            # Asked again: another may have the name by now.
            refusal = self._refusal(path, inner.identity)
            if refusal is None and (self._cross_devices or inner.device == self._device):
                self._enter(inner)
                yield from self._list(inner, path)
                return True
            inner.close()
            if refusal is not None:
                yield refusal
        return False

    @staticmethod
    def _left_out(path: bytes, error: OSError) -> TreeProblem:
        if error.errno in _OUR_LIMITS:
            raise error
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            return _replaced(path)
        return problem_from(path, error, "cannot be opened")


def _replaced(path: bytes) -> TreeProblem:
    text = f"{escape(path)} was a directory and was replaced while the tree was read"
    return TreeProblem(path, ProblemReason.NOT_A_DIRECTORY_ANYMORE, text)


def walk(
    root_fd: int,
    *,
    keep: Callable[[bytes, bool], bool],
    check: Callable[[], None],
    skip_identities: Collection[tuple[int, int]] = frozenset(),
    cross_devices: bool = True,
    by_directory: bool = False,
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

    With `by_directory` everything that lies directly in a directory comes first, its directories among the rest with
    what `lstat` says of them, and only then are these entered, in order. So what one directory holds is contiguous, and
    paths are sorted by (the parent with NUL for `/`, the name). A directory that cannot be entered any more is then an
    entry and, later, a problem.
    """
    try:
        chain = DirectoryChain(root_fd)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM):
            raise
        yield problem_from(b"", error, "cannot be opened")
        return
    try:
        kind = _WalkByDirectory if by_directory else _Walk
        yield from kind(chain, keep, check, skip_identities, cross_devices).run()
    finally:
        chain.close()
