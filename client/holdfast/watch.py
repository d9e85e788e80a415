"""Following tasks by sequence, over as many streams as it takes.

The rule of the API: `sequence == previous + 1 + skipped`, but for RESET and HEARTBEAT, and for an end state that is
repeated because it was asked for again. A stream that breaks is taken up again after the last sequence, so that no
event is lost and none is given twice; an order that breaks the rule is a ProtocolError, never passed over.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from holdfast.connection import Connection
from holdfast.convert import from_message, to_event, to_number, to_task
from holdfast.enums import EventKind, TaskKind
from holdfast.errors import HoldfastError, NotFound, ProtocolError
from holdfast.models import Event, LogLine
from holdfast.retry import OnBreak, Resumption, ended_early
from holdfast.v1 import task_pb2, task_service_pb2

__all__ = ["follow_all", "follow_log", "follow_task"]


class _Order:
    """The last sequence of one task, and the rule between it and the next event."""

    def __init__(self, cursor: int | None) -> None:
        self.cursor = cursor

    def take(self, event: Event) -> bool:
        """Move on to `event`; False if it tells nothing new. Raises ProtocolError if it is out of order."""
        previous, self.cursor = self.cursor, event.sequence
        if event.kind is EventKind.HEARTBEAT:
            self.cursor = previous
            return True
        if event.kind is EventKind.RESET:
            return event.sequence != previous
        if previous is None or event.sequence == previous + 1 + event.skipped:
            return True
        if event.ends and event.sequence == previous:
            return True
        raise ProtocolError(
            f"task {event.task_id}: event {event.sequence} (skipped {event.skipped}) cannot follow event {previous}",
            remedy="Watch again without after_sequence, and report it: the server broke the order of events.",
            metadata={
                "task_id": event.task_id,
                "sequence": str(event.sequence),
                "skipped": str(event.skipped),
                "previous": str(previous),
            },
        )


def follow_task(
    connection: Connection,
    task_id: str,
    after_sequence: int | None = None,
    *,
    timeout: float | None = None,
    on_break: OnBreak | None = None,
) -> Iterator[Event]:
    """Events of one task up to and with its end state.

    Without `after_sequence` the first is RESET with the whole task. Raises ConnectionFailed when the server stays
    away for RECONNECT_SECONDS, DeadlineExceeded after `timeout` seconds.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    resumption = Resumption(connection, deadline, on_break)
    order = _Order(after_sequence)
    while True:
        request = task_service_pb2.WatchTaskRequest(task_id=task_id, after_sequence=order.cursor)
        try:
            with connection.stream(connection.tasks.WatchTask, request, timeout=resumption.remaining()) as messages:
                for message in messages:
                    resumption.advanced()
                    event = to_event(message)
                    if order.take(event):
                        yield event
                    if event.ends:
                        return
            # Only an end state ends a watch; an edge that drains may close the stream without an error.
            resumption.after(ended_early(connection.address))
        except HoldfastError as error:
            resumption.after(error)


def follow_all(
    connection: Connection,
    source_ids: Iterable[str] = (),
    kinds: Iterable[TaskKind] = (),
    *,
    on_break: OnBreak | None = None,
) -> Iterator[Event]:
    """Events of every task that matches, without end: first one RESET per live task.

    After a break come RESETs again, only for what changed; a task that ended meanwhile gives one RESET in its end
    state.
    """
    request = task_service_pb2.WatchTasksRequest(
        source_ids=source_ids, kinds=[to_number(task_pb2.TaskKind, kind) for kind in kinds]
    )
    resumption = Resumption(connection, None, on_break)
    orders: dict[str, _Order] = {}
    while True:
        known = list(orders)
        told: dict[str, int] = {}
        try:
            with connection.stream(connection.tasks.WatchTasks, request) as messages:
                for message in messages:
                    resumption.advanced()
                    event = to_event(message)
                    order = orders.setdefault(event.task_id, _Order(None))
                    if event.sequence > told.get(event.task_id, -1) and order.take(event):
                        yield event
                    if event.ends or not event.task_id:
                        orders.pop(event.task_id, None)
                    # The server has its list of live tasks by its first message: what ends later, the stream tells.
                    while known:
                        yield from _ended_meanwhile(connection, known.pop(), orders, told)
            resumption.after(ended_early(connection.address))
        except HoldfastError as error:
            resumption.after(error)


def follow_log(
    connection: Connection, task_id: str, from_line: int = 1, *, follow: bool = False, on_break: OnBreak | None = None
) -> Iterator[LogLine]:
    """Lines of a task's log from `from_line` (1-based) on; with `follow` until the task has ended. Each line once."""
    resumption = Resumption(connection, None, on_break)
    following = max(from_line, 1)
    while True:
        request = task_service_pb2.StreamTaskLogRequest(task_id=task_id, from_line=following, follow=follow)
        try:
            with connection.stream(connection.tasks.StreamTaskLog, request) as messages:
                ended = False
                for message in messages:
                    resumption.advanced()
                    ended = message.ended
                    for line in message.lines:
                        if line.line_number < following:
                            continue
                        following = line.line_number + 1
                        yield from_message(LogLine, line)
            if ended or not follow:
                return
            resumption.after(ended_early(connection.address))
        except HoldfastError as error:
            resumption.after(error)


def _ended_meanwhile(
    connection: Connection, task_id: str, orders: dict[str, _Order], told: dict[str, int]
) -> Iterator[Event]:
    """RESET of a task that ended while there was no stream; `told` notes it, should the stream tell it too."""
    order = orders.get(task_id)
    if order is None:
        return
    try:
        task = to_task(connection.call(connection.tasks.GetTask, task_service_pb2.GetTaskRequest(task_id=task_id)))
    except NotFound:
        del orders[task_id]
        return
    if not task.ended:
        return
    del orders[task_id]
    told[task_id] = task.revision
    yield Event(
        task_id=task_id,
        sequence=task.revision,
        skipped=0,
        time=task.end_time,
        kind=EventKind.RESET,
        task=task,
        progress=None,
        problem=None,
        warning_count=None,
    )
