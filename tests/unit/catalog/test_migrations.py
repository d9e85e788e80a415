"""The migrations make exactly the tables that the queries use."""

from __future__ import annotations

import contextlib
import stat
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import holdfast_server.catalog.database as database_module
from holdfast_server.catalog import backups, schema, tasks, workers
from holdfast_server.catalog.database import HEAD, Database
from holdfast_server.catalog.rows import BackupRow, TaskRow
from holdfast_server.errors import Reason, Unavailable


def fresh(path: Path, busy_timeout: float = 5.0) -> Database:
    return Database(f"sqlite:///{path / 'state.sqlite'}", busy_timeout=busy_timeout)


def test_migrations_and_schema_agree(tmp_path: Path) -> None:
    database = fresh(tmp_path)
    database.prepare(tmp_path / "lock", lambda _: None)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, schema.metadata) == []
        assert context.get_current_revision() == HEAD
    database.close()


def test_the_head_is_the_newest_migration() -> None:
    scripts = ScriptDirectory(str(Path(database_module.__file__).parent / "migrations"))
    assert scripts.get_heads() == [HEAD]


def test_a_prepared_catalog_is_not_migrated_again(tmp_path: Path) -> None:
    calls: list[str] = []
    for _ in range(2):
        database = fresh(tmp_path)
        database.prepare(tmp_path / "lock", calls.append)
        database.close()
    assert len(calls) == 1


def migrate_to(database: Database, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(database_module.__file__).parent / "migrations"))
    with database.engine.connect().execution_options(holdfast_write=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def test_a_catalog_of_the_first_version_keeps_what_it_knows(tmp_path: Path) -> None:
    database = fresh(tmp_path)
    migrate_to(database, "0001")
    task = TaskRow("t", "VERIFY", "MANUAL", "admin", {"backup_id": "b"}, False, ["s"], 1, 5, 6).values()
    del task["has_credentials"], task["maintenance_state"]
    backup = BackupRow("b", "B", "s", "t", "ARCHIVE", "COMPLETED", "ZIP", b"/b", [], 5, 6).values()
    later = {"sealed": False, "delete_time": None, "purge_time": None, "trash_name": None, "purge_begun": None,
             "repository_id": None}  # fmt: skip
    for name in later:
        del backup[name]
    with database.write() as connection:
        # As the first version wrote them: without the columns that came later.
        connection.execute(schema.tasks.insert().values(**task))
        connection.execute(schema.backups.insert().values(**backup))
        connection.execute(schema.workers.insert().values(owner="w", host="here", pid=1, start_time=5, heartbeat=6))
    database.prepare(tmp_path / "lock", lambda _: None)
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, schema.metadata) == []
        kept = tasks.get_task(connection, "t")
        assert kept is not None
        assert kept.values() == {**task, "has_credentials": False, "maintenance_state": "NONE"}
        kept_backup = backups.get_backup(connection, "b")
        assert kept_backup is not None
        assert kept_backup.values() == {**backup, **later}
        assert workers.live_keys(connection, 0) == {}, "a worker of the first version has no key"
        assert connection.execute(sa.select(schema.workers)).mappings().one()["heartbeat"] == 6
    database.close()


def test_many_processes_prepare_once(tmp_path: Path) -> None:
    calls: list[str] = []
    databases = [fresh(tmp_path) for _ in range(4)]
    threads = [threading.Thread(target=d.prepare, args=(tmp_path / "lock", calls.append)) for d in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(calls) == 1
    for database in databases:
        database.close()


def test_the_file_is_private_and_safe_against_power_cuts(tmp_path: Path) -> None:
    database = fresh(tmp_path)
    database.prepare(tmp_path / "lock", lambda _: None)
    assert stat.S_IMODE((tmp_path / "state.sqlite").stat().st_mode) == 0o600
    with database.write() as connection:
        assert connection.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(sa.text("PRAGMA synchronous")).scalar() == 2
    with database.write(durable=False) as connection:
        assert connection.execute(sa.text("PRAGMA synchronous")).scalar() == 1
    with database.write() as connection:
        assert connection.execute(sa.text("PRAGMA synchronous")).scalar() == 2, "durability comes back"
    database.close()


def test_a_busy_catalog_is_unavailable_and_undoes_nothing_of_others(tmp_path: Path) -> None:
    first, second = fresh(tmp_path), fresh(tmp_path, busy_timeout=0.05)
    first.prepare(tmp_path / "lock", lambda _: None)
    with first.write() as connection:
        connection.execute(schema.request_ids.insert().values(
            principal="a", method="m", request_id="r", fingerprint="f", result={}, create_time=1))  # fmt: skip
        with pytest.raises(Unavailable) as caught, second.write():
            raise AssertionError("two writers at a time")
        assert caught.value.reason is Reason.CATALOG_BUSY
        assert caught.value.retry_after
        with second.read() as reader:
            assert reader.execute(sa.select(schema.request_ids)).all() == [], "uncommitted rows are not seen"
    with second.read() as reader:
        assert len(reader.execute(sa.select(schema.request_ids)).all()) == 1
    first.close()
    second.close()


def test_an_exception_undoes_the_transaction(tmp_path: Path) -> None:
    database = fresh(tmp_path)
    database.prepare(tmp_path / "lock", lambda _: None)
    with contextlib.suppress(KeyError), database.write() as connection:
        connection.execute(schema.request_ids.insert().values(
            principal="a", method="m", request_id="r", fingerprint="f", result={}, create_time=1))  # fmt: skip
        raise KeyError
    with database.read() as reader:
        assert reader.execute(sa.select(schema.request_ids)).all() == []
    database.close()
