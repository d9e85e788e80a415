from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DownloadPart(_message.Message):
    __slots__ = ("header", "chunk", "digest")
    class Header(_message.Message):
        __slots__ = ("file_name", "size", "content_type")
        FILE_NAME_FIELD_NUMBER: _ClassVar[int]
        SIZE_FIELD_NUMBER: _ClassVar[int]
        CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
        file_name: str
        size: int
        content_type: str
        def __init__(self, file_name: _Optional[str] = ..., size: _Optional[int] = ..., content_type: _Optional[str] = ...) -> None: ...
    class Chunk(_message.Message):
        __slots__ = ("offset", "data")
        OFFSET_FIELD_NUMBER: _ClassVar[int]
        DATA_FIELD_NUMBER: _ClassVar[int]
        offset: int
        data: bytes
        def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...
    class Digest(_message.Message):
        __slots__ = ("sha256",)
        SHA256_FIELD_NUMBER: _ClassVar[int]
        sha256: str
        def __init__(self, sha256: _Optional[str] = ...) -> None: ...
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    header: DownloadPart.Header
    chunk: DownloadPart.Chunk
    digest: DownloadPart.Digest
    def __init__(self, header: _Optional[_Union[DownloadPart.Header, _Mapping]] = ..., chunk: _Optional[_Union[DownloadPart.Chunk, _Mapping]] = ..., digest: _Optional[_Union[DownloadPart.Digest, _Mapping]] = ...) -> None: ...
