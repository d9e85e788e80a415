"""A call's secret: sealed to the workers that live, opened by them alone, gone with the task."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from holdfast_server.catalog import schema, wallet_keys, workers
from holdfast_server.catalog.requests import RequestKey
from holdfast_server.catalog.rows import TaskKind, TaskRow, TaskState
from holdfast_server.catalog.wallet_keys import UnlockRow
from holdfast_server.errors import FailedPrecondition, Reason, Unavailable
from holdfast_server.tasks.credentials import (
    CONTENT_KEYS,
    HIDDEN,
    SECRET_SECONDS,
    WALLET_KEY,
    Binding,
    Credentials,
    WorkerKey,
    seal,
)
from holdfast_server.tasks.engine import NewTask
from holdfast_server.tasks.run import Outcome, TaskRun
from holdfast_server.wallets.envelope import KeyParameters, WalletKey
from tests.unit.tasks.conftest import LEASE, World

CANARY = "AGE-SECRET-KEY-1CANARYCANARYCANARY"
KINDS = ["passphrase", "private_key", "age_identity", "wallet_password"]
FIRST = "00000000-0000-0000-0000-000000000001"
SECOND = "00000000-0000-0000-0000-000000000002"
BINDING = Binding("task", FIRST, "", 7)
MINUTE = 60 * 1_000_000


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


@given(
    kind=st.sampled_from([*KINDS, WALLET_KEY, CONTENT_KEYS, HIDDEN]),
    secret=st.text(max_size=2000),
    expires=st.integers(0, 2**62),
)
def test_what_is_sealed_is_opened(key: WorkerKey, kind: str, secret: str, expires: int) -> None:
    binding = replace(BINDING, expires=expires)
    assert key.open(seal(kind, secret, key.public, binding), binding) == (kind, secret)


def test_only_this_task_this_worker_this_wallet_and_this_expiry_open_it(key: WorkerKey) -> None:
    sealed = seal("age_identity", CANARY, key.public, BINDING)
    assert key.open(sealed, BINDING) is not None
    for other in ({"task_id": "another"}, {"expires": 8}, {"resource": "source:wallet"}, {"owner": SECOND}):
        assert key.open(sealed, replace(BINDING, **other)) is None
    assert WorkerKey(FIRST).open(sealed, BINDING) is None
    for_another = seal("age_identity", CANARY, key.public, replace(BINDING, owner=SECOND))
    assert key.open(for_another, BINDING) is None


@given(st.data())
def test_altered_or_cut_bytes_do_not_open(key: WorkerKey, data: st.DataObject) -> None:
    sealed = seal("passphrase", "x", key.public, BINDING)
    position = data.draw(st.integers(0, len(sealed) - 1))
    flipped = bytearray(sealed)
    flipped[position] ^= data.draw(st.integers(1, 255))
    assert key.open(bytes(flipped), BINDING) is None
    assert key.open(sealed[:position], BINDING) is None
    assert key.open(sealed + b"\0", BINDING) is None


def test_sealed_bytes_tell_nothing(key: WorkerKey) -> None:
    short, long = (seal("passphrase", secret, key.public, BINDING) for secret in ("x", "x" * 100))
    assert len(short) == len(long), "the length of a passphrase shows"
    assert seal("passphrase", "x", key.public, BINDING) != short


@pytest.mark.parametrize(
    "values",
    [{kind: CANARY} for kind in KINDS]
    + [{"wallet_keys": (CANARY,)}, {"content_keys": {"r": CANARY}}, {"hidden": {"paths": [CANARY]}}],
)
def test_credentials_show_nothing_and_are_not_pickled(values: dict[str, Any]) -> None:
    one = Credentials(**values)
    order = NewTask(TaskKind.VERIFY, "admin", {}, [], [], credentials=one)
    for text in (repr(one), str(one), f"{one}", "%s %r" % (one, one), repr(order), repr([one])):  # noqa: UP031
        assert CANARY not in text
    for spread in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            spread(one)


def test_a_call_has_at_most_one_secret_and_credentials_hold_something() -> None:
    for values in (
        {},
        {"passphrase": "a", "private_key": "b"},
        {"passphrase": "a", "private_key": "", "wallet_keys": "k"},
    ):
        with pytest.raises(ValueError, match="given") as caught:
            Credentials(**values)  # type: ignore[arg-type]
        assert "a" not in caught.value.args


def test_what_was_sealed_one_by_one_is_put_together() -> None:
    keys = [(WALLET_KEY, "k1", "source:a"), (WALLET_KEY, "k2", "source:b"), (WALLET_KEY, "k1", "source:c")]
    whole = Credentials.assemble([("wallet_password", "p", ""), *keys])
    assert (whole.call_secret, whole.wallet_keys) == (("wallet_password", "p"), ("k1", "k2"))
    assert Credentials.assemble(keys[:1]).call_secret is None
    contents = [(CONTENT_KEYS, "c", "repository:source:a"), (HIDDEN, '{"paths": ["é"]}', "request")]
    whole = Credentials.assemble(contents)
    assert (whole.content_keys, whole.hidden) == ({"source:a": "c"}, {"paths": ["é"]})


# -- from the edge to the worker -----------------------------------------------------------------------------------


def _all_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_the_secret_reaches_the_work_and_lies_nowhere_in_clear(world: World, tmp_path: Path) -> None:
    found = opened(world)
    row = create(world)
    assert row.has_credentials
    assert "has_credentials" not in row.snapshot()
    assert sealed_rows(world) == [(row.task_id, FIRST)]
    lying = _all_bytes(tmp_path)
    assert row.task_id.encode() in lying, "the search finds nothing at all"
    assert CANARY.encode() not in lying
    assert world.execute(row.task_id) == "completed"
    assert found == [CANARY]
    assert sealed_rows(world) == []
    assert CANARY.encode() not in _all_bytes(tmp_path)


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


# -- keys of unlocked wallets --------------------------------------------------------------------------------------


def wallet_key(number: int) -> WalletKey:
    """A key as derived, without the time that takes."""
    return WalletKey(bytes([number]) * 32, KeyParameters(bytes(16)))


def unlock(world: World, source_id: str, key: WalletKey, seconds: int) -> int:
    """As if an edge had unlocked it; gives when it locks itself."""
    until = world.clock.now() + seconds * 1_000_000
    with world.database.write() as connection:
        wallet_keys.keep_unlock(connection, UnlockRow(source_id, key.key_id, until))
    return until


def create_with_keys(world: World, *keys: WalletKey, **secret: str) -> TaskRow:
    world.clock.step(0.001)
    credentials = Credentials(wallet_keys=tuple(key.to_text() for key in keys), **secret)  # type: ignore[arg-type]
    new = NewTask(TaskKind.BACKUP, "admin", {}, ["a", "b"], [], credentials=credentials)
    return world.engine.create(lambda _: new, None)


def expiries(world: World) -> dict[str, int]:
    s = schema.task_secrets
    with world.database.read() as connection:
        return {
            row[0].removeprefix("source:"): row[1] for row in connection.execute(sa.select(s.c.resource, s.c.expires))
        }


def keys_at_work(world: World) -> list[list[bool]]:
    """Of each task that follows: whether keys 1, 2 and 3 reached it."""
    found: list[list[bool]] = []

    def work(run: TaskRun) -> Outcome:
        found.append([run.wallet_key(wallet_key(number).key_id) is not None for number in (1, 2, 3)])
        return Outcome({}, "done")

    world.handler.work = work
    return found


def test_each_key_waits_as_long_as_its_own_wallet_is_unlocked(world: World) -> None:
    untils = {"a": unlock(world, "a", wallet_key(1), 60), "b": unlock(world, "b", wallet_key(2), 3600)}
    found = keys_at_work(world)
    both, later, last = (create_with_keys(world, wallet_key(1), wallet_key(2)) for _ in range(3))
    assert both.has_credentials
    assert expiries(world) == untils
    assert world.execute(both.task_id) == "completed"
    world.clock.step(60)
    world.engine.tick()
    assert expiries(world) == {"b": untils["b"]}
    assert world.execute(later.task_id) == "completed"
    world.clock.step(3600)
    assert world.execute(last.task_id) == "completed", "the work itself says which source it cannot do"
    assert found == [[True, True, False], [False, True, False], [False, False, False]]


def test_a_key_waits_no_longer_than_the_secret_that_came_with_it(world: World) -> None:
    until = unlock(world, "a", wallet_key(1), 3600)
    short = unlock(world, "b", wallet_key(2), 60)
    row = create_with_keys(world, wallet_key(1), wallet_key(2), wallet_password=CANARY)
    given_ = world.row(row.task_id).create_time + SECRET_SECONDS * 1_000_000
    assert given_ < until
    assert expiries(world) == {"": given_, "a": given_, "b": short}


def test_a_key_whose_wallet_is_locked_by_now_is_not_sealed(world: World) -> None:
    unlock(world, "a", wallet_key(1), 60)
    found = keys_at_work(world)
    row = create_with_keys(world, wallet_key(1), wallet_key(3))
    assert set(expiries(world)) == {"a"}
    assert world.execute(row.task_id) == "completed"
    assert found == [[True, False, False]]


def test_locking_a_wallet_takes_its_key_alone_from_tasks_that_wait(world: World) -> None:
    unlock(world, "a", wallet_key(1), 60)
    unlock(world, "b", wallet_key(2), 60)
    found = keys_at_work(world)
    row = create_with_keys(world, wallet_key(1), wallet_key(2))
    with world.database.write() as connection:
        assert wallet_keys.forget_unlock(connection, "a", world.clock.now())
        assert not wallet_keys.forget_unlock(connection, "a", world.clock.now())
    assert set(expiries(world)) == {"b"}
    assert world.execute(row.task_id) == "completed"
    assert found == [[False, True, False]]


def test_the_keyring_of_a_task_opens_with_keys_and_with_the_password(world: World) -> None:
    unlock(world, "a", wallet_key(1), 60)
    seen: list[tuple[str, list[str]]] = []

    def work(run: TaskRun) -> Outcome:
        seen.append((repr(run.keyring()), run.keyring().to_texts()))
        return Outcome({}, "done")

    world.handler.work = work
    for row in (create_with_keys(world, wallet_key(1)), create(world), world.create()):
        assert world.execute(row.task_id) == "completed"
    row = create_with_keys(world, wallet_key(1), wallet_password=CANARY)
    assert world.execute(row.task_id) == "completed"
    text = wallet_key(1).to_text()
    assert [texts for _, texts in seen] == [[text], [], [], [text, f"password {CANARY}"]]
    assert not any(text.split()[-1] in shown or CANARY in shown for shown, _ in seen)


def test_a_task_whose_keys_are_all_lost_has_no_keyring(world: World) -> None:
    unlock(world, "a", wallet_key(1), 60)
    run = world.claim(create_with_keys(world, wallet_key(1)).task_id)
    assert run is not None
    run.drop_credentials()
    assert run.wallet_key(wallet_key(1).key_id) is None
    with pytest.raises(FailedPrecondition) as caught:
        run.keyring()
    assert caught.value.reason is Reason.KEY_REQUIRED


def test_a_thousand_wallets_fit_into_a_task(world: World) -> None:
    made = [WalletKey(number.to_bytes(32, "big"), KeyParameters(bytes(16))) for number in range(1000)]
    until = world.clock.now() + MINUTE
    with world.database.write() as connection:
        for number, key in enumerate(made):
            wallet_keys.keep_unlock(connection, UnlockRow(f"w{number}", key.key_id, until))
    found: list[int] = []

    def work(run: TaskRun) -> Outcome:
        found.append(sum(run.wallet_key(key.key_id) is not None for key in made))
        return Outcome({}, "done")

    world.handler.work = work
    assert world.execute(create_with_keys(world, *made).task_id) == "completed"
    assert found == [1000]


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
