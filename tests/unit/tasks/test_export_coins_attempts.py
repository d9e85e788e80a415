"""Exports of coins whose attempts are killed at any line, cancelled, resumed: no coin is ever lost or doubled."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pyrage
import pytest

from holdfast_server.catalog import schema
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import SourceKind, TaskRow, TaskState
from holdfast_server.core import coin_export, coin_journal, coin_outputs, coin_reserve, wallet_folder, wallet_history
from holdfast_server.errors import FailedPrecondition, InvalidArgument, Reason
from holdfast_server.storage import local
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks import export_coins
from holdfast_server.tasks.credentials import Credentials
from holdfast_server.tasks.engine import TaskEngine
from holdfast_server.tasks.export_coins import ExportCoinsHandler
from holdfast_server.tasks.export_coins_orders import ExportCoinsOrder, ExportCoinsOrders
from holdfast_server.tasks.sources import SourceOrder, SourceRegistry
from holdfast_server.wallets import format9
from holdfast_server.wallets.amounts import COIN
from holdfast_server.wallets.coin import Generation
from holdfast_server.wallets.coin_file import read_coin_file
from holdfast_server.wallets.envelope import KeyParameters, WalletKey, encrypt
from holdfast_server.wallets.packing import CoinForm
from tests.coin_wallets import find_coins, make_coin, make_wallet, write_coin
from tests.harness import sha256_of, snapshot, until
from tests.keys import PRIVATE, PUBLIC
from tests.unit.tasks.conftest import LEASE, World

KILLS = int(os.environ.get("HOLDFAST_COIN_KILLS", "5"))
SEED = int(os.environ.get("HOLDFAST_SEED", "2026"))
MODULES = (
    coin_export, coin_journal, coin_outputs, coin_reserve, wallet_folder, wallet_history, local, export_coins,
)  # fmt: skip
FILES = frozenset(str(module.__file__) for module in MODULES)


class NearReader:
    """The reader process without the process."""

    def run(self, function: Callable[..., Any], *arguments: Any, wanted: Any = None) -> Any:
        return function(*arguments)


class Fixture:
    def __init__(self, world: World, base: Path) -> None:
        self.world, self.base = world, base
        (base / "data").mkdir(exist_ok=True)
        self.wallet, self.out = base / "wallet", base / "out"
        self.policy = FolderPolicy(str(base / "data"), ["/"])
        self.handler = ExportCoinsHandler(world.database, self.policy, world.clock)
        world.handler = self.handler  # type: ignore[assignment]
        keys = world.wallet_keys(self.policy)
        self.orders = ExportCoinsOrders(world.engine, self.policy, NearReader(), keys, world.clock)  # type: ignore[arg-type]
        self.made = 0
        self.coins: dict[bytes, int] = {}

    def fill(self, bank: list[int], fracked: list[int] | None = None, seed: int = 1) -> None:
        """A new wallet in place of the one before."""
        known = self.wallet.exists()
        for folder in (self.wallet, self.out):
            shutil.rmtree(folder, ignore_errors=True)
        self.coins = make_wallet(self.wallet, bank, fracked or [], seed)
        self.out.mkdir()
        if known:
            return
        registry = SourceRegistry(self.world.database, self.policy, self.world.clock)
        registry.register(SourceOrder(os.fsencode(self.wallet), SourceKind.WALLET, "wallet"), None)

    def ask(self, amount: str, form: CoinForm = CoinForm.BIN, **values: Any) -> TaskRow:
        self.world.clock.step(1)
        credentials = values.pop("credentials", None)
        order = ExportCoinsOrder("wallet", amount, os.fsencode(values.pop("folder", self.out)), form, **values)
        return self.orders.create(order, "admin", None, credentials)

    def execute(self, task_id: str) -> str:
        self.made += 1
        return self.world.execute(task_id, self.world.new_worker(f"00000000-0000-0000-0000-{self.made + 100:012}"))

    def row(self, task_id: str) -> TaskRow:
        return self.world.row(task_id)

    def journal(self, task_id: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.wallet / ".holdfast" / f"export-{task_id}.json").read_text())
        return found

    def assert_tidy(self) -> None:
        """Every coin is accounted for, and nothing of an export is left."""
        find_coins(self.wallet, self.out).assert_none_lost_or_doubled(self.coins)
        service = self.wallet / ".holdfast"
        assert sorted(os.listdir(service)) in ([], ["lock"])
        assert [name for name in os.listdir(self.wallet) if name.endswith(".tmp")] == []

    def assert_exported(self, task_id: str) -> None:
        row = self.row(task_id)
        assert row.state == TaskState.COMPLETED, (row.state, row.error)
        assert row.result is not None
        exported = find_coins(self.wallet, self.out).exported
        amount = row.request["amount"]
        assert sum(self.coins[identity] for identity in exported) >= amount
        assert sum(file["coins"] for file in row.result["files"]) == row.result["coins"]
        table = (self.wallet / "transactions.csv").read_bytes()
        assert table.count(task_id.encode()) == 1
        receipts = [path for path in (self.wallet / "Receipts").iterdir() if task_id in path.read_text()]
        assert [str(path.relative_to(self.wallet)) for path in receipts] == [row.result["receipt_path"]]
        for file in row.result["files"]:
            assert Path(file["path"]).stat().st_size == file["size"]


@pytest.fixture
def database(empty_catalog: Path, memory_path: Path) -> Iterator[Database]:
    """The catalog of `World`, where syncing costs nothing."""
    path = memory_path / "state.sqlite"
    shutil.copyfile(empty_catalog, path)
    made = Database(f"sqlite:///{path}", busy_timeout=5.0)
    yield made
    made.close()


@pytest.fixture
def fixture(world: World, memory_path: Path) -> Fixture:
    return Fixture(world, memory_path)


def in_a_process(fixture: Fixture, task_id: str, kill_at: int, database: Path) -> tuple[bool, int, int]:
    """Execute the task in a forked process that dies by SIGKILL before the line number `kill_at` of the export's own
    modules; gives whether it did, how many lines there were, and which of them was the first of the commit."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:  # pragma: no cover
        status = 3
        try:
            lines = commit = 0

            def trace(frame: FrameType, event: str, _: Any) -> Any:
                nonlocal lines, commit
                if frame.f_code.co_filename not in FILES:
                    return None
                if event == "line":
                    lines += 1
                    if not commit and frame.f_code.co_name == "_commit":
                        commit = lines
                    if lines == kill_at:
                        os.kill(os.getpid(), signal.SIGKILL)
                return trace

            # Connections do not survive a fork.
            world = fixture.world
            world.database = Database(f"sqlite:///{database}", busy_timeout=5.0)
            world.engine = TaskEngine(world.database, world.dispatcher, world.clock, LEASE)
            child = Fixture(world, fixture.base)
            child.made = 50_000 + 1000 * fixture.made + fixture.row(task_id).attempt
            sys.settrace(trace)
            try:
                child.execute(task_id)
            finally:
                sys.settrace(None)
            os.write(writing, f"{lines} {commit}".encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    fixture.made += 1
    fixture.world.dispatcher.queue.clear()
    _, ended = os.waitpid(pid, 0)
    told = os.read(reading, 100)
    os.close(reading)
    if os.WIFSIGNALED(ended):
        assert os.WTERMSIG(ended) == signal.SIGKILL
        return True, 0, 0
    assert ended == 0, "the process failed"
    lines, commit = map(int, told.split())
    return False, lines, commit


def lines_of_an_export(fixture: Fixture, database: Path) -> tuple[int, int]:
    """How many there are, and the first of the commit, before which the journal says BUILT."""
    task = fixture.ask("3.5", tag="count")
    killed, lines, commit = in_a_process(fixture, task.task_id, 0, database)
    assert not killed
    assert commit
    fixture.assert_exported(task.task_id)
    return lines, commit


@pytest.mark.timeout(max(120, KILLS * 2))
def test_killed_before_any_line(fixture: Fixture) -> None:
    rng = random.Random(SEED)
    database = fixture.base / "state.sqlite"
    bank, fracked = [COIN] * 3 + [COIN // 10] * 4, [COIN // 10] * 2
    fixture.fill(bank, fracked)
    lines, commit = lines_of_an_export(fixture, database)
    fired = 0
    moments: dict[str, int] = {}
    for number in range(KILLS):
        fixture.fill(bank, fracked, number)
        task = fixture.ask("3.5")
        # Spread evenly, jittered: every stretch of the export is hit, and those of a line or two once on purpose.
        at = (1, commit)[number] if number < 2 else 1 + int((number + rng.random()) * lines / KILLS)
        deaths = 0
        while fixture.row(task.task_id).state not in (TaskState.COMPLETED, TaskState.FAILED):
            killed, *_ = in_a_process(fixture, task.task_id, at if deaths < 2 else 0, database)
            if killed:
                deaths += 1
                state = (
                    fixture.journal(task.task_id)["state"]
                    if (fixture.wallet / ".holdfast" / f"export-{task.task_id}.json").exists()
                    else "none"
                )
                moments[state] = moments.get(state, 0) + 1
                fixture.world.lose_lease()
                at = rng.randrange(1, lines)
        fired += deaths
        fixture.assert_exported(task.task_id)
        fixture.assert_tidy()
    assert fired >= KILLS
    assert moments.keys() == {"none", "RESERVED", "BUILT", "COMMITTED"}, moments


def at(monkeypatch: pytest.MonkeyPatch, step: str, happening: Callable[[], None]) -> None:
    """Lets something happen once, directly before a step of an export."""
    owner, name = {
        "reserve": (coin_reserve, "take"),
        "build": (coin_outputs, "build"),
        "commit": (coin_export.CoinExport, "_commit"),
        "publish": (coin_outputs, "publish"),
        "retire": (coin_reserve, "retire"),
        "forget": (coin_journal.ExportJournal, "remove"),
    }[step]
    original, waiting = getattr(owner, name), [happening]

    def stepped(*arguments: Any, **values: Any) -> Any:
        if waiting:
            waiting.pop()()
        return original(*arguments, **values)

    monkeypatch.setattr(owner, name, stepped)


@pytest.mark.parametrize("form", list(CoinForm))
def test_every_form(fixture: Fixture, form: CoinForm) -> None:
    fixture.fill([COIN, 10 * COIN], [COIN])
    task = fixture.ask("12", form, tag="rent")
    assert fixture.execute(task.task_id) == "completed"
    fixture.assert_exported(task.task_id)
    fixture.assert_tidy()
    assert os.listdir(fixture.out) == [f"12.CloudCoin.rent.{form.value.lower()}"]
    result = fixture.row(task.task_id).result
    assert result is not None
    assert result["coins_fracked"] == 1
    assert result["denominations"] == [
        {"denomination": "10", "coins": 1, "amount": "10"},
        {"denomination": "1", "coins": 2, "amount": "2"},
    ]


def test_bank_alone_where_it_can(fixture: Fixture) -> None:
    fixture.fill([COIN] * 10, [10 * COIN])
    assert fixture.execute(fixture.ask("10").task_id) == "completed"
    assert len(os.listdir(fixture.wallet / "Exported")) == 10
    assert len(os.listdir(fixture.wallet / "Fracked")) == 1
    fixture.assert_tidy()


def test_a_taken_name_gets_a_number_and_nothing_is_overwritten(fixture: Fixture) -> None:
    fixture.fill([COIN] * 3)
    before = {"1.CloudCoin.bin": b"mine", "1.CloudCoin.bin.age": b"mine too"}
    for name, content in before.items():
        (fixture.out / name).write_bytes(content)
    fixture.execute(fixture.ask("1").task_id)
    fixture.execute(fixture.ask("1", recipients=(PUBLIC,)).task_id)
    assert sorted(os.listdir(fixture.out)) == sorted([*before, "1.CloudCoin-2.bin", "1.CloudCoin-2.bin.age"])
    assert {name: (fixture.out / name).read_bytes() for name in before} == before


def test_a_sealed_file_opens_to_its_coins(fixture: Fixture) -> None:
    fixture.fill([COIN] * 2)
    task = fixture.ask("2", recipients=(PUBLIC,))
    assert fixture.execute(task.task_id) == "completed"
    (path,) = fixture.out.iterdir()
    opened = pyrage.decrypt(path.read_bytes(), [pyrage.x25519.Identity.from_str(PRIVATE)])
    assert {coin.identity for coin in read_coin_file(opened).coins} == set(fixture.coins)
    result = fixture.row(task.task_id).result
    assert result is not None
    assert result["files"][0]["sha256"] == sha256_of(path)


def test_generations_get_files_of_their_own(fixture: Fixture) -> None:
    fixture.fill([COIN])
    rng = random.Random(3)
    for generation, units in ((Generation.V1, 5 * COIN), (Generation.V2, COIN)):
        coin = make_coin(rng, units, generation)
        write_coin(fixture.wallet / "Bank", coin)
        fixture.coins[coin.identity] = coin.value
    with pytest.raises(InvalidArgument, match="V1"):
        fixture.ask("7", CoinForm.BIN)
    assert fixture.execute(fixture.ask("7", CoinForm.STACK).task_id) == "completed"
    assert sorted(os.listdir(fixture.out)) == [
        "1.CloudCoin.V2.2.stack", "1.CloudCoin.V3.3.stack", "5.CloudCoin.V1.1.stack",
    ]  # fmt: skip
    fixture.assert_tidy()


def test_at_most_a_thousand_coins_a_file(fixture: Fixture) -> None:
    fixture.fill([COIN] * 1001)
    task = fixture.ask("1001")
    assert fixture.execute(task.task_id) == "completed"
    assert sorted(os.listdir(fixture.out)) == ["1.CloudCoin.2.bin", "1000.CloudCoin.1.bin"]
    fixture.assert_tidy()


BAD_AMOUNTS = ["0", "-1", "1e3", "0.000000001", "NaN", "1" + "0" * 30, "", " 1", "1,5", "+1", ".5", "1.", "\u0661"]


@pytest.mark.parametrize("amount", BAD_AMOUNTS)
def test_bad_amounts_change_nothing(fixture: Fixture, amount: str) -> None:
    fixture.fill([COIN])
    before = snapshot(fixture.base / "wallet")
    with pytest.raises(InvalidArgument) as caught:
        fixture.ask(amount, folder=fixture.base / "new", create_folder=True)
    assert [violation.field for violation in caught.value.violations] == ["amount"]
    assert snapshot(fixture.base / "wallet") == before
    assert not (fixture.base / "new").exists()


def test_amounts_that_cannot_be_made(fixture: Fixture) -> None:
    fixture.fill([COIN, 10 * COIN])
    before = snapshot(fixture.wallet)
    with pytest.raises(FailedPrecondition) as caught:
        fixture.ask("5", folder=fixture.base / "new", create_folder=True)
    assert caught.value.reason is Reason.NO_EXACT_CHANGE
    assert caught.value.metadata == {
        "amount": "5", "available": "11", "nearest_lower": "1", "nearest_higher": "10",
    }  # fmt: skip
    with pytest.raises(FailedPrecondition) as caught:
        fixture.ask("0.5")
    assert caught.value.metadata == {"amount": "0.5", "available": "11", "nearest_higher": "1"}
    with pytest.raises(FailedPrecondition) as caught:
        fixture.ask("11.00000001")
    assert (caught.value.reason, caught.value.metadata["available"]) == (Reason.INSUFFICIENT_BALANCE, "11")
    assert snapshot(fixture.wallet) == before
    assert not (fixture.base / "new").exists()


def test_coins_that_do_not_count(fixture: Fixture) -> None:
    fixture.fill([COIN])
    bank = fixture.wallet / "Bank"
    rng = random.Random(5)
    (bank / "several.bin").write_bytes(format9.encode_many([make_coin(rng, COIN), make_coin(rng, COIN)]))
    twice = make_coin(rng, 10 * COIN)
    write_coin(bank, twice)
    write_coin(fixture.wallet / "Fracked", twice, "again")
    (bank / "damaged.bin").write_bytes(b"\x09" * 100)
    (bank / "readme.txt").write_text("hello")
    with pytest.raises(FailedPrecondition) as caught:
        fixture.ask("2")
    assert caught.value.reason is Reason.INSUFFICIENT_BALANCE
    assert caught.value.metadata["available"] == "1"
    for part in ("1 file of several coins", "worth 2", "2 files with a coin that lies in more", "ImportCoins", "read"):
        assert part in caught.value.message
    assert "readme" not in caught.value.message
    task = fixture.ask("1")
    assert fixture.execute(task.task_id) == "completed"
    assert fixture.row(task.task_id).state == TaskState.COMPLETED_WITH_WARNINGS
    assert fixture.row(task.task_id).warning_count == 2
    assert find_coins(fixture.wallet, fixture.out).money[twice.identity] == 2


def test_encrypted_coins_need_their_key(fixture: Fixture) -> None:
    fixture.fill([COIN])
    key = WalletKey.derive("secret", KeyParameters(bytes(16), memory_kib=32, passes=1, lanes=1))
    (plain,) = (fixture.wallet / "Bank").iterdir()
    encrypted = plain.with_name(plain.name + ".hfcc")
    encrypted.write_bytes(encrypt(plain.read_bytes(), key))
    plain.unlink()
    with pytest.raises(FailedPrecondition) as caught:
        fixture.ask("1")
    assert caught.value.reason is Reason.KEY_REQUIRED
    with pytest.raises(FailedPrecondition) as caught:
        fixture.ask("1", credentials=Credentials(wallet_password="wrong"))
    assert caught.value.reason is Reason.KEY_WRONG
    worker = fixture.world.new_worker("00000000-0000-0000-0000-000000000999")
    task = fixture.ask("1", credentials=Credentials(wallet_password="secret"))
    content = encrypted.read_bytes()
    assert fixture.world.execute(task.task_id, worker) == "completed", fixture.row(task.task_id).error
    assert (fixture.wallet / "Exported" / encrypted.name).read_bytes() == content, "originals stay as they are"
    (output,) = fixture.out.iterdir()
    assert {coin.identity for coin in read_coin_file(output.read_bytes()).coins} == set(fixture.coins)


def test_a_dry_run_changes_nothing(fixture: Fixture) -> None:
    fixture.fill([COIN])
    before = snapshot(fixture.wallet)
    task = fixture.ask("1", folder=fixture.base / "new", create_folder=True, dry_run=True)
    assert fixture.execute(task.task_id) == "completed"
    result = fixture.row(task.task_id).result
    assert result is not None
    path = str(fixture.base / "new" / "1.CloudCoin.bin")
    assert result["files"] == [{"path": path, "coins": 1, "amount": "1", "generation": "V3"}]
    assert "receipt_path" not in result
    assert snapshot(fixture.wallet) == before
    assert not (fixture.base / "new").exists()


@pytest.mark.parametrize("name", ["Bank", "Fracked/deep", "Exported", ".holdfast", "Import", "Trash/x"])
def test_no_folder_of_the_wallet_but_export(fixture: Fixture, name: str) -> None:
    fixture.fill([COIN] * 2)
    (fixture.wallet / ".holdfast").mkdir()
    (fixture.wallet / "Exported").mkdir()
    before = snapshot(fixture.wallet)
    with pytest.raises(InvalidArgument, match="wallet program"):
        fixture.ask("1", folder=fixture.wallet / name, create_folder=True)
    (fixture.base / "alias").symlink_to(fixture.wallet / name.partition("/")[0])
    with pytest.raises(InvalidArgument, match="wallet program"):
        fixture.ask("1", folder=fixture.base / "alias")
    assert snapshot(fixture.wallet) == before
    task = fixture.ask("1", folder=fixture.wallet / "Export" / "to Ron", create_folder=True)
    assert fixture.execute(task.task_id) == "completed"


@pytest.mark.parametrize("values", [{"tag": "a/b"}, {"tag": "x" * 65}, {"tag": "a b"}, {"template": b"/x.png"}])
def test_bad_orders(fixture: Fixture, values: dict[str, Any]) -> None:
    fixture.fill([COIN])
    with pytest.raises(InvalidArgument):
        fixture.ask("1", **values)


@pytest.mark.parametrize("step", ["reserve", "build"])
def test_cancelled_before_the_commit(fixture: Fixture, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    fixture.fill([COIN] * 3)
    before = snapshot(fixture.wallet / "Bank", times=False)
    task = fixture.ask("2")
    at(monkeypatch, step, lambda: fixture.world.engine.cancel(task.task_id) and None)
    assert fixture.execute(task.task_id) == "cancelled"
    assert fixture.row(task.task_id).state == TaskState.CANCELLED
    assert snapshot(fixture.wallet / "Bank", times=False) == before
    assert os.listdir(fixture.out) == []
    fixture.assert_tidy()


@pytest.mark.parametrize("step", ["commit", "publish", "retire", "forget"])
def test_cancelled_after_the_commit(fixture: Fixture, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    fixture.fill([COIN] * 3)
    task = fixture.ask("2")

    def cancel() -> None:
        with pytest.raises(FailedPrecondition) as caught:
            fixture.world.engine.cancel(task.task_id)
        assert caught.value.reason is Reason.TASK_COMMITTING

    at(monkeypatch, step, cancel)
    assert fixture.execute(task.task_id) == "completed"
    fixture.assert_exported(task.task_id)
    fixture.assert_tidy()


@pytest.mark.parametrize("step", ["reserve", "build", "commit", "publish", "retire", "forget"])
def test_an_attempt_that_was_overtaken(fixture: Fixture, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """It holds the wallet while it lives, so its successor waits; what it had not committed, it does not touch."""
    fixture.fill([COIN] * 3)
    task = fixture.ask("2")
    at(monkeypatch, step, fixture.world.lose_lease)
    assert fixture.execute(task.task_id) == "fenced"
    assert fixture.row(task.task_id).attempt == 2
    assert fixture.execute(task.task_id) == "completed"
    fixture.assert_exported(task.task_id)
    fixture.assert_tidy()
    assert find_coins(fixture.wallet, fixture.out).exported.total() == 2


def test_a_successor_waits_for_an_attempt_that_holds_the_wallet(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixture.fill([COIN] * 3)
    task = fixture.ask("2")
    frozen, thaw = threading.Event(), threading.Event()

    def freeze() -> None:
        frozen.set()
        assert thaw.wait(60)

    at(monkeypatch, "build", freeze)
    ends: list[str] = []
    first = threading.Thread(target=lambda: ends.append(fixture.execute(task.task_id)))
    first.start()
    assert frozen.wait(60)
    fixture.world.lose_lease()
    second = threading.Thread(target=lambda: ends.append(fixture.execute(task.task_id)))
    second.start()
    until(lambda: fixture.row(task.task_id).owner is not None, "the claim")
    assert len(find_coins(fixture.wallet, fixture.out).reserved) == 2
    thaw.set()
    first.join(60)
    second.join(60)
    assert ends == ["fenced", "completed"]
    fixture.assert_exported(task.task_id)
    fixture.assert_tidy()


def test_coins_that_the_wallet_program_takes_meanwhile(fixture: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    fixture.fill([COIN] * 3, [COIN])
    task = fixture.ask("3")
    taken = sorted((fixture.wallet / "Bank").iterdir())[1]
    at(monkeypatch, "reserve", taken.unlink)
    del fixture.coins[read_coin_file(taken.read_bytes()).coins[0].identity]
    assert fixture.execute(task.task_id) == "completed"
    fixture.assert_exported(task.task_id)
    fixture.assert_tidy()
    result = fixture.row(task.task_id).result
    assert result is not None
    assert result["coins_fracked"] == 1


def test_a_wallet_that_is_emptied_meanwhile(fixture: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    fixture.fill([COIN] * 3)
    task = fixture.ask("3")
    taken = sorted((fixture.wallet / "Bank").iterdir())[1]
    at(monkeypatch, "reserve", taken.unlink)
    del fixture.coins[read_coin_file(taken.read_bytes()).coins[0].identity]
    assert fixture.execute(task.task_id) == "failed"
    error = fixture.row(task.task_id).error
    assert error is not None
    assert error["reason"] == Reason.INSUFFICIENT_BALANCE
    fixture.assert_tidy()


def test_a_reserved_coin_that_changes_is_not_exported(fixture: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    fixture.fill([COIN] * 2)
    task = fixture.ask("2")

    def change() -> None:
        reserve = fixture.wallet / ".holdfast" / f"export-{task.task_id}" / "Bank"
        path = min(reserve.iterdir())
        old = read_coin_file(path.read_bytes()).coins[0]
        new = make_coin(random.Random(9), COIN)
        path.write_bytes(format9.encode_single(new))
        del fixture.coins[old.identity]
        fixture.coins[new.identity] = new.value

    at(monkeypatch, "build", change)
    assert fixture.execute(task.task_id) == "failed"
    error = fixture.row(task.task_id).error
    assert error is not None
    assert error["reason"] == Reason.SOURCE_BUSY
    fixture.assert_tidy()


def test_a_full_disk(fixture: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    fixture.fill([COIN] * 2)
    task = fixture.ask("2")
    written: Any = coin_outputs._write

    def full(fd: int, content: bytes) -> None:
        written(fd, content[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(coin_outputs, "_write", full)
    assert fixture.execute(task.task_id) == "failed"
    error = fixture.row(task.task_id).error
    assert error is not None
    assert error["reason"] == Reason.DISK_FULL
    assert os.listdir(fixture.out) == []
    fixture.assert_tidy()


@pytest.mark.parametrize("failures", [1, 2])
def test_a_commit_that_may_have_reached_the_disk(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    """The journal's folder cannot be synced after the rename."""
    fixture.fill([COIN] * 2)
    task = fixture.ask("2")
    original: Any = coin_journal.ExportJournal.save
    left = [failures]

    def save(journal: coin_journal.ExportJournal, wallet: Any) -> None:
        original(journal, wallet)
        if left[0] and (journal.is_committed or left[0] < failures):
            left[0] -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(coin_journal.ExportJournal, "save", save)
    assert fixture.execute(task.task_id) == "failed"
    error = fixture.row(task.task_id).error
    assert error is not None
    if failures == 1:
        assert error["reason"] == Reason.STORAGE_UNREACHABLE
        fixture.assert_tidy()
        return
    assert error["reason"] == Reason.EXPORT_UNPUBLISHED
    find_coins(fixture.wallet, fixture.out).assert_none_lost_or_doubled(fixture.coins, reserved=True)
    fixture.orders.resume(task.task_id)
    assert fixture.execute(task.task_id) == "completed"
    fixture.assert_exported(task.task_id)
    fixture.assert_tidy()


@pytest.mark.parametrize("gone", [False, True], ids=["unreachable", "removed"])
def test_a_destination_that_is_gone_and_comes_back(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    fixture.fill([COIN] * 3)
    task = fixture.ask("2")
    aside = fixture.base / "aside"
    at(monkeypatch, "commit", lambda: shutil.rmtree(fixture.out) if gone else fixture.out.rename(aside) and None)
    assert fixture.execute(task.task_id) == "failed"
    row = fixture.row(task.task_id)
    assert row.error is not None
    assert (row.error["reason"], row.error["metadata"]["cause"]) == ("EXPORT_UNPUBLISHED", "FOLDER_NOT_FOUND")
    assert str(fixture.wallet) in row.error["message"]
    where = find_coins(fixture.wallet, fixture.out)
    where.assert_none_lost_or_doubled(fixture.coins, reserved=True)
    assert where.reserved.total() == 2
    # Housekeeping spares it, another export leaves it alone and says so.
    fixture.world.clock.step(400 * 86_400)
    fixture.world.housekeeper.run()
    other = fixture.ask("1", folder=fixture.base / "other", create_folder=True)
    assert fixture.execute(other.task_id) == "completed"
    assert fixture.row(other.task_id).state == TaskState.COMPLETED_WITH_WARNINGS
    # Still gone: it ends as before, and can be resumed again.
    fixture.orders.resume(task.task_id)
    with pytest.raises(FailedPrecondition) as caught:
        fixture.world.engine.cancel(task.task_id)
    assert caught.value.reason is Reason.TASK_COMMITTING
    assert fixture.execute(task.task_id) == "failed"
    fixture.out.mkdir() if gone else aside.rename(fixture.out)
    assert fixture.orders.resume(task.task_id).attempt == 3
    assert fixture.orders.resume(task.task_id).attempt == 3, "resuming twice is resuming once"
    assert fixture.execute(task.task_id) == "completed"
    fixture.assert_exported(task.task_id)
    (one,) = fixture.out.iterdir()
    shutil.copy(fixture.base / "other" / "1.CloudCoin.bin", fixture.out)
    fixture.assert_tidy()
    assert one.name == "2.CloudCoin.bin"


def test_what_cannot_be_resumed(fixture: Fixture) -> None:
    fixture.fill([COIN] * 2)
    task = fixture.ask("1")
    assert fixture.orders.resume(task.task_id).state == TaskState.PENDING
    assert fixture.execute(task.task_id) == "completed"
    with pytest.raises(FailedPrecondition, match="ended COMPLETED") as caught:
        fixture.orders.resume(task.task_id)
    assert caught.value.reason is Reason.TASK_ENDED


def test_a_wallet_out_of_reach_keeps_the_task_resumable(fixture: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    fixture.fill([COIN] * 2)
    task = fixture.ask("2")
    killed, *_ = in_a_process(fixture, task.task_id, 450, fixture.base / "state.sqlite")
    assert killed
    assert fixture.journal(task.task_id)["state"] == "RESERVED"
    away = fixture.base / "away"
    fixture.wallet.rename(away)
    fixture.world.lose_lease()
    assert fixture.execute(task.task_id) == "failed"
    error = fixture.row(task.task_id).error
    assert error is not None
    assert (error["reason"], error["metadata"]["cause"]) == ("EXPORT_UNPUBLISHED", "SOURCE_OFFLINE")
    away.rename(fixture.wallet)
    fixture.orders.resume(task.task_id)
    assert fixture.execute(task.task_id) == "completed"
    fixture.assert_exported(task.task_id)
    fixture.assert_tidy()


def test_what_an_unknown_task_left(fixture: Fixture) -> None:
    """The catalog was lost while an export had coins reserved: the next one returns them first."""
    fixture.fill([COIN] * 3)
    lost = fixture.ask("2")
    killed, *_ = in_a_process(fixture, lost.task_id, 450, fixture.base / "state.sqlite")
    assert killed
    with fixture.world.database.write() as connection:
        schema_tables = (schema.locks, schema.task_events, schema.task_log, schema.task_sources, schema.tasks)
        for table in schema_tables:
            connection.execute(table.delete().where(table.c.task_id == lost.task_id))
    assert find_coins(fixture.wallet, fixture.out).reserved
    task = fixture.ask("3")
    assert fixture.execute(task.task_id) == "completed"
    assert fixture.row(task.task_id).state == TaskState.COMPLETED_WITH_WARNINGS
    fixture.assert_tidy()


def test_nothing_tells_an_authenticity_number(fixture: Fixture) -> None:
    fixture.fill([COIN] * 2)
    numbers = [read_coin_file(path.read_bytes()).coins[0].ans for path in (fixture.wallet / "Bank").iterdir()]
    journals: list[bytes] = []
    task = fixture.ask("2")
    with pytest.MonkeyPatch.context() as patch:
        for step in ("commit", "retire", "forget"):
            at(patch, step, lambda: journals.extend(
                path.read_bytes() for path in (fixture.wallet / ".holdfast").glob("*.json")))  # fmt: skip
        assert fixture.execute(task.task_id) == "completed"
    texts = [*journals, (fixture.wallet / "transactions.csv").read_bytes()]
    texts += [path.read_bytes() for path in (fixture.wallet / "Receipts").iterdir()]
    texts += [path.read_bytes() for path in fixture.base.glob("state.sqlite*")]
    assert len(journals) == 3
    for number in numbers:
        for piece in (number[:16], number[:16].hex().encode(), number[:16].hex().upper().encode()):
            assert not any(piece in text for text in texts)
