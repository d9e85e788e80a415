"""Putting a finished archive under its name: never over another file, exactly once however often it is tried."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from holdfast_server.archive.format import SEALED_SUFFIX, ArchiveFormat
from holdfast_server.archive.sidecar import MAX_SIDECAR, Sidecar, parse_sidecar, sidecar_name
from holdfast_server.core.read_back import hash_file
from holdfast_server.errors import FailedPrecondition
from holdfast_server.storage.local import create_file, exists, publish
from holdfast_server.storage.names import safe_file_name

__all__ = [
    "archive_base_name",
    "create_partial",
    "find_published",
    "partial_name",
    "publish_archive",
    "read_sidecar",
    "remove_partials",
    "remove_sidecar",
]

_PARTIAL = re.compile(rb"\.([0-9a-f-]{36})\.([0-9]+)(?:\.[0-9]+)?(?:\.sidecar)?\.partial")


def archive_base_name(display_name: str, tag: str, created_us: int) -> str:
    """`{display_name}-{tag}-{YYYYMMDD-HHMMSS}` in UTC, reduced to `[A-Za-z0-9._-]`; an empty tag is left out."""
    stamp = datetime.fromtimestamp(created_us / 1e6, UTC).strftime("%Y%m%d-%H%M%S")
    return "-".join([safe_file_name(display_name), *([safe_file_name(tag)] if tag else []), stamp])


def partial_name(task_id: str, attempt: int, number: int = 0) -> bytes:
    """The name under which an attempt writes: it alone may remove it, or a later attempt of the same task.

    `number` tells the archives of one task apart.
    """
    middle = f".{number}" if number else ""
    return f".{task_id}.{attempt}{middle}.partial".encode()


def create_partial(folder_fd: int, name: bytes) -> int:
    """A new file for writing and reading back, readable by the service alone: archives are bearer value."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, 0o600, dir_fd=folder_fd)


def publish_archive(
    folder_fd: int,
    partial: bytes,
    base: str,
    archive_format: ArchiveFormat,
    announce: Callable[[bytes], None],
    sidecar: Sidecar | None = None,
) -> bytes:
    """Rename the partial to its final name; a taken name gets `-2`, `-3`, …. Gives the name.

    `announce` is called with each name directly before it is tried, and may raise: it records the name, so that a later
    attempt finds an archive whose publisher died, and it is the last check that this attempt still owns the task.

    With a `sidecar` the archive is a sealed one, and the sidecar gets its name first. So a crash leaves at most a
    sidecar without its archive, which `remove_sidecar` takes away.
    """
    number = 1
    while True:
        suffix = "" if number == 1 else f"-{number}"
        name = f"{base}{suffix}{archive_format.suffix}{SEALED_SUFFIX if sidecar else ''}".encode()
        number += 1
        if exists(folder_fd, name) or (sidecar and exists(folder_fd, sidecar_name(name))):
            continue
        announce(name)
        try:
            if sidecar:
                temporary = partial.removesuffix(b".partial") + b".sidecar.partial"
                create_file(folder_fd, sidecar_name(name), sidecar.encode(), temporary=temporary)
            _publish_beside(folder_fd, partial, name, sidecar)
        except FileExistsError:
            continue
        return name


def find_published(folder_fd: int, name: bytes, size: int, sha256: str, check: Callable[[], None]) -> bool:
    """Whether an earlier attempt's archive stands under the name it announced, whole."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder_fd)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return False
        raise
    try:
        return os.fstat(fd).st_size == size and hash_file(fd, check) == sha256
    finally:
        os.close(fd)


def read_sidecar(folder_fd: int, archive: bytes) -> Sidecar:
    """The sidecar beside an archive. Raises OSError, FailedPrecondition/ARCHIVE_INVALID."""
    fd = os.open(sidecar_name(archive), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder_fd)
    try:
        return parse_sidecar(os.pread(fd, MAX_SIDECAR + 1, 0))
    finally:
        os.close(fd)


def remove_sidecar(folder_fd: int, archive: bytes, sha256: str) -> tuple[int, int]:
    """Remove the sidecar beside an archive's name, if it states this hash; another is somebody else's.

    Gives (files, bytes) removed.
    """
    try:
        sidecar = read_sidecar(folder_fd, archive)
    except (OSError, FailedPrecondition):
        return 0, 0
    if sidecar.sha256 != sha256:
        return 0, 0
    os.unlink(sidecar_name(archive), dir_fd=folder_fd)
    return 1, len(sidecar.encode())


def remove_partials(folder_fd: int, task_id: str, attempts: Iterable[int]) -> tuple[int, int]:
    """Remove what the named attempts of a task left in a folder; gives (files, bytes) removed."""
    wanted, files, size = set(attempts), 0, 0
    for entry in os.listdir(folder_fd):
        name = os.fsencode(entry)
        match = _PARTIAL.fullmatch(name)
        if match is None or match[1].decode() != task_id or int(match[2]) not in wanted:
            continue
        try:
            status = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
            os.unlink(name, dir_fd=folder_fd)
        except FileNotFoundError:
            continue
        files, size = files + 1, size + status.st_size
    return files, size


def _publish_beside(folder_fd: int, partial: bytes, name: bytes, sidecar: Sidecar | None) -> None:
    try:
        publish(folder_fd, partial, name)
    except BaseException as error:
        # What stands under the name is another's, or nothing, or ours whose folder could not be synced.
        if sidecar and (isinstance(error, FileExistsError) or not exists(folder_fd, name)):
            remove_sidecar(folder_fd, name, sidecar.sha256)
        raise
