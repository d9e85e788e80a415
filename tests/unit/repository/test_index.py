"""What index objects and the store's packs say together."""

from __future__ import annotations

import pytest

from holdfast_server.errors import DataLoss
from holdfast_server.repository.fetching import ChunkSource
from holdfast_server.repository.format import ChunkType, pack_name
from holdfast_server.repository.index import LoadedIndex, load_index, write_index
from holdfast_server.repository.packs import PackRecord
from holdfast_server.storage.objects import MemoryObjects
from tests.unit.repository.packing import CONTENT, KEYS, Packer, noise


@pytest.fixture
def packer() -> Packer:
    return Packer(MemoryObjects())


def load(packer: Packer, condemned: frozenset[bytes] = frozenset()) -> LoadedIndex:
    return load_index(packer.store, KEYS, keep_keys=True, check=lambda: None, condemned=condemned)


def packed(packer: Packer, *contents: bytes) -> PackRecord:
    return packer.pack(*(packer.message(ChunkType.DATA, content) for content in contents))


def test_packs_are_known_by_index_objects_and_adopted_without(packer: Packer) -> None:
    listed, orphan = packed(packer, b"one", b"two"), packed(packer, b"three")
    written, size = write_index(packer.store, KEYS, [listed])
    found = load(packer)
    assert found.index_ids == set(written)
    assert size == sum(info.size for info in packer.store.list("index/"))
    assert found.adopted == [orphan]
    assert len(found.chunks) == 3
    source = ChunkSource(packer.store, KEYS, CONTENT, found.chunks)
    for content in (b"one", b"two", b"three"):
        assert source.fetch(ChunkType.DATA, KEYS.chunk_id(ChunkType.DATA, content)) == content


@pytest.mark.parametrize("harm", ["gone", "cut", "longer"])
def test_a_pack_that_is_not_as_it_was_put_counts_as_missing(packer: Packer, harm: str) -> None:
    record = packed(packer, b"one")
    write_index(packer.store, KEYS, [record])
    content = packer.store.get(record.name)
    if harm == "gone":
        packer.store.delete(record.name)
    else:
        packer.store.put(record.name, [content[:-1] if harm == "cut" else content + b"x"])
    found = load(packer)
    assert set(found.missing) == {record.pack_id}
    assert len(found.chunks) == 0


def test_a_pack_without_index_that_cannot_be_read_is_told(packer: Packer) -> None:
    record = packed(packer, b"one")
    packer.store.put(record.name, [packer.store.get(record.name)[:-1]])
    assert set(load(packer).unreadable) == {record.pack_id}


def test_a_damaged_index_object_is_told_and_its_packs_are_adopted(packer: Packer) -> None:
    record = packed(packer, b"one")
    write_index(packer.store, KEYS, [record])
    (name,) = [info.name for info in packer.store.list("index/")]
    content = bytearray(packer.store.get(name))
    content[40] ^= 1
    packer.store.put(name, [content])
    found = load(packer)
    assert set(found.damaged) == {name}
    assert found.adopted == [record]
    assert found.chunks.find(KEYS.chunk_id(ChunkType.DATA, b"one")) == 0


def test_chunks_of_condemned_packs_are_unknown(packer: Packer) -> None:
    listed, orphan = packed(packer, b"one"), packed(packer, b"two")
    write_index(packer.store, KEYS, [listed])
    found = load(packer, frozenset({listed.pack_id, orphan.pack_id}))
    assert len(found.chunks) == 0
    assert not found.adopted


def test_a_damaged_copy_does_not_hide_a_whole_one(packer: Packer) -> None:
    content = noise(3_000)
    records = [packed(packer, content) for _ in range(2)]
    write_index(packer.store, KEYS, records)
    chunk_id = KEYS.chunk_id(ChunkType.DATA, content)
    for harmed in records:
        whole = packer.store.get(harmed.name)
        packer.store.put(harmed.name, [b"\0" + whole[1:]])
        source = ChunkSource(packer.store, KEYS, CONTENT, load(packer).chunks)
        assert source.fetch(ChunkType.DATA, chunk_id) == content
        packer.store.put(harmed.name, [whole])
    for harmed in records:
        packer.store.put(harmed.name, [b"\0" + packer.store.get(harmed.name)[1:]])
    with pytest.raises(DataLoss, match="not what was stored"):
        ChunkSource(packer.store, KEYS, CONTENT, load(packer).chunks).fetch(ChunkType.DATA, chunk_id)


def test_a_chunk_that_is_nowhere_is_damage(packer: Packer) -> None:
    source = ChunkSource(packer.store, KEYS, CONTENT, load(packer).chunks)
    with pytest.raises(DataLoss, match="no pack that is there holds it"):
        source.fetch(ChunkType.DATA, bytes(32))


def test_what_is_not_ours_in_the_store_is_passed_over(packer: Packer) -> None:
    record = packed(packer, b"one")
    packer.store.put(pack_name(b"x" * 16).replace("78", "zz", 1), [b"?"])
    packer.store.put("index/readme.txt", [b"?"])
    found = load(packer)
    assert found.adopted == [record]
    assert not found.unreadable
