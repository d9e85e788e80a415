"""Everything that can go wrong, as one exception tree; a caller of this library meets no other errors of the service.

HoldfastError
├── InvalidArgument      the request is wrong, whatever the state of the system
├── NotFound             no such resource, or none the caller may see
├── AlreadyExists        an id is taken
├── FailedPrecondition   right request, wrong state; retrying alone does not help
├── PermissionDenied     known caller, not allowed
├── Unauthenticated      no or bad credentials
├── ResourceExhausted    disk, quota or capacity
├── Aborted              another operation holds the resource
├── DataLoss             stored or transferred bytes are not what was written
│   └── DigestMismatch   a download is not what the server has
├── Unavailable          try again later
│   └── ConnectionFailed no server answers, or the connection was lost for good
├── Unimplemented        part of the API, not built yet
├── Internal             a defect of the service
├── DeadlineExceeded     no answer in time; what was asked for may still happen
├── UnknownStatus        a status that the service never sends, by a proxy or a newer server
├── ProtocolError        the server broke a rule of the API, such as the order of events
├── TaskFailed           a task ended FAILED; carries the task
├── TaskCancelled        a task ended CANCELLED; carries the task
├── TargetExists         a download would replace a file
└── BadConfiguration     an argument, environment variable or file on this side is wrong

Errors of the server carry its `reason` (see `Reason`; reasons of a newer server are kept as they are), its message, its
remedy, metadata and field violations. `code` is the name of the canonical gRPC code, empty for errors of this side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

import grpc
from google.rpc import error_details_pb2, status_pb2

if TYPE_CHECKING:
    from holdfast.models import Task

__all__ = [
    "CLASSES",
    "Aborted",
    "AlreadyExists",
    "BadConfiguration",
    "ConnectionFailed",
    "DataLoss",
    "DeadlineExceeded",
    "DigestMismatch",
    "FailedPrecondition",
    "FieldViolation",
    "HoldfastError",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "PermissionDenied",
    "ProtocolError",
    "Reason",
    "ResourceExhausted",
    "TargetExists",
    "TaskCancelled",
    "TaskFailed",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "UnknownStatus",
    "from_rpc_error",
    "from_status",
]

DOMAIN = "holdfast.dev"


class Reason(StrEnum):
    """The stable reasons that this version knows; `HoldfastError.reason` compares equal to them."""

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
    REPOSITORY_EXISTS = "REPOSITORY_EXISTS"
    REPOSITORY_REPLACED = "REPOSITORY_REPLACED"
    REPOSITORY_NOT_FOUND = "REPOSITORY_NOT_FOUND"
    REPOSITORY_ROLLED_BACK = "REPOSITORY_ROLLED_BACK"
    TASK_NOT_FOUND = "TASK_NOT_FOUND"
    TASK_COMMITTING = "TASK_COMMITTING"
    INTERRUPTED = "INTERRUPTED"
    TASK_ENDED = "TASK_ENDED"
    RUN_ENDED = "RUN_ENDED"
    REPOSITORY_BUSY = "REPOSITORY_BUSY"
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
    ARCHIVE_MISSING = "ARCHIVE_MISSING"
    ARCHIVE_CHANGED = "ARCHIVE_CHANGED"
    ARCHIVE_INVALID = "ARCHIVE_INVALID"
    KEY_REQUIRED = "KEY_REQUIRED"
    KEY_WRONG = "KEY_WRONG"
    KEY_NOT_FOUND = "KEY_NOT_FOUND"
    LAST_KEY = "LAST_KEY"
    WALLET_UNLOCKED = "WALLET_UNLOCKED"
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


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that is wrong, as a dotted path from the request message, and why."""

    field: str
    description: str


class HoldfastError(Exception):
    """Base of all errors. `str()` is the message; `remedy` says what a person can do, empty if nothing is known."""

    code: ClassVar[str] = ""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        remedy: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after: float | None = None,
        server_request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.remedy = remedy
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        #: Seconds after which the server suggests to try again.
        self.retry_after = retry_after
        #: What the server's log files this call under; empty if the server was not reached.
        self.server_request_id = server_request_id

    @property
    def label(self) -> str:
        """What to show in brackets behind the message: the reason, or else the code."""
        return self.reason or self.code


class InvalidArgument(HoldfastError):
    """The request is wrong, whatever the state of the system; `violations` names the fields."""

    code = "INVALID_ARGUMENT"


class NotFound(HoldfastError):
    """No such resource, or none that the caller may see."""

    code = "NOT_FOUND"


class AlreadyExists(HoldfastError):
    """An id is taken."""

    code = "ALREADY_EXISTS"


class FailedPrecondition(HoldfastError):
    """The request is right, the state is not; retrying alone does not help."""

    code = "FAILED_PRECONDITION"


class PermissionDenied(HoldfastError):
    """A known caller is not allowed this."""

    code = "PERMISSION_DENIED"


class Unauthenticated(HoldfastError):
    """No or bad credentials."""

    code = "UNAUTHENTICATED"


class ResourceExhausted(HoldfastError):
    """Disk, quota or capacity is used up."""

    code = "RESOURCE_EXHAUSTED"


class Aborted(HoldfastError):
    """Another operation holds the resource."""

    code = "ABORTED"


class DataLoss(HoldfastError):
    """Stored or transferred bytes are not what was written."""

    code = "DATA_LOSS"


class DigestMismatch(DataLoss):
    """What was downloaded is not what the server has; nothing was put in place."""


class Unavailable(HoldfastError):
    """Try again later."""

    code = "UNAVAILABLE"


class ConnectionFailed(Unavailable):
    """No server answers, or the connection was lost and did not come back in time."""


class Unimplemented(HoldfastError):
    """Part of the API, not built yet."""

    code = "UNIMPLEMENTED"


class Internal(HoldfastError):
    """A defect of the service; `server_request_id` finds it in the server's log."""

    code = "INTERNAL"


class DeadlineExceeded(HoldfastError):
    """No answer in time. What was asked for may still happen: a create call is repeated safely with its request_id."""

    code = "DEADLINE_EXCEEDED"


class UnknownStatus(HoldfastError):
    """A status that the service does not send: of a proxy, of gRPC itself, or of a newer server."""

    code = "UNKNOWN"


class ProtocolError(HoldfastError):
    """The server broke a rule of the API; nothing that follows can be relied on."""


class TaskFailed(HoldfastError):
    """A task ended FAILED. Message, reason, remedy and metadata are those of its TaskError."""

    def __init__(self, task: Task) -> None:
        error = task.error
        super().__init__(
            error.message if error else task.message or f"task {task.task_id} failed",
            reason=error.reason if error else "",
            remedy=error.remedy if error else f"Look at its log: holdfast task log {task.task_id}",
            metadata=error.metadata if error else {},
        )
        self.task = task
        self.error = error


class TaskCancelled(HoldfastError):
    """A task ended CANCELLED; `task.cleanup` says what was tidied away."""

    def __init__(self, task: Task) -> None:
        super().__init__(f"task {task.task_id} was cancelled", metadata={"task_id": task.task_id})
        self.task = task


class TargetExists(HoldfastError):
    """A download would replace a file; nothing was touched."""


class BadConfiguration(HoldfastError):
    """An argument, an environment variable or a file on this side is wrong; no call was made."""


#: The mirror of the server's table: canonical code -> class.
CLASSES: Mapping[str, type[HoldfastError]] = {
    cls.code: cls
    for cls in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        PermissionDenied,
        Unauthenticated,
        ResourceExhausted,
        Aborted,
        DataLoss,
        Unavailable,
        Unimplemented,
        Internal,
        DeadlineExceeded,
    )
}


def from_rpc_error(error: grpc.RpcError, address: str = "") -> HoldfastError:
    """The error as one of this module. UNAVAILABLE without a reason did not come from the service: ConnectionFailed."""
    trailers = {str(key): value for key, value in _trailers(error)}
    code = error.code().name if isinstance(error, grpc.Call) else "UNKNOWN"
    text = (error.details() if isinstance(error, grpc.Call) else str(error)) or ""
    details = trailers.get("grpc-status-details-bin")
    call_id = str(trailers.get("holdfast-request-id", ""))
    if isinstance(details, bytes):
        status = status_pb2.Status()
        try:
            status.ParseFromString(details)
        except ValueError:  # a proxy's own trailer of that name
            status.Clear()
        if status.details:
            return from_status(code, status.message or text, status.details, call_id)
    if code == "UNAVAILABLE":
        return _connection_failed(address, text)
    if code == "DEADLINE_EXCEEDED":
        return DeadlineExceeded(f"the server at {address} did not answer in time", server_request_id=call_id)
    cls = CLASSES.get(code, UnknownStatus)
    message = text or f"the call ended with {code}"
    return cls(message if cls is not UnknownStatus else f"{code}: {message}", server_request_id=call_id)


def from_status(code: str, message: str, details: Iterable[Any], call_id: str = "") -> HoldfastError:
    """The error behind a canonical code's name and the details of a `google.rpc.Status`."""
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    wait: float | None = None
    for detail in details:
        if detail.Unpack(info) or detail.Unpack(bad):
            continue
        if detail.Unpack(retry):
            wait = retry.retry_delay.ToTimedelta().total_seconds()
    metadata = dict(info.metadata)
    # Only our own domain says `remedy`; a proxy's metadata is kept as it is.
    remedy = metadata.pop("remedy", "") if info.domain == DOMAIN else ""
    return CLASSES.get(code, UnknownStatus)(
        message,
        reason=info.reason,
        remedy=remedy,
        metadata=metadata,
        violations=[FieldViolation(v.field, v.description) for v in bad.field_violations],
        retry_after=wait,
        server_request_id=call_id or metadata.get("request_id", ""),
    )


def _trailers(error: grpc.RpcError) -> Iterable[tuple[Any, Any]]:
    if not isinstance(error, grpc.Call):
        return ()
    trailers: Iterable[tuple[Any, Any]] = error.trailing_metadata() or ()
    return trailers


def _connection_failed(address: str, text: str) -> ConnectionFailed:
    cause = text.rpartition(": ")[2] or text
    return ConnectionFailed(
        f"no connection to the server at {address or 'the given address'}: {cause}",
        remedy="Is it running? Start it with `holdfast-server serve`, or name another one with --address or "
        "HOLDFAST_ADDRESS.",
        metadata={"address": address, "detail": text},
    )
