"""Entries are the bytes that docs/format.md says, and nothing else is taken for one."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from holdfast_server.errors import DataLoss, Reason
from holdfast_server.repository.entries import (
    Encryption,
    Entry,
    EntryFlag,
    EntryKind,
    decode_entries,
    encode_entry,
    encode_folder,
    file_tail,
    folder_tail,
    link_tail,
)
from holdfast_server.repository.extents import (
    INLINE_EXTENTS,
    Extent,
    decode_extents,
    encode_extent,
    encode_extent_pages,
    encode_hole,
)
from holdfast_server.repository.format import CHUNK_MAX, ChunkType
from holdfast_server.repository.paths import is_name, is_path
from holdfast_server.repository.tails import encode_extras
from tests.unit.repository.pages import Chunks

ID = bytes(range(32))
XATTRS = ((b"user.a", b""), (b"user.b", b"\0value"))
ENVELOPE = Encryption(b"k" * 16, 77, b"s" * 32)


def only(record: bytes, folder: bytes = b"Bank") -> Entry:
    (entry,) = decode_entries(b"\0" + encode_folder(folder) + record, "page")
    return entry


def entry_of(kind: EntryKind, tail: bytes, flags: int = 0, name: bytes = b"name", folder: bytes = b"Bank") -> Entry:
    return only(encode_entry(kind, flags, 0o640, 7, 8, -5, name, tail), folder)


def test_the_bytes_of_a_small_file() -> None:
    tail = file_tail(448, b"d" * 16, encode_extent(ID, 4096, 448))
    record = encode_entry(EntryKind.FILE, EntryFlag.DIGEST, 0o644, 1000, 1001, -2, b"a.bin", tail)
    assert record == (
        b"\x01\x20"
        + struct.pack("<HIIqHI", 0o644, 1000, 1001, -2, 5, 68)
        + b"a.bin"
        + struct.pack("<Q", 448)
        + b"d" * 16
        + struct.pack("<I", 1)
        + ID
        + struct.pack("<II", 4096, 448)
    )
    assert encode_folder(b"Bank") == b"\x00\x04\x00\x00\x00Bank"
    entry = only(record)
    assert (entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime_ns) == (EntryKind.FILE, 0o644, 1000, 1001, -2)
    assert (entry.size, entry.digest, entry.extents) == (448, b"d" * 16, (Extent(ID, 4096, 448),))
    assert (entry.path, entry.stored_path, entry.encryption, entry.xattrs) == (b"Bank/a.bin", b"Bank/a.bin", None, ())
    assert entry.encode() == record


def test_what_every_kind_holds() -> None:
    holed = entry_of(
        EntryKind.FILE, file_tail(1 << 40, None, encode_hole((1 << 40) - 9) + encode_extent(ID, 0, 9)), EntryFlag.SPARSE
    )
    assert holed.extents == (Extent(None, 0, (1 << 40) - 9), Extent(ID, 0, 9))
    assert [extent.encode() for extent in holed.extents] == [encode_hole((1 << 40) - 9), encode_extent(ID, 0, 9)]
    empty = entry_of(EntryKind.FILE, file_tail(0, None, b""))
    assert (empty.size, empty.extents, empty.pages, empty.digest) == (0, (), (), None)
    paged = entry_of(EntryKind.FILE, file_tail(9, None, ID + ID[::-1], paged=True), EntryFlag.PAGED)
    assert (paged.pages, paged.extents) == ((ID, ID[::-1]), ())
    folder = entry_of(EntryKind.DIRECTORY, folder_tail(XATTRS[::-1]), EntryFlag.XATTRS, folder=b"")
    assert (folder.xattrs, folder.path, folder.size) == (XATTRS, b"name", 0)
    assert entry_of(EntryKind.SYMLINK, link_tail(b"../\xff")).link_target == b"../\xff"
    assert entry_of(EntryKind.HARDLINK, link_tail(b"Bank/mame")).link_target == b"Bank/mame"


def test_the_order_of_attributes_is_not_the_file_systems() -> None:
    assert encode_extras((), None) == b""
    assert encode_extras(XATTRS, ENVELOPE) == encode_extras(XATTRS[::-1], ENVELOPE)
    assert encode_extras(XATTRS[:1], None) == b"\1\0" + b"\6\0user.a" + bytes(4)
    named = encode_extras((), replace(ENVELOPE, stored_name=b"ab"))
    assert named == b"k" * 16 + struct.pack("<Q", 77) + b"s" * 32 + b"\2\0ab"


def test_an_encrypted_file_is_restored_under_its_stored_name() -> None:
    flags = EntryFlag.ENCRYPTED | EntryFlag.XATTRS
    plain = entry_of(EntryKind.FILE, file_tail(9, None, encode_extent(ID, 0, 9), XATTRS, ENVELOPE), flags)
    assert (plain.stored_path, plain.encryption, plain.xattrs) == (b"Bank/name.hfcc", ENVELOPE, XATTRS)
    other = replace(ENVELOPE, stored_name=b"name-2.hfcc")
    named = entry_of(EntryKind.FILE, file_tail(9, None, encode_extent(ID, 0, 9), (), other), EntryFlag.ENCRYPTED)
    assert (named.path, named.stored_path, named.encryption) == (b"Bank/name", b"Bank/name-2.hfcc", other)
    link = entry_of(EntryKind.HARDLINK, link_tail(b"Bank/a", (), ENVELOPE), EntryFlag.ENCRYPTED, folder=b"Bank")
    assert (link.stored_path, link.link_target) == (b"Bank/name.hfcc", b"Bank/a")


@pytest.mark.parametrize(
    ("kind", "flags", "tail", "message"),
    [
        (1, 0, b"", "ends early"),
        (1, 0, file_tail(9, None, encode_extent(ID, 0, 9))[:-1], "ends early"),
        (1, 0, file_tail(9, None, encode_extent(ID, 0, 9)) + b"x", "too long"),
        (1, 0, file_tail(9, None, b""), "contradict"),
        (1, 0, file_tail(0, None, encode_extent(ID, 0, 9)), "contradict"),
        (1, 16, file_tail(9, None, b"", paged=True), "contradict"),
        (1, 0, file_tail(8, None, encode_extent(ID, 0, 9)), "add up"),
        (1, 0, file_tail(8, None, struct.pack("<32sII", ID, CHUNK_MAX - 7, 8)), "lie in a chunk"),
        (1, 0, file_tail(8, None, encode_extent(ID, 0, 8) + struct.pack("<32sII", ID, 0, 0)), "lie in a chunk"),
        (1, 0, file_tail(8, None, encode_extent(ID, 0, 8) + bytes(40)), "no length"),
        (1, 0, struct.pack("<QI", 8, 0xFFFFFFFF), "ends early"),
        (2, 0, b"x", "too long"),
        (2, 4, b"", "ends early"),
        (2, 4, b"\0\0", "missing"),
        (2, 4, b"\2\0" + (b"\1\0a" + bytes(4)) * 2, "out of order"),
        (2, 4, b"\1\0" + b"\0\0" + bytes(4), "malformed"),
        (2, 4, b"\1\0" + b"\1\0\0" + bytes(4), "malformed"),
        (2, 4, b"\1\0" + b"\1\0a" + b"\xff\xff\xff\xff", "ends early"),
        (3, 0, link_tail(b""), "target"),
        (3, 0, link_tail(b"a\0"), "target"),
        (3, 0, b"\xff\xff\xff\xffa", "ends early"),
        (4, 0, link_tail(b"Bank/name"), "before it"),
        (4, 0, link_tail(b"Bank-/a"), "before it"),
        (4, 0, link_tail(b"Aank/../a"), "before it"),
        (4, 0, link_tail(b""), "before it"),
        (4, 8, link_tail(b"Bank/a", (), replace(ENVELOPE, stored_name=b"../a")), "stored name"),
        (4, 8, link_tail(b"Bank/a", (), ENVELOPE)[:-1], "ends early"),
    ],
)
def test_a_tail_that_is_none(kind: int, flags: int, tail: bytes, message: str) -> None:
    entry = entry_of(EntryKind(kind), tail, flags)
    for _ in range(2):
        with pytest.raises(DataLoss, match=message) as caught:
            _ = entry.size, entry.extents
        assert caught.value.reason is Reason.CHECKSUM_MISMATCH
        assert caught.value.metadata["path"] == "Bank/name"


def record(name: bytes = b"n", kind: int = 2, flags: int = 0, mode: int = 0o755) -> bytes:
    return encode_entry(kind, flags, mode, 0, 0, 0, name, b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds nothing"),
        (record(), "malformed"),
        (encode_folder(b"a"), "holds nothing"),
        (encode_folder(b"a") + encode_folder(b"b") + record(), "holds nothing"),
        (encode_folder(b"a") + record() + encode_folder(b"b"), "holds nothing"),
        (encode_folder(b"a") + record() + encode_folder(b"a") + record(b"o"), "out of order"),
        (encode_folder(b"a-b") + record() + encode_folder(b"a/b") + record(), "out of order"),
        (encode_folder(b"a") + record() + encode_folder(b"") + record(), "out of order"),
        (encode_folder(b"a") + record() + record(), "out of order"),
        (encode_folder(b"a") + record(b"b") + record(b"a"), "out of order"),
        *((encode_folder(b"a") + record(name), "name") for name in (b"", b".", b"..", b"x/y", b"x\0")),
        *((encode_folder(path) + record(), "path") for path in (b"/a", b"a/", b"a//b", b"a/../b", b".", b"a\0b")),
        *((encode_folder(b"") + record(kind=kind), "malformed") for kind in (5, 255)),
        *((encode_folder(b"") + record(kind=2, flags=flags), "malformed") for flags in (1, 2, 8, 16, 32, 64, 128)),
        (encode_folder(b"") + record(kind=1, flags=64), "malformed"),
        (encode_folder(b"") + record(kind=3, flags=8), "malformed"),
        (encode_folder(b"") + record(mode=0o10000), "malformed"),
        (encode_folder(b"") + record()[:-1], "malformed"),
        (encode_folder(b"") + record()[:20], "ends early"),
        (b"\0\xff\xff\xff\xff", "path"),
        (b"\0\1\0", "ends early"),
    ],
)
def test_a_page_that_is_none(content: bytes, message: str) -> None:
    with pytest.raises(DataLoss, match=message) as caught:
        decode_entries(b"\0" + content, "tree page 00")
    assert caught.value.metadata["object"] == "tree page 00"


def test_what_the_writer_cannot_encode_is_refused() -> None:
    for number in ((1 << 63, 0), (0, 1 << 32), (0, -1)):
        with pytest.raises(ValueError, match="does not fit"):
            encode_entry(2, 0, 0, number[1], 0, number[0], b"n", b"")
    with pytest.raises(ValueError, match="does not fit"):
        encode_entry(2, 0, 0, 0, 0, 0, b"n" * 65536, b"")
    for chunk_id, offset, length in ((ID, 0, 0), (ID, CHUNK_MAX, 1), (ID, -1, 9), (ID[1:], 0, 9), (bytes(32), 0, 9)):
        with pytest.raises(ValueError, match="no extent"):
            encode_extent(chunk_id, offset, length)
    for hole in (0, 1 << 64):
        with pytest.raises(ValueError, match="no hole"):
            encode_hole(hole)


def test_names_and_paths() -> None:
    assert all(map(is_name, (b"a", b"...", b"\xff", b"a\n", b" ")))
    assert not any(map(is_name, (b"", b".", b"..", b"a/", b"\0")))
    assert all(map(is_path, (b"a", b"a/b", b".../..a")))
    assert not any(map(is_path, (b"", b"/", b"a/", b"/a", b"a//b", b"a/./b", b"..", b"a/\0")))


def ids_of(number: int, start: int = 0) -> list[bytes]:
    chunks = Chunks()
    return [encode_extent(chunks.store(ChunkType.DATA)(b"%d" % i), 0, 9) for i in range(start, start + number)]


def test_a_long_list_of_extents_is_cut_into_pages_that_versions_share() -> None:
    chunks = Chunks()
    store = chunks.store(ChunkType.EXTENTS)
    few = ids_of(INLINE_EXTENTS)
    assert encode_extent_pages(few, store) == (b"".join(few), False)
    assert not chunks.content
    many = ids_of(20_000)
    ids, paged = encode_extent_pages(many, store)
    pages = [chunks.fetch(ChunkType.EXTENTS, ids[i : i + 32]) for i in range(0, len(ids), 32)]
    assert paged
    assert b"".join(pages) == b"".join(many)
    assert all(16 << 10 <= len(page) <= 128 << 10 for page in pages[:-1])
    assert len(pages) > 10
    before = len(chunks.content)
    encode_extent_pages([*many[:9_000], *ids_of(1, 30_000), *many[9_000:]], store)
    assert len(chunks.content) - before <= 3
    # Holes alone never end a page: a file of them is cut at the largest size.
    ids, _ = encode_extent_pages([encode_hole(1)] * 10_000, store)
    assert len({ids[i : i + 32] for i in range(0, len(ids), 32)}) <= 2


def test_an_extent_page_is_whole_extents() -> None:
    with pytest.raises(ValueError, match="cut off"):
        list(decode_extents(bytes(39)))
