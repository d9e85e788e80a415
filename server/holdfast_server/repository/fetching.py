"""Chunks out of the store: read, decrypted, unpacked, and compared with the id by which they were asked for."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from holdfast_server.errors import DataLoss
from holdfast_server.repository.chunks import ChunkIndex
from holdfast_server.repository.crypto import ContentKeys, IndexKeys, Segment, unpack
from holdfast_server.repository.format import MESSAGE_TAG, ChunkType, damaged, pack_name
from holdfast_server.repository.packs import ChunkRecord, SegmentRecord
from holdfast_server.storage.objects import ObjectMissing, ObjectStore

__all__ = ["ChunkSource", "chunk_label", "open_body"]


def chunk_label(kind: int, chunk_id: bytes) -> str:
    """How errors name a chunk."""
    return f"chunk {ChunkType(kind).name.lower()} {chunk_id.hex()}"


class ChunkSource:
    """Gives chunks by type and id. Thread-safe once the index is complete (`load_index` with keys).

    `content` None: only the index tier opens. `missing` says why packs are not there.
    """

    def __init__(
        self,
        store: ObjectStore,
        keys: IndexKeys,
        content: ContentKeys | None,
        index: ChunkIndex,
        missing: Mapping[bytes, str] | None = None,
    ) -> None:
        self._store = store
        self._keys = keys
        self._content = content
        self._index = index
        self._missing = missing or {}
        self._segments: dict[bytes, Segment] = {}
        self._lock = threading.Lock()

    def fetch(self, kind: ChunkType, chunk_id: bytes) -> bytes:
        """The chunk's content.

        Raises DataLoss/CHECKSUM_MISMATCH naming the chunk when it is not there or not what was stored,
        FailedPrecondition/KEY_REQUIRED without the key of its epoch, and what the store raises.
        """
        number = self._index.find(chunk_id)
        if number < 0:
            raise damaged(chunk_label(kind, chunk_id), "no pack that is there holds it")
        failure: DataLoss | None = None
        for pack_id, segment, record in self._index.locations(number):
            try:
                return self._open_at(kind, chunk_id, pack_id, segment, record)
            except DataLoss as error:
                failure = failure or error
        assert failure is not None
        raise failure

    def _open_at(
        self, kind: ChunkType, chunk_id: bytes, pack_id: bytes, segment: SegmentRecord, record: ChunkRecord
    ) -> bytes:
        message = self.message(kind, chunk_id, pack_id, record)
        body = self._segment(segment).decrypt(kind, record.number, chunk_id, message)
        return open_body(self._keys, kind, record, body, pack_id)

    def message(self, kind: int, chunk_id: bytes, pack_id: bytes, record: ChunkRecord) -> bytes:
        """A chunk's message in one of its packs: the stored bytes, compared with their check alone. Raises DataLoss."""
        label, name = chunk_label(kind, chunk_id), pack_name(pack_id)
        if record.kind != kind or record.length < MESSAGE_TAG:
            raise damaged(label, f"{name} holds it as something else", pack=pack_id.hex())
        try:
            message = self._store.get(name, record.offset, record.length)
        except ObjectMissing as error:
            raise damaged(label, f"{name} is gone", pack=pack_id.hex()) from error
        if len(message) != record.length or self._keys.check_of(message) != record.check:
            raise damaged(label, f"its bytes in {name} are not what was stored", pack=pack_id.hex())
        return message

    def _segment(self, record: SegmentRecord) -> Segment:
        segment = self._segments.get(record.segment_id)
        if segment is None:
            segment = Segment.open(record, self._keys, self._content)
            with self._lock:
                self._segments[record.segment_id] = segment
        return segment


def open_body(keys: IndexKeys, kind: int, record: ChunkRecord, body: bytes, pack_id: bytes) -> bytes:
    """The content of a chunk whose decrypted message is `body`.

    Raises DataLoss/CHECKSUM_MISMATCH unless it is what the chunk's id names.
    """
    content = body if len(body) == record.raw_length else unpack(body, record.raw_length)
    if content is None or keys.chunk_id(kind, content) != record.chunk_id:
        label = chunk_label(kind, record.chunk_id)
        raise damaged(label, f"what lies in {pack_name(pack_id)} is something else", pack=pack_id.hex())
    return content
