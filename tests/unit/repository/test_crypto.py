"""Keys, sealed objects, segments: what does not open must be told, and no key may be shown."""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass

import pytest
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from holdfast_server.errors import DataLoss, FailedPrecondition, HoldfastError, Reason
from holdfast_server.repository import content_keys, crypto
from holdfast_server.repository.content_keys import HPKE_OVERHEAD, hpke_open, hpke_seal
from holdfast_server.repository.crypto import ContentKeys, ContentPublicKey, IndexKeys, Segment, unpack
from holdfast_server.repository.format import MESSAGE_TAG, SEALED_SEGMENT_KEY, ChunkType, Tier
from tests.unit.repository.samples import cuts, flips

UUID, OTHER = bytes(range(16)), bytes(range(1, 17))
INDEX_KEY = bytes(range(32))
NAME = "snapshots/0e2ad3c8-4a9b-4d0e-a9a5-4b3d6c7e8f90"


@pytest.fixture(scope="module")
def keys() -> IndexKeys:
    return IndexKeys(INDEX_KEY, UUID)


@pytest.fixture(scope="module")
def content_keys_() -> ContentKeys:
    return ContentKeys.generate()


def kdf(salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(INDEX_KEY)


def refused(call: object, *args: object) -> DataLoss:
    with pytest.raises(DataLoss) as caught:
        call(*args)  # type: ignore[operator]
    assert caught.value.reason is Reason.CHECKSUM_MISMATCH
    return caught.value


def test_derivations_are_those_of_the_format(keys: IndexKeys) -> None:
    for kind in ChunkType:
        key = kdf(UUID, b"holdfast repository 1 chunk id " + bytes([kind]))
        assert keys.chunk_id(kind, b"content") == blake3(b"content", key=key).digest()
    assert keys.config == kdf(UUID, b"holdfast repository 1 config")
    small = blake3(b"content", key=kdf(UUID, b"holdfast repository 1 small file")).digest()
    assert keys.small_digest(memoryview(b"content")) == small[:16]
    check = blake3(b"content", key=kdf(UUID, b"holdfast repository 1 check")).digest()
    assert keys.check_of(bytearray(b"content")) == check[:16]
    pack_id, salt = bytes(16), bytes(32)
    assert keys.pack_key(pack_id, salt) == kdf(salt, b"holdfast repository 1 pack" + UUID + pack_id)


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 10_000, bytes(range(256))])
def test_a_sealed_object_is_that_of_the_format(keys: IndexKeys, content: bytes) -> None:
    sealed = keys.seal(NAME, content)
    key = kdf(sealed[:32], b"holdfast repository 1 object " + UUID + NAME.encode())
    plain = AESGCM(key).decrypt(bytes(12), sealed[32:], b"")
    form, length = struct.unpack_from("<BI", plain)
    assert length == len(content)
    stored = plain[5:]
    assert (zstandard.ZstdDecompressor().decompress(stored) if form else stored) == content
    assert form == (len(content) == 10_000)
    assert keys.open(NAME, sealed) == content
    assert keys.seal(NAME, content) != sealed


def test_every_flip_and_every_cut_of_a_sealed_object_is_found(keys: IndexKeys) -> None:
    sealed = keys.seal(NAME, b"x" * 200)
    for at in range(len(sealed)):
        for bit in (1, 128):
            refused(keys.open, NAME, sealed[:at] + bytes([sealed[at] ^ bit]) + sealed[at + 1 :])
        refused(keys.open, NAME, sealed[:at])
    refused(keys.open, NAME, sealed + b"\0")


def test_an_object_opens_under_its_own_name_and_repository_alone(keys: IndexKeys) -> None:
    sealed = keys.seal(NAME, b"content")
    for name in ("runs/" + NAME.split("/")[1], NAME[:-1] + "1", ""):
        assert name in refused(keys.open, name, sealed).message
    refused(IndexKeys(INDEX_KEY, OTHER).open, NAME, sealed)
    refused(IndexKeys(INDEX_KEY[::-1], UUID).open, NAME, sealed)


def sealed_as(plain: bytes) -> bytes:
    salt = bytes(32)
    key = kdf(salt, b"holdfast repository 1 object " + UUID + NAME.encode())
    return salt + AESGCM(key).encrypt(bytes(12), plain, b"")


@pytest.mark.parametrize(
    ("form", "length", "stored"),
    [
        (0, 3, b"ab"),
        (0, 1, b"ab"),
        (2, 2, b"ab"),
        (1, 2, b"ab"),
        (1, 2, zstandard.compress(b"abc")),
        (1, 3, zstandard.compress(b"abc") + b"\0"),
        (1, 6, zstandard.compress(b"abc") * 2),
        (1, (64 << 20) + 1, zstandard.compress(b"abc")),
    ],
)
def test_content_of_another_length_or_form_is_refused(keys: IndexKeys, form: int, length: int, stored: bytes) -> None:
    refused(keys.open, NAME, sealed_as(struct.pack("<BI", form, length) + stored))


def test_a_frame_without_a_length_is_unpacked_up_to_the_stated_one(keys: IndexKeys) -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 1000)
    assert unpack(frame, 1000) == b"x" * 1000
    assert unpack(frame, 999) is None
    assert unpack(frame, 0) is None
    assert unpack(frame, 1001) is None
    assert unpack(zstandard.ZstdCompressor(write_content_size=False).compress(b""), 0) == b""
    bomb = zstandard.compress(bytes(16 << 20))
    assert unpack(bomb, 100) is None


def test_too_large_an_object_is_not_made(keys: IndexKeys) -> None:
    with pytest.raises(ValueError, match="more than an object holds"):
        keys.seal(NAME, bytes((64 << 20) + 1))


def test_wrong_lengths_of_keys_are_refused() -> None:
    for index_key, uuid in ((INDEX_KEY[:-1], UUID), (INDEX_KEY, UUID[:-1])):
        with pytest.raises(ValueError, match="bytes"):
            IndexKeys(index_key, uuid)
    for private in (bytes(95), bytes(97)):
        with pytest.raises(ValueError, match="96"):
            ContentKeys({1: private})
    with pytest.raises(ValueError, match="epoch"):
        ContentKeys({})
    for public in (bytes(1215), b"\xff" * 1216):
        with pytest.raises(ValueError, match="bytes"):
            ContentPublicKey(1, public)


def test_hpke_binds_its_purpose(content_keys_: ContentKeys) -> None:
    private = content_keys_.private(1)
    sealed = hpke_seal(content_keys_.public(1).raw, b"purpose", b"content")
    assert len(sealed) == len(b"content") + HPKE_OVERHEAD
    assert hpke_open(private, b"purpose", sealed) == b"content"
    assert hpke_open(private, b"purposes", sealed) is None
    assert hpke_open(content_keys.new_private_key(), b"purpose", sealed) is None
    assert hpke_open(private, b"purpose", sealed[:100]) is None
    assert hpke_open(private, b"purpose", b"") is None


@dataclass(frozen=True)
class Record:
    segment_id: bytes
    tier: int
    epoch: int
    sealed: bytes


def record_of(segment: Segment, **changes: object) -> Record:
    values = {name: getattr(segment, name) for name in ("segment_id", "tier", "epoch", "sealed")}
    return Record(**(values | changes))  # type: ignore[arg-type]


def encrypted(segment: Segment, kind: ChunkType, number: int, chunk_id: bytes, content: bytes) -> bytes:
    out = bytearray(len(content) + MESSAGE_TAG)
    segment.encrypt_into(kind, number, chunk_id, content, memoryview(out))
    return bytes(out)


def test_messages_of_both_tiers(keys: IndexKeys, content_keys_: ContentKeys) -> None:
    content = Segment.new_content(content_keys_.public(1), UUID)
    assert (content.tier, content.epoch, len(content.sealed)) == (Tier.CONTENT, 1, SEALED_SEGMENT_KEY)
    lists = Segment.new_index(keys)
    assert (lists.tier, lists.epoch, lists.sealed) == (Tier.INDEX, 0, b"")
    for segment, kind, needed in ((content, ChunkType.DATA, content_keys_), (lists, ChunkType.LIST, None)):
        chunk_id = keys.chunk_id(kind, b"content")
        for number in (0, 1, (1 << 31) - 1):
            message = encrypted(segment, kind, number, chunk_id, b"content")
            again = Segment.open(record_of(segment), keys, needed)
            assert again.decrypt(kind, number, chunk_id, message) == b"content"
            assert segment.decrypt(kind, number, chunk_id, memoryview(message)) == b"content"


def test_a_message_is_that_of_the_format(keys: IndexKeys) -> None:
    segment = Segment.new_index(keys)
    data_key = kdf(segment.segment_id, b"holdfast repository 1 list segment" + UUID)
    message = encrypted(segment, ChunkType.LIST, 258, bytes(32), b"content")
    aad = b"HFM1\x05" + UUID + segment.segment_id + b"\x02\x01\0\0" + bytes(32)
    assert AESGCM(data_key).decrypt(b"\x02\x01" + bytes(10), message, aad) == b"content"


def test_a_message_that_stands_in_for_another_is_found(keys: IndexKeys, content_keys_: ContentKeys) -> None:
    public = content_keys_.public(1)
    segment = Segment.new_content(public, UUID)
    chunk_id = keys.chunk_id(1, b"content")
    message = encrypted(segment, ChunkType.DATA, 7, chunk_id, b"content")
    refused(segment.decrypt, ChunkType.TREE, 7, chunk_id, message)
    refused(segment.decrypt, ChunkType.DATA, 8, chunk_id, message)
    refused(segment.decrypt, ChunkType.DATA, 7, bytes(32), message)
    refused(Segment.new_content(public, UUID).decrypt, ChunkType.DATA, 7, chunk_id, message)
    refused(segment.decrypt, ChunkType.LIST, 7, chunk_id, message)
    refused(segment.decrypt, 0, 7, chunk_id, message)
    refused(segment.decrypt, ChunkType.DATA, 1 << 31, chunk_id, message)
    refused(segment.decrypt, ChunkType.DATA, 7, chunk_id, b"")
    for changed in (*flips(message), *cuts(message)):
        refused(segment.decrypt, ChunkType.DATA, 7, chunk_id, changed)


def test_a_writer_cannot_take_the_wrong_tier_or_number(keys: IndexKeys, content_keys_: ContentKeys) -> None:
    content, lists = Segment.new_content(content_keys_.public(1), UUID), Segment.new_index(keys)
    for segment, kind, number in (
        (lists, ChunkType.DATA, 0),
        (content, ChunkType.LIST, 0),
        (content, ChunkType.DATA, 1 << 31),
        (content, ChunkType.DATA, -1),
    ):
        with pytest.raises(ValueError, match="no message"):
            encrypted(segment, kind, number, bytes(32), b"content")


def test_a_segment_record_that_was_altered_does_not_open(keys: IndexKeys, content_keys_: ContentKeys) -> None:
    segment = Segment.new_content(content_keys_.public(1), UUID)
    lists = Segment.new_index(keys)
    flipped = segment.sealed[:500] + bytes([segment.sealed[500] ^ 1]) + segment.sealed[501:]
    for record in (
        record_of(segment, sealed=flipped),
        record_of(segment, sealed=segment.sealed[:-1]),
        record_of(segment, sealed=b""),
        record_of(segment, segment_id=bytes(16)),
        record_of(segment, tier=2),
        record_of(segment, tier=3),
        record_of(lists, epoch=1),
        record_of(lists, tier=1),
    ):
        refused(Segment.open, record, keys, content_keys_)
    refused(Segment.open, record_of(segment), IndexKeys(INDEX_KEY, OTHER), content_keys_)
    refused(Segment.open, record_of(segment), keys, ContentKeys.generate())
    long = hpke_seal(
        content_keys_.public(1).raw, b"holdfast repository 1 segment" + UUID + bytes(16) + b"\1\0\0\0", bytes(31)
    )
    refused(content_keys_.open_segment, UUID, bytes(16), 1, long)


def test_a_lacking_content_key_is_asked_for(keys: IndexKeys, content_keys_: ContentKeys) -> None:
    record = record_of(Segment.new_content(content_keys_.public(1), UUID))
    later = ContentKeys({2: content_keys_.private(1)})
    for content in (None, later):
        with pytest.raises(FailedPrecondition) as caught:
            Segment.open(record, keys, content)
        assert caught.value.reason is Reason.KEY_REQUIRED


def test_content_keys_travel_as_text_alone(content_keys_: ContentKeys) -> None:
    both = ContentKeys({2: ContentKeys.generate().private(1), 1: content_keys_.private(1)})
    again = ContentKeys.from_text(both.to_text())
    assert again.epochs == (1, 2)
    assert [again.private(epoch) for epoch in (1, 2)] == [both.private(epoch) for epoch in (1, 2)]
    for text in ("", "hfrk1", "hfrk2" + both.to_text()[5:], both.to_text() + "0", both.to_text() + " 3:00", "hfrk1 1"):
        with pytest.raises(ValueError, match="no content keys") as caught:
            ContentKeys.from_text(text)
        assert str(caught.value) == "these are no content keys"


def test_nothing_shows_or_pickles_a_key(keys: IndexKeys, content_keys_: ContentKeys) -> None:
    segment = Segment.new_index(keys)
    secrets = [INDEX_KEY, content_keys_.private(1), keys.config, keys.small]
    for holder in (keys, content_keys_, segment):
        shown = repr(holder) + str(holder)
        assert not any(secret.hex() in shown or repr(secret) in shown for secret in secrets)
        with pytest.raises(TypeError):
            pickle.dumps(holder)
    for call in (lambda: keys.open(NAME, bytes(100)), lambda: segment.decrypt(5, 0, bytes(32), bytes(20))):
        with pytest.raises(HoldfastError) as caught:
            call()
        told = caught.value.message + repr(caught.value.metadata) + repr(caught.value.__cause__)
        assert not any(secret.hex() in told for secret in secrets)


def test_public_keys_are_equal_by_value(content_keys_: ContentKeys) -> None:
    public = content_keys_.public(1)
    assert public == ContentPublicKey(1, public.raw)
    assert hash(public) == hash(ContentPublicKey(1, public.raw))
    assert public != ContentPublicKey(2, public.raw)
    assert crypto.ContentPublicKey is ContentPublicKey
