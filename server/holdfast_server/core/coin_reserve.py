"""Moving the coins of an export: out of their folders, back into them, or on to `Exported/`.

Each coin keeps its file and its name. The reserve has a folder for each that coins came from, so that without the
journal, too, everybody sees where they belong: `.holdfast/export-<task_id>/Bank/…`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from holdfast_server.core.coin_journal import ExportJournal
from holdfast_server.core.control import Problem
from holdfast_server.core.wallet_folder import WalletFolder
from holdfast_server.storage import local
from holdfast_server.wallets.layout import RESERVED_FOLDER

__all__ = ["EXPORTED_FOLDER", "give_back", "reserved_path", "retire", "take"]

EXPORTED_FOLDER = b"Exported"

_SERVICE = RESERVED_FOLDER.encode()


def reserved_path(journal: ExportJournal, folder: bytes) -> tuple[bytes, bytes, bytes]:
    """Names of the folder, from the wallet down, that reserved coins of `folder` lie in."""
    return _SERVICE, journal.reserve, folder


def take(wallet: WalletFolder, journal: ExportJournal) -> bool:
    """Rename every coin of the journal into the reserve, durably; False as soon as one is gone: the wallet program took
    it, and those before it are reserved."""
    for folder in _folders(journal):
        with wallet.folder(folder) as source, wallet.folder(*reserved_path(journal, folder), create=True) as reserve:
            for coin in journal.coins:
                if coin.folder != folder:
                    continue
                try:
                    local.move(source, coin.name, reserve)
                except FileNotFoundError:
                    return False
            local.fsync_directory(reserve)
            local.fsync_directory(source)
    return True


def give_back(wallet: WalletFolder, journal: ExportJournal) -> list[Problem]:
    """Return every coin that lies in the reserve to its folder, durably, and remove the empty reserve.

    A coin whose name is taken by now gets another one; those, and what else lies in the reserve, are told.
    """
    told: list[Problem] = []
    for folder in _folders(journal):
        with ExitStack() as stack:
            try:
                reserve = stack.enter_context(wallet.folder(*reserved_path(journal, folder)))
            except FileNotFoundError:
                continue
            target = stack.enter_context(wallet.folder(folder, create=True))
            for coin in journal.coins:
                if coin.folder != folder:
                    continue
                with suppress(FileNotFoundError):  # it was never taken, or is back already
                    name = wallet.move(reserve, coin.name, target)
                    if name != coin.name:
                        text = (
                            f"its name was taken when it came back from the reserve; it was {os.fsdecode(coin.name)!a}"
                        )
                        told.append(Problem(folder + b"/" + name, "COIN_RENAMED", text))
            local.fsync_directory(target)
            local.fsync_directory(reserve)
    return told + _remove_reserve(wallet, journal)


def retire(wallet: WalletFolder, journal: ExportJournal) -> list[Problem]:
    """Move every coin that lies in the reserve to `Exported/`, durably, and remove the empty reserve."""
    with wallet.folder(EXPORTED_FOLDER, create=True) as target:
        for folder in _folders(journal):
            try:
                with wallet.folder(*reserved_path(journal, folder)) as reserve:
                    for coin in journal.coins:
                        if coin.folder == folder:
                            with suppress(FileNotFoundError):  # it is there already
                                wallet.move(reserve, coin.name, target)
                    local.fsync_directory(target)
                    local.fsync_directory(reserve)
            except FileNotFoundError:
                continue
    return _remove_reserve(wallet, journal)


def _folders(journal: ExportJournal) -> Sequence[bytes]:
    return list(dict.fromkeys(coin.folder for coin in journal.coins))


def _remove_reserve(wallet: WalletFolder, journal: ExportJournal) -> list[Problem]:
    try:
        with wallet.folder(_SERVICE) as service:
            with wallet.folder(_SERVICE, journal.reserve) as reserve:
                for folder in _folders(journal):
                    with suppress(FileNotFoundError):
                        os.rmdir(folder, dir_fd=reserve)
            os.rmdir(journal.reserve, dir_fd=service)
            local.fsync_directory(service)
    except FileNotFoundError:
        pass
    except OSError as error:
        path = _SERVICE + b"/" + journal.reserve
        return [Problem(path, "RESERVE_NOT_EMPTY", f"holds something that is no coin of this export: {error.strerror}")]
    return []
