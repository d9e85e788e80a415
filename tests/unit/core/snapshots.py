"""A repository in memory, and folders backed up into it."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from holdfast_server.archive.pool import CompressorPool
from holdfast_server.core.control import Control, Problem, Progress
from holdfast_server.core.snapshot_backup import CacheScope, write_entries
from holdfast_server.core.source_job import BackupPlan
from holdfast_server.repository import BackupRun, Repository, Snapshot, SnapshotReader, create_repository, encode_root
from holdfast_server.repository.browsing import BrowsingIndex
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.storage.local_objects import LocalObjects
from holdfast_server.storage.objects import MemoryObjects, ObjectStore
from holdfast_server.tasks.snapshot_target import _root_info, _snapshot
from holdfast_server.wallets.envelope import WalletKey

__all__ = ["CREATED", "LocalSnapshots", "Snapshots"]

CREATED = 1_700_000_000_000_000


class Snapshots:
    """`base` takes this node's caches."""

    def __init__(self, base: Path, pool: CompressorPool, store: ObjectStore | None = None) -> None:
        self.store = store or MemoryObjects()
        made = create_repository(self.store, sealed=False, slots=[], compression_level=1, now_us=CREATED)
        self.content = made.keys.content
        self.keys = made.keys
        self.repository = Repository.open(self.store, made.keys, made.fingerprint)
        self.problems: list[Problem] = []
        self._caches = base / "caches"
        self._caches.mkdir()
        self._pool = pool

    def back_up(self, source: Path, kind: str = "DIRECTORY", key: WalletKey | None = None) -> Snapshot:
        plan = BackupPlan(str(uuid.uuid4()), "name", "s", kind, "S", ["*.no"], CREATED, "old version", wallet_key=key)
        caches = os.open(self._caches, os.O_RDONLY)
        transformation = bytes.fromhex(key.key_id) if key else b""
        try:
            with (
                OpenFolder(os.open(source, os.O_RDONLY), os.fsencode(source)) as opened,
                BackupRun(
                    self.repository, plan.backup_id, "s", caches=caches, pool=self._pool, check=lambda: None,
                    now=lambda: CREATED, transformation=transformation,
                ) as session,
            ):  # fmt: skip
                scope = CacheScope(session.cache_key, 0)
                found = write_entries(opened, plan, session.writer, scope, Control(), Progress(), self.problems.append)
                snapshot = session.commit(
                    lambda tree: encode_root(_root_info(opened, plan, found, tree, ())),
                    lambda written: _snapshot(session, plan, found, written, locked=False),
                )
                session.settle()
                return snapshot
        finally:
            os.close(caches)

    def reader(self, snapshot: Snapshot) -> SnapshotReader:
        return BrowsingIndex(self.repository, lambda: None).reader(self.repository, snapshot, self.content)


class LocalSnapshots(Snapshots):
    """In a folder, with the keys in another, so that other code opens it by its place."""

    def __init__(self, base: Path, pool: CompressorPool) -> None:
        for name in ("vault", "keys"):
            (base / name).mkdir()
        self.location, self.keys_folder = os.fsencode(base / "vault"), os.fsencode(base / "keys")
        fd = os.open(self.location, os.O_RDONLY)
        super().__init__(base, pool, LocalObjects(fd, str(base)))
        os.close(fd)
        fd = os.open(self.keys_folder, os.O_RDONLY)
        self.keys.save(fd)
        os.close(fd)
