"""Tar headers: ustar, pax and GNU. Parsed strictly; what two readers could read in two ways is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable

from holdfast_server.archive.reading import invalid, show
from holdfast_server.records import frozen_record

__all__ = [
    "PAX_HARMLESS",
    "PAX_NAMED",
    "PAX_READ",
    "RECORD",
    "Header",
    "is_header",
    "parse_decimal",
    "parse_header",
    "parse_mtime",
    "parse_pax",
    "unapplied",
]

RECORD = 512

#: Keys that change what a member is.
PAX_READ = frozenset((b"path", b"linkpath", b"size", b"mtime", b"uid", b"gid", b"hdrcharset"))
#: Keys that lose nothing when they are passed over: other times, names of owners, where a file lay.
PAX_HARMLESS = PAX_READ | {
    *(b"atime", b"ctime", b"uname", b"gname", b"comment", b"charset"),
    *(
        b"LIBARCHIVE.creationtime",
        b"LIBARCHIVE.symlinktype",
        b"SCHILY.archtype",
        b"SCHILY.filetype",
        b"SCHILY.tarfiletype",
    ),
    *(b"SCHILY.dev", b"SCHILY.ino", b"SCHILY.nlink", b"SCHILY.devmajor", b"SCHILY.devminor", b"SCHILY.devminorbits"),
}
PAX_NAMED = (
    (b"SCHILY.xattr.", "extended attributes"),
    (b"LIBARCHIVE.xattr.", "extended attributes"),
    (b"SCHILY.acl.", "access control lists"),
    (b"RHT.security.", "a security context"),
    (b"SCHILY.fflags", "file flags"),
    (b"MSWINDOWS.", "Windows attributes"),
)
_CHARSETS = (b"BINARY", b"ISO-IR 10646 2000 UTF-8", b"")

_OCTAL = re.compile(rb" *([0-7]*)[ \0]*", re.DOTALL)
_RECORD_LENGTH = re.compile(rb"[1-9][0-9]{0,9} ")
_DECIMAL = re.compile(rb"[0-9]{1,19}")
_TIME = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]*))?")
_MAX_SECONDS = (1 << 63) - 1


@frozen_record
class Header:
    """One header block. `kind` is its type flag; an old-style NUL reads as `0`, or `5` where the name ends with `/`."""

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    link: bytes


def is_header(block: bytes) -> bool:
    """Whether the bytes begin with a tar header of any kind: its magic, or for old ones its checksum, tells."""
    if block[257:262] == b"ustar":
        return True
    if len(block) < RECORD or not block[0]:
        return False
    match = _OCTAL.fullmatch(block[148:156])
    return match is not None and int(match[1] or b"0", 8) == _checksum(block[:RECORD])


def parse_header(block: bytes, offset: int) -> Header:
    """Read a header block. Raises FailedPrecondition/ARCHIVE_INVALID."""
    magic = block[257:265]
    stated = parse_number(block[148:156], "checksum", offset)
    if stated != _checksum(block):
        raise invalid("a tar header's checksum does not match", offset=offset)
    name = _text(block[0:100])
    if magic == b"ustar\x0000":
        prefix = _text(block[345:500])
        name = prefix + b"/" + name if prefix else name
    elif magic not in (b"ustar  \0", bytes(8)):
        raise invalid("a tar header is neither ustar, GNU nor of the old form", name, offset)
    kind = block[156:157]
    if kind == b"\0":
        # The old form had no type for directories.
        kind = b"5" if name[-1:] == b"/" else b"0"
    return Header(
        name=name,
        kind=kind,
        mode=parse_number(block[100:108], "mode", offset),
        uid=parse_number(block[108:116], "owner", offset, bits=32),
        gid=parse_number(block[116:124], "group", offset, bits=32),
        size=parse_number(block[124:136], "size", offset),
        mtime=parse_number(block[136:148], "time", offset, signed=True),
        link=_text(block[157:257]),
    )


def _checksum(block: bytes) -> int:
    return sum(block) - sum(block[148:156]) + 8 * 0x20


def parse_number(field: bytes, what: str, offset: int, *, bits: int = 63, signed: bool = False) -> int:
    """An octal or base-256 field. Negative ones are refused unless `signed`."""
    if field[0] & 0x80:
        # Base 256: the first bit is the mark, the rest is two's complement.
        value = int.from_bytes(field, "big") & (1 << (8 * len(field) - 1)) - 1
        if field[0] & 0x40:
            value -= 1 << (8 * len(field) - 1)
    elif (digits := field.rstrip(b" \0")).isdigit() and max(digits) < 0x38:  # as most tools write it
        value = int(digits, 8)
    else:
        match = _OCTAL.fullmatch(field)
        if match is None:
            raise invalid(f"the {what} in a tar header is no number", offset=offset)
        value = int(match[1] or b"0", 8)
    if value >= 1 << bits or (value < 0 and not signed) or value < -_MAX_SECONDS:
        raise invalid(f"the {what} in a tar header is out of range", offset=offset)
    return value


def parse_pax(data: bytes, offset: int) -> dict[bytes, bytes]:
    """The records of a pax header. Raises for a malformed or sparse one, and when one of PAX_READ is repeated."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        match = _RECORD_LENGTH.match(data, at)
        end = at + int(match[0]) if match else 0
        if match is None or end > len(data) or end <= match.end() or data[end - 1 : end] != b"\n":
            raise invalid("a pax record's length is wrong", offset=offset + at)
        key, equals, value = data[match.end() : end - 1].partition(b"=")
        if not key or not equals:
            raise invalid("a pax record has no keyword", offset=offset + at)
        if key.startswith(b"GNU.sparse.") or key == b"SCHILY.realsize":
            raise invalid("sparse tar members are not supported", offset=offset + at)
        if key in PAX_READ and key in found:
            raise invalid(f"the pax record {key.decode()} appears twice", offset=offset + at)
        found[key] = value
        at = end
    if found.get(b"hdrcharset", b"") not in _CHARSETS:
        raise invalid("a pax header uses an unknown character set", offset=offset)
    return found


def unapplied(pax: Iterable[bytes]) -> list[str]:
    """For people, what pax records with these keys carry that a restore does not apply."""
    found = set()
    for key in pax:
        if key in PAX_HARMLESS:
            continue
        named = [what for prefix, what in PAX_NAMED if key.startswith(prefix)]
        found.add(named[0] if named else f"the pax record '{show(key)}'")
    return sorted(found)


def parse_decimal(value: bytes, what: str, offset: int, *, bits: int = 63) -> int:
    if not _DECIMAL.fullmatch(value) or int(value) >= 1 << bits:
        raise invalid(f"the {what} in a pax header is no number or out of range", offset=offset)
    return int(value)


def parse_mtime(value: bytes, offset: int) -> int:
    """A pax time in nanoseconds; digits behind the ninth are cut off towards the past, as GNU tar does."""
    match = _TIME.fullmatch(value)
    if match is None or int(match[2]) > _MAX_SECONDS:
        raise invalid("the time in a pax header is no number or out of range", offset=offset)
    fraction = match[3] or b""
    result = int(match[2]) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
    if not match[1]:
        return result
    return -result - (1 if fraction[9:].strip(b"0") else 0)


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]
