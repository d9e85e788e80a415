"""Writers, pruners and readers of one repository, interleaved, and what must be true of it at all times.

The actors run the code of the service; of a backup only the walk of a folder is left out. What is asked of them: a
snapshot that can be seen and was not removed is whole; one whose commit was acknowledged is there until somebody
removes it; whoever reads gets the right content, and no error unless his run was revoked; and when all has ended,
nothing is left that nobody needs.
"""

from __future__ import annotations

import random
import traceback
import uuid
from functools import partial

from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.repository import (
    CheckLevel,
    CheckReport,
    Hole,
    MaintenanceWatch,
    ReadingRun,
    Repository,
    RunKind,
    Snapshot,
    check_repository,
    compact_repository,
    end_dead_runs,
    end_reading_run,
    prune_repository,
    remove_snapshots,
    take_back_run,
)
from holdfast_server.storage.objects import ObjectStore
from tests.interleaving import DAY, HOUR, Actor, Crashed, Faults, SteppedObjects, Steps
from tests.interleaving_oracle import Oracle
from tests.interleaving_stage import CONTENTS, START_US, Files, Node, Stage, back_up

__all__ = ["Interleaving", "Stage"]

#: One interleaving in so many ends with a check of the whole repository.
CHECKED = 4
#: How often a process is started again.
LIVES = 4


class Interleaving:
    """One interleaving, told whole by its seed: who does what, what befalls whom, and who goes on when."""

    def __init__(self, stage: Stage, seed: int) -> None:
        stage.seed(seed)
        stage.clear()
        self.stage, self.seed = stage, seed
        draw = random.Random(f"plan {seed}")
        objects, files = draw.choice(stage.stock)
        tick = draw.choice((1, 1, 1_000_000, 600_000_000))
        self.steps = Steps(
            seed, dict(objects), switch=draw.choice((0.02, 0.1, 0.3)), tick_us=tick, start_us=START_US + HOUR
        )
        self.draw = self.steps.draw
        self.oracle = Oracle(self.steps, stage, dict(files), committed={*files})
        self.steps.on_freeze = self._succeed
        #: What a writer that stands still was about.
        self._tasks: dict[Actor, tuple[Node, str, list[tuple[str, Files]]]] = {}
        self._cast(draw)

    @property
    def trace(self) -> str:
        return "\n".join(f"{at:5} {' '.join(one)}" for at, one in enumerate(self.steps.trace))

    def run(self) -> str:
        """What went wrong, or nothing."""
        self.stage.time.steps = self.steps
        try:
            self.steps.run()
            if not self.steps.failure:
                self._end()
        finally:
            self.stage.time.steps = None
        return self.steps.failure

    # -- the plan -------------------------------------------------------------------------------------------------

    def _cast(self, draw: random.Random) -> None:
        first, second = self.stage.nodes
        other = draw.choice((first, second))
        for number, node in enumerate((first, other)):
            plans = [(str(uuid.uuid4()), self._files()) for _ in range(draw.choice((1, 1, 2)))]
            self._start_writer(f"writer{number}", node, f"source{number}", plans)
        rounds = draw.choice((1, 1, 2))
        for number in range(draw.choice((1, 1, 1, 2))):
            name, node = f"pruner{number}", draw.choice((first, second))
            self.steps.start(name, self._faults(), partial(self._maintain, node=node, rounds=rounds))
        node = draw.choice((first, second))
        self.steps.start("reader", self._faults(), partial(self._read, node=node, rounds=draw.choice((0, 1, 1))))
        if draw.random() < 0.1:
            self.steps.power_at = draw.randrange(1, 500)
            self.steps.power_kills = draw.random() < 0.5

    def _files(self) -> Files:
        return {b"f%d" % number: self.draw.choice(CONTENTS) for number in range(self.draw.randrange(1, 5))}

    def _faults(self) -> Faults:
        draw, faults = self.draw, Faults()
        if draw.random() < 0.25:
            faults.crash_at, faults.crash_after = draw.randrange(1, 80), draw.random() < 0.5
        if draw.random() < 0.5:
            faults.freeze_at, faults.freeze_steps = draw.randrange(1, 60), draw.randrange(50, 400)
            faults.freeze_us, faults.suspended = draw.randrange(HOUR, 3 * DAY), draw.random() < 0.5
        if draw.random() < 0.4:
            faults.wrong_us = draw.randrange(-DAY, DAY)
            faults.jump_at, faults.jumped_us = draw.randrange(1, 80), draw.randrange(-DAY, DAY)
        return faults

    # -- actors ---------------------------------------------------------------------------------------------------

    def _start_writer(self, name: str, node: Node, source: str, plans: list[tuple[str, Files]]) -> None:
        self.oracle.files.update(plans)
        self.steps.start(name, self._faults(), partial(self._back_up_all, node=node, source=source, plans=plans))

    def _back_up_all(self, actor: Actor, node: Node, source: str, plans: list[tuple[str, Files]]) -> None:
        for at, (run_id, files) in enumerate(plans):
            self._tasks[actor] = node, source, plans[at:]
            self._back_up(actor, node, source, run_id, files)
            if self._tasks.pop(actor, None) is None:
                return  # another one has taken over meanwhile

    def _succeed(self, actor: Actor) -> None:
        """A writer stands still and is taken for dead: often another attempt takes its place."""
        if actor in self._tasks and self.draw.random() < 0.5:
            node, source, plans = self._tasks.pop(actor)
            self._start_writer(actor.name + "'", node, source, plans)

    def _back_up(self, actor: Actor, node: Node, source: str, run_id: str, files: Files) -> None:
        oracle, store = self.oracle, SteppedObjects(self.steps, actor)
        for _ in range(LIVES):
            actor.note = run_id
            try:
                back_up(
                    store, self.stage, node, source, run_id, files, partial(self.steps.now_us, actor),
                    partial(oracle.acknowledge, run_id),
                )  # fmt: skip
                return
            except Crashed:
                self.steps.revive(actor, self._faults())
            except HoldfastError as error:
                oracle.require(
                    error.reason is Reason.RUN_ENDED and run_id in oracle.ended | oracle.doomed | oracle.committed,
                    f"{actor.name} failed, and nobody has ended its run: {error!r}",
                )
                return
            then = self.draw.random()
            if then < 0.2:
                return
            if then < 0.4:
                self._take_back(actor, node, run_id)
                return

    def _take_back(self, actor: Actor, node: Node, run_id: str) -> None:
        """The backup was cancelled, or had failed for good."""
        self.oracle.doomed.add(run_id)
        repository = Repository.open(SteppedObjects(self.steps, actor), node.keys, self.stage.fingerprint)
        try:
            take_back_run(repository, run_id, self.steps.now_us(actor))
        except Crashed:
            self.steps.revive(actor, Faults())

    def _maintain(self, actor: Actor, node: Node, rounds: int) -> None:
        for _ in range(rounds):
            try:
                self._maintain_once(actor, node)
            except Crashed:
                self.steps.revive(actor, self._faults())
                self._end_dead_runs(actor, node)
            except HoldfastError as error:
                self.oracle.require(
                    error.reason is Reason.RUN_ENDED and actor.note in self.oracle.ended,
                    f"{actor.name} failed: {error!r}",
                )

    def _maintain_once(self, actor: Actor, node: Node) -> None:
        repository = Repository.open(SteppedObjects(self.steps, actor), node.keys, self.stage.fingerprint)
        there = sorted(self.oracle.needs.keys() & self.oracle.committed - self.oracle.doomed)
        going = [run_id for run_id in there if self.draw.random() < 0.6]
        if going:
            self.oracle.doomed.update(going)
            remove_snapshots(repository, going, self.steps.now_us(actor))
        work = prune_repository if self.draw.random() < 0.7 else compact_repository
        work(repository, now=partial(self.steps.now_us, actor), watch=MaintenanceWatch(), marks=node.marks)

    def _end_dead_runs(self, actor: Actor, node: Node) -> None:
        """As a worker does when it begins."""
        store = SteppedObjects(self.steps, actor)
        try:
            end_dead_runs(node.marks, partial(end_reading_run, store))
        except Crashed:
            self.steps.revive(actor, Faults())

    def _read(self, actor: Actor, node: Node, rounds: int) -> None:
        oracle, store = self.oracle, SteppedObjects(self.steps, actor)
        for _ in range(rounds):
            try:
                repository = Repository.open(store, node.keys, self.stage.fingerprint)
                run_ids = sorted(snapshot.run_id for snapshot in repository.snapshots())
                doomed = set(oracle.doomed)
                if self.draw.random() < 0.3:
                    self._check(actor, store, node)
                    continue
                self._read_all(actor, repository, node, [run_id for run_id in run_ids if run_id not in doomed])
            except Crashed:
                self.steps.revive(actor, self._faults())
                self._end_dead_runs(actor, node)
            except HoldfastError as error:
                oracle.require(actor.note in oracle.ended, f"{actor.name} failed, and was not revoked: {error!r}")

    def _check(self, actor: Actor, store: ObjectStore, node: Node) -> None:
        """Whatever comes and goes meanwhile is no damage."""
        level = self.draw.choice(list(CheckLevel))
        report = check_repository(
            store, node.keys, level, now=partial(self.steps.now_us, actor), marks=node.marks, content=self.stage.content
        )
        told = f"{level.name} {report.damaged} {report.backups_damaged}"
        right = report.ok or actor.note in self.oracle.ended or self._is_harmless(report)
        self.oracle.require(right, f"{actor.name} has found damage: {told}")

    def _is_harmless(self, report: CheckReport) -> bool:
        """An index object that came back, or that a revoked writer has put, lists packs that are gone and forgotten;
        until the next prune tells of them a check does."""
        if report.backups_damaged or not (self.steps.power_at or self.oracle.ended):
            return False
        return all(one.object.startswith("packs/") and one.object not in self.steps.objects for one in report.damaged)

    def _read_all(self, actor: Actor, repository: Repository, node: Node, run_ids: list[str]) -> None:
        now = partial(self.steps.now_us, actor)
        before: list[set[str]] = []

        def check() -> None:
            """What was removed before the run was announced may be gone, with all it needs."""
            if not before:
                before.append(set(self.oracle.doomed))

        with ReadingRun(repository, RunKind.RESTORE, check, now, node.marks) as run:
            check()
            for run_id in run_ids:
                if run_id in before[0]:
                    continue
                snapshot = repository.snapshot(run_id)
                if snapshot is None:
                    self.oracle.require(run_id in self.oracle.doomed, f"{actor.name}: snapshot {run_id} is gone")
                    continue
                self._compare(run, snapshot)

    def _compare(self, run: ReadingRun, snapshot: Snapshot) -> None:
        reader = run.reader(snapshot, self.stage.content)
        found: Files = {}
        for entry in reader.entries():
            content = b""
            for block in reader.blocks(entry):
                assert not isinstance(block, Hole)
                content += block
            found[entry.path] = content
        self.oracle.require(
            found == self.oracle.files[snapshot.run_id], f"snapshot {snapshot.run_id} holds something else"
        )

    # -- the end --------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """All have ended: after days of silence two prunes leave what is needed, and nothing else."""
        steps, oracle, stage = self.steps, self.oracle, self.stage
        steps.time_us += 3 * DAY
        steps.power_at = 0
        now = steps.time_us
        store = SteppedObjects(steps, steps.lonely("end"))
        try:
            repository = Repository.open(store, stage.nodes[0].keys, stage.fingerprint)
            steps.trace.append(("*", "the end", ""))
            for _ in range(2):
                prune_repository(repository, now=lambda: now, watch=MaintenanceWatch())
            self._require_tidy(repository)
            with ReadingRun(repository, RunKind.VERIFY, lambda: None, lambda: now) as run:
                for snapshot in repository.snapshots():
                    self._compare(run, snapshot)
            if self.seed % CHECKED:
                return
            report = check_repository(
                store, stage.nodes[0].keys, CheckLevel.READ_DATA, now=lambda: now, content=stage.content
            )
            oracle.require(report.ok, f"a check at the end: {report.damaged} {report.backups_damaged}")
        except Crashed:
            pass  # of what was told
        except Exception:
            steps.fail(f"at the end: {traceback.format_exc()}")

    def _require_tidy(self, repository: Repository) -> None:
        oracle, objects = self.oracle, self.steps.objects
        seen = {snapshot.run_id for snapshot in repository.snapshots()}
        lost = oracle.committed - oracle.doomed - seen
        oracle.require(not lost, f"acknowledged, never removed, and gone: {lost}")
        for run_id in seen:
            oracle.require_whole(run_id)
        left = [name for name in objects if name.startswith("runs/")]
        oracle.require(not left, f"left at the end: {left}")
        needed = frozenset().union(*(oracle.needs[run_id] for run_id in seen))
        waste = [name for name in oracle.packs if oracle.packs[name].isdisjoint(needed)]
        oracle.require(not waste, f"packs of which nothing is needed: {waste}")
