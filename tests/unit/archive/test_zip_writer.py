"""The zip writer, as common tools and the specification see it."""

from __future__ import annotations

import random
import stat
import struct
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_server.archive import base_writer, blocks, zip_writer
from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.archive.writer import MemberNotRepresentable
from holdfast_server.errors import Cancelled, FailedPrecondition
from tests.unit.archive.archives import (
    CREATED_NS,
    MTIME_NS,
    WRITABLE,
    Archive,
    Item,
    cut,
    digests,
    directory,
    file,
    symlink,
)

NOISE = random.Random(1).randbytes(3 << 20)
TEXT = b"".join(b"line %d of some text that deflate likes\n" % n for n in range(90_000))


@pytest.fixture(scope="module")
def pool() -> Iterator[CompressorPool]:
    pool = CompressorPool(threads=2)
    yield pool
    assert pool.held == pool.running == 0
    pool.close()


@pytest.fixture
def archive(tmp_path: Path, pool: CompressorPool) -> Iterator[Archive]:
    archive = Archive(tmp_path / "a.zip", ArchiveFormat.ZIP, pool)
    yield archive
    archive.writer.abort()
    archive.file.close()


def raw_name(info: zipfile.ZipInfo) -> bytes:
    return info.orig_filename.encode("utf-8" if info.flag_bits & zip_writer.FLAG_UTF8 else "cp437")


def contents(path: Path) -> dict[bytes, bytes]:
    with zipfile.ZipFile(path) as z:
        return {raw_name(info): z.read(info) for info in z.infolist()}


def sample() -> list[Item]:
    return [
        directory(b"d"),
        file(b"d/empty", b""),
        file(b"d/one", b"1"),
        file(b"text", TEXT, mode=0o4755),
        file(b"noise", NOISE),
        file(b"exact", NOISE[: blocks.BLOCK]),
        file(b"small noise", NOISE[:1000]),
        symlink(b"link", b"../else/where"),
        file("gr\u00fc\u00df".encode(), b"utf-8"),
        file(b"raw\xff\xfe", b"bytes"),
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_members_come_out_as_they_went_in(archive: Archive, stream: bool) -> None:
    items = sample()
    archive.add(items, stream=stream)
    result = archive.finish()
    read = contents(archive.path)
    for member, content in items:
        name = member.path + b"/" if member.kind is MemberKind.DIRECTORY else member.path
        assert read[name] == (content or member.link_target)
    assert list(read)[-2:] == [b"holdfast-sha256sums.txt", b"holdfast-manifest.json"]
    assert read[result.manifest_name] == b"".join(archive.manifest.blocks())
    assert {e.member.path: e.sha256 for e in archive.entries() if e.sha256} == digests(items)
    assert [e.member for e in archive.entries()] == [m for m, _ in items]
    assert (result.members, result.files) == (10, 8)
    assert result.bytes_in == sum(len(c) for _, c in items)
    subprocess.run(["unzip", "-tqq", archive.path], check=True)


def test_attributes(archive: Archive) -> None:
    archive.add(sample())
    archive.finish()
    with zipfile.ZipFile(archive.path) as z:
        infos = {raw_name(info): info for info in z.infolist()}
    text, link, folder = infos[b"text"], infos[b"link"], infos[b"d/"]
    assert text.create_system == 3
    assert text.external_attr >> 16 == stat.S_IFREG | 0o4755
    assert link.external_attr >> 16 == stat.S_IFLNK | 0o777
    assert folder.external_attr == (stat.S_IFDIR | 0o755) << 16 | 0x10
    seconds = MTIME_NS // 10**9
    assert text.extra == struct.pack("<HHBlHHBBLBL", 0x5455, 5, 1, seconds, 0x7875, 11, 1, 4, 1000, 4, 100)
    assert text.date_time == (*time.gmtime(seconds)[:5], seconds % 60 // 2 * 2)
    assert infos["grüß".encode()].flag_bits == zip_writer.FLAG_UTF8
    streamed = {n for n, i in infos.items() if i.flag_bits & zip_writer.FLAG_DESCRIPTOR}
    assert streamed == {n for n, i in infos.items() if i.file_size > blocks.BLOCK}
    rest = {i.flag_bits for n, i in infos.items() if n not in streamed and (n.isascii() or n.startswith(b"raw"))}
    assert rest == {0}
    assert infos[b"small noise"].compress_type == zipfile.ZIP_STORED
    manifest = infos[b"holdfast-manifest.json"]
    assert manifest.external_attr >> 16 == stat.S_IFREG | 0o600
    assert manifest.extra[5:9] == struct.pack("<l", CREATED_NS // 10**9)


def test_local_headers_agree_with_the_directory_and_leave_no_gap(archive: Archive) -> None:
    archive.add(sample())
    archive.finish()
    data = archive.path.read_bytes()
    with zipfile.ZipFile(archive.path) as z:
        infos, start = z.infolist(), z.start_dir
    at = 0
    for info in infos:
        fields = struct.unpack_from("<LHHHHHLLLHH", data, at)
        assert info.header_offset == at
        assert fields[:3] == (0x04034B50, info.extract_version, info.flag_bits)
        assert fields[3] == info.compress_type
        sums = (info.CRC, info.compress_size, info.file_size)
        streamed = info.flag_bits & zip_writer.FLAG_DESCRIPTOR
        assert fields[6:9] == ((0, 0, 0) if streamed else sums)
        name_end = at + 30 + fields[9]
        assert data[at + 30 : name_end] == raw_name(info)
        assert data[name_end : name_end + fields[10]] == info.extra
        at = name_end + fields[10] + info.compress_size
        if streamed:
            assert struct.unpack_from("<4L", data, at) == (0x08074B50, *sums)
            at += 16
    assert at == start


@pytest.mark.parametrize("seconds", [-(2**31) - 1, -1, 0, 315532799, 2**31 - 1, 2**31, 4354819199, 4354819200, 10**13])
def test_times_outside_a_field_are_clamped_or_left_out(archive: Archive, seconds: int) -> None:
    archive.add([file(b"f", b"x", mtime_ns=seconds * 10**9 + 5)])
    archive.finish()
    with zipfile.ZipFile(archive.path) as z:
        info = z.infolist()[0]
    assert 1980 <= info.date_time[0] <= 2107
    if 315532800 <= seconds < 4354819200:
        assert info.date_time[:5] == time.gmtime(seconds)[:5]
    has_time = info.extra.startswith(b"UT")
    assert has_time == (-(2**31) <= seconds < 2**31)
    if has_time:
        assert struct.unpack_from("<l", info.extra, 5)[0] == seconds


def test_what_zip_cannot_hold_is_refused_before_anything_happens(archive: Archive) -> None:
    archive.add([file(b"before", b"1")])
    with pytest.raises(MemberNotRepresentable):
        archive.writer.add(*file(b"x" * 65_535, b""))
    with pytest.raises(MemberNotRepresentable):
        archive.writer.add_stream(file(b"x/" * 33_000 + b"x", b"abc")[0], [b"abc"])
    with pytest.raises(ValueError, match="hard links"):
        archive.writer.add(Member(b"h", MemberKind.HARDLINK, link_target=b"before"))
    with pytest.raises(ValueError, match="disagree"):
        archive.writer.add(file(b"f", b"12")[0], b"1")
    longest = b"/".join([b"y" * 254] * 257)[:65_534]
    archive.add([file(longest, b"2")])
    archive.finish()
    assert contents(archive.path)[longest] == b"2"
    assert [e.member.path for e in archive.entries()] == [b"before", longest]


def test_what_the_reader_would_refuse_is_never_written(archive: Archive) -> None:
    archive.add([file(b"y" * 256, b"2")])
    with pytest.raises(FailedPrecondition, match="longer than 255"):
        archive.finish()


@pytest.mark.parametrize("given", [0, 5, blocks.BLOCK, 2 * blocks.BLOCK + 7])
def test_a_file_that_ends_early_is_padded_with_zeros(archive: Archive, given: int) -> None:
    size = 3 * blocks.BLOCK + 11
    member = Member(b"short", MemberKind.FILE, size=size)
    assert archive.writer.add_stream(member, cut(NOISE[:given])) == given
    archive.finish()
    assert contents(archive.path)[b"short"] == NOISE[:given] + bytes(size - given)


def test_bytes_beyond_the_size_are_never_taken(archive: Archive) -> None:
    source = iter([NOISE[:700_000], NOISE[700_000:1_400_000], NOISE[1_400_000:]])
    member = Member(b"grew", MemberKind.FILE, size=1_200_000)
    assert archive.writer.add_stream(member, source, changed=lambda: True) == 1_200_000
    assert len(list(source)) == 1
    archive.finish()
    assert contents(archive.path)[b"grew"] == NOISE[:1_200_000]
    assert archive.entries()[0].changed


def test_the_closing_members_give_way_to_names_of_the_source(archive: Archive) -> None:
    archive.add([file(b"holdfast-manifest.json", b"{}"), file(b"holdfast-manifest-2.json", b"{}")])
    archive.add([directory(b"holdfast-sha256sums.txt"), file(b"sub/holdfast-manifest-3.json", b"")])
    result = archive.finish()
    assert (result.manifest_name, result.sums_name) == (b"holdfast-manifest-3.json", b"holdfast-sha256sums-2.txt")


def test_rollback_takes_the_member_out_of_file_and_manifest(
    archive: Archive, tmp_path: Path, pool: CompressorPool
) -> None:
    def write(archive: Archive, tries: list[bytes]) -> bytes:
        archive.add([file(b"a", TEXT[:1000]), file(b"b", TEXT)])
        mark = archive.writer.mark()
        for content in tries:
            archive.add([file(b"holdfast-manifest.json", content)], stream=True)
            if content is not tries[-1]:
                archive.writer.rollback(mark)
        archive.add([file(b"c", b"3")])
        with pytest.raises(ValueError, match="expired"):
            archive.writer.rollback(mark)
        archive.finish()
        return archive.path.read_bytes()

    other = Archive(tmp_path / "b.zip", ArchiveFormat.ZIP, pool)
    assert write(archive, [NOISE, TEXT + TEXT, b"small", TEXT]) == write(other, [TEXT])
    assert [e.member.path for e in archive.entries()] == [b"a", b"b", b"holdfast-manifest.json", b"c"]


def test_a_last_member_rolled_back_is_gone(archive: Archive) -> None:
    archive.add([file(b"a", b"1")])
    mark = archive.writer.mark()
    archive.add([file(b"holdfast-manifest.json", NOISE)])
    archive.writer.rollback(mark)
    assert archive.finish().manifest_name == b"holdfast-manifest.json"
    assert list(contents(archive.path)) == [b"a", b"holdfast-sha256sums.txt", b"holdfast-manifest.json"]


def test_a_source_that_fails_can_be_rolled_back(archive: Archive) -> None:
    def broken() -> Iterator[bytes]:
        yield NOISE[: 1 << 20]
        raise OSError(5, "gone")

    archive.add([file(b"a", b"1")])
    mark = archive.writer.mark()
    with pytest.raises(OSError, match="gone"):
        archive.writer.add_stream(Member(b"b", MemberKind.FILE, size=5 << 20), broken())
    with pytest.raises(RuntimeError, match="incomplete"):
        archive.writer.add(*file(b"c", b"1"))
    archive.writer.rollback(mark)
    archive.add([file(b"c", TEXT)])
    archive.finish()
    assert list(contents(archive.path))[:2] == [b"a", b"c"]
    subprocess.run(["unzip", "-tqq", archive.path], check=True)


def test_cancel_leaves_no_thread_busy_and_no_memory_held(tmp_path: Path) -> None:
    pool = CompressorPool(threads=2)
    for format in WRITABLE:  # noqa: A001
        cancelled = threading.Event()
        asked: list[int] = []

        def check(cancelled: threading.Event = cancelled) -> None:
            if cancelled.is_set():
                raise Cancelled

        def source(cancelled: threading.Event = cancelled, asked: list[int] = asked) -> Iterator[bytes]:
            for n in range(1000):
                asked.append(n)
                if n == 20:
                    cancelled.set()
                yield NOISE

        archive = Archive(tmp_path / f"a{format.suffix}", format, pool, check)
        with pytest.raises(Cancelled):
            archive.writer.add_stream(Member(b"big", MemberKind.FILE, size=1 << 40), source())
        archive.writer.abort()
        assert asked[-1] == 20
        assert pool.held == pool.running == 0
        with pytest.raises(RuntimeError):
            archive.writer.add(*file(b"x", b""))
        archive.file.close()
    pool.close()


def test_a_full_disk_is_an_oserror(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(archive.writer, "_file", full)
        with pytest.raises(OSError, match="No space"):
            archive.writer.add(*file(b"a", NOISE))
    archive.writer.abort()


def test_more_than_65535_members_need_zip64(archive: Archive) -> None:
    count = 66_000
    for n in range(count):
        archive.writer.add(Member(b"%d" % n, MemberKind.FILE))
    archive.finish()
    with zipfile.ZipFile(archive.path) as z:
        assert len(z.infolist()) == count + 2
    subprocess.run(["unzip", "-tqq", archive.path], check=True)
    assert struct.pack("<L", zip_writer.ZIP64_END_SIGNATURE) in archive.path.read_bytes()[-200:]


def test_small_archives_use_no_zip64(archive: Archive) -> None:
    archive.add(sample())
    archive.finish()
    data = archive.path.read_bytes()
    assert struct.pack("<L", zip_writer.ZIP64_LOCATOR_SIGNATURE) != data[-42:-38]
    with zipfile.ZipFile(archive.path) as z:
        assert {info.extract_version for info in z.infolist()} == {20}


def test_a_large_file_and_what_follows_it_use_zip64(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    # Four true gibibytes take eight seconds; the tools look at the fields, not at the size.
    monkeypatch.setattr(zip_writer, "wide_from", 2 << 20)
    size = len(NOISE)
    archive.add([file(b"big", NOISE), file(b"after", b"x")])
    archive.finish()
    with zipfile.ZipFile(archive.path) as z:
        big, after = z.getinfo("big"), z.getinfo("after")
        assert (big.file_size, big.extract_version, after.extract_version) == (size, 45, 45)
        assert big.extra[:4] == struct.pack("<HH", 1, 16)
        assert after.extra[:4] == struct.pack("<HH", 1, 8)
        assert (z.read("big"), z.read("after")) == (NOISE, b"x")
    local = archive.path.read_bytes()[:70]
    assert struct.unpack_from("<LLHH", local, 18)[:2] == (0xFFFFFFFF, 0xFFFFFFFF)
    assert local[33:53] == struct.pack("<HHQQ", 1, 16, 0, 0)
    descriptor = archive.path.read_bytes()[after.header_offset - 24 : after.header_offset]
    assert descriptor == struct.pack("<2L2Q", 0x08074B50, big.CRC, big.compress_size, size)
    subprocess.run(["unzip", "-tqq", archive.path], check=True)


def test_offsets_over_the_limit_need_zip64(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    # The limit is where the tools look for it, so what they read must be no smaller; a hole in the file does that.
    archive.add([file(b"first", b"1")])
    archive.writer._flush()
    archive.writer._jobs.drain()
    hole = (4 << 30) + 1000
    archive.file.seek(hole)
    monkeypatch.setattr(archive.writer, "_position", hole)
    archive.add([file(b"second", b"2"), file(b"third", TEXT)])
    archive.finish()
    with zipfile.ZipFile(archive.path) as z:
        assert z.getinfo("second").header_offset == hole
        assert (z.read("first"), z.read("second"), z.read("third")) == (b"1", b"2", TEXT)
        assert z.getinfo("first").extract_version == 20


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    made = []
    for threads in (1, 3):
        pool = CompressorPool(threads=threads, memory_limit=3 << 20)
        for format in WRITABLE:  # noqa: A001
            archive = Archive(tmp_path / f"{threads}{format.suffix}", format, pool)
            archive.add(sample())
            archive.finish()
            made.append(archive.path.read_bytes())
        pool.close()
    assert made[:3] == made[3:]


def test_no_deflate_stream_outgrows_its_bound() -> None:
    for content in (NOISE, NOISE[: blocks.BLOCK + 1], NOISE[: 2 * blocks.BLOCK]):
        cuts = [content[at : at + blocks.BLOCK] for at in range(0, len(content), blocks.BLOCK)]
        packed = sum(len(zip_writer._deflate_block(cut, last=n == len(cuts) - 1)) for n, cut in enumerate(cuts))
        assert len(content) < packed <= zip_writer._bound(len(content))
    assert base_writer.BLOCK == blocks.BLOCK


def test_extraction_by_info_zip(archive: Archive, tmp_path: Path) -> None:
    names = [b"new\nline", b"esc\x1b[31m", b"-rf", b"back\\slash", b" lead", b"dots...", b"n" * 255, "zß".encode()]
    archive.add([file(name, b"of " + name) for name in names])
    archive.add([symlink(b"link", b"-rf")])
    archive.finish()
    out = tmp_path / "out"
    # -^ keeps control characters in names, which unzip drops otherwise.
    subprocess.run(["unzip", "-^", "-qq", archive.path, "-d", out], check=True, env={"LC_ALL": "C.UTF-8"})
    found = {p: (Path(out) / p.decode(errors="surrogateescape")) for p in names}
    assert {n: p.read_bytes() for n, p in found.items()} == {n: b"of " + n for n in names}
    assert (out / "link").readlink() == Path("-rf")
    stat_result = (out / "-rf").stat()
    assert (int(stat_result.st_mtime), stat_result.st_mode & 0o777) == (MTIME_NS // 10**9, 0o644)
    check = subprocess.run(
        ["sha256sum", "-c", "--quiet", "holdfast-sha256sums.txt"], cwd=out, check=False, capture_output=True
    )
    assert check.returncode == 0, check.stderr


def test_what_is_nested_too_deep_for_the_reader_is_refused_before_anything_happens(archive: Archive) -> None:
    with pytest.raises(MemberNotRepresentable, match="nested deeper than 10,000"):
        archive.writer.add(*file(b"y/" * 10_000 + b"y", b""))
    deepest = b"y/" * 9_999 + b"y"
    archive.add([file(deepest, b"2")])
    archive.finish()
    assert contents(archive.path)[deepest] == b"2"
