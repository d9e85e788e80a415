"""Admission, locks, takeover, cancelling and request ids."""

from __future__ import annotations

import uuid

import pytest

from holdfast_server.catalog import locks, tasks
from holdfast_server.catalog.requests import RequestKey
from holdfast_server.catalog.rows import MOVES, EventKind, LockMode, TaskKind, TaskState
from holdfast_server.errors import AlreadyExists, FailedPrecondition, NotFound, Reason, ResourceExhausted
from holdfast_server.tasks.engine import NewTask
from tests.unit.tasks.conftest import LEASE, World

SHARED, EXCLUSIVE = LockMode.SHARED, LockMode.EXCLUSIVE


def test_a_task_with_free_locks_is_dispatched_at_once(world: World) -> None:
    row = world.create(("source:a", SHARED))
    assert world.dispatcher.queue == [(row.task_id, 1)]
    assert row.state == TaskState.PENDING
    assert row.revision == 1


def test_shared_locks_go_together_and_exclusive_ones_alone(world: World) -> None:
    first, second = world.create(("source:a", SHARED)), world.create(("source:a", SHARED))
    alone = world.create(("source:a", EXCLUSIVE))
    other = world.create(("source:b", EXCLUSIVE))
    assert [one for one, _ in world.dispatcher.queue] == [first.task_id, second.task_id, other.task_id]
    with world.database.read() as connection:
        blockers, position = world.engine.blockers(connection, world.row(alone.task_id))
    assert {(b.resource, b.task_id) for b in blockers} == {("source:a", first.task_id), ("source:a", second.task_id)}
    assert position == 3


def test_a_waiting_exclusive_task_is_not_overtaken(world: World) -> None:
    first = world.create(("source:a", SHARED))
    alone = world.create(("source:a", EXCLUSIVE))
    late = world.create(("source:a", SHARED))
    unrelated = world.create(("source:b", SHARED))
    assert [one for one, _ in world.dispatcher.queue] == [first.task_id, unrelated.task_id]
    assert world.execute(first.task_id) == "completed"
    # Its end admits the next in order: the exclusive one, and nobody beside it.
    assert [one for one, _ in world.dispatcher.queue] == [unrelated.task_id, alone.task_id]
    assert world.execute(alone.task_id) == "completed"
    assert world.dispatcher.queue[-1] == (late.task_id, 1)


def test_priority_comes_before_age(world: World) -> None:
    holder = world.create(("source:a", EXCLUSIVE))
    old, urgent = world.create(("source:a", EXCLUSIVE)), world.create(("source:a", EXCLUSIVE))
    world.update(urgent.task_id, priority=5)
    world.execute(holder.task_id)
    assert world.dispatcher.queue == [(urgent.task_id, 1)]
    world.execute(urgent.task_id)
    assert world.dispatcher.queue == [(old.task_id, 1)]


def test_an_ended_task_holds_no_lock(world: World) -> None:
    row = world.create(("source:a", EXCLUSIVE))
    world.execute(row.task_id)
    with world.database.read() as connection:
        assert locks.all_locks(connection) == []


def test_exclusive_wins_where_a_resource_is_wished_twice(world: World) -> None:
    world.create(("source:a", SHARED), ("source:a", EXCLUSIVE), ("source:a", SHARED))
    with world.database.read() as connection:
        assert [(r, m) for r, _, m, _ in locks.all_locks(connection)] == [("source:a", EXCLUSIVE)]


def test_takeover_happens_only_after_the_lease(world: World) -> None:
    row = world.create()
    assert world.claim(row.task_id) is not None
    world.clock.step(LEASE)
    world.engine.tick()
    assert world.row(row.task_id).attempt == 1
    world.clock.step(0.001)
    assert world.engine.get(row.task_id).state == TaskState.PENDING, "never shown as running for longer than its lease"
    world.engine.tick()
    taken = world.row(row.task_id)
    assert (taken.attempt, taken.state, taken.owner, taken.recovering) == (2, TaskState.PENDING, None, True)
    assert world.dispatcher.queue == [(row.task_id, 2)]


def test_ticks_of_many_processes_take_over_once(world: World) -> None:
    row = world.create()
    world.claim(row.task_id)
    world.lose_lease()
    for _ in range(5):
        world.engine.tick()
    assert world.row(row.task_id).attempt == 2
    assert world.dispatcher.queue == [(row.task_id, 2)]


def test_locks_stay_held_through_a_takeover(world: World) -> None:
    row = world.create(("source:a", EXCLUSIVE))
    waiting = world.create(("source:a", SHARED))
    world.claim(row.task_id)
    world.lose_lease()
    assert world.dispatcher.queue == [(row.task_id, 2)]
    assert world.row(waiting.task_id).dispatch_time is None


def test_recovered_tasks_run_one_at_a_time_until_past_where_they_died(world: World) -> None:
    rows = [world.create() for _ in range(3)]
    for row in rows:
        run = world.claim(row.task_id)
        assert run is not None
        run.progress.advance(1000)
        run.flush()
    world.lose_lease()
    assert world.dispatcher.queue == [(rows[0].task_id, 2)], "one recovers, the others wait"
    run = world.claim(rows[0].task_id)
    assert run is not None
    run.progress.advance(500)
    run.flush()
    world.engine.tick()
    assert len(world.dispatcher.queue) == 0, "not yet past the point where it died"
    run.progress.advance(600)
    run.flush()
    world.engine.tick()
    assert world.dispatcher.queue == [(rows[1].task_id, 2)]
    fresh = world.create()
    assert (fresh.task_id, 1) in world.dispatcher.queue, "a new task need not wait for recoveries"


def test_the_fourth_attempt_without_progress_is_given_up(world: World) -> None:
    row = world.create()
    run = world.claim(row.task_id)
    assert run is not None
    run.progress.advance(1000)
    run.progress.begin("writing")
    run.flush()
    world.lose_lease()
    assert world.row(row.task_id).fruitless == 0, "the first attempt got somewhere"
    for deaths in (1, 2, 3):
        assert world.claim(row.task_id) is not None
        world.lose_lease()
        assert world.row(row.task_id).fruitless == deaths
    assert world.execute(row.task_id) == "failed"
    ended = world.row(row.task_id)
    assert ended.state == TaskState.FAILED
    assert ended.error is not None
    assert ended.error["reason"] == "INTERRUPTED"
    assert "writing" in ended.error["message"]
    assert world.handler.abandoned == [True]
    assert world.handler.cleaned == [5], "what lower attempts left is removed even so"


def test_progress_forgives_fruitless_attempts(world: World) -> None:
    row = world.create()
    for _ in range(2):
        assert world.claim(row.task_id)
        world.lose_lease()
    assert world.row(row.task_id).fruitless == 2
    run = world.claim(row.task_id)
    assert run is not None
    run.progress.advance(1)
    run.progress.advance(5000)
    run.flush()
    world.lose_lease()
    assert world.row(row.task_id).fruitless == 0


def test_an_attempt_that_vanished_between_queue_and_claim_is_queued_again(world: World) -> None:
    row = world.create()
    world.clock.step(11)
    world.engine.tick()
    assert world.row(row.task_id).attempt == 1, "still in the queue: nothing is wrong"
    world.dispatcher.take()
    world.engine.tick()
    again = world.row(row.task_id)
    assert (again.attempt, again.fruitless) == (2, 0)
    assert world.dispatcher.queue == [(row.task_id, 2)]
    assert world.claim(row.task_id, attempt=1) is None, "the lost one may not come back"


def test_a_cancelling_task_that_vanished_between_queue_and_claim_is_queued_again(world: World) -> None:
    row = world.create()
    world.claim(row.task_id)
    world.engine.cancel(row.task_id)
    world.lose_lease()
    world.dispatcher.take()
    world.clock.step(11)
    world.engine.tick()
    assert world.dispatcher.queue == [(row.task_id, 3)]
    assert world.execute(row.task_id) == "cancelled"


def test_cancel_of_a_task_that_never_ran_ends_it_at_once(world: World) -> None:
    row = world.create(("source:a", EXCLUSIVE))
    waiting = world.create(("source:a", EXCLUSIVE))
    ended = world.engine.cancel(row.task_id)
    assert ended.state == TaskState.CANCELLED
    assert ended.cleanup == {"files_removed": 0, "bytes_freed": 0, "left_behind": [], "worker_stopped": False}
    assert world.claim(row.task_id, attempt=1) is None, "its place in the queue is void"
    assert (waiting.task_id, 1) in world.dispatcher.queue, "who waited goes on"


def test_cancel_of_a_waiting_task_lets_those_behind_it_go(world: World) -> None:
    world.create(("source:a", SHARED))
    alone = world.create(("source:a", EXCLUSIVE))
    late = world.create(("source:a", SHARED))
    world.engine.cancel(alone.task_id)
    assert (late.task_id, 1) in world.dispatcher.queue


def test_cancel_is_idempotent_and_leaves_ended_tasks_alone(world: World) -> None:
    row = world.create()
    world.claim(row.task_id)
    first = world.engine.cancel(row.task_id)
    assert first.state == TaskState.CANCELLING
    assert world.engine.cancel(row.task_id) == first
    done = world.create()
    world.execute(done.task_id)
    before = world.row(done.task_id)
    assert world.engine.cancel(done.task_id) == before
    assert world.row(done.task_id) == before


def test_cancel_of_a_committing_task_is_refused(world: World) -> None:
    row = world.create()
    world.claim(row.task_id)
    world.update(row.task_id, committing=True)
    with pytest.raises(FailedPrecondition, match="can no longer be cancelled"):
        world.engine.cancel(row.task_id)
    assert world.row(row.task_id).state == TaskState.RUNNING


def test_cancel_of_a_task_between_two_attempts_is_carried_out_by_a_worker(world: World) -> None:
    row = world.create()
    run = world.claim(row.task_id)
    assert run is not None
    run.hand_back()
    assert world.dispatcher.queue == []
    assert world.engine.cancel(row.task_id).state == TaskState.CANCELLING
    assert world.execute(row.task_id) == "cancelled"
    assert world.handler.cleaned == [2]


def test_a_cancelled_task_whose_worker_dies_is_cleaned_by_the_next(world: World) -> None:
    row = world.create()
    world.claim(row.task_id)
    world.engine.cancel(row.task_id)
    world.lose_lease()
    assert world.row(row.task_id).state == TaskState.CANCELLING
    assert world.execute(row.task_id) == "cancelled"
    assert world.handler.cleaned == [2]


def test_unknown_tasks_are_not_found(world: World) -> None:
    for call in (world.engine.get, world.engine.cancel):
        with pytest.raises(NotFound):
            call(str(uuid.uuid4()))


def test_request_ids_bring_the_first_task_back(world: World) -> None:
    key = RequestKey("admin", "CreateBackup", str(uuid.uuid4()), "f" * 64)
    first = world.create(key=key)
    assert world.create(key=key).task_id == first.task_id
    assert len(world.dispatcher.queue) == 1
    assert world.engine.recall(key) == world.row(first.task_id)
    other = RequestKey("admin", "CreateBackup", key.request_id, "e" * 64)
    with pytest.raises(AlreadyExists, match="was used for another"):
        world.create(key=other)
    with pytest.raises(AlreadyExists):
        world.engine.recall(other)
    elsewhere = RequestKey("admin", "VerifyBackup", key.request_id, "e" * 64)
    assert world.create(key=elsewhere).task_id != first.task_id
    somebody = RequestKey("someone", "CreateBackup", key.request_id, "e" * 64)
    assert world.create(key=somebody).task_id != first.task_id


def test_a_create_that_fails_leaves_nothing(world: World) -> None:
    key = RequestKey("admin", "CreateBackup", str(uuid.uuid4()), "f" * 64)

    def make(_: object) -> None:
        raise FailedPrecondition("X", "no")  # type: ignore[arg-type]

    with pytest.raises(FailedPrecondition):
        world.engine.create(make, key)  # type: ignore[arg-type]
    assert world.engine.recall(key) is None


@pytest.mark.parametrize("start", list(TaskState))
@pytest.mark.parametrize("to", list(TaskState))
def test_only_moves_of_the_graph_happen(world: World, start: TaskState, to: TaskState) -> None:
    row = world.create()
    world.update(row.task_id, state=start)
    with world.database.write() as connection:
        moved = tasks.move(connection, row.task_id, to, world.clock.now())
    allowed = to in MOVES.get(start, frozenset())
    assert (moved is not None) == allowed
    assert world.row(row.task_id).state == (to if allowed else start)
    with world.database.read() as connection:
        events = tasks.events_after(connection, row.task_id, 0)
    assert [e.kind for e in events] == [EventKind.STATE] * (2 if allowed else 1)


def test_on_a_full_disk_only_what_makes_room_is_begun(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    key = RequestKey("admin", "CreateBackup", str(uuid.uuid4()), "fingerprint")
    known = world.create(key=key)

    def refuse() -> None:
        raise ResourceExhausted(Reason.DISK_FULL, "full")

    monkeypatch.setattr(world.database, "require_room", refuse)
    with pytest.raises(ResourceExhausted):
        world.create()
    with pytest.raises(ResourceExhausted):
        world.create(key=RequestKey("admin", "CreateBackup", str(uuid.uuid4()), "fingerprint"))
    assert world.create(key=key).task_id == known.task_id
    new = NewTask(TaskKind.VERIFY, "admin", {}, (), ())
    assert world.engine.create(lambda _: new, None, makes_room=True).state == TaskState.PENDING
