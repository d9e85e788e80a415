"""A disk that gives back other bytes than it was given."""

from __future__ import annotations

import hashlib
import itertools
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_server.archive.writer import Stretch
from holdfast_server.core.control import Control
from holdfast_server.core.read_back import read_back
from holdfast_server.errors import Cancelled, DataLoss

CONTENT = bytes(range(256)) * 9_000  # more than two blocks
CUTS = [0, 1, 1_500_000, len(CONTENT)]
STRETCHES = [Stretch(b - a, zlib.crc32(CONTENT[a:b])) for a, b in itertools.pairwise(CUTS)]


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "f").write_bytes(CONTENT)
    opened = os.open(tmp_path / "f", os.O_RDWR)
    yield opened
    os.close(opened)


def test_what_the_disk_kept_is_hashed_and_counted(fd: int) -> None:
    read: list[int] = []
    assert read_back(fd, STRETCHES, Control(), read.append) == hashlib.sha256(CONTENT).hexdigest()
    assert sum(read) == len(CONTENT)


@pytest.mark.parametrize("at", [0, 1, 1_048_576, 1_499_999, 1_500_000, len(CONTENT) - 1])
def test_one_other_bit_is_found_with_its_place(fd: int, at: int) -> None:
    os.pwrite(fd, bytes([CONTENT[at] ^ 0x80]), at)
    with pytest.raises(DataLoss) as caught:
        read_back(fd, STRETCHES, Control(), lambda _: None)
    assert int(caught.value.metadata["offset"]) == max(cut for cut in CUTS if cut <= at)


@pytest.mark.parametrize("size", [0, 1, 1_500_000, len(CONTENT) - 1, len(CONTENT) + 1])
def test_another_length_is_found(fd: int, size: int) -> None:
    os.ftruncate(fd, size)
    with pytest.raises(DataLoss, match=r"too early|longer"):
        read_back(fd, STRETCHES, Control(), lambda _: None)


def test_it_stops_when_asked_to(fd: int) -> None:
    control = Control()
    control.cancel()
    with pytest.raises(Cancelled):
        read_back(fd, STRETCHES, control, lambda _: None)
