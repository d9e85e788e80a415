"""One pass over an archive: every member is read, hashed, and compared with the manifest in lockstep.

In a zip the manifest is found first, so each member is compared at once. In a tar it comes last; what was read is
spooled, compressed, until then. Whether a member named as a manifest is the manifest shows only when nothing follows
it, so there its verdict waits for the archive's end. Verification and extraction are sinks of this pass; who has the
manifest already may pull the members instead, at his own pace.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from holdfast_server.archive.manifest import (
    UNHASHED,
    ManifestEntry,
    ManifestReader,
    is_manifest_name,
    is_sums_name,
    pack,
    sums_line,
    unpack,
)
from holdfast_server.archive.member import Member, MemberKind, difference
from holdfast_server.archive.reading import ArchiveReader, Content, Names, damage, show
from holdfast_server.archive.sink import MAX_DAMAGED, DamagedArchive, Progress, Sink
from holdfast_server.archive.spool import ByteSpool, RecordSpool
from holdfast_server.errors import DataLoss

__all__ = ["Outcome", "pull", "run"]


@dataclass(slots=True)
class Outcome:
    """What a pass has read; the manifest and the list of checksums are not counted.

    `sparse` is set where the manifest comes last, and so is `manifest`, its text, if it was to be kept.
    """

    files: int = 0
    bytes: int = 0
    members: int = 0
    header: Mapping[str, Any] | None = None
    totals: Mapping[str, Any] | None = None
    sparse: Names = field(default_factory=Names)
    manifest: ByteSpool | None = None


def run(
    reader: ArchiveReader,
    sink: Sink,
    *,
    check: Callable[[], None],
    on_progress: Progress,
    expect_manifest: bool,
    keep_going: bool = False,
    keep_manifest: bool = False,
) -> Outcome:
    """Read the whole archive into `sink`. Raises DataLoss for the first difference from the manifest.

    With `keep_going` the differences of single members are collected where the container allows to read on, and raised
    at the end as one DamagedArchive. Without a manifest the archive is refused if `expect_manifest`, else only read.
    With `keep_manifest` the text of a manifest that comes last is kept, compressed in memory.
    """
    one = _Pass(reader, sink, check, on_progress, keep_going and reader.can_skip, keep_manifest)
    try:
        manifest = reader.manifest()
        if manifest is not None:
            one.with_manifest_first(manifest, expect_manifest)
        else:
            one.with_manifest_last(expect_manifest)
    except BaseException:
        sink.abort()
        raise
    return one.outcome


def pull(
    reader: ArchiveReader, manifest: Iterable[bytes], wants: Callable[[Member], bool], *, check: Callable[[], None]
) -> Iterator[tuple[ManifestEntry, Iterator[bytes]]]:
    """Read the whole archive by its manifest: each wanted entry with its content, to be taken before the next one.

    What the taker leaves of a content is read all the same: an entry is proved when the next one is asked for, and the
    archive when there is no more. Raises DataLoss for the first difference, at a file's end for its content.
    """
    return _Pass(reader, _Chosen(wants), check, lambda *_: None).pulled(manifest)


class _Chosen(Sink):
    def __init__(self, wants: Callable[[Member], bool]) -> None:
        self._wants = wants

    def wants(self, member: Member) -> bool:
        return self._wants(member)


@dataclass(slots=True)
class _Verdict:
    """What came out of reading a member as the manifest, and out of the list of checksums before it."""

    member: Member
    sums: _Sums | None
    text: ByteSpool | None
    opened: bool = False
    error: DataLoss | None = None
    header: Mapping[str, Any] | None = None
    totals: Mapping[str, Any] | None = None
    sums_trail: bool = False
    sparse: Names = field(default_factory=Names)


@dataclass(frozen=True, slots=True)
class _Sums:
    """A member that is named as the list of checksums, and whether it lists exactly the files before it."""

    member: Member
    matches: bool


class _Pass:
    def __init__(
        self,
        reader: ArchiveReader,
        sink: Sink,
        check: Callable[[], None],
        on_progress: Progress,
        keep_going: bool = False,
        keep_manifest: bool = False,
    ) -> None:
        self._reader = reader
        self._sink = sink
        self._check = check
        self._on_progress = on_progress
        self._keep_going = keep_going
        self._keep_manifest = keep_manifest
        self._damaged: list[bytes] = []
        self._damaged_count = 0
        self._first = ""
        self._whole_left_out: bytes | None = None
        reader.report = self._left_out
        self._sums = hashlib.sha256()
        self._all_hashed = True
        self.outcome = Outcome()

    def with_manifest_first(self, blocks: Iterator[bytes], expect_manifest: bool) -> None:
        try:
            manifest = ManifestReader(blocks)
        except DataLoss:
            if expect_manifest:
                raise
            # A foreign archive's file that only has the manifest's name.
            self.with_manifest_last(expect_manifest)
            return
        for member, content, expected in self._listed(manifest):
            self._one(member, content, expected)
        self._finish(manifest.header, manifest.totals)

    def with_manifest_last(self, expect_manifest: bool) -> None:
        spool = RecordSpool()
        verdict: _Verdict | None = None
        sums: _Sums | None = None
        for member, content in self._reader.members():
            so_far = self._sums.digest()
            verdict, digest = None, None
            if member.kind is MemberKind.FILE and is_manifest_name(member.path):
                verdict, digest = self._judged(member, content, spool, sums)
            else:
                digest = self._one(member, content, None)
            sums = _Sums(member, digest in (None, so_far)) if _is_sums(member) else None
            spool.add(pack(member, digest))
        if verdict is not None and not (verdict.opened or expect_manifest):
            verdict = None
        if verdict is None:
            if expect_manifest:
                raise damage("the archive has no manifest as its last member")
            return
        if verdict.error is not None:
            raise verdict.error
        self._withdraw(verdict.member)
        if verdict.sums_trail and verdict.sums is not None:
            if self._all_hashed and not verdict.sums.matches:
                raise damage("the list of checksums does not match the files", verdict.sums.member.path)
            self._withdraw(verdict.sums.member)
        self.outcome.sparse, self.outcome.manifest = verdict.sparse, verdict.text
        self._finish(verdict.header, verdict.totals)

    def pulled(self, blocks: Iterable[bytes]) -> Iterator[tuple[ManifestEntry, Iterator[bytes]]]:
        manifest = ManifestReader(blocks)
        for member, content, expected in self._listed(manifest):
            self._check()
            self._agree(member, expected)
            if not self._sink.wants(member):
                self._pass_over(member, content)
                continue
            proved = self._proved(member, content, expected)
            yield expected, proved
            for _ in proved:
                pass
        self._finish(manifest.header, manifest.totals)

    def _listed(self, manifest: ManifestReader) -> Iterator[tuple[Member, Content, ManifestEntry]]:
        """The members beside their entries of the manifest; then, that nothing but the closing members follows."""
        entries = _entries(manifest)
        trailing: list[Member] = []
        for member, content in self._reader.members():
            expected = next(entries, None)
            if expected is not None:
                yield member, content, expected
                continue
            trailing.append(member)
            if len(trailing) == 1 and _is_sums(member):
                self._check_sums(member, content)
            elif len(trailing) > 2 or not is_manifest_name(member.path):
                raise damage("a member is not in the manifest", trailing[0].path)
            content.discard()
        missing = next(entries, None)
        if missing is not None:
            raise damage("a member of the manifest is missing", missing.member.path)
        if not trailing or (len(trailing) == 2 and not _is_sums(trailing[0])):
            raise damage("the manifest lists itself, or a member is not in it", trailing[0].path if trailing else None)

    def _agree(self, member: Member, expected: ManifestEntry) -> None:
        if expected.member.path != member.path:
            raise damage(f"the manifest names '{show(expected.member.path)}' here", member.path)
        problem = difference(expected.member, member, self._reader.mtime_step)
        if problem:
            self._problem(problem, member.path)

    def _pass_over(self, member: Member, content: Content) -> None:
        content.discard()
        self._all_hashed = self._all_hashed and member.kind is not MemberKind.FILE

    def _proved(self, member: Member, content: Content, expected: ManifestEntry) -> Iterator[bytes]:
        """A file's content; at its end, whether it was the right one."""
        if member.kind is MemberKind.FILE:
            yield from self._copied(member, content)
            if self._digest != expected.sha256:
                self._problem("a file's SHA-256 is not the manifest's", member.path)

    def _one(self, member: Member, content: Content, expected: ManifestEntry | None) -> bytes | None:
        """Read one member; gives a file's digest if it was wanted."""
        self._check()
        if expected is not None:
            self._agree(member, expected)
        self.outcome.members += 1
        if not self._sink.wants(member):
            self._pass_over(member, content)
            self._on_progress(self.outcome.bytes, self.outcome.files, member.path)
            return None
        self._sink.begin(member, expected)
        digest = None
        if member.kind is MemberKind.FILE:
            try:
                digest = self._hashed(member, content)
            except DataLoss as error:
                if not self._keep_going:
                    raise
                content.discard()
                self._problem(error.metadata.get("detail", error.message), member.path)
                self._all_hashed = False
            if digest is not None and expected is not None and digest != expected.sha256:
                self._problem("a file's SHA-256 is not the manifest's", member.path)
        self._sink.end()
        self._on_progress(self.outcome.bytes, self.outcome.files, member.path)
        return digest

    def _hashed(self, member: Member, content: Content) -> bytes:
        for _ in self._copied(member, content):
            pass
        return self._digest

    def _copied(self, member: Member, content: Content) -> Iterator[bytes]:
        """Pass a file's content through hash and sink. Leaves `_digest` behind."""
        sha = hashlib.sha256()
        for block in content:
            self._check()
            sha.update(block)
            self._sink.write(block)
            self.outcome.bytes += len(block)
            self._on_progress(self.outcome.bytes, self.outcome.files, member.path)
            yield block
        self._digest = sha.digest()
        self.outcome.files += 1
        self._sums.update(sums_line(member.path, self._digest))

    def _judged(
        self, member: Member, content: Content, spool: RecordSpool, sums: _Sums | None
    ) -> tuple[_Verdict, bytes | None]:
        """Read a file both as a file and as the manifest of what came before it."""
        verdict = _Verdict(member, sums, ByteSpool() if self._keep_manifest else None)
        wanted = self._sink.wants(member)
        if wanted:
            self._sink.begin(member, None)
        self.outcome.members += 1
        reading = True

        def blocks() -> Iterator[bytes]:
            nonlocal reading
            for block in self._copied(member, content) if wanted else content:
                if verdict.text is not None:
                    verdict.text.add(block)
                yield block
            reading = False

        stream = blocks()
        try:
            self._compare(verdict, ManifestReader(stream), spool)
        except DataLoss as error:
            verdict.error, verdict.text = error, None
        # Also shows whether it was the archive that failed, and not the manifest: then the stream raises again.
        for _ in stream:
            pass
        if reading and verdict.error is not None:
            raise verdict.error
        if wanted:
            self._sink.end()
            return verdict, self._digest
        return verdict, None

    def _compare(self, verdict: _Verdict, manifest: ManifestReader, spool: RecordSpool) -> None:
        verdict.opened = True
        verdict.header = manifest.header
        observed = iter(spool)
        for entry in _entries(manifest):
            line = next(observed, None)
            if line is None:
                raise damage("a member of the manifest is missing", entry.member.path)
            seen = unpack(line)
            path = seen.member.path
            if path != entry.member.path:
                raise damage(f"the manifest names '{show(entry.member.path)}' here", path)
            problem = difference(entry.member, seen.member, self._reader.mtime_step)
            if problem:
                raise DamagedArchive(f"{problem}: member '{show(path)}'", [path], 1)
            if seen.sha256 not in (entry.sha256, UNHASHED, None):
                raise DamagedArchive(f"a file's SHA-256 is not the manifest's: member '{show(path)}'", [path], 1)
            if entry.member.sparse:
                verdict.sparse.add(path)
        rest = [unpack(line).member.path for line in islice(observed, 2)]
        verdict.sums_trail = verdict.sums is not None and rest == [verdict.sums.member.path]
        if rest and not verdict.sums_trail:
            raise damage("a member is not in the manifest", rest[0])
        verdict.totals = manifest.totals

    def _check_sums(self, member: Member, content: Content) -> None:
        if not self._all_hashed:
            return
        sha = hashlib.sha256()
        for block in content:
            self._check()
            sha.update(block)
        if sha.digest() != self._sums.digest():
            self._problem("the list of checksums does not match the files", member.path)

    def _withdraw(self, member: Member) -> None:
        self.outcome.members -= 1
        if self._sink.wants(member):
            self.outcome.files -= 1
            self.outcome.bytes -= member.size
            self._sink.withdraw(member.path)

    def _left_out(self, path: bytes, what: str, whole: bool) -> None:
        if whole and self._whole_left_out is None:
            self._whole_left_out = path
        self._sink.left_out(path, what)

    def _problem(self, what: str, path: bytes) -> None:
        self._damaged_count += 1
        if len(self._damaged) < MAX_DAMAGED and path not in self._damaged[-1:]:
            self._damaged.append(path)
        self._first = self._first or f"{what}: member '{show(path)}'"
        if not self._keep_going:
            raise DamagedArchive(self._first, self._damaged, self._damaged_count)

    def _finish(self, header: Mapping[str, Any] | None, totals: Mapping[str, Any] | None) -> None:
        if self._damaged:
            raise DamagedArchive(self._first, self._damaged, self._damaged_count)
        if self._whole_left_out is not None:
            raise damage("a member is not in the manifest", self._whole_left_out)
        if totals is None:
            raise damage("the manifest has no totals")
        self.outcome.header, self.outcome.totals = header, totals


def _entries(manifest: ManifestReader) -> Iterator[ManifestEntry]:
    try:
        yield from manifest
    except (OverflowError, RecursionError) as error:
        raise damage(f"the manifest cannot be read: {error}") from error


def _is_sums(member: Member) -> bool:
    return member.kind is MemberKind.FILE and is_sums_name(member.path)
