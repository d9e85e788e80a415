"""Compacting: small packs, and packs of which much is not needed, become few full ones; index objects are merged.

Nothing is decrypted: messages are copied as they are, so this needs no content key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from holdfast_server.errors import DataLoss, HoldfastError, Reason
from holdfast_server.repository.copying import PackCopier, read_messages
from holdfast_server.repository.format import PACK_TARGET, pack_name
from holdfast_server.repository.index import read_index, write_index
from holdfast_server.repository.packs import read_directory
from holdfast_server.repository.removal import MaintenanceWatch, Removal, Sweep
from holdfast_server.repository.repository import Repository
from holdfast_server.repository.runs import RunKind
from holdfast_server.repository.survey import Survey
from holdfast_server.storage.objects import ObjectMissing

__all__ = ["CompactReport", "compact_repository"]

#: Packs below this are merged, as soon as there are so many of them, or enough for a large one.
SMALL_PACK: Final = 16 << 20
SMALL_PACKS: Final = 8
#: A pack is copied when so much of its messages is not needed: a quarter, and at least 64 KiB.
WASTE_SHARE: Final = 0.25
WASTE_LEAST: Final = 64 << 10
#: Index objects below this are merged, when there are so many.
SMALL_INDEX: Final = 1 << 20
SMALL_INDEXES: Final = 8
#: What is copied before the old packs are deleted: usually, and where there is no space for it.
_BATCH: Final = 4 * PACK_TARGET
_SMALL_BATCH: Final = 6 << 20


@dataclass(slots=True)
class CompactReport(Sweep):
    """`packs_merged` into `packs_written` of `bytes_written`, of a dry run an estimate; objects are those of the whole
    store. `bytes_freed` is what is left of the deleted packs' bytes after those that were written."""

    packs_merged: int = 0
    packs_written: int = 0
    bytes_written: int = 0
    indexes_merged: int = 0
    objects_before: int = 0
    objects_after: int = 0


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A pack to be copied, and how many bytes of it."""

    pack_id: bytes
    size: int


def compact_repository(
    repository: Repository,
    *,
    now: Callable[[], int],
    watch: MaintenanceWatch,
    marks: bytes | None = None,
    dry_run: bool = False,
) -> CompactReport:
    """Merge small packs and index objects, and free what is not needed of others.

    Otherwise as `prune_repository`, whose work is done too. On a full disk it goes in small steps.
    """
    report = CompactReport(objects_before=_count(repository))
    if dry_run:
        return _foresee(repository, report, watch.check)
    with Removal(repository, RunKind.COMPACT, now=now, watch=watch, marks=marks) as removal:
        busy = bool(removal.others())
        removal.condemn(removal.survey.unneeded_packs(repository, busy=busy))
        removal.sweep()
        removal.tell_vanished()
        chosen = list(_choose(removal.survey, busy=busy))
        if chosen:
            watch.phase("copying")
            watch.expect(sum(one.size for one in chosen))
        copies = _Copies(removal, report)
        for batch in _batches(chosen, _BATCH):
            copies.copy_in_steps(batch)
        watch.phase("indexes")
        others = removal.others()
        report.indexes_merged = _merge_indexes(removal, busy=busy or bool(others))
        removal.cut_log(others)
        swept = removal.swept
        for name in Sweep.__slots__:
            setattr(report, name, getattr(swept, name))
        report.bytes_freed = max(0, swept.bytes_freed - report.bytes_written)
    report.objects_after = _count(repository)
    return report


def _choose(survey: Survey, *, busy: bool) -> Iterator[_Chosen]:
    """The packs that are worth it: those of file content, then the others, each kind for itself, the least first."""
    wasteful: dict[bool, list[_Chosen]] = {True: [], False: []}
    small: dict[bool, list[_Chosen]] = {True: [], False: []}
    expendable = survey.state.expendable
    for pack_id, use in sorted(survey.uses().items()):
        if pack_id in expendable or not use.needed or (busy and pack_id not in survey.loaded.listed):
            continue  # it is condemned by now, or its writer has not finished
        one = _Chosen(pack_id, use.needed)
        if use.unneeded >= max(WASTE_LEAST, WASTE_SHARE * (use.needed + use.unneeded)):
            wasteful[use.is_data].append(one)
        elif survey.loaded.packs.get(pack_id, 0) < SMALL_PACK:
            small[use.is_data].append(one)
    for is_data in (True, False):
        few, chosen = small[is_data], wasteful[is_data]
        enough = len(few) > 1 and sum(one.size for one in few) >= SMALL_PACK
        if enough or len(few) + len(chosen) >= SMALL_PACKS:
            chosen += few
        yield from sorted(chosen, key=lambda one: one.size)


def _batches(chosen: list[_Chosen], size: int) -> Iterator[list[_Chosen]]:
    """The packs in order, as many together as have so many bytes; one at least."""
    batch: list[_Chosen] = []
    for one in chosen:
        if batch and sum(each.size for each in batch) + one.size > size:
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


class _Copies:
    """The copies of one run. A chunk is copied once, whatever packs it lies in."""

    def __init__(self, removal: Removal, report: CompactReport) -> None:
        self._removal = removal
        self._report = report
        self._copied: set[bytes] = set()

    def copy_in_steps(self, batch: list[_Chosen]) -> None:
        """Copy packs and take the old ones away; where space is short, a few at a time."""
        removal = self._removal
        try:
            self._copy(batch)
        except HoldfastError as error:
            if error.reason not in (Reason.DISK_FULL, Reason.QUOTA_EXCEEDED) or len(batch) < 2:
                raise
            removal.watch.tell("there is little space: going on in small steps")
            removal.sweep()
            for step in _batches(batch, _SMALL_BATCH):
                self._copy(step)

    def _copy(self, batch: list[_Chosen]) -> None:
        removal, copier = self._removal, PackCopier(self._removal.repository)
        copied: set[bytes] = set()
        done: list[bytes] = []
        try:
            for one in batch:
                removal.check()
                if self._copy_pack(one.pack_id, copier, copied):
                    done.append(one.pack_id)
                removal.watch.advance(one.size)
            copier.finish()
        except HoldfastError:
            if copier.records:
                removal.condemn_own(copier.records)
            raise
        self._copied |= copied
        self._report.packs_written += copier.packs_written
        self._report.bytes_written += copier.bytes_written
        self._report.packs_merged += len(done)
        removal.condemn(done)
        removal.sweep()

    def _copy_pack(self, pack_id: bytes, copier: PackCopier, copied: set[bytes]) -> bool:
        """Copy what is needed of a pack and has not been copied; false when it must stay as it is."""
        removal = self._removal
        survey, repository = removal.survey, removal.repository
        size = survey.loaded.packs.get(pack_id)
        if size is None or pack_id in survey.state.expendable:
            return False
        find, needed = survey.index.find, survey.needed
        try:
            record = read_directory(repository.store, repository.index_keys, pack_id, size)
            # A copy elsewhere is not believed unread.
            wanted = {chunk.chunk_id for chunk in record if needed[find(chunk.chunk_id)]} - self._copied - copied
            found = read_messages(repository, record, wanted)
        except ObjectMissing:
            return False
        except DataLoss as error:
            removal.tell_damage(pack_name(pack_id), error)
            return False
        for chunk, message, small in found:
            copier.add(record, chunk, message, small)
        copied |= wanted
        return True


def _merge_indexes(removal: Removal, *, busy: bool) -> int:
    """Merge small index objects, and those that list packs which are gone; gives how many were replaced. While nobody
    else writes, packs that none lists are taken in."""
    repository, survey = removal.repository, removal.survey
    store, keys = repository.store, repository.index_keys
    sizes = {info.name: info.size for info in store.list("index/")}
    gone = survey.state.expendable - survey.loaded.packs.keys()
    taken_in = [] if busy else [one for one in survey.loaded.adopted if one.pack_id in survey.loaded.packs]
    kept = {record.pack_id: record for record in taken_in}
    old: list[str] = []
    small = dead = 0
    for index_id, records in read_index(store, keys, removal.check, lambda _name, _error: None):
        name = f"index/{index_id}"
        lost = sum(record.pack_id in gone for record in records)
        if sizes.get(name, SMALL_INDEX) >= SMALL_INDEX and not lost:
            continue
        small += sizes.get(name, SMALL_INDEX) < SMALL_INDEX
        dead += lost
        old.append(name)
        kept |= {record.pack_id: record for record in records if record.pack_id not in gone}
    if not (dead or taken_in or small >= SMALL_INDEXES):
        return 0
    write_index(store, keys, kept.values())
    for name in old:
        removal.check()
        store.delete(name)
    survey.loaded.listed -= gone
    return len(old)


def _foresee(repository: Repository, report: CompactReport, check: Callable[[], None]) -> CompactReport:
    survey = Survey.take(repository, check)
    going = {*survey.unneeded_packs(repository, busy=False), *survey.condemned}
    chosen = [one for one in _choose(survey, busy=False) if one.pack_id not in going]
    packs = survey.loaded.packs
    new = -(-sum(one.size for one in chosen) // PACK_TARGET) if chosen else 0
    pending = sum(packs[one] for one in going) + sum(packs[one.pack_id] - one.size for one in chosen)
    return replace(
        report,
        packs_merged=len(chosen),
        packs_written=new,
        objects_after=report.objects_before - len(going) - len(chosen) + new,
        packs_pending=len(going) + len(chosen),
        bytes_pending=max(0, pending),
    )


def _count(repository: Repository) -> int:
    return sum(1 for _ in repository.store.list(""))
