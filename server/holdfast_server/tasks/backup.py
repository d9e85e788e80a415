"""The BACKUP task in a worker: any number of sources, one archive each. `tasks.backup_orders` files it.

A source that fails does not stop the others: the task ends COMPLETED_WITH_WARNINGS when at least one archive came to
be, FAILED when none did.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import sqlalchemy as sa

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.archive.sealing import parse_recipients
from holdfast_server.archive.sidecar import Sidecar
from holdfast_server.catalog import backups, tasks
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import (
    BackupRow,
    BackupState,
)
from holdfast_server.clock import Clock
from holdfast_server.core.archive_file import ARCHIVE_WORK, ProvedArchive
from holdfast_server.core.backup import ArchivePlan, scan_source, wallet_unlocked, write_archive
from holdfast_server.core.publish import archive_base_name
from holdfast_server.core.statistics import Statistics
from holdfast_server.core.wallet_folder import WalletFolder
from holdfast_server.errors import (
    Cancelled,
    FailedPrecondition,
    HoldfastError,
    Reason,
    Stopped,
)
from holdfast_server.storage.folder import OpenFolder, lies_within, open_folder
from holdfast_server.storage.local import translate_os_error
from holdfast_server.storage.names import escape
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks.backup_orders import RECIPIENTS_FIELD
from holdfast_server.tasks.backup_result import SourceOutcome, summarise
from holdfast_server.tasks.publishing import Announced, open_destination, partial_archive, settle, take_back
from holdfast_server.tasks.run import Outcome, TaskRun
from holdfast_server.tasks.sources import open_source
from holdfast_server.tasks.wallet_keys import required_key, unlocked_others

__all__ = ["BackupHandler"]


class BackupHandler:
    """Does BACKUP tasks in a worker."""

    def __init__(
        self,
        database: Database,
        policy: FolderPolicy,
        pool: CompressorPool,
        clock: Clock,
        data_dir: bytes,
        software: str,
    ) -> None:
        self._database = database
        self._policy = policy
        self._pool = pool
        self._clock = clock
        self._data_dir = data_dir
        self._software = software

    def run(self, run: TaskRun) -> Outcome:
        """Scan all sources for the totals, then back up one after the other."""
        request = run.row.request
        run.progress.keep_names = not request.get("recipients")
        pending, outcomes = self._remaining(run)
        outcomes += self._scan(run, pending, request)
        if run.row.dry_run:
            return summarise(run, outcomes)
        scanned = [outcome.entry for outcome in outcomes if outcome.error is not None]
        left = [entry for entry in pending if entry not in scanned]
        commit: _Commit | None = None
        for number, entry in enumerate(left):
            try:
                done, commit = self._back_up(run, entry, last=entry is left[-1], number=number)
                outcomes.append(done)
            except Stopped:
                raise
            except (HoldfastError, OSError) as error:
                outcomes.append(self._failed(run, entry, error))
        summary = summarise(run, outcomes)
        if commit is None:
            return summary
        return replace(summary, commit=commit.apply, undo=commit.undo)

    def clean(self, run: TaskRun, *, cancelled: bool) -> list[str]:
        """Remove the partials of lower attempts. An archive that one of them published without living to record it is
        recorded now, or removed when the task was cancelled: none is left that the catalog does not know."""
        if run.row.dry_run:
            return []
        found = {archive.path: (row, archive) for row, archive in self._announced(run)}
        left = settle(
            run,
            base64.b64decode(run.row.request["folder"]),
            [archive for _, archive in found.values()],
            lambda archive: self._adopt(run, *found[archive.path]),
            cancelled=cancelled,
        )
        if left:
            return left
        with self._database.write() as connection:
            done = [row.backup_id for row in backups.backups_of_task(connection, run.task_id)
                    if row.state == BackupState.COMPLETED]  # fmt: skip
            tasks.forget_problems(connection, run.task_id, keep_backups=done)
        return []

    def abandon(self, connection: sa.Connection, run: TaskRun, failed: bool) -> None:
        """Unfinished backups become FAILED, or are forgotten when the task was cancelled."""
        if not failed:
            completed = [
                r for r in backups.backups_of_task(connection, run.task_id) if r.state == BackupState.COMPLETED
            ]
            run.left_behind += [escape(row.storage_path) for row in completed]
            backups.delete_unfinished(connection, run.task_id)
            return
        now = self._clock.now()
        for row in backups.backups_of_task(connection, run.task_id):
            backups.update_backup(
                connection, row.backup_id, only_in=BackupState.IN_PROGRESS, state=BackupState.FAILED, update_time=now
            )

    def _remaining(self, run: TaskRun) -> tuple[list[dict[str, Any]], list[SourceOutcome]]:
        """Sources still to do, and the outcomes that earlier attempts reached."""
        entries = run.row.request["sources"]
        if run.row.dry_run:
            return list(entries), []
        with self._database.read() as connection:
            rows = {row.backup_id: row for row in backups.backups_of_task(connection, run.task_id)}
        pending, outcomes = [], []
        for entry in entries:
            row = rows[entry["backup_id"]]
            if row.state == BackupState.COMPLETED:
                run.log(f"{entry['source_id']}: done by an earlier attempt, {escape(row.storage_path)}")
                found = Statistics.from_record(row.statistics)
                outcomes.append(SourceOutcome(entry, found, row.storage_path, row.size or 0))
                run.progress.count(found.original_size, found.files)
            elif row.state == BackupState.FAILED:
                error = FailedPrecondition(Reason.INTERRUPTED, "failed in an earlier attempt; see the task's log")
                outcomes.append(SourceOutcome(entry, Statistics(), error=error))
            else:
                pending.append(entry)
        return pending, outcomes

    def _scan(self, run: TaskRun, pending: Sequence[dict[str, Any]], request: dict[str, Any]) -> list[SourceOutcome]:
        """Totals for progress. In a dry run every outcome, else only those of sources that cannot be backed up."""
        run.progress.begin("scanning")
        size, files, outcomes = run.progress.original_size, run.progress.files, []
        for entry in pending:
            try:
                with self._source(entry) as source:
                    found = scan_source(source, self._plan(entry, request, source), run.control)
            except (HoldfastError, OSError) as error:
                outcomes.append(self._failed(run, entry, error))
                continue
            size, files = size + found.original_size, files + found.files
            if run.row.dry_run:
                outcomes.append(SourceOutcome(entry, found))
        run.progress.set_totals(size, files, work=ARCHIVE_WORK)
        run.log(f"scanned: {files} files, {size} bytes")
        return outcomes

    def _back_up(
        self, run: TaskRun, entry: dict[str, Any], *, last: bool, number: int
    ) -> tuple[SourceOutcome, _Commit | None]:
        """One source from reading to publishing. The last one's catalog row is left to the task's own end."""
        request = run.row.request
        source_id, backup_id = entry["source_id"], entry["backup_id"]
        started = self._clock.monotonic()
        with ExitStack() as stack:
            source = stack.enter_context(self._source(entry))
            folder = stack.enter_context(self._destination(request, source))
            plan = self._plan(entry, request, source, forbidden=frozenset({folder.identity}))
            if plan.is_wallet:
                plan = replace(plan, wallet_key=required_key(run, self._database, self._clock, entry))
                stack.enter_context(WalletFolder(source).lock(run.control, exclusive=False))
            how = f", encrypting with wallet key {plan.wallet_key.key_id}" if plan.wallet_key else ""
            run.log(f"{source_id}: backing up {escape(source.path)}{how}")
            with partial_archive(run, folder, number) as archive:
                report = partial(run.problem, source_id=source_id, backup_id=backup_id)
                written = write_archive(source, plan, archive.fd, self._pool, run.control, run.progress, report)
                announce = partial(self._announce, run, backup_id, written)
                base = archive_base_name(entry["display_name"], request["tag"], request["created"])
                name = archive.publish(base, plan.format, announce, self._sidecar(plan, written))
            output = folder.path.rstrip(b"/") + b"/" + name
        seconds = self._clock.monotonic() - started
        proved = "sealed and read back" if written.sealed else "read back and verified"
        run.log(f"{source_id}: {escape(output)}, {written.size} bytes, sha256 {written.sha256}, {proved}")
        outcome = SourceOutcome(entry, written.statistics, output, written.size)
        commit = _Commit(self._clock, run, backup_id, written, name, output, seconds)
        if last:
            return outcome, commit
        try:
            with run.guarded() as connection:
                commit.apply(connection)
        except Cancelled:  # and not when fenced: then the archive may be the successor's already
            commit.undo()
            raise
        return outcome, None

    def _announce(self, run: TaskRun, backup_id: str, written: ProvedArchive, name: bytes) -> None:
        with run.guarded() as connection:
            backups.update_backup(
                connection,
                backup_id,
                only_in=BackupState.IN_PROGRESS,
                file_name=name,
                size=written.size,
                sha256=written.sha256,
                statistics=_statistics_record(written.statistics, written.size, 0.0),
            )

    def _announced(self, run: TaskRun) -> list[tuple[BackupRow, Announced]]:
        """The backups IN_PROGRESS that an earlier attempt was about to publish."""
        with self._database.read() as connection:
            rows = backups.backups_of_task(connection, run.task_id)
        return [
            (row, Announced(row.storage_path, row.size, row.sha256))
            for row in rows
            if row.state == BackupState.IN_PROGRESS and row.file_name and row.size is not None and row.sha256
        ]

    def _adopt(self, run: TaskRun, row: BackupRow, archive: Announced) -> None:
        run.log(f"{row.source_id}: {escape(archive.path)} was published by an earlier attempt")
        written = ProvedArchive(archive.size, archive.sha256, Statistics.from_record(row.statistics), row.sealed)
        name = archive.path.rpartition(b"/")[2]
        commit = _Commit(self._clock, run, row.backup_id, written, name, archive.path, 0.0)
        with run.guarded() as connection:
            commit.apply(connection)

    def _sidecar(self, plan: ArchivePlan, written: ProvedArchive) -> Sidecar | None:
        if plan.recipients is None:
            return None
        totals = written.statistics.manifest_totals(wallet=False)
        return Sidecar(
            backup_id=plan.backup_id,
            source_id=plan.source_id,
            source_kind=plan.source_kind,
            archive_format=plan.format.value,
            recipients=len(plan.recipients),
            created_us=plan.created_us,
            completed_us=self._clock.now(),
            size=written.size,
            sha256=written.sha256,
            counts=totals["counts"],
            complete=totals["complete"],
            software=plan.software,
        )

    def _failed(self, run: TaskRun, entry: dict[str, Any], error: HoldfastError | OSError) -> SourceOutcome:
        failure = (
            error if isinstance(error, HoldfastError) else translate_os_error(error, f"backing up {entry['source_id']}")
        )
        run.log(f"{entry['source_id']}: failed: {failure.message} ({failure.reason})", "ERROR")
        if not run.row.dry_run:
            with run.guarded() as connection:
                backups.update_backup(
                    connection, entry["backup_id"], only_in=BackupState.IN_PROGRESS,
                    state=BackupState.FAILED, update_time=self._clock.now(),
                )  # fmt: skip
        return SourceOutcome(entry, Statistics(), error=failure)

    def _source(self, entry: dict[str, Any]) -> OpenFolder:
        return open_source(self._policy, entry["source_id"], base64.b64decode(entry["path"]))

    def _destination(self, request: dict[str, Any], source: OpenFolder) -> OpenFolder:
        path = base64.b64decode(request["folder"])
        return open_destination(self._policy, path, "archive.folder", sources=[source])

    def _unlocked(self, entry: dict[str, Any], source: OpenFolder) -> dict[tuple[int, int], str]:
        """Unlocked wallets by identity, but for the source's own. Raises FailedPrecondition/WALLET_UNLOCKED when the
        source is one of them under another name, or lies in one."""
        found = {}
        for wallet_id, path in unlocked_others(self._database, self._clock, entry["source_id"]).items():
            try:
                wallet = open_folder(path)
            except HoldfastError:
                continue  # what cannot be opened holds nothing that could be met
            with wallet:
                if lies_within(source.fd, wallet.fd):
                    raise wallet_unlocked(entry["source_id"], wallet_id, source.display)
                found[wallet.identity] = wallet_id
        return found

    def _plan(
        self,
        entry: dict[str, Any],
        request: dict[str, Any],
        source: OpenFolder,
        forbidden: frozenset[tuple[int, int]] = frozenset(),
    ) -> ArchivePlan:
        status, recipients = os.stat(self._data_dir), request.get("recipients")
        return ArchivePlan(
            backup_id=entry["backup_id"],
            name=entry["name"],
            source_id=entry["source_id"],
            source_kind=entry["kind"],
            display_name=entry["display_name"],
            format=ArchiveFormat(request["format"]),
            ignore=entry["ignore"],
            created_us=request["created"],
            software=self._software,
            fail_on_error=request["fail_on_error"],
            skip=frozenset({(status.st_dev, status.st_ino)}),
            forbidden=forbidden,
            unlocked=self._unlocked(entry, source),
            recipients=parse_recipients(recipients, RECIPIENTS_FIELD) if recipients else None,
        )


@dataclass(frozen=True, slots=True)
class _Commit:
    """The catalog's side of a published archive, and how to take the archive back."""

    clock: Clock
    run: TaskRun
    backup_id: str
    written: ProvedArchive
    name: bytes
    output: bytes
    seconds: float

    def apply(self, connection: sa.Connection) -> None:
        now = self.clock.now()
        found = self.written.statistics
        backups.update_backup(
            connection, self.backup_id, only_in=BackupState.IN_PROGRESS, state=BackupState.COMPLETED,
            file_name=self.name, size=self.written.size, sha256=self.written.sha256, complete=found.complete,
            complete_time=now, update_time=now,
            statistics=_statistics_record(found, self.written.size, self.seconds),
        )  # fmt: skip
        # Nobody here can open a sealed one: what was read back are its bytes.
        sealed = {"level": "CHECKSUM", "files_checked": 0, "bytes_checked": self.written.size,
                  "message": "sealed; read back after writing, by its hash"}  # fmt: skip
        opened = {"level": "READ_DATA", "files_checked": found.files, "bytes_checked": found.original_size,
                  "message": "read back after writing"}  # fmt: skip
        proof = sealed if self.written.sealed else opened
        backups.add_verification(connection, self.backup_id, time=now, ok=True, task_id=self.run.task_id, **proof)

    def undo(self) -> None:
        """Remove the archive that was published a moment before the cancel."""
        take_back(self.run, Announced(self.output, self.written.size, self.written.sha256))


def _statistics_record(found: Statistics, stored: int, seconds: float) -> dict[str, Any]:
    return {**found.to_record(), "stored_size": stored, "duration": round(seconds, 3)}
