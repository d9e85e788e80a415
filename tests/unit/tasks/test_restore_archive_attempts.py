"""Restores of archives whose attempts die, and whose limit it was that was passed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.archive.reading import LimitExceeded
from holdfast_server.catalog.rows import TaskKind, TaskRow
from holdfast_server.core import restore as core_restore
from holdfast_server.errors import Reason
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks import restore_archive as module
from holdfast_server.tasks.restore_archive import (
    ArchiveLimits,
    RestoreArchiveHandler,
    RestoreArchiveOrder,
    RestoreArchiveOrders,
    ServiceLimits,
)
from tests.unit.archive.samples import directory, file, tar_gz
from tests.unit.tasks.conftest import World
from tests.unit.tasks.test_backup_attempts import Death


class Restores:
    def __init__(self, world: World, base: Path) -> None:
        (base / "data").mkdir()
        policy = FolderPolicy(str(base / "data"), ["/"])
        world.handler = RestoreArchiveHandler(policy, ServiceLimits(), world.clock)  # type: ignore[assignment]
        self.orders = RestoreArchiveOrders(world.engine, policy, world.clock, world.wallet_keys(policy))
        self.world = world
        self.target = base / "target"
        self.archive = base / "archive"
        self.archive.write_bytes(tar_gz([directory(b"a"), file(b"a/f", mode=0o4755), file(b"b"), file(b"c")]))
        self.made = 0

    def ask(self, **values: Any) -> TaskRow:
        order = RestoreArchiveOrder(os.fsencode(self.archive), os.fsencode(self.target), **values)
        row = self.orders.create(order, "admin", None)
        assert row.kind == TaskKind.RESTORE_ARCHIVE
        return row

    def execute(self, task_id: str) -> str:
        self.made += 1
        return self.world.execute(task_id, self.world.new_worker(f"00000000-0000-0000-0000-{self.made + 100:012}"))

    def die(self, task_id: str) -> None:
        with pytest.raises(Death):
            self.execute(task_id)
        self.world.lose_lease()


@pytest.fixture
def restores(world: World, tmp_path: Path) -> Restores:
    return Restores(world, tmp_path)


def once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, at: int, happening: Callable[[], None]) -> None:
    """Let something happen before the numbered call of a function."""
    original: Any = getattr(owner, name)
    calls: list[int] = []

    def wrapped(*arguments: Any, **values: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            happening()
        return original(*arguments, **values)

    monkeypatch.setattr(owner, name, wrapped)


def die() -> None:
    raise Death


@pytest.mark.parametrize(
    ("owner", "name", "at"), [(module, "extract_to_staging", 1), (core_restore, "_move_up", 2)], ids=["prove", "move"]
)
def test_a_dead_attempt_is_followed_by_a_whole_tree_and_the_same_report(
    restores: Restores, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, at: int
) -> None:
    task = restores.ask()
    once(monkeypatch, owner, name, at=at, happening=die)
    restores.die(task.task_id)
    if name == "_move_up":
        restores.archive.unlink()  # what was proved needs no archive any more
    assert restores.execute(task.task_id) == "completed"
    assert sorted(os.listdir(restores.target)) == ["a", "b", "c"]
    row = restores.world.row(task.task_id)
    assert row.state == "COMPLETED_WITH_WARNINGS", "set-id bits were dropped, in whichever attempt"
    assert row.result is not None
    assert (row.result["files"], row.result["directories"], row.result["has_manifest"]) == (3, 1, False)
    assert "no manifest" in row.message


def test_a_cancel_while_it_is_proved_leaves_nothing(restores: Restores, monkeypatch: pytest.MonkeyPatch) -> None:
    task = restores.ask()
    once(
        monkeypatch, module, "extract_to_staging", at=1,
        happening=lambda: restores.world.engine.cancel(task.task_id) and None,
    )  # fmt: skip
    assert restores.execute(task.task_id) == "cancelled"
    assert not restores.target.exists()


def test_a_dry_run_is_no_short_task(restores: Restores) -> None:
    """It reads all of the archive: two of them would keep every short task waiting."""
    assert restores.ask(dry_run=True).queue == "data"


def test_the_tighter_limit_holds() -> None:
    service = ServiceLimits(max_entries=10, max_ratio=20, max_depth=30)
    found = service.with_asked(ArchiveLimits(max_entries=11, max_ratio=19))
    assert (found.entries, found.ratio, found.depth) == (10, 19, 30)


@pytest.mark.parametrize(
    ("limit", "asked", "words"),
    [
        ("entries", {}, "the service allows 10: raise [restore] max_entries"),
        ("entries", {"max_entries": 50}, "the service allows 10: raise [restore] max_entries"),
        ("entries", {"max_entries": 5}, "the call set limits.max_entries to 5, the service allows 10"),
        ("total_bytes", {"max_bytes": 7}, "the call set limits.max_bytes to 7; it may be more"),
        ("path_length", {}, "this limit is fixed"),
    ],
)
def test_a_passed_limit_says_whose_it_is_and_how_to_raise_it(limit: str, asked: dict[str, int], words: str) -> None:
    error = ServiceLimits(max_entries=10).explain(LimitExceeded(limit, 5, "too much"), ArchiveLimits(**asked))
    assert words in error.message
    assert error.reason is Reason.QUOTA_EXCEEDED
    assert error.metadata["allowed"] == "5"
