"""How the outside steers running work, and how the work tells where it is.

The core asks `Control.check` between blocks of at most 8 MiB and in every wait; it raises, and the core undoes its
work on the way out. `Progress` is written by the one thread that does the work and read by whoever reports it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from holdfast_server.errors import Cancelled, Drained, Fenced, Stopped

__all__ = ["Cleanup", "Control", "PositionProgress", "Problem", "Progress", "ReadingProgress", "UndoingControl"]

#: What a file costs beside its bytes, for percent and ETA: opening it is worth reading this much.
_FILE_COST = 4096


class Control:
    """Stop signals for one running task. Thread-safe; the gravest signal wins: fenced, then cancelled, then drained."""

    def __init__(self) -> None:
        self._signal: type[Stopped] | None = None
        self._event = threading.Event()

    def cancel(self) -> None:
        if self._signal is not Fenced:
            self._signal = Cancelled
            self._event.set()

    def drain(self) -> None:
        if self._signal is None:
            self._signal = Drained
            self._event.set()

    def fence(self) -> None:
        self._signal = Fenced
        self._event.set()

    @property
    def stopped(self) -> bool:
        return self._signal is not None

    def check(self) -> None:
        """Raises Cancelled, Drained or Fenced when the work must stop."""
        signal = self._signal
        if signal is not None:
            raise signal

    def wait(self, seconds: float) -> None:
        """Sleep, but wake and raise as soon as the work must stop."""
        self._event.wait(seconds)
        self.check()


class UndoingControl(Control):
    """Of work that must also be done for a cancelled task: it takes back what an earlier attempt left. Every other
    signal of `control` still stops it."""

    def __init__(self, control: Control) -> None:
        super().__init__()
        self._control = control

    @property
    def stopped(self) -> bool:
        try:
            self.check()
        except Stopped:
            return True
        return False

    def check(self) -> None:
        with suppress(Cancelled):
            self._control.check()

    def wait(self, seconds: float) -> None:
        self._event.wait(seconds)
        self.check()


class Progress:
    """Counters of one running task: bytes and files of the source as they were read, bytes as they were stored.

    `position` only grows within an attempt: it is how far the attempt got, in work units. Unknown totals are None.
    """

    def __init__(self) -> None:
        self.phase = "starting"
        self.original_size = 0
        self.compressed_size = 0
        self.files = 0
        self.total_size: int | None = None
        self.total_files: int | None = None
        self.totals_estimated = True
        #: False: names of files are not kept here, because what is read here is stored and shown.
        self.keep_names = True
        self._current_file = b""
        #: Source bytes handled in whatever phase, for the speed: those read back count again.
        self.handled = 0
        self._done = 0.0
        self._total: float | None = None

    def set_totals(self, size: int, files: int, *, work: float, estimated: bool = False) -> None:
        """`work`: how often every byte is handled; 1.25 for a backup that is read back at a quarter of the cost."""
        self.total_size = size
        self.total_files = files
        self.totals_estimated = estimated
        self._total = work * (size + _FILE_COST * files)

    @property
    def current_file(self) -> bytes:
        """The entry at work, empty between entries."""
        return self._current_file

    @current_file.setter
    def current_file(self, path: bytes) -> None:
        self._current_file = path if self.keep_names else b""

    def begin(self, phase: str) -> None:
        self.phase = phase
        self.current_file = b""

    def advance(self, size: int, files: int = 0, *, work: float = 1.0) -> None:
        """Account for source bytes and files handled, at `work` of the full cost."""
        self.handled += size
        self._done += work * (size + _FILE_COST * files)

    def count(self, size: int, files: int = 0) -> None:
        """Source bytes and files read into the result, handled at full cost."""
        # As `advance` does it, without the call: this runs once for every file of a backup.
        self.original_size += size
        self.files += files
        self.handled += size
        self._done += size + _FILE_COST * files

    def follow(self, size: int, files: int, position: int, whole: int) -> None:
        """Account for content of unknown total, read from a file of `whole` bytes that is behind up to `position`."""
        self.handled += size
        self.original_size += size
        self.files += files
        self._total = float(whole)
        self._done = max(self._done, float(position))

    def settle(self, size: int, files: int) -> None:
        """What was read in the end: archive readers count the closing members as files until they know better."""
        self.original_size, self.files = size, files

    @property
    def position(self) -> int:
        return int(self._done)

    @property
    def remaining(self) -> float | None:
        """Work units left; None while totals are unknown."""
        return None if self._total is None else max(self._total - self._done, 0.0)

    @property
    def percent(self) -> float | None:
        """0 to 99.9 while running; None while totals are unknown."""
        if self._total is None:
            return None
        if self._total <= 0:
            return 0.0
        return min(100.0 * self._done / self._total, 99.9)


class ReadingProgress:
    """Turns an archive reader's running totals into steps of a task's progress.

    A reader counts the closing members as files until it knows better; what exceeds `size` and `files` is left out.
    `count_as_read` False: the bytes were counted before, and are only handled again, at `work` of the full cost.
    """

    def __init__(
        self, progress: Progress, size: int, files: int, *, work: float = 1.0, count_as_read: bool = True
    ) -> None:
        self._progress = progress
        self._limits = (size, files)
        self._done = (0, 0)
        self._work = work
        self._count = count_as_read

    def __call__(self, size: int, files: int, path: bytes) -> None:
        self._progress.current_file = path
        now = (max(min(size, self._limits[0]), self._done[0]), max(min(files, self._limits[1]), self._done[1]))
        more, more_files = now[0] - self._done[0], now[1] - self._done[1]
        self._done = now
        if self._count:
            self._progress.count(more, more_files)
        else:
            self._progress.advance(more, more_files, work=self._work)


class PositionProgress:
    """Turns an archive reader's running totals into progress where the whole is unknown: how much of the file is read.

    `position` gives how far in the file the reader is, `whole` is the file's size.
    """

    def __init__(self, progress: Progress, position: Callable[[], int], whole: int) -> None:
        self._progress = progress
        self._position = position
        self._whole = whole
        self._done = (0, 0)

    def __call__(self, size: int, files: int, path: bytes) -> None:
        self._progress.current_file = path
        more, more_files = max(size - self._done[0], 0), max(files - self._done[1], 0)
        self._done = (self._done[0] + more, self._done[1] + more_files)
        self._progress.follow(more, more_files, self._position(), self._whole)


@dataclass(frozen=True, slots=True)
class Problem:
    """One file or folder that was not handled as asked. `path` is relative to the source, as bytes."""

    path: bytes
    reason: str
    message: str


@dataclass(slots=True)
class Cleanup:
    """What an undone or recovered task removed, and what it had to leave."""

    files_removed: int = 0
    bytes_freed: int = 0

    def removed(self, files: int, size: int) -> None:
        self.files_removed += files
        self.bytes_freed += size
