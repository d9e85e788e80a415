"""Archives that were cut off, or hurt in one byte: the strict readers notice each of them."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from holdfast_server.archive.member import Member
from holdfast_server.archive.reader import Limits, open_reader
from holdfast_server.archive.seek_table import FrameSizes
from holdfast_server.archive.tar_writer import zstd_frame
from holdfast_server.errors import DataLoss, FailedPrecondition

MANIFEST = (
    b'{"format":"holdfast-manifest","version":1,"entries":[\n'
    b'{"path":"a","type":"file","mode":"0644","mtime":"1700000000.000000000","uid":0,"gid":0,"size":4,"sha256":"'
    b"88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589"
    b'"}\n],"complete":true}\n'
)
CONTENTS = {"a": b"abcd", "b/c": b"x" * 3000, "holdfast-manifest.json": MANIFEST}


def small_tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in CONTENTS.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1_700_000_000
            archive.addfile(info, io.BytesIO(content))
            if name == "b/c":
                info = tarfile.TarInfo("ü" * 80)
                info.type, info.linkname, info.mtime = tarfile.SYMTYPE, "x" * 120, 1.5
                archive.addfile(info)
                info = tarfile.TarInfo("hard")
                info.type, info.linkname = tarfile.LNKTYPE, "a"
                archive.addfile(info)
    return out.getvalue()


def small_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in CONTENTS.items():
            archive.writestr(name, content)
        with archive.open("wide", "w", force_zip64=True) as member:
            member.write(b"wide")
        link = zipfile.ZipInfo("link")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "a")
    return out.getvalue()


def zst(data: bytes, pieces: int = 3) -> bytes:
    """Frames and a seek table, as the writer makes them."""
    frames, out = FrameSizes(), b""
    size = -(-len(data) // pieces)
    for at in range(0, len(data), size):
        piece = data[at : at + size]
        frame = zstd_frame(piece)
        frames.add(len(out), len(frame), len(piece))
        out += frame
    return out + frames.table()


def read_through(path: Path, format_name: str, data: bytes) -> list[tuple[Member, bytes]]:
    path.write_bytes(data)
    with path.open("rb") as opened:
        reader = open_reader(format_name, opened, limits=Limits(), check=lambda: None)
        return [(member, b"".join(content)) for member, content in reader.members()]


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    packed = zst(small_tar())
    table = len(packed) - 8 * 3 - 17
    archives = {"ZIP": small_zip(), "TAR_GZ": gzip.compress(small_tar()), "TAR_ZST": packed}
    for format_name, data in archives.items():
        for length in range(len(data)):
            if format_name == "TAR_ZST" and length == table:
                read_through(tmp_path / "archive", format_name, data[:length])  # all of it but the table
                continue
            with pytest.raises((FailedPrecondition, DataLoss)):
                read_through(tmp_path / "archive", format_name, data[:length])


@pytest.mark.parametrize("format_name", ["TAR_GZ", "TAR_ZST"])
def test_a_flipped_byte_is_noticed_or_changes_nothing(tmp_path: Path, format_name: str) -> None:
    """There are bytes that compressors choose freely, such as a code's length that is never used."""
    data = gzip.compress(small_tar()) if format_name == "TAR_GZ" else zst(small_tar())
    whole = read_through(tmp_path / "archive", format_name, data)
    unnoticed = 0
    for flip in (0x01, 0x55):
        for at in range(10 if format_name == "TAR_GZ" else 0, len(data)):
            try:
                found = read_through(
                    tmp_path / "archive", format_name, data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
                )
            except (FailedPrecondition, DataLoss):
                continue
            assert found == whole
            unnoticed += 1
    assert unnoticed < len(data) // 50
