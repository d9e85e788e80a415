"""Holdfast reads what the second writer writes, and refuses what is authentic and wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from holdfast_server.errors import DataLoss
from holdfast_server.repository.content_keys import ContentKeys
from holdfast_server.repository.key_changes import add_slot, begin_epoch, remove_slot
from holdfast_server.repository.keys import RepositoryKeys, WriterKey
from holdfast_server.repository.log import LogReader
from holdfast_server.repository.repository import Repository
from holdfast_server.repository.slots import NewSlot, SlotKind
from holdfast_server.storage.objects import LocalObjects
from tests.vectors import auditor, generate, holdfast_side, reader
from tests.vectors.made_sources import Description, describe_folder
from tests.vectors.test_wrong_repositories import (
    SEEN_BY_CHECK,
    WRONG_PAGES,
    forged_entry,
    gap_in_the_log,
    rolled_back,
    unknown_fact,
)
from tests.vectors.writer import SECRET, TIME_US, Make, Writer, page, small_file, two_levels

#: What a reader of single entries cannot see: a restore has to.
SEEN_BY_ALL_ENTRIES = {
    "a folder below a symbolic link",
    "a folder below a file",
    "a link to a folder",
    "a stored name twice",
}


@contextmanager
def opened(writer: Writer) -> Iterator[Repository]:
    content = ContentKeys({writer.epoch: writer.content.private})
    keys = RepositoryKeys(writer.index_key, content, writer.uuid, WriterKey.generate())
    with generate.opened(writer.folder) as folder_fd, LocalObjects(folder_fd) as store:
        yield Repository.open(store, keys, None)


def read(writer: Writer, run_id: str) -> Description:
    with opened(writer) as repository:
        snapshot = repository.snapshot(run_id)
        assert snapshot is not None
        return holdfast_side.describe(repository, snapshot, repository.keys.content)


def test_holdfast_reads_what_others_wrote(writer: Writer) -> None:
    run_id = two_levels(writer)
    secret, target = writer.folder.parent / "secret", writer.folder.parent / "out"
    assert reader.main([str(writer.folder), "--key-file", str(secret), "restore", run_id, str(target)]) == 0
    assert read(writer, run_id) == describe_folder(os.fsencode(target))
    with opened(writer) as repository:
        assert repository.unlock(SECRET.decode()).epochs == (writer.epoch,)


def test_holdfast_adds_keys_and_rotates_where_others_wrote(writer: Writer) -> None:
    before = writer.snapshot(page((b"", [small_file(writer, b"a", b"before")])))
    writer.begin_epoch()
    after = writer.snapshot(page((b"", [small_file(writer, b"a", b"after")])))
    new = b"a key file that comes later, as long as it has to be"
    with opened(writer) as repository:
        content = repository.unlock(SECRET.decode())
        add_slot(repository, NewSlot(SlotKind.KEY_FILE, new.decode()), content, TIME_US + 1)
        begun = begin_epoch(repository, lambda: TIME_US + 2, keep=lambda *_: None)
        assert begun.epoch == 3
        assert repository.unlock(new.decode()).to_text() == repository.unlock(SECRET.decode()).to_text()
        for slot_id in writer.slots:
            remove_slot(repository, slot_id.hex(), TIME_US + 3)
        # What the second reader does not have opens nothing more; what Holdfast added opens everything.
        for run_id in (before, after):
            snapshot = repository.snapshot(run_id)
            assert snapshot is not None
            assert holdfast_side.describe(repository, snapshot, repository.unlock(new.decode()))
    secret = writer.folder.parent / "secret"
    secret.write_bytes(new)
    assert auditor.main([str(writer.folder), "--key-file", str(secret), "check"]) == 0
    secret.write_bytes(SECRET)
    assert reader.main([str(writer.folder), "--key-file", str(secret), "list"]) == 1


@pytest.mark.parametrize("wrong", sorted(set(WRONG_PAGES) - SEEN_BY_ALL_ENTRIES - SEEN_BY_CHECK))
def test_holdfast_refuses_authentic_nonsense(writer: Writer, wrong: str) -> None:
    run_id = writer.snapshot(page(*WRONG_PAGES[wrong](writer)))
    with pytest.raises(DataLoss):
        read(writer, run_id)


@pytest.mark.parametrize(
    "wrong", [forged_entry, gap_in_the_log, rolled_back, unknown_fact], ids=lambda make: make.__name__
)
def test_holdfast_sees_what_is_wrong_with_a_log(writer: Writer, wrong: Make) -> None:
    writer.snapshot()
    with opened(writer) as repository:
        log = LogReader(repository.store, repository.index_keys)
        assert not log.read().vector.behind(log.read().seen)
        wrong(writer)
        try:
            found = log.read()
        except DataLoss:
            return
        assert found.vector.behind(found.seen)
