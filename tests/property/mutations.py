"""Archives taken apart, changed and put together again, so that changes get past checksums and into deep code.

A case is a number and a seed, and gives the same archive at any time and in any process.
"""

from __future__ import annotations

import gzip
import io
import itertools
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import zstandard

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.pool import CompressorPool
from tests.unit.archive.archives import Archive, Item
from tests.unit.archive.archives import directory as own_directory
from tests.unit.archive.archives import file as own_file
from tests.unit.archive.archives import symlink as own_symlink
from tests.unit.archive.samples import hardlink

__all__ = ["Case", "Mutator"]

FORMATS = ("zip", "tar", "tar.gz", "tar.zst")
_LOCAL, _CENTRAL = struct.Struct("<4s5H3L2H"), struct.Struct("<4s6H3L5H2L")
_NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    0o777,
    511,
    512,
    513,
    0x7FFF,
    0xFFFF,
    1 << 20,
    0x7FFFFFFF,
    0xFFFFFFFE,
    0xFFFFFFFF,
    1 << 40,
)
_WIDE = (*_NUMBERS, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_EXTRA_KINDS = (0x0001, 0x000A, 0x5455, 0x5855, 0x7875, 0x7075, 0x4453, 0xD935, 0x9901, 0xBEEF)
_PAX_KEYS = (
    b"path", b"linkpath", b"size", b"mtime", b"uid", b"gid", b"hdrcharset", b"atime", b"comment", b"GNU.sparse.map",
    b"GNU.sparse.major", b"GNU.sparse.realsize", b"SCHILY.xattr.user.a", b"SCHILY.realsize", b"ACME.new",
)  # fmt: skip
_PAX_VALUES = (
    b"", b"0", b"1", b"-1", b"512", b"1e3", b"0x10", b"1.5", b"-1.9999999999", b"99999999999999999999",
    b"9223372036854775807", b"BINARY", b"ISO-IR 10646 2000 UTF-8", b"\xff", b"a\nb", b"a=b",
)  # fmt: skip
#: Offset and length of the fields of a tar header.
_TAR_FIELDS = (
    (0, 100), (100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (148, 8), (156, 1), (157, 100), (257, 8), (265, 32),
    (329, 8), (337, 8), (345, 155), (386, 97), (482, 1), (483, 12),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One mutated archive, and how it is to be used."""

    number: int
    format: str
    data: bytes
    chance: random.Random


@dataclass(slots=True)
class _Entry:
    """One entry of a zip, with every value of its two headers."""

    local: list[int]  # version, flags, method, time, date, crc, packed, size
    name: bytes
    extra: bytes
    data: bytes
    behind: bytes
    central: list[int]  # as above, after "made by"
    central_name: bytes
    central_extra: bytes
    comment: bytes
    tail: list[int]  # disk, internal and external attributes
    offset: int | None = None


@dataclass(slots=True)
class _Zip:
    entries: list[_Entry]
    between: bytes = b""
    wide: bool = False
    changes: dict[str, int] = field(default_factory=dict)

    def build(self) -> bytes:
        out, records = bytearray(), bytearray()
        for e in self.entries:
            at = len(out) if e.offset is None else e.offset
            out += _LOCAL.pack(b"PK\3\4", *e.local, len(e.name) & 0xFFFF, len(e.extra) & 0xFFFF)
            out += e.name + e.extra + e.data + e.behind
            lengths = len(e.central_name) & 0xFFFF, len(e.central_extra) & 0xFFFF, len(e.comment) & 0xFFFF
            records += _CENTRAL.pack(b"PK\1\2", *e.central, *lengths, *e.tail, at & 0xFFFFFFFF)
            records += e.central_name + e.central_extra + e.comment
        out += self.between
        end = {"disk": 0, "here": len(self.entries), "all": len(self.entries), "size": len(records), "at": len(out)}
        end |= self.changes
        out += records
        if self.wide:
            at = len(out)
            out += struct.pack(
                "<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, end["disk"] & 0xFFFFFFFF, end["here"], end["all"], end["size"],
                end["at"],
            )  # fmt: skip
            out += struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)
        short = end["disk"] & 0xFFFF, 0, end["here"] & 0xFFFF, end["all"] & 0xFFFF
        return bytes(out) + struct.pack(
            "<4s4H2LH", b"PK\5\6", *short, end["size"] & 0xFFFFFFFF, end["at"] & 0xFFFFFFFF, 0
        )


@dataclass(slots=True)
class _Block:
    """A tar header with what lies behind it."""

    header: bytearray
    content: bytes

    def fixed(self) -> bytes:
        self.header[148:156] = b"        "
        self.header[148:156] = b"%06o\0 " % (sum(self.header) & 0o777777)
        return bytes(self.header) + self.content


class Mutator:
    """Makes cases from a corpus of our own and of Python's archives, which it writes in `folder`.

    Attacks aim at `guard` beside the folder that is restored into, and in the process's working directory.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._seed = seed
        aim = b"/proc/self/cwd/guard"
        self._names = (
            b"", b".", b"..", b"./", b"/", b"a", b"a/", b"./a", b"a/b", b"sub",
            b"sub/", b"../guard/x", b"a/../../guard/x",
            aim + b"/x", b"//" + aim, b"..\\guard\\x", b"C:\\x", b"a\0b", b"a\nb", b"\xff", b"n" * 255, b"n" * 256,
            b"/".join([b"d"] * 300), b"link", b"link/x", b"holdfast-manifest.json", b"holdfast-sha256sums.txt",
        )  # fmt: skip
        self._targets = (*self._names, b"../guard", b"../guard/secret", aim, aim + b"/secret", b"/", b"/etc/passwd")
        zips, tars = _corpus(folder)
        self._zips = [_zip_model(data) for data in zips]
        self._tars = [_tar_model(data) for data in tars]

    def case(self, number: int) -> Case:
        """Case `number` of the seed."""
        chance = random.Random((self._seed << 32) + number)
        format_name = chance.choice(FORMATS)
        data = self._zip(chance) if format_name == "zip" else self._wrapped(format_name, self._tar(chance), chance)
        if chance.random() < 0.25:
            data = _raw(data, chance)
        return Case(number, format_name, data, chance)

    # zip

    def _zip(self, chance: random.Random) -> bytes:
        model = _copied(chance.choice(self._zips))
        for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 6))):
            chance.choice(self._ZIP_CHANGES)(self, model, chance)
        return model.build()

    def _zip_value(self, model: _Zip, chance: random.Random) -> None:
        e, index, value = chance.choice(model.entries), chance.randrange(8), chance.choice(_NUMBERS)
        value &= 0xFFFFFFFF if index >= 5 else 0xFFFF
        where = chance.randrange(4)
        if where != 1:
            e.local[index] = value
        if where != 2:
            e.central[index + 1] = value

    def _zip_name(self, model: _Zip, chance: random.Random) -> None:
        e, name = chance.choice(model.entries), chance.choice(self._names)
        if chance.random() < 0.9:
            e.name = name
        if chance.random() < 0.9:
            e.central_name = name
        if chance.random() < 0.2:
            e.local[1] ^= 0x800
            e.central[2] ^= 0x800

    def _zip_kind(self, model: _Zip, chance: random.Random) -> None:
        e = chance.choice(model.entries)
        e.tail[2] = chance.choice((0o120777, 0o040755, 0o100644, 0o010644, 0o060600, 0, 0o107777, 0o170000)) << 16
        e.central[0] = chance.choice((0x0314, 0x0014, 0x0A14, 0x1314, 0xFF14))
        if chance.random() < 0.5:
            self._set_content(e, chance.choice(self._targets), chance)

    def _zip_content(self, model: _Zip, chance: random.Random) -> None:
        e = chance.choice(model.entries)
        try:
            raw = zlib.decompress(e.data, -15)
        except zlib.error:
            raw = e.data
        self._set_content(e, chance.choice((b"", b"x", bytes(70_000), _raw(raw, chance), _raw(raw, chance))), chance)

    @staticmethod
    def _set_content(e: _Entry, raw: bytes, chance: random.Random) -> None:
        """New content that its headers agree with."""
        packer = zlib.compressobj(6, zlib.DEFLATED, -15)
        method = chance.choice((0, 8))
        e.data = packer.compress(raw) + packer.flush() if method else raw
        values = [method, e.local[3], e.local[4], zlib.crc32(raw), len(e.data), len(raw)]
        e.local[2:], e.central[3:] = values, values
        if e.behind:
            e.behind = struct.pack("<4s3L", b"PK\7\10", *values[3:])

    def _zip_extra(self, model: _Zip, chance: random.Random) -> None:
        e = chance.choice(model.entries)
        kind = chance.choice(_EXTRA_KINDS)
        data = chance.choice(
            (
                b"", chance.randbytes(chance.randrange(40)), struct.pack("<Q", chance.choice(_NUMBERS)),
                struct.pack("<QQ", len(e.data), len(e.data)), struct.pack("<BL", 1, zlib.crc32(e.name)) + chance.choice(
                    self._names), struct.pack("<BBLBL", 1, 4, 0, 4, 0),
            )
        )  # fmt: skip
        extra = struct.pack("<HH", kind, chance.choice((len(data),) * 5 + (0xFFFF,))) + data
        if chance.random() < 0.3:
            extra += e.extra
        if chance.random() < 0.8:
            e.extra = extra
        if chance.random() < 0.8:
            e.central_extra = extra

    def _zip_descriptor(self, model: _Zip, chance: random.Random) -> None:
        e = chance.choice(model.entries)
        values = e.central[6:9]
        form = chance.choice(("<3L", "<4s3L", "<L2Q", "<4sL2Q"))
        head = (b"PK\7\10",) if "4s" in form else ()
        e.behind = struct.pack(form, *head, *values)
        e.local[1], e.central[2] = e.local[1] | 8, e.central[2] | 8
        if chance.random() < 0.7:
            e.local[5:] = [0, 0, 0]

    def _zip_order(self, model: _Zip, chance: random.Random) -> None:
        _reordered(model.entries, chance)
        if not model.entries:
            model.entries.append(_copied(self._zips[0]).entries[0])

    def _zip_end(self, model: _Zip, chance: random.Random) -> None:
        model.changes[chance.choice(("disk", "here", "all", "size", "at"))] = chance.choice(_NUMBERS)

    def _zip_layout(self, model: _Zip, chance: random.Random) -> None:
        what = chance.randrange(4)
        if what == 0:
            model.wide = not model.wide
        elif what == 1:
            model.between = chance.choice((b"x", b"PK\3\4", chance.randbytes(30)))
        elif what == 2:
            chance.choice(model.entries).offset = chance.choice(_NUMBERS)
        else:
            chance.choice(model.entries).comment = chance.choice((b"c", b"PK\5\6" + bytes(18), bytes(70_000)))

    _ZIP_CHANGES: Sequence[Callable[[Mutator, _Zip, random.Random], None]] = (
        _zip_value, _zip_value, _zip_name, _zip_name, _zip_kind, _zip_content, _zip_extra, _zip_extra, _zip_descriptor,
        _zip_order, _zip_end, _zip_layout,
    )  # fmt: skip

    # tar

    def _tar(self, chance: random.Random) -> bytes:
        blocks = [_Block(bytearray(b.header), b.content) for b in chance.choice(self._tars)]
        for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 6))):
            what = chance.randrange(8)
            if what < 3 and blocks:
                self._tar_field(chance.choice(blocks), chance)
            elif what < 5:
                blocks.insert(chance.randrange(len(blocks) + 1), self._extended(chance))
            elif what == 5:
                _reordered(blocks, chance)
            elif blocks:
                one = chance.choice(blocks)
                text = one.content.rstrip(b"\0")
                content = chance.choice((b"", b"x", bytes(70_000), chance.choice(self._names), _raw(text, chance)))
                _resize(one, content)
        data = b"".join(block.fixed() for block in blocks)
        end = chance.choice((bytes(1024),) * 8 + (b"", bytes(512), bytes(10240), bytes(2 << 20), b"\0" * 1024 + b"x"))
        return data + end

    def _tar_field(self, block: _Block, chance: random.Random) -> None:
        at, size = chance.choice(_TAR_FIELDS)
        if size in (8, 12):
            number = chance.choice(_WIDE)
            value = chance.choice(
                (
                    b"%0*o" % (size - 1, number), b"%*o " % (size - 2, number), bytes(size), b" " * size,
                    b"\xff" * size,
                    b"\x80" + (number & (1 << 64) - 1).to_bytes(size, "big")[1:] if size > 8 else b"\x80" * size, b"-1",
                )
            )  # fmt: skip
        elif size == 1:
            value = chance.choice((b"0", b"1", b"2", b"3", b"5", b"6", b"7", b"x", b"g", b"L", b"K", b"S", b"V", b"\0"))
        else:
            value = chance.choice((*self._targets, chance.randbytes(size)))
        block.header[at : at + size] = value[:size].ljust(size, b"\0")

    def _extended(self, chance: random.Random) -> _Block:
        kind = chance.choice((b"x", b"x", b"x", b"g", b"L", b"K"))
        if kind in (b"L", b"K"):
            content = chance.choice(self._targets) + chance.choice((b"\0", b""))
        else:
            content = b"".join(self._record(chance) for _ in range(chance.choice((0, 1, 1, 2, 4))))
        header = bytearray(512)
        header[0:1], header[100:108], header[156:157] = b"p", b"0000644\0", kind
        header[108:116] = header[116:124] = b"0000000\0"
        header[136:148], header[257:265] = b"00000000000\0", chance.choice((b"ustar\x0000", b"ustar  \0", bytes(8)))
        block = _Block(header, b"")
        _resize(block, content)
        return block

    def _record(self, chance: random.Random) -> bytes:
        key, value = chance.choice(_PAX_KEYS), chance.choice((*_PAX_VALUES, *self._targets))
        body = b" %b=%b\n" % (key, value)
        size = len(body) + len(b"%d" % len(body))
        size = len(body) + len(b"%d" % size)
        return b"%d" % (size + chance.choice((0,) * 12 + (1, -1, 1000))) + body

    @staticmethod
    def _wrapped(format_name: str, data: bytes, chance: random.Random) -> bytes:
        if format_name == "tar":
            return data
        step = chance.choice((len(data) + 1, 700, 5000))
        pieces = [data[at : at + step] for at in range(0, len(data), step)][:50] or [b""]
        if format_name == "tar.gz":
            return b"".join(_gzip_member(piece, chance) for piece in pieces)
        return b"".join(_zstd_frame(piece, chance) for piece in pieces)


def _gzip_member(data: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.7:
        return gzip.compress(data, 1, mtime=0)
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    body = packer.compress(data) + packer.flush()
    flags = chance.choice((4, 8, 16, 2, 28, 30, 0xE0, 4, 4))
    head = b"\x1f\x8b\x08" + bytes([flags]) + bytes(6)
    if flags & 4:
        size = chance.choice((0, 20 + len(body) + 8, 1 << 31))
        extra = chance.choice((struct.pack("<2sHL", b"HF", 4, size), b"", b"AB\xff\xff", b"HF\0\0", b"XY\2\0ab"))
        head += struct.pack("<H", len(extra)) + extra
    for flag in (8, 16):
        if flags & flag:
            head += chance.choice((b"\0", b"name\0", b"n" * 300 + b"\0"))
    if flags & 2:
        head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    lie = chance.choice((0,) * 6 + (1,))
    return head + body + struct.pack("<LL", zlib.crc32(data) ^ lie, len(data))


def _zstd_frame(data: bytes, chance: random.Random) -> bytes:
    packer = zstandard.ZstdCompressor(
        level=1, write_checksum=chance.random() < 0.7, write_content_size=chance.random() < 0.7
    )
    frame = packer.compress(data) if chance.random() < 0.8 else packer.compressobj().compress(data) + b""
    if chance.random() < 0.1:
        frame += struct.pack("<LL", 0x184D2A50 + chance.randrange(16), chance.choice((0, 4, 1 << 31))) + b"skip"
    if chance.random() < 0.05:
        table = struct.pack("<LLLB4s", len(frame), len(data), 1, 0, b"\xb1\xea\x92\x8f")
        frame += struct.pack("<LL", 0x184D2A5E, len(table)) + table
    return frame


def _resize(block: _Block, content: bytes) -> None:
    block.content = content + bytes(-len(content) % 512)
    block.header[124:136] = b"%011o\0" % len(content)


def _reordered(items: list[_Entry] | list[_Block], chance: random.Random) -> None:
    """One item twice, gone, or in another place."""
    if not items:
        return
    at, other = chance.randrange(len(items)), chance.randrange(len(items))
    what = chance.randrange(3)
    if what == 0:
        items.insert(other, replace(items[at]))  # type: ignore[arg-type]
    elif what == 1:
        del items[at]
    else:
        items[at], items[other] = items[other], items[at]  # type: ignore[call-overload]


def _raw(data: bytes, chance: random.Random) -> bytes:
    """Changes that know nothing of the format: flips, cuts, blocks that are doubled, swapped, or gone."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        if not out:
            return b""
        at, size = chance.randrange(len(out)), chance.choice((1, 2, 4, 30, 512, 4096))
        other = chance.randrange(len(out))
        what = chance.randrange(7)
        if what == 0:
            out[at] ^= 1 << chance.randrange(8)
        elif what == 1:
            out[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif what == 2:
            del out[at : at + size]
        elif what == 3:
            out[at:at] = out[other : other + size]
        elif what == 4:
            out[at : at + 4] = struct.pack("<L", chance.choice((0, 1, 0xFFFFFFFF, 0x7FFFFFFF, len(out))))
        elif what == 5:
            out[at : at + size], out[other : other + size] = out[other : other + size], out[at : at + size]
        else:
            del out[at:]
    return bytes(out)


def _copied(model: _Zip) -> _Zip:
    entries = [replace(e, local=list(e.local), central=list(e.central), tail=list(e.tail)) for e in model.entries]
    return _Zip(entries)


def _corpus(folder: Path) -> tuple[list[bytes], list[bytes]]:
    """(zips, tars): ours with manifest, and Python's with descriptors, zip64, GNU and pax headers."""
    items: list[Item] = [
        own_directory(b"sub"), own_file(b"sub/a", b"text " * 50), own_file("sub/\u00fc".encode(), b""),
        own_file(b"l" * 120, bytes(300)), own_symlink(b"link", b"sub/a"),
        own_file(b"zeros", bytes(70_000), sparse=True),
    ]  # fmt: skip
    zips, tars = [], []
    pool = CompressorPool(threads=1, memory_limit=8 << 20)
    for made in (ArchiveFormat.ZIP, ArchiveFormat.TAR_GZ):
        archive = Archive(folder / f"own{made.suffix}", made, pool)
        archive.add([*items, hardlink(b"hard", b"sub/a")] if made is ArchiveFormat.TAR_GZ else items)
        archive.finish()
        data = archive.path.read_bytes()
        if made is ArchiveFormat.ZIP:
            zips.append(data)
        else:
            tars.append(gzip.decompress(data))
    pool.close()
    zips.append(_python_zip())
    tars += [_python_tar(tarfile.GNU_FORMAT), _python_tar(tarfile.USTAR_FORMAT)]
    return zips, tars


class _Pipe(io.BytesIO):
    """What cannot be sought in: zipfile writes data descriptors then."""

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        raise OSError("a pipe")


def _python_zip() -> bytes:
    out = _Pipe()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        # Of no time: names alone would be given the present one, and a case is to be the same at any time.
        for name, content in (("a", b"abcd"), ("b/", b""), ("b/c", b"x" * 3000)):
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        with archive.open("wide", "w", force_zip64=True) as member:
            member.write(b"wide")
        link = zipfile.ZipInfo("link")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "a")
    return out.getvalue()


def _python_tar(form: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, kind, link, content in (
            ("./", tarfile.DIRTYPE, "", b""), ("./a", tarfile.REGTYPE, "", b"abcd"),
            ("./" + "d" * 60 + "/" + "f" * 60, tarfile.REGTYPE, "", b"x" * 700),
            ("./hard", tarfile.LNKTYPE, "./a", b""),
            ("./link", tarfile.SYMTYPE, "a", b""), ("./pipe", tarfile.FIFOTYPE, "", b""),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size, info.mtime = kind, link, len(content), 1_700_000_000
            archive.addfile(info, io.BytesIO(content))
        if form == tarfile.GNU_FORMAT:
            info = tarfile.TarInfo("long/" * 40 + "name")
            info.type, info.linkname = tarfile.SYMTYPE, "t" * 150
            archive.addfile(info)
    return out.getvalue()


def _zip_model(data: bytes) -> _Zip:
    found: list[_Entry] = []
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        offsets = [info.header_offset for info in archive.infolist()] + [archive.start_dir]
        at = archive.start_dir
    for offset, following in itertools.pairwise(offsets):
        central = _CENTRAL.unpack_from(data, at)
        name_size, extra_size, comment_size = central[10:13]
        at += _CENTRAL.size
        central_name, central_extra = data[at : at + name_size], data[at + name_size : at + name_size + extra_size]
        at += name_size + extra_size + comment_size
        local = _LOCAL.unpack_from(data, offset)
        start = offset + _LOCAL.size
        begins = start + local[9] + local[10]
        packed = central[8]
        found.append(
            _Entry(
                local=list(local[1:9]),
                name=data[start : start + local[9]],
                extra=data[start + local[9] : begins],
                data=data[begins : begins + packed],
                behind=data[begins + packed : following],
                central=list(central[1:10]),
                central_name=central_name,
                central_extra=central_extra,
                comment=b"",
                tail=list(central[13:16]),
            )
        )
    return _Zip(found)


def _tar_model(data: bytes) -> list[_Block]:
    found, at = [], 0
    while any(data[at : at + 512]):
        size = int(data[at + 124 : at + 135].rstrip(b"\0 ") or b"0", 8)
        end = at + 512 + size + -size % 512
        found.append(_Block(bytearray(data[at : at + 512]), data[at + 512 : end]))
        at = end
    return found
