"""The few system calls that the standard library lacks, through ctypes.

Each raises `OSError` like the functions of `os` do, and `OSError(ENOSYS)` where the C library does not know it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Callable

__all__ = ["rename_without_replace", "syncfs", "syncfs_reports_errors"]

_RENAME_NOREPLACE = 1  # linux/fs.h
_RENAME_EXCL = 4  # sys/stdio.h of macOS

_libc = ctypes.CDLL(None, use_errno=True)


def _function(name: str, *types: type) -> Callable[..., int] | None:
    try:
        function = getattr(_libc, name)
    except AttributeError:
        return None
    function.argtypes = types
    function.restype = ctypes.c_int
    call: Callable[..., int] = function
    return call


_RENAME_TYPES = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_renameat2 = _function("renameat2", *_RENAME_TYPES)
_renameatx_np = _function("renameatx_np", *_RENAME_TYPES) if sys.platform == "darwin" else None
_syncfs = _function("syncfs", ctypes.c_int)


def _call(function: Callable[..., int] | None, *arguments: int | bytes) -> None:
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    # An interrupted call did nothing; like PEP 475, ask again once the signal's handler has run.
    while function(*arguments) != 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


def rename_without_replace(dir_fd: int, old: bytes, new: bytes, *, to_fd: int | None = None) -> None:
    """Atomically rename `old` in one directory to `new` in it, or in `to_fd`; `FileExistsError` if `new` exists.

    `OSError` with ENOSYS or EINVAL where kernel or file system cannot do this.
    """
    if b"\0" in old or b"\0" in new:
        raise ValueError("embedded null byte")
    target = dir_fd if to_fd is None else to_fd
    if sys.platform == "darwin":
        _call(_renameatx_np, dir_fd, old, target, new, _RENAME_EXCL)
    else:
        _call(_renameat2, dir_fd, old, target, new, _RENAME_NOREPLACE)


def syncfs(fd: int) -> None:
    """Write everything of the file system that `fd` lies on; `OSError(ENOSYS)` where there is no such call."""
    _call(_syncfs, fd)


def syncfs_reports_errors() -> bool:
    """Whether a failed write-back makes `syncfs` fail. Before Linux 5.8, and elsewhere, it says nothing."""
    if sys.platform != "linux" or _syncfs is None:
        return False
    numbers = platform.release().split("-")[0].split(".")
    try:
        return (int(numbers[0]), int(numbers[1])) >= (5, 8)
    except (IndexError, ValueError):
        return False
