"""What an archive holds: one member per file system entry, named by bytes.

The vocabulary shared by the writers, the strict readers, the manifest and the extractor.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Member", "MemberKind"]


class MemberKind(StrEnum):
    """The kinds of entry an archive may hold. FIFOs, sockets and devices never enter one."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of an archive.

    `path` is relative to the archive's root, components separated by `/`, without leading or trailing slash and without
    `.` and `..` components; every other byte but NUL may occur. `mode` holds permission bits only (`st_mode & 0o7777`).
    `mtime_ns` counts from the epoch and may be negative. `size` is the content's length in bytes (FILE only, else 0).
    `link_target` is the raw target of a SYMLINK, or the `path` of an earlier FILE member for a HARDLINK. `sparse` says
    that the source file had holes.
    """

    path: bytes
    kind: MemberKind
    mode: int = 0o644
    mtime_ns: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    link_target: bytes = b""
    sparse: bool = False
