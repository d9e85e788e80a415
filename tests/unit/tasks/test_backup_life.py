"""Stored backups renamed, locked, deleted, taken back and purged: what refuses, what races, and what crashes leave."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.catalog import backups
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import BackupRow, BackupState, LockMode, TaskState
from holdfast_server.core.trash import hide, trash_name
from holdfast_server.core.verify import VerifyLevel
from holdfast_server.errors import Aborted, FailedPrecondition, HoldfastError, NotFound, Reason, Unavailable
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks import backup_life as module
from holdfast_server.tasks.backup_life import BackupLife
from holdfast_server.tasks.restore import RestoreOrder, RestoreOrders
from holdfast_server.tasks.snapshot_life import SnapshotLife
from holdfast_server.tasks.stored import find_backup
from holdfast_server.tasks.verify import VerifyOrders
from tests.unit.tasks.conftest import World

HOUR = 3600.0
DAY = 24 * HOUR
CONTENT = b"content"


class Death(BaseException):
    """The end of a process, as far as the code around it can tell."""


class Place:
    """A catalog with backups whose archives lie in one folder."""

    def __init__(self, world: World, base: Path, hours: float = 24.0) -> None:
        self.world, self.base = world, base
        self.folder = base / "archives"
        self.folder.mkdir(exist_ok=True)
        self.life = self.another(hours)

    def another(self, hours: float = 24.0) -> BackupLife:
        """One more, as another process has it."""
        snapshots = SnapshotLife(self.world.database, self.world.clock, os.fsencode(self.base))
        return BackupLife(self.world.database, self.world.clock, hours, self.base / "trash.lock", snapshots)

    def backup(self, name: str = "a.zip", **values: Any) -> BackupRow:
        now = self.world.clock.now()
        completed = BackupRow(
            backup_id=str(uuid.uuid4()), name=name, source_id="one", task_id=str(uuid.uuid4()), kind="ARCHIVE",
            state=BackupState.COMPLETED, format="ZIP", folder=os.fsencode(self.folder), ignore=[], create_time=now,
            update_time=now, file_name=name.encode(), size=len(CONTENT), sha256="0" * 64, complete=True,
            complete_time=now, statistics={"original_size": 1, "files": 1},
        )  # fmt: skip
        row = replace(completed, **values)
        with self.world.database.write() as connection:
            backups.insert_backup(connection, row)
        if row.state == BackupState.COMPLETED:
            (self.folder / name).write_bytes(CONTENT)
        return row

    def row(self, backup_id: str) -> BackupRow:
        with self.world.database.read() as connection:
            return find_backup(connection, backup_id)

    def names(self) -> set[str]:
        return set(os.listdir(self.folder))

    def hidden(self, row: BackupRow) -> str:
        return trash_name(row.backup_id, row.file_name or b"").decode()


@pytest.fixture
def place(world: World, tmp_path: Path) -> Place:
    return Place(world, tmp_path)


def refusal(call: Callable[[], Any]) -> tuple[type[HoldfastError], Reason]:
    with pytest.raises(HoldfastError) as caught:
        call()
    return type(caught.value), caught.value.reason


# -- renaming and locking ------------------------------------------------------------------------------------


def test_an_update_changes_what_is_given_and_only_that(place: Place) -> None:
    row = place.backup()
    place.world.clock.step(1)
    renamed = place.life.update(row.backup_id, name="other")
    assert renamed == replace(row, name="other", update_time=place.world.clock.now())
    place.world.clock.step(1)
    locked = place.life.update(row.backup_id, locked=True)
    assert locked == replace(renamed, locked=True, update_time=place.world.clock.now())
    place.world.clock.step(1)
    assert place.life.update(row.backup_id) == locked
    assert place.life.update(row.backup_id, name="other", locked=True) == locked, "nothing new, so no new time"
    assert not place.life.update(row.backup_id, locked=False).locked


@pytest.mark.parametrize("name", ["", " ", "x" * 256, "é" * 128, "two\nlines", "\x1b[31m"])
def test_a_bad_name_changes_nothing(place: Place, name: str) -> None:
    row = place.backup()
    assert refusal(lambda: place.life.update(row.backup_id, name=name, locked=True))[1] is Reason.INVALID_FIELD
    assert place.row(row.backup_id) == row


def test_a_backup_in_the_trash_is_not_updated(place: Place) -> None:
    row = place.backup()
    place.life.delete(row.backup_id)
    assert refusal(lambda: place.life.update(row.backup_id, locked=True)) == (NotFound, Reason.BACKUP_NOT_FOUND)
    assert refusal(lambda: place.life.update(str(uuid.uuid4()))) == (NotFound, Reason.BACKUP_NOT_FOUND)


# -- deleting and taking back --------------------------------------------------------------------------------


def test_to_the_trash_and_back(place: Place) -> None:
    row = place.backup()
    now = place.world.clock.now()
    deleted = place.life.delete(row.backup_id)
    assert (deleted.delete_time, deleted.purge_time) == (now, now + int(DAY * 1e6))
    assert deleted.storage_path == os.fsencode(place.folder / place.hidden(row))
    assert place.names() == {place.hidden(row)}
    place.world.clock.step(HOUR)
    assert place.life.delete(row.backup_id) == deleted, "deleting twice does not keep it longer"
    taken = place.life.undelete(row.backup_id)
    assert taken == replace(row, update_time=place.world.clock.now())
    assert place.life.undelete(row.backup_id) == taken
    assert place.names() == {"a.zip"}


def test_a_name_taken_meanwhile_gets_a_number(place: Place) -> None:
    first = place.backup()
    place.life.delete(first.backup_id)
    second = place.backup(size=9)
    (place.folder / "a.zip").write_bytes(b"123456789")
    assert place.life.undelete(first.backup_id).file_name == b"a-2.zip"
    assert place.names() == {"a.zip", "a-2.zip"}
    place.life.delete(first.backup_id)
    assert place.names() == {"a.zip", trash_name(first.backup_id, b"a-2.zip").decode()}
    assert not place.row(second.backup_id).trashed


def test_a_locked_backup_is_not_deleted(place: Place) -> None:
    row = place.backup(locked=True)
    assert refusal(lambda: place.life.delete(row.backup_id)) == (FailedPrecondition, Reason.BACKUP_LOCKED)
    assert place.names() == {"a.zip"}
    place.life.update(row.backup_id, locked=False)
    assert place.life.delete(row.backup_id).trashed


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_backup_that_a_task_reads_or_wants_is_busy(place: Place, dry_run: bool) -> None:
    row = place.backup()
    task = place.world.create((backups.lock_resource(row.backup_id), LockMode.SHARED), dry_run=dry_run)
    assert refusal(lambda: place.life.delete(row.backup_id)) == (Aborted, Reason.BACKUP_BUSY)
    place.world.execute(task.task_id)
    assert place.life.delete(row.backup_id).trashed


def test_a_backup_belongs_to_its_task_until_that_ends(place: Place) -> None:
    task = place.world.create()
    for state in (BackupState.IN_PROGRESS, BackupState.COMPLETED):
        row = place.backup(task_id=task.task_id, state=state)
        assert refusal(lambda row=row: place.life.delete(row.backup_id)) == (Aborted, Reason.BACKUP_BUSY)
    place.world.execute(task.task_id)
    assert place.life.delete(row.backup_id).trashed


def test_a_failed_backup_goes_without_touching_any_file(place: Place) -> None:
    (place.folder / "a.zip").write_bytes(CONTENT)
    row = place.backup(state=BackupState.FAILED)
    assert place.life.delete(row.backup_id).trash_name is None
    assert place.life.undelete(row.backup_id).state == BackupState.FAILED
    place.life.delete(row.backup_id)
    place.world.clock.step(DAY)
    assert place.life.purge() == 1
    assert place.names() == {"a.zip"}


def test_an_archive_that_is_gone_lets_its_backup_go(place: Place) -> None:
    row = place.backup()
    (place.folder / "a.zip").unlink()
    assert place.life.delete(row.backup_id).trash_name is None
    (place.folder / "a.zip").write_bytes(b"another file")
    assert not place.life.undelete(row.backup_id).trashed
    (place.folder / "a.zip").unlink()
    place.life.delete(row.backup_id)
    place.world.clock.step(DAY)
    assert place.life.purge() == 1
    assert refusal(lambda: place.row(row.backup_id)) == (NotFound, Reason.BACKUP_NOT_FOUND)


def test_a_file_that_is_another_one_now_stops_the_deletion(place: Place) -> None:
    row = place.backup()
    (place.folder / "a.zip").write_bytes(b"somebody's file")
    assert refusal(lambda: place.life.delete(row.backup_id)) == (FailedPrecondition, Reason.ARCHIVE_CHANGED)
    assert (place.row(row.backup_id), place.names()) == (row, {"a.zip"})


def test_storage_that_is_away_changes_nothing(place: Place) -> None:
    row, other = place.backup(), place.backup("b.zip")
    place.life.delete(other.backup_id)
    os.rename(place.folder, place.base / "away")
    assert refusal(lambda: place.life.delete(row.backup_id)) == (Unavailable, Reason.STORAGE_UNREACHABLE)
    assert refusal(lambda: place.life.undelete(other.backup_id)) == (Unavailable, Reason.STORAGE_UNREACHABLE)
    assert (place.row(row.backup_id), place.row(other.backup_id).trashed) == (row, True)
    place.world.clock.step(DAY)
    assert place.life.purge() == 0
    place.life.repair()
    os.rename(place.base / "away", place.folder)
    assert place.life.purge() == 1
    assert place.names() == {"a.zip"}


def test_a_rename_that_fails_leaves_the_backup_as_it_was(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    row = place.backup()

    def fail(_: Any) -> bool:
        raise Unavailable(Reason.STORAGE_UNREACHABLE, "no")

    monkeypatch.setattr(module, "hide", fail)
    assert refusal(lambda: place.life.delete(row.backup_id))[1] is Reason.STORAGE_UNREACHABLE
    found = place.row(row.backup_id)
    assert replace(found, update_time=row.update_time) == row
    assert place.names() == {"a.zip"}


def test_a_rename_that_fails_after_it_happened_is_a_deletion(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    row = place.backup()

    def fail(archive: Any) -> bool:
        hide(archive)
        raise Unavailable(Reason.STORAGE_UNREACHABLE, "the folder's sync failed")

    monkeypatch.setattr(module, "hide", fail)
    assert place.life.delete(row.backup_id).trashed
    assert place.names() == {place.hidden(row)}


# -- purging -------------------------------------------------------------------------------------------------


def test_what_is_past_its_time_is_purged_and_nothing_else(place: Place) -> None:
    old, young, live = place.backup("a.zip"), place.backup("b.zip"), place.backup("c.zip")
    place.life.delete(old.backup_id)
    place.world.clock.step(HOUR)
    place.life.delete(young.backup_id)
    assert place.life.purge() == 0
    place.world.clock.step(23 * HOUR)
    refused = refusal(lambda: place.life.undelete(old.backup_id))
    assert refused == (NotFound, Reason.BACKUP_NOT_FOUND), "its time is over, purged or not"
    assert (place.life.purge(), place.life.purge()) == (1, 0)
    assert place.names() == {place.hidden(young), "c.zip"}
    for call in (place.life.undelete, place.life.delete):
        assert refusal(lambda call=call: call(old.backup_id)) == (NotFound, Reason.BACKUP_NOT_FOUND)
    assert place.life.undelete(young.backup_id).file_name == b"b.zip"
    assert place.row(live.backup_id) == live


def test_without_a_trash_a_deletion_is_for_good(world: World, tmp_path: Path) -> None:
    place = Place(world, tmp_path, hours=0)
    row = place.backup()
    with world.database.write() as connection:
        backups.add_verification(
            connection, row.backup_id, time=1, level="CHECKSUM", ok=True, files_checked=1, bytes_checked=1,
            message="", task_id="",
        )  # fmt: skip
    deleted = place.life.delete(row.backup_id)
    assert deleted.delete_time == deleted.purge_time == world.clock.now()
    assert place.names() == set()
    assert refusal(lambda: place.row(row.backup_id))[1] is Reason.BACKUP_NOT_FOUND
    with world.database.read() as connection:
        assert backups.verifications_of(connection, [row.backup_id]) == {}


def test_an_archive_in_the_trash_that_is_another_file_now_is_never_removed(place: Place) -> None:
    row = place.backup()
    place.life.delete(row.backup_id)
    (place.folder / place.hidden(row)).write_bytes(b"something else")
    assert refusal(lambda: place.life.undelete(row.backup_id))[1] is Reason.ARCHIVE_CHANGED
    place.world.clock.step(365 * DAY)
    assert place.life.purge() == 0
    assert place.names() == {place.hidden(row)}
    assert place.row(row.backup_id).trashed


def test_an_archive_that_left_the_trash_is_looked_for_during_a_week(place: Place) -> None:
    row = place.backup()
    place.life.delete(row.backup_id)
    os.rename(place.folder, place.base / "disk")  # unmounted: the mount point stays
    place.folder.mkdir()
    place.world.clock.step(DAY)
    assert place.life.purge() == 0
    place.folder.rmdir()
    os.rename(place.base / "disk", place.folder)
    assert place.life.purge() == 1
    assert place.names() == set()

    row = place.backup()
    place.life.delete(row.backup_id)
    (place.folder / place.hidden(row)).unlink()
    place.world.clock.step(DAY + 7 * DAY - 1)
    assert place.life.purge() == 0
    place.world.clock.step(1)
    assert place.life.purge() == 1


# -- crashes -------------------------------------------------------------------------------------------------


def dying(original: Callable[..., Any], *, before: bool) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        if before:
            raise Death
        original(*arguments)
        raise Death

    return call


@pytest.mark.parametrize("before", [True, False], ids=["before the rename", "after the rename"])
@pytest.mark.parametrize("after", ["repair", "purge", "undelete", "delete"])
def test_a_deletion_that_died_is_a_deletion(
    place: Place, monkeypatch: pytest.MonkeyPatch, before: bool, after: str
) -> None:
    row = place.backup()
    with monkeypatch.context() as patch:
        patch.setattr(module, "hide", dying(module.hide, before=before))
        with pytest.raises(Death):
            place.life.delete(row.backup_id)
    life = place.another()
    if after == "repair":
        life.repair()
        assert place.names() == {place.hidden(row)}
    elif after == "purge":
        place.world.clock.step(DAY)
        assert life.purge() == 1
        assert place.names() == set()
    elif after == "undelete":
        assert life.undelete(row.backup_id).file_name == b"a.zip"
        assert place.names() == {"a.zip"}
        life.repair()
        assert place.names() == {"a.zip"}
    else:
        assert life.delete(row.backup_id).trashed


@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.parametrize("before", [True, False], ids=["before the rename", "after the rename"])
def test_a_recovery_that_died_stays_in_the_trash(
    place: Place, monkeypatch: pytest.MonkeyPatch, before: bool, taken: bool
) -> None:
    row = place.backup()
    place.life.delete(row.backup_id)
    others = set()
    if taken:
        (place.folder / "a.zip").write_bytes(b"1234567")  # of the same size even
        others = {"a.zip"}
    with monkeypatch.context() as patch:
        patch.setattr(module, "reveal", dying(module.reveal, before=before))
        with pytest.raises(Death):
            place.life.undelete(row.backup_id)
    assert place.row(row.backup_id).trashed
    life = place.another()
    life.repair()
    assert place.names() == {place.hidden(row), *others}
    back = life.undelete(row.backup_id)
    assert back.file_name == (b"a-2.zip" if taken else b"a.zip")
    assert (place.folder / os.fsdecode(back.file_name or b"")).read_bytes() == CONTENT


@pytest.mark.parametrize("before", [True, False], ids=["before the removal", "after the removal"])
def test_a_purge_that_died_is_finished(place: Place, monkeypatch: pytest.MonkeyPatch, before: bool) -> None:
    row = place.backup()
    place.life.delete(row.backup_id)
    place.world.clock.step(DAY)
    with monkeypatch.context() as patch:
        patch.setattr(module, "remove", dying(module.remove, before=before))
        with pytest.raises(Death):
            place.life.purge()
    life = place.another()
    life.repair()
    assert life.purge() == 1
    assert place.names() == set()
    assert refusal(lambda: place.row(row.backup_id))[1] is Reason.BACKUP_NOT_FOUND


# -- races ---------------------------------------------------------------------------------------------------


def together(*calls: Callable[[], None]) -> None:
    """All at once, from the same moment; a failure in one fails the test."""
    failures: list[BaseException] = []
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], None]) -> None:
        try:
            barrier.wait(60)
            call()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    if failures:
        raise failures[0]


def allowed(call: Callable[[], Any], *reasons: Reason) -> Callable[[], None]:
    def attempt() -> None:
        try:
            call()
        except HoldfastError as error:
            if error.reason not in reasons:
                raise

    return attempt


def test_a_locked_backup_survives_every_race_with_a_deletion(place: Place) -> None:
    for _ in range(30):
        row = place.backup()
        lock = allowed(lambda row=row: place.life.update(row.backup_id, locked=True), Reason.BACKUP_NOT_FOUND)
        delete = allowed(
            lambda row=row: place.another(0).delete(row.backup_id), Reason.BACKUP_LOCKED, Reason.BACKUP_NOT_FOUND
        )
        together(lock, delete, lock, delete)
        with place.world.database.read() as connection:
            left = backups.get_backup(connection, row.backup_id)
        assert left is None or (left.locked and not left.trashed)
        assert place.names() == (set() if left is None else {"a.zip"})
        if left is not None:
            place.life.update(row.backup_id, locked=False)
            place.another(0).delete(row.backup_id)


def test_a_deletion_and_a_reader_never_both_win(place: Place) -> None:
    policy = FolderPolicy(str(place.base / "archives"), ["/"])
    world = place.world
    keys, repositories = world.wallet_keys(policy), world.repositories(policy, place.base / "data")
    verifications = VerifyOrders(world.engine, repositories)
    restores = RestoreOrders(world.engine, policy, world.clock, keys, repositories)
    for number in range(20):
        row = place.backup()
        made: list[str] = []

        def verify(row: BackupRow = row, made: list[str] = made) -> None:
            made.append(verifications.create(row.backup_id, VerifyLevel.READ_DATA, "admin", None).task_id)

        def restore(row: BackupRow = row, made: list[str] = made, number: int = number) -> None:
            order = RestoreOrder(row.backup_id, os.fsencode(place.base / f"back {number}"))
            made.append(restores.create(order, "admin", None).task_id)

        delete = allowed(lambda row=row: place.life.delete(row.backup_id), Reason.BACKUP_BUSY)
        together(allowed(verify, Reason.BACKUP_NOT_FOUND), delete, allowed(restore, Reason.BACKUP_NOT_FOUND), delete)
        assert bool(made) != place.row(row.backup_id).trashed
        for task_id in made:
            place.world.engine.cancel(task_id)
            assert place.world.row(task_id).state == TaskState.CANCELLED
        place.another(0).delete(row.backup_id)
        with place.world.database.write() as connection:
            backups.delete_backup(connection, row.backup_id)
        for name in place.names():
            (place.folder / name).unlink()


def test_deleting_taking_back_and_purging_at_once_loses_nothing(place: Place) -> None:
    """Two processes' worth of movers on one backup; at the end catalog and folder agree."""
    second = Database(place.world.database.url, busy_timeout=30.0)
    snapshots = SnapshotLife(second, place.world.clock, os.fsencode(place.base))
    lives = [place.life, BackupLife(second, place.world.clock, 24.0, place.base / "trash.lock", snapshots)]
    row = place.backup()

    def many(act: Callable[[BackupLife], Any], life: BackupLife) -> Callable[[], None]:
        def run() -> None:
            for _ in range(25):
                act(life)

        return run

    together(
        *(many(lambda life: life.delete(row.backup_id), life) for life in lives),
        *(many(lambda life: life.undelete(row.backup_id), life) for life in lives),
        *(many(lambda life: life.repair(), life) for life in lives),
        *(many(lambda life: life.purge(), life) for life in lives),
    )
    second.close()
    found = place.row(row.backup_id)
    assert place.names() == {os.fsdecode(os.path.basename(found.storage_path))}
    assert found.file_name == b"a.zip"
