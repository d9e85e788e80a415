"""What a repository is told of a snapshot's later life: another name, a lock, its removal."""

from __future__ import annotations

from typing import Any

from holdfast_server.catalog import repositories
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import BackupRow
from holdfast_server.clock import Clock
from holdfast_server.core.repository_place import OpenRepository, heads_of
from holdfast_server.repository import remove_snapshots, tell_of_snapshot
from holdfast_server.tasks.repositories import open_writable, require_repository

__all__ = ["SnapshotLife"]


class SnapshotLife:
    """Writes to the logs of repositories. Thread-safe, and safe beside other processes."""

    def __init__(self, database: Database, clock: Clock, data_dir: bytes) -> None:
        self._database = database
        self._clock = clock
        self._data_dir = data_dir

    def announce(self, row: BackupRow, changes: dict[str, Any]) -> None:
        """Tell of a new `name` or `locked`. Raises NotFound/REPOSITORY_NOT_FOUND, and as `open_writable`."""
        with self._opened(row) as opened:
            tell_of_snapshot(opened.repository, row.backup_id, self._clock.now(), **changes)
            self._keep_heads(opened)

    def remove(self, row: BackupRow) -> None:
        """Remove the snapshot for good; no error if it is gone. Raises as `announce`."""
        with self._opened(row) as opened:
            remove_snapshots(opened.repository, [row.backup_id], self._clock.now())
            self._keep_heads(opened)

    def _keep_heads(self, opened: OpenRepository) -> None:
        heads = heads_of(opened)
        with self._database.write() as connection:
            repositories.keep_heads(connection, opened.repository_id, heads)

    def _opened(self, row: BackupRow) -> OpenRepository:
        assert row.repository_id is not None
        with self._database.read() as connection:
            repository = require_repository(connection, row.repository_id)
        return open_writable(repository, self._data_dir)
