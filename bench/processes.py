"""What a command takes as a whole process: time, processor, memory."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.service import peak_memory

__all__ = ["Usage", "Watched", "claim_memory", "measured"]

#: Linux gives free pages of this order and above back to a virtual machine's host; none has the order 11.
_REPORTED = Path("/sys/module/page_reporting/parameters/page_reporting_order")
_LARGEST_ORDER = 10
_LEFT_ALONE = 2 << 30


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


def claim_memory() -> str:
    """Use nearly all free memory once and let it go; gives a line for people where that does not last.

    A virtual machine gets memory from its host when it first uses it, and many machines give back what is free within
    seconds. To get it again costs up to ten times of what is measured: `cp -r` of 2 GiB took 0.7 s, and 8.5 s after
    the memory had been given back.
    """
    size = psutil.virtual_memory().available - _LEFT_ALONE
    if size > 0:
        script = "import mmap, sys\nm = mmap.mmap(-1, int(sys.argv[1]))\nfor at in range(0, len(m), 4096): m[at] = 1"
        subprocess.run([sys.executable, "-c", script, str(size)], check=True)
    with contextlib.suppress(OSError, ValueError):
        if int(_REPORTED.read_text()) <= _LARGEST_ORDER:
            return (
                "This machine gives free memory back to its host, and each turn paid for getting it again. "
                f"`echo {_LARGEST_ORDER + 1} > {_REPORTED}` ends that."
            )
    return ""
