"""What tasks that read snapshots share: their order, the run announced for them, errors that name nothing sealed.

Of a sealed repository no name of an entry is stored: chosen paths reach the worker as a secret does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from holdfast_server.catalog import repositories
from holdfast_server.catalog.rows import BackupRow, LockMode, LockWish
from holdfast_server.clock import Clock
from holdfast_server.core.repository_place import OpenRepository
from holdfast_server.errors import HoldfastError, invalid_field
from holdfast_server.repository import ReadingRun, RunKind
from holdfast_server.tasks.credentials import Credentials
from holdfast_server.tasks.repositories import RepositoryRegistry, require_repository
from holdfast_server.tasks.repository_states import require_sound
from holdfast_server.tasks.run import TaskRun

__all__ = ["chosen_paths", "order_snapshot", "reading_run", "without_names"]

_HIDDEN = "hidden_paths"


def order_snapshot(
    registry: RepositoryRegistry,
    row: BackupRow,
    request: dict[str, Any],
    credentials: Credentials | None,
    connection: sa.Connection,
) -> tuple[LockWish, Credentials | None]:
    """The lock on a snapshot's repository, and what the task is given to open it; hides the request's paths.

    Raises NotFound/REPOSITORY_NOT_FOUND, FailedPrecondition: STORE_UNSUITABLE, KEY_REQUIRED for a sealed repository
    that is locked when no secret came with the call; InvalidArgument/INVALID_FIELD for one that opens archives.
    """
    if credentials is not None and credentials.age_identity is not None:
        text = f"opens archives, and backup {row.backup_id} lies in repository {row.repository_id}"
        raise invalid_field("credentials.age_identity", text)
    repository = require_repository(connection, row.repository_id or "")
    require_sound(repository)
    wish = LockWish(repositories.lock_resource(repository.repository_id), LockMode.SHARED)
    if not repository.sealed:
        # A task that was given a secret does not outlive the worker that has it, and this one needs none.
        unused = credentials is not None and (credentials.passphrase or credentials.private_key)
        return wish, None if unused else credentials
    credentials = registry.attach(repository, credentials, connection, required=True)
    if request["paths"] and credentials is not None:
        credentials = replace(credentials, hidden={"paths": request["paths"]})
        request.update({"paths": [], _HIDDEN: True})
    return wish, credentials


def chosen_paths(run: TaskRun) -> list[str]:
    """The request's paths in base64. Raises FailedPrecondition/KEY_REQUIRED when those that are hidden did not reach
    this process."""
    request = run.row.request
    found: list[str] = run.hidden()["paths"] if request.get(_HIDDEN) else request["paths"]
    return found


@contextmanager
def reading_run(run: TaskRun, opened: OpenRepository, kind: RunKind, clock: Clock) -> Iterator[ReadingRun]:
    """A run in the repository. What the task has finished by its end stays, even if the repository cannot be told."""
    reading = ReadingRun(opened.repository, kind, run.control.check, clock.now, opened.place.marks)
    try:
        yield reading
    finally:
        try:
            reading.__exit__()
        except HoldfastError as error:
            # Then it is ended later: its mark says that it is dead.
            run.log(f"the run of this task stays open in the repository: {error.message}", "WARNING")


@contextmanager
def without_names(sealed: bool, kinds: tuple[type[HoldfastError], ...] = (HoldfastError,)) -> Iterator[None]:
    """Errors, which are stored with the task, without the names of entries: those of `kinds` that have a path."""
    try:
        yield
    except kinds as error:
        if not sealed or "path" not in error.metadata:
            raise
        metadata = {key: value for key, value in error.metadata.items() if key not in ("path", "detail")}
        text = "an entry of the backup is concerned, which is not named here: the repository is sealed"
        raise type(error)(error.reason, text, metadata=metadata) from None
