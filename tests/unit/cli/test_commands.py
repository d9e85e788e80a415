"""The command line against the fake server: output, exit codes, errors, help."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from fake_service import TOKEN, FakeServer, FakeService, FakeTask

import holdfast
from holdfast.cli.app import cli, main
from holdfast.v1 import backup_pb2, task_pb2
from holdfast_server import errors as theirs

pytestmark = pytest.mark.timeout(30)

CLIENT = Path(holdfast.__file__).parents[1]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    return path


@pytest.fixture
def run(server: FakeServer, token_file: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> tuple[int, str, str]:
        code = main(["--address", server.address, "--token-file", str(token_file), *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def watched(service: FakeService) -> None:
    """Wait until somebody watches, so that the watch sees every event."""
    deadline = time.monotonic() + 5
    while not any(name == "WatchTask" for name, _ in service.calls) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)


def finish(service: FakeService, end: int, **fields: Any) -> Callable[[FakeTask], None]:
    """What a new task does: it runs, warns and ends."""

    def work(task: FakeTask) -> None:
        watched(service)
        task.state(task_pb2.TASK_STATE_RUNNING)
        task.progress(50)
        if end == task_pb2.TASK_STATE_COMPLETED_WITH_WARNINGS:
            task.warn("locked.txt")
        backup_id = service.add_backup(b"x" * 2048, task_id=task.task_id)
        good = task_pb2.SourceOutcome(
            source_id="default",
            backup_id=backup_id,
            ok=True,
            output_file="/srv/backups/" + "very-long-folder/" * 12 + "Default.zip",
            original_size=4096,
            stored_size=2048,
            files=7,
        )
        bad = task_pb2.SourceOutcome(
            source_id="mail",
            ok=False,
            error=task_pb2.TaskError(
                code="UNAVAILABLE", reason="SOURCE_OFFLINE", message="/mail is gone", remedy="mount it"
            ),
        )
        result = task_pb2.BackupResult(files_added=7, original_size=4096, stored_size=2048, sources=[bad, good])
        result.sources_failed = 1
        task.state(end, backup_result=result, **fields)

    return work


CREATE = ("backup", "create", "default", "--to", "/srv/backups", "--format", "zip")


def test_a_backup_with_its_summary(run: Run, service: FakeService) -> None:
    service.on_create = finish(service, task_pb2.TASK_STATE_COMPLETED)
    code, out, err = run(*CREATE, "--tag", "night", "--ignore", "*.log", "--on-source-error", "fail")
    assert (code, err) == (0, "")
    backup = next(iter(service.backups.values()))
    lines = out.splitlines()
    assert "mail: failed: /mail is gone (SOURCE_OFFLINE)" in lines
    assert "  remedy: mount it" in lines
    assert "default: /srv/backups/" + "very-long-folder/" * 12 + "Default.zip" in lines  # not wrapped
    assert "  7 files, 4.0 KiB -> 2.0 KiB (50.0 %)" in lines
    assert f"  sha256 {backup.sha256}" in lines
    assert "1 source failed" in lines
    assert "\x1b" not in out
    assert any("backup default: RUNNING" in line for line in lines)  # plain lines: stdout is no terminal
    request = service.calls[0][1]
    assert (request.archive.tag, list(request.ignore)) == ("night", ["*.log"])


@pytest.mark.parametrize("name", ["zip", "tar.gz", "tar.zst"])
def test_formats(name: str, run: Run, service: FakeService) -> None:
    service.on_create = finish(service, task_pb2.TASK_STATE_COMPLETED)
    assert run(*CREATE[:-1], name)[0] == 0
    sent = service.calls[0][1].archive.format
    assert backup_pb2.ArchiveFormat.Name(sent) == "ARCHIVE_FORMAT_" + name.upper().replace(".", "_")


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (task_pb2.TASK_STATE_COMPLETED, 0),
        (task_pb2.TASK_STATE_FAILED, 1),
        (task_pb2.TASK_STATE_COMPLETED_WITH_WARNINGS, 3),
        (task_pb2.TASK_STATE_CANCELLED, 4),
    ],
)
def test_exit_codes_of_tasks(end: int, code: int, run: Run, service: FakeService) -> None:
    fields: dict[str, Any] = {}
    if end == task_pb2.TASK_STATE_FAILED:
        fields["error"] = task_pb2.TaskError(reason="DISK_FULL", message="the disk is full", remedy="free space")
    service.on_create = finish(service, end, **fields)
    found, out, err = run("--no-progress", *CREATE)
    assert found == code
    task = next(iter(service.tasks.values()))
    if code == 1:
        assert "error: the disk is full (DISK_FULL)\nremedy: free space\n" in err
        assert f"task log {task.task_id}" in err
    if code == 3:
        assert "1 warning; list them: holdfast --address" in out
        assert f"task problems {task.task_id}" in out
    # The same code again from a watch of the ended task.
    assert run("task", "watch", task.task_id)[0] == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (theirs.invalid_field("archive.folder", "must be absolute"), 2),
        (theirs.FailedPrecondition(theirs.Reason.FOLDER_NOT_FOUND, "/x does not exist"), 1),
        (theirs.ResourceExhausted(theirs.Reason.DISK_FULL, "full"), 1),
    ],
)
def test_exit_codes_and_form_of_refusals(
    error: theirs.HoldfastError, code: int, run: Run, service: FakeService
) -> None:
    service.failures = [error]
    found, out, err = run(*CREATE)
    assert (found, out) == (code, "")
    assert err == f"error: {error.message} ({error.reason})\nremedy: {error.remedy}\n"
    service.failures = [error]
    found, out, err = run("--json", *CREATE)
    assert (found, err) == (code, "")
    value = json.loads(out)
    assert (value["type"], value["reason"], value["message"]) == ("error", error.reason, error.message)
    assert value["remedy"] == error.remedy
    assert len(value["violations"]) == len(error.violations)


def test_violations_are_listed(run: Run, service: FakeService) -> None:
    violations = [theirs.FieldViolation("tag", "too long"), theirs.FieldViolation("name", "too long")]
    service.failures = [theirs.InvalidArgument(theirs.Reason.INVALID_FIELD, "two fields", violations=violations)]
    assert "  tag: too long\n  name: too long\n" in run(*CREATE)[2]


@pytest.mark.parametrize(
    "words",
    [
        ("backup", "create", "default", "--to", "/x"),
        ("backup", "create", "--to", "/x", "--format", "zip"),
        ("backup", "create", "--repository", "vault"),
        ("backup", "create", "a"),
        ("backup", "create", "a", "--repository", "vault", "--to", "/x", "--format", "zip"),
        ("backup", "create", "a", "--repository", "vault", "--format", "zip"),
        ("backup", "create", "a", "--repository", "vault", "--tag", "t"),
        ("backup", "create", "a", "--all-wallets", "--to", "/x", "--format", "zip"),
        ("backup", "create", "a", "--to", "/x", "--format", "rar"),
        ("source", "register", "/x", "--discover-wallets", "--id", "a"),
        ("source", "update", "a"),
        ("task", "watch", "--after", "3"),
        ("nonsense",),
        ("backup",),
        (),
    ],
)
def test_wrong_usage_is_2_and_calls_nothing(words: tuple[str, ...], run: Run, service: FakeService) -> None:
    code, out, err = run(*words)
    assert (code, out, service.calls) == (2, "", [])
    assert "Usage:" in err


def test_no_server_is_1_with_a_remedy(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.connection.Connection.patience", lambda *_: 0.0)
    assert main(["--address", "127.0.0.1:1", "health"]) == 1
    assert "holdfast-server serve" in capsys.readouterr().err


def test_sources(run: Run, service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "World").mkdir()
    assert run("source", "register", "World", "--kind", "wallet", "--ignore", "a b")[0] == 0
    assert service.sources["world"].path == str(tmp_path / "World")
    code, out, _ = run("source", "list")
    assert code == 0
    assert out.splitlines()[0].split() == ["ID", "KIND", "STATE", "LATEST", "BACKUP", "PATH"]
    assert out.splitlines()[1].endswith(str(tmp_path / "World"))
    assert "SUSPENDED" in run("source", "suspend", "world")[1]
    assert "ACTIVE" in run("source", "resume", "world")[1]
    assert "Neu" in run("source", "update", "world", "--name", "Neu", "--no-ignore")[1]
    assert list(service.calls[-1][1].ignore.patterns) == []
    assert service.calls[-1][1].HasField("ignore")
    assert "NOT_A_WALLET" in run("source", "register", "/w", "--discover-wallets")[1]
    assert "2 backups kept" in run("source", "unregister", "world")[1]
    assert run("source", "get", "world")[0] == 1


def test_backups(run: Run, service: FakeService, tmp_path: Path) -> None:
    backup_id = service.add_backup(b"content" * 999)
    code, out, _ = run("backup", "list", "--source", "default")
    assert (code, backup_id in out, "/srv/backups/default.zip" in out) == (0, True, True)
    assert service.backups[backup_id].sha256 in run("backup", "get", backup_id)[1]
    code, out, _ = run("backup", "download", backup_id, "-o", str(tmp_path / "c.zip"))
    assert (code, (tmp_path / "c.zip").read_bytes()) == (0, b"content" * 999)
    code, _, err = run("backup", "download", backup_id, "-o", str(tmp_path / "c.zip"))
    assert (code, "exists already" in err) == (1, True)
    for number in range(3):
        service.add_backup(bytes(number))
    code, out, err = run("backup", "list", "--limit", "2")
    assert (len(out.splitlines()), "--limit 0" in err) == (3, True)


def test_the_life_of_a_backup(run: Run, service: FakeService) -> None:
    backup_id = service.add_backup(b"content")
    assert "before the upgrade" in run("backup", "rename", backup_id, "before the upgrade")[1]
    assert "COMPLETED, locked\n" in run("backup", "lock", backup_id)[1]
    assert "locked" not in run("backup", "unlock", backup_id)[1]
    requests = [request for method, request in service.calls if method == "UpdateBackup"]
    assert [(r.HasField("name"), r.HasField("locked"), r.locked) for r in requests] == [
        (True, False, False),
        (False, True, True),
        (False, True, False),
    ]
    out = run("backup", "delete", backup_id)[1]
    assert "in trash" in out
    assert "purged from" in out
    assert backup_id not in run("backup", "list")[1]
    assert backup_id in run("backup", "list", "--deleted")[1]
    assert "in trash" not in run("backup", "undelete", backup_id)[1]
    given = ("--backup-id", "7F1A29B0-0000-4000-8000-000000000001", "--locked")
    assert run("backup", "create", "a", "--to", "/x", "--format", "zip", "--detach", *given)[0] == 0
    made = service.calls[-1][1]
    assert (made.backup_id, made.locked) == (given[1], True)


def test_a_snapshot_is_shown_with_its_repository(run: Run, service: FakeService) -> None:
    backup_id = service.add_backup(b"content")
    service.backups[backup_id].MergeFrom(backup_pb2.Backup(repository_id="vault", sealed=True))
    out = run("backup", "get", backup_id)[1]
    assert re.search(r"^repository +vault$", out, re.MULTILINE)
    assert re.search(r"^sealed +yes, by its repository$", out, re.MULTILINE)
    assert "with age" not in out


def test_damage_without_names_ends_its_line(run: Run, service: FakeService) -> None:
    found = task_pb2.VerifyResult(backup_id="b", level=3, damaged_count=3)
    service.on_create = lambda task: task.state(task_pb2.TASK_STATE_FAILED, verify_result=found)
    assert "  3 files cannot be restored\n" in run("backup", "verify", "b")[1]


def test_verify_and_restore(run: Run, service: FakeService) -> None:
    verified = task_pb2.VerifyResult(backup_id="b", level=3, files_checked=5, bytes_checked=1024, sha256="ab")
    service.on_create = lambda task: task.state(task_pb2.TASK_STATE_COMPLETED, verify_result=verified)
    code, out, _ = run("backup", "verify", "b", "--level", "read-data")
    assert (code, "checked 5 files, 1.0 KiB at level read-data" in out) == (0, True)
    restored = task_pb2.RestoreResult(folder="/new", files=5, directories=1, restored_size=9, files_verified=5)
    service.on_create = lambda task: task.state(task_pb2.TASK_STATE_COMPLETED, restore_result=restored)
    code, out, _ = run("restore", "b", "--to", "/new", "--path", "Bank", "--create-parents")
    assert (code, "restored into /new" in out, "5 files, 1 directory, 9 B" in out) == (0, True, True)
    request = service.calls[-3][1] if service.calls[-3][0] == "RestoreBackup" else service.calls[-2][1]
    assert (list(request.paths), request.new_folder.create_parents) == (["Bank"], True)


IDENTITY = "AGE-SECRET-KEY-1CANARYCANARY"


def test_an_identity_comes_from_a_file_or_from_stdin(
    run: Run, service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.on_create = lambda task: task.state(task_pb2.TASK_STATE_COMPLETED)
    key_file = tmp_path / "key.txt"
    key_file.write_text(f"# created: 2026-01-01\n# public key: age1x\n\n{IDENTITY}\n")
    assert run("backup", "verify", "b", "--identity", str(key_file))[0] == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO(IDENTITY + "\n"))
    assert run("backup", "verify", "b", "-i", "-")[0] == 0
    given = [request.credentials.age_identity for name, request in service.calls if name == "VerifyBackup"]
    assert given == [IDENTITY, IDENTITY]
    assert run("backup", "verify", "b")[0] == 0
    assert not service.calls[-2][1].HasField("credentials")


def test_a_restore_is_given_an_identity(run: Run, service: FakeService, tmp_path: Path) -> None:
    service.on_create = lambda task: task.state(task_pb2.TASK_STATE_COMPLETED)
    (tmp_path / "key.txt").write_text(IDENTITY)
    assert run("restore", "b", "--to", "/srv/back", "--identity", str(tmp_path / "key.txt"))[0] == 0
    (sent,) = [request for name, request in service.calls if name == "RestoreBackup"]
    assert sent.credentials.age_identity == IDENTITY


def test_recipients_come_from_options_files_and_stdin(
    run: Run, service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.on_create = lambda task: task.state(task_pb2.TASK_STATE_COMPLETED)
    (tmp_path / "team.txt").write_text("# the team\nage1b\n\n  ssh-ed25519 AAAA comment\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"age1d\n")))
    words = ("-r", "age1a", "--recipients-file", str(tmp_path / "team.txt"), "--recipient", "age1c", "-R", "-")
    assert run(*CREATE, *words)[0] == 0
    wanted = ["age1a", "age1c", "age1b", "ssh-ed25519 AAAA comment", "age1d"]
    assert list(service.calls[0][1].archive.age_recipients) == wanted
    assert run(*CREATE)[0] == 0
    assert list([request for name, request in service.calls if name == "CreateBackup"][1].archive.age_recipients) == []


@pytest.mark.parametrize("content", [b"", b"# only a comment\n", b"\xff\xfe", b"age1\n" * 300_000, None])
def test_what_is_no_recipients_file_never_gives_an_archive_in_clear(
    run: Run, service: FakeService, tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "team.txt").write_bytes(content)
    code, _, err = run(*CREATE, "--recipients-file", str(tmp_path / "team.txt"))
    assert (code, "team.txt" in err, "remedy:" in err) == (1, True, True)
    assert service.calls == []


@pytest.mark.parametrize("content", [b"", b"# only a comment\n", b"\xff\xfe", b"x" * 70_000, None])
def test_what_is_no_identity_file_is_refused_before_any_call(
    run: Run, service: FakeService, tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "key.txt").write_bytes(content)
    code, _, err = run("backup", "verify", "b", "--identity", str(tmp_path / "key.txt"))
    assert (code, "key.txt" in err, "remedy:" in err) == (1, True, True)
    assert service.calls == []


def test_restore_of_an_archive(run: Run, service: FakeService, tmp_path: Path) -> None:
    restored = task_pb2.RestoreArchiveResult(
        folder="/new",
        files=5,
        directories=1,
        restored_size=9,
        format=2,
        sealed=True,
        entries_skipped=1,
        has_checksums=True,
    )
    service.on_create = lambda task: task.state(task_pb2.TASK_STATE_COMPLETED, restore_archive_result=restored)
    (tmp_path / "key").write_text("AGE-SECRET-KEY-1X\n")
    limits = ["--max-bytes", "1", "--max-entries", "2", "--max-ratio", "3", "--max-depth", "4"]
    options = ["--identity", str(tmp_path / "key"), "--path", "Bank", "--create-parents", *limits]
    code, out, _ = run("restore", "archive", "/a.bin", "--to", "/new", *options)
    assert code == 0
    for words in ("restored into /new", "5 files, 1 directory, 9 B", "own checksums only", "1 special entry left out"):
        assert words in out
    name, request = next(call for call in reversed(service.calls) if call[0] == "RestoreArchive")
    assert (name, request.archive_path, request.new_folder.folder) == ("RestoreArchive", "/a.bin", "/new")
    assert request.new_folder.create_parents
    assert list(request.paths) == ["Bank"]
    assert request.credentials.age_identity == "AGE-SECRET-KEY-1X"
    given = request.limits
    assert (given.max_bytes, given.max_entries, given.max_ratio, given.max_depth) == (1, 2, 3, 4)
    assert "AGE-SECRET" not in out
    code, _, err = run("restore", "archive", "/a", "--to", "/new", "--identity", str(tmp_path / "missing"))
    assert (code, "cannot be read" in err) == (1, True)
    assert run("restore", "archive", "/a", "--to", "/new", "--max-bytes", "0")[0] == 2
    run("restore", "archive", "/a", "--to", "/new")
    request = next(call[1] for call in reversed(service.calls) if call[0] == "RestoreArchive")
    assert not request.HasField("credentials")
    assert not request.limits.ListFields()


def test_the_word_backup_may_be_left_out(run: Run, service: FakeService) -> None:
    for words in (
        ("b", "--to", "/new"),
        ("backup", "b", "--to", "/new"),
        ("--to", "/new", "b"),
        ("--json", "b", "--to", "/new"),
    ):
        run("restore", *words, "--detach")
        name, request = service.calls[-1]
        assert (name, request.backup_id, request.new_folder.folder) == ("RestoreBackup", "b", "/new"), words


def test_tasks(run: Run, service: FakeService) -> None:
    task = service.add_task(FakeTask())
    task.state(task_pb2.TASK_STATE_RUNNING)
    task.warn("a\x1b[31mb")
    task.say("line one")
    task.say("line \x1b[31mtwo")
    assert task.task_id in run("task", "list", "--state", "running", "--kind", "backup")[1]
    assert "RUNNING" in run("task", "get", task.task_id)[1]
    out = run("task", "problems", task.task_id)[1]
    assert ("\x1b" in out, "a\\x1b[31mb" in out) == (False, True)
    out = run("task", "log", task.task_id, "--from", "2")[1]
    assert ("line one" in out, "line \\x1b[31mtwo" in out) == (False, True)
    code, out, _ = run("task", "cancel", task.task_id)
    assert (code, "CANCELLED" in out) == (0, True)


def test_detach_prints_the_id_alone(run: Run, service: FakeService) -> None:
    code, out, err = run(*CREATE, "--detach", "--request-id", "11111111-1111-4111-8111-111111111111")
    assert (code, out.strip()) == (0, next(iter(service.tasks)))
    assert "task watch" in err
    again = run(*CREATE, "--detach", "--request-id", "11111111-1111-4111-8111-111111111111")[1]
    assert again == out


def test_every_line_is_json_with_a_type(run: Run, service: FakeService) -> None:
    service.on_create = finish(service, task_pb2.TASK_STATE_COMPLETED_WITH_WARNINGS)
    types: dict[str, list[str]] = {}

    def lines(name: str, *words: str) -> None:
        _, out, err = run(*words)
        types[name] = [json.loads(line)["type"] for line in out.splitlines()]
        assert err == ""

    lines("create", *CREATE, "--json")
    task_id = next(iter(service.tasks))
    backup_id = next(iter(service.backups))
    service.tasks[task_id].say("hello")
    lines("watch", "--json", "task", "watch", task_id, "--after", "1")
    lines("get", "task", "get", task_id, "--json")
    lines("problems", "task", "problems", task_id, "--json")
    lines("log", "task", "log", task_id, "--json")
    lines("backups", "backup", "list", "--json")
    lines("backup", "backup", "get", backup_id, "--json")
    lines("health", "health", "--json")
    lines("register", "source", "register", "/data/x", "--json")
    lines("sources", "source", "list", "--json")
    lines("usage", "--json", "nonsense")
    assert set(types.pop("create")) == set(types.pop("watch")) == {"event", "task"}
    assert types == {
        "get": ["task"],
        "problems": ["problem"],
        "log": ["log"],
        "backups": ["backup"],
        "backup": ["backup"],
        "health": ["health"],
        "register": ["source"],
        "sources": ["source"],
        "usage": ["error"],
    }


def start(server: FakeServer, token_file: Path, *words: str) -> subprocess.Popen[str]:
    # A parent that ignores SIGINT, as a job in the background does, must not decide these tests. Not by `preexec_fn`:
    # that makes a plain fork, whose child gRPC's threads of this process may abort before it is another program.
    line = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from holdfast.cli import main; sys.exit(main())"
    )
    return subprocess.Popen(
        [sys.executable, "-c", line, "--address", server.address, "--token-file", str(token_file), *words],
        env={**os.environ, "PYTHONPATH": str(CLIENT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"{text!r} never came: {process.wait(5)}, {process.communicate()[1]}")


def test_ctrl_c_detaches_and_says_how_to_go_on(
    service: FakeService, server: FakeServer, token_file: Path, run: Run
) -> None:
    def work(task: FakeTask) -> None:
        watched(service)
        task.state(task_pb2.TASK_STATE_RUNNING)
        task.progress(10)

    service.on_create = work
    process = start(server, token_file, *CREATE)
    wait_for(process, "store")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 130
    task = next(iter(service.tasks.values()))
    assert not any(name == "CancelTask" for name, _ in service.calls)
    assert f"detached; task {task.task_id} goes on." in err
    assert f"task cancel {task.task_id}" in err
    command = next(line for line in err.splitlines() if "watch it again" in line).partition("holdfast")[2]
    assert shlex.split(command)[-4:] == ["watch", task.task_id, "--after", str(task.task.revision)]
    task.progress(90)
    task.state(task_pb2.TASK_STATE_COMPLETED, backup_result=task_pb2.BackupResult())
    code, out, _ = run("task", "watch", task.task_id, "--after", shlex.split(command)[-1], "--json")
    sequences = [line["sequence"] for line in map(json.loads, out.splitlines()) if line["type"] == "event"]
    assert (code, sequences) == (0, [4, 5])


def test_ctrl_c_with_json_says_it_there_too(service: FakeService, server: FakeServer, token_file: Path) -> None:
    task = service.add_task(FakeTask())
    process = start(server, token_file, "--json", "task", "watch", task.task_id)
    wait_for(process, "RESET")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=10)
    assert process.returncode == 130
    value = json.loads(out.splitlines()[-1])
    assert (value["type"], value["task_id"], value["after_sequence"]) == ("detached", task.task_id, 1)


def test_watching_all_ends_with_ctrl_c(service: FakeService, server: FakeServer, token_file: Path) -> None:
    service.add_task(FakeTask())
    process = start(server, token_file, "task", "watch")
    wait_for(process, "PENDING")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert (process.returncode, "the tasks go on" in err) == (130, True)


def test_a_reader_that_leaves_is_no_traceback(service: FakeService, server: FakeServer, token_file: Path) -> None:
    task = service.add_task(FakeTask())
    for number in range(3000):
        task.log.append(f"line {number} " + "x" * 100)
    process = start(server, token_file, "task", "log", task.task_id)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=10) == 1
    assert "Traceback" not in err


def test_a_killed_server_is_waited_for(service: FakeService, server: FakeServer, token_file: Path) -> None:
    task = service.add_task(FakeTask())
    process = start(server, token_file, "task", "watch", task.task_id)
    wait_for(process, "PENDING")
    server.stop()
    time.sleep(0.2)
    server.start()
    task.state(task_pb2.TASK_STATE_COMPLETED, backup_result=task_pb2.BackupResult())
    out, _ = process.communicate(timeout=15)
    assert (process.returncode, "COMPLETED" in out) == (0, True)


def commands(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


EVERY = [(("holdfast",), cli), *commands(cli)]


@pytest.mark.parametrize(("words", "command"), EVERY, ids=lambda v: " ".join(v) if isinstance(v, tuple) else "")
def test_help_is_complete_and_its_examples_parse(words: tuple[str, ...], command: click.Command) -> None:
    assert command.help
    context = click.Context(command)
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
    for line in (command.epilog or "").splitlines():
        if not line.startswith("  holdfast "):
            continue
        example = shlex.split(line.partition(" | ")[0])[1:]
        # Parsed as it is, without being run.
        node: click.Command = cli
        parent = click.Context(cli, info_name="holdfast")
        while isinstance(node, click.Group):
            name, found, example = node.resolve_command(parent, example)
            assert found is not None
            node = found
        node.make_context(str(name), list(example), parent=parent)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert holdfast.__version__ in capsys.readouterr().out


def test_download_to_stdout(run: Run, service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    backup_id = service.add_backup(b"\x00\xff" * 100)

    class Out(io.StringIO):
        buffer = io.BytesIO()

    monkeypatch.setattr(sys, "stdout", Out())
    code = run("backup", "download", backup_id, "-o", "-")[0]
    assert (code, Out.buffer.getvalue()) == (0, b"\x00\xff" * 100)
