"""The trash of archives: each waits in its own folder, under a hidden name, until it is taken back or removed.

Nothing is renamed or removed that is not proved to be the archive meant: a regular file of the recorded size below the
opened folder, never reached through a link. Whatever stands under a name already stays. Every step can be repeated
after a crash; where a file lies says how far the last one got. Callers let one at a time work on an archive.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from holdfast_server.archive.sidecar import SIDECAR_SUFFIX, sidecar_name
from holdfast_server.core.publish import read_sidecar
from holdfast_server.errors import DataLoss, FailedPrecondition, HoldfastError, Reason, Unavailable
from holdfast_server.storage.local import fsync_directory, publish, translate_os_error
from holdfast_server.storage.names import escape

__all__ = [
    "TRASH_PREFIX",
    "StoredFile",
    "hide",
    "look",
    "remove",
    "reveal",
    "trash_name",
]

_log = logging.getLogger(__name__)

TRASH_PREFIX = b".holdfast-trash-"

_LONGEST = 255 - len(SIDECAR_SUFFIX)
_SUFFIX = re.compile(rb"((?:\.zip|\.tar(?:\.[a-z]+)?)?(?:\.age)?)\Z")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An archive as the catalog knows it: `name` when it is in use, `hidden` when it is in the trash."""

    folder: bytes
    backup_id: str
    name: bytes
    hidden: bytes
    size: int


def trash_name(backup_id: str, file_name: bytes) -> bytes:
    """The hidden name, of a length that leaves room for a sidecar's suffix."""
    prefix = TRASH_PREFIX + backup_id.encode() + b"-"
    return prefix + file_name[-(_LONGEST - len(prefix)) :]


def look(archive: StoredFile) -> bytes | None:
    """Under which of its two names the archive lies; None when under neither.

    Raises Unavailable/STORAGE_UNREACHABLE when the folder cannot be opened, FailedPrecondition/ARCHIVE_CHANGED when
    another file has its name.
    """
    with _opened(archive) as fd:
        return _look(fd, archive)


def hide(archive: StoredFile) -> bool:
    """Move the archive and its sidecar to the hidden name, durably; False when there is no archive.

    Raises what `look` raises, and the service's error for a failed system call.
    """
    with _opened(archive) as fd:
        lies = _look(fd, archive)
        if lies is None:
            return False
        if lies == archive.name:
            _move_proved(fd, archive, archive.name, archive.hidden)
        elif _same_file(fd, archive.name, archive.hidden):
            os.unlink(archive.name, dir_fd=fd)  # a file system without rename-no-replace, and a crash in between
            fsync_directory(fd)
        if _is_sidecar(fd, archive.name, archive):
            _move(fd, sidecar_name(archive.name), sidecar_name(archive.hidden))
        return True


def reveal(archive: StoredFile, announce: Callable[[bytes], None]) -> bytes:
    """Move the archive and its sidecar from the hidden name to its own, or to `-2`, `-3`, … where that is taken.

    `announce` is called with each name directly before it is tried: it records the name, so that a later attempt finds
    an archive whose mover died. Gives the name. Raises what `hide` raises, and DataLoss/ARCHIVE_MISSING.
    """
    with _opened(archive) as fd:
        lies = _look(fd, archive)
        if lies is None:
            shown = escape(_path(archive, archive.hidden))
            raise DataLoss(Reason.ARCHIVE_MISSING, f"{shown} is gone", metadata={"path": shown})
        if lies == archive.name:
            return archive.name
        if _same_file(fd, archive.name, archive.hidden):
            os.unlink(archive.hidden, dir_fd=fd)  # see `hide`
            fsync_directory(fd)
            return archive.name
        for name in _candidates(archive.name):
            if _exists(fd, name) or _exists(fd, sidecar_name(name)):
                continue
            announce(name)
            # First the sidecar: no sealed archive stands under its name without one.
            if _is_sidecar(fd, archive.hidden, archive):
                _move(fd, sidecar_name(archive.hidden), sidecar_name(name))
            try:
                _move_proved(fd, archive, archive.hidden, name)
            except FileExistsError:
                if _is_sidecar(fd, name, archive):
                    _move(fd, sidecar_name(name), sidecar_name(archive.hidden))
                continue
            return name
    raise AssertionError("there is always another name")


def remove(archive: StoredFile) -> int:
    """Remove the hidden archive and its sidecar for good; gives the bytes freed, 0 when they are gone already.

    Raises what `hide` raises.
    """
    with _opened(archive) as fd:
        freed = 0
        if _is_sidecar(fd, archive.hidden, archive):
            os.unlink(sidecar_name(archive.hidden), dir_fd=fd)
        found = _proved(fd, archive, archive.hidden)
        if found is not None:
            os.unlink(archive.hidden, dir_fd=fd)
            freed = archive.size
        fsync_directory(fd)
        return freed


@contextmanager
def _opened(archive: StoredFile) -> Iterator[int]:
    shown = escape(archive.folder)
    try:
        fd = os.open(archive.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        text = f"the folder {shown} of backup {archive.backup_id} cannot be opened: {error.strerror}"
        metadata = {"path": shown, "backup_id": archive.backup_id}
        raise Unavailable(Reason.STORAGE_UNREACHABLE, text, metadata=metadata, retry_after=5.0) from error
    try:
        yield fd
    except OSError as error:
        raise translate_os_error(error, f"the trash of {shown}") from error
    finally:
        os.close(fd)


def _look(fd: int, archive: StoredFile) -> bytes | None:
    for name in (archive.hidden, archive.name):
        if _proved(fd, archive, name) is not None:
            return name
    return None


def _proved(fd: int, archive: StoredFile, name: bytes) -> tuple[int, int] | None:
    """Device and inode of the archive under a name; None when nothing has that name."""
    try:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise _changed(archive, name, "is no regular file")
    if status.st_size != archive.size:
        raise _changed(archive, name, f"has {status.st_size} bytes, {archive.size} were written")
    return status.st_dev, status.st_ino


def _changed(archive: StoredFile, name: bytes, how: str) -> FailedPrecondition:
    shown = escape(_path(archive, name))
    return FailedPrecondition(
        Reason.ARCHIVE_CHANGED,
        f"{shown} is not the archive of backup {archive.backup_id}: it {how}; it is left alone",
        metadata={"path": shown, "backup_id": archive.backup_id},
    )


def _move_proved(fd: int, archive: StoredFile, old: bytes, new: bytes) -> None:
    """Rename what was proved to be the archive; what was put in its place meanwhile is put back."""
    identity = _proved(fd, archive, old)
    publish(fd, old, new)
    status = os.stat(new, dir_fd=fd, follow_symlinks=False)
    if (status.st_dev, status.st_ino) != identity:
        publish(fd, new, old)
        raise _changed(archive, old, "was replaced a moment ago")


def _move(fd: int, old: bytes, new: bytes) -> None:
    """Rename a sidecar. It can be made anew from the archive, so its name being taken stops nothing."""
    try:
        publish(fd, old, new)
    except FileExistsError:
        _log.warning("%s keeps its name: %s is taken", escape(old), escape(new))


def _is_sidecar(fd: int, name: bytes, archive: StoredFile) -> bool:
    """Whether beside a name lies the archive's sidecar, by what it says itself."""
    try:
        return read_sidecar(fd, name).backup_id == archive.backup_id
    except (OSError, HoldfastError):
        return False


def _same_file(fd: int, one: bytes, other: bytes) -> bool:
    try:
        a, b = (os.stat(name, dir_fd=fd, follow_symlinks=False) for name in (one, other))
    except FileNotFoundError:
        return False
    return (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)


def _candidates(name: bytes) -> Iterator[bytes]:
    """The name, then with -2, -3, … before its suffix."""
    yield name
    match = _SUFFIX.search(name)
    suffix = match[1] if match else b""
    stem = name[: len(name) - len(suffix)]
    number = 2
    while True:
        tail = b"-%d" % number + suffix
        yield stem[: _LONGEST - len(tail)] + tail
        number += 1


def _exists(fd: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise
    return True


def _path(archive: StoredFile, name: bytes) -> bytes:
    return archive.folder.rstrip(b"/") + b"/" + name
