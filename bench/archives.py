"""Backups into archives through a running server, against the tools that people use instead.

Every tool takes its turn in every round, so that all of them meet the same machine; a figure against a tool is the
median over the rounds of ours divided by its. Before each turn the tree is read once: a page cache that has gone cold
says nothing about a program.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.processes import Watched
from bench.report import Check, Result
from bench.service import TAR_GZ, TAR_ZST, WORK, ZIP, Api, Server, clear_peak, fresh_folder, peak_memory
from bench.trees import SIZES, count, mixed_tree, warm
from holdfast.v1 import task_pb2

__all__ = ["run"]

#: Largest share of the reference's time and size.
TIMES = {"zip": 0.10, "tar.gz": 0.12}
TARGET_SIZE = 1.08


@dataclass(slots=True)
class _Tool:
    """One way to copy the tree. `archive_format` is ours; `command` another's, run inside the tree with the output's
    path behind it, or before it and `.` for `cp`."""

    group: str
    label: str
    archive_format: int = 0
    command: tuple[str, ...] = ()
    times: list[float] = field(default_factory=list)
    size: int = 0
    peak: int = 0

    @property
    def is_ours(self) -> bool:
        return not self.command

    @property
    def is_here(self) -> bool:
        return self.is_ours or all(shutil.which(name) for name in (self.command[0], *self._filters()))

    def _filters(self) -> tuple[str, ...]:
        return {"-Ipigz": ("pigz",), "--zstd": ("zstd",)}.get(self.command[1], ())


def _tools() -> list[_Tool]:
    return [
        _Tool("zip", "Holdfast", ZIP),
        _Tool("zip", "zip -qry", command=("zip", "-qry")),
        _Tool("tar.gz", "Holdfast", TAR_GZ),
        _Tool("tar.gz", "tar czf", command=("tar", "czf")),
        _Tool("tar.gz", "tar -Ipigz -cf", command=("tar", "-Ipigz", "-cf")),
        _Tool("tar.zst", "Holdfast", TAR_ZST),
        _Tool("tar.zst", "tar --zstd -cf", command=("tar", "--zstd", "-cf")),
        _Tool("copy", "cp -r", command=("cp", "-r", ".")),
    ]


def run(options: argparse.Namespace) -> Result:
    runs = options.runs or 3
    tree = Path(options.tree).resolve() if options.tree else mixed_tree(options.size, SIZES[options.size])
    files, size = count(tree)
    work = fresh_folder(WORK / "archives")
    result = Result(
        "archives",
        f"Archives of {files:,} files, {size / 2**20:,.0f} MiB ({'given' if options.tree else options.size} tree)",
        ["format", "by", "median", "MiB/s", "ours / its", "size", "ours / its", "peak memory"],
    )
    tools = [tool for tool in _tools() if tool.is_here]
    missing = [tool.label for tool in _tools() if not tool.is_here]
    with Server(work / "data") as server, server.api() as api:
        api.register("tree", tree)
        for number in range(runs):
            for tool in tools:
                warm(tree)
                output = work / f"{tool.group}-{number}"
                if tool.is_ours:
                    _ours(tool, server, api, output)
                else:
                    _theirs(tool, tree, output)
    _report(result, tools, size)
    if missing:
        result.notes.append(f"Not installed here, so not compared: {', '.join(f'`{label}`' for label in missing)}.")
    result.notes.append(
        f"{runs} rounds, page cache warm. Ours is the time from the call to the end of the task, and includes SHA-256 "
        "of every file, unpacking and comparing all that was packed, fsync, and reading the archive back; the others "
        "do none of that. Peak memory: ours of the worker, the others' of their largest process."
    )
    return result


def _ours(tool: _Tool, server: Server, api: Api, folder: Path) -> None:
    worker = server.role("worker")
    clear_peak(worker)
    began = time.monotonic()
    task = api.finish(api.start_backup(["tree"], folder, tool.archive_format).task_id)
    tool.times.append(time.monotonic() - began)
    if task.state not in (task_pb2.TASK_STATE_COMPLETED, task_pb2.TASK_STATE_COMPLETED_WITH_WARNINGS):
        raise RuntimeError(f"the backup failed: {task.message}")
    tool.peak = max(tool.peak, peak_memory(worker))
    tool.size = sum(path.stat().st_size for path in folder.iterdir())
    shutil.rmtree(folder)


def _theirs(tool: _Tool, tree: Path, output: Path) -> None:
    is_copy = tool.group == "copy"
    command = [*tool.command, str(output)] if is_copy else [*tool.command, str(output.with_suffix("")), "."]
    target = output if is_copy else output.with_suffix("")
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=tree, stdout=subprocess.DEVNULL)
    with Watched(process.pid, children=True) as watched:
        process.wait()
        tool.times.append(time.monotonic() - began)
    tool.peak = max(tool.peak, watched.peak)
    if process.returncode:
        raise RuntimeError(f"{tool.label} failed with {process.returncode}")
    if is_copy:
        tool.size = count(target)[1]
        shutil.rmtree(target)
        return
    found = next(path for path in target.parent.iterdir() if path.name.startswith(target.name) and path.is_file())
    tool.size = found.stat().st_size
    found.unlink()


def _report(result: Result, tools: list[_Tool], size: int) -> None:
    ours = {tool.group: tool for tool in tools if tool.is_ours}
    for tool in tools:
        seconds = statistics.median(tool.times)
        mine = ours.get(tool.group)
        time_share = size_share = ""
        if mine is not None and not tool.is_ours:
            pairs = [a / b for a, b in zip(mine.times, tool.times, strict=True)]
            time_share, size_share = f"{statistics.median(pairs):.2f}", f"{mine.size / tool.size:.3f}"
            if tool.label in ("zip -qry", "tar czf"):
                result.checks += [
                    Check(
                        f"{tool.group}: time, share of `{tool.label}`",
                        round(statistics.median(pairs), 3),
                        TIMES[tool.group],
                    ),
                    Check(f"{tool.group}: size, share of `{tool.label}`", round(mine.size / tool.size, 3), TARGET_SIZE),
                ]
        label = tool.label if tool.is_ours else f"`{tool.label}`"
        result.rows.append(
            [
                tool.group, label, f"{seconds:.2f} s", f"{size / 2**20 / seconds:.0f}", time_share,
                f"{tool.size / 2**20:,.1f} MiB", size_share, f"{tool.peak / 2**20:.0f} MiB",
            ]
        )  # fmt: skip
        result.data[f"{tool.group} {tool.label}"] = {"times": tool.times, "size": tool.size, "peak": tool.peak}
