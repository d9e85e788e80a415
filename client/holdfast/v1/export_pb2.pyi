from holdfast.v1 import wallet_pb2 as _wallet_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CoinFileFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COIN_FILE_FORMAT_UNSPECIFIED: _ClassVar[CoinFileFormat]
    COIN_FILE_FORMAT_ZIP: _ClassVar[CoinFileFormat]
    COIN_FILE_FORMAT_STACK: _ClassVar[CoinFileFormat]
    COIN_FILE_FORMAT_PNG: _ClassVar[CoinFileFormat]
    COIN_FILE_FORMAT_BIN: _ClassVar[CoinFileFormat]
COIN_FILE_FORMAT_UNSPECIFIED: CoinFileFormat
COIN_FILE_FORMAT_ZIP: CoinFileFormat
COIN_FILE_FORMAT_STACK: CoinFileFormat
COIN_FILE_FORMAT_PNG: CoinFileFormat
COIN_FILE_FORMAT_BIN: CoinFileFormat

class ExportedFile(_message.Message):
    __slots__ = ("path", "size", "sha256", "coins", "amount", "generation")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    COINS_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    path: str
    size: int
    sha256: str
    coins: int
    amount: str
    generation: _wallet_pb2.CoinGeneration
    def __init__(self, path: _Optional[str] = ..., size: _Optional[int] = ..., sha256: _Optional[str] = ..., coins: _Optional[int] = ..., amount: _Optional[str] = ..., generation: _Optional[_Union[_wallet_pb2.CoinGeneration, str]] = ...) -> None: ...
