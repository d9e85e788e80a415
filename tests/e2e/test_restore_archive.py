"""Any archive of the server into a new folder: ours and foreign ones, hostile ones and what is none."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import stat
import subprocess
import tarfile
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pyrage
import pytest

from holdfast.v1 import backup_pb2, restore_pb2, task_pb2
from holdfast.v1.credentials_pb2 import Credentials
from tests.harness import Server, failure_of, make_tree, snapshot, until
from tests.keys import OTHER_PRIVATE, PRIVATE, PUBLIC
from tests.unit.archive.samples import directory, file, forged, symlink, tar, tar_gz

COMPLETED = task_pb2.TASK_STATE_COMPLETED
WARNED = task_pb2.TASK_STATE_COMPLETED_WITH_WARNINGS
FAILED = task_pb2.TASK_STATE_FAILED
CANCELLED = task_pb2.TASK_STATE_CANCELLED

MakeServer = Callable[..., Server]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files, folders, links and odd names, with whole seconds: a foreign zip keeps no more."""
    root = make_tree(tmp_path_factory.mktemp("tree") / "source", 11, files=30)
    (root / "empty folder").mkdir()
    (root / "caf\u00e9 \u4e2d.txt").write_text("utf-8")
    (root / "link").symlink_to("d0/e0")
    for path in [root, *root.rglob("*")]:
        os.utime(path, (1_600_000_000, 1_600_000_000), follow_symlinks=False)
    return root


@pytest.fixture(scope="module")
def ours(tree: Path, shared_server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tree as archives of ours, under names that say nothing."""
    source_id = f"tree-{uuid.uuid4().hex[:8]}"
    shared_server.register(tree, source_id)
    made = {}
    for name in ("zip", "tar"):
        folder = tmp_path_factory.mktemp(name)
        task = shared_server.backup(source_id, folder, tar=name == "tar")
        made[name] = folder / "archive"
        os.rename(task.backup_result.output_files[0], made[name])
    made["plain"] = made["tar"].with_name("plain")
    made["plain"].write_bytes(gzip.decompress(made["tar"].read_bytes()))
    return made


@pytest.mark.parametrize(
    ("name", "found"),
    [("zip", backup_pb2.ARCHIVE_FORMAT_ZIP), ("tar", backup_pb2.ARCHIVE_FORMAT_TAR_GZ), ("plain", 0)],
)
def test_an_archive_of_ours_is_proved_by_its_manifest(
    shared_server: Server, tree: Path, ours: dict[str, Path], tmp_path: Path, name: str, found: int
) -> None:
    task = shared_server.restore_archive(ours[name], tmp_path / "back")
    assert task.state == COMPLETED, task
    assert task.kind == task_pb2.TASK_KIND_RESTORE_ARCHIVE
    result = task.restore_archive_result
    assert (result.format, result.has_manifest, result.sealed) == (found, True, False)
    assert (result.folder, result.entries_skipped) == (str(tmp_path / "back"), 0)
    assert result.files == result.files_verified > 30
    assert "every file's hash matched the manifest" in task.message
    assert snapshot(tmp_path / "back") == snapshot(tree)
    assert task.progress.files == result.files
    assert task.progress.original_size == result.restored_size


def _zip(tree: Path, out: Path) -> None:
    subprocess.run(["zip", "-qry", out, "."], cwd=tree, check=True)


def _zipfile(tree: Path, out: Path) -> None:
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(tree.rglob("*")):
            if not path.is_symlink():
                archive.write(path, path.relative_to(tree))
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "d0/e0")


def _tarfile(tree: Path, out: Path) -> None:
    with tarfile.open(out, "w:gz", format=tarfile.GNU_FORMAT) as archive:
        archive.add(tree, ".")


def _command(*words: str) -> Callable[[Path, Path], None]:
    return lambda tree, out: subprocess.run([*words, str(out), "."], cwd=tree, check=True) and None


MAKERS: dict[str, tuple[str, Callable[[Path, Path], None], str]] = {
    "zip": ("zip", _zip, "own checksums"),
    "zipfile": ("", _zipfile, "own checksums"),
    "tarfile": ("", _tarfile, "own checksums"),
    "tar": ("tar", _command("tar", "-cf"), "no checksums at all"),
    "tar-pax-gz": ("tar", _command("tar", "--format=pax", "-czf"), "own checksums"),
    "tar-zst": ("zstd", _command("tar", "--zstd", "-cf"), "own checksums"),
    "tar-zst-unchecked": ("zstd", _command("tar", "-I", "zstd --no-check", "-cf"), "no checksums at all"),
    "bsdtar-pax-gz": ("bsdtar", _command("bsdtar", "--format=pax", "-czf"), "own checksums"),
    "bsdtar-zip": ("bsdtar", _command("bsdtar", "--format=zip", "-cf"), "own checksums"),
    "bsdtar-ustar": ("bsdtar", _command("bsdtar", "--format=ustar", "-cf"), "no checksums at all"),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_archives_of_foreign_tools(shared_server: Server, tree: Path, tmp_path: Path, maker: str) -> None:
    program, make, words = MAKERS[maker]
    if program and not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    archive = tmp_path / "some.backup"
    make(tree, archive)
    task = shared_server.restore_archive(archive, tmp_path / "back")
    assert task.state == COMPLETED, (task, shared_server.problems(task.task_id))
    result = task.restore_archive_result
    assert (result.has_manifest, result.files_verified) == (False, 0)
    assert result.has_checksums == (words == "own checksums")
    assert "no manifest" in task.message
    assert words in task.message
    times = maker != "zipfile"  # it writes local DOS times
    wanted, found = snapshot(tree, times=times), snapshot(tmp_path / "back", times=times)
    if maker in ("zip", "zipfile"):  # no entry for the root
        wanted.pop(b""), found.pop(b"")
    assert found == wanted


def test_without_a_manifest_a_new_folder_stays_private(shared_server: Server, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(tar_gz([file(b"f")]))
    assert shared_server.restore_archive(tmp_path / "a", tmp_path / "back").state == COMPLETED
    assert stat.S_IMODE((tmp_path / "back").stat().st_mode) == 0o700


def test_what_is_left_out_and_dropped_is_a_warning_each(shared_server: Server, tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, mode, pax in (
            ("fifo", tarfile.FIFOTYPE, 0o644, {}),
            ("device", tarfile.CHRTYPE, 0o666, {}),
            ("setuid", tarfile.REGTYPE, 0o4755, {}),
            ("attributes", tarfile.REGTYPE, 0o644, {"SCHILY.xattr.user.note": "x"}),
            ("plain", tarfile.REGTYPE, 0o644, {}),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.pax_headers = kind, mode, pax
            archive.addfile(info)
    (tmp_path / "a").write_bytes(out.getvalue())
    for dry_run in (True, False):
        task = shared_server.restore_archive(tmp_path / "a", tmp_path / "back", dry_run=dry_run)
        assert task.state == WARNED
        assert task.restore_archive_result.entries_skipped == 2
        told = {(one.path, one.reason) for one in shared_server.problems(task.task_id)}
        assert told == {
            ("fifo", "ENTRY_SKIPPED"),
            ("device", "ENTRY_SKIPPED"),
            ("setuid", "RESTORED_WITH_WARNING"),
            ("attributes", "RESTORED_WITH_WARNING"),
        }
        assert task.warning_count == 4
    assert sorted(os.listdir(tmp_path / "back")) == ["attributes", "plain", "setuid"]
    assert stat.S_IMODE((tmp_path / "back" / "setuid").stat().st_mode) == 0o755


def test_selected_paths_and_what_is_not_there(shared_server: Server, ours: dict[str, Path], tmp_path: Path) -> None:
    for name in ("zip", "tar"):
        task = shared_server.restore_archive(ours[name], tmp_path / name, paths=["d0", "caf\u00e9 \u4e2d.txt"])
        assert task.state == COMPLETED, task
        assert sorted(os.listdir(tmp_path / name)) == ["caf\u00e9 \u4e2d.txt", "d0"]
        for dry_run in (True, False):
            task = shared_server.restore_archive(
                ours[name], tmp_path / "none", paths=["d0", "nowhere"], dry_run=dry_run
            )
            assert (task.state, task.error.reason) == (FAILED, "ENTRY_NOT_FOUND")
            assert task.error.metadata["path"] == "nowhere"
            assert not (tmp_path / "none").exists()


def test_a_dry_run_reads_all_and_writes_nothing(shared_server: Server, ours: dict[str, Path], tmp_path: Path) -> None:
    for name, archive in ours.items():
        real = shared_server.restore_archive(archive, tmp_path / name).restore_archive_result
        before = snapshot(tmp_path)
        task = shared_server.restore_archive(
            archive, tmp_path / "new", dry_run=True, limits=restore_pb2.ArchiveLimits(max_bytes=1 << 30)
        )
        assert (task.state, task.dry_run) == (COMPLETED, True)
        found = task.restore_archive_result
        found.folder = real.folder
        assert found == real
        assert "would restore" in task.message
        assert snapshot(tmp_path) == before
    data = bytearray(ours["tar"].read_bytes())
    data[len(data) // 2] ^= 0x10
    (tmp_path / "broken").write_bytes(data)
    task = shared_server.restore_archive(tmp_path / "broken", tmp_path / "new", dry_run=True)
    assert (task.state, task.error.code) == (FAILED, "DATA_LOSS")


def test_damage_and_broken_rules_leave_nothing(shared_server: Server, ours: dict[str, Path], tmp_path: Path) -> None:
    def flipped(path: Path) -> bytes:
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 1
        return bytes(data)

    plain = ours["plain"].read_bytes()
    at = plain.index(b"holdfast ") + 20
    cases: list[tuple[bytes, str]] = [
        (flipped(ours["zip"]), "DATA_LOSS/CHECKSUM_MISMATCH"),
        (flipped(ours["tar"]), "DATA_LOSS/CHECKSUM_MISMATCH"),
        (ours["tar"].read_bytes()[:-100], "DATA_LOSS/CHECKSUM_MISMATCH"),
        (ours["zip"].read_bytes()[:-100], "DATA_LOSS/CHECKSUM_MISMATCH"),
        # Only the manifest knows: a plain tar has no checksum of its own.
        (plain[:at] + bytes([plain[at] ^ 1]) + plain[at + 1 :], "DATA_LOSS/CHECKSUM_MISMATCH"),
        (gzip.compress(b"no tar" * 1000), "FAILED_PRECONDITION/ARCHIVE_INVALID"),
        (tar_gz([file(b"../x")]), "FAILED_PRECONDITION/ARCHIVE_INVALID"),
        (forged([symlink(b"l", b"/tmp"), file(b"l/x")]), "FAILED_PRECONDITION/ARCHIVE_INVALID"),
        (forged([file(b"a"), file(b"a")]), "FAILED_PRECONDITION/ARCHIVE_INVALID"),
    ]
    target = tmp_path / "target"
    target.mkdir()
    for data, error in cases:
        (tmp_path / "a").write_bytes(data)
        for folder in (target, tmp_path / "new"):
            before = snapshot(tmp_path)
            task = shared_server.restore_archive(tmp_path / "a", folder)
            assert task.state == FAILED
            assert f"{task.error.code}/{task.error.reason}" == error, task.error
            assert task.error.remedy
            assert not task.cleanup.left_behind
            after = snapshot(tmp_path)
            for names in (before, after):  # folders in which something came and went
                names.pop(b""), names.pop(b"target")
            assert after == before


#: Deflates to about a hundredth, so it passes the service's own limit of 1,000 and is above the floor of 64 MiB.
BOMB = [file(b"pattern", bytes(range(256)) * (70 << 12))]


@pytest.mark.parametrize("make", [forged, tar_gz], ids=["zip", "tar.gz"])
@pytest.mark.parametrize(
    ("entries", "limits", "limit"),
    [
        (BOMB, {"max_bytes": 1 << 20}, "max_bytes"),
        (BOMB, {"max_ratio": 50}, "max_ratio"),
        ([file(b"%d" % n) for n in range(20)], {"max_entries": 19}, "max_entries"),
        ([file(b"a/b/c/d")], {"max_depth": 3}, "max_depth"),
    ],
    ids=["bytes", "ratio", "entries", "depth"],
)
def test_a_passed_limit_is_named_and_leaves_nothing(
    shared_server: Server, tmp_path: Path, make: Any, entries: Any, limits: dict[str, int], limit: str
) -> None:
    (tmp_path / "a").write_bytes(make(entries))
    for dry_run in (True, False):
        task = shared_server.restore_archive(
            tmp_path / "a", tmp_path / "back", dry_run=dry_run, limits=restore_pb2.ArchiveLimits(**limits)
        )
        assert task.state == FAILED
        assert (task.error.code, task.error.reason) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
        assert task.error.metadata["limit"] == limit
        assert task.error.metadata["allowed"] == str(limits[limit])
        assert f"limits.{limit}" in task.error.message, "says how to raise it"
        assert not (tmp_path / "back").exists()
    if limit != "max_depth":  # what is exactly allowed passes
        enough = {"max_bytes": 70 << 20, "max_ratio": 999, "max_entries": 20}[limit]
        task = shared_server.restore_archive(
            tmp_path / "a", tmp_path / "back", limits=restore_pb2.ArchiveLimits(**{limit: enough})
        )
        assert task.state == COMPLETED, task.error


def test_the_services_limits_hold_and_cannot_be_raised(new_server: MakeServer, tmp_path: Path) -> None:
    server = new_server(environment={"HOLDFAST_RESTORE_MAX_ENTRIES": "5"})
    (tmp_path / "many").write_bytes(tar_gz([file(b"%d" % n) for n in range(6)]))
    for limits in (None, restore_pb2.ArchiveLimits(max_entries=1000, max_bytes=(1 << 64) - 1)):
        task = server.restore_archive(tmp_path / "many", tmp_path / "back", limits=limits)
        assert (task.state, task.error.reason) == (FAILED, "QUOTA_EXCEEDED")
        assert "raise [restore] max_entries" in task.error.message
        assert not (tmp_path / "back").exists()


def test_the_same_request_is_the_same_task(shared_server: Server, ours: dict[str, Path], tmp_path: Path) -> None:
    request_id = str(uuid.uuid4())
    first = shared_server.start_restore_archive(ours["zip"], tmp_path / "back", request_id=request_id)
    again = shared_server.start_restore_archive(ours["zip"], tmp_path / "back", request_id=request_id)
    assert again.task_id == first.task_id
    assert shared_server.ended(first.task_id).state == COMPLETED
    # Also when it could not be started any more: the folder is no longer empty.
    assert shared_server.restore_archive(ours["zip"], tmp_path / "back", request_id=request_id).task_id == first.task_id
    with pytest.raises(grpc.RpcError) as caught:
        shared_server.start_restore_archive(ours["tar"], tmp_path / "back", request_id=request_id)
    assert failure_of(caught.value).name == "ALREADY_EXISTS/REQUEST_ID_REUSED"


def test_a_cancel_leaves_nothing(new_server: MakeServer, tmp_path: Path) -> None:
    server = new_server()
    noise = os.urandom(1 << 20)
    (tmp_path / "a").write_bytes(gzip.compress(tar([file(b"%03d" % n, noise) for n in range(160)]), 0))
    hit = 0
    for _ in range(10):
        task_id = server.start_restore_archive(tmp_path / "a", tmp_path / "back").task_id
        until(
            lambda wanted=task_id: '"phase": "extracting"' in str(server.task_row(wanted)["progress"])
            or server.task_row(wanted)["state"] not in ("PENDING", "RUNNING"),
            "extracting",
            pause=0.001,
        )  # fmt: skip
        try:
            server.cancel(task_id)
        except grpc.RpcError as error:
            assert failure_of(error).reason == "TASK_COMMITTING"  # noqa: PT017
        task = server.ended(task_id)
        if task.state == CANCELLED:
            assert not (tmp_path / "back").exists()
            assert not task.cleanup.left_behind
            hit += 1
            break
        shutil.rmtree(tmp_path / "back")
    assert hit, "no cancel ever met the work"


def test_killed_workers_end_in_a_whole_tree(new_server: MakeServer, tmp_path: Path) -> None:
    server = new_server()
    source = make_tree(tmp_path / "source", 5, files=200, large=8 << 20)
    subprocess.run(["tar", "-C", source, "--format=posix", "-czf", tmp_path / "a", "."], check=True)
    wanted = snapshot(source)
    for round_, phase in enumerate(("extracting", "applying")):
        target = tmp_path / f"back{round_}"
        task_id = server.start_restore_archive(tmp_path / "a", target).task_id
        until(
            lambda task_id=task_id, phase=phase: f'"phase": "{phase}"' in str(server.task_row(task_id)["progress"])
            or server.task_row(task_id)["state"] not in ("PENDING", "RUNNING"),
            phase,
            pause=0.0005,
        )  # fmt: skip
        server.signal("worker")
        task = server.ended(task_id)
        assert task.state == COMPLETED, task
        assert snapshot(target) == wanted


def test_a_file_that_is_swapped_after_the_call_is_opened_afresh(shared_server: Server, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(tar_gz([file(b"before")]))
    for swap, reason in ((lambda: (tmp_path / "a").symlink_to("/etc/passwd"), "FILE_NOT_FOUND"), (None, None)):
        with shared_server.frozen_worker():
            task = shared_server.start_restore_archive(tmp_path / "a", tmp_path / "back")
            (tmp_path / "a").unlink()
            if swap is not None:
                swap()
            else:
                (tmp_path / "a").write_bytes(forged([file(b"after")]))
        task = shared_server.ended(task.task_id)
        if reason:
            assert (task.state, task.error.reason) == (FAILED, reason)
            assert not (tmp_path / "back").exists()
            (tmp_path / "a").unlink()
            (tmp_path / "a").write_bytes(tar_gz([file(b"before")]))
        else:
            assert task.state == COMPLETED
            assert os.listdir(tmp_path / "back") == ["after"]


def sealed(data: bytes, tmp_path: Path, public: str = PUBLIC) -> Path:
    path = tmp_path / "sealed"
    path.write_bytes(pyrage.encrypt(data, [pyrage.x25519.Recipient.from_str(public)]))
    return path


@pytest.mark.parametrize("name", ["zip", "tar", "plain"])
def test_a_sealed_archive_needs_its_identity(
    shared_server: Server, tree: Path, ours: dict[str, Path], tmp_path: Path, name: str
) -> None:
    archive, back = sealed(ours[name].read_bytes(), tmp_path), tmp_path / "back"
    with pytest.raises(grpc.RpcError) as caught:
        shared_server.start_restore_archive(archive, back)
    assert failure_of(caught.value).name == "FAILED_PRECONDITION/KEY_REQUIRED"
    with pytest.raises(grpc.RpcError) as caught:
        shared_server.start_restore_archive(archive, back, credentials=Credentials(age_identity=PRIVATE[:-4]))
    failure = failure_of(caught.value)
    assert (failure.name, failure.fields) == ("INVALID_ARGUMENT/INVALID_FIELD", ["credentials.age_identity"])
    assert PRIVATE[:-4] not in str(failure)
    task = shared_server.restore_archive(archive, back, credentials=Credentials(age_identity=OTHER_PRIVATE))
    assert (task.state, task.error.code, task.error.reason) == (FAILED, "FAILED_PRECONDITION", "KEY_WRONG")
    assert not back.exists()
    for dry_run in (True, False):
        task = shared_server.restore_archive(
            archive, back, credentials=Credentials(age_identity=PRIVATE), dry_run=dry_run
        )
        assert task.state == COMPLETED, task.error
        assert task.restore_archive_result.sealed
        assert task.restore_archive_result.has_manifest
        assert back.exists() != dry_run
    assert snapshot(back) == snapshot(tree)


def test_a_damaged_sealed_archive_is_data_loss(shared_server: Server, ours: dict[str, Path], tmp_path: Path) -> None:
    archive = sealed(ours["tar"].read_bytes(), tmp_path)
    for data in (archive.read_bytes()[:-1], archive.read_bytes()[:-100] + bytes(100)):
        archive.write_bytes(data)
        task = shared_server.restore_archive(archive, tmp_path / "back", credentials=Credentials(age_identity=PRIVATE))
        assert (task.state, task.error.code, task.error.reason) == (FAILED, "DATA_LOSS", "CHECKSUM_MISMATCH")
        assert not (tmp_path / "back").exists()


def test_what_is_sealed_is_told_by_content_too(shared_server: Server, tmp_path: Path) -> None:
    key = Credentials(age_identity=PRIVATE)
    task = shared_server.restore_archive(sealed(b"no archive", tmp_path), tmp_path / "back", credentials=key)
    assert (task.state, task.error.reason) == (FAILED, "ARCHIVE_INVALID")
    task = shared_server.restore_archive(sealed(tar([file(b"f")]), tmp_path), tmp_path / "back", credentials=key)
    assert task.state == COMPLETED
    assert "own checksums" in task.message, "a sealed file is authentic chunk by chunk"


def test_the_target_rules_are_those_of_every_restore(
    shared_server: Server, ours: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    for folder, reason in (
        (tmp_path / "full", "FOLDER_NOT_EMPTY"),
        (tmp_path / "missing" / "new", "FOLDER_NOT_FOUND"),
        (shared_server.data_dir / "new", "FOLDER_INSIDE_DATA_DIR"),
    ):
        for dry_run in (True, False):
            with pytest.raises(grpc.RpcError) as caught:
                shared_server.start_restore_archive(ours["zip"], folder, dry_run=dry_run)
            assert failure_of(caught.value).reason == reason


def test_directories_without_entries_of_their_own(shared_server: Server, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(tar([directory(b"x"), file(b"a/b/c/f")]))
    task = shared_server.restore_archive(tmp_path / "a", tmp_path / "back")
    assert task.state == COMPLETED
    assert (tmp_path / "back" / "a" / "b" / "c" / "f").read_bytes() == b"x"
