"""SIGKILL at random moments of exports of coins: each coin is in its folder, or exported and in one file, once.

HOLDFAST_COIN_KILLS sets how many kills there are, HOLDFAST_SEED their seed. A kill counts only when the task was alive.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.v1 import export_pb2, export_service_pb2, source_pb2, task_pb2
from holdfast_server.wallets.amounts import COIN
from tests.coin_wallets import find_coins, make_wallet
from tests.fault.test_kills import come_back, freeze_and_kill, run_time, wait_for_moment
from tests.harness import PATIENCE, Server

KILLS = int(os.environ.get("HOLDFAST_COIN_KILLS", "2"))
SEED = int(os.environ.get("HOLDFAST_SEED", "2026"))
ROLES = ("worker", "all", "worker", "edge", "worker", "supervisor")
FORMS = (export_pb2.COIN_FILE_FORMAT_BIN, export_pb2.COIN_FILE_FORMAT_ZIP, export_pb2.COIN_FILE_FORMAT_STACK)


def start(server: Server, amount: str, folder: Path, form: int) -> task_pb2.Task:
    request = export_service_pb2.ExportCoinsRequest(
        source_id="wallet",
        amount=amount,
        folder=str(folder),
        format=form,  # type: ignore[arg-type]
    )
    return server.exports.ExportCoins(request, timeout=PATIENCE)


@pytest.mark.long
@pytest.mark.timeout(max(240, KILLS * 30))
def test_kills_at_random_moments_of_an_export(new_server: Callable[..., Server], tmp_path: Path) -> None:
    rng = random.Random(SEED + 7)
    wallet, out = tmp_path / "wallet", tmp_path / "out"
    out.mkdir()
    coins = make_wallet(wallet, [COIN] * 300 + [10 * COIN] * 100, [COIN] * 100)
    server = new_server()
    server.register(wallet, "wallet", kind=source_pb2.SOURCE_KIND_WALLET)
    undisturbed = server.ended(start(server, "150", out, FORMS[0]).task_id)
    assert undisturbed.state == task_pb2.TASK_STATE_COMPLETED, undisturbed
    duration = run_time(undisturbed)
    fired, tries, completed = 0, 0, 0
    while fired < KILLS:
        tries += 1
        assert tries <= KILLS * 10, "too many moments came too late"
        for folder in (wallet, out):
            shutil.rmtree(folder)
        out.mkdir()
        coins = make_wallet(wallet, [COIN] * 300 + [10 * COIN] * 100, [COIN] * 100, seed=tries)
        role = ROLES[fired % len(ROLES)]
        task_id = start(server, "1350", out, FORMS[fired % len(FORMS)]).task_id
        wait_for_moment(server, task_id, rng, duration)
        killed = freeze_and_kill(server, ["supervisor", "edge", "worker"] if role == "all" else [role], task_id)
        if killed:
            fired += 1
            come_back(server, role)
        task = server.ended(task_id)
        where = find_coins(wallet, out)
        where.assert_none_lost_or_doubled(coins)
        assert os.listdir(wallet / ".holdfast") == ["lock"]
        if task.state == task_pb2.TASK_STATE_FAILED:
            assert task.error.reason == "INTERRUPTED", task
            assert not where.outputs
            continue
        assert task.state == task_pb2.TASK_STATE_COMPLETED, task
        assert sum(coins[identity] for identity in where.outputs) == 1350 * COIN
        assert (wallet / "transactions.csv").read_text().count(task_id) == 1
        assert len(list((wallet / "Receipts").iterdir())) == 1
        completed += killed
    assert completed, "no killed export ever completed"
