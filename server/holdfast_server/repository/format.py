"""Constants and names of the repository format, version 1 (docs/format.md, "Repository"). A test compares both."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final

from holdfast_server.errors import DataLoss, Reason

__all__ = [
    "CHUNK_MAX",
    "CHUNK_MIN",
    "CHUNK_RECORD",
    "CHUNK_TARGET",
    "FORMAT_VERSION",
    "LARGE_FILE",
    "MESSAGE_TAG",
    "PACK_CHUNKS",
    "PACK_MAX",
    "PACK_SMALL_FILES",
    "PACK_TARGET",
    "SEALED_SEGMENT_KEY",
    "SMALL_FILE_RECORD",
    "TRAILER",
    "ChunkType",
    "ChunkFetch",
    "StoreChunk",
    "Tier",
    "damaged",
    "epoch_claim_name",
    "index_name",
    "log_name",
    "pack_name",
    "padded_size",
    "run_name",
    "slot_name",
    "snapshot_name",
]

FORMAT_VERSION: Final = 1
CONFIG_NAME: Final = "config"

#: Sizes of chunks of large files, in bytes; no chunk of any type is larger than CHUNK_MAX.
CHUNK_MIN: Final = 512 << 10
CHUNK_TARGET: Final = 1 << 20
CHUNK_MAX: Final = 4 << 20
#: Files from this size up are cut on their own.
LARGE_FILE: Final = 1 << 20

#: A pack is closed at its target and never larger than its maximum, the padding included.
PACK_TARGET: Final = 32 << 20
PACK_MAX: Final = 64 << 20
PACK_CHUNKS: Final = 4_096
PACK_SMALL_FILES: Final = 196_608

#: Lengths in bytes.
MESSAGE_TAG: Final = 16
SEALED_SEGMENT_KEY: Final = 1_168
CHUNK_RECORD: Final = 72
SMALL_FILE_RECORD: Final = 20
TRAILER: Final = 64
PUBLIC_KEY: Final = 1_216
PRIVATE_KEY: Final = 96

#: Objects that are read whole into memory.
SEALED_OBJECT_MAX: Final = 32 << 20
OBJECT_CONTENT_MAX: Final = 64 << 20

_HEX_ID = re.compile(r"[0-9a-f]{32}")


class ChunkType(IntEnum):
    """What a chunk holds; part of its id, so that none can stand in for another."""

    DATA = 1
    TREE = 2
    EXTENTS = 3
    ROOT = 4
    LIST = 5


class Tier(IntEnum):
    """Whose key opens a segment."""

    CONTENT = 1
    INDEX = 2


#: The tier that chunks of a type are encrypted in.
TIER_OF: Final = {
    ChunkType.DATA: Tier.CONTENT,
    ChunkType.TREE: Tier.CONTENT,
    ChunkType.EXTENTS: Tier.CONTENT,
    ChunkType.ROOT: Tier.CONTENT,
    ChunkType.LIST: Tier.INDEX,
}


#: Gives the verified content of the chunk of a type and id; DataLoss when it is missing or damaged.
ChunkFetch = Callable[[ChunkType, bytes], bytes]
#: Takes the content of a chunk, whose type the caller has settled, and gives its id.
StoreChunk = Callable[[bytes], bytes]


def padded_size(size: int) -> int:
    """The PADMÉ size of a pack of `size` bytes: at most 12 % more, 3 % from 1 MiB up."""
    if size < 2:
        return size
    exponent = size.bit_length() - 1
    step = 1 << (exponent - exponent.bit_length())
    return -(-size // step) * step


def is_object_id(text: str) -> bool:
    """Whether it is an id of a slot, pack, index or writer."""
    return _HEX_ID.fullmatch(text) is not None


def pack_name(pack_id: bytes) -> str:
    return f"packs/{pack_id.hex()}"


def index_name(index_id: bytes) -> str:
    return f"index/{index_id.hex()}"


def slot_name(slot_id: bytes) -> str:
    return f"keys/{slot_id.hex()}"


def epoch_claim_name(epoch: int) -> str:
    return f"keys/epoch-{epoch:010d}"


def snapshot_name(run_id: str) -> str:
    return f"snapshots/{run_id}"


def run_name(run_id: str) -> str:
    return f"runs/{run_id}"


def log_name(writer_id: bytes, sequence: int) -> str:
    return f"log/{writer_id.hex()}/{sequence:016d}"


def damaged(name: str, what: str, **metadata: Any) -> DataLoss:
    """The error for an object or chunk that is not what was written; `name` says which."""
    details = {"object": name, "detail": what, **{key: str(value) for key, value in metadata.items()}}
    return DataLoss(Reason.CHECKSUM_MISMATCH, f"the repository is damaged: {name}: {what}", metadata=details)
