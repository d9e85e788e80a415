"""Blocks of bytes on their way from one thread to another, and errors both ways."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

__all__ = ["AHEAD", "TICK", "Stopped", "ThreadPipe", "check_interpreter"]

#: Bytes that wait in a pipe: so many, and the block that went over it.
AHEAD = 1 << 20
#: How long a wait lasts at most before `check` is asked again. A cancel must be seen within 100 ms.
TICK = 0.05


class Stopped(Exception):
    """The other side has gone."""


class ThreadPipe:
    """Blocks on their way to another thread. Whichever side fails says so, and the other side raises it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._blocks: deque[bytes] = deque()
        self._held = 0
        self._ended = False
        self._error: BaseException | None = None

    def put(self, block: bytes, check: Callable[[], None]) -> None:
        """Raises at once what the other side failed with."""
        while True:
            with self._changed:
                if self._error is not None:
                    raise self._error
                if self._held < AHEAD:
                    self._blocks.append(block)
                    self._held += len(block)
                    self._changed.notify_all()
                    return
                self._changed.wait(TICK)
            check()

    def take(self, check: Callable[[], None]) -> bytes:
        """The next block; empty at the end. Raises what the other side failed with, after the blocks before that."""
        while True:
            with self._changed:
                if self._blocks:
                    block = self._blocks.popleft()
                    self._held -= len(block)
                    self._changed.notify_all()
                    return block
                if self._error is not None:
                    raise self._error
                if self._ended:
                    return b""
                self._changed.wait(TICK)
            check()

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def stop(self) -> None:
        """Nobody wants what is in the pipe."""
        with self._changed:
            self._blocks.clear()
            self._held = 0
            self._error = self._error or Stopped()
            self._changed.notify_all()


def check_interpreter() -> None:
    """A thread's own `check`: the interpreter waits for its threads when it ends, for one that nobody stopped too."""
    if not threading.main_thread().is_alive():
        raise Stopped
