"""What the first bytes of a coin file already tell, so that large wallets are listed without parsing every file."""

from __future__ import annotations

import struct
from typing import NamedTuple

from holdfast_server.wallets.coin import Generation, value_of_code
from holdfast_server.wallets.format9 import (
    COIN_ID,
    FORMAT,
    HEADER_SIZE,
    MAX_TRAILING,
    RECORD_SIZE,
    RECORD_SIZE_PANS,
)

__all__ = ["LISTING_SIZE", "ListedCoin", "single_coin"]

#: How many bytes of a file `single_coin` wants.
LISTING_SIZE = 64

# Format, coin id, encryption, count and state flag of the header; denomination code and serial number of the record.
_FIELDS = struct.Struct(">B1xH1xBH7xB16x 2xbI")
_SINGLE = (FORMAT, COIN_ID, 0, 1)


class ListedCoin(NamedTuple):
    """A coin without its authenticity numbers; `value` in units of 1e-8."""

    generation: Generation
    value: int
    serial: int


def single_coin(first: bytes, size: int) -> ListedCoin | None:
    """The coin of a plaintext Format 9 file of exactly one, as wallet folders hold them; `first` are its first 64
    bytes, `size` its length.

    None for everything else: the whole file must be read (`read_coin_file`) to know what it holds. Never raises. What
    it gives is what `read_coin_file` gives, which is why a record that starts with holes is left to that.
    """
    if len(first) < LISTING_SIZE:
        return None
    *kind, state, code, serial = _FIELDS.unpack_from(first)
    record = RECORD_SIZE_PANS if state == 1 else RECORD_SIZE
    if tuple(kind) != _SINGLE or not 0 <= size - HEADER_SIZE - record <= MAX_TRAILING:
        return None
    if not any(first[_FIELDS.size : LISTING_SIZE]):
        return None
    return ListedCoin(Generation.V3, value_of_code(code), serial)
