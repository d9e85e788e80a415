"""RestoreService: putting a backup's files back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc

from holdfast.v1 import restore_pb2, restore_service_pb2_grpc, task_pb2
from holdfast.v1 import restore_service_pb2 as pb
from holdfast_server.catalog.rows import TaskRow
from holdfast_server.errors import invalid_field
from holdfast_server.rpc.convert import task_message
from holdfast_server.rpc.interceptors import current_principal
from holdfast_server.rpc.parse import (
    enum_name,
    parse_credentials,
    parse_path,
    parse_relative,
    refuse_unbuilt,
    request_key,
)
from holdfast_server.rpc.services import Services
from holdfast_server.rpc.watching import stream_task
from holdfast_server.tasks.restore import RestoreOrder

__all__ = ["RestoreServicer"]


class RestoreServicer(restore_service_pb2_grpc.RestoreServiceServicer):
    """Parses, calls, converts. Calls not overridden here are refused by name."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def RestoreBackup(self, request: pb.RestoreBackupRequest, context: grpc.ServicerContext) -> task_pb2.Task:
        del context
        return task_message(self._create(request))

    def RunRestore(self, request: pb.RunRestoreRequest, context: grpc.ServicerContext) -> Iterator[task_pb2.TaskEvent]:
        row = self._create(request)
        context.send_initial_metadata((("holdfast-task-id", row.task_id),))
        yield from stream_task(self._services, row.task_id, None, context)

    def _create(self, request: Any) -> TaskRow:
        refuse_unbuilt(request, "in_place", "new_wallet", "overwrite", "delete_extra", "exchange_root")
        if request.WhichOneof("target") is None:
            raise invalid_field("new_folder", "must be set: where do the files go?")
        policy = enum_name(restore_pb2.Overwrite, request.overwrite, "overwrite", default="IF_CHANGED")
        order = RestoreOrder(
            backup_id=request.backup_id,
            folder=parse_path(request.new_folder.folder, "new_folder.folder"),
            create_parents=request.new_folder.create_parents,
            paths=tuple(parse_relative(path, f"paths[{index}]") for index, path in enumerate(request.paths)),
            dry_run=request.dry_run,
        )
        key = request_key(request, "RestoreBackup", current_principal().name, {"overwrite": policy})
        return self._services.restores.create(order, current_principal().name, key, parse_credentials(request))
