"""Cancelling at seeded random moments: the right end, nothing left, and a true report of what was removed."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from holdfast.v1 import task_pb2
from tests.harness import ENDED, SequenceRule, Server, failure_of, make_tree, snapshot, until

MOMENTS = int(os.environ.get("HOLDFAST_CANCELS", "6"))
SEED = int(os.environ.get("HOLDFAST_SEED", "2026"))
CANCELLED, COMPLETED = task_pb2.TASK_STATE_CANCELLED, task_pb2.TASK_STATE_COMPLETED

MakeServer = Callable[..., Server]


def state_of(server: Server, task_id: str) -> str:
    return str(server.task_row(task_id)["state"])


def phase_of(server: Server, task_id: str) -> str:
    return str(server.task_row(task_id)["progress"])


def check_cancelled(server: Server, task_id: str) -> task_pb2.Task:
    """Cancel, and hold the answer against the end."""
    answer = server.cancel(task_id)
    assert answer.state == task_pb2.TASK_STATE_CANCELLING or answer.state in ENDED
    again = server.cancel(task_id)
    assert again.state == task_pb2.TASK_STATE_CANCELLING or again.state in ENDED
    task = server.ended(task_id)
    if answer.state in ENDED:
        assert task.state == answer.state
        assert (task.state == CANCELLED) == task.cancel_requested
    else:
        assert task.state == CANCELLED, "a cancel that was accepted was not carried out"
    if task.state == CANCELLED:
        assert not task.HasField("backup_result")
        assert task.HasField("cleanup")
        assert list(task.cleanup.left_behind) == []
        assert task.HasField("end_time")
    assert server.cancel(task_id) == task, "cancelling an ended task changed it"
    return task


@pytest.mark.long
@pytest.mark.timeout(max(180, MOMENTS * 10))
def test_cancel_at_random_moments_of_a_backup(new_server: MakeServer, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    source = make_tree(tmp_path / "source", 1, files=200, large=16 << 20)
    before = snapshot(source)
    folder = tmp_path / "archives"
    folder.mkdir()
    server = new_server()
    server.register(source, "source")
    first = server.backup("source", folder)
    second = server.backup("source", folder)
    duration = (second.end_time.ToMicroseconds() - second.start_time.ToMicroseconds()) / 1e6
    kept = server.assert_archives(folder)
    assert first.state == COMPLETED

    cancelled, seen_removed = 0, 0
    for tries in range(MOMENTS * 10):
        if cancelled >= MOMENTS:
            break
        task_id = server.create("source", folder, tar=bool(tries % 2)).task_id
        if rng.random() < 0.8:
            until(lambda wanted=task_id: state_of(server, wanted) != "PENDING", "the run", pause=0.001)
            time.sleep(rng.uniform(0, duration))
        task = check_cancelled(server, task_id)
        if task.state != CANCELLED:
            present = server.assert_archives(folder)
            assert kept.items() <= present.items()
            kept = present
            continue
        cancelled += 1
        seen_removed += task.cleanup.files_removed
        assert task.cleanup.files_removed <= 1
        assert (task.cleanup.bytes_freed > 0) <= (task.cleanup.files_removed > 0)
        assert server.assert_archives(folder) == kept
        assert server.rows("SELECT * FROM backups WHERE task_id = ?", task_id) == []
    assert cancelled >= MOMENTS
    assert seen_removed, "no cancel ever met a partial archive"
    assert snapshot(source) == before
    assert server.backup("source", folder).state == COMPLETED, "nothing stays locked"


@pytest.mark.parametrize("phase", ["scanning", "writing", "verifying"])
def test_cancel_in_each_phase(new_server: MakeServer, tmp_path: Path, phase: str) -> None:
    """The worker is frozen in the phase, so that the cancel meets it there whatever the machine's speed."""
    size = 0 if phase == "scanning" else 160 << 20
    files = 12_000 if phase == "scanning" else 20
    source = make_tree(tmp_path / "source", 2, files=files, large=size)
    folder = tmp_path / "archives"
    folder.mkdir()
    server = new_server(environment={"HOLDFAST_TASKS_LEASE_SECONDS": "60"})
    server.register(source, "source")
    for _ in range(20):
        task_id = server.create("source", folder).task_id
        until(lambda wanted=task_id: state_of(server, wanted) != "PENDING", "the run", pause=0.0005)
        if phase != "scanning":
            until(
                lambda wanted=task_id: (
                    f'"phase": "{phase}"' in phase_of(server, wanted) or state_of(server, wanted) != "RUNNING"
                ),
                "the phase",
                pause=0.001,
            )
        workers = server.pids("worker")
        assert server.freeze(workers)
        hit = state_of(server, task_id) == "RUNNING" and (
            not os.listdir(folder) if phase == "scanning" else phase in phase_of(server, task_id)
        )
        if hit:
            assert server.cancel(task_id).state == task_pb2.TASK_STATE_CANCELLING
            server.thaw(workers)
            break
        server.thaw(workers)
        server.cancel(task_id)
        server.ended(task_id)
        for name in os.listdir(folder):
            os.unlink(folder / name)
    else:
        raise AssertionError(f"phase {phase} was never met")
    task = server.ended(task_id)
    assert task.state == CANCELLED
    assert os.listdir(folder) == []
    assert task.cleanup.worker_stopped
    # The scan may end before the worker hears of the cancel.
    assert task.cleanup.files_removed <= 1
    assert task.cleanup.files_removed == 1 or phase == "scanning"


def test_cancel_of_queued_tasks(new_server: MakeServer, tmp_path: Path) -> None:
    """Behind a full worker: a cancelled task never starts, those beside it do."""
    source = make_tree(tmp_path / "source", 3, files=10)
    folder = tmp_path / "archives"
    folder.mkdir()
    server = new_server(environment={"HOLDFAST_TASKS_LEASE_SECONDS": "60"})
    server.register(source, "source")
    with server.frozen_worker():
        tasks = [server.create("source", folder).task_id for _ in range(6)]
        answers = [server.cancel(task_id) for task_id in tasks[::2]]
        for answer in answers:
            assert answer.state == CANCELLED
            assert not answer.HasField("start_time")
            assert not answer.cleanup.worker_stopped
        assert os.listdir(folder) == []
    assert [server.ended(task_id).state for task_id in tasks] == [CANCELLED, COMPLETED] * 3
    assert [server.cancel(task_id) for task_id in tasks[::2]] == [server.get(task_id) for task_id in tasks[::2]]
    server.assert_archives(folder)


@pytest.mark.long
def test_cancel_of_a_restore_removes_the_target(new_server: MakeServer, tmp_path: Path) -> None:
    rng = random.Random(SEED + 2)
    source = make_tree(tmp_path / "source", 4, files=300, large=64 << 20)
    folder = tmp_path / "archives"
    folder.mkdir()
    server = new_server()
    server.register(source, "source")
    backup_id = server.backup_of(server.backup("source", folder)).backup_id
    whole = server.restore(backup_id, tmp_path / "whole")
    duration = (whole.end_time.ToMicroseconds() - whole.start_time.ToMicroseconds()) / 1e6
    (tmp_path / "empty").mkdir()
    cancelled = 0
    for tries in range(60):
        if cancelled >= 4:
            break
        # Every second target exists and is empty: that one must stay, empty.
        target = tmp_path / ("empty" if tries % 2 else f"new{tries}")
        task_id = server.start_restore(backup_id, target).task_id
        until(lambda wanted=task_id: state_of(server, wanted) != "PENDING", "the run", pause=0.001)
        time.sleep(rng.uniform(0, duration * 0.8))
        try:
            task = check_cancelled(server, task_id)
        except grpc.RpcError as error:  # past the point of no return the cancel is refused, and the restore ends well
            if failure_of(error).name != "FAILED_PRECONDITION/TASK_COMMITTING":
                raise
            task = server.ended(task_id)
            assert task.state == COMPLETED
        if task.state == CANCELLED:
            cancelled += 1
            assert target.exists() == bool(tries % 2)
            assert not target.exists() or os.listdir(target) == []
        else:
            assert snapshot(target) == snapshot(source)
            if tries % 2:
                shutil.rmtree(target)
                target.mkdir()
    assert cancelled >= 4
    assert server.verify(backup_id).state == COMPLETED


def test_the_watch_of_a_cancelled_task_ends_with_it(new_server: MakeServer, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source", 5, files=50, large=48 << 20)
    folder = tmp_path / "archives"
    folder.mkdir()
    server = new_server(environment={"HOLDFAST_TASKS_LEASE_SECONDS": "60"})
    server.register(source, "source")
    with server.frozen_worker():
        task_id = server.create("source", folder).task_id
        server.cancel(task_id)
    rule = server.watch(task_id, after=0, rule=SequenceRule(previous=0))
    assert rule.last.task.state == CANCELLED
    states = [event.task.state for event in rule.events if event.kind == task_pb2.TASK_EVENT_KIND_STATE]
    assert states == [task_pb2.TASK_STATE_PENDING, CANCELLED]
