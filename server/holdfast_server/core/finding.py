"""Backups found again by their archives alone: which files may be some, and what each says of itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.reader import DETECT_SIZE, Limits, detect_format, open_reader
from holdfast_server.archive.verify import structure
from holdfast_server.core.read_back import hash_file
from holdfast_server.core.statistics import Statistics
from holdfast_server.errors import DataLoss, FailedPrecondition, Reason

__all__ = ["ArchiveFacts", "is_archive_name", "read_facts"]

_SUFFIXES = tuple(one.suffix.encode() for one in ArchiveFormat if one.writable)

#: An archive nobody vouches for may not cost more memory than one of its size can need: about 70 bytes an entry.
_FEWEST_ENTRIES = 1_000_000
_BYTES_PER_ENTRY = 16


@dataclass(frozen=True, slots=True)
class ArchiveFacts:
    """What an archive states of the backup that it is, after its members were found to fit its manifest.

    `header` is the manifest's first line, unchecked but for being one. `modified_us` is the file's own time.
    """

    format: ArchiveFormat
    size: int
    sha256: str
    modified_us: int
    header: Mapping[str, Any]
    statistics: Statistics


def is_archive_name(name: bytes) -> bool:
    """Whether a file is named like a finished archive, sealed or not."""
    return not name.startswith(b".") and name.removesuffix(b".age").endswith(_SUFFIXES)


def read_facts(file: BinaryIO, check: Callable[[], None]) -> ArchiveFacts:
    """Read an open archive strictly (level STRUCTURE) and hash it.

    A zip's members are not unpacked, those of other formats have to be. `check` is called between blocks. Raises
    FailedPrecondition/ARCHIVE_INVALID and DataLoss/CHECKSUM_MISMATCH, with what is wrong.
    """
    fd = file.fileno()
    before = os.fstat(fd)
    found = detect_format(os.pread(fd, DETECT_SIZE, 0))
    if found is None or not found.writable:
        raise _invalid("its first bytes are not those of a backup's archive")
    entries = min(max(_FEWEST_ENTRIES, before.st_size // _BYTES_PER_ENTRY), Limits().entries)
    reader = open_reader(found, file, limits=Limits(entries=entries), check=check)
    read = structure(reader, check=check)
    header, totals = read.manifest_header or {}, read.manifest_totals or {}
    if header.get("archive_format") != found.value:
        raise _invalid(f"its manifest is that of another format, not of {found.value}")
    try:
        statistics = Statistics.of_manifest_totals(totals)
    except ValueError as error:
        raise _invalid(f"its manifest is malformed: {error}") from error
    stated = statistics.files + statistics.directories + statistics.symlinks + statistics.hardlinks
    if stated != read.members:
        raise _invalid(f"its manifest counts {stated} members, it has {read.members}")
    sha256 = hash_file(fd, check)
    after = os.fstat(fd)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise DataLoss(Reason.CHECKSUM_MISMATCH, "the archive changed while it was read")
    return ArchiveFacts(found, after.st_size, sha256, after.st_mtime_ns // 1000, header, statistics)


def _invalid(what: str) -> FailedPrecondition:
    return FailedPrecondition(Reason.ARCHIVE_INVALID, f"the archive is no backup: {what}", metadata={"detail": what})
