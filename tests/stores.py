"""Object stores that fail and that crash, and system calls that fail under a real one.

All of them are storages themselves, so that any code that takes an `ObjectStore` can be run on them. Each says whether
its fault came about: a test that does not ask proves nothing.
"""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Self

import pytest

from holdfast_server.storage import syscalls
from holdfast_server.storage.local import translate_os_error
from holdfast_server.storage.objects import Buffer, MemoryObjects, ObjectInfo, ObjectStore

__all__ = ["CrashState", "CrashingObjects", "FailingCalls", "FailingObjects", "Fault"]


class Fault(Enum):
    """What goes wrong, as a store in a folder reports it. Some befall only calls that write."""

    ENOSPC = errno.ENOSPC, True
    EIO = errno.EIO, False
    EACCES = errno.EACCES, False
    #: Fewer bytes are written than were given, and then none.
    SHORT_WRITE = errno.EDQUOT, True
    #: The sync fails: the object is withdrawn.
    FSYNC = errno.EIO, True
    #: The storage did what it was told, and the answer was lost on the way.
    LOST_ANSWER = errno.ETIMEDOUT, True

    def __init__(self, code: int, writing: bool) -> None:
        self.code = code
        self.writing = writing


class FailingObjects:
    """Lets the call number `fail_at` (from 1; 0: none) of the interface fail, or the next that such a fault can befall.

    Nothing is changed by a call that fails, but for LOST_ANSWER, where all is. A list fails half way. With `lasting`
    every such call from then on fails, as on a disk that stays full; deleting needs no space and goes on.
    """

    def __init__(self, inner: ObjectStore, fail_at: int, fault: Fault, *, lasting: bool = False) -> None:
        self._inner = inner
        self._fail_at = fail_at
        self._fault = fault
        self._lasting = lasting
        self._lock = threading.Lock()
        #: How many calls there were.
        self.calls = 0
        #: The call that failed first, such as `put packs/ab`; empty as long as none has.
        self.fired = ""

    def __str__(self) -> str:
        return f"failing {self._inner}"

    def _fails(self, call: str, name: str, *, writing: bool) -> bool:
        with self._lock:
            self.calls += 1
            due = self.calls >= self._fail_at > 0 and (self._lasting or not self.fired)
            if due and (writing or not self._fault.writing):
                self.fired = self.fired or f"{call} {name}"
                return True
            return False

    def _error(self, doing: str, name: str) -> Exception:
        code = self._fault.code
        return translate_os_error(OSError(code, os.strerror(code)), f"{doing} {name} in {self}")

    def put(self, name: str, parts: Sequence[Buffer]) -> None:
        fails = self._fails("put", name, writing=True)
        if not fails or self._fault is Fault.LOST_ANSWER:
            self._inner.put(name, parts)
        if fails:
            raise self._error("writing", name)

    def create_if_absent(self, name: str, content: bytes) -> bool:
        fails = self._fails("create_if_absent", name, writing=True)
        created = (not fails or self._fault is Fault.LOST_ANSWER) and self._inner.create_if_absent(name, content)
        if fails:
            raise self._error("writing", name)
        return created

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        if self._fails("get", name, writing=False):
            raise self._error("reading", name)
        return self._inner.get(name, offset, length)

    def size(self, name: str) -> int:
        if self._fails("size", name, writing=False):
            raise self._error("reading", name)
        return self._inner.size(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        entries = self._inner.list(prefix)
        return self._half(entries, prefix) if self._fails("list", prefix, writing=False) else entries

    def _half(self, entries: Iterator[ObjectInfo], prefix: str) -> Iterator[ObjectInfo]:
        found = [*entries]
        yield from found[: len(found) // 2]
        raise self._error("listing", prefix)

    def delete(self, name: str) -> None:
        fails = self._fails("delete", name, writing=self._fault is Fault.LOST_ANSWER)
        if not fails or self._fault is Fault.LOST_ANSWER:
            self._inner.delete(name)
        if fails:
            raise self._error("deleting", name)

    def use_reserve(self) -> AbstractContextManager[None]:
        return self._inner.use_reserve()

    def keep_reserve(self) -> None:
        self._inner.keep_reserve()


@dataclass(eq=False)
class _Change:
    """One call that changed something, from its begin to its end in ticks; `content` is None for a deletion."""

    name: str
    content: bytes | None
    begin: int
    #: Its place among all changes; 0 if it changed nothing.
    order: int = 0
    #: None while it is under way, and for good if it failed.
    end: int | None = None
    #: A creation that found an object there: the order of what made that one, which is durable from then on.
    found: int = 0

    @property
    def folder(self) -> str:
        return self.name.rpartition("/")[0]

    def ended(self, moment: int) -> bool:
        return self.end is not None and self.end <= moment


@dataclass(frozen=True)
class CrashState:
    """What a crash may leave: `store` holds it; `lost` are the changes that did not reach the disk."""

    moment: int
    store: MemoryObjects
    lost: tuple[str, ...]


class CrashingObjects:
    """Records what is done to a store, and gives what a crash of the machine at any moment could leave of it.

    A put or creation is durable when it has returned, and so is the object that made a creation return False. One that
    is under way at the crash is wholly there or not at all. A deletion is durable once a put or creation in the same
    folder that began after it has returned; until then it may have happened or not.

    A change that raises is not recorded. For faults and crashes together put a `FailingObjects` around this one, so
    that what happened though its answer was lost is known here.
    """

    def __init__(self, inner: ObjectStore | None = None) -> None:
        self._inner: ObjectStore = MemoryObjects() if inner is None else inner
        self._base = {info.name: self._inner.get(info.name) for info in self._inner.list("")}
        self._changes: list[_Change] = []
        self._lock = threading.Lock()
        self._applying = threading.Lock()
        self._tick = 0
        self._applied = 0

    def __str__(self) -> str:
        return f"crashing {self._inner}"

    @property
    def moment(self) -> int:
        """Now, in ticks: whatever has returned by now is durable in all states of this and later moments."""
        with self._lock:
            return self._tick

    def put(self, name: str, parts: Sequence[Buffer]) -> None:
        change = self._begin(name, b"".join(parts))
        self._apply(change, lambda: self._inner.put(name, parts))
        self._end(change)

    def create_if_absent(self, name: str, content: bytes) -> bool:
        change = self._begin(name, bytes(content))
        created: bool = self._apply(change, lambda: self._inner.create_if_absent(name, content))
        self._end(change)
        return created

    def delete(self, name: str) -> None:
        change = self._begin(name, None)
        self._apply(change, lambda: self._inner.delete(name))
        self._end(change)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        return self._inner.get(name, offset, length)

    def size(self, name: str) -> int:
        return self._inner.size(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._inner.list(prefix)

    def use_reserve(self) -> AbstractContextManager[None]:
        return self._inner.use_reserve()

    def keep_reserve(self) -> None:
        self._inner.keep_reserve()

    def overlap(self) -> None:
        """Called in each change before and after it is made, for other threads to come between."""
        time.sleep(0)

    def _begin(self, name: str, content: bytes | None) -> _Change:
        with self._lock:
            self._tick += 1
            change = _Change(name, content, self._tick)
            self._changes.append(change)
        self.overlap()
        return change

    def _apply(self, change: _Change, call: Callable[[], Any]) -> Any:
        with self._applying:  # so that the recorded order is the true one
            try:
                result = call()
            except BaseException:
                with self._lock:
                    self._changes.remove(change)
                raise
            if result is False:
                change.found = max((c.order for c in self._changes if c.name == change.name), default=0)
            else:
                self._applied += 1
                change.order = self._applied
        self.overlap()
        return result

    def _end(self, change: _Change) -> None:
        with self._lock:
            self._tick += 1
            change.end = self._tick

    def _sorted(self, moment: int) -> tuple[Sequence[_Change], Sequence[_Change]]:
        """The changes begun by then, in the order in which they were made, and those of them that may be lost."""
        begun = [change for change in self._changes if change.begin <= moment]
        synced: dict[str, int] = {}  # folder: the latest begin of a write that has returned
        found = set()
        for change in begun:
            if change.ended(moment) and change.content is not None:
                synced[change.folder] = max(synced.get(change.folder, 0), change.begin)
                found.add(change.found)
        made = sorted((change for change in begun if change.order), key=lambda change: change.order)
        unsure = [change for change in made if change.order not in found and not _safe(change, moment, synced)]
        return made, unsure

    def crash_states(self, seed: int, count: int) -> Iterator[CrashState]:
        """States that a crash may leave: all of them if there are at most `count`, or so many, drawn by the `seed`.

        Each moment comes once before any comes twice. Call it when nothing is under way.
        """
        moments = {moment: self._sorted(moment) for moment in range(self._tick + 1)}
        if sum(1 << len(unsure) for _, unsure in moments.values()) <= count:
            for moment, (made, unsure) in moments.items():
                for lost in range(1 << len(unsure)):
                    yield self._state(moment, made, unsure, lost)
            return
        draw = random.Random(seed)
        turns = list(moments)
        seen: set[tuple[int, int]] = set()
        while len(seen) < count:
            draw.shuffle(turns)
            for moment in turns:
                made, unsure = moments[moment]
                lost = draw.getrandbits(len(unsure)) if unsure else 0
                if len(seen) < count and (moment, lost) not in seen:
                    seen.add((moment, lost))
                    yield self._state(moment, made, unsure, lost)

    def _state(self, moment: int, made: Sequence[_Change], unsure: Sequence[_Change], lost: int) -> CrashState:
        gone = {change.order: change for bit, change in enumerate(unsure) if lost >> bit & 1}
        contents = dict(self._base)
        for change in made:
            if change.order in gone:
                continue
            if change.content is None:
                contents.pop(change.name, None)
            else:
                contents[change.name] = change.content
        words = (f"{'delete' if change.content is None else 'write'} {change.name}" for change in gone.values())
        return CrashState(moment, MemoryObjects(contents), tuple(words))


def _safe(change: _Change, moment: int, synced: dict[str, int]) -> bool:
    if not change.ended(moment):
        return False
    assert change.end is not None
    return change.content is not None or synced.get(change.folder, 0) > change.end


_write = os.write


class FailingCalls:
    """A block in which the system call number `fail_at` (from 1) of this thread fails with `code`.

    Counted are the calls of `names`: functions of `os`, and `renameat2`. With `code` 0 nothing fails, but writes take
    one byte of what they are given at that call. `no_renameat2` makes the file system one that lacks it.
    """

    NAMES = ("open", "write", "writev", "fsync", "rename", "renameat2", "link", "unlink", "mkdir")

    def __init__(self, fail_at: int, code: int, names: Sequence[str] = NAMES, *, no_renameat2: bool = False) -> None:
        self._fail_at = fail_at
        self._code = code
        self._names = names
        self._lacking = no_renameat2
        self._thread = threading.get_ident()
        self._patch = pytest.MonkeyPatch()
        #: All counted calls, in their order.
        self.calls: list[str] = []
        #: The call that failed; empty as long as none has.
        self.fired = ""

    def __enter__(self) -> Self:
        for name in self._names:
            owner, attribute = (syscalls, "rename_without_replace") if name == "renameat2" else (os, name)
            self._patch.setattr(owner, attribute, self._counting(name, getattr(owner, attribute)))
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def _counting(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if threading.get_ident() != self._thread:
                return original(*arguments, **named)
            if name == "renameat2" and self._lacking:
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
            self.calls.append(name)
            if len(self.calls) == self._fail_at:
                self.fired = name
                if self._code:
                    raise OSError(self._code, os.strerror(self._code))
                if name in ("write", "writev"):
                    fd, data = arguments
                    return _write(fd, (data if name == "write" else next(filter(None, data)))[:1])
            return original(*arguments, **named)

        return call
