"""Runs under way: each says that what it may need must not be deleted, until it ended or was not renewed for long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from holdfast_server.repository.config import unsupported
from holdfast_server.repository.crypto import UUID, IndexKeys
from holdfast_server.repository.format import SEALED_OBJECT_MAX, run_name, snapshot_name
from holdfast_server.repository.json_object import JsonObject, Malformed, damage_of, is_run_id, to_json
from holdfast_server.storage.objects import ObjectMissing, ObjectStore

__all__ = ["Run", "RunKind", "begin_run", "end_reading_run", "has_ended", "is_begun", "list_runs"]

VERSION: Final = 1
_MAX_TIME = (1 << 63) - 1
_PREFIX = "runs/"


class RunKind(StrEnum):
    """What a run does; only a backup commits a snapshot."""

    BACKUP = "BACKUP"
    RESTORE = "RESTORE"
    VERIFY = "VERIFY"
    EXPORT = "EXPORT"
    CHECK = "CHECK"
    PRUNE = "PRUNE"
    COMPACT = "COMPACT"
    REPAIR = "REPAIR"


@dataclass(frozen=True, slots=True)
class Run:
    """A run that was begun. `run_id` of a backup is the backup id; times are in microseconds."""

    run_id: str
    kind: RunKind
    writer_id: bytes
    create_us: int
    renew_us: int

    def renew(self, store: ObjectStore, keys: IndexKeys, now_us: int) -> Run:
        """Say that it goes on; durable on return. Only the run itself may do it, and not once it ended."""
        renewed = replace(self, renew_us=now_us)
        name = run_name(self.run_id)
        store.put(name, [keys.seal(name, renewed.encode())])
        return renewed

    def end(self, store: ObjectStore) -> None:
        """Take it out of the store; no error when it is gone. A backup has its snapshot or tombstone before."""
        store.delete(run_name(self.run_id))

    def encode(self) -> bytes:
        """The JSON, not sealed yet."""
        return to_json(
            {
                "version": VERSION,
                "run_id": self.run_id,
                "kind": self.kind.value,
                "writer": self.writer_id.hex(),
                "create_time": self.create_us,
                "renew_time": self.renew_us,
            }
        )

    @classmethod
    def decode(cls, name: str, content: bytes) -> Run:
        """What the JSON of the object called `name` says. Raises DataLoss/CHECKSUM_MISMATCH for what is malformed."""
        with damage_of(name):
            values = JsonObject.parse(content)
            version = values.integer("version")
            if version != VERSION:
                raise unsupported(name, version)
            run_id, kind = values.run_id("run_id"), values.text("kind")
            if run_name(run_id) != name:
                raise Malformed("run_id is not that of its name")
            if kind not in RunKind.__members__:
                raise Malformed("kind is none that a run has")
            return cls(
                run_id,
                RunKind(kind),
                values.hexadecimal("writer", UUID),
                values.integer("create_time", high=_MAX_TIME),
                values.integer("renew_time", high=_MAX_TIME),
            )


def begin_run(store: ObjectStore, keys: IndexKeys, run_id: str, kind: RunKind, *, writer_id: bytes, now_us: int) -> Run:
    """Begin a run, or go on with one of that id in a new attempt; durable before anything is read or written for it."""
    if not is_run_id(run_id):
        raise ValueError("a run id is a UUID in its canonical form")
    return Run(run_id, kind, writer_id, now_us, now_us).renew(store, keys, now_us)


def end_reading_run(store: ObjectStore, run_id: str) -> None:
    """End a run for a process that died; no error when it has ended. It must not be a backup's."""
    store.delete(run_name(run_id))


def is_begun(store: ObjectStore, run_id: str) -> bool:
    """Whether the run has an object: it is under way, or was left behind."""
    return _is_there(store, run_name(run_id))


def has_ended(store: ObjectStore, run_id: str) -> bool:
    """Whether nothing that the run may need has to be kept any more: it committed, was buried, or took its object away.
    Once true it stays true."""
    return _is_there(store, snapshot_name(run_id)) or not _is_there(store, run_name(run_id))


def _is_there(store: ObjectStore, name: str) -> bool:
    try:
        store.size(name)
    except ObjectMissing:
        return False
    return True


def list_runs(store: ObjectStore, keys: IndexKeys) -> Iterator[Run]:
    """The runs in the store, in no order; a run that ends meanwhile may be left out.

    Raises DataLoss/CHECKSUM_MISMATCH for a damaged one: what it needs is unknown.
    """
    for info in store.list(_PREFIX):
        if not is_run_id(info.name.removeprefix(_PREFIX)):
            continue
        try:
            sealed = store.get(info.name, 0, SEALED_OBJECT_MAX + 1)
        except ObjectMissing:
            continue
        yield Run.decode(info.name, keys.open(info.name, sealed))
