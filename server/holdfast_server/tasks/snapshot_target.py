"""A backup's snapshot: written, committed under the backup's id, and removed again if nobody wants it.

The run in the repository has the backup's id, so that of all attempts one at most can commit, and a later attempt finds
what an earlier one committed without living to tell the catalog.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Final

import sqlalchemy as sa

from holdfast_server.archive.pool import CompressorPool
from holdfast_server.catalog import backups, repositories
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import BackupState
from holdfast_server.clock import Clock
from holdfast_server.core.control import Problem
from holdfast_server.core.repository_place import LogHeads, OpenRepository, heads_of
from holdfast_server.core.snapshot_backup import CacheScope, write_entries
from holdfast_server.core.source_job import BackupPlan
from holdfast_server.core.statistics import Statistics
from holdfast_server.errors import HoldfastError
from holdfast_server.repository import (
    MAX_PROBLEMS,
    BackupRun,
    RootInfo,
    RootProblem,
    Snapshot,
    SnapshotCounts,
    SourceAttributes,
    TreeRoot,
    Written,
    bury_run,
    encode_root,
    settle_run,
    take_back_run,
)
from holdfast_server.storage.entry import read_xattrs
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.tasks.backup_result import SourceOutcome
from holdfast_server.tasks.backup_target import Made, statistics_record
from holdfast_server.tasks.repositories import open_writable, require_repository
from holdfast_server.tasks.run import TaskRun
from holdfast_server.wallets.classify import WalletCounters

__all__ = ["SnapshotTarget", "snapshot_statistics"]

#: A file that changed less than this before the backup began may change again within the clock's step.
_SETTLED_NS: Final = 50_000_000
_FINDINGS_LOGGED: Final = 20
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class SnapshotTarget:
    """Backups of one process that become snapshots."""

    def __init__(self, database: Database, pool: CompressorPool, clock: Clock, data_dir: bytes) -> None:
        self._database = database
        self._pool = pool
        self._clock = clock
        self._data_dir = data_dir

    def back_up(self, run: TaskRun, entry: dict[str, Any], source: OpenFolder, plan: BackupPlan, number: int) -> Made:
        """One source from the walk to the commit; the snapshot is there when this returns."""
        del number
        started = self._clock.monotonic()
        with self._opened(run) as opened, self._caches(opened) as caches:
            plan = replace(plan, forbidden=frozenset({opened.folder.identity}))
            transformation = bytes.fromhex(plan.wallet_key.key_id) if plan.wallet_key else b""
            with BackupRun(
                opened.repository, plan.backup_id, plan.source_id, caches=caches, pool=self._pool,
                check=run.control.check, now=self._clock.now, transformation=transformation,
                on_stored=partial(setattr, run.progress, "compressed_size"),
            ) as session:  # fmt: skip
                for finding in session.findings[:_FINDINGS_LOGGED]:
                    run.log(f"{plan.source_id}: {finding}", "WARNING")
                snapshot = session.earlier or _SnapshotJob(run, plan, session).write(source)
                heads = _settle(run, opened, session.settle, snapshot)
        run.log(
            f"{plan.source_id}: snapshot {snapshot.run_id} in repository {opened.repository_id}, "
            f"{snapshot.counts.files} files, {snapshot.counts.bytes} bytes, {snapshot.stored_size} bytes new"
        )
        return self._made(run, entry, snapshot, heads, self._clock.monotonic() - started)

    def clean(self, run: TaskRun, *, cancelled: bool) -> list[str]:
        """Settle what lower attempts left: a snapshot that one of them committed without living to record it is
        recorded now, or removed when the task was cancelled; none is left that the catalog does not know. What was not
        committed goes on, but for a task that ends here: its runs are ended, too."""
        with self._database.read() as connection:
            rows = backups.backups_of_task(connection, run.task_id)
        left = [row for row in rows if row.state in (BackupState.IN_PROGRESS, BackupState.FAILED)]
        if run.attempt == 1 or not left:
            return []
        try:
            with self._opened(run) as opened:
                for row in left:
                    if cancelled or row.state == BackupState.FAILED:
                        take_back_run(opened.repository, row.backup_id, self._clock.now())
                    elif (snapshot := opened.repository.snapshot(row.backup_id)) is not None:
                        self._adopt(run, opened, snapshot)
                    elif run.is_given_up:
                        bury_run(opened.repository, row.backup_id)
        except HoldfastError as error:
            # An attempt that goes on will fail of it.
            return [_left(run, row.backup_id, error) for row in left] if cancelled else []
        return []

    def give_up(self, run: TaskRun, backup_id: str) -> None:
        """End the run in the repository for good."""
        try:
            with self._opened(run) as opened:
                take_back_run(opened.repository, backup_id, self._clock.now())
        except HoldfastError as error:
            # Then it ends by itself, once it was silent for long enough.
            run.log(f"not taken back, if there was something: {_left(run, backup_id, error)}", "WARNING")

    def _undo(self, run: TaskRun, backup_id: str) -> None:
        """Take back what was committed a moment before the cancel; what stays is told in the cleanup report."""
        try:
            with self._opened(run) as opened:
                take_back_run(opened.repository, backup_id, self._clock.now())
        except HoldfastError as error:
            run.left_behind.append(_left(run, backup_id, error))

    def _adopt(self, run: TaskRun, opened: OpenRepository, snapshot: Snapshot) -> None:
        run.log(f"snapshot {snapshot.run_id} was committed by an earlier attempt")
        settle = partial(settle_run, opened.repository, snapshot.run_id, self._clock.now())
        heads = _settle(run, opened, settle, snapshot)
        with run.guarded() as connection:
            self._record(run, snapshot, heads, 0.0, connection)

    def _made(self, run: TaskRun, entry: dict[str, Any], snapshot: Snapshot, heads: LogHeads, seconds: float) -> Made:
        outcome = SourceOutcome(entry, snapshot_statistics(snapshot), b"", snapshot.stored_size)
        commit = partial(self._record, run, snapshot, heads, seconds)
        return Made(outcome, commit, partial(self._undo, run, snapshot.run_id))

    def _record(
        self, run: TaskRun, snapshot: Snapshot, heads: LogHeads, seconds: float, connection: sa.Connection
    ) -> None:
        """Tell the catalog of a snapshot."""
        now = self._clock.now()
        backups.update_backup(
            connection, snapshot.run_id, only_in=BackupState.IN_PROGRESS, state=BackupState.COMPLETED,
            size=snapshot.counts.bytes, complete=snapshot.complete, complete_time=snapshot.complete_us,
            update_time=now, statistics=statistics_record(snapshot_statistics(snapshot), snapshot.stored_size, seconds),
        )  # fmt: skip
        repositories.update_repository(connection, run.row.request["repository_id"], update_time=now)
        repositories.keep_heads(connection, run.row.request["repository_id"], heads)

    def _opened(self, run: TaskRun) -> OpenRepository:
        with self._database.read() as connection:
            row = require_repository(connection, run.row.request["repository_id"])
        return open_writable(row, self._data_dir)

    @contextmanager
    def _caches(self, opened: OpenRepository) -> Iterator[int]:
        """This node's folder of the repository."""
        fd = os.open(opened.place.keys_folder, _FOLDER)
        try:
            yield fd
        finally:
            os.close(fd)


def _settle(run: TaskRun, opened: OpenRepository, settle: Callable[[], None], snapshot: Snapshot) -> LogHeads:
    """What follows the commit; gives the log's newest entries. The snapshot is there, whatever becomes of this."""
    try:
        settle()
        return heads_of(opened)
    except (HoldfastError, OSError) as error:
        run.log(f"snapshot {snapshot.run_id} is stored, but not its entry in the log or the caches: {error}", "WARNING")
        return {}


def _left(run: TaskRun, backup_id: str, error: HoldfastError) -> str:
    return f"backup {backup_id} in repository {run.row.request['repository_id']}: {error.message}"


@dataclass(slots=True)
class _SnapshotJob:
    """One source's way into a run."""

    run: TaskRun
    plan: BackupPlan
    session: BackupRun

    def write(self, source: OpenFolder) -> Snapshot:
        run, plan, session = self.run, self.plan, self.session
        kept: list[RootProblem] = []
        tell = partial(run.problem, source_id=plan.source_id, backup_id=plan.backup_id)

        def report(problem: Problem) -> None:
            if len(kept) < MAX_PROBLEMS:
                kept.append(RootProblem(problem.path, problem.reason, problem.message))
            tell(
                problem
                if run.progress.keep_names
                else Problem(b"", problem.reason, "not named: the repository is sealed")
            )

        scope = CacheScope(session.cache_key, time.time_ns() - _SETTLED_NS)
        run.progress.begin("backing up")
        found = write_entries(source, plan, session.writer, scope, run.control, run.progress, report)
        run.progress.begin("storing")

        def root(tree: TreeRoot | None) -> bytes:
            return encode_root(_root_info(source, plan, found, tree, tuple(kept)))

        def describe(written: Written) -> Snapshot:
            with run.guarded():
                """Nobody else has taken the task, and nobody has cancelled it."""
            return _snapshot(session, plan, found, written, locked=run.row.request["locked"])

        return session.commit(root, describe)


def _root_info(
    source: OpenFolder, plan: BackupPlan, found: Statistics, tree: TreeRoot | None, problems: tuple[RootProblem, ...]
) -> RootInfo:
    status = os.fstat(source.fd)
    attributes = SourceAttributes(
        status.st_mode & 0o7777, status.st_mtime_ns, status.st_uid, status.st_gid, read_xattrs(source.fd)
    )
    coins = found.census.to_record() if found.census is not None else None
    return RootInfo(attributes, tree, tuple(plan.ignore), problems, tuple(sorted(found.key_ids)), coins)


def _snapshot(session: BackupRun, plan: BackupPlan, found: Statistics, written: Written, *, locked: bool) -> Snapshot:
    return Snapshot(
        run_id=plan.backup_id,
        name=plan.name,
        locked=locked,
        source_id=plan.source_id,
        source_kind=plan.source_kind,
        source_display_name=plan.display_name,
        create_us=plan.created_us,
        complete_us=session.now(),
        counts=SnapshotCounts(
            files=found.files,
            directories=found.directories,
            symlinks=found.symlinks,
            hardlinks=found.hardlinks,
            bytes=found.original_size,
            files_skipped=found.files_skipped,
            files_ignored=found.files_ignored,
            warnings=found.warnings,
        ),
        stored_size=written.stored_size,
        complete=found.complete,
        list=written.list,
        root=written.root,
        writer_id=session.repository.keys.writer.writer_id,
        software=plan.software,
        wallet=asdict(found.wallet) if plan.is_wallet else None,
    )


def snapshot_statistics(snapshot: Snapshot) -> Statistics:
    """What the catalog keeps of a snapshot's counts."""
    counts = snapshot.counts
    return Statistics(
        files=counts.files,
        directories=counts.directories,
        symlinks=counts.symlinks,
        hardlinks=counts.hardlinks,
        original_size=counts.bytes,
        files_skipped=counts.files_skipped,
        files_ignored=counts.files_ignored,
        warnings=counts.warnings,
        complete=snapshot.complete,
        wallet=WalletCounters(**snapshot.wallet) if snapshot.wallet is not None else WalletCounters(),
    )
