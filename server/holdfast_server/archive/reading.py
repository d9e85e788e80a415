"""What the strict readers share: limits, path rules, names seen, and the shape of a reader.

A reader gives one reading of an archive or refuses it. Rules broken are FAILED_PRECONDITION/ARCHIVE_INVALID; bytes that
are not what they were (checksums, truncation) are DATA_LOSS/CHECKSUM_MISMATCH; more than was allowed is
RESOURCE_EXHAUSTED/QUOTA_EXCEEDED. Messages name the member, escaped, and the offset.
"""

from __future__ import annotations

import hashlib
import os
import re
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from holdfast_server.archive.member import Member
from holdfast_server.errors import DataLoss, FailedPrecondition, Reason, ResourceExhausted
from holdfast_server.storage.names import escape

__all__ = [
    "BLOCK",
    "ArchiveReader",
    "Budget",
    "Content",
    "FileSource",
    "Followed",
    "LimitExceeded",
    "Limits",
    "Names",
    "Report",
    "Source",
    "check_path",
    "damage",
    "invalid",
    "leaves_on_windows",
    "plain_path",
    "show",
]

#: Content comes in blocks of at most this size.
BLOCK = 1 << 20

#: No file system that Linux serves holds a longer component.
NAME_MAX = 255

_NO_NAMES = frozenset((b"", b".", b".."))
_SHOWN = 300
_DOTS = re.compile(rb"(?:\./)*")


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may cost. Counted while streaming from what is really produced, never from declared sizes.

    `total_bytes` bounds all that is unpacked (tar headers included); `ratio` bounds it to a multiple of the archive's
    own size, once more than `ratio_floor` bytes came out. Unset it is a little more than the format can reach (deflate
    1,032:1, zstd 32,768:1), and only stops tricks: zeros that were backed up do come near it. `window` bounds how many
    bytes of what it produced a zstd decompressor may have to keep; 128 MiB is what `zstd -22` and `zstd --long` use.
    """

    total_bytes: int = 1 << 50
    ratio: int | None = None
    entries: int = 50_000_000
    path_length: int = 1 << 20
    depth: int = 10_000
    ratio_floor: int = 64 << 20
    window: int = 128 << 20


class LimitExceeded(ResourceExhausted):
    """An archive asks for more than one of `Limits` allows: `limit` is the field's name, `allowed` its value."""

    def __init__(
        self, limit: str, allowed: int, what: str, path: bytes | None = None, offset: int | None = None
    ) -> None:
        text, metadata = _described(what, path, offset)
        metadata |= {"limit": limit, "allowed": str(allowed)}
        super().__init__(Reason.QUOTA_EXCEEDED, f"the archive passes a limit: {text}", metadata=metadata)
        self.limit = limit
        self.allowed = allowed


def show(path: bytes) -> str:
    """A name for people, cut where it is too long for a message."""
    return escape(path[:_SHOWN]) + ("…" if len(path) > _SHOWN else "")


def invalid(what: str, path: bytes | None = None, offset: int | None = None) -> FailedPrecondition:
    """The archive breaks its format's rules."""
    text, metadata = _described(what, path, offset)
    return FailedPrecondition(Reason.ARCHIVE_INVALID, f"the archive is invalid: {text}", metadata=metadata)


def damage(what: str, path: bytes | None = None, offset: int | None = None) -> DataLoss:
    """The archive's bytes are not what was written."""
    text, metadata = _described(what, path, offset)
    return DataLoss(Reason.CHECKSUM_MISMATCH, f"the archive is damaged: {text}", metadata=metadata)


def check_path(path: bytes, limits: Limits, offset: int) -> None:
    """Refuse what is not a plain relative path. Backslashes are ordinary bytes."""
    if not path:
        raise invalid("a member has no name", offset=offset)
    if len(path) > limits.path_length:
        what = f"a name of {len(path)} bytes is longer than {limits.path_length}"
        raise LimitExceeded("path_length", limits.path_length, what, path, offset)
    if b"\0" in path:
        raise invalid("a name contains NUL", path, offset)
    if path[:1] == b"/":
        raise invalid("a name is absolute", path, offset)
    parts = path.split(b"/")
    if len(parts) > limits.depth:
        raise LimitExceeded("depth", limits.depth, f"a name is nested deeper than {limits.depth} folders", path, offset)
    bad = _NO_NAMES.intersection(parts)
    if bad:
        raise invalid(f"a name has the component {min(bad).decode()!r}", path, offset)
    if len(max(parts, key=len)) > NAME_MAX:
        raise invalid(f"a component of a name is longer than {NAME_MAX} bytes", path, offset)


def plain_path(path: bytes) -> bytes:
    """A member's name without the `./` before it, which `tar c .` writes. The root itself gives an empty name."""
    if path[:1] != b".":
        return path
    path = path[_DOTS.match(path).end() :]  # type: ignore[union-attr]
    return b"" if path == b"." else path


def leaves_on_windows(path: bytes) -> bool:
    """Whether a name that is harmless here leads out of the folder where a backslash separates folders."""
    if b"\\" not in path:
        return False
    there = path.replace(b"\\", b"/")
    return there[:1] == b"/" or there[1:3] == b":/" or b".." in there.split(b"/")


class Budget:
    """Counts what a pass over an archive produces against the limits."""

    def __init__(self, limits: Limits, archive_size: int, format_ratio: int = 2000) -> None:
        self._limits = limits
        self._ratio = format_ratio if limits.ratio is None else limits.ratio
        self._by_ratio = max(limits.ratio_floor, self._ratio * archive_size)
        self._allowed = min(limits.total_bytes, self._by_ratio)
        self._bytes = 0
        self._entries = 0

    def produced(self, size: int) -> None:
        self._bytes += size
        if self._bytes <= self._allowed:
            return
        if self._bytes > self._limits.total_bytes:
            allowed = self._limits.total_bytes
            raise LimitExceeded("total_bytes", allowed, f"it unpacks to more than {allowed} bytes")
        ratio = self._ratio
        text = f"it unpacks to more than {self._by_ratio} bytes, {ratio} times its own size"
        if self._by_ratio == self._limits.ratio_floor:
            text = f"it unpacks to more than {self._by_ratio} bytes and {ratio} times its own size"
        raise LimitExceeded("ratio", ratio, text)

    def entry(self) -> None:
        self._entries += 1
        if self._entries > self._limits.entries:
            allowed = self._limits.entries
            raise LimitExceeded("entries", allowed, f"it has more than {allowed} entries")


class Names:
    """The names seen so far, as keyed 61-bit hashes: 12 to 24 bytes a name, and no name can be made to collide.

    A table with open addressing in an array: a set of integers takes 70 bytes a name, and two archives of a million
    entries may be open at once.
    """

    def __init__(self) -> None:
        self._key = os.urandom(16)
        self._slots = array("Q", [0]) * 64
        self._count = 0

    def add(self, path: bytes, *, is_file: bool = False, is_directory: bool = False) -> bool:
        """Remember a name; False if it was there before. One directory named twice is no collision."""
        code = self._code(path)
        at = self._slot(code)
        value = self._slots[at]
        if value:
            return is_directory and bool(value & 2)
        self._slots[at] = code | is_file | is_directory << 1
        self._count += 1
        if self._count * 3 > len(self._slots) * 2:
            self._grow()
        return True

    def __contains__(self, path: bytes) -> bool:
        return self._slots[self._slot(self._code(path))] != 0

    def has_file(self, path: bytes) -> bool:
        """Whether the name was added with `is_file`."""
        return bool(self._slots[self._slot(self._code(path))] & 1)

    def _slot(self, code: int) -> int:
        """Where the name is, or the empty slot where it would be."""
        slots = self._slots
        mask = len(slots) - 1
        at = code >> 3 & mask
        while (value := slots[at]) and value ^ code > 3:
            at = at + 1 & mask
        return at

    def _grow(self) -> None:
        before, self._slots = self._slots, array("Q", [0]) * (len(self._slots) * 2)
        for value in before:
            if value:
                self._slots[self._slot(value & ~3)] = value

    def _code(self, path: bytes) -> int:
        # The two lowest bits say "file" and "directory"; the third is set, so that no code is 0, an empty slot.
        return int.from_bytes(hashlib.blake2b(path, key=self._key, digest_size=8).digest(), "little") & ~3 | 4


class Source(ABC):
    """An archive's bytes by offset, so that several readers share it without a common position."""

    #: Number of bytes.
    size: int

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes. Raises DataLoss when the file ends before."""
        data = self.read_some(offset, size)
        while len(data) < size:
            more = self.read_some(offset + len(data), size - len(data))
            if not more:
                raise damage("the file ends too early", offset=offset + len(data))
            data += more
        return data

    @abstractmethod
    def read_some(self, offset: int, size: int) -> bytes:
        """At most `size` bytes; empty only at the end."""


class FileSource(Source):
    """A real file, opened for reading; the caller keeps it open."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file  # keeps the descriptor open
        self._fd = file.fileno()
        self.size = os.fstat(self._fd).st_size

    def read_some(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, offset)


class Followed(Source):
    """Another source, of which `reached` tells how far anybody has read."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.size = source.size
        self.reached = 0

    def read_some(self, offset: int, size: int) -> bytes:
        data = self._source.read_some(offset, size)
        self.reached = max(self.reached, offset + len(data))
        return data


class Content(Iterator[bytes]):
    """A member's content, block by block, to be consumed before the next member is asked for.

    What is left over is still read and checked by the reader, unless `discard` was called and the format can skip it.
    """

    def __init__(self, blocks: Iterator[bytes] | None = None) -> None:
        self._blocks = iter(()) if blocks is None else blocks
        self.discarded = False

    def __next__(self) -> bytes:
        return next(self._blocks)

    def discard(self) -> None:
        """Nobody wants the rest of this member."""
        self.discarded = True


#: Called with a member's path and, for people, what is left out of it; the last says that it is the whole member.
Report = Callable[[bytes, str, bool], None]


class ArchiveReader(ABC):
    """Reads one archive strictly. Each iteration is a pass of its own over the whole file; passes share nothing.

    `can_skip` says that a damaged or unwanted content does not keep the next member from being read. `mtime_step` is
    the resolution of the container's times in nanoseconds. `position` is how far in the file the present pass over the
    members has got, in bytes: only for showing. `report` may be set before a pass: it is told of what the
    archive holds and a reader has no place for.
    """

    format_name: str
    can_skip: bool
    mtime_step: int
    position: int = 0
    #: Whether the container has checksums of its own for all content that was read; known after a pass.
    has_checksums: bool = True
    #: The attributes of the root, from a member `./`, once a pass has met it; its path is empty.
    root: Member | None = None

    def __init__(self, source: Source, limits: Limits, check: Callable[[], None]) -> None:
        self.source = source
        self.limits = limits
        self.check = check
        self.report: Report = lambda _path, _what, _whole: None

    @abstractmethod
    def members(self) -> Iterator[tuple[Member, Content]]:
        """Every member in the archive's order, with its content (empty for all but files)."""

    @abstractmethod
    def manifest(self) -> Iterator[bytes] | None:
        """The content of a last member named as a manifest, where the format finds it without reading all before it."""

    def stated_size(self, select: Callable[[bytes], bool]) -> int | None:  # noqa: ARG002  what is streamed states none
        """Size of the selected files' content by the archive's own word, where it is known before all is read."""
        return None


def _described(what: str, path: bytes | None, offset: int | None) -> tuple[str, dict[str, str]]:
    metadata = {"detail": what}
    text = what
    if path is not None:
        metadata["path"] = show(path)
        text += f": member '{metadata['path']}'"
    if offset is not None:
        metadata["offset"] = str(offset)
        text += f" (offset {offset})"
    return text, metadata
