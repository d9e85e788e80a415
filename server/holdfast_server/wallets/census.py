"""Counting a wallet's coins by folder: what a manifest states, and what a restored wallet must equal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from holdfast_server.storage.names import escape, unescape
from holdfast_server.wallets.amounts import COIN, decimal_text
from holdfast_server.wallets.coin import Coin
from holdfast_server.wallets.layout import MONEY_FOLDERS

__all__ = ["Census", "FolderCount"]

_MODULUS = 1 << 256


@dataclass(slots=True)
class FolderCount:
    """Coins of one folder and their value in units of 1e-8."""

    coins: int = 0
    amount: int = 0


@dataclass(slots=True)
class Census:
    """All coins of a wallet that could be read. `folders` by the first component of the path, empty for the root.

    `digest` is the sum of all coin identities modulo 2^256: two wallets that hold the same coins, each as often, have
    the same, in whatever order they were counted and whatever files they lie in.
    """

    folders: dict[bytes, FolderCount] = field(default_factory=dict)
    digest: int = 0

    def add(self, folder: bytes, coin: Coin) -> None:
        count = self.folders.setdefault(folder, FolderCount())
        count.coins += 1
        count.amount += coin.value
        self.digest = (self.digest + int.from_bytes(coin.identity, "big")) % _MODULUS

    def add_all(self, folder: bytes, other: Census) -> None:
        """Count everything that another census counted, all in one folder."""
        for found in other.folders.values():
            count = self.folders.setdefault(folder, FolderCount())
            count.coins += found.coins
            count.amount += found.amount
        self.digest = (self.digest + other.digest) % _MODULUS

    def merge(self, other: Census) -> None:
        """Count everything that another census counted, in its folders."""
        for folder, found in other.folders.items():
            count = self.folders.setdefault(folder, FolderCount())
            count.coins += found.coins
            count.amount += found.amount
        self.digest = (self.digest + other.digest) % _MODULUS

    @property
    def coins(self) -> int:
        return sum(count.coins for count in self.folders.values())

    @property
    def balance(self) -> int:
        """Units of Bank and Fracked."""
        return sum(self.folders[name].amount for name in map(str.encode, MONEY_FOLDERS) if name in self.folders)

    def to_record(self) -> dict[str, Any]:
        """As the manifest states it (docs/format.md)."""
        return {
            "coins": self.coins,
            "balance": decimal_text(self.balance),
            "digest": f"{self.digest:064x}",
            "folders": {
                escape(name): {"coins": count.coins, "amount": decimal_text(count.amount)}
                for name, count in sorted(self.folders.items())
            },
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Raises ValueError for what `to_record` did not make."""
        folders = {}
        try:
            for name, count in record["folders"].items():
                whole, _, fraction = count["amount"].partition(".")
                units = int(whole) * COIN + int(fraction.ljust(8, "0"))
                folders[unescape(name)] = FolderCount(int(count["coins"]), units)
            return cls(folders, int(record["digest"], 16))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it states no count of coins: {error}") from error
