"""SIGKILL while a wallet is restored as a new one: either no wallet, or the whole one, registered once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.v1 import credentials_pb2, restore_pb2, source_pb2, source_service_pb2, task_pb2, wallet_service_pb2
from holdfast_server.wallets.generate import generate_wallet
from tests.fault.test_kills import come_back, freeze_and_kill
from tests.harness import PATIENCE, Server, snapshot, until
from tests.restored_wallets import PASSWORD

KILLS = int(os.environ.get("HOLDFAST_KILLS", "2"))
PHASES = ("extracting", "counting coins", "syncing")
TRIES = 30
COINS = 700

MakeServer = Callable[..., Server]


@pytest.mark.long
@pytest.mark.timeout(300)
def test_kills_while_a_new_wallet_is_restored(new_server: MakeServer, tmp_path: Path) -> None:
    """Without a secret the task goes on by itself; with a password it ends, because nothing keeps that."""
    wallet = tmp_path / "wallet"
    generate_wallet(wallet, COINS, 3)
    wanted = snapshot(wallet)
    (tmp_path / "archives").mkdir()
    server = new_server()
    server.register(wallet, "wallet", kind=source_pb2.SOURCE_KIND_WALLET)
    plain = server.backup_of(server.backup("wallet", tmp_path / "archives", tar=True)).backup_id
    unlock = wallet_service_pb2.UnlockWalletRequest(source_id="wallet", password=PASSWORD)
    server.wallets.UnlockWallet(unlock, timeout=PATIENCE)
    encrypted = server.backup_of(server.backup("wallet", tmp_path / "archives", tar=True)).backup_id

    for number in range(max(KILLS // 3, 1)):
        phase = PHASES[number % len(PHASES)]
        with_password = number % 3 == 1
        for attempt in range(TRIES):
            target = tmp_path / f"back-{number}-{attempt}"
            task_id = server.start_restore(
                encrypted if with_password else plain,
                target,
                new_wallet=restore_pb2.NewWalletTarget(source_id=f"new-{number}-{attempt}"),
                credentials=credentials_pb2.Credentials(wallet_password=PASSWORD) if with_password else None,
            ).task_id
            if until(lambda: _phase_or_end(server, task_id, phase), "the phase", pause=0.001) and freeze_and_kill(  # noqa: B023
                server, ["worker"], task_id
            ):
                break
            server.ended(task_id)
        else:
            raise AssertionError(f"every kill in phase {phase} came too late")
        come_back(server, "worker")
        task = server.ended(task_id)
        sources = server.sources.ListSources(source_service_pb2.ListSourcesRequest(page_size=1000), timeout=PATIENCE)
        paths = [source.path for source in sources.sources]
        if task.state == task_pb2.TASK_STATE_COMPLETED:
            assert snapshot(target) == wanted
            assert paths.count(str(target)) == 1
            assert task.restore_result.restored_coins.total.coins == COINS
        else:
            assert (with_password, task.error.reason) == (True, "KEY_REQUIRED"), task
            assert not target.exists() or not os.listdir(target)
            assert str(target) not in paths


def _phase_or_end(server: Server, task_id: str, phase: str) -> str | None:
    """The phase once it is reached, or any end of the task."""
    row = server.task_row(task_id)
    if row["state"] not in ("PENDING", "RUNNING"):
        return "ended"
    return phase if f'"{phase}"' in str(row["progress"]) else None
