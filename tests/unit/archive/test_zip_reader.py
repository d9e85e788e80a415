"""The strict zip reader: what it reads, and one test per rule that it refuses by."""

from __future__ import annotations

import io
import os
import shutil
import struct
import subprocess
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.archive.reader import Limits
from holdfast_server.errors import DataLoss, FailedPrecondition, HoldfastError, Reason
from tests.unit.archive.samples import FILE, SYMLINK, TREE, directory, file, forged, read_all, reading, symlink

TWO = [file(b"a", b"first" * 50), file(b"b", b"second" * 50)]


def refused(tmp_path: Path, data: bytes, words: str, limits: Limits | None = None) -> HoldfastError:
    with pytest.raises(FailedPrecondition, match=words) as caught:
        read_all(tmp_path, "ZIP", data, limits)
    assert caught.value.reason is Reason.ARCHIVE_INVALID
    return caught.value


def damaged(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(DataLoss, match=words) as caught:
        read_all(tmp_path, "ZIP", data)
    assert caught.value.reason is Reason.CHECKSUM_MISMATCH


def on(index: int, **changes: Any) -> Any:
    def change(i: int, fields: dict[str, Any]) -> None:
        if i == index:
            fields.update(changes)

    return change


def test_reads_what_was_written(tmp_path: Path) -> None:
    found = read_all(tmp_path, "ZIP", forged(TREE))
    assert [(m.path, m.kind, m.mode, m.mtime_ns, m.link_target, c) for m, c in found] == [
        (m.path, m.kind, m.mode, m.mtime_ns, m.link_target, c) for m, c in TREE
    ]


def test_reads_python_zipfile_with_descriptors_zip64_and_comment(tmp_path: Path) -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[call-overload]
        archive.comment = b"a comment"
        archive.writestr("one", b"1" * 5000)
        with archive.open("two", "w", force_zip64=True) as member:
            member.write(b"2" * 5000)
        archive.writestr("three", b"")
    assert [(m.path, c) for m, c in read_all(tmp_path, "ZIP", pipe.data)] == [
        (b"one", b"1" * 5000),
        (b"two", b"2" * 5000),
        (b"three", b""),
    ]


@pytest.mark.skipif(shutil.which("zip") is None, reason="Info-ZIP is not installed")
def test_reads_info_zip(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "dir").mkdir(parents=True)
    (source / "dir" / "file").write_bytes(b"content" * 99)
    (source / "ünï").write_bytes(b"")
    os.symlink("dir/file", source / "link")
    subprocess.run(["zip", "-qry", "../a.zip", "."], cwd=source, check=True)
    subprocess.run("zip -qr - dir | cat > ../b.zip", shell=True, cwd=source, check=True)
    found = {m.path: (m, c) for m, c in read_all(tmp_path, "ZIP", (tmp_path / "a.zip").read_bytes())}
    assert found[b"dir/file"][1] == b"content" * 99
    assert (found[b"link"][0].kind, found[b"link"][0].link_target) == (SYMLINK, b"dir/file")
    assert "ünï".encode() in found
    streamed = {m.path: c for m, c in read_all(tmp_path, "ZIP", (tmp_path / "b.zip").read_bytes())}
    assert streamed == {b"dir": b"", b"dir/file": b"content" * 99}


def test_reads_an_empty_zip(tmp_path: Path) -> None:
    assert read_all(tmp_path, "ZIP", forged([])) == []


def test_zip64_end_record_is_read(tmp_path: Path) -> None:
    assert len(read_all(tmp_path, "ZIP", forged(TWO, zip64=True))) == 2


def test_a_pass_can_be_repeated_and_contents_left_unread(tmp_path: Path) -> None:
    with reading(tmp_path, "ZIP", forged(TWO)) as reader:
        assert [m.path for m, _ in reader.members()] == [m.path for m, _ in reader.members()] == [b"a", b"b"]


def test_unread_content_is_still_checked(tmp_path: Path) -> None:
    data = forged(TWO, local=on(0, crc=1), central=on(0, crc=1))
    with reading(tmp_path, "ZIP", data) as reader, pytest.raises(DataLoss, match="CRC"):
        list(reader.members())


def test_no_end_record(tmp_path: Path) -> None:
    refused(tmp_path, b"nothing" * 10, "no end record")
    refused(tmp_path, b"", "no end record")


def test_truncated(tmp_path: Path) -> None:
    damaged(tmp_path, forged(TWO)[:-30], "cut off")


def test_bytes_after_the_end(tmp_path: Path) -> None:
    refused(tmp_path, forged(TWO) + b"x", "comment is not as long")


def test_comment_longer_than_the_file(tmp_path: Path) -> None:
    refused(tmp_path, forged(TWO, comment=b"abc", end={"comment": 9}), "comment is not as long")


def test_two_end_records(tmp_path: Path) -> None:
    inner = forged([])
    refused(tmp_path, forged(TWO, comment=inner), "directory does not lie|two end records")
    first = bytearray(forged(TWO) + forged([]))
    first[-24:-22] = struct.pack("<H", 22)  # the first one's comment is the second
    refused(tmp_path, bytes(first), "two end records")


def test_entry_count_too_high_or_too_low(tmp_path: Path) -> None:
    refused(tmp_path, forged(TWO, end={"entries": 3, "here": 3}), "fewer entries")
    refused(tmp_path, forged(TWO, end={"entries": 1, "here": 1}), "longer than its entries")


def test_several_disks(tmp_path: Path) -> None:
    refused(tmp_path, forged(TWO, end={"disk": 1}), "several parts")


def test_directory_elsewhere(tmp_path: Path) -> None:
    refused(tmp_path, forged(TWO, end={"offset": 5}), "directly before the end")


def test_bytes_before_the_first_entry(tmp_path: Path) -> None:
    refused(tmp_path, b"junk" + forged(TWO), "directly before the end")
    refused(tmp_path, forged(TWO, prefix=b"#!/bin/sh\n"), "does not begin where")


def test_gap_between_entries(tmp_path: Path) -> None:
    refused(tmp_path, forged(TWO, local=on(0, after=b"gap"), central=on(1, offset=0)), "overlaps|does not begin|behind")
    data = forged(TWO, between=b"hidden")
    refused(tmp_path, data, "bytes lie behind")


def test_overlapping_entries(tmp_path: Path) -> None:
    refused(tmp_path, forged(TWO, central=on(1, offset=0)), "overlaps|does not begin")
    refused(tmp_path, forged(TWO, local=on(0, packed=500), central=on(0, packed=500)), "overlaps")


def test_full_overlap_bomb(tmp_path: Path) -> None:
    # All entries point at one kernel of data.
    kernel = file(b"a", bytes(1 << 20))
    data = forged(
        [kernel] * 5,
        local=lambda i, f: f.update(data=f["data"] if i == 0 else b""),
        central=lambda i, f: f.update(offset=0),
    )
    refused(tmp_path, data, "overlaps|outside|does not begin")


def test_quoted_overlap_bomb(tmp_path: Path) -> None:
    # The first entry's data contains the second entry whole.
    inner = forged([file(b"b", b"inner")])[:60]
    data = forged([file(b"a", inner), file(b"b", b"inner")], central=on(1, offset=40))
    refused(tmp_path, data, "overlaps|no local header|does not begin")


def test_no_local_header(tmp_path: Path) -> None:
    refused(tmp_path, forged(TWO, local=on(1, signature=b"PK\7\7")), "no local header")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("name", b"c", "different names"),
        ("flags", 2, "flags or method"),
        ("method", 0, "flags or method"),
        ("crc", 7, "checksum or sizes"),
        ("size", 7, "checksum or sizes"),
        ("packed", 7, "checksum or sizes"),
        ("extra", struct.pack("<HHBl", 0x5455, 5, 1, 12345), "on the time"),
        ("extra", b"\x55", "cut off"),
        ("extra", b"\x55\x54\xff\xff", "longer than the space"),
        ("extra", struct.pack("<HHQQ", 1, 16, 1, 2), "zip64 field and the header disagree"),
    ],
)
def test_local_header_disagrees(tmp_path: Path, field: str, value: Any, words: str) -> None:
    refused(tmp_path, forged(TWO, local=on(1, **{field: value})), words)


def both(index: int, **changes: Any) -> dict[str, Any]:
    return {"local": on(index, **changes), "central": on(index, **changes)}


def test_zip64_field_missing(tmp_path: Path) -> None:
    refused(tmp_path, forged(TWO, **both(0, size=0xFFFFFFFF)), "zip64 field is missing")


def test_zip64_field_too_short(tmp_path: Path) -> None:
    extra = struct.pack("<HHQ", 1, 8, 250)
    refused(tmp_path, forged(TWO, **both(0, size=0xFFFFFFFF, packed=0xFFFFFFFF, extra=extra)), "zip64 field does not")


def test_zip64_locator_points_elsewhere(tmp_path: Path) -> None:
    refused(tmp_path, forged(TWO, zip64=True, end={"locator": 3}), "directly before its locator")


def test_zip64_end_record_has_another_length(tmp_path: Path) -> None:
    refused(tmp_path, forged(TWO, zip64=True, end={"length": 45}), "zip64 end record is malformed")


def test_zip64_end_record_disagrees(tmp_path: Path) -> None:
    refused(tmp_path, forged(TWO, zip64=True, end={"z_entries": 1}), "disagree")


def test_encrypted(tmp_path: Path) -> None:
    refused(tmp_path, forged(TWO, **both(0, flags=1)), "encrypted")


def test_unknown_method(tmp_path: Path) -> None:
    refused(tmp_path, forged(TWO, **both(0, method=12)), "method 12")


def test_stored_with_two_sizes(tmp_path: Path) -> None:
    refused(tmp_path, forged(TWO, **both(0, method=0)), "two sizes")


def test_descriptor_missing_or_false(tmp_path: Path) -> None:
    refused(tmp_path, forged(TWO, **both(1, flags=8)), "descriptor is missing")
    lie = {"flags": 8, "after": struct.pack("<4s3L", b"PK\7\10", 1, 2, 3)}
    refused(tmp_path, forged([TWO[0]], **both(0, **lie)), "descriptor and the directory disagree")


def test_duplicate_names(tmp_path: Path) -> None:
    refused(tmp_path, forged([TWO[0], TWO[0]]), "same name")
    refused(tmp_path, forged([file(b"a"), directory(b"a")]), "same name")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (b"", "no name"),
        (b"/etc/passwd", "absolute"),
        (b"../x", "component '..'"),
        (b"a/../../x", "component '..'"),
        (b"a/./b", "component '.'"),
        (b"a//b", "component ''"),
        (b"//x", "absolute"),
        (b"a\0b", "NUL"),
        (b"n" * 256, "longer than 255"),
    ],
)
def test_path_rules(tmp_path: Path, name: bytes, words: str) -> None:
    refused(tmp_path, forged([file(name)]), words)


def test_odd_but_plain_names_are_kept(tmp_path: Path) -> None:
    names = [
        b"C:\\x",
        b"..\\x",
        b"\\\\srv\\x",
        b"-rf",
        b"%s",
        b"CON",
        b"tail. ",
        b"a\tb\nc\x1b",
        b"n" * 255,
        b"\xff\xfe",
    ]
    assert [m.path for m, _ in read_all(tmp_path, "ZIP", forged([file(n) for n in names]))] == names


def test_messages_escape_names(tmp_path: Path) -> None:
    error = refused(tmp_path, forged([file(b"/\x1b[31m\xff\\")]), "absolute")
    assert "\\x1b[31m\\xff" in error.message
    assert "\x1b" not in error.message


def test_name_marked_utf8_that_is_not(tmp_path: Path) -> None:
    refused(tmp_path, forged([file(b"\xff")], **both(0, flags=0x800)), "marked as UTF-8")


def unicode_path(name: bytes, other: bytes) -> bytes:
    return struct.pack("<HHBL", 0x7075, 5 + len(other), 1, zlib.crc32(name)) + other


def test_second_name_in_an_extra_field(tmp_path: Path) -> None:
    """Info-ZIP's field gives the name when it belongs to the one in the header; both headers must agree."""
    name = "\u4e2d.txt".encode()
    extra = unicode_path(b"_.txt", name)
    found = read_all(tmp_path, "ZIP", forged([file(b"_.txt")], **both(0, extra=extra)))
    assert [m.path for m, _ in found] == [name]
    stale = forged([file(b"a")], **both(0, extra=unicode_path(b"b", b"c")))
    refused(tmp_path, stale, "belongs to another name")
    refused(tmp_path, forged([file(b"a")], **both(0, extra=unicode_path(b"a", b"\xff"))), "not UTF-8")
    refused(tmp_path, forged([file(b"a")], **both(0, extra=unicode_path(b"a", b"../b"))), "component '..'")
    refused(tmp_path, forged([file(b"a")], **both(0, flags=0x800, extra=unicode_path(b"a", b"b"))), "another name")
    refused(tmp_path, forged([file(b"a")], local=on(0, extra=unicode_path(b"a", b"b"))), "different names")


def test_names_of_other_systems(tmp_path: Path) -> None:
    """Code page 437 where nothing says UTF-8; a backslash there is a folder to some tools and a letter to others."""
    dos = forged([file(b"caf\x82")], central=on(0, made_by=0x0014, attributes=0))
    assert [m.path for m, _ in read_all(tmp_path, "ZIP", dos)] == ["caf\u00e9".encode()]
    unix = forged([file(b"caf\x82")])
    assert [m.path for m, _ in read_all(tmp_path, "ZIP", unix)] == [b"caf\x82"]
    refused(tmp_path, forged([file(b"a\\b")], central=on(0, made_by=0x0014)), "backslash")


def test_names_relative_to_the_folder(tmp_path: Path) -> None:
    found = read_all(tmp_path, "ZIP", forged([directory(b"."), directory(b"./d"), file(b"./d/f"), file(b"././g")]))
    assert [m.path for m, _ in found] == [b"d", b"d/f", b"g"]
    refused(tmp_path, forged([file(b"./a"), file(b"a")]), "same name")
    refused(tmp_path, forged([file(b".")]), "no name")


def test_a_directory_named_twice(tmp_path: Path) -> None:
    found = read_all(tmp_path, "ZIP", forged([directory(b"d"), directory(b"d")]))
    assert [m.path for m, _ in found] == [b"d", b"d"]


def test_type_and_name_disagree(tmp_path: Path) -> None:
    refused(tmp_path, forged([directory(b"d")], central=on(0, attributes=0o100644 << 16)), "does not fit")
    refused(tmp_path, forged([directory(b"d")], central=on(0, attributes=0o010644 << 16)), "does not fit")
    refused(tmp_path, forged([file(b"d")], central=on(0, attributes=0o040755 << 16)), "does not fit")


def read_with_reports(tmp_path: Path, data: bytes) -> tuple[list[bytes], list[tuple[bytes, str, bool]]]:
    reports: list[tuple[bytes, str, bool]] = []
    with reading(tmp_path, "ZIP", data) as reader:
        reader.report = lambda path, what, whole: reports.append((path, what, whole))
        return [member.path for member, _ in reader.members()], reports


def test_special_file(tmp_path: Path) -> None:
    data = forged([file(b"fifo", b""), file(b"f")], central=on(0, attributes=0o010644 << 16))
    assert read_with_reports(tmp_path, data) == ([b"f"], [(b"fifo", "a device, FIFO or socket", True)])
    refused(tmp_path, forged([file(b"../fifo", b"")], central=on(0, attributes=0o010644 << 16)), "component")
    # What Info-ZIP read from its standard input.
    found = read_all(tmp_path, "ZIP", forged([file(b"-", b"x")], central=on(0, attributes=0o010600 << 16)))
    assert [(m.path, m.kind, m.mode, c) for m, c in found] == [(b"-", FILE, 0o600, b"x")]


def test_what_extra_fields_carry_is_reported(tmp_path: Path) -> None:
    """Also what only one of the two headers has; times, owners and padding lose nothing."""
    acl = struct.pack("<HHL", 0x4453, 4, 1)
    unknown = struct.pack("<HH", 0x1234, 0)
    harmless = struct.pack("<HH6s", 0xD935, 6, b"") + struct.pack("<HHH", 0xA11E, 2, 4) + bytes(3)
    data = forged([file(b"a"), file(b"b")], local=on(0, extra=acl + harmless), central=on(0, extra=unknown))
    found, reports = read_with_reports(tmp_path, data)
    assert found == [b"a", b"b"]
    assert reports == [(b"a", "the extra field 0x1234", False), (b"a", "a Windows access control list", False)]


def test_times_past_2038(tmp_path: Path) -> None:
    """32 bits, that Info-ZIP and bsdtar fill without a sign; the year of the DOS time tells."""
    extra = struct.pack("<HHBL", 0x5455, 5, 1, 2_208_988_801)
    for year, expected in ((2040, 2_208_988_801), (1980, 2_208_988_801 - (1 << 32))):
        data = bytearray(forged([file(b"a")], **both(0, extra=extra)))
        at = data.index(b"PK\1\2") + 14
        data[at : at + 2] = struct.pack("<H", (year - 1980) << 9 | 33)
        assert [m.mtime_ns // 10**9 for m, _ in read_all(tmp_path, "ZIP", bytes(data))] == [expected]


def test_times_of_other_systems(tmp_path: Path) -> None:
    """In UTC, where the headers' own time is anybody's local time."""
    old_unix = struct.pack("<HH2l", 0x5855, 8, 1, -2)
    ntfs = struct.pack("<HHLHH3Q", 0x000A, 32, 0, 1, 24, 133_444_736_001_234_567, 1, 1)
    for extra, expected in ((old_unix, -2 * 10**9), (ntfs, 1_700_000_000_123_456_700), (b"", 315_532_800 * 10**9)):
        found = read_all(tmp_path, "ZIP", forged([file(b"a")], **both(0, extra=extra)))
        assert [m.mtime_ns for m, _ in found] == [expected]


def test_directory_with_content(tmp_path: Path) -> None:
    content = b"x"
    changes = {"size": 1, "packed": 1, "method": 0, "data": content, "crc": zlib.crc32(content)}
    refused(tmp_path, forged([directory(b"d")], **both(0, **changes)), "directory has content")


def test_symlink_target_rules(tmp_path: Path) -> None:
    refused(tmp_path, forged([symlink(b"l", b"")]), "target is empty")
    refused(tmp_path, forged([symlink(b"l", b"a\0b")]), "NUL")
    refused(tmp_path, forged([symlink(b"l", b"x" * 5000)]), "too long")


def test_wrong_crc(tmp_path: Path) -> None:
    damaged(tmp_path, forged(TWO, **both(0, crc=1)), "CRC-32")


def test_size_lies(tmp_path: Path) -> None:
    damaged(tmp_path, forged(TWO, **both(0, size=249)), "longer than stated")
    damaged(tmp_path, forged(TWO, **both(0, size=251)), "shorter than stated")


def test_broken_or_cut_deflate(tmp_path: Path) -> None:
    damaged(tmp_path, forged(TWO, **both(0, data=b"\xff" * 30, packed=30)), "broken")
    whole = zlib.compressobj(6, zlib.DEFLATED, -15)
    packed = whole.compress(TWO[0][1]) + whole.flush()
    damaged(tmp_path, forged(TWO, **both(0, data=packed[:-4], packed=len(packed) - 4)), "cut off|shorter")
    damaged(tmp_path, forged(TWO, **both(0, data=packed + b"tail", packed=len(packed) + 4)), "bytes follow")


def test_limits(tmp_path: Path) -> None:
    bomb = forged([file(b"a", bytes(5 << 20))])
    refused(tmp_path, bomb, "unpacks to more", Limits(total_bytes=1 << 20))
    refused(tmp_path, bomb, "unpacks to more", Limits(ratio=10, ratio_floor=1 << 20))
    assert read_all(tmp_path, "ZIP", bomb, Limits(ratio=10))[0][0].kind is FILE
    refused(tmp_path, forged(TWO), "more than 1 entries", Limits(entries=1))
    refused(tmp_path, forged([file(b"a/b/c")]), "nested deeper", Limits(depth=2))
    refused(tmp_path, forged([file(b"abcdef")]), "longer than 5", Limits(path_length=5))
