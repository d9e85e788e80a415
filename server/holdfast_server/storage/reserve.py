"""Space that is kept for the work that makes room on a full disk.

A reserve is a folder of a few allocated files: each is some bytes and one inode of its file system, given back by
removing it. It is no promise: what is given back is anybody's, and a file system that copies on write, or keeps
snapshots of itself, may give back nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from holdfast_server.storage.descent import DIRECTORY_FLAGS
from holdfast_server.storage.local import free_bytes

__all__ = ["NO_ROOM", "Reserve"]

#: What a system call says when there is no room: on the disk, or below a quota.
NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

#: A reserve is never more than this part of its file system.
_PART: Final = 8
_FILE_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIECE: Final = 1 << 20
_BLOCK: Final = 512  # of st_blocks
_PROBE: Final = "probe"
_PROBE_SIZE: Final = 65_536


class Reserve:
    """A folder of at most `files` files of `share` bytes each; fewer on a small file system.

    `path` is the folder, relative to `dir_fd` if that is given, which stays the caller's. Safe to use from several
    threads and processes. Nothing here raises OSError: who needs a reserve has an error already.
    """

    def __init__(self, path: bytes, files: int, share: int, dir_fd: int | None = None) -> None:
        self._path = path
        self._files = files
        self._share = share
        self._dir_fd = dir_fd

    def keep(self, *, wait: bool = False) -> bool:
        """Make what is missing, as long as one share stays free beside it, and nobody has it in use or makes it now,
        unless that is to be waited for; gives whether all of it is there."""
        with self._opened() as folder, contextlib.suppress(OSError):
            if folder is None:
                return False
            names = self._names(folder)
            if all(self._stands(folder, name) for name in names):
                return True
            if _lock(folder, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB):
                return all(self._stands(folder, name) or self._make(folder, name) for name in names)
        return False

    def release(self, files: int | None = None) -> int:
        """Give back all of it, or so many files; gives how many bytes there were."""
        freed = 0
        with self._opened() as folder, contextlib.suppress(OSError):
            if folder is None:
                return 0
            for name, size in reversed(_files_in(folder)):
                if files is not None and freed >= files * self._share:
                    break
                with contextlib.suppress(FileNotFoundError):  # another process was faster
                    os.unlink(name, dir_fd=folder)
                    freed += size
        return freed

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Meanwhile nobody makes again what is given back."""
        with self._opened() as folder:
            if folder is not None:
                _lock(folder, fcntl.LOCK_SH)
            yield

    @property
    def size(self) -> int:
        """How many bytes all of it is, on this file system; 0 when that cannot be asked."""
        with self._opened() as folder, contextlib.suppress(OSError):
            return 0 if folder is None else len(self._names(folder)) * self._share
        return 0

    @property
    def left(self) -> int:
        """How many bytes of it are there now."""
        with self._opened() as folder, contextlib.suppress(OSError):
            return 0 if folder is None else sum(size for _, size in _files_in(folder))
        return 0

    def is_short(self, size: int) -> bool:
        """Whether the file system says that less than `size` bytes are free, or no inode."""
        with self._opened() as folder, contextlib.suppress(OSError):
            if folder is None:
                return True
            status = os.fstatvfs(folder)
            # There are file systems that make inodes as they are needed, and say that there are none.
            return status.f_bavail * status.f_frsize < size or (status.f_files > 0 and status.f_favail == 0)
        return False

    def is_full(self) -> bool:
        """Whether a small file cannot be written now: a quota shows in nothing else."""
        with self._opened() as folder:
            if folder is None:
                return True
            try:
                fd = os.open(_PROBE, _FILE_FLAGS, 0o600, dir_fd=folder)
                try:
                    _allocate(fd, _PROBE_SIZE)
                finally:
                    os.close(fd)
                    os.unlink(_PROBE, dir_fd=folder)
            except OSError as error:
                return error.errno in NO_ROOM
        return False

    def _names(self, folder: int) -> list[str]:
        status = os.fstatvfs(folder)
        most = status.f_blocks * status.f_frsize // _PART // self._share
        return [f"{number:03d}" for number in range(min(self._files, most))]

    def _stands(self, folder: int, name: str) -> bool:
        try:
            return os.stat(name, dir_fd=folder, follow_symlinks=False).st_size >= self._share
        except FileNotFoundError:
            return False

    def _make(self, folder: int, name: str) -> bool:
        if free_bytes(folder) < 2 * self._share:
            return False
        fd = os.open(name, _FILE_FLAGS, 0o600, dir_fd=folder)
        try:
            _allocate(fd, self._share)
        except OSError:
            os.unlink(name, dir_fd=folder)
            raise
        finally:
            os.close(fd)
        return True

    @contextmanager
    def _opened(self) -> Iterator[int | None]:
        """The folder; None when there is none and none can be made."""
        try:
            fd = self._open_folder()
        except OSError:
            yield None
            return
        try:
            yield fd
        finally:
            os.close(fd)

    def _open_folder(self) -> int:
        try:
            return os.open(self._path, DIRECTORY_FLAGS, dir_fd=self._dir_fd)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._path, 0o700, dir_fd=self._dir_fd)
            return os.open(self._path, DIRECTORY_FLAGS, dir_fd=self._dir_fd)


def _lock(folder: int, how: int) -> bool:
    """False when another has it locked."""
    try:
        fcntl.flock(folder, how)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks: who makes the reserve again while it is in use does no harm
    return True


def _files_in(folder: int) -> list[tuple[str, int]]:
    """Name and size of each file, but for that of a look whether there is room."""
    found = []
    for name in sorted(os.listdir(folder)):
        with contextlib.suppress(FileNotFoundError):
            if name != _PROBE:
                found.append((name, os.stat(name, dir_fd=folder, follow_symlinks=False).st_size))
    return found


def _allocate(fd: int, size: int) -> None:
    """Make the file one of `size` bytes that lie on the disk."""
    allocate = getattr(os, "posix_fallocate", None)
    if allocate is not None:
        try:
            allocate(fd, 0, size)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise
        else:
            if os.fstat(fd).st_blocks * _BLOCK >= size:
                return
    # It cannot allocate, or only says so. No zeros: they would be compressed to nothing.
    for position in range(0, size, _PIECE):
        piece = memoryview(os.urandom(min(_PIECE, size - position)))
        while piece:
            written = os.pwrite(fd, piece, position + min(_PIECE, size - position) - len(piece))
            piece = piece[written:]
    os.fsync(fd)
