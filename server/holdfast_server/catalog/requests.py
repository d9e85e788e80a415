"""Request ids: the memory that makes a repeated create call return the first answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from holdfast_server.catalog import schema
from holdfast_server.errors import AlreadyExists, Reason

__all__ = ["RequestKey", "recall", "remember"]

_r = schema.request_ids


@dataclass(frozen=True, slots=True)
class RequestKey:
    """A caller's request id, scoped to principal and method, and the fingerprint of the request it came with."""

    principal: str
    method: str
    request_id: str
    fingerprint: str


def recall(connection: sa.Connection, key: RequestKey) -> dict[str, Any] | None:
    """What the same request gave before; None for a new one.

    Raises AlreadyExists/REQUEST_ID_REUSED when the id came with another request.
    """
    row = connection.execute(
        sa.select(_r.c.fingerprint, _r.c.result).where(
            _r.c.principal == key.principal, _r.c.method == key.method, _r.c.request_id == key.request_id
        )
    ).first()
    if row is None:
        return None
    if row[0] != key.fingerprint:
        raise AlreadyExists(
            Reason.REQUEST_ID_REUSED,
            f"request_id {key.request_id} was used for another {key.method} request",
            metadata={"request_id": key.request_id, "method": key.method},
        )
    result: dict[str, Any] = row[1]
    return result


def remember(connection: sa.Connection, key: RequestKey, result: dict[str, Any], now: int) -> None:
    connection.execute(
        _r.insert().values(
            principal=key.principal,
            method=key.method,
            request_id=key.request_id,
            fingerprint=key.fingerprint,
            result=result,
            create_time=now,
        )
    )
