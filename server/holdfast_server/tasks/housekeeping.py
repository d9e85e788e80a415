"""Daily housekeeping: what the catalog need not remember for ever."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from holdfast_server.catalog import schema, tasks, workers
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import END_STATES, EventKind, TaskKind, TaskRow, TaskState
from holdfast_server.clock import Clock
from holdfast_server.tasks.queue import Dispatcher

__all__ = ["Housekeeper"]

_log = logging.getLogger(__name__)
_DAY = 86_400_000_000
_AT_A_TIME = 500


@dataclass(frozen=True, slots=True)
class Housekeeper:
    """Removes ended tasks with their events, logs and problems after `history_days`, old request ids, progress events
    of ended tasks, silent workers, and the queue's own records. A task that can be resumed stays: coins wait for it."""

    database: Database
    dispatcher: Dispatcher
    clock: Clock
    history_days: int
    request_id_days: int

    def run(self) -> None:
        """Do it all now. Idempotent; each step is its own transaction, so that no writer waits long."""
        now = self.clock.now()
        with self.database.write() as connection:
            workers.forget_workers(connection, now - _DAY)
            connection.execute(
                schema.request_ids.delete().where(schema.request_ids.c.create_time < now - self.request_id_days * _DAY)
            )
        ended = sa.select(schema.tasks.c.task_id).where(schema.tasks.c.state.in_(sorted(END_STATES)))
        with self.database.write() as connection:
            connection.execute(
                schema.task_events.delete().where(
                    schema.task_events.c.kind == EventKind.PROGRESS,
                    schema.task_events.c.task_id.in_(ended.where(schema.tasks.c.end_time < now - _DAY)),
                )
            )
        while self._forget_tasks(now - self.history_days * _DAY):
            pass
        self._forget_queue(now)

    def _forget_tasks(self, ended_before: int) -> int:
        t = schema.tasks
        with self.database.write() as connection:
            failed = t.select().where(t.c.state == TaskState.FAILED, t.c.kind == TaskKind.EXPORT_COINS)
            rows = map(TaskRow.of, connection.execute(failed).mappings())
            spared = [row.task_id for row in rows if row.resumable]
            old = [
                row[0]
                for row in connection.execute(
                    sa.select(t.c.task_id)
                    .where(t.c.state.in_(sorted(END_STATES)), t.c.end_time < ended_before, t.c.task_id.not_in(spared))
                    .limit(_AT_A_TIME)
                )
            ]
            for table in (schema.task_events, schema.task_log, schema.problems, schema.task_sources, t):
                connection.execute(table.delete().where(table.c.task_id.in_(old)))
        if old:
            _log.info("forgot %d tasks that ended more than %d days ago", len(old), self.history_days)
        return len(old)

    def _forget_queue(self, now: int) -> None:
        with self.database.read() as connection:
            live = tasks.live_tasks(connection, tasks.TaskFilter())
        yesterday = datetime.fromtimestamp(now / 1e6, UTC) - timedelta(days=1)
        self.dispatcher.forget(yesterday, {(row.task_id, row.attempt) for row in live})
