"""The audit of nonces finds what it is there to find."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdfast_server.repository import crypto
from holdfast_server.repository.crypto import Segment
from holdfast_server.repository.format import Tier
from holdfast_server.repository.sending import PackSender
from holdfast_server.storage.objects import MemoryObjects
from tests.harness import make_tree
from tests.nonces import NonceAudit, RecordingObjects
from tests.repositories import Backups


@pytest.fixture
def backups(memory_path: Path) -> Backups:
    return Backups(memory_path / "caches", MemoryObjects())


@pytest.fixture
def audit(backups: Backups) -> NonceAudit:
    return NonceAudit(backups.opened().index_keys, backups.content)


def test_nothing_is_found_in_sound_backups(backups: Backups, audit: NonceAudit, memory_path: Path) -> None:
    source = make_tree(memory_path / "source", 1)
    for turn in range(3):
        (source / "new").write_bytes(b"%d" % turn)
        backups.back_up(source, store=RecordingObjects(backups.store, audit))
    counts = audit.messages, audit.salts, audit.segments
    assert counts[2] == 6
    audit.add_all(backups.store)  # what was seen on its way is no second use
    assert (audit.messages, audit.salts, audit.segments) == counts


def test_a_number_that_is_used_twice_is_found(
    backups: Backups, audit: NonceAudit, memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = PackSender._next_message

    def stuck(sender: PackSender, tier: Tier) -> tuple[Segment, int]:
        return original(sender, tier)[0], 7

    monkeypatch.setattr(PackSender, "_next_message", stuck)
    backups.back_up(make_tree(memory_path / "source", 1))
    with pytest.raises(AssertionError, match="was encrypted twice"):
        audit.add_all(backups.store)


def test_a_segment_that_goes_on_after_a_restart_is_found(
    backups: Backups, audit: NonceAudit, memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Segment.new_index(backups.opened().index_keys)
    monkeypatch.setattr(Segment, "new_index", lambda _: kept)
    for turn in range(2):
        backups.back_up(make_tree(memory_path / f"source{turn}", turn), source_id=f"source{turn}")
    with pytest.raises(AssertionError, match="was encrypted twice"):
        audit.add_all(backups.store)


def test_a_data_key_and_a_salt_that_come_twice_are_found(
    backups: Backups, audit: NonceAudit, memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_tree(memory_path / "source", 1)
    random = crypto.secrets.token_bytes
    monkeypatch.setattr(crypto.secrets, "token_bytes", lambda size: bytes(size) if size == 32 else random(size))
    backups.back_up(source)
    (source / "new").write_bytes(os.urandom(100))
    backups.back_up(source)
    with pytest.raises(AssertionError, match=r"another's too|was used"):
        audit.add_all(backups.store)
