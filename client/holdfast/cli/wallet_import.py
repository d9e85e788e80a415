"""`holdfast wallet import`: coin files into a wallet."""

from __future__ import annotations

import click

from holdfast.cli.password import password_file_option, read_password
from holdfast.cli.session import Command, Session, pass_session
from holdfast.cli.watching import start, task_options
from holdfast.credentials import Credentials

__all__ = ["import_coins"]


@click.command(
    name="import",
    cls=Command,
    epilog="\b\nExamples:\n"
    "  holdfast wallet import default\n"
    "  holdfast wallet import default ~/Downloads/payment.zip '100 CloudCoin.bin' --dry-run\n"
    "  holdfast wallet import default /srv/inbox --password-file secret.txt",
)
@click.argument("source_id")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--folder", default="Suspect", show_default=True, help="Folder of the wallet that the coins go to.")
@password_file_option
@click.option("--ask-password", is_flag=True, help="Ask for the password that encrypted coin files open with.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be taken in; change nothing.")
@task_options
@pass_session
def import_coins(
    session: Session,
    source_id: str,
    paths: tuple[str, ...],
    folder: str,
    password_file: str | None,
    ask_password: bool,
    dry_run: bool,
    detach: bool,
    request_id: str | None,
) -> int:
    """Take coin files into a wallet: .bin, .stack, PNG, JPEG, or ZIP of those.

    PATH is a file of the server, or a folder whose files (not those of folders in it) are taken; without one, the
    wallet's own folder Import. A coin that the wallet holds already is not taken twice. Originals in Import move to
    Imported, Duplicates or Corrupted; those from elsewhere are copied there and stay. Coins are not checked with the
    network: the wallet program does that with what lies in Suspect.

    Files encrypted by Holdfast need the wallet unlocked or its password; without, they stay where they are. Ctrl-C
    detaches from the watch; the import goes on. Relative paths are taken from here if the server is on this machine.
    """
    where = [session.server_path(path) for path in paths]
    credentials = None
    if ask_password or password_file is not None:
        credentials = Credentials(wallet_password=read_password(password_file))
    return start(
        session,
        lambda request: session.client.wallets.import_coins(
            source_id, where, folder=folder, dry_run=dry_run, credentials=credentials, request_id=request
        ),
        request_id,
        detach=detach,
    )
