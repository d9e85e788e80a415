"""Snapshots renamed, locked, deleted, taken back and purged: the repository is told, or nothing has changed."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.archive.pool import CompressorPool
from holdfast_server.catalog.rows import BackupRow, BackupState
from holdfast_server.errors import FailedPrecondition, HoldfastError, NotFound, Reason, Unavailable
from holdfast_server.repository import sessions
from holdfast_server.repository.facts import Locked, Removed, Renamed
from holdfast_server.tasks.backup_life import BackupLife
from holdfast_server.tasks.snapshot_life import SnapshotLife
from tests.unit.tasks.conftest import World
from tests.unit.tasks.test_snapshot_backup_attempts import Death, Fixture

DAY = 24 * 3600.0


class Place(Fixture):
    """A repository with one snapshot."""

    def __init__(self, world: World, base: Path, pool: CompressorPool) -> None:
        super().__init__(world, base, pool)
        self.life = self.another(24.0)
        self.task = self.order(self.source("s"))
        assert self.execute(self.task.task_id) == "completed"

    def another(self, hours: float) -> BackupLife:
        snapshots = SnapshotLife(self.world.database, self.world.clock, self.data_dir)
        return BackupLife(self.world.database, self.world.clock, hours, self.base / "trash.lock", snapshots)

    @property
    def rows(self) -> list[BackupRow]:
        return self.backups(self.task.task_id)

    @property
    def row(self) -> BackupRow:
        [row] = self.rows
        return row

    def take_away(self) -> None:
        os.rename(self.vault, self.base / "away")

    def bring_back(self) -> None:
        os.rename(self.base / "away", self.vault)


@pytest.fixture
def place(world: World, tmp_path: Path) -> Iterator[Place]:
    pool = CompressorPool(1, 32 << 20)
    yield Place(world, tmp_path, pool)
    pool.close()


def refusal(call: Callable[[], Any]) -> tuple[type[HoldfastError], Reason]:
    with pytest.raises(HoldfastError) as caught:
        call()
    return type(caught.value), caught.value.reason


def test_the_repository_is_told_of_names_and_locks_that_changed(place: Place) -> None:
    backup_id = place.row.backup_id
    assert place.life.update(backup_id, name="new", locked=True).name == "new"
    place.life.update(backup_id, name="new", locked=True)
    place.life.update(backup_id, locked=False)
    assert place.facts(Renamed) == [Renamed(backup_id, "new")]
    assert place.facts(Locked) == [Locked(backup_id, True), Locked(backup_id, False)]


def test_an_update_of_an_unreachable_repository_changes_nothing(place: Place) -> None:
    before = place.row
    place.take_away()
    update = lambda: place.life.update(before.backup_id, name="new", locked=True)  # noqa: E731
    assert refusal(update) == (Unavailable, Reason.STORAGE_UNREACHABLE)
    assert place.row == before
    place.bring_back()
    assert place.facts(Renamed) == place.facts(Locked) == []


def test_to_the_trash_and_back(place: Place) -> None:
    before = place.row
    deleted = place.life.delete(before.backup_id)
    assert deleted.trashed
    assert set(place.snapshots()) == {before.backup_id}
    assert place.life.purge() == 0
    back = place.life.undelete(before.backup_id)
    assert not back.trashed
    place.world.clock.step(2 * DAY)
    assert place.life.purge() == 0
    assert set(place.snapshots()) == {before.backup_id}
    assert place.facts(Removed) == []


def test_the_trash_needs_no_repository_at_hand(place: Place) -> None:
    place.take_away()
    place.life.delete(place.row.backup_id)
    assert not place.life.undelete(place.row.backup_id).trashed


def test_a_locked_snapshot_is_not_deleted(place: Place) -> None:
    place.life.update(place.row.backup_id, locked=True)
    assert refusal(lambda: place.life.delete(place.row.backup_id)) == (FailedPrecondition, Reason.BACKUP_LOCKED)


def test_a_purge_removes_the_snapshot_and_says_so_in_the_log(place: Place) -> None:
    backup_id = place.row.backup_id
    packs = sorted((place.vault / "packs").iterdir())
    place.life.delete(backup_id)
    place.world.clock.step(DAY + 1)
    assert place.life.purge() == 1
    assert place.rows == []
    assert place.snapshots() == {}
    assert list((place.vault / "snapshots").iterdir()) == []
    assert place.facts(Removed) == [Removed((backup_id,))]
    assert sorted((place.vault / "packs").iterdir()) == packs, "others may need them"
    assert refusal(lambda: place.life.undelete(backup_id)) == (NotFound, Reason.BACKUP_NOT_FOUND)


def test_without_a_trash_a_deletion_is_for_good(place: Place) -> None:
    place.another(0.0).delete(place.row.backup_id)
    assert place.rows == []
    assert place.snapshots() == {}


def test_a_purge_waits_for_a_repository_that_is_away(place: Place) -> None:
    backup_id = place.row.backup_id
    place.life.delete(backup_id)
    place.world.clock.step(DAY + 1)
    place.take_away()
    assert place.life.purge() == 0
    assert place.row.trashed
    place.bring_back()
    assert set(place.snapshots()) == {backup_id}
    assert place.life.purge() == 1
    assert place.rows == []
    assert place.snapshots() == {}


@pytest.mark.parametrize("before", [True, False])
def test_a_purge_that_died_is_finished(place: Place, monkeypatch: pytest.MonkeyPatch, before: bool) -> None:
    original = sessions.LogWriter.append

    def append(*arguments: Any) -> None:
        if not before:
            original(*arguments)
        raise Death

    place.life.delete(place.row.backup_id)
    place.world.clock.step(DAY + 1)
    with monkeypatch.context() as patch:
        patch.setattr(sessions.LogWriter, "append", append)
        with pytest.raises(Death):
            place.life.purge()
    assert place.life.purge() == 1
    assert place.rows == []
    assert place.snapshots() == {}
    assert {fact.run_ids for fact in place.facts(Removed)}


def test_a_failed_backup_goes_without_a_word_in_the_log(place: Place) -> None:
    task = place.order(place.source("t"))
    os.rename(place.base / "t", place.base / "moved")
    assert place.execute(task.task_id) == "failed"
    [failed] = place.backups(task.task_id)
    assert failed.state == BackupState.FAILED
    place.life.update(failed.backup_id, name=str(uuid.uuid4()))
    place.life.delete(failed.backup_id)
    place.world.clock.step(DAY + 1)
    assert place.life.purge() == 1
    assert place.backups(task.task_id) == []
    assert place.facts(Removed) == place.facts(Renamed) == []
    assert set(place.snapshots()) == {place.row.backup_id}
