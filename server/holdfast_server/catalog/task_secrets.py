"""Sealed secrets of tasks that have not ended: for each worker that may open them one row a secret.

A row's `source_id` is that of the wallet whose key it is, and empty for the secret that came with the call.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from holdfast_server.catalog import schema

__all__ = ["SealedSecret", "any_expired", "forget_expired", "forget_wallet", "keep_secrets", "sealed_secrets"]

_s = schema.task_secrets


@dataclass(frozen=True, slots=True)
class SealedSecret:
    """What only the process `owner` opens, until `expires` (microseconds)."""

    owner: str
    source_id: str
    sealed: bytes
    expires: int


def keep_secrets(connection: sa.Connection, task_id: str, secrets: Iterable[SealedSecret]) -> None:
    rows = [
        {"task_id": task_id, "owner": s.owner, "source_id": s.source_id, "sealed": s.sealed, "expires": s.expires}
        for s in secrets
    ]
    if rows:
        connection.execute(_s.insert(), rows)


def sealed_secrets(connection: sa.Connection, task_id: str, owner: str, now: int) -> list[SealedSecret]:
    """What waits for this worker and has not expired, the call's own secret first."""
    query = (
        sa.select(_s.c.owner, _s.c.source_id, _s.c.sealed, _s.c.expires)
        .where(_s.c.task_id == task_id, _s.c.owner == owner, _s.c.expires > now)
        .order_by(_s.c.source_id)
    )
    return [SealedSecret(*row) for row in connection.execute(query)]


def forget_wallet(connection: sa.Connection, source_id: str) -> None:
    """Drop a wallet's key from what any worker may still open; one that runs a task has opened it already."""
    connection.execute(_s.delete().where(_s.c.source_id == source_id))


def any_expired(connection: sa.Connection, now: int) -> bool:
    return connection.execute(sa.select(_s.c.task_id).where(_s.c.expires <= now).limit(1)).first() is not None


def forget_expired(connection: sa.Connection, now: int) -> None:
    connection.execute(_s.delete().where(_s.c.expires <= now))
