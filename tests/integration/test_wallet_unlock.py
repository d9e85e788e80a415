"""Unlocking a wallet over the wire: what backups hold while it is unlocked, and afterwards."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from holdfast.v1 import source_pb2, task_pb2, wallet_service_pb2
from holdfast_server.wallets.generate import generate_wallet
from tests.canary import Canary
from tests.harness import PATIENCE, Server, failure_of, until

PASSWORD = "a wallet's password"
WALLET = source_pb2.SOURCE_KIND_WALLET


class Wallet:
    """A registered wallet of a server that others use too."""

    def __init__(self, server: Server, base: Path, number: int) -> None:
        self.server, self.path = server, base / f"w{number}"
        self.source_id = f"{base.name.lower().replace('_', '-')}-{number}"[:60]
        self.coins = generate_wallet(self.path, 8, number).coins
        self.out = base / f"out{number}"
        self.out.mkdir()
        server.register(self.path, self.source_id, kind=WALLET)

    def unlock(self, password: str = PASSWORD, seconds: float | None = None) -> wallet_service_pb2.UnlockWalletResponse:
        return self.server.unlock(self.source_id, password, seconds)

    def lock(self) -> bool:
        return self.server.lock(self.source_id)

    def backup(self) -> task_pb2.BackupResult:
        # A worker may only just be starting, and without one nobody could be given the key.
        until(lambda: self.server.rows("SELECT owner FROM workers"), "a worker")
        task = self.server.backup(self.source_id, self.out)
        assert task.state == task_pb2.TASK_STATE_COMPLETED, task
        return task.backup_result

    def assert_no_coin_in(self, archive: str) -> None:
        for coin in (*self.path.glob("Bank/*.bin"), *self.path.glob("Fracked/*.bin")):
            content = coin.read_bytes()
            assert Canary(content[-400:-384]).search(Path(archive)) == []


@pytest.fixture
def new_wallet(shared_server: Server, tmp_path: Path) -> Callable[[], Wallet]:
    made: list[Wallet] = []

    def make() -> Wallet:
        made.append(Wallet(shared_server, tmp_path, len(made)))
        return made[-1]

    return make


@pytest.fixture
def wallet(new_wallet: Callable[[], Wallet]) -> Wallet:
    return new_wallet()


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    failure = failure_of(caught.value)
    assert PASSWORD not in f"{failure}"
    return failure.name if not failure.fields else f"{failure.name} {failure.fields}"


def test_while_unlocked_a_backup_holds_no_coin_in_clear(wallet: Wallet) -> None:
    clear = wallet.backup()
    assert clear.files_added_plaintext >= 8
    opened = wallet.unlock()
    assert opened.password_set
    sealed = wallet.backup()
    assert (sealed.files_added_plaintext, sealed.files_reencrypted) == (0, clear.files_added_plaintext)
    assert sealed.coins_backed_up == clear.coins_backed_up
    wallet.assert_no_coin_in(sealed.output_files[0])
    with pytest.raises(AssertionError):
        wallet.assert_no_coin_in(clear.output_files[0])
    assert wallet.lock()
    assert not wallet.lock()
    assert wallet.backup().files_added_plaintext == clear.files_added_plaintext


def test_a_wallet_locks_itself_when_its_time_is_over(wallet: Wallet) -> None:
    server = wallet.server
    wallet.unlock(seconds=1)
    query = "SELECT * FROM wallet_unlocks WHERE source_id = ?"
    until(lambda: not server.rows(query, wallet.source_id), "the lock")
    assert wallet.backup().files_added_plaintext >= 8
    assert not wallet.lock()
    again = wallet.unlock(seconds=3600)
    assert not again.password_set
    assert wallet.backup().files_added_plaintext == 0


def test_one_call_backs_up_locked_and_unlocked_wallets(new_wallet: Callable[[], Wallet]) -> None:
    first, second = new_wallet(), new_wallet()
    first.unlock()
    first.backup()
    task = first.server.backup([first.source_id, second.source_id], first.out, tag="both")
    assert task.state == task_pb2.TASK_STATE_COMPLETED
    sealed, clear = task.backup_result.output_files
    first.assert_no_coin_in(sealed)
    with pytest.raises(AssertionError):
        second.assert_no_coin_in(clear)


def test_what_is_refused(wallet: Wallet, tmp_path: Path) -> None:
    server = wallet.server
    directory = f"{wallet.source_id}-directory"
    (tmp_path / "directory").mkdir()
    server.register(tmp_path / "directory", directory)
    for seconds in (0.0, 0.999, 3600.001, -5.0):
        assert refused(lambda s=seconds: wallet.unlock(seconds=s)) == "INVALID_ARGUMENT/INVALID_FIELD ['ttl']"
    for password in ("", "x" * 1025, "é" * 513):
        assert refused(lambda p=password: wallet.unlock(p)) == "INVALID_ARGUMENT/INVALID_FIELD ['password']"
    assert refused(lambda: server.unlock("none", PASSWORD)) == "NOT_FOUND/SOURCE_NOT_FOUND"
    assert refused(lambda: server.lock("none")) == "NOT_FOUND/SOURCE_NOT_FOUND"
    assert refused(lambda: server.unlock(directory, PASSWORD)) == "FAILED_PRECONDITION/NOT_A_WALLET"
    assert refused(lambda: server.lock(directory)) == "FAILED_PRECONDITION/NOT_A_WALLET"
    assert wallet.unlock("é" * 512).password_set, "a refused call set a password"
    assert refused(lambda: wallet.unlock(PASSWORD)) == "FAILED_PRECONDITION/KEY_WRONG"
    assert wallet.backup().files_added_plaintext == 0, "a wrong password locked the wallet"
    wallet.path.rename(tmp_path / "away")
    assert refused(lambda: wallet.unlock("é" * 512)) == "UNAVAILABLE/SOURCE_OFFLINE"
    assert wallet.lock()


def test_an_unpacked_wallet_keeps_its_password(wallet: Wallet) -> None:
    server = wallet.server
    key_id = wallet.unlock().key_id
    unpacked = wallet.path.with_name("unpacked")
    with zipfile.ZipFile(wallet.backup().output_files[0]) as archive:
        archive.extractall(unpacked)
    source_id = f"{wallet.source_id}-unpacked"
    server.register(unpacked, source_id, kind=WALLET)
    assert refused(lambda: server.unlock(source_id, "another")) == "FAILED_PRECONDITION/KEY_WRONG"
    opened = server.unlock(source_id, PASSWORD)
    assert (opened.key_id, opened.password_set) == (key_id, False)


def test_a_field_that_is_not_known_is_refused_without_a_word_of_the_password(wallet: Wallet) -> None:
    request = wallet_service_pb2.UnlockWalletRequest(source_id=wallet.source_id, password=PASSWORD)
    request.MergeFromString(b"\xf8\x3e\x01")  # field 1007, which this version does not know
    name = refused(lambda: wallet.server.wallets.UnlockWallet(request, timeout=PATIENCE))
    assert name.startswith("INVALID_ARGUMENT/INVALID_FIELD")


def test_no_other_source_stores_the_coins_of_an_unlocked_wallet_in_clear(wallet: Wallet, tmp_path: Path) -> None:
    server, stem = wallet.server, wallet.source_id[:50]
    server.register(wallet.path, f"{stem}-twin", kind=WALLET)
    server.register(tmp_path, f"{stem}-parent")
    server.register(wallet.path / "Bank", f"{stem}-bank")
    server.register(tmp_path, f"{stem}-rest", ignore=["/w0/"])
    outside = tmp_path.parent / f"{tmp_path.name}-archives"

    def backup(name: str) -> task_pb2.Task:
        return server.backup(f"{stem}-{name}", outside, create_folder=True)

    for name in ("twin", "parent", "bank"):
        assert backup(name).state == task_pb2.TASK_STATE_COMPLETED, name
    assert Canary(next(wallet.path.glob("Bank/*.bin")).read_bytes()[-400:-384]).search(outside)
    wallet.unlock()
    before = sorted(outside.iterdir())
    for name in ("twin", "parent", "bank"):
        task = backup(name)
        assert (task.state, task.error.reason) == (task_pb2.TASK_STATE_FAILED, "WALLET_UNLOCKED"), name
    assert sorted(outside.iterdir()) == before
    assert backup("rest").state == task_pb2.TASK_STATE_COMPLETED
    wallet.lock()
    assert backup("parent").state == task_pb2.TASK_STATE_COMPLETED
