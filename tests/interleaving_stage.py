"""What interleavings of one repository share: what is in it when they begin, code without chance, and a lean backup."""

from __future__ import annotations

import os
import random
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from blake3 import blake3
from zstandard import ZstdCompressor, ZstdDecompressor

from holdfast_server.repository import (
    BackupRun,
    ContentKeys,
    EntryKind,
    Repository,
    RepositoryKeys,
    RootInfo,
    Snapshot,
    SnapshotCounts,
    SourceAttributes,
    Written,
    check,
    compact,
    create_repository,
    crypto,
    encode_entry,
    encode_root,
    log,
    packs,
    removal,
    remove_snapshots,
    sending,
    sessions,
    writer,
)
from holdfast_server.repository.content_keys import ContentPublicKey
from holdfast_server.repository.crypto import IndexKeys
from holdfast_server.repository.format import SEALED_SEGMENT_KEY
from holdfast_server.repository.keys import SIGNATURE, WriterKey
from holdfast_server.repository.packs import PackBuilder
from holdfast_server.storage.objects import MemoryObjects, ObjectStore
from tests.interleaving import SteppedTime

__all__ = ["CONTENTS", "START_US", "Files", "Node", "Stage", "back_up"]

T = TypeVar("T")

START_US = 1_800_000_000_000_000
#: What files hold: few, so that snapshots share them, and what is waste for one may be wanted by the next.
CONTENTS = [blake3(b"content %d" % number).digest(300 + 40 * number) for number in range(8)]

Files = dict[bytes, bytes]


@dataclass(frozen=True)
class Node:
    """One node: its keys, and its folder of caches and marks."""

    keys: RepositoryKeys
    folder: Path

    @property
    def marks(self) -> bytes:
        return os.fsencode(self.folder / "runs")


class _Inline:
    """Jobs that are done at once, by the one who asks."""

    def __init__(self, deliver: Callable[[Any], None]) -> None:
        self._deliver = deliver

    def submit(self, job: Callable[[], Any], size: int) -> None:
        del size
        self._deliver(job())

    def wait_for(self, done: Callable[[], bool]) -> None:
        assert done()

    def drain(self) -> None:
        pass

    def abort(self) -> None:
        pass


class InlinePool:
    def open(self, deliver: Callable[[T], None], check: Callable[[], None]) -> _Inline:
        del check
        return _Inline(deliver)


class Stage:
    """What all interleavings of a process share: a repository to begin with, its keys, and code that is deterministic:
    without threads, the system's randomness and its time. A context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.time = SteppedTime()
        self._patch = pytest.MonkeyPatch()
        self._random = random.Random(0)

    def __enter__(self) -> Stage:
        patch = self._patch
        for module in (sessions, removal, check):
            patch.setattr(module, "time", self.time)
        patch.setattr(sending.PackSender, "_upload", _put_at_once)
        patch.setattr(os, "urandom", self._bytes)
        patch.setattr("secrets.token_bytes", self._bytes)
        patch.setattr(uuid, "uuid4", lambda: uuid.UUID(bytes=self._bytes(16), version=4))
        # Every small file is a chunk, few chunks fill a pack, and few packs are worth compacting.
        patch.setattr(writer, "CHUNK_MIN", 1)
        patch.setattr(writer, "_STREAM_CHANCE", 1)
        patch.setattr(packs, "PACK_TARGET", 5_000)
        patch.setattr(compact, "SMALL_PACKS", 3)
        patch.setattr(compact, "SMALL_INDEXES", 3)
        patch.setattr(compact, "WASTE_LEAST", 64)
        # One actor at a time goes on, so one codec will do; and the same objects are read over and over.
        patch.setattr(crypto, "_zstd", SimpleNamespace(compressor=ZstdCompressor(), decompressor=ZstdDecompressor()))
        patch.setattr(sending, "_Compressors", lru_cache(sending._Compressors))
        _remember(patch, crypto, "hkdf", slice(None))
        _remember(patch, IndexKeys, "open", slice(1, None))
        _remember(patch, log, "_decode", slice(2))
        # Slow, and not on trial here.
        patch.setattr(WriterKey, "sign", lambda _key, message: blake3(message).digest(SIGNATURE))
        patch.setattr(log, "is_signed", lambda _key, message, given: blake3(message).digest(SIGNATURE) == given)
        patch.setattr(ContentPublicKey, "seal_segment", lambda *given: given[-1].ljust(SEALED_SEGMENT_KEY, b"."))
        patch.setattr(ContentKeys, "open_segment", lambda *given: given[-1][:32])
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def _bytes(self, count: int = 32) -> bytes:
        return self._random.randbytes(count)

    def seed(self, seed: int) -> None:
        self._random.seed(seed)

    def _begin(self) -> None:
        """Make the repository, and what is in it when interleavings begin: from nothing to a few backups."""
        store = MemoryObjects()
        made = create_repository(store, sealed=False, slots=(), compression_level=1, now_us=START_US)
        assert made.keys.content is not None
        self.content: ContentKeys = made.keys.content
        self.fingerprint = made.fingerprint
        self.nodes = [
            Node(
                RepositoryKeys(made.keys.index_key, self.content, made.keys.uuid, WriterKey(bytes([n + 1] * 32))), path
            )
            for n, path in enumerate((self.folder / "first", self.folder / "second"))
        ]
        self.index_keys = IndexKeys(made.keys.index_key, made.keys.uuid)
        self.clear()
        self.stock: list[tuple[dict[str, bytes], dict[str, Files]]] = [(store.contents(), {})]
        known: dict[str, Files] = {}
        for number in range(3):
            run_id, node = str(uuid.uuid4()), self.nodes[number % 2]
            known[run_id] = {b"f%d" % n: CONTENTS[(number * 3 + n) % len(CONTENTS)] for n in range(3)}
            back_up(store, self, node, "stock", run_id, known[run_id], lambda: START_US)
            self.stock.append((store.contents(), dict(known)))
            # What it alone has needed is waste from now on, and may be wanted again.
            wasteful = MemoryObjects(store.contents())
            remove_snapshots(Repository.open(wasteful, node.keys, self.fingerprint), [run_id], START_US)
            self.stock.append((wasteful.contents(), {one: known[one] for one in known if one != run_id}))
        self.clear()

    def clear(self) -> None:
        """Empty the nodes' folders."""
        for node in self.nodes:
            shutil.rmtree(node.folder, ignore_errors=True)
            node.folder.mkdir(parents=True)


def _remember(patch: pytest.MonkeyPatch, owner: Any, name: str, key: slice) -> None:
    """What a function without effects gave once it gives again; `key` are the arguments that it depends on."""
    original, known = getattr(owner, name), dict[Any, Any]()

    def call(*arguments: Any) -> Any:
        found = known.get(arguments[key])
        if found is None:
            if len(known) > 5_000:
                known.clear()
            found = known[arguments[key]] = original(*arguments)
        return found

    patch.setattr(owner, name, call)


def _put_at_once(self: sending.PackSender, builder: PackBuilder) -> None:
    """As the thread of a sender does, by its caller."""
    record, parts = builder.finish()
    self._store.put(record.name, parts)
    self.stored_size += record.size
    self.records.append(record)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def back_up(
    store: ObjectStore, stage: Stage, node: Node, source: str, run_id: str, files: Files, now: Callable[[], int],
    committed: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """One attempt at a snapshot; `committed` is called when its commit was acknowledged."""
    repository = Repository.open(store, node.keys, stage.fingerprint)
    with _opened(node.folder) as caches, BackupRun(
        repository, run_id, source, caches=caches, pool=InlinePool(), check=lambda: None, now=now
    ) as run:  # fmt: skip
        if run.earlier is None:
            _write(run, run_id, source, files)
        committed()
        run.settle()


def _write(run: BackupRun, run_id: str, source: str, files: Files) -> None:
    for name, content in files.items():
        key = blake3(name + content, key=run.cache_key).digest(16)
        known = run.writer.cached(key)
        if known is None:
            run.writer.add_small(b"", name, 0, 0o644, 0, 0, 1, content, b"", key)
        else:
            flags, tail, value = known
            record = encode_entry(EntryKind.FILE, flags, 0o644, 0, 0, 1, name, tail)
            run.writer.add_cached(b"", name, record, key, value)

    def describe(written: Written) -> Snapshot:
        return Snapshot(
            run_id=run_id, name=source, locked=False, source_id=source, source_kind="DIRECTORY",
            source_display_name=source, create_us=run.now(), complete_us=run.now(),
            counts=SnapshotCounts(files=len(files), bytes=sum(map(len, files.values()))),
            stored_size=written.stored_size, complete=True, list=written.list, root=written.root,
            writer_id=run.repository.keys.writer.writer_id, software="tests",
        )  # fmt: skip

    own = SourceAttributes(0o755, 1, 0, 0, ())
    run.commit(lambda tree: encode_root(RootInfo(own, tree, (), (), (), None)), describe)
