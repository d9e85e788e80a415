from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_server.wallets import format9
from holdfast_server.wallets.coin import Coin
from holdfast_server.wallets.coin import value_of_code as value_of
from holdfast_server.wallets.format9 import encode_many, encode_single, read_header
from tests.unit.wallets import format9_reader as reader

# The header of the one real public file, an export of one coin of 10 with serial 3574, and the start of its record.
HEADER = bytes.fromhex("0901000600000001 0000000000000000 4c6976652046726565204f7220446965")
RECORD = bytes.fromhex("03000100000df6 36503525691cb0d5b836163bcc126515")

coins = st.builds(
    Coin,
    denomination=st.integers(-128, 127),
    serial=st.integers(0, 2**32 - 1),
    ans=st.binary(min_size=16, max_size=16).map(lambda an: an * 25) | st.just(bytes(range(200)) * 2),
    split=st.integers(0, 255),
    shard=st.integers(0, 255),
    pown=st.text("upbndef", min_size=25, max_size=25),
)


def as_tuple(coin: Coin) -> tuple:
    return (coin.split, coin.shard, coin.denomination, coin.serial, coin.ans)


def test_the_worked_vector_is_written_byte_for_byte():
    coin = Coin(denomination=1, serial=3574, ans=RECORD[7:] + bytes(384), split=3)
    written = encode_many([coin])
    assert written[:32] == HEADER
    assert written[32:55] == RECORD
    assert len(written) == 439


def test_the_worked_vector_is_read():
    header = read_header(HEADER, 439)
    assert (header.format, header.coin_id, header.encryption, header.count) == (9, 6, 0, 1)
    assert header.motto
    assert not header.pans
    assert (header.pown, header.task_id) == (None, None)
    assert header.consistent
    assert header.trailing == 0


def test_the_real_file_is_reproduced(samples):
    data = (samples / "bin" / "west-format9-sample.cLDc-payload.bin").read_bytes()
    expected = json.loads((samples / "expected.json").read_text())["bin/west-format9-sample.cLDc-payload.bin"]
    assert read_header(data[:64], len(data)).consistent
    [(split, shard, code, serial, ans)] = reader.read(data)["coins"]
    assert (serial, ans[:16].hex()) == (expected["coins"][0]["sn"], expected["coins"][0]["an0"])
    assert encode_many([Coin(code, serial, ans, split, shard)]) == data


@given(coins, st.integers(0, 0xFFFFFF))
def test_single_coin_files_round_trip(coin, task_id):
    data = encode_single(coin, task_id=task_id)
    assert len(data) == 439
    read = reader.read(data)
    assert read == {"count": 1, "pown": coin.pown, "task": task_id, "coins": [as_tuple(coin)], "pans": [b""]}
    header = read_header(data[:32], len(data))
    assert (header.pown, header.task_id, header.count) == (coin.pown, task_id, 1)
    assert not header.motto
    assert header.consistent
    assert data[28] & 0xF == 9


@given(st.lists(coins, min_size=1, max_size=5))
def test_multi_coin_files_round_trip(many):
    data = encode_many(many)
    assert reader.read(data)["coins"] == [as_tuple(coin) for coin in many]
    header = read_header(data[:32], len(data))
    assert header.motto
    assert header.count == len(many)
    assert header.consistent


def test_the_default_task_id_is_that_of_public_clients():
    assert encode_single(Coin(0, 1, bytes(400)))[29:32] == b"\x99\x99\x99"


@pytest.mark.parametrize(
    ("code", "units"),
    [(-8, 1), (-7, 10), (-2, 10**6), (0, 10**8), (3, 10**11), (6, 10**14), (7, 0), (11, 0), (-9, 0), (-128, 0)],
)
def test_values_are_powers_of_ten_in_units(code, units):
    assert value_of(code) == units
    assert type(value_of(code)) is int
    assert Coin(code, 1, bytes(400)).value == units


def test_the_live_wallet_of_the_documents_adds_up():
    counts = {4: 258, 3: 17, 2: 9, 1: 7, 0: 6, -1: 28, -2: 20}
    assert sum(n * value_of(code) for code, n in counts.items()) == 2_597_979 * 10**8


@pytest.mark.parametrize(
    "wrong",
    [
        {"denomination": 128},
        {"serial": -1},
        {"serial": 2**32},
        {"ans": bytes(399)},
        {"split": 256},
        {"shard": -1},
        {"pown": "p" * 24},
        {"pown": "x" * 25},
    ],
)
def test_what_a_record_cannot_hold_is_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))[:3]}|authenticity"):
        Coin(**{"denomination": 0, "serial": 1, "ans": bytes(400)} | wrong)


def test_limits_of_the_header_are_refused():
    coin = Coin(0, 1, bytes(400))
    for wrong in (
        lambda: encode_many([]),
        lambda: encode_many([coin] * 65_536),
        lambda: encode_single(coin, task_id=1 << 24),
    ):
        with pytest.raises(ValueError, match=r"instead of 1|24 bits"):
            wrong()


def test_authenticity_numbers_are_in_no_repr():
    assert "ans" not in repr(Coin(0, 1, b"\xab" * 400))
    assert "\\xab" not in repr(Coin(0, 1, b"\xab" * 400))


@pytest.mark.parametrize(
    ("encryption", "pans", "count", "length", "consistent"),
    [
        (0, 0, 1, 438, False),
        (0, 0, 1, 439, True),
        (0, 0, 1, 439 + 31, True),
        (0, 0, 1, 439 + 32, False),
        (0, 0, 2, 439, False),
        (0, 1, 1, 839, True),
        (0, 1, 1, 439, False),
        (4, 0, 1, 438, False),
        (4, 0, 1, 439, True),
        (4, 0, 1, 700, True),
    ],
)
def test_length_and_count_must_agree(encryption, pans, count, length, consistent):
    first = bytearray(HEADER)
    first[5], first[7], first[15] = encryption, count, pans
    header = read_header(bytes(first), length)
    assert header.consistent is consistent
    assert header.encrypted is (encryption != 0)
    assert header.pans is bool(pans)


def test_a_foreign_coin_id_is_reported_not_judged():
    header = read_header(HEADER[:3] + b"\x07" + HEADER[4:], 439)
    assert header.coin_id == 7
    assert not header.is_cloudcoin


@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda tail: b"\x09" + tail), st.integers(0, 2**63))
def test_garbage_never_raises(first, length):
    header = read_header(first, length)
    assert (header is None) == (len(first) < 32 or first[0] != 9)
    if header is not None:
        assert header.pown is None or set(header.pown) <= set("upbndef")
        assert header.trailing == length - 32 - header.count * header.record_size
        assert isinstance(header.consistent, bool)


def test_sizes_are_those_of_the_format():
    assert (format9.HEADER_SIZE, format9.RECORD_SIZE, format9.RECORD_SIZE_PANS) == (32, 407, 807)
