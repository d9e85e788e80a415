"""Coins of an exact amount out of a wallet into files: none is ever lost, and none is anywhere twice.

    RESERVED → BUILT → COMMITTED → (published, coins in `Exported/`, history written) → the journal is gone

Until COMMITTED everything can be taken back, by whoever finds the journal: each coin returns to its folder. From there
everything only goes forward, however often it is begun again. All of it happens under the wallet's exclusive lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from holdfast_server.core import coin_outputs, coin_reserve
from holdfast_server.core.coin_journal import ExportJournal, ExportState, OutputFile, ReservedCoin, reserved_identities
from holdfast_server.core.coin_outputs import OutputPlan, Packaging
from holdfast_server.core.coin_stock import Stock, StockCoin, WhyLeftOut, choose, read_stock
from holdfast_server.core.control import Control, Problem, Progress
from holdfast_server.core.publish import remove_partials
from holdfast_server.core.wallet_folder import WalletFolder
from holdfast_server.core.wallet_history import (
    HistoryUnknown,
    Withdrawal,
    receipt_name,
    record_withdrawal,
    write_receipt,
)
from holdfast_server.errors import Aborted, FailedPrecondition, Fenced, HoldfastError, Reason
from holdfast_server.storage.folder import OpenFolder, open_folder
from holdfast_server.storage.local import fsync_directory, translate_os_error
from holdfast_server.storage.names import escape
from holdfast_server.wallets.amounts import decimal_text
from holdfast_server.wallets.envelope import Keyring
from holdfast_server.wallets.layout import RESERVED_FOLDER, TRANSACTIONS_FILE

__all__ = ["CoinExport", "CoinExportPlan", "ExportSelection", "plan_export", "roll_back", "unpublished"]

#: How often coins are chosen anew because the wallet program took some of them.
_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class CoinExportPlan:
    """What is exported, by which attempt of which task. `amount` in units of 1e-8, `folder` the destination's path,
    `created` in microseconds."""

    task_id: str
    attempt: int
    source_id: str
    amount: int
    folder: bytes
    created: int
    packaging: Packaging


@dataclass(frozen=True, slots=True)
class ExportSelection:
    """The coins that make the amount, in the order in which they are packed, and the files for them."""

    stock: Stock
    coins: Sequence[StockCoin]
    outputs: Sequence[OutputPlan]


def plan_export(
    wallet: WalletFolder, amount: int, packaging: Packaging, keyring: Keyring, control: Control, progress: Progress
) -> ExportSelection:
    """Read the wallet and choose. Changes nothing. Raises as `coin_stock.choose`, OSError, Stopped."""

    def advance(path: bytes) -> None:
        progress.current_file = path

    stock = read_stock(wallet, keyring, control, reserved_identities(wallet), advance)
    # By generation because files hold one each, largest first because people read them, by folder to read them at once.
    order = sorted(choose(stock, amount), key=lambda coin: (coin.generation, -coin.value, coin.folder, coin.name))
    listed = [(coin.generation, coin.value) for coin in order]
    return ExportSelection(stock, order, coin_outputs.plan_outputs(listed, packaging))


class CoinExport:
    """One attempt at one export, on a wallet that it holds locked.

    `guard` is called before coins are reserved, `committing` directly before the point of no return; both raise Fenced
    once another attempt owns the task, and Cancelled when nothing is to happen any more. `report` is told what a person
    should know and what does not stop the export.
    """

    def __init__(
        self,
        wallet: WalletFolder,
        plan: CoinExportPlan,
        keyring: Callable[[], Keyring],
        control: Control,
        progress: Progress,
        guard: Callable[[], None],
        committing: Callable[[], None],
        report: Callable[[Problem], None],
    ) -> None:
        self._wallet = wallet
        self._plan = plan
        self._keyring = keyring
        self._control = control
        self._progress = progress
        self._guard = guard
        self._committing = committing
        self._report = report

    def prepare(self, folder: OpenFolder, now: Callable[[], int]) -> ExportJournal:
        """Everything up to the commit: then the coins are reserved, and the proved files lie in the opened destination.
        `now` gives microseconds. Where it fails, every coin is back in its folder.

        Raises as `plan_export` and `coin_outputs.build`; Aborted/SOURCE_BUSY when the wallet program takes coins faster
        than they are chosen; FailedPrecondition/EXPORT_UNPUBLISHED when the coins could not be returned.
        """
        keyring = self._keyring()
        journal = self._reserve(keyring)
        with self._taken_back(journal):
            self._build_all(journal, folder, keyring)
            self._committing()
            self._require_own(journal)
        self._commit(journal, now())
        return journal

    def publish(self, journal: ExportJournal, folder: OpenFolder) -> None:
        """Give the files their names; those that are gone, with the folder that held them, are made again.

        Raises FailedPrecondition/FOLDER_NOT_FOUND or KEY_…, OSError, and as `build`.
        """
        self._progress.begin("publishing")
        if journal.attempt != self._plan.attempt:
            journal.attempt = self._plan.attempt
            journal.save(self._wallet)
        gone = coin_outputs.missing(journal, folder)
        for one in journal.outputs:
            if one.published and not coin_outputs.stands(one, folder):
                text = "it was published and is not there any more; its coins' own files are in Exported"
                self._report(Problem(one.name, "FILE_TAKEN_AWAY", text))
        if gone:
            keyring = self._keyring()
            for one in gone:
                number = journal.outputs.index(one)
                plan = OutputPlan(one.wanted, one.first, one.coins, one.amount, one.generation)
                journal.outputs[number] = self._build(journal, plan, number, folder, keyring)
        journal.destination = folder.identity
        coin_outputs.publish(self._wallet, journal, folder)
        # Of attempts that died while they made a file again.
        remove_partials(folder.fd, journal.task_id, range(1, journal.attempt + 1))

    def retire(self, journal: ExportJournal) -> None:
        """Move the coins to `Exported/` and write them into the wallet's history. May be repeated. Raises OSError."""
        self._progress.begin("closing")
        for problem in coin_reserve.retire(self._wallet, journal):
            self._report(problem)
        withdrawal = self._withdrawal(journal)
        with self._told(TRANSACTIONS_FILE.encode()):
            record_withdrawal(self._wallet, withdrawal)
        with self._told(b"Receipts"):
            if not journal.receipt:
                journal.receipt = receipt_name(self._wallet, withdrawal)
                journal.save(self._wallet)
            write_receipt(self._wallet, journal.receipt, withdrawal)

    def _reserve(self, keyring: Keyring) -> ExportJournal:
        """Choose coins and take them out of their folders."""
        for _ in range(_ROUNDS):
            self._progress.begin("choosing coins")
            found = plan_export(
                self._wallet, self._plan.amount, self._plan.packaging, keyring, self._control, self._progress
            )
            journal = self._journal(found)
            self._guard()
            self._progress.begin("reserving coins")
            with self._taken_back(journal):
                journal.save(self._wallet)
                complete = coin_reserve.take(self._wallet, journal)
            if complete:
                for one in found.stock.left_out:
                    if one.why is WhyLeftOut.DUPLICATE:
                        self._report(one.problem())
                return journal
            self._undo(journal)
        shown = self._wallet.root.display
        raise Aborted(
            Reason.SOURCE_BUSY,
            f"another program took coins out of {shown} {_ROUNDS} times while they were being reserved",
            metadata={"path": shown},
        )

    def _build_all(self, journal: ExportJournal, folder: OpenFolder, keyring: Keyring) -> None:
        self._progress.begin("packing coins")
        self._progress.set_totals(0, len(journal.coins), work=1.0)
        planned = [OutputPlan(o.wanted, o.first, o.coins, o.amount, o.generation) for o in journal.outputs]
        journal.outputs = [self._build(journal, plan, number, folder, keyring) for number, plan in enumerate(planned)]
        fsync_directory(folder.fd)
        journal.destination = folder.identity
        journal.state = ExportState.BUILT
        self._require_own(journal)
        journal.save(self._wallet)

    def _commit(self, journal: ExportJournal, now: int) -> None:
        """The point of no return. A failed write may have reached the disk: then the coins are touched only after the
        journal durably says the opposite."""
        journal.state, journal.committed = ExportState.COMMITTED, now
        try:
            journal.save(self._wallet)
        except OSError as error:
            journal.state, journal.committed = ExportState.BUILT, None
            try:
                journal.save(self._wallet)
            except OSError:
                raise unpublished(journal, self._wallet, error) from error
            self._undo(journal)
            raise

    @contextmanager
    def _taken_back(self, journal: ExportJournal) -> Iterator[None]:
        """What fails inside leaves no coin reserved; but one whose task is another attempt's by now touches nothing."""
        try:
            yield
        except Fenced:
            raise
        except BaseException:
            self._undo(journal)
            raise

    def _undo(self, journal: ExportJournal) -> None:
        """Raises FailedPrecondition/EXPORT_UNPUBLISHED where coins stay reserved."""
        try:
            told = roll_back(self._wallet, journal)
        except (OSError, HoldfastError) as error:
            raise unpublished(journal, self._wallet, error) from error
        for problem in told:
            self._report(problem)

    def _journal(self, found: ExportSelection) -> ExportJournal:
        stock = found.stock
        return ExportJournal(
            task_id=self._plan.task_id,
            attempt=self._plan.attempt,
            source_id=self._plan.source_id,
            amount=self._plan.amount,
            folder=self._plan.folder,
            created=self._plan.created,
            balance=stock.balance - self._plan.amount if stock.legible else None,
            coins=[ReservedCoin(coin.folder, coin.name, coin.value, coin.identity) for coin in found.coins],
            outputs=[
                OutputFile(b"", one.wanted, 0, "", one.first, one.coins, one.amount, one.generation)
                for one in found.outputs
            ],
        )

    def _build(
        self, journal: ExportJournal, plan: OutputPlan, number: int, folder: OpenFolder, keyring: Keyring
    ) -> OutputFile:
        return coin_outputs.build(
            self._wallet,
            journal,
            plan,
            number,
            folder,
            self._plan.packaging,
            keyring,
            self._control,
            lambda coins: self._progress.count(0, coins),
        )

    def _require_own(self, journal: ExportJournal) -> None:
        found = ExportJournal.load(self._wallet, journal.task_id)
        if found is None or found.attempt != self._plan.attempt:
            raise Fenced

    def _withdrawal(self, journal: ExportJournal) -> Withdrawal:
        if journal.committed is None:
            raise AssertionError("only a committed export is written down")
        first = escape(journal.folder.rstrip(b"/") + b"/" + journal.outputs[0].name)
        more = len(journal.outputs) - 1
        return Withdrawal(
            task_id=journal.task_id,
            when=journal.committed,
            amount=journal.amount,
            balance=journal.balance,
            remarks=f"{first} and {more} more" if more else first,
            tag=self._plan.packaging.tag,
        )

    def _told(self, path: bytes) -> _Told:
        return _Told(path, self._report)


class _Told:
    """The wallet's own records are for people: what keeps one from being written is told, and stops nothing."""

    def __init__(self, path: bytes, report: Callable[[Problem], None]) -> None:
        self._path = path
        self._report = report

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, HistoryUnknown | OSError):
            return False
        text = str(error) if isinstance(error, HistoryUnknown) else translate_os_error(error, "writing it").message
        self._report(Problem(self._path, "HISTORY_NOT_WRITTEN", f"the export is not in the wallet's history: {text}"))
        return True


def roll_back(wallet: WalletFolder, journal: ExportJournal) -> list[Problem]:
    """Undo an export that is not committed: coins back to their folders, partials gone, then the journal.

    Gives what a person should know. Raises OSError; then it may be repeated.
    """
    if journal.is_committed:
        raise AssertionError("a committed export is never undone")
    told = coin_reserve.give_back(wallet, journal)
    try:
        with open_folder(journal.folder) as folder:
            remove_partials(folder.fd, journal.task_id, range(1, journal.attempt + 1))
    except FailedPrecondition as error:
        if error.reason is not Reason.FOLDER_NOT_FOUND:
            told.append(Problem(journal.folder, error.reason.value, f"partial files may lie there: {error.message}"))
    journal.remove(wallet)
    return told


def unpublished(journal: ExportJournal, wallet: WalletFolder, cause: HoldfastError | OSError) -> FailedPrecondition:
    """What an export ends with that can be neither finished nor undone now."""
    error = cause if isinstance(cause, HoldfastError) else translate_os_error(cause, "finishing the export")
    where = f"{wallet.root.display}/{RESERVED_FOLDER}/{escape(journal.reserve)}"
    return FailedPrecondition(
        Reason.EXPORT_UNPUBLISHED,
        f"the export of {decimal_text(journal.amount)} to {escape(journal.folder)} is not finished: {error.message}; "
        f"{len(journal.coins)} coins stay reserved in {where}",
        metadata={
            "task_id": journal.task_id,
            "amount": decimal_text(journal.amount),
            "coins": str(len(journal.coins)),
            "folder": escape(journal.folder),
            "reserved_in": where,
            "cause": error.reason.value,
        },
    )
