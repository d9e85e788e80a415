"""What a server costs while nothing happens: memory and CPU of all its processes."""

from __future__ import annotations

import argparse
import time

import psutil

from bench.report import Check, Result
from bench.service import WORK, ZIP, Server, fresh_folder, proportional_memory

SETTLE_SECONDS = 10.0
MEASURE_SECONDS = 20.0
TARGET_MIB = 300.0
TARGET_PERCENT = 5.0


def run(options: argparse.Namespace) -> Result:
    """Before any task, and again after a backup has passed through."""
    del options
    work = fresh_folder(WORK / "idle")
    tree = work / "tree"
    tree.mkdir()
    for number in range(200):
        (tree / f"{number}.txt").write_bytes(b"some text\n" * 2000)
    result = Result("idle", "Idle", ["process", "memory", "RSS", "CPU of one core"])
    with Server(work / "data") as server:
        _measure(server, "after the start", result)
        with server.api() as api:
            api.register("tree", tree)
            api.finish(api.start_backup(["tree"], work / "archives", ZIP).task_id, timeout=120)
        _measure(server, "after a backup", result)
    result.notes.append(
        f"CPU over {MEASURE_SECONDS:.0f} s after {SETTLE_SECONDS:.0f} s of rest. Memory counts shared pages by their "
        "share (PSS) where the kernel tells."
    )
    return result


def _measure(server: Server, when: str, result: Result) -> None:
    time.sleep(SETTLE_SECONDS)
    processes = server.processes()
    before = {process.pid: _cpu(process) for process in processes}
    began = time.monotonic()
    time.sleep(MEASURE_SECONDS)
    elapsed = time.monotonic() - began
    total_memory = total_rss = total_cpu = 0.0
    for process in processes:
        memory, _ = proportional_memory(process)
        cpu = 100 * (_cpu(process) - before[process.pid]) / elapsed
        rss = process.memory_info().rss
        total_memory, total_rss, total_cpu = total_memory + memory, total_rss + rss, total_cpu + cpu
        result.rows.append([f"{_role(process)}, {when}", _mib(memory), _mib(rss), f"{cpu:.1f} %"])
    result.rows.append([f"**all, {when}**", _mib(total_memory), _mib(total_rss), f"{total_cpu:.1f} %"])
    result.data[when] = {"memory": total_memory, "rss": total_rss, "cpu_percent": total_cpu}
    result.checks.append(Check(f"memory of all processes, {when}", round(total_memory / 2**20, 1), TARGET_MIB, "MiB"))
    result.checks.append(Check(f"CPU of all processes, {when}", round(total_cpu, 2), TARGET_PERCENT, "% of one core"))


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _role(process: psutil.Process) -> str:
    line = process.cmdline()
    return line[line.index("--role") + 1] if "--role" in line else "supervisor"


def _mib(size: float) -> str:
    return f"{size / 2**20:.0f} MiB"
