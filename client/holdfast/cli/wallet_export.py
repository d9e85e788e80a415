"""`holdfast wallet export`: coins of an exact amount into portable files."""

from __future__ import annotations

import click

from holdfast.cli.password import password_file_option, read_password
from holdfast.cli.recipients import all_recipients, recipient_options
from holdfast.cli.session import Command, Session, pass_session
from holdfast.cli.watching import start, task_options
from holdfast.credentials import Credentials
from holdfast.enums import CoinFileFormat

__all__ = ["export_coins"]

_FORMATS = {one.lower(): one for one in CoinFileFormat if one is not CoinFileFormat.UNKNOWN}


@click.command(
    "export",
    cls=Command,
    epilog="\b\nExamples:\n"
    "  holdfast wallet export default 10.5 --to /mnt/usb --format zip --tag rent\n"
    "  holdfast wallet export default 250 --to /mnt/usb --format bin --recipient age1...\n"
    "  holdfast wallet export default 3 --to /mnt/usb --format stack --dry-run",
)
@click.argument("source_id")
@click.argument("amount")
@click.option("--to", "folder", required=True, metavar="FOLDER", help="Folder of the server for the files.")
@click.option("--format", "coin_format", required=True, type=click.Choice(list(_FORMATS)), help="Kind of file.")
@click.option("--create-folder", is_flag=True, help="Create FOLDER if it is missing.")
@click.option("--tag", default="", help="Part of the files' names: letters, digits, `.`, `_` and `-`.")
@click.option("--template", metavar="FILE", help="PNG of the server to carry the coins, with --format png.")
@recipient_options
@password_file_option
@click.option("--dry-run", is_flag=True, help="Only tell which coins and files there would be; change nothing.")
@task_options
@pass_session
def export_coins(
    session: Session,
    source_id: str,
    amount: str,
    folder: str,
    coin_format: str,
    create_folder: bool,
    tag: str,
    template: str | None,
    recipients: tuple[str, ...],
    recipients_files: tuple[str, ...],
    password_file: str | None,
    dry_run: bool,
    detach: bool,
    request_id: str | None,
) -> int:
    """Take coins worth exactly AMOUNT out of a wallet into new files, and watch it.

    WHOEVER HAS THE FILES HAS THE COINS, unless they are sealed to a recipient. Coins come from Bank if it can make the
    amount, else from Bank and Fracked; the wallet keeps their own files in Exported. An amount that cannot be made is
    refused with the nearest ones that can.

    Encrypted coins need the wallet unlocked, or --password-file. Ctrl-C detaches from the watch; the export goes on. A
    relative FOLDER is taken from here if the server is on this machine.
    """
    where, sealed_to = session.server_path(folder), all_recipients(recipients, recipients_files)
    picture = None if template is None else session.server_path(template)
    credentials = Credentials(wallet_password=read_password(password_file)) if password_file is not None else None
    return start(
        session,
        lambda request: session.client.exports.coins(
            source_id,
            amount,
            folder=where,
            format=_FORMATS[coin_format],
            create_folder=create_folder,
            tag=tag,
            png_template=picture,
            age_recipients=sealed_to,
            dry_run=dry_run,
            credentials=credentials,
            request_id=request,
        ),
        request_id,
        detach=detach,
    )
