"""Make up a wallet: `python -m holdfast_server.wallets.generate FOLDER --coins N --seed S`.

The coins are invented. Their authenticity numbers are random bytes that no RAIDA ever issued: they are worthless and
fail every check but that of the file format. Names, layout, headers and history look like those of a real wallet, so
that a backup meets what it will meet outside: commas, quotes, `#`, spaces and letters of other scripts in names.

The seed fixes every byte, name, mode and time of files, whatever the folder is called. (A new version may draw
differently.)
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

from holdfast_server.errors import FailedPrecondition, HoldfastError, Reason, invalid_field
from holdfast_server.wallets import format9
from holdfast_server.wallets.amounts import fixed_text
from holdfast_server.wallets.coin import AN_SIZE, RAIDA, Coin
from holdfast_server.wallets.layout import (
    CONFIG_FILE,
    MONEY_FOLDERS,
    STANDARD_FOLDERS,
    TRANSACTIONS_FILE,
    amount_text,
    single_coin_name,
)

__all__ = ["FolderSummary", "Summary", "generate_wallet", "main"]

#: More coins than this is a mistake: two million files, and serial numbers stay unique far above it.
MAX_COINS = 2_000_000

_SERIALS = 16_777_216
_START = datetime(2025, 1, 1, 8, 0, tzinfo=UTC)
_MAX_DEPOSITS = 12

# How many coins of each denomination code a wallet in use tends to hold: change is common, large notes are rare.
_CODES = {-8: 1, -4: 2, -2: 12, -1: 14, 0: 24, 1: 20, 2: 15, 3: 8, 4: 3, 5: 1}

_COMMON_TAGS = ("", "From Ron", "rent", "change", "AJ", "2025-06 savings")
_ODD_TAGS = (
    "  two  spaces  ",
    "O'Brien's 'gift'",
    'say "hello"',
    "naïve café ☕",
    "от Ивана",
    "東京 旅行",
    "مرحبا",
    "100% & <more>; $HOME `x` *?",
    "long " + "x" * 120,
)


@dataclass(frozen=True, slots=True)
class FolderSummary:
    """One folder's coins: how many files, and their value in units of 1e-8."""

    name: str
    coins: int
    amount: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What was made, by folder: Bank, Fracked, Limbo and Counterfeit, in this order, even if empty."""

    folders: tuple[FolderSummary, ...]

    @property
    def coins(self) -> int:
        """Coin files in all folders."""
        return sum(folder.coins for folder in self.folders)

    @property
    def balance(self) -> int:
        """Value of what can be spent, Bank and Fracked, in units of 1e-8."""
        return sum(folder.amount for folder in self.folders if folder.name in MONEY_FOLDERS)


def generate_wallet(root: Path, coins: int, seed: int) -> Summary:
    """Create a wallet of `coins` made-up single-coin files, spread over Bank, Fracked, Limbo and Counterfeit.

    `root` must not exist or be an empty folder (FOLDER_NOT_EMPTY); missing parents are created. Folders are made 0700
    and files 0600, as coins want to be. Nothing is synced to disk: a power cut costs nothing but the command.
    """
    if not 0 <= coins <= MAX_COINS:
        raise invalid_field("coins", f"must be 0..{MAX_COINS}", value=str(coins))
    _make_root(root)
    rng = Random(seed)  # noqa: S311  it must repeat, and nothing is secret
    for name in STANDARD_FOLDERS:
        (root / name).mkdir(mode=0o700)
    serials = rng.sample(range(1, _SERIALS), coins)
    summaries = []
    for folder, count in _spread(coins).items():
        amount = 0
        for index in range(count):
            coin = _coin(rng, folder, serials.pop())
            amount += coin.value
            made = _START + timedelta(seconds=rng.randrange(300 * 86_400))
            _write(root / folder / _name(rng, coin, index), format9.encode_single(coin, task_id=_task_id(made)), made)
        summaries.append(FolderSummary(folder, count, amount))
    summary = Summary(tuple(summaries))
    _write_history(root, rng, summary.balance)
    _write(root / CONFIG_FILE, _config(seed).encode(), _START)
    _write(root / "Import" / "read me, 'first' - ну да ☕.txt", b"Nothing to import yet.\n", _START)
    return summary


def _make_root(root: Path) -> None:
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        occupied = any(root.iterdir())
    except (FileExistsError, NotADirectoryError):
        occupied = True
    if occupied:
        raise FailedPrecondition(
            Reason.FOLDER_NOT_EMPTY,
            f"{root} is not an empty folder; a wallet is never generated over something else",
            metadata={"path": str(root)},
        )


def _spread(coins: int) -> dict[str, int]:
    """Coins per folder: a fifth fracked, one in a hundred in limbo and as many counterfeit, the rest in Bank."""
    odd = max(coins // 100, 1) if coins >= 10 else 0
    fracked = coins // 5
    return {"Bank": coins - fracked - 2 * odd, "Fracked": fracked, "Limbo": odd, "Counterfeit": odd}


def _coin(rng: Random, folder: str, serial: int) -> Coin:
    code = rng.choices(list(_CODES), list(_CODES.values()))[0]
    ans = rng.randbytes(RAIDA * AN_SIZE)
    return Coin(denomination=code, serial=serial, ans=ans, pown=_pown(rng, folder))


def _pown(rng: Random, folder: str) -> str:
    """Letters that put a coin into this folder by the grading rule of the current program."""
    if folder == "Bank":
        return "p" * RAIDA
    letters = {"Fracked": "fnde", "Limbo": "n", "Counterfeit": "f"}[folder]
    passes = rng.randint(13, 24) if folder == "Fracked" else rng.randint(0, 12)
    pown = ["p"] * passes + rng.choices(letters, k=RAIDA - passes)
    rng.shuffle(pown)
    return "".join(pown)


def _name(rng: Random, coin: Coin, index: int) -> str:
    """A unique name: serials are. Each folder's first is ordinary, the next few are odd, so small wallets have some."""
    tag = _ODD_TAGS[index - 1] if 1 <= index <= len(_ODD_TAGS) else rng.choice(_COMMON_TAGS)
    return single_coin_name(coin.value, coin.serial, tag)


def _task_id(when: datetime) -> int:
    return int((when - datetime(when.year, 1, 1, tzinfo=UTC)).total_seconds()) // 15


def _write_history(root: Path, rng: Random, balance: int) -> None:
    """transactions.csv, newest row first, and a receipt per row; the newest balance is that of Bank and Fracked."""
    rows = list(_history(rng, balance))
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["Symbol", "Task ID", "Date & Time", "Remarks", "Deposit", "Withdraw", "Description", "Balance"])
    table.writerows(row.cells() for row in reversed(rows))
    newest = rows[-1].when if rows else _START
    _write(root / TRANSACTIONS_FILE, text.getvalue().encode(), newest)
    for row in rows:
        name = f"{row.when:%Y-%m-%d_%H-%M-%S}.{row.kind}.txt"
        _write(root / "Receipts" / name, row.receipt().encode(), row.when)


@dataclass(frozen=True, slots=True)
class _Row:
    """One transaction; amounts in units of 1e-8, `balance` after it.

    No public document says what the Symbol column holds; the signs used here are made up.
    """

    when: datetime
    symbol: str
    kind: str
    remarks: str
    deposit: int
    withdraw: int
    description: str
    balance: int

    def cells(self) -> list[str]:
        deposit, withdraw = (fixed_text(amount) if amount else "" for amount in (self.deposit, self.withdraw))
        time = f"{self.when:%Y-%m-%d %H:%M:%S}"
        return [
            self.symbol,
            self._task(),
            time,
            self.remarks,
            deposit,
            withdraw,
            self.description,
            fixed_text(self.balance),
        ]

    def receipt(self) -> str:
        return (
            f"{self.description}\nTask: {self._task()}\nTime: {self.when:%Y-%m-%d %H:%M:%S} UTC\n"
            f"Remarks: {self.remarks}\nDeposit: {fixed_text(self.deposit)}\nWithdraw: {fixed_text(self.withdraw)}\n"
            f"Balance: {fixed_text(self.balance)}\n"
        )

    def _task(self) -> str:
        # One of the forms the vendor's tasks have had: Jan-27-26_01-44-55-AM.
        return f"{self.when:%b-%d-%y_%I-%M-%S-%p}"


def _history(rng: Random, balance: int) -> Iterator[_Row]:
    """A deposit that was withdrawn again, one that failed, and deposits that add up to `balance`."""
    if balance == 0:
        return
    when, spent = _START, 100 * 10**8
    yield _Row(when, "+", "deposit", "From Ron", spent, 0, "Deposited from file", spent)
    when += timedelta(hours=3, seconds=17)
    yield _Row(when, "-", "withdraw-to-file", "/home/user/out/100 CloudCoin 'AJ'.bin", 0, spent, "Withdrawn to file", 0)
    when += timedelta(days=2, seconds=5)
    yield _Row(when, "!", "deposit", "no network, tried again later", 0, 0, "Deposit failed", 0)
    held = 0
    for total in sorted({balance, *(rng.randint(1, balance) for _ in range(_MAX_DEPOSITS - 1))}):
        when += timedelta(seconds=rng.randrange(3_600, 20 * 86_400))
        remarks = rng.choice(_COMMON_TAGS[1:] + _ODD_TAGS)
        yield _Row(when, "+", "deposit", remarks, total - held, 0, "Deposited from file", total)
        held = total


def _config(seed: int) -> str:
    return f"""\
# Made up by holdfast_server.wallets.generate. The coins are random bytes and worth nothing.
[wallet]
name = "Generated {seed}"
version = "1.0"
created = "{_START:%Y-%m-%dT%H:%M:%SZ}"

[settings]
auto_backup = false
encryption_enabled = false
default_timeout = 30

[raida]
count = {RAIDA}

[logging]
level = "info"
"""


def _write(path: Path, content: bytes, when: datetime) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb", buffering=0) as file:
        file.write(content)
        # Fixed times, so that two wallets of one seed also make equal archives.
        os.utime(fd, ns=(stamp := int(when.timestamp()) * 10**9, stamp))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m holdfast_server.wallets.generate",
        description="Make up a wallet for demonstrations. Its coins are random bytes and worth nothing.",
    )
    parser.add_argument("folder", type=Path, help="the wallet's folder: new, or empty")
    parser.add_argument("--coins", type=int, default=1_000, help="coin files to make (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same wallet (default: %(default)s)")
    arguments = parser.parse_args(argv)
    try:
        summary = generate_wallet(arguments.folder, arguments.coins, arguments.seed)
    except HoldfastError as error:
        sys.stderr.write(f"error: {error.message}\n{error.remedy}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    lines = [f"{arguments.folder}: {summary.coins} made-up coins, worthless, balance {amount_text(summary.balance)}"]
    lines += [f"  {folder.name:<12}{folder.coins:>8} files  {amount_text(folder.amount)}" for folder in summary.folders]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
