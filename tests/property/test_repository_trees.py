"""Any tree of entries comes back as it was; versions share their pages; no change of a page crashes its reader."""

from __future__ import annotations

import itertools
import random
import tracemalloc
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast_server.errors import DataLoss, Reason
from holdfast_server.repository.entries import (
    Encryption,
    Entry,
    EntryFlag,
    EntryKind,
    encode_folder,
    file_tail,
    folder_tail,
    link_tail,
)
from holdfast_server.repository.extents import encode_extent, encode_hole
from holdfast_server.repository.format import CHUNK_MAX, ChunkType
from holdfast_server.repository.lists import ListRoot, ListWriter, read_list
from holdfast_server.repository.paths import is_name
from holdfast_server.repository.reader import SnapshotReader
from holdfast_server.repository.root import RootInfo, RootProblem, SourceAttributes, decode_root, encode_root
from holdfast_server.repository.tree import TreeReader, TreeRoot
from tests.unit.repository.pages import Chunks, make_directory, make_file, write_tree

TREE = ChunkType.TREE
#: Names around `/` and NUL in the order of bytes, and others that somebody will have.
NAMES = st.one_of(
    st.sampled_from(
        [
            *(b"a", b"a-b", b"a.b", b"a b", b"a\x01", b"a\xff", b"b", b"new\nline", b"\xff\xfe", b"...", b"n" * 255),
            *("e\u0301".encode(), "\u202egnp.exe".encode(), b"a.hfcc", b"-rf", b"\\", b"\x01"),
        ]
    ),
    st.binary(min_size=1, max_size=6).filter(is_name),
)
FOLDERS = st.lists(NAMES, max_size=4).map(b"/".join)
XATTRS = st.dictionaries(
    st.binary(min_size=1, max_size=9).filter(lambda name: b"\0" not in name), st.binary(max_size=20), max_size=3
).map(lambda found: tuple(sorted(found.items())))
ENCRYPTIONS = st.none() | st.builds(
    Encryption,
    st.binary(min_size=16, max_size=16),
    st.integers(0, (1 << 64) - 1),
    st.binary(min_size=32, max_size=32),
    st.none() | NAMES,
)
HASHES = st.binary(min_size=32, max_size=32).filter(any)
PIECES = st.one_of(
    st.tuples(st.none(), st.just(0), st.integers(1, 1 << 50)),
    st.tuples(HASHES, st.integers(0, CHUNK_MAX - 1), st.integers(1, CHUNK_MAX)).map(
        lambda piece: (piece[0], piece[1], min(piece[2], CHUNK_MAX - piece[1]))
    ),
)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    """An entry and, in the fields that parse its tail, what was put into it."""
    folder, name = draw(FOLDERS), draw(NAMES)
    kind = draw(st.sampled_from(EntryKind))
    xattrs = draw(XATTRS)
    flags, encryption = int(EntryFlag.XATTRS) if xattrs else 0, None
    if kind in (EntryKind.FILE, EntryKind.HARDLINK):
        encryption = draw(ENCRYPTIONS)
        flags |= EntryFlag.ENCRYPTED if encryption else 0
    if kind is EntryKind.FILE:
        pieces = draw(st.lists(PIECES, max_size=4))
        size = sum(length for _, _, length in pieces)
        digest = draw(st.none() | st.binary(min_size=16, max_size=16))
        flags |= draw(st.sampled_from([0, 1, 2, 3])) | (EntryFlag.DIGEST if digest else 0)
        raw = b"".join(encode_extent(i, o, n) if i else encode_hole(n) for i, o, n in pieces)
        if paged := bool(size) and draw(st.booleans()):
            flags, raw = flags | EntryFlag.PAGED, draw(HASHES)
        tail = file_tail(size, digest, raw, xattrs, encryption, paged=paged)
    elif kind is EntryKind.DIRECTORY:
        tail = folder_tail(xattrs)
    elif kind is EntryKind.SYMLINK:
        tail = link_tail(draw(st.binary(min_size=1, max_size=30).filter(lambda target: b"\0" not in target)), xattrs)
    else:
        # A path before any other: the shortest name in the source itself.
        folder, name = draw(FOLDERS.filter(bool)), name
        tail = link_tail(draw(NAMES), xattrs, encryption)
    numbers = st.integers(0, 0xFFFFFFFF)
    mtime = draw(st.integers(-(1 << 63), (1 << 63) - 1))
    return Entry(
        folder, name, kind, int(flags), draw(st.integers(0, 0o7777)), draw(numbers), draw(numbers), mtime, tail
    )


TREES = st.lists(entries(), max_size=30, unique_by=lambda entry: entry.key).map(
    lambda found: sorted(found, key=lambda entry: entry.key)
)


def everything(entry: Entry) -> tuple[object, ...]:
    """All of an entry, its tail taken apart."""
    return (
        *(entry, entry.size, entry.digest, entry.extents, entry.pages, entry.link_target, entry.xattrs),
        *(entry.encryption, entry.path, entry.stored_path),
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREES)
def test_any_tree_comes_back(found: list[Entry]) -> None:
    chunks = Chunks()
    reader = TreeReader(chunks.fetch, write_tree(chunks, found))
    back = list(reader.entries())
    assert back == found
    for entry in back:
        parts = everything(entry)
        assert file_or_link(entry) == entry.tail
        assert reader.find(entry.path) == entry
        assert parts[0] == entry
    for folder in {entry.folder for entry in found}:
        inside = [entry for entry in found if entry.folder == folder]
        assert list(reader.level(folder)) == inside
        assert list(reader.level(folder, after=inside[0].name)) == inside[1:]
        own = [entry for entry in found if entry.path == folder]
        below = [entry for entry in found if entry.folder == folder or entry.folder.startswith(folder + b"/")]
        assert list(reader.subtree(folder)) == (own + below if folder else found)
    for number, entry in enumerate(found):
        assert list(reader.entries((entry.folder, entry.name))) == found[number + 1 :]


def file_or_link(entry: Entry) -> bytes:
    """The tail that the parts of an entry make."""
    if entry.kind is EntryKind.FILE:
        paged = bool(entry.flags & EntryFlag.PAGED)
        references = b"".join(entry.pages) if paged else b"".join(extent.encode() for extent in entry.extents)
        return file_tail(entry.size, entry.digest, references, entry.xattrs, entry.encryption, paged=paged)
    if entry.kind is EntryKind.DIRECTORY:
        return folder_tail(entry.xattrs)
    return link_tail(entry.link_target, entry.xattrs, entry.encryption)


@pytest.mark.parametrize("seed", range(5))
def test_versions_of_a_tree_share_their_pages(seed: int) -> None:
    randomly = random.Random(seed)
    names = [b"%x" % randomly.getrandbits(randomly.choice([16, 60])) for _ in range(6_000)]
    before = sorted({make_file(b"f%d" % (name[-1] % 3), name) for name in names}, key=lambda entry: entry.key)
    chunks = Chunks()
    write_tree(chunks, before)
    pages = len(chunks.content)
    position = randomly.randrange(len(before))
    changed = [
        [*before[:position], replace(before[position], mtime_ns=9), *before[position + 1 :]],
        [*before[:position], *before[position + 1 :]],
        [*before, make_file(b"f1", b"%x" % randomly.getrandbits(40))],
    ]
    for number, after in enumerate(changed):
        write_tree(chunks, after)
        # One leaf and the root; where entries moved, a neighbour or two with it.
        assert len(chunks.content) - pages <= (2, 5, 5)[number]
        pages = len(chunks.content)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 3_000), st.integers(0, 3_000), st.integers(0, 1 << 32))
def test_any_list_comes_back(number: int, removed: int, seed: int) -> None:
    randomly = random.Random(seed)
    listed = [(ChunkType(randomly.randint(1, 4)), randomly.randbytes(32), randomly.randint(0, CHUNK_MAX))
              for _ in range(number + 1)]  # fmt: skip
    chunks = Chunks()
    for version in (listed, listed[: removed % (number + 1)] + listed[removed % (number + 1) + 1 :] or listed):
        writer = ListWriter(chunks.store(ChunkType.LIST))
        for each in version:
            writer.add(*each)
        assert list(read_list(chunks.fetch, writer.finish())) == version


@settings(max_examples=30, deadline=None)
@given(
    st.builds(
        RootInfo,
        st.builds(
            SourceAttributes,
            st.integers(0, 0o7777),
            st.integers(-(1 << 63), (1 << 63) - 1),
            st.integers(0, 0xFFFFFFFF),
            st.integers(0, 0xFFFFFFFF),
            XATTRS,
        ),
        st.none() | st.builds(TreeRoot, st.integers(0, 255), HASHES),
        st.lists(st.text(), max_size=4).map(tuple),
        st.lists(st.builds(RootProblem, st.binary(max_size=9), st.text(), st.text()), max_size=4).map(tuple),
        st.lists(st.text(), max_size=2).map(tuple),
    )
)
def test_any_root_comes_back(info: RootInfo) -> None:
    assert decode_root(encode_root(info), "root") == info


# Changed pages: an error of ours, or other entries that are entries; never anything else.


@dataclass(frozen=True)
class Rooted:
    root: bytes


def mutate(randomly: random.Random, page: bytes) -> bytes:
    """A page with some bytes changed, cut out, doubled or exchanged; the lengths in it most of all."""
    content = bytearray(page)
    for _ in range(randomly.choice([1, 1, 2, 5])):
        position = randomly.randrange(len(content) + 1)
        some = randomly.choice([1, 2, 4, 8, 40])
        match randomly.randrange(5):
            case 0:
                content[position : position + 1] = bytes((randomly.randrange(256),))
            case 1:
                content[position : position + some] = randomly.choice([b"\0", b"\xff", b"\x7f"]) * some
            case 2:
                del content[position : position + some]
            case 3:
                content[position:position] = content[position : position + some]
            case 4:
                content[position : position + 1] = bytes((content[position] ^ 1 << randomly.randrange(4),)) if (
                    position < len(content)
                ) else b"\0"  # fmt: skip
    return bytes(content)


def sample_snapshot() -> tuple[Chunks, RootInfo]:
    """A small snapshot of every kind of entry, with pages of two levels."""
    chunks = Chunks()
    xattrs, envelope = ((b"user.a", b"1"),), Encryption(b"k" * 16, 7, b"s" * 32, b"other")
    extents = b"".join(encode_extent(chunks.store(ChunkType.DATA)(b"abc"), 0, 3) for _ in range(3)) + encode_hole(9)
    page = chunks.store(ChunkType.EXTENTS)(extents)

    def make(folder: bytes, name: bytes, kind: EntryKind, flags: int, tail: bytes) -> Entry:
        return Entry(folder, name, kind, flags, 0o644, 0, 0, 0, tail)

    found = [make_directory(b"", b"d%d" % number) for number in range(3)]
    found += [make_file(b"d1", b"file %d" % number) for number in range(500)]
    found += [
        make(b"", b"holes", EntryKind.FILE, 1 | 4, file_tail(18, None, extents, xattrs)),
        make(b"", b"paged", EntryKind.FILE, 16 | 32 | 8, file_tail(18, b"d" * 16, page, (), envelope, paged=True)),
        make(b"d1", b"link", EntryKind.SYMLINK, 4, link_tail(b"target", xattrs)),
        make(b"d2", b"hard", EntryKind.HARDLINK, 8, link_tail(b"paged", (), envelope)),
    ]
    return chunks, RootInfo(SourceAttributes(0, 0, 0, 0), write_tree(chunks, found))


def expect_damage(error: DataLoss) -> None:
    assert error.reason is Reason.CHECKSUM_MISMATCH
    assert error.metadata["object"]


def read_fully(reader: SnapshotReader) -> list[tuple[object, ...]]:
    found = []
    for entry in itertools.islice(reader.entries(), 2_000):
        content = itertools.islice(reader.blocks(entry), 50) if entry.size < 1_000 and entry.extents else ()
        try:
            found.append((*everything(entry), *content))
        except DataLoss as error:
            expect_damage(error)
            found.append((entry, error.message))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_changed_pages_are_refused_or_read(seed: int) -> None:
    randomly = random.Random(seed)
    chunks, info = sample_snapshot()
    originals = dict(chunks.content)
    refused = 0
    assert info.tree is not None
    assert info.tree.level == 1
    kinds = [key for key in originals if key[0] is not ChunkType.DATA]
    tracemalloc.start()
    try:
        for _ in range(15):
            victim = randomly.choice(kinds)
            chunks.content = {**originals, victim: mutate(randomly, originals[victim])}
            root = chunks.store(ChunkType.ROOT)(encode_root(info))
            reader = SnapshotReader(chunks.fetch, Rooted(root))
            try:
                found = [entry[0] for entry in read_fully(reader)]
            except DataLoss as error:
                expect_damage(error)
                refused += 1
                continue
            keys = [entry.key for entry in found if isinstance(entry, Entry)]
            assert keys == sorted(set(keys))
            assert all(is_name(name) for _, name in keys)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert refused


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"\0", b"\0" + encode_folder(b""), b"\1", b""]), st.integers(0, 2))
def test_any_bytes_as_a_page(content: bytes, before: bytes, level: int) -> None:
    page = before + content
    page_id = b"p" * 32
    for kind in ChunkType:
        chunks = Chunks()
        chunks.content[kind, page_id] = page
        try:
            if kind is TREE:
                list(map(everything, TreeReader(chunks.fetch, TreeRoot(level, page_id)).entries()))
            elif kind is ChunkType.LIST:
                list(read_list(chunks.fetch, ListRoot(level, page_id, 3)))
            elif kind is ChunkType.ROOT:
                decode_root(page, "root")
        except DataLoss as error:
            expect_damage(error)
