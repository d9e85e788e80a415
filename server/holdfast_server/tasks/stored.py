"""Stored backups as tasks need them: found, restorable, and as a file to open."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.sealing import Identity, parse_identity
from holdfast_server.catalog import backups
from holdfast_server.catalog.rows import BackupRow, BackupState
from holdfast_server.core.verify import StoredArchive
from holdfast_server.errors import Aborted, FailedPrecondition, NotFound, Reason, invalid_field
from holdfast_server.tasks.credentials import Credentials

__all__ = [
    "age_identity",
    "as_archive",
    "check_entry_paths",
    "find_backup",
    "require_backup",
    "require_finished",
    "require_quiet",
]

_MAX_PATHS = 1000


def find_backup(connection: sa.Connection, backup_id: str) -> BackupRow:
    """A backup, also one in the trash. Raises NotFound/BACKUP_NOT_FOUND."""
    row = backups.get_backup(connection, backup_id)
    if row is None:
        text = f"there is no backup {backup_id or 'without an id'}"
        raise NotFound(Reason.BACKUP_NOT_FOUND, text, metadata={"backup_id": backup_id})
    return row


def require_backup(connection: sa.Connection, backup_id: str) -> BackupRow:
    """A backup that may be used. Raises NotFound/BACKUP_NOT_FOUND also for one in the trash."""
    row = find_backup(connection, backup_id)
    if row.trashed:
        text = f"backup {backup_id} is in the trash"
        raise NotFound(Reason.BACKUP_NOT_FOUND, text, metadata={"backup_id": backup_id})
    return row


def require_quiet(row: BackupRow) -> BackupRow:
    """Raises Aborted/BACKUP_BUSY also while another restore of it is under way."""
    if row.state == BackupState.RESTORING:
        metadata = {"backup_id": row.backup_id, "state": row.state}
        raise Aborted(Reason.BACKUP_BUSY, f"backup {row.backup_id} is being restored", metadata=metadata)
    return require_finished(row)


def require_finished(row: BackupRow) -> BackupRow:
    """Raises Aborted/BACKUP_BUSY while it is being made, FailedPrecondition/BACKUP_NOT_RESTORABLE when it failed."""
    metadata = {"backup_id": row.backup_id, "state": row.state}
    if row.state == BackupState.IN_PROGRESS:
        raise Aborted(Reason.BACKUP_BUSY, f"backup {row.backup_id} is still being made", metadata=metadata)
    if row.state == BackupState.FAILED:
        raise FailedPrecondition(
            Reason.BACKUP_NOT_RESTORABLE, f"backup {row.backup_id} is in state {row.state}", metadata=metadata
        )
    return row


def age_identity(credentials: Credentials | None) -> Identity | None:
    """What opens a sealed archive; None without one. Raises InvalidArgument/INVALID_FIELD, showing nothing of it."""
    if credentials is None or credentials.age_identity is None:
        return None
    return parse_identity(credentials.age_identity)


def as_archive(row: BackupRow) -> StoredArchive:
    """A COMPLETED backup's file."""
    if row.file_name is None or row.size is None or row.sha256 is None:
        raise AssertionError("a completed backup has a file")
    return StoredArchive(
        folder=row.folder,
        file_name=row.file_name,
        format=ArchiveFormat[row.format],
        size=row.size,
        sha256=row.sha256,
        original_size=int(row.statistics["original_size"]),
        files=int(row.statistics["files"]),
        backup_id=row.backup_id,
        sealed=row.sealed,
    )


def check_entry_paths(paths: Sequence[bytes]) -> None:
    """Paths that name entries of a backup. Raises InvalidArgument/INVALID_FIELD for `paths`."""
    if len(paths) > _MAX_PATHS:
        raise invalid_field("paths", f"names {len(paths)} paths, at most {_MAX_PATHS} are allowed")
    for index, path in enumerate(paths):
        parts = path.strip(b"/").split(b"/")
        if path.startswith(b"/") or any(part in (b"", b".", b"..") for part in parts) or b"\0" in path:
            raise invalid_field(f"paths[{index}]", "must be relative to the backup, without `.`, `..` or empty parts")
