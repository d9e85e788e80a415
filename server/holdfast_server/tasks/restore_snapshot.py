"""What a RESTORE task of a snapshot needs beyond that of an archive: its repository, and what opens its content.

Of a sealed repository no name of an entry is stored: chosen paths reach the worker as a secret does, and problems,
errors and results are kept without names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import BackupRow
from holdfast_server.clock import Clock
from holdfast_server.core.control import Problem, ReadingProgress
from holdfast_server.core.restore import Restored
from holdfast_server.core.snapshot_place import require_snapshot
from holdfast_server.core.snapshot_restore import SnapshotUnpacking, restore_snapshot_to_staging
from holdfast_server.repository import RunKind
from holdfast_server.tasks.repositories import open_repository, require_repository
from holdfast_server.tasks.restored_coins import coin_restore
from holdfast_server.tasks.run import TaskRun
from holdfast_server.tasks.snapshot_reading import reading_run, without_names

__all__ = ["SnapshotRestore"]

_NOT_NAMED = "not named: the repository is sealed"


class SnapshotRestore:
    """Restores of one process."""

    def __init__(self, database: Database, clock: Clock, data_dir: bytes) -> None:
        self._database = database
        self._clock = clock
        self._data_dir = data_dir

    @contextmanager
    def opened(
        self, run: TaskRun, row: BackupRow, paths: Sequence[bytes]
    ) -> Iterator[Callable[[int, bytes], Restored]]:
        """The backup's snapshot as what extracts it into the named staging folder below an opened target.

        Raises as `open_repository` and `TaskRun.content_keys`; DataLoss/CHECKSUM_MISMATCH when the snapshot is gone.
        """
        run.progress.keep_names = not row.sealed
        run.progress.begin("reading the index")
        with self._database.read() as connection:
            repository_row = require_repository(connection, row.repository_id or "")
        with open_repository(repository_row, self._data_dir) as opened:
            content = run.content_keys(opened)
            with reading_run(run, opened, RunKind.RESTORE, self._clock) as reading:
                snapshot = require_snapshot(opened, row.backup_id)
                reader = reading.reader(snapshot, content)

                def prove(root_fd: int, staging: bytes) -> Restored:
                    unpacking = SnapshotUnpacking(
                        reader,
                        paths,
                        is_wallet=snapshot.source_kind == "WALLET",
                        complete=snapshot.complete,
                        on_progress=ReadingProgress(run.progress, snapshot.counts.bytes, snapshot.counts.files),
                        report=_reporter(run, row),
                        coins=coin_restore(run, row.source_id, row.backup_id, named=not row.sealed),
                    )
                    with without_names(row.sealed):
                        found = restore_snapshot_to_staging(
                            unpacking, root_fd, staging, needed=snapshot.counts.bytes, control=run.control,
                            progress=run.progress,
                        )  # fmt: skip
                    return _counted_only(found) if row.sealed else found

                yield prove


def _reporter(run: TaskRun, row: BackupRow) -> Callable[[bytes, str, bool], None]:
    def report(path: bytes, what: str, whole: bool) -> None:
        del whole
        problem = Problem(b"" if row.sealed else path, "RESTORED_WITH_WARNING", _NOT_NAMED if row.sealed else what)
        run.problem(problem, source_id=row.source_id, backup_id=row.backup_id)

    return report


def _counted_only(found: Restored) -> Restored:
    """The result without the files that coins lie in."""
    return found if found.coins is None else replace(found, coins={**found.coins, "coins": []})
