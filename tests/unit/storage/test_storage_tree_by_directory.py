from __future__ import annotations

import errno
import os
import resource
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_server.storage.descent import OPEN_LEVELS
from holdfast_server.storage.tree import EntryKind, TreeEntry, TreeProblem, walk

from .conftest import NOBODY, Mounter, Opener
from .test_storage_local import deep_tree
from .test_storage_tree import _names, _trees, build, everything, nothing


class Stopped(Exception):
    pass


Keep = Callable[[bytes, bool], bool]


def items(fd: int, keep: Keep = everything, *, by_directory: bool = True) -> list[tuple[bytes, str]]:
    found = walk(fd, keep=keep, check=nothing, by_directory=by_directory)
    return [(item.path, str(item.kind if isinstance(item, TreeEntry) else item.reason)) for item in found]


def place(path: bytes) -> tuple[bytes, bytes]:
    parent, _, name = path.rpartition(b"/")
    return parent.replace(b"/", b"\0"), name


def put(fd: int, tree: dict[bytes, object]) -> None:
    """`build`, with a FIFO and a staging folder."""
    build(fd, tree)
    os.mkdir(b".holdfast-restore-x", dir_fd=fd)
    os.mkfifo(b"~fifo", dir_fd=fd)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(_names, _trees, max_size=6), st.data())
def test_both_orders_give_the_same(tree: dict[bytes, object], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as base:
        fd = os.open(base, os.O_RDONLY)
        put(fd, tree)
        paths = [path for path, _ in items(fd)]
        assert paths == sorted(paths, key=place)
        refused = set(data.draw(st.lists(st.sampled_from(paths), max_size=3)))
        skipped = data.draw(st.sampled_from(paths))
        status = os.stat(skipped, dir_fd=fd, follow_symlinks=False)

        def run(by_directory: bool) -> list[object]:
            found = walk(
                fd,
                keep=lambda path, _: path not in refused,
                check=nothing,
                skip_identities={(status.st_dev, status.st_ino)},
                by_directory=by_directory,
            )
            return [
                (item.path, item.kind, item.ino, item.mode, item.link_target) if isinstance(item, TreeEntry) else item
                for item in found
            ]

        assert set(run(True)) == set(run(False))
        assert len(run(True)) == len(run(False))
        os.close(fd)


def test_a_directory_is_whole_before_the_next_is_entered(tmp_path: Path, opened: Opener) -> None:
    for path in ("a/c", "a-b", "b"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "f").write_bytes(b"")
    (tmp_path / "a.txt").write_bytes(b"")
    (tmp_path / "a" / "l").symlink_to("c")
    found = list(walk(opened(tmp_path), keep=everything, check=nothing, by_directory=True))
    expected = [b"a", b"a-b", b"a.txt", b"b", b"a/c", b"a/l", b"a/c/f", b"a-b/f", b"b/f"]
    assert [item.path for item in found] == expected
    first, link = found[0], found[5]
    assert isinstance(first, TreeEntry)
    assert isinstance(link, TreeEntry)
    assert (first.kind, first.ino) == (EntryKind.DIRECTORY, (tmp_path / "a").stat().st_ino)
    assert (link.kind, link.link_target) == (EntryKind.SYMLINK, b"c")


def test_files_can_be_opened_until_the_walk_goes_on(tmp_path: Path, opened: Opener) -> None:
    for folder in ("", "a", "a/b"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "z").write_bytes(folder.encode())
    read: list[bytes] = []
    entries: list[TreeEntry] = []
    for item in walk(opened(tmp_path), keep=everything, check=nothing, by_directory=True):
        assert isinstance(item, TreeEntry)
        entries.append(item)
        if item.kind is EntryKind.FILE:
            with open(item.open_file()[0], "rb") as file:
                read.append(file.read())
    assert read == [b"", b"a", b"a/b"]
    with pytest.raises(OSError, match="has left") as caught:
        entries[-1].open_file()
    assert caught.value.errno == errno.EBADF


def test_what_is_asked_and_when(tmp_path: Path, opened: Opener) -> None:
    (tmp_path / "a" / "x").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "file").write_bytes(b"")
    (tmp_path / ".holdfast-restore-1").mkdir()
    asked: list[tuple[bytes, bool]] = []

    def keep(path: bytes, is_directory: bool) -> bool:
        asked.append((path, is_directory))
        return path != b"a"

    assert items(opened(tmp_path), keep) == [(b"b", "directory"), (b"b/file", "file")]
    assert asked == [(b"a", True), (b"b", True), (b"b/file", False)]


def test_check_stops_it_and_closes_all(tmp_path: Path, opened: Opener) -> None:
    for name in "abc":
        (tmp_path / name / "inner").mkdir(parents=True)
    fd = opened(tmp_path)
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    for number in range(1, 17):
        calls = 0

        def check(last: int = number) -> None:
            nonlocal calls
            calls += 1
            if calls == last:
                raise Stopped

        with pytest.raises(Stopped):
            list(walk(fd, keep=everything, check=check, by_directory=True))
    abandoned = walk(fd, keep=everything, check=nothing, by_directory=True)
    assert [next(abandoned).path for _ in range(5)][-1] == b"b/inner"
    abandoned.close()  # type: ignore[attr-defined]
    if before:
        assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("becomes", "expected"),
    [
        ("link", "NOT_A_DIRECTORY_ANYMORE"),
        ("file", "NOT_A_DIRECTORY_ANYMORE"),
        ("fifo", "NOT_A_DIRECTORY_ANYMORE"),
        ("gone", "VANISHED"),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_a_directory_replaced_after_it_was_listed(
    tmp_path: Path, opened: Opener, becomes: str, expected: str, late: bool
) -> None:
    victim = tmp_path / "root" / "dir"
    victim.mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_bytes(b"")
    (tmp_path / "root" / "z").write_bytes(b"")

    def keep(path: bytes, is_directory: bool) -> bool:
        if path == (b"z" if late else b"dir"):
            victim.rmdir()
            if becomes == "link":
                victim.symlink_to(tmp_path / "secret")
            elif becomes == "file":
                victim.write_bytes(b"")
            elif becomes == "fifo":
                os.mkfifo(victim)
        return True

    found = items(opened(tmp_path / "root"), keep)
    assert found == [(b"dir", "directory"), (b"z", "file"), (b"dir", expected)]


def test_a_directory_replaced_by_the_services_own_is_not_entered(tmp_path: Path, opened: Opener) -> None:
    (tmp_path / "root" / "dir").mkdir(parents=True)
    (tmp_path / "data" / "secret").mkdir(parents=True)
    data = (tmp_path / "data").stat()
    found: list[tuple[bytes, str]] = []
    skip = {(data.st_dev, data.st_ino)}
    for item in walk(
        opened(tmp_path / "root"), keep=everything, check=nothing, skip_identities=skip, by_directory=True
    ):
        found.append((item.path, str(item.kind if isinstance(item, TreeEntry) else item.reason)))
        if len(found) == 1:
            (tmp_path / "root" / "dir").rename(tmp_path / "aside")
            (tmp_path / "data").rename(tmp_path / "root" / "dir")
    assert found == [(b"dir", "directory"), (b"dir", "SERVICE_DATA_SKIPPED")]


def test_a_file_that_became_a_directory_is_what_it_was_when_it_was_examined(tmp_path: Path, opened: Opener) -> None:
    victim = tmp_path / "name"
    victim.write_bytes(b"")
    asked: list[bool] = []

    def keep(path: bytes, is_directory: bool) -> bool:
        if path == b"name":
            asked.append(is_directory)
            victim.unlink()
            (victim / "inner").mkdir(parents=True)
        return True

    assert items(opened(tmp_path), keep) == [(b"name", "file")]
    assert asked == [False]


def test_a_directory_that_cannot_be_listed_to_its_end_gives_what_it_gave(
    tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"")

    def refuse(_: int) -> list[str]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "listdir", refuse)
    assert items(opened(tmp_path)) == [(b"a", "file"), (b"b", "file")]


def test_unreadable_directories(
    tmp_path: Path, opened: Opener, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    (tmp_path / "shut").mkdir()
    (tmp_path / "shut").chmod(0)
    (tmp_path / "z").write_bytes(b"")
    if os.geteuid() == 0:
        for path in [tmp_path, *tmp_path.iterdir()]:
            os.chown(path, NOBODY, -1)
    fd = opened(tmp_path)
    with unprivileged():
        assert items(fd) == [(b"shut", "directory"), (b"z", "file"), (b"shut", "PERMISSION_DENIED")]
    (tmp_path / "shut").chmod(0o700)


def test_the_data_directory_is_named_once(tmp_path: Path, opened: Opener) -> None:
    (tmp_path / "a" / "data" / "x").mkdir(parents=True)
    data = (tmp_path / "a" / "data").stat()
    skip = {(data.st_dev, data.st_ino)}
    fd = opened(tmp_path)
    found = list(walk(fd, keep=everything, check=nothing, skip_identities=skip, by_directory=True))
    assert [(item.path, type(item)) for item in found] == [(b"a", TreeEntry), (b"a/data", TreeProblem)]


def test_mount_loops_and_other_devices(tmp_path: Path, opened: Opener, mount: Mounter) -> None:
    (tmp_path / "a" / "loop").mkdir(parents=True)
    (tmp_path / "disk").mkdir()
    mount("--bind", tmp_path, tmp_path / "a" / "loop")
    mount("-t", "tmpfs", "tmpfs", tmp_path / "disk")
    (tmp_path / "disk" / "file").write_bytes(b"")
    fd = opened(tmp_path)
    assert items(fd) == [(b"a", "directory"), (b"disk", "directory"), (b"a/loop", "MOUNT_LOOP"), (b"disk/file", "file")]
    found = walk(fd, keep=everything, check=nothing, cross_devices=False, by_directory=True)
    assert [item.path for item in found] == [b"a", b"disk", b"a/loop"]


def test_any_depth_with_few_open_directories(roomy: Path, opened: Opener) -> None:
    fd = opened(roomy)
    deep_tree(fd, 2000, b"deep")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir("/proc/self/fd"))) if os.path.isdir("/proc/self/fd") else 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + OPEN_LEVELS + 8, limits[1]))
    try:
        count = longest = 0
        for item in walk(fd, keep=everything, check=nothing, by_directory=True):
            assert isinstance(item, TreeEntry)
            if item.kind is EntryKind.FILE:
                os.close(item.open_file()[0])
            count += 1
            longest = max(longest, len(item.path))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert count == 4000
    assert longest == 2000 * 5 + 1


def test_moved_away_while_inside(tmp_path: Path, opened: Opener) -> None:
    """What is still to be entered above is said to be missing; what is entered was listed from its own descriptor."""
    fd = opened(tmp_path)
    depth = OPEN_LEVELS * 2
    deep_tree(fd, depth, b"d")
    path = lambda levels: "/".join(["d"] * levels)  # noqa: E731
    for levels in range(1, depth):
        (tmp_path / path(levels) / "later").mkdir()
    (tmp_path / "aside").mkdir()
    seen: list[tuple[bytes, str]] = []
    moved = False
    for item in walk(fd, keep=lambda p, _: not p.startswith(b"aside"), check=nothing, by_directory=True):
        if item.path.count(b"/") == depth and not moved:
            os.rename(tmp_path / path(20), tmp_path / "aside" / "twenty")
            os.rename(tmp_path / path(10), tmp_path / "aside" / "ten")
            moved = True
        elif moved:
            seen.append((item.path, str(item.kind if isinstance(item, TreeEntry) else item.reason)))
    assert moved
    # `later` of the other levels is entered and empty; 10 … 19 are found no more.
    assert seen == [(path(levels).encode(), "VANISHED") for levels in range(19, 9, -1)]


def test_at_the_process_limits_the_walk_fails(tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    fd = opened(tmp_path)
    original = os.open

    def refuse(path: bytes, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == b"a":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return original(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        items(fd)
