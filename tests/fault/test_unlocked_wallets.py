"""Whatever dies, an unlocked wallet is never stored in clear, and its password and key are nowhere but in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from holdfast.v1 import source_pb2, task_pb2
from holdfast_server.wallets.envelope import KeyParameters, WalletKey
from holdfast_server.wallets.generate import generate_wallet
from tests.canary import Canary
from tests.harness import Server, failure_of, until

PASSWORD = "canary-wallet-password-7391"
#: Long enough to be stopped in the middle of; zeros, which cost nothing to make.
LARGE = 512 << 20


class Wallets:
    """A server with wallets `a` and `b`, and the search for what must be nowhere."""

    def __init__(self, server: Server, base: Path) -> None:
        self.server = server
        self.paths = {}
        for number, source_id in enumerate(("a", "b"), start=1):
            path = self.paths[source_id] = base / source_id
            generate_wallet(path, 8, number)
            server.register(path, source_id, kind=source_pb2.SOURCE_KIND_WALLET)
        self.large = self.paths["a"] / "large"
        self.out = base / "out"
        self.out.mkdir()
        coin = next(self.paths["a"].glob("Bank/*.bin")).read_bytes()
        self._canaries = [Canary(PASSWORD.encode()), Canary(PASSWORD[5:-5].encode()), Canary(coin[-400:-384])]

    def unlock(self, source_id: str = "a") -> None:
        until(lambda: self.server.rows("SELECT owner FROM workers"), "a worker")
        self.server.unlock(source_id, PASSWORD)
        if len(self._canaries) == 3:
            (row,) = self.server.rows("SELECT * FROM wallet_keys WHERE source_id = 'a'")
            parameters = KeyParameters(row["salt"], row["memory_kib"], row["passes"], row["lanes"])
            key = WalletKey.derive(PASSWORD, parameters)
            assert key.key_id == row["key_id"]
            self._canaries.append(Canary(bytes.fromhex(key.to_text().split()[-1])))

    def running(self) -> tuple[str, int]:
        """A backup of `a` that a worker has begun, and the worker, which stands still."""
        self.large.touch()
        os.truncate(self.large, LARGE)
        for _ in range(20):
            (pid,) = self.server.pids("worker")
            task_id = self.server.create("a", self.out).task_id
            until(lambda task_id=task_id: self.server.task_row(task_id)["state"] != "PENDING", "the run", pause=0.001)
            assert self.server.freeze([pid])
            if self.server.task_row(task_id)["state"] == "RUNNING":
                return task_id, pid
            self.server.thaw([pid])
            self.server.ended(task_id)
        raise AssertionError("every freeze came too late")

    def assert_nowhere(self) -> None:
        """Neither in a file of the server, nor in a command line or environment, nor in what it wrote."""
        seen = sorted(path for path in self.server.base.rglob("*") if path.is_file())
        assert {"state.sqlite", "server.log"} <= {path.name for path in seen}
        for canary in self._canaries:
            assert canary.search(self.server.base) == []
            for process in psutil.Process(self.server.supervisor_pid).children(recursive=True):
                words = "\0".join([*process.cmdline(), *process.environ().values()])
                assert canary.in_bytes(words.encode(), f"process {process.pid}") == []

    def assert_nothing_in_clear(self) -> None:
        """In no file beside the server: neither an archive nor what is left of one."""
        assert self._canaries[2].search(self.out) == []
        assert not [name for name in os.listdir(self.out) if name.startswith(".")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # A lease that no slow machine outlasts: the worker that stands still must count as alive.
    environment = {"HOLDFAST_TASKS_LEASE_SECONDS": "300"}
    with Server(tmp_path_factory.mktemp("unlocked"), environment=environment) as server:
        yield server


@pytest.fixture(scope="module")
def shared(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Wallets:
    return Wallets(server, tmp_path_factory.mktemp("wallets"))


@pytest.fixture
def wallets(shared: Wallets) -> Iterator[Wallets]:
    yield shared
    shared.large.unlink(missing_ok=True)
    shared.server.lock("a")
    shared.server.lock("b")
    for name in os.listdir(shared.out):
        (shared.out / name).unlink()


def reasons(task: task_pb2.Task) -> dict[str, str]:
    return {one.source_id: one.error.reason for one in task.backup_result.sources}


def assert_key_required(task: task_pb2.Task) -> None:
    assert task.state == task_pb2.TASK_STATE_FAILED
    assert (task.error.code, task.error.reason) == ("FAILED_PRECONDITION", "KEY_REQUIRED")
    assert "unlock it again, or lock it" in task.error.message


def test_password_and_key_are_nowhere_while_the_task_runs_nor_after(wallets: Wallets) -> None:
    server = wallets.server
    wallets.unlock()
    task_id, pid = wallets.running()
    assert server.rows("SELECT * FROM task_secrets WHERE resource = 'source:a'"), "nothing was sealed"
    wallets.assert_nowhere()
    server.thaw([pid])
    server.cancel(task_id)
    assert server.ended(task_id).state == task_pb2.TASK_STATE_CANCELLED
    assert server.rows("SELECT * FROM task_secrets") == []
    wallets.assert_nowhere()
    wallets.large.unlink()
    assert server.backup("a", wallets.out).state == task_pb2.TASK_STATE_COMPLETED
    wallets.assert_nowhere()
    wallets.assert_nothing_in_clear()
    server.lock("a")
    wallets.assert_nowhere()


def test_a_worker_that_dies_takes_the_key_with_it(wallets: Wallets) -> None:
    server = wallets.server
    wallets.unlock()
    task_id, pid = wallets.running()
    os.kill(pid, 9)
    until(lambda: server.gone([pid]), "the worker's death")
    assert_key_required(server.ended(task_id))
    assert os.listdir(wallets.out) == [], "something was left behind"
    wallets.assert_nowhere()
    wallets.large.unlink()
    task = server.backup("a", wallets.out)
    assert task.state == task_pb2.TASK_STATE_COMPLETED, "the edge still has the key"
    wallets.assert_nothing_in_clear()


def test_a_wallet_that_is_locked_while_its_backup_waits_is_not_stored(wallets: Wallets) -> None:
    server = wallets.server
    wallets.unlock()
    with server.frozen_worker():
        alone, both = server.create("a", wallets.out).task_id, server.create(["a", "b"], wallets.out).task_id
        assert server.lock("a")
        assert server.rows("SELECT * FROM task_secrets") == []
    assert_key_required(server.ended(alone))
    task = server.ended(both)
    assert task.state == task_pb2.TASK_STATE_COMPLETED_WITH_WARNINGS
    assert [(one.source_id, one.error.reason) for one in task.backup_result.sources] == [
        ("a", "KEY_REQUIRED"),
        ("b", ""),
    ]
    wallets.assert_nothing_in_clear()


def test_a_wallet_that_is_unlocked_while_its_backup_waits_is_not_stored(wallets: Wallets) -> None:
    server = wallets.server
    with server.frozen_worker():
        task_id = server.create("a", wallets.out).task_id
        wallets.unlock()
    assert_key_required(server.ended(task_id))
    assert os.listdir(wallets.out) == []


def test_after_the_edges_death_an_unlocked_wallet_is_not_stored_in_clear(wallets: Wallets) -> None:
    server = wallets.server
    wallets.unlock()
    old = server.signal("edge")
    until(lambda: server.gone(old), "the edge's death")
    until(server.serving, "the next edge")
    with pytest.raises(grpc.RpcError) as caught:
        server.create("a", wallets.out)
    assert failure_of(caught.value).name == "FAILED_PRECONDITION/KEY_REQUIRED"
    task = server.backup(["a", "b"], wallets.out)
    assert [(one.source_id, one.error.reason) for one in task.backup_result.sources] == [
        ("a", "KEY_REQUIRED"),
        ("b", ""),
    ]
    wallets.assert_nothing_in_clear()
    wallets.unlock()
    assert server.backup("a", wallets.out).state == task_pb2.TASK_STATE_COMPLETED
    wallets.assert_nothing_in_clear()
    wallets.assert_nowhere()
    assert server.lock("a")
    assert server.backup("a", wallets.out).backup_result.files_added_plaintext
    with pytest.raises(AssertionError):
        wallets.assert_nothing_in_clear()


def test_when_everything_dies_the_next_start_stores_nothing_in_clear(wallets: Wallets) -> None:
    server = wallets.server
    wallets.unlock()
    running, _ = wallets.running()
    waiting = server.create("a", wallets.out).task_id
    server.kill_all()
    assert not [finding for canary in wallets._canaries for finding in canary.search(server.base)]
    server.start()
    for task_id in (running, waiting):
        assert_key_required(server.ended(task_id))
    assert os.listdir(wallets.out) == []
    wallets.assert_nowhere()
