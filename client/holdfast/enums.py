"""The words of the API, by the short names of the documentation.

`UNKNOWN` stands for a value that only a newer server knows.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = [
    "END_STATES",
    "ArchiveFormat",
    "BackupKind",
    "BackupState",
    "CoinFileFormat",
    "CoinGeneration",
    "EntryType",
    "EventKind",
    "HealthStatus",
    "LogLevel",
    "MaintenanceState",
    "OnSourceError",
    "RepositoryKeyKind",
    "RepositoryState",
    "RestoreAction",
    "SourceKind",
    "SourceState",
    "TaskKind",
    "TaskOrigin",
    "TaskState",
    "VerifyLevel",
]


class SourceKind(StrEnum):
    """What a source is."""

    UNKNOWN = "UNKNOWN"
    WALLET = "WALLET"
    DIRECTORY = "DIRECTORY"


class SourceState(StrEnum):
    """Whether a source can be used."""

    UNKNOWN = "UNKNOWN"
    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"
    OFFLINE = "OFFLINE"
    RESTORING = "RESTORING"


class BackupKind(StrEnum):
    """What a backup is stored as."""

    UNKNOWN = "UNKNOWN"
    ARCHIVE = "ARCHIVE"
    SNAPSHOT = "SNAPSHOT"


class BackupState(StrEnum):
    """State of a backup."""

    UNKNOWN = "UNKNOWN"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    RESTORING = "RESTORING"


class EntryType(StrEnum):
    """What an entry of a backup is; a HARDLINK is a further name of a file of the same backup."""

    UNKNOWN = "UNKNOWN"
    FILE = "FILE"
    DIRECTORY = "DIRECTORY"
    SYMLINK = "SYMLINK"
    HARDLINK = "HARDLINK"


class ArchiveFormat(StrEnum):
    """Format of an archive file."""

    UNKNOWN = "UNKNOWN"
    ZIP = "ZIP"
    TAR_GZ = "TAR_GZ"
    TAR_ZST = "TAR_ZST"


class OnSourceError(StrEnum):
    """What an unreadable file does to the backup of its source."""

    FAIL = "FAIL"
    WARN = "WARN"


class VerifyLevel(StrEnum):
    """How deep a verification goes."""

    UNKNOWN = "UNKNOWN"
    STRUCTURE = "STRUCTURE"
    CHECKSUM = "CHECKSUM"
    READ_DATA = "READ_DATA"
    RESTORE_DRILL = "RESTORE_DRILL"


class TaskKind(StrEnum):
    """What a task does."""

    UNKNOWN = "UNKNOWN"
    BACKUP = "BACKUP"
    RESTORE = "RESTORE"
    VERIFY = "VERIFY"
    EXPORT_COINS = "EXPORT_COINS"
    EXPORT_BACKUP = "EXPORT_BACKUP"
    IMPORT_COINS = "IMPORT_COINS"
    RESTORE_ARCHIVE = "RESTORE_ARCHIVE"
    ROLLBACK_RESTORE = "ROLLBACK_RESTORE"
    PRUNE_REPOSITORY = "PRUNE_REPOSITORY"
    COMPACT_REPOSITORY = "COMPACT_REPOSITORY"
    CHECK_REPOSITORY = "CHECK_REPOSITORY"
    REPAIR_REPOSITORY = "REPAIR_REPOSITORY"


class TaskState(StrEnum):
    """State of a task."""

    UNKNOWN = "UNKNOWN"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    CANCELLING = "CANCELLING"
    COMPLETED = "COMPLETED"
    COMPLETED_WITH_WARNINGS = "COMPLETED_WITH_WARNINGS"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


END_STATES = frozenset({TaskState.COMPLETED, TaskState.COMPLETED_WITH_WARNINGS, TaskState.FAILED, TaskState.CANCELLED})


class TaskOrigin(StrEnum):
    """Who started a task."""

    UNKNOWN = "UNKNOWN"
    MANUAL = "MANUAL"
    SCHEDULED = "SCHEDULED"


class MaintenanceState(StrEnum):
    """State of the maintenance that follows a backup."""

    UNKNOWN = "UNKNOWN"
    NONE = "NONE"
    PRUNING = "PRUNING"
    COMPACTING = "COMPACTING"
    CHECKING = "CHECKING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class CoinFileFormat(StrEnum):
    """Format of files of exported coins."""

    UNKNOWN = "UNKNOWN"
    ZIP = "ZIP"
    STACK = "STACK"
    PNG = "PNG"
    BIN = "BIN"


class CoinGeneration(StrEnum):
    """Generation of a coin."""

    UNKNOWN = "UNKNOWN"
    V1 = "V1"
    V2 = "V2"
    V3 = "V3"


class EventKind(StrEnum):
    """Kind of an event of a task."""

    UNKNOWN = "UNKNOWN"
    STATE = "STATE"
    PROGRESS = "PROGRESS"
    WARNING = "WARNING"
    HEARTBEAT = "HEARTBEAT"
    RESET = "RESET"


class LogLevel(StrEnum):
    """How serious a log line is."""

    UNKNOWN = "UNKNOWN"
    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class RestoreAction(StrEnum):
    """What a restore does with an entry."""

    UNKNOWN = "UNKNOWN"
    CREATE = "CREATE"
    REPLACE = "REPLACE"
    DELETE = "DELETE"
    KEEP = "KEEP"


class HealthStatus(StrEnum):
    """What the server says of itself or one of its services; SERVICE_UNKNOWN: not served by this version."""

    UNKNOWN = "UNKNOWN"
    SERVING = "SERVING"
    NOT_SERVING = "NOT_SERVING"
    SERVICE_UNKNOWN = "SERVICE_UNKNOWN"


class RepositoryState(StrEnum):
    """Whether a repository can be used."""

    UNKNOWN = "UNKNOWN"
    READY = "READY"
    OFFLINE = "OFFLINE"
    DAMAGED = "DAMAGED"
    REFUSED = "REFUSED"


class RepositoryKeyKind(StrEnum):
    """What opens a key slot."""

    UNKNOWN = "UNKNOWN"
    PASSPHRASE = "PASSPHRASE"  # noqa: S105  the kind's name
    KEY_FILE = "KEY_FILE"
    RECOVERY = "RECOVERY"
