"""One attempt of a task on a worker: what the work may write, all of it fenced by the attempt.

The keeper thread (`tasks.worker`) flushes progress, warnings and log lines several times a second and renews the
lease; the work itself only fills buffers. Anything that must hold before something irreversible happens goes through
`guarded`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import sqlalchemy as sa

from holdfast_server.catalog import locks, tasks
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import TaskRow, TaskState
from holdfast_server.clock import Clock
from holdfast_server.core.control import Cleanup, Control, Problem, Progress
from holdfast_server.core.repository_place import OpenRepository
from holdfast_server.errors import Cancelled, Fenced, HoldfastError
from holdfast_server.repository import ContentKeys
from holdfast_server.storage.names import escape
from holdfast_server.tasks.credentials import Credentials
from holdfast_server.tasks.task_keys import TaskKeys
from holdfast_server.wallets.envelope import Keyring, WalletKey

__all__ = ["Outcome", "TaskHandler", "TaskRun", "error_record"]

#: WARNING events per task; further problems are counted and listed by ListTaskProblems only.
WARNING_EVENTS = 1_000
#: Problems kept per task; further ones are counted only.
PROBLEMS_KEPT = 100_000

#: Attempts in a row that got no further than an earlier one, before a task is given up.
_FRUITLESS_LIMIT = 3
_SPEED_WINDOW = 5.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the work ended, short of an exception.

    `commit` runs in the transaction that ends the task: when that transaction does not come about (cancelled or
    fenced in the last moment), nothing of it happens, and `undo` takes back what was already done outside the
    catalog.
    """

    result: dict[str, Any]
    message: str
    warnings: bool = False
    error: dict[str, Any] | None = None
    commit: Callable[[sa.Connection], None] | None = None
    undo: Callable[[], None] | None = None


class TaskHandler(Protocol):
    """One kind of task."""

    def run(self, run: TaskRun) -> Outcome:
        """Do the work. Whatever it raises, it has undone its own work first."""
        ...

    def clean(self, run: TaskRun, *, cancelled: bool) -> list[str]:
        """Remove what lower attempts left behind, counted in `run.cleanup`; gives what had to stay, in words.

        `cancelled`: the task ends now, and what lower attempts finished unrecorded goes too.
        """
        ...

    def abandon(self, connection: sa.Connection, run: TaskRun, failed: bool) -> None:
        """Set the task's rows right, in the transaction that ends it FAILED or CANCELLED."""
        ...


@dataclass(slots=True)
class _Speed:
    """Source bytes handled a second, over the last few seconds."""

    samples: deque[tuple[float, int, float]] = field(default_factory=deque)

    def add(self, now: float, size: int, done: float) -> None:
        self.samples.append((now, size, done))
        while len(self.samples) > 2 and now - self.samples[0][0] > _SPEED_WINDOW:
            self.samples.popleft()

    def rates(self) -> tuple[float, float]:
        """(source bytes a second, work units a second)."""
        first, last = self.samples[0], self.samples[-1]
        seconds = last[0] - first[0]
        if seconds <= 0:
            return 0.0, 0.0
        return (last[1] - first[1]) / seconds, (last[2] - first[2]) / seconds


class TaskRun:
    """The handle that a task's work holds. Methods for the work are called on its thread, `flush` on the keeper's."""

    def __init__(self, row: TaskRow, database: Database, clock: Clock, credentials: Credentials | None = None) -> None:
        self.row = row
        self.control = Control()
        self.progress = Progress()
        self.cleanup = Cleanup()
        self.left_behind: list[str] = []
        self.problems_seen = 0
        #: What is kept as the result of a task that fails or is cancelled: what it found, or did for good until then.
        self.failed_result: dict[str, Any] | None = None
        self._database = database
        self._clock = clock
        self._keys = TaskKeys(row.task_id, credentials, expected=row.has_credentials)
        self._started = clock.monotonic()
        self._buffer = threading.Lock()
        self._lines: list[tuple[int, str, str]] = []
        self._problems: list[dict[str, Any]] = []
        self._warning_events = 0
        self._speed = _Speed()
        self._last_progress: dict[str, Any] = {}
        self._last_advance = clock.now()
        self._least_percent = float(row.progress.get("percent") or 0.0)
        self._flushing = threading.Lock()
        self._closed = False

    @property
    def task_id(self) -> str:
        return self.row.task_id

    @property
    def attempt(self) -> int:
        return self.row.attempt

    @property
    def is_given_up(self) -> bool:
        """Whether too many attempts got no further: this one only settles what they left, and ends the task."""
        # What is being committed is finished however often it takes: giving up would leave half of it.
        return self.row.fruitless >= _FRUITLESS_LIMIT and not self.row.committing

    def credentials(self) -> Credentials | None:
        """See `TaskKeys.credentials`; so for the four that follow."""
        return self._keys.credentials()

    def wallet_key(self, key_id: str) -> WalletKey | None:
        return self._keys.wallet_key(key_id)

    def keyring(self) -> Keyring:
        return self._keys.keyring()

    def content_keys(self, opened: OpenRepository) -> ContentKeys:
        return self._keys.content_keys(opened)

    def hidden(self) -> Mapping[str, Any]:
        return self._keys.hidden()

    def drop_credentials(self) -> None:
        """Let go of the secrets, because the attempt is over."""
        self._keys.drop()

    def log(self, text: str, level: str = "INFO") -> None:
        """Append a line to the task's log."""
        with self._buffer:
            self._lines.append((self._clock.now(), level, text))

    def problem(self, problem: Problem, *, source_id: str, backup_id: str | None) -> None:
        """Report a file or folder that was not handled as asked: a problem row, a log line, a WARNING event."""
        now = self._clock.now()
        path = escape(problem.path)
        with self._buffer:
            self.problems_seen += 1
            if self.problems_seen <= PROBLEMS_KEPT:
                self._problems.append(
                    {
                        "source_id": source_id,
                        "backup_id": backup_id,
                        "path": path,
                        "reason": problem.reason,
                        "message": problem.message,
                        "time": now,
                    }
                )
            if self.problems_seen <= WARNING_EVENTS:
                self._lines.append((now, "WARNING", f"{path}: {problem.message} ({problem.reason})"))
            elif self.problems_seen == WARNING_EVENTS + 1:
                self._lines.append((now, "WARNING", "further problems are listed by ListTaskProblems only"))

    @contextmanager
    def guarded(self) -> Iterator[sa.Connection]:
        """A durable transaction of this attempt. Raises Fenced when the attempt is over, Cancelled when asked to
        stop."""
        self.flush()
        with self._database.write() as connection:
            row = tasks.get_task(connection, self.task_id)
            if row is None or row.attempt != self.attempt:
                self.control.fence()
                raise Fenced
            if row.cancel_requested:
                self.control.cancel()
                raise Cancelled
            yield connection

    def checkpoint(self, connection: sa.Connection, **values: Any) -> None:
        """Remember something for later attempts, inside a guarded transaction."""
        merged = {**self.row.checkpoint, **values}
        if not tasks.update_attempt(connection, self.task_id, self.attempt, checkpoint=merged):
            raise Fenced
        self.row.checkpoint.update(values)

    def flush(self) -> None:
        """Write what has gathered: log lines, problems, warnings, progress. Fences itself when the attempt is over.

        After the run has ended nothing is written any more: the end state is a task's last event.
        """
        with self._flushing:
            if self._closed:
                return
            with self._buffer:
                lines, self._lines = self._lines, []
                found, self._problems = self._problems, []
            progress = self._snapshot()
            changed = progress != self._last_progress
            if not (lines or found or changed):
                return
            try:
                owned = self._write(lines, found, progress if changed else None)
            except BaseException:
                with self._buffer:
                    self._lines[:0], self._problems[:0] = lines, found
                raise
            self._last_progress = progress
            if not owned:
                self.control.fence()

    def _write(
        self, lines: list[tuple[int, str, str]], found: list[dict[str, Any]], progress: dict[str, Any] | None
    ) -> bool:
        now, owned = self._clock.now(), True
        with self._database.write(durable=False) as connection:
            if lines:
                owned = tasks.add_log_lines(connection, self.task_id, self.attempt, lines)
            if found and owned:
                owned = self._record_problems(connection, found, now)
            if progress is not None and owned:
                recovered = self.row.recovering and self.progress.position >= self.row.high_water
                extra = {"recovering": False} if recovered else {}
                owned = tasks.record_progress(connection, self.task_id, self.attempt, progress, now, **extra)
        return owned

    def _record_problems(self, connection: sa.Connection, found: list[dict[str, Any]], now: int) -> bool:
        rows = tasks.add_problems(connection, self.task_id, self.attempt, found)
        if rows is None:
            return False
        shown = rows[: max(WARNING_EVENTS - self._warning_events, 0)]
        self._warning_events += len(shown)
        warnings = [{"problem": row.values(), "warning_count": row.number} for row in shown]
        return tasks.record_warnings(connection, self.task_id, self.attempt, warnings, now)

    def _snapshot(self) -> dict[str, Any]:
        progress, now = self.progress, self._clock.monotonic()
        self._speed.add(now, progress.handled, float(progress.position))
        rate, work_rate = self._speed.rates()
        percent = progress.percent
        if percent is not None:
            self._least_percent = max(self._least_percent, percent)
        last = self._last_progress
        if progress.position != last.get("position") or progress.phase != last.get("phase"):
            self._last_advance = self._clock.now()
        record: dict[str, Any] = {
            "percent": round(self._least_percent, 2) if percent is not None or self._least_percent else None,
            "phase": progress.phase,
            "original_size": progress.original_size,
            "compressed_size": progress.compressed_size,
            "deduplicated_size": progress.compressed_size,
            "files": progress.files,
            "total_size": progress.total_size,
            "total_files": progress.total_files,
            "totals_estimated": progress.totals_estimated,
            "current_file": escape(progress.current_file),
            "position": progress.position,
            "last_advance_time": self._last_advance,
        }
        if {k: v for k, v in last.items() if k in record} == record:
            return last
        record["bytes_per_second"] = round(rate)
        record.update(self._eta(now, work_rate))
        return record

    def _eta(self, now: float, work_rate: float) -> dict[str, Any]:
        """Seconds left between the faster and the slower of the recent and the whole rate, a fifth wider."""
        remaining, elapsed = self.progress.remaining, now - self._started
        if remaining is None or elapsed < 1.0 or self.progress.position <= 0:
            return {"eta_low": None, "eta_high": None}
        rates = [rate for rate in (work_rate, self.progress.position / elapsed) if rate > 0]
        return {
            "eta_low": round(0.8 * remaining / max(rates), 1),
            "eta_high": round(1.2 * remaining / min(rates), 1),
        }

    @contextmanager
    def _ending(self) -> Iterator[sa.Connection]:
        """The run's last transaction; once it is committed, `flush` writes nothing more."""
        with self._flushing:
            with self._database.write() as connection:
                yield connection
            self._closed = True

    def complete(self, outcome: Outcome) -> TaskRow:
        """End the task COMPLETED or COMPLETED_WITH_WARNINGS, together with `outcome.commit`.

        Raises Cancelled or Fenced when it came too late, with nothing changed in the catalog.
        """
        self.flush()
        now = self._clock.now()
        seconds = max(self._clock.monotonic() - self._started, 1e-3)
        progress = {
            **self._last_progress,
            "percent": 100.0,
            "phase": "done",
            "current_file": "",
            "bytes_per_second": round(self.progress.original_size / seconds),
            "eta_low": 0.0,
            "eta_high": 0.0,
        }
        with self._ending() as connection:
            row = tasks.get_task(connection, self.task_id)
            if row is None or row.attempt != self.attempt:
                raise Fenced
            if row.cancel_requested:
                raise Cancelled
            state = TaskState.COMPLETED_WITH_WARNINGS if outcome.warnings else TaskState.COMPLETED
            if outcome.commit is not None:
                outcome.commit(connection)
            ended = tasks.move(
                connection, self.task_id, state, now, fence=self.attempt, end_time=now, owner=None, lease_expires=None,
                progress=progress, message=outcome.message, result=outcome.result, error=outcome.error,
                committing=False, recovering=False,
            )  # fmt: skip
            if ended is None:
                raise Fenced
            locks.release(connection, self.task_id)
            return ended

    def fail(self, error: HoldfastError, handler: TaskHandler) -> TaskRow | None:
        """End the task FAILED; None when this attempt no longer owns it."""
        return self._abandon(TaskState.FAILED, handler, message=error.message, error=error_record(error))

    def end_cancelled(self, handler: TaskHandler) -> TaskRow | None:
        """End the task CANCELLED with its cleanup report; None when this attempt no longer owns it."""
        return self._abandon(TaskState.CANCELLED, handler, message="cancelled")

    def _abandon(self, state: TaskState, handler: TaskHandler, **values: Any) -> TaskRow | None:
        self.flush()
        now = self._clock.now()
        with self._ending() as connection:
            row = tasks.get_task(connection, self.task_id)
            if row is None or row.attempt != self.attempt:
                return None
            if row.cancel_requested and state is TaskState.FAILED:
                # It failed while a cancel was under way: what was asked for is what is reported.
                state, values = TaskState.CANCELLED, {"message": f"cancelled; meanwhile: {values['message']}"}
            if self.failed_result is not None:
                values["result"] = self.failed_result
            handler.abandon(connection, self, state is TaskState.FAILED)
            cleanup = {
                "files_removed": self.cleanup.files_removed,
                "bytes_freed": self.cleanup.bytes_freed,
                "left_behind": self.left_behind[:100],
                "worker_stopped": True,
            }
            ended = tasks.move(
                connection, self.task_id, state, now, fence=self.attempt, end_time=now, owner=None, lease_expires=None,
                cleanup=cleanup, committing=False, recovering=False, **values,
            )  # fmt: skip
            if ended is not None:
                locks.release(connection, self.task_id)
            return ended

    def hand_back(self) -> None:
        """Return a drained task to the queue: a new attempt that does not count as a failed one."""
        self.flush()
        with self._ending() as connection:
            tasks.move(
                connection, self.task_id, TaskState.PENDING, self._clock.now(), fence=self.attempt,
                attempt=self.attempt + 1, owner=None, lease_expires=None, dispatch_time=None,
                message="the worker shut down; the task goes on when the server is back",
            )  # fmt: skip


def error_record(error: HoldfastError) -> dict[str, Any]:
    """An error as the catalog keeps it and `TaskError` shows it."""
    return {
        "type": next(cls.__name__ for cls in type(error).__mro__ if cls.__module__ == HoldfastError.__module__),
        "reason": error.reason.value,
        "message": error.message,
        "remedy": error.remedy,
        "metadata": dict(error.metadata),
    }
