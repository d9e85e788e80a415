"""Registering folders: the rules for ids, kinds and paths of sources."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from holdfast_server.catalog import backups, locks, sources, wallet_keys
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.requests import RequestKey, recall, remember
from holdfast_server.catalog.rows import SourceKind, SourceRow, SourceState
from holdfast_server.clock import Clock
from holdfast_server.core.selection import check_patterns
from holdfast_server.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    HoldfastError,
    NotFound,
    Reason,
    Unavailable,
    invalid_field,
)
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.storage.names import escape
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.wallets.layout import is_wallet, missing_parts

__all__ = [
    "Registration",
    "Skipped",
    "SourceOrder",
    "SourceRegistry",
    "check_display_name",
    "check_source_id",
    "open_source",
    "require_free_id",
    "require_parts",
    "require_source",
    "seen",
    "source_not_found",
    "source_row",
    "source_suspended",
    "with_free_id",
]

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_MAX_NAME = 255
_MAX_DISCOVERED = 1000


@dataclass(frozen=True, slots=True)
class SourceOrder:
    """What RegisterSource asks for. `kind` None is allowed with `discover_wallets` only."""

    path: bytes
    kind: SourceKind | None
    source_id: str | None = None
    display_name: str = ""
    ignore: tuple[str, ...] = ()
    discover_wallets: bool = False


@dataclass(frozen=True, slots=True)
class Skipped:
    """A folder that discovery did not register, and why."""

    path: bytes
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Registration:
    sources: list[SourceRow]
    skipped: list[Skipped]


class SourceRegistry:
    """The registered sources. Thread-safe."""

    def __init__(self, database: Database, policy: FolderPolicy, clock: Clock) -> None:
        self._database = database
        self._policy = policy
        self._clock = clock

    def register(self, order: SourceOrder, key: RequestKey | None) -> Registration:
        """Register a folder, or each wallet directly below it.

        Raises InvalidArgument, AlreadyExists/SOURCE_EXISTS, FailedPrecondition (FOLDER_NOT_FOUND, NOT_A_WALLET,
        SOURCE_UNREADABLE, FOLDER_INSIDE_DATA_DIR), PermissionDenied/PATH_NOT_ALLOWED.
        """
        if order.discover_wallets:
            return self._discover(order, key)
        if order.kind is None:
            raise invalid_field("kind", "must be WALLET or DIRECTORY")
        if order.source_id is not None:
            check_source_id(order.source_id)
        with self._policy.check_source(order.path, "path") as folder:
            if order.kind is SourceKind.WALLET:
                require_parts(folder)
        row = source_row(order, order.path, order.kind, self._clock.now())
        with self._database.write() as connection:
            if key is not None and (known := recall(connection, key)) is not None:
                return Registration(self._recalled(connection, known["source_ids"]), [])
            if order.source_id is None:
                row = with_free_id(connection, row)
            require_free_id(connection, row.source_id)
            sources.insert_source(connection, row)
            if key is not None:
                remember(connection, key, {"source_ids": [row.source_id]}, self._clock.now())
        return Registration([row], [])

    def get(self, source_id: str) -> SourceRow:
        """Raises NotFound/SOURCE_NOT_FOUND."""
        with self._database.read() as connection:
            return require_source(connection, source_id)

    def update(
        self,
        source_id: str,
        *,
        path: bytes | None = None,
        display_name: str | None = None,
        ignore: Sequence[str] | None = None,
        suspended: bool | None = None,
    ) -> SourceRow:
        """Change what is given. A path may change only while no task uses the source (Aborted/SOURCE_BUSY)."""
        values: dict[str, object] = {}
        present = self.get(source_id)
        if path is not None:
            with self._policy.check_source(path, "path") as folder:
                if present.kind == SourceKind.WALLET:
                    require_parts(folder)
            values["path"] = path
        if display_name is not None:
            values["display_name"] = check_display_name(display_name, "display_name")
        if ignore is not None:
            values["ignore"] = check_patterns(ignore, "ignore.patterns")
        if suspended is not None:
            values["state"] = SourceState.SUSPENDED if suspended else SourceState.ACTIVE
        with self._database.write() as connection:
            require_source(connection, source_id)
            if path is not None:
                _require_unused(connection, source_id)
            row = sources.update_source(connection, source_id, update_time=self._clock.now(), **values)
        return row if row is not None else self.get(source_id)

    def unregister(self, source_id: str) -> int:
        """Forget a source, and that it had a password; gives how many backups of it stay. Aborted/SOURCE_BUSY while a
        task uses it."""
        with self._database.write() as connection:
            require_source(connection, source_id)
            _require_unused(connection, source_id)
            sources.delete_source(connection, source_id)
            # Nothing is lost with it: what was encrypted says itself how its password becomes its key.
            wallet_keys.forget_wallet(connection, source_id)
            return backups.count_of_source(connection, source_id)

    def _discover(self, order: SourceOrder, key: RequestKey | None) -> Registration:
        for field, given in (("source_id", order.source_id), ("display_name", order.display_name)):
            if given:
                raise invalid_field(field, "must be unset with discover_wallets: each wallet gets its own")
        if order.kind is SourceKind.DIRECTORY:
            raise invalid_field("kind", "must be WALLET or unset with discover_wallets")
        with self._policy.check_source(order.path, "path") as folder:
            wallets, skipped = _wallets_below(folder)
        base = order.path.rstrip(b"/")
        made: list[SourceRow] = []
        with self._database.write() as connection:
            if key is not None and (known := recall(connection, key)) is not None:
                return Registration(self._recalled(connection, known["source_ids"]), [])
            registered = sources.paths_in_use(connection)
            for name in wallets:
                path = base + b"/" + name
                if path in registered:
                    text = f"is registered as {registered[path]} already"
                    skipped.append(Skipped(path, Reason.SOURCE_EXISTS.value, text))
                    continue
                row = with_free_id(connection, source_row(order, path, SourceKind.WALLET, self._clock.now()))
                sources.insert_source(connection, row)
                made.append(row)
            if key is not None:
                remember(connection, key, {"source_ids": [r.source_id for r in made]}, self._clock.now())
        return Registration(made, skipped)

    def _recalled(self, connection: sa.Connection, source_ids: Sequence[str]) -> list[SourceRow]:
        found = sources.get_sources(connection, source_ids)
        return [found[source_id] for source_id in source_ids if source_id in found]


def source_row(order: SourceOrder, path: bytes, kind: SourceKind, now: int) -> SourceRow:
    """The row of a new source; without an id of its own it has the one derived from its folder's name."""
    name = os.path.basename(path.rstrip(b"/")).decode("utf-8", "replace") or "root"
    return SourceRow(
        source_id=order.source_id or _derived_id(name),
        kind=kind,
        state=SourceState.ACTIVE,
        display_name=check_display_name(order.display_name, "display_name") if order.display_name else name,
        path=path,
        ignore=check_patterns(order.ignore, "ignore"),
        create_time=now,
        update_time=now,
    )


def require_source(connection: sa.Connection, source_id: str) -> SourceRow:
    row = sources.get_source(connection, source_id)
    if row is None:
        raise source_not_found(source_id)
    return row


def source_not_found(source_id: str) -> HoldfastError:
    text = f"there is no source {source_id or 'without an id'}"
    return NotFound(Reason.SOURCE_NOT_FOUND, text, metadata={"source_id": source_id})


def source_suspended(source_id: str) -> HoldfastError:
    return FailedPrecondition(
        Reason.SOURCE_SUSPENDED, f"source {source_id} is suspended", metadata={"source_id": source_id}
    )


def open_source(policy: FolderPolicy, source_id: str, path: bytes) -> OpenFolder:
    """A source's folder, opened and checked. Raises Unavailable/SOURCE_OFFLINE when it is not there, or when nobody
    has said where it is since the catalog was rebuilt."""
    if not path:
        raise Unavailable(
            Reason.SOURCE_OFFLINE,
            f"source {source_id} has no path since the catalog was rebuilt: set it with UpdateSource",
            metadata={"source_id": source_id, "path": ""},
        )
    try:
        return policy.check_source(path, "source_ids")
    except FailedPrecondition as error:
        if error.reason is not Reason.FOLDER_NOT_FOUND:
            raise
        shown = escape(path)
        raise Unavailable(
            Reason.SOURCE_OFFLINE,
            f"source {source_id} cannot be reached at {shown}",
            metadata={"source_id": source_id, "path": shown},
        ) from error


def seen(row: SourceRow) -> SourceRow:
    """The source as it may be shown: ACTIVE only while its path is a folder that can be reached."""
    if row.state == SourceState.ACTIVE and not os.path.isdir(row.path):
        return replace(row, state=SourceState.OFFLINE)
    return row


def check_source_id(source_id: str, field: str = "source_id") -> None:
    if not _ID.fullmatch(source_id):
        raise invalid_field(field, "must match [a-z0-9][a-z0-9._-]{0,62}", value=source_id[:80])


def check_display_name(name: str, field: str) -> str:
    """One line of text, 1 to 255 bytes."""
    if not name.strip() or len(name.encode()) > _MAX_NAME or not name.isprintable():
        raise invalid_field(field, f"must be one line of printable text of at most {_MAX_NAME} bytes")
    return name


def _derived_id(name: str) -> str:
    derived = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:50].rstrip("-._")
    return derived or "source"


def require_free_id(connection: sa.Connection, source_id: str) -> None:
    """Raises AlreadyExists/SOURCE_EXISTS when a source has the id, or gets it from a restore under way."""
    if sources.get_source(connection, source_id) is not None:
        text = f"there is a source {source_id} already"
        raise AlreadyExists(Reason.SOURCE_EXISTS, text, metadata={"source_id": source_id})
    if users := locks.users_of(connection, f"source:{source_id}"):
        raise AlreadyExists(
            Reason.SOURCE_EXISTS,
            f"task {users[0]} makes the source {source_id}",
            metadata={"source_id": source_id, "task_id": users[0]},
        )


def with_free_id(connection: sa.Connection, row: SourceRow) -> SourceRow:
    """The row under its derived id, or that with -2, -3, …: nobody chose it, so nobody is refused for it."""
    wanted, number = row.source_id, 1
    source_id = wanted
    while _is_taken(connection, source_id):
        number += 1
        source_id = f"{wanted}-{number}"
    return SourceRow(**{**row.values(), "source_id": source_id})


def _is_taken(connection: sa.Connection, source_id: str) -> bool:
    used = sources.get_source(connection, source_id) is not None
    return used or bool(locks.users_of(connection, f"source:{source_id}"))


def require_parts(folder: OpenFolder) -> None:
    """Raises FailedPrecondition/NOT_A_WALLET for a folder that lacks a part of a wallet."""
    missing = missing_parts(folder.fd)
    if missing:
        raise FailedPrecondition(
            Reason.NOT_A_WALLET,
            f"{folder.display} is no wallet: it lacks {', '.join(missing)}",
            metadata={"path": folder.display, "missing": ", ".join(missing)},
        )


def _require_unused(connection: sa.Connection, source_id: str) -> None:
    users = locks.users_of(connection, f"source:{source_id}")
    if users:
        raise Aborted(
            Reason.SOURCE_BUSY,
            f"source {source_id} is used by task {users[0]}",
            metadata={"source_id": source_id, "task_id": users[0]},
        )


def _wallets_below(folder: OpenFolder) -> tuple[list[bytes], list[Skipped]]:
    """Names of the wallets directly below, and the folders that are none. Links are not followed."""
    wallets: list[bytes] = []
    skipped: list[Skipped] = []
    base = folder.path.rstrip(b"/")
    open_flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    for name in sorted(os.fsencode(entry) for entry in os.listdir(folder.fd)):
        if not stat.S_ISDIR(os.stat(name, dir_fd=folder.fd, follow_symlinks=False).st_mode):
            continue
        path = base + b"/" + name
        try:
            fd = os.open(name, open_flags, dir_fd=folder.fd)
        except OSError as error:
            skipped.append(Skipped(path, Reason.SOURCE_UNREADABLE.value, error.strerror or str(error)))
            continue
        try:
            if is_wallet(fd):
                wallets.append(name)
            else:
                text = "lacks " + ", ".join(missing_parts(fd))
                skipped.append(Skipped(path, Reason.NOT_A_WALLET.value, text))
        except OSError as error:
            skipped.append(Skipped(path, Reason.SOURCE_UNREADABLE.value, error.strerror or str(error)))
        finally:
            os.close(fd)
        if len(wallets) > _MAX_DISCOVERED:
            raise invalid_field("path", f"holds more than {_MAX_DISCOVERED} wallets", path=escape(folder.path))
    return wallets, skipped
