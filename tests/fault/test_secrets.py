"""A key that came with a call is found nowhere but in memory, whatever dies, and its loss ends the task in words."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest

from holdfast.v1 import backup_service_pb2, task_pb2, task_service_pb2
from tests.harness import PATIENCE, Server, make_tree, until


class Canary:
    """A real identity, and the search for it: in every file of the server, its processes and what it shows."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.secret = str(pyrage.x25519.Identity.generate())
        middle = self.secret[20:50].encode()
        self._needles = [middle, middle.lower(), middle.hex().encode(), base64.b64encode(middle[:30])]

    def start(self, backup_id: str) -> str:
        request = backup_service_pb2.VerifyBackupRequest(backup_id=backup_id)
        request.credentials.age_identity = self.secret
        return self.server.backups.VerifyBackup(request, timeout=PATIENCE).task_id

    def assert_nowhere(self, task_id: str, *, pids: list[int]) -> None:
        """`pids`: processes that must be among those that were looked at."""
        seen = {path: path.read_bytes() for path in self.server.base.rglob("*") if path.is_file()}
        for pid, _ in self.server._processes():
            for name in ("cmdline", "environ"):
                seen[Path("/proc", str(pid), name)] = Path("/proc", str(pid), name).read_bytes()
        assert {Path("/proc", str(pid), "environ") for pid in pids} <= set(seen)
        assert any(task_id.encode() in content for content in seen.values()), "the search finds nothing at all"
        for path, content in seen.items():
            for needle in self._needles:
                assert needle not in content, path

    def assert_not_shown(self, task_id: str) -> None:
        """Neither by the task, nor by its events, nor by its log."""
        log = self.server.tasks.StreamTaskLog(task_service_pb2.StreamTaskLogRequest(task_id=task_id), timeout=PATIENCE)
        shown = [self.server.get(task_id), *self.server.watch(task_id, after=0).events, *log]
        assert len(shown) >= 3
        for message in shown:
            assert not any(needle in message.SerializeToString() for needle in self._needles)


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canary]:
    # A lease that no slow machine outlasts: the worker that stands still must count as alive.
    environment = {"HOLDFAST_TASKS_LEASE_SECONDS": "300"}
    with Server(tmp_path_factory.mktemp("secrets"), environment=environment) as server:
        yield Canary(server)


@pytest.fixture(scope="module")
def backup_id(canary: Canary, tmp_path_factory: pytest.TempPathFactory) -> str:
    server, base = canary.server, tmp_path_factory.mktemp("content")
    (base / "out").mkdir()
    server.register(make_tree(base / "tree", 7, files=5, large=64 << 20), "source")
    return server.backup("source", base / "out").backup_result.backup_ids[0]


def freeze_while_verifying(canary: Canary, backup_id: str) -> tuple[str, int]:
    """A running verification that was given the key, and its worker, which stands still."""
    server = canary.server
    for _ in range(20):
        (pid,) = server.pids("worker")
        task_id = canary.start(backup_id)
        until(lambda task_id=task_id: server.task_row(task_id)["state"] != "PENDING", "the run", pause=0.001)
        assert server.freeze([pid])
        if server.task_row(task_id)["state"] == "RUNNING":
            return task_id, pid
        server.thaw([pid])
        server.ended(task_id)
    raise AssertionError("every freeze came too late")


def sealed(server: Server) -> int:
    return len(server.rows("SELECT * FROM task_secrets"))


def assert_key_required(server: Server, task_id: str) -> None:
    task = server.ended(task_id)
    assert task.state == task_pb2.TASK_STATE_FAILED
    assert (task.error.code, task.error.reason) == ("FAILED_PRECONDITION", "KEY_REQUIRED")
    assert "call again" in task.error.message
    assert sealed(server) == 0


def test_the_key_is_nowhere_while_the_task_runs_nor_after_its_end(canary: Canary, backup_id: str) -> None:
    server = canary.server
    task_id, pid = freeze_while_verifying(canary, backup_id)
    assert sealed(server) == 1
    canary.assert_nowhere(task_id, pids=[pid, *server.pids("edge"), server.supervisor_pid])
    server.thaw([pid])
    assert server.ended(task_id).state == task_pb2.TASK_STATE_COMPLETED
    assert sealed(server) == 0
    canary.assert_nowhere(task_id, pids=server.pids("worker"))
    canary.assert_not_shown(task_id)


def test_with_its_worker_dies_the_key_and_the_task_says_so(canary: Canary, backup_id: str) -> None:
    server = canary.server
    task_id, pid = freeze_while_verifying(canary, backup_id)
    os.kill(pid, 9)
    until(lambda: server.gone([pid]), "the worker's death")
    canary.assert_nowhere(task_id, pids=server.pids("edge"))
    assert_key_required(server, task_id)
    canary.assert_nowhere(task_id, pids=server.pids("edge"))
    canary.assert_not_shown(task_id)
    assert server.ended(canary.start(backup_id)).state == task_pb2.TASK_STATE_COMPLETED, "the call again"


def test_when_everything_dies_the_next_start_says_so(canary: Canary, backup_id: str) -> None:
    server = canary.server
    running, _ = freeze_while_verifying(canary, backup_id)
    waiting = canary.start(backup_id)
    server.kill_all()
    canary.assert_nowhere(waiting, pids=[])
    server.start()
    for task_id in (running, waiting):
        assert_key_required(server, task_id)
        canary.assert_not_shown(task_id)
    canary.assert_nowhere(running, pids=server.pids("edge"))


def test_no_process_that_holds_keys_dumps_its_memory(shared_server: Server) -> None:
    until(lambda: shared_server.rows("SELECT owner FROM workers"), "the worker's start")
    for pid in (*shared_server.pids("edge"), *shared_server.pids("worker")):
        (limit,) = [line for line in Path("/proc", str(pid), "limits").read_text().splitlines() if "core" in line]
        assert limit.split()[4:6] == ["0", "0"]
