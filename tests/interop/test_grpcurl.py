"""A backup driven by tools that know nothing of Holdfast: grpcurl over reflection, buf curl over the protos.

Both print each message as a JSON object. Nothing here depends on how fast the backup is: the journal keeps what a
watcher needs, so a resumed watch must give the same whether the task still runs or has ended.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Server, make_tree

REPOSITORY = Path(__file__).resolve().parents[2]
EXEMPT = ("TASK_EVENT_KIND_RESET", "TASK_EVENT_KIND_HEARTBEAT")
COMPLETED = "TASK_STATE_COMPLETED"
SECONDS = 100

Event = dict[str, Any]


def messages(text: str) -> list[Event]:
    """The whole JSON objects of an output that may break off. grpcurl keeps the field names of the protos."""
    decoder, found, position = json.JSONDecoder(object_hook=_camel_case), [], 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        try:
            message, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError:
            break
        found.append(message)
    return found


def _camel_case(fields: Event) -> Event:
    return {re.sub(r"_([a-z])", lambda found: found[1].upper(), name): value for name, value in fields.items()}


def sequence(event: Event) -> int:
    """64-bit numbers are strings in JSON, and 0 is left out."""
    return int(event.get("sequence", "0"))


def assert_rule(events: Sequence[Event], after: int | None = None) -> int:
    """`sequence == previous + 1 + skipped`, but for RESET and HEARTBEAT. Gives the last sequence."""
    previous = after
    for event in events:
        number = sequence(event)
        if event["kind"] not in EXEMPT:
            assert previous is not None, "the first event of a new watch is RESET"
            assert number == previous + 1 + int(event.get("skipped", "0")), (previous, event)
        previous = number
    assert previous is not None
    return previous


class Grpcurl:
    """grpcurl with reflection and the administrator's token."""

    name = "grpcurl"

    def __init__(self, server: Server) -> None:
        program = shutil.which("grpcurl")
        if program is None:
            pytest.skip("grpcurl is not installed: go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3")
        self._program = program
        self._server = server

    def command(self, method: str, request: Event, token: str | None = None) -> list[str]:
        return [
            *(self._program, "-plaintext", "-H", f"authorization: Bearer {token or self._server.token}"),
            *("-d", json.dumps(request), self._server.address, f"holdfast.v1.{method}"),
        ]

    def plain(self, *arguments: str) -> str:
        done = subprocess.run(
            [self._program, "-plaintext", self._server.address, *arguments],
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


class BufCurl:
    """buf curl with the schema from protos/."""

    name = "buf"

    def __init__(self, server: Server) -> None:
        program = shutil.which("buf", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
        if program is None:
            pytest.skip("buf is not installed: pip install buf-bin")
        self._program = program
        self._server = server

    def command(self, method: str, request: Event, token: str | None = None) -> list[str]:
        return [
            *(self._program, "curl", "--schema", str(REPOSITORY / "protos")),
            *("--protocol", "grpc", "--http2-prior-knowledge"),
            *("-H", f"authorization: Bearer {token or self._server.token}", "-d", json.dumps(request)),
            f"http://{self._server.address}/holdfast.v1.{method}",
        ]


Tool = Grpcurl | BufCurl


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("grpcurl")) as server:
        yield server


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("source") / "tree", 8, files=300, large=48 << 20)


@pytest.fixture(params=[Grpcurl, BufCurl], ids=lambda tool: tool.name)
def tool(request: pytest.FixtureRequest, server: Server) -> Tool:
    made: Tool = request.param(server)
    return made


def call(tool: Tool, method: str, request: Event, token: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(tool.command(method, request, token), capture_output=True, text=True, timeout=SECONDS)


def register(tool: Tool, tree: Path) -> str:
    source_id = f"tree-{tool.name}"
    done = call(tool, "SourceService/RegisterSource", {"sourceId": source_id, "path": str(tree)})
    if done.returncode:
        assert f"there is a source {source_id} already" in done.stdout + done.stderr, done
    else:
        (message,) = messages(done.stdout)
        assert message["sources"][0]["sourceId"] == source_id
    return source_id


def order(source_id: str, folder: Path) -> Event:
    target = {"folder": str(folder), "format": "ARCHIVE_FORMAT_ZIP", "createFolder": True}
    return {"sourceIds": [source_id], "archive": target}


def start(command: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read_until(process: subprocess.Popen[str], enough: Callable[[list[Event]], bool]) -> str:
    """Read a running tool's output until it has printed enough, or has ended."""
    assert process.stdout is not None
    text = ""
    while line := process.stdout.readline():
        text += line
        if line.startswith("}") and enough(messages(text)):
            break
    return text


def is_ended(event: Event, state: str = COMPLETED) -> bool:
    return event["kind"] == "TASK_EVENT_KIND_STATE" and event["task"]["state"] == state


def test_services_are_listed_and_described(server: Server) -> None:
    grpcurl = Grpcurl(server)
    listed = grpcurl.plain("list").split()
    assert {f"holdfast.v1.{name}Service" for name in ("Source", "Backup", "Export", "Restore", "Task")} <= set(listed)
    assert "grpc.health.v1.Health" in listed
    described = grpcurl.plain("describe", "holdfast.v1.BackupService.RunBackup")
    assert "rpc RunBackup ( .holdfast.v1.RunBackupRequest ) returns ( stream .holdfast.v1.TaskEvent );" in described
    for name in listed:
        assert grpcurl.plain("describe", name)


def test_run_backup_prints_every_event_to_the_end(tool: Tool, tree: Path, tmp_path: Path) -> None:
    done = call(tool, "BackupService/RunBackup", order(register(tool, tree), tmp_path / "archives"))
    assert done.returncode == 0, done.stderr
    events = messages(done.stdout)
    assert events[0]["kind"] == "TASK_EVENT_KIND_RESET"
    assert_rule(events)
    assert is_ended(events[-1]), events[-1]
    assert len(list((tmp_path / "archives").iterdir())) == 1


def test_watch_in_a_second_process_and_after_the_first_was_killed(tool: Tool, tree: Path, tmp_path: Path) -> None:
    """The first client dies in the middle; what it printed and what its successor prints follow each other."""
    runner = start(tool.command("BackupService/RunBackup", order(register(tool, tree), tmp_path / "archives")))
    second: subprocess.Popen[str] | None = None
    try:
        before = read_until(runner, lambda seen: len(seen) >= 2)
        first = messages(before)
        task_id = first[0]["taskId"]
        # A second terminal joins at the first one's beginning, while both run.
        joined = sequence(first[0])
        second = start(tool.command("TaskService/WatchTask", {"taskId": task_id, "afterSequence": str(joined)}))
        before += read_until(runner, lambda seen: len(seen) >= 1)
        runner.send_signal(signal.SIGKILL)
        before += runner.communicate(timeout=SECONDS)[0]
        first = messages(before)
        last = assert_rule(first)

        resumed = call(tool, "TaskService/WatchTask", {"taskId": task_id, "afterSequence": str(last)})
        assert resumed.returncode == 0, resumed.stderr
        rest = messages(resumed.stdout)
        if is_ended(first[-1]):
            # It was too quick to be killed in the middle: its end is told again.
            assert sequence(rest[-1]) == last
        else:
            assert all(event["kind"] != "TASK_EVENT_KIND_RESET" for event in rest), "no full state on a resume"
            end = assert_rule(rest, last)
            assert end == sequence(rest[-1])
        assert is_ended(rest[-1]), rest[-1]

        seen, errors = second.communicate(timeout=SECONDS)
        assert second.returncode == 0, errors
        watched = messages(seen)
        assert all(event["kind"] != "TASK_EVENT_KIND_RESET" for event in watched)
        assert_rule(watched, joined)
        assert watched[-1] == rest[-1], "two watchers saw two ends"
    finally:
        for process in filter(None, (runner, second)):
            process.kill()
            process.communicate()
    assert len(list((tmp_path / "archives").iterdir())) == 1, "the death of its client stopped the task"


def test_run_export_backup_prints_every_event_to_the_end(tool: Tool, server: Server, tmp_path: Path) -> None:
    source_id = f"small-{tool.name}"
    server.register(make_tree(tmp_path / "small", 9, files=6), source_id)
    backup = server.backup_of(server.backup(source_id, tmp_path / "archives", create_folder=True))
    request = {
        "backupId": backup.backup_id, "folder": str(tmp_path / "out"), "createFolder": True,
        "format": "ARCHIVE_FORMAT_TAR_ZST", "paths": ["d1"],
    }  # fmt: skip
    done = call(tool, "ExportService/RunExportBackup", request)
    assert done.returncode == 0, done.stderr
    events = messages(done.stdout)
    assert events[0]["kind"] == "TASK_EVENT_KIND_RESET"
    assert_rule(events)
    assert is_ended(events[-1]), events[-1]
    (made,) = (tmp_path / "out").iterdir()
    assert events[-1]["task"]["exportBackupResult"]["file"]["path"] == str(made)


def test_wrong_token_is_refused(tool: Tool) -> None:
    done = call(tool, "TaskService/ListTasks", {}, token="hf_wrong")
    assert done.returncode != 0
    assert "unauthenticated" in (done.stdout + done.stderr).lower()
    if tool.name == "grpcurl":
        assert '"BAD_CREDENTIALS"' in done.stderr


def test_call_that_is_not_built_says_so(tool: Tool) -> None:
    request = {"sourceId": "default", "glob": "*"}
    done = call(tool, "BackupService/FindEntries", request)
    assert done.returncode != 0
    told = done.stdout + done.stderr
    assert "unimplemented" in told.lower()
    assert "BackupService.FindEntries is not available in this version" in told
    if tool.name == "grpcurl":
        assert '"NOT_AVAILABLE"' in told


def test_unknown_task_names_its_reason(tool: Tool) -> None:
    request = {"taskId": "00000000-0000-4000-8000-000000000000"}
    done = call(tool, "TaskService/WatchTask", request)
    assert done.returncode != 0
    told = done.stdout + done.stderr
    assert "notfound" in told.lower().replace("_", "").replace(" ", "")
    if tool.name == "grpcurl":
        assert '"TASK_NOT_FOUND"' in told
