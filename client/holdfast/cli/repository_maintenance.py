"""`holdfast repository prune`, `compact` and `repair`: repositories kept small and whole."""

from __future__ import annotations

import click

from holdfast.cli.repository_key import repository_key_options
from holdfast.cli.retention import retention_options
from holdfast.cli.session import Command, Session, pass_session
from holdfast.cli.watching import start, task_options
from holdfast.credentials import Credentials
from holdfast.retention import RetentionPolicy

__all__ = ["compact", "prune", "repair"]


@click.command(
    cls=Command,
    epilog="\b\nExamples:\n"
    "  holdfast repository prune main --keep-last 3 --keep-daily 7 --keep-weekly 5 --dry-run\n"
    "  holdfast repository prune main --keep-within 30d --source photos\n"
    "  holdfast repository prune main",
)
@click.argument("name")
@retention_options
@click.option("--source", "source_ids", multiple=True, metavar="SOURCE_ID", help="Only its backups; repeat for more.")
@click.option("--dry-run", is_flag=True, help="Only show what would be kept and removed, and why.")
@task_options
@pass_session
def prune(
    session: Session,
    name: str,
    retention: RetentionPolicy | None,
    source_ids: tuple[str, ...],
    dry_run: bool,
    detach: bool,
    request_id: str | None,
) -> int:
    """Remove backups of the repository NAME that no rule keeps, and free what nothing needs any more.

    The rules count for each source by itself; a backup stays if one of them keeps it. Locked backups and those in use
    are never removed. Removed backups do not go through the trash. Without any rule no backup is removed. Backups and
    restores go on meanwhile: what they may need is freed by a later prune.
    """
    return start(
        session,
        lambda request: session.client.repositories.prune(
            name, retention or RetentionPolicy(), source_ids=source_ids, dry_run=dry_run, request_id=request
        ),
        request_id,
        detach=detach,
    )


@click.command(cls=Command)
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Only tell what would be merged and freed.")
@task_options
@pass_session
def compact(session: Session, name: str, dry_run: bool, detach: bool, request_id: str | None) -> int:
    """Merge small packs and index objects of the repository NAME, and free what is unused in packs that are needed.

    Nothing is decrypted, and no key is needed. Backups and restores go on meanwhile.
    """
    return start(
        session,
        lambda request: session.client.repositories.compact(name, dry_run=dry_run, request_id=request),
        request_id,
        detach=detach,
    )


@click.command(cls=Command)
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Only tell what would be rebuilt and set aside.")
@click.option(
    "--give-up",
    "lost",
    multiple=True,
    metavar="BACKUP_ID",
    help="Give up a backup that the catalog does not know and whose snapshot is gone for good; repeatable.",
)
@repository_key_options
@task_options
@pass_session
def repair(
    session: Session,
    name: str,
    dry_run: bool,
    lost: tuple[str, ...],
    repository_key: Credentials | None,
    detach: bool,
    request_id: str | None,
) -> int:
    """Rebuild what can be rebuilt of the repository NAME, and set damaged packs aside.

    The next backup of a source stores again what it still has of what was lost. A key of a sealed repository is not
    needed; with it lost files are counted, too.
    """
    return start(
        session,
        lambda request: session.client.repositories.repair(
            name, dry_run=dry_run, credentials=repository_key, lost_backup_ids=lost, request_id=request
        ),
        request_id,
        detach=detach,
    )
