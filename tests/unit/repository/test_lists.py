"""Lists of chunks: read back as written, shared between snapshots, and refused when they are anything else."""

from __future__ import annotations

import hashlib
import struct

import pytest

from holdfast_server.errors import DataLoss, Reason
from holdfast_server.repository.format import CHUNK_MAX, ChunkType
from holdfast_server.repository.lists import PAGE_MAX, PAGE_MIN, RECORD_SIZE, ListRoot, ListWriter, read_list
from tests.unit.repository.pages import Chunks

LIST = ChunkType.LIST
Listed = list[tuple[ChunkType, bytes, int]]


def make(number: int, start: int = 0) -> Listed:
    kinds = (ChunkType.DATA, ChunkType.TREE, ChunkType.EXTENTS, ChunkType.ROOT)
    return [(kinds[i % 4], hashlib.sha256(b"%d" % i).digest(), i) for i in range(start, start + number)]


def write(chunks: Chunks, listed: Listed) -> ListRoot:
    writer = ListWriter(chunks.store(LIST))
    for each in listed:
        writer.add(*each)
    return writer.finish()


MANY = make(60_000)


@pytest.mark.parametrize("number", [1, 2, 440, 2_000, 60_000])
def test_round_trip(number: int) -> None:
    chunks = Chunks()
    root = write(chunks, MANY[:number])
    assert root.chunks == number
    assert list(read_list(chunks.fetch, root)) == MANY[:number]
    sizes = sorted(map(len, chunks.of(LIST).values()))
    assert all(PAGE_MIN <= size <= PAGE_MAX for size in sizes[root.level + 1 :])


def test_the_bytes_of_a_page() -> None:
    chunks = Chunks()
    root = write(chunks, [(ChunkType.ROOT, b"r" * 32, 7)])
    assert chunks.fetch(LIST, root.id) == b"\0\4" + b"r" * 32 + b"\7\0\0\0"
    assert root == ListRoot(0, root.id, 1)
    assert len(chunks.fetch(LIST, root.id)) == 1 + RECORD_SIZE


def test_a_list_that_never_cuts_by_itself_is_cut_at_the_largest_size() -> None:
    chunks = Chunks()
    root = write(chunks, [(ChunkType.DATA, b"\xff\xff" + struct.pack("<Q22x", i), 0) for i in range(10_000)])
    assert root.level == 1
    assert len(list(read_list(chunks.fetch, root))) == 10_000
    assert all(len(page) <= PAGE_MAX for page in chunks.of(LIST).values())


def test_snapshots_share_pages() -> None:
    chunks = Chunks()
    write(chunks, MANY)
    pages = len(chunks.content)
    assert pages > 40
    assert write(chunks, MANY) == write(chunks, MANY)
    assert len(chunks.content) == pages
    for changed in (
        [*MANY[:30_000], *make(3, 90_000), *MANY[30_000:]],
        [*make(1, 90_000), *MANY],
        [*MANY, *make(1, 90_000)],
        [*MANY[:100], *MANY[101:]],
        [*MANY[:40_000], (MANY[40_000][0], MANY[40_000][1], 1), *MANY[40_001:]],
    ):
        before = len(chunks.content)
        root = write(chunks, changed)
        assert len(chunks.content) - before <= 4
        assert list(read_list(chunks.fetch, root)) == changed


def test_what_no_list_can_hold_is_refused() -> None:
    writer = ListWriter(Chunks().store(LIST))
    for kind, chunk_id, live in (
        (ChunkType.LIST, bytes(32), 0),
        (ChunkType.DATA, bytes(31), 0),
        (ChunkType.DATA, bytes(32), -1),
        (ChunkType.DATA, bytes(32), CHUNK_MAX + 1),
    ):
        with pytest.raises(ValueError, match="no chunk for a list"):
            writer.add(kind, chunk_id, live)
    with pytest.raises(ValueError, match="names no chunk"):
        writer.finish()


def record(kind: int = 1, live: int = 0) -> bytes:
    return struct.pack("<B32sI", kind, b"c" * 32, live)


@pytest.mark.parametrize(
    ("level", "page", "chunks_stated", "message"),
    [
        (0, b"", 1, "no page"),
        (0, b"\0", 1, "no page"),
        (0, b"\0" + record()[:-1], 1, "no page"),
        (0, b"\1" + record(), 1, "no page"),
        (1, b"\1", 1, "no page"),
        (1, b"\1" + bytes(33), 1, "no page"),
        (1, b"\1" + bytes(32), 1, "missing"),
        (1, b"\1" + bytes(64), 1, "longer"),
        (0, b"\0" + record(0), 1, "malformed"),
        (0, b"\0" + record(5), 1, "malformed"),
        (0, b"\0" + record(live=CHUNK_MAX + 1), 1, "malformed"),
        (0, b"\0" + record() * 2, 1, "longer"),
        (0, b"\0" + record() * 2, 3, "has 2 chunks"),
    ],
)
def test_a_page_that_lies(level: int, page: bytes, chunks_stated: int, message: str) -> None:
    chunks = Chunks()
    root = ListRoot(level, chunks.store(LIST)(page) if page else b"e" * 32, chunks_stated)
    chunks.content.setdefault((LIST, root.id), page)
    with pytest.raises(DataLoss, match=message) as caught:
        list(read_list(chunks.fetch, root))
    assert caught.value.reason is Reason.CHECKSUM_MISMATCH


def test_a_list_that_repeats_itself_ends_soon() -> None:
    chunks = Chunks()
    store = chunks.store(LIST)
    page = store(b"\0" + record())
    for level in range(1, 200):
        page = store(bytes((level,)) + page * 2)
    with pytest.raises(DataLoss, match="longer"):
        list(read_list(chunks.fetch, ListRoot(199, page, 100)))
    assert chunks.fetched.total() < 1_000
