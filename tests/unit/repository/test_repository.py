"""Creating, opening and unlocking a repository."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3

from holdfast_server.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    HoldfastError,
    InvalidArgument,
    Reason,
    ResourceExhausted,
    Unavailable,
)
from holdfast_server.key_derivation import KeyParameters
from holdfast_server.repository import NewSlot, Repository, RepositoryKeys, SlotKind, create_repository
from holdfast_server.repository.facts import Committed
from holdfast_server.repository.format import run_name, snapshot_name
from holdfast_server.repository.log import LogReader, LogVector, LogWriter
from holdfast_server.repository.log_state import cut_log
from holdfast_server.repository.repository import ClassCount, Created
from holdfast_server.repository.snapshots import Tombstone, end_run_as
from holdfast_server.storage.objects import LocalObjects, MemoryObjects, ObjectStore
from tests.unit.repository.samples import NOW, OTHER_RUN, RUN, refused, shows, told
from tests.unit.repository.test_snapshots import SNAPSHOT

PASSPHRASE, FILE = "correct horse battery", "a key file of more than thirty-two bytes"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """New slots cost next to nothing."""
    monkeypatch.setattr(KeyParameters, "new", classmethod(lambda cls: cls(bytes(range(16)), 64, 1, 2)))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


SLOTS = (
    NewSlot(SlotKind.PASSPHRASE, PASSPHRASE, "mine"),
    NewSlot(SlotKind.KEY_FILE, FILE),
    NewSlot(SlotKind.RECOVERY),
)


def created(store: ObjectStore, slots: tuple[NewSlot, ...] = SLOTS, *, sealed: bool = True) -> Created:
    return create_repository(store, sealed=sealed, slots=slots, compression_level=3, now_us=NOW)


def opened(store: ObjectStore, made: Created) -> Repository:
    return Repository.open(store, made.keys.without_content(), made.fingerprint)


def test_what_was_created_is_opened(folder: int, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    fd = os.open(tmp_path / "store", os.O_RDONLY | os.O_DIRECTORY)
    store = LocalObjects(fd, "store")
    made = created(store)
    made.keys.without_content().save(folder)
    repository = Repository.open(store, RepositoryKeys.load(folder), made.fingerprint)
    assert repository.config == made.config
    assert (made.config.sealed, made.config.compression_level, made.config.create_us) == (True, 3, NOW)
    assert repository.fingerprint == made.fingerprint
    assert sorted(repository.slots(), key=lambda slot: slot.slot_id) == sorted(
        made.slots, key=lambda slot: slot.slot_id
    )
    assert [slot.kind for slot in made.slots] == [SlotKind.PASSPHRASE, SlotKind.KEY_FILE, SlotKind.RECOVERY]
    assert made.slots[0].display_name == "mine"
    assert made.recovery_key is not None
    assert made.keys.content is not None
    for secret in (PASSPHRASE, FILE, made.recovery_key, made.recovery_key.lower().replace("-", " ")):
        assert repository.unlock(secret).to_text() == made.keys.content.to_text()
    store.close()
    os.close(fd)


def test_a_second_one_is_refused_and_changes_nothing() -> None:
    store = MemoryObjects()
    created(store)
    before = store.contents()
    with pytest.raises(AlreadyExists) as caught:
        created(store)
    assert caught.value.reason is Reason.REPOSITORY_EXISTS
    assert store.contents() == before


class Late(MemoryObjects):
    """Hides a config until one is to be created."""

    def size(self, name: str) -> int:
        return MemoryObjects().size(name)


def test_of_two_at_the_same_time_one_is_created() -> None:
    first = MemoryObjects()
    made = created(first)
    store = Late(first.contents())
    with pytest.raises(AlreadyExists):
        created(store)
    assert store.contents() == first.contents()
    assert len(opened(store, made).slots()) == 3


class Full(MemoryObjects):
    """Has no room for a config."""

    def create_if_absent(self, name: str, content: bytes) -> bool:
        raise ResourceExhausted(Reason.DISK_FULL, "full")


def test_a_creation_that_failed_leaves_slots_that_nobody_takes() -> None:
    store = Full()
    with pytest.raises(ResourceExhausted):
        created(store)
    left = store.contents()
    assert "config" not in left
    again = MemoryObjects(left)
    made = created(again, (SLOTS[1],))
    repository = opened(again, made)
    assert repository.slots() == made.slots
    refused(lambda: repository.unlock(PASSPHRASE), Reason.KEY_WRONG)


@pytest.mark.parametrize(
    ("sealed", "slots", "level", "field"),
    [
        (True, (), 3, "keys"),
        (False, (SLOTS[2], SLOTS[2]), 3, "keys"),
        (False, (SLOTS[1],) * 17, 3, "keys"),
        (False, (), 20, "compression_level"),
        (False, (), -6, "compression_level"),
        (False, (NewSlot(SlotKind.PASSPHRASE, "short"),), 3, "keys.passphrase"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_stored(
    sealed: bool, slots: tuple[NewSlot, ...], level: int, field: str
) -> None:
    store = MemoryObjects()
    with pytest.raises(InvalidArgument) as caught:
        create_repository(store, sealed=sealed, slots=slots, compression_level=level, now_us=NOW)
    assert caught.value.violations[0].field == field
    assert store.contents() == {}


def test_an_open_repository_needs_no_slot() -> None:
    store = MemoryObjects()
    made = created(store, (), sealed=False)
    repository = opened(store, made)
    assert repository.slots() == []
    assert made.recovery_key is None
    refused(lambda: repository.unlock(PASSPHRASE), Reason.KEY_WRONG)


def test_another_repository_in_its_place_is_refused() -> None:
    store, other = MemoryObjects(), MemoryObjects()
    made, others = created(store, SLOTS[1:2]), created(other, SLOTS[1:2])
    with pytest.raises(FailedPrecondition) as caught:
        Repository.open(other, made.keys, made.fingerprint)
    assert caught.value.reason is Reason.REPOSITORY_REPLACED
    # Made by whoever has the index key.
    config = replace(made.config, public_key=others.config.public_key).encode(opened(store, made).index_keys)
    store.put("config", [config])
    refused(lambda: opened(store, made), Reason.REPOSITORY_REPLACED)
    assert Repository.open(store, made.keys, None).config.public_key == others.config.public_key


def created_open() -> tuple[MemoryObjects, Created]:
    store = MemoryObjects()
    return store, created(store, (), sealed=False)


def test_a_damaged_config_is_told_from_a_replaced_one() -> None:
    store, made = created_open()
    whole = store.get("config")
    for at in (0, 20, 200, len(whole) - 1):
        store.put("config", [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]])
        with pytest.raises(HoldfastError) as caught:
            opened(store, made)
        assert isinstance(caught.value, DataLoss | FailedPrecondition)
    store.put("config", [whole[:-1]])
    refused(lambda: opened(store, made))
    store.put("config", [b""])
    refused(lambda: opened(store, made))
    wrong = RepositoryKeys(bytes(32), None, made.keys.uuid, made.keys.writer)
    store.put("config", [whole])
    refused(lambda: Repository.open(store, wrong, made.fingerprint))
    assert opened(store, made).config == made.config


def test_a_missing_config_is_storage_out_of_reach() -> None:
    store, made = created_open()
    store.delete("config")
    with pytest.raises(Unavailable) as caught:
        opened(store, made)
    assert caught.value.reason is Reason.STORAGE_UNREACHABLE


def test_wrong_secrets_are_told_from_damaged_slots() -> None:
    store = MemoryObjects()
    made = created(store)
    repository = opened(store, made)
    assert made.recovery_key is not None
    mistyped = made.recovery_key[:-1] + ("A" if made.recovery_key[-1] != "A" else "B")
    for wrong in ("correct horse", "", FILE + "\n", "x" * 70_000, "\ud800", mistyped):
        error = refused(lambda wrong=wrong: repository.unlock(wrong), Reason.KEY_WRONG)
        assert not wrong or wrong not in told(error)
        assert ("mistyped" in error.message) == (wrong == mistyped)
    name = f"keys/{made.slots[0].slot_id}"
    content = store.get(name)
    store.put(name, [content[:300] + b"?" + content[301:]])
    assert name in refused(lambda: repository.unlock(PASSPHRASE)).message
    assert repository.unlock(FILE).epochs == (1,)
    assert name in refused(repository.slots).message
    store.delete(name)
    refused(lambda: repository.unlock(PASSPHRASE), Reason.KEY_WRONG)
    assert len(repository.slots()) == 2


def test_a_slot_of_another_repository_is_none_of_this_one() -> None:
    """Two repositories with one passphrase."""
    store, other = MemoryObjects(), MemoryObjects()
    made, others = created(store, (SLOTS[0],)), created(other, (SLOTS[0],))
    foreign = f"keys/{others.slots[0].slot_id}"
    store.put(foreign, [other.get(foreign)])
    repository = opened(store, made)
    assert repository.slots() == made.slots
    assert made.keys.content is not None
    assert repository.unlock(PASSPHRASE).to_text() == made.keys.content.to_text()


def test_nothing_is_spent_on_slots_that_anybody_can_make(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has the store alone can alter the slots that there are, and make more of them; each may ask for seconds."""
    store = MemoryObjects()
    made = created(store)
    repository = opened(store, made)
    (own,) = [slot for slot in made.slots if slot.kind is SlotKind.PASSPHRASE]
    content = store.get(f"keys/{own.slot_id}")
    for number in range(20):
        name = f"keys/{number:032x}"
        store.put(name, [rehashed(content.replace(own.slot_id.encode(), name[5:].encode()))])
    spent = []
    derive = KeyParameters.derive

    def counted(parameters: KeyParameters, password: bytes) -> bytes:
        spent.append(parameters)
        return derive(parameters, password)

    monkeypatch.setattr(KeyParameters, "derive", counted)
    assert made.keys.content is not None
    assert repository.unlock(PASSPHRASE).to_text() == made.keys.content.to_text()
    assert len(spent) == 1
    refused(lambda: repository.unlock("a wrong passphrase"))
    assert len(spent) == 2


def test_a_slot_that_cannot_be_read_keeps_none_of_the_others_shut() -> None:
    store = MemoryObjects()
    made = created(store)
    repository = opened(store, made)
    content = store.get(f"keys/{made.slots[0].slot_id}")
    newer = f"keys/{0:032x}"
    store.put(newer, [rehashed(content[:8] + b"\2\0" + content[10:])])
    store.put("keys/no-slot", [b"no slot"])
    assert made.recovery_key is not None
    for secret in (PASSPHRASE, FILE, made.recovery_key):
        assert repository.unlock(secret).epochs == (1,)
    assert newer in refused(lambda: repository.unlock("a wrong passphrase"), Reason.FORMAT_UNSUPPORTED).message
    refused(repository.slots, Reason.FORMAT_UNSUPPORTED)
    store.delete(newer)
    assert len(repository.slots()) == 3


def rehashed(content: bytes) -> bytes:
    return content[:-32] + blake3(content[:-32]).digest()


def test_a_log_that_went_back_or_another_way_is_told() -> None:
    """Also when it has more entries than were seen before."""
    store, made = created_open()
    repository = opened(store, made)
    writer_id = made.keys.writer.writer_id

    def grow(where: ObjectStore, entries: int) -> LogVector:
        writer = LogWriter(
            where, repository.index_keys, made.keys.writer, LogReader(where, repository.index_keys).heads()
        )
        for _ in range(entries):
            writer.append([], NOW)
        return writer.vector

    grow(store, 1)
    fork = MemoryObjects(store.contents())
    known = grow(store, 2)
    assert repository.lacks(known, repository.log_heads()) == []
    grow(store, 1)
    assert repository.lacks(known, repository.log_heads()) == []
    shown = opened(fork, made)
    assert shown.lacks(known, shown.log_heads()) == [writer_id]
    grow(fork, 4)
    assert shown.log_heads().behind(known) == []
    assert shown.lacks(known, shown.log_heads()) == [writer_id]
    # What lies before a checkpoint may be gone.
    assert cut_log(repository, NOW)
    assert repository.lacks(known, repository.log_heads()) == []


def test_snapshots_are_listed_without_tombstones() -> None:
    store, made = created_open()
    repository = opened(store, made)
    assert repository.snapshot(RUN) is None
    end_run_as(store, repository.index_keys, SNAPSHOT)
    end_run_as(store, repository.index_keys, Tombstone(OTHER_RUN))
    assert list(repository.snapshots()) == [SNAPSHOT]
    assert repository.snapshot(RUN) == SNAPSHOT
    assert repository.snapshot(OTHER_RUN) is None
    assert repository.run_end(OTHER_RUN) == Tombstone(OTHER_RUN)
    store.put(snapshot_name(OTHER_RUN), [b"damaged"])
    refused(lambda: list(repository.snapshots()))
    errors: list[DataLoss] = []
    assert list(repository.snapshots(errors.append)) == [SNAPSHOT]
    assert [error.metadata["object"] for error in errors] == [snapshot_name(OTHER_RUN)]


def test_it_counts_what_is_there() -> None:
    store, made = created_open()
    repository = opened(store, made)
    end_run_as(store, repository.index_keys, SNAPSHOT)
    end_run_as(store, repository.index_keys, replace(SNAPSHOT, run_id=OTHER_RUN))
    store.put("packs/" + "0" * 32, [bytes(1000)])
    store.put(run_name(RUN), [bytes(10)])
    counts = repository.statistics()
    assert (counts.snapshots, counts.objects, counts.packs) == (2, 5, 1)
    assert counts.original_size == 2 * SNAPSHOT.counts.bytes
    assert counts.stored_size == sum(map(len, store.contents().values()))
    assert counts.classes["packs"] == ClassCount(1, 1000)
    assert set(counts.classes) == {"config", "packs", "runs", "snapshots"}
    store.put(f"runs/probe-{'0' * 32}", [bytes(10)])
    assert repository.statistics() == counts, "a probe under way is nothing of it"


def test_a_receipt_tells_the_newest_entries() -> None:
    store, made = created_open()
    repository = opened(store, made)
    empty = repository.receipt(NOW)
    assert (empty.vector, empty.is_genuine(made.config.uuid)) == ({}, True)
    entry = LogWriter(store, repository.index_keys, made.keys.writer, {}).append([Committed(RUN)], NOW)
    receipt = repository.receipt(NOW)
    assert receipt.vector == {made.keys.writer.writer_id: entry.head}
    assert receipt.is_genuine(made.config.uuid)
    assert receipt.public_key == made.keys.writer.public


def test_the_store_holds_no_key_in_clear() -> None:
    store = MemoryObjects()
    made = created(store)
    content = made.keys.content
    assert content is not None
    assert made.recovery_key is not None
    private = content.private(1)
    parts = [made.keys.index_key, private[:64], private[64:], made.keys.writer.private(), PASSPHRASE.encode()]
    for name, stored in store.contents().items():
        assert not any(part in stored for part in parts), name
        assert made.recovery_key[6:].replace("-", "").encode() not in stored
    assert not shows(repr(made), made.keys.index_key, private)
    assert made.recovery_key not in repr(made)
    with pytest.raises(TypeError):
        pickle.dumps(made)
