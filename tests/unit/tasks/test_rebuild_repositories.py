"""Repositories brought back into a lost catalog: all that is theirs, whatever else is lost, and nothing by guessing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.catalog import backups, repositories, sources
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import BackupRow, RepositoryRow
from holdfast_server.core.kept_place import KeptPlace, keep_repository, read_place
from holdfast_server.core.new_repository import slot_record
from holdfast_server.key_derivation import KeyParameters
from holdfast_server.repository import NewSlot, RepositoryKeys, SlotKind, remove_snapshots, tell_of_snapshot
from holdfast_server.repository.facts import Committed
from holdfast_server.repository.log import LogReader, LogWriter
from holdfast_server.storage.objects import LocalObjects
from holdfast_server.tasks.rebuild import Finding, FindingKind, RebuildSummary
from holdfast_server.tasks.rebuild_repositories import RepositoriesRebuild, ToldPlace
from tests.repositories import Backups
from tests.unit.tasks.conftest import StepClock

PASSPHRASE, FILE = "correct horse battery", "a key file of more than thirty-two bytes"
SLOTS = (NewSlot(SlotKind.PASSPHRASE, PASSPHRASE, "mine"), NewSlot(SlotKind.KEY_FILE, FILE))
GONE = "0e2ad3c8-4a9b-4d0e-a9a5-4b3d6c7e8f90"


class Lost:
    """A repository with snapshots, and an empty catalog in a data directory that has its keys or not."""

    def __init__(self, base: Path, catalog: Path, *, sealed: bool = False) -> None:
        self.base, self.location, self.data_dir = base, base / "vault", base / "data"
        self.location.mkdir()
        self._fd = os.open(self.location, os.O_RDONLY | os.O_DIRECTORY)
        self.store = LocalObjects(self._fd, str(self.location))
        self.backups = Backups(base / "caches", self.store, sealed=sealed, slots=SLOTS)
        self.tree = base / "tree"
        self.tree.mkdir()
        (self.tree / "file").write_bytes(b"content")
        self.data_dir.mkdir()
        shutil.copyfile(catalog, self.data_dir / "state.sqlite")
        self.database = Database(f"sqlite:///{self.data_dir / 'state.sqlite'}", busy_timeout=5.0)
        self.clock = StepClock()
        self.told: list[Finding] = []

    def close(self) -> None:
        self.database.close()
        self.store.close()
        os.close(self._fd)

    @property
    def keys_folder(self) -> Path:
        return self.data_dir / "repositories" / "vault"

    def keep(self, *, display_name: str = "The vault", keys: RepositoryKeys | None = None) -> None:
        """Let the data directory have keys and place."""
        place = KeptPlace("vault", display_name, os.fsencode(self.location))
        keep_repository(os.fsencode(self.keys_folder), place, keys or self.backups.keys)

    def back_up(self) -> str:
        return self.backups.back_up(self.tree).run_id

    def run(self, *told: ToldPlace, **values: Any) -> RebuildSummary:
        self.told.clear()
        summary = RebuildSummary()
        data_dir = os.fsencode(self.data_dir)
        RepositoriesRebuild(self.database, self.clock, data_dir, self.told.append, summary, **values).run(told)
        return summary

    def at(self, repository_id: str | None = "vault") -> ToldPlace:
        return ToldPlace(repository_id, os.fsencode(self.location))

    def texts(self, kind: FindingKind) -> dict[str, str]:
        base = os.fsencode(self.base)
        return {os.fsdecode(os.path.relpath(one.path, base)): one.text for one in self.told if one.kind is kind}

    def skipped(self) -> str:
        (text,) = self.texts(FindingKind.SKIPPED).values()
        return text

    def rows(self) -> dict[str, BackupRow]:
        with self.database.read() as connection:
            return {row.backup_id: row for row in backups.every_backup(connection)}

    def repositories(self) -> list[RepositoryRow]:
        with self.database.read() as connection:
            return repositories.list_repositories(connection, limit=10)

    def objects(self) -> dict[str, bytes]:
        return {info.name: self.store.get(info.name) for info in self.store.list("")}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """New slots cost next to nothing."""
    monkeypatch.setattr(KeyParameters, "new", classmethod(lambda cls: cls(bytes(range(16)), 64, 1, 2)))


@pytest.fixture
def lost(tmp_path: Path, empty_catalog: Path) -> Iterator[Lost]:
    made = Lost(tmp_path, empty_catalog)
    yield made
    made.close()


@pytest.fixture
def sealed(tmp_path: Path, empty_catalog: Path) -> Iterator[Lost]:
    made = Lost(tmp_path, empty_catalog, sealed=True)
    yield made
    made.close()


def test_all_that_the_repository_tells_is_in_the_catalog_again(lost: Lost) -> None:
    kept, removed = lost.back_up(), lost.back_up()
    repository = lost.backups.opened()
    tell_of_snapshot(repository, kept, 1, name="another name", locked=True)
    tell_of_snapshot(repository, kept, 2, locked=False)
    tell_of_snapshot(repository, kept, 3, name="the last name", locked=True)
    remove_snapshots(repository, [removed], 4)
    lost.keep()
    before = lost.objects()
    assert lost.run() == RebuildSummary(found=2)
    assert lost.objects() == before
    (row,) = lost.rows().values()
    snapshot = lost.backups.snapshots()[kept]
    assert (row.backup_id, row.name, row.locked, row.kind) == (kept, "the last name", True, "SNAPSHOT")
    assert (row.state, row.complete, row.size, row.task_id) == ("COMPLETED", True, 7, "")
    assert (row.create_time, row.complete_time) == (snapshot.create_us, snapshot.complete_us)
    assert (row.repository_id, row.sealed, row.folder, row.format) == ("vault", False, b"", "")
    assert row.statistics["files"] == 1
    assert row.statistics["stored_size"] == snapshot.stored_size
    (found,) = lost.repositories()
    assert (found.display_name, found.location, found.state) == ("The vault", os.fsencode(lost.location), "READY")
    assert (found.fingerprint, found.uuid, found.sealed) == (lost.backups.fingerprint, lost.backups.keys.uuid, False)
    assert found.create_time == repository.config.create_us
    assert found.keys == [slot_record(slot) for slot in repository.slots()]
    heads = repository.log_heads()
    assert found.log_vector == {writer.hex(): [head.sequence, head.hash.hex()] for writer, head in heads.items()}
    with lost.database.read() as connection:
        (proof,) = backups.verifications_of(connection, [kept])[kept]
        source = sources.get_source(connection, "source")
    assert (proof.level, proof.ok, proof.files_checked) == ("STRUCTURE", True, 0)
    assert source is not None
    assert (source.kind, source.path, source.ignore) == ("DIRECTORY", b"", [])
    assert lost.run() == RebuildSummary(known=2)


def test_what_an_interrupted_run_or_an_old_catalog_lacks_is_added(lost: Lost) -> None:
    first = lost.back_up()
    lost.keep()
    assert lost.run(dry_run=True) == RebuildSummary(found=2)
    assert (lost.rows(), lost.repositories()) == ({}, [])
    assert lost.run() == RebuildSummary(found=2)
    (before,) = lost.repositories()
    second = lost.back_up()
    assert lost.run() == RebuildSummary(found=1, known=2)
    assert set(lost.rows()) == {first, second}
    assert lost.repositories() == [before]


def test_damage_and_loss_are_told_and_take_nothing_else_away(lost: Lost) -> None:
    whole, damaged, missing = lost.back_up(), lost.back_up(), lost.back_up()
    tell_of_snapshot(lost.backups.opened(), damaged, 1, name="a name to know it by")
    lost.store.delete(f"snapshots/{missing}")
    (lost.location / "snapshots" / damaged).write_bytes(b"x" * 200)
    slot = min(info.name for info in lost.store.list("keys/"))
    (lost.location / slot).write_bytes(b"x" * 300)
    lost.keep()
    assert lost.run() == RebuildSummary(found=2, skipped=2, missing=1)
    skipped = lost.texts(FindingKind.SKIPPED)
    assert f"backup {damaged} (a name to know it by): " in skipped[f"vault/snapshots/{damaged}"]
    assert slot in skipped["vault/keys"]
    assert list(lost.texts(FindingKind.MISSING)) == [f"vault/snapshots/{missing}"]
    assert list(lost.rows()) == [whole]
    assert len(lost.repositories()[0].keys) == 1
    # A backup of the catalog that its repository never told of.
    lost.store.delete(f"snapshots/{whole}")
    assert lost.run() == RebuildSummary(known=1, skipped=1, missing=2)


def test_without_its_log_a_repository_comes_back_all_the_same(lost: Lost) -> None:
    kept = lost.back_up()
    tell_of_snapshot(lost.backups.opened(), kept, 1, name="told in the log")
    newest = max(info.name for info in lost.store.list("log/"))
    (lost.location / newest).write_bytes(b"x" * 200)
    lost.keep()
    assert lost.run() == RebuildSummary(found=2, skipped=1)
    assert newest in lost.texts(FindingKind.SKIPPED)["vault/log"]
    assert (lost.rows()[kept].name, lost.repositories()[0].log_vector) == ("source", {})


def test_a_log_that_lacks_what_others_tell_of_is_told(lost: Lost) -> None:
    lost.back_up()
    other = lost.backups.other_node(lost.base / "other")
    other.back_up(lost.tree)
    mine = lost.backups.keys.writer.writer_id
    for info in list(lost.store.list(f"log/{mine.hex()}/")):
        lost.store.delete(info.name)
    lost.keep()
    assert lost.run() == RebuildSummary(found=3, missing=1)
    assert mine.hex() in lost.texts(FindingKind.MISSING)["vault/log"]


def test_a_place_that_is_told_goes_before_the_one_that_is_kept(lost: Lost) -> None:
    kept = lost.back_up()
    lost.keep()
    moved = lost.base / "moved"
    shutil.copytree(lost.location, moved)
    assert lost.run(ToldPlace("vault", os.fsencode(moved))) == RebuildSummary(found=2)
    assert lost.repositories()[0].location == os.fsencode(moved)
    place = read_place(os.fsencode(lost.keys_folder))
    assert place is not None
    assert (place.location, place.display_name) == (os.fsencode(moved), "The vault")
    assert lost.run(lost.at()) == RebuildSummary(skipped=1)
    assert f"is in the catalog already, at {moved}" in lost.skipped()
    (lost.base / "link").symlink_to(moved)
    assert lost.run(ToldPlace("vault", os.fsencode(lost.base / "link"))) == RebuildSummary(known=2)
    assert set(lost.rows()) == {kept}


def test_keys_without_a_place_ask_for_it(lost: Lost) -> None:
    lost.back_up()
    lost.keep()
    (lost.keys_folder / "place").unlink()
    assert lost.run() == RebuildSummary(skipped=1)
    assert "--repository vault=FOLDER" in lost.skipped()
    assert lost.run(lost.at(None)) == RebuildSummary(found=2), "found by its id"
    assert lost.repositories()[0].display_name == "vault"
    assert lost.run(lost.at(None)) == RebuildSummary(known=2)


@pytest.mark.parametrize("name", ["folder", "empty"])
def test_where_no_repository_lies_nothing_is_found(lost: Lost, name: str) -> None:
    lost.keep()
    if name == "empty":
        (lost.base / name).mkdir()
    for repository_id in ("vault", None):
        assert lost.run(ToldPlace(repository_id, os.fsencode(lost.base / name))).skipped
        (text,) = lost.texts(FindingKind.SKIPPED).values()
        assert any(words in text for words in ("cannot be reached", "does not exist", "there is no repository")), text
    assert [row.location for row in lost.repositories()] == [os.fsencode(lost.location)], "where its place says"


@pytest.mark.parametrize("secret", [PASSPHRASE, FILE])
def test_a_secret_is_enough(lost: Lost, secret: str) -> None:
    kept = lost.back_up()
    assert lost.run(lost.at(), secret=secret, dry_run=True) == RebuildSummary(found=2)
    assert not lost.keys_folder.exists()
    before = lost.objects()
    assert lost.run(lost.at(), secret=secret) == RebuildSummary(found=2)
    assert lost.objects() == before
    with_keys = _keys(lost)
    assert with_keys.content is not None
    assert with_keys.content.to_text() == lost.backups.content.to_text()
    assert with_keys.writer.writer_id != lost.backups.keys.writer.writer_id, "two nodes never sign one chain"
    assert set(lost.rows()) == {kept}
    assert lost.run() == RebuildSummary(known=2)


def test_a_sealed_repository_stays_sealed(sealed: Lost) -> None:
    sealed.back_up()
    assert sealed.run(sealed.at(), secret=PASSPHRASE) == RebuildSummary(found=2)
    kept = (sealed.keys_folder / "keys").read_text()
    assert "content_keys" not in kept
    assert sealed.backups.content.private(1).hex() not in kept
    assert _keys(sealed).content is None
    (row,) = sealed.rows().values()
    assert (row.sealed, sealed.repositories()[0].sealed) == (True, True)


def test_what_does_not_open_is_told_and_keeps_nothing(lost: Lost) -> None:
    lost.back_up()
    for secret, told in ((None, "no keys of repository vault"), ("another one", "no key slot of the repository takes")):
        assert lost.run(lost.at(), secret=secret) == RebuildSummary(skipped=1)
        assert told in lost.skipped()
    assert lost.run(lost.at(None), secret=PASSPHRASE) == RebuildSummary(skipped=1)
    assert "--repository ID=FOLDER" in lost.skipped()
    assert not lost.keys_folder.exists()
    assert (lost.rows(), lost.repositories()) == ({}, [])


def test_keys_that_are_lost_beside_a_whole_catalog_come_back(lost: Lost) -> None:
    lost.back_up()
    lost.keep()
    lost.run()
    (before,) = lost.repositories()
    shutil.rmtree(lost.keys_folder)
    assert lost.run() == RebuildSummary(skipped=1)
    assert lost.run(secret=FILE) == RebuildSummary(known=2)
    assert _keys(lost).index_key == lost.backups.keys.index_key
    assert lost.repositories() == [before]


def test_a_run_that_died_before_the_row_is_gone_on_with(lost: Lost) -> None:
    lost.back_up()
    lost.keep(keys=lost.backups.keys)
    (lost.keys_folder / "keys").unlink()
    assert lost.run(secret=PASSPHRASE) == RebuildSummary(found=2), "it had kept the place"
    with lost.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM repositories")
        connection.exec_driver_sql("DELETE FROM backups")
    assert lost.run() == RebuildSummary(found=2), "it had kept the keys"


def test_keys_of_another_repository_and_damaged_ones_are_refused(lost: Lost) -> None:
    lost.back_up()
    other = Backups(
        lost.base / "caches of another", LocalObjects(os.open(_made(lost.base / "other"), os.O_RDONLY), "o")
    )
    lost.keep(keys=other.keys)
    assert lost.run(secret=PASSPHRASE) == RebuildSummary(skipped=1)
    assert "is not the one that was there before" in lost.skipped()
    (lost.keys_folder / "keys").write_bytes(b"{}")
    assert lost.run(secret=PASSPHRASE) == RebuildSummary(skipped=1)
    assert "are damaged" in lost.skipped()
    assert (lost.keys_folder / "keys").read_bytes() == b"{}", "nothing takes their place unasked"
    other.store.close()  # type: ignore[attr-defined]


def test_a_repository_has_one_id(lost: Lost) -> None:
    lost.back_up()
    lost.keep()
    assert lost.run() == RebuildSummary(found=2)
    assert lost.run(lost.at("again"), secret=PASSPHRASE) == RebuildSummary(known=2, skipped=1)
    assert "it is in the catalog already, as repository vault" in lost.skipped()
    assert not (lost.data_dir / "repositories" / "again").exists()


def test_a_store_that_was_rolled_back_adds_nothing(lost: Lost) -> None:
    lost.back_up()
    lost.keep()
    lost.run()
    keys = lost.backups.opened().index_keys
    log = LogReader(lost.store, keys).read()
    entry = LogWriter(lost.store, keys, lost.backups.keys.writer, log.vector).append([Committed(GONE)], 9)
    with lost.database.write() as connection:
        head = {entry.writer_id.hex(): [entry.sequence, entry.hash.hex()]}
        repositories.update_repository(connection, "vault", log_vector=head)
    lost.store.delete(entry.name)
    assert lost.run() == RebuildSummary(skipped=1)
    assert "was rolled back" in lost.skipped()


def test_snapshots_that_another_repository_claims_are_not_moved(lost: Lost) -> None:
    kept = lost.back_up()
    lost.keep()
    lost.run()
    with lost.database.write() as connection:
        connection.exec_driver_sql("UPDATE backups SET repository_id = 'elsewhere'")
    assert lost.run() == RebuildSummary(known=1, skipped=1)
    assert "not of this repository" in lost.skipped()
    assert lost.rows()[kept].repository_id == "elsewhere"


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"version": 1}', b"\xff", json.dumps({"version": 2}).encode()])
def test_a_place_that_says_nothing_is_none(tmp_path: Path, content: bytes) -> None:
    assert read_place(os.fsencode(tmp_path)) is None
    (tmp_path / "place").write_bytes(content)
    assert read_place(os.fsencode(tmp_path)) is None


def test_a_place_is_read_as_it_was_written(tmp_path: Path) -> None:
    place = KeptPlace("vault", "Tresor \u00fc", b"/mnt/not \xff utf-8")
    folder = os.fsencode(tmp_path / "repositories" / "vault")
    for _ in range(2):
        keep_repository(folder, place, None)
        assert read_place(folder) == place


def _keys(lost: Lost) -> RepositoryKeys:
    fd = os.open(lost.keys_folder, os.O_RDONLY)
    try:
        return RepositoryKeys.load(fd)
    finally:
        os.close(fd)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
