"""A repository with a history, and a service that is shown another state of its store: what it does, and what it says.

What the service says is put against the truth: everything that it gives out must have been stored just so.
"""

from __future__ import annotations

import copy
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest

from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.key_derivation import KeyParameters
from holdfast_server.repository import (
    CheckLevel,
    CheckReport,
    ContentKeys,
    LogVector,
    NewSlot,
    Repository,
    RunKind,
    SlotKind,
    bury_run,
    check_repository,
    remove_snapshots,
    tell_of_snapshot,
)
from holdfast_server.repository.facts import Condemned, Swept
from holdfast_server.repository.format import snapshot_name
from holdfast_server.repository.index import write_index
from holdfast_server.repository.log import LogReader, LogWriter
from holdfast_server.repository.log_state import cut_log
from holdfast_server.repository.runs import begin_run
from holdfast_server.storage.objects import MemoryObjects
from tests.harness import snapshot as tree_of
from tests.liars import CLASSES, Objects, Seen, kind_of
from tests.repositories import Backups, packs_of, read_snapshots

__all__ = ["PASSPHRASE", "Account", "Asked", "History", "cheap_keys", "serve"]

PASSPHRASE = "the same for every repository here"
NOW = 1_900_000_000_000_000
_numbers = count()
T = TypeVar("T")

#: What a lie may be answered with.
REASONS = {
    Reason.CHECKSUM_MISMATCH,
    Reason.FORMAT_UNSUPPORTED,
    Reason.KEY_WRONG,
    Reason.REPOSITORY_REPLACED,
    Reason.STORAGE_UNREACHABLE,
}


@contextmanager
def cheap_keys() -> Iterator[list[KeyParameters]]:
    """New slots of passphrases cost next to nothing to open. Gives what keys are asked for; dear ones are not made."""
    derived: list[KeyParameters] = []
    derive = KeyParameters.derive

    def counted(parameters: KeyParameters, password: bytes) -> bytes:
        derived.append(parameters)
        return derive(parameters, password) if parameters.memory_kib <= 64 else bytes(32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeyParameters, "new", classmethod(lambda cls: cls(os.urandom(16), 64, 1, 2)))
        patch.setattr(KeyParameters, "derive", counted)
        yield derived


class Asked(MemoryObjects):
    """A store that knows what was asked of it: how often, which objects, and the most bytes of each class at once."""

    def __init__(self, contents: Objects) -> None:
        super().__init__(contents)
        self.read: set[str] = set()
        self.most = dict.fromkeys(CLASSES, 0)
        self.calls = 0

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        self.calls += 1
        self.read.add(name)
        content = super().get(name, offset, length)
        self.most[kind_of(name)] = max(self.most[kind_of(name)], len(content))
        return content


class History:
    """A repository to which much has happened, and all that its store has seen of it.

    `truth` says of each snapshot there ever was, by its run's id, what it holds; `kept` are those that were
    acknowledged and not removed. `keys` are those in the data directory of the node that is lied to, `vector` is what
    its catalog has seen of the log.
    """

    def __init__(self, folder: Path, *, sealed: bool) -> None:
        self._folder = folder
        self.sealed = sealed
        self.source = folder / "source"
        self.truth: dict[str, dict[bytes, tuple[Any, ...]]] = {}
        self.store = MemoryObjects()
        self.node = _new_node(folder / "node", self.store, sealed=sealed)
        self.keys = self.node.keys.without_content() if sealed else self.node.keys
        past = [self.store.contents()]
        one = self._back_up(b"one")
        self._begin()
        past.append(self.store.contents())
        two = self._back_up(b"two")
        tell_of_snapshot(self.node.opened(), one, NOW, name="another name", locked=True)
        past.append(self.store.contents())
        three = self._back_up(b"three")
        past.append(self.store.contents())
        other_node = self.node.other_node(folder / "other node")
        four = self._back_up(b"four", other_node)
        tell_of_snapshot(other_node.opened(), four, NOW, locked=True)
        past.append(self.store.contents())
        assert cut_log(other_node.opened(), NOW)
        tell_of_snapshot(other_node.opened(), four, NOW, name="of the other node")
        assert cut_log(other_node.opened(), NOW)  # now what the first cut replaced goes
        remove_snapshots(self.node.opened(), [three], NOW)
        self._maintain([name for name in past[3] if name.startswith("packs/") and name not in past[2]])
        bury_run(self.node.opened(), str(uuid.uuid4()))
        five = self._back_up(b"five")
        self._begin()
        self.kept = [one, two, four, five]
        now = self.store.contents()
        self.vector = LogReader(self.store, self.node.opened().index_keys).heads()
        self.seen = Seen(now, past, past[1], self._fork(past[1]), self._other(), self._buried(five))

    def node_as_it_was(self) -> Backups:
        """The node that is lied to, with the caches of its last backup."""
        node = copy.copy(self.node)
        node.keys, node.caches = self.keys, self._folder / f"caches-{next(_numbers)}"
        shutil.copytree(self.node.caches, node.caches)
        return node

    def readable(self, objects: Objects) -> set[str]:
        """The snapshots that were kept and that objects still hold as they were."""
        repository = Repository.open(MemoryObjects(objects), self.keys, self.node.fingerprint)
        found = set()
        for run_id in self.kept:
            with suppress(HoldfastError):
                assert read_snapshots(repository, self.node.content, [run_id])[run_id] == self.truth[run_id]
                found.add(run_id)
        return found

    def _back_up(self, text: bytes, node: Backups | None = None, store: MemoryObjects | None = None) -> str:
        fill(self.source, text)
        run_id = (node or self.node).back_up(self.source, store=store).run_id
        self.truth[run_id] = tree_of(self.source)
        return run_id

    def _begin(self) -> None:
        """A run under way, as a process leaves it that died; the one before was found to be dead."""
        for info in list(self.store.list("runs/")):
            self.store.delete(info.name)
        keys, writer_id = self.node.opened().index_keys, self.node.keys.writer.writer_id
        for kind in (RunKind.RESTORE, RunKind.EXPORT):
            begin_run(self.store, keys, str(uuid.uuid4()), kind, writer_id=writer_id, now_us=NOW)

    def _maintain(self, idle: list[str]) -> None:
        """What prune and compact do: packs that nobody needs are condemned and swept, index objects are merged."""
        repository = self.node.opened()
        ids = tuple(bytes.fromhex(name.partition("/")[2]) for name in idle)
        vector = LogReader(self.store, repository.index_keys).read().vector
        LogWriter(self.store, repository.index_keys, self.node.keys.writer, vector).append(
            [Condemned(ids), Swept(ids)], NOW
        )
        for name in (*idle, *(info.name for info in self.store.list("index/"))):
            self.store.delete(name)
        write_index(self.store, repository.index_keys, packs_of(self.store, repository).values())

    def _fork(self, past: Objects) -> Objects:
        """What became of an older state that was put back: longer than what is there now."""
        store = MemoryObjects(past)
        node = copy.copy(self.node)
        node.caches = self._folder / "caches of the fork"
        node.caches.mkdir()
        for text in (b"2", b"3", b"4", b"5"):
            run_id = self._back_up(text, node, store)
            tell_of_snapshot(node.opened(store), run_id, NOW, name="of another future", locked=False)
        return store.contents()

    def _other(self) -> Objects:
        """Another repository of the same secret."""
        store = MemoryObjects()
        node = _new_node(self._folder / "other", store, sealed=False)
        self._back_up(b"of another repository", node, store)
        begin_run(
            store, node.opened().index_keys, str(uuid.uuid4()), RunKind.CHECK,
            writer_id=node.keys.writer.writer_id, now_us=NOW,
        )  # fmt: skip
        return store.contents()

    def _buried(self, run_id: str) -> Objects:
        """The tombstone that the service makes when it takes a run for dead whose snapshot it is not shown."""
        store = MemoryObjects(self.store.contents())
        store.delete(snapshot_name(run_id))
        assert bury_run(self.node.opened(store), run_id) is None
        name = snapshot_name(run_id)
        return {name: store.get(name)}


def _new_node(folder: Path, store: MemoryObjects, *, sealed: bool) -> Backups:
    slots = [NewSlot(SlotKind.PASSPHRASE, PASSPHRASE, "mine"), NewSlot(SlotKind.RECOVERY, None, "in the safe")]
    return Backups(folder, store, sealed=sealed, slots=slots)


def fill(source: Path, text: bytes) -> None:
    """Make the source what the text says; some of it is always the same."""
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    (source / "same").write_bytes(b"what never changes" * 40)
    (source / "empty").touch()
    os.link(source / "same", source / "too")
    os.symlink("same", source / "link")
    for entry in os.scandir(source):
        os.utime(entry, ns=(1_700_000_000_000_000_000, 1_700_000_000_000_000_000), follow_symlinks=False)
    (source / "changed").write_bytes(text * 3_000)
    (source / f"only of {text.decode()}").write_bytes(text)


@dataclass
class Account:
    """What a service found when it worked with a store. `errors` by what was tried; `shown` are the snapshots that it
    lists, `lost` those of them, or of those that it should have, that could not be read; `unlocked` is how many of the
    two secrets opened it; `behind` whether its log is known to lack something. `made` is whether a new backup was
    acknowledged, `made_reads` whether that came back as it was."""

    errors: dict[str, HoldfastError] = field(default_factory=dict)
    shown: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    report: CheckReport | None = None
    unlocked: int = 0
    behind: bool = False
    made: bool = False
    made_reads: bool = False

    def try_(self, what: str, act: Callable[[], T]) -> T | None:
        """Anything but a known error is a defect."""
        try:
            return act()
        except HoldfastError as error:
            if error.reason not in REASONS:
                raise
            self.errors[what] = error
            return None


def serve(history: History, store: Asked) -> Account:
    """All that a service does with its repository, over a store that may lie."""
    account = Account()
    repository = account.try_("open", lambda: Repository.open(store, history.keys, history.node.fingerprint))
    if repository is None:
        return account
    content = _unlock(history, repository, account)
    _read(history, repository, content, account)
    known = LogVector(history.vector)
    account.report = account.try_(
        "check",
        lambda: check_repository(
            store, history.keys, CheckLevel.READ_DATA, now=lambda: NOW, fingerprint=history.node.fingerprint,
            content=content, known_backups=history.kept, known_log=known,
        ),
    )  # fmt: skip
    receipt = account.try_("receipt", lambda: repository.receipt(NOW))
    if receipt is not None:
        assert receipt.is_genuine(history.keys.uuid)
        account.behind = bool(repository.lacks(known, receipt.vector))
    if receipt is not None and not account.behind:
        _back_up(history, repository, content, store, account)
    return account


def _unlock(history: History, repository: Repository, account: Account) -> ContentKeys:
    account.try_("slots", repository.slots)
    recovery = history.node.recovery_key
    assert recovery is not None
    for secret in (PASSPHRASE, recovery):
        opened = account.try_("unlock", partial(repository.unlock, secret))
        if opened is not None:
            assert opened.to_text() == history.node.content.to_text()
            account.unlocked += 1
    with pytest.raises(HoldfastError):
        repository.unlock("a secret of nobody that opens nothing")
    return history.node.content


def _read(history: History, repository: Repository, content: ContentKeys, account: Account) -> None:
    damaged: list[HoldfastError] = []
    account.try_("list", lambda: account.shown.update(one.run_id for one in repository.snapshots(damaged.append)))
    if damaged:
        account.errors["list"] = damaged[0]
    account.lost |= {*history.kept} - account.shown
    try:
        read = read_snapshots(repository, content, account.shown)
    except HoldfastError:
        # One at a time then: what is lost of one takes nothing from the others.
        read = {}
        for run_id in account.shown:
            read |= account.try_("read", partial(read_snapshots, repository, content, [run_id])) or {}
    account.lost |= account.shown - read.keys()
    assert read == {run_id: history.truth[run_id] for run_id in read}


def _back_up(history: History, repository: Repository, content: ContentKeys, store: Asked, account: Account) -> None:
    node = history.node_as_it_was()
    fill(history.source, b"new")
    run_id = str(uuid.uuid4())
    if account.try_("back up", lambda: node.back_up(history.source, run_id=run_id, store=store)) is None:
        return
    account.made = True
    assert f"runs/{run_id}" not in store.contents()
    found = account.try_("read back", lambda: read_snapshots(repository, content, [run_id])[run_id])
    account.made_reads = found is not None
    assert found in (None, tree_of(history.source))
