"""A prune: the backups that a retention policy does not keep are removed, and what nothing needs any more is freed.

What goes is decided in the catalog, in the transaction that marks it, source by source and a batch at a time, the
oldest first; a backup that was locked or taken into use until then stays. A marked one is lost even if the process
dies: the purge of the trash finishes it. So a prune can be stopped between any two, and another one goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

import sqlalchemy as sa

from holdfast_server.catalog import backups, repositories, tasks
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import BackupState, RepositoryRow
from holdfast_server.clock import Clock
from holdfast_server.core.repository_place import OpenRepository, heads_of
from holdfast_server.core.retention import Candidate, Decision, RetentionPolicy, plan
from holdfast_server.repository import MaintenanceWatch, PruneReport, prune_repository, remove_snapshots
from holdfast_server.tasks.maintaining import keep_maintained, tell_of_damage
from holdfast_server.tasks.repositories import open_writable
from holdfast_server.tasks.run import TaskRun

__all__ = ["Pruning"]

_SHOWN: Final = 100
#: So many backups are marked at once, of so many sources at most: neither holds up the catalog for long.
_BATCH: Final = 100
_SOURCES: Final = 100


@dataclass(slots=True)
class _SourcePlan:
    """What becomes of the backups of one source. `removed_ids` are the newest of those that go."""

    decisions: list[Decision] = field(default_factory=list)
    removed: int = 0
    incomplete: int = 0
    removed_ids: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, record: Sequence[Any]) -> Self:
        """What an earlier attempt removed, as `done` gave it."""
        return cls(removed=record[0], incomplete=record[1], removed_ids=list(record[2]))

    def done(self) -> list[Any]:
        return [self.removed, self.incomplete, self.removed_ids]

    def remove(self, going: Sequence[Candidate]) -> None:
        """Count the next ones, newest first; all that went before are older."""
        self.removed += len(going)
        self.incomplete += sum(not one.complete for one in going)
        self.removed_ids = [*(one.backup_id for one in going), *self.removed_ids][:_SHOWN]

    def record(self, source_id: str) -> dict[str, Any]:
        """A `PrunePlan` of the API."""
        kept = [one for one in self.decisions if one.kept]
        return {
            "source_id": source_id,
            "kept": len(kept),
            "removed": self.removed,
            "locked": sum(one.reasons == ("locked",) for one in kept),
            "incomplete_removed": self.incomplete,
            "kept_backups": [{"backup_id": one.backup_id, "rules": list(one.reasons)} for one in kept[:_SHOWN]],
            "removed_backups": [{"backup_id": one, "rules": []} for one in self.removed_ids],
        }


class Pruning:
    """One prune of a repository by a task. `source_ids` empty: of every source that has backups in it."""

    def __init__(
        self,
        run: TaskRun,
        database: Database,
        clock: Clock,
        data_dir: bytes,
        row: RepositoryRow,
        source_ids: Sequence[str],
        policy: RetentionPolicy,
    ) -> None:
        self._run = run
        self._database = database
        self._clock = clock
        self._data_dir = data_dir
        self._row = row
        self._policy = policy
        self._source_ids = source_ids
        self._plans = {name: _SourcePlan.of(done) for name, done in run.row.checkpoint.get("removed", {}).items()}
        self._report: PruneReport | None = None

    def do(self, watch: MaintenanceWatch, *, dry_run: bool = False) -> None:
        """Remove and free. Raises as `open_writable` and `prune_repository`; what was removed until then stays so."""
        with open_writable(self._row, self._data_dir) as opened:
            waiting = deque(self._sources())
            if dry_run:
                going = self._only_plan(waiting)
                self._report = prune_repository(
                    opened.repository, now=self._clock.now, watch=watch, dry_run=True, without=going
                )
                return
            self._remove(opened, waiting)
            try:
                self._report = prune_repository(
                    opened.repository,
                    now=self._clock.now,
                    watch=watch,
                    marks=opened.place.marks,
                    caches=opened.place.keys_folder,
                )
            finally:
                keep_maintained(self._database, self._clock, opened)
        tell_of_damage(self._run, self._report.damaged)

    @property
    def removed(self) -> int:
        """How many backups were removed, or would be."""
        return sum(one.removed for one in self._plans.values())

    def record(self) -> dict[str, Any]:
        """The result so far, as the catalog keeps it."""
        plans = [one.record(source_id) for source_id, one in sorted(self._plans.items())]
        found = self._report
        return {
            "repository_id": self._row.repository_id,
            "plans": plans[:_SHOWN],
            "backups_kept": sum(one["kept"] for one in plans),
            "backups_removed": self.removed,
            "packs_condemned": found.packs_condemned if found else 0,
            "packs_deleted": found.packs_deleted if found else 0,
            "bytes_freed": found.bytes_freed if found else 0,
            "bytes_pending": found.bytes_pending if found else 0,
            "packs_rescued": found.packs_rescued if found else 0,
            "runs_waited_for": found.runs_waited_for if found else 0,
            "runs_revoked": found.runs_revoked if found else 0,
        }

    def sentence(self, *, dry_run: bool = False) -> str:
        """The result in one line, for people."""
        record = self.record()
        backups_ = f"{self.removed} of {self.removed + record['backups_kept']} backups"
        if dry_run:
            return f"would remove {backups_} and free {record['bytes_pending']} bytes"
        text = f"removed {backups_}, freed {record['bytes_freed']} bytes"
        if record["bytes_pending"]:
            text += f"; {record['bytes_pending']} bytes follow when {record['runs_waited_for']} runs have ended"
        return text

    def _sources(self) -> Iterable[str]:
        if self._source_ids:
            return self._source_ids
        with self._database.read() as connection:
            return backups.prunable_sources(connection, self._row.repository_id)

    def _only_plan(self, waiting: Iterable[str]) -> list[str]:
        """Decide, and mark nothing; gives what would go."""
        would_go = []
        with self._database.read() as connection:
            users = _Users(connection)
            for source_id in waiting:
                found, source = self._decide(connection, source_id, users)
                going = [one for one, decision in found if not decision.kept]
                source.remove(going)
                would_go += [one.backup_id for one in going]
        return would_go

    def _remove(self, opened: OpenRepository, waiting: deque[str]) -> None:
        self._run.progress.begin("removing backups")
        with self._database.read() as connection:
            marked = backups.purging_in(connection, self._row.repository_id)
        self._take_away(opened, marked)
        while waiting:
            self._run.control.check()
            self._take_away(opened, self._mark(waiting))

    def _take_away(self, opened: OpenRepository, going: Sequence[str]) -> None:
        """Remove what was marked, by an attempt that died too."""
        if not going:
            return
        remove_snapshots(opened.repository, going, self._clock.now(), self._run.control.check)
        heads = heads_of(opened)
        with self._database.write() as connection:
            for backup_id in going:
                backups.delete_backup(connection, backup_id)
            repositories.keep_heads(connection, self._row.repository_id, heads)
        for backup_id in going:
            self._run.log(f"removed backup {backup_id}")

    def _mark(self, waiting: deque[str]) -> list[str]:
        """Decide about the next sources, and mark what goes; a source of which more goes stays in front."""
        marked: list[str] = []
        with self._run.guarded() as connection:
            users = _Users(connection)
            for _ in range(min(_SOURCES, len(waiting))):
                found, source = self._decide(connection, waiting[0], users)
                going = [one for one, decision in found if not decision.kept]
                room = _BATCH - len(marked)
                now_going = going[max(len(going) - room, 0) :]
                source.remove(now_going)
                marked += [one.backup_id for one in reversed(now_going)]
                if len(now_going) < len(going):
                    break
                waiting.popleft()
            if marked:
                backups.begin_purge(connection, marked, self._clock.now())
                done = {source_id: one.done() for source_id, one in self._plans.items() if one.removed}
                self._run.checkpoint(connection, removed=done)
        return marked

    def _decide(
        self, connection: sa.Connection, source_id: str, users: _Users
    ) -> tuple[list[tuple[Candidate, Decision]], _SourcePlan]:
        rows = backups.prunable_backups(connection, self._row.repository_id, source_id)
        candidates = {row.backup_id: users.candidate(row) for row in rows}
        source = self._plans.setdefault(source_id, _SourcePlan())
        source.decisions = plan(candidates.values(), self._policy)
        return [(candidates[one.backup_id], one) for one in source.decisions], source


class _Users:
    """The backups that tasks use, in one state of the catalog."""

    def __init__(self, connection: sa.Connection) -> None:
        self._backups = backups.backups_in_use(connection)
        self._tasks = {row.task_id for row in tasks.live_tasks(connection, tasks.TaskFilter())}

    def candidate(self, row: backups.PrunableBackup) -> Candidate:
        # A finished backup, too, belongs to its task until that ends: it may have to go on after a crash.
        used = row.backup_id in self._backups or row.task_id in self._tasks or row.state == BackupState.IN_PROGRESS
        return Candidate(row.backup_id, row.create_time, complete=bool(row.complete), locked=row.locked, in_use=used)
