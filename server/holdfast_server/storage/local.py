"""Durable writes to a local file system, relative to opened directories.

Everything here raises plain `OSError`, so that callers can tell cases apart; `translate_os_error` turns one into the
error a caller of the service sees.

A failed fsync is final. Linux marks the pages clean after reporting the failure once, so a second call would say
"written" about data that is gone. Nothing here calls it twice, and no caller may: the file is given up and the task
fails.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import sys
import threading
from collections.abc import Callable, Iterator

from holdfast_server.errors import (
    FailedPrecondition,
    HoldfastError,
    Internal,
    Reason,
    ResourceExhausted,
    Unavailable,
)
from holdfast_server.storage import syscalls
from holdfast_server.storage.descent import DIRECTORY_FLAGS, DirectoryChain, Level
from holdfast_server.storage.mounts import mount_id

__all__ = [
    "create_file",
    "exists",
    "free_bytes",
    "fsync_directory",
    "fsync_file",
    "move",
    "publish",
    "remove_tree",
    "rename_file",
    "sync_filesystem",
    "translate_os_error",
    "write_file",
    "writing_back",
]

#: How long a file system may gather what is to be written early.
_WRITE_BACK_SECONDS = 0.25
_NO_RENAME_FLAGS = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})
_NO_DIRECTORY_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})

#: Conditions that may pass by themselves. Not every platform has every name.
_UNREACHABLE = frozenset(
    number
    for number, name in errno.errorcode.items()
    if re.fullmatch(
        "EIO|ESTALE|ENODEV|ENXIO|ETIMEDOUT|ENOTCONN|ECONN(RESET|REFUSED|ABORTED)|EHOST(DOWN|UNREACH)|ENET(DOWN|UNREACH)"
        "|EREMOTEIO|ESHUTDOWN|ENOMEDIUM|EBUSY|EMFILE|ENFILE|ENOMEM|EAGAIN|EINTR",
        name,
    )
)
_RETRY_AFTER = 5.0


def fsync_file(fd: int) -> None:
    """Write a file's data and metadata to the device. Raises once and for all; see the module's text."""
    if sys.platform == "darwin":
        import fcntl

        # macOS's fsync leaves the data in the drive's cache; not every file system knows the call that does not.
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
    os.fsync(fd)


def fsync_directory(fd: int) -> None:
    """Make a directory's entries durable. File systems that have no such operation (some network ones) are let pass."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise


def sync_filesystem(fd: int) -> None:
    """Make everything written so far to the file system of `fd` durable, in one call.

    `fd` must have been opened before the first write that is to be covered: the kernel reports write-back errors only
    to descriptors that were open when they happened. Where `syscalls.syncfs_reports_errors()` is false, errors are not
    reported at all, and a caller that must know has to `fsync_file` each file.
    """
    try:
        syscalls.syncfs(fd)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        os.sync()


@contextlib.contextmanager
def writing_back(fd: int) -> Iterator[None]:
    """Have the file system of an opened directory write all the time what is written meanwhile, so that little is left
    for a `sync_filesystem` behind it.

    That call is still needed. It tells of errors that happened here: the kernel tells each descriptor, and this one is
    another.
    """
    ended = threading.Event()
    with contextlib.suppress(OSError):
        own = os.open(b".", DIRECTORY_FLAGS, dir_fd=fd)
        threading.Thread(target=_write_back, args=(own, ended), name="write-back", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _write_back(fd: int, ended: threading.Event) -> None:
    """Until `ended`; nobody waits for the last call, which may take long."""
    try:
        while not ended.wait(_WRITE_BACK_SECONDS):
            syscalls.syncfs(fd)
    except OSError:
        pass  # told to who asks whether all was written
    finally:
        os.close(fd)


def rename_file(from_fd: int, name: bytes, to_fd: int, new: bytes) -> None:
    """Rename a file, no folder, from one opened directory into another, never replacing anything.

    `FileExistsError` when `new` is taken; the file is then left as it was. Of several callers that race for one name
    exactly one wins. Where the file system cannot rename without replacing, the file is linked and its old name
    removed: a crash between the two leaves both names. Durable once both directories are synced, which is the caller's.
    """
    try:
        syscalls.rename_without_replace(from_fd, name, new, to_fd=to_fd)
    except OSError as error:
        if error.errno not in _NO_RENAME_FLAGS:
            raise
        os.link(name, new, src_dir_fd=from_fd, dst_dir_fd=to_fd, follow_symlinks=False)
        os.unlink(name, dir_fd=from_fd)


def publish(dir_fd: int, temporary: bytes, final: bytes) -> None:
    """Give a finished, synced file its final name, durably, never replacing anything: see `rename_file`."""
    rename_file(dir_fd, temporary, dir_fd, final)
    fsync_directory(dir_fd)


def move(from_fd: int, name: bytes, to_fd: int) -> None:
    """Rename an entry, a folder with all it holds too, from one opened directory to another without replacing.

    `FileExistsError` when the name is taken there. Durable once both directories are synced, which is the caller's.
    Where the file system cannot rename without replacing, the name is looked for first.
    """
    try:
        syscalls.rename_without_replace(from_fd, name, name, to_fd=to_fd)
    except OSError as error:
        if error.errno not in _NO_RENAME_FLAGS:
            raise
        try:
            os.stat(name, dir_fd=to_fd, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(name, name, src_dir_fd=from_fd, dst_dir_fd=to_fd)
        else:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from error


def _write_temporary(dir_fd: int, data: bytes, mode: int, temporary: bytes | None = None) -> bytes:
    """Write and sync a new file, by default under a random name, and return that; nothing is left if it fails."""
    temporary = temporary or b".holdfast-" + secrets.token_hex(8).encode() + b".tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o600, dir_fd=dir_fd)
    try:
        try:
            os.fchmod(fd, mode)  # exactly this mode, whatever the umask
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(fd, rest) :]
            fsync_file(fd)
        finally:
            os.close(fd)
    except BaseException:
        _discard(dir_fd, temporary)
        raise
    return temporary


def _discard(dir_fd: int, name: bytes) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=dir_fd)


def write_file(dir_fd: int, name: bytes, data: bytes, mode: int = 0o600, *, temporary: bytes | None = None) -> None:
    """Write a small file, replacing one of that name: afterwards, or after a crash, it is wholly old or wholly new.

    `temporary` is the name that it has until then and that a crash leaves; by default a random one.
    """
    temporary = _write_temporary(dir_fd, data, mode, temporary)
    try:
        os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except BaseException:
        _discard(dir_fd, temporary)
        raise
    fsync_directory(dir_fd)


def create_file(dir_fd: int, name: bytes, data: bytes, mode: int = 0o600, *, temporary: bytes | None = None) -> None:
    """Write a small file that must not exist yet (`FileExistsError`); it never appears half written.

    `temporary` is the name that it has until then and that a crash leaves; by default a random one.
    """
    temporary = _write_temporary(dir_fd, data, mode, temporary)
    try:
        publish(dir_fd, temporary, name)
    except BaseException:
        _discard(dir_fd, temporary)
        raise


def exists(dir_fd: int, name: bytes) -> bool:
    """Whether an opened directory has an entry of that name; a link counts, wherever it leads."""
    try:
        os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def free_bytes(fd: int) -> int:
    """Bytes that this process may still write to the file system of `fd`."""
    status = os.fstatvfs(fd)
    return status.f_bavail * status.f_frsize


def translate_os_error(error: OSError, what: str) -> HoldfastError:
    """The service's error for a failed system call. `what` is a doing and its object: `writing /srv/b/x.zip`.

    The result is to be raised `from` the error. Its metadata holds `errno` (the name) and `what`.
    """
    number = error.errno or 0
    name = errno.errorcode.get(number, str(number))
    metadata = {"errno": name, "what": what}
    text = f"{what} failed: {os.strerror(number) if number else error} ({name})"
    if number == errno.ENOSPC:
        return ResourceExhausted(Reason.DISK_FULL, text, metadata=metadata)
    if number in (errno.EDQUOT, errno.EFBIG):
        return ResourceExhausted(Reason.QUOTA_EXCEEDED, text, metadata=metadata)
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return FailedPrecondition(Reason.FOLDER_NOT_WRITABLE, text, metadata=metadata)
    if number in (errno.ENOENT, errno.ENOTDIR):
        return FailedPrecondition(Reason.FOLDER_NOT_FOUND, text, metadata=metadata)
    if number in _UNREACHABLE:
        return Unavailable(Reason.STORAGE_UNREACHABLE, text, metadata=metadata, retry_after=_RETRY_AFTER)
    return Internal(Reason.INTERNAL, text, metadata=metadata)


def _nothing() -> None:
    return None


class _Removal:
    """One run of `remove_tree`."""

    def __init__(self, dir_fd: int, check: Callable[[], None]) -> None:
        self._chain = DirectoryChain(dir_fd)
        top = self._chain.innermost
        self._mount = (top.device, mount_id(top.fd))
        self._check = check
        self.files = 0
        self.bytes = 0

    def close(self) -> None:
        self._chain.close()

    def run(self, name: bytes) -> None:
        self._chain.innermost.pending.append(name)
        if not self._is_directory(name):
            self._chain.innermost.pending.clear()
            self._unlink(name)
        while True:
            level = self._chain.innermost
            if level.lost:
                raise OSError(errno.ESTALE, "a directory was moved away while it was removed", level.name)
            if level.pending:
                self._enter(level.pending.pop())
            elif len(self._chain.levels) > 1:
                left = self._chain.leave()
                if not self._chain.innermost.lost:
                    self._remove_directory(left.name)
            else:
                return

    def _is_directory(self, name: bytes) -> bool:
        try:
            return stat.S_ISDIR(os.stat(name, dir_fd=self._chain.innermost.fd, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False

    def _enter(self, name: bytes) -> None:
        self._check()
        try:
            fd = self._open(name)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            self._unlink(name)  # replaced meanwhile: whatever it is now, it is removed and not followed
            return
        status = os.fstat(fd)
        level = Level(fd, name, status)
        self._chain.enter(level)  # from here on the chain closes it
        self._refuse_mount(fd, name)
        if status.st_mode & 0o700 != 0o700:
            with contextlib.suppress(PermissionError):  # of another owner: what it forbids will fail by itself
                os.fchmod(fd, 0o700)
        with os.scandir(fd) as entries:  # to its end first: removing while listing makes some file systems skip entries
            listed = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
        for child, is_directory in listed:
            if is_directory:
                level.pending.append(child)
            else:
                self._check()
                self._unlink(child)

    def _open(self, name: bytes) -> int:
        parent = self._chain.innermost.fd
        try:
            return os.open(name, DIRECTORY_FLAGS, dir_fd=parent)
        except PermissionError:
            # A directory of ours without the right to read it. It is named by a descriptor that needs no right, so
            # that no link put in its place gets the new mode.
            if sys.platform != "linux":
                os.chmod(name, 0o700, dir_fd=parent, follow_symlinks=False)
                return os.open(name, DIRECTORY_FLAGS, dir_fd=parent)
            handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                self._refuse_mount(handle, name)
                os.chmod(f"/proc/self/fd/{handle}", 0o700)
                return os.open(b".", DIRECTORY_FLAGS, dir_fd=handle)
            finally:
                os.close(handle)

    def _refuse_mount(self, fd: int, name: bytes) -> None:
        if (os.fstat(fd).st_dev, mount_id(fd)) != self._mount:
            raise OSError(errno.EXDEV, "another file system is mounted here; it is not removed", name)

    def _unlink(self, name: bytes) -> None:
        level = self._chain.innermost
        try:
            status = os.stat(name, dir_fd=level.fd, follow_symlinks=False)
            os.unlink(name, dir_fd=level.fd)
        except FileNotFoundError:
            return
        except IsADirectoryError:
            level.pending.append(name)
            return
        self.files += 1
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            self.bytes += status.st_size

    def _remove_directory(self, name: bytes) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(name, dir_fd=self._chain.innermost.fd)


def remove_tree(dir_fd: int, name: bytes, *, check: Callable[[], None] | None = None) -> tuple[int, int]:
    """Remove a file, or a directory with all below it; returns the number of files and the bytes they held.

    Follows no link, takes any depth, and gives itself the right to enter directories that deny it. Files with other
    names left elsewhere count no bytes. A name that does not exist is no error. `OSError(EXDEV)` where something is
    mounted inside: what is mounted is never touched, what was removed before stays removed. `check` is called before
    each entry and stops the removal by raising. Nothing is synced.
    """
    removal = _Removal(dir_fd, check or _nothing)
    try:
        removal.run(name)
    finally:
        removal.close()
    return removal.files, removal.bytes
