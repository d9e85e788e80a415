from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_server.wallets import format9
from holdfast_server.wallets.coin import Coin, Generation
from holdfast_server.wallets.coin_file import read_coin_file
from holdfast_server.wallets.listing import LISTING_SIZE, ListedCoin, single_coin
from tests.coins import second_writer
from tests.coins.strategies import V3, plain

COIN = Coin(denomination=-2, serial=4_000_000_000, ans=bytes(range(1, 201)) * 2)
SINGLE = format9.encode_single(COIN)


def listed(content: bytes) -> ListedCoin | None:
    return single_coin(content[:LISTING_SIZE], len(content))


def test_a_coin_of_a_wallet_is_listed():
    assert listed(SINGLE) == ListedCoin(Generation.V3, 10**6, 4_000_000_000)
    assert listed(SINGLE + bytes(31)) is not None
    assert listed(format9.encode_single(replace(COIN, pans=COIN.ans))) is not None


@pytest.mark.parametrize(
    "content",
    [
        SINGLE[:-1],
        SINGLE + bytes(32),
        format9.encode_many([COIN] * 2),
        SINGLE[:5] + b"\1" + SINGLE[6:],
        SINGLE[:3] + b"\7" + SINGLE[4:],
        b"\0" + SINGLE[1:],
        SINGLE[:39] + bytes(25) + SINGLE[64:],
        SINGLE[:39] + bytes(400),
        b"",
        SINGLE[:63],
    ],
)
def test_everything_else_must_be_read(content):
    assert listed(content) is None


@given(V3, st.booleans(), st.binary(max_size=31))
def test_what_is_listed_is_what_is_read(coin, motto, trailing):
    content = second_writer.format9([plain(coin)], motto=motto, pans=bool(coin.pans), trailing=trailing)
    [read] = read_coin_file(content).coins
    assert listed(content) in (None, (read.generation, read.value, read.serial))
    assert (listed(content) is None) is (not any(coin.ans[:25]))


@given(st.binary(max_size=80), st.integers(0, 2**40))
def test_garbage_never_raises(first, size):
    single_coin(first, size)
