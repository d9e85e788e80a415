"""What a worker does for repositories beside tasks: stores that lie are refused, leftovers of the dead go away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.catalog import repositories
from holdfast_server.catalog.rows import RepositoryRow, RepositoryState
from holdfast_server.core import repository_place as places
from holdfast_server.errors import FailedPrecondition, HoldfastError, Reason, Unavailable
from holdfast_server.repository import CheckLevel, ReadingRun, RunKind
from holdfast_server.repository.run_marks import RunMark
from holdfast_server.repository.runs import begin_run, list_runs
from holdfast_server.storage.objects import Buffer, LocalObjects, ObjectInfo
from holdfast_server.tasks.check_repository import CheckOrders
from holdfast_server.tasks.repositories import open_repository, repository_place
from holdfast_server.tasks.repository_care import RepositoryCare
from tests.unit.tasks.conftest import InProcess, World
from tests.unit.tasks.test_repositories import Fixture

DAY = 86_400


class Lying(LocalObjects):
    """A folder that says it created what was there, and hides what a list should show, as it is told."""

    lie = ""
    #: What it was asked to store.
    stored: list[str] = []  # noqa: RUF012  one test at a time

    def put(self, name: str, parts: Sequence[Buffer]) -> None:
        self.stored.append(name)
        super().put(name, parts)

    def create_if_absent(self, name: str, content: bytes) -> bool:
        self.stored.append(name)
        return super().create_if_absent(name, content) or self.lie == "creates twice"

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return iter(()) if self.lie == "lists nothing" else super().list(prefix)


@pytest.fixture
def fixture(world: World, tmp_path: Path) -> Fixture:
    made = Fixture(world, tmp_path, InProcess())
    made.create()
    world.clock.step(1)
    return made


@pytest.fixture
def lie(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """From now on the stores of repositories lie like this; not at all with an empty one."""
    monkeypatch.setattr(places, "LocalObjects", Lying)
    monkeypatch.setattr(Lying, "stored", [])
    return lambda kind: monkeypatch.setattr(Lying, "lie", kind)


def row_of(fixture: Fixture) -> RepositoryRow:
    with fixture.world.database.read() as connection:
        row = repositories.get_repository(connection, "vault")
    assert row is not None
    return row


def worker_start(fixture: Fixture) -> RepositoryCare:
    care = RepositoryCare(fixture.world.database, fixture.world.clock, os.fsencode(fixture.data_dir))
    care.tend(row_of(fixture))
    return care


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(call: Callable[[], Any]) -> HoldfastError:
    with pytest.raises(HoldfastError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(
    ("kind", "said"), [("creates twice", "created a second time"), ("lists nothing", "a list does not show")]
)
def test_a_store_that_lies_is_refused_until_it_lies_no_more(
    fixture: Fixture, lie: Callable[[str], None], tmp_path: Path, kind: str, said: str
) -> None:
    before = everything(tmp_path / "vault")
    lie(kind)
    worker_start(fixture)
    assert everything(tmp_path / "vault") == before, "a probe leaves nothing"
    row = fixture.look()
    assert row.state == RepositoryState.REFUSED
    assert row.problem is not None
    assert row.problem["reason"] == "STORE_UNSUITABLE"
    assert said in row.problem["message"]
    assert str(tmp_path / "vault") in row.problem["message"]
    (listed,) = fixture.registry.list(limit=9, after=None)
    assert (listed.state, listed.problem) == (row.state, row.problem)
    lie("")  # what was found stands until the next start
    orders = CheckOrders(fixture.world.engine, fixture.registry)
    for call in (
        lambda: open_repository(row_of(fixture), os.fsencode(fixture.data_dir)),
        lambda: fixture.unlock(),
        lambda: orders.create("vault", CheckLevel.STRUCTURE, 100, "admin", None),
    ):
        error = refusal(call)
        assert isinstance(error, FailedPrecondition)
        assert error.reason is Reason.STORE_UNSUITABLE
        assert said in error.message
        assert error.metadata["repository_id"] == "vault"
    worker_start(fixture)
    assert row_of(fixture).store_problem is None
    assert fixture.look().state == RepositoryState.READY
    open_repository(row_of(fixture), os.fsencode(fixture.data_dir)).close()


def test_a_refused_repository_whose_folder_is_away_is_offline(
    fixture: Fixture, lie: Callable[[str], None], tmp_path: Path
) -> None:
    lie("creates twice")
    worker_start(fixture)
    (tmp_path / "vault").rename(tmp_path / "away")
    assert fixture.look().state == RepositoryState.OFFLINE
    assert fixture.registry.list(limit=9, after=None)[0].state == RepositoryState.OFFLINE
    error = refusal(lambda: open_repository(row_of(fixture), os.fsencode(fixture.data_dir)))
    assert (type(error), error.reason) == (Unavailable, Reason.STORAGE_UNREACHABLE)


def test_something_in_the_way_in_the_folder_is_refused(fixture: Fixture, tmp_path: Path) -> None:
    """A real folder that cannot do what a store must."""
    vault = tmp_path / "vault"
    (vault / "runs").rmdir()
    (vault / "runs").write_bytes(b"")
    worker_start(fixture)
    assert "in the way" in (row_of(fixture).store_problem or "")
    (vault / "runs").unlink()
    worker_start(fixture)
    assert row_of(fixture).store_problem is None


def test_what_is_away_is_probed_once_it_is_back_and_nothing_else_is_written_to(
    fixture: Fixture, lie: Callable[[str], None], tmp_path: Path
) -> None:
    vault, away = tmp_path / "vault", tmp_path / "away"
    vault.rename(away)
    lie("creates twice")
    care = worker_start(fixture)
    assert row_of(fixture).store_problem is None
    vault.mkdir()
    care.tend(row_of(fixture))
    assert os.listdir(vault) == [], "a mount point without its disk"
    vault.rmdir()
    fixture.create("other")
    (tmp_path / "other").rename(vault)
    before = everything(vault)
    care.tend(row_of(fixture))
    assert everything(vault) == before
    assert Lying.stored == []
    assert row_of(fixture).store_problem is None, "another repository lies there"
    vault.rename(tmp_path / "other")
    away.rename(vault)
    care.tend(row_of(fixture))
    assert row_of(fixture).store_problem is not None
    assert Lying.stored != []


def test_a_store_is_probed_once_a_start_and_not_after_its_creation(
    fixture: Fixture, lie: Callable[[str], None]
) -> None:
    lie("")
    care = worker_start(fixture)
    assert Lying.stored != []
    Lying.stored.clear()
    care.tend(row_of(fixture))
    assert Lying.stored == []
    fixture.world.clock.step(1)
    fixture.create("late")
    Lying.stored.clear()
    with fixture.world.database.read() as connection:
        late = repositories.get_repository(connection, "late")
    assert late is not None
    care.tend(late)
    assert Lying.stored == []


def test_what_killed_probes_left_goes_and_another_nodes_stays(fixture: Fixture, tmp_path: Path) -> None:
    runs = tmp_path / "vault" / "runs"
    with open_repository(row_of(fixture), os.fsencode(fixture.data_dir)) as opened:
        own = opened.keys.writer.writer_id.hex()
    other = f"probe-{'0' * 32}-{'1' * 32}"
    for name in (f"probe-{own}-{'1' * 32}", f"probe-{'2' * 32}", other):
        (runs / name).write_bytes(b"left")
    worker_start(fixture)
    assert os.listdir(runs) == [other]


def test_two_workers_take_turns(fixture: Fixture, lie: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that finds another at it removes nothing of its probe, and tries again later."""
    lie("")
    begun, go_on = threading.Event(), threading.Event()
    create = Lying.create_if_absent

    def slowly(store: Lying, name: str, content: bytes) -> bool:
        if not begun.is_set():
            begun.set()
            assert go_on.wait(60)
        return create(store, name, content)

    monkeypatch.setattr(Lying, "create_if_absent", slowly)
    first = threading.Thread(target=worker_start, args=(fixture,))
    first.start()
    assert begun.wait(60)
    second = worker_start(fixture)
    assert Lying.stored == []
    go_on.set()
    first.join()
    Lying.stored.clear()
    second.tend(row_of(fixture))
    assert Lying.stored != []
    assert row_of(fixture).store_problem is None


WRITER = """
import os, signal, sys
from holdfast_server.storage.local_objects import LocalObjects
from holdfast_server.storage import local_objects
local_objects.fsync_file = lambda fd: os.kill(os.getpid(), signal.SIGKILL)
LocalObjects(os.open(sys.argv[1], os.O_RDONLY)).put("packs/" + "0" * 32, [b"x" * 99])
"""


def test_unfinished_files_of_killed_puts_go_after_a_day(fixture: Fixture, tmp_path: Path) -> None:
    staging = tmp_path / "vault" / ".tmp"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    killed = subprocess.run([sys.executable, "-c", WRITER, str(tmp_path / "vault")], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = staging.iterdir()
    assert left.stat().st_size == 99
    worker_start(fixture)
    assert list(staging.iterdir()) == [left], "somebody may be writing it"
    young = time.time() - DAY + 600
    os.utime(left, (young, young))
    worker_start(fixture)
    assert list(staging.iterdir()) == [left]
    old = time.time() - DAY - 1
    os.utime(left, (old, old))
    worker_start(fixture)
    assert list(staging.iterdir()) == []


def test_runs_of_dead_processes_end_and_no_others(fixture: Fixture) -> None:
    with open_repository(row_of(fixture), os.fsencode(fixture.data_dir)) as opened:
        repository, store, keys = opened.repository, opened.store, opened.repository.index_keys
        marks = repository_place(row_of(fixture), os.fsencode(fixture.data_dir)).marks

        def under_way() -> set[str]:
            return {run.run_id for run in list_runs(store, keys)}

        with RunMark(marks) as mark:  # as one that was killed: never ended
            begin_run(store, keys, mark.run_id, RunKind.RESTORE, writer_id=opened.keys.writer.writer_id, now_us=1)
        backup = "0b53a3a0-3c1c-4f0c-8a55-54f6e9ad1a6b"
        begin_run(store, keys, backup, RunKind.BACKUP, writer_id=opened.keys.writer.writer_id, now_us=1)
        foreign = backup.replace("0", "1")
        begin_run(store, keys, foreign, RunKind.RESTORE, writer_id=b"\1" * 16, now_us=1)
        with ReadingRun(repository, RunKind.VERIFY, lambda: None, lambda: 1, marks) as living:
            assert len(under_way()) == 4
            care = worker_start(fixture)
            assert under_way() == {backup, foreign, living._run.run_id}
            assert os.listdir(marks) == [living._run.run_id.encode()]
        assert under_way() == {backup, foreign}
        with RunMark(marks) as mark:
            begin_run(store, keys, mark.run_id, RunKind.CHECK, writer_id=opened.keys.writer.writer_id, now_us=1)
        care.tend(row_of(fixture))
        assert under_way() == {backup, foreign}, "also long after the start"


def test_a_dead_run_in_a_folder_that_is_away_is_ended_once_it_is_back(fixture: Fixture, tmp_path: Path) -> None:
    with open_repository(row_of(fixture), os.fsencode(fixture.data_dir)) as opened, RunMark(opened.place.marks) as mark:
        keys = opened.repository.index_keys
        begin_run(opened.store, keys, mark.run_id, RunKind.CHECK, writer_id=opened.keys.writer.writer_id, now_us=1)
    care = worker_start(fixture)
    assert os.listdir(tmp_path / "vault" / "runs") == []
    with RunMark(opened.place.marks) as mark:
        (tmp_path / "vault" / "runs" / mark.run_id).write_bytes(b"a run")
    (tmp_path / "vault").rename(tmp_path / "away")
    care.tend(row_of(fixture))
    assert os.listdir(opened.place.marks) == [mark.run_id.encode()]
    (tmp_path / "away").rename(tmp_path / "vault")
    care.tend(row_of(fixture))
    assert os.listdir(opened.place.marks) == []
    assert os.listdir(tmp_path / "vault" / "runs") == []


def test_a_store_that_hangs_holds_up_no_other(
    fixture: Fixture, lie: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    lie("")
    fixture.create("other")
    fixture.world.clock.step(1)
    hang, create = threading.Event(), Lying.create_if_absent
    other = threading.Event()

    def hanging(store: Lying, name: str, content: bytes) -> bool:
        if str(store).endswith("/vault"):
            assert hang.wait(60)
        else:
            other.set()
        return create(store, name, content)

    monkeypatch.setattr(Lying, "create_if_absent", hanging)
    care = RepositoryCare(fixture.world.database, fixture.world.clock, os.fsencode(fixture.data_dir))
    for _ in range(2):
        care.start_round()
    assert other.wait(60)
    hang.set()
    for thread in threading.enumerate():
        if thread.name == "repository-care":
            thread.join(60)
    assert sum(name.startswith("runs/probe-") for name in set(Lying.stored)) == 2, "each was probed once"
