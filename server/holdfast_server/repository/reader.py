"""Reading a snapshot: its root, its entries, and the content of its files."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Final, Protocol

from holdfast_server.errors import DataLoss
from holdfast_server.records import frozen_record
from holdfast_server.repository.entries import Entry, EntryFlag, EntryKind
from holdfast_server.repository.extents import Extent, decode_extents
from holdfast_server.repository.format import ChunkFetch, ChunkType, damaged
from holdfast_server.repository.root import RootInfo, decode_root
from holdfast_server.repository.tree import TreeReader

__all__ = ["Hole", "RootedSnapshot", "SnapshotReader"]

_CACHED: Final = 16 << 20
_PAGED = int(EntryFlag.PAGED)


class RootedSnapshot(Protocol):
    """What reading needs of a snapshot: the id of its root chunk."""

    @property
    def root(self) -> bytes: ...


@frozen_record
class Hole:
    """`length` zeros that the source did not store."""

    length: int


class SnapshotReader:
    """Reads one snapshot; needs the content key behind `fetch`.

    `cache_bytes` bounds the chunks that are kept, so that the small files of one chunk cost one fetch. Not thread-safe:
    one reader for each thread. Everything raises DataLoss/CHECKSUM_MISMATCH for what is damaged, naming it, and what
    `fetch` raises.
    """

    def __init__(self, fetch: ChunkFetch, snapshot: RootedSnapshot, *, cache_bytes: int = _CACHED) -> None:
        self._chunks = _RecentChunks(fetch, cache_bytes)
        self._snapshot = snapshot
        #: Gives chunks that are not kept; safe for several threads if the one given is.
        self.fetch = fetch

    @cached_property
    def root(self) -> RootInfo:
        """What the snapshot says about itself."""
        root_id = self._snapshot.root
        return decode_root(self._chunks.get(ChunkType.ROOT, root_id), f"root {root_id.hex()}")

    def entries(self, after: tuple[bytes, bytes] | None = None) -> Iterator[Entry]:
        """All entries in the order of the tree, or those behind a folder and name."""
        return self._tree.entries(after)

    def salvage(self, on_damage: Callable[[DataLoss], None]) -> Iterator[Entry]:
        """All entries that can be read; `on_damage` is told of each page of the tree that cannot."""
        return self._tree.salvage(on_damage)

    def level(self, folder: bytes, after: bytes | None = None) -> Iterator[Entry]:
        """The entries of one folder by name, or those behind a name; the empty path is the source itself."""
        return self._tree.level(folder, after)

    def find(self, path: bytes) -> Entry | None:
        """The entry of a path in the source."""
        return self._tree.find(path)

    def subtree(self, path: bytes) -> Iterator[Entry]:
        """A path's own entry, then everything below it."""
        return self._tree.subtree(path)

    def below(self, path: bytes) -> Iterator[Entry]:
        """Everything below a path, without its own entry; nothing where there is no folder of that path."""
        return self._tree.below(path)

    def extents(self, entry: Entry) -> Iterator[Extent]:
        """Where a file's content lies, in order. Raises ValueError for what is no file."""
        if entry.kind is not EntryKind.FILE:
            raise ValueError(f"{entry.path!r} is no file")
        return self._paged_extents(entry) if entry.flags & _PAGED else iter(entry.extents)

    def blocks(self, entry: Entry) -> Iterator[bytes | Hole]:
        """A file's content in order, a block for each extent. Raises ValueError for what is no file.

        What was given out is right, but whole only when the iteration has ended.
        """
        for extent in self.extents(entry):
            if extent.chunk_id is None:
                yield Hole(extent.length)
                continue
            content = self._chunks.part(extent.chunk_id, extent.offset, extent.length)
            if len(content) != extent.length:
                raise entry.damaged(f"it has an extent behind the end of chunk {extent.chunk_id.hex()}")
            yield content

    @cached_property
    def _tree(self) -> TreeReader:
        return TreeReader(self._chunks.get, self.root.tree)

    def _paged_extents(self, entry: Entry) -> Iterator[Extent]:
        left = entry.size
        for page_id in entry.pages:
            page = self._chunks.get(ChunkType.EXTENTS, page_id)
            try:
                extents = decode_extents(page)
            except ValueError as error:
                raise damaged(f"extent page {page_id.hex()}", str(error)) from None
            if not extents:
                raise damaged(f"extent page {page_id.hex()}", "it holds nothing")
            for extent in extents:
                left -= extent.length
                if left < 0:
                    raise entry.damaged("its extents are longer than its size")
                yield extent
        if left:
            raise entry.damaged("its extents are shorter than its size")


class _RecentChunks:
    """Chunks fetched before, the one used last at the end, up to `limit` bytes in all."""

    def __init__(self, fetch: ChunkFetch, limit: int) -> None:
        self._fetch = fetch
        self._limit = limit
        self._kept: OrderedDict[tuple[ChunkType, bytes], bytes] = OrderedDict()
        self._size = 0

    def get(self, kind: ChunkType, chunk_id: bytes) -> bytes:
        """The content of a chunk, which is kept."""
        content = self._find(kind, chunk_id)
        if content is None:
            content = self._fetch(kind, chunk_id)
            self._keep(kind, chunk_id, content)
        return content

    def part(self, chunk_id: bytes, offset: int, length: int) -> bytes:
        """A part of a chunk of data, shorter when the chunk ends before."""
        content = self._find(ChunkType.DATA, chunk_id)
        if content is None:
            content = self._fetch(ChunkType.DATA, chunk_id)
            # What is used whole is a part of a large file: it is not asked for again, and must not drive out what is.
            if length < len(content):
                self._keep(ChunkType.DATA, chunk_id, content)
        return content[offset : offset + length]

    def _find(self, kind: ChunkType, chunk_id: bytes) -> bytes | None:
        content = self._kept.get((kind, chunk_id))
        if content is not None:
            self._kept.move_to_end((kind, chunk_id))
        return content

    def _keep(self, kind: ChunkType, chunk_id: bytes, content: bytes) -> None:
        self._kept[kind, chunk_id] = content
        self._size += len(content)
        while self._size > self._limit:
            self._size -= len(self._kept.popitem(last=False)[1])
