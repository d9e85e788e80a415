"""Attacks on a restore, by name: archives made by code, with what must become of them."""

from __future__ import annotations

import gzip
import struct
import unicodedata
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from tests.unit.archive.samples import directory, file, forged, header, pax, symlink, tar

END = bytes(1024)
MIB = 1 << 20


@dataclass(frozen=True)
class Restored:
    """What comes out: counted entries, and how many warnings come with them."""

    files: int
    directories: int
    symlinks: int
    hardlinks: int
    warnings: int


@dataclass(frozen=True)
class Refused:
    """A reason, and words of the message."""

    reason: str
    words: str


def link(name: bytes, target: bytes, kind: bytes = b"2") -> bytes:
    return pax((b"path", name), (b"linkpath", target)) + header(b"link", kind)


def path_max_chain() -> bytes:
    """CVE-2025-4517: symbolic links that together name a path over PATH_MAX, so that realpath stops resolving."""
    out, path = b"", b""
    for letter in b"abcdefghijklmnop":
        out += pax((b"path", path + b"d" * 247)) + header(b"d", b"5")
        out += link(path + bytes([letter]), b"d" * 247)
        path += b"d" * 247 + b"/"
    short = b"/".join(bytes([letter]) for letter in b"abcdefghijklmnop")
    out += link(short + b"/" + b"l" * 254, b"../" * 16)
    out += link(b"escape", short + b"/" + b"l" * 254 + b"/../outside")
    return out + pax((b"path", b"escape/secret")) + header(content=b"overwritten") + END


def entry(name: bytes, crc: int, packed: int, size: int) -> bytes:
    return struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 33, crc, packed, size, len(name), 0) + name


def central(name: bytes, crc: int, packed: int, size: int, offset: int) -> bytes:
    fields = (0x0314, 20, 0, 8, 0, 33, crc, packed, size, len(name), 0, 0, 0, 0, 0o100644 << 16, offset)
    return struct.pack("<4s6H3L5H2L", b"PK\1\2", *fields) + name


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def zip_of(entries: bytes, records: list[bytes]) -> bytes:
    size = sum(map(len, records))
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, len(records), len(records), size, len(entries), 0)
    return entries + b"".join(records) + end


def full_overlap() -> bytes:
    """10 GB from some 60 kB: a thousand entries share one kernel of 10 MB of zeros."""
    zeros = bytes(10_000_000)
    kernel, crc = deflated(zeros), zlib.crc32(zeros)
    values = crc, len(kernel), len(zeros)
    return zip_of(entry(b"0000", *values) + kernel, [central(b"%04d" % i, *values, 0) for i in range(1000)])


def quoted_overlap(count: int = 60, kernel_size: int = 3_500_000) -> bytes:
    """200 MB from some 10 kB, with right CRCs: each entry's data quotes the header behind it as a stored block."""
    raw = bytes(kernel_size)
    data, whole = deflated(raw), b""
    records: list[tuple[bytes, int, int, int, int]] = []
    for number in reversed(range(count)):
        if whole:
            head = whole[: len(whole) - len(data)]
            data, raw = struct.pack("<BHH", 0, len(head), ~len(head) & 0xFFFF) + whole, head + raw
        name, crc = b"%03d" % number, zlib.crc32(raw)
        whole = entry(name, crc, len(data), len(raw)) + data
        records.append((name, crc, len(data), len(raw), len(whole)))
    return zip_of(whole, [central(*values, len(whole) - length) for *values, length in reversed(records)])  # type: ignore[arg-type]


def deep(levels: int) -> bytes:
    return tar([file(b"/".join([b"d"] * levels) + b"/bottom")])


#: Every name differs in bytes; other systems take some of them for one another.
COLLIDING = [
    "Stra\u00dfe", "STRASSE", "strasse", unicodedata.normalize("NFC", "\u00e9"), unicodedata.normalize("NFD", "\u00e9"),
    "\u00c9", "\ufb01", "fi", "FI",
]  # fmt: skip
CONTROLS = [b"a\nb", b"t\tb", b"\x1b[31mred", "\u202etxt.exe".encode(), "z\u200bw".encode(), b"-rf", b"%s%n", b"tail. ",
            b"CON", b"\xff\xfe", b"n" * 255]  # fmt: skip

EVIL = header(b"x/secret", content=b"overwritten")
Attack = tuple[str, Callable[[], bytes], Restored | Refused, dict[str, int]]


def refused(words: str) -> Refused:
    return Refused("ARCHIVE_INVALID", words)


def named(name: bytes) -> Callable[[], bytes]:
    return lambda: pax((b"path", name)) + header(content=b"x") + END


ATTACKS: dict[str, Attack] = {
    # A1: names that lead out.
    **{
        f"tar name {name!r}": ("tar", named(name), refused(words), {})
        for name, words in (
            (b"../x", "'..'"),
            (b"a/../../x", "'..'"),
            (b"./../x", "'..'"),
            (b"/etc/x", "absolute"),
            (b"//x", "absolute"),
            (b"C:\\x", "backslashes"),
            (b"..\\x", "backslashes"),
            (b"\\\\srv\\x", "backslashes"),
            (b"x/..", "'..'"),
        )
    },
    **{
        f"zip name {name!r}": ("zip", lambda name=name: forged([file(name)]), refused(words), {})  # type: ignore[misc]
        for name, words in (
            (b"../x", "'..'"),
            (b"/etc/x", "absolute"),
            (b"C:\\x", "backslashes"),
            (b"..\\x", "backslashes"),
        )
    },
    # A2: writing through symbolic links.
    "file through a link": (
        "tar",
        lambda: link(b"x", b"../../../outside") + EVIL + END,
        refused("two members collide"),
        {},
    ),
    "file through an absolute link": (
        "tar",
        lambda: link(b"x", b"/etc") + header(b"x/holdfast-was-here") + END,
        refused("two members collide"),
        {},
    ),
    "directory that becomes a link": (
        "tar",
        lambda: header(b"x/", b"5") + link(b"x", b"../../../outside") + EVIL + END,
        refused("same name"),
        {},
    ),
    "link that becomes a directory": (
        "tar",
        lambda: link(b"x", b"../../../outside") + header(b"x/", b"5") + EVIL + END,
        refused("same name"),
        {},
    ),
    "attributes of a directory through a link": (
        "zip",
        lambda: forged([symlink(b"x", b"../../../outside"), directory(b"x/y", mode=0o777)]),
        refused("two members collide"),
        {},
    ),
    "loop": ("tar", lambda: link(b"a", b"b") + link(b"b", b"a") + header(b"a/f") + END, refused("collide"), {}),
    "hundred hops": (
        "tar",
        lambda: b"".join(link(b"%d" % i, b"%d" % (i + 1)) for i in range(100)) + header(b"0/f") + END,
        refused("two members collide"),
        {},
    ),
    "links that lead nowhere harmful": (
        "tar",
        lambda: link(b"a", b"a") + link(b"up", b"../../../outside/secret") + link(b"etc", b"/etc/shadow") + END,
        Restored(0, 0, 3, 0, 0),
        {},
    ),
    "path chain over PATH_MAX": ("tar", path_max_chain, refused("two members collide"), {}),
    # A3: hard links.
    **{
        f"hard link to {target!r}": (
            "tar",
            lambda target=target: link(b"h", target, b"1") + END,
            refused("no earlier file"),
            {},
        )  # type: ignore[misc]
        for target in (b"/etc/passwd", b"../../../outside/secret", b"h", b"later")
    },
    "hard link to an escaping symbolic link": (
        "tar",
        lambda: link(b"s", b"../../../outside/secret") + link(b"h", b"s", b"1") + END,
        refused("no earlier file"),
        {},
    ),
    "hard link through a link": (
        "tar",
        lambda: link(b"s", b"../../../outside") + link(b"h", b"s/secret", b"1") + END,
        refused("no earlier file"),
        {},
    ),
    "content written into a hard link": (
        "tar",
        lambda: header(b"f", content=b"x") + link(b"h", b"f", b"1") + header(b"h", content=b"y") + END,
        refused("same name"),
        {},
    ),
    # A4: special files and bits.
    "devices": (
        "tar",
        lambda: header(b"null", b"3") + header(b"sda", b"4") + header(b"pipe", b"6") + header(b"f") + END,
        Restored(1, 0, 0, 0, 1),
        {},
    ),
    "set-id and world-writable": (
        "tar",
        lambda: header(b"s", at={100: b"0006777\0"}) + header(b"d/", b"5", at={100: b"0001777\0"}) + END,
        Restored(1, 1, 0, 0, 2),
        {},
    ),
    "directory without rights": (
        "tar",
        lambda: header(b"d/", b"5", at={100: b"0000000\0"}) + header(b"d/f") + END,
        Restored(1, 1, 0, 0, 0),
        {},
    ),
    # A5: bombs.
    "gzip of zeros": (
        "tar.gz",
        lambda: gzip.compress(tar([file(b"z", bytes(100 * MIB))]), 9),
        refused("allowed"),
        {"ratio": 100},
    ),
    "gzip in gzip is a file": (
        "tar.gz",
        lambda: gzip.compress(tar([file(b"in.gz", gzip.compress(bytes(100 * MIB), 9))])),
        Restored(1, 0, 0, 0, 0),
        {"total_bytes": MIB},
    ),
    "full overlap, 10 GB": ("zip", full_overlap, refused(""), {}),
    "quoted overlap, 200 MB": ("zip", quoted_overlap, refused("overlaps"), {}),
    "20,000 empty files": (
        "tar",
        lambda: b"".join(header(b"%d" % i) for i in range(20_000)) + END,
        refused("more than 5000 entries"),
        {"entries": 5_000},
    ),
    "zip in zip is a file": (
        "zip",
        lambda: forged([file(b"in.zip", forged([file(b"z", bytes(64 * MIB))]))]),
        Restored(1, 0, 0, 0, 0),
        {"total_bytes": MIB},
    ),
    # A6: two readings.
    "two end records": (
        "zip",
        lambda: forged([file(b"a")], comment=forged([file(b"b")])[-22:]),
        refused("end record"),
        {},
    ),
    "prepended junk": ("zip", lambda: b"MZ junk" + forged([file(b"a")]), refused("directory does not lie"), {}),
    "fewer entries than there are": (
        "zip",
        lambda: forged([file(b"a"), file(b"b")], end={"here": 1, "entries": 1}),
        refused("longer than its entries"),
        {},
    ),
    "zip64 that disagrees": (
        "zip",
        lambda: forged([file(b"a"), file(b"b")], zip64=True, end={"z_entries": 1, "z_here": 1}),
        refused("disagree"),
        {},
    ),
    "size lie": (
        "zip",
        lambda: forged(
            [file(b"a", b"xxxx")], local=lambda _i, f: f.update(size=2), central=lambda _i, f: f.update(size=2)
        ),
        Refused("CHECKSUM_MISMATCH", "longer than stated"),
        {},
    ),
    "wrong CRC": (
        "zip",
        lambda: forged([file(b"a")], local=lambda _i, f: f.update(crc=1), central=lambda _i, f: f.update(crc=1)),
        Refused("CHECKSUM_MISMATCH", "CRC-32"),
        {},
    ),
    "names that differ": (
        "zip",
        lambda: forged([file(b"a")], local=lambda _i, f: f.update(name=b"b")),
        refused("different names"),
        {},
    ),
    "one name twice": ("zip", lambda: forged([file(b"a"), file(b"a", b"y")]), refused("same name"), {}),
    # A7 and A8: names that are odd, and names that are nearly the same.
    "NUL": ("tar", named(b"a\0b"), refused("NUL"), {}),
    "256 bytes": ("tar", named(b"n" * 256), refused("longer than 255"), {}),
    "odd names": ("tar", lambda: b"".join(named(n)()[:-1024] for n in CONTROLS) + END, Restored(11, 0, 0, 0, 0), {}),
    "nine colliding names": (
        "zip",
        lambda: forged([file(n.encode(), n.encode()) for n in COLLIDING]),
        Restored(9, 0, 0, 0, 0),
        {},
    ),
    # A9: depth.
    "2,000 deep": ("tar", lambda: deep(2000), Restored(1, 0, 0, 0, 0), {}),
    "5,000 deep": ("tar", lambda: deep(5000), Restored(1, 0, 0, 0, 0), {}),
    "20,000 deep": ("tar", lambda: deep(20_000), refused("nested deeper"), {}),
    # A10: numbers.
    "pax size over the end": (
        "tar",
        lambda: pax((b"size", b"9999999")) + header(content=b"x") + END,
        Refused("CHECKSUM_MISMATCH", "ends too early"),
        {},
    ),
    "pax size that skips a member": (
        "tar",
        lambda: pax((b"size", b"513")) + header(content=b"x" * 512) + header(b"hidden", content=b"y") + END,
        refused("checksum does not match"),
        {},
    ),
    "negative pax size": ("tar", lambda: pax((b"size", b"-1")) + header() + END, refused("no number"), {}),
    "negative size in base 256": ("tar", lambda: header(at={124: b"\xff" * 12}) + END, refused("out of range"), {}),
    "huge size in base 256": (
        "tar",
        lambda: header(at={124: b"\x80" + b"\xff" * 11}) + END,
        refused("out of range"),
        {},
    ),
    "time that no clock has": (
        "tar",
        lambda: pax((b"mtime", b"9999999999999999999")) + header() + END,
        refused("out of range"),
        {},
    ),
    "time that no file has": (
        "tar",
        lambda: pax((b"mtime", b"-999999999999.5")) + header() + END,
        Restored(1, 0, 0, 0, 0),
        {},
    ),
    "GNU sparse map": ("tar", lambda: header(kind=b"S", content=b"x") + END, refused("sparse"), {}),
    "pax sparse map": (
        "tar",
        lambda: pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")) + header() + END,
        refused("sparse"),
        {},
    ),
    "long name without end": (
        "tar",
        lambda: header(b"././@LongLink", b"L", at={124: b"77777777777\0"}) + END,
        refused("too long"),
        {},
    ),
}
