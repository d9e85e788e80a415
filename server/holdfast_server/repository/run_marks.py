"""Marks of the reading runs of this node: they tell, after a crash, whose process is dead.

A reading run ends by removing its object, which a killed process does not. Its mark is a file in the data directory,
named as the run and locked until the run has ended: the kernel drops the lock at the process's death, however it died.
So a mark that can be locked is that of a dead run, at once and for certain, and whoever locks it ends the run.

A mark is worth what a crash of the machine leaves of it: without one, a run ends by being silent for long enough, as
one of another node does. In a copied data directory marks are not believed: the runs may live where it was copied.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from collections.abc import Callable
from typing import Final, Self

from holdfast_server.repository.json_object import is_run_id

__all__ = ["RunMark", "end_dead_runs"]

_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_PRESENT: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class RunMark:
    """A new run's mark, and its id. A context manager: it holds the lock until it is left, and stays as the mark of a
    dead run unless `ended` was called."""

    def __init__(self, folder: bytes | None) -> None:
        """`folder` is made if it is missing. A run for which there is no mark (no folder, no space) goes on without."""
        self.run_id = str(uuid.uuid4())
        self._path = None if folder is None else os.path.join(folder, self.run_id.encode())
        self._fd = -1
        if folder is not None:
            with contextlib.suppress(OSError):
                self._fd = self._make(folder)

    def _make(self, folder: bytes) -> int:
        assert self._path is not None
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        while True:
            fd = os.open(self._path, _NEW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                if _has_name(fd, self._path):  # nobody took it for a dead one's before it was locked
                    os.write(fd, _identity(fd))
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def ended(self) -> None:
        """The run's object is gone."""
        if self._fd >= 0 and self._path is not None:
            with contextlib.suppress(OSError):  # then it is found later, and there is nothing left to end
                os.unlink(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def end_dead_runs(folder: bytes, end: Callable[[str], None]) -> int:
    """End the runs of dead processes by calling `end` with the id of each; gives how many there were.

    What `end` raises ends this call, and that mark stays. Raises OSError.
    """
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return 0
    return sum(_end_if_dead(os.path.join(folder, name), end) for name in names if is_run_id(os.fsdecode(name)))


def _end_if_dead(path: bytes, end: Callable[[str], None]) -> bool:
    try:
        fd = os.open(path, _PRESENT)
    except FileNotFoundError:
        return False
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False  # its process lives
        if not _has_name(fd, path):
            return False
        known = os.pread(fd, 64, 0) == _identity(fd)
        if known:
            end(os.path.basename(path).decode())
        os.unlink(path)
        return known
    finally:
        os.close(fd)


def _identity(fd: int) -> bytes:
    """What a mark holds, and its copy does not."""
    return b"%d\n" % os.fstat(fd).st_ino


def _has_name(fd: int, path: bytes) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
