"""Blocks: how large they are, how they are compressed, how content is cut to them, where lines wait for their turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from isal import isal_zlib
from zlib_ng import zlib_ng

__all__ = ["BLOCK", "Deflater", "Taken", "deflater_for"]

#: Input of one compression job, and the size of a large file's independently compressed blocks.
BLOCK = 1 << 20

#: ISA-L's deflate level. Against `zip -6` and `gzip -6` on /usr/share and /usr/lib, the checksums and the manifest
#: included, level 3 makes archives 7 to 8 % larger at 270 MB/s a core, level 2 9 to 10 % at 450; zlib-ng's level 3
#: makes them 3 to 4 % larger at 120. ISA-L's level 2 was also seen to give a few small files in
#: ten thousand one byte more or less from one run to the next: valid, but not the same archive. Level 3 never did.
LEVEL = 3

#: The level for what hardly shrinks: level 3 takes 3.7 ms for a MiB of noise, level 1 takes 1.
FAST_LEVEL = 1

#: zlib-ng's level for what shrinks below a third, by a sample. ISA-L is worst there (12 to 17 % over zlib's level 6 on
#: source text, zlib-ng 5 to 10 %) and zlib-ng fastest (200 MB/s). This takes 1 % off a mixed tree for 6 % more time.
DENSE_LEVEL = 3

_SAMPLE = 8 << 10

_SPOOL_BLOCK = 64 << 10

_ZEROS = bytes(BLOCK)


class Deflater(NamedTuple):
    """One of the two libraries, which have zlib's interface, and a level of it."""

    library: Any
    level: int

    def whole(self, data: bytes) -> bytes:
        """`data` as one raw deflate stream."""
        packed: bytes = self.library.compress(data, self.level, wbits=-15)
        return packed

    def part(self, data: bytes, *, last: bool) -> bytes:
        """`data` as a part of a longer stream, ending at a byte boundary, or as its end."""
        stream = self.library.compressobj(level=self.level, wbits=-15)
        packed: bytes = stream.compress(data)
        packed += stream.flush(self.library.Z_FINISH if last else self.library.Z_SYNC_FLUSH)
        return packed


_USUAL = Deflater(isal_zlib, LEVEL)
_FAST = Deflater(isal_zlib, FAST_LEVEL)
_DENSE = Deflater(zlib_ng, DENSE_LEVEL)


def deflater_for(data: bytes) -> Deflater:
    """What to compress `data` with, by a look at samples from three places; depends on nothing else."""
    length = len(data)
    if length < 16 * _SAMPLE:
        return _USUAL
    sample = b"".join(data[at : at + _SAMPLE] for at in (length // 8, length // 2, length - length // 8))
    packed = len(_FAST.whole(sample))
    if packed * 3 < len(sample):
        return _DENSE
    return _USUAL if packed * 128 < len(sample) * 127 else _FAST


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
