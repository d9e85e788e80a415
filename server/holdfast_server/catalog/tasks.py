"""Queries on tasks, their events, logs and problems. Every function works inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from holdfast_server.catalog import schema
from holdfast_server.catalog.rows import (
    END_STATES,
    LIVE_STATES,
    MOVES,
    EventKind,
    EventRow,
    LogRow,
    MaintenanceState,
    ProblemRow,
    TaskRow,
    TaskState,
)

__all__ = [
    "PROGRESS_KEPT",
    "TaskFilter",
    "add_log_lines",
    "add_problems",
    "changed_since",
    "events_after",
    "forget_problems",
    "get_task",
    "is_live",
    "insert_task",
    "list_problems",
    "list_tasks",
    "live_tasks",
    "log_lines",
    "move",
    "pending_ahead",
    "pending_tasks",
    "record_progress",
    "record_warnings",
    "revisions",
    "show_maintenance",
    "update_attempt",
    "update_task",
]

#: Progress events kept per task; older ones are trimmed and counted in `skipped`.
PROGRESS_KEPT = 64

_t = schema.tasks
_e = schema.task_events

_MAINTAINING = (MaintenanceState.PRUNING, MaintenanceState.COMPACTING, MaintenanceState.CHECKING)


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """What ListTasks selects; empty means any. Times are microseconds, inclusive and exclusive."""

    source_id: str | None = None
    kinds: Collection[str] = ()
    states: Collection[str] = ()
    origin: str | None = None
    created_after: int | None = None
    created_before: int | None = None


def insert_task(connection: sa.Connection, row: TaskRow) -> TaskRow:
    """Add a task with its first STATE event; gives it back at revision 1."""
    connection.execute(_t.insert().values(**row.values()))
    if row.source_ids:
        connection.execute(
            schema.task_sources.insert(),
            [{"task_id": row.task_id, "source_id": s} for s in dict.fromkeys(row.source_ids)],
        )
    made = _bump(connection, row.task_id, row.create_time)
    if made is None:
        raise AssertionError("the row was inserted a moment ago")
    _append(connection, made, EventKind.STATE, made.snapshot(), row.create_time)
    return made


def get_task(connection: sa.Connection, task_id: str) -> TaskRow | None:
    found = connection.execute(_t.select().where(_t.c.task_id == task_id)).mappings().first()
    return TaskRow.of(found) if found else None


def is_live(connection: sa.Connection, task_id: str) -> bool:
    """Whether the catalog knows the task and it has not ended."""
    row = get_task(connection, task_id)
    return row is not None and not row.ended


def list_tasks(
    connection: sa.Connection, chosen: TaskFilter, *, limit: int, before: tuple[int, str] | None
) -> list[TaskRow]:
    """Newest first, starting after the row with (create_time, task_id) `before`."""
    query = _t.select().order_by(_t.c.create_time.desc(), _t.c.task_id.desc()).limit(limit)
    if before is not None:
        query = query.where(sa.tuple_(_t.c.create_time, _t.c.task_id) < sa.tuple_(*map(sa.literal, before)))
    query = _filtered(query, chosen)
    return [TaskRow.of(row) for row in connection.execute(query).mappings()]


def live_tasks(connection: sa.Connection, chosen: TaskFilter) -> list[TaskRow]:
    """Every task that has not ended, oldest first."""
    query = _t.select().where(_t.c.state.in_(sorted(LIVE_STATES))).order_by(_t.c.create_time)
    return [TaskRow.of(row) for row in connection.execute(_filtered(query, chosen)).mappings()]


def changed_since(connection: sa.Connection, update_time: int) -> list[tuple[str, int]]:
    """(task_id, revision) of tasks whose last event is not older than `update_time`."""
    query = sa.select(_t.c.task_id, _t.c.revision).where(_t.c.update_time >= update_time)
    return [(row[0], row[1]) for row in connection.execute(query)]


def revisions(connection: sa.Connection, task_ids: Collection[str]) -> dict[str, int]:
    """The present revision of each named task that exists."""
    found: dict[str, int] = {}
    wanted = sorted(task_ids)
    for start in range(0, len(wanted), 500):
        query = sa.select(_t.c.task_id, _t.c.revision).where(_t.c.task_id.in_(wanted[start : start + 500]))
        found.update({row[0]: row[1] for row in connection.execute(query)})
    return found


def pending_tasks(connection: sa.Connection) -> list[TaskRow]:
    """PENDING tasks in the order in which they are admitted: priority first, then age."""
    query = (
        _t.select()
        .where(_t.c.state == TaskState.PENDING)
        .order_by(_t.c.priority.desc(), _t.c.create_time, _t.c.task_id)
    )
    return [TaskRow.of(row) for row in connection.execute(query).mappings()]


def pending_ahead(connection: sa.Connection, row: TaskRow) -> int:
    """How many PENDING tasks come before this one."""
    ahead = sa.or_(
        _t.c.priority > row.priority,
        sa.and_(
            _t.c.priority == row.priority,
            sa.tuple_(_t.c.create_time, _t.c.task_id) < sa.tuple_(sa.literal(row.create_time), sa.literal(row.task_id)),
        ),
    )
    query = sa.select(sa.func.count()).where(_t.c.state == TaskState.PENDING, ahead)
    return int(connection.execute(query).scalar_one())


def move(
    connection: sa.Connection,
    task_id: str,
    to: TaskState,
    now: int,
    *,
    fence: int | None = None,
    lease_before: int | None = None,
    **values: Any,
) -> TaskRow | None:
    """Change a task's state along the graph, with its STATE event; None when the row is not as stated.

    `fence` is the attempt that must still be the present one; `lease_before` demands a lease that ended before then.
    """
    allowed = [state for state, targets in MOVES.items() if to in targets]
    conditions = [_t.c.task_id == task_id, _t.c.state.in_(allowed)]
    if fence is not None:
        conditions.append(_t.c.attempt == fence)
    if lease_before is not None:
        conditions.append(_t.c.lease_expires < lease_before)
    if to in END_STATES:
        # An ended task maintains nothing; `values` says otherwise where it was done.
        cut_off = (_t.c.maintenance_state.in_(_MAINTAINING), MaintenanceState.FAILED.value)
        values = {"maintenance_state": sa.case(cut_off, else_=_t.c.maintenance_state), **values}
    changed = (
        connection.execute(
            _t.update()
            .where(*conditions)
            .values(state=to, revision=_t.c.revision + 1, update_time=now, **values)
            .returning(_t)
        )
        .mappings()
        .first()
    )
    if changed is None:
        return None
    row: TaskRow = TaskRow.of(changed)
    if to in END_STATES:
        # Here, so that no way to end a task can leave its secret behind.
        connection.execute(schema.task_secrets.delete().where(schema.task_secrets.c.task_id == task_id))
    _append(connection, row, EventKind.STATE, row.snapshot(), now)
    return row


def update_attempt(connection: sa.Connection, task_id: str, fence: int, **values: Any) -> bool:
    """Set columns of a running attempt without an event; False when it is fenced."""
    result = connection.execute(_t.update().where(_t.c.task_id == task_id, _t.c.attempt == fence).values(**values))
    return result.rowcount > 0


def update_task(connection: sa.Connection, task_id: str, **values: Any) -> bool:
    """Set columns of a task whatever its attempt, without an event."""
    return connection.execute(_t.update().where(_t.c.task_id == task_id).values(**values)).rowcount > 0


def record_progress(
    connection: sa.Connection, task_id: str, attempt: int, progress: dict[str, Any], now: int, **values: Any
) -> bool:
    """Write progress with its event and trim old ones; False when fenced."""
    row = _bump(connection, task_id, now, fence=attempt, progress=progress, **values)
    if row is None:
        return False
    _append(connection, row, EventKind.PROGRESS, progress, now)
    oldest_kept = (
        sa.select(_e.c.sequence)
        .where(_e.c.task_id == task_id, _e.c.kind == EventKind.PROGRESS)
        .order_by(_e.c.sequence.desc())
        .offset(PROGRESS_KEPT)
        .limit(1)
        .scalar_subquery()
    )
    connection.execute(
        _e.delete().where(_e.c.task_id == task_id, _e.c.kind == EventKind.PROGRESS, _e.c.sequence <= oldest_kept)
    )
    return True


def record_warnings(
    connection: sa.Connection, task_id: str, attempt: int, warnings: Sequence[dict[str, Any]], now: int
) -> bool:
    """One WARNING event each; False when fenced."""
    for warning in warnings:
        row = _bump(connection, task_id, now, fence=attempt)
        if row is None:
            return False
        _append(connection, row, EventKind.WARNING, warning, now)
    return True


def show_maintenance(connection: sa.Connection, task_id: str, attempt: int, state: MaintenanceState, now: int) -> bool:
    """Say how the maintenance after a backup stands, with a STATE event; False when fenced."""
    row = _bump(connection, task_id, now, fence=attempt, maintenance_state=state)
    if row is None:
        return False
    _append(connection, row, EventKind.STATE, row.snapshot(), now)
    return True


def events_after(connection: sa.Connection, task_id: str, sequence: int, limit: int = 1000) -> list[EventRow]:
    query = _e.select().where(_e.c.task_id == task_id, _e.c.sequence > sequence).order_by(_e.c.sequence).limit(limit)
    return [EventRow.of(row) for row in connection.execute(query).mappings()]


def add_log_lines(connection: sa.Connection, task_id: str, attempt: int, lines: Sequence[tuple[int, str, str]]) -> bool:
    """Append (time, level, text) lines; False when fenced."""
    total = connection.execute(
        _t.update()
        .where(_t.c.task_id == task_id, _t.c.attempt == attempt)
        .values(log_lines=_t.c.log_lines + len(lines))
        .returning(_t.c.log_lines)
    ).scalar()
    if total is None:
        return False
    first = total - len(lines) + 1
    connection.execute(
        schema.task_log.insert(),
        [
            {"task_id": task_id, "line_number": first + i, "time": time, "level": level, "text": text}
            for i, (time, level, text) in enumerate(lines)
        ],
    )
    return True


def log_lines(connection: sa.Connection, task_id: str, from_line: int, limit: int) -> list[LogRow]:
    log = schema.task_log
    query = (
        log.select()
        .where(log.c.task_id == task_id, log.c.line_number >= from_line)
        .order_by(log.c.line_number)
        .limit(limit)
    )
    return [LogRow.of(row) for row in connection.execute(query).mappings()]


def add_problems(
    connection: sa.Connection, task_id: str, attempt: int, rows: Sequence[dict[str, Any]]
) -> list[ProblemRow] | None:
    """Number and keep problems, and count them as warnings; None when fenced."""
    total = connection.execute(
        _t.update()
        .where(_t.c.task_id == task_id, _t.c.attempt == attempt)
        .values(warning_count=_t.c.warning_count + len(rows))
        .returning(_t.c.warning_count)
    ).scalar()
    if total is None:
        return None
    p = schema.problems
    last = connection.execute(sa.select(sa.func.max(p.c.number)).where(p.c.task_id == task_id)).scalar()
    first = (last or 0) + 1
    kept = [ProblemRow(task_id=task_id, number=first + i, **row) for i, row in enumerate(rows)]
    connection.execute(p.insert(), [row.values() for row in kept])
    return kept


def forget_problems(connection: sa.Connection, task_id: str, *, keep_backups: Collection[str]) -> None:
    """Drop the problems of work that a new attempt does again; those of finished backups stay."""
    p = schema.problems
    connection.execute(
        p.delete().where(
            p.c.task_id == task_id, sa.or_(p.c.backup_id.is_(None), p.c.backup_id.not_in(sorted(keep_backups)))
        )
    )
    left = sa.select(sa.func.count()).where(p.c.task_id == task_id).scalar_subquery()
    connection.execute(_t.update().where(_t.c.task_id == task_id).values(warning_count=left))


def list_problems(
    connection: sa.Connection, task_id: str, after: int, limit: int, *, source_id: str | None = None
) -> list[ProblemRow]:
    """By number, starting after `after`."""
    p = schema.problems
    query = p.select().where(p.c.task_id == task_id, p.c.number > after).order_by(p.c.number).limit(limit)
    if source_id is not None:
        query = query.where(p.c.source_id == source_id)
    return [ProblemRow.of(row) for row in connection.execute(query).mappings()]


def _filtered(query: sa.Select[Any], chosen: TaskFilter) -> sa.Select[Any]:
    if chosen.source_id is not None:
        by_source = sa.select(schema.task_sources.c.task_id).where(schema.task_sources.c.source_id == chosen.source_id)
        query = query.where(_t.c.task_id.in_(by_source))
    if chosen.kinds:
        query = query.where(_t.c.kind.in_(sorted(chosen.kinds)))
    if chosen.states:
        query = query.where(_t.c.state.in_(sorted(chosen.states)))
    if chosen.origin is not None:
        query = query.where(_t.c.origin == chosen.origin)
    if chosen.created_after is not None:
        query = query.where(_t.c.create_time >= chosen.created_after)
    if chosen.created_before is not None:
        query = query.where(_t.c.create_time < chosen.created_before)
    return query


def _bump(
    connection: sa.Connection, task_id: str, now: int, *, fence: int | None = None, **values: Any
) -> TaskRow | None:
    """The row with its next revision, or None when `fence` is no longer its attempt."""
    conditions = [_t.c.task_id == task_id]
    if fence is not None:
        conditions.append(_t.c.attempt == fence)
    found = (
        connection.execute(
            _t.update().where(*conditions).values(revision=_t.c.revision + 1, update_time=now, **values).returning(_t)
        )
        .mappings()
        .first()
    )
    return TaskRow.of(found) if found else None


def _append(connection: sa.Connection, row: TaskRow, kind: EventKind, payload: dict[str, Any], now: int) -> None:
    connection.execute(
        _e.insert().values(task_id=row.task_id, sequence=row.revision, time=now, kind=kind, payload=payload)
    )
