from __future__ import annotations

from pathlib import Path

import pytest

from tests.vectors.writer import SECRET, Writer


@pytest.fixture
def writer(memory_path: Path) -> Writer:
    (memory_path / "secret").write_bytes(SECRET)
    return Writer(memory_path / "repository")
