"""Prunes, compactions, repairs and maintenance after a backup, over a running server and the command line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

import holdfast
from holdfast import Maintenance, MaintenanceState, RetentionPolicy, TaskState
from holdfast.v1 import repository_pb2, task_pb2
from tests.e2e import test_repository_checks as checks
from tests.e2e.test_repository_checks import PASSPHRASE, READ_DATA, Checked
from tests.harness import Server, until
from tests.served_repositories import snapshot_ids


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("maintenance")) as server:
        until(lambda: server.rows("SELECT owner FROM workers"), "a worker")
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[holdfast.Client]:
    with holdfast.connect(server.address, token=server.token) as client:
        yield client


def cli(server: Server, *arguments: str) -> tuple[int, str]:
    return checks.cli(server, "--no-progress", *arguments)


def stored(made: Checked) -> int:
    return sum(path.stat().st_size for path in made.folder.rglob("*") if path.is_file())


def change(made: Checked) -> None:
    (made.source / "inner" / f"{made.mark}-0").write_bytes(os.urandom(1_200_000))


def assert_whole(made: Checked, backups: int, **secret: str) -> None:
    task = made.check(READ_DATA, **secret)
    assert task.state == task_pb2.TASK_STATE_COMPLETED, task
    assert task.check_repository_result.backups_checked == backups


def test_a_prune_shows_its_plan_and_frees_space(server: Server, client: holdfast.Client, tmp_path: Path) -> None:
    made = Checked(server, tmp_path, "pruned")
    for _ in range(2):
        change(made)
        made.backups.append(made.back_up())
    client.backups.update(made.backups[1], locked=True)
    before = stored(made)

    code, text = cli(server, "repository", "prune", "pruned", "--keep-last", "1", "--dry-run")
    assert code == 0
    lines = text.splitlines()
    assert lines[0] == "pruned: 2 kept, 2 removed"
    assert [line.split()[0] for line in lines[2:6]] == made.backups[::-1]
    assert [line.rsplit(None, 1)[1] for line in lines[2:6]] == ["last", "removed", "locked", "removed"]
    assert "would remove 2 backups, 2 kept" in text
    assert stored(made) == before

    result = client.repositories.prune("pruned", RetentionPolicy(keep_last=1), source_ids=["pruned"]).result()
    assert isinstance(result, holdfast.PruneRepositoryResult)
    assert (result.backups_kept, result.backups_removed, result.bytes_pending) == (2, 2, 0)
    assert result.bytes_freed > 1_000_000
    assert stored(made) < before - 1_000_000
    assert snapshot_ids(server, "pruned") == {made.backups[1], made.backups[3]}
    assert [one.backup_id for one in client.backups.list(repository_id="pruned")] == [made.backups[3], made.backups[1]]
    assert made.show().statistics.unused_size < 1_000
    assert_whole(made, 2)

    code, text = cli(server, "repository", "prune", "pruned", "--keep-within", "30d")
    assert (code, text.splitlines()[0]) == (0, "repository pruned: removed 0 backups, 2 kept")
    handle = client.repositories.prune("pruned", RetentionPolicy(keep_within=timedelta(days=1)), dry_run=True)
    assert handle.result().plans[0].kept_backups[0].rules == ("within",)


def test_a_compaction_merges_what_is_small(server: Server, client: holdfast.Client, tmp_path: Path) -> None:
    made = Checked(server, tmp_path, "small", sealed=True, backups=0)
    names = [f"small-{number}" for number in range(8)]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(os.urandom(40_000))
        server.register(tmp_path / name, name)
    client.backups.create(names, repository_id="small").result()
    code, text = cli(server, "repository", "compact", "small", "--dry-run")
    assert code == 0
    assert "would merge" in text
    packs = len(list((made.folder / "packs").iterdir()))
    result = client.repositories.compact("small").result()
    assert isinstance(result, holdfast.CompactRepositoryResult)
    assert result.packs_merged > result.packs_written > 0
    assert result.objects_after < result.objects_before
    assert len(list((made.folder / "packs").iterdir())) == packs - result.packs_merged + result.packs_written
    assert_whole(made, 8, passphrase=PASSPHRASE)
    code, text = cli(server, "repository", "compact", "small")
    assert (code, "merged 0 packs into 0" in text) == (0, True)


@pytest.mark.parametrize("sealed", [False, True], ids=["open", "sealed"])
def test_a_repair_and_a_backup_heal_what_the_source_still_has(
    server: Server, client: holdfast.Client, tmp_path: Path, sealed: bool
) -> None:
    made = Checked(server, tmp_path, f"mended-{sealed:d}", sealed=sealed, backups=1)
    secret = {"passphrase": PASSPHRASE} if sealed else {}
    assert cli(server, "repository", "repair", made.name)[1] == f"repository {made.name}: nothing to repair\n"
    made.flip(made.data_pack(), 100)
    assert made.check(**secret).state == task_pb2.TASK_STATE_FAILED

    dry = client.repositories.repair(made.name, dry_run=True).result()
    assert (dry.packs_set_aside, len(dry.damaged_backups)) == (1, 1)
    credentials = holdfast.Credentials(passphrase=PASSPHRASE) if sealed else None
    handle = client.repositories.repair(made.name, credentials=credentials)
    result = handle.result()
    assert isinstance(result, holdfast.RepairRepositoryResult)
    assert handle.refresh().state is TaskState.COMPLETED_WITH_WARNINGS
    assert (result.packs_set_aside, result.chunks_lost, result.log_mended) == (1, 1, False)
    [lost] = result.damaged_backups
    assert (lost.backup_id, lost.files_lost, lost.chunks_lost) == (made.backups[0], 1, 1)
    assert len(lost.paths) == (0 if sealed else 1)
    assert made.show().state == repository_pb2.REPOSITORY_STATE_DAMAGED

    made.back_up()
    code, text = cli(server, "repository", "prune", made.name)
    assert (code, "removed 0 backups" in text) == (0, True)
    assert_whole(made, 2, **secret)
    assert made.show().state == repository_pb2.REPOSITORY_STATE_READY


@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_a_lost_config_is_put_back(server: Server, client: holdfast.Client, tmp_path: Path, harm: str) -> None:
    made = Checked(server, tmp_path, f"headless-{harm}", backups=1)
    config = made.folder / "config"
    whole = config.read_bytes()
    config.write_bytes(whole[:50]) if harm == "damaged" else config.unlink()
    assert made.show().state != repository_pb2.REPOSITORY_STATE_READY
    code, text = cli(server, "repository", "repair", made.name, "--dry-run")
    assert (code, text) == (0, f"repository {made.name}:\n  the config would be put back\n")
    assert not config.exists() or config.read_bytes() == whole[:50]
    result = client.repositories.repair(made.name).result()
    assert isinstance(result, holdfast.RepairRepositoryResult)
    assert result.config_restored
    assert config.read_bytes() == whole
    assert_whole(made, 1)
    assert made.show().state == repository_pb2.REPOSITORY_STATE_READY


def test_a_folder_that_is_not_the_repository_gets_no_config(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As when a disk is not mounted."""
    made = Checked(server, tmp_path, "unmounted", backups=1)
    made.folder.rename(tmp_path / "elsewhere")
    made.folder.mkdir()
    code, text = cli(server, "repository", "repair", made.name)
    assert code != 0
    assert "STORAGE_UNREACHABLE" in text + capsys.readouterr().err
    assert not [*made.folder.iterdir()]


def test_maintenance_after_a_backup_is_watched(server: Server, client: holdfast.Client, tmp_path: Path) -> None:
    made = Checked(server, tmp_path, "kept")
    change(made)
    asked = Maintenance(retention=RetentionPolicy(keep_last=2), compact=True, check_percent=100)
    handle = client.backups.create(["kept"], repository_id="kept", maintenance=asked)
    states = [event.task.maintenance_state for event in handle.watch() if event.task is not None]
    assert states[-5:] == [
        MaintenanceState.PRUNING,
        MaintenanceState.COMPACTING,
        MaintenanceState.CHECKING,
        MaintenanceState.COMPLETED,
        MaintenanceState.COMPLETED,
    ]
    assert snapshot_ids(server, "kept") == {made.backups[1], *handle.result().backup_ids}
    assert made.show().HasField("last_check_time")

    arguments = ("--repository", "kept", "--keep-last", "1", "--compact", "--check-percent", "5")
    code, text = cli(server, "backup", "create", "kept", *arguments)
    assert code == 0
    assert "maintenance of the repository: completed" in text
    assert len(snapshot_ids(server, "kept")) == 1

    made.flip(made.data_pack(), 100)
    code, text = cli(server, "backup", "create", "kept", "--repository", "kept", "--check-percent", "100")
    assert "maintenance of the repository: failed" in text
    assert len(snapshot_ids(server, "kept")) == 2


def test_the_command_line_refuses_what_makes_no_sense(server: Server, tmp_path: Path) -> None:
    made = Checked(server, tmp_path, "asked", backups=0)
    for arguments in (
        ("repository", "prune", made.name, "--keep-last", "0"),
        ("repository", "prune", made.name, "--keep-within", "soon"),
        ("repository", "prune", made.name, "--keep-within", "0d"),
        ("backup", "create", made.name, "--to", str(tmp_path), "--format", "zip", "--keep-last", "1"),
        ("backup", "create", made.name, "--repository", made.name, "--check-percent", "101"),
    ):
        assert cli(server, *arguments)[0] == 2, arguments
