"""Archives of a running server, read by the tools that people have: same names, same bytes, same checksums."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.v1 import backup_pb2, task_pb2
from tests.harness import Server
from tests.unit.archive.archives import tar_stream

SUMS = b"holdfast-sha256sums.txt"
MANIFEST = b"holdfast-manifest.json"
OURS = {SUMS, MANIFEST}

#: Name → content; None is a directory. Names that tools stumble over, sizes around the block size of 1 MiB.
FILES: dict[bytes, bytes | None] = {
    b"plain.txt": b"text\n" * 400,
    b"empty": b"",
    b"empty folder": None,
    b"deep": None,
    b"deep/" + b"/".join([b"d" * 60] * 4): None,
    b"deep/" + b"/".join([b"d" * 60] * 4) + b"/long-path.bin": b"far down",
    b"n" * 255: b"longest name",
    "caf\u00e9 \u4e2d\u6587 \U0001f512.txt".encode(): b"utf-8",
    "e\u0301.txt".encode(): b"decomposed",
    b"raw-\xff\xfe-latin-\xe9.txt": b"no UTF-8",
    b"new\nline": b"newline in the name",
    b"back\\slash": b"backslash in the name",
    b"carriage\rreturn": b"carriage return in the name",
    b"-rf": b"looks like an option",
    b"  spaces  ": b"spaces",
    b"star*[a]?": b"glob characters",
    b"%s%n": b"percent",
    b"quote'\"$(x)`y`": b"quotes",
    b"one-block": bytes(range(256)) * 4096,
    b"one-byte-more": bytes(range(256)) * 4096 + b"!",
    b"three-blocks.bin": hashlib.shake_256(b"noise").digest((3 << 20) + 77),
    b"zeros": bytes(2 << 20),
}
LINKS = {b"link": b"plain.txt", b"dangling": b"nowhere/at/all", b"raw-link": b"raw-\xff\xfe-latin-\xe9.txt"}

#: Info-ZIP drops these bytes from names, in archives of any maker.
UNZIP_DROPS = re.compile(rb"[\x00-\x1f\xff]")


FORMATS = {
    "zip": backup_pb2.ARCHIVE_FORMAT_ZIP,
    "tar.gz": backup_pb2.ARCHIVE_FORMAT_TAR_GZ,
    "tar.zst": backup_pb2.ARCHIVE_FORMAT_TAR_ZST,
}
tars = pytest.mark.parametrize("name", ["tar.gz", "tar.zst"])


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    root = os.fsencode(tmp_path_factory.mktemp("odd") / "tree")
    os.mkdir(root)
    for name, content in FILES.items():
        path = os.path.join(root, name)
        if content is None:
            os.makedirs(path, exist_ok=True)
            continue
        with open(path, "wb") as file:
            file.write(content)
    for name, target in LINKS.items():
        os.symlink(target, os.path.join(root, name))
    os.link(os.path.join(root, b"plain.txt"), os.path.join(root, b"second-name"))
    return root


@pytest.fixture(scope="session")
def archives(tree: bytes, shared_server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same tree in each format."""
    shared_server.register(Path(os.fsdecode(tree)), "interop-odd")
    made = {}
    for name, archive_format in FORMATS.items():
        folder = tmp_path_factory.mktemp(f"archives-{name}")
        task = shared_server.backup("interop-odd", folder, archive_format=archive_format)
        assert task.state == task_pb2.TASK_STATE_COMPLETED, task
        (made[name],) = folder.iterdir()
    return made


def contents() -> dict[bytes, bytes]:
    """What regular files must come out, the second name included."""
    files = {name: content for name, content in FILES.items() if content is not None}
    return {**files, b"second-name": files[b"plain.txt"]}


def read_back(root: bytes) -> tuple[dict[bytes, bytes], dict[bytes, bytes], set[bytes]]:
    """(files, symbolic links, directories) of an unpacked tree, without our own two files."""
    files, links, folders = {}, {}, set()
    for folder, inner, names in os.walk(root):
        for name in [*inner, *names]:
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, root)
            if os.path.islink(path):
                links[relative] = os.readlink(path)
            elif os.path.isdir(path):
                folders.add(relative)
            elif relative not in OURS:
                with open(path, "rb") as file:
                    files[relative] = file.read()
    return files, links, folders


def expected_folders() -> set[bytes]:
    found = {name for name, content in FILES.items() if content is None}
    for name in list(found):
        while name := os.path.dirname(name):
            found.add(name)
    return found


def need(tool: str) -> str:
    path = shutil.which(tool)
    if path is None:
        pytest.skip(f"{tool} is not installed")
    return path


def option(name: str) -> str:
    """How tar is told what an archive is packed with."""
    if name.endswith(".gz"):
        return "-z"
    need("zstd")
    return "--zstd"


def run(*command: str | Path | bytes, cwd: bytes | Path | None = None, **environment: str) -> bytes:
    """A tool's output; a failure shows what the tool said."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, env={**os.environ, **environment}, timeout=100)
    assert done.returncode == 0, (command, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def test_info_zip_accepts_the_archive(archives: dict[str, Path]) -> None:
    out = run(need("unzip"), "-t", archives["zip"])
    assert b"No errors detected" in out


def test_info_zip_reads_the_same_bytes(archives: dict[str, Path]) -> None:
    """`unzip -p` gives all members' content in the archive's order: that of a symbolic link is its target."""
    order = [os.fsencode(name) for name in _zip_names(archives["zip"])]
    wanted = {**contents(), **LINKS}
    with zipfile.ZipFile(archives["zip"]) as z:
        own = b"".join(z.read(info) for info in z.infolist()[-2:])
    whole = b"".join(wanted[name] for name in order if not name.endswith(b"/") and name not in OURS)
    assert run(need("unzip"), "-p", archives["zip"]) == whole + own


def test_info_zip_extracts_the_same_names(archives: dict[str, Path], tmp_path: Path) -> None:
    run(need("unzip"), "-qq", "-o", archives["zip"], "-d", tmp_path, LC_ALL="C.UTF-8")
    files, links, folders = read_back(os.fsencode(tmp_path))
    assert files == {UNZIP_DROPS.sub(b"", name): content for name, content in contents().items()}
    assert links == LINKS
    assert folders == expected_folders()


def test_python_zipfile(archives: dict[str, Path]) -> None:
    with zipfile.ZipFile(archives["zip"]) as z:
        assert z.testzip() is None
        read = {
            os.fsencode(name): z.read(info)
            for name, info in zip(_zip_names(archives["zip"]), z.infolist(), strict=True)
        }
    folders = {name.rstrip(b"/") for name in read if name.endswith(b"/")}
    assert folders == expected_folders()
    files = {name: content for name, content in read.items() if not name.endswith(b"/") and name not in OURS}
    assert files == {**contents(), **LINKS}


def _zip_names(archive: Path) -> list[str]:
    """Member names with bytes kept, as os.fsdecode gives them."""
    with zipfile.ZipFile(archive) as z:
        return [
            os.fsdecode(info.orig_filename.encode("utf-8" if info.flag_bits & 1 << 11 else "cp437"))
            for info in z.infolist()
        ]


@tars
def test_python_tarfile(name: str, archives: dict[str, Path]) -> None:
    files, links, folders = {}, {}, set()
    with tarfile.open(fileobj=io.BytesIO(tar_stream(archives[name]))) as t:
        for member in t:
            path = os.fsencode(member.name)
            if member.isdir():
                folders.add(path)
            elif member.issym():
                links[path] = os.fsencode(member.linkname)
            elif path not in OURS:
                content = t.extractfile(member)
                assert content is not None
                files[path] = content.read()
    assert files == contents()
    assert links == LINKS
    assert folders == expected_folders()


@tars
@pytest.mark.parametrize("tool", ["tar", "bsdtar"])
def test_tar_lists_the_archive(tool: str, name: str, archives: dict[str, Path]) -> None:
    """Both escape control characters and backslashes in a list; the rest stands there as it is."""
    out = run(need(tool), "-t", option(name), "-f", archives[name])
    listed = {line.rstrip(b"/") for line in out.split(b"\n")}
    wanted = {*contents(), *LINKS, *expected_folders(), *OURS}
    assert len(listed) > len(wanted)
    assert {name for name in wanted if not re.search(rb"[^\x20-\x5b\x5d-\x7e]", name)} <= listed


@tars
@pytest.mark.parametrize("tool", ["tar", "bsdtar"])
def test_tar_extracts_the_same_tree(tool: str, name: str, archives: dict[str, Path], tmp_path: Path) -> None:
    run(need(tool), "-x", option(name), "-f", archives[name], "-C", tmp_path)
    files, links, folders = read_back(os.fsencode(tmp_path))
    assert files == contents()
    assert links == LINKS
    assert folders == expected_folders()
    assert os.path.samefile(tmp_path / "second-name", tmp_path / "plain.txt")


def test_bsdtar_reads_the_zip(archives: dict[str, Path], tmp_path: Path) -> None:
    """It takes a backslash in a zip for a slash, and composes what is marked as UTF-8; nothing else may differ."""
    run(need("bsdtar"), "xf", archives["zip"], "-C", tmp_path, LC_ALL="C.UTF-8")
    files, links, folders = read_back(os.fsencode(tmp_path))
    composed = {"e\u0301.txt".encode(): "\u00e9.txt".encode(), b"back\\slash": b"back/slash"}
    assert files == {composed.get(name, name): content for name, content in contents().items()}
    assert links == LINKS
    assert folders == {*expected_folders(), b"back"}


def _unpack_zip(archive: Path, target: Path) -> None:
    run(need("unzip"), "-qq", "-o", archive, "-d", target, LC_ALL="C.UTF-8")


def _unpack_tar(archive: Path, target: Path) -> None:
    run(need("tar"), "-x", option(archive.name), "-f", archive, "-C", target)


def test_checksums_after_tar(archives: dict[str, Path], tmp_path: Path) -> None:
    """Every name, odd ones escaped as coreutils do it."""
    _unpack_tar(archives["tar.gz"], tmp_path)
    out = run(need("sha256sum"), "--strict", "-c", os.fsdecode(SUMS), cwd=tmp_path)
    verdicts = out.removesuffix(b"\n").split(b"\n")
    assert len(verdicts) == len(contents()) - 1, "a hard link is a further name, no further file"
    assert all(line.endswith(b": OK") for line in verdicts)


@pytest.mark.parametrize(("name", "unpack"), [("zip", _unpack_zip), ("tar.gz", _unpack_tar), ("tar.zst", _unpack_tar)])
def test_checksums_of_an_everyday_tree(
    name: str,
    unpack: Callable[[Path, Path], None],
    shared_server: Server,
    tmp_path: Path,
) -> None:
    """Names that both tools keep: the list fits as it is."""
    source, folder, target = tmp_path / "source", tmp_path / "archives", tmp_path / "out"
    for path in (source, folder, target):
        path.mkdir()
    for number in range(50):
        (source / f"d{number % 5}").mkdir(exist_ok=True)
        (source / f"d{number % 5}" / f"caf\u00e9 {number}.txt").write_bytes(b"%d\n" % number * number * 100)
    shared_server.register(source, f"interop-plain-{name}")
    task = shared_server.backup(f"interop-plain-{name}", folder, archive_format=FORMATS[name])
    assert task.state == task_pb2.TASK_STATE_COMPLETED, task
    (archive,) = folder.iterdir()
    unpack(archive, target)
    out = run(need("sha256sum"), "--strict", "-c", os.fsdecode(SUMS), cwd=target)
    assert out.count(b": OK\n") == 50
