"""Exports whose attempts die, freeze and are cancelled around the publishing: exactly one whole file, or none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyrage
import pytest

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.catalog.rows import TaskKind, TaskRow, TaskState
from holdfast_server.core.publish import read_sidecar
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks import publishing
from holdfast_server.tasks.export import ExportHandler, ExportOrder, ExportOrders
from tests.harness import sha256_of, snapshot
from tests.unit.tasks.conftest import World
from tests.unit.tasks.test_backup_attempts import Death, Fixture

Happening = Callable[[], None]


class Exports(Fixture):
    def __init__(self, world: World, base: Path, pool: CompressorPool, recipients: tuple[str, ...]) -> None:
        super().__init__(world, base, pool)
        task = self.order(self.source("source"))
        assert self.execute(task.task_id) == "completed"
        result = world.row(task.task_id).result
        assert result is not None
        self.backup_id = result["backup_ids"][0]
        policy = FolderPolicy(str(base / "data"), ["/"])
        world.handler = ExportHandler(world.database, policy, pool, world.clock, b"/nowhere", "test")  # type: ignore[assignment]
        self.exports = ExportOrders(world.engine, policy, world.clock, world.repositories(policy, base))
        self.recipients = recipients
        self.out = base / "out"
        self.out.mkdir()

    def ask(self) -> TaskRow:
        order = ExportOrder(self.backup_id, os.fsencode(self.out), ArchiveFormat.TAR_GZ, recipients=self.recipients)
        row = self.exports.create(order, "admin", None)
        assert row.kind == TaskKind.EXPORT_BACKUP
        return row

    def assert_whole(self, task_id: str, attempt: int) -> None:
        """The folder holds the one file that the task reports."""
        row = self.world.row(task_id)
        assert (row.state, row.attempt) == (TaskState.COMPLETED, attempt)
        assert row.result is not None
        file = row.result["file"]
        name, *sidecar = sorted(os.listdir(self.out))
        if self.recipients:
            with OpenFolder(os.open(self.out, os.O_RDONLY), os.fsencode(self.out)) as folder:
                found = read_sidecar(folder.fd, name.encode())
            assert found.exported_from is not None
            assert (found.backup_id, found.size, found.sha256) == (self.backup_id, file["size"], file["sha256"])
            sidecar.remove(f"{name}.holdfast.json")
        assert sidecar == []
        assert file["path"] == str(self.out / name)
        assert file["sha256"] == sha256_of(self.out / name)
        assert file["size"] == (self.out / name).stat().st_size

    def assert_nothing(self, task_id: str, published: bool) -> None:
        removed = 2 if published and self.recipients else 1
        assert os.listdir(self.out) == []
        cleanup = self.world.row(task_id).cleanup
        assert cleanup is not None
        assert (cleanup["files_removed"], cleanup["left_behind"]) == (removed, [])


@pytest.fixture(params=[False, True], ids=["plain", "sealed"])
def exports(world: World, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Exports]:
    pool = CompressorPool(1, 32 << 20)
    recipients = (str(pyrage.x25519.Identity.generate().to_public()),) if request.param else ()
    yield Exports(world, tmp_path, pool, recipients)
    pool.close()


@pytest.fixture
def at_publishing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Happening], None]:
    """Lets something happen once: `before` the name is announced, directly before the rename (`announced`) or
    `after` it."""

    def install(moment: str, happening: Happening) -> None:
        original: Any = publishing.publish_archive
        waiting = [happening]

        def happen(now: str) -> None:
            if now == moment and waiting:
                waiting.pop()()

        def publish(folder_fd: int, temporary: bytes, base: str, kind: Any, announce: Any, sidecar: Any) -> bytes:
            def announced(name: bytes) -> None:
                happen("before")
                announce(name)
                happen("announced")

            name: bytes = original(folder_fd, temporary, base, kind, announced, sidecar)
            happen("after")
            return name

        monkeypatch.setattr(publishing, "publish_archive", publish)

    return install


def die() -> None:
    raise Death


@pytest.mark.parametrize("moment", ["before", "announced", "after"])
def test_a_dead_attempt_is_followed_by_one_whole_file(exports: Exports, at_publishing: Any, moment: str) -> None:
    task = exports.ask()
    at_publishing(moment, die)
    exports.die(task.task_id)
    published = snapshot(exports.out) if moment == "after" else None
    assert exports.execute(task.task_id) == "completed"
    exports.assert_whole(task.task_id, 2)
    if published:
        assert snapshot(exports.out) == published, "what stood there whole was written again"


@pytest.mark.parametrize("moment", ["before", "announced", "after"])
def test_a_frozen_attempt_does_not_touch_its_successors_file(exports: Exports, at_publishing: Any, moment: str) -> None:
    task = exports.ask()

    def successor() -> None:
        exports.world.lose_lease()
        assert exports.execute(task.task_id) == "completed"

    at_publishing(moment, successor)
    exports.execute(task.task_id)
    exports.assert_whole(task.task_id, 2)


def test_a_published_file_that_went_before_the_takeover_is_made_again(exports: Exports, at_publishing: Any) -> None:
    task = exports.ask()
    at_publishing("after", die)
    exports.die(task.task_id)
    at_publishing("before", die)
    os.unlink(exports.out / min(os.listdir(exports.out)))
    exports.die(task.task_id)
    assert exports.execute(task.task_id) == "completed"
    exports.assert_whole(task.task_id, 3)


@pytest.mark.parametrize("moment", ["before", "announced", "after"])
def test_a_cancel_leaves_nothing(exports: Exports, at_publishing: Any, moment: str) -> None:
    task = exports.ask()
    at_publishing(moment, lambda: exports.world.engine.cancel(task.task_id) and None)
    assert exports.execute(task.task_id) == "cancelled"
    exports.assert_nothing(task.task_id, moment != "before")


def test_a_cancel_that_reaches_the_successor_removes_what_was_published(exports: Exports, at_publishing: Any) -> None:
    task = exports.ask()
    at_publishing("after", die)
    exports.die(task.task_id)
    exports.world.engine.cancel(task.task_id)
    assert exports.execute(task.task_id) == "cancelled"
    exports.assert_nothing(task.task_id, True)


def test_a_task_given_up_after_publishing_tells_of_its_file(exports: Exports, at_publishing: Any) -> None:
    task = exports.ask()
    at_publishing("after", die)
    exports.die(task.task_id)
    exports.world.update(task.task_id, fruitless=3)
    assert exports.execute(task.task_id) == "failed"
    cleanup = exports.world.row(task.task_id).cleanup
    assert cleanup is not None
    assert cleanup["left_behind"] == [str(exports.out / min(os.listdir(exports.out)))]


def test_a_foreign_file_under_the_announced_name_is_left_alone(exports: Exports, at_publishing: Any) -> None:
    task = exports.ask()

    def take_the_name() -> None:
        row = exports.world.row(task.task_id)
        Path(row.checkpoint["result"]["file"]["path"]).write_text("somebody else's")
        raise Death

    at_publishing("announced", take_the_name)
    exports.die(task.task_id)
    foreign = min(name for name in os.listdir(exports.out) if not name.endswith(".holdfast.json"))
    assert exports.execute(task.task_id) == "completed"
    assert (exports.out / foreign).read_text() == "somebody else's"
    (exports.out / foreign).unlink()
    exports.assert_whole(task.task_id, 2)
