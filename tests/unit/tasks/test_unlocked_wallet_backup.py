"""Backups of unlocked wallets as tasks: what the result says, what happens without the key, and that nothing leaks."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.archive.pool import CompressorPool
from holdfast_server.catalog import backups
from holdfast_server.catalog.rows import BackupState, TaskRow, TaskState
from holdfast_server.core.wallet_files import WalletFiles
from holdfast_server.core.wallet_folder import WalletFolder
from holdfast_server.tasks import archive_target
from holdfast_server.tasks.wallet_reader import WalletReader
from tests.unit.core.wallets import CANARY, exposed, harmless
from tests.unit.tasks.conftest import World, backup_handler
from tests.unit.tasks.test_wallet_keys import Fixture

PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def reader() -> Iterator[WalletReader]:
    made = WalletReader()
    yield made
    made.close()


class Backups(Fixture):
    """Wallets with coins, and workers that really back them up."""

    def __init__(self, world: World, base: Path, reader: WalletReader, pool: CompressorPool) -> None:
        super().__init__(world, base, reader)
        data_dir = os.fsencode(base / "data")
        world.handler = backup_handler(world, self.policy, pool, data_dir)  # type: ignore[assignment]
        self.worker = world.new_worker("00000000-0000-0000-0000-000000000099")

    def filled(self, name: str) -> Path:
        path = self.wallet(name, PASSWORD)
        for file, content in {**{n: c for n, (c, _) in exposed(3).items()}, **harmless()}.items():
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            (path / file).write_bytes(content)
        return path

    def run(self, row: TaskRow) -> TaskRow:
        self.world.execute(row.task_id, self.worker)
        return self.world.row(row.task_id)

    def states(self, row: TaskRow) -> dict[str, str]:
        with self.world.database.read() as connection:
            return {one.source_id: str(one.state) for one in backups.backups_of_task(connection, row.task_id)}

    @property
    def archives(self) -> list[Path]:
        return sorted((self.base / "archives").iterdir())


@pytest.fixture
def fixture(world: World, tmp_path: Path, reader: WalletReader) -> Iterator[Backups]:
    pool = CompressorPool(1, 32 << 20)
    yield Backups(world, tmp_path, reader, pool)
    pool.close()


def test_a_backup_from_locked_to_unlocked_and_back(fixture: Backups) -> None:
    fixture.filled("a")
    locked = fixture.run(fixture.order("a"))
    assert locked.result is not None
    assert locked.result["files_reencrypted"] == 0
    assert locked.result["files_added_plaintext"] > 0
    first = set(fixture.archives)
    assert CANARY.search(*first)
    fixture.keys.unlock("a", PASSWORD, 60)
    done = fixture.run(fixture.order("a"))
    assert done.state == TaskState.COMPLETED
    assert done.result is not None
    assert done.result["files_reencrypted"] == len(exposed(3))
    assert done.result["files_added_plaintext"] == 0
    assert done.result["coins_backed_up"] == locked.result["coins_backed_up"]
    [second] = set(fixture.archives) - first
    assert CANARY.search(second) == []
    with fixture.world.database.read() as connection:
        [row] = backups.backups_of_task(connection, done.task_id)
    assert row.statistics is not None
    assert row.statistics["wallet"]["files_reencrypted"] == len(exposed(3))
    # Neither a coin nor the key in what the service keeps.
    assert CANARY.search(fixture.base, skip=[fixture.base / "a", *first]) == []
    fixture.keys.lock("a")
    again = fixture.run(fixture.order("a"))
    assert again.result is not None
    assert again.result["files_reencrypted"] == 0


def test_without_its_key_a_wallet_is_not_backed_up_and_others_are(fixture: Backups) -> None:
    fixture.filled("a")
    fixture.filled("b")
    row = fixture.order("a", "b")  # both locked, so no key travels
    fixture.keys.unlock("a", PASSWORD, 60)
    done = fixture.run(row)
    assert done.state == TaskState.COMPLETED_WITH_WARNINGS
    assert fixture.states(row) == {"a": BackupState.FAILED, "b": BackupState.COMPLETED}
    assert done.result is not None
    errors = {one["source_id"]: (one["error"] or {}).get("reason") for one in done.result["sources"]}
    assert errors == {"a": "KEY_REQUIRED", "b": None}
    [archive] = fixture.archives
    assert archive.name.startswith("b-")


def test_a_coin_that_would_go_in_clear_ends_the_backup(fixture: Backups, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WalletFiles, "_encrypts", lambda *_: False)
    fixture.filled("a")
    fixture.keys.unlock("a", PASSWORD, 60)
    row = fixture.order("a")
    done = fixture.run(row)
    assert done.state == TaskState.FAILED
    assert done.error is not None
    assert done.error["reason"] == "PLAINTEXT_COIN"
    assert fixture.archives == []
    assert fixture.states(row) == {"a": BackupState.FAILED}
    assert CANARY.search(fixture.base, skip=[fixture.base / "a"]) == []


def test_the_wallet_is_held_while_it_is_backed_up(fixture: Backups, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fixture.filled("a")
    (path / ".holdfast").mkdir()
    lock = os.open(path / ".holdfast/lock", os.O_RDWR | os.O_CREAT, 0o600)
    original: Any = archive_target.write_archive
    held: list[bool] = []

    def write(*arguments: Any) -> Any:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.append(True)
        return original(*arguments)

    monkeypatch.setattr(archive_target, "write_archive", write)
    assert fixture.run(fixture.order("a")).state == TaskState.COMPLETED
    assert held == [True]
    # And who moves its coins is waited for, not overtaken.
    fcntl.flock(lock, fcntl.LOCK_EX)
    monkeypatch.setitem(WalletFolder.lock.__wrapped__.__kwdefaults__, "patience", 0.0)  # type: ignore[attr-defined]
    done = fixture.run(fixture.order("a"))
    assert done.state == TaskState.FAILED
    assert done.error is not None
    assert done.error["reason"] == "SOURCE_BUSY"
    os.close(lock)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_service_folder_that_is_none_keeps_nobody_from_a_backup(fixture: Backups, kind: str) -> None:
    path = fixture.filled("a")
    if kind == "file":
        (path / ".holdfast").write_text("x")
    else:
        (path / ".holdfast").symlink_to("Bank")
    assert fixture.run(fixture.order("a")).state == TaskState.COMPLETED
