"""The IMPORT_COINS task: coin files of any format into a wallet."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa

from holdfast_server.catalog import tasks
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.requests import RequestKey
from holdfast_server.catalog.rows import LockMode, LockWish, SourceRow, SourceState, TaskKind, TaskRow
from holdfast_server.core.coin_import import CORRUPTED, DUPLICATES, IMPORTED, CoinCount, CoinImport, Imported
from holdfast_server.core.control import Problem
from holdfast_server.core.import_journal import (
    ImportRecord,
    commit_record,
    finish_import,
    forget_record,
    read_import,
    remove_stagings,
)
from holdfast_server.core.import_places import open_places
from holdfast_server.core.wallet_folder import WalletFolder
from holdfast_server.core.wallet_recovery import settle_others
from holdfast_server.errors import DataLoss, Reason, Unavailable, invalid_field
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.storage.names import escape, unescape
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks.credentials import Credentials
from holdfast_server.tasks.engine import NewTask, TaskEngine
from holdfast_server.tasks.run import Outcome, TaskRun
from holdfast_server.tasks.sources import open_source, require_parts, source_suspended
from holdfast_server.tasks.wallet_keys import WalletKeys, require_wallet
from holdfast_server.wallets.amounts import decimal_text
from holdfast_server.wallets.layout import LATER_FOLDERS, STANDARD_FOLDERS, UNHELD_FOLDERS

__all__ = ["IMPORT_TARGET", "ImportHandler", "ImportOrder", "ImportOrders"]

_MAX_PATHS = 1000
_SHOWN = 100

#: The folder of a wallet that coins go to when no other is named.
IMPORT_TARGET = "Suspect"
#: Folders that coins may be imported into beside those that the wallet has made itself.
_FOLDERS = sorted({*STANDARD_FOLDERS, *LATER_FOLDERS} - UNHELD_FOLDERS)


@dataclass(frozen=True, slots=True)
class ImportOrder:
    """What ImportCoins asks for. Paths are bytes and absolute; none means the wallet's own `Import`. `folder` is one of
    the wallet's."""

    source_id: str
    paths: tuple[bytes, ...] = ()
    folder: bytes = IMPORT_TARGET.encode()
    dry_run: bool = False


class ImportOrders:
    """Files imports of coins. Thread-safe."""

    def __init__(self, engine: TaskEngine, policy: FolderPolicy, keys: WalletKeys) -> None:
        self._engine = engine
        self._policy = policy
        self._keys = keys

    def create(
        self, order: ImportOrder, principal: str, key: RequestKey | None, credentials: Credentials | None = None
    ) -> TaskRow:
        """Check the wallet, the folder and the paths now, and queue the task. The key of an unlocked wallet goes along.

        Raises InvalidArgument, NotFound/SOURCE_NOT_FOUND, FailedPrecondition (NOT_A_WALLET, SOURCE_SUSPENDED,
        FILE_NOT_FOUND, SOURCE_UNREADABLE, FOLDER_INSIDE_DATA_DIR), PermissionDenied/PATH_NOT_ALLOWED,
        Unavailable (SOURCE_OFFLINE, NO_WORKER), AlreadyExists/REQUEST_ID_REUSED.
        """
        if len(order.paths) > _MAX_PATHS:
            raise invalid_field("paths", f"names {len(order.paths)} paths, at most {_MAX_PATHS} are allowed")
        if key is not None and (known := self._engine.recall(key)) is not None:
            return known
        source = self._engine.inside(partial(_importable, order.source_id))
        with _open_wallet(self._policy, source.source_id, source.path) as folder:
            check_folder(folder, order.folder)
            with open_places(self._policy, folder, order.paths):
                return self._engine.create(partial(self._file, order, principal, credentials), key)

    def _file(
        self, order: ImportOrder, principal: str, credentials: Credentials | None, connection: sa.Connection
    ) -> NewTask:
        source = _importable(order.source_id, connection)  # once more: the world may have moved
        mode = LockMode.SHARED if order.dry_run else LockMode.EXCLUSIVE
        return NewTask(
            kind=TaskKind.IMPORT_COINS,
            principal=principal,
            request={
                "source_id": source.source_id,
                "path": base64.b64encode(source.path).decode(),
                "paths": [base64.b64encode(path).decode() for path in order.paths],
                "folder": escape(order.folder),
            },
            source_ids=[source.source_id],
            wishes=[LockWish(f"source:{source.source_id}", mode)],
            dry_run=order.dry_run,
            message="waiting",
            credentials=self._keys.attach([source.source_id], credentials, connection),
            queue="data",  # a dry run too reads all of the wallet
        )


def _importable(source_id: str, connection: sa.Connection) -> SourceRow:
    source = require_wallet(connection, source_id)
    if source.state == SourceState.SUSPENDED:
        raise source_suspended(source_id)
    return source


@contextmanager
def _open_wallet(policy: FolderPolicy, source_id: str, path: bytes) -> Iterator[OpenFolder]:
    with open_source(policy, source_id, path) as folder:
        require_parts(folder)
        yield folder


def check_folder(wallet: OpenFolder, name: bytes) -> None:
    """Whether coins may be imported into a folder of the wallet. Raises InvalidArgument/INVALID_FIELD."""
    if name.decode("utf-8", "replace") in _FOLDERS:
        return
    known = b"/" not in name and not name.startswith(b".") and name.decode("utf-8", "replace") not in UNHELD_FOLDERS
    if known:
        with suppress(OSError), WalletFolder(wallet).folder(name):
            return
    allowed = f"must be one of {', '.join(_FOLDERS)}, or another folder that the wallet has"
    raise invalid_field("folder", allowed, value=escape(name)[:200])


class ImportHandler:
    """Does IMPORT_COINS tasks in a worker.

    The commit stands in the catalog first, where it takes the place of a cancel, then in the wallet's journal, which is
    what counts: with it every later attempt, or `settle_others`, goes forward, and without it nothing has happened.
    """

    def __init__(self, database: Database, policy: FolderPolicy) -> None:
        self._database = database
        self._policy = policy

    def run(self, run: TaskRun) -> Outcome:
        with self._wallet(run) as wallet:
            if run.row.dry_run:
                with wallet.lock(run.control, exclusive=False):
                    return self._survey(run, wallet)
            with _locked(run, wallet):
                settle_others(wallet, run.task_id, self._is_live, partial(self._tell_one, run))
                return self._import(run, wallet)

    def clean(self, run: TaskRun, *, cancelled: bool) -> list[str]:  # noqa: ARG002  what is committed is finished
        """Remove what lower attempts staged, unless one of them committed it."""
        if run.row.dry_run or run.row.checkpoint.get("finished"):
            return []
        try:
            with self._wallet(run) as wallet, _locked(run, wallet):
                if _committed(wallet, run.task_id) is None:
                    run.cleanup.removed(*remove_stagings(wallet, run.task_id, range(1, run.attempt)))
                    with self._database.write() as connection:
                        tasks.forget_problems(connection, run.task_id, keep_backups=[])
        except Unavailable:
            return [escape(_path(run))]  # with its staging, which the next import of the wallet removes
        return []

    def abandon(self, connection: sa.Connection, run: TaskRun, failed: bool) -> None:
        """A failure between the renames leaves the journal; the next import of this wallet finishes it."""
        del connection
        if failed and "result" in run.row.checkpoint and not run.row.checkpoint.get("finished"):
            run.left_behind.append(f"{escape(_path(run))}/.holdfast/import-{run.task_id}.json")

    @contextmanager
    def _wallet(self, run: TaskRun) -> Iterator[WalletFolder]:
        with _open_wallet(self._policy, run.row.request["source_id"], _path(run)) as folder:
            yield WalletFolder(folder)

    @contextmanager
    def _coin_import(self, run: TaskRun, wallet: WalletFolder) -> Iterator[CoinImport]:
        request = run.row.request
        paths = [base64.b64decode(path) for path in request["paths"]]
        with open_places(self._policy, wallet.root, paths) as places:
            yield CoinImport(wallet, places, unescape(request["folder"]), run.keyring(), run.control, run.progress)

    def _survey(self, run: TaskRun, wallet: WalletFolder) -> Outcome:
        with self._coin_import(run, wallet) as work:
            found = work.survey()
        self._tell(run, found.problems)
        return Outcome(_result(run, found), _message(run, found), warnings=bool(found.problems))

    def _import(self, run: TaskRun, wallet: WalletFolder) -> Outcome:
        if "finished" in run.row.checkpoint:
            forget_record(wallet, run.task_id)
            return _outcome(run)
        record = _committed(wallet, run.task_id)
        if record is not None:
            run.log(f"attempt {record.attempt} had committed; moving what is left")
            return self._finish(run, wallet, record)
        with self._coin_import(run, wallet) as work:
            record, found = work.stage(run.task_id, run.attempt)
            try:
                self._tell(run, found.problems)
                self._commit(run, wallet, record, found)
            except BaseException:
                if not _stands(wallet, record):
                    run.cleanup.removed(*remove_stagings(wallet, run.task_id, [run.attempt]))
                raise
        return self._finish(run, wallet, record)

    def _commit(self, run: TaskRun, wallet: WalletFolder, record: ImportRecord, found: Imported) -> None:
        values = {
            "result": _result(run, found),
            "message": _message(run, found),
            "warned": bool(found.problems),
        }
        with run.guarded() as connection:
            run.checkpoint(connection, **values)
            tasks.update_attempt(connection, run.task_id, run.attempt, committing=True)
        commit_record(wallet, record)

    def _finish(self, run: TaskRun, wallet: WalletFolder, record: ImportRecord) -> Outcome:
        run.progress.begin("moving")
        kept = finish_import(wallet, record, run.control.check)
        self._tell(run, kept)
        result, warned = _corrected(run.row.checkpoint["result"], record, kept), run.row.checkpoint["warned"]
        with run.guarded() as connection:
            run.checkpoint(connection, finished=True, result=result, warned=warned or bool(kept))
        forget_record(wallet, run.task_id)
        return _outcome(run)

    def _tell(self, run: TaskRun, problems: Sequence[Problem]) -> None:
        for problem in problems:
            self._tell_one(run, problem)

    def _tell_one(self, run: TaskRun, problem: Problem) -> None:
        run.problem(problem, source_id=run.row.request["source_id"], backup_id=None)

    def _is_live(self, task_id: str) -> bool:
        with self._database.read() as connection:
            return tasks.is_live(connection, task_id)


@contextmanager
def _locked(run: TaskRun, wallet: WalletFolder) -> Iterator[None]:
    """Hold the wallet alone. What is committed waits for as long as it takes: giving up would leave half of it."""
    run.progress.begin("waiting for the wallet")
    if run.row.committing:
        with wallet.lock(run.control, exclusive=True, patience=None):
            yield
    else:
        with wallet.lock(run.control, exclusive=True):
            yield


def _committed(wallet: WalletFolder, task_id: str) -> ImportRecord | None:
    """The journal of a committed import. Raises DataLoss/CHECKSUM_MISMATCH when it cannot be read."""
    try:
        return read_import(wallet, task_id)
    except ValueError as error:
        raise DataLoss(
            Reason.CHECKSUM_MISMATCH,
            f"the journal of import {task_id} in {wallet.root.display} is damaged: {error}",
            metadata={"path": wallet.root.display, "task_id": task_id},
        ) from error


def _stands(wallet: WalletFolder, record: ImportRecord) -> bool:
    """Whether a commit that failed has come about all the same, as far as anybody can tell."""
    try:
        return read_import(wallet, record.task_id) is not None
    except (ValueError, OSError):
        return True


def _path(run: TaskRun) -> bytes:
    return base64.b64decode(run.row.request["path"])


def _outcome(run: TaskRun) -> Outcome:
    """That of a finished import."""
    kept = run.row.checkpoint
    return Outcome(kept["result"], kept["message"], warnings=kept["warned"])


def _result(run: TaskRun, found: Imported) -> dict[str, Any]:
    return {
        "source_id": run.row.request["source_id"],
        "folder": run.row.request["folder"],
        "imported": _total(found.imported),
        "duplicates": _total(found.duplicates),
        "files_read": found.read,
        "files_moved": found.moved,
        "files_duplicate": found.duplicate_files,
        "files_corrupted": found.corrupted,
        "files_encrypted": found.encrypted,
        "problem_files": [escape(path) for path in found.problem_files[:_SHOWN]],
    }


def _total(count: CoinCount) -> dict[str, Any]:
    return {"coins": count.coins, "amount": decimal_text(count.amount)}


def _message(run: TaskRun, found: Imported) -> str:
    verb = "would take" if run.row.dry_run else "took"
    amount, folder = decimal_text(found.imported.amount), run.row.request["folder"]
    new = f"{verb} {found.imported.coins} coins, {amount}, into {folder}"
    return f"{new}; {found.duplicates.coins} are duplicates" if found.duplicates.coins else new


_COUNTERS = {IMPORTED: "files_moved", DUPLICATES: "files_duplicate", CORRUPTED: "files_corrupted"}


def _corrected(result: dict[str, Any], record: ImportRecord, kept: Sequence[Problem]) -> dict[str, Any]:
    """The result, without the originals that could not be moved after all."""
    corrected = dict(result)
    places = {one.path: one.to for one in record.originals}
    for problem in kept:
        corrected[_COUNTERS[places[problem.path]]] -= 1
    shown = [*result["problem_files"], *(escape(problem.path) for problem in kept)]
    corrected["problem_files"] = list(dict.fromkeys(shown))[:_SHOWN]
    return corrected
