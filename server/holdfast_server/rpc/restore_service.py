"""RestoreService: putting files back, of a backup or of any archive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
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
from holdfast_server.tasks.new_wallet import NewWallet
from holdfast_server.tasks.restore import RestoreOrder
from holdfast_server.tasks.restore_archive import ArchiveLimits, RestoreArchiveOrder

__all__ = ["RestoreServicer"]

#: What a restore of an archive can use: one opens it, the other the coins in it.
_SECRETS = ("age_identity", "wallet_password")
#: The two before open a sealed repository.
_BACKUP_SECRETS = ("passphrase", "private_key", *_SECRETS)


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

    def RestoreArchive(self, request: pb.RestoreArchiveRequest, context: grpc.ServicerContext) -> task_pb2.Task:
        del context
        principal = current_principal().name
        order = RestoreArchiveOrder(
            archive_path=parse_path(request.archive_path, "archive_path"),
            limits=_limits(request.limits),
            credentials=parse_credentials(request, _SECRETS),
            **_target_and_more(request),
        )
        key = request_key(request, "RestoreArchive", principal, {"limits": asdict(order.limits)})
        return task_message(self._services.archive_restores.create(order, principal, key))

    def _create(self, request: Any) -> TaskRow:
        refuse_unbuilt(request, "in_place", "overwrite", "delete_extra", "exchange_root")
        policy = enum_name(restore_pb2.Overwrite, request.overwrite, "overwrite", default="IF_CHANGED")
        order = RestoreOrder(backup_id=request.backup_id, **_target_and_more(request))
        key = request_key(request, "RestoreBackup", current_principal().name, {"overwrite": policy})
        credentials = parse_credentials(request, _BACKUP_SECRETS)
        return self._services.restores.create(order, current_principal().name, key, credentials)


def _target_and_more(request: Any) -> dict[str, Any]:
    """What both orders share: where the files go, which of them, and what is done with coins."""
    name = request.WhichOneof("target")
    if name is None:
        raise invalid_field("new_folder", "must be set: where do the files go?")
    target = getattr(request, name)
    wallet = None
    if name == "new_wallet":
        wallet = NewWallet(target.display_name, target.source_id if target.HasField("source_id") else None)
    return {
        "folder": parse_path(target.folder, f"{name}.folder"),
        "create_parents": target.create_parents,
        "paths": tuple(parse_relative(path, f"paths[{index}]") for index, path in enumerate(request.paths)),
        "dry_run": request.dry_run,
        "wallet": wallet,
        "decrypt": request.decrypt_coins if request.HasField("decrypt_coins") else None,
    }


def _limits(message: restore_pb2.ArchiveLimits) -> ArchiveLimits:
    return ArchiveLimits(**{field.name: value for field, value in message.ListFields()})
