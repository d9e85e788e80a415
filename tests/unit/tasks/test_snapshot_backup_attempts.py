"""Backups into a repository whose attempts die, freeze and are cancelled around the commit: the repository and the
catalog stay one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.archive.pool import CompressorPool
from holdfast_server.catalog import backups, repositories
from holdfast_server.catalog.rows import BackupRow, BackupState, SourceKind, TaskRow, TaskState
from holdfast_server.core.repository_place import OpenRepository
from holdfast_server.errors import DataLoss, FailedPrecondition, Reason, Unavailable
from holdfast_server.repository import Repository, Snapshot, sessions
from holdfast_server.repository.facts import Committed, Removed
from holdfast_server.repository.log import LogReader
from holdfast_server.repository.snapshots import Tombstone
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks import snapshot_target
from holdfast_server.tasks.backup_orders import BackupOrder, BackupOrders
from holdfast_server.tasks.repositories import RepositoryOrder, RepositoryRegistry, open_repository
from holdfast_server.tasks.snapshot_life import SnapshotLife
from holdfast_server.tasks.sources import SourceOrder, SourceRegistry
from holdfast_server.tasks.worker import Worker
from tests.canary import Canary
from tests.unit.tasks.conftest import World, backup_handler
from tests.unit.tasks.test_repositories import FILE_SLOT, InProcess, always


class Death(BaseException):
    """The end of a process, as far as the code around it can tell."""


class Fixture:
    """A repository `vault`, and workers that back up into it."""

    def __init__(self, world: World, base: Path, pool: CompressorPool) -> None:
        self.base, self.world = base, world
        data_dir = base / "data"
        data_dir.mkdir(mode=0o700)
        self.data_dir = os.fsencode(data_dir)
        policy = FolderPolicy(str(data_dir), ["/"])
        self.handler = backup_handler(world, policy, pool, self.data_dir)
        world.handler = self.handler  # type: ignore[assignment]
        self.registry = SourceRegistry(world.database, policy, world.clock)
        self.orders = BackupOrders(world.database, world.engine, policy, world.clock, world.wallet_keys(policy))
        reader: Any = InProcess()
        self.vaults = RepositoryRegistry(world.database, policy, reader, world.clock, self.data_dir)
        self.vault = base / "vault"
        self.create_repository("vault")
        self.made = 0

    def create_repository(self, name: str, **values: Any) -> None:
        folder = os.fsencode(self.base / name)
        self.vaults.create(RepositoryOrder(name, name, folder, create_folder=True, **values), None, always)

    def source(self, name: str) -> str:
        path = self.base / name
        path.mkdir()
        (path / "file").write_text(name * 100)
        self.registry.register(SourceOrder(os.fsencode(path), SourceKind.DIRECTORY, name), None)
        return name

    def order(self, *source_ids: str, repository_id: str = "vault") -> TaskRow:
        self.world.clock.step(1)
        return self.orders.create(BackupOrder(source_ids, False, repository_id=repository_id), "admin", None)

    def execute(self, task_id: str) -> str:
        self.made += 1
        worker: Worker = self.world.new_worker(f"00000000-0000-0000-0000-{self.made + 100:012}")
        return self.world.execute(task_id, worker)

    def die(self, task_id: str) -> None:
        with pytest.raises(Death):
            self.execute(task_id)
        self.world.lose_lease()

    def cancel(self, task_id: str) -> None:
        self.world.engine.cancel(task_id)

    def backups(self, task_id: str) -> list[BackupRow]:
        with self.world.database.read() as connection:
            return backups.backups_of_task(connection, task_id)

    @contextmanager
    def opened(self) -> Iterator[Repository]:
        with self.world.database.read() as connection:
            row = repositories.get_repository(connection, "vault")
        assert row is not None
        found: OpenRepository
        with open_repository(row, self.data_dir) as found:
            yield found.repository

    def snapshots(self) -> dict[str, Snapshot]:
        with self.opened() as repository:
            return {one.run_id: one for one in repository.snapshots()}

    def facts(self, kind: type) -> list[Any]:
        with self.opened() as repository:
            return [f for _, f in LogReader(repository.store, repository.index_keys).read().facts() if type(f) is kind]

    def is_buried(self, backup_id: str) -> bool:
        with self.opened() as repository:
            return isinstance(repository.run_end(backup_id), Tombstone)

    def assert_one(self, task_id: str, expected: int) -> None:
        """The repository shows the snapshots that the catalog says are COMPLETED, all of them proved by the log, and
        no run of it is left open."""
        rows = {row.backup_id: row for row in self.backups(task_id) if row.state == BackupState.COMPLETED}
        found = self.snapshots()
        assert set(found) == set(rows)
        assert len(rows) == expected
        assert set(rows) <= {fact.run_id for fact in self.facts(Committed)}
        for backup_id, row in rows.items():
            assert row.statistics["files"] == found[backup_id].counts.files == 1
            assert row.complete
        assert list((self.vault / "runs").iterdir()) == []


@pytest.fixture
def fixture(world: World, tmp_path: Path) -> Iterator[Fixture]:
    pool = CompressorPool(1, 32 << 20)
    yield Fixture(world, tmp_path, pool)
    pool.close()


Happening = Callable[[Callable[[], object]], None]


def _once(original: Callable[..., Any], happening: Callable[[], object], *, first: bool) -> Callable[..., Any]:
    waiting = [happening]

    def call(*arguments: Any, **values: Any) -> Any:
        if first and waiting:
            waiting.pop()()
        result = original(*arguments, **values)
        if waiting:
            waiting.pop()()
        return result

    return call


@pytest.fixture
def after_commit(monkeypatch: pytest.MonkeyPatch) -> Happening:
    """Lets something happen directly after the next snapshot is there, before anything else knows, once."""
    original = sessions.end_run_as

    def install(happening: Callable[[], object]) -> None:
        waiting = [happening]

        def end(store: Any, keys: Any, run_end: Any) -> bool:
            done = original(store, keys, run_end)
            if waiting and isinstance(run_end, Snapshot):
                waiting.pop()()
            return done

        monkeypatch.setattr(sessions, "end_run_as", end)

    return install


@pytest.fixture
def in_the_middle(monkeypatch: pytest.MonkeyPatch) -> Happening:
    """Lets something happen after a source's entries were written and before its commit, once."""
    original = snapshot_target.write_entries

    def install(happening: Callable[[], object]) -> None:
        monkeypatch.setattr(snapshot_target, "write_entries", _once(original, happening, first=False))

    return install


@pytest.fixture
def after_settling(monkeypatch: pytest.MonkeyPatch) -> Happening:
    """Lets something happen when all is done in the repository and nothing of it stands in the catalog, once."""
    original = sessions.BackupRun.settle

    def install(happening: Callable[[], object]) -> None:
        monkeypatch.setattr(sessions.BackupRun, "settle", _once(original, happening, first=False))

    return install


def die() -> None:
    raise Death


def unreachable() -> None:
    raise Unavailable(Reason.STORAGE_UNREACHABLE, "the store went away")


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("point", ["after_commit", "after_settling"])
def test_a_snapshot_committed_by_a_dead_attempt_is_adopted(
    fixture: Fixture, request: pytest.FixtureRequest, point: str, count: int
) -> None:
    task = fixture.order(*[fixture.source(f"s{n}") for n in range(count)])
    request.getfixturevalue(point)(die)
    fixture.die(task.task_id)
    [(run_id, before)] = fixture.snapshots().items()
    assert fixture.execute(task.task_id) == "completed"
    fixture.assert_one(task.task_id, count)
    assert fixture.snapshots()[run_id] == before, "as it was committed, not made anew"


def test_an_attempt_that_died_before_its_commit_is_followed_by_one_under_the_same_id(
    fixture: Fixture, in_the_middle: Happening
) -> None:
    task = fixture.order(fixture.source("s"))
    in_the_middle(die)
    fixture.die(task.task_id)
    assert fixture.snapshots() == {}
    [row] = fixture.backups(task.task_id)
    assert fixture.execute(task.task_id) == "completed"
    fixture.assert_one(task.task_id, 1)
    assert list(fixture.snapshots()) == [row.backup_id]


def test_a_cancel_before_the_first_attempt_leaves_nothing(fixture: Fixture) -> None:
    task = fixture.order(fixture.source("s"))
    fixture.cancel(task.task_id)
    assert fixture.world.row(task.task_id).state == TaskState.CANCELLED
    fixture.assert_one(task.task_id, 0)
    assert fixture.backups(task.task_id) == []


@pytest.mark.parametrize("point", ["in_the_middle", "after_commit", "after_settling"])
def test_a_cancel_leaves_nothing_visible_and_the_run_cannot_commit_any_more(
    fixture: Fixture, request: pytest.FixtureRequest, point: str
) -> None:
    task = fixture.order(fixture.source("s"))
    [row] = fixture.backups(task.task_id)
    request.getfixturevalue(point)(lambda: fixture.cancel(task.task_id))
    assert fixture.execute(task.task_id) == "cancelled"
    fixture.assert_one(task.task_id, 0)
    assert fixture.backups(task.task_id) == [], "the backup is forgotten"
    assert fixture.is_buried(row.backup_id)
    assert bool(fixture.facts(Removed)) is (point != "in_the_middle")


@pytest.mark.parametrize("point", ["in_the_middle", "after_commit", "after_settling"])
def test_a_cancel_after_a_death_leaves_nothing(fixture: Fixture, request: pytest.FixtureRequest, point: str) -> None:
    task = fixture.order(fixture.source("s"))
    [row] = fixture.backups(task.task_id)
    request.getfixturevalue(point)(die)
    fixture.die(task.task_id)
    fixture.cancel(task.task_id)
    assert fixture.execute(task.task_id) == "cancelled"
    fixture.assert_one(task.task_id, 0)
    assert fixture.is_buried(row.backup_id)


def test_a_cancel_during_the_successor_removes_what_was_committed(
    fixture: Fixture, after_commit: Happening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cancel comes after the successor was claimed, so its claim did not see it."""
    task = fixture.order(fixture.source("s"))
    after_commit(die)
    fixture.die(task.task_id)
    monkeypatch.setattr(
        fixture.handler, "clean", _once(fixture.handler.clean, lambda: fixture.cancel(task.task_id), first=True)
    )
    assert fixture.execute(task.task_id) == "cancelled"
    fixture.assert_one(task.task_id, 0)


def test_a_cancel_between_two_sources_keeps_the_finished_one_and_says_so(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = fixture.order(fixture.source("a"), fixture.source("b"))
    original: Any = snapshot_target.write_entries
    calls: list[int] = []

    def write(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            fixture.cancel(task.task_id)
        return original(*arguments)

    monkeypatch.setattr(snapshot_target, "write_entries", write)
    assert fixture.execute(task.task_id) == "cancelled"
    fixture.assert_one(task.task_id, 1)
    cleanup = fixture.world.row(task.task_id).cleanup
    assert cleanup is not None
    assert cleanup["left_behind"] == list(fixture.snapshots())


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("point", ["in_the_middle", "after_commit", "after_settling"])
def test_a_frozen_attempt_leaves_its_successor_alone(
    fixture: Fixture, request: pytest.FixtureRequest, point: str, count: int
) -> None:
    """The old attempt freezes, the new one does everything, the old one wakes up."""
    task = fixture.order(*[fixture.source(f"s{n}") for n in range(count)])

    def successor() -> None:
        fixture.world.lose_lease()
        assert fixture.execute(task.task_id) == "completed"

    request.getfixturevalue(point)(successor)
    assert fixture.execute(task.task_id) == "fenced"
    fixture.assert_one(task.task_id, count)
    assert fixture.world.row(task.task_id).state == TaskState.COMPLETED


def test_a_frozen_attempt_that_fails_does_not_bury_the_run_of_its_successor(
    fixture: Fixture, in_the_middle: Happening
) -> None:
    task = fixture.order(fixture.source("s"))
    [row] = fixture.backups(task.task_id)

    def succeeded_and_unreachable() -> None:
        fixture.world.lose_lease()
        unreachable()

    in_the_middle(succeeded_and_unreachable)
    assert fixture.execute(task.task_id) == "fenced"
    assert not fixture.is_buried(row.backup_id)
    assert fixture.execute(task.task_id) == "completed"
    fixture.assert_one(task.task_id, 1)


def test_a_task_given_up_after_its_commit_leaves_no_snapshot_unknown_to_the_catalog(
    fixture: Fixture, after_commit: Happening
) -> None:
    task = fixture.order(fixture.source("s"))
    after_commit(die)
    fixture.die(task.task_id)
    fixture.world.update(task.task_id, fruitless=3)
    assert fixture.execute(task.task_id) == "failed"
    row = fixture.world.row(task.task_id)
    assert row.error is not None
    assert row.error["reason"] == "INTERRUPTED"
    fixture.assert_one(task.task_id, len(fixture.snapshots()))


def test_a_source_gone_after_the_commit_does_not_lose_the_snapshot(fixture: Fixture, after_commit: Happening) -> None:
    task = fixture.order(fixture.source("s"))
    after_commit(die)
    fixture.die(task.task_id)
    os.rename(fixture.base / "s", fixture.base / "moved")
    assert fixture.execute(task.task_id) == "completed"
    fixture.assert_one(task.task_id, 1)


def test_a_store_that_fails_behind_the_commit_does_not_fail_the_backup(
    fixture: Fixture, after_commit: Happening
) -> None:
    """The snapshot is there, whatever the answer was; a backup that is FAILED must not be."""
    task = fixture.order(fixture.source("s"))
    after_commit(unreachable)
    fixture.execute(task.task_id)
    fixture.assert_one(task.task_id, len(fixture.snapshots()))


def test_what_follows_a_commit_may_fail(fixture: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    task = fixture.order(fixture.source("s"))
    with monkeypatch.context() as patch:
        patch.setattr(sessions.LogWriter, "append", lambda *_: unreachable())
        assert fixture.execute(task.task_id) == "completed"
    assert fixture.world.row(task.task_id).state == TaskState.COMPLETED
    assert len(fixture.snapshots()) == 1


def test_a_source_that_fails_beside_others_fails_alone(fixture: Fixture) -> None:
    task = fixture.order(*[fixture.source(name) for name in ("a", "b", "c")])
    os.rename(fixture.base / "b", fixture.base / "moved")
    assert fixture.execute(task.task_id) == "completed"
    row = fixture.world.row(task.task_id)
    assert row.state == TaskState.COMPLETED_WITH_WARNINGS
    assert row.result is not None
    assert [one["ok"] for one in row.result["sources"]] == [True, False, True]
    fixture.assert_one(task.task_id, 2)
    [failed] = [one for one in fixture.backups(task.task_id) if one.state == BackupState.FAILED]
    assert fixture.is_buried(failed.backup_id)


def test_a_repository_that_is_away_when_a_cancelled_task_is_cleaned_is_named(
    fixture: Fixture, after_commit: Happening
) -> None:
    task = fixture.order(fixture.source("s"))
    [row] = fixture.backups(task.task_id)
    after_commit(die)
    fixture.die(task.task_id)
    fixture.cancel(task.task_id)
    os.rename(fixture.vault, fixture.base / "away")
    assert fixture.execute(task.task_id) == "cancelled"
    cleanup = fixture.world.row(task.task_id).cleanup
    assert cleanup is not None
    [left] = cleanup["left_behind"]
    assert row.backup_id in left
    assert "vault" in left


def test_a_snapshot_that_cannot_be_taken_back_is_named(fixture: Fixture, after_settling: Happening) -> None:
    task = fixture.order(fixture.source("s"))
    [row] = fixture.backups(task.task_id)

    def cancelled_and_away() -> None:
        fixture.cancel(task.task_id)
        os.rename(fixture.vault, fixture.base / "away")

    after_settling(cancelled_and_away)
    assert fixture.execute(task.task_id) == "cancelled"
    cleanup = fixture.world.row(task.task_id).cleanup
    assert cleanup is not None
    assert [row.backup_id in left for left in cleanup["left_behind"]] == [True]


@pytest.mark.parametrize("sealed", [True, False])
def test_a_failure_names_no_file_of_a_sealed_repository(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch, sealed: bool
) -> None:
    def unreadable(*_: Any) -> None:
        where = {"source_id": "s", "path": "the/name", "problem": "READ_ERROR"}
        raise FailedPrecondition(Reason.SOURCE_UNREADABLE, "source s: the/name cannot be read", metadata=where)

    monkeypatch.setattr(snapshot_target, "write_entries", unreadable)
    fixture.create_repository("other", sealed=sealed, slots=(FILE_SLOT,))
    task = fixture.order(fixture.source("s"), repository_id="other")
    assert fixture.execute(task.task_id) == "failed"
    error = fixture.world.row(task.task_id).error
    assert error is not None
    assert (error["reason"], error["metadata"]["problem"]) == ("SOURCE_UNREADABLE", "READ_ERROR")
    assert bool(Canary(b"the/name").search(fixture.base)) is not sealed


def test_nothing_is_added_to_a_repository_that_was_rolled_back(fixture: Fixture) -> None:
    """What is written there would begin another history, and the newer state could not be put back."""
    first = fixture.order(fixture.source("s"))
    assert fixture.execute(first.task_id) == "completed"
    shutil.copytree(fixture.vault, fixture.base / "older")
    second = fixture.order("s")
    assert fixture.execute(second.task_id) == "completed"
    os.rename(fixture.vault, fixture.base / "newer")
    os.rename(fixture.base / "older", fixture.vault)
    before = sorted(path for path in fixture.vault.rglob("*"))

    refused = fixture.order("s")
    assert fixture.execute(refused.task_id) == "failed"
    error = fixture.world.row(refused.task_id).error
    assert error is not None
    assert error["reason"] == "REPOSITORY_ROLLED_BACK"
    cleanup = fixture.world.row(refused.task_id).cleanup
    assert cleanup is not None
    assert cleanup["left_behind"] == [], "nothing was begun"
    life = SnapshotLife(fixture.world.database, fixture.world.clock, fixture.data_dir)
    [row] = fixture.backups(first.task_id)
    for change in (lambda: life.announce(row, {"name": "new"}), lambda: life.remove(row)):
        with pytest.raises(DataLoss, match="rolled back"):
            change()
    assert sorted(path for path in fixture.vault.rglob("*")) == before, "nothing was written"

    shutil.rmtree(fixture.vault)
    os.rename(fixture.base / "newer", fixture.vault)
    life.announce(row, {"name": "new"})
    assert fixture.execute(fixture.order("s").task_id) == "completed"
    assert len(fixture.snapshots()) == 3
