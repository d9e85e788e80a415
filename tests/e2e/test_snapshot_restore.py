"""Snapshots put back over a running server: folders and wallets, of open and of sealed repositories."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import grpc
import pytest

from holdfast.cli.app import main
from holdfast.v1 import (
    backup_service_pb2,
    credentials_pb2,
    repository_pb2,
    repository_service_pb2,
    restore_pb2,
    source_pb2,
    task_pb2,
    wallet_service_pb2,
)
from tests.canary import Canary
from tests.harness import PATIENCE, Server, failure_of, snapshot
from tests.restored_wallets import COINS, PASSWORD, make_wallet
from tests.snapshots import described

COMPLETED = task_pb2.TASK_STATE_COMPLETED
FAILED = task_pb2.TASK_STATE_FAILED
SECRET = "correct horse battery"
NAME = "folder \u00e9"
MARK = "canary7staple"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("snapshots")


@pytest.fixture(scope="module")
def server(shared_server: Server, base: Path) -> Server:
    """With an open repository, a sealed one, and a folder of odd entries."""
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("open", {}),
        ("sealed", {"sealed": True, "keys": [repository_pb2.NewKey(passphrase=SECRET)]}),
    ]
    for name, values in kinds:
        request = repository_service_pb2.CreateRepositoryRequest(
            repository_id=f"restore-{name}", location=str(base / name), create_folder=True, **values
        )
        shared_server.repositories.CreateRepository(request, timeout=PATIENCE)
    root = base / "tree"
    (root / NAME / "below").mkdir(parents=True)
    (root / NAME / "file").write_bytes(os.urandom(3 << 20))
    (root / NAME / "below" / "small").write_bytes(b"small")
    os.link(root / NAME / "file", root / "again")
    os.symlink("nowhere", root / "link")
    os.utime(root, ns=(1_600_000_000_123_456_789, 1_600_000_000_123_456_789))
    shared_server.register(root, "restore-tree")
    return shared_server


def back_up(server: Server, source_id: str, repository_id: str) -> str:
    request = backup_service_pb2.CreateBackupRequest(source_ids=[source_id])
    request.repository.repository_id = repository_id
    task = server.ended(server.backups.CreateBackup(request, timeout=PATIENCE).task_id)
    assert task.state == COMPLETED, task
    return str(task.backup_result.backup_ids[0])


@pytest.fixture(scope="module")
def opened(server: Server) -> str:
    return back_up(server, "restore-tree", "restore-open")


@pytest.fixture(scope="module")
def sealed(server: Server) -> str:
    return back_up(server, "restore-tree", "restore-sealed")


def refused(server: Server, backup_id: str, folder: Path, **values: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        server.start_restore(backup_id, folder, **values)
    assert not folder.exists()
    failure = failure_of(caught.value)
    return failure.code.name, failure.reason


def passphrase(text: str = SECRET) -> credentials_pb2.Credentials:
    return credentials_pb2.Credentials(passphrase=text)


def password() -> credentials_pb2.Credentials:
    return credentials_pb2.Credentials(wallet_password=PASSWORD)


def test_a_snapshot_comes_back_whole(server: Server, base: Path, opened: str) -> None:
    task = server.restore(opened, base / "whole")
    assert task.state == COMPLETED, task
    result = task.restore_result
    assert (result.files, result.directories, result.symlinks, result.hardlinks) == (2, 2, 1, 1)
    assert (result.files_verified, result.restored_size) == (2, (3 << 20) + 5)
    assert result.plan.create == 6
    assert task.progress.percent == 100
    assert described(base / "whole") == described(base / "tree")


def test_chosen_paths_and_a_dry_run(server: Server, base: Path, opened: str) -> None:
    task = server.restore(opened, base / "dry", dry_run=True)
    assert (task.state, task.restore_result.plan.create) == (COMPLETED, 6)
    assert not (base / "dry").exists()
    task = server.restore(opened, base / "chosen", paths=["again"])
    assert task.state == COMPLETED, task
    assert [path.name for path in (base / "chosen").iterdir()] == ["again"]
    assert (base / "chosen" / "again").read_bytes() == (base / "tree" / "again").read_bytes()
    task = server.restore(opened, base / "missing", paths=["again", "no"])
    assert (task.state, task.error.reason, task.error.metadata["path"]) == (FAILED, "ENTRY_NOT_FOUND", "no")
    assert not (base / "missing").exists()


def test_a_secret_that_opens_nothing_here_is_refused(server: Server, base: Path, opened: str) -> None:
    identity = credentials_pb2.Credentials(age_identity="AGE-SECRET-KEY-1")
    assert refused(server, opened, base / "no", credentials=identity) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    task = server.restore(opened, base / "unneeded", credentials=passphrase("of another repository"))
    assert task.state == COMPLETED, task


def test_a_sealed_repository_opens_with_its_key_only(server: Server, base: Path, sealed: str) -> None:
    assert refused(server, sealed, base / "locked") == ("FAILED_PRECONDITION", "KEY_REQUIRED")
    task = server.restore(sealed, base / "wrong", credentials=passphrase("wrong horse battery"))
    assert (task.state, task.error.reason) == (FAILED, "KEY_WRONG")
    assert not (base / "wrong").exists()
    task = server.restore(sealed, base / "by passphrase", credentials=passphrase())
    assert task.state == COMPLETED, task
    assert described(base / "by passphrase") == described(base / "tree")
    unlock = repository_service_pb2.UnlockRepositoryRequest(repository_id="restore-sealed", credentials=passphrase())
    server.repositories.UnlockRepository(unlock, timeout=PATIENCE)
    task = server.restore(sealed, base / "unlocked", paths=[f"{NAME}/below"])
    assert task.state == COMPLETED, task
    assert (base / "unlocked" / NAME / "below" / "small").read_bytes() == b"small"
    lock = repository_service_pb2.LockRepositoryRequest(repository_id="restore-sealed")
    server.repositories.LockRepository(lock, timeout=PATIENCE)
    assert refused(server, sealed, base / "locked") == ("FAILED_PRECONDITION", "KEY_REQUIRED")


def test_no_name_of_a_sealed_repository_is_stored(server: Server, base: Path) -> None:
    """Neither of what was asked for, nor of what went wrong or was restored with a warning."""
    root = base / "secret"
    (root / MARK).mkdir(parents=True)
    (root / MARK / f"{MARK}.txt").write_bytes(b"content")
    (root / MARK).chmod(0o2700)
    server.register(root, "restore-secret")
    backup_id = back_up(server, "restore-secret", "restore-sealed")
    missing = server.restore(backup_id, base / "quiet", paths=[f"{MARK}/not there"], credentials=passphrase())
    assert (missing.state, missing.error.reason) == (FAILED, "ENTRY_NOT_FOUND")
    task = server.restore(backup_id, base / "warned", paths=[MARK], credentials=passphrase())
    assert task.state == task_pb2.TASK_STATE_COMPLETED_WITH_WARNINGS
    [problem] = server.problems(task.task_id)
    assert (problem.path, problem.reason) == ("", "RESTORED_WITH_WARNING")
    assert (base / "warned" / MARK / f"{MARK}.txt").exists()
    assert MARK not in f"{missing} {task} {problem}"
    assert Canary(MARK.encode()).search(server.base, base / "sealed") == []


def test_the_command_line(server: Server, base: Path, sealed: str, capsys: pytest.CaptureFixture[str]) -> None:
    secret = base / "passphrase"
    secret.write_text(SECRET + "\n")
    where = ["--data-dir", str(server.data_dir)]
    target = base / "by command"
    arguments = ["restore", sealed, "--to", str(target), "--passphrase-file", str(secret)]
    assert main([*where, *arguments]) == 0, capsys.readouterr()
    assert described(target) == described(base / "tree")
    assert main([*where, "restore", sealed, "--to", str(base / "no")]) != 0
    assert "is sealed and not unlocked" in capsys.readouterr().err


@pytest.fixture(scope="module")
def wallet(server: Server, base: Path) -> Path:
    made = make_wallet(base / "wallet")
    server.register(made, "restore-wallet", kind=source_pb2.SOURCE_KIND_WALLET)
    return made


@pytest.mark.parametrize("unlocked", [True, False])
def test_a_wallet_comes_back_as_a_folder_and_as_a_new_wallet(
    server: Server, base: Path, wallet: Path, unlocked: bool
) -> None:
    if unlocked:
        server.unlock("restore-wallet", PASSWORD)
    else:
        lock = wallet_service_pb2.LockWalletRequest(source_id="restore-wallet")
        server.wallets.LockWallet(lock, timeout=PATIENCE)
    backup_id = back_up(server, "restore-wallet", "restore-open")
    name = "unlocked" if unlocked else "locked"
    if unlocked:
        lock = wallet_service_pb2.LockWalletRequest(source_id="restore-wallet")
        server.wallets.LockWallet(lock, timeout=PATIENCE)
        task = server.restore(backup_id, base / "still encrypted")
        assert task.state == COMPLETED, task
        assert len([*(base / "still encrypted").rglob("*.hfcc")]) == COINS + 1, "a hard link is one file more"
        task = server.restore(backup_id, base / "some", paths=["Trash"], credentials=password())
        assert (task.state, task.restore_result.files_decrypted) == (COMPLETED, task.restore_result.files)
    task = server.restore(backup_id, base / f"folder {name}", credentials=password())
    assert task.state == COMPLETED, task
    assert described(base / f"folder {name}") == described(wallet)
    target = restore_pb2.NewWalletTarget(display_name="Again", source_id=f"restore-again-{name}")
    dry = server.restore(backup_id, base / "dry", new_wallet=target, dry_run=True, credentials=password())
    assert (dry.state, (base / "dry").exists()) == (COMPLETED, False)
    task = server.restore(backup_id, base / f"wallet {name}", new_wallet=target, credentials=password())
    assert task.state == COMPLETED, task
    assert snapshot(base / f"wallet {name}") == snapshot(wallet)
    coins = task.restore_result.restored_coins
    assert coins.total.coins > 0
    balance = wallet_service_pb2.GetBalanceRequest(source_id=f"restore-again-{name}")
    found = server.wallets.GetBalance(balance, timeout=PATIENCE)
    balance.source_id = "restore-wallet"
    assert found.spendable == server.wallets.GetBalance(balance, timeout=PATIENCE).spendable


def test_a_directory_becomes_no_wallet(server: Server, base: Path, opened: str) -> None:
    found = refused(server, opened, base / "no wallet", new_wallet=restore_pb2.NewWalletTarget())
    assert found == ("FAILED_PRECONDITION", "NOT_A_WALLET")
