"""A repository on a disk that is full to the last byte or inode: removing, pruning and compacting make room again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_server.errors import Reason, ResourceExhausted
from holdfast_server.repository.index import list_packs
from holdfast_server.storage.objects import LocalObjects
from tests.harness import snapshot as tree_of
from tests.mounts import Disk, Mounter
from tests.repositories import Backups, small_packs, stored_size

MIB = 1 << 20
RESERVE = 40 * MIB


@pytest.fixture
def disk(tmp_path: Path, mount: Mounter) -> Disk:
    made = Disk(tmp_path / "disk")
    made.mount(mount, 320)
    return made


@pytest.fixture
def store(disk: Disk) -> Iterator[LocalObjects]:
    fd = os.open(disk.path, os.O_RDONLY | os.O_DIRECTORY)
    with LocalObjects(fd) as store:
        os.close(fd)
        yield store


@pytest.fixture
def backups(store: LocalObjects, tmp_path: Path) -> Backups:
    return Backups(tmp_path / "caches", store)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def require_no_backup(backups: Backups, source: Path) -> None:
    with pytest.raises(ResourceExhausted) as caught:
        backups.back_up(source)
    assert caught.value.reason is Reason.DISK_FULL


def require_recovery(backups: Backups, disk: Disk, source: Path, kept: str, tree: object) -> None:
    """Nothing was lost, and with room there are backups again, and a reserve."""
    disk.empty()
    assert backups.read(kept) == tree
    last = backups.back_up(source)
    assert disk.reserve(".reserve") == RESERVE
    assert backups.read(last.run_id) == tree_of(source)


@pytest.mark.parametrize("of", ["bytes", "inodes"])
def test_prune(of: str, backups: Backups, disk: Disk, source: Path) -> None:
    (source / "a.bin").write_bytes(os.urandom(2 * MIB))
    first = backups.back_up(source).run_id
    (source / "a.bin").write_bytes(os.urandom(2 * MIB))
    second, tree = backups.back_up(source).run_id, tree_of(source)
    assert disk.reserve(".reserve") == RESERVE
    disk.fill() if of == "bytes" else disk.fill_inodes()
    require_no_backup(backups, source)
    backups.remove([first])
    disk.fill() if of == "bytes" else disk.fill_inodes()  # what was freed is somebody else's again
    report = backups.prune()
    assert report.packs_deleted >= 1
    assert report.bytes_pending == 0
    assert report.bytes_freed > 2 * MIB
    assert disk.reserve(".reserve") > 36 * MIB
    require_recovery(backups, disk, source, second, tree)


def test_compact_a_pack_of_full_size(backups: Backups, disk: Disk, source: Path) -> None:
    for number in range(3):
        (source / f"{number}.bin").write_bytes(os.urandom(10 * MIB))
    first = backups.back_up(source).run_id
    (source / "0.bin").unlink()
    second, tree = backups.back_up(source).run_id, tree_of(source)
    before = stored_size(backups.store, "packs/")
    disk.fill()
    require_no_backup(backups, source)
    backups.remove([first])
    disk.fill()
    report = backups.compact()
    assert report.packs_merged >= 1
    assert report.bytes_pending == 0
    assert stored_size(backups.store, "packs/") < before - 9 * MIB
    require_recovery(backups, disk, source, second, tree)


@pytest.mark.parametrize("of", ["bytes", "inodes"])
def test_compact_many_packs(
    of: str, backups: Backups, disk: Disk, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_packs(monkeypatch)
    for number in range(12):
        (source / f"{number}.bin").write_bytes(os.urandom(50_000))
        kept = backups.back_up(source).run_id
    tree, before = tree_of(source), len(list_packs(backups.store))
    disk.fill() if of == "bytes" else disk.fill_inodes()
    require_no_backup(backups, source)
    monkeypatch.undo()
    report = backups.compact()
    assert report.packs_merged == before
    assert report.bytes_pending == 0
    assert len(list_packs(backups.store)) < before / 3
    require_recovery(backups, disk, source, kept, tree)


def test_a_failed_backup_keeps_nothing_from_being_pruned(backups: Backups, disk: Disk, source: Path) -> None:
    (source / "a.bin").write_bytes(os.urandom(2 * MIB))
    kept, tree = backups.back_up(source).run_id, tree_of(source)
    (source / "b.bin").write_bytes(os.urandom(45 * MIB))
    run_id = "6f1d2c3e-0a4b-4c5d-8e6f-7a8b9c0d1e2f"
    free = os.statvfs(disk.path)
    with (disk.path / "ballast").open("wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, free.f_bavail * free.f_frsize - 40 * MIB)
    with pytest.raises(ResourceExhausted):
        backups.back_up(source, run_id=run_id)
    disk.fill()
    backups.give_up(run_id)
    disk.fill()
    report = backups.prune()
    assert (report.runs_waited_for, report.bytes_pending) == (0, 0)
    assert report.bytes_freed > 30 * MIB
    require_recovery(backups, disk, source, kept, tree)
