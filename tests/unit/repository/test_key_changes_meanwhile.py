"""What happens while keys change: others who do so too, backups, and stores that fail."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from holdfast_server.errors import HoldfastError, Reason, Unavailable
from holdfast_server.repository import NewSlot, SlotKind
from holdfast_server.repository import key_changes as changes
from holdfast_server.repository.content_keys import new_private_key, public_half
from holdfast_server.repository.facts import KeyEpoch
from holdfast_server.repository.format import Tier
from holdfast_server.repository.key_changes import add_slot, begin_epoch
from holdfast_server.repository.keys import WriterKey
from holdfast_server.repository.log import LogReader, LogWriter
from holdfast_server.storage.objects import Buffer, MemoryObjects
from tests.repositories import Backups, packs_of, small_packs
from tests.stores import FailingObjects, Fault
from tests.unit.repository.key_vault import NEW, OLD, Vault, opens, slot_ids
from tests.unit.repository.samples import NOW, refused


@pytest.fixture(params=[False, True], ids=["plain", "sealed"])
def vault(request: pytest.FixtureRequest) -> Vault:
    return Vault(sealed=request.param)


class Forgetful(MemoryObjects):
    """Lets everybody create what is there, but for the log."""

    def create_if_absent(self, name: str, content: bytes) -> bool:
        if name.startswith("keys/"):
            self.put(name, [content])
            return True
        return super().create_if_absent(name, content)


class Racing(Forgetful):
    """Another node tells of the same epoch just before this one does."""

    def __init__(self, contents: dict[str, bytes], vault: Vault) -> None:
        super().__init__(contents)
        self.vault = vault
        self.raced = False

    def create_if_absent(self, name: str, content: bytes) -> bool:
        if name.startswith("log/") and not self.raced:
            self.raced = True
            repository = self.vault.opened(self)
            vector = LogReader(self, repository.index_keys).read().vector
            rival = KeyEpoch(2, public_half(new_private_key()), {})
            LogWriter(self, repository.index_keys, WriterKey.generate(), vector).append([rival], NOW - 10)
        return super().create_if_absent(name, content)


def test_a_store_that_lets_two_claim_one_epoch_is_told_and_nothing_is_lost(vault: Vault) -> None:
    first = vault.segment()
    assert isinstance(vault.store, MemoryObjects)
    vault.store = Racing(vault.store.contents(), vault)
    refused(vault.rotate, Reason.STORE_UNSUITABLE)
    assert vault.rotate().epoch == 3
    assert opens(vault, [first, vault.segment()])


def test_two_that_rotate_at_one_time_get_different_numbers(vault: Vault) -> None:
    """The claim keeps them apart: neither has told of its epoch when the other asks."""
    repository = vault.opened()
    state = vault.state()
    assert [changes._claim(repository, state, NOW) for _ in range(3)] == [2, 3, 4]
    assert vault.rotate().epoch == 5


class Slow(MemoryObjects):
    """Somebody rotates when a slot is put, or adds a slot when an epoch is told."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        super().__init__(contents)
        self.then: list[tuple[str, object]] = []

    def put(self, name: str, parts: object) -> None:
        super().put(name, parts)  # type: ignore[arg-type]
        self._go("put")

    def create_if_absent(self, name: str, content: bytes) -> bool:
        if name.startswith("log/"):
            self._go("log")
        return super().create_if_absent(name, content)

    def _go(self, what: str) -> None:
        if self.then and self.then[0][0] == what:
            work = self.then.pop(0)[1]
            assert callable(work)
            work()


def test_a_slot_that_missed_an_epoch_is_taken_back(vault: Vault) -> None:
    assert isinstance(vault.store, MemoryObjects)
    vault.store = store = Slow(vault.store.contents())
    store.then = [("put", vault.rotate)]
    with pytest.raises(Unavailable) as caught:
        vault.add()
    assert caught.value.reason is Reason.CATALOG_BUSY
    assert [slot.slot_id for slot in vault.opened().slots()] == [vault.old]
    vault.add()
    assert opens(vault, [vault.segment()], NEW)


def test_a_slot_that_comes_while_a_key_is_rotated_gets_the_next(vault: Vault) -> None:
    assert isinstance(vault.store, MemoryObjects)
    vault.store = store = Slow(vault.store.contents())
    store.then = [("log", vault.add)]
    assert vault.rotate().epoch == 3
    assert opens(vault, [vault.segment()])
    assert opens(vault, [vault.segment()], NEW)


class Rotating(MemoryObjects):
    """Somebody rotates the key when the first pack is put, and so in the middle of a backup."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        super().__init__(contents)
        self.work: list[Callable[[], object]] = []

    def put(self, name: str, parts: Sequence[Buffer]) -> None:
        super().put(name, parts)
        if name.startswith("packs/") and self.work:
            self.work.pop()()


def test_a_backup_goes_on_with_the_key_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_packs(monkeypatch)
    source = tmp_path / "source"
    source.mkdir()
    inner = MemoryObjects()
    made = Backups(tmp_path / "caches", inner)
    made.store = store = Rotating(inner.contents())

    def keep(epoch: int, private: bytes) -> None:
        made.keys = made.keys.including(epoch, private)
        made.content = made.content.including({epoch: private})

    def rotate() -> None:
        begin_epoch(made.opened(), lambda: NOW, keep=keep)

    for number, epochs in enumerate(({1}, {1, 2})):
        for part in range(8):
            (source / f"{number} {part}").write_bytes(os.urandom(20_000))
        store.work = [rotate]
        made.back_up(source)
        packs = packs_of(store, made.opened()).values()
        assert len(packs) > 2
        assert {one.epoch for pack in packs for one in pack.segments if one.tier == Tier.CONTENT} == epochs
    found = made.read_all(made.snapshots())
    assert sorted(len(files) for files in found.values()) == [9, 17], "the folder itself counts"


WORK = {
    "rotate": lambda vault, store: vault.rotate(store),
    "add": lambda vault, store: vault.add(store=store),
    "remove": lambda vault, store: vault.remove(min(slot_ids(vault) - {vault.old}), store),
}


def faults(work: str, sealed: bool, fault: Fault) -> Iterator[tuple[Vault, FailingObjects]]:
    """A vault for each call of the store that the work makes; that call fails."""
    fail_at = 0
    while True:
        fail_at += 1
        vault = Vault(sealed=sealed)
        vault.add("a key file that is there besides, for removal")
        store = FailingObjects(vault.store, fail_at, fault)
        if work == "add":
            content = vault.content()
            run = lambda: add_slot(vault.opened(store), NewSlot(SlotKind.KEY_FILE, NEW), content, NOW)  # noqa: B023, E731
        else:
            run = lambda: WORK[work](vault, store)  # noqa: B023, E731
        try:
            run()
        except HoldfastError:
            assert store.fired
        if not store.fired:
            return
        yield vault, store


@pytest.mark.parametrize("fault", [Fault.EIO, Fault.LOST_ANSWER], ids=str)
@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
@pytest.mark.parametrize("work", list(WORK))
def test_whatever_fails_everything_opens_and_it_can_be_done_again(work: str, sealed: bool, fault: Fault) -> None:
    count = 0
    for vault, _ in faults(work, sealed, fault):
        count += 1
        segments = [vault.segment()]
        assert opens(vault, segments)
        vault.add("one more key file that comes after the failure")
        vault.rotate()
        segments.append(vault.segment())
        for secret in (OLD, "one more key file that comes after the failure"):
            assert opens(vault, segments, secret)
        for slot_id in slot_ids(vault) - {vault.old}:
            vault.remove(slot_id)
        assert slot_ids(vault) == {vault.old}
        assert opens(vault, segments)
    assert count >= (3 if fault is Fault.EIO else 2)
