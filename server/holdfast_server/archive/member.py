"""What an archive holds: one member per file system entry, named by bytes.

The vocabulary shared by the writers, the strict readers, the manifest and the extractor.
"""

from __future__ import annotations

from enum import StrEnum

from holdfast_server.records import frozen_record

__all__ = ["Member", "MemberKind", "difference"]


class MemberKind(StrEnum):
    """The kinds of entry an archive may hold. FIFOs, sockets and devices never enter one."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"


@frozen_record
class Member:
    """One entry of an archive.

    `path` is relative to the archive's root, components separated by `/`, without leading or trailing slash and without
    `.` and `..` components; every other byte but NUL may occur. `mode` holds permission bits only (`st_mode & 0o7777`).
    `mtime_ns` counts from the epoch and may be negative. `size` is the content's length in bytes (FILE only, else 0).
    `link_target` is the raw target of a SYMLINK, or the `path` of an earlier FILE member for a HARDLINK. `sparse` says
    that the source file had holes. `xattrs` are extended attributes, which only snapshots keep.
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
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


def difference(expected: Member, seen: Member, mtime_step: int) -> str | None:
    """What the archive says otherwise than its manifest, or what went into it, at the resolution of its own times."""
    for what, a, b in (
        ("type", expected.kind, seen.kind),
        ("size", expected.size, seen.size),
        ("mode", expected.mode, seen.mode),
        ("link target", expected.link_target, seen.link_target),
    ):
        if a != b:
            return f"the {what} is not the manifest's"
    seconds = expected.mtime_ns // 1_000_000_000
    if mtime_step > 1 and not -(1 << 31) <= seconds < 1 << 31:
        # A zip's field for times has 32 bits.
        return None
    if expected.mtime_ns // mtime_step != seen.mtime_ns // mtime_step:
        return "the time is not the manifest's"
    return None
