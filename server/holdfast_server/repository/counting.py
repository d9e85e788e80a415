"""How many chunks there are, and what of them no snapshot needs: told by the index key alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from holdfast_server.repository.chunks import ChunkIndex
from holdfast_server.repository.fetching import ChunkSource
from holdfast_server.repository.format import ChunkFetch
from holdfast_server.repository.index import load_index
from holdfast_server.repository.lists import ListRoot, read_list_page
from holdfast_server.repository.repository import Repository

__all__ = ["ChunkCounts", "count_chunks"]


@dataclass(frozen=True, slots=True)
class ChunkCounts:
    """Distinct chunks, the bytes of their contents, and the stored bytes of those that no snapshot needs."""

    chunks: int
    size: int
    unused_size: int


def count_chunks(repository: Repository, check: Callable[[], None]) -> ChunkCounts:
    """Count by the index and the lists of all snapshots; a page that several lists share is read once.

    What is stored meanwhile may be counted as not needed. `check` is asked now and then and may raise. Raises
    DataLoss/CHECKSUM_MISMATCH for a damaged index object, snapshot or list.
    """
    loaded = load_index(repository.store, repository.index_keys, keep_keys=False, check=check)
    index = loaded.chunks
    fetch = ChunkSource(repository.store, repository.index_keys, None, index, loaded.missing).fetch
    needed = bytearray(len(index))
    read: set[bytes] = set()
    for snapshot in repository.snapshots():
        _mark(fetch, index, snapshot.list, needed, read, check)
    return ChunkCounts(
        chunks=len(index),
        size=sum(index.raw_length(number) for number in index.numbers()),
        unused_size=sum(index.location(number)[2].length for number in index.numbers() if not needed[number]),
    )


def _mark(
    fetch: ChunkFetch,
    index: ChunkIndex,
    root: ListRoot,
    needed: bytearray,
    read: set[bytes],
    check: Callable[[], None],
) -> None:
    """Note which chunks a list names, and those that hold the list itself."""
    waiting = [(root.level, root.id)]
    while waiting:
        level, page_id = waiting.pop()
        if page_id in read:
            continue
        check()
        children, records = read_list_page(fetch, level, page_id)
        read.add(page_id)
        waiting.extend((level - 1, child) for child in children)
        for chunk_id in (page_id, *(chunk_id for _, chunk_id, _ in records)):
            number = index.find(chunk_id)
            if number >= 0:
                needed[number] = 1
