"""The PRUNE_REPOSITORY task: `tasks.pruning` does it, here it is a task of its own."""

from __future__ import annotations

import sqlalchemy as sa

from holdfast_server.catalog.database import Database
from holdfast_server.clock import Clock
from holdfast_server.core.retention import RetentionPolicy
from holdfast_server.tasks.maintaining import TaskMaintenanceWatch
from holdfast_server.tasks.pruning import Pruning
from holdfast_server.tasks.repositories import require_repository
from holdfast_server.tasks.run import Outcome, TaskRun

__all__ = ["PruneHandler"]


class PruneHandler:
    """Does PRUNE_REPOSITORY tasks in a worker."""

    def __init__(self, database: Database, clock: Clock, data_dir: bytes) -> None:
        self._database = database
        self._clock = clock
        self._data_dir = data_dir

    def run(self, run: TaskRun) -> Outcome:
        request, dry_run = run.row.request, run.row.dry_run
        policy = RetentionPolicy(**request["retention"])
        with self._database.read() as connection:
            row = require_repository(connection, request["repository_id"])
        run.log(f"pruning repository {row.repository_id}")
        pruning = Pruning(run, self._database, self._clock, self._data_dir, row, request["source_ids"], policy)
        try:
            pruning.do(TaskMaintenanceWatch(run), dry_run=dry_run)
        finally:
            # Also of a prune that is cancelled or fails: what was removed stays so.
            if pruning.removed and not dry_run:
                run.failed_result = pruning.record()
        return Outcome(pruning.record(), pruning.sentence(dry_run=dry_run), warnings=run.problems_seen > 0)

    def clean(self, run: TaskRun, *, cancelled: bool) -> list[str]:  # noqa: ARG002  a prune goes on where it was
        return []

    def abandon(self, connection: sa.Connection, run: TaskRun, failed: bool) -> None:
        pass
