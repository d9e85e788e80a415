"""The one table from errors to gRPC status codes, and how an error travels.

The trailers carry `google.rpc.Status` with exactly one `ErrorInfo(reason, domain, metadata)`, plus `BadRequest` for
wrong fields and `RetryInfo` where waiting helps (AIP-193). Anything unforeseen becomes INTERNAL with a generic text;
the detail stays in the server's log under the request id.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from holdfast_server import errors
from holdfast_server.errors import HoldfastError, Reason

__all__ = ["DOMAIN", "STATUS_CODES", "abort", "code_name", "internal"]

_log = logging.getLogger(__name__)

DOMAIN = "holdfast.dev"

STATUS_CODES: Mapping[type[HoldfastError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Aborted: grpc.StatusCode.ABORTED,
    errors.DataLoss: grpc.StatusCode.DATA_LOSS,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
    errors.Internal: grpc.StatusCode.INTERNAL,
}

#: Trailers above this are cut, because peers limit metadata (8 KiB in many clients).
_DETAIL_LIMIT = 1024


def code_name(error_type: str) -> str:
    """The canonical code's name for an error class's name, as `TaskError.code` shows it."""
    for cls, code in STATUS_CODES.items():
        if cls.__name__ == error_type:
            return str(code.name)
    return str(grpc.StatusCode.INTERNAL.name)


def internal(request_id: str) -> HoldfastError:
    """What a caller sees of a defect."""
    return errors.Internal(
        Reason.INTERNAL,
        f"the service failed; its log has the reason under request id {request_id}",
        metadata={"request_id": request_id},
    )


class _Status(NamedTuple):
    """What grpc's `abort_with_status` takes, with our own trailers beside the details."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


def abort(context: grpc.ServicerContext, error: HoldfastError) -> NoReturn:
    """End the call with the error's status. Raises what grpc raises to unwind the handler.

    Trailers that the call has set already, its request id, stay.
    """
    status = rpc_status.to_status(to_status(error))
    trailers = (*(context.trailing_metadata() or ()), *status.trailing_metadata)
    context.abort_with_status(_Status(status.code, status.details, trailers))
    raise AssertionError("abort_with_status returned")


def to_status(error: HoldfastError) -> status_pb2.Status:
    """The error as `google.rpc.Status`."""
    code = next(STATUS_CODES[cls] for cls in type(error).__mro__ if cls in STATUS_CODES)
    info = error_details_pb2.ErrorInfo(
        reason=error.reason.value,
        domain=DOMAIN,
        metadata={key: _cut(value) for key, value in error.metadata.items()} | {"remedy": error.remedy},
    )
    details: list[Any] = [info]
    if error.violations:
        fields = [
            error_details_pb2.BadRequest.FieldViolation(field=v.field, description=_cut(v.description))
            for v in error.violations[:20]
        ]
        details.append(error_details_pb2.BadRequest(field_violations=fields))
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        wrapped = any_pb2.Any()
        wrapped.Pack(detail)
        packed.append(wrapped)
    return status_pb2.Status(code=getattr(code_pb2, code.name), message=_cut(error.message), details=packed)


def _cut(text: str) -> str:
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) <= _DETAIL_LIMIT:
        return encoded.decode()
    return encoded[:_DETAIL_LIMIT].decode(errors="ignore") + "…"
