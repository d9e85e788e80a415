from __future__ import annotations

import errno
import os
import resource
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_server.storage.descent import OPEN_LEVELS
from holdfast_server.storage.tree import EntryKind, ProblemReason, TreeEntry, TreeProblem, problem_from, walk

from .conftest import NOBODY, Mounter, Opener
from .test_storage_local import deep_tree

Item = TreeEntry | TreeProblem


def everything(_path: bytes, _is_directory: bool) -> bool:
    return True


def nothing() -> None:
    return None


def items(fd: int, keep: Callable[[bytes, bool], bool] = everything) -> list[tuple[bytes, str]]:
    return [(item.path, str(item.kind if isinstance(item, TreeEntry) else item.reason)) for item in visit(fd, keep)]


def visit(fd: int, keep: Callable[[bytes, bool], bool] = everything) -> Iterator[Item]:
    return walk(fd, keep=keep, check=nothing)


_names = st.binary(min_size=1, max_size=12).filter(
    lambda n: b"/" not in n and b"\0" not in n and n not in (b".", b"..")
)
_trees = st.recursive(
    st.sampled_from(["file", "link"]), lambda inner: st.dictionaries(_names, inner, max_size=5), max_leaves=25
)


def build(fd: int, tree: object) -> None:
    assert isinstance(tree, dict)
    for name, node in tree.items():
        if node == "file":
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=fd))
        elif node == "link":
            os.symlink(b"target of " + name, name, dir_fd=fd)
        else:
            os.mkdir(name, dir_fd=fd)
            child = os.open(name, os.O_RDONLY, dir_fd=fd)
            build(child, node)
            os.close(child)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(_names, _trees, max_size=6))
def test_walk_sees_what_os_walk_sees(tree: dict[bytes, object]) -> None:
    with tempfile.TemporaryDirectory() as base:
        fd = os.open(base, os.O_RDONLY)
        build(fd, tree)
        entries = list(visit(fd))
        os.close(fd)
        expected: set[bytes] = set()
        for folder, directories, files in os.walk(os.fsencode(base)):
            expected |= {os.path.relpath(os.path.join(folder, name), os.fsencode(base)) for name in directories + files}
        paths = [entry.path for entry in entries]
        # The order of paths compared component by component is: each directory first, then its names by their bytes.
        assert paths == sorted(expected, key=lambda path: path.split(b"/"))
        for entry in entries:
            assert isinstance(entry, TreeEntry)
            status = os.lstat(os.path.join(os.fsencode(base), entry.path))
            assert (entry.ino, entry.size, entry.mtime_ns, entry.mode) == (
                status.st_ino,
                status.st_size,
                status.st_mtime_ns,
                status.st_mode,
            )
            if entry.kind is EntryKind.SYMLINK:
                assert entry.link_target == b"target of " + entry.name


def test_fields_of_an_entry(tmp_path: Path, opened: Opener) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    os.link(tmp_path / "file", tmp_path / "hard")
    with open(tmp_path / "holes", "wb") as sparse:
        sparse.truncate(1 << 30)
    file, hard, holes = visit(opened(tmp_path))
    assert isinstance(file, TreeEntry)
    assert isinstance(hard, TreeEntry)
    assert isinstance(holes, TreeEntry)
    assert (file.kind, file.size, file.nlink, file.uid, file.gid) == (
        EntryKind.FILE,
        5,
        2,
        os.geteuid(),
        (tmp_path / "file").stat().st_gid,
    )
    assert (file.dev, file.ino) == (hard.dev, hard.ino)
    assert stat.S_ISREG(file.mode)
    assert file.ctime_ns == (tmp_path / "file").stat().st_ctime_ns
    assert (holes.size, holes.blocks) == (1 << 30, 0)


def test_keep_prunes(tmp_path: Path, opened: Opener) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "file").write_bytes(b"")
    asked: list[tuple[bytes, bool]] = []

    def keep(path: bytes, is_directory: bool) -> bool:
        asked.append((path, is_directory))
        return path not in (b"a/b", b"c/file")

    assert items(opened(tmp_path), keep) == [(b"a", "directory"), (b"c", "directory")]
    assert asked == [(b"a", True), (b"a/b", True), (b"c", True), (b"c/file", False)]


def test_check_stops_the_walk_and_closes_all(tmp_path: Path, opened: Opener) -> None:
    for name in "abc":
        (tmp_path / name / "inner").mkdir(parents=True)
    fd = opened(tmp_path)
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        list(walk(fd, keep=everything, check=check))
    assert calls == 5
    abandoned = visit(fd)
    next(abandoned)
    abandoned.close()  # type: ignore[attr-defined]
    if before:
        assert os.listdir("/proc/self/fd") == before


def test_special_files_are_reported(tmp_path: Path, opened: Opener) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.open(".", os.O_RDONLY)
        os.chdir(tmp_path)
        listening.bind("socket")
        os.fchdir(here)
        os.close(here)
        assert items(opened(tmp_path)) == [(b"fifo", "SPECIAL_FILE_SKIPPED"), (b"socket", "SPECIAL_FILE_SKIPPED")]


def test_staging_folders_are_passed_over(tmp_path: Path, opened: Opener) -> None:
    (tmp_path / ".holdfast-restore-1" / "x").mkdir(parents=True)
    (tmp_path / "a" / ".holdfast-restore-2").mkdir(parents=True)
    (tmp_path / ".holdfast").mkdir()
    (tmp_path / "a" / ".holdfast-restore-file").write_bytes(b"")
    assert items(opened(tmp_path)) == [
        (b".holdfast", "directory"),
        (b"a", "directory"),
        (b"a/.holdfast-restore-file", "file"),
    ]


def test_the_data_directory_is_left_out(tmp_path: Path, opened: Opener) -> None:
    (tmp_path / "a" / "data" / "x").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    fd = opened(tmp_path)
    data = (tmp_path / "a" / "data").stat()
    skip = {(data.st_dev, data.st_ino)}
    found = list(walk(fd, keep=everything, check=nothing, skip_identities=skip))
    assert [item.path for item in found] == [b"a", b"a/data", b"b"]
    assert isinstance(found[1], TreeProblem)
    assert found[1].reason is ProblemReason.SERVICE_DATA_SKIPPED
    found = list(walk(opened(tmp_path / "a" / "data"), keep=everything, check=nothing, skip_identities=skip))
    assert [(item.path, getattr(item, "reason", None)) for item in found] == [(b"", "SERVICE_DATA_SKIPPED")]


def test_any_depth_with_few_open_directories(roomy: Path, opened: Opener) -> None:
    fd = opened(roomy)
    deep_tree(fd, 5000, b"deep")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir("/proc/self/fd"))) if os.path.isdir("/proc/self/fd") else 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + OPEN_LEVELS + 8, limits[1]))
    try:
        count = longest = 0
        for item in visit(fd):
            assert isinstance(item, TreeEntry)
            if item.kind is EntryKind.FILE:
                os.close(item.open_file()[0])  # also in directories that were closed on the way down
            count += 1
            longest = max(longest, len(item.path))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert count == 10_000
    assert longest == 5000 * 5 + 1


def test_at_the_process_limits_the_walk_fails(tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    fd = opened(tmp_path)
    original, fired = os.open, []

    def refuse(path: bytes, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == b"a":
            fired.append(path)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return original(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        items(fd)
    assert fired == [b"a"]


def test_moved_away_while_inside(tmp_path: Path, opened: Opener) -> None:
    fd = opened(tmp_path)
    deep_tree(fd, OPEN_LEVELS * 2, b"d")
    path = lambda depth: "/".join(["d"] * depth)  # noqa: E731
    (tmp_path / "aside").mkdir()
    seen: list[tuple[bytes, str]] = []

    def keep(entry: bytes, is_directory: bool) -> bool:
        return not entry.startswith(b"aside")

    for item in visit(fd, keep):
        depth = item.path.count(b"/") + 1
        if depth == OPEN_LEVELS * 2 and not seen:
            # 10 and 20 lie elsewhere now: the way up from 21 ends in a stranger, and no names lead to 10 … 19.
            os.rename(tmp_path / path(20), tmp_path / "aside" / "twenty")
            os.rename(tmp_path / path(10), tmp_path / "aside" / "ten")
            seen.append((b"moved", ""))
        elif seen:
            seen.append((item.path, str(item.kind if isinstance(item, TreeEntry) else item.reason)))
    expected = [(f"{path(depth)}/z".encode(), "file") for depth in range(OPEN_LEVELS * 2, 19, -1)]
    expected += [(path(depth).encode(), "VANISHED") for depth in range(19, 9, -1)]
    expected += [(f"{path(depth)}/z".encode(), "file") for depth in range(9, 0, -1)]
    assert seen[1:] == expected


def test_moved_within_the_tree_the_way_back_is_found_by_names(tmp_path: Path, opened: Opener) -> None:
    fd = opened(tmp_path)
    deep_tree(fd, OPEN_LEVELS * 2, b"d")
    moved = False
    count = 0
    for item in visit(fd, lambda path, _: path != b"zz"):
        assert isinstance(item, TreeEntry), item
        count += 1
        if item.path.count(b"/") == OPEN_LEVELS * 2 - 1 and not moved:
            os.rename(tmp_path / "/".join(["d"] * 10), tmp_path / "zz")
            moved = True
    assert moved
    assert count == OPEN_LEVELS * 4


def test_unreadable_directories(
    tmp_path: Path, opened: Opener, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    (tmp_path / "shut").mkdir()
    (tmp_path / "shut" / "file").write_bytes(b"")
    (tmp_path / "shut").chmod(0)
    (tmp_path / "z").write_bytes(b"")
    (tmp_path / "z").chmod(0)
    if os.geteuid() == 0:
        for path in [tmp_path, *tmp_path.iterdir()]:
            os.chown(path, NOBODY, -1)
    fd = opened(tmp_path)
    with unprivileged():
        found = list(visit(fd))
        assert [(item.path, type(item)) for item in found] == [
            (b"shut", TreeEntry),
            (b"shut", TreeProblem),
            (b"z", TreeEntry),
        ]
        assert getattr(found[1], "reason", None) is ProblemReason.PERMISSION_DENIED
    tmp_path.chmod(0)
    with unprivileged():
        assert items(fd) == [(b"", "PERMISSION_DENIED")]
    tmp_path.chmod(0o700)
    (tmp_path / "shut").chmod(0o700)


def test_a_file_without_rights_cannot_be_opened(
    tmp_path: Path, opened: Opener, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "file").chmod(0)
    tmp_path.chmod(0o755)
    fd = opened(tmp_path)
    with unprivileged():
        (entry,) = walk_held(fd)
    assert entry == ProblemReason.PERMISSION_DENIED


def walk_held(fd: int) -> Iterator[ProblemReason]:
    for item in visit(fd):
        assert isinstance(item, TreeEntry)
        try:
            os.close(item.open_file()[0])
        except OSError as error:
            yield problem_from(item.path, error, "cannot be opened").reason


def test_a_mount_loop_is_reported(tmp_path: Path, opened: Opener, mount: Mounter) -> None:
    (tmp_path / "a" / "loop").mkdir(parents=True)
    mount("--bind", tmp_path, tmp_path / "a" / "loop")
    assert items(opened(tmp_path)) == [(b"a", "directory"), (b"a/loop", "MOUNT_LOOP")]


def test_other_devices(tmp_path: Path, opened: Opener, mount: Mounter) -> None:
    (tmp_path / "disk").mkdir()
    mount("-t", "tmpfs", "tmpfs", tmp_path / "disk")
    (tmp_path / "disk" / "file").write_bytes(b"")
    fd = opened(tmp_path)
    assert items(fd) == [(b"disk", "directory"), (b"disk/file", "file")]
    found = walk(fd, keep=everything, check=nothing, cross_devices=False)
    assert [item.path for item in found] == [b"disk"]


@pytest.mark.parametrize(
    ("becomes", "expected"),
    [
        ("link", "NOT_A_DIRECTORY_ANYMORE"),
        ("file", "NOT_A_DIRECTORY_ANYMORE"),
        ("fifo", "NOT_A_DIRECTORY_ANYMORE"),
        ("gone", "VANISHED"),
    ],
)
def test_a_directory_replaced_after_it_was_listed(tmp_path: Path, opened: Opener, becomes: str, expected: str) -> None:
    victim = tmp_path / "root" / "dir"
    victim.mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_bytes(b"")
    swapped = False

    def keep(path: bytes, is_directory: bool) -> bool:
        nonlocal swapped
        assert is_directory
        victim.rmdir()
        swapped = True
        if becomes == "link":
            victim.symlink_to(tmp_path / "secret")
        elif becomes == "file":
            victim.write_bytes(b"")
        elif becomes == "fifo":
            os.mkfifo(victim)
        return True

    assert items(opened(tmp_path / "root"), keep) == [(b"dir", expected)]
    assert swapped


def test_a_file_that_became_a_directory_is_entered(tmp_path: Path, opened: Opener) -> None:
    victim = tmp_path / "name"
    victim.write_bytes(b"")

    def keep(path: bytes, is_directory: bool) -> bool:
        if path == b"name" and not is_directory:
            victim.unlink()
            (victim / "inner").mkdir(parents=True)
        return True

    assert items(opened(tmp_path), keep) == [(b"name", "directory"), (b"name/inner", "directory")]


def test_open_file_follows_nothing_and_never_blocks(tmp_path: Path, opened: Opener) -> None:
    file = tmp_path / "a"
    (tmp_path / "b").write_bytes(b"secret")
    file.write_bytes(b"content")
    tree = visit(opened(tmp_path))
    entry = next(tree)
    assert isinstance(entry, TreeEntry)
    fd, _ = entry.open_file()
    assert os.read(fd, 100) == b"content"
    assert not os.get_inheritable(fd)
    os.close(fd)
    for replace, code in [
        (lambda: file.symlink_to("b"), errno.ELOOP),
        (lambda: os.mkfifo(file), errno.EINVAL),
        (lambda: None, errno.ENOENT),
        (lambda: file.mkdir(), errno.EINVAL),
    ]:
        file.unlink(missing_ok=True)
        replace()
        with pytest.raises(OSError) as caught:  # noqa: PT011
            entry.open_file()
        assert caught.value.errno == code
    list(tree)
    with pytest.raises(OSError, match="has left") as caught:
        entry.open_file()
    assert caught.value.errno == errno.EBADF


def test_open_file_leaves_access_times_alone_where_it_may(
    tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(os, "O_NOATIME"):
        pytest.skip("there is no O_NOATIME here")
    (tmp_path / "a").write_bytes(b"")
    tree = visit(opened(tmp_path))
    entry = next(tree)
    assert isinstance(entry, TreeEntry)
    original, tried = os.open, []

    def not_the_owner(path: bytes, flags: int, *, dir_fd: int) -> int:
        tried.append(bool(flags & os.O_NOATIME))
        if flags & os.O_NOATIME:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return original(path, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", not_the_owner)
    os.close(entry.open_file()[0])
    assert tried == [True, False]


def test_a_failing_listing_is_reported(tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "z").write_bytes(b"")
    bad = (tmp_path / "bad").stat().st_ino
    original, fired = os.scandir, []

    def scandir(fd: int) -> object:
        if os.fstat(fd).st_ino == bad:
            fired.append(fd)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(fd)

    monkeypatch.setattr(os, "scandir", scandir)
    assert items(opened(tmp_path)) == [(b"bad", "directory"), (b"bad", "READ_ERROR"), (b"z", "file")]
    assert len(fired) == 1


def test_messages_are_one_harmless_line(tmp_path: Path, opened: Opener) -> None:
    os.mkfifo(tmp_path / "a\n\x1b[31m")
    (problem,) = visit(opened(tmp_path))
    assert isinstance(problem, TreeProblem)
    assert problem.message.isprintable()
    assert problem.path == b"a\n\x1b[31m"


def test_a_racing_swap_never_leads_outside(tmp_path: Path, opened: Opener) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "dir").mkdir(parents=True)
    outside.mkdir()
    for folder, content in [(root / "dir", b"inside"), (outside, b"secret")]:
        (folder / "file").write_bytes(content)
    (root / "link").symlink_to(outside)
    fd = opened(root)
    done = threading.Event()

    def swap() -> None:
        try:
            for _ in range(2000):
                os.rename(b"dir", b"tmp", src_dir_fd=fd, dst_dir_fd=fd)
                os.rename(b"link", b"dir", src_dir_fd=fd, dst_dir_fd=fd)
                os.rename(b"dir", b"link", src_dir_fd=fd, dst_dir_fd=fd)
                os.rename(b"tmp", b"dir", src_dir_fd=fd, dst_dir_fd=fd)
        finally:
            done.set()

    swapper = threading.Thread(target=swap)
    swapper.start()
    outcomes: set[str] = set()
    try:
        while not done.is_set():
            for item in visit(fd):
                if isinstance(item, TreeProblem):
                    outcomes.add(item.reason)
                    continue
                if item.kind is not EntryKind.FILE:
                    continue
                with open(item.open_file()[0], "rb") as file:
                    assert file.read() == b"inside"
                outcomes.add("read")
    finally:
        swapper.join()
    assert outcomes <= {"read", ProblemReason.NOT_A_DIRECTORY_ANYMORE, ProblemReason.VANISHED}
    assert items(fd) == [(b"dir", "directory"), (b"dir/file", "file"), (b"link", "symlink")]
