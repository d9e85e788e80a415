"""One folder of a snapshot, page by page. Runs in the reader process.

A page costs the pages of the tree on the way to it, and what lies on it; the index of the repository is kept for a
minute, because loading it costs more than all of that.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple

from holdfast_server.core.repository_place import OpenRepository, RepositoryPlace, open_place
from holdfast_server.core.snapshot_place import SnapshotPlace, content_keys, require_snapshot
from holdfast_server.errors import DataLoss, NotFound, Reason
from holdfast_server.repository import BrowsingIndex, Entry, EntryFlag, EntryKind, SnapshotReader
from holdfast_server.storage.names import escape

__all__ = ["EntryRow", "entries_page"]

#: How long an index is kept for further pages, how many, and of how many chunks together (each some 100 bytes); the
#: newest is kept in any case.
_KEEP_SECONDS: Final = 60.0
_MOST_INDEXES: Final = 4
_MOST_CHUNKS: Final = 2_000_000

_ENCRYPTED: Final = int(EntryFlag.ENCRYPTED)


class EntryRow(NamedTuple):
    """One entry of a page, paths escaped and as a restore makes them. `kind` is the name of an `EntryKind`; a page
    `after` the `position` starts behind it."""

    path: str
    kind: str
    size: int
    mode: int
    mtime_ns: int
    uid: int
    gid: int
    link_target: str
    position: bytes


def entries_page(place: SnapshotPlace, folder: bytes, after: bytes | None, limit: int) -> list[EntryRow]:
    """At most `limit` entries of a folder of the snapshot, by name; the empty path is its root.

    Raises NotFound/ENTRY_NOT_FOUND for what is no folder of it, FailedPrecondition: KEY_WRONG, KEY_REQUIRED;
    DataLoss/CHECKSUM_MISMATCH, and what `open_place` raises.
    """
    with open_place(place.repository) as opened:
        content = content_keys(opened, place.access)
        snapshot = require_snapshot(opened, place.backup_id)

        def page(index: BrowsingIndex) -> list[EntryRow]:
            reader = index.reader(opened.repository, snapshot, content)
            _require_folder(reader, folder)
            return [_row(entry, reader) for entry in islice(reader.level(folder, after), limit)]

        index, fresh = _KEPT.get(opened)
        try:
            return page(index)
        except DataLoss:
            if fresh:
                raise
        return page(_KEPT.renew(opened, index))


def _require_folder(reader: SnapshotReader, folder: bytes) -> None:
    if not folder:
        return
    entry = reader.find(folder)
    if entry is None or entry.kind is not EntryKind.DIRECTORY:
        shown = escape(folder)
        what = "the backup holds no entry" if entry is None else "this entry of the backup is no folder:"
        raise NotFound(Reason.ENTRY_NOT_FOUND, f"{what} {shown}", metadata={"path": shown})


def _row(entry: Entry, reader: SnapshotReader) -> EntryRow:
    target = entry.link_target if entry.kind in (EntryKind.SYMLINK, EntryKind.HARDLINK) else b""
    if entry.kind is EntryKind.HARDLINK and entry.flags & _ENCRYPTED:
        first = reader.find(target)
        target = target if first is None else first.stored_path
    return EntryRow(
        escape(entry.stored_path),
        entry.kind.name,
        entry.size,
        entry.mode,
        entry.mtime_ns,
        entry.uid,
        entry.gid,
        escape(target),
        entry.name,
    )


@dataclass(slots=True)
class _Kept:
    index: BrowsingIndex
    until: float


class _Indexes:
    """Indexes between pages, each for a minute. Thread-safe; loads that of one repository once at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loading: dict[RepositoryPlace, threading.Lock] = {}
        self._kept: dict[RepositoryPlace, _Kept] = {}
        self._sweeping = False

    def get(self, opened: OpenRepository) -> tuple[BrowsingIndex, bool]:
        """An index of the repository, and whether it was loaded just now."""
        place = opened.place
        with self._lock:
            loading = self._loading.setdefault(place, threading.Lock())
        with loading:
            with self._lock:
                kept = self._kept.get(place)
                if kept is not None and kept.until > time.monotonic():
                    return kept.index, False
            return self._load(opened), True

    def renew(self, opened: OpenRepository, stale: BrowsingIndex) -> BrowsingIndex:
        """Another index than this one, which proved too old."""
        with self._lock:
            kept = self._kept.get(opened.place)
            if kept is not None and kept.index is stale:
                del self._kept[opened.place]
        return self.get(opened)[0]

    def _load(self, opened: OpenRepository) -> BrowsingIndex:
        index = BrowsingIndex(opened.repository, lambda: None)
        with self._lock:
            self._kept.pop(opened.place, None)
            self._kept[opened.place] = _Kept(index, time.monotonic() + _KEEP_SECONDS)
            while len(self._kept) > 1 and (len(self._kept) > _MOST_INDEXES or self._chunks() > _MOST_CHUNKS):
                del self._kept[next(iter(self._kept))]
            self._loading = {place: lock for place, lock in self._loading.items() if place in self._kept}
            if not self._sweeping:
                self._sweep_later()
        return index

    def _sweep(self) -> None:
        with self._lock:
            now = time.monotonic()
            self._kept = {place: kept for place, kept in self._kept.items() if kept.until > now}
            self._sweeping = False
            if self._kept:
                self._sweep_later()

    def _sweep_later(self) -> None:
        self._sweeping = True
        timer = threading.Timer(_KEEP_SECONDS / 4, self._sweep)
        timer.daemon = True
        timer.start()

    def _chunks(self) -> int:
        return sum(len(kept.index) for kept in self._kept.values())


_KEPT = _Indexes()
