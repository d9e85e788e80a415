"""Repositories over a running server and the command line: made, shown, unlocked, and no secret anywhere."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest

import holdfast
from holdfast.cli.app import main
from holdfast.v1 import backup_service_pb2, credentials_pb2, repository_pb2, task_pb2
from holdfast.v1 import repository_service_pb2 as pb
from holdfast_server.core import repository_place
from holdfast_server.core.repository_place import RepositoryPlace, look_at_place, open_place
from holdfast_server.repository import remove_snapshots
from tests.canary import Canary
from tests.harness import PATIENCE, Server, failure_of, until

MARK = "canary7staple"
PASSPHRASE = f"{MARK} correct horse"
KEY_FILE = f"{MARK} the content of a key file\n"
READY = repository_pb2.REPOSITORY_STATE_READY


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("repositories")) as server:
        until(lambda: server.rows("SELECT owner FROM workers"), "a worker")
        yield server


def create(server: Server, repository_id: str, folder: Path | str, **values: Any) -> pb.CreateRepositoryResponse:
    values = {"create_folder": True, **values}
    request = pb.CreateRepositoryRequest(repository_id=repository_id, location=str(folder), **values)
    return server.repositories.CreateRepository(request, timeout=PATIENCE)


def get(server: Server, repository_id: str) -> repository_pb2.Repository:
    return server.repositories.GetRepository(pb.GetRepositoryRequest(repository_id=repository_id), timeout=PATIENCE)


def unlock(server: Server, repository_id: str, seconds: int | None = None, **secret: str) -> repository_pb2.Repository:
    credentials = credentials_pb2.Credentials(**secret) if secret else None
    request = pb.UnlockRepositoryRequest(repository_id=repository_id, credentials=credentials)
    if seconds is not None:
        request.ttl.FromSeconds(seconds)
    return server.repositories.UnlockRepository(request, timeout=PATIENCE)


def lock(server: Server, repository_id: str) -> repository_pb2.Repository:
    return server.repositories.LockRepository(pb.LockRepositoryRequest(repository_id=repository_id), timeout=PATIENCE)


def refused(call: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    failure = failure_of(caught.value)
    assert MARK not in f"{caught.value} {caught.value.trailing_metadata()}"
    return failure.code.name, failure.reason


def test_the_whole_way_without_a_trace_of_a_secret(server: Server, tmp_path: Path) -> None:
    keys = [
        repository_pb2.NewKey(passphrase=PASSPHRASE, display_name="mine"),
        repository_pb2.NewKey(private_key=KEY_FILE),
        repository_pb2.NewKey(recovery={}),
    ]
    request_id = str(uuid.uuid4())
    made = create(server, "vault", tmp_path / "vault", sealed=True, keys=keys, request_id=request_id)
    assert (made.repository.state, made.repository.sealed, made.repository.compression_level) == (READY, True, 3)
    assert [key.kind for key in made.repository.keys] == [1, 2, 3]
    assert made.recovery_key
    again = create(server, "vault", tmp_path / "vault", sealed=True, keys=keys, request_id=request_id)
    assert not again.HasField("recovery_key")
    assert again.repository == made.repository
    other = {"sealed": True, "keys": keys[:1], "request_id": request_id}
    assert refused(lambda: create(server, "vault", tmp_path / "vault", **other))[1] == "REQUEST_ID_REUSED"

    shown = get(server, "vault")
    assert shown.statistics.objects == 4
    assert not shown.HasField("unlock_expire_time")
    for secret in ({"passphrase": PASSPHRASE}, {"private_key": KEY_FILE}, {"private_key": made.recovery_key}):
        before = time.time()
        opened = unlock(server, "vault", **secret)
        assert 890 < opened.unlock_expire_time.ToNanoseconds() / 1e9 - before < 910
        assert get(server, "vault").HasField("unlock_expire_time")
        assert not lock(server, "vault").HasField("unlock_expire_time")
    wrong = ("FAILED_PRECONDITION", "KEY_WRONG")
    assert refused(lambda: unlock(server, "vault", passphrase=MARK)) == wrong
    assert refused(lambda: unlock(server, "vault")) == ("FAILED_PRECONDITION", "KEY_REQUIRED")
    assert refused(lambda: unlock(server, "vault", age_identity=MARK)) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert refused(lambda: unlock(server, "vault", 3601, passphrase=PASSPHRASE))[1] == "INVALID_FIELD"
    assert refused(lambda: unlock(server, "none", passphrase=PASSPHRASE)) == ("NOT_FOUND", "REPOSITORY_NOT_FOUND")

    unlock(server, "vault", 1, passphrase=PASSPHRASE)
    until(lambda: not get(server, "vault").HasField("unlock_expire_time"), "its time to be over")
    unlock(server, "vault", passphrase=PASSPHRASE)
    for marker in (MARK.encode(), made.recovery_key[6:].encode(), made.recovery_key.replace("-", "")[5:].encode()):
        assert Canary(marker).search(server.base, tmp_path) == []
    assert "state.sqlite" in {path.name for path in server.base.rglob("*")}
    server.signal("edge", signal.SIGKILL)
    until(server.serving, "the edge")
    server.connect()
    assert not get(server, "vault").HasField("unlock_expire_time"), "an edge that ended has taken the keys with it"


def test_what_is_counted(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.mkdir()
    rng = Random(1)
    for number in range(3):
        (source / f"{number}").write_bytes(rng.randbytes(3 << 20))
    server.register(source, "counted")
    create(server, "counted", tmp_path / "counted")

    def back_up() -> str:
        request = backup_service_pb2.CreateBackupRequest(source_ids=["counted"])
        request.repository.repository_id = "counted"
        task = server.ended(server.backups.CreateBackup(request, timeout=PATIENCE).task_id)
        assert task.state == task_pb2.TASK_STATE_COMPLETED, task
        return server.backup_of(task).backup_id

    for _ in range(2):
        back_up()
    found = get(server, "counted").statistics
    assert (found.snapshots, found.original_size, found.unused_size) == (2, 18 << 20, 0)
    assert 9 << 20 < found.deduplicated_size < 10 << 20
    files = [path for path in (tmp_path / "counted").rglob("*") if path.is_file() and path.parent.name != ".reserve"]
    assert found.stored_size == sum(path.stat().st_size for path in files)
    assert 5 < found.chunks < 40
    assert found.packs >= 1
    assert [one.sequence for one in get(server, "counted").receipt.positions] == [2]

    (source / "new").write_bytes(rng.randbytes(3 << 20))
    gone = back_up()
    assert get(server, "counted").statistics.unused_size == 0
    (row,) = server.rows("SELECT location, fingerprint FROM repositories WHERE repository_id = 'counted'")
    keys = os.fsencode(server.data_dir / "repositories" / "counted")
    place = RepositoryPlace("counted", row["location"], keys, row["fingerprint"])
    with open_place(place) as opened:
        remove_snapshots(opened.repository, [gone], 1)
    look = look_at_place(place, {}, 1, True)
    assert look.counts is not None
    assert look.counts["snapshots"] == 2
    assert 3 << 20 < look.counts["unused_size"] < 4 << 20
    monkeypatch.setattr(repository_place, "_COUNT_SECONDS", -1.0)
    assert look_at_place(place, {}, 1, True).counts is None, "a call has no time for it"


def test_what_is_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    server.register(tmp_path / "source", "refusing")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    short, key = repository_pb2.NewKey(passphrase="1234567"), repository_pb2.NewKey(private_key="x" * 31)
    cases: list[tuple[str, str, Path | str, dict[str, Any]]] = [
        ("FAILED_PRECONDITION", "FOLDER_INSIDE_SOURCE", tmp_path / "source" / "r", {}),
        ("FAILED_PRECONDITION", "FOLDER_INSIDE_DATA_DIR", server.data_dir / "r", {}),
        ("FAILED_PRECONDITION", "FOLDER_NOT_EMPTY", tmp_path / "full", {}),
        ("FAILED_PRECONDITION", "FOLDER_NOT_FOUND", tmp_path / "none", {"create_folder": False}),
        ("INVALID_ARGUMENT", "INVALID_FIELD", "relative", {}),
        ("INVALID_ARGUMENT", "INVALID_FIELD", tmp_path / "r", {"sealed": True}),
        ("INVALID_ARGUMENT", "INVALID_FIELD", tmp_path / "r", {"keys": [short]}),
        ("INVALID_ARGUMENT", "INVALID_FIELD", tmp_path / "r", {"keys": [key]}),
        ("INVALID_ARGUMENT", "INVALID_FIELD", tmp_path / "r", {"keys": [repository_pb2.NewKey()]}),
        ("INVALID_ARGUMENT", "INVALID_FIELD", tmp_path / "r", {"compression_level": 20}),
        ("UNIMPLEMENTED", "NOT_AVAILABLE", "s3://bucket/prefix", {}),
    ]
    for code, reason, folder, values in cases:
        assert refused(lambda: create(server, "refused", folder, **values)) == (code, reason), (folder, values)  # noqa: B023
    assert not (tmp_path / "r").exists()
    request = pb.CompactRepositoryRequest(repository_id="refused")
    answer = refused(lambda: server.repositories.CompactRepository(request, timeout=PATIENCE))
    assert answer == ("NOT_FOUND", "REPOSITORY_NOT_FOUND")
    assert refused(lambda: get(server, "refused")) == ("NOT_FOUND", "REPOSITORY_NOT_FOUND")


def test_a_repository_that_is_not_sealed_is_not_called_sealed(server: Server, tmp_path: Path) -> None:
    create(server, "open", tmp_path / "open")
    with pytest.raises(grpc.RpcError) as caught:
        server.repositories.UnlockRepository(pb.UnlockRepositoryRequest(repository_id="open"), timeout=PATIENCE)
    failure = failure_of(caught.value)
    assert failure.name == "FAILED_PRECONDITION/KEY_REQUIRED"
    assert "open is not sealed, so there is nothing to unlock" in failure.text
    with pytest.raises(grpc.RpcError) as caught:
        unlock(server, "open", passphrase=PASSPHRASE)
    failure = failure_of(caught.value)
    assert failure.name == "FAILED_PRECONDITION/KEY_WRONG"
    assert "open has no key slots, so no secret opens it" in failure.text


def test_pages_of_the_client(server: Server, tmp_path: Path) -> None:
    with holdfast.connect(data_dir=server.data_dir) as client:
        for number in range(5):
            made = client.repositories.create(f"page-{number}", tmp_path / str(number), create_folder=True)
            assert made.recovery_key is None
            assert not made.repository.sealed
        found = [one.repository_id for one in client.repositories.list(page_size=2)]
        assert [name for name in found if name.startswith("page-")] == [f"page-{number}" for number in range(5)]
        assert found == sorted(found)
        shown = client.repositories.get("page-0")
        assert shown.statistics is not None
        assert shown.statistics.snapshots == 0
        assert shown.receipt is not None
        assert (len(shown.receipt.signature), len(shown.receipt.public_key)) == (64, 32)
        with pytest.raises(holdfast.AlreadyExists) as caught:
            client.repositories.create("page-0", tmp_path / "new")
        assert caught.value.reason == holdfast.Reason.REPOSITORY_EXISTS


def test_the_command_line(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "phrase").write_text(PASSPHRASE + "\n")
    (tmp_path / "key").write_text(KEY_FILE)

    def run(*words: str, given: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
        code = main(["--data-dir", str(server.data_dir), *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    folder, phrase, key = str(tmp_path / "cli"), str(tmp_path / "phrase"), str(tmp_path / "key")
    options = ["--folder", folder, "--create-folder", "--sealed", "--key-file", key, "--recovery-key"]
    code, out, err = run("repository", "create", "cli", *options, "--passphrase-file", "-", given=PASSPHRASE)
    assert code == 0, err
    assert out.count("HFRK1-") == 1
    assert "shown this once" in err
    recovery = out.split("recovery key: ")[1].strip()
    (tmp_path / "recovery").write_text(recovery.lower() + "\n")
    for words in (["--passphrase-file", phrase], ["--key-file", key], ["--key-file", str(tmp_path / "recovery")]):
        code, out, err = run("repository", "unlock", "cli", "--for", "5m", *words)
        assert (code, "unlocked cli until" in out) == (0, True), err
    assert "unlocked until" in run("repository", "list")[1]
    assert run("repository", "lock", "cli")[:2] == (0, "locked cli\n")
    code, out, err = run("repository", "show", "cli")
    assert (code, "key file, passphrase, recovery" in out) == (0, True), out
    (shown,) = [json.loads(line) for line in run("--json", "repository", "show", "cli")[1].splitlines()]
    assert (shown["type"], shown["sealed"], shown["statistics"]["snapshots"]) == ("repository", True, 0)
    assert len(shown["receipt"]["signature"]) == 128
    code, out, err = run("repository", "unlock", "cli", "--key-file", str(tmp_path / "wrong"))
    assert (code, "cannot be read" in err) == (1, True)
    code, out, err = run("repository", "unlock", "cli", "--passphrase-file", "-", given=MARK)
    assert (code, "KEY_WRONG" in err, MARK in out + err) == (1, True, False)
    code, out, err = run("repository", "unlock", "cli")
    assert (code, "nobody is there to type the passphrase" in err) == (1, True)
    code, out, err = run("repository", "create", "cli", "--folder", folder, "--passphrase", "--passphrase-file", phrase)
    assert (code, "exclude each other" in err) == (2, True)


@pytest.mark.soak
def test_a_server_that_is_killed_meanwhile_leaves_what_a_repeat_finishes(
    new_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = new_server()
    keys = [repository_pb2.NewKey(passphrase=PASSPHRASE), repository_pb2.NewKey(recovery={})]
    rng = Random(20)
    for number in range(12):
        name, folder, request_id = f"killed-{number}", tmp_path / str(number), str(uuid.uuid4())
        values = {"sealed": True, "keys": keys, "request_id": request_id}

        def attempt(name: str = name, folder: Path = folder, values: dict[str, Any] = values) -> None:
            with contextlib.suppress(grpc.RpcError, ValueError):  # the channel is closed under it
                create(server, name, folder, **values)

        thread = threading.Thread(target=attempt)
        thread.start()
        time.sleep(rng.uniform(0.0, 0.5))
        server.kill_all()
        thread.join()
        server.start()
        made = create(server, name, folder, **values)
        assert made.repository.state == READY
        assert unlock(server, name, passphrase=PASSPHRASE).HasField("unlock_expire_time")
        if made.HasField("recovery_key"):
            unlock(server, name, private_key=made.recovery_key)
        assert len(made.repository.keys) == get(server, name).statistics.objects - 1 == 2


def test_a_passphrase_is_typed_without_an_echo(server: Server, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("holdfast")), "--data-dir", str(server.data_dir)]
    command += ["repository", "create", "typed", "--folder", str(tmp_path / "typed"), "--create-folder", "--sealed"]
    child, terminal = pty.fork()
    if child == 0:
        os.execv(command[0], command)  # the command itself, with the terminal
    shown = b""
    for prompt in (b"Repository passphrase: ", b"Repeat for confirmation: "):
        while prompt not in shown:
            shown += os.read(terminal, 1000)
        time.sleep(0.1)
        os.write(terminal, PASSPHRASE.encode() + b"\n")
    try:
        while chunk := os.read(terminal, 1000):
            shown += chunk
    except OSError:
        pass  # Linux's way to say that the other side has ended
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, shown
    assert MARK.encode() not in shown
    assert unlock(server, "typed", passphrase=PASSPHRASE).HasField("unlock_expire_time")
