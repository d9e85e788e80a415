"""Wallets: what they hold, coins taken into them, and unlocking them for backups that encrypt."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator
from datetime import timedelta
from decimal import Decimal

from holdfast.connection import Connection
from holdfast.convert import from_message, to_duration, to_task, wire_path
from holdfast.credentials import Credentials, wire_credentials
from holdfast.models import ImportCoinsResult
from holdfast.pages import pages
from holdfast.task import TaskHandle
from holdfast.v1 import wallet_service_pb2
from holdfast.wallet_models import Balance, Coin, UnlockedWallet

__all__ = ["Wallets"]

#: Most that the server gives at a time.
_PAGE = 1000


class Wallets:
    """`client.wallets`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def balance(self, source_id: str) -> Balance:
        """Totals per folder and denomination. Raises NotFound, FailedPrecondition/NOT_A_WALLET,
        Unavailable/SOURCE_OFFLINE."""
        request = wallet_service_pb2.GetBalanceRequest(source_id=source_id)
        return from_message(Balance, self._connection.call(self._connection.wallets.GetBalance, request))

    def coins(
        self,
        source_id: str,
        *,
        folders: Iterable[str] = (),
        denomination: Decimal | int | str | None = None,
        page_size: int = _PAGE,
    ) -> Iterator[Coin]:
        """Coins by folder, denomination (largest first), serial number and file name, fetched as they are asked for.

        Only those of `folders`, and of one `denomination` such as `Decimal("0.1")`, if given; floats are refused, since
        0.1 is none.
        """
        if isinstance(denomination, float):
            raise TypeError("a denomination is a Decimal, an int or text, no float")
        request = wallet_service_pb2.ListCoinsRequest(
            source_id=source_id,
            page_size=page_size,
            folders=[wire_path(folder) for folder in folders],
            denomination=None if denomination is None else decimal_text(denomination),
        )
        return pages(self._connection, self._connection.wallets.ListCoins, request, "coins", Coin)

    def import_coins(
        self,
        source_id: str,
        paths: Iterable[str | os.PathLike[str]] = (),
        *,
        folder: str = "",
        dry_run: bool = False,
        credentials: Credentials | None = None,
        request_id: str | None = None,
    ) -> TaskHandle[ImportCoinsResult]:
        """Start taking coin files into a wallet's `folder`, by default `Suspect`.

        `paths` are absolute ones of files, or of folders whose files are taken, on the server; none means the wallet's
        own `Import`. Encrypted files open with the wallet's key while it is unlocked, or with
        `Credentials(wallet_password=...)`; without, they stay where they are and the task warns.
        """
        request = wallet_service_pb2.ImportCoinsRequest(
            source_id=source_id,
            paths=[wire_path(path) for path in paths],
            folder=wire_path(folder),
            dry_run=dry_run,
            credentials=wire_credentials(credentials),
            request_id=request_id or str(uuid.uuid4()),
        )
        task = to_task(self._connection.create(self._connection.wallets.ImportCoins, request))
        return TaskHandle(self._connection, task)

    def unlock(self, source_id: str, password: str, *, ttl: timedelta | float | None = None) -> UnlockedWallet:
        """Have the wallet's backups encrypt its coins, for `ttl` (seconds or a span, 1 s to 1 h; 15 minutes if None).

        The first unlock of a wallet sets its password, and the answer says so. While it is unlocked a backup of it that
        does not have the key fails with KEY_REQUIRED; nothing is stored in clear. Raises FailedPrecondition/KEY_WRONG,
        and then nothing has changed.
        """
        request = wallet_service_pb2.UnlockWalletRequest(
            source_id=source_id, password=password, ttl=None if ttl is None else to_duration(ttl)
        )
        # A repeat after a lost answer would not say that the password was set.
        reply = self._connection.call(self._connection.wallets.UnlockWallet, request, repeatable=False)
        return from_message(UnlockedWallet, reply)

    def lock(self, source_id: str) -> bool:
        """Forget the wallet's key at once; False when it was locked. Backups store its coins in clear from then on."""
        request = wallet_service_pb2.LockWalletRequest(source_id=source_id)
        return bool(self._connection.call(self._connection.wallets.LockWallet, request).was_unlocked)


def decimal_text(value: Decimal | int | str) -> str:
    """As the wire wants it: without an exponent."""
    return value if isinstance(value, str) else f"{Decimal(value):f}"
