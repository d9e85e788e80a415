"""Totals that are counted while the work goes on: set when it takes long, else never asked for."""

from __future__ import annotations

import threading

import pytest

from holdfast_server.core.control import Control, Progress
from holdfast_server.core.late_count import LateCount
from holdfast_server.errors import FailedPrecondition, Reason
from tests.harness import until

PATIENCE = 60.0


def test_short_work_is_not_counted_and_not_waited_for() -> None:
    progress, asked = Progress(), threading.Event()

    def count(_: Control) -> tuple[int, int]:
        asked.set()
        return 1, 1

    with LateCount(count, progress, patience=PATIENCE * 60):
        pass
    assert not asked.is_set()
    assert progress.percent is None
    assert all(thread.name != "late-count" for thread in threading.enumerate())


def test_long_work_gets_its_totals() -> None:
    progress = Progress()

    def count(control: Control) -> tuple[int, int]:
        control.check()
        return 4096, 1

    with LateCount(count, progress, patience=0.0):
        until(lambda: progress.percent is not None, "the count")
        progress.count(4096)
        assert progress.percent == 50.0
    assert (progress.total_size, progress.total_files, progress.totals_estimated) == (4096, 1, False)


def test_counting_ends_with_the_work() -> None:
    progress, begun = Progress(), threading.Event()

    def count(control: Control) -> tuple[int, int]:
        begun.set()
        control.wait(PATIENCE * 60)
        raise AssertionError("it was to stop")

    with LateCount(count, progress, patience=0.0):
        assert begun.wait(PATIENCE)
    assert progress.percent is None


@pytest.mark.parametrize(
    "error", [OSError("gone"), FailedPrecondition(Reason.FOLDER_INSIDE_SOURCE, "it lies in it")], ids=["os", "own"]
)
def test_what_cannot_be_counted_stays_unknown(error: Exception) -> None:
    progress, begun = Progress(), threading.Event()

    def count(_: Control) -> tuple[int, int]:
        begun.set()
        raise error

    with LateCount(count, progress, patience=0.0):
        assert begun.wait(PATIENCE)
    assert progress.percent is None
    assert progress.total_size is None


def test_a_failure_of_the_work_ends_the_counting_too() -> None:
    with pytest.raises(OSError, match="work"), LateCount(lambda _: (1, 1), Progress(), patience=PATIENCE * 60):
        raise OSError("work")
