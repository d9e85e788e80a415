"""Runs: what whoever writes or reads a repository does before and after (docs/format.md, "Order of writing").

A run is announced in the store first, so that nothing it may need is deleted meanwhile; then the log is read, then the
index. A backup's run ends with its snapshot or a tombstone, any other by removing its object.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Final, Self

from holdfast_server.errors import Aborted, DataLoss, Reason
from holdfast_server.repository.content_keys import ContentKeys, ContentPublicKey
from holdfast_server.repository.facts import Committed, Fact, Locked, Removed, Renamed
from holdfast_server.repository.fetching import ChunkSource
from holdfast_server.repository.files_cache import FilesCacheReader, FilesCacheWriter
from holdfast_server.repository.format import snapshot_name
from holdfast_server.repository.healing import Healing
from holdfast_server.repository.index import LoadedIndex, load_index, read_index_object
from holdfast_server.repository.log import Log, LogReader, LogWriter
from holdfast_server.repository.log_state import LogState, cut_long_log
from holdfast_server.repository.packs import PackRecord
from holdfast_server.repository.reader import SnapshotReader
from holdfast_server.repository.repository import Repository
from holdfast_server.repository.run_marks import RunMark
from holdfast_server.repository.runs import Run, RunKind, begin_run, is_begun
from holdfast_server.repository.sending import JobPool
from holdfast_server.repository.small_files import SmallFiles
from holdfast_server.repository.snapshots import Snapshot, Tombstone, end_run_as, read_run_end
from holdfast_server.repository.tree import TreeRoot
from holdfast_server.repository.waste import NOTE_KEY, Repacking, read_note
from holdfast_server.repository.writer import SnapshotWriter, Written

__all__ = [
    "BackupRun",
    "ReadingRun",
    "bury_run",
    "remove_snapshots",
    "settle_run",
    "take_back_run",
    "tell_of_snapshot",
]

#: A run says so often that it goes on.
_RENEW_SECONDS: Final = 3600.0
_LOCK_SECONDS: Final = 0.02
#: Snapshots that one entry of the log tells of as removed.
_REMOVED_AT_ONCE: Final = 1_000
_CACHE_CONTEXT: Final = b"holdfast repository 1 files cache"
_STATE_CONTEXT: Final = b"holdfast repository 1 files cache key "
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Session:
    """What all runs share."""

    def __init__(
        self, repository: Repository, run_id: str, kind: RunKind, check: Callable[[], None], now: Callable[[], int]
    ) -> None:
        self.repository = repository
        self._store, self._keys = repository.store, repository.index_keys
        self._asked = check
        self.now = now
        #: Whether an earlier attempt has begun this run, whose process may stand still and go on at any time.
        self.again = is_begun(self._store, run_id)
        self._run: Run = begin_run(
            self._store, self._keys, run_id, kind, writer_id=repository.keys.writer.writer_id, now_us=now()
        )
        self._renew_at = time.monotonic() + _RENEW_SECONDS

    def check(self) -> None:
        """Whether to go on, as the run's owner says; renews the run."""
        self._asked()
        if time.monotonic() >= self._renew_at:
            if not is_begun(self._store, self._run.run_id):
                raise run_ended(self._run.run_id)
            self._renew_at = time.monotonic() + _RENEW_SECONDS
            self._run = self._run.renew(self._store, self._keys, self.now())


class ReadingRun(_Session):
    """A run that only reads. A context manager; what it reads is not deleted before it ends."""

    def __init__(
        self,
        repository: Repository,
        kind: RunKind,
        check: Callable[[], None],
        now: Callable[[], int],
        marks: bytes | None = None,
    ) -> None:
        """Announces the run and loads the index. `kind` is anything but BACKUP; `marks` is the folder where this node
        marks its runs (`run_marks`)."""
        with ExitStack() as stack:
            self._mark = stack.enter_context(RunMark(marks))
            super().__init__(repository, self._mark.run_id, kind, check, now)
            stack.push(self._end)
            self.index: LoadedIndex = load_index(self._store, self._keys, keep_keys=True, check=self.check)
            self._stack = stack.pop_all()

    def _end(self, *_: object) -> None:
        self._run.end(self._store)
        self._mark.ended()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def chunks(self, content: ContentKeys | None) -> ChunkSource:
        """The repository's chunks; without content keys those of the index tier."""
        return ChunkSource(self._store, self._keys, content, self.index.chunks, self.index.missing)

    def reader(self, snapshot: Snapshot, content: ContentKeys | None) -> SnapshotReader:
        return SnapshotReader(self.chunks(content).fetch, snapshot)


class BackupRun(_Session):
    """One attempt at a snapshot. A context manager: what was not committed is given up, but not for later attempts.

    `earlier` is the snapshot that an earlier attempt has committed; then there is nothing left to write.
    `caches` is the folder of this node's caches of the repository. `transformation` says what is done to content on
    its way (the id of a wallet's key), and parts the files cache.
    """

    def __init__(
        self,
        repository: Repository,
        run_id: str,
        source_id: str,
        *,
        caches: int,
        pool: JobPool,
        check: Callable[[], None],
        now: Callable[[], int],
        transformation: bytes = b"",
        on_stored: Callable[[int], None] = lambda _size: None,
    ) -> None:
        """`on_stored` is told how many bytes of new chunks there are so far, compressed.

        Raises Aborted/RUN_ENDED when the run was buried, and what the store raises."""
        end = read_run_end(repository.store, repository.index_keys, run_id)
        if isinstance(end, Tombstone):
            raise run_ended(run_id)
        repository.store.keep_reserve()
        self.earlier: Snapshot | None = end
        #: What is wrong with the store, for people; what this source still has of it is stored again.
        self.findings: list[str] = []
        self._stack = ExitStack()
        super().__init__(repository, run_id, RunKind.BACKUP, check, now)
        if end is not None:
            return
        try:
            self._open(run_id, source_id, caches, pool, transformation, on_stored)
        except BaseException:
            self._stack.close()
            raise

    def _open(
        self,
        run_id: str,
        source_id: str,
        caches: int,
        pool: JobPool,
        transformation: bytes,
        on_stored: Callable[[int], None],
    ) -> None:
        store, keys, repository = self._store, self._keys, self.repository
        self._log = LogReader(store, keys).read()
        state = LogState.of(self._log)
        if run_id in state.removed:
            # Another attempt has committed it meanwhile, and it is gone on purpose by now.
            bury_run(repository, run_id)
            raise run_ended(run_id)
        condemned = state.expendable
        self._small = self._stack.enter_context(_folder(caches, "small-files"))
        files = self._stack.enter_context(_folder(caches, "files"))
        index = load_index(store, keys, keep_keys=False, check=self.check, condemned=condemned, asked=state.set_aside)
        self.findings += [error.message for error in (*index.damaged.values(), *index.unreadable.values())]
        self.findings += [f"pack {pack_id.hex()} is not there: {what}" for pack_id, what in index.missing.items()]
        #: Hashes what a file looked like, for `core.snapshot_backup`.
        self.cache_key = keys.derive(transformation.ljust(16, b"\0"), _STATE_CONTEXT + source_id.encode())
        cache_key, binding = keys.derive(keys.uuid, _CACHE_CONTEXT), keys.uuid + source_id.encode()
        old = self._stack.enter_context(FilesCacheReader.open(files, source_id, cache_key, binding))
        note = (old.lookup(NOTE_KEY) or b"") + read_note(caches)
        self.writer = SnapshotWriter(
            store, keys, _newest_key(repository, state), repository.config.compression_level, index,
            partial(self._small_files, index), old, FilesCacheWriter(files, source_id, cache_key, binding), pool,
            self.check, on_stored, Repacking(index.chunks, note),
            Healing(keys, index.asked.values(), index.chunks),
        )  # fmt: skip
        self._stack.callback(self.writer.close)
        self._run_id = run_id

    def _small_files(self, index: LoadedIndex) -> SmallFiles:
        """The small-file table, brought up to date with the index objects. A source without new files needs none."""
        # One process at a time changes the table; what others have open of it stays readable.
        self._lock(self._small)
        try:
            table = self._stack.enter_context(SmallFiles.open(self._small, self._keys.uuid))
            for index_id in sorted(index.index_ids - table.covers):
                self.check()
                table.add_index(index_id, _small_records(read_index_object(self._store, self._keys, index_id)))
            table.retain(index.index_ids)
            # An index of these is written with the snapshot; until then only this run knows what they hold.
            for digest, chunk, offset, length in _small_records(index.adopted):
                table.remember(digest, chunk, offset, length)
            return table
        finally:
            fcntl.flock(self._small, fcntl.LOCK_UN)

    def _lock(self, folder: int) -> None:
        """Wait for a folder of caches, as long as the run may go on: its holder may be a process that stands still."""
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.check()
                time.sleep(_LOCK_SECONDS)
            else:
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def commit(
        self, encode_root: Callable[[TreeRoot | None], bytes], describe: Callable[[Written], Snapshot]
    ) -> Snapshot:
        """Make all of it durable, then visible. Gives the snapshot, or the one that another attempt committed before.

        Raises Aborted/RUN_ENDED when the run was buried meanwhile, and what the store raises; unless the snapshot is
        there then, nothing was committed.
        """
        snapshot = replace(describe(self.writer.finish(encode_root)), retried=self.again)
        self.check()
        if not end_run_as(self._store, self._keys, snapshot):
            end = read_run_end(self._store, self._keys, snapshot.run_id)
            if not isinstance(end, Snapshot):
                raise run_ended(snapshot.run_id)
            snapshot = end
        self._refuse_removed(snapshot)
        return snapshot

    def _refuse_removed(self, snapshot: Snapshot) -> None:
        """Take back what was committed in place of a snapshot that another attempt had committed, and that was removed
        since: what it needs may be gone."""
        news = LogReader(self._store, self._keys).read(self._log.vector)
        if snapshot.run_id in LogState.of(news).removed:
            self._store.delete(snapshot_name(snapshot.run_id))
            bury_run(self.repository, snapshot.run_id)
            raise run_ended(snapshot.run_id)

    def settle(self) -> None:
        """What follows a commit: the log, the caches, the end of the run. May be done by a later attempt."""
        if self.earlier is not None:
            settle_run(self.repository, self._run.run_id, self.now())
            return
        try:
            _append_committed(self.repository, self._log, self._run.run_id, self.now())
            cut_long_log(self.repository, self._log, self.now())
        finally:
            self.writer.keep_cache()
            self._run.end(self._store)


def settle_run(repository: Repository, run_id: str, now_us: int) -> None:
    """Settle the run of a backup that an earlier attempt has committed, as far as it was not."""
    store, keys = repository.store, repository.index_keys
    try:
        _append_committed(repository, LogReader(store, keys).read(), run_id, now_us)
    finally:
        _run_of(repository, run_id).end(store)


def bury_run(repository: Repository, run_id: str) -> Snapshot | None:
    """End a backup's run without a snapshot; gives the snapshot if it had committed one, which stays."""
    store, keys = repository.store, repository.index_keys
    # A full disk may be why it failed, and what it left can go only when it has ended.
    with store.use_reserve():
        end = None if end_run_as(store, keys, Tombstone(run_id)) else read_run_end(store, keys, run_id)
        # Also after a commit: without its snapshot, which may be removed next, the run would count as one under way.
        _run_of(repository, run_id).end(store)
    return end if isinstance(end, Snapshot) else None


def take_back_run(repository: Repository, run_id: str, now_us: int) -> bool:
    """End a backup's run without a snapshot; one that it had committed is removed. Gives whether there was one."""
    if bury_run(repository, run_id) is None:
        return False
    remove_snapshots(repository, [run_id], now_us)
    bury_run(repository, run_id)
    return True


def tell_of_snapshot(
    repository: Repository, run_id: str, now_us: int, *, name: str | None = None, locked: bool | None = None
) -> None:
    """Say in the log that a snapshot has another name, or was locked or unlocked."""
    store, keys = repository.store, repository.index_keys
    facts: list[Fact] = []
    if name is not None:
        facts.append(Renamed(run_id, name))
    if locked is not None:
        facts.append(Locked(run_id, locked))
    log = LogReader(store, keys).read()
    LogWriter(store, keys, repository.keys.writer, log.vector).append(facts, now_us)


def remove_snapshots(
    repository: Repository, run_ids: Sequence[str], now_us: int, check: Callable[[], None] = lambda: None
) -> None:
    """Remove snapshots on purpose. What they alone needed stays in the store until it is pruned.

    No error for one that is gone. `check` is asked before each; what it raises leaves the rest to the next call.
    """
    store, keys = repository.store, repository.index_keys
    log = LogReader(store, keys).read()
    state = LogState.of(log)
    writer = LogWriter(store, keys, repository.keys.writer, log.vector)
    for at in range(0, len(run_ids), _REMOVED_AT_ONCE):
        check()
        ends = {run_id: _end_to_remove(repository, state, run_id) for run_id in run_ids[at : at + _REMOVED_AT_ONCE]}
        going = [run_id for run_id, end in ends.items() if end is not None]
        if not going:
            continue
        with store.use_reserve():
            writer.append([Removed(tuple(going))], now_us)
            for run_id in going:
                check()
                # Without its snapshot a run that was not settled would count as one under way.
                _run_of(repository, run_id).end(store)
                store.delete(snapshot_name(run_id))
                if ends[run_id]:
                    bury_run(repository, run_id)


def _end_to_remove(repository: Repository, state: LogState, run_id: str) -> bool | None:
    """Whether another attempt of the run may be alive, which must not commit in its place; None when there is nothing
    to remove."""
    store = repository.store
    try:
        end = read_run_end(store, repository.index_keys, run_id)
    except DataLoss:
        return True  # it is there, and damaged: all the more may it go
    if end is None:
        return False if run_id in state.committed and run_id not in state.removed else None
    return end.retried if isinstance(end, Snapshot) else None


def _run_of(repository: Repository, run_id: str) -> Run:
    """The run of a backup of this node, to end it."""
    return Run(run_id, RunKind.BACKUP, repository.keys.writer.writer_id, 0, 0)


def _append_committed(repository: Repository, log: Log, run_id: str, now_us: int) -> None:
    """Tell the log of a commit, if it does not know."""
    if run_id not in LogState.of(log).committed:
        writer = LogWriter(repository.store, repository.index_keys, repository.keys.writer, log.vector)
        writer.append([Committed(run_id)], now_us)


@contextmanager
def _folder(parent: int, name: str) -> Iterator[int]:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        pass
    fd = os.open(name, _FOLDER, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


def _small_records(records: list[PackRecord]) -> Iterator[tuple[bytes, bytes, int, int]]:
    for record in records:
        for digest, chunk_id, offset, length in record.small_of():
            yield digest, chunk_id[:16], offset, length


def _newest_key(repository: Repository, state: LogState) -> ContentPublicKey:
    """The public key of the present epoch."""
    if not state.epochs:
        return repository.config.public_key
    newest = state.epochs[max(state.epochs)]
    return ContentPublicKey(newest.epoch, newest.public)


def run_ended(run_id: str) -> Aborted:
    """The error of a run that must not go on."""
    return Aborted(
        Reason.RUN_ENDED,
        f"run {run_id} was ended without a snapshot, because it was cancelled, had failed or was silent for too long",
        metadata={"run_id": run_id},
    )
