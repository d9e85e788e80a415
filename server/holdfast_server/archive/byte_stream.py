"""The unpacked bytes of a compressed file, read forward in pieces of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from holdfast_server.archive.reading import BLOCK, Budget, Source, damage

__all__ = ["ByteStream", "raw_blocks"]


class ByteStream:
    """Cuts blocks to what is asked for. `offset` is the position in the unpacked stream."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._block = b""
        self._at = 0
        self.offset = 0

    def pieces(self, size: int) -> Iterator[bytes]:
        """The next `size` bytes, in pieces no longer than a block. Raises DataLoss when the stream ends before."""
        while size:
            if not self._fill():
                raise damage("the archive ends too early", offset=self.offset)
            piece = self._block[self._at : self._at + size]
            self._at += len(piece)
            self.offset += len(piece)
            size -= len(piece)
            yield piece

    def read(self, size: int) -> bytes:
        """Exactly the next `size` bytes."""
        piece = self._block[self._at : self._at + size]
        if len(piece) < size:
            return b"".join(self.pieces(size))
        self._at += size
        self.offset += size
        return piece

    def rest(self) -> Iterator[bytes]:
        """What is left, to the end of the file."""
        while self._fill():
            yield from self.pieces(len(self._block) - self._at)

    def at_end(self) -> bool:
        return not self._fill()

    def _fill(self) -> bool:
        while self._at == len(self._block):
            block = next(self._blocks, None)
            if block is None:
                return False
            self._block, self._at = block, 0
        return True


def raw_blocks(source: Source, budget: Budget, check: Callable[[], None]) -> Iterator[bytes]:
    """The bytes of a file that is not compressed."""
    at = 0
    while at < source.size:
        check()
        block = source.read(at, min(BLOCK, source.size - at))
        budget.produced(len(block))
        at += len(block)
        yield block
