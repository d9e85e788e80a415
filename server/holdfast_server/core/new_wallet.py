"""A wallet restored as a new one, proved in staging: every coin of the backup exactly once.

Coins that an unfinished task of the service had reserved when the backup was made are a matter of their own: the task
may have ended since, and its output may be in somebody's hands. They are counted like all others and then put into
`Suspect/`, where the wallet program asks the network before it spends them; the journal is not carried over.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from holdfast_server.archive.manifest import ProvedManifest
from holdfast_server.archive.member import MemberKind
from holdfast_server.archive.tree import Tree, system_errors
from holdfast_server.core.control import Control, Problem
from holdfast_server.core.opening import open_staged
from holdfast_server.core.wallet_folder import LOCK_FILE, WalletFolder
from holdfast_server.errors import DataLoss, FailedPrecondition, HoldfastError, Reason
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.storage.local import remove_tree
from holdfast_server.storage.names import escape
from holdfast_server.storage.tree import EntryKind, TreeProblem, walk
from holdfast_server.wallets.amounts import decimal_text
from holdfast_server.wallets.census import Census
from holdfast_server.wallets.coin import Coin
from holdfast_server.wallets.coin_file import Container, read_coin_file
from holdfast_server.wallets.envelope import Keyring, read_header
from holdfast_server.wallets.exposure import PARSE_LIMIT
from holdfast_server.wallets.layout import RESERVED_FOLDER, missing_parts

__all__ = ["NewWalletProof", "require_wallet_backup"]

_SHOWN = 100
_SERVICE = RESERVED_FOLDER.encode()
_SUSPECT = b"Suspect"


def require_wallet_backup(header: Mapping[str, Any] | None) -> None:
    """Raises FailedPrecondition/NOT_A_WALLET unless this is the beginning of a wallet's manifest."""
    source = header.get("source") if header is not None else None
    if isinstance(source, dict) and source.get("kind") == "WALLET":
        return
    what = "carries no manifest of Holdfast" if header is None else "is the backup of a directory"
    text = f"the archive {what}, and only the backup of a wallet becomes a new wallet: restore it into a folder"
    raise FailedPrecondition(Reason.NOT_A_WALLET, text)


@dataclass(slots=True)
class _Count:
    """Coins that were counted, and the first of them: path, and what a result says of it."""

    census: Census = field(default_factory=Census)
    coins: list[tuple[bytes, dict[str, Any]]] = field(default_factory=list)

    def add(self, path: bytes, coins: Sequence[Coin], *, encrypted: bool) -> None:
        folder, slash, _ = path.partition(b"/")
        for coin in coins:
            self.census.add(folder if slash else b"", coin)
            if len(self.coins) < _SHOWN:
                record = {
                    "generation": coin.generation.value,
                    "denomination": decimal_text(coin.value),
                    "serial_number": coin.serial,
                    "encrypted": encrypted,
                    "multi_coin": len(coins) > 1,
                }
                self.coins.append((path, record))

    def with_more(self, other: _Count) -> _Count:
        """Both together."""
        census = Census()
        census.merge(self.census)
        census.merge(other.census)
        return _Count(census, [*self.coins, *other.coins][:_SHOWN])

    def rename(self, moved: Mapping[bytes, bytes]) -> None:
        self.coins = [(moved.get(path, path), record) for path, record in self.coins]


class NewWalletProof:
    """What one restore finds out about its wallet.

    `keyring` opens envelopes that the source held itself, which are counted and stay as they are. `report` is told what
    the caller must know though nothing failed, `tell` gets lines for the log.
    """

    def __init__(
        self, keyring: Keyring, control: Control, report: Callable[[Problem], None], tell: Callable[[str], None]
    ) -> None:
        self._keyring = keyring
        self._control = control
        self._report = report
        self._tell = tell
        self._counted = _Count()
        #: Coins in envelopes that the source held itself, by key; and how many of these do not open.
        self._inside: dict[str, _Count] = {}
        self._closed = 0

    def prove(self, tree: Tree, root_fd: int, manifest: ProvedManifest) -> None:
        """Count the coins of every file that the manifest lists, as it lies in the tree, and compare.

        Raises FailedPrecondition/NOT_A_WALLET when the tree lacks what every wallet has, DataLoss/CHECKSUM_MISMATCH
        when the coins are others than the manifest states.
        """
        missing = missing_parts(root_fd)
        if missing:
            raise FailedPrecondition(
                Reason.NOT_A_WALLET,
                f"what the backup holds is no wallet: it lacks {', '.join(missing)}",
                metadata={"missing": ", ".join(missing)},
            )
        for entry in manifest.entries():
            self._control.check()
            if entry.member.kind in (MemberKind.FILE, MemberKind.HARDLINK):
                self._count(tree, entry.source_path)
        self._compare(manifest)
        if manifest.totals.get("complete") is not True:
            text = "the backup lacks files of the wallet, which could not be read then; all that it holds is restored"
            self._report(Problem(b"", "BACKUP_INCOMPLETE", text))

    def set_reserved_aside(self, root_fd: int) -> tuple[int, int]:
        """Put what the service's own folder holds of coins into `Suspect/` and remove the rest of it; gives how many
        files and folders are there no longer.

        Kept is everything but locks and journals, so that no coin is lost for being in a form that nobody reads.
        """
        moved: dict[bytes, bytes] = {}
        removed = 0
        try:
            service = os.open(_SERVICE, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root_fd)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            return 0, 0  # a file or a link of that name is nothing of the service's
        wallet = WalletFolder(OpenFolder(os.dup(root_fd), b""))
        try:
            files, folders = self._listed(service)
            for path in files:
                self._control.check()
                if self._is_journal(service, path):
                    self._tell(f"{escape(_SERVICE + b'/' + path)}: not restored, its task is another wallet's")
                    removed += 1
                else:
                    moved[_SERVICE + b"/" + path] = _SUSPECT + b"/" + self._to_suspect(wallet, path)
        finally:
            os.close(service)
            wallet.root.close()
        remove_tree(root_fd, _SERVICE)
        self._counted.rename(moved)
        for before, after in moved.items():
            self._tell(f"{escape(before)}: reserved when the backup was made; now {escape(after)}")
        if moved:
            text = f"{len(moved)} files that a task had reserved when the backup was made are in Suspect/ now: their "
            text += "coins may have been given away since"
            self._report(Problem(_SERVICE, "COINS_SET_ASIDE", text))
        return removed, folders

    def summary(self) -> dict[str, Any]:
        """All coins of the wallet for the task's result: count and value, and the first hundred."""
        units = sum(count.amount for count in self._counted.census.folders.values())
        coins = []
        for path, record in self._counted.coins:
            folder, slash, name = path.partition(b"/")
            where = {"folder": escape(folder) if slash else "", "file_name": escape(name if slash else folder)}
            coins.append({**record, **where})
        return {"total": {"coins": self._counted.census.coins, "amount": decimal_text(units)}, "coins": coins}

    def _count(self, tree: Tree, path: bytes) -> None:
        parent, name = tree.place(path, make=False)
        with system_errors(path):
            try:
                content = _content(parent, name)
            except FileNotFoundError:
                return  # the name was taken when its envelope was opened; the count will tell
        if len(content) > PARSE_LIMIT:
            return
        found = read_coin_file(content)
        if found.container is not Container.ENVELOPE:
            self._counted.add(path, found.coins, encrypted=False)
            return
        # The source's own envelope: an unlocked wallet's backup counted what the wallet's key opened.
        header = read_header(content)
        try:
            coins = read_coin_file(self._keyring.open(content)).coins
        except HoldfastError:
            self._closed += 1
            return
        if header is not None:
            self._inside.setdefault(header.key_id, _Count()).add(path, coins, encrypted=True)

    def _compare(self, manifest: ProvedManifest) -> None:
        record = manifest.totals.get("coins")
        if record is None:
            text = "the backup states no coin count to compare with: every file's hash agreed with it"
            self._report(Problem(b"", "COINS_NOT_COUNTED", text))
            return
        try:
            stated = Census.from_record(record)
        except ValueError as error:
            raise DataLoss(Reason.CHECKSUM_MISMATCH, f"the backup's count of coins cannot be read: {error}") from error
        # The backup knew one key at most.
        for count in (self._counted, *(self._counted.with_more(one) for one in self._inside.values())):
            if count.census == stated:
                self._counted = count
                return
        if self._closed:
            raise FailedPrecondition(
                Reason.KEY_REQUIRED,
                f"the backup counted {stated.coins} coins, those in envelopes among them that its wallet held itself; "
                f"{self._closed} envelopes do not open with the password or key given, if any",
                metadata={"coins": str(self._counted.census.coins), "stated": str(stated.coins)},
            )
        raise _others(self._counted.census, stated)

    def _listed(self, service_fd: int) -> tuple[list[bytes], int]:
        """The paths of all files in the service's folder, and how many folders there are with it."""
        paths, folders = [], 1
        for entry in walk(service_fd, keep=lambda _path, _is_directory: True, check=self._control.check):
            if isinstance(entry, TreeProblem):
                shown = escape(_SERVICE + b"/" + entry.path)
                raise FailedPrecondition(
                    Reason.FOLDER_NOT_WRITABLE,
                    f"{shown}, where reserved coins lie, cannot be read: {entry.message}",
                    metadata={"path": shown},
                )
            if entry.kind is EntryKind.FILE:
                paths.append(entry.path)
            folders += entry.kind is EntryKind.DIRECTORY
        return paths, folders

    def _is_journal(self, service_fd: int, path: bytes) -> bool:
        if b"/" in path:
            return False
        if path == LOCK_FILE:
            return True
        content = _content(service_fd, path)
        if read_coin_file(content).container is not Container.OTHER:
            return False
        with suppress(ValueError, RecursionError):
            return isinstance(json.loads(content), dict)
        return False

    def _to_suspect(self, wallet: WalletFolder, path: bytes) -> bytes:
        *folders, name = path.split(b"/")
        with wallet.folder(_SUSPECT, create=True) as suspect, wallet.folder(_SERVICE, *folders) as reserved:
            return wallet.move(reserved, name, suspect)


def _others(found: Census, stated: Census) -> DataLoss:
    differing = sorted(
        escape(name) or "the wallet's root"
        for name in found.folders.keys() | stated.folders.keys()
        if found.folders.get(name) != stated.folders.get(name)
    )
    where = f" in {', '.join(differing)}" if differing else ": they are other ones"
    return DataLoss(
        Reason.CHECKSUM_MISMATCH,
        f"the restored coins are not those of the backup: {found.coins} instead of {stated.coins}{where}",
        metadata={"coins": str(found.coins), "stated": str(stated.coins), "folders": ", ".join(differing)},
    )


def _content(parent: int, name: bytes) -> bytes:
    """As much of a file as shows its coins: of larger ones none are read."""
    with open(open_staged(parent, name), "rb") as file:
        return file.read(PARSE_LIMIT + 1)
