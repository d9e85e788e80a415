import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from holdfast.v1 import backup_pb2 as _backup_pb2
from holdfast.v1 import export_pb2 as _export_pb2
from holdfast.v1 import restore_pb2 as _restore_pb2
from holdfast.v1 import wallet_pb2 as _wallet_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TaskKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_KIND_UNSPECIFIED: _ClassVar[TaskKind]
    TASK_KIND_BACKUP: _ClassVar[TaskKind]
    TASK_KIND_RESTORE: _ClassVar[TaskKind]
    TASK_KIND_VERIFY: _ClassVar[TaskKind]
    TASK_KIND_EXPORT_COINS: _ClassVar[TaskKind]
    TASK_KIND_EXPORT_BACKUP: _ClassVar[TaskKind]
    TASK_KIND_IMPORT_COINS: _ClassVar[TaskKind]
    TASK_KIND_RESTORE_ARCHIVE: _ClassVar[TaskKind]
    TASK_KIND_ROLLBACK_RESTORE: _ClassVar[TaskKind]
    TASK_KIND_PRUNE_REPOSITORY: _ClassVar[TaskKind]
    TASK_KIND_COMPACT_REPOSITORY: _ClassVar[TaskKind]
    TASK_KIND_CHECK_REPOSITORY: _ClassVar[TaskKind]
    TASK_KIND_REPAIR_REPOSITORY: _ClassVar[TaskKind]

class TaskState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_STATE_UNSPECIFIED: _ClassVar[TaskState]
    TASK_STATE_PENDING: _ClassVar[TaskState]
    TASK_STATE_RUNNING: _ClassVar[TaskState]
    TASK_STATE_PAUSED: _ClassVar[TaskState]
    TASK_STATE_CANCELLING: _ClassVar[TaskState]
    TASK_STATE_COMPLETED: _ClassVar[TaskState]
    TASK_STATE_COMPLETED_WITH_WARNINGS: _ClassVar[TaskState]
    TASK_STATE_FAILED: _ClassVar[TaskState]
    TASK_STATE_CANCELLED: _ClassVar[TaskState]

class TaskOrigin(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_ORIGIN_UNSPECIFIED: _ClassVar[TaskOrigin]
    TASK_ORIGIN_MANUAL: _ClassVar[TaskOrigin]
    TASK_ORIGIN_SCHEDULED: _ClassVar[TaskOrigin]

class MaintenanceState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MAINTENANCE_STATE_UNSPECIFIED: _ClassVar[MaintenanceState]
    MAINTENANCE_STATE_NONE: _ClassVar[MaintenanceState]
    MAINTENANCE_STATE_PRUNING: _ClassVar[MaintenanceState]
    MAINTENANCE_STATE_COMPACTING: _ClassVar[MaintenanceState]
    MAINTENANCE_STATE_CHECKING: _ClassVar[MaintenanceState]
    MAINTENANCE_STATE_COMPLETED: _ClassVar[MaintenanceState]
    MAINTENANCE_STATE_FAILED: _ClassVar[MaintenanceState]

class TaskEventKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_EVENT_KIND_UNSPECIFIED: _ClassVar[TaskEventKind]
    TASK_EVENT_KIND_STATE: _ClassVar[TaskEventKind]
    TASK_EVENT_KIND_PROGRESS: _ClassVar[TaskEventKind]
    TASK_EVENT_KIND_WARNING: _ClassVar[TaskEventKind]
    TASK_EVENT_KIND_HEARTBEAT: _ClassVar[TaskEventKind]
    TASK_EVENT_KIND_RESET: _ClassVar[TaskEventKind]

class LogLevel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOG_LEVEL_UNSPECIFIED: _ClassVar[LogLevel]
    LOG_LEVEL_DEBUG: _ClassVar[LogLevel]
    LOG_LEVEL_INFO: _ClassVar[LogLevel]
    LOG_LEVEL_WARNING: _ClassVar[LogLevel]
    LOG_LEVEL_ERROR: _ClassVar[LogLevel]
TASK_KIND_UNSPECIFIED: TaskKind
TASK_KIND_BACKUP: TaskKind
TASK_KIND_RESTORE: TaskKind
TASK_KIND_VERIFY: TaskKind
TASK_KIND_EXPORT_COINS: TaskKind
TASK_KIND_EXPORT_BACKUP: TaskKind
TASK_KIND_IMPORT_COINS: TaskKind
TASK_KIND_RESTORE_ARCHIVE: TaskKind
TASK_KIND_ROLLBACK_RESTORE: TaskKind
TASK_KIND_PRUNE_REPOSITORY: TaskKind
TASK_KIND_COMPACT_REPOSITORY: TaskKind
TASK_KIND_CHECK_REPOSITORY: TaskKind
TASK_KIND_REPAIR_REPOSITORY: TaskKind
TASK_STATE_UNSPECIFIED: TaskState
TASK_STATE_PENDING: TaskState
TASK_STATE_RUNNING: TaskState
TASK_STATE_PAUSED: TaskState
TASK_STATE_CANCELLING: TaskState
TASK_STATE_COMPLETED: TaskState
TASK_STATE_COMPLETED_WITH_WARNINGS: TaskState
TASK_STATE_FAILED: TaskState
TASK_STATE_CANCELLED: TaskState
TASK_ORIGIN_UNSPECIFIED: TaskOrigin
TASK_ORIGIN_MANUAL: TaskOrigin
TASK_ORIGIN_SCHEDULED: TaskOrigin
MAINTENANCE_STATE_UNSPECIFIED: MaintenanceState
MAINTENANCE_STATE_NONE: MaintenanceState
MAINTENANCE_STATE_PRUNING: MaintenanceState
MAINTENANCE_STATE_COMPACTING: MaintenanceState
MAINTENANCE_STATE_CHECKING: MaintenanceState
MAINTENANCE_STATE_COMPLETED: MaintenanceState
MAINTENANCE_STATE_FAILED: MaintenanceState
TASK_EVENT_KIND_UNSPECIFIED: TaskEventKind
TASK_EVENT_KIND_STATE: TaskEventKind
TASK_EVENT_KIND_PROGRESS: TaskEventKind
TASK_EVENT_KIND_WARNING: TaskEventKind
TASK_EVENT_KIND_HEARTBEAT: TaskEventKind
TASK_EVENT_KIND_RESET: TaskEventKind
LOG_LEVEL_UNSPECIFIED: LogLevel
LOG_LEVEL_DEBUG: LogLevel
LOG_LEVEL_INFO: LogLevel
LOG_LEVEL_WARNING: LogLevel
LOG_LEVEL_ERROR: LogLevel

class Task(_message.Message):
    __slots__ = ("task_id", "kind", "state", "origin", "schedule_id", "source_ids", "source_count", "create_time", "start_time", "end_time", "attempt", "progress", "message", "error", "warning_count", "log_lines", "blocked_by", "queue_position", "cleanup", "maintenance_state", "cancel_requested", "revision", "dry_run", "backup_result", "restore_result", "verify_result", "export_coins_result", "export_backup_result", "import_coins_result", "restore_archive_result", "rollback_restore_result", "prune_repository_result", "compact_repository_result", "check_repository_result", "repair_repository_result")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_IDS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_COUNT_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    WARNING_COUNT_FIELD_NUMBER: _ClassVar[int]
    LOG_LINES_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_BY_FIELD_NUMBER: _ClassVar[int]
    QUEUE_POSITION_FIELD_NUMBER: _ClassVar[int]
    CLEANUP_FIELD_NUMBER: _ClassVar[int]
    MAINTENANCE_STATE_FIELD_NUMBER: _ClassVar[int]
    CANCEL_REQUESTED_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    BACKUP_RESULT_FIELD_NUMBER: _ClassVar[int]
    RESTORE_RESULT_FIELD_NUMBER: _ClassVar[int]
    VERIFY_RESULT_FIELD_NUMBER: _ClassVar[int]
    EXPORT_COINS_RESULT_FIELD_NUMBER: _ClassVar[int]
    EXPORT_BACKUP_RESULT_FIELD_NUMBER: _ClassVar[int]
    IMPORT_COINS_RESULT_FIELD_NUMBER: _ClassVar[int]
    RESTORE_ARCHIVE_RESULT_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_RESTORE_RESULT_FIELD_NUMBER: _ClassVar[int]
    PRUNE_REPOSITORY_RESULT_FIELD_NUMBER: _ClassVar[int]
    COMPACT_REPOSITORY_RESULT_FIELD_NUMBER: _ClassVar[int]
    CHECK_REPOSITORY_RESULT_FIELD_NUMBER: _ClassVar[int]
    REPAIR_REPOSITORY_RESULT_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    kind: TaskKind
    state: TaskState
    origin: TaskOrigin
    schedule_id: str
    source_ids: _containers.RepeatedScalarFieldContainer[str]
    source_count: int
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    attempt: int
    progress: Progress
    message: str
    error: TaskError
    warning_count: int
    log_lines: int
    blocked_by: _containers.RepeatedCompositeFieldContainer[BlockedBy]
    queue_position: int
    cleanup: Cleanup
    maintenance_state: MaintenanceState
    cancel_requested: bool
    revision: int
    dry_run: bool
    backup_result: BackupResult
    restore_result: RestoreResult
    verify_result: VerifyResult
    export_coins_result: ExportCoinsResult
    export_backup_result: ExportBackupResult
    import_coins_result: ImportCoinsResult
    restore_archive_result: RestoreArchiveResult
    rollback_restore_result: RollbackRestoreResult
    prune_repository_result: PruneRepositoryResult
    compact_repository_result: CompactRepositoryResult
    check_repository_result: CheckRepositoryResult
    repair_repository_result: RepairRepositoryResult
    def __init__(self, task_id: _Optional[str] = ..., kind: _Optional[_Union[TaskKind, str]] = ..., state: _Optional[_Union[TaskState, str]] = ..., origin: _Optional[_Union[TaskOrigin, str]] = ..., schedule_id: _Optional[str] = ..., source_ids: _Optional[_Iterable[str]] = ..., source_count: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., attempt: _Optional[int] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., message: _Optional[str] = ..., error: _Optional[_Union[TaskError, _Mapping]] = ..., warning_count: _Optional[int] = ..., log_lines: _Optional[int] = ..., blocked_by: _Optional[_Iterable[_Union[BlockedBy, _Mapping]]] = ..., queue_position: _Optional[int] = ..., cleanup: _Optional[_Union[Cleanup, _Mapping]] = ..., maintenance_state: _Optional[_Union[MaintenanceState, str]] = ..., cancel_requested: bool = ..., revision: _Optional[int] = ..., dry_run: bool = ..., backup_result: _Optional[_Union[BackupResult, _Mapping]] = ..., restore_result: _Optional[_Union[RestoreResult, _Mapping]] = ..., verify_result: _Optional[_Union[VerifyResult, _Mapping]] = ..., export_coins_result: _Optional[_Union[ExportCoinsResult, _Mapping]] = ..., export_backup_result: _Optional[_Union[ExportBackupResult, _Mapping]] = ..., import_coins_result: _Optional[_Union[ImportCoinsResult, _Mapping]] = ..., restore_archive_result: _Optional[_Union[RestoreArchiveResult, _Mapping]] = ..., rollback_restore_result: _Optional[_Union[RollbackRestoreResult, _Mapping]] = ..., prune_repository_result: _Optional[_Union[PruneRepositoryResult, _Mapping]] = ..., compact_repository_result: _Optional[_Union[CompactRepositoryResult, _Mapping]] = ..., check_repository_result: _Optional[_Union[CheckRepositoryResult, _Mapping]] = ..., repair_repository_result: _Optional[_Union[RepairRepositoryResult, _Mapping]] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("percent", "phase", "original_size", "compressed_size", "deduplicated_size", "files", "total_size", "total_files", "totals_estimated", "current_file", "bytes_per_second", "eta_low", "eta_high", "last_advance_time")
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    COMPRESSED_SIZE_FIELD_NUMBER: _ClassVar[int]
    DEDUPLICATED_SIZE_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FILES_FIELD_NUMBER: _ClassVar[int]
    TOTALS_ESTIMATED_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FILE_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    ETA_LOW_FIELD_NUMBER: _ClassVar[int]
    ETA_HIGH_FIELD_NUMBER: _ClassVar[int]
    LAST_ADVANCE_TIME_FIELD_NUMBER: _ClassVar[int]
    percent: float
    phase: str
    original_size: int
    compressed_size: int
    deduplicated_size: int
    files: int
    total_size: int
    total_files: int
    totals_estimated: bool
    current_file: str
    bytes_per_second: int
    eta_low: _duration_pb2.Duration
    eta_high: _duration_pb2.Duration
    last_advance_time: _timestamp_pb2.Timestamp
    def __init__(self, percent: _Optional[float] = ..., phase: _Optional[str] = ..., original_size: _Optional[int] = ..., compressed_size: _Optional[int] = ..., deduplicated_size: _Optional[int] = ..., files: _Optional[int] = ..., total_size: _Optional[int] = ..., total_files: _Optional[int] = ..., totals_estimated: bool = ..., current_file: _Optional[str] = ..., bytes_per_second: _Optional[int] = ..., eta_low: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., eta_high: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., last_advance_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class TaskError(_message.Message):
    __slots__ = ("code", "reason", "message", "remedy", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    code: str
    reason: str
    message: str
    remedy: str
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, code: _Optional[str] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., remedy: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class BlockedBy(_message.Message):
    __slots__ = ("resource", "task_id")
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    resource: str
    task_id: str
    def __init__(self, resource: _Optional[str] = ..., task_id: _Optional[str] = ...) -> None: ...

class Cleanup(_message.Message):
    __slots__ = ("files_removed", "bytes_freed", "left_behind", "worker_stopped")
    FILES_REMOVED_FIELD_NUMBER: _ClassVar[int]
    BYTES_FREED_FIELD_NUMBER: _ClassVar[int]
    LEFT_BEHIND_FIELD_NUMBER: _ClassVar[int]
    WORKER_STOPPED_FIELD_NUMBER: _ClassVar[int]
    files_removed: int
    bytes_freed: int
    left_behind: _containers.RepeatedScalarFieldContainer[str]
    worker_stopped: bool
    def __init__(self, files_removed: _Optional[int] = ..., bytes_freed: _Optional[int] = ..., left_behind: _Optional[_Iterable[str]] = ..., worker_stopped: bool = ...) -> None: ...

class TaskProblem(_message.Message):
    __slots__ = ("number", "source_id", "backup_id", "path", "reason", "message", "time")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    number: int
    source_id: str
    backup_id: str
    path: str
    reason: str
    message: str
    time: _timestamp_pb2.Timestamp
    def __init__(self, number: _Optional[int] = ..., source_id: _Optional[str] = ..., backup_id: _Optional[str] = ..., path: _Optional[str] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class TaskWarning(_message.Message):
    __slots__ = ("problem", "warning_count")
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    WARNING_COUNT_FIELD_NUMBER: _ClassVar[int]
    problem: TaskProblem
    warning_count: int
    def __init__(self, problem: _Optional[_Union[TaskProblem, _Mapping]] = ..., warning_count: _Optional[int] = ...) -> None: ...

class TaskEvent(_message.Message):
    __slots__ = ("task_id", "sequence", "skipped", "time", "kind", "task", "progress", "warning")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    WARNING_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    sequence: int
    skipped: int
    time: _timestamp_pb2.Timestamp
    kind: TaskEventKind
    task: Task
    progress: Progress
    warning: TaskWarning
    def __init__(self, task_id: _Optional[str] = ..., sequence: _Optional[int] = ..., skipped: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., kind: _Optional[_Union[TaskEventKind, str]] = ..., task: _Optional[_Union[Task, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., warning: _Optional[_Union[TaskWarning, _Mapping]] = ...) -> None: ...

class TaskLogLine(_message.Message):
    __slots__ = ("line_number", "time", "level", "text")
    LINE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    line_number: int
    time: _timestamp_pb2.Timestamp
    level: LogLevel
    text: str
    def __init__(self, line_number: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., level: _Optional[_Union[LogLevel, str]] = ..., text: _Optional[str] = ...) -> None: ...

class TaskLogChunk(_message.Message):
    __slots__ = ("lines", "total_lines", "ended")
    LINES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_LINES_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[TaskLogLine]
    total_lines: int
    ended: bool
    def __init__(self, lines: _Optional[_Iterable[_Union[TaskLogLine, _Mapping]]] = ..., total_lines: _Optional[int] = ..., ended: bool = ...) -> None: ...

class SourceOutcome(_message.Message):
    __slots__ = ("source_id", "backup_id", "ok", "error", "output_file", "original_size", "stored_size", "files", "warnings")
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FILE_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    STORED_SIZE_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    source_id: str
    backup_id: str
    ok: bool
    error: TaskError
    output_file: str
    original_size: int
    stored_size: int
    files: int
    warnings: int
    def __init__(self, source_id: _Optional[str] = ..., backup_id: _Optional[str] = ..., ok: bool = ..., error: _Optional[_Union[TaskError, _Mapping]] = ..., output_file: _Optional[str] = ..., original_size: _Optional[int] = ..., stored_size: _Optional[int] = ..., files: _Optional[int] = ..., warnings: _Optional[int] = ...) -> None: ...

class BackupResult(_message.Message):
    __slots__ = ("wallets_processed", "coins_backed_up", "output_files", "files_added", "files_skipped", "files_reencrypted", "files_added_plaintext", "files_added_multi_coin", "backup_ids", "original_size", "stored_size", "directories", "symlinks", "files_ignored", "sources", "sources_failed")
    WALLETS_PROCESSED_FIELD_NUMBER: _ClassVar[int]
    COINS_BACKED_UP_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FILES_FIELD_NUMBER: _ClassVar[int]
    FILES_ADDED_FIELD_NUMBER: _ClassVar[int]
    FILES_SKIPPED_FIELD_NUMBER: _ClassVar[int]
    FILES_REENCRYPTED_FIELD_NUMBER: _ClassVar[int]
    FILES_ADDED_PLAINTEXT_FIELD_NUMBER: _ClassVar[int]
    FILES_ADDED_MULTI_COIN_FIELD_NUMBER: _ClassVar[int]
    BACKUP_IDS_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    STORED_SIZE_FIELD_NUMBER: _ClassVar[int]
    DIRECTORIES_FIELD_NUMBER: _ClassVar[int]
    SYMLINKS_FIELD_NUMBER: _ClassVar[int]
    FILES_IGNORED_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FAILED_FIELD_NUMBER: _ClassVar[int]
    wallets_processed: int
    coins_backed_up: int
    output_files: _containers.RepeatedScalarFieldContainer[str]
    files_added: int
    files_skipped: int
    files_reencrypted: int
    files_added_plaintext: int
    files_added_multi_coin: int
    backup_ids: _containers.RepeatedScalarFieldContainer[str]
    original_size: int
    stored_size: int
    directories: int
    symlinks: int
    files_ignored: int
    sources: _containers.RepeatedCompositeFieldContainer[SourceOutcome]
    sources_failed: int
    def __init__(self, wallets_processed: _Optional[int] = ..., coins_backed_up: _Optional[int] = ..., output_files: _Optional[_Iterable[str]] = ..., files_added: _Optional[int] = ..., files_skipped: _Optional[int] = ..., files_reencrypted: _Optional[int] = ..., files_added_plaintext: _Optional[int] = ..., files_added_multi_coin: _Optional[int] = ..., backup_ids: _Optional[_Iterable[str]] = ..., original_size: _Optional[int] = ..., stored_size: _Optional[int] = ..., directories: _Optional[int] = ..., symlinks: _Optional[int] = ..., files_ignored: _Optional[int] = ..., sources: _Optional[_Iterable[_Union[SourceOutcome, _Mapping]]] = ..., sources_failed: _Optional[int] = ...) -> None: ...

class RestoreResult(_message.Message):
    __slots__ = ("backup_id", "folder", "files", "directories", "symlinks", "hardlinks", "restored_size", "files_verified", "plan", "planned_entries", "source_id", "rollback_id", "restored_coins", "kept_coins", "suspect_coins", "changed_paths", "files_decrypted", "files_encrypted")
    BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    DIRECTORIES_FIELD_NUMBER: _ClassVar[int]
    SYMLINKS_FIELD_NUMBER: _ClassVar[int]
    HARDLINKS_FIELD_NUMBER: _ClassVar[int]
    RESTORED_SIZE_FIELD_NUMBER: _ClassVar[int]
    FILES_VERIFIED_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    PLANNED_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_ID_FIELD_NUMBER: _ClassVar[int]
    RESTORED_COINS_FIELD_NUMBER: _ClassVar[int]
    KEPT_COINS_FIELD_NUMBER: _ClassVar[int]
    SUSPECT_COINS_FIELD_NUMBER: _ClassVar[int]
    CHANGED_PATHS_FIELD_NUMBER: _ClassVar[int]
    FILES_DECRYPTED_FIELD_NUMBER: _ClassVar[int]
    FILES_ENCRYPTED_FIELD_NUMBER: _ClassVar[int]
    backup_id: str
    folder: str
    files: int
    directories: int
    symlinks: int
    hardlinks: int
    restored_size: int
    files_verified: int
    plan: _restore_pb2.RestorePlan
    planned_entries: _containers.RepeatedCompositeFieldContainer[_restore_pb2.PlannedEntry]
    source_id: str
    rollback_id: str
    restored_coins: _wallet_pb2.CoinSummary
    kept_coins: _wallet_pb2.CoinSummary
    suspect_coins: _wallet_pb2.CoinSummary
    changed_paths: _containers.RepeatedScalarFieldContainer[str]
    files_decrypted: int
    files_encrypted: int
    def __init__(self, backup_id: _Optional[str] = ..., folder: _Optional[str] = ..., files: _Optional[int] = ..., directories: _Optional[int] = ..., symlinks: _Optional[int] = ..., hardlinks: _Optional[int] = ..., restored_size: _Optional[int] = ..., files_verified: _Optional[int] = ..., plan: _Optional[_Union[_restore_pb2.RestorePlan, _Mapping]] = ..., planned_entries: _Optional[_Iterable[_Union[_restore_pb2.PlannedEntry, _Mapping]]] = ..., source_id: _Optional[str] = ..., rollback_id: _Optional[str] = ..., restored_coins: _Optional[_Union[_wallet_pb2.CoinSummary, _Mapping]] = ..., kept_coins: _Optional[_Union[_wallet_pb2.CoinSummary, _Mapping]] = ..., suspect_coins: _Optional[_Union[_wallet_pb2.CoinSummary, _Mapping]] = ..., changed_paths: _Optional[_Iterable[str]] = ..., files_decrypted: _Optional[int] = ..., files_encrypted: _Optional[int] = ...) -> None: ...

class VerifyResult(_message.Message):
    __slots__ = ("backup_id", "level", "files_checked", "bytes_checked", "sha256", "damaged_files", "damaged_count", "percent", "sealed_hash_only")
    BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    FILES_CHECKED_FIELD_NUMBER: _ClassVar[int]
    BYTES_CHECKED_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_FILES_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_COUNT_FIELD_NUMBER: _ClassVar[int]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    SEALED_HASH_ONLY_FIELD_NUMBER: _ClassVar[int]
    backup_id: str
    level: _backup_pb2.VerifyLevel
    files_checked: int
    bytes_checked: int
    sha256: str
    damaged_files: _containers.RepeatedScalarFieldContainer[str]
    damaged_count: int
    percent: float
    sealed_hash_only: bool
    def __init__(self, backup_id: _Optional[str] = ..., level: _Optional[_Union[_backup_pb2.VerifyLevel, str]] = ..., files_checked: _Optional[int] = ..., bytes_checked: _Optional[int] = ..., sha256: _Optional[str] = ..., damaged_files: _Optional[_Iterable[str]] = ..., damaged_count: _Optional[int] = ..., percent: _Optional[float] = ..., sealed_hash_only: bool = ...) -> None: ...

class ExportCoinsResult(_message.Message):
    __slots__ = ("source_id", "amount", "coins", "files", "file_count", "coins_fracked", "denominations", "receipt_path")
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    COINS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    FILE_COUNT_FIELD_NUMBER: _ClassVar[int]
    COINS_FRACKED_FIELD_NUMBER: _ClassVar[int]
    DENOMINATIONS_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_PATH_FIELD_NUMBER: _ClassVar[int]
    source_id: str
    amount: str
    coins: int
    files: _containers.RepeatedCompositeFieldContainer[_export_pb2.ExportedFile]
    file_count: int
    coins_fracked: int
    denominations: _containers.RepeatedCompositeFieldContainer[_wallet_pb2.DenominationTotal]
    receipt_path: str
    def __init__(self, source_id: _Optional[str] = ..., amount: _Optional[str] = ..., coins: _Optional[int] = ..., files: _Optional[_Iterable[_Union[_export_pb2.ExportedFile, _Mapping]]] = ..., file_count: _Optional[int] = ..., coins_fracked: _Optional[int] = ..., denominations: _Optional[_Iterable[_Union[_wallet_pb2.DenominationTotal, _Mapping]]] = ..., receipt_path: _Optional[str] = ...) -> None: ...

class ExportBackupResult(_message.Message):
    __slots__ = ("backup_id", "file", "files", "directories", "symlinks", "original_size", "hardlinks", "complete")
    BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    DIRECTORIES_FIELD_NUMBER: _ClassVar[int]
    SYMLINKS_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    HARDLINKS_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    backup_id: str
    file: _export_pb2.ExportedFile
    files: int
    directories: int
    symlinks: int
    original_size: int
    hardlinks: int
    complete: bool
    def __init__(self, backup_id: _Optional[str] = ..., file: _Optional[_Union[_export_pb2.ExportedFile, _Mapping]] = ..., files: _Optional[int] = ..., directories: _Optional[int] = ..., symlinks: _Optional[int] = ..., original_size: _Optional[int] = ..., hardlinks: _Optional[int] = ..., complete: bool = ...) -> None: ...

class ImportCoinsResult(_message.Message):
    __slots__ = ("source_id", "folder", "imported", "duplicates", "files_read", "files_moved", "files_corrupted", "files_encrypted", "problem_files", "files_duplicate")
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    IMPORTED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    FILES_READ_FIELD_NUMBER: _ClassVar[int]
    FILES_MOVED_FIELD_NUMBER: _ClassVar[int]
    FILES_CORRUPTED_FIELD_NUMBER: _ClassVar[int]
    FILES_ENCRYPTED_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FILES_FIELD_NUMBER: _ClassVar[int]
    FILES_DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    source_id: str
    folder: str
    imported: _wallet_pb2.CoinTotal
    duplicates: _wallet_pb2.CoinTotal
    files_read: int
    files_moved: int
    files_corrupted: int
    files_encrypted: int
    problem_files: _containers.RepeatedScalarFieldContainer[str]
    files_duplicate: int
    def __init__(self, source_id: _Optional[str] = ..., folder: _Optional[str] = ..., imported: _Optional[_Union[_wallet_pb2.CoinTotal, _Mapping]] = ..., duplicates: _Optional[_Union[_wallet_pb2.CoinTotal, _Mapping]] = ..., files_read: _Optional[int] = ..., files_moved: _Optional[int] = ..., files_corrupted: _Optional[int] = ..., files_encrypted: _Optional[int] = ..., problem_files: _Optional[_Iterable[str]] = ..., files_duplicate: _Optional[int] = ...) -> None: ...

class RestoreArchiveResult(_message.Message):
    __slots__ = ("folder", "format", "sealed", "has_manifest", "files", "directories", "symlinks", "hardlinks", "restored_size", "files_verified", "entries_skipped", "source_id", "restored_coins", "has_checksums", "files_decrypted", "files_encrypted")
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    HAS_MANIFEST_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    DIRECTORIES_FIELD_NUMBER: _ClassVar[int]
    SYMLINKS_FIELD_NUMBER: _ClassVar[int]
    HARDLINKS_FIELD_NUMBER: _ClassVar[int]
    RESTORED_SIZE_FIELD_NUMBER: _ClassVar[int]
    FILES_VERIFIED_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_SKIPPED_FIELD_NUMBER: _ClassVar[int]
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    RESTORED_COINS_FIELD_NUMBER: _ClassVar[int]
    HAS_CHECKSUMS_FIELD_NUMBER: _ClassVar[int]
    FILES_DECRYPTED_FIELD_NUMBER: _ClassVar[int]
    FILES_ENCRYPTED_FIELD_NUMBER: _ClassVar[int]
    folder: str
    format: _backup_pb2.ArchiveFormat
    sealed: bool
    has_manifest: bool
    files: int
    directories: int
    symlinks: int
    hardlinks: int
    restored_size: int
    files_verified: int
    entries_skipped: int
    source_id: str
    restored_coins: _wallet_pb2.CoinSummary
    has_checksums: bool
    files_decrypted: int
    files_encrypted: int
    def __init__(self, folder: _Optional[str] = ..., format: _Optional[_Union[_backup_pb2.ArchiveFormat, str]] = ..., sealed: bool = ..., has_manifest: bool = ..., files: _Optional[int] = ..., directories: _Optional[int] = ..., symlinks: _Optional[int] = ..., hardlinks: _Optional[int] = ..., restored_size: _Optional[int] = ..., files_verified: _Optional[int] = ..., entries_skipped: _Optional[int] = ..., source_id: _Optional[str] = ..., restored_coins: _Optional[_Union[_wallet_pb2.CoinSummary, _Mapping]] = ..., has_checksums: bool = ..., files_decrypted: _Optional[int] = ..., files_encrypted: _Optional[int] = ...) -> None: ...

class RollbackRestoreResult(_message.Message):
    __slots__ = ("rollback_id", "source_id", "plan", "restored_size", "changed_paths")
    ROLLBACK_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    RESTORED_SIZE_FIELD_NUMBER: _ClassVar[int]
    CHANGED_PATHS_FIELD_NUMBER: _ClassVar[int]
    rollback_id: str
    source_id: str
    plan: _restore_pb2.RestorePlan
    restored_size: int
    changed_paths: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, rollback_id: _Optional[str] = ..., source_id: _Optional[str] = ..., plan: _Optional[_Union[_restore_pb2.RestorePlan, _Mapping]] = ..., restored_size: _Optional[int] = ..., changed_paths: _Optional[_Iterable[str]] = ...) -> None: ...

class PrunePlan(_message.Message):
    __slots__ = ("source_id", "kept", "removed", "locked", "incomplete_removed", "kept_backups", "removed_backups")
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    LOCKED_FIELD_NUMBER: _ClassVar[int]
    INCOMPLETE_REMOVED_FIELD_NUMBER: _ClassVar[int]
    KEPT_BACKUPS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_BACKUPS_FIELD_NUMBER: _ClassVar[int]
    source_id: str
    kept: int
    removed: int
    locked: int
    incomplete_removed: int
    kept_backups: _containers.RepeatedCompositeFieldContainer[PruneDecision]
    removed_backups: _containers.RepeatedCompositeFieldContainer[PruneDecision]
    def __init__(self, source_id: _Optional[str] = ..., kept: _Optional[int] = ..., removed: _Optional[int] = ..., locked: _Optional[int] = ..., incomplete_removed: _Optional[int] = ..., kept_backups: _Optional[_Iterable[_Union[PruneDecision, _Mapping]]] = ..., removed_backups: _Optional[_Iterable[_Union[PruneDecision, _Mapping]]] = ...) -> None: ...

class PruneDecision(_message.Message):
    __slots__ = ("backup_id", "rules")
    BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    backup_id: str
    rules: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, backup_id: _Optional[str] = ..., rules: _Optional[_Iterable[str]] = ...) -> None: ...

class PruneRepositoryResult(_message.Message):
    __slots__ = ("repository_id", "plans", "backups_kept", "backups_removed", "packs_condemned", "packs_deleted", "bytes_freed", "bytes_pending", "packs_rescued", "runs_waited_for", "runs_revoked")
    REPOSITORY_ID_FIELD_NUMBER: _ClassVar[int]
    PLANS_FIELD_NUMBER: _ClassVar[int]
    BACKUPS_KEPT_FIELD_NUMBER: _ClassVar[int]
    BACKUPS_REMOVED_FIELD_NUMBER: _ClassVar[int]
    PACKS_CONDEMNED_FIELD_NUMBER: _ClassVar[int]
    PACKS_DELETED_FIELD_NUMBER: _ClassVar[int]
    BYTES_FREED_FIELD_NUMBER: _ClassVar[int]
    BYTES_PENDING_FIELD_NUMBER: _ClassVar[int]
    PACKS_RESCUED_FIELD_NUMBER: _ClassVar[int]
    RUNS_WAITED_FOR_FIELD_NUMBER: _ClassVar[int]
    RUNS_REVOKED_FIELD_NUMBER: _ClassVar[int]
    repository_id: str
    plans: _containers.RepeatedCompositeFieldContainer[PrunePlan]
    backups_kept: int
    backups_removed: int
    packs_condemned: int
    packs_deleted: int
    bytes_freed: int
    bytes_pending: int
    packs_rescued: int
    runs_waited_for: int
    runs_revoked: int
    def __init__(self, repository_id: _Optional[str] = ..., plans: _Optional[_Iterable[_Union[PrunePlan, _Mapping]]] = ..., backups_kept: _Optional[int] = ..., backups_removed: _Optional[int] = ..., packs_condemned: _Optional[int] = ..., packs_deleted: _Optional[int] = ..., bytes_freed: _Optional[int] = ..., bytes_pending: _Optional[int] = ..., packs_rescued: _Optional[int] = ..., runs_waited_for: _Optional[int] = ..., runs_revoked: _Optional[int] = ...) -> None: ...

class CompactRepositoryResult(_message.Message):
    __slots__ = ("repository_id", "packs_merged", "packs_written", "indexes_merged", "objects_before", "objects_after", "bytes_freed", "bytes_pending")
    REPOSITORY_ID_FIELD_NUMBER: _ClassVar[int]
    PACKS_MERGED_FIELD_NUMBER: _ClassVar[int]
    PACKS_WRITTEN_FIELD_NUMBER: _ClassVar[int]
    INDEXES_MERGED_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_BEFORE_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_AFTER_FIELD_NUMBER: _ClassVar[int]
    BYTES_FREED_FIELD_NUMBER: _ClassVar[int]
    BYTES_PENDING_FIELD_NUMBER: _ClassVar[int]
    repository_id: str
    packs_merged: int
    packs_written: int
    indexes_merged: int
    objects_before: int
    objects_after: int
    bytes_freed: int
    bytes_pending: int
    def __init__(self, repository_id: _Optional[str] = ..., packs_merged: _Optional[int] = ..., packs_written: _Optional[int] = ..., indexes_merged: _Optional[int] = ..., objects_before: _Optional[int] = ..., objects_after: _Optional[int] = ..., bytes_freed: _Optional[int] = ..., bytes_pending: _Optional[int] = ...) -> None: ...

class BackupDamage(_message.Message):
    __slots__ = ("backup_id", "files_lost", "chunks_lost", "paths")
    BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    FILES_LOST_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_LOST_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    backup_id: str
    files_lost: int
    chunks_lost: int
    paths: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, backup_id: _Optional[str] = ..., files_lost: _Optional[int] = ..., chunks_lost: _Optional[int] = ..., paths: _Optional[_Iterable[str]] = ...) -> None: ...

class CheckRepositoryResult(_message.Message):
    __slots__ = ("repository_id", "level", "percent", "backups_checked", "packs_checked", "objects_checked", "files_checked", "bytes_checked", "damaged_objects", "damaged_count", "damaged_backups")
    REPOSITORY_ID_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    BACKUPS_CHECKED_FIELD_NUMBER: _ClassVar[int]
    PACKS_CHECKED_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_CHECKED_FIELD_NUMBER: _ClassVar[int]
    FILES_CHECKED_FIELD_NUMBER: _ClassVar[int]
    BYTES_CHECKED_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_OBJECTS_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_COUNT_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_BACKUPS_FIELD_NUMBER: _ClassVar[int]
    repository_id: str
    level: _backup_pb2.VerifyLevel
    percent: float
    backups_checked: int
    packs_checked: int
    objects_checked: int
    files_checked: int
    bytes_checked: int
    damaged_objects: _containers.RepeatedScalarFieldContainer[str]
    damaged_count: int
    damaged_backups: _containers.RepeatedCompositeFieldContainer[BackupDamage]
    def __init__(self, repository_id: _Optional[str] = ..., level: _Optional[_Union[_backup_pb2.VerifyLevel, str]] = ..., percent: _Optional[float] = ..., backups_checked: _Optional[int] = ..., packs_checked: _Optional[int] = ..., objects_checked: _Optional[int] = ..., files_checked: _Optional[int] = ..., bytes_checked: _Optional[int] = ..., damaged_objects: _Optional[_Iterable[str]] = ..., damaged_count: _Optional[int] = ..., damaged_backups: _Optional[_Iterable[_Union[BackupDamage, _Mapping]]] = ...) -> None: ...

class RepairRepositoryResult(_message.Message):
    __slots__ = ("repository_id", "indexes_rebuilt", "packs_adopted", "packs_set_aside", "chunks_lost", "damaged_backups", "log_mended", "runs_ended", "backups_given_up", "config_restored")
    REPOSITORY_ID_FIELD_NUMBER: _ClassVar[int]
    INDEXES_REBUILT_FIELD_NUMBER: _ClassVar[int]
    PACKS_ADOPTED_FIELD_NUMBER: _ClassVar[int]
    PACKS_SET_ASIDE_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_LOST_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_BACKUPS_FIELD_NUMBER: _ClassVar[int]
    LOG_MENDED_FIELD_NUMBER: _ClassVar[int]
    RUNS_ENDED_FIELD_NUMBER: _ClassVar[int]
    BACKUPS_GIVEN_UP_FIELD_NUMBER: _ClassVar[int]
    CONFIG_RESTORED_FIELD_NUMBER: _ClassVar[int]
    repository_id: str
    indexes_rebuilt: int
    packs_adopted: int
    packs_set_aside: int
    chunks_lost: int
    damaged_backups: _containers.RepeatedCompositeFieldContainer[BackupDamage]
    log_mended: bool
    runs_ended: int
    backups_given_up: int
    config_restored: bool
    def __init__(self, repository_id: _Optional[str] = ..., indexes_rebuilt: _Optional[int] = ..., packs_adopted: _Optional[int] = ..., packs_set_aside: _Optional[int] = ..., chunks_lost: _Optional[int] = ..., damaged_backups: _Optional[_Iterable[_Union[BackupDamage, _Mapping]]] = ..., log_mended: bool = ..., runs_ended: _Optional[int] = ..., backups_given_up: _Optional[int] = ..., config_restored: bool = ...) -> None: ...
