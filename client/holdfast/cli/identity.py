"""`--identity`: a secret from a file or from stdin, never from the command line, where every user could read it."""

from __future__ import annotations

import sys

import click

from holdfast.credentials import Credentials

__all__ = ["identity_option"]


def _read(_context: click.Context, _parameter: click.Parameter, path: str | None) -> Credentials | None:
    if path == "-":
        return Credentials.from_identity(sys.stdin.read(), "stdin")
    return None if path is None else Credentials.from_identity_file(path)


#: Gives the command a parameter `credentials`: `Credentials | None`.
identity_option = click.option(
    "-i",
    "--identity",
    "credentials",
    callback=_read,
    metavar="FILE",
    help="File with the age identity that opens a sealed backup; `-` is stdin.",
)
