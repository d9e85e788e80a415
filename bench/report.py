"""What a benchmark gives back, and how it is shown, kept and written into docs/evidence.md."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["EVIDENCE", "ROOT", "Check", "Result", "commit", "machine", "milliseconds", "percentile", "write_evidence"]

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE = ROOT / "docs" / "evidence.md"


@dataclass(frozen=True, slots=True)
class Check:
    """One target: `value` must not exceed `limit`."""

    what: str
    value: float
    limit: float
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.value <= self.limit

    def line(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        return (
            f"{self.what}: {_number(self.value)}{unit}, target ≤ {_number(self.limit)}{unit}: "
            f"**{'met' if self.met else 'missed'}**"
        )


@dataclass(slots=True)
class Result:
    """A table with its targets. `data` holds the raw figures for the JSON file, `options` what the command needs beside
    the suite's name to give this table of several."""

    name: str
    title: str
    columns: Sequence[str]
    rows: list[Sequence[Any]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    options: Sequence[str] = ()
    command: str = ""

    def markdown(self) -> str:
        lines = [f"### {self.title}", "", f"`{self.command}` · commit `{commit()}` · {machine()}", ""]
        lines.append("| " + " | ".join(self.columns) + " |")
        lines.append("|" + "|".join("---" if i == 0 else "---:" for i in range(len(self.columns))) + "|")
        lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in self.rows]
        if self.checks or self.notes:
            lines.append("")
        lines += [f"* {check.line()}" for check in self.checks]
        lines += [f"* {note}" for note in self.notes]
        return "\n".join(lines) + "\n"

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        record = {
            **asdict(self),
            "checks": [{**asdict(check), "met": check.met} for check in self.checks],
            "commit": commit(),
            "machine": machine(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        (folder / f"{self.name}.json").write_text(json.dumps(record, indent=1, default=str) + "\n")


def write_evidence(result: Result, path: Path = EVIDENCE) -> None:
    """Put the result's table between its two markers in the evidence page, or at the page's end."""
    begin, end = f"<!-- figures: {result.name} -->", "<!-- end -->"
    block = f"{begin}\n{result.markdown()}{end}"
    text = path.read_text() if path.exists() else "# Evidence\n"
    pattern = re.compile(re.escape(begin) + r".*?" + re.escape(end), re.DOTALL)
    text = pattern.sub(lambda _: block, text) if pattern.search(text) else f"{text.rstrip()}\n\n{block}\n"
    path.write_text(text)


def commit() -> str:
    """Short hash of the checked-out commit, with `+` when the working tree differs in what runs."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        return "unknown"
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--", "server", "client", "bench"], cwd=ROOT, capture_output=True, text=True
    )
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "")


def machine() -> str:
    """The kind of machine, nothing that names it."""
    cpu = platform.processor() or platform.machine()
    memory = 0.0
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (OSError, ValueError):
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{cores} cores ({cpu}), {memory:.0f} GiB, {platform.system()} {platform.release().split('-')[0]}, "
        f"Python {'.'.join(map(str, sys.version_info[:3]))}"
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest-rank percentile; `share` 0 to 1."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _number(value: float) -> str:
    if math.isinf(value):
        return "never"
    return f"{value:.0f}" if value == int(value) else f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def _cell(value: Any) -> str:
    return _number(value) if isinstance(value, float) else str(value)
