from __future__ import annotations

import hashlib
import json
import pickle
import re
import struct
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast_server.errors import DataLoss, FailedPrecondition, InvalidArgument, Reason
from holdfast_server.wallets import envelope, format9
from holdfast_server.wallets.envelope import (
    CHUNK,
    HEADER_SIZE,
    ContentTag,
    KeyParameters,
    Keyring,
    StreamEncryption,
    WalletKey,
    encrypt,
    read_header,
)
from tests.unit.wallets import envelope_reader as reader

ROOT = Path(__file__).parents[3]
VECTORS = json.loads((ROOT / "tests/vectors/coin_envelope.json").read_text())
CHEAP = KeyParameters(bytes(16), 64, 1, 1)
KEY = WalletKey.derive("secret", CHEAP)
OTHER = WalletKey.derive("other", CHEAP)
SIZES = [0, 1, 439, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 7]


def pattern(size: int, step: int = 251) -> bytes:
    return (bytes(range(step)) * (size // step + 1))[:size]


def stream(content: bytes, key: WalletKey, block: int, *, tagged: bool = True) -> bytes:
    blocks = [content[at : at + block] for at in range(0, len(content), block)]
    tag = ContentTag(key)
    for part in blocks:
        tag.update(part)
    made = StreamEncryption(key, tag.size, tag.digest() if tagged else None)
    written = b"".join(made.blocks(blocks))
    assert len(written) == made.size
    return written


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["name"])
def test_vectors(vector: dict) -> None:
    parameters = KeyParameters(bytes.fromhex(vector["salt"]), vector["memory_kib"], vector["passes"], vector["lanes"])
    key = WalletKey.derive(vector["password"], parameters)
    assert key.key_id == vector["key_id"]
    if "content" in vector:
        content = bytes.fromhex(vector["content"])
        written = bytes.fromhex(vector["envelope"])
        assert encrypt(content, key) == written
    else:
        content = pattern(vector["content_size"])
        written = encrypt(content, key)
        assert hashlib.sha256(written).hexdigest() == vector["envelope_sha256"]
    assert reader.read(written, vector["password"].encode()) == content
    assert Keyring(password=vector["password"]).open(written) == content


def test_the_first_vector_has_the_parameters_of_a_new_key() -> None:
    new, first = KeyParameters.new(), VECTORS[0]
    assert (new.memory_kib, new.passes, new.lanes) == (first["memory_kib"], first["passes"], first["lanes"])
    assert KeyParameters.new().salt != new.salt


@pytest.mark.parametrize("size", SIZES)
def test_every_form_writes_what_the_other_reader_opens(size: int) -> None:
    content = pattern(size)
    written = encrypt(content, KEY)
    assert written == encrypt(content, KEY)
    assert stream(content, KEY, 300_001) == written
    untagged = stream(content, KEY, 77_777, tagged=False)
    assert len(untagged) == len(written)
    assert untagged != stream(content, KEY, 77_777, tagged=False)
    for form in (written, untagged):
        assert reader.read(form, b"secret") == content
        assert Keyring([KEY]).open(form) == content
        parts = [form[at : at + 65_537] for at in range(0, len(form), 65_537)]
        assert b"".join(Keyring([KEY]).open_blocks([b"", *parts, b""])) == content


def test_the_header_tells_size_and_key_and_is_no_coin_file() -> None:
    written = encrypt(pattern(CHUNK + 5), KEY)
    header = read_header(written)
    assert header is not None
    assert (header.key_id, header.plain_size, header.size) == (KEY.key_id, CHUNK + 5, len(written))
    assert header.parameters == CHEAP
    assert header.to_bytes() == written[:HEADER_SIZE]
    assert format9.read_header(written[:32], len(written)) is None
    assert read_header(written[: HEADER_SIZE - 1]) is None


@given(content=st.binary(max_size=2000), at=st.integers(0), bit=st.integers(0, 7))
@example(content=b"", at=0, bit=0)
def test_every_flipped_bit_is_damage_and_never_a_wrong_key(content: bytes, at: int, bit: int) -> None:
    written = bytearray(encrypt(content, KEY))
    written[at % len(written)] ^= 1 << bit
    with pytest.raises(DataLoss) as caught:
        Keyring([KEY]).open(bytes(written))
    assert caught.value.reason is Reason.CHECKSUM_MISMATCH


def test_every_bit_of_a_small_envelope_counts() -> None:
    written = encrypt(b"ten bytes.", KEY)
    keyring = Keyring([KEY], "secret")
    for bit in range(len(written) * 8):
        broken = bytearray(written)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DataLoss):
            keyring.open(bytes(broken))


@given(st.binary(max_size=200))
def test_read_header_never_raises(data: bytes) -> None:
    assert read_header(data) is None
    assert read_header(envelope.MAGIC + data) is None
    checked = envelope.MAGIC + b"\x01" + data.ljust(79, b"\0")[:79]
    read_header(checked + blake3(checked).digest()[:8])


@given(st.binary(max_size=3000), st.data())
def test_cut_and_longer_envelopes_are_damage(content: bytes, data: st.DataObject) -> None:
    written = encrypt(content, KEY)
    for broken in (written[: data.draw(st.integers(0, len(written) - 1))], written + b"\0"):
        with pytest.raises(DataLoss):
            Keyring([KEY]).open(broken)


def test_chunks_open_in_their_own_place_only() -> None:
    size = 3 * CHUNK
    head, sealed = encrypt(pattern(size), KEY)[:HEADER_SIZE], CHUNK + 16
    mine, theirs = encrypt(pattern(size), KEY), encrypt(pattern(size, 250), KEY)
    chunk = [mine[HEADER_SIZE + sealed * n :][:sealed] for n in range(3)]
    foreign = theirs[HEADER_SIZE + sealed :][:sealed]
    assert Keyring([KEY]).open(head + b"".join(chunk)) == pattern(size)
    for order in (
        [chunk[1], chunk[0], chunk[2]],
        [chunk[0], foreign, chunk[2]],
        [chunk[0], chunk[2]],
        [chunk[0], chunk[1]],
        [*chunk, chunk[2]],
    ):
        with pytest.raises(DataLoss):
            Keyring([KEY]).open(head + b"".join(order))


def test_a_shorter_size_in_the_header_does_not_cut_the_content() -> None:
    header = read_header(encrypt(pattern(2 * CHUNK), KEY))
    assert header is not None
    written = encrypt(pattern(2 * CHUNK), KEY)
    shorter = envelope.EnvelopeHeader(header.key_id, header.parameters, CHUNK, header.content_tag)
    with pytest.raises(DataLoss):
        Keyring([KEY]).open(shorter.to_bytes() + written[HEADER_SIZE : HEADER_SIZE + CHUNK + 16])


def test_a_tag_of_other_content_is_refused_by_writer_and_reader() -> None:
    tag = ContentTag(KEY)
    tag.update(b"promised")
    made = StreamEncryption(KEY, 8, tag.digest())
    given_out: list[bytes] = []
    with pytest.raises(ValueError, match="not what its tag"):
        given_out.extend(made.blocks([b"replaced"]))
    with pytest.raises(DataLoss):
        Keyring([KEY]).open(b"".join(given_out))
    # One who has the key can write such an envelope all the same.
    header = made.header.to_bytes()
    forged = header + KEY.encrypt(b"replaced", tag.digest(), 0, True, header)
    with pytest.raises(DataLoss, match="tag"):
        Keyring([KEY]).open(forged)


@pytest.mark.parametrize("content", [[b"seven.."], [b"nine", b"bytes"], []])
def test_content_of_another_length_is_not_finished(content: list[bytes]) -> None:
    with pytest.raises(ValueError, match="instead of 8"):
        list(StreamEncryption(KEY, 8, None).blocks(content))


def test_keys_missing_wrong_and_right() -> None:
    written = encrypt(b"content", KEY)
    # Keys are those of wallets that happen to be unlocked: only a password was given for this.
    for keyring, holds, reason in (
        (Keyring(), False, Reason.KEY_REQUIRED),
        (Keyring([OTHER]), True, Reason.KEY_REQUIRED),
        (Keyring(password="other"), True, Reason.KEY_WRONG),
        (Keyring([OTHER], "other"), True, Reason.KEY_WRONG),
    ):
        with pytest.raises(FailedPrecondition) as caught:
            keyring.open(written)
        assert caught.value.reason is reason
        assert bool(keyring) is holds
    assert Keyring([OTHER, KEY]).open(written) == b"content"
    assert Keyring([OTHER], "secret").open(written) == b"content"


def test_a_password_is_derived_once_for_each_set_of_parameters() -> None:
    keyring = Keyring(password="secret")
    header = read_header(encrypt(b"a", KEY))
    assert header is not None
    assert keyring.key_for(header) is keyring.key_for(header)
    other_salt = WalletKey.derive("secret", KeyParameters(b"s" * 16, 64, 1, 1))
    assert keyring.open(encrypt(b"b", other_salt)) == b"b"
    assert other_salt.key_id != KEY.key_id


def test_passwords_are_taken_as_they_are() -> None:
    texts = ["a", " a", "a ", "A", "é", "e\u0301", "a\n", "x" * 1024]
    assert len({WalletKey.derive(text, CHEAP).key_id for text in texts}) == len(texts)


@pytest.mark.parametrize("password", ["", "x" * 1025, "é" * 513, "\ud800"])
def test_what_is_no_password(password: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        WalletKey.derive(password, CHEAP)
    assert caught.value.violations[0].field == "credentials.wallet_password"


def test_texts_come_back_and_nothing_else_shows_a_key() -> None:
    keyring = Keyring([KEY, OTHER], "pass word")
    again = Keyring.from_texts(keyring.to_texts())
    assert again.to_texts() == keyring.to_texts()
    assert WalletKey.from_text(KEY.to_text()).key_id == KEY.key_id
    secret = KEY.to_text().split()[-1]
    assert secret not in repr(KEY) + repr(keyring) + str(keyring) + repr(ContentTag(KEY)) + repr(read_header(b""))
    assert "pass word" not in repr(keyring)
    for thing in (KEY, keyring):
        with pytest.raises(TypeError):
            pickle.dumps(thing)


@pytest.mark.parametrize(
    "text", ["", "hfck1", "hfck2 64 1 1 " + "00" * 16 + " " + "00" * 32, "hfck1 64 1 1 00 " + "5e" * 32]
)
def test_from_text_says_nothing_of_what_it_was_given(text: str) -> None:
    with pytest.raises(ValueError, match=r"^this is no wallet key$") as caught:
        WalletKey.from_text(text)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("memory", "passes", "lanes"),
    [((1 << 20) + 1, 1, 1), (0xFFFFFFFF, 255, 255), (64, 17, 1), (64, 0, 1), (512, 1, 17), (64, 1, 0), (31, 1, 4)],
)
def test_a_header_cannot_make_its_reader_spend_more(memory: int, passes: int, lanes: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        KeyParameters(bytes(16), memory, passes, lanes)
    fields = struct.pack("<4sBBBBI16s16sQ32s", b"HFCC", 1, 0, passes, lanes, memory, bytes(16), bytes(16), 0, bytes(32))
    hostile = fields + blake3(fields).digest()[:8] + bytes(16)
    assert read_header(hostile) is None
    with pytest.raises(DataLoss):
        Keyring(password="secret").open(hostile)


def test_the_size_in_a_header_allocates_nothing() -> None:
    header = envelope.EnvelopeHeader(KEY.key_id, CHEAP, (1 << 63) - 1, bytes(32)).to_bytes()
    with pytest.raises(DataLoss, match="cut off"):
        Keyring([KEY]).open(header + bytes(100))


def test_the_document_states_the_numbers_of_the_code() -> None:
    text = (ROOT / "docs/format.md").read_text()
    found = re.search(r"^## Coin envelope\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found
    section = re.sub(r"\s+", " ", found[1])
    assert f"| 0 | {envelope.MAGIC.hex(' ')} | `{envelope.MAGIC.decode()}` |" in section
    assert f"`{envelope.SUFFIX.decode()}` behind it" in section
    assert f"| {HEADER_SIZE} | | chunks |" in section
    assert f"chunks of {CHUNK:,} bytes" in section
    assert f"1 to {envelope.MAX_PASSWORD:,} bytes of UTF-8" in section
    assert "more than 1,048,576 KiB of memory, 16 passes or 16 lanes, and less than 8 KiB" in section
