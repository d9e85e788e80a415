"""The test stores do what they say: a fault that never comes, or a crash that loses nothing, would prove nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.storage.objects import MemoryObjects, ObjectMissing
from tests.stores import CrashingObjects, FailingObjects, Fault

REASONS = {
    Fault.ENOSPC: Reason.DISK_FULL,
    Fault.EIO: Reason.STORAGE_UNREACHABLE,
    Fault.EACCES: Reason.FOLDER_NOT_WRITABLE,
    Fault.SHORT_WRITE: Reason.QUOTA_EXCEEDED,
    Fault.FSYNC: Reason.STORAGE_UNREACHABLE,
    Fault.LOST_ANSWER: Reason.STORAGE_UNREACHABLE,
}


def steps(store: FailingObjects) -> list[tuple[str, Callable[[], object]]]:
    return [
        ("put packs/a", lambda: store.put("packs/a", [b"a"])),
        ("create_if_absent runs/a", lambda: store.create_if_absent("runs/a", b"r")),
        ("get packs/a", lambda: store.get("packs/a")),
        ("size packs/a", lambda: store.size("packs/a")),
        ("list packs/", lambda: [*store.list("packs/")]),
        ("put packs/b", lambda: store.put("packs/b", [b"b"])),
        ("delete packs/b", lambda: store.delete("packs/b")),
    ]


def failure(call: Callable[[], object]) -> HoldfastError | None:
    try:
        call()
    except HoldfastError as error:
        return error
    return None


@pytest.mark.parametrize("fault", Fault)
def test_each_call_fails_in_its_turn(fault: Fault) -> None:
    befallen = []
    for fail_at in range(1, 9):
        inner = MemoryObjects({"packs/a": b"old"})
        store = FailingObjects(inner, fail_at, fault)
        for name, call in steps(store):
            before, fired = inner.contents(), store.fired
            error = failure(call)
            if error is None:
                assert store.fired == fired
                continue
            assert error.reason is REASONS[fault]
            assert name.partition(" ")[2] in error.message
            assert (store.fired, fired) == (name, "")
            assert (inner.contents() != before) is (fault is Fault.LOST_ANSWER)
        assert store.calls == 7
        befallen.append(store.fired)
    writes = ["put packs/a", "create_if_absent runs/a", *["put packs/b"] * 4]
    if fault in (Fault.EIO, Fault.EACCES):
        assert befallen == [*(name for name, _ in steps(store)), ""]
    elif fault is Fault.LOST_ANSWER:
        assert befallen == [*writes, "delete packs/b", ""]
    else:
        assert befallen == [*writes, "", ""]


def test_a_disk_that_stays_full_still_deletes() -> None:
    inner = MemoryObjects({"packs/a": b"old"})
    store = FailingObjects(inner, 2, Fault.ENOSPC, lasting=True)
    store.put("packs/b", [b""])
    for _ in range(2):
        with pytest.raises(HoldfastError):
            store.put("packs/c", [b""])
        with pytest.raises(HoldfastError):
            store.create_if_absent("runs/c", b"")
    store.delete("packs/a")
    assert [info.name for info in store.list("")] == ["packs/b"]
    assert store.fired == "put packs/c"


def test_a_list_fails_half_way() -> None:
    store = FailingObjects(MemoryObjects({f"packs/{number}": b"" for number in range(6)}), 1, Fault.EIO)
    entries = store.list("packs/")
    assert len({next(entries).name for _ in range(3)}) == 3
    with pytest.raises(HoldfastError):
        next(entries)
    assert store.fired == "list packs/"


def outcomes(store: CrashingObjects, moment: int | None = None) -> set[tuple[str, ...]]:
    """What may be there after a crash at that moment, as sorted names and contents."""
    return {
        tuple(sorted(f"{name}={content.decode()}" for name, content in state.store.contents().items()))
        for state in store.crash_states(1, 100_000)
        if moment is None or state.moment == moment
    }


def test_without_threads_a_crash_leaves_a_prefix() -> None:
    store = CrashingObjects(MemoryObjects({"config": b"c"}))
    marks = [store.moment]
    store.put("packs/a", [b"1", b"2"])
    marks.append(store.moment)
    assert store.create_if_absent("snapshots/a", b"s")
    marks.append(store.moment)
    assert not store.create_if_absent("snapshots/a", b"t")
    store.put("packs/a", [b"3"])
    marks.append(store.moment)
    whole = ("config=c", "packs/a=12", "snapshots/a=s")
    assert [outcomes(store, moment) for moment in marks] == [
        {("config=c",)},
        {whole[:2]},
        {whole},
        {("config=c", "packs/a=3", "snapshots/a=s")},
    ]
    assert outcomes(store, 1) == {("config=c",), whole[:2]}  # under way
    assert outcomes(store) == {("config=c",), whole[:2], whole, ("config=c", "packs/a=3", "snapshots/a=s")}


def test_deletions_may_come_back_until_their_folder_is_synced() -> None:
    store = CrashingObjects(MemoryObjects({"packs/a": b"", "packs/b": b""}))
    store.delete("packs/a")
    store.delete("packs/b")
    everything = {(), ("packs/a=",), ("packs/b=",), ("packs/a=", "packs/b=")}
    assert outcomes(store, store.moment) == everything
    store.put("index/a", [])
    assert outcomes(store, store.moment) == {("index/a=", *names) for names in everything}
    store.put("packs/c", [])
    assert outcomes(store, store.moment) == {("index/a=", "packs/c=")}
    store.delete("packs/c")
    store.put("packs/c", [b"new"])
    assert outcomes(store, store.moment) == {("index/a=", "packs/c=new")}


class Meeting(CrashingObjects):
    """Each change waits until all have begun, and again until all are made."""

    def __init__(self, parties: int) -> None:
        super().__init__(MemoryObjects({"packs/old": b"o"}))
        self.barrier = threading.Barrier(parties)

    def overlap(self) -> None:
        self.barrier.wait()


def test_of_what_is_under_way_any_part_may_be_left() -> None:
    store = Meeting(3)
    works = [
        lambda: store.put("packs/a", [b"1"]),
        lambda: store.delete("packs/old"),
        lambda: store.put("index/a", [b"2"]),
    ]
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {
        tuple(name for name, there in zip(("index/a=2", "packs/a=1", "packs/old=o"), bits, strict=True) if there)
        for bits in [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    }
    assert outcomes(store, 3) == expected
    # The deletion did not begin before the put, so the put's sync proves nothing about it.
    assert outcomes(store, store.moment) == {("index/a=2", "packs/a=1"), ("index/a=2", "packs/a=1", "packs/old=o")}


def test_who_found_an_object_may_rely_on_it() -> None:
    store = Meeting(2)
    results: dict[bytes, bool] = {}

    def create(content: bytes) -> None:
        results[content] = store.create_if_absent("snapshots/a", content)

    threads = [threading.Thread(target=create, args=(content,)) for content in (b"1", b"2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winner = next(content.decode() for content, created in results.items() if created)
    assert sorted(results.values()) == [False, True]
    both = {("packs/old=o",), ("packs/old=o", f"snapshots/a={winner}")}
    assert outcomes(store, 2) == both
    for moment in (3, 4):  # either has returned
        assert outcomes(store, moment) == {("packs/old=o", f"snapshots/a={winner}")}


def test_a_failed_change_leaves_nothing() -> None:
    failing = FailingObjects(MemoryObjects(), 2, Fault.FSYNC)
    store = CrashingObjects(failing)
    with pytest.raises(HoldfastError):
        store.put("packs/a", [b"1"])
    store.put("packs/b", [b"2"])
    assert failing.fired == "put packs/a"
    assert outcomes(store) == {(), ("packs/b=2",)}
    with pytest.raises(ObjectMissing):
        store.get("packs/a")


def test_sampled_states_are_distinct_come_from_every_moment_and_repeat_by_seed() -> None:
    store = CrashingObjects(MemoryObjects({f"packs/{number}": b"" for number in range(20)}))
    for number in range(20):
        store.delete(f"packs/{number}")
    states = [*store.crash_states(7, 300)]
    assert len({(state.moment, state.lost) for state in states}) == 300
    assert {state.moment for state in states[:41]} == set(range(41))
    again = [(state.moment, state.lost, state.store.contents()) for state in store.crash_states(7, 300)]
    assert again == [(state.moment, state.lost, state.store.contents()) for state in states]
    assert [state.lost for state in store.crash_states(8, 300)] != [lost for _, lost, _ in again]
    for state in states:
        assert {f"delete {name}" for name in state.store.contents()} >= set(state.lost)


def test_states_do_not_share_what_is_done_to_them() -> None:
    store = CrashingObjects()
    store.put("packs/a", [b"1"])
    first, *others = store.crash_states(1, 10)
    first.store.put("packs/z", [b""])
    assert all("packs/z" not in state.store.contents() for state in others)
    assert [info.name for info in store.list("")] == ["packs/a"]
