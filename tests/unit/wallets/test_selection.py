"""Selection against brute force: every amount that can be made is made, with the fewest coins, and no other."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_server.wallets.amounts import COIN
from holdfast_server.wallets.selection import NearestAmounts, nearest, select

MIXED = [value * COIN for value in (1, 5, 10, 25, 100, 250)]
TENS = [10**exponent for exponent in range(15)]

Wallet = dict[int, int]


def brute(available: Wallet) -> dict[int, int]:
    """Every sum that the coins can make → the fewest coins that make it."""
    fewest = {0: 0}
    for value, count in available.items():
        for _ in range(count):
            for total, coins in list(fewest.items()):
                known = fewest.get(total + value)
                if known is None or known > coins + 1:
                    fewest[total + value] = coins + 1
    return fewest


def check(available: Wallet, target: int, fewest: dict[int, int]) -> None:
    chosen = select(available, target)
    if target in fewest:
        assert chosen is not None
        assert sum(value * count for value, count in chosen.items()) == target
        assert sum(chosen.values()) == fewest[target]
        assert all(0 < count <= available[value] for value, count in chosen.items())
    else:
        assert chosen is None
    lower = max((total for total in fewest if 0 < total < target), default=None)
    higher = min((total for total in fewest if total > target), default=None)
    assert nearest(available, target) == NearestAmounts(lower, higher)


@given(st.dictionaries(st.sampled_from(MIXED), st.integers(0, 6)), st.integers(1, 2500))
def test_first_generation(available: Wallet, coins: int) -> None:
    check(available, coins * COIN, brute(available))


@given(
    st.dictionaries(st.sampled_from([*MIXED, *TENS[6:12]]), st.integers(0, 3), max_size=6),
    st.floats(0, 1),
    st.integers(-3, 3),
)
def test_all_generations_together(available: Wallet, part: float, offset: int) -> None:
    fewest = brute(available)
    target = max(sorted(fewest)[int(part * (len(fewest) - 1))] + offset * 10**6, 1)
    check(available, target, fewest)


def test_every_amount_of_a_few_wallets() -> None:
    rng = random.Random(7)
    for _ in range(20):
        available = {value: rng.randint(0, 4) for value in MIXED}
        fewest = brute(available)
        for coins in range(1, sum(available[v] * v for v in MIXED) // COIN + 2):
            check(available, coins * COIN, fewest)


@pytest.mark.soak
def test_many_random_wallets() -> None:
    rng = random.Random(20_000)
    for _ in range(20_000):
        values = MIXED if rng.random() < 0.5 else rng.sample([*MIXED, *TENS], 6)
        available = {value: rng.randint(0, 4) for value in values}
        fewest = brute(available)
        reachable = sorted(fewest)
        for _ in range(5):
            check(available, max(rng.choice(reachable) + rng.choice([0, 0, COIN, -COIN, 1]), 1), fewest)


def test_the_example_that_plain_greedy_misses() -> None:
    assert select({250 * COIN: 1, 100 * COIN: 3}, 300 * COIN) == {100 * COIN: 3}


def test_a_million_coins_cost_nothing() -> None:
    assert select({1: 1_000_000, 10**14: 1}, 999_999) == {1: 999_999}


def test_keys_are_never_chosen() -> None:
    assert select({0: 5, COIN: 1}, COIN) == {COIN: 1}
    assert nearest({0: 5}, COIN) == NearestAmounts(None, None)


def test_a_value_that_no_coin_has_is_refused() -> None:
    with pytest.raises(ValueError, match="no coin is worth"):
        select({3: 1}, 3)
