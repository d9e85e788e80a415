"""RepositoryService: repositories created, shown, unlocked and locked, proved and maintained; and their keys."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import grpc

from holdfast.v1 import backup_pb2, repository_pb2, repository_service_pb2_grpc, task_pb2
from holdfast.v1 import repository_service_pb2 as pb
from holdfast_server.core.new_repository import WantedSlot
from holdfast_server.errors import invalid_field
from holdfast_server.repository import CheckLevel
from holdfast_server.rpc.convert import task_message
from holdfast_server.rpc.interceptors import current_principal
from holdfast_server.rpc.pages import cut_page, page_limit, page_start
from holdfast_server.rpc.parse import (
    enum_name,
    not_available,
    parse_credentials,
    parse_path,
    parse_retention,
    parse_seconds,
    request_key,
)
from holdfast_server.rpc.repository_messages import key_message, receipt_message, repository_message
from holdfast_server.rpc.services import Services
from holdfast_server.tasks.maintenance_orders import PruneOrder
from holdfast_server.tasks.repositories import RepositoryOrder

__all__ = ["REPOSITORY_SECRETS", "RepositoryServicer"]

#: Kinds of credentials that open a repository's content.
REPOSITORY_SECRETS = ("passphrase", "private_key")

_USUAL_LEVEL = 3
_UNLOCK_SECONDS = 900
_LONGEST_UNLOCK = 3600
_PASSPHRASE_BYTES = range(8, 1025)
_KEY_FILE_BYTES = range(32, 65_537)
_LONGEST_NAME = 255
_OBJECT_STORE = re.compile(r"(s3|gs|az)://")


class RepositoryServicer(repository_service_pb2_grpc.RepositoryServiceServicer):
    """Parses, calls the registry, converts. Calls not overridden here are refused by name."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def CreateRepository(
        self, request: pb.CreateRepositoryRequest, context: grpc.ServicerContext
    ) -> pb.CreateRepositoryResponse:
        level = request.compression_level if request.HasField("compression_level") else _USUAL_LEVEL
        name = request.display_name or request.repository_id
        order = RepositoryOrder(
            repository_id=request.repository_id,
            display_name=name,
            location=_location(request.location),
            create_folder=request.create_folder,
            sealed=request.sealed,
            slots=tuple(_slot(key, f"keys[{index}]") for index, key in enumerate(request.keys)),
            compression_level=level,
        )
        defaults = {"display_name": name, "compression_level": level}
        key = request_key(request, "CreateRepository", current_principal().name, defaults)
        made = self._services.repositories.create(order, key, context.is_active)
        return pb.CreateRepositoryResponse(
            repository=repository_message(made.row, with_statistics=False), recovery_key=made.recovery_key
        )

    def GetRepository(
        self, request: pb.GetRepositoryRequest, context: grpc.ServicerContext
    ) -> repository_pb2.Repository:
        row, receipt = self._services.repositories.get(request.repository_id, context.is_active)
        message = repository_message(row)
        if receipt is not None:
            message.receipt.CopyFrom(receipt_message(receipt))
        return message

    def ListRepositories(
        self, request: pb.ListRepositoriesRequest, context: grpc.ServicerContext
    ) -> pb.ListRepositoriesResponse:
        del context
        start = page_start(request, str)
        limit = page_limit(request.page_size)
        rows = self._services.repositories.list(limit=limit + 1, after=start[0] if start else None)
        messages = [repository_message(row, with_statistics=False) for row in rows]
        page, more = cut_page(request, rows, messages, lambda row: [row.repository_id])
        return pb.ListRepositoriesResponse(repositories=page, next_page_token=more)

    def UnlockRepository(
        self, request: pb.UnlockRepositoryRequest, context: grpc.ServicerContext
    ) -> repository_pb2.Repository:
        seconds: float = _UNLOCK_SECONDS
        if request.HasField("ttl"):
            seconds = parse_seconds(request.ttl, "ttl", 1, _LONGEST_UNLOCK)
        credentials = parse_credentials(request, accepted=REPOSITORY_SECRETS)
        row = self._services.repositories.unlock(request.repository_id, credentials, seconds, context.is_active)
        return repository_message(row, with_statistics=False)

    def LockRepository(
        self, request: pb.LockRepositoryRequest, context: grpc.ServicerContext
    ) -> repository_pb2.Repository:
        del context
        return repository_message(self._services.repositories.lock(request.repository_id), with_statistics=False)

    def CheckRepository(self, request: pb.CheckRepositoryRequest, context: grpc.ServicerContext) -> task_pb2.Task:
        del context
        name = enum_name(backup_pb2.VerifyLevel, request.level, "level", default="READ_DATA")
        if name not in CheckLevel.__members__:
            raise not_available("level", f"level {name} is not available in this version")
        percent = request.percent if request.HasField("percent") else 100
        principal = current_principal().name
        key = request_key(request, "CheckRepository", principal, {"level": name, "percent": percent})
        credentials = parse_credentials(request, accepted=REPOSITORY_SECRETS)
        return task_message(
            self._services.checks.create(
                request.repository_id, CheckLevel[name], percent, principal, key, credentials=credentials
            )
        )

    def PruneRepository(self, request: pb.PruneRepositoryRequest, context: grpc.ServicerContext) -> task_pb2.Task:
        del context
        if not request.HasField("retention"):
            raise invalid_field("retention", "must be set; one without any rule only frees what nothing needs")
        order = PruneOrder(
            repository_id=request.repository_id,
            policy=parse_retention(request.retention),
            source_ids=tuple(request.source_ids),
            dry_run=request.dry_run,
        )
        principal = current_principal().name
        key = request_key(request, "PruneRepository", principal, {})
        return task_message(self._services.maintenance.prune(order, principal, key))

    def CompactRepository(self, request: pb.CompactRepositoryRequest, context: grpc.ServicerContext) -> task_pb2.Task:
        del context
        principal = current_principal().name
        key = request_key(request, "CompactRepository", principal, {})
        maintenance = self._services.maintenance
        return task_message(maintenance.compact(request.repository_id, principal, key, dry_run=request.dry_run))

    def RepairRepository(self, request: pb.RepairRepositoryRequest, context: grpc.ServicerContext) -> task_pb2.Task:
        del context
        principal = current_principal().name
        key = request_key(request, "RepairRepository", principal, {})
        credentials = parse_credentials(request, accepted=REPOSITORY_SECRETS)
        return task_message(
            self._services.maintenance.repair(
                request.repository_id,
                principal,
                key,
                dry_run=request.dry_run,
                credentials=credentials,
                lost=request.lost_backup_ids,
            )
        )

    def AddKey(self, request: pb.AddKeyRequest, context: grpc.ServicerContext) -> pb.AddKeyResponse:
        slot = _slot(request.key, "key")
        key = request_key(request, "AddKey", current_principal().name, {})
        credentials = parse_credentials(request, accepted=REPOSITORY_SECRETS)
        made = self._services.repository_keys.add(request.repository_id, slot, credentials, key, context.is_active)
        return pb.AddKeyResponse(key=key_message(made.slot), recovery_key=made.recovery_key)

    def RemoveKey(self, request: pb.RemoveKeyRequest, context: grpc.ServicerContext) -> repository_pb2.Repository:
        row = self._services.repository_keys.remove(request.repository_id, request.key_id, context.is_active)
        return repository_message(row, with_statistics=False)

    def RotateKey(self, request: pb.RotateKeyRequest, context: grpc.ServicerContext) -> repository_pb2.Repository:
        key = request_key(request, "RotateKey", current_principal().name, {})
        credentials = parse_credentials(request, accepted=REPOSITORY_SECRETS)
        row = self._services.repository_keys.rotate(request.repository_id, credentials, key, context.is_active)
        return repository_message(row, with_statistics=False)


def _location(text: str) -> bytes:
    if _OBJECT_STORE.match(text):
        raise not_available("location", "location: object stores are not available in this version; name a folder")
    return parse_path(text, "location")


def _slot(key: Any, field: str) -> WantedSlot:
    """The key slot that a NewKey asks for. No error shows the secret."""
    if len(key.display_name.encode()) > _LONGEST_NAME or not (key.display_name.isprintable()):
        raise invalid_field(f"{field}.display_name", f"must be printable text of at most {_LONGEST_NAME} bytes")
    kind = key.WhichOneof("secret")
    if kind == "recovery":
        return WantedSlot("RECOVERY", None, key.display_name)
    if kind == "passphrase":
        # As it is taken: composed, however it was typed.
        if len(unicodedata.normalize("NFC", key.passphrase).encode()) not in _PASSPHRASE_BYTES:
            raise invalid_field(f"{field}.passphrase", "must have 8 to 1,024 bytes")
        return WantedSlot("PASSPHRASE", key.passphrase, key.display_name)
    if kind == "private_key":
        if len(key.private_key.encode()) not in _KEY_FILE_BYTES:
            raise invalid_field(f"{field}.private_key", "must have 32 to 65,536 bytes")
        return WantedSlot("KEY_FILE", key.private_key, key.display_name)
    raise invalid_field(field, "must hold a passphrase, a private_key or recovery")
