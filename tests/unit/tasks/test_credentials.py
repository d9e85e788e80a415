"""A call's secret: sealed to the workers that live, opened by them alone, gone with the task."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from holdfast_server.catalog import schema, workers
from holdfast_server.catalog.requests import RequestKey
from holdfast_server.catalog.rows import TaskKind, TaskRow, TaskState
from holdfast_server.errors import FailedPrecondition, Reason, Unavailable
from holdfast_server.tasks.credentials import SECRET_SECONDS, Credentials, WorkerKey, seal
from holdfast_server.tasks.engine import NewTask
from holdfast_server.tasks.run import Outcome, TaskRun
from tests.unit.tasks.conftest import LEASE, World

CANARY = "AGE-SECRET-KEY-1CANARYCANARYCANARY"
KINDS = [field.name for field in fields(Credentials)]
FIRST = "00000000-0000-0000-0000-000000000001"
SECOND = "00000000-0000-0000-0000-000000000002"


@pytest.fixture(scope="module")
def key() -> WorkerKey:
    return WorkerKey(FIRST)


def create(world: World, key: RequestKey | None = None, secret: str = CANARY) -> TaskRow:
    world.clock.step(0.001)
    new = NewTask(TaskKind.VERIFY, "admin", {}, ["one"], [], credentials=Credentials(age_identity=secret))
    return world.engine.create(lambda _: new, key)


def sealed_rows(world: World) -> list[tuple[str, str]]:
    s = schema.task_secrets
    with world.database.read() as connection:
        query = sa.select(s.c.task_id, s.c.owner).order_by(s.c.task_id, s.c.owner)
        return [(row[0], row[1]) for row in connection.execute(query)]


def change(world: World, statement: sa.Update | sa.Delete) -> None:
    with world.database.write() as connection:
        assert connection.execute(statement).rowcount


def opened(world: World) -> list[str | None]:
    """What the work of the tasks that follow was given."""
    found: list[str | None] = []

    def work(run: TaskRun) -> Outcome:
        credentials = run.credentials()
        found.append(None if credentials is None else credentials.age_identity)
        return Outcome({}, "done")

    world.handler.work = work
    return found


def assert_key_required(row: TaskRow) -> None:
    assert row.state == TaskState.FAILED
    assert row.error is not None
    assert (row.error["type"], row.error["reason"]) == ("FailedPrecondition", "KEY_REQUIRED")
    assert CANARY not in str(row.error)


# -- sealed and opened ---------------------------------------------------------------------------------------------


@given(kind=st.sampled_from(KINDS), secret=st.text(max_size=2000), expires=st.integers(0, 2**62))
def test_what_is_sealed_is_opened(key: WorkerKey, kind: str, secret: str, expires: int) -> None:
    given_ = Credentials(**{kind: secret})
    assert key.open(seal(given_, key.public, "task", FIRST, expires), "task", expires) == given_


def test_only_this_task_this_worker_and_this_expiry_open_it(key: WorkerKey) -> None:
    sealed = seal(Credentials(age_identity=CANARY), key.public, "task", FIRST, 7)
    assert key.open(sealed, "task", 7) is not None
    assert key.open(sealed, "another", 7) is None
    assert key.open(sealed, "task", 8) is None
    assert WorkerKey(FIRST).open(sealed, "task", 7) is None
    for_another = seal(Credentials(age_identity=CANARY), key.public, "task", SECOND, 7)
    assert key.open(for_another, "task", 7) is None


@given(st.data())
def test_altered_or_cut_bytes_do_not_open(key: WorkerKey, data: st.DataObject) -> None:
    sealed = seal(Credentials(passphrase="x"), key.public, "task", FIRST, 7)
    position = data.draw(st.integers(0, len(sealed) - 1))
    flipped = bytearray(sealed)
    flipped[position] ^= data.draw(st.integers(1, 255))
    assert key.open(bytes(flipped), "task", 7) is None
    assert key.open(sealed[:position], "task", 7) is None
    assert key.open(sealed + b"\0", "task", 7) is None


def test_sealed_bytes_tell_nothing(key: WorkerKey) -> None:
    short, long = (seal(Credentials(passphrase=s), key.public, "task", FIRST, 7) for s in ("x", "x" * 100))
    assert len(short) == len(long), "the length of a passphrase shows"
    assert seal(Credentials(passphrase="x"), key.public, "task", FIRST, 7) != short


@pytest.mark.parametrize("kind", KINDS)
def test_credentials_show_nothing_and_are_not_pickled(kind: str) -> None:
    one = Credentials(**{kind: CANARY})
    order = NewTask(TaskKind.VERIFY, "admin", {}, [], [], credentials=one)
    for text in (repr(one), str(one), f"{one}", "%s %r" % (one, one), repr(order), repr([one])):  # noqa: UP031
        assert CANARY not in text
    for spread in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            spread(one)


def test_there_is_exactly_one_secret() -> None:
    for values in ({}, {"passphrase": "a", "private_key": "b"}):
        with pytest.raises(ValueError, match="exactly one") as caught:
            Credentials(**values)
        assert "a" not in caught.value.args


# -- from the edge to the worker -----------------------------------------------------------------------------------


def test_the_secret_reaches_the_work_and_lies_nowhere_in_clear(world: World, tmp_path: Path) -> None:
    found = opened(world)
    row = create(world)
    assert row.has_credentials
    assert "has_credentials" not in row.snapshot()
    assert sealed_rows(world) == [(row.task_id, FIRST)]
    lying = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert row.task_id.encode() in lying, "the search finds nothing at all"
    assert CANARY.encode() not in lying
    assert world.execute(row.task_id) == "completed"
    assert found == [CANARY]
    assert sealed_rows(world) == []
    assert CANARY.encode() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_a_call_without_credentials_gives_none(world: World) -> None:
    found = opened(world)
    row = world.create()
    assert not row.has_credentials
    assert world.execute(row.task_id) == "completed"
    assert found == [None]


def _complete(world: World, row: TaskRow) -> None:
    assert world.execute(row.task_id) == "completed"


def _fail(world: World, row: TaskRow) -> None:
    def work(run: TaskRun) -> Outcome:
        raise RuntimeError(run.task_id)

    world.handler.work = work
    assert world.execute(row.task_id) == "failed"


def _cancel_waiting(world: World, row: TaskRow) -> None:
    assert world.engine.cancel(row.task_id).state == TaskState.CANCELLED


def _cancel_running(world: World, row: TaskRow) -> None:
    run = world.claim(row.task_id)
    assert run is not None
    world.engine.cancel(row.task_id)
    assert run.end_cancelled(world.handler) is not None


@pytest.mark.parametrize("end", [_complete, _fail, _cancel_waiting, _cancel_running])
def test_every_end_of_a_task_forgets_its_secret_alone(world: World, end: Callable[[World, TaskRow], None]) -> None:
    other = create(world)
    row = create(world)
    end(world, row)
    assert world.row(row.task_id).ended
    assert sealed_rows(world) == [(other.task_id, FIRST)]


def test_nothing_refers_to_the_secret_once_the_attempt_is_over(world: World) -> None:
    seen: list[weakref.ref[Credentials]] = []
    runs: list[TaskRun] = []

    def work(run: TaskRun) -> Outcome:
        credentials = run.credentials()
        assert credentials is not None
        seen.append(weakref.ref(credentials))
        runs.append(run)
        raise FailedPrecondition(Reason.ARCHIVE_INVALID, "its traceback holds this frame")

    world.handler.work = work
    assert world.execute(create(world).task_id) == "failed"
    gc.collect()
    assert [ref() for ref in seen] == [None]


def test_every_live_worker_may_run_the_task(world: World) -> None:
    second = world.new_worker(SECOND)
    found = opened(world)
    row = create(world)
    assert sealed_rows(world) == [(row.task_id, FIRST), (row.task_id, SECOND)]
    assert world.execute(row.task_id, worker=second) == "completed"
    assert found == [CANARY]
    assert sealed_rows(world) == []


def test_a_live_worker_takes_over_with_the_key_and_a_later_one_ends_the_task(world: World) -> None:
    second = world.new_worker(SECOND)
    found = opened(world)
    taken_over, lost = create(world), create(world)
    for row in (taken_over, lost):
        assert world.claim(row.task_id) is not None
    world.lose_lease()
    assert world.execute(taken_over.task_id, worker=second) == "completed"
    world.engine.tick()
    later = world.new_worker("00000000-0000-0000-0000-000000000003")
    assert world.execute(lost.task_id, worker=later) == "failed"
    assert found == [CANARY]
    assert_key_required(world.row(lost.task_id))


def test_a_secret_waits_fifteen_minutes_for_its_task_to_start(world: World) -> None:
    found = opened(world)
    early, late = create(world), create(world)
    world.clock.step(SECRET_SECONDS - 1)
    assert world.execute(early.task_id) == "completed"
    world.clock.step(1)
    assert world.execute(late.task_id) == "failed"
    assert found == [CANARY]
    assert_key_required(world.row(late.task_id))


def test_a_started_attempt_keeps_the_secret_past_its_expiry(world: World) -> None:
    run = world.claim(create(world).task_id)
    assert run is not None
    world.clock.step(SECRET_SECONDS + 1)
    world.engine.tick()
    assert sealed_rows(world) == [], "the tick forgets what has expired"
    credentials = run.credentials()
    assert credentials is not None
    assert credentials.age_identity == CANARY
    run.drop_credentials()
    with pytest.raises(FailedPrecondition) as caught:
        run.credentials()
    assert caught.value.reason is Reason.KEY_REQUIRED


def test_rows_that_were_moved_or_altered_end_their_task(world: World) -> None:
    found = opened(world)
    world.new_worker(SECOND)
    s = schema.task_secrets

    moved_from, moved_to = create(world), create(world, secret="another")
    change(world, s.delete().where(s.c.task_id == moved_to.task_id))
    change(world, s.update().where(s.c.task_id == moved_from.task_id).values(task_id=moved_to.task_id))
    prolonged = create(world)
    change(world, s.update().where(s.c.task_id == prolonged.task_id).values(expires=s.c.expires + 1))
    swapped = create(world)
    change(world, s.delete().where(s.c.task_id == swapped.task_id, s.c.owner == FIRST))
    change(world, s.update().where(s.c.task_id == swapped.task_id).values(owner=FIRST))
    for row in (moved_from, moved_to, prolonged, swapped):
        assert world.execute(row.task_id) == "failed"
        assert_key_required(world.row(row.task_id))
    assert found == []


# -- workers that live, and workers that do not --------------------------------------------------------------------


def test_without_a_live_worker_nothing_is_accepted_and_a_repeat_finds_what_was(world: World) -> None:
    known, fresh = (RequestKey("admin", "VerifyBackup", str(n) * 36, "f" * 64) for n in (1, 2))
    row = create(world, key=known)
    world.clock.step(LEASE + 1)
    with pytest.raises(Unavailable) as caught:
        create(world, key=fresh)
    assert caught.value.reason is Reason.NO_WORKER
    assert caught.value.retry_after
    assert world.engine.recall(fresh) is None
    assert create(world, key=known).task_id == row.task_id
    assert world.create().task_id, "calls without a secret wait for a worker as ever"


def test_a_worker_without_a_key_is_given_nothing(world: World) -> None:
    with world.database.write() as connection:
        workers.register_worker(connection, SECOND, "here", 2, world.clock.now(), None)
    row = create(world)
    assert sealed_rows(world) == [(row.task_id, FIRST)]


def test_a_heartbeat_brings_a_forgotten_worker_back(world: World) -> None:
    change(world, schema.workers.delete())
    with pytest.raises(Unavailable):
        create(world)
    world.worker._renew([])
    found = opened(world)
    assert world.execute(create(world).task_id) == "completed"
    assert found == [CANARY]


def test_what_was_sealed_to_a_forgotten_worker_goes_with_it(world: World) -> None:
    s, w = schema.task_secrets, schema.workers
    world.new_worker(SECOND)
    row = create(world)
    replacement = world.new_worker("00000000-0000-0000-0000-000000000003")
    change(world, w.delete().where(w.c.owner == "00000000-0000-0000-0000-000000000003"))
    replacement.start(dead_owners=[FIRST])
    replacement.drain(0)
    assert sealed_rows(world) == [(row.task_id, SECOND)]
    with world.database.read() as connection:
        assert set(workers.live_keys(connection, 0)) == {SECOND, "00000000-0000-0000-0000-000000000003"}
    change(world, s.update().values(expires=2**62))
    world.clock.step(86_400 + 1)
    world.housekeeper.run()
    assert sealed_rows(world) == []
