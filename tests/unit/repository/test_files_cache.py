from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast_server.repository import files_cache
from holdfast_server.repository.files_cache import KEY_SIZE, FilesCacheReader, FilesCacheWriter

KEY = bytes(range(32))
BINDING = b"repository" + b"source"

Records = list[tuple[bytes, bytes]]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few records a block, a few keys a part of the table."""
    monkeypatch.setattr(files_cache, "_BLOCK_SIZE", 150)
    monkeypatch.setattr(files_cache, "_SORTED_AT_ONCE", 8)


def some_records(count: int, seed: int = 1) -> Records:
    source = random.Random(seed)
    return [(source.randbytes(KEY_SIZE), source.randbytes(source.randrange(40))) for _ in range(count)]


def write(folder: int, records: Records, name: str = "cache") -> None:
    writer = FilesCacheWriter(folder, name, KEY, BINDING)
    for key, value in records:
        writer.add(key, value)
    assert writer.commit()


def read(folder: int, name: str = "cache", key: bytes = KEY, binding: bytes = BINDING) -> FilesCacheReader:
    return FilesCacheReader.open(folder, name, key, binding)


@st.composite
def histories(draw: st.DrawFn) -> tuple[Records, list[bytes]]:
    """A cache and the keys that a later walk asks for: some removed, new ones between, subtrees moved."""
    # Keys of which many begin alike: what the table tells apart by eight bytes must be told apart by sixteen.
    beginnings = st.sampled_from([b"\0" * 8, b"\xff" * 8, b"\x80" + b"a" * 7]) | st.binary(min_size=8, max_size=8)
    key = st.tuples(beginnings, st.binary(min_size=8, max_size=8)).map(b"".join)
    records = list(draw(st.dictionaries(key, st.binary(max_size=60), max_size=60)).items())
    asked = [pair[0] for pair in records]
    for kind, at, length, to in draw(
        st.lists(st.tuples(st.sampled_from("dim"), st.integers(0, 60), st.integers(1, 30), st.integers(0, 60)))
    ):
        if kind == "i":
            asked[at:at] = draw(st.lists(key, max_size=5))
            continue
        part = asked[at : at + length]
        del asked[at : at + length]
        if kind == "m":
            asked[to:to] = part
    return records, asked


@pytest.mark.usefixtures("small_blocks")
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories())
def test_it_finds_what_a_dictionary_finds(folder: int, history: tuple[Records, list[bytes]]) -> None:
    records, asked = history
    write(folder, records)
    model = dict(records)
    with read(folder) as reader:
        assert len(reader) == len(records)
        assert [reader.lookup(key) for key in asked] == [model.get(key) for key in asked]
        # And once more in any other order.
        assert [reader.lookup(key) for key in sorted(asked)] == [model.get(key) for key in sorted(asked)]


def test_the_order_of_the_walk_needs_no_table(folder: int) -> None:
    records = some_records(30_000)
    write(folder, records)
    with read(folder) as reader:
        for key, value in records:
            assert reader.lookup(key) == value
        assert reader._prefixes is None
        assert reader.lookup(os.urandom(KEY_SIZE)) is None
        assert reader._prefixes is not None
        for key, value in records[20_000:25_000]:  # a removed subtree, then one that moved before it
            assert reader.lookup(key) == value
        for key, value in records[:5000]:
            assert reader.lookup(key) == value
        assert len(reader._kept) <= files_cache._KEPT_BLOCKS
    assert reader.lookup(records[0][0]) is None
    assert len(reader) == 0


def test_values_of_any_size(folder: int) -> None:
    records = [(os.urandom(KEY_SIZE), os.urandom(size)) for size in (0, 1, 3 << 20, 0, files_cache._BLOCK_SIZE, 5)]
    write(folder, records)
    with read(folder) as reader:
        assert [reader.lookup(key) for key, _ in records] == [value for _, value in records]


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_records(folder: int, count: int) -> None:
    records = some_records(count)
    write(folder, records)
    with read(folder) as reader:
        assert len(reader) == count
        assert reader.lookup(bytes(KEY_SIZE)) is None
        assert [reader.lookup(key) for key, _ in records] == [value for _, value in records]


def test_of_a_key_added_twice_either_value_is_found(folder: int) -> None:
    records = some_records(20_000)
    records += [(records[3][0], b"other")]
    write(folder, records)
    with read(folder) as reader:
        assert reader.lookup(records[3][0]) in (records[3][1], b"other")


def test_a_key_has_its_length(folder: int) -> None:
    with FilesCacheWriter(folder, "cache", KEY, BINDING) as writer:
        writer.add(b"short", b"")
        with pytest.raises(ValueError, match="16 bytes"):
            writer.commit()
    assert os.listdir(folder) == []


def test_it_opens_with_its_key_and_binding_alone(folder: int) -> None:
    records = some_records(5)
    write(folder, records)
    for key, binding in [(bytes(32), BINDING), (KEY, b"another"), (KEY, BINDING + b"x")]:
        with read(folder, key=key, binding=binding) as reader:
            assert reader.lookup(records[0][0]) is None
    with read(folder) as reader:
        assert reader.lookup(records[0][0]) == records[0][1]


def test_nothing_shows_through(folder: int, tmp_path: Path) -> None:
    value = b"a value that can be recognised"
    for name in ("one", "other"):
        write(folder, [(b"k" * KEY_SIZE, value)], name)
    one, other = (tmp_path / "one").read_bytes(), (tmp_path / "other").read_bytes()
    assert value not in one
    assert b"k" * 8 not in one
    assert not set(pieces(one)) & set(pieces(other))
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o600


def pieces(content: bytes) -> Iterator[bytes]:
    for at in range(40, len(content) - 16):
        yield content[at : at + 8]


def damaged(content: bytes) -> Iterator[bytes]:
    for at in range(len(content)):
        yield content[:at]
        yield content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :]
    yield content + b"\0"
    yield b"\0" * len(content)
    yield content[: len(content) // 2] + b"\0" * (len(content) - len(content) // 2)


@pytest.mark.usefixtures("small_blocks")
def test_damage_of_any_byte_is_no_error_and_no_wrong_hit(folder: int, tmp_path: Path) -> None:
    records = some_records(6)
    model = dict(records)
    write(folder, records)
    content = (tmp_path / "cache").read_bytes()
    asked = [key for key, _ in records[4:] + records[:4]]
    hits = 0
    for bad in damaged(content):
        (tmp_path / "cache").write_bytes(bad)
        with read(folder) as reader:
            assert len(reader) in ({0, 6} if len(bad) == len(content) else {0})
            found = [(key, reader.lookup(key)) for key in asked]
            assert reader.lookup(bytes(KEY_SIZE)) is None
        assert all(value in (None, model[key]) for key, value in found)
        hits += sum(value is not None for _, value in found)
    assert 0 < hits < 6 * len(content)  # a damaged block loses what is in it, one of the table perhaps nothing


@pytest.mark.usefixtures("small_blocks")
def test_blocks_do_not_change_places(folder: int, tmp_path: Path) -> None:
    """Neither within a cache nor between two of one source."""
    records = [(os.urandom(KEY_SIZE), b"v" * 40) for _ in range(8)]
    write(folder, records)
    content = (tmp_path / "cache").read_bytes()
    size = 2 * (KEY_SIZE + 4 + 40) + 4 + 16 + (KEY_SIZE + 4 + 40)
    first, second = content[40 : 40 + size], content[40 + size : 40 + 2 * size]
    write(folder, records, "again")
    (tmp_path / "cache").write_bytes(content[:40] + second + first + content[40 + 2 * size :])
    again = (tmp_path / "again").read_bytes()
    (tmp_path / "again").write_bytes(again[:40] + first + again[40 + size :])
    with read(folder) as swapped, read(folder, "again") as mixed:
        assert [swapped.lookup(key) for key, _ in records[:6]] == [None] * 6
        assert [mixed.lookup(key) for key, _ in records[:3]] == [None] * 3
        assert mixed.lookup(records[3][0]) == b"v" * 40


def test_what_is_no_cache_is_an_empty_one(folder: int, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    write(folder, some_records(3), "real")
    (tmp_path / "link").symlink_to("real")
    for name in ("absent", "folder", "fifo", "link"):
        before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
        with read(folder, name) as reader:
            assert len(reader) == 0
            assert reader.lookup(bytes(KEY_SIZE)) is None
        if before:
            assert os.listdir("/proc/self/fd") == before


def test_a_reader_keeps_what_is_replaced(folder: int) -> None:
    old, new = some_records(5000, 1), some_records(5000, 2)
    write(folder, old)
    with read(folder) as reader:
        write(folder, new)
        assert [reader.lookup(key) for key, _ in old] == [value for _, value in old]
    with read(folder) as reader:
        assert reader.lookup(old[0][0]) is None
        assert reader.lookup(new[0][0]) == new[0][1]


def test_abort_leaves_what_stands(folder: int) -> None:
    records = some_records(5)
    write(folder, records)
    with FilesCacheWriter(folder, "cache", KEY, BINDING) as writer:
        for key, value in some_records(20_000, 2):
            writer.add(key, value)
        assert sorted(os.listdir(folder)) == ["cache", "cache.part"]
    assert os.listdir(folder) == ["cache"]
    writer.abort()
    assert not writer.commit()
    with read(folder) as reader:
        assert reader.lookup(records[0][0]) == records[0][1]


def test_what_a_killed_writer_left_is_replaced(folder: int, tmp_path: Path) -> None:
    (tmp_path / "cache.part").write_bytes(b"x" * 10_000)
    write(folder, some_records(2))
    assert os.listdir(folder) == ["cache"]


@pytest.mark.parametrize("when", ["open", "write", "rename"])
def test_a_cache_that_cannot_be_written_is_no_error(folder: int, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    records = some_records(20_000)
    write(folder, records[:5])

    def full(*_arguments: object, **_options: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    original = getattr(os, when)
    if when == "open":
        monkeypatch.setattr(os, when, full)
    writer = FilesCacheWriter(folder, "cache", KEY, BINDING)
    monkeypatch.setattr(os, when, full)
    for key, value in records:
        writer.add(key, value)
    assert not writer.commit()
    monkeypatch.setattr(os, when, original)
    assert os.listdir(folder) == ["cache"]
    with read(folder) as reader:
        assert reader.lookup(records[0][0]) == records[0][1]


def test_short_writes_are_continued(folder: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.write
    monkeypatch.setattr(os, "write", lambda fd, view: original(fd, bytes(view)[:1000]))
    records = some_records(300)
    write(folder, records)
    with read(folder) as reader:
        assert [reader.lookup(key) for key, _ in records] == [value for _, value in records]
