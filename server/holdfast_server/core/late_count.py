"""Counting what there is to do while it is done, if that takes long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Self

from holdfast_server.core.control import Control, Progress
from holdfast_server.errors import HoldfastError, Stopped

__all__ = ["LateCount"]

_PATIENCE: Final = 3.0


class LateCount:
    """Sets a progress's totals from a thread, some seconds after it began. A context manager around the work.

    `count` gives bytes and files, and asks the control it is given. What it cannot count stays unknown.
    """

    def __init__(
        self, count: Callable[[Control], tuple[int, int]], progress: Progress, *, patience: float = _PATIENCE
    ) -> None:
        self._count = count
        self._progress = progress
        self._patience = patience
        self._control = Control()
        self._thread = threading.Thread(target=self._run, name="late-count", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._control.cancel()
        self._thread.join()

    def _run(self) -> None:
        with suppress(Stopped, HoldfastError, OSError):
            self._control.wait(self._patience)
            size, files = self._count(self._control)
            self._progress.set_totals(size, files, work=1.0)
