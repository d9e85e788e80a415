"""The catalog filled again from the archives that lie in folders, after it was lost.

Rows that exist are never changed, files never touched: what is found and not there yet is added, each archive in a
transaction of its own, so that an interrupted run has only less to do the next time.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, BinaryIO

from holdfast_server.archive.format import SEALED_SUFFIX
from holdfast_server.archive.sidecar import SIDECAR_SUFFIX
from holdfast_server.catalog import backups, sources
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import BackupRow, BackupState, SourceKind, SourceRow, SourceState
from holdfast_server.clock import Clock
from holdfast_server.core.finding import ArchiveFacts, is_archive_name, read_facts, read_sealed_facts
from holdfast_server.core.publish import read_sidecar
from holdfast_server.core.trash import TRASH_PREFIX
from holdfast_server.core.verify import VerifyLevel
from holdfast_server.errors import FailedPrecondition, HoldfastError, Reason
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.storage.names import escape
from holdfast_server.storage.tree import EntryKind, ProblemReason, TreeEntry, TreeProblem, walk
from holdfast_server.tasks.sources import check_source_id

__all__ = ["CatalogRebuild", "Finding", "FindingKind", "RebuildSummary"]

_log = logging.getLogger(__name__)

_MAX_TEXT = 1024
_MAX_PATTERNS = 2000
_MAX_PATTERN = 8192


class FindingKind(StrEnum):
    """What became of one archive, repository or snapshot. READING comes before, and again and again meanwhile."""

    READING = "reading"
    FOUND = "found"
    KNOWN = "known"
    SKIPPED = "skipped"
    #: A backup that the catalog or a repository's log tells of, and whose archive or snapshot is not there.
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line for people about the file or folder at `path`."""

    kind: FindingKind
    path: bytes
    text: str = ""


@dataclass(slots=True)
class RebuildSummary:
    """Archives, repositories and snapshots by what became of them, and the ids of the sources that wait for a path."""

    found: int = 0
    known: int = 0
    skipped: int = 0
    missing: int = 0
    pathless: tuple[str, ...] = ()

    def count(self, kind: FindingKind) -> None:
        setattr(self, kind.value, getattr(self, kind.value) + 1)


class CatalogRebuild:
    """One run. Nobody else may write to the catalog meanwhile.

    `data_dir` is left out wherever it is met. `tell` gets every finding as it is made. With `dry_run` nothing is
    added. `summary` is gone on with.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        data_dir: bytes,
        tell: Callable[[Finding], None],
        summary: RebuildSummary | None = None,
        *,
        recursive: bool = False,
        dry_run: bool = False,
    ) -> None:
        self._database = database
        self._clock = clock
        status = os.stat(data_dir)
        self._skip = frozenset({(status.st_dev, status.st_ino)})
        self._tell = tell
        self._recursive = recursive
        self._dry_run = dry_run
        self._summary = summary or RebuildSummary()
        self._by_path: dict[bytes, BackupRow] = {}
        self._seen: dict[str, bytes] = {}

    def run(self, folders: Sequence[OpenFolder]) -> RebuildSummary:
        """Look through the opened folders, whose paths are absolute and become those of the backups."""
        with self._database.read() as connection:
            found = backups.every_backup(connection)
        self._by_path = {row.storage_path: row for row in found if row.repository_id is None}
        for folder in folders:
            self._look_through(folder)
        for row in self._by_path.values():
            self._report_missing(row, [folder.path for folder in folders])
        with self._database.read() as connection:
            self._summary.pathless = tuple(sources.without_path(connection))
        return self._summary

    def _look_through(self, folder: OpenFolder) -> None:
        found = walk(folder.fd, keep=self._keep, check=lambda: None, skip_identities=self._skip)
        for item in found:
            path = folder.path.rstrip(b"/") + b"/" + item.path
            if isinstance(item, TreeProblem):
                if item.reason is not ProblemReason.SERVICE_DATA_SKIPPED:
                    self._note(FindingKind.SKIPPED, path, item.message)
            elif item.kind is EntryKind.SYMLINK:
                self._note(FindingKind.SKIPPED, path, "is a link, and links are not followed")
            elif item.kind is EntryKind.FILE:
                self._one(path, item)

    def _keep(self, path: bytes, is_directory: bool) -> bool:
        name = path.rpartition(b"/")[2]
        if is_directory:
            return self._recursive
        hidden = name.startswith(TRASH_PREFIX) and not name.endswith(SIDECAR_SUFFIX)
        return hidden or is_archive_name(name)

    def _one(self, path: bytes, entry: TreeEntry) -> None:
        row = self._by_path.get(path)
        if row is not None and row.state == BackupState.COMPLETED:
            if row.size == entry.size:
                self._note(FindingKind.KNOWN, path)
            else:
                self._note(FindingKind.SKIPPED, path, f"has {entry.size} bytes, the catalog says {row.size}")
        elif entry.name.startswith(TRASH_PREFIX):
            text = "lies in the trash of a catalog that is gone: rename it to bring it back, or remove it"
            self._note(FindingKind.SKIPPED, path, text)
        else:
            self._read(path, entry)

    def _read(self, path: bytes, entry: TreeEntry) -> None:
        reading = Finding(FindingKind.READING, path, f"{entry.size} bytes")
        self._tell(reading)
        try:
            fd, _ = entry.open_file()
            with os.fdopen(fd, "rb") as file:
                facts = self._facts(file, entry, lambda: self._tell(reading))
            row, source = self._rows(path, facts)
            text = self._already(row, path)
            if text is not None:
                self._note(FindingKind.SKIPPED if text else FindingKind.KNOWN, path, text)
                return
            self._add(row, source)
        except HoldfastError as error:
            self._note(FindingKind.SKIPPED, path, error.message)
        except OSError as error:
            self._note(FindingKind.SKIPPED, path, f"cannot be read: {error.strerror or error}")
        except Exception as error:  # noqa: BLE001  one archive, whatever it holds, must not end the run
            _log.exception("reading %s failed", escape(path))
            self._note(FindingKind.SKIPPED, path, f"cannot be read: {type(error).__name__}")
        else:
            self._seen[row.backup_id] = path
            size = f"{facts.statistics.files} files, {facts.statistics.original_size} bytes"
            self._note(FindingKind.FOUND, path, f"backup {row.backup_id} of source {row.source_id}: {size}")

    def _facts(self, file: BinaryIO, entry: TreeEntry, check: Callable[[], None]) -> ArchiveFacts:
        if not entry.name.endswith(SEALED_SUFFIX.encode()):
            return read_facts(file, check)
        try:
            sidecar = read_sidecar(entry.parent.fd, entry.name)
        except FileNotFoundError:
            raise _refused("it is sealed and has no sidecar: only its identity could tell what it is") from None
        return read_sealed_facts(file, sidecar, check)

    def _already(self, row: BackupRow, path: bytes) -> str | None:
        """Why the backup is not added: empty when this very file is known; None when it is new."""
        with self._database.read() as connection:
            known = backups.get_backup(connection, row.backup_id)
        other = self._seen.get(row.backup_id) if known is None else known.storage_path
        if other is None:
            return None
        if known is not None and known.state != BackupState.COMPLETED:
            return f"backup {row.backup_id} is in the catalog in state {known.state}, which is not changed"
        if _is_same_file(path, other):
            return ""
        gone = "" if os.path.lexists(other) else ", which is gone: move this file there"
        return f"backup {row.backup_id} is in the catalog already, at {escape(other)}{gone}"

    def _rows(self, path: bytes, facts: ArchiveFacts) -> tuple[BackupRow, SourceRow]:
        """What the catalog will say. Raises FailedPrecondition/ARCHIVE_INVALID where the manifest cannot be believed,
        InvalidArgument for a source_id that cannot be one."""
        header = facts.header
        if "exported_from" in header:
            raise _refused("it is an export, not a backup")
        source = header.get("source")
        if not isinstance(source, dict) or source.get("kind") not in SourceKind.__members__:
            raise _refused("its manifest names no source")
        source_id = _text(source, "source_id")
        check_source_id(source_id)
        now, created = self._clock.now(), _create_time(header)
        folder, _, file_name = path.rpartition(b"/")
        row = BackupRow(
            backup_id=_backup_id(header),
            name=_text(header, "name"),
            source_id=source_id,
            task_id="",
            kind="ARCHIVE",
            state=BackupState.COMPLETED,
            format=facts.format.name,
            folder=folder or b"/",
            ignore=_patterns(header),
            create_time=created,
            update_time=now,
            file_name=file_name,
            size=facts.size,
            sha256=facts.sha256,
            complete=facts.statistics.complete,
            # A manifest is written before the end is known; the file's own time is the nearest that is left.
            complete_time=facts.modified_us if created <= facts.modified_us <= now else created,
            statistics={**facts.statistics.to_record(), "stored_size": facts.size, "duration": None},
            sealed=facts.sealed,
        )
        # Its path is not in the manifest, by design: it stays OFFLINE until UpdateSource gives it one. Its own patterns
        # cannot be told from those of one call, so it starts with none: rather too much in the next backup.
        registered = SourceRow(
            source_id=source_id,
            kind=source["kind"],
            state=SourceState.ACTIVE,
            display_name=_text(source, "display_name"),
            path=b"",
            ignore=[],
            create_time=now,
            update_time=now,
        )
        return row, registered

    def _add(self, row: BackupRow, source: SourceRow) -> None:
        if self._dry_run:
            return
        with self._database.write() as connection:
            sources.insert_source(connection, source)
            backups.insert_backup(connection, row)
            backups.add_verification(
                connection, row.backup_id, time=self._clock.now(), ok=True, files_checked=0, task_id="",
                level=(VerifyLevel.CHECKSUM if row.sealed else VerifyLevel.STRUCTURE).value,
                bytes_checked=row.size if row.sealed else 0,
                message="found by rebuild-catalog; no file's content was compared",
            )  # fmt: skip

    def _report_missing(self, row: BackupRow, folders: Sequence[bytes]) -> None:
        if row.state != BackupState.COMPLETED or row.trashed or os.path.lexists(row.storage_path):
            return
        for folder in folders:
            if row.folder == folder or (self._recursive and row.folder.startswith(folder.rstrip(b"/") + b"/")):
                self._note(FindingKind.MISSING, row.storage_path, f"the archive of backup {row.backup_id} is gone")
                return

    def _note(self, kind: FindingKind, path: bytes, text: str = "") -> None:
        self._summary.count(kind)
        self._tell(Finding(kind, path, text))


def _refused(what: str) -> FailedPrecondition:
    return FailedPrecondition(Reason.ARCHIVE_INVALID, f"the archive is no backup: {what}", metadata={"detail": what})


def _text(record: Any, key: str) -> str:
    value = record.get(key)
    try:
        if isinstance(value, str) and value and len(value.encode()) <= _MAX_TEXT:
            return value
    except UnicodeEncodeError:
        pass
    raise _refused(f"its manifest has no usable {key}")


def _backup_id(header: Any) -> str:
    text = _text(header, "backup_id")
    try:
        if str(uuid.UUID(text)) == text:
            return text
    except ValueError:
        pass
    raise _refused("its manifest's backup_id is no UUID")


def _create_time(header: Any) -> int:
    try:
        time = datetime.fromisoformat(_text(header, "create_time"))
        if time.tzinfo is not None and time >= datetime(1970, 1, 1, tzinfo=UTC):
            return int(time.timestamp() * 1_000_000)
    except (ValueError, OverflowError):
        pass
    raise _refused("its manifest's create_time is no time")


def _patterns(header: Any) -> list[str]:
    value = header.get("ignore", [])
    if not isinstance(value, list) or len(value) > _MAX_PATTERNS:
        raise _refused("its manifest's patterns are none")
    if all(isinstance(one, str) and len(one) <= _MAX_PATTERN for one in value):
        return list(value)
    raise _refused("its manifest's patterns are none")


def _is_same_file(one: bytes, other: bytes) -> bool:
    try:
        return os.path.samestat(os.lstat(one), os.lstat(other))
    except OSError:
        return False
