"""Chunks fetched ahead: the right content in order, once each where it can be, and never too many."""

from __future__ import annotations

import random
import threading
from collections import Counter

import pytest

from holdfast_server.errors import DataLoss
from holdfast_server.repository.entries import Entry, EntryKind, file_tail
from holdfast_server.repository.extents import encode_extent, encode_hole
from holdfast_server.repository.format import ChunkType, damaged
from holdfast_server.repository.read_ahead import ReadAhead
from holdfast_server.repository.reader import Hole, SnapshotReader

KIB = 1 << 10


class Store:
    """Chunks, and how often each was fetched."""

    def __init__(self, sizes: list[int]) -> None:
        self.chunks = {bytes([n]) * 32: random.Random(n).randbytes(size) for n, size in enumerate(sizes, 1)}
        self.fetched: Counter[bytes] = Counter()
        self.bad: bytes | None = None
        self._lock = threading.Lock()

    def fetch(self, kind: ChunkType, chunk_id: bytes) -> bytes:
        assert kind is ChunkType.DATA
        with self._lock:
            self.fetched[chunk_id] += 1
        if chunk_id == self.bad:
            raise damaged(f"chunk {chunk_id.hex()}", "it is bad")
        return self.chunks[chunk_id]

    def reader(self) -> SnapshotReader:
        class Root:
            root = bytes(32)

        return SnapshotReader(self.fetch, Root())


def file_of(name: str, extents: list[tuple[bytes | None, int, int]]) -> Entry:
    records = [encode_hole(n) if chunk is None else encode_extent(chunk, at, n) for chunk, at, n in extents]
    tail = file_tail(sum(length for _, _, length in extents), None, b"".join(records))
    return Entry(b"", name.encode(), EntryKind.FILE, 0, 0o644, 0, 0, 0, tail)


def read(store: Store, files: list[Entry | None], *, half: bool = False) -> list[bytes]:
    found: list[bytes] = []
    with ReadAhead[int](store.reader(), lambda: None) as ahead:
        for number, blocks in ahead.read(enumerate(files)):
            assert number == len(found)
            content = b""
            for block in blocks:
                content += bytes(block.length) if isinstance(block, Hole) else block
                if half:
                    break
            found.append(content)
    return found


def test_files_in_any_order_come_out_right() -> None:
    rng = random.Random(5)
    store = Store([rng.choice([10, 64 * KIB, 1024 * KIB]) for _ in range(60)])
    ids = [*store.chunks]
    files: list[Entry | None] = []
    wanted = []
    for number in range(400):
        extents: list[tuple[bytes | None, int, int]] = []
        for _ in range(rng.choice([0, 1, 1, 1, 2, 20])):
            chunk = rng.choice([*ids, None])
            size = 100_000 if chunk is None else len(store.chunks[chunk])
            at = 0 if chunk is None else rng.choice([0, rng.randrange(size)])
            extents.append((chunk, at, size - at))
        files.append(None if rng.random() < 0.1 else file_of(f"{number}", extents))
        content = b"".join(bytes(n) if c is None else store.chunks[c][at : at + n] for c, at, n in extents)
        wanted.append(b"" if files[-1] is None else content)
    assert read(store, files) == wanted
    # What a caller does not want of a file does not come with the next.
    beginnings = read(store, files, half=True)
    assert all(whole.startswith(begin) for whole, begin in zip(wanted, beginnings, strict=True))


def test_small_files_of_one_chunk_cost_one_fetch() -> None:
    store = Store([100 * KIB] * 30)
    files: list[Entry | None] = [file_of(f"{n}", [(chunk, n * KIB, KIB)]) for chunk in store.chunks for n in range(100)]
    files += [file_of("again", [(chunk, 0, KIB)]) for chunk in [*store.chunks][-100:]]
    assert b"".join(read(store, files[:3000])) == b"".join(store.chunks.values())
    assert set(store.fetched.values()) == {1}


def test_no_more_chunks_are_fetched_than_the_bound() -> None:
    store = Store([KIB] * 200)
    with ReadAhead[int](store.reader(), lambda: None) as ahead:
        found = ahead.read(enumerate(file_of(f"{n}", [(c, 0, KIB)]) for n, c in enumerate(store.chunks)))
        next(found)
        next(found)
    assert sum(store.fetched.values()) <= 14


def test_damage_names_the_file_and_comes_only_when_it_is_reached() -> None:
    store = Store([KIB] * 5)
    ids = [*store.chunks]
    store.bad = ids[3]
    with ReadAhead[int](store.reader(), lambda: None) as ahead:
        found = ahead.read(enumerate(file_of(f"f{n}", [(c, 0, KIB)]) for n, c in enumerate(ids)))
        reached = [next(found)[0] for _ in range(3)]
        with pytest.raises(DataLoss) as lost:
            next(found)
    assert reached == [0, 1, 2]
    assert lost.value.metadata["path"] == "f3"
    with pytest.raises(DataLoss, match="behind the end"):
        read(store, [file_of("long", [(ids[0], 1, KIB)])])


def test_a_stopped_caller_is_not_kept_waiting() -> None:
    class Stopped(Exception):
        pass

    held = threading.Event()

    class Slow(Store):
        def fetch(self, kind: ChunkType, chunk_id: bytes) -> bytes:
            held.wait(30)
            return super().fetch(kind, chunk_id)

    store = Slow([KIB])

    def check() -> None:
        held.set()
        raise Stopped

    one = file_of("one", [(next(iter(store.chunks)), 0, KIB)])
    with pytest.raises(Stopped), ReadAhead[int](store.reader(), check) as ahead:
        for _ in ahead.read([(1, one)]):
            pass
