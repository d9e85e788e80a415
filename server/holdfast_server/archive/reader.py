"""Opening an archive with the strict reader of its format."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from holdfast_server.archive.reading import ArchiveReader, Content, Limits, Source, show
from holdfast_server.archive.tar_reader import TarGzReader
from holdfast_server.archive.zip_reader import ZipReader

__all__ = ["ArchiveReader", "Content", "Limits", "open_reader", "show"]


def open_reader(format_name: str, file: BinaryIO, *, limits: Limits, check: Callable[[], None]) -> ArchiveReader:
    """A reader of `file`, a real seekable file opened for reading that the caller keeps open and closes.

    `format_name` is ZIP or TAR_GZ. `check` is called at least once per block and may raise to stop. Raises
    FailedPrecondition/ARCHIVE_INVALID or DataLoss/CHECKSUM_MISMATCH, here or while reading.
    """
    source = Source(file)
    if format_name == "ZIP":
        return ZipReader(source, limits, check)
    if format_name == "TAR_GZ":
        return TarGzReader(source, limits, check)
    raise ValueError(f"no reader for {format_name!r}")
