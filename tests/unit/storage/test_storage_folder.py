from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from holdfast_server.errors import FailedPrecondition, HoldfastError, InvalidArgument, Reason
from holdfast_server.storage import folder, mounts
from holdfast_server.storage.folder import lies_within, open_folder

from .conftest import Mounter, Opener


@pytest.mark.parametrize(
    "path",
    ["", "relative", "./x", "../x", "/a\0b", b"/a\0b", "/" + "x" * 256, "/a" * 3000, "/\ud800", "~"],
)
def test_malformed_paths(path: str | bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        open_folder(path, "target.folder")
    assert [violation.field for violation in caught.value.violations] == ["target.folder"]


def test_open_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(".")
    with open_folder(f"{tmp_path}/link/") as opened_folder:
        fd = opened_folder.fd
        status = tmp_path.stat()
        assert opened_folder.identity == (status.st_dev, status.st_ino)
        assert opened_folder.path == os.fsencode(f"{tmp_path}/link/")
        assert not os.get_inheritable(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    opened_folder.close()


@pytest.mark.parametrize("name", ["missing", "file", "file/below", "loop", "dangling"])
def test_what_is_no_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(FailedPrecondition) as caught:
        open_folder(str(tmp_path / name))
    assert caught.value.reason is Reason.FOLDER_NOT_FOUND
    assert caught.value.metadata["path"] == str(tmp_path / name)


def test_a_folder_without_rights(public: Path, unprivileged: Callable[[], AbstractContextManager[None]]) -> None:
    (public / "shut").mkdir(mode=0)
    with unprivileged(), pytest.raises(HoldfastError) as caught:
        open_folder(str(public / "shut"))
    assert caught.value.reason is Reason.FOLDER_NOT_WRITABLE
    assert caught.value.metadata["errno"] == "EACCES"


def test_lies_within(tmp_path: Path, opened: Opener) -> None:
    container = tmp_path / "container"
    (container / "a" / "b").mkdir(parents=True)
    (tmp_path / "containers").mkdir()
    fd = opened(container)
    assert lies_within(opened(container), fd)
    assert lies_within(opened(container / "a" / "b"), fd)
    assert not lies_within(opened(tmp_path), fd)
    assert not lies_within(opened(tmp_path / "containers"), fd)
    assert not lies_within(opened(Path("/")), fd)
    assert lies_within(fd, opened(Path("/")))


def test_spellings_change_nothing(tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    container = tmp_path / "container"
    (container / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to(container / "a")
    (tmp_path / "up").symlink_to("container/a/..")
    monkeypatch.chdir(container)
    fd = opened(container)
    spellings = [f"{tmp_path}/link", f"{tmp_path}/link/", f"{tmp_path}/up", f"{tmp_path}//container/a/../a/."]
    if os.path.isdir("/proc/self/cwd"):
        spellings += [f"/proc/self/root{container}/a", "/proc/self/cwd/a", "/proc/self/cwd", f"/proc/self/fd/{fd}/a"]
    for spelling in spellings:
        with open_folder(spelling) as alias:
            assert lies_within(alias.fd, fd), spelling


def test_bind_mounts(tmp_path: Path, opened: Opener, mount: Mounter) -> None:
    container = tmp_path / "container"
    (container / "a b" / "c").mkdir(parents=True)
    (tmp_path / "beside").mkdir()
    whole, part, other = tmp_path / "whole", tmp_path / "pa\\rt\n", tmp_path / "other"
    for point in (whole, part, other):
        point.mkdir()
    mount("--bind", container, whole)
    mount("--bind", container / "a b", part)
    mount("--bind", tmp_path / "beside", other)
    fd = opened(container)
    assert lies_within(opened(whole), fd)
    assert lies_within(opened(whole / "a b"), fd)
    assert not folder.has_ancestor(opened(part / "c"), fd)
    assert lies_within(opened(part), fd)
    assert lies_within(opened(part / "c"), fd)
    assert not lies_within(opened(other), fd)
    # The other way round: the container is itself named by a bind mount.
    assert lies_within(opened(container / "a b" / "c"), opened(part))
    assert not lies_within(opened(container), opened(part))


def test_a_disk_inside_the_container_bound_elsewhere(tmp_path: Path, opened: Opener, mount: Mounter) -> None:
    disk, elsewhere = tmp_path / "container" / "disk", tmp_path / "elsewhere"
    disk.mkdir(parents=True)
    elsewhere.mkdir()
    mount("-t", "tmpfs", "tmpfs", disk)
    (disk / "sub").mkdir()
    mount("--bind", disk / "sub", elsewhere)
    fd = opened(tmp_path / "container")
    assert lies_within(opened(elsewhere), fd)
    # Covered by another mount, the disk is no longer seen in the container.
    mount("-t", "tmpfs", "tmpfs", disk)
    (disk / "sub").mkdir()
    assert not lies_within(opened(elsewhere), fd)
    assert lies_within(opened(disk / "sub"), fd)


def test_a_directory_mounted_into_itself(tmp_path: Path, opened: Opener, mount: Mounter) -> None:
    container = tmp_path / "container"
    (container / "loop").mkdir(parents=True)
    mount("--bind", container, container / "loop")
    assert folder.has_ancestor(opened(container / "loop"), opened(container))
    # `..` of the mount has the identity of the mount itself; the way up must not end there.
    assert folder.has_ancestor(opened(container / "loop"), opened(tmp_path))


def test_without_proc_ancestors_are_compared(tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "container" / "a").mkdir(parents=True)
    monkeypatch.setattr(mounts, "read_mounts", list)
    fd = opened(tmp_path / "container")
    assert lies_within(opened(tmp_path / "container" / "a"), fd)
    assert not lies_within(opened(tmp_path), fd)


def test_a_removed_folder_is_not_located(tmp_path: Path, opened: Opener) -> None:
    (tmp_path / "gone").mkdir()
    fd = opened(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert mounts.locate(fd, mounts.read_mounts()) is None


def test_parse_mounts() -> None:
    table = (
        b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
        b"42 27 254:0 /a\\040b/c\\134d /mnt/x\\012y rw,relatime shared:1 - ext4 /dev/vda rw\n"
        b"odd line\n"
    )
    assert mounts.parse_mounts(table) == [
        mounts.Mount(27, b"254:0", b"/", b"/"),
        mounts.Mount(42, b"254:0", b"/a b/c\\d", b"/mnt/x\ny"),
    ]


@pytest.mark.parametrize(
    ("path", "container", "expected"),
    [
        (b"/a", b"/a", True),
        (b"/a/b", b"/a", True),
        (b"/ab", b"/a", False),
        (b"/a", b"/", True),
        (b"/", b"/", True),
        (b"/", b"/a", False),
    ],
)
def test_same_or_below(path: bytes, container: bytes, expected: bool) -> None:
    assert mounts.same_or_below(path, container) is expected
