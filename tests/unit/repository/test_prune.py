"""Pruning: what no snapshot needs goes, all else stays, whatever else happens in the repository meanwhile."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from holdfast_server.errors import Aborted, DataLoss, Reason
from holdfast_server.repository import (
    CheckLevel,
    Damage,
    MaintenanceWatch,
    PruneReport,
    ReadingRun,
    RunKind,
    bury_run,
    check_repository,
    compact,
)
from holdfast_server.repository.facts import Condemned, Removed, Swept
from holdfast_server.repository.format import snapshot_name
from holdfast_server.repository.index import list_packs
from holdfast_server.repository.log import LogReader
from holdfast_server.repository.log_state import LogState, cut_log
from holdfast_server.repository.removal import SILENT_US, Removal
from holdfast_server.repository.runs import begin_run, is_begun, list_runs
from holdfast_server.repository.snapshots import Tombstone, read_run_end
from holdfast_server.repository.survey import Survey
from holdfast_server.storage.objects import MemoryObjects, ObjectInfo
from tests.harness import snapshot as tree_of
from tests.repositories import Backups, packs_of, small_packs

DAY_US = 24 * 3_600_000_000
NOW = count(10**15)


@pytest.fixture
def backups(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backups:
    small_packs(monkeypatch)
    return Backups(memory_path / "caches", MemoryObjects())


@pytest.fixture
def source(memory_path: Path) -> Path:
    folder = memory_path / "source"
    folder.mkdir()
    fill(folder, "a", 60)
    return folder


def fill(folder: Path, name: str, count: int, size: int = 900) -> None:
    for number in range(count):
        (folder / f"{name}{number:03}").write_bytes(random.Random(f"{name}{number}").randbytes(size))


def state(backups: Backups) -> LogState:
    repository = backups.opened()
    return LogState.of(LogReader(repository.store, repository.index_keys).read())


def runs(backups: Backups) -> list[str]:
    repository = backups.opened()
    return [run.run_id for run in list_runs(repository.store, repository.index_keys)]


def two_states(backups: Backups, source: Path) -> tuple[str, str, dict, dict]:
    """Two snapshots of which the second shares half of the files with the first."""
    first = backups.back_up(source).run_id
    before = tree_of(source)
    for number in range(30):
        (source / f"a{number:03}").unlink()
    fill(source, "b", 40)
    second = backups.back_up(source).run_id
    return first, second, before, tree_of(source)


def test_nothing_is_pruned_of_what_snapshots_need(backups: Backups, source: Path) -> None:
    first, second, before, after = two_states(backups, source)
    packs = list_packs(backups.store)
    report = backups.prune()
    assert (report.packs_condemned, report.packs_deleted, report.bytes_pending) == (0, 0, 0)
    assert list_packs(backups.store) == packs
    assert backups.read_all([first, second]) == {first: before, second: after}
    assert runs(backups) == []


def test_what_only_a_removed_snapshot_needed_goes(backups: Backups, source: Path) -> None:
    first, second, _, after = two_states(backups, source)
    packs = list_packs(backups.store)
    assert backups.prune(dry_run=True).bytes_pending == 0
    before = backups.prune(dry_run=True, without=[first])
    backups.remove([first])
    foreseen = backups.prune(dry_run=True)
    assert list_packs(backups.store) == packs
    assert before == foreseen
    report = backups.prune()
    left = list_packs(backups.store)
    assert report.packs_deleted == report.packs_condemned == len(packs) - len(left) == foreseen.packs_pending > 0
    assert report.bytes_freed == sum(packs.values()) - sum(left.values()) == foreseen.bytes_pending
    assert report.bytes_pending == report.runs_waited_for == 0
    assert backups.read(second) == after
    assert backups.prune().packs_deleted == 0
    # A backup of the removed state stores again what is gone, and nothing refers to what was deleted.
    assert set(state(backups).swept) <= set(packs) - set(left)


def test_all_snapshots_removed_leaves_nothing(backups: Backups, source: Path) -> None:
    first, second, *_ = two_states(backups, source)
    backups.remove([first, second])
    backups.remove([first, second])
    backups.prune()
    assert list_packs(backups.store) == {}
    assert backups.back_up(source).counts.files == 70
    report = backups.compact()
    assert report.objects_after == sum(1 for _ in backups.store.list("")) <= 12


def test_a_removed_snapshot_that_comes_back_is_ignored_and_deleted(backups: Backups, source: Path) -> None:
    first, second, _, after = two_states(backups, source)
    name = f"snapshots/{first}"
    content = backups.store.get(name)
    backups.remove([first])
    backups.prune()
    backups.store.put(name, [content])
    report = backups.prune()
    assert report.packs_deleted == 0
    assert name not in {info.name for info in backups.store.list("snapshots/")}
    assert backups.read(second) == after


class Stop(Exception):
    """The test wants no more."""


def test_a_backup_under_way_keeps_what_it_may_need(backups: Backups, source: Path) -> None:
    """It has loaded its index before the packs were condemned, and refers to what is in them."""
    first = backups.back_up(source).run_id
    before = tree_of(source)
    backups.remove([first])
    pruned = []

    def check() -> None:
        if not pruned:
            pruned.append(backups.prune())

    # The source has not changed: the backup refers to everything that was condemned.
    other = backups.other_node(backups.caches.parent / "other")
    second = other.back_up(source, check=check).run_id
    assert pruned[0].packs_condemned > 0
    assert pruned[0].packs_deleted == 0
    assert pruned[0].bytes_pending > 0
    assert pruned[0].runs_waited_for == 1
    assert any(waits for waits in state(backups).condemned.values())
    assert backups.read(second) == before
    report = backups.prune()
    assert report.packs_rescued > 0
    assert report.packs_deleted == pruned[0].packs_condemned
    assert report.bytes_pending == 0
    assert backups.read(second) == before


def test_what_a_later_run_may_need_is_not_waited_for(backups: Backups, source: Path) -> None:
    """Its wait list is in the log: runs without end, one after the other, do not keep a pack for ever."""
    first = backups.back_up(source).run_id
    backups.remove([first])
    repository = backups.opened()
    with ReadingRun(repository, RunKind.RESTORE, lambda: None, lambda: 1_900_000_000_000_000) as old:
        pending = backups.prune(now=lambda: 1_900_000_000_000_000)
        assert (pending.packs_deleted, pending.runs_waited_for) == (0, 1)
        assert next(iter(state(backups).condemned.values())) == [(old._run.run_id,)]
        with ReadingRun(repository, RunKind.RESTORE, lambda: None, lambda: 1_900_000_000_000_000):
            assert backups.prune(now=lambda: 1_900_000_000_000_000).packs_deleted == 0
            old.__exit__()
            report = backups.prune(now=lambda: 1_900_000_000_000_000)
            assert report.packs_deleted == pending.packs_condemned
            assert report.bytes_pending == 0


def test_a_new_backup_does_not_refer_to_condemned_packs(backups: Backups, source: Path) -> None:
    first = backups.back_up(source).run_id
    backups.remove([first])
    with ReadingRun(backups.opened(), RunKind.RESTORE, lambda: None, lambda: 1_900_000_000_000_000) as run:
        assert backups.prune(now=lambda: 1_900_000_000_000_000).packs_deleted == 0
        condemned = set(state(backups).condemned)
        second = backups.back_up(source).run_id
        packs = packs_of(backups.store, backups.opened())
        fresh = {chunk.chunk_id for pack_id, record in packs.items() if pack_id not in condemned for chunk in record}
        assert {chunk.chunk_id for pack_id in condemned for chunk in packs[pack_id] if chunk.kind == 1} <= fresh
        del run
    report = backups.prune()
    assert report.packs_rescued == 0
    assert report.packs_deleted == len(condemned)
    assert backups.read(second) == tree_of(source)


def test_a_silent_run_is_revoked_and_cannot_commit(backups: Backups, source: Path) -> None:
    first = backups.back_up(source).run_id
    backups.remove([first])
    run_id = str(uuid.uuid4())
    now = 1_900_000_000_000_000

    def prune_later() -> None:
        if is_begun(backups.store, run_id):
            report = backups.prune(now=lambda: now + SILENT_US)
            assert report.runs_revoked == 1
            assert report.packs_deleted > 0

    other = backups.other_node(backups.caches.parent / "other")
    with pytest.raises(Aborted) as caught:
        other.back_up(source, run_id=run_id, check=prune_later)
    assert caught.value.reason is Reason.RUN_ENDED
    repository = backups.opened()
    assert isinstance(read_run_end(repository.store, repository.index_keys, run_id), Tombstone)
    assert backups.snapshots() == {}


@pytest.mark.parametrize("skew", [-1, 1])
def test_a_run_that_was_renewed_lately_is_not_revoked(backups: Backups, source: Path, skew: int) -> None:
    now = 1_900_000_000_000_000
    repository = backups.opened()
    backups.remove([backups.back_up(source).run_id])
    run_id = str(uuid.uuid4())
    begin_run(repository.store, repository.index_keys, run_id, RunKind.RESTORE, writer_id=bytes(16), now_us=now)
    assert backups.prune(now=lambda: now + skew * SILENT_US).runs_waited_for == 1
    assert backups.prune(now=lambda: now + skew * (SILENT_US + 1)).runs_revoked == 1
    assert runs(backups) == []


def test_a_revoked_reader_says_so(backups: Backups, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backups.back_up(source)
    run = ReadingRun(backups.opened(), RunKind.RESTORE, lambda: None, lambda: 1)
    with run:
        backups.prune(now=lambda: SILENT_US * 3)
        run._renew_at = 0.0
        with pytest.raises(Aborted) as caught:
            run.check()
        assert caught.value.reason is Reason.RUN_ENDED
    assert runs(backups) == []


def test_a_snapshot_that_cannot_be_read_stops_every_removal(backups: Backups, source: Path) -> None:
    first, second, *_ = two_states(backups, source)
    backups.remove([first])
    name = f"snapshots/{second}"
    content = backups.store.get(name)
    backups.store.put(name, [content[:-1]])
    before = copy(backups)
    for work in (backups.prune, backups.compact):
        with pytest.raises(DataLoss) as caught:
            work()
        assert caught.value.metadata["backup_id"] == second
        assert copy(backups) == before
    backups.store.put(name, [content])
    assert backups.prune().packs_deleted > 0


@pytest.mark.parametrize("buried", [False, True])
def test_a_committed_snapshot_that_is_gone_stops_every_removal(backups: Backups, source: Path, buried: bool) -> None:
    """Its storage may be away for a time, or lie: what it needs is not known to be waste."""
    first, second, before, _ = two_states(backups, source)
    store, name = backups.store, snapshot_name(first)
    content = store.get(name)
    store.delete(name)
    if buried:
        assert bury_run(backups.opened(), first) is None
    packs = list_packs(store)
    for remove in (backups.prune, backups.compact):
        with pytest.raises(DataLoss, match=first) as caught:
            remove()
        assert caught.value.metadata["backup_id"] == first
    assert list_packs(store) == packs
    store.put(name, [content])
    assert backups.read(first) == before
    # Given up on purpose it stops nothing.
    store.delete(name)
    backups.remove([first])
    assert backups.prune().packs_deleted > 0
    assert backups.read(second)


def test_a_list_that_cannot_be_read_stops_every_removal(backups: Backups, source: Path) -> None:
    first, second, *_ = two_states(backups, source)
    backups.remove([first])
    repository = backups.opened()
    wanted = backups.snapshots()[second].list.id
    for pack_id, record in packs_of(repository.store, repository).items():
        if any(chunk.chunk_id == wanted for chunk in record):
            repository.store.delete(f"packs/{pack_id.hex()}")
    before = copy(backups)
    with pytest.raises(DataLoss) as caught:
        backups.prune()
    assert caught.value.metadata["backup_id"] == second
    assert copy(backups) == before


def copy(backups: Backups) -> dict[str, bytes]:
    return {info.name: backups.store.get(info.name) for info in backups.store.list("")}


class StopAt(MaintenanceWatch):
    """Stops the work at the call number `at`."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.calls = 0

    def check(self) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise Stop


def test_a_prune_may_be_stopped_anywhere(backups: Backups, source: Path) -> None:
    first, second, _, after = two_states(backups, source)
    backups.remove([first])
    contents, stopped = copy(backups), 0
    for at in range(1, 100):
        backups.store = MemoryObjects(contents)
        try:
            backups.prune(watch=StopAt(at))
        except Stop:
            stopped += 1
        assert backups.read(second) == after
        backups.prune()
        assert backups.read(second) == after
        if stopped < at:
            break
    assert stopped >= 5


def test_an_unfinished_backup_is_not_taken_for_waste(backups: Backups, source: Path) -> None:
    """Its packs are in no index object yet; once it has ended without a snapshot they go."""
    run_id = str(uuid.uuid4())
    stored = []

    def check() -> None:
        packs = list_packs(backups.store)
        if packs and not stored:
            stored.append(packs)
            report = backups.prune()
            assert report.packs_condemned == 0
            assert set(packs) <= set(list_packs(backups.store))
        if stored and len(stored) < 2:
            stored.append({})
            raise Stop

    fill(source, "c", 300)
    with pytest.raises(Stop):
        backups.back_up(source, run_id=run_id, check=check)
    assert stored
    backups.give_up(run_id)
    assert backups.prune().packs_deleted >= len(stored[0])
    assert list_packs(backups.store) == {}


def test_packs_come_back_after_a_crash_and_go_again(backups: Backups, source: Path) -> None:
    first, second, _, after = two_states(backups, source)
    backups.remove([first])
    before = copy(backups)
    deleted = backups.prune().packs_deleted
    for name, content in before.items():
        if name.startswith("packs/"):
            backups.store.put(name, [content])
    assert backups.read(second) == after
    assert backups.prune().packs_deleted == deleted


def test_what_a_checkpoint_replaces_goes_with_the_next_one(backups: Backups, source: Path) -> None:
    """A list of the log that is made meanwhile shows the old entries or the new one."""

    def entries() -> set[str]:
        return {info.name for info in backups.store.list("log/")}

    backups.back_up(source)
    backups.back_up(source)
    first = entries()
    assert cut_log(backups.opened(), next(NOW))
    assert entries() > first
    assert not cut_log(backups.opened(), next(NOW))
    backups.back_up(source)
    second = entries() - first
    assert cut_log(backups.opened(), next(NOW))
    assert entries() > second
    assert not entries() & first


def test_the_log_is_cut_and_still_tells_what_is_needed(backups: Backups, source: Path) -> None:
    first, second, *_ = two_states(backups, source)
    backups.remove([first])
    backups.prune()
    log = LogReader(backups.store, backups.opened().index_keys).read()
    assert [entry.is_checkpoint for chain in log.entries.values() for entry in chain] == [True]
    told = state(backups)
    assert (told.committed, told.removed) == ({second}, {first})
    facts = [fact for _, fact in LogReader(backups.store, backups.opened().index_keys).read().facts()]
    assert not [fact for fact in facts if isinstance(fact, Condemned)]
    # An index object lists them still.
    assert [fact for fact in facts if isinstance(fact, Swept)]
    backups.compact()
    facts = [fact for _, fact in LogReader(backups.store, backups.opened().index_keys).read().facts()]
    assert not [fact for fact in facts if isinstance(fact, Swept | Condemned)]
    assert [fact for fact in facts if isinstance(fact, Removed)]


def test_small_packs_and_indexes_become_few(backups: Backups, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "SMALL_PACK", 12 << 10)
    trees = {}
    for number in range(12):
        (source / f"a{number:03}").write_bytes(b"changed %d" % number * 30)
        trees[backups.back_up(source).run_id] = tree_of(source)
    before = list_packs(backups.store)
    foreseen = backups.compact(dry_run=True)
    assert list_packs(backups.store) == before
    report = backups.compact()
    after = list_packs(backups.store)
    assert report.packs_merged == foreseen.packs_merged >= 12
    assert len(after) == len(before) - report.packs_merged + report.packs_written < 16
    assert len(list(backups.store.list("index/"))) == 1
    assert report.objects_before - report.objects_after > 20
    assert report.objects_after == sum(1 for _ in backups.store.list(""))
    assert backups.read_all(trees) == trees
    # Nothing is stored again, and the small files are known by the new index objects.
    backups.lose_caches()
    assert backups.back_up(source).stored_size < 4_000
    again = backups.compact()
    assert again.packs_merged == 0


def unneeded(backups: Backups) -> int:
    """Bytes of messages that no snapshot needs."""
    return sum(use.unneeded for use in Survey.take(backups.opened(), lambda: None).uses().values())


def test_what_is_not_needed_of_a_pack_goes(backups: Backups, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(source, "d", 200)
    first = backups.back_up(source).run_id
    for number in range(200):
        if number % 40 > 15:  # pieces of several chunks
            (source / f"d{number:03}").unlink()
    second = backups.back_up(source).run_id
    wanted = tree_of(source)
    backups.remove([first])
    backups.prune()
    assert unneeded(backups) > 0
    monkeypatch.setattr(compact, "WASTE_LEAST", 1)
    monkeypatch.setattr(compact, "WASTE_SHARE", 0)
    report = backups.compact()
    assert report.packs_merged > 0
    assert unneeded(backups) == 0
    assert backups.read(second) == wanted


def test_a_snapshot_that_is_committed_meanwhile_is_no_damage(backups: Backups, source: Path) -> None:
    """What it needs may be in packs that came after the index was read."""
    backups.back_up(source)
    made = []

    class Committing(MemoryObjects):
        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            if prefix == "index/" and not made:
                listed = list(super().list(prefix))
                fill(source, "new", 40)
                made.append(backups.back_up(source).run_id)
                return iter(listed)
            return super().list(prefix)

    slow = Committing()
    assert isinstance(backups.store, MemoryObjects)
    slow._objects = backups.store._objects
    report = backups.prune(slow)
    assert made
    assert report.packs_condemned == 0
    assert backups.read(made[0]) == tree_of(source)


def test_who_began_before_the_rescue_is_waited_for(backups: Backups, source: Path) -> None:
    """It has read an index in which what is needed again is in the condemned packs alone."""
    first = backups.back_up(source).run_id
    before = tree_of(source)
    backups.remove([first])
    pruned: list[PruneReport] = []

    def check() -> None:
        if not pruned:
            pruned.append(backups.prune())

    second = backups.other_node(backups.caches.parent / "other").back_up(source, check=check).run_id
    repository = backups.opened()
    snapshot = repository.snapshot(second)
    assert snapshot is not None
    with ReadingRun(repository, RunKind.RESTORE, lambda: None, lambda: 1_900_000_000_000_000) as run:
        report = backups.prune(now=lambda: 1_900_000_000_000_000)
        assert report.packs_rescued > 0
        assert (report.packs_deleted, report.runs_waited_for) == (0, 1)
        assert backups.prune(now=lambda: 1_900_000_000_000_000).packs_deleted == 0
        reader = run.reader(snapshot, backups.content)
        assert sum(1 for entry in reader.entries() for _ in reader.blocks(entry)) == len(before) - 1
    report = backups.prune()
    assert (report.packs_rescued, report.bytes_pending) == (0, 0)
    assert report.packs_deleted == pruned[0].packs_condemned
    assert backups.read(second) == before


def test_what_is_left_of_an_ended_run_goes(backups: Backups, source: Path) -> None:
    run_id = backups.back_up(source).run_id
    repository = backups.opened()
    now = 1_900_000_000_000_000
    begin_run(repository.store, repository.index_keys, run_id, RunKind.BACKUP, writer_id=bytes(16), now_us=now)
    assert backups.prune(now=lambda: now + SILENT_US).runs_revoked == 0
    assert runs(backups) == [run_id]
    assert backups.prune(now=lambda: now + SILENT_US + 1).runs_revoked == 0
    assert runs(backups) == []
    assert backups.read(run_id) == tree_of(source)


def test_packs_that_are_gone_and_forgotten_are_told_of(backups: Backups, source: Path) -> None:
    """An index object that lists them came back, or was put by a writer who was revoked."""
    first, second, _, after = two_states(backups, source)
    indexes = {name: content for name, content in copy(backups).items() if name.startswith("index/")}
    backups.remove([first])
    backups.prune()
    backups.compact()
    for name, content in indexes.items():
        backups.store.put(name, [content])
    repository = backups.opened()

    def damaged() -> list[Damage]:
        return check_repository(repository.store, backups.keys, CheckLevel.CHECKSUM, now=lambda: 1).damaged

    assert damaged()
    backups.prune()
    assert not damaged()
    backups.compact()
    assert backups.read(second) == after


def test_a_node_that_has_told_nothing_may_compact(backups: Backups, source: Path) -> None:
    """Nothing of its own is there to be cut."""
    first, *_ = two_states(backups, source)
    backups.remove([first])
    backups.prune()
    other = backups.other_node(backups.caches.parent / "other")
    for _ in range(2):
        other.compact()
    assert other.prune().packs_pending == 0


def test_a_prune_that_was_revoked_takes_nothing_away(backups: Backups, source: Path) -> None:
    """Another one may have forgotten by then which packs are gone that this one counts on."""
    first, second, _, after = two_states(backups, source)
    backups.remove([first])

    repository = backups.opened()
    now = 1_900_000_000_000_000
    with Removal(repository, RunKind.PRUNE, now=lambda: now, watch=MaintenanceWatch(), marks=None) as removal:
        removal.condemn(removal.survey.unneeded_packs(repository, busy=False))
        assert backups.prune(now=lambda: now + 2 * SILENT_US).runs_revoked == 1
        packs = list_packs(backups.store)
        removal.store.put(f"packs/{next(iter(removal.survey.condemned)).hex()}", [b"x"])
        with pytest.raises(Aborted) as caught:
            removal.sweep()
    assert caught.value.reason is Reason.RUN_ENDED
    assert packs.keys() < list_packs(backups.store).keys()
    assert backups.read(second) == after


def test_a_removed_snapshot_is_not_acknowledged_to_another_attempt(backups: Backups, source: Path) -> None:
    """It finds the snapshot of a third one, which is about to take it back."""
    run_id = str(uuid.uuid4())
    done: list[str] = []

    class Racing(MemoryObjects):
        def create_if_absent(self, name: str, content: bytes) -> bool:
            if name == f"snapshots/{run_id}" and not done:
                done.append(name)
                backups.back_up(source, run_id=run_id)
                committed = backups.store.get(name)
                backups.remove([run_id])
                backups.store.put(name, [committed])
            return backups.store.create_if_absent(name, content)

        def __getattribute__(self, name: str) -> object:
            if name in ("put", "get", "size", "list", "delete"):
                return getattr(backups.store, name)
            return super().__getattribute__(name)

    other = backups.other_node(backups.caches.parent / "other")
    with pytest.raises(Aborted) as caught:
        other.back_up(source, run_id=run_id, store=Racing())
    assert caught.value.reason is Reason.RUN_ENDED
    assert done
    assert backups.snapshots() == {}
