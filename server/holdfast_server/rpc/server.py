"""The gRPC server: its limits, its services, health and reflection.

Figures for the channel options come from docs/architecture.md ("Frozen clients"): without `http2.ping_timeout_ms` a
frozen client holds its thread for a minute although keepalive is on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from holdfast_server.rpc.errors import abort
from holdfast_server.rpc.interceptors import CallInterceptor, not_built

__all__ = ["Edge", "NotBuiltYet", "build_server"]

_MIB = 1 << 20

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 4 * _MIB),
    ("grpc.max_send_message_length", 8 * _MIB),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.absolute_max_metadata_size", 16 * 1024),
    ("grpc.max_concurrent_streams", 1000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
)


@dataclass(slots=True)
class Edge:
    """A built server with its health service."""

    server: grpc.Server
    health: health.HealthServicer
    services: tuple[str, ...]
    address: str

    def start(self) -> None:
        self.server.start()
        for name in ("", *self.services):
            self.health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def stop(self, grace: float) -> threading.Event:
        """Say NOT_SERVING, take no more calls, give running ones `grace` seconds."""
        self.health.enter_graceful_shutdown()
        stopped: threading.Event = self.server.stop(grace)
        return stopped


class NotBuiltYet(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers calls of services that are in the protos and not served yet: UNIMPLEMENTED/NOT_AVAILABLE, by name."""

    def __init__(self, files: Sequence[FileDescriptor], served: Sequence[str]) -> None:
        self._methods = frozenset(
            f"/{service.full_name}/{method.name}"
            for file in files
            for service in file.services_by_name.values()
            if service.full_name not in served
            for method in service.methods
        )

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method not in self._methods:
            return None

        def refuse(_request: bytes, context: grpc.ServicerContext) -> None:
            abort(context, not_built(details.method))

        return grpc.unary_unary_rpc_method_handler(refuse)


class _Symbols:
    """The default descriptor pool, which finds methods too: Python's does not, and `grpcurl describe` asks for them."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802  the pool's name
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            found = self._pool.FindServiceByName(service)
            if method not in found.methods_by_name:
                raise
            return found.file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


def build_server(
    listen: str,
    interceptor: CallInterceptor,
    register: Callable[[grpc.Server], Sequence[str]],
    not_built: Callable[[Sequence[str]], NotBuiltYet],
    *,
    threads: int,
    with_reflection: bool,
) -> Edge:
    """Build and bind, without starting. Raises OSError when the address cannot be bound.

    `register` adds the servicers and gives the full names of their services.
    """
    pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="rpc")
    server = grpc.server(pool, interceptors=[interceptor], options=OPTIONS, compression=grpc.Compression.NoCompression)
    services = tuple(register(server))
    server.add_generic_rpc_handlers((not_built(services),))
    health_servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    if with_reflection:
        names = [*services, health.SERVICE_NAME, reflection.SERVICE_NAME]
        symbols: Any = _Symbols()
        reflection.enable_server_reflection(names, server, symbols)
    return Edge(server, health_servicer, services, _bind(server, listen))


def _bind(server: Any, listen: str) -> str:
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise OSError(f"{listen} is in use, or no address of this machine") from error
    if port == 0:
        raise OSError(f"{listen} is in use, or no address of this machine")
    if listen.startswith("unix:"):
        return listen
    return f"{listen.rpartition(':')[0]}:{port}"
