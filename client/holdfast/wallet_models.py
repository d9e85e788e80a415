"""What wallets hold, as values: amounts and denominations are `Decimal`, never float."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from holdfast.enums import CoinGeneration

__all__ = ["Balance", "Coin", "CoinSummary", "CoinTotal", "DenominationTotal", "FolderTotal", "UnlockedWallet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CoinTotal:
    """A number of coins and what they are worth together."""

    coins: int
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class DenominationTotal:
    """What one denomination contributes."""

    denomination: Decimal
    coins: int
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderTotal:
    """What one folder of a wallet holds; the wallet's root has an empty name. Files that gave no coin are counted."""

    folder: str
    total: CoinTotal
    denominations: tuple[DenominationTotal, ...]
    opaque_files: int
    encrypted_files: int
    multi_coin_files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Balance of a wallet: `spendable` is Bank and Fracked; `limbo` and `reserved` stand apart."""

    source_id: str
    spendable: CoinTotal
    limbo: CoinTotal
    reserved: CoinTotal
    folders: tuple[FolderTotal, ...]
    unlocked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Coin:
    """One coin of a wallet, without its authenticity numbers. Names as in `models`: \\xNN for bytes that are no
    UTF-8."""

    generation: CoinGeneration
    denomination: Decimal
    serial_number: int
    folder: str
    file_name: str
    encrypted: bool
    multi_coin: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CoinSummary:
    """Count and value of all coins meant, and the first hundred of them."""

    total: CoinTotal
    coins: tuple[Coin, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnlockedWallet:
    """Until when a wallet is unlocked, and with which key. `password_set`: it had no password, and has this one now."""

    expire_time: datetime | None
    key_id: str
    password_set: bool
