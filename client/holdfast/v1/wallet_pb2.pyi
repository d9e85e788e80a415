from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CoinGeneration(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COIN_GENERATION_UNSPECIFIED: _ClassVar[CoinGeneration]
    COIN_GENERATION_V1: _ClassVar[CoinGeneration]
    COIN_GENERATION_V2: _ClassVar[CoinGeneration]
    COIN_GENERATION_V3: _ClassVar[CoinGeneration]
COIN_GENERATION_UNSPECIFIED: CoinGeneration
COIN_GENERATION_V1: CoinGeneration
COIN_GENERATION_V2: CoinGeneration
COIN_GENERATION_V3: CoinGeneration

class CoinTotal(_message.Message):
    __slots__ = ("coins", "amount")
    COINS_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    coins: int
    amount: str
    def __init__(self, coins: _Optional[int] = ..., amount: _Optional[str] = ...) -> None: ...

class DenominationTotal(_message.Message):
    __slots__ = ("denomination", "coins", "amount")
    DENOMINATION_FIELD_NUMBER: _ClassVar[int]
    COINS_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    denomination: str
    coins: int
    amount: str
    def __init__(self, denomination: _Optional[str] = ..., coins: _Optional[int] = ..., amount: _Optional[str] = ...) -> None: ...

class FolderTotal(_message.Message):
    __slots__ = ("folder", "total", "denominations", "opaque_files", "encrypted_files", "multi_coin_files")
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    DENOMINATIONS_FIELD_NUMBER: _ClassVar[int]
    OPAQUE_FILES_FIELD_NUMBER: _ClassVar[int]
    ENCRYPTED_FILES_FIELD_NUMBER: _ClassVar[int]
    MULTI_COIN_FILES_FIELD_NUMBER: _ClassVar[int]
    folder: str
    total: CoinTotal
    denominations: _containers.RepeatedCompositeFieldContainer[DenominationTotal]
    opaque_files: int
    encrypted_files: int
    multi_coin_files: int
    def __init__(self, folder: _Optional[str] = ..., total: _Optional[_Union[CoinTotal, _Mapping]] = ..., denominations: _Optional[_Iterable[_Union[DenominationTotal, _Mapping]]] = ..., opaque_files: _Optional[int] = ..., encrypted_files: _Optional[int] = ..., multi_coin_files: _Optional[int] = ...) -> None: ...

class Balance(_message.Message):
    __slots__ = ("source_id", "spendable", "limbo", "reserved", "folders", "unlocked")
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    SPENDABLE_FIELD_NUMBER: _ClassVar[int]
    LIMBO_FIELD_NUMBER: _ClassVar[int]
    RESERVED_FIELD_NUMBER: _ClassVar[int]
    FOLDERS_FIELD_NUMBER: _ClassVar[int]
    UNLOCKED_FIELD_NUMBER: _ClassVar[int]
    source_id: str
    spendable: CoinTotal
    limbo: CoinTotal
    reserved: CoinTotal
    folders: _containers.RepeatedCompositeFieldContainer[FolderTotal]
    unlocked: bool
    def __init__(self, source_id: _Optional[str] = ..., spendable: _Optional[_Union[CoinTotal, _Mapping]] = ..., limbo: _Optional[_Union[CoinTotal, _Mapping]] = ..., reserved: _Optional[_Union[CoinTotal, _Mapping]] = ..., folders: _Optional[_Iterable[_Union[FolderTotal, _Mapping]]] = ..., unlocked: bool = ...) -> None: ...

class Coin(_message.Message):
    __slots__ = ("generation", "denomination", "serial_number", "folder", "file_name", "encrypted", "multi_coin")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    DENOMINATION_FIELD_NUMBER: _ClassVar[int]
    SERIAL_NUMBER_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    FILE_NAME_FIELD_NUMBER: _ClassVar[int]
    ENCRYPTED_FIELD_NUMBER: _ClassVar[int]
    MULTI_COIN_FIELD_NUMBER: _ClassVar[int]
    generation: CoinGeneration
    denomination: str
    serial_number: int
    folder: str
    file_name: str
    encrypted: bool
    multi_coin: bool
    def __init__(self, generation: _Optional[_Union[CoinGeneration, str]] = ..., denomination: _Optional[str] = ..., serial_number: _Optional[int] = ..., folder: _Optional[str] = ..., file_name: _Optional[str] = ..., encrypted: bool = ..., multi_coin: bool = ...) -> None: ...

class CoinSummary(_message.Message):
    __slots__ = ("total", "coins")
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    COINS_FIELD_NUMBER: _ClassVar[int]
    total: CoinTotal
    coins: _containers.RepeatedCompositeFieldContainer[Coin]
    def __init__(self, total: _Optional[_Union[CoinTotal, _Mapping]] = ..., coins: _Optional[_Iterable[_Union[Coin, _Mapping]]] = ...) -> None: ...
