"""What the catalog's rows say, as values, and the words of their states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Self

__all__ = [
    "END_STATES",
    "LIVE_STATES",
    "MOVES",
    "BackupRow",
    "BackupState",
    "EventKind",
    "EventRow",
    "LockMode",
    "LockWish",
    "LogRow",
    "MaintenanceState",
    "ProblemRow",
    "RepositoryRow",
    "RepositoryState",
    "SourceKind",
    "SourceRow",
    "SourceState",
    "TaskKind",
    "TaskRow",
    "TaskState",
    "VerificationRow",
]


class SourceKind(StrEnum):
    WALLET = "WALLET"
    DIRECTORY = "DIRECTORY"


class SourceState(StrEnum):
    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"
    #: Never stored: ACTIVE while its path cannot be reached.
    OFFLINE = "OFFLINE"
    RESTORING = "RESTORING"


class TaskKind(StrEnum):
    BACKUP = "BACKUP"
    RESTORE = "RESTORE"
    VERIFY = "VERIFY"
    RESTORE_ARCHIVE = "RESTORE_ARCHIVE"
    EXPORT_BACKUP = "EXPORT_BACKUP"
    EXPORT_COINS = "EXPORT_COINS"
    IMPORT_COINS = "IMPORT_COINS"
    CHECK_REPOSITORY = "CHECK_REPOSITORY"
    PRUNE_REPOSITORY = "PRUNE_REPOSITORY"
    COMPACT_REPOSITORY = "COMPACT_REPOSITORY"
    REPAIR_REPOSITORY = "REPAIR_REPOSITORY"


class TaskState(StrEnum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    COMPLETED = "COMPLETED"
    COMPLETED_WITH_WARNINGS = "COMPLETED_WITH_WARNINGS"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


#: `errors.Reason.EXPORT_UNPUBLISHED`, as tasks keep it.
_UNPUBLISHED = "EXPORT_UNPUBLISHED"

END_STATES = frozenset({TaskState.COMPLETED, TaskState.COMPLETED_WITH_WARNINGS, TaskState.FAILED, TaskState.CANCELLED})
LIVE_STATES = frozenset(TaskState) - END_STATES

#: The documented graph: the only moves there are.
MOVES: Mapping[TaskState, frozenset[TaskState]] = {
    TaskState.PENDING: frozenset({TaskState.RUNNING, TaskState.CANCELLING, TaskState.CANCELLED}),
    TaskState.RUNNING: frozenset(
        {
            TaskState.PENDING,
            TaskState.CANCELLING,
            TaskState.COMPLETED,
            TaskState.COMPLETED_WITH_WARNINGS,
            TaskState.FAILED,
        }
    ),
    TaskState.CANCELLING: frozenset({TaskState.CANCELLED}),
    # ResumeTask alone: an export that is committed and could not be published.
    TaskState.FAILED: frozenset({TaskState.PENDING}),
}


class MaintenanceState(StrEnum):
    """How the maintenance of a repository after a backup stands; NONE also until it begins."""

    NONE = "NONE"
    PRUNING = "PRUNING"
    COMPACTING = "COMPACTING"
    CHECKING = "CHECKING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class BackupState(StrEnum):
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    #: Never stored: COMPLETED while a restore of it is under way.
    RESTORING = "RESTORING"


class RepositoryState(StrEnum):
    READY = "READY"
    #: Never stored: READY while its storage cannot be reached.
    OFFLINE = "OFFLINE"
    DAMAGED = "DAMAGED"
    REFUSED = "REFUSED"


class EventKind(StrEnum):
    STATE = "STATE"
    PROGRESS = "PROGRESS"
    WARNING = "WARNING"


class LockMode(StrEnum):
    SHARED = "SHARED"
    EXCLUSIVE = "EXCLUSIVE"


@dataclass(frozen=True, slots=True)
class LockWish:
    """A lock that a task needs while it runs, such as SHARED on `source:photos`."""

    resource: str
    mode: LockMode


class _Row:
    """Base of rows that are read whole."""

    __slots__ = ()

    @classmethod
    def of(cls, mapping: Mapping[Any, Any]) -> Self:
        return cls(**{f.name: mapping[f.name] for f in fields(cls)})  # type: ignore[arg-type]

    def values(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class SourceRow(_Row):
    """A registered folder."""

    source_id: str
    kind: str
    state: str
    display_name: str
    path: bytes
    ignore: list[str]
    create_time: int
    update_time: int


@dataclass(frozen=True, slots=True)
class TaskRow(_Row):
    """A task. `attempt` counts from 1 and fences every write of a run; `revision` is the sequence of its last event."""

    task_id: str
    kind: str
    origin: str
    principal: str
    request: dict[str, Any]
    dry_run: bool
    source_ids: list[str]
    source_count: int
    create_time: int
    update_time: int
    queue: str = "data"
    state: str = TaskState.PENDING
    priority: int = 0
    start_time: int | None = None
    end_time: int | None = None
    attempt: int = 1
    owner: str | None = None
    lease_expires: int | None = None
    dispatch_time: int | None = None
    recovering: bool = False
    fruitless: int = 0
    high_water: int = 0
    cancel_requested: bool = False
    committing: bool = False
    progress: dict[str, Any] = field(default_factory=dict)
    message: str = ""
    error: dict[str, Any] | None = None
    warning_count: int = 0
    log_lines: int = 0
    revision: int = 0
    cleanup: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    checkpoint: dict[str, Any] = field(default_factory=dict)
    has_credentials: bool = False
    maintenance_state: str = MaintenanceState.NONE

    @property
    def ended(self) -> bool:
        return self.state in END_STATES

    @property
    def resumable(self) -> bool:
        """Whether ResumeTask can take it out of its end state: an export whose coins may still be reserved."""
        return self.state == TaskState.FAILED and (self.error or {}).get("reason") == _UNPUBLISHED

    def snapshot(self) -> dict[str, Any]:
        """The task as a STATE event keeps it: what callers may see, nothing of the engine's own."""
        hidden = {
            "request", "checkpoint", "owner", "lease_expires", "dispatch_time", "principal", "queue", "priority",
            "has_credentials",
        }  # fmt: skip
        return {name: value for name, value in self.values().items() if name not in hidden}


@dataclass(frozen=True, slots=True)
class EventRow(_Row):
    """One event of a task's journal."""

    task_id: str
    sequence: int
    time: int
    kind: str
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LogRow(_Row):
    """One line of a task's log, counted from 1."""

    line_number: int
    time: int
    level: str
    text: str


@dataclass(frozen=True, slots=True)
class ProblemRow(_Row):
    """One file or folder that a task could not handle as asked, counted from 1."""

    task_id: str
    number: int
    source_id: str
    backup_id: str | None
    path: str
    reason: str
    message: str
    time: int


@dataclass(frozen=True, slots=True)
class VerificationRow(_Row):
    """What was proved of a backup, and when."""

    backup_id: str
    number: int
    time: int
    level: str
    ok: bool
    files_checked: int
    bytes_checked: int
    message: str
    task_id: str


@dataclass(frozen=True, slots=True)
class BackupRow(_Row):
    """One copy of one source: an archive, or a snapshot in the repository `repository_id`, which has neither a format
    (empty then) nor a file of its own.

    `file_name`, `size` and `sha256` are written just before the archive is published, so that a later attempt can
    tell a published archive from one that never was. `delete_time` is set while it is in the trash, where its file
    lies under `trash_name` (None: it has no file); `purge_begun` once the file may be gone.
    """

    backup_id: str
    name: str
    source_id: str
    task_id: str
    kind: str
    state: str
    format: str
    folder: bytes
    ignore: list[str]
    create_time: int
    update_time: int
    file_name: bytes | None = None
    size: int | None = None
    sha256: str | None = None
    locked: bool = False
    sealed: bool = False
    complete: bool | None = None
    complete_time: int | None = None
    statistics: dict[str, Any] = field(default_factory=dict)
    delete_time: int | None = None
    purge_time: int | None = None
    trash_name: bytes | None = None
    purge_begun: int | None = None
    repository_id: str | None = None

    @property
    def trashed(self) -> bool:
        return self.delete_time is not None

    @property
    def storage_path(self) -> bytes:
        """Where the archive lies, or will."""
        name = self.trash_name or self.file_name
        return self.folder if name is None else self.folder.rstrip(b"/") + b"/" + name


@dataclass(frozen=True, slots=True)
class RepositoryRow(_Row):
    """A repository as this service knows it.

    `location` is an absolute folder; `fingerprint` is pinned when it is made: whatever else is found there is refused.
    `keys` are its key slots without secrets, each with `key_id`, `kind`, `display_name` and `create_time`;
    `log_vector` the highest log entry seen of each writer: {writer id: [sequence, hash in hexadecimal]}. `check_cursor`
    is where the last check of a part stopped, `damage_level` how deep the check went that found damage (DAMAGED).
    `store_problem` is what its store did wrong when it was last probed; None: nothing.
    """

    repository_id: str
    display_name: str
    location: bytes
    sealed: bool
    state: str
    uuid: bytes
    fingerprint: bytes
    format_version: int
    compression_level: int
    keys: list[dict[str, Any]]
    create_time: int
    update_time: int
    key_epoch: int = 1
    statistics: dict[str, int] | None = None
    unlock_expire: int | None = None
    last_check_time: int | None = None
    check_cursor: str = ""
    damage_level: str | None = None
    log_vector: dict[str, list[Any]] = field(default_factory=dict)
    store_problem: str | None = None
