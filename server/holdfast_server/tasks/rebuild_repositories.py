"""Repositories and their snapshots brought back into a catalog that was lost.

Where a repository lies is told by whoever calls, or by the file `place` beside its keys in the data directory. Its keys
come from there too, or, after the whole data directory was lost, from a key slot by a secret. Rows that exist are never
changed and nothing is written to a repository: what is found and not there yet is added, each backup in a transaction
of its own, so that an interrupted run has only less to do the next time.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from holdfast_server.catalog import backups, repositories, sources
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import (
    BackupRow,
    BackupState,
    RepositoryRow,
    RepositoryState,
    SourceKind,
    SourceRow,
    SourceState,
)
from holdfast_server.clock import Clock
from holdfast_server.core.kept_place import KeptPlace, has_keys, keep_repository, kept_uuid, read_place
from holdfast_server.core.new_repository import slot_record
from holdfast_server.core.repository_place import (
    OpenRepository,
    RepositoryPlace,
    open_by_secret,
    open_place,
    require_newest,
    uuid_at,
)
from holdfast_server.core.verify import VerifyLevel
from holdfast_server.errors import AlreadyExists, DataLoss, FailedPrecondition, HoldfastError, Reason
from holdfast_server.repository import BrowsingIndex, History, Snapshot, read_history
from holdfast_server.storage.local import translate_os_error
from holdfast_server.storage.names import escape
from holdfast_server.tasks.new_repository import KEYS_FOLDER, keys_folder
from holdfast_server.tasks.rebuild import Finding, FindingKind, RebuildSummary
from holdfast_server.tasks.repositories import REPOSITORY_ID, repository_place
from holdfast_server.tasks.snapshot_target import snapshot_statistics
from holdfast_server.tasks.sources import check_source_id
from holdfast_server.tasks.verify_snapshot import SNAPSHOT

__all__ = ["RepositoriesRebuild", "ToldPlace"]

_log = logging.getLogger(__name__)

_MOST = 100_000


@dataclass(frozen=True, slots=True)
class ToldPlace:
    """Where a repository lies, an absolute folder. `repository_id` None: that whose keys the data directory has."""

    repository_id: str | None
    location: bytes


class RepositoriesRebuild:
    """One run. Nobody else may write to the catalog or to the data directory meanwhile.

    `secret` is a passphrase, the content of a key file or a recovery key; it is needed where the data directory has no
    keys. `tell` gets every finding as it is made; `summary` counts them. With `dry_run` nothing is added or kept.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        data_dir: bytes,
        tell: Callable[[Finding], None],
        summary: RebuildSummary,
        *,
        secret: str | None = None,
        dry_run: bool = False,
    ) -> None:
        self._database = database
        self._clock = clock
        self._data_dir = data_dir
        self._tell = tell
        self._summary = summary
        self._secret = secret
        self._dry_run = dry_run
        self._rows: dict[str, RepositoryRow] = {}

    def run(self, told: Sequence[ToldPlace]) -> None:
        """Take up the repositories that were told, then all others that the data directory or the catalog knows."""
        with self._database.read() as connection:
            self._rows = {row.repository_id: row for row in repositories.list_repositories(connection, limit=_MOST)}
        done: set[str] = set()
        for one in told:
            repository_id = one.repository_id or self._by_uuid(one.location)
            if repository_id is not None:
                done.add(repository_id)
                self._take_up(repository_id, one.location)
        for repository_id in sorted({*self._rows, *self._kept()} - done):
            self._take_up(repository_id, None)

    def _kept(self) -> Iterator[str]:
        """The ids of which the data directory keeps something."""
        with suppress(FileNotFoundError):
            for name in map(os.fsdecode, os.listdir(os.path.join(self._data_dir, KEYS_FOLDER))):
                if REPOSITORY_ID.fullmatch(name) and os.path.isdir(keys_folder(self._data_dir, name)):
                    yield name

    def _by_uuid(self, location: bytes) -> str | None:
        """The id of the repository in a folder; told as skipped when neither catalog nor keys know it."""
        try:
            uuid = uuid_at(location)
            for row in self._rows.values():
                if row.uuid == uuid:
                    return row.repository_id
            for repository_id in sorted(self._kept()):
                if kept_uuid(keys_folder(self._data_dir, repository_id)) == uuid:
                    return repository_id
        except HoldfastError as error:
            self._note(FindingKind.SKIPPED, location, error.message)
            return None
        text = "the data directory has no keys of this repository: say --repository ID=FOLDER, with what opens it"
        self._note(FindingKind.SKIPPED, location, text)
        return None

    def _take_up(self, repository_id: str, told: bytes | None) -> None:
        folder = keys_folder(self._data_dir, repository_id)
        row, kept = self._rows.get(repository_id), read_place(folder)
        location = told or (row.location if row else None) or (kept.location if kept else None)
        if location is None:
            text = f"keys of repository {repository_id}: say --repository {repository_id}=FOLDER, where it lies"
            self._note(FindingKind.SKIPPED, folder, text)
            return
        self._tell(Finding(FindingKind.READING, location, f"repository {repository_id}"))
        try:
            self._require_told_place(row, location)
            with self._opened(repository_id, location, row) as opened:
                self._require_new(opened, row)
                display_name = row.display_name if row else kept.display_name if kept else repository_id
                self._look_through(opened, row, KeptPlace(repository_id, display_name, location))
        except HoldfastError as error:
            self._note(FindingKind.SKIPPED, location, error.message)
        except OSError as error:
            self._note(FindingKind.SKIPPED, location, f"cannot be read: {error.strerror or error}")

    def _opened(self, repository_id: str, location: bytes, row: RepositoryRow | None) -> OpenRepository:
        """The repository by the keys in the data directory, or else by the secret. Raises as `open_place`."""
        place = RepositoryPlace(repository_id, location, keys_folder(self._data_dir, repository_id), None)
        if row is not None:
            place = repository_place(row, self._data_dir, trusted=True)
        if has_keys(place.keys_folder):
            return open_place(place)
        if self._secret is None:
            text = f"the data directory has no keys of repository {repository_id}: give what opens a key slot of it"
            raise FailedPrecondition(Reason.REPOSITORY_KEYS_LOST, text)
        return open_by_secret(place, self._secret)

    def _require_told_place(self, row: RepositoryRow | None, location: bytes) -> None:
        if row is not None and row.location != location and not _is_same_folder(row.location, location):
            text = f"repository {row.repository_id} is in the catalog already, at {escape(row.location)}"
            raise AlreadyExists(Reason.REPOSITORY_EXISTS, text)

    def _require_new(self, opened: OpenRepository, row: RepositoryRow | None) -> None:
        """Raises for what cannot be added, or is not what the catalog has seen."""
        if row is not None:
            require_newest(opened, row.log_vector)
            return
        for other in self._rows.values():
            if other.uuid == opened.keys.uuid:
                text = f"it is in the catalog already, as repository {other.repository_id}"
                raise AlreadyExists(Reason.REPOSITORY_EXISTS, text)

    def _look_through(self, opened: OpenRepository, row: RepositoryRow | None, place: KeptPlace) -> None:
        reading = Finding(FindingKind.READING, place.location, f"repository {place.repository_id}")
        history = read_history(opened.repository, lambda: self._tell(reading))
        for error in history.log_damage:
            text = f"{error.message}; later names, locks and deletions are not known"
            self._note(FindingKind.SKIPPED, _object(place.location, "log"), text)
        for writer, head in history.behind.items():
            text = f"the log of writer {writer.hex()} lacks its entry {head.sequence}, of which others tell"
            self._note(FindingKind.MISSING, _object(place.location, "log"), text)
        self._keep_repository(opened, row, place, history)
        patterns = _Patterns(opened)
        for snapshot in history.snapshots:
            self._one(opened, place, snapshot, patterns)
        for damaged in history.damaged:
            named = f"backup {damaged.run_id}{'' if damaged.name is None else f' ({damaged.name})'}: "
            path = _object(place.location, f"snapshots/{damaged.run_id}")
            self._note(FindingKind.SKIPPED, path, named + damaged.error.message)
        self._report_missing(place, history)

    def _keep_repository(
        self, opened: OpenRepository, row: RepositoryRow | None, place: KeptPlace, history: History
    ) -> None:
        config = opened.repository.config
        keys = None
        if not has_keys(opened.place.keys_folder):
            keys = opened.keys.without_content() if config.sealed else opened.keys
        if not self._dry_run and (row is None or keys is not None):
            try:
                keep_repository(opened.place.keys_folder, place, keys)
            except OSError as error:
                raise translate_os_error(error, f"keeping the keys of repository {place.repository_id}") from error
        if row is not None:
            self._note(FindingKind.KNOWN, place.location)
            return
        row = self._repository_row(opened, place, history)
        if not self._dry_run:
            with self._database.write() as connection:
                repositories.insert_repository(connection, row)
        self._rows[row.repository_id] = row
        sealed = ", sealed" if row.sealed else ""
        self._note(FindingKind.FOUND, place.location, f"repository {row.repository_id}{sealed}")

    def _repository_row(self, opened: OpenRepository, place: KeptPlace, history: History) -> RepositoryRow:
        def damaged_slot(error: DataLoss | FailedPrecondition) -> None:
            self._note(FindingKind.SKIPPED, _object(place.location, "keys"), error.message)

        config, slots = opened.repository.config, opened.repository.slots(damaged_slot)
        return RepositoryRow(
            repository_id=place.repository_id,
            display_name=place.display_name,
            location=place.location,
            sealed=config.sealed,
            state=RepositoryState.READY,
            uuid=config.uuid,
            fingerprint=opened.repository.fingerprint,
            format_version=config.format_version,
            compression_level=config.compression_level,
            keys=[slot_record(slot) for slot in slots if slot.slot_id not in history.removed_slots],
            create_time=config.create_us,
            update_time=self._clock.now(),
            key_epoch=history.key_epoch,
            log_vector={writer.hex(): [head.sequence, head.hash.hex()] for writer, head in history.vector.items()},
        )

    def _one(self, opened: OpenRepository, place: KeptPlace, snapshot: Snapshot, patterns: _Patterns) -> None:
        path = _object(place.location, f"snapshots/{snapshot.run_id}")
        try:
            with self._database.read() as connection:
                known = backups.get_backup(connection, snapshot.run_id)
            if known is not None:
                self._note(*_known(known, place.repository_id, path))
                return
            row, source = _rows(snapshot, opened, self._clock.now())
            if not self._dry_run:
                self._add(replace(row, ignore=patterns.of(snapshot)), source)
        except HoldfastError as error:
            self._note(FindingKind.SKIPPED, path, error.message)
        except Exception as error:  # noqa: BLE001  one snapshot, whatever it holds, must not end the run
            _log.exception("reading %s failed", escape(path))
            self._note(FindingKind.SKIPPED, path, f"cannot be read: {type(error).__name__}")
        else:
            size = f"{snapshot.counts.files} files, {snapshot.counts.bytes} bytes"
            text = f"backup {snapshot.run_id} of source {snapshot.source_id}: {size}"
            self._note(FindingKind.FOUND, path, text)

    def _add(self, row: BackupRow, source: SourceRow) -> None:
        with self._database.write() as connection:
            sources.insert_source(connection, source)
            backups.insert_backup(connection, row)
            backups.add_verification(
                connection, row.backup_id, time=self._clock.now(), ok=True, files_checked=0, bytes_checked=0,
                level=VerifyLevel.STRUCTURE.value, task_id="",
                message="found by rebuild-catalog; nothing but the snapshot itself was looked at",
            )  # fmt: skip

    def _report_missing(self, place: KeptPlace, history: History) -> None:
        with self._database.read() as connection:
            known = backups.snapshots_in(connection, place.repository_id)
        there = {one.run_id for one in history.snapshots} | {one.run_id for one in history.damaged}
        expected = {backup_id for backup_id, row in known.items() if not row.trashed}
        for backup_id in sorted((expected - there) | set(history.missing)):
            path = _object(place.location, f"snapshots/{backup_id}")
            self._note(FindingKind.MISSING, path, f"the snapshot of backup {backup_id} is gone")

    def _note(self, kind: FindingKind, path: bytes, text: str = "") -> None:
        self._summary.count(kind)
        self._tell(Finding(kind, path, text))


class _Patterns:
    """The ignore patterns of snapshots, which stand in the content tier. Not those of a sealed repository: nothing of
    it is kept in the catalog in clear."""

    def __init__(self, opened: OpenRepository) -> None:
        self._opened = opened
        self._content = None if opened.repository.config.sealed else opened.keys.content
        self._index: BrowsingIndex | None = None

    def of(self, snapshot: Snapshot) -> list[str]:
        """Empty, too, when they cannot be read: the backup is worth adding all the same."""
        if self._content is None:
            return []
        try:
            if self._index is None:
                self._index = BrowsingIndex(self._opened.repository, lambda: None)
            reader = self._index.reader(self._opened.repository, snapshot, self._content)
            return list(reader.root.ignore)
        except HoldfastError as error:
            _log.warning("the patterns of backup %s cannot be read: %s", snapshot.run_id, error)
            return []


def _known(row: BackupRow, repository_id: str, path: bytes) -> tuple[FindingKind, bytes, str]:
    if row.repository_id != repository_id:
        text = f"backup {row.backup_id} is in the catalog already, and not of this repository"
        return FindingKind.SKIPPED, path, text
    if row.state != BackupState.COMPLETED:
        text = f"backup {row.backup_id} is in the catalog in state {row.state}, which is not changed"
        return FindingKind.SKIPPED, path, text
    return FindingKind.KNOWN, path, ""


def _rows(snapshot: Snapshot, opened: OpenRepository, now: int) -> tuple[BackupRow, SourceRow]:
    """What the catalog will say. Raises InvalidArgument for a source_id that cannot be one, FailedPrecondition for a
    kind of source that this version does not know."""
    check_source_id(snapshot.source_id)
    if snapshot.source_kind not in SourceKind.__members__:
        text = f"it is of a source of kind {snapshot.source_kind!r}, which this version does not know"
        raise FailedPrecondition(Reason.FORMAT_UNSUPPORTED, text)
    row = BackupRow(
        backup_id=snapshot.run_id,
        name=snapshot.name,
        source_id=snapshot.source_id,
        task_id="",
        kind=SNAPSHOT,
        state=BackupState.COMPLETED,
        format="",
        folder=b"",
        ignore=[],
        create_time=snapshot.create_us,
        update_time=now,
        size=snapshot.counts.bytes,
        locked=snapshot.locked,
        sealed=opened.repository.config.sealed,
        complete=snapshot.complete,
        complete_time=snapshot.complete_us,
        statistics={
            **snapshot_statistics(snapshot).to_record(), "stored_size": snapshot.stored_size, "duration": None
        },
        repository_id=opened.repository_id,
    )  # fmt: skip
    # Neither its path nor patterns of its own are in a snapshot: it stays OFFLINE until UpdateSource gives it a path.
    source = SourceRow(
        source_id=snapshot.source_id,
        kind=snapshot.source_kind,
        state=SourceState.ACTIVE,
        display_name=snapshot.source_display_name,
        path=b"",
        ignore=[],
        create_time=now,
        update_time=now,
    )
    return row, source


def _object(location: bytes, name: str) -> bytes:
    return location.rstrip(b"/") + b"/" + name.encode()


def _is_same_folder(one: bytes, other: bytes) -> bool:
    try:
        return os.path.samestat(os.stat(one), os.stat(other))
    except OSError:
        return False
