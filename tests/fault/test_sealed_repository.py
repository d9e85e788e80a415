"""What a thief of a server learns of a sealed repository: no content and no name of any file in it.

Of a running server, of one that was killed in the middle of a backup, and of one that went on after that, everything
that it keeps is searched for what the source holds, and every key found there is tried on what the repository holds.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from holdfast.v1 import backup_service_pb2, repository_pb2, repository_service_pb2, task_pb2
from holdfast_server.errors import HoldfastError
from holdfast_server.repository import ContentKeys, Repository, RepositoryKeys
from holdfast_server.repository.format import Tier, pack_name
from holdfast_server.repository.packs import PackRecord
from tests.canary import Canary, Finding, unfold
from tests.fault.test_kills import come_back, freeze_and_kill
from tests.harness import PATIENCE, Server, snapshot, until
from tests.repositories import opened_at, packs_of, read_snapshots

NAME, CONTENT, PATTERN = "qz7name4kd", b"vk3content9xw", "ig5pattern2mb"
PASSPHRASE = "tp8phrase6 correct horse"
CANARIES = [Canary(marker) for marker in (NAME.encode(), CONTENT, PATTERN.encode(), PASSPHRASE[:10].encode())]

MakeServer = Callable[..., Server]


def make_source(root: Path) -> Path:
    """Files and folders of telling names, small and large, whose content tells them, too."""
    draw = random.Random(7)
    for number in range(120):
        folder = root / f"{NAME} folder {number % 7}"
        folder.mkdir(parents=True, exist_ok=True)
        text = CONTENT + b" %d " % number
        (folder / f"{NAME}-{number}.txt").write_bytes(text * draw.choice((1, 3, 200)))
    (root / f"{PATTERN}.tmp").write_bytes(b"left out")
    (root / f"{NAME} link").symlink_to(f"{NAME} target")
    os.mkfifo(root / f"{NAME} fifo")  # is skipped with a warning
    change(root, draw)
    return root


def change(root: Path, draw: random.Random) -> None:
    with (root / f"{NAME} large").open("wb") as file:
        for _ in range(36):
            file.write(CONTENT + draw.randbytes((1 << 20) - len(CONTENT)))


def make_repository(server: Server, repository_id: str, folder: Path, *, sealed: bool) -> None:
    keys = [repository_pb2.NewKey(passphrase=PASSPHRASE)] if sealed else []
    request = repository_service_pb2.CreateRepositoryRequest(
        repository_id=repository_id, location=str(folder), create_folder=True, sealed=sealed, keys=keys
    )
    server.repositories.CreateRepository(request, timeout=PATIENCE)


def start_backup(server: Server, repository_id: str, ignore: tuple[str, ...] = ()) -> str:
    request = backup_service_pb2.CreateBackupRequest(source_ids=["source"], ignore=ignore)
    request.repository.repository_id = repository_id
    return server.backups.CreateBackup(request, timeout=PATIENCE).task_id


def left(server: Server, *also: Path) -> list[Finding]:
    """Where what the source holds is found."""
    return [found for canary in CANARIES for found in canary.search(server.base, *also)]


def found_keys(root: Path) -> set[bytes]:
    """Everything in a folder's files, and in their tables, that may be a key of 32 or of 96 bytes."""
    found = set()
    for content in _contents(root):
        for whole in _unfolded(content, 3):
            for size in (32, 96):
                if len(whole) >= size:
                    found |= {whole[:size], whole[-size:]}
    return found


def _contents(root: Path) -> Iterator[bytes]:
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            if not content.strip(b"\0"):
                continue  # of a reserve for a full disk
            yield content
            if content.startswith(b"SQLite format 3\0"):
                yield from _values(path)


def _values(path: Path) -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                shutil.copy(path.with_name(path.name + suffix), folder)
        database = sqlite3.connect(Path(folder, path.name))
        database.text_factory = bytes
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type='table'").fetchall():
            for row in database.execute(f'SELECT * FROM "{table.decode()}"'):
                yield from (value for value in row if isinstance(value, bytes))
        database.close()


def _unfolded(content: bytes, depth: int) -> Iterator[bytes]:
    yield content
    if depth:
        for _, inner in unfold(content):
            yield from _unfolded(inner, depth - 1)


def opened_by(keys: set[bytes], repository: Repository) -> list[bytes]:
    """The segments of the content tier that one of the keys opens."""
    content_keys, data_keys = [], []
    for key in keys:
        if len(key) == 32:
            data_keys.append(AESGCM(key))
            continue
        with suppress(ValueError):
            content_keys.append(ContentKeys({1: key}))
    opened, seen = [], set()
    for record in packs_of(repository.store, repository).values():
        for number, segment in enumerate(record.segments):
            own = segment.segment_id
            if segment.tier is not Tier.CONTENT or own in seen:
                continue
            seen.add(own)
            if _opens(content_keys, repository, own, segment.epoch, segment.sealed) or _decrypts(
                data_keys, repository, record, number
            ):
                opened.append(own)
    assert seen
    return opened


def _opens(keys: list[ContentKeys], repository: Repository, segment: bytes, epoch: int, sealed: bytes) -> bool:
    for key in keys:
        with suppress(HoldfastError):
            key.open_segment(repository.config.uuid, segment, epoch, sealed)
            return True
    return False


def _decrypts(ciphers: list[AESGCM], repository: Repository, record: PackRecord, number: int) -> bool:
    chunk = min((one for one in record if one.segment == number), key=lambda one: one.length)
    message = repository.store.get(pack_name(record.pack_id), chunk.offset, chunk.length)
    own = record.segments[number].segment_id
    aad = b"HFM1" + bytes([chunk.kind]) + repository.config.uuid + own + chunk.number.to_bytes(4, "little")
    for cipher in ciphers:
        with suppress(InvalidTag):
            cipher.decrypt(chunk.number.to_bytes(12, "little"), message, aad + chunk.chunk_id)
            return True
    return False


def secrets_of(repository: Repository, content: ContentKeys) -> list[bytes]:
    """Parts of the private key and of the data keys."""
    private = content.private(1)
    found = [private[:32], private[32:64], private[64:]]
    for record in packs_of(repository.store, repository).values():
        for one in record.segments:
            if one.tier is Tier.CONTENT:
                key = content.open_segment(repository.config.uuid, one.segment_id, one.epoch, one.sealed)
                found.append(key)
    return found


def assert_sealed(server: Server, vault: Path) -> None:
    """Neither what the source holds nor what would open it is in what the server keeps."""
    assert left(server, server.base.parent / "tmp", vault) == []
    with opened_at(server.data_dir, "vault", vault) as repository:
        assert repository.keys.content is None
        content = repository.unlock(PASSPHRASE)
        for secret in set(secrets_of(repository, content)):
            assert Canary(secret[:12]).search(server.base) == []
        keys = found_keys(server.data_dir)
        assert repository.keys.index_key in keys
        assert opened_by(keys, repository) == []
        newest = max(repository.snapshots(), key=lambda one: one.complete_us, default=None)
        if newest is not None:
            with pytest.raises(HoldfastError) as caught:
                read_snapshots(repository, repository.keys.content, [newest.run_id])
            assert caught.value.reason.value == "KEY_REQUIRED"


@pytest.mark.long
def test_a_stolen_server_tells_nothing_of_a_sealed_repository(new_server: MakeServer, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    source, vault = make_source(tmp_path / "source"), tmp_path / "vault"
    server = new_server(environment={"TMPDIR": str(tmp_path / "tmp"), "HOLDFAST_TASKS_LEASE_SECONDS": "1"})
    server.register(source, "source")
    make_repository(server, "vault", vault, sealed=True)
    first = start_backup(server, "vault", ignore=(f"{PATTERN}*",))
    server.watch(first)
    task = server.ended(first)
    assert task.state == task_pb2.TASK_STATE_COMPLETED_WITH_WARNINGS, task
    assert server.backup_of(task).statistics.files_ignored == 1
    assert left(server, tmp_path / "tmp", vault) == []

    draw = random.Random(8)
    for _ in range(10):
        change(source, draw)
        known = set(os.listdir(vault / "packs"))
        task_id = start_backup(server, "vault")
        until(lambda: set(os.listdir(vault / "packs")) != known, "a pack", pause=0.0005)  # noqa: B023
        if freeze_and_kill(server, ["supervisor", "edge", "worker"], task_id):
            break
        server.ended(task_id)
    else:
        raise AssertionError("every kill came too late")
    assert_sealed(server, vault)
    come_back(server, "all")
    task = server.ended(task_id)
    assert task.state == task_pb2.TASK_STATE_COMPLETED_WITH_WARNINGS, task
    assert_sealed(server, vault)
    with opened_at(server.data_dir, "vault", vault) as repository:
        run_id = task.backup_result.backup_ids[0]
        read = read_snapshots(repository, repository.unlock(PASSPHRASE), [run_id])[run_id]
        assert read == {path: one for path, one in snapshot(source).items() if one[0] != "special"}

    # Of an open one, the same search finds the names, and the same keys open everything.
    make_repository(server, "open", tmp_path / "open", sealed=False)
    server.ended(start_backup(server, "open"))
    assert CANARIES[0].search(server.base)
    with opened_at(server.data_dir, "open", tmp_path / "open") as repository:
        assert opened_by(found_keys(server.data_dir), repository)
        assert isinstance(repository.keys, RepositoryKeys)
        assert repository.keys.content is not None
        known_key = repository.keys.content.private(1)
        assert Canary(known_key[:16]).search(server.data_dir)
