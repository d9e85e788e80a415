"""Shared by all tests: servers, and how many examples hypothesis tries (HYPOTHESIS_PROFILE=soak tries many).

There is a server for each test that hurts it, and one shared by those of a worker process that do not.
"""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.harness import Server
from tests.mounts import Mounter, mounting

#: Seconds until a long test counts as hung.
LONG_PATIENCE = 300

# Collecting tests makes much and leaves no garbage.
gc.disable()

settings.register_profile("quick", max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("soak", max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        gc.enable()  # others collect


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long tests: the last test of a run ought to be a short one.

    `--dist worksteal` first gives each of its processes a row of as many tests; each row begins with its part of the
    long ones. All else stays in the order it came in, which is random. On a busy machine a long test is a very long
    one: it has more time before it is given up.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = [item for item in items if item.get_closest_marker("long")]
    short = [item for item in items if not item.get_closest_marker("long")]
    for item in long:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LONG_PATIENCE))
    left = len(items)
    items.clear()
    for number in range(processes):
        row = left // (processes - number)
        left -= row
        first = long[number::processes]
        rest = max(row - len(first), 0)
        items += first + short[:rest]
        del short[:rest]
    items += short


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one, for tests of code that waits for the disk all the time."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="holdfast-test-", dir=memory) as made:
        yield Path(made)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mounter]:
    """`mount(arguments…, target)`; skips where this machine does not allow mounts, unmounts after the test."""
    del tmp_path  # it is removed after the test, and must not be while something is mounted in it
    with mounting() as run:
        yield run


@pytest.fixture
def new_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Makes servers that this test alone uses; all of them are gone afterwards."""
    made: list[Server] = []

    def make(name: str = "server", **values: Any) -> Server:
        server = Server(tmp_path / name, **values)
        made.append(server)
        return server.start()

    yield make
    for server in made:
        server.kill_all()


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that no test stops, kills or fills its queues for good. It makes its catalog itself."""
    quick = {"HOLDFAST_SERVER_HEARTBEAT_SECONDS": "0.3"}
    with Server(tmp_path_factory.mktemp("shared"), environment=quick, makes_catalog=True) as server:
        yield server
