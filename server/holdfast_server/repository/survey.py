"""What a repository holds, and what of it is needed: the ground of every removal (docs/format.md, "Removing")."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Final, Self

from holdfast_server.errors import DataLoss
from holdfast_server.repository.chunks import ChunkIndex
from holdfast_server.repository.fetching import ChunkSource
from holdfast_server.repository.format import ChunkFetch, ChunkType, damaged, snapshot_name
from holdfast_server.repository.index import LoadedIndex, list_packs, load_index
from holdfast_server.repository.lists import ListRoot, read_list_page
from holdfast_server.repository.log import Log, LogReader
from holdfast_server.repository.log_state import LogState
from holdfast_server.repository.repository import Repository
from holdfast_server.repository.snapshots import Snapshot, read_run_end, snapshot_ids

__all__ = ["LiveMarks", "PackUse", "Survey"]

#: So often is looked when what others do meanwhile hides what is needed.
_LOOKS: Final = 5


class LiveMarks:
    """Which chunks of an index the lists of snapshots name; a page that several lists share is read once."""

    def __init__(self, index: ChunkIndex, fetch: ChunkFetch, check: Callable[[], None]) -> None:
        self._index = index
        self._fetch = fetch
        self._check = check
        self._read: set[bytes] = set()
        #: 1 for a chunk that a list names, or that holds a page of one, by number.
        self.needed = bytearray(len(index))
        #: How many bytes of a chunk's content one snapshot uses, at most, by number.
        self.live = array("I", bytes(4 * len(index)))
        #: Chunks that are named and in no pack.
        self.dangling: set[bytes] = set()

    def add(self, root: ListRoot) -> None:
        """Mark what a list names, and the list itself. Raises DataLoss/CHECKSUM_MISMATCH for a damaged one."""
        find, needed, most = self._index.find, self.needed, self.live
        waiting = [(root.level, root.id)]
        while waiting:
            level, page_id = waiting.pop()
            if page_id in self._read:
                continue
            self._check()
            children, records = read_list_page(self._fetch, level, page_id)
            self._read.add(page_id)
            waiting.extend((level - 1, child) for child in children)
            needed[find(page_id)] = 1
            for _, chunk_id, live in records:
                number = find(chunk_id)
                if number >= 0:
                    needed[number] = 1
                    if live > most[number]:
                        most[number] = live
                else:
                    self.dangling.add(chunk_id)


@dataclass(slots=True)
class PackUse:
    """Bytes of a pack's messages that snapshots need, and of the others. `is_data`: it holds content of files."""

    is_data: bool
    needed: int = 0
    unneeded: int = 0


@dataclass(slots=True)
class Survey:
    """What there is, as seen once.

    `index` holds the chunks of all packs that are there; those with numbers below `safe` lie in a pack that nobody has
    condemned. `needed` is 1 for each chunk that a snapshot needs, by number, `live` how many bytes of its content one
    uses at most; `dangling` is what snapshots need and no pack holds. `run_ids` are the runs whose ends were seen,
    `returned` snapshots that were removed before and are there.
    """

    log: Log
    state: LogState
    loaded: LoadedIndex
    safe: int
    needed: bytearray
    live: array[int]
    dangling: set[bytes]
    run_ids: set[str]
    returned: list[str]
    #: Backups of which it is not known what they need; then everything counts as needed.
    unknown: list[str] = field(default_factory=list)

    @property
    def index(self) -> ChunkIndex:
        return self.loaded.chunks

    @property
    def condemned(self) -> dict[bytes, int]:
        """The condemned packs that are still there, and their sizes; one whose deletion was undone by a crash too."""
        expendable = self.state.expendable
        return {pack_id: size for pack_id, size in self.loaded.packs.items() if pack_id in expendable}

    @classmethod
    def take(
        cls, repository: Repository, check: Callable[[], None], *, tolerant: bool = False, without: Collection[str] = ()
    ) -> Self:
        """Read the log, then the index, then the snapshots that were there before the index was read. Those of the runs
        in `without` are taken for removed.

        What is committed later may be in packs that are not known here, and is not looked at: `is_outdated` tells.
        Raises DataLoss/CHECKSUM_MISMATCH, naming the backup, when a snapshot or its list cannot be read, or one that
        was committed is not there: what is needed is unknown then. With `tolerant` such backups are kept in `unknown`.
        Raises it for a damaged log too, unless `tolerant`, and the store's own errors.
        """
        looks = 0
        while True:
            survey = cls._loaded(repository, check, tolerant=tolerant)
            looks += 1
            try:
                survey._mark(repository, check, without, tolerant=tolerant)
            except DataLoss:
                # Somebody else may have removed the snapshot meanwhile, or moved what it needs.
                if looks == _LOOKS or not survey._has_changed(repository):
                    raise
            else:
                if not survey.unknown or looks == _LOOKS or not survey._has_changed(repository):
                    return survey

    @classmethod
    def _loaded(cls, repository: Repository, check: Callable[[], None], *, tolerant: bool) -> Self:
        """Nothing is known to be needed yet."""
        store, keys = repository.store, repository.index_keys
        log = _read_log(repository, tolerant=tolerant)
        state = LogState.of(log)
        run_ids = set(snapshot_ids(store))
        loaded = load_index(store, keys, keep_keys=True, check=check, condemned=state.expendable, keep_condemned=True)
        safe = len(loaded.chunks)
        for record in loaded.condemned.values():
            loaded.chunks.add_pack(record)
        return cls(log, state, loaded, safe, bytearray(), array("I"), set(), run_ids, [])

    def _mark(
        self, repository: Repository, check: Callable[[], None], without: Collection[str], *, tolerant: bool
    ) -> None:
        store, keys = repository.store, repository.index_keys
        source = ChunkSource(store, keys, None, self.index, self.loaded.missing)
        marks = LiveMarks(self.index, source.fetch, check)
        self.needed, self.live, self.dangling = marks.needed, marks.live, marks.dangling
        found = {*without}
        for run_id, snapshot in self._snapshots(repository, check, without, tolerant=tolerant):
            found.add(run_id)
            try:
                marks.add(snapshot.list)
            except DataLoss as error:
                self._cannot_tell(run_id, error, tolerant=tolerant)
        missing = self.state.committed - self.state.removed - found - {*self.unknown}
        if missing:
            # Some may have been removed since the log was read.
            missing -= LogState.of(_read_log(repository, tolerant=tolerant)).removed
        for run_id in sorted(missing):
            gone = damaged(snapshot_name(run_id), "it was committed and is gone")
            self._cannot_tell(run_id, gone, tolerant=tolerant)
        if self.unknown:
            self.needed[:] = b"\1" * len(self.needed)

    def _has_changed(self, repository: Repository) -> bool:
        """Whether packs came or went since, or the log grew."""
        if list_packs(repository.store) != self.loaded.packs:
            return True
        return _read_log(repository, tolerant=True).vector != self.log.vector

    def _cannot_tell(self, run_id: str, error: DataLoss, *, tolerant: bool) -> None:
        if not tolerant:
            raise _unknown(run_id, error) from error
        self.unknown.append(run_id)

    def _snapshots(
        self, repository: Repository, check: Callable[[], None], without: Collection[str], *, tolerant: bool
    ) -> Iterator[tuple[str, Snapshot]]:
        store, keys = repository.store, repository.index_keys
        for run_id in sorted(self.run_ids):
            check()
            if run_id in without:
                continue
            try:
                end = read_run_end(store, keys, run_id)
            except DataLoss as error:
                if run_id not in self.state.removed:
                    self._cannot_tell(run_id, error, tolerant=tolerant)
                continue
            if not isinstance(end, Snapshot):
                continue
            if run_id in self.state.removed:
                self.returned.append(run_id)
            else:
                yield run_id, end

    def uses(self) -> dict[bytes, PackUse]:
        """How much is needed of each pack that nobody has condemned. Of a chunk in several packs the first counts."""
        index, needed = self.index, self.needed
        found: dict[bytes, PackUse] = {}
        for number in range(self.safe):
            pack_id = index.pack_of(number)
            use = found.get(pack_id)
            if use is None:
                use = found[pack_id] = PackUse(index.kind(number) == ChunkType.DATA)
            if needed[number]:
                use.needed += index.length(number)
            else:
                use.unneeded += index.length(number)
        return found

    def hardly_needed(self) -> Iterator[bytes]:
        """The chunks of small files of which every snapshot uses less than half."""
        index, needed, live = self.index, self.needed, self.live
        for number in range(self.safe):
            if needed[number] and index.holds_small_files(number) and live[number] * 2 < index.raw_length(number):
                yield index.chunk_id(number)

    def unneeded_packs(self, repository: Repository, *, busy: bool) -> list[bytes]:
        """The packs of which no snapshot needs anything that is not elsewhere, too. While others write (`busy`) those
        that no index object lists are left alone: they are not finished.

        A copy elsewhere counts only if its bytes are right, which is looked at here.
        """
        index, needed = self.index, self.needed
        kept = {index.pack_of(number) for number in range(self.safe) if needed[number]}
        source = ChunkSource(repository.store, repository.index_keys, None, index, self.loaded.missing)
        expendable = self.state.expendable
        for number in index.duplicated():
            if not needed[number]:
                continue
            places = [place for place in index.locations(number) if place[0] not in expendable]
            # Where it was found first it is kept already; a copy that would go must not be the only one that is whole.
            if all(pack_id in kept for pack_id, _, _ in places):
                continue
            for pack_id, _, record in places:
                try:
                    source.message(record.kind, record.chunk_id, pack_id, record)
                except DataLoss:
                    continue
                kept.add(pack_id)
                break
        found = []
        for pack_id in index.pack_ids:
            unfinished = pack_id not in self.loaded.listed
            if pack_id not in kept and pack_id not in expendable and not (busy and unfinished):
                found.append(pack_id)
        return sorted(found)

    def is_outdated(self, repository: Repository) -> bool:
        """Whether a run has ended, or somebody else condemned packs, since the survey. `state` must hold what this
        process has added to the log."""
        store = repository.store
        news = LogState.of(LogReader(store, repository.index_keys).read(self.log.vector))
        return bool(news.expendable - self.state.expendable) or any(r not in self.run_ids for r in snapshot_ids(store))


def _read_log(repository: Repository, *, tolerant: bool) -> Log:
    reader = LogReader(repository.store, repository.index_keys)
    return reader.salvage() if tolerant else reader.read()


def _unknown(run_id: str, error: DataLoss) -> DataLoss:
    return DataLoss(
        error.reason,
        f"what backup {run_id} needs cannot be told, so nothing may be removed: {error.message}",
        metadata={**error.metadata, "backup_id": run_id, "snapshot": snapshot_name(run_id)},
    )
