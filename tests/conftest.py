"""Servers for the tests: one for each test that hurts it, one shared by those of a worker process that do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Server


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
    """A server that no test stops, kills or fills its queues for good."""
    with Server(tmp_path_factory.mktemp("shared"), environment={"HOLDFAST_SERVER_HEARTBEAT_SECONDS": "0.3"}) as server:
        yield server
