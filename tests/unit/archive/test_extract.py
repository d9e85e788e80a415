"""The extractor: a restored tree equals its source, and nothing outside the folder is ever touched."""

from __future__ import annotations

import io
import os
import random
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.archive.extract import Extracted, extract
from holdfast_server.errors import DataLoss, FailedPrecondition, Reason
from holdfast_server.storage.local import remove_tree
from tests.unit.archive.samples import (
    FILE,
    TREE,
    WHEN,
    Entry,
    closing,
    directory,
    file,
    forged,
    hardlink,
    reading,
    symlink,
    tar,
    tar_gz,
)

BUILD: dict[str, Callable[[list[Entry]], bytes]] = {"ZIP": forged, "TAR_GZ": tar_gz}
both = pytest.mark.parametrize("format_name", ["ZIP", "TAR_GZ"])


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def restore(tmp_path: Path, format_name: str, data: bytes, **more: Any) -> Extracted:
    root = tmp_path / "root"
    root.mkdir(exist_ok=True)
    before = sorted(os.listdir("/proc/self/fd"))
    try:
        with reading(tmp_path, format_name, data, more.pop("limits", None)) as reader, opened(root) as fd:
            return extract(reader, fd, check=more.pop("check", lambda: None), **more)
    finally:
        assert sorted(os.listdir("/proc/self/fd")) == before


def whole(tmp_path: Path, format_name: str, entries: list[Entry], **more: Any) -> Extracted:
    return restore(tmp_path, format_name, BUILD[format_name](entries + closing(entries)), **more)


@both
def test_tree_equals_its_source(tmp_path: Path, format_name: str) -> None:
    old = os.umask(0o077)
    try:
        result = whole(tmp_path, format_name, TREE)
    finally:
        os.umask(old)
    root = os.fsencode(tmp_path / "root")
    assert sorted(os.listdir(root)) == sorted(m.path for m, _ in TREE if b"/" not in m.path)
    for member, content in TREE:
        path = os.path.join(root, member.path)
        status = os.lstat(path)
        assert status.st_mtime_ns == member.mtime_ns
        if member.kind is FILE:
            assert Path(os.fsdecode(path)).read_bytes() == content
        if member.link_target:
            assert os.readlink(path) == member.link_target
        else:
            assert stat.S_IMODE(status.st_mode) == member.mode
    assert (result.files, result.directories, result.symlinks, result.warning_count) == (4, 1, 1, 0)
    assert result.bytes == sum(len(c) for _, c in TREE)
    assert result.manifest_header is not None


@both
def test_holes_only_where_the_manifest_says_sparse(tmp_path: Path, format_name: str) -> None:
    content = bytes(1 << 20) + b"end"
    entries = [file(b"holes", content, sparse=True, mode=0o400), file(b"zeros", content, mode=0o000)]
    whole(tmp_path, format_name, entries)
    holes, zeros = os.lstat(tmp_path / "root" / "holes"), os.lstat(tmp_path / "root" / "zeros")
    assert (tmp_path / "root" / "holes").read_bytes() == content
    assert holes.st_blocks * 512 < len(content) // 2 < len(content) <= zeros.st_blocks * 512
    assert [stat.S_IMODE(s.st_mode) for s in (holes, zeros)] == [0o400, 0]
    assert holes.st_mtime_ns == zeros.st_mtime_ns == WHEN


@both
def test_file_of_zeros_only(tmp_path: Path, format_name: str) -> None:
    whole(tmp_path, format_name, [file(b"z", bytes(3 << 16), sparse=True)])
    assert (tmp_path / "root" / "z").read_bytes() == bytes(3 << 16)


def test_zip_gets_nanoseconds_from_the_manifest(tmp_path: Path) -> None:
    whole(tmp_path, "ZIP", [file(b"a", mtime_ns=WHEN + 123_456_789), symlink(b"l", b"a")])
    assert os.stat(tmp_path / "root" / "a").st_mtime_ns == WHEN + 123_456_789


@both
def test_special_bits_are_dropped_unless_asked_for(tmp_path: Path, format_name: str) -> None:
    entries = [file(b"suid", mode=0o6755), directory(b"tmp", mode=0o1777)]
    result = whole(tmp_path, format_name, entries)
    assert stat.S_IMODE(os.stat(tmp_path / "root" / "suid").st_mode) == 0o755
    assert stat.S_IMODE(os.stat(tmp_path / "root" / "tmp").st_mode) == 0o777
    assert result.warning_count == 2
    (tmp_path / "again").mkdir()
    assert whole(tmp_path / "again", format_name, entries, preserve_special_bits=True).warning_count == 0
    assert stat.S_IMODE(os.stat(tmp_path / "again" / "root" / "suid").st_mode) == 0o6755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
@both
def test_owner(tmp_path: Path, format_name: str) -> None:
    entries = [directory(b"d", uid=7, gid=8), file(b"d/f", uid=5, gid=6), symlink(b"l", b"x")]
    whole(tmp_path, format_name, entries, preserve_owner=True, preserve_special_bits=True)
    status = os.stat(tmp_path / "root" / "d" / "f")
    assert (status.st_uid, status.st_gid) == (5, 6)


@both
def test_modes_that_lock_directories(tmp_path: Path, format_name: str) -> None:
    entries = [directory(b"a", mode=0), directory(b"a/b", mode=0o111), file(b"a/b/c", mode=0)]
    whole(tmp_path, format_name, entries)
    assert stat.S_IMODE(os.stat(tmp_path / "root" / "a").st_mode) == 0


@both
def test_parents_that_come_late_or_never(tmp_path: Path, format_name: str) -> None:
    entries = [file(b"late/f"), file(b"never/g"), directory(b"late", mode=0o700, mtime_ns=5_000_000_000)]
    assert whole(tmp_path, format_name, entries).directories == 1
    late = os.stat(tmp_path / "root" / "late")
    assert (stat.S_IMODE(late.st_mode), late.st_mtime_ns) == (0o700, 5_000_000_000)
    assert stat.S_IMODE(os.stat(tmp_path / "root" / "never").st_mode) == 0o755


def test_hard_links(tmp_path: Path) -> None:
    result = whole(tmp_path, "TAR_GZ", [directory(b"d"), file(b"d/a", b"shared"), hardlink(b"b", b"d/a")])
    assert os.stat(tmp_path / "root" / "b").st_ino == os.stat(tmp_path / "root" / "d" / "a").st_ino
    assert result.hardlinks == 1


@both
def test_selection(tmp_path: Path, format_name: str) -> None:
    result = whole(tmp_path, format_name, TREE, select=lambda path: path == b"sub/a.txt")
    assert (result.files, result.directories) == (1, 0)
    assert os.listdir(tmp_path / "root") == ["sub"]
    assert os.listdir(tmp_path / "root" / "sub") == ["a.txt"]


def test_selected_hard_links_whose_file_is_not_selected(tmp_path: Path) -> None:
    entries = [file(b"a", b"shared"), directory(b"d"), hardlink(b"d/b", b"a"), hardlink(b"d/c", b"a"), file(b"e")]
    result = whole(tmp_path, "TAR_GZ", entries, select=lambda path: path.startswith(b"d"))
    assert os.listdir(tmp_path / "root") == ["d"]
    b, c = (os.stat(tmp_path / "root" / "d" / name) for name in "bc")
    assert b.st_ino == c.st_ino
    assert (tmp_path / "root" / "d" / "b").read_bytes() == b"shared"
    assert (result.files, result.hardlinks) == (1, 1)


@both
def test_colliding_names_are_all_restored(tmp_path: Path, format_name: str) -> None:
    names = ["name", "NAME", "Name", "é", "e\u0301", "ß", "ss", "\u017f", "\u212a"]
    whole(tmp_path, format_name, [file(n.encode(), n.encode()) for n in names])
    assert {(tmp_path / "root" / n).read_bytes().decode() for n in names} == set(names)


@both
def test_name_that_is_taken(tmp_path: Path, format_name: str) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "sub").mkdir()
    with pytest.raises(FailedPrecondition, match="collide") as caught:
        whole(tmp_path, format_name, TREE)
    assert caught.value.reason is Reason.ARCHIVE_INVALID


@both
@pytest.mark.parametrize(
    "entries",
    [
        [symlink(b"l", b"/tmp"), file(b"l/x")],
        [symlink(b"l", b"."), directory(b"l/d")],
        [file(b"l/x"), symlink(b"l", b"..")],
        [symlink(b"l", b"d"), symlink(b"l/m", b"..")],
        [file(b"f"), file(b"f/x")],
        [file(b"f/x"), file(b"f")],
    ],
)
def test_member_below_what_is_no_directory(tmp_path: Path, format_name: str, entries: list[Entry]) -> None:
    with pytest.raises(FailedPrecondition, match="collide") as caught:
        whole(tmp_path, format_name, entries)
    assert caught.value.reason is Reason.ARCHIVE_INVALID


@both
def test_escaping_symlinks_are_made_last_and_not_followed(tmp_path: Path, format_name: str) -> None:
    (tmp_path / "outside").mkdir()
    chain = [symlink(b"l%d" % i, b"l%d" % (i + 1)) for i in range(100)]
    whole(tmp_path, format_name, [symlink(b"up", b"../outside"), symlink(b"loop", b"loop"), *chain])
    assert os.readlink(tmp_path / "root" / "up") == "../outside"
    assert os.listdir(tmp_path / "outside") == []


@both
def test_content_that_differs_from_the_manifest(tmp_path: Path, format_name: str) -> None:
    other = [(m, c[::-1] if m.path == b"big.bin" else c) for m, c in TREE]
    with pytest.raises(DataLoss, match="SHA-256"):
        restore(tmp_path, format_name, BUILD[format_name](other + closing(TREE)))


@both
def test_check_stops_and_leaves_no_descriptor(tmp_path: Path, format_name: str) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        whole(tmp_path, format_name, TREE, check=check)


@pytest.mark.long
@both
def test_depth_5000(memory_path: Path, format_name: str) -> None:
    parts = [b"d"] * 5000
    entries = [directory(b"/".join(parts[: i + 1])) for i in range(len(parts))]
    entries.append(file(b"/".join([*parts, b"bottom"]), b"deep"))
    result = whole(memory_path, format_name, entries)
    assert result.directories == 5000
    fd = os.open(memory_path / "root", os.O_RDONLY)
    for part in parts:
        below = os.open(part, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    assert os.listdir(fd) == ["bottom"]
    assert os.fstat(fd).st_mtime_ns == WHEN
    os.close(fd)
    with opened(memory_path) as around:
        remove_tree(around, b"root")


@pytest.mark.parametrize("instead", ["nothing", "link", "directory"])
def test_directory_moved_out(tmp_path: Path, instead: str) -> None:
    entries = [directory(b"top"), file(b"top/a"), file(b"top/b"), file(b"z")]
    (tmp_path / "outside").mkdir()

    def moved(_bytes: int, _files: int, path: bytes) -> None:
        if path == b"top/a" and not (tmp_path / "outside" / "taken").exists():
            os.rename(tmp_path / "root" / "top", tmp_path / "outside" / "taken")
            if instead == "link":
                os.symlink(tmp_path / "outside", tmp_path / "root" / "top")
            elif instead == "directory":
                (tmp_path / "root" / "top").mkdir()

    with pytest.raises(FailedPrecondition) as caught:
        whole(tmp_path, "TAR_GZ", entries, on_progress=moved)
    assert caught.value.reason is Reason.FOLDER_NOT_WRITABLE
    assert os.listdir(tmp_path / "outside") == ["taken"]


def test_folders_that_appear_in_any_order(tmp_path: Path) -> None:
    """Each path shares another part of its parents with the one before it."""
    chance = random.Random(5)
    depths = [chance.randrange(1, 7) for _ in range(300)]
    names = sorted({b"/".join(chance.choices((b"a", b"aa", b"b"), k=depth)) for depth in depths})
    chance.shuffle(names)
    folders = [directory(name, mode=0o700 | chance.randrange(64)) for name in names]
    entries = [*folders, *(file(name + b"/file %d" % i) for i, name in enumerate(names))]
    result = restore(tmp_path, "TAR", tar(entries), expect_manifest=False)
    assert result.directories == len(names)
    for member, _ in entries:
        status = os.lstat(os.path.join(os.fsencode(tmp_path / "root"), member.path))
        assert stat.S_IMODE(status.st_mode) == member.mode
        assert status.st_mtime_ns == WHEN


def test_what_an_archive_holds_and_a_restore_does_not_apply_is_told_once_a_kind(tmp_path: Path) -> None:
    def info(name: str, kind: bytes = tarfile.REGTYPE, **records: str) -> tarfile.TarInfo:
        made = tarfile.TarInfo(name)
        made.type, made.pax_headers = kind, {key.replace("__", "."): value for key, value in records.items()}
        return made

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(info("a", SCHILY__xattr__user__x="1", atime="5"))
        archive.addfile(info("b", SCHILY__xattr__user__x="1", LIBARCHIVE__xattr__user__x="MQ=="))
        archive.addfile(info("pipe", tarfile.FIFOTYPE))
        archive.addfile(info("c", ACME__x="1"))
    result = restore(tmp_path, "TAR", out.getvalue(), expect_manifest=False)
    assert sorted(os.listdir(tmp_path / "root")) == ["a", "b", "c"]
    assert result.warning_count == 3
    assert result.warnings == (
        "not restored: extended attributes ('a' and 1 more)",
        "not restored: a device or FIFO ('pipe')",
        "not restored: the pax record 'ACME.x' ('c')",
    )


def test_kinds_of_what_is_left_out_are_bounded_and_those_of_the_selection(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for number in range(200):
            info = tarfile.TarInfo(f"{number}")
            info.pax_headers = {f"ACME.{number}": "x"}
            archive.addfile(info)
    result = restore(tmp_path, "TAR", out.getvalue(), expect_manifest=False)
    assert len(result.warnings) == result.warning_count == 51
    assert result.warnings[-1] == "not restored: other things of unknown kinds ('50' and 149 more)"
    (tmp_path / "root").rename(tmp_path / "first")
    some = restore(tmp_path, "TAR", out.getvalue(), expect_manifest=False, select=lambda path: path == b"7")
    assert some.warnings == ("not restored: the pax record 'ACME.7' ('7')",)


def test_a_device_slipped_into_an_archive_with_a_manifest(tmp_path: Path) -> None:
    entries = [file(b"a")]
    data = bytearray(tar([file(b"null"), *entries, *closing(entries)]))
    data[156:157] = b"3"
    data[124:136] = b"%011o\0" % 0
    del data[512:1024]
    data[148:156] = b"        "
    data[148:156] = b"%06o\0 " % sum(data[:512])
    with pytest.raises(DataLoss, match="not in the manifest: member 'null'"):
        restore(tmp_path, "TAR", bytes(data))


@pytest.mark.parametrize("name", [b"..\\x", b"a\\..\\..\\x", b"C:\\x", b"\\\\srv\\x", b"\\x"])
@both
def test_names_that_lead_out_on_windows(tmp_path: Path, format_name: str, name: bytes) -> None:
    """Refused from others; a file of the source that is called so comes back."""
    entries = [file(name), file(b"plain\\name")]
    with pytest.raises(FailedPrecondition, match="where backslashes separate folders"):
        restore(tmp_path, format_name, BUILD[format_name](entries), expect_manifest=False)
    (tmp_path / "root").rename(tmp_path / "refused")
    whole(tmp_path, format_name, entries)
    assert sorted(os.listdir(os.fsencode(tmp_path / "root"))) == sorted([name, b"plain\\name"])


@both
def test_a_directory_named_twice_has_the_later_attributes(tmp_path: Path, format_name: str) -> None:
    entries = [directory(b"d", mode=0o700), file(b"d/f"), directory(b"d", mode=0o750)]
    result = restore(tmp_path, format_name, BUILD[format_name](entries), expect_manifest=False)
    assert result.directories == 1
    assert stat.S_IMODE(os.lstat(tmp_path / "root" / "d").st_mode) == 0o750
