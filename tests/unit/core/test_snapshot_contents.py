"""What the archive of a snapshot holds: the same as the archive of its source would."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.member import MemberKind
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.archive.writer import MemberNotRepresentable
from holdfast_server.core.backup import ArchivePlan, write_archive
from holdfast_server.core.control import Control, Problem, Progress
from holdfast_server.core.export import BackupExport, ExportPlan
from holdfast_server.core.snapshot_contents import SnapshotContents
from holdfast_server.errors import DataLoss, NotFound
from holdfast_server.repository import Snapshot
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.wallets.envelope import WalletKey
from tests.unit.core.snapshots import CREATED, Snapshots
from tests.unit.core.wallets import FORMATS, KEY, entries_of, exposed, harmless

ZIP, TAR_GZ, TAR_ZST = ArchiveFormat.ZIP, ArchiveFormat.TAR_GZ, ArchiveFormat.TAR_ZST


@pytest.fixture(scope="module")
def pool() -> Iterator[CompressorPool]:
    pool = CompressorPool(2, 32 << 20)
    yield pool
    pool.close()


@pytest.fixture
def snapshots(tmp_path: Path, pool: CompressorPool) -> Iterator[Snapshots]:
    (tmp_path / "source").mkdir()
    yield Snapshots(tmp_path, pool)
    assert pool.held == 0


class Sent(io.RawIOBase):
    """Goes only forward."""

    def __init__(self) -> None:
        self.content = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self.content += data
        return len(data)


def archive_of_source(
    source: Path,
    pool: CompressorPool,
    kind: ArchiveFormat,
    source_kind: str = "DIRECTORY",
    key: WalletKey | None = None,
) -> bytes:
    plan = ArchivePlan(
        "id", "name", "s", source_kind, "S", ["*.no"], CREATED, "old version", format=kind, wallet_key=key
    )
    file = source.parent / "archive"
    with (
        OpenFolder(os.open(source, os.O_RDONLY), os.fsencode(source)) as opened,
        file.open("w+b", buffering=0) as out,
    ):
        write_archive(opened, plan, out.fileno(), pool, Control(), Progress(), lambda _: None)
    return file.read_bytes()


def archive_of_snapshot(
    snapshots: Snapshots,
    snapshot: Snapshot,
    pool: CompressorPool,
    kind: ArchiveFormat,
    paths: Sequence[bytes] = (),
    problems: list[Problem] | None = None,
) -> bytes:
    contents = SnapshotContents(snapshots.reader(snapshot), snapshot, paths, lambda: None)
    plan = ExportPlan(snapshot.run_id, kind, tuple(paths), CREATED + 1_000_000, "new version")
    export, file = BackupExport(contents, plan, Control(), Progress()), Sent()
    found = export.send(file, pool, (problems if problems is not None else []).append)
    counts = ("files", "directories", "symlinks", "hardlinks", "original_size")
    if not problems:
        assert [getattr(export.planned, name) for name in counts] == [getattr(found, name) for name in counts]
    return bytes(file.content)


def manifest_of(archive: bytes, kind: ArchiveFormat) -> dict[str, Any]:
    name = "holdfast-manifest.json"
    if kind is ZIP:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            return dict(json.loads(opened.read(name)))
    if kind is TAR_ZST:
        import zstandard

        archive = zstandard.ZstdDecompressor().stream_reader(archive, read_across_frames=True).read()
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        member = tar.extractfile(name)
        assert member is not None
        return dict(json.loads(member.read()))


def fill(source: Path) -> None:
    for name in ("a", "a-b", "a/deep/er", "empty"):
        (source / name).mkdir(parents=True, exist_ok=True)
    for name in ("a.txt", "a/x", "a-b/y", "a/deep/er/z", "kept.no"):
        (source / name).write_bytes(name.encode() * 50)
    (source / "a" / os.fsdecode(b"odd \xff")).write_text("odd")
    (source / "nothing").touch()
    (source / "noise").write_bytes(os.urandom(3 << 20))
    (source / "link").symlink_to("a/x")
    with (source / "holes").open("wb") as file:
        file.seek(2 << 20)
        file.write(b"end")
    # Names that stand the other way round in an archive than in the snapshot, and such that do not.
    os.link(source / "noise", source / "a" / "first name of noise")
    os.link(source / "a.txt", source / "a" / "deep" / "first name")
    os.link(source / "a.txt", source / "a-b" / "another")
    os.link(source / "a" / "x", source / "zz")
    (source / "a" / "deep").chmod(0o500)


@pytest.mark.parametrize("kind", FORMATS)
def test_it_says_what_the_archive_of_the_source_says(
    snapshots: Snapshots, pool: CompressorPool, tmp_path: Path, kind: ArchiveFormat
) -> None:
    source = tmp_path / "source"
    fill(source)
    snapshot = snapshots.back_up(source)
    made, direct = archive_of_snapshot(snapshots, snapshot, pool, kind), archive_of_source(source, pool, kind)
    ours, theirs = manifest_of(made, kind), manifest_of(direct, kind)
    by_path = sorted(ours["entries"], key=lambda entry: str(entry.get("path", entry.get("path_base64"))))
    expected = sorted(theirs["entries"], key=lambda entry: str(entry.get("path", entry.get("path_base64"))))
    assert by_path == expected
    for key in ("name", "source", "ignore", "root", "counts", "complete", "key_ids", "archive_format"):
        assert ours[key] == theirs[key], key
    assert "backup_id" not in ours
    assert ours["exported_from"] == {
        "backup_id": snapshot.run_id, "create_time": theirs["create_time"], "software": "old version",
    }  # fmt: skip
    if kind is not ZIP:
        assert [entry.get("path") for entry in ours["entries"]] == [entry.get("path") for entry in theirs["entries"]]
    content = {path: (entry.member.kind, data) for path, (entry, data) in entries_of(made, kind).items()}
    assert content == {path: (entry.member.kind, data) for path, (entry, data) in entries_of(direct, kind).items()}


@pytest.mark.parametrize("kind", [ZIP, TAR_GZ])
@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
def test_a_wallet_keeps_its_names_counts_and_coins(
    snapshots: Snapshots, pool: CompressorPool, tmp_path: Path, key: WalletKey | None, kind: ArchiveFormat
) -> None:
    source = tmp_path / "source"
    for name, content in [*((name, one) for name, (one, _) in exposed(3).items()), *harmless().items()]:
        path = source / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    first = next(iter(exposed(3)))
    os.link(source / first, source / "zz another.bin")
    os.link(source / first, source / "AA another.bin")
    snapshot = snapshots.back_up(source, "WALLET", key)
    made = archive_of_snapshot(snapshots, snapshot, pool, kind)
    direct = archive_of_source(source, pool, kind, "WALLET", key)
    ours, theirs = manifest_of(made, kind), manifest_of(direct, kind)
    paths = [{entry["path"] for entry in one["entries"]} for one in (ours, theirs)]
    assert paths[0] == paths[1]
    assert any(path.endswith(".hfcc") for path in paths[0]) == (key is not None)
    # Of what lies in an envelope an export knows name and key alone.
    for name in ("counts", "complete", "key_ids", "coins", *([] if key else ["wallet"])):
        assert ours[name] == theirs[name], name
    for stored, (entry, content) in entries_of(made, kind).items():
        other, expected = entries_of(direct, kind)[stored]
        assert (entry.member.kind, entry.source_path, entry.encryption) == (
            other.member.kind, other.source_path, other.encryption,
        )  # fmt: skip
        assert content == expected


def test_a_link_whose_file_was_not_chosen_is_the_file(
    snapshots: Snapshots, pool: CompressorPool, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    fill(source)
    snapshot = snapshots.back_up(source)
    paths = [b"zz", b"a-b", b"a/deep"]
    for kind in FORMATS:
        found = entries_of(archive_of_snapshot(snapshots, snapshot, pool, kind, paths), kind)
        assert set(found) == {
            b"zz", b"a-b", b"a-b/y", b"a-b/another", b"a/deep", b"a/deep/er", b"a/deep/er/z", b"a/deep/first name",
        }  # fmt: skip
        assert found[b"zz"][0].member.kind is MemberKind.FILE
        for path, (entry, content) in found.items():
            if entry.member.kind in (MemberKind.FILE, MemberKind.HARDLINK):
                assert content == (source / os.fsdecode(path)).read_bytes()
    with pytest.raises(NotFound):
        archive_of_snapshot(snapshots, snapshot, pool, ZIP, [b"a", b"nowhere"])


def test_damage_is_named_and_nothing_passes_for_an_archive(
    snapshots: Snapshots, pool: CompressorPool, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    (source / "noise").write_bytes(os.urandom(3 << 20))
    snapshot = snapshots.back_up(source)
    largest = max((info for info in snapshots.store.list("packs/")), key=lambda info: info.size)
    content = bytearray(snapshots.store.get(largest.name))
    content[1 << 20 : 2 << 20] = bytes(1 << 20)
    snapshots.store.put(largest.name, [bytes(content)])
    with pytest.raises(DataLoss):
        archive_of_snapshot(snapshots, snapshot, pool, TAR_GZ)


def test_what_a_format_cannot_hold_is_told(
    snapshots: Snapshots, pool: CompressorPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast_server.archive.zip_writer import ZipWriter

    source = tmp_path / "source"
    fill(source)
    snapshot = snapshots.back_up(source)

    def refuse(_self: Any, member: Any) -> None:
        if member.path == b"a-b/y":
            raise MemberNotRepresentable("no")

    monkeypatch.setattr(ZipWriter, "_require_representable", refuse)
    problems: list[Problem] = []
    made = archive_of_snapshot(snapshots, snapshot, pool, ZIP, (), problems)
    assert [problem.path for problem in problems] == [b"a-b/y"]
    assert manifest_of(made, ZIP)["complete"] is False
