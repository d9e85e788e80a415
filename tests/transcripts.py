"""Transcripts in a page of the documentation, run as they stand. `…` stands for what differs from run to run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.harness import Server

__all__ = ["Desk", "Step", "desk", "play", "transcript"]


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


@dataclass(frozen=True)
class Desk:
    """A folder to work in, and an environment in which `holdfast` and `grpcurl` find a running server."""

    server: Server
    folder: Path
    environment: dict[str, str]


@contextmanager
def desk(base: Path) -> Iterator[Desk]:
    """A desk, below `base`, of a server that runs as long."""
    folder = base / "desk"
    folder.mkdir()
    with Server(base / "server") as server:
        environment = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(base),
            "COLUMNS": "120",
            "LANG": "C.UTF-8",
            "HOLDFAST_PATHS_DATA_DIR": str(server.data_dir),
            "ADDRESS": server.address,
            "TOKEN": f"authorization: Bearer {server.token}",
        }
        yield Desk(server, folder, environment)


def transcript(page: Path, heading: str) -> list[Step]:
    """The steps of the console blocks below a heading of a page."""
    section = page.read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return list(_steps(re.findall(r"^```console\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)))


def _steps(blocks: list[str]) -> Iterator[Step]:
    for block in blocks:
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            while command.endswith("\\"):
                more, _, expected = expected.partition("\n")
                command = command[:-1] + more.strip()
            yield Step(command, expected)


def play(steps: list[Step], at: Desk) -> None:
    """Run each step and compare what it prints with what the page says."""
    assert steps
    for step in steps:
        done = subprocess.run(
            ["bash", "-u", "-o", "pipefail", "-c", step.command],
            cwd=at.folder,
            env=at.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        # What a failing command says goes to stderr, and the page shows it.
        printed = done.stdout if done.returncode == 0 else done.stdout + done.stderr
        assert step.pattern.fullmatch(printed), f"$ {step.command}\n{printed}\n--- the page says:\n{step.expected}"
