from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdfast_server.wallets import layout


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.fixture
def wallet(tmp_path: Path) -> Path:
    for name in ("Bank", "Fracked"):
        (tmp_path / name).mkdir()
    for name in ("config.toml", "transactions.csv"):
        (tmp_path / name).touch()
    return tmp_path


def test_four_parts_make_a_wallet(wallet):
    with opened(wallet) as fd:
        assert layout.missing_parts(fd) == []
        assert layout.is_wallet(fd)


def test_an_empty_folder_misses_all(tmp_path):
    with opened(tmp_path) as fd:
        assert layout.missing_parts(fd) == ["transactions.csv", "config.toml", "Bank", "Fracked"]
        assert not layout.is_wallet(fd)


def test_links_and_wrong_kinds_do_not_count(wallet):
    (wallet / "Bank").rename(wallet / "elsewhere")
    (wallet / "Bank").symlink_to("elsewhere")
    (wallet / "Fracked").rmdir()
    (wallet / "Fracked").touch()
    (wallet / "config.toml").unlink()
    (wallet / "config.toml").mkdir()
    with opened(wallet) as fd:
        assert layout.missing_parts(fd) == ["config.toml", "Bank", "Fracked"]


def test_an_unreadable_folder_is_an_error_not_a_verdict(wallet):
    fd = os.open(wallet / "config.toml", os.O_RDONLY)
    try:
        with pytest.raises(NotADirectoryError):
            layout.is_wallet(fd)
    finally:
        os.close(fd)


def test_folder_lists_fit_together():
    assert len(layout.STANDARD_FOLDERS) == 19
    assert set(layout.MONEY_FOLDERS) < set(layout.MANDATORY_FOLDERS) < set(layout.STANDARD_FOLDERS)
    assert not set(layout.STANDARD_FOLDERS) & set(layout.LATER_FOLDERS)
    assert set(layout.MONEY_FOLDERS) < layout.COIN_FOLDERS
    assert "Receipts" not in layout.COIN_FOLDERS


@pytest.mark.parametrize(
    ("units", "text"),
    [(0, "0"), (1, "0.0000-0001"), (10**6, "0.01"), (10**11, "1,000"), (12_441 * 10**8 + 340, "12,441.0000-034")],
)
def test_amounts_in_names(units, text):
    assert layout.amount_text(units) == text


def test_the_documented_name():
    assert layout.single_coin_name(10**11, 7998, "From Ron") == "1,000 CloudCoin #7998 'From Ron'.bin"
    assert layout.single_coin_name(10**6, 1) == "0.01 CloudCoin #1 ''.bin"
    with pytest.raises(ValueError, match="tag"):
        layout.single_coin_name(1, 1, "../x")
