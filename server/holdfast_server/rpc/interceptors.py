"""What every call passes through: request id, authentication, stream places, unknown fields, errors to statuses."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import grpc
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from holdfast_server.auth import Authenticator, Principal
from holdfast_server.errors import HoldfastError, Reason, ResourceExhausted, Unimplemented, invalid_field
from holdfast_server.rpc.errors import abort, internal

__all__ = ["CallInterceptor", "StreamPlaces", "current_principal", "not_built"]

_log = logging.getLogger(__name__)

_principal: ContextVar[Principal] = ContextVar("principal")

_HEALTH = "/grpc.health.v1.Health/"
_REFLECTION = ("/grpc.reflection.v1alpha.ServerReflection/", "/grpc.reflection.v1.ServerReflection/")


def current_principal() -> Principal:
    """Who makes the call that this thread serves."""
    return _principal.get()


class StreamPlaces:
    """How many streams may run at a time. One more is refused at once, because each holds a thread."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._free = threading.Semaphore(limit)

    def take(self) -> None:
        """Raises ResourceExhausted/TOO_MANY_WATCHERS."""
        if not self._free.acquire(blocking=False):
            raise ResourceExhausted(
                Reason.TOO_MANY_WATCHERS,
                f"all {self._limit} streams are in use",
                metadata={"limit": str(self._limit)},
                retry_after=1.0,
            )

    def give_back(self) -> None:
        self._free.release()


class CallInterceptor(grpc.ServerInterceptor):  # type: ignore[misc]
    """Wraps every handler. Calls of our own services need a principal; health, and reflection where on, do not."""

    def __init__(self, authenticator: Authenticator, places: StreamPlaces, open_reflection: bool) -> None:
        self._authenticator = authenticator
        self._places = places
        self._open = (_HEALTH, *(_REFLECTION if open_reflection else ()))

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler | None],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        handler = continuation(details)
        if handler is None:
            return None
        public = details.method.startswith(self._open)
        if handler.request_streaming:
            # Only reflection streams both ways; its requests are no messages of ours.
            return grpc.stream_stream_rpc_method_handler(
                self._stream(handler.stream_stream, public, details.method),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(handler.unary_stream, public, details.method),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(handler.unary_unary, public, details.method),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _unary(self, behaviour: Callable[..., Any], public: bool, method: str) -> Callable[..., Any]:
        def call(request: Message, context: grpc.ServicerContext) -> Any:
            request_id = self._enter(context)
            try:
                if not public:
                    self._admit(request, context)
                return behaviour(request, context)
            except HoldfastError as error:
                abort(context, error)
            except NotImplementedError:
                abort(context, not_built(method))
            except Exception as error:  # noqa: BLE001  defects must not leak to callers
                self._defect(context, method, request_id, error)

        return call

    def _stream(self, behaviour: Callable[..., Any], public: bool, method: str) -> Callable[..., Any]:
        def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            request_id = self._enter(context)
            placed = False
            try:
                if not public:
                    self._admit(request, context)
                # Public streams take a place too: each holds a thread, whoever asks.
                self._places.take()
                placed = True
                yield from behaviour(request, context)
            except HoldfastError as error:
                abort(context, error)
            except NotImplementedError:
                abort(context, not_built(method))
            except GeneratorExit:
                raise
            except Exception as error:  # noqa: BLE001  defects must not leak to callers
                self._defect(context, method, request_id, error)
            finally:
                if placed:
                    self._places.give_back()

        return call

    def _enter(self, context: grpc.ServicerContext) -> str:
        request_id = str(uuid.uuid4())
        context.set_trailing_metadata((("holdfast-request-id", request_id),))
        return request_id

    def _admit(self, request: Any, context: grpc.ServicerContext) -> None:
        values = [str(value) for key, value in context.invocation_metadata() if key == "authorization"]
        _principal.set(self._authenticator.authenticate(values))
        if isinstance(request, Message):
            refuse_unknown_fields(request)

    def _defect(self, context: grpc.ServicerContext, method: str, request_id: str, error: Exception) -> None:
        if not context.is_active() or context.code() is not None:
            raise error  # the handler aborted, or the caller is gone
        _log.exception("request %s to %s failed", request_id, method, exc_info=error)
        abort(context, internal(request_id))


def not_built(method: str) -> HoldfastError:
    """A call that is in the protos and not served yet. `method` as in `/holdfast.v1.BackupService/DiffBackups`."""
    name = method.rpartition(".")[2].replace("/", ".")
    return Unimplemented(Reason.NOT_AVAILABLE, f"{name} is not available in this version", metadata={"method": name})


def refuse_unknown_fields(message: Message, path: str = "") -> None:
    """A field this version does not know may carry a condition that must not be ignored.

    Raises InvalidArgument/INVALID_FIELD with the field's number.
    """
    for unknown in UnknownFieldSet(message):  # type: ignore[attr-defined]
        where = f"{path}#{unknown.field_number}"
        raise invalid_field(where, f"this version of the service does not know field {unknown.field_number} here")
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        is_list = hasattr(value, "__len__") and not isinstance(value, Message)
        for index, one in enumerate(value if is_list else [value]):
            if isinstance(one, Message):
                name = f"{field.name}[{index}]" if is_list else field.name
                refuse_unknown_fields(one, f"{path}{name}.")
