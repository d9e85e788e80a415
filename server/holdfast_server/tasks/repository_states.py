"""What a repository's state is, and why: what the catalog says, and what is seen in passing or by a look."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from holdfast_server.catalog.rows import RepositoryRow, RepositoryState
from holdfast_server.core.new_repository import CONFIG
from holdfast_server.core.repository_place import KEYS, keys_lost, store_unreachable, store_unsound
from holdfast_server.errors import DataLoss, HoldfastError, Reason
from holdfast_server.tasks.run import error_record

__all__ = ["ShownRepository", "glanced_at", "looked_at", "require_sound"]


@dataclass(frozen=True, slots=True)
class ShownRepository(RepositoryRow):
    """A repository as it may be shown, with what is only seen and not stored. `problem` (`error_record`) says why it is
    not READY."""

    problem: dict[str, Any] | None = None


#: What a look that failed says of the repository; any other reason says nothing of it.
_SEEN_BY_REASON = {
    Reason.STORAGE_UNREACHABLE: RepositoryState.OFFLINE,
    Reason.READER_FAILED: RepositoryState.OFFLINE,
    Reason.FOLDER_NOT_WRITABLE: RepositoryState.OFFLINE,
    Reason.REPOSITORY_REPLACED: RepositoryState.REFUSED,
    Reason.STORE_UNSUITABLE: RepositoryState.REFUSED,
    Reason.FORMAT_UNSUPPORTED: RepositoryState.REFUSED,
    Reason.REPOSITORY_KEYS_LOST: RepositoryState.REFUSED,
    Reason.CHECKSUM_MISMATCH: RepositoryState.DAMAGED,
}


def looked_at(row: RepositoryRow, error: HoldfastError | None) -> ShownRepository:
    """After a look that gave the error, or none. Raises the error when it says nothing of the repository."""
    if error is None:
        return _shown(row, _known_damage(row))
    if error.reason not in _SEEN_BY_REASON:
        raise error
    return _shown(row, error)


def glanced_at(row: RepositoryRow, keys_folder: bytes) -> ShownRepository:
    """Without opening it: whether its config and its keys are there, and what is known of it."""
    if not os.path.isfile(os.path.join(row.location, CONFIG.encode())):
        return _shown(row, store_unreachable(row.repository_id, row.location))
    if not os.path.isfile(os.path.join(keys_folder, KEYS)):
        return _shown(row, keys_lost(row.repository_id, keys_folder))
    if row.store_problem is not None:
        return _shown(row, store_unsound(row.repository_id, row.location, row.store_problem))
    return _shown(row, _known_damage(row))


def require_sound(row: RepositoryRow) -> None:
    """Raises FailedPrecondition/STORE_UNSUITABLE when the store did not keep its promises when it was last probed."""
    if row.store_problem is not None:
        raise store_unsound(row.repository_id, row.location, row.store_problem)


def _known_damage(row: RepositoryRow) -> DataLoss | None:
    if row.state != RepositoryState.DAMAGED:
        return None
    level = row.damage_level or ""
    text = f"a check of repository {row.repository_id} at level {level} found damage; its task names what is lost"
    return DataLoss(
        Reason.CHECKSUM_MISMATCH, text, metadata={"repository_id": row.repository_id, "level": level}
    )  # fmt: skip


def _shown(row: RepositoryRow, error: HoldfastError | None) -> ShownRepository:
    values = row.values()
    if error is not None:
        values |= {"state": _SEEN_BY_REASON[error.reason], "problem": error_record(error)}
    return ShownRepository(**values)
