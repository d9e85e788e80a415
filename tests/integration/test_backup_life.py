"""Backups over the wire: ids of the caller's own, locks, the trash."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.v1 import backup_pb2, task_pb2
from holdfast.v1 import backup_service_pb2 as calls
from holdfast.v1 import restore_service_pb2 as restore_calls
from tests.harness import ENDED, PATIENCE, Server, snapshot, until
from tests.integration.test_errors import Place, order, refused

COMPLETED = task_pb2.TASK_STATE_COMPLETED


@pytest.fixture
def place(shared_server: Server, tmp_path: Path) -> Place:
    return Place(shared_server, tmp_path)


def listed(place: Place, **values: Any) -> list[str]:
    request = calls.ListBackupsRequest(source_id=place.source_id, **values)
    return [one.backup_id for one in place.server.backups.ListBackups(request, timeout=PATIENCE).backups]


def test_an_id_and_a_lock_of_the_callers_own(place: Place) -> None:
    server, wanted = place.server, str(uuid.uuid4())
    again = str(uuid.uuid4())
    request = order(place, backup_id=wanted.upper(), locked=True, request_id=again)
    task = server.ended(server.backups.CreateBackup(request).task_id)
    made = server.backup_of(task)
    assert (made.backup_id, made.locked, made.state) == (wanted, True, backup_pb2.BACKUP_STATE_COMPLETED)
    repeated = server.backups.CreateBackup(order(place, backup_id=wanted, locked=True, request_id=again))
    assert repeated.task_id == task.task_id, "the same request, however the id is spelt"

    fresh = place.base / "fresh"
    with place.unchanged():
        for dry_run in (False, True):
            taken = order(place, backup_id=wanted, dry_run=dry_run, archive__folder=str(fresh))
            taken.archive.create_folder = True
            failure = refused(server.backups.CreateBackup, taken)
            assert (failure.name, failure.metadata["backup_id"]) == ("ALREADY_EXISTS/BACKUP_EXISTS", wanted)
        assert refused(server.backups.DeleteBackup, calls.DeleteBackupRequest(backup_id=wanted)).name == (
            "FAILED_PRECONDITION/BACKUP_LOCKED"
        )
    server.backups.UpdateBackup(calls.UpdateBackupRequest(backup_id=wanted, locked=False))
    server.backups.DeleteBackup(calls.DeleteBackupRequest(backup_id=wanted))
    assert refused(server.backups.CreateBackup, order(place, backup_id=wanted)).reason == "BACKUP_EXISTS"

    other = str(uuid.uuid4())
    dry = server.ended(server.backups.CreateBackup(order(place, backup_id=other, dry_run=True)).task_id)
    assert dry.state == COMPLETED
    assert server.ended(server.backups.CreateBackup(order(place, backup_id=other)).task_id).state == COMPLETED


def test_the_trash(place: Place) -> None:
    server = place.server
    before = snapshot(place.folder, times=False)
    deleted = server.backups.DeleteBackup(calls.DeleteBackupRequest(backup_id=place.backup_id))
    assert deleted.HasField("delete_time")
    assert deleted.purge_time.seconds - deleted.delete_time.seconds == 86_400
    (name,) = os.listdir(place.folder)
    assert name.startswith(f".holdfast-trash-{place.backup_id}-")
    assert deleted.storage_path == str(place.folder / name)
    shown = server.backups.GetBackup(calls.GetBackupRequest(backup_id=place.backup_id))
    assert shown == deleted == server.backups.DeleteBackup(calls.DeleteBackupRequest(backup_id=place.backup_id))
    assert (listed(place), listed(place, show_deleted=True)) == ([], [place.backup_id])

    restore = restore_calls.RestoreBackupRequest(backup_id=place.backup_id)
    restore.new_folder.folder = str(place.base / "back")
    with place.unchanged():
        for call, request in (
            (server.backups.UpdateBackup, calls.UpdateBackupRequest(backup_id=place.backup_id, locked=True)),
            (server.backups.VerifyBackup, calls.VerifyBackupRequest(backup_id=place.backup_id)),
            (server.backups.DownloadBackup, calls.DownloadBackupRequest(backup_id=place.backup_id)),
            (server.restores.RestoreBackup, restore),
        ):
            failure = refused(call, request)
            assert (failure.name, "in the trash" in failure.text) == ("NOT_FOUND/BACKUP_NOT_FOUND", True)

    back = server.backups.UndeleteBackup(calls.UndeleteBackupRequest(backup_id=place.backup_id))
    assert not back.HasField("delete_time")
    assert snapshot(place.folder, times=False) == before
    assert listed(place) == [place.backup_id]
    assert server.verify(place.backup_id).state == COMPLETED


def test_a_backup_in_progress_is_renamed_and_locked_and_stays_so(
    new_server: Callable[..., Server], tmp_path: Path
) -> None:
    place = Place(new_server(), tmp_path)
    server = place.server
    with server.frozen_worker():
        task = server.create(place.source_id, place.folder)
        backup_id = server.rows("SELECT backup_id FROM backups WHERE task_id = ?", task.task_id)[0]["backup_id"]
        named = server.backups.UpdateBackup(calls.UpdateBackupRequest(backup_id=backup_id, name="kept", locked=True))
        assert named.state == backup_pb2.BACKUP_STATE_IN_PROGRESS
        server.backups.UpdateBackup(calls.UpdateBackupRequest(backup_id=place.backup_id, locked=False))
        failure = refused(server.backups.DeleteBackup, calls.DeleteBackupRequest(backup_id=backup_id))
        assert failure.reason == "BACKUP_LOCKED"
        server.backups.UpdateBackup(calls.UpdateBackupRequest(backup_id=backup_id, locked=False))
        failure = refused(server.backups.DeleteBackup, calls.DeleteBackupRequest(backup_id=backup_id))
        assert failure.name == "ABORTED/BACKUP_BUSY"
        server.backups.UpdateBackup(calls.UpdateBackupRequest(backup_id=backup_id, locked=True))
        verify = server.backups.VerifyBackup(calls.VerifyBackupRequest(backup_id=place.backup_id))
        failure = refused(server.backups.DeleteBackup, calls.DeleteBackupRequest(backup_id=place.backup_id))
        assert (failure.name, failure.metadata["task_id"]) == ("ABORTED/BACKUP_BUSY", verify.task_id)
    made = server.backup_of(server.ended(task.task_id))
    assert (made.name, made.locked, made.state) == ("kept", True, backup_pb2.BACKUP_STATE_COMPLETED)


@pytest.mark.long
def test_the_edge_may_die_at_any_moment_of_a_deletion(new_server: Callable[..., Server], tmp_path: Path) -> None:
    """Kills while backups are deleted and taken back at full speed: in the end each is wholly in one place."""
    place = Place(new_server(), tmp_path)
    server = place.server
    ids = [place.backup_id] + [server.backup_of(server.backup(place.source_id, place.folder)).backup_id for _ in "12"]
    for _ in range(2):
        futures = []
        for number in range(30):
            act, request = (
                (server.backups.DeleteBackup, calls.DeleteBackupRequest)
                if number % 2 == 0
                else (server.backups.UndeleteBackup, calls.UndeleteBackupRequest)
            )
            futures += [act.future(request(backup_id=one), timeout=PATIENCE) for one in ids]
        until(lambda done=futures: done[len(done) // 3].done(), "some of the calls")
        server.signal("edge")
        for future in futures:
            future.exception()
        server.wait_ready()
    server.stop()
    server.start()

    def agree() -> bool:
        rows = server.rows("SELECT file_name, trash_name FROM backups")
        return {os.fsdecode(row["trash_name"] or row["file_name"]) for row in rows} == set(os.listdir(place.folder))

    until(agree, "the repair at the start")
    for one in ids:
        server.backups.UndeleteBackup(calls.UndeleteBackupRequest(backup_id=one))
        assert server.verify(one).state in ENDED
        assert server.verify(one).state == COMPLETED


def test_without_a_trash_a_deletion_is_for_good(new_server: Callable[..., Server], tmp_path: Path) -> None:
    server = new_server(environment={"HOLDFAST_BACKUPS_TRASH_HOURS": "0"})
    place = Place(server, tmp_path)
    os.rename(place.folder, place.base / "away")
    failure = refused(server.backups.DeleteBackup, calls.DeleteBackupRequest(backup_id=place.backup_id))
    assert failure.name == "UNAVAILABLE/STORAGE_UNREACHABLE"
    os.rename(place.base / "away", place.folder)
    server.backups.DeleteBackup(calls.DeleteBackupRequest(backup_id=place.backup_id))
    assert os.listdir(place.folder) == []
    assert refused(server.backups.GetBackup, calls.GetBackupRequest(backup_id=place.backup_id)).code.name == "NOT_FOUND"
