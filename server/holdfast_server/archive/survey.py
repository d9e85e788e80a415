"""Reading an archive as an extraction would, without writing anything."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from holdfast_server.archive.comparison import run
from holdfast_server.archive.extract import SPECIAL_BITS, Extracted, allowance, dropped_bits
from holdfast_server.archive.manifest import ManifestEntry
from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.archive.reading import ArchiveReader, Names, OnLoss, invalid
from holdfast_server.archive.sink import Progress, Sink

__all__ = ["survey"]


def survey(
    reader: ArchiveReader,
    *,
    check: Callable[[], None],
    on_progress: Progress,
    on_loss: OnLoss,
    select: Callable[[bytes], bool] | None = None,
    max_bytes: int | None = None,
    expect_manifest: bool = True,
) -> Extracted:
    """Tell what `extract` with the same arguments would restore, and refuse what it would refuse of the archive.

    What only the target can refuse (names that its file system takes for one, its free space) shows there. A hard link
    whose file is not selected counts as a link, though an extraction would write the file.
    """
    sink = _Survey(select, on_loss, max_bytes)
    reader.on_loss = on_loss
    outcome = run(reader, sink, check=check, on_progress=on_progress, expect_manifest=expect_manifest)
    return Extracted(
        files=sink.files,
        directories=sink.directories,
        symlinks=sink.symlinks,
        hardlinks=sink.hardlinks,
        bytes=sink.bytes,
        manifest_header=outcome.header,
        manifest_totals=outcome.totals,
        warnings=(),
        warning_count=sink.dropped,
    )


class _Survey(Sink):
    def __init__(self, select: Callable[[bytes], bool] | None, on_loss: OnLoss, max_bytes: int | None) -> None:
        self.files = self.directories = self.symlinks = self.hardlinks = self.bytes = self.dropped = 0
        self._select = select or (lambda _path: True)
        self._on_loss = on_loss
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
            self._on_loss(member.path, dropped_bits(wanted), False)

    def write(self, block: bytes) -> None:
        self._allowance.produced(len(block))
        self.bytes += len(block)
        self._last[-1][1] += len(block)

    def withdraw(self, path: bytes) -> None:
        self.files -= 1
        self.bytes -= sum(size for name, size in self._last if name == path)

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
