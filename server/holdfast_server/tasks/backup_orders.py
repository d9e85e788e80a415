"""Orders for BACKUP tasks: checked in the edge, filed in one transaction with the backups they will make."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import sqlalchemy as sa

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.sealing import parse_recipients
from holdfast_server.catalog import backups, repositories, sources, wallet_keys
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.requests import RequestKey
from holdfast_server.catalog.rows import (
    BackupRow,
    BackupState,
    LockMode,
    LockWish,
    SourceKind,
    SourceRow,
    SourceState,
    TaskKind,
    TaskRow,
)
from holdfast_server.clock import Clock
from holdfast_server.core.repository_place import store_unreachable
from holdfast_server.core.selection import check_patterns
from holdfast_server.errors import AlreadyExists, FailedPrecondition, HoldfastError, Reason, invalid_field
from holdfast_server.storage.folder import OpenFolder, lies_within, open_folder
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks.backup_maintenance import MaintenanceOrder
from holdfast_server.tasks.credentials import Credentials
from holdfast_server.tasks.engine import NewTask, TaskEngine
from holdfast_server.tasks.publishing import check_tag
from holdfast_server.tasks.repositories import require_repository
from holdfast_server.tasks.repository_states import require_sound
from holdfast_server.tasks.sources import check_display_name, open_source, source_not_found, source_suspended
from holdfast_server.tasks.wallet_keys import WalletKeys, key_required

__all__ = ["RECIPIENTS_FIELD", "BackupOrder", "BackupOrders"]

_MAX_SOURCES = 1000
RECIPIENTS_FIELD = "archive.age_recipients"


@dataclass(frozen=True, slots=True)
class BackupOrder:
    """What CreateBackup asks for, into a repository, or into an archive of a `format` in `folder`, a path as bytes.
    `backup_id` is a canonical UUID; `recipients` are those of age."""

    source_ids: tuple[str, ...]
    all_wallets: bool
    folder: bytes = b""
    format: ArchiveFormat | None = None
    repository_id: str = ""
    tag: str = ""
    create_folder: bool = False
    recipients: tuple[str, ...] = ()
    name: str = ""
    backup_id: str | None = None
    locked: bool = False
    ignore: tuple[str, ...] = ()
    fail_on_error: bool = False
    dry_run: bool = False
    maintenance: MaintenanceOrder | None = None


class BackupOrders:
    """Files backup orders. Thread-safe."""

    def __init__(
        self, database: Database, engine: TaskEngine, policy: FolderPolicy, clock: Clock, keys: WalletKeys
    ) -> None:
        self._database = database
        self._engine = engine
        self._policy = policy
        self._clock = clock
        self._keys = keys

    def create(self, order: BackupOrder, principal: str, key: RequestKey | None) -> TaskRow:
        """Check everything that can be checked now, create the folder if asked to, and queue the task.

        Raises InvalidArgument, NotFound/SOURCE_NOT_FOUND, FailedPrecondition (SOURCE_SUSPENDED, NO_SOURCES, FOLDER_…,
        KEY_REQUIRED when all are unlocked wallets without a key), PermissionDenied/PATH_NOT_ALLOWED, Unavailable
        (SOURCE_OFFLINE, and NO_WORKER with an unlocked wallet), AlreadyExists (BACKUP_EXISTS, REQUEST_ID_REUSED).
        """
        _check_order(order)
        if key is not None and (known := self._engine.recall(key)) is not None:
            return known
        with self._database.read() as connection:
            chosen = _choose(connection, order)
        opened = self._open(order, chosen)
        with ExitStack() as stack:
            stack.callback(_close, opened)
            if order.repository_id:
                self._check_repository(order, opened)
            else:
                folder = self._policy.check_destination(
                    order.folder, "archive.folder", sources=opened, create=order.create_folder, dry_run=order.dry_run
                )
                if folder is not None:
                    stack.enter_context(folder)
            return self._engine.create(partial(self._file, order, principal), key)

    def _check_repository(self, order: BackupOrder, opened: Sequence[OpenFolder]) -> None:
        """Raises NotFound/REPOSITORY_NOT_FOUND, Unavailable/STORAGE_UNREACHABLE, FailedPrecondition/
        STORE_UNSUITABLE, FOLDER_INSIDE_SOURCE."""
        with self._database.read() as connection:
            row = require_repository(connection, order.repository_id)
        try:
            opened_folder = open_folder(row.location)
        except HoldfastError as error:
            raise store_unreachable(row.repository_id, row.location) from error
        with opened_folder as folder:
            require_sound(row)
            for source in opened:
                if lies_within(folder.fd, source.fd) or lies_within(source.fd, folder.fd):
                    raise FailedPrecondition(
                        Reason.FOLDER_INSIDE_SOURCE,
                        f"repository {row.repository_id} at {folder.display} and the source at {source.display} lie in "
                        "one another",
                        metadata={"repository_id": row.repository_id, "source": source.display},
                    )

    def _open(self, order: BackupOrder, chosen: Sequence[SourceRow]) -> list[OpenFolder]:
        """The sources' folders.

        With `all_wallets` those that cannot be opened now are left to fail in the task, so that an unplugged wallet
        neither keeps the others from being backed up nor goes unnoticed.
        """
        opened: list[OpenFolder] = []
        failure: HoldfastError | None = None
        for row in chosen:
            try:
                opened.append(open_source(self._policy, row.source_id, row.path))
            except HoldfastError as error:
                if not order.all_wallets:
                    _close(opened)
                    raise
                failure = failure or error
        if failure is not None and not opened:
            raise failure
        return opened

    def _file(self, order: BackupOrder, principal: str, connection: sa.Connection) -> NewTask:
        chosen = _choose(connection, order)  # once more: the world may have moved since the folders were opened
        now = self._clock.now()
        task_id = str(uuid.uuid4())
        key_ids, credentials = self._coin_keys(order, chosen, connection)
        target, wishes, sealed = _target(order, connection)
        if sealed and order.ignore:
            hidden = {"ignore": list(order.ignore)}
            credentials = replace(credentials, hidden=hidden) if credentials else Credentials(hidden=hidden)
        entries: list[dict[str, Any]] = []
        for row in chosen:
            backup_id = order.backup_id or str(uuid.uuid4())
            name = order.name or f"{row.display_name} {datetime.fromtimestamp(now / 1e6, UTC):%Y-%m-%d %H:%M:%S} UTC"
            ignore = [*row.ignore, *order.ignore]
            entries.append(
                {
                    "source_id": row.source_id,
                    "backup_id": backup_id,
                    "kind": row.kind,
                    "display_name": row.display_name,
                    "path": base64.b64encode(row.path).decode(),
                    **({} if sealed else {"ignore": ignore}),
                    "name": name,
                    **({"coin_key_id": key_ids[row.source_id]} if row.source_id in key_ids else {}),
                }
            )
            if not order.dry_run:
                backups.insert_backup(
                    connection,
                    BackupRow(
                        backup_id=backup_id, name=name, source_id=row.source_id, task_id=task_id,
                        kind="SNAPSHOT" if order.repository_id else "ARCHIVE", state=BackupState.IN_PROGRESS,
                        format=order.format.name if order.format else "", folder=order.folder,
                        repository_id=order.repository_id or None,
                        ignore=[] if sealed else ignore, sealed=sealed or bool(order.recipients),
                        create_time=now, update_time=now, locked=order.locked,
                    ),
                )  # fmt: skip
        request = {
            "task_id": task_id,
            "sources": entries,
            **target,
            "locked": order.locked,
            "fail_on_error": order.fail_on_error,
            "created": now,
        }
        if order.maintenance is not None and order.maintenance.is_wanted:
            request["maintenance"] = order.maintenance.to_record()
        ids = [row.source_id for row in chosen]
        return NewTask(
            kind=TaskKind.BACKUP,
            principal=principal,
            request=request,
            source_ids=ids,
            wishes=[LockWish(f"source:{source_id}", LockMode.SHARED) for source_id in ids] + wishes,
            dry_run=order.dry_run,
            message="waiting",
            credentials=credentials,
        )

    def _coin_keys(
        self, order: BackupOrder, chosen: Sequence[SourceRow], connection: sa.Connection
    ) -> tuple[dict[str, str], Credentials | None]:
        """Source id → key id of the unlocked wallets, and what their keys reach the worker as.

        One whose key is not at hand fails alone, in the task; when that is all of them, the call does.
        """
        if order.dry_run:
            return {}, None
        unlocked = wallet_keys.unlocks(connection, self._clock.now(), [row.source_id for row in chosen])
        credentials = self._keys.attach(unlocked, connection=connection)
        if credentials is None and 0 < len(unlocked) == len(chosen):
            first = unlocked[chosen[0].source_id]
            raise key_required(first.source_id, first.key_id)
        return {source_id: unlock.key_id for source_id, unlock in unlocked.items()}, credentials


def _target(order: BackupOrder, connection: sa.Connection) -> tuple[dict[str, Any], list[LockWish], bool]:
    """What the request says of where the backups go, what is locked for it, and whether it is sealed."""
    if order.repository_id:
        row = require_repository(connection, order.repository_id)
        wish = LockWish(repositories.lock_resource(row.repository_id), LockMode.SHARED)
        return {"repository_id": row.repository_id, "sealed": row.sealed}, [wish], row.sealed
    assert order.format is not None
    target = {
        "folder": base64.b64encode(order.folder).decode(),
        "format": order.format.value,
        "tag": order.tag,
        "recipients": list(order.recipients),
    }
    return target, [], False


def _check_order(order: BackupOrder) -> None:
    if order.all_wallets and order.source_ids:
        raise invalid_field("source_ids", "must be empty with all_wallets")
    if not order.all_wallets and not order.source_ids:
        raise invalid_field("source_ids", "must name at least one source, or set all_wallets")
    if len(order.source_ids) > _MAX_SOURCES:
        raise invalid_field("source_ids", f"names {len(order.source_ids)} sources, at most {_MAX_SOURCES} are allowed")
    if len(set(order.source_ids)) < len(order.source_ids):
        raise invalid_field("source_ids", "names a source twice")
    check_tag(order.tag, "archive.tag")
    if order.name:
        check_display_name(order.name, "name")
        if order.all_wallets or len(order.source_ids) > 1:
            raise invalid_field("name", "must be unset with more than one source: each backup gets its own")
    if order.backup_id is not None and (order.all_wallets or len(order.source_ids) > 1):
        raise invalid_field("backup_id", "must be unset with more than one source: each backup gets its own")
    check_patterns(order.ignore, "ignore")
    if order.recipients:
        parse_recipients(order.recipients, RECIPIENTS_FIELD)
    if order.maintenance is not None:
        if not order.repository_id:
            raise invalid_field("maintenance", "goes with a repository target only")
        if order.dry_run:
            raise invalid_field("maintenance", "must be unset with dry_run: a prune of its own tells what it would do")
        order.maintenance.check()


def _choose(connection: sa.Connection, order: BackupOrder) -> list[SourceRow]:
    if order.backup_id is not None and backups.get_backup(connection, order.backup_id) is not None:
        raise AlreadyExists(
            Reason.BACKUP_EXISTS,
            f"there is a backup {order.backup_id} already",
            metadata={"backup_id": order.backup_id},
        )
    if order.all_wallets:
        chosen = sources.list_sources(
            connection, limit=_MAX_SOURCES + 1, kinds=[SourceKind.WALLET], states=[SourceState.ACTIVE]
        )
        if not chosen:
            raise FailedPrecondition(Reason.NO_SOURCES, "there is no active wallet to back up")
        if len(chosen) > _MAX_SOURCES:
            raise invalid_field(
                "all_wallets", f"there are more than {_MAX_SOURCES} wallets; name them in several calls"
            )
        return chosen
    found = sources.get_sources(connection, order.source_ids)
    for source_id in order.source_ids:
        if source_id not in found:
            raise source_not_found(source_id)
        if found[source_id].state == SourceState.SUSPENDED:
            raise source_suspended(source_id)
    return [found[source_id] for source_id in order.source_ids]


def _close(folders: Sequence[OpenFolder]) -> None:
    for folder in folders:
        folder.close()
