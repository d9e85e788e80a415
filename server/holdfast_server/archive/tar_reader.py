"""A strict reader of tar files, plain and compressed: ustar, pax and GNU long names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

from holdfast_server.archive.byte_stream import ByteStream, raw_blocks
from holdfast_server.archive.gzip_stream import gzip_blocks
from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.archive.reading import (
    ArchiveReader,
    Budget,
    Content,
    Followed,
    Limits,
    Names,
    Source,
    check_path,
    damage,
    invalid,
    plain_path,
)
from holdfast_server.archive.tar_header import (
    PAX_READ,
    RECORD,
    Header,
    parse_decimal,
    parse_header,
    parse_mtime,
    parse_pax,
    unapplied,
)
from holdfast_server.archive.zstd_stream import zstd_blocks

__all__ = ["TarGzReader", "TarReader", "TarZstReader", "member_of"]

_ZEROS = bytes(RECORD)
_KINDS = {
    b"0": MemberKind.FILE,
    b"1": MemberKind.HARDLINK,
    b"2": MemberKind.SYMLINK,
    b"5": MemberKind.DIRECTORY,
    b"7": MemberKind.FILE,  # contiguous; POSIX takes it for a file where there is no such thing
}
_SPECIAL = (b"3", b"4", b"6")
#: A pax header may hold two paths and some attributes.
_MAX_EXTENDED = 4 << 20
#: GNU tar pads the end to 10 KiB, some tools to more.
_MAX_PADDING = 1 << 20


class TarReader(ArchiveReader):
    """Reads a tar file. See ArchiveReader."""

    format_name = "TAR"
    has_checksums = False
    can_skip = False
    mtime_step = 1

    #: How much more than its own size a file of this format can unpack to, rounded up.
    max_ratio = 1

    def __init__(self, source: Source, limits: Limits, check: Callable[[], None]) -> None:
        self._followed = Followed(source)
        super().__init__(self._followed, limits, check)

    def members(self) -> Iterator[tuple[Member, Content]]:
        budget, names = Budget(self.limits, self.source.size, self.max_ratio), Names()
        stream = ByteStream(self._blocks(budget))
        while True:
            self.check()
            at = stream.offset
            member = self._next(stream, budget, names)
            self.position = self._followed.reached
            if member is None:
                return
            if not member.path and member.kind is MemberKind.DIRECTORY:
                self.root = member
                continue
            self._admit(member.path, member.kind, budget, names, at)
            content = Content(self._pieces(stream, member.size))
            yield member, content
            for _ in content:
                pass
            stream.read(-member.size % RECORD)

    def manifest(self) -> Iterator[bytes] | None:
        return None

    def _blocks(self, budget: Budget) -> Iterator[bytes]:
        """The tar stream."""
        return raw_blocks(self.source, budget, self.check)

    def _pieces(self, stream: ByteStream, size: int) -> Iterator[bytes]:
        for piece in stream.pieces(size):
            self.position = self._followed.reached
            yield piece

    def _admit(self, path: bytes, kind: MemberKind | None, budget: Budget, names: Names, at: int) -> None:
        budget.entry()
        check_path(path, self.limits, at)
        is_file, is_directory = kind is MemberKind.FILE, kind is MemberKind.DIRECTORY
        if not names.add(path, is_file=is_file, is_directory=is_directory):
            raise invalid("two members have the same name", path, at)

    def _next(self, stream: ByteStream, budget: Budget, names: Names) -> Member | None:
        """The next member's headers, with the extended ones before it; None at the archive's end."""
        pax: dict[bytes, bytes] | None = None
        long: dict[bytes, bytes] = {}
        while True:
            at = stream.offset
            if stream.at_end():
                raise damage("the tar archive ends without its end mark", offset=at)
            block = stream.read(RECORD)
            if block == _ZEROS:
                if pax is not None or long:
                    raise invalid("an extended header belongs to no member", offset=at)
                _check_end(stream)
                return None
            header = parse_header(block, at)
            if header.kind == b"x":
                if pax is not None:
                    raise invalid("two pax headers belong to one member", offset=at)
                pax = parse_pax(_extended(stream, header, at), at + RECORD)
            elif header.kind == b"g":
                everywhere = parse_pax(_extended(stream, header, at), at + RECORD)
                if not PAX_READ.isdisjoint(everywhere):
                    raise invalid("a global pax header changes members", offset=at)
                for what in unapplied(everywhere):
                    self.report(header.name, what, False)
            elif header.kind in (b"L", b"K"):
                if header.kind in long:
                    raise invalid("two long names belong to one member", offset=at)
                long[header.kind] = _extended(stream, header, at).rstrip(b"\0")
            elif header.kind in _SPECIAL:
                path = _path(header, pax or {}, long, at)
                self._admit(path, None, budget, names, at)
                if header.size or b"size" in (pax or {}):
                    raise invalid("a member that is no file has content", path, at)
                self.report(path, "a device or FIFO", True)
                pax, long = None, {}
            elif header.kind == b"V" and not header.size:
                pass  # the name of the whole archive
            else:
                for what in unapplied(pax or {}):
                    self.report(_path(header, pax or {}, long, at), what, False)
                return _member(header, pax or {}, long, names, at)


class TarGzReader(TarReader):
    """Reads a tar.gz file. See ArchiveReader."""

    format_name = "TAR_GZ"
    has_checksums = True
    max_ratio = 2000

    def _blocks(self, budget: Budget) -> Iterator[bytes]:
        return gzip_blocks(self.source, budget, self.check)


class TarZstReader(TarReader):
    """Reads a tar.zst file. See ArchiveReader."""

    format_name = "TAR_ZST"
    has_checksums = True
    max_ratio = 33_000

    def _blocks(self, budget: Budget) -> Iterator[bytes]:
        return zstd_blocks(self.source, budget, self.check, self.limits.window, self._unchecked)

    def _unchecked(self) -> None:
        self.has_checksums = False


def member_of(headers: bytes) -> Member:
    """What this reader makes of one member's header blocks, ustar with at most a pax header before it: for writers that
    prove what they write. Raises as reading the archive would, but for a hard link's target, which is not looked for.
    """
    at, pax = 0, _NO_PAX
    if headers[156:157] == b"x":
        size = _extended_size(headers[:RECORD])
        pax = parse_pax(headers[RECORD : RECORD + size], RECORD)
        at = RECORD + size + -size % RECORD
    header = parse_header(headers[at : at + RECORD], at)
    if at + RECORD != len(headers) or unapplied(pax):
        raise invalid("a member has other headers than it should", header.name, at)
    member = _member(header, pax, {}, _EVERY_NAME, at)
    check_path(member.path, _ANY, at)
    return member


@lru_cache(maxsize=256)  # every member's is the same but for its size
def _extended_size(block: bytes) -> int:
    return parse_header(block, 0).size


class _EveryName(Names):
    def has_file(self, path: bytes) -> bool:  # noqa: ARG002
        return True


_EVERY_NAME = _EveryName()
_NO_PAX: dict[bytes, bytes] = {}
_ANY = Limits()


def _extended(stream: ByteStream, header: Header, at: int) -> bytes:
    if header.size > _MAX_EXTENDED:
        raise invalid("an extended header is too long", offset=at)
    data = stream.read(header.size)
    stream.read(-header.size % RECORD)
    return data


def _check_end(stream: ByteStream) -> None:
    at = stream.offset
    if stream.at_end():
        raise damage("the tar archive ends in the middle of its end mark", offset=at)
    if stream.read(RECORD) != _ZEROS:
        raise invalid("a single zero block stands between members", offset=at)
    padding = 0
    for piece in stream.rest():
        padding += len(piece)
        if piece.count(0) != len(piece):
            raise invalid("data follows the end of the tar archive", offset=at)
        if padding > _MAX_PADDING:
            raise invalid("too many zeros follow the end of the tar archive", offset=at)


def _member(header: Header, pax: dict[bytes, bytes], long: dict[bytes, bytes], names: Names, at: int) -> Member:
    path = _path(header, pax, long, at)
    target = pax.get(b"linkpath", long.get(b"K", header.link))
    kind = _kind(header, path, at)
    size = parse_decimal(pax[b"size"], "size", at) if b"size" in pax else header.size
    if kind is not MemberKind.FILE and size:
        raise invalid("a member that is no file has content", path, at)
    if kind is MemberKind.HARDLINK:
        target = plain_path(target)
    if kind in (MemberKind.FILE, MemberKind.DIRECTORY):
        # Some tools leave a link name behind in files; it means nothing there.
        target = b""
    elif not target or b"\0" in target:
        raise invalid("a link's target is empty or contains NUL", path, at)
    elif kind is MemberKind.HARDLINK and not names.has_file(target):
        raise invalid("a hard link points to no earlier file", path, at)
    return Member(
        path=path,
        kind=kind,
        mode=header.mode & 0o7777,
        mtime_ns=parse_mtime(pax[b"mtime"], at) if b"mtime" in pax else header.mtime * 1_000_000_000,
        uid=parse_decimal(pax[b"uid"], "owner", at, bits=32) if b"uid" in pax else header.uid,
        gid=parse_decimal(pax[b"gid"], "group", at, bits=32) if b"gid" in pax else header.gid,
        size=size,
        link_target=target,
    )


def _path(header: Header, pax: dict[bytes, bytes], long: dict[bytes, bytes], at: int) -> bytes:
    """The member's plain name; empty for the root."""
    if (b"path" in pax and b"L" in long) or (b"linkpath" in pax and b"K" in long):
        raise invalid("a member has two long names", header.name, at)
    path = pax.get(b"path", long.get(b"L", header.name))
    if header.kind == b"5" and path[-1:] == b"/":
        path = path[:-1]
    return plain_path(path)


def _kind(header: Header, path: bytes, at: int) -> MemberKind:
    kind = _KINDS.get(header.kind)
    if kind is None:
        if header.kind == b"S":
            raise invalid("sparse tar members are not supported", path, at)
        raise invalid(f"the tar member type {header.kind!r} is not supported", path, at)
    return kind
