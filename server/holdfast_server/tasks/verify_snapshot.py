"""Verifying a backup that is a snapshot: what it needs of its repository, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import BackupRow
from holdfast_server.clock import Clock
from holdfast_server.core.repository_place import open_place
from holdfast_server.errors import DataLoss
from holdfast_server.repository import CheckLevel, CheckReport, check_snapshot
from holdfast_server.tasks.checking import TaskWatch, damage_error
from holdfast_server.tasks.repositories import repository_place, require_repository
from holdfast_server.tasks.run import TaskRun

__all__ = ["SNAPSHOT", "SnapshotProof", "prove_snapshot"]

#: Kind of a backup in a repository.
SNAPSHOT = "SNAPSHOT"


@dataclass(frozen=True, slots=True)
class SnapshotProof:
    """What was checked: the result of the task, one line for people, and the error if something is lost."""

    result: dict[str, Any]
    text: str
    failure: DataLoss | None


def prove_snapshot(
    run: TaskRun, row: BackupRow, level: CheckLevel, database: Database, clock: Clock, data_dir: bytes
) -> SnapshotProof:
    """Raises as `check_snapshot` and `open_repository`, FailedPrecondition/KEY_REQUIRED, KEY_WRONG when READ_DATA needs
    a secret."""
    assert row.repository_id is not None
    with database.read() as connection:
        repository = require_repository(connection, row.repository_id)
    run.progress.keep_names = not repository.sealed
    run.log(f"verifying snapshot {row.backup_id} in repository {row.repository_id} at level {level.name}")
    watch = TaskWatch(run, {row.backup_id: row.source_id}, names=not repository.sealed)
    with open_place(repository_place(repository, data_dir)) as opened:
        report = check_snapshot(
            opened.store,
            opened.keys,
            row.backup_id,
            level,
            now=clock.now,
            marks=opened.place.marks,
            content=run.content_keys(opened) if level is CheckLevel.READ_DATA else None,
            watch=watch,
        )
    failure = None
    if not report.ok:
        failure = damage_error(f"backup {row.backup_id}", report, {"backup_id": row.backup_id})
    text = f"verified at level {level.name}: {report.chunks} chunks, {report.files} files, {report.bytes} bytes"
    return SnapshotProof(_result(row, report, watch), text, failure)


def _result(row: BackupRow, report: CheckReport, watch: TaskWatch) -> dict[str, Any]:
    lost = 0
    for damage in report.backups_damaged:
        lost += int(row.statistics["files"]) if damage.whole else (damage.files or 0) + damage.unnamed
    return {
        "backup_id": row.backup_id,
        "level": report.level.name,
        "files_checked": report.files,
        "bytes_checked": report.bytes,
        "sha256": "",
        "damaged_files": watch.paths.get(row.backup_id, []),
        "damaged_count": lost,
        "percent": 100.0,
        "sealed_hash_only": False,
    }
