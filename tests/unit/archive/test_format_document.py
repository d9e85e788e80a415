"""docs/format.md states the numbers that the code uses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import zstandard

from holdfast_server.archive import manifest, seek_table, tar_header, tar_writer, zip_extra, zip_writer
from holdfast_server.archive.blocks import BLOCK
from holdfast_server.archive.manifest import EntryEncryption, ManifestEntry
from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.archive.reader import Limits

TEXT = (Path(__file__).parents[3] / "docs" / "format.md").read_text()


def section(title: str) -> str:
    found = re.search(rf"^### {re.escape(title)}\n(.*?)(?=^##|\Z)", TEXT, re.DOTALL | re.MULTILINE)
    assert found, title
    return re.sub(r"\s+", " ", found[1])


def test_common() -> None:
    common = section("Common")
    assert f"`{manifest.SUMS_NAME.decode()}`" in common
    assert f"`{manifest.MANIFEST_NAME.decode()}`" in common


def test_zip() -> None:
    text = section("zip")
    for extra in (zip_writer.EXTRA_ZIP64, zip_writer.EXTRA_TIMESTAMP, zip_writer.EXTRA_UNIX):
        assert f"| 0x{extra:04x} |" in text
    assert f"version needed {zip_writer.VERSION}, or {zip_writer.VERSION_ZIP64} with zip64" in text
    assert f"at most {zip_writer.MAX_NAME:,} bytes" in text
    assert f"made by {zip_writer.MADE_BY_UNIX} (Unix)" in text
    assert f"0x{zip_writer.DOS_DIRECTORY:x} in the lower" in text
    assert f"{zip_writer.STORED} (stored) or {zip_writer.DEFLATED} (deflate)" in text
    assert f"{zip_writer.LIMIT_16:,} members or more" in text
    assert f"0x{zip_writer.LIMIT_32:X}" in text
    assert zip_writer.wide_from == zip_writer.LIMIT_32
    assert zip_writer.FLAG_UTF8 == 1 << 11
    assert "Bit 11" in text
    assert BLOCK == 1 << 20
    assert "member over 1 MiB" in text
    assert f"up to {zip_writer.ZipWriter.max_path:,} bytes a path" in section("Stated subset")


def test_tar_gz() -> None:
    text = section("tar.gz")
    assert f"name ({tar_writer.MAX_NAME} bytes), or prefix ({tar_writer.MAX_PREFIX})" in text
    assert text.count(f"{tar_writer.MAX_OCTAL_11:,}") == 2
    assert f"up to {tar_writer.MAX_OCTAL_7:,}" in text
    assert f"multiple of {tar_writer.TAR_RECORD:,} bytes" in text
    member = tar_writer.gzip_member(b"x" * 100)
    table = dict(re.findall(r"\| (\d+) \| ((?:[0-9a-f]{2} ?)+)\|", text))
    assert len(table) == 5
    for offset, value in table.items():
        expected = bytes.fromhex(value)
        assert member[int(offset) :][: len(expected)] == expected
    assert int.from_bytes(member[16:20], "little") == len(member)
    assert tar_writer.GZIP_HEADER.size == 20
    for kind in (b"`0` file", b"`1` hard link", b"`2` symbolic link", b"`5` directory"):
        assert kind.decode() in text
    assert sorted(tar_writer._TYPES.values()) == [b"0", b"1", b"2", b"5"]


def test_tar_zst() -> None:
    text = section("tar.zst")
    frames = seek_table.FrameSizes()
    packed = b""
    for content in (b"x" * 300, bytes(5 << 20)):
        frame = tar_writer.zstd_frame(content)
        frames.add(len(packed), len(frame), len(content))
        packed += frame
        assert frame.startswith(bytes.fromhex("28 b5 2f fd"))
        assert frame[4] & 0b11111 == 0b00100
        assert zstandard.get_frame_parameters(frame).window_size <= 8 << 20
    table = frames.table()
    values = re.findall(r"\| (\d+|…) \| ((?:[0-9a-f]{2} ?)+)\|", text)
    assert [value.strip() for _, value in values] == ["28 b5 2f fd", "5e 2a 4d 18", "00", "b1 ea 92 8f"]
    assert table.startswith(bytes.fromhex(values[1][1]))
    assert table.endswith(bytes.fromhex(values[2][1] + values[3][1]))
    assert int.from_bytes(table[4:8], "little") == len(table) - 8 == 8 * 2 + 9
    assert "8 for each frame, and 9" in text
    assert f"more than {seek_table.MAX_FRAMES:,} frames" in text
    assert "MUST NOT be over 8 MiB" in text
    assert "pieces of about 4 MiB (never more than 6 MiB)" in text
    assert tar_writer.TarZstWriter.batch_size == 4 << 20
    assert f"window is over {Limits().window >> 20} MiB" in section("Reading archives of others")


def test_manifest() -> None:
    text = section("Archive manifest")
    assert f'"format":"{manifest.FORMAT_NAME}"' in text
    assert f'"version":{manifest.FORMAT_VERSION}' in text
    assert f"{manifest.MAX_LINE:,} bytes" in text
    for kind in MemberKind:
        assert f"`{kind.value}`" in text
    members = [
        Member(b"f", MemberKind.FILE, sparse=True, mtime_ns=-500_000_000),
        Member(b"\xff", MemberKind.SYMLINK, link_target=b"\xff", mtime_ns=1_700_000_000_123_456_789),
        Member(b"h", MemberKind.HARDLINK, link_target=b"f"),
    ]
    keys: set[str] = set()
    encryption = EntryEncryption("00" * 16, 1, bytes(32), b"f")
    for member in members:
        sha256 = bytes(32) if member.kind is MemberKind.FILE else None
        entry = ManifestEntry(member, sha256, changed=True, encryption=encryption)
        keys |= set(manifest._loads(entry.to_line()))
        assert member.mtime_ns == 0 or manifest.format_mtime(member.mtime_ns) in text
    table = TEXT[TEXT.index("| key of an entry |") :].split("\n\n")[0]
    rows = re.findall(r"^\| ((?:`\w+`(?: or |, )?)+) \|", table, re.MULTILINE)
    stated = set(re.findall(r"`(\w+)`", " ".join(rows)))
    assert stated == keys
    table = TEXT[TEXT.index("| key of `encryption` |") :].split("\n\n")[0]
    stated = {key for row in table.splitlines()[2:] for key in re.findall(r"`(\w+)`", row.split("|")[1])}
    one, other = (replace(encryption, path=path).to_json() for path in (b"f", b"\xff"))
    assert stated == {*json.loads(one), *json.loads(other)}


def test_what_a_restore_passes_over() -> None:
    """Each pax key and each extra field stands in the column where the code has it."""
    text = TEXT.partition("### Reading what others wrote")[2]
    rows = re.findall(r"^\| ((?:pax `|extra fields)[^|]*) \| ([^|]*) \|$", text, re.MULTILINE)
    reported, harmless = (" ".join(row[column] for row in rows) for column in (0, 1))
    ids = re.compile("0x[0-9A-F]{4}")
    assert {int(number, 16) for number in ids.findall(harmless)} == zip_extra.HARMLESS
    assert {int(number, 16) for number in ids.findall(reported)} == set(zip_extra.NAMED)
    keys = {key.decode().removeprefix("SCHILY.") for key in tar_header.PAX_HARMLESS - tar_header.PAX_READ}
    assert set(re.findall(r"`([\w.]*\w)`", harmless)) == keys
    prefixes = {prefix.decode().rstrip(".") for prefix, _ in tar_header.PAX_NAMED}
    assert {key.rstrip(".*") for key in re.findall(r"`([\w.*]+)`", reported)} == prefixes
