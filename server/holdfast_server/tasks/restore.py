"""The RESTORE task: a stored backup into a new folder or wallet, proved before anything of it appears.

Archives are restored here, snapshots by `tasks.restore_snapshot`.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa

from holdfast_server.archive.reader import Limits, open_reader
from holdfast_server.catalog.backups import lock_resource
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.requests import RequestKey
from holdfast_server.catalog.rows import BackupRow, LockMode, LockWish, SourceKind, SourceState, TaskKind, TaskRow
from holdfast_server.catalog.sources import get_source
from holdfast_server.clock import Clock
from holdfast_server.core.control import Problem, ReadingProgress
from holdfast_server.core.restore import Restored, Unpacking, extract_to_staging
from holdfast_server.core.selection import PathSelection
from holdfast_server.core.verify import key_required, open_archive, open_content
from holdfast_server.errors import FailedPrecondition, Reason, invalid_field
from holdfast_server.storage.names import escape
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks.credentials import Credentials
from holdfast_server.tasks.engine import NewTask, TaskEngine
from holdfast_server.tasks.new_folder import NewFolder, counts_of, field_of, target_wish
from holdfast_server.tasks.new_wallet import NewWallet, order_wallet, registering
from holdfast_server.tasks.repositories import RepositoryRegistry
from holdfast_server.tasks.restore_snapshot import SnapshotRestore
from holdfast_server.tasks.restored_coins import coin_restore, coin_result, coin_sentence, decrypts, with_wallet_keys
from holdfast_server.tasks.run import Outcome, TaskRun
from holdfast_server.tasks.snapshot_reading import chosen_paths, order_snapshot
from holdfast_server.tasks.sources import source_suspended
from holdfast_server.tasks.stored import (
    age_identity,
    as_archive,
    check_entry_paths,
    require_backup,
    require_finished,
    require_quiet,
)
from holdfast_server.tasks.wallet_keys import WalletKeys

__all__ = ["RestoreHandler", "RestoreOrder", "RestoreOrders"]


@dataclass(frozen=True, slots=True)
class RestoreOrder:
    """What RestoreBackup asks for. Paths are bytes; those below the backup are relative.

    `wallet`: the folder becomes a wallet of the service. `decrypt` None: if there is a wallet password, or `wallet`.
    """

    backup_id: str
    folder: bytes
    create_parents: bool = False
    paths: tuple[bytes, ...] = ()
    dry_run: bool = False
    wallet: NewWallet | None = None
    decrypt: bool | None = None


class RestoreOrders:
    """Files restores. Thread-safe."""

    def __init__(
        self, engine: TaskEngine, policy: FolderPolicy, clock: Clock, keys: WalletKeys, repositories: RepositoryRegistry
    ) -> None:
        self._engine = engine
        self._policy = policy
        self._clock = clock
        self._keys = keys
        self._repositories = repositories

    def create(
        self, order: RestoreOrder, principal: str, key: RequestKey | None, credentials: Credentials | None = None
    ) -> TaskRow:
        """Check the backup and the target now, make the target's parents if asked to, and queue the task.

        Raises NotFound/BACKUP_NOT_FOUND, Aborted/BACKUP_BUSY (also while another restore of it is under way),
        FailedPrecondition (BACKUP_NOT_RESTORABLE, SOURCE_SUSPENDED, NOT_A_WALLET, FOLDER_…, KEY_REQUIRED for what is
        sealed or encrypted), AlreadyExists/SOURCE_EXISTS, InvalidArgument, PermissionDenied/PATH_NOT_ALLOWED,
        Unavailable/NO_WORKER.
        """
        check_entry_paths(order.paths)
        if order.wallet is not None:
            order.wallet.check(order.paths, order.decrypt)
        decrypt = decrypts(order.decrypt, order.wallet, credentials)
        if key is not None and (known := self._engine.recall(key)) is not None:
            return known
        new = partial(self._file, order, principal, credentials, decrypt)
        self._engine.inside(new)  # before the folder: parents are made only for what will be restored
        with self._policy.check_restore_target(
            order.folder, field_of(order.wallet), create_parents=order.create_parents, dry_run=order.dry_run
        ):
            return self._engine.create(new, key)

    def _file(
        self, order: RestoreOrder, principal: str, credentials: Credentials | None, decrypt: bool,
        connection: sa.Connection,
    ) -> NewTask:  # fmt: skip
        row = _restorable(order.backup_id, connection)
        request: dict[str, Any] = {
            "backup_id": order.backup_id,
            "folder": base64.b64encode(order.folder).decode(),
            "paths": [base64.b64encode(path).decode() for path in order.paths],
            "decrypt": decrypt,
        }
        wishes = [LockWish(lock_resource(order.backup_id), LockMode.SHARED), target_wish(order.folder)]
        if row.repository_id is not None:
            wish, credentials = order_snapshot(self._repositories, row, request, credentials, connection)
            wishes.append(wish)
        else:
            _check_archive_secret(row, credentials)
        encrypted = row.statistics.get("wallet", {}).get("files_reencrypted", 0) > 0
        if order.wallet is not None:
            _require_wallet_backup(connection, row)
            request["new_wallet"], reserved = order_wallet(connection, order.wallet, order.folder, self._clock.now())
            wishes += [] if order.dry_run else [reserved]
        if decrypt and (encrypted or order.decrypt):
            # Only then: a task that was given a key does not outlive the worker process that has it.
            credentials = with_wallet_keys(self._keys, [row.source_id], credentials, connection, required=True)
        return NewTask(
            kind=TaskKind.RESTORE,
            principal=principal,
            request=request,
            source_ids=[row.source_id],
            wishes=wishes,
            dry_run=order.dry_run,
            message="waiting",
            credentials=credentials,
        )


def _require_wallet_backup(connection: sa.Connection, row: BackupRow) -> None:
    """As far as the catalog knows: the archive itself is asked when it is read."""
    source = get_source(connection, row.source_id)
    if source is not None and source.kind != SourceKind.WALLET:
        raise FailedPrecondition(
            Reason.NOT_A_WALLET,
            f"backup {row.backup_id} is one of {row.source_id}, which is a {source.kind} and no wallet: restore it "
            "into a folder",
            metadata={"backup_id": row.backup_id, "source_id": row.source_id},
        )


def _check_archive_secret(row: BackupRow, credentials: Credentials | None) -> None:
    """Raises FailedPrecondition/KEY_REQUIRED, and InvalidArgument/INVALID_FIELD for a secret of repositories."""
    if credentials is not None and (credentials.passphrase or credentials.private_key):
        kind = "passphrase" if credentials.passphrase else "private_key"
        raise invalid_field(f"credentials.{kind}", f"opens repositories, and backup {row.backup_id} is an archive")
    if row.sealed and age_identity(credentials) is None:
        raise key_required(row.backup_id)


def _restorable(backup_id: str, connection: sa.Connection) -> BackupRow:
    row = require_quiet(require_backup(connection, backup_id))
    source = get_source(connection, row.source_id)
    if source is not None and source.state == SourceState.SUSPENDED:
        raise source_suspended(row.source_id)
    return row


class RestoreHandler:
    """Does RESTORE tasks in a worker."""

    def __init__(self, database: Database, policy: FolderPolicy, clock: Clock, data_dir: bytes) -> None:
        self._database = database
        self._policy = policy
        self._clock = clock
        self._snapshots = SnapshotRestore(database, clock, data_dir)

    def run(self, run: TaskRun) -> Outcome:
        request = run.row.request
        folder = base64.b64decode(request["folder"])
        target = NewFolder(self._policy, run, folder)
        if target.committed:
            return registering(run, self._clock, target.finish())
        with self._database.read() as connection:
            row = require_finished(require_backup(connection, request["backup_id"]))
        is_snapshot = row.repository_id is not None
        stored = chosen_paths(run) if is_snapshot else request["paths"]
        paths = [base64.b64decode(path) for path in stored]
        if not paths:
            size, files = int(row.statistics["original_size"]), int(row.statistics["files"])
            run.progress.set_totals(size, files, work=1.0)
        if run.row.dry_run:
            return _plan(row, folder, target.foresee())
        if is_snapshot:
            run.log(f"restoring backup {row.backup_id} of repository {row.repository_id} to {escape(folder)}")
            with self._snapshots.opened(run, row, paths) as prove:
                outcome = target.restore(lambda root_fd, staging: _reported(row, folder, prove(root_fd, staging)))
        else:
            run.log(f"restoring {escape(row.storage_path)} to {escape(folder)}")
            outcome = self._restore(run, row, target, folder, PathSelection(paths) if paths else None)
        return registering(run, self._clock, outcome)

    def clean(self, run: TaskRun, *, cancelled: bool) -> list[str]:  # noqa: ARG002  a proved restore is finished
        NewFolder(self._policy, run, base64.b64decode(run.row.request["folder"])).clean()
        return []

    def abandon(self, connection: sa.Connection, run: TaskRun, failed: bool) -> None:
        pass

    def _restore(
        self, run: TaskRun, row: BackupRow, target: NewFolder, folder: bytes, select: PathSelection | None
    ) -> Outcome:
        archive, identity = as_archive(row), age_identity(run.credentials())
        run.progress.keep_names = not archive.sealed

        def report(path: bytes, what: str, whole: bool) -> None:
            del whole
            problem = Problem(path, "RESTORED_WITH_WARNING", what)
            run.problem(problem, source_id=row.source_id, backup_id=row.backup_id)

        with open_archive(archive) as file, open_content(archive, file, identity, run.control.check) as content:

            def prove(root_fd: int, staging: bytes) -> tuple[Restored, Outcome]:
                unpacking = Unpacking(
                    open_reader(archive.format.name, content, limits=Limits(), check=run.control.check),
                    select,
                    ReadingProgress(run.progress, archive.original_size, archive.files),
                    report,
                    needed=archive.original_size if select is None else None,
                    coins=coin_restore(run, row.source_id, row.backup_id),
                )
                found = extract_to_staging(unpacking, root_fd, staging, control=run.control, progress=run.progress)
                return _reported(row, folder, found)

            return target.restore(prove)


def _plan(row: BackupRow, folder: bytes, free: int) -> Outcome:
    """A dry run: what would be created, by the catalog's word, and whether it would fit."""
    needed = int(row.statistics["original_size"])
    counts = {name: int(row.statistics[name]) for name in ("files", "directories", "symlinks", "hardlinks")}
    fits = "" if needed <= free else f"; only {free} bytes are free"
    result = _result(row, folder, {**counts, "restored_size": 0}, create=sum(counts.values()), needed=needed)
    result["files_verified"] = 0
    return Outcome(result, f"would restore {counts['files']} files, {needed} bytes{fits}", warnings=needed > free)


def _reported(row: BackupRow, folder: bytes, found: Restored) -> tuple[Restored, Outcome]:
    """What was found, and what the task says of it."""
    entries = found.files + found.directories + found.symlinks + found.hardlinks
    result = _result(row, folder, counts_of(found), create=entries, needed=found.bytes)
    text = f"restored {found.files} files, {found.bytes} bytes to {escape(folder)}, every file's hash verified"
    text += coin_sentence(found)
    warnings = found.warning_count + found.coin_warnings > 0
    return found, Outcome({**result, **coin_result(found)}, text, warnings=warnings)


def _result(row: BackupRow, folder: bytes, counts: dict[str, Any], *, create: int, needed: int) -> dict[str, Any]:
    return {
        "backup_id": row.backup_id,
        "folder": escape(folder),
        **counts,
        "files_verified": counts["files"],
        "plan": {"create": create, "replace": 0, "delete": 0, "keep": 0, "bytes_needed": needed},
    }
