"""What opens a key slot, given to the command line: from a prompt or a file, never as an argument that every user of
the machine could read. Named as in the `holdfast` command."""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path
from typing import Final

from holdfast_server.config import ConfigError

__all__ = ["add_secret_options", "read_secret"]

#: Longest passphrase in bytes, with its line end, and longest key file; more is not read.
_LONGEST_LINE: Final = 1024 + 2
_LONGEST_FILE: Final = 65_536
#: How a recovery key begins.
_RECOVERY: Final = "HFRK1"


def add_secret_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--passphrase", action="store_true", help="ask for a passphrase of repositories whose keys are lost"
    )
    group.add_argument("--passphrase-file", metavar="FILE", help="a file whose first line is one; `-` is stdin")
    group.add_argument("--key-file", type=Path, metavar="FILE", help="a key file, or a file with a recovery key")
    group.add_argument("--recovery-key", action="store_true", help="ask for a recovery key")


def read_secret(options: argparse.Namespace) -> str | None:
    """The secret that the options name, if they do. Raises ConfigError, which shows nothing of it."""
    if options.passphrase_file is not None:
        return _first_line(options.passphrase_file)
    if options.key_file is not None:
        return _key_file(options.key_file)
    if options.passphrase or options.recovery_key:
        what = "passphrase" if options.passphrase else "recovery key"
        if not sys.stdin.isatty():
            raise ConfigError(f"nobody is there to type the {what}: give --passphrase-file FILE or --key-file FILE")
        return getpass.getpass(f"{what.capitalize()}: ")
    return None


def _first_line(path: str) -> str:
    try:
        if path == "-":
            data = sys.stdin.buffer.readline(_LONGEST_LINE + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.readline(_LONGEST_LINE + 1)
        text = data.removesuffix(b"\n").removesuffix(b"\r").decode()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable("--passphrase-file", path, error) from None
    if not text or len(data) > _LONGEST_LINE:
        raise ConfigError(f"--passphrase-file {path}: it does not begin with a passphrase of 1 to 1,024 bytes")
    return text


def _key_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(_LONGEST_FILE + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable("--key-file", path, error) from None
    if not text.strip() or len(text) > _LONGEST_FILE:
        raise ConfigError(f"--key-file {path}: a key file holds 32 to {_LONGEST_FILE:,} characters")
    return text.strip() if text.strip().upper().startswith(_RECOVERY) else text


def _unreadable(option: str, path: object, error: OSError | UnicodeDecodeError) -> ConfigError:
    cause = error.strerror if isinstance(error, OSError) else "it is no text"
    return ConfigError(f"{option} {path}: it cannot be read: {cause}")
