"""Exports through a running server: every format into every other, restored, read by other tools, refused, killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pyrage
import pytest

from holdfast.cli import main
from holdfast.v1 import (
    backup_pb2,
    backup_service_pb2,
    export_service_pb2,
    source_service_pb2,
    task_pb2,
    task_service_pb2,
)
from tests.harness import (
    PATIENCE,
    Failure,
    SequenceRule,
    Server,
    failure_of,
    make_tree,
    sha256_of,
    snapshot,
    until,
)

ZIP, TAR_GZ, TAR_ZST = (
    backup_pb2.ARCHIVE_FORMAT_ZIP,
    backup_pb2.ARCHIVE_FORMAT_TAR_GZ,
    backup_pb2.ARCHIVE_FORMAT_TAR_ZST,
)
COMPLETED, FAILED = task_pb2.TASK_STATE_COMPLETED, task_pb2.TASK_STATE_FAILED


@dataclass
class Place:
    """A backup with a hard link, and a folder for exports."""

    server: Server
    base: Path

    def __post_init__(self) -> None:
        self.source = make_tree(self.base / "source", 1, files=20, large=2 << 20)
        (self.source / "d1" / os.fsdecode(b"odd \xff")).write_text("odd")
        os.link(self.source / "large.bin", self.source / "d1" / "second name")
        self.source_id = f"s-{uuid.uuid4().hex[:12]}"
        self.server.register(self.source, self.source_id, display_name="Export: odd")
        (self.base / "archives").mkdir()
        self.backup = self.server.backup_of(self.server.backup(self.source_id, self.base / "archives", tar=True))
        self.out = self.base / "out"
        self.out.mkdir()

    def request(self, **values: Any) -> export_service_pb2.ExportBackupRequest:
        fields = {"backup_id": self.backup.backup_id, "folder": str(self.out), "format": ZIP, **values}
        return export_service_pb2.ExportBackupRequest(**fields)  # type: ignore[arg-type]

    def refused(self, **values: Any) -> Failure:
        with pytest.raises(grpc.RpcError) as caught:
            self.server.exports.ExportBackup(self.request(**values), timeout=PATIENCE)
        failure = failure_of(caught.value)
        assert failure.infos == 1
        return failure

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        before = snapshot(self.base)
        tasks = self.server.rows("SELECT count(*) AS n FROM tasks")[0]["n"]
        yield
        assert snapshot(self.base) == before
        assert self.server.rows("SELECT count(*) AS n FROM tasks")[0]["n"] == tasks


@pytest.fixture
def place(shared_server: Server, tmp_path: Path) -> Place:
    return Place(shared_server, tmp_path)


def only_file(task: task_pb2.Task, folder: Path) -> Path:
    """The one file of a folder, which is what the task reports."""
    (name,) = os.listdir(folder)
    file = task.export_backup_result.file
    assert (file.path, file.size, file.sha256, file.coins) == (
        str(folder / name), (folder / name).stat().st_size, sha256_of(folder / name), 0,
    )  # fmt: skip
    assert (folder / name).stat().st_mode & 0o777 == 0o600
    return folder / name


def unpack(file: Path, into: Path) -> None:
    """With tools that know nothing of us; the checksums agree."""
    into.mkdir()
    command = {
        ".zip": ["unzip", "-q", str(file)],
        ".gz": ["tar", "-xzf", str(file)],
        ".zst": ["tar", "--zstd", "-xf", str(file)],
    }[file.suffix]
    for program in [command[0], *(["zstd"] if file.suffix == ".zst" else [])]:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    subprocess.run(command, cwd=into, check=True, capture_output=True)
    if file.suffix != ".zip":  # Info-ZIP drops bytes that are no text from names
        subprocess.run(["sha256sum", "-c", "--quiet", "holdfast-sha256sums.txt"], cwd=into, check=True)


@pytest.mark.parametrize("kind", [ZIP, TAR_GZ, TAR_ZST], ids=["zip", "tar.gz", "tar.zst"])
def test_an_export_is_proved_named_and_readable_by_others(place: Place, tmp_path: Path, kind: int) -> None:
    server = place.server
    task = server.export(place.backup.backup_id, place.out, kind, tag="usb")
    assert task.state == COMPLETED, task
    assert (task.kind, list(task.source_ids)) == (task_pb2.TASK_KIND_EXPORT_BACKUP, [place.source_id])
    file = only_file(task, place.out)
    made = place.backup.create_time.ToDatetime()
    assert file.name.startswith(f"Export-odd-usb-{made:%Y%m%d-%H%M%S}."), file.name
    result, found = task.export_backup_result, place.backup.statistics
    assert result.complete
    assert result.files + result.hardlinks == found.files + found.hardlinks
    assert (result.directories, result.symlinks) == (found.directories, found.symlinks)
    assert result.hardlinks == (0 if kind == ZIP else 1)
    assert task.progress.percent == 100
    unpack(file, tmp_path / "unpacked")
    for name in ("large.bin", "d1/second name"):
        assert sha256_of(tmp_path / "unpacked" / name) == sha256_of(place.source / name)
    restored = server.restore_archive(file, tmp_path / "back")
    assert restored.state == COMPLETED, restored
    assert restored.restore_archive_result.has_manifest
    assert snapshot(tmp_path / "back") == snapshot(place.source)
    again = server.export(place.backup.backup_id, place.out, kind, tag="usb")
    assert Path(again.export_backup_result.file.path).stem.partition(".")[0].endswith("-2")
    listed = server.tasks.ListTasks(
        task_service_pb2.ListTasksRequest(kinds=[task_pb2.TASK_KIND_EXPORT_BACKUP], source_id=place.source_id)
    )
    assert [one.task_id for one in listed.tasks] == [again.task_id, task.task_id]


def test_some_paths_and_a_dry_run(place: Place, tmp_path: Path) -> None:
    server, paths = place.server, ["d1", "d2/e1"]
    with_dry_run = snapshot(place.base)
    planned = server.export(place.backup.backup_id, place.out, TAR_GZ, paths=paths, dry_run=True)
    assert snapshot(place.base) == with_dry_run
    assert (planned.state, planned.dry_run) == (COMPLETED, True)
    task = server.export(place.backup.backup_id, place.out, TAR_GZ, paths=paths)
    assert task.state == COMPLETED, task
    file = only_file(task, place.out)
    result = task.export_backup_result
    assert not planned.export_backup_result.HasField("file")
    planned.export_backup_result.file.CopyFrom(result.file)
    assert planned.export_backup_result == result
    unpack(file, tmp_path / "unpacked")
    before, after = snapshot(place.source, times=False), snapshot(tmp_path / "unpacked", times=False)
    wanted = {p: e for p, e in before.items() if p in (b"d1", b"d2/e1") or p.startswith((b"d1/", b"d2/e1/"))}
    assert {p: e for p, e in after.items() if p not in (b"", b"d2") and not p.startswith(b"holdfast-")} == wanted

    missing = server.export(place.backup.backup_id, place.out, TAR_GZ, paths=["d1", "no such entry"])
    assert (missing.state, missing.error.code, missing.error.reason) == (FAILED, "NOT_FOUND", "ENTRY_NOT_FOUND")
    assert missing.error.metadata["path"] == "no such entry"
    assert os.listdir(place.out) == [file.name]


def test_run_export_backup_streams_to_the_end_and_is_idempotent(place: Place) -> None:
    server, request_id = place.server, str(uuid.uuid4())
    fields = {"backup_id": place.backup.backup_id, "folder": str(place.out / "new"), "create_folder": True}
    run = export_service_pb2.RunExportBackupRequest(**fields, format=TAR_ZST, request_id=request_id)  # type: ignore[arg-type]
    ids = []
    for _ in range(2):
        rule, stream = SequenceRule(), server.exports.RunExportBackup(run, timeout=PATIENCE)
        for event in stream:
            rule.take(event)
        assert dict(stream.initial_metadata())["holdfast-task-id"] == rule.last.task_id
        assert rule.last.task.state == COMPLETED
        ids.append(rule.last.task_id)
    assert ids[0] == ids[1]
    only_file(rule.last.task, place.out / "new")
    unary = export_service_pb2.ExportBackupRequest(**fields, format=TAR_ZST, request_id=request_id)  # type: ignore[arg-type]
    assert server.exports.ExportBackup(unary).task_id == ids[0], "both calls share their request ids"
    assert place.refused(request_id=request_id).name == "ALREADY_EXISTS/REQUEST_ID_REUSED"


def test_a_backup_is_exported_whatever_became_of_its_source(place: Place) -> None:
    server = place.server
    server.sources.UpdateSource(source_service_pb2.UpdateSourceRequest(source_id=place.source_id, suspended=True))
    assert server.export(place.backup.backup_id, place.out).state == COMPLETED
    shutil.rmtree(place.source)
    server.sources.UnregisterSource(source_service_pb2.UnregisterSourceRequest(source_id=place.source_id))
    task = server.export(place.backup.backup_id, place.out)
    assert task.state == COMPLETED
    assert "/Export-odd-" in task.export_backup_result.file.path


def test_wrong_requests_change_nothing(place: Place, tmp_path: Path) -> None:
    ghost, inside = str(uuid.uuid4()), place.server.data_dir
    (tmp_path / "file").write_text("no folder")
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"format": 0}, "INVALID_ARGUMENT/INVALID_FIELD", "format"),
        ({"format": 99}, "INVALID_ARGUMENT/INVALID_FIELD", "format"),
        ({"folder": ""}, "INVALID_ARGUMENT/INVALID_FIELD", "folder"),
        ({"folder": "relative"}, "INVALID_ARGUMENT/INVALID_FIELD", "folder"),
        ({"tag": "x" * 65}, "INVALID_ARGUMENT/INVALID_FIELD", "tag"),
        ({"tag": "a\nb"}, "INVALID_ARGUMENT/INVALID_FIELD", "tag"),
        ({"paths": ["/etc"]}, "INVALID_ARGUMENT/INVALID_FIELD", "paths[0]"),
        ({"paths": ["a", "../b"]}, "INVALID_ARGUMENT/INVALID_FIELD", "paths[1]"),
        ({"paths": [""]}, "INVALID_ARGUMENT/INVALID_FIELD", "paths[0]"),
        ({"paths": ["x"] * 1001}, "INVALID_ARGUMENT/INVALID_FIELD", "paths"),
        ({"request_id": "no uuid"}, "INVALID_ARGUMENT/INVALID_FIELD", "request_id"),
        ({"backup_id": ghost}, "NOT_FOUND/BACKUP_NOT_FOUND", ""),
        ({"backup_id": ""}, "NOT_FOUND/BACKUP_NOT_FOUND", ""),
        ({"folder": str(tmp_path / "missing")}, "FAILED_PRECONDITION/FOLDER_NOT_FOUND", ""),
        ({"folder": str(tmp_path / "file")}, "FAILED_PRECONDITION/FOLDER_NOT_FOUND", ""),
        ({"folder": "/proc/x", "create_folder": True}, "FAILED_PRECONDITION/FOLDER_NOT_CREATABLE", ""),
        ({"folder": str(inside)}, "FAILED_PRECONDITION/FOLDER_INSIDE_DATA_DIR", ""),
        ({"folder": str(inside / "x"), "create_folder": True}, "FAILED_PRECONDITION/FOLDER_INSIDE_DATA_DIR", ""),
    ]
    with place.unchanged():
        for values, name, field in cases:
            failure = place.refused(**values)
            assert (failure.name, failure.fields) == (name, [field] if field else []), values


def test_a_backup_that_is_not_there_to_be_exported(new_server: Callable[..., Server], tmp_path: Path) -> None:
    place = Place(new_server(), tmp_path / "place")
    server = place.server
    with server.frozen_worker():
        unfinished = server.create(place.source_id, place.base / "archives")
        listed = server.backups.ListBackups(backup_service_pb2.ListBackupsRequest(task_id=unfinished.task_id))
        assert place.refused(backup_id=listed.backups[0].backup_id).name == "ABORTED/BACKUP_BUSY"
        # Accepted before its archive went.
        created = server.start_export(place.backup.backup_id, place.out)
        os.rename(place.backup.storage_path, tmp_path / "moved")
    task = server.ended(created.task_id)
    assert server.ended(unfinished.task_id).state == COMPLETED
    assert (task.state, task.error.reason) == (FAILED, "ARCHIVE_MISSING")
    assert os.listdir(place.out) == []
    os.rename(tmp_path / "moved", place.backup.storage_path)
    with open(place.backup.storage_path, "r+b") as file:
        file.seek(1 << 20)
        byte = file.read(1)
        file.seek(1 << 20)
        file.write(bytes([byte[0] ^ 255]))
    task = server.export(place.backup.backup_id, place.out)
    assert (task.state, task.error.code, task.error.reason) == (FAILED, "DATA_LOSS", "CHECKSUM_MISMATCH")
    assert os.listdir(place.out) == []
    assert list(task.cleanup.left_behind) == []

    with sqlite3.connect(server.data_dir / "state.sqlite", timeout=PATIENCE) as catalog:
        catalog.execute("UPDATE backups SET size = ? WHERE backup_id = ?", (1 << 60, place.backup.backup_id))
    catalog.close()
    with place.unchanged():
        failure = place.refused(format=TAR_GZ)
        assert failure.name == "RESOURCE_EXHAUSTED/DISK_FULL"
        assert int(failure.metadata["free"]) < int(failure.metadata["needed"])


def test_an_export_is_finished_once_after_a_kill_and_undone_after_a_cancel(
    new_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = new_server()
    server.register(make_tree(tmp_path / "source", 3, files=40, large=24 << 20), "source")
    for name in ("archives", "out"):
        (tmp_path / name).mkdir()
    backup = server.backup_of(server.backup("source", tmp_path / "archives", tar=True))
    out = tmp_path / "out"

    cancelled = server.start_export(backup.backup_id, out)
    until(lambda: os.listdir(out), "a partial file", pause=0.001)
    answer = server.cancel(cancelled.task_id)
    assert answer.state in (task_pb2.TASK_STATE_CANCELLING, task_pb2.TASK_STATE_CANCELLED)
    task = server.ended(cancelled.task_id)
    assert task.state == task_pb2.TASK_STATE_CANCELLED, task
    assert os.listdir(out) == []
    assert (task.cleanup.files_removed, list(task.cleanup.left_behind)) == (1, [])

    killed = server.start_export(backup.backup_id, out)
    until(lambda: os.listdir(out), "a partial file", pause=0.001)
    server.signal("worker", signal.SIGKILL)
    task = server.ended(killed.task_id)
    assert (task.state, task.attempt) == (COMPLETED, 2), task
    only_file(task, out)


def test_the_command(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data-dir", str(place.server.data_dir), "--no-progress"]

    def run(*words: str) -> tuple[int, str, str]:
        code = main([*options, "export", "backup", place.backup.backup_id, "--to", str(place.out), *words])
        told = capsys.readouterr()
        return code, told.out, told.err

    code, out, err = run("--format", "zip", "--path", "d1", "--dry-run")
    assert (code, os.listdir(place.out)) == (0, []), err
    assert "would export" in out
    code, out, err = run("--format", "tar.zst", "--path", "d1", "--path", "large.bin", "--tag", "some")
    assert code == 0, err
    (name,) = os.listdir(place.out)
    assert name.endswith(".tar.zst")
    assert str(place.out / name) in out
    assert sha256_of(place.out / name) in out
    code, out, err = run("--format", "zip", "--path", "nowhere")
    assert code == 1
    assert "ENTRY_NOT_FOUND" in err
    assert run("--format", "rar")[0] == 2


def test_sealed_in_and_out(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server, old, new = place.server, pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
    order = server.order(place.source_id, place.base / "archives")
    order.archive.age_recipients.append(str(old.to_public()))
    sealed = server.backup_of(server.ended(server.backups.CreateBackup(order).task_id))
    recipients = [str(new.to_public())]
    with place.unchanged():
        assert place.refused(backup_id=sealed.backup_id).name == "FAILED_PRECONDITION/KEY_REQUIRED"
        failure = place.refused(age_recipients=[*recipients, "age1nonsense"])
        assert (failure.name, failure.fields) == ("INVALID_ARGUMENT/INVALID_FIELD", ["age_recipients[1]"])

    wrong = place.request(backup_id=sealed.backup_id, age_recipients=recipients)
    wrong.credentials.age_identity = str(new)
    task = server.ended(server.exports.ExportBackup(wrong).task_id)
    assert (task.state, task.error.reason) == (FAILED, "KEY_WRONG")
    assert os.listdir(place.out) == []

    (tmp_path / "identity").write_text(str(old))
    options = ["--data-dir", str(server.data_dir), "--no-progress", "export", "backup", sealed.backup_id]
    words = ["--to", str(place.out), "--format", "tar.gz", "--recipient", *recipients]
    assert main([*options, *words, "--identity", str(tmp_path / "identity")]) == 0
    name, sidecar = sorted(os.listdir(place.out))
    assert (Path(name).suffixes[-2:], sidecar) == ([".gz", ".age"], f"{name}.holdfast.json")
    told = json.loads((place.out / sidecar).read_text())
    assert "backup_id" not in told
    assert told["exported_from"]["backup_id"] == sealed.backup_id
    assert told["sha256"] == sha256_of(place.out / name)
    (tmp_path / "opened.tar.gz").write_bytes(pyrage.decrypt((place.out / name).read_bytes(), [new]))
    unpack(tmp_path / "opened.tar.gz", tmp_path / "unpacked")
    assert sha256_of(tmp_path / "unpacked" / "large.bin") == sha256_of(place.source / "large.bin")
    rows = server.rows("SELECT request, result, progress, checkpoint FROM tasks WHERE kind = 'EXPORT_BACKUP'")
    assert str(old) not in str(rows)
    assert str(new) not in str(rows)
