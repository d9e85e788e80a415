"""A real server of its own for each benchmark, and the calls that benchmarks make."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.report import ROOT
from holdfast.v1 import (
    backup_pb2,
    backup_service_pb2,
    backup_service_pb2_grpc,
    repository_pb2,
    repository_service_pb2,
    repository_service_pb2_grpc,
    restore_service_pb2,
    restore_service_pb2_grpc,
    source_pb2,
    source_service_pb2,
    source_service_pb2_grpc,
    task_pb2,
    task_service_pb2,
    task_service_pb2_grpc,
    wallet_pb2,
    wallet_service_pb2,
    wallet_service_pb2_grpc,
)

__all__ = [
    "ENDS",
    "TAR_GZ",
    "TAR_ZST",
    "WORK",
    "ZIP",
    "Api",
    "Server",
    "clear_peak",
    "fresh_folder",
    "peak_memory",
    "proportional_memory",
]

#: Everything the benchmarks make lies below this folder.
WORK = ROOT / ".bench"

ENDS = frozenset(
    (
        task_pb2.TASK_STATE_COMPLETED,
        task_pb2.TASK_STATE_COMPLETED_WITH_WARNINGS,
        task_pb2.TASK_STATE_FAILED,
        task_pb2.TASK_STATE_CANCELLED,
    )
)

ZIP, TAR_GZ = backup_pb2.ARCHIVE_FORMAT_ZIP, backup_pb2.ARCHIVE_FORMAT_TAR_GZ
TAR_ZST = backup_pb2.ARCHIVE_FORMAT_TAR_ZST


def fresh_folder(path: Path) -> Path:
    """An empty folder; whatever was there is gone."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


class Server:
    """`holdfast-server serve` on a free port, with its processes. Settings are given as `section_key=value`."""

    def __init__(self, data_dir: Path, **settings: object) -> None:
        self.data_dir = data_dir
        self._settings = {f"HOLDFAST_{name.upper()}": str(value) for name, value in settings.items()}
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def start(self, timeout: float = 60.0) -> None:
        """Returns once health says SERVING. Raises TimeoutError or RuntimeError."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HOLDFAST_")}
        paths = [str(ROOT / "client"), str(ROOT / "server"), environment.get("PYTHONPATH", "")]
        environment.update(self._settings, PYTHONPATH=os.pathsep.join(filter(None, paths)))
        listen = "127.0.0.1:0"
        address_file = self.data_dir / "server.address"
        address_file.unlink(missing_ok=True)
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        with (self.data_dir.parent / f"{self.data_dir.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *f"-m holdfast_server serve --listen {listen} --data-dir".split(), str(self.data_dir)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout
        while not self._is_serving(address_file):
            if self._process.poll() is not None:
                raise RuntimeError(f"the server ended with status {self._process.returncode}; see {log.name}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"the server does not serve after {timeout:g} s; see {log.name}")
            time.sleep(0.01)

    def _is_serving(self, address_file: Path) -> bool:
        try:
            self.address = address_file.read_text().strip()
        except FileNotFoundError:
            return False
        with grpc.insecure_channel(self.address) as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2)
            except grpc.RpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def stop(self) -> None:
        """SIGTERM, then wait; SIGKILL to what is left after a minute."""
        if self._process is None:
            return
        left = self.processes()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        psutil.wait_procs(left, timeout=5)
        self._process = None

    @property
    def supervisor(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process

    @property
    def token(self) -> str:
        return (self.data_dir / "admin.token").read_text().strip()

    def processes(self) -> list[psutil.Process]:
        """The supervisor, the edge and the workers."""
        try:
            top = psutil.Process(self.supervisor.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def role(self, role: str) -> psutil.Process:
        """The process that runs `edge` or `worker`."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                line = process.cmdline()
                if "--role" in line and line[line.index("--role") + 1] == role:
                    return process
        raise LookupError(f"no {role} is running")

    def api(self) -> Api:
        return Api(self.address, self.token)


class Api:
    """The calls that benchmarks make, over one connection of its own."""

    def __init__(self, address: str, token: str) -> None:
        self.channel = grpc.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),))
        self.metadata = (("authorization", f"Bearer {token}"),)
        self.sources: Any = source_service_pb2_grpc.SourceServiceStub(self.channel)  # type: ignore[no-untyped-call]
        self.backups: Any = backup_service_pb2_grpc.BackupServiceStub(self.channel)  # type: ignore[no-untyped-call]
        self.repositories: Any = repository_service_pb2_grpc.RepositoryServiceStub(self.channel)  # type: ignore[no-untyped-call]
        self.restores: Any = restore_service_pb2_grpc.RestoreServiceStub(self.channel)  # type: ignore[no-untyped-call]
        self.tasks: Any = task_service_pb2_grpc.TaskServiceStub(self.channel)  # type: ignore[no-untyped-call]
        self.wallets: Any = wallet_service_pb2_grpc.WalletServiceStub(self.channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Api:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.channel.close()

    def register(self, source_id: str, path: Path, kind: int = source_pb2.SOURCE_KIND_DIRECTORY) -> None:
        request = source_service_pb2.RegisterSourceRequest(source_id=source_id, path=str(path), kind=kind)  # type: ignore[arg-type]
        self.sources.RegisterSource(request, metadata=self.metadata, timeout=30)

    def balance(self, source_id: str) -> wallet_pb2.Balance:
        request = wallet_service_pb2.GetBalanceRequest(source_id=source_id)
        balance: wallet_pb2.Balance = self.wallets.GetBalance(request, metadata=self.metadata, timeout=60)
        return balance

    def count_coins(self, source_id: str, page_size: int) -> int:
        """Fetch all pages of a wallet's coins."""
        request, coins = wallet_service_pb2.ListCoinsRequest(source_id=source_id, page_size=page_size), 0
        while True:
            page = self.wallets.ListCoins(request, metadata=self.metadata, timeout=60)
            coins += len(page.coins)
            if not page.next_page_token:
                return coins
            request.page_token = page.next_page_token

    def start_backup(
        self, source_ids: list[str], folder: Path, archive_format: int, request_id: str | None = None
    ) -> task_pb2.Task:
        request = backup_service_pb2.CreateBackupRequest(
            source_ids=source_ids,
            archive=backup_pb2.ArchiveTarget(folder=str(folder), format=archive_format, create_folder=True),  # type: ignore[arg-type]
            request_id=request_id,
        )
        task: task_pb2.Task = self.backups.CreateBackup(request, metadata=self.metadata, timeout=30)
        return task

    def create_repository(self, repository_id: str, folder: Path) -> None:
        request = repository_service_pb2.CreateRepositoryRequest(
            repository_id=repository_id, location=str(folder), create_folder=True
        )
        self.repositories.CreateRepository(request, metadata=self.metadata, timeout=60)

    def get_repository(self, repository_id: str) -> repository_pb2.Repository:
        request = repository_service_pb2.GetRepositoryRequest(repository_id=repository_id)
        repository: repository_pb2.Repository = self.repositories.GetRepository(
            request, metadata=self.metadata, timeout=60
        )
        return repository

    def start_snapshot(self, source_id: str, repository_id: str) -> task_pb2.Task:
        request = backup_service_pb2.CreateBackupRequest(source_ids=[source_id])
        request.repository.repository_id = repository_id
        task: task_pb2.Task = self.backups.CreateBackup(request, metadata=self.metadata, timeout=30)
        return task

    def count_backups(self, page_size: int) -> int:
        """Fetch all pages of the backups."""
        request, backups = backup_service_pb2.ListBackupsRequest(page_size=page_size), 0
        while True:
            page = self.backups.ListBackups(request, metadata=self.metadata, timeout=60)
            backups += len(page.backups)
            if not page.next_page_token:
                return backups
            request.page_token = page.next_page_token

    def start_restore(self, backup_id: str, folder: Path) -> task_pb2.Task:
        request = restore_service_pb2.RestoreBackupRequest(backup_id=backup_id)
        request.new_folder.folder = str(folder)
        task: task_pb2.Task = self.restores.RestoreBackup(request, metadata=self.metadata, timeout=30)
        return task

    def task(self, task_id: str) -> task_pb2.Task:
        request = task_service_pb2.GetTaskRequest(task_id=task_id)
        task: task_pb2.Task = self.tasks.GetTask(request, metadata=self.metadata, timeout=30)
        return task

    def list_backups(self) -> backup_service_pb2.ListBackupsResponse:
        request = backup_service_pb2.ListBackupsRequest(page_size=50)
        answer: backup_service_pb2.ListBackupsResponse = self.backups.ListBackups(
            request, metadata=self.metadata, timeout=30
        )
        return answer

    def cancel(self, task_id: str) -> task_pb2.Task:
        request = task_service_pb2.CancelTaskRequest(task_id=task_id)
        task: task_pb2.Task = self.tasks.CancelTask(request, metadata=self.metadata, timeout=30)
        return task

    def watch(self, task_id: str, after: int | None = None) -> Any:
        request = task_service_pb2.WatchTaskRequest(task_id=task_id, after_sequence=after)
        return self.tasks.WatchTask(request, metadata=self.metadata)

    def finish(self, task_id: str, timeout: float = 3600.0) -> task_pb2.Task:
        """Follow a task to its end. Raises TimeoutError."""
        request = task_service_pb2.WatchTaskRequest(task_id=task_id)
        last = None
        try:
            for event in self.tasks.WatchTask(request, metadata=self.metadata, timeout=timeout):
                last = event
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise TimeoutError(f"task {task_id} does not end") from error
            raise
        if last is None:
            raise RuntimeError(f"the watch of task {task_id} gave nothing")
        task: task_pb2.Task = last.task
        return task

    def until(self, task_id: str, size: int) -> Iterator[task_pb2.Task]:
        """Poll a running task until it has read `size` bytes or has ended; yields each answer."""
        while True:
            task = self.task(task_id)
            yield task
            if task.state in ENDS or task.progress.original_size >= size:
                return
            time.sleep(0.01)


def clear_peak(process: psutil.Process) -> None:
    """`peak_memory` counts from here."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")


def peak_memory(process: psutil.Process) -> int:
    """Highest resident size of a process since its peak was cleared, in bytes."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel tells no peak")


def proportional_memory(process: psutil.Process) -> tuple[int, str]:
    """Memory of a process with shared pages counted by their share (PSS), or RSS where the kernel does not tell."""
    try:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024, "PSS"
    except OSError:
        pass
    return int(process.memory_info().rss), "RSS"
