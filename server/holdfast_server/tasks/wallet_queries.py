"""What calls ask of wallets without changing them: which wallet that is, and what the reader process finds in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from holdfast_server.catalog.database import Database
from holdfast_server.core.wallet_contents import (
    CoinRow,
    CoinWish,
    WalletPlace,
    WalletTotals,
    coins_columns,
    read_totals,
    reserved,
)
from holdfast_server.errors import HoldfastError
from holdfast_server.storage.local import translate_os_error
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks.sources import open_source, require_parts
from holdfast_server.tasks.wallet_keys import WalletKeys, require_wallet
from holdfast_server.tasks.wallet_reader import WalletReader

__all__ = ["WalletQueries", "WalletState"]


@dataclass(frozen=True, slots=True)
class WalletState:
    """What a wallet holds, and whether its key is at hand."""

    totals: WalletTotals
    unlocked: bool


class WalletQueries:
    """Thread-safe. The calls take `wanted`, which says whether the caller still waits (see `WalletReader.run`)."""

    def __init__(self, database: Database, policy: FolderPolicy, reader: WalletReader, keys: WalletKeys) -> None:
        self._database = database
        self._policy = policy
        self._reader = reader
        self._known = keys

    def state(self, source_id: str, wanted: Callable[[], bool]) -> WalletState:
        """Raises NotFound/SOURCE_NOT_FOUND, FailedPrecondition (NOT_A_WALLET, SOURCE_UNREADABLE),
        Unavailable/SOURCE_OFFLINE, and what `WalletReader.run` raises."""
        place = self._place(source_id)
        keys = self._keys(source_id)
        return WalletState(self._reader.run(read_totals, place, keys, wanted=wanted), bool(keys))

    def coins(
        self, source_id: str, wish: CoinWish, after: bytes | None, limit: int, wanted: Callable[[], bool]
    ) -> list[CoinRow]:
        """A page of at most `limit` coins, see `core.wallet_contents.coins_page`. Raises as `state`."""
        place = self._place(source_id)
        columns = self._reader.run(coins_columns, place, self._keys(source_id), wish, after, limit, wanted=wanted)
        return list(map(CoinRow._make, zip(*columns, strict=True)))

    def reserved_coins(self, source_id: str) -> int:
        """How many coins unfinished exports hold in the wallet; 0 where that cannot be seen, and for a directory."""
        try:
            return self._reader.run(reserved, self._place(source_id))
        except HoldfastError:
            return 0

    def _place(self, source_id: str) -> WalletPlace:
        with self._database.read() as connection:
            row = require_wallet(connection, source_id)
        with open_source(self._policy, source_id, row.path) as folder:
            try:
                require_parts(folder)
            except OSError as error:
                raise translate_os_error(error, f"looking into {folder.display}") from error
            return WalletPlace(row.path, folder.identity)

    def _keys(self, source_id: str) -> list[str]:
        key = self._known.unlocked(source_id)
        return [] if key is None else [key.to_text()]
