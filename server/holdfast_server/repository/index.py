"""Index objects: what all packs hold, read at the start of a run and written at its end.

What index objects and the store's list of packs say is brought together here: a pack that no index object lists is
adopted by its directory; one that is listed and gone, or has another size, counts as not there, so that a writer stores
again what it held.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

from holdfast_server.errors import DataLoss
from holdfast_server.repository.chunks import ChunkIndex
from holdfast_server.repository.crypto import IndexKeys
from holdfast_server.repository.format import SEALED_OBJECT_MAX, index_name, is_object_id
from holdfast_server.repository.packs import PackRecord, decode_records, encode_records, read_directory
from holdfast_server.storage.objects import ObjectMissing, ObjectStore

__all__ = ["LoadedIndex", "list_packs", "load_index", "read_index", "read_index_object", "write_index"]

#: An index object is closed when its records take so many bytes.
_INDEX_TARGET = 4 << 20


@dataclass(slots=True)
class LoadedIndex:
    """What there is. `adopted` were in no index object; `missing` are listed and not in the store as they were put;
    `unreadable` are packs without an index whose directory cannot be read, `damaged` index objects by name: what they
    listed is told by the packs themselves. `condemned` are those of the condemned packs that are there, if they were
    asked for."""

    chunks: ChunkIndex
    index_ids: set[str] = field(default_factory=set)
    adopted: list[PackRecord] = field(default_factory=list)
    missing: dict[bytes, str] = field(default_factory=dict)
    unreadable: dict[bytes, DataLoss] = field(default_factory=dict)
    damaged: dict[str, DataLoss] = field(default_factory=dict)
    condemned: dict[bytes, PackRecord] = field(default_factory=dict)
    #: The packs that were there, and their sizes.
    packs: dict[bytes, int] = field(default_factory=dict)
    #: The packs that index objects list.
    listed: set[bytes] = field(default_factory=set)
    #: What index objects say of the packs that were asked for, whether they are there or not.
    asked: dict[bytes, PackRecord] = field(default_factory=dict)


def load_index(
    store: ObjectStore,
    keys: IndexKeys,
    *,
    keep_keys: bool,
    check: Callable[[], None],
    condemned: Collection[bytes] = frozenset(),
    keep_condemned: bool = False,
    asked: Collection[bytes] = frozenset(),
) -> LoadedIndex:
    """Read every index object, and the directories of packs that none of them lists.

    Chunks in `condemned` packs count as unknown; with `keep_condemned` those packs are told apart. The records of
    `asked` packs are kept.
    """
    # Packs first: what is put after this is indexed after it too, and not taken for missing.
    before = list_packs(store)
    found = LoadedIndex(ChunkIndex(keep_keys=keep_keys), packs=before)
    for index_id, records in read_index(store, keys, check, found.damaged.__setitem__):
        found.index_ids.add(index_id)
        for record in records:
            found.listed.add(record.pack_id)
            if record.pack_id in asked:
                found.asked[record.pack_id] = record
            size = before.get(record.pack_id)
            if record.pack_id in condemned:
                if keep_condemned and size == record.size:
                    found.condemned[record.pack_id] = record
                continue
            if size is None:
                size = _size_now(store, record)
            if size == record.size:
                found.chunks.add_pack(record)
            else:
                what = "it is gone" if size is None else f"it has {size} bytes instead of {record.size}"
                found.missing[record.pack_id] = what
    for pack_id, size in before.items():
        if pack_id in found.listed or (pack_id in condemned and not keep_condemned):
            continue
        check()
        try:
            record = read_directory(store, keys, pack_id, size)
        except ObjectMissing:
            continue
        except DataLoss as error:
            found.unreadable[pack_id] = error
            continue
        if pack_id in condemned:
            found.condemned[pack_id] = record
            continue
        found.adopted.append(record)
        found.chunks.add_pack(record)
    return found


def list_packs(store: ObjectStore) -> dict[bytes, int]:
    """The packs in the store and their sizes."""
    packs = {}
    for info in store.list("packs/"):
        pack_id = info.name.removeprefix("packs/")
        if is_object_id(pack_id):
            packs[bytes.fromhex(pack_id)] = info.size
    return packs


def read_index(
    store: ObjectStore,
    keys: IndexKeys,
    check: Callable[[], None],
    on_damage: Callable[[str, DataLoss], None],
) -> Iterator[tuple[str, list[PackRecord]]]:
    """Each index object's id and records; one that goes away meanwhile is passed over, a damaged one is told."""
    names = [info.name for info in store.list("index/") if is_object_id(info.name.removeprefix("index/"))]
    for name in names:
        check()
        try:
            sealed = store.get(name, 0, SEALED_OBJECT_MAX + 1)
        except ObjectMissing:
            continue
        try:
            records = list(decode_records(keys.open(name, sealed), name))
        except DataLoss as error:
            on_damage(name, error)
            continue
        yield name.removeprefix("index/"), records


def read_index_object(store: ObjectStore, keys: IndexKeys, index_id: str) -> list[PackRecord]:
    """The records of one index object; none if it is gone or damaged."""
    name = f"index/{index_id}"
    try:
        return list(decode_records(keys.open(name, store.get(name, 0, SEALED_OBJECT_MAX + 1)), name))
    except (ObjectMissing, DataLoss):
        return []


def write_index(
    store: ObjectStore, keys: IndexKeys, records: Iterable[PackRecord]
) -> tuple[dict[str, list[PackRecord]], int]:
    """Write index objects for packs; gives the records by the objects' ids, and the bytes written."""
    written: dict[str, list[PackRecord]] = {}
    batch: list[PackRecord] = []
    size = total = 0
    for record in records:
        batch.append(record)
        size += len(record.chunks) + len(record.small_files)
        if size >= _INDEX_TARGET:
            total += _write_one(store, keys, batch, written)
            batch, size = [], 0
    if batch:
        total += _write_one(store, keys, batch, written)
    return written, total


def _write_one(
    store: ObjectStore, keys: IndexKeys, batch: list[PackRecord], written: dict[str, list[PackRecord]]
) -> int:
    index_id = os.urandom(16)
    name = index_name(index_id)
    sealed = keys.seal(name, encode_records(batch))
    store.put(name, [sealed])
    written[index_id.hex()] = batch
    return len(sealed)


def _size_now(store: ObjectStore, record: PackRecord) -> int | None:
    try:
        return store.size(record.name)
    except ObjectMissing:
        return None
