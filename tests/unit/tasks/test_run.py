"""Fencing of every write, the ways in which a run ends, draining, and the worker's book of runs."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from holdfast_server.catalog import schema, tasks
from holdfast_server.catalog.rows import EventKind, TaskState
from holdfast_server.core.control import Problem
from holdfast_server.errors import Cancelled, Drained, FailedPrecondition, Fenced, Reason
from holdfast_server.tasks.run import Outcome, TaskRun
from tests.unit.tasks.conftest import World


def fenced_pair(world: World) -> tuple[TaskRun, TaskRun]:
    """An old attempt that lost its lease, and the new one."""
    row = world.create(("source:a", "SHARED"))  # type: ignore[arg-type]
    old = world.claim(row.task_id)
    world.lose_lease()
    new = world.claim(row.task_id, worker=world.new_worker("00000000-0000-0000-0000-000000000002"))
    assert old is not None
    assert new is not None
    assert (old.attempt, new.attempt) == (1, 2)
    return old, new


def everything(world: World) -> dict[str, list[tuple[object, ...]]]:
    with world.database.read() as connection:
        return {
            table.name: sorted(tuple(map(repr, row)) for row in connection.execute(sa.select(table)))
            for table in schema.metadata.sorted_tables
        }


def _flush_progress(run: TaskRun) -> None:
    run.progress.advance(100)
    run.flush()


def _flush_log(run: TaskRun) -> None:
    run.log("a line")
    run.flush()


def _flush_problem(run: TaskRun) -> None:
    run.problem(Problem(b"x", "READ_ERROR", "no"), source_id="one", backup_id=None)
    run.flush()


def _guarded(run: TaskRun) -> None:
    with pytest.raises(Fenced), run.guarded() as connection:
        tasks.update_task(connection, run.task_id, message="never")


def _complete(run: TaskRun) -> None:
    def commit(connection: sa.Connection) -> None:
        tasks.update_task(connection, run.task_id, message="never")

    with pytest.raises(Fenced):
        run.complete(Outcome({}, "done", commit=commit))


@pytest.mark.parametrize(
    "write",
    [
        _flush_progress,
        _flush_log,
        _flush_problem,
        _guarded,
        _complete,
        lambda run: run.hand_back(),
        lambda run: run.fail(FailedPrecondition(Reason.INTERRUPTED, "x"), _Never()),
        lambda run: run.end_cancelled(_Never()),
    ],
)
def test_nothing_that_a_fenced_attempt_writes_arrives(world: World, write: Callable[[TaskRun], None]) -> None:
    old, _ = fenced_pair(world)
    before = everything(world)
    write(old)
    assert everything(world) == before


class _Never:
    def abandon(self, *_: object) -> None:
        raise AssertionError("a fenced attempt set rows right")


def test_a_fenced_flush_tells_the_work_to_stop(world: World) -> None:
    old, _ = fenced_pair(world)
    _flush_progress(old)
    with pytest.raises(Fenced):
        old.control.check()


def test_a_checkpoint_survives_into_the_next_attempt_and_only_from_the_owner(world: World) -> None:
    row = world.create()
    run = world.claim(row.task_id)
    assert run is not None
    with run.guarded() as connection:
        run.checkpoint(connection, made_root=True)
    world.lose_lease()
    new = world.claim(row.task_id)
    assert new is not None
    assert new.row.checkpoint == {"made_root": True}
    with world.database.write() as connection, pytest.raises(Fenced):
        run.checkpoint(connection, made_root=False)


def test_a_cancel_beats_the_end_of_the_work(world: World) -> None:
    committed: list[object] = []
    undone: list[bool] = []

    def work(run: TaskRun) -> Outcome:
        world.engine.cancel(run.task_id)
        return Outcome({}, "done", commit=committed.append, undo=lambda: undone.append(True))

    world.handler.work = work
    row = world.create()
    assert world.execute(row.task_id) == "cancelled"
    assert (committed, undone) == ([], [True])
    assert world.row(row.task_id).state == TaskState.CANCELLED


def test_a_fenced_end_undoes_nothing(world: World) -> None:
    undone: list[bool] = []

    def work(run: TaskRun) -> Outcome:
        world.lose_lease()
        return Outcome({}, "done", undo=lambda: undone.append(True))

    world.handler.work = work
    row = world.create()
    assert world.execute(row.task_id) == "fenced"
    assert undone == []
    assert world.row(row.task_id).attempt == 2


def test_a_failure_during_a_cancel_is_reported_as_cancelled(world: World) -> None:
    def work(run: TaskRun) -> Outcome:
        world.engine.cancel(run.task_id)
        raise FailedPrecondition(Reason.SOURCE_UNREADABLE, "unreadable")

    world.handler.work = work
    row = world.create()
    world.execute(row.task_id)
    ended = world.row(row.task_id)
    assert ended.state == TaskState.CANCELLED
    assert "unreadable" in ended.message


def test_a_defect_ends_the_task_with_a_generic_text(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def work(run: TaskRun) -> Outcome:
        raise KeyError("/secret/path")

    world.handler.work = work
    row = world.create()
    assert world.execute(row.task_id) == "failed"
    ended = world.row(row.task_id)
    assert ended.error is not None
    assert ended.error["reason"] == "INTERNAL"
    assert "/secret/path" not in str(ended.error)
    assert "/secret/path" in caplog.text


def test_drained_work_goes_on_without_counting_as_a_failure(world: World) -> None:
    def work(run: TaskRun) -> Outcome:
        run.control.drain()
        run.control.check()
        raise AssertionError

    world.handler.work = work
    row = world.create()
    assert world.execute(row.task_id) == "drained"
    back = world.row(row.task_id)
    assert (back.state, back.attempt, back.fruitless, back.recovering) == (TaskState.PENDING, 2, 0, False)
    assert world.dispatcher.queue == [(row.task_id, 2)]
    world.handler.work = lambda run: Outcome({}, "done")
    assert world.execute(row.task_id) == "completed"


def test_a_draining_worker_gives_a_fresh_attempt_back(world: World) -> None:
    row = world.create()
    world.worker.drain(0)
    assert world.execute(row.task_id) == "fenced"
    assert world.row(row.task_id).attempt == 2
    world.engine.tick()
    assert world.execute(row.task_id, world.new_worker("00000000-0000-0000-0000-000000000002")) == "completed"


def test_a_draining_worker_does_not_strand_a_cancelling_task(world: World) -> None:
    row = world.create()
    run = world.claim(row.task_id)
    assert run is not None
    run.hand_back()
    world.engine.tick()
    world.engine.cancel(row.task_id)
    world.worker.drain(0)
    world.execute(row.task_id)
    for _ in range(3):
        world.clock.step(11)
        world.engine.tick()
    other = world.new_worker("00000000-0000-0000-0000-000000000002")
    assert world.execute(row.task_id, other) == "cancelled"
    assert world.row(row.task_id).state == TaskState.CANCELLED


def test_an_old_attempt_in_the_same_process_does_not_end_the_lease_of_the_new_one(world: World) -> None:
    """A worker that was frozen past its lease may run both attempts of a task side by side for a moment."""
    entered, leave = threading.Event(), threading.Event()
    second = threading.Event()

    def work(run: TaskRun) -> Outcome:
        if run.attempt == 1:
            entered.set()
            assert leave.wait(30)
            run.control.check()
            raise Fenced
        second.set()
        assert done.wait(30)
        return Outcome({}, "done")

    done = threading.Event()
    world.handler.work = work
    row = world.create()
    threads = [threading.Thread(target=world.worker.execute, args=(row.task_id, n)) for n in (1, 2)]
    threads[0].start()
    assert entered.wait(30)
    world.lose_lease()
    threads[1].start()
    assert second.wait(30)
    leave.set()
    threads[0].join(30)
    try:
        assert [run.attempt for run in world.worker._running()] == [2], "nobody renews the lease of attempt 2 any more"
    finally:
        done.set()
        threads[1].join(30)
    assert world.row(row.task_id).state == TaskState.COMPLETED


def test_flush_that_cannot_reach_the_catalog_loses_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    row = world.create()
    run = world.claim(row.task_id)
    assert run is not None
    run.log("before")
    run.problem(Problem(b"x", "READ_ERROR", "no"), source_id="one", backup_id=None)
    with monkeypatch.context() as patch:
        patch.setattr(world.database, "write", _busy)
        with pytest.raises(RuntimeError):
            run.flush()
    run.log("after")
    run.flush()
    with world.database.read() as connection:
        lines = [line.text for line in tasks.log_lines(connection, row.task_id, 1, 100)]
        problems = tasks.list_problems(connection, row.task_id, 0, 10)
    assert [line for line in lines if line in ("before", "after")] == ["before", "after"]
    assert len(problems) == 1


def _busy(**_: object) -> None:
    raise RuntimeError("database is locked")


def test_percent_never_falls_in_a_new_attempt(world: World) -> None:
    row = world.create()
    run = world.claim(row.task_id)
    assert run is not None
    run.progress.set_totals(1000, 0, work=1.0)
    run.progress.advance(800)
    run.flush()
    assert world.row(row.task_id).progress["percent"] == 80.0
    world.lose_lease()
    new = world.claim(row.task_id)
    assert new is not None
    new.progress.set_totals(1000, 0, work=1.0)
    new.progress.advance(10)
    new.flush()
    assert world.row(row.task_id).progress["percent"] == 80.0


def test_the_end_state_is_the_last_event_whatever_is_flushed_after_it(world: World) -> None:
    """The keeper once wrote progress behind a task's end, which no watcher saw and every resumed one stumbled over."""
    row = world.create()
    run = world.claim(row.task_id)
    assert run is not None
    ended = run.complete(Outcome({}, "done"))
    _flush_progress(run)
    _flush_problem(run)
    with world.database.read() as connection:
        last = tasks.events_after(connection, row.task_id, 0)[-1]
    assert (last.kind, last.sequence) == (EventKind.STATE, ended.revision)
    assert world.row(row.task_id).revision == ended.revision


def test_progress_rows_are_trimmed_and_warnings_kept(world: World) -> None:
    row = world.create()
    run = world.claim(row.task_id)
    assert run is not None
    for number in range(200):
        run.progress.advance(1)
        if number % 50 == 0:
            run.problem(Problem(b"%d" % number, "READ_ERROR", "no"), source_id="one", backup_id=None)
        run.flush()
    with world.database.read() as connection:
        events = tasks.events_after(connection, row.task_id, 0)
    kinds = [event.kind for event in events]
    assert kinds.count(EventKind.PROGRESS) == tasks.PROGRESS_KEPT
    assert kinds.count(EventKind.WARNING) == 4
    assert kinds.count(EventKind.STATE) == 2
    assert events[-1].sequence == world.row(row.task_id).revision


def test_control_lets_the_gravest_signal_win() -> None:
    from holdfast_server.core.control import Control

    control = Control()
    control.check()
    for signal, expected in ((control.drain, Drained), (control.cancel, Cancelled), (control.drain, Cancelled),
                             (control.fence, Fenced), (control.cancel, Fenced)):  # fmt: skip
        signal()
        with pytest.raises(expected):
            control.check()
        with pytest.raises(expected):
            control.wait(30)
