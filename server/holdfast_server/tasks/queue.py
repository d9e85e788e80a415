"""DBOS as the dispatcher: a transactional queue and nothing else. Ownership of tasks is the catalog's.

The workflow id is `{task_id}.{attempt}` and its only arguments are these two, serialised as JSON. Enqueueing joins the
caller's transaction, so that a task row, its locks and its place in the queue appear together or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from typing import Protocol

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer, WorkflowSerializationFormat

__all__ = ["QUEUES", "DbosConsumer", "DbosQueue", "Dispatcher", "migrate_queue"]

#: Queue name → how a task gets there: long work, and short calls that must not wait behind it.
QUEUES = ("data", "short")

_APPLICATION = "holdfast"
#: Constant: DBOS must never tell workers apart by their code; the catalog's attempts do that.
_APPLICATION_VERSION = "1"
_WORKFLOW = "run_task"
_POLLING_SECONDS = 0.2


class Dispatcher(Protocol):
    """Hands attempts of tasks to workers."""

    def enqueue(self, connection: sa.Connection, queue: str, task_id: str, attempt: int) -> None:
        """Queue one attempt inside the caller's transaction."""
        ...

    def waiting(self, attempts: Collection[tuple[str, int]]) -> set[tuple[str, int]]:
        """Those of the attempts that are still in the queue, not yet taken by any worker."""
        ...

    def forget(self, created_before: datetime, keep: Collection[tuple[str, int]]) -> int:
        """Drop what the queue remembers of attempts made before then, all but `keep`; gives their number."""
        ...


def migrate_queue(url: str) -> None:
    """Make or update DBOS's own tables."""
    DBOS.migrate(url)


def _workflow_id(task_id: str, attempt: int) -> str:
    return f"{task_id}.{attempt}"


class DbosQueue:
    """The producing side, for the edge and for workers."""

    def __init__(self, url: str) -> None:
        self._client = DBOSClient(
            system_database_url=url,
            serializer=DBOSPortableJSONSerializer(),
            application_name=_APPLICATION,
            lazy=True,
        )

    def enqueue(self, connection: sa.Connection, queue: str, task_id: str, attempt: int) -> None:
        self._client.enqueue_in_transaction(
            connection,
            {
                "queue_name": queue,
                "workflow_name": _WORKFLOW,
                "workflow_id": _workflow_id(task_id, attempt),
                "app_version": _APPLICATION_VERSION,
                "serialization_type": WorkflowSerializationFormat.PORTABLE,
            },
            task_id,
            attempt,
        )

    def waiting(self, attempts: Collection[tuple[str, int]]) -> set[tuple[str, int]]:
        by_id = {_workflow_id(*one): one for one in attempts}
        found = self._client.list_workflows(workflow_ids=sorted(by_id), status="ENQUEUED")
        return {by_id[status.workflow_id] for status in found}

    def forget(self, created_before: datetime, keep: Collection[tuple[str, int]]) -> int:
        kept = {_workflow_id(*one) for one in keep}
        found = self._client.list_workflows(
            end_time=created_before.isoformat(), load_input=False, load_output=False, limit=10_000
        )
        ids = [row.workflow_id for row in found if row.workflow_id not in kept]
        if ids:
            self._client.delete_workflows(ids)
        return len(ids)

    def close(self) -> None:
        self._client.destroy()


class DbosConsumer:
    """The consuming side: one per worker process.

    `owner` is fresh for every process, so that DBOS's own start-up recovery never finds anything to recover: a shared
    id would run one task twice.
    """

    def __init__(self, url: str, owner: str, concurrency: dict[str, int], execute: Callable[[str, int], str]) -> None:
        DBOS(
            config={
                "name": _APPLICATION,
                "system_database_url": url,
                "serializer": DBOSPortableJSONSerializer(),
                "run_admin_server": False,
                "application_version": _APPLICATION_VERSION,
                "executor_id": owner,
                "log_level": "WARNING",
                "scheduler_polling_interval_sec": 60.0,
                "notification_listener_polling_interval_sec": 60.0,
                "max_executor_threads": sum(concurrency.values()) + 2,
            }
        )

        @DBOS.workflow(name=_WORKFLOW, max_recovery_attempts=None)  # type: ignore[untyped-decorator]
        def run_task(task_id: str, attempt: int) -> str:
            return execute(task_id, attempt)

        self._concurrency = concurrency

    def start(self) -> None:
        DBOS.launch()
        for name, limit in self._concurrency.items():
            DBOS.register_queue(
                name,
                worker_concurrency=limit,
                polling_interval_sec=_POLLING_SECONDS,
                on_conflict="always_update",
            )

    def stop(self) -> None:
        DBOS.destroy()
