"""The COMPACT_REPOSITORY task, and the compaction after a backup."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import RepositoryRow
from holdfast_server.clock import Clock
from holdfast_server.repository import CompactReport, MaintenanceWatch, compact_repository
from holdfast_server.tasks.maintaining import TaskMaintenanceWatch, keep_maintained, tell_of_damage
from holdfast_server.tasks.repositories import open_writable, require_repository
from holdfast_server.tasks.run import Outcome, TaskRun

__all__ = ["CompactHandler", "compact_sentence"]


class CompactHandler:
    """Does COMPACT_REPOSITORY tasks in a worker."""

    def __init__(self, database: Database, clock: Clock, data_dir: bytes) -> None:
        self._database = database
        self._clock = clock
        self._data_dir = data_dir

    def run(self, run: TaskRun) -> Outcome:
        with self._database.read() as connection:
            row = require_repository(connection, run.row.request["repository_id"])
        run.log(f"compacting repository {row.repository_id}")
        report = self.compact(run, row, TaskMaintenanceWatch(run), dry_run=run.row.dry_run)
        text = compact_sentence(report, dry_run=run.row.dry_run)
        return Outcome(_result(row.repository_id, report), text, warnings=run.problems_seen > 0)

    def compact(
        self, run: TaskRun, row: RepositoryRow, watch: MaintenanceWatch, *, dry_run: bool = False
    ) -> CompactReport:
        """Raises as `open_writable` and `compact_repository`."""
        with open_writable(row, self._data_dir) as opened:
            try:
                report = compact_repository(
                    opened.repository, now=self._clock.now, watch=watch, marks=opened.place.marks, dry_run=dry_run
                )
            finally:
                if not dry_run:
                    keep_maintained(self._database, self._clock, opened)
        tell_of_damage(run, report.damaged)
        return report

    def clean(self, run: TaskRun, *, cancelled: bool) -> list[str]:  # noqa: ARG002  what was copied twice is pruned
        return []

    def abandon(self, connection: sa.Connection, run: TaskRun, failed: bool) -> None:
        pass


def compact_sentence(report: CompactReport, *, dry_run: bool = False) -> str:
    """What was done in one line, for people."""
    merged = f"{report.packs_merged} packs into {report.packs_written}"
    if dry_run:
        return f"would merge {merged} and free {report.bytes_pending} bytes"
    text = f"merged {merged} and {report.indexes_merged} index objects, freed {report.bytes_freed} bytes"
    if report.bytes_pending:
        text += f"; {report.bytes_pending} bytes follow when {report.runs_waited_for} runs have ended"
    return text


def _result(repository_id: str, report: CompactReport) -> dict[str, Any]:
    return {
        "repository_id": repository_id,
        "packs_merged": report.packs_merged,
        "packs_written": report.packs_written,
        "indexes_merged": report.indexes_merged,
        "objects_before": report.objects_before,
        "objects_after": report.objects_after,
        "bytes_freed": report.bytes_freed,
        "bytes_pending": report.bytes_pending,
    }
