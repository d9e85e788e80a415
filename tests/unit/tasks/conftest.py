"""The engine on a real SQLite file, with a queue in memory and a clock that tests step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from holdfast_server.archive.pool import CompressorPool
from holdfast_server.catalog import tasks
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.requests import RequestKey
from holdfast_server.catalog.rows import LockMode, LockWish, TaskKind, TaskRow
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks.archive_target import ArchiveTarget
from holdfast_server.tasks.backup import BackupHandler
from holdfast_server.tasks.backup_maintenance import BackupMaintenance
from holdfast_server.tasks.check_repository import CheckHandler
from holdfast_server.tasks.compact_repository import CompactHandler
from holdfast_server.tasks.engine import NewTask, TaskEngine
from holdfast_server.tasks.housekeeping import Housekeeper
from holdfast_server.tasks.repositories import RepositoryRegistry
from holdfast_server.tasks.run import Outcome, TaskRun
from holdfast_server.tasks.snapshot_target import SnapshotTarget
from holdfast_server.tasks.wallet_keys import WalletKeys
from holdfast_server.tasks.wallet_reader import WalletReader
from holdfast_server.tasks.worker import Worker
from tests.harness import prepared_catalog

SECOND = 1_000_000
LEASE = 10.0


class StepClock:
    """Time that stands still until a test steps it."""

    def __init__(self) -> None:
        self.time = 1_700_000_000 * SECOND

    def now(self) -> int:
        return self.time

    def monotonic(self) -> float:
        return self.time / SECOND

    def step(self, seconds: float) -> None:
        self.time += int(seconds * SECOND)


@dataclass
class MemoryDispatcher:
    """A queue that tests look into. `queue` holds what no worker has taken yet."""

    queue: list[tuple[str, int]] = field(default_factory=list)
    everything: list[tuple[str, int]] = field(default_factory=list)
    forgotten: list[tuple[datetime, set[tuple[str, int]]]] = field(default_factory=list)

    def enqueue(self, connection: sa.Connection, queue: str, task_id: str, attempt: int) -> None:
        assert (task_id, attempt) not in self.everything, "an attempt was queued twice"
        self.queue.append((task_id, attempt))
        self.everything.append((task_id, attempt))

    def waiting(self, attempts: Collection[tuple[str, int]]) -> set[tuple[str, int]]:
        return set(attempts) & set(self.queue)

    def forget(self, created_before: datetime, keep: Collection[tuple[str, int]]) -> int:
        self.forgotten.append((created_before, set(keep)))
        return 0

    def take(self) -> tuple[str, int]:
        return self.queue.pop(0)


@dataclass
class ScriptedHandler:
    """Work that a test writes down: `work` is called with the run; what was abandoned and cleaned is counted."""

    work: Callable[[TaskRun], Outcome] = lambda run: Outcome({}, "done")
    cleaned: list[int] = field(default_factory=list)
    abandoned: list[bool] = field(default_factory=list)

    def run(self, run: TaskRun) -> Outcome:
        return self.work(run)

    def clean(self, run: TaskRun, *, cancelled: bool) -> list[str]:
        self.cleaned.append(run.attempt)
        return []

    def abandon(self, connection: sa.Connection, run: TaskRun, failed: bool) -> None:
        self.abandoned.append(failed)


class InProcess:
    """Runs the reader process's functions at once, where the tests look."""

    def run(self, function: Callable[..., Any], *args: Any, wanted: Callable[[], bool] = lambda: True) -> Any:
        return function(*args)


class World:
    """Everything that tasks need, and short words for what tests do with it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = StepClock()
        self.dispatcher = MemoryDispatcher()
        self.engine = TaskEngine(database, self.dispatcher, self.clock, LEASE)
        self.handler = ScriptedHandler()
        self.housekeeper = Housekeeper(database, self.dispatcher, self.clock, history_days=90, request_id_days=7)
        self.worker = self.new_worker("00000000-0000-0000-0000-000000000001")

    def new_worker(self, owner: str) -> Worker:
        handlers = dict.fromkeys(TaskKind, self.handler)
        worker = Worker(owner, self.database, self.engine, handlers, self.housekeeper, self.clock, LEASE)
        with self.database.write() as connection:
            worker._register(connection)
        return worker

    def wallet_keys(self, policy: FolderPolicy) -> WalletKeys:
        """An edge's, for wallets that nobody unlocks: its reader process is never started."""
        return WalletKeys(self.database, policy, WalletReader(), self.clock)

    def repositories(self, policy: FolderPolicy, data_dir: Path = Path("/nowhere")) -> RepositoryRegistry:
        """An edge's, likewise; by default one that knows no repository."""
        return RepositoryRegistry(self.database, policy, WalletReader(), self.clock, os.fsencode(data_dir))

    def create(
        self,
        *wishes: tuple[str, LockMode],
        key: RequestKey | None = None,
        kind: TaskKind = TaskKind.VERIFY,
        source_ids: Sequence[str] = ("one",),
        dry_run: bool = False,
    ) -> TaskRow:
        self.clock.step(0.001)
        new = NewTask(kind, "admin", {}, source_ids, [LockWish(r, m) for r, m in wishes], dry_run)
        return self.engine.create(lambda _: new, key)

    def row(self, task_id: str) -> TaskRow:
        with self.database.read() as connection:
            found = tasks.get_task(connection, task_id)
        assert found is not None
        return found

    def claim(self, task_id: str, attempt: int | None = None, worker: Worker | None = None) -> TaskRun | None:
        """What a worker does with an attempt from the queue, up to the work itself."""
        wanted = (task_id, self.row(task_id).attempt if attempt is None else attempt)
        if wanted in self.dispatcher.queue:
            self.dispatcher.queue.remove(wanted)
        return (worker or self.worker)._claim(*wanted)

    def execute(self, task_id: str, worker: Worker | None = None) -> str:
        attempt = self.row(task_id).attempt
        self.dispatcher.queue.remove((task_id, attempt))
        return (worker or self.worker).execute(task_id, attempt)

    def lose_lease(self) -> None:
        self.clock.step(LEASE + 0.001)
        self.engine.tick()

    def update(self, task_id: str, **values: Any) -> None:
        with self.database.write() as connection:
            tasks.update_task(connection, task_id, **values)


@pytest.fixture(scope="session")
def empty_catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated catalog to copy: migrating takes longer than a test."""
    path = tmp_path_factory.mktemp("catalog") / "state.sqlite"
    path.write_bytes(prepared_catalog())
    return path


@pytest.fixture
def database(empty_catalog: Path, tmp_path: Path) -> Iterator[Database]:
    path = tmp_path / "state.sqlite"
    shutil.copyfile(empty_catalog, path)
    made = Database(f"sqlite:///{path}", busy_timeout=5.0)
    yield made
    made.close()


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def backup_handler(world: World, policy: FolderPolicy, pool: CompressorPool, data_dir: bytes) -> BackupHandler:
    """What does BACKUP tasks in a worker, put together as `app` does it."""
    common = world.database, world.clock, data_dir
    return BackupHandler(
        world.database,
        policy,
        ArchiveTarget(world.database, policy, pool, world.clock),
        SnapshotTarget(world.database, pool, world.clock, data_dir),
        BackupMaintenance(*common, CompactHandler(*common), CheckHandler(*common)),
        world.clock,
        data_dir,
        "test",
    )
