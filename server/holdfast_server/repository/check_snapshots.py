"""Checking snapshots: whether all their chunks are there, and which files a lost one takes with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from holdfast_server.errors import DataLoss
from holdfast_server.repository.check_packs import ChunkStates
from holdfast_server.repository.check_report import Findings
from holdfast_server.repository.crypto import IndexKeys
from holdfast_server.repository.entries import Entry, EntryKind
from holdfast_server.repository.fetching import ChunkSource
from holdfast_server.repository.format import CHUNK_MAX, ChunkFetch, ChunkType, snapshot_name
from holdfast_server.repository.lists import ListRoot, read_list, read_list_page
from holdfast_server.repository.reader import Hole, SnapshotReader
from holdfast_server.repository.snapshots import Snapshot

__all__ = ["ListCheck", "TreeCheck", "listed_chunks"]

_LISTED: Final = 1
_REACHED: Final = 2


class ListCheck:
    """Counts what is lost of the chunks that snapshots list. Pages that snapshots share are looked at once."""

    def __init__(self, fetch: ChunkFetch, states: ChunkStates, findings: Findings) -> None:
        self._fetch = fetch
        self._states = states
        self._findings = findings
        #: (chunks, lost chunks) of each page that was read, those below it included; lost pages count as chunks.
        self._pages: dict[bytes, tuple[int, int]] = {}

    def check(self, snapshot: Snapshot) -> bool:
        """Whether the snapshot's list can be read and nothing of what it lists is lost."""
        root = snapshot.list
        chunks, lost = self._page(root.level, root.id)
        name = snapshot_name(snapshot.run_id)
        if not lost and chunks != root.chunks:
            self._findings.damage(name, f"its list has {chunks} chunks, it states {root.chunks}")
            return False
        if lost:
            self._findings.backup(snapshot.run_id).chunks = lost
        return not lost

    def _page(self, level: int, page_id: bytes) -> tuple[int, int]:
        known = self._pages.get(page_id)
        if known is None:
            try:
                known = self._read(level, page_id)
            except DataLoss as error:
                self._findings.chunk(error)
                known = 0, 1
            self._pages[page_id] = known
        return known

    def _read(self, level: int, page_id: bytes) -> tuple[int, int]:
        children, records = read_list_page(self._fetch, level, page_id)
        is_lost = self._states.is_lost
        chunks, lost = len(records), sum(is_lost(chunk_id) for _, chunk_id, _ in records)
        for child in children:
            below, lost_below = self._page(level - 1, child)
            chunks += below
            lost += lost_below
        return chunks, lost


def listed_chunks(fetch: ChunkFetch, root: ListRoot, states: ChunkStates) -> Iterator[tuple[ChunkType, bytes, int]]:
    """(type, id, number in the index) of each chunk of a list, -1 for one that is not there. Raises DataLoss."""
    for kind, chunk_id, _ in read_list(fetch, root):
        yield kind, chunk_id, states.index.find(chunk_id)


@dataclass(slots=True)
class _Walked:
    """What came of one tree, for other snapshots with the same."""

    files: int
    lost: list[bytes]
    unnamed: int
    whole: bool
    problem: str


class TreeCheck:
    """Walks the trees of snapshots, with content keys.

    `read_files`: the content of each file is read as a restore reads it and compared with its digest; else what is
    known of its chunks tells whether it is there.
    """

    def __init__(
        self, keys: IndexKeys, source: ChunkSource, states: ChunkStates, findings: Findings, *, read_files: bool
    ) -> None:
        self._keys = keys
        self._source = source
        self._states = states
        self._findings = findings
        self._read_files = read_files
        self._walked: dict[tuple[bytes, ListRoot, int], _Walked] = {}
        self._marks = bytearray()

    def check(self, snapshot: Snapshot) -> bool:
        """Whether everything that the snapshot states is there and fits, as far as its list could be read."""
        counts = snapshot.counts
        entries = counts.files + counts.directories + counts.symlinks + counts.hardlinks
        key = snapshot.root, snapshot.list, entries
        walked = self._walked.get(key)
        if walked is None:
            walked = self._walked[key] = self._walk(snapshot, entries)
        findings, run_id = self._findings, snapshot.run_id
        findings.report.files += walked.files
        for path in walked.lost:
            findings.watch.lost(run_id, path)
        if walked.lost or walked.unnamed or walked.whole:
            damage = findings.backup(run_id)
            damage.files, damage.unnamed, damage.whole = len(walked.lost), walked.unnamed, walked.whole
        if walked.problem:
            findings.damage(snapshot_name(run_id), walked.problem)
        return not (walked.lost or walked.unnamed or walked.whole or walked.problem)

    def _walk(self, snapshot: Snapshot, stated: int) -> _Walked:
        self._marks = bytearray(len(self._states.index))
        listed = self._mark_listed(snapshot)
        reader = SnapshotReader(self._fetch, snapshot)
        try:
            tree = reader.root.tree
        except DataLoss:
            return _Walked(0, [], stated, True, "")
        broken: list[DataLoss] = []
        lost: list[bytes] = []
        lost_names: set[bytes] = set()
        files = entries = 0
        for entry in reader.salvage(broken.append) if tree is not None else ():
            self._findings.check()
            entries += 1
            try:
                files += self._entry(reader, entry, lost_names)
            except DataLoss:
                lost.append(entry.path)
                lost_names.add(entry.path)
        problem = ""
        unnamed = max(stated - entries, 1) if broken else 0
        if not broken and entries != stated:
            problem = f"its tree has {entries} entries, it states {stated}"
        elif not broken and not lost and listed:
            problem = self._compare_list()
        return _Walked(files, lost, unnamed, False, problem)

    def _fetch(self, kind: ChunkType, chunk_id: bytes) -> bytes:
        self._mark(chunk_id)
        try:
            content = self._source.fetch(kind, chunk_id)
        except DataLoss as error:
            self._states.lose(chunk_id)
            self._findings.chunk(error)
            raise
        self._states.prove(chunk_id)
        return content

    def _mark(self, chunk_id: bytes) -> int:
        number = self._states.index.find(chunk_id)
        if number >= 0:
            self._marks[number] |= _REACHED
        return number

    def _entry(self, reader: SnapshotReader, entry: Entry, lost: set[bytes]) -> int:
        """Check one entry; gives 1 for a file of which all content was read. Raises DataLoss when it is lost."""
        if entry.kind is EntryKind.HARDLINK:
            self._hard_link(reader, entry, lost)
            return 0
        # Takes the tail apart, of every kind.
        if entry.kind is not EntryKind.FILE:
            _ = entry.xattrs, entry.link_target
            return 0
        index, states = self._states.index, self._states
        proved = True
        for extent in reader.extents(entry):
            if extent.chunk_id is None:
                continue
            number = self._mark(extent.chunk_id)
            if states.is_lost(extent.chunk_id):
                raise entry.damaged(f"chunk {extent.chunk_id.hex()} is lost")
            if index.kind(number) != ChunkType.DATA or extent.offset + extent.length > index.raw_length(number):
                raise entry.damaged(f"it has an extent that chunk {extent.chunk_id.hex()} has not")
            proved = proved and states.is_proved(number)
        if self._read_files:
            self._content(reader, entry)
            return 1
        return int(proved)

    def _hard_link(self, reader: SnapshotReader, entry: Entry, lost: set[bytes]) -> None:
        target = entry.link_target
        first = reader.find(target)
        if target in lost or first is None or first.kind is not EntryKind.FILE:
            raise entry.damaged("the file that it is another name of is lost")

    def _content(self, reader: SnapshotReader, entry: Entry) -> None:
        digest = entry.digest
        if digest is not None and entry.size > CHUNK_MAX:
            raise entry.damaged("it has the digest of a small file and is none")
        small = blake3(key=self._keys.small)
        for block in reader.blocks(entry):
            self._findings.check()
            if isinstance(block, Hole):
                if digest is not None:
                    small.update(bytes(block.length))
            elif digest is not None:
                small.update(block)
        if digest is not None and small.digest(len(digest)) != digest:
            raise entry.damaged("its content is not that of its digest")

    def _mark_listed(self, snapshot: Snapshot) -> bool:
        """Mark what the list names; false when the list is damaged, or names a chunk twice, which is told."""
        marks = self._marks
        try:
            for kind, chunk_id, number in listed_chunks(self._source.fetch, snapshot.list, self._states):
                if number < 0:
                    continue
                if marks[number] & _LISTED or self._states.index.kind(number) != kind:
                    text = f"its list names chunk {chunk_id.hex()} twice, or as of another type"
                    self._findings.damage(snapshot_name(snapshot.run_id), text)
                    return False
                marks[number] |= _LISTED
        except DataLoss:
            return False
        return True

    def _compare_list(self) -> str:
        only_listed, only_reached = self._marks.count(_LISTED), self._marks.count(_REACHED)
        if only_reached:
            return f"its list lacks {only_reached} chunks that it needs"
        if only_listed:
            return f"its list names {only_listed} chunks that it does not need"
        return ""
