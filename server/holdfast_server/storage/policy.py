"""Which folders a caller may name, for which use.

Every check is made on opened directories (see `folder`), on what exists of a path before anything is created in it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, Self

from holdfast_server.errors import FailedPrecondition, HoldfastError, PermissionDenied, Reason, invalid_field
from holdfast_server.storage.descent import DIRECTORY_FLAGS
from holdfast_server.storage.folder import (
    PASSING_FLAGS,
    READING_FLAGS,
    Deepest,
    OpenFolder,
    checked_path,
    has_ancestor,
    lies_within,
    may,
    open_deepest,
    open_error,
)
from holdfast_server.storage.local import fsync_directory, translate_os_error
from holdfast_server.storage.names import escape
from holdfast_server.storage.repository_folder import require_apart

__all__ = ["FolderPolicy", "RestoreTarget"]

_MAX_NEW_FOLDERS = 64
#: A FIFO that takes the file's place must not block.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class RestoreTarget:
    """Where a restore may put a new folder: `name` in the opened `parent`; close it after use.

    `existing` is the folder itself if it exists (then it is empty). `missing` is filled in by a dry run only: the
    folders that would be made below `parent` first.
    """

    parent: OpenFolder
    name: bytes
    existing: OpenFolder | None
    missing: tuple[bytes, ...] = ()

    def close(self) -> None:
        self.parent.close()
        if self.existing is not None:
            self.existing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _not_creatable(path: bytes, error: OSError) -> HoldfastError:
    name = errno.errorcode.get(error.errno or 0, str(error.errno))
    text = f"{escape(path)} cannot be created: {os.strerror(error.errno or 0)} ({name})"
    return FailedPrecondition(Reason.FOLDER_NOT_CREATABLE, text, metadata={"path": escape(path), "errno": name})


class _NewFolders:
    """Folders made one below the other, and how to take them away again."""

    def __init__(self, start_fd: int) -> None:
        self._opened = [start_fd]
        self._made: list[tuple[int, bytes]] = []

    def make(self, names: Sequence[bytes]) -> int:
        """Create each name in the one before, 0700 and durably; returns a descriptor of the last, the caller's own."""
        for name in names:
            parent = self._opened[-1]
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
            except FileExistsError:
                pass  # somebody else made it just now; a link in its place is not followed
            else:
                self._made.append((parent, name))
            self._opened.append(os.open(name, DIRECTORY_FLAGS, dir_fd=parent))
            _sync_passed(parent)
        return os.dup(self._opened[-1])

    def undo(self) -> None:
        """Remove what was made and is still empty."""
        for parent, name in reversed(self._made):
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=parent)

    def close(self) -> None:
        for fd in self._opened[1:]:
            os.close(fd)


def _sync_passed(fd: int) -> None:
    """Make a new entry of a directory durable; one that may not be read cannot be synced, and is let pass."""
    try:
        readable = os.open(b".", READING_FLAGS, dir_fd=fd)
    except PermissionError:
        return
    try:
        fsync_directory(readable)
    finally:
        os.close(readable)


class FolderPolicy:
    """The rules for folders that callers name.

    `data_dir` is the service's own directory, `roots` the folders below which callers may name paths. Both are opened
    anew for each check, so that a root may be mounted later; a root that cannot be opened allows nothing. `field` is
    the request's field for INVALID_FIELD. Wherever a path does not exist, what exists of it is checked first, so that
    nobody learns what lies outside the roots.
    """

    def __init__(self, data_dir: str | bytes, roots: Sequence[str | bytes]) -> None:
        self._data_dir = os.fsencode(data_dir)
        self._roots = [os.fsencode(root) for root in roots]

    def check_source(self, path: str | bytes, field: str) -> OpenFolder:
        """A folder to be backed up: it exists, may be read, lies below a root and not in the data directory.

        It may contain the data directory: the walk leaves that out. SOURCE_UNREADABLE where rights are missing.
        """
        raw = checked_path(path, field)
        with open_deepest(raw) as found:
            self._check_place(found.folder.fd, raw)
            if found.error is not None:
                raise open_error(found.error, raw, Reason.SOURCE_UNREADABLE) from found.error
            return _opened(found.folder.fd, raw, os.R_OK | os.X_OK, Reason.SOURCE_UNREADABLE)

    def check_destination(
        self,
        path: str | bytes,
        field: str,
        *,
        sources: Sequence[OpenFolder],
        create: bool,
        dry_run: bool = False,
        in_repository: bool = False,
    ) -> OpenFolder | None:
        """A folder to write to: below a root, not in the data directory, in none of the sources, writable, and in no
        repository unless `in_repository` lets it.

        A missing one is made (0700) if `create` says so, after all checks of what exists of its path; what was made is
        removed again on failure. None for a dry run of a folder that does not exist yet.
        """
        raw = checked_path(path, field)
        with open_deepest(raw) as found:
            self._check_place(found.folder.fd, raw, sources)
            if not in_repository:
                require_apart(found.folder.fd, raw)
            if not found.missing:
                return _opened(found.folder.fd, raw, os.W_OK | os.X_OK, Reason.FOLDER_NOT_WRITABLE)
            _check_missing(found, raw, field, create)
            if dry_run:
                _check_creatable(found, raw)
                return None
            return self._create(found, raw, sources)

    def check_restore_target(
        self, path: str | bytes, field: str, *, create_parents: bool, dry_run: bool = False
    ) -> RestoreTarget:
        """A folder to restore into, which does not exist or is empty, below a root, not in the data directory and in no
        repository.

        The folder itself is not made, its parents are if `create_parents` says so. Its parent is writable, or it exists
        and is. FOLDER_NOT_EMPTY for whatever else is there, links among it.
        """
        raw = checked_path(path, field)
        parent_path, _, name = raw.rstrip(b"/").rpartition(b"/")
        if name in (b"", b".", b".."):
            raise invalid_field(field, "must end in the name of a folder", path=escape(raw))
        parent_path = parent_path or b"/"
        with open_deepest(parent_path) as found:
            if not found.missing:
                return self._target(found.folder.fd, raw, parent_path, name)
            self._check_place(found.folder.fd, raw)
            require_apart(found.folder.fd, raw)
            _check_missing(found, parent_path, field, create_parents)
            if dry_run:
                _check_creatable(found, parent_path)
                return RestoreTarget(_passed(found.folder.fd, found.folder.path), name, None, tuple(found.missing))
            return RestoreTarget(self._create(found, parent_path, ()), name, None)

    def open_file(self, path: str | bytes, field: str) -> BinaryIO:
        """A file to be read: it exists, is a regular file and no link, lies below a root and not in the data directory.

        FILE_NOT_FOUND for whatever else is there, and where rights are missing; nothing but a regular file is opened.
        """
        folder, _, file = self.open_file_and_folder(path, field)
        folder.close()
        return file

    def open_file_and_folder(self, path: str | bytes, field: str) -> tuple[OpenFolder, bytes, BinaryIO]:
        """As `open_file`; gives the folder, opened to be passed only, the name in it, and the file."""
        raw = checked_path(path, field)
        parent_path, _, name = raw.rpartition(b"/")
        if name in (b"", b".", b".."):
            raise invalid_field(field, "must end in the name of a file", path=escape(raw))
        with open_deepest(parent_path or b"/") as found:
            self._check_place(found.folder.fd, raw)
            if found.error is not None:
                raise _no_file(raw, found.error) from found.error
            try:
                status = os.stat(name, dir_fd=found.folder.fd, follow_symlinks=False)
                _require_regular(status, raw)
                fd = os.open(name, _FILE_FLAGS, dir_fd=found.folder.fd)
            except OSError as error:
                raise _no_file(raw, error) from error
            file = os.fdopen(fd, "rb", buffering=0)
            try:
                _require_regular(os.fstat(fd), raw)
                return OpenFolder(os.dup(found.folder.fd), found.folder.path), name, file
            except BaseException:
                file.close()
                raise

    def _target(self, parent_fd: int, raw: bytes, parent_path: bytes, name: bytes) -> RestoreTarget:
        """The target in a parent that exists."""
        try:
            is_directory = stat.S_ISDIR(os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            self._check_place(parent_fd, raw)
            require_apart(parent_fd, raw)
            parent = _opened(parent_fd, parent_path, os.W_OK | os.X_OK, Reason.FOLDER_NOT_WRITABLE)
            return RestoreTarget(parent, name, None)
        except OSError as error:
            self._check_place(parent_fd, raw)
            raise open_error(error, raw, Reason.FOLDER_NOT_WRITABLE) from error
        if not is_directory:
            self._check_place(parent_fd, raw)
            raise _not_empty(raw)
        try:
            # The folder may be a root itself, so its own place counts and not its parent's.
            passed = os.open(name, PASSING_FLAGS | os.O_NOFOLLOW, dir_fd=parent_fd)
        except OSError as error:
            self._check_place(parent_fd, raw)
            raise open_error(error, raw, Reason.FOLDER_NOT_WRITABLE) from error
        try:
            self._check_place(passed, raw)
            require_apart(passed, raw)
            existing = _opened(passed, raw, os.W_OK | os.X_OK, Reason.FOLDER_NOT_WRITABLE)
        finally:
            os.close(passed)
        try:
            with os.scandir(existing.fd) as entries:
                if next(entries, None) is not None:
                    raise _not_empty(raw)
            return RestoreTarget(_passed(parent_fd, parent_path), name, existing)
        except BaseException:
            existing.close()
            raise

    def _check_place(self, fd: int, path: bytes, sources: Sequence[OpenFolder] = ()) -> None:
        """Whether an opened folder, which is `path` or what exists of it, lies where it may."""
        shown = escape(path)
        try:
            if not any(self._below(fd, root) for root in self._roots):
                text = f"{shown} is not below any of the folders that callers may name"
                raise PermissionDenied(Reason.PATH_NOT_ALLOWED, text, metadata={"path": shown})
            data_dir = os.open(self._data_dir, PASSING_FLAGS)
            try:
                inside = lies_within(fd, data_dir)
            finally:
                os.close(data_dir)
            if inside:
                text = f"{shown} lies in the service's data directory"
                raise FailedPrecondition(Reason.FOLDER_INSIDE_DATA_DIR, text, metadata={"path": shown})
            for source in sources:
                if lies_within(fd, source.fd):
                    text = f"{shown} lies in {source.display}, which is to be backed up"
                    metadata = {"path": shown, "source_path": source.display}
                    raise FailedPrecondition(Reason.FOLDER_INSIDE_SOURCE, text, metadata=metadata)
        except OSError as error:
            raise translate_os_error(error, f"finding out where {shown} lies") from error

    @staticmethod
    def _below(fd: int, root: bytes) -> bool:
        """Whether a folder is reached through a root. Other aliases do not count: what allows must be plain."""
        try:
            root_fd = os.open(root, PASSING_FLAGS)
        except OSError:
            return False
        try:
            return has_ancestor(fd, root_fd)
        finally:
            os.close(root_fd)

    def _create(self, found: Deepest, path: bytes, sources: Sequence[OpenFolder]) -> OpenFolder:
        """Make what is missing of `path`; nothing of it stays if that fails."""
        with contextlib.ExitStack() as undo:
            folders = _NewFolders(found.folder.fd)
            undo.callback(folders.close)
            undo.callback(folders.undo)
            try:
                opened = undo.enter_context(OpenFolder(folders.make(found.missing), path))
            except OSError as error:
                raise _not_creatable(path, error) from error
            # Once more: somebody may have put something else there between the check and now.
            self._check_place(opened.fd, path, sources)
            undo.pop_all()
            folders.close()
        return opened


def _passed(fd: int, path: bytes) -> OpenFolder:
    """The same directory under a descriptor of its own: one that reads, if the process may."""
    try:
        return OpenFolder(os.open(b".", READING_FLAGS, dir_fd=fd), path)
    except PermissionError:
        return OpenFolder(os.dup(fd), path)


def _opened(fd: int, path: bytes, rights: int, denied: Reason) -> OpenFolder:
    """The same directory opened for reading, if the process has the rights to it."""
    try:
        folder = OpenFolder(os.open(b".", READING_FLAGS, dir_fd=fd), path)
    except OSError as error:
        raise open_error(error, path, denied) from error
    if may(folder.fd, rights):
        return folder
    number = _denial(folder.fd)
    folder.close()
    doing = "read" if denied is Reason.SOURCE_UNREADABLE else "write to"
    text = f"the service may not {doing} {escape(path)}: {os.strerror(number)}"
    metadata = {"path": escape(path), "errno": errno.errorcode[number]}
    raise FailedPrecondition(denied, text, metadata=metadata)


def _denial(fd: int) -> int:
    """Why writing is denied."""
    return errno.EROFS if os.fstatvfs(fd).f_flag & os.ST_RDONLY else errno.EACCES


def _check_missing(found: Deepest, path: bytes, field: str, create: bool) -> None:
    """Whether what is missing of a path may be made."""
    error = found.error or OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    if error.errno != errno.ENOENT:
        raise open_error(error, path, Reason.FOLDER_NOT_WRITABLE) from error
    if b".." in found.missing or b"." in found.missing:
        raise invalid_field(field, "must not hold `.` or `..` below a folder that does not exist", path=escape(path))
    if not create:
        raise open_error(error, path, Reason.FOLDER_NOT_WRITABLE) from error
    if len(found.missing) > _MAX_NEW_FOLDERS:
        raise invalid_field(field, f"needs more than {_MAX_NEW_FOLDERS} new folders", path=escape(path))
    with contextlib.suppress(OSError):
        status = os.stat(found.missing[0], dir_fd=found.folder.fd, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):  # it leads nowhere, and nothing is made through a link
            raise _not_creatable(path, FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)))


def _check_creatable(found: Deepest, path: bytes) -> None:
    """What a dry run can foresee of making folders."""
    if not may(found.folder.fd, os.W_OK | os.X_OK):
        number = _denial(found.folder.fd)
        raise _not_creatable(path, OSError(number, os.strerror(number)))


def _require_regular(status: os.stat_result, path: bytes) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    what = "a symbolic link, which is not followed" if stat.S_ISLNK(status.st_mode) else "no regular file"
    text = f"{escape(path)} is {what}"
    raise FailedPrecondition(Reason.FILE_NOT_FOUND, text, metadata={"path": escape(path)})


def _no_file(path: bytes, error: OSError) -> HoldfastError:
    """What a file that cannot be opened amounts to."""
    shown = escape(path)
    number = error.errno or 0
    if number not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM):
        return translate_os_error(error, f"opening {shown}")
    name = errno.errorcode.get(number, "")
    text = f"{shown} cannot be opened: {os.strerror(number)}"
    return FailedPrecondition(Reason.FILE_NOT_FOUND, text, metadata={"path": shown, "errno": name})


def _not_empty(path: bytes) -> HoldfastError:
    text = f"{escape(path)} exists and is not an empty folder"
    return FailedPrecondition(Reason.FOLDER_NOT_EMPTY, text, metadata={"path": escape(path)})
