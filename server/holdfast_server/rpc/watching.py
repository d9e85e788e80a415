"""Streams of task events, shared by the watches and the Run calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc

from holdfast.v1 import task_pb2
from holdfast_server.catalog.rows import TaskRow
from holdfast_server.errors import Reason, Unavailable
from holdfast_server.rpc.convert import event_message
from holdfast_server.rpc.services import Services
from holdfast_server.tasks.watch import Delivery, Watch

__all__ = ["stream_all", "stream_task"]


def stream_task(
    services: Services, task_id: str, after: int | None, context: grpc.ServicerContext
) -> Iterator[task_pb2.TaskEvent]:
    """Events of one task up to its end; ends when the caller goes. Its end never stops the task."""
    return _stream(services, context, lambda watch: services.pump.follow(task_id, after, watch))


def stream_all(
    services: Services, wanted: Callable[[TaskRow], bool], context: grpc.ServicerContext
) -> Iterator[task_pb2.TaskEvent]:
    """Events of every selected task until the caller goes."""
    return _stream(services, context, lambda watch: services.pump.follow_all(wanted, watch))


def _stream(
    services: Services, context: grpc.ServicerContext, follow: Callable[[Watch], Iterator[Delivery]]
) -> Iterator[task_pb2.TaskEvent]:
    watch = Watch()
    if not context.add_callback(watch.close):
        return  # the caller is gone already
    for delivery in follow(watch):
        yield event_message(delivery)
    if services.pump.stopped and context.is_active():
        raise Unavailable(
            Reason.SHUTTING_DOWN,
            "the server shuts down; watch again from the last sequence when it is back",
            retry_after=1.0,
        )
