"""The VERIFY task: proves a stored backup and keeps the evidence, whichever way it went."""

from __future__ import annotations

from functools import partial
from typing import Any

import sqlalchemy as sa

from holdfast_server.archive.verify import DamagedArchive
from holdfast_server.catalog import backups, repositories
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.requests import RequestKey
from holdfast_server.catalog.rows import BackupRow, LockMode, LockWish, TaskKind, TaskRow
from holdfast_server.clock import Clock
from holdfast_server.core.control import Problem
from holdfast_server.core.verify import Proof, StoredArchive, VerifyLevel, verify_stored
from holdfast_server.errors import DataLoss, FailedPrecondition, Reason, invalid_field
from holdfast_server.repository import CheckLevel
from holdfast_server.storage.names import escape
from holdfast_server.tasks.credentials import Credentials
from holdfast_server.tasks.engine import NewTask, TaskEngine
from holdfast_server.tasks.repositories import RepositoryRegistry, require_repository
from holdfast_server.tasks.repository_states import require_sound
from holdfast_server.tasks.run import Outcome, TaskRun
from holdfast_server.tasks.stored import age_identity, as_archive, require_backup, require_finished
from holdfast_server.tasks.verify_snapshot import SNAPSHOT, prove_snapshot

__all__ = ["VerifyHandler", "VerifyOrders"]

SIDECAR_DAMAGED = "SIDECAR_DAMAGED"


class VerifyOrders:
    """Files verifications. Thread-safe."""

    def __init__(self, engine: TaskEngine, registry: RepositoryRegistry) -> None:
        self._engine = engine
        self._registry = registry

    def create(
        self,
        backup_id: str,
        level: VerifyLevel,
        principal: str,
        key: RequestKey | None,
        credentials: Credentials | None = None,
    ) -> TaskRow:
        """Raises NotFound/BACKUP_NOT_FOUND, Aborted/BACKUP_BUSY, FailedPrecondition/BACKUP_NOT_RESTORABLE,
        InvalidArgument for an identity that is none, FailedPrecondition/KEY_REQUIRED for READ_DATA of a snapshot in a
        sealed repository that is locked when no secret was given, STORE_UNSUITABLE; Unavailable/NO_WORKER."""
        age_identity(credentials)
        return self._engine.create(partial(self._file, backup_id, level, principal, credentials), key)

    def _file(
        self,
        backup_id: str,
        level: VerifyLevel,
        principal: str,
        credentials: Credentials | None,
        connection: sa.Connection,
    ) -> NewTask:
        row = require_finished(require_backup(connection, backup_id))
        _check_secret(row, credentials)
        wishes = [LockWish(backups.lock_resource(backup_id), LockMode.SHARED)]
        if row.repository_id is not None:
            repository = require_repository(connection, row.repository_id)
            require_sound(repository)
            wishes.append(LockWish(repositories.lock_resource(row.repository_id), LockMode.SHARED))
            if level is VerifyLevel.READ_DATA:
                credentials = self._registry.attach(repository, credentials, connection, required=True)
        return NewTask(
            kind=TaskKind.VERIFY,
            principal=principal,
            request={"backup_id": backup_id, "level": level.value},
            source_ids=[row.source_id],
            wishes=wishes,
            message="waiting",
            credentials=credentials,
        )


def _check_secret(row: BackupRow, credentials: Credentials | None) -> None:
    """Raises InvalidArgument/INVALID_FIELD for a secret of a kind that opens no backup of this kind."""
    if credentials is None:
        return
    fitting = ("passphrase", "private_key") if row.kind == SNAPSHOT else ("age_identity",)
    for kind in ("passphrase", "private_key", "age_identity"):
        if kind not in fitting and getattr(credentials, kind) is not None:
            text = f"opens nothing that this call reads; it takes {' or '.join(fitting)}"
            raise invalid_field(f"credentials.{kind}", text)


class VerifyHandler:
    """Does VERIFY tasks in a worker."""

    def __init__(self, database: Database, clock: Clock, data_dir: bytes) -> None:
        self._database = database
        self._clock = clock
        self._data_dir = data_dir

    def run(self, run: TaskRun) -> Outcome:
        with self._database.read() as connection:
            row = require_finished(require_backup(connection, run.row.request["backup_id"]))
        level = VerifyLevel(run.row.request["level"])
        return self._snapshot(run, row, level) if row.kind == SNAPSHOT else self._archive(run, row, level)

    def _snapshot(self, run: TaskRun, row: BackupRow, level: VerifyLevel) -> Outcome:
        proof = prove_snapshot(run, row, CheckLevel[level.value], self._database, self._clock, self._data_dir)
        if proof.failure is not None:
            run.failed_result = proof.result
            self._keep_failure(run, row.backup_id, level, proof.failure.message)
            raise proof.failure
        values = {
            "time": self._clock.now(), "level": level.value, "ok": True,
            "files_checked": proof.result["files_checked"], "bytes_checked": proof.result["bytes_checked"],
            "message": "", "task_id": run.task_id,
        }  # fmt: skip
        return Outcome(
            proof.result,
            proof.text,
            commit=lambda connection: backups.add_verification(connection, row.backup_id, **values),
        )

    def _archive(self, run: TaskRun, row: BackupRow, level: VerifyLevel) -> Outcome:
        backup_id = row.backup_id
        # An archive in clear needs no key, but a key that was given and is lost is said here and not guessed about.
        identity = age_identity(run.credentials())
        archive = as_archive(row)
        run.progress.keep_names = not archive.sealed
        if archive.sealed and identity is None:
            run.log("no credentials were given: the sealed archive is checked by its hash alone")
            level = VerifyLevel.CHECKSUM
        size, files = int(row.statistics["original_size"]), int(row.statistics["files"])
        if level is not VerifyLevel.CHECKSUM:
            run.progress.set_totals(size, files, work=1.0)
        run.log(f"verifying {escape(archive.path)} at level {level}")
        try:
            proof = verify_stored(archive, level, run.control, run.progress, identity)
        except (DataLoss, FailedPrecondition) as error:
            if error.reason is Reason.KEY_WRONG:
                raise  # which says nothing about the archive
            damaged = [escape(path) for path in error.damaged] if isinstance(error, DamagedArchive) else []
            for path in damaged:
                run.log(f"damaged: {path}", "ERROR")
            self._keep_failure(run, backup_id, level, error.message)
            raise
        if proof.warning:
            run.problem(Problem(b"", SIDECAR_DAMAGED, proof.warning), source_id=row.source_id, backup_id=backup_id)
        return self._outcome(run, archive, proof)

    def _outcome(self, run: TaskRun, archive: StoredArchive, proof: Proof) -> Outcome:
        backup_id = archive.backup_id
        checked = proof.bytes or (archive.size if proof.level is VerifyLevel.CHECKSUM else 0)
        said = ["sealed: checked by its hash alone, for want of an identity"] if proof.sealed_hash_only else []
        values = {
            "time": self._clock.now(), "level": proof.level.value, "ok": True, "files_checked": proof.files,
            "bytes_checked": checked, "message": "; ".join(said + [proof.warning] * bool(proof.warning)),
            "task_id": run.task_id,
        }  # fmt: skip
        result: dict[str, Any] = {
            "backup_id": backup_id,
            "level": proof.level.value,
            "files_checked": proof.files,
            "bytes_checked": checked,
            "sha256": proof.sha256,
            "damaged_files": [],
            "damaged_count": 0,
            "percent": 100.0,
            "sealed_hash_only": proof.sealed_hash_only,
        }
        text = f"verified at level {proof.level}: {proof.files} files, {checked} bytes"
        return Outcome(
            result,
            "; ".join([text, *said]),
            warnings=bool(proof.warning),
            commit=lambda connection: backups.add_verification(connection, backup_id, **values),
        )

    def clean(self, run: TaskRun, *, cancelled: bool) -> list[str]:  # noqa: ARG002  reading leaves nothing
        return []

    def abandon(self, connection: sa.Connection, run: TaskRun, failed: bool) -> None:
        pass

    def _keep_failure(self, run: TaskRun, backup_id: str, level: VerifyLevel, message: str) -> None:
        with run.guarded() as connection:
            backups.add_verification(
                connection, backup_id, time=self._clock.now(), level=level.value, ok=False,
                files_checked=run.progress.files, bytes_checked=run.progress.original_size, message=message,
                task_id=run.task_id,
            )  # fmt: skip
