"""Queries on backups and what was proved of them. Every function works inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from holdfast_server.catalog import schema
from holdfast_server.catalog.rows import BackupRow, BackupState, TaskKind, VerificationRow

__all__ = [
    "BackupFilter",
    "PrunableBackup",
    "add_verification",
    "backups_in_use",
    "backups_of_task",
    "count_of_source",
    "begin_purge",
    "delete_backup",
    "delete_unfinished",
    "every_backup",
    "get_backup",
    "insert_backup",
    "latest_of_sources",
    "list_backups",
    "lock_resource",
    "prunable_backups",
    "prunable_sources",
    "purging_in",
    "trashed_backups",
    "update_backup",
    "verifications_of",
    "snapshots_in",
]

_b = schema.backups
_v = schema.verifications
_LOCK_PREFIX = "backup:"


@dataclass(frozen=True, slots=True)
class BackupFilter:
    """What ListBackups selects; empty means any, but of those in the trash none without `show_deleted`."""

    source_id: str | None = None
    task_id: str | None = None
    states: Collection[str] = ()
    kinds: Collection[str] = ()
    repository_id: str | None = None
    show_deleted: bool = False


@dataclass(frozen=True, slots=True)
class PrunableBackup:
    """What decides whether a backup is pruned."""

    backup_id: str
    create_time: int
    state: str
    complete: bool | None
    locked: bool
    task_id: str


def insert_backup(connection: sa.Connection, row: BackupRow) -> None:
    connection.execute(_b.insert().values(**row.values()))


def lock_resource(backup_id: str) -> str:
    """The resource that a task locks to keep a backup as it is."""
    return _LOCK_PREFIX + backup_id


def get_backup(connection: sa.Connection, backup_id: str) -> BackupRow | None:
    """The backup, in the trash too; in state RESTORING while a restore of it is under way."""
    found = connection.execute(_shown().where(_b.c.backup_id == backup_id)).mappings().first()
    return BackupRow.of(found) if found else None


def backups_of_task(connection: sa.Connection, task_id: str) -> list[BackupRow]:
    query = _shown().where(_b.c.task_id == task_id).order_by(_b.c.create_time, _b.c.backup_id)
    return [BackupRow.of(row) for row in connection.execute(query).mappings()]


def list_backups(
    connection: sa.Connection, chosen: BackupFilter, *, limit: int, before: tuple[int, str] | None
) -> list[BackupRow]:
    """Newest first, starting after the row with (create_time, backup_id) `before`."""
    query = _shown().order_by(_b.c.create_time.desc(), _b.c.backup_id.desc()).limit(limit)
    if before is not None:
        query = query.where(sa.tuple_(_b.c.create_time, _b.c.backup_id) < sa.tuple_(*map(sa.literal, before)))
    if chosen.source_id is not None:
        query = query.where(_b.c.source_id == chosen.source_id)
    if chosen.task_id is not None:
        query = query.where(_b.c.task_id == chosen.task_id)
    if chosen.states:
        query = query.where(_state().in_(sorted(chosen.states)))
    if chosen.kinds:
        query = query.where(_b.c.kind.in_(sorted(chosen.kinds)))
    if chosen.repository_id is not None:
        query = query.where(_b.c.repository_id == chosen.repository_id)
    if not chosen.show_deleted:
        query = query.where(_b.c.delete_time.is_(None))
    return [BackupRow.of(row) for row in connection.execute(query).mappings()]


def snapshots_in(connection: sa.Connection, repository_id: str) -> dict[str, BackupRow]:
    """The backups that a repository must hold, by id, those in the trash too."""
    query = _b.select().where(_b.c.repository_id == repository_id, _b.c.state == BackupState.COMPLETED)
    return {row["backup_id"]: BackupRow.of(row) for row in connection.execute(query).mappings()}


def prunable_sources(connection: sa.Connection, repository_id: str) -> list[str]:
    """The sources that have backups in a repository, but for those in the trash and those that failed, by id."""
    query = sa.select(_b.c.source_id).distinct().where(*_prunable(repository_id)).order_by(_b.c.source_id)
    return [row[0] for row in connection.execute(query)]


def prunable_backups(connection: sa.Connection, repository_id: str, source_id: str) -> list[PrunableBackup]:
    """The backups of a source that a prune of the repository decides about, in no order; those that are being made are
    among them."""
    columns = (_b.c.backup_id, _b.c.create_time, _b.c.state, _b.c.complete, _b.c.locked, _b.c.task_id)
    query = sa.select(*columns).where(*_prunable(repository_id), _b.c.source_id == source_id)
    return [PrunableBackup(*row) for row in connection.execute(query)]


def backups_in_use(connection: sa.Connection) -> set[str]:
    """The backups that a task holds or waits for."""
    resource = schema.locks.c.resource
    query = sa.select(resource).where(resource.startswith(_LOCK_PREFIX, autoescape=True))
    return {row[0].removeprefix(_LOCK_PREFIX) for row in connection.execute(query)}


def begin_purge(connection: sa.Connection, backup_ids: Collection[str], now: int) -> None:
    """From here on nothing brings the snapshots back: whoever purges finishes it."""
    connection.execute(
        _b.update()
        .where(_b.c.backup_id.in_(sorted(backup_ids)))
        .values(delete_time=now, purge_time=now, purge_begun=now, update_time=now)
    )


def purging_in(connection: sa.Connection, repository_id: str) -> list[str]:
    """The snapshots of a repository whose purge has begun and is not finished."""
    query = sa.select(_b.c.backup_id).where(_b.c.repository_id == repository_id, _b.c.purge_begun.is_not(None))
    return [row[0] for row in connection.execute(query)]


def every_backup(connection: sa.Connection) -> list[BackupRow]:
    """The whole catalog, the trash too, oldest first."""
    query = _b.select().order_by(_b.c.create_time, _b.c.backup_id)
    return [BackupRow.of(row) for row in connection.execute(query).mappings()]


def count_of_source(connection: sa.Connection, source_id: str) -> int:
    """How many backups of a source there are, whatever their state, those in the trash left out."""
    query = sa.select(sa.func.count()).where(_b.c.source_id == source_id, _b.c.delete_time.is_(None))
    return int(connection.execute(query).scalar_one())


def latest_of_sources(connection: sa.Connection, source_ids: Collection[str]) -> dict[str, tuple[int, int | None]]:
    """source_id → (time of the newest completed backup, time of the newest successful proof of any)."""
    proofs = (
        sa.select(_v.c.backup_id, sa.func.max(_v.c.time).label("time"))
        .where(_v.c.ok)
        .group_by(_v.c.backup_id)
        .subquery()
    )
    query = (
        sa.select(_b.c.source_id, sa.func.max(_b.c.complete_time), sa.func.max(proofs.c.time))
        .select_from(_b.outerjoin(proofs, proofs.c.backup_id == _b.c.backup_id))
        .where(_b.c.source_id.in_(sorted(source_ids)), _b.c.state == BackupState.COMPLETED, _b.c.delete_time.is_(None))
        .group_by(_b.c.source_id)
    )
    return {row[0]: (row[1], row[2]) for row in connection.execute(query)}


def update_backup(
    connection: sa.Connection, backup_id: str, *, only_in: BackupState | None = None, **values: Any
) -> bool:
    """Set columns; False when there is no such backup, or it is not in state `only_in`."""
    conditions = [_b.c.backup_id == backup_id]
    if only_in is not None:
        conditions.append(_b.c.state == only_in)
    return connection.execute(_b.update().where(*conditions).values(**values)).rowcount > 0


def delete_unfinished(connection: sa.Connection, task_id: str) -> None:
    """Forget the backups of a task that never came to be (cancelled)."""
    connection.execute(_b.delete().where(_b.c.task_id == task_id, _b.c.state == BackupState.IN_PROGRESS))


def trashed_backups(connection: sa.Connection, *, purge_before: int | None = None) -> list[BackupRow]:
    """What is in the trash, or of that only what is to be purged by `purge_before`; what is due longest comes first."""
    query = _b.select().where(_b.c.delete_time.is_not(None)).order_by(_b.c.purge_time, _b.c.backup_id)
    if purge_before is not None:
        query = query.where(_b.c.purge_time <= purge_before)
    return [BackupRow.of(row) for row in connection.execute(query).mappings()]


def delete_backup(connection: sa.Connection, backup_id: str) -> None:
    """Forget a backup and what was proved of it."""
    connection.execute(_v.delete().where(_v.c.backup_id == backup_id))
    connection.execute(_b.delete().where(_b.c.backup_id == backup_id))


def add_verification(connection: sa.Connection, backup_id: str, **values: Any) -> None:
    """Keep evidence, numbered from 1 for each backup."""
    last = connection.execute(sa.select(sa.func.max(_v.c.number)).where(_v.c.backup_id == backup_id)).scalar()
    connection.execute(_v.insert().values(backup_id=backup_id, number=(last or 0) + 1, **values))


def verifications_of(connection: sa.Connection, backup_ids: Collection[str]) -> dict[str, list[VerificationRow]]:
    """All evidence of the named backups, oldest first."""
    query = _v.select().where(_v.c.backup_id.in_(sorted(backup_ids))).order_by(_v.c.backup_id, _v.c.number)
    found: dict[str, list[VerificationRow]] = {}
    for row in connection.execute(query).mappings():
        found.setdefault(row["backup_id"], []).append(VerificationRow.of(row))
    return found


def _state() -> sa.Case[str]:
    """A backup's state as it is shown: a live restore makes COMPLETED to RESTORING, and leaves nothing to set right."""
    locks, tasks = schema.locks, schema.tasks
    restores = (
        sa.select(locks.c.resource)
        .join(tasks, tasks.c.task_id == locks.c.task_id)
        .where(tasks.c.kind == TaskKind.RESTORE, sa.not_(tasks.c.dry_run))
    )
    restoring = sa.and_(_b.c.state == BackupState.COMPLETED, (sa.literal(_LOCK_PREFIX) + _b.c.backup_id).in_(restores))
    return sa.case((restoring, BackupState.RESTORING.value), else_=_b.c.state)


def _prunable(repository_id: str) -> list[sa.ColumnElement[bool]]:
    states = (BackupState.COMPLETED, BackupState.IN_PROGRESS)
    return [_b.c.repository_id == repository_id, _b.c.delete_time.is_(None), _b.c.state.in_(states)]


def _shown() -> sa.Select[Any]:
    return sa.select(*(column for column in _b.c if column.name != "state"), _state().label("state"))
