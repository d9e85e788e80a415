"""The extra fields of a zip's headers: what they say about an entry, and which of them a restore leaves out.

docs/format.md ("Reading what others wrote") lists the kinds that are read, those that lose nothing when they are passed
over, and says that all others are reported.
"""

from __future__ import annotations

import struct
from collections.abc import Collection

from isal import isal_zlib

from holdfast_server.archive.reading import invalid

__all__ = [
    "HARMLESS",
    "NAMED",
    "extra_fields",
    "mtime_ns",
    "other_name",
    "owner",
    "unapplied",
    "unix_seconds",
    "zip64_values",
]

_ZIP64 = 0x0001
_NTFS = 0x000A
_TIMES = 0x5455
_OLD_UNIX = 0x5855
_UNICODE_PATH = 0x7075
_UNIX = 0x7875
_READ = frozenset((_ZIP64, _NTFS, _TIMES, _OLD_UNIX, _UNICODE_PATH, _UNIX))
#: Padding, owner of Info-ZIP 2, comment as UTF-8, alignment of Android and of its signers, padding of Office, jar
HARMLESS = _READ | {0x0000, 0x7855, 0x6375, 0xD935, 0xA11E, 0xA220, 0xCAFE}
NAMED = {
    0x0009: "extended attributes of OS/2",
    0x07C8: "a Macintosh's file attributes",
    0x334D: "a Macintosh's file attributes",
    0x4453: "a Windows access control list",
    0x4C41: "an access control list of OS/2",
    0x6C78: "extended attributes",
    0x756E: "Unix attributes of ASi",
}

_MAX32 = 0xFFFFFFFF
_OWNER_32 = struct.Struct("<BBLBL")
#: From 1601 to 1970 in units of 100 ns.
_NTFS_EPOCH = 116_444_736_000_000_000
_NTFS_TIMES = struct.Struct("<4x2H3Q")


def extra_fields(extra: bytes, path: bytes, offset: int) -> dict[int, bytes]:
    """Split an extra field. Kinds that nobody reads here may repeat; those that are read may not."""
    fields: dict[int, bytes] = {}
    at = 0
    while at < len(extra):
        if at + 4 > len(extra):
            # Android's zipalign pads with less than a field's header.
            if extra.count(0, at) == len(extra) - at:
                break
            raise invalid("an extra field is cut off", path, offset)
        kind, size = struct.unpack_from("<2H", extra, at)
        at += 4
        if at + size > len(extra):
            raise invalid("an extra field is longer than the space for it", path, offset)
        if kind in fields and kind in _READ:
            raise invalid(f"extra field 0x{kind:04x} appears twice", path, offset)
        fields[kind] = extra[at : at + size]
        at += size
    return fields


def unapplied(local: Collection[int], central: Collection[int]) -> list[str]:
    """For people, what an entry with these kinds of extra fields carries that a restore does not apply."""
    if HARMLESS.issuperset(local) and HARMLESS.issuperset(central):
        return []
    return [NAMED.get(kind, f"the extra field 0x{kind:04x}") for kind in sorted({*local, *central} - HARMLESS)]


def zip64_values(fields: dict[int, bytes], values: list[int], path: bytes, offset: int) -> list[int]:
    """Replace each 32-bit value that is all ones by its 64-bit value, which must be there.

    The field holds those values only, or all of them: then the others must repeat what the 32-bit fields say.
    """
    data = fields.get(_ZIP64)
    if data is None and _MAX32 not in values:
        return values
    wanted = [i for i, value in enumerate(values) if value == _MAX32]
    if data is None:
        raise invalid("a zip64 field is missing", path, offset)
    result = list(values)
    if len(data) == 8 * len(values):
        wide = struct.unpack(f"<{len(values)}Q", data)
        if any(a not in (b, _MAX32) for a, b in zip(values, wide, strict=True)):
            raise invalid("the zip64 field and the header disagree", path, offset)
        return list(wide)
    if not wanted or len(data) != 8 * len(wanted):
        raise invalid("the zip64 field does not hold exactly the values that need it", path, offset)
    for i, value in zip(wanted, struct.unpack(f"<{len(wanted)}Q", data), strict=True):
        result[i] = value
    return result


def other_name(fields: dict[int, bytes], name: bytes, offset: int) -> bytes | None:
    """The name that an Info-ZIP Unicode path field gives in place of `name`, which it must belong to."""
    data = fields.get(_UNICODE_PATH)
    if data is None:
        return None
    text = data[5:]
    if data[:1] != b"\1" or len(data) < 6 or int.from_bytes(data[1:5], "little") != isal_zlib.crc32(name):
        raise invalid("the Unicode path field belongs to another name", name, offset)
    try:
        text.decode()
    except UnicodeDecodeError:
        raise invalid("the Unicode path field is not UTF-8", name, offset) from None
    return text


def unix_seconds(fields: dict[int, bytes]) -> int | None:
    """The time of modification in seconds from the extended timestamp."""
    data = fields.get(_TIMES)
    if data is None or len(data) < 5 or not data[0] & 1:
        return None
    return int.from_bytes(data[1:5], "little", signed=True)


def mtime_ns(fields: dict[int, bytes], dos_year: int) -> int | None:
    """The time of modification in nanoseconds as the first of the fields for it says; they are in UTC.

    The Unix ones have 32 bits: what reads as negative is past 2038 where the header's own time says so, as for unzip.
    """
    seconds = unix_seconds(fields)
    if seconds is None and len(fields.get(_OLD_UNIX, b"")) >= 8:
        seconds = int.from_bytes(fields[_OLD_UNIX][4:8], "little", signed=True)
    if seconds is not None:
        if seconds < 0 and dos_year >= 2038:
            seconds += 1 << 32
        return seconds * 1_000_000_000
    ntfs = fields.get(_NTFS, b"")
    if len(ntfs) >= _NTFS_TIMES.size:
        tag, size, modified, _, _ = _NTFS_TIMES.unpack_from(ntfs)
        if (tag, size) == (1, 24) and 0 < modified < 1 << 63:
            return int(modified - _NTFS_EPOCH) * 100
    return None


def owner(fields: dict[int, bytes], path: bytes, offset: int) -> tuple[int, int]:
    """(uid, gid), zeros where no field says them."""
    data = fields.get(_UNIX, b"")
    if len(data) == 11 and data[:2] == b"\1\4" and data[6] == 4:  # as nearly all tools write it
        _, _, uid, _, gid = _OWNER_32.unpack(data)
        return uid, gid
    if len(data) < 3 or data[0] != 1:
        return 0, 0
    uid_size = data[1]
    gid_at = 2 + uid_size + 1
    if gid_at > len(data) or gid_at + data[gid_at - 1] != len(data):
        raise invalid("the field of owner and group is malformed", path, offset)
    uid, gid = int.from_bytes(data[2 : 2 + uid_size], "little"), int.from_bytes(data[gid_at:], "little")
    if uid >= 1 << 32 or gid >= 1 << 32:
        raise invalid("an owner or group is out of range", path, offset)
    return uid, gid
