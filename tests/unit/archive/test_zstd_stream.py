"""The strict tar.zst reader: what it reads, and one test per rule that it refuses by."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
import zstandard

from holdfast_server.archive.reader import Limits
from holdfast_server.archive.reading import BLOCK, Budget, FileSource
from holdfast_server.archive.zstd_stream import zstd_blocks
from holdfast_server.errors import DataLoss, FailedPrecondition, Reason
from tests.unit.archive.samples import TREE, file, read_all, tar

MAGIC = b"\x28\xb5\x2f\xfd"
ZEROS_BLOCK = 128 << 10


def frame(data: bytes, *, checksum: bool = True, size: bool = True) -> bytes:
    packer = zstandard.ZstdCompressor(level=3, write_checksum=checksum, write_content_size=size)
    return packer.compress(data)


def skippable(data: bytes, kind: int = 0) -> bytes:
    return struct.pack("<LL", 0x184D2A50 + kind, len(data)) + data


def block(data: bytes, *, last: bool = False, kind: int = 0, size: int | None = None) -> bytes:
    """A block: 0 raw, 1 one byte many times, 2 compressed, 3 reserved."""
    value = (len(data) if size is None else size) << 3 | kind << 1 | last
    return value.to_bytes(3, "little") + data


def forged(blocks: bytes, *, flags: int = 0, header: bytes = b"\x58") -> bytes:
    """A frame without checksum. `header` is what follows the flags; unless told otherwise a window of 2 MiB."""
    return MAGIC + bytes([flags]) + header + blocks


def table(*frames: tuple[int, int], kind: int = 0xE, flags: int = 0, magic: int = 0x8F92EAB1, count: int = -1) -> bytes:
    entries = b"".join(struct.pack("<LL", *sizes) + bytes(4 * bool(flags & 0x80)) for sizes in frames)
    return skippable(entries + struct.pack("<LBL", len(frames) if count < 0 else count, flags, magic), kind)


def in_frames(data: bytes, size: int = 50_000) -> list[tuple[bytes, int]]:
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return [(frame(part), len(part)) for part in parts]


def refused(tmp_path: Path, data: bytes, words: str, limits: Limits | None = None) -> None:
    with pytest.raises(FailedPrecondition, match=words) as caught:
        read_all(tmp_path, "TAR_ZST", data, limits)
    assert caught.value.reason is Reason.ARCHIVE_INVALID


def damaged(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(DataLoss, match=words) as caught:
        read_all(tmp_path, "TAR_ZST", data)
    assert caught.value.reason is Reason.CHECKSUM_MISMATCH


def good(tmp_path: Path, data: bytes) -> None:
    assert read_all(tmp_path, "TAR_ZST", data) == TREE_READ


TREE_READ = [(m if not m.sparse else file(m.path, c)[0], c) for m, c in TREE]
DATA = tar(TREE)


@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("size", [True, False])
def test_one_frame(tmp_path: Path, checksum: bool, size: bool) -> None:
    good(tmp_path, frame(DATA, checksum=checksum, size=size))


def test_frames_empty_frames_and_skippable_ones(tmp_path: Path) -> None:
    pieces = [packed for packed, _ in in_frames(DATA)]
    assert len(pieces) > 5
    good(tmp_path, b"".join(pieces))
    between = [frame(b""), skippable(b""), *(skippable(b"note" * 70_000, kind) for kind in range(16))]
    good(tmp_path, b"".join(b for n in range(len(pieces)) for b in (*between, pieces[n])))
    good(tmp_path, b"".join(pieces) + skippable(b"last"))


def test_seek_tables(tmp_path: Path) -> None:
    frames = in_frames(DATA)
    body, sizes = b"".join(p for p, _ in frames), [(len(p), n) for p, n in frames]
    good(tmp_path, body + table(*sizes))
    good(tmp_path, body + table(*sizes, flags=0x80))
    note = skippable(b"note")
    good(tmp_path, note + body + table((len(note), 0), *sizes))
    # Not at the end it is like any other skippable frame.
    good(tmp_path, table((1, 2)) + body + note)
    wrong = [
        table(*sizes[:-1]),
        table(*sizes, (13, 0)),
        table(*sizes, count=1),
        table(*sizes[:-1], (sizes[-1][0], sizes[-1][1] + 1)),
        table(*sizes[:-1], (sizes[-1][0] + 1, sizes[-1][1])),
        table(*reversed(sizes)),
        table(*sizes, flags=1),
        table(*sizes, flags=0x81),
        table(*sizes, kind=0xF),
        table(*sizes, magic=0x8F92EAB0),
        skippable(b"", 0xE),
        skippable(b"12345678", 0xE),
        skippable(bytes(9), 0xE),
    ]
    for false in wrong:
        refused(tmp_path, body + false, "seek table does not fit")


@pytest.mark.parametrize(
    "data", [b"", DATA, b"\x28\xb5\x2f\xfe", b"\x1f\x8b\x08\0", b"\x27\xb5\x2f\xfd", b"x", b"\x50\x2a"]
)
def test_no_zstd(tmp_path: Path, data: bytes) -> None:
    refused(tmp_path, data, "no zstd")


def test_trailing_garbage(tmp_path: Path) -> None:
    for garbage in (b"g", b"garbage", bytes(512), b"\x60\x2a\x4d\x18" + bytes(4)):
        refused(tmp_path, frame(DATA) + garbage, "belong to nothing")
    for begun in (MAGIC[:1], MAGIC[:3], MAGIC, b"\x53\x2a", b"\x5e\x2a\x4d\x18\x01"):
        damaged(tmp_path, frame(DATA) + begun, "cut off")


def test_cut_off(tmp_path: Path) -> None:
    data = frame(DATA)
    for cut in (1, 3, 4, 5, 100, len(data) // 2, len(data) - 6, len(data) - 3):
        damaged(tmp_path, data[:-cut], "cut off")
    damaged(tmp_path, frame(DATA) + skippable(b"1234")[:-1], "cut off")
    damaged(tmp_path, b"".join(p for p, _ in in_frames(DATA)[:-1]), "ends too early|without its end mark")


def test_checksum(tmp_path: Path) -> None:
    data = bytearray(frame(DATA))
    data[-1] ^= 1
    damaged(tmp_path, bytes(data), "checksum")
    raw = bytearray(MAGIC + b"\x04\x58" + block(DATA[:2048], last=True) + bytes(4))
    damaged(tmp_path, bytes(raw), "checksum")


def test_stated_size_lies(tmp_path: Path) -> None:
    for stated in (0, 99, 101, 255):
        data = forged(block(bytes(100), last=True), flags=0x20, header=bytes([stated]))
        damaged(tmp_path, data, "broken|length of a zstd frame")


def test_windows(tmp_path: Path) -> None:
    end = block(bytes(1024), last=True)
    for header, window in ((b"\x90", 256 << 20), (b"\x89", 144 << 20), (b"\xff", (1 << 41) + 7 * (1 << 38))):
        refused(tmp_path, forged(end, header=header), f"needs a window of {window} bytes")
    # A frame without a window needs all of its content.
    refused(tmp_path, forged(end, flags=0xA0, header=struct.pack("<L", 129 << 20)), f"a window of {129 << 20} bytes")
    at_most = forged(block(DATA[:1024]) + block(DATA[1024:2048]), header=b"\x88")
    damaged(tmp_path, at_most, "cut off")
    refused(tmp_path, at_most, f"a window of {128 << 20} bytes, more than the {64 << 20}", Limits(window=64 << 20))


@pytest.mark.parametrize(("flags", "number"), [(1, b"\x07"), (2, b"\x07\0"), (3, b"\x07\0\0\0")])
def test_dictionaries(tmp_path: Path, flags: int, number: bytes) -> None:
    end = block(DATA[:1024], last=True)
    refused(tmp_path, forged(end, flags=flags, header=b"\x58" + number), "needs dictionary 7")
    # Number 0 says that there is none.
    damaged(tmp_path, forged(end, flags=flags, header=b"\x58" + bytes(len(number))), "ends too early")


def test_unknown_flags(tmp_path: Path) -> None:
    for flag in (0x08, 0x10):
        refused(tmp_path, forged(block(DATA[:1024], last=True), flags=flag), "unknown flags")


def test_blocks_that_there_are_not(tmp_path: Path) -> None:
    damaged(tmp_path, forged(block(b"x", kind=3)), "no such block")
    damaged(tmp_path, forged(block(bytes(ZEROS_BLOCK + 1))), "no such block")
    damaged(tmp_path, forged(block(b"\0", kind=1, size=ZEROS_BLOCK + 1)), "no such block")
    damaged(tmp_path, forged(block(b"nonsense", kind=2, last=True)), "broken")
    # No block is larger than the window, here of 1 KiB.
    damaged(tmp_path, forged(block(bytes(2000), last=True), header=b"\0"), "broken")


def zeros(size: int) -> bytes:
    """A frame with a file of zeros in it, as small as zstd can make it."""
    data = tar([file(b"zeros", bytes(1))])
    head = data[:512][:124] + b"%011o\0" % size + data[136:148] + b"        " + data[156:512]
    head = head[:148] + b"%06o\0 " % sum(head) + head[156:]
    blocks = block(b"\0", kind=1, size=ZEROS_BLOCK) * (size // ZEROS_BLOCK)
    return forged(block(head) + blocks + block(bytes(1024), last=True))


def test_limits_while_streaming(tmp_path: Path) -> None:
    bomb = zeros(1 << 30)
    refused(tmp_path, bomb, "unpacks to more", Limits(total_bytes=8 << 20))
    refused(tmp_path, bomb, "unpacks to more", Limits(ratio=1000))
    path = tmp_path / "bomb"
    path.write_bytes(bomb)
    with path.open("rb") as opened:
        source = FileSource(opened)
        pieces = []
        blocks = zstd_blocks(source, Budget(Limits(total_bytes=8 << 20), source.size), lambda: None, 8 << 20)
        with pytest.raises(FailedPrecondition):
            pieces.extend(len(piece) for piece in blocks)
    assert max(pieces) <= BLOCK
    assert sum(pieces) <= 8 << 20


def test_zeros_are_no_bomb_by_default(tmp_path: Path) -> None:
    data = zeros(96 << 20)
    assert (96 << 20) // len(data) > 20_000
    ((member, content),) = read_all(tmp_path, "TAR_ZST", data)
    assert member.size == len(content) == 96 << 20


zstd = pytest.mark.skipif(shutil.which("zstd") is None, reason="zstd is not installed")


@zstd
@pytest.mark.parametrize(
    "options",
    [["-1"], ["-9"], ["--fast=5"], ["-T2", "-B524288"], ["--long=27"], ["--no-check"], ["--rsyncable", "-T2"]],
    ids=" ".join,
)
def test_reads_what_zstd_packs(tmp_path: Path, options: list[str]) -> None:
    # Through a pipe: the size is not known, so the window is the level's own.
    content = b"".join(b"%d bottles\n" % n for n in range(200_000))
    data = tar([*TREE, file(b"bottles", content)])
    packed = subprocess.run(["zstd", "-q", *options], input=data, stdout=subprocess.PIPE, check=True).stdout
    assert [c for _, c in read_all(tmp_path, "TAR_ZST", packed)] == [*(c for _, c in TREE), content]


@zstd
def test_a_window_over_the_limit_of_zstd(tmp_path: Path) -> None:
    packed = subprocess.run(["zstd", "-q", "-1", "--long=28"], input=DATA, stdout=subprocess.PIPE, check=True).stdout
    refused(tmp_path, packed, f"a window of {1 << 28} bytes, more than the {1 << 27} allowed")


@zstd
@pytest.mark.parametrize("tool", ["tar", "bsdtar"])
def test_reads_what_tar_packs(tmp_path: Path, tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    source = tmp_path / "source"
    source.mkdir()
    for n in range(30):
        (source / f"file {n}").write_bytes(b"%d" % n * 10_000)
    subprocess.run(
        [tool, "--zstd", "-cf", "../a.tar.zst", "--", *(f"file {n}" for n in range(30))], cwd=source, check=True
    )
    found = read_all(tmp_path, "TAR_ZST", (tmp_path / "a.tar.zst").read_bytes())
    assert [(m.path, c) for m, c in found] == [(b"file %d" % n, b"%d" % n * 10_000) for n in range(30)]
