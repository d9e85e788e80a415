"""What a crash of the machine may leave of a repository, at every moment between two syncs of a backup.

In each such state: the repository opens, acknowledged snapshots read back whole, the next backup succeeds without
anything being unlocked, and nothing is sent again that was there. HOLDFAST_CRASH_STATES sets how many states there are,
HOLDFAST_SEED their seed.
"""

from __future__ import annotations

import os
import random
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdfast_server.errors import HoldfastError
from holdfast_server.repository.index import load_index
from holdfast_server.storage.objects import MemoryObjects
from tests.harness import make_tree, snapshot
from tests.nonces import NonceAudit, RecordingObjects
from tests.repositories import Backups, assert_nothing_sent_again, packs_of, small_packs
from tests.stores import CrashingObjects, CrashState, FailingObjects, Fault

STATES = int(os.environ.get("HOLDFAST_CRASH_STATES", "200"))
#: So many states are drawn from each history.
STATES_EACH = 50
SEED = int(os.environ.get("HOLDFAST_SEED", "2026"))

Entries = dict[bytes, tuple[object, ...]]


@dataclass
class History:
    """A source that was changed and backed up in turns. `acknowledged`: when each snapshot was, and what it holds."""

    backups: Backups
    store: CrashingObjects
    source: Path
    acknowledged: list[tuple[int, str, Entries]]
    audit: NonceAudit


def make_history(folder: Path, seed: int) -> History:
    """Some backups of a small source, some of which fail, and one of which is given up."""
    draw = random.Random(seed)
    store = CrashingObjects()
    # As it is announced in the catalog: made whole before anything is backed up.
    backups = Backups(folder / "caches", store)
    audit = NonceAudit(backups.opened().index_keys, backups.content)
    source = make_tree(folder / "source", seed, files=6)
    made = History(backups, store, source, [], audit)
    for turn in range(3):
        run_id = str(uuid.uuid4())
        if draw.random() < 0.4:
            failing = FailingObjects(store, draw.randrange(3, 20), draw.choice([Fault.EIO, Fault.LOST_ANSWER]))
            try:
                backups.back_up(source, run_id=run_id, store=RecordingObjects(failing, audit))
            except HoldfastError:
                assert failing.fired
            if draw.random() < 0.5:
                backups.give_up(run_id)
                run_id = str(uuid.uuid4())
        backups.back_up(source, run_id=run_id, store=RecordingObjects(store, audit))
        made.acknowledged.append((store.moment, run_id, backups.read(run_id)))
        (source / f"new{turn}").write_bytes(draw.randbytes(draw.choice((10, 6_000, 20_000))))
        for path in draw.sample([path for path in source.rglob("f*") if path.is_file()], 2):
            path.write_bytes(draw.randbytes(3_000))
    return made


def check_state(history: History, state: CrashState, draw: random.Random) -> None:
    """What must hold after any crash."""
    backups, store = history.backups, state.store
    if state.moment == 0 or "config" not in {info.name for info in store.list("")}:
        return  # the repository was not there yet, and nobody was told that it is
    repository = backups.opened(store)
    wanted = {run_id: entries for moment, run_id, entries in history.acknowledged if moment <= state.moment}
    assert set(wanted) <= set(backups.snapshots(store))
    if draw.random() < 0.3:
        backups.lose_caches()
    before = packs_of(store, repository)
    recorded = RecordingObjects(store, history.audit)
    run_id = str(uuid.uuid4())
    backups.back_up(history.source, run_id=run_id, store=recorded)
    wanted[run_id] = snapshot(history.source)
    # Also what was not acknowledged, if it can be seen, is whole.
    seen = backups.read_all(backups.snapshots(store), store)
    assert {known: seen[known] for known in wanted} == wanted
    assert_nothing_sent_again(before, packs_of(store, repository))
    found = load_index(store, repository.index_keys, keep_keys=False, check=lambda: None)
    assert (found.adopted, found.missing, found.unreadable) == ([], {}, {})


@pytest.mark.long
@pytest.mark.timeout(max(240, STATES))
def test_crash_states(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_packs(monkeypatch, pack=8 << 10, chunk=2 << 10)
    tried, lost = 0, 0
    for number in range(STATES // STATES_EACH):
        folder = memory_path / str(number)
        history = make_history(folder, SEED + number)
        draw = random.Random(SEED + number)
        for state in history.store.crash_states(SEED, STATES_EACH):
            check_state(history, state, draw)
            tried += 1
            lost += bool(state.lost)
        assert history.audit.segments > STATES_EACH // 4
        shutil.rmtree(folder)
    assert tried >= STATES * 0.9
    assert lost


def test_a_crash_while_the_repository_is_made_leaves_none_or_a_whole_one(memory_path: Path) -> None:
    store = CrashingObjects()
    backups = Backups(memory_path / "caches", store)
    made = 0
    source = make_tree(memory_path / "source", 1, files=3)
    for state in store.crash_states(SEED, 100):
        if "config" not in {info.name for info in state.store.list("")}:
            Backups(memory_path / "again", state.store)
            continue
        made += 1
        run_id = backups.back_up(source, store=state.store).run_id
        assert backups.read(run_id, state.store) == snapshot(source)
    assert made


def test_what_is_sent_again_is_noticed(memory_path: Path) -> None:
    backups = Backups(memory_path / "caches", MemoryObjects())
    backups.back_up(make_tree(memory_path / "source", 1, files=20))
    before = packs_of(backups.store, backups.opened())
    assert_nothing_sent_again(before, before)
    for record in before.values():
        with pytest.raises(AssertionError):
            assert_nothing_sent_again(before, {**before, b"new": record})
