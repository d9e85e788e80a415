"""What the tests of both writers share: making an archive from a list of members."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import zstandard

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.manifest import ManifestEntry, ManifestReader, ManifestSpool
from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.archive.writer import ArchiveWriter, WrittenArchive, open_writer

CREATED_NS = 1_700_000_000_000_000_000
MTIME_NS = 1_600_000_001_123_456_789

WRITABLE = [f for f in ArchiveFormat if f.writable]

Item = tuple[Member, bytes]


def file(path: bytes, content: bytes, **fields: object) -> Item:
    member = Member(path, MemberKind.FILE, mtime_ns=MTIME_NS, uid=1000, gid=100, size=len(content))
    return replace(member, **fields), content  # type: ignore[arg-type]


def directory(path: bytes, **fields: object) -> Item:
    member = Member(path, MemberKind.DIRECTORY, mode=0o755, mtime_ns=MTIME_NS)
    return replace(member, **fields), b""  # type: ignore[arg-type]


def symlink(path: bytes, target: bytes) -> Item:
    return Member(path, MemberKind.SYMLINK, mode=0o777, mtime_ns=MTIME_NS, link_target=target), b""


class Archive:
    """A writer over a file of its own, with its manifest."""

    def __init__(
        self,
        path: Path,
        format: ArchiveFormat,  # noqa: A002
        pool: CompressorPool,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = path
        self.manifest = ManifestSpool({})
        self.written: list[int] = []
        self.file = path.open("x+b", buffering=0)
        self.writer: ArchiveWriter = open_writer(
            format,
            self.file,  # type: ignore[arg-type]
            pool,
            self.manifest,
            check=check,
            on_written=self.written.append,
            created_ns=CREATED_NS,
        )

    def add(self, items: Iterable[Item], *, stream: bool = False) -> None:
        for member, content in items:
            if stream and member.kind is MemberKind.FILE:
                assert self.writer.add_stream(member, cut(content)) == len(content)
            else:
                self.writer.add(member, content)

    def finish(self) -> WrittenArchive:
        result = self.writer.finish({"sources": 1})
        self.file.close()
        assert result.size == self.path.stat().st_size == self.writer.bytes_written == self.written[-1]
        return result

    def entries(self) -> list[ManifestEntry]:
        return list(ManifestReader(self.manifest.blocks()))


def cut(content: bytes, size: int = 300_000) -> Iterable[memoryview]:
    """Content through one buffer that is used again and again, as a reader would."""
    buffer = bytearray(size)
    for at in range(0, len(content), size):
        part = content[at : at + size]
        buffer[: len(part)] = part
        yield memoryview(buffer)[: len(part)]


def tar_stream(path: Path) -> bytes:
    """What a compressed tar file unpacks to, by the library of its format."""
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    with path.open("rb") as packed:
        return zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True).read()


def digests(items: Iterable[Item]) -> dict[bytes, bytes]:
    return {m.path: hashlib.sha256(c).digest() for m, c in items if m.kind is MemberKind.FILE}
