"""How many chunks there are, and what of them no snapshot needs: told by the index key alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from holdfast_server.repository.fetching import ChunkSource
from holdfast_server.repository.index import load_index
from holdfast_server.repository.repository import Repository
from holdfast_server.repository.survey import LiveMarks

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
    marks = LiveMarks(index, fetch, check)
    for snapshot in repository.snapshots():
        marks.add(snapshot.list)
    return ChunkCounts(
        chunks=len(index),
        size=sum(index.raw_length(number) for number in index.numbers()),
        unused_size=sum(index.length(number) for number in index.numbers() if not marks.needed[number]),
    )
