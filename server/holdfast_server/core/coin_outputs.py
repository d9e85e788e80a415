"""The files that an export writes: which coins go into which, their names, and how they come to stand there proved."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import cast

from holdfast_server.archive.format import SEALED_SUFFIX
from holdfast_server.archive.sealing import Recipients, SealingFile
from holdfast_server.core.coin_journal import ExportJournal, OutputFile
from holdfast_server.core.coin_reserve import reserved_path
from holdfast_server.core.coin_stock import read_single
from holdfast_server.core.control import Control
from holdfast_server.core.publish import create_partial, find_published, partial_name
from holdfast_server.core.read_back import hash_file
from holdfast_server.core.wallet_folder import WalletFolder, free_names
from holdfast_server.errors import Aborted, DataLoss, FailedPrecondition, Reason
from holdfast_server.storage import local
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.storage.names import escape
from holdfast_server.wallets.amounts import decimal_text
from holdfast_server.wallets.coin import Coin, Generation
from holdfast_server.wallets.coin_file import read_coin_file
from holdfast_server.wallets.envelope import Keyring
from holdfast_server.wallets.packing import MAX_COINS, CoinForm, check, pack
from holdfast_server.wallets.picture import Picture

__all__ = ["OutputPlan", "Packaging", "build", "missing", "name_outputs", "plan_outputs", "publish", "stands"]


@dataclass(frozen=True, slots=True)
class Packaging:
    """How coins become files: of which form, with which part of the name, sealed to whom. `template` is the content of
    a PNG that is to carry them, with PNG only."""

    form: CoinForm
    tag: str = ""
    recipients: Recipients | None = None
    template: bytes | None = None

    @property
    def suffix(self) -> str:
        return f".{self.form.value.lower()}" + (SEALED_SUFFIX if self.recipients else "")

    @property
    def picture(self) -> Picture:
        return Picture(self.tag, self.template)

    def pack(self, coins: Sequence[Coin], generation: Generation) -> bytes:
        return pack(coins, self.form, generation, picture=self.picture)


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """A file to be made of `coins` coins from the index `first` on; `amount` in units of 1e-8."""

    wanted: bytes
    first: int
    coins: int
    amount: int
    generation: Generation


def plan_outputs(coins: Sequence[tuple[Generation, int]], packaging: Packaging) -> list[OutputPlan]:
    """The files for coins given as (generation, value), which are in the order of their generations.

    Names are `{amount}.CloudCoin.{generation}.{tag}.{number}.{form}`: the generation only when there are several, the
    number only when there are several files, no empty parts; `.age` follows for a sealed one. Raises
    InvalidArgument/INVALID_FIELD where the form can hold no coins of a generation.
    """
    groups: list[tuple[Generation, int, int, int]] = []
    first = 0
    for generation, members in groupby(coins, key=lambda one: one[0]):
        check([], packaging.form, generation)
        values = [value for _, value in members]
        for start in range(0, len(values), MAX_COINS):
            part = values[start : start + MAX_COINS]
            groups.append((generation, first + start, len(part), sum(part)))
        first += len(values)
    several = len({generation for generation, *_ in groups}) > 1
    plans = []
    for number, (generation, start, count, amount) in enumerate(groups, 1):
        parts = [decimal_text(amount), "CloudCoin", generation.value if several else "", packaging.tag]
        parts.append(str(number) if len(groups) > 1 else "")
        name = ".".join(filter(None, parts)) + packaging.suffix
        plans.append(OutputPlan(name.encode(), start, count, amount, generation))
    return plans


def build(
    wallet: WalletFolder,
    journal: ExportJournal,
    plan: OutputPlan,
    number: int,
    folder: OpenFolder,
    packaging: Packaging,
    keyring: Keyring,
    control: Control,
    advance: Callable[[int], None],
) -> OutputFile:
    """Write one file of reserved coins as a partial in the opened folder, synced, and prove that it holds them.

    Raises Aborted/SOURCE_BUSY for a reserved coin that is not the one that was chosen, DataLoss/CHECKSUM_MISMATCH when
    the file gives back anything else than was written, FailedPrecondition/KEY_…, OSError, Stopped.
    """
    coins = []
    for coin in _reserved(wallet, journal, plan, keyring):
        control.check()
        coins.append(coin)
        advance(1)
    content = packaging.pack(coins, plan.generation)
    proved = Counter(coin.identity for coin in read_coin_file(content).coins)
    if proved != Counter(coin.identity for coin in coins):
        raise _damage(plan.wanted, "the file made of the coins does not hold them")
    name = partial_name(journal.task_id, journal.attempt, number)
    fd = create_partial(folder.fd, name)
    try:
        if packaging.recipients is None:
            sha256 = hashlib.sha256(content).hexdigest()
            _write(fd, content)
        else:
            sha256 = _seal(fd, content, packaging.recipients, control)
        local.fsync_file(fd)
        if hash_file(fd, control.check) != sha256:
            raise _damage(name, "the disk gives back other bytes than it was given")
        size = os.fstat(fd).st_size
    finally:
        os.close(fd)
    return OutputFile(name, plan.wanted, size, sha256, plan.first, plan.coins, plan.amount, plan.generation)


def name_outputs(journal: ExportJournal, folder: OpenFolder) -> None:
    """Give a free name to each file of the journal that has none."""
    taken = {one.name for one in journal.outputs}
    for one in journal.outputs:
        if not one.name:
            one.name = next(n for n in _names_like(one.wanted) if n not in taken and not local.exists(folder.fd, n))
            taken.add(one.name)


def missing(journal: ExportJournal, folder: OpenFolder) -> list[OutputFile]:
    """The files that have to be made again: those that stand neither under their partial's nor under their own name.

    One that was about to be published into this same folder and is gone was published: only its new name took the old
    one away. Whoever has it has the coins, so it is not made twice.
    """
    same = journal.destination == folder.identity
    for one in journal.outputs:
        if not one.published and one.name and not local.exists(folder.fd, one.partial):
            one.published = same or stands(one, folder)
    return [one for one in journal.outputs if not (one.published or local.exists(folder.fd, one.partial))]


def publish(wallet: WalletFolder, journal: ExportJournal, folder: OpenFolder) -> None:
    """Give every file its name, durably and replacing nothing; the names are in the journal before.

    Raises FailedPrecondition/FOLDER_NOT_FOUND for a file that is gone, OSError.
    """
    while waiting := [one for one in journal.outputs if not one.published]:
        name_outputs(journal, folder)
        journal.save(wallet)
        try:
            for one in waiting:
                _publish_one(one, folder)
        finally:
            journal.save(wallet)


def _publish_one(one: OutputFile, folder: OpenFolder) -> None:
    try:
        local.publish(folder.fd, one.partial, one.name)
    except FileExistsError:
        if stands(one, folder):  # a link was made, and a crash came before its old name went
            os.unlink(one.partial, dir_fd=folder.fd)
        else:
            one.name = b""
            return
    except FileNotFoundError as error:
        one.name = b""
        path = escape(folder.path.rstrip(b"/") + b"/" + one.partial)
        text = f"{path}, which was written a moment ago, is gone"
        raise FailedPrecondition(Reason.FOLDER_NOT_FOUND, text, metadata={"path": path}) from error
    one.published = True


def _names_like(wanted: bytes) -> Iterator[bytes]:
    """`10.CloudCoin.bin`, `10.CloudCoin-2.bin` …, also before `.age`."""
    suffix = SEALED_SUFFIX.encode()
    plain = wanted.removesuffix(suffix)
    return (name + wanted[len(plain) :] for name in free_names(plain))


def _reserved(wallet: WalletFolder, journal: ExportJournal, plan: OutputPlan, keyring: Keyring) -> Iterator[Coin]:
    """The coins of a file, read again, each the very one that was chosen."""
    wanted = journal.coins[plan.first : plan.first + plan.coins]
    for folder, members in groupby(wanted, key=lambda coin: coin.folder):
        with wallet.folder(*reserved_path(journal, folder)) as reserve:
            for coin in members:
                try:
                    found = read_single(reserve, coin.name, keyring)
                except (ValueError, FileNotFoundError) as error:
                    raise _changed(coin.folder + b"/" + coin.name) from error
                if found.identity != coin.identity:
                    raise _changed(coin.folder + b"/" + coin.name)
                yield found


def _write(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def _seal(fd: int, content: bytes, recipients: Recipients, control: Control) -> str:
    with open(os.dup(fd), "wb", buffering=0) as raw:
        sealing = SealingFile(cast("io.RawIOBase", raw), recipients, control.check)
        try:
            view = memoryview(content)
            while view:
                view = view[sealing.write(view) :]
            return sealing.finish().sha256
        except BaseException:
            sealing.abort()
            raise


def stands(one: OutputFile, folder: OpenFolder) -> bool:
    """Whether the file lies whole under its name."""
    return find_published(folder.fd, one.name, one.size, one.sha256, lambda: None)


def _changed(path: bytes) -> Aborted:
    shown = escape(path)
    text = f"{shown} is no longer the coin that was chosen: another program uses the wallet"
    return Aborted(Reason.SOURCE_BUSY, text, metadata={"path": shown})


def _damage(name: bytes, text: str) -> DataLoss:
    shown = escape(name)
    return DataLoss(Reason.CHECKSUM_MISMATCH, f"{shown}: {text}", metadata={"path": shown})
