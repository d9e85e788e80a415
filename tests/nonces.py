"""That no data key is used with a nonce twice: in all that was sent to a store, also by what failed or was killed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

from holdfast_server.repository import ContentKeys
from holdfast_server.repository.crypto import IndexKeys
from holdfast_server.repository.format import TRAILER, Tier, damaged, is_object_id
from holdfast_server.repository.packs import PackRecord, SegmentRecord, read_directory
from holdfast_server.storage.objects import Buffer, MemoryObjects, ObjectInfo, ObjectStore

__all__ = ["NonceAudit", "RecordingObjects"]

_SEALED = ("index/", "snapshots/", "runs/", "log/")
_SALT = 32
_LIST_SEGMENT = b"holdfast repository 1 list segment"


class NonceAudit:
    """What keys and nonces one repository's writers have used; an assertion fails at the first that comes twice.

    The same bytes may be seen again, as of what was sent again or lies in the store: a nonce is used twice when it
    encrypts two things.
    """

    def __init__(self, keys: IndexKeys, content: ContentKeys) -> None:
        self._keys = keys
        self._content = content
        self._lock = threading.Lock()
        #: (segment, number) → check of the message; each segment's data key, and each data key's segment.
        self._messages: dict[tuple[bytes, int], bytes] = {}
        self._data_keys: dict[bytes, bytes] = {}
        self._segments: dict[bytes, bytes] = {}
        #: Salt → the object that it was used for.
        self._salts: dict[bytes, tuple[str, bytes]] = {}
        #: The objects that were taken in from a store.
        self._names: set[str] = set()

    @property
    def messages(self) -> int:
        """How many different messages were seen."""
        return len(self._messages)

    @property
    def salts(self) -> int:
        """How many different one-time keys were seen."""
        return len(self._salts)

    @property
    def segments(self) -> int:
        return len(self._segments)

    def add(self, name: str, content: bytes) -> None:
        """Take in one object. What is torn, as after a crash, is told by DataLoss."""
        folder, _, own = name.partition("/")
        with self._lock:
            if folder == "packs" and is_object_id(own):
                self._add_pack(name, bytes.fromhex(own), content)
            elif name.startswith(_SEALED):
                self._keys.open(name, content)
                self._add_salt(name, content[:_SALT], content)

    def add_all(self, store: ObjectStore) -> None:
        """Take in all objects of a store."""
        for info in store.list(""):
            self.add(info.name, store.get(info.name))
            self._names.add(info.name)

    def add_new(self, store: ObjectStore) -> None:
        """Take in the objects of a store, but for the packs that were there the last time: `add_all` in the end tells
        whether one of those has been written again."""
        for info in store.list(""):
            if not (info.name.startswith("packs/") and info.name in self._names):
                self.add(info.name, store.get(info.name))
                self._names.add(info.name)

    def _add_salt(self, name: str, salt: bytes, content: bytes) -> None:
        assert self._salts.setdefault(salt, (name, content)) == (name, content), f"the one-time key of {name} was used"

    def _add_pack(self, name: str, pack_id: bytes, content: bytes) -> None:
        record = read_directory(MemoryObjects({name: content}), self._keys, pack_id, len(content))
        # Directory and trailer are under one key that comes from this salt and the pack's id.
        self._add_salt(name, content[len(content) - TRAILER :][:_SALT], content)
        for segment in record.segments:
            self._add_segment(segment)
        for segment_id, number, check in _messages(record, self._keys, content):
            known = self._messages.setdefault((segment_id, number), check)
            assert known == check, f"message {number} of segment {segment_id.hex()} was encrypted twice, see {name}"

    def _add_segment(self, segment: SegmentRecord) -> None:
        if segment.tier is Tier.INDEX:
            data_key = self._keys.derive(segment.segment_id, _LIST_SEGMENT + self._keys.uuid)
        else:
            data_key = self._content.open_segment(self._keys.uuid, segment.segment_id, segment.epoch, segment.sealed)
        own = segment.segment_id
        assert self._segments.setdefault(own, data_key) == data_key, f"segment {own.hex()} has two data keys"
        assert self._data_keys.setdefault(data_key, own) == own, f"the data key of segment {own.hex()} is another's too"


def _messages(record: PackRecord, keys: IndexKeys, content: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    for chunk in record:
        message = content[chunk.offset : chunk.offset + chunk.length]
        check = keys.check_of(message)
        if check != chunk.check:
            raise damaged(record.name, f"chunk {chunk.chunk_id.hex()} is not what was stored")
        yield record.segments[chunk.segment].segment_id, chunk.number, check


class RecordingObjects:
    """Shows all that is sent to a store to an audit, and counts it; put it around one that fails."""

    def __init__(self, inner: ObjectStore, audit: NonceAudit | None = None) -> None:
        self.inner = inner
        self._audit = audit
        #: Names and sizes of what was put or created.
        self.sent: list[tuple[str, int]] = []

    def __str__(self) -> str:
        return f"recorded {self.inner}"

    def _record(self, name: str, content: bytes) -> None:
        self.sent.append((name, len(content)))
        if self._audit is not None:
            self._audit.add(name, content)

    def put(self, name: str, parts: Sequence[Buffer]) -> None:
        self._record(name, b"".join(parts))
        self.inner.put(name, parts)

    def create_if_absent(self, name: str, content: bytes) -> bool:
        self._record(name, content)
        return self.inner.create_if_absent(name, content)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        return self.inner.get(name, offset, length)

    def size(self, name: str) -> int:
        return self.inner.size(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self.inner.list(prefix)

    def delete(self, name: str) -> None:
        self.inner.delete(name)

    def use_reserve(self) -> AbstractContextManager[None]:
        return self.inner.use_reserve()

    def keep_reserve(self) -> None:
        self.inner.keep_reserve()
