"""Key slots that are added and removed, and content keys that follow each other."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Iterator

import pytest
from blake3 import blake3

from holdfast_server.errors import HoldfastError, NotFound, Reason, ResourceExhausted, Unavailable
from holdfast_server.repository import ContentKeys, NewSlot, Repository, RepositoryKeys, SlotKind, create_repository
from holdfast_server.repository import key_changes as changes
from holdfast_server.repository.content_keys import new_private_key, public_half
from holdfast_server.repository.crypto import Segment
from holdfast_server.repository.facts import KeyEpoch, KeyRemoved
from holdfast_server.repository.json_object import to_base64
from holdfast_server.repository.key_changes import NewEpoch, add_slot, begin_epoch, key_slots, remove_slot
from holdfast_server.repository.keys import WriterKey
from holdfast_server.repository.log import LogReader, LogWriter
from holdfast_server.repository.log_state import LogState, cut_log
from holdfast_server.repository.repository import open_from_slots
from holdfast_server.repository.sessions import _newest_key
from holdfast_server.storage.objects import MemoryObjects, ObjectStore
from tests.stores import FailingObjects, Fault
from tests.unit.repository.samples import NOW, refused, shows

OLD, NEW = "a key file of more than thirty-two bytes", "another key file, and more than thirty-two bytes"


class Vault:
    """A repository and this node's keys of it, as a data directory keeps them."""

    def __init__(self, *, sealed: bool) -> None:
        self.store: ObjectStore = MemoryObjects()
        slots = [NewSlot(SlotKind.KEY_FILE, OLD, "old")]
        made = create_repository(self.store, sealed=sealed, slots=slots, compression_level=3, now_us=NOW)
        self.sealed, self.fingerprint = sealed, made.fingerprint
        self.keys = made.keys.without_content() if sealed else made.keys
        self.old = made.slots[0].slot_id
        self._now = NOW

    def now(self) -> int:
        self._now += 1
        return self._now

    def opened(self, store: ObjectStore | None = None) -> Repository:
        return Repository.open(store or self.store, self.keys, self.fingerprint)

    def content(self) -> ContentKeys:
        return self.keys.content or self.opened().unlock(OLD)

    def keep(self, epoch: int, private: bytes) -> None:
        self.keys = self.keys.including(epoch, private)

    def rotate(self, store: ObjectStore | None = None, listed: tuple[str, ...] = ()) -> NewEpoch:
        repository = self.opened(store)
        return begin_epoch(repository, self.now, keep=None if self.sealed else self.keep, listed=listed)

    def add(self, secret: str = NEW, store: ObjectStore | None = None, content: ContentKeys | None = None) -> str:
        new = NewSlot(SlotKind.KEY_FILE, secret, "new")
        return add_slot(self.opened(store), new, content or self.content(), self.now()).info.slot_id

    def remove(self, slot_id: str, store: ObjectStore | None = None, *, listed: bool = False) -> None:
        remove_slot(self.opened(store), slot_id, self.now(), listed=listed)

    def state(self) -> LogState:
        repository = self.opened()
        return LogState.of(LogReader(self.store, repository.index_keys).read())

    def tell(self, fact: KeyEpoch | KeyRemoved, keys: RepositoryKeys | None = None) -> None:
        repository = self.opened()
        log = LogReader(self.store, repository.index_keys).read()
        writer = (keys or self.keys).writer
        LogWriter(self.store, repository.index_keys, writer, log.vector).append([fact], self.now())

    def segment(self) -> Segment:
        """What a backup seals to now."""
        repository = self.opened()
        return Segment.new_content(_newest_key(repository, self.state()), repository.config.uuid)


@pytest.fixture(params=[False, True], ids=["plain", "sealed"])
def vault(request: pytest.FixtureRequest) -> Vault:
    return Vault(sealed=request.param)


def opens(vault: Vault, segments: list[Segment], secret: str = OLD) -> bool:
    """Whether the secret, and the data directory if it can, open all of them."""
    repository = vault.opened()
    for content in filter(None, (repository.unlock(secret), vault.keys.content)):
        for one in segments:
            assert len(content.open_segment(vault.keys.uuid, one.segment_id, one.epoch, one.sealed)) == 32
    return True


def rewritten(store: ObjectStore, name: str, change: dict[str, object], *, drop: str = "") -> None:
    """Change the header of a slot, with a right hash at its end."""
    content = store.get(name)
    (length,) = struct.unpack_from("<I", content, 12)
    header = json.loads(content[16 : 16 + length]) | change
    header.pop(drop, None)
    text = json.dumps(header).encode()
    whole = content[:12] + struct.pack("<I", len(text)) + text + content[16 + length : -32]
    store.put(name, [whole + blake3(whole).digest()])


def test_a_new_epoch_is_used_and_reaches_every_slot(vault: Vault) -> None:
    segments = [vault.segment()]
    vault.add()
    new = vault.rotate()
    assert new.epoch == 2
    segments.append(vault.segment())
    assert [one.epoch for one in segments] == [1, 2]
    assert opens(vault, segments)
    assert opens(vault, segments, NEW)
    assert vault.rotate().epoch == 3
    third = vault.add("a third key file, which comes after the rotation")
    segments.append(vault.segment())
    for secret in (OLD, NEW, "a third key file, which comes after the rotation"):
        assert opens(vault, segments, secret)
    assert key_slots(vault.opened()).epoch == 3
    assert [slot.slot_id for slot in vault.opened().slots()][-1] == third


def test_epochs_outlive_a_cut_of_the_log(vault: Vault) -> None:
    segments = [vault.segment()]
    for _ in range(3):
        vault.rotate()
        segments.append(vault.segment())
    removed = vault.add()
    vault.remove(removed)
    assert cut_log(vault.opened(), vault.now())
    assert vault.state().removed_slots == {removed}
    assert opens(vault, segments)
    assert vault.rotate().epoch == 5


def test_a_removed_slot_that_comes_back_opens_nothing_and_gets_no_key(vault: Vault) -> None:
    slot_id = vault.add()
    left = vault.store.get(f"keys/{slot_id}")
    vault.remove(slot_id)
    assert [info.name for info in vault.store.list(f"keys/{slot_id}")] == []
    vault.store.put(f"keys/{slot_id}", [left])
    repository = vault.opened()
    refused(lambda: repository.unlock(NEW), Reason.KEY_WRONG)
    assert [slot.slot_id for slot in repository.slots()] == [vault.old]
    vault.rotate()
    assert vault.state().epochs[2].sealed.keys() == {vault.old}
    # Removing it again takes it away for good.
    vault.remove(slot_id)
    assert [info.name for info in vault.store.list(f"keys/{slot_id}")] == []
    with pytest.raises(NotFound):
        vault.remove(slot_id)
    vault.remove(slot_id, listed=True)
    with pytest.raises(NotFound) as caught:
        vault.remove("no id")
    assert caught.value.reason is Reason.KEY_NOT_FOUND


def test_a_slot_alone_gives_every_epoch_and_a_removed_one_nothing(vault: Vault) -> None:
    """After the data directory was lost."""
    slot_id = vault.add()
    left = vault.store.get(f"keys/{slot_id}")
    segments = [vault.segment()]
    vault.rotate()
    segments.append(vault.segment())
    vault.remove(slot_id)
    vault.rotate()
    segments.append(vault.segment())
    vault.store.put(f"keys/{slot_id}", [left])
    refused(lambda: open_from_slots(vault.store, NEW), Reason.KEY_WRONG)
    found = open_from_slots(vault.store, OLD)
    assert found.keys.content is not None
    assert found.keys.content.epochs == (1, 2, 3)
    for one in segments:
        assert found.keys.content.open_segment(vault.keys.uuid, one.segment_id, one.epoch, one.sealed)


def test_the_last_slot_of_a_sealed_repository_stays() -> None:
    vault = Vault(sealed=True)
    error = refused(lambda: vault.remove(vault.old), Reason.LAST_KEY)
    assert error.metadata == {"key_id": vault.old}
    # A slot that is damaged opens nothing, and may itself be removed.
    broken = vault.add()
    content = vault.store.get(f"keys/{broken}")
    vault.store.put(f"keys/{broken}", [content[:-1]])
    refused(lambda: vault.remove(vault.old), Reason.LAST_KEY)
    vault.remove(broken)
    vault.add()
    vault.remove(vault.old)
    refused(lambda: vault.opened().unlock(OLD), Reason.KEY_WRONG)
    assert vault.opened().unlock(NEW).epochs == (1,)


def test_the_last_slot_that_opens_an_epoch_stays() -> None:
    vault = Vault(sealed=True)
    other = vault.add()
    told = vault.state()
    private = new_private_key()
    [slot] = [one for one in vault.opened().key_slots({other}, raising) if not told.epochs]
    sealed = {vault.old: slot.seal_epoch(vault.opened().index_keys, 2, private)}
    vault.tell(KeyEpoch(2, public_half(private), sealed))
    error = refused(lambda: vault.remove(vault.old), Reason.LAST_KEY)
    assert "epoch 2" in error.message
    vault.remove(other)


def raising(error: HoldfastError) -> None:
    raise error


def test_the_last_slot_of_a_repository_that_is_not_sealed_may_go() -> None:
    vault = Vault(sealed=False)
    vault.remove(vault.old)
    assert vault.opened().slots() == []
    assert vault.rotate().epoch == 2
    vault.add()
    assert vault.opened().unlock(NEW).epochs == (1, 2)


def test_a_public_key_that_was_replaced_gets_nothing(vault: Vault) -> None:
    own = public_half(new_private_key())
    name = f"keys/{vault.old}"
    before = vault.store.get(name)
    for change, drop in (({"public": to_base64(own)}, ""), ({}, "binding"), ({"binding": to_base64(bytes(32))}, "")):
        rewritten(vault.store, name, change, drop=drop)
        objects, kept = {info.name for info in vault.store.list("")}, vault.keys
        error = refused(vault.rotate)
        assert error.metadata["key_id"] == vault.old
        assert {info.name for info in vault.store.list("")} == objects
        assert vault.keys is kept
        vault.store.put(name, [before])
    # Those of one slot do not fit another, nor another kind.
    second = vault.add()
    header = json.loads(vault.store.get(f"keys/{second}")[16:].partition(b"}]}")[0] + b"}]}")
    rewritten(vault.store, name, {"public": header["public"], "binding": header["binding"]})
    refused(vault.rotate)
    vault.store.put(name, [before])
    assert vault.rotate().epoch == 2


def test_slots_of_old_open_and_get_no_key(vault: Vault) -> None:
    slot_id = vault.add()
    rewritten(vault.store, f"keys/{slot_id}", {}, drop="binding")
    error = refused(vault.rotate)
    assert f"remove key {slot_id}, or add it anew" in error.message
    vault.remove(slot_id)
    assert vault.rotate().epoch == 2


def test_a_slot_that_is_gone_or_damaged_gets_no_key(vault: Vault) -> None:
    slot_id = vault.add()
    content = vault.store.get(f"keys/{slot_id}")
    vault.store.delete(f"keys/{slot_id}")
    error = refused(lambda: vault.rotate(listed=(vault.old, slot_id)))
    assert error.metadata["key_id"] == slot_id
    vault.store.put(f"keys/{slot_id}", [content[:-1]])
    refused(vault.rotate)
    assert not vault.state().epochs
    vault.store.put(f"keys/{slot_id}", [content])
    assert vault.rotate(listed=(vault.old, slot_id)).epoch == 2


def test_a_sealed_repository_without_slots_gets_no_key() -> None:
    vault = Vault(sealed=True)
    vault.store.delete(f"keys/{vault.old}")
    refused(vault.rotate)


def test_a_slot_that_does_not_know_an_epoch_gives_the_others(vault: Vault) -> None:
    private = new_private_key()
    vault.tell(KeyEpoch(2, public_half(private), {}))
    content = vault.opened().unlock(OLD)
    assert content.epochs == (1,)
    segment = vault.segment()
    error = refused(
        lambda: content.open_segment(vault.keys.uuid, segment.segment_id, segment.epoch, segment.sealed),
        Reason.KEY_REQUIRED,
    )
    assert error.metadata == {"epoch": "2"}
    assert refused(vault.add, Reason.KEY_REQUIRED).metadata == {"epoch": "2"}
    assert vault.rotate().epoch == 3


def test_a_key_that_is_not_that_of_its_epoch_is_damage_of_that_epoch(vault: Vault) -> None:
    first, private = vault.segment(), new_private_key()
    [slot] = vault.opened().key_slots((), raising)
    sealed = {vault.old: slot.seal_epoch(vault.opened().index_keys, 2, private)}
    vault.tell(KeyEpoch(2, public_half(new_private_key()), sealed))
    content = vault.opened().unlock(OLD)
    second = vault.segment()
    assert content.open_segment(vault.keys.uuid, first.segment_id, 1, first.sealed)
    refused(lambda: content.open_segment(vault.keys.uuid, second.segment_id, 2, second.sealed))
    refused(lambda: vault.add(content=content))


def test_what_another_node_told_is_not_told_twice(vault: Vault) -> None:
    node = RepositoryKeys(vault.keys.index_key, None, vault.keys.uuid, WriterKey.generate())
    private = new_private_key()
    vault.tell(KeyEpoch(2, public_half(private), {}), node)
    assert vault.rotate().epoch == 3


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


def test_limits(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "MAX_SLOTS", 2)
    monkeypatch.setattr(changes, "MAX_EPOCHS", 3)
    vault.add()
    vault.rotate()
    vault.rotate()
    for work in (vault.add, vault.rotate):
        with pytest.raises(ResourceExhausted) as caught:
            work()
        assert caught.value.reason is Reason.QUOTA_EXCEEDED
    assert len(vault.opened().slots()) == 2
    assert sorted(vault.state().epochs) == [2, 3]


def test_a_slot_takes_keys_that_nobody_told_of_as_long_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    vault = Vault(sealed=False)
    vault.keep(2, new_private_key())
    assert vault.rotate().epoch == 3
    vault.add()
    assert vault.opened().unlock(NEW).epochs == (1, 2, 3)
    monkeypatch.setattr(changes, "MAX_EPOCHS", 2)
    third = "a third key file, for which there is little room"
    vault.add(third)
    assert vault.opened().unlock(third).epochs == (1, 3)


def test_nothing_shows_a_key(vault: Vault) -> None:
    new = vault.rotate()
    assert not shows(repr(new), new.private)
    with pytest.raises(TypeError):
        pickle.dumps(new)


WORK = {
    "rotate": lambda vault, store: vault.rotate(store),
    "add": lambda vault, store: vault.add(store=store),
    "remove": lambda vault, store: vault.remove(min(slot_ids(vault) - {vault.old}), store),
}


def slot_ids(vault: Vault) -> set[str]:
    return {slot.slot_id for slot in vault.opened().slots()}


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
