"""The EXPORT_BACKUP task: a stored backup into one portable file, proved while it is read and once it is written."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.archive.sealing import parse_recipients
from holdfast_server.catalog import tasks
from holdfast_server.catalog.backups import lock_resource
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.requests import RequestKey
from holdfast_server.catalog.rows import BackupRow, LockMode, LockWish, TaskKind, TaskRow
from holdfast_server.clock import Clock
from holdfast_server.core.archive_file import ProvedArchive
from holdfast_server.core.control import Problem
from holdfast_server.core.export import (
    BackupContents,
    BackupExport,
    ExportPlan,
    archive_contents,
    archive_origin,
    least_size,
)
from holdfast_server.core.publish import archive_base_name
from holdfast_server.core.snapshot_contents import SnapshotContents
from holdfast_server.core.snapshot_place import require_snapshot
from holdfast_server.core.statistics import Statistics
from holdfast_server.core.verify import key_required, open_archive, open_content
from holdfast_server.errors import DataLoss, NotFound
from holdfast_server.repository import RunKind
from holdfast_server.storage.names import escape
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks.credentials import Credentials
from holdfast_server.tasks.engine import NewTask, TaskEngine
from holdfast_server.tasks.publishing import (
    Announced,
    check_tag,
    open_destination,
    partial_archive,
    require_space,
    settle,
    take_back,
)
from holdfast_server.tasks.repositories import RepositoryRegistry, open_repository, require_repository
from holdfast_server.tasks.run import Outcome, TaskRun
from holdfast_server.tasks.snapshot_reading import chosen_paths, order_snapshot, reading_run, without_names
from holdfast_server.tasks.stored import age_identity, as_archive, check_entry_paths, require_backup, require_finished

__all__ = ["ExportHandler", "ExportOrder", "ExportOrders"]

_RECIPIENTS_FIELD = "age_recipients"


@dataclass(frozen=True, slots=True)
class ExportOrder:
    """What ExportBackup asks for. Paths are bytes, those below the backup relative; `recipients` are those of age."""

    backup_id: str
    folder: bytes
    format: ArchiveFormat
    create_folder: bool = False
    tag: str = ""
    recipients: tuple[str, ...] = ()
    paths: tuple[bytes, ...] = ()
    dry_run: bool = False


class ExportOrders:
    """Files exports of backups. Thread-safe."""

    def __init__(
        self, engine: TaskEngine, policy: FolderPolicy, clock: Clock, repositories: RepositoryRegistry
    ) -> None:
        self._engine = engine
        self._policy = policy
        self._clock = clock
        self._repositories = repositories

    def create(
        self, order: ExportOrder, principal: str, key: RequestKey | None, credentials: Credentials | None = None
    ) -> TaskRow:
        """Check the backup and the folder now, create the folder if asked to, and queue the task.

        The backup's source may be suspended, offline or gone. Raises InvalidArgument, NotFound/BACKUP_NOT_FOUND,
        Aborted/BACKUP_BUSY, FailedPrecondition (BACKUP_NOT_RESTORABLE, FOLDER_…, KEY_REQUIRED for a sealed backup, or
        one in a sealed and locked repository),
        PermissionDenied/PATH_NOT_ALLOWED, ResourceExhausted/DISK_FULL where that can be foreseen,
        Unavailable/NO_WORKER, AlreadyExists/REQUEST_ID_REUSED.
        """
        check_tag(order.tag, "tag")
        check_entry_paths(order.paths)
        if order.recipients:
            parse_recipients(order.recipients, _RECIPIENTS_FIELD)
        age_identity(credentials)  # refuses what is none
        if key is not None and (known := self._engine.recall(key)) is not None:
            return known
        looked_for = {"backup_id": order.backup_id, "paths": []}
        backup = self._engine.inside(partial(self._opens, looked_for, credentials))[0]
        file = partial(self._file, order, principal, credentials)
        folder = self._policy.check_destination(
            order.folder, "folder", sources=(), create=order.create_folder, dry_run=order.dry_run
        )
        if folder is None:
            return self._engine.create(file, key)
        with folder:
            if not order.dry_run:
                require_space(folder, _least_size(backup, order.format, order.paths))
            return self._engine.create(file, key)

    def _file(
        self, order: ExportOrder, principal: str, credentials: Credentials | None, connection: sa.Connection
    ) -> NewTask:
        request = {
            "backup_id": order.backup_id,
            "folder": base64.b64encode(order.folder).decode(),
            "format": order.format.value,
            "tag": order.tag,
            "recipients": list(order.recipients),
            "paths": [base64.b64encode(path).decode() for path in order.paths],
            "created": self._clock.now(),
        }
        # Once more: the world may have moved.
        row, wishes, credentials = self._opens(request, credentials, connection)
        return NewTask(
            kind=TaskKind.EXPORT_BACKUP,
            principal=principal,
            request=request,
            source_ids=[row.source_id],
            wishes=wishes,
            dry_run=order.dry_run,
            message="waiting",
            credentials=credentials,
        )

    def _opens(
        self, request: dict[str, Any], credentials: Credentials | None, connection: sa.Connection
    ) -> tuple[BackupRow, list[LockWish], Credentials | None]:
        """The backup, what is locked, and what the task is given to open it."""
        row = require_finished(require_backup(connection, request["backup_id"]))
        wishes = [LockWish(lock_resource(row.backup_id), LockMode.SHARED)]
        if row.repository_id is not None:
            wish, credentials = order_snapshot(self._repositories, row, request, credentials, connection)
            return row, [*wishes, wish], credentials
        if row.sealed and age_identity(credentials) is None:
            raise key_required(row.backup_id)
        return row, wishes, credentials


class ExportHandler:
    """Does EXPORT_BACKUP tasks in a worker.

    The file's name, size, hash and the task's result are kept in the task's checkpoint directly before the rename, so
    that the next attempt of a task whose worker died then only has to report them.
    """

    def __init__(
        self,
        database: Database,
        policy: FolderPolicy,
        pool: CompressorPool,
        clock: Clock,
        data_dir: bytes,
        software: str,
    ) -> None:
        self._database = database
        self._policy = policy
        self._pool = pool
        self._clock = clock
        self._data_dir = data_dir
        self._software = software

    def run(self, run: TaskRun) -> Outcome:
        if run.row.checkpoint.get("published"):
            return self._outcome(run, _announced(run))
        request = run.row.request
        with self._database.read() as connection:
            row = require_finished(require_backup(connection, request["backup_id"]))
        recipients = request["recipients"]
        plan = ExportPlan(
            backup_id=row.backup_id,
            format=ArchiveFormat(request["format"]),
            paths=tuple(base64.b64decode(path) for path in chosen_paths(run)),
            created_us=request["created"],
            software=self._software,
            recipients=parse_recipients(recipients, _RECIPIENTS_FIELD) if recipients else None,
            origin={} if row.repository_id is not None else archive_origin(as_archive(row)),
        )
        with self._contents(run, row, plan) as contents:
            export = BackupExport(contents, plan, run.control, run.progress)
            if run.row.dry_run:
                found = export.planned
                text = f"would export {found.files} files, {found.original_size} bytes"
                return Outcome(_result(row.backup_id, found), text)
            return self._write(run, row, plan, export)

    @contextmanager
    def _contents(self, run: TaskRun, row: BackupRow, plan: ExportPlan) -> Iterator[BackupContents]:
        """The backup, opened."""
        hidden = row.sealed or plan.recipients is not None
        if row.repository_id is None:
            archive = as_archive(row)
            run.progress.keep_names = not hidden
            run.log(f"exporting {escape(archive.path)} as {plan.format.value}")
            identity, control = age_identity(run.credentials()), run.control
            with open_archive(archive) as file, open_content(archive, file, identity, control.check) as content:
                yield archive_contents(content, archive.format, control, run.progress)
            return
        with self._database.read() as connection:
            repository = require_repository(connection, row.repository_id)
        run.progress.keep_names = not (hidden or repository.sealed)
        run.log(f"exporting snapshot {row.backup_id} of repository {row.repository_id} as {plan.format.value}")
        with open_repository(repository, self._data_dir) as opened:
            content_keys = run.content_keys(opened)
            run.progress.begin("reading the index")
            # Errors of the destination have paths too.
            unnamed = without_names(repository.sealed, (DataLoss, NotFound))
            with reading_run(run, opened, RunKind.EXPORT, self._clock) as session, unnamed:
                snapshot = require_snapshot(opened, row.backup_id)
                reader = session.reader(snapshot, content_keys)
                yield SnapshotContents(reader, snapshot, plan.paths, session.check)

    def clean(self, run: TaskRun, *, cancelled: bool) -> list[str]:
        """Remove the partials of lower attempts. A file that one of them published without living to say so is kept
        for the task to report, or removed when the task was cancelled."""
        if run.row.dry_run:
            return []
        announced = _announced(run)
        run.row.checkpoint.pop("published", None)  # asked anew: what stood there may be gone
        left = settle(
            run,
            base64.b64decode(run.row.request["folder"]),
            [] if announced is None else [announced],
            lambda _: self._adopt(run),
            cancelled=cancelled,
        )
        if not run.row.checkpoint.get("published"):
            with self._database.write() as connection:
                tasks.forget_problems(connection, run.task_id, keep_backups=[])
        return left

    def abandon(self, connection: sa.Connection, run: TaskRun, failed: bool) -> None:  # noqa: ARG002
        """Nothing is recorded of an export but its file: one that a failed task leaves is told."""
        announced = _announced(run)
        if failed and announced is not None and run.row.checkpoint.get("published"):
            run.left_behind.append(escape(announced.path))

    def _write(self, run: TaskRun, row: BackupRow, plan: ExportPlan, export: BackupExport) -> Outcome:
        request = run.row.request
        destination = open_destination(
            self._policy,
            base64.b64decode(request["folder"]),
            "folder",
            sources=(),
            needed=_least_size(row, plan.format, plan.paths),
        )
        with destination as folder, partial_archive(run, folder) as archive:
            report = self._reporter(run, row)
            written = export.write(archive.fd, self._pool, report)
            # The backup's own time: an export holds the state of then.
            base = archive_base_name(export.display_name, request["tag"], row.create_time)
            announce = partial(self._announce, run, row.backup_id, folder.path, written)
            archive.publish(base, plan.format, announce, export.sidecar(written, self._clock.now()))
        return self._outcome(run, _announced(run))

    @staticmethod
    def _reporter(run: TaskRun, row: BackupRow) -> Callable[[Problem], None]:
        def report(problem: Problem) -> None:
            if row.repository_id is not None and not run.progress.keep_names:
                problem = Problem(b"", problem.reason, "not named: what was exported is sealed")
            run.problem(problem, source_id=row.source_id, backup_id=row.backup_id)

        return report

    def _announce(self, run: TaskRun, backup_id: str, folder: bytes, written: ProvedArchive, name: bytes) -> None:
        path = folder.rstrip(b"/") + b"/" + name
        result = _result(backup_id, written.statistics)
        result["file"] = {"path": escape(path), "size": written.size, "sha256": written.sha256}
        with run.guarded() as connection:
            run.checkpoint(
                connection,
                path=base64.b64encode(path).decode(),
                result=result,
                warned=run.problems_seen > 0,
            )

    def _adopt(self, run: TaskRun) -> None:
        with run.guarded() as connection:
            run.checkpoint(connection, published=True)

    def _outcome(self, run: TaskRun, announced: Announced | None) -> Outcome:
        """The result of an export whose file stands under its name."""
        if announced is None:
            raise AssertionError("a published file was announced")
        result = run.row.checkpoint["result"]
        shown = escape(announced.path)
        run.log(f"{shown}, {announced.size} bytes, sha256 {announced.sha256}, read back")
        return Outcome(
            result,
            f"exported {result['files']} files, {result['original_size']} bytes to {shown}",
            warnings=run.row.checkpoint["warned"],
            undo=partial(take_back, run, announced),
        )


def _announced(run: TaskRun) -> Announced | None:
    """The file as an attempt of this task announced it."""
    checkpoint = run.row.checkpoint
    if "result" not in checkpoint:
        return None
    file = checkpoint["result"]["file"]
    return Announced(base64.b64decode(checkpoint["path"]), file["size"], file["sha256"])


def _least_size(row: BackupRow, archive_format: ArchiveFormat, paths: Sequence[bytes]) -> int:
    """Bytes that an export of the backup needs at the very least, as far as that can be said beforehand: of a snapshot
    nothing, since a file of zeros packs into a thousandth and less."""
    return 0 if row.repository_id is not None else least_size(as_archive(row), archive_format, paths)


def _result(backup_id: str, found: Statistics) -> dict[str, Any]:
    return {
        "backup_id": backup_id,
        "files": found.files,
        "directories": found.directories,
        "symlinks": found.symlinks,
        "hardlinks": found.hardlinks,
        "original_size": found.original_size,
        "complete": found.complete,
    }
