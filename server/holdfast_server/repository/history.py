"""All that a repository tells of its backups to whoever does not know it: its snapshots, and what the log adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from holdfast_server.errors import DataLoss
from holdfast_server.repository.config import FIRST_EPOCH
from holdfast_server.repository.log import LogHead, LogReader, LogVector
from holdfast_server.repository.log_state import LogState
from holdfast_server.repository.repository import Repository
from holdfast_server.repository.snapshots import Snapshot, snapshot_ids

__all__ = ["DamagedSnapshot", "History", "read_history"]


@dataclass(frozen=True, slots=True)
class DamagedSnapshot:
    """A snapshot object that cannot be read, and the last name that the log tells, if it does."""

    run_id: str
    name: str | None
    error: DataLoss


@dataclass(frozen=True, slots=True)
class History:
    """What is there. `snapshots` have their present names and locks, as far as the log can be read: what is damaged of
    it is told in `log_damage`. Then a name may be an older one, and a snapshot that was removed and came back be among
    them.

    `missing` are snapshots that were committed, not removed, and are not there. `vector` is the newest log entry of
    each writer whose chain is whole; `behind` those that entries tell of and that are not there. `key_epoch` is the
    newest content key's; slots in `removed_slots` count no more.
    """

    snapshots: list[Snapshot]
    damaged: list[DamagedSnapshot]
    missing: list[str]
    vector: LogVector
    behind: dict[bytes, LogHead]
    key_epoch: int
    removed_slots: frozenset[str]
    log_damage: list[DataLoss]


def read_history(repository: Repository, check: Callable[[], None]) -> History:
    """Read the log, then each snapshot, by time. `check` is called between objects and may raise.

    What is damaged is told in what is given; raises what the store raises.
    """
    log = LogReader(repository.store, repository.index_keys).salvage()
    told = LogState.of(log)
    snapshots: list[Snapshot] = []
    damaged: list[DamagedSnapshot] = []
    present: set[str] = set()
    for run_id in sorted(snapshot_ids(repository.store)):
        check()
        if run_id in told.removed:
            continue
        try:
            snapshot = repository.snapshot(run_id)
        except DataLoss as error:
            damaged.append(DamagedSnapshot(run_id, told.names.get(run_id), error))
            present.add(run_id)
            continue
        # A tombstone is none: that of a run that committed was made by who was not shown its snapshot.
        if snapshot is not None:
            present.add(run_id)
            name, locked = told.names.get(run_id, snapshot.name), told.locks.get(run_id, snapshot.locked)
            snapshots.append(replace(snapshot, name=name, locked=locked))
    return History(
        snapshots=sorted(snapshots, key=lambda one: (one.create_us, one.run_id)),
        damaged=damaged,
        missing=sorted(told.committed - told.removed - present),
        # An entry that cannot be read is not pinned: it may be put back as it was.
        vector=LogVector({writer: head for writer, head in log.vector.items() if writer not in log.broken}),
        behind={writer: log.seen[writer] for writer in log.vector.behind(log.seen) if writer not in log.broken},
        key_epoch=max(told.epochs, default=FIRST_EPOCH),
        removed_slots=frozenset(told.removed_slots),
        log_damage=list(log.broken.values()),
    )
