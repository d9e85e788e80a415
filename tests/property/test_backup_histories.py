"""Any history of a source and of a repository that is hurt: what was backed up last reads back, whatever went before.

Between backups the source is changed in every way, calls of the storage fail, packs vanish or are cut off, snapshots
are removed, and the caches are lost or are those of an earlier time. HOLDFAST_HISTORIES sets how many histories there
are, HOLDFAST_SEED their seed.
"""

from __future__ import annotations

import os
import random
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.repository import remove_snapshots
from holdfast_server.storage.objects import MemoryObjects
from tests.harness import make_tree, snapshot
from tests.nonces import NonceAudit, RecordingObjects
from tests.repositories import Backups, small_packs
from tests.stores import FailingObjects, Fault

HISTORIES = int(os.environ.get("HOLDFAST_HISTORIES", "5"))
SEED = int(os.environ.get("HOLDFAST_SEED", "2026"))
TURNS = 8


class History:
    """One source, one repository, and what is known of both. `wanted` are the snapshots that nothing has harmed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.draw = random.Random(seed)
        self.folder = folder
        self.store = MemoryObjects()
        self.backups = Backups(folder / "caches", self.store)
        self.audit = NonceAudit(self.backups.opened().index_keys, self.backups.content)
        self.source = make_tree(folder / "source", seed, files=12)
        self.wanted: dict[str, dict[bytes, tuple[object, ...]]] = {}

    def files(self) -> list[Path]:
        return sorted(path for path in self.source.rglob("*") if path.is_file() and not path.is_symlink())

    def change_source(self) -> None:
        for _ in range(self.draw.randrange(4)):
            self.draw.choice(_CHANGES)(self)

    def hurt(self) -> None:
        for _ in range(self.draw.randrange(3)):
            self.draw.choice(_HURTS)(self)

    def back_up(self) -> None:
        run_id, draw = str(uuid.uuid4()), self.draw
        recorded = RecordingObjects(self.store, self.audit)
        if draw.random() < 0.4:
            fault = draw.choice(list(Fault))
            failing = FailingObjects(recorded, draw.randrange(1, 60), fault)
            try:
                self.backups.back_up(self.source, run_id=run_id, store=failing)
            except HoldfastError:
                assert failing.fired
                if draw.random() < 0.5:
                    self.backups.give_up(run_id)
                    assert run_id not in self.backups.snapshots()
                    run_id = str(uuid.uuid4())
        self.backups.back_up(self.source, run_id=run_id, store=recorded)
        self.wanted[run_id] = snapshot(self.source)

    def harm(self, name: str) -> None:
        """What is lost of a pack is lost to the snapshots that need it, until it is stored again."""
        content = self.store.get(name)
        if self.draw.random() < 0.5:
            self.store.delete(name)
        else:
            self.store.put(name, [content[: self.draw.randrange(len(content))]])
        for run_id in [*self.wanted]:
            if self._is_harmed(run_id):
                del self.wanted[run_id]

    def _is_harmed(self, run_id: str) -> bool:
        try:
            self.backups.read(run_id)
        except HoldfastError as error:
            if error.reason is not Reason.CHECKSUM_MISMATCH:
                raise
            return True
        return False


def _write(history: History) -> None:
    size = history.draw.choice((0, 1, 700, 3_000, 30_000, 1_100_000))
    path = history.source / f"w{history.draw.randrange(6)}"
    if not path.is_symlink() and not path.is_dir():
        path.write_bytes(history.draw.randbytes(size))


def _touch(history: History) -> None:
    for path in history.files():
        os.utime(path, (1_600_000_000 + history.draw.randrange(10), 1_700_000_000))


def _move(history: History) -> None:
    if files := history.files():
        history.draw.choice(files).rename(history.source / f"m{history.draw.randrange(4)}")


def _copy(history: History) -> None:
    if files := history.files():
        shutil.copy(history.draw.choice(files), history.source / f"c{uuid.UUID(int=history.draw.getrandbits(128))}")


def _copy_tree(history: History) -> None:
    shutil.copytree(history.source, history.folder / "copy", symlinks=True)
    (history.folder / "copy").rename(history.source / f"t{uuid.UUID(int=history.draw.getrandbits(128))}")
    if len(history.files()) > 200:
        shutil.rmtree(history.source)
        history.source.mkdir()


def _remove(history: History) -> None:
    for path in history.draw.sample(history.files(), len(history.files()) // 3):
        path.unlink()


def _link(history: History) -> None:
    name = f"l{uuid.UUID(int=history.draw.getrandbits(128))}"
    if files := history.files():
        os.link(history.draw.choice(files), history.source / name)
    (history.source / f"{name}.symbolic").symlink_to("anywhere")


def _sparse(history: History) -> None:
    with (history.source / "sparse").open("wb") as file:
        file.truncate(3 << 20)
        file.seek(history.draw.randrange(2 << 20))
        file.write(history.draw.randbytes(70_000))


def _lose_caches(history: History) -> None:
    history.backups.lose_caches()


def _keep_caches(history: History) -> None:
    shutil.rmtree(history.folder / "kept", ignore_errors=True)
    shutil.copytree(history.backups.caches, history.folder / "kept")


def _old_caches(history: History) -> None:
    if (history.folder / "kept").exists():
        history.backups.lose_caches()
        shutil.copytree(history.folder / "kept", history.backups.caches, dirs_exist_ok=True)


def _damage_caches(history: History) -> None:
    for path in history.backups.caches.rglob("*"):
        if path.is_file() and (content := bytearray(path.read_bytes())):
            content[history.draw.randrange(len(content))] ^= 1
            path.write_bytes(content)


def _harm_packs(history: History) -> None:
    names = sorted(info.name for info in history.store.list("packs/") if info.size)
    if names:
        history.harm(history.draw.choice(names))


def _lose_an_index(history: History) -> None:
    """Its packs are adopted again."""
    names = sorted(info.name for info in history.store.list("index/"))
    if names:
        history.store.delete(history.draw.choice(names))


def _remove_a_snapshot(history: History) -> None:
    if history.wanted:
        run_id = history.draw.choice([*history.wanted])
        del history.wanted[run_id]
        remove_snapshots(history.backups.opened(), [run_id], 1)


_CHANGES: list[Callable[[History], None]] = [_write, _write, _touch, _move, _copy, _copy_tree, _remove, _link, _sparse]
_HURTS: list[Callable[[History], None]] = [
    _lose_caches, _keep_caches, _old_caches, _damage_caches, _harm_packs, _harm_packs, _lose_an_index,
    _remove_a_snapshot,
]  # fmt: skip


@pytest.mark.timeout(max(240, 5 * HISTORIES))
def test_histories(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_packs(monkeypatch)
    for number in range(HISTORIES):
        folder = memory_path / str(number)
        history = History(folder, SEED * 1000 + number)
        for turn in range(TURNS):
            history.hurt()
            history.change_source()
            history.back_up()
            assert history.backups.read_all(history.wanted) == history.wanted, (number, turn)
            assert not [*history.store.list("runs/")], (number, turn)
        assert history.audit.segments >= TURNS // 2
        shutil.rmtree(folder)
