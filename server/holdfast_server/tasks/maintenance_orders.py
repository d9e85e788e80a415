"""Orders for tasks that maintain a repository: PRUNE_REPOSITORY, COMPACT_REPOSITORY and REPAIR_REPOSITORY."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import sqlalchemy as sa

from holdfast_server.catalog import backups, sources
from holdfast_server.catalog.requests import RequestKey
from holdfast_server.catalog.rows import RepositoryRow, TaskKind, TaskRow
from holdfast_server.core.repository_place import store_unreachable
from holdfast_server.core.retention import RetentionPolicy
from holdfast_server.errors import HoldfastError, invalid_field
from holdfast_server.storage.folder import open_folder
from holdfast_server.tasks.credentials import Credentials
from holdfast_server.tasks.engine import NewTask, TaskEngine
from holdfast_server.tasks.maintaining import maintenance_wishes
from holdfast_server.tasks.repositories import RepositoryRegistry, require_repository
from holdfast_server.tasks.repository_states import require_sound
from holdfast_server.tasks.sources import source_not_found

__all__ = ["MaintenanceOrders", "PruneOrder"]

_MAX_SOURCES: Final = 1000
_MOST_LOST: Final = 1000


@dataclass(frozen=True, slots=True)
class PruneOrder:
    """What PruneRepository asks for. `source_ids` empty: of every source that has backups in the repository."""

    repository_id: str
    policy: RetentionPolicy
    source_ids: tuple[str, ...] = ()
    dry_run: bool = False

    def check(self) -> None:
        """Raises InvalidArgument/INVALID_FIELD."""
        self.policy.check()
        if len(self.source_ids) > _MAX_SOURCES:
            text = f"names {len(self.source_ids)} sources, at most {_MAX_SOURCES} are allowed"
            raise invalid_field("source_ids", text)
        if len(set(self.source_ids)) < len(self.source_ids):
            raise invalid_field("source_ids", "names a source twice")


class MaintenanceOrders:
    """Files the tasks. Thread-safe. Every call raises NotFound/REPOSITORY_NOT_FOUND, FailedPrecondition/
    STORE_UNSUITABLE, Unavailable/STORAGE_UNREACHABLE and AlreadyExists/REQUEST_ID_REUSED."""

    def __init__(self, engine: TaskEngine, registry: RepositoryRegistry) -> None:
        self._engine = engine
        self._registry = registry

    def prune(self, order: PruneOrder, principal: str, key: RequestKey | None) -> TaskRow:
        """Raises also InvalidArgument/INVALID_FIELD, NotFound/SOURCE_NOT_FOUND for a source that is neither registered
        nor has a backup in the repository."""
        order.check()

        def make(row: RepositoryRow, connection: sa.Connection) -> NewTask:
            _require_sources(connection, order)
            request = {"source_ids": list(order.source_ids), "retention": asdict(order.policy)}
            return _new_task(
                TaskKind.PRUNE_REPOSITORY, row, principal, request, order.dry_run, source_ids=order.source_ids
            )

        return self._create(order.repository_id, make, key)

    def compact(self, repository_id: str, principal: str, key: RequestKey | None, *, dry_run: bool) -> TaskRow:
        """Merge what is small, and free what is unused in packs that hold what is needed."""

        def make(row: RepositoryRow, connection: sa.Connection) -> NewTask:
            del connection
            return _new_task(TaskKind.COMPACT_REPOSITORY, row, principal, {}, dry_run)

        return self._create(repository_id, make, key)

    def repair(
        self,
        repository_id: str,
        principal: str,
        key: RequestKey | None,
        *,
        dry_run: bool,
        credentials: Credentials | None = None,
        lost: Sequence[str] = (),
    ) -> TaskRow:
        """`lost` are ids of backups to give up. Raises also InvalidArgument/INVALID_FIELD, and Unavailable/NO_WORKER
        with a secret. Without one, files of a sealed repository that is locked are counted by chunks."""

        def make(row: RepositoryRow, connection: sa.Connection) -> NewTask:
            given = self._registry.attach(row, credentials, connection)
            _check_lost(lost, connection)
            request = {"lost": list(lost)}
            return _new_task(TaskKind.REPAIR_REPOSITORY, row, principal, request, dry_run, credentials=given)

        return self._create(repository_id, make, key)

    def _create(
        self, repository_id: str, make: Callable[[RepositoryRow, sa.Connection], NewTask], key: RequestKey | None
    ) -> TaskRow:
        if key is not None and (known := self._engine.recall(key)) is not None:
            return known
        row = self._engine.inside(partial(require_repository, repository_id=repository_id))
        require_sound(row)
        try:
            open_folder(row.location).close()
        except HoldfastError as error:
            raise store_unreachable(row.repository_id, row.location) from error

        def inside(connection: sa.Connection) -> NewTask:
            return make(require_repository(connection, repository_id), connection)

        return self._engine.create(inside, key, makes_room=True)


def _check_lost(lost: Sequence[str], connection: sa.Connection) -> None:
    if len(lost) > _MOST_LOST:
        raise invalid_field("lost_backup_ids", f"names {len(lost)} backups, at most {_MOST_LOST} are allowed")
    for backup_id in lost:
        try:
            known = str(uuid.UUID(backup_id)) == backup_id
        except ValueError:
            known = False
        if not known:
            raise invalid_field("lost_backup_ids", f"{backup_id!r} is no backup id")
        if backups.get_backup(connection, backup_id) is not None:
            text = f"backup {backup_id} is in the catalog: DeleteBackup removes it, whatever is left of it"
            raise invalid_field("lost_backup_ids", text)


def _new_task(
    kind: TaskKind,
    row: RepositoryRow,
    principal: str,
    request: dict[str, Any],
    dry_run: bool,
    *,
    source_ids: tuple[str, ...] = (),
    credentials: Credentials | None = None,
) -> NewTask:
    return NewTask(
        kind=kind,
        principal=principal,
        request={"repository_id": row.repository_id, **request},
        source_ids=source_ids,
        wishes=maintenance_wishes(row.repository_id),
        dry_run=dry_run,
        message="waiting",
        credentials=credentials,
        queue="data",  # a dry run, too, reads every list
    )


def _require_sources(connection: sa.Connection, order: PruneOrder) -> None:
    known = {*sources.get_sources(connection, order.source_ids)}
    if known.issuperset(order.source_ids):
        return
    known |= {*backups.prunable_sources(connection, order.repository_id)}
    for source_id in order.source_ids:
        if source_id not in known:
            raise source_not_found(source_id)
