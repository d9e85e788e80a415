"""Restoring an archive into a new folder: everything is extracted and proved in staging before anything appears.

Staging is a folder inside the target, so on its filesystem. Only when every file's hash agreed with the manifest and
all of it is on the disk are the entries moved up, without replacing anything. A restore that stopped while moving is
finished by the next attempt; one that stopped before leaves nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from holdfast_server.archive.extract import Extracted, extract
from holdfast_server.archive.manifest import parse_mtime
from holdfast_server.archive.reader import Limits, open_reader
from holdfast_server.archive.reading import Source
from holdfast_server.core.control import Control, Progress, ReadingProgress
from holdfast_server.core.selection import PathSelection
from holdfast_server.core.verify import StoredArchive
from holdfast_server.errors import FailedPrecondition, Reason, ResourceExhausted
from holdfast_server.storage.local import free_bytes, fsync_directory, move, remove_tree, sync_filesystem
from holdfast_server.storage.names import escape

__all__ = ["Restored", "apply_staging", "extract_to_staging", "remove_staging", "staging_name"]

_PREFIX = ".holdfast-restore-"
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Restored:
    """What lies in staging, proved and synced; `root` are the source folder's own attributes from the manifest."""

    files: int
    directories: int
    symlinks: int
    hardlinks: int
    bytes: int
    warnings: tuple[str, ...]
    warning_count: int
    root: dict[str, Any]


def staging_name(task_id: str, attempt: int) -> bytes:
    """An attempt's staging folder; backups always ignore it."""
    return f"{_PREFIX}{task_id}.{attempt}".encode()


def extract_to_staging(
    file: BinaryIO | Source,
    archive: StoredArchive,
    root_fd: int,
    staging: bytes,
    *,
    paths: Sequence[bytes],
    control: Control,
    progress: Progress,
) -> Restored:
    """Extract the archive (`core.verify.open_content`) into a new staging folder below the target and prove all of it.

    Raises ResourceExhausted/DISK_FULL before anything is written when the content cannot fit,
    NotFound/ENTRY_NOT_FOUND for a path that the backup does not hold, and what `archive.extract` raises. The caller
    removes staging then.
    """
    if not paths:
        _check_space(root_fd, archive.original_size)
    os.mkdir(staging, 0o700, dir_fd=root_fd)
    staging_fd = os.open(staging, _OPEN, dir_fd=root_fd)
    try:
        on_progress = ReadingProgress(progress, archive.original_size, archive.files)
        progress.begin("extracting")
        reader = open_reader(archive.format.name, file, limits=Limits(), check=control.check)
        select = PathSelection(paths) if paths else None
        found = extract(
            reader,
            staging_fd,
            check=control.check,
            on_progress=on_progress,
            select=select,
            preserve_owner=os.geteuid() == 0,
        )
        if select is not None:
            select.require_met()
        progress.begin("syncing")
        sync_filesystem(staging_fd)
        return _restored(found)
    finally:
        os.close(staging_fd)


def apply_staging(root_fd: int, staging: bytes, root: dict[str, Any], check: Callable[[], None]) -> None:
    """Move what staging holds up into the target, which holds nothing else; may be called again after a crash.

    Raises FailedPrecondition/TARGET_CHANGED when something of the same name appeared meanwhile; it is left alone.
    """
    with suppress(FileNotFoundError):  # an earlier attempt had finished moving, and nothing else
        _move_all(root_fd, staging, check)
    # Last, because every move before it changes the target's time.
    _set_root(root_fd, root)
    fsync_directory(root_fd)


def remove_staging(root_fd: int, staging: bytes) -> tuple[int, int]:
    """Remove a staging folder; gives (files, bytes) removed, zeros when there is none."""
    try:
        return remove_tree(root_fd, staging)
    except FileNotFoundError:
        return 0, 0


def _move_all(root_fd: int, staging: bytes, check: Callable[[], None]) -> None:
    staging_fd = os.open(staging, _OPEN, dir_fd=root_fd)
    try:
        for entry in sorted(os.listdir(staging_fd)):
            check()
            _move_up(staging_fd, root_fd, os.fsencode(entry))
        fsync_directory(root_fd)
    finally:
        os.close(staging_fd)
    os.rmdir(staging, dir_fd=root_fd)


def _move_up(staging_fd: int, root_fd: int, name: bytes) -> None:
    try:
        move(staging_fd, name, root_fd)
    except FileNotFoundError:
        return  # another attempt, fenced by now, moved it a moment before
    except FileExistsError as error:
        shown = escape(name)
        raise FailedPrecondition(
            Reason.TARGET_CHANGED,
            f"{shown} appeared in the target while the restore ran; it is left alone",
            metadata={"path": shown},
        ) from error


def _check_space(root_fd: int, needed: int) -> None:
    free = free_bytes(root_fd)
    if needed > free:
        raise ResourceExhausted(
            Reason.DISK_FULL,
            f"the restore needs {needed} bytes and the target's filesystem has {free} free",
            metadata={"needed": str(needed), "free": str(free)},
        )


def _restored(found: Extracted) -> Restored:
    header = found.manifest_header or {}
    root = header.get("root")
    return Restored(
        files=found.files,
        directories=found.directories,
        symlinks=found.symlinks,
        hardlinks=found.hardlinks,
        bytes=found.bytes,
        warnings=found.warnings,
        warning_count=found.warning_count,
        root=dict(root) if isinstance(root, dict) else {},
    )


def _set_root(root_fd: int, root: dict[str, Any]) -> None:
    """Give the target the source folder's mode, owner and time; what the filesystem refuses is no failure."""
    try:
        if os.geteuid() == 0:
            os.fchown(root_fd, int(root["uid"]), int(root["gid"]))
        os.fchmod(root_fd, int(root["mode"], 8) & 0o777)
        mtime = parse_mtime(root["mtime"])
        os.utime(root_fd, ns=(mtime, mtime))
    except (KeyError, TypeError, ValueError):
        return
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.EROFS, errno.EINVAL):
            raise
