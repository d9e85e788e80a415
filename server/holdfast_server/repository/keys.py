"""What a node keeps of a repository's keys in its data directory: the file `keys`, mode 0600."""

from __future__ import annotations

import os
import stat
from typing import Any, NoReturn

from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from holdfast_server.repository.content_keys import KEY, ContentKeys
from holdfast_server.repository.crypto import UUID
from holdfast_server.repository.format import PRIVATE_KEY
from holdfast_server.repository.json_object import JsonObject, Malformed, damage_of, to_json
from holdfast_server.storage.local import write_file

__all__ = ["RepositoryKeys", "WriterKey", "is_signed", "writer_id_of"]

FILE = b"keys"
SIGNATURE = 64
_VERSION = 1
_MAX_FILE = 1 << 20
_WRITER_ID = 16


def writer_id_of(public: bytes) -> bytes:
    """The id of the writer with that Ed25519 public key, 16 bytes."""
    return blake3(public).digest(_WRITER_ID)


def is_signed(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the holder of an Ed25519 key signed the message."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


class WriterKey:
    """The Ed25519 key that signs a node's log. `public` (32 bytes) and `writer_id` (16) may be shown, the rest not."""

    __slots__ = ("_key", "public", "writer_id")

    def __init__(self, private: bytes) -> None:
        """Raises ValueError unless `private` has 32 bytes."""
        self._key = Ed25519PrivateKey.from_private_bytes(private)
        self.public = self._key.public_key().public_bytes_raw()
        self.writer_id = writer_id_of(self.public)

    @classmethod
    def generate(cls) -> WriterKey:
        return cls(Ed25519PrivateKey.generate().private_bytes_raw())

    def private(self) -> bytes:
        """The private key itself: for the data directory only."""
        return self._key.private_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        return self._key.sign(message)

    def __repr__(self) -> str:
        return f"WriterKey({self.writer_id.hex()}, …)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys of a repository are never pickled")


class RepositoryKeys:
    """One node's keys of one repository. Shows nothing of itself.

    `uuid` is the repository they belong to; `content` is None for a sealed repository that was not opened.
    """

    __slots__ = ("content", "index_key", "uuid", "writer")

    def __init__(self, index_key: bytes, content: ContentKeys | None, uuid: bytes, writer: WriterKey) -> None:
        self.index_key = index_key
        self.content = content
        self.uuid = uuid
        self.writer = writer

    def without_content(self) -> RepositoryKeys:
        """The keys that a node of a sealed repository keeps."""
        return RepositoryKeys(self.index_key, None, self.uuid, self.writer)

    def including(self, epoch: int, private: bytes) -> RepositoryKeys:
        """The keys with a later content key. ValueError for those of a sealed repository."""
        if self.content is None:
            raise ValueError("a sealed repository's content keys are kept in its slots alone")
        return RepositoryKeys(self.index_key, self.content.including({epoch: private}), self.uuid, self.writer)

    def save(self, folder_fd: int) -> None:
        """Write the file `keys` of an opened folder, durably; content keys only if they are here. Raises OSError."""
        values: dict[str, Any] = {
            "version": _VERSION,
            "uuid": self.uuid.hex(),
            "index_key": self.index_key.hex(),
            "writer_key": self.writer.private().hex(),
        }
        if self.content is not None:
            values["content_keys"] = [
                {"epoch": epoch, "private": self.content.private(epoch).hex()} for epoch in self.content.epochs
            ]
        values["check"] = _check_of(values)
        write_file(folder_fd, FILE, to_json(values), 0o600)

    @classmethod
    def load(cls, folder_fd: int) -> RepositoryKeys:
        """What `save` wrote. Raises OSError, and DataLoss/CHECKSUM_MISMATCH for what it cannot have written."""
        with damage_of("keys in the data directory"):
            return cls._decode(_read(folder_fd))

    @classmethod
    def _decode(cls, content: bytes) -> RepositoryKeys:
        values = JsonObject.parse(content)
        # A key with one digit changed would be taken for damage of the whole repository.
        values.expect("check", _check_of({key: value for key, value in values.values().items() if key != "check"}))
        values.expect("version", _VERSION)
        keys = None
        if values.has("content_keys"):
            private = {
                key.integer("epoch", 1, 0xFFFF_FFFF): key.hexadecimal("private", PRIVATE_KEY)
                for key in values.children("content_keys")
            }
            if not private:
                raise Malformed("content_keys is empty")
            keys = ContentKeys(private)
        return cls(
            values.hexadecimal("index_key", KEY),
            keys,
            values.hexadecimal("uuid", UUID),
            WriterKey(values.hexadecimal("writer_key", KEY)),
        )

    def __repr__(self) -> str:
        return "RepositoryKeys(…)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys of a repository are never pickled")


def _check_of(values: dict[str, Any]) -> str:
    return blake3(to_json(values)).hexdigest()


def _read(folder_fd: int) -> bytes:
    # Not to hang on a FIFO that somebody put there.
    fd = os.open(FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder_fd)
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_FILE:
            raise Malformed("it is no file of keys")
        return file.read(_MAX_FILE)
