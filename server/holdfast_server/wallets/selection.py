"""Choosing coins that are worth exactly an amount, or saying which amounts near it can be made.

Values are those of coins: 10^0 to 10^14 units of 1e-8, and the 5, 25 and 250 coins of the first generation. Nothing
here knows files, and keys (worth nothing) are never chosen.

**Why it is exact.** In a *chain* of values, each dividing the next, take the largest first, as often as it fits and is
there. (1) If some sub-multiset makes the target, this finds one. Let d be the largest value, of which the greedy choice
takes k and a solution j < k. The solution's smaller items are worth at least d. Added one by one, largest first, their
sum meets d exactly: each divides both d and the sum so far, so the gap, if there is one, is at least as large as the
item. Exchange those items for one more d; repeat until j = k, and go on with the next value. (2) In the same way the
greedy sum is the largest that does not exceed the target: where the smaller items of a better choice are worth less
than d, its sum is below (j + 1)·d, which is no more than the greedy's k·d. (3) Each exchange replaces at least two
coins by one value, so no other choice has fewer coins.

Only two neighbours break the chain: 25 is no multiple of 10, and 250 none of 100. So it is fixed whether an odd 25 and
an odd 250 are used (four cases); all others of theirs come in pairs of 50 and 500, and 1, 5, 10, 50, 100, 500, 1,000 is
a chain again. Every choice belongs to one of the cases. (A pair is two coins, and so is the least that it replaces.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from holdfast_server.wallets.amounts import COIN

__all__ = ["NearestAmounts", "nearest", "select"]

_PAIRED = (25 * COIN, 250 * COIN)
_VALUES = frozenset({10**exponent for exponent in range(15)} | {5 * COIN, *_PAIRED})


@dataclass(frozen=True, slots=True)
class NearestAmounts:
    """In units of 1e-8; None where there is none. `lower` is more than 0 and less than the target, `higher` more."""

    lower: int | None
    higher: int | None


def select(available: Mapping[int, int], target: int) -> dict[int, int] | None:
    """How many coins of each value make exactly `target` units, with as few coins as possible; None if nothing does.

    `available` counts coins by value in units. Raises ValueError for a value that no coin has.
    """
    exact = [chosen for chosen in _choices(available, target) if _worth(chosen) == target]
    return min(exact, key=lambda chosen: sum(chosen.values()), default=None)


def nearest(available: Mapping[int, int], target: int) -> NearestAmounts:
    """The largest amount below `target` and the smallest above it that the coins can make."""
    total = _worth(available)
    lower = _reach(available, target - 1)
    # What is left behind when the smallest amount above is taken is the largest that fits into the rest.
    higher = total - _reach(available, total - target - 1) if total > target else 0
    return NearestAmounts(lower or None, higher or None)


def _reach(available: Mapping[int, int], limit: int) -> int:
    """The largest sum that does not exceed `limit`; 0 for none."""
    return max((_worth(chosen) for chosen in _choices(available, limit)), default=0)


def _choices(available: Mapping[int, int], limit: int) -> Iterator[dict[int, int]]:
    """The greedy choice up to `limit` of each of the four cases that are possible."""
    counts = {value: count for value, count in available.items() if value and count > 0}
    if unknown := counts.keys() - _VALUES:
        raise ValueError(f"no coin is worth {sorted(unknown)} units")
    small, large = _PAIRED
    for odd_small in range(min(counts.get(small, 0), 1) + 1):
        for odd_large in range(min(counts.get(large, 0), 1) + 1):
            odd = {small: odd_small, large: odd_large}
            rest = limit - _worth(odd)
            if rest >= 0:
                yield _greedy(counts, odd, rest)


def _greedy(counts: Mapping[int, int], odd: dict[int, int], rest: int) -> dict[int, int]:
    """Largest first; `odd` are those of the paired values that are taken already, alone."""
    chosen = dict(odd)
    links = [(value, count, 1) for value, count in counts.items() if value not in _PAIRED]
    links += [(2 * value, (counts.get(value, 0) - odd[value]) // 2, 2) for value in _PAIRED]
    for worth, count, coins in sorted(links, reverse=True):
        taken = min(count, rest // worth)
        rest -= taken * worth
        value = worth // coins
        chosen[value] = chosen.get(value, 0) + taken * coins
    return {value: count for value, count in chosen.items() if count}


def _worth(chosen: Mapping[int, int]) -> int:
    return sum(value * count for value, count in chosen.items())
