"""Objects of a repository: what is written is read back, and whatever else lies in their place is refused or read as a
record of the right form, never anything in between."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_server.errors import DataLoss, FailedPrecondition
from holdfast_server.key_derivation import KeyParameters
from holdfast_server.repository import facts
from holdfast_server.repository.config import RepositoryConfig
from holdfast_server.repository.crypto import ContentKeys, IndexKeys, Segment, unpack
from holdfast_server.repository.format import MESSAGE_TAG, TIER_OF, ChunkType, Tier, log_name, run_name, snapshot_name
from holdfast_server.repository.keys import WriterKey
from holdfast_server.repository.lists import ListRoot
from holdfast_server.repository.log import LogHead, LogReader, LogVector, LogWriter
from holdfast_server.repository.receipt import Receipt
from holdfast_server.repository.runs import Run, RunKind
from holdfast_server.repository.slots import (
    NewSlot,
    OpenedSlot,
    Slot,
    SlotKind,
    make_slot,
    recovery_secret,
    recovery_text,
)
from holdfast_server.repository.snapshots import Snapshot, SnapshotCounts, Tombstone, decode_run_end
from holdfast_server.storage.objects import MemoryObjects

CONTENT = ContentKeys.generate()
WRITER = WriterKey.generate()
KEYS = IndexKeys(bytes(range(32)), bytes(range(16)))
OPENED = OpenedSlot(bytes(range(32)), CONTENT)

IDS = st.binary(min_size=16, max_size=16)
BYTES = st.binary(min_size=1, max_size=1)
HASHES = st.binary(min_size=32, max_size=32)
RUN_IDS = st.uuids().map(str)
TIMES = st.integers(0, (1 << 63) - 1)
SIZES = st.integers(0, (1 << 64) - 1)
TEXTS = st.text(max_size=40)
HEADS = st.builds(LogHead, st.integers(1, 10**16 - 1), HASHES)
VECTORS = st.dictionaries(IDS, HEADS, max_size=4).map(LogVector)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)

SNAPSHOTS = st.builds(
    Snapshot,
    run_id=RUN_IDS,
    name=TEXTS,
    locked=st.booleans(),
    source_id=TEXTS,
    source_kind=st.sampled_from(["WALLET", "DIRECTORY"]),
    source_display_name=TEXTS,
    create_us=TIMES,
    complete_us=TIMES,
    counts=st.builds(SnapshotCounts, *[SIZES] * 8),
    stored_size=SIZES,
    complete=st.booleans(),
    list=st.builds(ListRoot, st.integers(0, 255), HASHES, st.integers(1, 1 << 60)),
    root=HASHES,
    writer_id=IDS,
    software=TEXTS,
    wallet=st.none() | st.dictionaries(TEXTS, SIZES, max_size=3),
    retried=st.booleans(),
)
RUNS = st.builds(Run, RUN_IDS, st.sampled_from(RunKind), IDS, TIMES, TIMES)
PLAIN_FACTS = st.one_of(
    st.builds(facts.Committed, RUN_IDS),
    st.builds(facts.Renamed, RUN_IDS, TEXTS),
    st.builds(facts.Locked, RUN_IDS, st.booleans()),
    st.builds(facts.Removed, st.lists(RUN_IDS, max_size=3).map(tuple)),
    st.builds(
        facts.Condemned,
        st.lists(IDS, max_size=3).map(tuple),
        st.none() | st.lists(RUN_IDS, max_size=3).map(tuple),
        st.booleans(),
    ),
    st.builds(facts.Swept, st.lists(IDS, max_size=3).map(tuple)),
    st.builds(
        facts.KeyEpoch,
        st.integers(2, 0xFFFF_FFFF),
        BYTES.map(lambda byte: byte * 1216),
        st.dictionaries(IDS.map(bytes.hex), BYTES.map(lambda byte: byte * 1232), max_size=2),
    ),
    st.builds(facts.KeyRemoved, st.lists(IDS.map(bytes.hex), max_size=3).map(tuple)),
    st.builds(facts.Superseded, IDS, st.integers(1, facts.MAX_SEQUENCE)),
)
FACTS = PLAIN_FACTS | st.builds(
    facts.Checkpoint, st.lists(st.builds(facts.TimedFact, TIMES, PLAIN_FACTS), max_size=3).map(tuple)
)


@given(st.binary(max_size=300) | st.binary(max_size=8).map(lambda part: part * 1000), RUN_IDS)
def test_sealed_objects(content, run_id):
    sealed = KEYS.seal(run_name(run_id), content)
    assert KEYS.open(run_name(run_id), sealed) == content
    with pytest.raises(DataLoss):
        KEYS.open(snapshot_name(run_id), sealed)


@given(st.sampled_from(ChunkType), st.integers(0, (1 << 31) - 1), HASHES, st.binary(max_size=300))
def test_messages(kind, number, chunk_id, content):
    segment = Segment.new_index(KEYS)
    if TIER_OF[kind] is Tier.CONTENT:
        segment = Segment.new_content(CONTENT.public(1), KEYS.uuid)
    out = bytearray(len(content) + MESSAGE_TAG)
    segment.encrypt_into(kind, number, chunk_id, content, memoryview(out))
    assert Segment.open(segment, KEYS, CONTENT).decrypt(kind, number, chunk_id, out) == content
    with pytest.raises(DataLoss):
        segment.decrypt(kind, number ^ 1, chunk_id, out)


@given(st.integers(-5, 19), st.booleans(), TIMES, TEXTS)
def test_configs(level, sealed, create_us, software):
    config = RepositoryConfig(KEYS.uuid, create_us, sealed, level, CONTENT.public(1), software)
    assert RepositoryConfig.decode(config.encode(KEYS), KEYS) == config


@given(st.sampled_from([SlotKind.KEY_FILE, SlotKind.RECOVERY]), TEXTS, st.text(min_size=32, max_size=50), TIMES)
def test_slots(kind, label, secret, now_us):
    secret = secret.encode(errors="replace").decode()
    made = make_slot(NewSlot(kind, secret if kind is SlotKind.KEY_FILE else None, label), KEYS, OPENED, now_us)
    slot = Slot(made.name, made.content)
    assert slot.info(KEYS) == made.info
    assert made.info.display_name == label
    opened = slot.open(made.recovery_key or secret)
    assert opened is not None
    assert opened.content.to_text() == CONTENT.to_text()
    assert slot.open(secret + "!") is None


@given(HASHES, st.data())
def test_recovery_keys(secret, data):
    text = recovery_text(secret)
    typed = "".join(data.draw(st.sampled_from([letter, letter.lower(), f" {letter}", f"{letter}-"])) for letter in text)
    assert recovery_secret(typed) == secret


@given(st.integers(1, 1 << 21), st.integers(0, 20), st.integers(0, 20))
def test_parameters_are_within_what_a_reader_may_spend(memory_kib, passes, lanes):
    within = 1 <= passes <= 16 and 1 <= lanes <= 16 and 8 * lanes <= memory_kib <= 1 << 20
    try:
        KeyParameters(bytes(16), memory_kib, passes, lanes)
    except ValueError:
        assert not within
    else:
        assert within


@given(SNAPSHOTS | st.builds(Tombstone, RUN_IDS))
def test_snapshots(snapshot):
    assert decode_run_end(snapshot_name(snapshot.run_id), snapshot.encode()) == snapshot


@given(RUNS)
def test_runs(run):
    assert Run.decode(run_name(run.run_id), run.encode()) == run


@given(st.lists(st.lists(FACTS, max_size=3), min_size=1, max_size=3), VECTORS, TIMES)
def test_logs(entries, seen, now_us):
    seen = LogVector({writer: head for writer, head in seen.items() if writer != WRITER.writer_id})
    store = MemoryObjects()
    log = LogWriter(store, KEYS, WRITER, seen)
    written = [log.append(told, now_us) for told in entries]
    read = LogReader(store, KEYS).read()
    chain = read.entries[WRITER.writer_id]
    assert chain == written[-len(chain) :]
    assert len(chain) == len(written) or chain[0].is_checkpoint
    assert read.seen == seen
    superseded = read.vector.superseded
    assert set(read.vector.behind(seen)) == {w for w, head in seen.items() if head.sequence > superseded.get(w, 0)}


@given(VECTORS, VECTORS)
def test_vectors(one, other):
    assert one.behind(one) == []
    both = one.including(other)
    assert both.behind(one) == []
    assert all(both[writer].sequence >= head.sequence for writer, head in other.items())


@given(VECTORS, TIMES, st.data())
def test_receipts(vector, time_us, data):
    receipt = Receipt.sign(KEYS.uuid, vector, WRITER, time_us)
    assert receipt.is_genuine(KEYS.uuid)
    at = data.draw(st.integers(0, 63))
    signature = receipt.signature[:at] + bytes([receipt.signature[at] ^ 1]) + receipt.signature[at + 1 :]
    assert not Receipt(time_us, vector, WRITER.public, signature).is_genuine(KEYS.uuid)


@given(st.binary(max_size=600), st.integers(0, 200))
def test_no_bytes_are_read_as_an_object(content, length):
    for call in (
        lambda: RepositoryConfig.decode(b"HOLDFAST\1\0" + content, KEYS),
        lambda: Slot("keys/" + "0" * 32, b"HFKEYSLT\1\0" + content),
        lambda: KEYS.open("runs/x", content),
        lambda: LogReader(MemoryObjects({log_name(bytes(16), 1): content}), KEYS).read(),
    ):
        with pytest.raises(DataLoss):
            call()
    found = unpack(content, length)
    assert found is None or len(found) == length


@given(SNAPSHOTS, RUNS, st.data())
def test_a_value_of_another_form_is_refused_or_read_as_its_own(snapshot, run, data):
    """Whoever has the index key can put anything behind a seal: a reader answers with an error of the tree at most."""
    for record, name, decode in (
        (snapshot, snapshot_name(snapshot.run_id), decode_run_end),
        (run, run_name(run.run_id), Run.decode),
    ):
        values = json.loads(record.encode())
        target = values
        while True:
            key = data.draw(st.sampled_from(sorted(target)))
            if not isinstance(target[key], dict) or not target[key] or data.draw(st.booleans()):
                break
            target = target[key]
        target[key] = data.draw(JSON)
        try:
            found = decode(name, json.dumps(values).encode())
        except (DataLoss, FailedPrecondition):
            continue
        assert decode(name, found.encode()) == found


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_no_bytes_are_read_as_json_of_a_snapshot(head, tail):
    name = snapshot_name("0e2ad3c8-4a9b-4d0e-a9a5-4b3d6c7e8f90")
    with pytest.raises(DataLoss):
        decode_run_end(name, head + b'{"version":1' + tail)
