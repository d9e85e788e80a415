from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from holdfast_server.repository import small_files, sorted_run
from holdfast_server.repository.small_files import SmallFile, SmallFiles

UUID = b"repository's id."
CHUNK = b"c" * 16

Record = tuple[bytes, bytes, int, int]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_files, "_IN_MEMORY", 5)
    monkeypatch.setattr(small_files, "_MAX_RUNS", 2)
    monkeypatch.setattr(sorted_run, "_MERGED_AT_ONCE", 4)


def some_records(count: int, seed: int = 1) -> list[Record]:
    source = random.Random(seed)
    return [
        (source.randbytes(16), source.randbytes(16), source.randrange(1 << 32), source.randrange(1 << 32))
        for _ in range(count)
    ]


def place(record: Record) -> SmallFile:
    return SmallFile(*record[1:])


_digests = st.sampled_from([bytes(16), b"\xff" * 16, b"\xff" * 15 + b"\0", b"\x7f" + b"\xff" * 15]) | st.binary(
    min_size=16, max_size=16
)
_numbers = st.integers(0, (1 << 32) - 1)
_records = st.lists(st.tuples(_digests, st.binary(min_size=16, max_size=16), _numbers, _numbers), max_size=25)
_ids = st.sampled_from("abcdefghijklmnop")


class Model(RuleBasedStateMachine):
    """The table beside dictionaries: by index object what it says, and what was remembered."""

    folder: int

    def __init__(self) -> None:
        super().__init__()
        for name in os.listdir(self.folder):
            os.unlink(name, dir_fd=self.folder)
        self.table = SmallFiles.open(self.folder, UUID)
        self.remembered: dict[bytes, list[SmallFile]] = {}
        self.indexed: dict[str, list[Record]] = {}
        self.gone: list[Record] = []
        self.asked: set[bytes] = set()

    def teardown(self) -> None:
        self.table.close()

    @rule(name=_ids, records=_records)
    def add(self, name: str, records: list[Record]) -> None:
        if name not in self.indexed:
            assert self.table.add_index(name, iter(records))
            self.indexed[name] = records
            self.asked |= {record[0] for record in records}

    @rule(records=_records)
    def remember(self, records: list[Record]) -> None:
        for record in records:
            self.table.remember(*record)
            self.remembered.setdefault(record[0], []).append(place(record))
            self.asked.add(record[0])

    @rule()
    def forget(self) -> None:
        self.table.forget_run()
        self.remembered = {}

    @rule(names=st.sets(_ids))
    def retain(self, names: set[str]) -> None:
        self.table.retain(names)
        for name in set(self.indexed) - names:
            self.gone += self.indexed.pop(name)

    @rule()
    def reopen(self) -> None:
        self.table.close()
        self.table = SmallFiles.open(self.folder, UUID)
        self.remembered = {}

    @rule(digest=_digests)
    def ask(self, digest: bytes) -> None:
        self.asked.add(digest)

    @invariant()
    def finds_what_the_dictionaries_hold(self) -> None:
        assert self.table.covers >= set(self.indexed)
        stored = [record for records in self.indexed.values() for record in records]
        for digest in self.asked:
            entries = list(self.table.lookup_all(digest))
            must = {place(record) for record in stored if record[0] == digest}
            remembered = self.remembered.get(digest, [])
            may = must | {place(record) for record in self.gone if record[0] == digest} | set(remembered)
            assert must <= set(entries) <= may
            found = self.table.lookup(digest)
            assert (found in entries) if entries else found is None
            if remembered:
                assert entries[0] == remembered[-1]


@pytest.mark.usefixtures("small_limits")
def test_it_finds_what_dictionaries_find(folder: int) -> None:
    class Here(Model):
        pass

    Here.folder = folder
    bounds = settings(max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Here, settings=bounds)


def test_newest_first_also_when_merged(folder: int) -> None:
    digest = b"d" * 16
    with SmallFiles.open(folder, UUID) as table:
        for number in range(20):
            assert table.add_index(f"i{number}", [(digest, CHUNK, number, 1), (os.urandom(16), CHUNK, 0, 0)])
            # And what several index objects say alike is there once.
            assert table.add_index(f"j{number}", [(b"e" * 16, CHUNK, 1, 1)])
        assert len(os.listdir(folder)) <= small_files._MAX_RUNS
        table.remember(digest, CHUNK, 20, 1)
        assert [entry.offset for entry in table.lookup_all(digest)] == [*range(20, -1, -1)]
        assert table.lookup(digest) == SmallFile(CHUNK, 20, 1)
        assert len(table.covers) == 40
    with SmallFiles.open(folder, UUID) as table:
        assert [entry.offset for entry in table.lookup_all(digest)] == [*range(19, -1, -1)]
        assert 1 <= len(list(table.lookup_all(b"e" * 16))) <= small_files._MAX_RUNS
        assert len(table.covers) == 40


def test_memory_of_200_000_files(folder: int) -> None:
    records = some_records(200_000)
    with SmallFiles.open(folder, UUID) as table:
        assert table.add_index("all", records)
        assert table.filter_size <= 2 * len(records)
        assert sum(os.stat(name, dir_fd=folder).st_size for name in os.listdir(folder)) <= 40 * len(records) + 100
        assert all(table.lookup(record[0]) == place(record) for record in records[::7])
        assert not any(table.lookup(record[0]) for record in some_records(20_000, 2))


def test_more_than_fits_in_memory(folder: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_files, "_IN_MEMORY", 1000)
    records = some_records(20_500)
    with SmallFiles.open(folder, UUID) as table:
        for record in records:
            table.remember(*record)
        assert len(table._recent) == 500
        assert 1 <= len(table._spilled) <= small_files._MAX_RUNS
        assert os.listdir(folder) == []
        assert all(table.lookup(record[0]) == place(record) for record in records)
        assert table.add_index("i", records)
        table.forget_run()
        assert all(list(table.lookup_all(record[0])) == [place(record)] for record in records)
        assert table.filter_size <= 2 * len(records)


def test_runs_of_vanished_index_objects_are_dropped(folder: int) -> None:
    records = some_records(3)
    with SmallFiles.open(folder, UUID) as table:
        for name, record in zip("abc", records, strict=True):
            assert table.add_index(name, [record])
        table.retain({"b", "x"})
        assert table.covers == {"b"}
        assert [table.lookup(record[0]) for record in records] == [None, place(records[1]), None]
    with SmallFiles.open(folder, UUID) as table:
        assert table.covers == {"b"}
        table.retain(set())
        assert os.listdir(folder) == []
        assert table.lookup(records[1][0]) is None


def test_merged_runs_forget_the_names_of_what_vanished(folder: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_files, "_MAX_RUNS", 2)
    with SmallFiles.open(folder, UUID) as table:
        for name in "abc":
            assert table.add_index(name, some_records(1))
        assert table.covers == {"a", "b", "c"}
        table.retain({"a"})
        assert table.covers == {"a", "b", "c"}  # one run by now
        for name in "de":
            assert table.add_index(name, some_records(1))
        assert table.covers == {"a", "d", "e"}


def test_an_index_object_without_small_files_is_covered(folder: int) -> None:
    with SmallFiles.open(folder, UUID) as table:
        assert table.add_index("empty", [])
    with SmallFiles.open(folder, UUID) as table:
        assert table.covers == {"empty"}
        assert table.lookup(bytes(16)) is None


@pytest.mark.parametrize(
    "record", [(b"short", CHUNK, 0, 0), (bytes(16), b"", 0, 0), (bytes(17), CHUNK, 0, 0)], ids=["d", "c", "long"]
)
def test_lengths_are_checked(folder: int, record: Record) -> None:
    with SmallFiles.open(folder, UUID) as table:
        with pytest.raises(ValueError, match="16 bytes"):
            table.remember(*record)
        with pytest.raises(ValueError, match="16 bytes"):
            table.add_index("i", [record])
        for name in ("", "two words", "two\nlines", " i"):
            with pytest.raises(ValueError, match="one word"):
                table.add_index(name, [])
    with pytest.raises(ValueError, match="16 bytes"):
        SmallFiles.open(folder, b"")
    assert os.listdir(folder) == []


def test_damage_of_any_byte_drops_the_run(folder: int, tmp_path: Path) -> None:
    good, bad = some_records(3, 1), some_records(4, 2)
    with SmallFiles.open(folder, UUID) as table:
        assert table.add_index("good", good)
        assert table.add_index("bad", bad)
    file = tmp_path / "00000001-00000001.run"
    content = file.read_bytes()
    versions = [content[:at] for at in range(len(content))]
    versions += [content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :] for at in range(len(content))]
    versions += [content + b"\0", content + bytes(40), bytes(len(content))]
    for version in versions:
        file.write_bytes(version)
        with SmallFiles.open(folder, UUID) as table:
            assert table.covers == {"good"}
            assert [table.lookup(record[0]) for record in bad] == [None] * 4
            assert [table.lookup(record[0]) for record in good] == [place(record) for record in good]
        assert not file.exists()
    file.write_bytes(content)
    with SmallFiles.open(folder, UUID) as table:
        assert table.covers == {"good", "bad"}


def test_another_repository_s_runs_are_not_believed(folder: int) -> None:
    with SmallFiles.open(folder, UUID) as table:
        assert table.add_index("i", some_records(1))
    with SmallFiles.open(folder, bytes(16)) as table:
        assert table.covers == set()


def test_what_a_killed_merge_left_is_not_there_twice(folder: int, tmp_path: Path) -> None:
    (tmp_path / "0123456789abcdef.part").write_bytes(b"x")
    (tmp_path / "unrelated").write_bytes(b"x")
    with SmallFiles.open(folder, UUID) as table:
        for name in "abcd":
            assert table.add_index(name, some_records(1, ord(name)))
        files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        assert table.add_index("e", some_records(1, 5))
        assert sorted(os.listdir(folder)) == ["00000000-00000004.run", "unrelated"]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with SmallFiles.open(folder, UUID) as table:
        assert sorted(os.listdir(folder)) == ["00000000-00000004.run", "unrelated"]
        assert table.covers == set("abcde")
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "00000000-00000004.run").write_bytes(b"torn")
    with SmallFiles.open(folder, UUID) as table:
        assert table.covers == set("abcd")


def test_a_full_disk_is_no_error(folder: int, monkeypatch: pytest.MonkeyPatch) -> None:
    records = some_records(3)
    with SmallFiles.open(folder, UUID) as table:
        for name in "abcd":
            assert table.add_index(name, records[:1])

        def full(_fd: int, _content: bytes = b"") -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            patch.setattr(small_files, "_IN_MEMORY", 2)
            assert not table.add_index("e", records[1:])
            for record in records:
                table.remember(*record)
            assert table.lookup(records[2][0]) == place(records[2])
        with monkeypatch.context() as patch:  # it is written, but cannot be merged
            patch.setattr(os, "fsync", full)
            assert table.add_index("f", records[1:2])
        assert table.covers == set("abcdf")
        assert table.lookup(records[1][0]) == place(records[1])
        assert len(os.listdir(folder)) == 5
        assert table.add_index("e", records[1:])
        assert len(os.listdir(folder)) <= small_files._MAX_RUNS
        assert table.lookup(records[1][0]) == place(records[1])


def test_nothing_stays_open(folder: int) -> None:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("descriptors cannot be listed here")
    before = os.listdir("/proc/self/fd")
    with SmallFiles.open(folder, UUID) as table:
        for number in range(6):
            assert table.add_index(f"i{number}", some_records(10, number))
    with SmallFiles.open(folder, UUID) as table:
        assert table.lookup(some_records(10, 3)[0][0])
    assert os.listdir("/proc/self/fd") == before
