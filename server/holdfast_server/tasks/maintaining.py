"""What the tasks that maintain a repository share: what they lock, and how they tell a task and the catalog."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final

from holdfast_server.catalog import repositories
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import LockMode, LockWish
from holdfast_server.clock import Clock
from holdfast_server.core.control import Problem
from holdfast_server.core.repository_place import OpenRepository, heads_of
from holdfast_server.errors import HoldfastError
from holdfast_server.repository import Damage, MaintenanceWatch
from holdfast_server.tasks.checking import OBJECT_DAMAGED, TaskSteps
from holdfast_server.tasks.run import TaskRun

__all__ = ["TaskMaintenanceWatch", "keep_maintained", "maintenance_wishes", "tell_of_damage"]

_PHASES: Final[Mapping[str, str]] = {
    "packs": "looking through packs",
    "copying": "copying packs",
    "deleting": "deleting packs",
    "indexes": "writing indexes",
}


class TaskMaintenanceWatch(TaskSteps, MaintenanceWatch):
    """Tells a task. `besides`: the work follows that of the task, whose counts and totals stay as they are."""

    def __init__(self, run: TaskRun, *, besides: bool = False) -> None:
        super().__init__(run, _PHASES, besides=besides)

    def tell(self, text: str) -> None:
        self._run.log(text)


def tell_of_damage(run: TaskRun, damaged: Iterable[Damage]) -> None:
    """Report damage that was met, and did not stop the work."""
    for one in damaged:
        run.problem(Problem(b"", OBJECT_DAMAGED, f"{one.object}: {one.detail}"), source_id="", backup_id=None)


def maintenance_wishes(repository_id: str) -> list[LockWish]:
    """One such task at a time, while backups and restores go on."""
    return [
        LockWish(repositories.maintenance_resource(repository_id), LockMode.EXCLUSIVE),
        LockWish(repositories.lock_resource(repository_id), LockMode.SHARED),
    ]


def keep_maintained(database: Database, clock: Clock, opened: OpenRepository) -> None:
    """Tell the catalog that the repository changed, and of what was written into its log. Never fails the work that is
    done: what cannot be read now, the next look tells."""
    with suppress(HoldfastError):
        with database.write() as connection:
            repositories.update_repository(connection, opened.repository_id, update_time=clock.now())
        heads = heads_of(opened)
        with database.write() as connection:
            repositories.keep_heads(connection, opened.repository_id, heads)
