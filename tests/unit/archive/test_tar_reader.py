"""The strict tar reader, over gzip and plain: what it reads, and one test per rule that it refuses by."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import struct
import subprocess
import tarfile
import zlib
from pathlib import Path

import pytest
import zstandard

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.member import Member
from holdfast_server.archive.reader import DETECT_SIZE, Limits, detect_format
from holdfast_server.archive.tar_header import parse_mtime, parse_pax
from holdfast_server.errors import DataLoss, FailedPrecondition, Reason
from tests.unit.archive.samples import (
    DIRECTORY,
    FILE,
    SYMLINK,
    TREE,
    WHEN,
    directory,
    file,
    forged,
    hardlink,
    header,
    pax,
    read_all,
    reading,
    symlink,
    tar,
    tar_gz,
)

END = bytes(1024)
TEXT = b"0" * 512


def refused(tmp_path: Path, data: bytes, words: str, limits: Limits | None = None) -> None:
    with pytest.raises(FailedPrecondition, match=words) as caught:
        read_all(tmp_path, "TAR_GZ", data, limits)
    assert caught.value.reason is Reason.ARCHIVE_INVALID


def refused_tar(tmp_path: Path, data: bytes, words: str) -> None:
    refused(tmp_path, gzip.compress(data), words)


def damaged(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(DataLoss, match=words) as caught:
        read_all(tmp_path, "TAR_GZ", data)
    assert caught.value.reason is Reason.CHECKSUM_MISMATCH


def gzip_member(
    data: bytes, *, stated: int | None = None, flags: int = 4, crc: int | None = None, size: int | None = None
) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = packer.compress(data) + packer.flush()
    total = 20 + len(body) + 8
    extra = struct.pack("<H2sHL", 8, b"HF", 4, total if stated is None else stated)
    crc = zlib.crc32(data) if crc is None else crc
    return (
        b"\x1f\x8b\x08"
        + bytes([flags])
        + bytes(5)
        + b"\xff"
        + extra
        + body
        + struct.pack("<LL", crc, len(data) if size is None else size)
    )


def test_reads_what_was_written(tmp_path: Path) -> None:
    entries = [*TREE, file(b"nano", mtime_ns=WHEN + 123), file(b"long/" * 60 + b"x"), hardlink(b"hard", b"sub/a.txt")]
    found = read_all(tmp_path, "TAR_GZ", tar_gz(entries))
    assert [(m.path, m.kind, m.mode, m.mtime_ns, m.size, m.link_target, c) for m, c in found] == [
        (m.path, m.kind, m.mode, m.mtime_ns, m.size, m.link_target, c) for m, c in entries
    ]


def test_reads_gzip_members_with_stated_sizes(tmp_path: Path) -> None:
    data = tar(TREE)
    pieces = b"".join(gzip_member(data[i : i + 50_000]) for i in range(0, len(data), 50_000))
    assert len(read_all(tmp_path, "TAR_GZ", pieces)) == len(TREE)


@pytest.mark.skipif(shutil.which("tar") is None, reason="GNU tar is not installed")
@pytest.mark.parametrize("form", ["gnu", "pax", "ustar"])
def test_reads_gnu_tar(tmp_path: Path, form: str) -> None:
    source = tmp_path / "source"
    part = 40 if form == "ustar" else 90
    deep = source / ("d" * part) / ("e" * part)
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"content" * 999)
    os.utime(deep / "file", ns=(-1_500_000_000 if form != "ustar" else 7, -1_500_000_000 if form != "ustar" else 7))
    os.link(deep / "file", source / "z-hard")
    os.symlink("t" * (200 if form != "ustar" else 20), source / "link")
    command = ["tar", "-czf", "../a.tgz", f"--format={form}", "d" * part, "link", "z-hard"]
    subprocess.run(command, cwd=source, check=True)
    found = {m.path: (m, c) for m, c in read_all(tmp_path, "TAR_GZ", (tmp_path / "a.tgz").read_bytes())}
    path = os.fsencode(deep.relative_to(source) / "file")
    assert found[path][1] == b"content" * 999
    assert found[b"z-hard"][0].link_target == path
    assert found[b"link"][0].kind is SYMLINK
    assert found[b"d" * part][0].kind is DIRECTORY
    expected = {"gnu": -2_000_000_000, "pax": -1_500_000_000, "ustar": 0}
    assert found[path][0].mtime_ns == expected[form]


def test_reads_gnu_long_names_of_python(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo("n/" * 150 + "x")
        info.uid = 1 << 31  # base 256
        archive.addfile(info)
        info = tarfile.TarInfo("link")
        info.type, info.linkname = tarfile.SYMTYPE, "t" * 300
        archive.addfile(info)
    (one, _), (two, _) = read_all(tmp_path, "TAR_GZ", out.getvalue())
    assert (one.path, one.uid, two.link_target) == (b"n/" * 150 + b"x", 1 << 31, b"t" * 300)


def test_pax_size_overrides_the_header_once(tmp_path: Path) -> None:
    content = b"c" * 700
    data = (
        pax((b"size", b"700")) + header(b"a", content=content, at={124: b"00000000000\0"}) + header(b"b", content=b"d")
    )
    found = read_all(tmp_path, "TAR_GZ", gzip.compress(data + END))
    assert [(m.path, c) for m, c in found] == [(b"a", content), (b"b", b"d")]


def test_pax_times() -> None:
    assert parse_mtime(b"1.5", 0) == 1_500_000_000
    assert parse_mtime(b"-1.5", 0) == -1_500_000_000
    assert parse_mtime(b"1.1234567899", 0) == 1_123_456_789
    assert parse_mtime(b"-0.0000000001", 0) == -1
    for wrong in (b"", b"1e5", b"nan", b"+1", b" 1", b"9" * 30):
        with pytest.raises(FailedPrecondition):
            parse_mtime(wrong, 0)


@pytest.mark.skipif(shutil.which("tar") is None, reason="GNU tar is not installed")
@pytest.mark.parametrize("form", ["gnu", "pax", "ustar"])
def test_reads_plain_tar(tmp_path: Path, form: str) -> None:
    (tmp_path / "a").write_bytes(b"content" * 200_000)
    os.symlink("a", tmp_path / "link")
    subprocess.run(["tar", "-cf", "a.tar", f"--format={form}", "a", "link"], cwd=tmp_path, check=True)
    data = (tmp_path / "a.tar").read_bytes()
    (one, content), (two, _) = read_all(tmp_path, "TAR", data)
    assert (one.path, content, two.path, two.link_target) == (b"a", b"content" * 200_000, b"link", b"a")
    for cut in (1 << 20, len(data) - 1, len(data) - 512, len(data) - 700):
        with pytest.raises(DataLoss, match=r"ends too early|without its end mark"):
            read_all(tmp_path, "TAR", data[:-cut])


def test_plain_tar_keeps_every_rule(tmp_path: Path) -> None:
    for data, words in (
        (tar_gz(TREE), "no number|checksum"),
        (tar(TREE) + b"garbage", "data follows"),
        (tar([file(b"../x")]), "component '..'"),
        (header(kind=b"S") + END, "sparse"),
    ):
        with pytest.raises(FailedPrecondition, match=words):
            read_all(tmp_path, "TAR", data)
    with pytest.raises(FailedPrecondition, match="unpacks to more"):
        read_all(tmp_path, "TAR", tar(TREE), Limits(total_bytes=1 << 10))
    with pytest.raises(DataLoss, match="without its end mark"):
        read_all(tmp_path, "TAR", b"")


def test_formats_are_told_by_content() -> None:
    old = header(at={257: bytes(8)})
    known = {
        ArchiveFormat.ZIP: [forged(TREE[:2]), forged([])],
        ArchiveFormat.TAR_GZ: [tar_gz(TREE)],
        ArchiveFormat.TAR_ZST: [zstandard.compress(tar(TREE)), b"\x50\x2a\x4d\x18" + bytes(4), b"\x5f\x2a\x4d\x18"],
        ArchiveFormat.TAR: [tar(TREE), header(at={257: b"ustar  \0"}), old, pax((b"path", b"x"))],
    }
    for expected, heads in known.items():
        for head in heads:
            assert detect_format(head[:DETECT_SIZE]) is expected
    for nothing in (b"", b"x", bytes(512), b"PK\x01\x02", b"age-encryption.org/v1\n", os.urandom(20), old[:300], TEXT):
        assert detect_format(nothing[:DETECT_SIZE]) is None


def test_no_gzip(tmp_path: Path) -> None:
    refused(tmp_path, tar(TREE), "no gzip")
    refused(tmp_path, b"", "no gzip")


def test_trailing_garbage(tmp_path: Path) -> None:
    refused(tmp_path, tar_gz(TREE) + b"garbage", "belong to nothing")
    refused(tmp_path, tar_gz(TREE) + bytes(512), "belong to nothing")


def test_unknown_gzip_flags(tmp_path: Path) -> None:
    refused(tmp_path, gzip_member(END, flags=0x24), "unknown flags")


def test_gzip_cut_off(tmp_path: Path) -> None:
    data = tar_gz(TREE)
    for cut in (1, 7, 9, len(data) // 2, len(data) - 5):
        damaged(tmp_path, data[:-cut], "cut off|ends too early")


def test_gzip_crc(tmp_path: Path) -> None:
    damaged(tmp_path, gzip_member(tar(TREE), crc=1), "CRC-32")


def test_gzip_length(tmp_path: Path) -> None:
    damaged(tmp_path, gzip_member(tar(TREE), size=1), "length of a gzip member")


def test_gzip_stated_size_lies(tmp_path: Path) -> None:
    refused(tmp_path, gzip_member(tar(TREE), stated=77), "HF field")


def test_gzip_deflate_broken(tmp_path: Path) -> None:
    data = bytearray(tar_gz(TREE))
    data[30:60] = b"\xff" * 30
    damaged(tmp_path, bytes(data), "broken|CRC-32|cut off")


def test_header_checksum(tmp_path: Path) -> None:
    data = bytearray(tar(TREE))
    data[0] ^= 1
    refused_tar(tmp_path, bytes(data), "checksum")


def test_header_magic(tmp_path: Path) -> None:
    refused_tar(tmp_path, header(at={257: b"ustar\x0011"}) + END, "neither ustar, GNU")


def test_old_headers_without_magic(tmp_path: Path) -> None:
    """As tar of Unix version 7: a directory is what ends with a slash."""
    old = {156: b"\0", 257: bytes(8)}
    found = read_all(tmp_path, "TAR", header(b"d/", at=old) + header(b"d/f", content=b"x", at=old) + END)
    assert [(m.path, m.kind, c) for m, c in found] == [(b"d", DIRECTORY, b""), (b"d/f", FILE, b"x")]


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ({124: b"12x45678901\0"}, "size in a tar header is no number"),
        ({124: b"-0000000001\0"}, "size in a tar header is no number"),
        ({124: b"\xff" * 12}, "size in a tar header is out of range"),
        ({124: b"\x80\x00\x00\x00\xff" + bytes(7)}, "size in a tar header is out of range"),
        ({108: b"\xff" * 8}, "owner in a tar header is out of range"),
        ({100: b"99999999"}, "mode in a tar header is no number"),
    ],
)
def test_numbers(tmp_path: Path, at: dict[int, bytes], words: str) -> None:
    refused_tar(tmp_path, header(at=at) + END, words)


def test_negative_time_in_base_256(tmp_path: Path) -> None:
    data = header(at={136: (-5).to_bytes(12, "big", signed=True)})
    assert read_all(tmp_path, "TAR_GZ", gzip.compress(data + END))[0][0].mtime_ns == -5_000_000_000


@pytest.mark.parametrize("kind", [b"3", b"4", b"6"])
def test_special_files(tmp_path: Path, kind: bytes) -> None:
    data = header(b"dev", kind) + header(b"f", content=b"x") + END
    found, reports = read_with_reports(tmp_path, data)
    assert [m.path for m in found] == [b"f"]
    assert reports == [(b"dev", "a device or FIFO", True)]
    refused_tar(tmp_path, header(b"/dev/null", kind) + END, "absolute")
    refused_tar(tmp_path, header(b"dev", kind) + header(b"dev", kind) + END, "same name")
    refused_tar(tmp_path, header(b"dev", kind) + header(b"l", b"1", at={157: b"dev"}) + END, "no earlier file")
    refused_tar(tmp_path, header(b"dev", kind, b"content") + END, "has content")


@pytest.mark.parametrize("kind", [b"S", b"M", b"D", b"Z", b"X"])
def test_unknown_types(tmp_path: Path, kind: bytes) -> None:
    refused_tar(tmp_path, header(kind=kind) + END, "not supported")


def test_contiguous_files_and_volume_labels(tmp_path: Path) -> None:
    found = read_all(tmp_path, "TAR", header(b"label", b"V") + header(b"f", b"7", b"x") + END)
    assert [(m.path, m.kind, c) for m, c in found] == [(b"f", FILE, b"x")]


def read_with_reports(tmp_path: Path, data: bytes) -> tuple[list[Member], list[tuple[bytes, str, bool]]]:
    reports: list[tuple[bytes, str, bool]] = []
    with reading(tmp_path, "TAR", data) as reader:
        reader.report = lambda path, what, whole: reports.append((path, what, whole))
        return [member for member, _ in reader.members()], reports


def test_what_pax_records_carry_is_reported(tmp_path: Path) -> None:
    """Each kind once for a member; what loses nothing is passed over."""
    lossy = pax(
        (b"SCHILY.xattr.user.a", b"1"),
        (b"SCHILY.xattr.user.b", b"\n\0"),
        (b"LIBARCHIVE.xattr.user.a", b"MQ=="),
        (b"SCHILY.acl.access", b"user::rwx"),
        (b"ACME.colour", b"red"),
    )
    harmless = pax((b"atime", b"1"), (b"ctime", b"1"), (b"uname", b"u"), (b"LIBARCHIVE.creationtime", b"1"))
    data = (
        header(b"g", b"g", b"17 comment=hello\n14 ACME.all=1\n")
        + lossy
        + header(b"./a")
        + harmless
        + header(b"b")
        + END
    )
    found, reports = read_with_reports(tmp_path, data)
    assert [m.path for m in found] == [b"a", b"b"]
    assert reports == [
        (b"g", "the pax record 'ACME.all'", False),
        (b"a", "access control lists", False),
        (b"a", "extended attributes", False),
        (b"a", "the pax record 'ACME.colour'", False),
    ]


def test_names_relative_to_the_folder(tmp_path: Path) -> None:
    """What `tar c .` writes: the root itself, and `./` before all names, also those of hard links."""
    data = header(b"./", b"5") + header(b"./f", content=b"x") + header(b"././l", b"1", at={157: b"./f"})
    found = read_all(tmp_path, "TAR", data + header(b"./s", b"2", at={157: b"./f"}) + END)
    assert [(m.path, m.link_target) for m, _ in found] == [(b"f", b""), (b"l", b"f"), (b"s", b"./f")]
    refused_tar(tmp_path, header(b"./f") + header(b"f") + END, "same name")
    refused_tar(tmp_path, header(b"./") + END, "no name")
    refused_tar(tmp_path, header(b".//f") + END, "absolute")


def test_a_directory_named_twice(tmp_path: Path) -> None:
    """As `tar r` writes it."""
    found = read_all(tmp_path, "TAR", header(b"d/", b"5") + header(b"d/", b"5", at={100: b"0000700\0"}) + END)
    assert [(m.path, m.mode) for m, _ in found] == [(b"d", 0o644), (b"d", 0o700)]
    refused_tar(tmp_path, header(b"d/", b"5") + header(b"d") + END, "same name")
    refused_tar(tmp_path, header(b"d") + header(b"d/", b"5") + END, "same name")


@pytest.mark.parametrize("kind", [b"1", b"2", b"5"])
def test_content_of_what_is_no_file(tmp_path: Path, kind: bytes) -> None:
    data = header(b"f") + header(b"g", kind, b"content", at={157: b"f"}) + END
    refused_tar(tmp_path, data, "no file has content")


@pytest.mark.parametrize(
    "data",
    [b"x", b"99 path=a\n", b"0 path=a\n", b"010 path=a\n", b"8 path=a\n", b"10 path=ab", b"7 =aaa\n", b"8 path\n\n"],
)
def test_malformed_pax_records(data: bytes) -> None:
    with pytest.raises(FailedPrecondition):
        parse_pax(data, 0)


def test_pax_record_twice(tmp_path: Path) -> None:
    refused_tar(tmp_path, pax((b"path", b"a"), (b"path", b"b")) + header() + END, "appears twice")


def test_pax_sparse(tmp_path: Path) -> None:
    refused_tar(tmp_path, pax((b"GNU.sparse.major", b"1")) + header() + END, "sparse")


def test_pax_character_set(tmp_path: Path) -> None:
    refused_tar(tmp_path, pax((b"hdrcharset", b"EBCDIC")) + header() + END, "character set")


@pytest.mark.parametrize("size", [b"-1", b"1e3", b"", b"9" * 19, b"9" * 40])
def test_pax_size_lies(tmp_path: Path, size: bytes) -> None:
    refused_tar(tmp_path, pax((b"size", size)) + header() + END, "size in a pax header")


def test_pax_header_twice(tmp_path: Path) -> None:
    refused_tar(tmp_path, pax((b"path", b"a")) + pax((b"path", b"b")) + header() + END, "two pax headers")


def test_pax_header_of_nothing(tmp_path: Path) -> None:
    refused_tar(tmp_path, pax((b"path", b"a")) + END, "belongs to no member")


def test_global_pax_header(tmp_path: Path) -> None:
    harmless = b"17 comment=hello\n"
    data = header(b"g", b"g", harmless) + header() + END
    assert len(read_all(tmp_path, "TAR_GZ", gzip.compress(data))) == 1
    refused_tar(tmp_path, header(b"g", b"g", b"10 path=a\n") + header() + END, "global pax header")


def test_long_name_twice(tmp_path: Path) -> None:
    long = header(b"././@LongLink", b"L", b"a\0")
    refused_tar(tmp_path, long + long + header() + END, "two long names")
    refused_tar(tmp_path, long + pax((b"path", b"b")) + header() + END, "two long names")


def test_extended_header_too_long(tmp_path: Path) -> None:
    refused_tar(tmp_path, header(kind=b"x", at={124: b"77777777777\0"}) + END, "too long")


def test_end_mark_missing(tmp_path: Path) -> None:
    damaged(tmp_path, gzip.compress(header()), "without its end mark")
    damaged(tmp_path, gzip.compress(header() + bytes(512)), "middle of its end mark")


def test_content_cut_off(tmp_path: Path) -> None:
    damaged(tmp_path, gzip.compress(header(content=b"x" * 2000)[:1000]), "ends too early")


def test_single_zero_block(tmp_path: Path) -> None:
    refused_tar(tmp_path, header() + bytes(512) + header(b"g") + END, "single zero block")


def test_data_behind_the_end(tmp_path: Path) -> None:
    refused_tar(tmp_path, header() + END + bytes(512) + header(b"g") + END, "data follows")


def test_too_many_zeros_behind_the_end(tmp_path: Path) -> None:
    assert len(read_all(tmp_path, "TAR_GZ", gzip.compress(header() + bytes(1 << 20)))) == 1
    refused_tar(tmp_path, header() + bytes(3 << 20), "too many zeros")


def test_duplicate_names(tmp_path: Path) -> None:
    refused(tmp_path, tar_gz([file(b"a"), file(b"a")]), "same name")
    refused(tmp_path, tar_gz([symlink(b"a", b"/etc"), directory(b"a")]), "same name")


@pytest.mark.parametrize("target", [b"missing", b"/etc/passwd", b"../x", b"d", b"l"])
def test_hardlink_to_no_earlier_file(tmp_path: Path, target: bytes) -> None:
    refused(tmp_path, tar_gz([directory(b"d"), symlink(b"l", b"x"), hardlink(b"h", target)]), "no earlier file")


def test_link_without_target(tmp_path: Path) -> None:
    refused_tar(tmp_path, header(kind=b"2") + END, "target is empty")
    refused_tar(tmp_path, pax((b"linkpath", b"a\0b")) + header(kind=b"2") + END, "NUL")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (b"/etc/x", "absolute"),
        (b"../x", "component '..'"),
        (b"a/./x", "component '.'"),
        (b"./../x", "component '..'"),
        (b"a//b", "component ''"),
        (b"file/", "component ''"),
        (b"a\0b", "NUL"),
        (b"n" * 256, "longer than 255"),
    ],
)
def test_path_rules(tmp_path: Path, name: bytes, words: str) -> None:
    refused_tar(tmp_path, pax((b"path", name)) + header() + END, words)


def test_no_name(tmp_path: Path) -> None:
    refused_tar(tmp_path, header(b"") + END, "no name")


def test_limits(tmp_path: Path) -> None:
    bomb = tar_gz([file(b"a", bytes(5 << 20))])
    refused(tmp_path, bomb, "unpacks to more", Limits(total_bytes=1 << 20))
    refused(tmp_path, bomb, "unpacks to more", Limits(ratio=10, ratio_floor=1 << 20))
    refused(tmp_path, tar_gz(TREE), "more than 1 entries", Limits(entries=1))
