"""Taking packs away that no snapshot needs, while others write (docs/format.md, "Removing")."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final, Self

from holdfast_server.errors import DataLoss
from holdfast_server.repository.check_report import Damage
from holdfast_server.repository.copying import PackCopier, read_messages
from holdfast_server.repository.facts import Condemned, Fact, Swept
from holdfast_server.repository.format import SEALED_OBJECT_MAX, damaged, pack_name
from holdfast_server.repository.json_object import is_run_id
from holdfast_server.repository.log import LogWriter
from holdfast_server.repository.log_state import cut_log
from holdfast_server.repository.packs import PackRecord
from holdfast_server.repository.repository import Repository
from holdfast_server.repository.run_marks import RunMark
from holdfast_server.repository.runs import Run, RunKind, begin_run, has_ended, is_begun
from holdfast_server.repository.sessions import run_ended
from holdfast_server.repository.snapshots import Tombstone, end_run_as, read_run_end
from holdfast_server.repository.survey import Survey
from holdfast_server.storage.objects import ObjectMissing

__all__ = ["MaintenanceWatch", "Removal", "Sweep"]

#: A run that has not said for so long that it goes on is revoked.
SILENT_US: Final = 24 * 3_600_000_000
_RENEW_SECONDS: Final = 3600.0
#: Runs that are revoked by a tombstone; the others only read.
_BURIED: Final = (RunKind.BACKUP, RunKind.PRUNE, RunKind.COMPACT, RunKind.REPAIR)
#: Packs that one entry of the log tells of.
_PACKS_AT_ONCE: Final = 10_000


class MaintenanceWatch:
    """Whoever wants to know how the work goes on."""

    def check(self) -> None:
        """Called often; raises what shall stop the work."""

    def phase(self, name: str) -> None:
        """What follows: `packs`, `copying`, `deleting` or `indexes`."""

    def expect(self, size: int) -> None:
        """So many bytes will be copied."""

    def advance(self, size: int) -> None:
        """So many of them were."""

    def tell(self, text: str) -> None:
        """A line for people."""


@dataclass(slots=True)
class Sweep:
    """What was taken away, and what could not be yet. Sizes in bytes."""

    packs_deleted: int = 0
    packs_rescued: int = 0
    bytes_freed: int = 0
    packs_pending: int = 0
    bytes_pending: int = 0
    runs_waited_for: int = 0
    runs_revoked: int = 0
    damaged: list[Damage] = field(default_factory=list)


class Removal:
    """A run that removes packs. A context manager; what was condemned stays so when it is left, for the next to sweep.
    It may use the store's reserve.

    `survey` is what it knows; `vector` of the log grows with what it adds.
    """

    def __init__(
        self,
        repository: Repository,
        kind: RunKind,
        *,
        now: Callable[[], int],
        watch: MaintenanceWatch,
        marks: bytes | None,
        tolerant: bool = False,
    ) -> None:
        """Announces the run and takes a survey. Raises as `Survey.take`."""
        self._tolerant = tolerant
        self.repository = repository
        self.store, self.keys = repository.store, repository.index_keys
        self.watch = watch
        self.now = now
        self.swept = Sweep()
        #: Packs that were condemned since the survey, with the knowledge of it.
        self._fresh: set[bytes] = set()
        with ExitStack() as stack:
            stack.enter_context(self.store.use_reserve())
            self._mark = stack.enter_context(RunMark(marks))
            self._run = begin_run(
                self.store, self.keys, self._mark.run_id, kind, writer_id=repository.keys.writer.writer_id, now_us=now()
            )
            self._renew_at = time.monotonic() + _RENEW_SECONDS
            stack.push(self._end)
            watch.phase("packs")
            self.survey = Survey.take(repository, self.check, tolerant=tolerant)
            self.log = LogWriter(self.store, self.keys, repository.keys.writer, self.survey.log.vector)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _end(self, *_: object) -> None:
        self._run.end(self.store)
        self._mark.ended()

    def check(self) -> None:
        """Whether to go on; renews the run."""
        self.watch.check()
        if time.monotonic() >= self._renew_at:
            if not is_begun(self.store, self._run.run_id):
                raise run_ended(self._run.run_id)
            self._renew_at = time.monotonic() + _RENEW_SECONDS
            self._run = self._run.renew(self.store, self.keys, self.now())

    def others(self) -> list[str]:
        """The runs under way but for this one, those left out that were silent for too long: they are revoked, and of
        those that had ended what is left is taken away."""
        found = []
        for info in list(self.store.list("runs/")):
            run_id = info.name.removeprefix("runs/")
            if not is_run_id(run_id) or run_id == self._run.run_id:
                continue
            self.check()
            if not self._is_over(info.name, run_id, ended=has_ended(self.store, run_id)):
                found.append(run_id)
        return sorted(found)

    def _is_over(self, name: str, run_id: str, *, ended: bool) -> bool:
        try:
            run = Run.decode(name, self.keys.open(name, self.store.get(name, 0, SEALED_OBJECT_MAX + 1)))
        except ObjectMissing:
            return True
        except DataLoss as error:
            self.tell_damage(name, error)
            return ended
        if abs(self.now() - run.renew_us) <= SILENT_US:
            return ended
        if not ended:
            # It may sleep, and must find that it is over: before it commits, or takes anything away.
            if run.kind in _BURIED and end_run_as(self.store, self.keys, Tombstone(run_id)):
                self.survey.run_ids.add(run_id)
            self.watch.tell(f"run {run_id} ({run.kind.lower()}) was silent for more than a day and is revoked")
            self.swept.runs_revoked += 1
        run.end(self.store)
        return True

    def tell_damage(self, name: str, error: DataLoss) -> None:
        """Note an object that is damaged, and left as it is."""
        damage = Damage(name, str(error.metadata.get("detail", error.message)))
        if damage not in self.swept.damaged:
            self.swept.damaged.append(damage)
            self.watch.tell(f"{damage.object} is damaged and left alone: {damage.detail}")

    def add(self, fact: Fact) -> None:
        """Tell the log, durably, and the survey."""
        self.log.append([fact], self.now())
        self.survey.state.add(fact)

    def condemn(self, packs: Collection[bytes]) -> None:
        """Condemn packs of which nothing is needed that is not in packs which nobody has condemned."""
        for some in _batches(packs):
            self.add(Condemned(some))
            self._fresh.update(some)

    def renew_survey(self) -> None:
        """Look again at what there is, and what of it is needed."""
        self.survey = Survey.take(self.repository, self.check, tolerant=self._tolerant)
        self._fresh.clear()

    def condemn_own(self, records: Collection[PackRecord]) -> None:
        """Condemn packs that this run has put for nothing: others may have found them."""
        self.survey.loaded.packs.update((record.pack_id, record.size) for record in records)
        self.condemn([record.pack_id for record in records])

    def sweep(self) -> None:
        """Delete the condemned packs that no run waits for, and count in `swept` what was done, and what is left.

        Raises DataLoss/CHECKSUM_MISMATCH as `Survey.take`; then nothing was deleted.
        """
        others = self.others()
        ready = self._ready(others)
        if ready and self.survey.is_outdated(self.repository):
            self.renew_survey()
        if ready:
            self._require_alive()
        free, moved = self._rescue(sorted(ready & self.survey.condemned.keys()))
        if moved:
            # Who began before the copies were there reads what was rescued where it was.
            others = self.others()
            if others:
                free = [pack_id for pack_id in free if pack_id not in moved]
                for some in _batches(sorted(moved)):
                    self.add(Condemned(some, tuple(others)))
        if free:
            self.watch.phase("deleting")
        for some in _batches(free):
            for pack_id in some:
                self.check()
                self.store.delete(pack_name(pack_id))
                size = self.survey.loaded.packs.pop(pack_id, 0)
                self.swept.packs_deleted += 1
                self.swept.bytes_freed += size
            self.add(Swept(some))
        left = self.survey.condemned
        self.swept.packs_pending, self.swept.bytes_pending = len(left), sum(left.values())
        self.swept.runs_waited_for = len(others) if left else 0

    def _require_alive(self) -> None:
        """Whoever revokes this run may forget what others condemned while it was under way: from then on the survey
        proves nothing. What was condemned until now goes without harm later, too: nobody counts on it any more.

        Raises Aborted/RUN_ENDED.
        """
        if read_run_end(self.store, self.keys, self._run.run_id) is not None:
            raise run_ended(self._run.run_id)

    def tell_vanished(self) -> None:
        """Tell of packs that index objects list, that nobody has condemned and that are not there, if no snapshot
        needs them: a writer who was revoked, or an index object that came back, may name what was deleted and
        forgotten."""
        loaded = self.survey.loaded
        gone = loaded.missing.keys() - loaded.packs.keys()
        if gone and not self.survey.dangling and not self.survey.unknown:
            for some in _batches(sorted(gone)):
                self.add(Swept(some))

    def _ready(self, others: list[str]) -> set[bytes]:
        """The condemned packs that no run waits for; of the rest is told what they wait for."""
        condemned = self.survey.condemned
        ended: dict[str, bool] = {}
        if not others:
            return set(condemned)
        ready, unlooked = set(), []
        for pack_id in condemned:
            waits = self.survey.state.condemned.get(pack_id, [])
            for run_id in sorted({run_id for runs in waits for run_id in runs} - ended.keys()):
                ended[run_id] = has_ended(self.store, run_id)
            if any(all(ended[run_id] for run_id in runs) for runs in waits):
                ready.add(pack_id)
            elif not waits:
                unlooked.append(pack_id)
        for some in _batches(unlooked):
            self.add(Condemned(some, tuple(others)))
        return ready

    def _rescue(self, ready: list[bytes]) -> tuple[list[bytes], set[bytes]]:
        """Copy what is needed of packs, and is nowhere else, into a new one; gives the packs that may go now, and those
        that something was copied from: they are condemned anew."""
        survey, copier = self.survey, PackCopier(self.repository)
        rescued: set[bytes] = set()
        free = []
        moved = {pack_id for pack_id in ready if self._needed_of(pack_id)}
        for some in _batches(sorted(moved)):
            self.add(Condemned(some))
        for pack_id in ready:
            self.check()
            record = survey.loaded.condemned.get(pack_id)
            if pack_id in self._fresh:
                free.append(pack_id)  # what of it is needed has been copied, or is elsewhere
                continue
            if record is None and not survey.dangling and not survey.unknown:
                free.append(pack_id)  # whatever it held, no snapshot lacks anything
                continue
            if record is None:
                unread = damaged(pack_name(pack_id), "what it holds cannot be told")
                self.tell_damage(pack_name(pack_id), survey.loaded.unreadable.get(pack_id, unread))
                continue
            wanted = self._needed_of(pack_id) - rescued
            try:
                for chunk, message, small in read_messages(self.repository, record, wanted):
                    copier.add(record, chunk, message, small)
            except DataLoss as error:
                self.tell_damage(pack_name(pack_id), error)
                continue
            rescued |= wanted
            free.append(pack_id)
        if rescued:
            copier.finish()
            self.swept.packs_rescued += copier.packs_written
            self.watch.tell(f"{len(rescued)} chunks that are needed again were copied out of condemned packs")
        return free, moved

    def _needed_of(self, pack_id: bytes) -> set[bytes]:
        """The needed chunks of a pack that are in condemned packs only."""
        record = None if pack_id in self._fresh else self.survey.loaded.condemned.get(pack_id)
        return {chunk.chunk_id for chunk in record or () if self._is_only_here(chunk.chunk_id)}

    def _is_only_here(self, chunk_id: bytes) -> bool:
        """Whether a needed chunk is in condemned packs only."""
        number = self.survey.index.find(chunk_id)
        return number >= self.survey.safe and bool(self.survey.needed[number])

    def cut_log(self, others: list[str]) -> None:
        """Cut this node's chain, and forget packs of which nothing is left. `others` are runs under way: one of them
        may still list such a pack."""
        expendable = self.survey.state.expendable
        loaded = self.survey.loaded
        gone = () if others else expendable - loaded.packs.keys() - loaded.listed
        cut_log(self.repository, self.now(), gone=gone)


def _batches(packs: Collection[bytes]) -> Iterator[tuple[bytes, ...]]:
    order = tuple(packs)
    return (order[at : at + _PACKS_AT_ONCE] for at in range(0, len(order), _PACKS_AT_ONCE))
