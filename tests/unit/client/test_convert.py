"""Models against their messages."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from fake_service import stamp
from google.protobuf.duration_pb2 import Duration

from holdfast import enums, maintenance_models, models, repository_models, wallet_models
from holdfast.convert import RESULTS, from_message, to_event, to_number, to_task, to_timestamp, wire_path
from holdfast.errors import BadConfiguration
from holdfast.plain import to_dict
from holdfast.retention import Maintenance, RetentionPolicy
from holdfast.v1 import (
    backup_pb2,
    export_pb2,
    repository_pb2,
    repository_service_pb2,
    restore_pb2,
    source_pb2,
    source_service_pb2,
    task_pb2,
    wallet_pb2,
    wallet_service_pb2,
)

PAIRS: list[tuple[Any, Any, set[str], set[str]]] = [
    # model, message, fields only in the message, fields only in the model
    (models.Source, source_pb2.Source, set(), set()),
    (models.SkippedFolder, source_pb2.SkippedFolder, set(), set()),
    (models.Unregistered, source_service_pb2.UnregisterSourceResponse, set(), set()),
    (models.Backup, backup_pb2.Backup, set(), set()),
    (models.Entry, backup_pb2.Entry, set(), set()),
    (models.BackupStatistics, backup_pb2.BackupStatistics, set(), set()),
    (models.Verification, backup_pb2.Verification, set(), set()),
    (models.Progress, task_pb2.Progress, set(), set()),
    (models.TaskError, task_pb2.TaskError, set(), set()),
    (models.BlockedBy, task_pb2.BlockedBy, set(), set()),
    (models.Cleanup, task_pb2.Cleanup, set(), set()),
    (models.TaskProblem, task_pb2.TaskProblem, set(), set()),
    (models.SourceOutcome, task_pb2.SourceOutcome, set(), set()),
    (models.BackupResult, task_pb2.BackupResult, set(), set()),
    (maintenance_models.BackupDamage, task_pb2.BackupDamage, set(), set()),
    (maintenance_models.CheckRepositoryResult, task_pb2.CheckRepositoryResult, set(), set()),
    (maintenance_models.PruneRepositoryResult, task_pb2.PruneRepositoryResult, set(), set()),
    (maintenance_models.PrunePlan, task_pb2.PrunePlan, set(), set()),
    (maintenance_models.PruneDecision, task_pb2.PruneDecision, set(), set()),
    (maintenance_models.CompactRepositoryResult, task_pb2.CompactRepositoryResult, set(), set()),
    (maintenance_models.RepairRepositoryResult, task_pb2.RepairRepositoryResult, set(), set()),
    (RetentionPolicy, repository_pb2.RetentionPolicy, set(), set()),
    (Maintenance, backup_pb2.Maintenance, {"prune"}, set()),
    (models.VerifyResult, task_pb2.VerifyResult, set(), set()),
    (models.RestorePlan, restore_pb2.RestorePlan, set(), set()),
    (models.PlannedEntry, restore_pb2.PlannedEntry, set(), set()),
    (models.ExportedFile, export_pb2.ExportedFile, set(), set()),
    (models.ExportCoinsResult, task_pb2.ExportCoinsResult, set(), set()),
    (models.ExportBackupResult, task_pb2.ExportBackupResult, set(), set()),
    (models.LogLine, task_pb2.TaskLogLine, set(), set()),
    # Coins of a restored wallet come with the calls that restore wallets.
    (models.RestoreResult, task_pb2.RestoreResult, {"kept_coins", "suspect_coins"}, set()),
    (models.RestoreArchiveResult, task_pb2.RestoreArchiveResult, set(), set()),
    (models.ArchiveLimits, restore_pb2.ArchiveLimits, set(), set()),
    (wallet_models.CoinTotal, wallet_pb2.CoinTotal, set(), set()),
    (wallet_models.DenominationTotal, wallet_pb2.DenominationTotal, set(), set()),
    (wallet_models.FolderTotal, wallet_pb2.FolderTotal, set(), set()),
    (wallet_models.Balance, wallet_pb2.Balance, set(), set()),
    (wallet_models.Coin, wallet_pb2.Coin, set(), set()),
    (wallet_models.CoinSummary, wallet_pb2.CoinSummary, set(), set()),
    (wallet_models.UnlockedWallet, wallet_service_pb2.UnlockWalletResponse, set(), set()),
    (repository_models.Repository, repository_pb2.Repository, set(), set()),
    (repository_models.RepositoryKey, repository_pb2.RepositoryKey, set(), set()),
    (repository_models.RepositoryStatistics, repository_pb2.RepositoryStatistics, set(), set()),
    (repository_models.RepositoryReceipt, repository_pb2.RepositoryReceipt, set(), set()),
    (repository_models.LogPosition, repository_pb2.LogPosition, set(), set()),
    (repository_models.AddedKey, repository_service_pb2.AddKeyResponse, set(), set()),
    (repository_models.CreatedRepository, repository_service_pb2.CreateRepositoryResponse, set(), set()),
    (models.Event, task_pb2.TaskEvent, {"warning"}, {"problem", "warning_count"}),
]


@pytest.mark.parametrize(
    ("model", "message", "only_wire", "only_model"), PAIRS, ids=lambda v: getattr(v, "__name__", "")
)
def test_a_model_has_the_fields_of_its_message(
    model: Any, message: Any, only_wire: set[str], only_model: set[str]
) -> None:
    wire = {field.name for field in message.DESCRIPTOR.fields}
    ours = {field.name for field in dataclasses.fields(model)}
    assert (wire - ours, ours - wire) == (only_wire, only_model)


def test_a_task_has_the_fields_of_its_message() -> None:
    wire = {f.name for f in task_pb2.Task.DESCRIPTOR.fields if f.containing_oneof is None or f.name[0] == "_"}
    wire |= {
        f.name for f in task_pb2.Task.DESCRIPTOR.fields if f.containing_oneof and f.containing_oneof.name[0] == "_"
    }
    ours = {field.name for field in dataclasses.fields(models.Task)}
    assert ours == wire | {"result"}


@pytest.mark.parametrize("name", [name for name in enums.__all__ if name not in ("END_STATES", "HealthStatus")])
def test_enums_are_the_wires(name: str) -> None:
    wire = "TaskEventKind" if name == "EventKind" else name
    modules = (source_pb2, wallet_pb2, export_pb2, backup_pb2, task_pb2, restore_pb2, repository_pb2)
    wrapper = next(getattr(module, wire) for module in modules if hasattr(module, wire))
    ours = {member.value for member in getattr(enums, name)} - {"UNKNOWN"}
    zero = wrapper.DESCRIPTOR.values_by_number[0].name.removesuffix("UNSPECIFIED")
    assert ours == {value.removeprefix(zero) for value in wrapper.keys()} - {"UNSPECIFIED"}  # noqa: SIM118


def test_unset_is_none_and_set_is_typed() -> None:
    empty = from_message(models.Progress, task_pb2.Progress())
    assert (empty.percent, empty.total_size, empty.eta_low, empty.last_advance_time) == (None, None, None, None)
    full = from_message(
        models.Progress,
        task_pb2.Progress(
            percent=0, total_size=0, eta_low=Duration(seconds=1, nanos=500_000_000), last_advance_time=stamp()
        ),
    )
    assert (full.percent, full.total_size, full.eta_low) == (0.0, 0, timedelta(seconds=1.5))
    assert full.last_advance_time == datetime.fromtimestamp(1_750_000_000, UTC)
    assert full.last_advance_time.tzinfo is UTC
    assert from_message(models.Backup, backup_pb2.Backup()).format is None


def test_a_value_of_a_newer_server_is_unknown() -> None:
    source = source_pb2.Source()
    source.MergeFromString(bytes([0x10, 99]))  # field 2, kind = 99
    assert from_message(models.Source, source).kind is enums.SourceKind.UNKNOWN


def test_results_by_kind() -> None:
    for field, model in RESULTS.items():
        task = task_pb2.Task()
        getattr(task, field).SetInParent()
        assert type(to_task(task).result) is model
    task = task_pb2.Task(rollback_restore_result=task_pb2.RollbackRestoreResult(source_id="w"))
    result = to_task(task).result
    assert isinstance(result, models.OtherResult)
    assert (result.name, result.fields["source_id"]) == ("RollbackRestoreResult", "w")
    assert to_task(task_pb2.Task()).result is None


def test_events_carry_what_belongs_to_their_kind() -> None:
    warning = task_pb2.TaskWarning(problem=task_pb2.TaskProblem(number=2, path="a"), warning_count=2)
    event = to_event(task_pb2.TaskEvent(kind=task_pb2.TASK_EVENT_KIND_WARNING, warning=warning))
    assert event.problem is not None
    assert (event.problem.path, event.warning_count, event.task, event.progress) == ("a", 2, None, None)


def test_to_dict_is_json() -> None:
    import json

    task = to_task(
        task_pb2.Task(
            state=task_pb2.TASK_STATE_RUNNING,
            create_time=stamp(),
            progress=task_pb2.Progress(eta_low=Duration(seconds=2)),
        )
    )
    plain = json.loads(json.dumps(to_dict(task)))
    assert plain["state"] == "RUNNING"
    assert plain["create_time"] == "2025-06-15T15:06:40Z"
    assert plain["progress"]["eta_low"] == 2.0
    assert plain["end_time"] is None


def test_numbers_and_times_for_the_wire() -> None:
    assert to_number(backup_pb2.ArchiveFormat, enums.ArchiveFormat.TAR_GZ) == backup_pb2.ARCHIVE_FORMAT_TAR_GZ
    assert to_number(backup_pb2.ArchiveFormat, None) == 0
    assert to_number(backup_pb2.ArchiveFormat, "tar.gz") == backup_pb2.ARCHIVE_FORMAT_TAR_GZ
    assert to_number(backup_pb2.ArchiveFormat, "tar.zst") == backup_pb2.ARCHIVE_FORMAT_TAR_ZST
    assert to_number(backup_pb2.VerifyLevel, "read-data") == backup_pb2.VERIFY_LEVEL_READ_DATA
    for wrong in ("rar", "UNSPECIFIED", enums.ArchiveFormat.UNKNOWN):
        with pytest.raises(BadConfiguration, match="is no ArchiveFormat"):
            to_number(backup_pb2.ArchiveFormat, wrong)
    east = datetime(2025, 6, 15, 17, 6, 40, tzinfo=timezone(timedelta(hours=2)))
    assert to_timestamp(east) == stamp()


def test_paths_for_the_wire() -> None:
    assert wire_path("/plain/ünïcode") == "/plain/ünïcode"
    assert wire_path(b"/a/\xff\xfe") == r"/a/\xff\xfe"
    assert wire_path("/a/\udcff") == r"/a/\xff"
    assert wire_path("/a/b\\c") == r"/a/b\c"
    assert wire_path("/a/\\xff") == r"/a/\\xff"
    assert wire_path(b"/a/\\\xff") == "/a/\\\\\\xff"
