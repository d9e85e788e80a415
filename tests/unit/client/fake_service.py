"""A server of the API in memory, over a real socket, that can be told to misbehave.

Errors are made by the server's own `rpc.errors`, so that the client is tested against what really travels.
"""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from holdfast.v1 import (
    backup_pb2,
    backup_service_pb2,
    backup_service_pb2_grpc,
    download_pb2,
    restore_service_pb2_grpc,
    source_pb2,
    source_service_pb2,
    source_service_pb2_grpc,
    task_pb2,
    task_service_pb2,
    task_service_pb2_grpc,
)
from holdfast_server.errors import HoldfastError, NotFound, Reason, Unauthenticated
from holdfast_server.rpc.errors import abort

TOKEN = "hf_test"
ENDS = (
    task_pb2.TASK_STATE_COMPLETED,
    task_pb2.TASK_STATE_COMPLETED_WITH_WARNINGS,
    task_pb2.TASK_STATE_FAILED,
    task_pb2.TASK_STATE_CANCELLED,
)


def stamp(seconds: int = 1_750_000_000) -> Timestamp:
    return Timestamp(seconds=seconds)


class FakeTask:
    """A task with its journal. `state`, `progress` and `warn` add an event each."""

    def __init__(self, kind: int = task_pb2.TASK_KIND_BACKUP, source_ids: tuple[str, ...] = ("default",)) -> None:
        self.changed = threading.Condition()
        self.journal: list[task_pb2.TaskEvent] = []
        self.log: list[str] = []
        self.problems: list[task_pb2.TaskProblem] = []
        self.task = task_pb2.Task(
            task_id=str(uuid.uuid4()),
            kind=kind,
            origin=task_pb2.TASK_ORIGIN_MANUAL,
            source_ids=source_ids,
            source_count=len(source_ids),
            create_time=stamp(),
            maintenance_state=task_pb2.MAINTENANCE_STATE_NONE,
        )
        self.state(task_pb2.TASK_STATE_PENDING)

    @property
    def task_id(self) -> str:
        return self.task.task_id

    @property
    def ended(self) -> bool:
        return self.task.state in ENDS

    def state(self, state: int, **fields: Any) -> None:
        with self.changed:
            self.task.MergeFrom(task_pb2.Task(state=state, **fields))
            if state in ENDS:
                self.task.end_time.CopyFrom(stamp(1_750_000_060))
            self._add(kind=task_pb2.TASK_EVENT_KIND_STATE, task=self.task)

    def progress(self, percent: float, skipped: int = 0, **fields: Any) -> None:
        progress = task_pb2.Progress(
            percent=percent,
            phase="store",
            original_size=int(percent * 1024),
            total_size=102400,
            files=int(percent),
            total_files=100,
            current_file=f"data/file-{percent:.0f}",
            bytes_per_second=5 << 20,
            eta_low=Duration(seconds=5),
            eta_high=Duration(seconds=9),
            **fields,
        )
        with self.changed:
            self.task.progress.CopyFrom(progress)
            self.task.revision += skipped
            self._add(kind=task_pb2.TASK_EVENT_KIND_PROGRESS, progress=progress, skipped=skipped)

    def warn(self, path: str) -> None:
        problem = task_pb2.TaskProblem(
            number=len(self.problems) + 1,
            source_id="default",
            path=path,
            reason="SOURCE_UNREADABLE",
            message=f"{path} cannot be read",
            time=stamp(),
        )
        with self.changed:
            self.problems.append(problem)
            self.task.warning_count += 1
            warning = task_pb2.TaskWarning(problem=problem, warning_count=self.task.warning_count)
            self._add(kind=task_pb2.TASK_EVENT_KIND_WARNING, warning=warning)

    def say(self, text: str) -> None:
        with self.changed:
            self.log.append(text)
            self.task.log_lines = len(self.log)
            self.changed.notify_all()

    def _add(self, **fields: Any) -> None:
        self.task.revision += 1
        event = task_pb2.TaskEvent(
            task_id=self.task_id, sequence=self.task.revision, time=stamp(1_750_000_000 + self.task.revision), **fields
        )
        if event.HasField("task"):
            event.task.revision = self.task.revision
        self.journal.append(event)
        self.changed.notify_all()


class FakeService(
    source_service_pb2_grpc.SourceServiceServicer,
    backup_service_pb2_grpc.BackupServiceServicer,
    restore_service_pb2_grpc.RestoreServiceServicer,
    task_service_pb2_grpc.TaskServiceServicer,
):
    """The services. `enter` is passed by every call.

    `failures`: raised by the next calls, None lets one pass. `breaks`: after how many events the next watches are
    killed, and how. `corrupt_watch`: changes events on their way.
    """

    def __init__(self) -> None:
        self.sources: dict[str, source_pb2.Source] = {}
        self.backups: dict[str, backup_pb2.Backup] = {}
        self.content: dict[str, bytes] = {}
        self.digests: dict[str, str] = {}
        self.tasks: dict[str, FakeTask] = {}
        self.requests: dict[str, FakeTask] = {}
        self.calls: list[tuple[str, Any]] = []
        self.failures: list[HoldfastError | None] = []
        self.breaks: list[tuple[int, grpc.StatusCode | None]] = []
        self.download_breaks: list[int] = []
        self.on_create: Any = None
        self.corrupt_watch: Any = None
        self.resumable = True

    # -- shared
    # ---------------------------------------------------------------------------------------------------------

    def enter(self, name: str, request: Any, context: grpc.ServicerContext) -> None:
        self.calls.append((name, request))
        metadata = dict(context.invocation_metadata())
        context.set_trailing_metadata((("holdfast-request-id", "call-1"),))
        if metadata.get("authorization") != f"Bearer {TOKEN}":
            abort(context, Unauthenticated(Reason.BAD_CREDENTIALS, "the token is not valid"))
        if self.failures:
            failure = self.failures.pop(0)
            if failure is not None:
                abort(context, failure)

    def find(self, task_id: str, context: grpc.ServicerContext) -> FakeTask:
        if task_id not in self.tasks:
            abort(
                context,
                NotFound(Reason.TASK_NOT_FOUND, f"task {task_id} does not exist", metadata={"task_id": task_id}),
            )
        return self.tasks[task_id]

    def add_task(self, task: FakeTask) -> FakeTask:
        self.tasks[task.task_id] = task
        return task

    def add_backup(self, content: bytes, source_id: str = "default", task_id: str = "") -> str:
        backup_id = str(uuid.uuid4())
        digest = hashlib.sha256(content).hexdigest()
        self.content[backup_id] = content
        self.digests[backup_id] = digest
        self.backups[backup_id] = backup_pb2.Backup(
            backup_id=backup_id,
            name="Default 2025-06-15",
            source_id=source_id,
            kind=backup_pb2.BACKUP_KIND_ARCHIVE,
            state=backup_pb2.BACKUP_STATE_COMPLETED,
            size=len(content),
            sha256=digest,
            storage_path=f"/srv/backups/{source_id}.zip",
            create_time=stamp(),
            complete_time=stamp(1_750_000_060),
            task_id=task_id,
            complete=True,
            format=backup_pb2.ARCHIVE_FORMAT_ZIP,
        )
        return backup_id

    # -- SourceService
    # --------------------------------------------------------------------------------------------------

    def RegisterSource(self, request: Any, context: Any) -> Any:
        self.enter("RegisterSource", request, context)
        source_id = request.source_id or request.path.rsplit("/", 1)[-1].lower()
        self.sources[source_id] = source_pb2.Source(
            source_id=source_id,
            kind=request.kind or source_pb2.SOURCE_KIND_DIRECTORY,
            display_name=request.display_name or source_id,
            path=request.path,
            state=source_pb2.SOURCE_STATE_ACTIVE,
            ignore=request.ignore,
            create_time=stamp(),
            update_time=stamp(),
        )
        skipped = []
        if request.discover_wallets:
            skipped = [source_pb2.SkippedFolder(path=request.path + "/x", reason="NOT_A_WALLET", message="no Bank")]
        return source_service_pb2.RegisterSourceResponse(sources=[self.sources[source_id]], skipped=skipped)

    def GetSource(self, request: Any, context: Any) -> Any:
        self.enter("GetSource", request, context)
        if request.source_id not in self.sources:
            abort(
                context,
                NotFound(
                    Reason.SOURCE_NOT_FOUND,
                    f"source {request.source_id} does not exist",
                    metadata={"source_id": request.source_id},
                ),
            )
        return self.sources[request.source_id]

    def ListSources(self, request: Any, context: Any) -> Any:
        self.enter("ListSources", request, context)
        ids = sorted(self.sources)
        begin = int(request.page_token or 0)
        end = begin + (request.page_size or 50)
        return source_service_pb2.ListSourcesResponse(
            sources=[self.sources[i] for i in ids[begin:end]], next_page_token=str(end) if end < len(ids) else ""
        )

    def UpdateSource(self, request: Any, context: Any) -> Any:
        self.enter("UpdateSource", request, context)
        source = self.sources[request.source_id]
        if request.HasField("suspended"):
            names = source_pb2.SourceState
            source.state = names.SOURCE_STATE_SUSPENDED if request.suspended else names.SOURCE_STATE_ACTIVE
        if request.HasField("display_name"):
            source.display_name = request.display_name
        return source

    def UnregisterSource(self, request: Any, context: Any) -> Any:
        self.enter("UnregisterSource", request, context)
        self.sources.pop(request.source_id)
        return source_service_pb2.UnregisterSourceResponse(backups_kept=2)

    # -- BackupService and RestoreService
    # -------------------------------------------------------------------------------

    def _create(self, name: str, kind: int, request: Any, context: Any) -> Any:
        self.enter(name, request, context)
        task = self.requests.get(request.request_id)
        if task is None:
            task = self.requests[request.request_id] = self.add_task(FakeTask(kind))
            if self.on_create is not None:
                threading.Thread(target=self.on_create, args=(task,), daemon=True).start()
        return task.task

    def CreateBackup(self, request: Any, context: Any) -> Any:
        return self._create("CreateBackup", task_pb2.TASK_KIND_BACKUP, request, context)

    def VerifyBackup(self, request: Any, context: Any) -> Any:
        return self._create("VerifyBackup", task_pb2.TASK_KIND_VERIFY, request, context)

    def RestoreBackup(self, request: Any, context: Any) -> Any:
        return self._create("RestoreBackup", task_pb2.TASK_KIND_RESTORE, request, context)

    def GetBackup(self, request: Any, context: Any) -> Any:
        self.enter("GetBackup", request, context)
        if request.backup_id not in self.backups:
            abort(context, NotFound(Reason.BACKUP_NOT_FOUND, f"backup {request.backup_id} does not exist"))
        return self.backups[request.backup_id]

    def UpdateBackup(self, request: Any, context: Any) -> Any:
        self.enter("UpdateBackup", request, context)
        backup = self.backups[request.backup_id]
        if request.HasField("name"):
            backup.name = request.name
        if request.HasField("locked"):
            backup.locked = request.locked
        return backup

    def DeleteBackup(self, request: Any, context: Any) -> Any:
        self.enter("DeleteBackup", request, context)
        backup = self.backups[request.backup_id]
        backup.delete_time.CopyFrom(stamp())
        backup.purge_time.CopyFrom(stamp(1_750_086_400))
        return backup

    def UndeleteBackup(self, request: Any, context: Any) -> Any:
        self.enter("UndeleteBackup", request, context)
        backup = self.backups[request.backup_id]
        backup.ClearField("delete_time")
        backup.ClearField("purge_time")
        return backup

    def ListBackups(self, request: Any, context: Any) -> Any:
        self.enter("ListBackups", request, context)
        found = [
            backup
            for backup in self.backups.values()
            if (not request.task_id or backup.task_id == request.task_id)
            and (not request.source_id or backup.source_id == request.source_id)
            and (request.show_deleted or not backup.HasField("delete_time"))
        ]
        return backup_service_pb2.ListBackupsResponse(backups=found)

    def DownloadBackup(self, request: Any, context: Any) -> Iterator[Any]:
        self.enter("DownloadBackup", request, context)
        content = self.content[request.backup_id]
        if request.offset > len(content):
            from holdfast_server.errors import invalid_field

            abort(context, invalid_field("offset", "is past the end"))
        header = download_pb2.DownloadPart.Header(
            file_name="default.zip", size=len(content), content_type="application/zip"
        )
        yield download_pb2.DownloadPart(header=header)
        limit = self.download_breaks.pop(0) if self.download_breaks else None
        for begin in range(request.offset, len(content), 1000):
            if limit is not None and begin >= limit:
                context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            chunk = download_pb2.DownloadPart.Chunk(offset=begin, data=content[begin : begin + 1000])
            yield download_pb2.DownloadPart(chunk=chunk)
        yield download_pb2.DownloadPart(digest=download_pb2.DownloadPart.Digest(sha256=self.digests[request.backup_id]))

    # -- TaskService
    # ----------------------------------------------------------------------------------------------------

    def GetTask(self, request: Any, context: Any) -> Any:
        self.enter("GetTask", request, context)
        return self.find(request.task_id, context).task

    def ListTasks(self, request: Any, context: Any) -> Any:
        self.enter("ListTasks", request, context)
        return task_service_pb2.ListTasksResponse(tasks=[task.task for task in self.tasks.values()])

    def ListTaskProblems(self, request: Any, context: Any) -> Any:
        self.enter("ListTaskProblems", request, context)
        return task_service_pb2.ListTaskProblemsResponse(problems=self.find(request.task_id, context).problems)

    def CancelTask(self, request: Any, context: Any) -> Any:
        self.enter("CancelTask", request, context)
        task = self.find(request.task_id, context)
        if not task.ended:
            task.task.cancel_requested = True
            task.state(task_pb2.TASK_STATE_CANCELLING)
            cleanup = task_pb2.Cleanup(files_removed=1, bytes_freed=2048, worker_stopped=True)
            task.state(task_pb2.TASK_STATE_CANCELLED, cleanup=cleanup)
        return task.task

    def WatchTask(self, request: Any, context: Any) -> Iterator[Any]:
        self.enter("WatchTask", request, context)
        task = self.find(request.task_id, context)
        limit, how = self.breaks.pop(0) if self.breaks else (None, None)
        for sent, event in enumerate(self._watch(request, task, context)):
            if limit is not None and sent >= limit:
                if how is None:
                    return
                context.abort(how, "Stream removed")
            yield self.corrupt_watch(event) if self.corrupt_watch else event

    def _watch(self, request: Any, task: FakeTask, context: Any) -> Iterator[Any]:
        if request.HasField("after_sequence"):
            cursor = request.after_sequence
        else:
            with task.changed:
                cursor = task.task.revision
                yield self._whole(task, task_pb2.TASK_EVENT_KIND_RESET)
        if task.ended and cursor >= task.task.revision:
            yield self._whole(task, task_pb2.TASK_EVENT_KIND_STATE)
            return
        while context.is_active():
            with task.changed:
                task.changed.wait_for(lambda after=cursor: task.task.revision > after, 0.1)
                events = [event for event in task.journal if event.sequence > cursor]
            for recorded in events:
                event = task_pb2.TaskEvent()
                event.CopyFrom(recorded)
                event.skipped = event.sequence - cursor - 1
                yield event
                cursor = event.sequence
                if event.HasField("task") and event.task.state in ENDS:
                    return

    def _whole(self, task: FakeTask, kind: int) -> Any:
        return task_pb2.TaskEvent(
            task_id=task.task_id, sequence=task.task.revision, time=stamp(), kind=kind, task=task.task
        )

    def WatchTasks(self, request: Any, context: Any) -> Iterator[Any]:
        self.enter("WatchTasks", request, context)
        limit, how = self.breaks.pop(0) if self.breaks else (None, None)
        sent = 0
        cursors: dict[str, int] = {}
        for task in list(self.tasks.values()):
            if not task.ended:
                cursors[task.task_id] = task.task.revision
                yield self._whole(task, task_pb2.TASK_EVENT_KIND_RESET)
            else:
                cursors[task.task_id] = 1 << 60
        yield task_pb2.TaskEvent(kind=task_pb2.TASK_EVENT_KIND_HEARTBEAT)
        pause = threading.Event()
        while context.is_active():
            for task in list(self.tasks.values()):
                for event in [e for e in task.journal if e.sequence > cursors.get(task.task_id, 0)]:
                    if limit is not None and sent >= limit:
                        context.abort(how, "Stream removed")
                    yield event
                    sent += 1
                    cursors[task.task_id] = event.sequence
            pause.wait(0.02)

    def StreamTaskLog(self, request: Any, context: Any) -> Iterator[Any]:
        self.enter("StreamTaskLog", request, context)
        task = self.find(request.task_id, context)
        line = max(request.from_line, 1)
        limit, how = self.breaks.pop(0) if self.breaks else (None, None)
        sent = 0
        while context.is_active():
            with task.changed:
                task.changed.wait_for(lambda at=line: len(task.log) >= at or task.ended, 0.1)
                lines = task.log[line - 1 :]
                ended = task.ended
            for number, text in enumerate(lines, line):
                if limit is not None and sent >= limit:
                    context.abort(how, "Stream removed")
                one = task_pb2.TaskLogLine(line_number=number, time=stamp(), level=task_pb2.LOG_LEVEL_INFO, text=text)
                yield task_pb2.TaskLogChunk(lines=[one], total_lines=len(task.log))
                sent += 1
            line += len(lines)
            if ended or not request.follow:
                yield task_pb2.TaskLogChunk(total_lines=len(task.log), ended=ended)
                return

    def DownloadTaskLog(self, request: Any, context: Any) -> Iterator[Any]:
        self.enter("DownloadTaskLog", request, context)
        text = "".join(line + "\n" for line in self.find(request.task_id, context).log).encode()
        yield download_pb2.DownloadPart(header=download_pb2.DownloadPart.Header(file_name="task.log", size=len(text)))
        if text[request.offset :]:
            chunk = download_pb2.DownloadPart.Chunk(offset=request.offset, data=text[request.offset :])
            yield download_pb2.DownloadPart(chunk=chunk)
        digest = download_pb2.DownloadPart.Digest(sha256=hashlib.sha256(text).hexdigest())
        yield download_pb2.DownloadPart(digest=digest)


class FakeServer:
    """The service on a loopback port that outlives `stop` and `start`."""

    def __init__(self, service: FakeService) -> None:
        self.service = service
        self.port = 0
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self.server = grpc.server(
            ThreadPoolExecutor(max_workers=16),
            options=(("grpc.so_reuseport", 0), ("grpc.http2.min_ping_interval_without_data_ms", 5000)),
        )
        source_service_pb2_grpc.add_SourceServiceServicer_to_server(self.service, self.server)
        backup_service_pb2_grpc.add_BackupServiceServicer_to_server(self.service, self.server)
        restore_service_pb2_grpc.add_RestoreServiceServicer_to_server(self.service, self.server)
        task_service_pb2_grpc.add_TaskServiceServicer_to_server(self.service, self.server)
        self.health = health.HealthServicer()
        for name in ("", "holdfast.v1.SourceService", "holdfast.v1.BackupService"):
            self.health.set(name, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        self.server.start()

    def stop(self) -> None:
        self.server.stop(0).wait()
