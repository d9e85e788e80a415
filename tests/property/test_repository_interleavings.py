"""Writers, pruners and readers of one repository in any interleaving: nothing that is needed is ever lost.

HOLDFAST_INTERLEAVINGS sets how many there are, HOLDFAST_SEED their seed; HOLDFAST_INTERLEAVING is that of one alone,
as a failure names it. That the test can fail is tried with protocols that lack a step.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.repository import index, log, removal, sessions
from holdfast_server.repository.removal import Removal
from holdfast_server.repository.runs import Run, RunKind
from holdfast_server.repository.sessions import BackupRun
from holdfast_server.repository.snapshots import Snapshot, end_run_as, snapshot_ids
from holdfast_server.repository.survey import Survey
from tests.interleaved_repository import Interleaving, Stage

COUNT = int(os.environ.get("HOLDFAST_INTERLEAVINGS", "2000"))
SEED = int(os.environ.get("HOLDFAST_SEED", "2026"))
ONE = os.environ.get("HOLDFAST_INTERLEAVING")
#: Interleavings that are tried to find out that a mutated protocol fails.
PATIENCE = 4_000
PARTS = 4


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="holdfast-test-", dir=memory) as folder, Stage(Path(folder)) as made:
        yield made


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_lost_in_any_interleaving(stage: Stage, part: int) -> None:
    seeds = range(SEED * 1_000_000 + part, SEED * 1_000_000 + COUNT, PARTS)
    for seed in seeds if ONE is None else [int(ONE)]:
        one = Interleaving(stage, seed)
        failure = one.run()
        assert not failure, f"HOLDFAST_INTERLEAVING={seed}: {failure}\n{one.trace}"


def test_a_seed_tells_an_interleaving_whole(stage: Stage) -> None:
    """In any process: nothing hangs on the order of sets, the time or the system's randomness."""
    seeds = range(40, 46)
    traces = []
    for seed in seeds:
        one = Interleaving(stage, seed)
        one.run()
        traces.append(one.trace)
    code = (
        "import sys; from pathlib import Path; from tests.interleaved_repository import Interleaving, Stage\n"
        "with Stage(Path(sys.argv[1])) as stage:\n"
        f"    for seed in {list(seeds)}: one = Interleaving(stage, seed); one.run(); print(one.trace)\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", code, folder]
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "7"}
        told = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert told.splitlines() == "\n".join(traces).splitlines()


# -- protocols that lack a step -------------------------------------------------------------------------------------

Mutation = Callable[[pytest.MonkeyPatch], None]


def does_not_wait_for_runs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Removal, "_ready", lambda self, _others: set(self.survey.condemned))


def does_not_look_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Survey, "is_outdated", lambda _self, _repository: False)


def does_not_rescue(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Removal, "_rescue", lambda _self, ready: (list(ready), set()))


def writers_refer_to_condemned_packs(patch: pytest.MonkeyPatch) -> None:
    def load(*arguments: Any, condemned: object = (), **named: Any) -> Any:
        del condemned
        return index.load_index(*arguments, **named)

    patch.setattr(sessions, "load_index", load)


def lists_runs_before_it_condemns(patch: pytest.MonkeyPatch) -> None:
    condemn, others = Removal.condemn, Removal.others
    before: dict[Removal, list[str]] = {}

    def first_lists(self: Removal, packs: Any) -> None:
        before[self] = others(self)
        condemn(self, packs)

    patch.setattr(Removal, "condemn", first_lists)
    patch.setattr(Removal, "others", lambda self: before[self] if self in before else others(self))


def condemns_in_silence(patch: pytest.MonkeyPatch) -> None:
    """The log is told with the deletion only."""

    def condemn(self: Removal, packs: Any) -> None:
        for some in removal._batches(packs):
            self.survey.state.add(removal.Condemned(some))
            self._fresh.update(some)

    patch.setattr(Removal, "condemn", condemn)


def commits_over_a_tombstone(patch: pytest.MonkeyPatch) -> None:
    def put(store: Any, keys: Any, end: Any) -> bool:
        if not isinstance(end, Snapshot):
            return end_run_as(store, keys, end)
        name = f"snapshots/{end.run_id}"
        store.put(name, [keys.seal(name, end.encode())])
        return True

    patch.setattr(sessions, "end_run_as", put)


def announces_late(patch: pytest.MonkeyPatch) -> None:
    """A backup is announced once it has read log and index."""
    begin, opened, waiting = sessions.begin_run, BackupRun._open, {}

    def begin_later(store: Any, keys: Any, run_id: str, kind: RunKind, **named: Any) -> Any:
        if kind is not RunKind.BACKUP:
            return begin(store, keys, run_id, kind, **named)
        waiting[run_id] = lambda: begin(store, keys, run_id, kind, **named)
        return Run(run_id, kind, named["writer_id"], named["now_us"], named["now_us"])

    def open_first(self: BackupRun, run_id: str, *arguments: Any) -> None:
        opened(self, run_id, *arguments)
        waiting.pop(run_id)()

    patch.setattr(sessions, "begin_run", begin_later)
    patch.setattr(BackupRun, "_open", open_first)
    patch.setattr(BackupRun, "check", lambda _self: None)


def buries_no_retried_run(patch: pytest.MonkeyPatch) -> None:
    """Neither is a tombstone left for another attempt, nor does that one look whether it was removed."""
    find = sessions._end_to_remove
    patch.setattr(sessions, "_end_to_remove", lambda *given: None if find(*given) is None else False)
    patch.setattr(BackupRun, "_refuse_removed", lambda _self, _snapshot: None)


def lists_snapshots_after_the_index(patch: pytest.MonkeyPatch) -> None:
    """What was committed meanwhile is taken for damaged."""
    mark = Survey._mark

    def list_late(self: Survey, repository: Any, *arguments: Any, **named: Any) -> None:
        self.run_ids = set(snapshot_ids(repository.store))
        mark(self, repository, *arguments, **named)

    patch.setattr(Survey, "_mark", list_late)
    patch.setattr(Survey, "_has_changed", lambda _self, _repository: False)


def lists_the_log_once_and_keeps_nothing(patch: pytest.MonkeyPatch) -> None:
    append = log.LogWriter.append_checkpoint
    patch.setattr(log.LogWriter, "append_checkpoint", lambda *given, keep_from: append(*given))
    patch.setattr(log, "_newest", log._listed)


#: Each with the seed of an interleaving that fails.
QUICK: dict[Mutation, int] = {
    does_not_look_again: 1,
    does_not_rescue: 5,
    writers_refer_to_condemned_packs: 4,
    does_not_wait_for_runs: 191,
    commits_over_a_tombstone: 48,
    lists_runs_before_it_condemns: 33,
    condemns_in_silence: 273,
    lists_snapshots_after_the_index: 16,
}
#: Those that only few interleavings tell from the right one.
RARE: tuple[Mutation, ...] = (lists_the_log_once_and_keeps_nothing, buries_no_retried_run)


@pytest.mark.parametrize("mutate", QUICK)
def test_a_protocol_that_lacks_a_step_fails(stage: Stage, mutate: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = QUICK[mutate]
    assert not Interleaving(stage, seed).run()
    mutate(monkeypatch)
    assert Interleaving(stage, seed).run()


@pytest.mark.soak
@pytest.mark.parametrize("mutate", [*QUICK, *RARE])
def test_some_interleaving_finds_each_step_that_lacks(
    stage: Stage, mutate: Mutation, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    assert any(Interleaving(stage, seed).run() for seed in range(PATIENCE))
