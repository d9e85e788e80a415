"""The seek table at the end of a tar.zst: zstd's seekable format, contrib/seekable_format in its sources.

5e 2a 4d 18   magic of a skippable frame
xx xx xx xx   length of what follows: 8 bytes for each frame, and 9
(u32 u32) …   for each frame, its own length and that of its content
xx xx xx xx   number of frames
00            flags; bit 7: each entry has 4 bytes more, a checksum of the content
b1 ea 92 8f   magic of the table
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable

__all__ = ["TABLE_FOOTER", "TABLE_FRAME", "TABLE_MAGIC", "FrameList", "FrameSizes"]

TABLE_FRAME = b"\x5e\x2a\x4d\x18"
TABLE_FOOTER = struct.Struct("<LB4s")
TABLE_MAGIC = b"\xb1\xea\x92\x8f"
MAX_FRAMES = 0x8000000

_ENTRY = struct.Struct("<LL")
_CHECKSUMS = 0x80
_PIECE = 6144 * 12  # whole entries of either width


class FrameSizes:
    """The sizes of the frames that a writer wrote, 8 bytes for each."""

    def __init__(self) -> None:
        self._entries = bytearray()
        self._end = 0

    def add(self, offset: int, packed: int, content: int) -> None:
        """A frame of `packed` bytes was written at `offset`; what was known to lie there or behind is no more."""
        while self._end > offset:
            self._end -= int.from_bytes(self._entries[-8:-4], "little")
            del self._entries[-8:]
        self._entries += _ENTRY.pack(packed, content)
        self._end += packed

    def table(self) -> bytes:
        """The skippable frame that lists them; nothing when there are more than the format allows."""
        count = len(self._entries) // _ENTRY.size
        if count > MAX_FRAMES:
            return b""
        listed = bytes(self._entries) + TABLE_FOOTER.pack(count, 0, TABLE_MAGIC)
        return TABLE_FRAME + len(listed).to_bytes(4, "little") + listed


class FrameList:
    """What a reader has seen of frames, to be compared with the table behind them. Of any length, in little memory."""

    def __init__(self) -> None:
        self._count = 0
        self._seen = hashlib.blake2b()
        self._fits = True

    def add(self, packed: int, content: int) -> None:
        self._count += 1
        if max(packed, content) > 0xFFFFFFFF:
            self._fits = False
        else:
            self._seen.update(_ENTRY.pack(packed, content))

    def agrees(self, size: int, take: Callable[[int], bytes]) -> bool:
        """Whether the `size` bytes that `take` gives, piece by piece, are the table of exactly these frames.

        Always takes all of them. Checksums in the table are not looked at: the frames have their own.
        """
        listed = hashlib.blake2b()
        entries = max(size - TABLE_FOOTER.size, 0)
        width = entries // self._count if self._count else 0
        left = entries
        while left:
            piece = take(min(left, _PIECE))
            left -= len(piece)
            if width == _ENTRY.size + 4:
                piece = b"".join(piece[at : at + _ENTRY.size] for at in range(0, len(piece), width))
            listed.update(piece)
        footer = take(min(size, TABLE_FOOTER.size))
        if len(footer) < TABLE_FOOTER.size:
            return False
        count, flags, magic = TABLE_FOOTER.unpack(footer)
        return (
            magic == TABLE_MAGIC
            and self._fits
            and count == self._count
            and entries == count * (_ENTRY.size + (4 if flags & _CHECKSUMS else 0))
            and not flags & ~_CHECKSUMS
            and listed.digest() == self._seen.digest()
        )
