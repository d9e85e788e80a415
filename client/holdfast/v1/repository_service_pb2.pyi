import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from holdfast.v1 import backup_pb2 as _backup_pb2
from holdfast.v1 import credentials_pb2 as _credentials_pb2
from holdfast.v1 import repository_pb2 as _repository_pb2
from holdfast.v1 import task_pb2 as _task_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CreateRepositoryRequest(_message.Message):
    __slots__ = ("repository_id", "display_name", "location", "create_folder", "sealed", "keys", "compression_level", "request_id")
    REPOSITORY_ID_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    CREATE_FOLDER_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    COMPRESSION_LEVEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    repository_id: str
    display_name: str
    location: str
    create_folder: bool
    sealed: bool
    keys: _containers.RepeatedCompositeFieldContainer[_repository_pb2.NewKey]
    compression_level: int
    request_id: str
    def __init__(self, repository_id: _Optional[str] = ..., display_name: _Optional[str] = ..., location: _Optional[str] = ..., create_folder: bool = ..., sealed: bool = ..., keys: _Optional[_Iterable[_Union[_repository_pb2.NewKey, _Mapping]]] = ..., compression_level: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class CreateRepositoryResponse(_message.Message):
    __slots__ = ("repository", "recovery_key")
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    RECOVERY_KEY_FIELD_NUMBER: _ClassVar[int]
    repository: _repository_pb2.Repository
    recovery_key: str
    def __init__(self, repository: _Optional[_Union[_repository_pb2.Repository, _Mapping]] = ..., recovery_key: _Optional[str] = ...) -> None: ...

class GetRepositoryRequest(_message.Message):
    __slots__ = ("repository_id",)
    REPOSITORY_ID_FIELD_NUMBER: _ClassVar[int]
    repository_id: str
    def __init__(self, repository_id: _Optional[str] = ...) -> None: ...

class ListRepositoriesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListRepositoriesResponse(_message.Message):
    __slots__ = ("repositories", "next_page_token")
    REPOSITORIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    repositories: _containers.RepeatedCompositeFieldContainer[_repository_pb2.Repository]
    next_page_token: str
    def __init__(self, repositories: _Optional[_Iterable[_Union[_repository_pb2.Repository, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UnlockRepositoryRequest(_message.Message):
    __slots__ = ("repository_id", "credentials", "ttl")
    REPOSITORY_ID_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    repository_id: str
    credentials: _credentials_pb2.Credentials
    ttl: _duration_pb2.Duration
    def __init__(self, repository_id: _Optional[str] = ..., credentials: _Optional[_Union[_credentials_pb2.Credentials, _Mapping]] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class LockRepositoryRequest(_message.Message):
    __slots__ = ("repository_id",)
    REPOSITORY_ID_FIELD_NUMBER: _ClassVar[int]
    repository_id: str
    def __init__(self, repository_id: _Optional[str] = ...) -> None: ...

class PruneRepositoryRequest(_message.Message):
    __slots__ = ("repository_id", "source_ids", "retention", "dry_run", "request_id")
    REPOSITORY_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_IDS_FIELD_NUMBER: _ClassVar[int]
    RETENTION_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    repository_id: str
    source_ids: _containers.RepeatedScalarFieldContainer[str]
    retention: _repository_pb2.RetentionPolicy
    dry_run: bool
    request_id: str
    def __init__(self, repository_id: _Optional[str] = ..., source_ids: _Optional[_Iterable[str]] = ..., retention: _Optional[_Union[_repository_pb2.RetentionPolicy, _Mapping]] = ..., dry_run: bool = ..., request_id: _Optional[str] = ...) -> None: ...

class CompactRepositoryRequest(_message.Message):
    __slots__ = ("repository_id", "dry_run", "request_id")
    REPOSITORY_ID_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    repository_id: str
    dry_run: bool
    request_id: str
    def __init__(self, repository_id: _Optional[str] = ..., dry_run: bool = ..., request_id: _Optional[str] = ...) -> None: ...

class CheckRepositoryRequest(_message.Message):
    __slots__ = ("repository_id", "level", "percent", "credentials", "request_id")
    REPOSITORY_ID_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    repository_id: str
    level: _backup_pb2.VerifyLevel
    percent: int
    credentials: _credentials_pb2.Credentials
    request_id: str
    def __init__(self, repository_id: _Optional[str] = ..., level: _Optional[_Union[_backup_pb2.VerifyLevel, str]] = ..., percent: _Optional[int] = ..., credentials: _Optional[_Union[_credentials_pb2.Credentials, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class RepairRepositoryRequest(_message.Message):
    __slots__ = ("repository_id", "dry_run", "credentials", "request_id", "lost_backup_ids")
    REPOSITORY_ID_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    LOST_BACKUP_IDS_FIELD_NUMBER: _ClassVar[int]
    repository_id: str
    dry_run: bool
    credentials: _credentials_pb2.Credentials
    request_id: str
    lost_backup_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, repository_id: _Optional[str] = ..., dry_run: bool = ..., credentials: _Optional[_Union[_credentials_pb2.Credentials, _Mapping]] = ..., request_id: _Optional[str] = ..., lost_backup_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class AddKeyRequest(_message.Message):
    __slots__ = ("repository_id", "key", "credentials", "request_id")
    REPOSITORY_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    repository_id: str
    key: _repository_pb2.NewKey
    credentials: _credentials_pb2.Credentials
    request_id: str
    def __init__(self, repository_id: _Optional[str] = ..., key: _Optional[_Union[_repository_pb2.NewKey, _Mapping]] = ..., credentials: _Optional[_Union[_credentials_pb2.Credentials, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class AddKeyResponse(_message.Message):
    __slots__ = ("key", "recovery_key")
    KEY_FIELD_NUMBER: _ClassVar[int]
    RECOVERY_KEY_FIELD_NUMBER: _ClassVar[int]
    key: _repository_pb2.RepositoryKey
    recovery_key: str
    def __init__(self, key: _Optional[_Union[_repository_pb2.RepositoryKey, _Mapping]] = ..., recovery_key: _Optional[str] = ...) -> None: ...

class RemoveKeyRequest(_message.Message):
    __slots__ = ("repository_id", "key_id")
    REPOSITORY_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    repository_id: str
    key_id: str
    def __init__(self, repository_id: _Optional[str] = ..., key_id: _Optional[str] = ...) -> None: ...

class RotateKeyRequest(_message.Message):
    __slots__ = ("repository_id", "credentials", "request_id")
    REPOSITORY_ID_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    repository_id: str
    credentials: _credentials_pb2.Credentials
    request_id: str
    def __init__(self, repository_id: _Optional[str] = ..., credentials: _Optional[_Union[_credentials_pb2.Credentials, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...
