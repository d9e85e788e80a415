"""Checks of repositories and of snapshots over a running server and the command line."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import holdfast
from holdfast.cli.app import main
from holdfast.v1 import (
    backup_pb2,
    backup_service_pb2,
    credentials_pb2,
    repository_pb2,
    source_pb2,
    source_service_pb2,
    task_pb2,
)
from holdfast.v1 import repository_service_pb2 as pb
from tests.coin_wallets import make_wallet
from tests.harness import PATIENCE, Server, failure_of, make_tree, until
from tests.keys import PRIVATE

PASSPHRASE = "correct horse battery"
READ_DATA = backup_pb2.VERIFY_LEVEL_READ_DATA
CHECKSUM = backup_pb2.VERIFY_LEVEL_CHECKSUM
STRUCTURE = backup_pb2.VERIFY_LEVEL_STRUCTURE


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("checks")) as server:
        until(lambda: server.rows("SELECT owner FROM workers"), "a worker")
        yield server


class Checked:
    """A repository with two snapshots of one source, and what is done to its packs."""

    def __init__(self, server: Server, root: Path, name: str, *, sealed: bool = False, backups: int = 2) -> None:
        self.server = server
        self.name = name
        self.mark = f"nameof{name}"
        self.folder = root / name
        self.source = root / f"{name}-source"
        (self.source / "inner").mkdir(parents=True)
        (self.source / f"{self.mark}-small").write_bytes(b"a small file")
        for number in range(2):
            (self.source / "inner" / f"{self.mark}-{number}").write_bytes(os.urandom(1_200_000))
        keys = [repository_pb2.NewKey(passphrase=PASSPHRASE)] if sealed else []
        request = pb.CreateRepositoryRequest(
            repository_id=name, location=str(self.folder), create_folder=True, sealed=sealed, keys=keys
        )
        server.repositories.CreateRepository(request, timeout=PATIENCE)
        register = source_service_pb2.RegisterSourceRequest(path=str(self.source), source_id=name)
        server.sources.RegisterSource(register, timeout=PATIENCE)
        self.backups = [self.back_up() for _ in range(backups)]

    def back_up(self) -> str:
        request = backup_service_pb2.CreateBackupRequest(source_ids=[self.name])
        request.repository.repository_id = self.name
        task = self.server.ended(self.server.backups.CreateBackup(request, timeout=PATIENCE).task_id)
        assert task.state == task_pb2.TASK_STATE_COMPLETED, task
        return self.server.backup_of(task).backup_id

    def check(self, level: Any = READ_DATA, *, percent: int | None = None, **secret: str) -> task_pb2.Task:
        request = pb.CheckRepositoryRequest(repository_id=self.name, level=level, percent=percent)
        if secret:
            request.credentials.CopyFrom(credentials_pb2.Credentials(**secret))
        return self.server.ended(self.server.repositories.CheckRepository(request, timeout=PATIENCE).task_id)

    def verify(self, backup_id: str, level: Any = READ_DATA, **secret: str) -> task_pb2.Task:
        request = backup_service_pb2.VerifyBackupRequest(backup_id=backup_id, level=level)
        if secret:
            request.credentials.CopyFrom(credentials_pb2.Credentials(**secret))
        return self.server.ended(self.server.backups.VerifyBackup(request, timeout=PATIENCE).task_id)

    def show(self) -> repository_pb2.Repository:
        request = pb.GetRepositoryRequest(repository_id=self.name)
        return self.server.repositories.GetRepository(request, timeout=PATIENCE)

    def data_pack(self) -> Path:
        """The pack with the large files."""
        return max((self.folder / "packs").iterdir(), key=lambda path: path.stat().st_size)

    def flip(self, path: Path, at: int) -> None:
        content = bytearray(path.read_bytes())
        content[at] ^= 1
        path.chmod(0o600)
        path.write_bytes(content)


def refused(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    failure = failure_of(caught.value)
    return failure.code.name, failure.reason


def test_a_repository_is_proved_damaged_and_whole_again(server: Server, tmp_path: Path) -> None:
    made = Checked(server, tmp_path, "plain")
    assert not made.show().HasField("last_check_time")
    for level in (STRUCTURE, CHECKSUM, READ_DATA):
        task = made.check(level)
        assert task.state == task_pb2.TASK_STATE_COMPLETED, task
        result = task.check_repository_result
        assert (result.repository_id, result.level, result.backups_checked) == ("plain", level, 2)
        assert result.files_checked == (6 if level == READ_DATA else 0)
        assert result.percent == (0 if level == STRUCTURE else 100)
        assert result.objects_checked > 5
        assert result.bytes_checked > (2_400_000 if level != STRUCTURE else 0)
        assert not result.damaged_objects
    checked = made.show().last_check_time.ToMicroseconds()
    assert checked > 0

    pack = made.data_pack()
    whole = pack.read_bytes()
    made.flip(pack, 100)
    assert made.check(STRUCTURE).state == task_pb2.TASK_STATE_COMPLETED
    task = made.check()
    assert (task.state, task.error.reason) == (task_pb2.TASK_STATE_FAILED, "CHECKSUM_MISMATCH")
    result = task.check_repository_result
    assert list(result.damaged_objects) == [f"packs/{pack.name}"]
    assert {one.backup_id for one in result.damaged_backups} == set(made.backups)
    for one in result.damaged_backups:
        assert one.chunks_lost == 1
        assert one.files_lost == len(one.paths) == 1
        assert one.paths[0].startswith(f"inner/{made.mark}")
    problems = server.problems(task.task_id)
    assert [one.reason for one in problems].count("FILE_LOST") == 2
    assert {one.backup_id for one in problems if one.reason == "FILE_LOST"} == set(made.backups)
    assert {one.source_id for one in problems if one.reason == "FILE_LOST"} == {"plain"}
    assert made.show().state == repository_pb2.REPOSITORY_STATE_DAMAGED

    # A shallower or partial check does not take it back; one that is as deep does.
    pack.write_bytes(whole)
    for task in (made.check(CHECKSUM), made.check(percent=1)):
        assert task.state == task_pb2.TASK_STATE_COMPLETED
        assert made.show().state == repository_pb2.REPOSITORY_STATE_DAMAGED
    assert made.check().state == task_pb2.TASK_STATE_COMPLETED
    assert made.show().state == repository_pb2.REPOSITORY_STATE_READY
    assert made.show().last_check_time.ToMicroseconds() > checked


def test_parts_go_on_where_the_last_check_stopped(server: Server, tmp_path: Path) -> None:
    made = Checked(server, tmp_path, "parts", backups=1)
    (made.source / "more").write_bytes(os.urandom(1_100_000))
    made.back_up()
    packs = sorted(path.name for path in (made.folder / "packs").iterdir())
    read, last = 0, -1
    while read < len(packs):
        result = made.check(CHECKSUM, percent=1).check_repository_result
        assert 0 < result.packs_checked < len(packs)
        read += result.packs_checked
        (row,) = server.rows("SELECT check_cursor FROM repositories WHERE repository_id = 'parts'")
        last = (last + result.packs_checked) % len(packs)
        assert row["check_cursor"] == packs[last]


def test_a_lost_config_is_found_and_hides_nothing(server: Server, tmp_path: Path) -> None:
    made = Checked(server, tmp_path, "headless", backups=1)
    (made.folder / "config").unlink()
    made.data_pack().unlink()
    task = made.check(CHECKSUM)
    assert task.state == task_pb2.TASK_STATE_FAILED
    assert "config" in task.check_repository_result.damaged_objects
    assert task.check_repository_result.damaged_count == 2


def test_an_older_state_that_was_put_back_is_told_as_such(server: Server, tmp_path: Path) -> None:
    made = Checked(server, tmp_path, "older", backups=1)
    older = {path.relative_to(made.folder): path for path in made.folder.rglob("*")}
    lost = made.back_up()
    for path in made.folder.rglob("*"):
        if path.is_file() and path.relative_to(made.folder) not in older:
            path.unlink()
    task = made.check(STRUCTURE)
    assert (task.state, task.error.reason) == (task_pb2.TASK_STATE_FAILED, "REPOSITORY_ROLLED_BACK")
    assert [one.backup_id for one in task.check_repository_result.damaged_backups] == [lost]
    assert {name.split("/")[0] for name in task.check_repository_result.damaged_objects} == {"log", "snapshots"}


def test_one_snapshot_is_verified(server: Server, tmp_path: Path) -> None:
    made = Checked(server, tmp_path, "single", backups=1)
    for level in (STRUCTURE, CHECKSUM, READ_DATA):
        task = made.verify(made.backups[0], level)
        assert task.state == task_pb2.TASK_STATE_COMPLETED, task
        assert task.verify_result.level == level
        assert task.verify_result.files_checked == (3 if level == READ_DATA else 0)
        assert task.verify_result.bytes_checked > 0
    assert refused(lambda: made.verify(made.backups[0], age_identity=PRIVATE)) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    made.flip(made.data_pack(), 100)
    task = made.verify(made.backups[0])
    assert (task.state, task.error.reason) == (task_pb2.TASK_STATE_FAILED, "CHECKSUM_MISMATCH")
    assert len(task.verify_result.damaged_files) == task.verify_result.damaged_count == 1
    get = backup_service_pb2.GetBackupRequest(backup_id=made.backups[0])
    proofs = server.backups.GetBackup(get, timeout=PATIENCE).verifications
    assert sorted(one.ok for one in proofs) == [False, True, True, True]


def test_whatever_a_backup_stores_is_found_whole(server: Server, tmp_path: Path) -> None:
    """No false alarm over links, holes, what is skipped, and wallets, in clear and encrypted."""
    made = Checked(server, tmp_path, "kinds", backups=0)
    make_tree(made.source / "tree", 1, large=3 << 20)
    (made.source / "tree" / "second-name").hardlink_to(made.source / "tree" / "large.bin")
    (made.source / "tree" / "link").symlink_to("large.bin")
    (made.source / "tree" / "empty").mkdir()
    os.mkfifo(made.source / "tree" / "pipe")
    with (made.source / "sparse").open("wb") as file:
        file.truncate(20 << 20)
        file.seek(10 << 20)
        file.write(b"between holes")
    request = backup_service_pb2.CreateBackupRequest(source_ids=["kinds"])
    request.repository.repository_id = "kinds"
    assert server.ended(server.backups.CreateBackup(request, timeout=PATIENCE).task_id).HasField("backup_result")
    make_wallet(tmp_path / "wallet", [1, 5, 25], [100])
    server.register(tmp_path / "wallet", "wallet", kind=source_pb2.SOURCE_KIND_WALLET)
    for unlocked in (False, True):
        if unlocked:
            server.unlock("wallet", "password of the wallet")
        request = backup_service_pb2.CreateBackupRequest(source_ids=["wallet"])
        request.repository.repository_id = "kinds"
        task = server.ended(server.backups.CreateBackup(request, timeout=PATIENCE).task_id)
        assert task.state == task_pb2.TASK_STATE_COMPLETED, task
    task = made.check()
    assert task.state == task_pb2.TASK_STATE_COMPLETED, (task, server.problems(task.task_id))
    assert task.check_repository_result.backups_checked == 3
    listed = backup_service_pb2.ListBackupsRequest(repository_id="kinds")
    for one in server.backups.ListBackups(listed, timeout=PATIENCE).backups:
        task = made.verify(one.backup_id)
        assert task.state == task_pb2.TASK_STATE_COMPLETED, task
        assert task.verify_result.files_checked == one.statistics.files > 0


def test_a_sealed_repository_keeps_its_names(server: Server, tmp_path: Path) -> None:
    made = Checked(server, tmp_path, "sealed", sealed=True)
    for level in (STRUCTURE, CHECKSUM):
        assert made.check(level).state == task_pb2.TASK_STATE_COMPLETED
        assert made.verify(made.backups[0], level).state == task_pb2.TASK_STATE_COMPLETED
    assert refused(made.check) == ("FAILED_PRECONDITION", "KEY_REQUIRED")
    assert refused(lambda: made.verify(made.backups[0])) == ("FAILED_PRECONDITION", "KEY_REQUIRED")
    wrong = made.check(passphrase="another passphrase")
    assert (wrong.state, wrong.error.reason) == (task_pb2.TASK_STATE_FAILED, "KEY_WRONG")
    assert made.show().state == repository_pb2.REPOSITORY_STATE_READY
    assert made.check(passphrase=PASSPHRASE).check_repository_result.files_checked == 6
    assert made.verify(made.backups[0], passphrase=PASSPHRASE).verify_result.files_checked == 3

    made.flip(made.data_pack(), 100)
    sealed = made.check(CHECKSUM)
    found = sealed.check_repository_result.damaged_backups
    assert [(one.chunks_lost, one.HasField("files_lost")) for one in found] == [(1, False), (1, False)]
    unlock = pb.UnlockRepositoryRequest(
        repository_id="sealed", credentials=credentials_pb2.Credentials(passphrase=PASSPHRASE)
    )
    server.repositories.UnlockRepository(unlock, timeout=PATIENCE)
    opened, one = made.check(), made.verify(made.backups[0])
    found = opened.check_repository_result.damaged_backups
    assert [(one.chunks_lost, one.files_lost, len(one.paths)) for one in found] == [(1, 1, 0), (1, 1, 0)]
    assert (one.verify_result.damaged_count, list(one.verify_result.damaged_files)) == (1, [])
    for path in (server.data_dir).rglob("*"):
        if path.is_file():
            assert made.mark.encode() not in path.read_bytes(), path


def test_requests_are_checked(server: Server, tmp_path: Path) -> None:
    made = Checked(server, tmp_path, "asked", backups=0)
    for call, expected in (
        (lambda: made.check(backup_pb2.VERIFY_LEVEL_RESTORE_DRILL), ("UNIMPLEMENTED", "NOT_AVAILABLE")),
        (lambda: made.check(percent=101), ("INVALID_ARGUMENT", "INVALID_FIELD")),
        (lambda: made.check(percent=0), ("INVALID_ARGUMENT", "INVALID_FIELD")),
        (lambda: made.check(age_identity="AGE"), ("INVALID_ARGUMENT", "INVALID_FIELD")),
    ):
        assert refused(call) == expected
    made.name = "nobody"
    assert refused(made.check) == ("NOT_FOUND", "REPOSITORY_NOT_FOUND")


def test_the_command_line_and_the_client(server: Server, tmp_path: Path) -> None:
    made = Checked(server, tmp_path, "shown")
    with holdfast.connect(server.address, token=server.token) as client:
        result = client.repositories.check("shown", "checksum", percent=50).result()
        assert isinstance(result, holdfast.CheckRepositoryResult)
        assert (result.level, result.backups_checked) == (holdfast.VerifyLevel.CHECKSUM, 2)
    code, text = cli(server, "repository", "check", "shown", "--level", "structure")
    assert code == 0
    assert "2 backups" in text
    code, text = cli(server, "backup", "verify", made.backups[0])
    assert code == 0
    assert "3 files" in text
    made.flip(made.data_pack(), 100)
    code, text = cli(server, "--json", "repository", "check", "shown")
    assert code == 1
    *_, task = [line["task"] for line in map(json.loads, text.splitlines()) if line.get("task")]
    assert len(task["result"]["damaged_backups"]) == 2
    code, text = cli(server, "repository", "check", "shown")
    assert code == 1
    assert f"packs/{made.data_pack().name}" in text
    assert made.mark in text


def cli(server: Server, *arguments: str) -> tuple[int, str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(["--data-dir", str(server.data_dir), *arguments])
    return code, out.getvalue()
