"""BackupService: making, listing, proving and handing out backups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc

from holdfast.v1 import backup_pb2, backup_service_pb2_grpc, download_pb2, task_pb2
from holdfast.v1 import backup_service_pb2 as pb
from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.catalog import backups
from holdfast_server.catalog.requests import RequestKey
from holdfast_server.catalog.rows import BackupRow, TaskRow
from holdfast_server.core.verify import VerifyLevel
from holdfast_server.errors import FailedPrecondition, Reason, invalid_field
from holdfast_server.rpc.convert import backup_message, task_message
from holdfast_server.rpc.download import archive_parts, snapshot_parts
from holdfast_server.rpc.entry_messages import entry_message
from holdfast_server.rpc.interceptors import current_principal
from holdfast_server.rpc.pages import cut_page, page_limit, page_start, page_start_bytes
from holdfast_server.rpc.parse import (
    enum_name,
    not_available,
    parse_credentials,
    parse_path,
    parse_relative,
    parse_retention,
    parse_uuid,
    refuse_unbuilt,
    request_key,
)
from holdfast_server.rpc.services import Services
from holdfast_server.rpc.watching import stream_task
from holdfast_server.tasks.backup_maintenance import MaintenanceOrder
from holdfast_server.tasks.backup_orders import BackupOrder
from holdfast_server.tasks.stored import as_archive, find_backup, require_backup, require_finished

__all__ = ["BackupServicer"]

#: What a proof can use: one opens a sealed archive, the others a sealed repository.
_VERIFY_SECRETS = ("age_identity", "passphrase", "private_key")


#: Kinds of credentials that open the content of a sealed repository.
_OPENS_REPOSITORIES = ("passphrase", "private_key")


class BackupServicer(backup_service_pb2_grpc.BackupServiceServicer):
    """Parses, calls, converts. Calls not overridden here are refused by name."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def CreateBackup(self, request: pb.CreateBackupRequest, context: grpc.ServicerContext) -> task_pb2.Task:
        del context
        return task_message(self._create(request))

    def RunBackup(self, request: pb.RunBackupRequest, context: grpc.ServicerContext) -> Iterator[task_pb2.TaskEvent]:
        row = self._create(request)
        context.send_initial_metadata((("holdfast-task-id", row.task_id),))
        yield from stream_task(self._services, row.task_id, None, context)

    def GetBackup(self, request: pb.GetBackupRequest, context: grpc.ServicerContext) -> backup_pb2.Backup:
        del context
        with self._services.database.read() as connection:
            row = find_backup(connection, request.backup_id)
            proofs = backups.verifications_of(connection, [row.backup_id])
        return backup_message(row, proofs.get(row.backup_id, []))

    def ListBackups(self, request: pb.ListBackupsRequest, context: grpc.ServicerContext) -> pb.ListBackupsResponse:
        del context
        start = page_start(request, int, str)
        chosen = backups.BackupFilter(
            source_id=request.source_id or None,
            task_id=request.task_id or None,
            repository_id=request.repository_id or None,
            states=[enum_name(backup_pb2.BackupState, state, "states") for state in request.states],
            kinds=[enum_name(backup_pb2.BackupKind, kind, "kinds") for kind in request.kinds],
            show_deleted=request.show_deleted,
        )
        before = (start[0], start[1]) if start else None
        with self._services.database.read() as connection:
            rows = backups.list_backups(connection, chosen, limit=page_limit(request.page_size) + 1, before=before)
            proofs = backups.verifications_of(connection, [row.backup_id for row in rows])
        messages = [backup_message(row, proofs.get(row.backup_id, [])) for row in rows]
        page, more = cut_page(request, rows, messages, lambda row: [row.create_time, row.backup_id])
        return pb.ListBackupsResponse(backups=page, next_page_token=more)

    def UpdateBackup(self, request: pb.UpdateBackupRequest, context: grpc.ServicerContext) -> backup_pb2.Backup:
        del context
        row = self._services.life.update(
            request.backup_id,
            name=request.name if request.HasField("name") else None,
            locked=request.locked if request.HasField("locked") else None,
        )
        return self._message(row)

    def DeleteBackup(self, request: pb.DeleteBackupRequest, context: grpc.ServicerContext) -> backup_pb2.Backup:
        del context
        return self._message(self._services.life.delete(request.backup_id))

    def UndeleteBackup(self, request: pb.UndeleteBackupRequest, context: grpc.ServicerContext) -> backup_pb2.Backup:
        del context
        return self._message(self._services.life.undelete(request.backup_id))

    def VerifyBackup(self, request: pb.VerifyBackupRequest, context: grpc.ServicerContext) -> task_pb2.Task:
        del context
        credentials = parse_credentials(request, _VERIFY_SECRETS)
        name = enum_name(backup_pb2.VerifyLevel, request.level, "level", default="READ_DATA")
        if name not in VerifyLevel.__members__:
            raise not_available("level", f"level {name} is not available in this version")
        key = request_key(request, "VerifyBackup", current_principal().name, {"level": name})
        verifications, principal = self._services.verifications, current_principal().name
        return task_message(
            verifications.create(request.backup_id, VerifyLevel(name), principal, key, credentials=credentials)
        )

    def ListBackupEntries(
        self, request: pb.ListBackupEntriesRequest, context: grpc.ServicerContext
    ) -> pb.ListBackupEntriesResponse:
        rows = self._services.snapshots.entries(
            request.backup_id,
            parse_relative(request.path, "path"),
            page_start_bytes(request),
            page_limit(request.page_size) + 1,
            parse_credentials(request, accepted=_OPENS_REPOSITORIES),
            context.is_active,
        )
        page, more = cut_page(request, rows, list(map(entry_message, rows)), lambda row: [row.position.hex()])
        return pb.ListBackupEntriesResponse(entries=page, next_page_token=more)

    def DownloadBackup(
        self, request: pb.DownloadBackupRequest, context: grpc.ServicerContext
    ) -> Iterator[download_pb2.DownloadPart]:
        refuse_unbuilt(request, "token")
        if request.WhichOneof("object") != "backup_id":
            raise invalid_field("backup_id", "must be set")
        with self._services.database.read() as connection:
            row = require_finished(require_backup(connection, request.backup_id))
        if row.repository_id is not None:
            yield from self._send_snapshot(row, request, context)
            return
        if request.format:
            raise invalid_field("format", "must be left out: a stored archive is sent as it is")
        if request.HasField("credentials"):
            raise invalid_field("credentials", "must be left out: a stored archive is sent as it is")
        yield from archive_parts(as_archive(row), request.offset)

    def _send_snapshot(
        self, row: BackupRow, request: pb.DownloadBackupRequest, context: grpc.ServicerContext
    ) -> Iterator[download_pb2.DownloadPart]:
        archive_format = ArchiveFormat[enum_name(backup_pb2.ArchiveFormat, request.format, "format", default="TAR_GZ")]
        credentials = parse_credentials(request, accepted=_OPENS_REPOSITORIES)
        if request.offset:
            raise FailedPrecondition(
                Reason.NOT_RESUMABLE,
                f"backup {row.backup_id} is a snapshot: the archive that is sent of it is made anew for each download",
                metadata={"backup_id": row.backup_id, "offset": str(request.offset)},
            )
        with self._services.snapshots.download(row, archive_format, credentials) as download:
            if not context.add_callback(download.stop):
                return
            yield from snapshot_parts(download, archive_format.content_type)

    def _message(self, row: BackupRow) -> backup_pb2.Backup:
        with self._services.database.read() as connection:
            proofs = backups.verifications_of(connection, [row.backup_id])
        return backup_message(row, proofs.get(row.backup_id, []))

    def _create(self, request: Any) -> TaskRow:
        order, key = self._order(request)
        return self._services.backups.create(order, current_principal().name, key)

    def _order(self, request: Any) -> tuple[BackupOrder, RequestKey | None]:
        policy = enum_name(backup_pb2.OnSourceError, request.on_source_error, "on_source_error", default="WARN")
        backup_id = parse_uuid(request.backup_id, "backup_id") if request.HasField("backup_id") else None
        order = BackupOrder(
            source_ids=tuple(request.source_ids),
            all_wallets=request.all_wallets,
            **_target(request),
            name=request.name,
            backup_id=backup_id,
            locked=request.locked,
            ignore=tuple(request.ignore),
            fail_on_error=policy == "FAIL",
            dry_run=request.dry_run,
            maintenance=_maintenance(request.maintenance) if request.HasField("maintenance") else None,
        )
        defaults = {"on_source_error": policy, **({"backup_id": backup_id} if backup_id else {})}
        key = request_key(request, "CreateBackup", current_principal().name, defaults)
        return order, key


def _maintenance(asked: backup_pb2.Maintenance) -> MaintenanceOrder:
    return MaintenanceOrder(
        policy=parse_retention(asked.retention) if asked.HasField("retention") else None,
        prune=asked.prune,
        compact=asked.compact,
        check_percent=asked.check_percent,
    )


def _target(request: Any) -> dict[str, Any]:
    """Where the backups go, as fields of an order."""
    match request.WhichOneof("target"):
        case "repository":
            if not request.repository.repository_id:
                raise invalid_field("repository.repository_id", "must be set")
            return {"repository_id": request.repository.repository_id}
        case "archive":
            archive = request.archive
            name = enum_name(backup_pb2.ArchiveFormat, archive.format, "archive.format")
            return {
                "folder": parse_path(archive.folder, "archive.folder"),
                "format": ArchiveFormat[name],
                "tag": archive.tag,
                "create_folder": archive.create_folder,
                "recipients": tuple(archive.age_recipients),
            }
        case _:
            raise invalid_field("archive", "must be set, or repository: where does the backup go?")
