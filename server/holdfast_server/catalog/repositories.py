"""Queries on repositories. Every function works inside the caller's transaction.

The catalog never holds a key: it says *that* a sealed repository is unlocked, and until when.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from holdfast_server.catalog import schema, task_secrets
from holdfast_server.catalog.rows import RepositoryRow

__all__ = [
    "forget_unlock",
    "get_repository",
    "insert_repository",
    "keep_heads",
    "keep_unlock",
    "list_repositories",
    "locations",
    "lock_resource",
    "maintenance_resource",
    "newer_heads",
    "unlocks",
    "update_repository",
]

_r = schema.repositories


def lock_resource(repository_id: str) -> str:
    """The resource that tasks lock as long as they need the repository: all of them shared."""
    return f"repository:{repository_id}"


def maintenance_resource(repository_id: str) -> str:
    """The resource that a prune, a compaction and a repair lock exclusively: one of them at a time, beside the backups
    and restores that go on."""
    return f"maintenance:{repository_id}"


def insert_repository(connection: sa.Connection, row: RepositoryRow) -> None:
    """Add a repository, whose id the caller has found free."""
    connection.execute(_r.insert().values(**row.values()))


def get_repository(connection: sa.Connection, repository_id: str) -> RepositoryRow | None:
    found = connection.execute(_r.select().where(_r.c.repository_id == repository_id)).mappings().first()
    return RepositoryRow.of(found) if found else None


def list_repositories(connection: sa.Connection, *, limit: int, after: str | None = None) -> list[RepositoryRow]:
    """By id, starting after `after`."""
    query = _r.select().order_by(_r.c.repository_id).limit(limit)
    if after is not None:
        query = query.where(_r.c.repository_id > after)
    return [RepositoryRow.of(row) for row in connection.execute(query).mappings()]


def update_repository(connection: sa.Connection, repository_id: str, **values: Any) -> RepositoryRow | None:
    changed = _r.update().where(_r.c.repository_id == repository_id).values(**values).returning(_r)
    found = connection.execute(changed).mappings().first()
    return RepositoryRow.of(found) if found else None


def locations(connection: sa.Connection) -> dict[str, bytes]:
    """Where each repository lies, by id."""
    return {row[0]: row[1] for row in connection.execute(sa.select(_r.c.repository_id, _r.c.location))}


def keep_unlock(connection: sa.Connection, repository_id: str, expire_time: int) -> None:
    """From now on it is unlocked until then (microseconds), whatever was said before."""
    connection.execute(_r.update().where(_r.c.repository_id == repository_id).values(unlock_expire=expire_time))


def unlocks(connection: sa.Connection, now: int, repository_ids: Collection[str]) -> dict[str, int]:
    """Until when those of the repositories are unlocked that are so now."""
    query = sa.select(_r.c.repository_id, _r.c.unlock_expire).where(
        _r.c.repository_id.in_(sorted(repository_ids)), _r.c.unlock_expire > now
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def forget_unlock(connection: sa.Connection, repository_id: str) -> None:
    """Lock a repository, for tasks that wait too."""
    connection.execute(_r.update().where(_r.c.repository_id == repository_id).values(unlock_expire=None))
    task_secrets.forget_resource(connection, task_secrets.of_repository(repository_id))


def newer_heads(row: RepositoryRow, heads: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """The log entries of `heads` that are newer than those the row has."""
    return {
        writer: list(head)
        for writer, head in heads.items()
        if writer not in row.log_vector or row.log_vector[writer][0] < head[0]
    }


def keep_heads(connection: sa.Connection, repository_id: str, heads: Mapping[str, Sequence[Any]]) -> None:
    """Remember for good the newest log entries seen: a store that later lacks one was rolled back."""
    row = get_repository(connection, repository_id)
    if row is not None and (newer := newer_heads(row, heads)):
        update_repository(connection, repository_id, log_vector={**row.log_vector, **newer})
