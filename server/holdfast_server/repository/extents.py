"""Where a file's content lies: extents of chunks, holes between them, and the pages that long lists of them fill.

docs/format.md ("Files") specifies the bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Final

from holdfast_server.records import frozen_record
from holdfast_server.repository.format import CHUNK_MAX, StoreChunk

__all__ = [
    "EXTENT_SIZE",
    "INLINE_EXTENTS",
    "Extent",
    "ExtentWriter",
    "decode_extents",
    "encode_extent",
    "encode_extent_pages",
    "encode_hole",
    "ends_page",
]

#: Bytes of an extent, or of a hole.
EXTENT_SIZE: Final = 40
#: A file of more extents keeps them in pages of their own, so that a page of the tree stays small.
INLINE_EXTENTS: Final = 128

_PAGE_MIN, _PAGE_MAX = 16 << 10, 128 << 10
_EXTENT, _HOLE, _START = Struct("<32sII"), Struct("<32sQ"), Struct("<H")
_NO_CHUNK = bytes(32)


@frozen_record
class Extent:
    """`length` bytes of a file: of a chunk's content from `offset`; a hole of zeros where `chunk_id` is None."""

    chunk_id: bytes | None
    offset: int
    length: int

    def encode(self) -> bytes:
        if self.chunk_id is None:
            return encode_hole(self.length)
        return encode_extent(self.chunk_id, self.offset, self.length)


def encode_extent(chunk_id: bytes, offset: int, length: int) -> bytes:
    """`length` bytes, at least one, of a chunk's content from `offset`."""
    if length < 1 or offset < 0 or offset + length > CHUNK_MAX or len(chunk_id) != 32 or chunk_id == _NO_CHUNK:
        raise ValueError(f"no extent of a chunk: {length} bytes from {offset}")
    return _EXTENT.pack(chunk_id, offset, length)


def encode_hole(length: int) -> bytes:
    """A hole of `length` bytes, at least one."""
    if not 1 <= length < 1 << 64:
        raise ValueError(f"no hole: {length} bytes")
    return _HOLE.pack(_NO_CHUNK, length)


def decode_extents(raw: bytes) -> list[Extent]:
    """The extents and holes of a page or tail, in order. Raises ValueError when they break the format's rules."""
    if len(raw) % EXTENT_SIZE:
        raise ValueError("an extent is cut off")
    found: list[Extent] = []
    for chunk_id, offset, length in _EXTENT.iter_unpack(raw):
        if chunk_id == _NO_CHUNK:
            hole = offset | length << 32
            if not hole:
                raise ValueError("a hole has no length")
            found.append(Extent(None, 0, hole))
        elif not length or offset + length > CHUNK_MAX:
            raise ValueError("an extent does not lie in a chunk")
        else:
            found.append(Extent(chunk_id, offset, length))
    return found


def ends_page(chunk_id: bytes) -> bool:
    """Whether a page that is long enough ends behind this id: one in 512 does, the zeros of a hole never."""
    start: int = _START.unpack_from(chunk_id)[0]
    return 1 <= start <= 128


class ExtentWriter:
    """Takes a file's encoded extents one by one and keeps no more of them than one page.

    Pages are cut by content, so that a file of which a part changed shares the pages of the rest.
    """

    def __init__(self, store: StoreChunk) -> None:
        self._store = store
        self._records: list[bytes] = []
        self._ids: list[bytes] = []
        self._in_page = 0

    def add(self, extent: bytes) -> None:
        """One extent, as `encode_extent` or `encode_hole` gives it."""
        if len(extent) != EXTENT_SIZE:
            raise ValueError(f"an extent of {len(extent)} bytes")
        self._records.append(extent)
        self._in_page += EXTENT_SIZE
        if self._in_page >= _PAGE_MIN and (self._in_page + EXTENT_SIZE > _PAGE_MAX or ends_page(extent)):
            self._close()

    def finish(self) -> tuple[bytes, bool]:
        """What `file_tail` takes: the extents themselves, or the ids of their pages; and whether it is the latter."""
        if not self._ids and len(self._records) <= INLINE_EXTENTS:
            return b"".join(self._records), False
        if self._records:
            self._close()
        return b"".join(self._ids), True

    def _close(self) -> None:
        self._ids.append(self._store(b"".join(self._records)))
        self._records, self._in_page = [], 0


def encode_extent_pages(extents: Iterable[bytes], store: StoreChunk) -> tuple[bytes, bool]:
    """All encoded extents of a file at once; gives what `ExtentWriter.finish` does."""
    writer = ExtentWriter(store)
    for extent in extents:
        writer.add(extent)
    return writer.finish()
