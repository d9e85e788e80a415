"""Real public files, read as `expected.json` beside them says."""

from __future__ import annotations

import hashlib
import json

import pytest

from holdfast_server.wallets.amounts import COIN
from holdfast_server.wallets.coin import Generation
from holdfast_server.wallets.coin_file import Container, Encryption, read_coin_file

NAMES = (
    "bin/west-format9-sample.cLDc-payload.bin",
    "jpeg/1.CloudCoin.1.1346931.jpg",
    "jpeg/jpeg1-blank-template.jpg",
    "png/template-no-coins.png",
    "png/west-format9-sample.png",
    "stack/0.CloudCoins..stack",
    "stack/1.CloudCoin.1.1050485..stack",
    "stack/2.CloudCoins..stack",
    "stack/25.CloudCoin.1.5242865..stack",
    "stack/250.CloudCoin.1.14691854..stack",
    "stack/3.CloudCoins.573.stack",
)
EMPTY = {"jpeg/jpeg1-blank-template.jpg", "png/template-no-coins.png", "stack/0.CloudCoins..stack"}


@pytest.fixture
def expected(samples):
    return json.loads((samples / "expected.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_a_real_file_is_read(samples, expected, name):
    content = (samples / name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == expected[name]["sha256"]
    file = read_coin_file(content)
    assert file.problem == ""
    assert file.legible is (name not in EMPTY)
    assert bool(file.coins) is (name not in EMPTY)
    if file.coins:
        assert file.encryption is Encryption.PLAINTEXT


def test_every_expected_file_is_tested(samples, expected):
    assert set(expected) == set(NAMES)


WRAPPED = "stack/250.CloudCoin.1.14691854..stack"


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("stack/") and name != WRAPPED])
def test_stacks_give_every_coin(samples, expected, name):
    file = read_coin_file((samples / name).read_bytes())
    assert file.container is Container.STACK
    assert len(file.coins) == len(expected[name]["coins"])
    for coin, wanted in zip(file.coins, expected[name]["coins"], strict=True):
        assert coin.generation is Generation.V1
        assert (coin.network, coin.serial) == (wanted["nn"], wanted["sn"])
        assert coin.value == wanted["denomination_by_sn"] * COIN
        assert (coin.ans[:16].hex(), coin.ans[-16:].hex()) == (wanted["an0"].lower(), wanted["an24"].lower())
        assert coin.pown == (wanted["pown"] or "u" * 25)


def test_a_stack_wrapped_within_its_tokens_is_read(samples, expected):
    assert "malformed_json" in expected[WRAPPED]
    content = (samples / WRAPPED).read_bytes()
    [wanted] = json.loads(content.replace(b"\r", b"").replace(b"\n", b""))["cloudcoin"]
    [coin] = read_coin_file(content).coins
    assert (coin.serial, coin.network, coin.value) == (14_691_854, 1, 250 * COIN)
    assert coin.ans.hex() == "".join(wanted["an"]).lower()


def test_the_jpeg_gives_its_coin(samples, expected):
    wanted = expected["jpeg/1.CloudCoin.1.1346931.jpg"]["coin"]
    file = read_coin_file((samples / "jpeg/1.CloudCoin.1.1346931.jpg").read_bytes())
    [coin] = file.coins
    assert file.container is Container.JPEG
    assert (coin.generation, coin.network, coin.serial) == (Generation.V1, wanted["nn"], wanted["sn"])
    assert (coin.ans[:16].hex(), coin.ans[-16:].hex()) == (wanted["an0"], wanted["an24"])
    assert coin.pown == "u" * 25
    assert coin.value == COIN


@pytest.mark.parametrize("name", ["png/west-format9-sample.png", "bin/west-format9-sample.cLDc-payload.bin"])
def test_the_coin_of_format_9_is_the_same_in_both_containers(samples, expected, name):
    [wanted] = expected["bin/west-format9-sample.cLDc-payload.bin"]["coins"]
    [coin] = read_coin_file((samples / name).read_bytes()).coins
    assert coin.generation is Generation.V3
    assert (coin.split, coin.shard, coin.denomination, coin.serial) == (3, 0, wanted["denomination_code"], wanted["sn"])
    assert (coin.ans[:16].hex(), coin.ans[-16:].hex()) == (wanted["an0"], wanted["an24"])
    assert coin.value == 10 * COIN
    assert coin.pown == "u" * 25
