"""`holdfast repository key ...`: what opens a repository, shown, added, removed, and its content key rotated."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from holdfast.cli.password import read_password
from holdfast.cli.repository_key import repository_key_options
from holdfast.cli.session import Command, Session, pass_session
from holdfast.credentials import Credentials, read_key_file
from holdfast.repositories import NewKey
from holdfast.text import local_time, safe

__all__ = ["key"]

_NEW_FILE = "--new-passphrase-file"


@click.group()
def key() -> None:
    """List, add and remove the keys that open a repository, and rotate the key that new content is encrypted with."""


@key.command("list", cls=Command)
@click.argument("name")
@pass_session
def list_keys(session: Session, name: str) -> int:
    """List the keys of the repository NAME, without their secrets."""
    found = session.client.repositories.get(name).keys
    for one in found:
        session.emit("key", one)
    rows = [(one.key_id, _kind(one.kind), local_time(one.create_time), safe(one.display_name)) for one in found]
    session.table(["ID", "KIND", "CREATED", "NAME"], rows)
    return 0


def _new_key_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give the command the parameter `new`: `NewKey`."""

    @functools.wraps(command)
    def with_new(
        *arguments: Any, new_passphrase: bool, new_passphrase_file: str | None, new_key_file: str | None,
        new_recovery_key: bool, display_name: str, **values: Any,
    ) -> Any:  # fmt: skip
        if new_passphrase + (new_passphrase_file is not None) + (new_key_file is not None) + new_recovery_key > 1:
            options = "--new-passphrase, --new-passphrase-file, --new-key-file and --new-recovery-key"
            raise click.UsageError(f"only one of {options} fits")
        if new_key_file is not None:
            new = NewKey(private_key=read_key_file(new_key_file), display_name=display_name)
        elif new_recovery_key:
            new = NewKey(recovery=True, display_name=display_name)
        else:
            what = "new repository passphrase"
            passphrase = read_password(new_passphrase_file, confirm=True, what=what, option=_NEW_FILE)
            new = NewKey(passphrase=passphrase, display_name=display_name)
        return command(*arguments, new=new, **values)

    for option in (
        click.option("--display-name", default="", metavar="TEXT", help="Name for people."),
        click.option("--new-recovery-key", is_flag=True, help="Have a recovery key made, and show it once."),
        click.option("--new-key-file", metavar="FILE", help="File whose content is the new key."),
        click.option(_NEW_FILE, metavar="FILE", help="File whose first line is the new passphrase; `-` is stdin."),
        click.option("--new-passphrase", is_flag=True, help="Ask for the new passphrase. This is the default."),
    ):
        with_new = option(with_new)
    return with_new


@key.command(
    cls=Command,
    epilog="\b\nExamples:\n  holdfast repository key add vault --new-recovery-key --display-name 'in the safe'\n"
    "  holdfast repository key add vault --new-key-file new.key --passphrase",
)
@click.argument("name")
@_new_key_options
@click.option("--request-id", metavar="UUID", help="Makes the call idempotent. [default: a new one]")
@repository_key_options
@pass_session
def add(
    session: Session,
    name: str,
    new: NewKey,
    request_id: str | None,
    repository_key: Credentials | None,
) -> int:
    """Add a key to the repository NAME; it opens everything, older backups too.

    A sealed repository has to be unlocked, or opened by one of --passphrase, --passphrase-file, --key-file and
    --recovery-key: a key that it has already.
    """
    made = session.client.repositories.add_key(name, new, credentials=repository_key, request_id=request_id)
    session.emit("added", made)
    session.line(f"added key {made.key.key_id}, {_kind(made.key.kind)}")
    if made.recovery_key is not None:
        session.line()
        session.line(f"recovery key: {made.recovery_key}")
        session.note("Write the recovery key down now and keep it away from the server: it is shown this once.")
    return 0


@key.command(cls=Command, epilog="\b\nExample:\n  holdfast repository key remove vault 5f0d…")
@click.argument("name")
@click.argument("key_id")
@pass_session
def remove(session: Session, name: str, key_id: str) -> int:
    """Remove the key KEY_ID from the repository NAME; `key list` shows the ids.

    This takes nothing away from whoever opened the repository with it before. `key rotate` keeps what is backed up
    later from them. The last key of a sealed repository cannot be removed.
    """
    session.emit("repository", session.client.repositories.remove_key(name, key_id))
    session.line(f"removed key {safe(key_id)}")
    session.note("Whoever opened the repository with it before can still read what was backed up until now.")
    return 0


@key.command(
    cls=Command,
    epilog="\b\nExamples:\n  holdfast repository key rotate vault\n  holdfast repository key rotate safe --passphrase",
)
@click.argument("name")
@click.option("--request-id", metavar="UUID", help="Makes the call idempotent. [default: a new one]")
@repository_key_options
@pass_session
def rotate(session: Session, name: str, request_id: str | None, repository_key: Credentials | None) -> int:
    """Encrypt what is backed up into the repository NAME from now on with a new key.

    All its passphrases, key files and recovery keys stay as they are and open both. A sealed repository has to be
    unlocked, or opened by one of --passphrase, --passphrase-file, --key-file and --recovery-key.
    """
    rotated = session.client.repositories.rotate_key(name, credentials=repository_key, request_id=request_id)
    session.emit("repository", rotated)
    session.line(f"{safe(name)} uses its key of epoch {rotated.key_epoch} from now on")
    return 0


def _kind(kind: str) -> str:
    return kind.lower().replace("_", " ")
