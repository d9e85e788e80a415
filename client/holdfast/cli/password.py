"""A password or passphrase, from a prompt or a file, never from the command line, where every user could read it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from holdfast.credentials import Credentials
from holdfast.errors import BadConfiguration

__all__ = ["decryption_options", "password_file_option", "read_password", "with_password"]

#: Longest password in bytes, with its line end; more is not read.
_LONGEST = 1024 + 2

_HELP = "File whose first line is the wallet's password; `-` is stdin."


def password_file_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give the command the parameter `password_file`, for `read_password`."""
    return click.option("--password-file", metavar="FILE", help=_HELP)(command)


def decryption_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give the command the parameters `password`, `password_file` and `decrypt`: how encrypted coins are opened."""
    prompt = click.option("--password", is_flag=True, help="Ask for the wallet's password and decrypt its coins.")
    unlocked = click.option("--decrypt", is_flag=True, help="Decrypt coins with the key of the unlocked wallet.")
    return prompt(password_file_option(unlocked(command)))


def with_password(given: Credentials | None, *, password: bool, password_file: str | None) -> Credentials | None:
    """The credentials of a call, of which a password may be one. Only one secret fits into a call."""
    if not password and password_file is None:
        return given
    if given is not None or (password and password_file is not None):
        raise click.UsageError(
            "only one secret fits into a call: for encrypted coins in what is sealed too, unlock the wallet and give "
            "--decrypt and what opens the archive or the repository"
        )
    return Credentials(wallet_password=read_password(password_file))


def read_password(
    path: str | None, *, confirm: bool = False, what: str = "wallet password", option: str = "--password-file"
) -> str:
    """The password of a file, taken as it is but for its line end, or from a prompt that shows nothing of it; with
    `confirm` the prompt asks twice. `what` it is called and by which `option` a file is given, for messages. Raises
    BadConfiguration, which shows nothing of it either."""
    word = what.rpartition(" ")[2]
    if path is None:
        if not sys.stdin.isatty():
            raise BadConfiguration(
                f"nobody is there to type the {word}", remedy=f"Give {option} FILE, or `-` for stdin."
            )
        return str(click.prompt(what.capitalize(), hide_input=True, confirmation_prompt=confirm, err=True))
    where = "stdin" if path == "-" else f"{word} file {path}"
    try:
        if path == "-":
            data = sys.stdin.buffer.readline(_LONGEST + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.readline(_LONGEST + 1)
        password = data.removesuffix(b"\n").removesuffix(b"\r").decode()
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is no text"
        raise BadConfiguration(f"{where} cannot be read: {cause}", remedy=f"Name a file with the {word}.") from None
    if not password or len(data) > _LONGEST:
        raise BadConfiguration(f"{where} does not begin with a {word}", remedy=f"A {word} has 1 to 1,024 bytes.")
    return password
