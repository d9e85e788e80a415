"""The list of a snapshot: which chunks it needs, readable with the index key alone.

docs/format.md ("Lists") specifies the pages. They are cut by content, so that the lists of two snapshots share
the pages of what they have in common.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final

from holdfast_server.errors import DataLoss
from holdfast_server.records import frozen_record
from holdfast_server.repository.extents import ends_page
from holdfast_server.repository.format import CHUNK_MAX, ChunkFetch, ChunkType, StoreChunk, damaged

__all__ = ["PAGE_MAX", "PAGE_MIN", "RECORD_SIZE", "ListRoot", "ListWriter", "read_list", "read_list_page"]

PAGE_MIN: Final = 16 << 10
PAGE_MAX: Final = 128 << 10
#: Bytes of a record of level 0.
RECORD_SIZE: Final = 37

_RECORD = Struct("<B32sI")
_ID = 32
_LISTED = frozenset(kind for kind in ChunkType if kind is not ChunkType.LIST)
_KINDS = {int(kind): kind for kind in _LISTED}


@frozen_record
class ListRoot:
    """The topmost page of a list: its level, the id of its chunk, and how many chunks the list names."""

    level: int
    id: bytes
    chunks: int


class _Page:
    __slots__ = ("last_id", "parts", "size")

    def __init__(self, level: int) -> None:
        self.parts = [bytes((level,))]
        self.size = 1
        self.last_id = b""


class ListWriter:
    """Takes a snapshot's chunks and keeps one page of each level in memory.

    Two snapshots share pages as far as they add the same chunks in the same order; each chunk is to be added once.
    `store` stores the content of a page as a chunk of type LIST and gives its id.
    """

    def __init__(self, store: StoreChunk) -> None:
        self._store = store
        self._levels = [_Page(0)]
        self._chunks = 0

    def add(self, kind: ChunkType, chunk_id: bytes, live: int) -> None:
        """A chunk, and how many bytes of it the snapshot's files use. Raises ValueError for what no list can hold."""
        if kind not in _LISTED or len(chunk_id) != _ID or not 0 <= live <= CHUNK_MAX:
            raise ValueError(f"no chunk for a list: type {kind}, {len(chunk_id)} bytes of id, {live} bytes live")
        self._add(0, chunk_id, _RECORD.pack(kind, chunk_id, live))
        self._chunks += 1

    def finish(self) -> ListRoot:
        """The topmost page. Raises ValueError of an empty list: a snapshot has at least its root."""
        if not self._chunks:
            raise ValueError("the list of a snapshot names no chunk")
        level = 0
        while level < len(self._levels) - 1:
            if len(self._levels[level].parts) > 1:
                self._close(level)
            level += 1
        # The topmost level has not closed a page yet, else there were one above it.
        page = self._levels[level]
        if level and len(page.parts) == 2:
            return ListRoot(level - 1, page.last_id, self._chunks)
        return ListRoot(level, self._store(b"".join(page.parts)), self._chunks)

    def _add(self, level: int, chunk_id: bytes, record: bytes) -> None:
        page = self._levels[level]
        page.parts.append(record)
        page.size += len(record)
        page.last_id = chunk_id
        if page.size >= PAGE_MIN and (page.size + len(record) > PAGE_MAX or ends_page(chunk_id)):
            self._close(level)

    def _close(self, level: int) -> None:
        page_id = self._store(b"".join(self._levels[level].parts))
        self._levels[level] = _Page(level)
        if level + 1 == len(self._levels):
            self._levels.append(_Page(level + 1))
        self._add(level + 1, page_id, page_id)


def read_list_page(
    fetch: ChunkFetch, level: int, page_id: bytes
) -> tuple[list[bytes], list[tuple[ChunkType, bytes, int]]]:
    """The ids of the pages below a page, or the records of one of level 0, as `read_list` gives them.

    Raises DataLoss/CHECKSUM_MISMATCH, naming the page, for one that is not as the format says.
    """
    where = f"list page {page_id.hex()}"
    page = fetch(ChunkType.LIST, page_id)
    size = _ID if level else RECORD_SIZE
    if len(page) < 1 + size or page[0] != level or (len(page) - 1) % size:
        raise damaged(where, f"it is no page of level {level}")
    if level:
        return [page[start : start + _ID] for start in range(1, len(page), _ID)], []
    records: list[tuple[ChunkType, bytes, int]] = []
    for number, chunk_id, live in _RECORD.iter_unpack(memoryview(page)[1:]):
        kind = _KINDS.get(number)
        if kind is None or live > CHUNK_MAX:
            raise damaged(where, "a record in it is malformed")
        records.append((kind, chunk_id, live))
    return [], records


def read_list(fetch: ChunkFetch, root: ListRoot) -> Iterator[tuple[ChunkType, bytes, int]]:
    """Type, id and live bytes of each chunk, in the order written; one page of each level in memory.

    Raises DataLoss/CHECKSUM_MISMATCH, naming the page, for one that is not as the format or the page above says, and
    when there are more or fewer chunks than the root says. Whether a chunk is named twice is for the caller to see.
    """
    seen = 0
    waiting = [(root.level, root.id)]
    while waiting:
        level, page_id = waiting.pop()
        children, records = read_list_page(fetch, level, page_id)
        waiting.extend((level - 1, child) for child in reversed(children))
        # Every page holds a chunk at least, so no list can keep a reader busy for longer than it may.
        if len(waiting) + seen > root.chunks:
            raise _too_long(page_id, root)
        for record in records:
            seen += 1
            if seen > root.chunks:
                raise _too_long(page_id, root)
            yield record
    if seen != root.chunks:
        raise damaged(f"list page {root.id.hex()}", f"the list has {seen} chunks, the snapshot states {root.chunks}")


def _too_long(page_id: bytes, root: ListRoot) -> DataLoss:
    what = f"the list is longer than the {root.chunks} chunks that the snapshot states"
    return damaged(f"list page {page_id.hex()}", what)
