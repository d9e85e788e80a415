"""SIGKILL, SIGSTOP and SIGTERM at seeded random moments: what was promised before stays true after.

A fault counts only when it fired: the processes are frozen first, the catalog must say that the task is still alive,
and only then are they killed. HOLDFAST_KILLS sets how many kills the random tests make, HOLDFAST_SEED their seed.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from holdfast.v1 import backup_service_pb2, repository_service_pb2, task_pb2, task_service_pb2
from tests.harness import PATIENCE, Server, failure_of, is_stopped, make_tree, sha256_of, snapshot, until
from tests.keys import PRIVATE, PUBLIC

KILLS = int(os.environ.get("HOLDFAST_KILLS", "2"))
SEED = int(os.environ.get("HOLDFAST_SEED", "2026"))
LIVE = ("PENDING", "RUNNING", "CANCELLING")
#: What each kind of kill takes away. Worker first, because it does the work.
ROLES = ("worker", "all", "edge", "worker", "supervisor")

MakeServer = Callable[..., Server]


def freeze_and_kill(server: Server, roles: list[str], task_id: str, look: Callable[[], object] = lambda: None) -> bool:
    """Kill all processes of the roles while the task is alive; False (and nothing dead) when it had ended already.

    `look` is called while they stand still.
    """
    frozen: list[int] = []
    for role in roles:
        for pid in server.pids(role):
            try:
                os.kill(pid, signal.SIGSTOP)
                frozen.append(pid)
            except ProcessLookupError:
                continue
    until(lambda: all(is_stopped(pid) for pid in frozen), "the freeze", pause=0.0005)
    alive = server.task_row(task_id)["state"] in LIVE
    look()
    for pid in frozen:
        try:
            os.kill(pid, signal.SIGKILL if alive else signal.SIGCONT)
        except ProcessLookupError:
            continue
    if alive:
        assert frozen, f"no process of {roles} was there to kill"
        if "supervisor" in roles:
            server.wait_supervisor()
        until(lambda: server.gone(frozen), "the death of what was killed")
    return alive


def freeze_while_writing(server: Server, folder: Path) -> tuple[str, int]:
    """A task whose worker stands still with a partial archive: (task, process)."""
    for _ in range(20):
        task_id = server.create("source", folder).task_id
        until(lambda: partials(folder), "a partial archive", pause=0.001)
        pid = owner_of(server, task_id)
        if pid and server.freeze([pid]):
            if partials(folder) and server.task_row(task_id)["state"] == "RUNNING":
                return task_id, pid
            server.thaw([pid])
        server.ended(task_id)
    raise AssertionError("every freeze came too late")


def wait_for_moment(server: Server, task_id: str, rng: random.Random, duration: float) -> None:
    """A random moment of a task: one in five before it runs, the rest anywhere in its run."""
    if rng.random() < 0.2:
        time.sleep(rng.uniform(0, 0.1))
        return
    until(lambda: server.task_row(task_id)["state"] != "PENDING", "the run", pause=0.001)
    time.sleep(rng.uniform(0, duration))


def come_back(server: Server, role: str) -> None:
    """Wait for the supervisor's repair, or be the one who starts the server again."""
    if role in ("supervisor", "all"):
        until(lambda: not (server.pids("edge") or server.pids("worker")), "the end of the orphans")
        server.start()
    else:
        server.wait_ready()
    until(lambda: server.pids("worker") and server.pids("edge"), "all processes")


def owner_of(server: Server, task_id: str) -> int:
    """The process that runs a task."""
    found = server.rows("SELECT w.pid FROM tasks t JOIN workers w ON w.owner = t.owner WHERE t.task_id = ?", task_id)
    return int(found[0]["pid"]) if found else 0


def run_time(task: task_pb2.Task) -> float:
    """Seconds from the task's start to its end."""
    return (task.end_time.ToMicroseconds() - task.start_time.ToMicroseconds()) / 1e6


def partials(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.endswith(".partial")]


@pytest.mark.long
@pytest.mark.timeout(max(240, KILLS * 30))
def test_kills_at_random_moments_of_a_backup(new_server: MakeServer, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    source = make_tree(tmp_path / "source", 1, files=200, large=16 << 20)
    wanted = snapshot(source)
    folder = tmp_path / "archives"
    folder.mkdir()
    server = new_server()
    server.register(source, "source")
    first = server.backup("source", folder)
    duration = run_time(server.backup("source", folder))
    assert first.state == task_pb2.TASK_STATE_COMPLETED, first
    earlier = server.assert_archives(folder)

    fired, completed, tries = 0, 0, 0
    while fired < KILLS:
        tries += 1
        assert tries <= KILLS * 10, "too many moments came too late"
        role = ROLES[fired % len(ROLES)]
        recipients = [PUBLIC] if fired % 3 == 2 else []
        task_id = server.create("source", folder, tar=bool(fired % 2), recipients=recipients).task_id
        wait_for_moment(server, task_id, rng, duration)
        if not freeze_and_kill(server, ["supervisor", "edge", "worker"] if role == "all" else [role], task_id):
            server.ended(task_id)
            continue
        fired += 1
        come_back(server, role)
        task = server.ended(task_id)
        if task.state == task_pb2.TASK_STATE_FAILED:
            assert task.error.reason == "INTERRUPTED", task
        else:
            assert task.state == task_pb2.TASK_STATE_COMPLETED, task
            completed += 1
            if completed % 3 == 1:  # assert_archives holds all of them against what was read back
                restored = server.restore(task.backup_result.backup_ids[0], tmp_path / "back", identity=PRIVATE)
                assert restored.state == task_pb2.TASK_STATE_COMPLETED, restored
                assert snapshot(tmp_path / "back") == wanted
                shutil.rmtree(tmp_path / "back")
        present = server.assert_archives(folder)
        assert earlier.items() <= present.items(), "an earlier archive was touched"
        earlier = present
    assert completed, "no killed backup ever completed"


def snapshot_of(server: Server, base: Path) -> str:
    """A backup of the source into a repository."""
    made = repository_service_pb2.CreateRepositoryRequest(
        repository_id="vault", location=str(base / "vault"), create_folder=True
    )
    server.repositories.CreateRepository(made, timeout=PATIENCE)
    order = backup_service_pb2.CreateBackupRequest(source_ids=["source"])
    order.repository.repository_id = "vault"
    return server.backup_of(server.ended(server.backups.CreateBackup(order, timeout=PATIENCE).task_id)).backup_id


@pytest.mark.long
@pytest.mark.timeout(max(240, KILLS * 30))
def test_kills_at_random_moments_of_a_restore(new_server: MakeServer, tmp_path: Path) -> None:
    rng = random.Random(SEED + 1)
    source = make_tree(tmp_path / "source", 2, files=300, large=16 << 20)
    wanted = snapshot(source)
    (tmp_path / "archives").mkdir()
    server = new_server()
    server.register(source, "source")
    backup_ids = [
        server.backup_of(server.backup("source", tmp_path / "archives")).backup_id,
        snapshot_of(server, tmp_path),
    ]
    durations = []
    for number, backup_id in enumerate(backup_ids):
        undisturbed = server.restore(backup_id, tmp_path / f"undisturbed{number}")
        assert undisturbed.state == task_pb2.TASK_STATE_COMPLETED
        durations.append(run_time(undisturbed))

    fired, tries, kills = 0, 0, max(KILLS // 3, 1)
    while fired < kills:
        tries += 1
        assert tries <= kills * 10, "too many moments came too late"
        role = ("worker", "all")[fired % 2]
        target = tmp_path / f"back{tries}"
        task_id = server.start_restore(backup_ids[tries % 2], target).task_id
        wait_for_moment(server, task_id, rng, durations[tries % 2])
        if not freeze_and_kill(server, ["supervisor", "edge", "worker"] if role == "all" else [role], task_id):
            server.ended(task_id)
            continue
        fired += 1
        come_back(server, role)
        task = server.ended(task_id)
        if task.state == task_pb2.TASK_STATE_COMPLETED:
            assert snapshot(target) == wanted
        else:
            assert task.error.reason == "INTERRUPTED", task
            assert not target.exists() or not os.listdir(target)


def test_frozen_worker_that_lost_its_lease_writes_nothing_beside_its_successor(
    new_server: MakeServer, tmp_path: Path
) -> None:
    source = make_tree(tmp_path / "source", 3, files=50, large=48 << 20)
    folder = tmp_path / "archives"
    folder.mkdir()
    server = new_server(workers=2, environment={"HOLDFAST_TASKS_LEASE_SECONDS": "1"})
    server.register(source, "source")
    task_id, zombie = freeze_while_writing(server, folder)
    assert partials(folder) == [f".{task_id}.1.partial"]

    until(lambda: owner_of(server, task_id) not in (0, zombie), "the successor")
    task = server.ended(task_id)
    assert task.state == task_pb2.TASK_STATE_COMPLETED, task
    assert task.attempt == 2
    server.assert_archives(folder)
    before = {name: sha256_of(folder / name) for name in os.listdir(folder)}

    os.kill(zombie, signal.SIGCONT)
    until(lambda: f"attempt 1 of task {task_id} is over" in server.log(), "the zombie's surrender")
    assert {name: sha256_of(folder / name) for name in os.listdir(folder)} == before
    after = server.get(task_id)
    assert after == task, "the zombie changed the ended task"
    # And it is fit for work again.
    again = [server.create("source", folder) for _ in range(2)]
    assert [server.ended(one.task_id).state for one in again] == [task_pb2.TASK_STATE_COMPLETED] * 2
    server.assert_archives(folder)


def test_only_worker_frozen_past_its_lease_finishes_in_a_new_attempt(new_server: MakeServer, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source", 4, files=50, large=96 << 20)
    folder = tmp_path / "archives"
    folder.mkdir()
    server = new_server(environment={"HOLDFAST_TASKS_LEASE_SECONDS": "1"})
    server.register(source, "source")
    task_id, worker = freeze_while_writing(server, folder)
    until(lambda: server.task_row(task_id)["attempt"] == 2, "the takeover")
    assert server.get(task_id).state == task_pb2.TASK_STATE_PENDING
    os.kill(worker, signal.SIGCONT)
    task = server.ended(task_id)
    assert task.state == task_pb2.TASK_STATE_COMPLETED, task
    assert task.attempt == 2, "the new attempt in the same process lost its lease"
    server.assert_archives(folder)


@pytest.mark.long
def test_attempts_without_progress_end_interrupted_and_leave_nothing(new_server: MakeServer, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source", 5, files=50, large=48 << 20)
    folder = tmp_path / "archives"
    folder.mkdir()
    server = new_server()
    server.register(source, "source")
    task_id = server.create("source", folder).task_id
    # The first attempt gets somewhere; those after it die at once, so none gets further.
    until(lambda: '"position": 0' not in server.task_row(task_id)["progress"] and partials(folder), "progress")
    assert freeze_and_kill(server, ["worker"], task_id)
    deaths = 1
    while server.task_row(task_id)["fruitless"] < 3:
        until(lambda: owner_of(server, task_id) in server.pids("worker"), "a new attempt", pause=0.001)
        assert freeze_and_kill(server, ["worker"], task_id)
        deaths += 1
        attempt = server.task_row(task_id)["attempt"]
        until(lambda seen=attempt: server.task_row(task_id)["attempt"] > seen, "the takeover")
        assert deaths <= 8
    task = server.ended(task_id)
    assert task.state == task_pb2.TASK_STATE_FAILED
    assert task.error.reason == "INTERRUPTED"
    assert task.error.metadata["attempts"] == str(task.attempt)
    assert task.error.remedy
    assert os.listdir(folder) == []
    server.assert_archives(folder)
    # Nothing is locked by what failed.
    assert server.backup("source", folder).state == task_pb2.TASK_STATE_COMPLETED


def test_children_go_with_the_supervisor(new_server: MakeServer) -> None:
    server = new_server(workers=2)
    children = server.pids("edge") + server.pids("worker")
    assert len(children) == 3
    os.kill(server.supervisor_pid, signal.SIGKILL)
    server.wait_supervisor()
    until(lambda: server.gone(children), "the end of the children", seconds=2)


@pytest.mark.long
def test_sigterm_hands_a_long_task_back_and_it_finishes_after_the_restart(
    new_server: MakeServer, tmp_path: Path
) -> None:
    source = make_tree(tmp_path / "source", 6, files=50, large=96 << 20)
    folder = tmp_path / "archives"
    folder.mkdir()
    server = new_server(environment={"HOLDFAST_WORKER_DRAIN_SECONDS": "0"})
    server.register(source, "source")
    task_id = server.create("source", folder).task_id
    until(lambda: partials(folder), "a partial archive", pause=0.001)
    ends: list[object] = []
    watching = threading.Event()
    watcher = threading.Thread(target=lambda: ends.append(_watch_end(server, task_id, watching)))
    watcher.start()
    assert watching.wait(PATIENCE)
    until(lambda: server.task_row(task_id)["state"] == "RUNNING", "the run")
    assert server.stop() == 0
    watcher.join(20)
    row = server.task_row(task_id)
    assert (row["state"], row["owner"], row["fruitless"]) == ("PENDING", None, 0)
    assert row["attempt"] > 1
    assert os.listdir(folder) == [], "a handed back task leaves nothing behind"
    assert ends == ["UNAVAILABLE/SHUTTING_DOWN"]

    server.start()
    task = server.ended(task_id)
    assert task.state == task_pb2.TASK_STATE_COMPLETED, task
    server.assert_archives(folder)
    assert server.restore(task.backup_result.backup_ids[0], tmp_path / "back").state == task_pb2.TASK_STATE_COMPLETED
    assert snapshot(tmp_path / "back") == snapshot(source)


def _watch_end(server: Server, task_id: str, watching: threading.Event) -> str:
    """How a watch ends. `watching` is set once it is under way: a call that meets a leaving server is cancelled."""
    try:
        for event in server.tasks.WatchTask(task_service_pb2.WatchTaskRequest(task_id=task_id), timeout=60):
            last = event
            watching.set()
    except grpc.RpcError as error:
        return failure_of(error).name
    return task_pb2.TaskState.Name(last.task.state)


def test_sigterm_lets_a_short_task_finish_and_its_watcher_see_the_end(new_server: MakeServer, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source", 7, files=50, large=32 << 20)
    folder = tmp_path / "archives"
    folder.mkdir()
    server = new_server(environment={"HOLDFAST_WORKER_DRAIN_SECONDS": "60"})
    server.register(source, "source")
    task_id = server.create("source", folder).task_id
    until(lambda: partials(folder), "a partial archive", pause=0.001)
    ends: list[str] = []
    watching = threading.Event()
    watcher = threading.Thread(target=lambda: ends.append(_watch_end(server, task_id, watching)))
    watcher.start()
    assert watching.wait(PATIENCE)
    until(lambda: server.task_row(task_id)["state"] == "RUNNING", "the run")
    time.sleep(0.05)
    assert server.stop() == 0
    watcher.join(20)
    assert server.task_row(task_id)["state"] == "COMPLETED"
    server.assert_archives(folder)
    assert ends[0] in ("TASK_STATE_COMPLETED", "UNAVAILABLE/SHUTTING_DOWN"), ends


def test_a_second_server_on_the_same_data_directory_is_refused(new_server: MakeServer, tmp_path: Path) -> None:
    server = new_server()
    rival = Server(server.base, environment={})
    with pytest.raises(AssertionError, match="in use by another server"):
        # Its own start takes the address file away; the refusal must come before anything is served.
        rival.start()
    assert server.pids("worker")
