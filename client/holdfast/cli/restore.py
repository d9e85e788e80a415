"""`holdfast restore`."""

from __future__ import annotations

import click

from holdfast.cli.identity import identity_option
from holdfast.cli.session import Command, Session, pass_session
from holdfast.cli.watching import start
from holdfast.credentials import Credentials

__all__ = ["restore"]


@click.command(
    cls=Command,
    epilog="\b\nExamples:\n"
    "  holdfast restore BACKUP_ID --to /tmp/look\n"
    "  holdfast restore BACKUP_ID --to /tmp/look --path Bank --path config.toml",
)
@click.argument("backup_id")
@click.option("--to", "folder", required=True, metavar="FOLDER", help="Folder of the server; new, or empty.")
@click.option("--create-parents", is_flag=True, help="Create missing folders above FOLDER.")
@click.option("--path", "paths", multiple=True, metavar="PATH", help="Only this entry of the backup, and all below it.")
@identity_option
@click.option("--dry-run", is_flag=True, help="Only tell what would be done; change nothing.")
@click.option("--detach", is_flag=True, help="Print the task's id and do not wait for it.")
@click.option("--request-id", metavar="UUID", help="Makes the command safe to repeat: the same id, the same task.")
@pass_session
def restore(
    session: Session,
    backup_id: str,
    folder: str,
    create_parents: bool,
    paths: tuple[str, ...],
    credentials: Credentials | None,
    dry_run: bool,
    detach: bool,
    request_id: str | None,
) -> int:
    """Restore a backup into a new folder.

    Every file is hashed again and compared with the backup before the folder appears. A sealed backup needs --identity.

    Ctrl-C detaches from the watch; the restore goes on. A relative FOLDER is taken from here if the server is on this
    machine.
    """
    where = session.server_path(folder)
    return start(
        session,
        lambda request: session.client.restores.to_new_folder(
            backup_id,
            where,
            create_parents=create_parents,
            paths=paths,
            dry_run=dry_run,
            credentials=credentials,
            request_id=request,
        ),
        request_id,
        detach=detach,
    )
