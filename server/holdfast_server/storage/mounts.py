"""Where an opened directory lies in its file system, whatever mount shows it.

A bind mount of a subfolder has no ancestor in common with the folder it is taken from, so comparing ancestors is not
enough. The kernel's mount table tells which part of which file system a mount shows; with it two directories can be
compared by their place inside the file system. Linux only: elsewhere, or without /proc, nothing is known.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Location", "Mount", "is_alias_within", "locate", "mount_id", "parse_mounts", "read_mounts", "same_or_below"]


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the mount table: the folder `root` of file system `device` is shown at `point`."""

    mount_id: int
    device: bytes
    root: bytes
    point: bytes


@dataclass(frozen=True, slots=True)
class Location:
    """A directory's place: `inner` path inside the file system `device`, and the path where the process sees it."""

    device: bytes
    inner: bytes
    visible: bytes


def _unescape(field: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8) & 0xFF]), field)


def parse_mounts(table: bytes) -> list[Mount]:
    """The lines of a mountinfo table; lines that do not look like one are left out."""
    mounts: list[Mount] = []
    for line in table.splitlines():
        fields = line.split(b" ")
        if len(fields) >= 6 and fields[0].isdigit():
            mounts.append(Mount(int(fields[0]), fields[2], _unescape(fields[3]), _unescape(fields[4])))
    return mounts


def read_mounts() -> list[Mount]:
    """The mounts this process sees; empty where there is no /proc."""
    try:
        with open("/proc/self/mountinfo", "rb") as table:
            return parse_mounts(table.read())
    except OSError:
        return []


def mount_id(fd: int) -> int | None:
    """The id of the mount through which `fd` was opened: differs across bind mounts of one file system too."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as info:
            found = re.search(rb"^mnt_id:\s*(\d+)", info.read(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


def same_or_below(path: bytes, container: bytes) -> bool:
    """Whether an absolute path equals or lies below another, by whole components."""
    return path == container or path.startswith(container.rstrip(b"/") + b"/")


def _rebase(path: bytes, old: bytes, new: bytes) -> bytes:
    """`path`, which lies within `old`, as it reads below `new`."""
    rest = path[len(old.rstrip(b"/")) :].strip(b"/")
    return new.rstrip(b"/") + b"/" + rest if rest else new


def locate(fd: int, mounts: Sequence[Mount]) -> Location | None:
    """Where an opened directory lies; None if it was removed or its mount is not in the table."""
    identifier = mount_id(fd)
    mount = next((candidate for candidate in mounts if candidate.mount_id == identifier), None)
    if mount is None or mount.root.endswith(b"//deleted") or os.fstat(fd).st_nlink == 0:
        return None
    try:
        visible = os.readlink(f"/proc/self/fd/{fd}".encode())
    except OSError:
        return None
    if not same_or_below(visible, mount.point):
        return None
    return Location(mount.device, _rebase(visible, mount.point, mount.root), visible)


def is_alias_within(folder_fd: int, container_fd: int, mounts: Sequence[Mount] | None = None) -> bool:
    """Whether a mount makes `folder_fd` show the container or something inside it. False where nothing is known.

    Two ways: both lie in one file system, one below the other there; or another mount shows the folder at a path below
    the container, such as a disk mounted inside the container and bound elsewhere.
    """
    table = read_mounts() if mounts is None else mounts
    folder, container = locate(folder_fd, table), locate(container_fd, table)
    if folder is None or container is None:
        return False
    if folder.device == container.device and same_or_below(folder.inner, container.inner):
        return True
    status = os.fstat(folder_fd)
    for mount in table:
        if mount.device != folder.device or not same_or_below(folder.inner, mount.root):
            continue
        alias = _rebase(folder.inner, mount.root, mount.point)
        if not same_or_below(alias, container.visible):
            continue
        try:  # another mount may cover that path: count it only if it truly shows the folder
            shown = os.stat(alias)
        except OSError:
            continue
        if (shown.st_dev, shown.st_ino) == (status.st_dev, status.st_ino):
            return True
    return False
