"""Backups found again by their archives alone: which files may be some, and what each says of itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.reader import DETECT_SIZE, Limits, detect_format, open_reader
from holdfast_server.archive.sealing import is_sealed
from holdfast_server.archive.sidecar import Sidecar
from holdfast_server.archive.verify import structure
from holdfast_server.core.read_back import hash_file
from holdfast_server.core.statistics import Statistics
from holdfast_server.errors import DataLoss, FailedPrecondition, Reason

__all__ = ["ArchiveFacts", "is_archive_name", "read_facts", "read_sealed_facts"]

_SUFFIXES = tuple(one.suffix.encode() for one in ArchiveFormat if one.writable)

#: An archive nobody vouches for may not cost more memory than one of its size can need: about 70 bytes an entry.
_FEWEST_ENTRIES = 1_000_000
_BYTES_PER_ENTRY = 16


@dataclass(frozen=True, slots=True)
class ArchiveFacts:
    """What an archive states of the backup that it is, after its members were found to fit its manifest.

    `header` is the manifest's first line, unchecked but for being one; of a sealed archive as much of it as its sidecar
    states. `modified_us` is the file's own time, or when its sidecar says that it was complete.
    """

    format: ArchiveFormat
    size: int
    sha256: str
    modified_us: int
    header: Mapping[str, Any]
    statistics: Statistics
    sealed: bool = False


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


def read_sealed_facts(file: BinaryIO, sidecar: Sidecar, check: Callable[[], None]) -> ArchiveFacts:
    """What the sidecar of an open sealed archive states, once that is the file that it names (level CHECKSUM).

    No key is needed. Names are not in a sidecar: the source's id stands in for them. Raises as `read_facts` does.
    """
    fd = file.fileno()
    size = os.fstat(fd).st_size
    if not is_sealed(os.pread(fd, DETECT_SIZE, 0)):
        raise _invalid("it is not sealed")
    if sidecar.exported_from is not None:
        raise _invalid("it is an export, not a backup")
    if sidecar.archive_format not in (one.value for one in ArchiveFormat if one.writable):
        raise _invalid("its sidecar names no format of a backup")
    try:
        statistics = Statistics.of_manifest_totals({"counts": sidecar.counts, "complete": sidecar.complete})
    except ValueError as error:
        raise _invalid(f"its sidecar is malformed: {error}") from error
    sha256 = hash_file(fd, check)
    if (size, sha256) != (sidecar.size, sidecar.sha256):
        raise DataLoss(Reason.CHECKSUM_MISMATCH, "the archive is damaged: it is not the file that its sidecar names")
    created = datetime.fromtimestamp(sidecar.created_us / 1e6, UTC)
    header = {
        "backup_id": sidecar.backup_id,
        "name": f"{sidecar.source_id} {created:%Y-%m-%d %H:%M:%S} UTC",
        "source": {
            "source_id": sidecar.source_id, "kind": sidecar.source_kind, "display_name": sidecar.source_id
        },
        "create_time": created.isoformat(),
    }  # fmt: skip
    archive_format = ArchiveFormat(sidecar.archive_format)
    return ArchiveFacts(archive_format, size, sha256, sidecar.completed_us, header, statistics, sealed=True)


def _invalid(what: str) -> FailedPrecondition:
    return FailedPrecondition(Reason.ARCHIVE_INVALID, f"the archive is no backup: {what}", metadata={"detail": what})
