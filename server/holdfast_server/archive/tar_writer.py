"""tar.gz and tar.zst: POSIX pax tar in a row of gzip members or zstd frames.

docs/format.md ("tar.gz", "tar.zst") specifies them. The tar stream is cut into pieces of about 1 MiB (gzip) or
4 MiB (zstd), each compressed by itself: any reader takes the row as one stream, and all cores write it. zstd frames are
listed at the end (`seek_table`). The size of each gzip member in an extra field lets a reader that knows it skip from
one to the next and unpack several at a time:

    1f 8b 08 04   magic, deflate, FEXTRA
    00 00 00 00   MTIME: none, so that the same input gives the same bytes
    00 ff         XFL, OS unknown
    08 00         XLEN
    48 46 04 00   subfield "HF" of 4 bytes
    xx xx xx xx   length of this whole gzip member, little-endian
    … deflate …
    crc32 isize   of the piece
"""

from __future__ import annotations

import hashlib
import struct
import threading
import unicodedata
from abc import abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from isal import isal_zlib
from zstandard import ZstdCompressor

from holdfast_server.archive.base_writer import ArchiveWriter, Landing, Listing, Small
from holdfast_server.archive.blocks import BLOCK, deflate_tightly
from holdfast_server.archive.manifest import ManifestEntry, format_mtime
from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.archive.proof import require_inflates, require_reads_as, require_unpacks
from holdfast_server.archive.seek_table import FrameSizes
from holdfast_server.archive.tar_reader import member_of

__all__ = ["TarGzWriter", "TarZstWriter"]

TAR_BLOCK = 512
TAR_RECORD = 10240

MAX_NAME = 100
MAX_PREFIX = 155
MAX_OCTAL_7 = 0o7777777  # uid, gid
MAX_OCTAL_11 = 0o77777777777  # size, mtime

GZIP_SUBFIELD = b"HF"
GZIP_HEADER = struct.Struct("<4sLBBH2sHL")
GZIP_TRAILER = struct.Struct("<LL")

#: zstd's level.
ZSTD_LEVEL = 3

PAX_NAME = b"PaxHeaders/holdfast"

_TYPES = {
    MemberKind.FILE: b"0",
    MemberKind.HARDLINK: b"1",
    MemberKind.SYMLINK: b"2",
    MemberKind.DIRECTORY: b"5",
}
_EMPTY_SHA256 = hashlib.sha256().digest()


class _Zstd(threading.local):
    """Each thread's own: two must not share one, and a new one for each frame would cost its memory again."""

    def __init__(self) -> None:
        self.compressor = ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True, write_content_size=True)


_zstd = _Zstd()


class TarWriter(ArchiveWriter):
    """An `ArchiveWriter` for compressed tar. Every member of the vocabulary can be held, with names of any length."""

    _length = 0  # of the tar stream so far; a member's record is its length there
    _parts: list[bytes]  # of a large file, not handed to the pool yet

    @abstractmethod
    def _pack(self, data: bytes, listing: Listing) -> Landing:
        """Compress a piece of the tar stream; `listing` has the members that end in it. Runs in the pool."""

    def _require_representable(self, member: Member) -> None:
        if member.kind in (MemberKind.HARDLINK, MemberKind.SYMLINK) and not member.link_target:
            raise ValueError("a link needs a target")

    def _job(self, batch: list[Small]) -> Callable[[], Landing]:
        return lambda: self._pack(*_join(batch))

    def _stream_start(self, member: Member) -> None:
        self._flush()
        header = _proved_header(member)
        self._parts = [header]
        self._stream_length = len(header) + member.size + -member.size % TAR_BLOCK

    def _stream_block(self, block: bytes, *, last: bool) -> None:
        self._parts.append(block)
        if not last and sum(map(len, self._parts)) >= self.batch_size:
            self._submit_parts(Listing())

    def _stream_end(self, member: Member, entry: ManifestEntry | None) -> None:
        self._parts.append(bytes(-member.size % TAR_BLOCK))
        listing = Listing()
        listing.add(entry, _length_record(self._stream_length))
        self._submit_parts(listing)

    def _submit_parts(self, listing: Listing) -> None:
        parts, self._parts = self._parts, []

        def job() -> Landing:
            data = b"".join(parts)
            parts.clear()  # else they would lie in memory a second time
            return self._pack(data, listing)

        self._jobs.submit(job, sum(map(len, parts)))

    def _keep(self, records: list[bytes], base: int) -> None:  # noqa: ARG002
        self._length += sum(int.from_bytes(record, "big") for record in records)

    def _end(self) -> None:
        self._flush()
        self._jobs.drain()
        length = self._length + 2 * TAR_BLOCK
        self._jobs.put(self._pack(bytes(2 * TAR_BLOCK + -length % TAR_RECORD), Listing()))


class TarGzWriter(TarWriter):
    """Each piece is a gzip member."""

    def _pack(self, data: bytes, listing: Listing) -> Landing:
        return Landing(gzip_member(data), listing)


class TarZstWriter(TarWriter):
    """Each piece is a zstd frame; a table of all frames ends the file."""

    #: Of a mixed tree, 52,000 files of 1.4 GiB, frames of 1 MiB make 593 MB, of 2 MiB 575, of 4 MiB 560, in equal time.
    batch_size = 4 * BLOCK

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._frames = FrameSizes()

    def _pack(self, data: bytes, listing: Listing) -> Landing:
        packed, size = zstd_frame(data), len(data)
        return Landing(packed, listing, lambda offset: self._frames.add(offset, len(packed), size))

    def _end(self) -> None:
        super()._end()
        self._write(self._frames.table())


def _join(batch: list[Small]) -> tuple[bytes, Listing]:
    """Hash the members of a batch and put them into one piece of the tar stream."""
    parts: list[bytes] = []
    listing = Listing()
    for small in batch:
        member, content = small.member, small.content
        header = _proved_header(member)
        padding = bytes(-len(content) % TAR_BLOCK)
        parts += (header, content, padding)
        sha256 = None
        if member.kind is MemberKind.FILE:
            sha256 = hashlib.sha256(content).digest() if content else _EMPTY_SHA256
        length = len(header) + len(content) + len(padding)
        listing.add(small.entry(sha256), _length_record(length))
    batch.clear()  # else the contents would lie in memory a second time
    return b"".join(parts), listing


def _proved_header(member: Member) -> bytes:
    header = tar_header(member)
    require_reads_as(member_of(header), member, 1)
    return header


def _length_record(length: int) -> bytes:
    return length.to_bytes(8, "big")


def gzip_member(data: bytes) -> bytes:
    """`data` as one gzip member that tells its own length."""
    packed = deflate_tightly(data)
    require_inflates(packed, data)
    length = GZIP_HEADER.size + len(packed) + GZIP_TRAILER.size
    header = GZIP_HEADER.pack(b"\x1f\x8b\x08\x04", 0, 0, 255, 8, GZIP_SUBFIELD, 4, length)
    return b"%b%b%b" % (header, packed, GZIP_TRAILER.pack(isal_zlib.crc32(data), len(data)))


def zstd_frame(data: bytes) -> bytes:
    """`data` as one zstd frame with its size and checksum."""
    packed: bytes = _zstd.compressor.compress(data)
    require_unpacks(packed, data)
    return packed


def tar_header(member: Member) -> bytes:
    """The ustar header of a member, with a pax header before it when ustar cannot say everything exactly."""
    name = member.path + b"/" if member.kind is MemberKind.DIRECTORY else member.path
    link = member.link_target
    seconds, nanoseconds = divmod(member.mtime_ns, 1_000_000_000)
    records: list[tuple[bytes, bytes]] = []
    split = _split(name) if name.isascii() else None
    if split is None:
        records.append((b"path", name))
    if link and (len(link) > MAX_NAME or not link.isascii()):
        records.append((b"linkpath", link))
    if records and not all(_is_plain(value) for _, value in records):
        records.insert(0, (b"hdrcharset", b"BINARY"))
    if nanoseconds or not 0 <= seconds <= MAX_OCTAL_11:
        records.append((b"mtime", format_mtime(member.mtime_ns).rstrip("0").rstrip(".").encode()))
        seconds = min(max(seconds, 0), MAX_OCTAL_11)
    size, uid, gid = member.size, member.uid, member.gid
    if size > MAX_OCTAL_11:
        records.append((b"size", b"%d" % size))
        size = 0
    if uid > MAX_OCTAL_7:
        records.append((b"uid", b"%d" % uid))
        uid = 0
    if gid > MAX_OCTAL_7:
        records.append((b"gid", b"%d" % gid))
        gid = 0
    prefix, short = split or (b"", _plain(name))
    header = _ustar(short, member.mode, uid, gid, size, seconds, _TYPES[member.kind], _plain(link), prefix)
    return _pax(records) + header if records else header


def _ustar(
    name: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, kind: bytes, link: bytes, prefix: bytes
) -> bytes:
    head = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(100, b"\0"), mode, uid, gid, size, mtime)
    tail = b"%b%bustar\x0000" % (kind, link.ljust(100, b"\0"))
    total = sum(head) + 8 * 0x20 + sum(tail) + sum(prefix)
    tail = tail.ljust(189, b"\0") + prefix.ljust(167, b"\0")
    return b"%b%06o\0 %b" % (head, total, tail)


def _pax(records: list[tuple[bytes, bytes]]) -> bytes:
    """An extended header (type x) that holds for the next member."""
    body = b"".join(_pax_record(key, value) for key, value in records)
    return _pax_header(len(body)) + body + bytes(-len(body) % TAR_BLOCK)


@lru_cache(maxsize=1024)
def _pax_header(size: int) -> bytes:
    return _ustar(PAX_NAME, 0o644, 0, 0, size, 0, b"x", b"", b"")


def _pax_record(key: bytes, value: bytes) -> bytes:
    """`length key=value newline`, where the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(b"%d" % rest)
    length = rest + len(b"%d" % length)
    return b"%d %b=%b\n" % (length, key, value)


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """ustar's prefix and name for an ASCII path, or None when it does not fit."""
    if len(name) <= MAX_NAME:
        return b"", name
    if len(name) > MAX_PREFIX + 1 + MAX_NAME:
        return None
    # The first slash that leaves at most MAX_NAME bytes after it; a trailing slash belongs to the name.
    at = name.find(b"/", len(name) - MAX_NAME - 1, len(name) - 1)
    if at <= 0 or at > MAX_PREFIX:
        return None
    return name[:at], name[at + 1 :]


def _plain(name: bytes) -> bytes:
    """A stand-in of at most 100 ASCII bytes; readers that know pax never use it."""
    if len(name) <= MAX_NAME and name.isascii():
        return name
    return name[:MAX_NAME].decode("ascii", "replace").replace("\ufffd", "_").encode()


def _is_plain(value: bytes) -> bool:
    """Whether every reader keeps the bytes of a name that is declared as UTF-8: bsdtar composes what is not NFC."""
    try:
        return unicodedata.is_normalized("NFC", value.decode())
    except UnicodeDecodeError:
        return False
