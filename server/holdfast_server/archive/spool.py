"""Records kept in memory in compressed blocks, to be gone through again in either direction."""

from __future__ import annotations

import json
from collections.abc import Iterator

from isal import isal_zlib

from holdfast_server.archive.manifest import ManifestEntry
from holdfast_server.archive.member import Member

__all__ = ["UNHASHED", "Spool", "pack", "unpack"]

#: Stands for the digest of a file that was not hashed.
UNHASHED = bytes(32)

_BLOCK = 64 << 10


class Spool:
    """A list of records without newlines. About 70 bytes a manifest entry; may be read while it grows."""

    def __init__(self) -> None:
        self._packed: list[bytes] = []
        self._open: list[bytes] = []
        self._open_size = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, record: bytes) -> None:
        self._open.append(record)
        self._open_size += len(record)
        self._count += 1
        if self._open_size >= _BLOCK:
            self._packed.append(isal_zlib.compress(b"\n".join(self._open), level=1, wbits=-15))
            self._open = []
            self._open_size = 0

    def __iter__(self) -> Iterator[bytes]:
        for block in self._packed:
            yield from _unpack(block)
        yield from self._open

    def __reversed__(self) -> Iterator[bytes]:
        yield from reversed(self._open)
        for block in reversed(self._packed):
            yield from reversed(_unpack(block))


def pack(member: Member, sha256: bytes | None = None) -> bytes:
    """A member as a record."""
    return ManifestEntry(member, sha256 or UNHASHED).to_line()


def unpack(record: bytes) -> ManifestEntry:
    """What `pack` was given."""
    return ManifestEntry.from_record(json.loads(record))


def _unpack(block: bytes) -> list[bytes]:
    data: bytes = isal_zlib.decompress(block, wbits=-15)
    return data.split(b"\n")
