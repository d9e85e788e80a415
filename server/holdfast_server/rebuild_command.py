"""`holdfast-server rebuild-catalog`: its options, and what it prints."""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast_server.app import rebuild_catalog
from holdfast_server.config import Config, ConfigError
from holdfast_server.secret_options import add_secret_options, read_secret
from holdfast_server.storage.names import escape

if TYPE_CHECKING:
    from holdfast_server.storage.folder import OpenFolder
    from holdfast_server.tasks.rebuild import Finding

__all__ = ["COMMAND", "add_command", "run"]

COMMAND = "rebuild-catalog"
#: How often a large archive says how far it is.
_PROGRESS_SECONDS = 5.0


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the command; gives its parser, for the options that all commands have."""
    rebuild = commands.add_parser(
        COMMAND,
        help="find backups again from their archives and repositories, after the catalog was lost",
        description="Read every archive in the folders, and the snapshots of the repositories whose keys the data "
        "directory has or a secret opens, and add those that the catalog does not know. Nothing in the folders and no "
        "present row is changed. The server must be stopped. Exit status 3: something was skipped or is missing.",
        epilog="Where a repository lies is kept beside its keys in the data directory: --repository is for those that "
        "were moved, and for those of which nothing is left but their folder and a passphrase, a key file or the "
        "recovery key: holdfast-server rebuild-catalog --repository vault=/mnt/vault --recovery-key",
    )
    rebuild.add_argument("--folder", type=Path, metavar="DIR", nargs="+", action="extend", default=[],
                         help="folders that hold archives, or a repository")  # fmt: skip
    rebuild.add_argument("--recursive", action="store_true", help="also everything below the folders")
    rebuild.add_argument("--repository", metavar="[ID=]DIR", action="append", default=[],
                         help="folder of a repository; the ID may be left out while its keys are there")  # fmt: skip
    add_secret_options(rebuild)
    rebuild.add_argument("--dry-run", action="store_true", help="only tell what would be added")
    return rebuild


def run(options: argparse.Namespace, config: Config) -> int:
    """Do it, in a data directory that is ours alone; gives the exit status. Raises ConfigError, before anything is
    read, for what cannot be opened."""
    secret = read_secret(options)
    with ExitStack() as stack:
        folders = [stack.enter_context(_opened("--folder", folder)) for folder in options.folder]
        told: list[tuple[str | None, bytes]] = []
        for text in options.repository:
            repository_id, path = _named(text)
            told.append((repository_id, stack.enter_context(_opened("--repository", path)).path))
        done = rebuild_catalog(
            config, folders, told, secret, _Printer(), recursive=options.recursive, dry_run=options.dry_run
        )
    if done.pathless:
        sys.stdout.write(f"give these sources their folders with UpdateSource: {', '.join(done.pathless)}\n")
    verb = "would be added" if options.dry_run else "added"
    sys.stdout.write(f"{done.found} {verb}, {done.known} known, {done.skipped} skipped, {done.missing} missing\n")
    return 3 if done.skipped or done.missing else 0


class _Printer:
    """Prints findings; what is read for long now and then."""

    def __init__(self) -> None:
        self._reading, self._said = b"", 0.0

    def __call__(self, finding: Finding) -> None:
        if finding.kind == "reading":
            if finding.path == self._reading and time.monotonic() - self._said < _PROGRESS_SECONDS:
                return
            self._reading, self._said = finding.path, time.monotonic()
        sys.stdout.write(f"{finding.kind:<8} {escape(finding.path)}{': ' if finding.text else ''}{finding.text}\n")
        sys.stdout.flush()


def _named(text: str) -> tuple[str | None, Path]:
    """What `ID=DIR` or `DIR` names. A folder that looks like the former is named with `./` before it."""
    from holdfast_server.tasks.repositories import REPOSITORY_ID

    repository_id, _, path = text.partition("=")
    return (repository_id, Path(path)) if path and REPOSITORY_ID.fullmatch(repository_id) else (None, Path(text))


def _opened(option: str, folder: Path) -> OpenFolder:
    from holdfast_server.errors import HoldfastError
    from holdfast_server.storage.folder import open_folder

    try:
        return open_folder(os.path.abspath(os.fsencode(folder)), option)
    except HoldfastError as error:
        raise ConfigError(f"{option} {folder}: {error.message}") from error
