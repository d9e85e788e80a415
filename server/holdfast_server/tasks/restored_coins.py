"""Whether a restore decrypts, with which keys, and what its result says of coins."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from holdfast_server.core.coin_restore import CoinRestore
from holdfast_server.core.control import Problem
from holdfast_server.core.restore import Restored
from holdfast_server.errors import FailedPrecondition, Reason, invalid_field
from holdfast_server.tasks.credentials import Credentials
from holdfast_server.tasks.new_wallet import NewWallet
from holdfast_server.tasks.run import TaskRun
from holdfast_server.tasks.wallet_keys import WalletKeys

__all__ = ["coin_result", "coin_restore", "coin_sentence", "decrypts", "with_wallet_keys"]


def decrypts(asked: bool | None, wallet: NewWallet | None, credentials: Credentials | None) -> bool:
    """Whether envelopes are opened. Raises InvalidArgument/INVALID_FIELD for a password that nobody shall use."""
    has_password = credentials is not None and credentials.wallet_password is not None
    if asked is False and has_password:
        raise invalid_field("decrypt_coins", "must not be false with credentials.wallet_password, which only decrypts")
    return wallet is not None or (has_password if asked is None else asked)


def with_wallet_keys(
    keys: WalletKeys,
    source_ids: Collection[str],
    credentials: Credentials | None,
    connection: sa.Connection,
    *,
    required: bool,
) -> Credentials | None:
    """The credentials with the keys of the unlocked wallets among the sources.

    Raises FailedPrecondition/KEY_REQUIRED when a key is `required` and there is neither one nor a password.
    """
    found = keys.attach(source_ids, credentials, connection)
    if required and (found is None or not (found.wallet_keys or found.wallet_password)):
        raise FailedPrecondition(
            Reason.KEY_REQUIRED,
            "coins are encrypted: credentials.wallet_password must hold the password of the wallet, or the wallet must "
            "be unlocked",
        )
    return found


def coin_restore(run: TaskRun, source_id: str, backup_id: str | None, *, named: bool = True) -> CoinRestore | None:
    """What a restore in a worker does with coins; None when it leaves them as they are. Not `named`: what it tells is
    stored without the names of files."""
    request = run.row.request
    if not request.get("decrypt"):
        return None

    def report(problem: Problem) -> None:
        if not named and problem.path:
            problem = Problem(b"", problem.reason, "not named: the repository is sealed")
        run.problem(problem, source_id=source_id, backup_id=backup_id)

    def tell(text: str) -> None:
        if named:
            run.log(text)

    return CoinRestore(
        run.keyring(),
        new_wallet="new_wallet" in request,
        control=run.control,
        progress=run.progress,
        report=report,
        tell=tell,
    )


def coin_result(found: Restored) -> dict[str, Any]:
    """What a result says of coins."""
    return {
        "files_decrypted": found.decrypted,
        "files_encrypted": found.encrypted,
        "restored_coins": found.coins,
    }


def coin_sentence(found: Restored) -> str:
    """The same for the task's message; empty where there is nothing to say."""
    text = ""
    if found.decrypted:
        text += f"; {found.decrypted} files decrypted"
    if found.encrypted:
        text += f"; coins stay encrypted (.hfcc): the backup holds {found.encrypted} such files"
    if found.coins is not None:
        total = found.coins["total"]
        text += f"; {total['coins']} coins worth {total['amount']}"
    return text
