"""A source written into a sealed archive: nothing in clear on the disk, and what cannot be taken back is said."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.archive.reader import Limits, open_reader
from holdfast_server.archive.sealing import SealedSource, parse_identity, parse_recipients
from holdfast_server.archive.verify import verify_archive
from holdfast_server.core import archive_file
from holdfast_server.core import backup as backup_module
from holdfast_server.core.archive_file import ProvedArchive
from holdfast_server.core.backup import ArchivePlan, write_archive
from holdfast_server.core.control import Control, Problem, Progress
from holdfast_server.core.publish import create_partial
from holdfast_server.core.reading import FileReader
from holdfast_server.errors import Cancelled, DataLoss, FailedPrecondition, Reason, ResourceExhausted
from holdfast_server.storage.folder import OpenFolder
from tests.keys import PRIVATE, PUBLIC

FORMATS = [one for one in ArchiveFormat if one.writable]
CANARY = b"canary-in-the-content"
LARGE = 5 << 20


@pytest.fixture
def pool() -> Iterator[CompressorPool]:
    pool = CompressorPool(2)
    yield pool
    pool.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("age-")]


@dataclasses.dataclass
class Sealed:
    """One run of `write_archive` over `folder`/source, sealed."""

    folder: Path
    pool: CompressorPool
    format: ArchiveFormat = ArchiveFormat.TAR_GZ
    fail_on_error: bool = False
    control: Control = dataclasses.field(default_factory=Control)

    def __post_init__(self) -> None:
        self.source = self.folder / "source"
        self.source.mkdir()
        self.problems: list[Problem] = []

    def write(self) -> ProvedArchive:
        plan = ArchivePlan(
            "id", "name", "s", "DIRECTORY", "S", [], 1_700_000_000_000_000, "test", format=self.format,
            fail_on_error=self.fail_on_error, recipients=parse_recipients([PUBLIC], "r"),
        )  # fmt: skip
        folder = os.open(self.folder, os.O_RDONLY)
        fd = create_partial(folder, b"sealed")
        try:
            with OpenFolder(os.open(self.source, os.O_RDONLY), os.fsencode(self.source)) as source:
                return write_archive(source, plan, fd, self.pool, self.control, Progress(), self.problems.append)
        finally:
            os.close(folder)
            os.close(fd)

    def members(self) -> dict[bytes, tuple[bytes, bool]]:
        """path → (content, changed) of what was sealed, proved against its manifest."""
        found: dict[bytes, tuple[bytes, bool]] = {}
        with (
            (self.folder / "sealed").open("rb") as file,
            SealedSource(file, parse_identity(PRIVATE), lambda: None) as content,
        ):
            verify_archive(open_reader(self.format, content, limits=Limits(), check=lambda: None), check=lambda: None)
            reader = open_reader(self.format, content, limits=Limits(), check=lambda: None)
            plain = {member.path: b"".join(blocks) for member, blocks in reader.members()}
        manifest = plain.pop(b"holdfast-manifest.json").decode()
        for path, data in plain.items():
            line = next((line for line in manifest.splitlines() if f'"path":"{path.decode()}"' in line), "")
            found[path] = (data, '"changed":true' in line)
        return found


@pytest.mark.parametrize("format", FORMATS)
def test_what_was_sealed_is_the_source(tmp_path: Path, pool: CompressorPool, format: ArchiveFormat) -> None:  # noqa: A002
    run = Sealed(tmp_path, pool, format)
    (run.source / "small").write_bytes(CANARY * 100)
    (run.source / "large").write_bytes(CANARY + os.urandom(LARGE))
    os.link(run.source / "small", run.source / "twin")
    os.symlink("small", run.source / "link")
    written = run.write()
    stored = (tmp_path / "sealed").read_bytes()
    assert (written.size, written.sha256, written.sealed) == (len(stored), hashlib.sha256(stored).hexdigest(), True)
    assert (written.statistics.files, written.statistics.complete) == (3 - format.has_hardlinks, True)
    assert run.problems == []
    assert CANARY not in stored
    assert b"small" not in stored
    members = run.members()
    assert members[b"small"] == (CANARY * 100, False)
    assert members[b"large"] == ((run.source / "large").read_bytes(), False)


class Once:
    """Does something after the first block of the first large file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, happening: object) -> None:
        original = FileReader.blocks

        def blocks(reader: FileReader) -> Iterator[bytes]:
            for number, block in enumerate(original(reader)):
                yield block
                if not number:
                    happening()  # type: ignore[operator]

        monkeypatch.setattr(FileReader, "blocks", blocks)


@pytest.mark.parametrize("format", FORMATS)
def test_a_large_file_that_changes_stays_and_says_so(
    tmp_path: Path,
    pool: CompressorPool,
    monkeypatch: pytest.MonkeyPatch,
    format: ArchiveFormat,  # noqa: A002
) -> None:
    run = Sealed(tmp_path, pool, format)
    content = os.urandom(LARGE)
    (run.source / "large").write_bytes(content)
    (run.source / "then").write_bytes(b"x")
    Once(monkeypatch, lambda: os.truncate(run.source / "large", 2 << 20))
    written = run.write()
    assert [(problem.path, problem.reason) for problem in run.problems] == [(b"large", backup_module.CHANGED)]
    assert "takes nothing back" in run.problems[0].message
    assert written.statistics.warnings == 1
    data, changed = run.members()[b"large"]
    assert changed
    assert len(data) == LARGE
    assert data[: 1 << 20] == content[: 1 << 20]
    assert data[2 << 20 :] == bytes(LARGE - (2 << 20))
    assert run.members()[b"then"] == (b"x", False)


def fail() -> None:
    raise OSError(5, "Input/output error")


def test_a_large_file_that_cannot_be_read_to_its_end(
    tmp_path: Path, pool: CompressorPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Sealed(tmp_path, pool)
    content = os.urandom(LARGE)
    (run.source / "large").write_bytes(content)
    (run.source / "then").write_bytes(b"x")
    Once(monkeypatch, fail)
    written = run.write()
    (problem,) = run.problems
    assert (problem.path, problem.reason) == (b"large", "READ_ERROR")
    assert f"past {1 << 20} bytes; the rest is zeros" in problem.message
    assert not written.statistics.complete
    assert run.members()[b"large"] == (content[: 1 << 20] + bytes(LARGE - (1 << 20)), True)
    assert run.members()[b"then"] == (b"x", False)


def test_it_fails_the_source_when_asked_to(
    tmp_path: Path, pool: CompressorPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Sealed(tmp_path, pool, fail_on_error=True)
    (run.source / "large").write_bytes(bytes(LARGE))
    Once(monkeypatch, fail)
    with pytest.raises(FailedPrecondition) as caught:
        run.write()
    assert caught.value.reason is Reason.SOURCE_UNREADABLE


@pytest.mark.parametrize("size", [1000, LARGE], ids=["small file", "large file"])
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_full_disk_is_not_the_sources_fault(
    tmp_path: Path, pool: CompressorPool, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    run = Sealed(tmp_path, pool)
    (run.source / "file").write_bytes(os.urandom(size))
    monkeypatch.setattr(f"{__name__}.create_partial", lambda *_: os.open("/dev/full", os.O_RDWR))
    with pytest.raises(ResourceExhausted) as caught:
        run.write()
    assert caught.value.reason is Reason.DISK_FULL
    assert run.problems == []
    assert pool.held == 0


def test_a_cancelled_one_never_opens(tmp_path: Path, pool: CompressorPool, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Sealed(tmp_path, pool)
    (run.source / "large").write_bytes(os.urandom(LARGE))
    Once(monkeypatch, run.control.cancel)
    with pytest.raises(Cancelled):
        run.write()
    assert pool.held == 0
    with pytest.raises((DataLoss, FailedPrecondition)):
        run.members()


def test_a_disk_that_gives_back_other_bytes(
    tmp_path: Path, pool: CompressorPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Sealed(tmp_path, pool)
    (run.source / "file").write_bytes(b"x")

    def sync(fd: int) -> None:
        os.pwrite(fd, b"\0", 300)

    monkeypatch.setattr(archive_file, "fsync_file", sync)
    with pytest.raises(DataLoss, match="other bytes than it was given"):
        run.write()
