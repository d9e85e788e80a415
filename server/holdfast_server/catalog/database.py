"""The catalog's database: one engine, short transactions, and migrations under a file lock.

SQLite lives in `state.sqlite` in the data directory, in WAL mode, shared with DBOS's tables. A write transaction begins
IMMEDIATE, so that it waits for its turn at the start and never fails in the middle.

Space for it is kept beside it, and given back a megabyte at a time when the disk is full: leases are renewed, tasks end
and backups are deleted all the same.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from holdfast_server.errors import Reason, ResourceExhausted, Unavailable
from holdfast_server.storage.reserve import Reserve

__all__ = ["HEAD", "Database"]

_log = logging.getLogger(__name__)

#: The newest migration; `prepare` runs alembic only when the database says another.
HEAD = "0008"

#: The reserve's folder, beside the catalog, and what it consists of.
_RESERVE = b"reserve"
_RESERVE_FILES, _RESERVE_SHARE = 8, 1 << 20
#: With less than this free a write begins by giving back a part of the reserve. Half of it goes so at once, which is as
#: much as SQLite's log takes before its place is used again; the rest not more often than this, as long as no write
#: fails: somebody else may be filling the disk.
_LITTLE = 512 << 10
_RELEASE_SECONDS = 60.0


class Database:
    """Connections to the catalog. Thread-safe; one per process.

    `busy_timeout` (seconds) is how long a writer waits for its turn: short in the edge, which then answers
    CATALOG_BUSY, long in a worker, which has nobody waiting. On a full disk writes raise ResourceExhausted/DISK_FULL
    once the reserve is used up; a quota may refuse single ones before.
    """

    def __init__(self, url: str, *, busy_timeout: float) -> None:
        self.url = url
        self.engine = sa.create_engine(url, pool_size=8, max_overflow=56, pool_timeout=max(busy_timeout, 1.0))
        self._reserve: Reserve | None = None
        self._release_at = 0.0
        if self.engine.dialect.name == "sqlite":
            _configure_sqlite(self.engine, busy_timeout)
            if self._file is not None:
                folder = os.path.dirname(os.path.abspath(self._file))
                self._reserve = Reserve(os.path.join(os.fsencode(folder), _RESERVE), _RESERVE_FILES, _RESERVE_SHARE)

    @property
    def _file(self) -> str | None:
        path = self.engine.url.database
        return path if path and path != ":memory:" else None

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the catalog. Raises Unavailable/CATALOG_BUSY."""
        with self._translated(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sa.Connection]:
        """A transaction that may write; committed at the end, undone on any exception.

        `durable` False is for progress: a power cut may lose the last of them, and no commit waits for the disk.
        """
        options = {"holdfast_write": True, "holdfast_durable": durable}
        self.make_room()
        with (
            self._translated(),
            self.engine.connect().execution_options(**options) as connection,
            connection.begin(),
        ):
            yield connection

    def prepare(self, lock_file: Path, migrate_queue: Callable[[str], None]) -> None:
        """Bring our tables and the queue's up to date, once for all processes (`lock_file` is held meanwhile)."""
        self.make_room()
        self.keep_reserve()
        with lock_file.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._version() != HEAD:
                migrate_queue(self.url)
                _migrate(self.engine)

    def _version(self) -> str | None:
        with self.engine.connect() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            version: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
            return version

    def keep_reserve(self) -> None:
        """Set space aside for a full disk, as far as there is room and it is not yet."""
        if self._reserve is not None:
            self._reserve.keep()

    def make_room(self) -> None:
        """Give back a part of the reserve if a write would fail without it: one of ours, or one of the queue's."""
        reserve = self._reserve
        if reserve is None or not reserve.is_short(_LITTLE):
            return
        if time.monotonic() >= self._release_at or reserve.left > reserve.size // 2:
            self._release(reserve)

    def require_room(self) -> None:
        """For what can wait until there is room. Raises ResourceExhausted/DISK_FULL when the disk has less space free
        than the reserve is large, or the reserve is not whole and cannot be made so."""
        if self._reserve is not None and (
            self._reserve.is_short(self._reserve.size) or not self._reserve.keep(wait=True)
        ):
            size = self._reserve.size >> 20
            raise self._disk_full(f"a new task needs {size} MiB free there, and as much for the service's reserve")

    def _release(self, reserve: Reserve) -> None:
        freed = reserve.release(1)
        if freed or time.monotonic() >= self._release_at:
            _log.warning("the disk of %s is full: gave back %d bytes of its reserve", self._file, freed)
        self._release_at = time.monotonic() + _RELEASE_SECONDS

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.OperationalError as error:
            if self._is_full(error):
                assert self._reserve is not None
                self._release(self._reserve)
                raise self._disk_full(str(error.orig)) from error
            text = str(error.orig)
            if "locked" in text or "busy" in text:
                raise Unavailable(
                    Reason.CATALOG_BUSY, "the catalog is busy with another writer", retry_after=0.5
                ) from error
            raise
        except sa.exc.TimeoutError as error:
            raise Unavailable(
                Reason.CATALOG_BUSY, "all connections to the catalog are in use", retry_after=0.5
            ) from error

    def _is_full(self, error: sa.exc.OperationalError) -> bool:
        if self._reserve is None:
            return False
        code: int = getattr(error.orig, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        if code == sqlite3.SQLITE_FULL:
            return True
        # Of a quota, and of the memory that connections share, SQLite says no more than that writing failed.
        return code & 0xFF in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and self._reserve.is_full()

    def _disk_full(self, why: str) -> ResourceExhausted:
        text = f"the disk of the catalog {self._file} is full: {why}"
        metadata = {"errno": errno.errorcode[errno.ENOSPC], "what": f"writing the catalog {self._file}"}
        return ResourceExhausted(Reason.DISK_FULL, text, metadata=metadata)

    def close(self) -> None:
        self.engine.dispose()


def _configure_sqlite(engine: sa.Engine, busy_timeout: float) -> None:
    @sa.event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        # SQLAlchemy says BEGIN itself (below), so that reads are transactions too and writes begin IMMEDIATE.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout={int(busy_timeout * 1000)}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA foreign_keys=ON")

    @sa.event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        options = connection.get_execution_options()
        if options.get("holdfast_write"):
            # FULL: an acknowledged backup must survive a power cut, catalog row included.
            durable = options.get("holdfast_durable", True)
            connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql("BEGIN")

    path = engine.url.database
    if path and path != ":memory:":
        os.close(os.open(path, os.O_CREAT | os.O_CLOEXEC, 0o600))


def _migrate(engine: sa.Engine) -> None:
    # Imported here: alembic costs start-up time and memory that a prepared catalog does not need.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.connect().execution_options(holdfast_write=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, HEAD)
