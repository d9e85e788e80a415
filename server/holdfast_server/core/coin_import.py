"""Taking coin files into a wallet: every coin once, every original somewhere.

Coins are written as single-coin files into staging below `.holdfast`, synced and read back. Nothing of the wallet, and
no original, is touched before the import is committed (`import_journal`); from there on there are only renames.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from holdfast_server.core.coin_content import MAX_COIN_FILE, open_coins
from holdfast_server.core.control import Control, Problem, Progress
from holdfast_server.core.folder_marks import TICK_SECONDS
from holdfast_server.core.holdings import Holdings, count_held_files, read_holdings
from holdfast_server.core.import_journal import ImportRecord, Original, Staged, check_folders, staging_name
from holdfast_server.core.import_places import Place, Signature
from holdfast_server.core.import_staging import Staging
from holdfast_server.core.wallet_folder import WalletFolder
from holdfast_server.errors import Aborted, DataLoss, FailedPrecondition, Reason, ResourceExhausted
from holdfast_server.storage.local import free_bytes
from holdfast_server.storage.names import escape
from holdfast_server.storage.tree import problem_from
from holdfast_server.wallets.coin import Coin
from holdfast_server.wallets.coin_file import CoinFile, Container, Encryption
from holdfast_server.wallets.envelope import Keyring
from holdfast_server.wallets.single_file import single_file

__all__ = ["CORRUPTED", "DUPLICATES", "IMPORTED", "CoinCount", "CoinImport", "Imported"]

IMPORTED, DUPLICATES, CORRUPTED = b"Imported", b"Duplicates", b"Corrupted"
#: Containers whose single-coin file is what a wallet folder holds: copied as its maker wrote it.
_AS_IT_IS = frozenset({Container.FORMAT9, Container.CCV2})
#: What progress takes a file to cost beside its bytes.
_FILE_COST = 4096
#: How often an import starts again because originals changed before it could commit.
_ROUNDS = 5


@dataclass(slots=True)
class CoinCount:
    """Coins and their value in units of 1e-8."""

    coins: int = 0
    amount: int = 0

    def add(self, coin: Coin) -> None:
        self.coins += 1
        self.amount += coin.value


@dataclass(slots=True)
class Imported:
    """What an import comes to, or would.

    `read` are files that held coins; each went to Imported (`moved`) or, with nothing but coins that the wallet holds
    already, to Duplicates (`duplicate_files`). `corrupted` went to Corrupted, `encrypted` stayed where they were.
    `problem_files` are the paths of these two and of all else that stayed.
    """

    imported: CoinCount = field(default_factory=CoinCount)
    duplicates: CoinCount = field(default_factory=CoinCount)
    read: int = 0
    moved: int = 0
    duplicate_files: int = 0
    corrupted: int = 0
    encrypted: int = 0
    problem_files: list[bytes] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


class CoinImport:
    """One attempt's reading of what is to be imported into the wallet's `folder`. Needs the wallet's lock."""

    def __init__(
        self,
        wallet: WalletFolder,
        places: Sequence[Place],
        folder: bytes,
        keyring: Keyring,
        control: Control,
        progress: Progress,
    ) -> None:
        self._wallet = wallet
        self._folder = folder
        self._keyring = keyring
        self._control = control
        self._progress = progress
        self._files = _listed(places, control)

    def survey(self) -> Imported:
        """What an import would do. Nothing is written."""
        return self._pass(None, frozenset()).found

    def stage(self, task_id: str, attempt: int) -> tuple[ImportRecord, Imported]:
        """Read everything and put all that is new into staging, proved. Originals are as they were.

        An original that changes meanwhile is left out and stays where it is; when the wallet's coins move meanwhile
        everything is read again, because one that moved may not have been seen. On any exception staging is removed.
        Raises ResourceExhausted/DISK_FULL, Aborted/SOURCE_BUSY when that goes on and on, FailedPrecondition
        (KEY_REQUIRED, KEY_WRONG: see `read_holdings`; FOLDER_NOT_WRITABLE: see `check_folders`).
        """
        self._require_space()
        left_out: set[int] = set()
        for _ in range(_ROUNDS):
            staging = Staging(self._wallet, staging_name(task_id, attempt))
            try:
                taken = self._pass(staging, left_out)
                self._progress.begin("syncing")
                staging.prove(self._control.check)
                changed = taken.changed()
                steady = taken.held.marks.is_steady(self._wallet.root.fd)
                record = taken.record(task_id, attempt)
                check_folders(self._wallet, record)
            except BaseException:
                staging.remove()
                raise
            if steady and not changed:
                staging.close()
                return record, taken.found
            self._progress.begin("reading again")
            staging.remove()
            left_out |= changed
            self._control.wait(TICK_SECONDS)
        raise Aborted(
            Reason.SOURCE_BUSY,
            f"another program is at work in {self._wallet.root.display}: it changes while it is read",
            metadata={"path": self._wallet.root.display},
        )

    def _pass(self, staging: Staging | None, left_out: frozenset[int] | set[int]) -> _Pass:
        taken = _Pass(self._folder, staging, self._keyring)
        self._set_totals()
        self._progress.begin("reading the wallet")
        held = read_holdings(
            self._wallet.root.fd, self._keyring, self._control, self._count_held, taken.found.problems.append
        )
        taken.hold(held)
        self._progress.begin("reading")
        for index, (place, name) in enumerate(self._files):
            self._control.check()
            self._progress.current_file = place.path(name)
            if index in left_out:
                text = f"{escape(place.path(name))} changed while it was imported and stays where it is"
                taken.leave(place.path(name), "CHANGED", text)
                continue
            size = taken.take(index, place, name)
            self._progress.count(size, 1)
        return taken

    def _set_totals(self) -> None:
        size = sum(place.size(name) for place, name in self._files)
        held = count_held_files(self._wallet.root.fd, self._control)
        cost = size + _FILE_COST * len(self._files)
        self._progress.set_totals(size, len(self._files), work=(cost + _FILE_COST * held) / cost if cost else 1.0)

    def _count_held(self, path: bytes) -> None:
        self._progress.current_file = path
        self._progress.advance(0, 1)

    def _require_space(self) -> None:
        needed = sum(min(place.size(name), MAX_COIN_FILE) for place, name in self._files)
        free = free_bytes(self._wallet.root.fd)
        if needed > free:
            raise ResourceExhausted(
                Reason.DISK_FULL,
                f"the import needs up to {needed} bytes and the wallet's filesystem has {free} free",
                metadata={"needed": str(needed), "free": str(free)},
            )


class _Pass:
    """One reading of all originals: what each of them is, and which coins are new."""

    def __init__(self, folder: bytes, staging: Staging | None, keyring: Keyring) -> None:
        self.found = Imported()
        self.coins: list[Staged] = []
        self.copies: list[Staged] = []
        self.originals: list[Original] = []
        self._folder = folder
        self._staging = staging
        self._keyring = keyring
        self.held = Holdings()
        self._signatures: dict[int, tuple[Place, bytes, Signature]] = {}

    def hold(self, held: Holdings) -> None:
        """Coins that are in the wallet already."""
        self.held = held
        if held.foreign:
            text = f"another program encrypted {held.foreign} files of the wallet; copies of their coins go unnoticed"
            self.found.problems.append(Problem(b"", "HOLDINGS_ENCRYPTED", text))

    def record(self, task_id: str, attempt: int) -> ImportRecord:
        """What is to be done once all of it is proved: coins first."""
        staged = (*self.coins, *sorted(self.copies, key=lambda one: one.folder))
        originals = sorted(self.originals, key=lambda one: (one.folder, one.to, one.name))
        return ImportRecord(task_id, attempt, staged, tuple(originals))

    def changed(self) -> set[int]:
        """Which of the originals that are to be moved are not what was read any more."""
        return {index for index, (place, name, then) in self._signatures.items() if place.signature(name) != then}

    def leave(self, path: bytes, reason: str, message: str) -> None:
        """An original that stays where it is, and why."""
        self.found.problem_files.append(path)
        self.found.problems.append(Problem(path, reason, message))

    def take(self, index: int, place: Place, name: bytes) -> int:
        """Read an original, and stage what is new in it; gives the bytes read."""
        path = place.path(name)
        try:
            content, signature = place.read(name)
        except OSError as error:
            self._unreadable(path, error)
            return 0
        try:
            inner, coin_file = open_coins(content, self._keyring)
        except FailedPrecondition as error:
            self._encrypted(path, error.message)
            return len(content)
        except DataLoss as error:
            inner, coin_file = b"", CoinFile(Container.ENVELOPE, problem=error.message)
        if coin_file.encryption is Encryption.ENCRYPTED:
            self._encrypted(path, "another program encrypted it")
            return len(content)
        to = self._sort(path, inner, coin_file)
        if place.inside:
            digest = hashlib.sha256(content).hexdigest()
            self.originals.append(Original(place.inside, name, to, signature.inode, len(content), digest))
            self._signatures[index] = (place, name, signature)
        elif self._staging is not None:
            self.copies.append(Staged(self._staging.add(content, signature.mtime_ns), to, name))
        return len(content)

    def _sort(self, path: bytes, content: bytes, coin_file: CoinFile) -> bytes:
        """Count an original, stage its new coins, and say where it belongs."""
        if not coin_file.coins:
            self.found.corrupted += 1
            self.leave(path, "CORRUPTED", f"{escape(path)}: {coin_file.problem or 'no coin can be read in it'}")
            return CORRUPTED
        self.found.read += 1
        new = [coin for coin in coin_file.coins if self._is_new(coin)]
        for coin in new:
            self._stage(coin, content, coin_file)
        if new:
            self.found.moved += 1
            return IMPORTED
        self.found.duplicate_files += 1
        return DUPLICATES

    def _is_new(self, coin: Coin) -> bool:
        if coin.identity in self.held.identities:
            self.found.duplicates.add(coin)
            return False
        self.held.identities.add(coin.identity)
        self.found.imported.add(coin)
        return True

    def _stage(self, coin: Coin, content: bytes, coin_file: CoinFile) -> None:
        if self._staging is None:
            return
        name, encoded = single_file(coin)
        if coin_file.container in _AS_IT_IS and len(coin_file.coins) == 1:
            encoded = content
        self.coins.append(Staged(self._staging.add(encoded), self._folder, name))

    def _encrypted(self, path: bytes, why: str) -> None:
        self.found.encrypted += 1
        self.leave(path, "ENCRYPTED", f"{escape(path)} stays where it is: {why}")

    def _unreadable(self, path: bytes, error: OSError) -> None:
        shown = escape(path)
        if error.errno == errno.EFBIG:
            self.leave(path, "TOO_LARGE", f"{shown} is larger than {MAX_COIN_FILE} bytes and stays where it is")
        elif error.errno in (errno.EINVAL, errno.ELOOP, errno.ENXIO):
            self.leave(path, "SPECIAL_FILE_SKIPPED", f"{shown} is a link or no regular file; it is not read")
        elif error.errno == errno.ESTALE:
            self.leave(path, "CHANGED", f"{shown} changed while it was read and stays where it is")
        elif error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise error
        else:
            problem = problem_from(path, error, "cannot be read")
            self.leave(path, problem.reason.value, problem.message)


def _listed(places: Sequence[Place], control: Control) -> list[tuple[Place, bytes]]:
    """Every file that was asked for, once."""
    files: dict[tuple[tuple[int, int], bytes], tuple[Place, bytes]] = {}
    for place in places:
        control.check()
        for name in place.names():
            files.setdefault((place.folder.identity, name), (place, name))
    return list(files.values())
