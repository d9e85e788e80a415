"""A watcher in a process of its own, to be killed: prints each event as `sequence skipped kind state percent`.

Arguments: address, token, task id, after_sequence (or -), milliseconds to dawdle at each event.
"""

from __future__ import annotations

import sys
import time

import grpc

from holdfast.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc


def main() -> None:
    address, token, task_id, after, dawdle = sys.argv[1:]
    request = task_service_pb2.WatchTaskRequest(task_id=task_id)
    if after != "-":
        request.after_sequence = int(after)
    with grpc.insecure_channel(address) as channel:
        stub = task_service_pb2_grpc.TaskServiceStub(channel)
        for event in stub.WatchTask(request, metadata=[("authorization", f"Bearer {token}")], timeout=120):
            kind = task_pb2.TaskEventKind.Name(event.kind).removeprefix("TASK_EVENT_KIND_")
            state = task_pb2.TaskState.Name(event.task.state) if event.HasField("task") else "-"
            percent = event.progress.percent if event.progress.HasField("percent") else "-"
            print(event.sequence, event.skipped, kind, state, percent, flush=True)
            time.sleep(int(dawdle) / 1000)


if __name__ == "__main__":
    main()
