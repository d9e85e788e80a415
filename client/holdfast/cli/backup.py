"""`holdfast backup ...`: make, list, prove, fetch, lock and delete backups."""

from __future__ import annotations

import itertools
import sys

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from holdfast.cli.backup_entries import list_entries
from holdfast.cli.identity import identity_option
from holdfast.cli.level import LEVELS, level_option
from holdfast.cli.recipients import all_recipients, recipient_options
from holdfast.cli.repository_key import repository_key_options
from holdfast.cli.retention import maintenance_options
from holdfast.cli.session import Command, Session, pass_session
from holdfast.cli.watching import start, task_options
from holdfast.credentials import Credentials
from holdfast.download import Download
from holdfast.enums import ArchiveFormat, OnSourceError
from holdfast.models import Backup, BackupStatistics
from holdfast.retention import Maintenance
from holdfast.text import count, local_time, percent, safe, size

__all__ = ["backup", "write_download"]

_FORMATS = {"zip": ArchiveFormat.ZIP, "tar.gz": ArchiveFormat.TAR_GZ, "tar.zst": ArchiveFormat.TAR_ZST}


@click.group()
def backup() -> None:
    """Make, list, look into, prove, fetch, lock and delete backups."""


backup.add_command(list_entries)


@backup.command(
    cls=Command,
    epilog="\b\nExamples:\n"
    "  holdfast backup create default --repository main\n"
    "  holdfast backup create default --repository main --keep-daily 7 --keep-weekly 5 --check-percent 5\n"
    "  holdfast backup create default --to /backups --format zip --tag nightly\n"
    "  holdfast backup create --all-wallets --to /backups --format tar.zst --create-folder\n"
    "  holdfast backup create default --to /backups --format tar.zst --recipient age1...\n"
    "  holdfast backup create minecraft --to /backups --format zip --ignore '*.log' --dry-run",
)
@click.argument("source_ids", nargs=-1, metavar="[SOURCE_ID]...")
@click.option("--repository", "repository_id", metavar="REPOSITORY_ID", help="Make snapshots in this repository.")
@click.option("--to", "folder", metavar="FOLDER", help="Make archives in this folder of the server.")
@click.option("--format", "archive_format", type=click.Choice(list(_FORMATS)), help="Kind of archive; with --to.")
@recipient_options
@click.option("--all-wallets", is_flag=True, help="Every active wallet, instead of named sources.")
@click.option("--tag", default="", help="Part of the archive's name: letters, digits, `.`, `_` and `-`.")
@click.option("--name", default="", help="Name of the backup for people; only with one source.")
@click.option("--backup-id", metavar="UUID", help="Id for the backup; only with one source. [default: a new one]")
@click.option("--locked", is_flag=True, help="Refuse its deletion until `backup unlock`.")
@click.option("--ignore", multiple=True, metavar="PATTERN", help="Leave these out too (gitignore syntax).")
@click.option(
    "--on-source-error",
    type=click.Choice(["warn", "fail"]),
    help="What an unreadable file does: a warning, or the end of that backup. [default: warn]",
)
@click.option("--create-folder", is_flag=True, help="Create FOLDER if it is missing.")
@maintenance_options
@click.option("--dry-run", is_flag=True, help="Only tell what would be stored; write nothing.")
@task_options
@pass_session
def create(
    session: Session,
    source_ids: tuple[str, ...],
    repository_id: str | None,
    folder: str | None,
    archive_format: str | None,
    recipients: tuple[str, ...],
    recipients_files: tuple[str, ...],
    all_wallets: bool,
    tag: str,
    name: str,
    backup_id: str | None,
    locked: bool,
    ignore: tuple[str, ...],
    on_source_error: str | None,
    create_folder: bool,
    maintenance: Maintenance | None,
    dry_run: bool,
    detach: bool,
    request_id: str | None,
) -> int:
    """Back up each SOURCE_ID into a snapshot in a repository, or into a verified archive of its own, and watch it.

    With recipients each archive is sealed with age: only their identities open it, and nobody can recover a lost one.

    With any --keep-..., other backups of the same sources in that repository are removed afterwards and what nothing
    needs is freed; --compact and --check-percent follow. What fails of this is a warning: the backup is made.

    Ctrl-C detaches from the watch; the backup goes on. A relative FOLDER is taken from here if the server is on this
    machine.
    """
    if bool(source_ids) == all_wallets:
        raise click.UsageError("name the sources, or use --all-wallets")
    if repository_id is not None and (folder is not None or archive_format is not None):
        raise click.UsageError("--repository and --to or --format exclude each other")
    if repository_id is None and folder is None:
        raise click.UsageError("say where to: --repository, or --to and --format")
    if (folder is None) != (archive_format is None):
        raise click.UsageError("--to and --format go together")
    sealed_to = all_recipients(recipients, recipients_files)
    if repository_id is None and maintenance is not None:
        raise click.UsageError("--keep-..., --compact and --check-percent are for repositories")
    if repository_id is not None and (tag or create_folder or sealed_to):
        raise click.UsageError("--tag, --create-folder and recipients are for archives")
    where = None if folder is None else session.server_path(folder)
    return start(
        session,
        lambda request: session.client.backups.create(
            source_ids,
            repository_id=repository_id,
            folder=where,
            format=None if archive_format is None else _FORMATS[archive_format],
            all_wallets=all_wallets,
            tag=tag,
            create_folder=create_folder,
            age_recipients=sealed_to,
            name=name,
            backup_id=backup_id,
            locked=locked,
            ignore=ignore,
            on_source_error=None if on_source_error is None else OnSourceError[on_source_error.upper()],
            maintenance=maintenance,
            dry_run=dry_run,
            request_id=request,
        ),
        request_id,
        detach=detach,
    )


@backup.command("list", cls=Command)
@click.option("--source", "source_id", default="", metavar="SOURCE_ID", help="Only backups of this source.")
@click.option("--task", "task_id", default="", metavar="TASK_ID", help="Only backups made by this task.")
@click.option("--repository", "repository_id", default="", metavar="REPOSITORY_ID", help="Only snapshots of this one.")
@click.option("--deleted", is_flag=True, help="Also those in the trash.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(min=0), help="At most so many; 0: all.")
@pass_session
def list_backups(session: Session, source_id: str, task_id: str, repository_id: str, deleted: bool, limit: int) -> int:
    """List backups, newest first."""
    matching = session.client.backups.list(
        source_id=source_id, task_id=task_id, repository_id=repository_id, show_deleted=deleted
    )
    found = list(itertools.islice(matching, limit + 1 if limit else None))
    shown = found[:limit] if limit else found
    for one in shown:
        session.emit("backup", one)
    rows = [
        (one.backup_id, one.source_id, _state(one), size(one.size), local_time(one.create_time), _place(one))
        for one in shown
    ]
    session.table(["ID", "SOURCE", "STATE", "SIZE", "MADE", "WHERE"], rows)
    if len(found) > len(shown):
        session.note("there are more; use --limit 0 to see all")
    return 0


@backup.command(cls=Command)
@click.argument("backup_id")
@pass_session
def get(session: Session, backup_id: str) -> int:
    """Show one backup and its proofs."""
    return _told(session, session.client.backups.get(backup_id))


@backup.command(cls=Command, epilog="\b\nExample:\n  holdfast backup rename BACKUP_ID 'before the upgrade'")
@click.argument("backup_id")
@click.argument("name")
@pass_session
def rename(session: Session, backup_id: str, name: str) -> int:
    """Give a backup another name for people. Its archive keeps its file name."""
    return _told(session, session.client.backups.update(backup_id, name=name))


@backup.command(cls=Command)
@click.argument("backup_id")
@pass_session
def lock(session: Session, backup_id: str) -> int:
    """Refuse the deletion of a backup until `unlock`."""
    return _told(session, session.client.backups.update(backup_id, locked=True))


@backup.command(cls=Command)
@click.argument("backup_id")
@pass_session
def unlock(session: Session, backup_id: str) -> int:
    """Allow the deletion of a locked backup again."""
    return _told(session, session.client.backups.update(backup_id, locked=False))


@backup.command(cls=Command)
@click.argument("backup_id")
@pass_session
def delete(session: Session, backup_id: str) -> int:
    """Move a backup and its archive to the trash.

    `undelete` takes it back until the time shown as `purged from`; after that it is removed for good.
    """
    return _told(session, session.client.backups.delete(backup_id))


@backup.command(cls=Command)
@click.argument("backup_id")
@pass_session
def undelete(session: Session, backup_id: str) -> int:
    """Take a backup back out of the trash."""
    return _told(session, session.client.backups.undelete(backup_id))


@backup.command(cls=Command)
@click.argument("backup_id")
@level_option
@identity_option
@repository_key_options
@task_options
@pass_session
def verify(
    session: Session,
    backup_id: str,
    level: str | None,
    credentials: Credentials | None,
    repository_key: Credentials | None,
    detach: bool,
    request_id: str | None,
) -> int:
    """Prove that a backup can be read.

    A sealed archive is opened with --identity; without it only the hash of the sealed file is checked. A backup in a
    sealed repository is read with one of --passphrase, --passphrase-file, --key-file and --recovery-key, or while the
    repository is unlocked; the other levels need none of them.
    """
    if credentials is not None and repository_key is not None:
        raise click.UsageError(
            "--identity opens archives, and --passphrase and its like repositories: give one of them"
        )
    secret = credentials or repository_key
    depth = None if level is None else LEVELS[level]
    return start(
        session,
        lambda request: session.client.backups.verify(backup_id, depth, credentials=secret, request_id=request),
        request_id,
        detach=detach,
    )


@backup.command(
    cls=Command,
    epilog="\b\nExamples:\n"
    "  holdfast backup download BACKUP_ID -o /mnt/usb\n"
    "  holdfast backup download BACKUP_ID -o - | ssh elsewhere 'cat > copy.zip'\n"
    "  holdfast backup download SNAPSHOT_ID --format tar.zst --passphrase",
)
@click.argument("backup_id")
@click.option("-o", "--output", metavar="PATH", help="File or folder; `-` is stdout. [default: this folder]")
@click.option(
    "--format", "archive_format", type=click.Choice(list(_FORMATS)),
    help="Kind of archive that a snapshot is made into; with snapshots only. [default: tar.gz]",
)  # fmt: skip
@repository_key_options
@pass_session
def download(
    session: Session,
    backup_id: str,
    output: str | None,
    archive_format: str | None,
    repository_key: Credentials | None,
) -> int:
    """Fetch a backup as one file, checked against its SHA-256: a stored archive as it is, a snapshot as an archive that
    is made on the way.

    What an interruption leaves is a .partial file, which the same command resumes; for a snapshot it starts over. A
    file that exists is never replaced.
    """
    kind = None if archive_format is None else _FORMATS[archive_format]
    if output == "-":
        if session.json:
            raise click.UsageError("--json and -o - both want stdout")
        session.client.backups.download(backup_id, sys.stdout.buffer, format=kind, credentials=repository_key)
        return 0
    with _bar(session) as bar:
        row = bar.add_task("download", total=None)
        done = session.client.backups.download(
            backup_id,
            output,
            format=kind,
            credentials=repository_key,
            on_bytes=lambda got, whole: bar.update(row, completed=got, total=whole),
        )
    write_download(session, done)
    return 0


def _told(session: Session, one: Backup) -> int:
    session.emit("backup", one)
    _show(session, one)
    return 0


def write_download(session: Session, done: Download) -> None:
    """Say what was fetched, and where it is."""
    fields = {"path": str(done.path), "size": done.size, "sha256": done.sha256, "resumed_from": done.resumed_from}
    session.emit("download", fields)
    session.line(f"{safe(str(done.path))}")
    resumed = f", {size(done.resumed_from)} of it were there already" if done.resumed_from else ""
    session.line(f"  {size(done.size)}{resumed}")
    session.line(f"  sha256 {done.sha256}")


def _bar(session: Session) -> Progress:
    visible = session.progress and not session.json and sys.stdout.isatty()
    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(highlight=False), transient=True, disable=not visible)


def _show(session: Session, one: Backup) -> None:
    pairs = [
        ("id", one.backup_id),
        ("name", one.name),
        ("source", one.source_id),
        ("state", _state(one)),
        ("deleted", local_time(one.delete_time)),
        ("purged from", local_time(one.purge_time)),
        ("complete", "yes" if one.complete else "no"),
        ("archive", one.storage_path),
        ("repository", one.repository_id),
        ("sealed", _sealing(one)),
        ("size", "" if one.size is None else size(one.size)),
        ("sha256", one.sha256),
        ("made", local_time(one.create_time)),
        ("completed", local_time(one.complete_time)),
        ("task", one.task_id),
        ("ignored", "  ".join(one.ignore)),
    ]
    if one.statistics is not None:
        pairs.append(("content", _content(one.statistics)))
    for proof in one.verifications:
        level, result = proof.level.lower().replace("_", "-"), "ok" if proof.ok else "DAMAGED"
        checked = f"{count(proof.files_checked, 'file')}, {size(proof.bytes_checked)}"
        note = f"  {proof.message}" if one.sealed and proof.message else ""
        pairs.append(("verified", f"{local_time(proof.time)}  {level}  {result}  {checked}{note}"))
    session.record(pairs)


def _sealing(one: Backup) -> str:
    """What is sealed: the archive, or the repository that holds the snapshot."""
    if not one.sealed:
        return ""
    return "yes, by its repository" if one.repository_id else "yes, with age"


def _place(one: Backup) -> str:
    return f"repository {one.repository_id}" if one.repository_id else one.storage_path


def _state(one: Backup) -> str:
    notes = [text for text, true in (("locked", one.locked), ("in trash", one.delete_time is not None)) if true]
    return ", ".join([str(one.state), *notes])


def _content(statistics: BackupStatistics) -> str:
    ratio = percent(statistics.stored_size, statistics.original_size)
    return ", ".join(
        [
            count(statistics.files, "file"),
            count(statistics.directories, "directory", "directories"),
            f"{size(statistics.original_size)} -> {size(statistics.stored_size)} ({ratio})",
            f"{statistics.files_skipped:,} skipped",
            f"{statistics.files_ignored:,} ignored",
        ]
    )
