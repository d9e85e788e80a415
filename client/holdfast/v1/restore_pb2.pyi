import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from holdfast.v1 import wallet_pb2 as _wallet_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Overwrite(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OVERWRITE_UNSPECIFIED: _ClassVar[Overwrite]
    OVERWRITE_IF_CHANGED: _ClassVar[Overwrite]
    OVERWRITE_ALWAYS: _ClassVar[Overwrite]
    OVERWRITE_IF_NEWER: _ClassVar[Overwrite]
    OVERWRITE_NEVER: _ClassVar[Overwrite]

class RestoreAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESTORE_ACTION_UNSPECIFIED: _ClassVar[RestoreAction]
    RESTORE_ACTION_CREATE: _ClassVar[RestoreAction]
    RESTORE_ACTION_REPLACE: _ClassVar[RestoreAction]
    RESTORE_ACTION_DELETE: _ClassVar[RestoreAction]
    RESTORE_ACTION_KEEP: _ClassVar[RestoreAction]
OVERWRITE_UNSPECIFIED: Overwrite
OVERWRITE_IF_CHANGED: Overwrite
OVERWRITE_ALWAYS: Overwrite
OVERWRITE_IF_NEWER: Overwrite
OVERWRITE_NEVER: Overwrite
RESTORE_ACTION_UNSPECIFIED: RestoreAction
RESTORE_ACTION_CREATE: RestoreAction
RESTORE_ACTION_REPLACE: RestoreAction
RESTORE_ACTION_DELETE: RestoreAction
RESTORE_ACTION_KEEP: RestoreAction

class InPlaceTarget(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NewFolderTarget(_message.Message):
    __slots__ = ("folder", "create_parents")
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    CREATE_PARENTS_FIELD_NUMBER: _ClassVar[int]
    folder: str
    create_parents: bool
    def __init__(self, folder: _Optional[str] = ..., create_parents: bool = ...) -> None: ...

class NewWalletTarget(_message.Message):
    __slots__ = ("folder", "display_name", "source_id", "create_parents")
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    CREATE_PARENTS_FIELD_NUMBER: _ClassVar[int]
    folder: str
    display_name: str
    source_id: str
    create_parents: bool
    def __init__(self, folder: _Optional[str] = ..., display_name: _Optional[str] = ..., source_id: _Optional[str] = ..., create_parents: bool = ...) -> None: ...

class RestorePlan(_message.Message):
    __slots__ = ("create", "replace", "delete", "keep", "bytes_needed")
    CREATE_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    BYTES_NEEDED_FIELD_NUMBER: _ClassVar[int]
    create: int
    replace: int
    delete: int
    keep: int
    bytes_needed: int
    def __init__(self, create: _Optional[int] = ..., replace: _Optional[int] = ..., delete: _Optional[int] = ..., keep: _Optional[int] = ..., bytes_needed: _Optional[int] = ...) -> None: ...

class PlannedEntry(_message.Message):
    __slots__ = ("path", "action")
    PATH_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    path: str
    action: RestoreAction
    def __init__(self, path: _Optional[str] = ..., action: _Optional[_Union[RestoreAction, str]] = ...) -> None: ...

class Rollback(_message.Message):
    __slots__ = ("rollback_id", "source_id", "backup_id", "task_id", "create_time", "expire_time", "entries", "size", "unique_coins", "storage_path")
    ROLLBACK_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    UNIQUE_COINS_FIELD_NUMBER: _ClassVar[int]
    STORAGE_PATH_FIELD_NUMBER: _ClassVar[int]
    rollback_id: str
    source_id: str
    backup_id: str
    task_id: str
    create_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    entries: int
    size: int
    unique_coins: _wallet_pb2.CoinTotal
    storage_path: str
    def __init__(self, rollback_id: _Optional[str] = ..., source_id: _Optional[str] = ..., backup_id: _Optional[str] = ..., task_id: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., entries: _Optional[int] = ..., size: _Optional[int] = ..., unique_coins: _Optional[_Union[_wallet_pb2.CoinTotal, _Mapping]] = ..., storage_path: _Optional[str] = ...) -> None: ...

class ArchiveLimits(_message.Message):
    __slots__ = ("max_bytes", "max_entries", "max_ratio", "max_depth")
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    MAX_RATIO_FIELD_NUMBER: _ClassVar[int]
    MAX_DEPTH_FIELD_NUMBER: _ClassVar[int]
    max_bytes: int
    max_entries: int
    max_ratio: int
    max_depth: int
    def __init__(self, max_bytes: _Optional[int] = ..., max_entries: _Optional[int] = ..., max_ratio: _Optional[int] = ..., max_depth: _Optional[int] = ...) -> None: ...
