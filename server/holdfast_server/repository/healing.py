"""Chunks of small files that were lost with a damaged pack: put together again from files that a source still has.

A chunk is known by all of its content. So when every small file of a lost one comes by in a backup, in whatever order
and whatever lies between them now, the chunk can be made as it was, and whatever refers to it is whole again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from holdfast_server.repository.chunks import ChunkIndex
from holdfast_server.repository.crypto import IndexKeys
from holdfast_server.repository.format import SMALL_FILE_RECORD, ChunkType
from holdfast_server.repository.packs import PackRecord

__all__ = ["Healed", "Healing"]

#: What is put together in one run, at most: it is held in memory.
MOST_BYTES = 32 << 20
_DIGEST = 16


@dataclass(slots=True)
class _Lost:
    """A chunk: its id, its small files' records, and what has come by of their contents, by digest."""

    chunk_id: bytes
    small_files: bytes
    missing: set[bytes]
    parts: dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Healed:
    """A chunk that was lost, as it is to be stored again."""

    chunk_id: bytes
    content: bytes
    small_files: bytes


class Healing:
    """The lost chunks of one run. For one thread."""

    def __init__(self, keys: IndexKeys, records: Iterable[PackRecord], index: ChunkIndex) -> None:
        """`records` are those of packs that were set aside; what `index` knows is not lost."""
        self._keys = keys
        self._by_digest: dict[bytes, list[_Lost]] = {}
        left = MOST_BYTES
        for record in records:
            for chunk, small_files in record.with_small_files():
                if not small_files or chunk.kind != ChunkType.DATA or index.find(chunk.chunk_id) >= 0:
                    continue
                left -= chunk.raw_length
                if left >= 0:
                    self._add(chunk.chunk_id, small_files)

    def __len__(self) -> int:
        """How many small files are waited for."""
        return len(self._by_digest)

    def _add(self, chunk_id: bytes, small_files: bytes) -> None:
        digests = set(_digests(small_files))
        lost = _Lost(chunk_id, small_files, digests, {})
        for digest in digests:
            self._by_digest.setdefault(digest, []).append(lost)

    def offer(self, digest: bytes, content: bytes) -> list[Healed]:
        """A small file came by; gives the chunks that are complete with it."""
        healed = []
        for lost in self._by_digest.pop(digest, ()):
            lost.missing.discard(digest)
            lost.parts[digest] = content
            if not lost.missing:
                whole = b"".join(lost.parts[one] for one in _digests(lost.small_files))
                lost.parts.clear()
                # Else it held something besides.
                if self._keys.chunk_id(ChunkType.DATA, whole) == lost.chunk_id:
                    healed.append(Healed(lost.chunk_id, whole, lost.small_files))
        return healed


def _digests(small_files: bytes) -> Collection[bytes]:
    return [small_files[at : at + _DIGEST] for at in range(0, len(small_files), SMALL_FILE_RECORD)]
