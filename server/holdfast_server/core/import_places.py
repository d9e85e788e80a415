"""Where an import reads: files and folders that a caller named, opened, and told apart from the wallet's own."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from holdfast_server.core.coin_content import read_content
from holdfast_server.errors import FailedPrecondition, Reason, invalid_field
from holdfast_server.storage.folder import OpenFolder, lies_within
from holdfast_server.storage.names import escape
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.wallets.layout import IMPORT_FOLDER

__all__ = ["Place", "Signature", "open_places"]

_IMPORT = IMPORT_FOLDER.encode()
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: A FIFO must not block.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Signature:
    """What tells that a file is still the one that was read."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Signature:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Place:
    """An opened folder. `inside` is its path below the wallet, `Import` or a folder directly in it, and empty
    elsewhere: then its files are not the wallet's to move. `name` is the one file that was named, None for all."""

    folder: OpenFolder
    inside: bytes = b""
    name: bytes | None = None

    def path(self, name: bytes) -> bytes:
        """As problems name it: below the wallet, or absolute."""
        return (self.inside or self.folder.path.rstrip(b"/")) + b"/" + name

    def names(self) -> list[bytes]:
        """What there is to look at, in the order of the names' bytes. Folders in it are not entered and not told."""
        if self.name is not None:
            return [self.name]
        with os.scandir(self.folder.fd) as entries:
            return sorted(os.fsencode(entry.name) for entry in entries if not entry.is_dir(follow_symlinks=False))

    def size(self, name: bytes) -> int:
        """Bytes of a regular file, 0 for what is none."""
        status = self._status(name)
        return status.st_size if status is not None and stat.S_ISREG(status.st_mode) else 0

    def signature(self, name: bytes) -> Signature | None:
        """That of what lies there now; None when nothing does."""
        status = self._status(name)
        return None if status is None else Signature.of(status)

    def read(self, name: bytes) -> tuple[bytes, Signature]:
        """A regular file's content, which did not change meanwhile.

        Raises OSError: EINVAL for what is no regular file (nothing of it is opened), EFBIG for one too large, ESTALE
        for one that changes while it is read.
        """
        if not stat.S_ISREG(os.stat(name, dir_fd=self.folder.fd, follow_symlinks=False).st_mode):
            raise OSError(errno.EINVAL, "is no regular file")
        fd = os.open(name, _FILE_FLAGS, dir_fd=self.folder.fd)
        try:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                raise OSError(errno.EINVAL, "is no regular file")
            content = read_content(fd)
            signature = Signature.of(os.fstat(fd))
            if signature != Signature.of(before) or len(content) != signature.size:
                raise OSError(errno.ESTALE, "changed while it was read")
            return content, signature
        finally:
            os.close(fd)

    def _status(self, name: bytes) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self.folder.fd, follow_symlinks=False)
        except OSError:
            return None


@contextmanager
def open_places(policy: FolderPolicy, wallet: OpenFolder, paths: Sequence[bytes]) -> Iterator[list[Place]]:
    """The opened places; the wallet's own `Import` when no path is given.

    Each path is a file or a folder that exists, below a root and not in the data directory. Of the wallet itself only
    `Import` and folders directly in it may be named. Raises FailedPrecondition (FILE_NOT_FOUND, SOURCE_UNREADABLE,
    FOLDER_INSIDE_DATA_DIR), PermissionDenied/PATH_NOT_ALLOWED, InvalidArgument/INVALID_FIELD.
    """
    with ExitStack() as stack:
        own = stack.enter_context(_OwnImport(wallet))
        if not paths:
            if own.folder is None:
                text = f"{wallet.display} has no folder {IMPORT_FOLDER} to import from"
                raise FailedPrecondition(Reason.FILE_NOT_FOUND, text, metadata={"path": wallet.display})
            yield [Place(own.folder, _IMPORT)]
            return
        places = []
        for index, path in enumerate(paths):
            field = f"paths[{index}]"
            folder, name = _open(policy, path, field)
            stack.callback(folder.close)
            if not lies_within(folder.fd, wallet.fd):
                places.append(Place(folder, b"", name))
                continue
            inside = own.inside(folder)
            if inside is None:
                raise invalid_field(
                    field, f"lies in the wallet itself, of which only {IMPORT_FOLDER} and its folders may be named",
                    path=escape(path),
                )  # fmt: skip
            places.append(Place(folder, inside, name))
        yield places


def _open(policy: FolderPolicy, path: bytes, field: str) -> tuple[OpenFolder, bytes | None]:
    """A folder to list, or the folder of one file and its name."""
    try:
        return policy.check_source(path, field), None
    except FailedPrecondition as error:
        if error.reason is not Reason.FOLDER_NOT_FOUND:
            raise
    folder, name, file = policy.open_file_and_folder(path, field)
    file.close()
    return folder, name


class _OwnImport:
    """The wallet's `Import`, and which folder an opened one is in it."""

    def __init__(self, wallet: OpenFolder) -> None:
        self.folder: OpenFolder | None = None
        try:
            fd = os.open(_IMPORT, _DIRECTORY_FLAGS, dir_fd=wallet.fd)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return
            raise
        self.folder = OpenFolder(fd, wallet.path.rstrip(b"/") + b"/" + _IMPORT)

    def __enter__(self) -> _OwnImport:
        return self

    def __exit__(self, *_: object) -> None:
        if self.folder is not None:
            self.folder.close()

    def inside(self, folder: OpenFolder) -> bytes | None:
        """The path below the wallet of an opened folder, None for one that is neither Import nor directly in it."""
        if self.folder is None:
            return None
        if folder.identity == self.folder.identity:
            return _IMPORT
        with os.scandir(self.folder.fd) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    status = os.stat(entry.name, dir_fd=self.folder.fd, follow_symlinks=False)
                    if (status.st_dev, status.st_ino) == folder.identity:
                        return _IMPORT + b"/" + os.fsencode(entry.name)
        return None
