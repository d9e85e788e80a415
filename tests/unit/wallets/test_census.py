from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_server.wallets.amounts import COIN
from holdfast_server.wallets.census import Census
from holdfast_server.wallets.coin import Coin, Generation
from tests.coins.strategies import V1, V2, V3

ANS = bytes(range(1, 201)) * 2
FOLDERS = st.sampled_from([b"Bank", b"Fracked", b"Limbo", b"", b"caf\xc3\xa9", b"raw\xff", b"back\\slash"])


def counted(placed: list[tuple[bytes, Coin]]) -> Census:
    census = Census()
    for folder, coin in placed:
        census.add(folder, coin)
    return census


@given(st.lists(st.tuples(FOLDERS, V1 | V2 | V3), max_size=6), st.randoms(use_true_random=False))
def test_the_order_in_which_coins_are_met_does_not_matter(placed, rng: random.Random):
    census = counted(placed)
    rng.shuffle(placed)
    assert counted(placed) == census
    assert census.coins == len(placed)
    assert census.balance == sum(coin.value for folder, coin in placed if folder in (b"Bank", b"Fracked"))


@given(st.lists(st.tuples(FOLDERS, V1 | V2 | V3), max_size=6))
def test_a_record_gives_the_census_back(placed):
    census = counted(placed)
    record = json.loads(json.dumps(census.to_record()))
    assert Census.from_record(record) == census


def test_a_coin_more_less_or_other_changes_the_digest():
    one, other = Coin(denomination=0, serial=1, ans=ANS), Coin(denomination=0, serial=2, ans=ANS)
    digests = [
        counted([(b"Bank", coin) for coin in coins]).digest for coins in ([], [one], [other], [one, other], [one, one])
    ]
    assert len(set(digests)) == 5


def test_the_digest_knows_no_folder_and_the_counts_do():
    coin = Coin(denomination=0, serial=1, ans=ANS, generation=Generation.V2)
    bank, limbo = counted([(b"Bank", coin)]), counted([(b"Limbo", coin)])
    assert bank.digest == limbo.digest
    assert bank != limbo
    assert (bank.balance, limbo.balance) == (COIN, 0)


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"folders": {}, "digest": "x"},
        {"folders": [], "digest": "00"},
        {"folders": {"Bank": 1}, "digest": "00"},
        {"folders": {"Bank": {"coins": 1}}, "digest": "00"},
        {"folders": {"Bank": {"coins": "a", "amount": "1"}}, "digest": "00"},
        {"folders": {"Bank": {"coins": 1, "amount": 1.5}}, "digest": "00"},
        {"folders": {"Bank": {"coins": 1, "amount": "one"}}, "digest": "00"},
        {"folders": {}, "digest": None},
    ],
)
def test_what_is_no_record_is_told(record):
    with pytest.raises(ValueError, match=r"."):
        Census.from_record(record)
