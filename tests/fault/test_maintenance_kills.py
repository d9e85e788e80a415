"""SIGKILL of the service's processes while a repository is pruned and compacted.

Whatever dies: catalog and repository name the same backups, each of them reads back, what a policy keeps is there, and
nothing stays condemned. HOLDFAST_KILLS sets how many kills there are, HOLDFAST_SEED their seed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.v1 import backup_pb2, repository_pb2, repository_service_pb2, task_pb2
from holdfast_server.repository import ContentKeys
from tests.fault.test_kills import ROLES, come_back, freeze_and_kill, run_time, wait_for_moment
from tests.harness import PATIENCE, Server, make_tree, snapshot
from tests.repositories import opened_at, read_snapshots
from tests.served_repositories import back_up, create_repository, order_snapshot, snapshot_ids

KILLS = int(os.environ.get("HOLDFAST_KILLS", "1"))
SEED = int(os.environ.get("HOLDFAST_SEED", "2026"))
KEPT = 3

MakeServer = Callable[..., Server]


class Vault:
    """A repository of one source, and what its backups hold."""

    def __init__(self, server: Server, base: Path, draw: random.Random) -> None:
        self.server, self.draw = server, draw
        self.source, self.folder = make_tree(base / "source", 1, files=30), base / "vault"
        server.register(self.source, "source")
        create_repository(server, "vault", self.folder)
        self.trees: dict[str, dict[bytes, tuple[object, ...]]] = {}

    def change(self) -> None:
        for path in self.draw.sample(sorted(self.source.rglob("f*.bin")), 5):
            path.write_bytes(self.draw.randbytes(200_000))

    def back_up(self) -> None:
        self.change()
        task = back_up(self.server, "vault", "source")
        assert task.state == task_pb2.TASK_STATE_COMPLETED, task
        self.trees[task.backup_result.backup_ids[0]] = snapshot(self.source)

    def start(self, kind: str) -> str:
        policy = repository_pb2.RetentionPolicy(keep_last=KEPT)
        calls = self.server.repositories
        if kind == "prune":
            prune = repository_service_pb2.PruneRepositoryRequest(repository_id="vault", retention=policy)
            return calls.PruneRepository(prune, timeout=PATIENCE).task_id
        if kind == "compact":
            compact = repository_service_pb2.CompactRepositoryRequest(repository_id="vault")
            return calls.CompactRepository(compact, timeout=PATIENCE).task_id
        self.change()
        order = order_snapshot("vault", "source")
        order.maintenance.CopyFrom(backup_pb2.Maintenance(retention=policy, prune=True, compact=True))
        return self.server.backups.CreateBackup(order, timeout=PATIENCE).task_id

    def keep(self, task: task_pb2.Task) -> None:
        """What an ended task has made is expected to be there."""
        assert task.state == task_pb2.TASK_STATE_COMPLETED, task
        for backup_id in task.backup_result.backup_ids:
            self.trees[backup_id] = snapshot(self.source)

    def assert_whole(self, *, pruned: bool) -> None:
        present = snapshot_ids(self.server, "vault")
        rows = self.server.rows("SELECT backup_id FROM backups")
        assert present == {row["backup_id"] for row in rows}
        newest = [*self.trees][-KEPT:]
        assert present == set(newest if pruned else self.trees)
        self.trees = {one: tree for one, tree in self.trees.items() if one in present}
        with opened_at(self.server.data_dir, "vault", self.folder) as repository:
            content = repository.keys.content
            assert isinstance(content, ContentKeys)
            assert read_snapshots(repository, content, self.trees) == self.trees


@pytest.mark.long
@pytest.mark.timeout(max(240, KILLS * 30))
def test_kills_at_random_moments_of_maintenance(new_server: MakeServer, tmp_path: Path) -> None:
    draw = random.Random(SEED)
    server = new_server(environment={"HOLDFAST_TASKS_LEASE_SECONDS": "1"})
    vault = Vault(server, tmp_path, draw)
    for _ in range(KEPT + 3):
        vault.back_up()
    durations = {}
    for kind in ("prune", "compact", "backup"):
        task = server.ended(vault.start(kind))
        vault.keep(task)
        durations[kind] = run_time(task)
    vault.assert_whole(pruned=True)
    fired = tries = 0
    while fired < KILLS:
        tries += 1
        assert tries <= KILLS * 10, "too many moments came too late"
        kind = ("prune", "compact", "backup")[tries % 3]
        role = ROLES[fired % len(ROLES)]
        for _ in range(4):
            vault.back_up()
        task_id = vault.start(kind)
        wait_for_moment(server, task_id, draw, durations[kind])
        roles = ["supervisor", "edge", "worker"] if role == "all" else [role]
        if freeze_and_kill(server, roles, task_id):
            fired += 1
            come_back(server, role)
        vault.keep(server.ended(task_id))
        vault.assert_whole(pruned=kind != "compact")
    # What killed runs left is ended by the workers, and nothing waits for it any more.
    freed = server.ended(vault.start("prune"))
    vault.keep(freed)
    vault.assert_whole(pruned=True)
    check = repository_service_pb2.CheckRepositoryRequest(repository_id="vault")
    proved = server.ended(server.repositories.CheckRepository(check, timeout=PATIENCE).task_id)
    assert proved.state == task_pb2.TASK_STATE_COMPLETED, proved
