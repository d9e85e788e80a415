"""The shared compressor pool: order, turns, memory, cancel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from holdfast_server.archive.pool import CompressorPool, OrderedJobs
from holdfast_server.errors import Cancelled


@pytest.fixture
def pool() -> Iterator[CompressorPool]:
    pool = CompressorPool(threads=2, memory_limit=1000)
    yield pool
    pool.close()


def nothing() -> None:
    pass


def delayed(value: int, seconds: float = 0.0) -> Callable[[], int]:
    def job() -> int:
        time.sleep(seconds)
        return value

    return job


def submit_all(jobs: OrderedJobs[int], work: list[Callable[[], int]], size: int = 10) -> None:
    for job in work:
        jobs.submit(job, size)
    jobs.drain()


def test_results_come_in_order_of_submission(pool: CompressorPool) -> None:
    got: list[int] = []
    jobs = pool.open(got.append, nothing)
    for n in range(60):
        jobs.submit(delayed(n, 0.003 * (n % 3 == 0)), 100)
        if n % 10 == 5:
            jobs.put(1000 + n)
    jobs.drain()
    jobs.close()
    assert [n for n in got if n < 1000] == list(range(60))
    assert got.index(1005) == got.index(5) + 1
    assert pool.held == pool.running == 0


def test_the_memory_of_all_writers_stays_within_the_limit(pool: CompressorPool) -> None:
    live, peak, lock = 0, 0, threading.Lock()

    def writer() -> None:
        nonlocal live, peak

        def take(size: int) -> None:
            nonlocal live
            with lock:
                live -= size

        jobs = pool.open(take, nothing)
        for n in range(100):
            size = 20 + n

            def job(size: int = size) -> int:
                nonlocal live, peak
                with lock:
                    live += size
                    peak = max(peak, live)
                return size

            jobs.submit(job, size)
            assert pool.held <= 1000
        jobs.drain()
        jobs.close()

    threads = [threading.Thread(target=writer) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert 0 < peak <= 1000
    assert pool.held == 0


def test_a_job_larger_than_the_limit_runs(pool: CompressorPool) -> None:
    got: list[int] = []
    jobs = pool.open(got.append, nothing)
    for n in range(5):
        jobs.submit(delayed(n), 5000)
    jobs.drain()
    assert got == [0, 1, 2, 3, 4]
    jobs.close()
    assert pool.held == 0


def test_a_newcomer_finds_room_and_a_thread_beside_a_busy_writer(pool: CompressorPool) -> None:
    first, second = [], []  # type: ignore[var-annotated]
    a = pool.open(first.append, nothing)
    for n in range(5):
        a.submit(delayed(n, 0.1), 100)  # half of the limit: no more is given to one
    b = pool.open(second.append, nothing)
    b.submit(delayed(1), 100)
    b.drain()
    # Its job comes after the two that ran already, and at most one more by turns.
    assert len(first) < 5
    a.drain()
    a.close()
    b.close()


def test_an_error_in_a_job_comes_out_where_results_are_taken(pool: CompressorPool) -> None:
    def broken() -> int:
        raise ZeroDivisionError("inside")

    got: list[int] = []
    jobs = pool.open(got.append, nothing)
    jobs.submit(delayed(1), 10)
    with pytest.raises(ZeroDivisionError, match="inside"):
        submit_all(jobs, [broken])
    jobs.abort()
    assert got == [1]
    assert pool.held == pool.running == 0


def test_cancel_is_seen_while_waiting_for_memory_and_abort_gives_everything_back(pool: CompressorPool) -> None:
    stop = time.monotonic() + 0.05

    def check() -> None:
        if time.monotonic() > stop:
            raise Cancelled

    jobs = pool.open(lambda _: None, check)
    hold = threading.Event()
    with pytest.raises(Cancelled):
        submit_all(jobs, [lambda: int(hold.wait(5))] * 100, 250)
    hold.set()
    jobs.abort()
    jobs.abort()
    assert pool.held == pool.running == 0
    with pytest.raises(RuntimeError):
        jobs.submit(lambda: True, 1)


def test_abort_does_not_run_what_was_still_waiting(pool: CompressorPool) -> None:
    ran: list[int] = []
    jobs = pool.open(lambda _: None, nothing)

    def job() -> None:
        time.sleep(0.05)
        ran.append(1)

    for _ in range(20):
        jobs.submit(job, 1)
    jobs.abort()
    at_abort = len(ran)
    time.sleep(0.12)
    assert len(ran) == at_abort <= 4


def test_a_closed_pool_refuses_and_frees_who_waits() -> None:
    pool = CompressorPool(threads=1, memory_limit=10)
    jobs = pool.open(lambda _: None, nothing)
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        jobs.submit(lambda: None, 1)
    with pytest.raises(RuntimeError, match="closed"):
        pool.open(lambda _: None, nothing)
    jobs.abort()
