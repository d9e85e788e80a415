"""Blocks: how large they are, how they are compressed, how content is cut to them, where lines wait for their turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from isal import isal_zlib

__all__ = ["BLOCK", "LEVEL", "Spool", "Taken", "level_for"]

#: Input of one compression job, and the size of a large file's independently compressed blocks.
BLOCK = 1 << 20

#: ISA-L's deflate level. Against `zip -6` and `gzip -6` on /usr/share and /usr/lib, the checksums and the manifest
#: included, level 3 makes archives 7 to 8 % larger at 270 MB/s a core, level 2 9 to 10 % at 450; zlib-ng's level 3
#: makes them 3 to 4 % larger at 120. ISA-L's level 2 was also seen to give a few small files in
#: ten thousand one byte more or less from one run to the next: valid, but not the same archive. Level 3 never did.
LEVEL = 3

#: The level for what hardly shrinks: level 3 takes 3.7 ms for a MiB of noise, level 1 takes 1.
FAST_LEVEL = 1

_SAMPLE = 16 << 10

_SPOOL_BLOCK = 64 << 10

_ZEROS = bytes(BLOCK)


def level_for(data: bytes) -> int:
    """The level for `data`, by a look at a sample from its middle."""
    if len(data) < 8 * _SAMPLE:
        return LEVEL
    middle = len(data) // 2
    sample = data[middle : middle + _SAMPLE]
    shrinks = len(isal_zlib.compress(sample, FAST_LEVEL, wbits=-15)) < _SAMPLE * 31 // 32
    return LEVEL if shrinks else FAST_LEVEL


class Spool:
    """Bytes kept compressed in memory until they are needed once, in order."""

    def __init__(self) -> None:
        self._deflate = isal_zlib.compressobj(level=1, wbits=-15)
        self._chunks: list[bytes] = []
        self._lines: list[bytes] = []
        self._waiting = 0
        self.size = 0

    def add(self, data: bytes) -> None:
        self.size += len(data)
        self._waiting += len(data)
        self._lines.append(data)
        if self._waiting >= _SPOOL_BLOCK:
            self._pack()

    def _pack(self) -> None:
        # A call with a hundred bytes costs three microseconds, whatever they are.
        self._chunks.append(self._deflate.compress(b"".join(self._lines)))
        self._lines.clear()
        self._waiting = 0

    def blocks(self) -> Iterator[bytes]:
        """Everything added, block by block; closes the spool."""
        self._pack()
        self._chunks.append(self._deflate.flush())
        inflate = isal_zlib.decompressobj(wbits=-15)
        for chunk in self._chunks:
            data = inflate.decompress(chunk, BLOCK)
            while data:
                yield data
                data = inflate.decompress(inflate.unconsumed_tail, BLOCK)
        if rest := inflate.flush():
            yield rest


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
