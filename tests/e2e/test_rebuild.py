"""The data directory is lost: backups are found again from their folder alone, listed, verified and restored."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.v1 import backup_pb2, source_pb2, source_service_pb2, task_pb2
from holdfast.v1 import backup_service_pb2 as calls
from tests.harness import REPOSITORY, Server, make_tree, snapshot

COMPLETED = task_pb2.TASK_STATE_COMPLETED


def rebuild(server: Server, *arguments: str | Path) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of `holdfast-server rebuild-catalog`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")}
    environment |= {"PYTHONPATH": f"{REPOSITORY / 'client'}:{REPOSITORY / 'server'}", "HOME": str(server.base)}
    command = [sys.executable, "-m", "holdfast_server", "rebuild-catalog", "--data-dir", str(server.data_dir)]
    done = subprocess.run(
        [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.long
def test_a_lost_catalog_is_rebuilt(new_server: Callable[..., Server], tmp_path: Path) -> None:
    server = new_server()
    trees = {name: make_tree(tmp_path / name, number) for number, name in enumerate(("photos", "mail"))}
    folder = tmp_path / "archives"
    folder.mkdir()
    made: dict[str, backup_pb2.Backup] = {}
    for name, tree in trees.items():
        server.register(tree, name)
        for tar in (False, True):
            one = server.backup_of(server.backup(name, folder, tar=tar))
            made[one.backup_id] = one

    status, out, err = rebuild(server, "--folder", folder)
    assert (status, out) == (2, "")
    assert "in use by another server" in err

    server.stop()
    shutil.rmtree(server.data_dir)
    before = snapshot(folder)
    status, out, _ = rebuild(server, "--folder", folder, "--dry-run")
    assert (status, "4 would be added" in out) == (0, True)
    status, out, err = rebuild(server, "--folder", folder)
    assert status == 0, err
    assert out.splitlines()[-2:] == [
        "give these sources their folders with UpdateSource: mail, photos",
        "4 added, 0 known, 0 skipped, 0 missing",
    ]
    (folder / "stranger.zip").write_bytes(b"PK\3\4")
    status, out, _ = rebuild(server, "--folder", folder)
    assert (status, "0 added, 4 known, 1 skipped, 0 missing" in out) == (3, True)
    (folder / "stranger.zip").unlink()
    assert snapshot(folder)[b""][:2] == before[b""][:2]
    assert {k: v for k, v in snapshot(folder).items() if k} == {k: v for k, v in before.items() if k}

    server.start()
    found = {one.backup_id: one for one in server.backups.ListBackups(calls.ListBackupsRequest()).backups}
    assert set(found) == set(made)
    for backup_id, old in made.items():
        new = found[backup_id]
        for field in ("name", "source_id", "state", "size", "sha256", "storage_path", "create_time", "format",
                      "complete", "kind"):  # fmt: skip
            assert getattr(new, field) == getattr(old, field), field
        assert not new.statistics.HasField("duration")
        assert new.statistics.files == old.statistics.files
        assert server.verify(backup_id).state == COMPLETED
        target = tmp_path / f"back-{backup_id}"
        assert server.restore(backup_id, target).state == COMPLETED
        assert snapshot(target) == snapshot(trees[old.source_id])

    source = server.sources.GetSource(source_service_pb2.GetSourceRequest(source_id="photos"))
    assert (source.state, source.path) == (source_pb2.SOURCE_STATE_OFFLINE, "")
    request = source_service_pb2.UpdateSourceRequest(source_id="photos", path=str(trees["photos"]))
    assert server.sources.UpdateSource(request).state == source_pb2.SOURCE_STATE_ACTIVE
    assert server.backup("photos", folder).state == COMPLETED


@pytest.mark.parametrize(
    ("arguments", "told"),
    [((), "--folder"), (("--folder", "/no/such/folder"), "does not exist"), (("--folder", "/etc/passwd"), "directory")],
)
def test_wrong_usage_is_2_and_makes_nothing(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    server = Server(tmp_path / "server")
    status, out, err = rebuild(server, *arguments)
    assert (status, out, told in err) == (2, "", True)
    assert not (server.data_dir / "state.sqlite").exists()
