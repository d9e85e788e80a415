"""Restores into a new wallet whose attempts die, freeze and are cancelled: no wallet, or the whole one, once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.archive.pool import CompressorPool
from holdfast_server.catalog import sources
from holdfast_server.catalog.rows import SourceKind, SourceRow, TaskRow, TaskState
from holdfast_server.core import restore as core_restore
from holdfast_server.core.new_wallet import NewWalletProof
from holdfast_server.errors import AlreadyExists, DataLoss, Reason
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks import new_folder
from holdfast_server.tasks import new_wallet as new_wallet_module
from holdfast_server.tasks.new_wallet import NewWallet
from holdfast_server.tasks.restore import RestoreHandler, RestoreOrder, RestoreOrders
from holdfast_server.tasks.sources import SourceOrder
from tests.harness import snapshot
from tests.restored_wallets import make_wallet
from tests.unit.tasks.conftest import World
from tests.unit.tasks.test_backup_attempts import Death, Fixture

PLACES = ["extracting", "counting", "syncing", "moving", "applied", "registering"]


class NewWallets(Fixture):
    def __init__(self, world: World, base: Path, pool: CompressorPool) -> None:
        super().__init__(world, base, pool)
        self.wallet = make_wallet(base / "wallet", coins=6)
        self.registry.register(SourceOrder(os.fsencode(self.wallet), SourceKind.WALLET, "wallet"), None)
        self.backup_ids = [self._backup() for _ in range(2)]
        policy = FolderPolicy(str(base / "data"), ["/"])
        world.handler = RestoreHandler(world.database, policy, world.clock, os.fsencode(base / "data"))  # type: ignore[assignment]
        keys, repositories = world.wallet_keys(policy), world.repositories(policy, base / "data")
        self.restores = RestoreOrders(world.engine, policy, world.clock, keys, repositories)
        self.target = base / "target"
        self.wanted = snapshot(self.wallet)

    def _backup(self) -> str:
        task = self.order("wallet")
        assert self.execute(task.task_id) == "completed"
        result = self.world.row(task.task_id).result
        assert result is not None
        return str(result["backup_ids"][0])

    def ask(self, source_id: str | None = "mine", *, backup: int = 0, target: Path | None = None) -> TaskRow:
        order = RestoreOrder(
            self.backup_ids[backup], os.fsencode(target or self.target), wallet=NewWallet("Mine", source_id)
        )
        return self.restores.create(order, "admin", None)

    def registered(self) -> dict[str, SourceRow]:
        with self.world.database.read() as connection:
            return {row.source_id: row for row in sources.list_sources(connection, limit=100)}

    def assert_whole(self, source_id: str = "mine") -> None:
        assert snapshot(self.target) == self.wanted
        found = self.registered()
        assert sorted(found) == sorted(["wallet", source_id])
        assert found[source_id].path == os.fsencode(self.target)

    def assert_nothing(self) -> None:
        assert not self.target.exists() or os.listdir(self.target) == []
        assert sorted(self.registered()) == ["wallet"]


@pytest.fixture
def wallets(world: World, tmp_path: Path) -> Iterator[NewWallets]:
    pool = CompressorPool(1, 32 << 20)
    yield NewWallets(world, tmp_path, pool)
    pool.close()


def at(monkeypatch: pytest.MonkeyPatch, place: str, happening: Callable[[], None]) -> list[str]:
    """Let something happen once at a place; gives a list that tells whether it did."""
    owner, name = {
        "extracting": (core_restore, "extract"),
        "counting": (NewWalletProof, "_compare"),
        "syncing": (core_restore, "sync_filesystem"),
        "moving": (core_restore, "_move_up"),
        "applied": (new_folder, "apply_staging"),
        "registering": (new_wallet_module.sources, "insert_source"),
    }[place]
    original: Any = getattr(owner, name)
    fired: list[str] = []
    calls: list[None] = []

    def wrapped(*arguments: Any, **values: Any) -> Any:
        calls.append(None)
        first = place in ("extracting", "applied")  # then what it does comes before what happens
        done = original(*arguments, **values) if first else None
        if not fired and len(calls) == (2 if place == "moving" else 1):
            fired.append(place)
            happening()
        return done if first else original(*arguments, **values)

    monkeypatch.setattr(owner, name, wrapped)
    return fired


def die() -> None:
    raise Death


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("existing", [False, True])
def test_a_dead_attempt_is_followed_by_one_wallet(
    wallets: NewWallets, monkeypatch: pytest.MonkeyPatch, place: str, existing: bool
) -> None:
    if existing:
        wallets.target.mkdir()
    task = wallets.ask()
    fired = at(monkeypatch, place, die)
    wallets.die(task.task_id)
    assert fired == [place]
    assert sorted(wallets.registered()) == ["wallet"], "nobody sees half of it"
    assert wallets.execute(task.task_id) == "completed"
    wallets.assert_whole()
    row = wallets.world.row(task.task_id)
    assert row.result is not None
    assert row.result["source_id"] == "mine"
    assert row.result["restored_coins"]["total"]["coins"] == 7


@pytest.mark.parametrize("place", PLACES[:3])
def test_a_cancel_before_the_moves_leaves_nothing(
    wallets: NewWallets, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    task = wallets.ask()
    fired = at(monkeypatch, place, lambda: wallets.world.engine.cancel(task.task_id) and None)
    assert wallets.execute(task.task_id) == "cancelled"
    assert fired == [place]
    wallets.assert_nothing()


def test_a_failure_while_counting_leaves_nothing(wallets: NewWallets, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise DataLoss(Reason.CHECKSUM_MISMATCH, "other coins")

    task = wallets.ask()
    at(monkeypatch, "counting", fail)
    assert wallets.execute(task.task_id) == "failed"
    wallets.assert_nothing()


@pytest.mark.parametrize("place", PLACES[:5])
def test_a_frozen_attempt_does_no_harm_to_its_successor(
    wallets: NewWallets, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    task = wallets.ask()

    def successor() -> None:
        wallets.world.lose_lease()
        assert wallets.execute(task.task_id) == "completed"

    fired = at(monkeypatch, place, successor)
    # Fenced, or it finds first that its staging folder has gone.
    assert wallets.execute(task.task_id) in ("fenced", "failed")
    assert fired == [place]
    wallets.assert_whole()
    assert wallets.world.row(task.task_id).state == TaskState.COMPLETED


def test_an_id_is_kept_from_the_call_to_the_end(wallets: NewWallets, tmp_path: Path) -> None:
    task = wallets.ask()
    with pytest.raises(AlreadyExists):
        wallets.registry.register(SourceOrder(os.fsencode(wallets.wallet), SourceKind.WALLET, "mine"), None)
    with pytest.raises(AlreadyExists):
        wallets.ask(backup=1, target=tmp_path / "other")
    wallets.world.engine.cancel(task.task_id)
    assert wallets.world.row(task.task_id).state == TaskState.CANCELLED
    wallets.assert_nothing()
    assert wallets.execute(wallets.ask().task_id) == "completed"
    wallets.assert_whole()


def test_a_derived_id_makes_way_for_one_that_is_kept(wallets: NewWallets) -> None:
    wallets.ask("target", backup=1, target=wallets.base / "elsewhere")
    task = wallets.ask(None)
    wallets.world.dispatcher.queue.remove(wallets.world.dispatcher.queue[0])
    assert wallets.execute(task.task_id) == "completed"
    wallets.assert_whole("target-2")


def test_a_source_that_a_rebuilt_catalog_brought_in_does_not_lose_the_wallet(
    wallets: NewWallets, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = wallets.ask()

    def rebuild() -> None:
        with wallets.world.database.write() as connection:
            found = wallets.registered()["wallet"]
            sources.insert_source(connection, SourceRow(**{**found.values(), "source_id": "mine"}))

    at(monkeypatch, "applied", rebuild)
    assert wallets.execute(task.task_id) == "completed"
    assert snapshot(wallets.target) == wallets.wanted
    row = wallets.world.row(task.task_id)
    assert row.result is not None
    assert row.result["source_id"] == "mine-2"
    assert wallets.registered()["mine-2"].path == os.fsencode(wallets.target)
