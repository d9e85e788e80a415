"""What calls ask of stored snapshots without a task: a folder's entries, and the whole as an archive on the way."""

from __future__ import annotations

from collections.abc import Callable

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import BackupRow
from holdfast_server.clock import Clock
from holdfast_server.core.snapshot_listing import EntryRow, entries_page
from holdfast_server.core.snapshot_place import ContentAccess, SnapshotPlace, StreamOrder
from holdfast_server.errors import Reason, Unimplemented, invalid_field
from holdfast_server.tasks.credentials import Credentials
from holdfast_server.tasks.repositories import RepositoryRegistry, repository_place, require_repository
from holdfast_server.tasks.snapshot_downloads import SnapshotDownload, SnapshotDownloads
from holdfast_server.tasks.stored import require_backup, require_finished
from holdfast_server.tasks.wallet_reader import WalletReader

__all__ = ["SnapshotQueries"]


class SnapshotQueries:
    """Thread-safe."""

    def __init__(
        self,
        database: Database,
        repositories: RepositoryRegistry,
        reader: WalletReader,
        downloads: SnapshotDownloads,
        clock: Clock,
        data_dir: bytes,
        software: str,
    ) -> None:
        self._database = database
        self._repositories = repositories
        self._reader = reader
        self._downloads = downloads
        self._clock = clock
        self._data_dir = data_dir
        self._software = software

    def entries(
        self,
        backup_id: str,
        folder: bytes,
        after: bytes | None,
        limit: int,
        credentials: Credentials | None,
        wanted: Callable[[], bool],
    ) -> list[EntryRow]:
        """A page of at most `limit` entries of a folder, see `core.snapshot_listing.entries_page`. `wanted`: as for
        `WalletReader.run`.

        Raises InvalidArgument/INVALID_FIELD, NotFound: BACKUP_NOT_FOUND, ENTRY_NOT_FOUND; Aborted/BACKUP_BUSY;
        FailedPrecondition: BACKUP_NOT_RESTORABLE, KEY_REQUIRED, KEY_WRONG; Unimplemented/NOT_AVAILABLE for an archive;
        what `open_place` and `WalletReader.run` raise.
        """
        path = _checked_folder(folder)
        with self._database.read() as connection:
            row = require_finished(require_backup(connection, backup_id))
        if row.repository_id is None:
            raise Unimplemented(
                Reason.NOT_AVAILABLE,
                f"backup {backup_id} is an archive: only snapshots can be browsed in this version",
                metadata={"field": "backup_id", "backup_id": backup_id},
            )
        return self._reader.run(entries_page, self._place(row, credentials), path, after, limit, wanted=wanted)

    def download(
        self, row: BackupRow, archive_format: ArchiveFormat, credentials: Credentials | None
    ) -> SnapshotDownload:
        """Start sending a snapshot, a finished backup, as an archive. Raises FailedPrecondition/KEY_REQUIRED, and as
        `SnapshotDownloads.open`; the download itself raises the rest."""
        place = self._place(row, credentials)
        return self._downloads.open(StreamOrder(place, archive_format, self._clock.now(), self._software))

    def _place(self, row: BackupRow, credentials: Credentials | None) -> SnapshotPlace:
        if row.repository_id is None:
            raise AssertionError("a snapshot has a repository")
        with self._database.read() as connection:
            repository = require_repository(connection, row.repository_id)
        given = self._repositories.attach(repository, credentials, required=True)
        access = ContentAccess()
        if repository.sealed and given is not None:
            access = ContentAccess(
                keys=given.content_keys.get(repository.repository_id), secret=given.passphrase or given.private_key
            )
        return SnapshotPlace(repository_place(repository, self._data_dir), row.backup_id, access)


def _checked_folder(path: bytes) -> bytes:
    if not path:
        return path
    parts = path.removesuffix(b"/").split(b"/")
    if any(part in (b"", b".", b"..") for part in parts):
        raise invalid_field("path", "must be relative to the backup, without `.`, `..` or empty parts")
    return b"/".join(parts)
