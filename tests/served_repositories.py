"""Looking into the repositories of a server under test with the keys of its data directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast.v1 import backup_service_pb2, repository_service_pb2, task_pb2
from holdfast_server.core.repository_place import RepositoryPlace, open_place
from holdfast_server.repository import ContentKeys, EntryKind, ReadingRun, Repository, RunKind, Snapshot
from holdfast_server.repository.reader import Hole
from tests.harness import PATIENCE, Server

__all__ = [
    "back_up",
    "create_repository",
    "every_chunk",
    "opened_repository",
    "order_snapshot",
    "snapshot_ids",
    "stored_files",
]


def create_repository(
    server: Server, repository_id: str, folder: Path, **values: Any
) -> repository_service_pb2.CreateRepositoryResponse:
    request = repository_service_pb2.CreateRepositoryRequest(
        repository_id=repository_id, location=str(folder), create_folder=True, **values
    )
    return server.repositories.CreateRepository(request, timeout=PATIENCE)


def order_snapshot(repository_id: str, *source_ids: str, **values: Any) -> backup_service_pb2.CreateBackupRequest:
    request = backup_service_pb2.CreateBackupRequest(source_ids=source_ids, **values)
    request.repository.repository_id = repository_id
    return request


def back_up(server: Server, repository_id: str, *source_ids: str, **values: Any) -> task_pb2.Task:
    """CreateBackup into a repository, and wait for its end."""
    request = order_snapshot(repository_id, *source_ids, **values)
    return server.ended(server.backups.CreateBackup(request, timeout=PATIENCE).task_id)


@contextmanager
def opened_repository(server: Server, repository_id: str) -> Iterator[Repository]:
    """Beside the server, as another process."""
    (row,) = server.rows("SELECT location, fingerprint FROM repositories WHERE repository_id = ?", repository_id)
    keys = os.fsencode(server.data_dir / "repositories" / repository_id)
    with open_place(RepositoryPlace(repository_id, row["location"], keys, row["fingerprint"])) as opened:
        yield opened.repository


def snapshot_ids(server: Server, repository_id: str) -> set[str]:
    with opened_repository(server, repository_id) as repository:
        return {snapshot.run_id for snapshot in repository.snapshots()}


@contextmanager
def _reading(repository: Repository) -> Iterator[ReadingRun]:
    with ReadingRun(repository, RunKind.VERIFY, lambda: None, lambda: 1) as run:
        yield run


def every_chunk(repository: Repository, content: ContentKeys | None = None) -> Iterator[bytes]:
    """The content of all chunks, of data and of everything else."""
    with _reading(repository) as run:
        source, index = run.chunks(content or repository.keys.content), run.index.chunks
        for number in index.numbers():
            yield source.fetch(index.kind(number), index.chunk_id(number))  # type: ignore[arg-type]


def stored_files(repository: Repository, snapshot: Snapshot, content: ContentKeys | None = None) -> dict[bytes, bytes]:
    """Path in the source → content, of the regular files of a snapshot."""
    found = {}
    with _reading(repository) as run:
        reader = run.reader(snapshot, content or repository.keys.content)
        for entry in reader.entries():
            if entry.kind is EntryKind.FILE:
                blocks = (bytes(b.length) if isinstance(b, Hole) else b for b in reader.blocks(entry))
                found[entry.path] = b"".join(blocks)
    return found
