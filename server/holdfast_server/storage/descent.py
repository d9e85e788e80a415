"""Going down a directory tree of any depth with a bounded number of open directories.

Shared by everything that visits trees. No path string is ever resolved: each step is one `openat` of one name, and the
way back up is `..`, believed only if it leads to the directory that was left.
"""

from __future__ import annotations

import os

__all__ = ["DIRECTORY_FLAGS", "OPEN_LEVELS", "DirectoryChain", "Level"]

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: So many of the innermost directories stay open, and the outermost one.
OPEN_LEVELS = 64


class Level:
    """One directory on the way down.

    `fd` is -1 while the directory is closed, and for good once it is `lost`: moved or replaced so that no way leads
    back to it. `pending` holds the names still to be visited, last one first; `directories` says which are directories.
    """

    __slots__ = ("device", "directories", "fd", "inode", "lost", "name", "pending")

    def __init__(self, fd: int, name: bytes, status: os.stat_result) -> None:
        self.fd = fd
        self.name = name
        self.device = status.st_dev
        self.inode = status.st_ino
        self.lost = False
        self.pending: list[bytes] = []
        self.directories: set[bytes] = set()

    @property
    def identity(self) -> tuple[int, int]:
        return self.device, self.inode

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class DirectoryChain:
    """The directories from a root down to the one being visited, innermost last. Owns and closes their descriptors."""

    def __init__(self, root_fd: int) -> None:
        # A description of its own: reading positions are shared between duplicates, and the caller may close its own.
        fd = os.open(b".", DIRECTORY_FLAGS, dir_fd=root_fd)
        self.levels = [Level(fd, b"", os.fstat(fd))]
        self._first_open = 1  # levels[0] and levels[_first_open:] are open, but for lost ones

    @property
    def innermost(self) -> Level:
        return self.levels[-1]

    def enter(self, level: Level) -> None:
        """Go down into an opened child of the innermost directory; its descriptor now belongs to the chain."""
        self.levels.append(level)
        if len(self.levels) - self._first_open > OPEN_LEVELS:
            self.levels[self._first_open].close()
            self._first_open += 1

    def leave(self) -> Level:
        """Go up one level and return the directory that was left, closed. The new innermost is open, or `lost`."""
        child = self.levels.pop()
        index = len(self.levels) - 1
        parent = self.levels[index]
        try:
            if parent.fd < 0 and not parent.lost:
                parent.fd = self._through_child(child, parent)
                if parent.fd < 0:
                    self._from_root(index)
            self._first_open = max(1, min(self._first_open, index))
        finally:
            child.close()
        return child

    def close(self) -> None:
        for level in self.levels:
            level.close()

    @staticmethod
    def _open_same(name: bytes, dir_fd: int, expected: Level) -> int:
        """The named directory if it is the expected one, else -1."""
        try:
            fd = os.open(name, DIRECTORY_FLAGS, dir_fd=dir_fd)
        except OSError:
            return -1
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) == expected.identity:
            return fd
        os.close(fd)
        return -1

    def _through_child(self, child: Level, parent: Level) -> int:
        return -1 if child.fd < 0 else self._open_same(b"..", child.fd, parent)

    def _from_root(self, index: int) -> None:
        """Open levels[index] by its names from the root down; where that fails, this and all below it are lost."""
        fd = os.dup(self.levels[0].fd)
        for step in range(1, index + 1):
            following = self._open_same(self.levels[step].name, fd, self.levels[step])
            os.close(fd)
            fd = following
            if fd < 0:
                for level in self.levels[step:]:
                    level.close()
                    level.lost = True
                return
        self.levels[index].fd = fd
