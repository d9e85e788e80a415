"""Backups into a repository whose storage fails at one call after the other.

Whatever fails: the error is a typed one, earlier snapshots read back as they were, what failed is not to be seen, and
the next backup succeeds and leaves nothing behind that nobody knows of. Every fault must have fired.
"""

from __future__ import annotations

import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdfast_server.errors import HoldfastError
from holdfast_server.repository.index import load_index
from holdfast_server.storage.objects import MemoryObjects
from tests.harness import make_tree, snapshot
from tests.nonces import NonceAudit, RecordingObjects
from tests.repositories import Backups, copy_of, packs_of, small_packs
from tests.stores import FailingObjects, Fault

#: Calls of the storage that fail in the quick tests, of each kind of fault.
SLICE = 12


@dataclass
class History:
    """A repository with two snapshots, and a source that has changed since."""

    backups: Backups
    base: MemoryObjects
    source: Path
    earlier: dict[str, dict[bytes, tuple[object, ...]]]
    audit: NonceAudit
    caches: Path

    def begin(self) -> RecordingObjects:
        """The store as it was before the backup that will fail; the caches, too."""
        shutil.rmtree(self.backups.caches)
        shutil.copytree(self.caches, self.backups.caches)
        return RecordingObjects(copy_of(self.base))

    def calls(self) -> int:
        """How many calls of the storage an undisturbed backup makes."""
        counted = FailingObjects(self.begin(), 0, Fault.EIO)
        self.backups.back_up(self.source, store=counted)
        return counted.calls

    def assert_whole(self, store: RecordingObjects) -> None:
        """Nothing but live runs is left open, and of each pack is known what it holds."""
        repository = self.backups.opened(store)
        assert not [*store.list("runs/")]
        found = load_index(store, repository.index_keys, keep_keys=False, check=lambda: None)
        assert (found.adopted, found.missing, found.unreadable) == ([], {}, {})
        assert found.chunks.pack_ids == set(packs_of(store, repository))


@pytest.fixture
def history(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[History]:
    small_packs(monkeypatch)
    store = MemoryObjects()
    backups = Backups(memory_path / "caches", store)
    source, other = make_tree(memory_path / "source", 1, files=16), make_tree(memory_path / "other", 2, files=8)
    earlier = {}
    for path, source_id in ((source, "source"), (other, "other")):
        run_id = backups.back_up(path, source_id=source_id).run_id
        earlier[run_id] = snapshot(path)
    assert backups.read_all(earlier) == earlier
    make_tree(source / "new", 3, files=10)
    (source / "large.bin").write_bytes(os.urandom(2 << 20))
    shutil.copytree(backups.caches, memory_path / "kept")
    audit = NonceAudit(backups.opened().index_keys, backups.content)
    yield History(backups, copy_of(store), source, earlier, audit, memory_path / "kept")
    assert not [thread for thread in threading.enumerate() if thread.name == "pack-upload"]
    assert (audit.messages > audit.segments > 2) is bool(audit.salts), "what was audited holds hardly anything"


def spread(calls: int, all_of_them: bool) -> list[int]:
    """Which calls fail."""
    if all_of_them:
        return list(range(1, calls + 1))
    return sorted({1 + n * (calls - 1) // (SLICE - 1) for n in range(SLICE)})


@pytest.mark.parametrize("all_calls", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["", "all"])
@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name)
def test_one_call_fails(history: History, fault: Fault, all_calls: bool) -> None:
    backups, wanted = history.backups, snapshot(history.source)
    befallen = set()
    for fail_at in spread(history.calls(), all_calls):
        recorded = history.begin()
        failing = FailingObjects(RecordingObjects(recorded, history.audit), fail_at, fault)
        run_id = str(uuid.uuid4())
        if not _fails(backups, history.source, run_id, failing):
            # The last calls look at the log and remove the run: a fault of writing does not befall them.
            assert fault.writing
            assert fail_at >= failing.calls - 2
            continue
        befallen.add(failing.fired)
        seen = backups.snapshots(recorded)
        assert set(history.earlier) <= set(seen)
        if run_id in seen:  # the fault came after the commit: what can be seen is whole
            assert backups.read(run_id, recorded) == wanted
        if fail_at % 2:
            again = RecordingObjects(recorded, history.audit)
            backups.back_up(history.source, run_id=run_id, store=again)
            if run_id in seen:
                assert not [name for name, _ in again.sent if not name.startswith(("runs/", "log/"))]
        else:
            backups.give_up(run_id, recorded)
            assert set(backups.snapshots(recorded)) == set(history.earlier)
            run_id = str(uuid.uuid4())
            backups.back_up(history.source, run_id=run_id, store=RecordingObjects(recorded, history.audit))
        assert backups.read_all([*history.earlier, run_id], recorded) == {**history.earlier, run_id: wanted}
        history.assert_whole(recorded)
    assert len(befallen) >= SLICE // 2, befallen


def _fails(backups: Backups, source: Path, run_id: str, failing: FailingObjects) -> bool:
    """Whether the backup fails, which it must if the fault has fired."""
    try:
        backups.back_up(source, run_id=run_id, store=failing)
    except HoldfastError:
        return bool(failing.fired)
    assert not failing.fired, f"{failing.fired} has failed, and nobody was told"
    return False


@pytest.mark.parametrize("all_calls", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["", "all"])
def test_the_disk_is_full_and_stays_so(history: History, all_calls: bool) -> None:
    backups, wanted = history.backups, snapshot(history.source)
    # The last three calls look whether the log's entry is its newest, and remove the run.
    for fail_at in spread(history.calls() - 3, all_calls):
        recorded = history.begin()
        failing = FailingObjects(RecordingObjects(recorded, history.audit), fail_at, Fault.ENOSPC, lasting=True)
        run_id = str(uuid.uuid4())
        assert _fails(backups, history.source, run_id, failing), fail_at
        with pytest.raises(HoldfastError):
            backups.back_up(history.source, run_id=run_id, store=failing)
        # Reading needs a run of its own, which a full disk does not take; the snapshots are there all the same.
        assert set(history.earlier) <= set(backups.snapshots(failing))
        backups.back_up(history.source, run_id=run_id, store=RecordingObjects(recorded, history.audit))
        assert backups.read_all([*history.earlier, run_id], recorded) == {**history.earlier, run_id: wanted}
        history.assert_whole(recorded)


@pytest.mark.parametrize("fault", [Fault.EIO, Fault.EACCES], ids=lambda fault: fault.name)
def test_one_call_of_reading_fails(history: History, fault: Fault) -> None:
    backups = history.backups
    counted = FailingObjects(copy_of(history.base), 0, fault)
    assert backups.read_all(history.earlier, counted) == history.earlier
    for fail_at in spread(counted.calls, all_of_them=False):
        store = copy_of(history.base)
        failing = FailingObjects(store, fail_at, fault)
        with pytest.raises(HoldfastError):
            backups.read_all(history.earlier, failing)
        assert failing.fired
        # What a failed reader leaves is its run, if it could not be removed; the next one is not hindered.
        assert len([*store.list("runs/")]) == failing.fired.startswith("delete runs/")
        assert backups.read_all(history.earlier, store) == history.earlier
