"""What wrong calls get: code, reason, exactly one ErrorInfo, the wrong fields by name, and an unchanged disk."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from holdfast.v1 import (
    backup_pb2,
    credentials_pb2,
    restore_pb2,
    source_pb2,
    task_pb2,
)
from holdfast.v1 import (
    backup_service_pb2 as backup_calls,
)
from holdfast.v1 import (
    repository_service_pb2 as repository_calls,
)
from holdfast.v1 import (
    restore_service_pb2 as restore_calls,
)
from holdfast.v1 import (
    source_service_pb2 as source_calls,
)
from holdfast.v1 import (
    task_service_pb2 as task_calls,
)
from holdfast_server.rpc.registry import NOT_BUILT_FILES
from tests.harness import PATIENCE, Failure, Server, failure_of, make_tree, snapshot, until

BUILT = {
    f"{name}Service" for name in ("Source", "Wallet", "Backup", "Export", "Restore", "Repository", "Task")
}  # fmt: skip
METHODS: list[MethodDescriptor] = [
    method for file in NOT_BUILT_FILES for service in file.services_by_name.values() for method in service.methods
]


def refused(call: Callable[..., Any], request: Any, **values: Any) -> Failure:
    """The failure of a call, unary or streaming, with what holds for all failures checked."""
    try:
        answer = call(request, timeout=PATIENCE, **values)
        if hasattr(answer, "__iter__"):
            list(answer)
    except grpc.RpcError as error:
        failure = failure_of(error)
    else:
        raise AssertionError(f"not refused: {request}")
    assert failure.infos == 1, failure
    assert failure.domain == "holdfast.dev"
    assert failure.metadata["remedy"]
    assert (failure.reason == "INVALID_FIELD") == bool(failure.fields)
    return failure


class Place:
    """A source with a finished backup, and folders whose content must not change."""

    def __init__(self, server: Server, base: Path) -> None:
        self.server, self.base = server, base
        self.source = make_tree(base / "source", 1, files=6)
        self.folder = base / "archives"
        self.folder.mkdir()
        self.source_id = f"s-{uuid.uuid4().hex[:12]}"
        server.register(self.source, self.source_id)
        self.task = server.backup(self.source_id, self.folder)
        self.backup_id = server.backup_of(self.task).backup_id

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


def order(place: Place, **values: Any) -> backup_calls.CreateBackupRequest:
    request = place.server.order(place.source_id, place.folder)
    for name, value in values.items():
        holder: Any = request
        *path, last = name.split("__")
        for part in path:
            holder = getattr(holder, part)
        if isinstance(value, (list, tuple)):
            del getattr(holder, last)[:]
            getattr(holder, last).extend(value)
        else:
            setattr(holder, last, value)
    return request


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"archive__folder": ""}, "archive.folder"),
        ({"archive__folder": "relative/path"}, "archive.folder"),
        ({"archive__folder": "/tmp/nul\\x00"}, "archive.folder"),
        ({"archive__folder": "/tmp/bad\\xZZ\\u{110000}"}, "archive.folder"),
        ({"archive__format": 0}, "archive.format"),
        ({"archive__format": 77}, "archive.format"),
        ({"on_source_error": 77}, "on_source_error"),
        ({"archive__tag": "x" * 65}, "archive.tag"),
        ({"archive__tag": "a\nb"}, "archive.tag"),
        ({"archive__tag": "a\x1b[31m"}, "archive.tag"),
        ({"name": "two\nlines"}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"ignore": ["fine", "  "]}, "ignore[1]"),
        ({"ignore": ["a\nb"]}, "ignore[0]"),
        ({"ignore": ["x" * 5000]}, "ignore[0]"),
        ({"ignore": ["x"] * 1001}, "ignore"),
        ({"source_ids": []}, "source_ids"),
        ({"source_ids": ["a", "a"]}, "source_ids"),
        ({"source_ids": [str(n) for n in range(1001)]}, "source_ids"),
        ({"all_wallets": True}, "source_ids"),
        ({"backup_id": "not-a-uuid"}, "backup_id"),
        ({"backup_id": ""}, "backup_id"),
        ({"request_id": "not-a-uuid"}, "request_id"),
        ({"request_id": ""}, "request_id"),
        ({"request_id": "{12345678-1234-1234-1234-123456789012}"}, "request_id"),
    ],
)
def test_wrong_fields_of_a_backup_are_named(place: Place, values: dict[str, Any], field: str) -> None:
    with place.unchanged():
        for call in (place.server.backups.CreateBackup, place.server.backups.RunBackup):
            request = order(place, **values)
            if call is place.server.backups.RunBackup:
                request = backup_calls.RunBackupRequest.FromString(request.SerializeToString())
            failure = refused(call, request)
            assert failure.name == "INVALID_ARGUMENT/INVALID_FIELD"
            assert failure.fields == [field]
            assert failure.metadata["field"] == field


def test_a_backup_without_a_target_is_refused(place: Place) -> None:
    request = backup_calls.CreateBackupRequest(source_ids=[place.source_id])
    assert refused(place.server.backups.CreateBackup, request).fields == ["archive"]


def test_a_name_or_an_id_for_several_sources_is_refused(place: Place) -> None:
    request = order(place, source_ids=[place.source_id, "other"], name="one name")
    assert refused(place.server.backups.CreateBackup, request).fields == ["name"]
    request = order(place, source_ids=[place.source_id, "other"], backup_id=str(uuid.uuid4()))
    assert refused(place.server.backups.CreateBackup, request).fields == ["backup_id"]


def test_messages_not_built_yet_are_refused_by_name(place: Place) -> None:
    server = place.server
    in_place = restore_calls.RestoreBackupRequest(backup_id=place.backup_id)
    in_place.in_place.SetInParent()
    in_place.credentials.passphrase = "canary-passphrase"
    cases = [
        (server.restores.RestoreBackup, in_place, "in_place"),
        (
            server.backups.VerifyBackup,
            backup_calls.VerifyBackupRequest(backup_id=place.backup_id, level=backup_pb2.VERIFY_LEVEL_RESTORE_DRILL),
            "level",
        ),
        (server.backups.DownloadBackup, backup_calls.DownloadBackupRequest(token="t"), "token"),
        (server.tasks.DownloadTaskLog, task_calls.DownloadTaskLogRequest(token="t"), "token"),
        (server.tasks.ListTasks, task_calls.ListTasksRequest(schedule_id="s"), "schedule_id"),
    ]
    with place.unchanged():
        for call, request, field in cases:
            failure = refused(call, request)
            assert (failure.name, failure.metadata["field"]) == ("UNIMPLEMENTED/NOT_AVAILABLE", field)
            assert "canary-passphrase" not in str(failure)


def test_a_secret_that_opens_nothing_here_is_refused_by_name(place: Place) -> None:
    request = restore_calls.RestoreBackupRequest(backup_id=place.backup_id)
    request.new_folder.folder = str(place.base / "back")
    request.credentials.passphrase = "canary-passphrase"
    with place.unchanged():
        failure = refused(place.server.restores.RestoreBackup, request)
    assert (failure.name, failure.fields) == ("INVALID_ARGUMENT/INVALID_FIELD", ["credentials.passphrase"])
    assert "canary-passphrase" not in str(failure)


def test_unknown_ids_are_not_found(place: Place) -> None:
    server, ghost = place.server, str(uuid.uuid4())
    restore = restore_calls.RestoreBackupRequest(backup_id=ghost)
    restore.new_folder.folder = str(place.base / "back")
    snapshot_order = backup_calls.CreateBackupRequest(source_ids=[place.source_id])
    snapshot_order.repository.repository_id = "ghost"
    cases: list[tuple[Any, Any, str]] = [
        (server.backups.CreateBackup, snapshot_order, "REPOSITORY"),
        (server.sources.GetSource, source_calls.GetSourceRequest(source_id="ghost"), "SOURCE"),
        (server.sources.UpdateSource, source_calls.UpdateSourceRequest(source_id="ghost", suspended=True), "SOURCE"),
        (server.sources.UnregisterSource, source_calls.UnregisterSourceRequest(source_id="ghost"), "SOURCE"),
        (server.backups.CreateBackup, order(place, source_ids=["ghost"]), "SOURCE"),
        (server.backups.GetBackup, backup_calls.GetBackupRequest(backup_id=ghost), "BACKUP"),
        (server.backups.UpdateBackup, backup_calls.UpdateBackupRequest(backup_id=ghost, locked=True), "BACKUP"),
        (server.backups.DeleteBackup, backup_calls.DeleteBackupRequest(backup_id=ghost), "BACKUP"),
        (server.backups.UndeleteBackup, backup_calls.UndeleteBackupRequest(backup_id=ghost), "BACKUP"),
        (server.backups.VerifyBackup, backup_calls.VerifyBackupRequest(backup_id=ghost), "BACKUP"),
        (server.backups.DownloadBackup, backup_calls.DownloadBackupRequest(backup_id=ghost), "BACKUP"),
        (server.restores.RestoreBackup, restore, "BACKUP"),
        (server.repositories.GetRepository, repository_calls.GetRepositoryRequest(), "REPOSITORY"),
        (server.repositories.LockRepository, repository_calls.LockRepositoryRequest(repository_id="r"), "REPOSITORY"),
        (server.tasks.GetTask, task_calls.GetTaskRequest(task_id=ghost), "TASK"),
        (server.tasks.CancelTask, task_calls.CancelTaskRequest(task_id=ghost), "TASK"),
        (server.tasks.WatchTask, task_calls.WatchTaskRequest(task_id=ghost), "TASK"),
        (server.tasks.ListTaskProblems, task_calls.ListTaskProblemsRequest(task_id=ghost), "TASK"),
        (server.tasks.StreamTaskLog, task_calls.StreamTaskLogRequest(task_id=ghost), "TASK"),
        (server.tasks.DownloadTaskLog, task_calls.DownloadTaskLogRequest(task_id=ghost), "TASK"),
        (server.tasks.GetTask, task_calls.GetTaskRequest(task_id="no uuid \n\x1b \u202e"), "TASK"),
        (server.tasks.GetTask, task_calls.GetTaskRequest(task_id="x" * 100_000), "TASK"),
        (server.backups.GetBackup, backup_calls.GetBackupRequest(), "BACKUP"),
    ]
    with place.unchanged():
        for call, request, noun in cases:
            assert refused(call, request).name == f"NOT_FOUND/{noun}_NOT_FOUND"


def test_an_id_that_was_not_given_is_said_so(shared_server: Server) -> None:
    cases: list[tuple[Any, Any, str]] = [
        (shared_server.sources.GetSource, source_calls.GetSourceRequest(), "source"),
        (shared_server.backups.GetBackup, backup_calls.GetBackupRequest(), "backup"),
        (shared_server.repositories.GetRepository, repository_calls.GetRepositoryRequest(), "repository"),
        (shared_server.tasks.GetTask, task_calls.GetTaskRequest(), "task"),
    ]
    for call, request, noun in cases:
        assert refused(call, request).text == f"there is no {noun} without an id"


def test_wrong_registrations(place: Place) -> None:
    register = place.server.sources.RegisterSource
    directory = source_pb2.SOURCE_KIND_DIRECTORY

    def request(**values: Any) -> source_calls.RegisterSourceRequest:
        return source_calls.RegisterSourceRequest(**{"path": str(place.source), "kind": directory, **values})

    fields: list[tuple[dict[str, Any], str]] = [
        ({"path": ""}, "path"),
        ({"path": "relative"}, "path"),
        ({"kind": 99}, "kind"),
        ({"source_id": "UPPER"}, "source_id"),
        ({"source_id": ""}, "source_id"),
        ({"source_id": "x" * 64}, "source_id"),
        ({"source_id": "../x"}, "source_id"),
        ({"source_id": "a\n"}, "source_id"),
        ({"display_name": "x" * 256}, "display_name"),
        ({"display_name": "a\nb"}, "display_name"),
        ({"ignore": [""]}, "ignore[0]"),
        ({"discover_wallets": True, "source_id": "x"}, "source_id"),
        ({"discover_wallets": True}, "kind"),
    ]
    with place.unchanged():
        for values, field in fields:
            assert refused(register, request(**values)).fields == [field], values
        assert refused(register, request(source_id=place.source_id)).name == "ALREADY_EXISTS/SOURCE_EXISTS"
        missing = request(path=str(place.base / "missing"))
        assert refused(register, missing).name == "FAILED_PRECONDITION/FOLDER_NOT_FOUND"
        wallet = request(kind=source_pb2.SOURCE_KIND_WALLET)
        assert refused(register, wallet).name == "FAILED_PRECONDITION/NOT_A_WALLET"
        inside = request(path=str(place.server.data_dir))
        assert refused(register, inside).name == "FAILED_PRECONDITION/FOLDER_INSIDE_DATA_DIR"
        a_file = request(path=str(next(p for p in place.source.rglob("*") if p.is_file())))
        assert refused(register, a_file).code is not grpc.StatusCode.INTERNAL


def test_folders_that_archives_may_not_go_to(place: Place, tmp_path_factory: pytest.TempPathFactory) -> None:
    server, base = place.server, place.base
    links = tmp_path_factory.mktemp("links")
    (links / "source").symlink_to(place.source)
    (links / "data").symlink_to(server.data_dir)
    (links / "nowhere").symlink_to(base / "nowhere")
    data, source = server.data_dir, place.source
    inside_source, inside_data = "FOLDER_INSIDE_SOURCE", "FOLDER_INSIDE_DATA_DIR"
    cases = [
        (f"{base}/missing", "FOLDER_NOT_FOUND"),
        (f"{source}", inside_source),
        (f"{source}/", inside_source),
        (f"{source}/d0", inside_source),
        (f"{source}/d0/..", inside_source),
        (f"{base}/archives/../source", inside_source),
        (f"/proc/self/root{source}", inside_source),
        (f"{links}/source", inside_source),
        (f"{links}/source/d0", inside_source),
        (f"{data}", inside_data),
        (f"{data}/.", inside_data),
        (f"/proc/self/root{data}", inside_data),
        (f"{links}/data", inside_data),
    ]
    with place.unchanged():
        for folder, reason in cases:
            for dry_run in (False, True):
                failure = refused(server.backups.CreateBackup, order(place, archive__folder=folder, dry_run=dry_run))
                assert failure.name == f"FAILED_PRECONDITION/{reason}", folder
        made = order(place, archive__folder=f"{source}/new/deeper", archive__create_folder=True)
        assert refused(server.backups.CreateBackup, made).reason == inside_source
        made = order(place, archive__folder=f"{links}/data/new", archive__create_folder=True)
        assert refused(server.backups.CreateBackup, made).reason == inside_data
        failure = refused(
            server.backups.CreateBackup,
            order(place, archive__folder=f"{base}/archives/../new/../x", archive__create_folder=True),
        )
        assert failure.fields == ["archive.folder"]
        blocked = order(place, archive__folder="/proc/holdfast/x", archive__create_folder=True)
        failure = refused(server.backups.CreateBackup, blocked)
        assert failure.name == "FAILED_PRECONDITION/FOLDER_NOT_CREATABLE"
        assert failure.metadata["errno"]
        dangling = order(place, archive__folder=f"{links}/nowhere", archive__create_folder=True)
        assert refused(server.backups.CreateBackup, dangling).reason == "FOLDER_NOT_CREATABLE"
        read_only = order(place, archive__folder="/proc/sys")
        assert refused(server.backups.CreateBackup, read_only).code is grpc.StatusCode.FAILED_PRECONDITION


def test_bind_mounts_do_not_hide_a_folder(place: Place, tmp_path_factory: pytest.TempPathFactory) -> None:
    alias = tmp_path_factory.mktemp("alias")
    for target, reason in ((place.source, "FOLDER_INSIDE_SOURCE"), (place.server.data_dir, "FOLDER_INSIDE_DATA_DIR")):
        if subprocess.run(["mount", "--bind", str(target), str(alias)], capture_output=True).returncode:
            pytest.skip("bind mounts need rights that this process does not have")
        try:
            for folder in (f"{alias}", f"{alias}/new"):
                request = order(place, archive__folder=folder, archive__create_folder=True)
                assert refused(place.server.backups.CreateBackup, request).reason == reason
        finally:
            subprocess.run(["umount", str(alias)], check=True)
    assert not (place.server.data_dir / "new").exists()
    assert not (place.source / "new").exists()


def test_the_servers_own_working_directory_is_no_way_in(new_server: Callable[..., Server], tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source", 1, files=3)
    server = new_server(cwd=source)
    server.register(source, "source")
    before = snapshot(source)
    request = server.order("source", "/proc/self/cwd/new", create_folder=True)
    assert refused(server.backups.CreateBackup, request).reason == "FOLDER_INSIDE_SOURCE"
    request = server.order("source", "/proc/self/cwd")
    assert refused(server.backups.CreateBackup, request).reason == "FOLDER_INSIDE_SOURCE"
    assert snapshot(source) == before
    assert server.stop() == 0


def test_roots_are_borders(new_server: Callable[..., Server], tmp_path: Path) -> None:
    allowed, outside = tmp_path / "allowed", tmp_path / "outside"
    source = make_tree(allowed / "source", 1, files=3)
    outside.mkdir()
    (allowed / "out").mkdir()
    (allowed / "link").symlink_to(outside)
    server = new_server(environment={"HOLDFAST_PATHS_ROOTS": str(allowed)})
    server.register(source, "source")
    before = snapshot(tmp_path / "outside")
    for path in (
        str(outside),
        f"{outside}/missing",
        f"{allowed}/link",
        f"{allowed}/../outside",
        "/etc",
        "/nonexistent",
    ):
        request = server.order("source", path, create_folder=True)
        assert refused(server.backups.CreateBackup, request).name == "PERMISSION_DENIED/PATH_NOT_ALLOWED", path
        registration = source_calls.RegisterSourceRequest(path=path, kind=source_pb2.SOURCE_KIND_DIRECTORY)
        assert refused(server.sources.RegisterSource, registration).reason == "PATH_NOT_ALLOWED", path
    task = server.backup("source", allowed / "out")
    assert task.state == task_pb2.TASK_STATE_COMPLETED
    restore = restore_calls.RestoreBackupRequest(backup_id=server.backup_of(task).backup_id)
    restore.new_folder.folder = str(outside / "back")
    assert refused(server.restores.RestoreBackup, restore).reason == "PATH_NOT_ALLOWED"
    archive = restore_calls.RestoreArchiveRequest(archive_path=task.backup_result.output_files[0])
    archive.new_folder.folder = str(outside / "back")
    assert refused(server.restores.RestoreArchive, archive).reason == "PATH_NOT_ALLOWED"
    for path in ("/etc/passwd", f"{outside}/missing", f"{outside}"):
        archive.archive_path = path
        assert refused(server.restores.RestoreArchive, archive).reason == "PATH_NOT_ALLOWED"
    assert snapshot(outside) == before


def test_wrong_restores(place: Place) -> None:
    server, base = place.server, place.base
    (base / "full").mkdir()
    (base / "full" / "file").write_text("mine")
    (base / "a-file").write_text("mine")
    (base / "a-link").symlink_to(base / "full")

    def restore(folder: str, **values: Any) -> restore_calls.RestoreBackupRequest:
        request = restore_calls.RestoreBackupRequest(backup_id=values.pop("backup_id", place.backup_id), **values)
        request.new_folder.folder = folder
        return request

    cases: list[tuple[restore_calls.RestoreBackupRequest, str]] = [
        (restore(str(base / "full")), "FAILED_PRECONDITION/FOLDER_NOT_EMPTY"),
        (restore(str(base / "a-file")), "FAILED_PRECONDITION/FOLDER_NOT_EMPTY"),
        (restore(str(base / "a-link")), "FAILED_PRECONDITION/FOLDER_NOT_EMPTY"),
        (restore(str(base / "missing" / "x")), "FAILED_PRECONDITION/FOLDER_NOT_FOUND"),
        (restore(str(server.data_dir / "x")), "FAILED_PRECONDITION/FOLDER_INSIDE_DATA_DIR"),
        (restore("relative"), "INVALID_ARGUMENT/INVALID_FIELD"),
        (restore(""), "INVALID_ARGUMENT/INVALID_FIELD"),
        (restore("/"), "INVALID_ARGUMENT/INVALID_FIELD"),
        (restore(f"{base}/x/.."), "INVALID_ARGUMENT/INVALID_FIELD"),
        (restore(str(base / "x"), paths=["../up"]), "INVALID_ARGUMENT/INVALID_FIELD"),
        (restore(str(base / "x"), paths=["/abs"]), "INVALID_ARGUMENT/INVALID_FIELD"),
        (restore(str(base / "x"), paths=["a//b"]), "INVALID_ARGUMENT/INVALID_FIELD"),
        (restore(str(base / "x"), overwrite=1), "UNIMPLEMENTED/NOT_AVAILABLE"),
        (restore(str(base / "x"), delete_extra=True), "UNIMPLEMENTED/NOT_AVAILABLE"),
        (restore_calls.RestoreBackupRequest(backup_id=place.backup_id), "INVALID_ARGUMENT/INVALID_FIELD"),
    ]
    with place.unchanged():
        for request, name in cases:
            assert refused(server.restores.RestoreBackup, request).name == name, request
    task = server.restore(place.backup_id, base / "x", paths=["no/such/entry"])
    assert (task.state, task.error.code, task.error.reason) == (
        task_pb2.TASK_STATE_FAILED,
        "NOT_FOUND",
        "ENTRY_NOT_FOUND",
    )
    assert not (base / "x").exists()


def test_wrong_restores_of_archives(place: Place) -> None:
    server, base = place.server, place.base
    server.forget_wallets()  # with keys of an unlocked one at hand, decrypting is not refused at once
    archive = next(place.folder.iterdir())
    (base / "full").mkdir()
    (base / "full" / "f").write_text("x")
    (base / "link.zip").symlink_to(archive)
    os.mkfifo(base / "fifo")
    (base / "text").write_text("no archive at all")
    (base / "empty").write_bytes(b"")
    (base / "sealed.zip").write_bytes(b"age-encryption.org/v1\n-> X25519 x\n")

    def restore(path: object = archive, folder: str = "", **values: Any) -> restore_calls.RestoreArchiveRequest:
        request = restore_calls.RestoreArchiveRequest(archive_path=str(path), **values)
        request.new_folder.folder = folder or str(base / "new")
        return request

    no_target = restore_calls.RestoreArchiveRequest(archive_path=str(archive))
    wallet = restore_calls.RestoreArchiveRequest(archive_path=str(archive), paths=["Bank"])
    wallet.new_wallet.folder = str(base / "new")
    unplaced = restore_calls.RestoreArchiveRequest(archive_path=str(archive))
    unplaced.new_wallet.folder = "relative"
    limits = restore_pb2.ArchiveLimits
    canary = "canary-secret-4711"
    passphrase = credentials_pb2.Credentials(passphrase=canary)
    bad_key = credentials_pb2.Credentials(age_identity=canary)
    cases: list[tuple[restore_calls.RestoreArchiveRequest, str, str]] = [
        (restore(""), "INVALID_ARGUMENT/INVALID_FIELD", "archive_path"),
        (restore("relative.zip"), "INVALID_ARGUMENT/INVALID_FIELD", "archive_path"),
        (restore(f"{base}/"), "INVALID_ARGUMENT/INVALID_FIELD", "archive_path"),
        (restore(f"{base}/a\\x00b"), "INVALID_ARGUMENT/INVALID_FIELD", "archive_path"),
        (restore(folder="relative"), "INVALID_ARGUMENT/INVALID_FIELD", "new_folder.folder"),
        (no_target, "INVALID_ARGUMENT/INVALID_FIELD", "new_folder"),
        (restore(paths=["../up"]), "INVALID_ARGUMENT/INVALID_FIELD", "paths[0]"),
        (restore(paths=["fine", "/abs"]), "INVALID_ARGUMENT/INVALID_FIELD", "paths[1]"),
        (restore(limits=limits(max_bytes=0)), "INVALID_ARGUMENT/INVALID_FIELD", "limits.max_bytes"),
        (restore(limits=limits(max_entries=0)), "INVALID_ARGUMENT/INVALID_FIELD", "limits.max_entries"),
        (restore(limits=limits(max_ratio=0)), "INVALID_ARGUMENT/INVALID_FIELD", "limits.max_ratio"),
        (restore(limits=limits(max_depth=0)), "INVALID_ARGUMENT/INVALID_FIELD", "limits.max_depth"),
        (restore(request_id="x"), "INVALID_ARGUMENT/INVALID_FIELD", "request_id"),
        (restore(credentials=bad_key), "INVALID_ARGUMENT/INVALID_FIELD", "credentials.age_identity"),
        (restore(credentials=passphrase), "INVALID_ARGUMENT/INVALID_FIELD", "credentials.passphrase"),
        (wallet, "INVALID_ARGUMENT/INVALID_FIELD", "paths"),
        (unplaced, "INVALID_ARGUMENT/INVALID_FIELD", "new_wallet.folder"),
        (restore(decrypt_coins=True), "FAILED_PRECONDITION/KEY_REQUIRED", ""),
        (restore(base / "missing.zip"), "FAILED_PRECONDITION/FILE_NOT_FOUND", ""),
        (restore(base), "FAILED_PRECONDITION/FILE_NOT_FOUND", ""),
        (restore(base / "link.zip"), "FAILED_PRECONDITION/FILE_NOT_FOUND", ""),
        (restore(base / "fifo"), "FAILED_PRECONDITION/FILE_NOT_FOUND", ""),
        (restore("/dev/zero"), "FAILED_PRECONDITION/FILE_NOT_FOUND", ""),
        (restore(server.data_dir / "state.sqlite"), "FAILED_PRECONDITION/FOLDER_INSIDE_DATA_DIR", ""),
        (restore(f"/proc/self/root{server.data_dir}/admin.token"), "FAILED_PRECONDITION/FOLDER_INSIDE_DATA_DIR", ""),
        (restore(base / "text"), "FAILED_PRECONDITION/ARCHIVE_INVALID", ""),
        (restore(base / "empty"), "FAILED_PRECONDITION/ARCHIVE_INVALID", ""),
        (restore(base / "sealed.zip"), "FAILED_PRECONDITION/KEY_REQUIRED", ""),
        (restore(folder=str(base / "full")), "FAILED_PRECONDITION/FOLDER_NOT_EMPTY", ""),
        (restore(folder=str(base / "missing" / "x")), "FAILED_PRECONDITION/FOLDER_NOT_FOUND", ""),
        (restore(folder=str(server.data_dir / "x")), "FAILED_PRECONDITION/FOLDER_INSIDE_DATA_DIR", ""),
    ]
    with place.unchanged():
        for request, name, field in cases:
            for dry_run in (False, True):
                request.dry_run = dry_run
                failure = refused(server.restores.RestoreArchive, request)
                assert failure.name == name, (request, failure)
                if field:
                    assert failure.metadata["field"] == field
                assert canary not in str(failure)


def test_states_of_sources_and_backups_that_refuse(place: Place) -> None:
    server = place.server
    server.sources.UpdateSource(source_calls.UpdateSourceRequest(source_id=place.source_id, suspended=True))
    assert refused(server.backups.CreateBackup, order(place)).name == "FAILED_PRECONDITION/SOURCE_SUSPENDED"
    server.sources.UpdateSource(source_calls.UpdateSourceRequest(source_id=place.source_id, suspended=False))
    os.rename(place.source, place.base / "moved")
    failure = refused(server.backups.CreateBackup, order(place))
    assert failure.name == "UNAVAILABLE/SOURCE_OFFLINE"
    os.rename(place.base / "moved", place.source)
    server.forget_wallets()
    nothing = backup_calls.CreateBackupRequest(all_wallets=True, archive=order(place).archive)
    assert refused(server.backups.CreateBackup, nothing).name == "FAILED_PRECONDITION/NO_SOURCES"


def test_stored_archives_that_are_gone_or_damaged(place: Place) -> None:
    server = place.server
    archive = next(place.folder.iterdir())
    download = backup_calls.DownloadBackupRequest(backup_id=place.backup_id)
    content = archive.read_bytes()

    archive.write_bytes(content[:-1])
    assert refused(server.backups.DownloadBackup, download).name == "DATA_LOSS/CHECKSUM_MISMATCH"
    flipped = bytearray(content)
    flipped[len(flipped) // 2] ^= 1
    archive.write_bytes(flipped)
    assert refused(server.backups.DownloadBackup, download).name == "DATA_LOSS/CHECKSUM_MISMATCH"
    for level in (backup_pb2.VERIFY_LEVEL_CHECKSUM, backup_pb2.VERIFY_LEVEL_READ_DATA):
        task = server.verify(place.backup_id, level)
        assert (task.state, task.error.code, task.error.reason) == (
            task_pb2.TASK_STATE_FAILED,
            "DATA_LOSS",
            "CHECKSUM_MISMATCH",
        )
    assert not server.backup_of(place.task).verifications[0].ok
    restored = server.restore(place.backup_id, place.base / "back")
    assert restored.state == task_pb2.TASK_STATE_FAILED
    assert not (place.base / "back").exists()
    archive.unlink()
    assert refused(server.backups.DownloadBackup, download).name == "DATA_LOSS/ARCHIVE_MISSING"
    os.rename(place.folder, place.base / "elsewhere")
    assert refused(server.backups.DownloadBackup, download).name == "UNAVAILABLE/STORAGE_UNREACHABLE"
    os.rename(place.base / "elsewhere", place.folder)
    archive.write_bytes(content)
    past = backup_calls.DownloadBackupRequest(backup_id=place.backup_id, offset=len(content) + 1)
    assert refused(server.backups.DownloadBackup, past).fields == ["offset"]


def test_a_failed_backup_can_be_neither_restored_nor_verified_nor_downloaded(
    new_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = new_server()
    source = make_tree(tmp_path / "source", 1, files=5)
    (tmp_path / "out").mkdir()
    server.register(source, "source")
    with server.frozen_worker():
        task_id = server.create("source", tmp_path / "out").task_id
        os.rename(source, tmp_path / "gone")
    task = server.ended(task_id)
    assert task.state == task_pb2.TASK_STATE_FAILED
    assert task.error.reason in ("FOLDER_NOT_FOUND", "SOURCE_OFFLINE")
    assert os.listdir(tmp_path / "out") == []
    backup_id = server.rows("SELECT backup_id FROM backups")[0]["backup_id"]
    backup = server.backups.GetBackup(backup_calls.GetBackupRequest(backup_id=backup_id))
    assert backup.state == backup_pb2.BACKUP_STATE_FAILED
    restore = restore_calls.RestoreBackupRequest(backup_id=backup_id)
    restore.new_folder.folder = str(tmp_path / "back")
    for call, request in (
        (server.restores.RestoreBackup, restore),
        (server.backups.VerifyBackup, backup_calls.VerifyBackupRequest(backup_id=backup_id)),
        (server.backups.DownloadBackup, backup_calls.DownloadBackupRequest(backup_id=backup_id)),
    ):
        assert refused(call, request).name == "FAILED_PRECONDITION/BACKUP_NOT_RESTORABLE"


def test_request_ids(place: Place) -> None:
    server, request_id = place.server, str(uuid.uuid4())
    first = server.backups.CreateBackup(order(place, request_id=request_id))
    same = server.backups.CreateBackup(order(place, request_id=request_id))
    assert same.task_id == first.task_id
    explicit = order(place, request_id=request_id, on_source_error=backup_pb2.ON_SOURCE_ERROR_WARN)
    assert server.backups.CreateBackup(explicit).task_id == first.task_id, "defaults are the same request"
    failure = refused(server.backups.CreateBackup, order(place, request_id=request_id, name="other"))
    assert failure.name == "ALREADY_EXISTS/REQUEST_ID_REUSED"
    upper = order(place, request_id=request_id.upper())
    assert server.backups.CreateBackup(upper).task_id == first.task_id
    server.ended(first.task_id)
    os.rename(place.source, place.base / "moved")
    try:
        assert server.backups.CreateBackup(order(place, request_id=request_id)).task_id == first.task_id
    finally:
        os.rename(place.base / "moved", place.source)
    register_id = str(uuid.uuid4())
    registration = source_calls.RegisterSourceRequest(
        path=str(place.source), kind=source_pb2.SOURCE_KIND_DIRECTORY, request_id=register_id
    )
    made = server.sources.RegisterSource(registration)
    again = server.sources.RegisterSource(registration)
    assert again.sources[0].source_id == made.sources[0].source_id
    registration.display_name = "another"
    assert refused(server.sources.RegisterSource, registration).reason == "REQUEST_ID_REUSED"


def test_unknown_fields_are_refused(place: Place) -> None:
    raw = order(place).SerializeToString() + b"\xfa\x7f\x03abc"  # field 2047
    call = place.server.channel.unary_unary(
        "/holdfast.v1.BackupService/CreateBackup", response_deserializer=task_pb2.Task.FromString
    )
    metadata = (("authorization", f"Bearer {place.server.token}"),)
    with place.unchanged():
        failure = refused(call, raw, metadata=metadata)
        assert failure.name == "INVALID_ARGUMENT/INVALID_FIELD"
        assert "2047" in failure.text
        nested = backup_calls.CreateBackupRequest(source_ids=[place.source_id])
        nested.archive.CopyFrom(backup_pb2.ArchiveTarget.FromString(b"\xfa\x7f\x03abc"))
        assert refused(place.server.backups.CreateBackup, nested).fields[0].startswith("archive.")


def test_page_tokens_are_checked(place: Place) -> None:
    server = place.server
    lists: list[tuple[Any, Any]] = [
        (server.tasks.ListTasks, task_calls.ListTasksRequest),
        (server.backups.ListBackups, backup_calls.ListBackupsRequest),
        (server.sources.ListSources, source_calls.ListSourcesRequest),
    ]
    server.ended(server.create(place.source_id, place.folder).task_id)
    server.register(place.source, place.source_id + "-2")
    for call, request in lists:
        first = call(request(page_size=1))
        assert first.next_page_token
        fingerprint, position = json.loads(base64.urlsafe_b64decode(first.next_page_token + "=="))
        assert call(request(page_size=1, page_token=first.next_page_token)) != first
        forged: list[Any] = [
            [fingerprint, []],
            [fingerprint, [None]],
            [fingerprint, ["x", "y"]],
            [fingerprint, [{"a": 1}, 2]],
            [fingerprint, [2**70, "x"]],
            [fingerprint, {"a": 1}],
            [fingerprint, "text"],
            ["0" * 16, position],
            [fingerprint],
            17,
            None,
            "text",
        ]
        tokens = [base64.urlsafe_b64encode(json.dumps(one).encode()).decode().rstrip("=") for one in forged]
        deep = base64.urlsafe_b64encode(b"[" * 100_000).decode()
        for token in [*tokens, deep, "%%%", "é", "A", "=" * 9]:
            assert refused(call, request(page_size=1, page_token=token)).fields == ["page_token"], token[:80]
        assert refused(call, request(page_size=-1)).fields == ["page_size"]
    other = task_calls.ListTasksRequest(page_size=1, source_id=place.source_id)
    token = server.tasks.ListTasks(other).next_page_token
    moved = task_calls.ListTasksRequest(page_size=1, page_token=token)
    assert refused(server.tasks.ListTasks, moved).fields == ["page_token"]


def test_numbers_out_of_range_are_no_defects(place: Place) -> None:
    server, task_id = place.server, place.task.task_id
    huge = 2**64 - 1
    chunks = list(server.tasks.StreamTaskLog(task_calls.StreamTaskLogRequest(task_id=task_id, from_line=huge)))
    assert [len(chunk.lines) for chunk in chunks] == [0]
    events = list(server.tasks.WatchTask(task_calls.WatchTaskRequest(task_id=task_id, after_sequence=huge)))
    assert [event.kind for event in events] == [task_pb2.TASK_EVENT_KIND_RESET, task_pb2.TASK_EVENT_KIND_STATE]
    past = task_calls.DownloadTaskLogRequest(task_id=task_id, offset=huge)
    assert refused(server.tasks.DownloadTaskLog, past).fields == ["offset"]
    download = backup_calls.DownloadBackupRequest(backup_id=place.backup_id, offset=huge)
    assert refused(server.backups.DownloadBackup, download).fields == ["offset"]
    for seconds, nanos in ((2**62, 0), (-(2**62), 0), (0, -5), (0, 2**31 - 1)):
        for field in ("create_time_after", "create_time_before"):
            request = task_calls.ListTasksRequest(**{field: Timestamp(seconds=seconds, nanos=nanos)})
            assert refused(server.tasks.ListTasks, request).fields == [field]
    for field, service, request in (
        ("kinds", server.tasks.ListTasks, task_calls.ListTasksRequest(kinds=[99])),
        ("states", server.tasks.ListTasks, task_calls.ListTasksRequest(states=[99])),
        ("origin", server.tasks.ListTasks, task_calls.ListTasksRequest(origin=99)),
        ("kinds", server.tasks.WatchTasks, task_calls.WatchTasksRequest(kinds=[99])),
        ("states", server.backups.ListBackups, backup_calls.ListBackupsRequest(states=[99])),
        ("kinds", server.sources.ListSources, source_calls.ListSourcesRequest(kinds=[99])),
        ("level", server.backups.VerifyBackup, backup_calls.VerifyBackupRequest(backup_id="x", level=99)),
    ):
        assert refused(service, request).fields == [field]


BAD_CREDENTIALS: dict[str, list[tuple[str, str]]] = {
    "none": [],
    "empty": [("authorization", "")],
    "wrong": [("authorization", "Bearer wrong")],
    "no token": [("authorization", "Bearer ")],
    "other scheme": [("authorization", "Basic {token}")],
    "token alone": [("authorization", "{token}")],
    "twice": [("authorization", "Bearer {token}"), ("authorization", "Bearer {token}")],
    "right and wrong": [("authorization", "Bearer {token}"), ("authorization", "Bearer wrong")],
    "longer": [("authorization", "Bearer {token}x")],
    "joined": [("authorization", "Bearer {token},Bearer {token}")],
}


@pytest.mark.parametrize("case", BAD_CREDENTIALS)
def test_bad_credentials_are_refused(shared_server: Server, case: str) -> None:
    metadata = [(key, value.replace("{token}", shared_server.token)) for key, value in BAD_CREDENTIALS[case]]
    call = shared_server.channel.unary_unary("/holdfast.v1.TaskService/ListTasks")
    failure = refused(call, b"", metadata=metadata)
    assert failure.name == "UNAUTHENTICATED/BAD_CREDENTIALS"
    assert shared_server.token not in str(failure)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name.removeprefix("holdfast.v1."))
def test_every_method_wants_a_token_and_none_breaks_on_an_empty_request(
    shared_server: Server, method: MethodDescriptor
) -> None:
    path = f"/{method.containing_service.full_name}/{method.name}"
    channel = shared_server.channel
    make = channel.unary_stream if method.server_streaming else channel.unary_unary
    call = make(
        path,
        request_serializer=GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    request = GetMessageClass(method.input_type)()
    assert refused(call, request).name == "UNAUTHENTICATED/BAD_CREDENTIALS"
    metadata = [("authorization", f"Bearer {shared_server.token}")]
    try:
        answer = call(request, metadata=metadata, timeout=PATIENCE)
        if method.server_streaming:
            next(iter(answer), None)
            answer.cancel()
    except grpc.RpcError as error:
        failure = failure_of(error)
        assert failure.infos == 1, failure
        assert failure.code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), failure
        if method.containing_service.name not in BUILT:
            assert failure.name == "UNIMPLEMENTED/NOT_AVAILABLE"
            assert method.name in failure.text
    else:
        assert method.containing_service.name in BUILT


def test_health_and_reflection_need_no_token_on_loopback(shared_server: Server) -> None:
    for name in ("", *(f"holdfast.v1.{service}" for service in BUILT)):
        answer = shared_server.health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        shared_server.health.Check(health_pb2.HealthCheckRequest(service="holdfast.v1.ScheduleService"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    stub = reflection_pb2_grpc.ServerReflectionStub(shared_server.channel)
    (answer,) = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    names = {service.name for service in answer.list_services_response.service}
    assert {f"holdfast.v1.{service}" for service in BUILT} <= names
    assert "holdfast.v1.ScheduleService" not in names


def test_reflection_beyond_loopback_needs_a_token(new_server: Callable[..., Server], tmp_path: Path) -> None:
    server = new_server(
        listen="0.0.0.0:0",
        environment={
            "HOLDFAST_SERVER_ALLOW_PLAINTEXT": "true",
            "HOLDFAST_SERVER_REFLECTION": "true",
            "HOLDFAST_PATHS_ROOTS": str(tmp_path),
        },
    )
    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.ServerReflectionInfo(iter([request]), timeout=PATIENCE))
    assert failure_of(caught.value).name == "UNAUTHENTICATED/BAD_CREDENTIALS"
    metadata = [("authorization", f"Bearer {server.token}")]
    assert len(list(stub.ServerReflectionInfo(iter([request]), metadata=metadata, timeout=PATIENCE))) == 1
    assert server.serving()


def test_limits_of_messages_and_metadata(shared_server: Server) -> None:
    large = task_calls.GetTaskRequest(task_id="x" * (4 << 20))
    with pytest.raises(grpc.RpcError) as caught:
        shared_server.tasks.GetTask(large, timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.RpcError) as caught:
        shared_server.tasks.ListTasks(
            task_calls.ListTasksRequest(), metadata=[("x-long", "x" * (17 << 10))], timeout=PATIENCE
        )
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    allowed = [("x-long", "x" * (12 << 10))]
    for _ in range(20):
        shared_server.tasks.ListTasks(task_calls.ListTasksRequest(page_size=1), metadata=allowed, timeout=PATIENCE)
    assert shared_server.serving()


@pytest.mark.parametrize("public", [False, True], ids=["watches", "health watches without a token"])
def test_a_stream_too_many_is_refused_at_once(new_server: Callable[..., Server], public: bool) -> None:
    environment = {"HOLDFAST_SERVER_MAX_WATCHERS": "2", "HOLDFAST_SERVER_HEARTBEAT_SECONDS": "0.1"}
    server = new_server(environment=environment)
    held: list[Any] = []
    for _ in range(2):
        if public:
            held.append(server.health.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE))
        else:
            held.append(server.tasks.WatchTasks(task_calls.WatchTasksRequest(), timeout=PATIENCE))
        next(held[-1])  # it has its place
    for _ in range(3):
        assert _refused_stream(server)
    server.tasks.ListTasks(task_calls.ListTasksRequest(), timeout=PATIENCE)
    for stream in held:
        stream.cancel()
    until(lambda: not _refused_stream(server), "a free place")


def _refused_stream(server: Server) -> bool:
    """Whether a further stream is refused as full; any stream that was let in is closed again."""
    stream = server.tasks.WatchTask(task_calls.WatchTaskRequest(task_id="none"), timeout=PATIENCE)
    try:
        list(stream)
    except grpc.RpcError as error:
        failure = failure_of(error)
        if failure.reason == "TASK_NOT_FOUND":
            return False
        assert failure.name == "RESOURCE_EXHAUSTED/TOO_MANY_WATCHERS"
        assert failure.retry
        return True
    raise AssertionError("a watch of no task ended well")


def test_a_busy_source_keeps_its_path_and_its_place(new_server: Callable[..., Server], tmp_path: Path) -> None:
    """With the only worker frozen, a task stays alive for as long as the calls take."""
    server = new_server()
    source = make_tree(tmp_path / "source", 1, files=5)
    (tmp_path / "out").mkdir()
    server.register(source, "source")
    with server.frozen_worker():
        task = server.create("source", tmp_path / "out")
        for call, request in (
            (server.sources.UnregisterSource, source_calls.UnregisterSourceRequest(source_id="source")),
            (server.sources.UpdateSource, source_calls.UpdateSourceRequest(source_id="source", path=str(tmp_path))),
        ):
            failure = refused(call, request)
            assert failure.name == "ABORTED/SOURCE_BUSY"
            assert failure.metadata["task_id"] == task.task_id
        backup_id = server.rows("SELECT backup_id FROM backups")[0]["backup_id"]
        verify = backup_calls.VerifyBackupRequest(backup_id=backup_id)
        assert refused(server.backups.VerifyBackup, verify).name == "ABORTED/BACKUP_BUSY"
        download = backup_calls.DownloadBackupRequest(backup_id=backup_id)
        assert refused(server.backups.DownloadBackup, download).name == "ABORTED/BACKUP_BUSY"
        restore = restore_calls.RestoreBackupRequest(backup_id=backup_id)
        restore.new_folder.folder = str(tmp_path / "back")
        assert refused(server.restores.RestoreBackup, restore).name == "ABORTED/BACKUP_BUSY"
    assert server.ended(task.task_id).state == task_pb2.TASK_STATE_COMPLETED
    assert server.sources.UnregisterSource(source_calls.UnregisterSourceRequest(source_id="source")).backups_kept == 1


def test_a_locked_catalog_is_said_to_be_busy(new_server: Callable[..., Server], tmp_path: Path) -> None:
    server = new_server(environment={"HOLDFAST_TASKS_LEASE_SECONDS": "30"})
    source = make_tree(tmp_path / "source", 1, files=2)
    connection = sqlite3.connect(server.data_dir / "state.sqlite", isolation_level=None, timeout=30)
    connection.execute("BEGIN IMMEDIATE")
    try:
        request = source_calls.RegisterSourceRequest(path=str(source), kind=source_pb2.SOURCE_KIND_DIRECTORY)
        failure = refused(server.sources.RegisterSource, request)
        assert failure.name == "UNAVAILABLE/CATALOG_BUSY"
        assert failure.retry
        server.tasks.ListTasks(task_calls.ListTasksRequest(), timeout=PATIENCE)
    finally:
        connection.execute("ROLLBACK")
        connection.close()
    assert server.register(source, "later").source_id == "later"
