"""Creating, admitting, taking over and cancelling tasks: the rules, each one transaction.

A task is PENDING until `admit` finds its locks free, holds them and hands an attempt to the queue. A worker claims
the attempt (`tasks.run`) and keeps a lease on it. When the lease ends, `tick` raises the attempt, which fences the
old one, and hands it to the queue again. `tick` runs every second in the edge and in every worker; whoever comes
first does the work.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import sqlalchemy as sa

from holdfast_server.catalog import backups, locks, repositories, task_secrets, tasks, wallet_keys, workers
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.requests import RequestKey, recall, remember
from holdfast_server.catalog.rows import LockMode, LockWish, TaskKind, TaskRow, TaskState
from holdfast_server.catalog.task_secrets import SealedSecret
from holdfast_server.clock import Clock
from holdfast_server.errors import FailedPrecondition, NotFound, Reason, ResourceExhausted, Unavailable
from holdfast_server.tasks.credentials import (
    CONTENT_KEYS,
    HIDDEN,
    SECRET_SECONDS,
    WALLET_KEY,
    Binding,
    Credentials,
    seal,
)
from holdfast_server.tasks.queue import Dispatcher
from holdfast_server.wallets.wallet_key import WalletKey

__all__ = ["Blocker", "NewTask", "TaskEngine", "conflicts", "task_not_found"]

#: A dispatched attempt that nobody claimed for this long (microseconds) is looked at: its worker may have died between
#: taking it from the queue and claiming it.
_UNCLAIMED = 10_000_000

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class NewTask:
    """What a create call asks for. `request` holds no secret; its `task_id`, if any, becomes the task's.

    `credentials` reach the worker that runs the task, sealed, and nothing else. `queue` is "data" or "short"; unset,
    only a dry run is short.
    """

    kind: TaskKind
    principal: str
    request: dict[str, Any]
    source_ids: Sequence[str]
    wishes: Sequence[LockWish]
    dry_run: bool = False
    message: str = ""
    credentials: Credentials | None = None
    queue: str | None = None


@dataclass(frozen=True, slots=True)
class Blocker:
    """A resource that a waiting task needs, and the task that has it or comes before."""

    resource: str
    task_id: str


class TaskEngine:
    """The rules of task life over the catalog. Thread-safe; one in every process that touches tasks.

    A worker that gave no sign of life for `lease_seconds` counts as gone.
    """

    def __init__(self, database: Database, dispatcher: Dispatcher, clock: Clock, lease_seconds: float) -> None:
        self._database = database
        self._dispatcher = dispatcher
        self._clock = clock
        self._lease = int(lease_seconds * 1_000_000)

    def create(
        self, make: Callable[[sa.Connection], NewTask], key: RequestKey | None, *, makes_room: bool = False
    ) -> TaskRow:
        """Make a task, or give back the one that the same request made before.

        `make` checks the state of the world and says what to create, inside the transaction that creates it. Raises
        what `make` raises, AlreadyExists/REQUEST_ID_REUSED, Unavailable/NO_WORKER when there are credentials and no
        worker to seal them to, and ResourceExhausted/DISK_FULL when the catalog's disk is nearly full, unless the task
        `makes_room`.
        """
        if not makes_room:
            self._require_room(key)
        with self._database.write() as connection:
            if key is not None and (known := recall(connection, key)) is not None:
                return self._require(connection, known["task_id"])
            new = make(connection)
            now = self._clock.now()
            row = TaskRow(
                task_id=new.request.get("task_id") or str(uuid.uuid4()),
                kind=new.kind,
                origin="MANUAL",
                principal=new.principal,
                request=new.request,
                dry_run=new.dry_run,
                source_ids=list(new.source_ids),
                source_count=len(new.source_ids),
                create_time=now,
                update_time=now,
                queue=new.queue or ("short" if new.dry_run else "data"),
                message=new.message,
                has_credentials=new.credentials is not None,
            )
            tasks.insert_task(connection, row)
            if new.credentials is not None:
                self._seal(connection, row.task_id, new.credentials, now)
            locks.wish(connection, row.task_id, new.wishes)
            if key is not None:
                remember(connection, key, {"task_id": row.task_id}, now)
            self._admit(connection)
            return self._require(connection, row.task_id)

    def _require_room(self, key: RequestKey | None) -> None:
        try:
            self._database.require_room()
        except ResourceExhausted:
            if key is None or self.recall(key) is None:
                raise

    def recall(self, key: RequestKey) -> TaskRow | None:
        """The task that the same request made before. Raises AlreadyExists/REQUEST_ID_REUSED."""
        with self._database.read() as connection:
            known = recall(connection, key)
            return None if known is None else self.honest(self._require(connection, known["task_id"]))

    def inside(self, question: Callable[[sa.Connection], Answer]) -> Answer:
        """The answer to a question about the catalog, from one state of it."""
        with self._database.read() as connection:
            return question(connection)

    def get(self, task_id: str) -> TaskRow:
        """Raises NotFound/TASK_NOT_FOUND. A task whose lease has ended is never shown as running."""
        with self._database.read() as connection:
            return self.honest(self._require(connection, task_id))

    def honest(self, row: TaskRow) -> TaskRow:
        """The row as it may be shown: RUNNING without a live lease is PENDING, whatever the journal still says."""
        if row.state == TaskState.RUNNING and (row.lease_expires or 0) < self._clock.now():
            return replace(row, state=TaskState.PENDING)
        return row

    def blockers(self, connection: sa.Connection, row: TaskRow) -> tuple[list[Blocker], int | None]:
        """What a PENDING task waits for, and its place in the queue counted from 1; nothing for any other."""
        if row.state != TaskState.PENDING:
            return [], None
        position = tasks.pending_ahead(connection, row) + 1
        if row.dispatch_time is not None:
            return [], position
        everything = locks.all_locks(connection)
        mine = [LockWish(r, m) for r, t, m, _ in everything if t == row.task_id]
        others = [(r, t, m) for r, t, m, held in everything if t != row.task_id and held]
        return [Blocker(r, t) for r, t in conflicts(mine, others)], position

    def cancel(self, task_id: str) -> TaskRow:
        """Ask a task to stop; idempotent, and nothing happens to an ended one.

        A task that never started ends CANCELLED here; any other goes through CANCELLING, and a worker undoes its work.
        Raises NotFound/TASK_NOT_FOUND, FailedPrecondition/TASK_COMMITTING.
        """
        with self._database.write() as connection:
            row = self._require(connection, task_id)
            if row.ended or row.cancel_requested:
                return self.honest(row)
            if row.committing:
                raise FailedPrecondition(
                    Reason.TASK_COMMITTING,
                    f"task {task_id} is being committed and can no longer be cancelled",
                    metadata={"task_id": task_id},
                )
            now = self._clock.now()
            if row.state == TaskState.PENDING and row.start_time is None:
                cleanup = {"files_removed": 0, "bytes_freed": 0, "left_behind": [], "worker_stopped": False}
                ended = tasks.move(
                    connection, task_id, TaskState.CANCELLED, now,
                    cancel_requested=True, end_time=now, cleanup=cleanup, message="cancelled before it started",
                )  # fmt: skip
                locks.release(connection, task_id)
                backups.delete_unfinished(connection, task_id)
                self._admit(connection)
            else:
                ended = tasks.move(
                    connection, task_id, TaskState.CANCELLING, now, cancel_requested=True, message="cancelling"
                )
                if row.owner is None and row.dispatch_time is None:
                    self._dispatch(connection, row)
            return ended or self._require(connection, task_id)

    def resume(
        self,
        task_id: str,
        wishes: Callable[[TaskRow], Sequence[LockWish]],
        credentials: Callable[[TaskRow], Credentials | None],
    ) -> TaskRow:
        """Begin a new attempt of a task that FAILED with EXPORT_UNPUBLISHED; nothing happens to one that has not ended.

        `wishes` and `credentials` give anew what went when it ended. Raises NotFound/TASK_NOT_FOUND,
        FailedPrecondition/TASK_ENDED for any other end, Unavailable/NO_WORKER.
        """
        with self._database.write() as connection:
            row = self._require(connection, task_id)
            if not row.ended:
                return self.honest(row)
            if not row.resumable:
                reason = f" with {row.error['reason']}" if row.error else ""
                raise FailedPrecondition(
                    Reason.TASK_ENDED,
                    f"task {task_id} ended {row.state}{reason}; there is nothing to resume",
                    metadata={"task_id": task_id, "state": row.state},
                )
            now, given = self._clock.now(), credentials(row)
            tasks.move(
                connection, task_id, TaskState.PENDING, now, fence=row.attempt, attempt=row.attempt + 1, end_time=None,
                error=None, cleanup=None, dispatch_time=None, fruitless=0, message="resumed",
                has_credentials=given is not None, committing=bool(row.checkpoint.get("committed")),
            )  # fmt: skip
            if given is not None:
                self._seal(connection, task_id, given, now)
            locks.wish(connection, task_id, wishes(row))
            self._admit(connection)
            return self._require(connection, task_id)

    def tick(self) -> None:
        """Take over what dead workers left, admit what can run, forget expired secrets. Cheap when nothing is due."""
        now = self._clock.now()
        with self._database.read() as connection:
            lost = workers.lost_tasks(connection, now)
            stale = workers.stale_dispatches(connection, now - _UNCLAIMED)
            pending = tasks.pending_tasks(connection)
            expired = task_secrets.any_expired(connection, now)
        waiting = any(row.dispatch_time is None for row in pending)
        if pending:
            self._database.make_room()  # or no worker can take them from the queue
        if stale:
            queued = self._dispatcher.waiting([(row.task_id, row.attempt) for row in stale])
            stale = [row for row in stale if (row.task_id, row.attempt) not in queued]
        if not (lost or stale or waiting or expired):
            return
        with self._database.write() as connection:
            if expired:
                task_secrets.forget_expired(connection, now)
            for row in lost:
                self._take_over(connection, row)
            for row in stale:
                self._dispatch_again(connection, row)
            self._admit(connection)

    def admit(self, connection: sa.Connection) -> None:
        """Start what can start, inside the transaction that ended a task."""
        self._admit(connection)

    def give_back(self, task_id: str, attempt: int) -> None:
        """Return an attempt that was taken from the queue and will not be run here. Nothing counts against the task."""
        with self._database.write() as connection:
            row = tasks.get_task(connection, task_id)
            if row is not None and row.attempt == attempt:
                self._dispatch_again(connection, row)

    def _seal(self, connection: sa.Connection, task_id: str, credentials: Credentials, now: int) -> None:
        """Seal to every live worker, because any of them may run the task."""
        keys = workers.live_keys(connection, now - self._lease)
        if not keys:
            raise Unavailable(
                Reason.NO_WORKER, "no worker is running that could be given the credentials", retry_after=1.0
            )
        sealed = [
            SealedSecret(owner, resource, seal(kind, secret, public, Binding(task_id, owner, resource, until)), until)
            for kind, secret, resource, until in _secrets(connection, credentials, now)
            for owner, public in keys.items()
        ]
        task_secrets.keep_secrets(connection, task_id, sealed)

    def _take_over(self, connection: sa.Connection, row: TaskRow) -> None:
        now = self._clock.now()
        position = int(row.progress.get("position", 0))
        advanced = position > row.high_water
        values: dict[str, Any] = {
            "attempt": row.attempt + 1,
            "owner": None,
            "lease_expires": None,
            "dispatch_time": None,
            "recovering": True,
            "high_water": max(position, row.high_water),
            "fruitless": 0 if advanced else row.fruitless + 1,
        }
        if row.state == TaskState.CANCELLING:
            if tasks.update_attempt(connection, row.task_id, row.attempt, **values):
                self._dispatch(connection, replace(row, attempt=row.attempt + 1))
            return
        tasks.move(
            connection, row.task_id, TaskState.PENDING, now, fence=row.attempt, lease_before=now,
            message=f"attempt {row.attempt} lost its worker; attempt {row.attempt + 1} follows", **values,
        )  # fmt: skip

    def _dispatch_again(self, connection: sa.Connection, row: TaskRow) -> None:
        present = self._require(connection, row.task_id)
        if present.attempt != row.attempt or present.owner is not None or present.ended:
            return
        # A new attempt, because the old one's place in the queue is spent; nobody ran it, so nothing counts against it.
        tasks.update_attempt(connection, row.task_id, row.attempt, attempt=row.attempt + 1, dispatch_time=None)
        if present.state == TaskState.CANCELLING:
            self._dispatch(connection, replace(present, attempt=row.attempt + 1))

    def _admit(self, connection: sa.Connection) -> None:
        pending = tasks.pending_tasks(connection)
        waiting = [row for row in pending if row.dispatch_time is None]
        if not waiting:
            return
        everything = locks.all_locks(connection)
        taken = [(r, t, m) for r, t, m, held in everything if held]
        recovering = _recovering_elsewhere(connection)
        for row in waiting:
            mine = [LockWish(r, m) for r, t, m, _ in everything if t == row.task_id]
            others = [one for one in taken if one[1] != row.task_id]
            if conflicts(mine, others) or (row.recovering and recovering):
                # Later tasks must not overtake it on the resources that it waits for.
                taken += [(w.resource, row.task_id, w.mode) for w in mine]
                continue
            recovering = recovering or row.recovering
            taken += [(w.resource, row.task_id, w.mode) for w in mine]
            locks.hold(connection, row.task_id)
            self._dispatch(connection, row)

    def _dispatch(self, connection: sa.Connection, row: TaskRow) -> None:
        tasks.update_task(connection, row.task_id, dispatch_time=self._clock.now())
        self._dispatcher.enqueue(connection, row.queue, row.task_id, row.attempt)

    def _require(self, connection: sa.Connection, task_id: str) -> TaskRow:
        row = tasks.get_task(connection, task_id)
        if row is None:
            raise task_not_found(task_id)
        return row


def conflicts(wishes: Sequence[LockWish], others: Sequence[tuple[str, str, LockMode]]) -> list[tuple[str, str]]:
    """(resource, task_id) of every lock of `others` that stands against a wish: unless both are SHARED."""
    modes = {wish.resource: wish.mode for wish in wishes}
    return [
        (resource, task_id)
        for resource, task_id, mode in others
        if resource in modes and LockMode.EXCLUSIVE in (mode, modes[resource])
    ]


def _secrets(connection: sa.Connection, credentials: Credentials, now: int) -> Iterator[tuple[str, str, str, int]]:
    """(kind, secret, resource, expiry) of all that is to be sealed. A key goes with its unlock: that of a wallet or
    repository that has been locked in the meantime is not sealed."""
    latest = now + SECRET_SECONDS * 1_000_000
    alone = True
    if credentials.call_secret is not None:
        alone = False
        yield *credentials.call_secret, task_secrets.OF_CALL, latest
    if credentials.hidden is not None:
        alone = False
        yield HIDDEN, json.dumps(credentials.hidden), task_secrets.OF_REQUEST, latest
    keys = {WalletKey.from_text(text).key_id: text for text in credentials.wallet_keys}
    unlocked = [
        (WALLET_KEY, keys[unlock.key_id], task_secrets.of_wallet(unlock.source_id), unlock.expire_time)
        for unlock in wallet_keys.unlocks_with(connection, now, keys)
    ]
    unlocked += [
        (CONTENT_KEYS, credentials.content_keys[repository_id], task_secrets.of_repository(repository_id), until)
        for repository_id, until in repositories.unlocks(connection, now, credentials.content_keys).items()
    ]
    for kind, key, resource, until in unlocked:
        # No key outlives the secret that came with it: all that a task was given is lost together.
        yield kind, key, resource, until if alone else min(until, latest)


def task_not_found(task_id: str) -> NotFound:
    text = f"there is no task {task_id or 'without an id'}"
    return NotFound(Reason.TASK_NOT_FOUND, text, metadata={"task_id": task_id})


def _recovering_elsewhere(connection: sa.Connection) -> bool:
    return any(
        row.recovering and row.dispatch_time is not None
        for row in tasks.live_tasks(connection, tasks.TaskFilter())
        if row.state != TaskState.CANCELLING
    )
