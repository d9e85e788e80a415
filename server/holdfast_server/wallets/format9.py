"""The Format 9 coin file (`.bin`): a 32-byte header, then one 407-byte record per coin, integers big-endian.

Source of the format: the consortium's "coin-file-format=9" document of 2025-12-27, the public clients' readers, and one
real public file. Where they differ, the bytes of the real file win.

Header                                              Record
 0    1  format, 9                                   0   1  split (the real file has 3: kept, never checked)
 1    1  cloud id, ignored on reading                1   1  shard
 2    2  coin id, 6 = CloudCoin                      2   1  denomination code, signed
 4    1  experimental, ignored                       3   4  serial number
 5    1  encryption, 0 = none                        7 400  25 authenticity numbers of 16 bytes
 6    2  number of coins (not their value)         407 400  25 proposed numbers, only if the state flag is 1
 8    7  first bytes of the key's hash, or zeros
15    1  state flag, 1 = proposed numbers present
16   13  POWN, one nibble per RAIDA, high first   \\ a single coin; otherwise
29    3  task id                                  /  16 bytes of motto
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from holdfast_server.wallets.coin import AN_SIZE, RAIDA, Coin, Generation

__all__ = [
    "COIN_ID",
    "FORMAT",
    "HEADER_SIZE",
    "MAX_COINS",
    "MAX_TRAILING",
    "MOTTO",
    "RECORD_SIZE",
    "RECORD_SIZE_PANS",
    "UNKNOWN_TASK",
    "Header",
    "decode",
    "encode_many",
    "encode_single",
    "read_header",
]

FORMAT = 9
COIN_ID = 6
HEADER_SIZE = 32
RECORD_SIZE = 7 + RAIDA * AN_SIZE
RECORD_SIZE_PANS = RECORD_SIZE + RAIDA * AN_SIZE
MAX_COINS = 0xFFFF
MOTTO = b"Live Free Or Die"

#: Bytes after the last record that a reader tolerates: a withdrawn text of the format padded the body to 32 bytes.
MAX_TRAILING = 31

#: The task id public clients write when there is none.
UNKNOWN_TASK = 0x999999

_NIBBLES = {"u": 0x0, "p": 0xA, "b": 0xB, "n": 0xC, "d": 0xD, "e": 0xE, "f": 0xF}
# Nibbles 1..9 have no meaning in the format; "unknown" is the only letter that claims nothing.
_LETTERS = "".join({v: k for k, v in _NIBBLES.items()}.get(nibble, "u") for nibble in range(16))
# By byte: a backup unpacks them for every coin.
_LETTER_PAIRS = tuple(high + low for high in _LETTERS for low in _LETTERS)
_POWN_TAIL = 0x9  # what public clients put in the unused low nibble of byte 28


def encode_single(coin: Coin, *, task_id: int = UNKNOWN_TASK) -> bytes:
    """A file of one coin, as wallet folders hold it: header with POWN and task id, one record; plaintext, 439 bytes, or
    839 if the coin has proposed numbers.

    `task_id` counts quarter minutes since the start of the year, 24 bits.
    """
    if not 0 <= task_id <= 0xFFFFFF:
        raise ValueError(f"task id {task_id} does not fit in 24 bits")
    pans = bool(coin.pans)
    return _header(1, pans) + _pack_pown(coin.pown) + task_id.to_bytes(3, "big") + _record(coin, pans)


def encode_many(coins: Sequence[Coin]) -> bytes:
    """An export file of 1..65,535 coins: header with the motto in place of POWN and task id, plaintext, no padding.

    One coin is allowed: the one real public file is an export of one coin and carries the motto. If any coin has
    proposed numbers, each record has room for them; zeros stand for none.
    """
    if not 1 <= len(coins) <= MAX_COINS:
        raise ValueError(f"{len(coins)} coins instead of 1..{MAX_COINS}")
    pans = any(coin.pans for coin in coins)
    return b"".join([_header(len(coins), pans), MOTTO, *(_record(coin, pans) for coin in coins)])


def decode(content: bytes) -> list[Coin]:
    """The coins of a plaintext file. Raises ValueError when it is none, encrypted, of another length than it says, or a
    record has no authenticity number at all, which is no coin.

    Proposed numbers (zeros are none) and the POWN of a single-coin file are kept; bytes that a reader tolerates after
    the last record are not looked at.
    """
    header = read_header(content[:HEADER_SIZE], len(content))
    if header is None or not header.is_cloudcoin:
        raise ValueError("no CloudCoin file of format 9")
    if header.encrypted:
        raise ValueError(f"encrypted by another program (encryption type {header.encryption})")
    if not header.consistent:
        raise ValueError(f"{header.length} bytes do not fit the {header.count} coins that the header counts")
    pown = header.pown if header.count == 1 and header.pown is not None else "u" * RAIDA
    size = header.record_size
    starts = range(HEADER_SIZE, HEADER_SIZE + header.count * size, size)
    coins = [_coin(content[at : at + size], pown) for at in starts]
    for number, coin in enumerate(coins, 1):
        if not any(coin.ans):
            raise ValueError(f"coin {number} of {header.count} has no authenticity numbers")
    return coins


def _coin(record: bytes, pown: str) -> Coin:
    return Coin(
        denomination=int.from_bytes(record[2:3], "big", signed=True),
        serial=int.from_bytes(record[3:7], "big"),
        ans=record[7:RECORD_SIZE],
        split=record[0],
        shard=record[1],
        pown=pown,
        pans=pans if any(pans := record[RECORD_SIZE:]) else b"",
    )


def _header(count: int, pans: bool) -> bytes:
    start = bytes([FORMAT, 1]) + COIN_ID.to_bytes(2, "big") + bytes(2) + count.to_bytes(2, "big")
    return start + bytes(7) + bytes([pans])


def _record(coin: Coin, pans: bool) -> bytes:
    if coin.generation is not Generation.V3:
        raise ValueError("only V3 coins fit into a file of format 9")
    head = bytes([coin.split, coin.shard]) + coin.denomination.to_bytes(1, "big", signed=True)
    record = head + coin.serial.to_bytes(4, "big") + coin.ans
    return record + coin.pans.ljust(RAIDA * AN_SIZE, b"\0") if pans else record


def _pack_pown(pown: str) -> bytes:
    packed = 0
    for letter in pown:
        packed = packed << 4 | _NIBBLES[letter]
    return (packed << 4 | _POWN_TAIL).to_bytes(13, "big")


def _unpack_pown(packed: bytes) -> str:
    return "".join(map(_LETTER_PAIRS.__getitem__, packed))[:RAIDA]


@dataclass(frozen=True, slots=True)
class Header:
    """What the 32 clear bytes before the records say, and whether the file's length agrees.

    `format` is byte 0 (always 9 here), `coin_id` 6 for CloudCoin. `encryption` is 0 for none; 1 and 4 are documented,
    any other value is kept. `count` is the number of coins the header claims. `password_hash` are the 7 bytes that tell
    a wrong password. `pans` says that records carry proposed numbers too. `motto` says that an export wrote the file;
    POWN and task id exist only without it and are None with it, because the motto read as nibbles is garbage. `length`
    is the length of the whole file in bytes.
    """

    format: int
    coin_id: int
    encryption: int
    count: int
    password_hash: bytes
    pans: bool
    motto: bool
    pown: str | None
    task_id: int | None
    length: int

    @property
    def is_cloudcoin(self) -> bool:
        """Other coin ids are to be rejected, says the format."""
        return self.coin_id == COIN_ID

    @property
    def encrypted(self) -> bool:
        """Byte 5 alone decides, as in the vendor's client."""
        return self.encryption != 0

    @property
    def record_size(self) -> int:
        """Bytes per plaintext record."""
        return RECORD_SIZE_PANS if self.pans else RECORD_SIZE

    @property
    def trailing(self) -> int:
        """Bytes after the last record; negative if the file is shorter than its count of coins needs."""
        return self.length - HEADER_SIZE - self.count * self.record_size

    @property
    def consistent(self) -> bool:
        """Whether count and length fit: 0..31 bytes after the records.

        Encrypted records may be longer by an amount nobody documents (salts, tags), never shorter.
        """
        return self.trailing >= 0 if self.encrypted else 0 <= self.trailing <= MAX_TRAILING


def read_header(first: bytes, length: int) -> Header | None:
    """The header of a Format 9 file from its first bytes (32 are enough) and its length; None if it is none.

    Never raises, whatever the bytes. Only byte 0 is required to be 9: coin id and length are reported, not judged.
    """
    if len(first) < HEADER_SIZE or first[0] != FORMAT:
        return None
    motto = first[16:32] == MOTTO
    return Header(
        format=first[0],
        coin_id=int.from_bytes(first[2:4], "big"),
        encryption=first[5],
        count=int.from_bytes(first[6:8], "big"),
        password_hash=bytes(first[8:15]),
        pans=first[15] == 1,
        motto=motto,
        pown=None if motto else _unpack_pown(first[16:29]),
        task_id=None if motto else int.from_bytes(first[29:32], "big"),
        length=length,
    )
