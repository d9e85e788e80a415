"""Archives for the reader tests: a small writer of manifests around zipfile and tarfile, and a forge for zips."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast_server.archive.manifest import ManifestEntry, ManifestSpool, sums_line
from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.archive.reader import ArchiveReader, Limits, open_reader

FILE, DIRECTORY, SYMLINK, HARDLINK = MemberKind.FILE, MemberKind.DIRECTORY, MemberKind.SYMLINK, MemberKind.HARDLINK
WHEN = 1_700_000_000_000_000_000
Entry = tuple[Member, bytes]


def file(path: bytes, content: bytes = b"x", **more: object) -> Entry:
    return Member(path, FILE, **{"mtime_ns": WHEN, "size": len(content), **more}), content  # type: ignore[arg-type]


def directory(path: bytes, **more: object) -> Entry:
    return Member(path, DIRECTORY, **{"mode": 0o755, "mtime_ns": WHEN, **more}), b""  # type: ignore[arg-type]


def symlink(path: bytes, target: bytes) -> Entry:
    return Member(path, SYMLINK, mode=0o777, mtime_ns=WHEN, link_target=target), b""


def hardlink(path: bytes, target: bytes) -> Entry:
    return Member(path, HARDLINK, mtime_ns=WHEN, link_target=target), b""


TREE: list[Entry] = [
    directory(b"sub", mode=0o750),
    file(b"sub/a.txt", b"hello" * 1000, mode=0o640),
    file(b"empty", b""),
    file(b"caf\xc3\xa9 \xff raw", os.urandom(3000), mode=0o600),
    symlink(b"link", b"sub/a.txt"),
    file(b"big.bin", bytes(300_000) + os.urandom(100_000), sparse=True),
]


def closing(entries: list[Entry], change: Callable[[ManifestEntry], ManifestEntry | None] = lambda e: e) -> list[Entry]:
    """The list of checksums and the manifest; `change` falsifies entries of the manifest, or drops them."""
    spool = ManifestSpool({"backup_id": "b"})
    sums = b""
    for member, content in entries:
        entry = ManifestEntry(member, hashlib.sha256(content).digest() if member.kind is FILE else None)
        changed = change(entry)
        if changed is not None:
            spool.add(changed)
        if entry.sha256 is not None:
            sums += sums_line(member.path, entry.sha256)
    spool.finish({"complete": True})
    return [file(b"holdfast-sha256sums.txt", sums), file(b"holdfast-manifest.json", b"".join(spool.blocks()))]


def tar(entries: list[Entry]) -> bytes:
    out = io.BytesIO()
    types = {FILE: tarfile.REGTYPE, DIRECTORY: tarfile.DIRTYPE, SYMLINK: tarfile.SYMTYPE, HARDLINK: tarfile.LNKTYPE}
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive:
        for member, content in entries:
            info = tarfile.TarInfo(os.fsdecode(member.path))
            info.type, info.mode, info.size = types[member.kind], member.mode, member.size
            info.uid, info.gid = member.uid, member.gid
            info.linkname = os.fsdecode(member.link_target)
            seconds, fraction = divmod(member.mtime_ns, 10**9)
            info.mtime = seconds
            if fraction:
                info.pax_headers = {"mtime": f"{seconds}.{fraction:09d}"}
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def tar_gz(entries: list[Entry]) -> bytes:
    return gzip.compress(tar(entries))


def header(
    name: bytes = b"f", kind: bytes = b"0", content: bytes = b"", *, at: dict[int, bytes] | None = None
) -> bytes:
    """A tar header block with its content, padded. `at` overwrites bytes before the checksum is made."""
    block = bytearray(512)
    for offset, value in {
        0: name,
        100: b"0000644\0",
        108: b"0000000\0",
        116: b"0000000\0",
        124: b"%011o\0" % len(content),
        136: b"14524757400\0",
        156: kind,
        257: b"ustar\x0000",
        **(at or {}),
    }.items():
        block[offset : offset + len(value)] = value
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + content + bytes(-len(content) % 512)


def pax(*records: tuple[bytes, bytes]) -> bytes:
    """An extended header with these records."""
    out = b""
    for key, value in records:
        rest = len(key) + len(value) + 3
        size = rest + len(b"%d" % rest)
        size = rest + len(b"%d" % size)
        out += b"%d %b=%b\n" % (size, key, value)
    return header(b"pax", b"x", out)


def forged(
    entries: list[Entry],
    *,
    local: Callable[[int, dict[str, object]], None] = lambda _i, _f: None,
    central: Callable[[int, dict[str, object]], None] = lambda _i, _f: None,
    end: dict[str, int] | None = None,
    comment: bytes = b"",
    between: bytes = b"",
    zip64: bool = False,
    prefix: bytes = b"",
) -> bytes:
    """A zip as docs/format.md says, with every field open to falsification."""
    types = {FILE: stat.S_IFREG, DIRECTORY: stat.S_IFDIR, SYMLINK: stat.S_IFLNK}
    out, records = bytearray(prefix), bytearray()
    for i, (member, content) in enumerate(entries):
        raw = member.link_target if member.kind is SYMLINK else content
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        seconds = struct.pack("<HHBl", 0x5455, 5, 1, member.mtime_ns // 10**9)
        fields: dict[str, object] = {
            "name": member.path + (b"/" if member.kind is DIRECTORY else b""),
            "flags": 0,
            "method": 8 if raw else 0,
            "crc": zlib.crc32(raw),
            "size": len(raw),
            "packed": len(data := deflate.compress(raw) + deflate.flush() if raw else b""),
            "extra": seconds + struct.pack("<HHBBLBL", 0x7875, 11, 1, 4, member.uid, 4, member.gid),
            "offset": len(out),
            "attributes": (types[member.kind] | member.mode) << 16,
            "data": data,
            "after": b"",
            "signature": b"PK\3\4",
            "made_by": 0x0314,
        }
        a = dict(fields)
        local(i, a)
        out += struct.pack(
            "<4s5H3L2H", a["signature"], 20, a["flags"], a["method"], 0, 33, a["crc"], a["packed"], a["size"],
            len(a["name"]), len(a["extra"]),
        ) + a["name"] + a["extra"] + a["data"] + a["after"]  # type: ignore[arg-type, operator]  # fmt: skip
        c = dict(fields)
        central(i, c)
        records += struct.pack(
            "<4s6H3L5H2L", b"PK\1\2", c["made_by"], 20, c["flags"], c["method"], 0, 33, c["crc"], c["packed"],
            c["size"], len(c["name"]), len(c["extra"]), 0, 0, 0, c["attributes"], c["offset"],
        ) + c["name"] + c["extra"]  # type: ignore[arg-type, operator]  # fmt: skip
    out += between
    e = {
        "disk": 0,
        "here": len(entries),
        "entries": len(entries),
        "size": len(records),
        "offset": len(out),
        **(end or {}),
    }
    tail = b""
    if zip64:
        wide = {**e, **{k[2:]: v for k, v in e.items() if k.startswith("z_")}}
        at = len(out) + len(records)
        tail = struct.pack(
            "<4sQ2H2L4Q", b"PK\6\6", wide.get("length", 44), 45, 45, 0, 0, wide["here"], wide["entries"], wide["size"],
            wide["offset"],
        ) + struct.pack("<4sLQL", b"PK\6\7", 0, e.get("locator", at), e.get("disks", 1))  # fmt: skip
    tail += struct.pack(
        "<4s4H2LH", b"PK\5\6", e["disk"], 0, e["here"], e["entries"], e["size"], e["offset"],
        e.get("comment", len(comment)),
    )  # fmt: skip
    return bytes(out + records + tail + comment)


@contextmanager
def reading(tmp_path: Path, format_name: str, data: bytes, limits: Limits | None = None) -> Iterator[ArchiveReader]:
    path = tmp_path / "archive"
    path.write_bytes(data)
    with path.open("rb") as opened:
        yield open_reader(format_name, opened, limits=limits or Limits(), check=lambda: None)


def read_all(tmp_path: Path, format_name: str, data: bytes, limits: Limits | None = None) -> list[Entry]:
    with reading(tmp_path, format_name, data, limits) as reader:
        return [(member, b"".join(content)) for member, content in reader.members()]
