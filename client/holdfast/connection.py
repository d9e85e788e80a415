"""One channel to one server: the token on every call, deadlines, and repeats that are safe.

Everything above calls through `Connection`; nothing else touches a channel.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.message import Message

from holdfast.errors import (
    BadConfiguration,
    ConnectionFailed,
    DeadlineExceeded,
    HoldfastError,
    Unauthenticated,
    from_rpc_error,
)
from holdfast.retry import Backoff, is_passing
from holdfast.settings import Settings, is_local
from holdfast.v1 import (
    backup_service_pb2_grpc,
    export_service_pb2_grpc,
    repository_service_pb2_grpc,
    restore_service_pb2_grpc,
    source_service_pb2_grpc,
    task_service_pb2_grpc,
    wallet_service_pb2_grpc,
)

__all__ = ["Connection"]

_MIB = 1 << 20

_OPTIONS: tuple[tuple[str, int], ...] = (
    # The server refuses pings closer than 5 s; 20 s finds a dead peer without waking anybody for nothing.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 8 * _MIB),
    ("grpc.max_send_message_length", 8 * _MIB),
    ("grpc.enable_retries", 1),
    # A server that was restarted is to be found again within seconds, not after gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),
)


class Connection:
    """A channel with its credentials. Safe to use from many threads; `close` ends every running call."""

    def __init__(self, settings: Settings, *, timeout: float, connect_timeout: float) -> None:
        self.address = settings.address
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self._note = settings.note
        self._metadata = (("authorization", f"Bearer {settings.token}"),) if settings.token else ()
        self._reached = threading.Event()
        self._closed = False
        options = list(_OPTIONS)
        if is_local(settings.address):
            # A proxy of the environment must not take calls that stay on this machine, nor see the token.
            options.append(("grpc.enable_http_proxy", 0))
        self.channel = grpc.insecure_channel(settings.address, options=options)
        self.sources = _stub(source_service_pb2_grpc.SourceServiceStub, self.channel)
        self.wallets = _stub(wallet_service_pb2_grpc.WalletServiceStub, self.channel)
        self.backups = _stub(backup_service_pb2_grpc.BackupServiceStub, self.channel)
        self.exports = _stub(export_service_pb2_grpc.ExportServiceStub, self.channel)
        self.restores = _stub(restore_service_pb2_grpc.RestoreServiceStub, self.channel)
        self.repositories = _stub(repository_service_pb2_grpc.RepositoryServiceStub, self.channel)
        self.tasks = _stub(task_service_pb2_grpc.TaskServiceStub, self.channel)

    def close(self) -> None:
        """Idempotent."""
        self._closed = True
        self.channel.close()

    def call(self, method: Any, request: Message, *, repeatable: bool = True) -> Any:
        """One unary call. Raises what `holdfast.errors` says.

        UNAVAILABLE that passes by itself is repeated with backoff until `timeout`, or until `connect_timeout` as long
        as the server was never reached. A call that is not `repeatable` is repeated only if the server itself said
        that it did not happen.
        """
        begin = time.monotonic()
        backoff = Backoff()
        while True:
            self._check_open()
            left = begin + self.timeout - time.monotonic()
            try:
                reply = method(request, timeout=max(left, 0.001), metadata=self._metadata)
            except grpc.RpcError as cause:
                error = self.translate(cause)
                if not is_passing(error) or not (repeatable or error.reason):
                    raise error from cause
                delay = backoff.delay(error)
                if time.monotonic() + delay > begin + self.patience(self.timeout):
                    raise error from cause
                backoff.sleep(delay)
            else:
                self._reached.set()
                return reply

    def create(self, method: Any, request: Any) -> Any:
        """A call that carries a request_id, which makes repeats safe; a failure without an answer names it."""
        try:
            return self.call(method, request)
        except (ConnectionFailed, DeadlineExceeded) as error:
            error.metadata["request_id"] = request.request_id
            if isinstance(error, DeadlineExceeded):
                error.remedy = f"It may still happen. Repeat it safely with request_id {request.request_id}."
            raise

    @contextmanager
    def stream(self, method: Any, request: Message, *, timeout: float | None = None) -> Iterator[Iterator[Any]]:
        """A server's stream of messages. Leaving the block ends it. Raises translated errors, repeats nothing."""
        self._check_open()
        call = method(request, timeout=timeout, metadata=self._metadata)
        try:
            yield self._messages(call)
        except grpc.RpcError as cause:
            raise self.translate(cause) from cause
        finally:
            call.cancel()

    def translate(self, error: grpc.RpcError) -> HoldfastError:
        """The error as one of `holdfast.errors`, with what this side knows about it."""
        translated = from_rpc_error(error, self.address)
        if not isinstance(translated, ConnectionFailed | DeadlineExceeded):
            self._reached.set()
        if isinstance(translated, Unauthenticated) and self._note:
            translated.message = f"{translated.message}; {self._note}"
            translated.args = (translated.message,)
        return translated

    def patience(self, timeout: float) -> float:
        """For how long to repeat: shorter as long as nothing shows that there is a server at all."""
        return timeout if self._reached.is_set() else min(timeout, self.connect_timeout)

    def _messages(self, call: Any) -> Iterator[Any]:
        for message in call:
            self._reached.set()
            yield message

    def _check_open(self) -> None:
        if self._closed:
            raise BadConfiguration("the client is closed", remedy="Connect again.")


def _stub(cls: Any, channel: grpc.Channel) -> Any:
    # Generated stubs have no types of their own; the requests and answers have.
    return cls(channel)
