"""A catalog filled again from archives: all that is theirs, nothing that is not, and no harm from anything."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyrage import x25519

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.manifest import ManifestSpool
from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.archive.writer import open_writer
from holdfast_server.catalog import backups, sources
from holdfast_server.catalog.database import Database
from holdfast_server.catalog.rows import BackupRow, BackupState, SourceKind
from holdfast_server.core import finding
from holdfast_server.core.statistics import Statistics
from holdfast_server.errors import Reason, Unavailable
from holdfast_server.storage.folder import open_folder
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.tasks import rebuild as module
from holdfast_server.tasks.backup_orders import BackupOrder
from holdfast_server.tasks.export import ExportHandler, ExportOrder, ExportOrders
from holdfast_server.tasks.rebuild import CatalogRebuild, Finding, FindingKind, RebuildSummary
from holdfast_server.tasks.sources import SourceOrder, open_source
from tests.harness import snapshot
from tests.unit.tasks.conftest import StepClock, World
from tests.unit.tasks.test_backup_attempts import Fixture

ID = "01234567-89ab-4def-8123-456789abcdef"


class Lost:
    """Archives without the catalog that knew them, and an empty one to fill."""

    def __init__(self, world: World, base: Path, pool: CompressorPool, catalog: Path) -> None:
        self.made = Fixture(world, base, pool, ())
        self.folder = self.made.folder
        self.pool = pool
        self.data_dir = base / "new"
        self.data_dir.mkdir()
        shutil.copyfile(catalog, self.data_dir / "state.sqlite")
        self.database = Database(f"sqlite:///{self.data_dir / 'state.sqlite'}", busy_timeout=5.0)
        self.clock = StepClock()
        self.clock.step(1e6)
        self.told: list[Finding] = []

    def backup(self, source_id: str, archive_format: ArchiveFormat = ArchiveFormat.ZIP, **values: Any) -> BackupRow:
        self.made.world.clock.step(1)
        order = BackupOrder((source_id,), False, os.fsencode(self.folder), archive_format, **values)
        task = self.made.orders.create(order, "admin", None)
        assert self.made.execute(task.task_id) == "completed"
        with self.made.world.database.read() as connection:
            return backups.backups_of_task(connection, task.task_id)[0]

    def rebuild(self, *folders: Path, **values: Any) -> RebuildSummary:
        self.told.clear()
        opened = [open_folder(os.fsencode(folder)) for folder in folders or (self.folder,)]
        try:
            data_dir = os.fsencode(self.data_dir)
            return CatalogRebuild(self.database, self.clock, data_dir, self.told.append, **values).run(opened)
        finally:
            for folder in opened:
                folder.close()

    def rows(self) -> list[BackupRow]:
        with self.database.read() as connection:
            return backups.every_backup(connection)

    def texts(self, kind: FindingKind) -> dict[str, str]:
        return {os.path.basename(os.fsdecode(one.path)): one.text for one in self.told if one.kind is kind}

    def archive(self, name: str, header: dict[str, Any], totals: dict[str, Any] | None = None) -> Path:
        """A well-formed zip of one file, whose manifest says anything."""
        path = self.folder / name
        with path.open("wb+") as file:
            spool = ManifestSpool(header)
            writer = open_writer(
                ArchiveFormat.ZIP, file, self.pool, spool, check=lambda: None, on_written=lambda _: None, created_ns=0
            )
            writer.add(Member(b"f", MemberKind.FILE, size=1), b"x")
            counts = Statistics(files=1, original_size=1).manifest_totals(wallet=False)
            writer.finish(counts if totals is None else totals)
        return path


HEADER: dict[str, Any] = {
    "backup_id": ID,
    "name": "a name",
    "source": {"source_id": "src", "kind": "DIRECTORY", "display_name": "Source"},
    "archive_format": "zip",
    "create_time": "2023-11-14T22:13:20Z",
    "software": "test",
    "ignore": ["*.log"],
    "root": {"mode": "0755", "mtime": "0.000000000", "uid": 0, "gid": 0},
}


@pytest.fixture
def lost(world: World, tmp_path: Path, empty_catalog: Path) -> Iterator[Lost]:
    pool = CompressorPool(1, 32 << 20)
    made = Lost(world, tmp_path, pool, empty_catalog)
    yield made
    made.database.close()
    pool.close()


@pytest.mark.parametrize("archive_format", [one for one in ArchiveFormat if one.writable])
def test_what_the_old_catalog_knew_is_known_again(lost: Lost, archive_format: ArchiveFormat) -> None:
    source = lost.made.source("photos")
    old = lost.backup(source, archive_format, name="before the upgrade", ignore=("*.tmp", "no utf-8 é"))
    assert lost.rebuild() == RebuildSummary(found=1, pathless=("photos",))
    (new,) = lost.rows()
    assert new == replace(
        old,
        task_id="",
        update_time=lost.clock.now(),
        complete_time=new.complete_time,
        statistics={**old.statistics, "duration": None},
    )
    assert new.complete_time is not None
    assert new.create_time <= new.complete_time
    with lost.database.read() as connection:
        (proof,) = backups.verifications_of(connection, [new.backup_id])[new.backup_id]
        registered = sources.get_source(connection, "photos")
    assert (proof.level, proof.ok, proof.files_checked, proof.bytes_checked) == ("STRUCTURE", True, 0, 0)
    assert registered is not None
    assert (registered.kind, registered.display_name, registered.path) == ("DIRECTORY", "photos", b"")


def test_a_wallets_counts_come_back(lost: Lost) -> None:
    wallet = lost.made.base / "wallet"
    for name in ("Bank", "Fracked"):
        (wallet / name).mkdir(parents=True)
    for name in ("config.toml", "transactions.csv", "Bank/one.bin"):
        (wallet / name).write_bytes(b"x")
    lost.made.registry.register(SourceOrder(os.fsencode(wallet), SourceKind.WALLET, "w"), None)
    old = lost.backup("w")
    assert old.statistics["wallet"]["money_files"] == 1
    lost.rebuild()
    assert lost.rows()[0].statistics["wallet"] == old.statistics["wallet"]


def test_a_sealed_backup_comes_back_by_its_sidecar_alone(lost: Lost) -> None:
    recipient = str(x25519.Identity.generate().to_public())
    old = lost.backup(lost.made.source("photos"), ArchiveFormat.TAR_ZST, recipients=(recipient,), ignore=("*.tmp",))
    assert lost.rebuild() == RebuildSummary(found=1, pathless=("photos",))
    (new,) = lost.rows()
    same = ("backup_id", "source_id", "format", "folder", "file_name", "size", "sha256", "sealed", "complete")
    assert [getattr(new, name) for name in same] == [getattr(old, name) for name in same]
    assert new.sealed
    assert (new.create_time, new.complete_time, new.ignore) == (old.create_time, old.complete_time, [])
    assert new.name.startswith("photos ")
    with lost.database.read() as connection:
        (proof,) = backups.verifications_of(connection, [new.backup_id])[new.backup_id]
    assert (proof.level, proof.ok, proof.bytes_checked) == ("CHECKSUM", True, new.size)
    assert lost.rebuild() == RebuildSummary(known=1, pathless=("photos",))


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
def test_an_export_is_never_taken_for_a_backup(lost: Lost, sealed: bool) -> None:
    """It lies beside its backup, and only that comes back."""
    old, world = lost.backup(lost.made.source("photos")), lost.made.world
    policy = FolderPolicy(str(lost.made.base / "data"), ["/"])
    world.handler = ExportHandler(world.database, policy, lost.pool, world.clock, b"/no", "test")  # type: ignore[assignment]
    recipients = (str(x25519.Identity.generate().to_public()),) if sealed else ()
    order = ExportOrder(old.backup_id, os.fsencode(lost.folder), ArchiveFormat.ZIP, recipients=recipients)
    task = ExportOrders(world.engine, policy, world.clock, world.repositories(policy, lost.made.base)).create(
        order, "admin", None
    )
    assert lost.made.execute(task.task_id) == "completed"
    result = world.row(task.task_id).result
    assert result is not None
    assert lost.rebuild() == RebuildSummary(found=1, skipped=1, pathless=("photos",))
    assert [row.file_name for row in lost.rows()] == [old.file_name]
    (text,) = lost.texts(FindingKind.SKIPPED).items()
    assert text[0] == os.path.basename(result["file"]["path"])
    assert "it is an export, not a backup" in text[1]


def damaged(archive: Path, sidecar: Path) -> None:
    content = bytearray(archive.read_bytes())
    content[-1] ^= 1
    archive.write_bytes(content)


def renamed(archive: Path, sidecar: Path) -> None:
    sidecar.rename(archive.parent / "else")


def pretending(archive: Path, sidecar: Path) -> None:
    archive.write_bytes(b"PK\3\4")


def wild(archive: Path, sidecar: Path) -> None:
    sidecar.write_bytes(b"[" * 60_000)


def of_another_format(archive: Path, sidecar: Path) -> None:
    sidecar.write_bytes(sidecar.read_bytes().replace(b'"zip"', b'"rar"'))


def without_counts(archive: Path, sidecar: Path) -> None:
    sidecar.write_bytes(sidecar.read_bytes().replace(b'"files"', b'"dogs"'))


@pytest.mark.parametrize("harm", [damaged, renamed, pretending, wild, of_another_format, without_counts])
def test_a_sealed_archive_that_is_not_what_its_sidecar_says_is_told(
    lost: Lost, harm: Callable[[Path, Path], None]
) -> None:
    recipient = str(x25519.Identity.generate().to_public())
    lost.backup(lost.made.source("photos"), recipients=(recipient,))
    archive, sidecar = sorted(lost.folder.iterdir(), key=lambda path: len(path.name))
    harm(archive, sidecar)
    assert lost.rebuild() == RebuildSummary(skipped=1)
    assert lost.rows() == []


def test_a_source_without_a_path_says_what_it_lacks(lost: Lost) -> None:
    lost.backup(lost.made.source("photos"))
    lost.rebuild()
    with pytest.raises(Unavailable) as caught:
        open_source(FolderPolicy(str(lost.data_dir), ["/"]), "photos", b"")
    assert caught.value.reason is Reason.SOURCE_OFFLINE
    assert "UpdateSource" in caught.value.message


def test_twice_is_once(lost: Lost) -> None:
    source = lost.made.source("photos")
    lost.backup(source)
    lost.backup(source, ArchiveFormat.TAR_GZ)
    assert lost.rebuild().found == 2
    before = lost.rows()
    lost.clock.step(1)
    assert lost.rebuild() == RebuildSummary(known=2, pathless=("photos",))
    alias = lost.made.base / "alias"
    alias.symlink_to(lost.folder)
    assert lost.rebuild(alias) == RebuildSummary(known=2, pathless=("photos",))
    assert lost.rebuild(lost.folder, lost.folder).known == 4
    assert lost.rows() == before


def test_a_dry_run_adds_nothing(lost: Lost) -> None:
    lost.backup(lost.made.source("photos"))
    shutil.copy(next(lost.folder.iterdir()), lost.folder / "copy.zip")
    assert lost.rebuild(dry_run=True) == RebuildSummary(found=1, skipped=1)
    assert lost.rows() == []


def test_only_the_named_level_unless_told_otherwise(lost: Lost) -> None:
    lost.backup(lost.made.source("photos"))
    deep = lost.folder / "a" / "b"
    deep.mkdir(parents=True)
    (archive,) = lost.folder.glob("*.zip")
    archive.rename(deep / archive.name)
    assert lost.rebuild().found == 0
    assert lost.rebuild(recursive=True).found == 1
    assert lost.rows()[0].folder == os.fsencode(deep)
    deep.rename(lost.folder / "moved")
    assert lost.rebuild().missing == 0
    assert lost.rebuild(recursive=True) == RebuildSummary(skipped=1, missing=1, pathless=("photos",))


def test_a_copy_is_told_and_not_added(lost: Lost) -> None:
    row = lost.backup(lost.made.source("photos"))
    (archive,) = lost.folder.iterdir()
    shutil.copy(archive, lost.folder / "zz-copy.zip")
    os.link(archive, lost.folder / "zz-link.zip")
    assert lost.rebuild() == RebuildSummary(found=1, known=1, skipped=1, pathless=("photos",))
    text = lost.texts(FindingKind.SKIPPED)["zz-copy.zip"]
    assert row.backup_id in text
    assert str(archive) in text
    archive.unlink()
    (lost.folder / "zz-link.zip").unlink()
    summary = lost.rebuild()
    assert (summary.skipped, summary.missing) == (1, 1)
    assert "which is gone" in lost.texts(FindingKind.SKIPPED)["zz-copy.zip"]
    assert lost.rows()[0].file_name == os.fsencode(archive.name)


@pytest.mark.parametrize("state", [BackupState.FAILED, BackupState.IN_PROGRESS])
def test_present_rows_are_never_changed(lost: Lost, state: BackupState) -> None:
    row = replace(lost.backup(lost.made.source("photos")), state=state)
    with lost.database.write() as connection:
        backups.insert_backup(connection, row)
    assert lost.rebuild() == RebuildSummary(skipped=1)
    assert lost.rows() == [row]


def test_an_archive_of_another_size_than_the_catalogs_is_told(lost: Lost) -> None:
    row = lost.backup(lost.made.source("photos"))
    lost.rebuild()
    (archive,) = lost.folder.iterdir()
    archive.write_bytes(archive.read_bytes()[:-1])
    assert lost.rebuild().skipped == 1
    assert lost.rows()[0].sha256 == row.sha256


def test_exports_trash_sealed_files_and_strangers_are_told(lost: Lost) -> None:
    lost.archive("export.zip", {**HEADER, "exported_from": {"backup_id": ID}})
    with zipfile.ZipFile(lost.folder / "foreign.zip", "w") as made:
        made.writestr("a", "b")
    with tarfile.open(lost.folder / "foreign.tar.gz", "w:gz") as made_tar:
        made_tar.add(lost.folder / "foreign.zip", "x")
    (lost.folder / "sealed.tar.gz.age").write_bytes(b"age-encryption.org/v1\n")
    (lost.folder / f".holdfast-trash-{ID}-a.zip").write_bytes(b"x")
    (lost.folder / "empty.zip").touch()
    (lost.folder / "folder.zip").mkdir()
    os.mkfifo(lost.folder / "fifo.zip")
    os.symlink("/etc/passwd", lost.folder / "link.zip")
    for name in ("notes.txt", "plain.tar", ".hidden.zip", f".{ID}.1.partial", "a.zip.holdfast.json"):
        (lost.folder / name).write_bytes(b"x")
    before = snapshot(lost.folder)
    summary = lost.rebuild()
    told = lost.texts(FindingKind.SKIPPED)
    assert set(told) == {
        "export.zip", "foreign.zip", "foreign.tar.gz", "sealed.tar.gz.age", f".holdfast-trash-{ID}-a.zip", "empty.zip",
        "fifo.zip", "link.zip",
    }  # fmt: skip
    assert summary == RebuildSummary(skipped=len(told))
    assert "export" in told["export.zip"]
    assert "sealed" in told["sealed.tar.gz.age"]
    assert (snapshot(lost.folder), lost.rows()) == (before, [])


@pytest.mark.parametrize(
    "change",
    [
        {"backup_id": "x"},
        {"backup_id": ID.upper()},
        {"backup_id": None},
        {"name": ""},
        {"name": "x" * 2000},
        {"source": None},
        {"source": {**HEADER["source"], "kind": "OTHER"}},
        {"source": {**HEADER["source"], "kind": []}},
        {"source": {**HEADER["source"], "source_id": "../../etc"}},
        {"source": {**HEADER["source"], "display_name": 7}},
        {"archive_format": "tar.gz"},
        {"create_time": "yesterday"},
        {"create_time": "2023-11-14T22:13:20"},
        {"create_time": "0001-01-01T00:00:00+23:59"},
        {"ignore": "*.log"},
        {"ignore": [1]},
        {"ignore": ["x"] * 2001},
        {"format": "other"},
        {"version": 2},
    ],
    ids=str,
)
def test_a_manifest_that_cannot_be_believed_adds_nothing(lost: Lost, change: dict[str, Any]) -> None:
    lost.archive("a.zip", {**HEADER, **change})
    assert lost.rebuild() == RebuildSummary(skipped=1)
    assert lost.rows() == []
    with lost.database.read() as connection:
        assert sources.get_source(connection, "src") is None


TOTALS = Statistics(files=1, original_size=1).manifest_totals(wallet=False)


@pytest.mark.parametrize(
    "totals",
    [
        {},
        {"counts": {}, "complete": True},
        {**TOTALS, "complete": "yes"},
        {**TOTALS, "counts": {**TOTALS["counts"], "files": 2}},
        {**TOTALS, "counts": {**TOTALS["counts"], "files": True}},
        {**TOTALS, "counts": {**TOTALS["counts"], "bytes": -1}},
        {**TOTALS, "counts": {**TOTALS["counts"], "bytes": 1 << 63}},
        {**TOTALS, "counts": {**TOTALS["counts"], "warnings": 1.5}},
        {**TOTALS, "wallet": []},
        {**TOTALS, "wallet": {"coins_backed_up": 1}},
    ],
    ids=str,
)
def test_totals_that_cannot_be_believed_add_nothing(lost: Lost, totals: dict[str, Any]) -> None:
    lost.archive("a.zip", HEADER, totals)
    assert lost.rebuild() == RebuildSummary(skipped=1)
    assert lost.rows() == []


def test_what_is_right_is_added(lost: Lost) -> None:
    """The counterpart of the two above: their archive without the change is a backup."""
    lost.archive("a.zip", HEADER, TOTALS)
    assert lost.rebuild() == RebuildSummary(found=1, pathless=("src",))
    assert lost.rows()[0].ignore == ["*.log"]


def test_damage_anywhere_in_the_structure_is_told(lost: Lost) -> None:
    good = lost.archive("a.zip", HEADER).read_bytes()
    for length in (1, 50, len(good) // 2, len(good) - 1):
        (lost.folder / "a.zip").write_bytes(good[:length])
        assert lost.rebuild() == RebuildSummary(skipped=1)
    flipped = bytearray(good)
    flipped[good.index(b"holdfast-manifest.json") + 60] ^= 1
    (lost.folder / "a.zip").write_bytes(flipped)
    assert lost.rebuild() == RebuildSummary(skipped=1)
    assert "damaged" in lost.texts(FindingKind.SKIPPED)["a.zip"]


def test_an_archive_of_more_entries_than_its_size_explains_is_refused(
    lost: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost.backup(lost.made.source("photos"))
    monkeypatch.setattr(finding, "_FEWEST_ENTRIES", 2)
    monkeypatch.setattr(finding, "_BYTES_PER_ENTRY", 1 << 20)
    assert lost.rebuild() == RebuildSummary(skipped=1)
    assert "more than 2 entries" in str(lost.texts(FindingKind.SKIPPED))


def test_one_bad_archive_stops_nothing(lost: Lost, monkeypatch: pytest.MonkeyPatch) -> None:
    lost.backup(lost.made.source("photos"))
    (lost.folder / "0.zip").write_bytes(b"PK\3\4")
    (lost.folder / "1.zip").write_bytes(b"PK\3\4")
    read = module.read_facts

    def fail(file: Any, check: Any) -> Any:
        if os.fstat(file.fileno()).st_size == 4:
            raise MemoryError
        return read(file, check)

    monkeypatch.setattr(module, "read_facts", fail)
    assert lost.rebuild() == RebuildSummary(found=1, skipped=2, pathless=("photos",))
