"""Key slots that are added and removed, and content keys that follow each other."""

from __future__ import annotations

import json
import os
import pickle

import pytest

from holdfast_server.errors import NotFound, Reason, ResourceExhausted
from holdfast_server.repository import RepositoryKeys
from holdfast_server.repository import key_changes as changes
from holdfast_server.repository.content_keys import new_private_key, public_half
from holdfast_server.repository.facts import SEALED_CONTENT_KEY, KeyEpoch
from holdfast_server.repository.format import PUBLIC_KEY
from holdfast_server.repository.json_object import to_base64
from holdfast_server.repository.key_changes import key_slots
from holdfast_server.repository.keys import WriterKey
from holdfast_server.repository.log import LogEntry, LogReader
from holdfast_server.repository.log_state import _CHECKPOINT_MAX, _size_of, cut_log
from holdfast_server.repository.repository import open_from_slots
from tests.unit.repository.key_vault import NEW, OLD, Vault, opens, raising, rewritten
from tests.unit.repository.samples import refused, shows


@pytest.fixture(params=[False, True], ids=["plain", "sealed"])
def vault(request: pytest.FixtureRequest) -> Vault:
    return Vault(sealed=request.param)


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


def chain_of(vault: Vault) -> list[LogEntry]:
    """The entries that are needed."""
    return [
        entry for chain in LogReader(vault.store, vault.opened().index_keys).read().entries.values() for entry in chain
    ]


def test_a_log_of_many_epochs_is_cut_as_long_as_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted must not be less than what an entry then takes."""
    vault = Vault(sealed=False)
    public, sealed = os.urandom(PUBLIC_KEY), {os.urandom(16).hex(): os.urandom(SEALED_CONTENT_KEY) for _ in range(64)}
    told = [KeyEpoch(epoch, public, sealed) for epoch in range(2, 30)]
    fitting = [fact for at, fact in enumerate(told) if sum(map(_size_of, told[: at + 1])) <= _CHECKPOINT_MAX]
    for facts, cut in ((fitting, True), (told, False)):
        before = len(chain_of(vault))
        for fact in facts:
            vault.tell(fact)
        assert cut_log(vault.opened(), vault.now()) == cut
        assert len(chain_of(vault)) == (2 if cut else before + len(facts))


def test_nothing_shows_a_key(vault: Vault) -> None:
    new = vault.rotate()
    assert not shows(repr(new), new.private)
    with pytest.raises(TypeError):
        pickle.dumps(new)
