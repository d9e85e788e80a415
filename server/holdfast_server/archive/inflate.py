"""Raw deflate in bounded blocks, with the end of the stream made visible."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from isal import isal_zlib

from holdfast_server.archive.reading import BLOCK

__all__ = ["BadDeflate", "Inflater"]

# Its stub calls it an instance.
_ERROR = cast("type[Exception]", isal_zlib.error)


class BadDeflate(Exception):
    """The bytes are no deflate stream."""


class Inflater:
    """Unpacks one raw deflate stream that is fed piece by piece.

    `ended` turns true with the stream's last block; `unused` is then how many bytes of the last piece lie behind it.
    """

    def __init__(self) -> None:
        self._inflate = isal_zlib.decompressobj(wbits=-15)
        self.ended = False
        self.unused = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` unpacks to, in blocks of at most BLOCK bytes. Raises BadDeflate."""
        while not self.ended:
            try:
                out: bytes = self._inflate.decompress(data, BLOCK)
            except _ERROR as error:
                raise BadDeflate(str(error)) from error
            data = self._inflate.unconsumed_tail
            self.ended = self._inflate.eof
            if self.ended:
                self.unused = len(self._inflate.unused_data)
            if out:
                yield out
            if not self.ended and not data and len(out) < BLOCK:
                return
            if not out and data and not self.ended:
                raise BadDeflate("no progress")
