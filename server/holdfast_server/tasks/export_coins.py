"""The EXPORT_COINS task: coins of an exact amount out of a wallet into portable files."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import sqlalchemy as sa

from holdfast_server.archive.sealing import parse_recipients
from holdfast_server.catalog import tasks
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.sources import get_source
from holdfast_server.clock import Clock
from holdfast_server.core import coin_export
from holdfast_server.core.coin_export import CoinExport, CoinExportPlan, ExportSelection, plan_export, unpublished
from holdfast_server.core.coin_journal import ExportJournal, journals
from holdfast_server.core.coin_outputs import Packaging
from holdfast_server.core.control import Problem, UndoingControl
from holdfast_server.core.wallet_folder import WalletFolder
from holdfast_server.core.wallet_recovery import settle_others
from holdfast_server.errors import FailedPrecondition, Fenced, HoldfastError, Reason
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.storage.local import translate_os_error
from holdfast_server.storage.names import escape
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks.export_coins_orders import RECIPIENTS_FIELD, open_coin_destination, read_template
from holdfast_server.tasks.publishing import require_space
from holdfast_server.tasks.run import Outcome, TaskRun
from holdfast_server.tasks.sources import open_source
from holdfast_server.wallets.amounts import decimal_text
from holdfast_server.wallets.layout import MONEY_FOLDERS
from holdfast_server.wallets.packing import CoinForm

__all__ = ["ExportCoinsHandler"]

_FILES_SHOWN = 100
_FRACKED = MONEY_FOLDERS[1].encode()


class ExportCoinsHandler:
    """Does EXPORT_COINS tasks in a worker.

    The journal in the wallet says where the coins are, and is the truth of it; the task's checkpoint says that coins
    may be reserved (`reserving`), that the export is `committed`, and in the end its result, which stands there before
    the journal goes: an attempt that finds no journal knows by it whether it comes after the end or at the beginning.
    """

    def __init__(self, database: Database, policy: FolderPolicy, clock: Clock) -> None:
        self._database = database
        self._policy = policy
        self._clock = clock

    def run(self, run: TaskRun) -> Outcome:
        if run.row.checkpoint.get("done"):
            self._forget_journal(run)
            return _outcome(run)
        if run.row.dry_run:
            return self._dry_run(run)
        with self._held_wallet(run) as (wallet, journal):
            export = self._export(run, wallet)
            if journal is None or not journal.is_committed:
                settle_others(wallet, run.task_id, self._is_live, partial(_report, run))
                journal = self._prepare(run, wallet, export)
            self._finish(run, wallet, export, journal)
        return _outcome(run)

    def clean(self, run: TaskRun, *, cancelled: bool) -> list[str]:
        """Return the coins that a lower attempt reserved and did not commit. What is committed is `run`'s to finish.

        Waits for as long as a lower attempt is alive, frozen perhaps, and holds the wallet: it may be anywhere.
        """
        if run.row.dry_run or run.row.checkpoint.get("done") or not run.row.checkpoint.get("reserving"):
            return []
        try:
            with self._wallet(run) as wallet, wallet.lock(UndoingControl(run.control), exclusive=True, patience=None):
                journal = ExportJournal.load(wallet, run.task_id)
                if journal is None or not journal.is_committed:
                    self._roll_back(run, wallet, journal)
                elif cancelled:
                    return [unpublished(journal, wallet, _cancelled_too_late()).message]
                return []
        except (OSError, HoldfastError) as error:
            failure = self._unsettled(run, error)
            if cancelled:
                return [failure.message]
            raise failure from error

    def abandon(self, connection: sa.Connection, run: TaskRun, failed: bool) -> None:
        """Nothing is recorded of an export but in its wallet."""

    def _prepare(self, run: TaskRun, wallet: WalletFolder, export: CoinExport) -> ExportJournal:
        with self._destination(run, wallet) as folder:
            require_space(folder, 0)
            return export.prepare(folder, self._clock.now)

    def _finish(self, run: TaskRun, wallet: WalletFolder, export: CoinExport, journal: ExportJournal) -> None:
        """From the commit to the end. Raises FailedPrecondition/EXPORT_UNPUBLISHED when that cannot be reached now."""
        try:
            with self._destination(run, wallet) as folder:
                export.publish(journal, folder)
            export.retire(journal)
        except (OSError, HoldfastError) as error:
            raise unpublished(journal, wallet, error) from error
        result = _result(journal)
        with run.guarded() as connection:
            run.checkpoint(connection, done=True, result=result, warned=run.problems_seen > 0)
        journal.remove(wallet)

    def _export(self, run: TaskRun, wallet: WalletFolder) -> CoinExport:
        request = run.row.request
        plan = CoinExportPlan(
            task_id=run.task_id,
            attempt=run.attempt,
            source_id=request["source_id"],
            amount=request["amount"],
            folder=base64.b64decode(request["folder"]),
            created=request["created"],
            packaging=self._packaging(request),
        )
        return CoinExport(
            wallet,
            plan,
            run.keyring,
            run.control,
            run.progress,
            guard=partial(self._mark, run, reserving=True),
            committing=partial(self._mark, run, committed=True),
            report=partial(_report, run),
        )

    def _mark(self, run: TaskRun, **values: bool) -> None:
        """Remember how far it has come, unless the task is cancelled or another attempt's."""
        with run.guarded() as connection:
            run.checkpoint(connection, **values)
            if values.get("committed"):
                tasks.update_attempt(connection, run.task_id, run.attempt, committing=True)

    def _roll_back(self, run: TaskRun, wallet: WalletFolder, journal: ExportJournal | None) -> None:
        if journal is not None:
            for problem in coin_export.roll_back(wallet, journal):
                run.log(f"{escape(problem.path)}: {problem.message}", "WARNING")
            run.log(f"the {len(journal.coins)} coins that attempt {journal.attempt} had reserved are back")
        checkpoint = {**run.row.checkpoint, "reserving": False, "committed": False}
        with self._database.write() as connection:
            if not tasks.update_attempt(connection, run.task_id, run.attempt, checkpoint=checkpoint, committing=False):
                raise Fenced
            tasks.forget_problems(connection, run.task_id, keep_backups=[])
        run.row.checkpoint.update(checkpoint)

    def _unsettled(self, run: TaskRun, error: OSError | HoldfastError) -> FailedPrecondition:
        """Coins may be reserved, and nobody can look."""
        cause = error if isinstance(error, HoldfastError) else translate_os_error(error, "undoing the export")
        amount = decimal_text(run.row.request["amount"])
        return FailedPrecondition(
            Reason.EXPORT_UNPUBLISHED,
            f"the export of {amount} was interrupted and its coins may still be reserved: {cause.message}",
            metadata={"task_id": run.task_id, "amount": amount, "cause": cause.reason.value},
        )

    def _forget_journal(self, run: TaskRun) -> None:
        """Of an attempt that died between recording the result and removing the journal."""
        with self._wallet(run) as wallet, wallet.lock(run.control, exclusive=True, patience=None):
            journal = ExportJournal.load(wallet, run.task_id)
            if journal is not None:
                journal.remove(wallet)

    def _dry_run(self, run: TaskRun) -> Outcome:
        request = run.row.request
        with self._wallet(run) as wallet, wallet.lock(run.control, exclusive=False):
            found = plan_export(
                wallet, request["amount"], self._packaging(request), run.keyring(), run.control, run.progress
            )
        amount = decimal_text(request["amount"])
        text = f"would export {amount}, {len(found.coins)} coins, in {len(found.outputs)} files"
        return Outcome(_planned_result(request, found), text)

    def _packaging(self, request: dict[str, Any]) -> Packaging:
        recipients, template = request["recipients"], request["template"]
        return Packaging(
            form=CoinForm(request["format"]),
            tag=request["tag"],
            recipients=parse_recipients(recipients, RECIPIENTS_FIELD) if recipients else None,
            template=None if template is None else read_template(self._policy, base64.b64decode(template)),
        )

    @contextmanager
    def _held_wallet(self, run: TaskRun) -> Iterator[tuple[WalletFolder, ExportJournal | None]]:
        """The wallet, locked, with the export's journal."""
        committed = run.row.checkpoint.get("committed", False)
        with ExitStack() as stack:
            try:
                wallet = stack.enter_context(self._wallet(run))
                patience = {"patience": None} if committed else {}
                stack.enter_context(wallet.lock(run.control, exclusive=True, **patience))
                journal = ExportJournal.load(wallet, run.task_id)
            except (OSError, HoldfastError) as error:
                if committed:
                    raise self._unsettled(run, error) from error
                raise
            if committed and journal is None:
                raise FailedPrecondition(
                    Reason.INTERRUPTED,
                    f"the journal of the committed export {run.task_id} is gone from {wallet.root.display}: "
                    "nothing more can be done by itself; look for the coins in Exported and in the destination",
                    metadata={"task_id": run.task_id, "path": wallet.root.display},
                )
            yield wallet, journal

    @contextmanager
    def _wallet(self, run: TaskRun) -> Iterator[WalletFolder]:
        """The wallet that was meant when the task was made: the folder that the source had then, or has now, whichever
        holds the export's journal; without one the former."""
        request = run.row.request
        with self._database.read() as connection:
            row = get_source(connection, request["source_id"])
        paths = list(dict.fromkeys([base64.b64decode(request["path"]), *([row.path] if row else [])]))
        with ExitStack() as stack:
            first: HoldfastError | None = None
            opened: list[WalletFolder] = []
            for path in paths:
                try:
                    root = stack.enter_context(open_source(self._policy, request["source_id"], path))
                except HoldfastError as error:
                    first = first or error
                else:
                    opened.append(WalletFolder(root))
            if not opened or (first is not None and not _with_journal(opened, run.task_id)):
                raise first or AssertionError("a source has a folder")
            yield next(iter(_with_journal(opened, run.task_id)), opened[0])

    def _destination(self, run: TaskRun, wallet: WalletFolder) -> OpenFolder:
        folder = base64.b64decode(run.row.request["folder"])
        opened = open_coin_destination(self._policy, wallet, folder, create=False, dry_run=False)
        if opened is None:
            raise AssertionError("only a dry run has no folder")
        return opened

    def _is_live(self, task_id: str) -> bool:
        with self._database.read() as connection:
            return tasks.is_live(connection, task_id)


def _with_journal(wallets: Sequence[WalletFolder], task_id: str) -> list[WalletFolder]:
    return [wallet for wallet in wallets if task_id in journals(wallet)]


def _report(run: TaskRun, problem: Problem) -> None:
    run.problem(problem, source_id=run.row.request["source_id"], backup_id=None)


def _cancelled_too_late() -> FailedPrecondition:
    return FailedPrecondition(Reason.TASK_COMMITTING, "it was cancelled after it was committed")


def _result(journal: ExportJournal) -> dict[str, Any]:
    files = [
        {
            "path": escape(journal.folder.rstrip(b"/") + b"/" + one.name),
            "size": one.size,
            "sha256": one.sha256,
            "coins": one.coins,
            "amount": decimal_text(one.amount),
            "generation": one.generation.value,
        }
        for one in journal.outputs
    ]
    coins = [(coin.folder, coin.value) for coin in journal.coins]
    return _totals(journal.source_id, coins, files) | {"receipt_path": escape(journal.receipt)}


def _planned_result(request: dict[str, Any], found: ExportSelection) -> dict[str, Any]:
    folder = base64.b64decode(request["folder"]).rstrip(b"/") + b"/"
    files = [
        {
            "path": escape(folder + one.wanted),
            "coins": one.coins,
            "amount": decimal_text(one.amount),
            "generation": one.generation.value,
        }
        for one in found.outputs
    ]
    return _totals(request["source_id"], [(coin.folder, coin.value) for coin in found.coins], files)


def _totals(source_id: str, coins: Sequence[tuple[bytes, int]], files: list[dict[str, Any]]) -> dict[str, Any]:
    """What a result says of the coins, given as (folder, value)."""
    counts = Counter(value for _, value in coins)
    return {
        "source_id": source_id,
        "amount": decimal_text(sum(value for _, value in coins)),
        "coins": len(coins),
        "files": files[:_FILES_SHOWN],
        "file_count": len(files),
        "coins_fracked": sum(folder == _FRACKED for folder, _ in coins),
        "denominations": [
            {"denomination": decimal_text(value), "coins": count, "amount": decimal_text(value * count)}
            for value, count in sorted(counts.items(), reverse=True)
        ],
    }


def _outcome(run: TaskRun) -> Outcome:
    checkpoint = run.row.checkpoint
    result = checkpoint["result"]
    where = result["files"][0]["path"] if result["file_count"] == 1 else f"{result['file_count']} files"
    return Outcome(
        result, f"exported {result['amount']}, {result['coins']} coins, to {where}", warnings=checkpoint["warned"]
    )
