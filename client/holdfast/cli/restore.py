"""`holdfast restore ...`: put files back, of a backup or of any archive."""

from __future__ import annotations

import click

from holdfast.cli.identity import identity_option
from holdfast.cli.session import Command, Session, pass_session
from holdfast.cli.watching import start, task_options
from holdfast.credentials import Credentials
from holdfast.models import ArchiveLimits

__all__ = ["restore"]


class _Restore(click.Group):
    """A group whose first word may be left out where it is `backup`: `holdfast restore BACKUP_ID --to FOLDER`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        if args and args[0].startswith("-") and args[0] not in own:
            args = ["backup", *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["backup", *args])


@click.group(cls=_Restore, subcommand_metavar="[backup] BACKUP_ID | archive PATH [OPTIONS]")
def restore() -> None:
    """Put files back: of a backup, or of any archive on the server."""


@restore.command(
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
@task_options
@pass_session
def backup(
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

    The word `backup` may be left out: `holdfast restore BACKUP_ID --to FOLDER`. Every file is hashed again and compared
    with the backup before the folder appears. A sealed backup needs --identity.

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


_limit = click.IntRange(min=1, max=(1 << 64) - 1)
_small_limit = click.IntRange(min=1, max=(1 << 32) - 1)


@restore.command(
    cls=Command,
    epilog="\b\nExamples:\n"
    "  holdfast restore archive /backups/old.tar.gz --to /tmp/look\n"
    "  holdfast restore archive download.zip --to /tmp/look --dry-run --max-bytes 1000000000",
)
@click.argument("archive")
@click.option("--to", "folder", required=True, metavar="FOLDER", help="Folder of the server; new, or empty.")
@click.option("--create-parents", is_flag=True, help="Create missing folders above FOLDER.")
@click.option("--path", "paths", multiple=True, metavar="PATH", help="Only this entry, and all below it.")
@identity_option
@click.option("--max-bytes", metavar="N", type=_limit, help="Refuse more content than this.")
@click.option("--max-entries", metavar="N", type=_limit, help="Refuse more entries than this.")
@click.option(
    "--max-ratio", metavar="N", type=_small_limit, help="Refuse what unpacks to more than this many times its size."
)
@click.option("--max-depth", metavar="N", type=_small_limit, help="Refuse folders nested deeper than this.")
@click.option("--dry-run", is_flag=True, help="Only read and check the archive; write nothing.")
@task_options
@pass_session
def archive(
    session: Session,
    archive: str,
    folder: str,
    create_parents: bool,
    paths: tuple[str, ...],
    credentials: Credentials | None,
    max_bytes: int | None,
    max_entries: int | None,
    max_ratio: int | None,
    max_depth: int | None,
    dry_run: bool,
    detach: bool,
    request_id: str | None,
) -> int:
    """Restore any archive file into a new folder.

    ARCHIVE is a zip, tar, tar.gz or tar.zst file on the server, also one sealed with age (.age). Anybody may have made
    it. Its kind is found out from its content, whatever its name; it is read as hostile input, and nothing appears
    in FOLDER before all of it was read. With a manifest of Holdfast in it every file is hashed and compared; without,
    there are only the archive's own checksums, and the result says so.

    The limits make those of the service tighter; they cannot be raised here. Ctrl-C detaches from the watch; the
    restore goes on. Relative paths are taken from here if the server is on this machine.
    """
    source, where = session.server_path(archive), session.server_path(folder)
    limits = ArchiveLimits(
        max_bytes=max_bytes, max_entries=max_entries, max_ratio=max_ratio, max_depth=max_depth
    )  # fmt: skip
    return start(
        session,
        lambda request: session.client.restores.archive_to_new_folder(
            source,
            where,
            create_parents=create_parents,
            paths=paths,
            limits=limits,
            credentials=credentials,
            dry_run=dry_run,
            request_id=request,
        ),
        request_id,
        detach=detach,
    )
