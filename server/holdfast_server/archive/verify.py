"""Proof that an archive is whole: every member read, hashed and found in the manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast_server.archive.comparison import run
from holdfast_server.archive.member import Member
from holdfast_server.archive.reading import ArchiveReader
from holdfast_server.archive.sink import DamagedArchive, Progress, Sink

__all__ = ["DamagedArchive", "Verified", "structure", "verify_archive"]


@dataclass(frozen=True, slots=True)
class Verified:
    """What was checked. `files`, `bytes` and `members` leave out the manifest and the list of checksums."""

    files: int
    bytes: int
    members: int
    manifest_header: Mapping[str, Any] | None
    manifest_totals: Mapping[str, Any] | None


class _HeadersOnly(Sink):
    def wants(self, member: Member) -> bool:  # noqa: ARG002
        return False


def verify_archive(
    reader: ArchiveReader,
    *,
    check: Callable[[], None],
    on_progress: Progress = lambda _bytes, _files, _path: None,
    expect_manifest: bool = True,
) -> Verified:
    """Read and hash every member and compare it with the manifest (level READ_DATA).

    Every entry of the manifest must be there once, in its order, with equal path, type, size, mode, time, link target
    and SHA-256, and nothing else but the list of checksums, which must be right too. Raises
    FailedPrecondition/ARCHIVE_INVALID or DataLoss/CHECKSUM_MISMATCH; DamagedArchive names the damaged members as far as
    the container could be read on.
    Without a manifest the archive is refused if `expect_manifest`, else checked against its own checksums only.
    """
    return _verified(reader, Sink(), check, on_progress, expect_manifest)


def structure(
    reader: ArchiveReader,
    *,
    check: Callable[[], None],
    on_progress: Progress = lambda _bytes, _files, _path: None,
    expect_manifest: bool = True,
) -> Verified:
    """Compare headers and manifest without the files' contents (level STRUCTURE); a compressed tar must be unpacked
    anyway.

    `files` and `bytes` of the result are zero: no content was checked.
    """
    return _verified(reader, _HeadersOnly(), check, on_progress, expect_manifest)


def _verified(
    reader: ArchiveReader, sink: Sink, check: Callable[[], None], on_progress: Progress, expect_manifest: bool
) -> Verified:
    outcome = run(reader, sink, check=check, on_progress=on_progress, expect_manifest=expect_manifest, keep_going=True)
    return Verified(outcome.files, outcome.bytes, outcome.members, outcome.header, outcome.totals)
