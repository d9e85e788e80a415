"""Backups into a repository over a running server: what is stored, what is shown, and what is in it in clear."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

import holdfast
from holdfast.v1 import (
    backup_pb2,
    backup_service_pb2,
    repository_pb2,
    source_pb2,
    task_pb2,
)
from holdfast_server.errors import FailedPrecondition
from tests.canary import Canary
from tests.e2e.test_backup_story import unreadable
from tests.e2e.test_coin_canary import CANARY, MARKER, PASSWORD, make_wallet
from tests.harness import PATIENCE, SequenceRule, Server, make_tree, until
from tests.served_repositories import (
    back_up,
    create_repository,
    every_chunk,
    opened_repository,
    order_snapshot,
    snapshot_ids,
    stored_files,
)

COMPLETED = task_pb2.TASK_STATE_COMPLETED
WARNED = task_pb2.TASK_STATE_COMPLETED_WITH_WARNINGS
FAILED = task_pb2.TASK_STATE_FAILED
PASSPHRASE = "a passphrase that is long enough"
KEYS = [repository_pb2.NewKey(passphrase=PASSPHRASE)]
SECRET_NAME = "salmon-canary-name"
UNREAD_NAME = "herring-canary-name"
SECRET_PATTERN = "salmon-canary-pattern"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("backups"), environment={"HOLDFAST_WORKER_MAX_TASKS": "3"}) as server:
        until(lambda: server.rows("SELECT owner FROM workers"), "a worker")
        yield server


def files_of(folder: Path) -> dict[bytes, bytes]:
    return {
        os.fsencode(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def listed(server: Server, repository_id: str) -> list[backup_pb2.Backup]:
    request = backup_service_pb2.ListBackupsRequest(repository_id=repository_id)
    return list(server.backups.ListBackups(request, timeout=PATIENCE).backups)


def test_a_directory_from_the_first_backup_to_one_that_costs_nothing(server: Server, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source", 1, files=60, large=3 << 20)
    (source / os.fsdecode(b"odd \xff\n name")).write_bytes(b"odd")
    (source / "link").symlink_to("nowhere")
    os.link(source / "large.bin", source / "large-again.bin")
    server.register(source, "dir", ignore=["d1/"])
    create_repository(server, "store", tmp_path / "store")

    request = backup_service_pb2.RunBackupRequest()
    request.source_ids.append("dir")
    request.repository.repository_id = "store"
    rule = SequenceRule()
    for event in server.backups.RunBackup(request, timeout=PATIENCE):
        rule.take(event)
    first = rule.events[-1].task
    assert first.state == COMPLETED, first.error
    backup = server.backup_of(first)
    assert (backup.kind, backup.state, backup.complete) == (2, backup_pb2.BACKUP_STATE_COMPLETED, True)
    assert backup.repository_id == "store"
    assert backup.storage_path == ""
    assert backup.statistics.hardlinks == 1
    assert backup.statistics.files_ignored > 0
    assert first.backup_result.output_files == []

    with opened_repository(server, "store") as repository:
        [snapshot] = list(repository.snapshots())
        assert snapshot.run_id == backup.backup_id
        wanted = {path: content for path, content in files_of(source).items() if not path.startswith(b"d1/")}
        linked = {b"large.bin", b"large-again.bin"}
        found = stored_files(repository, snapshot)
        assert len(linked & set(found)) == 1, "one is a link to the other"
        assert {**found, **{path: wanted[path] for path in linked}} == wanted

    second = back_up(server, "store", "dir")
    assert second.state == COMPLETED
    assert second.backup_result.original_size == first.backup_result.original_size
    assert second.backup_result.stored_size < 8192 < first.backup_result.stored_size // 100
    assert [one.backup_id for one in listed(server, "store")] == [
        server.backup_of(second).backup_id,
        backup.backup_id,
    ]
    assert snapshot_ids(server, "store") == {one.backup_id for one in listed(server, "store")}


def test_a_dry_run_counts_and_stores_nothing(server: Server, tmp_path: Path) -> None:
    server.register(make_tree(tmp_path / "source", 2, files=10), "dry")
    create_repository(server, "dry", tmp_path / "dry")
    before = {path: path.read_bytes() for path in (tmp_path / "dry").rglob("*") if path.is_file()}
    task = back_up(server, "dry", "dry", dry_run=True, ignore=["f0003.bin"])
    assert task.state == COMPLETED
    assert (task.backup_result.files_added, task.backup_result.stored_size) == (9, 0)
    assert list(task.backup_result.backup_ids) == []
    assert listed(server, "dry") == []
    assert {path: path.read_bytes() for path in (tmp_path / "dry").rglob("*") if path.is_file()} == before


def test_one_source_that_fails_beside_others(server: Server, tmp_path: Path) -> None:
    for name in ("one", "two"):
        server.register(make_tree(tmp_path / name, 3, files=8), f"beside-{name}")
    create_repository(server, "beside", tmp_path / "beside")
    order = order_snapshot("beside", "beside-one", "beside-two")
    with server.frozen_worker():
        task = server.backups.CreateBackup(order, timeout=PATIENCE)
        (tmp_path / "one").rename(tmp_path / "away")
    done = server.ended(task.task_id)
    assert done.state == WARNED
    assert [one.ok for one in done.backup_result.sources] == [False, True]
    assert done.backup_result.sources[0].error.reason == "SOURCE_OFFLINE"
    assert snapshot_ids(server, "beside") == set(done.backup_result.backup_ids)
    states = sorted(backup.state for backup in listed(server, "beside"))
    assert states == [backup_pb2.BACKUP_STATE_COMPLETED, backup_pb2.BACKUP_STATE_FAILED]


def test_all_wallets_two_backups_at_once_and_no_coin_in_clear(server: Server, tmp_path: Path) -> None:
    """Locked, a wallet's coins are there to be found by whoever has the keys; unlocked, they are nowhere."""
    purse, till = make_wallet(tmp_path / "purse", 1), make_wallet(tmp_path / "till", 2)
    server.register(purse, "purse", kind=source_pb2.SOURCE_KIND_WALLET)
    create_repository(server, "clear", tmp_path / "clear")
    locked = back_up(server, "clear", "purse")
    assert locked.state == COMPLETED
    assert CANARY.search(tmp_path / "clear") == [], "no chunk lies there in clear"
    with opened_repository(server, "clear") as repository:
        assert any(MARKER in chunk for chunk in every_chunk(repository)), "the search finds what is there"
        [snapshot] = list(repository.snapshots())
        assert stored_files(repository, snapshot) == files_of(purse)

    server.register(till, "till", kind=source_pb2.SOURCE_KIND_WALLET)
    create_repository(server, "safe", tmp_path / "safe")
    for name in ("purse", "till"):
        server.unlock(name, PASSWORD)
    try:
        order = order_snapshot("safe", all_wallets=True)
        tasks = [server.backups.CreateBackup(order, timeout=PATIENCE) for _ in range(2)]
        done = [server.ended(task.task_id) for task in tasks]
        assert [task.state for task in done] == [COMPLETED, COMPLETED], [task.error for task in done]
        for task in done:
            assert task.backup_result.wallets_processed == 2
            assert task.backup_result.files_added_plaintext == 0
            assert task.backup_result.files_reencrypted > 20
        assert done[0].backup_result.coins_backed_up == done[1].backup_result.coins_backed_up > 0
    finally:
        server.forget_wallets()
    assert len(snapshot_ids(server, "safe")) == 4
    with opened_repository(server, "safe") as repository:
        found = [place for chunk in every_chunk(repository) for place in CANARY.in_bytes(chunk, "chunk")]
        assert found == []
        names = {path for one in repository.snapshots() for path in stored_files(repository, one)}
    assert len(names) > 20
    assert CANARY.search(server.base, tmp_path / "safe", skip=[purse, till]) == []


def test_a_sealed_repository_leaves_no_name_and_no_pattern_in_the_catalog(server: Server, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source", 4, files=12)
    os.mkfifo(source / f"{SECRET_NAME}-1")
    (source / f"{SECRET_NAME}-2").write_text("read")
    (source / f"{SECRET_PATTERN}.tmp").write_text("ignored")
    server.register(source, "seal")
    create_repository(server, "sealed", tmp_path / "sealed", sealed=True, keys=KEYS)
    pattern = f"{SECRET_PATTERN}*"

    done = back_up(server, "sealed", "seal", ignore=[pattern])
    assert done.state == WARNED
    assert done.backup_result.files_ignored == 1
    assert list(server.backup_of(done).ignore) == []
    [problem] = server.problems(done.task_id)
    assert (problem.path, problem.reason) == ("", "SPECIAL_FILE_SKIPPED")
    dry = back_up(server, "sealed", "seal", ignore=[pattern], dry_run=True)
    assert dry.backup_result.files_ignored == 1
    # The source's own path is known; what is in it is not.
    for secret in (SECRET_NAME, SECRET_PATTERN):
        assert Canary(secret.encode()).search(server.base, tmp_path / "sealed") == []
    with opened_repository(server, "sealed") as repository:
        content = repository.unlock(PASSPHRASE)
        [snapshot] = list(repository.snapshots())
        assert f"{SECRET_NAME}-2".encode() in stored_files(repository, snapshot, content)
        with pytest.raises(FailedPrecondition, match="sealed"):
            stored_files(repository, snapshot)


def test_a_repository_that_comes_and_goes(server: Server, tmp_path: Path) -> None:
    server.register(make_tree(tmp_path / "source", 5, files=5), "goes")
    vault, away = tmp_path / "vault", tmp_path / "away"
    create_repository(server, "goes", vault)
    first = back_up(server, "goes", "goes")
    # It goes away between the call and the work.
    order = order_snapshot("goes", "goes")
    with server.frozen_worker():
        task = server.backups.CreateBackup(order, timeout=PATIENCE)
        vault.rename(away)
    ended = server.ended(task.task_id)
    assert (ended.state, ended.error.reason) == (FAILED, "STORAGE_UNREACHABLE")
    # Another one lies there now.
    create_repository(server, "other", vault)
    before = sorted(path for path in vault.rglob("*"))
    refused = back_up(server, "goes", "goes")
    assert (refused.state, refused.error.reason) == (FAILED, "REPOSITORY_REPLACED")
    assert sorted(path for path in vault.rglob("*")) == before, "nothing was written"
    vault.rename(tmp_path / "put aside")
    away.rename(vault)
    again = back_up(server, "goes", "goes")
    assert again.state == COMPLETED
    assert snapshot_ids(server, "goes") == {*first.backup_result.backup_ids, *again.backup_result.backup_ids}


def test_many_at_once_into_one_repository(server: Server, tmp_path: Path) -> None:
    create_repository(server, "many", tmp_path / "many")
    rng = Random(6)
    shared = rng.randbytes(2 << 20)
    for number in range(3):
        source = make_tree(tmp_path / f"s{number}", number, files=30)
        (source / "shared").write_bytes(shared)
        server.register(source, f"many-{number}")
    tasks: list[task_pb2.Task] = []

    def one(number: int) -> None:
        tasks.append(back_up(server, "many", f"many-{number}"))

    threads = [threading.Thread(target=one, args=(number % 3,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [task.state for task in tasks] == [COMPLETED] * 6, [task.error for task in tasks]
    with opened_repository(server, "many") as repository:
        found = list(repository.snapshots())
        assert len(found) == 6
        for snapshot in found:
            number = snapshot.source_id.removeprefix("many-")
            assert stored_files(repository, snapshot) == files_of(tmp_path / f"s{number}")


def test_the_python_client_names_locks_deletes_and_takes_back(server: Server, tmp_path: Path) -> None:
    server.register(make_tree(tmp_path / "source", 7, files=5), "life")
    create_repository(server, "life", tmp_path / "life")
    backup_id = str(uuid.uuid4())
    with holdfast.connect(data_dir=server.data_dir) as client:
        task = client.backups.create(["life"], repository_id="life", backup_id=backup_id, name="first", locked=True)
        assert task.result().backup_ids == (backup_id,)
        with pytest.raises(holdfast.FailedPrecondition):
            client.backups.delete(backup_id)
        client.backups.update(backup_id, locked=False, name="second")
        client.backups.delete(backup_id)
        assert list(client.backups.list(repository_id="life")) == []
        client.backups.undelete(backup_id)
        [shown] = client.backups.list(repository_id="life")
        assert (shown.backup_id, shown.name, shown.locked) == (backup_id, "second", False)
    with opened_repository(server, "life") as repository:
        [snapshot] = list(repository.snapshots())
    assert (snapshot.name, snapshot.locked) == ("first", True), "as committed; what came later is in the log"


def test_names_of_every_kind(server: Server, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    names = [
        b"\xff\xfe",
        b"new\nline",
        b"-rf",
        b"*",
        b"con:",
        "ü".encode(),
        b"u\xcc\x88",
        b"x" * 255,
        b" ",
        b"...",
        b"\\",
    ]
    for number, name in enumerate(names):
        (source / os.fsdecode(name)).write_bytes(name * number)
    deep = source
    for _ in range(60):
        deep = deep / ("d" * 60)
        deep.mkdir()
    (deep / "bottom").write_text("deep")
    os.mkfifo(source / "fifo")
    server.register(source, "odd")
    create_repository(server, "odd", tmp_path / "odd")
    task = back_up(server, "odd", "odd")
    assert task.state == WARNED
    assert [(one.path, one.reason) for one in server.problems(task.task_id)] == [("fifo", "SPECIAL_FILE_SKIPPED")]
    with opened_repository(server, "odd") as repository:
        [snapshot] = list(repository.snapshots())
        found = stored_files(repository, snapshot)
    assert {name: found[name] for name in names} == {name: name * number for number, name in enumerate(names)}
    assert found[b"/".join([b"d" * 60] * 60 + [b"bottom"])] == b"deep"
    assert len(found) == len(names) + 1


def test_an_unreadable_file_is_a_warning_or_a_failure(server: Server, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source", 8, files=6)
    server.register(source, "unread")
    create_repository(server, "unread", tmp_path / "unread")
    create_repository(server, "unread-sealed", tmp_path / "sealed", sealed=True, keys=KEYS)
    with unreadable(source / UNREAD_NAME):
        for repository_id, shown in (("unread-sealed", ""), ("unread", UNREAD_NAME)):
            lenient = back_up(server, repository_id, "unread")
            assert lenient.state == WARNED
            assert not server.backup_of(lenient).complete
            [problem] = server.problems(lenient.task_id)
            assert (problem.path, problem.reason) == (shown, "READ_ERROR")
            strict = back_up(server, repository_id, "unread", on_source_error=backup_pb2.ON_SOURCE_ERROR_FAIL)
            assert (strict.state, strict.error.reason) == (FAILED, "SOURCE_UNREADABLE")
            assert strict.error.metadata.get("path", "") == shown
            assert snapshot_ids(server, repository_id) == set(lenient.backup_result.backup_ids)
            named = Canary(UNREAD_NAME.encode()).search(server.base)
            assert bool(named) is (repository_id == "unread")
