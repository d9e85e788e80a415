"""docs/wallets.md: its transcripts are what the commands print. `…` stands for what differs from run to run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness import REPOSITORY, Server

PAGE = REPOSITORY / "docs" / "wallets.md"


@dataclass(frozen=True)
class Step:
    """One command and what stands below it."""

    command: str
    expected: str

    @property
    def pattern(self) -> re.Pattern[str]:
        """A line `…` stands for any lines; elsewhere `…` for any text within its line."""
        lines = [
            r"(?:.*\n)*" if line.strip() == "…" else ".*".join(map(re.escape, line.split("…"))) + r"[ ]*\n"
            for line in self.expected.splitlines()
        ]
        return re.compile("".join(lines))


def transcript(heading: str) -> list[Step]:
    """The steps of the console blocks below a heading."""
    section = PAGE.read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return list(_steps(re.findall(r"^```console\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)))


def _steps(blocks: list[str]) -> Iterator[Step]:
    for block in blocks:
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            while command.endswith("\\"):
                more, _, expected = expected.partition("\n")
                command = command[:-1] + more.strip()
            yield Step(command, expected)


def play(steps: list[Step], folder: Path, environment: dict[str, str]) -> None:
    assert steps
    for step in steps:
        done = subprocess.run(
            ["bash", "-u", "-o", "pipefail", "-c", step.command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        # What a failing command says goes to stderr, and the page shows it.
        printed = done.stdout if done.returncode == 0 else done.stdout + done.stderr
        assert step.pattern.fullmatch(printed), f"$ {step.command}\n{printed}\n--- the page says:\n{step.expected}"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder to work in, and an environment in which `holdfast` finds a running server."""
    base = tmp_path_factory.mktemp("wallets-page")
    folder = base / "desk"
    folder.mkdir()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with Server(base / "server") as server:
        environment = {
            "PATH": path,
            "HOME": str(base),
            "COLUMNS": "120",
            "LANG": "C.UTF-8",
            "HOLDFAST_PATHS_DATA_DIR": str(server.data_dir),
            "ADDRESS": server.address,
            "TOKEN": f"authorization: Bearer {server.token}",
        }
        yield folder, environment


def test_the_command_line_as_the_page_shows_it(desk: tuple[Path, dict[str, str]]) -> None:
    folder, environment = desk
    play(transcript("A wallet from the command line"), folder, environment)


def test_grpcurl_as_the_page_shows_it(desk: tuple[Path, dict[str, str]]) -> None:
    if shutil.which("grpcurl") is None:
        pytest.skip("grpcurl is not installed: go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3")
    folder, environment = desk
    play(transcript("The same with grpcurl"), folder, environment)
