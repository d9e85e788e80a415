from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_server.wallets.amounts import COIN
from holdfast_server.wallets.coin import Coin, Generation, value_of_code, value_of_serial
from tests.coins.strategies import V1, V2, V3

ANS = bytes(range(1, 201)) * 2
COIN3 = Coin(denomination=2, serial=7, ans=ANS)


def test_a_denomination_code_is_a_power_of_ten():
    assert [value_of_code(code) for code in range(-8, 7)] == [10**exponent for exponent in range(15)]
    assert {value_of_code(code) for code in (*range(-128, -8), *range(7, 128))} == {0}


def test_a_serial_number_of_the_first_generation_has_a_range():
    edges = {0: 0, 1: 1, 2_097_152: 1, 2_097_153: 5, 4_194_304: 5, 4_194_305: 25, 6_291_456: 25, 6_291_457: 100}
    edges |= {14_680_064: 100, 14_680_065: 250, 16_777_216: 250, 16_777_217: 0, -1: 0}
    for serial, coins in edges.items():
        assert value_of_serial(serial) == coins * COIN


@given(V1 | V2 | V3)
def test_values_follow_from_generation_code_and_serial(coin):
    if coin.generation is Generation.V2:
        assert coin.value == COIN
    elif coin.generation is Generation.V1:
        assert coin.value == value_of_serial(coin.serial)
    else:
        assert coin.value == value_of_code(coin.denomination)


@given(V3, V3)
def test_money_is_told_by_denomination_serial_and_numbers(one, other):
    same = (one.denomination, one.serial, one.ans) == (other.denomination, other.serial, other.ans)
    assert (one.identity == other.identity) is same
    assert len(one.identity) == 32


@pytest.mark.parametrize("changes", [{"pown": "p" * 25}, {"split": 3}, {"shard": 1}, {"pans": ANS}, {"network": 2}])
def test_what_is_no_money_is_not_in_the_identity(changes):
    assert replace(COIN3, **changes).identity == COIN3.identity


@pytest.mark.parametrize(
    "changes",
    [
        {"denomination": 3},
        {"serial": 8},
        {"ans": ANS[:-1] + b"\0"},
        {"denomination": 0, "generation": Generation.V2},
        {"denomination": 0, "generation": Generation.V1},
    ],
)
def test_other_money_has_another_identity(changes):
    assert replace(COIN3, **changes).identity != COIN3.identity
    assert len({replace(COIN3, denomination=0, generation=generation).identity for generation in Generation}) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"denomination": -129},
        {"denomination": 1, "generation": Generation.V2},
        {"denomination": 1, "generation": Generation.V1},
        {"serial": -1},
        {"pans": bytes(16)},
        {"shard": 256},
        {"pown": "P" * 25},
        {"pown": ""},
    ],
)
def test_what_no_coin_is(changes):
    with pytest.raises(ValueError, match=r"denomination|serial|proposed|split|pown"):
        replace(COIN3, **changes)


@given(st.binary(min_size=400, max_size=400).filter(lambda ans: len(set(ans)) > 20))
def test_no_number_is_shown(ans):
    coin = replace(COIN3, ans=ans, pans=ans)
    for shown in (repr(coin), str(coin)):
        assert ans[:4].hex() not in shown
        assert repr(ans[:8])[2:-1] not in shown
