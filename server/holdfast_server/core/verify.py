"""Proving a stored archive, at three levels of cost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO

from holdfast_server.archive.format import SEALED_CONTENT_TYPE, ArchiveFormat
from holdfast_server.archive.reader import Limits, open_reader
from holdfast_server.archive.reading import Source
from holdfast_server.archive.sealing import Identity, SealedSource
from holdfast_server.archive.sidecar import sidecar_name
from holdfast_server.archive.verify import structure, verify_archive
from holdfast_server.core.control import Control, Progress, ReadingProgress
from holdfast_server.core.publish import read_sidecar
from holdfast_server.core.read_back import hash_file
from holdfast_server.errors import DataLoss, FailedPrecondition, Reason, Unavailable
from holdfast_server.storage.names import escape

__all__ = [
    "Proof",
    "StoredArchive",
    "VerifyLevel",
    "key_required",
    "open_archive",
    "open_content",
    "verify_stored",
]


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
    backup_id: str = ""
    sealed: bool = False

    @property
    def path(self) -> bytes:
        return self.folder.rstrip(b"/") + b"/" + self.file_name

    @property
    def content_type(self) -> str:
        """The media type a download announces."""
        return SEALED_CONTENT_TYPE if self.sealed else self.format.content_type


@dataclass(frozen=True, slots=True)
class Proof:
    """What was really read: files and bytes of the source unpacked and hashed (0 at lower levels), and the file's
    hash. `level` is how deep it went: a sealed archive without a key gives no more than CHECKSUM. `warning` says what
    is wrong beside the archive, or is empty."""

    files: int
    bytes: int
    sha256: str
    level: VerifyLevel
    sealed_hash_only: bool = False
    warning: str = ""


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


@contextmanager
def open_content(
    archive: StoredArchive, file: BinaryIO, identity: Identity | None, check: Callable[[], None]
) -> Iterator[BinaryIO | Source]:
    """What a reader reads: the opened file itself, or the plain bytes of a sealed one.

    For a sealed one raises FailedPrecondition (KEY_REQUIRED, KEY_WRONG, ARCHIVE_INVALID) and DataLoss.
    """
    if not archive.sealed:
        yield file
        return
    if identity is None:
        raise key_required(archive.backup_id)
    with SealedSource(file, identity, check) as source:
        yield source


def key_required(backup_id: str) -> FailedPrecondition:
    """FAILED_PRECONDITION/KEY_REQUIRED for a sealed backup."""
    return FailedPrecondition(
        Reason.KEY_REQUIRED,
        f"backup {backup_id} is sealed: credentials.age_identity must be set",
        metadata={"backup_id": backup_id},
    )


def verify_stored(
    archive: StoredArchive, level: VerifyLevel, control: Control, progress: Progress, identity: Identity | None = None
) -> Proof:
    """Check a stored archive; a sealed one without `identity` by its hash and its sidecar alone, whatever the level.

    Raises what `open_archive` raises, DataLoss/CHECKSUM_MISMATCH with what is damaged, and FailedPrecondition:
    ARCHIVE_INVALID when the file breaks its format's rules, KEY_WRONG when `identity` does not open it.
    """
    hash_only = archive.sealed and identity is None
    if hash_only:
        level = VerifyLevel.CHECKSUM
    with open_archive(archive) as file:
        if level is not VerifyLevel.STRUCTURE:
            progress.begin("hashing")
            _check_hash(archive, hash_file(file.fileno(), control.check))
        warning = _sidecar_warning(archive) if archive.sealed else ""
        if level is VerifyLevel.CHECKSUM:
            return Proof(0, 0, archive.sha256, level, hash_only, warning)
        progress.begin("reading" if level is VerifyLevel.READ_DATA else "reading structure")
        with open_content(archive, file, identity, control.check) as content:
            reader = open_reader(archive.format.name, content, limits=Limits(), check=control.check)
            on_progress = ReadingProgress(progress, archive.original_size, archive.files)
            read = verify_archive if level is VerifyLevel.READ_DATA else structure
            found = read(reader, check=control.check, on_progress=on_progress)
        sha256 = archive.sha256 if level is VerifyLevel.READ_DATA else ""
        return Proof(found.files, found.bytes, sha256, level, warning=warning)


def _sidecar_warning(archive: StoredArchive) -> str:
    """What is wrong with the sidecar. No data is lost with it, but a lost catalog could not be rebuilt from it."""
    shown = escape(sidecar_name(archive.path))
    folder_fd = os.open(archive.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sidecar = read_sidecar(folder_fd, archive.file_name)
    except OSError as error:
        return f"{shown} cannot be read: {error.strerror}"
    except FailedPrecondition as error:
        return f"{shown}: {error.message}"
    finally:
        os.close(folder_fd)
    if (sidecar.backup_id, sidecar.size, sidecar.sha256) != (archive.backup_id, archive.size, archive.sha256):
        return f"{shown} belongs to another archive"
    return ""


def _check_hash(archive: StoredArchive, sha256: str) -> None:
    if sha256 != archive.sha256:
        shown = escape(archive.path)
        raise DataLoss(
            Reason.CHECKSUM_MISMATCH,
            f"{shown} is damaged: its SHA-256 is {sha256}, {archive.sha256} was written",
            metadata={"path": shown, "sha256": sha256, "expected_sha256": archive.sha256},
        )
