import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from holdfast.v1 import backup_pb2 as _backup_pb2
from holdfast.v1 import credentials_pb2 as _credentials_pb2
from holdfast.v1 import download_pb2 as _download_pb2
from holdfast.v1 import task_pb2 as _task_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CreateBackupRequest(_message.Message):
    __slots__ = ("source_ids", "all_wallets", "archive", "repository", "name", "backup_id", "ignore", "locked", "on_source_error", "maintenance", "dry_run", "request_id")
    SOURCE_IDS_FIELD_NUMBER: _ClassVar[int]
    ALL_WALLETS_FIELD_NUMBER: _ClassVar[int]
    ARCHIVE_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    IGNORE_FIELD_NUMBER: _ClassVar[int]
    LOCKED_FIELD_NUMBER: _ClassVar[int]
    ON_SOURCE_ERROR_FIELD_NUMBER: _ClassVar[int]
    MAINTENANCE_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    source_ids: _containers.RepeatedScalarFieldContainer[str]
    all_wallets: bool
    archive: _backup_pb2.ArchiveTarget
    repository: _backup_pb2.RepositoryTarget
    name: str
    backup_id: str
    ignore: _containers.RepeatedScalarFieldContainer[str]
    locked: bool
    on_source_error: _backup_pb2.OnSourceError
    maintenance: _backup_pb2.Maintenance
    dry_run: bool
    request_id: str
    def __init__(self, source_ids: _Optional[_Iterable[str]] = ..., all_wallets: bool = ..., archive: _Optional[_Union[_backup_pb2.ArchiveTarget, _Mapping]] = ..., repository: _Optional[_Union[_backup_pb2.RepositoryTarget, _Mapping]] = ..., name: _Optional[str] = ..., backup_id: _Optional[str] = ..., ignore: _Optional[_Iterable[str]] = ..., locked: bool = ..., on_source_error: _Optional[_Union[_backup_pb2.OnSourceError, str]] = ..., maintenance: _Optional[_Union[_backup_pb2.Maintenance, _Mapping]] = ..., dry_run: bool = ..., request_id: _Optional[str] = ...) -> None: ...

class RunBackupRequest(_message.Message):
    __slots__ = ("source_ids", "all_wallets", "archive", "repository", "name", "backup_id", "ignore", "locked", "on_source_error", "maintenance", "dry_run", "request_id")
    SOURCE_IDS_FIELD_NUMBER: _ClassVar[int]
    ALL_WALLETS_FIELD_NUMBER: _ClassVar[int]
    ARCHIVE_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    IGNORE_FIELD_NUMBER: _ClassVar[int]
    LOCKED_FIELD_NUMBER: _ClassVar[int]
    ON_SOURCE_ERROR_FIELD_NUMBER: _ClassVar[int]
    MAINTENANCE_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    source_ids: _containers.RepeatedScalarFieldContainer[str]
    all_wallets: bool
    archive: _backup_pb2.ArchiveTarget
    repository: _backup_pb2.RepositoryTarget
    name: str
    backup_id: str
    ignore: _containers.RepeatedScalarFieldContainer[str]
    locked: bool
    on_source_error: _backup_pb2.OnSourceError
    maintenance: _backup_pb2.Maintenance
    dry_run: bool
    request_id: str
    def __init__(self, source_ids: _Optional[_Iterable[str]] = ..., all_wallets: bool = ..., archive: _Optional[_Union[_backup_pb2.ArchiveTarget, _Mapping]] = ..., repository: _Optional[_Union[_backup_pb2.RepositoryTarget, _Mapping]] = ..., name: _Optional[str] = ..., backup_id: _Optional[str] = ..., ignore: _Optional[_Iterable[str]] = ..., locked: bool = ..., on_source_error: _Optional[_Union[_backup_pb2.OnSourceError, str]] = ..., maintenance: _Optional[_Union[_backup_pb2.Maintenance, _Mapping]] = ..., dry_run: bool = ..., request_id: _Optional[str] = ...) -> None: ...

class GetBackupRequest(_message.Message):
    __slots__ = ("backup_id",)
    BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    backup_id: str
    def __init__(self, backup_id: _Optional[str] = ...) -> None: ...

class ListBackupsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "source_id", "task_id", "repository_id", "states", "kinds", "show_deleted")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_ID_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    SHOW_DELETED_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    source_id: str
    task_id: str
    repository_id: str
    states: _containers.RepeatedScalarFieldContainer[_backup_pb2.BackupState]
    kinds: _containers.RepeatedScalarFieldContainer[_backup_pb2.BackupKind]
    show_deleted: bool
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., source_id: _Optional[str] = ..., task_id: _Optional[str] = ..., repository_id: _Optional[str] = ..., states: _Optional[_Iterable[_Union[_backup_pb2.BackupState, str]]] = ..., kinds: _Optional[_Iterable[_Union[_backup_pb2.BackupKind, str]]] = ..., show_deleted: bool = ...) -> None: ...

class ListBackupsResponse(_message.Message):
    __slots__ = ("backups", "next_page_token")
    BACKUPS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    backups: _containers.RepeatedCompositeFieldContainer[_backup_pb2.Backup]
    next_page_token: str
    def __init__(self, backups: _Optional[_Iterable[_Union[_backup_pb2.Backup, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateBackupRequest(_message.Message):
    __slots__ = ("backup_id", "name", "locked")
    BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    LOCKED_FIELD_NUMBER: _ClassVar[int]
    backup_id: str
    name: str
    locked: bool
    def __init__(self, backup_id: _Optional[str] = ..., name: _Optional[str] = ..., locked: bool = ...) -> None: ...

class DeleteBackupRequest(_message.Message):
    __slots__ = ("backup_id",)
    BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    backup_id: str
    def __init__(self, backup_id: _Optional[str] = ...) -> None: ...

class UndeleteBackupRequest(_message.Message):
    __slots__ = ("backup_id",)
    BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    backup_id: str
    def __init__(self, backup_id: _Optional[str] = ...) -> None: ...

class VerifyBackupRequest(_message.Message):
    __slots__ = ("backup_id", "level", "credentials", "request_id")
    BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    backup_id: str
    level: _backup_pb2.VerifyLevel
    credentials: _credentials_pb2.Credentials
    request_id: str
    def __init__(self, backup_id: _Optional[str] = ..., level: _Optional[_Union[_backup_pb2.VerifyLevel, str]] = ..., credentials: _Optional[_Union[_credentials_pb2.Credentials, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class ListBackupEntriesRequest(_message.Message):
    __slots__ = ("backup_id", "path", "page_size", "page_token", "credentials")
    BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    backup_id: str
    path: str
    page_size: int
    page_token: str
    credentials: _credentials_pb2.Credentials
    def __init__(self, backup_id: _Optional[str] = ..., path: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., credentials: _Optional[_Union[_credentials_pb2.Credentials, _Mapping]] = ...) -> None: ...

class ListBackupEntriesResponse(_message.Message):
    __slots__ = ("entries", "next_page_token")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[_backup_pb2.Entry]
    next_page_token: str
    def __init__(self, entries: _Optional[_Iterable[_Union[_backup_pb2.Entry, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class FindEntriesRequest(_message.Message):
    __slots__ = ("source_id", "glob", "backup_id", "page_size", "page_token", "credentials")
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    GLOB_FIELD_NUMBER: _ClassVar[int]
    BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    source_id: str
    glob: str
    backup_id: str
    page_size: int
    page_token: str
    credentials: _credentials_pb2.Credentials
    def __init__(self, source_id: _Optional[str] = ..., glob: _Optional[str] = ..., backup_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., credentials: _Optional[_Union[_credentials_pb2.Credentials, _Mapping]] = ...) -> None: ...

class FindEntriesResponse(_message.Message):
    __slots__ = ("entries", "next_page_token")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[_backup_pb2.FoundEntry]
    next_page_token: str
    def __init__(self, entries: _Optional[_Iterable[_Union[_backup_pb2.FoundEntry, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DiffBackupsRequest(_message.Message):
    __slots__ = ("from_backup_id", "to_backup_id", "path", "page_size", "page_token", "credentials")
    FROM_BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    TO_BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    from_backup_id: str
    to_backup_id: str
    path: str
    page_size: int
    page_token: str
    credentials: _credentials_pb2.Credentials
    def __init__(self, from_backup_id: _Optional[str] = ..., to_backup_id: _Optional[str] = ..., path: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., credentials: _Optional[_Union[_credentials_pb2.Credentials, _Mapping]] = ...) -> None: ...

class DiffBackupsResponse(_message.Message):
    __slots__ = ("changes", "next_page_token")
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[_backup_pb2.EntryChange]
    next_page_token: str
    def __init__(self, changes: _Optional[_Iterable[_Union[_backup_pb2.EntryChange, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CreateDownloadTokenRequest(_message.Message):
    __slots__ = ("backup_id", "task_log", "format", "credentials", "request_id")
    class TaskLog(_message.Message):
        __slots__ = ("task_id",)
        TASK_ID_FIELD_NUMBER: _ClassVar[int]
        task_id: str
        def __init__(self, task_id: _Optional[str] = ...) -> None: ...
    BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_LOG_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    backup_id: str
    task_log: CreateDownloadTokenRequest.TaskLog
    format: _backup_pb2.ArchiveFormat
    credentials: _credentials_pb2.Credentials
    request_id: str
    def __init__(self, backup_id: _Optional[str] = ..., task_log: _Optional[_Union[CreateDownloadTokenRequest.TaskLog, _Mapping]] = ..., format: _Optional[_Union[_backup_pb2.ArchiveFormat, str]] = ..., credentials: _Optional[_Union[_credentials_pb2.Credentials, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class CreateDownloadTokenResponse(_message.Message):
    __slots__ = ("token", "token_id", "expire_time", "download_uri")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    DOWNLOAD_URI_FIELD_NUMBER: _ClassVar[int]
    token: str
    token_id: str
    expire_time: _timestamp_pb2.Timestamp
    download_uri: str
    def __init__(self, token: _Optional[str] = ..., token_id: _Optional[str] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., download_uri: _Optional[str] = ...) -> None: ...

class RevokeDownloadTokenRequest(_message.Message):
    __slots__ = ("token_id",)
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    token_id: str
    def __init__(self, token_id: _Optional[str] = ...) -> None: ...

class RevokeDownloadTokenResponse(_message.Message):
    __slots__ = ("was_valid",)
    WAS_VALID_FIELD_NUMBER: _ClassVar[int]
    was_valid: bool
    def __init__(self, was_valid: bool = ...) -> None: ...

class DownloadBackupRequest(_message.Message):
    __slots__ = ("token", "backup_id", "offset", "format", "credentials")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    token: str
    backup_id: str
    offset: int
    format: _backup_pb2.ArchiveFormat
    credentials: _credentials_pb2.Credentials
    def __init__(self, token: _Optional[str] = ..., backup_id: _Optional[str] = ..., offset: _Optional[int] = ..., format: _Optional[_Union[_backup_pb2.ArchiveFormat, str]] = ..., credentials: _Optional[_Union[_credentials_pb2.Credentials, _Mapping]] = ...) -> None: ...
