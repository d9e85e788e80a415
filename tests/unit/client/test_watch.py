"""Watches that break and go on: no event lost, none twice, none out of order."""

from __future__ import annotations

import threading
import time
from typing import Any

import grpc
import pytest
from fake_service import FakeServer, FakeService, FakeTask, stamp

import holdfast
from holdfast import EventKind
from holdfast.v1 import task_pb2

RESULT = task_pb2.BackupResult(files_added=3, output_files=["/srv/a.zip"])


def run(task: FakeTask, steps: int = 20, pause: float = 0.0, end: int = task_pb2.TASK_STATE_COMPLETED) -> None:
    task.state(task_pb2.TASK_STATE_RUNNING)
    for step in range(steps):
        task.progress(step * 100 / steps, skipped=step % 3)
        if step % 7 == 3:
            task.warn(f"file-{step}")
        time.sleep(pause)
    task.state(end, backup_result=RESULT)


def check(task: FakeTask, events: list[holdfast.Event], after: int) -> None:
    expected = [event.sequence for event in task.journal if event.sequence > after]
    seen = [event.sequence for event in events if event.kind not in (EventKind.RESET, EventKind.HEARTBEAT)]
    assert seen == expected


BREAKS: list[tuple[int, grpc.StatusCode | None]] = [
    (3, grpc.StatusCode.UNAVAILABLE),
    (0, grpc.StatusCode.UNKNOWN),
    (5, grpc.StatusCode.INTERNAL),
    (2, grpc.StatusCode.CANCELLED),
    (4, None),  # the stream ends OK before the task has ended
]


def test_a_broken_watch_goes_on_without_loss_or_repeat(service: FakeService, client: holdfast.Client) -> None:
    task = service.add_task(FakeTask())
    service.breaks = list(BREAKS)
    breaks: list[str] = []
    events = []
    thread = threading.Thread(target=run, args=(task, 30, 0.01))
    thread.start()
    for event in client.tasks.watch(task.task_id, on_break=lambda error, delay: breaks.append(error.code)):
        events.append(event)
    thread.join()
    assert service.breaks == []
    assert len(breaks) == len(BREAKS)
    assert [event.kind for event in events].count(EventKind.RESET) == 1
    check(task, events, after=events[0].sequence)
    assert events[-1].ends


def test_a_watch_survives_a_server_that_is_killed(
    service: FakeService, server: FakeServer, client: holdfast.Client
) -> None:
    task = service.add_task(FakeTask())
    thread = threading.Thread(target=run, args=(task, 40, 0.02))
    thread.start()
    events = []
    for event in client.tasks.watch(task.task_id, 0):
        events.append(event)
        if len(events) in (5, 20):
            server.stop()
            threading.Timer(0.1, server.start).start()
    thread.join()
    check(task, events, after=0)


def test_watching_after_a_sequence(service: FakeService, client: holdfast.Client) -> None:
    task = service.add_task(FakeTask())
    run(task)
    assert [event.kind for event in client.tasks.watch(task.task_id)] == [EventKind.RESET, EventKind.STATE]
    check(task, list(client.tasks.watch(task.task_id, 4)), after=4)
    last = task.task.revision
    again = list(client.tasks.watch(task.task_id, last))
    assert [(event.sequence, event.ends) for event in again] == [(last, True)]


@pytest.mark.parametrize("field", ["sequence", "skipped"])
def test_an_order_that_breaks_the_rule_is_an_error(field: str, service: FakeService, client: holdfast.Client) -> None:
    task = service.add_task(FakeTask())
    run(task)

    def corrupt(event: Any) -> Any:
        changed = task_pb2.TaskEvent()
        changed.CopyFrom(event)
        if event.sequence == task.journal[5].sequence:
            setattr(changed, field, getattr(changed, field) + 1)
        return changed

    service.corrupt_watch = corrupt
    with pytest.raises(holdfast.ProtocolError, match="cannot follow") as caught:
        list(client.tasks.watch(task.task_id, 0))
    assert caught.value.metadata["task_id"] == task.task_id


def test_an_event_that_comes_twice_is_an_error(service: FakeService, client: holdfast.Client) -> None:
    task = service.add_task(FakeTask())
    run(task)
    service.corrupt_watch = lambda event: task.journal[2] if event.sequence > 4 else event
    with pytest.raises(holdfast.ProtocolError):
        list(client.tasks.watch(task.task_id, 0))


def test_reset_and_heartbeat_are_outside_the_rule(service: FakeService, client: holdfast.Client) -> None:
    task = service.add_task(FakeTask())
    run(task, 3)
    heartbeat = task_pb2.TaskEvent(
        task_id=task.task_id, sequence=1, time=stamp(), kind=task_pb2.TASK_EVENT_KIND_HEARTBEAT
    )
    original = service._watch

    def with_extras(request: Any, task: FakeTask, context: Any) -> Any:
        yield heartbeat
        reset = task_pb2.TaskEvent(
            task_id=task.task_id, sequence=3, kind=task_pb2.TASK_EVENT_KIND_RESET, task=task.task
        )
        yield reset
        request.after_sequence = 3
        yield from original(request, task, context)

    service._watch = with_extras  # type: ignore[method-assign]
    events = list(client.tasks.watch(task.task_id, 1))
    assert [event.kind for event in events[:2]] == [EventKind.HEARTBEAT, EventKind.RESET]
    check(task, events, after=3)


def test_a_refusal_is_not_repeated(service: FakeService, client: holdfast.Client) -> None:
    with pytest.raises(holdfast.NotFound):
        list(client.tasks.watch("nope"))
    assert len(service.calls) == 1


def test_result_waits_and_is_typed(service: FakeService, client: holdfast.Client) -> None:
    service.on_create = run
    handle = client.backups.create(["a"], folder="/srv", format=holdfast.ArchiveFormat.ZIP)
    result = handle.result(timeout=5)
    assert (result.files_added, result.output_files) == (3, ("/srv/a.zip",))
    assert handle.task.state is holdfast.TaskState.COMPLETED
    assert handle.result() is not None
    assert len(list(handle.problems())) == 3


def test_result_raises_what_the_task_died_of(service: FakeService, client: holdfast.Client) -> None:
    task = service.add_task(FakeTask())
    error = task_pb2.TaskError(
        code="RESOURCE_EXHAUSTED", reason="DISK_FULL", message="full", remedy="free space", metadata={"folder": "/srv"}
    )
    task.state(task_pb2.TASK_STATE_FAILED, error=error)
    with pytest.raises(holdfast.TaskFailed, match="full") as failed:
        client.tasks.get(task.task_id).result()
    assert failed.value.reason == holdfast.Reason.DISK_FULL
    assert failed.value.remedy == "free space"
    assert failed.value.task.task_id == task.task_id
    other = service.add_task(FakeTask())
    handle = client.tasks.get(other.task_id)
    assert handle.cancel().state is holdfast.TaskState.CANCELLED
    with pytest.raises(holdfast.TaskCancelled) as cancelled:
        handle.result()
    assert cancelled.value.task.cleanup is not None
    assert cancelled.value.task.cleanup.bytes_freed == 2048


def test_result_gives_up_after_its_timeout_and_the_task_goes_on(service: FakeService, client: holdfast.Client) -> None:
    task = service.add_task(FakeTask())
    with pytest.raises(holdfast.DeadlineExceeded):
        client.tasks.get(task.task_id).result(timeout=0.3)
    assert not task.ended
    run(task, 1)
    assert client.tasks.get(task.task_id).result(timeout=5)


def test_watch_all_goes_on_and_tells_what_ended_meanwhile(
    service: FakeService, server: FakeServer, client: holdfast.Client
) -> None:
    first, second = service.add_task(FakeTask()), service.add_task(FakeTask())
    events = []
    for event in client.tasks.watch_all():
        events.append(event)
        if len(events) == 2:  # both RESETs
            server.stop()
            run(first, 2)
            server.start()
        if event.task_id == first.task_id and event.task is not None and event.task.ended:
            break
    assert [event.kind for event in events[:2]] == [EventKind.RESET, EventKind.RESET]
    told = [event for event in events if event.task_id == first.task_id and event.task is not None and event.task.ended]
    assert len(told) == 1
    assert told[0].kind is EventKind.RESET
    resets = [event for event in events if event.task_id == second.task_id and event.kind is EventKind.RESET]
    assert len(resets) == 1  # nothing new, so it is not told again


def test_watch_all_sees_new_tasks(service: FakeService, client: holdfast.Client) -> None:
    stream = client.tasks.watch_all()
    assert next(stream).kind is EventKind.HEARTBEAT
    task = service.add_task(FakeTask())
    run(task, 2)
    events = []
    for event in stream:
        events.append(event)
        if event.ends:
            break
    check(task, events, after=0)


def test_a_log_is_followed_over_breaks(service: FakeService, client: holdfast.Client) -> None:
    task = service.add_task(FakeTask())
    service.breaks = [(2, grpc.StatusCode.UNAVAILABLE), (3, grpc.StatusCode.UNAVAILABLE)]

    def talk() -> None:
        for number in range(1, 11):
            task.say(f"line {number}")
            time.sleep(0.01)
        task.state(task_pb2.TASK_STATE_COMPLETED)

    thread = threading.Thread(target=talk)
    thread.start()
    lines = list(client.tasks.log(task.task_id, follow=True))
    thread.join()
    assert [line.text for line in lines] == [f"line {number}" for number in range(1, 11)]
    assert [line.line_number for line in client.tasks.log(task.task_id, from_line=8)] == [8, 9, 10]
