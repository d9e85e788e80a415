"""Backups whose attempts die, freeze and are cancelled around the publishing: the folder and the catalog stay one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.archive.sidecar import parse_sidecar
from holdfast_server.catalog import backups
from holdfast_server.catalog.rows import BackupState, SourceKind, TaskRow, TaskState
from holdfast_server.core import publish as publish_module
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks import archive_target, publishing
from holdfast_server.tasks.backup_orders import BackupOrder, BackupOrders
from holdfast_server.tasks.sources import SourceOrder, SourceRegistry
from holdfast_server.tasks.worker import Worker
from tests.harness import sha256_of
from tests.keys import PUBLIC
from tests.unit.tasks.conftest import World, backup_handler

SIDECAR = ".holdfast.json"


class Death(BaseException):
    """The end of a process, as far as the code around it can tell."""


class Fixture:
    def __init__(self, world: World, base: Path, pool: CompressorPool, recipients: tuple[str, ...] = ()) -> None:
        self.recipients = recipients
        data_dir = base / "data"
        data_dir.mkdir()
        self.base, self.world = base, world
        self.folder = base / "archives"
        self.folder.mkdir()
        policy = FolderPolicy(str(data_dir), ["/"])
        self.handler = backup_handler(world, policy, pool, os.fsencode(data_dir))
        world.handler = self.handler  # type: ignore[assignment]
        self.registry = SourceRegistry(world.database, policy, world.clock)
        self.orders = BackupOrders(world.database, world.engine, policy, world.clock, world.wallet_keys(policy))
        self.made = 0

    def source(self, name: str) -> str:
        path = self.base / name
        path.mkdir()
        (path / "file").write_text(name * 100)
        self.registry.register(SourceOrder(os.fsencode(path), SourceKind.DIRECTORY, name), None)
        return name

    def order(self, *source_ids: str) -> TaskRow:
        self.world.clock.step(1)
        order = BackupOrder(source_ids, False, os.fsencode(self.folder), ArchiveFormat.ZIP, recipients=self.recipients)
        return self.orders.create(order, "admin", None)

    def archives(self) -> list[str]:
        return [name for name in os.listdir(self.folder) if not name.endswith(SIDECAR)]

    def worker(self) -> Worker:
        self.made += 1
        return self.world.new_worker(f"00000000-0000-0000-0000-{self.made + 100:012}")

    def execute(self, task_id: str) -> str:
        return self.world.execute(task_id, self.worker())

    def die(self, task_id: str) -> None:
        with pytest.raises(Death):
            self.execute(task_id)
        self.world.lose_lease()

    def assert_one(self, task_id: str, expected: int) -> None:
        """The folder holds the archives that the catalog says are COMPLETED, with the sidecars of sealed ones."""
        with self.world.database.read() as connection:
            rows = backups.backups_of_task(connection, task_id)
        done = {os.fsdecode(r.file_name or b""): r.sha256 for r in rows if r.state == BackupState.COMPLETED}
        assert {name: sha256_of(self.folder / name) for name in self.archives()} == done
        sidecars = {name + SIDECAR for name in done} if self.recipients else set()
        assert set(os.listdir(self.folder)) == set(done) | sidecars
        for name in sidecars:
            assert parse_sidecar((self.folder / name).read_bytes()).sha256 == done[name.removesuffix(SIDECAR)]
        assert len(done) == expected


@pytest.fixture(params=[(), (PUBLIC,)], ids=["plain", "sealed"])
def fixture(world: World, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Fixture]:
    pool = CompressorPool(1, 32 << 20)
    yield Fixture(world, tmp_path, pool, request.param)
    pool.close()


@pytest.fixture
def after_publishing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Lets something happen directly after the rename of the next archive, once."""
    original: Any = publishing.publish_archive

    def install(happening: Callable[[], None]) -> None:
        waiting = [happening]

        def publish(*arguments: Any) -> bytes:
            name: bytes = original(*arguments)
            if waiting:
                waiting.pop()()
            return name

        monkeypatch.setattr(publishing, "publish_archive", publish)

    return install


def die() -> None:
    raise Death


@pytest.mark.parametrize("count", [1, 2])
def test_an_archive_published_by_a_dead_attempt_is_adopted(
    fixture: Fixture, after_publishing: Callable[..., None], count: int
) -> None:
    task = fixture.order(*[fixture.source(f"s{n}") for n in range(count)])
    after_publishing(die)
    fixture.die(task.task_id)
    before = {name: os.stat(fixture.folder / name).st_ino for name in fixture.archives()}
    assert len(before) == 1
    assert fixture.execute(task.task_id) == "completed"
    fixture.assert_one(task.task_id, count)
    assert before.items() <= {n: os.stat(fixture.folder / n).st_ino for n in os.listdir(fixture.folder)}.items()


@pytest.mark.parametrize("count", [1, 2])
def test_a_frozen_attempt_does_not_take_back_what_its_successor_adopted(
    fixture: Fixture, after_publishing: Callable[..., None], count: int
) -> None:
    """The old attempt freezes between the rename and its record; the new one adopts; the old one wakes up."""
    task = fixture.order(*[fixture.source(f"s{n}") for n in range(count)])

    def successor() -> None:
        fixture.world.lose_lease()
        assert fixture.execute(task.task_id) == "completed"

    after_publishing(successor)
    assert fixture.execute(task.task_id) == "fenced"
    fixture.assert_one(task.task_id, count)
    assert fixture.world.row(task.task_id).state == TaskState.COMPLETED


def test_a_cancel_that_reaches_the_successor_removes_what_was_published(
    fixture: Fixture, after_publishing: Callable[..., None]
) -> None:
    task = fixture.order(fixture.source("s"))
    after_publishing(die)
    fixture.die(task.task_id)
    fixture.world.engine.cancel(task.task_id)
    assert fixture.execute(task.task_id) == "cancelled"
    fixture.assert_one(task.task_id, 0)
    cleanup = fixture.world.row(task.task_id).cleanup
    assert cleanup is not None
    assert cleanup["files_removed"] == 1 + len(fixture.recipients)


def test_a_cancel_during_the_successor_removes_what_was_published(
    fixture: Fixture, after_publishing: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cancel comes after the successor was claimed, so its claim did not see it."""
    task = fixture.order(fixture.source("s"))
    after_publishing(die)
    fixture.die(task.task_id)
    original = fixture.handler.clean

    def clean(run: Any, **values: Any) -> list[str]:
        if not run.row.cancel_requested and not fixture.world.row(task.task_id).cancel_requested:
            fixture.world.engine.cancel(task.task_id)
        return original(run, **values)

    monkeypatch.setattr(fixture.handler, "clean", clean)
    assert fixture.execute(task.task_id) == "cancelled"
    fixture.assert_one(task.task_id, 0)


def test_a_task_given_up_after_publishing_leaves_no_archive_unknown_to_the_catalog(
    fixture: Fixture, after_publishing: Callable[..., None]
) -> None:
    task = fixture.order(fixture.source("s"))
    after_publishing(die)
    fixture.die(task.task_id)
    fixture.world.update(task.task_id, fruitless=3)
    assert fixture.execute(task.task_id) == "failed"
    row = fixture.world.row(task.task_id)
    assert row.error is not None
    assert row.error["reason"] == "INTERRUPTED"
    fixture.assert_one(task.task_id, len(fixture.archives()))


def test_a_source_gone_after_publishing_leaves_no_archive_unknown_to_the_catalog(
    fixture: Fixture, after_publishing: Callable[..., None]
) -> None:
    task = fixture.order(fixture.source("s"))
    after_publishing(die)
    fixture.die(task.task_id)
    os.rename(fixture.base / "s", fixture.base / "moved")
    fixture.execute(task.task_id)
    fixture.assert_one(task.task_id, len(fixture.archives()))


def test_a_cancel_after_publishing_takes_the_archive_back(
    fixture: Fixture, after_publishing: Callable[..., None]
) -> None:
    task = fixture.order(fixture.source("s"))
    after_publishing(lambda: fixture.world.engine.cancel(task.task_id) and None)
    assert fixture.execute(task.task_id) == "cancelled"
    fixture.assert_one(task.task_id, 0)


def test_a_cancel_between_two_sources_keeps_the_finished_one_and_says_so(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = fixture.order(fixture.source("a"), fixture.source("b"))
    original: Any = archive_target.write_archive
    calls: list[int] = []

    def write(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            fixture.world.engine.cancel(task.task_id)
        return original(*arguments)

    monkeypatch.setattr(archive_target, "write_archive", write)
    assert fixture.execute(task.task_id) == "cancelled"
    fixture.assert_one(task.task_id, 1)
    cleanup = fixture.world.row(task.task_id).cleanup
    assert cleanup is not None
    assert cleanup["left_behind"] == [str(fixture.folder / name) for name in fixture.archives()]


def test_a_partial_of_a_dead_attempt_is_removed_by_the_next(fixture: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    task = fixture.order(fixture.source("s"))
    stale = fixture.folder / f".{task.task_id}.1.partial"
    foreign = fixture.folder / ".00000000-0000-4000-8000-000000000000.1.partial"
    run = fixture.world.claim(task.task_id)
    assert run is not None
    stale.write_text("half")
    foreign.write_text("of another task")
    fixture.world.lose_lease()
    assert fixture.execute(task.task_id) == "completed"
    assert not stale.exists()
    assert foreign.exists(), "only what carries the task's own id may be removed"
    foreign.unlink()
    fixture.assert_one(task.task_id, 1)


def test_a_foreign_file_under_the_announced_name_is_not_adopted(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = fixture.order(fixture.source("s"))
    original: Any = publishing.publish_archive

    def publish(folder_fd: int, temporary: bytes, base: str, kind: Any, announce: Any, sidecar: Any) -> bytes:
        def announce_and_die(name: bytes) -> None:
            announce(name)
            (fixture.folder / os.fsdecode(name)).write_text("somebody else's")
            raise Death

        return original(folder_fd, temporary, base, kind, announce_and_die, sidecar)

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "publish_archive", publish)
        fixture.die(task.task_id)
    (foreign,) = [name for name in fixture.archives() if not name.startswith(".")]
    assert fixture.execute(task.task_id) == "completed"
    assert (fixture.folder / foreign).read_text() == "somebody else's"
    (fixture.folder / foreign).unlink()
    fixture.assert_one(task.task_id, 1)


@pytest.mark.parametrize("fixture", [(PUBLIC,)], ids=["sealed"], indirect=True)
@pytest.mark.parametrize("end", ["completed", "cancelled", "failed"])
def test_a_sidecar_whose_archive_never_came_is_removed(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """The attempt dies between the two renames."""
    task = fixture.order(fixture.source("s"))

    def publish_beside(*_: Any) -> None:
        raise Death

    with monkeypatch.context() as patch:
        patch.setattr(publish_module, "_publish_beside", publish_beside)
        fixture.die(task.task_id)
    (orphan,) = os.listdir(fixture.folder)
    assert orphan.endswith(".zip.age.holdfast.json")
    if end == "cancelled":
        fixture.world.engine.cancel(task.task_id)
    elif end == "failed":
        fixture.world.update(task.task_id, fruitless=3)
    assert fixture.execute(task.task_id) == end
    fixture.assert_one(task.task_id, int(end == "completed"))
    if end == "completed":
        assert os.listdir(fixture.folder).count(orphan) == 1, "its own name is free again"


@pytest.mark.parametrize("fixture", [(PUBLIC,)], ids=["sealed"], indirect=True)
def test_a_frozen_attempt_does_not_take_back_its_successors_sidecar(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old attempt freezes between the two renames; the new one does everything; the old one wakes up."""
    task = fixture.order(fixture.source("s"))
    original: Any = publish_module._publish_beside
    waiting = [1]

    def publish_beside(*arguments: Any) -> None:
        if waiting:
            waiting.pop()
            fixture.world.lose_lease()
            assert fixture.execute(task.task_id) == "completed"
        original(*arguments)

    monkeypatch.setattr(publish_module, "_publish_beside", publish_beside)
    assert fixture.execute(task.task_id) in ("fenced", "lost")
    fixture.assert_one(task.task_id, 1)
