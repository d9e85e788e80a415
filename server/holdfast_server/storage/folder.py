"""Which folders a caller may name, decided on opened directories and never on strings.

A path is resolved once, by opening it; symbolic links in what the user typed are followed then. From there on only the
descriptor counts: it is compared by (st_dev, st_ino) with the ancestors of others, so `..`, links, bind mounts,
`/proc/self/root/...`, `/proc/self/cwd` and other spellings change nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Self

from holdfast_server.errors import FailedPrecondition, HoldfastError, Reason, invalid_field
from holdfast_server.storage.local import translate_os_error
from holdfast_server.storage.mounts import is_alias_within
from holdfast_server.storage.names import escape

__all__ = [
    "PASSING_FLAGS",
    "READING_FLAGS",
    "Deepest",
    "OpenFolder",
    "ancestors",
    "checked_path",
    "has_ancestor",
    "lies_within",
    "may",
    "open_deepest",
    "open_error",
    "open_folder",
]

#: A directory that is only passed or looked at needs no right to read it.
PASSING_FLAGS: int = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
READING_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_MAX_PATH = 4096

#: The parent of `/` is `/`, but so is that of a directory mounted into itself; nobody nests these so deep.
_SAME_PARENT = 40


class OpenFolder:
    """An opened directory, closed on leaving the `with` block. `path` is what the user typed; only `fd` counts."""

    __slots__ = ("device", "fd", "inode", "path")

    def __init__(self, fd: int, path: bytes) -> None:
        """Takes over `fd`."""
        self.fd = fd
        self.path = path
        status = os.fstat(fd)
        self.device = status.st_dev
        self.inode = status.st_ino

    @property
    def identity(self) -> tuple[int, int]:
        return self.device, self.inode

    @property
    def display(self) -> str:
        """The path for messages and logs."""
        return escape(self.path)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def has_ancestor(folder_fd: int, container_fd: int) -> bool:
    """Whether the folder is the container or is reached through it, asking `..` up to the root."""
    container = _identity(container_fd)
    return any(_identity(fd) == container for fd in ancestors(folder_fd))


def ancestors(folder_fd: int) -> Iterator[int]:
    """The folder itself and each above it, up to the root, as descriptors to be passed; each is open for its turn."""
    fd = os.dup(folder_fd)
    try:
        previous, same = None, 0
        while same < _SAME_PARENT:
            yield fd
            current = _identity(fd)
            same = same + 1 if current == previous else 0
            previous = current
            parent = os.open(b"..", PASSING_FLAGS, dir_fd=fd)
            os.close(fd)
            fd = parent
    finally:
        os.close(fd)


def lies_within(folder_fd: int, container_fd: int) -> bool:
    """Whether an opened directory is the container or lies in it, by any alias.

    Catches links and spellings, since both are opened; bind mounts of the container, since ancestors are compared by
    identity; and bind mounts of a subfolder, by the mount table. Without /proc only ancestors are compared. `OSError`
    where the ancestors cannot be asked: then nothing may be assumed.
    """
    return has_ancestor(folder_fd, container_fd) or is_alias_within(folder_fd, container_fd)


def checked_path(path: str | bytes, field: str) -> bytes:
    try:
        raw = os.fsencode(path)
    except UnicodeEncodeError:
        raise invalid_field(field, "is not a path: it holds characters that no file name can have") from None
    if not raw:
        raise invalid_field(field, "must not be empty")
    if b"\0" in raw:
        raise invalid_field(field, "must not contain NUL")
    if not raw.startswith(b"/"):
        raise invalid_field(field, "must be an absolute path", path=escape(raw))
    if len(raw) >= _MAX_PATH or any(len(part) > 255 for part in raw.split(b"/")):
        raise invalid_field(field, "is longer than a path can be")
    return raw


def open_error(error: OSError, path: bytes, denied: Reason) -> HoldfastError:
    """What a folder that cannot be opened amounts to; `denied` is the reason when rights are missing."""
    shown = escape(path)
    metadata = {"path": shown, "errno": errno.errorcode.get(error.errno or 0, "")}
    if error.errno == errno.ENOENT:
        return FailedPrecondition(Reason.FOLDER_NOT_FOUND, f"{shown} does not exist", metadata=metadata)
    if error.errno == errno.ENOTDIR:
        return FailedPrecondition(Reason.FOLDER_NOT_FOUND, f"{shown} is not a directory", metadata=metadata)
    if error.errno == errno.ELOOP:
        text = f"{shown} is a loop of symbolic links"
        return FailedPrecondition(Reason.FOLDER_NOT_FOUND, text, metadata=metadata)
    if error.errno in (errno.EACCES, errno.EPERM):
        return FailedPrecondition(denied, f"the service may not open {shown}", metadata=metadata)
    return translate_os_error(error, f"opening {shown}")


def open_folder(path: str | bytes, field: str = "path") -> OpenFolder:
    """Open a directory by an absolute path.

    INVALID_FIELD for a path that is empty, relative, too long or holds NUL; FOLDER_NOT_FOUND for one that does not
    exist or is no directory; FOLDER_NOT_WRITABLE where the service may not open it.
    """
    raw = checked_path(path, field)
    try:
        return OpenFolder(os.open(raw, READING_FLAGS), raw)
    except OSError as error:
        raise open_error(error, raw, Reason.FOLDER_NOT_WRITABLE) from error


def may(folder_fd: int, rights: int) -> bool:
    """Whether the process's effective rights, and the mount, allow this; a superuser passes but for the latter."""
    effective = os.access in os.supports_effective_ids
    return os.access(b".", rights, dir_fd=folder_fd, effective_ids=effective)


class Deepest:
    """As much of a path as exists: `folder` is the deepest directory on the way, opened only to be passed.

    `missing` holds the components below it that could not be opened and `error` says why; both are empty if the whole
    path is a directory.
    """

    __slots__ = ("error", "folder", "missing")

    def __init__(self, folder: OpenFolder, missing: list[bytes], error: OSError | None) -> None:
        self.folder = folder
        self.missing = missing
        self.error = error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.close()


def open_deepest(path: bytes) -> Deepest:
    """Open as much of a checked path as can be. The kernel resolves each attempt as a whole, links and `..` and all."""
    head = path.rstrip(b"/") or b"/"
    missing: list[bytes] = []
    first: OSError | None = None
    while True:
        try:
            folder = OpenFolder(os.open(head, PASSING_FLAGS), head)
        except OSError as error:
            first = first or error
            if head == b"/":
                raise
        else:
            # One that may not be passed cannot be asked for its parents: it counts as missing.
            if head == b"/" or may(folder.fd, os.X_OK):
                return Deepest(folder, missing[::-1], first)
            folder.close()
            first = first or PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        head, _, name = head.rpartition(b"/")
        head = head.rstrip(b"/") or b"/"
        missing.append(name)
