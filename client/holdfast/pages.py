"""Lists that come in pages, as one iterator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from google.protobuf.message import Message

from holdfast.connection import Connection
from holdfast.convert import from_message

__all__ = ["pages"]

T = TypeVar("T")


def pages(
    connection: Connection, method: Any, request: Any, field: str, read: Callable[[Any], T] | type[T]
) -> Iterator[T]:
    """Items of all pages, fetched as they are asked for; `read` is a model or a converter of one item."""
    while True:
        reply = connection.call(method, request)
        for item in getattr(reply, field):
            yield _read(read, item)
        if not reply.next_page_token:
            return
        request.page_token = reply.next_page_token


def _read(read: Any, item: Message) -> Any:
    return from_message(read, item) if isinstance(read, type) else read(item)
