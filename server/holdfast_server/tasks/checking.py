"""What checks of repositories and of snapshots share: how they report, and what they say in the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast_server.core.control import Problem
from holdfast_server.errors import DataLoss, Reason
from holdfast_server.repository import BackupDamage, CheckReport, CheckWatch, Damage
from holdfast_server.storage.names import escape
from holdfast_server.tasks.run import TaskRun

__all__ = ["FILE_LOST", "OBJECT_DAMAGED", "TaskSteps", "TaskWatch", "damage_error", "damage_record"]

OBJECT_DAMAGED = "OBJECT_DAMAGED"
FILE_LOST = "FILE_LOST"

_SHOWN = 100
_PHASES = {"objects": "checking", "packs": "checking packs", "data": "reading packs", "snapshots": "checking backups"}


class TaskSteps:
    """Tells a task how work on a repository goes on. `phases` are the words of its progress, by name.

    `besides`: the work follows other work of the task, whose counts and totals stay as they are.
    """

    def __init__(self, run: TaskRun, phases: Mapping[str, str], *, besides: bool) -> None:
        self._run = run
        self._phases = phases
        self._besides = besides

    def check(self) -> None:
        self._run.control.check()

    def phase(self, name: str) -> None:
        self._run.progress.begin(self._phases[name])

    def expect(self, size: int) -> None:
        if not self._besides:
            self._run.progress.set_totals(size, 0, work=1.0)

    def advance(self, size: int) -> None:
        if self._besides:
            self._run.progress.advance(size)
        else:
            self._run.progress.count(size)


class TaskWatch(TaskSteps, CheckWatch):
    """Tells a task how its check goes on. `sources` are source ids by backup id; without `names` no path is kept.
    `besides`: it follows other work of the task, whose counts and totals stay as they are."""

    def __init__(self, run: TaskRun, sources: Mapping[str, str], *, names: bool, besides: bool = False) -> None:
        super().__init__(run, _PHASES, besides=besides)
        self._sources = sources
        self._names = names
        #: The first lost paths of each backup.
        self.paths: dict[str, list[str]] = {}

    def damaged(self, damage: Damage) -> None:
        self._run.problem(
            Problem(b"", OBJECT_DAMAGED, f"{damage.object}: {damage.detail}"), source_id="", backup_id=None
        )

    def lost(self, run_id: str, path: bytes) -> None:
        if not self._names:
            return
        paths = self.paths.setdefault(run_id, [])
        if len(paths) < _SHOWN:
            paths.append(escape(path))
        source_id = self._sources.get(run_id, "")
        self._run.problem(Problem(path, FILE_LOST, "it cannot be restored"), source_id=source_id, backup_id=run_id)


def damage_record(damage: BackupDamage, files: int | None, paths: Mapping[str, list[str]]) -> dict[str, Any]:
    """A `BackupDamage` of the API. `files` is how many the backup has, None if unknown; `paths` as those of a watch."""
    record: dict[str, Any] = {
        "backup_id": damage.run_id,
        "chunks_lost": damage.chunks,
        "paths": paths.get(damage.run_id, []),
    }
    lost = files if damage.whole else None if damage.files is None else damage.files + damage.unnamed
    if lost is not None:
        record["files_lost"] = lost
    return record


def damage_error(what: str, report: CheckReport, metadata: Mapping[str, str]) -> DataLoss:
    """The error for a check that found something; which objects, by class and name, is in its metadata."""
    found = []
    if report.damaged:
        named = report.damaged[0].object
        number = len(report.damaged)
        found.append(
            f"object {named} is damaged or missing"
            if number == 1
            else f"{number} objects are damaged or missing, the first {named}"
        )
    if report.backups_damaged:
        number = len(report.backups_damaged)
        found.append("1 backup has lost something" if number == 1 else f"{number} backups have lost something")
    numbers = {
        "damaged_objects": str(len(report.damaged)),
        "damaged_backups": str(len(report.backups_damaged)),
        "objects": " ".join(one.object for one in report.damaged[:10]),
    }
    reason, how = Reason.CHECKSUM_MISMATCH, "is damaged"
    if report.rolled_back:
        reason, how = Reason.REPOSITORY_ROLLED_BACK, "was rolled back: its log lacks entries that were seen before"
    return DataLoss(reason, f"{what} {how}: {'; '.join(found)}", metadata={**metadata, **numbers})
