"""Whole objects in a folder of a local file system.

Each object is written under an unguessable name in `.tmp`, synced and renamed, and the folder of its class is synced. A
failed sync is final: the object is withdrawn and the call fails.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Self, TypeVar

from holdfast_server.errors import FailedPrecondition, Reason
from holdfast_server.storage.descent import DIRECTORY_FLAGS
from holdfast_server.storage.local import fsync_directory, fsync_file, rename_file, translate_os_error
from holdfast_server.storage.object_names import (
    FLAT_CLASSES,
    Buffer,
    ObjectInfo,
    ObjectMissing,
    check_created,
    check_prefix,
    check_range,
    checked_name,
    is_name,
)
from holdfast_server.storage.reserve import NO_ROOM, Reserve

__all__ = ["LocalObjects"]

_STAGING = ".tmp"
_RESERVE = b".reserve"
#: Enough for a new pack of the largest size (32 MiB and what pads it) with its index object and log entries; and as
#: many inodes as files.
_RESERVE_FILES, _RESERVE_SHARE = 20, 2 << 20
_CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: Opening a FIFO that somebody planted must not wait for its writer.
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAX_PARTS = 1024  # IOV_MAX of Linux and macOS

#: What `open` says of a link, a socket or a device without a driver.
_NO_OBJECT = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV})
#: Something else stands where a folder or an object belongs, or another file system is mounted there.
_IN_THE_WAY = frozenset({errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EXDEV})

Answer = TypeVar("Answer")


class LocalObjects:
    """A store in a folder: each object a file of mode 0600 in a folder of mode 0700 for its class.

    Nothing in the folder is reached through a link, and what is no regular file is no object. `folder_fd` stays the
    caller's; `where` names the folder in messages.
    """

    def __init__(self, folder_fd: int, where: str = "the repository's folder") -> None:
        self._where = where
        self._folders: dict[str, int] = {}
        self._durable: set[str] = set()
        self._lock = threading.Lock()
        self._root = os.open(b".", DIRECTORY_FLAGS, dir_fd=folder_fd)
        self._reserve = Reserve(_RESERVE, _RESERVE_FILES, _RESERVE_SHARE, self._root)
        self._using_reserve = 0

    def __str__(self) -> str:
        return self._where

    def close(self) -> None:
        """Give the opened folders back. No other call may be under way or follow."""
        with self._lock:
            for fd in (*self._folders.values(), self._root):
                os.close(fd)
            self._folders.clear()
            self._root = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def put(self, name: str, parts: Sequence[Buffer]) -> None:
        self._write(checked_name(name), parts, replace=True)

    def create_if_absent(self, name: str, content: bytes) -> bool:
        check_created(content)
        return self._write(checked_name(name), (content,), replace=False)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        check_range(offset, length)
        folder, last = _split(name)
        with self._translated("reading", name), self._present(name), self._folder(folder) as directory:
            fd = os.open(last, _READ_FLAGS, dir_fd=directory)
            try:
                size = self._object_size(name, os.fstat(fd))
                end = size if length is None else min(size, offset + length)
                return _read(fd, offset, max(0, end - offset))
            finally:
                os.close(fd)

    def size(self, name: str) -> int:
        folder, last = _split(name)
        with self._translated("reading", name), self._present(name), self._folder(folder) as directory:
            return self._object_size(name, os.stat(last, dir_fd=directory, follow_symlinks=False))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        return self._list(prefix)

    def delete(self, name: str) -> None:
        folder, last = _split(name)

        def unlink() -> None:
            with contextlib.suppress(FileNotFoundError), self._folder(folder) as directory:
                os.unlink(last, dir_fd=directory)

        with self._translated("deleting", name):
            self._with_room(unlink)

    @contextlib.contextmanager
    def use_reserve(self) -> Iterator[None]:
        try:
            with self._reserve.in_use():
                with self._lock:
                    self._using_reserve += 1
                try:
                    yield
                finally:
                    with self._lock:
                        self._using_reserve -= 1
        finally:
            self.keep_reserve()

    def keep_reserve(self) -> None:
        self._reserve.keep()

    def _with_room(self, change: Callable[[], Answer]) -> Answer:
        """Make a change, which leaves nothing behind when it fails; if it may use the reserve, again when it must."""
        try:
            return change()
        except OSError as error:
            if error.errno not in NO_ROOM or not self._using_reserve:
                raise
        self._reserve.release()  # nothing, if another thread was faster
        return change()

    def clean(self, older_than_seconds: float) -> int:
        """Remove what dead processes left of unfinished objects, if it is that old; returns the number of files.

        A process that still writes such a file fails to publish it, so the age should be well above what a put takes.
        """
        before = time.time() - older_than_seconds
        removed = 0
        with self._translated("cleaning", _STAGING):
            for entry in self._scan(_STAGING):
                with contextlib.suppress(FileNotFoundError), self._folder(_STAGING) as directory:
                    if not entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_mtime <= before:
                        os.unlink(entry.name, dir_fd=directory)
                        removed += 1
        return removed

    def _write(self, name: str, parts: Sequence[Buffer], *, replace: bool) -> bool:
        with self._translated("writing", name):
            return self._with_room(lambda: self._write_once(name, parts, replace=replace))

    def _write_once(self, name: str, parts: Sequence[Buffer], *, replace: bool) -> bool:
        folder, last = _split(name)
        temporary = secrets.token_hex(16).encode()
        with self._folder(folder, create=True) as target, self._folder(_STAGING, create=True) as staging:
            fd = os.open(temporary, _CREATE_FLAGS, 0o600, dir_fd=staging)
            try:
                _write_parts(fd, parts)
                fsync_file(fd)
                return _publish(fd, staging, temporary, target, last, replace=replace)
            finally:
                with contextlib.suppress(OSError):  # the usual case: it has its final name
                    os.unlink(temporary, dir_fd=staging)
                with contextlib.suppress(OSError):  # closing tells nothing that the sync has not told
                    os.close(fd)

    @contextlib.contextmanager
    def _folder(self, path: str, *, create: bool = False) -> Iterator[int]:
        """The opened folder; those of classes stay open."""
        top, _, below = path.partition("/")
        fd = self._top_folder(top, create) if top else self._root
        if not below:
            yield fd
            return
        inner = self._open(fd, path, create)
        try:
            yield inner
        finally:
            os.close(inner)

    def _top_folder(self, name: str, create: bool) -> int:
        with self._lock:
            fd = self._folders.get(name, -1)
            if fd < 0 or (create and name not in self._durable):
                opened = self._open(self._root, name, create)
                if fd < 0:
                    fd = self._folders[name] = opened
                else:
                    os.close(opened)  # others may be using the first one
        return fd

    def _open(self, parent: int, path: str, create: bool) -> int:
        name = path.rpartition("/")[2]
        if create and path not in self._durable:
            _make_folder(parent, name)
            self._durable.add(path)
        return os.open(name, DIRECTORY_FLAGS, dir_fd=parent)

    def _list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._translated("listing", prefix or "all objects"):
            if "config".startswith(prefix):
                with contextlib.suppress(ObjectMissing):
                    yield ObjectInfo("config", self.size("config"))
            folders = [folder for folder in FLAT_CLASSES if not prefix or prefix.startswith(f"{folder}/")]
            if not prefix or prefix.startswith("log/"):
                folders += [f"log/{e.name}" for e in self._scan("log") if e.is_dir(follow_symlinks=False)]
            for folder in folders:
                if folder.startswith(prefix) or prefix.startswith(f"{folder}/"):
                    yield from self._objects_in(folder, prefix)

    def _objects_in(self, folder: str, prefix: str) -> Iterator[ObjectInfo]:
        for entry in self._scan(folder):
            name = f"{folder}/{entry.name}"
            if not name.startswith(prefix) or not is_name(name):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISREG(status.st_mode):
                yield ObjectInfo(name, status.st_size)

    def _scan(self, folder: str) -> Iterator[os.DirEntry[str]]:
        """The entries of a folder, none if it does not exist."""
        try:
            with self._folder(folder) as directory:
                # A description of its own: two listings of one would share their position.
                fd = os.open(b".", DIRECTORY_FLAGS, dir_fd=directory)
        except FileNotFoundError:
            self._refuse_removed()
            return
        try:
            with os.scandir(fd) as entries:
                yield from entries
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _present(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno == errno.ENOENT:
                self._refuse_removed()
            elif error.errno not in _NO_OBJECT:
                raise
            raise ObjectMissing(name) from error

    def _refuse_removed(self) -> None:
        """An opened folder that was removed is empty, and would seem to have lost everything."""
        if os.fstat(self._root).st_nlink == 0:
            raise OSError(errno.ESTALE, "the folder was removed")

    @staticmethod
    def _object_size(name: str, status: os.stat_result) -> int:
        if not stat.S_ISREG(status.st_mode):
            raise ObjectMissing(name)
        return status.st_size

    @contextlib.contextmanager
    def _translated(self, doing: str, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = f"{doing} {name} in {self._where}"
            if error.errno not in _IN_THE_WAY:
                raise translate_os_error(error, what) from error
            number = errno.errorcode[error.errno]
            text = (
                f"{what} failed, as something is in the way that the service did not make: {error.strerror} ({number})"
            )
            metadata = {"errno": number, "what": what}
            raise FailedPrecondition(Reason.STORE_UNSUITABLE, text, metadata=metadata) from error


def _make_folder(parent: int, name: str) -> None:
    """Make a folder unless it is there, and see to it that it stays."""
    made = True
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        made = False
    try:
        fsync_directory(parent)  # though it was there: whoever made it may not have come so far
    except OSError:
        if made:  # or the next attempt would find it and sync nothing
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=parent)
        raise


def _split(name: str) -> tuple[str, str]:
    folder, _, last = checked_name(name).rpartition("/")
    return folder, last


def _write_parts(fd: int, parts: Sequence[Buffer]) -> None:
    views = [view for view in (memoryview(part).cast("B") for part in parts) if view]
    position = 0
    while position < len(views):
        written = os.writev(fd, views[position : position + _MAX_PARTS])
        while position < len(views) and written >= len(views[position]):
            written -= len(views[position])
            position += 1
        if written:
            views[position] = views[position][written:]


def _read(fd: int, offset: int, length: int) -> bytes:
    found = os.pread(fd, length, offset)
    if len(found) == length:
        return found
    pieces = [found]
    while found:  # more than one call can read, or the end
        offset += len(found)
        length -= len(found)
        found = os.pread(fd, length, offset)
        pieces.append(found)
    return b"".join(pieces)


def _publish(fd: int, staging: int, temporary: bytes, target: int, last: str, *, replace: bool) -> bool:
    """Give a synced file its name; False if that is taken and must not be replaced. Withdraws it when that fails."""
    name = last.encode()
    replaced = False
    try:
        try:
            rename_file(staging, temporary, target, name)
        except FileExistsError:
            if replace:
                replaced = True  # then the old one is gone, and taking the new one away would leave nothing
                os.rename(temporary, name, src_dir_fd=staging, dst_dir_fd=target)
            elif not _is_at(fd, target, name):  # else a network file system made it and lost the answer
                fsync_directory(target)  # what a caller concludes from its presence must not outlive it
                return False
        fsync_directory(target)
    except BaseException:
        if not replaced and _is_at(fd, target, name):
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=target)
        raise
    return True


def _is_at(fd: int, directory: int, name: bytes) -> bool:
    """Whether the opened file has this name."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(name, dir_fd=directory, follow_symlinks=False))
    except OSError:
        return False
