"""Folders and files are swapped for symbolic links to the outside while they are restored into or backed up.

HOLDFAST_SWAPS sets how many exchanges each test sees. A swap counts when the kernel has made it; that swaps also met
the work in progress shows in how it ends, and both ways to end must have occurred.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.archive.extract import extract
from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.archive.reader import Limits, open_reader
from holdfast_server.core.backup import ArchivePlan, write_archive
from holdfast_server.core.control import Control, Problem, Progress
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.storage.local import remove_tree
from tests.fault.swapper import Swapper
from tests.unit.archive.samples import closing, directory, file, forged, hardlink, symlink, tar_gz

SWAPS = int(os.environ.get("HOLDFAST_SWAPS", "3000"))
CANARY = b"canary: from outside"
#: What restores of names that somebody else works on may end with.
REFUSALS = frozenset((Reason.FOLDER_NOT_WRITABLE, Reason.ARCHIVE_INVALID))

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is of Linux")


class Outside:
    """A tree with the same names as the one that is worked on, and what must never come in or change."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "in").mkdir(parents=True)
        (root / "canary-folder").mkdir()
        (root / "empty").mkdir()
        for name in ("f0", "f1", "canary", "in/f0", "in/f1", "in/canary", "canary-folder/canary", "sparse"):
            (root / name).write_bytes(CANARY)
            (root / name).chmod(0o640)
        self._before = self.state()

    def state(self) -> dict[str, Any]:
        found = {}
        for path in (self.root, *sorted(self.root.rglob("*"))):
            s = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            found[str(path)] = s.st_mode, s.st_uid, s.st_nlink, s.st_ino, s.st_mtime_ns, s.st_ctime_ns, content
        return found

    def check(self) -> None:
        assert self.state() == self._before


@pytest.fixture
def outside(tmp_path: Path) -> Outside:
    return Outside(tmp_path / "outside")


@pytest.fixture
def pool() -> Iterator[CompressorPool]:
    made = CompressorPool(1)
    yield made
    made.close()


def restored_tree(links: bool) -> list[Any]:
    """Each way to make or to change an entry, in a folder that is swapped and one below it."""
    entries = [directory(b"top", mode=0o711), directory(b"top/in", mode=0o711)]
    entries += [file(b"top/f%d" % i, mode=0o604) for i in range(4)]
    entries += [file(b"top/in/f%d" % i, mode=0o604) for i in range(4)]
    entries += [file(b"top/sparse", bytes(1 << 17)), symlink(b"top/s", b"f0"), symlink(b"top/in/s", b"f0")]
    if links:
        entries += [hardlink(b"top/h", b"top/in/f0"), hardlink(b"top/in/h", b"top/f0")]
    return entries


@pytest.mark.parametrize("format_name", ["zip", "tar.gz"])
def test_restore(format_name: str, outside: Outside, tmp_path: Path) -> None:
    entries = restored_tree(links=format_name != "zip")
    (tmp_path / "archive").write_bytes((forged if format_name == "zip" else tar_gz)([*entries, *closing(entries)]))
    # Where the same names stand already, and where nothing stands in the way.
    decoys = tmp_path / "decoy", tmp_path / "other"
    decoys[0].symlink_to(outside.root)
    decoys[1].symlink_to(outside.root / "empty")
    outcomes: Counter[str] = Counter()
    work = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    with Swapper(tmp_path, [(tmp_path / "root" / "top", decoy) for decoy in decoys], pause=5000) as swapper:
        while swapper.swaps < SWAPS or len(outcomes) < 2:
            os.mkdir(b"root", dir_fd=work)
            root = os.open(b"root", os.O_RDONLY | os.O_DIRECTORY, dir_fd=work)
            with (tmp_path / "archive").open("rb") as opened:
                try:
                    extract(open_reader(format_name, opened, limits=Limits(), check=_nothing), root, check=_nothing)
                    outcomes["restored"] += 1
                except HoldfastError as error:
                    outcomes["refused" if error.reason in REFUSALS else error.message] += 1
            os.close(root)
            with swapper.standing_still():
                outside.check()
                assert all(decoy.is_symlink() for decoy in decoys)
                remove_tree(work, b"root")
    os.close(work)
    assert set(outcomes) == {"restored", "refused"}
    print(f"{swapper.swaps} swaps: {dict(outcomes)}")


@pytest.mark.parametrize("what", ["folder", "file"])
def test_backup(what: str, outside: Outside, pool: CompressorPool, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "top" / "in").mkdir(parents=True)
    for name in ("f0", "f1", "f2", "in/f0", "in/f1", "in/f2"):
        (source / "top" / name).write_bytes(b"inside")
    target = outside.root if what == "folder" else outside.root / "canary"
    (tmp_path / "decoy").symlink_to(target)
    swapped = source / "top" if what == "folder" else source / "top" / "f1"
    outcomes: Counter[str] = Counter()
    # A folder stays a link for some time, a file only between two calls about it.
    with Swapper(tmp_path, [(swapped, tmp_path / "decoy")], pause=5000 if what == "folder" else 0) as swapper:
        while swapper.swaps < SWAPS or not (outcomes["whole"] and outcomes["met"]):
            problems: list[Problem] = []
            found = _backed_up(source, tmp_path / "archive", pool, problems)
            whole = not problems and len(found) == 8 and found[b"top/f1"] == b"inside"
            outcomes["whole" if whole else "met"] += 1
            for path, content in found.items():
                assert b"canary" not in path
                # A link that stands there when it is looked at belongs to the source: its target is kept as text.
                assert content in (b"inside", b"", os.fsencode(target))
    outside.check()
    print(f"{swapper.swaps} swaps: {dict(outcomes)}")


def _backed_up(source: Path, archive: Path, pool: CompressorPool, problems: list[Problem]) -> dict[bytes, bytes]:
    """Names and contents of an archive of the source, which are the targets of symbolic links."""
    plan = ArchivePlan("id", "name", "s", "DIRECTORY", "S", [], 1_700_000_000_000_000, "test", format=ArchiveFormat.ZIP)
    with archive.open("w+b") as written, OpenFolder(os.open(source, os.O_RDONLY), os.fsencode(source)) as opened:
        write_archive(opened, plan, written.fileno(), pool, Control(), Progress(), problems.append)
    with archive.open("rb") as opened_archive:
        reader = open_reader("zip", opened_archive, limits=Limits(), check=_nothing)
        found = {member.path: b"".join(content) + member.link_target for member, content in reader.members()}
    return {path: content for path, content in found.items() if not path.startswith(b"holdfast-")}


def _nothing() -> None:
    pass
