from holdfast.v1 import backup_pb2 as _backup_pb2
from holdfast.v1 import credentials_pb2 as _credentials_pb2
from holdfast.v1 import export_pb2 as _export_pb2
from holdfast.v1 import task_pb2 as _task_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExportCoinsRequest(_message.Message):
    __slots__ = ("source_id", "amount", "folder", "create_folder", "format", "tag", "png_template", "age_recipients", "dry_run", "credentials", "request_id")
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    CREATE_FOLDER_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    PNG_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    AGE_RECIPIENTS_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    source_id: str
    amount: str
    folder: str
    create_folder: bool
    format: _export_pb2.CoinFileFormat
    tag: str
    png_template: str
    age_recipients: _containers.RepeatedScalarFieldContainer[str]
    dry_run: bool
    credentials: _credentials_pb2.Credentials
    request_id: str
    def __init__(self, source_id: _Optional[str] = ..., amount: _Optional[str] = ..., folder: _Optional[str] = ..., create_folder: bool = ..., format: _Optional[_Union[_export_pb2.CoinFileFormat, str]] = ..., tag: _Optional[str] = ..., png_template: _Optional[str] = ..., age_recipients: _Optional[_Iterable[str]] = ..., dry_run: bool = ..., credentials: _Optional[_Union[_credentials_pb2.Credentials, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class RunExportCoinsRequest(_message.Message):
    __slots__ = ("source_id", "amount", "folder", "create_folder", "format", "tag", "png_template", "age_recipients", "dry_run", "credentials", "request_id")
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    CREATE_FOLDER_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    PNG_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    AGE_RECIPIENTS_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    source_id: str
    amount: str
    folder: str
    create_folder: bool
    format: _export_pb2.CoinFileFormat
    tag: str
    png_template: str
    age_recipients: _containers.RepeatedScalarFieldContainer[str]
    dry_run: bool
    credentials: _credentials_pb2.Credentials
    request_id: str
    def __init__(self, source_id: _Optional[str] = ..., amount: _Optional[str] = ..., folder: _Optional[str] = ..., create_folder: bool = ..., format: _Optional[_Union[_export_pb2.CoinFileFormat, str]] = ..., tag: _Optional[str] = ..., png_template: _Optional[str] = ..., age_recipients: _Optional[_Iterable[str]] = ..., dry_run: bool = ..., credentials: _Optional[_Union[_credentials_pb2.Credentials, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class ExportBackupRequest(_message.Message):
    __slots__ = ("backup_id", "folder", "create_folder", "format", "tag", "paths", "age_recipients", "dry_run", "credentials", "request_id")
    BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    CREATE_FOLDER_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    AGE_RECIPIENTS_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    backup_id: str
    folder: str
    create_folder: bool
    format: _backup_pb2.ArchiveFormat
    tag: str
    paths: _containers.RepeatedScalarFieldContainer[str]
    age_recipients: _containers.RepeatedScalarFieldContainer[str]
    dry_run: bool
    credentials: _credentials_pb2.Credentials
    request_id: str
    def __init__(self, backup_id: _Optional[str] = ..., folder: _Optional[str] = ..., create_folder: bool = ..., format: _Optional[_Union[_backup_pb2.ArchiveFormat, str]] = ..., tag: _Optional[str] = ..., paths: _Optional[_Iterable[str]] = ..., age_recipients: _Optional[_Iterable[str]] = ..., dry_run: bool = ..., credentials: _Optional[_Union[_credentials_pb2.Credentials, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class RunExportBackupRequest(_message.Message):
    __slots__ = ("backup_id", "folder", "create_folder", "format", "tag", "paths", "age_recipients", "dry_run", "credentials", "request_id")
    BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    CREATE_FOLDER_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    AGE_RECIPIENTS_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    backup_id: str
    folder: str
    create_folder: bool
    format: _backup_pb2.ArchiveFormat
    tag: str
    paths: _containers.RepeatedScalarFieldContainer[str]
    age_recipients: _containers.RepeatedScalarFieldContainer[str]
    dry_run: bool
    credentials: _credentials_pb2.Credentials
    request_id: str
    def __init__(self, backup_id: _Optional[str] = ..., folder: _Optional[str] = ..., create_folder: bool = ..., format: _Optional[_Union[_backup_pb2.ArchiveFormat, str]] = ..., tag: _Optional[str] = ..., paths: _Optional[_Iterable[str]] = ..., age_recipients: _Optional[_Iterable[str]] = ..., dry_run: bool = ..., credentials: _Optional[_Union[_credentials_pb2.Credentials, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...
