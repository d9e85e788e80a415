"""Small packs for tests."""

from __future__ import annotations

import os

import zstandard

from holdfast_server.repository.content_keys import ContentKeys
from holdfast_server.repository.crypto import IndexKeys, Segment
from holdfast_server.repository.format import TIER_OF, ChunkType, Tier
from holdfast_server.repository.packs import Message, PackBuilder, PackRecord
from holdfast_server.storage.objects import MemoryObjects

UUID = bytes(range(16))
KEYS = IndexKeys(b"i" * 32, UUID)
CONTENT = ContentKeys.generate()


class Packer:
    """Puts chunks into packs of a store, each pack as it is told."""

    def __init__(self, store: MemoryObjects, keys: IndexKeys = KEYS) -> None:
        self.store = store
        self.keys = keys
        self.segments = {
            Tier.CONTENT: Segment.new_content(CONTENT.public(1), keys.uuid),
            Tier.INDEX: Segment.new_index(keys),
        }
        self._numbers = dict.fromkeys(Tier, 0)

    def message(self, kind: ChunkType, content: bytes, small_files: tuple[bytes, ...] = ()) -> Message:
        tier = TIER_OF[kind]
        segment, number = self.segments[tier], self._numbers[tier]
        self._numbers[tier] += 1
        frame = zstandard.compress(content)
        body = frame if len(frame) < len(content) else content
        out = bytearray(len(body) + 16)
        chunk_id = self.keys.chunk_id(kind, content)
        segment.encrypt_into(kind, number, chunk_id, body, memoryview(out))
        records = b"".join(self.keys.small_digest(one) + len(one).to_bytes(4, "little") for one in small_files)
        return Message(chunk_id, kind, segment, number, len(content), out, self.keys.check_of(out), records)

    def pack(self, *messages: Message) -> PackRecord:
        builder = PackBuilder(self.keys)
        for message in messages:
            builder.add(message)
        record, parts = builder.finish()
        self.store.put(record.name, parts)
        return record


def noise(size: int) -> bytes:
    """Content that does not shrink."""
    return os.urandom(size)
