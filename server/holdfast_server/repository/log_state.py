"""What the log says of a repository as it is now: its facts, added up in the order in which they count."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from holdfast_server.repository.config import FIRST_EPOCH
from holdfast_server.repository.facts import (
    Checkpoint,
    Committed,
    Condemned,
    Fact,
    KeyEpoch,
    KeyRemoved,
    Locked,
    Removed,
    Renamed,
    Swept,
    TimedFact,
)
from holdfast_server.repository.log import Log, LogReader, LogWriter

if TYPE_CHECKING:
    from holdfast_server.repository.repository import Repository

__all__ = ["LogState", "cut_log", "cut_long_log"]

#: Entries of a writer's own chain, from which on it is cut.
LONG_CHAIN: Final = 64
#: A run id that was removed is remembered beyond need, so that its snapshot is known again if it comes back.
_REMOVED_KEPT: Final = 4_096
#: A checkpoint is not written when its facts would fill more (JSON, before compression).
_CHECKPOINT_MAX: Final = 2 << 20


@dataclass(slots=True)
class LogState:
    """The sum of a log.

    `names` and `locks` are those of snapshots that were renamed, locked or unlocked since they were committed, by run
    id. `condemned` are packs that may go away, each with the runs that it was found to wait for (several looks) since
    it was condemned last; `swept` those of them that are gone, `set_aside` those that are damaged. `epochs` are the
    content keys from the second on. A slot in `removed_slots` counts no more.
    """

    committed: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    names: dict[str, str] = field(default_factory=dict)
    locks: dict[str, bool] = field(default_factory=dict)
    condemned: dict[bytes, list[tuple[str, ...]]] = field(default_factory=dict)
    swept: set[bytes] = field(default_factory=set)
    set_aside: set[bytes] = field(default_factory=set)
    epochs: dict[int, KeyEpoch] = field(default_factory=dict)
    removed_slots: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, log: Log) -> Self:
        state = cls()
        for _, fact in log.facts():
            state.add(fact)
        return state

    @property
    def epoch(self) -> int:
        """The present epoch of the content key."""
        return max(self.epochs, default=FIRST_EPOCH)

    @property
    def expendable(self) -> set[bytes]:
        """The packs that may go away, or have: one that a crash brought back counts no more than before."""
        return self.condemned.keys() | self.swept

    def add(self, fact: Fact) -> None:
        """Count one more fact, later than those before."""
        match fact:
            case Committed(run_id):
                self.committed.add(run_id)
            case Removed(run_ids):
                self.removed.update(run_ids)
            case Renamed(run_id, name):
                self.names[run_id] = name
            case Locked(run_id, locked):
                self.locks[run_id] = locked
            case Condemned(packs, runs, damaged):
                if damaged:
                    self.set_aside.update(packs)
                for pack_id in packs:
                    if runs is None:
                        self.condemned[pack_id] = []  # perhaps anew: then whoever is under way now is waited for
                    else:
                        self.condemned.setdefault(pack_id, []).append(runs)
            case Swept(packs):
                self.swept.update(packs)
            case KeyEpoch(epoch):
                # Of two with one number, which no writer makes on purpose, the one of the lower writer id counts.
                self.epochs.setdefault(epoch, fact)
            case KeyRemoved(slot_ids):
                self.removed_slots.update(slot_ids)


def cut_long_log(repository: Repository, log: Log, now_us: int) -> bool:
    """Cut this node's chain if it has become long; `log` is one that was read before. Gives whether it was cut."""
    chain = log.entries.get(repository.keys.writer.writer_id, ())
    return len(chain) >= LONG_CHAIN and cut_log(repository, now_us)


def cut_log(repository: Repository, now_us: int, *, gone: Collection[bytes] = ()) -> bool:
    """Replace this node's chain by a checkpoint; false when there is nothing to gain, or another process was faster.

    What the checkpoint replaces stays until the next one: a list of the log that is made while a chain is cut may show
    neither the new entry nor the old ones.
    `gone` are packs that are neither in the store nor in an index object, so that nobody asks for them any more.
    Raises DataLoss/CHECKSUM_MISMATCH for a log that is damaged, and the store's own errors.
    """
    store, keys, own = repository.store, repository.index_keys, repository.keys.writer
    log = LogReader(store, keys).read()
    chain = log.entries.get(own.writer_id, ())
    epochs = [fact for entry, fact in log.facts() if entry.writer_id == own.writer_id and isinstance(fact, KeyEpoch)]
    if not chain or (len(chain) < (3 if epochs else 2) and not gone):
        return False
    kept = tuple(_needed(log, own.writer_id, set(gone)))
    if sum(_size_of(one.fact) for one in kept) > _CHECKPOINT_MAX:
        return False
    writer = LogWriter(store, keys, own, log.vector)
    if writer.append_checkpoint(Checkpoint(kept), now_us, keep_from=chain[0].sequence) is None:
        return False
    if epochs:
        # Content keys are told twice, in two objects: nothing else gives them to the slots of a sealed repository.
        writer.append(_once(epochs), now_us)
    return True


def _needed(log: Log, own: bytes, gone: set[bytes]) -> Iterator[TimedFact]:
    """What must be kept of a writer's own facts, in their order."""
    state = LogState.of(log)
    elsewhere = _committed_by_others(log, own)
    mine = [
        one
        for entry in log.entries[own]
        for fact in entry.facts
        for one in (fact.facts if isinstance(fact, Checkpoint) else (TimedFact(entry.time_us, fact),))
    ]
    removed_left = _REMOVED_KEPT
    kept: list[TimedFact] = []
    told: set[tuple[type[Fact], str]] = set()
    # The newest first: of several names of one snapshot only the last is kept, of removed ids the latest.
    for one in reversed(mine):
        fact: Fact | None = one.fact
        match one.fact:
            case Committed(run_id):
                fact = None if run_id in state.removed else one.fact
            case Renamed(run_id) | Locked(run_id):
                known = (type(one.fact), run_id)
                fact = None if run_id in state.removed or known in told else one.fact
                told.add(known)
            case Removed(run_ids):
                ids = tuple(r for at, r in enumerate(run_ids) if at < removed_left or r in elsewhere)
                removed_left -= len(run_ids)
                fact = Removed(ids) if ids else None
            case Condemned(packs, runs, damaged):
                left = tuple(pack for pack in packs if pack not in state.swept and pack not in gone)
                fact = Condemned(left, runs, damaged) if left else None
            case Swept(packs):
                left = tuple(pack for pack in packs if pack not in gone)
                fact = Swept(left) if left else None
            case KeyEpoch(epoch):
                # Of several copies of one the earliest is kept, which is met last here.
                kept = [each for each in kept if not (isinstance(each.fact, KeyEpoch) and each.fact.epoch == epoch)]
            case _:
                pass
        if fact is not None:
            kept.append(TimedFact(one.time_us, fact))
    return reversed(kept)


def _once(epochs: Sequence[KeyEpoch]) -> list[KeyEpoch]:
    """Each epoch's first fact."""
    first: dict[int, KeyEpoch] = {}
    for fact in epochs:
        first.setdefault(fact.epoch, fact)
    return list(first.values())


def _committed_by_others(log: Log, own: bytes) -> set[str]:
    return {fact.run_id for entry, fact in log.facts() if entry.writer_id != own and isinstance(fact, Committed)}


def _size_of(fact: Fact) -> int:
    """About how many bytes of JSON a fact takes."""
    match fact:
        case Removed(run_ids):
            return 40 * len(run_ids) + 64
        case Condemned(packs) | Swept(packs):
            return 36 * len(packs) + 64
        case KeyEpoch(_, _, sealed):
            # It is hardly compressed, while an entry is measured as it is stored.
            return 3_000 * (len(sealed) + 1)
        case Renamed(_, name):
            return len(name) * 6 + 128
        case _:
            return 128
