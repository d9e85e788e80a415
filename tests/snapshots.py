"""Repositories for tests, in memory or in a folder: sources backed up into them, and restored."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from holdfast_server.archive.extract import ignore
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.archive.reading import Report
from holdfast_server.core import source_entries
from holdfast_server.core.coin_restore import CoinRestore
from holdfast_server.core.control import Control, Problem, Progress
from holdfast_server.core.restore import Restored, apply_staging, remove_staging
from holdfast_server.core.snapshot_backup import CacheScope, write_entries
from holdfast_server.core.snapshot_restore import SnapshotUnpacking, restore_snapshot_to_staging
from holdfast_server.core.source_job import BackupPlan
from holdfast_server.core.source_process import SourceProcess
from holdfast_server.repository import (
    BackupRun,
    ContentKeys,
    NewSlot,
    ReadingRun,
    Repository,
    RootInfo,
    RunKind,
    SlotKind,
    Snapshot,
    SnapshotCounts,
    SourceAttributes,
    TreeRoot,
    Written,
    create_repository,
    encode_root,
)
from holdfast_server.storage.entry import read_xattrs
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.storage.objects import MemoryObjects, ObjectStore
from holdfast_server.wallets.envelope import WalletKey
from tests.harness import until

STAGING = b".holdfast-restore-x.1"
KEY_FILE = "a key file of a repository for tests: 0123456789abcdef"


class Vault:
    """A repository with its caches; a context manager."""

    def __init__(self, store: ObjectStore | None = None, *, sealed: bool = False, caches: Path | None = None) -> None:
        self.store = store if store is not None else MemoryObjects()
        slot = NewSlot(SlotKind.KEY_FILE, KEY_FILE, "key")
        created = create_repository(self.store, sealed=sealed, slots=[slot], compression_level=3, now_us=1)
        self.content = created.keys.content
        keys = created.keys.without_content() if sealed else created.keys
        self.repository = Repository.open(self.store, keys, created.fingerprint)
        self.problems: list[Problem] = []
        self._pool = CompressorPool(2)
        self._folder = tempfile.TemporaryDirectory()
        self._caches = os.open(caches or self._folder.name, os.O_RDONLY | os.O_DIRECTORY)

    def __enter__(self) -> Vault:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()
        os.close(self._caches)
        self._folder.cleanup()

    def back_up(self, root: Path | bytes, *, kind: str = "DIRECTORY", key: WalletKey | None = None) -> Snapshot:
        """A snapshot of the folder."""
        path = os.fsencode(root)
        run_id = str(uuid.uuid4())
        plan = BackupPlan(run_id, "name", "source", kind, "Source", [], 1, "test", wallet_key=key)
        with (
            OpenFolder(os.open(path, os.O_RDONLY | os.O_DIRECTORY), path) as source,
            BackupRun(
                self.repository, run_id, "source", caches=self._caches, pool=self._pool, check=_nothing, now=_now,
                transformation=bytes.fromhex(key.key_id) if key else b"",
            ) as run,
        ):  # fmt: skip
            scope = CacheScope(run.cache_key, 0)
            found = write_entries(source, plan, run.writer, scope, Control(), Progress(), self.problems.append)
            status = os.fstat(source.fd)
            attributes = SourceAttributes(
                status.st_mode & 0o7777, status.st_mtime_ns, status.st_uid, status.st_gid, read_xattrs(source.fd)
            )
            coins = found.census.to_record() if found.census is not None else None

            def root_of(tree: TreeRoot | None) -> bytes:
                return encode_root(RootInfo(attributes, tree, coins=coins))

            def describe(written: Written) -> Snapshot:
                counts = SnapshotCounts(
                    found.files, found.directories, found.symlinks, found.hardlinks, found.original_size
                )
                return Snapshot(
                    run_id, "name", False, "source", kind, "Source", 1, 2, counts, written.stored_size, found.complete,
                    written.list, written.root, self.repository.keys.writer.writer_id, "test",
                    asdict(found.wallet) if plan.is_wallet else None,
                )  # fmt: skip

            snapshot = run.commit(root_of, describe)
            run.settle()
        return snapshot

    def reading(self) -> ReadingRun:
        return ReadingRun(self.repository, RunKind.RESTORE, _nothing, _now)


def _nothing() -> None:
    pass


def _now() -> int:
    return 1


def restore(
    vault: Vault,
    snapshot: Snapshot,
    target: Path | bytes,
    *,
    paths: Sequence[bytes] = (),
    content: ContentKeys | None = None,
    control: Control | None = None,
    report: Report = ignore,
    coins: CoinRestore | None = None,
) -> Restored:
    """The snapshot in a new folder, which stays without it when it raises."""
    os.mkdir(target, 0o700)
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with vault.reading() as run:
            unpacking = SnapshotUnpacking(
                run.reader(snapshot, content or vault.content),
                paths,
                snapshot.source_kind == "WALLET",
                snapshot.complete,
                lambda _size, _files, _path: None,
                report,
                coins=coins,
            )
            try:
                found = restore_snapshot_to_staging(
                    unpacking, fd, STAGING, needed=snapshot.counts.bytes, control=control or Control(),
                    progress=Progress(),
                )  # fmt: skip
            except BaseException:
                remove_staging(fd, STAGING)
                raise
        apply_staging(fd, STAGING, found.root, _nothing)
    finally:
        os.close(fd)
    return found


def described(root: Path | bytes, *, holes: bool = False) -> dict[bytes, tuple[object, ...]]:
    """All that a restore must bring back, by path; the root as the empty path. With `holes` where data lies, too."""
    found: dict[bytes, tuple[object, ...]] = {}
    first_names: dict[int, bytes] = {}
    root = os.fsencode(root)
    paths = [root]
    while paths:
        path = paths.pop()
        status = os.lstat(path)
        relative = b"" if path == root else os.path.relpath(path, root)
        kind = stat.S_IFMT(status.st_mode)
        attributes = {
            name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
        }
        line: tuple[object, ...] = (kind, status.st_mtime_ns, status.st_uid, status.st_gid, attributes)
        if kind == stat.S_IFLNK:
            line += (os.readlink(path),)
        else:
            line += (stat.S_IMODE(status.st_mode),)
        if kind == stat.S_IFREG:
            with open(path, "rb") as file:
                line += (file.read(), first_names.setdefault(status.st_ino, relative))
            if holes:
                line += (_data(path, status.st_size),)
        if kind == stat.S_IFDIR:
            paths += sorted((path + b"/" + name for name in os.listdir(path)), reverse=True)
        found[relative] = line
    return found


def _data(path: bytes, size: int) -> list[tuple[int, int]]:
    """Begin and end of the parts of a file that are no holes."""
    found, end = [], 0
    fd = os.open(path, os.O_RDONLY)
    try:
        while end < size:
            try:
                begin = os.lseek(fd, end, os.SEEK_DATA)
            except OSError:  # nothing but a hole is left
                break
            end = os.lseek(fd, begin, os.SEEK_HOLE)
            found.append((begin, end))
    finally:
        os.close(fd)
    return found


def walk_elsewhere(patch: pytest.MonkeyPatch) -> list[SourceProcess]:
    """Have sources walked by a process of its own from their second entry on; those that were started."""
    started: list[SourceProcess] = []
    start = source_entries._start

    def start_and_wait(opened: contextlib.ExitStack) -> SourceProcess | None:
        process = start(opened)
        assert process is not None, "this machine has one processor"
        until(process.is_ready, "the start of the process")
        started.append(process)
        return process

    patch.setattr(source_entries, "_PROCESS_FROM", 1)
    patch.setattr(source_entries, "_start", start_and_wait)
    return started
