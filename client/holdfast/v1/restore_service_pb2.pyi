from holdfast.v1 import credentials_pb2 as _credentials_pb2
from holdfast.v1 import restore_pb2 as _restore_pb2
from holdfast.v1 import task_pb2 as _task_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RestoreBackupRequest(_message.Message):
    __slots__ = ("backup_id", "in_place", "new_folder", "new_wallet", "paths", "overwrite", "delete_extra", "exchange_root", "dry_run", "credentials", "request_id", "decrypt_coins")
    BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    IN_PLACE_FIELD_NUMBER: _ClassVar[int]
    NEW_FOLDER_FIELD_NUMBER: _ClassVar[int]
    NEW_WALLET_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    OVERWRITE_FIELD_NUMBER: _ClassVar[int]
    DELETE_EXTRA_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_ROOT_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DECRYPT_COINS_FIELD_NUMBER: _ClassVar[int]
    backup_id: str
    in_place: _restore_pb2.InPlaceTarget
    new_folder: _restore_pb2.NewFolderTarget
    new_wallet: _restore_pb2.NewWalletTarget
    paths: _containers.RepeatedScalarFieldContainer[str]
    overwrite: _restore_pb2.Overwrite
    delete_extra: bool
    exchange_root: bool
    dry_run: bool
    credentials: _credentials_pb2.Credentials
    request_id: str
    decrypt_coins: bool
    def __init__(self, backup_id: _Optional[str] = ..., in_place: _Optional[_Union[_restore_pb2.InPlaceTarget, _Mapping]] = ..., new_folder: _Optional[_Union[_restore_pb2.NewFolderTarget, _Mapping]] = ..., new_wallet: _Optional[_Union[_restore_pb2.NewWalletTarget, _Mapping]] = ..., paths: _Optional[_Iterable[str]] = ..., overwrite: _Optional[_Union[_restore_pb2.Overwrite, str]] = ..., delete_extra: bool = ..., exchange_root: bool = ..., dry_run: bool = ..., credentials: _Optional[_Union[_credentials_pb2.Credentials, _Mapping]] = ..., request_id: _Optional[str] = ..., decrypt_coins: bool = ...) -> None: ...

class RunRestoreRequest(_message.Message):
    __slots__ = ("backup_id", "in_place", "new_folder", "new_wallet", "paths", "overwrite", "delete_extra", "exchange_root", "dry_run", "credentials", "request_id", "decrypt_coins")
    BACKUP_ID_FIELD_NUMBER: _ClassVar[int]
    IN_PLACE_FIELD_NUMBER: _ClassVar[int]
    NEW_FOLDER_FIELD_NUMBER: _ClassVar[int]
    NEW_WALLET_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    OVERWRITE_FIELD_NUMBER: _ClassVar[int]
    DELETE_EXTRA_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_ROOT_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DECRYPT_COINS_FIELD_NUMBER: _ClassVar[int]
    backup_id: str
    in_place: _restore_pb2.InPlaceTarget
    new_folder: _restore_pb2.NewFolderTarget
    new_wallet: _restore_pb2.NewWalletTarget
    paths: _containers.RepeatedScalarFieldContainer[str]
    overwrite: _restore_pb2.Overwrite
    delete_extra: bool
    exchange_root: bool
    dry_run: bool
    credentials: _credentials_pb2.Credentials
    request_id: str
    decrypt_coins: bool
    def __init__(self, backup_id: _Optional[str] = ..., in_place: _Optional[_Union[_restore_pb2.InPlaceTarget, _Mapping]] = ..., new_folder: _Optional[_Union[_restore_pb2.NewFolderTarget, _Mapping]] = ..., new_wallet: _Optional[_Union[_restore_pb2.NewWalletTarget, _Mapping]] = ..., paths: _Optional[_Iterable[str]] = ..., overwrite: _Optional[_Union[_restore_pb2.Overwrite, str]] = ..., delete_extra: bool = ..., exchange_root: bool = ..., dry_run: bool = ..., credentials: _Optional[_Union[_credentials_pb2.Credentials, _Mapping]] = ..., request_id: _Optional[str] = ..., decrypt_coins: bool = ...) -> None: ...

class RestoreArchiveRequest(_message.Message):
    __slots__ = ("archive_path", "new_folder", "new_wallet", "paths", "limits", "dry_run", "credentials", "request_id", "decrypt_coins")
    ARCHIVE_PATH_FIELD_NUMBER: _ClassVar[int]
    NEW_FOLDER_FIELD_NUMBER: _ClassVar[int]
    NEW_WALLET_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DECRYPT_COINS_FIELD_NUMBER: _ClassVar[int]
    archive_path: str
    new_folder: _restore_pb2.NewFolderTarget
    new_wallet: _restore_pb2.NewWalletTarget
    paths: _containers.RepeatedScalarFieldContainer[str]
    limits: _restore_pb2.ArchiveLimits
    dry_run: bool
    credentials: _credentials_pb2.Credentials
    request_id: str
    decrypt_coins: bool
    def __init__(self, archive_path: _Optional[str] = ..., new_folder: _Optional[_Union[_restore_pb2.NewFolderTarget, _Mapping]] = ..., new_wallet: _Optional[_Union[_restore_pb2.NewWalletTarget, _Mapping]] = ..., paths: _Optional[_Iterable[str]] = ..., limits: _Optional[_Union[_restore_pb2.ArchiveLimits, _Mapping]] = ..., dry_run: bool = ..., credentials: _Optional[_Union[_credentials_pb2.Credentials, _Mapping]] = ..., request_id: _Optional[str] = ..., decrypt_coins: bool = ...) -> None: ...

class ListRollbacksRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "source_id")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    source_id: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., source_id: _Optional[str] = ...) -> None: ...

class ListRollbacksResponse(_message.Message):
    __slots__ = ("rollbacks", "next_page_token")
    ROLLBACKS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    rollbacks: _containers.RepeatedCompositeFieldContainer[_restore_pb2.Rollback]
    next_page_token: str
    def __init__(self, rollbacks: _Optional[_Iterable[_Union[_restore_pb2.Rollback, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RollbackRestoreRequest(_message.Message):
    __slots__ = ("rollback_id", "dry_run", "request_id")
    ROLLBACK_ID_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    rollback_id: str
    dry_run: bool
    request_id: str
    def __init__(self, rollback_id: _Optional[str] = ..., dry_run: bool = ..., request_id: _Optional[str] = ...) -> None: ...

class DeleteRollbackRequest(_message.Message):
    __slots__ = ("rollback_id",)
    ROLLBACK_ID_FIELD_NUMBER: _ClassVar[int]
    rollback_id: str
    def __init__(self, rollback_id: _Optional[str] = ...) -> None: ...

class DeleteRollbackResponse(_message.Message):
    __slots__ = ("entries_removed", "bytes_freed")
    ENTRIES_REMOVED_FIELD_NUMBER: _ClassVar[int]
    BYTES_FREED_FIELD_NUMBER: _ClassVar[int]
    entries_removed: int
    bytes_freed: int
    def __init__(self, entries_removed: _Optional[int] = ..., bytes_freed: _Optional[int] = ...) -> None: ...
