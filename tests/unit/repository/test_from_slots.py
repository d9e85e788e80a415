"""A repository opened with a secret alone: all its keys, or a clear refusal, and nothing derived for strangers."""

from __future__ import annotations

import json
import struct

import pytest
from blake3 import blake3

from holdfast_server.errors import Reason, Unavailable
from holdfast_server.key_derivation import KeyParameters
from holdfast_server.repository import NewSlot, SlotKind, create_repository, open_from_slots, slot_opening
from holdfast_server.repository.config import fingerprint_of
from holdfast_server.repository.crypto import IndexKeys
from holdfast_server.repository.repository import Created
from holdfast_server.repository.slots import OpenedSlot, make_slot
from holdfast_server.storage.objects import MemoryObjects, ObjectStore
from tests.unit.repository.samples import NOW, refused, told

PASSPHRASE, FILE = "correct horse battery", "a key file of more than thirty-two bytes"
SLOTS = (
    NewSlot(SlotKind.PASSPHRASE, PASSPHRASE),
    NewSlot(SlotKind.KEY_FILE, FILE),
    NewSlot(SlotKind.RECOVERY),
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """New slots cost next to nothing."""
    monkeypatch.setattr(KeyParameters, "new", classmethod(lambda cls: cls(bytes(range(16)), 64, 1, 2)))


@pytest.fixture
def derived(monkeypatch: pytest.MonkeyPatch) -> list[KeyParameters]:
    """The parameters with which keys are derived, as they are."""
    found: list[KeyParameters] = []
    derive = KeyParameters.derive

    def spied(self: KeyParameters, given: bytes) -> bytes:
        found.append(self)
        return derive(self, given)

    monkeypatch.setattr(KeyParameters, "derive", spied)
    return found


def created(store: ObjectStore, *, sealed: bool = True, slots: tuple[NewSlot, ...] = SLOTS) -> Created:
    return create_repository(store, sealed=sealed, slots=slots, compression_level=3, now_us=NOW)


def hostile(store: MemoryObjects, made: Created, number: int = 0, **kdf: object) -> None:
    """Put other KDF parameters into a slot, with the right hash behind."""
    name = f"keys/{made.slots[number].slot_id}"
    content = store.get(name)
    (length,) = struct.unpack_from("<I", content, 12)
    header = json.loads(content[16 : 16 + length])
    header["kdf"] |= kdf
    text = json.dumps(header).encode()
    changed = content[:12] + struct.pack("<I", len(text)) + text + content[16 + length : -32]
    store.put(name, [changed + blake3(changed).digest()])


@pytest.mark.parametrize("sealed", [False, True])
def test_each_secret_gives_all_keys_and_changes_nothing(sealed: bool) -> None:
    store = MemoryObjects()
    made = created(store, sealed=sealed)
    assert made.keys.content is not None
    assert made.recovery_key is not None
    before = store.contents()
    for secret in (PASSPHRASE, FILE, made.recovery_key, made.recovery_key.lower().replace("-", " ")):
        found = open_from_slots(store, secret)
        assert found.config == made.config
        assert (found.fingerprint, found.keys.uuid) == (made.fingerprint, made.config.uuid)
        assert found.keys.index_key == made.keys.index_key
        assert found.keys.content is not None
        assert found.keys.content.to_text() == made.keys.content.to_text()
        assert found.keys.writer.writer_id != made.keys.writer.writer_id
        assert {slot.slot_id for slot in found.slots()} == {slot.slot_id for slot in made.slots}
    assert store.contents() == before


def test_a_wrong_secret_is_told_and_shown_nowhere() -> None:
    store = MemoryObjects()
    made = created(store)
    assert made.recovery_key is not None
    mistyped = made.recovery_key[:-1] + ("A" if made.recovery_key[-1] != "A" else "B")
    for wrong in ("correct horse", "", FILE + "\n", "\ud800", mistyped):
        error = refused(lambda wrong=wrong: open_from_slots(store, wrong), Reason.KEY_WRONG)
        assert not wrong or wrong not in told(error)
        assert ("mistyped" in error.message) == (wrong == mistyped)
    none = MemoryObjects()
    created(none, sealed=False, slots=())
    refused(lambda: open_from_slots(none, PASSPHRASE), Reason.KEY_WRONG)
    with pytest.raises(Unavailable):
        open_from_slots(MemoryObjects(), PASSPHRASE)


def test_slots_of_another_repository_are_not_even_tried(derived: list[KeyParameters]) -> None:
    """One passphrase for both, and slots that cost more than ours."""
    store, other = MemoryObjects(), MemoryObjects()
    made, others = created(store, slots=SLOTS[:1]), created(other, slots=SLOTS[:1])
    hostile(other, others, memory_kib=1_048_576, passes=16)
    foreign = f"keys/{others.slots[0].slot_id}"
    store.put(foreign, [other.get(foreign)])
    derived.clear()
    assert open_from_slots(store, PASSPHRASE).keys.index_key == made.keys.index_key
    assert [parameters.passes for parameters in derived] == [1]
    store.delete(f"keys/{made.slots[0].slot_id}")
    refused(lambda: open_from_slots(store, PASSPHRASE), Reason.KEY_WRONG)
    assert len(derived) == 1


@pytest.mark.parametrize(
    "kdf", [{"memory_kib": 1_048_577}, {"memory_kib": 1 << 60}, {"passes": 17}, {"lanes": 17}, {"salt": ""}]
)
def test_hostile_parameters_are_refused_before_a_key_is_derived(
    derived: list[KeyParameters], kdf: dict[str, object]
) -> None:
    store = MemoryObjects()
    made = created(store)
    derived.clear()
    hostile(store, made, **kdf)
    name = f"keys/{made.slots[0].slot_id}"
    assert name in refused(lambda: open_from_slots(store, PASSPHRASE)).message
    assert open_from_slots(store, FILE).keys.index_key == made.keys.index_key, "the other slots still open"
    assert derived == []


def test_no_more_is_spent_than_one_slot_may_ask_for(
    derived: list[KeyParameters], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has the store alone can make any number of slots; nothing proves one before its secret does."""
    store = MemoryObjects()
    made = created(store, slots=SLOTS[:1])
    own = made.slots[0].slot_id
    content = store.get(f"keys/{own}")
    for number in range(50):
        slot_id = f"{number:032x}"
        copy = content[:-32].replace(own.encode(), slot_id.encode()).replace(b'"passes":1', b'"passes":8')
        store.put(f"keys/{slot_id}", [copy + blake3(copy).digest()])
    monkeypatch.setattr(slot_opening, "MAX_COST", 64 * 16)
    derived.clear()
    assert open_from_slots(store, PASSPHRASE).keys.index_key == made.keys.index_key
    assert [one.passes for one in derived] == [1]
    derived.clear()
    refused(lambda: open_from_slots(store, "a wrong passphrase"))
    assert [one.passes for one in derived] == [1, 8]


def test_a_config_that_the_key_did_not_write_is_refused() -> None:
    store, other = MemoryObjects(), MemoryObjects()
    made, others = created(store), created(other)
    config = store.get("config")
    other_public = json.loads(other.get("config")[16:-32])["content_key"]["public"].encode()
    public = json.loads(config[16:-32])["content_key"]["public"].encode()
    replaced = config.replace(public, other_public)
    assert replaced != config
    for forged in (
        replaced,
        config.replace(b'"sealed":true', b'"sealed":null'),
        config[:-1] + bytes([config[-1] ^ 1]),
    ):
        store.delete("config")
        store.create_if_absent("config", forged)
        refused(lambda: open_from_slots(store, PASSPHRASE))
    store.delete("config")
    store.create_if_absent("config", other.get("config"))
    refused(lambda: open_from_slots(store, PASSPHRASE), Reason.KEY_WRONG)
    assert fingerprint_of(other.get("config")) == others.fingerprint
    assert made.fingerprint != others.fingerprint


def test_content_keys_of_another_pair_are_refused() -> None:
    """Whoever has a slot's secret and the index key could make a slot with content keys of their own."""
    store, other = MemoryObjects(), MemoryObjects()
    made, others = (created(one, sealed=False, slots=()) for one in (store, other))
    assert others.keys.content is not None
    mixed = OpenedSlot(made.keys.index_key, others.keys.content)
    slot = make_slot(SLOTS[1], IndexKeys(made.keys.index_key, made.config.uuid), mixed, NOW)
    store.put(slot.name, [slot.content])
    assert slot.name in refused(lambda: open_from_slots(store, FILE)).message
