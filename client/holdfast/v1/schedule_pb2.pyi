import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from holdfast.v1 import backup_pb2 as _backup_pb2
from holdfast.v1 import repository_pb2 as _repository_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Schedule(_message.Message):
    __slots__ = ("schedule_id", "display_name", "cron", "time_zone", "paused", "action", "catch_up_window", "create_time", "update_time", "next_run_time", "last_run_time", "last_task_id", "overdue")
    SCHEDULE_ID_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    CRON_FIELD_NUMBER: _ClassVar[int]
    TIME_ZONE_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    CATCH_UP_WINDOW_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    NEXT_RUN_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_RUN_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_TASK_ID_FIELD_NUMBER: _ClassVar[int]
    OVERDUE_FIELD_NUMBER: _ClassVar[int]
    schedule_id: str
    display_name: str
    cron: str
    time_zone: str
    paused: bool
    action: ScheduleAction
    catch_up_window: _duration_pb2.Duration
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    next_run_time: _timestamp_pb2.Timestamp
    last_run_time: _timestamp_pb2.Timestamp
    last_task_id: str
    overdue: bool
    def __init__(self, schedule_id: _Optional[str] = ..., display_name: _Optional[str] = ..., cron: _Optional[str] = ..., time_zone: _Optional[str] = ..., paused: bool = ..., action: _Optional[_Union[ScheduleAction, _Mapping]] = ..., catch_up_window: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., next_run_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_run_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_task_id: _Optional[str] = ..., overdue: bool = ...) -> None: ...

class ScheduleAction(_message.Message):
    __slots__ = ("backup", "prune", "compact", "check", "verify")
    BACKUP_FIELD_NUMBER: _ClassVar[int]
    PRUNE_FIELD_NUMBER: _ClassVar[int]
    COMPACT_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    VERIFY_FIELD_NUMBER: _ClassVar[int]
    backup: BackupAction
    prune: PruneAction
    compact: CompactAction
    check: CheckAction
    verify: VerifyAction
    def __init__(self, backup: _Optional[_Union[BackupAction, _Mapping]] = ..., prune: _Optional[_Union[PruneAction, _Mapping]] = ..., compact: _Optional[_Union[CompactAction, _Mapping]] = ..., check: _Optional[_Union[CheckAction, _Mapping]] = ..., verify: _Optional[_Union[VerifyAction, _Mapping]] = ...) -> None: ...

class BackupAction(_message.Message):
    __slots__ = ("source_ids", "all_wallets", "archive", "repository", "ignore", "on_source_error", "maintenance", "archive_retention")
    SOURCE_IDS_FIELD_NUMBER: _ClassVar[int]
    ALL_WALLETS_FIELD_NUMBER: _ClassVar[int]
    ARCHIVE_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    IGNORE_FIELD_NUMBER: _ClassVar[int]
    ON_SOURCE_ERROR_FIELD_NUMBER: _ClassVar[int]
    MAINTENANCE_FIELD_NUMBER: _ClassVar[int]
    ARCHIVE_RETENTION_FIELD_NUMBER: _ClassVar[int]
    source_ids: _containers.RepeatedScalarFieldContainer[str]
    all_wallets: bool
    archive: _backup_pb2.ArchiveTarget
    repository: _backup_pb2.RepositoryTarget
    ignore: _containers.RepeatedScalarFieldContainer[str]
    on_source_error: _backup_pb2.OnSourceError
    maintenance: _backup_pb2.Maintenance
    archive_retention: _repository_pb2.RetentionPolicy
    def __init__(self, source_ids: _Optional[_Iterable[str]] = ..., all_wallets: bool = ..., archive: _Optional[_Union[_backup_pb2.ArchiveTarget, _Mapping]] = ..., repository: _Optional[_Union[_backup_pb2.RepositoryTarget, _Mapping]] = ..., ignore: _Optional[_Iterable[str]] = ..., on_source_error: _Optional[_Union[_backup_pb2.OnSourceError, str]] = ..., maintenance: _Optional[_Union[_backup_pb2.Maintenance, _Mapping]] = ..., archive_retention: _Optional[_Union[_repository_pb2.RetentionPolicy, _Mapping]] = ...) -> None: ...

class PruneAction(_message.Message):
    __slots__ = ("repository_id", "source_ids", "retention")
    REPOSITORY_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_IDS_FIELD_NUMBER: _ClassVar[int]
    RETENTION_FIELD_NUMBER: _ClassVar[int]
    repository_id: str
    source_ids: _containers.RepeatedScalarFieldContainer[str]
    retention: _repository_pb2.RetentionPolicy
    def __init__(self, repository_id: _Optional[str] = ..., source_ids: _Optional[_Iterable[str]] = ..., retention: _Optional[_Union[_repository_pb2.RetentionPolicy, _Mapping]] = ...) -> None: ...

class CompactAction(_message.Message):
    __slots__ = ("repository_id",)
    REPOSITORY_ID_FIELD_NUMBER: _ClassVar[int]
    repository_id: str
    def __init__(self, repository_id: _Optional[str] = ...) -> None: ...

class CheckAction(_message.Message):
    __slots__ = ("repository_id", "level", "percent")
    REPOSITORY_ID_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    repository_id: str
    level: _backup_pb2.VerifyLevel
    percent: int
    def __init__(self, repository_id: _Optional[str] = ..., level: _Optional[_Union[_backup_pb2.VerifyLevel, str]] = ..., percent: _Optional[int] = ...) -> None: ...

class VerifyAction(_message.Message):
    __slots__ = ("source_id", "level")
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    source_id: str
    level: _backup_pb2.VerifyLevel
    def __init__(self, source_id: _Optional[str] = ..., level: _Optional[_Union[_backup_pb2.VerifyLevel, str]] = ...) -> None: ...
