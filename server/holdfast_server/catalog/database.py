"""The catalog's database: one engine, short transactions, and migrations under a file lock.

SQLite lives in `state.sqlite` in the data directory, in WAL mode, shared with DBOS's tables. A write transaction begins
IMMEDIATE, so that it waits for its turn at the start and never fails in the middle.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from holdfast_server.errors import Reason, Unavailable

__all__ = ["HEAD", "Database"]

#: The newest migration; `prepare` runs alembic only when the database says another.
HEAD = "0007"


class Database:
    """Connections to the catalog. Thread-safe; one per process.

    `busy_timeout` (seconds) is how long a writer waits for its turn: short in the edge, which then answers
    CATALOG_BUSY, long in a worker, which has nobody waiting.
    """

    def __init__(self, url: str, *, busy_timeout: float) -> None:
        self.url = url
        self.engine = sa.create_engine(url, pool_size=8, max_overflow=56, pool_timeout=max(busy_timeout, 1.0))
        if self.engine.dialect.name == "sqlite":
            _configure_sqlite(self.engine, busy_timeout)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the catalog. Raises Unavailable/CATALOG_BUSY."""
        with _translated(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sa.Connection]:
        """A transaction that may write; committed at the end, undone on any exception.

        `durable` False is for progress: a power cut may lose the last of them, and no commit waits for the disk.
        """
        options = {"holdfast_write": True, "holdfast_durable": durable}
        with (
            _translated(),
            self.engine.connect().execution_options(**options) as connection,
            connection.begin(),
        ):
            yield connection

    def prepare(self, lock_file: Path, migrate_queue: Callable[[str], None]) -> None:
        """Bring our tables and the queue's up to date, once for all processes (`lock_file` is held meanwhile)."""
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


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sa.exc.OperationalError as error:
        text = str(error.orig)
        if "locked" in text or "busy" in text:
            raise Unavailable(
                Reason.CATALOG_BUSY, "the catalog is busy with another writer", retry_after=0.5
            ) from error
        raise
    except sa.exc.TimeoutError as error:
        raise Unavailable(Reason.CATALOG_BUSY, "all connections to the catalog are in use", retry_after=0.5) from error
