"""Archives that the service need not know: recognised by content, read as hostile input.

Whoever made the file, the same strict readers and the same extraction apply. What is different is the trust: without
our manifest there is nothing to compare the content with but the container's own checksums, and the limits are those
of an unknown file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from holdfast_server.archive.extract import Extracted
from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.reader import DETECT_SIZE, ArchiveReader, Limits, detect_format, open_reader
from holdfast_server.archive.reading import FileSource, Report, Source
from holdfast_server.archive.sealing import Identity, SealedSource, is_sealed
from holdfast_server.archive.survey import survey
from holdfast_server.core.control import Control, PositionProgress, Progress
from holdfast_server.core.selection import PathSelection
from holdfast_server.errors import FailedPrecondition, Reason

__all__ = ["ForeignArchive", "check_recognised", "open_foreign", "survey_foreign"]


@dataclass(frozen=True, slots=True)
class ForeignArchive:
    """An opened archive and what it turned out to be."""

    format: ArchiveFormat
    sealed: bool
    reader: ArchiveReader

    @property
    def has_checksums(self) -> bool:
        """Whether its own checksums vouched for all that was read; what age seals is authentic."""
        return self.sealed or self.reader.has_checksums

    def proof(self, *, has_manifest: bool) -> str:
        """What having read all of it proves, in words."""
        if has_manifest:
            return "every file's hash matched the manifest"
        if not self.has_checksums:
            return "no manifest and no checksums at all: only the structure was checked"
        return "no manifest: only the container's own checksums were checked"

    def progress_of(self, progress: Progress) -> PositionProgress:
        return PositionProgress(progress, lambda: self.reader.position, self.reader.source.size)


def check_recognised(file: BinaryIO, shown: str, *, has_key: bool) -> None:
    """What the first bytes of a file tell before any work.

    Raises FailedPrecondition: KEY_REQUIRED for a sealed one without a key, ARCHIVE_INVALID for what is no archive.
    """
    source = FileSource(file)
    if not is_sealed(source.read_some(0, DETECT_SIZE)):
        _recognised(source, shown)
    elif not has_key:
        raise _key_required(shown)


@contextmanager
def open_foreign(
    file: BinaryIO, shown: str, *, identity: Identity | None, limits: Limits, control: Control
) -> Iterator[ForeignArchive]:
    """Open an archive, sealed or not; `file` stays the caller's.

    Raises FailedPrecondition (ARCHIVE_INVALID, KEY_REQUIRED, KEY_WRONG) and DataLoss/CHECKSUM_MISMATCH.
    """
    plain = FileSource(file)
    if not is_sealed(plain.read_some(0, DETECT_SIZE)):
        yield _opened(plain, shown, False, limits, control)
        return
    if identity is None:
        raise _key_required(shown)
    with SealedSource(file, identity, control.check) as source:
        yield _opened(source, f"what is sealed in {shown}", True, limits, control)


def survey_foreign(
    archive: ForeignArchive,
    select: PathSelection | None,
    *,
    max_bytes: int | None,
    control: Control,
    progress: Progress,
    report: Report,
) -> Extracted:
    """Read and check all of an archive, writing nothing. Raises what an extraction of it would raise."""
    progress.begin("reading")
    found = survey(
        archive.reader,
        check=control.check,
        on_progress=archive.progress_of(progress),
        report=report,
        select=select,
        max_bytes=max_bytes,
        expect_manifest=False,
    )
    if select is not None:
        select.require_met()
    return found


def _opened(source: Source, shown: str, sealed: bool, limits: Limits, control: Control) -> ForeignArchive:
    found = _recognised(source, shown)
    return ForeignArchive(found, sealed, open_reader(found, source, limits=limits, check=control.check))


def _recognised(source: Source, shown: str) -> ArchiveFormat:
    found = detect_format(source.read_some(0, DETECT_SIZE))
    if found is None:
        raise FailedPrecondition(
            Reason.ARCHIVE_INVALID,
            f"{shown} is no archive: a zip, tar, tar.gz or tar.zst file was expected, or one of these sealed with age",
            metadata={"path": shown},
        )
    return found


def _key_required(shown: str) -> FailedPrecondition:
    return FailedPrecondition(
        Reason.KEY_REQUIRED,
        f"{shown} is sealed with age: credentials.age_identity must hold the identity that opens it",
        metadata={"path": shown},
    )
