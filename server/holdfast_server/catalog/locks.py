"""Locks that tasks wish for and hold. A wish stands from the task's creation; it is held from admission to the end."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from holdfast_server.catalog import schema
from holdfast_server.catalog.rows import LockMode, LockWish

__all__ = ["all_locks", "hold", "hold_besides", "release", "release_of", "users_of", "wish"]

_l = schema.locks


def wish(connection: sa.Connection, task_id: str, wishes: Sequence[LockWish]) -> None:
    """Record what a task needs before it may run. EXCLUSIVE wins where a resource is named twice."""
    modes: dict[str, LockMode] = {}
    for one in wishes:
        if modes.get(one.resource) is not LockMode.EXCLUSIVE:
            modes[one.resource] = one.mode
    if modes:
        connection.execute(
            _l.insert(),
            [{"resource": r, "task_id": task_id, "mode": m, "held": False} for r, m in sorted(modes.items())],
        )


def hold(connection: sa.Connection, task_id: str) -> None:
    connection.execute(_l.update().where(_l.c.task_id == task_id).values(held=True))


def hold_besides(connection: sa.Connection, task_id: str, resource: str) -> str | None:
    """Give a task that runs one lock more, EXCLUSIVE; gives the task that holds it already, and then nothing is done.

    The caller holds nothing that whoever has it may be waiting for.
    """
    query = sa.select(_l.c.task_id).where(_l.c.resource == resource, _l.c.held)
    holders = [row[0] for row in connection.execute(query)]
    if holders == []:
        connection.execute(_l.insert().values(resource=resource, task_id=task_id, mode=LockMode.EXCLUSIVE, held=True))
    return next((holder for holder in holders if holder != task_id), None)


def release_of(connection: sa.Connection, task_id: str, resources: Sequence[str]) -> None:
    """Drop some of what a task holds: it needs it no more, and its later attempts do not either."""
    connection.execute(_l.delete().where(_l.c.task_id == task_id, _l.c.resource.in_(sorted(resources))))


def release(connection: sa.Connection, task_id: str) -> None:
    """Drop everything that an ended task held or wished for."""
    connection.execute(_l.delete().where(_l.c.task_id == task_id))


def all_locks(connection: sa.Connection) -> list[tuple[str, str, LockMode, bool]]:
    """(resource, task_id, mode, held) of every task that has not ended."""
    query = sa.select(_l.c.resource, _l.c.task_id, _l.c.mode, _l.c.held)
    return [(r, t, LockMode(m), h) for r, t, m, h in connection.execute(query)]


def users_of(connection: sa.Connection, resource: str) -> list[str]:
    """Tasks that hold or wish for the resource."""
    query = sa.select(_l.c.task_id).where(_l.c.resource == resource)
    return [row[0] for row in connection.execute(query)]
