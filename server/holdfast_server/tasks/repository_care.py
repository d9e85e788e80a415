"""What a worker does for repositories beside tasks: it probes their stores, and removes what dead processes left.

Each store is probed once after the worker's start, as soon as it can be reached; what it did wrong is kept in the
catalog, and from then on the repository is refused, until a later start finds that it keeps its promises. Then the
reading runs of dead processes are ended, at most a minute after their deaths, and once a day unfinished files removed
that are a day old, and a copy of the config is kept. Nothing of it delays a task, and a store that does not answer
holds up nobody else.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from holdfast_server.catalog import repositories
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import RepositoryRow
from holdfast_server.clock import Clock
from holdfast_server.core.kept_place import keep_config
from holdfast_server.core.repository_place import OpenRepository, RepositoryPlace, open_place
from holdfast_server.errors import FailedPrecondition, HoldfastError, Reason
from holdfast_server.repository import end_dead_runs, end_reading_run
from holdfast_server.storage.descent import DIRECTORY_FLAGS
from holdfast_server.storage.objects import probe, remove_probes
from holdfast_server.tasks.repositories import repository_place

__all__ = ["RepositoryCare"]

_log = logging.getLogger(__name__)

#: How old an unfinished file is when nobody can be writing it any more, and how often such are looked for.
_UNFINISHED_SECONDS = 86_400.0
_MOST = 100_000


@dataclass(slots=True)
class _Tended:
    """What was done for a repository in this process."""

    probed: bool = False
    refused: bool = False
    clean_at: float = 0.0
    failure: str = ""
    thread: threading.Thread | None = None


class RepositoryCare:
    """The care of one worker process."""

    def __init__(self, database: Database, clock: Clock, data_dir: bytes) -> None:
        self._database = database
        self._data_dir = data_dir
        self._start = clock.now()
        self._tended: dict[str, _Tended] = {}

    def start_round(self) -> None:
        """Tend to each repository on a thread of its own, but for those whose last one is still at it. To be called
        again and again, by one thread. Raises Unavailable/CATALOG_BUSY."""
        with self._database.read() as connection:
            rows = repositories.list_repositories(connection, limit=_MOST)
        for row in rows:
            tended = self._state(row)
            if tended.thread is None or not tended.thread.is_alive():
                tended.thread = threading.Thread(target=self.tend, args=(row,), name="repository-care", daemon=True)
                tended.thread.start()

    def tend(self, row: RepositoryRow) -> None:
        """Do for a repository what is due. Never raises: what fails is logged once, and done next time."""
        tended = self._state(row)
        place = repository_place(row, self._data_dir, trusted=True)
        try:
            with _alone(place) as alone:
                if alone:
                    self._tend(row, place, tended)
            tended.failure = ""
        except (HoldfastError, OSError) as error:
            if str(error) != tended.failure:
                _log.warning("repository %s cannot be looked after: %s", row.repository_id, error)
            tended.failure = str(error)
        except Exception:  # noqa: BLE001  nobody else would see it
            _log.exception("looking after repository %s failed", row.repository_id)

    def _state(self, row: RepositoryRow) -> _Tended:
        # A creation has probed its store itself.
        return self._tended.setdefault(row.repository_id, _Tended(probed=row.create_time > self._start))

    def _tend(self, row: RepositoryRow, place: RepositoryPlace, tended: _Tended) -> None:
        if not tended.probed:
            with open_place(place) as opened:
                problem = _probe(opened)
            self._keep(row, problem)
            tended.probed, tended.refused = True, problem is not None
        if tended.refused:
            return
        end_dead_runs(place.marks, partial(_end_run, place))
        if time.monotonic() >= tended.clean_at:
            with open_place(place) as opened:
                opened.store.clean(_UNFINISHED_SECONDS)
                opened.store.keep_reserve()
                keep_config(opened)
            tended.clean_at = time.monotonic() + _UNFINISHED_SECONDS

    def _keep(self, row: RepositoryRow, problem: str | None) -> None:
        if problem is not None:
            _log.error("repository %s is refused: its store broke a promise: %s", row.repository_id, problem)
        if problem == row.store_problem:
            return
        with self._database.write() as connection:
            repositories.update_repository(connection, row.repository_id, store_problem=problem)


@contextmanager
def _alone(place: RepositoryPlace) -> Iterator[bool]:
    """Whether no other worker tends to the repository at the moment; none does until this is left."""
    folder = os.open(place.keys_folder, DIRECTORY_FLAGS)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(folder)


def _probe(opened: OpenRepository) -> str | None:
    """What the store does wrong; None when it does as it must. Raises what else went wrong with it."""
    owner = opened.keys.writer.writer_id.hex()
    try:
        # Without another worker at it, whatever bears our name is dead; and all creations of this one are over.
        for name in (owner, ""):
            remove_probes(opened.store, name)
        probe(opened.store, owner)
    except FailedPrecondition as error:
        if error.reason is not Reason.STORE_UNSUITABLE:
            raise
        return error.metadata.get("problem") or error.message
    return None


def _end_run(place: RepositoryPlace, run_id: str) -> None:
    with open_place(place) as opened:
        end_reading_run(opened.store, run_id)
    _log.info("ended run %s of a dead process in repository %s", run_id, place.repository_id)
