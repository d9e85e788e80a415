"""Backups and restores: what starts them, shows them, proves them and hands them out."""

from __future__ import annotations

import dataclasses
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, BinaryIO

from holdfast.connection import Connection
from holdfast.convert import from_message, to_number, to_task, wire_path
from holdfast.credentials import Credentials, wire_credentials
from holdfast.download import Download, OnBytes, download_to_file, download_to_path
from holdfast.enums import ArchiveFormat, BackupKind, BackupState, OnSourceError, VerifyLevel
from holdfast.models import (
    ArchiveLimits,
    Backup,
    BackupResult,
    Entry,
    RestoreArchiveResult,
    RestoreResult,
    VerifyResult,
)
from holdfast.pages import pages
from holdfast.retention import Maintenance, wire_maintenance
from holdfast.retry import OnBreak
from holdfast.task import TaskHandle
from holdfast.v1 import backup_pb2, backup_service_pb2, restore_pb2, restore_service_pb2

__all__ = ["Backups", "Restores"]


class Backups:
    """`client.backups`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(
        self,
        source_ids: Iterable[str] = (),
        *,
        folder: str | os.PathLike[str] | None = None,
        format: ArchiveFormat | str | None = None,  # noqa: A002  the API's own word
        repository_id: str | None = None,
        all_wallets: bool = False,
        tag: str = "",
        create_folder: bool = False,
        age_recipients: Iterable[str] = (),
        name: str = "",
        backup_id: str | None = None,
        ignore: Iterable[str] = (),
        locked: bool = False,
        on_source_error: OnSourceError | str | None = None,
        maintenance: Maintenance | None = None,
        dry_run: bool = False,
        request_id: str | None = None,
    ) -> TaskHandle[BackupResult]:
        """Start a backup of each source: as a snapshot in a repository, or into an archive of its own in `folder`, an
        absolute path on the server. Exactly one of `repository_id` and `folder` (with `format`) is given.

        `format` may be written as `"zip"`, `"tar.gz"` or `"tar.zst"`. `backup_id` (a UUID) and `name` go with one
        source only. `locked` refuses deletion until `update` unlocks it. With `age_recipients` (`age1…`, SSH public
        keys; at most 100) each archive is sealed to them, and only their identities open it. `maintenance` is done to
        the repository afterwards, in the same task; `maintenance_state` of the task tells how it stands.

        Repeats after a lost answer are safe: without `request_id` a fresh one is sent. Refusals raise at once; what
        fails later is in the task.
        """
        request = backup_service_pb2.CreateBackupRequest(
            source_ids=source_ids,
            all_wallets=all_wallets,
            name=name,
            backup_id=backup_id,
            ignore=ignore,
            locked=locked,
            on_source_error=to_number(backup_pb2.OnSourceError, on_source_error),
            maintenance=wire_maintenance(maintenance),
            dry_run=dry_run,
            request_id=request_id or str(uuid.uuid4()),
        )
        if repository_id is not None:
            if folder is not None or format is not None or tag or create_folder or age_recipients:
                raise ValueError("folder, format, tag, create_folder and age_recipients are of archives")
            request.repository.repository_id = repository_id
        elif folder is None:
            raise ValueError("name a repository, or a folder for archives")
        else:
            target = backup_pb2.ArchiveTarget(
                folder=wire_path(folder),
                format=to_number(backup_pb2.ArchiveFormat, format),
                tag=tag,
                create_folder=create_folder,
                age_recipients=age_recipients,
            )
            request.archive.CopyFrom(target)
        task = to_task(self._connection.create(self._connection.backups.CreateBackup, request))
        return TaskHandle(self._connection, task)

    def get(self, backup_id: str) -> Backup:
        """Raises NotFound/BACKUP_NOT_FOUND."""
        request = backup_service_pb2.GetBackupRequest(backup_id=backup_id)
        return from_message(Backup, self._connection.call(self._connection.backups.GetBackup, request))

    def list(
        self,
        *,
        source_id: str = "",
        task_id: str = "",
        states: Iterable[BackupState] = (),
        kinds: Iterable[BackupKind] = (),
        repository_id: str = "",
        show_deleted: bool = False,
        page_size: int = 0,
    ) -> Iterator[Backup]:
        """All backups that match, newest first; `show_deleted`: also those in the trash."""
        request = backup_service_pb2.ListBackupsRequest(
            page_size=page_size,
            source_id=source_id,
            task_id=task_id,
            repository_id=repository_id,
            states=[to_number(backup_pb2.BackupState, state) for state in states],
            kinds=[to_number(backup_pb2.BackupKind, kind) for kind in kinds],
            show_deleted=show_deleted,
        )
        return pages(self._connection, self._connection.backups.ListBackups, request, "backups", Backup)

    def update(self, backup_id: str, *, name: str | None = None, locked: bool | None = None) -> Backup:
        """Rename, lock or unlock; what is None stays. Also while it is being made; not in the trash."""
        request = backup_service_pb2.UpdateBackupRequest(backup_id=backup_id, name=name)
        if locked is not None:
            request.locked = locked
        return from_message(Backup, self._connection.call(self._connection.backups.UpdateBackup, request))

    def delete(self, backup_id: str) -> Backup:
        """Move a backup to the trash, where it stays until `purge_time`.

        Raises FailedPrecondition/BACKUP_LOCKED, Aborted/BACKUP_BUSY.
        """
        request = backup_service_pb2.DeleteBackupRequest(backup_id=backup_id)
        return from_message(Backup, self._connection.call(self._connection.backups.DeleteBackup, request))

    def undelete(self, backup_id: str) -> Backup:
        """Take a backup out of the trash. Raises NotFound/BACKUP_NOT_FOUND once it was purged."""
        request = backup_service_pb2.UndeleteBackupRequest(backup_id=backup_id)
        return from_message(Backup, self._connection.call(self._connection.backups.UndeleteBackup, request))

    def verify(
        self,
        backup_id: str,
        level: VerifyLevel | str | None = None,
        *,
        credentials: Credentials | None = None,
        request_id: str | None = None,
    ) -> TaskHandle[VerifyResult]:
        """Start a proof that a backup can be read; without `level` it is unpacked and every file hashed again.

        `credentials` open a sealed backup; one in clear needs none. Without them a sealed archive is checked by its
        hash alone, at level CHECKSUM, and `sealed_hash_only` of the result says so; reading a backup in a sealed
        repository raises FailedPrecondition/KEY_REQUIRED, and the other levels need none.
        """
        request = backup_service_pb2.VerifyBackupRequest(
            backup_id=backup_id,
            level=to_number(backup_pb2.VerifyLevel, level),
            credentials=wire_credentials(credentials),
            request_id=request_id or str(uuid.uuid4()),
        )
        task = to_task(self._connection.create(self._connection.backups.VerifyBackup, request))
        return TaskHandle(self._connection, task)

    def entries(
        self,
        backup_id: str,
        path: str | os.PathLike[str] = "",
        *,
        credentials: Credentials | None = None,
        page_size: int = 0,
    ) -> Iterator[Entry]:
        """The entries of one folder of a snapshot by name, fetched as they are asked for; the empty path is its root.

        `credentials` (a passphrase or key file) open one in a sealed repository that is not unlocked. Raises
        NotFound/ENTRY_NOT_FOUND for what is no folder of it.
        """
        request = backup_service_pb2.ListBackupEntriesRequest(
            backup_id=backup_id,
            path=wire_path(path),
            page_size=page_size,
            credentials=wire_credentials(credentials),
        )
        return pages(self._connection, self._connection.backups.ListBackupEntries, request, "entries", Entry)

    def download(
        self,
        backup_id: str,
        target: str | os.PathLike[str] | BinaryIO | None = None,
        *,
        format: ArchiveFormat | str | None = None,  # noqa: A002  the API's own word
        credentials: Credentials | None = None,
        on_bytes: OnBytes | None = None,
        on_break: OnBreak | None = None,
    ) -> Download:
        """The archive into a file, into a folder (None: the current one) under its own name, or an open binary file.

        A path is written as `.partial` beside, which a repeated call resumes, checked against the server's SHA-256
        and then renamed. Raises TargetExists rather than replace a file, and DigestMismatch; then nothing is left.

        Of a snapshot the archive is made on the way, in `format` (default `"tar.gz"`): its size is not known, and a
        stream that breaks starts over. `credentials` (a passphrase or key file) open one in a sealed repository that is
        not unlocked. For backups that are archives neither may be given.
        """
        connection = self._connection

        def open_at(offset: int) -> AbstractContextManager[Iterator[Any]]:
            request = backup_service_pb2.DownloadBackupRequest(
                backup_id=backup_id,
                offset=offset,
                format=to_number(backup_pb2.ArchiveFormat, format),
                credentials=wire_credentials(credentials),
            )
            return connection.stream(connection.backups.DownloadBackup, request)

        if target is None or isinstance(target, str | os.PathLike):
            return download_to_path(connection, open_at, target, backup_id, on_bytes, on_break)
        return download_to_file(connection, open_at, target, on_bytes, on_break)


class Restores:
    """`client.restores`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def to_new_folder(
        self,
        backup_id: str,
        folder: str | os.PathLike[str],
        *,
        create_parents: bool = False,
        paths: Iterable[str] = (),
        dry_run: bool = False,
        credentials: Credentials | None = None,
        decrypt_coins: bool | None = None,
        request_id: str | None = None,
    ) -> TaskHandle[RestoreResult]:
        """Start a restore into `folder`, an absolute path on the server that does not exist yet or is empty.

        `paths`: only these entries of the backup and all below them. A sealed backup needs `credentials`. Coins that
        the backup encrypted are decrypted with a wallet password as these, or, with `decrypt_coins`, with the key of
        the unlocked wallet; otherwise they stay as they are.
        """
        request = restore_service_pb2.RestoreBackupRequest(
            backup_id=backup_id,
            new_folder=restore_pb2.NewFolderTarget(folder=wire_path(folder), create_parents=create_parents),
            paths=[wire_path(path) for path in paths],
            dry_run=dry_run,
            credentials=wire_credentials(credentials),
            request_id=request_id or str(uuid.uuid4()),
        )
        if decrypt_coins is not None:
            request.decrypt_coins = decrypt_coins
        return self._restore(request)

    def to_new_wallet(
        self,
        backup_id: str,
        folder: str | os.PathLike[str],
        *,
        display_name: str = "",
        source_id: str | None = None,
        create_parents: bool = False,
        dry_run: bool = False,
        credentials: Credentials | None = None,
        request_id: str | None = None,
    ) -> TaskHandle[RestoreResult]:
        """Start a restore of a wallet's backup into `folder`, an absolute path on the server that does not exist yet or
        is empty, and register it as a wallet: `source_id` of the result, by default derived from the folder's name.

        Nothing appears unless every coin of the backup is there exactly once. Coins that the backup encrypted need a
        wallet password as `credentials`, or the wallet unlocked.
        """
        request = restore_service_pb2.RestoreBackupRequest(
            backup_id=backup_id,
            new_wallet=_new_wallet(folder, display_name, source_id, create_parents=create_parents),
            dry_run=dry_run,
            credentials=wire_credentials(credentials),
            request_id=request_id or str(uuid.uuid4()),
        )
        return self._restore(request)

    def archive_to_new_folder(
        self,
        archive_path: str | os.PathLike[str],
        folder: str | os.PathLike[str],
        *,
        create_parents: bool = False,
        paths: Iterable[str] = (),
        limits: ArchiveLimits | None = None,
        credentials: Credentials | None = None,
        decrypt_coins: bool | None = None,
        dry_run: bool = False,
        request_id: str | None = None,
    ) -> TaskHandle[RestoreArchiveResult]:
        """Start a restore of any zip, tar, tar.gz or tar.zst file of the server, each also sealed with age, into a new
        folder; both paths are absolute ones on the server.

        The file is read as hostile input; its kind is found out from its content. `credentials` open a sealed one, or
        the coins that were encrypted; `decrypt_coins` decrypts these with the keys of unlocked wallets. A dry run reads
        and checks the archive and writes nothing.
        """
        request = restore_service_pb2.RestoreArchiveRequest(
            archive_path=wire_path(archive_path),
            new_folder=restore_pb2.NewFolderTarget(folder=wire_path(folder), create_parents=create_parents),
            paths=[wire_path(path) for path in paths],
            limits=_wire_limits(limits),
            dry_run=dry_run,
            credentials=wire_credentials(credentials),
            request_id=request_id or str(uuid.uuid4()),
        )
        if decrypt_coins is not None:
            request.decrypt_coins = decrypt_coins
        return self._restore_archive(request)

    def archive_to_new_wallet(
        self,
        archive_path: str | os.PathLike[str],
        folder: str | os.PathLike[str],
        *,
        display_name: str = "",
        source_id: str | None = None,
        create_parents: bool = False,
        limits: ArchiveLimits | None = None,
        credentials: Credentials | None = None,
        dry_run: bool = False,
        request_id: str | None = None,
    ) -> TaskHandle[RestoreArchiveResult]:
        """Start a restore of an archive that Holdfast made of a wallet, as `to_new_wallet` does of a backup that the
        server knows."""
        request = restore_service_pb2.RestoreArchiveRequest(
            archive_path=wire_path(archive_path),
            new_wallet=_new_wallet(folder, display_name, source_id, create_parents=create_parents),
            limits=_wire_limits(limits),
            dry_run=dry_run,
            credentials=wire_credentials(credentials),
            request_id=request_id or str(uuid.uuid4()),
        )
        return self._restore_archive(request)

    def _restore(self, request: restore_service_pb2.RestoreBackupRequest) -> TaskHandle[RestoreResult]:
        task = to_task(self._connection.create(self._connection.restores.RestoreBackup, request))
        return TaskHandle(self._connection, task)

    def _restore_archive(self, request: restore_service_pb2.RestoreArchiveRequest) -> TaskHandle[RestoreArchiveResult]:
        task = to_task(self._connection.create(self._connection.restores.RestoreArchive, request))
        return TaskHandle(self._connection, task)


def _new_wallet(
    folder: str | os.PathLike[str], display_name: str, source_id: str | None, *, create_parents: bool
) -> restore_pb2.NewWalletTarget:
    return restore_pb2.NewWalletTarget(
        folder=wire_path(folder), display_name=display_name, source_id=source_id, create_parents=create_parents
    )


def _wire_limits(limits: ArchiveLimits | None) -> restore_pb2.ArchiveLimits | None:
    return restore_pb2.ArchiveLimits(**dataclasses.asdict(limits)) if limits is not None else None
