from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Credentials(_message.Message):
    __slots__ = ("passphrase", "private_key", "age_identity", "wallet_password")
    PASSPHRASE_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_KEY_FIELD_NUMBER: _ClassVar[int]
    AGE_IDENTITY_FIELD_NUMBER: _ClassVar[int]
    WALLET_PASSWORD_FIELD_NUMBER: _ClassVar[int]
    passphrase: str
    private_key: str
    age_identity: str
    wallet_password: str
    def __init__(self, passphrase: _Optional[str] = ..., private_key: _Optional[str] = ..., age_identity: _Optional[str] = ..., wallet_password: _Optional[str] = ...) -> None: ...
