"""Proving a stored archive, at three levels of cost."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.reader import Limits, open_reader
from holdfast_server.archive.verify import structure, verify_archive
from holdfast_server.core.control import Control, Progress, ReadingProgress
from holdfast_server.core.read_back import hash_file
from holdfast_server.errors import DataLoss, Reason, Unavailable
from holdfast_server.storage.names import escape

__all__ = ["Proof", "StoredArchive", "VerifyLevel", "open_archive", "verify_stored"]


class VerifyLevel(StrEnum):
    """STRUCTURE: members and manifest fit. CHECKSUM: the file is the one that was written. READ_DATA: both, and every
    file was unpacked and hashed again."""

    STRUCTURE = "STRUCTURE"
    CHECKSUM = "CHECKSUM"
    READ_DATA = "READ_DATA"


@dataclass(frozen=True, slots=True)
class StoredArchive:
    """Where an archive lies and what the catalog knows of it: its own size and hash, and what it holds."""

    folder: bytes
    file_name: bytes
    format: ArchiveFormat
    size: int
    sha256: str
    original_size: int
    files: int

    @property
    def path(self) -> bytes:
        return self.folder.rstrip(b"/") + b"/" + self.file_name


@dataclass(frozen=True, slots=True)
class Proof:
    """What was really read: files and bytes of the source unpacked and hashed (0 at lower levels), and the file's
    hash."""

    files: int
    bytes: int
    sha256: str


def open_archive(archive: StoredArchive) -> BinaryIO:
    """Open the stored file for reading, by name below its opened folder.

    Raises Unavailable/STORAGE_UNREACHABLE when the folder is not there, DataLoss/ARCHIVE_MISSING when only the file
    is gone or is no regular file, DataLoss/CHECKSUM_MISMATCH when its size is another.
    """
    shown = escape(archive.path)
    try:
        folder_fd = os.open(archive.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable(
            Reason.STORAGE_UNREACHABLE,
            f"the folder of {shown} cannot be opened: {error.strerror}",
            metadata={"path": shown},
        ) from error
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.fdopen(os.open(archive.file_name, flags, dir_fd=folder_fd), "rb", buffering=0)
    except OSError as error:
        raise DataLoss(
            Reason.ARCHIVE_MISSING, f"{shown} cannot be opened: {error.strerror}", metadata={"path": shown}
        ) from error
    finally:
        os.close(folder_fd)
    size = os.fstat(file.fileno()).st_size
    if size != archive.size:
        file.close()
        raise DataLoss(
            Reason.CHECKSUM_MISMATCH,
            f"{shown} has {size} bytes, {archive.size} were written",
            metadata={"path": shown, "size": str(size), "expected_size": str(archive.size)},
        )
    return file


def verify_stored(archive: StoredArchive, level: VerifyLevel, control: Control, progress: Progress) -> Proof:
    """Check a stored archive. Raises what `open_archive` raises, DataLoss/CHECKSUM_MISMATCH with what is damaged, and
    FailedPrecondition/ARCHIVE_INVALID when the file breaks its format's rules."""
    with open_archive(archive) as file:
        if level is not VerifyLevel.STRUCTURE:
            progress.begin("hashing")
            _check_hash(archive, hash_file(file.fileno(), control.check))
        if level is VerifyLevel.CHECKSUM:
            return Proof(0, 0, archive.sha256)
        progress.begin("reading" if level is VerifyLevel.READ_DATA else "reading structure")
        reader = open_reader(archive.format.name, file, limits=Limits(), check=control.check)
        on_progress = ReadingProgress(progress, archive.original_size, archive.files)
        read = verify_archive if level is VerifyLevel.READ_DATA else structure
        found = read(reader, check=control.check, on_progress=on_progress)
        return Proof(found.files, found.bytes, archive.sha256 if level is VerifyLevel.READ_DATA else "")


def _check_hash(archive: StoredArchive, sha256: str) -> None:
    if sha256 != archive.sha256:
        shown = escape(archive.path)
        raise DataLoss(
            Reason.CHECKSUM_MISMATCH,
            f"{shown} is damaged: its SHA-256 is {sha256}, {archive.sha256} was written",
            metadata={"path": shown, "sha256": sha256, "expected_sha256": archive.sha256},
        )
