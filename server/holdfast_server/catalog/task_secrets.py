"""Sealed secrets of tasks that have not ended: for each worker that may open them one row a secret.

A row's `resource` names whose key it is: `source:` and the id of a wallet, `repository:` and that of a repository. It
is empty for the secret that came with the call, and `request` for what of the request is not stored in clear.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from holdfast_server.catalog import schema

__all__ = [
    "OF_CALL",
    "OF_REQUEST",
    "SealedSecret",
    "any_expired",
    "forget_expired",
    "forget_resource",
    "keep_secrets",
    "of_repository",
    "of_wallet",
    "sealed_secrets",
]

OF_CALL = ""
OF_REQUEST = "request"

_s = schema.task_secrets


@dataclass(frozen=True, slots=True)
class SealedSecret:
    """What only the process `owner` opens, until `expires` (microseconds)."""

    owner: str
    resource: str
    sealed: bytes
    expires: int


def of_wallet(source_id: str) -> str:
    return f"source:{source_id}"


def of_repository(repository_id: str) -> str:
    return f"repository:{repository_id}"


def keep_secrets(connection: sa.Connection, task_id: str, secrets: Iterable[SealedSecret]) -> None:
    rows = [
        {"task_id": task_id, "owner": s.owner, "resource": s.resource, "sealed": s.sealed, "expires": s.expires}
        for s in secrets
    ]
    if rows:
        connection.execute(_s.insert(), rows)


def sealed_secrets(connection: sa.Connection, task_id: str, owner: str, now: int) -> list[SealedSecret]:
    """What waits for this worker and has not expired, the call's own secret first."""
    query = (
        sa.select(_s.c.owner, _s.c.resource, _s.c.sealed, _s.c.expires)
        .where(_s.c.task_id == task_id, _s.c.owner == owner, _s.c.expires > now)
        .order_by(_s.c.resource)
    )
    return [SealedSecret(*row) for row in connection.execute(query)]


def forget_resource(connection: sa.Connection, resource: str) -> None:
    """Drop a key from what any worker may still open; one that runs a task has opened it already."""
    connection.execute(_s.delete().where(_s.c.resource == resource))


def any_expired(connection: sa.Connection, now: int) -> bool:
    return connection.execute(sa.select(_s.c.task_id).where(_s.c.expires <= now).limit(1)).first() is not None


def forget_expired(connection: sa.Connection, now: int) -> None:
    connection.execute(_s.delete().where(_s.c.expires <= now))
