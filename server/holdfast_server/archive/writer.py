"""Writing an archive: `open_writer` gives an `ArchiveWriter` for a format."""

from __future__ import annotations

import io
from collections.abc import Callable

from holdfast_server.archive.base_writer import (
    ArchiveWriter,
    Mark,
    MemberNotRepresentable,
    Stretch,
    WrittenArchive,
)
from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.manifest import ManifestSpool
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.archive.tar_writer import TarGzWriter, TarZstWriter
from holdfast_server.archive.zip_writer import ZipWriter

__all__ = ["ArchiveWriter", "Mark", "MemberNotRepresentable", "Stretch", "WrittenArchive", "open_writer"]

_WRITERS: dict[ArchiveFormat, type[ArchiveWriter]] = {
    ArchiveFormat.ZIP: ZipWriter,
    ArchiveFormat.TAR_GZ: TarGzWriter,
    ArchiveFormat.TAR_ZST: TarZstWriter,
}


def open_writer(
    format: ArchiveFormat,  # noqa: A002 - it is the word
    file: io.RawIOBase,
    pool: CompressorPool,
    manifest: ManifestSpool,
    *,
    check: Callable[[], None],
    on_written: Callable[[int], None],
    created_ns: int,
) -> ArchiveWriter:
    """A writer for a new archive of a writable format in `file`; `ArchiveWriter` says what the arguments have to be."""
    return _WRITERS[format](file, pool, manifest, check=check, on_written=on_written, created_ns=created_ns)
