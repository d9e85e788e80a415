"""Restoring an archive into a new folder: everything is extracted and proved in staging before anything appears.

Staging is a folder inside the target, so on its filesystem. Only when every file's hash agreed with the manifest and
all of it is on the disk are the entries moved up, without replacing anything. A restore that stopped while moving is
finished by the next attempt; one that stopped before leaves nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from holdfast_server.archive.extract import Extracted, extract
from holdfast_server.archive.manifest import format_mtime, parse_mtime
from holdfast_server.archive.reading import ArchiveReader, Report
from holdfast_server.archive.sink import Progress as OnProgress
from holdfast_server.core.coin_restore import CoinRestore
from holdfast_server.core.control import Control, Progress
from holdfast_server.core.selection import PathSelection
from holdfast_server.errors import FailedPrecondition, Reason, ResourceExhausted
from holdfast_server.storage.entry import read_xattrs, replace_xattrs
from holdfast_server.storage.local import free_bytes, fsync_directory, move, remove_tree, sync_filesystem
from holdfast_server.storage.names import escape

__all__ = [
    "Restored",
    "Room",
    "Unpacking",
    "apply_staging",
    "extract_to_staging",
    "remove_staging",
    "staging_name",
]

_PREFIX = ".holdfast-restore-"
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Free space is asked for once in so many steps, each of which writes at most a block of 1 MiB.
_STEPS_PER_LOOK = 16
_LARGEST_ID = (1 << 32) - 2


@dataclass(frozen=True, slots=True)
class Restored:
    """What lies in staging, proved and synced.

    `root` are the attributes that the target gets, as a manifest writes them; empty if the archive tells none.
    `has_manifest`: every file was compared with one. `decrypted` coin files were made of envelopes; `encrypted` are
    those that the whole backup encrypted and that were left as they are, 0 where that is not known. `coins` sums up a
    new wallet's coins.
    """

    files: int
    directories: int
    symlinks: int
    hardlinks: int
    bytes: int
    warning_count: int
    has_manifest: bool
    root: dict[str, Any]
    decrypted: int = 0
    encrypted: int = 0
    coins: dict[str, Any] | None = None
    coin_warnings: int = 0


@dataclass(frozen=True, slots=True)
class Unpacking:
    """An opened archive, and the rules by which it is unpacked.

    `needed` are the bytes that it will write, as far as that is known beforehand. `reserve` bytes of the target's
    filesystem are left free at any time. `max_bytes` bounds the files' content, as it is really unpacked. `coins`: what
    is done with coins beyond unpacking them; None: nothing.
    """

    reader: ArchiveReader
    select: PathSelection | None
    on_progress: OnProgress
    report: Report
    needed: int | None
    reserve: int = 0
    max_bytes: int | None = None
    expect_manifest: bool = True
    coins: CoinRestore | None = None


def staging_name(task_id: str, attempt: int) -> bytes:
    """An attempt's staging folder; backups always ignore it."""
    return f"{_PREFIX}{task_id}.{attempt}".encode()


def extract_to_staging(
    unpacking: Unpacking, root_fd: int, staging: bytes, *, control: Control, progress: Progress
) -> Restored:
    """Extract the archive into a new staging folder below the target and prove all of it.

    Raises ResourceExhausted/DISK_FULL before anything is written when the content cannot fit,
    NotFound/ENTRY_NOT_FOUND for a path that the archive does not hold, and what `archive.extract` and `CoinRestore`
    raise. The caller removes staging then.
    """
    room = Room(root_fd, unpacking.reserve)
    room.require(unpacking.needed or 0)
    os.mkdir(staging, 0o700, dir_fd=root_fd)
    staging_fd = os.open(staging, _OPEN, dir_fd=root_fd)

    def on_progress(size: int, files: int, path: bytes) -> None:
        room.look()
        unpacking.on_progress(size, files, path)

    coins = unpacking.coins
    try:
        progress.begin("extracting")
        found = extract(
            unpacking.reader,
            staging_fd,
            check=control.check,
            on_progress=on_progress,
            select=unpacking.select,
            preserve_owner=os.geteuid() == 0,
            expect_manifest=unpacking.expect_manifest,
            report=unpacking.report,
            max_bytes=unpacking.max_bytes,
            arrange=None
            if coins is None
            else partial(coins.arrange, root_fd=staging_fd, select=unpacking.select, require=room.require),
        )
        if unpacking.select is not None:
            unpacking.select.require_met()
        if coins is not None:
            coins.settle(staging_fd)
        progress.begin("syncing")
        sync_filesystem(staging_fd)
        return _restored(found, unpacking)
    finally:
        os.close(staging_fd)


def apply_staging(root_fd: int, staging: bytes, root: dict[str, Any], check: Callable[[], None]) -> None:
    """Move what staging holds up into the target, which holds nothing else; may be called again after a crash.

    Raises FailedPrecondition/TARGET_CHANGED when something of the same name appeared meanwhile; it is left alone.
    """
    with suppress(FileNotFoundError):  # an earlier attempt had finished moving, and nothing else
        if root.get("xattrs") is True:
            _copy_xattrs(root_fd, staging)
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


def _copy_xattrs(root_fd: int, staging: bytes) -> None:
    """Give the target the extended attributes of the staging folder, but for those that belong to the place."""
    staging_fd = os.open(staging, _OPEN, dir_fd=root_fd)
    try:
        replace_xattrs(root_fd, read_xattrs(staging_fd))
    finally:
        os.close(staging_fd)


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


class Room:
    """Keeps a reserve of the target's filesystem free."""

    def __init__(self, root_fd: int, reserve: int) -> None:
        self._fd = root_fd
        self._reserve = reserve
        self._steps = 0

    def require(self, needed: int) -> None:
        """Raises ResourceExhausted/DISK_FULL when that much does not fit."""
        free = free_bytes(self._fd)
        if needed <= free - self._reserve or not (needed or self._reserve):
            return
        kept = f", of which {self._reserve} are kept free" if self._reserve else ""
        raise ResourceExhausted(
            Reason.DISK_FULL,
            f"the restore needs {needed} bytes and the target's filesystem has {free} free{kept}",
            metadata={"needed": str(needed), "free": str(free), "reserve": str(self._reserve)},
        )

    def look(self) -> None:
        """Whether the reserve is still there."""
        self._steps += 1
        if not self._reserve or self._steps % _STEPS_PER_LOOK:
            return
        free = free_bytes(self._fd)
        if free < self._reserve:
            raise ResourceExhausted(
                Reason.DISK_FULL,
                f"the target's filesystem has only {free} bytes left, and {self._reserve} are kept free",
                metadata={"free": str(free), "reserve": str(self._reserve)},
            )


def _restored(found: Extracted, unpacking: Unpacking) -> Restored:
    coins = unpacking.coins
    removed_files, removed_directories = coins.removed if coins is not None else (0, 0)
    return Restored(
        files=found.files - removed_files,
        directories=found.directories - removed_directories,
        symlinks=found.symlinks,
        hardlinks=found.hardlinks,
        bytes=found.bytes + (coins.growth if coins is not None else 0),
        warning_count=found.warning_count,
        has_manifest=found.manifest_header is not None,
        root=_root_attributes(found, unpacking.reader),
        decrypted=coins.opened if coins is not None else 0,
        encrypted=_encrypted_files(found) if coins is None else 0,
        coins=coins.coins if coins is not None else None,
        coin_warnings=coins.warnings if coins is not None else 0,
    )


def _encrypted_files(found: Extracted) -> int:
    """How many files the backup encrypted, by the manifest's totals."""
    wallet = (found.manifest_totals or {}).get("wallet")
    count = wallet.get("files_reencrypted") if isinstance(wallet, dict) else 0
    return count if type(count) is int and count > 0 else 0


def _root_attributes(found: Extracted, reader: ArchiveReader) -> dict[str, Any]:
    """The root's attributes, by the manifest or by a member `./`; nothing where they are not what they should be."""
    if found.manifest_header is None:
        root = reader.root
        if root is None:
            return {}
        mtime = format_mtime(root.mtime_ns)
        return {"mode": f"{root.mode:04o}", "mtime": mtime, "uid": root.uid, "gid": root.gid}
    stated: Any = found.manifest_header.get("root")
    try:
        ids = {key: stated[key] for key in ("uid", "gid")}
        if not all(isinstance(number, int) and 0 <= number <= _LARGEST_ID for number in ids.values()):
            return {}
        return {
            "mode": f"{int(stated['mode'], 8) & 0o777:04o}",
            "mtime": format_mtime(parse_mtime(stated["mtime"])),
            **ids,
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}


def _set_root(root_fd: int, root: dict[str, Any]) -> None:
    """Give the target the source folder's mode, owner and time; what the filesystem refuses is no failure."""
    try:
        if os.geteuid() == 0:
            os.fchown(root_fd, int(root["uid"]), int(root["gid"]))
        os.fchmod(root_fd, int(root["mode"], 8) & 0o777)
        mtime = parse_mtime(root["mtime"])
        os.utime(root_fd, ns=(mtime, mtime))
    except (KeyError, TypeError, ValueError, OverflowError):
        return
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.EROFS, errno.EINVAL):
            raise
