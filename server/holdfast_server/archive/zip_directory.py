"""The end and the central directory of a zip file, with one reading only.

Nothing is searched for: the end record must end with the file, the directory must lie exactly before it and be exactly
as long as stated, and every field that is stated twice must say the same.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from holdfast_server.archive.reading import Source, damage, invalid
from holdfast_server.archive.zip_extra import extra_fields, zip64_values
from holdfast_server.records import frozen_record

__all__ = ["Directory", "Record", "find_directory", "record_at", "records"]

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_WINDOW = 1 << 20
_MAX16 = 0xFFFF
_MAX32 = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Directory:
    """Where the central directory lies and how many entries it has."""

    offset: int
    size: int
    entries: int


@frozen_record
class Record:
    """One entry of the central directory; `position` is where the entry itself lies."""

    position: int
    name: bytes
    host: int
    flags: int
    method: int
    dos_time: int
    dos_date: int
    crc: int
    packed: int
    size: int
    attributes: int
    offset: int
    extra: dict[int, bytes]


def find_directory(source: Source) -> Directory:
    """Find the end record and what it points to. Raises FailedPrecondition, or DataLoss for a cut-off zip."""
    start = max(0, source.size - _END.size - _MAX16)
    tail = source.read(start, source.size - start)
    found = _find_end(tail, source)
    position = start + found
    fields = _END.unpack_from(tail, found)
    _, disk, directory_disk, here, entries, size, offset, _ = fields
    if source.size >= _LOCATOR.size and position >= _LOCATOR.size:
        locator = source.read(position - _LOCATOR.size, _LOCATOR.size)
        if locator[:4] == b"PK\6\7":
            return _directory64(source, position - _LOCATOR.size, locator, fields)
    if disk or directory_disk or here != entries:
        raise invalid("the zip is one of several parts", offset=position)
    if offset + size != position:
        raise invalid("the central directory does not lie directly before the end record", offset=position)
    return Directory(offset, size, entries)


def records(source: Source, directory: Directory) -> Iterator[Record]:
    """The entries of the central directory, read window by window; checks their number and total length."""
    end = directory.offset + directory.size
    position, window, base = directory.offset, b"", directory.offset
    for _ in range(directory.entries):
        # 196 KiB hold the longest entry there can be.
        if position + _CENTRAL.size + 3 * _MAX16 > base + len(window) and base + len(window) < end:
            base, window = position, source.read(position, min(_WINDOW, end - position))
        if position + _CENTRAL.size > end:
            raise invalid("the central directory has fewer entries than stated", offset=position)
        record, position = record_at(window, position - base, position, end)
        yield record
    if position != end:
        raise invalid("the central directory is longer than its entries", offset=position)


def _find_end(tail: bytes, source: Source) -> int:
    found = tail.rfind(b"PK\5\6")
    if found < 0 or found + _END.size > len(tail):
        if source.size and source.read_some(0, 4) == b"PK\3\4":
            raise damage("the zip's end record is missing, the file is cut off", offset=source.size)
        raise invalid("it is no zip file: it has no end record", offset=source.size)
    comment = int.from_bytes(tail[found + 20 : found + 22], "little")
    if found + _END.size + comment != len(tail):
        raise invalid("the zip's comment is not as long as stated", offset=source.size - len(tail) + found)
    other = tail.find(b"PK\5\6")
    while other < found:
        comment = int.from_bytes(tail[other + 20 : other + 22], "little")
        if other + _END.size + comment == len(tail):
            raise invalid("the zip has two end records", offset=source.size - len(tail) + other)
        other = tail.find(b"PK\5\6", other + 1)
    return found


def _directory64(source: Source, locator_at: int, locator: bytes, end: tuple[int, ...]) -> Directory:
    _, disk, at, disks = _LOCATOR.unpack(locator)
    if disk or disks != 1:
        raise invalid("the zip is one of several parts", offset=locator_at)
    if at + _END64.size != locator_at:
        raise invalid("the zip64 end record does not lie directly before its locator", offset=locator_at)
    signature, length, _, _, disk, directory_disk, here, entries, size, offset = _END64.unpack(
        source.read(at, _END64.size)
    )
    if signature != b"PK\6\6" or length != _END64.size - 12:
        raise invalid("the zip64 end record is malformed", offset=at)
    stated = (disk, directory_disk, here, entries, size, offset)
    for value32, value64, top in zip(end[1:7], stated, (_MAX16,) * 4 + (_MAX32,) * 2, strict=True):
        if value32 not in (value64, top):
            raise invalid("the zip64 end record and the end record disagree", offset=at)
    if disk or directory_disk or here != entries:
        raise invalid("the zip is one of several parts", offset=at)
    if offset + size != at:
        raise invalid("the central directory does not lie directly before the zip64 end record", offset=at)
    return Directory(offset, size, entries)


def record_at(window: bytes, at: int, position: int, end: int) -> tuple[Record, int]:
    """The entry at `window[at:]`, which lies at `position` of the file, and where the next one does."""
    fields = _CENTRAL.unpack_from(window, at)
    signature, made_by, _, flags, method, dos_time, dos_date, crc, packed, size = fields[:10]
    name_length, extra_length, comment_length, disk, _, attributes, offset = fields[10:]
    if signature != b"PK\1\2":
        raise invalid("the central directory has fewer entries than stated, or one is malformed", offset=position)
    behind = position + _CENTRAL.size + name_length + extra_length + comment_length
    if behind > end:
        raise invalid("an entry of the central directory is longer than the directory", offset=position)
    at += _CENTRAL.size
    name = window[at : at + name_length]
    extra = extra_fields(window[at + name_length : at + name_length + extra_length], name, position)
    size, packed, offset = zip64_values(extra, [size, packed, offset], name, position)
    if disk:
        raise invalid("the zip is one of several parts", name, position)
    record = Record(
        position, name, made_by >> 8, flags, method, dos_time, dos_date, crc, packed, size, attributes, offset, extra
    )
    return record, behind
