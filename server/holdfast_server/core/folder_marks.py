"""Whether folders stood still while they were read: a coin that moved meanwhile may not have been seen in either."""

from __future__ import annotations

import os
import time
from contextlib import suppress

__all__ = ["TICK_SECONDS", "FolderMarks"]

#: Two of the longest ticks of the clock that stamps files: within this time of one change a second may not show.
TICK_SECONDS = 0.02


class FolderMarks:
    """The folders of one reading, each as it was when it was listed."""

    def __init__(self) -> None:
        self._marks: list[tuple[bytes, tuple[int, int, int]]] = []
        self._began = time.time_ns()

    def add(self, path: bytes, status: os.stat_result) -> None:
        """`path` is relative to the root that `is_steady` is given, empty for itself."""
        self._marks.append((path, _mark(status)))

    def is_steady(self, root_fd: int) -> bool:
        """Whether no folder changed since it was listed.

        False also when one had changed within a tick of the beginning: a later change would leave the same time.
        """
        if any(abs(self._began - mtime) < TICK_SECONDS * 1e9 for _, (_, mtime, _) in self._marks):
            return False
        with suppress(OSError):
            return all(
                _mark(os.stat(path or b".", dir_fd=root_fd, follow_symlinks=False)) == mark
                for path, mark in self._marks
            )
        return False


def _mark(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns
