"""What happens to a backup once it exists: renamed, locked, moved to the trash, taken back, purged.

Whether a backup may go is decided in one catalog transaction, against the locks of tasks. The file follows: first the
catalog says that the backup is in the trash, then its archive is renamed; to take it back, first the archive is
renamed, then the catalog says so. So whatever a crash cuts off reads "in the trash", and `repair` and `purge` finish
the deletion. One file lock on this machine keeps two movers apart; the kernel drops it with its holder. A snapshot has
no file to hide: its repository is told when it is purged, and of a new name or lock.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from holdfast_server.catalog import backups, locks, tasks
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import BackupRow, BackupState
from holdfast_server.clock import Clock
from holdfast_server.core.trash import StoredFile, hide, look, remove, reveal, trash_name
from holdfast_server.errors import Aborted, FailedPrecondition, HoldfastError, NotFound, Reason, Unavailable
from holdfast_server.tasks.snapshot_life import SnapshotLife
from holdfast_server.tasks.sources import check_display_name
from holdfast_server.tasks.stored import find_backup, require_backup

__all__ = ["BackupLife"]

_log = logging.getLogger(__name__)

_HOUR = 3_600_000_000
#: How long a purge looks for an archive that is under neither name before the backup is forgotten: a folder that
#: exists may be the mount point of a disk that is away.
_MISSING_GRACE = 7 * 24 * _HOUR
_LOCK_SECONDS = 5.0


class BackupLife:
    """Renames, locks, deletes and takes back stored backups. Thread-safe, and safe beside other processes.

    `trash_hours` is how long a deleted backup can be taken back; 0 removes it at once. `lock_file` is one for all
    processes that serve the data directory.
    """

    def __init__(
        self, database: Database, clock: Clock, trash_hours: float, lock_file: Path, snapshots: SnapshotLife
    ) -> None:
        self._database = database
        self._snapshots = snapshots
        self._clock = clock
        self._kept = int(trash_hours * _HOUR)
        self._lock_file = lock_file

    def update(self, backup_id: str, *, name: str | None = None, locked: bool | None = None) -> BackupRow:
        """Change what is given, in any state but in the trash; what is equal already changes nothing.

        Raises NotFound/BACKUP_NOT_FOUND, InvalidArgument/INVALID_FIELD, and for a snapshot that is committed what
        reaching its repository raises; then nothing has changed.
        """
        wanted: dict[str, Any] = {}
        if name is not None:
            wanted["name"] = check_display_name(name, "name")
        if locked is not None:
            wanted["locked"] = locked
        with self._database.read() as connection:
            row = require_backup(connection, backup_id)
        changes = {key: value for key, value in wanted.items() if getattr(row, key) != value}
        if not changes:
            return row
        if row.repository_id is not None and row.state == BackupState.COMPLETED:
            self._snapshots.announce(row, changes)
        with self._database.write() as connection:
            require_backup(connection, backup_id)
            backups.update_backup(connection, backup_id, update_time=self._clock.now(), **changes)
            return require_backup(connection, backup_id)

    def delete(self, backup_id: str) -> BackupRow:
        """Move a backup to the trash; one that is there already stays as it is.

        Raises NotFound/BACKUP_NOT_FOUND, FailedPrecondition (BACKUP_LOCKED, ARCHIVE_CHANGED), Aborted/BACKUP_BUSY,
        Unavailable/STORAGE_UNREACHABLE; then nothing has changed.
        """
        with self._database.read() as connection:
            row = _deletable(connection, backup_id)
        if row.trashed:
            return row
        with self._alone():
            with self._database.read() as connection:
                row = find_backup(connection, backup_id)
            archive = _archive_of(row)
            if archive is not None and look(archive) is None:
                _log.warning("backup %s is deleted without its archive, which is gone", backup_id)
                archive = None
            row, marked = self._mark(row, archive)
            if marked and archive is not None:
                self._hide(row, archive)
        if row.purge_time is not None and row.purge_time <= self._clock.now():
            self._try_purge(row)
        return row

    def undelete(self, backup_id: str) -> BackupRow:
        """Take a backup out of the trash, under another file name if its own is taken; no error if it is not there.

        Raises NotFound/BACKUP_NOT_FOUND also when its time in the trash is over, FailedPrecondition/ARCHIVE_CHANGED,
        DataLoss/ARCHIVE_MISSING, Unavailable/STORAGE_UNREACHABLE.
        """
        with self._database.read() as connection:
            row = find_backup(connection, backup_id)
        if not row.trashed:
            return row
        with self._alone():
            with self._database.read() as connection:
                row = find_backup(connection, backup_id)
            if not row.trashed:
                return row
            now = self._clock.now()
            if row.purge_begun is not None or row.purge_time is None or row.purge_time <= now:
                text = f"backup {backup_id} is no longer in the trash: it was to be purged"
                raise NotFound(Reason.BACKUP_NOT_FOUND, text, metadata={"backup_id": backup_id})
            if row.trash_name is not None:
                reveal(_stored(row, row.trash_name), lambda name: self._announce(backup_id, name))
            with self._database.write() as connection:
                backups.update_backup(
                    connection, backup_id, update_time=now, delete_time=None, purge_time=None, trash_name=None
                )
                return find_backup(connection, backup_id)

    def purge(self, stopped: Callable[[], bool] = lambda: False) -> int:
        """Remove for good what is past its time; gives how many. What fails is logged and stays for the next call."""
        with self._database.read() as connection:
            due = backups.trashed_backups(connection, purge_before=self._clock.now())
        purged = 0
        for row in due:
            if stopped():
                break
            purged += self._try_purge(row)
        return purged

    def repair(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Finish deletions that a crash cut off: what the catalog says is in the trash gets its hidden name."""
        with self._database.read() as connection:
            rows = backups.trashed_backups(connection)
        for known in rows:
            if stopped():
                break
            try:
                with self._alone():
                    row = self._still_trashed(known.backup_id)
                    if row is not None and row.trash_name is not None and row.purge_begun is None:
                        hide(_stored(row, row.trash_name))
            except HoldfastError as error:
                _log.warning("backup %s in the trash: %s", known.backup_id, error.message)

    def _mark(self, row: BackupRow, archive: StoredFile | None) -> tuple[BackupRow, bool]:
        """Say that the backup is in the trash, if it may go; False when it was there already."""
        now = self._clock.now()
        with self._database.write() as connection:
            present = _deletable(connection, row.backup_id)
            if present.trashed:
                return present, False
            hidden = None if archive is None else archive.hidden
            backups.update_backup(
                connection, row.backup_id,
                update_time=now, delete_time=now, purge_time=now + self._kept, trash_name=hidden,
            )  # fmt: skip
            return find_backup(connection, row.backup_id), True

    def _hide(self, row: BackupRow, archive: StoredFile) -> None:
        """Let the archive follow its row. When it certainly stayed where it was, the row is taken back."""
        try:
            hide(archive)
        except HoldfastError as error:
            try:
                stayed = look(archive) == archive.name
            except HoldfastError:
                stayed = False
            if not stayed:
                _log.warning("backup %s is deleted, its archive follows later: %s", row.backup_id, error.message)
                return
            with self._database.write() as connection:
                backups.update_backup(
                    connection, row.backup_id, delete_time=None, purge_time=None, trash_name=None
                )  # fmt: skip
            raise

    def _announce(self, backup_id: str, name: bytes) -> None:
        with self._database.write() as connection:
            backups.update_backup(connection, backup_id, file_name=name)

    def _try_purge(self, row: BackupRow) -> bool:
        try:
            return self._purge(row.backup_id)
        except HoldfastError as error:
            _log.warning("backup %s cannot be purged yet: %s", row.backup_id, error.message)
            return False

    def _purge(self, backup_id: str) -> bool:
        with self._alone():
            row = self._still_trashed(backup_id)
            now = self._clock.now()
            if row is None or row.purge_time is None or row.purge_time > now:
                return False
            archive = None if row.trash_name is None else _stored(row, row.trash_name)
            if row.repository_id is not None and row.purge_begun is None:
                with self._database.write() as connection:
                    backups.update_backup(connection, backup_id, purge_begun=now)
            if archive is not None and row.purge_begun is None:
                if not hide(archive) and now < row.purge_time + _MISSING_GRACE:
                    _log.warning("backup %s is to be purged and its archive is gone; looking again later", backup_id)
                    return False
                with self._database.write() as connection:
                    backups.update_backup(connection, backup_id, purge_begun=now)
        # Nobody takes it back from here on, so others need not wait for a long removal.
        freed = 0 if archive is None else remove(archive)
        if row.repository_id is not None:
            self._snapshots.remove(row)
        with self._database.write() as connection:
            backups.delete_backup(connection, backup_id)
        _log.info("purged backup %s (%s), %d bytes", backup_id, row.name, freed)
        return True

    def _still_trashed(self, backup_id: str) -> BackupRow | None:
        with self._database.read() as connection:
            row = backups.get_backup(connection, backup_id)
        return row if row is not None and row.trashed else None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep every other mover of archives out, in this process and in others."""
        fd = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = self._clock.monotonic() + _LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if self._clock.monotonic() > deadline:
                        text = "another backup is being moved to or from the trash, and its storage does not answer"
                        raise Unavailable(Reason.STORAGE_UNREACHABLE, text, retry_after=_LOCK_SECONDS) from None
                    time.sleep(0.005)
            yield
        finally:
            os.close(fd)


def _deletable(connection: sa.Connection, backup_id: str) -> BackupRow:
    """A backup that may go now, or is in the trash already."""
    row = find_backup(connection, backup_id)
    metadata = {"backup_id": backup_id, "state": row.state}
    if row.trashed:
        return row
    if row.locked:
        raise FailedPrecondition(Reason.BACKUP_LOCKED, f"backup {backup_id} is locked", metadata=metadata)
    users = locks.users_of(connection, backups.lock_resource(backup_id))
    # Also a finished backup of several belongs to its task until that ends: it may have to go on after a crash.
    maker = tasks.get_task(connection, row.task_id)
    if maker is not None and not maker.ended:
        users.append(maker.task_id)
    if users or row.state in (BackupState.IN_PROGRESS, BackupState.RESTORING):
        by = f" by task {users[0]}" if users else ""
        more = {"task_id": users[0]} if users else {}
        raise Aborted(Reason.BACKUP_BUSY, f"backup {backup_id} is in use{by}", metadata={**metadata, **more})
    return row


def _archive_of(row: BackupRow) -> StoredFile | None:
    """The file of a backup; None for one that never came to be, whatever name it may have wanted."""
    if row.state != BackupState.COMPLETED or row.file_name is None:
        return None
    return _stored(row, row.trash_name or trash_name(row.backup_id, row.file_name))


def _stored(row: BackupRow, hidden: bytes) -> StoredFile:
    if row.file_name is None or row.size is None:
        raise AssertionError("a completed backup has a file")
    return StoredFile(row.folder, row.backup_id, row.file_name, hidden, row.size)
