import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from holdfast.v1 import credentials_pb2 as _credentials_pb2
from holdfast.v1 import task_pb2 as _task_pb2
from holdfast.v1 import wallet_pb2 as _wallet_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetBalanceRequest(_message.Message):
    __slots__ = ("source_id",)
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    source_id: str
    def __init__(self, source_id: _Optional[str] = ...) -> None: ...

class ListCoinsRequest(_message.Message):
    __slots__ = ("source_id", "page_size", "page_token", "folders", "denomination")
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FOLDERS_FIELD_NUMBER: _ClassVar[int]
    DENOMINATION_FIELD_NUMBER: _ClassVar[int]
    source_id: str
    page_size: int
    page_token: str
    folders: _containers.RepeatedScalarFieldContainer[str]
    denomination: str
    def __init__(self, source_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., folders: _Optional[_Iterable[str]] = ..., denomination: _Optional[str] = ...) -> None: ...

class ListCoinsResponse(_message.Message):
    __slots__ = ("coins", "next_page_token")
    COINS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    coins: _containers.RepeatedCompositeFieldContainer[_wallet_pb2.Coin]
    next_page_token: str
    def __init__(self, coins: _Optional[_Iterable[_Union[_wallet_pb2.Coin, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UnlockWalletRequest(_message.Message):
    __slots__ = ("source_id", "password", "ttl")
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    source_id: str
    password: str
    ttl: _duration_pb2.Duration
    def __init__(self, source_id: _Optional[str] = ..., password: _Optional[str] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class UnlockWalletResponse(_message.Message):
    __slots__ = ("expire_time", "key_id", "password_set")
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_SET_FIELD_NUMBER: _ClassVar[int]
    expire_time: _timestamp_pb2.Timestamp
    key_id: str
    password_set: bool
    def __init__(self, expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., key_id: _Optional[str] = ..., password_set: bool = ...) -> None: ...

class LockWalletRequest(_message.Message):
    __slots__ = ("source_id",)
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    source_id: str
    def __init__(self, source_id: _Optional[str] = ...) -> None: ...

class LockWalletResponse(_message.Message):
    __slots__ = ("was_unlocked",)
    WAS_UNLOCKED_FIELD_NUMBER: _ClassVar[int]
    was_unlocked: bool
    def __init__(self, was_unlocked: bool = ...) -> None: ...

class ImportCoinsRequest(_message.Message):
    __slots__ = ("source_id", "paths", "folder", "dry_run", "credentials", "request_id")
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    source_id: str
    paths: _containers.RepeatedScalarFieldContainer[str]
    folder: str
    dry_run: bool
    credentials: _credentials_pb2.Credentials
    request_id: str
    def __init__(self, source_id: _Optional[str] = ..., paths: _Optional[_Iterable[str]] = ..., folder: _Optional[str] = ..., dry_run: bool = ..., credentials: _Optional[_Union[_credentials_pb2.Credentials, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...
