"""Any tree goes through each writer and comes out of every common tool with the same names and bytes."""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast_server.archive.blocks import BLOCK
from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.archive.pool import CompressorPool
from tests.unit.archive.archives import Archive, Item, digests, tar_stream

ODD = [b"new\nline", b"esc\x1b[31m", b"raw\xff\xfe", b"n" * 255, b"dots...", b"-rf", b"back\\slash", b"  lead", b"%s"]
ODD += [
    "\u202egnp.exe".encode(),
    "e\u0301".encode(),
    b"trail ",
    b"CON",
    b"holdfast-manifest.json",
    b"t\tab",
    b"...",
    b"~",
]
NOISE = random.Random(3).randbytes(3 * BLOCK)
SIZES = [0, 1, 2, 511, 512, 513, 8191, 8192, 8193, 65535, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 77]

names = st.one_of(st.sampled_from(ODD), st.binary(min_size=1, max_size=12)).map(
    lambda n: n.replace(b"/", b"_").replace(b"\0", b"_")
)
components = names.filter(lambda n: n not in (b".", b".."))
contents = st.tuples(st.one_of(st.sampled_from(SIZES), st.integers(0, 3000)), st.integers(0, 2)).map(
    lambda p: [NOISE, bytes(3 * BLOCK), b"abcdefgh \n" * 400_000][p[1]][: p[0]]
)
times = st.one_of(st.integers(0, 2**31 * 10**9), st.integers(-(10**18), 2**34 * 10**9))


@st.composite
def trees(draw: st.DrawFn) -> list[Item]:
    """Members in a legal order: folders before what they hold, hard links after their target."""
    items: list[Item] = []
    folders, files, taken = [b""], [], set()
    for _ in range(draw(st.integers(0, 12))):
        path = draw(st.sampled_from(folders)) + draw(components)
        if path in taken:
            continue
        taken.add(path)
        mode, mtime, owner = (
            draw(st.integers(0, 0o7777)),
            draw(times),
            draw(st.sampled_from([0, 1000, 2**21, 2**32 - 2])),
        )
        kind = draw(st.sampled_from(MemberKind))
        if kind is MemberKind.DIRECTORY:
            folders.append(path + b"/")
            items.append((Member(path, kind, mode, mtime, owner, owner), b""))
        elif kind is MemberKind.SYMLINK:
            target = draw(st.one_of(components, st.just(b"../" * 60)))
            items.append((Member(path, kind, 0o777, mtime, owner, owner, link_target=target), b""))
        elif kind is MemberKind.HARDLINK and files:
            items.append((Member(path, kind, mode, mtime, owner, owner, link_target=draw(st.sampled_from(files))), b""))
        else:
            content = draw(contents)
            files.append(path)
            items.append((Member(path, MemberKind.FILE, mode, mtime, owner, owner, len(content)), content))
    return items


@pytest.fixture(scope="module")
def pool() -> Iterator[CompressorPool]:
    pool = CompressorPool(threads=2, memory_limit=8 << 20)
    yield pool
    assert pool.held == pool.running == 0
    pool.close()


def write(folder: str, format: ArchiveFormat, pool: CompressorPool, items: list[Item], stream: bool) -> Path:  # noqa: A002
    archive = Archive(Path(folder) / f"a{format.suffix}", format, pool)
    archive.add(items, stream=stream)
    archive.finish()
    assert [e.member for e in archive.entries()] == [m for m, _ in items]
    assert {e.member.path: e.sha256 for e in archive.entries() if e.sha256} == digests(items)
    return archive.path


RUN = settings(deadline=None, suppress_health_check=list(HealthCheck))


@RUN
@given(items=trees(), stream=st.booleans())
def test_zip(pool: CompressorPool, items: list[Item], stream: bool) -> None:
    items = [i for i in items if i[0].kind is not MemberKind.HARDLINK]
    with tempfile.TemporaryDirectory() as folder:
        path = write(folder, ArchiveFormat.ZIP, pool, items, stream)
        with zipfile.ZipFile(path) as z:
            infos = z.infolist()
            read = [
                (
                    i.orig_filename.encode("utf-8" if i.flag_bits & 1 << 11 else "cp437"),
                    i.external_attr >> 16,
                    z.read(i),
                )
                for i in infos[:-2]
            ]
        slash = {MemberKind.DIRECTORY: b"/"}
        type_bits = {MemberKind.DIRECTORY: 0o040000, MemberKind.SYMLINK: 0o120000, MemberKind.FILE: 0o100000}
        assert read == [
            (m.path + slash.get(m.kind, b""), type_bits[m.kind] | m.mode, m.link_target or c) for m, c in items
        ]
        subprocess.run(["unzip", "-tqq", path], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("format", [ArchiveFormat.TAR_GZ, ArchiveFormat.TAR_ZST])
@RUN
@given(items=trees(), stream=st.booleans())
def test_tar(pool: CompressorPool, format: ArchiveFormat, items: list[Item], stream: bool) -> None:  # noqa: A002
    with tempfile.TemporaryDirectory() as folder:
        path = write(folder, format, pool, items, stream)
        with tarfile.open(fileobj=io.BytesIO(tar_stream(path))) as t:
            infos = t.getmembers()[:-2]
            types = {tarfile.DIRTYPE: "directory", tarfile.SYMTYPE: "symlink", tarfile.LNKTYPE: "hardlink"}
            for info, (member, content) in zip(infos, items, strict=True):
                assert os.fsencode(info.name) == member.path
                assert types.get(info.type, "file") == member.kind
                assert os.fsencode(info.linkname) == member.link_target
                assert (info.mode, info.uid, info.gid) == (member.mode, member.uid, member.gid)
                if member.kind is MemberKind.FILE:
                    stream_ = t.extractfile(info)
                    assert stream_ is not None
                    assert stream_.read() == content
        for tool in ("tar", "bsdtar") if format is ArchiveFormat.TAR_GZ or shutil.which("zstd") else ():
            if shutil.which(tool):
                # --to-stdout (-O) gives the bytes of all files, in order.
                out = subprocess.run([tool, "-xOf", path], check=True, capture_output=True)
                whole = b"".join(c for _, c in items)
                assert out.stdout.startswith(whole)
