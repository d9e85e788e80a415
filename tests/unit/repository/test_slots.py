"""Key slots: the right secret opens them, a wrong one does not, and damage is neither."""

from __future__ import annotations

import json
import pickle
import struct
import unicodedata

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from holdfast_server.errors import HoldfastError, InvalidArgument, Reason
from holdfast_server.key_derivation import KeyParameters
from holdfast_server.repository.crypto import ContentKeys, IndexKeys
from holdfast_server.repository.recovery_keys import is_mistyped_recovery_key, recovery_secret, recovery_text
from holdfast_server.repository.slots import (
    MAX_SLOT,
    MadeSlot,
    NewSlot,
    OpenedSlot,
    Slot,
    SlotInfo,
    SlotKind,
    make_slot,
)
from tests.unit.repository.samples import CONTENT, INDEX_KEY, KEYS, NOW, OTHER_UUID, UUID, cuts, flips, refused, shows

OPENED = OpenedSlot(INDEX_KEY, CONTENT)
FILE = "a key file of more than thirty-two bytes"
#: É, as one letter and as two.
PASSPHRASE = "correct horse \u00c9"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """New slots cost next to nothing."""
    monkeypatch.setattr(KeyParameters, "new", classmethod(lambda cls: cls(bytes(range(16)), 64, 1, 2)))


def made(kind: SlotKind, secret: str | None = None, display_name: str = "Laptop ü") -> MadeSlot:
    return make_slot(NewSlot(kind, secret, display_name), KEYS, OPENED, NOW)


KEY_FILE = made(SlotKind.KEY_FILE, FILE)


def changed(slot: MadeSlot, change: dict[str, object], *, drop: str | None = None, kind: int = 2) -> bytes:
    """The slot with another header, and a right hash at the end."""
    (length,) = struct.unpack_from("<I", slot.content, 12)
    header = json.loads(slot.content[16 : 16 + length]) | change
    header.pop(drop, None)
    text = json.dumps(header).encode()
    head = struct.pack("<8sHHI", b"HFKEYSLT", 1, kind, len(text)) + text
    whole = head + slot.content[16 + length : -32]
    return whole + blake3(whole).digest()


def test_each_kind_opens_with_its_secret_alone(quick: None) -> None:
    recovery = made(SlotKind.RECOVERY)
    assert recovery.recovery_key is not None
    for slot, secret in (
        (made(SlotKind.PASSPHRASE, PASSPHRASE), PASSPHRASE),
        (KEY_FILE, FILE),
        (recovery, recovery.recovery_key),
    ):
        stored = Slot(slot.name, slot.content)
        assert stored.info(KEYS) == slot.info
        assert slot.info == SlotInfo(slot.name.removeprefix("keys/"), stored.kind, "Laptop ü", NOW)
        opened = stored.open(secret)
        assert opened is not None
        assert opened.index_key == INDEX_KEY
        assert opened.content.private(1) == CONTENT.private(1)
        for wrong in (secret + "x", "", "x" * 40, recovery_text(bytes(32)), "\ud800" * 40, "y" * 70_000):
            assert stored.open(wrong) is None


def test_passphrases_are_the_same_in_every_composition(quick: None) -> None:
    slot = made(SlotKind.PASSPHRASE, unicodedata.normalize("NFD", PASSPHRASE))
    assert Slot(slot.name, slot.content).open(unicodedata.normalize("NFC", PASSPHRASE)) is not None
    parameters = KeyParameters.new()
    function = Argon2id(salt=parameters.salt, length=32, iterations=1, lanes=2, memory_cost=64)
    assert parameters.derive(PASSPHRASE.encode()) == function.derive(PASSPHRASE.encode())


def test_a_slot_of_several_epochs_gives_all() -> None:
    both = ContentKeys({1: CONTENT.private(1), 7: ContentKeys.generate().private(1)})
    slot = make_slot(NewSlot(SlotKind.KEY_FILE, FILE), KEYS, OpenedSlot(INDEX_KEY, both), NOW)
    opened = Slot(slot.name, slot.content).open(FILE)
    assert opened is not None
    assert opened.content.to_text() == both.to_text()


def test_every_flip_and_every_cut_is_damage_and_no_wrong_secret() -> None:
    for content in (*flips(KEY_FILE.content), *cuts(KEY_FILE.content)):
        with pytest.raises(HoldfastError) as caught:
            Slot(KEY_FILE.name, content)
        version = content[8:10] if len(content) > 16 else b"\1\0"
        known = version == b"\1\0" or len(content) < 192
        assert caught.value.reason is (Reason.CHECKSUM_MISMATCH if known else Reason.FORMAT_UNSUPPORTED)
        assert not shows(str(caught.value), INDEX_KEY, CONTENT.private(1))


def test_a_header_that_was_changed_gives_no_keys() -> None:
    """Whoever can mend the hash at the end has changed what the secret authenticates."""
    for change in ({"later": 1}, {"create_time": 1}, {"uuid": OTHER_UUID.hex()}):
        assert Slot(KEY_FILE.name, changed(KEY_FILE, change)).open(FILE) is None


def test_a_slot_is_that_of_its_name_and_repository() -> None:
    refused(lambda: Slot("keys/" + "0" * 32, KEY_FILE.content))
    slot = Slot(KEY_FILE.name, KEY_FILE.content)
    assert slot.uuid == UUID
    refused(lambda: slot.info(IndexKeys(INDEX_KEY, OTHER_UUID)))


HOSTILE = {"name": "argon2id", "memory_kib": 64, "passes": 1, "lanes": 1, "salt": "AAAAAAAAAAAAAAAAAAAAAA=="}


@pytest.mark.parametrize(
    "change",
    [
        {"memory_kib": 1_048_577},
        {"memory_kib": 1 << 60},
        {"memory_kib": 7},
        {"memory_kib": 127, "lanes": 16},
        {"memory_kib": -1},
        {"memory_kib": True},
        {"memory_kib": "64"},
        {"passes": 0},
        {"passes": 17},
        {"lanes": 0},
        {"lanes": 17},
        {"salt": ""},
        {"salt": "AAAAAAAAAAAAAAAAAAAA"},
        {"salt": "AAAAAAAAAAAAAAAAAAAAAB=="},
        {"salt": None},
        {"name": "argon2i"},
        {"name": "hkdf-sha256"},
    ],
)
def test_hostile_parameters_are_refused_before_anything_is_derived(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    def derived(*_: object) -> bytes:
        raise AssertionError("a key was derived")

    monkeypatch.setattr(KeyParameters, "derive", derived)
    refused(lambda: Slot(KEY_FILE.name, changed(KEY_FILE, {"kdf": HOSTILE | change}, kind=1)))
    assert Slot(KEY_FILE.name, changed(KEY_FILE, {"kdf": HOSTILE}, kind=1)).kind is SlotKind.PASSPHRASE


@pytest.mark.parametrize(
    "change",
    [
        {"kdf": HOSTILE},
        {"kdf": {"name": "hkdf-sha256", "salt": "AAAA"}},
        {"public": "AAAA"},
        {"label": "AAAA"},
        {"label": "A" * 1000},
        {"content": {}},
        {"content": [1]},
        {"content": [{"epoch": 0, "sealed": ""}]},
        {"content": [{"epoch": 1, "sealed": "AAAA"}]},
        {"slot_id": "0" * 32},
        {"uuid": 1},
    ],
)
def test_malformed_headers_are_refused(change: dict[str, object]) -> None:
    refused(lambda: Slot(KEY_FILE.name, changed(KEY_FILE, change)))


def test_a_header_lacks_nothing_and_the_kind_is_known() -> None:
    for key in ("uuid", "slot_id", "create_time", "kdf", "public", "label", "content"):
        refused(lambda key=key: Slot(KEY_FILE.name, changed(KEY_FILE, {}, drop=key)))
    for kind in (0, 4):
        refused(lambda kind=kind: Slot(KEY_FILE.name, changed(KEY_FILE, {}, kind=kind)))
    refused(lambda: Slot(KEY_FILE.name, bytes(MAX_SLOT + 1)))


def test_recovery_keys_are_read_as_people_type_them() -> None:
    secret = bytes(range(32))
    text = recovery_text(secret)
    groups = text.split("-")
    assert groups[0] == "HFRK1"
    assert [len(group) for group in groups[1:]] == [4] * 14
    for typed in (text, text.lower(), text.replace("-", ""), text.replace("-", " - "), f"\n {text}\t"):
        assert recovery_secret(typed) == secret


def test_a_mistyped_recovery_key_is_told() -> None:
    text = recovery_text(bytes(range(32)))
    wrong = 0
    for at in range(6, len(text)):
        if text[at] == "-":
            continue
        for letter in "AZ27":
            typed = text[:at] + letter + text[at + 1 :]
            if typed != text:
                wrong += 1
                assert recovery_secret(typed) is None
                assert is_mistyped_recovery_key(typed)
    assert wrong > 200
    swapped = text[:6] + text[7] + text[6] + text[8:]
    for typed in (swapped, text[:-1], text + "A", text + "AAAAAAA=", "HFRK1-", text.replace("HFRK1", "HFRK2"), "", "é"):
        assert recovery_secret(typed) is None or typed == text
    assert not is_mistyped_recovery_key(text)
    assert not is_mistyped_recovery_key("a passphrase")


@pytest.mark.parametrize(
    ("new", "field"),
    [
        (NewSlot(SlotKind.PASSPHRASE, "short"), "keys.passphrase"),
        (NewSlot(SlotKind.PASSPHRASE, None), "keys.passphrase"),
        (NewSlot(SlotKind.PASSPHRASE, "x" * 1025), "keys.passphrase"),
        (NewSlot(SlotKind.PASSPHRASE, "\ud800" * 10), "keys.passphrase"),
        (NewSlot(SlotKind.KEY_FILE, "x" * 31), "keys.private_key"),
        (NewSlot(SlotKind.KEY_FILE, None), "keys.private_key"),
        (NewSlot(SlotKind.RECOVERY, "x" * 40), "keys.recovery"),
        (NewSlot(SlotKind.KEY_FILE, FILE, "x" * 256), "keys.display_name"),
    ],
)
def test_secrets_out_of_bounds_are_refused(new: NewSlot, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        make_slot(new, KEYS, OPENED, NOW)
    assert caught.value.violations[0].field == field
    assert new.secret is None or new.secret not in caught.value.message


def test_nothing_shows_or_pickles_a_secret() -> None:
    recovery = made(SlotKind.RECOVERY)
    assert recovery.recovery_key is not None
    new = NewSlot(SlotKind.KEY_FILE, FILE)
    for holder in (new, OPENED):
        with pytest.raises(TypeError):
            pickle.dumps(holder)
    shown = "".join(map(repr, (new, OPENED, recovery, Slot(recovery.name, recovery.content))))
    assert FILE not in shown
    assert recovery.recovery_key not in shown
    assert not shows(shown, INDEX_KEY, CONTENT.private(1))
    assert INDEX_KEY not in recovery.content
