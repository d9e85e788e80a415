"""Chunks on their way into packs: compressed and encrypted by the pool, gathered in order, put by a thread.

The one who calls does neither: it submits, and is given results in the order of submission. What waits to be put is
bounded, so a slow store slows the reader down instead of filling memory.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import zstandard

from holdfast_server.repository.crypto import Buffer, ContentPublicKey, IndexKeys, Segment
from holdfast_server.repository.format import CHUNK_MAX, MESSAGE_TAG, TIER_OF, ChunkType, Tier
from holdfast_server.repository.packs import Message, PackBuilder, PackRecord
from holdfast_server.storage.objects import ObjectStore

__all__ = ["JobPool", "Jobs", "PackSender"]

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

#: A data key is changed after so many messages, far below what the format allows.
_SEGMENT_MESSAGES: Final = 1 << 16
#: Packs that wait to be put beside the one that is being put.
_WAITING: Final = 1
_TICK: Final = 0.05
#: The level between zstd's 2 and 3; see `_Compressors`.
_OWN: Final = 3


class Jobs(Protocol[T_contra]):
    """One writer's queue of jobs; see `archive.pool.OrderedJobs`."""

    def submit(self, job: Callable[[], T_contra], size: int) -> None: ...
    def wait_for(self, done: Callable[[], bool]) -> None: ...
    def drain(self) -> None: ...
    def abort(self) -> None: ...


class JobPool(Protocol):
    """Threads shared by all work of the process."""

    def open(self, deliver: Callable[[T], None], check: Callable[[], None]) -> Jobs[T]: ...


class PackSender:
    """The packs of one run. For one thread; `close` in any case.

    `records` are the packs that are durable, `stored_size` their bytes, `compressed_size` those of all messages so far.
    """

    def __init__(
        self,
        store: ObjectStore,
        keys: IndexKeys,
        public: ContentPublicKey,
        level: int,
        pool: JobPool,
        check: Callable[[], None],
        on_stored: Callable[[int], None],
    ) -> None:
        self.records: list[PackRecord] = []
        self.stored_size = self.compressed_size = 0
        self._store = store
        self._keys = keys
        self._public = public
        self._check = check
        self._on_stored = on_stored
        self._jobs: Jobs[tuple[Message, Callable[[], None] | None]] = pool.open(self._deliver, check)
        self._codec = _Compressors(level)
        self._segments: dict[Tier, tuple[Segment, int]] = {}
        self._builders: dict[bool, PackBuilder] = {}
        self._uploads: queue.Queue[tuple[PackRecord, list[bytes | bytearray]] | None] = queue.Queue(_WAITING)
        self._put = 0
        self._finished = 0
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def send(
        self,
        kind: ChunkType,
        chunk_id: bytes,
        content: Buffer,
        small_files: bytes = b"",
        done: Callable[[], None] | None = None,
    ) -> None:
        """Send a chunk. `content` must stay as it is until `done` was called, or for good.

        Raises what the store raised for an earlier pack, and what `check` raises.
        """
        self._raise_failure()
        segment, number = self._next_message(TIER_OF[kind])
        keys, codec, raw_length = self._keys, self._codec, len(content)

        def encrypt() -> tuple[Message, Callable[[], None] | None]:
            frame = codec.compress(content)
            body = frame if len(frame) < raw_length else content
            out = bytearray(len(body) + MESSAGE_TAG)
            segment.encrypt_into(kind, number, chunk_id, body, memoryview(out))
            check = keys.check_of(out)
            return Message(chunk_id, kind, segment, number, raw_length, out, check, small_files), done

        self._jobs.submit(encrypt, raw_length)

    def wait_for(self, done: Callable[[], bool]) -> None:
        """Wait until results that are on their way make `done` true."""
        self._jobs.wait_for(done)

    def flush(self) -> None:
        """Wait until all that was sent is durable. Raises what the store raised."""
        self._jobs.drain()
        for builder in self._builders.values():
            if len(builder):
                self._upload(builder)
        self._builders.clear()
        while self._finished < self._put and self._failure is None:
            self._check()
            threading.Event().wait(0.001)
        self._raise_failure()

    def close(self) -> None:
        """Stop. What is not durable by now is given up."""
        self._jobs.abort()
        if self._thread is not None:
            self._failure = self._failure or RuntimeError("the run has ended")
            while self._thread.is_alive():
                try:
                    self._uploads.put(None, timeout=_TICK)
                except queue.Full:
                    continue
                self._thread.join()
            self._thread = None

    def _next_message(self, tier: Tier) -> tuple[Segment, int]:
        """A number is used up here, whatever becomes of the message."""
        segment, number = self._segments.get(tier, (None, 0))
        if segment is None or number >= _SEGMENT_MESSAGES:
            keys = self._keys
            segment = Segment.new_index(keys) if tier is Tier.INDEX else Segment.new_content(self._public, keys.uuid)
            number = 0
        self._segments[tier] = segment, number + 1
        return segment, number

    def _deliver(self, result: tuple[Message, Callable[[], None] | None]) -> None:
        message, done = result
        if done is not None:
            done()
        self.compressed_size += len(message.body)
        self._on_stored(self.compressed_size)
        is_data = message.kind is ChunkType.DATA
        builder = self._builders.get(is_data)
        if builder is not None and not builder.fits(message):
            self._upload(builder)
            builder = None
        if builder is None:
            builder = self._builders[is_data] = PackBuilder(self._keys)
        builder.add(message)

    def _upload(self, builder: PackBuilder) -> None:
        pack = builder.finish()
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="pack-upload", daemon=True)
            self._thread.start()
        while True:
            self._raise_failure()
            try:
                self._uploads.put(pack, timeout=_TICK)
            except queue.Full:
                self._check()
                continue
            self._put += 1
            return

    def _serve(self) -> None:
        while (pack := self._uploads.get()) is not None:
            record, parts = pack
            del pack
            if self._failure is None:
                try:
                    self._store.put(record.name, parts)
                except BaseException as error:  # noqa: BLE001  raised again on the run's thread
                    self._failure = error
                else:
                    self.stored_size += record.size
                    self.records.append(record)
            del parts
            self._finished += 1

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


class _Compressors(threading.local):
    """One compressor for each thread."""

    def __init__(self, level: int) -> None:
        # zstd's level 3 keeps two tables of 768 KiB that drive each other out of a core's cache. One of 256 KiB that
        # looks for 5 bytes, not level 2's 6, takes three quarters of the time, for 4 % more bytes; level 2 itself takes
        # 7 % more.
        tables = {}
        if level == _OWN:
            tables = {"strategy": zstandard.STRATEGY_FAST, "hash_log": 16, "min_match": 5, "target_length": 0}
        parameters = zstandard.ZstdCompressionParameters.from_level(level, source_size=CHUNK_MAX, **tables)
        self._codec = zstandard.ZstdCompressor(compression_params=parameters)

    def compress(self, content: Buffer) -> bytes:
        frame: bytes = self._codec.compress(content)
        return frame
