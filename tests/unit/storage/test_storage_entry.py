from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from holdfast_server.storage import entry as entry_module
from holdfast_server.storage.tree import TreeEntry, read_xattrs, walk

from .conftest import Opener
from .test_storage_tree import everything, nothing


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """A folder whose file system keeps extended attributes."""
    try:
        os.setxattr(tmp_path, b"user.test", b"")
        os.removexattr(tmp_path, b"user.test")
    except (AttributeError, OSError):
        pytest.skip("there are no extended attributes here")
    return tmp_path


def entries(fd: int) -> dict[bytes, tuple[tuple[bytes, bytes], ...]]:
    found = {}
    for item in walk(fd, keep=everything, check=nothing, by_directory=True):
        assert isinstance(item, TreeEntry)
        found[item.path] = item.xattrs()
    return found


@pytest.mark.parametrize("proc", [True, False])
def test_xattrs_of_every_kind(labelled: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch, proc: bool) -> None:
    monkeypatch.setattr(entry_module, "_HAS_PROC", proc and os.path.isdir("/proc/self/fd"))
    (labelled / "dir").mkdir()
    (labelled / "dir" / "plain").write_bytes(b"")
    odd = os.fsencode(labelled) + b"/dir/\xff\n"
    os.close(os.open(odd, os.O_CREAT))
    os.setxattr(odd, b"user.zz", b"\0\xff" * 300)
    os.setxattr(odd, b"user.\xfe", b"")
    os.setxattr(labelled / "dir", b"user.a", b"1")
    (labelled / "link").symlink_to("dir")
    assert entries(opened(labelled)) == {
        b"dir": ((b"user.a", b"1"),),
        b"link": (),
        b"dir/plain": (),
        b"dir/\xff\n": ((b"user.zz", b"\0\xff" * 300), (b"user.\xfe", b"")),
    }
    fd = os.open(odd, os.O_RDONLY)
    assert read_xattrs(fd) == ((b"user.zz", b"\0\xff" * 300), (b"user.\xfe", b""))
    os.close(fd)
    assert read_xattrs(opened(labelled / "dir")) == ((b"user.a", b"1"),)


@pytest.mark.parametrize("proc", [True, False])
def test_xattrs_follow_no_link(labelled: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch, proc: bool) -> None:
    monkeypatch.setattr(entry_module, "_HAS_PROC", proc and os.path.isdir("/proc/self/fd"))
    (labelled / "root").mkdir()
    (labelled / "root" / "file").write_bytes(b"")
    (labelled / "secret").write_bytes(b"")
    os.setxattr(labelled / "secret", b"user.secret", b"1")
    tree = walk(opened(labelled / "root"), keep=everything, check=nothing, by_directory=True)
    entry = next(tree)
    assert isinstance(entry, TreeEntry)
    (labelled / "root" / "file").unlink()
    (labelled / "root" / "file").symlink_to(labelled / "secret")
    if entry_module._HAS_PROC:
        assert entry.xattrs() == ()
    else:
        with pytest.raises(OSError) as caught:  # noqa: PT011
            entry.xattrs()
        assert caught.value.errno == errno.ELOOP
    (labelled / "root" / "file").unlink()
    with pytest.raises(FileNotFoundError):
        entry.xattrs()
    list(tree)
    with pytest.raises(OSError, match="has left") as caught:
        entry.xattrs()
    assert caught.value.errno == errno.EBADF


def test_errors_of_xattrs(labelled: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    os.setxattr(labelled, b"user.a", b"1")
    os.setxattr(labelled, b"user.b", b"2")
    fd = opened(labelled)
    original = os.getxattr

    def some(place: int, name: str, *, follow_symlinks: bool) -> bytes:
        if name == "user.a":
            raise OSError(failure, os.strerror(failure))
        return original(place, name, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(os, "getxattr", some)
    failure = errno.ENODATA
    assert read_xattrs(fd) == ((b"user.b", b"2"),)
    failure = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        read_xattrs(fd)

    def none(place: int, *, follow_symlinks: bool) -> list[str]:
        raise OSError(failure, os.strerror(failure))

    monkeypatch.setattr(os, "listxattr", none)
    for code in (errno.ENOTSUP, errno.EPERM, errno.ENODATA):
        failure = code
        assert read_xattrs(fd) == ()
    failure = errno.EACCES
    with pytest.raises(PermissionError):
        read_xattrs(fd)
