"""Imports through a running server: over gRPC, the Python client and the command line."""

from __future__ import annotations

import json
import os
import random
import shutil
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import pytest

import holdfast
from holdfast.cli import main
from holdfast.v1 import source_pb2, task_pb2, wallet_service_pb2
from holdfast_server.wallets.coin import Coin, Generation
from holdfast_server.wallets.envelope import KeyParameters, WalletKey, encrypt
from holdfast_server.wallets.generate import generate_wallet
from tests.coin_files import contents, held, identities, make_coins, pack, put
from tests.harness import PATIENCE, Failure, Server, failure_of

COMPLETED, WARNED, FAILED = (
    task_pb2.TASK_STATE_COMPLETED,
    task_pb2.TASK_STATE_COMPLETED_WITH_WARNINGS,
    task_pb2.TASK_STATE_FAILED,
)
PASSWORD = "correct horse"


class Place:
    """A registered wallet, and coins to take in."""

    def __init__(self, server: Server, base: Path, coins: int = 20) -> None:
        self.server, self.base, self.root = server, base, base / "wallet"
        generate_wallet(self.root, coins, 3)
        for path in (self.root / "Import").iterdir():
            path.unlink()
        self.source_id = f"w-{uuid.uuid4().hex[:12]}"
        server.register(self.root, self.source_id, kind=source_pb2.SOURCE_KIND_WALLET)
        self.rng = random.Random(5)
        self.before = held(self.root)

    def give(self, kind: str, coins: list[Coin], name: str, where: Path | None = None) -> Path:
        ending, content = pack(kind, coins)
        return put((where or self.root / "Import") / (name + ending), content)

    def refused(self, **values: Any) -> Failure:
        fields = {"source_id": self.source_id, **values}
        with pytest.raises(grpc.RpcError) as caught:
            self.server.wallets.ImportCoins(wallet_service_pb2.ImportCoinsRequest(**fields), timeout=PATIENCE)
        failure = failure_of(caught.value)
        assert failure.infos == 1
        return failure

    def names(self, folder: str) -> list[str]:
        return sorted(os.listdir(self.root / folder))


@pytest.fixture
def place(shared_server: Server, tmp_path: Path) -> Place:
    return Place(shared_server, tmp_path)


def test_everything_at_once(place: Place) -> None:
    new = make_coins(place.rng, 6)
    old = make_coins(place.rng, 2, Generation.V1) + make_coins(place.rng, 2, Generation.V2)
    place.give("own", new[:2], "several")
    place.give("zip", new[1:4], "zipped")
    place.give("own", new[:1], "z again")
    place.give("stack", old[:2], "old")
    place.give("png", old[2:], "picture", place.base / "out")
    place.give("own", new[4:], "outside", place.base / "out")
    put(place.root / "Import" / "note.txt", b"no coins")
    originals = contents(place.root / "Import", place.base / "out")

    planned = place.server.import_coins(place.source_id, place.root / "Import", place.base / "out", dry_run=True)
    assert not (place.root / ".holdfast").exists()
    task = place.server.import_coins(place.source_id, place.root / "Import", place.base / "out")
    assert task.state == WARNED, task
    assert task.kind == task_pb2.TASK_KIND_IMPORT_COINS
    result = task.import_coins_result
    assert planned.import_coins_result == result
    assert (result.source_id, result.folder) == (place.source_id, "Suspect")
    total = sum(coin.value for coin in (*new, *old))
    assert (result.imported.coins, Decimal(result.imported.amount) * 10**8) == (10, total)
    assert (result.duplicates.coins, Decimal(result.duplicates.amount) * 10**8) == (2, new[0].value + new[1].value)
    assert (result.files_read, result.files_moved, result.files_duplicate, result.files_corrupted) == (6, 5, 1, 1)
    assert list(result.problem_files) == ["Import/note.txt"]
    (problem,) = place.server.problems(task.task_id)
    assert (problem.path, problem.reason, problem.source_id) == ("Import/note.txt", "CORRUPTED", place.source_id)
    assert task.warning_count == 1

    assert held(place.root) == place.before + identities([*new, *old])
    after = contents(place.root, place.base / "out")
    assert all(after[digest] >= count for digest, count in originals.items())
    assert place.names("Import") == []
    balance = place.server.wallets.GetBalance(wallet_service_pb2.GetBalanceRequest(source_id=place.source_id))
    assert {one.folder: one.total.coins for one in balance.folders}["Suspect"] == 10
    assert balance.reserved.coins == 0

    again = place.server.import_coins(place.source_id, place.base / "out").import_coins_result
    assert (again.imported.coins, again.duplicates.coins) == (0, 4)
    assert held(place.root) == place.before + identities([*new, *old])


def test_coins_go_from_one_wallet_into_another_in_every_container(place: Place) -> None:
    """As an export packs them; the second wallet holds the same identities."""
    for kind in ("own", "stack", "png", "zip"):
        for generation in Generation:
            coins = make_coins(place.rng, 3, generation)
            before = held(place.root)
            task = place.server.import_coins(place.source_id, place.give(kind, coins, kind, place.base / "out"))
            assert task.state == COMPLETED, task
            assert held(place.root) == before + identities(coins)


def test_encrypted_coins_open_with_the_password_or_while_the_wallet_is_unlocked(place: Place) -> None:
    coins = make_coins(place.rng, 3)
    key = WalletKey.derive(PASSWORD, KeyParameters(os.urandom(16), memory_kib=64, passes=1, lanes=1))
    sealed = [encrypt(pack("own", [coin])[1], key) for coin in coins]
    first = put(place.base / "out" / "1.bin.hfcc", sealed[0])
    locked = place.server.import_coins(place.source_id, first)
    assert (locked.state, locked.import_coins_result.files_encrypted) == (WARNED, 1)
    assert held(place.root) == place.before
    credentials = {"wallet_password": PASSWORD}
    task = place.server.import_coins(place.source_id, first, credentials=credentials)
    assert (task.state, task.import_coins_result.imported.coins) == (COMPLETED, 1)

    # Encrypted coins in the wallet itself, which cannot be compared without their key.
    put(place.root / "Bank" / "2.bin.hfcc", sealed[1])
    plain = place.give("own", coins[1:], "plain", place.base / "out")
    failed = place.server.import_coins(place.source_id, plain)
    assert (failed.state, failed.error.reason) == (FAILED, "KEY_REQUIRED")
    wrong = place.server.import_coins(place.source_id, plain, credentials={"wallet_password": "wrong"})
    assert (wrong.state, wrong.error.reason) == (FAILED, "KEY_WRONG")
    place.server.wallets.UnlockWallet(
        wallet_service_pb2.UnlockWalletRequest(source_id=place.source_id, password=PASSWORD), timeout=PATIENCE
    )
    task = place.server.import_coins(place.source_id, plain)
    assert task.state == COMPLETED, task
    assert (task.import_coins_result.imported.coins, task.import_coins_result.duplicates.coins) == (1, 1)
    assert held(place.root) == place.before + identities([coins[0], coins[2]])


def test_refusals(place: Place, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    place.server.register(tmp_path / "plain", f"plain-{place.source_id}")
    link = tmp_path / "link.bin"
    link.symlink_to("/etc/passwd")
    for values, name, field in (
        ({"source_id": "nobody"}, "NOT_FOUND/SOURCE_NOT_FOUND", None),
        ({"source_id": f"plain-{place.source_id}"}, "FAILED_PRECONDITION/NOT_A_WALLET", None),
        ({"paths": ["relative.bin"]}, "INVALID_ARGUMENT/INVALID_FIELD", "paths[0]"),
        ({"paths": [str(place.root), str(tmp_path / "missing")]}, "INVALID_ARGUMENT/INVALID_FIELD", "paths[0]"),
        ({"paths": [str(tmp_path / "missing")]}, "FAILED_PRECONDITION/FILE_NOT_FOUND", None),
        ({"paths": [str(link)]}, "FAILED_PRECONDITION/FILE_NOT_FOUND", None),
        ({"paths": [str(place.server.data_dir)]}, "FAILED_PRECONDITION/FOLDER_INSIDE_DATA_DIR", None),
        ({"folder": "Exported"}, "INVALID_ARGUMENT/INVALID_FIELD", "folder"),
        ({"folder": "../Bank"}, "INVALID_ARGUMENT/INVALID_FIELD", "folder"),
        ({"credentials": {"age_identity": "x"}}, "INVALID_ARGUMENT/INVALID_FIELD", "credentials.age_identity"),
        ({"request_id": "x"}, "INVALID_ARGUMENT/INVALID_FIELD", "request_id"),
    ):
        failure = place.refused(**values)  # type: ignore[arg-type]
        assert (failure.name, failure.fields) == (name, [field] if field else []), values
    assert held(place.root) == place.before


def test_roots_hold_for_imports_too(new_server: Any, tmp_path: Path) -> None:
    server = new_server(environment={"HOLDFAST_PATHS_ROOTS": str(tmp_path / "inside")})
    (tmp_path / "inside").mkdir()
    place = Place(server, tmp_path / "inside")
    out = place.give("own", make_coins(place.rng, 1), "x", tmp_path / "outside")
    for path in (out, out.parent, tmp_path / "outside" / "missing"):
        assert place.refused(paths=[str(path)]).name == "PERMISSION_DENIED/PATH_NOT_ALLOWED"


def test_the_same_request_is_one_import(place: Place) -> None:
    request_id = str(uuid.uuid4())
    place.give("own", make_coins(place.rng, 2), "x")
    first = place.server.start_import(place.source_id, request_id=request_id)
    again = place.server.start_import(
        place.source_id, request_id=request_id, folder="Suspect", credentials={"wallet_password": "any"}
    )
    assert first.task_id == again.task_id
    assert place.refused(request_id=request_id, folder="Bank").name == "ALREADY_EXISTS/REQUEST_ID_REUSED"
    assert place.server.ended(first.task_id).import_coins_result.imported.coins == 2


def test_imports_and_backups_of_one_wallet_take_turns(place: Place) -> None:
    archives = place.base / "archives"
    archives.mkdir()
    coins = make_coins(place.rng, 60)
    tasks = []
    for number in range(3):
        batch = place.give("own", coins[number * 20 : number * 20 + 20], f"batch {number}", place.base / "out")
        tasks.append(place.server.create(place.source_id, archives).task_id)
        tasks.append(place.server.start_import(place.source_id, batch).task_id)
    assert [place.server.ended(task_id).state for task_id in tasks] == [COMPLETED] * 6
    assert held(place.root) == place.before + identities(coins)
    # Each backup holds the wallet as it was between two imports.
    for number, task_id in enumerate(tasks[::2]):
        backup = place.server.backup_of(place.server.get(task_id))
        place.server.restore(backup.backup_id, place.base / f"back{number}")
        assert held(place.base / f"back{number}") == place.before + identities(coins[: number * 20])


def test_hostile_files_in_import(place: Place) -> None:
    coins = make_coins(place.rng, 2)
    os.mkfifo(place.root / "Import" / "pipe")
    os.symlink("/etc/shadow", place.root / "Import" / "shadow.bin")
    (place.root / "Import" / "folder").mkdir()
    put(Path(os.fsdecode(os.fsencode(place.root) + b"/Import/odd \xff.bin")), pack("own", coins[:1])[1])
    put(place.root / "Import" / ("n" * 251 + ".bin"), pack("own", coins[1:])[1])
    put(place.root / "Import" / "bomb.zip", _bomb(place.base))
    task = place.server.import_coins(place.source_id)
    assert task.state == WARNED, task
    assert task.import_coins_result.imported.coins == 2
    assert held(place.root) == place.before + identities(coins)
    assert place.names("Import") == ["folder", "pipe", "shadow.bin"]
    assert place.names("Corrupted") == ["bomb.zip"]


def _bomb(base: Path) -> bytes:
    import zipfile

    with zipfile.ZipFile(base / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("coins.stack", b"\0" * (80 << 20))
    return (base / "bomb.zip").read_bytes()


def test_no_authenticity_number_gets_out(place: Place) -> None:
    coins = make_coins(place.rng, 3)
    place.give("stack", coins, "x")
    broken = pack("stack", make_coins(place.rng, 2))[1]
    put(place.root / "Import" / "broken.stack", broken[: len(broken) // 2])
    task = place.server.import_coins(place.source_id)
    assert task.state == WARNED
    journal = b"".join(path.read_bytes() for path in place.server.data_dir.rglob("*") if path.is_file())
    seen = journal.lower() + place.server.log().encode().lower() + task.SerializeToString().lower()
    for coin in coins:
        for at in range(0, 400, 16):
            assert coin.ans[at : at + 16].hex().encode() not in seen
            assert coin.ans[at : at + 16] not in journal


def test_client_and_command_line(place: Place, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    coins = make_coins(place.rng, 4)
    place.give("own", coins[:2], "x")
    with holdfast.connect(place.server.address, token=place.server.token) as client:
        handle = client.wallets.import_coins(place.source_id)
        result = handle.result()
    assert isinstance(result, holdfast.ImportCoinsResult)
    assert (result.imported.coins, result.files_moved) == (2, 1)
    assert result.imported.amount == Decimal(coins[0].value + coins[1].value) / 10**8

    key = WalletKey.derive(PASSWORD, KeyParameters(os.urandom(16), memory_kib=64, passes=1, lanes=1))
    sealed = put(tmp_path / "out" / "y.bin.hfcc", encrypt(pack("own", coins[1:])[1], key))
    (tmp_path / "password").write_text(PASSWORD + "\n")
    options = ["--data-dir", str(place.server.data_dir)]
    command = [*options, "wallet", "import", place.source_id, str(sealed)]
    assert main([*command, "--dry-run"]) == 3
    out = capsys.readouterr().out
    assert "would take 0 coins" in out
    assert "encrypted, and left where it was" in out
    assert str(sealed) in out
    assert main([*command, "--password-file", str(tmp_path / "password"), "--folder", "Grade"]) == 0
    out = capsys.readouterr().out
    assert "took 2 coins" in out
    assert f"into Grade of {place.source_id}" in out
    assert "1 coin, " in out
    assert len(place.names("Grade")) == 2
    assert main([*options, "--json", "wallet", "import", place.source_id]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    last = next(line for line in reversed(lines) if line["type"] == "task")
    assert last["result"]["imported"]["coins"] == 0
    shutil.rmtree(place.root / "Import")
    assert main([*options, "wallet", "import", place.source_id]) == 1


def test_a_watch_of_an_import_ends_with_its_result(place: Place) -> None:
    for number, coin in enumerate(make_coins(place.rng, 200)):
        place.give("own", [coin], str(number))
    task = place.server.start_import(place.source_id)
    rule = place.server.watch(task.task_id)
    assert rule.last.task.import_coins_result.imported.coins == 200
    assert rule.last.task.progress.percent == 100
    assert rule.last.task.message.startswith("took 200 coins, ")
