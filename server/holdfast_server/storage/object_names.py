"""What objects may be called, and what every store of them agrees on."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = [
    "FLAT_CLASSES",
    "MAX_CREATED",
    "Buffer",
    "ObjectInfo",
    "ObjectMissing",
    "check_created",
    "check_prefix",
    "check_range",
    "checked_name",
    "is_name",
]

Buffer = bytes | bytearray | memoryview

#: `create_if_absent` takes no more bytes than this.
MAX_CREATED = 1 << 20

#: Objects of these classes are `<class>/<id>`; the others are `config` and `log/<writer>/<sequence>`.
FLAT_CLASSES = ("keys", "packs", "index", "snapshots", "runs")

_COMPONENT = "[a-z0-9][a-z0-9.-]{0,127}"
_FLAT = "|".join(FLAT_CLASSES)
_NAME = re.compile(rf"config|(?:{_FLAT})/{_COMPONENT}|log/{_COMPONENT}/{_COMPONENT}")
_PREFIX = re.compile(rf"|config|(?:{_FLAT})/(?:{_COMPONENT})?|log/(?:{_COMPONENT}(?:/(?:{_COMPONENT})?)?)?")


class ObjectMissing(Exception):
    """There is no object of this `name`. Whoever reads decides what that means."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"there is no object {self.name}"


class ObjectInfo(NamedTuple):
    """An object that exists: its full name, its size in bytes."""

    name: str
    size: int


def is_name(name: str) -> bool:
    """Whether an object can have this name."""
    return _NAME.fullmatch(name) is not None


def checked_name(name: str) -> str:
    """The name itself if an object can have it; ValueError otherwise."""
    if not is_name(name):
        raise ValueError(f"no object can be named {name!r}")
    return name


def check_prefix(prefix: str) -> None:
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(f"no object's name can begin with {prefix!r}")


def check_range(offset: int, length: int | None) -> None:
    if offset < 0 or (length is not None and length < 0):
        raise ValueError(f"no range of an object: {length} bytes from {offset}")


def check_created(content: bytes) -> None:
    if len(content) > MAX_CREATED:
        raise ValueError(f"{len(content)} bytes are too many for an object that is created if absent")
