"""Restores whose attempts die, freeze and are cancelled: the target is absent or empty, or whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.archive.pool import CompressorPool
from holdfast_server.catalog.rows import TaskKind, TaskRow, TaskState
from holdfast_server.core import restore as core_restore
from holdfast_server.errors import FailedPrecondition
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks import restore as restore_module
from holdfast_server.tasks.restore import RestoreHandler, RestoreOrder, RestoreOrders
from tests.harness import snapshot
from tests.unit.tasks.conftest import World
from tests.unit.tasks.test_backup_attempts import Death, Fixture


class Restores(Fixture):
    def __init__(self, world: World, base: Path, pool: CompressorPool) -> None:
        super().__init__(world, base, pool)
        source = self.source("source")
        for name in ("a", "b", "c/d"):
            (base / "source" / name).mkdir(parents=True)
            (base / "source" / name / "file").write_text(name)
        task = self.order(source)
        assert self.execute(task.task_id) == "completed"
        result = world.row(task.task_id).result
        assert result is not None
        self.backup_id = result["backup_ids"][0]
        policy = FolderPolicy(str(base / "data"), ["/"])
        world.handler = RestoreHandler(world.database, policy, world.clock, os.fsencode(base / "data"))  # type: ignore[assignment]
        keys, repositories = world.wallet_keys(policy), world.repositories(policy, base / "data")
        self.restores = RestoreOrders(world.engine, policy, world.clock, keys, repositories)
        self.target = base / "target"
        self.wanted = snapshot(base / "source")

    def ask(self) -> TaskRow:
        row = self.restores.create(RestoreOrder(self.backup_id, os.fsencode(self.target)), "admin", None)
        assert row.kind == TaskKind.RESTORE
        return row

    def assert_whole(self) -> None:
        assert snapshot(self.target) == self.wanted

    def assert_nothing(self) -> None:
        assert not self.target.exists() or os.listdir(self.target) == []


@pytest.fixture
def restores(world: World, tmp_path: Path) -> Iterator[Restores]:
    pool = CompressorPool(1, 32 << 20)
    yield Restores(world, tmp_path, pool)
    pool.close()


def at(monkeypatch: pytest.MonkeyPatch, place: str, happening: Callable[[], None]) -> None:
    """Let something happen once: after `extracting`, or before the second of the `moving`s."""
    waiting = [happening]
    if place == "extracting":
        original: Any = restore_module.extract_to_staging

        def extract(*arguments: Any, **values: Any) -> Any:
            found = original(*arguments, **values)
            if waiting:
                waiting.pop()()
            return found

        monkeypatch.setattr(restore_module, "extract_to_staging", extract)
        return
    move: Any = core_restore._move_up
    moved: list[bytes] = []

    def move_up(staging_fd: int, root_fd: int, name: bytes) -> None:
        moved.append(name)
        if len(moved) == 2 and waiting:
            waiting.pop()()
        move(staging_fd, root_fd, name)

    monkeypatch.setattr(core_restore, "_move_up", move_up)


def die() -> None:
    raise Death


@pytest.mark.parametrize("place", ["extracting", "moving"])
@pytest.mark.parametrize("existing", [False, True])
def test_a_dead_attempt_is_followed_by_a_whole_tree(
    restores: Restores, monkeypatch: pytest.MonkeyPatch, place: str, existing: bool
) -> None:
    if existing:
        restores.target.mkdir()
    task = restores.ask()
    at(monkeypatch, place, die)
    restores.die(task.task_id)
    assert restores.execute(task.task_id) == "completed"
    restores.assert_whole()


def test_a_cancel_before_the_moves_leaves_nothing(restores: Restores, monkeypatch: pytest.MonkeyPatch) -> None:
    task = restores.ask()
    at(monkeypatch, "extracting", lambda: restores.world.engine.cancel(task.task_id) and None)
    assert restores.execute(task.task_id) == "cancelled"
    assert not restores.target.exists()
    cleanup = restores.world.row(task.task_id).cleanup
    assert cleanup is not None
    assert cleanup["files_removed"] >= 4


def test_a_cancel_during_the_moves_is_refused(restores: Restores, monkeypatch: pytest.MonkeyPatch) -> None:
    task = restores.ask()
    refusals: list[str] = []

    def cancel() -> None:
        with pytest.raises(FailedPrecondition) as caught:
            restores.world.engine.cancel(task.task_id)
        refusals.append(caught.value.reason)

    at(monkeypatch, "moving", cancel)
    assert restores.execute(task.task_id) == "completed"
    assert refusals == ["TASK_COMMITTING"]
    restores.assert_whole()


def test_a_task_given_up_before_the_moves_leaves_nothing(restores: Restores, monkeypatch: pytest.MonkeyPatch) -> None:
    task = restores.ask()
    run = restores.world.claim(task.task_id)
    assert run is not None
    restores.world.lose_lease()
    restores.world.update(task.task_id, fruitless=3)
    assert restores.execute(task.task_id) == "failed"
    restores.assert_nothing()


def test_a_restore_is_not_given_up_between_its_moves(restores: Restores, monkeypatch: pytest.MonkeyPatch) -> None:
    """Giving up there would leave half a tree; going on moves at least one entry more."""
    task = restores.ask()
    at(monkeypatch, "moving", die)
    restores.die(task.task_id)
    restores.world.update(task.task_id, fruitless=3)
    assert restores.execute(task.task_id) == "completed"
    restores.assert_whole()


@pytest.mark.parametrize("place", ["extracting", "moving"])
def test_a_frozen_attempt_does_no_harm_to_its_successor(
    restores: Restores, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    task = restores.ask()

    def successor() -> None:
        restores.world.lose_lease()
        assert restores.execute(task.task_id) == "completed"

    at(monkeypatch, place, successor)
    assert restores.execute(task.task_id) == "fenced"
    restores.assert_whole()
    assert restores.world.row(task.task_id).state == TaskState.COMPLETED


def test_a_frozen_attempt_leaves_the_folder_that_its_successor_uses(
    restores: Restores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The successor has the empty target and nothing in it yet, at the moment when the old attempt gives up."""
    task = restores.ask()

    def takeover() -> None:
        restores.world.lose_lease()

    at(monkeypatch, "extracting", takeover)
    assert restores.execute(task.task_id) == "fenced"
    assert restores.target.is_dir(), "the folder is the successor's now"
    assert os.listdir(restores.target) == []
    assert restores.execute(task.task_id) == "completed"
    restores.assert_whole()


def test_what_appears_during_the_moves_stays_and_the_report_says_what_lies_where(
    restores: Restores, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = restores.ask()
    at(monkeypatch, "moving", lambda: (restores.target / "b").write_text("somebody's") and None)
    assert restores.execute(task.task_id) == "failed"
    row = restores.world.row(task.task_id)
    assert row.error is not None
    assert row.error["reason"] == "TARGET_CHANGED"
    assert (restores.target / "b").read_text() == "somebody's"
    assert (restores.target / "a" / "file").read_text() == "a"
    assert row.cleanup is not None
    staging = restores.target / f".holdfast-restore-{task.task_id}.1"
    assert row.cleanup["left_behind"] == [str(restores.target), str(staging)]
    assert (staging / "b" / "file").read_text() == "b"
