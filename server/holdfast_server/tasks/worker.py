"""The worker process's engine room: claims attempts, runs them, keeps their leases, and drains.

Threads: DBOS's, on which the work runs; and one *keeper*, which every 100 ms reads the control columns of running
tasks, every 250 ms flushes their progress, every fifth of a lease renews it, and every second ticks the engine. A
keeper that cannot reach the catalog for a whole lease fences its own tasks, because others may have taken them over.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from holdfast_server.catalog import task_secrets, tasks, workers
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import TaskKind, TaskRow, TaskState
from holdfast_server.clock import Clock
from holdfast_server.errors import (
    Cancelled,
    Drained,
    FailedPrecondition,
    Fenced,
    HoldfastError,
    Internal,
    Reason,
    ResourceExhausted,
    Unavailable,
)
from holdfast_server.storage.local import translate_os_error
from holdfast_server.tasks.credentials import Binding, Credentials, WorkerKey
from holdfast_server.tasks.engine import TaskEngine
from holdfast_server.tasks.housekeeping import Housekeeper
from holdfast_server.tasks.run import TaskHandler, TaskRun

__all__ = ["Worker"]

_log = logging.getLogger(__name__)

_CONTROL_SECONDS = 0.1
_FLUSH_SECONDS = 0.25
_TICK_SECONDS = 1.0


@dataclass(slots=True)
class _Due:
    """When the keeper does what next, in monotonic seconds."""

    flush: float = 0.0
    renew: float = 0.0
    tick: float = 0.0
    housekeeping: float = 0.0


class Worker:
    """Runs the tasks of one process. `owner` identifies the process and nothing else."""

    def __init__(
        self,
        owner: str,
        database: Database,
        engine: TaskEngine,
        handlers: Mapping[TaskKind, TaskHandler],
        housekeeper: Housekeeper,
        clock: Clock,
        lease_seconds: float,
    ) -> None:
        self._owner = owner
        self._key = WorkerKey(owner)
        self._database = database
        self._engine = engine
        self._handlers = handlers
        self._housekeeper = housekeeper
        self._clock = clock
        self._lease = lease_seconds
        # By attempt too: a process that was frozen past its lease may run an old and a new one side by side.
        self._runs: dict[tuple[str, int], TaskRun] = {}
        self._runs_lock = threading.Lock()
        self._draining = threading.Event()
        self._stopped = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)

    def start(self, dead_owners: Sequence[str] = (), dead_before: int | None = None) -> None:
        """Announce the process, expire the leases of workers that the supervisor knows to be dead, start the keeper.

        `dead_before` (microseconds): all workers that started earlier are dead, because their supervisor is.
        """
        with self._database.write() as connection:
            if dead_before is not None:
                workers.expire_leases_before(connection, dead_before)
                workers.forget_workers_before(connection, dead_before)
            if dead_owners:
                workers.expire_leases(connection, dead_owners)
                workers.forget_workers_of(connection, dead_owners)
            self._register(connection)
        self._engine.tick()
        self._keeper.start()

    def drain(self, seconds: float) -> None:
        """Stop claiming; let running tasks finish for a while, then hand them back to the queue. Returns when all is
        quiet."""
        self._draining.set()
        deadline = self._clock.monotonic() + seconds
        while self._running() and self._clock.monotonic() < deadline:
            self._stopped.wait(0.05)
        for run in self._running():
            run.control.drain()
        # Undoing takes a moment; a task that hangs in the kernel must not keep the process for ever.
        deadline = self._clock.monotonic() + 10.0
        while self._running() and self._clock.monotonic() < deadline:
            self._stopped.wait(0.02)
        self._stopped.set()

    def execute(self, task_id: str, attempt: int) -> str:
        """Run one attempt from the queue to its end. Never raises; what it gives back is for DBOS's records only."""
        try:
            run = self._claim(task_id, attempt)
        except Exception:  # noqa: BLE001  the lease rules recover the task; DBOS must not see an error
            _log.exception("claiming attempt %d of task %s failed", attempt, task_id)
            return "unclaimed"
        if run is None:
            return "fenced"
        with self._runs_lock:
            self._runs[task_id, attempt] = run
        try:
            return self._run(run, self._handlers[TaskKind(run.row.kind)])
        except Exception:  # noqa: BLE001  logged, and the loop goes on
            _log.exception("ending attempt %d of task %s failed", attempt, task_id)
            return "lost"
        finally:
            run.drop_credentials()
            with self._runs_lock:
                self._runs.pop((task_id, attempt), None)
            self._admit()

    def _register(self, connection: sa.Connection) -> None:
        host, pid, now = socket.gethostname(), os.getpid(), self._clock.now()
        workers.register_worker(connection, self._owner, host, pid, now, self._key.public)

    def _claim(self, task_id: str, attempt: int) -> TaskRun | None:
        if self._draining.is_set():
            self._engine.give_back(task_id, attempt)
            return None
        now = self._clock.now()
        lease: dict[str, Any] = {"owner": self._owner, "lease_expires": now + self._lease_length}
        with self._database.write() as connection:
            row = tasks.get_task(connection, task_id)
            if row is None or row.attempt != attempt or row.owner is not None:
                return None
            if row.state == TaskState.CANCELLING:
                tasks.update_attempt(connection, task_id, attempt, **lease)
                claimed: TaskRow | None = tasks.get_task(connection, task_id)
            else:
                claimed = tasks.move(
                    connection, task_id, TaskState.RUNNING, now, fence=attempt,
                    start_time=row.start_time or now, message="running", **lease,
                )  # fmt: skip
            credentials = self._open_credentials(connection, claimed, now) if claimed else None
        return TaskRun(claimed, self._database, self._clock, credentials) if claimed else None

    def _open_credentials(self, connection: sa.Connection, row: TaskRow, now: int) -> Credentials | None:
        # At the claim, so that a secret need not outlast its expiry because the work is long.
        if not row.has_credentials:
            return None
        secrets = []
        for one in task_secrets.sealed_secrets(connection, row.task_id, self._owner, now):
            opened = self._key.open(one.sealed, Binding(row.task_id, one.owner, one.resource, one.expires))
            if opened is None:
                return None
            secrets.append((*opened, one.resource))
        return Credentials.assemble(secrets) if secrets else None

    def _run(self, run: TaskRun, handler: TaskHandler) -> str:
        run.log(f"attempt {run.attempt} starts")
        try:
            if run.attempt > 1:
                run.left_behind += handler.clean(run, cancelled=run.row.cancel_requested)
            if run.row.cancel_requested:
                raise Cancelled
            if run.is_given_up:
                raise _interrupted(run.row)
            outcome = handler.run(run)
            try:
                run.log(outcome.message)
                run.complete(outcome)
            except (Cancelled, Fenced) as stop:
                if outcome.undo is not None and isinstance(stop, Cancelled):
                    outcome.undo()
                raise
            return "completed"
        except Fenced:
            _log.warning("attempt %d of task %s is over: another one took the task", run.attempt, run.task_id)
            return "fenced"
        except Drained:
            run.log("the worker shuts down; the task is handed back")
            run.hand_back()
            return "drained"
        except Cancelled:
            if run.attempt > 1 and not run.row.cancel_requested:  # the cancel came after lower attempts were cleaned up
                run.left_behind = self._clean_up(run, handler)
            run.log("cancelled")
            run.end_cancelled(handler)
            return "cancelled"
        except Exception as error:  # noqa: BLE001  every failure of the work ends the task, none may end the worker
            failure = self._as_failure(run, error)
            run.log(f"failed: {failure.message} ({failure.reason})", "ERROR")
            run.fail(failure, handler)
            return "failed"

    def _clean_up(self, run: TaskRun, handler: TaskHandler) -> list[str]:
        try:
            return handler.clean(run, cancelled=True)
        except OSError as error:
            return [translate_os_error(error, "cleaning up").message]

    def _as_failure(self, run: TaskRun, error: Exception) -> HoldfastError:
        if isinstance(error, HoldfastError):
            return error
        if isinstance(error, OSError):
            return translate_os_error(error, f"{run.row.kind.lower()} task")
        _log.exception("task %s failed unexpectedly", run.task_id, exc_info=error)
        return Internal(
            Reason.INTERNAL,
            "the task failed for a reason inside the service",
            metadata={"task_id": run.task_id, "exception": type(error).__name__},
        )

    def _admit(self) -> None:
        try:
            with self._database.write() as connection:
                self._engine.admit(connection)
        except Exception:  # noqa: BLE001  logged, and the loop goes on
            _log.exception("admitting tasks failed; the next tick tries again")

    @property
    def _lease_length(self) -> int:
        return int(self._lease * 1_000_000)

    def _running(self) -> list[TaskRun]:
        with self._runs_lock:
            return list(self._runs.values())

    def _keep(self) -> None:
        due = _Due()
        reached = self._clock.monotonic()
        while not self._stopped.wait(_CONTROL_SECONDS if self._running() else _TICK_SECONDS / 4):
            now = self._clock.monotonic()
            try:
                self._keep_once(due, now)
                reached = now
            except (ResourceExhausted, Unavailable):
                pass
            except Exception:  # noqa: BLE001  logged, and the loop goes on
                _log.exception("the keeper's round failed")
            if self._clock.monotonic() - reached > self._lease:
                for run in self._running():
                    run.control.fence()

    def _keep_once(self, due: _Due, now: float) -> None:
        runs = self._running()
        if runs:
            self._read_controls(runs)
        if now >= due.renew:
            self._renew(runs)
            due.renew = now + self._lease / 5
        if runs and now >= due.flush:
            for run in runs:
                run.flush()
            due.flush = now + _FLUSH_SECONDS
        if now >= due.tick and not self._draining.is_set():
            self._engine.tick()
            due.tick = now + _TICK_SECONDS
        if now >= due.housekeeping and not runs:
            self._housekeeper.run()
            due.housekeeping = now + 86_400.0

    def _read_controls(self, runs: Sequence[TaskRun]) -> None:
        with self._database.read() as connection:
            for run in runs:
                row = tasks.get_task(connection, run.task_id)
                if row is None or row.attempt != run.attempt:
                    run.control.fence()
                elif row.cancel_requested:
                    run.control.cancel()

    def _renew(self, runs: Sequence[TaskRun]) -> None:
        now = self._clock.now()
        with self._database.write(durable=False) as connection:
            if not workers.heartbeat(connection, self._owner, now):
                self._register(connection)
            if runs:
                running = [run.task_id for run in runs]
                workers.renew_leases(connection, self._owner, running, now + self._lease_length)


def _interrupted(row: TaskRow) -> FailedPrecondition:
    phase = str(row.progress.get("phase", "starting"))
    file = str(row.progress.get("current_file", ""))
    where = f"in phase {phase}" + (f" at {file}" if file else "")
    return FailedPrecondition(
        Reason.INTERRUPTED,
        f"{row.fruitless} attempts in a row lost their worker without getting further, last {where}",
        metadata={"phase": phase, "file": file, "attempts": str(row.attempt)},
    )
