"""Names of archives, and putting one under its name: never over another, exactly once."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.sidecar import Sidecar
from holdfast_server.core.publish import (
    archive_base_name,
    create_partial,
    find_published,
    partial_name,
    publish_archive,
    read_sidecar,
    remove_partials,
    remove_sidecar,
)
from holdfast_server.errors import Cancelled
from tests.unit.archive.test_sidecar import SIDECAR

TASK = "01234567-89ab-4def-8123-456789abcdef"
OTHER = "11234567-89ab-4def-8123-456789abcdef"
STAMP = 1_700_000_000_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def write(fd: int, name: bytes, data: bytes) -> None:
    made = create_partial(fd, name)
    os.write(made, data)
    os.close(made)


def test_the_name_of_an_archive() -> None:
    assert archive_base_name("Default", "", STAMP) == "Default-20231114-221320"
    assert archive_base_name("Default", "tag", STAMP) == "Default-tag-20231114-221320"


@given(st.text(min_size=1, max_size=300), st.text(max_size=64))
def test_any_name_and_tag_give_a_plain_file_name(display_name: str, tag: str) -> None:
    base = archive_base_name(display_name, tag, STAMP)
    name = f"{base}-999{ArchiveFormat.TAR_GZ.suffix}.age.holdfast.json"
    assert all(c.isascii() and (c.isalnum() or c in "._-") for c in name)
    assert not name.startswith((".", "-"))
    assert len(name) <= 255
    assert base.endswith("-20231114-221320")


def test_an_archive_is_private(folder: int, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        write(folder, partial_name(TASK, 1), b"x")
    finally:
        os.umask(old)
    assert (tmp_path / os.fsdecode(partial_name(TASK, 1))).stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        create_partial(folder, partial_name(TASK, 1))


def test_taken_names_get_a_number_and_stay(folder: int, tmp_path: Path) -> None:
    (tmp_path / "base.zip").write_text("mine")
    os.symlink("nowhere", tmp_path / "base-2.zip")
    (tmp_path / "base-3.zip").mkdir()
    write(folder, partial_name(TASK, 1), b"archive")
    announced: list[bytes] = []
    name = publish_archive(folder, partial_name(TASK, 1), "base", ArchiveFormat.ZIP, announced.append)
    assert name == b"base-4.zip"
    assert announced == [name]
    assert (tmp_path / "base.zip").read_text() == "mine"
    assert os.readlink(tmp_path / "base-2.zip") == "nowhere"
    assert (tmp_path / "base-4.zip").read_bytes() == b"archive"
    assert sorted(os.listdir(tmp_path)) == ["base-2.zip", "base-3.zip", "base-4.zip", "base.zip"]


def test_a_file_that_appears_after_the_announcement_is_not_overwritten(folder: int, tmp_path: Path) -> None:
    write(folder, partial_name(TASK, 1), b"archive")
    announced: list[bytes] = []

    def announce(name: bytes) -> None:
        announced.append(name)
        if len(announced) < 3:
            (tmp_path / os.fsdecode(name)).write_text("somebody was quicker")

    name = publish_archive(folder, partial_name(TASK, 1), "base", ArchiveFormat.ZIP, announce)
    assert announced == [b"base.zip", b"base-2.zip", b"base-3.zip"]
    assert name == b"base-3.zip"
    assert (tmp_path / "base.zip").read_text() == "somebody was quicker"
    assert (tmp_path / "base-3.zip").read_bytes() == b"archive"


def test_an_announcement_that_is_refused_publishes_nothing(folder: int, tmp_path: Path) -> None:
    write(folder, partial_name(TASK, 1), b"archive")

    def announce(_: bytes) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        publish_archive(folder, partial_name(TASK, 1), "base", ArchiveFormat.ZIP, announce)
    assert os.listdir(tmp_path) == [os.fsdecode(partial_name(TASK, 1))]


def test_many_publishers_of_one_name_all_get_their_own(folder: int, tmp_path: Path) -> None:
    count = 8
    names: list[bytes] = []
    gate = threading.Barrier(count)

    def publish(number: int) -> None:
        write(folder, partial_name(TASK, number), b"%d" % number)
        gate.wait()
        names.append(publish_archive(folder, partial_name(TASK, number), "b", ArchiveFormat.TAR_GZ, lambda _: None))

    threads = [threading.Thread(target=publish, args=(n + 1,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(set(names)) == count
    assert {(tmp_path / os.fsdecode(name)).read_bytes() for name in names} == {b"%d" % (n + 1) for n in range(count)}
    assert sorted(os.listdir(tmp_path)) == sorted(map(os.fsdecode, names))


def test_only_the_named_attempts_lose_their_partials(folder: int, tmp_path: Path) -> None:
    for task, attempt, number in ((TASK, 1, 0), (TASK, 1, 3), (TASK, 2, 0), (TASK, 12, 0), (OTHER, 1, 0)):
        write(folder, partial_name(task, attempt, number), b"12345")
    (tmp_path / f"x.{TASK}.1.partial").write_text("not ours")
    (tmp_path / f".{TASK}.1.partial.bak").write_text("not ours")
    assert remove_partials(folder, TASK, [1, 7]) == (2, 10)
    left = {partial_name(TASK, 2), partial_name(TASK, 12), partial_name(OTHER, 1)}
    assert {
        name for name in map(os.fsencode, os.listdir(tmp_path)) if name.endswith(b"al") and name[:1] == b"."
    } == left
    assert remove_partials(folder, TASK, [1]) == (0, 0)


def test_what_counts_as_published(folder: int, tmp_path: Path) -> None:
    data = b"archive"
    (tmp_path / "a").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    assert find_published(folder, b"a", len(data), digest, lambda: None)
    assert not find_published(folder, b"a", len(data) + 1, digest, lambda: None)
    assert not find_published(folder, b"a", len(data), "0" * 64, lambda: None)
    assert not find_published(folder, b"missing", len(data), digest, lambda: None)
    os.symlink("a", tmp_path / "link")
    assert not find_published(folder, b"link", len(data), digest, lambda: None)
    os.mkfifo(tmp_path / "fifo")
    assert not find_published(folder, b"fifo", len(data), digest, lambda: None)
    (tmp_path / "folder").mkdir()
    assert not find_published(folder, b"folder", len(data), digest, lambda: None)


def sidecar(sha256: str = "ab" * 32) -> Sidecar:
    return dataclasses.replace(SIDECAR, sha256=sha256)


def test_a_sealed_archive_has_its_sidecar_beside_it(folder: int, tmp_path: Path) -> None:
    write(folder, partial_name(TASK, 1), b"sealed")
    name = publish_archive(folder, partial_name(TASK, 1), "base", ArchiveFormat.TAR_GZ, lambda _: None, sidecar())
    assert sorted(os.listdir(tmp_path)) == ["base.tar.gz.age", "base.tar.gz.age.holdfast.json"]
    assert (tmp_path / "base.tar.gz.age.holdfast.json").stat().st_mode & 0o777 == 0o600
    assert read_sidecar(folder, name) == sidecar()


@pytest.mark.parametrize("taken", ["base.zip.age", "base.zip.age.holdfast.json"])
@pytest.mark.parametrize("late", [False, True])
def test_neither_an_archive_nor_a_sidecar_is_replaced(folder: int, tmp_path: Path, taken: str, late: bool) -> None:
    write(folder, partial_name(TASK, 1), b"sealed")
    announced: list[bytes] = []

    def announce(name: bytes) -> None:
        if not announced:
            (tmp_path / taken).write_text("mine")
        announced.append(name)

    if not late:
        announce(b"before")
    name = publish_archive(folder, partial_name(TASK, 1), "base", ArchiveFormat.ZIP, announce, sidecar())
    assert name == b"base-2.zip.age"
    assert sorted(os.listdir(tmp_path)) == sorted([taken, "base-2.zip.age", "base-2.zip.age.holdfast.json"])
    assert (tmp_path / taken).read_text() == "mine"
    assert (tmp_path / "base-2.zip.age").read_bytes() == b"sealed"


def test_a_sidecar_goes_when_its_archive_cannot_be_published(folder: int, tmp_path: Path) -> None:
    """The partial is gone, because a later attempt removed it."""
    with pytest.raises(FileNotFoundError):
        publish_archive(folder, partial_name(TASK, 1), "base", ArchiveFormat.ZIP, lambda _: None, sidecar())
    assert os.listdir(tmp_path) == []


def test_only_the_sidecar_of_that_very_file_is_removed(folder: int, tmp_path: Path) -> None:
    beside = tmp_path / "a.zip.age.holdfast.json"
    assert remove_sidecar(folder, b"a.zip.age", "ab" * 32) == (0, 0)
    for other in (b"no sidecar", sidecar("cd" * 32).encode()):
        beside.write_bytes(other)
        assert remove_sidecar(folder, b"a.zip.age", "ab" * 32) == (0, 0)
        assert beside.read_bytes() == other
    beside.write_bytes(sidecar().encode())
    assert remove_sidecar(folder, b"a.zip.age", "ab" * 32) == (1, len(sidecar().encode()))
    assert not beside.exists()


def test_a_sidecars_partial_is_removed_with_the_others(folder: int, tmp_path: Path) -> None:
    write(folder, f".{TASK}.1.2.sidecar.partial".encode(), b"123")
    write(folder, f".{TASK}.2.sidecar.partial".encode(), b"123")
    assert remove_partials(folder, TASK, [1]) == (1, 3)
    assert os.listdir(tmp_path) == [f".{TASK}.2.sidecar.partial"]
