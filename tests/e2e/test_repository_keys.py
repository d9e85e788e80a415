"""Keys of repositories over a running server: added, removed and rotated, and what opens what afterwards."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import holdfast
from holdfast import Client, Credentials, NewKey
from holdfast.cli.app import main
from tests.canary import Canary
from tests.harness import Server, snapshot, until
from tests.served_repositories import back_up, opened_repository

OLD, NEW = "canary-staple the old passphrase", "canary-staple the new passphrase"
KEY_FILE = "canary-staple the content of a key file, long enough"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("keys")) as server:
        until(lambda: server.rows("SELECT owner FROM workers"), "a worker")
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with holdfast.connect(server.address, token_file=server.data_dir / "admin.token") as client:
        yield client


class Vault:
    """A repository of the server, and a source that changes between its backups."""

    def __init__(self, server: Server, client: Client, root: Path, name: str, *, sealed: bool) -> None:
        self.server, self.client, self.name, self.sealed = server, client, name, sealed
        self.folder, self.source, self.root = root / name, root / "source", root
        self.source.mkdir()
        server.register(self.source, name)
        keys = [NewKey(passphrase=OLD, display_name="old")]
        made = client.repositories.create(name, self.folder, create_folder=True, sealed=sealed, keys=keys)
        self.old = made.repository.keys[0].key_id
        self.backups: dict[str, dict[bytes, tuple[object, ...]]] = {}

    def back_up(self) -> str:
        (self.source / f"file {len(self.backups)}").write_bytes(os.urandom(70_000))
        task = back_up(self.server, self.name, self.name)
        (backup_id,) = task.backup_result.backup_ids
        self.backups[backup_id] = snapshot(self.source)
        return str(backup_id)

    def restores(self, secret: str | None) -> bool:
        """Whether all backups come back as they were; a wrong secret raises."""
        credentials = None if secret is None else Credentials(passphrase=secret)
        for backup_id, content in self.backups.items():
            target = self.root / uuid.uuid4().hex
            self.client.restores.to_new_folder(backup_id, target, credentials=credentials).wait()
            assert snapshot(target) == content
        return True

    def key_ids(self) -> list[str]:
        return [key.key_id for key in self.client.repositories.get(self.name).keys]


def refused(reason: str, call: Callable[[], object]) -> holdfast.HoldfastError:
    with pytest.raises(holdfast.HoldfastError) as caught:
        call()
    assert caught.value.reason == reason, caught.value
    return caught.value


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
def test_keys_follow_each_other_and_everything_restores(
    server: Server, client: Client, tmp_path: Path, sealed: bool
) -> None:
    vault = Vault(server, client, tmp_path, "sealed" if sealed else "plain", sealed=sealed)
    held = client.repositories
    opening = Credentials(passphrase=OLD) if sealed else None
    vault.back_up()
    if sealed:
        refused("KEY_REQUIRED", lambda: held.rotate_key(vault.name))
        refused("KEY_REQUIRED", lambda: held.add_key(vault.name, NewKey(recovery=True)))
    wrong = Credentials(passphrase="another passphrase")
    refused("KEY_WRONG", lambda: held.rotate_key(vault.name, credentials=wrong))
    refused("KEY_WRONG", lambda: held.add_key(vault.name, NewKey(recovery=True), credentials=wrong))
    request_id = str(uuid.uuid4())
    for _ in range(2):
        rotated = held.rotate_key(vault.name, credentials=opening, request_id=request_id)
        assert rotated.key_epoch == 2, "a repeat of the same request changes nothing"
    vault.back_up()

    new, request_id = NewKey(passphrase=NEW, display_name="new"), str(uuid.uuid4())
    added = held.add_key(vault.name, new, credentials=opening, request_id=request_id)
    assert (added.key.kind, added.key.display_name, added.recovery_key) == ("PASSPHRASE", "new", None)
    assert held.add_key(vault.name, new, request_id=request_id).key == added.key
    assert vault.key_ids() == [vault.old, added.key.key_id]
    removed = held.remove_key(vault.name, vault.old)
    assert [key.key_id for key in removed.keys] == [added.key.key_id]
    refused("KEY_NOT_FOUND", lambda: held.remove_key(vault.name, vault.old))
    held.rotate_key(vault.name, credentials=Credentials(passphrase=NEW) if sealed else None)
    vault.back_up()
    refused("KEY_WRONG", lambda: held.unlock(vault.name, Credentials(passphrase=OLD)))
    with opened_repository(server, vault.name) as repository:
        assert repository.unlock(NEW).epochs == (1, 2, 3)
        assert (repository.keys.content is None) == sealed
    assert held.check(vault.name, credentials=Credentials(passphrase=NEW) if sealed else None).wait()
    if sealed:
        refused("LAST_KEY", lambda: held.remove_key(vault.name, added.key.key_id))
        assert vault.restores(NEW)
        assert Canary(b"canary-staple").search(server.data_dir) == [], "a secret was stored"
    else:
        assert held.remove_key(vault.name, added.key.key_id).keys == ()
        assert held.rotate_key(vault.name).key_epoch == 4
        vault.back_up()
        assert vault.restores(None)


def test_an_unlocked_repository_stays_so_for_what_comes_later(server: Server, client: Client, tmp_path: Path) -> None:
    vault = Vault(server, client, tmp_path, "unlocked", sealed=True)
    expires = client.repositories.unlock(vault.name, Credentials(passphrase=OLD), ttl=600).unlock_expire_time
    vault.back_up()
    rotated = client.repositories.rotate_key(vault.name)
    assert rotated.unlock_expire_time == expires
    vault.back_up()
    made = client.repositories.add_key(vault.name, NewKey(recovery=True, display_name="in the safe"))
    assert made.recovery_key is not None
    assert made.recovery_key not in repr(made)
    assert vault.restores(None)
    client.repositories.lock(vault.name)
    for secret in (Credentials(private_key=made.recovery_key), Credentials(passphrase=OLD)):
        client.repositories.unlock(vault.name, secret)
        assert vault.restores(None)
        client.repositories.lock(vault.name)
    refused("KEY_REQUIRED", lambda: client.repositories.rotate_key(vault.name))


def test_of_two_that_remove_the_last_two_keys_one_is_refused(server: Server, client: Client, tmp_path: Path) -> None:
    vault = Vault(server, client, tmp_path, "two", sealed=True)
    opening = Credentials(passphrase=OLD)
    client.repositories.add_key(vault.name, NewKey(private_key=KEY_FILE), credentials=opening)

    def remove(key_id: str) -> str:
        try:
            client.repositories.remove_key(vault.name, key_id)
        except holdfast.HoldfastError as error:
            return str(error.reason)
        return "removed"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(remove, vault.key_ids())) == ["LAST_KEY", "removed"]
    assert len(vault.key_ids()) == 1


def test_a_store_that_replaces_hides_or_brings_back_slots_gains_nothing(
    server: Server, client: Client, tmp_path: Path
) -> None:
    vault = Vault(server, client, tmp_path, "hostile", sealed=False)
    held = client.repositories
    added = held.add_key(vault.name, NewKey(private_key=KEY_FILE)).key
    old, new = vault.folder / "keys" / vault.old, vault.folder / "keys" / added.key_id
    content = old.read_bytes()

    def log() -> set[str]:
        return {str(path) for path in (vault.folder / "log").rglob("*")}

    before = log()
    old.unlink()
    error = refused("CHECKSUM_MISMATCH", lambda: held.rotate_key(vault.name))
    assert error.metadata["key_id"] == vault.old
    old.write_bytes(new.read_bytes())
    refused("CHECKSUM_MISMATCH", lambda: held.rotate_key(vault.name))
    assert log() == before
    assert held.get(vault.name).key_epoch == 1
    old.unlink()
    old.write_bytes(content)
    held.remove_key(vault.name, vault.old)
    old.write_bytes(content)
    refused("KEY_WRONG", lambda: held.unlock(vault.name, Credentials(passphrase=OLD)))
    held.rotate_key(vault.name)
    vault.back_up()
    assert held.check(vault.name).wait()
    with opened_repository(server, vault.name) as repository:
        assert [slot.slot_id for slot in repository.slots()] == [added.key_id]


def test_the_command_line(server: Server, client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vault = Vault(server, client, tmp_path, "shown", sealed=True)
    for name, secret in (("old", OLD), ("new", NEW), ("file", KEY_FILE)):
        (tmp_path / name).write_text(secret + "\n" * (name != "file"))

    def cli(*arguments: str) -> tuple[int, str, str]:
        code = main(["--data-dir", str(server.data_dir), "repository", "key", *arguments])
        found = capsys.readouterr()
        return code, found.out, found.err

    opening = "--passphrase-file", str(tmp_path / "old")
    code, out, _ = cli(
        "add", "shown", "--new-passphrase-file", str(tmp_path / "new"), "--display-name", "new", *opening
    )
    assert (code, out.split()[:2]) == (0, ["added", "key"])
    key_id = out.split()[2].rstrip(",")
    code, out, _ = cli("add", "shown", "--new-key-file", str(tmp_path / "file"), *opening)
    assert code == 0
    code, out, err = cli("add", "shown", "--new-recovery-key", *opening)
    assert code == 0
    assert "recovery key: HFRK1-" in out
    assert "Write the recovery key down" in err
    code, out, _ = cli("list", "shown")
    assert [line.split()[1] for line in out.splitlines()[1:]] == ["passphrase", "passphrase", "key", "recovery"]
    code, out, _ = cli("rotate", "shown", "--key-file", str(tmp_path / "file"))
    assert (code, out) == (0, "shown uses its key of epoch 2 from now on\n")
    code, out, err = cli("remove", "shown", vault.old)
    assert (code, out) == (0, f"removed key {vault.old}\n")
    assert "can still read" in err
    code, _, err = cli("rotate", "shown", *opening)
    assert code != 0
    assert "KEY_WRONG" in err
    code, _, err = cli("add", "shown", "--new-recovery-key", "--new-key-file", str(tmp_path / "file"))
    assert code == 2
    assert "only one of" in err
    assert key_id in vault.key_ids()
    assert not {OLD, NEW, KEY_FILE} & set(err.split("\n"))
