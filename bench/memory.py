"""The worker's memory with two tasks running at once, over the shapes of trees that cost memory elsewhere."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.report import Check, Result
from bench.service import TAR_GZ, TAR_ZST, WORK, ZIP, Api, Server, clear_peak, fresh_folder, peak_memory
from bench.trees import SIZES, mixed_tree
from holdfast.v1 import task_pb2

TARGET_MIB = 400
FORMATS = {"zip": ZIP, "tar.gz": TAR_GZ, "tar.zst": TAR_ZST}

_MIB = 1 << 20
_GOOD = (task_pb2.TASK_STATE_COMPLETED, task_pb2.TASK_STATE_COMPLETED_WITH_WARNINGS)


@dataclass(frozen=True, slots=True)
class _Scale:
    """How large the shapes are."""

    file_size: int
    files: int
    depth: int


_SCALES = {"small": _Scale(256 * _MIB, 50_000, 1_000), "full": _Scale(8 << 30, 1_000_000, 5_000)}


def run(options: argparse.Namespace) -> Result:
    """Two backups of one source at once, then both restored at once, for each shape and format."""
    scale = _SCALES[options.size]
    work = fresh_folder(WORK / "memory")
    result = Result(
        "memory",
        f"Memory of the worker with two tasks running ({options.size} shapes)",
        ["tree", "format", "two backups", "peak", "two restores", "peak"],
    )
    with Server(work / "data") as server, server.api() as api:
        for number, (what, make) in enumerate(_shapes(options.size, scale).items()):
            if options.shape and options.shape not in what:
                continue
            room = shutil.disk_usage(work).free
            if what.endswith("random bytes") and room < 6 * scale.file_size:
                result.notes.append(f"Left out for want of disk space: {what}.")
                continue
            tree = make(work / f"tree-{number}")
            api.register(f"shape-{number}", tree)
            for name in options.format or FORMATS:
                row = _measured(server, api, f"shape-{number}", FORMATS[name], work / f"{number}-{name}")
                result.rows.append([what, name, *row])
                result.data[f"{what}, {name}"] = row
            if tree.is_relative_to(work):
                _remove(tree)
    worst = max((row[column] for row in result.data.values() for column in (1, 3)), key=_mib, default="0 MiB")
    result.checks.append(Check("largest resident size of the worker", _mib(worst), TARGET_MIB, "MiB"))
    result.notes.append(
        "Peak is VmHWM of the worker process, cleared before each pair of tasks. Both backups are of one source; each "
        "reads its archive back."
    )
    return result


def _shapes(size: str, scale: _Scale) -> dict[str, Callable[[Path], Path]]:
    """What it is → how it is made at a path; gives the folder."""
    tree, gigabytes = SIZES[size], f"{scale.file_size / 2**30:g} GiB"
    return {
        f"{tree.files:,} files, {tree.size // _MIB:,} MiB": lambda _path: mixed_tree(size, tree),
        f"one file of {gigabytes} with holes": lambda path: _sparse(path, scale.file_size),
        f"one file of {gigabytes} of random bytes": lambda path: _random(path, scale.file_size),
        f"{scale.files:,} empty files in one folder": lambda path: _empty_files(path, scale.files),
        f"{scale.depth:,} folders in each other": lambda path: _deep(path, scale.depth),
    }


def _measured(server: Server, api: Api, source_id: str, archive_format: int, folder: Path) -> list[str]:
    """(seconds, peak) of two backups at once, and of two restores."""
    folder.mkdir()
    worker = server.role("worker")
    clear_peak(worker)
    began = time.monotonic()
    tasks = [api.start_backup([source_id], folder / f"archive-{i}", archive_format).task_id for i in range(2)]
    ended = [_finished(api, task) for task in tasks]
    row = [f"{time.monotonic() - began:.1f} s", f"{peak_memory(worker) / _MIB:.0f} MiB"]
    clear_peak(worker)
    began = time.monotonic()
    backups = [task.backup_result.backup_ids[0] for task in ended]
    tasks = [api.start_restore(backup, folder / f"restored-{i}").task_id for i, backup in enumerate(backups)]
    for task in tasks:
        _finished(api, task)
    row += [f"{time.monotonic() - began:.1f} s", f"{peak_memory(worker) / _MIB:.0f} MiB"]
    if server.role("worker").pid != worker.pid:
        raise RuntimeError("the worker died")
    _remove(folder)
    return row


def _finished(api: Api, task_id: str) -> task_pb2.Task:
    task = api.finish(task_id)
    if task.state not in _GOOD:
        raise RuntimeError(f"the task failed: {task.message}: {task.error}")
    return task


def _mib(text: str) -> float:
    return float(text.split()[0])


def _remove(path: Path) -> None:
    # shutil.rmtree recurses, and gives up in deep trees.
    subprocess.run(["rm", "-rf", path], check=True)


def _sparse(path: Path, size: int) -> Path:
    """A MiB of data in every GiB of holes, or in every 32nd part."""
    path.mkdir()
    with (path / "sparse").open("wb") as file:
        file.truncate(size)
        for part in range(32):
            file.seek(part * (size // 32))
            file.write(random.Random(part).randbytes(_MIB // 4))
    return path


def _random(path: Path, size: int) -> Path:
    path.mkdir()
    rng = random.Random(5)
    with (path / "random").open("wb") as file:
        for _ in range(size // _MIB):
            file.write(rng.randbytes(_MIB))
    return path


def _empty_files(path: Path, count: int) -> Path:
    path.mkdir()
    fd = os.open(path, os.O_RDONLY)
    for number in range(count):
        os.close(os.open(f"file number {number:07d}", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd))
    os.close(fd)
    return path


def _deep(path: Path, depth: int) -> Path:
    path.mkdir()
    fd = os.open(path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("folder", dir_fd=fd)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd))
        below = os.open("folder", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    return path
