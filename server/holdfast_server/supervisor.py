"""The supervisor: spawns one edge and the workers, restarts what dies, and takes everything down in order.

It is small on purpose (no gRPC, no DBOS, no catalog), so that it outlives what can fail. A worker that died is
replaced, and the replacement is told whose leases to expire. SIGTERM and SIGINT drain: workers finish or hand back
their tasks, the edge serves watchers meanwhile, then everything exits.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast_server.process import ALLOCATOR

__all__ = ["Supervisor"]

_log = logging.getLogger(__name__)

_BACKOFF_FIRST = 0.5
_BACKOFF_LAST = 30.0
#: A child that lived this long (seconds) had no trouble starting; its next death is forgiven.
_HEALTHY_AFTER = 60.0


@dataclass(slots=True)
class _Child:
    """One slot: an edge or a worker, whichever process fills it at present."""

    role: str
    process: subprocess.Popen[bytes] | None = None
    owner: str = ""
    life: int = -1
    status: int = -1
    started: float = 0.0
    restart_at: float = 0.0
    failures: int = 0
    dead_owners: list[str] = field(default_factory=list)
    pending: bytes = b""


class Supervisor:
    """Runs until told to stop. `command` gives the arguments that start a role; `on_ready` gets the edge's address
    once."""

    def __init__(
        self,
        workers: int,
        command: Callable[[str], Sequence[str]],
        on_ready: Callable[[str], None],
        drain_seconds: float,
    ) -> None:
        self._children = [_Child("edge"), *(_Child("worker") for _ in range(workers))]
        self._command = command
        self._on_ready = on_ready
        self._drain = drain_seconds
        self._address: str | None = None
        self._stopping = False
        self._began = time.time_ns() // 1000
        self._selector = selectors.DefaultSelector()
        self._failed_start = False

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; gives the exit status."""
        wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop_signal)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(wake_read, selectors.EVENT_READ, None)
        for child in self._children:
            self._spawn(child)
        while not self._stopping and not self._failed_start:
            self._wait(wake_read, self._next_restart())
            self._reap()
            self._restart_due()
        self._shut_down()
        return 1 if self._failed_start else 0

    def _on_stop_signal(self, *_: Any) -> None:
        self._stopping = True

    def _spawn(self, child: _Child) -> None:
        life_read, life_write = os.pipe()
        status_read, status_write = os.pipe()
        child.owner = str(uuid.uuid4())
        arguments = [
            *self._command(child.role),
            *("--life-fd", str(life_read), "--status-fd", str(status_write), "--parent", str(os.getpid())),
        ]
        if child.role == "worker":
            arguments += ["--owner", child.owner]
            if child.dead_owners:
                arguments += ["--dead-owners", ",".join(child.dead_owners[-20:])]
            else:
                # The data directory is ours alone, so workers of an earlier supervisor are dead.
                arguments += ["--dead-before", str(self._began)]
        elif self._address is not None:
            # The same port again, so that clients find the edge where it was.
            arguments += ["--bound", self._address]
        child.process = subprocess.Popen(
            [sys.executable, *arguments],
            env={**ALLOCATOR, **os.environ},
            pass_fds=(life_read, status_write),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal is the supervisor's to handle
        )
        os.close(life_read)
        os.close(status_write)
        child.life, child.status, child.started, child.restart_at = life_write, status_read, time.monotonic(), 0.0
        self._selector.register(status_read, selectors.EVENT_READ, child)

    def _wait(self, wake: int, seconds: float | None) -> None:
        for key, _ in self._selector.select(seconds):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, 1024)
            else:
                self._read_status(key.data)

    def _read_status(self, child: _Child) -> None:
        data = os.read(child.status, 65_536)
        if not data:
            self._selector.unregister(child.status)
            os.close(child.status)
            child.status = -1
            return
        *lines, child.pending = (child.pending + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "address" in message and self._address is None:
                self._address = message["address"]
                self._on_ready(message["address"])
            if "fatal" in message and self._address is None:
                # A setting or the machine is wrong (port taken, no rights): starting again cannot help.
                sys.stderr.write(f"holdfast-server: {message['fatal']}\n")
                self._failed_start = True

    def _reap(self) -> None:
        for child in self._children:
            if child.process is None or child.process.poll() is None:
                continue
            status, lived = child.process.returncode, time.monotonic() - child.started
            if child.status >= 0:
                self._read_status(child)
            self._release(child)
            if child.role == "worker":
                child.dead_owners.append(child.owner)
            child.failures = 0 if lived > _HEALTHY_AFTER else child.failures
            # The first death is answered at once: tasks wait.
            delay = min(_BACKOFF_FIRST * 2 ** (child.failures - 1), _BACKOFF_LAST) if child.failures else 0.0
            child.failures += 1
            child.process, child.restart_at = None, time.monotonic() + delay
            how = f"signal {-status}" if status < 0 else f"status {status}"
            _log.warning("the %s ended with %s; restarting in %.1f s", child.role, how, delay)

    def _release(self, child: _Child) -> None:
        if child.life >= 0:
            os.close(child.life)
            child.life = -1
        if child.status >= 0:
            self._selector.unregister(child.status)
            os.close(child.status)
            child.status = -1
        child.pending = b""

    def _next_restart(self) -> float | None:
        times = [child.restart_at for child in self._children if child.process is None]
        return max(min(times) - time.monotonic(), 0.0) if times else None

    def _restart_due(self) -> None:
        for child in self._children:
            if child.process is None and time.monotonic() >= child.restart_at and not self._stopping:
                self._spawn(child)

    def _shut_down(self) -> None:
        workers = [c for c in self._children if c.role == "worker" and c.process is not None]
        edges = [c for c in self._children if c.role == "edge" and c.process is not None]
        # First the edge stops taking calls and the workers drain; watchers stay until the workers are done.
        self._signal([*edges, *workers])
        self._join(workers, self._drain + 15.0)
        self._signal(edges)
        self._join(edges, 10.0)

    def _signal(self, children: Sequence[_Child]) -> None:
        for child in children:
            if child.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    child.process.send_signal(signal.SIGTERM)

    def _join(self, children: Sequence[_Child], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for child in children:
            if child.process is None:
                continue
            try:
                child.process.wait(max(deadline - time.monotonic(), 0.01))
            except subprocess.TimeoutExpired:
                _log.warning("the %s did not stop in time and is killed", child.role)
                child.process.kill()
                child.process.wait()
            self._release(child)
