"""What other tasks left in a wallet: set right by the next task that moves coins in it, before it begins."""

from __future__ import annotations

from collections.abc import Callable

from holdfast_server.core.coin_export import roll_back
from holdfast_server.core.coin_journal import ExportJournal, journals
from holdfast_server.core.control import Problem
from holdfast_server.core.import_journal import recover_imports
from holdfast_server.core.wallet_folder import WalletFolder
from holdfast_server.errors import DataLoss
from holdfast_server.storage.names import escape
from holdfast_server.wallets.amounts import decimal_text
from holdfast_server.wallets.layout import RESERVED_FOLDER

__all__ = ["settle_others"]


def settle_others(
    wallet: WalletFolder, own_task_id: str, is_live: Callable[[str], bool], report: Callable[[Problem], None]
) -> None:
    """Settle exports and imports that nobody goes on with: their task has ended, or is not known here (the catalog was
    lost, or another service began them).

    Only under the wallet's exclusive lock. Coins of an export that is not committed return to their folders. A
    committed one is left as it is, and told every time, because only ResumeTask of the service that began it may finish
    it. A committed import is finished, any other undone. A journal that cannot be read is left, and told. Raises
    OSError.
    """

    def is_spared(task_id: str) -> bool:
        return task_id == own_task_id or is_live(task_id)

    _settle_exports(wallet, is_spared, report)
    for task_id, text in recover_imports(wallet, is_spared):
        report(Problem(f"{RESERVED_FOLDER}/import-{task_id}.json".encode(), "IMPORT_SETTLED", text))


def _settle_exports(wallet: WalletFolder, is_spared: Callable[[str], bool], report: Callable[[Problem], None]) -> None:
    for task_id in list(journals(wallet)):
        if is_spared(task_id):
            continue
        path = f"{RESERVED_FOLDER}/export-{task_id}.json".encode()
        try:
            journal = ExportJournal.load(wallet, task_id)
        except DataLoss as error:
            report(Problem(path, error.reason.value, f"{error.message}; coins may lie in the folder of its name"))
            continue
        if journal is None:
            continue
        coins = f"{len(journal.coins)} coins worth {decimal_text(journal.amount)}"
        if journal.is_committed:
            text = f"task {task_id} has not finished its export of {coins} to {escape(journal.folder)}: use ResumeTask"
            report(Problem(path, "EXPORT_UNFINISHED", text))
            continue
        for problem in roll_back(wallet, journal):
            report(problem)
        text = f"task {task_id} left an export of {coins} that was not committed; they are back in their folders"
        report(Problem(path, "EXPORT_UNDONE", text))
