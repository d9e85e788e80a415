"""The CCv2 coin file (`.bin` of 2022-2023): a 32-byte header, then one 416-byte record per coin, integers big-endian.

Source of the format: the consortium's CoinManager, and one real public file. There is no number of coins in it: the
length tells.

Header                                              Record
 0    1  format, 0                                   0   3  serial number, 1..16,777,215
 1    1  cloud id, 0                                 3  13  POWN, one nibble per RAIDA, high first
 2    2  coin id: 1 = CloudCoin, 0 = identity,      16 400  25 authenticity numbers of 16 bytes
         2 = NFT                                   416 400  25 proposed numbers, in a file of one coin only
 4    2  split and encryption, in either order
 6    9  password hash, zeros without encryption
15    1  flags
16   16  receipt id
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from holdfast_server.wallets.coin import AN_SIZE, RAIDA, Coin, Generation

__all__ = [
    "COIN_IDS",
    "HEADER_SIZE",
    "MAX_SERIAL",
    "RECORD_SIZE",
    "RECORD_SIZE_PANS",
    "Header",
    "claims",
    "decode",
    "encode_many",
    "encode_single",
    "read_header",
]

HEADER_SIZE = 32
RECORD_SIZE = 16 + RAIDA * AN_SIZE
RECORD_SIZE_PANS = RECORD_SIZE + RAIDA * AN_SIZE
COIN_IDS = frozenset({0, 1, 2})
MAX_SERIAL = 0xFFFFFF

# The program that made these files wrote D, elsewhere "dropped", for its own "no reply".
_LETTERS = {"0": "u", "a": "p", "b": "b", "c": "n", "d": "n", "e": "e", "f": "f"}
_NIBBLES = {"u": "0", "p": "a", "b": "b", "n": "d", "d": "d", "e": "e", "f": "f"}


@dataclass(frozen=True, slots=True)
class Header:
    """What the 32 bytes before the records and the file's length say.

    `encrypted`: one of the two bytes that programs used for it is not 0. (None ever wrote an encrypted file.) `count`
    is the number of coins by length, 0 when the length fits no number of them. `pans`: the one record has proposed
    numbers. `blank`: the header is all zeros, which also starts many a file that has nothing to do with coins.
    """

    coin_id: int
    encrypted: bool
    count: int
    pans: bool
    blank: bool


def read_header(first: bytes, length: int) -> Header | None:
    """The header of a CCv2 file from its first 32 bytes and its length; None if it is none. Never raises.

    Zeros are common, so that this alone proves little: `claims` looks at the records.
    """
    if (
        len(first) < HEADER_SIZE
        or first[:2] != b"\0\0"
        or (coin_id := int.from_bytes(first[2:4], "big")) not in COIN_IDS
    ):
        return None
    encrypted = any(first[4:6])
    if not encrypted and any(first[6:15]):
        return None
    body = length - HEADER_SIZE
    pans = body == RECORD_SIZE_PANS
    count = 1 if pans else 0 if body % RECORD_SIZE else body // RECORD_SIZE
    return Header(coin_id, encrypted, count, pans, blank=not any(first[:HEADER_SIZE]))


def claims(content: bytes) -> bool:
    """Whether a whole file is a CCv2 file, perhaps a damaged one. A run of zeros, as a crash leaves of a file, is none.

    An encrypted one must have the right length, any other at least one record that looks like a coin's, and the first
    one if the length is wrong.
    """
    header = read_header(content[:HEADER_SIZE], len(content))
    if header is None:
        return False
    if header.encrypted:
        return header.count > 0
    ends = range(HEADER_SIZE + RECORD_SIZE, len(content) + 1, RECORD_SIZE)
    records = (content[end - RECORD_SIZE : end] for end in (ends if header.count else ends[:1]))
    return any(not _fault(record, header) for record in records)


def decode(content: bytes) -> list[Coin]:
    """The coins of a plaintext file. Raises ValueError when it is none, encrypted, of a length that fits no number of
    coins, or one of its records is no coin."""
    header = read_header(content[:HEADER_SIZE], len(content))
    if header is None:
        raise ValueError("no coin file of CCv2")
    if header.encrypted:
        raise ValueError("encrypted by another program")
    if not header.count:
        raise ValueError(f"{len(content)} bytes fit no number of coins")
    size = RECORD_SIZE_PANS if header.pans else RECORD_SIZE
    coins = []
    for number in range(1, header.count + 1):
        record = content[HEADER_SIZE + (number - 1) * size :][:size]
        if fault := _fault(record, header):
            raise ValueError(f"coin {number} of {header.count} has {fault}")
        coins.append(_coin(record, header.coin_id))
    return coins


def encode_single(coin: Coin) -> bytes:
    """A file of one V2 coin, plaintext: 448 bytes, or 848 if it has proposed numbers.

    A POWN's `d` becomes `n`: the format has one nibble for both.
    """
    return _header(coin.network) + _record(coin) + coin.pans


def encode_many(coins: Sequence[Coin]) -> bytes:
    """A plaintext file of several V2 coins of one coin id. Raises ValueError for coins that no such file can hold: of
    different ids, or with proposed numbers."""
    if not coins or len({coin.network for coin in coins}) > 1:
        raise ValueError("a CCv2 file holds coins of exactly one coin id")
    if any(coin.pans for coin in coins):
        raise ValueError("a CCv2 file of several coins has no room for proposed numbers")
    return b"".join([_header(coins[0].network), *map(_record, coins)])


def _fault(record: bytes, header: Header) -> str:
    """What keeps a record from being a coin, empty if nothing does."""
    if not any(record[:3]):
        return "no serial number"
    if not any(record[16:RECORD_SIZE]):
        return "no authenticity numbers"
    # Unknown nibbles are no reason to refuse a coin, but where the header proves nothing, the records must.
    if header.blank and not set(record[3:16].hex()[:RAIDA]) <= _LETTERS.keys():
        return "a POWN that is none"
    return ""


def _coin(record: bytes, coin_id: int) -> Coin:
    pans = record[RECORD_SIZE:]
    return Coin(
        denomination=0,
        serial=int.from_bytes(record[:3], "big"),
        ans=record[16:RECORD_SIZE],
        pown="".join(_LETTERS.get(nibble, "u") for nibble in record[3:16].hex()[:RAIDA]),
        generation=Generation.V2,
        network=coin_id,
        pans=pans if any(pans) else b"",
    )


def _header(coin_id: int) -> bytes:
    if coin_id not in COIN_IDS:
        raise ValueError(f"coin id {coin_id} is none of CCv2")
    return bytes(2) + coin_id.to_bytes(2, "big") + bytes(HEADER_SIZE - 4)


def _record(coin: Coin) -> bytes:
    if coin.generation is not Generation.V2:
        raise ValueError("only V2 coins fit into a CCv2 file")
    if not 1 <= coin.serial <= MAX_SERIAL:
        raise ValueError(f"serial {coin.serial} does not fit into a CCv2 file")
    pown = bytes.fromhex("".join(_NIBBLES[letter] for letter in coin.pown) + "0")
    return coin.serial.to_bytes(3, "big") + pown + coin.ans
