from holdfast.v1 import source_pb2 as _source_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RegisterSourceRequest(_message.Message):
    __slots__ = ("source_id", "kind", "path", "display_name", "ignore", "discover_wallets", "request_id")
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    IGNORE_FIELD_NUMBER: _ClassVar[int]
    DISCOVER_WALLETS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    source_id: str
    kind: _source_pb2.SourceKind
    path: str
    display_name: str
    ignore: _containers.RepeatedScalarFieldContainer[str]
    discover_wallets: bool
    request_id: str
    def __init__(self, source_id: _Optional[str] = ..., kind: _Optional[_Union[_source_pb2.SourceKind, str]] = ..., path: _Optional[str] = ..., display_name: _Optional[str] = ..., ignore: _Optional[_Iterable[str]] = ..., discover_wallets: bool = ..., request_id: _Optional[str] = ...) -> None: ...

class RegisterSourceResponse(_message.Message):
    __slots__ = ("sources", "skipped")
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    sources: _containers.RepeatedCompositeFieldContainer[_source_pb2.Source]
    skipped: _containers.RepeatedCompositeFieldContainer[_source_pb2.SkippedFolder]
    def __init__(self, sources: _Optional[_Iterable[_Union[_source_pb2.Source, _Mapping]]] = ..., skipped: _Optional[_Iterable[_Union[_source_pb2.SkippedFolder, _Mapping]]] = ...) -> None: ...

class GetSourceRequest(_message.Message):
    __slots__ = ("source_id",)
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    source_id: str
    def __init__(self, source_id: _Optional[str] = ...) -> None: ...

class ListSourcesRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "kinds", "states")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    kinds: _containers.RepeatedScalarFieldContainer[_source_pb2.SourceKind]
    states: _containers.RepeatedScalarFieldContainer[_source_pb2.SourceState]
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., kinds: _Optional[_Iterable[_Union[_source_pb2.SourceKind, str]]] = ..., states: _Optional[_Iterable[_Union[_source_pb2.SourceState, str]]] = ...) -> None: ...

class ListSourcesResponse(_message.Message):
    __slots__ = ("sources", "next_page_token")
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    sources: _containers.RepeatedCompositeFieldContainer[_source_pb2.Source]
    next_page_token: str
    def __init__(self, sources: _Optional[_Iterable[_Union[_source_pb2.Source, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateSourceRequest(_message.Message):
    __slots__ = ("source_id", "path", "display_name", "ignore", "suspended")
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    IGNORE_FIELD_NUMBER: _ClassVar[int]
    SUSPENDED_FIELD_NUMBER: _ClassVar[int]
    source_id: str
    path: str
    display_name: str
    ignore: _source_pb2.IgnorePatterns
    suspended: bool
    def __init__(self, source_id: _Optional[str] = ..., path: _Optional[str] = ..., display_name: _Optional[str] = ..., ignore: _Optional[_Union[_source_pb2.IgnorePatterns, _Mapping]] = ..., suspended: bool = ...) -> None: ...

class UnregisterSourceRequest(_message.Message):
    __slots__ = ("source_id",)
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    source_id: str
    def __init__(self, source_id: _Optional[str] = ...) -> None: ...

class UnregisterSourceResponse(_message.Message):
    __slots__ = ("backups_kept", "rollbacks_kept", "reserved_coins_kept")
    BACKUPS_KEPT_FIELD_NUMBER: _ClassVar[int]
    ROLLBACKS_KEPT_FIELD_NUMBER: _ClassVar[int]
    RESERVED_COINS_KEPT_FIELD_NUMBER: _ClassVar[int]
    backups_kept: int
    rollbacks_kept: int
    reserved_coins_kept: int
    def __init__(self, backups_kept: _Optional[int] = ..., rollbacks_kept: _Optional[int] = ..., reserved_coins_kept: _Optional[int] = ...) -> None: ...
