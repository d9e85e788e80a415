"""A process that watches one task over several connections; started by `bench.watchers`.

Prints `ready` once every watch has its first message, and at the end one JSON line with what each watch saw. With
`--serve-until-stopped` nothing else happens; the parent may freeze the process meanwhile.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict, dataclass

import grpc

from bench.service import ENDS, Api
from holdfast.v1 import task_pb2

_EXEMPT = (task_pb2.TASK_EVENT_KIND_RESET, task_pb2.TASK_EVENT_KIND_HEARTBEAT)


@dataclass(slots=True)
class Seen:
    """What one watch got. `broken_rule`: messages that did not follow `sequence == previous + 1 + skipped`."""

    events: int = 0
    resets: int = 0
    sequence: int = 0
    skipped: int = 0
    broken_rule: int = 0
    ended: bool = False
    error: str = ""


def follow(address: str, token: str, task_id: str, seen: Seen, first: threading.Semaphore) -> None:
    """One watch from RESET to the end of the task."""
    with Api(address, token) as api:
        try:
            for event in api.watch(task_id):
                if not seen.events:
                    first.release()
                seen.events += 1
                if event.kind in _EXEMPT:
                    seen.resets += event.kind == task_pb2.TASK_EVENT_KIND_RESET
                elif event.sequence != seen.sequence + 1 + event.skipped:
                    seen.broken_rule += 1
                seen.skipped += event.skipped
                seen.sequence = event.sequence
                seen.ended = event.kind == task_pb2.TASK_EVENT_KIND_STATE and event.task.state in ENDS
        except grpc.RpcError as error:
            seen.error = error.code().name
            first.release()


def main() -> None:
    """Arguments: address, token file, task id, number of watches."""
    address, token_file, task_id, number = sys.argv[1:]
    with open(token_file) as file:
        token = file.read().strip()
    watches = [Seen() for _ in range(int(number))]
    first = threading.Semaphore(0)
    threads = [
        threading.Thread(target=follow, args=(address, token, task_id, seen, first), daemon=True) for seen in watches
    ]
    for thread in threads:
        thread.start()
    for _ in watches:
        first.acquire()
    print("ready", flush=True)
    for thread in threads:
        thread.join()
    print(json.dumps([asdict(seen) for seen in watches]), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
