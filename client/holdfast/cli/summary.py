"""What came of a task, for people: printed at its end, and by `holdfast task get`."""

from __future__ import annotations

from holdfast.cli.maintenance_summary import show_compacted, show_damage, show_pruned, show_repaired
from holdfast.cli.session import Session
from holdfast.enums import MaintenanceState, TaskKind, TaskState
from holdfast.errors import HoldfastError, Reason
from holdfast.maintenance_models import (
    CheckRepositoryResult,
    CompactRepositoryResult,
    PruneRepositoryResult,
    RepairRepositoryResult,
)
from holdfast.models import (
    BackupResult,
    ExportBackupResult,
    ExportCoinsResult,
    ImportCoinsResult,
    OtherResult,
    RestoreArchiveResult,
    RestoreResult,
    SourceOutcome,
    Task,
    TaskError,
    VerifyResult,
)
from holdfast.plain import to_dict
from holdfast.text import amount, count, percent, safe, size

__all__ = ["summarise", "write_task_error"]

_STORED = {TaskState.COMPLETED, TaskState.COMPLETED_WITH_WARNINGS}


def summarise(session: Session, task: Task) -> None:
    """Print the result of an ended task: what was made and where, what failed and why, and where to look for more."""
    session.emit("task", task)
    if session.json:
        return
    if isinstance(task.result, BackupResult):
        _backup(session, task, task.result)
    elif isinstance(task.result, RestoreResult):
        _restore(session, task, task.result)
    elif isinstance(task.result, RestoreArchiveResult):
        _archive(session, task, task.result)
    elif isinstance(task.result, VerifyResult):
        _verify(session, task.result)
    elif isinstance(task.result, CheckRepositoryResult):
        _check(session, task.result)
    elif isinstance(task.result, PruneRepositoryResult):
        show_pruned(session, task, task.result)
    elif isinstance(task.result, CompactRepositoryResult):
        show_compacted(session, task, task.result)
    elif isinstance(task.result, RepairRepositoryResult):
        show_repaired(session, task, task.result)
    elif isinstance(task.result, ExportBackupResult):
        _export(session, task, task.result)
    elif isinstance(task.result, ExportCoinsResult):
        _exported_coins(session, task, task.result)
    elif isinstance(task.result, ImportCoinsResult):
        _import(session, task, task.result)
    elif isinstance(task.result, OtherResult):
        session.record((name, str(to_dict(value))) for name, value in task.result.fields.items())
    if task.cleanup is not None:
        for path in task.cleanup.left_behind:
            session.line(f"left behind: {safe(path)}")
    if task.warning_count:
        listing = session.command("task", "problems", task.task_id)
        session.line(f"{count(task.warning_count, 'warning')}; list them: {listing}")
    if task.state is TaskState.FAILED and task.error is not None:
        write_task_error(session, task.error)
        session.note(f"log: {session.command('task', 'log', task.task_id)}")
        if task.error.reason == Reason.EXPORT_UNPUBLISHED:
            session.note(f"then finish it: {session.command('task', 'resume', task.task_id)}")


def write_task_error(session: Session, error: TaskError) -> None:
    """Why a task failed, in the form of every error."""
    session.note(f"error: {safe(error.message)} ({error.reason})")
    if error.remedy:
        session.note(f"remedy: {safe(error.remedy)}")


def _backup(session: Session, task: Task, result: BackupResult) -> None:
    digests = _digests(session, task)
    for outcome in result.sources:
        for line in _outcome(outcome, digests.get(outcome.backup_id or "", ""), task.dry_run):
            session.line(line)
    if result.sources_failed:
        session.line(f"{count(result.sources_failed, 'source')} failed")
    if result.files_skipped:
        session.line(f"{count(result.files_skipped, 'file')} could not be backed up")
    if task.source_count > 1:
        sizes = f"{size(result.original_size)} -> {size(result.stored_size)}"
        # `sources` holds at most 100; a sum over a part of them would not be the whole.
        files = sum(outcome.files for outcome in result.sources)
        counted = f"{count(files, 'file')}, " if len(result.sources) == task.source_count else ""
        session.line(f"together: {counted}{sizes}")
    if result.coins_backed_up:
        wallets = count(result.wallets_processed, "wallet")
        session.line(f"{wallets}, {count(result.coins_backed_up, 'coin file')} among them")
    if task.maintenance_state is not MaintenanceState.NONE:
        session.line(f"maintenance of the repository: {task.maintenance_state.lower()}")


def _outcome(outcome: SourceOutcome, sha256: str, dry_run: bool) -> list[str]:
    name = safe(outcome.source_id)
    if not outcome.ok:
        error = outcome.error
        if error is None:
            return [f"{name}: no backup was made"]
        remedy = [f"  remedy: {safe(error.remedy)}"] if error.remedy else []
        return [f"{name}: failed: {safe(error.message)} ({error.reason})", *remedy]
    files = count(outcome.files, "file")
    if dry_run:
        return [f"{name}: would store {files}, {size(outcome.original_size)}"]
    ratio = percent(outcome.stored_size, outcome.original_size)
    lines = [
        f"{name}: {safe(outcome.output_file) or 'a snapshot'}",
        f"  {files}, {size(outcome.original_size)} -> {size(outcome.stored_size)} ({ratio})",
    ]
    if sha256:
        lines.append(f"  sha256 {sha256}")
    if outcome.backup_id:
        lines.append(f"  backup {outcome.backup_id}")
    return lines


def _digests(session: Session, task: Task) -> dict[str, str]:
    if task.dry_run or task.kind is not TaskKind.BACKUP:
        return {}
    try:
        return {backup.backup_id: backup.sha256 for backup in session.client.backups.list(task_id=task.task_id)}
    except HoldfastError:
        # The backups are made; a digest that cannot be shown now is no failure of theirs.
        return {}


def _restore(session: Session, task: Task, result: RestoreResult) -> None:
    if task.dry_run:
        plan = result.plan
        if plan is not None:
            needed = size(plan.bytes_needed)
            session.line(
                f"would create {plan.create:,}, replace {plan.replace:,}, delete {plan.delete:,} "
                f"and keep {plan.keep:,} entries; needs {needed}"
            )
        for entry in result.planned_entries:
            session.line(f"  {entry.action.lower()} {safe(entry.path)}")
        return
    if task.state not in _STORED:
        return
    session.line(f"restored into {safe(result.folder)}")
    session.line(f"  {_entries(result)}, {size(result.restored_size)}")
    session.line(f"  {count(result.files_verified, 'file')} hashed again and equal to the backup")
    _coins(session, result)


def _archive(session: Session, task: Task, result: RestoreArchiveResult) -> None:
    if task.state not in _STORED:
        return
    kind = (result.format or "tar").lower().replace("_", ".") + (", sealed with age" if result.sealed else "")
    session.line(f"would restore from a {kind} archive" if task.dry_run else f"restored into {safe(result.folder)}")
    session.line(f"  {_entries(result)}, {size(result.restored_size)}")
    if result.has_manifest:
        session.line(f"  {count(result.files_verified, 'file')} hashed again and equal to the archive's manifest")
    else:
        checked = "its own checksums only" if result.has_checksums else "no checksums at all"
        session.line(f"  the archive has no manifest: {checked} to compare with")
    _coins(session, result)
    if result.entries_skipped:
        session.line(f"  {count(result.entries_skipped, 'special entry', 'special entries')} left out")


def _coins(session: Session, result: RestoreResult | RestoreArchiveResult) -> None:
    if result.files_decrypted:
        session.line(f"  {count(result.files_decrypted, 'file')} decrypted")
    if result.files_encrypted:
        session.line(f"  coins stay encrypted: the backup holds {count(result.files_encrypted, 'such file')} (.hfcc)")
    if result.restored_coins is not None:
        total = result.restored_coins.total
        session.line(f"  {count(total.coins, 'coin')} counted again, together {amount(total.amount)}")
    if result.source_id:
        session.line(f"  registered as wallet {safe(result.source_id)}")


def _export(session: Session, task: Task, result: ExportBackupResult) -> None:
    holds = f"{_entries(result)}, {size(result.original_size)}"
    if result.file is None:
        session.line(f"would export {holds}")
    elif task.state in _STORED:
        session.line(safe(result.file.path))
        session.line(f"  {holds} -> {size(result.file.size)} ({percent(result.file.size, result.original_size)})")
        session.line(f"  sha256 {result.file.sha256}")
    if not result.complete:
        session.line("  not complete: the backup misses something, or the format cannot hold it")


def _exported_coins(session: Session, task: Task, result: ExportCoinsResult) -> None:
    if task.dry_run:
        session.line(f"would export {amount(result.amount)}, {count(result.coins, 'coin')}")
    elif task.state in _STORED:
        session.line(f"exported {amount(result.amount)}, {count(result.coins, 'coin')}")
    if result.coins_fracked:
        session.line(f"  {count(result.coins_fracked, 'coin')} of Fracked among them")
    for one in result.denominations:
        session.line(f"  {one.coins:,} x {amount(one.denomination)}")
    for file in result.files:
        session.line(safe(file.path))
        held = f"{amount(file.amount)} in {count(file.coins, 'coin')}"
        session.line(f"  {held}" if task.dry_run else f"  {held}, {size(file.size)}, sha256 {file.sha256}")
    if result.file_count > len(result.files):
        session.line(f"and {result.file_count - len(result.files):,} more files")
    if result.receipt_path:
        session.line(f"receipt {safe(result.receipt_path)} in the wallet")


def _import(session: Session, task: Task, result: ImportCoinsResult) -> None:
    if task.state not in _STORED:
        return
    verb = "would take" if task.dry_run else "took"
    new = count(result.imported.coins, "coin")
    session.line(
        f"{verb} {new}, {amount(result.imported.amount)}, into {safe(result.folder)} of {safe(result.source_id)}"
    )
    if result.duplicates.coins:
        held = count(result.duplicates.coins, "coin")
        session.line(f"  {held}, {amount(result.duplicates.amount)}, that the wallet held already")
    for number, what in (
        (result.files_moved, "to Imported"),
        (result.files_duplicate, "to Duplicates"),
        (result.files_corrupted, "to Corrupted: no coin can be read in it"),
        (result.files_encrypted, "encrypted, and left where it was"),
    ):
        if number:
            session.line(f"  {count(number, 'file')} {what}")
    for path in result.problem_files:
        session.line(f"    {safe(path)}")


def _entries(result: RestoreResult | RestoreArchiveResult | ExportBackupResult) -> str:
    parts = [
        count(result.files, "file"),
        count(result.directories, "directory", "directories"),
        count(result.symlinks, "symlink"),
        count(result.hardlinks, "hard link"),
    ]
    return ", ".join(part for part in parts if not part.startswith("0 ")) or "nothing"


def _verify(session: Session, result: VerifyResult) -> None:
    level = result.level.lower().replace("_", "-")
    checked = f"{count(result.files_checked, 'file')}, {size(result.bytes_checked)}"
    session.line(f"backup {result.backup_id}: checked {checked} at level {level}")
    if result.sealed_hash_only:
        session.line("  only the stored hash was checked; without an identity nothing was opened")
    if result.sha256:
        session.line(f"  sha256 {result.sha256}")
    if result.damaged_count:
        # Of a sealed repository, and where the snapshot itself is lost, there are no names.
        ends = ":" if result.damaged_files else ""
        session.line(f"  {count(result.damaged_count, 'file')} cannot be restored{ends}")
        for path in result.damaged_files:
            session.line(f"    {safe(path)}")


def _check(session: Session, result: CheckRepositoryResult) -> None:
    level = result.level.lower().replace("_", "-")
    parts = [
        count(result.objects_checked, "object"),
        count(result.packs_checked, "pack"),
        count(result.backups_checked, "backup"),
    ]
    share = f", {result.percent:.0f} % of the packs" if 0 < result.percent < 100 else ""
    read = f"{', '.join(parts)}, {size(result.bytes_checked)} read"
    session.line(f"repository {safe(result.repository_id)}: checked {read} at level {level}{share}")
    for name in result.damaged_objects:
        session.line(f"  damaged: {safe(name)}")
    show_damage(session, result.damaged_backups)
