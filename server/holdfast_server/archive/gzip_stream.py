"""A strict reader of gzip files with one or more members."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from isal import isal_zlib

from holdfast_server.archive.inflate import BadDeflate, Inflater
from holdfast_server.archive.reading import Budget, Source, damage, invalid

__all__ = ["gzip_blocks"]

_FHCRC, _FEXTRA, _FNAME, _FCOMMENT = 2, 4, 8, 16
_MAX_TEXT = 64 << 10
_FIRST_PIECE, _MAX_PIECE = 4 << 10, 256 << 10


def gzip_blocks(source: Source, budget: Budget, check: Callable[[], None]) -> Iterator[bytes]:
    """What a gzip file unpacks to, in blocks of at most BLOCK bytes.

    CRC-32 and length of every member are checked before its end is passed.
    """
    return _Gzip(source, budget, check).members()


class _Gzip:
    def __init__(self, source: Source, budget: Budget, check: Callable[[], None]) -> None:
        self._source = source
        self._budget = budget
        self._check = check

    def members(self) -> Iterator[bytes]:
        at = 0
        while at < self._source.size or at == 0:
            self._check()
            start = at
            at, stated = self._header(at)
            crc = size = 0
            inflater = Inflater()
            piece_size = _FIRST_PIECE
            while not inflater.ended:
                piece = self._source.read_some(at, piece_size)
                if not piece:
                    raise damage("the gzip file is cut off", offset=at)
                piece_size = min(2 * piece_size, _MAX_PIECE)
                at += len(piece)
                try:
                    for block in inflater.feed(piece):
                        self._check()
                        self._budget.produced(len(block))
                        crc = isal_zlib.crc32(block, crc)
                        size += len(block)
                        yield block
                except BadDeflate as error:
                    raise damage(f"the compressed bytes are broken ({error})", offset=at - len(piece)) from error
            at -= inflater.unused
            trailer = self._source.read(at, 8)
            at += 8
            if int.from_bytes(trailer[:4], "little") != crc:
                raise damage("the CRC-32 of a gzip member does not match", offset=start)
            if int.from_bytes(trailer[4:], "little") != size & 0xFFFFFFFF:
                raise damage("the length of a gzip member does not match", offset=start)
            if stated not in (None, at - start):
                raise invalid("a gzip member is not as long as its HF field says", offset=start)

    def _header(self, at: int) -> tuple[int, int | None]:
        """Check a member's header; gives the offset behind it and the length that an HF field states."""
        start = at
        head = self._source.read_some(at, 10)
        if head[:3] != b"\x1f\x8b\x08"[: len(head)] or not head:
            what = "it is no gzip file" if at == 0 else "bytes follow the gzip data that belong to nothing"
            raise invalid(what, offset=at)
        if len(head) < 10:
            raise damage("the gzip file is cut off", offset=at)
        flags = head[3]
        if flags & 0xE0:
            raise invalid("a gzip header has unknown flags", offset=at)
        at += 10
        stated = None
        if flags & _FEXTRA:
            size = int.from_bytes(self._source.read(at, 2), "little")
            stated = _stated_size(self._source.read(at + 2, size), at)
            at += 2 + size
        for flag in (_FNAME, _FCOMMENT):
            if flags & flag:
                text = self._source.read_some(at, _MAX_TEXT)
                if b"\0" not in text:
                    raise invalid("a text in a gzip header has no end", offset=at)
                at += text.index(b"\0") + 1
        if flags & _FHCRC:
            crc = isal_zlib.crc32(self._source.read(start, at - start)) & 0xFFFF
            if int.from_bytes(self._source.read(at, 2), "little") != crc:
                raise damage("the checksum of a gzip header does not match", offset=start)
            at += 2
        return at, stated


def _stated_size(extra: bytes, at: int) -> int | None:
    """The HF subfield: the length in bytes of the whole gzip member."""
    stated = None
    i = 0
    while i < len(extra):
        size = int.from_bytes(extra[i + 2 : i + 4], "little")
        if i + 4 + size > len(extra):
            raise invalid("the extra field of a gzip header is malformed", offset=at)
        if extra[i : i + 2] == b"HF":
            if size != 4 or stated is not None:
                raise invalid("the HF field of a gzip header is malformed", offset=at)
            stated = int.from_bytes(extra[i + 4 : i + 8], "little")
        i += 4 + size
    return stated
