from __future__ import annotations

from pathlib import Path

import pytest

_SAMPLES = Path(__file__).parents[3].parent / "shared" / "testdata" / "cloudcoin"


@pytest.fixture(scope="session")
def samples() -> Path:
    """Real public files. They are no part of the source tree, and not copied into it."""
    if not _SAMPLES.is_dir():
        pytest.skip(f"no real coin samples at {_SAMPLES}")
    return _SAMPLES
