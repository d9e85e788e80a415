"""Two hundred watchers on one running task, twenty of them frozen: what short calls and the other watchers notice."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import grpc

from bench.report import ROOT, Check, Result, milliseconds, percentile
from bench.service import WORK, ZIP, Api, Server, fresh_folder
from bench.trees import noise_tree

WATCHERS = 200
FROZEN = 20
PER_PROCESS = 10
SOURCES = 60
MEASURE_SECONDS = 10.0
TARGET_FACTOR = 5.0
TARGET_FREED = 30.0

_Latencies = dict[str, list[float]]


def run(options: argparse.Namespace) -> Result:
    """One backup task of many sources over the same tree runs meanwhile and keeps every core busy."""
    del options
    tree = noise_tree("256mib", 256 << 20, 32)
    work = fresh_folder(WORK / "watchers")
    # Exactly as many places as watchers, so that a further watch is accepted only when a frozen one was freed.
    with Server(work / "data", server_max_watchers=WATCHERS) as server, server.api() as api:
        sources = [f"tree-{number:02d}" for number in range(SOURCES)]
        for source in sources:
            api.register(source, tree)
        warm = api.start_backup(sources[:1], work / "warm", ZIP)
        api.finish(warm.task_id)
        phases = {"quiet, no task": _measure(api, warm.task_id)}
        task_id = api.start_backup(sources, work / "archives", ZIP).task_id
        time.sleep(1)
        phases["task running, no watcher"] = _measure(api, task_id)
        clients = [_client(server, task_id) for _ in range(WATCHERS // PER_PROCESS)]
        try:
            for client in clients:
                _expect_ready(client)
            phases[f"{WATCHERS} watchers"] = _measure(api, task_id)
            frozen, live = clients[: FROZEN // PER_PROCESS], clients[FROZEN // PER_PROCESS :]
            for client in frozen:
                client.send_signal(signal.SIGSTOP)
            frozen_at = time.monotonic()
            phases[f"{WATCHERS} watchers, {FROZEN} frozen"] = _measure(api, task_id)
            freed = _until_freed(api, task_id, frozen_at)
            still_running = api.task(task_id).progress.percent
            rss = server.role("edge").memory_info().rss
            api.cancel(task_id)
            seen = [one for client in live for one in _outcome(client)]
        finally:
            for client in clients:
                client.kill()
                client.wait()
    shutil.rmtree(work / "archives")
    return _result(phases, freed, seen, rss, still_running)


def _result(phases: dict[str, _Latencies], freed: list[float], seen: Sequence[Any], rss: int, percent: float) -> Result:
    result = Result(
        "watchers",
        f"{WATCHERS} watchers on one task, {FROZEN} of them frozen",
        ["phase", "GetTask median", "p99", "ListBackups median", "p99"],
        data={"phases": phases, "freed_after": freed, "live": seen, "edge_rss": rss},
    )
    quiet = phases["quiet, no task"]
    for phase, latencies in phases.items():
        row: list[str] = [phase]
        for call in ("GetTask", "ListBackups"):
            row += [milliseconds(statistics.median(latencies[call])), milliseconds(percentile(latencies[call], 0.99))]
        result.rows.append(row)
    for phase, latencies in phases.items():
        if latencies is quiet or "watchers" not in phase:
            continue
        for call in ("GetTask", "ListBackups"):
            factor = statistics.median(latencies[call]) / statistics.median(quiet[call])
            result.checks.append(Check(f"{call}, {phase}: median as a multiple of quiet", factor, TARGET_FACTOR))
    result.checks += [
        Check("frozen watchers' places free again, last after", freed[-1], TARGET_FREED, "s"),
        Check(f"live watchers ({len(seen)}) without the end state", sum(not one["ended"] for one in seen), 0),
        Check("messages against the sequence rule", sum(one["broken_rule"] for one in seen), 0),
        Check("live watchers cut off", sum(bool(one["error"]) for one in seen), 0),
    ]
    events = statistics.median(one["events"] for one in seen)
    skipped = statistics.median(one["skipped"] for one in seen)
    result.notes.append(
        f"{WATCHERS // PER_PROCESS} client processes, one connection per watcher; the task backs up {SOURCES} times "
        f"the same 256 MiB and uses every core (at {percent:.0f} % when the last place was free). Clients and server "
        f"share the machine. Edge at the end: {rss / 2**20:.0f} MiB RSS. First frozen watcher freed after "
        f"{freed[0]:.1f} s. Per live watcher in the median {events:.0f} events and {skipped:.0f} skipped PROGRESS."
    )
    return result


def _measure(api: Api, task_id: str) -> _Latencies:
    """Alternate the two calls in a closed loop with short pauses."""
    latencies: _Latencies = {"GetTask": [], "ListBackups": []}
    calls = (("GetTask", lambda: api.task(task_id)), ("ListBackups", api.list_backups))
    until = time.monotonic() + MEASURE_SECONDS
    while time.monotonic() < until:
        for name, call in calls:
            began = time.perf_counter()
            call()
            latencies[name].append(time.perf_counter() - began)
            time.sleep(0.005)
    return latencies


def _client(server: Server, task_id: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "client")])}
    token_file = server.data_dir / "admin.token"
    return subprocess.Popen(
        [sys.executable, "-m", "bench.watching_client", server.address, str(token_file), task_id, str(PER_PROCESS)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def _expect_ready(client: subprocess.Popen[str]) -> None:
    assert client.stdout is not None
    if client.stdout.readline().strip() != "ready":
        raise RuntimeError("a watching client did not start")


def _outcome(client: subprocess.Popen[str]) -> list[dict[str, Any]]:
    assert client.stdout is not None
    line = client.stdout.readline()
    return list(json.loads(line))


def _until_freed(api: Api, task_id: str, frozen_at: float) -> list[float]:
    """Seconds after which each of the frozen watchers' places was free: as many further watches are opened."""
    streams: list[Any] = []
    freed: list[float] = []
    while len(freed) < FROZEN and time.monotonic() - frozen_at < 120:
        stream = api.watch(task_id)
        try:
            next(iter(stream))
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            time.sleep(0.1)
        else:
            freed.append(time.monotonic() - frozen_at)
            streams.append(stream)
    for stream in streams:
        stream.cancel()
    return freed if len(freed) == FROZEN else [*freed, float("inf")]
