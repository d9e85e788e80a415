"""What a writer packs wrongly never leaves it: compressors, headers and checksums that lie are found out."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from isal import isal_zlib

from holdfast_server.archive import blocks, tar_writer, zip_writer
from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.archive.proof import require_inflates, require_reads_as, require_unpacks
from holdfast_server.errors import DataLoss
from tests.unit.archive.archives import WRITABLE, Archive, Item, file

TEXT = b"all work and no play makes jack a dull boy\n" * 40
LARGE = random.Random(3).randbytes(blocks.BLOCK) + TEXT * 30_000


@pytest.fixture
def pool() -> Iterator[CompressorPool]:
    made = CompressorPool(2)
    yield made
    made.close()


def deflated(content: bytes) -> bytes:
    stream = zlib.compressobj(6, wbits=-15)
    return stream.compress(content) + stream.flush()


def fill(archive: Archive, item: Item) -> None:
    try:
        archive.add([item], stream=True)
        archive.finish()
    finally:
        archive.writer.abort()
        archive.file.close()


@pytest.mark.parametrize("wrong", [TEXT[:-1], TEXT + b"x", TEXT[:-1] + b"x", b""])
def test_what_unpacks_to_something_else_is_refused(wrong: bytes) -> None:
    require_inflates(deflated(wrong), wrong)
    with pytest.raises(DataLoss, match="just compressed"):
        require_inflates(deflated(wrong), TEXT, b"path")
    require_inflates(blocks.deflate_part(wrong, last=False), wrong, whole=False)
    with pytest.raises(DataLoss, match="just compressed"):
        require_inflates(blocks.deflate_part(wrong, last=False), TEXT, whole=False)
    require_unpacks(tar_writer.zstd_frame(wrong), wrong)
    with pytest.raises(DataLoss, match="just compressed"):
        require_unpacks(tar_writer.zstd_frame(wrong), TEXT)


def test_a_changed_stream_is_refused_unless_it_unpacks_to_the_same() -> None:
    packed = deflated(TEXT)
    refused = 0
    for at in range(len(packed)):
        broken = bytearray(packed)
        broken[at] ^= 0x10
        try:
            require_inflates(bytes(broken), TEXT)
        except DataLoss:
            refused += 1
        else:
            assert isal_zlib.decompress(bytes(broken), wbits=-15) == TEXT  # such as a code that nothing uses
    assert refused > len(packed) * 3 // 4
    with pytest.raises(DataLoss):
        require_inflates(packed[:-2], TEXT)


@pytest.mark.parametrize(
    "change",
    [
        {"path": b"other"},
        {"kind": MemberKind.DIRECTORY, "size": 0},
        {"size": 4},
        {"mode": 0o640},
        {"mtime_ns": 5},
        {"uid": 7},
        {"gid": 7},
    ],
)
def test_a_header_that_says_something_else_is_refused(change: dict[str, Any]) -> None:
    member = Member(b"file", MemberKind.FILE, mode=0o644, mtime_ns=3_000_000_007, uid=1, gid=2, size=3)
    require_reads_as(member, member, 1)
    with pytest.raises(DataLoss, match="headers just written"):
        require_reads_as(replace(member, **change), member, 1)


@pytest.mark.parametrize("content", [TEXT, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("format", WRITABLE)
def test_a_compressor_that_errs_never_reaches_the_archive(
    tmp_path: Path,
    pool: CompressorPool,
    monkeypatch: pytest.MonkeyPatch,
    format: ArchiveFormat,  # noqa: A002
    content: bytes,
) -> None:
    erred = []

    def wrong(data: bytes) -> bytes:
        """One bit of the input is flipped before it is compressed, as bad memory would."""
        if TEXT[:20] not in data:
            return data
        erred.append(1)
        at = data.index(TEXT[:20])
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    whole, part, tightly = blocks.deflate, blocks.deflate_part, blocks.deflate_tightly
    compressor = tar_writer._zstd
    monkeypatch.setattr(zip_writer, "deflate", lambda data: whole(wrong(data)))
    monkeypatch.setattr(zip_writer, "deflate_part", lambda data, *, last: part(wrong(data), last=last))
    monkeypatch.setattr(tar_writer, "deflate_tightly", lambda data: tightly(wrong(data)))

    class Faulty:
        @property
        def compressor(self) -> Any:
            return self

        def compress(self, data: bytes) -> bytes:
            packed: bytes = compressor.compressor.compress(wrong(data))
            return packed

    monkeypatch.setattr(tar_writer, "_zstd", Faulty())
    archive = Archive(tmp_path / f"a{format.suffix}", format, pool)
    with pytest.raises(DataLoss, match="unpacks to something else"):
        fill(archive, file(b"file", content))
    assert erred


@pytest.mark.parametrize("format", WRITABLE)
def test_a_header_that_errs_never_reaches_the_archive(
    tmp_path: Path,
    pool: CompressorPool,
    monkeypatch: pytest.MonkeyPatch,
    format: ArchiveFormat,  # noqa: A002
) -> None:
    tar_header, headers = tar_writer.tar_header, zip_writer._headers
    monkeypatch.setattr(tar_writer, "tar_header", lambda member: tar_header(replace(member, mode=0o600)))
    monkeypatch.setattr(
        zip_writer, "_headers", lambda member, *rest, **named: headers(replace(member, mode=0o600), *rest, **named)
    )
    archive = Archive(tmp_path / f"a{format.suffix}", format, pool)
    with pytest.raises(DataLoss, match="headers just written are wrong"):
        fill(archive, file(b"file", TEXT, mode=0o644))


@pytest.mark.parametrize("format", WRITABLE)
def test_stretches_cover_the_file_also_after_a_rollback(
    tmp_path: Path,
    pool: CompressorPool,
    format: ArchiveFormat,  # noqa: A002
) -> None:
    archive = Archive(tmp_path / f"a{format.suffix}", format, pool)
    archive.add([file(b"first", TEXT)])
    mark = archive.writer.mark()
    archive.add([file(b"large", LARGE)], stream=True)
    archive.writer.rollback(mark)
    archive.add([file(b"large", LARGE[::-1])], stream=True)
    written = archive.finish()
    with archive.path.open("rb") as stored:
        for stretch in written.stretches:
            assert zlib.crc32(stored.read(stretch.size)) == stretch.crc
        assert not stored.read()
        assert os.fstat(stored.fileno()).st_size == written.size
