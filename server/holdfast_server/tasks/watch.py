"""Watching tasks: one pump asks the catalog for what changed, any number of watchers follow it by sequence.

The pump asks for the revisions of watched tasks only and fans their events out in memory. A watcher holds nothing but
a cursor, so a slow one costs no memory: what it missed it reads from the journal, and runs of PROGRESS collapse into
the last of them, counted in `skipped`. The rule that every watcher may rely on: `sequence == previous + 1 + skipped`,
but for RESET and HEARTBEAT, and for an end state that is repeated because it was asked for again.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from holdfast_server.catalog import tasks
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import END_STATES, EventKind, EventRow, TaskRow
from holdfast_server.clock import Clock
from holdfast_server.errors import Unavailable
from holdfast_server.tasks.engine import TaskEngine

__all__ = ["Delivery", "EventPump", "Watch"]

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_KEPT_PER_TASK = 256
_KEPT_FOR_ALL = 4096
#: Microseconds by which changes are looked for again: `update_time` is stamped before its transaction commits.
_MARGIN = 1_000_000


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message of a watch: an event, RESET (with the whole task), or HEARTBEAT (nothing but the last sequence)."""

    task_id: str
    kind: str
    sequence: int
    time: int
    payload: dict[str, Any]
    skipped: int = 0


@dataclass(slots=True)
class _Feed:
    """Recent events of one watched task. `base`: cursors from here on are covered by `events`."""

    base: int
    revision: int
    events: deque[EventRow] = field(default_factory=deque)
    changed: threading.Condition = field(default_factory=threading.Condition)
    watchers: int = 0

    def append(self, rows: list[EventRow]) -> None:
        with self.changed:
            for row in rows:
                self.events.append(row)
                self.revision = row.sequence
            while len(self.events) > _KEPT_PER_TASK:
                self.base = self.events.popleft().sequence
            self.changed.notify_all()


@dataclass(slots=True)
class _AllFeed:
    """Recent events of every task, numbered by arrival, for watchers of all tasks."""

    arrivals: deque[EventRow] = field(default_factory=deque)
    first: int = 0
    known: dict[str, int] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)
    watchers: int = 0

    def append(self, rows: list[EventRow]) -> None:
        with self.changed:
            self.arrivals.extend(rows)
            while len(self.arrivals) > _KEPT_FOR_ALL:
                self.arrivals.popleft()
                self.first += 1
            self.changed.notify_all()


class Watch:
    """A watcher's own switch: `close` ends its iteration from any thread."""

    def __init__(self) -> None:
        self.closed = False
        self._conditions: list[threading.Condition] = []

    def attach(self, condition: threading.Condition) -> None:
        self._conditions.append(condition)

    def close(self) -> None:
        self.closed = True
        for condition in self._conditions:
            with condition:
                condition.notify_all()


class EventPump:
    """Fans events out to watchers. Start it once per edge; `stop` ends all watches."""

    def __init__(self, database: Database, engine: TaskEngine, clock: Clock, heartbeat_seconds: float) -> None:
        self._database = database
        self._engine = engine
        self._clock = clock
        self._heartbeat = heartbeat_seconds
        self._feeds: dict[str, _Feed] = {}
        self._all = _AllFeed()
        self._guard = threading.Lock()
        self._wake = threading.Event()
        self._stopped = False
        self._changed_from = 0
        self._thread = threading.Thread(target=self._pump, name="event-pump", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped = True
        self._wake.set()
        for condition in [*(feed.changed for feed in self._feeds.values()), self._all.changed]:
            with condition:
                condition.notify_all()

    @property
    def stopped(self) -> bool:
        return self._stopped

    def follow(self, task_id: str, after: int | None, watch: Watch) -> Iterator[Delivery]:
        """Events of one task from `after` on, to its end state. Raises NotFound/TASK_NOT_FOUND at once.

        Unset `after`, or one from the future: first RESET with the whole task.
        """
        with self._feed(task_id) as feed:
            watch.attach(feed.changed)
            row = self._engine.get(task_id)
            cursor = after if after is not None and after <= row.revision else -1
            if cursor < 0:
                cursor = row.revision
                yield self._whole(row, "RESET")
            if row.ended and cursor >= row.revision:
                yield self._whole(row, EventKind.STATE)
                return
            while not (self._stopped or watch.closed):
                batch = self._next_events(feed, task_id, cursor, watch)
                if not batch:
                    if not (self._stopped or watch.closed):
                        yield Delivery(task_id, "HEARTBEAT", cursor, self._clock.now(), {})
                    continue
                for event in _coalesced(batch):
                    yield _delivery(event, cursor)
                    cursor = event.sequence
                    if event.kind == EventKind.STATE and event.payload["state"] in END_STATES:
                        return

    def follow_all(self, wanted: Callable[[TaskRow], bool], watch: Watch) -> Iterator[Delivery]:
        """RESET for every live task, then every event of every task that `wanted` selects, until closed.

        A watcher that falls too far behind gets RESETs again.
        """
        with self._everything() as feed:
            watch.attach(feed.changed)
            selected: dict[str, bool] = {}
            cursors: dict[str, int] = {}
            arrival = -1
            while not (self._stopped or watch.closed):
                if arrival < feed.first:
                    with feed.changed:
                        arrival = feed.first + len(feed.arrivals)
                    for row in self._live(wanted):
                        selected[row.task_id], cursors[row.task_id] = True, row.revision
                        yield self._whole(row, "RESET")
                batch = self._next_arrivals(feed, arrival, watch)
                if batch is None:
                    if not (self._stopped or watch.closed):
                        yield Delivery("", "HEARTBEAT", 0, self._clock.now(), {})
                    continue
                arrival += len(batch)
                yield from self._selected(batch, wanted, selected, cursors)

    def _selected(
        self,
        batch: list[EventRow],
        wanted: Callable[[TaskRow], bool],
        selected: dict[str, bool],
        cursors: dict[str, int],
    ) -> Iterator[Delivery]:
        for event in batch:
            if event.task_id not in selected:
                with self._database.read() as connection:
                    row = tasks.get_task(connection, event.task_id)
                selected[event.task_id] = row is not None and wanted(row)
            cursor = cursors.get(event.task_id, event.sequence - 1)
            if not selected[event.task_id] or event.sequence <= cursor:
                continue
            yield _delivery(event, cursor)
            cursors[event.task_id] = event.sequence
            if event.kind == EventKind.STATE and event.payload["state"] in END_STATES:
                selected.pop(event.task_id)
                cursors.pop(event.task_id)

    def _live(self, wanted: Callable[[TaskRow], bool]) -> list[TaskRow]:
        with self._database.read() as connection:
            return [row for row in tasks.live_tasks(connection, tasks.TaskFilter()) if wanted(row)]

    def _whole(self, row: TaskRow, kind: str) -> Delivery:
        return Delivery(row.task_id, kind, row.revision, row.update_time, row.snapshot())

    def _next_events(self, feed: _Feed, task_id: str, cursor: int, watch: Watch) -> list[EventRow]:
        with feed.changed:
            if feed.revision <= cursor:
                feed.changed.wait_for(lambda: feed.revision > cursor or watch.closed or self._stopped, self._heartbeat)
            if feed.revision <= cursor:
                return []
            if feed.base <= cursor:
                return [event for event in feed.events if event.sequence > cursor]
        with self._database.read() as connection:
            return tasks.events_after(connection, task_id, cursor)

    def _next_arrivals(self, feed: _AllFeed, arrival: int, watch: Watch) -> list[EventRow] | None:
        with feed.changed:
            feed.changed.wait_for(
                lambda: feed.first + len(feed.arrivals) > arrival or watch.closed or self._stopped, self._heartbeat
            )
            if arrival < feed.first:
                return []
            batch = list(feed.arrivals)[arrival - feed.first :]
            return batch or None

    @contextmanager
    def _feed(self, task_id: str) -> Iterator[_Feed]:
        with self._guard:
            feed = self._feeds.get(task_id)
            if feed is None:
                with self._database.read() as connection:
                    revision = tasks.revisions(connection, [task_id]).get(task_id, 0)
                feed = self._feeds[task_id] = _Feed(base=revision, revision=revision)
            feed.watchers += 1
        self._wake.set()
        try:
            yield feed
        finally:
            with self._guard:
                feed.watchers -= 1
                if feed.watchers == 0:
                    self._feeds.pop(task_id, None)

    @contextmanager
    def _everything(self) -> Iterator[_AllFeed]:
        with self._guard:
            if self._all.watchers == 0:
                self._changed_from = self._clock.now()
                with self._database.read() as connection:
                    live = tasks.live_tasks(connection, tasks.TaskFilter())
                    # What ended a moment ago is looked at again by the margin below, and is no news.
                    recent = tasks.changed_since(connection, self._changed_from - 10 * _MARGIN)
                self._all.known = {row.task_id: row.revision for row in live} | dict(recent)
            self._all.watchers += 1
        self._wake.set()
        try:
            yield self._all
        finally:
            with self._guard:
                self._all.watchers -= 1

    def _pump(self) -> None:
        while not self._stopped:
            with self._guard:
                watched = {task_id: feed for task_id, feed in self._feeds.items() if feed.watchers}
                everything = self._all if self._all.watchers else None
            if not watched and everything is None:
                self._wake.wait(1.0)
                self._wake.clear()
                continue
            try:
                self._pump_watched(watched)
                if everything is not None:
                    self._pump_all(everything)
            except Unavailable:
                pass
            except Exception:  # noqa: BLE001  logged, and the loop goes on
                _log.exception("the event pump's round failed")
            self._wake.wait(_POLL_SECONDS)
            if not self._stopped:
                self._wake.clear()

    def _pump_watched(self, watched: dict[str, _Feed]) -> None:
        if not watched:
            return
        with self._database.read() as connection:
            present = tasks.revisions(connection, watched.keys())
            fresh = {
                task_id: tasks.events_after(connection, task_id, feed.revision)
                for task_id, feed in watched.items()
                if present.get(task_id, 0) > feed.revision
            }
        for task_id, rows in fresh.items():
            watched[task_id].append(rows)

    def _pump_all(self, feed: _AllFeed) -> None:
        since = self._changed_from - _MARGIN
        now = self._clock.now()
        rows: list[EventRow] = []
        with self._database.read() as connection:
            for task_id, revision in tasks.changed_since(connection, since):
                known = feed.known.get(task_id, 0)
                if revision > known:
                    fresh = tasks.events_after(connection, task_id, known)
                    feed.known[task_id] = fresh[-1].sequence if fresh else revision
                    rows += fresh
        self._changed_from = now
        if rows:
            feed.append(rows)


def _coalesced(events: Collection[EventRow]) -> Iterator[EventRow]:
    """The events, but of neighbouring PROGRESS only the last."""
    held: EventRow | None = None
    for event in events:
        if held is not None and event.kind != EventKind.PROGRESS:
            yield held
            held = None
        if event.kind == EventKind.PROGRESS:
            held = event
        else:
            yield event
    if held is not None:
        yield held


def _delivery(event: EventRow, cursor: int) -> Delivery:
    return Delivery(event.task_id, event.kind, event.sequence, event.time, event.payload, event.sequence - cursor - 1)
