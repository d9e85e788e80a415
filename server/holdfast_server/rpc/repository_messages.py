"""Repositories as messages: pure functions, no rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.v1 import repository_pb2
from holdfast_server.core.repository_place import SignedReceipt
from holdfast_server.rpc.convert import optional_time, timestamp
from holdfast_server.rpc.errors import code_name
from holdfast_server.storage.names import escape
from holdfast_server.tasks.repository_states import ShownRepository

__all__ = ["key_message", "receipt_message", "repository_message"]

_COUNTS = frozenset(field.name for field in repository_pb2.RepositoryStatistics.DESCRIPTOR.fields) - {"count_time"}


def repository_message(row: ShownRepository, *, with_statistics: bool = True) -> repository_pb2.Repository:
    counts = row.statistics if with_statistics else None
    return repository_pb2.Repository(
        repository_id=row.repository_id,
        display_name=row.display_name,
        location=escape(row.location),
        state=f"REPOSITORY_STATE_{row.state}",
        sealed=row.sealed,
        format_version=row.format_version,
        compression_level=row.compression_level,
        keys=[key_message(key) for key in row.keys],
        key_epoch=row.key_epoch,
        create_time=timestamp(row.create_time),
        update_time=timestamp(row.update_time),
        unlock_expire_time=optional_time(row.unlock_expire),
        statistics=None if counts is None else _statistics_message(counts),
        last_check_time=optional_time(row.last_check_time),
        problem=None if row.problem is None else _problem_message(row.problem),
    )


def key_message(slot: Mapping[str, Any]) -> repository_pb2.RepositoryKey:
    return repository_pb2.RepositoryKey(
        key_id=slot["key_id"],
        kind=f"REPOSITORY_KEY_KIND_{slot['kind']}",
        display_name=slot["display_name"],
        create_time=timestamp(slot["create_time"]),
    )


def receipt_message(receipt: SignedReceipt) -> repository_pb2.RepositoryReceipt:
    return repository_pb2.RepositoryReceipt(
        time=timestamp(receipt.time_us),
        positions=[
            repository_pb2.LogPosition(writer_id=writer, sequence=sequence, hash=hash_)
            for writer, sequence, hash_ in receipt.positions
        ],
        signature=receipt.signature,
        public_key=receipt.public_key,
    )


def _problem_message(record: Mapping[str, Any]) -> repository_pb2.RepositoryProblem:
    return repository_pb2.RepositoryProblem(
        code=code_name(record["type"]),
        reason=record["reason"],
        message=record["message"],
        remedy=record["remedy"],
        metadata=record["metadata"],
    )


def _statistics_message(counts: dict[str, int]) -> repository_pb2.RepositoryStatistics:
    values = {name: counts[name] for name in _COUNTS}
    return repository_pb2.RepositoryStatistics(**values, count_time=timestamp(counts["count_time"]))
