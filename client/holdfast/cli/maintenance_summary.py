"""What came of a prune, a compaction or a repair of a repository, for people."""

from __future__ import annotations

from datetime import UTC, datetime

from holdfast.cli.session import Session
from holdfast.errors import HoldfastError
from holdfast.maintenance_models import (
    BackupDamage,
    CompactRepositoryResult,
    PrunePlan,
    PruneRepositoryResult,
    RepairRepositoryResult,
)
from holdfast.models import (
    Task,
)
from holdfast.text import count, local_time, safe, size

__all__ = ["show_compacted", "show_damage", "show_pruned", "show_repaired"]


def show_pruned(session: Session, task: Task, result: PruneRepositoryResult) -> None:
    """The sums; of a dry run the plan of each source before."""
    if task.dry_run:
        for plan in result.plans:
            _show_plan(session, result.repository_id, plan)
    verb = "would remove" if task.dry_run else "removed"
    removed, kept = count(result.backups_removed, "backup"), f"{result.backups_kept:,}"
    session.line(f"repository {safe(result.repository_id)}: {verb} {removed}, {kept} kept")
    if result.packs_rescued:
        session.line(f"  {count(result.packs_rescued, 'pack')} needed again")
    if result.runs_revoked:
        session.line(f"  {count(result.runs_revoked, 'run')} without a sign of life for a day ended")
    _show_freed(session, result.bytes_freed, result.bytes_pending, dry_run=task.dry_run)
    if result.runs_waited_for and not task.dry_run:
        session.line(f"  {count(result.runs_waited_for, 'run')} under way may need them")


def show_compacted(session: Session, task: Task, result: CompactRepositoryResult) -> None:
    verb = "would merge" if task.dry_run else "merged"
    merged = f"{count(result.packs_merged, 'pack')} into {result.packs_written:,}"
    indexes = count(result.indexes_merged, "index object")
    session.line(f"repository {safe(result.repository_id)}: {verb} {merged}, and {indexes}")
    session.line(f"  {count(result.objects_before, 'object')} before, {result.objects_after:,} after")
    _show_freed(session, result.bytes_freed, result.bytes_pending, dry_run=task.dry_run)


def show_repaired(session: Session, task: Task, result: RepairRepositoryResult) -> None:
    would = "would be " if task.dry_run else ""
    mended = result.indexes_rebuilt + result.packs_adopted + result.packs_set_aside + result.runs_ended
    mended += result.backups_given_up
    mended += result.log_mended + result.config_restored
    found = "" if mended or result.damaged_backups else " nothing to repair"
    session.line(f"repository {safe(result.repository_id)}:{found}")
    for number, noun, what in (
        (result.indexes_rebuilt, "index object", "rebuilt"),
        (result.packs_adopted, "pack", "taken into the index again"),
        (result.packs_set_aside, "damaged pack", "set aside"),
        (result.runs_ended, "unreadable run", "ended"),
        (result.backups_given_up, "lost backup", "given up"),
    ):
        if number:
            session.line(f"  {count(number, noun)} {would}{what}")
    if result.config_restored:
        session.line(f"  the config {would or 'was '}put back")
    if result.log_mended:
        session.line(f"  the log {would or 'was '}mended")
    if result.chunks_lost:
        session.line(f"  {count(result.chunks_lost, 'chunk')} lost, until a backup stores them again")
    show_damage(session, result.damaged_backups)


def show_damage(session: Session, damaged: tuple[BackupDamage, ...]) -> None:
    """Which backups have lost what."""
    for one in damaged:
        chunks = count(one.chunks_lost, "chunk")
        files = "" if one.files_lost is None else f", {count(one.files_lost, 'file')}"
        session.line(f"  backup {one.backup_id} has lost {chunks}{files}")
        for path in one.paths:
            session.line(f"    {safe(path)}")


def _show_plan(session: Session, repository_id: str, plan: PrunePlan) -> None:
    session.line(f"{safe(plan.source_id)}: {plan.kept:,} kept, {plan.removed:,} removed")
    made = _made(session, repository_id, plan.source_id)
    rows = [(one, ", ".join(one.rules)) for one in plan.kept_backups]
    rows += [(one, "removed") for one in plan.removed_backups]
    never = datetime.min.replace(tzinfo=UTC)
    rows.sort(key=lambda row: (made.get(row[0].backup_id) or never, row[0].backup_id), reverse=True)
    session.table(
        ["BACKUP", "CREATED", "KEPT BY"],
        [(one.backup_id, local_time(made.get(one.backup_id)), why) for one, why in rows],
    )
    hidden = plan.kept + plan.removed - len(rows)
    if hidden:
        session.line(f"and {hidden:,} more")


def _made(session: Session, repository_id: str, source_id: str) -> dict[str, datetime | None]:
    try:
        found = session.client.backups.list(repository_id=repository_id, source_id=source_id)
        return {one.backup_id: one.create_time for one in found}
    except HoldfastError:
        return {}  # a time that cannot be shown now is no failure of the plan


def _show_freed(session: Session, freed: int, pending: int, *, dry_run: bool) -> None:
    if dry_run:
        session.line(f"  would free {size(freed + pending)}")
        return
    session.line(f"  freed {size(freed)}")
    if pending:
        session.line(f"  {size(pending)} follow with a later prune or compaction")
