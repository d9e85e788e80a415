"""The CHECK_REPOSITORY task: proves a repository, or a part of it in turn, and names what is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa

from holdfast_server.catalog import backups, repositories
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.requests import RequestKey
from holdfast_server.catalog.rows import (
    BackupRow,
    LockMode,
    LockWish,
    RepositoryRow,
    RepositoryState,
    TaskKind,
    TaskRow,
)
from holdfast_server.clock import Clock
from holdfast_server.core.repository_place import open_place
from holdfast_server.errors import DataLoss, invalid_field
from holdfast_server.repository import CheckLevel, CheckReport, LogHead, check_repository
from holdfast_server.tasks.checking import TaskWatch, damage_error, damage_record
from holdfast_server.tasks.credentials import Credentials
from holdfast_server.tasks.engine import NewTask, TaskEngine
from holdfast_server.tasks.repositories import RepositoryRegistry, repository_place, require_repository
from holdfast_server.tasks.repository_states import require_sound
from holdfast_server.tasks.run import Outcome, TaskRun

__all__ = ["CheckHandler", "CheckOrders", "Checked"]

_SHOWN = 100


class CheckOrders:
    """Files checks of repositories. Thread-safe."""

    def __init__(self, engine: TaskEngine, registry: RepositoryRegistry) -> None:
        self._engine = engine
        self._registry = registry

    def create(
        self,
        repository_id: str,
        level: CheckLevel,
        percent: int,
        principal: str,
        key: RequestKey | None,
        credentials: Credentials | None = None,
    ) -> TaskRow:
        """`percent` of the packs' bytes, 1 to 100.

        Raises NotFound/REPOSITORY_NOT_FOUND, InvalidArgument/INVALID_FIELD, FailedPrecondition: STORE_UNSUITABLE,
        KEY_REQUIRED for READ_DATA of a sealed repository that is locked when no secret was given; Unavailable/NO_WORKER
        with one.
        """
        if not 1 <= percent <= 100:
            raise invalid_field("percent", "must be 1 to 100")
        return self._engine.create(partial(self._file, repository_id, level, percent, principal, credentials), key)

    def _file(
        self,
        repository_id: str,
        level: CheckLevel,
        percent: int,
        principal: str,
        credentials: Credentials | None,
        connection: sa.Connection,
    ) -> NewTask:
        row = require_repository(connection, repository_id)
        require_sound(row)
        if level is CheckLevel.READ_DATA:
            credentials = self._registry.attach(row, credentials, connection, required=True)
        return NewTask(
            kind=TaskKind.CHECK_REPOSITORY,
            principal=principal,
            request={"repository_id": repository_id, "level": level.name, "percent": percent},
            source_ids=[],
            wishes=[LockWish(repositories.lock_resource(repository_id), LockMode.SHARED)],
            message="waiting",
            credentials=credentials,
        )


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found. `error`: damage, of which the catalog knows already; else `commit` tells it of the end,
    inside a guarded transaction."""

    result: dict[str, Any]
    text: str
    error: DataLoss | None
    commit: Callable[[sa.Connection], None]


class CheckHandler:
    """Does CHECK_REPOSITORY tasks in a worker."""

    def __init__(self, database: Database, clock: Clock, data_dir: bytes) -> None:
        self._database = database
        self._clock = clock
        self._data_dir = data_dir

    def run(self, run: TaskRun) -> Outcome:
        request = run.row.request
        found = self.check(run, request["repository_id"], CheckLevel[request["level"]], int(request["percent"]))
        if found.error is not None:
            run.failed_result = found.result
            raise found.error
        return Outcome(found.result, found.text, commit=found.commit)

    def check(
        self, run: TaskRun, repository_id: str, level: CheckLevel, percent: int, *, besides: bool = False
    ) -> Checked:
        """`besides`: after other work of the task, whose counts and totals stay as they are."""
        with self._database.read() as connection:
            row = require_repository(connection, repository_id)
            known = backups.snapshots_in(connection, row.repository_id)
        run.progress.keep_names = not row.sealed
        share = "" if percent == 100 or level is CheckLevel.STRUCTURE else f", {percent} % of the packs"
        run.log(f"checking repository {row.repository_id} at level {level.name}{share}")
        sources = {one.backup_id: one.source_id for one in known.values()}
        watch = TaskWatch(run, sources, names=not row.sealed, besides=besides)
        report = self._check(run, row, level, percent, known, watch)
        result = _result(row.repository_id, report, known, watch)
        text = (
            f"checked {report.objects} objects, {report.packs} packs and {report.backups} backups at level "
            f"{level.name}, {report.bytes} bytes read"
        )
        run.log(text)
        commit = partial(self._keep_clean, row.repository_id, report, full=percent == 100)
        if report.ok:
            return Checked(result, text, None, commit)
        with run.guarded() as connection:
            repositories.update_repository(
                connection, row.repository_id,
                state=RepositoryState.DAMAGED, damage_level=level.name, check_cursor=report.cursor,
            )  # fmt: skip
        error = damage_error(f"repository {row.repository_id}", report, {"repository_id": row.repository_id})
        return Checked(result, text, error, commit)

    def _check(
        self,
        run: TaskRun,
        row: RepositoryRow,
        level: CheckLevel,
        percent: int,
        known: dict[str, BackupRow],
        watch: TaskWatch,
    ) -> CheckReport:
        with open_place(repository_place(row, self._data_dir), look=False) as opened:
            return check_repository(
                opened.store,
                opened.keys,
                level,
                now=self._clock.now,
                marks=opened.place.marks,
                fingerprint=row.fingerprint,
                content=run.content_keys(opened) if level is CheckLevel.READ_DATA else None,
                percent=percent,
                cursor=row.check_cursor,
                known_backups=list(known),
                known_log={
                    bytes.fromhex(writer): LogHead(number, bytes.fromhex(digest))
                    for writer, (number, digest) in row.log_vector.items()
                },
                watch=watch,
            )

    def _keep_clean(self, repository_id: str, report: CheckReport, connection: sa.Connection, *, full: bool) -> None:
        """It is READY again once a check as deep as the one that found damage has found none."""
        row = require_repository(connection, repository_id)
        values: dict[str, Any] = {"last_check_time": self._clock.now()}
        if report.level > CheckLevel.STRUCTURE:
            values["check_cursor"] = report.cursor
        deep = row.damage_level is None or report.level >= CheckLevel[row.damage_level]
        if row.state == RepositoryState.DAMAGED and full and deep:
            values |= {"state": RepositoryState.READY, "damage_level": None}
        repositories.update_repository(connection, repository_id, **values)

    def clean(self, run: TaskRun, *, cancelled: bool) -> list[str]:  # noqa: ARG002  reading leaves nothing
        return []

    def abandon(self, connection: sa.Connection, run: TaskRun, failed: bool) -> None:
        pass


def _result(repository_id: str, report: CheckReport, known: dict[str, BackupRow], watch: TaskWatch) -> dict[str, Any]:
    def files_of(backup_id: str) -> int | None:
        row = known.get(backup_id)
        return None if row is None else int(row.statistics["files"])

    return {
        "repository_id": repository_id,
        "level": report.level.name,
        "percent": report.percent,
        "backups_checked": report.backups,
        "packs_checked": report.packs,
        "objects_checked": report.objects,
        "files_checked": report.files,
        "bytes_checked": report.bytes,
        "damaged_objects": [one.object for one in report.damaged[:_SHOWN]],
        "damaged_count": len(report.damaged),
        "damaged_backups": [
            damage_record(one, files_of(one.run_id), watch.paths) for one in report.backups_damaged[:_SHOWN]
        ],
    }
