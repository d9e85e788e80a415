"""The source that a restore into a new wallet makes: its id is kept for it from the call on, its row made at the end.

In between nobody else gets the id, and nobody sees the wallet.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from holdfast_server.catalog import sources
from holdfast_server.catalog.rows import LockMode, LockWish, SourceKind
from holdfast_server.clock import Clock
from holdfast_server.errors import invalid_field
from holdfast_server.tasks.run import Outcome, TaskRun
from holdfast_server.tasks.sources import (
    SourceOrder,
    check_display_name,
    check_source_id,
    require_free_id,
    source_row,
    with_free_id,
)

__all__ = ["NewWallet", "order_wallet", "registering"]


@dataclass(frozen=True, slots=True)
class NewWallet:
    """How the new source is to be called; what is empty comes from the folder's name."""

    display_name: str = ""
    source_id: str | None = None

    def check(self, paths: tuple[bytes, ...], decrypt: bool | None) -> None:
        """What a call may ask for together with it. Raises InvalidArgument/INVALID_FIELD."""
        if self.display_name:
            check_display_name(self.display_name, "new_wallet.display_name")
        if self.source_id is not None:
            check_source_id(self.source_id, "new_wallet.source_id")
        if paths:
            raise invalid_field("paths", "must be empty with new_wallet: a wallet is restored whole, or not at all")
        if decrypt is False:
            raise invalid_field("decrypt_coins", "must not be false with new_wallet: its coins must be countable")


def order_wallet(
    connection: sa.Connection, wallet: NewWallet, folder: bytes, now: int
) -> tuple[dict[str, Any], LockWish]:
    """The source that a task will make, for its request, and what keeps the id for it.

    Raises AlreadyExists/SOURCE_EXISTS for an id that was asked for and is taken.
    """
    order = SourceOrder(folder, SourceKind.WALLET, wallet.source_id, wallet.display_name)
    row = source_row(order, folder, SourceKind.WALLET, now)
    if wallet.source_id is None:
        row = with_free_id(connection, row)
    require_free_id(connection, row.source_id)
    made = {"source_id": row.source_id, "display_name": wallet.display_name}
    return made, LockWish(f"source:{row.source_id}", LockMode.EXCLUSIVE)


def registering(run: TaskRun, clock: Clock, outcome: Outcome) -> Outcome:
    """The outcome of a restore; of one into a new wallet with the source registered in the task's last transaction."""
    wallet = run.row.request.get("new_wallet")
    if wallet is None or run.row.dry_run:
        return outcome
    folder = base64.b64decode(run.row.request["folder"])

    def register(connection: sa.Connection) -> None:
        order = SourceOrder(folder, SourceKind.WALLET, wallet["source_id"], wallet["display_name"])
        row = source_row(order, folder, SourceKind.WALLET, clock.now())
        if sources.get_source(connection, row.source_id) is not None:
            # Only a catalog rebuilt meanwhile puts a source there. The wallet is whole and must not go unregistered.
            row = with_free_id(connection, row)
        sources.insert_source(connection, row)
        outcome.result["source_id"] = row.source_id

    return replace(outcome, commit=register)
