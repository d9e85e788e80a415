"""Checking a repository: what each level finds, how it is counted, and what is no damage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from holdfast_server.errors import FailedPrecondition, Reason, Unavailable
from holdfast_server.repository.check import CheckLevel, CheckWatch, check_repository, check_snapshot
from holdfast_server.repository.check_packs import choose_packs
from holdfast_server.repository.facts import Condemned, Removed
from holdfast_server.repository.format import ChunkType, log_name, pack_name, snapshot_name
from holdfast_server.repository.index import write_index
from holdfast_server.repository.keys import RepositoryKeys, WriterKey
from holdfast_server.repository.lists import ListWriter
from holdfast_server.repository.log import LogHead, LogReader, LogWriter
from holdfast_server.repository.log_state import cut_log
from holdfast_server.repository.sessions import remove_snapshots
from holdfast_server.repository.snapshots import Tombstone, end_run_as
from holdfast_server.storage.objects import MemoryObjects
from tests.small_repository import NOW, Seen, SmallRepository, check

FILES = {b"alone": [b"its only chunk"], b"empty": [], b"two": [b"first of two", b"second of two"]}
LEVELS = list(CheckLevel)


@pytest.fixture
def made() -> SmallRepository:
    repository = SmallRepository(per_pack=2)
    repository.add(FILES, links={b"zwei": b"two"})
    return repository


@pytest.mark.parametrize("level", LEVELS)
def test_a_whole_repository_is_found_whole(made: SmallRepository, level: CheckLevel) -> None:
    before = made.store.contents()
    made.begin()
    made.add(FILES, indexed=False)
    report = check(made, level)
    assert report.ok
    assert report.damaged == report.backups_damaged == []
    assert report.backups == 2
    # A slot, the config, a run under way and the check's own; index objects, snapshots and log entries.
    assert report.objects == len(made.store.contents()) + 1
    assert report.packs == len(made.packs)
    assert report.percent == (0 if level is CheckLevel.STRUCTURE else 100)
    assert report.files == (6 if level is CheckLevel.READ_DATA else 0)
    chunks = sum(record.chunk_count for record in made.packs.values())
    assert report.chunks == chunks
    assert report.bytes > (0 if level is CheckLevel.STRUCTURE else sum(record.size for record in made.packs.values()))
    # Nothing is left behind or changed.
    assert before.items() <= made.store.contents().items()
    assert sum(name.startswith("runs/") for name in made.store.contents()) == 1


def test_an_empty_repository_is_checked_and_nothing_at_all_is_not() -> None:
    empty = SmallRepository()
    report = check(empty, CheckLevel.READ_DATA)
    assert report.ok
    assert (report.objects, report.packs) == (3, 0)
    with pytest.raises(Unavailable) as caught:
        check(empty, CheckLevel.STRUCTURE, _Emptied())
    assert caught.value.reason is Reason.STORAGE_UNREACHABLE


class _Emptied(MemoryObjects):
    """A store whose disk is not mounted: it takes objects and lists none."""

    def list(self, prefix: str) -> Iterator[object]:  # type: ignore[override]
        return iter(())


def test_reading_needs_the_content_keys(made: SmallRepository) -> None:
    arguments = {"now": lambda: NOW}
    with pytest.raises(FailedPrecondition) as caught:
        check_repository(made.store, made.keys, CheckLevel.READ_DATA, **arguments)  # type: ignore[arg-type]
    assert caught.value.reason is Reason.KEY_REQUIRED
    run_id = made.made[0].snapshot.run_id
    with pytest.raises(FailedPrecondition) as caught:
        check_snapshot(made.store, made.keys, run_id, CheckLevel.READ_DATA, **arguments)  # type: ignore[arg-type]
    assert caught.value.reason is Reason.KEY_REQUIRED
    assert not any(name.startswith("runs/") for name in made.store.contents())


def test_another_repository_is_refused(made: SmallRepository) -> None:
    other = SmallRepository()
    with pytest.raises(FailedPrecondition) as caught:
        check(made, CheckLevel.STRUCTURE, other.store)
    assert caught.value.reason is Reason.REPOSITORY_REPLACED


def test_a_sealed_repository_without_slots_is_lost() -> None:
    sealed = SmallRepository(sealed=True)
    (slot,) = [name for name in sealed.store.contents() if name.startswith("keys/")]
    sealed.store.delete(slot)
    assert [one.object for one in check(sealed, CheckLevel.STRUCTURE).damaged] == ["keys/"]


def test_a_config_that_is_gone_hides_no_other_damage(made: SmallRepository) -> None:
    made.store.delete("config")
    pack_id = next(iter(made.packs))
    made.store.delete(pack_name(pack_id))
    report = check(made, CheckLevel.STRUCTURE)
    assert {one.object for one in report.damaged} == {"config", pack_name(pack_id)}


# -- snapshots and the log -----------------------------------------------------------------------------------------


def test_a_snapshot_that_is_gone_is_missed(made: SmallRepository) -> None:
    name = snapshot_name(made.made[0].snapshot.run_id)
    made.store.delete(name)
    report = check(made, CheckLevel.STRUCTURE)
    assert [one.object for one in report.damaged] == [name]
    assert [(one.run_id, one.whole) for one in report.backups_damaged] == [(made.made[0].snapshot.run_id, True)]


def test_a_snapshot_removed_on_purpose_is_not_missed(made: SmallRepository) -> None:
    run_id = made.made[0].snapshot.run_id
    made.remove(made.made[0])
    report = check_repository(
        made.store, made.keys, CheckLevel.READ_DATA, now=lambda: NOW, content=made.content, known_backups=[run_id]
    )
    assert report.ok


def test_a_lost_snapshot_can_be_given_up(made: SmallRepository) -> None:
    made.add(FILES)
    gone, broken = (snapshot_name(one.snapshot.run_id) for one in made.made)
    made.store.delete(gone)
    _flip(made.store, broken, 40)
    assert {one.object for one in check(made, CheckLevel.STRUCTURE).damaged} == {gone, broken}
    for _ in range(2):
        for one in made.made:
            remove_snapshots(made.repository, [one.snapshot.run_id], NOW)
    assert check(made, CheckLevel.STRUCTURE).ok
    facts = LogReader(made.store, made.index_keys).read().facts()
    assert sum(isinstance(fact, Removed) for _, fact in facts) == 2


def test_a_snapshot_that_the_catalog_knows_is_missed(made: SmallRepository) -> None:
    report = check_repository(
        made.store, made.keys, CheckLevel.STRUCTURE, now=lambda: NOW,
        known_backups=["5b4d6824-e52f-464a-bfdc-374b310cf7ff", made.made[0].snapshot.run_id],
    )  # fmt: skip
    assert [one.run_id for one in report.backups_damaged] == ["5b4d6824-e52f-464a-bfdc-374b310cf7ff"]


def test_the_log_has_no_gap_and_does_not_go_back(made: SmallRepository) -> None:
    for _ in range(3):
        made.add(FILES)
    writer = made.keys.writer.writer_id
    seen = LogReader(made.store, made.index_keys).heads()
    contents = made.store.contents()
    for sequence in range(1, 5):
        store = MemoryObjects(contents)
        store.delete(log_name(writer, sequence))
        report = check_repository(store, made.keys, CheckLevel.STRUCTURE, now=lambda: NOW, known_log=seen)
        assert [one.object for one in report.damaged] == [log_name(writer, sequence)]
        assert report.rolled_back == (sequence == 4)
        # The newest alone is missed only by who has seen it.
        assert check(made, CheckLevel.STRUCTURE, store).ok == (sequence == 4)
    other = {writer: LogHead(2, b"\0" * 32)}
    report = check_repository(made.store, made.keys, CheckLevel.STRUCTURE, now=lambda: NOW, known_log=other)
    assert [one.object for one in report.damaged] == [log_name(writer, 2)]


def test_another_writers_entry_tells_of_one_that_is_gone(made: SmallRepository) -> None:
    other = RepositoryKeys(made.keys.index_key, None, made.keys.uuid, WriterKey.generate())
    vector = LogReader(made.store, made.index_keys).read().vector
    LogWriter(made.store, made.index_keys, other.writer, vector).append([], NOW)
    assert check(made, CheckLevel.STRUCTURE).ok
    gone = log_name(made.keys.writer.writer_id, 1)
    made.store.delete(gone)
    assert [one.object for one in check(made, CheckLevel.STRUCTURE).damaged] == [gone]


def test_another_history_of_a_writer_is_found(made: SmallRepository) -> None:
    """An entry that its writer has signed, of a time that was taken back."""
    keys, writer = made.index_keys, made.keys.writer
    fork = MemoryObjects(made.store.contents())
    LogWriter(fork, keys, writer, LogReader(fork, keys).read().vector).append([], NOW + 1)
    made.add(FILES)
    made.add(FILES)
    name = log_name(writer.writer_id, 2)
    made.store.put(name, [fork.get(name)])
    report = check(made, CheckLevel.STRUCTURE)
    assert name in {one.object for one in report.damaged}
    assert "next one follows" in report.damaged[0].detail


def test_a_tombstone_takes_no_snapshots_place(made: SmallRepository) -> None:
    """Made by who was not shown the snapshot, when it took the run for dead."""
    run_id = made.made[0].snapshot.run_id
    name = snapshot_name(run_id)
    blind = MemoryObjects(made.store.contents())
    blind.delete(name)
    assert end_run_as(blind, made.index_keys, Tombstone(run_id))
    made.store.put(name, [blind.get(name)])
    report = check(made, CheckLevel.STRUCTURE)
    assert [one.object for one in report.damaged] == [name]
    assert [(one.run_id, one.whole) for one in report.backups_damaged] == [(run_id, True)]
    # That of a run that never committed is as it must be, and so is one in the place of what was removed.
    assert end_run_as(made.store, made.index_keys, Tombstone("5b4d6824-e52f-464a-bfdc-374b310cf7ff"))
    made.log(Removed((run_id,)))
    assert check(made, CheckLevel.STRUCTURE).ok


def test_a_removed_snapshot_that_came_back_needs_nothing(made: SmallRepository) -> None:
    """A deletion may be undone by a crash, or by the store; meanwhile the packs have gone."""
    removed = made.made[0]
    name, packs = snapshot_name(removed.snapshot.run_id), list(made.packs.values())
    content = made.store.get(name)
    made.add({b"other": [b"of another snapshot"]})
    made.remove(removed)
    made.log(Condemned(tuple(record.pack_id for record in packs)))
    for record in packs:
        made.store.delete(record.name)
    for back in (content, b"noise" * 50):
        made.store.put(name, [back])
        report = check(made, CheckLevel.READ_DATA)
        assert (report.backups, report.backups_damaged) == (1, [])
        assert [one.object for one in report.damaged] == [name] * (back != content)


def test_names_that_anybody_can_make_up_prove_no_gap(made: SmallRepository) -> None:
    writer = made.keys.writer.writer_id
    seen = LogReader(made.store, made.index_keys).heads()
    made_up = [log_name(writer, 10**16 - 1), log_name(b"w" * 16, 10**16 - 1)]
    for name in made_up:
        made.store.put(name, [b"noise" * 50])
    report = check_repository(made.store, made.keys, CheckLevel.STRUCTURE, now=lambda: NOW, known_log=seen)
    assert {one.object for one in report.damaged} == set(made_up)
    assert not report.rolled_back
    # Nor do they hide that the newest entry is gone.
    made.store.delete(log_name(writer, 1))
    report = check_repository(made.store, made.keys, CheckLevel.STRUCTURE, now=lambda: NOW, known_log=seen)
    assert {one.object for one in report.damaged} == {*made_up, log_name(writer, 1)}
    assert report.rolled_back


def test_an_entry_is_compared_with_all_that_tell_of_it(made: SmallRepository) -> None:
    """Two have seen different entries of one number: one of them was shown another history."""
    writer = made.keys.writer.writer_id
    seen = LogReader(made.store, made.index_keys).heads()
    LogWriter(made.store, made.index_keys, WriterKey.generate(), {writer: LogHead(1, b"\0" * 32)}).append([], NOW)
    for known in (None, seen):
        report = check_repository(made.store, made.keys, CheckLevel.STRUCTURE, now=lambda: NOW, known_log=known)
        assert [one.object for one in report.damaged] == [log_name(writer, 1)]
        assert report.rolled_back


def test_an_entry_that_was_cut_off_is_still_known_by_the_next_one(made: SmallRepository) -> None:
    for _ in range(2):
        made.add(FILES)
    assert cut_log(made.repository, NOW)
    entry = LogReader(made.store, made.index_keys).entry(made.keys.writer.writer_id, 4)
    assert entry.previous is not None
    for previous, rolled_back in ((entry.previous, False), (b"\0" * 32, True)):
        known = {entry.writer_id: LogHead(3, previous)}
        report = check_repository(made.store, made.keys, CheckLevel.STRUCTURE, now=lambda: NOW, known_log=known)
        assert (report.ok, report.rolled_back) == (not rolled_back, rolled_back)


def test_what_a_snapshot_lost_matters_to_nobody_once_it_is_removed(made: SmallRepository) -> None:
    class Removing(CheckWatch):
        def lost(self, run_id: str, path: bytes) -> None:
            del path
            if made.made:
                assert made.made[0].snapshot.run_id == run_id
                made.remove(made.made[0])

    chunk_id = made.index_keys.chunk_id(ChunkType.DATA, FILES[b"alone"][0])
    record, chunk = next((one, chunk) for one in made.packs.values() for chunk in one if chunk.chunk_id == chunk_id)
    _flip(made.store, record.name, chunk.offset)
    report = check(made, CheckLevel.READ_DATA, watch=Removing())
    assert not made.made
    assert [one.object for one in report.damaged] == [record.name]
    assert report.backups_damaged == []


# -- packs ---------------------------------------------------------------------------------------------------------


def test_a_copy_in_another_pack_saves_a_chunk(made: SmallRepository) -> None:
    content = FILES[b"alone"][0]
    chunk_id = made.put_chunk(ChunkType.DATA, content, again=True)
    made.flush()
    holders = [record for record in made.packs.values() if any(one.chunk_id == chunk_id for one in record)]
    assert len(holders) == 2
    for record in holders:
        store = MemoryObjects(made.store.contents())
        _flip(store, record.name, next(one.offset for one in record if one.chunk_id == chunk_id))
        report = check(made, CheckLevel.READ_DATA, store)
        assert [one.object for one in report.damaged] == [record.name]
        assert report.backups_damaged == []
        one = check_snapshot(
            store, made.keys, made.made[0].snapshot.run_id, CheckLevel.READ_DATA, now=lambda: NOW, content=made.content
        )
        assert one.ok
        store.delete(next(other.name for other in holders if other is not record))
        assert [one.run_id for one in check(made, CheckLevel.READ_DATA, store).backups_damaged]


def test_condemned_packs_may_be_gone(made: SmallRepository) -> None:
    made.put_chunk(ChunkType.DATA, b"needed by nobody")
    (record,) = made.flush()
    vector = LogReader(made.store, made.index_keys).read().vector
    LogWriter(made.store, made.index_keys, made.keys.writer, vector).append([Condemned((record.pack_id,))], NOW)
    made.store.delete(record.name)
    assert check(made, CheckLevel.READ_DATA).ok


def test_an_index_object_that_says_otherwise_is_found(made: SmallRepository) -> None:
    one, other = list(made.packs.values())[:2]
    lie = replace(one, segments=other.segments, chunks=other.chunks, small_files=other.small_files)
    write_index(made.store, made.index_keys, [lie])
    report = check(made, CheckLevel.STRUCTURE)
    assert [found.object.split("/")[0] for found in report.damaged] == ["index"]


def test_parts_go_round(made: SmallRepository) -> None:
    for number in range(10):
        made.put_chunk(ChunkType.DATA, bytes([number]) * 50)
        made.flush()
    read: list[str] = []
    cursor, shares = "", 0.0
    while shares < 99.9:
        report = check(made, CheckLevel.CHECKSUM, percent=20, cursor=cursor)
        assert report.ok
        assert 0 < report.packs < len(made.packs)
        cursor = report.cursor
        shares += report.percent
        read.append(cursor)
    # A damaged pack is found within one turn, whichever it is.
    for record in made.packs.values():
        store = MemoryObjects(made.store.contents())
        _flip(store, record.name, 0)
        found = []
        for at in ["", *read]:
            found += check(made, CheckLevel.CHECKSUM, store, percent=20, cursor=at).damaged
        assert {one.object for one in found} == {record.name}


def test_packs_are_chosen_in_turn() -> None:
    sizes = {bytes([number]) * 16: 100 for number in range(10)}
    chosen, cursor = choose_packs(sizes, 35, "")
    assert [pack[0] for pack in chosen] == [0, 1, 2, 3]
    chosen, cursor = choose_packs(sizes, 35, cursor)
    assert [pack[0] for pack in chosen] == [4, 5, 6, 7]
    chosen, cursor = choose_packs(sizes, 35, cursor)
    assert [pack[0] for pack in chosen] == [8, 9, 0, 1]
    assert choose_packs(sizes, 100, cursor) == (sorted(sizes), "")
    assert len(choose_packs(sizes, 0.001, "")[0]) == 1
    assert choose_packs({}, 5, "ff" * 16) == ([], "")


# -- one snapshot --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_one_snapshot_is_checked_with_what_it_needs(made: SmallRepository, level: CheckLevel) -> None:
    first = made.made[0]
    other = made.add({b"other": [b"content of another snapshot"]})
    needed = first.listed | first.list_pages
    for record in made.packs.values():
        for chunk in record:
            store = MemoryObjects(made.store.contents())
            _flip(store, record.name, chunk.offset)
            seen = Seen()
            report = check_snapshot(
                store, made.keys, first.snapshot.run_id, level, now=lambda: NOW, content=made.content, watch=seen
            )
            is_list = chunk.chunk_id in first.list_pages
            found = chunk.chunk_id in needed and (level > CheckLevel.STRUCTURE or is_list)
            assert report.ok != found
            if found:
                assert [one.object for one in report.damaged] == [record.name]
                assert [one.chunks for one in report.backups_damaged] == [1]
            if level is CheckLevel.READ_DATA:
                expected = made.lost({record.pack_id: {chunk.chunk_id}}).get(first.snapshot.run_id)
                assert seen.all(report).get(first.snapshot.run_id) == expected
    assert other.snapshot.run_id != first.snapshot.run_id


def test_a_snapshot_that_is_not_there_is_damage(made: SmallRepository) -> None:
    gone = "5b4d6824-e52f-464a-bfdc-374b310cf7ff"
    report = check_snapshot(made.store, made.keys, gone, CheckLevel.STRUCTURE, now=lambda: NOW)
    assert not report.ok
    assert report.backups_damaged[0].whole


@pytest.mark.parametrize("missing", [b"two", b"zwei", b"alone"])
def test_a_tree_that_lacks_what_the_snapshot_states(made: SmallRepository, missing: bytes) -> None:
    """A writer that forgot an entry is found, though every chunk is right."""
    snapshot = made.made[0].snapshot
    whole = made.add({name: pieces for name, pieces in FILES.items() if name != missing})
    made.store.delete(snapshot_name(snapshot.run_id))
    lie = replace(snapshot, root=whole.snapshot.root, list=whole.snapshot.list)
    made.commit(lie)
    report = check(made, CheckLevel.READ_DATA)
    assert [one.object for one in report.damaged] == [snapshot_name(snapshot.run_id)]


def test_a_list_that_does_not_fit_the_tree(made: SmallRepository) -> None:
    """One that lacks a chunk would let a prune delete it; one that has more is no snapshot's."""
    first = made.made[0].snapshot
    other = made.add({b"other": [b"content of another snapshot"], b"empty": [], b"three": []}).snapshot
    lie = replace(first, list=other.list)
    made.store.delete(snapshot_name(first.run_id))
    made.commit(lie)
    assert check(made, CheckLevel.CHECKSUM).ok
    report = check(made, CheckLevel.READ_DATA)
    assert [one.object for one in report.damaged] == [snapshot_name(first.run_id)]
    assert "list" in report.damaged[0].detail


@pytest.mark.parametrize("level", LEVELS)
def test_a_list_of_another_length(made: SmallRepository, level: CheckLevel) -> None:
    first = made.made[0].snapshot
    made.store.delete(snapshot_name(first.run_id))
    made.commit(replace(first, list=replace(first.list, chunks=first.list.chunks + 1)))
    assert {one.object for one in check(made, level).damaged} == {snapshot_name(first.run_id)}


def test_a_list_that_names_too_much(made: SmallRepository) -> None:
    first = made.made[0]
    extra = made.put_chunk(ChunkType.DATA, b"needed by nobody")
    lists = ListWriter(lambda page: made.put_chunk(ChunkType.LIST, page))
    for chunk_id in sorted(first.listed | {extra}):
        lists.add(made.kinds[chunk_id], chunk_id, 0)
    longer = lists.finish()
    made.flush()
    made.store.delete(snapshot_name(first.snapshot.run_id))
    made.commit(replace(first.snapshot, list=longer))
    report = check(made, CheckLevel.READ_DATA)
    assert [one.detail for one in report.damaged] == ["its list names 1 chunks that it does not need"]


def test_extents_behind_the_end_of_their_chunk_are_lost_files(made: SmallRepository) -> None:
    lie = made.add({b"stretched": [b"too short"], b"none": []}, stretch=1)
    seen = Seen()
    report = check(made, CheckLevel.READ_DATA, watch=seen)
    assert seen.files == {lie.snapshot.run_id: {b"stretched"}}
    assert [one.files for one in report.backups_damaged] == [1]


def test_a_digest_of_other_content_is_a_lost_file(made: SmallRepository) -> None:
    """The chunk is right, but the file refers to a part of it that is another's."""
    lie = made.add({b"small": [b"content"]}, wrong_digests=True)
    seen = Seen()
    report = check_snapshot(
        made.store, made.keys, lie.snapshot.run_id, CheckLevel.READ_DATA,
        now=lambda: NOW, content=made.content, watch=seen,
    )  # fmt: skip
    assert not report.ok
    assert seen.files == {lie.snapshot.run_id: {b"small"}}


# -- the watch -----------------------------------------------------------------------------------------------------


class _Stop(Exception):
    pass


def test_a_check_can_be_stopped_anywhere(made: SmallRepository) -> None:
    class Counting(CheckWatch):
        def __init__(self, stop_at: int) -> None:
            self.calls = 0
            self.stop_at = stop_at

        def check(self) -> None:
            self.calls += 1
            if self.calls == self.stop_at:
                raise _Stop

    whole = Counting(0)
    check(made, CheckLevel.READ_DATA, watch=whole)
    before = made.store.contents()
    for stop_at in range(1, whole.calls + 1, 3):
        with pytest.raises(_Stop):
            check(made, CheckLevel.READ_DATA, watch=Counting(stop_at))
        assert made.store.contents() == before


def test_progress_is_told(made: SmallRepository) -> None:
    class Watch(CheckWatch):
        def __init__(self) -> None:
            self.phases: list[str] = []
            self.expected = self.done = 0

        def phase(self, name: str) -> None:
            self.phases.append(name)

        def expect(self, size: int) -> None:
            self.expected = size

        def advance(self, size: int) -> None:
            self.done += size

    watch = Watch()
    check(made, CheckLevel.READ_DATA, watch=watch)
    assert watch.phases == ["objects", "packs", "data", "snapshots"]
    assert watch.expected == watch.done == sum(record.size for record in made.packs.values())


def _flip(store: MemoryObjects, name: str, at: int) -> None:
    content = bytearray(store.get(name))
    content[at] ^= 1
    store.put(name, [bytes(content)])
