"""Sealed secrets of tasks that have not ended: one row for each worker that may open it."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from holdfast_server.catalog import schema

__all__ = ["any_expired", "forget_expired", "keep_secret", "sealed_secret"]

_s = schema.task_secrets


def keep_secret(connection: sa.Connection, task_id: str, sealed: Mapping[str, bytes], expires: int) -> None:
    """`sealed`: worker's owner id → what only that process opens, until `expires` (microseconds)."""
    rows = [{"task_id": task_id, "owner": o, "sealed": content, "expires": expires} for o, content in sealed.items()]
    connection.execute(_s.insert(), rows)


def sealed_secret(connection: sa.Connection, task_id: str, owner: str, now: int) -> tuple[bytes, int] | None:
    """(sealed, expires) of what waits for this worker; None when there is nothing, or it has expired."""
    query = sa.select(_s.c.sealed, _s.c.expires).where(_s.c.task_id == task_id, _s.c.owner == owner, _s.c.expires > now)
    found = connection.execute(query).first()
    return None if found is None else (found[0], found[1])


def any_expired(connection: sa.Connection, now: int) -> bool:
    return connection.execute(sa.select(_s.c.task_id).where(_s.c.expires <= now).limit(1)).first() is not None


def forget_expired(connection: sa.Connection, now: int) -> None:
    connection.execute(_s.delete().where(_s.c.expires <= now))
