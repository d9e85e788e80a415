"""From requests to what the engine takes: paths, ids, fingerprints, and refusal of what is not built yet."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Collection, Mapping
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from holdfast_server.catalog.requests import RequestKey
from holdfast_server.core.retention import RetentionPolicy
from holdfast_server.errors import HoldfastError, Reason, Unimplemented, invalid_field
from holdfast_server.storage.names import unescape
from holdfast_server.tasks.credentials import Credentials
from holdfast_server.wallets.wallet_key import MAX_PASSWORD

__all__ = [
    "LARGEST",
    "enum_name",
    "not_available",
    "parse_credentials",
    "parse_password",
    "parse_path",
    "parse_relative",
    "parse_retention",
    "parse_seconds",
    "parse_time",
    "parse_uuid",
    "refuse_unbuilt",
    "request_key",
]

#: What the catalog's integers can hold.
LARGEST = 2**63 - 1
#: Longest secret in characters: key files fit, and nobody fills the catalog with sealed rows.
_SECRET_LENGTH = 65_536
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799


def parse_path(text: str, field: str) -> bytes:
    r"""An absolute path. `\xNN` stands for a byte, as in every path that the service shows."""
    if not text:
        raise invalid_field(field, "must be an absolute path")
    path = parse_relative(text, field)
    if not path.startswith(b"/"):
        raise invalid_field(field, "must be an absolute path", path=text[:200])
    return path


def parse_relative(text: str, field: str) -> bytes:
    r"""A path whose `\xNN` escapes stand for bytes."""
    try:
        path = unescape(text)
    except ValueError as error:
        raise invalid_field(field, str(error), path=text[:200]) from error
    if b"\0" in path:
        raise invalid_field(field, "must not hold a NUL byte")
    return path


def enum_name(enum: Any, value: int, field: str, default: str | None = None) -> str:
    """The short name of an enum value, such as ZIP. Unset takes the default; unknown and unset without one are
    refused."""
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.DESCRIPTOR.name).upper() + "_"
    if value == 0:
        if default is None:
            choices = ", ".join(name.removeprefix(prefix) for name in enum.keys()[1:])
            raise invalid_field(field, f"must be one of {choices}")
        return default
    if value not in enum.values():
        raise invalid_field(field, f"has the unknown value {value}")
    return str(enum.Name(value)).removeprefix(prefix)


def parse_time(time: Timestamp, field: str) -> int:
    """Microseconds of a timestamp in the range that protobuf defines (years 1 to 9999)."""
    if not (_FIRST_SECOND <= time.seconds <= _LAST_SECOND and 0 <= time.nanos < 1_000_000_000):
        raise invalid_field(field, "is no valid timestamp")
    return int(time.seconds * 1_000_000 + time.nanos // 1000)


def request_key(request: Any, method: str, principal: str, defaults: Mapping[str, Any]) -> RequestKey | None:
    """The request's idempotency key: its id, and the SHA-256 of its canonical JSON after defaults, without the id,
    without credentials and with every other secret left empty: a hash of a passphrase could be tried out offline.

    None when it carries no id.
    """
    if not request.HasField("request_id"):
        return None
    request_id = parse_uuid(request.request_id, "request_id")
    bare = type(request)()
    bare.CopyFrom(request)
    _empty_secrets(bare)
    values = MessageToDict(bare, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    for name in ("request_id", "credentials"):
        values.pop(name, None)
    values.update(defaults)
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return RequestKey(principal, method, request_id, hashlib.sha256(canonical.encode()).hexdigest())


def _empty_secrets(message: Message) -> None:
    """Empty every field that the protos mark `debug_redact`, at any depth; which one of a oneof is set stays."""
    for field, value in message.ListFields():
        if field.GetOptions().debug_redact:
            setattr(message, field.name, "")
        elif field.type == field.TYPE_MESSAGE:
            for one in [value] if isinstance(value, Message) else value:
                _empty_secrets(one)


def parse_credentials(request: Any, accepted: Collection[str] = ("age_identity",)) -> Credentials | None:
    """The request's secret, of one of the `accepted` kinds; None when it carries none. Errors name the kind and never
    show the secret.

    Raises InvalidArgument/INVALID_FIELD, also for a kind that the call has no use for.
    """
    if not request.HasField("credentials"):
        return None
    kind = request.credentials.WhichOneof("secret")
    if kind is None:
        raise invalid_field("credentials", "must hold one secret, or be left out")
    field = f"credentials.{kind}"
    if kind not in accepted:
        raise invalid_field(field, f"opens nothing that this call reads; it takes {' or '.join(sorted(accepted))}")
    secret = getattr(request.credentials, kind)
    if not secret:
        raise invalid_field(field, "must not be empty")
    if kind == "wallet_password":
        parse_password(secret, field)
    elif len(secret) > _SECRET_LENGTH:
        raise invalid_field(field, f"must have at most {_SECRET_LENGTH} characters")
    return Credentials(**{kind: secret})


def parse_password(password: str, field: str) -> str:
    """A wallet's password, 1 to 1,024 bytes. The error does not show it."""
    if not 1 <= len(password.encode()) <= MAX_PASSWORD:
        raise invalid_field(field, f"must have 1 to {MAX_PASSWORD:,} bytes")
    return password


def parse_seconds(duration: Duration, field: str, least: int, most: int) -> float:
    """Seconds of a span, from `least` to `most`."""
    seconds = duration.seconds + duration.nanos / 1e9
    if not least <= seconds <= most:
        raise invalid_field(field, f"must be {least:,} s to {most:,} s")
    return float(seconds)


def parse_retention(policy: Any) -> RetentionPolicy:
    """The rules of a RetentionPolicy that are set; whoever takes them checks them."""
    counts = {
        name: getattr(policy, name) if policy.HasField(name) else None
        for name in ("keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly")
    }
    span = policy.keep_within
    within = span.seconds * 1_000_000 + span.nanos // 1000 if policy.HasField("keep_within") else None
    return RetentionPolicy(**counts, keep_within_us=within)


def parse_uuid(text: str, field: str) -> str:
    """A UUID in its canonical text form."""
    try:
        parsed = str(uuid.UUID(text))
    except ValueError:
        parsed = ""
    if not parsed or parsed != text.lower():
        raise invalid_field(field, "must be a UUID", value=text[:80])
    return parsed


def refuse_unbuilt(request: Any, *fields: str) -> None:
    """Refuse fields that are in the API and not built yet, by name. A dotted name looks into a set submessage."""
    for path in fields:
        holder, *rest = path.split(".")
        message = request
        while rest:
            if not message.HasField(holder):
                break
            message, holder = getattr(message, holder), rest.pop(0)
        else:
            if any(field.name == holder for field, _ in message.ListFields()):
                raise not_available(path, f"{path} is not available in this version")


def not_available(what: str, text: str) -> HoldfastError:
    return Unimplemented(Reason.NOT_AVAILABLE, text, metadata={"field": what})
