"""Which services are served. A service stands here once one of its calls works; the rest answers NOT_AVAILABLE."""

from __future__ import annotations

from typing import Any

import grpc

from holdfast.v1 import (
    access_service_pb2,
    backup_service_pb2,
    backup_service_pb2_grpc,
    export_service_pb2,
    export_service_pb2_grpc,
    repository_service_pb2,
    repository_service_pb2_grpc,
    restore_service_pb2,
    restore_service_pb2_grpc,
    schedule_service_pb2,
    source_service_pb2,
    source_service_pb2_grpc,
    task_service_pb2,
    task_service_pb2_grpc,
    wallet_service_pb2,
    wallet_service_pb2_grpc,
)
from holdfast_server.rpc.backup_service import BackupServicer
from holdfast_server.rpc.export_service import ExportServicer
from holdfast_server.rpc.repository_service import RepositoryServicer
from holdfast_server.rpc.restore_service import RestoreServicer
from holdfast_server.rpc.services import Services
from holdfast_server.rpc.source_service import SourceServicer
from holdfast_server.rpc.task_service import TaskServicer
from holdfast_server.rpc.wallet_service import WalletServicer

__all__ = ["NOT_BUILT_FILES", "Services", "register_services"]

#: Files whose services may be unserved.
NOT_BUILT_FILES = tuple(
    module.DESCRIPTOR
    for module in (
        access_service_pb2,
        backup_service_pb2,
        export_service_pb2,
        repository_service_pb2,
        restore_service_pb2,
        schedule_service_pb2,
        source_service_pb2,
        task_service_pb2,
        wallet_service_pb2,
    )
)


def register_services(server: grpc.Server, services: Services) -> list[str]:
    """Add every servicer; gives the full names of their services."""
    served: dict[str, tuple[Any, object]] = {
        "Source": (source_service_pb2_grpc.add_SourceServiceServicer_to_server, SourceServicer(services)),
        "Backup": (backup_service_pb2_grpc.add_BackupServiceServicer_to_server, BackupServicer(services)),
        "Export": (export_service_pb2_grpc.add_ExportServiceServicer_to_server, ExportServicer(services)),
        "Restore": (restore_service_pb2_grpc.add_RestoreServiceServicer_to_server, RestoreServicer(services)),
        "Wallet": (wallet_service_pb2_grpc.add_WalletServiceServicer_to_server, WalletServicer(services)),
        "Repository": (
            repository_service_pb2_grpc.add_RepositoryServiceServicer_to_server,
            RepositoryServicer(services),
        ),
        "Task": (task_service_pb2_grpc.add_TaskServiceServicer_to_server, TaskServicer(services)),
    }
    for add, servicer in served.values():
        add(servicer, server)
    return [f"holdfast.v1.{name}Service" for name in served]
