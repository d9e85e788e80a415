"""The fake server and a client of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_service import TOKEN, FakeServer, FakeService

import holdfast


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def server(service: FakeService) -> Iterator[FakeServer]:
    server = FakeServer(service)
    yield server
    server.stop()


@pytest.fixture
def client(server: FakeServer) -> Iterator[holdfast.Client]:
    with holdfast.connect(server.address, token=TOKEN, timeout=5) as client:
        yield client
