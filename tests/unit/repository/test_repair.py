"""Repairing: indexes are built again, damaged packs set aside and healed by a backup, lost entries told again."""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from holdfast_server.errors import Aborted, DataLoss, Reason
from holdfast_server.repository import (
    CheckLevel,
    KnownBackup,
    LogState,
    MaintenanceWatch,
    NewSlot,
    RepairReport,
    RunKind,
    SlotKind,
    begin_epoch,
    check_repository,
    repair_repository,
    tell_of_snapshot,
)
from holdfast_server.repository.index import list_packs
from holdfast_server.repository.log import LogReader
from holdfast_server.repository.log_state import cut_log
from holdfast_server.repository.runs import begin_run
from holdfast_server.storage.objects import MemoryObjects
from tests.harness import snapshot as tree_of
from tests.repositories import _NOW, Backups, packs_of, read_snapshots, small_packs


@pytest.fixture
def backups(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backups:
    small_packs(monkeypatch)
    return Backups(memory_path / "caches", MemoryObjects())


@pytest.fixture
def source(memory_path: Path) -> Path:
    folder = memory_path / "source"
    folder.mkdir()
    for number in range(80):
        (folder / f"f{number:03}").write_bytes(random.Random(number).randbytes(900))
    return folder


def repair(
    backups: Backups,
    *,
    known: dict[str, KnownBackup] | None = None,
    lost: Sequence[str] = (),
    dry_run: bool = False,
    named: bool = True,
) -> RepairReport:
    return repair_repository(
        backups.opened(), now=partial(next, _NOW), watch=MaintenanceWatch(),
        content=backups.content if named else None, known=known, lost=lost, dry_run=dry_run,
    )  # fmt: skip


def is_whole(backups: Backups) -> bool:
    return check_repository(
        backups.store, backups.keys, CheckLevel.READ_DATA, now=partial(next, _NOW), content=backups.content
    ).ok


def contents(backups: Backups) -> dict[str, bytes]:
    return {info.name: backups.store.get(info.name) for info in backups.store.list("")}


def flip(backups: Backups, name: str, at: int) -> None:
    content = bytearray(backups.store.get(name))
    content[at] ^= 1
    backups.store.put(name, [bytes(content)])


def data_pack(backups: Backups) -> str:
    """A pack of file content."""
    packs = packs_of(backups.store, backups.opened())
    return f"packs/{next(pack_id for pack_id, record in sorted(packs.items()) if next(iter(record)).kind == 1).hex()}"


def test_a_whole_repository_is_left_as_it_is(backups: Backups, source: Path) -> None:
    backups.back_up(source)
    before = contents(backups)
    assert repair(backups) == RepairReport()
    assert contents(backups) == before


@pytest.mark.parametrize("harm", ["deleted", "damaged"])
def test_an_index_is_built_again_from_the_packs(backups: Backups, source: Path, harm: str) -> None:
    run_id = backups.back_up(source).run_id
    (name,) = (info.name for info in backups.store.list("index/"))
    if harm == "deleted":
        backups.store.delete(name)
    else:
        flip(backups, name, 60)
    before = contents(backups)
    foreseen = repair(backups, dry_run=True)
    assert contents(backups) == before
    report = repair(backups)
    assert (report.indexes_rebuilt, report.packs_adopted) == (1, len(list_packs(backups.store)))
    assert (foreseen.indexes_rebuilt, foreseen.packs_adopted) == (report.indexes_rebuilt, report.packs_adopted)
    (now,) = (info.name for info in backups.store.list("index/"))
    assert now != name
    assert is_whole(backups)
    assert backups.read(run_id) == tree_of(source)
    assert backups.back_up(source).stored_size < 4_000


@pytest.mark.parametrize("harm", ["flipped", "truncated", "deleted", "directory"])
@pytest.mark.parametrize("named", [True, False])
def test_a_damaged_pack_is_set_aside_and_healed_by_the_next_backup(
    backups: Backups, source: Path, harm: str, named: bool
) -> None:
    run_id = backups.back_up(source).run_id
    wanted, name = tree_of(source), data_pack(backups)
    size = backups.store.size(name)
    if harm == "deleted":
        backups.store.delete(name)
    elif harm == "truncated":
        backups.store.put(name, [backups.store.get(name, 0, size // 2)])
    else:
        flip(backups, name, 100 if harm == "flipped" else size - 100)
    before = contents(backups)
    foreseen = repair(backups, dry_run=True, named=named)
    assert contents(backups) == before
    report = repair(backups, named=named)
    assert report.packs_set_aside == foreseen.packs_set_aside == 1
    assert name in [damage.object for damage in report.damaged]
    if harm == "directory":  # the index still tells where everything lies in it
        assert report.chunks_lost == 0
        assert backups.read(run_id) == wanted
        assert is_whole(backups)
        return
    assert report.chunks_lost > 0
    (lost,) = report.backups_damaged
    assert lost.run_id == run_id
    assert (lost.files is not None) == named
    with pytest.raises(DataLoss):
        backups.read(run_id)
    # What is damaged and needed is kept, whatever is pruned or compacted.
    assert backups.prune().packs_deleted == backups.compact().packs_deleted == 0
    assert harm == "deleted" or backups.store.size(name)
    second = backups.back_up(source).run_id
    assert backups.read_all([run_id, second]) == {run_id: wanted, second: wanted}
    backups.prune()
    assert is_whole(backups)
    assert name not in [info.name for info in backups.store.list("packs/")]


def test_lost_small_files_are_put_together_again_whatever_lies_between_them(backups: Backups, source: Path) -> None:
    run_id = backups.back_up(source).run_id
    wanted, name = tree_of(source), data_pack(backups)
    flip(backups, name, 100)
    assert repair(backups).chunks_lost == 1
    # New files among the old ones: the stream of what is stored again is another one.
    for number in range(0, 80, 3):
        (source / f"f{number:03}-new").write_bytes(random.Random(f"new {number}").randbytes(700))
    changed = tree_of(source)
    second = backups.back_up(source).run_id
    assert backups.read_all([run_id, second]) == {run_id: wanted, second: changed}
    backups.prune()
    assert is_whole(backups)


def test_what_is_whole_in_a_damaged_pack_is_kept(backups: Backups, source: Path) -> None:
    """Even when its source is gone: only the damaged chunks are lost."""
    backups.back_up(source)
    flip(backups, data_pack(backups), 100)
    lost = repair(backups).chunks_lost
    assert lost == 1
    assert repair(backups).chunks_lost == lost
    report = check_repository(
        backups.store, backups.keys, CheckLevel.READ_DATA, now=partial(next, _NOW), content=backups.content
    )
    (damage,) = report.backups_damaged
    assert damage.files is not None
    assert 0 < damage.files < 60


def test_a_damaged_run_is_ended(backups: Backups, source: Path) -> None:
    backups.remove([backups.back_up(source).run_id])
    repository, run_id = backups.opened(), str(uuid.uuid4())
    begin_run(repository.store, repository.index_keys, run_id, RunKind.BACKUP, writer_id=bytes(16), now_us=1)
    flip(backups, f"runs/{run_id}", 50)
    assert backups.prune().runs_waited_for == 1
    assert repair(backups).runs_ended == 1
    assert backups.prune().packs_deleted > 0
    with pytest.raises(Aborted):
        backups.back_up(source, run_id=run_id)


@pytest.mark.parametrize("which", ["first", "middle", "newest"])
@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("harm", ["deleted", "damaged"])
def test_a_damaged_log_entry_is_told_again(
    backups: Backups, source: Path, which: str, foreign: bool, harm: str
) -> None:
    kept = backups.back_up(source).run_id
    removed = backups.back_up(source).run_id
    backups.remove([removed])
    tell_of_snapshot(backups.opened(), kept, next(_NOW), name="renamed", locked=True)
    last = backups.back_up(source).run_id
    seen = backups.opened().log_heads()
    names = sorted(info.name for info in backups.store.list("log/"))
    name = names[{"first": 0, "middle": 2, "newest": -1}[which]]
    if harm == "deleted" and which == "newest":
        pytest.skip("a log whose end is gone was rolled back, and is not mended")
    backups.store.delete(name) if harm == "deleted" else flip(backups, name, 60)
    node = backups.other_node(backups.caches.parent / "other") if foreign else backups
    with pytest.raises(DataLoss):
        node.back_up(source)
    known = {kept: KnownBackup("renamed", locked=True), last: KnownBackup("source", locked=False)}
    assert repair(node, known=known, dry_run=True).log_mended
    assert repair(node, known=known).log_mended
    repository = node.opened()
    state = LogState.of(LogReader(repository.store, repository.index_keys).read())
    assert state.committed - state.removed == {kept, last}
    assert removed not in state.committed or removed in state.removed
    assert (state.names[kept], state.locks[kept]) == ("renamed", True)
    assert not repository.log_heads().behind(seen)
    assert is_whole(backups)
    again = node.back_up(source).run_id
    assert backups.read(again) == tree_of(source)
    assert not repair(node, known=known).log_mended
    # The writer whose chain it was goes on, too, unless its newest entry is one that nobody can read.
    if which != "newest":
        backups.back_up(source)
        assert is_whole(backups)


@pytest.mark.parametrize("foreign", [False, True])
def test_damaged_entries_that_a_checkpoint_replaced_are_taken_away(
    backups: Backups, source: Path, foreign: bool
) -> None:
    run_id = backups.back_up(source).run_id
    backups.back_up(source)
    replaced = [info.name for info in backups.store.list("log/")]
    assert cut_log(backups.opened(), next(_NOW))
    flip(backups, replaced[0], 60)
    assert not is_whole(backups)
    node = backups.other_node(backups.caches.parent / "other") if foreign else backups
    assert repair(node, dry_run=True).log_mended
    assert repair(node).log_mended
    assert replaced[0] not in contents(backups)
    assert replaced[1] in contents(backups)
    assert is_whole(backups)
    assert not repair(node).log_mended
    assert backups.read(run_id) == tree_of(source)


def test_an_object_that_pretends_to_be_the_last_entry_is_taken_away(backups: Backups, source: Path) -> None:
    backups.back_up(source)
    writer = backups.keys.writer.writer_id
    backups.store.put(f"log/{writer.hex()}/{10**16 - 1}", [b"x" * 200])
    with pytest.raises(DataLoss):
        backups.back_up(source)
    assert repair(backups).log_mended
    run_id = backups.back_up(source).run_id
    assert is_whole(backups)
    assert backups.read(run_id) == tree_of(source)


def test_the_log_is_not_mended_while_others_remove(backups: Backups, source: Path) -> None:
    backups.back_up(source)
    backups.back_up(source)
    repository, run_id = backups.opened(), str(uuid.uuid4())
    begin_run(repository.store, repository.index_keys, run_id, RunKind.PRUNE, writer_id=bytes(16), now_us=next(_NOW))
    flip(backups, min(info.name for info in backups.store.list("log/")), 60)
    before = contents(backups)
    with pytest.raises(Aborted) as caught:
        repair(backups)
    assert caught.value.reason is Reason.REPOSITORY_BUSY
    assert contents(backups) == before


def test_a_lost_snapshot_is_given_up_on_demand(backups: Backups, source: Path) -> None:
    first, second = backups.back_up(source).run_id, backups.back_up(source).run_id
    backups.store.delete(f"snapshots/{first}")
    with pytest.raises(DataLoss) as caught:
        backups.prune()
    assert caught.value.metadata["backup_id"] == first
    assert repair(backups).backups_given_up == 0
    with pytest.raises(DataLoss):
        backups.prune()
    assert repair(backups, lost=[first, second], dry_run=True).backups_given_up == 1
    assert repair(backups, lost=[first, second]).backups_given_up == 1
    backups.prune()
    assert is_whole(backups)
    assert backups.read(second) == tree_of(source)


def test_a_backup_whose_snapshot_is_damaged_can_be_removed(backups: Backups, source: Path) -> None:
    first, second = backups.back_up(source).run_id, backups.back_up(source).run_id
    flip(backups, f"snapshots/{first}", 50)
    report = repair(backups)
    assert [(damage.run_id, damage.whole) for damage in report.backups_damaged] == [(first, True)]
    with pytest.raises(DataLoss):
        backups.prune()
    backups.remove([first])
    backups.prune()
    assert is_whole(backups)
    assert backups.read(second) == tree_of(source)


def test_no_single_entry_of_the_log_takes_a_content_key_away(memory_path: Path, source: Path) -> None:
    """Of a sealed repository nothing but the log gives a later key to its slots."""
    phrase = "correct horse battery"
    vault = Backups(
        memory_path / "sealed", MemoryObjects(), sealed=True, slots=[NewSlot(SlotKind.KEY_FILE, phrase * 2)]
    )
    vault.back_up(source)
    begin_epoch(vault.opened(), partial(next, _NOW), keep=None)
    run_id = vault.back_up(source).run_id
    whole = contents(vault)
    cut = Backups.__new__(Backups)
    cut.__dict__ |= vault.__dict__ | {"store": MemoryObjects(whole)}
    assert cut_log(cut.opened(), next(_NOW))
    for state in (whole, contents(cut)):
        for name in (name for name in state if name.startswith("log/")):
            vault.store = MemoryObjects(state)
            flip(vault, name, 60)
            repair(vault, known={run_id: KnownBackup("source", locked=False)}, named=False)
            opened = vault.opened().unlock(phrase * 2)
            assert opened.epochs == (1, 2), name
            assert read_snapshots(vault.opened(), opened, [run_id]) == {run_id: tree_of(source)}
