"""SIGKILL of the service's processes in the middle of backups into a repository.

No acknowledged snapshot is lost, nothing has to be unlocked, the next backup succeeds, packs that were finished are not
sent again, and no nonce is used twice. HOLDFAST_KILLS sets how many kills there are, HOLDFAST_SEED their seed,
HOLDFAST_FILES how many files the source has: a process of its own reads some thousand.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.v1 import backup_service_pb2, repository_service_pb2, task_pb2
from holdfast_server.repository import ContentKeys, Repository
from holdfast_server.repository.packs import PackRecord
from holdfast_server.repository.runs import list_runs
from tests.fault.test_kills import ROLES, come_back, freeze_and_kill, run_time, wait_for_moment
from tests.harness import PATIENCE, Server, make_tree, snapshot, until
from tests.nonces import NonceAudit
from tests.repositories import assert_nothing_sent_again, opened_at, packs_of, read_snapshots

KILLS = int(os.environ.get("HOLDFAST_KILLS", "2"))
SEED = int(os.environ.get("HOLDFAST_SEED", "2026"))
FILES = int(os.environ.get("HOLDFAST_FILES", "200"))
#: New content of each backup, in MiB: a pack and a part of one.
NEW = 36

MakeServer = Callable[..., Server]


def start_backup(server: Server) -> str:
    request = backup_service_pb2.CreateBackupRequest(source_ids=["source"])
    request.repository.repository_id = "vault"
    return server.backups.CreateBackup(request, timeout=PATIENCE).task_id


def change(source: Path, draw: random.Random) -> None:
    """Something new for the next backup."""
    with (source / "large.bin").open("r+b") as file:
        for _ in range(NEW):
            file.write(draw.randbytes(1 << 20))
    for path in draw.sample(sorted(source.rglob("f*.bin")), 20):
        path.write_bytes(draw.randbytes(20_000))


def content_of(repository: Repository) -> ContentKeys:
    content = repository.keys.content
    assert content is not None
    return content


@pytest.mark.long
@pytest.mark.timeout(max(240, KILLS * 30))
def test_kills_at_random_moments_of_a_backup_into_a_repository(new_server: MakeServer, tmp_path: Path) -> None:
    draw = random.Random(SEED)
    source, vault = make_tree(tmp_path / "source", 1, files=FILES), tmp_path / "vault"
    (source / "large.bin").touch()
    server = new_server(environment={"HOLDFAST_TASKS_LEASE_SECONDS": "1"})
    server.register(source, "source")
    made = repository_service_pb2.CreateRepositoryRequest(
        repository_id="vault", location=str(vault), create_folder=True
    )
    server.repositories.CreateRepository(made, timeout=PATIENCE)
    acknowledged: dict[str, dict[bytes, tuple[object, ...]]] = {}

    def back_up() -> float:
        change(source, draw)
        task = server.ended(start_backup(server))
        assert task.state == task_pb2.TASK_STATE_COMPLETED, task
        acknowledged[task.backup_result.backup_ids[0]] = snapshot(source)
        return run_time(task)

    def packs() -> dict[bytes, PackRecord]:
        with opened_at(server.data_dir, "vault", vault) as repository:
            return packs_of(repository.store, repository)

    back_up()
    duration = back_up()
    with opened_at(server.data_dir, "vault", vault) as repository:
        audit = NonceAudit(repository.index_keys, content_of(repository))
    fired = completed = tries = halves = 0
    while fired < KILLS:
        tries += 1
        assert tries <= KILLS * 10, "too many moments came too late"
        role = ROLES[fired % len(ROLES)]
        change(source, draw)
        known, finished = set(os.listdir(vault / "packs")), {}
        task_id = start_backup(server)
        if fired % 2:
            until(lambda: set(os.listdir(vault / "packs")) != known, "a pack", pause=0.0005)  # noqa: B023
        else:
            wait_for_moment(server, task_id, draw, duration)
        roles = ["supervisor", "edge", "worker"] if role == "all" else [role]
        if not freeze_and_kill(server, roles, task_id, lambda: finished.update(packs())):  # noqa: B023
            acknowledged[server.ended(task_id).backup_result.backup_ids[0]] = snapshot(source)
            continue
        fired += 1
        halves += len(finished) > len(known)
        come_back(server, role)
        task = server.ended(task_id)
        with opened_at(server.data_dir, "vault", vault) as repository:
            found = {one.run_id for one in repository.snapshots()}
            if task.state == task_pb2.TASK_STATE_FAILED:
                assert task.error.reason == "INTERRUPTED", task
            else:
                assert task.state == task_pb2.TASK_STATE_COMPLETED, task
                completed += 1
                acknowledged[task.backup_result.backup_ids[0]] = snapshot(source)
            assert found == set(acknowledged)
            assert not [*list_runs(repository.store, repository.index_keys)]
            assert_nothing_sent_again(finished, packs_of(repository.store, repository))
            newest = [*acknowledged][-1]
            assert read_snapshots(repository, content_of(repository), [newest]) == {newest: acknowledged[newest]}
            audit.add_new(repository.store)
    assert completed, "no killed backup ever completed"
    assert halves >= KILLS // 4, "no kill came between two packs"
    back_up()
    with opened_at(server.data_dir, "vault", vault) as repository:
        assert read_snapshots(repository, content_of(repository), acknowledged) == acknowledged
        audit.add_all(repository.store)
    assert audit.segments >= 2 * len(acknowledged)
