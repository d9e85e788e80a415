"""Compressor threads and buffer memory, shared by all archives that a process writes at one time.

A writer opens an `OrderedJobs` on the pool, submits callables and gets their results back in the order of submission,
on its own thread. Two things are shared by fair turns:

* threads: they take one job from one writer, then one from the next;
* memory: a job is charged with its input size from `submit` until its result was delivered. All charges together stay
  within `memory_limit`. One writer may hold at most `memory_limit / (writers + 1)`, so that a newcomer finds room. A
  job larger than its writer's share is charged with the share and waits until that writer holds nothing else: it goes
  over the limit by what is left of that one job, instead of never running.

Compression and hashing release the GIL, so threads help; jobs should carry about a megabyte, because a thread switch
costs as much as compressing some kilobytes.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["CompressorPool", "OrderedJobs"]

T = TypeVar("T")

#: How long a wait lasts at most before `check` is asked again. A cancel must be seen within 100 ms.
_TICK = 0.05


class CompressorPool:
    """Threads and a memory budget. Made once per process; `close` ends the threads after the jobs they are running."""

    def __init__(self, threads: int | None = None, memory_limit: int = 96 << 20) -> None:
        if memory_limit < 1:
            raise ValueError("memory_limit must be positive")
        self._limit = memory_limit
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._turns: deque[OrderedJobs[Any]] = deque()
        self._writers: set[OrderedJobs[Any]] = set()
        self._held = 0
        self._running = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"compressor-{n}", daemon=True)
            for n in range(threads or os.cpu_count() or 1)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def held(self) -> int:
        """Bytes of the budget in use now."""
        return self._held

    @property
    def running(self) -> int:
        """Jobs in a thread now."""
        return self._running

    def open(self, deliver: Callable[[T], None], check: Callable[[], None]) -> OrderedJobs[T]:
        """A queue for one writer. `deliver` is called with each result, in order, on the thread that uses the queue.

        `check` is called in every wait, at least every 100 ms, and may raise.
        """
        jobs: OrderedJobs[T] = OrderedJobs(self, deliver, check)
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is closed")
            self._writers.add(jobs)
        return jobs

    def close(self) -> None:
        """Stop the threads. Writers that still wait get a RuntimeError."""
        with self._lock:
            self._closed = True
            self._work.notify_all()
            for writer in self._writers:
                writer._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while True:
            with self._lock:
                while not self._turns and not self._closed:
                    self._work.wait()
                if self._closed:
                    return
                writer = self._turns.popleft()
                slot = writer._todo.popleft()
                if writer._todo:
                    self._turns.append(writer)
                writer._running += 1
                self._running += 1
            slot.run()
            with self._lock:
                self._running -= 1
                writer._running -= 1
                if writer._aborted or (writer._slots and writer._slots[0] is slot):
                    writer._changed.notify_all()
            # Else this thread would keep the last job's buffers alive until its next one.
            del slot, writer


class _Slot(Generic[T]):
    """A job on its way: not started, running, or done with a result or an error."""

    __slots__ = ("charge", "done", "error", "job", "result")

    def __init__(self, job: Callable[[], T] | None, charge: int) -> None:
        self.job = job
        self.charge = charge
        self.done = job is None
        self.error: BaseException | None = None
        self.result: T | None = None

    def run(self) -> None:
        job, self.job = self.job, None
        assert job is not None
        try:
            self.result = job()
        except BaseException as error:  # noqa: BLE001 - it is raised again on the writer's thread
            self.error = error
        self.done = True


class OrderedJobs(Generic[T]):
    """One writer's jobs, delivered in order. For one thread only; made by `CompressorPool.open`."""

    def __init__(self, pool: CompressorPool, deliver: Callable[[T], None], check: Callable[[], None]) -> None:
        self._pool = pool
        self._deliver = deliver
        self._check = check
        self._slots: deque[_Slot[T]] = deque()  # everything not delivered yet
        self._todo: deque[_Slot[T]] = deque()  # of these, what no thread has taken
        self._changed = threading.Condition(pool._lock)
        self._held = 0
        self._running = 0
        self._aborted = False

    @property
    def held(self) -> int:
        """Bytes of the pool's budget that this writer holds."""
        return self._held

    def submit(self, job: Callable[[], T], size: int) -> None:
        """Queue a job that holds `size` bytes of input.

        Delivers what is ready first, and waits while the budget is used up. Raises what `check`, `deliver` or an
        earlier job raises; the new job is then not queued.
        """
        while True:
            self._deliver_ready()
            if self._admit(job, size):
                return
            self._wait()

    def put(self, result: T) -> None:
        """Have `result` delivered in its turn, without a job and without a charge."""
        slot: _Slot[T] = _Slot(None, 0)
        slot.result = result
        self._slots.append(slot)
        self._deliver_ready()

    def drain(self) -> None:
        """Wait until everything submitted was delivered."""
        self.wait_for(lambda: not self._slots)

    def wait_for(self, done: Callable[[], bool]) -> None:
        """Deliver results until `done`, which they must bring about."""
        self._deliver_ready()
        while not done():
            self._wait()
            self._deliver_ready()

    def abort(self) -> None:
        """Drop what was not delivered, wait for the jobs that run now, and give the budget back. May be repeated."""
        pool = self._pool
        with pool._lock:
            self._aborted = True
            self._todo.clear()
            if self in pool._turns:
                pool._turns.remove(self)
            while self._running:
                self._changed.wait()
            self._slots.clear()
            self._leave()

    def close(self) -> None:
        """Leave the pool after `drain`."""
        self.abort()

    def _leave(self) -> None:
        pool = self._pool
        pool._held -= self._held
        self._held = 0
        pool._writers.discard(self)
        for writer in pool._writers:
            writer._changed.notify_all()

    def _admit(self, job: Callable[[], T], size: int) -> bool:
        pool = self._pool
        with pool._lock:
            if pool._closed or self._aborted:
                raise RuntimeError("the pool is closed" if pool._closed else "this queue was aborted")
            share = max(1, pool._limit // (len(pool._writers) + 1))
            charge = min(size, share)
            if self._held + charge > share or pool._held + charge > pool._limit:
                return False
            self._held += charge
            pool._held += charge
            slot: _Slot[T] = _Slot(job, charge)
            self._slots.append(slot)
            if not self._todo:
                pool._turns.append(self)
            self._todo.append(slot)
            pool._work.notify()
            return True

    def _wait(self) -> None:
        """Wait for the oldest job, or without one for room in the budget, at most one tick; then ask `check`."""
        pool = self._pool
        with pool._lock:
            if pool._closed:
                raise RuntimeError("the pool is closed")
            if not (self._slots and self._slots[0].done):
                self._changed.wait(_TICK)
        self._check()

    def _deliver_ready(self) -> None:
        slots = self._slots
        while slots and slots[0].done:
            slot = slots.popleft()
            try:
                if slot.error is not None:
                    raise slot.error
                self._deliver(slot.result)  # type: ignore[arg-type]
            finally:
                slot.result = None
                if slot.charge:
                    self._release(slot.charge)

    def _release(self, charge: int) -> None:
        pool = self._pool
        with pool._lock:
            self._held -= charge
            pool._held -= charge
            if len(pool._writers) > 1:
                for writer in pool._writers:
                    if writer is not self:
                        writer._changed.notify_all()
