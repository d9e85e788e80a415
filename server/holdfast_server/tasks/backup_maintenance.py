"""What is done to a repository after a backup into it: pruned, compacted, checked, in this order, as far as asked for.

It begins when every backup of the task is in the catalog, takes its turn with other maintenance of the repository, and
whatever becomes of it the backups stay: a failure is a warning of the task.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from holdfast_server.catalog import locks, repositories, tasks
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import MaintenanceState, RepositoryRow
from holdfast_server.clock import Clock
from holdfast_server.core.control import Problem
from holdfast_server.core.retention import RetentionPolicy
from holdfast_server.errors import (
    FailedPrecondition,
    Fenced,
    HoldfastError,
    Internal,
    Reason,
    Stopped,
    invalid_field,
)
from holdfast_server.repository import CheckLevel
from holdfast_server.storage.local import translate_os_error
from holdfast_server.tasks.check_repository import CheckHandler
from holdfast_server.tasks.compact_repository import CompactHandler, compact_sentence
from holdfast_server.tasks.maintaining import TaskMaintenanceWatch
from holdfast_server.tasks.pruning import Pruning
from holdfast_server.tasks.repositories import require_repository
from holdfast_server.tasks.run import TaskRun

__all__ = ["BackupMaintenance", "MaintenanceOrder"]

_log = logging.getLogger(__name__)

_TURN_SECONDS: Final = 0.5
#: Attempts that lost their worker while they maintained, before the backup goes without.
_FRUITLESS_LIMIT: Final = 2


@dataclass(frozen=True, slots=True)
class MaintenanceOrder:
    """What CreateBackup asks for beside the backup. `check_percent` 0: no check; `policy` goes with `prune`."""

    policy: RetentionPolicy | None = None
    prune: bool = False
    compact: bool = False
    check_percent: int = 0

    def check(self) -> None:
        """Raises InvalidArgument/INVALID_FIELD."""
        if self.prune and self.policy is None:
            raise invalid_field("maintenance.retention", "must be set with prune: what is kept?")
        if self.policy is not None:
            if not self.prune:
                raise invalid_field("maintenance.prune", "must be set with retention, which nothing else applies")
            self.policy.check("maintenance.retention")
        if not 0 <= self.check_percent <= 100:
            raise invalid_field("maintenance.check_percent", "must be 0 to 100")

    @property
    def is_wanted(self) -> bool:
        return self.prune or self.compact or self.check_percent > 0

    def to_record(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        policy = record["policy"]
        return cls(**{**record, "policy": None if policy is None else RetentionPolicy(**policy)})


class BackupMaintenance:
    """Maintains the repository of a BACKUP task in its worker."""

    def __init__(
        self, database: Database, clock: Clock, data_dir: bytes, compactions: CompactHandler, checks: CheckHandler
    ) -> None:
        self._database = database
        self._clock = clock
        self._data_dir = data_dir
        self._compactions = compactions
        self._checks = checks

    def follow(self, run: TaskRun, source_ids: Sequence[str], *, again: bool) -> HoldfastError | None:
        """Do what the request asks for; gives what it failed of. Raises Stopped alone.

        `source_ids`: whose backups a prune decides about. `again`: this attempt has made no backup, an earlier one had
        begun to maintain.
        """
        order = MaintenanceOrder.from_record(run.row.request["maintenance"])
        try:
            if again and run.row.fruitless >= _FRUITLESS_LIMIT:
                raise _given_up(run)
            self._take_turn(run, source_ids)
            self._maintain(run, order, source_ids)
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, the backups are made
            failure = _as_failure(run, error)
            run.log(f"the maintenance failed: {failure.message} ({failure.reason})", "ERROR")
            run.problem(Problem(b"", failure.reason, f"maintenance: {failure.message}"), source_id="", backup_id=None)
            self._show(run, MaintenanceState.FAILED)
            return failure
        self._show(run, MaintenanceState.COMPLETED)
        return None

    def _take_turn(self, run: TaskRun, source_ids: Sequence[str]) -> None:
        """Wait until no other task maintains the repository. It holds only what none of these may wait for."""
        resource = repositories.maintenance_resource(run.row.request["repository_id"])
        with run.guarded() as connection:
            locks.release_of(connection, run.task_id, [f"source:{source_id}" for source_id in source_ids])
        waited_for = ""
        while True:
            with run.guarded() as connection:
                holder = locks.hold_besides(connection, run.task_id, resource)
            if holder is None:
                return
            if holder != waited_for:
                run.progress.begin("waiting for other maintenance")
                run.log(f"the maintenance waits for task {holder}, which maintains the repository")
                waited_for = holder
            run.control.wait(_TURN_SECONDS)

    def _maintain(self, run: TaskRun, order: MaintenanceOrder, source_ids: Sequence[str]) -> None:
        watch = TaskMaintenanceWatch(run, besides=True)
        if order.prune and order.policy is not None:
            self._show(run, MaintenanceState.PRUNING)
            row = self._repository(run)
            pruning = Pruning(run, self._database, self._clock, self._data_dir, row, source_ids, order.policy)
            pruning.do(watch)
            run.log(f"pruned: {pruning.sentence()}")
        if order.compact:
            self._show(run, MaintenanceState.COMPACTING)
            report = self._compactions.compact(run, self._repository(run), watch)
            run.log(f"compacted: {compact_sentence(report)}")
        if order.check_percent:
            self._show(run, MaintenanceState.CHECKING)
            found = self._checks.check(
                run, run.row.request["repository_id"], CheckLevel.CHECKSUM, order.check_percent, besides=True
            )
            if found.error is not None:
                raise found.error
            with run.guarded() as connection:
                found.commit(connection)

    def _show(self, run: TaskRun, state: MaintenanceState) -> None:
        with run.guarded() as connection:
            if not tasks.show_maintenance(connection, run.task_id, run.attempt, state, self._clock.now()):
                raise Fenced

    def _repository(self, run: TaskRun) -> RepositoryRow:
        with self._database.read() as connection:
            return require_repository(connection, run.row.request["repository_id"])


def _given_up(run: TaskRun) -> FailedPrecondition:
    return FailedPrecondition(
        Reason.INTERRUPTED,
        f"{run.row.fruitless} attempts in a row lost their worker while they maintained the repository",
        metadata={"attempts": str(run.attempt)},
    )


def _as_failure(run: TaskRun, error: Exception) -> HoldfastError:
    if isinstance(error, HoldfastError):
        return error
    if isinstance(error, OSError):
        return translate_os_error(error, "maintaining the repository")
    _log.exception("the maintenance of task %s failed unexpectedly", run.task_id, exc_info=error)
    return Internal(
        Reason.INTERNAL,
        "the maintenance failed for a reason inside the service",
        metadata={"task_id": run.task_id, "exception": type(error).__name__},
    )
