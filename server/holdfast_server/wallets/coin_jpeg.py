"""A V1 coin in a JPEG: what looks like the picture's thumbnail is the coin. Read only.

Source of the format: the consortium's jpg document and clients, two real public files.

 0   20  marker: SOI, APP0 of 451 bytes, `JFIF`, a thumbnail of 29 x 5
20  400  25 authenticity numbers of 16 bytes; all zero in a template, which carries no coin
420  16  first byte 0xEE = encrypted; text or zeros otherwise
436  13  POWN, one nibble per RAIDA, high first, with a table of its own
449   2  comments, expiry date: ignored
451   1  network number
452   3  serial number
"""

from __future__ import annotations

from holdfast_server.wallets.coin import AN_SIZE, RAIDA, Coin, Generation

__all__ = ["MAGIC", "claims", "decode", "is_encrypted"]

MAGIC = b"\xff\xd8\xff"

_START = bytes.fromhex("ffd8ffe001c34a46494600")
_THUMBNAIL = slice(18, 20), bytes([29, 5])
_NUMBERS = slice(20, 20 + RAIDA * AN_SIZE)
_SIZE = 455
_ENCRYPTED = b"\xee"
_LETTERS = {"0": "u", "1": "p", "2": "n", "e": "e", "f": "f"}


def claims(content: bytes) -> bool:
    """Whether the picture carries a coin: the marker, and not a template's zeros behind it."""
    where, size = _THUMBNAIL
    return content.startswith(_START) and content[where] == size and any(content[_NUMBERS])


def is_encrypted(content: bytes) -> bool:
    """Whether a password altered the authenticity numbers: the "vault" of the first programs."""
    return content[420:421] == _ENCRYPTED


def decode(content: bytes) -> Coin:
    """The coin of a picture that is not encrypted. Raises ValueError when it is torn or has no serial number."""
    if len(content) < _SIZE:
        raise ValueError("the picture ends within the coin")
    serial = int.from_bytes(content[452:455], "big")
    if not serial:
        raise ValueError("the coin has no serial number")
    return Coin(
        denomination=0,
        serial=serial,
        ans=content[_NUMBERS],
        pown="".join(_LETTERS.get(nibble, "u") for nibble in content[436:449].hex()[:RAIDA]),
        generation=Generation.V1,
        network=content[451],
    )
