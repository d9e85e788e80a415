"""Unary calls: what is sent, what comes back, and which failures are repeated."""

from __future__ import annotations

import threading
import uuid

import pytest
from fake_service import TOKEN, FakeServer, FakeService, FakeTask

import holdfast
from holdfast_server import errors as theirs


def busy() -> theirs.HoldfastError:
    return theirs.Unavailable(theirs.Reason.CATALOG_BUSY, "busy", retry_after=0.01)


def test_register_get_list_update(service: FakeService, client: holdfast.Client) -> None:
    for name in ("a", "b", "c"):
        made = client.sources.register(f"/data/{name}", kind=holdfast.SourceKind.WALLET, ignore=["*.tmp"])
        assert (made.source_id, made.kind, made.ignore) == (name, holdfast.SourceKind.WALLET, ("*.tmp",))
    assert client.sources.get("b").path == "/data/b"
    assert [source.source_id for source in client.sources.list(page_size=1)] == ["a", "b", "c"]
    assert [name for name, _ in service.calls].count("ListSources") == 3
    assert client.sources.suspend("b").state is holdfast.SourceState.SUSPENDED
    assert client.sources.resume("b").state is holdfast.SourceState.ACTIVE
    assert client.sources.update("b", display_name="B").display_name == "B"
    request = service.calls[-1][1]
    assert not request.HasField("suspended")
    assert not request.HasField("path")
    assert client.sources.unregister("b").backups_kept == 2
    found = client.sources.discover_wallets("/data/w")
    assert [folder.reason for folder in found.skipped] == ["NOT_A_WALLET"]


def test_a_create_call_has_a_fresh_request_id_and_keeps_it_over_repeats(
    service: FakeService, client: holdfast.Client
) -> None:
    service.failures = [busy(), theirs.Unavailable(theirs.Reason.SHUTTING_DOWN, "down"), None]
    client.backups.create(["a"], folder="/srv", format=holdfast.ArchiveFormat.ZIP)
    client.backups.create(["a"], folder="/srv", format=holdfast.ArchiveFormat.ZIP)
    ids = [request.request_id for _, request in service.calls]
    assert len(ids) == 4
    assert len(set(ids[:3])) == 1
    assert ids[3] != ids[0]
    assert uuid.UUID(ids[0]).version == 4
    assert len(service.tasks) == 2


def test_create_survives_a_restart_of_the_server(
    service: FakeService, server: FakeServer, client: holdfast.Client
) -> None:
    assert list(client.sources.list()) == []
    server.stop()
    back = threading.Timer(0.4, server.start)
    back.start()
    handle = client.backups.create(["a"], folder="/srv", format=holdfast.ArchiveFormat.TAR_GZ)
    back.join()
    assert handle.task.state is holdfast.TaskState.PENDING


@pytest.mark.parametrize("reason", [theirs.Reason.SOURCE_OFFLINE, theirs.Reason.STORAGE_UNREACHABLE])
def test_what_does_not_pass_by_itself_is_not_repeated(
    reason: theirs.Reason, service: FakeService, client: holdfast.Client
) -> None:
    service.failures = [theirs.Unavailable(reason, "gone")]
    with pytest.raises(holdfast.Unavailable):
        client.sources.get("a")
    assert len(service.calls) == 1


def test_repeats_end_with_the_timeout(service: FakeService, server: FakeServer) -> None:
    service.failures = [busy() for _ in range(1000)]
    with (
        holdfast.connect(server.address, token=TOKEN, timeout=0.5) as client,
        pytest.raises(holdfast.Unavailable) as caught,
    ):
        client.sources.get("a")
    assert caught.value.reason == "CATALOG_BUSY"
    assert 2 <= len(service.calls) < 30


def test_a_lost_create_names_its_request_id(server: FakeServer) -> None:
    server.stop()
    with holdfast.connect(server.address, token=TOKEN, connect_timeout=0.2) as client:
        mine = str(uuid.uuid4())
        with pytest.raises(holdfast.ConnectionFailed) as caught:
            client.backups.create(["a"], folder="/srv", format=holdfast.ArchiveFormat.ZIP, request_id=mine)
    assert caught.value.metadata["request_id"] == mine


def test_backup_request_carries_every_option(service: FakeService, client: holdfast.Client) -> None:
    client.backups.create(
        ["a", "b"],
        folder=b"/srv/\xff".decode("utf-8", "surrogateescape"),
        format=holdfast.ArchiveFormat.ZIP,
        tag="t",
        create_folder=True,
        name="n",
        backup_id="id",
        ignore=["*.log"],
        locked=True,
        on_source_error=holdfast.OnSourceError.FAIL,
        dry_run=True,
        request_id="r",
    )
    request = service.calls[0][1]
    assert request.archive.folder == r"/srv/\xff"
    assert (request.archive.tag, request.archive.create_folder, request.locked, request.dry_run) == (
        "t",
        True,
        True,
        True,
    )
    assert (list(request.source_ids), list(request.ignore)) == (["a", "b"], ["*.log"])
    assert (request.name, request.backup_id, request.request_id, request.on_source_error) == ("n", "id", "r", 1)


def test_health_needs_no_token(server: FakeServer, tmp_path: object) -> None:
    with holdfast.connect(server.address, data_dir=str(tmp_path)) as client:
        health = client.health()
    assert health.status is holdfast.HealthStatus.SERVING
    assert health.services["BackupService"] is holdfast.HealthStatus.SERVING
    assert health.services["AccessService"] is holdfast.HealthStatus.SERVICE_UNKNOWN


def test_lists_of_tasks_and_problems(service: FakeService, client: holdfast.Client) -> None:
    task = service.add_task(FakeTask())
    task.warn("a")
    task.warn("b")
    assert [one.task_id for one in client.tasks.list(states=[holdfast.TaskState.RUNNING])] == [task.task_id]
    assert [problem.path for problem in client.tasks.problems(task.task_id)] == ["a", "b"]
    assert client.tasks.get(task.task_id).task.warning_count == 2
    with pytest.raises(holdfast.NotFound) as caught:
        client.tasks.get("nope")
    assert caught.value.metadata == {"task_id": "nope"}


def test_a_closed_client_says_so(client: holdfast.Client) -> None:
    client.close()
    client.close()
    with pytest.raises(holdfast.BadConfiguration, match="closed"):
        client.sources.get("a")


def test_credentials_are_sent_and_never_shown(service: FakeService, client: holdfast.Client) -> None:
    credentials = holdfast.Credentials(age_identity="AGE-SECRET-KEY-1CANARY")
    client.backups.verify("b", credentials=credentials)
    ((_, request),) = [call for call in service.calls if call[0] == "VerifyBackup"]
    assert request.credentials.age_identity == "AGE-SECRET-KEY-1CANARY"
    assert "CANARY" not in f"{credentials} {credentials!r} {[credentials]}"
    for values in ({}, {"passphrase": "CANARY", "age_identity": "CANARY"}):
        with pytest.raises(holdfast.BadConfiguration) as caught:
            holdfast.Credentials(**values)
        assert "CANARY" not in str(caught.value)
