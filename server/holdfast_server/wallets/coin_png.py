"""Coins in a PNG: chunks of type `cLDc` whose data is a coin file.

Source: the consortium's clients, and one real public picture, which has the chunk directly after IHDR. A vendor's page
speaks of another place, so that all chunks are walked; any number of them may carry coins.
"""

from __future__ import annotations

import struct
import zlib

__all__ = ["CHUNK", "MAGIC", "coin_data", "embed"]

MAGIC = b"\x89PNG\r\n\x1a\n"
CHUNK = b"cLDc"

_IHDR_SIZE = 13
_AFTER_IHDR = len(MAGIC) + 12 + _IHDR_SIZE
_MAX_LENGTH = 2**31 - 1
_MAX_CHUNKS = 20_000


def coin_data(content: bytes) -> list[bytes]:
    """The data of all coin chunks, in order; none for an ordinary picture.

    Raises ValueError when the picture is damaged in a way that could hide coins: header or coin chunk with a wrong
    checksum, a coin chunk where no walk over the chunks gets, or no coin chunk in a picture that is not whole. Damage
    elsewhere, in the pixels, keeps no coin from being read.
    """
    view = memoryview(content)
    found: list[bytes] = []
    whole, at = True, len(MAGIC)
    for number in range(_MAX_CHUNKS):
        chunk = _chunk(view, at)
        if chunk is None:
            whole = False
            break
        kind, data, good = chunk
        if number == 0 and (kind != b"IHDR" or len(data) != _IHDR_SIZE or not good):
            raise ValueError("the picture has no whole header")
        if kind == CHUNK:
            if not good:
                raise ValueError("the checksum of a coin chunk is wrong")
            found.append(bytes(data))
        whole = whole and good
        at += 12 + len(data)
        if kind == b"IEND":
            break
    else:
        raise ValueError(f"a picture of more than {_MAX_CHUNKS} chunks")
    if content.find(CHUNK, at) >= 0:
        raise ValueError("a coin chunk lies where the picture is torn or behind its end")
    if not whole and not found:
        raise ValueError("the picture is damaged; if coins are in it, they cannot be found")
    return found


def _chunk(view: memoryview, at: int) -> tuple[bytes, memoryview, bool] | None:
    """Type, data and whether the checksum is right; None where no whole chunk is."""
    if len(view) - at < 12:
        return None
    length, kind = struct.unpack_from(">I4s", view, at)
    end = at + 8 + length
    if length > _MAX_LENGTH or end + 4 > len(view):
        return None
    (crc,) = struct.unpack_from(">I", view, end)
    return kind, view[at + 8 : end], crc == zlib.crc32(view[at + 4 : end])


def embed(picture: bytes, data: bytes) -> bytes:
    """The picture with one coin chunk directly after IHDR. Raises ValueError when it is no whole PNG, or carries coins
    already: a picture twice in use would be two times the money."""
    if not picture.startswith(MAGIC):
        raise ValueError("no PNG")
    if coin_data(picture):
        raise ValueError("the picture carries coins already")
    body = CHUNK + data
    chunk = struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
    return picture[:_AFTER_IHDR] + chunk + picture[_AFTER_IHDR:]
