"""A backup's archive: written, proved, published under a name that is free, and taken back if nobody wants it."""

from __future__ import annotations

import base64
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import sqlalchemy as sa

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.archive.sealing import parse_recipients
from holdfast_server.archive.sidecar import Sidecar
from holdfast_server.catalog import backups
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import BackupRow, BackupState
from holdfast_server.clock import Clock
from holdfast_server.core.archive_file import ProvedArchive
from holdfast_server.core.backup import ArchivePlan, write_archive
from holdfast_server.core.publish import archive_base_name
from holdfast_server.core.source_job import BackupPlan
from holdfast_server.core.statistics import Statistics
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.storage.names import escape
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks.backup_orders import RECIPIENTS_FIELD
from holdfast_server.tasks.backup_result import SourceOutcome
from holdfast_server.tasks.backup_target import Made, statistics_record
from holdfast_server.tasks.publishing import Announced, open_destination, partial_archive, settle, take_back
from holdfast_server.tasks.run import TaskRun

__all__ = ["ArchiveTarget"]


class ArchiveTarget:
    """Backups of one process that become archives."""

    def __init__(self, database: Database, policy: FolderPolicy, pool: CompressorPool, clock: Clock) -> None:
        self._database = database
        self._policy = policy
        self._pool = pool
        self._clock = clock

    def back_up(self, run: TaskRun, entry: dict[str, Any], source: OpenFolder, plan: BackupPlan, number: int) -> Made:
        """One source from reading to publishing; the archive is there when this returns."""
        request, source_id, backup_id = run.row.request, entry["source_id"], entry["backup_id"]
        started = self._clock.monotonic()
        with self._destination(request, source) as folder:
            archive_plan = _archive_plan(plan, request, folder)
            with partial_archive(run, folder, number) as archive:
                report = partial(run.problem, source_id=source_id, backup_id=backup_id)
                written = write_archive(source, archive_plan, archive.fd, self._pool, run.control, run.progress, report)
                announce = partial(self._announce, run, backup_id, written)
                base = archive_base_name(entry["display_name"], request["tag"], request["created"])
                name = archive.publish(base, archive_plan.format, announce, self._sidecar(archive_plan, written))
            output = folder.path.rstrip(b"/") + b"/" + name
        seconds = self._clock.monotonic() - started
        proved = "sealed and read back" if written.sealed else "read back and verified"
        run.log(f"{source_id}: {escape(output)}, {written.size} bytes, sha256 {written.sha256}, {proved}")
        commit = _Commit(self._clock, run, backup_id, written, name, output, seconds)
        return Made(SourceOutcome(entry, written.statistics, output, written.size), commit.apply, commit.undo)

    def clean(self, run: TaskRun, *, cancelled: bool) -> list[str]:
        """Remove the partials of lower attempts. An archive that one of them published without living to record it is
        recorded now, or removed when the task was cancelled: none is left that the catalog does not know."""
        found = {archive.path: (row, archive) for row, archive in self._announced(run)}
        return settle(
            run,
            base64.b64decode(run.row.request["folder"]),
            [archive for _, archive in found.values()],
            lambda archive: self._adopt(run, *found[archive.path]),
            cancelled=cancelled,
        )

    def give_up(self, run: TaskRun, backup_id: str) -> None:
        """Nothing is left of an archive that was not published."""

    def _announce(self, run: TaskRun, backup_id: str, written: ProvedArchive, name: bytes) -> None:
        with run.guarded() as connection:
            backups.update_backup(
                connection,
                backup_id,
                only_in=BackupState.IN_PROGRESS,
                file_name=name,
                size=written.size,
                sha256=written.sha256,
                statistics=statistics_record(written.statistics, written.size, 0.0),
            )

    def _announced(self, run: TaskRun) -> list[tuple[BackupRow, Announced]]:
        """The backups IN_PROGRESS that an earlier attempt was about to publish."""
        with self._database.read() as connection:
            rows = backups.backups_of_task(connection, run.task_id)
        return [
            (row, Announced(row.storage_path, row.size, row.sha256))
            for row in rows
            if row.state == BackupState.IN_PROGRESS and row.file_name and row.size is not None and row.sha256
        ]

    def _adopt(self, run: TaskRun, row: BackupRow, archive: Announced) -> None:
        run.log(f"{row.source_id}: {escape(archive.path)} was published by an earlier attempt")
        written = ProvedArchive(archive.size, archive.sha256, Statistics.from_record(row.statistics), row.sealed)
        name = archive.path.rpartition(b"/")[2]
        commit = _Commit(self._clock, run, row.backup_id, written, name, archive.path, 0.0)
        with run.guarded() as connection:
            commit.apply(connection)

    def _sidecar(self, plan: ArchivePlan, written: ProvedArchive) -> Sidecar | None:
        if plan.recipients is None:
            return None
        totals = written.statistics.manifest_totals(wallet=False)
        return Sidecar(
            backup_id=plan.backup_id,
            source_id=plan.source_id,
            source_kind=plan.source_kind,
            archive_format=plan.format.value,
            recipients=len(plan.recipients),
            created_us=plan.created_us,
            completed_us=self._clock.now(),
            size=written.size,
            sha256=written.sha256,
            counts=totals["counts"],
            complete=totals["complete"],
            software=plan.software,
        )

    def _destination(self, request: dict[str, Any], source: OpenFolder) -> OpenFolder:
        path = base64.b64decode(request["folder"])
        return open_destination(self._policy, path, "archive.folder", sources=[source])


def _archive_plan(plan: BackupPlan, request: dict[str, Any], folder: OpenFolder) -> ArchivePlan:
    common = {field.name: getattr(plan, field.name) for field in fields(plan)}
    recipients = request.get("recipients")
    return ArchivePlan(
        **{**common, "forbidden": frozenset({folder.identity})},
        format=ArchiveFormat(request["format"]),
        recipients=parse_recipients(recipients, RECIPIENTS_FIELD) if recipients else None,
    )


@dataclass(frozen=True, slots=True)
class _Commit:
    """The catalog's side of a published archive, and how to take the archive back."""

    clock: Clock
    run: TaskRun
    backup_id: str
    written: ProvedArchive
    name: bytes
    output: bytes
    seconds: float

    def apply(self, connection: sa.Connection) -> None:
        now = self.clock.now()
        found = self.written.statistics
        backups.update_backup(
            connection, self.backup_id, only_in=BackupState.IN_PROGRESS, state=BackupState.COMPLETED,
            file_name=self.name, size=self.written.size, sha256=self.written.sha256, complete=found.complete,
            complete_time=now, update_time=now,
            statistics=statistics_record(found, self.written.size, self.seconds),
        )  # fmt: skip
        # Nobody here can open a sealed one: what was read back are its bytes.
        sealed = {"level": "CHECKSUM", "files_checked": 0, "bytes_checked": self.written.size,
                  "message": "sealed; read back after writing, by its hash"}  # fmt: skip
        opened = {"level": "READ_DATA", "files_checked": found.files, "bytes_checked": found.original_size,
                  "message": "read back after writing"}  # fmt: skip
        proof = sealed if self.written.sealed else opened
        backups.add_verification(connection, self.backup_id, time=now, ok=True, task_id=self.run.task_id, **proof)

    def undo(self) -> None:
        """Remove the archive that was published a moment before the cancel."""
        take_back(self.run, Announced(self.output, self.written.size, self.written.sha256))
