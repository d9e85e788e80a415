"""A stored archive's content at the taker's own pace: what its manifest lists, and each file proved against it.

The pull-shaped way to read an archive, for who writes another one from it. A zip's manifest is found at once; for a tar
the archive is unpacked once more beforehand, without hashing, to reach the manifest at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from holdfast_server.archive.comparison import pull, run
from holdfast_server.archive.manifest import ManifestEntry, ManifestReader
from holdfast_server.archive.member import Member
from holdfast_server.archive.reading import ArchiveReader, damage
from holdfast_server.archive.sink import Progress, Sink

__all__ = ["Contents", "open_contents"]


class Contents:
    """An archive whose manifest is known. Each iteration is a pass of its own; passes may not be mixed with threads."""

    def __init__(
        self, reader: ArchiveReader, manifest: Callable[[], Iterable[bytes]], check: Callable[[], None]
    ) -> None:
        self._reader = reader
        self._manifest = manifest
        self._check = check
        self.header: Mapping[str, Any] = ManifestReader(manifest()).header
        #: What the manifest says at its end; empty until `entries` was read to it.
        self.totals: Mapping[str, Any] = {}

    def entries(self) -> Iterator[ManifestEntry]:
        """What the manifest lists, without reading any content."""
        manifest = ManifestReader(self._manifest())
        for entry in manifest:
            self._check()
            yield entry
        self.totals = manifest.totals or {}

    def read(self, wants: Callable[[Member], bool]) -> Iterator[tuple[ManifestEntry, Iterator[bytes]]]:
        """Each wanted entry with its content (empty for all but files), to be taken before the next one.

        An entry is proved when the next one is asked for: DataLoss/CHECKSUM_MISMATCH names the first that is not what
        the manifest says. The whole archive is when there is no more.
        """
        return pull(self._reader, self._manifest(), wants, check=self._check)


def open_contents(reader: ArchiveReader, *, check: Callable[[], None], on_progress: Progress) -> Contents:
    """The content of an archive that has a manifest, kept compressed in memory where it comes last.

    Raises FailedPrecondition/ARCHIVE_INVALID, or DataLoss/CHECKSUM_MISMATCH also when there is no manifest.
    """
    if reader.manifest() is not None:
        return Contents(reader, lambda: reader.manifest() or (), check)
    outcome = run(reader, _Unread(), check=check, on_progress=on_progress, expect_manifest=True, keep_manifest=True)
    if outcome.manifest is None:
        raise damage("the archive has no manifest as its last member")
    return Contents(reader, outcome.manifest.blocks, check)


class _Unread(Sink):
    def wants(self, member: Member) -> bool:  # noqa: ARG002
        return False
