"""`holdfast export ...`: stored backups as portable files."""

from __future__ import annotations

import click

from holdfast.cli.identity import identity_option
from holdfast.cli.recipients import all_recipients, recipient_options
from holdfast.cli.repository_key import repository_key_options
from holdfast.cli.session import Command, Session, pass_session
from holdfast.cli.watching import start, task_options
from holdfast.credentials import Credentials
from holdfast.enums import ArchiveFormat

__all__ = ["export"]

_FORMATS = {"zip": ArchiveFormat.ZIP, "tar.gz": ArchiveFormat.TAR_GZ, "tar.zst": ArchiveFormat.TAR_ZST}


@click.group()
def export() -> None:
    """Write stored backups into portable files."""


@export.command(
    cls=Command,
    epilog="\b\nExamples:\n"
    "  holdfast export backup BACKUP_ID --to /mnt/usb --format tar.zst\n"
    "  holdfast export backup BACKUP_ID --to /tmp --format zip --path Bank --path config.toml\n"
    "  holdfast export backup BACKUP_ID --to /mnt/usb --format tar.gz --recipient age1...",
)
@click.argument("backup_id")
@click.option("--to", "folder", required=True, metavar="FOLDER", help="Folder of the server for the file.")
@click.option("--format", "archive_format", required=True, type=click.Choice(list(_FORMATS)), help="Kind of file.")
@click.option("--create-folder", is_flag=True, help="Create FOLDER if it is missing.")
@click.option("--tag", default="", help="Part of the file's name: letters, digits, `.`, `_` and `-`.")
@click.option("--path", "paths", multiple=True, metavar="PATH", help="Only this entry of the backup, and all below it.")
@recipient_options
@identity_option
@repository_key_options
@click.option("--dry-run", is_flag=True, help="Only tell what would be packed; write nothing.")
@task_options
@pass_session
def backup(
    session: Session,
    backup_id: str,
    folder: str,
    archive_format: str,
    create_folder: bool,
    tag: str,
    paths: tuple[str, ...],
    recipients: tuple[str, ...],
    recipients_files: tuple[str, ...],
    credentials: Credentials | None,
    repository_key: Credentials | None,
    dry_run: bool,
    detach: bool,
    request_id: str | None,
) -> int:
    """Repack a backup into one file, in any format, whole or only some paths, and watch it.

    Every file is proved against the backup on the way, and the new file is read back before it gets its name. It is no
    backup of its own: nothing lists or deletes it. A sealed archive needs its identity, a snapshot in a sealed
    repository its key, unless that is unlocked; without a recipient the file is in clear.

    Ctrl-C detaches from the watch; the export goes on. A relative FOLDER is taken from here if the server is on this
    machine.
    """
    if credentials is not None and repository_key is not None:
        raise click.UsageError(
            "--identity opens archives, and --passphrase and its like repositories: give one of them"
        )
    where, sealed_to = session.server_path(folder), all_recipients(recipients, recipients_files)
    return start(
        session,
        lambda request: session.client.exports.backup(
            backup_id,
            folder=where,
            format=_FORMATS[archive_format],
            create_folder=create_folder,
            tag=tag,
            paths=paths,
            age_recipients=sealed_to,
            dry_run=dry_run,
            credentials=credentials or repository_key,
            request_id=request,
        ),
        request_id,
        detach=detach,
    )
