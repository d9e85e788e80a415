"""Backups into a repository through a running server, against other deduplicating tools and `cp -r`.

In every round each tool has a new store and new caches, and each step is taken by all of them before the next, in
another order every round. A figure against a tool is the median over the rounds of ours divided by its. Before each
turn the data is read once and what waits to be written is written, and before all the machine's memory is used once:
neither a cold page cache nor another's writes nor the host of a virtual machine say anything about a program.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.disk import fresh_places, has_room
from bench.processes import Usage, claim_memory
from bench.report import Check, Result
from bench.service import WORK
from bench.tools import Holdfast, Keeper, Tool, present
from bench.trees import COIN_SIZE, SIZES, change, coin_files, count, mixed_tree, random_files, touch, warm

__all__ = ["WORKLOADS", "run"]

_WORK = WORK / "repository"

_MIB = 1 << 20
_BLOCK = 4096
_SPARE = 4 << 30

#: Share of the files, or of the bytes of few files, that `changed` changes.
CHANGED = 0.01

#: Largest share of the time of each tool of the kind, by workload and step. No target where none is named.
PEERS = ("restic", "borg-lz4", "borg-zstd")
TIME_TARGETS = {
    ("tree", "first"): {"peers": 0.40},
    ("tree", "again"): {"peers": 0.50},
    ("tree", "restore"): {"peers": 0.60, "cp": 1.5},
    ("coins", "first"): {"peers": 0.33},
    ("coins", "restore"): {"peers": 0.60, "cp": 1.5},
    ("random", "first"): {"peers": 0.60, "cp": 1.1},
    ("random", "restore"): {"peers": 0.60, "cp": 1.5},
}
SIZE_TARGET = 1.0
MEMORY_TARGET_MIB = 400

STEPS = {
    "first": "first backup",
    "again": "again, nothing changed",
    "changed": "1 % changed",
    "moved": "top folder renamed",
    "touched": "all files touched",
    "restore": "restore",
}


@dataclass(frozen=True, slots=True)
class _Workload:
    """Data that is backed up, by size; `make` fills a new folder."""

    title: str
    make: dict[str, Callable[[Path], object]]


def _copy_of_mixed(size: str) -> Callable[[Path], object]:
    return lambda path: subprocess.run(["cp", "-a", mixed_tree(size, SIZES[size]), path], check=True)


WORKLOADS = {
    "tree": _Workload("a tree of small and large files", {size: _copy_of_mixed(size) for size in SIZES}),
    "coins": _Workload(
        f"files of {COIN_SIZE} bytes",
        {
            "small": lambda path: coin_files(path, 10_000),
            "full": lambda path: coin_files(path, 100_000),
        },
    ),
    "random": _Workload(
        "incompressible files",
        {
            "small": lambda path: random_files(path, 256 * _MIB, 8),
            "full": lambda path: random_files(path, 2048 * _MIB, 8),
        },
    ),
}


@dataclass(slots=True)
class _Turns:
    """What a tool took for one step, a round each. `grown` is by how many bytes its store grew."""

    usages: list[Usage] = field(default_factory=list)
    grown: list[int] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        return [usage.seconds for usage in self.usages]

    @property
    def peak(self) -> int:
        return max(usage.peak for usage in self.usages)


#: (step, name of the tool) → its turns.
_Measured = dict[tuple[str, str], _Turns]


def run(options: argparse.Namespace) -> Iterator[Result]:
    """One table for each workload."""
    tools, absent = present(options.tool)
    remark = claim_memory() if options.size == "full" else ""
    for name in options.data or WORKLOADS:
        result = _workload(name, options, tools, absent)
        result.notes += [remark] if remark else []
        yield result


def _workload(name: str, options: argparse.Namespace, tools: list[Tool], absent: list[str]) -> Result:
    rounds = options.runs or 3
    source = fresh_places(_WORK) / "source"
    source.mkdir()
    WORKLOADS[name].make[options.size](source / "top")
    files, size = count(source)
    title = f"Repository: {WORKLOADS[name].title}: {files:,} files, {size / _MIB:,.0f} MiB ({options.size})"
    result = Result(f"repository-{name}", title, ["step", "figure", *(tool.label for tool in tools)])
    result.options = ["--data", name, *(word for step in options.step or () for word in ("--step", step))]
    result.notes += [f"Not measured: {reason}." for reason in absent]
    steps = [step for step in STEPS if step == "first" or not options.step or step in options.step]
    turns: _Measured = {(step, tool.name): _Turns() for step in steps for tool in tools}
    needed = 2 * len(tools) * (size + files * _BLOCK) + _SPARE  # a store and what is restored from it
    for number in range(rounds):
        if not has_room(_WORK, needed):
            result.notes.append(f"Left out for want of disk space: {needed / 2**30:.0f} GiB are needed.")
            shutil.rmtree(_WORK)
            return result
        first = number % len(tools)
        _round(number, [*tools[first:], *tools[:first]], source, steps, turns)
    shutil.rmtree(_WORK)
    _report(result, name, tools, steps, turns)
    result.notes.append(
        f"Rounds: {rounds}; page cache warm; medians; in brackets the median of ours / its. Ours is the time from the "
        "call to the end of the task, the others' that of the whole process. Processor is user and system, ours of all "
        "processes of the server; peak memory ours of the worker, the others' of the process. Store: bytes of its "
        "files after the first backup, later by how much they grew. All but `cp` encrypt and wait for the "
        "disk at the end of a backup; at the end of a restore Holdfast alone does."
    )
    return result


def _round(number: int, tools: list[Tool], source: Path, steps: list[str], turns: _Measured) -> None:
    folder = fresh_places(_WORK / "round")
    with contextlib.ExitStack() as opened:
        for tool in tools:
            opened.enter_context(tool.opened(folder / tool.name, source))
        for step in steps:
            _prepare(step, source, number)
            for tool in tools:
                if step == "restore":
                    _restore(tool, source, folder / f"restored-{tool.name}", turns[step, tool.name])
                elif step == "first" or isinstance(tool, Keeper):
                    _back_up(tool, source, turns[step, tool.name])
    shutil.rmtree(folder)


def _prepare(step: str, source: Path, number: int) -> None:
    if step == "first" and not (source / "top").exists():
        (source / "moved").rename(source / "top")  # by the round before
    if step == "changed":
        change(source, CHANGED, seed=number)
    elif step == "moved":
        (source / "top").rename(source / "moved")
    elif step == "touched":
        touch(source)


def _back_up(tool: Tool, source: Path, turns: _Turns) -> None:
    before = tool.stored()
    warm(source)
    os.sync()
    turns.usages.append(tool.backup())
    turns.grown.append(tool.stored() - before)


def _restore(tool: Tool, source: Path, target: Path, turns: _Turns) -> None:
    warm(tool.store)
    os.sync()
    turns.usages.append(tool.restore(target))
    if count(target) != count(source):
        raise RuntimeError(f"{tool.label} restored {count(target)} files and bytes instead of {count(source)}")


def _report(result: Result, name: str, tools: list[Tool], steps: list[str], turns: _Measured) -> None:
    ours = next((tool.name for tool in tools if isinstance(tool, Holdfast)), "")
    for step in steps:
        row: dict[str, list[str]] = {"time": [], "processor": [], "peak memory": [], "store": []}
        for tool in tools:
            mine, its = turns.get((step, ours), _Turns()), turns[step, tool.name]
            cells = _cells(its) if its.usages else [""] * len(row)
            if tool.name != ours and mine.usages and its.usages:
                time_share, size_share = _shares(mine, its)
                cells[0] += f" ({time_share:.2f})"
                cells[3] += f" ({size_share:.3g})" if size_share else ""
                _check(result, name, step, tool, time_share, size_share)
            for figures, cell in zip(row.values(), cells, strict=True):
                figures.append(cell)
        for figure, figures in row.items():
            if any(figures):
                result.rows.append([STEPS[step], figure, *figures])
        result.data[step] = {
            tool.name: [
                [usage.seconds, usage.processor, usage.peak, *turns[step, tool.name].grown[at : at + 1]]
                for at, usage in enumerate(turns[step, tool.name].usages)
            ]
            for tool in tools
        }
    if ours:
        worst = max(turns[step, ours].peak for step in steps)
        result.checks.append(Check(f"{name}: peak memory of the worker", worst / _MIB, MEMORY_TARGET_MIB, "MiB"))


def _cells(turns: _Turns) -> list[str]:
    return [
        f"{statistics.median(turns.seconds):.2f} s",
        f"{statistics.median(usage.processor for usage in turns.usages):.2f} s",
        f"{turns.peak / _MIB:.0f} MiB",
        _size(statistics.median(turns.grown)) if turns.grown else "",
    ]


def _size(grown: float) -> str:
    return f"{grown / _MIB:,.2f} MiB" if grown >= _MIB else f"{grown / 1024:.1f} KiB"


def _shares(mine: _Turns, its: _Turns) -> tuple[float, float]:
    """Ours / its: of the time, and of what the store grew by; 0 where there is none."""
    seconds = statistics.median(a / b for a, b in zip(mine.seconds, its.seconds, strict=True))
    sizes = [a / b for a, b in zip(mine.grown, its.grown, strict=True) if b]
    return seconds, statistics.median(sizes) if sizes else 0.0


def _check(result: Result, name: str, step: str, tool: Tool, time_share: float, size_share: float) -> None:
    targets = TIME_TARGETS.get((name, step), {})
    limit = targets.get("peers" if tool.name in PEERS else tool.name)
    if limit is not None:
        result.checks.append(Check(f"{name}, {STEPS[step]}: time, share of {tool.label}", time_share, limit))
    if (name, step) == ("tree", "first") and tool.name in PEERS:
        result.checks.append(Check(f"{name}, {STEPS[step]}: store, share of {tool.label}", size_share, SIZE_TARGET))
