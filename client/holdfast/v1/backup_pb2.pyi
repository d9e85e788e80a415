import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from holdfast.v1 import repository_pb2 as _repository_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BackupKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BACKUP_KIND_UNSPECIFIED: _ClassVar[BackupKind]
    BACKUP_KIND_ARCHIVE: _ClassVar[BackupKind]
    BACKUP_KIND_SNAPSHOT: _ClassVar[BackupKind]

class BackupState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BACKUP_STATE_UNSPECIFIED: _ClassVar[BackupState]
    BACKUP_STATE_IN_PROGRESS: _ClassVar[BackupState]
    BACKUP_STATE_COMPLETED: _ClassVar[BackupState]
    BACKUP_STATE_FAILED: _ClassVar[BackupState]
    BACKUP_STATE_RESTORING: _ClassVar[BackupState]

class ArchiveFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ARCHIVE_FORMAT_UNSPECIFIED: _ClassVar[ArchiveFormat]
    ARCHIVE_FORMAT_ZIP: _ClassVar[ArchiveFormat]
    ARCHIVE_FORMAT_TAR_GZ: _ClassVar[ArchiveFormat]
    ARCHIVE_FORMAT_TAR_ZST: _ClassVar[ArchiveFormat]

class OnSourceError(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_SOURCE_ERROR_UNSPECIFIED: _ClassVar[OnSourceError]
    ON_SOURCE_ERROR_FAIL: _ClassVar[OnSourceError]
    ON_SOURCE_ERROR_WARN: _ClassVar[OnSourceError]

class VerifyLevel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERIFY_LEVEL_UNSPECIFIED: _ClassVar[VerifyLevel]
    VERIFY_LEVEL_STRUCTURE: _ClassVar[VerifyLevel]
    VERIFY_LEVEL_CHECKSUM: _ClassVar[VerifyLevel]
    VERIFY_LEVEL_READ_DATA: _ClassVar[VerifyLevel]
    VERIFY_LEVEL_RESTORE_DRILL: _ClassVar[VerifyLevel]

class EntryType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENTRY_TYPE_UNSPECIFIED: _ClassVar[EntryType]
    ENTRY_TYPE_FILE: _ClassVar[EntryType]
    ENTRY_TYPE_DIRECTORY: _ClassVar[EntryType]
    ENTRY_TYPE_SYMLINK: _ClassVar[EntryType]
    ENTRY_TYPE_HARDLINK: _ClassVar[EntryType]

class EntryChangeKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENTRY_CHANGE_KIND_UNSPECIFIED: _ClassVar[EntryChangeKind]
    ENTRY_CHANGE_KIND_ADDED: _ClassVar[EntryChangeKind]
    ENTRY_CHANGE_KIND_REMOVED: _ClassVar[EntryChangeKind]
    ENTRY_CHANGE_KIND_CONTENT: _ClassVar[EntryChangeKind]
    ENTRY_CHANGE_KIND_ATTRIBUTES: _ClassVar[EntryChangeKind]
BACKUP_KIND_UNSPECIFIED: BackupKind
BACKUP_KIND_ARCHIVE: BackupKind
BACKUP_KIND_SNAPSHOT: BackupKind
BACKUP_STATE_UNSPECIFIED: BackupState
BACKUP_STATE_IN_PROGRESS: BackupState
BACKUP_STATE_COMPLETED: BackupState
BACKUP_STATE_FAILED: BackupState
BACKUP_STATE_RESTORING: BackupState
ARCHIVE_FORMAT_UNSPECIFIED: ArchiveFormat
ARCHIVE_FORMAT_ZIP: ArchiveFormat
ARCHIVE_FORMAT_TAR_GZ: ArchiveFormat
ARCHIVE_FORMAT_TAR_ZST: ArchiveFormat
ON_SOURCE_ERROR_UNSPECIFIED: OnSourceError
ON_SOURCE_ERROR_FAIL: OnSourceError
ON_SOURCE_ERROR_WARN: OnSourceError
VERIFY_LEVEL_UNSPECIFIED: VerifyLevel
VERIFY_LEVEL_STRUCTURE: VerifyLevel
VERIFY_LEVEL_CHECKSUM: VerifyLevel
VERIFY_LEVEL_READ_DATA: VerifyLevel
VERIFY_LEVEL_RESTORE_DRILL: VerifyLevel
ENTRY_TYPE_UNSPECIFIED: EntryType
ENTRY_TYPE_FILE: EntryType
ENTRY_TYPE_DIRECTORY: EntryType
ENTRY_TYPE_SYMLINK: EntryType
ENTRY_TYPE_HARDLINK: EntryType
ENTRY_CHANGE_KIND_UNSPECIFIED: EntryChangeKind
ENTRY_CHANGE_KIND_ADDED: EntryChangeKind
ENTRY_CHANGE_KIND_REMOVED: EntryChangeKind
ENTRY_CHANGE_KIND_CONTENT: EntryChangeKind
ENTRY_CHANGE_KIND_ATTRIBUTES: EntryChangeKind

class Backup(_message.Message):
    __slots__ = ("backup_id", "name", "source_id", "kind", "state", "size", "sha256", "locked", "ignore", "storage_path", "repository_id", "create_time", "complete_time", "update_time", "statistics", "verifications", "task_id", "complete", "format", "sealed", "delete_time", "purge_time")
    BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    LOCKED_FIELD_NUMBER: _ClassVar[int]
    IGNORE_FIELD_NUMBER: _ClassVar[int]
    STORAGE_PATH_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_ID_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    VERIFICATIONS_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    DELETE_TIME_FIELD_NUMBER: _ClassVar[int]
    PURGE_TIME_FIELD_NUMBER: _ClassVar[int]
    backup_id: str
    name: str
    source_id: str
    kind: BackupKind
    state: BackupState
    size: int
    sha256: str
    locked: bool
    ignore: _containers.RepeatedScalarFieldContainer[str]
    storage_path: str
    repository_id: str
    create_time: _timestamp_pb2.Timestamp
    complete_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    statistics: BackupStatistics
    verifications: _containers.RepeatedCompositeFieldContainer[Verification]
    task_id: str
    complete: bool
    format: ArchiveFormat
    sealed: bool
    delete_time: _timestamp_pb2.Timestamp
    purge_time: _timestamp_pb2.Timestamp
    def __init__(self, backup_id: _Optional[str] = ..., name: _Optional[str] = ..., source_id: _Optional[str] = ..., kind: _Optional[_Union[BackupKind, str]] = ..., state: _Optional[_Union[BackupState, str]] = ..., size: _Optional[int] = ..., sha256: _Optional[str] = ..., locked: bool = ..., ignore: _Optional[_Iterable[str]] = ..., storage_path: _Optional[str] = ..., repository_id: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., complete_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., statistics: _Optional[_Union[BackupStatistics, _Mapping]] = ..., verifications: _Optional[_Iterable[_Union[Verification, _Mapping]]] = ..., task_id: _Optional[str] = ..., complete: bool = ..., format: _Optional[_Union[ArchiveFormat, str]] = ..., sealed: bool = ..., delete_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., purge_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class BackupStatistics(_message.Message):
    __slots__ = ("files", "directories", "symlinks", "hardlinks", "original_size", "stored_size", "files_skipped", "files_ignored", "coins", "files_added_plaintext", "files_added_multi_coin", "files_reencrypted", "warnings", "duration")
    FILES_FIELD_NUMBER: _ClassVar[int]
    DIRECTORIES_FIELD_NUMBER: _ClassVar[int]
    SYMLINKS_FIELD_NUMBER: _ClassVar[int]
    HARDLINKS_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    STORED_SIZE_FIELD_NUMBER: _ClassVar[int]
    FILES_SKIPPED_FIELD_NUMBER: _ClassVar[int]
    FILES_IGNORED_FIELD_NUMBER: _ClassVar[int]
    COINS_FIELD_NUMBER: _ClassVar[int]
    FILES_ADDED_PLAINTEXT_FIELD_NUMBER: _ClassVar[int]
    FILES_ADDED_MULTI_COIN_FIELD_NUMBER: _ClassVar[int]
    FILES_REENCRYPTED_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
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
    duration: _duration_pb2.Duration
    def __init__(self, files: _Optional[int] = ..., directories: _Optional[int] = ..., symlinks: _Optional[int] = ..., hardlinks: _Optional[int] = ..., original_size: _Optional[int] = ..., stored_size: _Optional[int] = ..., files_skipped: _Optional[int] = ..., files_ignored: _Optional[int] = ..., coins: _Optional[int] = ..., files_added_plaintext: _Optional[int] = ..., files_added_multi_coin: _Optional[int] = ..., files_reencrypted: _Optional[int] = ..., warnings: _Optional[int] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Verification(_message.Message):
    __slots__ = ("time", "level", "ok", "files_checked", "bytes_checked", "percent", "message", "task_id")
    TIME_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    FILES_CHECKED_FIELD_NUMBER: _ClassVar[int]
    BYTES_CHECKED_FIELD_NUMBER: _ClassVar[int]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    level: VerifyLevel
    ok: bool
    files_checked: int
    bytes_checked: int
    percent: float
    message: str
    task_id: str
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., level: _Optional[_Union[VerifyLevel, str]] = ..., ok: bool = ..., files_checked: _Optional[int] = ..., bytes_checked: _Optional[int] = ..., percent: _Optional[float] = ..., message: _Optional[str] = ..., task_id: _Optional[str] = ...) -> None: ...

class ArchiveTarget(_message.Message):
    __slots__ = ("folder", "format", "tag", "create_folder", "age_recipients")
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    CREATE_FOLDER_FIELD_NUMBER: _ClassVar[int]
    AGE_RECIPIENTS_FIELD_NUMBER: _ClassVar[int]
    folder: str
    format: ArchiveFormat
    tag: str
    create_folder: bool
    age_recipients: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, folder: _Optional[str] = ..., format: _Optional[_Union[ArchiveFormat, str]] = ..., tag: _Optional[str] = ..., create_folder: bool = ..., age_recipients: _Optional[_Iterable[str]] = ...) -> None: ...

class RepositoryTarget(_message.Message):
    __slots__ = ("repository_id",)
    REPOSITORY_ID_FIELD_NUMBER: _ClassVar[int]
    repository_id: str
    def __init__(self, repository_id: _Optional[str] = ...) -> None: ...

class Maintenance(_message.Message):
    __slots__ = ("retention", "prune", "compact", "check_percent")
    RETENTION_FIELD_NUMBER: _ClassVar[int]
    PRUNE_FIELD_NUMBER: _ClassVar[int]
    COMPACT_FIELD_NUMBER: _ClassVar[int]
    CHECK_PERCENT_FIELD_NUMBER: _ClassVar[int]
    retention: _repository_pb2.RetentionPolicy
    prune: bool
    compact: bool
    check_percent: int
    def __init__(self, retention: _Optional[_Union[_repository_pb2.RetentionPolicy, _Mapping]] = ..., prune: bool = ..., compact: bool = ..., check_percent: _Optional[int] = ...) -> None: ...

class Entry(_message.Message):
    __slots__ = ("path", "type", "size", "mode", "modify_time", "uid", "gid", "link_target", "sha256")
    PATH_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    MODIFY_TIME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    LINK_TARGET_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    path: str
    type: EntryType
    size: int
    mode: int
    modify_time: _timestamp_pb2.Timestamp
    uid: int
    gid: int
    link_target: str
    sha256: str
    def __init__(self, path: _Optional[str] = ..., type: _Optional[_Union[EntryType, str]] = ..., size: _Optional[int] = ..., mode: _Optional[int] = ..., modify_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., link_target: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...

class EntryChange(_message.Message):
    __slots__ = ("kind", "path", "before", "after")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    kind: EntryChangeKind
    path: str
    before: Entry
    after: Entry
    def __init__(self, kind: _Optional[_Union[EntryChangeKind, str]] = ..., path: _Optional[str] = ..., before: _Optional[_Union[Entry, _Mapping]] = ..., after: _Optional[_Union[Entry, _Mapping]] = ...) -> None: ...

class FoundEntry(_message.Message):
    __slots__ = ("backup_id", "backup_create_time", "entry")
    BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    BACKUP_CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    backup_id: str
    backup_create_time: _timestamp_pb2.Timestamp
    entry: Entry
    def __init__(self, backup_id: _Optional[str] = ..., backup_create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., entry: _Optional[_Union[Entry, _Mapping]] = ...) -> None: ...
