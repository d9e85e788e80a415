"""Any tree on a disk, backed up and restored by the core, comes back as it was, as far as its format keeps it.

The stated subset (docs/format.md): names as bytes, kinds, content, modes without set-id bits, times to the nanosecond
from the manifest, link targets, hard links in tar; holes come back as holes.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast_server.archive.extract import ignore
from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.archive.reader import Limits, open_reader
from holdfast_server.core.archive_file import ProvedArchive
from holdfast_server.core.backup import ArchivePlan, write_archive
from holdfast_server.core.control import Control, Problem, Progress
from holdfast_server.core.restore import Unpacking, apply_staging, extract_to_staging
from holdfast_server.core.source_job import scan_source
from holdfast_server.core.verify import StoredArchive, VerifyLevel, open_archive, verify_stored
from holdfast_server.storage.folder import OpenFolder
from tests.unit.archive.archives import WRITABLE

SPECIAL = st.sampled_from(
    [
        *(b"new\nline", b"esc\x1b[31m", b"raw\xff\xfe", b"n" * 255, b"dots...", b"-rf", b"back\\slash", b"  lead"),
        *(b"%s", b"~", b"CON", b"holdfast-manifest.json", b"holdfast-sha256sums.txt"),
        *("e\u0301".encode(), "\u202egnp.exe".encode()),
    ]
)
NAMES = st.one_of(SPECIAL, st.binary(min_size=1, max_size=10)).map(
    lambda name: name.replace(b"/", b"_").replace(b"\0", b"_") if name not in (b".", b"..") else b"dot"
)
SIZES = st.sampled_from([0, 1, 511, 512, 513, 4096, 65_537, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (3 << 20) + 5])
TIMES = st.integers(-(10**9) * 10**9, 2**33 * 10**9)


@dataclass
class Node:
    """One entry to make. `links` makes a second name of the file beside it."""

    kind: str
    name: bytes
    mode: int
    mtime_ns: int
    size: int = 0
    seed: int = 0
    target: bytes = b""
    links: bool = False
    children: list[Node] = field(default_factory=list)


def nodes() -> st.SearchStrategy[list[Node]]:
    modes = st.integers(0, 0o777).map(lambda mode: mode | 0o400)
    file = st.builds(
        Node, st.sampled_from(["file", "sparse"]), NAMES, modes, TIMES, SIZES, st.integers(0, 255), links=st.booleans()
    )
    link = st.builds(
        Node, st.just("link"), NAMES, st.just(0o777), TIMES, target=st.one_of(NAMES, st.just(b"../../etc"))
    )
    leaf = st.one_of(file, link)

    def folders(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
        below = st.lists(children, max_size=4)
        return st.builds(Node, st.just("folder"), NAMES, modes.map(lambda m: m | 0o700), TIMES, children=below)

    return st.lists(st.recursive(leaf, folders, max_leaves=12), max_size=6)


def make(parent: bytes, found: list[Node]) -> None:
    for node in found:
        path = parent + b"/" + node.name
        if os.path.lexists(path):
            continue
        if node.kind == "folder":
            os.mkdir(path)
            make(path, node.children)
        elif node.kind == "link":
            os.symlink(node.target, path)
        else:
            write(path, node)
            if node.links and len(node.name) < 250 and not os.path.lexists(path + b".link"):
                os.link(path, path + b".link")
        if node.kind != "link":
            os.chmod(path, node.mode)
        os.utime(path, ns=(node.mtime_ns, node.mtime_ns), follow_symlinks=False)
    root_time = 1_600_000_000_123_456_789
    os.utime(parent, ns=(root_time, root_time))


def write(path: bytes, node: Node) -> None:
    with open(path, "wb") as file:
        if node.kind == "sparse":
            file.truncate(node.size)
            if node.size:
                file.seek(node.size // 2)
                file.write(b"x")
                file.truncate(node.size)
        else:
            file.write(bytes((node.seed + i * i) & 255 for i in range(min(node.size, 997))) * (node.size // 997 + 1))
            file.truncate(node.size)


def describe(root: bytes, *, with_links: bool) -> dict[bytes, tuple[object, ...]]:
    """Everything that must come back, by path."""
    found: dict[bytes, tuple[object, ...]] = {}
    first_names: dict[int, bytes] = {}
    for folder, folders, files in os.walk(root):
        for name in sorted([*folders, *files]):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            relative = os.path.relpath(path, root)
            common = (stat.S_IFMT(status.st_mode), status.st_mtime_ns)
            if stat.S_ISLNK(status.st_mode):
                found[relative] = (*common, os.readlink(path))
            elif stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
                group = first_names.setdefault(status.st_ino, relative) if with_links else b""
                found[relative] = (*common, stat.S_IMODE(status.st_mode), content, group)
            else:
                found[relative] = (*common, stat.S_IMODE(status.st_mode))
    return found


def plan(archive_format: ArchiveFormat) -> ArchivePlan:
    return ArchivePlan(
        backup_id="00000000-0000-4000-8000-000000000000",
        name="name",
        source_id="source",
        source_kind="DIRECTORY",
        display_name="Source",
        format=archive_format,
        ignore=[],
        created_us=1_700_000_000_000_000,
        software="test",
    )


@pytest.fixture(scope="module")
def pool() -> Iterator[CompressorPool]:
    pool = CompressorPool(2)
    yield pool
    pool.close()


def back_up(root: bytes, folder: bytes, pool: CompressorPool, how: ArchivePlan) -> tuple[ProvedArchive, list[Problem]]:
    problems: list[Problem] = []
    with OpenFolder(os.open(root, os.O_RDONLY | os.O_DIRECTORY), root) as source:
        scanned = scan_source(source, how, Control())
        fd = os.open(folder + b"/archive", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            written = write_archive(source, how, fd, pool, Control(), Progress(), problems.append)
        finally:
            os.close(fd)
    assert scanned.files == written.statistics.files + written.statistics.hardlinks
    return written, problems


def restore(archive: StoredArchive, target: bytes) -> None:
    os.mkdir(target)
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with open_archive(archive) as file:
            reader = open_reader(archive.format, file, limits=Limits(), check=lambda: None)
            unpacking = Unpacking(reader, None, lambda _size, _files, _path: None, ignore, needed=archive.original_size)
            found = extract_to_staging(unpacking, fd, b".holdfast-restore-x.1", control=Control(), progress=Progress())
        apply_staging(fd, b".holdfast-restore-x.1", found.root, lambda: None)
    finally:
        os.close(fd)


@pytest.mark.parametrize("archive_format", WRITABLE)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(tree=nodes())
def test_any_tree_comes_back(archive_format: ArchiveFormat, pool: CompressorPool, tree: list[Node]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = os.fsencode(name)
        root = folder + b"/source"
        os.mkdir(root, 0o755)
        make(root, tree)
        before = describe(root, with_links=archive_format.has_hardlinks)
        written, problems = back_up(root, folder, pool, plan(archive_format))
        assert problems == []
        assert written.statistics.complete
        found = written.statistics
        archive = StoredArchive(
            folder, b"archive", archive_format, written.size, written.sha256, found.original_size, found.files
        )
        for level in VerifyLevel:
            verify_stored(archive, level, Control(), Progress())
        restore(archive, folder + b"/restored")
        assert describe(folder + b"/restored", with_links=archive_format.has_hardlinks) == before
        assert os.stat(folder + b"/restored").st_mtime_ns == os.stat(root).st_mtime_ns


def test_holes_come_back_as_holes(pool: CompressorPool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = os.fsencode(name)
        root = folder + b"/source"
        os.mkdir(root)
        with open(root + b"/sparse", "wb") as file:
            file.seek(64 << 20)
            file.write(b"end")
        if os.stat(root + b"/sparse").st_blocks * 512 > 1 << 20:
            pytest.skip("this filesystem keeps no holes")
        for archive_format in WRITABLE:
            written, _ = back_up(root, folder, pool, plan(archive_format))
            archive = StoredArchive(
                folder, b"archive", archive_format, written.size, written.sha256, written.statistics.original_size, 1
            )
            target = folder + b"/restored-" + archive_format.name.encode()
            restore(archive, target)
            status = os.stat(target + b"/sparse")
            assert status.st_size == (64 << 20) + 3
            assert status.st_blocks * 512 < 1 << 20
            os.unlink(folder + b"/archive")
