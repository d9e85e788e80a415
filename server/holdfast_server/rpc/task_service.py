"""TaskService: seeing, watching, cancelling and resuming tasks."""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc

from holdfast.v1 import download_pb2, task_pb2, task_service_pb2_grpc
from holdfast.v1 import task_service_pb2 as pb
from holdfast_server.catalog import tasks
from holdfast_server.catalog.rows import LogRow, TaskRow
from holdfast_server.errors import Reason, Unavailable, invalid_field
from holdfast_server.rpc.convert import log_line_message, log_line_text, problem_message, task_message
from holdfast_server.rpc.download import text_parts
from holdfast_server.rpc.pages import cut_page, page_limit, page_start
from holdfast_server.rpc.parse import LARGEST, enum_name, parse_time, refuse_unbuilt
from holdfast_server.rpc.services import Services
from holdfast_server.rpc.watching import stream_all, stream_task

__all__ = ["TaskServicer"]

_LINES = 500
_FOLLOW_SECONDS = 0.2


class TaskServicer(task_service_pb2_grpc.TaskServiceServicer):
    """Parses, calls the engine and the pump, converts. Calls not overridden here are refused by name."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def GetTask(self, request: pb.GetTaskRequest, context: grpc.ServicerContext) -> task_pb2.Task:
        del context
        return self._shown(self._services.engine.get(request.task_id))

    def ListTasks(self, request: pb.ListTasksRequest, context: grpc.ServicerContext) -> pb.ListTasksResponse:
        del context
        refuse_unbuilt(request, "schedule_id")
        start = page_start(request, int, str)
        before = (start[0], start[1]) if start else None
        limit = page_limit(request.page_size) + 1
        with self._services.database.read() as connection:
            rows = tasks.list_tasks(connection, _filter(request), limit=limit, before=before)
        messages = [self._shown(self._services.engine.honest(row)) for row in rows]
        page, more = cut_page(request, rows, messages, lambda row: [row.create_time, row.task_id])
        return pb.ListTasksResponse(tasks=page, next_page_token=more)

    def ListTaskProblems(
        self, request: pb.ListTaskProblemsRequest, context: grpc.ServicerContext
    ) -> pb.ListTaskProblemsResponse:
        del context
        start = page_start(request, int)
        self._services.engine.get(request.task_id)
        with self._services.database.read() as connection:
            rows = tasks.list_problems(
                connection,
                request.task_id,
                start[0] if start else 0,
                page_limit(request.page_size) + 1,
                source_id=request.source_id or None,
            )
        page, more = cut_page(request, rows, [problem_message(row) for row in rows], lambda row: [row.number])
        return pb.ListTaskProblemsResponse(problems=page, next_page_token=more)

    def WatchTask(self, request: pb.WatchTaskRequest, context: grpc.ServicerContext) -> Iterator[task_pb2.TaskEvent]:
        after = request.after_sequence if request.HasField("after_sequence") else None
        yield from stream_task(self._services, request.task_id, after, context)

    def WatchTasks(self, request: pb.WatchTasksRequest, context: grpc.ServicerContext) -> Iterator[task_pb2.TaskEvent]:
        kinds = {enum_name(task_pb2.TaskKind, kind, "kinds") for kind in request.kinds}
        source_ids = set(request.source_ids)

        def wanted(row: TaskRow) -> bool:
            return (not kinds or row.kind in kinds) and (not source_ids or not source_ids.isdisjoint(row.source_ids))

        yield from stream_all(self._services, wanted, context)

    def CancelTask(self, request: pb.CancelTaskRequest, context: grpc.ServicerContext) -> task_pb2.Task:
        del context
        return self._shown(self._services.engine.cancel(request.task_id))

    def ResumeTask(self, request: pb.ResumeTaskRequest, context: grpc.ServicerContext) -> task_pb2.Task:
        del context
        return self._shown(self._services.coin_exports.resume(request.task_id))

    def StreamTaskLog(
        self, request: pb.StreamTaskLogRequest, context: grpc.ServicerContext
    ) -> Iterator[task_pb2.TaskLogChunk]:
        line = min(max(request.from_line, 1), LARGEST)
        while context.is_active():
            # The state is read before the lines: an ended task's log is complete.
            row = self._services.engine.get(request.task_id)
            lines = self._lines(request.task_id, line)
            line += len(lines)
            last = len(lines) < _LINES and (row.ended or not request.follow)
            if lines or last:
                yield task_pb2.TaskLogChunk(
                    lines=[log_line_message(one) for one in lines],
                    total_lines=max(row.log_lines, lines[-1].line_number if lines else 0),
                    ended=row.ended and last,
                )
            if last:
                return
            if self._services.pump.stopped:
                raise Unavailable(Reason.SHUTTING_DOWN, "the server shuts down", retry_after=1.0)
            if len(lines) < _LINES:
                time.sleep(_FOLLOW_SECONDS)

    def DownloadTaskLog(
        self, request: pb.DownloadTaskLogRequest, context: grpc.ServicerContext
    ) -> Iterator[download_pb2.DownloadPart]:
        del context
        refuse_unbuilt(request, "token")
        if request.WhichOneof("object") != "task_id":
            raise invalid_field("task_id", "must be set")
        row = self._services.engine.get(request.task_id)
        yield from text_parts(f"task-{row.task_id}.log", self._text(row.task_id), request.offset)

    def _text(self, task_id: str) -> Iterator[str]:
        line = 1
        while lines := self._lines(task_id, line):
            yield from (log_line_text(one) for one in lines)
            line += len(lines)

    def _lines(self, task_id: str, from_line: int) -> list[LogRow]:
        with self._services.database.read() as connection:
            return tasks.log_lines(connection, task_id, from_line, _LINES)

    def _shown(self, row: TaskRow) -> task_pb2.Task:
        with self._services.database.read() as connection:
            blockers, position = self._services.engine.blockers(connection, row)
        return task_message(row, blockers, position)


def _filter(request: pb.ListTasksRequest) -> tasks.TaskFilter:
    def time_of(field: str) -> int | None:
        return parse_time(getattr(request, field), field) if request.HasField(field) else None

    origin = enum_name(task_pb2.TaskOrigin, request.origin, "origin", default="")
    return tasks.TaskFilter(
        source_id=request.source_id or None,
        kinds=[enum_name(task_pb2.TaskKind, kind, "kinds") for kind in request.kinds],
        states=[enum_name(task_pb2.TaskState, state, "states") for state in request.states],
        origin=origin or None,
        created_after=time_of("create_time_after"),
        created_before=time_of("create_time_before"),
    )
