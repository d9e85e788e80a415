"""Sealed backups over a running server: nothing in clear reaches a disk, and only the right key opens them."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from holdfast.v1 import backup_pb2, backup_service_pb2, task_pb2, task_service_pb2
from tests.harness import PATIENCE, Server, failure_of, make_tree, sha256_of, snapshot, until
from tests.keys import OTHER_PRIVATE, OTHER_PUBLIC, PRIVATE, PUBLIC

COMPLETED = task_pb2.TASK_STATE_COMPLETED
WARNED = task_pb2.TASK_STATE_COMPLETED_WITH_WARNINGS
FAILED = task_pb2.TASK_STATE_FAILED
CHECKSUM, READ_DATA = backup_pb2.VERIFY_LEVEL_CHECKSUM, backup_pb2.VERIFY_LEVEL_READ_DATA
STRUCTURE = backup_pb2.VERIFY_LEVEL_STRUCTURE


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("sealed")) as server:
        yield server


@pytest.fixture
def source(server: Server, tmp_path: Path) -> Path:
    source = make_tree(tmp_path / "source", 5, files=20, large=3 << 20)
    (tmp_path / "archives").mkdir()
    server.register(source, tmp_path.name.lower(), display_name="Secret name", ignore=["*.secret-pattern"])
    return source


def sealed(server: Server, folder: Path, **values: object) -> backup_pb2.Backup:
    task = server.backup(folder.name.lower(), folder / "archives", recipients=[OTHER_PUBLIC, PUBLIC], **values)
    assert task.state == COMPLETED, task
    return server.backup_of(task)


@pytest.mark.parametrize("tar", [False, True])
def test_the_whole_way(server: Server, source: Path, tmp_path: Path, tar: bool) -> None:
    backup = sealed(server, tmp_path, tar=tar, name="Backup name", tag="tag")
    assert backup.sealed
    assert backup.storage_path.endswith(".tar.gz.age" if tar else ".zip.age")
    (proof,) = backup.verifications
    assert (proof.level, proof.ok, proof.files_checked, proof.bytes_checked) == (CHECKSUM, True, 0, backup.size)
    server.assert_archives(tmp_path / "archives")

    for level in (STRUCTURE, CHECKSUM, READ_DATA):
        task = server.verify(backup.backup_id, level)
        assert task.state == COMPLETED
        found = task.verify_result
        assert (found.level, found.sealed_hash_only, found.files_checked) == (CHECKSUM, True, 0)
        assert (found.bytes_checked, found.sha256) == (backup.size, backup.sha256)
        assert "hash alone" in task.message
    for level in (STRUCTURE, READ_DATA):
        task = server.verify(backup.backup_id, level, identity=PRIVATE)
        assert (task.state, task.verify_result.level) == (COMPLETED, level), task
        assert not task.verify_result.sealed_hash_only
    assert task.verify_result.files_checked == backup.statistics.files
    proofs = server.backups.GetBackup(backup_service_pb2.GetBackupRequest(backup_id=backup.backup_id)).verifications
    assert [one.level for one in proofs] == [READ_DATA, STRUCTURE] + [CHECKSUM] * 4, "the newest comes first"
    alone = "sealed: checked by its hash alone, for want of an identity"
    assert [one.message for one in proofs[:-1]] == ["", "", alone, alone, alone]

    task = server.restore(backup.backup_id, tmp_path / "back", identity=f"# a comment\n{PRIVATE}\n")
    assert task.state == COMPLETED, task
    assert snapshot(tmp_path / "back") == snapshot(source)
    part = server.restore(backup.backup_id, tmp_path / "part", identity=PRIVATE, paths=[os.listdir(source)[0]])
    assert part.state == COMPLETED, part


def test_a_wrong_key_and_none(server: Server, source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "archives"
    backup = server.backup_of(server.backup(tmp_path.name.lower(), folder, recipients=[PUBLIC]))
    with pytest.raises(grpc.RpcError) as caught:
        server.start_restore(backup.backup_id, tmp_path / "back")
    failure = failure_of(caught.value)
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "KEY_REQUIRED")
    for task in (
        server.restore(backup.backup_id, tmp_path / "back", identity=OTHER_PRIVATE),
        server.verify(backup.backup_id, identity=OTHER_PRIVATE),
    ):
        assert (task.state, task.error.reason) == (FAILED, "KEY_WRONG"), task
    assert not (tmp_path / "back").exists()
    request = backup_service_pb2.GetBackupRequest(backup_id=backup.backup_id)
    assert [one.ok for one in server.backups.GetBackup(request).verifications] == [True], "a wrong key is no damage"
    for text in ("AGE-SECRET-KEY-1NONSENSE", PUBLIC):
        with pytest.raises(grpc.RpcError) as caught:
            server.start_restore(backup.backup_id, tmp_path / "back", identity=text)
        failure = failure_of(caught.value)
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert text not in str(caught.value)


@pytest.mark.parametrize(
    ("recipients", "field"),
    [
        ([PUBLIC, "age1nonsense"], "archive.age_recipients[1]"),
        ([PRIVATE], "archive.age_recipients[0]"),
        ([PUBLIC] * 101, "archive.age_recipients"),
        ([""], "archive.age_recipients[0]"),
    ],
)
def test_recipients_are_checked_at_the_call(
    server: Server, source: Path, tmp_path: Path, recipients: list[str], field: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.create(tmp_path.name.lower(), tmp_path / "archives", recipients=recipients)
    failure = failure_of(caught.value)
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert failure.metadata["field"] == field
    assert not recipients[-1] or recipients[-1] not in str(caught.value)
    assert os.listdir(tmp_path / "archives") == []


def test_damage_of_the_archive_and_of_its_sidecar(server: Server, source: Path, tmp_path: Path) -> None:
    backup = sealed(server, tmp_path)
    path = Path(backup.storage_path)
    sidecar = Path(f"{path}.holdfast.json")
    whole, stated = path.read_bytes(), sidecar.read_bytes()
    for wrong in (None, b"{}", stated.replace(backup.backup_id.encode(), b"0" * 36)):
        sidecar.unlink()
        if wrong is not None:
            sidecar.write_bytes(wrong)
        task = server.verify(backup.backup_id)
        assert (task.state, task.warning_count) == (WARNED, 1), task
        problems = server.tasks.ListTaskProblems(
            task_service_pb2.ListTaskProblemsRequest(task_id=task.task_id)
        ).problems
        assert [one.reason for one in problems] == ["SIDECAR_DAMAGED"]
        sidecar.touch()
    sidecar.write_bytes(stated)
    damaged = bytearray(whole)
    damaged[-1000] ^= 1
    path.write_bytes(damaged)
    for task in (
        server.verify(backup.backup_id),
        server.verify(backup.backup_id, identity=PRIVATE),
        server.verify(backup.backup_id, STRUCTURE, identity=PRIVATE),
        server.restore(backup.backup_id, tmp_path / "back", identity=PRIVATE),
    ):
        assert (task.state, task.error.reason) == (FAILED, "CHECKSUM_MISMATCH"), task
    assert not (tmp_path / "back").exists()


def test_a_download_is_the_sealed_file_and_age_opens_it(server: Server, source: Path, tmp_path: Path) -> None:
    backup = sealed(server, tmp_path, tar=True)
    request = backup_service_pb2.DownloadBackupRequest(backup_id=backup.backup_id)
    parts = list(server.backups.DownloadBackup(request, timeout=PATIENCE))
    assert parts[0].header.file_name == Path(backup.storage_path).name
    assert parts[0].header.content_type == "application/octet-stream"
    got = b"".join(part.chunk.data for part in parts)
    assert got == Path(backup.storage_path).read_bytes()
    age = shutil.which("age")
    if age is None:
        pytest.skip("age is not installed: go install filippo.io/age/cmd/...@v1.3.2")
    (tmp_path / "key").write_text(PRIVATE)
    plain = subprocess.run([age, "-d", "-i", tmp_path / "key"], input=got, capture_output=True, check=True).stdout
    (tmp_path / "opened").mkdir()
    subprocess.run(["tar", "xzf", "-"], input=plain, check=True, cwd=tmp_path / "opened")
    (tmp_path / "opened/holdfast-manifest.json").unlink()
    (tmp_path / "opened/holdfast-sha256sums.txt").unlink()
    files = [path.relative_to(source) for path in source.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files
    for name in files:
        assert sha256_of(tmp_path / "opened" / name) == sha256_of(source / name)


def test_a_sidecar_tells_no_names(server: Server, source: Path, tmp_path: Path) -> None:
    backup = sealed(server, tmp_path, name="Backup name")
    text = Path(f"{backup.storage_path}.holdfast.json").read_text()
    assert json.loads(text)["recipients"] == 2
    names = [path.name for path in source.rglob("*") if len(path.name) > 3]
    for hidden in (*names, "Secret name", "Backup name", "secret-pattern", str(tmp_path), PUBLIC, "coins"):
        assert hidden not in text


class Canaries:
    """A source of incompressible small files, which a zip stores as they are; and a search for what must not leak."""

    def __init__(self, folder: Path) -> None:
        rng = random.Random(11)
        self.folder = folder
        self.content = rng.randbytes(40)
        self.name = b"canary-name-%016x" % rng.getrandbits(64)
        self.source = folder / "source"
        self.source.mkdir()
        for number in range(80):
            data = rng.randbytes(200_000) + self.content + rng.randbytes(200_000)
            (self.source / f"{self.name.decode()}-{number}").write_bytes(data)

    def leaks(self, server: Server) -> list[str]:
        """Every file below the test's folder but the source, and every file that the server holds open."""
        paths = [path for path in self.folder.rglob("*") if self.source not in path.parents and path != self.source]
        for role in ("worker", "edge"):
            for pid in server.pids(role):
                paths += Path(f"/proc/{pid}/fd").glob("*")
        return [str(path) for path in paths if self._in(path)]

    def _in(self, path: Path) -> bool:
        try:
            if not path.is_file() or self.source in path.resolve().parents:
                return False
            data = path.read_bytes()
        except OSError:
            return False
        return self.content in data or self.name in data


MakeServer = Callable[..., Server]


@pytest.fixture
def new_server(tmp_path: Path) -> Iterator[MakeServer]:
    servers: list[Server] = []

    def make(**values: object) -> Server:
        servers.append(Server(tmp_path / "server", **values).start())  # type: ignore[arg-type]
        return servers[-1]

    yield make
    for server in servers:
        server.kill_all()


def test_nothing_in_clear_reaches_a_disk(new_server: MakeServer, tmp_path: Path) -> None:
    canaries = Canaries(tmp_path)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "archives").mkdir()
    server = new_server(environment={"TMPDIR": str(tmp_path / "tmp")})
    server.register(canaries.source, "source")
    leaks: list[str] = []
    done = threading.Event()

    def search() -> None:
        while not done.is_set():
            leaks.extend(canaries.leaks(server))

    searcher = threading.Thread(target=search)
    searcher.start()
    try:
        for _ in range(5):
            task_id = server.create("source", tmp_path / "archives", recipients=[PUBLIC]).task_id
            partial = tmp_path / "archives" / f".{task_id}.1.partial"
            written = until(partial_of(partial, 2 << 20), "a partial archive", pause=0.001)
            (worker,) = server.pids("worker")
            if server.freeze([worker]):
                assert not canaries.leaks(server)
                os.kill(worker, signal.SIGKILL)
                break
            server.ended(task_id)
        assert written
        assert not canaries.leaks(server)
        task = server.ended(task_id)
        assert (task.state, task.attempt) == (COMPLETED, 2), task
        server.assert_archives(tmp_path / "archives")
        verified = server.verify(task.backup_result.backup_ids[0], identity=PRIVATE)
        assert verified.state == COMPLETED, verified
    finally:
        done.set()
        searcher.join()
    assert server.stop() == 0
    assert leaks == []
    assert canaries.leaks(server) == []


def test_the_search_finds_what_is_not_sealed(new_server: MakeServer, tmp_path: Path) -> None:
    canaries = Canaries(tmp_path)
    (tmp_path / "archives").mkdir()
    server = new_server()
    server.register(canaries.source, "source")
    assert server.backup("source", tmp_path / "archives").state == COMPLETED
    assert any(path.endswith(".zip") for path in canaries.leaks(server))


def partial_of(path: Path, size: int) -> Callable[[], bool]:
    return lambda: path.exists() and path.stat().st_size > size


def test_a_cancelled_one_leaves_nothing(server: Server, source: Path, tmp_path: Path) -> None:
    (source / "much").write_bytes(os.urandom(96 << 20))
    task_id = server.create(tmp_path.name.lower(), tmp_path / "archives", recipients=[PUBLIC]).task_id
    until(partial_of(tmp_path / "archives" / f".{task_id}.1.partial", 0), "a partial archive", pause=0.001)
    server.cancel(task_id)
    assert server.ended(task_id).state == task_pb2.TASK_STATE_CANCELLED
    assert os.listdir(tmp_path / "archives") == []


def test_from_the_command_line(server: Server, source: Path, tmp_path: Path) -> None:
    (tmp_path / "team.txt").write_text(f"# the team\n{OTHER_PUBLIC}\n{PUBLIC}\n")
    (tmp_path / "key.txt").write_text(f"# created by hand\n{PRIVATE}\n")

    def run(*words: str) -> tuple[int, str]:
        command = [str(Path(sys.executable).with_name("holdfast")), "--data-dir", str(server.data_dir), *words]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        return done.returncode, done.stdout + done.stderr

    folder, team, key = str(tmp_path / "archives"), str(tmp_path / "team.txt"), str(tmp_path / "key.txt")
    name = tmp_path.name.lower()
    code, out = run("backup", "create", name, "--to", folder, "--format", "tar.zst", "--recipients-file", team)
    assert (code, ".tar.zst.age" in out) == (0, True), out
    backup_id = server.rows("SELECT backup_id FROM backups WHERE folder = ?", os.fsencode(folder))[0]["backup_id"]
    code, out = run("backup", "verify", backup_id)
    assert (code, "only the stored hash was checked" in out) == (0, True), out
    code, out = run("backup", "verify", backup_id, "--identity", key)
    assert (code, "only the stored hash" in out) == (0, False), out
    code, out = run("backup", "get", backup_id)
    assert (code, "yes, with age" in out) == (0, True), out
    code, out = run("restore", backup_id, "--to", str(tmp_path / "back"))
    assert (code, "KEY_REQUIRED" in out) == (1, True), out
    code, out = run("restore", backup_id, "--to", str(tmp_path / "back"), "--identity", key)
    assert code == 0, out
    assert snapshot(tmp_path / "back") == snapshot(source)
