"""The REPAIR_REPOSITORY task: rebuilds what can be rebuilt, and sets aside what is damaged, so that backups heal it."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from holdfast_server.catalog import backups, repositories
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import BackupRow
from holdfast_server.clock import Clock
from holdfast_server.core.kept_place import put_config_back
from holdfast_server.core.repository_place import OpenRepository, heads_of, require_newest
from holdfast_server.errors import DataLoss, Reason
from holdfast_server.repository import ContentKeys, KnownBackup, RepairReport, repair_repository
from holdfast_server.tasks.checking import TaskWatch, damage_record
from holdfast_server.tasks.maintaining import TaskMaintenanceWatch, keep_maintained
from holdfast_server.tasks.repositories import open_repository, repository_place, require_repository
from holdfast_server.tasks.run import Outcome, TaskRun

__all__ = ["RepairHandler"]

_SHOWN: Final = 100


class RepairHandler:
    """Does REPAIR_REPOSITORY tasks in a worker."""

    def __init__(self, database: Database, clock: Clock, data_dir: bytes) -> None:
        self._database = database
        self._clock = clock
        self._data_dir = data_dir

    def run(self, run: TaskRun) -> Outcome:
        dry_run = run.row.dry_run
        with self._database.read() as connection:
            row = require_repository(connection, run.row.request["repository_id"])
            known = backups.snapshots_in(connection, row.repository_id)
        run.progress.keep_names = not row.sealed
        run.log(f"repairing repository {row.repository_id}")
        sources = {one.backup_id: one.source_id for one in known.values()}
        check_watch = TaskWatch(run, sources, names=not row.sealed)
        config_restored = put_config_back(repository_place(row, self._data_dir), dry_run=dry_run)
        if config_restored:
            run.log("the config was damaged or gone" if dry_run else "the config was put back from the copy kept here")
        if config_restored and dry_run:
            text = "would put the config back; until then nothing else can be looked at"
            return Outcome(_result(row.repository_id, RepairReport(config_restored=True), known, check_watch), text)
        with open_repository(row, self._data_dir) as opened:
            _require_newest(opened, row.log_vector)
            report = repair_repository(
                opened.repository,
                now=self._clock.now,
                watch=TaskMaintenanceWatch(run, besides=True),  # the reading counts
                check_watch=check_watch,
                content=self._content(run, opened),
                known={one.backup_id: KnownBackup(one.name, one.locked) for one in known.values()},
                lost=run.row.request.get("lost", ()),
                marks=opened.place.marks,
                dry_run=dry_run,
            )
            report.config_restored = config_restored
            if not dry_run:
                self._keep(opened, report)
        result = _result(row.repository_id, report, known, check_watch)
        lost = bool(report.chunks_lost or report.backups_damaged)
        return Outcome(result, _sentence(report, dry_run=dry_run), warnings=lost or run.problems_seen > 0)

    def _content(self, run: TaskRun, opened: OpenRepository) -> ContentKeys | None:
        """None for a sealed repository without a key: then chunks are counted. Raises FailedPrecondition/KEY_WRONG."""
        if opened.keys.content is None and run.credentials() is None:
            return None
        return run.content_keys(opened)

    def _keep(self, opened: OpenRepository, report: RepairReport) -> None:
        if report.log_mended:
            # What could not be read is given up: the log is what is there now.
            with self._database.write() as connection:
                repositories.update_repository(connection, opened.repository_id, log_vector=heads_of(opened))
        keep_maintained(self._database, self._clock, opened)

    def clean(self, run: TaskRun, *, cancelled: bool) -> list[str]:  # noqa: ARG002  a repair goes on where it was
        return []

    def abandon(self, connection: sa.Connection, run: TaskRun, failed: bool) -> None:
        pass


def _require_newest(opened: OpenRepository, seen: dict[str, list[Any]]) -> None:
    """Raises DataLoss/REPOSITORY_ROLLED_BACK. A log that cannot be read is what a repair is for."""
    try:
        require_newest(opened, seen)
    except DataLoss as error:
        if error.reason is Reason.REPOSITORY_ROLLED_BACK:
            raise


def _result(repository_id: str, report: RepairReport, known: dict[str, BackupRow], watch: TaskWatch) -> dict[str, Any]:
    def files_of(backup_id: str) -> int | None:
        row = known.get(backup_id)
        return None if row is None else int(row.statistics["files"])

    lost = [damage_record(one, files_of(one.run_id), watch.paths) for one in report.backups_damaged[:_SHOWN]]
    return {
        "repository_id": repository_id,
        "indexes_rebuilt": report.indexes_rebuilt,
        "packs_adopted": report.packs_adopted,
        "packs_set_aside": report.packs_set_aside,
        "chunks_lost": report.chunks_lost,
        "damaged_backups": lost,
        "log_mended": report.log_mended,
        "runs_ended": report.runs_ended,
        "backups_given_up": report.backups_given_up,
        "config_restored": report.config_restored,
    }


def _sentence(report: RepairReport, *, dry_run: bool) -> str:
    verb = "would rebuild" if dry_run else "rebuilt"
    text = (
        f"{verb} {report.indexes_rebuilt} index objects, {'take' if dry_run else 'took'} {report.packs_adopted} packs "
        f"into the index again and set {report.packs_set_aside} damaged ones aside"
    )
    if report.config_restored:
        text += "; the config was put back"
    if report.log_mended:
        text += f"; the log {'would be' if dry_run else 'was'} mended"
    if report.backups_given_up:
        text += f"; {report.backups_given_up} lost backups were given up"
    if report.chunks_lost:
        text += f"; {report.chunks_lost} chunks of {len(report.backups_damaged)} backups are lost"
    return text
