"""The coins of a wallet that an export may take, and the choice among them.

Only single coins that can be read are taken. A file of several coins is not split, a coin that lies in two files is
taken from neither: after an export it would be spent and still be there.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from holdfast_server.core.coin_content import open_coins, read_content
from holdfast_server.core.control import Control, Problem
from holdfast_server.core.wallet_folder import WalletFolder
from holdfast_server.errors import DataLoss, FailedPrecondition, HoldfastError, Reason
from holdfast_server.storage.names import escape
from holdfast_server.wallets.amounts import decimal_text
from holdfast_server.wallets.coin import Coin, Generation
from holdfast_server.wallets.coin_file import Container, Encryption
from holdfast_server.wallets.envelope import Keyring
from holdfast_server.wallets.layout import MONEY_FOLDERS
from holdfast_server.wallets.selection import nearest, select

__all__ = ["LeftOut", "Stock", "StockCoin", "WhyLeftOut", "choose", "read_single", "read_stock"]

_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BANK = MONEY_FOLDERS[0].encode()


@dataclass(frozen=True, slots=True)
class StockCoin:
    """A file of one coin: `name` in `folder` of the wallet; `value` in units of 1e-8."""

    folder: bytes
    name: bytes
    value: int
    identity: bytes
    generation: Generation


class WhyLeftOut(StrEnum):
    """Why the coins of a file cannot be exported. The words are for people, about one file or several."""

    SEVERAL_COINS = "of several coins, which an export does not split"
    DUPLICATE = "with a coin that lies in more than one file"
    NO_KEY = "encrypted with a key that is not here"
    FOREIGN = "encrypted by another program"
    UNREADABLE = "that cannot be read"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file whose coins are not taken. `amount` in units of 1e-8, 0 where it is not known."""

    path: bytes
    why: WhyLeftOut
    amount: int = 0

    def problem(self) -> Problem:
        """As tasks report it."""
        return Problem(self.path, f"COIN_{self.why.name}", f"not exported: a file {self.why.value}")


@dataclass(slots=True)
class Stock:
    """What lies in Bank and Fracked. `coins` can be exported; `balance` is the value of all coins that could be read,
    in units of 1e-8; `key_error` is why the first envelope did not open."""

    coins: list[StockCoin] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    balance: int = 0
    key_error: HoldfastError | None = None

    @property
    def exportable(self) -> int:
        """Units of all coins that can be exported."""
        return sum(coin.value for coin in self.coins)

    @property
    def legible(self) -> bool:
        """Whether `balance` is that of all coins: no file kept what it holds to itself."""
        hidden = (WhyLeftOut.NO_KEY, WhyLeftOut.FOREIGN, WhyLeftOut.UNREADABLE)
        return not any(one.why in hidden for one in self.left_out)


def read_stock(
    wallet: WalletFolder,
    keyring: Keyring,
    control: Control,
    taken: Collection[bytes] = (),
    advance: Callable[[bytes], None] = lambda _: None,
) -> Stock:
    """Read the files of Bank and Fracked, not of folders in them. `taken` are identities of coins that unfinished
    exports have reserved: their duplicates are left out. `advance` is called with the path of each file.

    Raises Stopped, and OSError where a folder cannot be listed.
    """
    stock = Stock()
    seen = Counter[bytes](taken)
    for folder in map(str.encode, MONEY_FOLDERS):
        with wallet.folder(folder) as fd:
            for name in sorted(map(os.fsencode, os.listdir(fd))):
                control.check()
                advance(folder + b"/" + name)
                _add(stock, seen, fd, folder, name, keyring)
    once = [coin for coin in stock.coins if seen[coin.identity] == 1]
    stock.left_out += [
        LeftOut(coin.folder + b"/" + coin.name, WhyLeftOut.DUPLICATE, coin.value)
        for coin in stock.coins
        if seen[coin.identity] > 1
    ]
    stock.coins = once
    return stock


def choose(stock: Stock, amount: int) -> list[StockCoin]:
    """Coins worth exactly `amount` units, as few as possible: of Bank alone if it can make it, else of Bank and
    Fracked, those of Bank first.

    Raises FailedPrecondition: INSUFFICIENT_BALANCE; NO_EXACT_CHANGE with `nearest_lower` and `nearest_higher` in its
    metadata, as far as there are any; KEY_REQUIRED or KEY_WRONG where coins that did not open might make the amount.
    """
    bank = [coin for coin in stock.coins if coin.folder == _BANK]
    for coins in (bank, stock.coins):
        chosen = select(Counter(coin.value for coin in coins), amount)
        if chosen is not None:
            return list(_pick(coins, chosen))
    raise _refusal(stock, amount)


def read_single(dir_fd: int, name: bytes, keyring: Keyring) -> Coin:
    """The one coin of a file. Raises OSError, ValueError when it holds none or several, and as `open_coins`."""
    _, file = open_coins(_content(dir_fd, name), keyring)
    if len(file.coins) != 1:
        raise ValueError(f"it holds {len(file.coins)} coins that can be read, not one")
    return file.coins[0]


def _add(stock: Stock, seen: Counter[bytes], fd: int, folder: bytes, name: bytes, keyring: Keyring) -> None:
    path = folder + b"/" + name
    try:
        if not stat.S_ISREG(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            return
        _, file = open_coins(_content(fd, name), keyring)
    except FailedPrecondition as error:
        stock.key_error = stock.key_error or error
        stock.left_out.append(LeftOut(path, WhyLeftOut.NO_KEY))
        return
    except FileNotFoundError:
        return  # taken by the wallet program since it was listed
    except (OSError, ValueError, DataLoss):
        stock.left_out.append(LeftOut(path, WhyLeftOut.UNREADABLE))
        return
    worth = sum(coin.value for coin in file.coins)
    stock.balance += worth
    for coin in file.coins:
        seen[coin.identity] += 1
    if len(file.coins) == 1 and worth:
        coin = file.coins[0]
        stock.coins.append(StockCoin(folder, name, coin.value, coin.identity, coin.generation))
    elif file.coins:
        if worth:
            stock.left_out.append(LeftOut(path, WhyLeftOut.SEVERAL_COINS, worth))
    elif file.encryption is Encryption.ENCRYPTED:
        stock.left_out.append(LeftOut(path, WhyLeftOut.FOREIGN))
    elif file.problem or (file.container is Container.OTHER and name.lower().endswith(b".bin")):
        stock.left_out.append(LeftOut(path, WhyLeftOut.UNREADABLE))


def _content(dir_fd: int, name: bytes) -> bytes:
    fd = os.open(name, _FILE_FLAGS, dir_fd=dir_fd)
    try:
        return read_content(fd)
    finally:
        os.close(fd)


def _pick(coins: Sequence[StockCoin], chosen: Mapping[int, int]) -> Iterator[StockCoin]:
    left = dict(chosen)
    for coin in coins:  # Bank comes first
        if left.get(coin.value, 0):
            left[coin.value] -= 1
            yield coin


def _refusal(stock: Stock, amount: int) -> HoldfastError:
    """Why the amount cannot be made."""
    if stock.key_error is not None:
        locked = sum(one.why is WhyLeftOut.NO_KEY for one in stock.left_out)
        return FailedPrecondition(
            stock.key_error.reason,
            f"{decimal_text(amount)} cannot be made of the coins that can be read, worth "
            f"{decimal_text(stock.exportable)}; {locked} files are encrypted: {stock.key_error.message}",
            metadata={**stock.key_error.metadata, "files": str(locked)},
        )
    shown, total = decimal_text(amount), stock.exportable
    metadata = {"amount": shown, "available": decimal_text(total)}
    if amount > total:
        text = f"the wallet has {decimal_text(total)} to export, {shown} was asked for"
        return FailedPrecondition(Reason.INSUFFICIENT_BALANCE, text + _not_counted(stock), metadata=metadata)
    near = nearest(Counter(coin.value for coin in stock.coins), amount)
    found = {"nearest_lower": near.lower, "nearest_higher": near.higher}
    metadata |= {name: decimal_text(units) for name, units in found.items() if units is not None}
    words = [f"{name.removeprefix('nearest_')} is {metadata[name]}" for name in found if name in metadata]
    text = f"no coins of the wallet make exactly {shown}; the nearest that can be made: {', '.join(words)}"
    return FailedPrecondition(Reason.NO_EXACT_CHANGE, text + _not_counted(stock), metadata=metadata)


def _not_counted(stock: Stock) -> str:
    """A sentence on the files left out; empty if there are none."""
    parts = []
    for why in WhyLeftOut:
        files = [one for one in stock.left_out if one.why is why]
        if not files:
            continue
        worth = sum(one.amount for one in files)
        parts.append(
            f"{len(files)} {'file' if len(files) == 1 else 'files'} {why.value}"
            f"{f' (worth {decimal_text(worth)})' if worth else ''}, such as {escape(files[0].path)}"
        )
    if not parts:
        return ""
    remedy = ""
    if any(one.why is WhyLeftOut.SEVERAL_COINS for one in stock.left_out):
        remedy = "; ImportCoins splits files of several coins"
    return f". Not counted: {'; '.join(parts)}{remedy}"
