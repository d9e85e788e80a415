"""The RESTORE task: a stored archive into a new folder, proved before anything of it appears."""

from __future__ import annotations

import base64
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa

from holdfast_server.catalog.backups import lock_resource
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.requests import RequestKey
from holdfast_server.catalog.rows import BackupRow, LockMode, LockWish, SourceState, TaskKind, TaskRow
from holdfast_server.catalog.sources import get_source
from holdfast_server.catalog.tasks import update_attempt
from holdfast_server.core.control import Problem
from holdfast_server.core.restore import (
    Restored,
    apply_staging,
    extract_to_staging,
    remove_staging,
    staging_name,
)
from holdfast_server.core.verify import key_required, open_archive, open_content
from holdfast_server.errors import FailedPrecondition, Fenced
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.storage.local import free_bytes, fsync_directory
from holdfast_server.storage.names import escape
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks.credentials import Credentials
from holdfast_server.tasks.engine import NewTask, TaskEngine
from holdfast_server.tasks.run import Outcome, TaskRun
from holdfast_server.tasks.sources import source_suspended
from holdfast_server.tasks.stored import (
    age_identity,
    as_archive,
    check_entry_paths,
    require_backup,
    require_finished,
    require_quiet,
)

__all__ = ["RestoreHandler", "RestoreOrder", "RestoreOrders"]

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class RestoreOrder:
    """What RestoreBackup asks for, into a new folder. Paths are bytes; those below the backup are relative."""

    backup_id: str
    folder: bytes
    create_parents: bool = False
    paths: tuple[bytes, ...] = ()
    dry_run: bool = False


class RestoreOrders:
    """Files restores. Thread-safe."""

    def __init__(self, engine: TaskEngine, policy: FolderPolicy) -> None:
        self._engine = engine
        self._policy = policy

    def create(
        self, order: RestoreOrder, principal: str, key: RequestKey | None, credentials: Credentials | None = None
    ) -> TaskRow:
        """Check the backup and the target now, make the target's parents if asked to, and queue the task.

        Raises NotFound/BACKUP_NOT_FOUND, Aborted/BACKUP_BUSY (also while another restore of it is under way),
        FailedPrecondition (BACKUP_NOT_RESTORABLE, SOURCE_SUSPENDED, FOLDER_…, KEY_REQUIRED for a sealed one),
        InvalidArgument, PermissionDenied/PATH_NOT_ALLOWED, Unavailable/NO_WORKER.
        """
        check_entry_paths(order.paths)
        has_identity = age_identity(credentials) is not None
        if key is not None and (known := self._engine.recall(key)) is not None:
            return known
        self._engine.inside(partial(_restorable, order.backup_id, has_identity))
        with self._policy.check_restore_target(
            order.folder, "new_folder.folder", create_parents=order.create_parents, dry_run=order.dry_run
        ):
            return self._engine.create(partial(_file, order, principal, credentials), key)


def _file(order: RestoreOrder, principal: str, credentials: Credentials | None, connection: sa.Connection) -> NewTask:
    row = _restorable(order.backup_id, age_identity(credentials) is not None, connection)
    return NewTask(
        kind=TaskKind.RESTORE,
        principal=principal,
        request={
            "backup_id": order.backup_id,
            "folder": base64.b64encode(order.folder).decode(),
            "paths": [base64.b64encode(path).decode() for path in order.paths],
        },
        source_ids=[row.source_id],
        wishes=[
            LockWish(lock_resource(order.backup_id), LockMode.SHARED),
            LockWish(f"folder:{escape(order.folder.rstrip(b'/'))}", LockMode.EXCLUSIVE),
        ],
        dry_run=order.dry_run,
        message="waiting",
        credentials=credentials,
    )


def _restorable(backup_id: str, has_identity: bool, connection: sa.Connection) -> BackupRow:
    row = require_quiet(require_backup(connection, backup_id))
    if row.sealed and not has_identity:
        raise key_required(backup_id)
    source = get_source(connection, row.source_id)
    if source is not None and source.state == SourceState.SUSPENDED:
        raise source_suspended(row.source_id)
    return row


class RestoreHandler:
    """Does RESTORE tasks in a worker."""

    def __init__(self, database: Database, policy: FolderPolicy) -> None:
        self._database = database
        self._policy = policy

    def run(self, run: TaskRun) -> Outcome:
        request = run.row.request
        folder = base64.b64decode(request["folder"])
        with self._database.read() as connection:
            row = require_finished(require_backup(connection, request["backup_id"]))
        if "applying" in run.row.checkpoint:
            return self._finish_applying(run, row, folder)
        size, files = int(row.statistics["original_size"]), int(row.statistics["files"])
        paths = [base64.b64decode(path) for path in request["paths"]]
        if not paths:
            run.progress.set_totals(size, files, work=1.0)
        if run.row.dry_run:
            return self._plan(row, folder)
        run.log(f"restoring {escape(row.storage_path)} to {escape(folder)}")
        archive, identity = as_archive(row), age_identity(run.credentials())
        run.progress.keep_names = not archive.sealed
        staging = staging_name(run.task_id, run.attempt)
        with (
            open_archive(archive) as file,
            open_content(archive, file, identity, run.control.check) as content,
            self._target(run, folder) as root,
        ):
            try:
                found = extract_to_staging(
                    content,
                    archive,
                    root.fd,
                    staging, paths=paths, control=run.control, progress=run.progress,
                )  # fmt: skip
                for warning in found.warnings:
                    run.problem(
                        Problem(b"", "RESTORED_WITH_WARNING", warning), source_id=row.source_id, backup_id=row.backup_id
                    )
                self._commit_to_applying(run, found, staging)
                self._apply(run, root.fd, folder)
            except BaseException as error:
                if "applying" not in run.row.checkpoint:
                    run.cleanup.removed(*remove_staging(root.fd, staging))
                    if not isinstance(error, Fenced):  # then the folder is the successor's
                        self._remove_root(run, folder)
                raise
        return self._outcome(row, folder, _counts(found), found.warning_count)

    def clean(self, run: TaskRun, *, cancelled: bool) -> list[str]:  # noqa: ARG002  a proved restore is finished
        """Remove the staging of lower attempts, and the target if this task made it.

        Once entries are being moved, nothing is removed any more: the restore is finished instead.
        """
        if "applying" in run.row.checkpoint or run.row.dry_run:
            return []
        folder = base64.b64decode(run.row.request["folder"])
        try:
            fd = os.open(folder, _OPEN)
        except OSError:
            return []
        try:
            for attempt in range(1, run.attempt):
                run.cleanup.removed(*remove_staging(fd, staging_name(run.task_id, attempt)))
        finally:
            os.close(fd)
        self._remove_root(run, folder)
        return []

    def abandon(self, connection: sa.Connection, run: TaskRun, failed: bool) -> None:
        pass

    @contextmanager
    def _target(self, run: TaskRun, folder: bytes) -> Iterator[OpenFolder]:
        """The empty target, made if it does not exist; that this task made it is recorded first."""
        with self._policy.check_restore_target(folder, "new_folder.folder", create_parents=False) as target:
            if target.existing is not None:
                yield target.existing
                return
            with run.guarded() as connection:
                run.checkpoint(connection, made_root=True)
            os.mkdir(target.name, 0o700, dir_fd=target.parent.fd)
            fsync_directory(target.parent.fd)
            with OpenFolder(os.open(target.name, _OPEN, dir_fd=target.parent.fd), folder) as made:
                yield made

    def _commit_to_applying(self, run: TaskRun, found: Restored, staging: bytes) -> None:
        """The point of no return: from here the restore is finished, by this attempt or a later one."""
        applying = {"staging": staging.decode(), "root": found.root, "counts": _counts(found)}
        try:
            with run.guarded() as connection:
                run.checkpoint(connection, applying=applying)
                update_attempt(connection, run.task_id, run.attempt, committing=True)
        except BaseException:
            run.row.checkpoint.pop("applying", None)  # it did not come about
            raise
        run.progress.begin("applying")

    def _finish_applying(self, run: TaskRun, row: BackupRow, folder: bytes) -> Outcome:
        run.log("an earlier attempt had proved everything; moving what is left")
        run.progress.begin("applying")
        fd = os.open(folder, _OPEN)
        try:
            self._apply(run, fd, folder)
        finally:
            os.close(fd)
        return self._outcome(row, folder, run.row.checkpoint["applying"]["counts"], 0)

    def _apply(self, run: TaskRun, root_fd: int, folder: bytes) -> None:
        """Move up what staging holds. Where something stands in the way, the report says what stays where."""
        applying = run.row.checkpoint["applying"]
        staging = applying["staging"].encode()
        try:
            apply_staging(root_fd, staging, applying["root"], lambda: None)
        except FailedPrecondition:
            run.left_behind += [escape(folder), escape(folder.rstrip(b"/") + b"/" + staging)]
            raise

    def _plan(self, row: BackupRow, folder: bytes) -> Outcome:
        """A dry run: what would be created, by the catalog's word, and whether it would fit."""
        with self._policy.check_restore_target(
            folder, "new_folder.folder", create_parents=True, dry_run=True
        ) as target:
            free = free_bytes(target.parent.fd)
        needed = int(row.statistics["original_size"])
        counts = {name: int(row.statistics[name]) for name in ("files", "directories", "symlinks", "hardlinks")}
        counts["bytes"] = 0
        fits = "" if needed <= free else f"; only {free} bytes are free"
        result = self._result(row, folder, counts, create=sum(counts.values()), needed=needed)
        result["files_verified"] = 0
        return Outcome(result, f"would restore {counts['files']} files, {needed} bytes{fits}", warnings=needed > free)

    def _outcome(self, row: BackupRow, folder: bytes, counts: dict[str, int], warnings: int) -> Outcome:
        entries = sum(counts[name] for name in ("files", "directories", "symlinks", "hardlinks"))
        result = self._result(row, folder, counts, create=entries, needed=counts["bytes"])
        text = (
            f"restored {counts['files']} files, {counts['bytes']} bytes to {escape(folder)}, every file's hash verified"
        )
        return Outcome(result, text, warnings=warnings > 0)

    def _result(
        self, row: BackupRow, folder: bytes, counts: dict[str, int], *, create: int, needed: int
    ) -> dict[str, Any]:
        return {
            "backup_id": row.backup_id,
            "folder": escape(folder),
            "files": counts["files"],
            "directories": counts["directories"],
            "symlinks": counts["symlinks"],
            "hardlinks": counts["hardlinks"],
            "restored_size": counts["bytes"],
            "files_verified": counts["files"],
            "plan": {"create": create, "replace": 0, "delete": 0, "keep": 0, "bytes_needed": needed},
        }

    def _remove_root(self, run: TaskRun, folder: bytes) -> None:
        """Remove the target again if this task made it and it is empty."""
        if not run.row.checkpoint.get("made_root"):
            return
        with suppress(FileNotFoundError):
            try:
                os.rmdir(folder)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise


def _counts(found: Restored) -> dict[str, int]:
    return {
        "files": found.files,
        "directories": found.directories,
        "symlinks": found.symlinks,
        "hardlinks": found.hardlinks,
        "bytes": found.bytes,
    }
