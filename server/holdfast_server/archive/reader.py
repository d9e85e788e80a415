"""Opening an archive with the strict reader of its format."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.reading import ArchiveReader, Content, FileSource, Limits, Source, show
from holdfast_server.archive.tar_header import RECORD, is_header
from holdfast_server.archive.tar_reader import TarGzReader, TarReader, TarZstReader
from holdfast_server.archive.zip_reader import ZipReader

__all__ = ["DETECT_SIZE", "ArchiveReader", "Content", "Limits", "detect_format", "open_reader", "show"]

#: How many of a file's first bytes `detect_format` wants; fewer only where the file is shorter.
DETECT_SIZE = RECORD

_READERS: dict[ArchiveFormat, type[ArchiveReader]] = {
    ArchiveFormat.ZIP: ZipReader,
    ArchiveFormat.TAR_GZ: TarGzReader,
    ArchiveFormat.TAR_ZST: TarZstReader,
    ArchiveFormat.TAR: TarReader,
}

_MAGICS = (
    (b"PK\x03\x04", ArchiveFormat.ZIP),
    (b"PK\x05\x06", ArchiveFormat.ZIP),  # an empty one
    (b"\x1f\x8b", ArchiveFormat.TAR_GZ),
    (b"\x28\xb5\x2f\xfd", ArchiveFormat.TAR_ZST),
    *((bytes((0x50 + n, 0x2A, 0x4D, 0x18)), ArchiveFormat.TAR_ZST) for n in range(16)),  # skippable frames
)


def open_reader(
    format: ArchiveFormat | str,  # noqa: A002 - it is the word
    file: BinaryIO | Source,
    *,
    limits: Limits,
    check: Callable[[], None],
) -> ArchiveReader:
    """A reader of `file`: a Source, or a real file opened for reading. The caller keeps it open and closes it.

    `format` may be written as its name or its suffix: TAR_GZ, tar.gz. `check` is called at least once per block and may
    raise to stop. Raises FailedPrecondition/ARCHIVE_INVALID or DataLoss/CHECKSUM_MISMATCH, here or while reading.
    """
    known = ArchiveFormat[format] if format in ArchiveFormat.__members__ else ArchiveFormat(format)
    source = file if isinstance(file, Source) else FileSource(file)
    return _READERS[known](source, limits, check)


def detect_format(head: bytes) -> ArchiveFormat | None:
    """What an archive is by its first DETECT_SIZE bytes, whatever its name; None when it is nothing that is read here.

    Compressed files are taken for compressed tars; their reader says when they are none.
    """
    for magic, found in _MAGICS:
        if head.startswith(magic):
            return found
    return ArchiveFormat.TAR if is_header(head) else None
