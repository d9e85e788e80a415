"""Snapshot objects: the commit of a run, or the tombstone of one that ended without a snapshot.

Both are created under the run's name only if there is neither, so that exactly one of them ever exists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Final

from holdfast_server.repository.config import unsupported
from holdfast_server.repository.content_keys import KEY
from holdfast_server.repository.crypto import UUID, IndexKeys
from holdfast_server.repository.format import SEALED_OBJECT_MAX, snapshot_name
from holdfast_server.repository.json_object import JsonObject, Malformed, damage_of, is_run_id, to_json
from holdfast_server.repository.lists import ListRoot
from holdfast_server.storage.objects import ObjectMissing, ObjectStore

__all__ = ["Snapshot", "SnapshotCounts", "Tombstone", "end_run_as", "read_run_end", "snapshot_ids"]

VERSION: Final = 1
COMMITTED: Final = "COMMITTED"
TOMBSTONE: Final = "TOMBSTONE"
MAX_TIME: Final = (1 << 63) - 1
_MAX_LEVEL = 255
_MAX_NAME = 4_096
_PREFIX = "snapshots/"


@dataclass(frozen=True, slots=True)
class SnapshotCounts:
    """What a snapshot holds. `bytes` is content as stored, of envelopes where files were encrypted on the way."""

    files: int = 0
    directories: int = 0
    symlinks: int = 0
    hardlinks: int = 0
    bytes: int = 0
    files_skipped: int = 0
    files_ignored: int = 0
    warnings: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A committed backup as the index key shows it; its name and lock are those of the commit.

    Times are in microseconds, sizes in bytes. `stored_size` is what the run added to the store, `complete` is false
    when a file is missing. `list` is the root of its chunk list, `root` the id (32 bytes) of its chunk in the content
    tier. `wallet` counts files of a wallet by the keys of an archive manifest; None for other sources.
    """

    run_id: str
    name: str
    locked: bool
    source_id: str
    source_kind: str
    source_display_name: str
    create_us: int
    complete_us: int
    counts: SnapshotCounts
    stored_size: int
    complete: bool
    list: ListRoot
    root: bytes
    writer_id: bytes
    software: str
    wallet: Mapping[str, int] | None = None
    #: An earlier attempt has begun the same run: its process may be alive, and try to commit it too.
    retried: bool = False

    def encode(self) -> bytes:
        """The JSON, not sealed yet."""
        values: dict[str, object] = {
            "version": VERSION,
            "run_id": self.run_id,
            "state": COMMITTED,
            "name": self.name,
            "locked": self.locked,
            "source": {
                "source_id": self.source_id,
                "kind": self.source_kind,
                "display_name": self.source_display_name,
            },
            "create_time": self.create_us,
            "complete_time": self.complete_us,
            "counts": asdict(self.counts),
            "stored_size": self.stored_size,
            "complete": self.complete,
            "list": {"level": self.list.level, "id": self.list.id.hex(), "chunks": self.list.chunks},
            "root": self.root.hex(),
            "writer": self.writer_id.hex(),
            "software": self.software,
        }
        if self.wallet is not None:
            values["wallet"] = dict(self.wallet)
        if self.retried:
            values["retried"] = True
        return to_json(values)


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A run that ended without a snapshot: failed, cancelled or revoked. It cannot commit any more."""

    run_id: str

    def encode(self) -> bytes:
        """The JSON, not sealed yet."""
        return to_json({"version": VERSION, "run_id": self.run_id, "state": TOMBSTONE})


def decode_run_end(name: str, content: bytes) -> Snapshot | Tombstone:
    """What the JSON of the object called `name` says. Raises DataLoss/CHECKSUM_MISMATCH for what is malformed."""
    with damage_of(name):
        values = JsonObject.parse(content)
        version = values.integer("version")
        if version != VERSION:
            raise unsupported(name, version)
        run_id = values.run_id("run_id")
        if snapshot_name(run_id) != name:
            raise Malformed("run_id is not that of its name")
        state = values.text("state")
        if state == TOMBSTONE:
            return Tombstone(run_id)
        if state != COMMITTED:
            raise Malformed("state is neither COMMITTED nor TOMBSTONE")
        return _committed(run_id, values)


def _committed(run_id: str, values: JsonObject) -> Snapshot:
    source, counts, chunks = values.child("source"), values.child("counts"), values.child("list")
    return Snapshot(
        run_id=run_id,
        name=values.text("name", _MAX_NAME),
        locked=values.flag("locked"),
        source_id=source.text("source_id", _MAX_NAME),
        source_kind=source.text("kind", _MAX_NAME),
        source_display_name=source.text("display_name", _MAX_NAME),
        create_us=values.integer("create_time", high=MAX_TIME),
        complete_us=values.integer("complete_time", high=MAX_TIME),
        counts=SnapshotCounts(**{field.name: counts.integer(field.name) for field in fields(SnapshotCounts)}),
        stored_size=values.integer("stored_size"),
        complete=values.flag("complete"),
        list=ListRoot(
            chunks.integer("level", high=_MAX_LEVEL), chunks.hexadecimal("id", KEY), chunks.integer("chunks", low=1)
        ),
        root=values.hexadecimal("root", KEY),
        writer_id=values.hexadecimal("writer", UUID),
        software=values.text("software", _MAX_NAME),
        wallet=_wallet(values),
        retried=values.has("retried") and values.flag("retried"),
    )


def _wallet(values: JsonObject) -> dict[str, int] | None:
    if not values.has("wallet"):
        return None
    counted = values.child("wallet")
    return {key: counted.integer(key) for key in counted.keys()}  # noqa: SIM118 - no dict


def end_run_as(store: ObjectStore, keys: IndexKeys, end: Snapshot | Tombstone) -> bool:
    """Commit a snapshot, or bury its run; false when the run has ended already, as `read_run_end` tells. Durable."""
    name = snapshot_name(end.run_id)
    return store.create_if_absent(name, keys.seal(name, end.encode()))


def read_run_end(store: ObjectStore, keys: IndexKeys, run_id: str) -> Snapshot | Tombstone | None:
    """How a run ended; None when it has no snapshot object. Raises DataLoss/CHECKSUM_MISMATCH for a damaged one."""
    name = snapshot_name(run_id)
    try:
        sealed = store.get(name, 0, SEALED_OBJECT_MAX + 1)
    except ObjectMissing:
        return None
    return decode_run_end(name, keys.open(name, sealed))


def snapshot_ids(store: ObjectStore) -> Iterator[str]:
    """The runs that have a snapshot object, tombstones too, in no order."""
    for info in store.list(_PREFIX):
        run_id = info.name.removeprefix(_PREFIX)
        if is_run_id(run_id):
            yield run_id
