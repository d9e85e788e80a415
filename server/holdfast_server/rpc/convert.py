"""From rows to messages: pure functions, no rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from holdfast.v1 import backup_pb2, export_pb2, restore_pb2, source_pb2, task_pb2, wallet_pb2
from holdfast_server.catalog.rows import (
    BackupRow,
    LogRow,
    ProblemRow,
    SourceRow,
    TaskRow,
    VerificationRow,
)
from holdfast_server.rpc.errors import code_name
from holdfast_server.storage.names import escape
from holdfast_server.tasks.engine import Blocker
from holdfast_server.tasks.watch import Delivery

__all__ = [
    "backup_message",
    "event_message",
    "log_line_message",
    "optional_time",
    "problem_message",
    "source_message",
    "task_message",
    "timestamp",
]

_SHOWN = 100
_PROOFS = 20

_LEVELS = {
    "DEBUG": task_pb2.LOG_LEVEL_DEBUG,
    "INFO": task_pb2.LOG_LEVEL_INFO,
    "WARNING": task_pb2.LOG_LEVEL_WARNING,
    "ERROR": task_pb2.LOG_LEVEL_ERROR,
}


def timestamp(microseconds: int) -> Timestamp:
    message = Timestamp()
    message.FromMicroseconds(microseconds)
    return message


def optional_time(microseconds: int | None) -> Timestamp | None:
    return None if microseconds is None else timestamp(microseconds)


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    message = Duration()
    message.FromNanoseconds(int(seconds * 1e9))
    return message


def source_message(row: SourceRow, latest: tuple[int, int | None] | None = None) -> source_pb2.Source:
    """`latest`: times of the newest completed backup and of the newest proof."""
    return source_pb2.Source(
        source_id=row.source_id,
        kind=f"SOURCE_KIND_{row.kind}",
        display_name=row.display_name,
        path=escape(row.path),
        state=f"SOURCE_STATE_{row.state}",
        ignore=row.ignore,
        create_time=timestamp(row.create_time),
        update_time=timestamp(row.update_time),
        latest_backup_time=optional_time(latest[0]) if latest else None,
        latest_proved_time=optional_time(latest[1]) if latest else None,
    )


def task_message(
    task: TaskRow | Mapping[str, Any], blockers: Sequence[Blocker] = (), position: int | None = None
) -> task_pb2.Task:
    """A task from its row, or from the snapshot that a STATE event keeps."""
    t = task.snapshot() if isinstance(task, TaskRow) else task
    message = task_pb2.Task(
        task_id=t["task_id"],
        kind=f"TASK_KIND_{t['kind']}",
        state=f"TASK_STATE_{t['state']}",
        origin=f"TASK_ORIGIN_{t['origin']}",
        source_ids=t["source_ids"][:_SHOWN],
        source_count=t["source_count"],
        create_time=timestamp(t["create_time"]),
        start_time=optional_time(t["start_time"]),
        end_time=optional_time(t["end_time"]),
        attempt=t["attempt"],
        progress=progress_message(t["progress"]) if t["progress"] else None,
        message=t["message"],
        error=_error_message(t["error"]) if t["error"] else None,
        warning_count=t["warning_count"],
        log_lines=t["log_lines"],
        blocked_by=[task_pb2.BlockedBy(resource=b.resource, task_id=b.task_id) for b in blockers[:_SHOWN]],
        queue_position=position,
        cleanup=task_pb2.Cleanup(**t["cleanup"]) if t["cleanup"] else None,
        maintenance_state=f"MAINTENANCE_STATE_{t.get('maintenance_state', 'NONE')}",
        cancel_requested=t["cancel_requested"],
        revision=t["revision"],
        dry_run=t["dry_run"],
    )
    if t["result"]:
        _put_result(message, t["kind"], t["result"])
    return message


def _put_result(message: task_pb2.Task, kind: str, result: Mapping[str, Any]) -> None:
    if kind == "BACKUP":
        outcomes = [_source_outcome(one) for one in result["sources"]]
        values = {k: v for k, v in result.items() if k != "sources"}
        message.backup_result.CopyFrom(task_pb2.BackupResult(**values, sources=outcomes))
    elif kind == "VERIFY":
        level = f"VERIFY_LEVEL_{result['level']}"
        message.verify_result.CopyFrom(task_pb2.VerifyResult(**{**result, "level": level}))
    elif kind == "CHECK_REPOSITORY":
        damage = [task_pb2.BackupDamage(**one) for one in result["damaged_backups"]]
        values = {**result, "level": f"VERIFY_LEVEL_{result['level']}", "damaged_backups": damage}
        message.check_repository_result.CopyFrom(task_pb2.CheckRepositoryResult(**values))
    elif kind == "PRUNE_REPOSITORY":
        plans = [_prune_plan(one) for one in result["plans"]]
        message.prune_repository_result.CopyFrom(task_pb2.PruneRepositoryResult(**{**result, "plans": plans}))
    elif kind == "COMPACT_REPOSITORY":
        message.compact_repository_result.CopyFrom(task_pb2.CompactRepositoryResult(**result))
    elif kind == "REPAIR_REPOSITORY":
        damage = [task_pb2.BackupDamage(**one) for one in result["damaged_backups"]]
        values = {**result, "damaged_backups": damage}
        message.repair_repository_result.CopyFrom(task_pb2.RepairRepositoryResult(**values))
    elif kind == "RESTORE":
        plan = restore_pb2.RestorePlan(**result["plan"])
        values = {**result, "plan": plan, "restored_coins": _coin_summary(result.get("restored_coins"))}
        message.restore_result.CopyFrom(task_pb2.RestoreResult(**values))
    elif kind == "RESTORE_ARCHIVE":
        archive_format = f"ARCHIVE_FORMAT_{result['format']}"
        values = {**result, "format": archive_format, "restored_coins": _coin_summary(result.get("restored_coins"))}
        message.restore_archive_result.CopyFrom(task_pb2.RestoreArchiveResult(**values))
    elif kind == "EXPORT_BACKUP":
        file = export_pb2.ExportedFile(**result["file"]) if "file" in result else None
        message.export_backup_result.CopyFrom(task_pb2.ExportBackupResult(**{**result, "file": file}))
    elif kind == "EXPORT_COINS":
        message.export_coins_result.CopyFrom(_export_coins_result(result))
    elif kind == "IMPORT_COINS":
        totals = {name: wallet_pb2.CoinTotal(**result[name]) for name in ("imported", "duplicates")}
        message.import_coins_result.CopyFrom(task_pb2.ImportCoinsResult(**{**result, **totals}))


def _prune_plan(record: Mapping[str, Any]) -> task_pb2.PrunePlan:
    decisions = {
        name: [task_pb2.PruneDecision(**one) for one in record[name]] for name in ("kept_backups", "removed_backups")
    }
    return task_pb2.PrunePlan(**{**record, **decisions})


def _export_coins_result(result: Mapping[str, Any]) -> task_pb2.ExportCoinsResult:
    files = [
        export_pb2.ExportedFile(**{**file, "generation": f"COIN_GENERATION_{file['generation']}"})
        for file in result["files"]
    ]
    denominations = [wallet_pb2.DenominationTotal(**one) for one in result["denominations"]]
    return task_pb2.ExportCoinsResult(**{**result, "files": files, "denominations": denominations})


def _coin_summary(record: Mapping[str, Any] | None) -> wallet_pb2.CoinSummary | None:
    if record is None:
        return None
    coins = [
        wallet_pb2.Coin(**{**one, "generation": f"COIN_GENERATION_{one['generation']}"}) for one in record["coins"]
    ]
    return wallet_pb2.CoinSummary(total=wallet_pb2.CoinTotal(**record["total"]), coins=coins)


def _source_outcome(record: Mapping[str, Any]) -> task_pb2.SourceOutcome:
    error = _error_message(record["error"]) if record["error"] else None
    return task_pb2.SourceOutcome(**{**record, "error": error})


def _error_message(record: Mapping[str, Any]) -> task_pb2.TaskError:
    return task_pb2.TaskError(
        code=code_name(record["type"]),
        reason=record["reason"],
        message=record["message"],
        remedy=record["remedy"],
        metadata=record["metadata"],
    )


def progress_message(p: Mapping[str, Any]) -> task_pb2.Progress:
    return task_pb2.Progress(
        percent=p.get("percent"),
        phase=p.get("phase", ""),
        original_size=p.get("original_size", 0),
        compressed_size=p.get("compressed_size", 0),
        deduplicated_size=p.get("deduplicated_size", 0),
        files=p.get("files", 0),
        total_size=p.get("total_size"),
        total_files=p.get("total_files"),
        totals_estimated=p.get("totals_estimated", True),
        current_file=p.get("current_file", ""),
        bytes_per_second=p.get("bytes_per_second", 0),
        eta_low=_duration(p.get("eta_low")),
        eta_high=_duration(p.get("eta_high")),
        last_advance_time=optional_time(p.get("last_advance_time")),
    )


def problem_message(p: ProblemRow | Mapping[str, Any]) -> task_pb2.TaskProblem:
    values = p.values() if isinstance(p, ProblemRow) else dict(p)
    values.pop("task_id")
    return task_pb2.TaskProblem(**{**values, "time": timestamp(values["time"])})


def event_message(delivery: Delivery) -> task_pb2.TaskEvent:
    kind = f"TASK_EVENT_KIND_{delivery.kind}"
    event = task_pb2.TaskEvent(
        task_id=delivery.task_id,
        sequence=delivery.sequence,
        skipped=delivery.skipped,
        time=timestamp(delivery.time),
        kind=kind,
    )
    if delivery.kind in ("STATE", "RESET"):
        event.task.CopyFrom(task_message(delivery.payload))
    elif delivery.kind == "PROGRESS":
        event.progress.CopyFrom(progress_message(delivery.payload))
    elif delivery.kind == "WARNING":
        problem = problem_message(delivery.payload["problem"])
        event.warning.CopyFrom(task_pb2.TaskWarning(problem=problem, warning_count=delivery.payload["warning_count"]))
    return event


def log_line_message(row: LogRow) -> task_pb2.TaskLogLine:
    return task_pb2.TaskLogLine(
        line_number=row.line_number, time=timestamp(row.time), level=_LEVELS[row.level], text=row.text
    )


def log_line_text(row: LogRow) -> str:
    """The line as the downloaded text has it, line end included."""
    time = datetime.fromtimestamp(row.time / 1e6, UTC).isoformat(timespec="milliseconds")
    return f"{time.replace('+00:00', 'Z')} {row.level:<7} {row.text}\n"


def backup_message(row: BackupRow, verifications: Sequence[VerificationRow] = ()) -> backup_pb2.Backup:
    return backup_pb2.Backup(
        backup_id=row.backup_id,
        name=row.name,
        source_id=row.source_id,
        kind=f"BACKUP_KIND_{row.kind}",
        state=f"BACKUP_STATE_{row.state}",
        size=row.size,
        sha256=row.sha256 or "",
        locked=row.locked,
        ignore=row.ignore,
        storage_path=escape(row.storage_path),
        create_time=timestamp(row.create_time),
        complete_time=optional_time(row.complete_time),
        update_time=timestamp(row.update_time),
        statistics=_statistics_message(row.statistics) if row.statistics else None,
        verifications=[_verification_message(one) for one in reversed(verifications[-_PROOFS:])],
        task_id=row.task_id,
        complete=bool(row.complete),
        format=f"ARCHIVE_FORMAT_{row.format}" if row.format else None,
        repository_id=row.repository_id or "",
        sealed=row.sealed,
        delete_time=optional_time(row.delete_time),
        purge_time=optional_time(row.purge_time),
    )


def _statistics_message(s: Mapping[str, Any]) -> backup_pb2.BackupStatistics:
    wallet = s["wallet"]
    return backup_pb2.BackupStatistics(
        files=s["files"],
        directories=s["directories"],
        symlinks=s["symlinks"],
        hardlinks=s["hardlinks"],
        original_size=s["original_size"],
        stored_size=s["stored_size"],
        files_skipped=s["files_skipped"],
        files_ignored=s["files_ignored"],
        coins=wallet["coins_backed_up"],
        files_added_plaintext=wallet["files_added_plaintext"],
        files_added_multi_coin=wallet["files_added_multi_coin"],
        files_reencrypted=wallet["files_reencrypted"],
        warnings=s["warnings"],
        duration=_duration(s["duration"]),
    )


def _verification_message(row: VerificationRow) -> backup_pb2.Verification:
    return backup_pb2.Verification(
        time=timestamp(row.time),
        level=f"VERIFY_LEVEL_{row.level}",
        ok=row.ok,
        files_checked=row.files_checked,
        bytes_checked=row.bytes_checked,
        percent=100.0,
        message=row.message,
        task_id=row.task_id,
    )
