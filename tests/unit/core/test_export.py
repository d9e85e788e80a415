"""What an export holds and says, what it refuses, and what becomes of hard links."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyrage
import pytest
import zstandard

from holdfast_server.archive import base_writer
from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.manifest import ManifestEntry
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.archive.sealing import Recipients, parse_identity, parse_recipients
from holdfast_server.archive.sidecar import parse_sidecar
from holdfast_server.core import archive_file
from holdfast_server.core import export as export_module
from holdfast_server.core.archive_file import ProvedArchive
from holdfast_server.core.backup import ArchivePlan, write_archive
from holdfast_server.core.control import Control, Problem, Progress
from holdfast_server.core.export import BackupExport, ExportPlan, archive_contents, archive_origin, least_size
from holdfast_server.core.read_back import hash_file
from holdfast_server.core.statistics import Statistics
from holdfast_server.core.verify import StoredArchive, open_archive, open_content
from holdfast_server.errors import DataLoss, Drained, FailedPrecondition, NotFound, Reason, ResourceExhausted
from holdfast_server.storage.folder import OpenFolder
from tests.unit.core.test_manifest_keys import ROOT, keys_of_table

ZIP, TAR_GZ, TAR_ZST = ArchiveFormat.ZIP, ArchiveFormat.TAR_GZ, ArchiveFormat.TAR_ZST
CREATED = 1_700_000_000_000_000


def opened(
    file: Any,
    archive: StoredArchive,
    plan: ExportPlan,
    control: Control | None = None,
    progress: Progress | None = None,
) -> BackupExport:
    control, progress = control or Control(), progress or Progress()
    return BackupExport(archive_contents(file, archive.format, control, progress), plan, control, progress)


@dataclass
class Exports:
    """A source folder, and short words for backing it up and exporting that."""

    base: Path
    pool: CompressorPool
    kind: str = "DIRECTORY"
    problems: int = 0

    @property
    def source(self) -> Path:
        return self.base / "source"

    def backup(self, kind: ArchiveFormat, recipients: Recipients | None = None) -> tuple[StoredArchive, Statistics]:
        name = f"backup{kind.suffix}"
        plan = ArchivePlan(
            "id", "name", "s", self.kind, "S", ["*.no"], CREATED, "old version", format=kind, recipients=recipients
        )
        fd = os.open(self.base / name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        with OpenFolder(os.open(self.source, os.O_RDONLY), os.fsencode(self.source)) as opened:
            written = write_archive(opened, plan, fd, self.pool, Control(), Progress(), lambda _: None)
        os.close(fd)
        found = written.statistics
        archive = StoredArchive(
            os.fsencode(self.base), name.encode(), kind, written.size, written.sha256, found.original_size, found.files,
            "id", written.sealed,
        )  # fmt: skip
        return archive, found

    def export(
        self, archive: StoredArchive, kind: ArchiveFormat, *paths: bytes, control: Control | None = None
    ) -> tuple[Path, ProvedArchive, list[Problem]]:
        target = self.base / f"export{kind.suffix}"
        plan = ExportPlan("id", kind, paths, CREATED + 1_000_000, "new version", origin=archive_origin(archive))
        problems: list[Problem] = []
        progress = Progress()
        with open_archive(archive) as file, target.open("w+b", buffering=0) as out:
            export = opened(file, archive, plan, control or Control(), progress)
            written = export.write(out.fileno(), self.pool, problems.append)
        planned, found = export.planned, written.statistics
        if not problems:
            counts = ("files", "directories", "symlinks", "hardlinks", "original_size", "complete")
            assert [getattr(planned, name) for name in counts] == [getattr(found, name) for name in counts]
            assert (progress.files, progress.original_size) == (found.files, found.original_size)
        assert (target.stat().st_size, sha256(target)) == (written.size, written.sha256)
        assert self.pool.held == 0
        return target, written, problems


@pytest.fixture(scope="module")
def pool() -> Iterator[CompressorPool]:
    pool = CompressorPool(2, 32 << 20)
    yield pool
    pool.close()


@pytest.fixture
def exports(tmp_path: Path, pool: CompressorPool) -> Exports:
    (tmp_path / "source").mkdir()
    return Exports(tmp_path, pool)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(path: Path) -> dict[str, bytes]:
    """Regular files of an archive by a foreign reader, hard links by what they name."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}
    with path.open("rb") as file:
        data = file.read()
    if path.suffix == ".zst":
        data = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = {}
        for info in tar.getmembers():
            if info.isreg() or info.islnk():
                opened = tar.extractfile(info)
                assert opened is not None
                found[info.name] = opened.read()
        return found


def manifest_of(path: Path) -> dict[str, Any]:
    return json.loads(contents(path)["holdfast-manifest.json"])  # type: ignore[no-any-return]


def test_the_manifest_says_what_it_was_exported_from(exports: Exports) -> None:
    (exports.source / "file").write_text("x")
    archive, _ = exports.backup(TAR_GZ)
    before = manifest_of(exports.base / "backup.tar.gz")
    target, _, _ = exports.export(archive, ZIP)
    after = manifest_of(target)
    assert after["exported_from"] == {
        "backup_id": "id", "sha256": archive.sha256, "archive_format": "tar.gz", "create_time": before["create_time"],
        "software": "old version",
    }  # fmt: skip
    assert "backup_id" not in after
    assert {key: after[key] for key in ("name", "source", "ignore", "root")} == {
        key: before[key] for key in ("name", "source", "ignore", "root")
    }
    assert (after["archive_format"], after["software"]) == ("zip", "new version")
    assert after["create_time"] != before["create_time"]
    assert after["entries"] == before["entries"]
    assert after["counts"] == before["counts"]
    assert "paths" not in after


def test_the_documented_keys_are_the_manifests(exports: Exports) -> None:
    (exports.source / os.fsdecode(b"raw \xff")).write_text("x")
    archive, _ = exports.backup(ZIP)
    manifest = manifest_of(exports.export(archive, TAR_ZST, b"raw \xff")[0])
    assert manifest["paths"] == [{"path_base64": "cmF3IP8="}]
    own = keys_of_table("key of an export's first line")
    common = keys_of_table("key of the first line") | keys_of_table("key of the last line") | {"entries"}
    assert set(manifest) == (common | own) - {"backup_id", "wallet", "coins"}
    text = (ROOT / "docs/format.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| `exported_from`"))
    assert set(manifest["exported_from"]) <= set(re.findall(r"`(\w+)`", row))


@pytest.mark.parametrize("to", [ZIP, TAR_GZ, TAR_ZST])
@pytest.mark.parametrize("size", [3, (1 << 20) + 1], ids=["small", "large"])
@pytest.mark.parametrize("chosen", [(), (b"b", b"d")], ids=["all", "without the first name"])
def test_hard_links(
    exports: Exports, monkeypatch: pytest.MonkeyPatch, to: ArchiveFormat, size: int, chosen: tuple[bytes, ...]
) -> None:
    """`a` is the first name of a file with three, `c` of another with two; further passes are forced for all of it."""
    monkeypatch.setattr(export_module, "_LINKS_A_PASS", 1)
    monkeypatch.setattr(export_module, "_KEPT", 1 << 20)
    one, two = os.urandom(size), os.urandom(size)
    (exports.source / "a").write_bytes(one)
    (exports.source / "c").write_bytes(two)
    (exports.source / "d").mkdir()
    for name, target in (("b", "a"), ("d/a2", "a"), ("d/c2", "c")):
        os.link(exports.source / target, exports.source / name)
    archive, _ = exports.backup(TAR_GZ)
    target, written, problems = exports.export(archive, to, *chosen)
    found = {name: data for name, data in contents(target).items() if not name.startswith("holdfast-")}
    wanted = {"b": one, "d/a2": one, "d/c2": two}
    assert found == (wanted if chosen else {**wanted, "a": one, "c": two})
    assert problems == []
    linked = 0 if to is ZIP else 1 if chosen else 3
    assert written.statistics.hardlinks == linked
    assert written.statistics.files == len(found) - linked


def test_an_entry_that_the_format_cannot_hold_is_a_problem(exports: Exports) -> None:
    """Paths over 65,534 bytes: a tar has them, a zip cannot; the rest is exported."""
    fd = os.open(exports.source, os.O_RDONLY)
    depth = 329
    for _ in range(depth):
        name = b"d" * 200
        os.mkdir(name, dir_fd=fd)
        child = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = child
    os.close(os.open(b"file", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd))
    os.close(os.open(b"large", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd))
    os.truncate(f"/proc/self/fd/{fd}/large", 3 << 20)
    os.link(b"file", b"link", src_dir_fd=fd, dst_dir_fd=fd)
    os.close(fd)
    (exports.source / "kept").write_text("kept")
    archive, before = exports.backup(TAR_GZ)
    assert before.complete
    target, written, problems = exports.export(archive, ZIP)
    left = depth - 65_534 // 201 + 3
    assert {problem.reason for problem in problems} == {"NAME_TOO_LONG"}
    assert len(problems) == left == written.statistics.files_skipped
    assert not written.statistics.complete
    manifest = manifest_of(target)
    assert not manifest["complete"]
    assert manifest["counts"]["files_skipped"] == manifest["counts"]["warnings"] == left
    assert contents(target)["kept"] == b"kept"
    whole = exports.export(archive, TAR_ZST)[1]
    assert whole.statistics.complete


def test_a_wallets_counters_are_those_of_a_backup(exports: Exports) -> None:
    exports.kind = "WALLET"
    for name in ("Bank/1.bin", "Fracked/2.bin", "Export/3.bin", "note.txt"):
        (exports.source / name).parent.mkdir(exist_ok=True)
        (exports.source / name).write_bytes(b"\x09" + bytes(438))
    archive, before = exports.backup(TAR_GZ)
    assert before.wallet.money_files == 2
    target, written, _ = exports.export(archive, ZIP)
    assert written.statistics.wallet == before.wallet
    assert manifest_of(target)["wallet"] == manifest_of(exports.base / "backup.tar.gz")["wallet"]
    some = exports.export(archive, ZIP, b"Bank")[1]
    assert some.statistics.wallet.money_files == 1


def lie(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Backups state a wrong hash of this content, in manifest and list, and do not read themselves back."""
    real, wrong = hashlib.sha256(content).digest(), bytes(32)

    def to_line(entry: ManifestEntry) -> bytes:
        return line(replace(entry, sha256=wrong) if entry.sha256 == real else entry)

    def sums_line(path: bytes, sha256: bytes) -> bytes:
        return sums(path, wrong if sha256 == real else sha256)

    line, sums = ManifestEntry.to_line, base_writer.sums_line
    monkeypatch.setattr(ManifestEntry, "to_line", to_line)
    monkeypatch.setattr(base_writer, "sums_line", sums_line)
    monkeypatch.setattr(archive_file, "read_back", lambda fd, *_: hash_file(fd, lambda: None))


@pytest.mark.parametrize("kind", [ZIP, TAR_GZ, TAR_ZST])
@pytest.mark.parametrize("size", [1000, 5 << 20], ids=["small file", "large file"])
def test_a_content_that_is_not_the_manifests_ends_the_export(
    exports: Exports, monkeypatch: pytest.MonkeyPatch, kind: ArchiveFormat, size: int
) -> None:
    """No checksum of the container notices."""
    (exports.source / "good").write_text("good")
    (exports.source / "zbad").write_bytes(bytes(size))
    lie(monkeypatch, bytes(size))
    archive, _ = exports.backup(kind)
    monkeypatch.undo()
    with pytest.raises(DataLoss) as refused:
        exports.export(archive, TAR_GZ)
    assert refused.value.reason is Reason.CHECKSUM_MISMATCH
    assert refused.value.metadata["path"] == "zbad"
    assert exports.pool.held == 0


@pytest.mark.parametrize("kind", [ZIP, TAR_GZ, TAR_ZST])
def test_any_flipped_byte_of_the_archive_ends_the_export(exports: Exports, kind: ArchiveFormat) -> None:
    (exports.source / "file").write_bytes(os.urandom(200_000))
    archive, _ = exports.backup(kind)
    path = exports.base / f"backup{kind.suffix}"
    whole = path.read_bytes()
    for at in range(5_000, 200_000, 40_000):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises((DataLoss, FailedPrecondition)) as refused:
            exports.export(archive, ZIP)
        assert refused.value.reason in (Reason.CHECKSUM_MISMATCH, Reason.ARCHIVE_INVALID)


def test_the_archive_of_another_backup_is_refused(exports: Exports) -> None:
    archive, _ = exports.backup(ZIP)
    plan = ExportPlan("another", ZIP, (), CREATED, "x")
    with open_archive(archive) as file, pytest.raises(DataLoss, match="not the archive of backup another"):
        opened(file, archive, plan)


@pytest.mark.parametrize("path", [b"nothing", b"sub/nothing", b"holdfast-manifest.json", b"su"])
def test_a_path_that_there_is_not(exports: Exports, path: bytes) -> None:
    (exports.source / "sub").mkdir()
    archive, _ = exports.backup(TAR_GZ)
    plan = ExportPlan("id", ZIP, (b"sub", path), CREATED, "x")
    with open_archive(archive) as file, pytest.raises(NotFound) as refused:
        opened(file, archive, plan)
    assert (refused.value.reason, refused.value.metadata["path"]) == (Reason.ENTRY_NOT_FOUND, path.decode())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_full_disk(exports: Exports) -> None:
    (exports.source / "file").write_bytes(os.urandom(3 << 20))
    archive, _ = exports.backup(ZIP)
    full = os.open("/dev/full", os.O_RDWR)
    with open_archive(archive) as file:
        export = opened(file, archive, ExportPlan("id", TAR_GZ, (), CREATED, "x"))
        with pytest.raises(ResourceExhausted) as refused:
            export.write(full, exports.pool, lambda _: None)
    os.close(full)
    assert refused.value.reason is Reason.DISK_FULL
    assert exports.pool.held == 0


def test_a_stop_leaves_no_memory_held(exports: Exports) -> None:
    (exports.source / "file").write_bytes(os.urandom(30 << 20))
    archive, _ = exports.backup(ZIP)
    control, progress = Control(), Progress()
    with open_archive(archive) as file, (exports.base / "out").open("w+b") as out:
        export = opened(file, archive, ExportPlan("id", TAR_GZ, (), CREATED, "x"), control, progress)
        counted = progress.count
        progress.count = lambda *a: (counted(*a), control.drain())  # type: ignore[assignment, func-returns-value]
        with pytest.raises(Drained):
            export.write(out.fileno(), exports.pool, lambda _: None)
    assert progress.original_size < 30 << 20
    assert exports.pool.held == 0


def test_what_an_export_needs_at_least(exports: Exports) -> None:
    archive = StoredArchive(b"/", b"a", ZIP, 1000, "", 5000, 1)
    assert (least_size(archive, ZIP, ()), least_size(archive, TAR_GZ, ()), least_size(archive, ZIP, (b"a",))) == (
        900,
        50,
        0,
    )


@pytest.mark.parametrize("kind", [ZIP, TAR_GZ, TAR_ZST])
def test_sealed_to_sealed(exports: Exports, kind: ArchiveFormat) -> None:
    """A sealed backup with a hard link into a sealed export: nothing on the disk is in clear, and it opens."""
    old, new = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
    secret = os.urandom(1 << 20) + b"end"
    (exports.source / "a secret name").write_bytes(secret)
    os.link(exports.source / "a secret name", exports.source / "z")
    archive, _ = exports.backup(TAR_GZ, parse_recipients([str(old.to_public())], "f"))
    target = exports.base / "sealed"
    recipients = parse_recipients([str(new.to_public())], "f")
    plan = ExportPlan("id", kind, (), CREATED, "x", recipients, archive_origin(archive))
    with (
        open_archive(archive) as file,
        open_content(archive, file, parse_identity(str(old)), lambda: None) as content,
        target.open("w+b", buffering=0) as out,
    ):
        export = opened(content, archive, plan)
        written = export.write(out.fileno(), exports.pool, lambda _: None)
    assert written.sealed
    data = target.read_bytes()
    assert data.startswith(b"age-encryption.org/v1")
    assert b"secret name" not in data
    (exports.base / f"plain{kind.suffix}").write_bytes(pyrage.decrypt(data, [new]))
    found = contents(exports.base / f"plain{kind.suffix}")
    assert (found["a secret name"], found["z"]) == (secret, secret)
    assert json.loads(found["holdfast-manifest.json"])["exported_from"]["backup_id"] == "id"
    sidecar = export.sidecar(written, CREATED)
    assert sidecar is not None
    assert (sidecar.size, sidecar.sha256) == (len(data), sha256(target))
    told = sidecar.encode()
    assert b"secret name" not in told
    assert b'"backup_id"' in told.split(b'"exported_from"')[1]
    assert b'"backup_id"' not in told.split(b'"exported_from"')[0]
    assert parse_sidecar(told) == sidecar
