"""Chunks in memory, and entries to fill trees with."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable

from holdfast_server.repository.entries import Entry, EntryFlag, EntryKind, file_tail, folder_tail
from holdfast_server.repository.extents import encode_extent
from holdfast_server.repository.format import CHUNK_MAX, ChunkType, damaged
from holdfast_server.repository.tree import TreeRoot, TreeWriter

__all__ = ["Chunks", "make_directory", "make_file", "write_tree"]


class Chunks:
    """Chunks by type and id, in memory. Counts what is fetched."""

    def __init__(self) -> None:
        self.content: dict[tuple[ChunkType, bytes], bytes] = {}
        self.fetched: Counter[bytes] = Counter()

    def store(self, kind: ChunkType) -> Callable[[bytes], bytes]:
        """What stores chunks of a type."""

        def put(content: bytes) -> bytes:
            assert 0 < len(content) <= CHUNK_MAX
            chunk_id = hashlib.blake2b(bytes((kind,)) + content, digest_size=32).digest()
            self.content[kind, chunk_id] = bytes(content)
            return chunk_id

        return put

    def fetch(self, kind: ChunkType, chunk_id: bytes) -> bytes:
        self.fetched[chunk_id] += 1
        try:
            return self.content[kind, chunk_id]
        except KeyError:
            raise damaged(f"chunk {chunk_id.hex()}", "it is missing") from None

    def of(self, kind: ChunkType) -> dict[bytes, bytes]:
        return {chunk_id: content for (its, chunk_id), content in self.content.items() if its is kind}


def make_file(folder: bytes, name: bytes, size: int = 448, version: int = 0, mtime_ns: int = 0) -> Entry:
    """A small file in a chunk of its own."""
    chunk = hashlib.blake2b(b"%d " % version + folder + b"/" + name, digest_size=32).digest()
    tail = file_tail(size, chunk[:16], encode_extent(chunk, 0, size) if size else b"")
    return Entry(folder, name, EntryKind.FILE, int(EntryFlag.DIGEST), 0o644, 1000, 1000, mtime_ns, tail)


def make_directory(folder: bytes, name: bytes) -> Entry:
    return Entry(folder, name, EntryKind.DIRECTORY, 0, 0o755, 1000, 1000, 1, folder_tail())


def write_tree(chunks: Chunks, entries: Iterable[Entry]) -> TreeRoot | None:
    """The root of a tree of these entries, which are put into order first."""
    writer = TreeWriter(chunks.store(ChunkType.TREE))
    for entry in sorted(entries, key=lambda entry: entry.key):
        writer.add(entry.folder, entry.name, entry.encode())
    return writer.finish()
