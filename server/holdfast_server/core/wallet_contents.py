"""What a wallet holds, for people: totals, and coins page by page. Runs in the reader process; no result has an AN.

A listing is one sorted list of bytes, one entry per coin, that begins with what coins are ordered by: so a page's
position is an entry, and the next page starts behind it, whatever was added or taken meanwhile.
"""

from __future__ import annotations

import struct
import threading
import time
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from holdfast_server.core.wallet_scan import LIMBO, MONEY, RESERVED, scan_wallet
from holdfast_server.errors import Reason, Unavailable
from holdfast_server.storage.folder import OpenFolder, open_folder
from holdfast_server.storage.names import escape
from holdfast_server.wallets.coin import Generation
from holdfast_server.wallets.envelope import Keyring, WalletKey

__all__ = [
    "CoinRow",
    "CoinWish",
    "FolderTotals",
    "WalletPlace",
    "WalletTotals",
    "coins_columns",
    "coins_page",
    "read_totals",
    "reserved",
]

#: How long a listing is kept for further pages, how many, and how many coins together; the newest is kept in any case.
_KEEP_SECONDS = 60.0
_MOST_LISTINGS = 8
_MOST_COINS = 1_000_000

# Of a listing's entry: folder, NUL, these, name, NUL, the tail. The value is turned around: the largest comes first.
_HEAD = struct.Struct(">QI")
_TAIL = struct.Struct(">IB")
_TOP = (1 << 64) - 1
_GENERATIONS = tuple(generation.value for generation in Generation)
_NUMBERS = {generation: number for number, generation in enumerate(Generation)}
_ENCRYPTED, _MULTI_COIN = 0x10, 0x20
#: Behind every entry of the same coin, whatever became of the flags in its last byte.
_BEHIND = b"\xff"


class WalletPlace(NamedTuple):
    """A wallet that the edge has opened and checked: its path, and (st_dev, st_ino) to know it again."""

    path: bytes
    identity: tuple[int, int]


@dataclass(slots=True)
class FolderTotals:
    """What one folder holds: coins by value, in units of 1e-8, and files that gave none."""

    values: dict[int, int] = field(default_factory=dict)
    opaque_files: int = 0
    encrypted_files: int = 0
    multi_coin_files: int = 0

    @property
    def coins(self) -> int:
        return sum(self.values.values())

    @property
    def amount(self) -> int:
        return sum(value * coins for value, coins in self.values.items())

    @property
    def unread_files(self) -> int:
        """Files that may hold coins which are not in `values`."""
        return self.opaque_files + self.encrypted_files


@dataclass(slots=True)
class WalletTotals:
    """All folders with a file in them; `.holdfast` is among them, and the wallet's root has an empty name."""

    folders: dict[bytes, FolderTotals] = field(default_factory=dict)

    def sum(self, names: Collection[bytes]) -> tuple[int, int]:
        """Coins and their value, of these folders together."""
        chosen = [self.folders[name] for name in names if name in self.folders]
        return sum(one.coins for one in chosen), sum(one.amount for one in chosen)

    @property
    def spendable(self) -> tuple[int, int]:
        """Coins and value of Bank and Fracked."""
        return self.sum(MONEY)

    @property
    def limbo(self) -> tuple[int, int]:
        return self.sum((LIMBO,))

    @property
    def reserved(self) -> tuple[int, int]:
        """Coins and value below `.holdfast`."""
        return self.sum((RESERVED,))

    @property
    def shown(self) -> list[tuple[bytes, FolderTotals]]:
        """Folders in the order of their names. `.holdfast` only when something there could not be counted, since its
        coins stand under `reserved` already."""
        return [(name, one) for name, one in sorted(self.folders.items()) if name != RESERVED or one.unread_files]

    # -- what a scan finds (core.wallet_scan.Sink)

    def coin(
        self,
        folder: bytes,
        name: bytes,
        ordinal: int,
        generation: Generation,
        value: int,
        serial: int,
        encrypted: bool,
        multi_coin: bool,
    ) -> None:
        del name, ordinal, generation, serial, encrypted, multi_coin
        values = self._of(folder).values
        values[value] = values.get(value, 0) + 1

    def multi_coin(self, folder: bytes) -> None:
        self._of(folder).multi_coin_files += 1

    def encrypted(self, folder: bytes) -> None:
        self._of(folder).encrypted_files += 1

    def opaque(self, folder: bytes) -> None:
        self._of(folder).opaque_files += 1

    def _of(self, folder: bytes) -> FolderTotals:
        totals = self.folders.get(folder)
        if totals is None:
            totals = self.folders[folder] = FolderTotals()
        return totals


class CoinWish(NamedTuple):
    """Which coins to list. `folders` empty: all; `value` in units of 1e-8, None: all."""

    folders: frozenset[bytes] = frozenset()
    value: int | None = None


class CoinRow(NamedTuple):
    """One coin of a page, names escaped; a page `after` the `position` starts behind it."""

    folder: str
    name: str
    value: int
    serial: int
    generation: str
    encrypted: bool
    multi_coin: bool
    position: bytes


def read_totals(place: WalletPlace, keys: Sequence[str]) -> WalletTotals:
    """Count the wallet. `keys` (`WalletKey.to_text`) open its coin envelopes.

    Raises Unavailable/SOURCE_OFFLINE, FailedPrecondition/SOURCE_UNREADABLE.
    """
    with _opened(place) as root:
        return scan_wallet(root, Keyring(map(WalletKey.from_text, keys)), WalletTotals)


def reserved(place: WalletPlace) -> int:
    """How many coins lie below `.holdfast`. Raises as `read_totals`."""
    with _opened(place) as root:
        return scan_wallet(root, Keyring(), WalletTotals, {RESERVED}).reserved[0]


def coins_columns(
    place: WalletPlace, keys: Sequence[str], wish: CoinWish, after: bytes | None, limit: int
) -> list[tuple[Any, ...]]:
    """What `coins_page` gives, a tuple for each field instead of a row for each coin: that travels between processes
    in a third of the time."""
    return list(zip(*coins_page(place, keys, wish, after, limit), strict=True))


def coins_page(
    place: WalletPlace, keys: Sequence[str], wish: CoinWish, after: bytes | None, limit: int
) -> list[CoinRow]:
    """At most `limit` coins by folder, value (largest first), serial number and file name.

    The first page reads the wallet; pages `after` a position use what it read for a minute, then read again. Raises as
    `read_totals`.
    """
    known = [WalletKey.from_text(key) for key in keys]
    name = (place, wish, frozenset(key.key_id for key in known))
    listing = None if after is None else _KEPT.get(name)
    if listing is None:
        with _opened(place) as root:
            found = scan_wallet(root, Keyring(known), lambda: _Listing(wish), wish.folders or None)
        listing = found.entries
        listing.sort()
        if len(listing) > limit:
            _KEPT.put(name, listing)
    at = 0 if after is None else bisect_right(listing, after + _BEHIND)
    return [_row(entry) for entry in listing[at : at + limit]]


class _Listing:
    """Takes what a scan finds and keeps the coins that are wished for."""

    __slots__ = ("_value", "entries")

    def __init__(self, wish: CoinWish) -> None:
        self._value = wish.value
        self.entries: list[bytes] = []

    def coin(
        self,
        folder: bytes,
        name: bytes,
        ordinal: int,
        generation: Generation,
        value: int,
        serial: int,
        encrypted: bool,
        multi_coin: bool,
    ) -> None:
        if self._value is not None and value != self._value:
            return
        flags = _NUMBERS[generation] | _ENCRYPTED * encrypted | _MULTI_COIN * multi_coin
        head, tail = _HEAD.pack(_TOP - value, serial), _TAIL.pack(ordinal, flags)
        self.entries.append(b"%b\0%b%b\0%b" % (folder, head, name, tail))

    def multi_coin(self, folder: bytes) -> None:
        """Each of its coins says so."""

    def encrypted(self, folder: bytes) -> None:
        """No coin of it can be listed."""

    def opaque(self, folder: bytes) -> None:
        """No coin of it can be listed."""


#: A page names the same folder a thousand times.
_folder_name = lru_cache(maxsize=256)(escape)


def _row(entry: bytes) -> CoinRow:
    at, flags = entry.index(0), entry[-1]
    turned, serial = _HEAD.unpack_from(entry, at + 1)
    return CoinRow(
        _folder_name(entry[:at]),
        escape(entry[at + 1 + _HEAD.size : -_TAIL.size - 1]),
        _TOP - turned,
        serial,
        _GENERATIONS[flags & 0xF],
        flags & _ENCRYPTED != 0,
        flags & _MULTI_COIN != 0,
        entry[:-1],
    )


class _Kept:
    """Listings between pages, each for a minute."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listings: dict[object, tuple[float, list[bytes]]] = {}
        self._sweeping = False

    def get(self, name: object) -> list[bytes] | None:
        with self._lock:
            kept = self._listings.get(name)
            return kept[1] if kept is not None and kept[0] > time.monotonic() else None

    def put(self, name: object, listing: list[bytes]) -> None:
        with self._lock:
            self._listings.pop(name, None)
            self._listings[name] = (time.monotonic() + _KEEP_SECONDS, listing)
            while len(self._listings) > 1 and (len(self._listings) > _MOST_LISTINGS or self._coins() > _MOST_COINS):
                del self._listings[next(iter(self._listings))]
            if not self._sweeping:
                self._sweep_later()

    def _sweep(self) -> None:
        with self._lock:
            now = time.monotonic()
            self._listings = {name: kept for name, kept in self._listings.items() if kept[0] > now}
            self._sweeping = False
            if self._listings:
                self._sweep_later()

    def _sweep_later(self) -> None:
        self._sweeping = True
        timer = threading.Timer(_KEEP_SECONDS / 4, self._sweep)
        timer.daemon = True
        timer.start()

    def _coins(self) -> int:
        return sum(len(listing) for _, listing in self._listings.values())


_KEPT = _Kept()


@contextmanager
def _opened(place: WalletPlace) -> Iterator[OpenFolder]:
    with open_folder(place.path) as root:
        if root.identity != place.identity:
            raise Unavailable(
                Reason.SOURCE_OFFLINE,
                f"{root.display} was replaced by another folder just now",
                metadata={"path": root.display},
                retry_after=1.0,
            )
        yield root
