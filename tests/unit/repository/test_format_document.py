"""docs/format.md states the names, numbers and keys that the code uses for keys, objects and the log."""

from __future__ import annotations

import json
import re
from pathlib import Path

from holdfast_server import key_derivation
from holdfast_server.key_derivation import KeyParameters
from holdfast_server.repository import (
    config,
    content_keys,
    crypto,
    facts,
    format,  # noqa: A004
    key_changes,
    log,
    receipt,
    recovery_keys,
    slots,
)
from holdfast_server.repository.crypto import Segment
from holdfast_server.repository.format import ChunkType, Tier
from holdfast_server.repository.keys import WriterKey
from holdfast_server.repository.recovery_keys import recovery_text
from holdfast_server.repository.runs import Run, RunKind
from holdfast_server.repository.slots import NewSlot, OpenedSlot, SlotKind, make_slot
from holdfast_server.repository.snapshots import Tombstone
from holdfast_server.storage.object_names import FLAT_CLASSES, MAX_CREATED
from holdfast_server.storage.objects import MemoryObjects
from tests.unit.repository.samples import CONTENT, INDEX_KEY, KEYS, NOW, RUN
from tests.unit.repository.test_config import OBJECT
from tests.unit.repository.test_log import FACTS
from tests.unit.repository.test_snapshots import SNAPSHOT

WHOLE = (Path(__file__).parents[3] / "docs" / "format.md").read_text()
TEXT = WHOLE[WHOLE.index("\n## Repository\n") :]


def section(title: str) -> str:
    found = re.search(rf"^### {re.escape(title)}\n(.*?)(?=^##|\Z)", TEXT, re.DOTALL | re.MULTILINE)
    assert found, title
    return found[1]


def rows(title: str) -> list[list[str]]:
    """The cells of the tables of a section, without heads and lines."""
    lines = re.findall(r"^\| (.*) \|$", section(title), re.MULTILINE)
    return [[cell.strip() for cell in line.split(" | ")] for line in lines]


def keys_of(title: str) -> set[str]:
    return {key for row in rows(title) for key in re.findall(r"`(\w+)`", row[0])}


def test_keys_and_their_contexts() -> None:
    text = section("Keys")
    assert f"A private key is {format.PRIVATE_KEY} bytes: seed of ML-KEM-768 ({content_keys._KEM_SEED})" in text
    assert f"A public key is {format.PUBLIC_KEY:,} bytes" in text
    assert f"encapsulation key ({content_keys._KEM_PUBLIC:,})" in text
    contexts = crypto.CONTEXT_CONFIG, crypto.CONTEXT_CHUNK_ID, crypto.CONTEXT_SMALL, crypto.CONTEXT_CHECK
    for context in (*contexts, crypto.CONTEXT_SLOT):
        assert f'| "{context.decode()}"' in text
    primitives = TEXT[: TEXT.index("### Keys")]
    assert "empty AAD: KEM MLKEM768-X25519 (draft-ietf-hpke-pq), HKDF-SHA256, AES-256-GCM" in primitives
    assert f"{content_keys.HPKE_OVERHEAD:,} bytes more than `m`" in primitives
    assert f"the tag of {format.MESSAGE_TAG} bytes follows" in primitives


def test_objects() -> None:
    text = section("Objects")
    classes = {row[1].split("`")[1].rstrip("/") for row in rows("Objects") if len(row) == 4 and "`" in row[1]}
    assert classes == {format.CONFIG_NAME, "log", *FLAT_CLASSES}
    assert f'"{crypto.CONTEXT_OBJECT.decode()}" ‖ uuid ‖ name' in text
    assert format.OBJECT_CONTENT_MAX == 64 << 20
    assert format.SEALED_OBJECT_MAX == 32 << 20
    assert "at most\n64 MiB, the object at most 32 MiB" in text
    assert MAX_CREATED == 1 << 20
    assert "create an object of at most 1 MiB" in text
    assert len(format.log_name(bytes(16), 7).split("/")[2]) == 16
    assert "A sequence is 16 decimal digits" in text
    assert (crypto._RAW, crypto._ZSTD) == (0, 1)
    assert "as it is (form 0) or as a zstd frame (form 1)" in text


def test_config() -> None:
    text = section("config")
    assert f'| 0 | 8 | "{config.MAGIC.decode()}" |' in text
    assert f"version, {format.FORMAT_VERSION} |" in text
    assert f"at most {config.JSON_MAX:,} |" in text
    assert f"| {config.HEAD.size} | *n* | JSON object |" in text
    assert f"\N{MINUS SIGN}{-config.MIN_LEVEL} to {config.MAX_LEVEL} |" in text
    values = json.loads(OBJECT[config.HEAD.size : -32])
    assert keys_of("config") == set(values)
    assert set(values["content_key"]) == {"epoch", "public"}
    assert f"`epoch` {config.FIRST_EPOCH}, `public` (Base64)" in text


def test_key_slots() -> None:
    text = section("Key slots")
    assert f'| 0 | 8 | "{slots.MAGIC.decode()}" |' in text
    names = {SlotKind.PASSPHRASE: "passphrase", SlotKind.KEY_FILE: "key file", SlotKind.RECOVERY: "recovery key"}
    assert "kind: " + ", ".join(f"{slots._NUMBER_OF[kind]} {name}" for kind, name in names.items()) in text
    assert slots.HEADER_MAX == 1 << 20
    assert "of the header, at most 1 MiB" in text
    assert f"| {slots.HEAD.size} + *n* | {slots.WRAPPED} |" in text
    assert f"| {slots.HEAD.size + slots.WRAPPED} + *n* | 32 |" in text
    made = make_slot(NewSlot(SlotKind.KEY_FILE, "x" * 32), KEYS, OpenedSlot(INDEX_KEY, CONTENT), NOW)
    header = json.loads(made.content[slots.HEAD.size : -slots.WRAPPED - 32])
    of_kdf = {"name", "argon2id", "memory_kib", "passes", "lanes", "salt"}
    assert keys_of("Key slots") == set(header)
    assert all(f"`{key}`" in text for key in of_kdf)
    for context in (slots.CONTEXT_CONTENT_KEY, slots.CONTEXT_KEY_FILE, slots.CONTEXT_RECOVERY):
        assert f'"{context.decode()}" ‖ uuid' in text
    assert f'"{recovery_keys.CONTEXT_RECOVERY_CHECK.decode()}" ‖ those' in text
    assert f"first {recovery_keys.RECOVERY_CHECK} bytes of" in text
    shown = recovery_text(bytes(32))
    assert f"`{shown[:6]}`, then {len(shown[6:].replace('-', ''))} characters of Base32" in text
    assert f"in NFC, at most {slots.MAX_PASSPHRASE:,} bytes" in text
    assert f"key file, {slots.MIN_KEY_FILE} to {slots.MAX_KEY_FILE:,} bytes" in text
    assert f"UTF-8 of at most {slots.LABEL_MAX} bytes" in text


def test_epochs() -> None:
    text = section("Epochs")
    assert f"at most {key_changes.MAX_SLOTS} slots and {key_changes.MAX_EPOCHS} epochs" in text
    name = format.epoch_claim_name(7)
    assert (name[:11], len(name[11:]), int(name[11:])) == ("keys/epoch-", 10, 7)
    assert "`keys/epoch-…`" in text
    assert "an epoch in a name 10" in section("Objects")


def test_the_cost_of_a_passphrase() -> None:
    text = section("Key slots")
    lane, memory = key_derivation._MIN_LANE_KIB, key_derivation.MAX_MEMORY_KIB
    assert f"`memory_kib` outside {lane} \N{MULTIPLICATION SIGN} `lanes` … {memory:,}" in text
    assert f"`passes` outside 1 … {key_derivation.MAX_PASSES}, `lanes` outside 1 … {key_derivation.MAX_LANES}" in text
    new = KeyParameters.new()
    assert f"New slots use {new.memory_kib:,} KiB, {new.passes} passes, {new.lanes} lanes" in text
    assert f"`salt` (Base64, {key_derivation.SALT_SIZE} bytes)" in text


def test_segments_and_messages() -> None:
    text = section("Packs")
    assert f'"{crypto.CONTEXT_PACK.decode()}" ‖ uuid ‖ pack id (16 bytes)' in text
    assert f'"{content_keys.CONTEXT_SEGMENT.decode()}" ‖ uuid ‖ segment id ‖ u32 epoch' in text
    assert f'"{crypto.CONTEXT_LIST_SEGMENT.decode()}" ‖ uuid' in text
    assert f"data key)`, {format.SEALED_SEGMENT_KEY:,} bytes" in text
    sealed = Segment.new_content(CONTENT.public(1), KEYS.uuid).sealed
    assert format.SEALED_SEGMENT_KEY == 32 + content_keys.HPKE_OVERHEAD == len(sealed)
    assert f'aad = "{crypto.MESSAGE_MAGIC.decode()}" ‖ u8 type ‖ uuid ‖ segment id ‖ u32 i ‖ chunk id' in text
    assert crypto.SEGMENT_MESSAGES == 1 << 31
    assert "at most\n2^31 messages" in text
    assert [(row[0].split(",")[0]) for row in rows("Packs") if row[0].startswith(("1,", "2,"))] == [
        str(int(tier)) for tier in Tier
    ]


def test_chunk_types_and_tiers() -> None:
    stated = {row[0]: row[-1] for row in rows("Chunks") if row[0].isdigit()}
    assert stated == {str(int(kind)): format.TIER_OF[kind].name.lower() for kind in ChunkType}
    assert f"({format.CHUNK_MAX:,} bytes)" in section("Chunks")


def test_snapshots_and_runs() -> None:
    values = json.loads(SNAPSHOT.encode())
    assert keys_of("Snapshots") == set(values)
    text = section("Snapshots")
    assert all(f"`{key}`" in text for part in ("source", "counts") for key in values[part])
    assert all(f'"{key}"' in text for key in values["list"])
    assert f"`{values['state']}`, or `{json.loads(Tombstone(RUN).encode())['state']}`" in text
    run = section("Runs")
    assert set(re.findall(r"`([a-z_]+)`", run)) == set(json.loads(Run(RUN, RunKind.CHECK, bytes(16), 1, 1).encode()))
    assert re.findall(r"`([A-Z]+)`", run) == [kind.value for kind in RunKind]


def test_the_log() -> None:
    text = section("Log")
    assert f'"{log.CONTEXT_LOG.decode()}" ‖ uuid ‖ JSON' in text
    assert f'"{receipt.CONTEXT_RECEIPT.decode()}" ‖ uuid ‖ u64 time in microseconds' in text
    store = MemoryObjects()
    entry = log.LogWriter(store, KEYS, WriterKey.generate(), {}).append(FACTS, NOW)
    content = KEYS.open(entry.name, store.get(entry.name))
    values = json.loads(content[4:-64])
    tables = rows("Log")
    split = next(at for at, row in enumerate(tables) if row[0] == "type")
    assert {key for row in tables[:split] for key in re.findall(r"`(\w+)`", row[0])} == set(values)
    stated = {
        name: set(re.findall(r"`(\w+)`", row[1].partition(":")[0]))
        for row in tables[split:]
        for name in re.findall(r"`(\w+)`", row[0])
    }
    assert set(stated) == set(facts._DECODERS)
    for fact in values["facts"]:
        assert set(fact) - {"type"} <= stated[fact["type"]], fact["type"]
