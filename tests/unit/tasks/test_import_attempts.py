"""Imports whose attempts die, freeze and are cancelled: the wallet holds every coin once, and no original is lost."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.catalog.locks import all_locks
from holdfast_server.catalog.rows import LockMode, SourceKind, TaskKind, TaskRow, TaskState
from holdfast_server.core import import_journal
from holdfast_server.core.coin_import import CoinImport
from holdfast_server.core.control import Control
from holdfast_server.core.wallet_folder import WalletFolder
from holdfast_server.errors import FailedPrecondition, HoldfastError
from holdfast_server.storage.folder import open_folder
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks import import_coins as import_module
from holdfast_server.tasks.import_coins import ImportHandler, ImportOrder, ImportOrders
from holdfast_server.tasks.sources import SourceOrder, SourceRegistry
from holdfast_server.tasks.wallet_keys import WalletKeys
from holdfast_server.tasks.wallet_reader import WalletReader
from holdfast_server.wallets.generate import generate_wallet
from tests.coin_files import contents, held, identities, make_coins, pack, put
from tests.unit.tasks.conftest import World


class Death(BaseException):
    """The end of a process, as far as the code around it can tell."""


class Imports:
    """A wallet with something of everything in its Import, and something elsewhere."""

    def __init__(self, world: World, base: Path) -> None:
        self.world, self.base, self.root = world, base, base / "wallet"
        (base / "data").mkdir()
        generate_wallet(self.root, 10, 1)
        rng = random.Random(7)
        coins = make_coins(rng, 5)
        put(self.root / "Import" / "three.bin", pack("own", coins[:3])[1])
        put(self.root / "Import" / "two.stack", pack("stack", coins[2:4])[1])
        put(self.root / "Import" / "z again.bin", pack("own", coins[:1])[1])
        put(base / "out" / "more.zip", pack("zip", coins[3:])[1])
        self.policy = FolderPolicy(str(base / "data"), ["/"])
        self.registry = SourceRegistry(world.database, self.policy, world.clock)
        self.registry.register(SourceOrder(os.fsencode(self.root), SourceKind.WALLET, "wallet"), None)
        keys = WalletKeys(world.database, self.policy, WalletReader(), world.clock)
        self.orders = ImportOrders(world.engine, self.policy, keys)
        world.handler = ImportHandler(world.database, self.policy)  # type: ignore[assignment]
        self.before = held(self.root)
        self.expected = self.before + identities(coins)
        self.originals = contents(self.root / "Import", base / "out")
        self.files = contents(self.root)
        self.made = 0

    def ask(self, *paths: Path, **values: Any) -> TaskRow:
        self.world.clock.step(1)
        chosen = paths or (self.root / "Import", self.base / "out")
        order = ImportOrder("wallet", tuple(os.fsencode(path) for path in chosen), **values)
        return self.orders.create(order, "admin", None)

    def execute(self, task_id: str) -> str:
        self.made += 1
        return self.world.execute(task_id, self.world.new_worker(f"00000000-0000-0000-0000-{self.made + 100:012}"))

    def die(self, task_id: str) -> None:
        with pytest.raises(Death):
            self.execute(task_id)
        self.world.lose_lease()

    def refused(self, *paths: Path, **values: Any) -> HoldfastError:
        with pytest.raises(HoldfastError) as caught:
            self.ask(*paths, **values)
        return caught.value

    def row(self, task: TaskRow) -> TaskRow:
        return self.world.row(task.task_id)

    def assert_done(self, task: TaskRow) -> None:
        row = self.row(task)
        assert row.state == TaskState.COMPLETED_WITH_WARNINGS, row.error
        assert held(self.root) == self.expected
        after = contents(self.root, self.base / "out")
        assert all(after[digest] >= count for digest, count in self.originals.items()), "an original is nowhere"
        assert sorted(os.listdir(self.root / ".holdfast")) == ["lock"]
        result = row.result
        assert result is not None
        assert result["imported"]["coins"] == 5
        assert result["duplicates"]["coins"] == 3
        assert (result["files_read"], result["files_moved"], result["files_duplicate"]) == (4, 3, 1)
        assert result["files_corrupted"] == 1, "the generated wallet's text file"
        assert len(result["problem_files"]) == 1

    def assert_untouched(self) -> None:
        assert sorted(os.listdir(self.root / ".holdfast")) == ["lock"]
        (self.root / ".holdfast" / "lock").unlink()
        assert contents(self.root) == self.files


@pytest.fixture
def imports(world: World, tmp_path: Path) -> Imports:
    return Imports(world, tmp_path)


PLACES = ["staging", "staged", "guarded", "committed", "moving coins", "moving originals", "moved", "finished"]


def at(monkeypatch: pytest.MonkeyPatch, place: str, happening: Callable[[], Any]) -> None:
    """Let something happen once at this place of an import's way."""
    waiting = [happening]

    def strike() -> None:
        if waiting:
            waiting.pop()()

    def after(owner: Any, name: str, *, before: bool = False, skip: int = 0) -> None:
        original, seen = getattr(owner, name), [0]

        def wrapped(*arguments: Any, **values: Any) -> Any:
            seen[0] += 1
            if before and seen[0] > skip:
                strike()
            found = original(*arguments, **values)
            if not before and seen[0] > skip:
                strike()
            return found

        monkeypatch.setattr(owner, name, wrapped)

    {
        "staging": lambda: after(CoinImport, "_pass"),
        "staged": lambda: after(CoinImport, "stage"),
        "guarded": lambda: after(import_module, "commit_record", before=True),
        "committed": lambda: after(import_module, "commit_record"),
        "moving coins": lambda: after(import_journal, "_place", before=True, skip=2),
        "moving originals": lambda: after(import_journal, "_move_original", before=True, skip=1),
        "moved": lambda: after(import_module, "finish_import"),
        "finished": lambda: after(import_module, "forget_record", before=True),
    }[place]()


def die() -> None:
    raise Death


@pytest.mark.parametrize("place", PLACES)
def test_a_dead_attempt_is_followed_by_the_whole(imports: Imports, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    task = imports.ask()
    at(monkeypatch, place, die)
    imports.die(task.task_id)
    if place in PLACES[:2]:
        assert held(imports.root) == imports.before
    assert imports.execute(task.task_id) == "completed"
    imports.assert_done(task)
    assert imports.row(task).attempt == 2


@pytest.mark.parametrize("place", PLACES)
def test_every_attempt_dies_at_the_same_place_but_the_last(
    imports: Imports, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Giving up in between the renames would leave half of it."""
    task = imports.ask()
    for _ in range(1 if place == "committed" else 2):  # a commit comes once
        with monkeypatch.context() as patch:
            at(patch, place, die)
            imports.die(task.task_id)
    imports.world.update(task.task_id, fruitless=3)
    if place in PLACES[:2]:
        assert imports.execute(task.task_id) == "failed"
        imports.assert_untouched()
    else:
        assert imports.execute(task.task_id) == "completed"
        imports.assert_done(task)


@pytest.mark.parametrize("place", ["staging", "staged"])
def test_a_cancel_before_the_commit_leaves_nothing(
    imports: Imports, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    task = imports.ask()
    at(monkeypatch, place, lambda: imports.world.engine.cancel(task.task_id))
    assert imports.execute(task.task_id) == "cancelled"
    imports.assert_untouched()
    cleanup = imports.row(task).cleanup
    assert cleanup is not None
    assert cleanup["files_removed"] == 6, "five coins and the copy of a file from elsewhere"


def test_a_cancel_of_a_dead_attempt_leaves_nothing(imports: Imports, monkeypatch: pytest.MonkeyPatch) -> None:
    task = imports.ask()
    at(monkeypatch, "staged", die)
    imports.die(task.task_id)
    imports.world.engine.cancel(task.task_id)
    assert imports.execute(task.task_id) == "cancelled"
    imports.assert_untouched()


@pytest.mark.parametrize("place", PLACES[2:])
def test_a_cancel_after_the_commit_is_refused(imports: Imports, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    task = imports.ask()
    refusals: list[str] = []

    def cancel() -> None:
        with pytest.raises(FailedPrecondition) as caught:
            imports.world.engine.cancel(task.task_id)
        refusals.append(caught.value.reason)

    at(monkeypatch, place, cancel)
    assert imports.execute(task.task_id) == "completed"
    assert refusals == ["TASK_COMMITTING"]
    imports.assert_done(task)


@pytest.mark.parametrize("place", ["staged", "committed", "moving coins", "moving originals"])
def test_a_worker_that_drains_hands_it_on(imports: Imports, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    task = imports.ask()
    runs: list[Any] = []
    original = import_module.ImportHandler.run
    monkeypatch.setattr(
        import_module.ImportHandler, "run", lambda self, run: (runs.append(run), original(self, run))[1]
    )
    at(monkeypatch, place, lambda: runs[0].control.drain())
    outcome = imports.execute(task.task_id)
    if outcome == "drained":
        imports.world.engine.tick()
        assert imports.execute(task.task_id) == "completed"
    assert outcome in ("drained", "completed")
    imports.assert_done(task)


@pytest.mark.parametrize("place", ["staged", "guarded", "moving coins"])
def test_a_frozen_attempt_is_fenced_and_its_successor_finishes(
    imports: Imports, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The frozen one holds the wallet's lock, so the successor is on its way only when it lets go."""
    task = imports.ask()
    runs: list[Any] = []
    original = import_module.ImportHandler.run
    monkeypatch.setattr(
        import_module.ImportHandler, "run", lambda self, run: (runs.append(run), original(self, run))[1]
    )

    def takeover() -> None:
        imports.world.lose_lease()
        runs[0].control.fence()

    at(monkeypatch, place, takeover)
    assert imports.execute(task.task_id) == "fenced"
    assert imports.execute(task.task_id) == "completed"
    imports.assert_done(task)


@pytest.mark.parametrize("place", ["moving coins", "moving originals"])
def test_a_failure_between_the_renames_is_told_and_the_next_import_finishes_it(
    imports: Imports, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    task = imports.ask()

    def fail() -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        at(patch, place, fail)
        assert imports.execute(task.task_id) == "failed"
    row = imports.row(task)
    assert row.error is not None
    assert row.error["reason"] == "STORAGE_UNREACHABLE"
    assert row.cleanup is not None
    assert row.cleanup["left_behind"] == [f"{imports.root}/.holdfast/import-{task.task_id}.json"]
    following = imports.ask()
    assert imports.execute(following.task_id) == "completed"
    assert held(imports.root) == imports.expected
    assert sorted(os.listdir(imports.root / ".holdfast")) == ["lock"]
    after = contents(imports.root)
    assert all(after[digest] for digest in imports.originals)


def test_a_dry_run_changes_nothing_and_says_the_same(imports: Imports) -> None:
    planned = imports.ask(dry_run=True)
    assert imports.execute(planned.task_id) == "completed"
    assert contents(imports.root) == imports.files
    assert not (imports.root / ".holdfast").exists()
    done = imports.ask()
    assert imports.execute(done.task_id) == "completed"
    imports.assert_done(done)
    assert imports.row(planned).result == imports.row(done).result
    assert imports.row(planned).message == "would take 5 coins, " + imports.row(done).message.split(", ", 1)[1]


def test_another_process_at_work_in_the_wallet_is_waited_for_and_then_told(
    imports: Imports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WalletFolder.lock.__wrapped__.__kwdefaults__, "patience", 0.2)  # type: ignore[attr-defined]
    task = imports.ask()
    with open_folder(os.fsencode(imports.root)) as root, WalletFolder(root).lock(Control(), exclusive=True):
        assert imports.execute(task.task_id) == "failed"
    error = imports.row(task).error
    assert error is not None
    assert error["reason"] == "SOURCE_BUSY"


# -- orders ----------------------------------------------------------------------------------------------------------


def test_the_source_is_held_alone_but_by_a_dry_run(imports: Imports) -> None:
    task, look = imports.ask(), imports.ask(dry_run=True)
    with imports.world.database.read() as connection:
        modes = {task_id: (resource, mode) for resource, task_id, mode, _ in all_locks(connection)}
    assert modes == {
        task.task_id: ("source:wallet", LockMode.EXCLUSIVE),
        look.task_id: ("source:wallet", LockMode.SHARED),
    }
    assert task.kind == TaskKind.IMPORT_COINS


@pytest.mark.parametrize(
    "folder",
    ["Import", "Imported", "Exported", "Corrupted", "Receipts", "Templates", "Recovery", "Data", "Trash", ".holdfast",
     "..", ".", "", "a/b", "Bank/", "nowhere", "Sent", "config.toml"],
)  # fmt: skip
def test_folders_that_are_not_for_coins_are_refused(imports: Imports, folder: str) -> None:
    error = imports.refused(folder=folder.encode())
    assert error.reason == "INVALID_FIELD"
    assert error.metadata["field"] == "folder"
    assert "Bank" in error.message
    assert "Suspect" in error.message


@pytest.mark.parametrize("folder", ["Bank", "Grade", "Limbo", "My Savings", "Gallery"])
def test_standard_folders_and_the_wallet_s_own_are_taken(imports: Imports, folder: str) -> None:
    (imports.root / "My Savings").mkdir()
    task = imports.ask(folder=folder.encode())
    assert imports.execute(task.task_id) == "completed"
    assert len(os.listdir(imports.root / folder)) >= 5
    assert held(imports.root) == imports.expected


def test_what_is_wrong_is_refused_at_once(imports: Imports, tmp_path: Path) -> None:
    assert imports.refused(tmp_path / "missing").reason == "FILE_NOT_FOUND"
    assert imports.refused(imports.root / "Bank").reason == "INVALID_FIELD"
    assert imports.refused(*[tmp_path / "out"] * 1001).reason == "INVALID_FIELD"
    imports.registry.register(SourceOrder(os.fsencode(tmp_path / "out"), SourceKind.DIRECTORY, "out"), None)
    with pytest.raises(FailedPrecondition) as caught:
        imports.orders.create(ImportOrder("out"), "admin", None)
    assert caught.value.reason == "NOT_A_WALLET"
    imports.registry.update("wallet", suspended=True)
    assert imports.refused().reason == "SOURCE_SUSPENDED"
    imports.registry.update("wallet", suspended=False)
    os.rename(imports.root, tmp_path / "away")
    assert imports.refused().reason == "SOURCE_OFFLINE"


def test_a_file_that_is_gone_when_the_task_runs_ends_it_with_nothing_changed(imports: Imports) -> None:
    task = imports.ask(imports.root / "Import" / "three.bin", imports.base / "out" / "more.zip")
    (imports.base / "out" / "more.zip").unlink()
    assert imports.execute(task.task_id) == "failed"
    error = imports.row(task).error
    assert error is not None
    assert error["reason"] == "FILE_NOT_FOUND"
    imports.assert_untouched()
