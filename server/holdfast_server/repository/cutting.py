"""Cutting the content of large files by FastCDC, without copying it.

Content is read into a few buffers that are used in turns; a buffer is read into again once the last chunk that lies in
it was encrypted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import pyfastcdc

from holdfast_server.repository.format import CHUNK_MAX, CHUNK_MIN, CHUNK_TARGET

__all__ = ["Cutter", "Fill", "Piece"]

_BUFFER: Final = 16 << 20
_BUFFERS: Final = 3
#: With less room than this left, content begins in the next buffer.
_LEAST_ROOM: Final = 2 << 20

#: Reads into the buffer: gives how many bytes, 0 at the end, or a negative number, the length of a hole.
Fill = Callable[[memoryview], int]


class Piece:
    """A chunk of content, or a hole (`content` None). Until `release` was called its buffer is not read into."""

    __slots__ = ("_buffer", "content", "length")

    def __init__(self, buffer: _Buffer | None, content: memoryview | None, length: int) -> None:
        self._buffer = buffer
        self.content = content
        self.length = length

    def hold(self) -> None:
        if self._buffer is not None:
            self._buffer.pending += 1

    def release(self) -> None:
        if self._buffer is not None:
            self._buffer.pending -= 1


class _Buffer:
    __slots__ = ("pending", "used", "view")

    def __init__(self) -> None:
        self.view = memoryview(bytearray(_BUFFER))
        self.used = self.pending = 0


class Cutter:
    """Cuts one file after the other. `wait_for` waits until pieces that are held were released."""

    def __init__(self, seed: int, wait_for: Callable[[Callable[[], bool]], None]) -> None:
        self._cdc = pyfastcdc.FastCDC(CHUNK_TARGET, min_size=CHUNK_MIN, max_size=CHUNK_MAX, seed=seed)
        self._wait_for = wait_for
        self._buffers: list[_Buffer] = []
        self._turn = 0

    def pieces(self, fill: Fill) -> Iterator[Piece]:
        """The chunks and holes of one file's content. A piece not held is given up when the next is asked for."""
        buffer = self._room()
        start = end = buffer.used
        while True:
            end, stop = _fill(buffer.view, end, fill)
            rest = start
            for chunk in self._cdc.cut_buf(buffer.view[start:end]) if end > start else ():
                at = start + chunk.offset
                if stop > 0 and at + chunk.length == end:
                    break
                buffer.used = rest = at + chunk.length
                yield Piece(buffer, buffer.view[at:rest], chunk.length)
            if stop == 0:
                return
            if stop < 0:
                yield Piece(None, None, -stop)
            carry = buffer.view[rest:end] if stop > 0 else buffer.view[:0]
            following = self._next() if stop > 0 or _BUFFER - buffer.used < _LEAST_ROOM else buffer
            start = following.used
            end = start + len(carry)
            following.view[start:end] = carry
            buffer = following

    def _room(self) -> _Buffer:
        """A buffer to begin in."""
        if self._buffers and _BUFFER - self._buffers[self._turn].used >= _LEAST_ROOM:
            return self._buffers[self._turn]
        return self._next()

    def _next(self) -> _Buffer:
        """The next buffer, free from its beginning."""
        if len(self._buffers) < _BUFFERS:
            self._buffers.append(_Buffer())
            self._turn = len(self._buffers) - 1
            return self._buffers[self._turn]
        self._turn = (self._turn + 1) % _BUFFERS
        buffer = self._buffers[self._turn]
        self._wait_for(lambda: not buffer.pending)
        buffer.used = 0
        return buffer


def _fill(view: memoryview, end: int, fill: Fill) -> tuple[int, int]:
    """Read until the buffer is full (1), the content ends (0), or a hole begins (minus its length)."""
    while end < _BUFFER:
        count = fill(view[end:])
        if count <= 0:
            return end, count
        end += count
    return end, 1
