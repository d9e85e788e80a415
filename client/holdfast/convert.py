"""Between protobuf messages and the values of `holdfast.models`: the only module that knows both.

A model has the field names of its message, so one reader per type does for all of them; the exceptions are the two
`oneof`s, a task's result and an event's payload. tests/unit/client/test_convert.py holds every model against its
message.
"""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from functools import cache
from typing import Any, TypeVar, cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from holdfast import maintenance_models, models
from holdfast.errors import BadConfiguration
from holdfast.models import Event, OtherResult, Task, TaskProblem, TaskResult
from holdfast.v1 import task_pb2

__all__ = ["RESULTS", "from_message", "to_duration", "to_event", "to_number", "to_task", "to_timestamp", "wire_path"]

M = TypeVar("M")

#: Fields of `Task.result` that have a model of their own.
RESULTS: Mapping[str, type[TaskResult]] = {
    "backup_result": models.BackupResult,
    "restore_result": models.RestoreResult,
    "restore_archive_result": models.RestoreArchiveResult,
    "verify_result": models.VerifyResult,
    "check_repository_result": maintenance_models.CheckRepositoryResult,
    "prune_repository_result": maintenance_models.PruneRepositoryResult,
    "compact_repository_result": maintenance_models.CompactRepositoryResult,
    "repair_repository_result": maintenance_models.RepairRepositoryResult,
    "export_backup_result": models.ExportBackupResult,
    "export_coins_result": models.ExportCoinsResult,
    "import_coins_result": models.ImportCoinsResult,
}

_Reader = Callable[[Any, str], Any]


def from_message(model: type[M], message: Message, **given: Any) -> M:
    """The message as `model`; `given` supplies fields that the message has no field of that name for."""
    values = {name: read(message, name) for name, read in _readers(cast("Any", model)) if name not in given}
    return model(**values, **given)


def to_task(message: task_pb2.Task) -> Task:
    """A task with its typed result."""
    field = message.WhichOneof("result")
    result: TaskResult | None = None
    if field is not None:
        part: Message = getattr(message, field)
        known = RESULTS.get(field)
        if known is not None:
            result = from_message(known, part)
        else:
            plain = MessageToDict(part, preserving_proto_field_name=True)
            result = OtherResult(name=part.DESCRIPTOR.name, fields=plain)
    return from_message(Task, message, result=result)


def to_event(message: task_pb2.TaskEvent) -> Event:
    """An event with its typed payload."""
    payload = message.WhichOneof("payload")
    warning = message.warning if payload == "warning" else None
    return from_message(
        Event,
        message,
        task=to_task(message.task) if payload == "task" else None,
        progress=from_message(models.Progress, message.progress) if payload == "progress" else None,
        problem=from_message(TaskProblem, warning.problem) if warning is not None else None,
        warning_count=warning.warning_count if warning is not None else None,
    )


def to_number(wrapper: Any, value: str | None) -> Any:
    """The wire's number of an enum value by its short name, also written as `tar.gz` or `read-data`; None: unset.

    Raises BadConfiguration for a name that there is not.
    """
    if value is None:
        return 0
    prefix = _prefix(wrapper.DESCRIPTOR)
    word = str(value).upper().replace(".", "_").replace("-", "_")
    known = [name.removeprefix(prefix) for name in wrapper.keys()[1:]]
    if word not in known:
        raise BadConfiguration(
            f"{value!r} is no {wrapper.DESCRIPTOR.name}", remedy=f"Choose one of {', '.join(known)}."
        )
    return wrapper.Value(prefix + word)


def to_duration(value: timedelta | float) -> Duration:
    """Of seconds or a span."""
    duration = Duration()
    duration.FromTimedelta(value if isinstance(value, timedelta) else timedelta(seconds=value))
    return duration


def to_timestamp(value: datetime | None) -> Timestamp | None:
    """Naive times are taken as local time, as `datetime.astimezone` does."""
    if value is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(value.astimezone(UTC))
    return stamp


def wire_path(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> str:
    r"""A path of the server as the API writes it: bytes that are not UTF-8 become `\xNN`.

    A backslash is doubled where it would otherwise read as the start of such an escape.
    """
    text = os.fsencode(path).decode("utf-8", "surrogateescape")
    if "\\" not in text and text.isascii():
        return text
    parts: list[str] = []
    for position, character in enumerate(text):
        following = text[position + 1 : position + 2]
        if "\udc80" <= character <= "\udcff":
            parts.append(f"\\x{ord(character) - 0xDC00:02x}")
        elif character == "\\" and following and (following in "\\xu" or "\udc80" <= following <= "\udcff"):
            parts.append("\\\\")
        else:
            parts.append(character)
    return "".join(parts)


@cache
def _readers(model: Any) -> tuple[tuple[str, _Reader], ...]:
    hints = typing.get_type_hints(model)
    return tuple((field.name, _reader(hints[field.name])) for field in dataclasses.fields(model))


def _reader(hint: Any) -> _Reader:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType and type(None) in arguments:
        inner = [argument for argument in arguments if argument is not type(None)]
        if len(inner) == 1:
            return _optional(inner[0])
    if origin is tuple:
        one = arguments[0]
        if dataclasses.is_dataclass(one):
            return lambda message, name: tuple(from_message(cast("Any", one), item) for item in getattr(message, name))
        return lambda message, name: tuple(getattr(message, name))
    if origin is Mapping:
        return lambda message, name: dict(getattr(message, name))
    if hint is Decimal:
        return lambda message, name: Decimal(getattr(message, name) or 0)
    if dataclasses.is_dataclass(hint):
        return lambda message, name: from_message(cast("Any", hint), getattr(message, name))
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return lambda message, name: _enum(hint, message, name) or hint("UNKNOWN")
    return lambda message, name: getattr(message, name)


def _optional(inner: Any) -> _Reader:
    if isinstance(inner, type) and issubclass(inner, Enum):
        return lambda message, name: _enum(inner, message, name)
    convert: Callable[[Any], Any] = lambda value: value  # noqa: E731  the identity
    if inner is datetime:
        convert = _utc
    elif inner is timedelta:
        convert = Duration.ToTimedelta
    elif dataclasses.is_dataclass(inner):
        convert = lambda value: from_message(cast("type[Any]", inner), value)  # noqa: E731
    return lambda message, name: convert(getattr(message, name)) if message.HasField(name) else None


def _utc(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)


def _enum(cls: type[Any], message: Message, name: str) -> Any:
    number = getattr(message, name)
    if number == 0:
        return None
    descriptor: Any = message.DESCRIPTOR.fields_by_name[name].enum_type
    value = descriptor.values_by_number.get(number)
    short = value.name.removeprefix(_prefix(descriptor)) if value is not None else "UNKNOWN"
    return cls(short if short in cls.__members__ else "UNKNOWN")


def _prefix(descriptor: Any) -> str:
    name: str = descriptor.values_by_number[0].name
    return name.removesuffix("UNSPECIFIED")
