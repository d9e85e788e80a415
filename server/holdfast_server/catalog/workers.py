"""Worker processes and their leases."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from holdfast_server.catalog import schema
from holdfast_server.catalog.rows import TaskRow, TaskState

__all__ = [
    "expire_leases",
    "expire_leases_before",
    "forget_workers",
    "forget_workers_before",
    "forget_workers_of",
    "heartbeat",
    "live_keys",
    "lost_tasks",
    "register_worker",
    "renew_leases",
    "stale_dispatches",
]

_w = schema.workers
_t = schema.tasks
_OWNED = (TaskState.RUNNING, TaskState.CANCELLING)


def register_worker(
    connection: sa.Connection, owner: str, host: str, pid: int, now: int, public_key: bytes | None
) -> None:
    values = {"owner": owner, "host": host, "pid": pid, "start_time": now, "heartbeat": now, "public_key": public_key}
    connection.execute(_w.insert().values(**values))


def heartbeat(connection: sa.Connection, owner: str, now: int) -> bool:
    """False when the worker's row is gone: it was silent for so long that it was forgotten."""
    return connection.execute(_w.update().where(_w.c.owner == owner).values(heartbeat=now)).rowcount > 0


def live_keys(connection: sa.Connection, heard_since: int) -> dict[str, bytes]:
    """Owner → public key of the workers that gave a sign of life since then."""
    query = sa.select(_w.c.owner, _w.c.public_key).where(_w.c.heartbeat >= heard_since, _w.c.public_key.is_not(None))
    return {row[0]: row[1] for row in connection.execute(query)}


def forget_workers(connection: sa.Connection, silent_since: int) -> None:
    """Drop workers that have been silent since before the given time, and what was sealed to them."""
    _forget(connection, _w.c.heartbeat < silent_since)


def forget_workers_of(connection: sa.Connection, owners: Collection[str]) -> None:
    """Drop workers that are known to be dead, and what was sealed to them."""
    _forget(connection, _w.c.owner.in_(sorted(owners)))


def forget_workers_before(connection: sa.Connection, started_before: int) -> None:
    """Drop the workers that started before then, and what was sealed to them."""
    _forget(connection, _w.c.start_time < started_before)


def _forget(connection: sa.Connection, which: sa.ColumnElement[bool]) -> None:
    secrets = schema.task_secrets
    connection.execute(secrets.delete().where(secrets.c.owner.in_(sa.select(_w.c.owner).where(which))))
    connection.execute(_w.delete().where(which))


def renew_leases(connection: sa.Connection, owner: str, task_ids: Collection[str], expires: int) -> None:
    """Extend the leases of tasks that a worker really runs."""
    connection.execute(
        _t.update()
        .where(_t.c.owner == owner, _t.c.task_id.in_(sorted(task_ids)), _t.c.state.in_(_OWNED))
        .values(lease_expires=expires)
    )


def expire_leases(connection: sa.Connection, owners: Collection[str]) -> int:
    """End the leases of workers that are known to be dead."""
    return connection.execute(
        _t.update().where(_t.c.owner.in_(sorted(owners)), _t.c.state.in_(_OWNED)).values(lease_expires=0)
    ).rowcount


def expire_leases_before(connection: sa.Connection, started_before: int) -> int:
    """End the leases of all workers that started before then."""
    earlier = sa.select(_w.c.owner).where(_w.c.start_time < started_before)
    return connection.execute(
        _t.update().where(_t.c.owner.in_(earlier), _t.c.state.in_(_OWNED)).values(lease_expires=0)
    ).rowcount


def lost_tasks(connection: sa.Connection, now: int) -> list[TaskRow]:
    """Tasks whose worker fell silent."""
    query = _t.select().where(_t.c.state.in_(_OWNED), _t.c.lease_expires < now)
    return [TaskRow.of(row) for row in connection.execute(query).mappings()]


def stale_dispatches(connection: sa.Connection, dispatched_before: int) -> list[TaskRow]:
    """Tasks that were handed to the queue some time ago and that no worker has claimed."""
    query = _t.select().where(
        _t.c.state.in_((TaskState.PENDING, TaskState.CANCELLING)),
        _t.c.dispatch_time < dispatched_before,
        _t.c.owner.is_(None),
    )
    return [TaskRow.of(row) for row in connection.execute(query).mappings()]
