"""The second reader refuses what is authentic and still not as docs/format.md says."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from tests.vectors.reader import DATA, EXTENTS, TREE
from tests.vectors.test_reader import run
from tests.vectors.writer import (
    DIGEST,
    DIRECTORY,
    ENCRYPTED,
    FILE,
    HARDLINK,
    PAGED,
    SPARSE,
    SYMLINK,
    XATTRS,
    Make,
    Writer,
    extent,
    file_tail,
    page,
    record,
    sized,
    small_file,
    two_levels,
)


def extent_pages(writer: Writer) -> list[bytes]:
    chunk = writer.chunk(EXTENTS, b"")
    return [record(FILE, b"a", struct.pack("<QI", 0, 1) + chunk, PAGED)]


def wrong_digest(writer: Writer) -> list[bytes]:
    chunk = writer.chunk(DATA, b"one")
    return [record(FILE, b"a", struct.pack("<Q16sI", 3, bytes(16), 1) + extent(chunk, 0, 3), DIGEST)]


def two_attributes(first: bytes, second: bytes) -> bytes:
    return struct.pack("<H", 2) + b"".join(sized("H", name) + sized("I", b"") for name in (first, second))


def link(name: bytes, path: bytes) -> bytes:
    return record(SYMLINK, name, sized("I", path))


EMPTY = file_tail(0)
SEALED = bytes(16 + 8 + 32) + sized("H", b"")
#: Pages of level 0 that are authentic and wrong, each told by what is wrong with it.
WRONG_PAGES: dict[str, Callable[[Writer], list[tuple[bytes, list[bytes]]]]] = {
    "a folder below a symbolic link": lambda w: [(b"", [link(b"a", b"/tmp")]), (b"a", [record(FILE, b"b", EMPTY)])],
    "a folder below a file": lambda w: [(b"", [record(FILE, b"a", EMPTY)]), (b"a", [record(FILE, b"b", EMPTY)])],
    "a folder that is no entry": lambda w: [(b"..", [record(FILE, b"b", EMPTY)])],
    "names out of order": lambda w: [(b"", [record(FILE, b"b", EMPTY), record(FILE, b"a", EMPTY)])],
    "a name twice": lambda w: [(b"", [record(FILE, b"a", EMPTY)] * 2)],
    "folders out of order": lambda w: [
        (b"", [record(DIRECTORY, b"a"), record(DIRECTORY, b"a!")]),
        (b"a!", [record(FILE, b"c", EMPTY)]),
        (b"a", [record(FILE, b"c", EMPTY)]),
    ],
    "the parent": lambda w: [(b"", [record(FILE, b"..", EMPTY)])],
    "a slash in a name": lambda w: [(b"", [record(FILE, b"a/b", EMPTY)])],
    "a NUL in a name": lambda w: [(b"", [record(FILE, b"a\0", EMPTY)])],
    "no name": lambda w: [(b"", [record(FILE, b"", EMPTY)])],
    "a link to a later file": lambda w: [(b"", [record(HARDLINK, b"a", sized("I", b"b")), record(FILE, b"b", EMPTY)])],
    "a link to a folder": lambda w: [(b"", [record(DIRECTORY, b"a"), record(HARDLINK, b"b", sized("I", b"a"))])],
    "a stored name twice": lambda w: [
        (b"", [record(FILE, b"a", EMPTY + SEALED, ENCRYPTED), record(FILE, b"a.hfcc", EMPTY)])
    ],
    "a stored name outside": lambda w: [
        (b"", [record(FILE, b"a", EMPTY + SEALED[:-2] + sized("H", b"../a"), ENCRYPTED)])
    ],
    "an unknown type": lambda w: [(b"", [record(5, b"a")])],
    "an unknown flag": lambda w: [(b"", [record(FILE, b"a", EMPTY, 64)])],
    "the flag of another type": lambda w: [(b"", [record(DIRECTORY, b"a", flags=SPARSE)])],
    "an unknown mode": lambda w: [(b"", [record(DIRECTORY, b"a", mode=0o10755)])],
    "a tail that goes on": lambda w: [(b"", [record(FILE, b"a", EMPTY + b"\0")])],
    "a tail that is cut": lambda w: [(b"", [record(FILE, b"a", EMPTY[:-1])])],
    "extents that are too short": lambda w: [
        (b"", [record(FILE, b"a", file_tail(4, extent(w.chunk(DATA, b"one"), 0, 3)))])
    ],
    "extents outside the chunk": lambda w: [
        (b"", [record(FILE, b"a", file_tail(3, extent(w.chunk(DATA, b"one"), 1, 3)))])
    ],
    "a chunk that is not there": lambda w: [(b"", [record(FILE, b"a", file_tail(3, extent(b"\1" * 32, 0, 3)))])],
    "a chunk of another type": lambda w: [
        (b"", [record(FILE, b"a", file_tail(3, extent(w.chunk(TREE, b"one"), 0, 3)))])
    ],
    "an empty hole": lambda w: [(b"", [record(FILE, b"a", file_tail(1, extent(None, 0, 0), extent(None, 0, 1)))])],
    "extents of nothing": lambda w: [(b"", [record(FILE, b"a", file_tail(0, extent(None, 0, 1)))])],
    "a folder without entries": lambda w: [(b"", [record(DIRECTORY, b"a")]), (b"a", [])],
    "attributes out of order": lambda w: [
        (b"", [record(FILE, b"a", EMPTY + two_attributes(b"user.b", b"user.a"), XATTRS)])
    ],
    "an attribute twice": lambda w: [(b"", [record(FILE, b"a", EMPTY + two_attributes(b"user.b", b"user.b"), XATTRS)])],
    "a link to nowhere": lambda w: [(b"", [link(b"a", b"")])],
    "an empty page of extents": lambda w: [(b"", extent_pages(w))],
    "another digest": lambda w: [(b"", wrong_digest(w))],
    "an empty page": lambda w: [],
}


#: The digest is the writer's, to find small files; that the content is the right one is told by the chunk's id.
SEEN_BY_CHECK = {"another digest"}


@pytest.mark.parametrize("wrong", WRONG_PAGES)
def test_refuses_authentic_nonsense(writer: Writer, wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = writer.snapshot(page(*WRONG_PAGES[wrong](writer)))
    assert run(writer, "check") == 1
    target = writer.folder.parent / "out"
    assert run(writer, "restore", run_id, str(target)) == (wrong not in SEEN_BY_CHECK)
    assert capsys.readouterr().err
    if wrong in SEEN_BY_CHECK:
        return
    kept = [path for path in target.rglob("*") if path.is_file() and path.stat().st_size]
    assert kept == []


def wrong_level(writer: Writer) -> None:
    writer.snapshot(tree=(1, writer.chunk(TREE, page((b"", [record(FILE, b"a", EMPTY)])))))


def wrong_first(writer: Writer) -> None:
    child = writer.chunk(TREE, page((b"", [record(FILE, b"a", EMPTY)])))
    writer.snapshot(tree=(1, writer.chunk(TREE, b"\1" + sized("I", b"") + sized("H", b"b") + child)))


def entry_without_folder(writer: Writer) -> None:
    writer.snapshot(tree=(0, writer.chunk(TREE, b"\0" + record(FILE, b"a", EMPTY))))


def unlisted_chunk(writer: Writer) -> None:
    entry = small_file(writer, b"a", b"one")
    writer.live.popitem()
    writer.snapshot(page((b"", [entry])))


def chunk_too_many(writer: Writer) -> None:
    writer.chunk(DATA, b"nobody's")
    writer.snapshot()


def more_live_than_there_is(writer: Writer) -> None:
    entry = small_file(writer, b"a", b"one")
    writer.live = {key: live + 1 for key, live in writer.live.items()}
    writer.snapshot(page((b"", [entry])))


def another_version(writer: Writer) -> None:
    writer.snapshot(version=2)


def another_run(writer: Writer) -> None:
    writer.snapshot(run_id="00000000-0000-4000-8000-000000000000")


def another_name(writer: Writer) -> None:
    name = f"snapshots/{writer.snapshot()}"
    (writer.folder / name).rename(writer.folder / "snapshots/00000000-0000-4000-8000-000000000000")


def lost_snapshot(writer: Writer) -> None:
    (writer.folder / f"snapshots/{writer.snapshot()}").unlink()


def gap_in_the_log(writer: Writer) -> None:
    writer.log()
    name = writer.log()
    writer.log()
    (writer.folder / name).unlink()


def another_entry(writer: Writer) -> None:
    writer.log()
    writer.log()
    last = writer.entries.pop()
    del writer.entries[-1:]
    writer.log()  # in the place of the one that the last one names
    writer.entries.append(last)


def rolled_back(writer: Writer) -> None:
    writer.log(seen={"0" * 32: {"sequence": 3, "hash": "0" * 64}})


def unknown_fact(writer: Writer) -> None:
    writer.log({"type": "promised"})


def forged_entry(writer: Writer) -> None:
    writer.log(public_key="11" * 32)


def lost_pack(writer: Writer) -> None:
    two_levels(writer)
    next((writer.folder / "packs").iterdir()).unlink()


def two_records(writer: Writer) -> None:
    writer.chunk(DATA, b"one")
    pack_id, first = writer.pack_id, writer.end_pack()
    writer.pack_id = pack_id
    writer.chunk(DATA, b"two")
    assert writer.end_pack() == first


WRONG_REPOSITORIES: list[Make] = [
    wrong_level,
    wrong_first,
    entry_without_folder,
    unlisted_chunk,
    chunk_too_many,
    more_live_than_there_is,
    another_version,
    another_run,
    another_name,
    lost_snapshot,
    gap_in_the_log,
    another_entry,
    rolled_back,
    unknown_fact,
    forged_entry,
    lost_pack,
    two_records,
]


@pytest.mark.parametrize("wrong", WRONG_REPOSITORIES, ids=lambda make: make.__name__)
def test_check_finds(writer: Writer, wrong: Make) -> None:
    writer.snapshot()
    assert run(writer, "check") == 0
    wrong(writer)
    assert run(writer, "check") == 1
