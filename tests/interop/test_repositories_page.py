"""A repository by grpcurl, and docs/repositories.md: its transcripts are what the commands print."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import REPOSITORY, make_tree, snapshot
from tests.interop.test_grpcurl import Grpcurl, assert_rule, call, is_ended, messages, sequence
from tests.transcripts import Desk, desk, play, transcript

PAGE = REPOSITORY / "docs" / "repositories.md"
BACKUP = "5d0c7c9e-2f57-4b0e-8d35-0c2b8f6f4e99"
GHOST = "00000000-0000-4000-8000-000000000000"
#: One of the details that grpcurl prints below an error.
DETAIL = re.compile(r"^  \d+\)\t(\{.*?^    \t\})$", re.DOTALL | re.MULTILINE)
Event = dict[str, Any]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk(tmp_path_factory.mktemp("repositories-page")) as made:
        yield made


@pytest.fixture(scope="module")
def grpcurl(place: Desk) -> Grpcurl:
    return Grpcurl(place.server)


@pytest.fixture(scope="module")
def vault(place: Desk, grpcurl: Grpcurl) -> Path:
    """The repository `vault-2`, with the backup BACKUP of the source `tree` in it."""
    tree, folder = make_tree(place.folder / "tree", 3, files=40, large=8 << 20), place.folder / "vault-2"
    one(grpcurl, "SourceService/RegisterSource", {"sourceId": "tree", "path": str(tree)})
    one(
        grpcurl,
        "RepositoryService/CreateRepository",
        {"repositoryId": "vault-2", "location": str(folder), "createFolder": True},
    )
    order = {"sourceIds": ["tree"], "backupId": BACKUP, "repository": {"repositoryId": "vault-2"}}
    task_id = one(grpcurl, "BackupService/CreateBackup", order)["taskId"]
    assert watched(grpcurl, task_id)["backupResult"]["backupIds"] == [BACKUP]
    return folder


def one(grpcurl: Grpcurl, method: str, request: Event) -> Event:
    """The answer of a unary call."""
    done = call(grpcurl, method, request)
    assert done.returncode == 0, done.stderr
    (answer,) = messages(done.stdout)
    return answer


def watched(grpcurl: Grpcurl, task_id: str) -> Event:
    """A task that completed, watched from its first event on to its last, and once more from the middle."""
    first = call(grpcurl, "TaskService/WatchTask", {"taskId": task_id, "afterSequence": "1"})
    assert first.returncode == 0, first.stderr
    events = messages(first.stdout)
    assert_rule(events, 1)
    assert is_ended(events[-1]), events[-1]
    percents = [event["progress"]["percent"] for event in events if "percent" in event.get("progress", {})]
    assert percents == sorted(percents)
    middle = sequence(events[len(events) // 2 - 1])
    again = call(grpcurl, "TaskService/WatchTask", {"taskId": task_id, "afterSequence": str(middle)})
    rest = messages(again.stdout)
    assert_rule(rest, middle)
    assert rest[-1] == events[-1], "two watchers saw two ends"
    ended: Event = events[-1]["task"]
    return ended


def test_the_command_line_as_the_page_shows_it(place: Desk) -> None:
    play(transcript(PAGE, "A repository from the command line"), place)


def test_grpcurl_as_the_page_shows_it(place: Desk) -> None:
    if shutil.which("grpcurl") is None:
        pytest.skip("grpcurl is not installed: go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3")
    play(transcript(PAGE, "The same with grpcurl"), place)


def test_a_snapshot_is_paged_proved_and_restored(place: Desk, grpcurl: Grpcurl, vault: Path) -> None:
    names, token = [], ""
    while True:
        request = {"backupId": BACKUP, "pageSize": 3, "pageToken": token}
        page = one(grpcurl, "BackupService/ListBackupEntries", request)
        names += [entry["path"] for entry in page["entries"]]
        token = page.get("nextPageToken", "")
        if not token:
            break
    assert names == sorted(path.name for path in (place.folder / "tree").iterdir())

    verified = watched(grpcurl, one(grpcurl, "BackupService/VerifyBackup", {"backupId": BACKUP})["taskId"])
    assert verified["verifyResult"]["backupId"] == BACKUP
    check = one(grpcurl, "RepositoryService/CheckRepository", {"repositoryId": "vault-2", "percent": 50})
    result = watched(grpcurl, check["taskId"])["checkRepositoryResult"]
    assert 50 <= result["percent"] <= 100
    assert "damagedObjects" not in result

    target = place.folder / "restored"
    order = {"backupId": BACKUP, "newFolder": {"folder": str(target)}}
    watched(grpcurl, one(grpcurl, "RestoreService/RestoreBackup", order)["taskId"])
    assert snapshot(target) == snapshot(place.folder / "tree")


def test_what_is_wrong_has_its_reason_in_the_details(place: Desk, grpcurl: Grpcurl, vault: Path) -> None:
    taken = {"repositoryId": "vault-2", "location": str(place.folder / "vault-3"), "createFolder": True}
    wrong: list[tuple[str, Event, str, str]] = [
        ("RepositoryService/GetRepository", {"repositoryId": "ghost"}, "NotFound", "REPOSITORY_NOT_FOUND"),
        ("RepositoryService/CreateRepository", taken, "AlreadyExists", "REPOSITORY_EXISTS"),
        (
            "RepositoryService/CreateRepository",
            {"repositoryId": "vault-3", "location": str(vault / "packs")},
            "AlreadyExists",
            "REPOSITORY_EXISTS",
        ),
        (
            "RepositoryService/CreateRepository",
            {"repositoryId": "vault-3", "location": "vault-3"},
            "InvalidArgument",
            "INVALID_FIELD",
        ),
        (
            "RepositoryService/UnlockRepository",
            {"repositoryId": "vault-2", "credentials": {"passphrase": "no slot has it"}},
            "FailedPrecondition",
            "KEY_WRONG",
        ),
        (
            "RepositoryService/CheckRepository",
            {"repositoryId": "vault-2", "percent": 101},
            "InvalidArgument",
            "INVALID_FIELD",
        ),
        ("RepositoryService/PruneRepository", {"repositoryId": "vault-2"}, "InvalidArgument", "INVALID_FIELD"),
        ("BackupService/ListBackupEntries", {"backupId": BACKUP, "path": "none"}, "NotFound", "ENTRY_NOT_FOUND"),
        ("BackupService/ListBackupEntries", {"backupId": BACKUP, "pageSize": -1}, "InvalidArgument", "INVALID_FIELD"),
        ("BackupService/VerifyBackup", {"backupId": GHOST}, "NotFound", "BACKUP_NOT_FOUND"),
        ("BackupService/DownloadBackup", {"backupId": BACKUP, "offset": "1"}, "FailedPrecondition", "NOT_RESUMABLE"),
        (
            "RestoreService/RestoreBackup",
            {"backupId": BACKUP, "newFolder": {"folder": str(place.folder / "tree")}},
            "FailedPrecondition",
            "FOLDER_NOT_EMPTY",
        ),
    ]
    documented = (REPOSITORY / "docs" / "errors.md").read_text()
    before = snapshot(place.folder)
    for method, request, code, reason in wrong:
        done = call(grpcurl, method, request)
        assert done.returncode != 0, (method, request)
        assert f"  Code: {code}\n" in done.stderr, done.stderr
        details = [json.loads(text) for text in DETAIL.findall(done.stderr)]
        (info,) = [one for one in details if one["@type"].endswith("/google.rpc.ErrorInfo")]
        assert (info["domain"], info["reason"]) == ("holdfast.dev", reason), done.stderr
        assert f"| {reason} |" in documented
        assert info["metadata"]["remedy"] in documented
    assert snapshot(place.folder) == before
