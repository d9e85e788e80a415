"""Coins for hypothesis: of each generation, of the values its containers can hold."""

from __future__ import annotations

from dataclasses import asdict

from hypothesis import strategies as st

from holdfast_server.wallets.coin import Coin, Generation

# Few random bytes make 400 quickly; holes and patterns that look like something else are worth more than randomness.
_NUMBERS = st.one_of(
    st.binary(min_size=16, max_size=16).map(lambda one: one * 25),
    st.binary(min_size=1, max_size=400).map(lambda some: some.ljust(400, b"\0")),
    st.sampled_from([b"cLDc" * 100, b"PK\x01\x02" * 100, b'{"cloudcoin":[],' * 25, b"\r\n" * 200]),
)
ANS = _NUMBERS.map(lambda ans: ans if any(ans) else b"\1".rjust(400, b"\0"))
PANS = st.just(b"") | ANS


def powns(letters: str) -> st.SearchStrategy[str]:
    return st.text(letters, min_size=25, max_size=25)


V1 = st.builds(
    Coin,
    denomination=st.just(0),
    serial=st.integers(1, 16_777_216),
    ans=ANS,
    pans=PANS,
    pown=powns("upbndef"),
    generation=st.just(Generation.V1),
    network=st.integers(0, 255),
)

# A POWN of `d` becomes `n` in a CCv2 file, see test_ccv2.
V2 = st.builds(
    Coin,
    denomination=st.just(0),
    serial=st.integers(1, 0xFFFFFF),
    ans=ANS,
    pans=PANS,
    pown=powns("upbnef"),
    generation=st.just(Generation.V2),
    network=st.integers(0, 2),
)

V3 = st.builds(
    Coin,
    denomination=st.integers(-128, 127),
    serial=st.integers(0, 2**32 - 1),
    ans=ANS,
    pans=PANS,
    split=st.integers(0, 255),
    shard=st.integers(0, 255),
    pown=powns("upbndef"),
)

BY_GENERATION = {Generation.V1: V1, Generation.V2: V2, Generation.V3: V3}


def plain(coin: Coin) -> dict:
    """A coin as the second reader and writer have it."""
    return asdict(coin) | {"generation": coin.generation.value}
