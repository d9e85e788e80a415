"""`--recipient` and `--recipients-file`: the public keys that an archive is sealed to."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from holdfast.errors import BadConfiguration

__all__ = ["all_recipients", "recipient_options"]

#: The longest file of recipients, in bytes, that is read.
_LONGEST = 1 << 20


def recipient_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give the command the parameters `recipients` and `recipients_files`, for `all_recipients`."""
    command = click.option(
        "-R",
        "--recipients-file",
        "recipients_files",
        multiple=True,
        metavar="FILE",
        help="Seal to the recipients in this file too, one a line; `-` is stdin.",
    )(command)
    return click.option(
        "-r",
        "--recipient",
        "recipients",
        multiple=True,
        metavar="RECIPIENT",
        help="Seal the archive to this age recipient (age1…) or SSH public key; repeat for more.",
    )(command)


def all_recipients(recipients: tuple[str, ...], files: tuple[str, ...]) -> list[str]:
    """Those named and those in files, as `age -r` and `age -R` take them. Raises BadConfiguration."""
    found = list(recipients)
    for path in files:
        lines = [line.strip() for line in _text(path).splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]
        if not lines:  # then the archive would not be sealed, or not to those who were meant
            raise BadConfiguration(f"{path} holds no recipient", remedy="Name a file with one recipient a line.")
        found += lines
    return found


def _text(path: str) -> str:
    try:
        if path == "-":
            data = sys.stdin.buffer.read(_LONGEST + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(_LONGEST + 1)
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is no text"
        raise BadConfiguration(
            f"recipients file {path} cannot be read: {cause}", remedy="Name a file with one recipient a line."
        ) from None
    if len(data) > _LONGEST:
        raise BadConfiguration(
            f"recipients file {path} is too long", remedy="Name a file with at most 100 recipients, one a line."
        )
    return text
