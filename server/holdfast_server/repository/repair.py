"""Repairing: what can be made from what is left is made again, what is damaged is set aside, the rest is told.

A pack that is set aside is condemned after all that is whole in it was copied: backups take its chunks for unknown and
store those again that their source still has, which heals every snapshot that needs them. Until then it stays.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from holdfast_server.errors import Aborted, DataLoss, Reason
from holdfast_server.repository.check import check_repository
from holdfast_server.repository.check_report import BackupDamage, CheckLevel, CheckWatch, Damage
from holdfast_server.repository.content_keys import ContentKeys
from holdfast_server.repository.copying import PackCopier, read_messages
from holdfast_server.repository.facts import (
    Checkpoint,
    Committed,
    Condemned,
    Fact,
    Locked,
    Removed,
    Renamed,
    Superseded,
    TimedFact,
)
from holdfast_server.repository.format import SEALED_OBJECT_MAX, log_name, pack_name
from holdfast_server.repository.index import read_index, write_index
from holdfast_server.repository.json_object import is_run_id
from holdfast_server.repository.log import Log, LogReader, LogWriter
from holdfast_server.repository.log_state import LogState
from holdfast_server.repository.packs import PackRecord, read_directory
from holdfast_server.repository.removal import MaintenanceWatch, Removal
from holdfast_server.repository.repository import Repository
from holdfast_server.repository.runs import Run, RunKind, has_ended
from holdfast_server.repository.sessions import remove_snapshots
from holdfast_server.repository.snapshots import Snapshot, Tombstone, end_run_as, read_run_end, snapshot_ids
from holdfast_server.repository.survey import Survey
from holdfast_server.storage.objects import ObjectMissing

__all__ = ["KnownBackup", "RepairReport", "repair_repository"]

_REMOVERS: Final = (RunKind.PRUNE, RunKind.COMPACT, RunKind.REPAIR)


@dataclass(frozen=True, slots=True)
class KnownBackup:
    """What somebody beside the repository knows of a backup in it: its present name and lock."""

    name: str
    locked: bool


@dataclass(slots=True)
class RepairReport:
    """What was found and done; of a dry run what would be done.

    `indexes_rebuilt` are index objects that could not be read, or were missing; `packs_adopted` packs that are listed
    again; `packs_set_aside` damaged or missing packs; `chunks_lost` are needed by snapshots and whole nowhere: a backup
    of a source that still has them heals them. `log_mended`: entries were damaged, and what they told is told again
    as far as it is known. `config_restored`: the caller put the config back before. `damaged` is
    everything that was found, `backups_damaged` what it means for backups now.
    """

    indexes_rebuilt: int = 0
    packs_adopted: int = 0
    packs_set_aside: int = 0
    chunks_lost: int = 0
    runs_ended: int = 0
    backups_given_up: int = 0
    log_mended: bool = False
    config_restored: bool = False
    damaged: list[Damage] = field(default_factory=list)
    backups_damaged: list[BackupDamage] = field(default_factory=list)


def repair_repository(
    repository: Repository,
    *,
    now: Callable[[], int],
    watch: MaintenanceWatch,
    check_watch: CheckWatch | None = None,
    content: ContentKeys | None = None,
    known: Mapping[str, KnownBackup] | None = None,
    lost: Collection[str] = (),
    marks: bytes | None = None,
    dry_run: bool = False,
) -> RepairReport:
    """Read every byte, and mend what can be mended. `content` opens names: without it lost chunks are counted only.

    `known` are the backups that the service knows, by run id. `lost` are runs whose snapshots are gone for good: they
    are given up, unless they are there. `check_watch` is told how the reading goes on. May be
    stopped at any time and called again. Nothing that any snapshot may need is deleted.

    Raises Aborted/REPOSITORY_BUSY when the log is to be mended while another service prunes, compacts or repairs, and
    the store's own errors.
    """
    with repository.store.use_reserve():
        found = check_repository(
            repository.store, repository.keys, CheckLevel.READ_DATA if content else CheckLevel.CHECKSUM, now=now,
            marks=marks, fingerprint=repository.fingerprint, content=content, known_backups=list(known or ()),
            watch=check_watch,
        )  # fmt: skip
        report = RepairReport(damaged=found.damaged, backups_damaged=found.backups_damaged)
        bad_packs = {
            bytes.fromhex(one.object.removeprefix("packs/"))
            for one in report.damaged
            if one.object.startswith("packs/")
        }
        if dry_run:
            _foresee(repository, report, bad_packs, lost, watch.check)
            return report
        report.log_mended = _mend_log(repository, known or {}, now, watch)
        with Removal(repository, RunKind.REPAIR, now=now, watch=watch, marks=marks, tolerant=True) as removal:
            report.runs_ended = _end_damaged_runs(removal)
            report.backups_given_up = _give_up(removal, lost)
            _rebuild_indexes(removal, report)
            if bad_packs:
                report.packs_set_aside = _set_aside(removal, bad_packs)
                removal.renew_survey()
                removal.sweep()
            report.chunks_lost = _count_lost(removal.survey, bad_packs)
        return report


def _mend_log(
    repository: Repository, known: Mapping[str, KnownBackup], now: Callable[[], int], watch: MaintenanceWatch
) -> bool:
    """Tell again what damaged entries told, as far as it is known; false when there are none."""
    store, keys, own = repository.store, repository.index_keys, repository.keys.writer
    reader = LogReader(store, keys)
    log = reader.salvage()
    for name in (replaced := _unreadable_replaced(reader, log)):
        store.delete(name)
        watch.tell(f"{name} was damaged and not needed any more, and was taken away")
    if not log.broken:
        return bool(replaced)
    _require_alone(repository)
    for writer_id in log.broken:
        for name in _made_up(reader, writer_id):
            store.delete(name)
            watch.tell(f"{name} was no entry of the log, and was taken away")
    log = reader.salvage()
    if not log.broken:
        return True
    # Who prunes would take packs away that are condemned by an entry which is lost: nobody does, see above.
    writer = LogWriter(store, keys, own, log.vector)
    told = list(_readable_facts(repository, log))
    state = LogState()
    for one in sorted([*told, *_other_facts(log)], key=lambda one: one.time_us):
        state.add(one.fact)
    told += _restated(repository, known, state, now())
    others = sorted(log.broken.keys() - {own.writer_id})
    told += [TimedFact(now(), Superseded(broken, log.vector[broken].sequence)) for broken in others]
    if writer.append_checkpoint(Checkpoint(tuple(told)), now()) is None:
        raise _busy("another process of this service has added to the log")
    watch.tell(f"the log was damaged at {len(log.broken)} places; what it told is told again as far as it is known")
    return True


def _require_alone(repository: Repository) -> None:
    store, keys = repository.store, repository.index_keys
    for info in list(store.list("runs/")):
        run_id = info.name.removeprefix("runs/")
        if not is_run_id(run_id) or has_ended(store, run_id):
            continue
        try:
            run = Run.decode(info.name, keys.open(info.name, store.get(info.name, 0, SEALED_OBJECT_MAX + 1)))
        except (ObjectMissing, DataLoss):
            continue  # a damaged one is ended next
        if run.kind in _REMOVERS:
            raise _busy(f"run {run_id} ({run.kind.lower()}) is under way")


def _made_up(reader: LogReader, writer_id: bytes) -> list[str]:
    """Objects behind the newest entry of a writer that cannot be its next ones: they open for nobody, and there is a
    gap before them. With them nobody could go on."""
    names: list[int] = []
    sequences = reader.sequences(writer_id)
    for sequence in reversed(sequences):
        try:
            reader.entry(writer_id, sequence)
        except DataLoss:
            names.append(sequence)
        else:
            break
    first = next((at for at in sorted(names) if at - 1 not in sequences and at > 1), None)
    return [log_name(writer_id, at) for at in names if first is not None and at >= first]


def _unreadable_replaced(reader: LogReader, log: Log) -> list[str]:
    """The entries that nobody can read, of those that a checkpoint has replaced."""
    found = []
    for writer_id, chain in log.entries.items():
        if chain and chain[0].is_checkpoint and writer_id not in log.broken:
            for sequence in reader.sequences(writer_id):
                try:
                    if sequence < chain[0].sequence:
                        reader.entry(writer_id, sequence)
                except DataLoss:
                    found.append(log_name(writer_id, sequence))
    return found


def _readable_facts(repository: Repository, log: Log) -> Iterator[TimedFact]:
    """The facts of all entries of the own chain and of broken ones that can be read, each by itself."""
    reader = LogReader(repository.store, repository.index_keys)
    for writer in sorted({repository.keys.writer.writer_id, *log.broken}):
        for sequence in reader.sequences(writer):
            try:
                entry = reader.entry(writer, sequence)
            except DataLoss:
                continue
            for fact in entry.facts:
                yield from fact.facts if isinstance(fact, Checkpoint) else (TimedFact(entry.time_us, fact),)


def _other_facts(log: Log) -> Iterator[TimedFact]:
    """The facts of chains that are whole."""
    return (TimedFact(entry.time_us, fact) for entry, fact in log.facts() if entry.writer_id not in log.broken)


def _restated(
    repository: Repository, known: Mapping[str, KnownBackup], state: LogState, now_us: int
) -> Iterator[TimedFact]:
    """What the snapshots themselves, and those who know them, tell."""
    store, keys = repository.store, repository.index_keys
    present = set(snapshot_ids(store))
    # What is neither here nor known was removed on purpose, by an entry that is lost.
    gone = [run_id for run_id in state.committed - state.removed if run_id not in present and run_id not in known]
    if gone:
        yield TimedFact(now_us, Removed(tuple(sorted(gone))))
    for run_id in sorted(present - state.removed):
        try:
            end = read_run_end(store, keys, run_id)
        except DataLoss:
            end = None
        if isinstance(end, Tombstone):
            continue
        if run_id not in state.committed:
            yield TimedFact(now_us, Committed(run_id))
        told = known.get(run_id)
        if told is not None and isinstance(end, Snapshot):
            facts: list[Fact] = []
            if told.name != state.names.get(run_id, end.name):
                facts.append(Renamed(run_id, told.name))
            if told.locked != state.locks.get(run_id, end.locked):
                facts.append(Locked(run_id, told.locked))
            yield from (TimedFact(now_us, fact) for fact in facts)


def _give_up(removal: Removal, lost: Collection[str]) -> int:
    """Tell the log that snapshots which are not there are gone on purpose; gives how many."""
    gone = _missed(removal.repository, removal.survey, lost)
    for run_id in sorted(set(lost) - set(gone)):
        removal.watch.tell(f"backup {run_id} is not given up: it is there, or nobody misses it")
    remove_snapshots(removal.repository, gone, removal.now(), removal.check)
    return len(gone)


def _missed(repository: Repository, survey: Survey, lost: Collection[str]) -> list[str]:
    """Those of the runs that have committed, were not removed, and have no object."""
    present, state = set(snapshot_ids(repository.store)), survey.state
    return sorted((set(lost) & state.committed) - state.removed - present)


def _end_damaged_runs(removal: Removal) -> int:
    """End the runs whose objects cannot be read: they would be waited for without end. A backup that is alive fails,
    and is tried again."""
    store, keys, ended = removal.store, removal.keys, 0
    for info in list(store.list("runs/")):
        run_id = info.name.removeprefix("runs/")
        if not is_run_id(run_id):
            continue
        try:
            Run.decode(info.name, keys.open(info.name, store.get(info.name, 0, SEALED_OBJECT_MAX + 1)))
        except ObjectMissing:
            continue
        except DataLoss:
            if end_run_as(store, keys, Tombstone(run_id)):
                removal.survey.run_ids.add(run_id)
            store.delete(info.name)
            ended += 1
    return ended


def _rebuild_indexes(removal: Removal, report: RepairReport) -> None:
    """List the packs again that only a damaged index object listed, or none, and take that object away."""
    loaded = removal.survey.loaded
    if loaded.damaged or (loaded.adopted and not removal.others()):
        removal.watch.phase("indexes")
        written, _ = write_index(removal.store, removal.keys, loaded.adopted)
        report.packs_adopted = len(loaded.adopted)
        report.indexes_rebuilt = max(len(loaded.damaged), len(written))
    for name in loaded.damaged:
        removal.check()
        removal.store.delete(name)


def _set_aside(removal: Removal, bad_packs: set[bytes]) -> int:
    """Copy what is whole and needed out of damaged packs, and condemn them; gives how many."""
    copier = PackCopier(removal.repository)
    copied: set[bytes] = set()
    records = _records_of(removal, bad_packs)
    removal.watch.phase("copying")
    removal.watch.expect(sum(record.size for record in records.values()))
    for pack_id, record in records.items():
        wanted = {chunk.chunk_id for chunk in record if _is_needed(removal.survey, chunk.chunk_id)} - copied
        for chunk_id in wanted:
            removal.check()
            try:
                ((chunk, message, small),) = read_messages(removal.repository, record, {chunk_id})
            except (DataLoss, ValueError):
                continue
            copier.add(record, chunk, message, small)
            copied.add(chunk_id)
        removal.watch.advance(record.size)
        removal.watch.tell(f"{pack_name(pack_id)} is set aside")
    copier.finish()
    aside = sorted(bad_packs - removal.survey.state.expendable)
    if aside:
        removal.add(Condemned(tuple(aside), damaged=True))
    return len(aside)


def _records_of(removal: Removal, bad_packs: set[bytes]) -> dict[bytes, PackRecord]:
    """What damaged packs held: as index objects say, or they themselves."""
    found: dict[bytes, PackRecord] = {}
    for _, records in read_index(removal.store, removal.keys, removal.check, lambda _name, _error: None):
        found |= {record.pack_id: record for record in records if record.pack_id in bad_packs}
    for pack_id in bad_packs - found.keys():
        try:
            found[pack_id] = read_directory(
                removal.store, removal.keys, pack_id, removal.store.size(pack_name(pack_id))
            )
        except (ObjectMissing, DataLoss):
            continue
    return found


def _is_needed(survey: Survey, chunk_id: bytes) -> bool:
    number = survey.index.find(chunk_id)
    return chunk_id in survey.dangling or (number >= 0 and bool(survey.needed[number])) or bool(survey.unknown)


def _count_lost(survey: Survey, bad_packs: set[bytes]) -> int:
    """Chunks that are needed and whole nowhere."""
    index = survey.index
    aside = sum(
        1
        for number in range(survey.safe, len(index))
        if survey.needed[number] and all(pack_id in bad_packs for pack_id, _, _ in index.locations(number))
    )
    return aside + len(survey.dangling)


def _foresee(
    repository: Repository,
    report: RepairReport,
    bad_packs: set[bytes],
    lost: Collection[str],
    check: Callable[[], None],
) -> None:
    survey = Survey.take(repository, check, tolerant=True)
    report.backups_given_up = len(_missed(repository, survey, lost))
    reader = LogReader(repository.store, repository.index_keys)
    report.log_mended = bool(survey.log.broken or _unreadable_replaced(reader, survey.log))
    report.packs_set_aside = len(bad_packs - survey.state.expendable)
    report.packs_adopted = len(survey.loaded.adopted)
    report.indexes_rebuilt = max(len(survey.loaded.damaged), int(bool(survey.loaded.adopted)))
    report.chunks_lost = sum(damage.chunks for damage in report.backups_damaged)


def _busy(why: str) -> Aborted:
    return Aborted(Reason.REPOSITORY_BUSY, f"the log cannot be mended now: {why}", metadata={"detail": why})
