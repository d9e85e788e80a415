"""Reading a source's files so that a backup holds each in one state.

A file is compared with itself before and after it was read (size, mtime, ctime, inode). One that changed meanwhile is
read again, at most three times; then it is kept with a warning and marked in the manifest.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator

from holdfast_server.records import frozen_record
from holdfast_server.storage.tree import TreeEntry, Xattrs, read_xattrs

__all__ = [
    "SMALL_FILE",
    "TRIES",
    "FileReader",
    "StableContent",
    "file_state",
    "is_sparse",
    "read_small",
    "read_unchanged",
]

#: Files up to this size are read whole before they enter the archive.
SMALL_FILE = 1 << 20
TRIES = 3

_BLOCK = 1 << 20
_LARGE_BLOCK = 8 << 20
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | getattr(os, "O_NOATIME", 0)
_ZEROS = bytes(_BLOCK)
_listxattr: Callable[[int], list[str]] | None = getattr(os, "listxattr", None)
_PAUSE = 0.02
_STATE = struct.Struct("<QqqQQ")


@frozen_record
class StableContent:
    """A small file's bytes with the attributes they belong to; `changed` when three readings did not agree."""

    data: bytes
    stat: os.stat_result
    changed: bool


class FileReader:
    """One open file of a source. Closed on leaving the `with` block; any OSError is the file's."""

    def __init__(self, entry: TreeEntry) -> None:
        self.fd, self.before = entry.open_file()
        self._position = 0
        self._sparse = is_sparse(self.before)

    def __enter__(self) -> FileReader:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    @property
    def changed(self) -> bool:
        """Whether the file is no longer what it was when it was opened."""
        return _changed(self.before, os.fstat(self.fd))

    def fill(self, view: memoryview) -> int:
        """Read on into a buffer: how many bytes, 0 at the end, minus the length of a hole that begins here.

        The end is the size at opening, or where the file ends now.
        """
        size, position = self.before.st_size, self._position
        if position >= size:
            return 0
        hole = self._hole_at(position, size) if self._sparse else 0
        if hole:
            self._position += hole
            return -hole
        most = min(len(view), size - position, _LARGE_BLOCK)
        if self._sparse:
            most = min(most, self._data_at(position, size))
        count = os.preadv(self.fd, [view[:most]], position)
        self._position += count
        return count

    def blocks(self) -> Iterator[bytes]:
        """The bytes up to the size at opening, in blocks; holes are not read but given as zeros."""
        size, position = self.before.st_size, 0
        sparse = is_sparse(self.before)
        while position < size:
            hole = self._hole_at(position, size) if sparse else 0
            if hole:
                step = min(hole, _BLOCK)
                yield _ZEROS if step == _BLOCK else bytes(step)
                position += step
                continue
            data = os.pread(self.fd, min(_BLOCK, size - position), position)
            if not data:
                return
            yield data
            position += len(data)

    def _data_at(self, position: int, size: int) -> int:
        """How far it is from `position` to the next hole; at least a block, because small holes are read as zeros."""
        try:
            end = os.lseek(self.fd, position, os.SEEK_HOLE)
        except OSError:
            return size - position
        return max(end - position, _BLOCK)

    def _hole_at(self, position: int, size: int) -> int:
        """Length of the hole at `position` in whole blocks, 0 where data begins within the next block."""
        try:
            data_at = os.lseek(self.fd, position, os.SEEK_DATA)
        except OSError as error:
            # ENXIO: nothing but a hole up to the end; others: the file system does not tell.
            return size - position if error.errno == errno.ENXIO else 0
        gap = min(data_at, size) - position
        return gap - gap % _BLOCK


def file_state(status: os.stat_result) -> bytes:
    """What tells that a file is still the one that was listed, with the same content: size, mtime, ctime, inode and
    device in 40 bytes."""
    return _STATE.pack(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)


def read_unchanged(folder_fd: int, name: bytes, state: bytes) -> tuple[bytes, Xattrs] | None:
    """Content and extended attributes of a small file in an opened directory, if it is still in a state; else None.

    The short way of `read_small`: three system calls beside open and close. Never raises for what happened to the file.
    """
    try:
        fd = os.open(name, _OPEN, dir_fd=folder_fd)
    except OSError:
        return None
    try:
        size = int.from_bytes(state[:8], "little")
        data = os.read(fd, size + 1)
        if len(data) != size or file_state(os.fstat(fd)) != state:
            return None
        # Asked here first, because most files have none and there are many of them.
        return data, read_xattrs(fd) if _listxattr is None or _listxattr(fd) else ()
    except OSError:
        return None
    finally:
        os.close(fd)


def read_small(entry: TreeEntry, wait: Callable[[float], None], limit: int = SMALL_FILE) -> StableContent | None:
    """A file of at most `limit` bytes in one state, or marked as changed; None when it has grown too large.

    Raises OSError when it cannot be read at all.
    """
    for attempt in range(1, TRIES + 1):
        fd, before = entry.open_file()
        try:
            size = before.st_size
            if size > limit:
                return None
            data = _read_whole(fd, size)
            changed = len(data) != size or _changed(before, os.fstat(fd))
        finally:
            os.close(fd)
        if not changed or attempt == TRIES:
            return StableContent(data, before, changed)
        wait(_PAUSE * attempt)
    raise AssertionError("the last try returns")


def is_sparse(status: os.stat_result) -> bool:
    """Whether the file has holes: fewer blocks than its size needs."""
    return status.st_size > 0 and status.st_blocks * 512 < status.st_size


def _read_whole(fd: int, size: int) -> bytes:
    """One call and one byte more: a regular file is read short at its end only, and one that grows shows."""
    return os.read(fd, size + 1)


def _changed(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether an open file, so the same inode, was written to or changed between the two."""
    return (
        before.st_mtime_ns != after.st_mtime_ns
        or before.st_ctime_ns != after.st_ctime_ns
        or before.st_size != after.st_size
    )
