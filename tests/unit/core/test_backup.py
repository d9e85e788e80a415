"""What the archive's own disk refuses, told apart from what the source refuses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.core.backup import ArchivePlan, write_archive
from holdfast_server.core.control import Control, Problem, Progress
from holdfast_server.errors import Reason, ResourceExhausted
from holdfast_server.storage.folder import OpenFolder
from tests.unit.archive.archives import WRITABLE


@pytest.fixture
def pool() -> Iterator[CompressorPool]:
    pool = CompressorPool(2)
    yield pool
    pool.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
@pytest.mark.parametrize("archive_format", WRITABLE)
@pytest.mark.parametrize("size", [1000, 5 << 20], ids=["small files", "large files"])
def test_a_full_disk_is_not_the_sources_fault(
    tmp_path: Path, pool: CompressorPool, archive_format: ArchiveFormat, size: int
) -> None:
    """Writing into a full disk was once reported as files that cannot be read."""
    for number in range(5 if size > 1 << 20 else 3000):
        (tmp_path / f"file{number}").write_bytes(os.urandom(size))
    plan = ArchivePlan("id", "name", "s", "DIRECTORY", "S", [], 1_700_000_000_000_000, "test", format=archive_format)
    problems: list[Problem] = []
    full = os.open("/dev/full", os.O_RDWR)
    try:
        with (
            OpenFolder(os.open(tmp_path, os.O_RDONLY), os.fsencode(tmp_path)) as source,
            pytest.raises(ResourceExhausted) as refused,
        ):
            write_archive(source, plan, full, pool, Control(), Progress(), problems.append)
    finally:
        os.close(full)
    assert refused.value.reason is Reason.DISK_FULL
    assert problems == []
    assert pool.held == 0
