"""Where a snapshot lies and what opens it, as it travels through a pipe to another process of ours."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.core.repository_place import OpenRepository, RepositoryPlace, open_content
from holdfast_server.errors import DataLoss, Reason
from holdfast_server.repository import ContentKeys, Snapshot

__all__ = ["ContentAccess", "SnapshotPlace", "StreamOrder", "content_keys", "require_snapshot"]


@dataclass(frozen=True, slots=True, repr=False)
class ContentAccess:
    """What opens the content of a sealed repository: `keys` of an unlocked one (`ContentKeys.to_text`), or the `secret`
    of a call (a passphrase, the content of a key file, a recovery key). Never shown."""

    keys: str | None = None
    secret: str | None = None

    def __repr__(self) -> str:
        return "ContentAccess(hidden)"


@dataclass(frozen=True, slots=True)
class SnapshotPlace:
    """A snapshot in a repository."""

    repository: RepositoryPlace
    backup_id: str
    access: ContentAccess


def content_keys(opened: OpenRepository, access: ContentAccess) -> ContentKeys | None:
    """The repository's own content keys, or what `access` opens; None without either. Raises
    FailedPrecondition/KEY_WRONG."""
    if opened.keys.content is not None:
        return opened.keys.content
    if access.keys is not None:
        return ContentKeys.from_text(access.keys)
    return None if access.secret is None else open_content(opened, access.secret)


def require_snapshot(opened: OpenRepository, backup_id: str) -> Snapshot:
    """The snapshot of a backup that the catalog knows. Raises DataLoss/CHECKSUM_MISMATCH when it is gone or damaged."""
    snapshot = opened.repository.snapshot(backup_id)
    if snapshot is None:
        raise DataLoss(
            Reason.CHECKSUM_MISMATCH,
            f"repository {opened.repository_id} has lost the snapshot of backup {backup_id}",
            metadata={"repository_id": opened.repository_id, "backup_id": backup_id},
        )
    return snapshot


@dataclass(frozen=True, slots=True)
class StreamOrder:
    """A snapshot to be sent as an archive; `created_us` is when it was asked for."""

    place: SnapshotPlace
    format: ArchiveFormat
    created_us: int
    software: str
