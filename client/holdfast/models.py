"""The typed values that calls return: frozen, complete, without protobuf.

`None` means unknown or not set, never 0. Times are aware and in UTC, spans are `timedelta`, sizes are bytes. Paths
are text in which bytes that are not UTF-8 appear as \\xNN escapes. Values of enums are those of `holdfast.enums`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from holdfast.enums import (
    END_STATES,
    ArchiveFormat,
    BackupKind,
    BackupState,
    CoinGeneration,
    EntryType,
    EventKind,
    HealthStatus,
    LogLevel,
    MaintenanceState,
    RestoreAction,
    SourceKind,
    SourceState,
    TaskKind,
    TaskOrigin,
    TaskState,
    VerifyLevel,
)
from holdfast.maintenance_models import (
    CheckRepositoryResult,
    CompactRepositoryResult,
    PruneRepositoryResult,
    RepairRepositoryResult,
)
from holdfast.wallet_models import CoinSummary, CoinTotal, DenominationTotal

__all__ = [
    "ArchiveLimits",
    "Backup",
    "BackupResult",
    "BackupStatistics",
    "BlockedBy",
    "Cleanup",
    "Discovery",
    "Entry",
    "Event",
    "ExportBackupResult",
    "ExportCoinsResult",
    "ExportedFile",
    "Health",
    "LogLine",
    "ImportCoinsResult",
    "OtherResult",
    "PlannedEntry",
    "Progress",
    "RestoreArchiveResult",
    "RestorePlan",
    "RestoreResult",
    "SkippedFolder",
    "Source",
    "SourceOutcome",
    "Task",
    "TaskError",
    "TaskProblem",
    "TaskResult",
    "Unregistered",
    "Verification",
    "VerifyResult",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Health of the server as a whole and of each service of the API by its short name."""

    status: HealthStatus
    services: Mapping[str, HealthStatus]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A registered folder that is backed up."""

    source_id: str
    kind: SourceKind
    display_name: str
    path: str
    state: SourceState
    ignore: tuple[str, ...]
    create_time: datetime | None
    update_time: datetime | None
    latest_backup_time: datetime | None
    latest_proved_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedFolder:
    """A folder that discovery did not register."""

    path: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """What discovery registered and what it left."""

    sources: tuple[Source, ...]
    skipped: tuple[SkippedFolder, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unregistered:
    """What stays behind of a source that was unregistered."""

    backups_kept: int
    rollbacks_kept: int
    reserved_coins_kept: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupStatistics:
    """What a backup copied."""

    files: int
    directories: int
    symlinks: int
    hardlinks: int
    original_size: int
    stored_size: int
    files_skipped: int
    files_ignored: int
    coins: int
    files_added_plaintext: int
    files_added_multi_coin: int
    files_reencrypted: int
    warnings: int
    duration: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """One proof that a backup can, or cannot, be read."""

    time: datetime | None
    level: VerifyLevel
    ok: bool
    files_checked: int
    bytes_checked: int
    percent: float
    message: str
    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """One finished or running copy of one source."""

    backup_id: str
    name: str
    source_id: str
    kind: BackupKind
    state: BackupState
    size: int | None
    sha256: str
    locked: bool
    ignore: tuple[str, ...]
    storage_path: str
    repository_id: str
    create_time: datetime | None
    complete_time: datetime | None
    update_time: datetime | None
    statistics: BackupStatistics | None
    verifications: tuple[Verification, ...]
    task_id: str
    complete: bool
    format: ArchiveFormat | None
    sealed: bool
    delete_time: datetime | None
    purge_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a task is."""

    percent: float | None
    phase: str
    original_size: int
    compressed_size: int
    deduplicated_size: int
    files: int
    total_size: int | None
    total_files: int | None
    totals_estimated: bool
    current_file: str
    bytes_per_second: int
    eta_low: timedelta | None
    eta_high: timedelta | None
    last_advance_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskError:
    """Why a task, or a part of it, failed."""

    code: str
    reason: str
    message: str
    remedy: str
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockedBy:
    """What a pending task waits for; `task_id` is empty if the caller may not see that task."""

    resource: str
    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleanup:
    """What a cancelled or failed task tidied away."""

    files_removed: int
    bytes_freed: int
    left_behind: tuple[str, ...]
    worker_stopped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskProblem:
    """One problem that a task met and went on after."""

    number: int
    source_id: str
    backup_id: str | None
    path: str
    reason: str
    message: str
    time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOutcome:
    """What a backup task did for one source."""

    source_id: str
    backup_id: str | None
    ok: bool
    error: TaskError | None
    output_file: str
    original_size: int
    stored_size: int
    files: int
    warnings: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupResult:
    """Result of BACKUP, over all sources; the lists hold at most 100 items."""

    wallets_processed: int
    coins_backed_up: int
    output_files: tuple[str, ...]
    files_added: int
    files_skipped: int
    files_reencrypted: int
    files_added_plaintext: int
    files_added_multi_coin: int
    backup_ids: tuple[str, ...]
    original_size: int
    stored_size: int
    directories: int
    symlinks: int
    files_ignored: int
    sources: tuple[SourceOutcome, ...]
    sources_failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePlan:
    """Entries per action."""

    create: int
    replace: int
    delete: int
    keep: int
    bytes_needed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file, directory or link in a backup; `size` in bytes, `sha256` empty where the backup keeps another hash.

    Paths are below the backup's root; bytes that are not UTF-8 appear as \\xNN escapes.
    """

    path: str
    type: EntryType
    size: int
    mode: int | None
    modify_time: datetime | None
    uid: int | None
    gid: int | None
    link_target: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedEntry:
    """What a restore does with one entry."""

    path: str
    action: RestoreAction


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreResult:
    """Result of RESTORE; of a dry run only the plan."""

    backup_id: str
    folder: str
    files: int
    directories: int
    symlinks: int
    hardlinks: int
    restored_size: int
    files_verified: int
    plan: RestorePlan | None
    planned_entries: tuple[PlannedEntry, ...]
    source_id: str | None
    rollback_id: str | None
    restored_coins: CoinSummary | None
    changed_paths: tuple[str, ...]
    files_decrypted: int
    files_encrypted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveLimits:
    """What an archive of unknown origin may ask for; None: as much as the service allows. Its limits hold beside these.

    `max_bytes` bounds the content of the restored files, `max_ratio` the bytes unpacked per byte of the archive once
    64 MiB came out, `max_depth` the folders below each other.
    """

    max_bytes: int | None = None
    max_entries: int | None = None
    max_ratio: int | None = None
    max_depth: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreArchiveResult:
    """Result of RESTORE_ARCHIVE; of a dry run what would be restored. `format` is None for a plain tar.

    Without `has_manifest` only the container's own checksums were compared, if it `has_checksums`.
    """

    folder: str
    format: ArchiveFormat | None
    sealed: bool
    has_manifest: bool
    files: int
    directories: int
    symlinks: int
    hardlinks: int
    restored_size: int
    files_verified: int
    entries_skipped: int
    source_id: str | None
    restored_coins: CoinSummary | None
    has_checksums: bool
    files_decrypted: int
    files_encrypted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """Result of VERIFY."""

    backup_id: str
    level: VerifyLevel
    files_checked: int
    bytes_checked: int
    sha256: str
    damaged_files: tuple[str, ...]
    damaged_count: int
    percent: float | None
    sealed_hash_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedFile:
    """One file that an export wrote. `coins`, `amount` and `generation` are 0 and None for an exported backup."""

    path: str
    size: int
    sha256: str
    coins: int
    amount: Decimal
    generation: CoinGeneration | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportCoinsResult:
    """Result of EXPORT_COINS. `files` of a dry run have neither size nor hash, and it has no receipt."""

    source_id: str
    amount: Decimal
    coins: int
    files: tuple[ExportedFile, ...]
    file_count: int
    coins_fracked: int
    denominations: tuple[DenominationTotal, ...]
    receipt_path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportBackupResult:
    """Result of EXPORT_BACKUP; `file` is None for a dry run."""

    backup_id: str
    file: ExportedFile | None
    files: int
    directories: int
    symlinks: int
    hardlinks: int
    original_size: int
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportCoinsResult:
    """Result of IMPORT_COINS; of a dry run what would be done. `problem_files` holds at most 100 paths."""

    source_id: str
    folder: str
    imported: CoinTotal
    duplicates: CoinTotal
    files_read: int
    files_moved: int
    files_duplicate: int
    files_corrupted: int
    files_encrypted: int
    problem_files: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherResult:
    """Result of a kind that this client does not know in detail: the message's name and its fields as plain data."""

    name: str
    fields: Mapping[str, Any]


TaskResult = (
    BackupResult
    | RestoreResult
    | RestoreArchiveResult
    | VerifyResult
    | CheckRepositoryResult
    | PruneRepositoryResult
    | CompactRepositoryResult
    | RepairRepositoryResult
    | ExportBackupResult
    | ExportCoinsResult
    | ImportCoinsResult
    | OtherResult
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A long-running operation. Its lists hold at most 100 items."""

    task_id: str
    kind: TaskKind
    state: TaskState
    origin: TaskOrigin
    schedule_id: str | None
    source_ids: tuple[str, ...]
    source_count: int
    create_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    attempt: int
    progress: Progress | None
    message: str
    error: TaskError | None
    warning_count: int
    log_lines: int
    blocked_by: tuple[BlockedBy, ...]
    queue_position: int | None
    cleanup: Cleanup | None
    maintenance_state: MaintenanceState
    cancel_requested: bool
    revision: int
    dry_run: bool
    result: TaskResult | None

    @property
    def ended(self) -> bool:
        """Whether it is in one of the four end states."""
        return self.state in END_STATES


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event of a task: `task` is set for STATE and RESET, `progress` for PROGRESS, `problem` for WARNING.

    Pass `sequence` as `after_sequence` to go on after it. `warning_count` is set with `problem`.
    """

    task_id: str
    sequence: int
    skipped: int
    time: datetime | None
    kind: EventKind
    task: Task | None
    progress: Progress | None
    problem: TaskProblem | None
    warning_count: int | None

    @property
    def ends(self) -> bool:
        """Whether this is the last event of its task: STATE with an end state."""
        return self.kind is EventKind.STATE and self.task is not None and self.task.ended


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line of a task's log, numbered from 1."""

    line_number: int
    time: datetime | None
    level: LogLevel
    text: str
