"""Checking a repository, or one of its snapshots, and naming exactly what is lost (docs/api.md, "Checking").

Whatever comes and goes meanwhile is no damage: snapshots are listed first, and whatever a visible snapshot needs was
there before it; what is put later is not looked for. A check is a run itself, so that nothing it needs is deleted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from holdfast_server.errors import DataLoss
from holdfast_server.repository.check_objects import (
    check_config,
    check_log,
    check_runs,
    check_slots,
    check_snapshot_object,
)
from holdfast_server.repository.check_packs import ChunkStates, PackCheck, choose_packs
from holdfast_server.repository.check_report import (
    BackupDamage,
    CheckLevel,
    CheckReport,
    CheckWatch,
    CountedReads,
    Damage,
    Findings,
)
from holdfast_server.repository.check_snapshots import ListCheck, TreeCheck, listed_chunks
from holdfast_server.repository.content_keys import ContentKeys, key_required
from holdfast_server.repository.crypto import IndexKeys
from holdfast_server.repository.fetching import ChunkSource
from holdfast_server.repository.format import snapshot_name
from holdfast_server.repository.index import load_index
from holdfast_server.repository.keys import RepositoryKeys
from holdfast_server.repository.log import LogHead
from holdfast_server.repository.log_state import LogState
from holdfast_server.repository.run_marks import RunMark
from holdfast_server.repository.runs import RunKind, begin_run
from holdfast_server.repository.snapshots import Snapshot, read_run_end, snapshot_ids
from holdfast_server.storage.objects import ObjectMissing, ObjectStore

__all__ = [
    "BackupDamage",
    "CheckLevel",
    "CheckReport",
    "CheckWatch",
    "Damage",
    "check_repository",
    "check_snapshot",
]

_RENEW_SECONDS: Final = 3600.0
_FIRST_EPOCH: Final = 1


def check_repository(
    store: ObjectStore,
    keys: RepositoryKeys,
    level: CheckLevel,
    *,
    now: Callable[[], int],
    marks: bytes | None = None,
    fingerprint: bytes | None = None,
    content: ContentKeys | None = None,
    percent: float = 100.0,
    cursor: str = "",
    known_backups: Collection[str] = (),
    known_log: Mapping[bytes, LogHead] | None = None,
    watch: CheckWatch | None = None,
) -> CheckReport:
    """Check all objects, and above STRUCTURE every byte of `percent` of the packs' bytes.

    `marks` is the folder where this node marks its runs (`run_marks`). `cursor` is where the last check of a part
    stopped. `fingerprint` is that of the config seen before; `known_backups` are run ids that must be there unless the
    log says that they were removed; `known_log` are the newest log entries ever seen. `content` opens names and
    content: needed for READ_DATA, ignored below.

    Damage is reported, never raised. Raises FailedPrecondition/KEY_REQUIRED for READ_DATA without the content keys of
    every epoch, FailedPrecondition for another repository or version, what `watch.check` raises, and the store's own
    errors.
    """
    content = _require_keys(level, content)
    report, watch = CheckReport(level), watch or CheckWatch()
    index_keys = IndexKeys(keys.index_key, keys.uuid)
    with _run(store, index_keys, keys, marks, RunKind.CHECK, watch.check, now) as check:
        reads, findings = CountedReads(store, check), Findings(report, watch, check)
        watch.phase("objects")
        sealed = check_config(reads, keys, fingerprint, findings)
        run_ids = sorted(snapshot_ids(store))
        facts = check_log(reads, index_keys, known_log or {}, findings)
        check_slots(reads, index_keys, sealed=bool(sealed), findings=findings, removed=facts.removed_slots)
        check_runs(reads, index_keys, findings)
        watch.phase("packs")
        packs = PackCheck(reads, index_keys, facts.expendable, findings)
        packs.structure()
        states = ChunkStates(packs.index)
        report.packs, report.chunks = len(packs.sizes), len(packs.index)
        if level > CheckLevel.STRUCTURE:
            report.packs = report.chunks = 0
            _read_packs(packs, states, content, percent, cursor, findings)
        watch.phase("snapshots")
        source = ChunkSource(reads, index_keys, content, packs.index)
        wanted = {*facts.committed, *known_backups} - facts.removed
        found = _check_snapshots(reads, index_keys, run_ids, facts.removed, source, states, content, findings)
        _find_missing(reads, index_keys, wanted - found, findings)
        _forget_removed(store, run_ids, findings)
        report.bytes = reads.bytes
    return report


def check_snapshot(
    store: ObjectStore,
    keys: RepositoryKeys,
    run_id: str,
    level: CheckLevel,
    *,
    now: Callable[[], int],
    marks: bytes | None = None,
    content: ContentKeys | None = None,
    watch: CheckWatch | None = None,
) -> CheckReport:
    """Check what one snapshot needs: its object, its list and chunks, and with READ_DATA the content of every file.

    Otherwise as `check_repository`. A snapshot that is not there is damage.
    """
    content = _require_keys(level, content)
    report, watch = CheckReport(level), watch or CheckWatch()
    index_keys = IndexKeys(keys.index_key, keys.uuid)
    with _run(store, index_keys, keys, marks, RunKind.VERIFY, watch.check, now) as check:
        reads, findings = CountedReads(store, check), Findings(report, watch, check)
        watch.phase("objects")
        snapshot = check_snapshot_object(reads, index_keys, run_id, findings)
        if not isinstance(snapshot, Snapshot):
            findings.damage(snapshot_name(run_id), "there is no snapshot")
            findings.backup(run_id).whole = True
            return report
        report.backups = 1
        watch.phase("packs")
        # A damaged index object takes nothing from this snapshot: packs are found by their directories then.
        loaded = load_index(reads, index_keys, keep_keys=True, check=check)
        states = ChunkStates(loaded.chunks)
        source = ChunkSource(reads, index_keys, content, loaded.chunks)
        if level is CheckLevel.CHECKSUM:
            watch.phase("data")
            _read_chunks(snapshot, source, states, findings)
        watch.phase("snapshots")
        if content is not None:
            TreeCheck(index_keys, source, states, findings, read_files=True).check(snapshot)
        ListCheck(source.fetch, states, findings).check(snapshot)
        report.chunks = snapshot.list.chunks
        report.percent = 100.0 if level > CheckLevel.STRUCTURE else 0.0
        report.bytes = reads.bytes
    return report


def _require_keys(level: CheckLevel, content: ContentKeys | None) -> ContentKeys | None:
    if level < CheckLevel.READ_DATA:
        return None
    if content is None:
        raise key_required(_FIRST_EPOCH)
    return content


@contextmanager
def _run(
    store: ObjectStore,
    index_keys: IndexKeys,
    keys: RepositoryKeys,
    marks: bytes | None,
    kind: RunKind,
    asked: Callable[[], None],
    now: Callable[[], int],
) -> Iterator[Callable[[], None]]:
    """Announces a run, for a config that is damaged, too; gives what is to be called often."""
    with RunMark(marks) as mark:
        run = begin_run(store, index_keys, mark.run_id, kind, writer_id=keys.writer.writer_id, now_us=now())
        renew_at = time.monotonic() + _RENEW_SECONDS

        def check() -> None:
            nonlocal run, renew_at
            asked()
            if time.monotonic() >= renew_at:
                renew_at = time.monotonic() + _RENEW_SECONDS
                run = run.renew(store, index_keys, now())

        try:
            yield check
        finally:
            run.end(store)
            mark.ended()


def _read_packs(
    packs: PackCheck,
    states: ChunkStates,
    content: ContentKeys | None,
    percent: float,
    cursor: str,
    findings: Findings,
) -> None:
    report = findings.report
    chosen, report.cursor = choose_packs(packs.sizes, percent, cursor)
    findings.watch.phase("data")
    findings.watch.expect(sum(packs.sizes[pack_id] for pack_id in chosen))
    size = packs.read(chosen, content, states)
    total = sum(packs.sizes.values())
    report.percent = min(100.0, 100.0 * size / total) if total else 100.0


def _check_snapshots(
    store: ObjectStore,
    keys: IndexKeys,
    run_ids: list[str],
    removed: Collection[str],
    source: ChunkSource,
    states: ChunkStates,
    content: ContentKeys | None,
    findings: Findings,
) -> set[str]:
    """Gives the runs that have a snapshot, or an object that may have been one."""
    found = set(run_ids)
    trees = TreeCheck(keys, source, states, findings, read_files=False)
    lists = ListCheck(source.fetch, states, findings)
    for run_id in run_ids:
        findings.check()
        snapshot = check_snapshot_object(store, keys, run_id, findings)
        if run_id in removed:
            # On its way out, or brought back by a crash: what it needs may be gone.
            findings.forget_backup(run_id)
            continue
        if not isinstance(snapshot, Snapshot):
            if snapshot is not None:
                found.remove(run_id)
            continue
        findings.report.backups += 1
        # The tree first: it may find chunks lost in packs that were not to be read.
        if content is not None:
            trees.check(snapshot)
        lists.check(snapshot)
    return found


def _read_chunks(snapshot: Snapshot, source: ChunkSource, states: ChunkStates, findings: Findings) -> None:
    """Compare every byte of the listed chunks with what was stored."""
    index, wanted = states.index, bytearray(len(states.index))
    try:
        for _, _, number in listed_chunks(source.fetch, snapshot.list, states):
            if number >= 0:
                wanted[number] = 1
    except DataLoss:
        pass  # the page is told of by whoever counts what is lost
    findings.watch.expect(sum(index.location(number)[2].length for number in range(len(wanted)) if wanted[number]))
    # In the order of numbers, which is that of the packs and of their bytes.
    for number in range(len(wanted)):
        if not wanted[number]:
            continue
        for pack_id, _, record in index.locations(number):
            try:
                findings.watch.advance(len(source.message(record.kind, record.chunk_id, pack_id, record)))
            except DataLoss as error:
                findings.chunk(error)
            else:
                break
        else:
            states.lose(index.chunk_id(number))


def _find_missing(store: ObjectStore, keys: IndexKeys, run_ids: Collection[str], findings: Findings) -> None:
    """Tell of snapshots that were committed, were not removed on purpose, and are not there."""
    missing = {run_id: why for run_id in sorted(run_ids) if (why := _why_missing(store, keys, run_id))}
    if not missing:
        return
    # One may have been removed since the log was read.
    facts = _log_now(store, keys, findings)
    for run_id, why in missing.items():
        if run_id not in facts.removed:
            findings.damage(snapshot_name(run_id), f"it was committed and {why}")
            findings.backup(run_id).whole = True


def _why_missing(store: ObjectStore, keys: IndexKeys, run_id: str) -> str:
    """Why there is no snapshot of a run; empty if there is one, or something that may have been one."""
    try:
        end = read_run_end(store, keys, run_id)
    except DataLoss:
        return ""
    if end is None:
        return "is gone"
    return "" if isinstance(end, Snapshot) else "says now that it never was"


def _log_now(store: ObjectStore, keys: IndexKeys, findings: Findings) -> LogState:
    return check_log(store, keys, {}, Findings(CheckReport(findings.report.level), CheckWatch(), findings.check))


def _forget_removed(store: ObjectStore, run_ids: list[str], findings: Findings) -> None:
    """What was there at first and has gone since was removed by somebody who was free to do so."""
    present = set(run_ids)
    for damage in list(findings.report.backups_damaged):
        if damage.run_id in present and not _is_there(store, damage.run_id):
            findings.forget_backup(damage.run_id)


def _is_there(store: ObjectStore, run_id: str) -> bool:
    try:
        store.size(snapshot_name(run_id))
    except ObjectMissing:
        return False
    return True
