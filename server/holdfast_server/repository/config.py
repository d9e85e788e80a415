"""The object `config`: what a repository is. Written once; whoever saw it knows it again by its fingerprint."""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from holdfast_server.errors import FailedPrecondition, Reason
from holdfast_server.repository.content_keys import KEY, ContentPublicKey
from holdfast_server.repository.crypto import UUID, IndexKeys
from holdfast_server.repository.format import CONFIG_NAME, FORMAT_VERSION, PUBLIC_KEY, damaged
from holdfast_server.repository.json_object import JsonObject, Malformed, damage_of, to_base64, to_json

__all__ = ["MAX_CONFIG", "RepositoryConfig", "fingerprint_of", "stated_uuid", "unsupported"]

MAGIC: Final = b"HOLDFAST"
HEAD = struct.Struct("<8sHHI")
JSON_MAX: Final = 65_536
#: No config has more bytes.
MAX_CONFIG: Final = HEAD.size + JSON_MAX + KEY
MIN_LEVEL: Final = -5
MAX_LEVEL: Final = 19
FIRST_EPOCH: Final = 1


@dataclass(frozen=True, slots=True)
class RepositoryConfig:
    """What a repository is. `uuid` has 16 bytes, `create_us` is microseconds, `public_key` that of the first epoch."""

    uuid: bytes
    create_us: int
    sealed: bool
    compression_level: int
    public_key: ContentPublicKey
    software: str
    format_version: int = FORMAT_VERSION

    def encode(self, keys: IndexKeys) -> bytes:
        """The object. Raises ValueError for a compression level out of range."""
        if not MIN_LEVEL <= self.compression_level <= MAX_LEVEL:
            raise ValueError(f"compression level {self.compression_level} is out of range")
        text = to_json(
            {
                "uuid": self.uuid.hex(),
                "create_time": self.create_us,
                "sealed": self.sealed,
                "compression_level": self.compression_level,
                "content_key": {"epoch": self.public_key.epoch, "public": to_base64(self.public_key.raw)},
                "software": self.software,
            }
        )
        content = HEAD.pack(MAGIC, FORMAT_VERSION, 0, len(text)) + text
        return content + _mac(keys, content)

    @classmethod
    def decode(cls, content: bytes, keys: IndexKeys) -> RepositoryConfig:
        """The config of an object. Nothing of it is used before its MAC was checked.

        Raises DataLoss/CHECKSUM_MISMATCH, and FailedPrecondition/FORMAT_UNSUPPORTED for another version.
        """
        text = _json_of(content)
        if not hmac.compare_digest(_mac(keys, content[:-KEY]), content[-KEY:]):
            raise damaged(CONFIG_NAME, "it is not what was written with this repository's key")
        with damage_of(CONFIG_NAME):
            values = JsonObject.parse(text)
            key = values.child("content_key")
            key.expect("epoch", FIRST_EPOCH)
            config = cls(
                uuid=values.hexadecimal("uuid", UUID),
                create_us=values.integer("create_time", high=(1 << 63) - 1),
                sealed=values.flag("sealed"),
                compression_level=values.integer("compression_level", MIN_LEVEL, MAX_LEVEL),
                public_key=_public_key(key.base64("public", PUBLIC_KEY)),
                software=values.text("software", 1024),
            )
            if config.uuid != keys.uuid:
                raise Malformed("uuid is that of another repository")
        return config


def stated_uuid(content: bytes) -> bytes:
    """The id, 16 bytes, that a config states; nothing has proved it yet. Raises as `RepositoryConfig.decode`."""
    with damage_of(CONFIG_NAME):
        return JsonObject.parse(_json_of(content)).hexadecimal("uuid", UUID)


def fingerprint_of(content: bytes) -> bytes:
    """By which a config object is known again, 32 bytes."""
    return blake3(content).digest()


def unsupported(name: str, version: int) -> FailedPrecondition:
    """The error for an object of a version of the format that this software does not know."""
    return FailedPrecondition(
        Reason.FORMAT_UNSUPPORTED,
        f"{name} is of version {version} of the repository format, this software reads version {FORMAT_VERSION}",
        metadata={"object": name, "version": str(version), "supported": str(FORMAT_VERSION)},
    )


def _json_of(content: bytes) -> memoryview:
    if not HEAD.size + KEY <= len(content) <= MAX_CONFIG:
        raise damaged(CONFIG_NAME, f"it cannot have {len(content)} bytes")
    magic, version, reserved, length = HEAD.unpack_from(content)
    if magic != MAGIC:
        raise damaged(CONFIG_NAME, "it does not begin as one")
    if version != FORMAT_VERSION:
        raise unsupported(CONFIG_NAME, version)
    if reserved or length > JSON_MAX or len(content) != HEAD.size + length + KEY:
        raise damaged(CONFIG_NAME, "its length is not the one that it states")
    return memoryview(content)[HEAD.size : HEAD.size + length]


def _mac(keys: IndexKeys, content: bytes) -> bytes:
    return blake3(content, key=keys.config).digest()


def _public_key(raw: bytes) -> ContentPublicKey:
    try:
        return ContentPublicKey(FIRST_EPOCH, raw)
    except ValueError:
        raise Malformed("content_key.public is no public key") from None
