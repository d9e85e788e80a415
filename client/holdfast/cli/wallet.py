"""`holdfast wallet ...`: what wallets hold, and coins taken into them."""

from __future__ import annotations

from decimal import Decimal

import click

from holdfast.cli.session import Command, Session, pass_session
from holdfast.cli.wallet_export import export_coins
from holdfast.cli.wallet_import import import_coins
from holdfast.cli.wallet_unlock import lock, unlock
from holdfast.text import amount, count, safe
from holdfast.wallet_models import CoinTotal, FolderTotal

__all__ = ["wallet"]


@click.group()
def wallet() -> None:
    """Look into wallets: balance and coins; export coins, and take coins in; unlock them, so that their backups are
    encrypted."""


wallet.add_command(export_coins)
wallet.add_command(import_coins)
wallet.add_command(unlock)
wallet.add_command(lock)


@wallet.command(cls=Command, epilog="\b\nExample:\n  holdfast wallet balance default --denominations")
@click.argument("source_id")
@click.option("--denominations", is_flag=True, help="One row for each denomination of a folder.")
@pass_session
def balance(session: Session, source_id: str, denominations: bool) -> int:
    """Show what a wallet holds: the balance, and totals of each folder.

    The balance is Bank and Fracked. Coins in Limbo and coins that unfinished exports have reserved stand apart, and so
    do files whose coins are encrypted or that are no readable coins.
    """
    found = session.client.wallets.balance(source_id)
    session.emit("balance", found)
    state = "unlocked" if found.unlocked else "locked"
    session.line(f"{safe(found.source_id)} ({state}): {amount(found.spendable.amount)} in {_coins(found.spendable)}")
    for name, total in (("in Limbo", found.limbo), ("reserved by exports", found.reserved)):
        if total.coins:
            session.line(f"{name}: {amount(total.amount)} in {_coins(total)}")
    columns = ["FOLDER", "COINS", "AMOUNT", "ENCRYPTED", "OPAQUE"]
    rows: list[tuple[str, ...]] = []
    for folder in found.folders:
        rows.append(_row(folder))
        if denominations:
            rows += [
                (f"  {amount(one.denomination)}", f"{one.coins:,}", amount(one.amount), "", "")
                for one in folder.denominations
            ]
    session.table(columns, rows, right=columns[1:])
    for folder in found.folders:
        if folder.multi_coin_files and folder.folder in ("Bank", "Fracked"):
            files = count(folder.multi_coin_files, "file holds", "files hold")
            session.note(f"warning: {safe(folder.folder)}: {files} more than one coin")
    return 0


@wallet.command(
    cls=Command,
    epilog="\b\nExample:\n  holdfast wallet coins default --folder Bank --denomination 100",
)
@click.argument("source_id")
@click.option("--folder", "folders", multiple=True, metavar="NAME", help="Only this folder, such as Bank; repeatable.")
@click.option("--denomination", metavar="VALUE", help="Only coins of this value, such as 100 or 0.1.")
@pass_session
def coins(session: Session, source_id: str, folders: tuple[str, ...], denomination: str | None) -> int:
    """List the coins of a wallet, one a line: folder, value, serial number, generation, file.

    By folder, value (largest first) and serial number. Coins in files that are encrypted are not listed; `balance`
    counts those files. Authenticity numbers are never sent.
    """
    number, value = 0, Decimal(0)
    for coin in session.client.wallets.coins(source_id, folders=folders, denomination=denomination):
        if not number:
            session.line(f"{'FOLDER':<17}  {'VALUE':>16}  {'SERIAL':>10}  GEN  FILE")
        session.emit("coin", coin)
        marks = ("  [encrypted]" if coin.encrypted else "") + ("  [several coins]" if coin.multi_coin else "")
        start = f"{safe(coin.folder):<17}  {amount(coin.denomination):>16}  {coin.serial_number:>10}"
        session.line(f"{start}  {coin.generation:<3}  {safe(coin.file_name)}{marks}")
        number, value = number + 1, value + coin.denomination
    session.line(f"{count(number, 'coin')}, {amount(value)}")
    return 0


def _coins(total: CoinTotal) -> str:
    return count(total.coins, "coin")


def _row(folder: FolderTotal) -> tuple[str, ...]:
    return (
        folder.folder or "(the wallet itself)",
        f"{folder.total.coins:,}",
        amount(folder.total.amount),
        f"{folder.encrypted_files:,}" if folder.encrypted_files else "",
        f"{folder.opaque_files:,}" if folder.opaque_files else "",
    )
