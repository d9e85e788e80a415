"""Snapshot and run objects: strict, under their own names, and one end for each run."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from holdfast_server.errors import Reason
from holdfast_server.repository.crypto import IndexKeys
from holdfast_server.repository.format import run_name, snapshot_name
from holdfast_server.repository.lists import ListRoot
from holdfast_server.repository.runs import Run, RunKind, begin_run, list_runs
from holdfast_server.repository.snapshots import (
    Snapshot,
    SnapshotCounts,
    Tombstone,
    decode_run_end,
    end_run_as,
    read_run_end,
    snapshot_ids,
)
from holdfast_server.storage.objects import MemoryObjects
from tests.unit.repository.samples import INDEX_KEY, KEYS, NOW, OTHER_RUN, OTHER_UUID, RUN, cuts, flips, refused

SNAPSHOT = Snapshot(
    run_id=RUN,
    name="Default 2026-11-21",
    locked=True,
    source_id="default",
    source_kind="WALLET",
    source_display_name="Default",
    create_us=NOW,
    complete_us=NOW + 5,
    counts=SnapshotCounts(1, 2, 3, 4, 5, 6, 7, 8),
    stored_size=12_345,
    complete=False,
    list=ListRoot(1, bytes(32), 300),
    root=bytes(range(32)),
    writer_id=bytes(range(16)),
    software="holdfast 1",
    retried=True,
    wallet={"coins_backed_up": 3, "money_files": 2},
)
NAME = snapshot_name(RUN)
VALUES = json.loads(SNAPSHOT.encode())


def test_it_is_read_as_it_was_committed() -> None:
    store = MemoryObjects()
    for snapshot in (SNAPSHOT, replace(SNAPSHOT, run_id=OTHER_RUN, wallet=None, locked=False, name="")):
        assert end_run_as(store, KEYS, snapshot)
        assert read_run_end(store, KEYS, snapshot.run_id) == snapshot
    assert sorted(snapshot_ids(store)) == [RUN, OTHER_RUN]


def test_a_run_ends_once() -> None:
    store = MemoryObjects()
    assert read_run_end(store, KEYS, RUN) is None
    assert end_run_as(store, KEYS, Tombstone(RUN))
    assert not end_run_as(store, KEYS, SNAPSHOT)
    assert read_run_end(store, KEYS, RUN) == Tombstone(RUN)
    assert end_run_as(store, KEYS, replace(SNAPSHOT, run_id=OTHER_RUN))
    assert not end_run_as(store, KEYS, Tombstone(OTHER_RUN))
    assert isinstance(read_run_end(store, KEYS, OTHER_RUN), Snapshot)


def test_every_flip_and_every_cut_is_found() -> None:
    sealed = KEYS.seal(NAME, SNAPSHOT.encode())
    for content in (*flips(sealed), *cuts(sealed)):
        store = MemoryObjects({NAME: content})
        refused(lambda store=store: read_run_end(store, KEYS, RUN))


def test_it_cannot_stand_in_for_another() -> None:
    sealed = KEYS.seal(NAME, SNAPSHOT.encode())
    for keys, name in (
        (KEYS, snapshot_name(OTHER_RUN)),
        (IndexKeys(INDEX_KEY, OTHER_UUID), NAME),
    ):
        store = MemoryObjects({name: sealed})
        refused(lambda store=store, keys=keys, name=name: read_run_end(store, keys, name.split("/")[1]))
    refused(lambda: next(list_runs(MemoryObjects({run_name(RUN): sealed}), KEYS)))
    # Sealed by who has the key, under a name that it does not state.
    refused(lambda: decode_run_end(snapshot_name(OTHER_RUN), SNAPSHOT.encode()))


@pytest.mark.parametrize(
    "change",
    [
        {"run_id": RUN.upper()},
        {"run_id": "x"},
        {"state": "OPEN"},
        {"state": None},
        {"name": None},
        {"name": "x" * 4097},
        {"locked": 0},
        {"source": []},
        {"source": {"source_id": "a", "kind": "WALLET"}},
        {"create_time": 1.5},
        {"complete_time": "1"},
        {"counts": VALUES["counts"] | {"bytes": -1}},
        {"counts": {}},
        {"stored_size": 1 << 64},
        {"complete": "false"},
        {"list": VALUES["list"] | {"level": 256}},
        {"list": VALUES["list"] | {"id": "00"}},
        {"list": VALUES["list"] | {"chunks": 0}},
        {"root": "00" * 31},
        {"writer": "00" * 32},
        {"software": None},
        {"wallet": []},
        {"wallet": {"coins": "3"}},
    ],
)
def test_malformed_values_are_refused(change: dict[str, object]) -> None:
    refused(lambda: decode_run_end(NAME, json.dumps(VALUES | change).encode()))


def test_keys_may_be_added_and_none_may_lack() -> None:
    assert decode_run_end(NAME, json.dumps(VALUES | {"later": {}}).encode()) == SNAPSHOT
    for key in VALUES.keys() - {"wallet", "retried"}:
        without = {other: value for other, value in VALUES.items() if other != key}
        assert key in refused(lambda without=without: decode_run_end(NAME, json.dumps(without).encode())).message


def test_another_version_is_refused_as_such() -> None:
    refused(lambda: decode_run_end(NAME, json.dumps(VALUES | {"version": 2}).encode()), Reason.FORMAT_UNSUPPORTED)
    run = Run(RUN, RunKind.CHECK, bytes(16), 1, 2)
    values = json.loads(run.encode()) | {"version": 2}
    refused(lambda: Run.decode(run_name(RUN), json.dumps(values).encode()), Reason.FORMAT_UNSUPPORTED)


def test_runs_are_begun_renewed_and_ended() -> None:
    store = MemoryObjects({"runs/probe-1": b"", snapshot_name(RUN): b""})
    run = begin_run(store, KEYS, RUN, RunKind.BACKUP, writer_id=bytes(16), now_us=NOW)
    other = begin_run(store, KEYS, OTHER_RUN, RunKind.RESTORE, writer_id=bytes(16), now_us=NOW)
    assert sorted(list_runs(store, KEYS), key=lambda one: one.run_id) == [run, other]
    renewed = run.renew(store, KEYS, NOW + 60)
    assert (renewed.create_us, renewed.renew_us) == (NOW, NOW + 60)
    other.end(store)
    other.end(store)
    assert list(list_runs(store, KEYS)) == [renewed]
    with pytest.raises(ValueError, match="UUID"):
        begin_run(store, KEYS, "../config", RunKind.CHECK, writer_id=bytes(16), now_us=NOW)


@pytest.mark.parametrize(
    "change", [{"kind": "UNKNOWN"}, {"run_id": OTHER_RUN}, {"writer": ""}, {"create_time": None}, {"renew_time": True}]
)
def test_malformed_runs_are_refused(change: dict[str, object]) -> None:
    values = json.loads(Run(RUN, RunKind.CHECK, bytes(16), 1, 2).encode()) | change
    store = MemoryObjects({run_name(RUN): KEYS.seal(run_name(RUN), json.dumps(values).encode())})
    refused(lambda: list(list_runs(store, KEYS)))
