"""The command itself: global options, its groups, and the one place where an error becomes an exit code."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

import click

from holdfast import __version__
from holdfast.cli.backup import backup
from holdfast.cli.coin import coin
from holdfast.cli.export import export
from holdfast.cli.health import health
from holdfast.cli.repository import repository
from holdfast.cli.restore import restore
from holdfast.cli.session import Session, exit_code, write_error
from holdfast.cli.source import source
from holdfast.cli.task import task
from holdfast.cli.wallet import wallet
from holdfast.cli.watching import DETACHED
from holdfast.errors import HoldfastError

__all__ = ["cli", "main"]

_EPILOG = """\b
Examples:
  holdfast health
  holdfast source register ~/wallets/Default --kind wallet
  holdfast source register /srv/minecraft --id minecraft --ignore '*.log'
  holdfast wallet balance default
  holdfast wallet unlock default
  holdfast repository create vault --folder /backups/vault --create-folder
  holdfast backup create default minecraft --to /backups --format zip
  holdfast backup list --source minecraft
  holdfast restore BACKUP_ID --to /tmp/look
  holdfast export backup BACKUP_ID --to /mnt/usb --format tar.zst

\b
Exit codes:
  0    ok
  1    failed: the task, or a call to the server
  2    wrong usage, or the server refused the request as invalid
  3    the task completed with warnings
  4    the task was cancelled
  5    holdfast coin: the password is not the one
  130  Ctrl-C detached from a task; the task goes on
"""


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--address", metavar="HOST:PORT", help="Server: host:port or unix:/path. [HOLDFAST_ADDRESS]")
@click.option("--token-file", metavar="FILE", help="File with the token. [HOLDFAST_TOKEN, HOLDFAST_TOKEN_FILE]")
@click.option(
    "--data-dir", metavar="FOLDER", help="Data directory of a server on this machine. [HOLDFAST_PATHS_DATA_DIR]"
)
@click.option("--json", "as_json", is_flag=True, help="Write JSON lines to stdout, one object with a `type` each.")
@click.option("--no-progress", is_flag=True, help="Show no progress while a task is watched.")
@click.version_option(__version__, prog_name="holdfast")
@click.pass_context
def cli(
    context: click.Context,
    address: str | None,
    token_file: str | None,
    data_dir: str | None,
    as_json: bool,
    no_progress: bool,
) -> None:
    """Back up wallets and directories with a Holdfast server, watch it, and restore.

    On the server's own machine nothing needs to be configured: address and token are found in its data directory.
    Ctrl-C while a task is watched detaches from it and never cancels it.
    """
    session = Session(address=address, token_file=token_file, data_dir=data_dir, json=as_json, progress=not no_progress)
    context.obj = session
    context.call_on_close(session.close)


cli.add_command(source)
cli.add_command(wallet)
cli.add_command(repository)
cli.add_command(backup)
cli.add_command(restore)
cli.add_command(export)
cli.add_command(coin)
cli.add_command(task)
cli.add_command(health)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; nothing it does ends in a traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    try:
        code = cli.main(words, prog_name="holdfast", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        return 2
    except click.ClickException as error:
        if as_json:
            message = error.format_message()
            click.echo(json.dumps({"type": "error", "code": "", "reason": "USAGE", "message": message}))
        else:
            error.show()
        return error.exit_code
    except click.Abort:
        return DETACHED
    except HoldfastError as error:
        write_error(error, as_json=as_json)
        return exit_code(error)
    except BrokenPipeError:
        # The reader has gone; what is left in the buffer must not fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        click.echo(f"error: {error.strerror or error}{f': {error.filename}' if error.filename else ''}", err=True)
        return 1
    return code if isinstance(code, int) else 0
