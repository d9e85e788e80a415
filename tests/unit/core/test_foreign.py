"""Archives of unknown origin: recognised, surveyed as they would be extracted, and bounded while they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.archive.reader import Limits
from holdfast_server.archive.reading import LimitExceeded, Report
from holdfast_server.core import restore as core_restore
from holdfast_server.core.control import Control, Progress
from holdfast_server.core.foreign import check_recognised, open_foreign, survey_foreign
from holdfast_server.core.restore import Restored, Unpacking, extract_to_staging
from holdfast_server.core.selection import PathSelection
from holdfast_server.errors import FailedPrecondition, HoldfastError, NotFound, Reason, ResourceExhausted
from tests.unit.archive.samples import (
    TREE,
    WHEN,
    Entry,
    closing,
    directory,
    file,
    forged,
    hardlink,
    symlink,
    tar,
    tar_gz,
)

Make = Callable[[list[Entry]], bytes]
BUILD: dict[str, Make] = {"zip": forged, "tar.gz": tar_gz, "tar": tar}
Losses = list[tuple[bytes, str, bool]]


class World:
    """An archive file, and both ways to read it."""

    def __init__(self, base: Path, data: bytes) -> None:
        self.path = base / "archive"
        self.path.write_bytes(data)
        self.progress = Progress()
        self.root = base / "root"
        self.root.mkdir(exist_ok=True)

    def survey(self, report: Report, *, select: PathSelection | None = None, max_bytes: int | None = None) -> Any:
        with (
            self.path.open("rb", buffering=0) as opened,
            open_foreign(opened, "it", identity=None, limits=Limits(), control=Control()) as archive,
        ):
            return survey_foreign(
                archive, select, max_bytes=max_bytes, control=Control(), progress=self.progress, report=report
            )

    def extract(self, report: Report, *, select: PathSelection | None = None, **values: Any) -> Restored:
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with (
                self.path.open("rb", buffering=0) as opened,
                open_foreign(opened, "it", identity=None, limits=Limits(), control=Control()) as archive,
            ):
                on_progress = values.pop("on_progress", archive.progress_of(self.progress))
                unpacking = Unpacking(
                    archive.reader, select, on_progress, report, expect_manifest=False, **{"needed": None, **values}
                )
                return extract_to_staging(unpacking, fd, b"staging", control=Control(), progress=self.progress)
        finally:
            os.close(fd)


def ignored(path: bytes, what: str, whole: bool) -> None:
    pass


@pytest.mark.parametrize("manifest", [True, False], ids=["manifest", "none"])
@pytest.mark.parametrize("made", BUILD)
@pytest.mark.parametrize("paths", [[], [b"sub"], [b"empty", b"link"]], ids=str)
def test_a_survey_tells_what_an_extraction_does(tmp_path: Path, made: str, manifest: bool, paths: list[bytes]) -> None:
    entries = [*TREE, file(b"setuid", mode=0o4755), directory(b"sticky", mode=0o1777)]
    if made != "zip":
        entries.append(hardlink(b"sub/second", b"sub/a.txt"))
    world = World(tmp_path, BUILD[made](entries + (closing(entries) if manifest else [])))
    told: Losses = []
    really: Losses = []
    surveyed = world.survey(lambda *loss: told.append(loss), select=PathSelection(paths) if paths else None)
    assert os.listdir(world.root) == []
    done = world.extract(lambda *loss: really.append(loss), select=PathSelection(paths) if paths else None)
    for name in ("files", "directories", "symlinks", "hardlinks", "bytes", "warning_count"):
        assert getattr(surveyed, name) == getattr(done, name), name
    assert (surveyed.manifest_header is not None) == done.has_manifest == manifest
    assert sorted(told) == sorted(really)
    assert bool(told) == (not paths)


@pytest.mark.parametrize("made", BUILD)
@pytest.mark.parametrize(
    "entries",
    [
        [symlink(b"l", b"/tmp"), file(b"l/x")],
        [symlink(b"l", b"."), directory(b"l/d")],
        [file(b"l/x"), symlink(b"l", b"..")],
        [file(b"f"), file(b"f/x")],
        [file(b"f/x"), file(b"f")],
        [file(b"f/x/y/z"), file(b"f/x")],
        [file(b"a"), file(b"b/c"), file(b"a/b/c/d")],
    ],
)
def test_what_cannot_be_one_tree_is_refused_by_both(tmp_path: Path, made: str, entries: list[Entry]) -> None:
    world = World(tmp_path, BUILD[made](entries))
    for way in (world.survey, world.extract):
        with pytest.raises(FailedPrecondition, match="collide") as caught:
            way(ignored)
        assert caught.value.reason is Reason.ARCHIVE_INVALID


@pytest.mark.parametrize("made", BUILD)
def test_both_stop_at_the_same_byte_and_miss_the_same_paths(tmp_path: Path, made: str) -> None:
    entries = [file(b"a", bytes(1000)), file(b"d/b", bytes(1000))]
    world = World(tmp_path, BUILD[made](entries))
    for number, way in enumerate((world.survey, world.extract)):
        (world.root / "staging").exists() and os.rename(world.root / "staging", tmp_path / f"old{number}")
        with pytest.raises(LimitExceeded) as caught:
            way(ignored, max_bytes=1999)
        assert (caught.value.limit, caught.value.allowed) == ("total_bytes", 1999)
    os.rename(world.root / "staging", tmp_path / "older")
    assert world.survey(ignored, max_bytes=2000).bytes == world.extract(ignored, max_bytes=2000).bytes == 2000
    os.rename(world.root / "staging", tmp_path / "oldest")
    # What is not selected does not count.
    one = PathSelection([b"d"])
    assert world.survey(ignored, select=one, max_bytes=1000).bytes == 1000
    assert world.extract(ignored, select=PathSelection([b"d"]), max_bytes=1000).bytes == 1000
    os.rename(world.root / "staging", tmp_path / "eldest")
    for way in (world.survey, world.extract):
        with pytest.raises(NotFound, match="nowhere"):
            way(ignored, select=PathSelection([b"a", b"nowhere"]))


@pytest.mark.parametrize("made", BUILD)
def test_percent_follows_the_file(tmp_path: Path, made: str) -> None:
    """Compressed well at first and not at all later: the position in the file is what counts, and it never falls."""
    entries = [file(b"%02d" % n, (bytes(1 << 20) if n < 8 else os.urandom(1 << 20))) for n in range(16)]
    entries += closing(entries)
    world = World(tmp_path, BUILD[made](entries))
    seen: list[tuple[float, int]] = []
    with (
        world.path.open("rb", buffering=0) as opened,
        open_foreign(opened, "it", identity=None, limits=Limits(), control=Control()) as archive,
    ):
        follow = archive.progress_of(world.progress)

        def on_progress(size: int, files: int, path: bytes) -> None:
            follow(size, files, path)
            seen.append((world.progress.percent or 0.0, size))

        fd = os.open(world.root, os.O_RDONLY | os.O_DIRECTORY)
        unpacking = Unpacking(archive.reader, None, on_progress, ignored, needed=None, expect_manifest=False)
        extract_to_staging(unpacking, fd, b"staging", control=Control(), progress=world.progress)
        os.close(fd)
    assert [p for p, _ in seen] == sorted(p for p, _ in seen)
    for percent, size in seen:
        behind = size / (16 << 20) if made == "tar" else max(0, size - (8 << 20)) / (8 << 20)
        assert abs(percent / 100 - min(behind, 1.0)) < 0.15, (percent, size)
    assert seen[-1][0] > 99
    assert world.progress.total_size is None


def test_a_reserve_stays_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is written, and again while it is: others write to the disk too."""
    world = World(tmp_path, forged([file(b"%03d" % n, os.urandom(1 << 10)) for n in range(100)]))
    with pytest.raises(ResourceExhausted, match="kept free") as caught:
        world.extract(ignored, reserve=1 << 60)
    assert caught.value.reason is Reason.DISK_FULL
    assert os.listdir(world.root) == []
    with pytest.raises(ResourceExhausted) as caught:
        world.extract(ignored, needed=1 << 60)
    assert caught.value.reason is Reason.DISK_FULL
    asked: list[int] = []

    def free_bytes(fd: int) -> int:
        asked.append(fd)
        return 2_000_000 if len(asked) < 4 else 999_999

    monkeypatch.setattr(core_restore, "free_bytes", free_bytes)
    with pytest.raises(ResourceExhausted, match="only 999999 bytes left") as caught:
        world.extract(ignored, reserve=1_000_000, needed=100 << 10)
    assert caught.value.reason is Reason.DISK_FULL
    assert 0 < len(os.listdir(world.root / "staging")) < 100


def test_a_manifest_cannot_spoil_the_root(tmp_path: Path) -> None:
    """Its attributes of the root are applied last, when the tree stands already: what they are not, is not applied."""
    good = {"mode": "0751", "mtime": "1600000000.000000000", "uid": 1, "gid": 2}
    cases: list[tuple[Any, dict[str, Any]]] = [
        (good, good),
        ({**good, "mode": "104777", "more": 1}, {**good, "mode": "0777"}),
        ({**good, "uid": 10**40}, {}),
        ({**good, "uid": -1}, {}),
        ({**good, "gid": "0"}, {}),
        ({**good, "mode": 0o755}, {}),
        ({**good, "mode": "9" * 10}, {}),
        ({**good, "mtime": 5}, {}),
        ({**good, "mtime": "1" * 10_000 + ".000000000"}, {}),
        ({"mode": "0755"}, {}),
        ([], {}),
        ("x", {}),
        (None, {}),
    ]
    for number, (stated, expected) in enumerate(cases):
        base = tmp_path / str(number)
        base.mkdir()
        manifest = _manifest_with_root(stated)
        found = World(base, tar([file(b"f"), file(b"holdfast-manifest.json", manifest)])).extract(ignored)
        assert found.has_manifest
        assert found.root == expected, stated
        fd = os.open(base, os.O_RDONLY)
        core_restore._set_root(fd, found.root)
        core_restore._set_root(fd, {**good, "mtime": "1" * 40 + ".000000000", "uid": 10**40})
        os.close(fd)


def _manifest_with_root(root: Any) -> bytes:
    from holdfast_server.archive.manifest import ManifestEntry, ManifestSpool

    member, _ = file(b"f")
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    spool = ManifestSpool({"backup_id": "b", "root": root})
    spool.add(ManifestEntry(member, bytes.fromhex(digest)))
    spool.finish({"complete": True})
    return b"".join(spool.blocks())


def test_the_root_gets_what_a_member_of_its_own_says(tmp_path: Path) -> None:
    import io
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("./")
        info.type, info.mode, info.mtime, info.uid, info.gid = tarfile.DIRTYPE, 0o700, 1_500_000_000, 3, 4
        archive.addfile(info)
    found = World(tmp_path, out.getvalue()).extract(ignored)
    assert found.root == {"mode": "0700", "mtime": "1500000000.000000000", "uid": 3, "gid": 4}
    assert (found.files, found.directories) == (0, 0)


@pytest.mark.parametrize(
    "data", [b"", b"x", bytes(4096), b"\x7fELF" + bytes(600), b"{}", b"Rar!\x1a\x07\x00" + bytes(600)], ids=repr
)
def test_what_is_no_archive_says_what_was_expected(tmp_path: Path, data: bytes) -> None:
    world = World(tmp_path, data)
    with world.path.open("rb", buffering=0) as opened:
        for way in (
            lambda: check_recognised(opened, "/it", has_key=False),
            lambda: open_foreign(opened, "/it", identity=None, limits=Limits(), control=Control()).__enter__(),
        ):
            with pytest.raises(HoldfastError, match="/it is no archive: a zip, tar, ") as caught:
                way()
            assert caught.value.reason is Reason.ARCHIVE_INVALID


def test_our_manifest_does_not_let_a_special_member_in(tmp_path: Path) -> None:
    """What is skipped for a foreign archive is none of ours: then somebody added it."""
    entries = [file(b"f", mtime_ns=WHEN)]
    data = tar(entries + closing(entries))
    block = bytearray(data[:512])
    block[156:157] = b"6"
    block[124:136] = b"00000000000\0"
    block[0:100] = b"fifo".ljust(100, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    world = World(tmp_path, bytes(block) + data)
    for way in (world.survey, world.extract):
        with pytest.raises(HoldfastError, match="member is not in the manifest") as caught:
            way(ignored)
        assert caught.value.reason is Reason.CHECKSUM_MISMATCH
