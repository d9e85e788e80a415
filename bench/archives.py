"""Backups into archives through a running server, against the tools that people use instead."""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from bench.report import Check, Result
from bench.service import TAR_GZ, WORK, ZIP, Server, fresh_folder
from bench.trees import SIZES, count, mixed_tree
from holdfast.v1 import task_pb2

#: Name → (format, peer's command, share of the peer's time that is the target).
_PAIRS: dict[str, tuple[int, list[str], float]] = {
    "zip": (ZIP, ["zip", "-qry"], 0.10),
    "tar.gz": (TAR_GZ, ["tar", "czf"], 0.12),
}
TARGET_SIZE = 1.08


def run(options: argparse.Namespace) -> Result:
    """Each run measures ours and the peer one after the other, so that both meet the same machine."""
    runs = options.runs or 3
    tree = Path(options.tree).resolve() if options.tree else mixed_tree(options.size, SIZES[options.size])
    files, size = count(tree)
    work = fresh_folder(WORK / "archives")
    result = Result(
        "archives",
        f"Archives of {files:,} files, {size / 2**20:,.0f} MiB ({'given' if options.tree else options.size} tree)",
        ["format", "by", "median", "MiB/s", "archive", "ratio", "peak RSS"],
    )
    with Server(work / "data") as server, server.api() as api:
        api.register("tree", tree)
        for name, (archive_format, peer, share) in _PAIRS.items():
            ours: list[float] = []
            theirs: list[float] = []
            our_size = their_size = 0
            has_peer = shutil.which(peer[0]) is not None
            for number in range(runs):
                folder = work / f"{name}-{number}"
                began = time.monotonic()
                task = api.finish(api.start_backup(["tree"], folder, archive_format).task_id)
                ours.append(time.monotonic() - began)
                if task.state not in (task_pb2.TASK_STATE_COMPLETED, task_pb2.TASK_STATE_COMPLETED_WITH_WARNINGS):
                    raise RuntimeError(f"the backup failed: {task.message}")
                our_size = sum(path.stat().st_size for path in folder.iterdir())
                shutil.rmtree(folder)
                if has_peer:
                    seconds, their_size = _peer(peer, work / f"peer.{name}", tree)
                    theirs.append(seconds)
            peak = _peak(server)
            result.rows.append(_row(name, "Holdfast", ours, size, our_size, f"{peak / 2**20:.0f} MiB (worker)"))
            result.data[name] = {"ours": ours, "theirs": theirs, "size": our_size, "their_size": their_size}
            if not has_peer:
                result.notes.append(f"`{peer[0]}` is not installed here: no comparison for {name}.")
                continue
            command = " ".join(peer)
            result.rows.append(_row(name, f"`{command}`", theirs, size, their_size, "not measured"))
            pairs = [mine / other for mine, other in zip(ours, theirs, strict=True)]
            result.checks += [
                Check(f"{name}: time, share of `{command}`", round(statistics.median(pairs), 3), share),
                Check(f"{name}: size, share of `{command}`", round(our_size / their_size, 3), TARGET_SIZE),
            ]
    result.notes.append(
        f"{runs} alternating pairs, page cache warm. Ours is the time from the call to the end of the task, and "
        "includes SHA-256 of every file, fsync, and reading the whole archive back; the peers do none of that."
    )
    return result


def _row(name: str, by: str, times: list[float], size: int, archive: int, peak: str) -> list[Any]:
    seconds = statistics.median(times)
    rate = f"{size / 2**20 / seconds:.0f}"
    return [name, by, f"{seconds:.2f} s", rate, f"{archive / 2**20:,.1f} MiB", f"{size / archive:.2f}", peak]


def _peer(command: list[str], output: Path, tree: Path) -> tuple[float, int]:
    output.unlink(missing_ok=True)
    began = time.monotonic()
    subprocess.run([*command, str(output), "."], cwd=tree, check=True, stdout=subprocess.DEVNULL)
    elapsed = time.monotonic() - began
    size = output.stat().st_size
    output.unlink()
    return elapsed, size


def _peak(server: Server) -> int:
    """Highest resident size of the worker since it started, in bytes."""
    process = server.role("worker")
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return int(process.memory_info().rss)
