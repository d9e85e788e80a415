from __future__ import annotations

import csv
import os
import tomllib
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from holdfast_server.errors import FailedPrecondition, InvalidArgument, Reason
from holdfast_server.wallets import generate, layout
from holdfast_server.wallets.classify import SNIFF_SIZE, WalletCounters, classify
from holdfast_server.wallets.generate import generate_wallet
from tests.unit.wallets import format9_reader as reader

# By the grading rule of the current program; limbo is what is neither passed nor failed by 13.
FITS = {
    "Bank": lambda c: c["p"] == 25,
    "Fracked": lambda c: 13 <= c["p"] <= 24,
    "Limbo": lambda c: c["p"] < 13 and c["f"] < 13,
    "Counterfeit": lambda c: c["f"] >= 13,
}


def contents(root: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path.relative_to(root)): (path.stat().st_mode, path.stat().st_mtime_ns, path.read_bytes())
        for path in root.rglob("*")
        if path.is_file()
    }


def is_wallet(root: Path) -> bool:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return layout.is_wallet(fd)
    finally:
        os.close(fd)


def test_every_coin_is_valid_unique_and_where_it_belongs(tmp_path):
    root = tmp_path / "new" / "wallet"
    summary = generate_wallet(root, 300, seed=5)
    assert is_wallet(root)
    assert {path.name for path in root.iterdir() if path.is_dir()} == set(layout.STANDARD_FOLDERS)
    serials = set()
    for folder in summary.folders:
        amount = Decimal(0)
        files = list((root / folder.name).iterdir())
        for path in files:
            read = reader.read(path.read_bytes())
            [(split, shard, code, serial, _ans)] = read["coins"]
            assert (split, shard) == (0, 0)
            assert f"#{serial} '" in path.name
            assert FITS[folder.name](Counter(read["pown"])), read["pown"]
            amount += Decimal(10) ** code
            serials.add(serial)
        assert len(files) == folder.coins > 0
        assert amount * 10**8 == folder.amount
    assert len(serials) == summary.coins == 300


def test_the_history_ends_at_the_balance(tmp_path):
    summary = generate_wallet(tmp_path, 60, seed=9)
    with (tmp_path / "transactions.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["Symbol", "Task ID", "Date & Time", "Remarks", "Deposit", "Withdraw", "Description", "Balance"]
    assert Decimal(rows[0][7]) * 10**8 == summary.balance
    assert [row[2] for row in rows] == sorted((row[2] for row in rows), reverse=True)
    balance = Decimal(0)
    for row in reversed(rows):
        balance += Decimal(row[4] or 0) - Decimal(row[5] or 0)
        assert balance == Decimal(row[7])
    assert len(list((tmp_path / "Receipts").iterdir())) == len(rows)


def test_names_are_odd_and_the_configuration_is_toml(tmp_path):
    generate_wallet(tmp_path, 100, seed=1)
    names = "".join(path.name for path in tmp_path.rglob("*"))
    assert all(part in names for part in ("  ", "'", '"', "#", ",", "☕", "東京", "Ивана"))
    assert tomllib.loads((tmp_path / "config.toml").read_text())["wallet"]["name"] == "Generated 1"


def test_a_seed_fixes_every_byte(tmp_path):
    generate_wallet(tmp_path / "a", 50, seed=7)
    generate_wallet(tmp_path / "b", 50, seed=7)
    generate_wallet(tmp_path / "c", 50, seed=8)
    first = contents(tmp_path / "a")
    assert first == contents(tmp_path / "b")
    assert first != contents(tmp_path / "c")
    assert {mode & 0o777 for mode, _, _ in first.values()} == {0o600}


@pytest.mark.parametrize("coins", [0, 1, 2, 9, 10, 11])
def test_small_wallets_have_as_many_coins_as_asked_for(tmp_path, coins):
    summary = generate_wallet(tmp_path, coins, seed=2)
    assert summary.coins == coins == len(list(tmp_path.rglob("*.bin")))
    assert is_wallet(tmp_path)


def test_the_counters_agree_with_the_summary(tmp_path):
    summary = generate_wallet(tmp_path, 200, seed=3)
    counters = WalletCounters()
    for path in tmp_path.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            counters.add(classify(os.fsencode(path.relative_to(tmp_path)), len(data), data[:SNIFF_SIZE]))
    money = sum(folder.coins for folder in summary.folders if folder.name in layout.MONEY_FOLDERS)
    assert counters == WalletCounters(coins_backed_up=200, money_files=money, files_added_plaintext=200)


def test_nothing_is_generated_over_something_else(tmp_path):
    (tmp_path / "kept").write_text("kept")
    for target in (tmp_path, tmp_path / "kept", tmp_path / "kept" / "below"):
        with pytest.raises(FailedPrecondition) as caught:
            generate_wallet(target, 5, seed=1)
        assert caught.value.reason is Reason.FOLDER_NOT_EMPTY
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    for coins in (-1, generate.MAX_COINS + 1):
        with pytest.raises(InvalidArgument):
            generate_wallet(tmp_path / "new", coins, seed=1)
    assert not (tmp_path / "new").exists()


def test_the_command_prints_a_summary(tmp_path, capsys):
    target = str(tmp_path / "w")
    assert generate.main([target, "--coins", "40", "--seed", "4"]) == 0
    out = capsys.readouterr().out
    assert "40 made-up coins, worthless" in out
    assert "Counterfeit" in out
    assert generate.main([target]) == 1
    assert "not an empty folder" in capsys.readouterr().err
