"""Interleavings of whoever shares an object store, in one process, each told whole by a seed.

Every call of the store is a step, and so is each entry of a list. Of all actors one at a time goes on; before each step
a seeded draw decides which. An actor may crash at a step, before or after its effect; it may stand still while days go
by and the others go on; every actor has a clock of its own, which may be wrong and may jump; and deletions may come
back with a failure of the power. Nothing else may be random: `Randomness` takes the place of the system's.
"""

from __future__ import annotations

import random
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue

from holdfast_server.storage.objects import Buffer, ObjectInfo, ObjectMissing

__all__ = ["DAY", "HOUR", "Actor", "Crashed", "Faults", "Steps", "SteppedObjects", "SteppedTime"]

HOUR = 3_600_000_000
DAY = 24 * HOUR


#: Steps of an interleaving that has gone wrong.
_ENDLESS = 20_000
#: Threads that wait for the next actor, each at its queue.
_idle: list[SimpleQueue[Callable[[], None]]] = []


class Crashed(BaseException):
    """The process of an actor is dead: whatever it still does has no effect on the store."""


@dataclass(slots=True)
class Faults:
    """What befalls an actor, by the number of its own step (0: never)."""

    crash_at: int = 0
    #: The call that it dies at has had its effect.
    crash_after: bool = False
    freeze_at: int = 0
    #: How many steps of others it stands still for.
    freeze_steps: int = 0
    #: How much time goes by meanwhile.
    freeze_us: int = 0
    #: Its monotonic clock stands still, too, as in a machine that sleeps.
    suspended: bool = False
    jump_at: int = 0
    #: What its clock is wrong by, before and after it jumps.
    wrong_us: int = 0
    jumped_us: int = 0


@dataclass(eq=False)
class Actor:
    """One process. `note` is the program's own."""

    name: str
    faults: Faults
    steps: int = 0
    dead: bool = False
    done: bool = False
    thaw_at: int = 0
    #: Time that its monotonic clock missed.
    slept_us: int = 0
    note: object = None
    turn: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.turn.acquire()


class Steps:
    """One interleaving. `objects` is what the store holds, `trace` all steps that were made: (actor, call, name)."""

    def __init__(self, seed: int, objects: dict[str, bytes], *, switch: float, tick_us: int, start_us: int) -> None:
        """`switch` is the chance that a step goes to another actor; each takes `tick_us`."""
        self.draw = random.Random(seed)
        self.objects = objects
        self.trace: list[tuple[str, str, str]] = []
        self.actors: list[Actor] = []
        self.current: Actor | None = None
        self.time_us = start_us
        #: The step at which the power fails, and whether the actors die of it or the store alone.
        self.power_at = 0
        self.power_kills = False
        #: What went wrong first; then every actor is dead.
        self.failure = ""
        #: Called after each change of an object: with the actor, the call and the name.
        self.on_change: Callable[[Actor, str, str], None] = lambda _actor, _call, _name: None
        #: Called when an actor begins to stand still.
        self.on_freeze: Callable[[Actor], None] = lambda _actor: None
        #: How often an object was made, replaced or removed.
        self.changes = 0
        self._switch = switch
        self._tick_us = tick_us
        #: Deletions that a failure of the power would undo, by folder.
        self._unsure: dict[str, dict[str, bytes]] = {}
        self._over = threading.Lock()
        self._over.acquire()

    # -- actors ---------------------------------------------------------------------------------------------------

    def start(self, name: str, faults: Faults, program: Callable[[Actor], None]) -> Actor:
        """Add an actor; it begins when a step is its. Allowed at any time."""
        actor = Actor(name, faults)
        self.actors.append(actor)
        play = partial(self._play, actor, program)
        if _idle:
            _idle.pop().put(play)
        else:
            threading.Thread(target=_serve, args=(play,), name="actor", daemon=True).start()
        return actor

    def run(self) -> None:
        """Let them go on until all have ended."""
        self._hand_over(self._next(None))
        self._over.acquire()

    def lonely(self, name: str) -> Actor:
        """An actor for the caller himself, who goes on when all others have ended."""
        self.current = actor = Actor(name, Faults())
        self.actors.append(actor)
        return actor

    def fail(self, text: str) -> None:
        """Something is wrong: end the interleaving."""
        if not self.failure:
            self.failure = text
        for actor in self.actors:
            actor.dead = True

    def now_us(self, actor: Actor) -> int:
        """What its clock shows."""
        faults = actor.faults
        jumped = faults.jump_at and actor.steps >= faults.jump_at
        return self.time_us + (faults.jumped_us if jumped else faults.wrong_us)

    def revive(self, actor: Actor, faults: Faults) -> None:
        """A new process in the place of a dead one. Raises Crashed when nothing goes on any more."""
        if self.failure:
            raise Crashed
        actor.dead, actor.steps, actor.faults = False, 0, faults

    def _play(self, actor: Actor, program: Callable[[Actor], None]) -> None:
        actor.turn.acquire()
        try:
            if not self.failure:
                program(actor)
        except Crashed:
            pass
        except BaseException:
            self.fail(f"{actor.name}: {traceback.format_exc()}")
        actor.done = True
        following = self._next(None)
        if following is None:
            self._over.release()
        else:
            self._hand_over(following)

    def _next(self, present: Actor | None) -> Actor | None:
        """Who makes the next step; whoever stands still only if nobody else is left."""
        steps = len(self.trace)
        able = [one for one in self.actors if not one.done and (one.thaw_at <= steps or one.dead)]
        if able:
            others = [one for one in able if one is not present] or able
            return self.draw.choice(others)
        still = [one for one in self.actors if not one.done]
        return min(still, key=lambda one: one.thaw_at) if still else None

    def _hand_over(self, actor: Actor | None) -> None:
        assert actor is not None
        self.current = actor
        actor.thaw_at = 0
        actor.turn.release()

    # -- steps ----------------------------------------------------------------------------------------------------

    def step(self, actor: Actor, call: str, name: str, *, waits: bool = False) -> None:
        """Before a call has its effect; one that `waits` lets others go on. Raises Crashed when the actor does not
        live to see it."""
        if actor.dead:
            raise Crashed
        faults = actor.faults
        actor.steps += 1
        if actor.steps == faults.freeze_at:
            self._freeze(actor)
        if waits or actor.thaw_at or self.draw.random() < self._switch:
            following = self._next(actor)
            if following is not actor and following is not None:
                self._hand_over(following)
                actor.turn.acquire()
            actor.thaw_at = 0
        self.time_us += self._tick_us
        self.trace.append((actor.name, call, name))
        if len(self.trace) > _ENDLESS:
            self.fail("it does not end")
        if len(self.trace) == self.power_at:
            self._fail_power()
        if actor.steps == faults.crash_at and not faults.crash_after:
            self._kill(actor, "dies before")
        if actor.dead:
            raise Crashed

    def made(self, actor: Actor, call: str, name: str, gone: bytes | None = None) -> None:
        """After a change. `gone` is what a deletion has removed."""
        self.changes += 1
        folder = name.rpartition("/")[0]
        if gone is not None:
            self._unsure.setdefault(folder, {})[name] = gone
        elif call != "delete":
            self._unsure.pop(folder, None)
        self.on_change(actor, call, name)
        self.looked(actor)

    def looked(self, actor: Actor) -> None:
        """After a call that changed nothing."""
        if actor.steps == actor.faults.crash_at and actor.faults.crash_after:
            self._kill(actor, "dies after")
        if actor.dead:
            raise Crashed

    def _kill(self, actor: Actor, how: str) -> None:
        self.trace.append((actor.name, how, ""))
        actor.dead = True

    def _freeze(self, actor: Actor) -> None:
        faults = actor.faults
        self.trace.append((actor.name, "stands still", f"for {faults.freeze_us / HOUR:.0f} h"))
        self.time_us += faults.freeze_us
        if faults.suspended:
            actor.slept_us += faults.freeze_us
        actor.thaw_at = len(self.trace) + faults.freeze_steps
        self.on_freeze(actor)

    def _fail_power(self) -> None:
        self.trace.append(("*", "the power fails", ""))
        for folder in self._unsure.values():
            for name, content in folder.items():
                if name not in self.objects and self.draw.random() < 0.5:
                    self.trace.append(("*", "comes back", name))
                    self.objects[name] = content
                    self.changes += 1
                    self.on_change(self.actors[0], "come back", name)
        self._unsure.clear()
        if self.power_kills:
            for actor in self.actors:
                actor.dead = True


def _serve(play: Callable[[], None]) -> None:
    """A thread, and what costs time to make anew for each, serves one actor after the other."""
    queue: SimpleQueue[Callable[[], None]] = SimpleQueue()
    while True:
        play()
        _idle.append(queue)
        play = queue.get()


class SteppedObjects:
    """The store as one actor has it."""

    def __init__(self, steps: Steps, actor: Actor) -> None:
        self._steps = steps
        self._actor = actor

    def __str__(self) -> str:
        return "memory"

    def put(self, name: str, parts: Sequence[Buffer]) -> None:
        content = b"".join(parts)
        self._steps.step(self._actor, "put", name)
        self._steps.objects[name] = content
        self._steps.made(self._actor, "put", name)

    def create_if_absent(self, name: str, content: bytes) -> bool:
        self._steps.step(self._actor, "create", name)
        if name in self._steps.objects:
            self._steps.looked(self._actor)
            return False
        self._steps.objects[name] = bytes(content)
        self._steps.made(self._actor, "create", name)
        return True

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        content = self._content("get", name)
        return content[offset:] if length is None else content[offset : offset + length]

    def size(self, name: str) -> int:
        return len(self._content("size", name))

    def _content(self, call: str, name: str) -> bytes:
        self._steps.step(self._actor, call, name)
        content = self._steps.objects.get(name)
        self._steps.looked(self._actor)
        if content is None:
            raise ObjectMissing(name)
        return content

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """In any order; of what changes meanwhile some is shown and some is not."""
        steps, actor = self._steps, self._actor
        steps.step(actor, "list", prefix)
        objects = steps.objects
        found = [(name, len(content)) for name, content in objects.items() if name.startswith(prefix)]
        steps.draw.shuffle(found)
        changes = steps.changes
        for name, size in found:
            steps.step(actor, "list", prefix)
            if changes == steps.changes or name in objects or steps.draw.random() < 0.5:
                yield ObjectInfo(name, size)
        if changes != steps.changes:
            shown = {name for name, _ in found}
            for name in [one for one in objects if one.startswith(prefix) and one not in shown]:
                if name in objects and steps.draw.random() < 0.5:
                    yield ObjectInfo(name, len(objects[name]))

    def delete(self, name: str) -> None:
        self._steps.step(self._actor, "delete", name)
        gone = self._steps.objects.pop(name, None)
        self._steps.made(self._actor, "delete", name, gone)

    def use_reserve(self) -> AbstractContextManager[None]:
        return nullcontext()

    def keep_reserve(self) -> None:
        """Memory has no reserve."""


class SteppedTime:
    """In the place of the module `time`, for the actor whose step it is; without an interleaving time stands still."""

    def __init__(self) -> None:
        self.steps: Steps | None = None

    def monotonic(self) -> float:
        if self.steps is None or self.steps.current is None:
            return 0.0
        return (self.steps.time_us - self.steps.current.slept_us) / 1e6

    def sleep(self, seconds: float) -> None:
        """A step as any other: somebody else goes on."""
        assert self.steps is not None
        assert self.steps.current is not None
        self.steps.step(self.steps.current, "sleep", f"{seconds} s", waits=True)
