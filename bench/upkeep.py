"""How the cost of keeping a repository grows with its chunks: check of structure, prune and compact.

A repository is made of so many chunks of next to no content, in two snapshots: the second needs every fourth pack's
chunks, and of the others every third chunk. Then the first snapshot is removed. Each step is a process of its own.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.disk import fresh_places
from bench.processes import Usage, measured
from bench.report import ROOT, Check, Result
from bench.service import WORK

__all__ = ["run"]

_WORK = WORK / "upkeep"
_VALUES = {"small": (20_000, 40_000), "full": (250_000, 500_000, 1_000_000)}
_STEPS = ("check", "prune", "compact", "check")
MEMORY_TARGET_MIB = 400
#: Of each chunk: what its record and its place in the index may take in memory.
BYTES_A_CHUNK = 100


def run(options: argparse.Namespace) -> Iterator[Result]:
    """One table."""
    columns = ["chunks", "step", "time", "processor", "peak memory", "objects after", "bytes after"]
    result = Result("upkeep", "Repository: check, prune and compact by the number of chunks", columns)
    taken: dict[tuple[int, int], Usage] = {}
    values = _VALUES[options.size]
    for value in values:
        fresh_places(_WORK)
        _step("make", value)
        for number, step in enumerate(_STEPS):
            usage = taken[value, number] = _step(step, value)
            files = [path for path in (_WORK / "store").rglob("*") if path.is_file() and ".reserve" not in path.parts]
            size = sum(path.stat().st_size for path in files)
            result.rows.append(
                [f"{value:,}", step, f"{usage.seconds:.1f} s", f"{usage.processor:.1f} s",
                 f"{usage.peak / (1 << 20):.0f} MiB", f"{len(files):,}", f"{size / (1 << 20):.0f} MiB"]
            )  # fmt: skip
        shutil.rmtree(_WORK)
    for number, step in enumerate(_STEPS[:3]):
        last, before = values[-1], values[-2]
        grown = taken[last, number].processor / taken[before, number].processor
        allowed = last * math.log(last) / (before * math.log(before))
        result.checks.append(
            Check(f"{step}, {last:,} beside {before:,} chunks (n log n, a tenth more)", grown, 1.1 * allowed)
        )
    peak = max(usage.peak for (value, _), usage in taken.items() if value == values[-1]) / (1 << 20)
    limit = MEMORY_TARGET_MIB + values[-1] * BYTES_A_CHUNK / (1 << 20)
    result.checks.append(Check(f"peak memory of {values[-1]:,} chunks", peak, limit, "MiB"))
    result.notes.append(
        "Each step is a process of its own, start of Python included. The first snapshot of two is removed before the "
        "prune; half of all packs hold nothing that the other needs."
    )
    yield result


def _step(name: str, value: int) -> Usage:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'server'}"}
    return measured([sys.executable, "-m", "bench.upkeep", name, str(value)], _WORK, environment)


# -- in processes of their own ---------------------------------------------------------------------------------------


def _now() -> int:
    return time.time_ns() // 1_000


def _make(count: int) -> None:
    """The repository in the folder `store`, its keys in `keys`."""
    from blake3 import blake3

    from holdfast_server.repository import Snapshot, SnapshotCounts, create_repository
    from holdfast_server.repository.crypto import Segment
    from holdfast_server.repository.facts import Committed
    from holdfast_server.repository.format import PACK_CHUNKS, TIER_OF, ChunkType, Tier
    from holdfast_server.repository.index import write_index
    from holdfast_server.repository.lists import ListWriter
    from holdfast_server.repository.log import LogReader, LogWriter
    from holdfast_server.repository.packs import Message, PackBuilder
    from holdfast_server.repository.repository import Repository
    from holdfast_server.repository.snapshots import end_run_as

    os.mkdir("store")
    os.mkdir("keys")
    with _folder("store") as folder, _folder("keys") as kept:
        store = _store(folder)
        made = create_repository(store, sealed=False, slots=[], compression_level=3, now_us=_now())
        made.keys.save(kept)
        repository = Repository.open(store, made.keys, None)
        keys = repository.index_keys
        segments = {
            Tier.CONTENT: Segment.new_content(repository.config.public_key, keys.uuid),
            Tier.INDEX: Segment.new_index(keys),
        }  # fmt: skip
        numbers = dict.fromkeys(Tier, 0)
        builders = {True: PackBuilder(keys), False: PackBuilder(keys)}
        records = []

        def flush(*, is_data: bool) -> None:
            if len(builders[is_data]):
                record, parts = builders[is_data].finish()
                store.put(record.name, parts)
                records.append(record)
            builders[is_data] = PackBuilder(keys)

        def keep(kind: ChunkType, content: bytes) -> bytes:
            chunk_id, tier = keys.chunk_id(kind, content), TIER_OF[kind]
            out = bytearray(len(content) + 16)
            segments[tier].encrypt_into(kind, numbers[tier], chunk_id, content, memoryview(out))
            message = Message(chunk_id, kind, segments[tier], numbers[tier], len(content), out, keys.check_of(out), b"")
            numbers[tier] += 1
            is_data = kind is ChunkType.DATA
            if not builders[is_data].fits(message):
                flush(is_data=is_data)
            builders[is_data].add(message)
            return chunk_id

        ids = [keep(ChunkType.DATA, blake3(b"%d" % number).digest()) for number in range(count)]
        for half in (False, True):
            lists, root = ListWriter(partial(keep, ChunkType.LIST)), keep(ChunkType.ROOT, b"root %d" % half)
            for number, chunk_id in enumerate(ids):
                if not half or (number // PACK_CHUNKS % 4 == 0) or (number // PACK_CHUNKS % 4 == 1 and number % 3 == 0):
                    lists.add(ChunkType.DATA, chunk_id, 32)
            lists.add(ChunkType.ROOT, root, 6)
            snapshot = Snapshot(
                run_id=str(uuid.UUID(int=int(half), version=4)), name="made", locked=False, source_id="made",
                source_kind="DIRECTORY", source_display_name="made", create_us=_now(), complete_us=_now(),
                counts=SnapshotCounts(files=len(ids)), stored_size=0, complete=True, list=lists.finish(), root=root,
                writer_id=made.keys.writer.writer_id, software="bench",
            )  # fmt: skip
            flush(is_data=True)
            flush(is_data=False)
            write_index(store, keys, records)
            records.clear()
            end_run_as(store, keys, snapshot)
            log = LogWriter(store, keys, made.keys.writer, LogReader(store, keys).read().vector)
            log.append([Committed(snapshot.run_id)], _now())


def _check(_count: int) -> None:
    from holdfast_server.repository import CheckLevel, check_repository

    with _folder("store") as folder:
        report = check_repository(_store(folder), _keys(), CheckLevel.STRUCTURE, now=_now)
        assert report.ok, report


def _prune(_count: int) -> None:
    from holdfast_server.repository import MaintenanceWatch, Repository, prune_repository, remove_snapshots

    with _folder("store") as folder:
        repository = Repository.open(_store(folder), _keys(), None)
        remove_snapshots(repository, [str(uuid.UUID(int=0, version=4))], _now())
        report = prune_repository(repository, now=_now, watch=MaintenanceWatch())
        assert report.packs_deleted > 0, report


def _compact(_count: int) -> None:
    from holdfast_server.repository import MaintenanceWatch, Repository, compact_repository

    with _folder("store") as folder:
        report = compact_repository(Repository.open(_store(folder), _keys(), None), now=_now, watch=MaintenanceWatch())
        assert report.packs_merged > 0, report


def _folder(name: str):
    from contextlib import contextmanager

    @contextmanager
    def opened() -> Iterator[int]:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)

    return opened()


def _store(folder: int):
    from holdfast_server.storage.objects import LocalObjects

    return LocalObjects(folder, str(Path("store").absolute()))


def _keys():
    from holdfast_server.repository import RepositoryKeys

    with _folder("keys") as kept:
        return RepositoryKeys.load(kept)


if __name__ == "__main__":
    {"make": _make, "check": _check, "prune": _prune, "compact": _compact}[sys.argv[1]](int(sys.argv[2]))
