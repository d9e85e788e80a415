"""The config: checked before it is used, and known again."""

from __future__ import annotations

import json
import struct
from dataclasses import replace

import pytest
from blake3 import blake3

from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.repository.config import MAX_CONFIG, RepositoryConfig, fingerprint_of, stated_uuid
from holdfast_server.repository.crypto import IndexKeys
from tests.unit.repository.samples import CONTENT, INDEX_KEY, KEYS, NOW, OTHER_UUID, UUID, cuts, flips, refused

CONFIG = RepositoryConfig(UUID, NOW, True, 3, CONTENT.public(1), "holdfast 1")
OBJECT = CONFIG.encode(KEYS)


def made(change: dict[str, object], *, drop: str | None = None, keys: IndexKeys = KEYS) -> bytes:
    """A config with a right MAC whose JSON was changed."""
    values = json.loads(OBJECT[16:-32]) | change
    values.pop(drop, None)
    text = json.dumps(values).encode()
    content = struct.pack("<8sHHI", b"HOLDFAST", 1, 0, len(text)) + text
    return content + blake3(content, key=keys.config).digest()


def test_it_is_read_as_it_was_written() -> None:
    assert RepositoryConfig.decode(OBJECT, KEYS) == CONFIG
    assert stated_uuid(OBJECT) == UUID
    assert fingerprint_of(OBJECT) == blake3(OBJECT).digest()
    assert OBJECT[-32:] == blake3(OBJECT[:-32], key=KEYS.config).digest()
    for level in (-5, 19):
        config = replace(CONFIG, compression_level=level, sealed=False)
        assert RepositoryConfig.decode(config.encode(KEYS), KEYS) == config


def test_every_flip_and_every_cut_is_found() -> None:
    for content in (*flips(OBJECT), *cuts(OBJECT)):
        with pytest.raises(HoldfastError) as caught:
            RepositoryConfig.decode(content, KEYS)
        version = content[8:10] if len(content) > 10 else b"\1\0"
        wanted = Reason.CHECKSUM_MISMATCH if version == b"\1\0" else Reason.FORMAT_UNSUPPORTED
        assert caught.value.reason is wanted


def test_another_version_is_refused_as_such() -> None:
    for version in (0, 2, 65_535):
        content = OBJECT[:8] + struct.pack("<H", version) + OBJECT[10:]
        error = refused(lambda content=content: RepositoryConfig.decode(content, KEYS), Reason.FORMAT_UNSUPPORTED)
        assert error.metadata["version"] == str(version)


def test_another_key_or_repository_does_not_prove_it() -> None:
    refused(lambda: RepositoryConfig.decode(OBJECT, IndexKeys(INDEX_KEY, OTHER_UUID)))
    refused(lambda: RepositoryConfig.decode(OBJECT, IndexKeys(INDEX_KEY[::-1], UUID)))
    # Of whoever has the index key, under another id than the one that it states.
    other = IndexKeys(INDEX_KEY, OTHER_UUID)
    refused(lambda: RepositoryConfig.decode(made({}, keys=other), other))


@pytest.mark.parametrize(
    "change",
    [
        {"compression_level": 20},
        {"compression_level": -6},
        {"compression_level": True},
        {"compression_level": 3.0},
        {"create_time": -1},
        {"create_time": 1 << 63},
        {"sealed": 1},
        {"uuid": "A" * 32},
        {"uuid": "0" * 31},
        {"content_key": None},
        {"content_key": {"epoch": 2, "public": ""}},
        {"content_key": {"epoch": 1, "public": "AAAA"}},
        {"content_key": {"epoch": 1, "public": "/" * 1621 + "8=="}},
        {"software": 1},
        {"software": "x" * 1025},
        {"software": "\ud800"},
    ],
)
def test_malformed_values_are_refused(change: dict[str, object]) -> None:
    refused(lambda: RepositoryConfig.decode(made(change), KEYS))


def test_keys_may_be_added_and_none_may_lack() -> None:
    assert RepositoryConfig.decode(made({"later": [1]}), KEYS) == CONFIG
    for key in json.loads(OBJECT[16:-32]):
        assert key in refused(lambda key=key: RepositoryConfig.decode(made({}, drop=key), KEYS)).message


def test_lengths_are_bounded_before_anything_is_parsed() -> None:
    refused(lambda: RepositoryConfig.decode(bytes(MAX_CONFIG + 1), KEYS))
    text = b" " * 65_537
    content = struct.pack("<8sHHI", b"HOLDFAST", 1, 0, len(text)) + text
    refused(lambda: RepositoryConfig.decode(content + blake3(content, key=KEYS.config).digest(), KEYS))
    for text in (b"[" * 60_000, b'{"a":1,"a":1}', b'{"a":NaN}', b"[]", b"\xff", b'{"a":' + b"9" * 5000 + b"}"):
        content = struct.pack("<8sHHI", b"HOLDFAST", 1, 0, len(text)) + text
        whole = content + blake3(content, key=KEYS.config).digest()
        refused(lambda whole=whole: RepositoryConfig.decode(whole, KEYS))


def test_a_level_out_of_range_is_not_written() -> None:
    with pytest.raises(ValueError, match="compression level"):
        replace(CONFIG, compression_level=20).encode(KEYS)
