"""The log: whole chains are read, and gaps, forks, forgeries and going back are told."""

from __future__ import annotations

import json
import struct
import threading

import pytest
from blake3 import blake3

from holdfast_server.errors import Reason
from holdfast_server.repository.crypto import IndexKeys
from holdfast_server.repository.facts import (
    Checkpoint,
    Committed,
    Condemned,
    Fact,
    KeyEpoch,
    KeyRemoved,
    Locked,
    Removed,
    Renamed,
    Superseded,
    Swept,
    TimedFact,
)
from holdfast_server.repository.format import log_name
from holdfast_server.repository.keys import WriterKey
from holdfast_server.repository.log import Log, LogEntry, LogHead, LogReader, LogVector, LogWriter
from holdfast_server.repository.receipt import Receipt
from holdfast_server.storage.objects import MemoryObjects
from tests.unit.repository.samples import (
    CONTENT,
    INDEX_KEY,
    KEYS,
    NOW,
    OTHER_RUN,
    OTHER_UUID,
    RUN,
    UUID,
    cuts,
    flips,
    refused,
)

A, B = WriterKey.generate(), WriterKey.generate()
FACTS: tuple[Fact, ...] = (
    Committed(RUN),
    Renamed(RUN, "new name ü"),
    Locked(RUN, locked=True),
    Removed((RUN, OTHER_RUN)),
    Condemned((bytes(16), bytes(range(16)))),
    Swept((bytes(16),)),
    KeyEpoch(2, CONTENT.public(1).raw, {"0" * 32: bytes(1232)}),
    KeyRemoved(("0" * 32,)),
    Superseded(bytes(16), 7),
    Condemned((bytes(16),), (RUN,)),
    Checkpoint((TimedFact(5, Committed(RUN)), TimedFact(6, Swept((bytes(16),))))),
)


def read(store: MemoryObjects, after: LogVector | None = None) -> Log:
    return LogReader(store, KEYS).read(after)


def written(store: MemoryObjects, writer: WriterKey, *facts: Fact, vector: LogVector | None = None) -> LogEntry:
    known = read(store).vector if vector is None else vector
    return LogWriter(store, KEYS, writer, known).append(facts or [Committed(RUN)], NOW)


def chain(length: int) -> MemoryObjects:
    store = MemoryObjects()
    log = LogWriter(store, KEYS, A, {})
    for _ in range(length):
        log.append([Committed(RUN)], NOW)
    return store


def name(sequence: int, writer: WriterKey = A) -> str:
    return log_name(writer.writer_id, sequence)


def test_every_fact_is_read_as_it_was_written() -> None:
    store = MemoryObjects()
    entry = written(store, A, *FACTS)
    log = read(store)
    kept = [fact for fact in FACTS if not isinstance(fact, Checkpoint)]
    assert list(log.facts()) == [(entry, fact) for fact in (Committed(RUN), Swept((bytes(16),)), *kept)]
    assert log.entries[A.writer_id][0].facts == FACTS
    assert log.entries[A.writer_id] == [entry]
    assert log.vector == {A.writer_id: LogHead(1, entry.hash)}
    assert entry.is_checkpoint
    assert LogReader(store, KEYS).heads() == log.vector


def test_an_entry_is_that_of_the_format() -> None:
    store = chain(2)
    content = KEYS.open(name(2), store.get(name(2)))
    (length,) = struct.unpack_from("<I", content)
    text, signature = content[4 : 4 + length], content[4 + length :]
    A._key.public_key().verify(signature, b"holdfast repository 1 log" + UUID + text)
    values = json.loads(text)
    assert values["previous"] == blake3(store.get(name(1))).hexdigest()
    assert values["public_key"] == A.public.hex()
    assert values["writer"] == blake3(A.public).hexdigest()[:32]
    assert set(values) == {"version", "writer", "sequence", "time", "public_key", "previous", "seen", "facts"}


def test_writers_see_each_other() -> None:
    store = MemoryObjects()
    first, second = written(store, A), written(store, B)
    third = written(store, A)
    assert second.seen == {A.writer_id: first.head}
    assert third.seen == {B.writer_id: second.head}
    log = read(store)
    assert log.vector == {A.writer_id: third.head, B.writer_id: second.head}
    assert log.seen == {A.writer_id: first.head, B.writer_id: second.head}
    assert log.vector.behind(log.seen) == []


def test_every_flip_and_every_cut_is_found() -> None:
    store = chain(1)
    for content in (*flips(store.get(name(1))), *cuts(store.get(name(1)))):
        error = refused(lambda content=content: read(MemoryObjects({name(1): content})))
        assert name(1) in error.message


def test_what_is_inside_the_seal_is_signed() -> None:
    """Whoever has the index key cannot speak for a writer."""
    content = KEYS.open(name(1), chain(1).get(name(1)))
    version = content.index(b'"version":1') + len(b'"version":')
    for changed in (*flips(content), *cuts(content)):
        other = changed[version : version + 1].isdigit() and changed[version : version + 1] != b"1"
        reason = Reason.FORMAT_UNSUPPORTED if other else Reason.CHECKSUM_MISMATCH
        refused(lambda changed=changed: read(MemoryObjects({name(1): KEYS.seal(name(1), changed)})), reason)


def test_a_gap_is_named() -> None:
    for missing in (1, 2, 3):
        store = chain(4)
        store.delete(name(missing))
        assert name(missing) in refused(lambda store=store: read(store)).message
    store = chain(4)
    store.delete(name(4))
    assert read(store).vector[A.writer_id].sequence == 3


def test_an_entry_under_another_number_or_writer_is_refused() -> None:
    store = chain(3)
    store.put(name(2), [store.get(name(3))])
    refused(lambda: read(store))
    content = KEYS.open(name(1), store.get(name(1)))
    for other in (name(2), name(1, B)):
        refused(lambda other=other: read(MemoryObjects({other: KEYS.seal(other, content)})))
    refused(lambda: LogReader(chain(1), IndexKeys(INDEX_KEY, OTHER_UUID)).read())


def test_a_chain_of_two_histories_is_refused() -> None:
    """Two nodes with one key, or a store that showed each a state of its own."""
    one, other = chain(3), chain(3)
    one.put(name(2), [other.get(name(2))])
    assert name(2) in refused(lambda: read(one)).message


def test_what_another_writer_saw_must_be_there() -> None:
    one, other = chain(2), chain(2)
    told = written(one, B)
    spliced = other.contents() | {told.name: one.get(told.name)}
    error = refused(lambda: read(MemoryObjects(spliced)))
    assert name(2) in error.message


def test_going_back_is_told_by_whoever_has_seen_more() -> None:
    store = chain(3)
    written(store, B)
    seen = read(store).vector
    assert read(store).vector.behind(seen) == []
    store.delete(name(3))
    log = read(store)
    assert log.vector.behind(seen) == [A.writer_id]
    assert log.vector.behind(log.seen) == [A.writer_id]
    assert seen.behind(log.vector) == []
    # A reader that goes on from what it knew is not fooled either.
    assert read(store, seen).vector.behind(seen) == [A.writer_id]
    for gone in list(store.contents()):
        store.delete(gone)
    assert set(read(store, seen).vector.behind(seen)) == {A.writer_id, B.writer_id}


def test_another_entry_of_the_same_number_is_told() -> None:
    seen = read(chain(2)).vector
    other = chain(2)
    assert read(other).vector.behind(seen) == [A.writer_id]
    refused(lambda: read(other, seen))
    refused(lambda: read(chain(3), seen))


def test_reading_goes_on_where_it_ended() -> None:
    store = chain(2)
    seen = read(store).vector
    assert read(store, seen).entries == {A.writer_id: []}
    assert read(store, seen).vector == seen
    entry = written(store, A)
    log = read(store, seen)
    assert log.entries == {A.writer_id: [entry]}
    assert log.vector == {A.writer_id: entry.head}


def test_what_lies_before_a_checkpoint_may_be_gone() -> None:
    store = chain(3)
    old = read(store).vector
    checkpoint = written(store, A, Checkpoint(()))
    last = written(store, A)
    for missing in (1, 2, 3):
        store.delete(name(missing))
        assert read(store).entries == {A.writer_id: [checkpoint, last]}
    assert read(store, old).vector == {A.writer_id: last.head}
    store.delete(checkpoint.name)
    refused(lambda: read(store))


def writer_at(store: MemoryObjects, key: WriterKey = A) -> LogWriter:
    return LogWriter(store, KEYS, key, LogReader(store, KEYS).salvage().vector)


def test_a_checkpoint_removes_what_lies_before_it() -> None:
    store = chain(5)
    entry = writer_at(store).append_checkpoint(Checkpoint((TimedFact(1, Committed(RUN)),)), NOW)
    assert entry is not None
    assert entry.sequence == 6
    assert [info.name for info in store.list("log/")] == [entry.name]
    assert [fact for _, fact in read(store).facts()] == [Committed(RUN)]


def test_a_checkpoint_of_what_has_changed_since_is_not_written() -> None:
    store = chain(2)
    writer = writer_at(store)
    other = written(store, A, Committed(OTHER_RUN))
    before = store.contents()
    assert writer.append_checkpoint(Checkpoint(()), NOW) is None
    assert store.contents() == before
    assert writer.append([Committed(RUN)], NOW).previous == other.hash


def test_an_entry_added_before_a_checkpoint_of_another_process_counts() -> None:
    """Its number is free again, because what lay there was deleted: it must not be lost behind the checkpoint."""
    store = chain(2)
    late = writer_at(store)
    writer_at(store).append([Locked(RUN, locked=True)], NOW)
    assert writer_at(store).append_checkpoint(Checkpoint(()), NOW) is not None
    entry = late._append_next([Committed(OTHER_RUN)], NOW)
    assert entry is None
    assert name(3) in store.contents()
    entry = late.append([Committed(OTHER_RUN)], NOW)
    assert entry.sequence == 5
    assert [fact for _, fact in read(store).facts()] == [Committed(OTHER_RUN)]


def test_a_writer_whose_newest_entry_is_gone_does_not_go_on() -> None:
    store = chain(3)
    writer = writer_at(store)
    store.delete(name(3))
    refused(lambda: writer.append([Committed(RUN)], NOW))


def test_reading_goes_on_when_a_checkpoint_comes_meanwhile() -> None:
    store = chain(3)

    class Cutting(MemoryObjects):
        cut = False

        def get(self, wanted: str, offset: int = 0, length: int | None = None) -> bytes:
            if wanted == name(2) and not self.cut:
                self.cut = True
                assert writer_at(self).append_checkpoint(Checkpoint((TimedFact(1, Committed(RUN)),)), NOW)
            return super().get(wanted, offset, length)

    cutting = Cutting(store.contents())
    assert [fact for _, fact in read(cutting).facts()] == [Committed(RUN)]
    assert cutting.cut


def test_a_broken_chain_counts_no_more_once_it_is_superseded() -> None:
    store = chain(3)
    store.put(name(2), [b"x" * 200])
    refused(lambda: read(store))
    assert list(LogReader(store, KEYS).salvage().broken) == [A.writer_id]
    writer_at(store, B).append([Superseded(A.writer_id, 1)], NOW)
    refused(lambda: read(store))
    writer_at(store, B).append([Superseded(A.writer_id, 2)], NOW)
    assert [entry.sequence for entry in read(store).entries[A.writer_id]] == [3]
    store.put(name(3), [b"x" * 200])
    refused(lambda: read(store))
    writer_at(store, B).append([Superseded(A.writer_id, 3)], NOW)
    assert read(store).vector[A.writer_id].sequence == 3
    assert LogReader(store, KEYS).heads()[A.writer_id].sequence == 3


def test_facts_count_in_the_order_of_their_times() -> None:
    store = MemoryObjects()
    LogWriter(store, KEYS, A, {}).append([Locked(RUN, locked=True)], NOW + 5)
    LogWriter(store, KEYS, B, {}).append([Locked(RUN, locked=False)], NOW)
    assert [fact for _, fact in read(store).facts()] == [Locked(RUN, locked=False), Locked(RUN, locked=True)]


def test_other_names_are_ignored() -> None:
    store = chain(1)
    store.put("log/abc/1", [b""])
    store.put(f"log/{A.writer_id.hex()}/{0:016d}", [b""])
    assert read(store).vector[A.writer_id].sequence == 1


def test_processes_of_one_node_append_to_one_chain() -> None:
    store = MemoryObjects()

    def append() -> None:
        log = LogWriter(store, KEYS, A, {})
        for _ in range(5):
            log.append([Committed(RUN)], NOW)

    threads = [threading.Thread(target=append) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [entry.sequence for entry in read(store).entries[A.writer_id]] == list(range(1, 16))


def test_a_writer_does_not_go_on_from_another_history() -> None:
    vector = read(chain(2)).vector
    refused(lambda: LogWriter(chain(3), KEYS, A, vector).append([Committed(RUN)], NOW))


@pytest.mark.parametrize(
    "change",
    [
        {"facts": [{"type": "unknown"}]},
        {"facts": [{}]},
        {"facts": {}},
        {"facts": [{"type": "committed", "run_id": "x"}]},
        {"facts": [{"type": "removed", "run_ids": [1]}]},
        {"facts": [{"type": "condemned", "packs": ["00"]}]},
        {"facts": [{"type": "locked", "run_id": RUN, "locked": 1}]},
        {"facts": [{"type": "key_epoch", "epoch": 1, "public": "", "sealed": {}}]},
        {"facts": [{"type": "checkpoint", "state": 1}]},
        {"facts": [{"type": "checkpoint", "state": {"facts": [{"type": "committed", "run_id": RUN}]}}]},
        {"facts": [{"type": "key_removed", "slot_ids": ["x"]}]},
        {"facts": [{"type": "superseded", "writer": "x", "sequence": 1}]},
        {"facts": [{"type": "superseded", "writer": "0" * 32, "sequence": 0}]},
        {"facts": [{"type": "condemned", "packs": [], "runs": ["x"]}]},
        {"previous": "00" * 32},
        {"sequence": 0},
        {"sequence": 2},
        {"seen": {"x": {}}},
        {"seen": {"0" * 32: {"sequence": 0, "hash": "00" * 32}}},
        {"seen": {A.writer_id.hex(): {"sequence": 1, "hash": "00" * 32}}},
        {"time": -1},
        {"writer": "0" * 32},
        {"public_key": B.public.hex()},
    ],
)
def test_malformed_entries_are_refused_though_signed(change: dict[str, object]) -> None:
    refused(lambda: read(MemoryObjects({name(1): resigned(change)})))


def test_another_version_is_refused_as_such() -> None:
    refused(lambda: read(MemoryObjects({name(1): resigned({"version": 2})})), Reason.FORMAT_UNSUPPORTED)
    assert read(MemoryObjects({name(1): resigned({"later": 2})})).vector[A.writer_id].sequence == 1


def resigned(change: dict[str, object]) -> bytes:
    content = KEYS.open(name(1), chain(1).get(name(1)))
    text = json.dumps(json.loads(content[4:-64]) | change).encode()
    signature = A.sign(b"holdfast repository 1 log" + UUID + text)
    return KEYS.seal(name(1), struct.pack("<I", len(text)) + text + signature)


def test_a_receipt_holds_for_what_it_says_alone() -> None:
    store = chain(2)
    written(store, B)
    vector = read(store).vector
    receipt = Receipt.sign(UUID, vector, A, NOW)
    assert receipt.is_genuine(UUID)
    heads = b"".join(writer + struct.pack("<Q", head.sequence) + head.hash for writer, head in sorted(vector.items()))
    message = b"holdfast repository 1 receipt" + UUID + struct.pack("<Q", NOW) + heads
    A._key.public_key().verify(receipt.signature, message)
    assert not receipt.is_genuine(OTHER_UUID)
    assert not Receipt(NOW + 1, vector, A.public, receipt.signature).is_genuine(UUID)
    assert not Receipt(NOW, vector, B.public, receipt.signature).is_genuine(UUID)
    older = LogVector(vector) | {A.writer_id: LogHead(1, bytes(32))}
    assert not Receipt(NOW, LogVector(older), A.public, receipt.signature).is_genuine(UUID)


def test_vectors_are_joined_by_the_newer_entry() -> None:
    one = LogVector({b"a": LogHead(2, b"x"), b"b": LogHead(1, b"y")})
    other = LogVector({b"a": LogHead(1, b"z"), b"c": LogHead(3, b"w")})
    assert one.including(other) == {b"a": LogHead(2, b"x"), b"b": LogHead(1, b"y"), b"c": LogHead(3, b"w")}
