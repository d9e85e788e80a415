"""SIGKILL of the service's processes while keys of repositories are rotated, added and removed.

Whatever dies when: everything that was backed up opens by every key that was acknowledged, and by the data directory
unless the repository is sealed; nothing has to be unlocked, and the next rotation works. HOLDFAST_KILLS sets how many
kills there are, at most 400, HOLDFAST_SEED their seed.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from holdfast.v1 import repository_pb2, task_pb2
from holdfast.v1 import repository_service_pb2 as pb
from holdfast_server.repository import ContentKeys, Repository
from holdfast_server.repository.log import LogReader
from holdfast_server.repository.log_state import LogState
from tests.fault.test_kills import come_back
from tests.harness import PATIENCE, Server, is_stopped, snapshot, until
from tests.repositories import opened_at, read_snapshots
from tests.served_repositories import back_up, create_repository

KILLS = int(os.environ.get("HOLDFAST_KILLS", "1"))
SEED = int(os.environ.get("HOLDFAST_SEED", "2026"))
#: What dies: the edge, whose reader process does the work and dies with it; the reader alone; everything.
ROLES = ("edge", "reader", "all")
#: Every so many kills all that was backed up is read.
READ_EVERY = 4

MakeServer = Callable[..., Server]


class Vault:
    """A repository of which every acknowledged key and backup is remembered."""

    def __init__(self, server: Server, root: Path, *, sealed: bool) -> None:
        self.server, self.sealed = server, sealed
        self.name = "sealed" if sealed else "plain"
        self.folder, self.source = root / self.name, root / f"{self.name}-source"
        self.source.mkdir()
        server.register(self.source, self.name)
        self.secrets: dict[str, str] = {}
        first = "the content of the first key file, long enough"
        made = create_repository(
            server, self.name, self.folder, sealed=sealed, keys=[repository_pb2.NewKey(private_key=first)]
        )
        self.secrets[made.repository.keys[0].key_id] = first
        self.epoch = 1
        self.backups: dict[str, dict[bytes, tuple[object, ...]]] = {}

    def back_up(self) -> None:
        (self.source / f"file {len(self.backups)}").write_bytes(os.urandom(50_000))
        task = back_up(self.server, self.name, self.name)
        assert task.state == task_pb2.TASK_STATE_COMPLETED, task
        self.backups[task.backup_result.backup_ids[0]] = snapshot(self.source)

    def rotate(self) -> None:
        request = pb.RotateKeyRequest(repository_id=self.name)
        if self.sealed:
            request.credentials.private_key = next(iter(self.secrets.values()))
        epoch = self.server.repositories.RotateKey(request, timeout=PATIENCE).key_epoch
        assert epoch > self.epoch
        self.epoch = epoch

    def add(self) -> None:
        secret = f"the content of another key file: {random.random()}"
        request = pb.AddKeyRequest(repository_id=self.name, key=repository_pb2.NewKey(private_key=secret))
        if self.sealed:
            request.credentials.private_key = next(iter(self.secrets.values()))
        made = self.server.repositories.AddKey(request, timeout=PATIENCE)
        self.secrets[made.key.key_id] = secret

    def remove(self) -> None:
        """Remove the newest key; whether it is gone is not known before the call has returned."""
        if len(self.secrets) < 2:
            return self.add()
        key_id, _ = self.secrets.popitem()
        self.server.repositories.RemoveKey(
            pb.RemoveKeyRequest(repository_id=self.name, key_id=key_id), timeout=PATIENCE
        )
        return None

    def assert_open(self, *, read: bool) -> None:
        """Every acknowledged key, and the data directory, have the keys of all epochs; and they open all there is."""
        with opened_at(self.server.data_dir, self.name, self.folder) as repository:
            state = LogState.of(LogReader(repository.store, repository.index_keys).read())
            at_hand = [repository.unlock(secret) for secret in self.secrets.values()]
            assert (repository.keys.content is None) == self.sealed
            if repository.keys.content is not None:
                at_hand.append(repository.keys.content)
            for content in at_hand:
                for epoch, told in state.epochs.items():
                    assert content.public(epoch).raw == told.public
            if read:
                self._read(repository, at_hand)

    def _read(self, repository: Repository, at_hand: list[ContentKeys]) -> None:
        for content in at_hand:
            assert read_snapshots(repository, content, self.backups) == self.backups


def pids_of(server: Server, role: str) -> list[int]:
    if role == "all":
        return [pid for one in ("supervisor", "edge", "worker") for pid in server.pids(one)]
    if role == "edge":
        return server.pids("edge")
    (edge,) = server.pids("edge")
    children = Path(f"/proc/{edge}/task").glob("*/children")
    return [int(pid) for path in children for pid in path.read_text().split()]


def kill(server: Server, role: str, thread: threading.Thread) -> bool:
    """Kill the processes if the call is still under way; False, and nothing dead, when it has ended before."""
    frozen = []
    for pid in pids_of(server, role):
        try:
            os.kill(pid, signal.SIGSTOP)
            frozen.append(pid)
        except ProcessLookupError:
            continue
    until(lambda: all(is_stopped(pid) for pid in frozen), "the freeze", pause=0.0005)
    thread.join(0.02)  # an answer may be on its way
    under_way = thread.is_alive() and bool(frozen)
    for pid in frozen:
        try:
            os.kill(pid, signal.SIGKILL if under_way else signal.SIGCONT)
        except ProcessLookupError:
            continue
    if under_way:
        if role == "all":
            server.wait_supervisor()
        until(lambda: server.gone(frozen), "the death of what was killed")
    return under_way


@pytest.mark.long
@pytest.mark.timeout(max(240, KILLS * 30))
def test_kills_at_random_moments_of_a_change_of_keys(new_server: MakeServer, tmp_path: Path) -> None:
    draw = random.Random(SEED)
    server = new_server(environment={"HOLDFAST_TASKS_LEASE_SECONDS": "1"})
    vaults = [Vault(server, tmp_path, sealed=sealed) for sealed in (False, True)]
    duration = 0.0
    for vault in vaults:
        vault.back_up()
        vault.add()
        began = time.monotonic()
        vault.rotate()
        duration = max(duration, time.monotonic() - began)
    fired = tries = failed = 0
    while fired < KILLS:
        tries += 1
        assert tries <= KILLS * 20, "too many moments came too late"
        vault, role = vaults[fired % 2], ROLES[fired % len(ROLES)]
        work: Callable[[], Any] = draw.choice((vault.rotate, vault.rotate, vault.add, vault.remove))
        errors: list[grpc.RpcError] = []

        def call(work: Callable[[], Any] = work, errors: list[grpc.RpcError] = errors) -> None:
            try:
                work()
            except grpc.RpcError as error:
                errors.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        time.sleep(draw.uniform(0, duration))
        dead = kill(server, role, thread)
        if dead and role != "reader":
            come_back(server, role)
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the call never ended"
        if not dead:
            assert not errors, errors
            continue
        fired += 1
        failed += bool(errors)
        # A reader that dies is replaced, and its call is made once more.
        assert not errors or role != "reader", errors
        vault.assert_open(read=fired % READ_EVERY == 0)
        vault.rotate()
        vault.back_up()
        vault.assert_open(read=False)
    assert failed, "no call was interrupted"
    for vault in vaults:
        vault.add()
        vault.assert_open(read=True)
