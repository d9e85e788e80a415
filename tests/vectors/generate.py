"""Makes the vectors of the repository format under tests/vectors/repository-1/ and repository-2/.

    python -m tests.vectors.generate FOLDER

It was run once for each folder that is there: what a release wrote stays readable, so vectors are added and never made
again. Each run gives others, because keys and ids are random; `expected.json` says what a reader has to get out of it.
repository-1 is of before content keys could be rotated and key slots removed.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import unicodedata
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast_server.repository.facts import Condemned, Fact, Locked, Renamed, Swept
from holdfast_server.repository.key_changes import add_slot, begin_epoch, remove_slot
from holdfast_server.repository.keys import RepositoryKeys, WriterKey
from holdfast_server.repository.log import LogReader, LogWriter
from holdfast_server.repository.repository import Repository, create_repository
from holdfast_server.repository.runs import RunKind, begin_run
from holdfast_server.repository.sessions import bury_run, remove_snapshots
from holdfast_server.repository.slots import NewSlot, SlotKind
from holdfast_server.storage.objects import LocalObjects
from tests.vectors.holdfast_side import back_up
from tests.vectors.made_sources import SOURCES, describe_source

TIME_US = 1_750_000_000_000_000
#: Typed with a combining mark: it opens the slot as the one letter that it is.
PASSPHRASE = unicodedata.normalize("NFD", "a test secret, for \u00e9verybody")
KEY_FILE = "a test key file, with a line end that belongs to it\n"
REMOVED_FILE = "a test key file that opened the repository for a while"
LATER_FILE = "a test key file that was added after the rotation"


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A folder, made if it is not there."""
    path.mkdir(parents=True, exist_ok=True)
    folder_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield folder_fd
    finally:
        os.close(folder_fd)


class Maker:
    """One repository in the making, with the keys of its node beside it. `snapshots` are what there is to expect."""

    def __init__(self, folder: Path, caches: int, name: str, sealed: bool) -> None:
        self.folder = folder / name
        with opened(self.folder) as folder_fd:
            self.store = LocalObjects(folder_fd)
        slots = [
            NewSlot(SlotKind.PASSPHRASE, PASSPHRASE, "the passphrase"),
            NewSlot(SlotKind.KEY_FILE, KEY_FILE, "the key file"),
            NewSlot(SlotKind.RECOVERY, None, "the recovery key"),
        ]
        made = create_repository(self.store, sealed=sealed, slots=slots, compression_level=3, now_us=TIME_US)
        self.keys = made.keys.without_content() if sealed else made.keys
        self.node = folder / f"{name}-node"
        self.save()
        (folder / f"{name}-recovery-key").write_text(f"{made.recovery_key}\n")
        self.fingerprint = made.fingerprint
        self.repository = Repository.open(self.store, self.keys, made.fingerprint)
        self.caches, self.now_us = caches, TIME_US
        self.snapshots: dict[str, dict[str, Any]] = {}

    def save(self) -> None:
        with opened(self.node) as folder_fd:
            self.keys.save(folder_fd)

    def later(self) -> int:
        self.now_us += 1_000_000
        return self.now_us

    def back_up(self, source: str) -> str:
        run_id = str(uuid.uuid4())
        back_up(self.repository, run_id, SOURCES[source](), self.later(), self.caches, name=source)
        self.snapshots[run_id] = {"name": source, "locked": False, "source": source}
        return run_id

    def log(self, *facts: Fact) -> None:
        vector = LogReader(self.store, self.repository.index_keys).read().vector
        LogWriter(self.store, self.repository.index_keys, self.repository.keys.writer, vector).append(
            facts, self.later()
        )

    def objects(self, kind: str) -> set[Path]:
        return set((self.folder / kind).iterdir())

    def remove_and_sweep(self, source: str) -> None:
        """A snapshot that came and went, with its packs; the index still lists them."""
        before = self.objects("packs")
        run_id = self.back_up(source)
        remove_snapshots(self.repository, [run_id], self.later())
        del self.snapshots[run_id]
        packs = self.objects("packs") - before
        ids = tuple(bytes.fromhex(pack.name) for pack in packs)
        self.log(Condemned(ids))
        for pack in packs:
            pack.unlink()
        self.log(Swept(ids))

    def change_keys(self) -> None:
        """A key that came and went, and which the store brings back; a new content key; and a key that came later."""
        content = self.repository.unlock(KEY_FILE)
        removed = add_slot(self.repository, NewSlot(SlotKind.KEY_FILE, REMOVED_FILE), content, self.later())
        remove_slot(self.repository, removed.info.slot_id, self.later())
        self.store.put(removed.name, [removed.content])
        begun = begin_epoch(self.repository, self.later, keep=self.keep if self.keys.content else None)
        content = content.including({begun.epoch: begun.private})
        add_slot(self.repository, NewSlot(SlotKind.KEY_FILE, LATER_FILE), content, self.later())
        self.repository = Repository.open(self.store, self.keys, self.fingerprint)

    def keep(self, epoch: int, private: bytes) -> None:
        self.keys = self.keys.including(epoch, private)
        self.save()

    def change_writer(self) -> None:
        """Another node goes on."""
        keys = RepositoryKeys(self.keys.index_key, self.keys.content, self.keys.uuid, WriterKey.generate())
        self.repository = Repository.open(self.store, keys, self.fingerprint)

    def back_up_without_index(self, source: str) -> None:
        """As if the node had died between packs and index, and the index were lost: a reader cannot tell."""
        before = self.objects("index")
        self.back_up(source)
        for index in self.objects("index") - before:
            index.unlink()

    def leave_runs(self) -> None:
        """A backup that failed, and a check that goes on."""
        bury_run(self.repository, str(uuid.uuid4()))
        keys, writer_id = self.repository.index_keys, self.repository.keys.writer.writer_id
        begin_run(self.store, keys, str(uuid.uuid4()), RunKind.CHECK, writer_id=writer_id, now_us=self.later())


def make_repository(folder: Path, name: str, sealed: bool) -> dict[str, Any]:
    """Everything that a repository can hold; gives what there is to expect of it."""
    with tempfile.TemporaryDirectory() as temporary, opened(Path(temporary)) as caches:
        maker = Maker(folder, caches, name, sealed)
        with maker.store:
            fill(maker)
        return {"fingerprint": maker.fingerprint.hex(), "snapshots": maker.snapshots}


def fill(maker: Maker) -> None:
    full = maker.back_up("full")
    maker.back_up("changed")
    maker.remove_and_sweep("removed")
    maker.change_keys()
    maker.change_writer()
    maker.back_up("empty")
    maker.log(Renamed(full, "renamed \u00fc"), Locked(full, True))
    maker.snapshots[full] |= {"name": "renamed \u00fc", "locked": True}
    maker.back_up_without_index("late")
    maker.leave_runs()


def main(folder: Path) -> None:
    """Make all vectors in a folder that is not there yet."""
    folder.mkdir(parents=True)
    (folder / "passphrase").write_text(PASSPHRASE)
    (folder / "key-file").write_text(KEY_FILE)
    (folder / "removed-key-file").write_text(REMOVED_FILE)
    (folder / "later-key-file").write_text(LATER_FILE)
    expected = {
        "repositories": {
            "plain": make_repository(folder, "plain", sealed=False),
            "sealed": make_repository(folder, "sealed", sealed=True),
        },
        "sources": {name: describe_source(source()) for name, source in SOURCES.items()},
    }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
