"""Snapshots through a running server: browsed, exported, downloaded, compared with their source; clients that go."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import holdfast
from holdfast.cli.app import main
from holdfast.v1 import (
    backup_pb2,
    credentials_pb2,
    download_pb2,
    export_service_pb2,
    repository_pb2,
    repository_service_pb2,
    restore_pb2,
    restore_service_pb2,
    task_pb2,
)
from holdfast.v1 import backup_service_pb2 as pb
from tests.harness import PATIENCE, Server, failure_of, make_tree, snapshot, until

PASSPHRASE = "canary9staple correct horse"
WAYS = ("zip", "tar.gz", "tar.zst")
COMPLETED = task_pb2.TASK_STATE_COMPLETED


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("handed-out")) as server:
        until(lambda: server.rows("SELECT owner FROM workers"), "a worker")
        base = server.base
        source = make_tree(base / "source", 1, files=30, large=3 << 20)
        (source / "d1" / os.fsdecode(b"odd \xff")).write_text("odd")
        os.link(source / "large.bin", source / "d1" / "second name")
        with (source / "holes").open("wb") as file:
            file.seek(5 << 20)
            file.write(b"end")
        server.register(source, "tree", display_name="The Tree")
        for name, keys in (("open", []), ("shut", [repository_pb2.NewKey(passphrase=PASSPHRASE)])):
            request = repository_service_pb2.CreateRepositoryRequest(
                repository_id=name, location=str(base / name), create_folder=True, sealed=bool(keys), keys=keys
            )
            server.repositories.CreateRepository(request, timeout=PATIENCE)
        yield server


@pytest.fixture(scope="module")
def backups(server: Server) -> dict[str, str]:
    """Backup ids of the same source by repository."""
    made = {}
    for name in ("open", "shut"):
        request = pb.CreateBackupRequest(
            source_ids=["tree"], repository=backup_pb2.RepositoryTarget(repository_id=name)
        )
        task = server.ended(server.backups.CreateBackup(request, timeout=PATIENCE).task_id)
        assert task.state == COMPLETED, task
        (made[name],) = task.backup_result.backup_ids
    return made


def key(**secret: str) -> credentials_pb2.Credentials:
    return credentials_pb2.Credentials(**secret)


OPENS: dict[str, Any] = {"open": None, "shut": key(passphrase=PASSPHRASE)}


def level(server: Server, backup_id: str, path: str = "", size: int = 0, **values: Any) -> list[backup_pb2.Entry]:
    """A whole folder, page by page."""
    request = pb.ListBackupEntriesRequest(backup_id=backup_id, path=path, page_size=size, **values)
    found: list[backup_pb2.Entry] = []
    while True:
        page = server.backups.ListBackupEntries(request, timeout=PATIENCE)
        found += page.entries
        if not page.next_page_token:
            return found
        assert 1 <= len(page.entries) <= (size or 50)
        request.page_token = page.next_page_token


def refused(call: Any, *arguments: Any) -> str:
    def wait() -> None:
        answer = call(*arguments, timeout=PATIENCE)
        if not isinstance(answer, pb.ListBackupEntriesResponse | task_pb2.Task):
            list(answer)

    with pytest.raises(grpc.RpcError) as caught:
        wait()
    failure = failure_of(caught.value)
    assert failure.infos == 1
    assert "canary9staple" not in f"{failure}"
    return failure.name


@pytest.mark.parametrize("name", ["open", "shut"])
def test_browsing_shows_what_lies_in_the_source(server: Server, backups: dict[str, str], name: str) -> None:
    source, seen = server.base / "source", 0
    folders, left = [""], 99 if name == "open" else 2
    while folders and left:
        path, left = folders.pop(), left - 1
        # A passphrase is tried anew for each page.
        found = level(server, backups[name], path, 7 if name == "open" else 0, credentials=OPENS[name])
        names = [entry.path.rpartition("/")[2].replace(r"\xff", os.fsdecode(b"\xff")) for entry in found]
        assert sorted(names) == sorted(os.listdir(source / path))
        assert [os.fsencode(one) for one in names] == sorted(map(os.fsencode, names))
        for entry, one in zip(found, names, strict=True):
            status = os.lstat(source / path / one)
            assert (entry.mode, entry.uid, entry.gid) == (status.st_mode & 0o7777, status.st_uid, status.st_gid)
            assert entry.modify_time.ToNanoseconds() == status.st_mtime_ns
            if entry.type == backup_pb2.ENTRY_TYPE_DIRECTORY:
                folders.append(entry.path)
            elif entry.type == backup_pb2.ENTRY_TYPE_FILE:
                assert entry.size == status.st_size
            elif entry.type == backup_pb2.ENTRY_TYPE_SYMLINK:
                assert entry.link_target == os.readlink(source / path / one)
            else:
                assert entry.link_target == "large.bin" or entry.path == "large.bin"
            seen += 1
    assert seen > (30 if name == "open" else 5)


def test_what_browsing_refuses(server: Server, backups: dict[str, str], tmp_path: Path) -> None:
    def why(backup_id: str, **values: Any) -> str:
        return refused(server.backups.ListBackupEntries, pb.ListBackupEntriesRequest(backup_id=backup_id, **values))

    plain, shut = backups["open"], backups["shut"]
    assert why(plain, path="nowhere") == "NOT_FOUND/ENTRY_NOT_FOUND"
    assert why(plain, path="large.bin") == "NOT_FOUND/ENTRY_NOT_FOUND"
    assert why(plain, path="/d1") == "INVALID_ARGUMENT/INVALID_FIELD"
    assert why(plain, path="d1/../d2") == "INVALID_ARGUMENT/INVALID_FIELD"
    assert why(plain, page_token="nonsense") == "INVALID_ARGUMENT/INVALID_FIELD"
    assert why(str(uuid.uuid4())) == "NOT_FOUND/BACKUP_NOT_FOUND"
    assert why(shut) == "FAILED_PRECONDITION/KEY_REQUIRED"
    assert why(shut, credentials=key(passphrase="canary9staple wrong")) == "FAILED_PRECONDITION/KEY_WRONG"
    assert why(shut, credentials=key(age_identity="canary9staple")) == "INVALID_ARGUMENT/INVALID_FIELD"
    archive = server.backup_of(server.backup("tree", tmp_path, tar=True))
    assert why(archive.backup_id) == "UNIMPLEMENTED/NOT_AVAILABLE"


def test_an_unlocked_repository_asks_for_nothing(server: Server, backups: dict[str, str]) -> None:
    repositories = server.repositories
    request = repository_service_pb2.UnlockRepositoryRequest(repository_id="shut", credentials=OPENS["shut"])
    repositories.UnlockRepository(request, timeout=PATIENCE)
    try:
        assert level(server, backups["shut"]) == level(server, backups["open"])
        parts = list(
            server.backups.DownloadBackup(pb.DownloadBackupRequest(backup_id=backups["shut"]), timeout=PATIENCE)
        )
        assert parts[-1].WhichOneof("part") == "digest"
    finally:
        lock = repository_service_pb2.LockRepositoryRequest(repository_id="shut")
        repositories.LockRepository(lock, timeout=PATIENCE)
    assert refused(server.backups.ListBackupEntries, pb.ListBackupEntriesRequest(backup_id=backups["shut"]))


def unpacked(file: Path, into: Path) -> Path:
    """With tools that know nothing of us; the checksums agree. unzip gives the odd name, which is no text, another."""
    into.mkdir()
    check = ["sha256sum", "--quiet", "-c", "holdfast-sha256sums.txt"]
    if file.suffix == ".zip":
        check.insert(1, "--ignore-missing")
        subprocess.run(["unzip", "-q", str(file)], cwd=into, check=True)
    else:
        option = "--zstd" if file.suffix == ".zst" else "-z"
        subprocess.run(["tar", option, "-xpf", str(file)], cwd=into, check=True)
    subprocess.run(check, cwd=into, check=True)
    for name in ("holdfast-sha256sums.txt", "holdfast-manifest.json"):
        (into / name).unlink()
    return into


def export(server: Server, backup_id: str, out: Path, way: str, **values: Any) -> task_pb2.Task:
    request = export_service_pb2.ExportBackupRequest(
        backup_id=backup_id,
        folder=str(out),
        create_folder=True,
        format=WAYS.index(way) + 1,
        **values,  # type: ignore[arg-type]
    )
    return server.ended(server.exports.ExportBackup(request, timeout=PATIENCE).task_id)


def difference(one: Path, other: Path) -> str:
    """In content and links; `diff` follows no link. What unzip renames is left out."""
    command = ["diff", "-r", "--no-dereference", "-x", "odd*", str(one), str(other)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize(("name", "way"), [("open", "zip"), ("open", "tar.gz"), ("shut", "tar.zst")])
def test_an_export_unpacks_to_the_source(
    server: Server, backups: dict[str, str], tmp_path: Path, way: str, name: str
) -> None:
    task = export(server, backups[name], tmp_path / "out", way, credentials=OPENS[name])
    assert task.state == COMPLETED, task
    (file,) = (tmp_path / "out").iterdir()
    assert task.export_backup_result.file.path == str(file)
    assert difference(server.base / "source", unpacked(file, tmp_path / "unpacked")) == ""
    if way != "zip":
        there, source = snapshot(tmp_path / "unpacked"), snapshot(server.base / "source")
        del there[b""], source[b""]  # the folder that it was unpacked into is no member
        assert there == source
    # Its own restore agrees, and proves every hash of the manifest.
    request = restore_service_pb2.RestoreArchiveRequest(
        archive_path=str(file), new_folder=restore_pb2.NewFolderTarget(folder=str(tmp_path / "restored"))
    )
    restored = server.ended(server.restores.RestoreArchive(request, timeout=PATIENCE).task_id)
    assert restored.state == COMPLETED, restored
    assert snapshot(tmp_path / "restored") == snapshot(server.base / "source")


def test_some_paths_of_a_sealed_repository_leave_no_name_in_the_catalog(
    server: Server, backups: dict[str, str], tmp_path: Path
) -> None:
    (name,) = [entry.path for entry in level(server, backups["open"]) if entry.path == "large.bin"]
    values: dict[str, Any] = {"paths": ["d1", name], "credentials": OPENS["shut"]}
    task = export(server, backups["shut"], tmp_path / "out", "tar.gz", **values)
    assert task.state == COMPLETED, task
    (file,) = (tmp_path / "out").iterdir()
    there = unpacked(file, tmp_path / "unpacked")
    assert sorted(os.listdir(there)) == ["d1", "large.bin"]
    assert difference(server.base / "source" / "d1", there / "d1") == ""
    (row,) = server.rows("SELECT request, progress FROM tasks WHERE task_id = ?", task.task_id)
    assert not any(text in str(row) for text in ("large.bin", "bGFyZ2UuYmlu"))
    missing = export(server, backups["shut"], tmp_path / "no", "zip", paths=["nowhere"], credentials=OPENS["shut"])
    assert (missing.state, missing.error.reason) == (task_pb2.TASK_STATE_FAILED, "ENTRY_NOT_FOUND")
    assert "nowhere" not in str(server.task_row(missing.task_id))
    assert os.listdir(tmp_path / "no") == []
    request = export_service_pb2.ExportBackupRequest(backup_id=backups["shut"], folder=str(tmp_path), format=1)
    assert refused(server.exports.ExportBackup, request) == "FAILED_PRECONDITION/KEY_REQUIRED"


# -- downloads -------------------------------------------------------------------------------------------------------


def processes(server: Server) -> list[int]:
    """Of downloads: children of this server's edge."""
    edges, found = server.pids("edge"), []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            arguments = Path("/proc", entry, "cmdline").read_bytes().split(b"\0")
            parent, state = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[1::-1]
        except OSError:
            continue
        if b"holdfast_server.tasks.download_process" in arguments and int(parent) in edges and state != "Z":
            found.append(int(entry))
    return found


def runs(server: Server, name: str) -> list[str]:
    """Runs that the repository believes to be under way."""
    return os.listdir(server.base / name / "runs")


def forget_runs(server: Server, name: str) -> None:
    """Of killed processes: they could not say that they ended, and a worker says it only within a minute."""
    for run in runs(server, name):
        (server.base / name / "runs" / run).unlink(missing_ok=True)


@pytest.mark.parametrize(("name", "way"), [("open", "zip"), ("open", None), ("shut", "tar.zst")])
def test_a_download_is_the_archive(
    server: Server, backups: dict[str, str], tmp_path: Path, way: str | None, name: str
) -> None:
    request = pb.DownloadBackupRequest(backup_id=backups[name], credentials=OPENS[name])
    if way:
        request.format = WAYS.index(way) + 1  # type: ignore[assignment]
    first, *chunks, last = server.backups.DownloadBackup(request, timeout=PATIENCE)
    assert not first.header.HasField("size")
    assert first.header.file_name.endswith(way or "tar.gz")
    position = 0
    for part in chunks:
        assert part.chunk.offset == position
        assert 1 <= len(part.chunk.data) <= 1 << 20
        position += len(part.chunk.data)
    content = b"".join(part.chunk.data for part in chunks)
    assert last.digest.sha256 == hashlib.sha256(content).hexdigest()
    file = tmp_path / first.header.file_name
    file.write_bytes(content)
    assert difference(server.base / "source", unpacked(file, tmp_path / "unpacked")) == ""
    until(lambda: not processes(server), "the end of its process")
    assert runs(server, name) == []


def test_what_downloads_refuse(server: Server, backups: dict[str, str], tmp_path: Path) -> None:
    def why(backup_id: str, **values: Any) -> str:
        return refused(server.backups.DownloadBackup, pb.DownloadBackupRequest(backup_id=backup_id, **values))

    assert why(backups["open"], offset=1) == "FAILED_PRECONDITION/NOT_RESUMABLE"
    assert why(backups["open"], format=77) == "INVALID_ARGUMENT/INVALID_FIELD"
    assert why(backups["shut"]) == "FAILED_PRECONDITION/KEY_REQUIRED"
    assert why(backups["shut"], credentials=key(private_key="canary9staple")) == "FAILED_PRECONDITION/KEY_WRONG"
    archive = server.backup_of(server.backup("tree", tmp_path, tar=True)).backup_id
    assert why(archive, format=1) == "INVALID_ARGUMENT/INVALID_FIELD"
    assert why(archive, credentials=OPENS["shut"]) == "INVALID_ARGUMENT/INVALID_FIELD"


@pytest.fixture(scope="module")
def large(server: Server) -> str:
    """A backup that fits into no buffer on the way."""
    folder = server.base / "large"
    folder.mkdir()
    (folder / "noise").write_bytes(os.urandom(48 << 20))
    server.register(folder, "large")
    target = backup_pb2.RepositoryTarget(repository_id="open")
    request = pb.CreateBackupRequest(source_ids=["large"], repository=target)
    task = server.ended(server.backups.CreateBackup(request, timeout=PATIENCE).task_id)
    return task.backup_result.backup_ids[0]


def test_a_client_that_goes_leaves_nothing_behind(server: Server, large: str) -> None:
    stream = server.backups.DownloadBackup(pb.DownloadBackupRequest(backup_id=large), timeout=PATIENCE)
    assert next(stream).WhichOneof("part") == "header"
    assert next(stream).WhichOneof("part") == "chunk"
    assert len(processes(server)) == 1
    assert len(runs(server, "open")) == 1
    stream.cancel()
    until(lambda: not processes(server), "the end of its process")
    assert runs(server, "open") == []


def test_a_client_that_is_killed_leaves_nothing_behind(server: Server, large: str, tmp_path: Path) -> None:
    """It takes nothing, so that the server is stuck in the middle."""
    token = server.data_dir / "admin.token"
    script = (
        "import holdfast, sys, time\n"
        "class Slow:\n"
        "    def write(self, data): print('here', flush=True); time.sleep(1000)\n"
        f"client = holdfast.connect({server.address!r}, token_file={str(token)!r})\n"
        f"client.backups.download({large!r}, Slow())\n"
    )
    path = Path(holdfast.__file__).parent.parent
    client = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(path)}
    )
    assert client.stdout is not None
    assert client.stdout.readline() == b"here\n"
    assert len(processes(server)) == 1
    client.send_signal(signal.SIGKILL)
    client.wait(PATIENCE)
    client.stdout.close()
    until(lambda: not processes(server), "the end of its process")
    assert runs(server, "open") == []


def test_only_few_at_a_time(server: Server, large: str) -> None:
    streams = []
    try:
        for _ in range(4):
            stream = server.backups.DownloadBackup(pb.DownloadBackupRequest(backup_id=large), timeout=PATIENCE)
            next(stream)
            streams.append(stream)
        request = pb.DownloadBackupRequest(backup_id=large)
        assert refused(server.backups.DownloadBackup, request) == "RESOURCE_EXHAUSTED/TOO_MANY_DOWNLOADS"
    finally:
        for stream in streams:
            stream.cancel()
    until(lambda: not processes(server), "the end of their processes")


def test_a_process_that_dies_is_told_and_leaves_no_digest(server: Server, large: str) -> None:
    stream = server.backups.DownloadBackup(pb.DownloadBackupRequest(backup_id=large), timeout=PATIENCE)
    next(stream)
    (pid,) = processes(server)
    os.kill(pid, signal.SIGKILL)
    seen: list[download_pb2.DownloadPart] = []
    with pytest.raises(grpc.RpcError) as caught:
        seen.extend(stream)
    assert all(part.WhichOneof("part") == "chunk" for part in seen)
    assert failure_of(caught.value).name == "UNAVAILABLE/READER_FAILED"
    forget_runs(server, "open")


def test_damage_ends_the_stream_without_a_digest(server: Server, large: str, tmp_path: Path) -> None:
    kept = tmp_path / "packs"
    packs = server.base / "open" / "packs"
    shutil.copytree(packs, kept)
    try:
        for pack in packs.rglob("*"):
            if pack.is_file() and pack.stat().st_size > 8 << 20:
                with pack.open("r+b") as file:
                    file.seek(6 << 20)
                    file.write(bytes(2 << 20))
        stream = server.backups.DownloadBackup(pb.DownloadBackupRequest(backup_id=large), timeout=PATIENCE)
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert failure_of(caught.value).name == "DATA_LOSS/CHECKSUM_MISMATCH"
        task = export(server, large, tmp_path / "out", "zip")
        assert (task.state, task.error.reason) == (task_pb2.TASK_STATE_FAILED, "CHECKSUM_MISMATCH")
        assert os.listdir(tmp_path / "out") == []
    finally:
        shutil.rmtree(packs)
        shutil.copytree(kept, packs)


def test_nothing_outlives_the_edge(server: Server, large: str) -> None:
    stream = server.backups.DownloadBackup(pb.DownloadBackupRequest(backup_id=large), timeout=PATIENCE)
    next(stream)
    (pid,) = processes(server)
    (edge,) = server.signal("edge")
    with pytest.raises(grpc.RpcError):
        list(stream)
    until(lambda: server.gone([edge]), "the end of the edge")
    until(lambda: not Path("/proc", str(pid), "cmdline").exists(), "the end of its process")
    until(server.serving, "another edge")
    server.connect()
    forget_runs(server, "open")


# -- the client and the command line ---------------------------------------------------------------------------------


def cli(server: Server, *arguments: str) -> int:
    return main(["--address", server.address, "--token-file", str(server.data_dir / "admin.token"), *arguments])


def test_the_command_line(
    server: Server,
    backups: dict[str, str],
    tmp_path: Path,
    capsysbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(PASSPHRASE + "\n")
    monkeypatch.chdir(tmp_path)
    assert cli(server, "backup", "ls", backups["shut"], "d1", "--passphrase-file", str(secret)) == 0
    shown = capsysbinary.readouterr().out.decode()
    assert rb"odd \xff".decode() in shown
    assert "second name" in shown
    assert cli(server, "backup", "ls", backups["open"], "--limit", "2", "--json") == 0
    assert len(capsysbinary.readouterr().out.splitlines()) == 2
    assert cli(server, "backup", "ls", backups["shut"]) != 0
    capsysbinary.readouterr()
    (tmp_path / "here").mkdir()
    options = ["--format", "tar.zst", "--passphrase-file", str(secret)]
    assert cli(server, "backup", "download", backups["shut"], "-o", "here", *options) == 0
    (file,) = (tmp_path / "here").iterdir()
    assert file.suffix == ".zst"
    assert difference(server.base / "source", unpacked(file, tmp_path / "unpacked")) == ""
    capsysbinary.readouterr()
    assert cli(server, "export", "backup", backups["shut"], "--to", "there", "--create-folder", *options) == 0
    assert [one.suffix for one in (tmp_path / "there").iterdir()] == [".zst"]


def test_the_client_starts_over_what_was_interrupted(server: Server, backups: dict[str, str], tmp_path: Path) -> None:
    partial = tmp_path / f"copy.tar.gz.{backups['open'][:8]}.partial"
    partial.write_bytes(b"what an earlier download left")
    with holdfast.connect(server.address, token_file=server.data_dir / "admin.token") as client:
        done = client.backups.download(backups["open"], tmp_path / "copy.tar.gz")
        assert done.path is not None
        assert done.size == done.path.stat().st_size
        assert difference(server.base / "source", unpacked(done.path, tmp_path / "unpacked")) == ""
        into = io.BytesIO()
        credentials = holdfast.Credentials(passphrase=PASSPHRASE)
        done = client.backups.download(backups["shut"], into, format="zip", credentials=credentials)
        assert hashlib.sha256(into.getvalue()).hexdigest() == done.sha256
        (entry,) = [one for one in client.backups.entries(backups["open"], page_size=2) if one.path == "large.bin"]
        assert (entry.type, entry.size, entry.sha256) in (("FILE", 3 << 20, ""), ("HARDLINK", 0, ""))
