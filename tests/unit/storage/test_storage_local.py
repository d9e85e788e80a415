from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.errors import (
    FailedPrecondition,
    HoldfastError,
    Internal,
    Reason,
    ResourceExhausted,
    Unavailable,
)
from holdfast_server.storage import local, syscalls
from tests.harness import PATIENCE, until

from .conftest import NOBODY, Mounter, Opener


class Fault:
    """Replaces a function; its call number `at` fails (the one-based count), the others pass."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: object, name: str, code: int, at: int = 1) -> None:
        self.calls = 0
        self.fired = 0
        original = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            if self.calls == at:
                self.fired += 1
                raise OSError(code, os.strerror(code))
            return original(*arguments, **named)

        patch.setattr(owner, name, call)


def no_rename_flags(patch: pytest.MonkeyPatch, code: int) -> list[int]:
    calls: list[int] = []

    def refuse(*_: object, **__: object) -> None:
        calls.append(code)
        raise OSError(code, os.strerror(code))

    patch.setattr(syscalls, "rename_without_replace", refuse)
    return calls


@pytest.fixture(params=["renameat2", errno.ENOSYS, errno.EINVAL])
def any_kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """With and without RENAME_NOREPLACE; the result says whether the intended way was taken."""
    if request.param == "renameat2":
        return lambda: True
    calls = no_rename_flags(monkeypatch, request.param)
    return lambda: bool(calls)


def test_publish_renames(tmp_path: Path, opened: Opener, any_kernel: Callable[[], bool]) -> None:
    (tmp_path / "a.partial").write_bytes(b"new")
    local.publish(opened(tmp_path), b"a.partial", b"a.zip")
    assert any_kernel()
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.zip", b"new")]


@pytest.mark.parametrize("taken", ["file", "directory", "dangling link"])
def test_publish_never_replaces(tmp_path: Path, opened: Opener, any_kernel: Callable[[], bool], taken: str) -> None:
    (tmp_path / "a.partial").write_bytes(b"new")
    final = tmp_path / "a.zip"
    if taken == "file":
        final.write_bytes(b"old")
    elif taken == "directory":
        final.mkdir()
    else:
        final.symlink_to("nowhere")
    before = final.lstat()
    with pytest.raises(FileExistsError):
        local.publish(opened(tmp_path), b"a.partial", b"a.zip")
    assert any_kernel()
    assert final.lstat() == before
    assert (tmp_path / "a.partial").read_bytes() == b"new"


def test_of_racing_publishers_exactly_one_wins(tmp_path: Path, opened: Opener, any_kernel: Callable[[], bool]) -> None:
    fd = opened(tmp_path)
    racers = 2
    for number in range(60):
        barrier = threading.Barrier(racers)
        won: list[int] = []

        def race(racer: int, number: int = number, barrier: threading.Barrier = barrier, won: list[int] = won) -> None:
            temporary = f"{number}.{racer}.partial".encode()
            (tmp_path / os.fsdecode(temporary)).write_bytes(b"%d" % racer)
            barrier.wait()
            try:
                local.publish(fd, temporary, b"%d.zip" % number)
            except FileExistsError:
                return
            won.append(racer)

        threads = [threading.Thread(target=race, args=(racer,)) for racer in range(racers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert (tmp_path / f"{number}.zip").read_bytes() == b"%d" % won[0]
    assert any_kernel()


def test_publish_syncs_the_directory_after_the_rename(
    tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"x")
    seen: list[list[str]] = []
    monkeypatch.setattr(os, "fsync", lambda fd: seen.append(os.listdir(fd)))
    local.publish(opened(tmp_path), b"a", b"b")
    assert seen == [["b"]]


def test_publish_passes_other_errors_on(tmp_path: Path, opened: Opener) -> None:
    with pytest.raises(FileNotFoundError):
        local.publish(opened(tmp_path), b"missing", b"b")
    with pytest.raises(ValueError, match="null"):
        local.publish(opened(tmp_path), b"a\0", b"b")


def test_a_directory_that_cannot_be_synced_at_all_is_let_pass(
    tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Fault(monkeypatch, os, "fsync", errno.EINVAL)
    local.fsync_directory(opened(tmp_path))
    assert fault.fired == 1
    fault = Fault(monkeypatch, os, "fsync", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        local.fsync_directory(opened(tmp_path))
    assert fault.fired == 1


def test_a_failed_fsync_is_not_repeated(tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "name").write_bytes(b"old")
    fault = Fault(monkeypatch, os, "fsync", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        local.write_file(opened(tmp_path), b"name", b"new")
    assert (fault.calls, fault.fired) == (1, 1)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("name", b"old")]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EMFILE])
@pytest.mark.parametrize("call", ["open", "fchmod", "write", "fsync", "rename"])
def test_write_file_fails_clean(
    tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    fd = opened(tmp_path)
    (tmp_path / "name").write_bytes(b"old")
    fault = Fault(monkeypatch, os, call, code)
    with pytest.raises(OSError) as caught:  # noqa: PT011
        local.write_file(fd, b"name", b"new")
    assert fault.fired == 1
    assert caught.value.errno == code
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("name", b"old")]


def test_write_file_goes_on_after_short_writes(tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.write
    sizes: list[int] = []

    def short(fd: int, data: memoryview) -> int:
        sizes.append(len(data))
        return original(fd, data[:3])

    monkeypatch.setattr(os, "write", short)
    local.write_file(opened(tmp_path), b"name", b"12345678")
    assert sizes == [8, 5, 2]
    assert (tmp_path / "name").read_bytes() == b"12345678"


def test_write_file_sets_the_mode_whatever_the_umask(tmp_path: Path, opened: Opener) -> None:
    fd = opened(tmp_path)
    previous = os.umask(0o077)
    try:
        local.write_file(fd, b"public", b"", 0o644)
        local.write_file(fd, b"secret", b"")
        local.write_file(fd, b"n" * 255, b"")
    finally:
        os.umask(previous)
    assert (tmp_path / "public").stat().st_mode & 0o7777 == 0o644
    assert (tmp_path / "secret").stat().st_mode & 0o7777 == 0o600


def test_create_file_does_not_replace(tmp_path: Path, opened: Opener) -> None:
    fd = opened(tmp_path)
    local.create_file(fd, b"name", b"first")
    with pytest.raises(FileExistsError):
        local.create_file(fd, b"name", b"second")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("name", b"first")]


def test_a_full_disk_leaves_the_old_state(tmp_path: Path, opened: Opener, mount: Mounter) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=128k", "tmpfs", disk)
    fd = opened(disk)
    local.write_file(fd, b"name", b"old")
    assert 0 < local.free_bytes(fd) < 128 * 1024
    with pytest.raises(OSError, match="No space left") as caught:
        local.write_file(fd, b"name", bytes(1 << 20))
    assert local.translate_os_error(caught.value, "writing").reason is Reason.DISK_FULL
    assert [(p.name, p.read_bytes()) for p in disk.iterdir()] == [("name", b"old")]


def test_writing_back_early(tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on until it is left, through a descriptor of its own, and lets go of that."""
    fd, synced = opened(tmp_path), threading.Semaphore(0)
    told: list[int] = []

    def syncfs(given: int) -> None:
        told.append(given)
        assert os.path.samestat(os.fstat(given), os.fstat(fd))
        synced.release()

    monkeypatch.setattr(syscalls, "syncfs", syncfs)
    monkeypatch.setattr(local, "_WRITE_BACK_SECONDS", 0.001)
    with local.writing_back(fd):
        for _ in range(3):
            assert synced.acquire(timeout=PATIENCE)
    (own,) = set(told)
    assert own != fd
    until(lambda: not any(one.name == "write-back" for one in threading.enumerate()), "the end of the thread")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(own)


def test_writing_back_early_raises_nothing(tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is told by `sync_filesystem`, whose descriptor has yet to hear of it."""
    fd = opened(tmp_path)
    fault = Fault(monkeypatch, syscalls, "syncfs", errno.EIO)
    monkeypatch.setattr(local, "_WRITE_BACK_SECONDS", 0.001)
    with local.writing_back(fd):
        until(lambda: fault.fired, "the fault")
    with pytest.raises(RuntimeError, match="from within"), local.writing_back(fd):
        raise RuntimeError("from within")


def test_sync_filesystem(tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = opened(tmp_path)
    local.sync_filesystem(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        local.sync_filesystem(-1)
    fault = Fault(monkeypatch, syscalls, "syncfs", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        local.sync_filesystem(fd)
    assert (fault.calls, fault.fired) == (1, 1)
    synced: list[bool] = []
    fault = Fault(monkeypatch, syscalls, "syncfs", errno.ENOSYS)
    monkeypatch.setattr(os, "sync", lambda: synced.append(True))
    local.sync_filesystem(fd)
    assert fault.fired == 1
    assert synced == [True]


@pytest.mark.parametrize(
    ("release", "reports"),
    [("5.8.0-1-amd64", True), ("5.7.19", False), ("6.1.0", True), ("4.19", False), ("odd", False)],
)
def test_whether_syncfs_reports_errors(monkeypatch: pytest.MonkeyPatch, release: str, reports: bool) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(syscalls, "_syncfs", lambda _: 0)
    monkeypatch.setattr("platform.release", lambda: release)
    assert syscalls.syncfs_reports_errors() is reports


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (errno.ENOSPC, ResourceExhausted, Reason.DISK_FULL),
        (errno.EDQUOT, ResourceExhausted, Reason.QUOTA_EXCEEDED),
        (errno.EFBIG, ResourceExhausted, Reason.QUOTA_EXCEEDED),
        (errno.EIO, Unavailable, Reason.STORAGE_UNREACHABLE),
        (errno.ESTALE, Unavailable, Reason.STORAGE_UNREACHABLE),
        (errno.ENODEV, Unavailable, Reason.STORAGE_UNREACHABLE),
        (errno.EMFILE, Unavailable, Reason.STORAGE_UNREACHABLE),
        (errno.EACCES, FailedPrecondition, Reason.FOLDER_NOT_WRITABLE),
        (errno.EPERM, FailedPrecondition, Reason.FOLDER_NOT_WRITABLE),
        (errno.EROFS, FailedPrecondition, Reason.FOLDER_NOT_WRITABLE),
        (errno.ENOENT, FailedPrecondition, Reason.FOLDER_NOT_FOUND),
        (errno.EDOM, Internal, Reason.INTERNAL),
    ],
)
def test_translate_os_error(code: int, kind: type[HoldfastError], reason: Reason) -> None:
    error = local.translate_os_error(OSError(code, os.strerror(code)), "writing /b/x.zip")
    assert type(error) is kind
    assert error.reason is reason
    assert error.metadata == {"errno": errno.errorcode[code], "what": "writing /b/x.zip"}
    assert error.message.startswith("writing /b/x.zip failed: ")
    assert (error.retry_after is not None) is (kind is Unavailable)


def test_remove_tree_counts_and_follows_no_link(tmp_path: Path, opened: Opener) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"kept")
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "one").write_bytes(b"12345")
    (tree / "a" / "two").write_bytes(b"123")
    (tree / "a" / "b" / "link").symlink_to(outside)
    (tree / "hard").hardlink_to(outside / "kept")
    os.mkfifo(tree / "fifo")
    assert local.remove_tree(opened(tmp_path), b"tree") == (5, 8)
    assert [(p.name, p.read_bytes()) for p in outside.iterdir()] == [("kept", b"kept")]
    assert [p.name for p in tmp_path.iterdir()] == ["outside"]


def test_remove_tree_of_no_directory(tmp_path: Path, opened: Opener) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "file").write_bytes(b"123")
    fd = opened(tmp_path)
    assert local.remove_tree(fd, b"missing") == (0, 0)
    assert local.remove_tree(fd, b"file") == (1, 3)
    assert local.remove_tree(fd, b"link") == (1, 0)
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


def deep_tree(fd: int, depth: int, name: bytes) -> None:
    """Directories of one name inside each other, a file `z` in each; `fd` is left open."""
    current = os.dup(fd)
    for _ in range(depth):
        os.mkdir(name, dir_fd=current)
        following = os.open(name, os.O_RDONLY, dir_fd=current)
        os.close(current)
        current = following
        os.close(os.open(b"z", os.O_WRONLY | os.O_CREAT, dir_fd=current))
    os.close(current)


def test_remove_tree_takes_any_depth(roomy: Path, opened: Opener) -> None:
    fd = opened(roomy)
    deep_tree(fd, 5000, b"deep")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    most = calls = 0

    def check() -> None:
        nonlocal most, calls
        calls += 1
        if before and calls % 50 == 0:
            most = max(most, len(os.listdir("/proc/self/fd")) - before)

    assert local.remove_tree(fd, b"deep", check=check) == (5000, 0)
    assert os.listdir(fd) == []
    assert calls > 5000
    assert most < 80


def test_remove_tree_enters_what_denies_it(
    tmp_path: Path, opened: Opener, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    fd = opened(tmp_path)
    for path, mode in [("tree/shut/inner", 0o000), ("tree/shut", 0o000), ("tree/readonly", 0o555), ("tree", 0o300)]:
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
        (tmp_path / path / "file").write_bytes(b"1")
        (tmp_path / path).chmod(mode)
    if os.geteuid() == 0:
        for path in [tmp_path, *tmp_path.rglob("*")]:
            os.chown(path, NOBODY, -1)
    with unprivileged():
        with pytest.raises(PermissionError):
            os.listdir(os.open(b"tree", os.O_RDONLY, dir_fd=fd))
        assert local.remove_tree(fd, b"tree") == (4, 4)
    assert os.listdir(fd) == []


@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
def test_remove_tree_refuses_mounts(tmp_path: Path, opened: Opener, mount: Mounter, kind: str) -> None:
    outside, point = tmp_path / "outside", tmp_path / "tree" / "a" / "point"
    outside.mkdir()
    point.mkdir(parents=True)
    if kind == "bind":
        mount("--bind", outside, point)
    else:
        mount("-t", "tmpfs", "tmpfs", point)
    (point / "kept").write_bytes(b"kept")
    with pytest.raises(OSError, match="mounted here") as caught:
        local.remove_tree(opened(tmp_path), b"tree")
    assert caught.value.errno == errno.EXDEV
    assert (point / "kept").read_bytes() == b"kept"


def test_remove_tree_is_stopped_by_check(tmp_path: Path, opened: Opener) -> None:
    (tmp_path / "tree").mkdir()
    for number in range(10):
        (tmp_path / "tree" / str(number)).write_bytes(b"")
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        local.remove_tree(opened(tmp_path), b"tree", check=check)
    assert len(list((tmp_path / "tree").iterdir())) == 7


def test_remove_tree_does_not_follow_a_directory_swapped_for_a_link(tmp_path: Path, opened: Opener) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"kept")
    inner = tmp_path / "tree" / "inner"
    inner.mkdir(parents=True)
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:  # `inner` is listed as a directory and about to be entered
            inner.rmdir()
            inner.symlink_to(outside)

    assert local.remove_tree(opened(tmp_path), b"tree", check=check) == (1, 0)
    assert calls >= 2
    assert [p.name for p in outside.iterdir()] == ["kept"]


def test_remove_tree_gives_itself_no_right_to_a_mount(
    tmp_path: Path, opened: Opener, mount: Mounter, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    point = tmp_path / "tree" / "point"
    point.mkdir(parents=True)
    mount("-t", "tmpfs", "-o", f"mode=0000,uid={NOBODY}", "tmpfs", point)
    for path in (tmp_path, tmp_path / "tree"):
        os.chown(path, NOBODY, -1)
    fd = opened(tmp_path)
    with unprivileged(), pytest.raises(OSError, match="mounted here"):
        local.remove_tree(fd, b"tree")
    assert point.stat().st_mode & 0o777 == 0
