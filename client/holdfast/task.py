"""Tasks: a handle on one of them, and `client.tasks` for all.

    handle = client.backups.create(["default"], folder="/srv/backups", format=ArchiveFormat.ZIP)
    for event in handle.watch():
        print(event.kind, event.sequence)
    print(handle.result().output_files)

Dropping a watch never stops a task; only `cancel` does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, BinaryIO, Generic, TypeVar, cast

from holdfast.connection import Connection
from holdfast.convert import to_number, to_task, to_timestamp
from holdfast.download import Download, OnBytes, download_to_file, download_to_path
from holdfast.enums import TaskKind, TaskOrigin, TaskState
from holdfast.errors import ProtocolError, TaskCancelled, TaskFailed
from holdfast.models import Event, LogLine, Task, TaskProblem, TaskResult
from holdfast.pages import pages
from holdfast.retry import OnBreak
from holdfast.v1 import task_pb2, task_service_pb2
from holdfast.watch import follow_all, follow_log, follow_task

__all__ = ["TaskHandle", "Tasks"]

R = TypeVar("R", bound=TaskResult)


class TaskHandle(Generic[R]):
    """One task. `task` is the state last seen; `refresh`, `watch`, `result` and `cancel` bring it up to date."""

    def __init__(self, connection: Connection, task: Task) -> None:
        self._connection = connection
        self.task = task

    def __repr__(self) -> str:
        return f"TaskHandle({self.task_id!r}, {self.task.state})"

    @property
    def task_id(self) -> str:
        return self.task.task_id

    def refresh(self) -> Task:
        """Ask for the present state."""
        request = task_service_pb2.GetTaskRequest(task_id=self.task_id)
        self.task = to_task(self._connection.call(self._connection.tasks.GetTask, request))
        return self.task

    def watch(
        self, after_sequence: int | None = None, *, timeout: float | None = None, on_break: OnBreak | None = None
    ) -> Iterator[Event]:
        """Events up to and with the end state, each once, also across broken connections and restarts of the server.

        Without `after_sequence` the first is RESET with the whole task; with it, the event that follows. HEARTBEAT
        events come in quiet times. `on_break(error, delay)` is called when the stream broke and is tried again.
        Raises ProtocolError if the server breaks the order of events, ConnectionFailed if it stays away for two
        minutes, DeadlineExceeded after `timeout` seconds; the task goes on in every case.
        """
        for event in follow_task(self._connection, self.task_id, after_sequence, timeout=timeout, on_break=on_break):
            if event.task is not None:
                self.task = event.task
            yield event

    def wait(self, timeout: float | None = None) -> Task:
        """Wait for the end, whichever it is. Raises DeadlineExceeded after `timeout` seconds."""
        if not self.task.ended:
            for _ in self.watch(timeout=timeout):
                pass
        return self.task

    def result(self, timeout: float | None = None) -> R:
        """Wait for the end and return what came of it, also when it COMPLETED_WITH_WARNINGS (see `task`).

        Raises TaskFailed or TaskCancelled, each with the task; DeadlineExceeded after `timeout` seconds.
        """
        task = self.wait(timeout)
        if task.state is TaskState.FAILED:
            raise TaskFailed(task)
        if task.state is TaskState.CANCELLED:
            raise TaskCancelled(task)
        if task.result is None:
            raise ProtocolError(f"task {task.task_id} ended {task.state} without a result")
        return cast("R", task.result)

    def cancel(self) -> Task:
        """Tell it to stop and undo its work. Cancelling twice, or a task that has ended, is no error."""
        request = task_service_pb2.CancelTaskRequest(task_id=self.task_id)
        self.task = to_task(self._connection.call(self._connection.tasks.CancelTask, request))
        return self.task

    def resume(self) -> Task:
        """Begin a new attempt of an export of coins that FAILED with EXPORT_UNPUBLISHED; watch it as any task.

        Nothing happens to a task that has not ended. Raises FailedPrecondition/TASK_ENDED for any other end.
        """
        request = task_service_pb2.ResumeTaskRequest(task_id=self.task_id)
        self.task = to_task(self._connection.call(self._connection.tasks.ResumeTask, request))
        return self.task

    def log(self, *, from_line: int = 1, follow: bool = False, on_break: OnBreak | None = None) -> Iterator[LogLine]:
        """Lines of its log from `from_line` on; with `follow` until it has ended."""
        return follow_log(self._connection, self.task_id, from_line, follow=follow, on_break=on_break)

    def problems(self, *, source_id: str = "", page_size: int = 0) -> Iterator[TaskProblem]:
        """What it met and went on after, by number."""
        request = task_service_pb2.ListTaskProblemsRequest(
            task_id=self.task_id, source_id=source_id, page_size=page_size
        )
        return pages(self._connection, self._connection.tasks.ListTaskProblems, request, "problems", TaskProblem)


class Tasks:
    """`client.tasks`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, task_id: str) -> TaskHandle[TaskResult]:
        """A handle on a present task. Raises NotFound/TASK_NOT_FOUND."""
        request = task_service_pb2.GetTaskRequest(task_id=task_id)
        return TaskHandle(self._connection, to_task(self._connection.call(self._connection.tasks.GetTask, request)))

    def list(
        self,
        *,
        source_id: str = "",
        kinds: Iterable[TaskKind] = (),
        states: Iterable[TaskState] = (),
        origin: TaskOrigin | None = None,
        create_time_after: datetime | None = None,
        create_time_before: datetime | None = None,
        page_size: int = 0,
    ) -> Iterator[Task]:
        """All tasks that match, newest first."""
        request = task_service_pb2.ListTasksRequest(
            page_size=page_size,
            source_id=source_id,
            kinds=[to_number(task_pb2.TaskKind, kind) for kind in kinds],
            states=[to_number(task_pb2.TaskState, state) for state in states],
            origin=to_number(task_pb2.TaskOrigin, origin),
            create_time_after=to_timestamp(create_time_after),
            create_time_before=to_timestamp(create_time_before),
        )
        return pages(self._connection, self._connection.tasks.ListTasks, request, "tasks", to_task)

    def problems(self, task_id: str, *, source_id: str = "") -> Iterator[TaskProblem]:
        """See `TaskHandle.problems`."""
        request = task_service_pb2.ListTaskProblemsRequest(task_id=task_id, source_id=source_id)
        return pages(self._connection, self._connection.tasks.ListTaskProblems, request, "problems", TaskProblem)

    def watch(
        self,
        task_id: str,
        after_sequence: int | None = None,
        *,
        timeout: float | None = None,
        on_break: OnBreak | None = None,
    ) -> Iterator[Event]:
        """See `TaskHandle.watch`."""
        return follow_task(self._connection, task_id, after_sequence, timeout=timeout, on_break=on_break)

    def watch_all(
        self, *, source_ids: Iterable[str] = (), kinds: Iterable[TaskKind] = (), on_break: OnBreak | None = None
    ) -> Iterator[Event]:
        """Events of every task that matches, without end: first one RESET per live task, new tasks as they come.

        After a broken connection tasks may give RESET again; one that ended meanwhile gives RESET in its end state.
        """
        return follow_all(self._connection, source_ids, kinds, on_break=on_break)

    def cancel(self, task_id: str) -> Task:
        """See `TaskHandle.cancel`."""
        request = task_service_pb2.CancelTaskRequest(task_id=task_id)
        return to_task(self._connection.call(self._connection.tasks.CancelTask, request))

    def resume(self, task_id: str) -> TaskHandle[TaskResult]:
        """See `TaskHandle.resume`."""
        request = task_service_pb2.ResumeTaskRequest(task_id=task_id)
        return TaskHandle(self._connection, to_task(self._connection.call(self._connection.tasks.ResumeTask, request)))

    def log(
        self, task_id: str, *, from_line: int = 1, follow: bool = False, on_break: OnBreak | None = None
    ) -> Iterator[LogLine]:
        """See `TaskHandle.log`."""
        return follow_log(self._connection, task_id, from_line, follow=follow, on_break=on_break)

    def download_log(
        self, task_id: str, target: str | os.PathLike[str] | BinaryIO | None = None, *, on_bytes: OnBytes | None = None
    ) -> Download:
        """The log as text into a file, a folder (None: the current one) or an open binary file. Replaces nothing."""
        connection = self._connection

        def open_at(offset: int) -> AbstractContextManager[Iterator[Any]]:
            request = task_service_pb2.DownloadTaskLogRequest(task_id=task_id, offset=offset)
            return connection.stream(connection.tasks.DownloadTaskLog, request)

        if target is None or isinstance(target, str | os.PathLike):
            return download_to_path(connection, open_at, target, task_id, on_bytes)
        return download_to_file(connection, open_at, target, on_bytes)
