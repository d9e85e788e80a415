"""Whole objects by name: all that a repository asks of a storage.

There is no rename, update or append, so that a folder and a bucket promise the same. An object appears whole or not at
all, and for good: an acknowledged `put` or `create_if_absent` survives a power failure. A deletion may come back after
one. When a call fails, an object that it should have made is absent or whole, and one that it should have replaced is
wholly old or wholly new; whoever must know looks.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from holdfast_server.errors import FailedPrecondition, HoldfastError, Reason
from holdfast_server.storage.local_objects import LocalObjects
from holdfast_server.storage.object_names import (
    MAX_CREATED,
    Buffer,
    ObjectInfo,
    ObjectMissing,
    check_created,
    check_prefix,
    check_range,
    checked_name,
)

__all__ = [
    "MAX_CREATED",
    "Buffer",
    "LocalObjects",
    "MemoryObjects",
    "ObjectInfo",
    "ObjectMissing",
    "ObjectStore",
    "checked_name",
    "probe",
    "remove_probes",
]

_PROBES = "runs/probe-"
_RANDOM = 16


class ObjectStore(Protocol):
    """A storage of whole objects; safe to use from several threads.

    Names are `config` and `<class>/<id>`, class keys, packs, index, snapshots or runs, and `log/<writer>/<sequence>`;
    other names are refused with ValueError. Failures of the storage are `HoldfastError`s: DISK_FULL, QUOTA_EXCEEDED,
    FOLDER_NOT_WRITABLE, FOLDER_NOT_FOUND, STORAGE_UNREACHABLE, STORE_UNSUITABLE. `str(store)` says where it is.
    """

    def put(self, name: str, parts: Sequence[Buffer]) -> None:
        """Store the parts, in their order, as one object; replaces one of that name. Durable on return."""
        ...

    def create_if_absent(self, name: str, content: bytes) -> bool:
        """Store an object of at most `MAX_CREATED` bytes unless there is one of that name, which is left alone.

        Of several callers exactly one gets True. Durable on return, and what made it False is, too.
        """
        ...

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes from `offset` on, at most `length`; fewer, or none, where the object ends before.

        Raises `ObjectMissing`.
        """
        ...

    def size(self, name: str) -> int:
        """The object's size in bytes. Raises `ObjectMissing`."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """The objects whose names begin with `prefix`: empty, or a class and `/` and as much of an id as wanted.

        In no order. What is stored or deleted meanwhile may be missing or there; all else is listed exactly once.
        Things whose names no object can have are left out.
        """
        ...

    def delete(self, name: str) -> None:
        """Remove the object, if there is one. May be undone by a crash of the machine."""
        ...

    def use_reserve(self) -> AbstractContextManager[None]:
        """A block whose changes may use the space that is kept for making room, when there is no other.

        For what frees space, or settles what did not come about; at its end the reserve is kept again.
        """
        ...

    def keep_reserve(self) -> None:
        """Set space aside for `use_reserve`, as far as there is room and it is not yet; nothing in a store that needs
        none. Before anything that fills the store. Raises nothing: whether there is a reserve is no promise."""
        ...


class MemoryObjects:
    """A store in memory, gone with the process; begins with copies of the `contents`."""

    def __init__(self, contents: Mapping[str, bytes] | None = None) -> None:
        self._objects = {checked_name(name): bytes(content) for name, content in (contents or {}).items()}
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return "memory"

    def contents(self) -> dict[str, bytes]:
        """All objects by name, as they are now."""
        with self._lock:
            return dict(self._objects)

    def put(self, name: str, parts: Sequence[Buffer]) -> None:
        content = b"".join(parts)
        with self._lock:
            self._objects[checked_name(name)] = content

    def create_if_absent(self, name: str, content: bytes) -> bool:
        check_created(content)
        with self._lock:
            if checked_name(name) in self._objects:
                return False
            self._objects[name] = bytes(content)
            return True

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        check_range(offset, length)
        content = self._content(name)
        return content[offset:] if length is None else content[offset : offset + length]

    def size(self, name: str) -> int:
        return len(self._content(name))

    def _content(self, name: str) -> bytes:
        with self._lock:
            content = self._objects.get(checked_name(name))
        if content is None:
            raise ObjectMissing(name)
        return content

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        found = [ObjectInfo(name, len(content)) for name, content in self.contents().items() if name.startswith(prefix)]
        return iter(found)

    def delete(self, name: str) -> None:
        with self._lock:
            self._objects.pop(checked_name(name), None)

    def use_reserve(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def keep_reserve(self) -> None:
        """Memory has no reserve."""


def probe(store: ObjectStore, owner: str = "") -> None:
    """Try whether the store keeps its promises, as far as a few small objects can show; removes them.

    Raises FailedPrecondition/STORE_UNSUITABLE with what it did wrong, or the store's own error. The objects lie under
    `runs/`, where names that are no UUIDs are no runs. `owner` (hexadecimal digits) is in their names, so that whoever
    is the only one of that name knows which of them a killed probe has left.
    """
    name = f"{_PROBES}{owner and owner + '-'}{secrets.token_hex(_RANDOM)}"
    try:
        _probe_object(store, name)
        store.delete(name)
    except BaseException:
        with contextlib.suppress(HoldfastError):
            store.delete(name)
        raise
    _require(store, name, _content(store, name) is None, "an object that was deleted can still be read")
    _require(store, name, not _listed(store, name), "a list shows an object that was deleted")


def remove_probes(store: ObjectStore, owner: str = "") -> int:
    """Remove what killed probes of this owner have left; gives how many objects. None may be under way."""
    left = re.compile(rf"{_PROBES}{owner and owner + '-'}[0-9a-f]{{{2 * _RANDOM}}}")
    names = [info.name for info in store.list(_PROBES) if left.fullmatch(info.name)]
    for name in names:
        store.delete(name)
    return len(names)


def _probe_object(store: ObjectStore, name: str) -> None:
    first, second = secrets.token_bytes(64), secrets.token_bytes(48)
    _require(store, name, _content(store, name) is None, "an object that was never stored can be read")
    _require(store, name, store.create_if_absent(name, first), "an object that does not exist could not be created")
    _require(store, name, not store.create_if_absent(name, second), "an object could be created a second time")
    _require(store, name, _content(store, name) == first, "an object does not hold what was stored")
    _require(store, name, _listed(store, name) == [64], "a list does not show an object that was just created")
    _require(store, name, store.size(name) == 64, "an object has another size than what was stored")
    ranges = store.get(name, 16, 8), store.get(name, 56, 64), store.get(name, 64)
    _require(
        store, name, ranges == (first[16:24], first[56:], b""), "a range of an object is not what was stored there"
    )
    store.put(name, [second[:16], second[16:]])
    _require(store, name, _content(store, name) == second, "an object that was replaced does not hold what was stored")
    _require(store, name, _listed(store, name) == [48], "a list does not show an object that was replaced as it is")


def _content(store: ObjectStore, name: str) -> bytes | None:
    try:
        return store.get(name)
    except ObjectMissing:
        return None


def _listed(store: ObjectStore, name: str) -> list[int]:
    return [info.size for info in store.list("runs/") if info.name == name]


def _require(store: ObjectStore, name: str, kept: bool, problem: str) -> None:
    if not kept:
        text = f"{store} cannot hold a repository: {problem} (tried with {name})"
        metadata = {"store": str(store), "problem": problem, "object": name}
        raise FailedPrecondition(Reason.STORE_UNSUITABLE, text, metadata=metadata)
