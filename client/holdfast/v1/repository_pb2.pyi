import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RepositoryState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REPOSITORY_STATE_UNSPECIFIED: _ClassVar[RepositoryState]
    REPOSITORY_STATE_READY: _ClassVar[RepositoryState]
    REPOSITORY_STATE_OFFLINE: _ClassVar[RepositoryState]
    REPOSITORY_STATE_DAMAGED: _ClassVar[RepositoryState]
    REPOSITORY_STATE_REFUSED: _ClassVar[RepositoryState]

class RepositoryKeyKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REPOSITORY_KEY_KIND_UNSPECIFIED: _ClassVar[RepositoryKeyKind]
    REPOSITORY_KEY_KIND_PASSPHRASE: _ClassVar[RepositoryKeyKind]
    REPOSITORY_KEY_KIND_KEY_FILE: _ClassVar[RepositoryKeyKind]
    REPOSITORY_KEY_KIND_RECOVERY: _ClassVar[RepositoryKeyKind]
REPOSITORY_STATE_UNSPECIFIED: RepositoryState
REPOSITORY_STATE_READY: RepositoryState
REPOSITORY_STATE_OFFLINE: RepositoryState
REPOSITORY_STATE_DAMAGED: RepositoryState
REPOSITORY_STATE_REFUSED: RepositoryState
REPOSITORY_KEY_KIND_UNSPECIFIED: RepositoryKeyKind
REPOSITORY_KEY_KIND_PASSPHRASE: RepositoryKeyKind
REPOSITORY_KEY_KIND_KEY_FILE: RepositoryKeyKind
REPOSITORY_KEY_KIND_RECOVERY: RepositoryKeyKind

class Repository(_message.Message):
    __slots__ = ("repository_id", "display_name", "location", "state", "sealed", "format_version", "compression_level", "keys", "key_epoch", "create_time", "update_time", "unlock_expire_time", "statistics", "receipt", "last_check_time", "problem")
    REPOSITORY_ID_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    FORMAT_VERSION_FIELD_NUMBER: _ClassVar[int]
    COMPRESSION_LEVEL_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    KEY_EPOCH_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UNLOCK_EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    LAST_CHECK_TIME_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    repository_id: str
    display_name: str
    location: str
    state: RepositoryState
    sealed: bool
    format_version: int
    compression_level: int
    keys: _containers.RepeatedCompositeFieldContainer[RepositoryKey]
    key_epoch: int
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    unlock_expire_time: _timestamp_pb2.Timestamp
    statistics: RepositoryStatistics
    receipt: RepositoryReceipt
    last_check_time: _timestamp_pb2.Timestamp
    problem: RepositoryProblem
    def __init__(self, repository_id: _Optional[str] = ..., display_name: _Optional[str] = ..., location: _Optional[str] = ..., state: _Optional[_Union[RepositoryState, str]] = ..., sealed: bool = ..., format_version: _Optional[int] = ..., compression_level: _Optional[int] = ..., keys: _Optional[_Iterable[_Union[RepositoryKey, _Mapping]]] = ..., key_epoch: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., unlock_expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., statistics: _Optional[_Union[RepositoryStatistics, _Mapping]] = ..., receipt: _Optional[_Union[RepositoryReceipt, _Mapping]] = ..., last_check_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., problem: _Optional[_Union[RepositoryProblem, _Mapping]] = ...) -> None: ...

class RepositoryProblem(_message.Message):
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

class RepositoryKey(_message.Message):
    __slots__ = ("key_id", "kind", "display_name", "create_time")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    key_id: str
    kind: RepositoryKeyKind
    display_name: str
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, key_id: _Optional[str] = ..., kind: _Optional[_Union[RepositoryKeyKind, str]] = ..., display_name: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class NewKey(_message.Message):
    __slots__ = ("passphrase", "private_key", "recovery", "display_name")
    class Recovery(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    PASSPHRASE_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_KEY_FIELD_NUMBER: _ClassVar[int]
    RECOVERY_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    passphrase: str
    private_key: str
    recovery: NewKey.Recovery
    display_name: str
    def __init__(self, passphrase: _Optional[str] = ..., private_key: _Optional[str] = ..., recovery: _Optional[_Union[NewKey.Recovery, _Mapping]] = ..., display_name: _Optional[str] = ...) -> None: ...

class RepositoryStatistics(_message.Message):
    __slots__ = ("snapshots", "objects", "packs", "chunks", "original_size", "deduplicated_size", "stored_size", "unused_size", "count_time")
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    PACKS_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    DEDUPLICATED_SIZE_FIELD_NUMBER: _ClassVar[int]
    STORED_SIZE_FIELD_NUMBER: _ClassVar[int]
    UNUSED_SIZE_FIELD_NUMBER: _ClassVar[int]
    COUNT_TIME_FIELD_NUMBER: _ClassVar[int]
    snapshots: int
    objects: int
    packs: int
    chunks: int
    original_size: int
    deduplicated_size: int
    stored_size: int
    unused_size: int
    count_time: _timestamp_pb2.Timestamp
    def __init__(self, snapshots: _Optional[int] = ..., objects: _Optional[int] = ..., packs: _Optional[int] = ..., chunks: _Optional[int] = ..., original_size: _Optional[int] = ..., deduplicated_size: _Optional[int] = ..., stored_size: _Optional[int] = ..., unused_size: _Optional[int] = ..., count_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RepositoryReceipt(_message.Message):
    __slots__ = ("time", "positions", "signature", "public_key")
    TIME_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    positions: _containers.RepeatedCompositeFieldContainer[LogPosition]
    signature: bytes
    public_key: bytes
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., positions: _Optional[_Iterable[_Union[LogPosition, _Mapping]]] = ..., signature: _Optional[bytes] = ..., public_key: _Optional[bytes] = ...) -> None: ...

class LogPosition(_message.Message):
    __slots__ = ("writer_id", "sequence", "hash")
    WRITER_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    writer_id: str
    sequence: int
    hash: bytes
    def __init__(self, writer_id: _Optional[str] = ..., sequence: _Optional[int] = ..., hash: _Optional[bytes] = ...) -> None: ...

class RetentionPolicy(_message.Message):
    __slots__ = ("keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly", "keep_within")
    KEEP_LAST_FIELD_NUMBER: _ClassVar[int]
    KEEP_HOURLY_FIELD_NUMBER: _ClassVar[int]
    KEEP_DAILY_FIELD_NUMBER: _ClassVar[int]
    KEEP_WEEKLY_FIELD_NUMBER: _ClassVar[int]
    KEEP_MONTHLY_FIELD_NUMBER: _ClassVar[int]
    KEEP_YEARLY_FIELD_NUMBER: _ClassVar[int]
    KEEP_WITHIN_FIELD_NUMBER: _ClassVar[int]
    keep_last: int
    keep_hourly: int
    keep_daily: int
    keep_weekly: int
    keep_monthly: int
    keep_yearly: int
    keep_within: _duration_pb2.Duration
    def __init__(self, keep_last: _Optional[int] = ..., keep_hourly: _Optional[int] = ..., keep_daily: _Optional[int] = ..., keep_weekly: _Optional[int] = ..., keep_monthly: _Optional[int] = ..., keep_yearly: _Optional[int] = ..., keep_within: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...
