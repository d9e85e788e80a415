"""What opens a sealed repository for one call: from a prompt or a file, never from the command line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from holdfast.cli.password import read_password
from holdfast.credentials import Credentials

__all__ = ["repository_key_options"]

_FROM_FILE = "--passphrase-file"


def repository_key_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give the command the parameter `repository_key`: `Credentials | None`."""

    @functools.wraps(command)
    def with_key(
        *arguments: Any, passphrase: bool, passphrase_file: str | None, key_file: str | None, recovery_key: bool,
        **values: Any,
    ) -> Any:  # fmt: skip
        if passphrase + (passphrase_file is not None) + (key_file is not None) + recovery_key > 1:
            text = "only one of --passphrase, --passphrase-file, --key-file and --recovery-key fits"
            raise click.UsageError(text)
        key: Credentials | None = None
        if key_file is not None:
            key = Credentials.from_key_file(key_file)
        elif recovery_key:
            key = Credentials(private_key=read_password(None, what="recovery key", option="--key-file"))
        elif passphrase or passphrase_file is not None:
            key = Credentials(
                passphrase=read_password(passphrase_file, what="repository passphrase", option=_FROM_FILE)
            )
        return command(*arguments, repository_key=key, **values)

    for option in (
        click.option("--recovery-key", is_flag=True, help="Ask for the recovery key of a sealed repository."),
        click.option("--key-file", metavar="FILE", help="Its key file, or a file with its recovery key."),
        click.option(_FROM_FILE, metavar="FILE", help="File whose first line is that passphrase; `-` is stdin."),
        click.option("--passphrase", is_flag=True, help="Ask for the passphrase of a sealed repository."),
    ):
        with_key = option(with_key)
    return with_key
