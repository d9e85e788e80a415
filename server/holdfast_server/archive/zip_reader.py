"""A strict reader of zip files.

The local headers must follow each other without gaps in the order of the central directory, from the file's first byte
to the directory's, and say what the directory says. So no two readers can see different archives in one file. A zip
whose directory is sorted in another way is refused: no common tool writes one, and accepting it would cost memory per
member.
"""

from __future__ import annotations

import calendar
import stat
import struct
from collections.abc import Callable, Iterator

from isal import isal_zlib

from holdfast_server.archive.inflate import BadDeflate, Inflater
from holdfast_server.archive.manifest import is_manifest_name
from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.archive.reading import (
    BLOCK,
    ArchiveReader,
    Budget,
    Content,
    Limits,
    Names,
    Source,
    check_path,
    damage,
    invalid,
    plain_path,
)
from holdfast_server.archive.zip_directory import Record, find_directory, record_at, records
from holdfast_server.archive.zip_extra import (
    extra_fields,
    mtime_ns,
    other_name,
    owner,
    unapplied,
    unix_seconds,
    zip64_values,
)

__all__ = ["ZipReader", "member_of"]

_LOCAL = struct.Struct("<4s5H3L2H")
_STORED, _DEFLATED = 0, 8
_DESCRIPTOR, _UTF8 = 0x0008, 0x0800
#: Deflate's effort bits, data descriptor, UTF-8. All else is encryption, patches, or unknown.
_KNOWN_FLAGS = 0x0006 | _DESCRIPTOR | _UTF8
_UNIX_HOSTS = (3, 19)
_SPECIAL = (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
_PIECE = 256 << 10
_CENTRAL_SIZE = 46
_ANY = Limits()
#: PATH_MAX bounds what symlink(2) takes.
_MAX_TARGET = 4095


class ZipReader(ArchiveReader):
    """Reads a zip file. See ArchiveReader."""

    format_name = "ZIP"
    can_skip = True
    mtime_step = 1_000_000_000

    def __init__(self, source: Source, limits: Limits, check: Callable[[], None]) -> None:
        super().__init__(source, limits, check)
        self._directory = find_directory(source)

    def members(self) -> Iterator[tuple[Member, Content]]:
        budget, names = Budget(self.limits, self.source.size), Names()
        for record, data_at, extra in self._walk():
            self.check()
            budget.entry()
            kind, path = _kind_and_path(record)
            if not path and kind is MemberKind.DIRECTORY:
                continue
            check_path(path, self.limits, record.offset)
            if not names.add(path, is_directory=kind is MemberKind.DIRECTORY):
                raise invalid("two entries have the same name", path, record.offset)
            if kind is None:
                self.report(path, "a device, FIFO or socket", True)
                continue
            for what in unapplied(extra, record.extra):
                self.report(path, what, False)
            content = Content(self._content(record, data_at, budget) if kind is not MemberKind.DIRECTORY else iter(()))
            if kind is MemberKind.SYMLINK:
                yield _member(record, kind, path, _target(record, content)), Content()
                continue
            yield _member(record, kind, path), content
            if not content.discarded:
                for _ in content:
                    pass

    def manifest(self) -> Iterator[bytes] | None:
        last = None
        for last in self._walk():  # noqa: B007
            self.check()
        if last is None:
            return None
        record, data_at, _ = last
        kind, path = _kind_and_path(record)
        if kind is not MemberKind.FILE or not is_manifest_name(path):
            return None
        return self._content(record, data_at, Budget(self.limits, self.source.size))

    def _walk(self) -> Iterator[tuple[Record, int, dict[int, bytes]]]:
        """Every record with its data's offset and its local extra fields; all but the content is checked."""
        expected = 0
        ahead = records(self.source, self._directory)
        record = next(ahead, None)
        while record is not None:
            following = next(ahead, None)
            if record.offset != expected:
                raise invalid("an entry does not begin where the one before it ends", record.name, record.offset)
            data_at, extra = self._check_local(record)
            expected = following.offset if following else self._directory.offset
            self._check_gap(record, data_at + record.packed, expected)
            yield record, data_at, extra
            record = following
        if expected != self._directory.offset:
            raise invalid("bytes lie before the central directory that no entry owns", offset=expected)

    def _check_local(self, record: Record) -> tuple[int, dict[int, bytes]]:
        at, name = record.offset, record.name
        if at + _LOCAL.size + len(name) > self._directory.offset:
            raise invalid("an entry lies outside the space for entries", name, at)
        header = self.source.read(at, _LOCAL.size + len(name))
        signature, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack_from(header)
        if signature != b"PK\3\4":
            raise invalid("no local header lies where the directory says", name, at)
        if name_length != len(name) or header[_LOCAL.size :] != name:
            raise invalid("the local header and the directory give different names", name, at)
        if (flags, method) != (record.flags, record.method):
            raise invalid("the local header and the directory disagree on flags or method", name, at)
        if flags & ~_KNOWN_FLAGS:
            raise invalid("the entry is encrypted or uses an unknown feature", name, at)
        if method not in (_STORED, _DEFLATED):
            raise invalid(f"compression method {method} is not supported", name, at)
        data_at = at + len(header) + extra_length
        extra = extra_fields(self.source.read(at + len(header), extra_length), name, at)
        size, packed = zip64_values(extra, [size, packed], name, at)
        for local, central in ((crc, record.crc), (size, record.size), (packed, record.packed)):
            # With a data descriptor the local header was written before the values were known.
            if local != central and not (flags & _DESCRIPTOR and local == 0):
                raise invalid("the local header and the directory disagree on checksum or sizes", name, at)
        if method == _STORED and record.size != record.packed:
            raise invalid("a stored entry has two sizes", name, at)
        if unix_seconds(extra) not in (None, unix_seconds(record.extra)):
            raise invalid("the local header and the directory disagree on the time", name, at)
        if other_name(extra, name, at) not in (None, other_name(record.extra, name, at)):
            raise invalid("the local header and the directory give different names", name, at)
        return int(data_at), extra

    def _check_gap(self, record: Record, end: int, following: int) -> None:
        gap = following - end
        if gap < 0:
            raise invalid("an entry overlaps what follows it", record.name, record.offset)
        if not record.flags & _DESCRIPTOR:
            if gap:
                raise invalid("bytes lie behind an entry that no entry owns", record.name, end)
            return
        forms = {12: "<3L", 16: "<4s3L", 20: "<L2Q", 24: "<4sL2Q"}
        if gap not in forms:
            raise invalid("the data descriptor is missing or has bytes beside it", record.name, end)
        values = struct.unpack(forms[gap], self.source.read(end, gap))
        if gap in (16, 24) and values[0] != b"PK\7\10":
            raise invalid("the data descriptor is malformed", record.name, end)
        if values[-3:] != (record.crc, record.packed, record.size):
            raise invalid("the data descriptor and the directory disagree", record.name, end)

    def _content(self, record: Record, at: int, budget: Budget) -> Iterator[bytes]:
        crc = size = 0
        blocks = self._pieces(at, record.packed) if record.method == _STORED else self._inflate(record, at)
        for block in blocks:
            self.check()
            budget.produced(len(block))
            size += len(block)
            if size > record.size:
                raise damage("a file is longer than stated", record.name, record.offset)
            crc = isal_zlib.crc32(block, crc)
            yield block
        if size != record.size:
            raise damage("a file is shorter than stated", record.name, record.offset)
        if crc != record.crc:
            raise damage("a file's CRC-32 does not match", record.name, record.offset)

    def _inflate(self, record: Record, at: int) -> Iterator[bytes]:
        inflater = Inflater()
        left = record.packed
        try:
            for piece in self._pieces(at, record.packed, _PIECE):
                left -= len(piece)
                yield from inflater.feed(piece)
                if inflater.ended:
                    break
        except BadDeflate as error:
            raise damage(f"a file's compressed bytes are broken ({error})", record.name, record.offset) from error
        if not inflater.ended:
            raise damage("a file's compressed bytes are cut off", record.name, record.offset)
        if left + inflater.unused:
            raise damage("bytes follow a file's compressed bytes", record.name, record.offset)

    def _pieces(self, at: int, size: int, step: int = BLOCK) -> Iterator[bytes]:
        end = at + size
        while at < end:
            piece = self.source.read(at, min(step, end - at))
            at += len(piece)
            yield piece


def member_of(local: bytes, central: bytes, target: bytes) -> Member:
    """What this reader makes of one entry's headers, which are complete: for a writer that proves what it writes.

    `target` is the content of a symbolic link. Raises as reading the archive would.
    """
    record, _ = record_at(central, 0, 0, len(central))
    # The fields that both headers have lie in one order in both.
    if local[4:30] != central[6:32] or local[_LOCAL.size :] != central[_CENTRAL_SIZE:]:
        raise invalid("the local header and the directory disagree", record.name)
    kind, path = _kind_and_path(record)
    if kind is None:
        raise invalid("the entry is a device, FIFO or socket", record.name)
    check_path(path, _ANY, 0)
    return _member(record, kind, path, target if kind is MemberKind.SYMLINK else b"")


def _kind_and_path(record: Record) -> tuple[MemberKind | None, bytes]:
    """What the entry is, None for a device and the like, and its plain name, which is empty for the root.

    A name that ends with a slash and a directory's mode must come together.
    """
    name, at = _name(record), record.offset
    kind = MemberKind.DIRECTORY if name[-1:] == b"/" else MemberKind.FILE
    file_type = stat.S_IFMT(record.attributes >> 16) if record.host in _UNIX_HOSTS else 0
    if file_type == stat.S_IFIFO and record.size:
        # Info-ZIP's standard input: `mysqldump | zip dump.zip -`.
        file_type = stat.S_IFREG
    if file_type in _SPECIAL and kind is MemberKind.FILE:
        return None, plain_path(name)
    if file_type == stat.S_IFLNK and kind is MemberKind.FILE:
        kind = MemberKind.SYMLINK
    elif file_type not in (0, stat.S_IFDIR if kind is MemberKind.DIRECTORY else stat.S_IFREG):
        raise invalid(f"the entry's file type 0o{file_type:o} does not fit its name", name, at)
    if kind is MemberKind.DIRECTORY and record.size:
        raise invalid("a directory has content", name, at)
    return kind, plain_path(name[:-1] if kind is MemberKind.DIRECTORY else name)


def _name(record: Record) -> bytes:
    """The entry's name in the bytes that it has here."""
    name, at = record.name, record.offset
    other = other_name(record.extra, name, at)
    if record.flags & _UTF8:
        try:
            name.decode()
        except UnicodeDecodeError:
            raise invalid("a name is marked as UTF-8 and is not", name, at) from None
        if other not in (None, name):
            raise invalid("the Unicode path field gives another name", name, at)
    elif other is not None:
        name = other
    elif record.host not in _UNIX_HOSTS and not name.isascii():
        # What is neither Unix nor marked is code page 437 (APPNOTE, appendix D).
        name = name.decode("cp437").encode()
    if record.host not in _UNIX_HOSTS and b"\\" in name:
        raise invalid("a name from no Unix system holds a backslash, which some tools take for a slash", name, at)
    return name


def _target(record: Record, content: Content) -> bytes:
    if record.size > _MAX_TARGET:
        raise invalid("a symbolic link's target is too long", record.name, record.offset)
    target = b"".join(content)
    if not target or b"\0" in target:
        raise invalid("a symbolic link's target is empty or contains NUL", record.name, record.offset)
    return target


def _member(record: Record, kind: MemberKind, path: bytes, target: bytes = b"") -> Member:
    mode = record.attributes >> 16 if record.host in _UNIX_HOSTS else 0
    if not mode:
        mode = 0o755 if kind is MemberKind.DIRECTORY else 0o644
    uid, gid = owner(record.extra, record.name, record.position)
    when = mtime_ns(record.extra, 1980 + (record.dos_date >> 9))
    return Member(
        path=path,
        kind=kind,
        mode=mode & 0o7777,
        mtime_ns=_dos_seconds(record) * 1_000_000_000 if when is None else when,
        uid=uid,
        gid=gid,
        size=record.size if kind is MemberKind.FILE else 0,
        link_target=target,
    )


def _dos_seconds(record: Record) -> int:
    # DOS times carry no zone; UTC makes every reader agree. Fields out of range roll over as in mktime.
    date, time = record.dos_date, record.dos_time
    day = (1980 + (date >> 9), min(max(date >> 5 & 15, 1), 12), max(date & 31, 1))
    return calendar.timegm((*day, time >> 11, time >> 5 & 63, (time & 31) * 2))
