"""A config that is damaged or gone is put back, and only where it belongs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from holdfast_server.errors import DataLoss, FailedPrecondition, HoldfastError
from holdfast_server.repository import Repository, config_of, restore_config
from holdfast_server.storage.objects import MemoryObjects
from tests.harness import snapshot as tree_of
from tests.repositories import Backups
from tests.unit.repository.samples import refused


@pytest.fixture
def source(memory_path: Path) -> Path:
    folder = memory_path / "source"
    folder.mkdir()
    (folder / "file").write_bytes(b"content")
    return folder


@pytest.fixture
def backups(memory_path: Path, source: Path) -> Backups:
    made = Backups(memory_path / "caches", MemoryObjects())
    made.back_up(source)
    return made


def restored(backups: Backups, kept: bytes, **values: object) -> bool:
    given = {"fingerprint": backups.fingerprint, "dry_run": False} | values
    return restore_config(backups.store, backups.keys, kept, given["fingerprint"], dry_run=given["dry_run"])  # type: ignore[arg-type]


@pytest.mark.parametrize("harm", ["gone", "empty", "flipped", "longer", "foreign"])
def test_what_was_kept_is_put_back(backups: Backups, source: Path, memory_path: Path, harm: str) -> None:
    kept = config_of(backups.opened())
    assert not restored(backups, kept)
    before = backups.store.contents()
    other = config_of(Backups(memory_path / "others", MemoryObjects()).opened())
    spoilt = {
        "empty": b"", "flipped": kept[:-1] + bytes([kept[-1] ^ 1]), "longer": kept + b"x", "foreign": other
    }  # fmt: skip
    backups.store.put("config", [spoilt[harm]]) if harm in spoilt else backups.store.delete("config")
    harmed = backups.store.contents()
    with pytest.raises(HoldfastError):
        backups.opened()
    assert restored(backups, kept, dry_run=True)
    assert backups.store.contents() == harmed
    for fingerprint in (backups.fingerprint, None):
        assert restored(backups, kept, fingerprint=fingerprint) is (fingerprint is not None)
        assert backups.store.contents() == before
    run_id = backups.back_up(source).run_id
    assert backups.read(run_id) == tree_of(source)


def test_nothing_is_written_where_it_is_not_certain_to_belong(backups: Backups, memory_path: Path) -> None:
    kept = config_of(backups.opened())
    other = Backups(memory_path / "others", MemoryObjects())
    foreign = config_of(other.opened())
    backups.store.delete("config")
    state = backups.store.contents()
    # A copy that is damaged, one of another repository, one that is not the config that was seen.
    assert not restored(backups, kept[:-1])
    assert not restored(backups, foreign)
    assert not restored(backups, kept, fingerprint=bytes(32))
    assert backups.store.contents() == state
    # An empty folder, as a disk leaves that is not mounted, and one with another repository's log.
    empty = MemoryObjects()
    assert not restore_config(empty, backups.keys, kept, backups.fingerprint)
    assert not empty.contents()
    strange = MemoryObjects({name: bytes(300) for name in state if name.startswith("log/")})
    assert not restore_config(strange, backups.keys, kept, backups.fingerprint)
    assert "config" not in strange.contents()


def test_a_config_of_another_version_or_another_that_is_whole_is_never_replaced(backups: Backups) -> None:
    kept = config_of(backups.opened())
    newer = kept[:8] + (2).to_bytes(2, "little") + kept[10:]
    other = replace(backups.opened().config, software="other").encode(backups.opened().index_keys)
    for content in (newer, other):
        backups.store.put("config", [content])
        with pytest.raises(FailedPrecondition):
            backups.opened()
        assert not restored(backups, kept)
        assert backups.store.get("config") == content


def test_a_config_that_was_changed_meanwhile_is_not_kept(backups: Backups) -> None:
    repository: Repository = backups.opened()
    backups.store.put("config", [b"x" * 200])
    refused(lambda: config_of(repository))
    backups.store.put("config", [b""])
    with pytest.raises(DataLoss):
        config_of(repository)
