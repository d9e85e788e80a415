"""`holdfast repository ...`: deduplicated, encrypted stores of snapshots."""

from __future__ import annotations

import click

from holdfast.cli.level import LEVELS, level_option
from holdfast.cli.password import read_password
from holdfast.cli.repository_key import repository_key_options
from holdfast.cli.repository_maintenance import compact, prune, repair
from holdfast.cli.repository_slots import key
from holdfast.cli.session import Command, Session, pass_session
from holdfast.cli.span import for_option
from holdfast.cli.watching import start, task_options
from holdfast.credentials import Credentials, read_key_file
from holdfast.repositories import NewKey
from holdfast.repository_models import Repository
from holdfast.text import count, local_time, safe, size

__all__ = ["repository"]

_FROM_FILE = "--passphrase-file"


@click.group()
def repository() -> None:
    """Create, show, check, prune and mend repositories: deduplicated, compressed, encrypted stores of snapshots."""


for _command in (prune, compact, repair, key):
    repository.add_command(_command)


@repository.command(
    cls=Command,
    epilog="\b\nExamples:\n  holdfast repository create vault --folder /backups/vault --create-folder\n"
    "  holdfast repository create vault --folder /backups/vault --sealed --passphrase --recovery-key",
)
@click.argument("name")
@click.option("--folder", required=True, metavar="FOLDER", help="Where it lies: an empty folder of the server.")
@click.option("--create-folder", is_flag=True, help="Make the folder if it is missing.")
@click.option("--display-name", default="", metavar="TEXT", help="Name for people. [default: NAME]")
@click.option("--sealed", is_flag=True, help="Keep no key on the server that opens contents and names.")
@click.option("--passphrase", is_flag=True, help="Ask for a passphrase that opens it.")
@click.option(_FROM_FILE, metavar="FILE", help="File whose first line is such a passphrase; `-` is stdin.")
@click.option("--key-file", "key_files", multiple=True, metavar="FILE", help="File whose content opens it; repeatable.")
@click.option("--recovery-key", is_flag=True, help="Have a recovery key made, and show it once.")
@click.option("--compression-level", type=click.IntRange(-5, 19), metavar="N", help="zstd, -5 to 19. [default: 3]")
@pass_session
def create(
    session: Session,
    name: str,
    folder: str,
    create_folder: bool,
    display_name: str,
    sealed: bool,
    passphrase: bool,
    passphrase_file: str | None,
    key_files: tuple[str, ...],
    recovery_key: bool,
    compression_level: int | None,
) -> int:
    """Create the repository NAME (a-z, 0-9, `.`, `_`, `-`).

    The server keeps its keys, so that everything works without further ado. With --sealed it keeps only what backs up,
    prunes and checks: restoring and browsing need a passphrase, a key file or the recovery key. WHOEVER LOSES ALL OF
    THESE LOSES THE BACKUPS. Without any of them named, --sealed asks for a passphrase.
    """
    if passphrase and passphrase_file is not None:
        raise click.UsageError("--passphrase and --passphrase-file exclude each other")
    keys = [NewKey(private_key=read_key_file(path)) for path in key_files]
    asked = passphrase or (sealed and not keys and not recovery_key)
    if asked or passphrase_file is not None:
        keys.append(NewKey(passphrase=_passphrase(passphrase_file, confirm=True)))
    if recovery_key:
        keys.append(NewKey(recovery=True))
    made = session.client.repositories.create(
        name,
        folder if "://" in folder else session.server_path(folder),  # an address is no path
        create_folder=create_folder,
        sealed=sealed,
        keys=keys,
        compression_level=compression_level,
        display_name=display_name,
    )
    session.emit("created", made)
    _record(session, made.repository)
    if made.recovery_key is not None:
        session.line()
        session.line(f"recovery key: {made.recovery_key}")
        session.note(
            "Write the recovery key down now and keep it away from the server: it is shown this once, and opens the "
            "repository when every other key is lost."
        )
    return 0


@repository.command(cls=Command)
@click.argument("name")
@pass_session
def show(session: Session, name: str) -> int:
    """Show one repository with its sizes."""
    _show(session, session.client.repositories.get(name))
    return 0


@repository.command("list", cls=Command)
@pass_session
def list_repositories(session: Session) -> int:
    """List all repositories."""
    found = tuple(session.client.repositories.list())
    for one in found:
        session.emit("repository", one)
    rows = [(one.repository_id, str(one.state), _sealing(one), one.location) for one in found]
    session.table(["ID", "STATE", "SEALED", "LOCATION"], rows)
    for one in found:
        if one.problem is not None:
            session.note(f"{safe(one.repository_id)}: {safe(one.problem.message)} ({one.problem.reason})")
    return 0


@repository.command(
    cls=Command,
    epilog="\b\nExamples:\n  holdfast repository unlock vault\n"
    "  pass show vault | holdfast repository unlock vault --for 1h --passphrase-file -",
)
@click.argument("name")
@for_option
@click.option(_FROM_FILE, metavar="FILE", help="File whose first line is the passphrase; `-` is stdin.")
@click.option("--key-file", metavar="FILE", help="The key file, or a file with the recovery key.")
@click.option("--recovery-key", is_flag=True, help="Ask for the recovery key instead of a passphrase.")
@pass_session
def unlock(
    session: Session,
    name: str,
    seconds: float | None,
    passphrase_file: str | None,
    key_file: str | None,
    recovery_key: bool,
) -> int:
    """Open a sealed repository for a while, so that restoring and browsing ask for nothing.

    Asks for the passphrase, unless a file or --recovery-key is given.
    """
    if (passphrase_file is not None) + (key_file is not None) + recovery_key > 1:
        raise click.UsageError("only one of --passphrase-file, --key-file and --recovery-key fits")
    if key_file is not None:
        credentials = Credentials.from_key_file(key_file)
    elif recovery_key:
        credentials = Credentials(private_key=read_password(None, what="recovery key", option="--key-file"))
    else:
        credentials = Credentials(passphrase=_passphrase(passphrase_file))
    opened = session.client.repositories.unlock(name, credentials, ttl=seconds)
    session.emit("repository", opened)
    if opened.sealed:
        session.line(f"unlocked {safe(name)} until {local_time(opened.unlock_expire_time)}")
    else:
        session.line(f"{safe(name)} is not sealed: the key fits, and nothing needs to be unlocked")
    return 0


@repository.command(
    cls=Command,
    epilog="\b\nExamples:\n  holdfast repository check vault --level checksum\n"
    "  holdfast repository check vault --percent 5",
)
@click.argument("name")
@level_option
@click.option(
    "--percent",
    type=click.IntRange(1, 100),
    metavar="N",
    help="Read only this share of the data; the next check goes on behind it. [default: 100]",
)
@repository_key_options
@task_options
@pass_session
def check(
    session: Session,
    name: str,
    level: str | None,
    percent: int | None,
    repository_key: Credentials | None,
    detach: bool,
    request_id: str | None,
) -> int:
    """Prove a repository: that everything is there, unchanged, and can be read.

    Damage is named to the object, and to the files of the backups that have lost something. Only read-data needs the
    repository unlocked, or one of --passphrase, --passphrase-file, --key-file and --recovery-key, if it is sealed.
    """
    depth = None if level is None else LEVELS[level]
    return start(
        session,
        lambda request: session.client.repositories.check(
            name, depth, percent=percent, credentials=repository_key, request_id=request
        ),
        request_id,
        detach=detach,
    )


@repository.command(cls=Command)
@click.argument("name")
@pass_session
def lock(session: Session, name: str) -> int:
    """Forget a sealed repository's key at once; what has begun to read goes on."""
    session.emit("repository", session.client.repositories.lock(name))
    session.line(f"locked {safe(name)}")
    return 0


def _passphrase(path: str | None, *, confirm: bool = False) -> str:
    return read_password(path, confirm=confirm, what="repository passphrase", option=_FROM_FILE)


def _sealing(one: Repository) -> str:
    if not one.sealed:
        return "no"
    return "yes" if one.unlock_expire_time is None else f"unlocked until {local_time(one.unlock_expire_time)}"


def _show(session: Session, one: Repository) -> None:
    session.emit("repository", one)
    _record(session, one)


def _record(session: Session, one: Repository) -> None:
    found = one.statistics
    session.record(
        [
            ("id", one.repository_id),
            ("name", one.display_name),
            ("state", str(one.state)),
            ("location", one.location),
            ("sealed", _sealing(one)),
            ("keys", ", ".join(_key(kind, name) for kind, name in ((key.kind, key.display_name) for key in one.keys))),
            ("compression", f"zstd {one.compression_level}"),
            ("created", local_time(one.create_time)),
            ("snapshots", "" if found is None else f"{found.snapshots:,}"),
            ("original size", "" if found is None else size(found.original_size)),
            ("distinct chunks", "" if found is None else f"{found.chunks:,}, {size(found.deduplicated_size)}"),
            ("stored", "" if found is None else f"{size(found.stored_size)} in {count(found.objects, 'object')}"),
            ("unused", "" if found is None else size(found.unused_size)),
            ("last check", local_time(one.last_check_time)),
        ]
    )
    if one.problem is not None:
        session.note(f"problem: {safe(one.problem.message)} ({one.problem.reason})")
        session.note(f"remedy: {safe(one.problem.remedy)}")


def _key(kind: str, name: str) -> str:
    word = kind.lower().replace("_", " ")
    return f"{word} ({name})" if name else word
