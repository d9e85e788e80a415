"""Backups into a repository whose attempts die and fail around the commit: repository and catalog stay one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.archive.pool import CompressorPool
from holdfast_server.catalog import backups, repositories
from holdfast_server.catalog.rows import BackupState, SourceKind, TaskRow
from holdfast_server.core.repository_place import OpenRepository
from holdfast_server.repository import BackupRun, Repository, remove_snapshots
from holdfast_server.repository.facts import Committed, Removed
from holdfast_server.repository.log import LogReader
from holdfast_server.storage.local_objects import LocalObjects
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks.backup_orders import BackupOrder, BackupOrders
from holdfast_server.tasks.repositories import RepositoryOrder, RepositoryRegistry, open_repository
from holdfast_server.tasks.sources import SourceOrder, SourceRegistry
from tests.harness import snapshot
from tests.repositories import read_snapshots
from tests.stores import FailingObjects, Fault
from tests.unit.tasks.conftest import InProcess, World, backup_handler


class Death(BaseException):
    """The end of a process, as far as the code around it can tell."""


class Fixture:
    def __init__(self, world: World, base: Path, pool: CompressorPool) -> None:
        self.world, self.base = world, base
        self.data_dir = base / "data"
        self.data_dir.mkdir(mode=0o700)
        policy, data_dir = FolderPolicy(str(self.data_dir), [str(base)]), os.fsencode(self.data_dir)
        world.handler = backup_handler(world, policy, pool, data_dir)  # type: ignore[assignment]
        self.sources = SourceRegistry(world.database, policy, world.clock)
        self.orders = BackupOrders(world.database, world.engine, policy, world.clock, world.wallet_keys(policy))
        reader: Any = InProcess()
        registry = RepositoryRegistry(world.database, policy, reader, world.clock, data_dir)
        order = RepositoryOrder("vault", "vault", os.fsencode(base / "vault"), create_folder=True)
        registry.create(order, None, lambda: True)
        self.made = 0

    def order(self, *source_ids: str) -> TaskRow:
        for name in source_ids:
            path = self.base / name
            if not path.exists():
                path.mkdir()
                (path / "file").write_text(name * 100)
                self.sources.register(SourceOrder(os.fsencode(path), SourceKind.DIRECTORY, name), None)
        self.world.clock.step(1)
        return self.orders.create(BackupOrder(source_ids, False, repository_id="vault"), "admin", None)

    def execute(self, task_id: str) -> str:
        self.made += 1
        return self.world.execute(task_id, self.world.new_worker(f"00000000-0000-0000-0000-{self.made + 100:012}"))

    def die(self, task_id: str) -> None:
        with pytest.raises(Death):
            self.execute(task_id)
        self.world.lose_lease()

    def remove_all(self) -> None:
        with self.opened() as opened:
            for one in [*opened.repository.snapshots()]:
                remove_snapshots(opened.repository, [one.run_id], 1)

    def opened(self) -> OpenRepository:
        with self.world.database.read() as connection:
            found = repositories.get_repository(connection, "vault")
        assert found is not None
        return open_repository(found, os.fsencode(self.data_dir))

    def assert_one(self, task_id: str, expected: int) -> None:
        """The repository holds the snapshots that the catalog says are COMPLETED, whole, and no run is open."""
        with self.world.database.read() as connection:
            rows = backups.backups_of_task(connection, task_id)
        assert all(row.state != BackupState.IN_PROGRESS for row in rows)
        done = {row.backup_id: row.source_id for row in rows if row.state == BackupState.COMPLETED}
        with self.opened() as opened:
            repository = opened.repository
            assert {one.run_id for one in repository.snapshots()} == set(done)
            assert not [*repository.store.list("runs/")]
            content = repository.keys.content
            read = read_snapshots(repository, content, done)
            assert read == {run_id: snapshot(self.base / source_id) for run_id, source_id in done.items()}
            facts = [fact for _, fact in LogReader(repository.store, repository.index_keys).read().facts()]
        removed = {run_id for fact in facts if isinstance(fact, Removed) for run_id in fact.run_ids}
        committed = [fact.run_id for fact in facts if isinstance(fact, Committed)]
        assert set(committed) - removed == set(done)
        assert len(committed) == len(set(committed))
        assert len(done) == expected


@pytest.fixture
def fixture(world: World, memory_path: Path) -> Iterator[Fixture]:
    pool = CompressorPool(1, 32 << 20)
    yield Fixture(world, memory_path, pool)
    pool.close()


Happening = Callable[[], object]


@pytest.fixture
def happens(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Happening], None]:
    """Lets something happen once: `before the commit`, `before settling`, or when all `is settled`."""

    def install(when: str, happening: Happening) -> None:
        name = "commit" if when == "before the commit" else "settle"
        original: Any = getattr(BackupRun, name)
        waiting = [happening]

        def called(session: BackupRun, *arguments: Any) -> Any:
            if waiting and when != "is settled":
                waiting.pop()()
            result = original(session, *arguments)
            if waiting:
                waiting.pop()()
            return result

        monkeypatch.setattr(BackupRun, name, called)

    return install


MOMENTS = ["before the commit", "before settling", "is settled"]


def die() -> None:
    raise Death


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("when", MOMENTS)
def test_what_a_dead_attempt_committed_is_recorded(fixture: Fixture, happens: Any, when: str, count: int) -> None:
    task = fixture.order(*[f"s{n}" for n in range(count)])
    happens(when, die)
    fixture.die(task.task_id)
    assert fixture.execute(task.task_id) == "completed"
    fixture.assert_one(task.task_id, count)


@pytest.mark.parametrize("when", MOMENTS)
def test_a_task_that_is_given_up_leaves_no_run_and_no_unknown_snapshot(
    fixture: Fixture, happens: Any, when: str
) -> None:
    task = fixture.order("s")
    happens(when, die)
    fixture.die(task.task_id)
    fixture.world.update(task.task_id, fruitless=3)
    assert fixture.execute(task.task_id) == "failed"
    row = fixture.world.row(task.task_id)
    assert row.error is not None
    assert row.error["reason"] == "INTERRUPTED"
    fixture.assert_one(task.task_id, 0 if when == MOMENTS[0] else 1)


@pytest.mark.parametrize("when", MOMENTS)
def test_a_cancel_of_what_a_dead_attempt_committed_takes_it_back(fixture: Fixture, happens: Any, when: str) -> None:
    task = fixture.order("s")
    happens(when, die)
    fixture.die(task.task_id)
    fixture.world.engine.cancel(task.task_id)
    assert fixture.execute(task.task_id) == "cancelled"
    fixture.assert_one(task.task_id, 0)


@pytest.mark.parametrize("when", MOMENTS)
def test_a_cancel_around_the_commit_leaves_nothing(fixture: Fixture, happens: Any, when: str) -> None:
    task = fixture.order("s")
    happens(when, lambda: fixture.world.engine.cancel(task.task_id))
    assert fixture.execute(task.task_id) == "cancelled"
    fixture.assert_one(task.task_id, 0)


@pytest.mark.parametrize("when", MOMENTS)
def test_a_source_that_is_gone_after_a_death_leaves_no_run_and_no_unknown_snapshot(
    fixture: Fixture, happens: Any, when: str
) -> None:
    task = fixture.order("s")
    happens(when, die)
    fixture.die(task.task_id)
    os.rename(fixture.base / "s", fixture.base / "moved")
    fixture.execute(task.task_id)
    os.rename(fixture.base / "moved", fixture.base / "s")
    fixture.assert_one(task.task_id, 0 if when == MOMENTS[0] else 1)


class LosingAnswers(FailingObjects):
    """Loses the answer of one call that changes something; only these are counted."""

    def __init__(self, inner: LocalObjects, fail_at: int) -> None:
        super().__init__(inner, fail_at, Fault.LOST_ANSWER)

    def _fails(self, call: str, name: str, *, writing: bool) -> bool:
        return writing and super()._fails(call, name, writing=True)


def test_a_backup_that_failed_is_in_the_repository_no_more_than_in_the_catalog(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    losing: list[LosingAnswers] = []
    original: Any = Repository.open.__func__  # type: ignore[attr-defined]

    def opened(cls: Any, store: LocalObjects, *arguments: Any) -> Repository:
        # Only the attempt's own store: what takes it back opens another.
        if len(losing) < fail_at:
            losing.append(LosingAnswers(store, fail_at))
            return original(cls, losing[-1], *arguments)  # type: ignore[no-any-return]
        return original(cls, store, *arguments)  # type: ignore[no-any-return]

    monkeypatch.setattr(Repository, "open", classmethod(opened))
    for fail_at in range(1, 20):
        task = fixture.order("s")
        (fixture.base / "s" / "file").write_text(f"new for turn {fail_at}")
        end = fixture.execute(task.task_id)
        if not losing[-1].fired:
            break
        if end == "failed":
            fixture.assert_one(task.task_id, 0)
        else:
            # What follows the commit does not undo it.
            assert losing[-1].fired.partition("/")[0] in ("create_if_absent log", "delete runs")
            fixture.assert_one(task.task_id, 1)
            fixture.remove_all()
    fixture.assert_one(task.task_id, 1)
    fired = [one.fired.partition("/")[0] for one in losing]
    assert fired == [
        "put runs", "put packs", "put packs", "put index", "create_if_absent snapshots", "create_if_absent log",
        "delete runs", "",
    ]  # fmt: skip
