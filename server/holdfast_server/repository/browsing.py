"""Looking into snapshots without a run: for listing entries page by page, which writes nothing."""

from __future__ import annotations

from collections.abc import Callable

from holdfast_server.repository.content_keys import ContentKeys
from holdfast_server.repository.fetching import ChunkSource
from holdfast_server.repository.index import LoadedIndex, load_index
from holdfast_server.repository.reader import SnapshotReader
from holdfast_server.repository.repository import Repository
from holdfast_server.repository.snapshots import Snapshot

__all__ = ["BrowsingIndex"]


class BrowsingIndex:
    """Where the chunks of a repository lay when it was loaded; thread-safe.

    No run announces that it is in use: what it names may be moved or deleted meanwhile, and what was committed since is
    not in it. So DATA_LOSS of an index that is not fresh means nothing yet: load another and look again.
    """

    def __init__(self, repository: Repository, check: Callable[[], None]) -> None:
        self._index: LoadedIndex = load_index(repository.store, repository.index_keys, keep_keys=True, check=check)

    def __len__(self) -> int:
        """Chunks in it; each takes about 100 bytes of memory."""
        return len(self._index.chunks)

    def reader(self, repository: Repository, snapshot: Snapshot, content: ContentKeys | None) -> SnapshotReader:
        """Reads a snapshot of the repository that it was loaded from, opened anew."""
        index = self._index
        source = ChunkSource(repository.store, repository.index_keys, content, index.chunks, index.missing)
        return SnapshotReader(source.fetch, snapshot)
