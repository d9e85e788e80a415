"""Proving what a writer has packed, before it leaves the writer: it must read back as what went in.

The strict readers' own code parses the headers and the inflater unpacks the content; both are compared with the member
and the bytes that the source gave. A compressor's or a processor's mistake shows here, while the source still stands.
"""

from __future__ import annotations

import threading
from typing import cast

from isal import isal_zlib
from zstandard import ZstdDecompressor, ZstdError

from holdfast_server.archive.member import Member, difference
from holdfast_server.archive.reading import damage

__all__ = ["require_inflates", "require_reads_as", "require_unpacks"]

# Its stub calls it an instance.
_ERROR = cast("type[Exception]", isal_zlib.error)

#: A last, empty block: behind a part that ends at a byte boundary it makes a whole stream.
_END = b"\x03\x00"


def require_inflates(packed: bytes, content: bytes, path: bytes = b"", *, whole: bool = True) -> None:
    """Raise DataLoss/CHECKSUM_MISMATCH unless the raw deflate stream unpacks to exactly `content`.

    `whole` False: it is a part of a longer stream, ending at a byte boundary. The inflater is the one that a restore
    will use: others take some streams that it refuses (libdeflate: codes that nothing uses).
    """
    try:
        unpacked = isal_zlib.decompress(packed if whole else packed + _END, wbits=-15, bufsize=len(content) or 1)
    except _ERROR as error:
        raise damage(f"what was just compressed cannot be unpacked ({error})", path or None) from error
    if unpacked != content:
        raise damage("what was just compressed unpacks to something else", path or None)


class _Zstd(threading.local):
    def __init__(self) -> None:
        self.decompressor = ZstdDecompressor()


_zstd = _Zstd()


def require_unpacks(packed: bytes, content: bytes) -> None:
    """Raise DataLoss/CHECKSUM_MISMATCH unless the zstd frame, which states its size, unpacks to exactly `content`."""
    try:
        unpacked = _zstd.decompressor.decompress(packed)
    except ZstdError as error:
        raise damage(f"what was just compressed cannot be unpacked ({error})") from error
    if unpacked != content:
        raise damage("what was just compressed unpacks to something else")


def require_reads_as(seen: Member, member: Member, mtime_step: int) -> None:
    """Raise DataLoss/CHECKSUM_MISMATCH unless the headers just written say what they should."""
    if seen.path != member.path:
        raise damage("the headers just written give another name", member.path)
    problem = difference(member, seen, mtime_step)
    if problem is None and (seen.uid, seen.gid) != (member.uid, member.gid):
        problem = "owner or group"
    if problem:
        raise damage(f"the headers just written are wrong: {problem}", member.path)
