"""What a command takes as a whole process: time, processor, memory."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.service import peak_memory

__all__ = ["Usage", "Watched", "measured"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What one piece of work took: seconds of the clock, seconds of processors (user and system, all its processes),
    and the highest resident size of its largest process in bytes."""

    seconds: float
    processor: float
    peak: int


def measured(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Usage:
    """Run a command in a folder, from its start to its end. Raises RuntimeError with its last lines if it fails."""
    with tempfile.TemporaryFile() as log:
        began = time.monotonic()
        process = subprocess.Popen(
            command, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        with Watched(process.pid) as watched:
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            said = log.read().decode(errors="replace").strip()[-2000:]
            raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}: {said}")
    return Usage(seconds, usage.ru_utime + usage.ru_stime, watched.peak)


class Watched:
    """Looks at the memory of a process, and of its children if asked, while they run. What `wait4` tells is no use: it
    counts the parent's memory at the fork. To look for children costs the tool some per cent of a core."""

    def __init__(self, pid: int, *, children: bool = False) -> None:
        self.peak = 0
        self._process = psutil.Process(pid)
        self._children = children
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            with contextlib.suppress(psutil.Error, OSError, RuntimeError):
                children = self._process.children(recursive=True) if self._children else []
                for one in (self._process, *children):
                    self.peak = max(self.peak, peak_memory(one))
