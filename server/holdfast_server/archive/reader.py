"""Opening an archive with the strict reader of its format."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from holdfast_server.archive.reading import ArchiveReader, Content, FileSource, Limits, Source, show
from holdfast_server.archive.tar_reader import TarGzReader
from holdfast_server.archive.zip_reader import ZipReader

__all__ = ["ArchiveReader", "Content", "Limits", "open_reader", "show"]

_READERS: dict[str, type[ZipReader] | type[TarGzReader]] = {
    "ZIP": ZipReader,
    "zip": ZipReader,
    "TAR_GZ": TarGzReader,
    "tar.gz": TarGzReader,
}


def open_reader(
    format_name: str, file: BinaryIO | Source, *, limits: Limits, check: Callable[[], None]
) -> ArchiveReader:
    """A reader of `file`: a Source, or a real file opened for reading. The caller keeps it open and closes it.

    `format_name` is ZIP or TAR_GZ, or their suffixes zip and tar.gz. `check` is called at least once per block and may
    raise to stop. Raises FailedPrecondition/ARCHIVE_INVALID or DataLoss/CHECKSUM_MISMATCH, here or while reading.
    """
    reader = _READERS.get(format_name)
    if reader is None:
        raise ValueError(f"no reader for {format_name!r}")
    source = file if isinstance(file, Source) else FileSource(file)
    return reader(source, limits, check)
