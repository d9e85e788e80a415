"""A wallet's history gets its row in the layout that is there, or stays as it is to the byte."""

from __future__ import annotations

import csv
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_server.core.wallet_folder import WalletFolder
from holdfast_server.core.wallet_history import (
    HistoryUnknown,
    Withdrawal,
    receipt_name,
    record_withdrawal,
    write_receipt,
)
from holdfast_server.storage.folder import open_folder
from holdfast_server.wallets.amounts import COIN

HEADER = "Symbol,Task ID,Date & Time,Remarks,Deposit,Withdraw,Description,Balance"
TASK = "6f0c3f6e-5f4e-4a1c-9d0a-1f2e3d4c5b6a"
WITHDRAWAL = Withdrawal(TASK, 1_750_000_000_000_000, 250 * COIN // 100, 7 * COIN, '/out, "here"/2.5.bin', tag="rent")


@pytest.fixture
def wallet(tmp_path: Path) -> Iterator[WalletFolder]:
    with open_folder(str(tmp_path)) as root:
        yield WalletFolder(root)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("rest", "row"),
    [
        ([], ["", "2.5", "7"]),
        (["+,a,2025-01-01 00:00:00,x,9.5,,Deposited from file,9.5"], ["", "2.5", "7"]),
        (
            ["-,b,2025,\u4e1c\u4eac,,1.00000000,Withdrawn to file,8.50000000", "broken,\xff,row"],
            ["-", "2.50000000", "7.00000000"],
        ),
    ],
)
def test_the_row_stands_under_the_header(
    wallet: WalletFolder, tmp_path: Path, end: str, rest: list[str], row: list[str]
) -> None:
    table = tmp_path / "transactions.csv"
    table.write_bytes(end.join([HEADER, *rest, ""]).encode())
    table.chmod(0o640)
    record_withdrawal(wallet, WITHDRAWAL)
    record_withdrawal(wallet, WITHDRAWAL)
    first, second, *others = table.read_bytes().decode().split(end)
    assert [first, *others] == [HEADER, *rest, ""]
    symbol, withdraw, balance = row
    cells = next(csv.reader(io.StringIO(second)))
    assert cells == [
        symbol, TASK, "2025-06-15 15:06:40", '/out, "here"/2.5.bin', "", withdraw, "Withdrawn to file", balance,
    ]  # fmt: skip
    assert stat.S_IMODE(table.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["transactions.csv"]


def test_a_header_without_a_line_end(wallet: WalletFolder, tmp_path: Path) -> None:
    (tmp_path / "transactions.csv").write_text(HEADER)
    record_withdrawal(wallet, WITHDRAWAL)
    assert (tmp_path / "transactions.csv").read_text().count("\n") == 2


@pytest.mark.parametrize("ending", ["\n", ""])
def test_the_older_layout_is_appended_to(wallet: WalletFolder, tmp_path: Path, ending: str) -> None:
    old = "from Ron\\, again,1650000000,100,abc,Deposit\nx,1650000001,-3,def,Export" + ending
    (tmp_path / "transactions.csv").write_text(old)
    whole = Withdrawal(TASK, WITHDRAWAL.when, 3 * COIN, None, "/out/3.bin", tag="rent")
    record_withdrawal(wallet, whole)
    record_withdrawal(wallet, whole)
    text = (tmp_path / "transactions.csv").read_text()
    assert text == old.rstrip("\n") + f"\nrent,1750000000,-3,{TASK},Export\n"
    assert receipt_name(wallet, whole) == f"Receipts/{TASK}.txt".encode()
    with pytest.raises(HistoryUnknown, match="whole coins"):
        record_withdrawal(wallet, Withdrawal("another", 1, 1, None, ""))


@pytest.mark.parametrize(
    "content", [b"", b"a,b\n", b"\x00\xff\n", b"message,unixtime,amount\n", HEADER.lower().encode()]
)
def test_other_layouts_are_left_alone(wallet: WalletFolder, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "transactions.csv").write_bytes(content)
    with pytest.raises(HistoryUnknown):
        record_withdrawal(wallet, WITHDRAWAL)
    assert (tmp_path / "transactions.csv").read_bytes() == content


def test_no_link_is_followed(wallet: WalletFolder, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(HEADER + "\n")
    (tmp_path / "transactions.csv").symlink_to("elsewhere")
    with pytest.raises(OSError, match="transactions"):
        record_withdrawal(wallet, WITHDRAWAL)
    assert (tmp_path / "elsewhere").read_text() == HEADER + "\n"


def test_the_receipt(wallet: WalletFolder, tmp_path: Path) -> None:
    (tmp_path / "Receipts").mkdir()
    (tmp_path / "Receipts" / "2025-06-15_15-06-40.withdraw-to-file.txt").write_text("another")
    name = receipt_name(wallet, WITHDRAWAL)
    assert name == b"Receipts/2025-06-15_15-06-40.withdraw-to-file-2.txt"
    write_receipt(wallet, name, WITHDRAWAL)
    write_receipt(wallet, name, WITHDRAWAL)
    assert (tmp_path / os.fsdecode(name)).read_text() == (
        f"Withdrawn to file\nTask: {TASK}\nTime: 2025-06-15 15:06:40 UTC\n"
        'Remarks: /out, "here"/2.5.bin\nDeposit: 0.00000000\nWithdraw: 2.50000000\nBalance: 7.00000000\n'
    )
    assert len(os.listdir(tmp_path / "Receipts")) == 2
    (tmp_path / os.fsdecode(name)).write_text("somebody else's")
    with pytest.raises(FileExistsError):
        write_receipt(wallet, name, WITHDRAWAL)
