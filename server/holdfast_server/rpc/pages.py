"""Pages of lists: 50 rows by default, at most 1,000, ending early at 1 MiB; tokens that belong to one request."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from holdfast_server.errors import invalid_field
from holdfast_server.rpc.parse import LARGEST

__all__ = ["cut_page", "page_limit", "page_start", "page_start_bytes"]

_DEFAULT_ROWS = 50
_MOST_ROWS = 1000
_MOST_BYTES = 1 << 20

Row = TypeVar("Row")
Out = TypeVar("Out", bound=Message)


def page_limit(size: int) -> int:
    """Rows of a page. Ask the catalog for one more, to see whether another page follows."""
    if size < 0:
        raise invalid_field("page_size", "must not be negative")
    return min(size, _MOST_ROWS) if size else _DEFAULT_ROWS


def page_start(request: Any, *kinds: type[int] | type[str]) -> list[Any] | None:
    """The position that the request's token names, of the given types; None at the beginning."""
    token = request.page_token
    if not token:
        return None
    try:
        fingerprint, position = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        fits = isinstance(position, list) and [type(one) for one in position] == list(kinds)
    except (ValueError, TypeError, RecursionError) as error:
        raise invalid_field("page_token", "is no token of this service") from error
    if fingerprint != _fingerprint(request):
        raise invalid_field("page_token", "belongs to a request with other filters")
    if not fits or any(isinstance(one, int) and abs(one) > LARGEST for one in position):
        raise invalid_field("page_token", "is no token of this service")
    return list(position)


def cut_page(
    request: Any,
    rows: Sequence[Row],
    messages: Sequence[Out],
    position: Callable[[Row], list[Any]],
) -> tuple[list[Out], str]:
    """The messages that fit the page, and the token of the next one, empty at the end.

    `rows` holds one more than the page when another follows; `messages` are those of the rows that may be shown.
    """
    size, fitting = 0, 0
    for message in messages[: page_limit(request.page_size)]:
        size += message.ByteSize()
        if fitting and size > _MOST_BYTES:
            break
        fitting += 1
    more = fitting < len(rows)
    return list(messages[:fitting]), _token(position(rows[fitting - 1]), request) if more else ""


def _token(position: list[Any], request: Message) -> str:
    content = json.dumps([_fingerprint(request), position]).encode()
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _fingerprint(request: Message) -> str:
    values = MessageToDict(request, preserving_proto_field_name=True)
    # Not the credentials: a hash of a passphrase in a token could be tried out offline.
    for name in ("page_token", "page_size", "credentials"):
        values.pop(name, None)
    return hashlib.sha256(json.dumps([request.DESCRIPTOR.name, values], sort_keys=True).encode()).hexdigest()[:16]


def page_start_bytes(request: Any) -> bytes | None:
    """As `page_start`, where pages begin behind one key of bytes, which tokens hold as hexadecimal digits."""
    start = page_start(request, str)
    if start is None:
        return None
    try:
        return bytes.fromhex(start[0])
    except ValueError as error:
        raise invalid_field("page_token", "is no token of this service") from error
