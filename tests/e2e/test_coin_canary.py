"""Authenticity numbers are nowhere but in the wallet and in what an export was asked to write.

Every number of the wallet carries one marker. It is looked for in each archive, the catalog with the queue's tables,
the log, and every file the service's processes made, raw, as text, inside compressed streams and in decoded values.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from holdfast.v1 import backup_pb2, export_pb2, export_service_pb2, source_pb2, task_pb2, wallet_service_pb2
from holdfast_server.wallets.generate import generate_wallet
from tests.canary import Canary
from tests.coins import second_writer
from tests.harness import PATIENCE, Server, until
from tests.keys import PUBLIC

MARKER = bytes.fromhex("7ed1f03ab95c")
CANARY = Canary(MARKER)
PASSWORD = "what opens the purse"
FORMATS = [
    backup_pb2.ARCHIVE_FORMAT_ZIP,
    backup_pb2.ARCHIVE_FORMAT_TAR_GZ,
    backup_pb2.ARCHIVE_FORMAT_TAR_ZST,
]
FORMS = [
    export_pb2.COIN_FILE_FORMAT_ZIP,
    export_pb2.COIN_FILE_FORMAT_STACK,
    export_pb2.COIN_FILE_FORMAT_PNG,
    export_pb2.COIN_FILE_FORMAT_BIN,
]


def marked(rng: Random) -> bytes:
    """25 numbers that begin and end with the marker."""
    return b"".join(MARKER + rng.randbytes(4) + MARKER for _ in range(25))


def make_wallet(path: Path, seed: int) -> Path:
    """A wallet with marked coins in every container, in every kind of folder, and in a recovery journal."""
    rng = Random(seed)
    generate_wallet(path, 0, seed)

    def coin(serial: int, denomination: int = 0, generation: str = "V3") -> dict:
        numbers = marked(rng)
        return {
            "generation": generation, "serial": serial, "ans": numbers, "pans": b"", "pown": "p" * 25,
            "network": 1, "denomination": denomination, "split": 0, "shard": 0,
        }  # fmt: skip

    def put(name: str, content: bytes) -> None:
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(content)

    for serial in range(1, 13):
        put(f"Bank/1 CloudCoin #{serial} ''.bin", second_writer.format9([coin(serial)]))
    for serial in range(21, 25):
        put(f"Fracked/10 CloudCoin #{serial} ''.bin", second_writer.format9([coin(serial, 1)]))
    put("Bank/old.stack", second_writer.stack([second_writer.stack_entry(coin(2_097_200, generation="V1"))]))
    put("Limbo/picture.png", second_writer.png(second_writer.format9([coin(31)])))
    put("Import/photo.jpg", second_writer.jpeg(coin(41, generation="V1")))
    put("Import/two.bin", second_writer.ccv2([coin(51, generation="V2"), coin(52, generation="V2")]))
    put("Export/many.bin", second_writer.format9([coin(61), coin(62)]))
    put("Trash/all.zip", second_writer.zipped([("a.bin", second_writer.format9([coin(71)]))]))
    put("Gallery/torn.bin", second_writer.format9([coin(81)])[:-9])
    put("Gallery/key.key", b"\n".join(marked(rng)[at : at + 16].hex().encode() for at in range(0, 400, 16)))
    put("Recovery/journal.txt", b"converting " + marked(rng).hex().encode())
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "tmp").mkdir()
    with Server(tmp_path / "server", environment={"TMPDIR": str(tmp_path / "tmp")}) as started:
        started.register(make_wallet(tmp_path / "purse", 1), "purse", kind=source_pb2.SOURCE_KIND_WALLET)
        started.register(make_wallet(tmp_path / "till", 2), "till", kind=source_pb2.SOURCE_KIND_WALLET)
        until(lambda: started.rows("SELECT owner FROM workers"), "a worker")
        yield started


def assert_nowhere(server: Server, *folders: Path) -> None:
    """What the service keeps, and the folders given; the log and the temporary folder are the service's too."""
    names = {path.name for path in server.base.rglob("*")}
    assert {"state.sqlite", "server.log"} <= names
    assert CANARY.search(server.base, server.base.parent / "tmp", *folders) == []


@pytest.mark.long
def test_backups_of_an_unlocked_wallet_hold_no_number(server: Server, tmp_path: Path) -> None:
    purse, clear, vault = tmp_path / "purse", tmp_path / "clear", tmp_path / "vault"
    coins = [path for path in purse.rglob("*") if path.is_file() and CANARY.search(path)]
    assert len(coins) >= 25
    assert server.backup("purse", clear, create_folder=True).state == task_pb2.TASK_STATE_COMPLETED
    # The search finds what is there: everything of the locked wallet's backup, which stays as it was made.
    assert len({found.place for found in CANARY.search(clear)}) >= len(coins)

    server.unlock("purse", PASSWORD)
    for number, archive_format in enumerate(FORMATS):
        task = server.backup("purse", vault, archive_format=archive_format, create_folder=True, tag=str(number))
        assert task.state == task_pb2.TASK_STATE_COMPLETED
        assert task.backup_result.files_added_plaintext == 0
        assert task.backup_result.files_reencrypted == len(coins)
    sealed = server.backup("purse", vault, create_folder=True, tag="sealed", recipients=[PUBLIC])
    assert sealed.state == task_pb2.TASK_STATE_COMPLETED
    assert len([path for path in vault.iterdir() if not path.name.endswith(".json")]) == 4
    assert_nowhere(server, vault)

    # Nor do those that never came to an end.
    for _ in range(3):
        task_id = server.create("purse", vault, tag="killed").task_id
        assert server.signal("worker", signal.SIGKILL)
        server.ended(task_id)
        until(lambda: server.rows("SELECT owner FROM workers"), "a worker")
    server.cancel(server.create("purse", vault, tag="cancelled").task_id)
    assert_nowhere(server, vault)


@pytest.mark.long
def test_exports_and_imports_leave_no_number_behind(server: Server, tmp_path: Path) -> None:
    out, sealed, vault = tmp_path / "out", tmp_path / "sealed", tmp_path / "vault"
    for form in FORMS:
        task = server.ended(start_export(server, "2", out, form))
        assert task.state == task_pb2.TASK_STATE_COMPLETED, task.error
        assert server.ended(start_export(server, "1", sealed, form, PUBLIC)).state == task_pb2.TASK_STATE_COMPLETED
    assert len({found.place.split(" > ")[0] for found in CANARY.search(out)}) == len(FORMS)
    assert_nowhere(server, sealed)

    killed = start_export(server, "10", out, FORMS[0])
    assert server.signal("worker", signal.SIGKILL)
    assert server.ended(killed).state == task_pb2.TASK_STATE_COMPLETED
    assert server.import_coins("till", out).state == task_pb2.TASK_STATE_COMPLETED
    request = wallet_service_pb2.ListCoinsRequest(source_id="till", page_size=1000)
    assert len(server.wallets.ListCoins(request, timeout=PATIENCE).coins) > 20
    server.wallets.GetBalance(wallet_service_pb2.GetBalanceRequest(source_id="till"), timeout=PATIENCE)
    assert_nowhere(server, sealed)

    # What an import and an export left in the wallet's own folders is encrypted in its backup like the rest.
    server.unlock("till", PASSWORD)
    assert server.backup("till", vault, create_folder=True).state == task_pb2.TASK_STATE_COMPLETED
    server.unlock("purse", PASSWORD)
    assert server.backup("purse", vault).state == task_pb2.TASK_STATE_COMPLETED
    assert_nowhere(server, sealed, vault)
    assert os.listdir(tmp_path / "tmp") == []


def start_export(server: Server, amount: str, folder: Path, form: int, *recipients: str) -> str:
    request = export_service_pb2.ExportCoinsRequest(
        source_id="purse",
        amount=amount,
        folder=str(folder),
        create_folder=True,
        format=form,  # type: ignore[arg-type]
        age_recipients=recipients,
    )
    return str(server.exports.ExportCoins(request, timeout=PATIENCE).task_id)
