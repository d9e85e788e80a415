"""Zip: raw deflate, zip64 where needed and only there.

docs/format.md ("zip") specifies what is written. A large file's deflate stream is made of blocks of 1 MiB that were
compressed apart and joined by sync flushes, so that all cores work on it; any inflater reads it as one stream. Its
sizes and checksum stand in a data descriptor behind it, so that the archive is written forwards only and can be sealed.
"""

from __future__ import annotations

import hashlib
import stat
import struct
import time
from collections.abc import Callable

from isal import isal_zlib

from holdfast_server.archive.base_writer import ArchiveWriter, Landing, Listing, MemberNotRepresentable, Small
from holdfast_server.archive.blocks import BLOCK, deflate, deflate_part
from holdfast_server.archive.manifest import ManifestEntry
from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.archive.proof import require_inflates, require_reads_as
from holdfast_server.archive.spool import ByteSpool
from holdfast_server.archive.zip_reader import member_of

__all__ = ["ZipWriter"]

LOCAL_SIGNATURE = 0x04034B50
CENTRAL_SIGNATURE = 0x02014B50
END_SIGNATURE = 0x06054B50
DESCRIPTOR_SIGNATURE = 0x08074B50
ZIP64_END_SIGNATURE = 0x06064B50
ZIP64_LOCATOR_SIGNATURE = 0x07064B50

EXTRA_ZIP64 = 0x0001
EXTRA_TIMESTAMP = 0x5455
EXTRA_UNIX = 0x7875

#: What a field holds when its value stands in a zip64 record.
LIMIT_32 = 0xFFFFFFFF
LIMIT_16 = 0xFFFF

#: Values from here on go to zip64. Only tests lower it.
wide_from = LIMIT_32

MAX_NAME = 0xFFFF
MADE_BY_UNIX = 3
VERSION = 20
VERSION_ZIP64 = 45
FLAG_DESCRIPTOR = 1 << 3
FLAG_UTF8 = 1 << 11
STORED, DEFLATED = 0, 8
DOS_DIRECTORY = 0x10

_LOCAL = struct.Struct("<LHHHHHLLLHH")
_CENTRAL = struct.Struct("<LHHHHHHLLLHHHHHLL")
_DESCRIPTOR = struct.Struct("<4L")
_DESCRIPTOR_64 = struct.Struct("<2L2Q")
_OFFSET = struct.Struct("<L")
_STORED_BLOCK = 0xFFFF
_MTIME_STEP = 1_000_000_000
_CRC_AT, _LENGTHS_AT = 14, 26  # in a local header
_OFFSET_AT = 42  # of the local header's offset in a central record
_UNIX_TYPES = {
    MemberKind.FILE: stat.S_IFREG,
    MemberKind.DIRECTORY: stat.S_IFDIR,
    MemberKind.SYMLINK: stat.S_IFLNK,
}
_EMPTY_SHA256 = hashlib.sha256().digest()


class ZipWriter(ArchiveWriter):
    """An `ArchiveWriter` for zip. The core writes hard links as full copies; HARDLINK members are a ValueError."""

    max_path = MAX_NAME - 1  # a directory's name gets a slash

    _directory: ByteSpool | None = None
    _count = 0
    _header_at = 0

    def _require_representable(self, member: Member) -> None:
        if member.kind is MemberKind.HARDLINK:
            raise ValueError("zip has no hard links; write the content again")
        if member.kind is MemberKind.SYMLINK and len(member.link_target) >= LIMIT_32:
            raise MemberNotRepresentable("the link's target is too long")

    def _job(self, batch: list[Small]) -> Callable[[], Landing]:
        return lambda: _pack(batch)

    def _stream_start(self, member: Member) -> None:
        self._flush()
        self._crc = 0
        self._wide = _bound(member.size) >= wide_from
        header, _ = _headers(member, 0, 0, DEFLATED, wide=self._wide, streamed=True)
        self._header_size = len(header)

        def begun(offset: int) -> None:
            self._header_at = offset

        self._jobs.put(Landing(_blank(header, wide=self._wide), then=begun))

    def _stream_block(self, block: bytes, *, last: bool) -> None:
        self._crc = isal_zlib.crc32(block, self._crc)
        self._jobs.submit(lambda: Landing(_deflate_block(block, last=last)), len(block))

    def _stream_end(self, member: Member, entry: ManifestEntry | None) -> None:
        crc, wide, header_size = self._crc, self._wide, self._header_size

        def complete(offset: int) -> None:
            packed = offset - self._header_at - header_size
            header, record = _headers(member, crc, packed, DEFLATED, wide=wide, streamed=True)
            require_reads_as(member_of(header, record, b""), member, _MTIME_STEP)
            descriptor = _DESCRIPTOR_64 if wide else _DESCRIPTOR
            landing.data = descriptor.pack(DESCRIPTOR_SIGNATURE, crc, packed, member.size)
            landing.base = self._header_at
            listing.add(entry, record)

        listing = Listing()
        landing = Landing(listing=listing, then=complete)
        self._jobs.put(landing)

    def _keep(self, records: list[bytes], base: int) -> None:
        """Put the absolute offsets in: the records carry them relative to `base`."""
        if self._directory is None:
            self._directory = ByteSpool()
        joined, at = bytearray(), 0
        for record in records:
            offset = base + _OFFSET.unpack_from(record, _OFFSET_AT)[0]
            if offset < wide_from:
                joined += record
                _OFFSET.pack_into(joined, at + _OFFSET_AT, offset)
            else:
                joined += _with_wide_offset(record, offset)
            at = len(joined)
        self._directory.add(bytes(joined))
        self._count += len(records)

    def _end(self) -> None:
        self._flush()
        self._jobs.drain()
        self._expire_mark()
        start = self._position
        size = 0
        if self._directory is not None:
            size = self._directory.size
            for block in self._directory.blocks():
                self._write(block)
        self._write(_end_records(self._count, start, size))


def _pack(batch: list[Small]) -> Landing:
    """Checksum, compress and prove the members of a batch."""
    parts: list[bytes] = []
    listing = Listing()
    at = 0
    for small in batch:
        member, content = small.member, small.content
        sha256 = None
        crc, packed, method = 0, b"", STORED
        if member.kind is MemberKind.FILE:
            sha256 = hashlib.sha256(content).digest() if content else _EMPTY_SHA256
        elif member.kind is MemberKind.SYMLINK:
            content = member.link_target
        if content:
            crc = isal_zlib.crc32(content)
            packed = deflate(content)
            if len(packed) >= len(content):
                packed = content
            else:
                method = DEFLATED
                require_inflates(packed, content, member.path)
        header, record = _headers(member, crc, len(packed), method, offset=at)
        require_reads_as(member_of(header, record, member.link_target), member, _MTIME_STEP)
        parts += (header, packed)
        at += len(header) + len(packed)
        listing.add(small.entry(sha256), record)
    return Landing(b"".join(parts), listing)


def _deflate_block(block: bytes, *, last: bool) -> bytes:
    """One block of a longer deflate stream, byte-aligned at its end."""
    data = deflate_part(block, last=last)
    if len(data) > len(block):
        data = _stored_blocks(block, last=last)
    require_inflates(data, block, whole=last)
    return data


def _stored_blocks(block: bytes, *, last: bool) -> bytes:
    """The block as it is, in deflate's framing; so nothing ever outgrows `_bound`."""
    parts: list[bytes] = []
    for at in range(0, len(block), _STORED_BLOCK):
        part = block[at : at + _STORED_BLOCK]
        final = last and at + len(part) == len(block)
        parts += (struct.pack("<BHH", final, len(part), len(part) ^ 0xFFFF), part)
    return b"".join(parts)


def _bound(size: int) -> int:
    """More than `size` bytes of content can ever have when they are deflated by blocks."""
    return size + 5 * (BLOCK // _STORED_BLOCK + 1) * (size // BLOCK + 1)


def _headers(
    member: Member,
    crc: int,
    packed: int,
    method: int,
    *,
    offset: int = 0,
    wide: bool = False,
    streamed: bool = False,
) -> tuple[bytes, bytes]:
    """Local header and central record. `streamed`: the checksum and the sizes come behind the content."""
    kind = member.kind
    name = member.path + b"/" if kind is MemberKind.DIRECTORY else member.path
    size = len(member.link_target) if kind is MemberKind.SYMLINK else member.size
    flags = FLAG_DESCRIPTOR if streamed else 0
    if not name.isascii():
        try:
            name.decode()
            flags |= FLAG_UTF8
        except UnicodeDecodeError:
            pass  # raw bytes without the flag: what a Unix zip means by them
    seconds = member.mtime_ns // 1_000_000_000
    dos_date, dos_time = _dos(seconds)
    extra = _extra(member, seconds)
    version, sizes = VERSION, (packed, size)
    if wide:
        version, sizes = VERSION_ZIP64, (LIMIT_32, LIMIT_32)
        extra = struct.pack("<HHQQ", EXTRA_ZIP64, 16, size, packed) + extra
    local = _LOCAL.pack(LOCAL_SIGNATURE, version, flags, method, dos_time, dos_date, crc, *sizes, len(name), len(extra))
    attributes = (_UNIX_TYPES[kind] | member.mode) << 16 | (DOS_DIRECTORY if kind is MemberKind.DIRECTORY else 0)
    made_by = MADE_BY_UNIX << 8 | version
    record = _CENTRAL.pack(
        CENTRAL_SIGNATURE, made_by, version, flags, method, dos_time, dos_date, crc, *sizes, len(name), len(extra),
        0, 0, 0, attributes, offset,
    )  # fmt: skip
    return b"%b%b%b" % (local, name, extra), b"%b%b%b" % (record, name, extra)


def _blank(local: bytes, *, wide: bool) -> bytes:
    """A local header whose checksum and sizes are said behind the content."""
    sizes = b"\xff" * 8 if wide else bytes(8)
    if not wide:
        return b"%b%b%b" % (local[:_CRC_AT], bytes(4) + sizes, local[_LENGTHS_AT:])
    values_at = _LOCAL.size + int.from_bytes(local[_LENGTHS_AT : _LENGTHS_AT + 2], "little") + 4
    return b"%b%b%b%b%b" % (
        local[:_CRC_AT], bytes(4) + sizes, local[_LENGTHS_AT:values_at], bytes(16), local[values_at + 16 :],
    )  # fmt: skip


def _extra(member: Member, seconds: int) -> bytes:
    """Extended timestamp, when it fits, and owner. The same bytes serve both headers: only mtime is given."""
    uid, gid = member.uid, member.gid
    if uid <= 0xFFFFFFFF and gid <= 0xFFFFFFFF:
        owner = struct.pack("<HHBBLBL", EXTRA_UNIX, 11, 1, 4, uid, 4, gid)
    else:
        owner = struct.pack("<HHBBQBQ", EXTRA_UNIX, 19, 1, 8, uid, 8, gid)
    if -0x80000000 <= seconds <= 0x7FFFFFFF:
        return struct.pack("<HHBl", EXTRA_TIMESTAMP, 5, 1, seconds) + owner
    return owner


def _dos(seconds: int) -> tuple[int, int]:
    """DOS date and time in UTC, clamped to what they can say: 1980 to 2107, even seconds."""
    if seconds < 315532800:  # 1980-01-01
        return 1 << 5 | 1, 0
    if seconds >= 4354819200:  # 2108-01-01
        return 127 << 9 | 12 << 5 | 31, 23 << 11 | 59 << 5 | 29
    t = time.gmtime(seconds)
    return (t[0] - 1980) << 9 | t[1] << 5 | t[2], t[3] << 11 | t[4] << 5 | t[5] >> 1


def _with_wide_offset(record: bytes, offset: int) -> bytes:
    """The central record with its offset in the zip64 extra field."""
    fields = list(_CENTRAL.unpack_from(record))
    name_length, extra_length = fields[10], fields[11]
    name_end = _CENTRAL.size + name_length
    name, extra = record[_CENTRAL.size : name_end], record[name_end : name_end + extra_length]
    sizes = b""
    if extra[:2] == EXTRA_ZIP64.to_bytes(2, "little"):
        sizes, extra = extra[4:20], extra[20:]
    extra = struct.pack("<HH", EXTRA_ZIP64, len(sizes) + 8) + sizes + struct.pack("<Q", offset) + extra
    fields[1], fields[2] = MADE_BY_UNIX << 8 | VERSION_ZIP64, VERSION_ZIP64
    fields[11], fields[16] = len(extra), LIMIT_32
    return _CENTRAL.pack(*fields) + name + extra


def _end_records(count: int, start: int, size: int) -> bytes:
    """End of central directory, with the zip64 records before it when a value needs them."""
    end = struct.pack(
        "<LHHHHLLH",
        END_SIGNATURE, 0, 0, min(count, LIMIT_16), min(count, LIMIT_16), _narrow(size), _narrow(start), 0,
    )  # fmt: skip
    if count < LIMIT_16 and size < wide_from and start < wide_from:
        return end
    made_by = MADE_BY_UNIX << 8 | VERSION_ZIP64
    wide = struct.pack("<LQHHLLQQQQ", ZIP64_END_SIGNATURE, 44, made_by, VERSION_ZIP64, 0, 0, count, count, size, start)
    return wide + struct.pack("<LLQL", ZIP64_LOCATOR_SIGNATURE, 0, start + size, 1) + end


def _narrow(value: int) -> int:
    return value if value < wide_from else LIMIT_32
