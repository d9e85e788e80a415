"""Everything that can go wrong, as one exception tree without gRPC.

HoldfastError
├── InvalidArgument      the request is wrong, whatever the state of the system
├── NotFound             no such resource, or none the caller may see
├── AlreadyExists        an id is taken
├── FailedPrecondition   right request, wrong state; retrying alone does not help
├── PermissionDenied     known caller, not allowed
├── Unauthenticated      no or bad credentials
├── ResourceExhausted    disk, quota or capacity
├── Aborted              another operation holds the resource
├── DataLoss             stored bytes are not what was written
├── Unavailable          try again later
├── Unimplemented        part of the API, not built yet
└── Internal             a defect of the service

Each leaf carries a `Reason`: stable, listed with its remedy in docs/errors.md. `rpc/errors.py` holds the one table from
leaves to gRPC status codes. Control flow inside a task (`Cancelled`, `Fenced`, `Drained`) is kept apart: it is no error
and never reaches a caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = [
    "REMEDIES",
    "Aborted",
    "AlreadyExists",
    "Cancelled",
    "DataLoss",
    "Drained",
    "FailedPrecondition",
    "Fenced",
    "FieldViolation",
    "HoldfastError",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "PermissionDenied",
    "Reason",
    "ResourceExhausted",
    "Stopped",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "invalid_field",
]


class Reason(StrEnum):
    """Stable machine-readable reasons; the wire's `ErrorInfo.reason`."""

    INVALID_FIELD = "INVALID_FIELD"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    SOURCE_EXISTS = "SOURCE_EXISTS"
    SOURCE_NOT_FOUND = "SOURCE_NOT_FOUND"
    SOURCE_SUSPENDED = "SOURCE_SUSPENDED"
    SOURCE_OFFLINE = "SOURCE_OFFLINE"
    SOURCE_BUSY = "SOURCE_BUSY"
    NOT_A_WALLET = "NOT_A_WALLET"
    NO_SOURCES = "NO_SOURCES"
    BACKUP_EXISTS = "BACKUP_EXISTS"
    BACKUP_NOT_FOUND = "BACKUP_NOT_FOUND"
    BACKUP_LOCKED = "BACKUP_LOCKED"
    BACKUP_BUSY = "BACKUP_BUSY"
    BACKUP_NOT_RESTORABLE = "BACKUP_NOT_RESTORABLE"
    REPOSITORY_BUSY = "REPOSITORY_BUSY"
    REPOSITORY_EXISTS = "REPOSITORY_EXISTS"
    REPOSITORY_REPLACED = "REPOSITORY_REPLACED"
    REPOSITORY_NOT_FOUND = "REPOSITORY_NOT_FOUND"
    REPOSITORY_ROLLED_BACK = "REPOSITORY_ROLLED_BACK"
    TASK_NOT_FOUND = "TASK_NOT_FOUND"
    TASK_COMMITTING = "TASK_COMMITTING"
    INTERRUPTED = "INTERRUPTED"
    TASK_ENDED = "TASK_ENDED"
    RUN_ENDED = "RUN_ENDED"
    INSUFFICIENT_BALANCE = "INSUFFICIENT_BALANCE"
    NO_EXACT_CHANGE = "NO_EXACT_CHANGE"
    EXPORT_UNPUBLISHED = "EXPORT_UNPUBLISHED"
    NO_WORKER = "NO_WORKER"
    SOURCE_UNREADABLE = "SOURCE_UNREADABLE"
    FILE_NOT_FOUND = "FILE_NOT_FOUND"
    FOLDER_NOT_FOUND = "FOLDER_NOT_FOUND"
    FOLDER_NOT_CREATABLE = "FOLDER_NOT_CREATABLE"
    FOLDER_NOT_WRITABLE = "FOLDER_NOT_WRITABLE"
    FOLDER_NOT_EMPTY = "FOLDER_NOT_EMPTY"
    TARGET_CHANGED = "TARGET_CHANGED"
    ENTRY_NOT_FOUND = "ENTRY_NOT_FOUND"
    FOLDER_INSIDE_DATA_DIR = "FOLDER_INSIDE_DATA_DIR"
    FOLDER_INSIDE_SOURCE = "FOLDER_INSIDE_SOURCE"
    FOLDER_INSIDE_REPOSITORY = "FOLDER_INSIDE_REPOSITORY"
    PATH_NOT_ALLOWED = "PATH_NOT_ALLOWED"
    BAD_CREDENTIALS = "BAD_CREDENTIALS"
    DISK_FULL = "DISK_FULL"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    TOO_MANY_WATCHERS = "TOO_MANY_WATCHERS"
    TOO_MANY_DOWNLOADS = "TOO_MANY_DOWNLOADS"
    NOT_RESUMABLE = "NOT_RESUMABLE"
    NOT_REPRESENTABLE = "NOT_REPRESENTABLE"
    CHECKSUM_MISMATCH = "CHECKSUM_MISMATCH"
    PLAINTEXT_COIN = "PLAINTEXT_COIN"
    WALLET_UNLOCKED = "WALLET_UNLOCKED"
    ARCHIVE_MISSING = "ARCHIVE_MISSING"
    ARCHIVE_CHANGED = "ARCHIVE_CHANGED"
    ARCHIVE_INVALID = "ARCHIVE_INVALID"
    KEY_REQUIRED = "KEY_REQUIRED"
    KEY_WRONG = "KEY_WRONG"
    KEY_NOT_FOUND = "KEY_NOT_FOUND"
    LAST_KEY = "LAST_KEY"
    STORAGE_UNREACHABLE = "STORAGE_UNREACHABLE"
    STORE_UNSUITABLE = "STORE_UNSUITABLE"
    REPOSITORY_KEYS_LOST = "REPOSITORY_KEYS_LOST"
    FORMAT_UNSUPPORTED = "FORMAT_UNSUPPORTED"
    CATALOG_BUSY = "CATALOG_BUSY"
    READER_BUSY = "READER_BUSY"
    READER_FAILED = "READER_FAILED"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    NOT_AVAILABLE = "NOT_AVAILABLE"
    INTERNAL = "INTERNAL"


#: What a person can do about each reason. docs/errors.md prints this table; a test compares both.
REMEDIES: Mapping[Reason, str] = {
    Reason.INVALID_FIELD: "Correct the named field and call again.",
    Reason.REQUEST_ID_REUSED: "Use a new request_id for a different request.",
    Reason.SOURCE_EXISTS: "Choose another source_id, or update the present source.",
    Reason.SOURCE_NOT_FOUND: "List the sources and use one of their ids.",
    Reason.SOURCE_SUSPENDED: "Resume the source with UpdateSource.",
    Reason.SOURCE_OFFLINE: "Make the source's path reachable again, then repeat the call.",
    Reason.SOURCE_BUSY: "Wait for the tasks that use the source, or cancel them.",
    Reason.NOT_A_WALLET: (
        "Name a folder that holds Bank, Fracked, config.toml and transactions.csv, or register it as a DIRECTORY."
    ),
    Reason.NO_SOURCES: "Register a wallet, or name the sources to back up.",
    Reason.BACKUP_EXISTS: "Choose another backup_id, or leave it out.",
    Reason.BACKUP_NOT_FOUND: "List the backups and use one of their ids; UndeleteBackup takes one out of the trash.",
    Reason.BACKUP_LOCKED: "Unlock the backup with UpdateBackup first, if it may really go.",
    Reason.BACKUP_BUSY: "Wait for the task that uses the backup, or cancel it.",
    Reason.BACKUP_NOT_RESTORABLE: "Use a backup in state COMPLETED.",
    Reason.REPOSITORY_BUSY: "Wait until the run that the message names has ended, at most a day, and try again.",
    Reason.REPOSITORY_EXISTS: "Choose another repository_id and an empty folder, or use the present repository.",
    Reason.REPOSITORY_REPLACED: "Put the repository that belongs there back under its location.",
    Reason.REPOSITORY_NOT_FOUND: "List the repositories and use one of their ids.",
    Reason.REPOSITORY_ROLLED_BACK: (
        "Put the newest state of the repository's storage back; what the message names was there before and is gone."
    ),
    Reason.TASK_NOT_FOUND: "List the tasks; ended tasks are kept for history_days.",
    Reason.TASK_COMMITTING: "Wait: the task is past the point where it can be cancelled and ends by itself.",
    Reason.INTERRUPTED: "Look at the task's log for what it did last, mend that, and start a new task.",
    Reason.RUN_ENDED: "Start the backup again: it gets a new id.",
    Reason.TASK_ENDED: "Start a new task; only an export that FAILED with EXPORT_UNPUBLISHED can be resumed.",
    Reason.INSUFFICIENT_BALANCE: "Export less, or import the coins that the message says are not counted.",
    Reason.NO_EXACT_CHANGE: (
        "Export one of the amounts in nearest_lower and nearest_higher, or make change in the wallet program."
    ),
    Reason.EXPORT_UNPUBLISHED: (
        "Mend what the message names, then finish the export with ResumeTask; its coins stay reserved until then."
    ),
    Reason.NO_WORKER: "Start a worker, or repeat the call after the given delay.",
    Reason.SOURCE_UNREADABLE: "Make the named file readable, ignore it by a pattern, or use on_source_error WARN.",
    Reason.FILE_NOT_FOUND: "Name a regular file of the server, by its own path, that the service may read.",
    Reason.FOLDER_NOT_FOUND: "Create the folder, or set create_folder, for a restore create_parents.",
    Reason.FOLDER_NOT_CREATABLE: "Create the folder by hand with the service's rights.",
    Reason.FOLDER_NOT_WRITABLE: "Give the service the right to write to the folder.",
    Reason.FOLDER_NOT_EMPTY: "Name a folder that does not exist yet, or an empty one.",
    Reason.TARGET_CHANGED: "Look at the named entry, then restore into another folder.",
    Reason.ENTRY_NOT_FOUND: "Name a path of the backup or archive, as ListBackupEntries or its manifest writes it.",
    Reason.FOLDER_INSIDE_DATA_DIR: "Name a folder outside the service's data directory.",
    Reason.FOLDER_INSIDE_SOURCE: "Name a folder outside the sources that are backed up.",
    Reason.FOLDER_INSIDE_REPOSITORY: "Name a folder outside the repository's folder.",
    Reason.PATH_NOT_ALLOWED: "Name a path below one of the configured [paths] roots, or extend them.",
    Reason.BAD_CREDENTIALS: (
        "Send `authorization: Bearer <token>` with the token from admin.token in the data directory."
    ),
    Reason.DISK_FULL: "Free space on the named filesystem and start again.",
    Reason.QUOTA_EXCEEDED: "Raise the named limit or quota, or remove what uses it up.",
    Reason.TOO_MANY_WATCHERS: "Close a watch, or raise [server] max_watchers.",
    Reason.TOO_MANY_DOWNLOADS: "Repeat the call when another download of a snapshot has ended.",
    Reason.NOT_RESUMABLE: "Download it from its first byte, or have ExportBackup write a file of it.",
    Reason.NOT_REPRESENTABLE: (
        "Choose another format, or use ExportBackup, which leaves such entries out and names them."
    ),
    Reason.CHECKSUM_MISMATCH: "What is named is damaged: restore from another backup, and check the disk that has it.",
    Reason.WALLET_UNLOCKED: (
        "Back the wallet up as itself and leave its folder out here with an ignore pattern, or lock it first."
    ),
    Reason.PLAINTEXT_COIN: "Nothing was published; report it as a defect, with the named file's kind and not the file.",
    Reason.ARCHIVE_MISSING: "Put the archive back where storage_path says, or use another backup.",
    Reason.ARCHIVE_CHANGED: "Look at the named file, move it away if it may go, and repeat the call.",
    Reason.ARCHIVE_INVALID: "Use another archive; this one breaks its format's rules in the named place.",
    Reason.KEY_REQUIRED: (
        "Unlock the wallet or repository, or call again with the credentials that open the content; with a new "
        "request_id if any."
    ),
    Reason.KEY_WRONG: "Repeat the call with the password or credentials that belong to what is encrypted.",
    Reason.KEY_NOT_FOUND: "Show the repository with GetRepository and use one of its key ids.",
    Reason.LAST_KEY: "Add another key with AddKey first, then remove this one.",
    Reason.STORAGE_UNREACHABLE: "Make the storage reachable and repeat the call.",
    Reason.STORE_UNSUITABLE: "Mend what the message names, or keep the repository on another storage.",
    Reason.REPOSITORY_KEYS_LOST: "Put the folder that the message names back from a copy of the data directory, or "
    "stop the server and run holdfast-server rebuild-catalog with what opens a key slot.",
    Reason.FORMAT_UNSUPPORTED: "Use a version of the software that knows this version of the format.",
    Reason.CATALOG_BUSY: "Repeat the call after the given delay.",
    Reason.READER_BUSY: "Repeat the call after the given delay; ask for fewer wallets at a time.",
    Reason.READER_FAILED: (
        "Look whether the wallet's filesystem answers, then repeat the call; the server's log says more."
    ),
    Reason.SHUTTING_DOWN: "Repeat the call when the server is back.",
    Reason.NOT_AVAILABLE: "Leave out what this version does not serve; the README lists it under Limits.",
    Reason.INTERNAL: "Look in the server's log under the request id and report it.",
}


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that is wrong, as a dotted path from the request message, and why."""

    field: str
    description: str


class HoldfastError(Exception):
    """Base of all errors that a caller may see.

    `message` says what happened and to what; `metadata` repeats every variable part of it under snake_case keys; it
    never holds a secret. `remedy` says what to do. `retry_after` is in seconds.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        # What Exception does would call the class with the message alone.
        return _rebuild, (type(self), self.reason, self.message, self.metadata, self.violations, self.retry_after)

    @property
    def remedy(self) -> str:
        return REMEDIES[self.reason]


def _rebuild(
    kind: type[HoldfastError],
    reason: Reason,
    message: str,
    metadata: Mapping[str, str],
    violations: Sequence[FieldViolation],
    retry_after: float | None,
) -> HoldfastError:
    return kind(reason, message, metadata=metadata, violations=violations, retry_after=retry_after)


class InvalidArgument(HoldfastError):
    """The request is wrong, whatever the state of the system."""


class NotFound(HoldfastError):
    """No such resource, or none that the caller may see."""


class AlreadyExists(HoldfastError):
    """An id is taken."""


class FailedPrecondition(HoldfastError):
    """The request is right, the state is not; retrying alone does not help."""


class PermissionDenied(HoldfastError):
    """A known caller is not allowed this."""


class Unauthenticated(HoldfastError):
    """No or bad credentials."""


class ResourceExhausted(HoldfastError):
    """Disk, quota or capacity is used up."""


class Aborted(HoldfastError):
    """Another operation holds the resource."""


class DataLoss(HoldfastError):
    """Stored bytes are not what was written."""


class Unavailable(HoldfastError):
    """Try again later."""


class Unimplemented(HoldfastError):
    """Part of the API, not built yet."""


class Internal(HoldfastError):
    """A defect of the service."""


def invalid_field(field: str, description: str, **metadata: str) -> InvalidArgument:
    """INVALID_ARGUMENT/INVALID_FIELD for one field (dotted path from the request message)."""
    return InvalidArgument(
        Reason.INVALID_FIELD,
        f"{field}: {description}",
        metadata={"field": field, **metadata},
        violations=[FieldViolation(field, description)],
    )


class Stopped(Exception):
    """A task was told to stop; unwinds the core so that it undoes its work. Never reaches a caller."""


class Cancelled(Stopped):
    """Somebody cancelled the task."""


class Drained(Stopped):
    """The worker shuts down; the task goes on later, in a new attempt that does not count as a failed one."""


class Fenced(Stopped):
    """Another attempt owns the task now: stop, and remove only what carries this attempt in its name."""
