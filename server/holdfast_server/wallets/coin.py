"""One coin, whatever file it lies in."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache

from holdfast_server.wallets.amounts import COIN

__all__ = ["AN_SIZE", "POWN_LETTERS", "RAIDA", "Coin", "Generation", "value_of_code", "value_of_serial"]

RAIDA = 25
AN_SIZE = 16

#: (u)nknown, (p)ass, (b)roken key, (n)o reply, (d)ropped, (e)rror, (f)ail.
POWN_LETTERS = frozenset("upbndef")

_MIN_CODE, _MAX_CODE = -8, 6
_V1_RANGES = ((2_097_152, 1), (4_194_304, 5), (6_291_456, 25), (14_680_064, 100), (16_777_216, 250))
_IDENTITY = b"holdfast coin 1\0"


class Generation(StrEnum):
    """Which decides what a coin is worth and which containers can carry it."""

    V1 = "V1"
    V2 = "V2"
    V3 = "V3"


@cache
def value_of_code(code: int) -> int:
    """The value of a V3 denomination code in units of 1e-8: 10^code coins for -8..6.

    Every other code is worth 0: 7..11 are keys and 0x80..0x8C (below -8 as signed bytes) keys that expire. The table
    0=1, 1=5, 2=25 … of older pages is superseded and not served.
    """
    return int(10 ** (code - _MIN_CODE)) if _MIN_CODE <= code <= _MAX_CODE else 0


def value_of_serial(serial: int) -> int:
    """The value of a V1 coin in units of 1e-8, by the range of its serial number; 0 outside 1..16,777,216.

    Source: getDenomination of the consortium's Java client.
    """
    if serial < 1:
        return 0
    return next((coins * COIN for last, coins in _V1_RANGES if serial <= last), 0)


@dataclass(frozen=True, slots=True)
class Coin:
    """One coin as its container states it.

    `denomination` is the signed code of a V3 coin (see `value_of_code`) and 0 for the others, whose value follows from
    the serial number (V1) or is 1 (V2). `serial` is a uint32, of 1..16,777,216 in V1 and V2. `ans` are the 25
    authenticity numbers, 16 bytes each in RAIDA order; a hole is 16 zero bytes. Whoever knows them owns the coin, so
    they and `pans`, the proposed numbers (empty or 400 bytes), are left out of the repr. `split` and `shard` are
    carried as found. `network` is the `nn` of V1 and the coin id of V2, and 1 for V3. `pown` has one letter per RAIDA
    and is no verdict: the folder a coin lies in is.
    """

    denomination: int
    serial: int
    ans: bytes = field(repr=False)
    split: int = 0
    shard: int = 0
    pown: str = "u" * RAIDA
    generation: Generation = Generation.V3
    network: int = 1
    pans: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        if not -128 <= self.denomination <= 127:
            raise ValueError(f"denomination {self.denomination} is no int8")
        if self.denomination and self.generation is not Generation.V3:
            raise ValueError("only a V3 coin has a denomination code")
        if not 0 <= self.serial <= 0xFFFFFFFF:
            raise ValueError(f"serial {self.serial} is no uint32")
        if len(self.ans) != RAIDA * AN_SIZE:
            raise ValueError(f"{len(self.ans)} bytes of authenticity numbers instead of {RAIDA * AN_SIZE}")
        if len(self.pans) not in (0, RAIDA * AN_SIZE):
            raise ValueError(f"{len(self.pans)} bytes of proposed numbers instead of none or {RAIDA * AN_SIZE}")
        if not (0 <= self.split <= 0xFF and 0 <= self.shard <= 0xFF):
            raise ValueError(f"split {self.split} or shard {self.shard} is no byte")
        if len(self.pown) != RAIDA or not set(self.pown) <= POWN_LETTERS:
            raise ValueError(f"pown {self.pown!r} is not {RAIDA} letters of {''.join(sorted(POWN_LETTERS))}")

    @property
    def value(self) -> int:
        """Units of 1e-8; 0 for keys and for V1 serial numbers out of range."""
        if self.generation is Generation.V3:
            return value_of_code(self.denomination)
        if self.generation is Generation.V2:
            return COIN
        return value_of_serial(self.serial)

    @property
    def identity(self) -> bytes:
        """32 bytes that two coins share exactly when they are the same money: generation, denomination, serial number
        and authenticity numbers. Tells nothing of the numbers: SHA-256 over 400 random bytes."""
        head = f"{self.generation.value} {self.denomination} {self.serial} ".encode()
        return hashlib.sha256(_IDENTITY + head + hashlib.sha256(self.ans).digest()).digest()
