"""The content of many files, one after the other, with chunks fetched by threads before they are asked for.

Files stand in the order in which most of their chunks were packed, so what comes next is known: a few chunks are read,
decrypted, unpacked and compared while the caller writes what came before.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final, Generic, Self, TypeVar

from holdfast_server.errors import DataLoss
from holdfast_server.repository.entries import Entry
from holdfast_server.repository.extents import Extent
from holdfast_server.repository.format import ChunkType
from holdfast_server.repository.reader import Hole, SnapshotReader
from holdfast_server.storage.names import escape

__all__ = ["Blocks", "ReadAhead"]

T = TypeVar("T")

#: The content of one file, in order.
Blocks = Iterable["bytes | memoryview | Hole"]

_THREADS: Final = 2
#: Chunks that are fetched or on their way, and wanted; each has 4 MiB at most, and 1 MiB on average.
_CHUNKS: Final = 12
#: Files that are looked at ahead, whatever they hold.
_STEPS: Final = 2_048
#: Bytes of chunks kept because of the small files in them that may still come.
_KEPT: Final = 16 << 20
#: So many bytes of a chunk are copied in the time that two views of it take to be made.
_COPIED: Final = 4 << 10
#: How often `check` is asked while a chunk is waited for, in seconds.
_TICK: Final = 0.05


class _Chunk:
    """A chunk that is there or on its way; `uses` counts the planned extents that lie in it."""

    __slots__ = ("chunk_id", "content", "future", "uses")

    def __init__(self, chunk_id: bytes, future: Future[bytes]) -> None:
        self.chunk_id = chunk_id
        self.future = future
        self.content: bytes | None = None
        self.uses = 0


#: An item with its file, an extent of it and the chunk of that; `first` says whether the file begins with it.
_Step = tuple[T, bool, Entry | None, Extent | None, _Chunk | None]


class ReadAhead(Generic[T]):
    """Reads files of one snapshot; a context manager that ends its threads. For one thread.

    Memory: about `_CHUNKS` chunks and `_KEPT` bytes, at most 64 MiB. `check` is asked in every wait and may raise.
    """

    def __init__(self, reader: SnapshotReader, check: Callable[[], None]) -> None:
        self._reader = reader
        self._check = check
        self._threads = ThreadPoolExecutor(_THREADS, "chunks")
        self._chunks: dict[bytes, _Chunk] = {}
        #: Those that nothing planned needs, the one used last at the end.
        self._kept: OrderedDict[bytes, _Chunk] = OrderedDict()
        self._kept_size = 0
        self._wanted = 0
        self._steps: deque[_Step[T]] = deque()
        self._plan: Iterator[tuple[T, bool, Entry | None, Extent | None]] = iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def read(self, wanted: Iterable[tuple[T, Entry | None]]) -> Iterator[tuple[T, Blocks]]:
        """Each item with the content of its file, none where there is no file; the content counts until the next item.

        `wanted` is drawn some thousand items ahead. What was given out is right, and the whole of a file once it has
        ended. Raises DataLoss/CHECKSUM_MISMATCH naming file and chunk, what the store raises, and what `check` does.
        """
        self._plan = self._extents(wanted)
        steps = self._steps
        while True:
            if self._wanted < _CHUNKS // 2 or len(steps) < 2:
                self._plan_more()
            if not steps:
                return
            item, _, entry, extent, chunk = steps.popleft()
            if entry is None or extent is None:
                yield item, ()
            elif not steps or steps[0][1]:
                yield item, (self._take(entry, extent, chunk),)
            else:
                rest = self._blocks(entry, extent, chunk)
                yield item, rest
                for _ in rest:
                    pass

    def _blocks(self, entry: Entry, extent: Extent, chunk: _Chunk | None) -> Iterator[bytes | memoryview | Hole]:
        steps = self._steps
        yield self._take(entry, extent, chunk)
        while steps and not steps[0][1]:
            _, _, _, following, chunk = steps.popleft()
            if following is not None:
                yield self._take(entry, following, chunk)
            if self._wanted < _CHUNKS // 2 or not steps:
                self._plan_more()

    def _extents(
        self, wanted: Iterable[tuple[T, Entry | None]]
    ) -> Iterator[tuple[T, bool, Entry | None, Extent | None]]:
        extents = self._reader.extents
        for item, entry in wanted:
            first = True
            if entry is not None:
                for extent in extents(entry):
                    yield item, first, entry, extent
                    first = False
            if first:
                yield item, True, entry, None

    def _plan_more(self) -> None:
        """Look ahead until enough chunks are on their way. Two steps at least: the second tells where a file ends."""
        steps, chunks = self._steps, self._chunks
        chunk: _Chunk | None
        while (self._wanted < _CHUNKS and len(steps) < _STEPS) or len(steps) < 2:
            step = next(self._plan, None)
            if step is None:
                return
            item, first, entry, extent = step
            chunk = None
            if extent is not None and extent.chunk_id is not None:
                chunk = chunks.get(extent.chunk_id)
                if chunk is None:
                    chunk = self._send_for(extent.chunk_id)
                if not chunk.uses:
                    self._wanted += 1
                    if self._kept.pop(extent.chunk_id, None) is not None:
                        self._kept_size -= len(chunk.content or b"")
                chunk.uses += 1
            steps.append((item, first, entry, extent, chunk))

    def _send_for(self, chunk_id: bytes) -> _Chunk:
        future = self._threads.submit(self._reader.fetch, ChunkType.DATA, chunk_id)
        chunk = self._chunks[chunk_id] = _Chunk(chunk_id, future)
        return chunk

    def _take(self, entry: Entry, extent: Extent, chunk: _Chunk | None) -> bytes | memoryview | Hole:
        if chunk is None:
            return Hole(extent.length)
        content = chunk.content
        if content is None:
            content = chunk.content = self._wait_for(entry, chunk)
        chunk.uses -= 1
        offset, length = extent.offset, extent.length
        if not chunk.uses:
            self._wanted -= 1
            # What is used whole is a part of a large file: it is not asked for again, and must not drive out what is.
            self._release(chunk, keep=length < len(content))
        if offset + length > len(content):
            raise entry.damaged(f"it has an extent behind the end of chunk {chunk.chunk_id.hex()}")
        if length == len(content):
            return content
        if length <= _COPIED:
            return content[offset : offset + length]
        return memoryview(content)[offset : offset + length]

    def _wait_for(self, entry: Entry, chunk: _Chunk) -> bytes:
        future = chunk.future
        while not future.done():
            self._check()
            wait((future,), _TICK)
        try:
            return future.result()
        except DataLoss as error:
            shown = escape(entry.path)
            raise DataLoss(
                error.reason, f"{shown} cannot be read: {error.message}", metadata={**error.metadata, "path": shown}
            ) from error

    def _release(self, chunk: _Chunk, *, keep: bool) -> None:
        if not keep:
            del self._chunks[chunk.chunk_id]
            return
        self._kept[chunk.chunk_id] = chunk
        self._kept_size += len(chunk.content or b"")
        while self._kept_size > _KEPT:
            chunk_id, oldest = self._kept.popitem(last=False)
            self._kept_size -= len(oldest.content or b"")
            del self._chunks[chunk_id]
