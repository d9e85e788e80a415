"""Stores that lie below a running service, and what killed processes leave in repositories."""

from __future__ import annotations

import contextlib
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

import holdfast
from holdfast.cli.app import main
from holdfast.v1 import backup_service_pb2, repository_pb2, repository_service_pb2, task_pb2
from tests.harness import PATIENCE, REPOSITORY, Server, failure_of, until
from tests.served_repositories import back_up, create_repository, order_snapshot

MakeServer = Callable[..., Server]

READY = repository_pb2.REPOSITORY_STATE_READY
REFUSED = repository_pb2.REPOSITORY_STATE_REFUSED
OFFLINE = repository_pb2.REPOSITORY_STATE_OFFLINE

#: Put before everything else that each process of the service imports: a file system that does not keep its promises,
#: as long as the file LIE is there.
SHIM = """
import os
import holdfast_server.storage.syscalls as syscalls
honest = syscalls.rename_without_replace
def lying(dir_fd, old, new, *, to_fd=None):
    if os.path.exists({lie!r}):
        return os.rename(old, new, src_dir_fd=dir_fd, dst_dir_fd=dir_fd if to_fd is None else to_fd)
    return honest(dir_fd, old, new, to_fd=to_fd)
syscalls.rename_without_replace = lying
"""


@pytest.fixture
def lie(tmp_path: Path) -> Path:
    return tmp_path / "lie"


@pytest.fixture
def server(new_server: MakeServer, tmp_path: Path, lie: Path) -> Server:
    shim = tmp_path / "shim"
    shim.mkdir()
    (shim / "sitecustomize.py").write_text(SHIM.format(lie=str(lie)))
    paths = [str(shim), str(REPOSITORY / "client"), str(REPOSITORY / "server")]
    return new_server(environment={"PYTHONPATH": os.pathsep.join(paths)})


def get(server: Server, name: str = "vault") -> repository_pb2.Repository:
    request = repository_service_pb2.GetRepositoryRequest(repository_id=name)
    return server.repositories.GetRepository(request, timeout=PATIENCE)


def listed(server: Server) -> dict[str, repository_pb2.Repository]:
    request = repository_service_pb2.ListRepositoriesRequest()
    found = server.repositories.ListRepositories(request, timeout=PATIENCE).repositories
    return {one.repository_id: one for one in found}


def refused(call: Callable[..., Any], request: Any) -> tuple[str, str]:
    def use() -> None:
        answer = call(request, timeout=PATIENCE)
        list(answer if hasattr(answer, "__iter__") else ())

    with pytest.raises(grpc.RpcError) as caught:
        use()
    failure = failure_of(caught.value)
    return failure.name, failure.text


def vault_with_a_backup(server: Server, base: Path, size: int = 100) -> str:
    source = base / "source"
    source.mkdir()
    (source / "noise").write_bytes(os.urandom(size))
    server.register(source, "source")
    create_repository(server, "vault", base / "vault")
    return str(back_up(server, "vault", "source").backup_result.backup_ids[0])


def runs(base: Path) -> list[str]:
    """Runs that the repository believes to be under way; no probe of a worker that starts."""
    return [name for name in os.listdir(base / "vault" / "runs") if not name.startswith("probe-")]


def cli(server: Server, *arguments: str) -> tuple[int, str]:
    """The exit code, and what is written to either output."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(["--data-dir", str(server.data_dir), *arguments])
    return code, out.getvalue()


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_store_that_lies_is_refused_as_long_as_it_does(server: Server, tmp_path: Path, lie: Path) -> None:
    backup_id = vault_with_a_backup(server, tmp_path)
    create_repository(server, "away", tmp_path / "away")
    (tmp_path / "away").rename(tmp_path / "elsewhere")
    before = files(tmp_path / "vault")
    lie.touch()
    server.signal("worker")
    until(lambda: listed(server)["vault"].state == REFUSED, "the probe")
    assert files(tmp_path / "vault") == before
    seen = get(server)
    assert seen.state == REFUSED
    assert (seen.problem.code, seen.problem.reason) == ("FAILED_PRECONDITION", "STORE_UNSUITABLE")
    assert "could be created a second time" in seen.problem.message
    assert listed(server)["away"].state == get(server, "away").state == OFFLINE
    assert get(server, "away").problem.reason == "STORAGE_UNREACHABLE"
    calls: list[tuple[Any, Any]] = [
        (server.backups.CreateBackup, order_snapshot("vault", "source")),
        (server.backups.VerifyBackup, backup_service_pb2.VerifyBackupRequest(backup_id=backup_id)),
        (server.backups.ListBackupEntries, backup_service_pb2.ListBackupEntriesRequest(backup_id=backup_id)),
        (server.backups.DownloadBackup, backup_service_pb2.DownloadBackupRequest(backup_id=backup_id)),
        (server.repositories.CheckRepository, repository_service_pb2.CheckRepositoryRequest(repository_id="vault")),
        (lambda request, timeout: server.start_restore(request, tmp_path / "restored"), backup_id),
        (lambda request, timeout: server.start_export(request, tmp_path / "out"), backup_id),
    ]
    for call, request in calls:
        name, text = refused(call, request)
        assert name == "FAILED_PRECONDITION/STORE_UNSUITABLE", request
        assert "could be created a second time" in text
    code, shown = cli(server, "repository", "show", "vault")
    assert code == 0
    assert "REFUSED" in shown
    assert "could be created a second time" in shown
    assert "STORE_UNSUITABLE" in cli(server, "repository", "list")[1]
    with holdfast.connect(server.address, token_file=server.data_dir / "admin.token") as client:
        problem = client.repositories.get("vault").problem
        assert problem is not None
        assert problem.reason == "STORE_UNSUITABLE"
    lie.unlink()
    assert get(server).state == REFUSED
    server.signal("worker")
    until(lambda: listed(server)["vault"].state == READY, "the probe of the next start")
    assert not get(server).HasField("problem")
    assert back_up(server, "vault", "source").state == task_pb2.TASK_STATE_COMPLETED
    assert server.restore(backup_id, tmp_path / "restored").state == task_pb2.TASK_STATE_COMPLETED
    assert {name for name in files(tmp_path / "vault") if "probe" in name} == set()


@pytest.mark.soak
def test_killed_readers_leave_no_run(server: Server, tmp_path: Path) -> None:
    """Their tasks go on with runs of their own, and those of the dead worker are ended."""
    backup_id = vault_with_a_backup(server, tmp_path, 24 << 20)
    check = repository_service_pb2.CheckRepositoryRequest(repository_id="vault")
    for start in (
        lambda: server.start_restore(backup_id, tmp_path / "restored").task_id,
        lambda: server.repositories.CheckRepository(check, timeout=PATIENCE).task_id,
    ):
        task_id = start()
        until(lambda: runs(tmp_path), "a run", pause=0.0005)
        killed = runs(tmp_path)
        server.signal("worker")
        assert server.ended(task_id).state == task_pb2.TASK_STATE_COMPLETED
        assert server.task_row(task_id)["attempt"] == 2
        assert len(killed) == 1
        until(lambda: not runs(tmp_path), "the end of all runs")
        assert os.listdir(server.data_dir / "repositories" / "vault" / "runs") == []


def test_a_killed_download_leaves_no_run_after_the_next_start(server: Server, tmp_path: Path) -> None:
    """And one that still goes on keeps its own."""
    backup_id = vault_with_a_backup(server, tmp_path, 48 << 20)
    request = backup_service_pb2.DownloadBackupRequest(backup_id=backup_id)
    streams = [server.backups.DownloadBackup(request, timeout=PATIENCE) for _ in range(2)]
    for stream in streams:
        next(stream)
    assert len(runs(tmp_path)) == 2
    (edge,) = server.pids("edge")
    children = Path(f"/proc/{edge}/task").glob("*/children")
    pids = [int(pid) for path in children for pid in path.read_text().split()]
    makers = [pid for pid in pids if b"download_process" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(makers) == 2
    os.kill(min(makers), signal.SIGKILL)
    until(lambda: not is_running(min(makers)), "its end; the edge has yet to hear of it")
    server.signal("worker")
    until(lambda: len(runs(tmp_path)) == 1, "the end of the dead process's run")
    assert sum(1 for stream in streams if whole(stream)) == 1
    until(lambda: not runs(tmp_path), "the end of the other run")


def is_running(pid: int) -> bool:
    """Whether it is there, and not only waits to be waited for."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except FileNotFoundError:
        return False


def whole(stream: Any) -> bool:
    try:
        return [part.WhichOneof("part") for part in stream][-1] == "digest"
    except grpc.RpcError:
        return False
