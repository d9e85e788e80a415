"""Packing a stored backup into an archive: another format, or only some of its entries.

The backup is proved while it is read, an archive against its manifest and a snapshot chunk by chunk; the first
difference ends the export. An export is no backup: its manifest says what it was exported from and has no backup id of
its own (docs/format.md).

A tar's hard links become files where the new archive cannot say the same: in a zip, and where the file that they name
was not chosen. A tar is read front to back, so their content is fetched afterwards by further passes over the archive:
one for each 50,000 of them, and another one for each further name of a file too large to be kept in memory.
"""

from __future__ import annotations

import base64
import io
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from typing import Any, BinaryIO, Protocol

from holdfast_server.archive.contents import open_contents
from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.manifest import EntryEncryption, ManifestEntry, pack, unpack
from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.archive.reader import Limits, open_reader
from holdfast_server.archive.reading import Source, damage
from holdfast_server.archive.sealing import Recipients
from holdfast_server.archive.sidecar import Sidecar
from holdfast_server.archive.spool import RecordSpool
from holdfast_server.archive.writer import ArchiveWriter, MemberNotRepresentable
from holdfast_server.core.archive_file import ARCHIVE_WORK, ArchiveShape, ProvedArchive, pour, produce
from holdfast_server.core.backup import NAME_TOO_LONG
from holdfast_server.core.control import Control, Problem, Progress
from holdfast_server.core.reading import SMALL_FILE
from holdfast_server.core.selection import PathSelection
from holdfast_server.core.statistics import Statistics
from holdfast_server.core.verify import StoredArchive
from holdfast_server.wallets.classify import SNIFF_SIZE, classify

__all__ = ["BackupContents", "BackupExport", "ExportPlan", "archive_contents", "archive_origin", "least_size"]

#: Hard links whose content one further pass fetches: what is known of each of them takes some hundred bytes.
_LINKS_A_PASS = 50_000

#: Content up to this size is kept while several names of it are written.
_KEPT = 8 << 20


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """What to export into which format; without `paths` everything. `created_us`: when it was asked for.

    `origin` is what the export's manifest says of what it was written from, beyond the backup: of an archive
    `archive_origin`, of a snapshot nothing. With `recipients` the new archive is sealed to them, whether or not the
    backup is.
    """

    backup_id: str
    format: ArchiveFormat
    paths: tuple[bytes, ...]
    created_us: int
    software: str
    recipients: Recipients | None = None
    origin: Mapping[str, str] = field(default_factory=dict)


class BackupContents(Protocol):
    """What an export reads: `archive.contents.Contents`, or `core.snapshot_contents.SnapshotContents`."""

    header: Mapping[str, Any]
    totals: Mapping[str, Any]

    def entries(self) -> Iterator[ManifestEntry]: ...

    def read(self, wants: Callable[[Member], bool]) -> Iterator[tuple[ManifestEntry, Iterator[bytes]]]: ...


def archive_contents(
    file: BinaryIO | Source, archive_format: ArchiveFormat, control: Control, progress: Progress
) -> BackupContents:
    """The content of a stored archive (`core.verify.open_content`). Raises what reading it does."""

    def on_structure(_size: int, _files: int, path: bytes) -> None:
        progress.current_file = path

    progress.begin("reading structure")
    reader = open_reader(archive_format, file, limits=Limits(), check=control.check)
    return open_contents(reader, check=control.check, on_progress=on_structure)


def archive_origin(archive: StoredArchive) -> dict[str, str]:
    """`ExportPlan.origin` of an archive."""
    return {"sha256": archive.sha256, "archive_format": archive.format.value}


def least_size(archive: StoredArchive, archive_format: ArchiveFormat, paths: Sequence[bytes]) -> int:
    """Bytes that an export needs at the very least, as far as that can be said beforehand.

    The same content in the same format comes out about as large as it is. Between formats only the order of magnitude
    is known: a zip of many tiny files is mostly headers.
    """
    if paths:
        return 0
    return archive.size * 9 // 10 if archive_format is archive.format else archive.size // 20


class BackupExport:
    """One stored backup on its way into an archive.

    Constructing it counts what is to be exported: `planned`, exact but for what the new format cannot hold. Raises what
    reading the backup raises, DataLoss/CHECKSUM_MISMATCH also for the content of another backup, and
    NotFound/ENTRY_NOT_FOUND for a path that the backup does not hold.
    """

    def __init__(self, contents: BackupContents, plan: ExportPlan, control: Control, progress: Progress) -> None:
        self._plan = plan
        self._control = control
        self._progress = progress
        self._paths = PathSelection(plan.paths) if plan.paths else None
        self._contents = contents
        self._header = contents.header
        if self._header.get("backup_id") != plan.backup_id:
            raise damage(f"it is not the archive of backup {plan.backup_id}")
        source = self._header.get("source")
        self._source: dict[str, Any] = dict(source) if isinstance(source, dict) else {}
        self.planned = self._survey()
        progress.set_totals(self.planned.original_size, self.planned.files, work=ARCHIVE_WORK)

    @property
    def display_name(self) -> str:
        """The source's name when the backup was made."""
        return str(self._source.get("display_name", ""))

    def write(self, partial_fd: int, pool: CompressorPool, report: Callable[[Problem], None]) -> ProvedArchive:
        """Write the export into the open, empty file, sync it and read it back.

        Raises Stopped when asked to, DataLoss/CHECKSUM_MISMATCH naming the first file whose content is not what the
        manifest says, or when what was read back is not what was written, ResourceExhausted/DISK_FULL and the like for
        the new archive's disk. The file is the caller's to remove then.
        """
        shape = self._shape()
        return produce(shape, self._filler(report), partial_fd, pool, self._control, self._progress)

    def send(self, file: io.RawIOBase, pool: CompressorPool, report: Callable[[Problem], None]) -> Statistics:
        """Write the export to where nothing can be read back. Raises as `write`, and what `file` raises."""
        return pour(self._shape(), self._filler(report), file, pool, self._control)

    def _shape(self) -> ArchiveShape:
        plan = self._plan
        return ArchiveShape(
            plan.format, self._manifest_header(), plan.created_us, plan.recipients, is_wallet=self._is_wallet
        )

    @property
    def _is_wallet(self) -> bool:
        return self._source.get("kind") == "WALLET"

    def _filler(self, report: Callable[[Problem], None]) -> Callable[[ArchiveWriter], Statistics]:
        def fill(writer: ArchiveWriter) -> Statistics:
            job = _ExportJob(writer, self._missing(Statistics()), self._is_wallet, self._progress, report)
            self._fill(job)
            if self._is_wallet and self._paths is None and not job.left_out:
                job.statistics.census = Statistics.of_manifest_totals(self._contents.totals).census
            return job.statistics

        return fill

    def _fill(self, job: _ExportJob) -> None:
        links = RecordSpool()
        for entry, blocks in self._contents.read(self._wants):
            if entry.member.kind is MemberKind.FILE:
                job.add_file(entry.member, blocks, changed=entry.changed, encryption=entry.encryption)
            elif entry.member.kind is MemberKind.HARDLINK and self._becomes_file(entry.member):
                links.add(pack(entry.member, encryption=entry.encryption))
            else:
                job.add(entry.member, entry.encryption)
        parts = -(-len(links) // _LINKS_A_PASS)
        for part in range(parts):
            waiting: dict[bytes, list[ManifestEntry]] = {}
            for record in links:
                self._control.check()
                link = unpack(record)
                # By what they name, so that all names of one file are done together; the same in every process.
                target = link.member.link_target
                if zlib.crc32(target) % parts == part:
                    waiting.setdefault(target, []).append(link)
            while waiting:
                self._fetch(job, waiting)

    def _fetch(self, job: _ExportJob, waiting: dict[bytes, list[ManifestEntry]]) -> None:
        """One pass for the content of hard links that become files; what needs another one is left in `waiting`."""
        left = set(waiting)
        for entry, blocks in self._contents.read(lambda member: member.path in left):
            file = entry.member
            left.discard(file.path)
            first, *others = waiting.pop(file.path)
            if self._plan.format.has_hardlinks:
                job.add_link(first, file, blocks, changed=entry.changed)
                for link in others:
                    job.add(replace(link.member, link_target=first.member.path), link.encryption)
            elif file.size > _KEPT:
                job.add_link(first, file, blocks, changed=entry.changed)
                if others:
                    waiting[file.path] = others
            else:
                content = list(blocks)
                for link in (first, *others):
                    job.add_link(link, file, iter(content), changed=entry.changed)
            if not left:
                return
        raise damage("a hard link points to no file", min(left))

    def _survey(self) -> Statistics:
        found, names = Statistics(), Counter[int]()
        for entry in self._contents.entries():
            member = entry.member
            if not self._wants(member):
                continue
            if member.kind is MemberKind.HARDLINK and self._becomes_file(member):
                names[hash(member.link_target)] += 1
            else:
                found.count(member)
        if self._paths is not None:
            self._paths.require_met()
        for entry in self._contents.entries() if names else ():
            written = count = names.get(hash(entry.member.path), 0)
            if self._plan.format.has_hardlinks:
                written = min(count, 1)
            found.files += written
            found.hardlinks += count - written
            found.original_size += written * entry.member.size
        return self._missing(found)

    def _missing(self, found: Statistics) -> Statistics:
        """Add what is missing from the backup itself."""
        totals = self._contents.totals
        counts, wallet = totals.get("counts", {}), totals.get("wallet", {})
        found.files_skipped += int(counts.get("files_skipped", 0))
        found.files_ignored += int(counts.get("files_ignored", 0))
        found.warnings += int(counts.get("warnings", 0))
        found.wallet.files_skipped += int(wallet.get("files_skipped", 0))
        found.complete = found.complete and bool(totals.get("complete", False))
        return found

    def _wants(self, member: Member) -> bool:
        return self._chosen(member.path)

    def _chosen(self, path: bytes) -> bool:
        return self._paths is None or self._paths(path)

    def _becomes_file(self, link: Member) -> bool:
        """Whether a hard link's content has to be written, because the new archive cannot link to what it names."""
        return not self._plan.format.has_hardlinks or not self._chosen(link.link_target)

    def sidecar(self, written: ProvedArchive, completed_us: int) -> Sidecar | None:
        """What stands beside the new archive if it is sealed."""
        plan = self._plan
        if plan.recipients is None:
            return None
        totals = written.statistics.manifest_totals(wallet=False)
        return Sidecar(
            backup_id=plan.backup_id,
            source_id=str(self._source.get("source_id", "")),
            source_kind=str(self._source.get("kind", "")),
            archive_format=plan.format.value,
            recipients=len(plan.recipients),
            created_us=plan.created_us,
            completed_us=completed_us,
            size=written.size,
            sha256=written.sha256,
            counts=totals["counts"],
            complete=totals["complete"],
            software=plan.software,
            exported_from=self._exported_from(),
        )

    def _exported_from(self) -> dict[str, Any]:
        return {
            "backup_id": self._plan.backup_id,
            **self._plan.origin,
            "create_time": self._header.get("create_time"),
            "software": self._header.get("software"),
        }

    def _manifest_header(self) -> dict[str, Any]:
        plan, backup = self._plan, self._header
        header: dict[str, Any] = {
            "exported_from": self._exported_from(),
            "name": backup.get("name"),
            "source": self._source,
            "archive_format": plan.format.value,
            "create_time": datetime.fromtimestamp(plan.created_us / 1e6, UTC).isoformat().replace("+00:00", "Z"),
            "software": plan.software,
            "ignore": backup.get("ignore"),
            "root": backup.get("root"),
        }
        if plan.paths:
            header["paths"] = [_path_record(path.strip(b"/")) for path in plan.paths]
        return header


class _ExportJob:
    """The new archive as it grows, and the counts of what is in it."""

    def __init__(
        self,
        writer: ArchiveWriter,
        statistics: Statistics,
        is_wallet: bool,
        progress: Progress,
        report: Callable[[Problem], None],
    ) -> None:
        self._writer = writer
        self._is_wallet = is_wallet
        self._progress = progress
        self._report = report
        self.statistics = statistics
        self.left_out = 0

    def add(self, member: Member, encryption: EntryEncryption | None) -> None:
        """Add what has no content."""
        self._progress.current_file = member.path
        if self._fits(member, lambda: self._writer.add(member, encryption=encryption)):
            self._count(member, encryption)

    def add_link(self, link: ManifestEntry, file: Member, blocks: Iterator[bytes], *, changed: bool) -> None:
        """Add a hard link as a file of its own, with the content of the one that it names."""
        self.add_file(_as_file(link.member, file), blocks, changed=changed, encryption=link.encryption)

    def add_file(
        self, member: Member, blocks: Iterator[bytes], *, changed: bool, encryption: EntryEncryption | None
    ) -> None:
        self._progress.current_file = member.path
        begun = list(_first(blocks))
        whole = chain(begun, blocks)
        if member.size <= SMALL_FILE:
            # To its end before it goes in: a content that is not what the manifest says ends the export here.
            content = b"".join(whole)
            fits = self._fits(member, lambda: self._writer.add(member, content, changed=changed, encryption=encryption))
            self._progress.count(member.size, 1)
        else:
            counted = self._counted(whole)
            fits = self._fits(
                member,
                lambda: self._writer.add_stream(member, counted, changed=changed, encryption=lambda: encryption),
            )
            self._progress.count(0, 1)
        if fits:
            self._count(member, encryption)
            if self._is_wallet:
                path = ManifestEntry(member, encryption=encryption).source_path
                seen = classify(path, member.size, b"".join(begun)[:SNIFF_SIZE])
                self.statistics.wallet.add(seen, reencrypted=encryption is not None)

    def _count(self, member: Member, encryption: EntryEncryption | None) -> None:
        self.statistics.count(member)
        if encryption is not None:
            self.statistics.key_ids.add(encryption.key_id)

    def _counted(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        for block in blocks:
            self._progress.count(len(block))  # before the yield: the writer asks for no block past the last
            yield block

    def _fits(self, member: Member, add: Callable[[], object]) -> bool:
        """Whether the format could hold the member; a problem is reported if not."""
        try:
            add()
        except MemberNotRepresentable as error:
            self.left_out += 1
            found = self.statistics
            found.complete = False
            found.files_skipped += 1
            found.warnings += 1
            self._report(Problem(member.path, NAME_TOO_LONG, f"the archive format cannot hold this entry: {error}"))
            return False
        return True


def _first(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """As many blocks as it takes to tell what a file is."""
    size = 0
    while size < SNIFF_SIZE and (block := next(blocks, None)) is not None:
        size += len(block)
        yield block


def _as_file(link: Member, file: Member) -> Member:
    return replace(link, kind=MemberKind.FILE, size=file.size, link_target=b"", sparse=file.sparse)


def _path_record(path: bytes) -> dict[str, str]:
    try:
        return {"path": path.decode()}
    except UnicodeDecodeError:
        return {"path_base64": base64.b64encode(path).decode()}
