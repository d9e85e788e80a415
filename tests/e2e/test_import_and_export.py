"""What one wallet exports another one takes in; and both at once on one wallet."""

from __future__ import annotations

import random
import uuid
from pathlib import Path

import pytest

from holdfast.v1 import export_pb2, export_service_pb2, source_pb2, task_pb2
from holdfast_server.core.control import Control
from holdfast_server.core.holdings import read_holdings
from holdfast_server.storage.folder import open_folder
from holdfast_server.wallets.amounts import COIN
from holdfast_server.wallets.coin_file import read_coin_file
from holdfast_server.wallets.envelope import Keyring
from tests.coin_files import held, identities, make_coins, pack, put
from tests.coin_wallets import make_wallet
from tests.harness import PATIENCE, Server

COMPLETED = task_pb2.TASK_STATE_COMPLETED
FORMATS = {
    "BIN": export_pb2.COIN_FILE_FORMAT_BIN,
    "PNG": export_pb2.COIN_FILE_FORMAT_PNG,
    "ZIP": export_pb2.COIN_FILE_FORMAT_ZIP,
}


class Wallet:
    """A registered wallet of tens and ones."""

    def __init__(self, server: Server, root: Path, seed: int = 1) -> None:
        self.server, self.root = server, root
        make_wallet(root, [10 * COIN] * 8 + [COIN] * 12, seed=seed)
        self.source_id = f"w-{uuid.uuid4().hex[:12]}"
        server.register(root, self.source_id, kind=source_pb2.SOURCE_KIND_WALLET)

    def start_export(self, folder: Path, amount: str, kind: int) -> str:
        request = export_service_pb2.ExportCoinsRequest(
            source_id=self.source_id, folder=str(folder), create_folder=True, amount=amount, format=kind
        )
        return str(self.server.exports.ExportCoins(request, timeout=PATIENCE).task_id)


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_exported_is_taken_in_elsewhere(shared_server: Server, tmp_path: Path, kind: str) -> None:
    giver, taker = Wallet(shared_server, tmp_path / "giver", 1), Wallet(shared_server, tmp_path / "taker", 2)
    before, given = held(taker.root), held(giver.root)
    task = shared_server.ended(giver.start_export(tmp_path / "out", "34", FORMATS[kind]))
    assert task.state == COMPLETED, task
    moved = given - held(giver.root)
    assert moved.total() == task.export_coins_result.coins == 7
    taken = shared_server.import_coins(taker.source_id, tmp_path / "out")
    assert taken.state == COMPLETED, taken
    assert held(taker.root) == before + moved
    assert taken.import_coins_result.imported.amount == "34"
    # And back again: the giver has exported them, so it holds them no more.
    back = shared_server.import_coins(giver.source_id, tmp_path / "out")
    assert back.import_coins_result.imported.coins == 7
    assert held(giver.root) == given


def test_imports_and_exports_of_one_wallet_take_turns(shared_server: Server, tmp_path: Path) -> None:
    wallet = Wallet(shared_server, tmp_path / "wallet")
    rng = random.Random(3)
    coins, tasks = make_coins(rng, 30), []
    start = held(wallet.root)
    for number in range(3):
        batch = put(tmp_path / f"in{number}.bin", pack("own", coins[number * 10 : number * 10 + 10])[1])
        tasks.append(shared_server.start_import(wallet.source_id, batch).task_id)
        tasks.append(wallet.start_export(tmp_path / "out", "12", FORMATS["BIN"]))
    assert [shared_server.ended(task_id).state for task_id in tasks] == [COMPLETED] * 6
    out = [coin for path in sorted((tmp_path / "out").iterdir()) for coin in read_coin_file(path.read_bytes()).coins]
    assert len(out) == 9
    assert held(wallet.root) + identities(out) == start + identities(coins)
    with open_folder(str(wallet.root)) as root:
        found = read_holdings(root.fd, Keyring(), Control(), lambda _: None, lambda _: None)
    assert found.identities == set(held(wallet.root))
