"""docs/wallets.md: its transcripts are what the commands print."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.harness import REPOSITORY
from tests.transcripts import Desk, desk, play, transcript

PAGE = REPOSITORY / "docs" / "wallets.md"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk(tmp_path_factory.mktemp("wallets-page")) as made:
        yield made


@pytest.mark.long
def test_the_command_line_as_the_page_shows_it(place: Desk) -> None:
    play(transcript(PAGE, "A wallet from the command line"), place)


def test_grpcurl_as_the_page_shows_it(place: Desk) -> None:
    if shutil.which("grpcurl") is None:
        pytest.skip("grpcurl is not installed: go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3")
    play(transcript(PAGE, "The same with grpcurl"), place)
