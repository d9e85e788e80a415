"""Watching over real processes: the sequence rule across broken watches, resets, heartbeats; no stream stops a task."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from holdfast.v1 import backup_service_pb2, task_pb2, task_service_pb2
from tests.harness import ENDED, PATIENCE, REPOSITORY, SequenceRule, Server, failure_of, make_tree, until

RESET, STATE, WARNING, HEARTBEAT = (
    task_pb2.TASK_EVENT_KIND_RESET,
    task_pb2.TASK_EVENT_KIND_STATE,
    task_pb2.TASK_EVENT_KIND_WARNING,
    task_pb2.TASK_EVENT_KIND_HEARTBEAT,
)
COMPLETED = task_pb2.TASK_STATE_COMPLETED


class Place:
    def __init__(self, server: Server, base: Path, large: int = 0, fifos: int = 0) -> None:
        self.server = server
        self.source = make_tree(base / "source", 1, files=30, large=large)
        for number in range(fifos):
            os.mkfifo(self.source / f"fifo{number}")
        self.folder = base / "archives"
        self.folder.mkdir()
        self.source_id = f"w-{uuid.uuid4().hex[:12]}"
        server.register(self.source, self.source_id)


@pytest.fixture
def place(shared_server: Server, tmp_path: Path) -> Place:
    return Place(shared_server, tmp_path)


def watcher(server: Server, task_id: str, after: int | None, dawdle: int = 0) -> subprocess.Popen[str]:
    arguments = [server.address, server.token, task_id, "-" if after is None else str(after), str(dawdle)]
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "tests/e2e/watching.py"), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "client")},
    )


def parsed(lines: list[str]) -> Iterator[tuple[int, int, str, str]]:
    for line in lines:
        sequence, skipped, kind, state, _ = line.split()
        yield int(sequence), int(skipped), kind, state


def test_a_watch_killed_and_resumed_misses_nothing(new_server: Callable[..., Server], tmp_path: Path) -> None:
    """The watching process is killed by SIGKILL, three times over; each next one goes on at the sequence seen last."""
    place = Place(new_server(), tmp_path, large=256 << 20, fifos=40)
    server = place.server
    with server.frozen_worker():
        task_id = server.create(place.source_id, place.folder).task_id
        lines: list[str] = []
        process = watcher(server, task_id, 0)
        assert process.stdout is not None
        lines.append(process.stdout.readline())
    kills = 0
    while True:
        # Two more events of this life, then death.
        for _ in range(2 if kills < 3 else 1_000_000):
            line = process.stdout.readline()
            if not line:
                break
            if "HEARTBEAT" not in line:
                lines.append(line)
        if kills == 3:
            break
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
        rest = process.stdout.read()
        assert process.returncode == -signal.SIGKILL
        lines += [line for line in rest.splitlines(keepends=True) if line.endswith("\n") and "HEARTBEAT" not in line]
        process.stdout.close()
        kills += 1
        process = watcher(server, task_id, int(lines[-1].split()[0]))
        assert process.stdout is not None
    process.stdout.close()
    assert process.wait(PATIENCE) == 0
    previous, states, warnings = 0, [], 0
    for sequence, skipped, kind, state in parsed(lines):
        told_again = sequence == previous and state.endswith("COMPLETED_WITH_WARNINGS")
        assert told_again or sequence == previous + 1 + skipped, lines
        assert kind != "RESET"
        previous = sequence
        warnings += kind == "WARNING"
        if kind == "STATE" and not told_again:
            states.append(state.removeprefix("TASK_STATE_"))
    assert states == ["PENDING", "RUNNING", "COMPLETED_WITH_WARNINGS"]
    assert warnings == 40
    assert previous == server.get(task_id).revision


def test_an_unset_or_future_sequence_begins_with_the_whole_task(place: Place) -> None:
    task = place.server.backup(place.source_id, place.folder)
    for after in (None, task.revision + 1, task.revision + 1000):
        events = place.server.watch(task.task_id, after=after, rule=SequenceRule()).events
        assert [event.kind for event in events] == [RESET, STATE]
        assert events[0].task == task
        assert events[1].task == task
        assert events[0].sequence == events[1].sequence == task.revision


def test_an_ended_task_tells_its_end_again(place: Place) -> None:
    task = place.server.backup(place.source_id, place.folder)
    for _ in range(2):
        rule = place.server.watch(task.task_id, after=task.revision)
        assert [event.kind for event in rule.events] == [STATE]
        assert rule.last.task == task
        assert rule.last.sequence == task.revision
    whole = place.server.watch(task.task_id, after=0)
    assert whole.events[0].task.state == task_pb2.TASK_STATE_PENDING
    assert whole.last.task == task
    assert [e.task.state for e in whole.events if e.kind == STATE][-2:] == [task_pb2.TASK_STATE_RUNNING, COMPLETED]


def test_a_quiet_watch_has_a_pulse(new_server: Callable[..., Server], tmp_path: Path) -> None:
    environment = {"HOLDFAST_SERVER_HEARTBEAT_SECONDS": "0.2", "HOLDFAST_TASKS_LEASE_SECONDS": "60"}
    place = Place(new_server(environment=environment), tmp_path)
    server = place.server
    rule, everything = SequenceRule(), SequenceRule()
    with server.frozen_worker():
        task_id = server.create(place.source_id, place.folder).task_id
        stream = server.tasks.WatchTask(task_service_pb2.WatchTaskRequest(task_id=task_id), timeout=PATIENCE)
        all_stream = server.tasks.WatchTasks(task_service_pb2.WatchTasksRequest(), timeout=PATIENCE)
        for _ in range(4):
            rule.take(next(stream))
            everything.take(next(all_stream))
    assert [event.kind for event in rule.events] == [RESET, HEARTBEAT, HEARTBEAT, HEARTBEAT]
    assert {event.sequence for event in rule.events} == {1}
    assert everything.events[0].kind == RESET
    assert HEARTBEAT in {event.kind for event in everything.events}
    for event in stream:
        rule.take(event)
    assert rule.last.task.state == COMPLETED
    all_stream.cancel()


def test_watch_tasks_follows_every_task_by_the_same_rule(new_server: Callable[..., Server], tmp_path: Path) -> None:
    place = Place(new_server(), tmp_path)
    server = place.server
    other = make_tree(tmp_path / "other", 2, files=5)
    server.register(other, "other")
    before = server.create(place.source_id, place.folder).task_id
    server.ended(before)
    rules: dict[str, SequenceRule] = {}
    chosen: list[str] = []
    with server.frozen_worker():
        early = server.create(place.source_id, place.folder).task_id
        stream = server.tasks.WatchTasks(task_service_pb2.WatchTasksRequest(), timeout=PATIENCE)
        only = server.tasks.WatchTasks(task_service_pb2.WatchTasksRequest(source_ids=["other"]), timeout=PATIENCE)
        first = next(stream)
        assert (first.task_id, first.kind) == (early, RESET)
        assert first.task.state == task_pb2.TASK_STATE_PENDING
        rules[early] = SequenceRule()
        rules[early].take(first)
        listener = threading.Thread(target=lambda: chosen.extend(_ends(only, 1)))
        listener.start()
        # The filtered watch says nothing yet, so that its start is seen by a heartbeat of the server's own accord only.
        late = [server.create(place.source_id, place.folder).task_id, server.create("other", place.folder).task_id]
    ended = set()
    for event in stream:
        if event.kind == HEARTBEAT:
            continue
        rules.setdefault(event.task_id, SequenceRule(previous=0)).take(event)
        if event.kind == STATE and event.task.state in ENDED:
            ended.add(event.task_id)
        if ended == {early, *late}:
            break
    stream.cancel()
    assert set(rules) == {early, *late}, "ended tasks are not told of"
    listener.join(PATIENCE)
    assert chosen == [late[1]]


def _ends(stream: Iterator[task_pb2.TaskEvent], count: int) -> list[str]:
    found: list[str] = []
    for event in stream:
        if event.kind == STATE and event.task.state in ENDED:
            found.append(event.task_id)
        if len(found) == count:
            return found
    return found


def run_request(place: Place, **values: str) -> backup_service_pb2.RunBackupRequest:
    order = place.server.order(place.source_id, place.folder, **values)
    return backup_service_pb2.RunBackupRequest.FromString(order.SerializeToString())


def test_run_backup_is_create_and_watch_in_one_call(place: Place) -> None:
    stream = place.server.backups.RunBackup(run_request(place), timeout=PATIENCE)
    metadata = dict(stream.initial_metadata())
    rule = SequenceRule()
    for event in stream:
        rule.take(event)
        assert event.task_id == metadata["holdfast-task-id"]
    assert rule.events[0].kind == RESET
    assert rule.last.kind == STATE
    assert rule.last.task.state == COMPLETED
    assert rule.last.task.backup_result.output_files


def test_a_repeated_run_reattaches(place: Place) -> None:
    request = run_request(place, request_id=str(uuid.uuid4()))
    first = place.server.backups.RunBackup(request, timeout=PATIENCE)
    task_id = dict(first.initial_metadata())["holdfast-task-id"]
    first.cancel()
    again = place.server.backups.RunBackup(request, timeout=PATIENCE)
    assert dict(again.initial_metadata())["holdfast-task-id"] == task_id
    rule = SequenceRule()
    for event in again:
        rule.take(event)
    assert rule.last.task.task_id == task_id
    assert rule.last.task.state == COMPLETED
    assert len(os.listdir(place.folder)) == 1, "one request, one archive"
    created = backup_service_pb2.CreateBackupRequest.FromString(request.SerializeToString())
    assert place.server.backups.CreateBackup(created).task_id == task_id


def test_the_end_of_a_stream_stops_no_task(new_server: Callable[..., Server], tmp_path: Path) -> None:
    place = Place(new_server(), tmp_path)
    with place.server.frozen_worker():
        stream = place.server.backups.RunBackup(run_request(place), timeout=PATIENCE)
        task_id = next(stream).task_id
        stream.cancel()
        late = place.server.backups.RunBackup(run_request(place), timeout=0.5)
        with pytest.raises(grpc.RpcError) as caught:
            list(late)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        ids = {row["task_id"] for row in place.server.rows("SELECT task_id FROM tasks")}
        assert len(ids) == 2
        assert task_id in ids
    assert {place.server.ended(one).state for one in ids} == {COMPLETED}
    place.server.assert_archives(place.folder)


def test_slow_watchers_lose_no_state_and_no_warning(new_server: Callable[..., Server], tmp_path: Path) -> None:
    """Three watchers that dawdle at each event, one quick one, and one that reads nothing until the task has ended."""
    place = Place(new_server(), tmp_path, large=48 << 20, fifos=60)
    server = place.server
    with server.frozen_worker():
        task_id = server.create(place.source_id, place.folder).task_id
        watchers = [watcher(server, task_id, 0, dawdle) for dawdle in (20, 40, 60, 0)]
        firsts = [process.stdout.readline() for process in watchers if process.stdout is not None]
        asleep = server.tasks.WatchTask(
            task_service_pb2.WatchTaskRequest(task_id=task_id, after_sequence=0), timeout=PATIENCE
        )
        next(asleep)
    task = server.ended(task_id)
    for process, first in zip(watchers, firsts, strict=True):
        rest, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        previous, kinds = 0, []
        for sequence, skipped, kind, _state in parsed([first, *rest.splitlines()]):
            if kind == "HEARTBEAT":
                continue
            assert sequence == previous + 1 + skipped
            previous = sequence
            kinds.append(kind)
        assert previous == task.revision
        assert kinds.count("WARNING") == 60
        assert kinds.count("STATE") == 3
        assert "RESET" not in kinds
    rule = SequenceRule(previous=1)
    for event in asleep:
        rule.take(event)
    assert rule.last.task.state == task_pb2.TASK_STATE_COMPLETED_WITH_WARNINGS
    assert sum(event.kind == WARNING for event in rule.events) == 60


def test_a_watch_survives_the_edge_by_its_sequence(new_server: Callable[..., Server], tmp_path: Path) -> None:
    place = Place(new_server(), tmp_path, fifos=5)
    server = place.server
    rule = SequenceRule(previous=0)
    with server.frozen_worker():
        task_id = server.create(place.source_id, place.folder).task_id
        request = task_service_pb2.WatchTaskRequest(task_id=task_id, after_sequence=0)
        stream = server.tasks.WatchTask(request, timeout=PATIENCE)
        rule.take(next(stream))
        edges = server.signal("edge")
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        until(lambda: server.gone(edges) and server.pids("edge"), "the next edge")
        server.wait_ready()
    rule = server.watch(task_id, after=rule.previous, rule=rule)
    assert rule.last.task.state == task_pb2.TASK_STATE_COMPLETED_WITH_WARNINGS
    assert sum(event.kind == WARNING for event in rule.events) == 5


def test_logs_can_be_followed_to_the_end(place: Place) -> None:
    task_id = place.server.create(place.source_id, place.folder).task_id
    request = task_service_pb2.StreamTaskLogRequest(task_id=task_id, follow=True)
    lines = [line for chunk in place.server.tasks.StreamTaskLog(request, timeout=PATIENCE) for line in chunk.lines]
    assert [line.line_number for line in lines] == list(range(1, len(lines) + 1))
    task = place.server.get(task_id)
    assert task.state == COMPLETED
    assert task.log_lines == len(lines)
    parts = list(place.server.tasks.DownloadTaskLog(task_service_pb2.DownloadTaskLogRequest(task_id=task_id)))
    text = b"".join(part.chunk.data for part in parts if part.HasField("chunk"))
    assert len(text.decode().splitlines()) == len(lines)
    assert parts[0].HasField("header")
    assert parts[-1].HasField("digest")
    half = task_service_pb2.DownloadTaskLogRequest(task_id=task_id, offset=len(text) // 2)
    rest = b"".join(p.chunk.data for p in place.server.tasks.DownloadTaskLog(half) if p.HasField("chunk"))
    assert rest == text[len(text) // 2 :]


def test_a_watch_of_nothing_fails(place: Place) -> None:
    request = task_service_pb2.WatchTaskRequest(task_id=str(uuid.uuid4()), after_sequence=5)
    with pytest.raises(grpc.RpcError) as caught:
        list(place.server.tasks.WatchTask(request, timeout=PATIENCE))
    assert failure_of(caught.value).reason == "TASK_NOT_FOUND"
