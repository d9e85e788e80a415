"""The BACKUP task in a worker: any number of sources, one backup each. `tasks.backup_orders` files it.

A source that fails does not stop the others: the task ends COMPLETED_WITH_WARNINGS when at least one backup came to
be, FAILED when none did. What is particular to archives and to repositories is in their targets.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa

from holdfast_server.catalog import backups, sources, tasks
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import BackupState
from holdfast_server.clock import Clock
from holdfast_server.core.archive_file import ARCHIVE_WORK
from holdfast_server.core.control import Control
from holdfast_server.core.late_count import LateCount
from holdfast_server.core.source_job import BackupPlan, scan_source, wallet_unlocked
from holdfast_server.core.statistics import Statistics
from holdfast_server.core.wallet_folder import WalletFolder
from holdfast_server.errors import Cancelled, FailedPrecondition, HoldfastError, Reason, Stopped
from holdfast_server.storage.folder import OpenFolder, lies_within, open_folder
from holdfast_server.storage.local import translate_os_error
from holdfast_server.storage.names import escape
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks.backup_maintenance import BackupMaintenance
from holdfast_server.tasks.backup_result import SourceOutcome, summarise
from holdfast_server.tasks.backup_target import BackupTarget, Made
from holdfast_server.tasks.run import Outcome, TaskRun, error_record
from holdfast_server.tasks.sources import open_source
from holdfast_server.tasks.wallet_keys import required_key, unlocked_others

__all__ = ["BackupHandler"]

#: Errors that name a file of the source.
_NAMING: Final = {
    Reason.SOURCE_UNREADABLE: "a file or folder cannot be read",
    Reason.FOLDER_INSIDE_SOURCE: "the repository lies in a folder of it",
    Reason.WALLET_UNLOCKED: "a folder of it is another wallet, an unlocked one, whose coins would be stored in clear",
    Reason.PLAINTEXT_COIN: "a file of the unlocked wallet was about to be stored in clear",
}


class BackupHandler:
    """Does BACKUP tasks in a worker."""

    def __init__(
        self,
        database: Database,
        policy: FolderPolicy,
        archives: BackupTarget,
        repositories: BackupTarget,
        maintenance: BackupMaintenance,
        clock: Clock,
        data_dir: bytes,
        software: str,
    ) -> None:
        self._database = database
        self._policy = policy
        self._archives = archives
        self._repositories = repositories
        self._maintenance = maintenance
        self._clock = clock
        self._data_dir = data_dir
        self._software = software

    def run(self, run: TaskRun) -> Outcome:
        """Foresee how much there is, then back up one source after the other."""
        request = run.row.request
        run.progress.keep_names = not (request.get("recipients") or request.get("sealed"))
        pending, outcomes = self._remaining(run)
        if run.row.dry_run or "repository_id" not in request:
            outcomes += self._scan(run, pending)
        if run.row.dry_run:
            return summarise(run, outcomes)
        scanned = [outcome.entry for outcome in outcomes if outcome.error is not None]
        left = [entry for entry in pending if entry not in scanned]
        waiting: Made | None = None
        with self._foresight(run, left):
            for number, entry in enumerate(left):
                try:
                    # What follows the backups must find them in the catalog.
                    last = entry is left[-1] and "maintenance" not in request
                    done, waiting = self._back_up(run, entry, last=last, number=number)
                    outcomes.append(done)
                except Stopped:
                    raise
                except (HoldfastError, OSError) as error:
                    outcomes.append(self._failed(run, entry, error))
        summary = summarise(run, outcomes)
        if "maintenance" in request:
            return self._maintained(run, summary, again=not left)
        if waiting is None:
            return summary
        return replace(summary, commit=waiting.commit, undo=waiting.undo)

    def _maintained(self, run: TaskRun, summary: Outcome, *, again: bool) -> Outcome:
        """What follows the backups, which are in the catalog."""
        source_ids = [entry["source_id"] for entry in run.row.request["sources"]]
        failure = self._maintenance.follow(run, source_ids, again=again)
        if failure is None:
            return summary
        message = f"{summary.message}; the maintenance of the repository failed"
        return replace(summary, message=message, warnings=True, error=summary.error or error_record(failure))

    def _foresight(self, run: TaskRun, left: Sequence[dict[str, Any]]) -> ExitStack:
        """Totals for progress where nothing was scanned: those of the last backups, else counted beside the work, and
        only when that takes long, because counting costs as much as a backup of what has not changed."""
        stack = ExitStack()
        if "repository_id" not in run.row.request or not left:
            return stack
        progress, before = run.progress, (run.progress.original_size, run.progress.files)
        known = self._last_counts([entry["source_id"] for entry in left])
        if len(known) == len(left):
            size = before[0] + sum(int(found["original_size"]) for found in known)
            progress.set_totals(size, before[1] + sum(int(found["files"]) for found in known), work=1.0, estimated=True)
            return stack

        def count(control: Control) -> tuple[int, int]:
            size, files = before
            for entry in left:
                with self._source(entry) as source:
                    found = scan_source(source, self._plan(run, entry, source), control)
                size, files = size + found.original_size, files + found.files
            return size, files

        stack.enter_context(LateCount(count, progress))
        return stack

    def clean(self, run: TaskRun, *, cancelled: bool) -> list[str]:
        """Settle what lower attempts left, and forget what they reported of backups that are made anew."""
        if run.row.dry_run:
            return []
        left = self._target(run).clean(run, cancelled=cancelled)
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
            run.left_behind += [escape(row.storage_path) if row.file_name else row.backup_id for row in completed]
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
                output = row.storage_path if row.file_name else b""
                run.log(f"{entry['source_id']}: done by an earlier attempt {escape(output)}")
                found = Statistics.from_record(row.statistics)
                outcomes.append(SourceOutcome(entry, found, output, int(row.statistics["stored_size"])))
                run.progress.count(found.original_size, found.files)
            elif row.state == BackupState.FAILED:
                error = FailedPrecondition(Reason.INTERRUPTED, "failed in an earlier attempt; see the task's log")
                outcomes.append(SourceOutcome(entry, Statistics(), error=error))
            else:
                pending.append(entry)
        return pending, outcomes

    def _last_counts(self, source_ids: Sequence[str]) -> list[dict[str, Any]]:
        """The statistics of the newest complete backup of each source that has one."""
        found = []
        with self._database.read() as connection:
            for source_id in source_ids:
                chosen = backups.BackupFilter(source_id=source_id, states=[BackupState.COMPLETED])
                found += [row.statistics for row in backups.list_backups(connection, chosen, limit=1, before=None)]
        return found

    def _scan(self, run: TaskRun, pending: Sequence[dict[str, Any]]) -> list[SourceOutcome]:
        """Totals for progress. In a dry run every outcome, else only those of sources that cannot be backed up."""
        run.progress.begin("scanning")
        size, files, outcomes = run.progress.original_size, run.progress.files, []
        for entry in pending:
            try:
                with self._source(entry) as source:
                    found = scan_source(source, self._plan(run, entry, source), run.control)
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
    ) -> tuple[SourceOutcome, Made | None]:
        """One source into its target. The last one's catalog row is left to the task's own end."""
        source_id, target = entry["source_id"], self._target(run)
        with ExitStack() as stack:
            source = stack.enter_context(self._source(entry))
            plan = self._plan(run, entry, source)
            if plan.is_wallet:
                plan = replace(plan, wallet_key=required_key(run, self._database, self._clock, entry))
                stack.enter_context(WalletFolder(source).lock(run.control, exclusive=False))
            how = f", encrypting with wallet key {plan.wallet_key.key_id}" if plan.wallet_key else ""
            run.log(f"{source_id}: backing up {escape(source.path)}{how}")
            try:
                made = target.back_up(run, entry, source, plan, number)
            except Cancelled:
                target.give_up(run, entry["backup_id"])
                raise
        if last:
            return made.outcome, made
        try:
            with run.guarded() as connection:
                made.commit(connection)
        except Cancelled:  # and not when fenced: then the backup may be the successor's already
            made.undo()
            raise
        return made.outcome, None

    def _target(self, run: TaskRun) -> BackupTarget:
        return self._repositories if "repository_id" in run.row.request else self._archives

    def _failed(self, run: TaskRun, entry: dict[str, Any], error: HoldfastError | OSError) -> SourceOutcome:
        failure = (
            error if isinstance(error, HoldfastError) else translate_os_error(error, f"backing up {entry['source_id']}")
        )
        if run.row.request.get("sealed"):
            failure = _unnamed(failure, entry["source_id"])
        run.log(f"{entry['source_id']}: failed: {failure.message} ({failure.reason})", "ERROR")
        if not run.row.dry_run:
            self._record_failure(run, entry["backup_id"])
        return SourceOutcome(entry, Statistics(), error=failure)

    def _record_failure(self, run: TaskRun, backup_id: str) -> None:
        """First in the catalog: when this attempt is over, the backup is its successor's, and must go on."""
        try:
            with run.guarded() as connection:
                backups.update_backup(
                    connection, backup_id, only_in=BackupState.IN_PROGRESS,
                    state=BackupState.FAILED, update_time=self._clock.now(),
                )  # fmt: skip
        except Cancelled:
            self._target(run).give_up(run, backup_id)
            raise
        self._target(run).give_up(run, backup_id)

    def _source(self, entry: dict[str, Any]) -> OpenFolder:
        return open_source(self._policy, entry["source_id"], base64.b64decode(entry["path"]))

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

    def _plan(self, run: TaskRun, entry: dict[str, Any], source: OpenFolder) -> BackupPlan:
        request, status = run.row.request, os.stat(self._data_dir)
        return BackupPlan(
            backup_id=entry["backup_id"],
            name=entry["name"],
            source_id=entry["source_id"],
            source_kind=entry["kind"],
            display_name=entry["display_name"],
            ignore=self._ignore(run, entry),
            created_us=request["created"],
            software=self._software,
            fail_on_error=request["fail_on_error"],
            skip=frozenset({(status.st_dev, status.st_ino)}),
            unlocked=self._unlocked(entry, source),
        )

    def _ignore(self, run: TaskRun, entry: dict[str, Any]) -> list[str]:
        """The patterns that leave entries out. Of a sealed repository's backups they are not in the request."""
        if "ignore" in entry:
            return list(entry["ignore"])
        with self._database.read() as connection:
            source = sources.get_source(connection, entry["source_id"])
        return [*(source.ignore if source else ()), *run.hidden().get("ignore", ())]


def _unnamed(error: HoldfastError, source_id: str) -> HoldfastError:
    """An error without the file's name: of a sealed repository's backups none is stored."""
    if error.reason not in _NAMING:
        return error
    known = {key: value for key, value in error.metadata.items() if key not in ("path", "detail")}
    text = f"source {source_id}: {_NAMING[error.reason]}, not named because the repository is sealed"
    return type(error)(error.reason, text, metadata={"source_id": source_id, **known})
