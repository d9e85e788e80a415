"""What a repository tells of its backups: the newest name and lock, whoever wrote them where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from holdfast_server.repository import Repository, create_repository, read_history
from holdfast_server.repository.facts import (
    Checkpoint,
    Committed,
    Fact,
    KeyEpoch,
    KeyRemoved,
    Locked,
    Removed,
    Renamed,
    TimedFact,
)
from holdfast_server.repository.keys import WriterKey
from holdfast_server.repository.log import LogReader, LogWriter
from holdfast_server.repository.snapshots import Tombstone, end_run_as
from holdfast_server.storage.objects import MemoryObjects
from tests.unit.repository.samples import NOW, OTHER_RUN, RUN
from tests.unit.repository.test_snapshots import SNAPSHOT

THIRD_RUN = "2e2ad3c8-4a9b-4d0e-a9a5-4b3d6c7e8f90"


class Told:
    """A repository of snapshots and log entries of any writer."""

    def __init__(self) -> None:
        self.store = MemoryObjects()
        made = create_repository(self.store, sealed=False, slots=(), compression_level=3, now_us=NOW)
        self.repository = Repository.open(self.store, made.keys, made.fingerprint)
        self.writers = sorted([made.keys.writer, WriterKey.generate()], key=lambda writer: writer.writer_id)

    def commit(self, run_id: str = RUN) -> None:
        end_run_as(self.store, self.repository.index_keys, replace(SNAPSHOT, run_id=run_id))

    def log(self, facts: Sequence[Fact], time_us: int = NOW, writer: int = 0) -> str:
        keys = self.repository.index_keys
        vector = LogReader(self.store, keys).heads()
        return LogWriter(self.store, keys, self.writers[writer], vector).append(facts, time_us).name

    def names(self) -> dict[str, tuple[str, bool]]:
        return {one.run_id: (one.name, one.locked) for one in read_history(self.repository, lambda: None).snapshots}


def test_the_latest_time_counts_then_the_writer_then_the_order() -> None:
    told = Told()
    told.commit()
    assert told.names() == {RUN: (SNAPSHOT.name, SNAPSHOT.locked)}
    told.log([Committed(RUN), Renamed(RUN, "late"), Locked(RUN, True)], NOW + 9)
    told.log([Renamed(RUN, "early"), Locked(RUN, False)], NOW + 5, writer=1)
    assert told.names() == {RUN: ("late", True)}
    told.log([Renamed(RUN, "first of two"), Renamed(RUN, "second of two")], NOW + 9, writer=1)
    assert told.names() == {RUN: ("second of two", True)}


def test_what_was_removed_is_none_and_what_is_gone_is_missing() -> None:
    told = Told()
    for run_id in (RUN, OTHER_RUN):
        told.commit(run_id)
    end_run_as(told.store, told.repository.index_keys, Tombstone(THIRD_RUN))
    gone = "3" + RUN[1:]
    told.log([Committed(RUN), Committed(OTHER_RUN), Committed(gone)])
    told.log([Removed((OTHER_RUN, "4" + RUN[1:]))], writer=1)
    found = read_history(told.repository, lambda: None)
    assert [one.run_id for one in found.snapshots] == [RUN]
    assert (found.missing, found.damaged, found.log_damage, found.behind) == ([gone], [], [], {})
    assert set(found.vector) == {writer.writer_id for writer in told.writers}


def test_a_checkpoint_tells_what_it_kept() -> None:
    told = Told()
    told.commit()
    told.log([Locked(RUN, True)], NOW + 7, writer=1)
    facts = {
        Committed(RUN): NOW,
        Renamed(RUN, "kept"): NOW + 1,
        Locked(RUN, False): NOW + 2,
        Committed(OTHER_RUN): NOW,
    }
    first = told.log([Renamed(RUN, "overtaken")], NOW)
    told.log([Checkpoint(tuple(TimedFact(time, fact) for fact, time in facts.items()))], NOW + 20)
    told.store.delete(first)
    assert told.names() == {RUN: ("kept", True)}
    assert read_history(told.repository, lambda: None).missing == [OTHER_RUN]


def test_of_a_damaged_log_what_can_be_read_counts() -> None:
    told = Told()
    told.commit()
    told.log([Locked(RUN, True)], NOW + 1, writer=1)
    damaged = told.log([Renamed(RUN, "lost")])
    told.log([Renamed(RUN, "behind the damage")])
    told.store.put(damaged, [b"damaged"])
    found = read_history(told.repository, lambda: None)
    assert [(one.name, one.locked) for one in found.snapshots] == [("behind the damage", True)]
    assert list(found.vector) == [told.writers[1].writer_id]
    (error,) = found.log_damage
    assert damaged in error.message


def test_a_tombstone_in_the_place_of_a_snapshot_hides_no_loss() -> None:
    told = Told()
    told.log([Committed(RUN)])
    for run_id in (RUN, OTHER_RUN):
        assert end_run_as(told.store, told.repository.index_keys, Tombstone(run_id))
    found = read_history(told.repository, lambda: None)
    assert (found.snapshots, found.missing) == ([], [RUN])


def test_damaged_snapshots_and_missing_entries_are_named() -> None:
    told = Told()
    told.commit()
    told.commit(OTHER_RUN)
    lost = told.log([Renamed(OTHER_RUN, "known by this")])
    told.log([Renamed(OTHER_RUN, "or by this")], NOW + 1, writer=1)
    told.store.put(f"snapshots/{OTHER_RUN}", [b"damaged"])
    told.store.delete(lost)
    found = read_history(told.repository, lambda: None)
    assert [(one.run_id, one.name) for one in found.damaged] == [(OTHER_RUN, "or by this")]
    assert [(writer, head.sequence) for writer, head in found.behind.items()] == [(told.writers[0].writer_id, 1)]


def test_the_newest_epoch_and_a_way_to_stop() -> None:
    told = Told()
    assert read_history(told.repository, lambda: None).key_epoch == 1
    public = told.repository.config.public_key.raw
    told.log([KeyEpoch(3, public, {}), KeyEpoch(2, public, {}), KeyRemoved(("0" * 32,))])
    found = read_history(told.repository, lambda: None)
    assert (found.key_epoch, found.removed_slots) == (3, {"0" * 32})
    told.commit()
    with pytest.raises(KeyboardInterrupt):
        read_history(told.repository, _stop)


def _stop() -> None:
    raise KeyboardInterrupt
