"""Mutated archives: every reader, verifier and extractor ends with success or a typed error, never with another one."""

from __future__ import annotations

import gzip
import io
import os
import random
import shutil
import struct
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from holdfast_server.archive.extract import extract
from holdfast_server.archive.member import Member
from holdfast_server.archive.reader import Limits, open_reader
from holdfast_server.archive.seek_table import FrameSizes
from holdfast_server.archive.tar_writer import zstd_frame
from holdfast_server.archive.verify import structure, verify_archive
from holdfast_server.errors import DataLoss, FailedPrecondition

SEED = 20_261_121
SECONDS = 1.5
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


def mutated(data: bytes, chance: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(out))
        what = chance.randrange(6)
        if what == 0:
            out[at] ^= 1 << chance.randrange(8)
        elif what == 1:
            out[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        elif what == 2:
            del out[at : at + chance.choice((1, 2, 4, 512))]
        elif what == 3:
            out[at:at] = out[at : at + chance.choice((1, 4, 30, 512))]
        elif what == 4:
            out[at : at + 4] = struct.pack("<L", chance.choice((0, 1, 0xFFFFFFFF, 0x7FFFFFFF, len(out))))
        else:
            other = chance.randrange(len(out))
            out[at : at + 16] = out[other : other + 16]
        if not out:
            out = bytearray(b"\0")
    return bytes(out)


def with_good_checksums(data: bytes) -> bytes:
    """Make the header checksums of a mutated tar right again, so that the mutation gets past them."""
    out = bytearray(data)
    for at in range(0, len(out) - 511, 512):
        if out[at + 257 : at + 262] == b"ustar":
            out[at + 148 : at + 156] = b"        "
            out[at + 148 : at + 156] = b"%06o\0 " % sum(out[at : at + 512])
    return bytes(out)


def use(path: Path, format_name: str, data: bytes, chance: random.Random) -> None:
    path.write_bytes(data)
    limits = Limits(total_bytes=1 << 20, entries=100)
    expect = chance.random() < 0.5
    with path.open("rb") as opened:
        for work in (verify_archive, structure):
            try:
                work(
                    open_reader(format_name, opened, limits=limits, check=lambda: None),
                    check=lambda: None,
                    expect_manifest=expect,
                )
            except (FailedPrecondition, DataLoss):
                pass
        root = path.parent / "root"
        root.mkdir()
        fd = os.open(root, os.O_RDONLY)
        try:
            reader = open_reader(format_name, opened, limits=limits, check=lambda: None)
            extract(reader, fd, check=lambda: None, expect_manifest=False)
        except (FailedPrecondition, DataLoss):
            pass
        finally:
            os.close(fd)
            shutil.rmtree(root)
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]


@pytest.mark.parametrize("format_name", ["ZIP", "TAR_GZ", "TAR_ZST", "TAR"])
def test_mutations_end_in_typed_errors(tmp_path: Path, format_name: str) -> None:
    chance = random.Random(SEED)
    tar = small_tar()
    original = {"ZIP": small_zip(), "TAR_GZ": gzip.compress(tar), "TAR_ZST": zst(tar), "TAR": tar}[format_name]
    end = time.monotonic() + SECONDS
    rounds = 0
    while time.monotonic() < end:
        data = mutated(original, chance)
        if format_name == "TAR":
            data = with_good_checksums(data)
        try:
            use(tmp_path / "archive", format_name, data, chance)
        except Exception as error:
            raise AssertionError(f"round {rounds} of seed {SEED}: {data[:100_000]!r}") from error
        rounds += 1
    assert rounds > 50


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
