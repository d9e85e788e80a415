"""A disk that is full to the last byte: what makes room goes on, what would fill it is refused, and nothing is lost.

The data directory, a repository and its source's backups lie on one small file system, filled by a file of somebody
else. Each test has a write fail for want of room before it asks for anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from holdfast.v1 import (
    backup_service_pb2,
    repository_pb2,
    repository_service_pb2,
    source_service_pb2,
    task_pb2,
)
from tests.harness import PATIENCE, Server, failure_of, until
from tests.mounts import Disk, Mounter, mounting
from tests.served_repositories import back_up, create_repository, order_snapshot, snapshot_ids

MIB = 1 << 20

#: Of a disk of 96 MiB, and of one that is larger, but for a repository's.
STORE_RESERVE = 12 * MIB
DATA_RESERVE = 8 * MIB


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Disk, Path]]:
    """One server for all tests: its data directory and its repository are on the disk, its source is not."""
    base = tmp_path_factory.mktemp("full")
    disk, source = Disk(base / "disk"), base / "source"
    source.mkdir()
    with mounting() as mount:
        disk.mount(mount, 96)
        with Server(disk.path / "server", environment={"HOLDFAST_BACKUPS_TRASH_HOURS": "0"}) as server:
            server.register(source, "docs")
            create_repository(server, "vault", disk.path / "vault")
            yield server, disk, source


@pytest.fixture
def source(service: tuple[Server, Disk, Path]) -> Path:
    """One file, another one in each test."""
    folder = service[2]
    for path in folder.iterdir():
        path.unlink()
    (folder / "a.bin").write_bytes(os.urandom(2 * MIB))
    return folder


@pytest.fixture
def disk(service: tuple[Server, Disk, Path]) -> Disk:
    service[1].empty()
    return service[1]


@pytest.fixture
def server(service: tuple[Server, Disk, Path], disk: Disk, source: Path) -> Server:
    """With one backup, and reserves that are whole."""
    made = service[0]
    for row in made.rows("SELECT backup_id FROM backups WHERE repository_id = 'vault'"):
        delete(made, row["backup_id"])
    backed_up(made)
    assert disk.reserve("server", "data", "reserve") == DATA_RESERVE
    assert disk.reserve("vault", ".reserve") == STORE_RESERVE
    return made


def backed_up(server: Server, repository_id: str = "vault") -> str:
    """The id of a new backup."""
    task = back_up(server, repository_id, "docs")
    assert task.state == task_pb2.TASK_STATE_COMPLETED, task
    (row,) = server.rows("SELECT backup_id FROM backups WHERE task_id = ?", task.task_id)
    return str(row["backup_id"])


def only_backup(server: Server) -> str:
    (row,) = server.rows("SELECT backup_id FROM backups WHERE state = 'COMPLETED' AND repository_id = 'vault'")
    return str(row["backup_id"])


def delete(server: Server, backup_id: str) -> None:
    server.backups.DeleteBackup(backup_service_pb2.DeleteBackupRequest(backup_id=backup_id), timeout=PATIENCE)


def require_refusal(server: Server) -> None:
    before = server.rows("SELECT count(*) AS n FROM tasks")
    with pytest.raises(grpc.RpcError) as caught:
        server.backups.CreateBackup(order_snapshot("vault", "docs"), timeout=PATIENCE)
    failure = failure_of(caught.value)
    assert failure.name == "RESOURCE_EXHAUSTED/DISK_FULL"
    assert str(server.data_dir) in failure.text
    assert server.rows("SELECT count(*) AS n FROM tasks") == before


def require_recovery(server: Server, disk: Disk) -> None:
    """With room again there are backups again, and reserves."""
    disk.empty()
    backed_up(server)
    assert disk.reserve("vault", ".reserve") == STORE_RESERVE
    assert disk.reserve("server", "data", "reserve") == DATA_RESERVE


def objects(disk: Disk, kind: str) -> set[str]:
    return {path.name for path in (disk.path / "vault" / kind).iterdir()}


@pytest.mark.parametrize("of", ["bytes", "inodes"])
def test_a_backup_is_deleted_and_none_is_begun(server: Server, disk: Disk, of: str) -> None:
    kept = only_backup(server)
    disk.fill() if of == "bytes" else disk.fill_inodes()
    before = objects(disk, "snapshots")
    require_refusal(server)
    require_refusal(server)
    assert disk.reserve("server", "data", "reserve") == DATA_RESERVE
    assert disk.reserve("vault", ".reserve") == STORE_RESERVE
    disk.require_full()
    delete(server, kept)
    assert not server.rows("SELECT * FROM backups WHERE repository_id = 'vault'")
    assert objects(disk, "snapshots") == before - {kept}
    assert not objects(disk, "runs")
    require_recovery(server, disk)


def test_a_repository_is_pruned_and_compacted(server: Server, disk: Disk, source: Path) -> None:
    (source / "a.bin").write_bytes(os.urandom(2 * MIB))
    kept = backed_up(server)
    disk.fill()
    require_refusal(server)
    before = sum(path.stat().st_size for path in (disk.path / "vault" / "packs").iterdir())
    policy = repository_pb2.RetentionPolicy(keep_last=1)
    prune = repository_service_pb2.PruneRepositoryRequest(repository_id="vault", retention=policy)
    compact = repository_service_pb2.CompactRepositoryRequest(repository_id="vault")
    calls = server.repositories
    for task in (calls.PruneRepository(prune, timeout=PATIENCE), calls.CompactRepository(compact, timeout=PATIENCE)):
        ended = server.ended(task.task_id)
        assert ended.state == task_pb2.TASK_STATE_COMPLETED, ended
    assert only_backup(server) == kept
    assert snapshot_ids(server, "vault") == {kept}
    assert sum(path.stat().st_size for path in (disk.path / "vault" / "packs").iterdir()) < before - 2 * MIB
    require_recovery(server, disk)


def test_the_processes_start_again(server: Server, disk: Disk) -> None:
    kept = only_backup(server)
    server.kill_all()
    disk.fill()
    server.start()
    disk.fill()
    for role in ("worker", "edge"):
        (old,) = server.pids(role)
        server.signal(role)
        until(lambda role=role, old=old: [p for p in server.pids(role) if p != old], f"another {role}")  # type: ignore[misc]
    until(server.serving, "SERVING")
    server.connect()
    disk.fill()
    require_refusal(server)
    delete(server, kept)
    assert kept not in objects(disk, "snapshots")
    require_recovery(server, disk)


def test_a_backup_that_fills_the_disk_fails_and_ends_its_run(server: Server, disk: Disk, source: Path) -> None:
    """What it left keeps nothing from being deleted."""
    (source / "b.bin").write_bytes(os.urandom(24 * MIB))
    disk.fill(leave=12 * MIB)
    before = objects(disk, "snapshots")
    task = back_up(server, "vault", "docs")
    assert task.state == task_pb2.TASK_STATE_FAILED
    assert task.error.reason == "DISK_FULL", task.error
    disk.fill()
    (row,) = server.rows("SELECT backup_id FROM backups WHERE state = 'FAILED' AND repository_id = 'vault'")
    assert objects(disk, "snapshots") == {*before, row["backup_id"]}
    assert not objects(disk, "runs")
    assert snapshot_ids(server, "vault") == {only_backup(server)}
    assert disk.reserve("vault", ".reserve") > 0
    delete(server, str(row["backup_id"]))
    delete(server, only_backup(server))
    require_recovery(server, disk)


def test_tasks_that_wait_when_the_disk_fills_come_to_an_end(server: Server, disk: Disk, source: Path) -> None:
    (source / "b.bin").write_bytes(os.urandom(3 * MIB))
    with server.frozen_worker():
        waiting = [
            server.backups.CreateBackup(order_snapshot("vault", "docs"), timeout=PATIENCE).task_id for _ in range(3)
        ]
        disk.fill()
    for task_id in waiting:
        task = server.ended(task_id)
        assert task.state == task_pb2.TASK_STATE_FAILED
        assert task.error.reason == "DISK_FULL", task.error
        assert task.attempt == 1
    assert not objects(disk, "runs")
    require_recovery(server, disk)


def test_a_repository_alone_on_a_full_disk(server: Server, tmp_path: Path, mount: Mounter) -> None:
    """Its reserve is all there is: no room comes from the data directory's."""
    disk = Disk(tmp_path / "disk")
    disk.mount(mount, 96)
    create_repository(server, "safe", disk.path / "vault")
    first, second = backed_up(server, "safe"), backed_up(server, "safe")
    disk.fill()
    task = back_up(server, "safe", "docs")
    assert task.error.reason == "DISK_FULL", task
    disk.fill()
    delete(server, first)
    assert snapshot_ids(server, "safe") == {second}
    # What was not needed of the reserve is kept again, and enough to go on.
    assert disk.reserve("vault", ".reserve") > 0
    disk.fill()
    delete(server, second)
    assert snapshot_ids(server, "safe") == set()
    disk.empty()
    backed_up(server, "safe")
    assert disk.reserve("vault", ".reserve") == STORE_RESERVE


def test_a_reserve_that_is_used_up_costs_answers_and_nothing_else(server: Server, disk: Disk) -> None:
    """Somebody takes all that is given back: the service says what is wrong, and goes on when there is room."""
    reserve = server.data_dir / "reserve"
    pids = {role: server.pids(role) for role in ("edge", "worker", "supervisor")}
    for _ in range(3):
        for file in reserve.iterdir():
            file.unlink()
        disk.fill()
    request = source_service_pb2.UpdateSourceRequest(source_id="docs")
    failures = []
    for number in range(300):
        request.display_name = f"{number} " + "x" * 100
        try:
            server.sources.UpdateSource(request, timeout=PATIENCE)
        except grpc.RpcError as error:
            failures.append(failure_of(error).name)
            if len(failures) == 5:
                break
    assert set(failures) <= {"RESOURCE_EXHAUSTED/DISK_FULL"}
    require_refusal(server)
    until(lambda: "is full" in server.log(), "word of it in the log")
    assert server.serving()
    assert {role: server.pids(role) for role in pids} == pids
    require_recovery(server, disk)
