"""CancelTask of a 1 GiB backup at random moments: how fast it answers, how fast everything is gone."""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

from bench.report import Check, Result, milliseconds
from bench.service import TAR_GZ, WORK, ZIP, Api, Server, fresh_folder
from bench.trees import noise_tree
from holdfast.v1 import task_pb2

SIZE = 1 << 30
TARGET_ANSWER = 50.0
TARGET_GONE = 0.5


def run(options: argparse.Namespace) -> Result:
    """Moments are spread over scanning, reading and reading back."""
    runs = options.runs or 10
    tree = noise_tree("1gib", SIZE, 64)
    work = fresh_folder(WORK / "cancel")
    rng = random.Random(5)
    measured: list[dict[str, Any]] = []
    with Server(work / "data") as server, server.api() as api:
        api.register("tree", tree)
        formats = {"zip": ZIP, "tar.gz": TAR_GZ}
        length = {name: min(_duration(api, work / "whole", kind) for _ in range(2)) for name, kind in formats.items()}
        while sum(one["state"] == "CANCELLED" for one in measured) < runs and len(measured) < 3 * runs:
            name = list(formats)[len(measured) % 2]
            folder = work / f"run-{len(measured)}"
            measured.append(_cancel(api, folder, name, formats[name], rng.uniform(0.02, 0.9) * length[name]))
    result = Result(
        "cancel",
        "Cancel of a 1 GiB backup",
        ["figure", "median", "max"],
        data={"runs": measured, "whole_backup_seconds": length},
    )
    for title, key in (("CancelTask answers", "answer"), ("CANCELLED", "ended"), ("files gone", "gone")):
        values = [one[key] for one in measured if one["state"] == "CANCELLED"]
        result.rows.append([title, milliseconds(statistics.median(values)), milliseconds(max(values))])
    cancelled = [one for one in measured if one["state"] == "CANCELLED"]
    result.checks += [
        Check("slowest answer", round(max(one["answer"] for one in measured) * 1000, 1), TARGET_ANSWER, "ms"),
        Check("slowest end with files gone", round(max(one["gone"] for one in cancelled), 3), TARGET_GONE, "s"),
        Check("files left behind", sum(one["left"] for one in cancelled), 0),
    ]
    phases = sorted({one["phase"] or "starting" for one in cancelled})
    result.notes.append(
        f"{len(cancelled)} runs, half zip and half tar.gz, cancelled at random moments of a backup that takes "
        f"{length['zip']:.1f} s (zip) and {length['tar.gz']:.1f} s (tar.gz); phases met: {', '.join(phases)}."
    )
    return result


def _duration(api: Api, folder: Path, archive_format: int) -> float:
    began = time.monotonic()
    api.finish(api.start_backup(["tree"], folder, archive_format).task_id)
    elapsed = time.monotonic() - began
    for name in os.listdir(folder):
        os.unlink(folder / name)
    return elapsed


def _cancel(api: Api, folder: Path, name: str, archive_format: int, moment: float) -> dict[str, Any]:
    began = time.monotonic()
    task_id = api.start_backup(["tree"], folder, archive_format).task_id
    time.sleep(max(began + moment - time.monotonic(), 0))
    phase = api.task(task_id).progress.phase
    watch = api.watch(task_id)
    next(iter(watch))
    asked = time.monotonic()
    api.cancel(task_id)
    answered = time.monotonic()
    last = None
    for event in watch:
        last = event
    ended = time.monotonic()
    assert last is not None
    state = task_pb2.TaskState.Name(last.task.state).removeprefix("TASK_STATE_")
    while state == "CANCELLED" and os.listdir(folder) and time.monotonic() - ended < 5:
        time.sleep(0.002)
    gone = time.monotonic()
    left = len(os.listdir(folder)) if state == "CANCELLED" else 0
    for rest in os.listdir(folder):
        os.unlink(folder / rest)
    times = {"answer": answered - asked, "ended": ended - asked, "gone": gone - asked}
    return {"format": name, "moment": moment, "phase": phase, "state": state, "left": left, **times}
