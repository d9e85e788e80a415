"""Chunks of small files that are hardly needed, or too small, are packed anew, so that what is kept stays small."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from holdfast_server.repository import waste, writer
from holdfast_server.repository.chunks import ChunkIndex
from holdfast_server.repository.survey import Survey
from holdfast_server.storage.objects import MemoryObjects
from tests.harness import snapshot as tree_of
from tests.repositories import Backups, small_packs


@pytest.fixture
def backups(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backups:
    small_packs(monkeypatch)
    return Backups(memory_path / "caches", MemoryObjects())


@pytest.fixture
def source(memory_path: Path) -> Path:
    folder = memory_path / "source"
    folder.mkdir()
    for number in range(100):
        (folder / f"f{number:03}").write_bytes(content(number))
    return folder


def content(number: int, state: int = 0) -> bytes:
    return random.Random(f"{number} {state}").randbytes(700)


def small_chunks(backups: Backups) -> list[tuple[int, int]]:
    """(bytes that are used, length) of every chunk of small files that a snapshot needs."""
    survey = Survey.take(backups.opened(), lambda: None)
    index = survey.index
    return [
        (survey.live[number], index.raw_length(number))
        for number in index.numbers()
        if survey.needed[number] and index.holds_small_files(number)
    ]


def test_files_of_a_chunk_that_is_hardly_needed_are_packed_anew(backups: Backups, source: Path) -> None:
    first = backups.back_up(source).run_id
    for number in range(100):
        if number % 10:
            (source / f"f{number:03}").unlink()
    second = backups.back_up(source)
    assert second.stored_size < 6_000
    backups.prune()
    # As long as another snapshot needs a chunk whole, it is no waste.
    assert backups.back_up(source).stored_size < 6_000
    backups.remove([first])
    backups.prune()
    assert all(live * 2 < length for live, length in small_chunks(backups))
    wanted = tree_of(source)
    third = backups.back_up(source)
    assert third.stored_size > 7_000
    backups.remove([run_id for run_id in backups.snapshots() if run_id != third.run_id])
    backups.prune()
    assert all(live == length for live, length in small_chunks(backups))
    assert sum(length for _, length in small_chunks(backups)) == 10 * 700
    assert backups.read(third.run_id) == wanted
    assert backups.back_up(source).stored_size < 4_000


def test_a_note_of_another_node_or_none_does_no_harm(backups: Backups, source: Path) -> None:
    backups.back_up(source)
    (backups.caches / "waste").write_bytes(b"x" * 1000)
    (source / "new").write_bytes(b"new")
    assert backups.read(backups.back_up(source).run_id) == tree_of(source)
    (backups.caches / "waste").unlink()
    (backups.caches / "waste").mkdir()
    assert backups.read(backups.back_up(source).run_id) == tree_of(source)


def test_chunks_that_became_small_are_packed_together(
    backups: Backups, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waste, "LEAST_AVERAGE", 3_500)
    backups.back_up(source)
    most = 0
    for state in range(1, 41):
        for number in random.Random(state).sample(range(100), 2):
            (source / f"f{number:03}").write_bytes(content(number, state))
        last = backups.back_up(source)
        backups.remove([run_id for run_id in backups.snapshots() if run_id != last.run_id])
        most = max(most, len(small_chunks(backups)))
    assert backups.read(last.run_id) == tree_of(source)
    # 40 backups of two new files each would have left as many chunks besides the first ones.
    assert 10 < most < 45


def test_what_one_run_packs_anew_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = [(1000 + number, number.to_bytes(2, "big") * 16) for number in range(1, 101)]
    assert len(waste.too_small(chunks)) == 100 * 16
    assert waste.too_small(chunks[:7]) == b""
    assert waste.too_small([*chunks, (100 << 20, bytes(32))]) == b""
    monkeypatch.setattr(waste, "REPACKED_SIZE", 10_055)
    note = waste.too_small(reversed(chunks))
    assert note == b"".join(chunk_id[:16] for _, chunk_id in chunks[:10])
    index = ChunkIndex(keep_keys=False)
    for length, chunk_id in chunks[::-1]:
        index.add_new(chunk_id, 1, length)
    monkeypatch.setattr(waste, "REPACKED_SIZE", 5_010)
    numbers = waste.Repacking(index, note + bytes(16) + b"xy").numbers
    assert sorted(index.raw_length(number) for number in numbers) == [1001, 1002, 1003, 1004]


def test_what_is_packed_anew_is_not_taken_from_a_chunk_as_small(
    backups: Backups, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as older snapshots needed both, files were taken from small chunks and from the one that they had been
    packed into, by turns; nothing was packed any more, and each backup read them all."""
    monkeypatch.setattr(waste, "LEAST_AVERAGE", 40_000)
    counts = []

    def counted(chunks: Iterable[tuple[int, bytes]]) -> bytes:
        every = list(chunks)
        counts.append(len(every))
        return waste.too_small(every)

    monkeypatch.setattr(writer, "too_small", counted)
    backups.back_up(source)
    for state in range(1, 61):
        for number in random.Random(state).sample(range(100), 2):
            (source / f"f{number:03}").write_bytes(content(number, state))
        last = backups.back_up(source)  # every snapshot is kept
    assert backups.read(last.run_id) == tree_of(source)
    assert max(counts) <= 16


def test_a_file_is_taken_from_where_it_may_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waste, "LEAST_AVERAGE", 5_000)
    index = ChunkIndex(keep_keys=False)
    lengths = [1_000, 2_000, 2_999, 3_000, 9_000]
    ids = [number.to_bytes(1, "big") * 32 for number in range(len(lengths))]
    small, stale, less, as_large, larger = (
        index.add_new(own, 1, length) for own, length in zip(ids, lengths, strict=True)
    )
    repacking = waste.Repacking(index, ids[small][:16] + ids[stale][:16])
    own = index.add_new(b"x" * 32, 1, 10)
    assert repacking.numbers == {small, stale}

    def chosen(*numbers: int) -> int | None:
        place = repacking.choose((number, 7) for number in numbers)
        assert place is None or place[1] == 7
        return place and place[0]

    # What is not packed anew comes from anywhere, the rest from a chunk as large as all that is, or of this backup.
    assert chosen(less, larger) == less
    assert chosen(stale, less, as_large, larger) == as_large
    assert chosen(larger, stale) == larger
    assert chosen(less, stale, own) == own
    assert chosen(less, small) is None
    assert chosen() is None
    repacking = waste.Repacking(index, b"")
    assert chosen(less, larger) == less
    assert chosen() is None
