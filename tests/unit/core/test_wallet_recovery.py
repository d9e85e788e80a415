"""What dead tasks left in a wallet is settled by the next, whichever of both kinds that is."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_server.core import coin_reserve
from holdfast_server.core.coin_journal import ExportJournal, ExportState, ReservedCoin
from holdfast_server.core.control import Problem
from holdfast_server.core.wallet_folder import WalletFolder
from holdfast_server.core.wallet_recovery import settle_others
from holdfast_server.storage.folder import open_folder
from holdfast_server.wallets.amounts import COIN
from tests.coin_wallets import find_coins, make_wallet

OWN = str(uuid.uuid4())


@pytest.fixture
def wallet(tmp_path: Path) -> Iterator[WalletFolder]:
    make_wallet(tmp_path / "wallet", [COIN] * 4)
    with open_folder(os.fsencode(tmp_path / "wallet")) as root:
        yield WalletFolder(root)


def reserve(wallet: WalletFolder, folder: Path, state: ExportState = ExportState.RESERVED) -> ExportJournal:
    """An export that died with all of Bank in its hands."""
    names = sorted(os.listdir(os.path.join(wallet.root.path, b"Bank")))
    coins = [ReservedCoin(b"Bank", name, COIN, bytes(32)) for name in names]
    journal = ExportJournal(str(uuid.uuid4()), 1, "w", 4 * COIN, os.fsencode(folder), 0, state=state, coins=coins)
    journal.save(wallet)
    assert coin_reserve.take(wallet, journal)
    return journal


def stage(root: Path) -> str:
    """An import that died before it committed."""
    task_id = str(uuid.uuid4())
    staging = root / ".holdfast" / f"import-{task_id}.1"
    staging.mkdir(parents=True)
    (staging / "00000000").write_bytes(b"a copy")
    return task_id


def settled(wallet: WalletFolder, *live: str) -> list[str]:
    told: list[Problem] = []
    settle_others(wallet, OWN, live.__contains__, told.append)
    return [problem.reason for problem in told]


def test_both_kinds_at_once(wallet: WalletFolder, tmp_path: Path) -> None:
    root = tmp_path / "wallet"
    (tmp_path / "out").mkdir()
    before = find_coins(root, tmp_path / "out")
    reserve(wallet, tmp_path)
    stage(root)
    assert os.listdir(root / "Bank") == []
    assert settled(wallet) == ["EXPORT_UNDONE", "IMPORT_SETTLED"]
    assert find_coins(root, tmp_path / "out") == before
    assert os.listdir(root / ".holdfast") == []
    assert settled(wallet) == []


def test_what_somebody_goes_on_with_is_left_alone(wallet: WalletFolder, tmp_path: Path) -> None:
    root = tmp_path / "wallet"
    live = [reserve(wallet, tmp_path).task_id, stage(root)]
    assert settled(wallet, *live) == []
    assert os.listdir(root / "Bank") == []
    assert len(os.listdir(root / ".holdfast")) == 3


def test_a_committed_export_is_told_and_kept(wallet: WalletFolder, tmp_path: Path) -> None:
    journal = reserve(wallet, tmp_path, ExportState.COMMITTED)
    for _ in range(2):
        assert settled(wallet) == ["EXPORT_UNFINISHED"]
    assert len(os.listdir(tmp_path / "wallet" / ".holdfast" / os.fsdecode(journal.reserve) / "Bank")) == 4


def test_a_damaged_journal_is_told_and_its_coins_stay(wallet: WalletFolder, tmp_path: Path) -> None:
    journal = reserve(wallet, tmp_path)
    path = tmp_path / "wallet" / ".holdfast" / f"export-{journal.task_id}.json"
    path.write_text(json.dumps({"version": 1}))
    assert settled(wallet) == ["CHECKSUM_MISMATCH"]
    assert path.exists()
    assert len(os.listdir(tmp_path / "wallet" / ".holdfast" / os.fsdecode(journal.reserve) / "Bank")) == 4
