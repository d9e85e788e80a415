"""Prunes: what goes is decided in one transaction with its mark, and dying, cancelling and locking lose nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.archive.pool import CompressorPool
from holdfast_server.catalog import backups, repositories
from holdfast_server.catalog.requests import RequestKey
from holdfast_server.catalog.rows import BackupRow, LockMode, RepositoryRow, TaskKind, TaskRow, TaskState
from holdfast_server.core.retention import RetentionPolicy
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.repository.facts import Removed
from holdfast_server.tasks import pruning, snapshot_target
from holdfast_server.tasks.maintenance_orders import MaintenanceOrders, PruneOrder
from holdfast_server.tasks.prune_repository import PruneHandler
from tests.unit.tasks.conftest import World
from tests.unit.tasks.test_snapshot_backup_attempts import Death
from tests.unit.tasks.test_snapshot_life import Place

NEWEST = RetentionPolicy(keep_last=1)


class Pruned(Place):
    """Source `s` with `count` backups, the newest last; each stores a file of its own."""

    def __init__(self, world: World, base: Path, pool: CompressorPool) -> None:
        super().__init__(world, base, pool)
        self.ids = [self.row.backup_id]
        self.maintenance = MaintenanceOrders(world.engine, self.vaults)
        self.pruner = PruneHandler(world.database, world.clock, self.data_dir)

    def back_up(self, count: int = 1, source_id: str = "s", **values: Any) -> list[str]:
        made = []
        for _ in range(count):
            (self.base / source_id / "file").write_bytes(os.urandom(100_000))
            task = self.order(source_id)
            assert self.execute(task.task_id) == "completed"
            made += [row.backup_id for row in self.backups(task.task_id)]
        if source_id == "s":
            self.ids += made
        return made

    def file(self, policy: RetentionPolicy = NEWEST, *source_ids: str, dry_run: bool = False, **values: Any) -> TaskRow:
        self.world.clock.step(1)
        order = PruneOrder("vault", policy, source_ids, dry_run)
        return self.maintenance.prune(order, "admin", values.get("key"))

    def run(self, task: TaskRow) -> TaskRow:
        handler, self.world.handler = self.world.handler, self.pruner  # type: ignore[assignment]
        try:
            self.execute(task.task_id)
        finally:
            self.world.handler = handler
        return self.world.row(task.task_id)

    def prune(self, policy: RetentionPolicy = NEWEST, *source_ids: str, **values: Any) -> dict[str, Any]:
        ended = self.run(self.file(policy, *source_ids, **values))
        assert ended.state == TaskState.COMPLETED, ended.error
        assert ended.result is not None
        return ended.result

    def present(self) -> dict[str, BackupRow]:
        with self.world.database.read() as connection:
            return {row.backup_id: row for row in backups.every_backup(connection)}

    def repository(self) -> RepositoryRow:
        with self.world.database.read() as connection:
            row = repositories.get_repository(connection, "vault")
        assert row is not None
        return row

    def lock(self, backup_id: str) -> None:
        self.life.update(backup_id, locked=True)


@pytest.fixture
def place(world: World, tmp_path: Path) -> Iterator[Pruned]:
    pool = CompressorPool(1, 32 << 20)
    yield Pruned(world, tmp_path, pool)
    pool.close()


def refused(call: Callable[[], object]) -> HoldfastError:
    with pytest.raises(HoldfastError) as caught:
        call()
    return caught.value


def test_what_no_rule_keeps_is_removed_and_its_bytes_are_freed(place: Pruned) -> None:
    place.back_up(3)
    before = place.repository()
    result = place.prune(RetentionPolicy(keep_last=2))
    assert set(place.snapshots()) == set(place.present()) == set(place.ids[2:])
    [plan] = result["plans"]
    assert (plan["source_id"], plan["kept"], plan["removed"]) == ("s", 2, 2)
    assert [one["backup_id"] for one in plan["removed_backups"]] == place.ids[1::-1]
    assert plan["kept_backups"][0] == {"backup_id": place.ids[3], "rules": ["last"]}
    assert (result["backups_kept"], result["backups_removed"]) == (2, 2)
    assert result["bytes_freed"] >= 100_000
    assert result["bytes_pending"] == 0
    after = place.repository()
    assert after.update_time > before.update_time
    assert repositories.newer_heads(before, after.log_vector)


def test_a_dry_run_changes_nothing_and_tells_what_would_be_freed(place: Pruned) -> None:
    place.back_up(2)
    stored = {path: path.read_bytes() for path in place.vault.rglob("*") if path.is_file()}
    known, row = place.present(), place.repository()
    foreseen = place.prune(dry_run=True)
    assert {path: path.read_bytes() for path in place.vault.rglob("*") if path.is_file()} == stored
    assert (place.present(), place.repository()) == (known, row)
    assert (foreseen["backups_removed"], foreseen["bytes_freed"]) == (2, 0)
    done = place.prune()
    assert done["plans"] == foreseen["plans"]
    assert foreseen["bytes_pending"] == done["bytes_freed"] > 0


def test_without_rules_nothing_goes_but_what_nothing_needs(place: Pruned) -> None:
    place.back_up(1)
    task = place.order(place.source("t"))
    assert place.execute(task.task_id) == "completed"
    [gone] = place.backups(task.task_id)
    place.another(0.0).delete(gone.backup_id)
    result = place.prune(RetentionPolicy())
    assert set(place.present()) == set(place.ids)
    assert result["backups_removed"] == 0
    assert result["bytes_freed"] > 0


def test_each_source_counts_by_itself_and_only_those_named(place: Pruned) -> None:
    place.back_up(1)
    place.source("t")
    others = place.back_up(3, "t")
    result = place.prune(NEWEST, "t")
    assert set(place.present()) == {*place.ids, others[-1]}
    assert [plan["source_id"] for plan in result["plans"]] == ["t"]
    result = place.prune()
    assert set(place.present()) == {place.ids[-1], others[-1]}
    assert [plan["source_id"] for plan in result["plans"]] == ["s", "t"]


def test_locked_used_and_trashed_backups_are_left_alone(place: Pruned) -> None:
    place.back_up(4)
    locked, used, trashed = place.ids[:3]
    place.lock(locked)
    place.life.delete(trashed)
    place.world.create((backups.lock_resource(used), LockMode.SHARED), kind=TaskKind.VERIFY)
    [plan] = place.prune()["plans"]
    assert set(place.present()) == {locked, used, trashed, place.ids[-1]}
    rules = {one["backup_id"]: one["rules"] for one in plan["kept_backups"]}
    assert rules == {place.ids[-1]: ["last"], used: ["in use"], locked: ["locked"]}
    assert (plan["locked"], plan["removed"]) == (1, 1)
    assert place.life.undelete(trashed).delete_time is None


def test_a_backup_under_way_stays_and_what_it_may_need_is_pending(place: Pruned, monkeypatch: Any) -> None:
    place.back_up(1)
    result: dict[str, Any] = {}

    def meanwhile(*arguments: Any, **values: Any) -> Any:
        result.update(place.prune())
        return whole(*arguments, **values)

    whole = snapshot_target.write_entries
    monkeypatch.setattr(snapshot_target, "write_entries", meanwhile)
    task = place.order("s")
    assert place.execute(task.task_id) == "completed"
    assert (result["backups_removed"], result["bytes_freed"]) == (1, 0)
    assert (result["runs_waited_for"], result["bytes_pending"] > 0) == (1, True)
    rules = {one["backup_id"]: one["rules"] for one in result["plans"][0]["kept_backups"]}
    [made] = place.backups(task.task_id)
    assert rules[made.backup_id] == ["incomplete, nothing newer", "in use"]
    assert place.prune()["bytes_freed"] > 0
    assert set(place.snapshots()) == {made.backup_id}


def test_a_backup_that_is_locked_until_the_last_moment_stays(place: Pruned, monkeypatch: Any) -> None:
    place.back_up(4)
    monkeypatch.setattr(pruning, "_BATCH", 2)
    remove = pruning.remove_snapshots

    def lock_first(*arguments: Any) -> None:
        monkeypatch.setattr(pruning, "remove_snapshots", remove)
        place.lock(place.ids[2])
        gone = refused(lambda: place.lock(place.ids[0]))  # marked a moment ago
        assert gone.reason is Reason.BACKUP_NOT_FOUND
        remove(*arguments)

    monkeypatch.setattr(pruning, "remove_snapshots", lock_first)
    [plan] = place.prune()["plans"]
    assert set(place.snapshots()) == set(place.present()) == {place.ids[2], place.ids[4]}
    assert plan["removed"] == 3


def test_a_cancelled_prune_keeps_what_it_has_not_come_to(place: Pruned, monkeypatch: Any) -> None:
    place.back_up(4)
    monkeypatch.setattr(pruning, "_BATCH", 2)
    remove = pruning.remove_snapshots
    task = place.file()

    def cancel_after(*arguments: Any) -> None:
        remove(*arguments)
        place.cancel(task.task_id)

    monkeypatch.setattr(pruning, "remove_snapshots", cancel_after)
    ended = place.run(task)
    assert ended.state == TaskState.CANCELLED
    assert set(place.snapshots()) == set(place.present()) == set(place.ids[2:])
    assert ended.result is not None
    assert ended.result["backups_removed"] == 2
    assert [one["backup_id"] for one in ended.result["plans"][0]["removed_backups"]] == place.ids[1::-1]


def test_what_a_dead_prune_has_marked_is_purged_without_another(place: Pruned, monkeypatch: Any) -> None:
    place.back_up(1)
    task = place.file()
    monkeypatch.setattr(pruning, "remove_snapshots", die)
    with pytest.raises(Death):
        place.run(task)
    assert set(place.snapshots()) == set(place.ids)
    place.life.purge()
    assert set(place.snapshots()) == set(place.present()) == {place.ids[-1]}


@pytest.mark.parametrize("moment", ["remove_snapshots", "heads_of", "prune_repository", "keep_maintained"])
def test_an_attempt_that_dies_is_finished_by_the_next(place: Pruned, monkeypatch: Any, moment: str) -> None:
    place.back_up(4)
    monkeypatch.setattr(pruning, "_BATCH", 3)
    task = place.file()
    with monkeypatch.context() as dying:
        dying.setattr(pruning, moment, die)
        with pytest.raises(Death):
            place.run(task)
    place.world.lose_lease()
    ended = place.run(task)
    assert ended.state == TaskState.COMPLETED, ended.error
    assert set(place.snapshots()) == set(place.present()) == {place.ids[-1]}
    [plan] = ended.result["plans"] if ended.result else []
    assert plan["removed"] == 4
    assert [one["backup_id"] for one in plan["removed_backups"]] == place.ids[3::-1]
    assert place.prune()["bytes_pending"] == 0
    assert sorted(one for fact in place.facts(Removed) for one in fact.run_ids) == sorted(place.ids[:-1])


def die(*_: object, **__: object) -> None:
    raise Death


def test_a_prune_that_fails_says_what_it_removed(place: Pruned) -> None:
    place.back_up(1)
    place.source("t")
    [damaged] = place.back_up(1, "t")
    object_ = place.vault / "snapshots" / damaged
    object_.chmod(0o600)
    object_.write_bytes(b"not a snapshot any more")
    ended = place.run(place.file())
    assert ended.state == TaskState.FAILED
    assert ended.error is not None
    assert ended.error["reason"] == "CHECKSUM_MISMATCH"
    assert damaged in ended.error["message"]
    assert ended.result is not None
    assert ended.result["backups_removed"] == 1
    assert list(place.present()).count(place.ids[0]) == 0
    # Without that backup it goes on.
    place.another(0.0).delete(damaged)
    assert place.prune()["bytes_freed"] > 0


def test_one_at_a_time_while_backups_go_on(place: Pruned) -> None:
    first, second = place.file(), place.file()
    backup = place.order("s")
    queued = [task_id for task_id, _ in place.world.dispatcher.queue]
    assert queued == [first.task_id, backup.task_id]
    place.run(first)
    place.world.engine.tick()
    assert place.run(second).state == TaskState.COMPLETED


def test_orders_that_make_no_sense_are_refused(place: Pruned) -> None:
    orders = place.maintenance
    for call, reason in (
        (lambda: orders.prune(PruneOrder("none", NEWEST), "a", None), Reason.REPOSITORY_NOT_FOUND),
        (lambda: orders.compact("none", "a", None, dry_run=False), Reason.REPOSITORY_NOT_FOUND),
        (lambda: orders.prune(PruneOrder("vault", NEWEST, ("none",)), "a", None), Reason.SOURCE_NOT_FOUND),
        (lambda: orders.prune(PruneOrder("vault", NEWEST, ("s", "s")), "a", None), Reason.INVALID_FIELD),
        (lambda: orders.prune(PruneOrder("vault", RetentionPolicy(keep_last=0)), "a", None), Reason.INVALID_FIELD),
    ):
        assert refused(call).reason is reason
    place.take_away()
    assert refused(lambda: place.file()).reason is Reason.STORAGE_UNREACHABLE
    place.bring_back()
    place.registry.unregister("s")
    assert place.prune(NEWEST, "s")["backups_kept"] == 1


def test_the_same_request_is_one_task(place: Pruned) -> None:
    key = RequestKey("admin", "PruneRepository", "6f1c1a52-0000-0000-0000-000000000000", "f")
    assert place.file(key=key).task_id == place.file(key=key).task_id
