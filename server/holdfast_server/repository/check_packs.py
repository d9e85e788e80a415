"""Checking packs: their directories against the index, and every byte of them.

What is known of each chunk is a byte by its number in the index, so that a million chunks cost little more than the
index itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from blake3 import blake3

from holdfast_server.errors import DataLoss
from holdfast_server.repository.check_report import Findings
from holdfast_server.repository.chunks import ChunkIndex
from holdfast_server.repository.content_keys import ContentKeys
from holdfast_server.repository.crypto import IndexKeys, Segment
from holdfast_server.repository.fetching import open_body
from holdfast_server.repository.format import PACK_MAX, pack_name
from holdfast_server.repository.index import list_packs, read_index
from holdfast_server.repository.packs import (
    ChunkRecord,
    PackRecord,
    SegmentRecord,
    decode_directory,
    read_directory,
)
from holdfast_server.storage.objects import ObjectMissing, ObjectStore

__all__ = ["LOST", "PROVED", "ChunkStates", "PackCheck", "choose_packs"]

#: No copy of the chunk is as it was stored.
LOST: Final = 1
#: Its bytes were read in this check and are right.
PROVED: Final = 2


class ChunkStates:
    """What is known of the chunks of an index."""

    def __init__(self, index: ChunkIndex) -> None:
        self.index = index
        self._states = bytearray(len(index))
        #: Of chunks that lie in several packs: the packs whose copy is damaged.
        self._bad_copies: dict[int, set[bytes]] = {}

    def is_lost(self, chunk_id: bytes) -> bool:
        """Whether it cannot be read: damaged, or in no pack that is there."""
        number = self.index.find(chunk_id)
        return number < 0 or bool(self._states[number] & LOST)

    def is_proved(self, number: int) -> bool:
        return bool(self._states[number] & PROVED)

    def prove(self, chunk_id: bytes) -> None:
        """A copy of it was read and is right."""
        number = self.index.find(chunk_id)
        if number >= 0:
            self._states[number] |= PROVED

    def spoil(self, chunk_id: bytes, pack_id: bytes) -> None:
        """The copy in that pack is damaged."""
        number = self.index.find(chunk_id)
        if number < 0:
            return
        packs = {pack for pack, _, _ in self.index.locations(number)}
        if len(packs) > 1:
            bad = self._bad_copies.setdefault(number, set())
            bad.add(pack_id)
            if bad < packs:
                return
        self._states[number] |= LOST

    def lose(self, chunk_id: bytes) -> None:
        """No copy of it could be read."""
        number = self.index.find(chunk_id)
        if number >= 0:
            self._states[number] |= LOST


class PackCheck:
    """The packs of a repository, their directories, and what index objects say of them.

    `index` holds what a reader finds: the chunks of packs that are there in the size they were put in. `expendable`
    are packs that may be gone, because they were condemned.
    """

    def __init__(self, store: ObjectStore, keys: IndexKeys, expendable: Collection[bytes], findings: Findings) -> None:
        self._store = store
        self._keys = keys
        self._expendable = expendable
        self._findings = findings
        #: Packs that were there at the beginning, and their sizes.
        self.sizes: dict[bytes, int] = {}
        self.index = ChunkIndex(keep_keys=True)
        #: Records by which packs can be read whose directory is damaged.
        self._indexed: dict[bytes, PackRecord] = {}
        self._digests: dict[bytes, bytes] = {}
        self._segments: dict[bytes, Segment] = {}

    def structure(self) -> None:
        """Read all directories and all index objects, and compare them."""
        # Packs first: what is put after this is indexed after it too, and not taken for missing.
        self.sizes = list_packs(self._store)
        for pack_id, size in sorted(self.sizes.items()):
            self._read_directory(pack_id, size)
        listed: set[bytes] = set()
        for name, records in self._index_objects():
            self._findings.report.objects += 1
            for record in records:
                listed.add(record.pack_id)
                self._compare(name, record)
        for pack_id in sorted(self.sizes.keys() - listed):
            if pack_id in self._digests:
                self._adopt(pack_id)

    def read(self, packs: Collection[bytes], content: ContentKeys | None, states: ChunkStates) -> int:
        """Read every byte of packs; with content keys every chunk is unpacked, too. Gives how many bytes there were."""
        total = 0
        for pack_id in packs:
            try:
                body = self._store.get(pack_name(pack_id), 0, PACK_MAX + 1)
            except ObjectMissing:
                self._gone(pack_id, "it is gone")
                continue
            total += len(body)
            self._read_one(pack_id, memoryview(body), content, states)
            self._findings.watch.advance(len(body))
            self._findings.report.packs += 1
        return total

    def _index_objects(self) -> Iterator[tuple[str, list[PackRecord]]]:
        damaged: dict[str, DataLoss] = {}
        for index_id, records in read_index(self._store, self._keys, self._findings.check, damaged.__setitem__):
            yield f"index/{index_id}", records
        for name, error in damaged.items():
            self._findings.report.objects += 1
            self._findings.error(name, error)

    def _read_directory(self, pack_id: bytes, size: int) -> None:
        try:
            record = read_directory(self._store, self._keys, pack_id, size)
        except ObjectMissing:
            self._gone(pack_id, "it is gone")
            return
        except DataLoss as error:
            self._findings.error(pack_name(pack_id), error)
        else:
            self._digests[pack_id] = _digest(record)
        self._findings.report.objects += 1

    def _compare(self, name: str, record: PackRecord) -> None:
        pack_id = record.pack_id
        digest = self._digests.get(pack_id)
        if digest is not None and digest != _digest(record):
            self._findings.damage(name, f"it tells of {record.name} what its directory does not")
        size = self.sizes.get(pack_id)
        if size is None:
            size = self._size_now(record)
        if size is None:
            self._gone(pack_id, f"it is gone, with {record.chunk_count} chunks")
            return
        if size != record.size:
            self._findings.damage(record.name, f"it has {size} bytes instead of {record.size}")
            return
        try:
            record.require_sound(name)
        except DataLoss as error:
            self._findings.error(name, error)
            return
        if digest is None:
            self._indexed[pack_id] = record
        self.index.add_pack(record)

    def _adopt(self, pack_id: bytes) -> None:
        """A pack that no index object lists counts by its directory: its writer may not have come that far."""
        try:
            self.index.add_pack(read_directory(self._store, self._keys, pack_id, self.sizes[pack_id]))
        except ObjectMissing:
            self._gone(pack_id, "it is gone")
        except DataLoss as error:
            self._findings.error(pack_name(pack_id), error)

    def _gone(self, pack_id: bytes, detail: str) -> None:
        if pack_id not in self._expendable:
            self._findings.damage(pack_name(pack_id), detail)

    def _size_now(self, record: PackRecord) -> int | None:
        try:
            return self._store.size(record.name)
        except ObjectMissing:
            return None

    def _read_one(self, pack_id: bytes, body: memoryview, content: ContentKeys | None, states: ChunkStates) -> None:
        name = pack_name(pack_id)
        try:
            record = decode_directory(
                self._keys, pack_id, len(body), lambda offset, length: body[offset : offset + length]
            )
        except DataLoss as error:
            self._findings.error(name, error)
            indexed = self._indexed.get(pack_id)
            if indexed is None or indexed.size != len(body):
                return
            record = indexed
        bad = 0
        for chunk in record:
            self._findings.check()
            problem = self._problem(chunk, record, body[chunk.offset : chunk.offset + chunk.length], content)
            if problem:
                states.spoil(chunk.chunk_id, pack_id)
                bad += 1
            else:
                states.prove(chunk.chunk_id)
            self._findings.report.chunks += 1
        if bad:
            self._findings.damage(name, f"{bad} of its {record.chunk_count} chunks are not what was stored")

    def _problem(
        self, chunk: ChunkRecord, record: PackRecord, message: memoryview, content: ContentKeys | None
    ) -> bool:
        """Whether the message is anything else than what was stored."""
        if self._keys.check_of(message) != chunk.check:
            return True
        if content is None:
            return False
        try:
            segment = self._segment(record.segments[chunk.segment], content)
            body = segment.decrypt(chunk.kind, chunk.number, chunk.chunk_id, message)
            open_body(self._keys, chunk.kind, chunk, body, record.pack_id)
        except DataLoss:
            return True
        return False

    def _segment(self, record: SegmentRecord, content: ContentKeys) -> Segment:
        segment = self._segments.get(record.segment_id)
        if segment is None:
            segment = self._segments[record.segment_id] = Segment.open(record, self._keys, content)
        return segment


def choose_packs(sizes: dict[bytes, int], percent: float, cursor: str) -> tuple[list[bytes], str]:
    """The packs of which `percent` of all bytes consist, at least one, that follow `cursor` in a fixed order.

    Gives them and the next cursor. A turn of checks reads every pack that was there all the time.
    """
    order = sorted(sizes)
    if percent >= 100 or not order:
        return order, ""
    after = bytes.fromhex(cursor)
    start = next((at for at, pack_id in enumerate(order) if pack_id > after), 0)
    wanted = sum(sizes.values()) * percent / 100
    chosen: list[bytes] = []
    size = 0
    for pack_id in order[start:] + order[:start]:
        if chosen and size >= wanted:
            break
        chosen.append(pack_id)
        size += sizes[pack_id]
    return chosen, chosen[-1].hex()


def _digest(record: PackRecord) -> bytes:
    return blake3(record.encode()).digest()
