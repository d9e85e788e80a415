"""How long a start takes: from the command to health SERVING, and to the end of a first small backup."""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from bench.report import Check, Result
from bench.service import WORK, ZIP, Server, fresh_folder

TARGET_SECONDS = 4.0


def run(options: argparse.Namespace) -> Result:
    """First starts make the data directory anew; later starts find it."""
    runs = options.runs or 5
    work = fresh_folder(WORK / "startup")
    tree = work / "tree"
    tree.mkdir()
    (tree / "hello.txt").write_text("hello\n")
    first = [_start(work / f"data-{number}", tree) for number in range(runs)]
    later = [_start(work / "data-0", tree) for _ in range(runs)]
    result = Result(
        "startup",
        "Start",
        ["start", "runs", "serving, median", "serving, max", "first backup done, median", "max"],
        data={"first": first, "later": later},
    )
    for name, times in (("first (new data directory)", first), ("later", later)):
        serving, useful = [one[0] for one in times], [one[1] for one in times]
        figures = [statistics.median(serving), max(serving), statistics.median(useful), max(useful)]
        result.rows.append([name, runs, *(f"{figure:.2f} s" for figure in figures)])
        result.checks.append(Check(f"{name}: slowest start to serving", round(max(serving), 2), TARGET_SECONDS, "s"))
    return result


def _start(data_dir: Path, tree: Path) -> tuple[float, float]:
    began = time.monotonic()
    with Server(data_dir) as server:
        serving = time.monotonic() - began
        with server.api() as api:
            if not (data_dir / "known").exists():
                api.register("tree", tree)
                (data_dir / "known").touch()
            api.finish(api.start_backup(["tree"], data_dir.parent / "archives", ZIP).task_id, timeout=60)
        return serving, time.monotonic() - began
