"""What Holdfast wrote, in old releases and just now, read by the second reader and by Holdfast."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.errors import FailedPrecondition
from holdfast_server.repository.keys import RepositoryKeys
from holdfast_server.repository.repository import Repository
from holdfast_server.storage.objects import LocalObjects
from tests.vectors import auditor, generate, holdfast_side, reader
from tests.vectors.made_sources import Description, describe_folder

VECTORS = Path(__file__).parent / "repository-1"
#: Written once keys could be rotated and removed.
ROTATED = Path(__file__).parent / "repository-2"
#: Options of the second reader, and the file for them beside a repository.
SECRETS = {"passphrase": "passphrase", "key": "key-file", "recovery-key": "{}-recovery-key", "keys": "{}-node/keys"}
NAMES = ["plain", "sealed"]


def read(vectors: Path, name: str, way: str, *command: str, folder: Path | None = None) -> int:
    """The exit status of the second reader."""
    secret = vectors / SECRETS[way].format(name)
    main = auditor.main if command == ("check",) else reader.main
    return main([str(folder or vectors / name), f"--{way}-file", str(secret), *command])


def expected_of(vectors: Path, name: str) -> tuple[str, dict[str, dict[str, Any]], dict[str, Description]]:
    """Fingerprint and snapshots of a repository, and what its sources hold."""
    expected = json.loads((vectors / "expected.json").read_text())
    return *expected["repositories"][name].values(), expected["sources"]


def comparable(description: Description) -> Description:
    """Without owners, which only root can restore."""
    hidden = () if os.geteuid() == 0 else ("uid", "gid")
    return {path: {key: value for key, value in one.items() if key not in hidden} for path, one in description.items()}


def second_reader_restores(vectors: Path, name: str, way: str, folder: Path) -> None:
    _, snapshots, sources = expected_of(vectors, name)
    for run_id, snapshot in snapshots.items():
        target = folder / run_id
        assert read(vectors, name, way, "restore", run_id, str(target)) == 0
        assert comparable(describe_folder(os.fsencode(target))) == comparable(sources[snapshot["source"]])
        root, own = os.stat(target), holdfast_side.ATTRIBUTES
        assert (root.st_mtime_ns, root.st_mode & 0o7777) == (own.mtime_ns, own.mode)
        assert tuple((os.fsencode(key), os.getxattr(target, key)) for key in os.listxattr(target)) == own.xattrs


def second_reader_lists(vectors: Path, name: str, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert read(vectors, name, way, "list") == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(each["state"] for each in listed) == ["COMMITTED"] * 4 + ["TOMBSTONE"]
    told = {each["run_id"]: (each["name"], each["locked"]) for each in listed if each["state"] == "COMMITTED"}
    assert told == {run_id: (one["name"], one["locked"]) for run_id, one in expected_of(vectors, name)[1].items()}


def holdfast_restores(vectors: Path, name: str, way: str, folder: Path) -> None:
    shutil.copytree(vectors / name, folder)  # a run writes into it
    fingerprint, snapshots, sources = expected_of(vectors, name)
    with generate.opened(vectors / f"{name}-node") as node:
        keys = RepositoryKeys.load(node)
    assert (keys.content is None) == (name == "sealed")
    with generate.opened(folder) as folder_fd, LocalObjects(folder_fd) as store:
        repository = Repository.open(store, keys, bytes.fromhex(fingerprint))
        content = keys.content
        if way != "keys":
            content = repository.unlock((vectors / SECRETS[way].format(name)).read_text())
        for run_id, expected in snapshots.items():
            snapshot = repository.snapshot(run_id)
            assert snapshot is not None
            assert holdfast_side.describe(repository, snapshot, content) == sources[expected["source"]]


@pytest.mark.parametrize(("name", "way"), [("plain", "keys"), ("sealed", "key")])
def test_both_readers_restore_the_vectors(name: str, way: str, memory_path: Path) -> None:
    second_reader_restores(VECTORS, name, way, memory_path)
    holdfast_restores(VECTORS, name, way, memory_path / "copy")


@pytest.mark.parametrize("way", SECRETS)
@pytest.mark.parametrize("name", NAMES)
def test_every_key_opens_the_vectors(name: str, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    second_reader_lists(VECTORS, name, way, capsys)


@pytest.mark.parametrize(("name", "way"), [("plain", "keys"), ("sealed", "keys"), ("sealed", "recovery-key")])
def test_nothing_is_wrong_with_the_vectors(name: str, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert read(VECTORS, name, way, "check") == 0
    assert ("no content key" in capsys.readouterr().out) == (way == "keys" and name == "sealed")


@pytest.mark.parametrize("name", NAMES)
def test_both_readers_restore_the_vectors_of_several_epochs(
    name: str, memory_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read(ROTATED, name, "key", "check") == 0
    second_reader_lists(ROTATED, name, "keys", capsys)
    second_reader_restores(ROTATED, name, "key", memory_path)
    holdfast_restores(ROTATED, name, "keys" if name == "plain" else "key", memory_path / "copy")
    opened = auditor.Auditor(str(ROTATED / name))
    opened.open("key", (ROTATED / "later-key-file").read_bytes())
    assert sorted(opened.content_keys) == [1, 2]
    assert {segment[2] for places in opened.places.values() for place in places for segment in place.segments} == {
        0, 1, 2
    }  # fmt: skip
    assert {"key_epoch", "key_removed"} <= {fact["type"] for fact in opened.facts}


@pytest.mark.parametrize("name", NAMES)
def test_a_removed_key_of_the_vectors_opens_nothing(name: str, memory_path: Path) -> None:
    """Its slot is there: the store has brought it back."""
    shutil.copytree(ROTATED / name, memory_path / "copy")
    secret = ROTATED / "removed-key-file"
    assert reader.main([str(ROTATED / name), "--key-file", str(secret), "list"]) == 1
    with generate.opened(ROTATED / f"{name}-node") as node:
        keys = RepositoryKeys.load(node)
    with generate.opened(memory_path / "copy") as folder_fd, LocalObjects(folder_fd) as store:
        repository = Repository.open(store, keys, None)
        assert len([*store.list("keys/")]) == 6
        assert len(repository.slots()) == 4
        with pytest.raises(FailedPrecondition):
            repository.unlock(secret.read_text())


def test_both_readers_restore_what_is_written_now(memory_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fresh = memory_path / "fresh"
    generate.main(fresh)
    for name, way in (("plain", "keys"), ("sealed", "recovery-key")):
        assert read(fresh, name, way, "check") == 0
        second_reader_lists(fresh, name, way, capsys)
        second_reader_restores(fresh, name, way, memory_path)
        holdfast_restores(fresh, name, way, memory_path / name)


@pytest.mark.parametrize("name", NAMES)
def test_the_vectors_have_every_part_of_the_format(name: str) -> None:
    opened = auditor.Auditor(str(VECTORS / name))
    opened.open("key", (VECTORS / "key-file").read_bytes())
    objects = {kind: opened.names(kind, reader.ID) for kind in ("keys", "packs", "index", "log")}
    assert [len(objects[kind]) for kind in ("keys", "log")] == [3, 2]
    adopted = set(opened.records)
    opened.records.clear()
    for index in objects["index"]:
        opened.read_index(index)
    listed = set(opened.records)
    assert adopted - listed, "a pack without an index"
    assert listed - set(objects["packs"]), "an index of a pack that is gone"
    facts = {fact["type"] for _, entry in opened.log.values() for fact in entry["facts"]}
    assert facts == {"committed", "renamed", "locked", "removed", "condemned", "swept"}
    run_id = next(iter(expected_of(VECTORS, name)[1]))
    snapshot = opened.record(f"snapshots/{run_id}")
    root = json.loads(opened.chunk(reader.ROOT, bytes.fromhex(snapshot["root"])))
    assert min(snapshot["list"]["level"], root["tree"]["level"]) >= 1
    entries = list(opened.entries(root["tree"]))
    assert {entry.kind for entry in entries} == set(reader.FLAGS_OF)
    files = [entry for entry in entries if entry.kind == reader.FILE]
    assert max(len(entry.pages) for entry in files) > 1, "several pages of extents"
    assert any(len(entry.extents) > 40 for entry in files), "a large file"
    assert any(entry.digest for entry in files)


def test_a_changed_byte_of_any_class_of_objects_is_found(memory_path: Path) -> None:
    folder = memory_path / "copy"
    shutil.copytree(VECTORS / "plain", folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for number, path in enumerate(files):
        if number and path.parent == files[number - 1].parent:
            continue
        content = path.read_bytes()
        changed = bytearray(content)
        changed[len(content) * 2 // 3] ^= 1 << number % 8
        path.write_bytes(changed)
        assert read(VECTORS, "plain", "key", "check", folder=folder) == 1, path
        path.write_bytes(content)
