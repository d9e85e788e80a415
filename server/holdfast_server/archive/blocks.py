"""Blocks: how large they are, how they are compressed, how content is cut to them, where lines wait for their turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import deflate as libdeflate
from isal import isal_zlib

__all__ = ["BLOCK", "Taken", "deflate", "deflate_part", "deflate_tightly"]

#: Input of one compression job, and the size of a large file's independently compressed blocks.
BLOCK = 1 << 20

#: ISA-L's levels; a core makes 330 MiB/s of both 1 and 2, and 235 of 3. Level 2 makes archives of /usr/lib's kind 4 to
#: 5 % larger than zlib's level 6, level 3 another per cent smaller, but for machine code, where level 2 is the smaller.
#: Level 2 was seen to give a few small files in ten thousand a byte more or less from one run to the next.
QUICK_LEVEL, LEVEL = 2, 3

#: The level for what hardly shrinks: level 3 takes 3.7 ms for a MiB of noise, level 1 takes 1.
FAST_LEVEL = 1

#: libdeflate's level for source text and the like, where ISA-L is worst: 6 % over zlib's level 6 against 7 to 12 %, at
#: 215 MiB/s.
DENSE_LEVEL = 1

#: Where they begin, by what a sample shrinks to at the fast level: below 1/2.6 of its size it is dense; what stays
#: above 1/1.9, such as machine code, goes to the quick level.
DENSE_FROM, QUICK_BELOW = 2.6, 1.9

_SAMPLE = 8 << 10
_NOISE = 127 / 128

_ZEROS = bytes(BLOCK)


def deflate(data: bytes) -> bytes:
    """`data` as one raw deflate stream, quickly."""
    packed: bytes = isal_zlib.compress(data, QUICK_LEVEL if _shrinks(data) else FAST_LEVEL, wbits=-15)
    return packed


def deflate_part(data: bytes, *, last: bool) -> bytes:
    """`data` as a part of a longer raw deflate stream, ending at a byte boundary, or as its end."""
    stream = isal_zlib.compressobj(level=QUICK_LEVEL if _shrinks(data) else FAST_LEVEL, wbits=-15)
    return b"".join((stream.compress(data), stream.flush(isal_zlib.Z_FINISH if last else isal_zlib.Z_SYNC_FLUSH)))


def deflate_tightly(data: bytes) -> bytes:
    """`data` as one raw deflate stream, with what is best for its kind within the same size of archive as gzip's."""
    share = _sampled_share(data)
    packed: bytes
    if share is not None and share * DENSE_FROM < 1:
        packed = libdeflate.deflate_compress(data, DENSE_LEVEL)
        return packed
    level = LEVEL
    if share is not None and share * QUICK_BELOW > 1:
        level = QUICK_LEVEL if share < _NOISE else FAST_LEVEL
    packed = isal_zlib.compress(data, level, wbits=-15)
    return packed


def _shrinks(data: bytes) -> bool:
    share = _sampled_share(data)
    return share is None or share < _NOISE


def _sampled_share(data: bytes) -> float | None:
    """What three samples of `data` shrink to; None where it is too short to be sampled."""
    length = len(data)
    if length < 16 * _SAMPLE:
        return None
    sample = b"".join(data[at : at + _SAMPLE] for at in (length // 8, length // 2, length - length // 8))
    return len(isal_zlib.compress(sample, FAST_LEVEL, wbits=-15)) / len(sample)


class Taken:
    """Cuts blocks of any size to blocks of BLOCK bytes, `size` bytes in all; zeros where the source ends early."""

    def __init__(self, blocks: Iterable[bytes | memoryview], size: int, check: Callable[[], None]) -> None:
        self._blocks = iter(blocks)
        self._size = size
        self._check = check
        self.read = 0

    def __iter__(self) -> Iterator[bytes]:
        parts: list[bytes] = []
        have, left = 0, self._size
        for piece in self._pieces():
            at = 0
            while at < len(piece):
                want = min(BLOCK, left) - have
                part = piece if not at and len(piece) <= want else piece[at : at + want]
                at += len(part)
                have += len(part)
                parts.append(part)
                if have == min(BLOCK, left):
                    yield parts[0] if len(parts) == 1 else b"".join(parts)
                    left -= have
                    have = 0
                    parts.clear()

    def _pieces(self) -> Iterator[bytes]:
        while self.read < self._size:
            self._check()
            block = next(self._blocks, None)
            if block is None:
                break
            piece = block if isinstance(block, bytes) else bytes(block)
            piece = piece[: self._size - self.read]
            self.read += len(piece)
            yield piece
        missing = self._size - self.read
        while missing:
            self._check()
            yield _ZEROS[:missing]
            missing -= min(missing, BLOCK)
