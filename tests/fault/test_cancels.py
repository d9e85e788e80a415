"""CancelTask at seeded random moments: the end state is right, and what was begun is gone.

HOLDFAST_CANCELS sets how many cancels hit a running task, HOLDFAST_SEED their moments.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.v1 import backup_service_pb2, task_pb2
from tests.harness import Server, make_tree, sha256_of, until

CANCELS = int(os.environ.get("HOLDFAST_CANCELS", "6"))
SEED = int(os.environ.get("HOLDFAST_SEED", "2026"))


@pytest.mark.timeout(max(120, CANCELS * 15))
def test_cancels_at_random_moments_of_a_backup(new_server: Callable[..., Server], tmp_path: Path) -> None:
    rng = random.Random(SEED)
    source = make_tree(tmp_path / "source", SEED, files=200, large=40 << 20)
    folder = tmp_path / "archives"
    folder.mkdir()
    server = new_server()
    server.register(source, "source")
    first = server.backup("source", folder)
    assert first.state == task_pb2.TASK_STATE_COMPLETED, first
    length = (first.end_time.ToMicroseconds() - first.start_time.ToMicroseconds()) / 1e6
    earlier = {name: sha256_of(folder / name) for name in os.listdir(folder)}

    cancelled, tries = 0, 0
    while cancelled < CANCELS:
        tries += 1
        assert tries <= CANCELS * 10, "too many moments came too late"
        task_id = server.create("source", folder, tar=bool(tries % 2)).task_id
        if rng.random() > 0.2:
            until(lambda wanted=task_id: server.get(wanted).state != task_pb2.TASK_STATE_PENDING, "the run")
        time.sleep(rng.uniform(0, length))
        answer = server.cancel(task_id)
        task = server.ended(task_id)
        again = server.cancel(task_id)
        assert again.state == task.state, "cancelling an ended task changed it"
        assert again.revision == task.revision
        if task.state == task_pb2.TASK_STATE_COMPLETED:
            # It came too late: the archive is there, whole, and goes the way of the earlier ones.
            server.assert_archives(folder)
            (made,) = set(os.listdir(folder)) - set(earlier)
            earlier[made] = sha256_of(folder / made)
            continue
        cancelled += 1
        assert answer.cancel_requested
        assert answer.state in (task_pb2.TASK_STATE_CANCELLING, task_pb2.TASK_STATE_CANCELLED), answer
        assert task.state == task_pb2.TASK_STATE_CANCELLED, task
        assert task.HasField("cleanup")
        assert list(task.cleanup.left_behind) == []
        assert {name: sha256_of(folder / name) for name in os.listdir(folder)} == earlier
        listed = server.backups.ListBackups(backup_service_pb2.ListBackupsRequest(task_id=task_id), timeout=60)
        assert list(listed.backups) == [], "a cancelled backup is still listed"
    # Nothing is held by what was cancelled.
    assert server.backup("source", folder).state == task_pb2.TASK_STATE_COMPLETED
    server.assert_archives(folder)
