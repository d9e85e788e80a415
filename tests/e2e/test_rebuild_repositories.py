"""The catalog is lost, or the whole data directory: repositories are taken up again with all their backups."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random

import pytest

from holdfast.v1 import backup_pb2, credentials_pb2, repository_pb2, source_pb2, source_service_pb2, task_pb2
from holdfast.v1 import backup_service_pb2 as calls
from holdfast.v1 import repository_service_pb2 as repository_calls
from tests.e2e.test_rebuild import rebuild
from tests.harness import PATIENCE, Server, make_tree, snapshot
from tests.served_repositories import back_up, create_repository

COMPLETED = task_pb2.TASK_STATE_COMPLETED
PASSPHRASE = "a passphrase that is long enough"
SAME = ("name", "source_id", "state", "size", "locked", "create_time", "complete", "kind", "ignore", "complete_time")


class Kept:
    """A server with backups in a repository, of which some parts are lost."""

    def __init__(self, server: Server, base: Path, name: str, *, sealed: bool) -> None:
        self.server, self.base, self.name, self.sealed = server, base, name, sealed
        self.folder = base / name
        keys = [repository_pb2.NewKey(passphrase=PASSPHRASE), repository_pb2.NewKey(recovery={})]
        made = create_repository(server, name, self.folder, sealed=sealed, keys=keys, display_name=f"The {name}")
        self.shown = made.repository
        self.tree = make_tree(base / f"tree-{name}", 7)
        self.source = f"source-{name}"
        (self.tree / "noise").write_bytes(Random(7).randbytes(400_000))
        server.register(self.tree, self.source)
        self.made: dict[str, backup_pb2.Backup] = {}

    def back_up(self, **values: object) -> str:
        task = back_up(self.server, self.name, self.source, **values)
        assert task.state == COMPLETED, task.error
        (backup_id,) = task.backup_result.backup_ids
        return backup_id

    def remember(self, backup_ids: Iterable[str]) -> None:
        for backup_id in backup_ids:
            self.made[backup_id] = self.backup(backup_id)

    def backup(self, backup_id: str) -> backup_pb2.Backup:
        return self.server.backups.GetBackup(calls.GetBackupRequest(backup_id=backup_id), timeout=PATIENCE)

    def credentials(self) -> credentials_pb2.Credentials | None:
        return credentials_pb2.Credentials(passphrase=PASSPHRASE) if self.sealed else None

    def assert_as_before(self, *, in_trash: int = 0) -> None:
        """All that was remembered is listed as it was, and restores; the next backup stores nothing twice."""
        server = self.server
        every = server.backups.ListBackups(calls.ListBackupsRequest(), timeout=PATIENCE).backups
        found = {one.backup_id: one for one in every if one.source_id == self.source}
        assert set(found) == set(self.made)
        for backup_id, old in self.made.items():
            for field in SAME:
                assert getattr(found[backup_id], field) == getattr(old, field), field
            assert found[backup_id].statistics.files == old.statistics.files
        get = repository_calls.GetRepositoryRequest(repository_id=self.name)
        shown = server.repositories.GetRepository(get, timeout=PATIENCE)
        assert shown.state == repository_pb2.REPOSITORY_STATE_READY, shown.problem
        assert (shown.sealed, shown.location) == (self.sealed, str(self.folder))
        assert sorted(shown.keys, key=_key_id) == sorted(self.shown.keys, key=_key_id)
        assert shown.create_time == self.shown.create_time
        assert shown.statistics.snapshots == len(self.made) + in_trash
        for backup_id in self.made:
            target = self.base / f"back-{backup_id}"
            task = server.restore(backup_id, target, credentials=self.credentials())
            assert task.state == COMPLETED, task.error
            assert snapshot(target) == snapshot(self.tree)
        check = repository_calls.CheckRepositoryRequest(
            repository_id=self.name, level=backup_pb2.VERIFY_LEVEL_READ_DATA, credentials=self.credentials()
        )
        checked = server.ended(server.repositories.CheckRepository(check, timeout=PATIENCE).task_id)
        assert checked.state == COMPLETED, checked.error
        self._assert_nothing_stored_again()

    def _assert_nothing_stored_again(self) -> None:
        server = self.server
        source = server.sources.GetSource(source_service_pb2.GetSourceRequest(source_id=self.source))
        assert source.state == source_pb2.SOURCE_STATE_OFFLINE
        request = source_service_pb2.UpdateSourceRequest(source_id=self.source, path=str(self.tree))
        assert server.sources.UpdateSource(request).state == source_pb2.SOURCE_STATE_ACTIVE
        packs = set((self.folder / "packs").iterdir())
        (self.tree / "one more").write_bytes(b"new")
        backup_id = self.back_up()
        new = sum(path.stat().st_size for path in set((self.folder / "packs").iterdir()) - packs)
        assert 0 < new < 50_000 < sum(path.stat().st_size for path in packs)
        target = self.base / f"back-{self.name}"
        assert server.restore(backup_id, target, credentials=self.credentials()).state == COMPLETED
        assert snapshot(target) == snapshot(self.tree)


def _key_id(key: repository_pb2.RepositoryKey) -> str:
    return key.key_id


def objects(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def last_line(out: str) -> str:
    return out.splitlines()[-1]


@pytest.mark.long
def test_a_lost_catalog_is_rebuilt_from_what_lies_beside_it(new_server: Callable[..., Server], tmp_path: Path) -> None:
    server = new_server()
    kept = Kept(server, tmp_path, "vault", sealed=False)
    first, second, gone = kept.back_up(name="first", ignore=["*.tmp"]), kept.back_up(locked=True), kept.back_up()
    update = calls.UpdateBackupRequest(backup_id=first, name="another name", locked=True)
    server.backups.UpdateBackup(update, timeout=PATIENCE)
    server.backups.UpdateBackup(calls.UpdateBackupRequest(backup_id=second, locked=False), timeout=PATIENCE)
    server.backups.DeleteBackup(calls.DeleteBackupRequest(backup_id=gone), timeout=PATIENCE)
    kept.remember([first, second])
    server.stop()
    for path in server.data_dir.glob("state.sqlite*"):
        path.unlink()
    before = objects(kept.folder)

    status, out, err = rebuild(server)
    assert status == 0, err
    assert out.splitlines()[-2:] == [
        "give these sources their folders with UpdateSource: source-vault",
        "4 added, 0 known, 0 skipped, 0 missing",
    ]
    assert objects(kept.folder) == before
    server.start()
    # What waited in the trash is a backup again: the repository was not told of it.
    server.backups.DeleteBackup(calls.DeleteBackupRequest(backup_id=gone), timeout=PATIENCE)
    kept.assert_as_before(in_trash=1)


@pytest.mark.long
def test_repositories_are_taken_up_with_a_secret_alone(new_server: Callable[..., Server], tmp_path: Path) -> None:
    server = new_server(environment={"HOLDFAST_BACKUPS_TRASH_HOURS": "0"})
    both = Kept(server, tmp_path, "vault", sealed=False), Kept(server, tmp_path, "safe", sealed=True)
    for kept in both:
        first, removed = kept.back_up(name="first", locked=True), kept.back_up()
        server.backups.DeleteBackup(calls.DeleteBackupRequest(backup_id=removed), timeout=PATIENCE)
        server.backups.UpdateBackup(calls.UpdateBackupRequest(backup_id=first, name="renamed"), timeout=PATIENCE)
        kept.remember([first])
    server.stop()
    shutil.rmtree(server.data_dir)
    before = [objects(kept.folder) for kept in both]
    (tmp_path / "secret").write_text(f"{PASSPHRASE}\n")
    named = [argument for kept in both for argument in ("--repository", f"{kept.name}={kept.folder}")]

    (tmp_path / "wrong").write_text("not the passphrase\n")
    status, out, err = rebuild(server, *named[:2], "--passphrase-file", tmp_path / "wrong")
    assert (status, "no key slot of the repository takes this secret" in out) == (3, True), err
    assert not (server.data_dir / "repositories").exists()
    status, out, err = rebuild(server, *named, "--passphrase-file", tmp_path / "secret")
    assert (status, last_line(out)) == (0, "4 added, 0 known, 0 skipped, 0 missing"), err
    assert [objects(kept.folder) for kept in both] == before
    for kept in both:
        keys = server.data_dir / "repositories" / kept.name / "keys"
        assert stat.S_IMODE(keys.stat().st_mode) == 0o600
        assert ("content_keys" in json.loads(keys.read_text())) is not kept.sealed
    assert all(PASSPHRASE.encode() not in content for content in objects(server.data_dir).values())
    # From now on the keys are there.
    status, out, err = rebuild(server, "--folder", both[1].folder)
    assert (status, last_line(out)) == (0, "0 added, 4 known, 0 skipped, 0 missing"), err

    server.start()
    for kept in both:
        kept.assert_as_before()
        assert len(list((kept.folder / "log").iterdir())) == 2, "a new data directory is a new writer"
