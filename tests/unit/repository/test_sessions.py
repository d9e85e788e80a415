"""What a backup into a repository stores, refers to and reads again, and how runs begin and end."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from holdfast_server.core import snapshot_backup
from holdfast_server.errors import Aborted, Cancelled, HoldfastError, Reason
from holdfast_server.repository import ReadingRun, RunKind, bury_run, remove_snapshots, writer
from holdfast_server.repository.cutting import Cutter
from holdfast_server.repository.format import ChunkType, pack_name
from holdfast_server.repository.index import load_index
from holdfast_server.repository.packs import PackRecord
from holdfast_server.storage.entry import TreeEntry
from holdfast_server.storage.objects import LocalObjects, MemoryObjects, ObjectStore
from tests.harness import make_tree, snapshot
from tests.nonces import NonceAudit, RecordingObjects
from tests.repositories import Backups, copy_of, packs_of, small_packs, stored_size

MIB = 1 << 20


@pytest.fixture
def backups(memory_path: Path) -> Backups:
    return Backups(memory_path / "caches", MemoryObjects())


def many_files(root: Path, count: int, seed: int = 1, sizes: Sequence[int] = (100, 448, 2_000)) -> Path:
    """A tree of small files, no two alike."""
    draw = random.Random(seed)
    for number in range(count):
        folder = root / f"d{number // 500:03}"
        if number % 500 == 0:
            folder.mkdir(parents=True)
        (folder / f"{number:06}.bin").write_bytes(draw.randbytes(draw.choice(sizes)))
    return root


def growth(store: ObjectStore, work: Callable[[], object]) -> int:
    """By how many bytes the store grows."""
    before = stored_size(store)
    work()
    return stored_size(store) - before


def chunks_of(backups: Backups) -> list[bytes]:
    """The ids of all chunks in all packs, as often as they are stored."""
    found = packs_of(backups.store, backups.opened()).values()
    return [chunk.chunk_id for record in found for chunk in record]


# -- what is stored -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("caches_lost", [False, True], ids=["", "caches lost"])
@pytest.mark.parametrize("count", [1_500, pytest.param(100_000, marks=pytest.mark.soak)])
def test_an_unchanged_source_stores_next_to_nothing(
    backups: Backups, memory_path: Path, count: int, caches_lost: bool
) -> None:
    source = many_files(memory_path / "source", count)
    first = backups.back_up(source)
    if caches_lost:
        backups.lose_caches()
    assert growth(backups.store, lambda: backups.back_up(source)) <= 64 << 10
    third = str(uuid.uuid4())
    assert growth(backups.store, lambda: backups.back_up(source, run_id=third)) <= 4 << 10
    assert backups.read(third) == backups.read(first.run_id) == snapshot(source)


@pytest.mark.parametrize("count", [500, pytest.param(8_000, marks=pytest.mark.soak)])
def test_a_copied_moved_or_touched_tree_stores_less_than_a_hundredth(
    backups: Backups, memory_path: Path, count: int
) -> None:
    source = many_files(memory_path / "source", count, sizes=(100, 2_000, 20_000))
    make_tree(source / "large", 5, large=8 * MIB)
    whole = growth(backups.store, lambda: backups.back_up(source))

    for path in source.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    touched = str(uuid.uuid4())
    # The tree is written anew, for every entry holds its time.
    assert growth(backups.store, lambda: backups.back_up(source, run_id=touched)) * 100 < whole
    assert backups.read(touched) == snapshot(source)

    (source / "d000").rename(source / "moved")
    shutil.copytree(source / "large", source / "copied")
    shutil.copytree(source / "moved", source / "copied again")
    backups.lose_caches()
    moved = str(uuid.uuid4())
    assert growth(backups.store, lambda: backups.back_up(source, run_id=moved)) * 100 < whole
    assert backups.read(moved) == snapshot(source)


@pytest.mark.parametrize("size", [64 * MIB, pytest.param(1024 * MIB, marks=pytest.mark.soak)])
def test_a_byte_inserted_into_a_large_file_stores_little(
    backups: Backups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    # Where chunks end is drawn by each repository: for one in some fifty it changes 4 MiB and more.
    monkeypatch.setattr(writer, "Cutter", lambda _, wait_for: Cutter(2, wait_for))
    source = tmp_path / "source"
    source.mkdir()
    draw = random.Random(size)
    with (source / "large").open("wb") as file:
        for _ in range(size // MIB):
            file.write(draw.randbytes(MIB))
    whole = growth(backups.store, lambda: backups.back_up(source))
    assert whole > size
    with (source / "large").open("rb") as old, (source / "new").open("wb") as new:
        new.write(old.read(size // 3))
        new.write(b"!")
        shutil.copyfileobj(old, new)
    (source / "new").replace(source / "large")
    inserted = str(uuid.uuid4())
    assert growth(backups.store, lambda: backups.back_up(source, run_id=inserted)) < 4 * MIB
    assert backups.read(inserted) == snapshot(source)


def test_two_sources_share_chunks_and_their_streams_are_never_mixed(backups: Backups, memory_path: Path) -> None:
    first, second = many_files(memory_path / "first", 400), memory_path / "second"
    shutil.copytree(first, second)
    many_files(second / "own", 400, seed=2)
    make_tree(second / "large", 5, files=3, large=8 * MIB)
    shutil.copytree(second / "large", first / "large")
    one = backups.back_up(first, source_id="first")
    before = set(chunks_of(backups))
    files_before = sum(path.stat().st_size for path in first.rglob("*") if path.is_file())
    two = backups.back_up(second, source_id="second")
    found = chunks_of(backups)
    assert len(found) == len(set(found)), "a chunk is stored twice"
    new = {
        chunk.chunk_id: chunk.raw_length
        for record in packs_of(backups.store, backups.opened()).values()
        for chunk in record
        if chunk.kind == ChunkType.DATA and chunk.chunk_id not in before
    }
    own = sum(path.stat().st_size for path in (second / "own").rglob("*") if path.is_file())
    assert own <= sum(new.values()) < own + 1024 < files_before
    assert backups.read_all([one.run_id, two.run_id]) == {one.run_id: snapshot(first), two.run_id: snapshot(second)}


def test_sources_that_are_backed_up_at_the_same_time_do_not_mix_their_streams(
    backups: Backups, memory_path: Path
) -> None:
    sources = [many_files(memory_path / name, 600, seed) for seed, name in enumerate(("first", "second", "third"))]
    runs = {name: str(uuid.uuid4()) for name in map(str, sources)}
    threads = [
        threading.Thread(
            target=backups.back_up, args=(source,), kwargs={"run_id": runs[str(source)], "source_id": name}
        )
        for source, name in zip(sources, ("one", "two", "three"), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used: list[set[bytes]] = []
    for source in sources:
        repository = backups.opened()
        with ReadingRun(repository, RunKind.RESTORE, lambda: None, lambda: 1) as run:
            found = repository.snapshot(runs[str(source)])
            assert found is not None
            reader = run.reader(found, backups.content)
            extents = [extent for entry in reader.entries() if entry.kind == 1 for extent in reader.extents(entry)]
            used.append({extent.chunk_id for extent in extents if extent.chunk_id is not None})
        assert backups.read(runs[str(source)]) == snapshot(source)
    assert all(used)
    assert len(set[bytes]().union(*used)) == sum(map(len, used))
    assert not [*backups.store.list("runs/")]
    NonceAudit(backups.opened().index_keys, backups.content).add_all(backups.store)


@pytest.mark.parametrize("cached", [True, False], ids=["cached", ""])
def test_one_source_is_backed_up_several_times_at_once_by_two_nodes(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    small_packs(monkeypatch)
    here = Backups(memory_path / "caches", MemoryObjects())
    there = here.other_node(memory_path / "other")
    source = many_files(memory_path / "source", 300)
    for node in (here, there) if cached else ():
        node.back_up(source)
    for path in sorted(source.rglob("*.bin"))[::3]:
        path.write_bytes(os.urandom(1_000))
    runs = [str(uuid.uuid4()) for _ in range(6)]
    audit = NonceAudit(here.opened().index_keys, here.content)
    threads = [
        threading.Thread(
            target=(here, there)[number % 2].back_up,
            args=(source,),
            kwargs={"run_id": run_id, "store": RecordingObjects(here.store, audit)},
        )
        for number, run_id in enumerate(runs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert here.read_all(runs) == dict.fromkeys(runs, snapshot(source))
    assert not [*here.store.list("runs/")]
    assert audit.messages
    for node in (here, there):
        assert growth(here.store, lambda: node.back_up(source)) < 16 << 10  # noqa: B023
    last = str(uuid.uuid4())
    assert growth(here.store, lambda: here.back_up(source, run_id=last)) < 4 << 10
    assert here.read(last) == snapshot(source)


# -- what is read again ---------------------------------------------------------------------------------------------


def reads(backups: Backups, source: Path, **values: int) -> tuple[str, list[bytes]]:
    """A backup, and the files whose content it has read."""
    read: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        read_unchanged, file_reader = snapshot_backup.read_unchanged, snapshot_backup.FileReader

        def noted(folder_fd: int, name: bytes, state: bytes) -> object:
            folder = os.readlink(b"/proc/self/fd/%d" % folder_fd)
            read.append(os.path.relpath(os.path.join(folder, name), os.fsencode(source)))
            return read_unchanged(folder_fd, name, state)

        def noted_large(entry: TreeEntry) -> object:
            read.append(entry.path)
            return file_reader(entry)

        patch.setattr(snapshot_backup, "read_unchanged", noted)
        patch.setattr(snapshot_backup, "FileReader", noted_large)
        return backups.back_up(source, **values).run_id, read


def test_a_changed_file_of_the_same_size_and_time_is_read_again(backups: Backups, memory_path: Path) -> None:
    source = make_tree(memory_path / "source", 3, large=3 * MIB)
    _, read = reads(backups, source)
    assert len(read) == 41
    _, read = reads(backups, source)
    assert read == []
    changed = [source / "large.bin", next(path for path in source.rglob("f*.bin") if path.stat().st_size == 100)]
    for path in changed:
        status, content = path.stat(), path.read_bytes()
        with path.open("r+b") as file:
            file.write(bytes([content[0] ^ 1]))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert path.stat().st_mtime_ns == status.st_mtime_ns
        assert path.stat().st_size == status.st_size
    run_id, read = reads(backups, source)
    assert sorted(read) == sorted(bytes(path.relative_to(source)) for path in changed)
    assert backups.read(run_id) == snapshot(source)


def test_a_file_changed_within_the_clocks_step_is_not_taken_from_the_cache(backups: Backups, memory_path: Path) -> None:
    source = make_tree(memory_path / "source", 3, large=3 * MIB)
    settled = time.time_ns()
    time.sleep(0.02)  # the steps of the file system's clock are shorter
    fresh = [source / "large.bin", source / "new.bin"]
    for path in fresh:
        path.write_bytes(os.urandom(path.stat().st_size if path.exists() else 100))
    _, read = reads(backups, source, safe_before_ns=settled)
    assert len(read) == 42
    # What changed again looks as it did before: nothing but the content differs.
    run_id, read = reads(backups, source, safe_before_ns=settled)
    assert sorted(read) == [bytes(path.relative_to(source)) for path in fresh]
    assert backups.read(run_id) == snapshot(source)
    _, read = reads(backups, source)
    assert len(read) == 2
    _, read = reads(backups, source)
    assert read == []


def test_all_files_are_read_again_after_the_loss_of_the_caches_and_nothing_is_stored_again(
    backups: Backups, memory_path: Path
) -> None:
    source = make_tree(memory_path / "source", 4, large=6 * MIB)
    backups.back_up(source)
    before = sorted(chunks_of(backups))
    backups.lose_caches()
    run_id, read = reads(backups, source)
    assert len(read) == 41
    # The list of chunks is in the order in which they were met: one page of it may be new.
    kinds = {chunk.chunk_id: chunk.kind for one in packs_of(backups.store, backups.opened()).values() for chunk in one}
    new = [chunk_id for chunk_id in kinds if chunk_id not in before]
    assert [kinds[chunk_id] for chunk_id in new] in ([], [ChunkType.LIST])
    assert backups.read(run_id) == snapshot(source)


# -- healing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("harm", "caches_lost"), [("deleted", False), ("deleted", True), ("truncated", False), ("emptied", True)]
)
def test_a_harmed_pack_is_healed_by_the_next_backup(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str, caches_lost: bool
) -> None:
    small_packs(monkeypatch)
    backups = Backups(memory_path / "caches", MemoryObjects())
    source = make_tree(memory_path / "source", 6, large=2 * MIB)
    first = backups.back_up(source)
    whole, caches = copy_of(backups.store), memory_path / "kept"
    shutil.copytree(backups.caches, caches)
    packs = [pack_name(pack_id) for pack_id in packs_of(whole, backups.opened())]
    assert len(packs) >= 8
    for name in packs[::2]:
        store = copy_of(whole)
        backups.lose_caches()
        if not caches_lost:
            shutil.copytree(caches, backups.caches, dirs_exist_ok=True)
        content = store.get(name)
        if harm == "deleted":
            store.delete(name)
        else:
            store.put(name, [content[: len(content) * 2 // 3 if harm == "truncated" else 0]])
        with pytest.raises(HoldfastError) as caught:
            backups.read(first.run_id, store)
        assert caught.value.reason is Reason.CHECKSUM_MISMATCH
        second = backups.back_up(source, store=store)
        # Chunks are the same, so the earlier snapshot is whole again, too, if its list is not asked for.
        assert backups.read_all([first.run_id, second.run_id], store) == dict.fromkeys(
            (first.run_id, second.run_id), snapshot(source)
        )
        assert growth(store, lambda: backups.back_up(source, store=store)) < 4 << 10  # noqa: B023


# -- runs -----------------------------------------------------------------------------------------------------------


def test_packs_without_an_index_are_adopted_and_none_of_their_files_is_stored_again(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_packs(monkeypatch)
    backups = Backups(memory_path / "caches", MemoryObjects())
    source = many_files(memory_path / "source", 200)
    run_id = backups.back_up(source).run_id
    # As a kill before the index was written leaves it.
    for info in [*backups.store.list("index/"), *backups.store.list("log/")]:
        backups.store.delete(info.name)
    backups.store.delete(f"snapshots/{run_id}")
    backups.lose_caches()
    left = packs_of(backups.store, backups.opened())
    # Something new before all others shifts the stream; a file is known wherever it lies.
    (source / "a").write_bytes(os.urandom(3_000))
    again = backups.back_up(source)
    new = [record for pack_id, record in packs_of(backups.store, backups.opened()).items() if pack_id not in left]
    assert digests([*left.values()]).isdisjoint(digests(new))
    assert len(digests(new)) == 1
    assert backups.read(again.run_id) == snapshot(source)
    found = load_index(backups.store, backups.opened().index_keys, keep_keys=False, check=lambda: None)
    assert (found.adopted, found.missing, found.unreadable) == ([], {}, {})


def digests(records: list[PackRecord]) -> set[bytes]:
    return {small[0] for record in records for small in record.small_of()}


def test_a_later_attempt_finds_what_an_earlier_one_committed(backups: Backups, memory_path: Path) -> None:
    source = make_tree(memory_path / "source", 2)
    run_id = str(uuid.uuid4())
    first = backups.back_up(source, run_id=run_id)
    (source / "later").write_bytes(b"x")
    assert backups.back_up(source, run_id=run_id) == first
    assert b"later" not in backups.read(run_id)
    assert not [*backups.store.list("runs/")]
    assert len([*backups.store.list("log/")]) == 1


def test_a_buried_run_commits_nothing(backups: Backups, memory_path: Path) -> None:
    source = make_tree(memory_path / "source", 2)
    run_id, other = str(uuid.uuid4()), str(uuid.uuid4())
    buried = []

    def bury() -> None:
        if not buried:
            buried.append(bury_run(backups.opened(), run_id))

    with pytest.raises(Aborted) as caught:
        backups.back_up(source, run_id=run_id, check=bury)
    assert caught.value.reason is Reason.RUN_ENDED
    assert buried == [None]
    with pytest.raises(Aborted):
        backups.back_up(source, run_id=run_id)
    assert backups.snapshots() == {}
    backups.back_up(source, run_id=other)
    assert [*backups.snapshots()] == [other]
    assert not [*backups.store.list("runs/")]


def test_a_committed_run_that_is_given_up_leaves_no_run_behind(backups: Backups, memory_path: Path) -> None:
    source = make_tree(memory_path / "source", 2)
    run_id = str(uuid.uuid4())
    backups.back_up(source, run_id=run_id)
    # As an attempt leaves it that was killed between its commit and the end of its run.
    name = f"runs/{run_id}"
    backups.store.put(name, [b"of a run"])
    end = bury_run(backups.opened(), run_id)
    assert end is not None
    assert end.run_id == run_id
    assert [*backups.snapshots()] == [run_id]
    assert not [*backups.store.list("runs/")]
    remove_snapshots(backups.opened(), [run_id], 1)
    assert backups.snapshots() == {}


def test_a_run_that_waits_for_the_caches_can_be_stopped(backups: Backups, memory_path: Path) -> None:
    """Who holds them may be a process that stands still."""
    source = make_tree(memory_path / "source", 2)
    (backups.caches / "small-files").mkdir()
    fd = os.open(backups.caches / "small-files", os.O_RDONLY)
    asked = []

    def check() -> None:
        asked.append(1)
        if len(asked) > 50:
            raise Cancelled

    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(Cancelled):
            backups.back_up(source, check=check)
    finally:
        os.close(fd)
    assert backups.read(backups.back_up(source).run_id) == snapshot(source)


def test_a_folder_serves_as_the_memory_does(memory_path: Path) -> None:
    (memory_path / "store").mkdir()
    fd = os.open(memory_path / "store", os.O_RDONLY)
    try:
        with LocalObjects(fd, "store") as store:
            backups = Backups(memory_path / "caches", store)
            source = make_tree(memory_path / "source", 2, large=2 * MIB)
            run_id = backups.back_up(source).run_id
            assert backups.read(run_id) == snapshot(source)
            assert growth(store, lambda: backups.back_up(source)) < 8 << 10
            NonceAudit(backups.opened().index_keys, backups.content).add_all(store)
    finally:
        os.close(fd)
