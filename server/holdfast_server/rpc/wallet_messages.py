"""Coins and totals as messages: pure functions, no rules."""

from __future__ import annotations

from functools import lru_cache

from holdfast.v1 import wallet_pb2
from holdfast_server.core.wallet_contents import CoinRow, FolderTotals
from holdfast_server.storage.names import escape
from holdfast_server.tasks.wallet_queries import WalletState
from holdfast_server.wallets.amounts import decimal_text
from holdfast_server.wallets.coin import Generation

__all__ = ["balance_message", "coin_message", "coin_total"]


_GENERATIONS = {one.value: wallet_pb2.CoinGeneration.Value(f"COIN_GENERATION_{one}") for one in Generation}

#: A page shows the same few values a thousand times.
_denomination = lru_cache(maxsize=64)(decimal_text)


def coin_total(total: tuple[int, int]) -> wallet_pb2.CoinTotal:
    """A number of coins and their value in units of 1e-8."""
    coins, amount = total
    return wallet_pb2.CoinTotal(coins=coins, amount=decimal_text(amount))


def balance_message(source_id: str, state: WalletState) -> wallet_pb2.Balance:
    totals = state.totals
    return wallet_pb2.Balance(
        source_id=source_id,
        spendable=coin_total(totals.spendable),
        limbo=coin_total(totals.limbo),
        reserved=coin_total(totals.reserved),
        folders=[_folder(name, folder) for name, folder in totals.shown],
        unlocked=state.unlocked,
    )


def coin_message(row: CoinRow) -> wallet_pb2.Coin:
    return wallet_pb2.Coin(
        generation=_GENERATIONS[row.generation],  # type: ignore[arg-type]
        denomination=_denomination(row.value),
        serial_number=row.serial,
        folder=row.folder,
        file_name=row.name,
        encrypted=row.encrypted,
        multi_coin=row.multi_coin,
    )


def _folder(name: bytes, folder: FolderTotals) -> wallet_pb2.FolderTotal:
    return wallet_pb2.FolderTotal(
        folder=escape(name),
        total=coin_total((folder.coins, folder.amount)),
        denominations=[
            wallet_pb2.DenominationTotal(
                denomination=decimal_text(value), coins=coins, amount=decimal_text(value * coins)
            )
            for value, coins in sorted(folder.values.items(), reverse=True)
        ],
        opaque_files=folder.opaque_files,
        encrypted_files=folder.encrypted_files,
        multi_coin_files=folder.multi_coin_files,
    )
