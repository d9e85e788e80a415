"""Wrong backups into repositories: the reason, and that neither disk nor catalog has changed."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from holdfast.v1 import (
    backup_pb2,
    backup_service_pb2,
    export_service_pb2,
    repository_pb2,
    repository_service_pb2,
    restore_service_pb2,
    source_service_pb2,
    task_pb2,
)
from tests.harness import PATIENCE, Server, make_tree, snapshot
from tests.integration.test_errors import refused
from tests.served_repositories import back_up, create_repository, order_snapshot


class Place:
    """A source with a finished backup in a repository."""

    def __init__(self, server: Server, base: Path) -> None:
        self.server, self.base = server, base
        self.source = make_tree(base / "source", 1, files=4)
        self.source_id = self.repository_id = f"s-{uuid.uuid4().hex[:12]}"
        server.register(self.source, self.source_id)
        self.vault = base / "vault"
        create_repository(server, self.repository_id, self.vault)
        done = back_up(server, self.repository_id, self.source_id)
        assert done.state == task_pb2.TASK_STATE_COMPLETED, done.error
        self.backup_id = done.backup_result.backup_ids[0]

    def order(self, **values: Any) -> backup_service_pb2.CreateBackupRequest:
        return order_snapshot(self.repository_id, self.source_id, **values)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        before, rows = snapshot(self.base), self._rows()
        yield
        assert snapshot(self.base) == before
        assert self._rows() == rows

    def _rows(self) -> list[Any]:
        return [self.server.rows(f"SELECT count(*) AS n FROM {table}")[0]["n"] for table in ("tasks", "backups")]


@pytest.fixture
def place(shared_server: Server, tmp_path: Path) -> Place:
    return Place(shared_server, tmp_path)


@pytest.fixture(params=["CreateBackup", "RunBackup"])
def call(place: Place, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Either way to ask for it; they take the same fields."""
    method = getattr(place.server.backups, request.param)
    kind = getattr(backup_service_pb2, f"{request.param}Request")

    def ask(order: backup_service_pb2.CreateBackupRequest, **values: Any) -> Any:
        return method(kind.FromString(order.SerializeToString()), **values)

    return ask


def test_wrong_orders(place: Place, call: Callable[..., Any]) -> None:
    lost = str(uuid.uuid4())
    cases: list[tuple[str, str, backup_service_pb2.CreateBackupRequest]] = [
        ("INVALID_ARGUMENT", "INVALID_FIELD", order_snapshot("", place.source_id)),
        ("NOT_FOUND", "REPOSITORY_NOT_FOUND", order_snapshot("none", place.source_id)),
        ("NOT_FOUND", "REPOSITORY_NOT_FOUND", order_snapshot("../vault", place.source_id)),
        ("NOT_FOUND", "REPOSITORY_NOT_FOUND", order_snapshot("none", place.source_id, dry_run=True)),
        ("NOT_FOUND", "SOURCE_NOT_FOUND", order_snapshot(place.repository_id, "none")),
        ("INVALID_ARGUMENT", "INVALID_FIELD", order_snapshot(place.repository_id)),
        ("INVALID_ARGUMENT", "INVALID_FIELD", place.order(all_wallets=True)),
        ("INVALID_ARGUMENT", "INVALID_FIELD", place.order(backup_id="no uuid")),
        ("INVALID_ARGUMENT", "INVALID_FIELD", place.order(ignore=["a\0b"])),
        ("ALREADY_EXISTS", "BACKUP_EXISTS", place.order(backup_id=place.backup_id)),
        ("ALREADY_EXISTS", "BACKUP_EXISTS", place.order(backup_id=place.backup_id.upper(), dry_run=True)),
        (
            "INVALID_ARGUMENT",
            "INVALID_FIELD",
            order_snapshot(place.repository_id, place.source_id, "b", backup_id=lost),
        ),
    ]
    for code, reason, order in cases:
        with place.unchanged():
            failure = refused(call, order)
        assert (failure.code.name, failure.reason) == (code, reason), order


def test_wrong_maintenance_names_its_field(place: Place, call: Callable[..., Any]) -> None:
    def order(**values: Any) -> backup_service_pb2.CreateBackupRequest:
        made = place.order()
        made.maintenance.CopyFrom(backup_pb2.Maintenance(**values))
        return made

    policy = repository_pb2.RetentionPolicy
    archive = order(compact=True)
    archive.archive.folder, archive.archive.format = str(place.base), backup_pb2.ARCHIVE_FORMAT_ZIP
    dry = order(compact=True)
    dry.dry_run = True
    cases = [
        (order(prune=True), "maintenance.retention"),
        (order(retention=policy(keep_last=1)), "maintenance.prune"),
        (order(prune=True, retention=policy(keep_last=0)), "maintenance.retention.keep_last"),
        (order(prune=True, retention=policy(keep_within=Duration(seconds=-1))), "maintenance.retention.keep_within"),
        (order(check_percent=101), "maintenance.check_percent"),
        (archive, "maintenance"),
        (dry, "maintenance"),
    ]
    for wrong, field in cases:
        with place.unchanged():
            failure = refused(call, wrong)
        assert (failure.reason, failure.metadata["field"]) == ("INVALID_FIELD", field)


def test_wrong_prunes_compactions_and_repairs(place: Place) -> None:
    calls, name = place.server.repositories, place.repository_id
    policy = repository_pb2.RetentionPolicy(keep_last=1)
    prune, compact = repository_service_pb2.PruneRepositoryRequest, repository_service_pb2.CompactRepositoryRequest
    repair = repository_service_pb2.RepairRepositoryRequest
    zero = repository_pb2.RetentionPolicy(keep_within=Duration())
    cases: list[tuple[str, Callable[..., Any], Any]] = [
        ("INVALID_FIELD", calls.PruneRepository, prune(repository_id=name)),
        ("INVALID_FIELD", calls.PruneRepository, prune(repository_id=name, retention=zero)),
        ("INVALID_FIELD", calls.PruneRepository, prune(repository_id=name, retention=policy, source_ids=["a", "a"])),
        ("INVALID_FIELD", calls.PruneRepository, prune(repository_id=name, retention=policy, request_id="x")),
        ("SOURCE_NOT_FOUND", calls.PruneRepository, prune(repository_id=name, retention=policy, source_ids=["none"])),
        ("REPOSITORY_NOT_FOUND", calls.PruneRepository, prune(repository_id="none", retention=policy)),
        ("REPOSITORY_NOT_FOUND", calls.CompactRepository, compact(repository_id="none")),
        ("INVALID_FIELD", calls.RepairRepository, repair(repository_id=name, lost_backup_ids=["x"])),
        (
            "INVALID_FIELD",
            calls.RepairRepository,
            repair(repository_id=name, lost_backup_ids=[str(uuid.uuid4())] * 1001),
        ),
        ("REPOSITORY_NOT_FOUND", calls.RepairRepository, repair()),
    ]
    for reason, method, request in cases:
        with place.unchanged():
            assert refused(method, request).reason == reason, request


def test_nothing_is_written_into_the_folder_of_a_repository(place: Place) -> None:
    server, folder = place.server, place.vault / "packs"
    archive = server.order(place.source_id, folder)
    export = export_service_pb2.ExportBackupRequest(
        backup_id=place.backup_id, folder=str(folder), format=backup_pb2.ARCHIVE_FORMAT_ZIP
    )
    restore = restore_service_pb2.RestoreBackupRequest(backup_id=place.backup_id)
    restore.new_folder.folder = str(place.vault / "new")
    for call, request in (
        (server.backups.CreateBackup, archive),
        (server.exports.ExportBackup, export),
        (server.restores.RestoreBackup, restore),
    ):
        for dry_run in (True, False):
            request.dry_run = dry_run
            with place.unchanged():
                failure = refused(call, request)
            assert failure.name == "FAILED_PRECONDITION/FOLDER_INSIDE_REPOSITORY", request


@pytest.mark.parametrize("inside", ["repository in source", "source in repository", "through a link"])
def test_a_repository_and_its_source_may_not_lie_in_one_another(place: Place, inside: str) -> None:
    name = f"{place.source_id}-2"
    if inside == "source in repository":
        (place.vault / "tree").mkdir()
        place.server.register(place.vault / "tree", name)
    elif inside == "through a link":
        (place.base / "link").symlink_to(place.vault / "packs")
        place.server.register(place.base / "link", name)
    else:
        place.server.register(place.base, name)
    order = order_snapshot(place.repository_id, name, ignore=["vault/"])
    for dry_run in (True, False):
        order.dry_run = dry_run
        with place.unchanged():
            failure = refused(place.server.backups.CreateBackup, order)
        assert (failure.code.name, failure.reason) == ("FAILED_PRECONDITION", "FOLDER_INSIDE_SOURCE")


def test_a_repository_that_is_away(place: Place, call: Callable[..., Any]) -> None:
    place.vault.rename(place.base / "away")
    for order in (place.order(), place.order(dry_run=True)):
        with place.unchanged():
            failure = refused(call, order)
        assert (failure.code.name, failure.reason) == ("UNAVAILABLE", "STORAGE_UNREACHABLE")
        assert failure.metadata["repository_id"] == place.repository_id
    # Something else in its place is no repository either; that it is none is seen in the task.
    place.vault.mkdir()
    before = snapshot(place.vault)
    task = back_up(place.server, place.repository_id, place.source_id)
    assert (task.state, task.error.reason) == (task_pb2.TASK_STATE_FAILED, "STORAGE_UNREACHABLE")
    assert snapshot(place.vault) == before
    request = backup_service_pb2.UpdateBackupRequest(backup_id=place.backup_id, name="new")
    failure = refused(place.server.backups.UpdateBackup, request)
    assert failure.reason == "STORAGE_UNREACHABLE"
    shown = place.server.backups.GetBackup(
        backup_service_pb2.GetBackupRequest(backup_id=place.backup_id), timeout=PATIENCE
    )
    assert shown.name != "new"


def test_a_suspended_or_missing_source(place: Place, call: Callable[..., Any]) -> None:
    place.source.rename(place.base / "gone")
    with place.unchanged():
        assert refused(call, place.order()).reason == "SOURCE_OFFLINE"
    (place.base / "gone").rename(place.source)
    request = source_service_pb2.UpdateSourceRequest(source_id=place.source_id, suspended=True)
    place.server.sources.UpdateSource(request, timeout=PATIENCE)
    with place.unchanged():
        assert refused(call, place.order()).reason == "SOURCE_SUSPENDED"


def test_a_repeated_request_makes_one_backup(place: Place) -> None:
    order = place.order(request_id=str(uuid.uuid4()))
    first = place.server.backups.CreateBackup(order, timeout=PATIENCE)
    place.server.ended(first.task_id)
    with place.unchanged():
        assert place.server.backups.CreateBackup(order, timeout=PATIENCE).task_id == first.task_id
        order.locked = True
        assert refused(place.server.backups.CreateBackup, order).reason == "REQUEST_ID_REUSED"
