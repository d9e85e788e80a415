"""`python -m tests.unit.archive.restoring`: restores archives in processes with little memory, one line of JSON each.

Reads jobs from stdin, forks for each, and answers with what became of it: the extractor's counts or the error's reason,
the process's peak memory, and its status if it did not end by itself.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from holdfast_server.archive.extract import extract
from holdfast_server.archive.reader import Limits, open_reader
from holdfast_server.errors import HoldfastError

#: Address space, so no more can be resident either.
MEMORY = 256 << 20
#: A safety net against hangs.
CPU_SECONDS = 60


class Restorer:
    """The process that forks; one answer for each job."""

    def __init__(self) -> None:
        paths = os.pathsep.join(["server", os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=Path(__file__).parents[3],
            env={**os.environ, "PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def restore(self, archive: Path, format_name: str, root: Path, **limits: int) -> dict[str, Any]:
        """What became of restoring without a manifest into the existing folder `root`."""
        assert self._process.stdin
        assert self._process.stdout
        job = {"archive": os.fspath(archive), "format": format_name, "root": os.fspath(root), "limits": limits}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def _restored(job: dict[str, Any]) -> dict[str, Any]:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    root = os.open(job["root"], os.O_RDONLY | os.O_DIRECTORY)
    try:
        with open(job["archive"], "rb") as file:
            reader = open_reader(job["format"], file, limits=Limits(**job["limits"]), check=lambda: None)
            done = extract(reader, root, check=lambda: None, expect_manifest=False)
    except HoldfastError as error:
        return {"reason": error.reason.name, "message": error.message}
    counts = [done.files, done.directories, done.symlinks, done.hardlinks]
    return {"restored": counts, "bytes": done.bytes, "warnings": list(done.warnings)}


def _forked(job: dict[str, Any]) -> dict[str, Any]:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            answer = _restored(job)
            answer["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
            with os.fdopen(writing, "w") as pipe:
                json.dump(answer, pipe)
        except BaseException as error:
            os.write(writing, json.dumps({"failed": repr(error)}).encode())
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return {**json.loads(text or "{}"), "status": os.waitstatus_to_exitcode(status)}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(_forked(json.loads(line))), flush=True)
