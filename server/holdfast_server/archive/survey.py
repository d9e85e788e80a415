"""Reading an archive as an extraction would, without writing anything."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from holdfast_server.archive.comparison import Outcome, run
from holdfast_server.archive.extract import SPECIAL_BITS, Extracted, allowance, dropped_bits
from holdfast_server.archive.manifest import ManifestEntry
from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.archive.reading import ArchiveReader, Names, Report, invalid, leaves_on_windows
from holdfast_server.archive.sink import LeftOut, Progress, Sink

__all__ = ["survey"]


def survey(
    reader: ArchiveReader,
    *,
    check: Callable[[], None],
    on_progress: Progress,
    report: Report,
    select: Callable[[bytes], bool] | None = None,
    max_bytes: int | None = None,
    expect_manifest: bool = True,
) -> Extracted:
    """Tell what `extract` with the same arguments would restore, and refuse what it would refuse of the archive.

    What only the target can refuse (names that its file system takes for one, its free space) shows there. A hard link
    whose file is not selected counts as a link, though an extraction would write the file.
    """
    sink = _Survey(select, report, max_bytes)
    outcome = run(reader, sink, check=check, on_progress=on_progress, expect_manifest=expect_manifest)
    sink.finish(outcome)
    return Extracted(
        files=sink.files,
        directories=sink.directories,
        symlinks=sink.symlinks,
        hardlinks=sink.hardlinks,
        bytes=sink.bytes,
        manifest_header=outcome.header,
        manifest_totals=outcome.totals,
        warnings=tuple(sink.lost.texts()),
        warning_count=sink.dropped + len(sink.lost.texts()),
    )


class _Survey(Sink):
    def __init__(self, select: Callable[[bytes], bool] | None, report: Report, max_bytes: int | None) -> None:
        self.files = self.directories = self.symlinks = self.hardlinks = self.bytes = self.dropped = 0
        self._select = select or (lambda _path: True)
        self._report = report
        self.lost = LeftOut(report)
        self._windows: bytes | None = None
        self._allowance = allowance(max_bytes)
        self._folders = Names()
        self._others = Names()
        self._parent = b""
        #: Paths and sizes of the last files: the list of checksums and the manifest may be taken back.
        self._last: deque[list[Any]] = deque(maxlen=2)

    def wants(self, member: Member) -> bool:
        return self._select(member.path)

    def begin(self, member: Member, expected: ManifestEntry | None) -> None:
        wanted = expected.member if expected is not None else member
        if self._windows is None and leaves_on_windows(member.path):
            self._windows = member.path
        self._place(member)
        if member.kind is MemberKind.FILE:
            self.files += 1
            self._last.append([member.path, 0])
        elif member.kind is MemberKind.DIRECTORY:
            self.directories += 1
        elif member.kind is MemberKind.SYMLINK:
            self.symlinks += 1
            return
        else:
            self.hardlinks += 1
            return
        if wanted.mode & SPECIAL_BITS:
            self.dropped += 1
            self._report(member.path, dropped_bits(wanted.mode), False)

    def write(self, block: bytes) -> None:
        self._allowance.produced(len(block))
        self.bytes += len(block)
        self._last[-1][1] += len(block)

    def withdraw(self, path: bytes) -> None:
        self.files -= 1
        self.bytes -= sum(size for name, size in self._last if name == path)

    def left_out(self, path: bytes, what: str, whole: bool) -> None:
        if self._select(path):
            self.lost.add(path, what, whole)

    def finish(self, outcome: Outcome) -> None:
        if self._windows is not None and outcome.header is None:
            raise invalid("a name leads out of the folder where backslashes separate folders", self._windows)
        self.lost.finish()

    def _place(self, member: Member) -> None:
        """Refuse what cannot be in one tree: something below what is no folder, and a folder that is also no folder."""
        path = member.path
        parent = path.rpartition(b"/")[0]
        if parent != self._parent:
            end = len(parent)
            # From below, until a folder that is known: what lies above that one was looked at with it.
            while end > 0 and parent[:end] not in self._folders:
                if parent[:end] in self._others:
                    raise invalid("a name is taken already; two members collide", path)
                self._folders.add(parent[:end])
                end = max(parent.rfind(b"/", 0, end), 0)
            self._parent = parent
        if member.kind is MemberKind.DIRECTORY:
            self._folders.add(path)
        elif path in self._folders:
            raise invalid("a name is taken already; two members collide", path)
        else:
            self._others.add(path)
