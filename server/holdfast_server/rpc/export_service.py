"""ExportService: coins and backups as portable files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc

from holdfast.v1 import backup_pb2, export_pb2, export_service_pb2_grpc, task_pb2
from holdfast.v1 import export_service_pb2 as pb
from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.catalog.rows import TaskRow
from holdfast_server.rpc.convert import task_message
from holdfast_server.rpc.interceptors import current_principal
from holdfast_server.rpc.parse import (
    enum_name,
    not_available,
    parse_credentials,
    parse_path,
    parse_relative,
    request_key,
)
from holdfast_server.rpc.services import Services
from holdfast_server.rpc.watching import stream_task
from holdfast_server.tasks.export import ExportOrder
from holdfast_server.tasks.export_coins_orders import ExportCoinsOrder
from holdfast_server.wallets.packing import CoinForm

__all__ = ["ExportServicer"]


class ExportServicer(export_service_pb2_grpc.ExportServiceServicer):
    """Parses, calls, converts. Calls not overridden here are refused by name."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def ExportCoins(self, request: pb.ExportCoinsRequest, context: grpc.ServicerContext) -> task_pb2.Task:
        del context
        return task_message(self._export_coins(request))

    def RunExportCoins(
        self, request: pb.RunExportCoinsRequest, context: grpc.ServicerContext
    ) -> Iterator[task_pb2.TaskEvent]:
        row = self._export_coins(request)
        context.send_initial_metadata((("holdfast-task-id", row.task_id),))
        yield from stream_task(self._services, row.task_id, None, context)

    def ExportBackup(self, request: pb.ExportBackupRequest, context: grpc.ServicerContext) -> task_pb2.Task:
        del context
        return task_message(self._create(request))

    def RunExportBackup(
        self, request: pb.RunExportBackupRequest, context: grpc.ServicerContext
    ) -> Iterator[task_pb2.TaskEvent]:
        row = self._create(request)
        context.send_initial_metadata((("holdfast-task-id", row.task_id),))
        yield from stream_task(self._services, row.task_id, None, context)

    def _export_coins(self, request: Any) -> TaskRow:
        form = enum_name(export_pb2.CoinFileFormat, request.format, "format")
        has_template = request.HasField("png_template")
        order = ExportCoinsOrder(
            source_id=request.source_id,
            amount=request.amount,
            folder=parse_path(request.folder, "folder"),
            form=CoinForm[form],
            create_folder=request.create_folder,
            tag=request.tag,
            template=parse_path(request.png_template, "png_template") if has_template else None,
            recipients=tuple(request.age_recipients),
            dry_run=request.dry_run,
        )
        principal = current_principal().name
        key = request_key(request, "ExportCoins", principal, {})
        credentials = parse_credentials(request, accepted=["wallet_password"])
        return self._services.coin_exports.create(order, principal, key, credentials)

    def _create(self, request: Any) -> TaskRow:
        name = enum_name(backup_pb2.ArchiveFormat, request.format, "format")
        if name not in ArchiveFormat.__members__:
            raise not_available("format", f"format {name} is not available in this version")
        order = ExportOrder(
            backup_id=request.backup_id,
            folder=parse_path(request.folder, "folder"),
            format=ArchiveFormat[name],
            create_folder=request.create_folder,
            tag=request.tag,
            recipients=tuple(request.age_recipients),
            paths=tuple(parse_relative(path, f"paths[{index}]") for index, path in enumerate(request.paths)),
            dry_run=request.dry_run,
        )
        key = request_key(request, "ExportBackup", current_principal().name, {})
        credentials = parse_credentials(request, accepted=("age_identity", "passphrase", "private_key"))
        return self._services.exports.create(order, current_principal().name, key, credentials)
