"""Making one archive file: written or sealed into a partial, synced, and proved against what the disk gives back.

What goes into it is the caller's: a source's tree (`core.backup`), or a stored backup (`core.export`).
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.manifest import ManifestSpool
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.archive.reader import Limits, open_reader
from holdfast_server.archive.reading import damage
from holdfast_server.archive.sealing import Recipients, SealedFile, SealingFile
from holdfast_server.archive.writer import ArchiveWriter, WrittenArchive, open_writer
from holdfast_server.core.control import Control, Progress, ReadingProgress
from holdfast_server.core.read_back import READ_BACK_WORK, hash_file, read_back
from holdfast_server.core.statistics import Statistics
from holdfast_server.errors import DataLoss, Reason
from holdfast_server.storage.local import fsync_file, translate_os_error

__all__ = ["ARCHIVE_WORK", "ArchiveShape", "ProvedArchive", "pour", "produce"]

#: How often making an archive handles every byte: reading and compressing counts once.
ARCHIVE_WORK = 1.0 + READ_BACK_WORK


@dataclass(frozen=True, slots=True)
class ArchiveShape:
    """What an archive is, apart from its content.

    `header` is the first line of its manifest, `created_us` the time of its closing members. With `recipients` it is
    sealed to them: then it is written forward only, and nothing of it is on a disk in clear.
    """

    format: ArchiveFormat
    header: Mapping[str, Any]
    created_us: int
    recipients: Recipients | None = None
    is_wallet: bool = False


@dataclass(frozen=True, slots=True)
class ProvedArchive:
    """A `.partial` that was written, synced and read back. `sha256` is that of the whole file, in hex; all that was
    compared of a `sealed` one."""

    size: int
    sha256: str
    statistics: Statistics
    sealed: bool = False


def produce(
    shape: ArchiveShape,
    fill: Callable[[ArchiveWriter], Statistics],
    partial_fd: int,
    pool: CompressorPool,
    control: Control,
    progress: Progress,
) -> ProvedArchive:
    """Write what `fill` adds, and counts, into the open, empty file, sync it and read it back.

    Raises what `fill` raises, Stopped when asked to, DataLoss/CHECKSUM_MISMATCH when what was read back is not what was
    written, ResourceExhausted/DISK_FULL and the like for the archive's own disk. The file is the caller's to remove
    then.
    """
    progress.begin("writing")
    with _ArchiveFile(os.dup(partial_fd), "r+b") as file:
        stored_before = progress.compressed_size

        def on_written(size: int) -> None:
            progress.compressed_size = stored_before + size

        sealing = SealingFile(file, shape.recipients, control.check) if shape.recipients else None
        try:
            found, written = _fill(shape, fill, sealing or file, pool, control, on_written)
            sealed = sealing.finish() if sealing else None
        except BaseException:
            if sealing:
                sealing.abort()
            raise
        fsync_file(file.fileno())
        progress.begin("verifying")
        on_read = _read_back_progress(progress, found, sealed.size if sealed else written.size)
        if sealed:
            _prove_sealed(file, sealed, control, on_read)
            return ProvedArchive(sealed.size, sealed.sha256, found, sealed=True)
        sha256 = read_back(file.fileno(), written.stretches, control, on_read)
        # A zip's end and directory have to be where a reader looks for them.
        open_reader(shape.format.name, file, limits=Limits(), check=control.check)
    return ProvedArchive(written.size, sha256, found)


def pour(
    shape: ArchiveShape,
    fill: Callable[[ArchiveWriter], Statistics],
    file: io.RawIOBase,
    pool: CompressorPool,
    control: Control,
) -> Statistics:
    """Write what `fill` adds, and counts, into a file that only goes forward, such as a pipe; not sealed.

    The writer proves what it packed before it writes it. Raises as `produce`, and what `file` raises; then what was
    written is no archive.
    """
    return _fill(shape, fill, file, pool, control, lambda _: None)[0]


def _fill(
    shape: ArchiveShape,
    fill: Callable[[ArchiveWriter], Statistics],
    file: io.RawIOBase,
    pool: CompressorPool,
    control: Control,
    on_written: Callable[[int], None],
) -> tuple[Statistics, WrittenArchive]:
    writer = open_writer(
        shape.format, file, pool, ManifestSpool(shape.header),
        check=control.check, on_written=on_written, created_ns=shape.created_us * 1000,
    )  # fmt: skip
    try:
        found = fill(writer)
        written = writer.finish(found.manifest_totals(wallet=shape.is_wallet))
    except BaseException:
        writer.abort()
        raise
    if (written.files, written.bytes_in) != (found.files, found.original_size):
        raise _not_all(written, found)
    return found, written


def _not_all(written: WrittenArchive, found: Statistics) -> DataLoss:
    return DataLoss(
        Reason.CHECKSUM_MISMATCH,
        f"the archive holds {written.files} files of {written.bytes_in} bytes, "
        f"{found.files} of {found.original_size} were read",
    )


def _read_back_progress(progress: Progress, found: Statistics, size: int) -> Callable[[int], None]:
    """Takes bytes of the archive that were read back, as so much of the source handled again."""
    on_progress = ReadingProgress(progress, found.original_size, found.files, work=READ_BACK_WORK, count_as_read=False)
    done = 0

    def on_read(more: int) -> None:
        nonlocal done
        done += more
        share = done / size
        on_progress(int(found.original_size * share), int(found.files * share), b"")

    return on_read


def _prove_sealed(file: _ArchiveFile, sealed: SealedFile, control: Control, on_read: Callable[[int], None]) -> None:
    """What was proved before it was sealed is still there when the disk gives back the sealed bytes: nobody here can
    open them."""
    sha256 = hash_file(file.fileno(), control.check, on_read)
    if sha256 != sealed.sha256 or os.fstat(file.fileno()).st_size != sealed.size:
        raise damage("the disk gives back other bytes than it was given")


class _ArchiveFile(io.FileIO):
    """The archive being written. What its disk refuses is raised as an error of ours and not as OSError, which is
    what reading the source raises: a full disk must never pass for an unreadable file."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise translate_os_error(error, "writing the archive") from error

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            raise translate_os_error(error, "writing the archive") from error
