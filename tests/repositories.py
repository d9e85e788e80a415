"""A repository for tests: in any object store, backed up into by the code of the service, and read back whole."""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.archive.pool import CompressorPool
from holdfast_server.core.control import Control, Progress
from holdfast_server.core.snapshot_backup import CacheScope, write_entries
from holdfast_server.core.source_job import BackupPlan
from holdfast_server.core.statistics import Statistics
from holdfast_server.repository import (
    BackupRun,
    CompactReport,
    ContentKeys,
    EntryKind,
    Hole,
    MaintenanceWatch,
    NewSlot,
    PruneReport,
    ReadingRun,
    Repository,
    RepositoryKeys,
    RootInfo,
    RunKind,
    Snapshot,
    SnapshotCounts,
    SnapshotReader,
    SourceAttributes,
    TreeRoot,
    Written,
    bury_run,
    compact_repository,
    create_repository,
    encode_root,
    packs,
    prune_repository,
    remove_snapshots,
    waste,
    writer,
)
from holdfast_server.repository.index import list_packs
from holdfast_server.repository.keys import WriterKey
from holdfast_server.repository.packs import PackRecord, read_directory
from holdfast_server.storage.folder import open_folder
from holdfast_server.storage.objects import LocalObjects, MemoryObjects, ObjectStore
from holdfast_server.storage.tree import read_xattrs

__all__ = [
    "Backups",
    "assert_nothing_sent_again",
    "copy_of",
    "opened_at",
    "packs_of",
    "read_snapshots",
    "small_packs",
    "stored_size",
]

#: Counted up by each use: no two times are equal.
_NOW = iter(range(1_800_000_000_000_000, 1 << 62, 1_000_000))
#: Later than any file: the files cache keeps what it can.
_EVERYTHING = 1 << 62
_pool: list[CompressorPool] = []


class Backups:
    """Backups of folders into one repository, as one node makes them.

    `store` may be another one from one call to the next, as long as it holds the repository. `caches` is the node's
    folder, which may be lost at any time.
    """

    def __init__(
        self, folder: Path, store: ObjectStore, *, sealed: bool = False, slots: Sequence[NewSlot] = ()
    ) -> None:
        """Makes the repository; `folder` is the place of the caches, and is made."""
        self.store = store
        self.caches = folder
        folder.mkdir(parents=True, exist_ok=True)
        made = create_repository(store, sealed=sealed, slots=slots, compression_level=1, now_us=next(_NOW))
        assert made.keys.content is not None
        self.content: ContentKeys = made.keys.content
        self.keys: RepositoryKeys = made.keys
        self.fingerprint = made.fingerprint
        self.recovery_key = made.recovery_key

    def other_node(self, folder: Path) -> Backups:
        """The same repository as another node has it: with a log and caches of its own."""
        other = copy.copy(self)
        other.caches = folder
        folder.mkdir()
        other.keys = RepositoryKeys(self.keys.index_key, self.content, self.keys.uuid, WriterKey.generate())
        return other

    def opened(self, store: ObjectStore | None = None) -> Repository:
        return Repository.open(store or self.store, self.keys, self.fingerprint)

    def back_up(
        self,
        source: Path,
        *,
        run_id: str | None = None,
        source_id: str = "source",
        store: ObjectStore | None = None,
        safe_before_ns: int = _EVERYTHING,
        check: Callable[[], None] = lambda: None,
    ) -> Snapshot:
        """One attempt at a snapshot of a folder, from the announcement of the run to its end."""
        repository = self.opened(store)
        plan = BackupPlan(
            run_id or str(uuid.uuid4()), source_id, source_id, "DIRECTORY", source_id, [], next(_NOW), "tests"
        )
        now = partial(next, _NOW)
        with _opened(self.caches) as caches, BackupRun(
            repository, plan.backup_id, source_id, caches=caches, pool=_shared_pool(), check=check, now=now
        ) as run:  # fmt: skip
            snapshot = run.earlier or _written(run, source, plan, CacheScope(run.cache_key, safe_before_ns))
            run.settle()
        return snapshot

    def give_up(self, run_id: str, store: ObjectStore | None = None) -> None:
        """End a run that failed for good, and take back what it may have committed."""
        repository = self.opened(store)
        if bury_run(repository, run_id) is not None:
            remove_snapshots(repository, [run_id], next(_NOW))

    def remove(self, run_ids: Iterable[str], store: ObjectStore | None = None) -> None:
        remove_snapshots(self.opened(store), list(run_ids), next(_NOW))

    def prune(
        self,
        store: ObjectStore | None = None,
        *,
        watch: MaintenanceWatch | None = None,
        now: Callable[[], int] | None = None,
        dry_run: bool = False,
        without: Iterable[str] = (),
    ) -> PruneReport:
        return prune_repository(
            self.opened(store), now=now or partial(next, _NOW), watch=watch or MaintenanceWatch(),
            caches=os.fsencode(self.caches), dry_run=dry_run,
            without=list(without),
        )  # fmt: skip

    def compact(
        self,
        store: ObjectStore | None = None,
        *,
        watch: MaintenanceWatch | None = None,
        now: Callable[[], int] | None = None,
        dry_run: bool = False,
    ) -> CompactReport:
        return compact_repository(
            self.opened(store), now=now or partial(next, _NOW), watch=watch or MaintenanceWatch(), dry_run=dry_run
        )

    def snapshots(self, store: ObjectStore | None = None) -> dict[str, Snapshot]:
        return {snapshot.run_id: snapshot for snapshot in self.opened(store).snapshots()}

    def read(self, run_id: str, store: ObjectStore | None = None) -> dict[bytes, tuple[Any, ...]]:
        """What a snapshot holds, in the form of `tests.harness.snapshot`."""
        return self.read_all([run_id], store)[run_id]

    def read_all(
        self, run_ids: Iterable[str], store: ObjectStore | None = None
    ) -> dict[str, dict[bytes, tuple[Any, ...]]]:
        """What several snapshots hold, read in one run."""
        return read_snapshots(self.opened(store), self.content, run_ids)

    def lose_caches(self) -> None:
        shutil.rmtree(self.caches)
        self.caches.mkdir()


def read_snapshots(
    repository: Repository, content: ContentKeys | None, run_ids: Iterable[str]
) -> dict[str, dict[bytes, tuple[Any, ...]]]:
    """What snapshots hold, each in the form of `tests.harness.snapshot`."""
    with ReadingRun(repository, RunKind.RESTORE, lambda: None, partial(next, _NOW)) as run:
        found = {}
        for run_id in run_ids:
            snapshot = repository.snapshot(run_id)
            assert snapshot is not None, f"snapshot {run_id} is not there"
            found[run_id] = _entries(run.reader(snapshot, content))
        return found


@contextmanager
def opened_at(data_dir: Path, repository_id: str, location: Path) -> Iterator[Repository]:
    """A repository of a server, with the keys that its data directory holds."""
    with _opened(data_dir / "repositories" / repository_id) as folder:
        keys = RepositoryKeys.load(folder)
    with _opened(location) as folder, LocalObjects(folder, str(location)) as store:
        yield Repository.open(store, keys, None)


def _written(run: BackupRun, source: Path, plan: BackupPlan, scope: CacheScope) -> Snapshot:
    problems: list[object] = []
    with open_folder(os.fsencode(source)) as folder:
        found = write_entries(folder, plan, run.writer, scope, Control(), Progress(), problems.append)
        status, attributes = os.fstat(folder.fd), read_xattrs(folder.fd)

    def root(tree: TreeRoot | None) -> bytes:
        own = SourceAttributes(status.st_mode & 0o7777, status.st_mtime_ns, status.st_uid, status.st_gid, attributes)
        return encode_root(RootInfo(own, tree, (), (), (), None))

    assert not problems, problems
    return run.commit(root, lambda written: _snapshot(run, plan, found, written))


def _snapshot(run: BackupRun, plan: BackupPlan, found: Statistics, written: Written) -> Snapshot:
    counts = SnapshotCounts(
        files=found.files, directories=found.directories, symlinks=found.symlinks, hardlinks=found.hardlinks,
        bytes=found.original_size, files_skipped=0, files_ignored=0, warnings=found.warnings,
    )  # fmt: skip
    return Snapshot(
        run_id=plan.backup_id, name=plan.name, locked=False, source_id=plan.source_id, source_kind=plan.source_kind,
        source_display_name=plan.display_name, create_us=plan.created_us, complete_us=run.now(), counts=counts,
        stored_size=written.stored_size, complete=found.complete, list=written.list, root=written.root,
        writer_id=run.repository.keys.writer.writer_id, software=plan.software, wallet=None,
    )  # fmt: skip


def _entries(reader: SnapshotReader) -> dict[bytes, tuple[Any, ...]]:
    own = reader.root.attributes
    found: dict[bytes, tuple[Any, ...]] = {b"": ("d", own.mode, own.mtime_ns)}
    for entry in reader.entries():
        if entry.kind is EntryKind.DIRECTORY:
            found[entry.path] = ("d", entry.mode, entry.mtime_ns)
        elif entry.kind is EntryKind.SYMLINK:
            found[entry.path] = ("l", entry.link_target)
        elif entry.kind is EntryKind.HARDLINK:
            found[entry.path] = found[entry.link_target]
        else:
            digest, size = hashlib.sha256(), 0
            for block in reader.blocks(entry):
                part = bytes(block.length) if isinstance(block, Hole) else block
                digest.update(part)
                size += len(part)
            assert size == entry.size
            found[entry.path] = ("f", entry.mode, entry.mtime_ns, size, digest.hexdigest())
    return found


def packs_of(store: ObjectStore, repository: Repository) -> dict[bytes, PackRecord]:
    """What each pack in the store says of itself."""
    keys = repository.index_keys
    return {pack_id: read_directory(store, keys, pack_id, size) for pack_id, size in list_packs(store).items()}


def assert_nothing_sent_again(before: dict[bytes, PackRecord], after: dict[bytes, PackRecord]) -> None:
    """No pack is gone, and none that came holds a chunk or a small file that was there before."""
    assert set(before) <= set(after)
    new = [record for pack_id, record in after.items() if pack_id not in before]
    chunks = [chunk.chunk_id for record in new for chunk in record]
    files = [small[0] for record in new for small in record.small_of()]
    assert len(set(chunks)) == len(chunks)
    assert {chunk.chunk_id for record in before.values() for chunk in record}.isdisjoint(chunks)
    assert {small[0] for record in before.values() for small in record.small_of()}.isdisjoint(files)


def stored_size(store: ObjectStore, prefix: str = "") -> int:
    """Bytes of all objects of a prefix."""
    return sum(info.size for info in store.list(prefix))


def copy_of(store: ObjectStore) -> MemoryObjects:
    """A copy in memory of all that a store holds."""
    return MemoryObjects({info.name: store.get(info.name) for info in store.list("")})


def small_packs(patch: pytest.MonkeyPatch, *, pack: int = 24 << 10, chunk: int = 4 << 10) -> None:
    """Let chunks of small files and packs be so small that a small tree fills several."""
    patch.setattr(packs, "PACK_TARGET", pack)
    patch.setattr(writer, "CHUNK_MIN", chunk)
    patch.setattr(writer, "_STREAM_CHANCE", chunk)
    patch.setattr(waste, "LEAST_AVERAGE", chunk // 16)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _shared_pool() -> CompressorPool:
    if not _pool:
        _pool.append(CompressorPool(2))
    return _pool[0]
