"""A catalog on a full disk: its reserve carries it for a while, then it says so; nothing it acknowledged is lost."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from holdfast_server.catalog import database as database_module
from holdfast_server.catalog.database import Database
from holdfast_server.errors import Reason, ResourceExhausted
from holdfast_server.storage.local import free_bytes
from holdfast_server.storage.reserve import Reserve
from tests.mounts import Mounter

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path, mount: Mounter) -> Path:
    path = tmp_path / "disk"
    path.mkdir()
    mount("-t", "tmpfs", "-o", "size=80m", "tmpfs", path)
    return path


@pytest.fixture
def database(disk: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{disk}/state.sqlite", busy_timeout=5.0)
    with made.write() as connection:
        connection.exec_driver_sql("CREATE TABLE words (word TEXT)")
    made.keep_reserve()
    yield made
    made.close()


def reserve(disk: Path) -> int:
    return sum(file.stat().st_size for file in (disk / "reserve").iterdir())


def fill(disk: Path, leave: int = 0) -> None:
    fd = os.open(disk / "ballast", os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(fd, 0, os.fstat(fd).st_size + free_bytes(fd) - leave)
    os.close(fd)


def write(database: Database, size: int = 10, *, durable: bool = True) -> None:
    with database.write(durable=durable) as connection:
        connection.execute(sa.text("INSERT INTO words VALUES (:word)"), {"word": "x" * size})


def count(database: Database) -> int:
    with database.read() as connection:
        return int(connection.execute(sa.text("SELECT count(*) FROM words")).scalar_one())


def test_small_writes_go_on_and_cost_little_of_the_reserve(disk: Path, database: Database) -> None:
    assert reserve(disk) == 8 * MIB
    fill(disk)
    for number in range(500):  # more than fits into a part of the reserve, but its log is used again and again
        write(database, durable=number % 2 == 0)
    assert count(database) == 500
    assert reserve(disk) >= 2 * MIB


def test_large_writes_use_it_up_and_then_fail_until_there_is_room(disk: Path, database: Database) -> None:
    fill(disk)
    done, failures = 0, []
    while len(failures) < 20:
        try:
            write(database, 300_000)
            done += 1
        except ResourceExhausted as error:
            failures.append((error.reason, str(disk / "state.sqlite") in error.message))
    assert set(failures) == {(Reason.DISK_FULL, True)}
    assert reserve(disk) == 0
    assert done >= 8
    assert count(database) == done
    with sqlite3.connect(disk / "state.sqlite") as other:
        assert other.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    other.close()
    (disk / "ballast").unlink()
    write(database, 300_000)
    database.keep_reserve()
    assert reserve(disk) == 8 * MIB
    assert count(database) == done + 1


def test_a_write_in_time_needs_no_second_try(disk: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "_RELEASE_SECONDS", 0.0)
    fill(disk)
    done = 0
    while reserve(disk):
        write(database, 200_000)
        done += 1
    assert done >= 8


def test_new_work_is_refused_before_it_costs_anything(disk: Path, database: Database) -> None:
    database.require_room()
    fill(disk, leave=8 * MIB)
    database.require_room()
    fill(disk, leave=8 * MIB - 4096)
    with pytest.raises(ResourceExhausted) as caught:
        database.require_room()
    assert caught.value.reason is Reason.DISK_FULL
    assert reserve(disk) == 8 * MIB
    (disk / "ballast").unlink()
    (disk / "reserve" / "003").unlink()
    database.require_room()
    assert reserve(disk) == 8 * MIB


def test_a_start_on_a_full_disk(disk: Path, database: Database) -> None:
    write(database)
    database.close()
    assert not (disk / "state.sqlite-wal").exists()
    fill(disk)
    started = Database(f"sqlite:///{disk}/state.sqlite", busy_timeout=5.0)
    write(started)
    assert count(started) == 2
    started.close()


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_CANTOPEN])
def test_a_quota_is_a_full_disk(code: int, disk: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reserve, "is_short", lambda *_: False)  # what the disk says is free

    def fail() -> None:
        with database.write():
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = code
            raise sa.exc.OperationalError("", {}, error)

    with pytest.raises(sa.exc.OperationalError):  # there is room: something else is wrong
        fail()
    fill(disk)
    with pytest.raises(ResourceExhausted) as caught:
        fail()
    assert caught.value.reason is Reason.DISK_FULL
