"""Queries on sources. Every function works inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from holdfast_server.catalog import schema
from holdfast_server.catalog.rows import SourceKind, SourceRow

__all__ = [
    "delete_source",
    "get_source",
    "get_sources",
    "insert_source",
    "list_sources",
    "paths_in_use",
    "update_source",
    "wallet_ids",
    "without_path",
]

_s = schema.sources


def insert_source(connection: sa.Connection, row: SourceRow) -> bool:
    """Add a source; False when the id is taken."""
    if get_source(connection, row.source_id) is not None:
        return False
    connection.execute(_s.insert().values(**row.values()))
    return True


def get_source(connection: sa.Connection, source_id: str) -> SourceRow | None:
    found = connection.execute(_s.select().where(_s.c.source_id == source_id)).mappings().first()
    return SourceRow.of(found) if found else None


def get_sources(connection: sa.Connection, source_ids: Collection[str]) -> dict[str, SourceRow]:
    """The named sources that exist, by id."""
    query = _s.select().where(_s.c.source_id.in_(sorted(source_ids)))
    return {row["source_id"]: SourceRow.of(row) for row in connection.execute(query).mappings()}


def list_sources(
    connection: sa.Connection,
    *,
    limit: int,
    after: str | None = None,
    kinds: Collection[str] = (),
    states: Collection[str] = (),
) -> list[SourceRow]:
    """By id, starting after `after`."""
    query = _s.select().order_by(_s.c.source_id).limit(limit)
    if after is not None:
        query = query.where(_s.c.source_id > after)
    if kinds:
        query = query.where(_s.c.kind.in_(sorted(kinds)))
    if states:
        query = query.where(_s.c.state.in_(sorted(states)))
    return [SourceRow.of(row) for row in connection.execute(query).mappings()]


def update_source(connection: sa.Connection, source_id: str, **values: Any) -> SourceRow | None:
    found = (
        connection.execute(_s.update().where(_s.c.source_id == source_id).values(**values).returning(_s))
        .mappings()
        .first()
    )
    return SourceRow.of(found) if found else None


def delete_source(connection: sa.Connection, source_id: str) -> bool:
    """Forget a source; its backups stay."""
    return connection.execute(_s.delete().where(_s.c.source_id == source_id)).rowcount > 0


def paths_in_use(connection: sa.Connection) -> dict[bytes, str]:
    """Path → id of every source."""
    return {row[0]: row[1] for row in connection.execute(sa.select(_s.c.path, _s.c.source_id))}


def wallet_ids(connection: sa.Connection) -> list[str]:
    """Ids of all wallets."""
    query = sa.select(_s.c.source_id).where(_s.c.kind == SourceKind.WALLET).order_by(_s.c.source_id)
    return [row[0] for row in connection.execute(query)]


def without_path(connection: sa.Connection) -> list[str]:
    """Ids of sources that a rebuilt catalog knows by their backups only."""
    return [
        row[0] for row in connection.execute(sa.select(_s.c.source_id).where(_s.c.path == b"").order_by(_s.c.source_id))
    ]
