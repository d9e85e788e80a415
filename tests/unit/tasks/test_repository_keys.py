"""Keys of repositories in the edge: what the catalog keeps of them, and what is left when a step fails."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.catalog.requests import RequestKey
from holdfast_server.core.repository_keys import WantedSlot
from holdfast_server.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    HoldfastError,
    NotFound,
    Reason,
    ResourceExhausted,
    Unavailable,
)
from holdfast_server.repository import RepositoryKeys
from holdfast_server.tasks import repository_keys
from holdfast_server.tasks.credentials import Credentials
from holdfast_server.tasks.repositories import open_repository
from holdfast_server.tasks.repository_keys import RepositoryKeyring
from tests.unit.tasks.conftest import InProcess, World
from tests.unit.tasks.test_repositories import FILE_SLOT, KEY_FILE, RECOVERY_SLOT, Fixture, always

NEW_FILE = "canary-staple: the content of a newer key file, long enough"
NEW_SLOT = WantedSlot("KEY_FILE", NEW_FILE, "newer")
OPENING = Credentials(private_key=KEY_FILE)


class Keys(Fixture):
    """The fixture of repositories, with what changes their keys."""

    def __init__(self, world: World, base: Path) -> None:
        super().__init__(world, base, InProcess())
        self.keyring = RepositoryKeyring(
            world.database, self.registry, InProcess(), world.clock, os.fsencode(self.data_dir)
        )

    def add(self, key: RequestKey | None = None, credentials: Credentials | None = OPENING) -> dict[str, Any]:
        return self.keyring.add("vault", NEW_SLOT, credentials, key, always).slot

    def rotate(self, key: RequestKey | None = None, credentials: Credentials | None = OPENING) -> int:
        return self.keyring.rotate("vault", credentials, key, always).key_epoch

    def remove(self, key_id: str) -> list[str]:
        return [slot["key_id"] for slot in self.keyring.remove("vault", key_id, always).keys]

    def listed(self) -> list[str]:
        return [slot["key_id"] for slot in self.registry.show("vault").keys]

    def epochs(self, secret: str = KEY_FILE) -> tuple[int, ...]:
        with open_repository(self.registry.show("vault"), os.fsencode(self.data_dir)) as opened:
            return opened.repository.unlock(secret).epochs

    def failing(self, work: Any, kind: type[HoldfastError], reason: Reason) -> HoldfastError:
        with pytest.raises(kind) as caught:
            work()
        assert caught.value.reason is reason
        return caught.value


@pytest.fixture
def keys(world: World, tmp_path: Path) -> Keys:
    return Keys(world, tmp_path)


def request(method: str, fingerprint: str = "f" * 64) -> RequestKey:
    return RequestKey("admin", method, "0" * 36, fingerprint)


def test_the_catalog_learns_of_every_change(keys: Keys) -> None:
    row = keys.sealed()
    (old, safe) = keys.listed()
    keys.world.clock.step(1)
    added = keys.add()
    assert (added["kind"], added["display_name"]) == ("KEY_FILE", "newer")
    assert keys.listed() == [old, safe, added["key_id"]]
    assert keys.rotate() == 2
    shown = keys.registry.show("vault")
    assert shown.update_time > row.update_time
    (head,) = shown.log_vector.values()
    assert head[0] == 2  # the key is told twice
    assert keys.remove(old) == [safe, added["key_id"]]
    error = keys.failing(lambda: keys.remove(old), NotFound, Reason.KEY_NOT_FOUND)
    assert error.metadata == {"key_id": old, "repository_id": "vault"}
    for missing in ("", "../../keys", "0" * 32):
        keys.failing(lambda missing=missing: keys.remove(missing), NotFound, Reason.KEY_NOT_FOUND)
    assert keys.remove(safe) == [added["key_id"]]
    keys.failing(lambda: keys.remove(added["key_id"]), FailedPrecondition, Reason.LAST_KEY)
    assert keys.epochs(NEW_FILE) == (1, 2)
    for work in (
        lambda: keys.keyring.add("none", NEW_SLOT, None, None, always),
        lambda: keys.keyring.remove("none", old, always),
        lambda: keys.keyring.rotate("none", None, None, always),
    ):
        keys.failing(work, NotFound, Reason.REPOSITORY_NOT_FOUND)


def test_a_repeat_of_a_request_changes_nothing(keys: Keys) -> None:
    keys.create(slots=(FILE_SLOT,))
    first = keys.keyring.add("vault", RECOVERY_SLOT, None, request("AddKey"), always)
    again = keys.keyring.add("vault", RECOVERY_SLOT, None, request("AddKey"), always)
    assert first.recovery_key is not None
    assert again.recovery_key is None
    assert again.slot == first.slot
    assert first.recovery_key not in repr(first)
    assert len(keys.listed()) == 2
    assert [keys.rotate(request("RotateKey")) for _ in range(2)] == [2, 2]
    for work in (lambda: keys.add(request("AddKey", "0")), lambda: keys.rotate(request("RotateKey", "0"))):
        keys.failing(work, AlreadyExists, Reason.REQUEST_ID_REUSED)


def test_a_sealed_repository_asks_for_a_key(keys: Keys) -> None:
    keys.sealed()
    wrong = Credentials(private_key="the content of a key file that opens nothing")
    for work in (keys.add, keys.rotate):
        keys.failing(lambda work=work: work(credentials=None), FailedPrecondition, Reason.KEY_REQUIRED)
        keys.failing(lambda work=work: work(credentials=wrong), FailedPrecondition, Reason.KEY_WRONG)
    keys.unlock()
    before = keys.registry.unlocked("vault")
    assert keys.rotate(credentials=None) == 2
    after = keys.registry.unlocked("vault")
    assert before is not None
    assert after is not None
    assert after.startswith(before + " 2:")
    keys.registry.lock("vault")
    assert keys.rotate() == 3
    assert keys.registry.unlocked("vault") is None, "a rotation unlocks nothing"


def test_a_key_that_could_not_be_kept_is_not_used(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    keys.create(slots=(FILE_SLOT,))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(RepositoryKeys, "save", full)
        keys.failing(keys.rotate, ResourceExhausted, Reason.DISK_FULL)
    assert keys.epochs() == (1,)
    assert keys.registry.show("vault").key_epoch == 1
    assert keys.rotate() == 3, "the number was claimed"
    assert keys.epochs() == (1, 3)


def test_what_a_crash_kept_from_the_catalog_is_told_by_the_next_call(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys.create(slots=(FILE_SLOT,))

    class Crash(BaseException):
        pass

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(RepositoryKeyring, "_record", crash)
        for work in (keys.add, keys.rotate):
            with pytest.raises(Crash):
                work()
    assert (len(keys.listed()), keys.registry.show("vault").key_epoch) == (1, 1)
    assert keys.rotate() == 3
    assert len(keys.listed()) == 2
    assert keys.epochs(NEW_FILE) == (1, 2, 3)


def test_a_damaged_slot_stays_listed_and_can_be_removed(keys: Keys, tmp_path: Path) -> None:
    keys.create(slots=(FILE_SLOT, RECOVERY_SLOT))
    broken = keys.listed()[1]
    path = tmp_path / "vault" / "keys" / broken
    path.write_bytes(path.read_bytes()[:-1])
    error = keys.failing(keys.rotate, DataLoss, Reason.CHECKSUM_MISMATCH)
    assert error.metadata["object"] == f"keys/{broken}"
    keys.add()
    assert broken in keys.listed()
    assert broken not in keys.remove(broken)
    assert keys.rotate() == 2


def test_one_call_at_a_time(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    keys.create(slots=(FILE_SLOT,))
    keys.rotate()
    lock = os.open(keys.kept() / "keys.lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        given_up = keys.failing(
            lambda: keys.keyring.rotate("vault", None, None, lambda: False), Unavailable, Reason.CATALOG_BUSY
        )
        assert "vault" in given_up.message
        monkeypatch.setattr(repository_keys, "_PATIENCE_SECONDS", 0.0)
        keys.failing(keys.rotate, Unavailable, Reason.CATALOG_BUSY)
    finally:
        os.close(lock)
    assert keys.rotate() == 3


def test_a_secret_brings_back_what_an_older_data_directory_lacks(keys: Keys) -> None:
    keys.create(slots=(FILE_SLOT,))
    before = (keys.kept() / "keys").read_bytes()
    keys.rotate()
    after = (keys.kept() / "keys").read_bytes()
    (keys.kept() / "keys").write_bytes(before)
    error = keys.failing(lambda: keys.add(credentials=None), FailedPrecondition, Reason.KEY_REQUIRED)
    assert error.metadata["epoch"] == "2"
    keys.add()
    assert (keys.kept() / "keys").read_bytes() == before
    keys.unlock(NEW_FILE)
    assert (keys.kept() / "keys").read_bytes() == after
    keys.unlock(NEW_FILE)
    assert (keys.kept() / "keys").read_bytes() == after
    keys.add(credentials=None)


def test_without_its_keys_nothing_can_be_changed(keys: Keys) -> None:
    keys.create(slots=(FILE_SLOT,))
    (keys.kept()).rename(keys.base / "away")
    keys.failing(keys.rotate, FailedPrecondition, Reason.REPOSITORY_KEYS_LOST)
