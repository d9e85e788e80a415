"""A wallet while coins are moved in it: its own lock, the service's journal folder, and renames that replace nothing.

Locks of the catalog keep tasks of one service apart. The `flock` on `<wallet>/.holdfast/lock` does the same for another
service on the same folder, and for an attempt that was thought dead and goes on; such a one also finds another
attempt's number in the journal.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from holdfast_server.core.control import Control
from holdfast_server.errors import Aborted, Reason
from holdfast_server.storage import local
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.wallets.layout import RESERVED_FOLDER

__all__ = ["LOCK_FILE", "WalletFolder", "free_names"]

LOCK_FILE = b"lock"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_FOLDER = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_MAX_NAME = 255
_MAX_SUFFIX = 32  # what is longer is no suffix but a name with a point in it
_POLL_SECONDS = 0.1
_PATIENCE_SECONDS = 60.0


class WalletFolder:
    """An opened wallet. `root` stays the caller's to close."""

    def __init__(self, root: OpenFolder) -> None:
        self.root = root

    @contextmanager
    def folder(self, *names: bytes, create: bool = False) -> Iterator[int]:
        """A descriptor of a folder below the root; links are not followed. With `create` it is made, mode 0700, synced.

        Raises OSError: FileNotFoundError without `create`, NotADirectoryError (ELOOP for a link).
        """
        fd = os.dup(self.root.fd)
        try:
            for name in names:
                if create:
                    with suppress(FileExistsError):
                        os.mkdir(name, 0o700, dir_fd=fd)
                        local.fsync_directory(fd)
                inner = os.open(name, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def lock(self, control: Control, *, exclusive: bool, patience: float | None = _PATIENCE_SECONDS) -> Iterator[None]:
        """Hold the wallet against other processes. Shared locks never make the lock file: a wallet that no coins were
        ever moved in is left as it is, and one whose service folder is something else was never one.

        Raises Aborted/SOURCE_BUSY when another process holds it for `patience` seconds (None: wait for as long as it
        does); Stopped when asked to.
        """
        flags = os.O_RDWR | os.O_CREAT if exclusive else os.O_RDONLY
        try:
            with self.folder(RESERVED_FOLDER.encode(), create=exclusive) as service:
                fd = os.open(LOCK_FILE, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=service)
        except OSError as error:
            if exclusive or error.errno not in _NO_FOLDER:
                raise
            yield
            return
        try:
            self._acquire(fd, control, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, patience)
            yield
        finally:
            os.close(fd)

    def _acquire(self, fd: int, control: Control, mode: int, patience: float | None) -> None:
        waited = 0.0
        while True:
            try:
                fcntl.flock(fd, mode | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                if patience is not None and waited >= patience:
                    raise Aborted(
                        Reason.SOURCE_BUSY,
                        f"another process holds {self.root.display}/{RESERVED_FOLDER}/{LOCK_FILE.decode()}",
                        metadata={"path": self.root.display},
                    ) from error
            control.wait(_POLL_SECONDS)
            waited += _POLL_SECONDS

    def write_record(self, name: bytes, record: dict[str, Any]) -> None:
        """A journal's state below `.holdfast/`, replacing the one before: synced, wholly old or wholly new."""
        with self.folder(RESERVED_FOLDER.encode(), create=True) as service:
            temporary = _temporary(name)
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=service)  # of a writer that died
            local.write_file(service, name, json.dumps(record, sort_keys=True).encode() + b"\n", temporary=temporary)

    def read_record(self, name: bytes) -> dict[str, Any] | None:
        """What `write_record` wrote last; None when there is none. Raises ValueError when it is no JSON object."""
        try:
            with self.folder(RESERVED_FOLDER.encode()) as service:
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=service)
        except FileNotFoundError:
            return None
        with open(fd, "rb") as file:
            record = json.load(file)
        if not isinstance(record, dict):
            raise ValueError(f"{RESERVED_FOLDER}/{os.fsdecode(name)} is no journal")  # noqa: TRY004
        return record

    def remove_record(self, name: bytes) -> None:
        """Forget a journal, durably; no error if there is none."""
        with suppress(FileNotFoundError), self.folder(RESERVED_FOLDER.encode()) as service:
            with suppress(FileNotFoundError):
                os.unlink(_temporary(name), dir_fd=service)
            os.unlink(name, dir_fd=service)
            local.fsync_directory(service)

    @staticmethod
    def move(from_fd: int, name: bytes, to_fd: int, wanted: bytes | None = None) -> bytes:
        """Rename a file from one opened folder into another under the first free name like `wanted`, by default its
        own; gives that name. Never replaces. Durable once the caller has synced both folders.

        Raises FileNotFoundError when the file is gone.
        """
        for candidate in free_names(wanted or name):
            try:
                local.rename_file(from_fd, name, to_fd, candidate)
            except FileExistsError:
                if not _same_file(from_fd, name, to_fd, candidate):
                    continue
                os.unlink(name, dir_fd=from_fd)  # a crash came between a link and the end of the old name
            return candidate
        raise AssertionError("free names never end")


def _temporary(name: bytes) -> bytes:
    return b"." + name + b".tmp"


def _same_file(one_fd: int, one: bytes, other_fd: int, other: bytes) -> bool:
    first = os.stat(one, dir_fd=one_fd, follow_symlinks=False)
    return os.path.samestat(first, os.stat(other, dir_fd=other_fd, follow_symlinks=False))


def free_names(name: bytes) -> Iterator[bytes]:
    """`coin.bin`, `coin-2.bin`, `coin-3.bin` …; a name grown too long loses characters before the suffix."""
    yield name
    stem, dot, suffix = name.rpartition(b".")
    if not stem or len(suffix) > _MAX_SUFFIX:
        stem, dot, suffix = name, b"", b""
    number = 2
    while True:
        tail = f"-{number}".encode() + dot + suffix
        yield _cut(stem, _MAX_NAME - len(tail)) + tail
        number += 1


def _cut(stem: bytes, size: int) -> bytes:
    """At most `size` bytes, without the half of a character at the end."""
    if len(stem) <= size:
        return stem
    while size and stem[size] & 0xC0 == 0x80:  # the byte behind the cut goes on with the character before it
        size -= 1
    return stem[:size]
