"""Real servers for tests: started, watched, hurt and stopped; with the trees that they back up.

Nothing here waits a fixed time for something to have happened: every wait asks for a condition and gives up loudly.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from holdfast.v1 import (
    backup_pb2,
    backup_service_pb2,
    backup_service_pb2_grpc,
    export_service_pb2,
    export_service_pb2_grpc,
    repository_service_pb2_grpc,
    restore_service_pb2,
    restore_service_pb2_grpc,
    source_pb2,
    source_service_pb2,
    source_service_pb2_grpc,
    task_pb2,
    task_service_pb2,
    task_service_pb2_grpc,
    wallet_service_pb2,
    wallet_service_pb2_grpc,
)
from holdfast_server.catalog.database import Database
from holdfast_server.tasks.queue import migrate_queue

__all__ = [
    "ENDED",
    "Failure",
    "SequenceRule",
    "Server",
    "prepared_catalog",
    "failure_of",
    "make_tree",
    "snapshot",
    "until",
]

#: Bounds a hang; no test passes because of it.
PATIENCE = 60.0

ENDED = frozenset(
    {
        task_pb2.TASK_STATE_COMPLETED,
        task_pb2.TASK_STATE_COMPLETED_WITH_WARNINGS,
        task_pb2.TASK_STATE_FAILED,
        task_pb2.TASK_STATE_CANCELLED,
    }
)
REPOSITORY = Path(__file__).resolve().parent.parent

Value = TypeVar("Value")


def until(question: Callable[[], Value], what: str, *, seconds: float = PATIENCE, pause: float = 0.01) -> Value:
    """The first true answer to a question that is asked again and again."""
    deadline = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(pause)


@dataclass
class SequenceRule:
    """Checks a watch: `sequence == previous + 1 + skipped`, but for RESET, HEARTBEAT and an end state told again."""

    previous: int | None = None
    percent: float = 0.0
    events: list[task_pb2.TaskEvent] = field(default_factory=list)

    def take(self, event: task_pb2.TaskEvent) -> task_pb2.TaskEvent:
        kind = event.kind
        if kind == task_pb2.TASK_EVENT_KIND_RESET:
            assert event.skipped == 0
            assert event.sequence == event.task.revision
            self.previous = event.sequence
        elif kind == task_pb2.TASK_EVENT_KIND_HEARTBEAT:
            # That of a watch of all tasks is about none of them.
            assert not event.task_id or self.previous in (None, event.sequence), (self.previous, event)
        else:
            told_again = (
                kind == task_pb2.TASK_EVENT_KIND_STATE
                and event.sequence == self.previous
                and event.task.state in ENDED
                and event.skipped == 0
            )
            if self.previous is not None and not told_again:
                assert event.sequence == self.previous + 1 + event.skipped, (self.previous, event)
            self.previous = event.sequence
        progress = event.progress if kind == task_pb2.TASK_EVENT_KIND_PROGRESS else event.task.progress
        if progress.HasField("percent"):
            assert progress.percent >= self.percent, "percent fell"
            self.percent = progress.percent
        self.events.append(event)
        return event

    @property
    def last(self) -> task_pb2.TaskEvent:
        return self.events[-1]


@dataclass(frozen=True)
class Failure:
    """A failed call, taken apart."""

    code: grpc.StatusCode
    text: str
    reason: str
    domain: str
    metadata: dict[str, str]
    fields: list[str]
    infos: int
    retry: bool

    @property
    def name(self) -> str:
        return f"{self.code.name}/{self.reason}"


def failure_of(error: grpc.RpcError) -> Failure:
    """The code, and the one ErrorInfo with its company."""
    status = rpc_status.from_call(error)
    infos, fields, retry = [], [], False
    for detail in status.details if status is not None else ():
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            infos.append(info)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest()
            detail.Unpack(bad)
            fields += [violation.field for violation in bad.field_violations]
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = True
    first = infos[0] if infos else error_details_pb2.ErrorInfo()
    return Failure(
        error.code(), error.details() or "", first.reason, first.domain, dict(first.metadata), fields, len(infos), retry
    )


class Server:
    """One data directory and the processes that serve it."""

    def __init__(
        self,
        base: Path,
        *,
        workers: int = 1,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        listen: str = "127.0.0.1:0",
        makes_catalog: bool = False,
    ) -> None:
        self.base = base
        self.data_dir = base / "data"
        self.log_file = base / "server.log"
        self._workers = workers
        self._cwd = cwd
        self._listen = listen
        self._makes_catalog = makes_catalog
        self._environment = {
            # No slow machine outlasts it: who gets no time is not taken for dead. Tests of its end shorten it.
            "HOLDFAST_TASKS_LEASE_SECONDS": "30",
            "HOLDFAST_WORKER_DRAIN_SECONDS": "3",
            **(environment or {}),
        }
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._channel: grpc.Channel | None = None
        base.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_all()

    # -- life and death ------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start and wait until the edge says SERVING."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")}
        paths = f"{REPOSITORY / 'client'}:{REPOSITORY / 'server'}"
        (self.data_dir / "server.address").unlink(missing_ok=True)
        self._give_catalog()
        with self.log_file.open("ab") as log:
            self._supervisor = subprocess.Popen(
                [
                    *(sys.executable, "-m", "holdfast_server", "serve", "--listen", self._listen),
                    *("--data-dir", str(self.data_dir), "--workers", str(self._workers)),
                ],
                env={**inherited, "PYTHONPATH": paths, "HOME": str(self.base), **self._environment},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self._cwd,
                start_new_session=True,
            )
        self.wait_ready()
        return self

    def _give_catalog(self) -> None:
        """A catalog for a new data directory: to make one takes each server a quarter of a second of processor."""
        if self._makes_catalog or self.data_dir.exists():
            return
        self.data_dir.mkdir(mode=0o700)
        with open(os.open(self.data_dir / "state.sqlite", os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
            file.write(prepared_catalog())

    def wait_ready(self) -> None:
        until(self._address_known, f"the start of {self.data_dir}\n{self.log()[-3000:]}")
        self.connect()
        until(self.serving, "SERVING")

    def _address_known(self) -> bool:
        if self._supervisor is None or self._supervisor.poll() is not None:
            raise AssertionError(f"the server is not running:\n{self.log()[-3000:]}")
        return (self.data_dir / "server.address").exists()

    def connect(self) -> None:
        """A fresh channel: an old one waits out its backoff."""
        if self._channel is not None:
            self._channel.close()
        self._channel = grpc.insecure_channel(
            self.address,
            options=[("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 300)],
        )
        intercepted = grpc.intercept_channel(self._channel, _WithToken(self.token))
        self.sources = source_service_pb2_grpc.SourceServiceStub(intercepted)
        self.wallets = wallet_service_pb2_grpc.WalletServiceStub(intercepted)
        self.backups = backup_service_pb2_grpc.BackupServiceStub(intercepted)
        self.exports = export_service_pb2_grpc.ExportServiceStub(intercepted)
        self.restores = restore_service_pb2_grpc.RestoreServiceStub(intercepted)
        self.repositories = repository_service_pb2_grpc.RepositoryServiceStub(intercepted)
        self.tasks = task_service_pb2_grpc.TaskServiceStub(intercepted)
        self.health = health_pb2_grpc.HealthStub(self._channel)

    def serving(self) -> bool:
        try:
            answer = self.health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    @property
    def address(self) -> str:
        return (self.data_dir / "server.address").read_text().strip()

    @property
    def token(self) -> str:
        return (self.data_dir / "admin.token").read_text().strip()

    @property
    def channel(self) -> grpc.Channel:
        assert self._channel is not None
        return self._channel

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    @property
    def supervisor_pid(self) -> int:
        assert self._supervisor is not None
        return self._supervisor.pid

    def pids(self, role: str) -> list[int]:
        """Processes of a role: edge, worker or supervisor."""
        found = []
        for pid, arguments in self._processes():
            if "--role" in arguments:
                if arguments[arguments.index("--role") + 1] == role:
                    found.append(pid)
            elif role == "supervisor":
                found.append(pid)
        return sorted(found)

    def _processes(self) -> Iterator[tuple[int, list[str]]]:
        """Every process that serves this data directory."""
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                found = Path("/proc", entry, "cmdline").read_bytes()
                if b"holdfast_server" not in found:  # most of what runs; asked a hundred times a second
                    continue
                zombie = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            except OSError:
                continue
            arguments = found.decode("utf-8", "replace").split("\0")
            if not zombie and "holdfast_server" in arguments and str(self.data_dir) in arguments:
                yield int(entry), arguments

    def signal(self, role: str, number: int = signal.SIGKILL) -> list[int]:
        """Send a signal to all processes of a role; gives those that got it, at least one."""
        pids = self.pids(role)
        sent = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
                sent.append(pid)
        assert sent, f"there is no {role} to signal"
        return sent

    def freeze(self, pids: Sequence[int]) -> bool:
        """SIGSTOP between two writes: a frozen writer would hold the whole catalog. False when one of them is gone."""
        while True:
            try:
                for pid in pids:
                    os.kill(pid, signal.SIGSTOP)
            except ProcessLookupError:
                return False
            until(lambda: all(is_stopped(pid) for pid in pids), "the freeze", pause=0.0005)
            if self._can_write():
                return True
            self.thaw(pids)

    def thaw(self, pids: Sequence[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def frozen_worker(self) -> Iterator[list[int]]:
        """The workers stand still inside the block: what is queued meanwhile stays queued."""
        until(lambda: self.rows("SELECT owner FROM workers"), "a worker that is known")
        pids = self.pids("worker")
        assert pids
        assert self.freeze(pids)
        try:
            yield pids
        finally:
            self.thaw(pids)

    def _can_write(self) -> bool:
        connection = sqlite3.connect(self.data_dir / "state.sqlite", timeout=0.2, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return False
        finally:
            connection.close()
        return True

    def kill_all(self) -> None:
        """SIGKILL of everything at once; the supervisor first, so that it restarts nothing."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        for _ in range(3):
            everyone = sorted(self._processes(), key=lambda one: "--role" in one[1])
            for pid, _arguments in everyone:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if self._supervisor is not None:
                self._supervisor.wait(PATIENCE)
            if not everyone:
                break
        until(lambda: not list(self._processes()), "the end of all processes")

    def gone(self, pids: Sequence[int]) -> bool:
        alive = {pid for pid, _ in self._processes()}
        return alive.isdisjoint(pids)

    def stop(self) -> int:
        """SIGTERM to the supervisor; gives its exit status once everything has ended."""
        assert self._supervisor is not None
        self._supervisor.send_signal(signal.SIGTERM)
        status = self._supervisor.wait(PATIENCE)
        until(lambda: not list(self._processes()), "the end of the children")
        return status

    def wait_supervisor(self) -> int:
        assert self._supervisor is not None
        return self._supervisor.wait(PATIENCE)

    # -- the catalog, without the edge ---------------------------------------------------------------------------

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """Read the catalog directly, while the edge may be dead."""

        def read() -> list[dict[str, Any]] | None:
            connection = sqlite3.connect(f"file:{self.data_dir / 'state.sqlite'}?mode=ro", uri=True, timeout=PATIENCE)
            try:
                connection.row_factory = sqlite3.Row
                return [dict(row) for row in connection.execute(query, values)]
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_PROTOCOL:
                    raise
                return None  # whoever held the log's index was killed this moment
            finally:
                connection.close()

        while (found := read()) is None:
            time.sleep(0.01)
        return found

    def task_row(self, task_id: str) -> dict[str, Any]:
        return self.rows("SELECT * FROM tasks WHERE task_id = ?", task_id)[0]

    # -- calls ---------------------------------------------------------------------------------------------------

    def register(self, path: Path, source_id: str, **values: Any) -> source_pb2.Source:
        kind = values.pop("kind", source_pb2.SOURCE_KIND_DIRECTORY)
        request = source_service_pb2.RegisterSourceRequest(path=str(path), source_id=source_id, kind=kind, **values)
        return self.sources.RegisterSource(request, timeout=PATIENCE).sources[0]

    def unlock(
        self, source_id: str, password: str, seconds: float | None = None
    ) -> wallet_service_pb2.UnlockWalletResponse:
        request = wallet_service_pb2.UnlockWalletRequest(source_id=source_id, password=password)
        if seconds is not None:
            request.ttl.FromNanoseconds(round(seconds * 1e9))
        return self.wallets.UnlockWallet(request, timeout=PATIENCE)

    def forget_wallets(self) -> None:
        """Unregister the wallets that other tests left, and with them their keys."""
        request = source_service_pb2.ListSourcesRequest(kinds=[source_pb2.SOURCE_KIND_WALLET], page_size=1000)
        for source in self.sources.ListSources(request, timeout=PATIENCE).sources:
            gone = source_service_pb2.UnregisterSourceRequest(source_id=source.source_id)
            self.sources.UnregisterSource(gone, timeout=PATIENCE)

    def lock(self, source_id: str) -> bool:
        """Whether it was unlocked."""
        request = wallet_service_pb2.LockWalletRequest(source_id=source_id)
        return bool(self.wallets.LockWallet(request, timeout=PATIENCE).was_unlocked)

    def order(
        self,
        source_ids: str | Sequence[str],
        folder: Path | str,
        *,
        tar: bool = False,
        archive_format: int | None = None,
        tag: str = "",
        create_folder: bool = False,
        recipients: Sequence[str] = (),
        **values: Any,
    ) -> backup_service_pb2.CreateBackupRequest:
        if archive_format is None:
            archive_format = backup_pb2.ARCHIVE_FORMAT_TAR_GZ if tar else backup_pb2.ARCHIVE_FORMAT_ZIP
        target = backup_pb2.ArchiveTarget(
            folder=str(folder), format=archive_format, tag=tag, create_folder=create_folder, age_recipients=recipients
        )
        ids = [source_ids] if isinstance(source_ids, str) else list(source_ids)
        return backup_service_pb2.CreateBackupRequest(source_ids=ids, archive=target, **values)

    def create(self, *arguments: Any, **values: Any) -> task_pb2.Task:
        """CreateBackup with what `order` takes."""
        return self.backups.CreateBackup(self.order(*arguments, **values), timeout=PATIENCE)

    def backup(self, *arguments: Any, **values: Any) -> task_pb2.Task:
        """CreateBackup and wait for its end."""
        return self.ended(self.create(*arguments, **values).task_id)

    def backup_of(self, task: task_pb2.Task) -> backup_pb2.Backup:
        """The one backup of a task."""
        request = backup_service_pb2.GetBackupRequest(backup_id=task.backup_result.backup_ids[0])
        return self.backups.GetBackup(request, timeout=PATIENCE)

    def verify(
        self, backup_id: str, level: int = backup_pb2.VERIFY_LEVEL_READ_DATA, *, identity: str | None = None
    ) -> task_pb2.Task:
        request = backup_service_pb2.VerifyBackupRequest(backup_id=backup_id, level=level)
        if identity is not None:
            request.credentials.age_identity = identity
        return self.ended(self.backups.VerifyBackup(request, timeout=PATIENCE).task_id)

    def restore(self, backup_id: str, folder: Path, **values: Any) -> task_pb2.Task:
        return self.ended(self.start_restore(backup_id, folder, **values).task_id)

    def start_restore(
        self, backup_id: str, folder: Path, *, identity: str | None = None, **values: Any
    ) -> task_pb2.Task:
        """Into a new folder, or as a wallet with `new_wallet=NewWalletTarget(…)`."""
        request = restore_service_pb2.RestoreBackupRequest(backup_id=backup_id, **values)
        if identity is not None:
            request.credentials.age_identity = identity
        target = request.new_wallet if request.HasField("new_wallet") else request.new_folder
        target.folder = str(folder)
        return self.restores.RestoreBackup(request, timeout=PATIENCE)

    def restore_archive(self, archive: Path, folder: Path, **values: Any) -> task_pb2.Task:
        return self.ended(self.start_restore_archive(archive, folder, **values).task_id)

    def start_restore_archive(self, archive: Path, folder: Path, **values: Any) -> task_pb2.Task:
        request = restore_service_pb2.RestoreArchiveRequest(archive_path=str(archive), **values)
        target = request.new_wallet if request.HasField("new_wallet") else request.new_folder
        target.folder = str(folder)
        return self.restores.RestoreArchive(request, timeout=PATIENCE)

    def problems(self, task_id: str) -> list[task_pb2.TaskProblem]:
        request = task_service_pb2.ListTaskProblemsRequest(task_id=task_id, page_size=1000)
        return list(self.tasks.ListTaskProblems(request, timeout=PATIENCE).problems)

    def start_export(
        self, backup_id: str, folder: Path, kind: int = backup_pb2.ARCHIVE_FORMAT_TAR_GZ, **values: Any
    ) -> task_pb2.Task:
        request = export_service_pb2.ExportBackupRequest(
            backup_id=backup_id,
            folder=str(folder),
            format=kind,
            **values,  # type: ignore[arg-type]
        )
        return self.exports.ExportBackup(request, timeout=PATIENCE)

    def export(self, *arguments: Any, **values: Any) -> task_pb2.Task:
        """ExportBackup with what `start_export` takes, and wait for its end."""
        return self.ended(self.start_export(*arguments, **values).task_id)

    def start_import(self, source_id: str, *paths: Path, **values: Any) -> task_pb2.Task:
        request = wallet_service_pb2.ImportCoinsRequest(source_id=source_id, paths=map(str, paths), **values)
        return self.wallets.ImportCoins(request, timeout=PATIENCE)

    def import_coins(self, *arguments: Any, **values: Any) -> task_pb2.Task:
        """ImportCoins with what `start_import` takes, and wait for its end."""
        return self.ended(self.start_import(*arguments, **values).task_id)

    def get(self, task_id: str) -> task_pb2.Task:
        return self.tasks.GetTask(task_service_pb2.GetTaskRequest(task_id=task_id), timeout=PATIENCE)

    def cancel(self, task_id: str) -> task_pb2.Task:
        return self.tasks.CancelTask(task_service_pb2.CancelTaskRequest(task_id=task_id), timeout=PATIENCE)

    def ended(self, task_id: str) -> task_pb2.Task:
        """The task at its end, which the edge may miss for a while."""

        def look() -> task_pb2.Task | None:
            try:
                task = self.get(task_id)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                return None
            return task if task.state in ENDED else None

        found = until(look, f"the end of task {task_id}", pause=0.02)
        assert found is not None
        return found

    def watch(self, task_id: str, after: int | None = None, rule: SequenceRule | None = None) -> SequenceRule:
        """Watch to the end, with the sequence rule checked."""
        rule = rule or SequenceRule(previous=after)
        request = task_service_pb2.WatchTaskRequest(task_id=task_id, after_sequence=after)
        for event in self.tasks.WatchTask(request, timeout=PATIENCE):
            rule.take(event)
        return rule

    def assert_archives(self, folder: Path, also: Sequence[str] = ()) -> dict[str, str]:
        """The folder holds the archives of the COMPLETED backups, with the recorded content, the sidecars of those that
        are sealed, and nothing else. Gives the digests of the archives."""
        rows = self.rows("SELECT * FROM backups WHERE folder = ? AND state = 'COMPLETED'", os.fsencode(folder))
        wanted = {row["file_name"].decode(): row["sha256"] for row in rows}
        assert len(wanted) == len(rows), "two backups claim one file"
        sidecars = {row["file_name"].decode() + ".holdfast.json": row for row in rows if row["sealed"]}
        for name, row in sidecars.items():
            stated = json.loads((folder / name).read_bytes())
            assert (stated["backup_id"], stated["sha256"]) == (row["backup_id"], row["sha256"])
        known = {*also, *sidecars}
        found = {name: sha256_of(folder / name) for name in os.listdir(folder) if name not in known}
        assert found == wanted
        return found


@functools.cache
def prepared_catalog() -> bytes:
    """A catalog with the queue's tables, as a server makes it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.sqlite"
        database = Database(f"sqlite:///{path}", busy_timeout=30.0)
        database.prepare(path.with_suffix(".lock"), migrate_queue)
        with database.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        database.close()
        return path.read_bytes()


class _WithToken(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    def __init__(self, token: str) -> None:
        self._metadata = ("authorization", f"Bearer {token}")

    def _details(self, details: Any) -> Any:
        metadata = [*(details.metadata or ()), self._metadata]
        return _Details(details.method, details.timeout, metadata, details.credentials, details.wait_for_ready, None)

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(self._details(details), request)

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(self._details(details), request)


@dataclass(frozen=True)
class _Details(grpc.ClientCallDetails):
    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: Any
    compression: Any


def is_stopped(pid: int) -> bool:
    """Whether a process stands still: stopped by a signal, or gone."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] in "TtZX"
    except OSError:
        return True


def sha256_of(path: Path | bytes) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def make_tree(root: Path, seed: int, *, files: int = 40, large: int = 0) -> Path:
    """A tree of seeded random files, some compressible; `large` bytes more in one random file."""
    rng = random.Random(seed)
    root.mkdir(parents=True)
    for number in range(files):
        folder = root / f"d{number % 7}" / f"e{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        size = rng.choice([0, 1, 100, 5_000, 40_000])
        data = rng.randbytes(size) if rng.random() < 0.5 else (b"holdfast " * (size // 9 + 1))[:size]
        (folder / f"f{number:04}.bin").write_bytes(data)
    if large:
        with (root / "large.bin").open("wb") as file:
            for _ in range(large >> 20):
                file.write(rng.randbytes(1 << 20))
    return root


def snapshot(root: Path | bytes, *, times: bool = True) -> dict[bytes, tuple[Any, ...]]:
    """What a tree is: path → (kind, mode, mtime, size, sha256 or link target). Iterative, for deep trees."""
    found: dict[bytes, tuple[Any, ...]] = {}
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    status = os.fstat(top)
    found[b""] = ("d", stat.S_IMODE(status.st_mode), status.st_mtime_ns if times else 0)
    open_folders = [(top, b"", sorted(os.fsencode(name) for name in os.listdir(top)))]
    try:
        while open_folders:
            fd, prefix, names = open_folders[-1]
            if not names:
                os.close(fd)
                open_folders.pop()
                continue
            name = names.pop(0)
            path = prefix + name
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            mode, mtime = stat.S_IMODE(status.st_mode), status.st_mtime_ns if times else 0
            if stat.S_ISLNK(status.st_mode):
                found[path] = ("l", os.readlink(name, dir_fd=fd))
            elif stat.S_ISDIR(status.st_mode):
                found[path] = ("d", mode, mtime)
                child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                open_folders.append((child, path + b"/", sorted(os.fsencode(one) for one in os.listdir(child))))
            elif stat.S_ISREG(status.st_mode):
                file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd)
                with os.fdopen(file, "rb") as content:
                    digest = hashlib.file_digest(content, "sha256").hexdigest()
                found[path] = ("f", mode, mtime, status.st_size, digest)
            else:
                found[path] = ("special", stat.S_IFMT(status.st_mode))
    finally:
        for fd, _, _ in open_folders:
            os.close(fd)
    return found


def remove_deep(root: Path) -> None:
    """Remove a tree of any depth."""
    if root.exists():
        subprocess.run(["rm", "-rf", str(root)], check=True) if shutil.which("rm") else shutil.rmtree(root)
