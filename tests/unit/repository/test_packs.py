"""Packs: what is written is found by the directory, and nothing else passes for it."""

from __future__ import annotations

import pytest

from holdfast_server.errors import DataLoss
from holdfast_server.repository.format import PACK_TARGET, ChunkType, padded_size
from holdfast_server.repository.packs import PackBuilder, PackRecord, decode_records, encode_records, read_directory
from holdfast_server.storage.objects import MemoryObjects
from tests.unit.repository.packing import KEYS, UUID, Packer, noise


@pytest.fixture
def packer() -> Packer:
    return Packer(MemoryObjects())


def test_a_pack_is_found_by_its_directory(packer: Packer) -> None:
    files = (b"one", b"three", b"")
    messages = [
        packer.message(ChunkType.DATA, b"".join(files), files),
        packer.message(ChunkType.TREE, noise(5_000)),
        packer.message(ChunkType.LIST, bytes(70_000)),
    ]
    record = packer.pack(*messages)
    size = packer.store.size(record.name)
    assert size == record.size == padded_size(size)
    found = read_directory(packer.store, KEYS, record.pack_id, size)
    assert found == record
    assert [chunk.chunk_id for chunk in found] == [message.chunk_id for message in messages]
    assert [(digest, offset, length) for digest, _, offset, length in found.small_of()] == [
        (KEYS.small_digest(b"one"), 0, 3),
        (KEYS.small_digest(b"three"), 3, 5),
        (KEYS.small_digest(b""), 8, 0),
    ]


def test_every_changed_byte_of_a_directory_and_every_cut_is_refused(packer: Packer) -> None:
    record = packer.pack(packer.message(ChunkType.DATA, b"content"), packer.message(ChunkType.LIST, b"list"))
    content = packer.store.get(record.name)
    messages = sum(chunk.length for chunk in record)
    for at in range(messages, len(content)):
        changed = bytearray(content)
        changed[at] ^= 1 + at % 255
        packer.store.put(record.name, [changed])
        with pytest.raises(DataLoss):
            read_directory(packer.store, KEYS, record.pack_id, len(changed))
    for size in range(len(content)):
        packer.store.put(record.name, [content[:size]])
        with pytest.raises(DataLoss):
            read_directory(packer.store, KEYS, record.pack_id, size)


def test_a_pack_does_not_pass_under_another_name(packer: Packer) -> None:
    one, other = (packer.pack(packer.message(ChunkType.DATA, noise(100))) for _ in range(2))
    packer.store.put(one.name, [packer.store.get(other.name)])
    with pytest.raises(DataLoss):
        read_directory(packer.store, KEYS, one.pack_id, other.size)


def test_records_of_an_index_object_come_back(packer: Packer) -> None:
    records = [packer.pack(packer.message(ChunkType.DATA, noise(10 * n + 1), (b"x" * n,))) for n in range(5)]
    content = encode_records(records)
    assert list(decode_records(content, "index/x")) == records
    for size in range(len(content)):
        with pytest.raises(DataLoss):
            list(decode_records(content[:size], "index/x"))
    with pytest.raises(DataLoss, match="behind its last record"):
        list(decode_records(content + b"\0", "index/x"))


def test_a_record_that_does_not_add_up_is_refused(packer: Packer) -> None:
    record = packer.pack(packer.message(ChunkType.DATA, b"some content", (b"some",)))
    assert record.require_sound(record.name) == sum(chunk.length for chunk in record)
    chunk = bytearray(record.chunks)
    for at, value in ((48, 9), (48, 5), (50, 1), (56, 1), (60, 15), (60, 255), (68, 2)):
        bent = bytes(chunk[:at]) + bytes([value]) + bytes(chunk[at + 1 :])
        wrong = PackRecord(record.pack_id, record.size, record.segments, bent, record.small_files)
        with pytest.raises(DataLoss):
            wrong.require_sound(record.name)


def test_a_pack_is_full_at_its_target(packer: Packer) -> None:
    builder = PackBuilder(KEYS)
    message = packer.message(ChunkType.DATA, noise(4 << 20))
    while builder.fits(message):
        builder.add(message)
    record, parts = builder.finish()
    assert sum(map(len, parts)) == record.size <= PACK_TARGET
    assert len(builder) == 7


@pytest.mark.parametrize(
    ("size", "padded"), [(1, 1), (9, 10), (1 << 20, 1 << 20), ((1 << 20) + 1, (1 << 20) + (1 << 15))]
)
def test_padding_is_padme(size: int, padded: int) -> None:
    assert padded_size(size) == padded
    assert KEYS.uuid == UUID
