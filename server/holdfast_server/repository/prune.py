"""Pruning: packs of which no snapshot needs anything are condemned, and deleted once no run can need them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from holdfast_server.repository.format import snapshot_name
from holdfast_server.repository.removal import MaintenanceWatch, Removal, Sweep
from holdfast_server.repository.repository import Repository
from holdfast_server.repository.runs import RunKind
from holdfast_server.repository.survey import Survey
from holdfast_server.repository.waste import write_note

__all__ = ["PruneReport", "prune_repository"]


@dataclass(slots=True)
class PruneReport(Sweep):
    """`packs_condemned` are those of this call; what could not be deleted yet is pending. Of a dry run everything that
    would be condemned is pending, and nothing else is told."""

    packs_condemned: int = 0


def prune_repository(
    repository: Repository,
    *,
    now: Callable[[], int],
    watch: MaintenanceWatch,
    marks: bytes | None = None,
    caches: bytes | None = None,
    dry_run: bool = False,
    without: Collection[str] = (),
) -> PruneReport:
    """Free what no snapshot needs, as far as runs under way allow; the rest is left to the next call.

    `marks` is the folder where this node marks its runs (`run_marks`), `caches` that of its caches of the repository,
    where its backups find which chunks are hardly needed any more. Needs no content key. May be stopped at any time
    (`watch.check`) and called again. `without` goes with `dry_run`: runs whose snapshots are to be removed before.

    Raises DataLoss/CHECKSUM_MISMATCH before anything is removed when log, snapshots or their lists cannot be read, and
    the store's own errors.
    """
    if dry_run:
        watch.phase("packs")
        return _foresee(Survey.take(repository, watch.check, without=frozenset(without)), repository)
    with Removal(repository, RunKind.PRUNE, now=now, watch=watch, marks=marks) as removal:
        others = removal.others()
        for run_id in removal.survey.returned:
            repository.store.delete(snapshot_name(run_id))
        condemned = removal.survey.unneeded_packs(repository, busy=bool(others))
        removal.condemn(condemned)
        removal.sweep()
        removal.tell_vanished()
        if caches is not None:
            write_note(caches, removal.survey.hardly_needed())
        removal.cut_log(removal.others())
        swept = removal.swept
    return PruneReport(packs_condemned=len(condemned), **{name: getattr(swept, name) for name in swept.__slots__})


def _foresee(survey: Survey, repository: Repository) -> PruneReport:
    pending = {*survey.unneeded_packs(repository, busy=False), *survey.condemned}
    sizes = survey.loaded.packs
    return PruneReport(
        packs_condemned=len(pending), packs_pending=len(pending), bytes_pending=sum(sizes[one] for one in pending)
    )
