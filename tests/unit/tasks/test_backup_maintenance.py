"""The maintenance after a backup: in its turn, seen by watchers, and never the backup's undoing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.catalog import locks, repositories, tasks
from holdfast_server.catalog.rows import BackupState, EventKind, LockMode, MaintenanceState, TaskRow, TaskState
from holdfast_server.core.retention import RetentionPolicy
from holdfast_server.errors import DataLoss, HoldfastError, Reason, Unavailable
from holdfast_server.tasks import backup_maintenance, compact_repository, pruning
from holdfast_server.tasks.backup_maintenance import MaintenanceOrder
from holdfast_server.tasks.backup_orders import BackupOrder
from tests.unit.tasks.conftest import World
from tests.unit.tasks.test_prune_repository import Pruned, die
from tests.unit.tasks.test_snapshot_backup_attempts import Death

NEWEST = RetentionPolicy(keep_last=1)
EVERYTHING = MaintenanceOrder(NEWEST, prune=True, compact=True, check_percent=100)
RESOURCE = repositories.maintenance_resource("vault")


class Maintained(Pruned):
    """Source `s` with one backup; each further one is followed by maintenance."""

    def ordered(self, maintenance: MaintenanceOrder = EVERYTHING, *source_ids: str) -> TaskRow:
        self.world.clock.step(1)
        order = BackupOrder(source_ids or ("s",), False, repository_id="vault", maintenance=maintenance)
        return self.orders.create(order, "admin", None)

    def maintain(self, maintenance: MaintenanceOrder = EVERYTHING, *source_ids: str) -> TaskRow:
        task = self.ordered(maintenance, *source_ids)
        self.execute(task.task_id)
        return self.world.row(task.task_id)

    def states(self, task_id: str) -> list[tuple[str, str]]:
        """(state, state of the maintenance) as the STATE events tell."""
        with self.world.database.read() as connection:
            events = tasks.events_after(connection, task_id, 0)
        return [
            (one.payload["state"], one.payload["maintenance_state"]) for one in events if one.kind == EventKind.STATE
        ]

    def held(self) -> list[tuple[str, str]]:
        with self.world.database.read() as connection:
            return [(resource, task_id) for resource, task_id, _, _ in locks.all_locks(connection)]


@pytest.fixture
def place(world: World, tmp_path: Path) -> Iterator[Maintained]:
    pool = CompressorPool(1, 32 << 20)
    yield Maintained(world, tmp_path, pool)
    pool.close()


def test_it_prunes_compacts_and_checks_once_the_backups_are_there(place: Maintained) -> None:
    place.back_up(2)
    place.source("t")
    others = place.back_up(2, "t")
    ended = place.maintain()
    assert ended.state == TaskState.COMPLETED, ended.error
    [made] = place.backups(ended.task_id)
    assert set(place.snapshots()) == set(place.present()) == {made.backup_id, *others}, (
        "only its own sources are pruned"
    )
    assert place.states(ended.task_id) == [
        ("PENDING", "NONE"),
        ("RUNNING", "NONE"),
        ("RUNNING", "PRUNING"),
        ("RUNNING", "COMPACTING"),
        ("RUNNING", "CHECKING"),
        ("RUNNING", "COMPLETED"),
        ("COMPLETED", "COMPLETED"),
    ]
    assert place.repository().last_check_time == place.world.clock.now()
    assert ended.progress["original_size"] == made.size, "the maintenance is not part of what was backed up"
    assert place.held() == []


def test_only_what_is_asked_for_is_done(place: Maintained) -> None:
    place.back_up(1)
    ended = place.maintain(MaintenanceOrder(check_percent=50))
    assert [state for _, state in place.states(ended.task_id)][2:] == ["CHECKING", "COMPLETED", "COMPLETED"]
    assert len(place.present()) == 3
    assert place.repository().check_cursor
    assert place.maintain(MaintenanceOrder()).maintenance_state == MaintenanceState.NONE


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DataLoss(Reason.CHECKSUM_MISMATCH, "a list is damaged"), "CHECKSUM_MISMATCH"),
        (Unavailable(Reason.STORAGE_UNREACHABLE, "gone"), "STORAGE_UNREACHABLE"),
        (OSError(5, "Input/output error"), "STORAGE_UNREACHABLE"),
        (ZeroDivisionError(), "INTERNAL"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
def test_its_failure_is_a_warning_of_the_backup(
    place: Maintained, monkeypatch: Any, error: Exception, reason: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(compact_repository, "compact_repository", fail)
    ended = place.maintain()
    assert (ended.state, ended.maintenance_state) == (TaskState.COMPLETED_WITH_WARNINGS, MaintenanceState.FAILED)
    assert [row.state for row in place.backups(ended.task_id)] == [BackupState.COMPLETED]
    assert ended.warning_count == 1
    with place.world.database.read() as connection:
        [problem] = tasks.list_problems(connection, ended.task_id, 0, 10)
    assert problem.reason == reason
    assert "maintenance" in problem.message
    assert "maintenance" in ended.message
    assert ended.error is not None
    assert ended.error["reason"] == reason
    assert (TaskState.RUNNING, "CHECKING") not in place.states(ended.task_id)


def test_damage_that_its_check_finds_is_told(place: Maintained) -> None:
    pack = max((place.vault / "packs").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(pack.read_bytes())
    content[100] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(content)
    ended = place.maintain(MaintenanceOrder(check_percent=100))
    assert (ended.state, ended.maintenance_state) == (TaskState.COMPLETED_WITH_WARNINGS, MaintenanceState.FAILED)
    assert place.repository().state == "DAMAGED"
    assert ended.result is not None
    assert "damaged_objects" not in ended.result


def test_a_backup_that_fails_is_followed_by_nothing(place: Maintained) -> None:
    ordered = place.ordered()
    (place.base / "s").rename(place.base / "away")
    place.execute(ordered.task_id)
    ended = place.world.row(ordered.task_id)
    assert (ended.state, ended.maintenance_state) == (TaskState.FAILED, MaintenanceState.NONE)


def test_it_waits_for_its_turn_and_gives_the_source_back_meanwhile(place: Maintained, monkeypatch: Any) -> None:
    prune = place.file()
    assert place.world.claim(prune.task_id) is not None
    task = place.ordered()
    seen: list[list[tuple[str, str]]] = []

    def end_the_other(_seconds: float) -> None:
        seen.append(place.held())
        with place.world.database.write() as connection:
            locks.release(connection, prune.task_id)

    monkeypatch.setattr("holdfast_server.core.control.Control.wait", lambda _, seconds: end_the_other(seconds))
    place.execute(task.task_id)
    ended = place.world.row(task.task_id)
    assert ended.maintenance_state == MaintenanceState.COMPLETED
    [before] = seen
    assert ("source:s", task.task_id) not in before
    assert (RESOURCE, task.task_id) not in before


def test_others_wait_while_it_maintains(place: Maintained, monkeypatch: Any) -> None:
    queued: list[bool] = []
    real = pruning.prune_repository

    def meanwhile(*arguments: Any, **values: Any) -> Any:
        place.file(RetentionPolicy(keep_last=1))
        queued.append(len(place.world.dispatcher.queue) > 0)
        return real(*arguments, **values)

    monkeypatch.setattr(pruning, "prune_repository", meanwhile)
    place.maintain()
    assert queued == [False]
    place.world.engine.tick()
    assert len(place.world.dispatcher.queue) == 1


def test_a_cancel_while_it_maintains_keeps_the_backup(place: Maintained, monkeypatch: Any) -> None:
    task = place.ordered()
    real = pruning.prune_repository

    def cancelled(*arguments: Any, **values: Any) -> Any:
        place.cancel(task.task_id)
        return real(*arguments, **values)

    monkeypatch.setattr(pruning, "prune_repository", cancelled)
    place.execute(task.task_id)
    ended = place.world.row(task.task_id)
    assert (ended.state, ended.maintenance_state) == (TaskState.CANCELLED, MaintenanceState.FAILED)
    [made] = place.backups(task.task_id)
    assert made.state == BackupState.COMPLETED
    assert made.backup_id in place.snapshots()
    assert ended.cleanup is not None
    assert ended.cleanup["left_behind"] == [made.backup_id]


def test_an_attempt_that_dies_maintaining_is_followed_by_one_that_maintains(
    place: Maintained, monkeypatch: Any
) -> None:
    place.back_up(1)
    task = place.ordered()
    with monkeypatch.context() as dying:
        dying.setattr(compact_repository, "compact_repository", die)
        place.die(task.task_id)
    place.execute(task.task_id)
    ended = place.world.row(task.task_id)
    assert (ended.state, ended.maintenance_state) == (TaskState.COMPLETED, MaintenanceState.COMPLETED)
    [made] = place.backups(task.task_id)
    assert set(place.present()) == {made.backup_id}


def test_a_maintenance_that_kills_its_worker_is_given_up_and_the_backup_stays(
    place: Maintained, monkeypatch: Any
) -> None:
    task = place.ordered()
    monkeypatch.setattr(backup_maintenance.Pruning, "do", die)
    for _ in range(backup_maintenance._FRUITLESS_LIMIT + 2):
        try:
            place.execute(task.task_id)
        except Death:
            place.world.lose_lease()
        else:
            break
    ended = place.world.row(task.task_id)
    assert (ended.state, ended.maintenance_state) == (TaskState.COMPLETED_WITH_WARNINGS, MaintenanceState.FAILED)
    assert ended.error is not None
    assert ended.error["reason"] == "INTERRUPTED"
    assert [row.state for row in place.backups(task.task_id)] == [BackupState.COMPLETED]


def test_orders_that_make_no_sense_are_refused(place: Maintained) -> None:
    def order(maintenance: MaintenanceOrder, **values: Any) -> Callable[[], object]:
        whole = BackupOrder(("s",), False, **{"repository_id": "vault", "maintenance": maintenance, **values})
        return lambda: place.orders.create(whole, "admin", None)

    archive = {"repository_id": "", "folder": bytes(place.base), "format": ArchiveFormat.ZIP}
    cases = [
        (order(MaintenanceOrder(prune=True)), "maintenance.retention"),
        (order(MaintenanceOrder(NEWEST)), "maintenance.prune"),
        (order(MaintenanceOrder(RetentionPolicy(keep_daily=0), prune=True)), "maintenance.retention.keep_daily"),
        (order(MaintenanceOrder(check_percent=101)), "maintenance.check_percent"),
        (order(EVERYTHING, dry_run=True), "maintenance"),
        (order(MaintenanceOrder(), **archive), "maintenance"),
    ]
    for call, field in cases:
        with pytest.raises(HoldfastError) as caught:
            call()
        assert (caught.value.reason, caught.value.metadata["field"]) == (Reason.INVALID_FIELD, field)


def test_a_lock_beside_those_of_the_queue(world: World) -> None:
    other = world.create((RESOURCE, LockMode.EXCLUSIVE))
    task = world.create(("source:s", LockMode.SHARED))
    with world.database.write() as connection:
        assert locks.hold_besides(connection, task.task_id, RESOURCE) == other.task_id
        locks.release(connection, other.task_id)
        assert locks.hold_besides(connection, task.task_id, RESOURCE) is None
        assert locks.hold_besides(connection, task.task_id, RESOURCE) is None
        assert locks.hold_besides(connection, other.task_id, RESOURCE) == task.task_id
