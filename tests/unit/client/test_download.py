"""Downloads: resumed, checked, and never in place of something else."""

from __future__ import annotations

import hashlib
import io
import os
import random
from pathlib import Path

import pytest
from fake_service import FakeService, FakeTask

import holdfast

CONTENT = random.Random(7).randbytes(12_345)


def offsets(service: FakeService) -> list[int]:
    return [request.offset for name, request in service.calls if name == "DownloadBackup"]


def test_into_a_file(service: FakeService, client: holdfast.Client, tmp_path: Path) -> None:
    backup_id = service.add_backup(CONTENT)
    seen: list[tuple[int, int | None]] = []
    done = client.backups.download(backup_id, tmp_path / "b.zip", on_bytes=lambda *at: seen.append(at))
    assert (tmp_path / "b.zip").read_bytes() == CONTENT
    assert (tmp_path / "b.zip").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["b.zip"]
    assert done.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert (done.size, done.resumed_from, done.file_name) == (len(CONTENT), 0, "default.zip")
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_into_a_folder_under_the_servers_name(service: FakeService, client: holdfast.Client, tmp_path: Path) -> None:
    assert client.backups.download(service.add_backup(CONTENT), tmp_path).path == tmp_path / "default.zip"
    assert (tmp_path / "default.zip").read_bytes() == CONTENT


def test_a_broken_stream_goes_on_at_the_next_byte(
    service: FakeService, client: holdfast.Client, tmp_path: Path
) -> None:
    service.download_breaks = [3000, 3000, 7000]
    client.backups.download(service.add_backup(CONTENT), tmp_path / "b.zip")
    assert (tmp_path / "b.zip").read_bytes() == CONTENT
    assert offsets(service) == [0, 3000, 3000, 7000]


def test_a_partial_file_of_an_earlier_run_is_resumed(
    service: FakeService, client: holdfast.Client, tmp_path: Path
) -> None:
    backup_id = service.add_backup(CONTENT)
    (tmp_path / f"b.zip.{backup_id[:8]}.partial").write_bytes(CONTENT[:5000])
    done = client.backups.download(backup_id, tmp_path / "b.zip")
    assert done.resumed_from == 5000
    assert offsets(service) == [5000]
    assert (tmp_path / "b.zip").read_bytes() == CONTENT


def test_a_partial_file_that_is_too_long_starts_over(
    service: FakeService, client: holdfast.Client, tmp_path: Path
) -> None:
    backup_id = service.add_backup(CONTENT)
    (tmp_path / f"b.zip.{backup_id[:8]}.partial").write_bytes(CONTENT * 2)
    client.backups.download(backup_id, tmp_path / "b.zip")
    assert (tmp_path / "b.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("how", ["digest", "partial"])
def test_a_wrong_digest_leaves_nothing(how: str, service: FakeService, client: holdfast.Client, tmp_path: Path) -> None:
    backup_id = service.add_backup(CONTENT)
    if how == "digest":
        service.digests[backup_id] = "0" * 64
    else:
        (tmp_path / f"b.zip.{backup_id[:8]}.partial").write_bytes(b"x" * 5000)
    with pytest.raises(holdfast.DigestMismatch) as caught:
        client.backups.download(backup_id, tmp_path / "b.zip")
    assert isinstance(caught.value, holdfast.DataLoss)
    assert os.listdir(tmp_path) == []


def test_a_file_is_never_replaced(service: FakeService, client: holdfast.Client, tmp_path: Path) -> None:
    backup_id = service.add_backup(CONTENT)
    (tmp_path / "b.zip").write_bytes(b"precious")
    with pytest.raises(holdfast.TargetExists):
        client.backups.download(backup_id, tmp_path / "b.zip")
    assert service.calls == []

    def race(done: int, size: int | None) -> None:
        if done:
            (tmp_path / "c.zip").write_bytes(b"precious")

    with pytest.raises(holdfast.TargetExists):
        client.backups.download(backup_id, tmp_path / "c.zip", on_bytes=race)
    assert (tmp_path / "b.zip").read_bytes() == (tmp_path / "c.zip").read_bytes() == b"precious"


def test_a_symlink_in_place_of_the_partial_file_is_not_followed(
    service: FakeService, client: holdfast.Client, tmp_path: Path
) -> None:
    backup_id = service.add_backup(CONTENT)
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / f"b.zip.{backup_id[:8]}.partial").symlink_to(tmp_path / "victim")
    with pytest.raises(holdfast.BadConfiguration):
        client.backups.download(backup_id, tmp_path / "b.zip")
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_into_an_open_file(service: FakeService, client: holdfast.Client) -> None:
    service.download_breaks = [4000]
    file = io.BytesIO()
    done = client.backups.download(service.add_backup(CONTENT), file)
    assert file.getvalue() == CONTENT
    assert done.path is None


def test_a_log_is_downloaded_as_text(service: FakeService, client: holdfast.Client, tmp_path: Path) -> None:
    task = service.add_task(FakeTask())
    task.say("one")
    task.say("two")
    client.tasks.download_log(task.task_id, tmp_path)
    assert (tmp_path / "task.log").read_text() == "one\ntwo\n"
