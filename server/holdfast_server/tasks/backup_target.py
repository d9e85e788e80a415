"""What a backup goes into: an archive file or a repository. `tasks.backup` does what both have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa

from holdfast_server.core.source_job import BackupPlan
from holdfast_server.core.statistics import Statistics
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.tasks.backup_result import SourceOutcome
from holdfast_server.tasks.run import TaskRun

__all__ = ["BackupTarget", "Made", "statistics_record"]


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that is there. `commit` tells the catalog, inside a guarded transaction; `undo` takes the backup back
    when it came too late."""

    outcome: SourceOutcome
    commit: Callable[[sa.Connection], None]
    undo: Callable[[], None]


class BackupTarget(Protocol):
    """Where the backups of a task go."""

    def back_up(self, run: TaskRun, entry: dict[str, Any], source: OpenFolder, plan: BackupPlan, number: int) -> Made:
        """Make the backup of one source; `number` counts the sources of this attempt."""
        ...

    def clean(self, run: TaskRun, *, cancelled: bool) -> list[str]:
        """Settle what lower attempts left; gives what had to stay."""
        ...

    def give_up(self, run: TaskRun, backup_id: str) -> None:
        """A backup failed or was cancelled for good."""
        ...


def statistics_record(found: Statistics, stored: int, seconds: float) -> dict[str, Any]:
    """What the catalog keeps of a backup's counts. `stored` in bytes."""
    return {**found.to_record(), "stored_size": stored, "duration": round(seconds, 3)}
