"""Archives of the tools that people have, restored by ours: the same names, bytes, modes, times and links.

What an archive carries beyond that and a restore does not apply must be told, one warning a kind.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.archive.extract import Extracted, extract
from holdfast_server.archive.reader import DETECT_SIZE, Limits, detect_format, open_reader
from holdfast_server.errors import FailedPrecondition

SECOND = 1_000_000_000
PATH_60 = "d" * 60

#: Name → content; names that every tool can write, odd ones among them.
FILES = {
    "plain.txt": b"text\n" * 400,
    "empty": b"",
    "stored.bin": bytes(range(256)) * 40,
    "caf\u00e9 \u4e2d\u6587 \U0001f512.txt": b"unicode",
    "  spaces  ": b"spaces",
    "-rf": b"looks like an option",
    "%s%n": b"percent",
    "quote'\"$(x)": b"quotes",
    "n" * 200: b"long name",
    f"{PATH_60}/{PATH_60}/{PATH_60}/deep.txt": b"long path",
    "zeros": bytes(3 << 20),
    "modes/000": b"0",
    "modes/444": b"4",
    "modes/755": b"7",
    "times/epoch": b"1970",
    "times/1999": b"odd second",
    "times/2040": b"past 2038",
}
MODES = {"modes/000": 0o000, "modes/444": 0o444, "modes/755": 0o755}
TIMES = {
    "times/epoch": 86_400 * SECOND,
    "times/1999": 946_684_799 * SECOND + 123_456_789,
    "times/2040": 2_208_988_801 * SECOND,
}
LINKS = {"link": "plain.txt", "dangling": "nowhere/at/all", "up": "../../outside"}
WHEN = 1_700_000_001 * SECOND + 987_654_321


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("foreign") / "tree"
    for name, content in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(MODES.get(name, 0o640))
        when = TIMES.get(name, WHEN)
        os.utime(path, ns=(when, when))
    (root / "empty folder").mkdir(mode=0o750)
    for name, target in LINKS.items():
        (root / name).symlink_to(target)
        os.utime(root / name, ns=(WHEN, WHEN), follow_symlinks=False)
    os.link(root / "plain.txt", root / "second-name")
    for folder, _, _ in os.walk(root):
        os.utime(folder, ns=(WHEN, WHEN))
    return root


def need(tool: str) -> str:
    path = shutil.which(tool)
    if path is None:
        pytest.skip(f"{tool} is not installed")
    return path


def run(*command: str | Path, cwd: Path, **more: Any) -> bytes:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    done = subprocess.run(
        [need(str(command[0])), *command[1:]], cwd=cwd, capture_output=True, env=environment, timeout=100, **more
    )
    assert done.returncode == 0, (command, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def restore(archive: Path, target: Path) -> Extracted:
    """With the reader that the file's first bytes ask for."""
    target.mkdir()
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with archive.open("rb") as file:
            found = detect_format(file.read(DETECT_SIZE))
            assert found is not None
            reader = open_reader(found, file, limits=Limits(), check=lambda: None)
            return extract(reader, fd, check=lambda: None, expect_manifest=False)
    finally:
        os.close(fd)


def entries(root: Path, step: int, *, mode: bool = True, links: bool = True) -> dict[str, tuple[Any, ...]]:
    """Kind, mode, time in whole steps of nanoseconds, and content or target by name."""
    found: dict[str, tuple[Any, ...]] = {}
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(folder, name)
            s = path.lstat()
            if stat.S_ISLNK(s.st_mode):
                found[str(path.relative_to(root))] = ("link", os.readlink(path))
                continue
            bits = stat.S_IMODE(s.st_mode) if mode else 0
            content = path.read_bytes() if path.is_file() else None
            found[str(path.relative_to(root))] = (
                bits,
                s.st_mtime_ns // step,
                content,
                s.st_nlink if links and content else 0,
            )
    return found


#: How each tool writes the tree; the resolution of its times in nanoseconds; whether it keeps hard links.
TOOLS: dict[str, tuple[list[str], int, bool]] = {
    "zip": (["zip", "-qry", "{out}", "."], SECOND, False),
    "zip, stored": (["zip", "-qry0", "{out}", "."], SECOND, False),
    "zip, zip64 for all": (["zip", "-qry", "-fz", "{out}", "."], SECOND, False),
    "bsdtar, zip": (["bsdtar", "-cf", "{out}", "--format=zip", "."], SECOND, False),
    "bsdtar, pax": (["bsdtar", "-cf", "{out}", "--format=pax", "."], 1, True),
    "bsdtar, restricted pax": (["bsdtar", "-czf", "{out}", "."], SECOND, True),
    "bsdtar, gnutar": (["bsdtar", "-cf", "{out}", "--format=gnutar", "."], SECOND, True),
    "tar, gnu": (["tar", "-cf", "{out}", "--format=gnu", "."], SECOND, True),
    "tar, oldgnu": (["tar", "-cf", "{out}", "--format=oldgnu", "."], SECOND, True),
    "tar, pax": (["tar", "-cf", "{out}", "--format=pax", "."], 1, True),
    "tar, pax, gzip": (["tar", "-czf", "{out}", "--format=pax", "."], 1, True),
    "tar, pax, zstd": (["tar", "--zstd", "-cf", "{out}", "--format=pax", "."], 1, True),
    "tar, a label": (["tar", "-cf", "{out}", "--format=gnu", "--label=volume", "."], SECOND, True),
    "tar, numbers only": (
        ["tar", "-cf", "{out}", "--format=gnu", "--numeric-owner", "--owner=4000000000", "."],
        SECOND,
        True,
    ),
    "7z": (["7z", "a", "-tzip", "-snl", "{out}.zip", "."], SECOND, False),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_the_tree_comes_back(tool: str, tree: Path, tmp_path: Path) -> None:
    command, step, links = TOOLS[tool]
    archive = tmp_path / ("archive.zip" if "zip" in command else "archive")
    run(*(word.replace("{out}", str(archive)) for word in command), cwd=tree)
    done = restore(archive, tmp_path / "out")
    assert not done.warnings
    assert entries(tmp_path / "out", step, links=links) == entries(tree, step, links=links)


@pytest.mark.parametrize("form", ["ustar", "v7"])
def test_old_tars(form: str, tree: Path, tmp_path: Path) -> None:
    """They keep short names only; GNU tar leaves out the rest and says so."""
    names = ["plain.txt", "second-name", "empty", "modes", "times/epoch", "link", "empty folder"]
    run("tar", "-cf", tmp_path / "archive", f"--format={form}", *names, cwd=tree)
    restore(tmp_path / "archive", tmp_path / "out")
    found, source = entries(tmp_path / "out", SECOND), entries(tree, SECOND)
    found.pop("times")
    assert found == {name: source[name] for name in [*names, *(n for n in source if n.startswith("modes/"))]}


def test_zip_through_a_pipe(tree: Path, tmp_path: Path) -> None:
    """Data descriptors; and as standard input is of unknown size, zip64 for it."""
    names = ["plain.txt", "stored.bin", "zeros", PATH_60, "modes"]
    (tmp_path / "archive").write_bytes(run("zip", "-qr", "-", *names, cwd=tree))
    restore(tmp_path / "archive", tmp_path / "out")
    found, source = (entries(root, SECOND, links=False) for root in (tmp_path / "out", tree))
    assert found == {name: entry for name, entry in source.items() if name.split("/")[0] in names}
    (tmp_path / "stdin").write_bytes(run("zip", "-q", "-", "-", cwd=tree, input=b"from a pipe" * 1000))
    restore(tmp_path / "stdin", tmp_path / "one")
    assert (tmp_path / "one" / "-").read_bytes() == b"from a pipe" * 1000


def test_python_zipfile(tree: Path, tmp_path: Path) -> None:
    """Its times are local and DOS's: from 1980 on, and in steps of two seconds."""
    with zipfile.ZipFile(tmp_path / "archive", "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
        for path in sorted(tree.rglob("*")):
            if not path.is_symlink():
                archive.write(path, path.relative_to(tree))
    restore(tmp_path / "archive", tmp_path / "out")
    found, source = (entries(root, 1 << 80, links=False) for root in (tmp_path / "out", tree))
    assert found == {name: entry for name, entry in source.items() if entry[0] != "link"}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_python_tarfile(form: int, tree: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "archive", "w:gz", format=form) as archive:
        archive.add(tree, ".")
    restore(tmp_path / "archive", tmp_path / "out")
    # Its times are floats, and so a little off.
    assert entries(tmp_path / "out", 1000 * SECOND) == entries(tree, 1000 * SECOND)


def test_git_archive(tmp_path: Path) -> None:
    """A global header with the commit's name as a comment, in tar and as the zip's comment."""
    run("git", "init", "-q", ".", cwd=tmp_path)
    (tmp_path / "file").write_bytes(b"content")
    run("git", "add", "file", cwd=tmp_path)
    run("git", "-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "-m", "m", cwd=tmp_path)
    for form in ("tar", "zip", "tar.gz"):
        run("git", "archive", f"--format={form}", "-o", f"archive.{form}", "HEAD", cwd=tmp_path)
        done = restore(tmp_path / f"archive.{form}", tmp_path / f"out-{form}")
        assert (tmp_path / f"out-{form}" / "file").read_bytes() == b"content"
        assert (done.files, done.warnings) == (1, ())


@pytest.mark.skipif(sys.platform != "linux", reason="os.setxattr is of Linux")
@pytest.mark.parametrize("tool", ["tar", "bsdtar"])
def test_extended_attributes_are_told(tool: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / "in" / name).write_bytes(b"x")
        try:
            os.setxattr(tmp_path / "in" / name, b"user.colour", b"red")
        except OSError:
            pytest.skip("the file system keeps no extended attributes")
    run(tool, "-cf", tmp_path / "archive", "--format=pax", "--xattrs", "a", "b", cwd=tmp_path / "in")
    done = restore(tmp_path / "archive", tmp_path / "out")
    assert done.files == 2
    assert done.warnings == ("not restored: extended attributes ('a' and 1 more)",)


@pytest.mark.parametrize("tool", ["tar", "bsdtar"])
def test_fifos_are_told_and_the_rest_is_restored(tool: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_bytes(b"x")
    os.mkfifo(tmp_path / "in" / "pipe")
    run(tool, "-cf", tmp_path / "archive", ".", cwd=tmp_path / "in")
    done = restore(tmp_path / "archive", tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["file"]
    assert done.warnings == ("not restored: a device or FIFO ('pipe')",)


def test_zip_keeps_a_fifo_as_a_file_of_a_special_kind(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_bytes(b"x")
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.write(tmp_path / "in" / "file", "file")
        pipe = zipfile.ZipInfo("pipe")
        pipe.create_system, pipe.external_attr = 3, (stat.S_IFIFO | 0o644) << 16
        archive.writestr(pipe, b"")
    done = restore(tmp_path / "archive", tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["file"]
    assert done.warnings == ("not restored: a device, FIFO or socket ('pipe')",)


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_sparse_members_are_refused_clearly(form: str, tmp_path: Path) -> None:
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(10 << 20)
    run("tar", "-cSf", "archive", f"--format={form}", "holes", cwd=tmp_path)
    with pytest.raises(FailedPrecondition, match="sparse tar members are not supported"):
        restore(tmp_path / "archive", tmp_path / "out")


def _zip_with(extra: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("file")
        info.extra = extra
        archive.writestr(info, b"x")
    return out.getvalue()


NTFS = struct.pack("<HHLHH3Q", 0x000A, 32, 0, 1, 24, 133_444_737_000_000_000, 1, 1)
INFO_ZIP = struct.pack("<HHB3l", 0x5455, 13, 7, 1_700_000_000, 1, 2) + struct.pack(
    "<HHBBLBL", 0x7875, 11, 1, 4, 0, 4, 0
)
ALIGNED = struct.pack("<HHH4x", 0xD935, 6, 4096)


@pytest.mark.parametrize(
    ("extra", "warnings"),
    [
        (NTFS, ()),
        (INFO_ZIP, ()),
        (ALIGNED, ()),
        (struct.pack("<HH4x", 0x4453, 4), ("not restored: a Windows access control list ('file')",)),
        (struct.pack("<HH4x", 0xBEEF, 4), ("not restored: the extra field 0xbeef ('file')",)),
    ],
)
def test_extra_fields(extra: bytes, warnings: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(_zip_with(extra))
    done = restore(tmp_path / "archive", tmp_path / "out")
    assert done.warnings == warnings
    if extra in (NTFS, INFO_ZIP):
        assert (tmp_path / "out" / "file").stat().st_mtime == (1_700_000_000 if extra == INFO_ZIP else 1_700_000_100)


def test_an_archive_unpacked_and_packed_again_by_tar(tree: Path, tmp_path: Path) -> None:
    """Appended to, deleted from, and with the same folder twice."""
    run("tar", "-cf", tmp_path / "archive", "plain.txt", "modes", cwd=tree)
    run("tar", "-rf", tmp_path / "archive", "times", "modes/", "--no-recursion", cwd=tree)
    run("tar", "--delete", "-f", tmp_path / "archive", "modes/444", cwd=tree)
    restore(tmp_path / "archive", tmp_path / "out")
    assert sorted(entries(tmp_path / "out", 1)) == ["modes", "modes/000", "modes/755", "plain.txt", "times"]
