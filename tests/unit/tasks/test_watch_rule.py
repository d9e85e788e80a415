"""The pump and its watchers, in any interleaving: the sequence rule holds, and no STATE or WARNING is lost."""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast_server.catalog import tasks
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import END_STATES, EventKind, TaskState
from holdfast_server.core.control import Problem
from holdfast_server.errors import NotFound
from holdfast_server.tasks import watch as watch_module
from holdfast_server.tasks.run import Outcome, TaskRun
from holdfast_server.tasks.watch import Delivery, EventPump, Watch
from tests.unit.tasks.conftest import World

PATIENCE = 60.0


def pump_of(world: World, heartbeat: float = 0.001) -> EventPump:
    """A pump that turns only when the test says so."""
    return EventPump(world.database, world.engine, world.clock, heartbeat)


def turn(pump: EventPump) -> None:
    pump._pump_watched({task_id: feed for task_id, feed in pump._feeds.items() if feed.watchers})
    if pump._all.watchers:
        pump._pump_all(pump._all)


class Watcher:
    """Follows a task as far as the test lets it, and holds what comes against the rule."""

    def __init__(self, pump: EventPump, task_id: str, after: int | None) -> None:
        self.stream = pump.follow(task_id, after, Watch())
        self.cursor = after
        self.seen: list[Delivery] = []
        self.done = False

    def read(self) -> None:
        """One delivery, if the watch goes on."""
        if self.done:
            return
        delivery = next(self.stream, None)
        if delivery is None:
            self.done = True
            return
        if delivery.kind == "HEARTBEAT":
            assert delivery.sequence == self.cursor
            return
        if delivery.kind == "RESET":
            self.cursor = delivery.sequence
        else:
            again = delivery.sequence == self.cursor and delivery.payload.get("state") in END_STATES
            if not again:
                assert self.cursor is not None
                assert delivery.sequence == self.cursor + 1 + delivery.skipped
            self.cursor = delivery.sequence
        self.seen.append(delivery)

    def drain(self) -> None:
        while not self.done:
            self.read()


STEPS = st.lists(
    st.sampled_from(["progress", "progress", "progress", "burst", "warning", "pump", "read", "read", "again", "late"]),
    max_size=60,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, kept=st.integers(2, 8), small=st.booleans())
def test_any_interleaving_keeps_the_rule(empty_catalog: Path, steps: list[str], kept: int, small: bool) -> None:
    with tempfile.TemporaryDirectory() as base, pytest.MonkeyPatch.context() as patch:
        path = Path(base) / "state.sqlite"
        shutil.copyfile(empty_catalog, path)
        database = Database(f"sqlite:///{path}", busy_timeout=5.0)
        try:
            patch.setattr(tasks, "PROGRESS_KEPT", kept)
            if small:
                patch.setattr(watch_module, "_KEPT_PER_TASK", kept)
            _interleave(World(database), steps)
        finally:
            database.close()


def _interleave(world: World, steps: list[str]) -> None:
    task_id = world.create().task_id
    pump = pump_of(world)
    watchers = [Watcher(pump, task_id, 0)]
    run = world.claim(task_id)
    assert run is not None
    warnings = 0
    for step in steps:
        if step in ("progress", "burst"):
            for _ in range(1 if step == "progress" else 12):
                run.progress.advance(1)
                run.flush()
        elif step == "warning":
            warnings += 1
            run.problem(Problem(b"%d" % warnings, "READ_ERROR", "no"), source_id="one", backup_id=None)
            run.flush()
        elif step == "pump":
            turn(pump)
        elif step == "read":
            for watcher in watchers:
                watcher.read()
        elif step == "again":
            # A broken watch, resumed where it was.
            old = watchers[0]
            resumed = Watcher(pump, task_id, old.cursor)
            resumed.seen = old.seen
            old.stream.close()  # type: ignore[attr-defined]
            watchers[0] = resumed
        else:
            watchers.append(Watcher(pump, task_id, None))
    run.complete(Outcome({}, "done"))
    turn(pump)
    for watcher in watchers:
        watcher.drain()
        assert watcher.seen[-1].payload["state"] == TaskState.COMPLETED
        assert watcher.cursor == world.row(task_id).revision
    kinds = [delivery.kind for delivery in watchers[0].seen]
    assert "RESET" not in kinds
    assert kinds.count(EventKind.STATE) == 3
    assert kinds.count(EventKind.WARNING) == warnings
    sequences = [delivery.sequence for delivery in watchers[0].seen]
    assert sequences == sorted(set(sequences))
    assert not pump._feeds, "a feed without watchers is dropped"


def test_a_slow_watcher_gets_the_last_of_a_run_of_progress(world: World) -> None:
    task_id = world.create().task_id
    pump = pump_of(world)
    run = world.claim(task_id)
    assert run is not None
    watcher = Watcher(pump, task_id, 2)
    watcher.read()
    for number in range(1, 51):
        run.progress.advance(number)
        run.flush()
    turn(pump)
    watcher.read()
    (delivery,) = watcher.seen
    assert (delivery.kind, delivery.sequence, delivery.skipped) == (EventKind.PROGRESS, 52, 49)


def test_watching_nothing_fails_and_leaves_no_feed(world: World) -> None:
    pump = pump_of(world)
    with pytest.raises(NotFound):
        next(pump.follow("ghost", None, Watch()))
    assert not pump._feeds


def test_a_closed_watch_ends(world: World) -> None:
    task_id = world.create().task_id
    pump = pump_of(world, heartbeat=300.0)
    pump.start()
    watch = Watch()
    stream = pump.follow(task_id, None, watch)
    assert next(stream).kind == "RESET"
    rest: list[Delivery] = []
    thread = threading.Thread(target=lambda: rest.extend(stream))
    thread.start()
    watch.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert rest == []
    pump.stop()


def test_stopping_the_pump_ends_all_watches(world: World) -> None:
    task_id = world.create().task_id
    pump = pump_of(world, heartbeat=300.0)
    pump.start()
    streams = [pump.follow(task_id, None, Watch()), pump.follow_all(lambda _: True, Watch())]
    assert [next(stream).kind for stream in streams] == ["RESET", "RESET"]
    threads = [threading.Thread(target=list, args=(stream,)) for stream in streams]
    for thread in threads:
        thread.start()
    pump.stop()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def finish(world: World, task_id: str) -> None:
    run = world.claim(task_id)
    assert isinstance(run, TaskRun)
    run.complete(Outcome({}, "done"))


def test_a_watch_of_all_tasks_tells_no_old_history(world: World) -> None:
    old = world.create().task_id
    finish(world, old)
    world.clock.step(0.1)
    live = world.create().task_id
    pump = pump_of(world)
    stream = pump.follow_all(lambda _: True, Watch())
    first = next(stream)
    assert (first.task_id, first.kind) == (live, "RESET")
    world.clock.step(0.1)
    fresh = world.create().task_id
    finish(world, live)
    turn(pump)
    told: dict[str, list[int]] = {}
    while (delivery := next(stream)).kind != "HEARTBEAT":
        told.setdefault(delivery.task_id, []).append(delivery.sequence)
    assert told == {live: [2, 3, 4], fresh: [1]}


def test_a_watch_of_all_tasks_selects(world: World) -> None:
    pump = pump_of(world)
    stream = pump.follow_all(lambda row: "two" in row.source_ids, Watch())
    assert next(stream).kind == "HEARTBEAT"
    world.create(source_ids=["one"])
    wanted = world.create(source_ids=["one", "two"]).task_id
    turn(pump)
    assert next(stream).task_id == wanted
    assert next(stream).kind == "HEARTBEAT"
