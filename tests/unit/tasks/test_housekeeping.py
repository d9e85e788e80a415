"""What the catalog forgets, and what it must not."""

from __future__ import annotations

import uuid

import sqlalchemy as sa

from holdfast_server.catalog import schema, tasks
from holdfast_server.catalog.requests import RequestKey
from holdfast_server.catalog.rows import EventKind
from holdfast_server.core.control import Problem
from holdfast_server.tasks.run import Outcome, TaskRun
from tests.unit.tasks.conftest import World

DAY = 86_400.0


def count(world: World, table: sa.Table, task_id: str) -> int:
    with world.database.read() as connection:
        query = sa.select(sa.func.count()).select_from(table).where(table.c.task_id == task_id)
        return int(connection.execute(query).scalar_one())


def run_one(world: World) -> str:
    def work(run: TaskRun) -> Outcome:
        for _ in range(3):
            run.progress.advance(10)
            run.flush()
        run.problem(Problem(b"x", "READ_ERROR", "no"), source_id="one", backup_id=None)
        return Outcome({}, "done")

    world.handler.work = work
    task_id = world.create().task_id
    assert world.execute(task_id) == "completed"
    return task_id


def test_ended_tasks_are_forgotten_after_their_days_and_live_ones_never(world: World) -> None:
    old = run_one(world)
    live = world.create().task_id
    world.clock.step(89 * DAY)
    young = run_one(world)
    world.housekeeper.run()
    assert world.engine.get(old).ended
    world.clock.step(1 * DAY + 1)
    world.housekeeper.run()
    tables = (schema.tasks, schema.task_events, schema.task_log, schema.problems, schema.task_sources)
    assert [count(world, table, old) for table in tables] == [0] * 5
    assert all(count(world, table, young) for table in tables)
    assert world.engine.get(live).task_id == live


def test_progress_of_ended_tasks_goes_after_a_day_and_the_rest_stays_watchable(world: World) -> None:
    task_id = run_one(world)
    world.clock.step(DAY + 1)
    world.housekeeper.run()
    with world.database.read() as connection:
        kinds = [event.kind for event in tasks.events_after(connection, task_id, 0)]
    assert EventKind.PROGRESS not in kinds
    assert kinds.count(EventKind.STATE) == 3
    assert kinds.count(EventKind.WARNING) == 1


def test_request_ids_are_kept_for_seven_days(world: World) -> None:
    key = RequestKey("admin", "CreateBackup", str(uuid.uuid4()), "f" * 64)
    world.create(key=key)
    world.clock.step(6.9 * DAY)
    world.housekeeper.run()
    assert world.engine.recall(key) is not None
    world.clock.step(0.2 * DAY)
    world.housekeeper.run()
    assert world.engine.recall(key) is None


def test_the_queue_keeps_what_is_live(world: World) -> None:
    run_one(world)
    live = world.create().task_id
    world.housekeeper.run()
    ((_, kept),) = world.dispatcher.forgotten
    assert kept == {(live, 1)}


def test_housekeeping_twice_is_no_different(world: World) -> None:
    run_one(world)
    world.clock.step(200 * DAY)
    world.housekeeper.run()
    world.housekeeper.run()
    with world.database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(schema.tasks)).scalar_one() == 0
