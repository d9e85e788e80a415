"""Unlocked wallets: whose password it is, for how long, and what a backup is told of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.catalog import schema, wallet_keys
from holdfast_server.catalog.requests import RequestKey
from holdfast_server.catalog.rows import SourceKind, TaskRow
from holdfast_server.catalog.wallet_keys import WalletKeyRow
from holdfast_server.errors import FailedPrecondition, HoldfastError, NotFound, Reason, Unavailable
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks.backup_orders import BackupOrder, BackupOrders
from holdfast_server.tasks.credentials import Credentials
from holdfast_server.tasks.run import Outcome, TaskRun
from holdfast_server.tasks.sources import SourceOrder, SourceRegistry
from holdfast_server.tasks.wallet_keys import UnlockedWallet, WalletKeys, required_key
from holdfast_server.tasks.wallet_reader import WalletReader
from holdfast_server.wallets.envelope import KeyParameters, WalletKey, encrypt
from tests.unit.tasks.conftest import World

PASSWORD = "canary: correct horse"
SECOND = 1_000_000


def quick(number: int = 0) -> KeyParameters:
    """Parameters that cost nothing."""
    return KeyParameters(bytes([number]) * 16, memory_kib=32, passes=1, lanes=1)


def quick_key(password: str, number: int = 0) -> WalletKey:
    return WalletKey.derive(password, quick(number))


@pytest.fixture(scope="module")
def reader() -> Iterator[WalletReader]:
    made = WalletReader()
    yield made
    made.close()


class Fixture:
    """A catalog with sources, an edge's keys, and another edge's on the same catalog."""

    def __init__(self, world: World, base: Path, reader: WalletReader) -> None:
        self.world, self.base, self.reader = world, base, reader
        (base / "data").mkdir()
        (base / "archives").mkdir()
        self.policy = FolderPolicy(str(base / "data"), ["/"])
        self.registry = SourceRegistry(world.database, self.policy, world.clock)
        self.keys, self.elsewhere = self.new_edge(), self.new_edge()
        self.orders = BackupOrders(world.database, world.engine, self.policy, world.clock, self.keys)

    def new_edge(self) -> WalletKeys:
        return WalletKeys(self.world.database, self.policy, self.reader, self.world.clock)

    def wallet(self, name: str, password: str | None = None) -> Path:
        """A registered wallet; with a password one whose key costs nothing."""
        path = self.base / name
        for folder in ("Bank", "Fracked", "Suspect"):
            (path / folder).mkdir(parents=True)
        for file in ("config.toml", "transactions.csv"):
            (path / file).write_text("")
        self.registry.register(SourceOrder(os.fsencode(path), SourceKind.WALLET, name), None)
        if password is not None:
            key = quick_key(password)
            with self.world.database.write() as connection:
                row = WalletKeyRow(name, key.key_id, key.parameters.salt, 32, 1, 1, self.world.clock.now())
                wallet_keys.insert_wallet_key(connection, row)
        return path

    def directory(self, name: str) -> None:
        (self.base / name).mkdir()
        self.registry.register(SourceOrder(os.fsencode(self.base / name), SourceKind.DIRECTORY, name), None)

    def order(self, *source_ids: str, dry_run: bool = False, key: RequestKey | None = None) -> TaskRow:
        self.world.clock.step(0.001)
        folder = os.fsencode(self.base / "archives")
        order = BackupOrder(source_ids, False, folder, ArchiveFormat.ZIP, dry_run=dry_run)
        return self.orders.create(order, "admin", key)

    def coin_keys(self, row: TaskRow) -> dict[str, str | None]:
        return {entry["source_id"]: entry.get("coin_key_id") for entry in row.request["sources"]}

    def at_work(self, row: TaskRow) -> dict[str, str | None]:
        """What the worker is told to encrypt each source with: a key id, None for in clear, or a reason."""
        found: dict[str, str | None] = {}

        def work(run: TaskRun) -> Outcome:
            for entry in row.request["sources"]:
                try:
                    key = required_key(run, self.world.database, self.world.clock, entry)
                    found[entry["source_id"]] = None if key is None else key.key_id
                except HoldfastError as error:
                    found[entry["source_id"]] = error.reason.value
            return Outcome({}, "done")

        self.world.handler.work = work
        assert self.world.execute(row.task_id) == "completed"
        return found

    def rows(self, table: sa.Table) -> list[str]:
        with self.world.database.read() as connection:
            return sorted(row[0] for row in connection.execute(sa.select(table.c.source_id)))


@pytest.fixture
def fixture(world: World, tmp_path: Path, reader: WalletReader) -> Fixture:
    return Fixture(world, tmp_path, reader)


def key_wrong(fixture: Fixture, source_id: str, password: str) -> FailedPrecondition:
    with pytest.raises(FailedPrecondition) as caught:
        fixture.keys.unlock(source_id, password, 60)
    assert caught.value.reason is Reason.KEY_WRONG
    assert password not in f"{caught.value} {caught.value.metadata}"
    return caught.value


# -- the password --------------------------------------------------------------------------------------------------


def test_the_first_unlock_sets_the_password(fixture: Fixture) -> None:
    fixture.wallet("a")
    assert fixture.keys.unlocked("a") is None
    first = fixture.keys.unlock("a", PASSWORD, 60)
    assert first.password_set
    assert first.expire_time == fixture.world.clock.now() + 60 * SECOND
    key = fixture.keys.unlocked("a")
    assert key is not None
    assert (key.key_id, key.parameters.memory_kib) == (first.key_id, 64 << 10)
    key_wrong(fixture, "a", PASSWORD + " ")
    again = fixture.keys.unlock("a", PASSWORD, 60)
    assert (again.key_id, again.password_set) == (first.key_id, False)


def test_two_wallets_with_one_password_have_two_keys(fixture: Fixture) -> None:
    ids = set()
    for name in ("a", "b"):
        fixture.wallet(name)
        ids.add(fixture.keys.unlock(name, PASSWORD, 60).key_id)
    assert len(ids) == 2


def test_a_wrong_password_changes_nothing(fixture: Fixture) -> None:
    fixture.wallet("a", PASSWORD)
    key_wrong(fixture, "a", "wrong")
    assert fixture.rows(schema.wallet_unlocks) == []
    before = fixture.keys.unlock("a", PASSWORD, 60)
    fixture.world.clock.step(10)
    key_wrong(fixture, "a", "wrong")
    key = fixture.keys.unlocked("a")
    assert key is not None
    assert key.key_id == before.key_id
    fixture.world.clock.step(50)
    assert fixture.keys.unlocked("a") is None, "a wrong password prolonged it"


def test_of_two_first_passwords_at_once_one_is_set(fixture: Fixture) -> None:
    fixture.wallet("a")
    results: list[UnlockedWallet | HoldfastError] = []

    def unlock(password: str) -> None:
        try:
            results.append(fixture.keys.unlock("a", password, 60))
        except HoldfastError as error:
            results.append(error)

    threads = [threading.Thread(target=unlock, args=(f"password {number}",)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (good,) = (one for one in results if isinstance(one, UnlockedWallet))
    (bad,) = (one for one in results if isinstance(one, HoldfastError))
    assert good.password_set
    assert bad.reason is Reason.KEY_WRONG


@pytest.mark.parametrize("where", ["Bank", "Fracked", "Bank/older"])
def test_coins_that_are_encrypted_already_give_the_password(fixture: Fixture, where: str) -> None:
    path = fixture.wallet("a")
    (path / where).mkdir(exist_ok=True)
    key = quick_key(PASSWORD, 3)
    (path / where / "coin.bin.hfcc").write_bytes(encrypt(b"coin", key))
    (path / where / "text.hfcc").write_bytes(b"none at all")
    (path / where / "link.hfcc").symlink_to("coin.bin.hfcc")
    error = key_wrong(fixture, "a", "not theirs")
    assert "another password" in error.message
    assert error.metadata["file"] == f"{where}/coin.bin.hfcc"
    assert fixture.rows(schema.wallet_keys) == []
    opened = fixture.keys.unlock("a", PASSWORD, 60)
    assert (opened.key_id, opened.password_set) == (key.key_id, False)
    key_wrong(fixture, "a", "not theirs")


def test_among_coins_of_several_passwords_one_must_fit(fixture: Fixture) -> None:
    path = fixture.wallet("a")
    for number in range(4):
        (path / "Bank" / f"{number}.bin.hfcc").write_bytes(encrypt(b"coin", quick_key(f"password {number}", number)))
    assert fixture.keys.unlock("a", "password 2", 60).key_id == quick_key("password 2", 2).key_id


def test_hostile_envelopes_cost_a_bounded_time(fixture: Fixture) -> None:
    path = fixture.wallet("a")
    for number in range(60):
        (path / "Bank" / f"{number:02}.hfcc").write_bytes(encrypt(b"coin", quick_key("theirs", number)))
    (path / "Bank" / "99.hfcc").write_bytes(encrypt(b"coin", quick_key(PASSWORD, 99)))
    assert key_wrong(fixture, "a", PASSWORD).metadata["files"] == "61"


def test_encrypted_coins_that_are_no_money_give_no_password(fixture: Fixture) -> None:
    path = fixture.wallet("a")
    (path / "Suspect" / "coin.bin.hfcc").write_bytes(encrypt(b"coin", quick_key("theirs")))
    assert fixture.keys.unlock("a", PASSWORD, 60).password_set


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_where_it_cannot_look_no_password_is_set(fixture: Fixture) -> None:
    path = fixture.wallet("a")
    (path / "Bank").chmod(0)
    try:
        with pytest.raises(FailedPrecondition) as caught:
            fixture.keys.unlock("a", PASSWORD, 60)
    finally:
        (path / "Bank").chmod(0o700)
    assert caught.value.reason is Reason.SOURCE_UNREADABLE
    assert fixture.rows(schema.wallet_keys) == []


def test_what_is_no_wallet_that_can_be_reached(fixture: Fixture) -> None:
    fixture.directory("d")
    path = fixture.wallet("a", PASSWORD)
    path.rename(path.with_name("away"))
    for call, source_id, error, reason in (
        ("unlock", "none", NotFound, Reason.SOURCE_NOT_FOUND),
        ("lock", "none", NotFound, Reason.SOURCE_NOT_FOUND),
        ("unlock", "d", FailedPrecondition, Reason.NOT_A_WALLET),
        ("lock", "d", FailedPrecondition, Reason.NOT_A_WALLET),
        ("unlock", "a", Unavailable, Reason.SOURCE_OFFLINE),
    ):
        with pytest.raises(error) as caught:  # type: ignore[var-annotated]
            fixture.keys.unlock(source_id, PASSWORD, 60) if call == "unlock" else fixture.keys.lock(source_id)
        assert caught.value.reason is reason
    assert not fixture.keys.lock("a"), "a wallet that is away can be locked"


# -- how long ------------------------------------------------------------------------------------------------------


def test_a_wallet_locks_itself(fixture: Fixture) -> None:
    fixture.wallet("a", PASSWORD)
    fixture.keys.unlock("a", PASSWORD, 60)
    fixture.world.clock.step(59)
    fixture.keys.tick()
    assert fixture.keys.unlocked("a") is not None
    fixture.world.clock.step(1)
    assert fixture.keys.unlocked("a") is None
    fixture.keys.tick()
    assert fixture.rows(schema.wallet_unlocks) == []
    assert not fixture.keys.lock("a")


def test_unlocking_again_sets_the_time_anew(fixture: Fixture) -> None:
    fixture.wallet("a", PASSWORD)
    fixture.keys.unlock("a", PASSWORD, 3600)
    fixture.keys.unlock("a", PASSWORD, 1.5)
    fixture.world.clock.step(1.4)
    assert fixture.keys.unlocked("a") is not None
    fixture.world.clock.step(0.2)
    assert fixture.keys.unlocked("a") is None


def test_a_lock_is_immediate_and_told_once(fixture: Fixture) -> None:
    fixture.wallet("a", PASSWORD)
    fixture.keys.unlock("a", PASSWORD, 60)
    assert fixture.keys.lock("a")
    assert fixture.keys.unlocked("a") is None
    assert not fixture.keys.lock("a")


def test_what_another_edge_locks_is_locked_here(fixture: Fixture) -> None:
    fixture.wallet("a", PASSWORD)
    fixture.keys.unlock("a", PASSWORD, 60)
    assert fixture.elsewhere.lock("a")
    assert fixture.keys.unlocked("a") is None
    assert fixture.keys.attach(["a"]) is None
    fixture.elsewhere.unlock("a", PASSWORD, 60)
    assert fixture.keys.unlocked("a") is None, "what was locked came back without its password"


def test_the_tick_forgets_what_another_edge_locked(fixture: Fixture) -> None:
    fixture.wallet("a", PASSWORD)
    fixture.keys.unlock("a", PASSWORD, 60)
    fixture.elsewhere.lock("a")
    fixture.keys.tick()
    assert fixture.keys._held.present() == {}


def test_an_unregistered_wallet_forgets_its_password(fixture: Fixture) -> None:
    path = fixture.wallet("a", PASSWORD)
    fixture.keys.unlock("a", PASSWORD, 60)
    fixture.registry.unregister("a")
    assert (fixture.rows(schema.wallet_keys), fixture.rows(schema.wallet_unlocks)) == ([], [])
    fixture.registry.register(SourceOrder(os.fsencode(path), SourceKind.WALLET, "a"), None)
    assert fixture.keys.unlocked("a") is None
    assert fixture.keys.unlock("a", "a new one", 60).password_set


# -- what others are given -----------------------------------------------------------------------------------------


def test_keys_are_attached_beside_a_secret_of_the_call(fixture: Fixture) -> None:
    fixture.wallet("a", PASSWORD)
    fixture.wallet("b", PASSWORD)
    fixture.keys.unlock("a", PASSWORD, 60)
    text = quick_key(PASSWORD).to_text()
    given = Credentials(age_identity="x")
    alone, beside, none = (
        fixture.keys.attach(ids, c) for ids, c in ((["a", "b"], None), (["a"], given), (["b"], given))
    )
    assert alone == Credentials(wallet_keys=(text,))
    assert beside == Credentials(age_identity="x", wallet_keys=(text,))
    assert none is given
    assert fixture.keys.attach(["b"]) is None
    both = fixture.keys.keyring("a", Credentials(wallet_password="other"))
    assert both.to_texts() == [text, "password other"]
    assert not fixture.keys.keyring("b")


def test_a_backup_is_told_which_wallets_are_unlocked(fixture: Fixture) -> None:
    for name in ("a", "b"):
        fixture.wallet(name, PASSWORD)
    fixture.directory("d")
    key_id = fixture.keys.unlock("a", PASSWORD, 60).key_id
    row = fixture.order("a", "b", "d")
    assert fixture.coin_keys(row) == {"a": key_id, "b": None, "d": None}
    assert fixture.at_work(row) == {"a": key_id, "b": None, "d": None}
    with fixture.world.database.read() as connection:
        stored = str(list(connection.execute(sa.select(schema.tasks))))
    assert quick_key(PASSWORD).to_text().split()[-1] not in stored


def test_without_its_key_an_unlocked_wallet_fails_alone(fixture: Fixture) -> None:
    for name in ("a", "b", "c"):
        fixture.wallet(name, PASSWORD)
    key_id = fixture.elsewhere.unlock("a", PASSWORD, 60).key_id
    row = fixture.order("a", "b")
    assert fixture.coin_keys(row) == {"a": key_id, "b": None}
    assert fixture.at_work(row) == {"a": "KEY_REQUIRED", "b": None}


def test_a_call_that_could_do_nothing_is_refused(fixture: Fixture) -> None:
    fixture.wallet("a", PASSWORD)
    known = RequestKey("admin", "CreateBackup", "1" * 36, "f" * 64)
    before = fixture.order("a", key=known)
    fixture.elsewhere.unlock("a", PASSWORD, 60)
    with pytest.raises(FailedPrecondition) as caught:
        fixture.order("a")
    assert caught.value.reason is Reason.KEY_REQUIRED
    assert "unlock it again, or lock it" in caught.value.message
    assert fixture.order("a", key=known).task_id == before.task_id, "a repeat gives the task that there is"
    assert fixture.order("a", dry_run=True).dry_run
    fixture.world.clock.step(60)
    assert fixture.coin_keys(fixture.order("a")) == {"a": None}


def test_a_wallet_unlocked_after_the_call_is_not_stored_in_clear(fixture: Fixture) -> None:
    fixture.wallet("a", PASSWORD)
    row = fixture.order("a")
    fixture.keys.unlock("a", PASSWORD, 60)
    assert fixture.at_work(row) == {"a": "KEY_REQUIRED"}


def test_what_was_asked_for_unlocked_is_not_stored_in_clear_once_locked(fixture: Fixture) -> None:
    fixture.wallet("a", PASSWORD)
    fixture.keys.unlock("a", PASSWORD, 60)
    locked, expired = fixture.order("a"), fixture.order("a")
    fixture.keys.lock("a")
    assert fixture.at_work(locked) == {"a": "KEY_REQUIRED"}
    fixture.world.clock.step(60)
    assert fixture.at_work(expired) == {"a": "KEY_REQUIRED"}
    assert fixture.at_work(fixture.order("a")) == {"a": None}, "locked means in clear"


def test_a_task_that_runs_goes_on_with_its_key(fixture: Fixture) -> None:
    fixture.wallet("a", PASSWORD)
    key_id = fixture.keys.unlock("a", PASSWORD, 60).key_id
    row = fixture.order("a")
    run = fixture.world.claim(row.task_id)
    assert run is not None
    fixture.keys.lock("a")
    (entry,) = row.request["sources"]
    key = required_key(run, fixture.world.database, fixture.world.clock, entry)
    assert key is not None
    assert key.key_id == key_id
    fixture.world.lose_lease()
    assert fixture.at_work(row) == {"a": "KEY_REQUIRED"}, "the next attempt has no key"
