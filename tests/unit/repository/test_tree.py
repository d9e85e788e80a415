"""The tree: what is changed stays near, what is asked for is near, and a page that lies is found out."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable

import pytest

from holdfast_server.errors import DataLoss, Reason
from holdfast_server.repository.entries import Entry, encode_folder
from holdfast_server.repository.format import CHUNK_MAX, ChunkType
from holdfast_server.repository.paths import key_of
from holdfast_server.repository.tree import (
    PAGE_MAX,
    PAGE_MIN,
    PATH_MAX,
    EntryTooLarge,
    TreeReader,
    TreeRoot,
    TreeWriter,
)
from tests.unit.repository.pages import Chunks, make_directory, make_file, write_tree

TREE = ChunkType.TREE


def wide_tree() -> list[Entry]:
    """Twenty folders of a thousand files, and what would stand between them in another order."""
    found = []
    for number in range(20):
        folder = b"f%02d" % number
        found += [make_directory(b"", folder), make_file(b"", folder + b"-"), make_file(b"", folder + b".x")]
        found += [make_file(folder, b"file %d" % i) for i in range(1_000)]
    return sorted(found, key=lambda entry: entry.key)


WIDE = wide_tree()


def paths(entries: list[Entry]) -> list[bytes]:
    return [entry.path for entry in entries]


def test_an_empty_tree() -> None:
    chunks = Chunks()
    assert write_tree(chunks, []) is None
    reader = TreeReader(chunks.fetch, None)
    assert list(reader.entries()) == list(reader.level(b"")) == list(reader.subtree(b"")) == []
    assert reader.find(b"a") is None


def test_the_bytes_of_one_page() -> None:
    chunks = Chunks()
    root = write_tree(chunks, [make_file(b"a", b"x"), make_directory(b"", b"a")])
    assert root == TreeRoot(0, next(iter(chunks.of(TREE))))
    expected = [encode_folder(b""), make_directory(b"", b"a").encode(), encode_folder(b"a")]
    assert chunks.fetch(TREE, root.id) == b"\0" + b"".join(expected) + make_file(b"a", b"x").encode()


def test_everything_comes_back_in_the_order_of_the_tree() -> None:
    chunks = Chunks()
    reader = TreeReader(chunks.fetch, write_tree(chunks, WIDE))
    assert list(reader.entries()) == WIDE
    for number in (0, 1, 999, 15_000, len(WIDE) - 1):
        entry = WIDE[number]
        assert list(reader.entries((entry.folder, entry.name))) == WIDE[number + 1 :]
    assert list(reader.entries((b"f07", b"file 5+"))) == [entry for entry in WIDE if entry.key > (b"f07", b"file 5+")]


def test_pages_have_the_sizes_that_are_meant() -> None:
    chunks = Chunks()
    root = write_tree(chunks, WIDE)
    assert root is not None
    assert root.level == 1
    sizes = sorted(len(page) for page in chunks.of(TREE).values())
    assert sizes[2] >= PAGE_MIN  # but the last page, and the root
    assert sizes[-1] <= PAGE_MAX
    assert 50_000 < sum(sizes) / len(sizes) < 100_000


def test_the_order_of_paths_is_by_folder() -> None:
    chunks = Chunks()
    names = [b"a", b"a-b", b"a.b", b"a b"]
    entries = [make_directory(b"", name) for name in names] + [make_file(name, b"x") for name in names]
    entries += [make_directory(b"a", b"b"), make_file(b"a/b", b"y"), make_file(b"a", b"b-c")]
    reader = TreeReader(chunks.fetch, write_tree(chunks, entries))
    assert paths(list(reader.entries())) == [
        *(b"a", b"a b", b"a-b", b"a.b"),
        *(b"a/b", b"a/b-c", b"a/x", b"a/b/y", b"a b/x", b"a-b/x", b"a.b/x"),
    ]
    assert paths(list(reader.subtree(b"a"))) == [b"a", b"a/b", b"a/b-c", b"a/x", b"a/b/y"]
    assert paths(list(reader.subtree(b"a/b"))) == [b"a/b", b"a/b/y"]
    assert paths(list(reader.subtree(b"a/x"))) == [b"a/x"]
    assert paths(list(reader.level(b"a"))) == [b"a/b", b"a/b-c", b"a/x"]
    assert paths(list(reader.level(b"a", after=b"b"))) == [b"a/b-c", b"a/x"]
    assert paths(list(reader.level(b"a", after=b"b-"))) == [b"a/b-c", b"a/x"]
    assert paths(list(reader.level(b""))) == [b"a", b"a b", b"a-b", b"a.b"]
    assert list(reader.level(b"none")) == list(reader.subtree(b"none")) == list(reader.level(b"a/x")) == []
    found = reader.find(b"a.b/x")
    assert found == make_file(b"a.b", b"x")
    assert [reader.find(path) for path in (b"", b"a/", b"/a", b"a/c", b"b", b"a.b/x/y")] == [None] * 6


def pages_of(chunks: Chunks, root: TreeRoot | None, wanted: Callable[[Entry], bool]) -> int:
    """How many pages hold an entry that is wanted."""
    held = 0
    for page_id, page in chunks.of(TREE).items():
        if page[0] == 0:
            held += any(map(wanted, TreeReader(chunks.fetch, TreeRoot(0, page_id)).entries()))
    return held


def test_browsing_reads_a_page_of_each_level_and_the_folders_own() -> None:
    chunks = Chunks()
    root = write_tree(chunks, WIDE)
    assert root is not None
    reader = TreeReader(chunks.fetch, root)
    for folder in (b"", b"f00", b"f13", b"f19"):
        own = pages_of(chunks, root, lambda entry, folder=folder: entry.folder == folder)  # type: ignore[misc]
        chunks.fetched.clear()
        assert sum(1 for _ in reader.level(folder)) in (60, 1_000)
        # The page before may end with the folder's first entries: nothing else tells.
        assert chunks.fetched.total() <= root.level + own + 1
        chunks.fetched.clear()
        next(reader.level(folder, after=b"f"))
        assert chunks.fetched.total() <= root.level + 2
    chunks.fetched.clear()
    assert reader.find(b"f13/file 77") == make_file(b"f13", b"file 77")
    assert chunks.fetched.total() == root.level + 1
    chunks.fetched.clear()
    assert sum(1 for _ in reader.subtree(b"f13")) == 1_001
    assert chunks.fetched.total() < 10
    next(reader.entries((b"f16", b"file 1")))
    assert len(chunks.of(TREE)) > 25


def new_pages(before: list[Entry], after: list[Entry]) -> list[int]:
    """How many pages of each level a second version stores."""
    chunks = Chunks()
    write_tree(chunks, before)
    old = set(chunks.of(TREE))
    root = write_tree(chunks, after)
    assert root is not None
    assert list(TreeReader(chunks.fetch, root).entries()) == after
    new = [page[0] for page_id, page in chunks.of(TREE).items() if page_id not in old]
    return [new.count(level) for level in range(root.level + 1)]


def test_a_changed_entry_rewrites_one_page_of_each_level() -> None:
    for number in (0, 12_345, len(WIDE) - 1):
        changed = list(WIDE)
        entry = WIDE[number]
        changed[number] = Entry(
            entry.folder, entry.name, entry.kind, entry.flags, entry.mode, 0, 0, entry.mtime_ns + 1, entry.tail
        )
        assert new_pages(WIDE, changed) == [1, 1]
    assert new_pages(WIDE, WIDE) == [0, 0]


def test_an_insertion_moves_its_neighbourhood_only() -> None:
    for folder, name in ((b"", b"a"), (b"f11", b"file 5 and"), (b"f19", b"z"), (b"f15/new", b"x")):
        inserted = sorted([*WIDE, make_file(folder, name)], key=lambda entry: entry.key)
        assert new_pages(WIDE, inserted)[0] <= 3
        assert new_pages(inserted, WIDE)[0] <= 3
    # A whole folder less changes what lies around it.
    assert new_pages(WIDE, [entry for entry in WIDE if entry.folder != b"f17"])[0] <= 3


@pytest.mark.parametrize("digits", [b"%06d", b"%d.CloudCoin.bin", b"%06d-0000000000000000", b"%o", b"%040x"])
def test_names_that_count_up_are_cut_as_well(digits: bytes) -> None:
    chunks = Chunks()
    write_tree(chunks, [make_file(b"Bank", digits % number) for number in range(20_000)])
    sizes = sorted(len(page) for page in chunks.of(TREE).values())
    assert 50_000 < sum(sizes) / len(sizes) < 110_000
    assert sum(1 for size in sizes if size > PAGE_MAX - 200) <= len(sizes) // 8


def test_higher_levels_get_narrower_whatever_the_length_of_paths() -> None:
    chunks = Chunks()
    folder = b"/".join([b"n" * 255] * 5_000)
    record = make_file(b"", b"x").encode()
    writer = TreeWriter(chunks.store(TREE))
    for number in range(600):
        name = b"%05d" % number
        writer.add(folder, name, make_file(b"", name).encode())
    for number in range(6):
        writer.add(folder + b"/%d" % number, b"x", record)
    root = writer.finish()
    assert root is not None
    assert 1 <= root.level <= 4
    assert [entry.name for entry in TreeReader(chunks.fetch, root).entries()] == [
        *(b"%05d" % number for number in range(600)),
        *[b"x"] * 6,
    ]
    # The path of a folder is not repeated for each of its entries.
    assert sum(map(len, chunks.of(TREE).values())) < 32 << 20


def test_a_tree_of_deep_folders() -> None:
    chunks = Chunks()
    entries, folder = [], b""
    for _ in range(1_000):
        entries.append(make_directory(folder, b"d"))
        folder = folder + b"/d" if folder else b"d"
    reader = TreeReader(chunks.fetch, write_tree(chunks, entries))
    assert list(reader.entries()) == entries
    assert reader.find(folder) == entries[-1]
    assert sum(1 for _ in reader.subtree(b"/".join([b"d"] * 600))) == 401


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((b"a", b"x"), (b"a", b"x")),
        ((b"a", b"x"), (b"a", b"w")),
        ((b"a/b", b"x"), (b"a", b"x")),
        ((b"a-b", b"x"), (b"a/b", b"x")),
        ((b"a", b"x"), (b"", b"x")),
        *(((b"", b"-"), (b"", name)) for name in (b"", b".", b"..", b"a/b", b"a\0")),
        *(((b"", b"-"), (path, b"a")) for path in (b"/a", b"a/", b"a//b", b"a/./b", b"a\0")),
    ],
)
def test_what_is_out_of_order_is_refused_and_changes_nothing(
    first: tuple[bytes, bytes], second: tuple[bytes, bytes]
) -> None:
    chunks, clean = Chunks(), Chunks()
    writer, other = (TreeWriter(each.store(TREE)) for each in (chunks, clean))
    for each in (writer, other):
        each.add(*first, make_file(*first).encode())
    with pytest.raises(ValueError, match=r"comes after|no name|no path"):
        writer.add(*second, b"")
    for each in (writer, other):
        each.add(b"z", b"z", make_file(b"z", b"z").encode())
    assert writer.finish() == other.finish()


def test_an_entry_may_make_a_page_larger_up_to_a_chunk() -> None:
    chunks = Chunks()
    writer = TreeWriter(chunks.store(TREE))
    writer.add(b"", b"a", b"a" * 100)
    writer.add(b"", b"b", b"b" * (CHUNK_MAX - 6))
    with pytest.raises(EntryTooLarge):
        writer.add(b"", b"c", b"c" * (CHUNK_MAX - 5))
    with pytest.raises(EntryTooLarge):
        writer.add(b"c", b"c", b"c" * (CHUNK_MAX - 6))
    with pytest.raises(EntryTooLarge):
        writer.add(b"c" * (PATH_MAX + 1), b"c", b"")
    writer.add(b"", b"d", b"d" * 100)
    root = writer.finish()
    assert root is not None
    assert root.level == 1
    assert sorted(len(page) for page in chunks.of(TREE).values() if not page[0]) == [106, 106, CHUNK_MAX]


# Pages that lie.


def child(folder: bytes, name: bytes, page_id: bytes) -> bytes:
    return struct.pack("<I", len(folder)) + folder + struct.pack("<H", len(name)) + name + page_id


def leaf(chunks: Chunks, folder: bytes, *names: bytes) -> bytes:
    records = b"".join(make_file(folder, name).encode() for name in names)
    return chunks.store(TREE)(b"\0" + encode_folder(folder) + records)


def read_all(chunks: Chunks, level: int, page: bytes) -> list[Entry]:
    return list(TreeReader(chunks.fetch, TreeRoot(level, chunks.store(TREE)(page))).entries())


def test_pages_that_tell_the_truth() -> None:
    chunks = Chunks()
    first, second = leaf(chunks, b"a", b"1", b"2"), leaf(chunks, b"a", b"3")
    page = b"\1" + child(b"a", b"1", first) + child(b"a", b"3", second)
    assert paths(read_all(chunks, 1, page)) == [b"a/1", b"a/2", b"a/3"]
    alone = child(b"a", b"1", chunks.store(TREE)(page))
    assert paths(read_all(chunks, 2, b"\2" + alone)) == [b"a/1", b"a/2", b"a/3"]


def test_pages_that_lie_are_found_out() -> None:
    chunks = Chunks()
    first, second = leaf(chunks, b"a", b"1", b"4"), leaf(chunks, b"a", b"3")
    good = child(b"a", b"1", first)
    above = chunks.store(TREE)(b"\1" + good)
    cases = [
        (1, b"\1" + child(b"a", b"0", first), "begin where"),
        (1, b"\1" + child(b"", b"1", first), "begin where"),
        (1, b"\1" + good + child(b"a", b"3", second), "goes on behind"),
        (2, b"\2" + child(b"a", b"1", above) + child(b"a", b"4", above), "goes on behind"),
        (2, b"\2" + child(b"a", b"0", above), "begin where"),
        (1, b"\1" + child(b"a", b"3", second) + child(b"a", b"3", second), "out of order"),
        (1, b"\1" + child(b"a", b"3", second) + good, "out of order"),
        (1, b"\1", "holds nothing"),
        (1, b"\1" + good[:-1], "malformed"),
        (1, b"\1" + good[:7], "malformed|early"),
        (1, b"\1" + b"\xff" * 40, "early|malformed"),
        (1, b"\1" + child(b"a/..", b"1", first), "malformed"),
        (1, b"\1" + child(b"a", b"", first), "malformed"),
        (1, b"\2" + good, "not of level"),
        (0, b"\1" + good, "not of level"),
        (2, b"\2" + good, "not of level"),
        (1, b"\1" + child(b"a", b"1", above), "not of level"),
        (0, b"\0", "holds nothing"),
        (1, b"\1" + child(b"a", b"1", bytes(32)), "missing"),
    ]
    for level, page, message in cases:
        with pytest.raises(DataLoss, match=message) as caught:
            read_all(chunks, level, page)
        assert caught.value.reason is Reason.CHECKSUM_MISMATCH


def test_nothing_of_a_damaged_page_is_given_out() -> None:
    chunks = Chunks()
    root = write_tree(chunks, WIDE)
    assert root is not None
    reader = TreeReader(chunks.fetch, root)
    victim = next(iter(chunks.of(TREE)))
    lost = {entry.path for entry in TreeReader(chunks.fetch, TreeRoot(0, victim)).entries()}
    page = chunks.content[TREE, victim]
    chunks.content[TREE, victim] = page[:-1]
    with pytest.raises(DataLoss, match=victim.hex()):
        list(reader.entries())
    for path in itertools.islice(lost, 3):
        with pytest.raises(DataLoss):
            reader.find(path)
    assert list(reader.level(b"f16")) == [entry for entry in WIDE if entry.folder == b"f16"]


def test_the_key_of_an_entry() -> None:
    assert make_file(b"a/b", b"c").key == key_of(b"a/b", b"c") == (b"a\0b", b"c")
