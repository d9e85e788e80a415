"""`holdfast restore ...`: put files back, of a backup or of any archive."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from holdfast.cli.identity import identity_option
from holdfast.cli.password import decryption_options, with_password
from holdfast.cli.repository_key import repository_key_options
from holdfast.cli.session import Command, Session, pass_session
from holdfast.cli.watching import start, task_options
from holdfast.credentials import Credentials
from holdfast.models import ArchiveLimits, RestoreArchiveResult, RestoreResult
from holdfast.task import TaskHandle

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


@dataclass(frozen=True, slots=True)
class _Target:
    """Where the files go: a folder, or one that becomes a wallet of the server."""

    folder: str
    is_wallet: bool
    create_parents: bool
    display_name: str
    source_id: str | None

    @property
    def wallet(self) -> dict[str, Any]:
        """What a new wallet is called."""
        return {"display_name": self.display_name, "source_id": self.source_id}


def _target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give the command the parameter `target`."""

    @functools.wraps(command)
    def with_target(
        *arguments: Any, to: str | None, to_new_wallet: str | None, create_parents: bool, display_name: str,
        source_id: str | None, **values: Any,
    ) -> Any:  # fmt: skip
        if (to is None) == (to_new_wallet is None):
            raise click.UsageError("one of --to and --to-new-wallet says where the files go")
        if to_new_wallet is None and (display_name or source_id):
            raise click.UsageError("--display-name and --id go with --to-new-wallet")
        folder = to_new_wallet or to or ""
        target = _Target(folder, to_new_wallet is not None, create_parents, display_name, source_id)
        return command(*arguments, target=target, **values)

    for option in (
        click.option("--id", "source_id", metavar="ID", help="Id of the new wallet; by default from FOLDER's name."),
        click.option("--display-name", metavar="NAME", default="", help="Name of the new wallet; by default FOLDER's."),
        click.option("--create-parents", is_flag=True, help="Create missing folders above FOLDER."),
        click.option(
            "--to-new-wallet", metavar="FOLDER", help="The same, and register it as a wallet, all coins counted."
        ),
        click.option("--to", metavar="FOLDER", help="Folder of the server; new, or empty."),
    ):
        with_target = option(with_target)
    return with_target


@restore.command(
    cls=Command,
    epilog="\b\nExamples:\n"
    "  holdfast restore BACKUP_ID --to /tmp/look\n"
    "  holdfast restore BACKUP_ID --to-new-wallet /wallets/Again --password\n"
    "  holdfast restore BACKUP_ID --to /tmp/look --path Bank --path config.toml\n"
    "  holdfast restore BACKUP_ID --to /tmp/look --passphrase",
)
@click.argument("backup_id")
@_target_options
@click.option("--path", "paths", multiple=True, metavar="PATH", help="Only this entry of the backup, and all below it.")
@identity_option
@repository_key_options
@decryption_options
@click.option("--dry-run", is_flag=True, help="Only tell what would be done; change nothing.")
@task_options
@pass_session
def backup(
    session: Session,
    backup_id: str,
    target: _Target,
    paths: tuple[str, ...],
    credentials: Credentials | None,
    repository_key: Credentials | None,
    password: bool,
    password_file: str | None,
    decrypt: bool,
    dry_run: bool,
    detach: bool,
    request_id: str | None,
) -> int:
    """Restore a backup into a new folder, or as a new wallet.

    The word `backup` may be left out: `holdfast restore BACKUP_ID --to FOLDER`. Every file is hashed again and compared
    with the backup before the folder appears. A sealed archive needs --identity. A backup in a sealed repository needs
    one of --passphrase, --passphrase-file, --key-file and --recovery-key, or the repository unlocked.

    Coins that the backup encrypted stay encrypted (.hfcc) without --password, --password-file or --decrypt. A new
    wallet needs one of the first two, or the wallet unlocked; it appears only if each coin of the backup is there once.

    Ctrl-C detaches from the watch; the restore goes on. A relative FOLDER is taken from here if the server is on this
    machine.
    """
    if credentials is not None and repository_key is not None:
        raise click.UsageError(
            "--identity opens archives, and --passphrase and its like repositories: give one of them"
        )
    secret = with_password(credentials or repository_key, password=password, password_file=password_file)
    where, restores = session.server_path(target.folder), session.client.restores
    if target.is_wallet and paths:
        raise click.UsageError("--path does not go with --to-new-wallet: a wallet is restored whole, or not at all")

    def create(request: str) -> TaskHandle[RestoreResult]:
        more: dict[str, Any] = {"create_parents": target.create_parents, "dry_run": dry_run, "request_id": request}
        if target.is_wallet:
            return restores.to_new_wallet(backup_id, where, credentials=secret, **target.wallet, **more)
        return restores.to_new_folder(
            backup_id, where, paths=paths, credentials=secret, decrypt_coins=decrypt or None, **more
        )

    return start(session, create, request_id, detach=detach)


_limit = click.IntRange(min=1, max=(1 << 64) - 1)
_small_limit = click.IntRange(min=1, max=(1 << 32) - 1)


@restore.command(
    cls=Command,
    epilog="\b\nExamples:\n"
    "  holdfast restore archive /backups/old.tar.gz --to /tmp/look\n"
    "  holdfast restore archive download.zip --to /tmp/look --dry-run --max-bytes 1000000000",
)
@click.argument("archive")
@_target_options
@click.option("--path", "paths", multiple=True, metavar="PATH", help="Only this entry, and all below it.")
@identity_option
@decryption_options
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
    target: _Target,
    paths: tuple[str, ...],
    credentials: Credentials | None,
    password: bool,
    password_file: str | None,
    decrypt: bool,
    max_bytes: int | None,
    max_entries: int | None,
    max_ratio: int | None,
    max_depth: int | None,
    dry_run: bool,
    detach: bool,
    request_id: str | None,
) -> int:
    """Restore any archive file into a new folder, or as a new wallet.

    ARCHIVE is a zip, tar, tar.gz or tar.zst file on the server, also one sealed with age (.age). Anybody may have made
    it. Its kind is found out from its content, whatever its name; it is read as hostile input, and nothing appears
    in FOLDER before all of it was read. With a manifest of Holdfast in it every file is hashed and compared; without,
    there are only the archive's own checksums, and the result says so.

    Coins that a backup encrypted stay encrypted (.hfcc) without --password, --password-file or --decrypt; with one of
    them every coin envelope in an archive of unknown origin is opened too. A new wallet is made only of what Holdfast
    backed up as a wallet, and appears only if each of its coins is there once.

    The limits make those of the service tighter; they cannot be raised here. Ctrl-C detaches from the watch; the
    restore goes on. Relative paths are taken from here if the server is on this machine.
    """
    secret = with_password(credentials, password=password, password_file=password_file)
    source, where = session.server_path(archive), session.server_path(target.folder)
    restores = session.client.restores
    limits = ArchiveLimits(
        max_bytes=max_bytes, max_entries=max_entries, max_ratio=max_ratio, max_depth=max_depth
    )  # fmt: skip
    if target.is_wallet and paths:
        raise click.UsageError("--path does not go with --to-new-wallet: a wallet is restored whole, or not at all")

    def create(request: str) -> TaskHandle[RestoreArchiveResult]:
        more: dict[str, Any] = {"create_parents": target.create_parents, "dry_run": dry_run, "request_id": request}
        if target.is_wallet:
            return restores.archive_to_new_wallet(
                source, where, limits=limits, credentials=secret, **target.wallet, **more
            )
        return restores.archive_to_new_folder(
            source, where, paths=paths, limits=limits, credentials=secret, decrypt_coins=decrypt or None, **more
        )

    return start(session, create, request_id, detach=detach)
