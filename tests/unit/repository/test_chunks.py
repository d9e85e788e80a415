"""The index in memory."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from holdfast_server.repository.chunks import ChunkIndex
from holdfast_server.repository.format import CHUNK_RECORD, ChunkType
from holdfast_server.repository.packs import PackRecord
from holdfast_server.storage.objects import MemoryObjects
from tests.unit.repository.packing import Packer, noise


def test_chunks_are_found_where_they_lie() -> None:
    packer, index = Packer(MemoryObjects()), ChunkIndex(keep_keys=True)
    contents = [noise(50) for _ in range(3_000)]
    records = [
        packer.pack(*(packer.message(ChunkType.DATA, one) for one in contents[at : at + 100]))
        for at in range(0, len(contents), 100)
    ]
    for record in records:
        index.add_pack(record)
        index.add_pack(record)
    assert len(index) == len(contents)
    for at, content in enumerate(contents):
        chunk_id = packer.keys.chunk_id(ChunkType.DATA, content)
        number = index.find(chunk_id)
        assert number == index.find(chunk_id[:16])
        pack_id, segment, chunk = index.location(number)
        assert (pack_id, index.raw_length(number), index.kind(number)) == (records[at // 100].pack_id, 50, 1)
        assert chunk == list(records[at // 100])[at % 100]
        assert segment == records[0].segments[0]
    assert index.find(bytes(32)) == index.find(bytes(16)) == -1


def test_without_keys_sealed_keys_are_not_kept() -> None:
    packer, index = Packer(MemoryObjects()), ChunkIndex(keep_keys=False)
    content = noise(50)
    index.add_pack(packer.pack(packer.message(ChunkType.DATA, content)))
    assert index.location(0)[1].sealed == b""


@given(st.lists(st.binary(min_size=1, max_size=2), max_size=300))
def test_numbers_are_those_of_a_dictionary(names: list[bytes]) -> None:
    index, model = ChunkIndex(keep_keys=False), dict[bytes, int]()
    for name in names:
        chunk_id = name.ljust(32, b".")
        if chunk_id not in model:
            assert index.find(chunk_id) == -1
            model[chunk_id] = index.add_new(chunk_id, ChunkType.TREE, len(name))
    for chunk_id, number in model.items():
        assert index.find(chunk_id) == number
        assert index.chunk_id(number) == chunk_id
    assert len(index) == len(model)


def test_a_chunk_takes_less_than_a_hundred_bytes() -> None:
    index = ChunkIndex(keep_keys=False)
    count = 200_000
    for at in range(0, count, 2_000):
        chunks = b"".join(noise(32) + bytes(CHUNK_RECORD - 32) for _ in range(2_000))
        index.add_pack(PackRecord(at.to_bytes(16, "big"), 1, (), chunks, b""))
    parts = (index._records, index._pack_of, index._slots)
    assert sum(map(sys.getsizeof, parts)) <= 100 * count
