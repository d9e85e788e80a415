"""Every byte of a small repository changed, every object cut, deleted, moved or swapped: found, and never believed.

The quick slice changes every byte, too, but asks only the part of the check that the object is for; the soak asks the
whole check and a reader. HOLDFAST_DAMAGES is how many times packs are damaged at random.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator

import pytest

from holdfast_server.errors import FailedPrecondition, HoldfastError
from holdfast_server.repository import MaintenanceWatch, ReadingRun, Repository, RunKind, repair_repository
from holdfast_server.repository.check import CheckLevel, CheckReport, CheckWatch
from holdfast_server.repository.check_objects import (
    check_config,
    check_log,
    check_runs,
    check_slots,
    check_snapshot_object,
)
from holdfast_server.repository.check_packs import ChunkStates, PackCheck
from holdfast_server.repository.check_report import Findings
from holdfast_server.repository.format import ChunkType, log_name
from holdfast_server.repository.index import write_index
from holdfast_server.storage.objects import Buffer, MemoryObjects, ObjectInfo
from tests.small_repository import NOW, Seen, SmallRepository, check, read_all

DAMAGES = int(os.environ.get("HOLDFAST_DAMAGES", "20"))
SEED = int(os.environ.get("HOLDFAST_SEED", "0"))
FILES = {b"alone": [b"its only chunk"], b"empty": [], b"two": [b"first of two", b"second of two"]}


@pytest.fixture(scope="module")
def made() -> SmallRepository:
    """One object of each class but three log entries, two index objects, and a pack that no index object lists."""
    repository = SmallRepository(per_pack=4)
    repository.add(FILES, links={b"zwei": b"two"})
    repository.add({b"paged": [b"some", b"more"]}, paged=True, indexed=False)
    repository.begin()
    return repository


def named(made: SmallRepository, prefix: str) -> list[str]:
    return [name for name in made.store.contents() if name.startswith(prefix)]


# -- every byte -----------------------------------------------------------------------------------------------------


def flips(content: bytes) -> Iterator[bytes]:
    for at in range(len(content)):
        yield content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :]


def cuts(content: bytes) -> Iterator[bytes]:
    for length in range(len(content)):
        yield content[:length]
    yield content + b"\0"


def check_object(made: SmallRepository, name: str, content: bytes) -> CheckReport:
    """What the part of the check that `name` is for says of a store that has nothing else."""
    store, keys = MemoryObjects({name: content}), made.index_keys
    report = CheckReport(CheckLevel.CHECKSUM)
    findings = Findings(report, CheckWatch(), lambda: None)
    match name.split("/")[0]:
        case "config":
            check_config(store, made.keys, made.fingerprint, findings)
        case "keys":
            check_slots(store, keys, sealed=False, findings=findings)
        case "runs":
            check_runs(store, keys, findings)
        case "snapshots":
            check_snapshot_object(store, keys, name.split("/")[1], findings)
        case "log":
            # The chain needs the entries around it.
            others = {other: made.store.get(other) for other in named(made, "log/")}
            check_log(MemoryObjects({**others, name: content}), keys, {}, findings)
        case "index" | "packs":
            packs = PackCheck(store, keys, (), findings)
            packs.structure()
            packs.read(list(packs.sizes), None, ChunkStates(packs.index))
    assert report.objects > 0
    return report


@pytest.mark.parametrize("changes", [flips, cuts])
@pytest.mark.parametrize("kind", ["config", "keys/", "packs/", "index/", "snapshots/", "runs/", "log/"])
def test_every_byte_and_every_length_of_an_object_counts(
    made: SmallRepository, kind: str, changes: Callable[[bytes], Iterator[bytes]]
) -> None:
    name = min(named(made, kind))
    content = made.store.get(name)
    assert name not in {damage.object for damage in check_object(made, name, content).damaged}
    for changed in changes(content):
        try:
            report = check_object(made, name, changed)
        except FailedPrecondition:
            assert kind == "config"  # another repository's, or another version's
            continue
        assert name in {damage.object for damage in report.damaged}


def whole_check(made: SmallRepository, name: str, content: bytes) -> None:
    """The full check finds it, and a reader gives what was stored or an error."""
    store = MemoryObjects(made.store.contents())
    store.put(name, [content])
    try:
        report = check(made, CheckLevel.READ_DATA, store)
    except FailedPrecondition:
        assert name == "config"
    else:
        assert name in {damage.object for damage in report.damaged}
    for one in made.made:
        for path, found in read_all(made, store, one).items():
            assert isinstance(found, HoldfastError) or found == one.contents[path]


def test_whatever_is_damaged_is_found_and_never_believed(made: SmallRepository) -> None:
    randomly = random.Random(1)
    for name, content in made.store.contents().items():
        for changes in (flips, cuts):
            for changed in randomly.sample(list(changes(content)), 12):
                whole_check(made, name, changed)


@pytest.mark.soak
def test_every_byte_and_length_is_found_and_never_believed(made: SmallRepository) -> None:
    for name, content in made.store.contents().items():
        for changes in (flips, cuts):
            for changed in changes(content):
                whole_check(made, name, changed)


def test_every_deleted_object_is_missed_or_needed_by_nobody(made: SmallRepository) -> None:
    newest = max(named(made, "log/"))
    for name in made.store.contents():
        store = MemoryObjects(made.store.contents())
        store.delete(name)
        report = check(made, CheckLevel.STRUCTURE, store)
        # Slots, index objects and runs may be deleted at any time; that the newest entry of the log is gone is seen
        # by who knows of it. An unindexed pack is missed by the snapshot that needs it.
        harmless = name.startswith(("keys/", "index/", "runs/")) or name == newest
        assert report.ok == harmless, name
        if name.startswith("packs/"):
            assert report.backups_damaged
        full = check(made, CheckLevel.READ_DATA, store)
        assert full.ok == harmless, name
        if name.startswith("index/"):
            assert all(read_all(made, store, one) == one.contents for one in made.made)


def test_a_damaged_index_object_takes_no_file(made: SmallRepository) -> None:
    (name,) = named(made, "index/")
    store = MemoryObjects(made.store.contents())
    store.put(name, [store.get(name)[:-1]])
    report = check(made, CheckLevel.READ_DATA, store)
    assert [damage.object for damage in report.damaged] == [name]
    assert report.backups_damaged == []
    repository = Repository.open(store, made.keys, made.fingerprint)
    with ReadingRun(repository, RunKind.RESTORE, lambda: None, lambda: NOW) as run:
        assert list(run.index.damaged) == [name]
        for one in made.made:
            reader = run.reader(one.snapshot, made.content)
            entries = [entry for entry in reader.entries() if entry.path in one.contents]
            assert {entry.path: b"".join(reader.blocks(entry)) for entry in entries} == one.contents  # type: ignore[arg-type]


# -- objects in the wrong place -------------------------------------------------------------------------------------


def found_in(made: SmallRepository, changes: dict[str, bytes]) -> set[str]:
    store = MemoryObjects({**made.store.contents(), **changes})
    for one in made.made:
        for path, found in read_all(made, store, one).items():
            assert isinstance(found, HoldfastError) or found == one.contents[path]
    return {damage.object for damage in check(made, CheckLevel.READ_DATA, store).damaged}


def test_objects_of_another_repository_of_the_same_secret(made: SmallRepository) -> None:
    other = SmallRepository(per_pack=4, seed=1)
    other.add(FILES, links={b"zwei": b"two"})
    other.begin()
    for name, content in other.store.contents().items():
        kind = name.split("/")[0]
        if kind == "config":
            with pytest.raises(FailedPrecondition):
                found_in(made, {name: content})
            continue
        # Beside what is there: a slot of another repository is nobody's, all else is no object of this one.
        assert found_in(made, {name: content}) == (set() if kind == "keys" else {name})
        for own in named(made, f"{kind}/"):
            assert own in found_in(made, {own: content})


def test_objects_under_other_names(made: SmallRepository) -> None:
    contents = made.store.contents()
    writer = made.keys.writer.writer_id
    others = {
        "keys": "keys/" + "ab" * 16, "packs": "packs/" + "ab" * 16, "index": "index/" + "ab" * 16,
        "snapshots": "snapshots/5b4d6824-e52f-464a-bfdc-374b310cf7ff", "log": log_name(writer, 3),
        "runs": "runs/5b4d6824-e52f-464a-bfdc-374b310cf7ff",
    }  # fmt: skip
    for name, content in contents.items():
        if name != "config":
            other = others[name.split("/")[0]]
            assert found_in(made, {other: content}) == {other}
    for kind in ("packs/", "snapshots/", "log/"):
        one, two = sorted(named(made, kind))[:2]
        assert {one, two} <= found_in(made, {one: contents[two], two: contents[one]})


def test_an_old_runs_object_does_no_harm(made: SmallRepository) -> None:
    """Replayed, it only delays what may be deleted."""
    old = SmallRepository()
    name = old.begin()
    content = old.store.get(name)
    old.store.delete(name)
    old.add(FILES)
    assert found_in(old, {name: content}) == set()


def test_a_chunk_moved_within_its_pack(made: SmallRepository) -> None:
    """Messages of equal length change places: each is authentic, and in the place of the other."""
    repository = SmallRepository()
    one = repository.add({b"a": [b"content one"], b"b": [b"content two"]})
    (record,) = repository.packs.values()
    first, second = [chunk for chunk in record if chunk.raw_length == 11]
    content = bytearray(repository.store.get(record.name))
    message = content[first.offset : first.offset + first.length]
    content[first.offset : first.offset + first.length] = content[second.offset : second.offset + second.length]
    content[second.offset : second.offset + second.length] = message
    assert found_in(repository, {record.name: bytes(content)}) == {record.name}
    assert one.contents


# -- exactly what is lost -------------------------------------------------------------------------------------------


def wide_repository(seed: int) -> SmallRepository:
    """Two snapshots that share most chunks, of trees with several pages, in many packs, some chunks in two of them."""
    randomly = random.Random(seed)
    repository = SmallRepository(per_pack=randomly.randrange(3, 12), seed=seed)
    shared = [randomly.randbytes(randomly.randrange(1, 80)) for _ in range(40)]
    files = {
        b"%03d-" % number + b"n" * 150: [randomly.choice(shared) for _ in range(randomly.randrange(4))]
        for number in range(300)
    }
    links = {b"x-link-%d" % number: name for number, name in enumerate(list(files)[::50])}
    repository.add(files, links=links)
    files[b"300-changed"] = [b"what came later"]
    del files[next(iter(files))]
    repository.add(files, paged=bool(seed % 2))
    for content in randomly.sample(shared, 10):
        repository.put_chunk(ChunkType.DATA, content, again=True)
    repository.flush(indexed=False)
    return repository


def damage(made: SmallRepository, store: MemoryObjects, randomly: random.Random) -> dict[bytes, set[bytes]]:
    """Damage one to four packs; gives the chunks that cannot be read any more, by pack."""
    bad: dict[bytes, set[bytes]] = {}
    for pack_id in randomly.sample(sorted(made.packs), randomly.randrange(1, 5)):
        record = made.packs[pack_id]
        content = bytearray(store.get(record.name))
        match randomly.randrange(6):
            case 0:
                store.delete(record.name)
                bad[pack_id] = {chunk.chunk_id for chunk in record}
            case 1:
                store.put(record.name, [bytes(content[: randomly.randrange(len(content))])])
                bad[pack_id] = {chunk.chunk_id for chunk in record}
            case _:
                at = randomly.randrange(len(content))
                content[at] ^= randomly.randrange(1, 256)
                store.put(record.name, [bytes(content)])
                bad[pack_id] = {chunk.chunk_id for chunk in record if chunk.offset <= at < chunk.offset + chunk.length}
                if pack_id in made.unindexed and at >= sum(chunk.length for chunk in record):
                    # Only its directory told what it holds.
                    bad[pack_id] = {chunk.chunk_id for chunk in record}
    return bad


@pytest.mark.parametrize("seed", range(DAMAGES))
def test_exactly_what_is_lost_is_named(seed: int) -> None:
    seed += 20 * SEED
    made = wide_repository(seed % 4)
    store = MemoryObjects(made.store.contents())
    bad = damage(made, store, random.Random(1_000 + seed))
    expected, seen = made.lost(bad), Seen()
    report = check(made, CheckLevel.READ_DATA, store, watch=seen)
    # A pack that nothing lists and that is gone was never there.
    there = {info.name for info in store.list("packs/")}
    packs = {pack_id: made.packs[pack_id].name for pack_id in bad}
    assert {one.object for one in report.damaged} == {
        name for pack_id, name in packs.items() if name in there or pack_id not in made.unindexed
    }
    assert seen.all(report) == expected
    # Without content keys: the same backups and as many chunks.
    sealed = check(made, CheckLevel.CHECKSUM, store)
    counts = {run_id: lost.chunks for run_id, lost in expected.items() if lost.chunks}
    assert {one.run_id: one.chunks for one in sealed.backups_damaged} == counts
    # What is not named comes back as it was, what is named does not.
    for one in made.made:
        lost = expected.get(one.snapshot.run_id)
        for path, found in read_all(made, store, one).items():
            assert (found == one.contents[path]) != (lost is not None and (lost.whole or path in lost.files))
    # A repair takes nothing from anybody, and finds what is whole in a pack that was cut.
    opened = Repository.open(store, made.keys, made.fingerprint)
    repaired = repair_repository(opened, now=lambda: NOW, watch=MaintenanceWatch(), content=made.keys.content)
    assert repaired.damaged == report.damaged
    seen = Seen()
    report = check(made, CheckLevel.READ_DATA, store, watch=seen)
    left = {info.name for info in store.list("packs/")}
    assert {one.object for one in report.damaged} <= left & {made.packs[pack_id].name for pack_id in bad}
    still = seen.all(report)
    assert still.keys() <= expected.keys()
    for one in made.made:
        run_id = one.snapshot.run_id
        lost, before = still.get(run_id), expected.get(run_id)
        for path, found in read_all(made, store, one).items():
            is_lost = lost is not None and (lost.whole or path in lost.files)
            assert (found == one.contents[path]) != is_lost
            # What had lost its name may have found that alone.
            assert not is_lost or (before is not None and (before.whole or before.unnamed or path in before.files))


# -- no false alarm -------------------------------------------------------------------------------------------------


class Busy(MemoryObjects):
    """A store in which something happens before the call number `at`."""

    def __init__(self, made: SmallRepository, at: int, happens: Callable[[SmallRepository], None]) -> None:
        self._made = made
        self._at = at
        self._happens = happens
        self.calls = 0

    def _count(self) -> MemoryObjects:
        self.calls += 1
        if self.calls == self._at:
            self._happens(self._made)
        return self._made.store

    def put(self, name: str, parts: object) -> None:
        self._count().put(name, parts)  # type: ignore[arg-type]

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        return self._count().get(name, offset, length)

    def size(self, name: str) -> int:
        return self._count().size(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._count().list(prefix)

    def delete(self, name: str) -> None:
        self._count().delete(name)

    def create_if_absent(self, name: str, content: Buffer) -> bool:
        return self._count().create_if_absent(name, bytes(content))


def another_backup(made: SmallRepository) -> None:
    made.add({**FILES, b"new": [b"new content"]})


def a_backup_under_way(made: SmallRepository) -> None:
    made.begin(RunKind.BACKUP)
    made.put_chunk(ChunkType.DATA, b"of a snapshot that is not committed yet")
    made.flush(indexed=False)


def a_removal(made: SmallRepository) -> None:
    made.remove(made.made[0])


def merged_indexes(made: SmallRepository) -> None:
    old = named(made, "index/")
    write_index(made.store, made.index_keys, made.packs.values())
    for name in old:
        made.store.delete(name)


@pytest.mark.parametrize("happens", [another_backup, a_backup_under_way, a_removal, merged_indexes])
@pytest.mark.parametrize("level", [CheckLevel.STRUCTURE, CheckLevel.READ_DATA])
def test_what_comes_and_goes_meanwhile_is_no_damage(
    level: CheckLevel, happens: Callable[[SmallRepository], None]
) -> None:
    at = 1
    while True:
        made = SmallRepository(per_pack=3)
        made.add(FILES)
        made.add({b"other": [b"other content"]}, indexed=False)
        busy = Busy(made, at, happens)
        report = check(made, level, busy)
        assert report.ok, (at, report)
        if busy.calls < at:
            assert at > 20
            return
        at += 1
