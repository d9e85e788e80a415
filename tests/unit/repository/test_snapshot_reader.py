"""A snapshot read from chunks: its root, its files' content, and what it does about damage."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest

from holdfast_server.errors import DataLoss, Reason
from holdfast_server.repository.entries import Entry, EntryFlag, EntryKind, file_tail, link_tail
from holdfast_server.repository.extents import Extent, encode_extent, encode_extent_pages, encode_hole
from holdfast_server.repository.format import CHUNK_MAX, ChunkType
from holdfast_server.repository.reader import Hole, SnapshotReader
from holdfast_server.repository.root import (
    MAX_PROBLEMS,
    RootInfo,
    RootProblem,
    SourceAttributes,
    decode_root,
    encode_root,
)
from holdfast_server.repository.tree import TreeRoot
from tests.unit.repository.pages import Chunks, make_directory, make_file, write_tree

DATA = ChunkType.DATA
ATTRIBUTES = SourceAttributes(0o2750, -5, 1000, 4_294_967_295, ((b"user.z", b""), (b"user.\xff", b"\0")))
FULL = RootInfo(
    attributes=ATTRIBUTES,
    tree=TreeRoot(2, b"t" * 32),
    ignore=("*.tmp", "!ä/"),
    problems=(RootProblem(b"a/\xff", "SKIPPED", "a socket"), RootProblem("ä".encode(), "CHANGED", "“x”")),
    key_ids=("ab" * 16,),
    coins={"coins": 3, "folders": {"Bank": {"coins": 3}}},
)


@dataclass(frozen=True)
class Rooted:
    root: bytes


def open_snapshot(chunks: Chunks, entries: list[Entry], cache_bytes: int = 16 << 20) -> SnapshotReader:
    info = replace(FULL, tree=write_tree(chunks, entries))
    root_id = chunks.store(ChunkType.ROOT)(encode_root(info))
    return SnapshotReader(chunks.fetch, Rooted(root_id), cache_bytes=cache_bytes)


def make_large(references: tuple[bytes, bool], size: int, name: bytes = b"large") -> Entry:
    flags = int(EntryFlag.PAGED) if references[1] else 0
    tail = file_tail(size, None, references[0], paged=references[1])
    return Entry(b"", name, EntryKind.FILE, flags, 0o600, 0, 0, 0, tail)


# The root.


def test_a_root_comes_back() -> None:
    assert decode_root(encode_root(FULL), "root") == FULL
    bare = RootInfo(SourceAttributes(0, 0, 0, 0), None)
    assert decode_root(encode_root(bare), "root") == bare
    record = json.loads(encode_root(FULL))
    assert record["attributes"]["mode"] == "2750"
    assert record["problems"][0] == {"path_base64": "YS//", "reason": "SKIPPED", "message": "a socket"}
    assert "coins" not in json.loads(encode_root(bare))


def test_problems_are_kept_as_far_as_they_fit() -> None:
    problem = RootProblem(b"p", "R", "m")
    many = replace(FULL, problems=(problem,) * (MAX_PROBLEMS + 1))
    assert decode_root(encode_root(many), "root").problems == (problem,) * MAX_PROBLEMS
    long = replace(problem, path=b"\xff" * 100_000)
    content = encode_root(replace(FULL, problems=(long,) * MAX_PROBLEMS))
    assert CHUNK_MAX - 140_000 < len(content) <= CHUNK_MAX
    assert set(decode_root(content, "root").problems) == {long}
    with pytest.raises(ValueError, match="does not fit"):
        encode_root(replace(FULL, ignore=("x" * CHUNK_MAX,)))


def test_unknown_keys_of_a_root_are_ignored() -> None:
    record = {**json.loads(encode_root(FULL)), "later": 1}
    assert decode_root(json.dumps(record).encode(), "root") == FULL


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("version", value) for value in (2, True, "1", None)),
        *(("tree", value) for value in (1, {}, {"level": 256, "id": "00" * 32}, {"level": 0, "id": "00"})),
        ("tree", {"level": 0, "id": "AA" * 32}),
        *(("tree", {"level": value, "id": "00" * 32}) for value in (-1, True, 0.0)),
        *(("ignore", value) for value in (None, "x", [1])),
        *(("problems", value) for value in (None, [1], [{}], [{"path": 1, "reason": "", "message": ""}])),
        ("problems", [{"path_base64": "!", "reason": "", "message": ""}]),
        ("problems", [{"path": "p", "reason": "", "message": ""}] * (MAX_PROBLEMS + 1)),
        ("key_ids", {}),
        ("coins", []),
        ("attributes", None),
    ],
)
def test_a_root_that_is_none(key: str, value: Any) -> None:
    record = {**json.loads(encode_root(FULL)), key: value}
    with pytest.raises(DataLoss, match="root 00") as caught:
        decode_root(json.dumps(record).encode(), "root 00")
    assert caught.value.reason is Reason.CHECKSUM_MISMATCH
    del record[key]
    if key != "coins":
        with pytest.raises(DataLoss):
            decode_root(json.dumps(record).encode(), "root 00")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("mode", value) for value in (0o644, "9", "10000", "-1", "", "0o7", " 7")),
        *(("mtime_ns", value) for value in (1 << 63, "0", 0.5)),
        *(("uid", value) for value in (-1, 1 << 32, None)),
        *(("xattrs", value) for value in (None, [1], [["YQ=="]], [["YQ==", "!"]], [["YQ==", "YQ==", "YQ=="]])),
    ],
)
def test_attributes_that_are_none(key: str, value: Any) -> None:
    record = json.loads(encode_root(FULL))
    record["attributes"][key] = value
    with pytest.raises(DataLoss, match="malformed"):
        decode_root(json.dumps(record).encode(), "root")


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"null", b"1" * 5_000, b"[" * 100_000, b"{}"])
def test_what_is_no_json(content: bytes) -> None:
    with pytest.raises(DataLoss, match="malformed"):
        decode_root(content, "root")


# Content.


def test_small_files_of_one_chunk_cost_one_fetch() -> None:
    chunks = Chunks()
    contents = [b"%05d" % number * 7 for number in range(1_000)]
    shared = chunks.store(DATA)(b"".join(contents))
    entries = [
        replace(make_file(b"", b"%04d" % number), tail=file_tail(35, b"d" * 16, encode_extent(shared, 35 * number, 35)))
        for number in range(1_000)
    ]
    reader = open_snapshot(chunks, entries)
    assert [b"".join(reader.blocks(entry)) for entry in reader.entries()] == contents  # type: ignore[arg-type]
    assert set(chunks.fetched.values()) == {1}
    assert reader.root.ignore == FULL.ignore


def test_holes_and_parts_come_in_order() -> None:
    chunks = Chunks()
    first, second = chunks.store(DATA)(b"abcdef"), chunks.store(DATA)(b"123")
    extents = [encode_hole(5), encode_extent(first, 1, 4), encode_extent(second, 0, 3), encode_hole(1 << 40)]
    entry = make_large((b"".join(extents), False), 12 + (1 << 40))
    reader = open_snapshot(chunks, [entry])
    found = reader.find(b"large")
    assert found == entry
    assert found is not None
    assert list(reader.blocks(found)) == [Hole(5), b"bcde", b"123", Hole(1 << 40)]
    assert list(reader.extents(found))[1] == Extent(first, 1, 4)


def test_a_file_of_many_extents_is_read_through_their_pages() -> None:
    chunks = Chunks()
    store, number = chunks.store(DATA), 5_000
    extents = [encode_extent(store(b"%05d" % i), 0, 5) for i in range(number)]
    references = encode_extent_pages(extents, chunks.store(ChunkType.EXTENTS))
    assert references[1]
    reader = open_snapshot(chunks, [make_large(references, 5 * number)], cache_bytes=1 << 20)
    (entry,) = reader.entries()
    assert len(entry.pages) > 3
    assert entry.extents == ()
    assert b"".join(reader.blocks(entry)) == b"".join(b"%05d" % i for i in range(number))  # type: ignore[arg-type]
    for size in (5 * number - 1, 5 * number + 1, 1):
        wrong = make_large(references, size)
        with pytest.raises(DataLoss, match="entry large: its extents are") as caught:
            list(reader.blocks(wrong))
        assert caught.value.metadata["path"] == "large"


@pytest.mark.parametrize("page", [b"", bytes(40), bytes(41), b"c" * 39 + b"\xff"])
def test_an_extent_page_that_lies(page: bytes) -> None:
    chunks = Chunks()
    page_id = b"p" * 32
    chunks.content[ChunkType.EXTENTS, page_id] = page
    reader = open_snapshot(chunks, [make_large((page_id, True), 9)])
    (entry,) = reader.entries()
    with pytest.raises(DataLoss, match=f"extent page {page_id.hex()}"):
        list(reader.extents(entry))


def test_an_extent_behind_its_chunk_names_the_file() -> None:
    chunks = Chunks()
    short = chunks.store(DATA)(b"abc")
    for offset, length in ((0, 4), (3, 1), (1, 3)):
        reader = open_snapshot(chunks, [make_large((encode_extent(short, offset, length), False), length)])
        (entry,) = reader.entries()
        with pytest.raises(DataLoss, match="entry large: it has an extent behind the end") as caught:
            list(reader.blocks(entry))
        assert caught.value.reason is Reason.CHECKSUM_MISMATCH


def test_sizes_that_do_not_add_up_give_nothing_out() -> None:
    chunks = Chunks()
    chunk = chunks.store(DATA)(b"abc")
    reader = open_snapshot(chunks, [make_large((encode_extent(chunk, 0, 3), False), 4)])
    (entry,) = reader.entries()
    chunks.fetched.clear()
    with pytest.raises(DataLoss, match="entry large: its extents do not add up"):
        next(reader.blocks(entry))
    assert not chunks.fetched


def test_only_files_have_content() -> None:
    reader = open_snapshot(Chunks(), [make_directory(b"", b"d")])
    link = replace(make_directory(b"", b"s"), kind=EntryKind.SYMLINK, tail=link_tail(b"t"))
    for entry in (*reader.entries(), link):
        with pytest.raises(ValueError, match="is no file"):
            list(reader.blocks(entry))
    empty = make_file(b"", b"empty", size=0)
    assert list(reader.blocks(empty)) == []


def test_what_is_kept_stays_bounded() -> None:
    chunks = Chunks()
    store = chunks.store(DATA)
    ids = [store(bytes((number,)) * 1_000) for number in range(20)]
    parts = [make_large((encode_extent(chunk_id, 1, 9), False), 9) for chunk_id in ids]
    reader = open_snapshot(chunks, [], cache_bytes=10_000)
    for entry in parts:
        list(reader.blocks(entry))
    for entry in parts[-10:]:
        list(reader.blocks(entry))
    assert set(chunks.fetched.values()) == {1}
    list(reader.blocks(parts[0]))
    assert chunks.fetched[ids[0]] == 2
    # Chunks that are used whole do not drive out the others.
    whole = make_large((b"".join(encode_extent(chunk_id, 0, 1_000) for chunk_id in ids[:10]), False), 10_000)
    list(reader.blocks(whole))
    list(reader.blocks(parts[-1]))
    assert chunks.fetched[ids[-1]] == 1


def test_browsing() -> None:
    entries = [make_directory(b"", b"a"), make_file(b"a", b"x"), make_file(b"a", b"y"), make_file(b"", b"a-b")]
    reader = open_snapshot(Chunks(), entries)
    assert [entry.path for entry in reader.level(b"a", after=b"x")] == [b"a/y"]
    assert [entry.path for entry in reader.subtree(b"a")] == [b"a", b"a/x", b"a/y"]
    assert [entry.path for entry in reader.entries((b"", b"a"))] == [b"a-b", b"a/x", b"a/y"]
    assert list(open_snapshot(Chunks(), []).entries()) == []
