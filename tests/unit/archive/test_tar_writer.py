"""The tar.gz and tar.zst writers, as common tools and the specification see them."""

from __future__ import annotations

import gzip
import io
import os
import random
import shutil
import struct
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
import zstandard

from holdfast_server.archive import tar_writer
from holdfast_server.archive.blocks import BLOCK
from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.errors import DataLoss
from tests.unit.archive.archives import (
    CREATED_NS,
    MTIME_NS,
    Archive,
    Item,
    cut,
    digests,
    directory,
    file,
    symlink,
    tar_stream,
)

NOISE = random.Random(2).randbytes(3 << 20)
TEXT = b"".join(b"line %d of some text that deflate likes\n" % n for n in range(90_000))


@pytest.fixture(scope="module")
def pool() -> Iterator[CompressorPool]:
    pool = CompressorPool(threads=2)
    yield pool
    assert pool.held == pool.running == 0
    pool.close()


@pytest.fixture(params=[ArchiveFormat.TAR_GZ, ArchiveFormat.TAR_ZST])
def archive(tmp_path: Path, pool: CompressorPool, request: pytest.FixtureRequest) -> Iterator[Archive]:
    archive = Archive(tmp_path / f"a{request.param.suffix}", request.param, pool)
    yield archive
    archive.writer.abort()
    archive.file.close()


def infos(path: Path) -> dict[bytes, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(tar_stream(path))) as t:
        return {os.fsencode(info.name): info for info in t}


def content(path: Path, name: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(tar_stream(path))) as t:
        stream = t.extractfile(os.fsdecode(name))
        assert stream is not None
        return stream.read()


def sample() -> list[Item]:
    return [
        directory(b"d", mode=0o1777),
        file(b"d/empty", b""),
        file(b"text", TEXT, mode=0o4755),
        file(b"noise", NOISE),
        file(b"exact", NOISE[:BLOCK]),
        symlink(b"link", b"../else/where"),
        symlink(b"far", b"\xfe" * 300),
        (Member(b"hard", MemberKind.HARDLINK, mode=0o4755, mtime_ns=MTIME_NS, link_target=b"text"), b""),
        file("gr\u00fc\u00df".encode(), b"utf-8"),
        file(b"raw\xff\xfe", b"bytes"),
        file(b"dir/" * 60 + b"x", b"deep"),
        file(b"n" * 101, b"long"),
        directory(b"m" * 255),
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_members_come_out_as_they_went_in(archive: Archive, stream: bool) -> None:
    items = sample()
    archive.add(items, stream=stream)
    result = archive.finish()
    read = infos(archive.path)
    assert list(read) == [m.path for m, _ in items] + [result.sums_name, result.manifest_name]
    kinds = {"file": "isreg", "directory": "isdir", "symlink": "issym", "hardlink": "islnk"}
    for member, data in items:
        info = read[member.path]
        assert getattr(info, kinds[member.kind])()
        assert (info.mode, info.uid, info.gid, info.size) == (member.mode, member.uid, member.gid, member.size)
        assert os.fsencode(info.linkname) == member.link_target
        assert Decimal(info.pax_headers["mtime"]) == Decimal(member.mtime_ns) / 10**9
        if member.kind is MemberKind.FILE:
            assert content(archive.path, member.path) == data
    assert content(archive.path, result.manifest_name) == b"".join(archive.manifest.blocks())
    assert {e.member.path: e.sha256 for e in archive.entries() if e.sha256} == digests(items)
    manifest = read[result.manifest_name]
    assert (manifest.mode, manifest.mtime) == (0o600, CREATED_NS // 10**9)
    assert result.members == len(items)


@pytest.mark.parametrize("archive", [ArchiveFormat.TAR_GZ], indirect=True)
def test_every_gzip_member_stands_alone_and_tells_its_length(archive: Archive) -> None:
    archive.add(sample())
    archive.finish()
    data, at, whole = archive.path.read_bytes(), 0, b""
    while at < len(data):
        magic, mtime, xfl, system, xlen, name, length, size = tar_writer.GZIP_HEADER.unpack_from(data, at)
        assert (magic, mtime, xfl, system, xlen, name, length) == (b"\x1f\x8b\x08\x04", 0, 0, 255, 8, b"HF", 4)
        piece = zlib.decompress(data[at + 20 : at + size - 8], wbits=-15)
        assert struct.unpack_from("<LL", data, at + size - 8) == (zlib.crc32(piece), len(piece))
        assert len(piece) < 3 * BLOCK
        whole += piece
        at += size
    assert at == len(data)
    assert whole == gzip.decompress(data)
    assert len(whole) % 10240 == 0
    assert whole.endswith(bytes(1024))
    subprocess.run(["gzip", "-t", archive.path], check=True)


@pytest.mark.parametrize("archive", [ArchiveFormat.TAR_ZST], indirect=True)
def test_every_zstd_frame_stands_alone_and_the_table_lists_it(archive: Archive) -> None:
    archive.add(sample())
    archive.add([file(b"large", TEXT * 4)], stream=True)
    mark = archive.writer.mark()
    archive.writer.add_stream(Member(b"gone", MemberKind.FILE, size=len(NOISE) * 3), cut(NOISE * 3))
    archive.writer.rollback(mark)
    archive.finish()
    data = archive.path.read_bytes()
    count, flags, magic = struct.unpack("<LBL", data[-9:])
    assert (flags, magic) == (0, 0x8F92EAB1)
    table = len(data) - 8 - 8 * count - 9
    assert struct.unpack_from("<LL", data, table) == (0x184D2A5E, 8 * count + 9)
    at, whole = 0, b""
    for packed, size in struct.iter_unpack("<LL", data[table + 8 : -9]):
        frame = data[at : at + packed]
        facts = zstandard.get_frame_parameters(frame)
        assert (facts.content_size, facts.has_checksum, facts.dict_id) == (size, True, 0)
        assert facts.window_size <= 8 << 20
        piece = zstandard.ZstdDecompressor().decompress(frame, read_across_frames=False, allow_extra_data=False)
        assert len(piece) == size <= 6 * BLOCK
        whole += piece
        at += packed
    assert at == table
    assert max(size for _, size in struct.iter_unpack("<LL", data[table + 8 : -9])) >= 4 * BLOCK
    assert whole == tar_stream(archive.path)
    assert len(whole) % 10240 == 0
    assert b"gone" not in infos(archive.path)


def test_a_frame_that_does_not_unpack_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def compress(self, data: bytes) -> bytes:
            return zstandard.compress(data[:-1] + b"?")

    monkeypatch.setattr(tar_writer._zstd, "compressor", Broken())
    with pytest.raises(DataLoss, match="unpacks to something else"):
        tar_writer.zstd_frame(b"some content")


@pytest.mark.parametrize(
    ("mtime_ns", "record"),
    [
        (0, None),
        (MTIME_NS // 10**9 * 10**9, None),
        (1, "0.000000001"),
        (-1, "-0.000000001"),
        (-1_500_000_000, "-1.5"),
        (-(10**9), "-1"),
        (100 * 10**9, None),
        (0o77777777777 * 10**9, None),
        (0o100000000000 * 10**9, "8589934592"),
        (10**13 * 10**9, "10000000000000"),
    ],
)
def test_times_are_exact(mtime_ns: int, record: str | None) -> None:
    header = tar_writer.tar_header(Member(b"f", MemberKind.FILE, mtime_ns=mtime_ns))
    info = one(header)
    assert info.pax_headers.get("mtime") == record
    assert Decimal(record or info.mtime) * 10**9 == mtime_ns
    assert len(header) == (512 if record is None else 1536)


def one(header: bytes) -> tarfile.TarInfo:
    with tarfile.open(fileobj=io.BytesIO(header + bytes(1024)), mode="r:") as t:
        info = t.next()
    assert info is not None
    return info


def test_numbers_beyond_ustar_go_to_pax() -> None:
    within = Member(b"f", MemberKind.FILE, uid=2097151, gid=2097151, size=(8 << 30) - 1)
    assert len(tar_writer.tar_header(within)) == 512
    beyond = Member(b"f", MemberKind.FILE, uid=2097152, gid=4294967294, size=8 << 30)
    info = one(tar_writer.tar_header(beyond))
    assert (info.uid, info.gid, info.size) == (2097152, 4294967294, 8 << 30)
    assert info.pax_headers == {"size": str(8 << 30), "uid": "2097152", "gid": "4294967294"}


@pytest.mark.parametrize("length", [1, 99, 100, 101, 155, 156, 157, 254, 255, 256, 257, 5000])
@pytest.mark.parametrize("kind", [MemberKind.FILE, MemberKind.DIRECTORY])
@pytest.mark.parametrize("unit", [b"a", b"abcdefghi/", b"x" * 99 + b"/"])
def test_names_of_all_lengths(length: int, kind: MemberKind, unit: bytes) -> None:
    path = (unit * 5000)[:length].rstrip(b"/")
    info = one(tar_writer.tar_header(Member(path, kind)))
    assert info.name.encode() == path
    assert ("path" in info.pax_headers) == (tar_writer._split(path + b"/" * (kind == "directory")) is None)


@pytest.mark.parametrize("digits", [1, 2, 3, 4])
def test_a_pax_record_counts_its_own_digits(digits: int) -> None:
    for length in range(10**digits - 12, 10**digits + 3):
        record = tar_writer._pax_record(b"path", b"v" * max(length, 0))
        assert int(record.split(b" ")[0]) == len(record)


def test_padding_and_rollback(archive: Archive) -> None:
    size = 2 * BLOCK + 100
    archive.add([file(b"a", TEXT)])
    mark = archive.writer.mark()
    member = Member(b"short", MemberKind.FILE, size=size)
    for given in (0, 5, BLOCK, size):
        assert archive.writer.add_stream(member, cut(NOISE[:given])) == given
        archive.writer.rollback(mark)
    assert archive.writer.add_stream(member, cut(NOISE[:700]), changed=True) == 700
    archive.add([file(b"z", b"last")])
    archive.finish()
    assert list(infos(archive.path))[:3] == [b"a", b"short", b"z"]
    assert content(archive.path, b"short") == NOISE[:700] + bytes(size - 700)
    assert [(e.member.path, e.changed) for e in archive.entries()] == [(b"a", False), (b"short", True), (b"z", False)]
    assert len(tar_stream(archive.path)) % 10240 == 0


@pytest.mark.parametrize("tool", ["tar", "bsdtar"])
def test_extraction_by_common_tools(archive: Archive, tmp_path: Path, tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    if archive.path.suffix == ".zst" and shutil.which("zstd") is None:
        pytest.skip("zstd is not installed")
    names = [
        b"new\nline",
        b"esc\x1b[31m",
        b"-rf",
        b"back\\slash",
        b" lead",
        b"dots...",
        b"n" * 255,
        b"raw\xff",
        "e\u0301 decomposed".encode(),
        b"q" * 101,
    ]
    archive.add([file(name, b"of " + name) for name in names])
    archive.add([directory(b"d"), symlink(b"d/link", b"\xfe\xff"), file(b"d/big", NOISE)])
    archive.add([(Member(b"d/hard", MemberKind.HARDLINK, mtime_ns=MTIME_NS, link_target=b"raw\xff"), b"")])
    archive.finish()
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run(
        [tool, "-xpf", archive.path, "-C", out],
        check=True,
        capture_output=True,
        env={"LC_ALL": "C.UTF-8", **os.environ},
    )
    # GNU tar knows neither our charset record nor needs it: raw bytes are what it takes anyway.
    assert done.stderr.replace(b"tar: Ignoring unknown extended header keyword 'hdrcharset'\n", b"") == b""
    root = os.fsencode(out)
    for name in names:
        with open(root + b"/" + name, "rb") as f:
            assert f.read() == b"of " + name
            assert os.fstat(f.fileno()).st_mtime_ns == MTIME_NS
    assert os.readlink(root + b"/d/link") == b"\xfe\xff"
    assert os.path.samefile(root + b"/d/hard", root + b"/raw\xff")
    check = subprocess.run(["sha256sum", "-c", "--quiet", "holdfast-sha256sums.txt"], cwd=out, capture_output=True)
    assert check.returncode == 0, check.stderr


def test_format_facts() -> None:
    assert [(f.value, f.suffix, f.content_type) for f in ArchiveFormat] == [
        ("zip", ".zip", "application/zip"),
        ("tar.gz", ".tar.gz", "application/gzip"),
        ("tar.zst", ".tar.zst", "application/zstd"),
        ("tar", ".tar", "application/x-tar"),
    ]
    assert [f for f in ArchiveFormat if not f.writable] == [ArchiveFormat.TAR]
    assert [f for f in ArchiveFormat if not f.has_hardlinks] == [ArchiveFormat.ZIP]
