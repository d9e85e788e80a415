"""Exports: coins, and stored backups, as portable files."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from decimal import Decimal

from holdfast.connection import Connection
from holdfast.convert import to_number, to_task, wire_path
from holdfast.credentials import Credentials, wire_credentials
from holdfast.enums import ArchiveFormat, CoinFileFormat
from holdfast.models import ExportBackupResult, ExportCoinsResult
from holdfast.task import TaskHandle
from holdfast.v1 import backup_pb2, export_pb2, export_service_pb2
from holdfast.wallets import decimal_text

__all__ = ["Exports"]


class Exports:
    """`client.exports`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def coins(
        self,
        source_id: str,
        amount: Decimal | int | str,
        *,
        folder: str | os.PathLike[str],
        format: CoinFileFormat | str,  # noqa: A002  the API's own word
        create_folder: bool = False,
        tag: str = "",
        png_template: str | os.PathLike[str] | None = None,
        age_recipients: Iterable[str] = (),
        dry_run: bool = False,
        credentials: Credentials | None = None,
        request_id: str | None = None,
    ) -> TaskHandle[ExportCoinsResult]:
        """Start taking coins worth exactly `amount` out of a wallet into new files in `folder`, a path on the server.

        Whoever has the files has the coins, unless they are sealed to `age_recipients`. `amount` is a Decimal, an int
        or text such as `"10.5"`; floats are refused, since 0.1 is none. `png_template` is a picture on the server, for
        format PNG. `credentials` (a wallet password) open encrypted coins of a wallet that is not unlocked.

        Raises FailedPrecondition/NO_EXACT_CHANGE with the nearest amounts in its metadata, INSUFFICIENT_BALANCE. A task
        that failed with EXPORT_UNPUBLISHED is finished by `TaskHandle.resume`.
        """
        if isinstance(amount, float):
            raise TypeError("an amount is a Decimal, an int or text, no float")
        request = export_service_pb2.ExportCoinsRequest(
            source_id=source_id,
            amount=decimal_text(amount),
            folder=wire_path(folder),
            create_folder=create_folder,
            format=to_number(export_pb2.CoinFileFormat, format),
            tag=tag,
            png_template=None if png_template is None else wire_path(png_template),
            age_recipients=age_recipients,
            dry_run=dry_run,
            credentials=wire_credentials(credentials),
            request_id=request_id or str(uuid.uuid4()),
        )
        task = to_task(self._connection.create(self._connection.exports.ExportCoins, request))
        return TaskHandle(self._connection, task)

    def backup(
        self,
        backup_id: str,
        *,
        folder: str | os.PathLike[str],
        format: ArchiveFormat | str,  # noqa: A002  the API's own word
        create_folder: bool = False,
        tag: str = "",
        paths: Iterable[str] = (),
        age_recipients: Iterable[str] = (),
        dry_run: bool = False,
        credentials: Credentials | None = None,
        request_id: str | None = None,
    ) -> TaskHandle[ExportBackupResult]:
        """Start repacking a backup into one file in `folder`, an absolute path on the server.

        `format` may be written as `"zip"`, `"tar.gz"` or `"tar.zst"`. `paths`: only these entries of the backup and all
        below them. The file is sealed to `age_recipients`, if there are any, and in clear otherwise; `credentials` open
        a sealed backup. It is no backup of its own: nothing lists or deletes it.
        """
        request = export_service_pb2.ExportBackupRequest(
            backup_id=backup_id,
            folder=wire_path(folder),
            create_folder=create_folder,
            format=to_number(backup_pb2.ArchiveFormat, format),
            tag=tag,
            paths=[wire_path(path) for path in paths],
            age_recipients=age_recipients,
            dry_run=dry_run,
            credentials=wire_credentials(credentials),
            request_id=request_id or str(uuid.uuid4()),
        )
        task = to_task(self._connection.create(self._connection.exports.ExportBackup, request))
        return TaskHandle(self._connection, task)
