"""Which coins a wallet holds: what an import compares with, so that no coin is taken in twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from holdfast_server.core.coin_content import open_coins, read_content
from holdfast_server.core.control import Control, Problem
from holdfast_server.core.folder_marks import FolderMarks
from holdfast_server.errors import DataLoss
from holdfast_server.storage.tree import EntryKind, ProblemReason, TreeEntry, TreeProblem, problem_from, walk
from holdfast_server.wallets.coin_file import Encryption
from holdfast_server.wallets.envelope import Keyring
from holdfast_server.wallets.layout import RESERVED_FOLDER, UNHELD_FOLDERS

__all__ = ["Holdings", "count_held_files", "is_held", "read_holdings"]

_UNHELD = frozenset(map(os.fsencode, UNHELD_FOLDERS))
_RESERVED = RESERVED_FOLDER.encode()
#: Coins that an unfinished export has reserved are the wallet's until it publishes them.
_EXPORTS = _RESERVED + b"/export-"


@dataclass(slots=True)
class Holdings:
    """`identities` of all coins that could be read; `foreign` counts files that another program encrypted.

    `marks` are the folders as they were when they were listed.
    """

    identities: set[bytes] = field(default_factory=set)
    foreign: int = 0
    marks: FolderMarks = field(default_factory=FolderMarks)


def is_held(path: bytes) -> bool:
    """Whether the wallet holds a coin that lies at this path below it."""
    folder = path.partition(b"/")[0]
    if folder == _RESERVED:
        return path.startswith(_EXPORTS) and b"/" in path[len(_EXPORTS) :]
    return folder not in _UNHELD


def count_held_files(root_fd: int, control: Control) -> int:
    """How many files `read_holdings` will read."""
    items = _held(root_fd, control)
    return sum(1 for item in items if isinstance(item, TreeEntry) and item.kind is EntryKind.FILE)


def _held(root_fd: int, control: Control) -> Iterator[TreeEntry | TreeProblem]:
    """The files that may hold coins of the wallet with the folders they lie in, and what could not be looked at."""

    def keep(path: bytes, is_directory: bool) -> bool:
        return path == _RESERVED or (is_directory and path.startswith(_EXPORTS)) or is_held(path)

    for item in walk(root_fd, keep=keep, check=control.check):
        if isinstance(item, TreeProblem) or item.kind is not EntryKind.SYMLINK:
            yield item


def read_holdings(
    root_fd: int,
    keyring: Keyring,
    control: Control,
    advance: Callable[[bytes], None],
    report: Callable[[Problem], None],
) -> Holdings:
    """Read every coin that the wallet holds. `advance` is called for each file, with its path.

    What cannot be read is reported, damaged envelopes too: whatever coin was in one, it is no money any more. Raises
    FailedPrecondition/KEY_REQUIRED or KEY_WRONG when the wallet holds coins in envelopes that the keyring does not
    open: their duplicates would go unnoticed.
    """
    found = Holdings()
    for item in _held(root_fd, control):
        if isinstance(item, TreeProblem):
            if item.reason is not ProblemReason.SPECIAL_FILE_SKIPPED:  # which holds no coin
                report(Problem(item.path, item.reason.value, item.message))
            continue
        if item.kind is EntryKind.DIRECTORY:
            if item.path != _RESERVED:  # which holds what this import writes, too
                found.marks.add(item.path, item.stat)
            continue
        advance(item.path)
        try:
            _, coin_file = open_coins(_read(item), keyring)
        except OSError as error:
            problem = problem_from(item.path, error, "cannot be compared with what is imported")
            report(Problem(item.path, problem.reason.value, problem.message))
            continue
        except DataLoss as error:
            report(Problem(item.path, error.reason.value, error.message))
            continue
        found.foreign += coin_file.encryption is Encryption.ENCRYPTED
        found.identities.update(coin.identity for coin in coin_file.coins)
    return found


def _read(item: TreeEntry) -> bytes:
    fd, _ = item.open_file()
    try:
        return read_content(fd)
    finally:
        os.close(fd)
