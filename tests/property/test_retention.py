"""Retention beside a model that groups by the calendar, over ten years of hourly backups that are pruned as they come.

HOLDFAST_RETENTION_STEP sets after how many backups one prune follows, HOLDFAST_SEED the seed; the soak prunes after
each.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from holdfast_server.core.retention import Candidate, RetentionPolicy, plan

_START = datetime(2016, 2, 28, 23, tzinfo=UTC)
_YEARS = 10
_SEED = int(os.environ.get("HOLDFAST_SEED", "2026"))
_STEP = int(os.environ.get("HOLDFAST_RETENTION_STEP", "499"))

_KEYS: dict[str, Callable[[datetime], object]] = {
    "keep_hourly": lambda t: (t.date(), t.hour),
    "keep_daily": lambda t: t.date(),
    "keep_weekly": lambda t: t.isocalendar()[:2],
    "keep_monthly": lambda t: (t.year, t.month),
    "keep_yearly": lambda t: t.year,
}


def time_of(one: Candidate) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=one.create_us)


def model(candidates: Iterable[Candidate], policy: RetentionPolicy) -> set[str]:
    """What is kept, from the words of the policy: groups of the calendar, their newest, the newest groups."""
    everything = list(candidates)
    if policy == RetentionPolicy():
        return {one.backup_id for one in everything}
    whole = [one for one in everything if one.complete]
    kept = {one.backup_id for one in everything if one.locked or one.in_use}

    def age(one: Candidate) -> tuple[datetime, str]:
        return time_of(one), one.backup_id

    if policy.keep_last:
        kept |= {one.backup_id for one in sorted(whole, key=age)[-policy.keep_last :]}
    for name, key in _KEYS.items():
        groups: dict[object, list[Candidate]] = defaultdict(list)
        for one in whole:
            groups[key(time_of(one))].append(one)
        heads = sorted((max(group, key=age) for group in groups.values()), key=age)
        count = getattr(policy, name)
        kept |= {one.backup_id for one in heads[-count:]} if count else set()
    if whole and policy.keep_within_us:
        least = time_of(max(whole, key=age)) - timedelta(microseconds=policy.keep_within_us)
        kept |= {one.backup_id for one in whole if time_of(one) >= least}
    newest = max(map(age, whole), default=None)
    return kept | {one.backup_id for one in everything if not one.complete and (newest is None or age(one) > newest)}


def kept_of(candidates: Collection[Candidate], policy: RetentionPolicy) -> list[Candidate]:
    kept = {one.backup_id for one in plan(candidates, policy) if one.kept}
    return [one for one in candidates if one.backup_id in kept]


_HOURS = st.integers(0, 24 * 800) | st.sampled_from([0, 1, 24, 24 * 31, 24 * 366])
_CANDIDATES = st.lists(
    st.tuples(_HOURS, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), min_size=0, max_size=40
).map(
    lambda drawn: [
        Candidate(
            f"{number * 7919 % 1000:03}-{number}",
            int((_START + timedelta(hours=hours)).timestamp()) * 1_000_000,
            complete=torn > 1,
            locked=locked == 0,
            in_use=busy == 0,
        )
        for number, (hours, torn, locked, busy) in enumerate(drawn)
    ]
)
_COUNT = st.none() | st.integers(1, 6)
_POLICIES = st.builds(
    RetentionPolicy,
    keep_last=_COUNT,
    keep_hourly=_COUNT,
    keep_daily=_COUNT,
    keep_weekly=_COUNT,
    keep_monthly=_COUNT,
    keep_yearly=_COUNT,
    keep_within_us=st.none() | st.integers(1, 400 * 86_400_000_000),
)


@given(_CANDIDATES, _POLICIES)
def test_the_plan_is_what_the_calendar_says(candidates: list[Candidate], policy: RetentionPolicy) -> None:
    assert {one.backup_id for one in kept_of(candidates, policy)} == model(candidates, policy)


@given(_CANDIDATES, _POLICIES, st.data())
def test_pruning_often_keeps_what_pruning_once_keeps(
    candidates: list[Candidate], policy: RetentionPolicy, data: st.DataObject
) -> None:
    """In whatever order backups come and at whatever moments the policy is applied."""
    present: list[Candidate] = []
    for one in data.draw(st.permutations(candidates)):
        present.append(one)
        if data.draw(st.booleans()):
            present = kept_of(present, policy)
    kept = {one.backup_id for one in kept_of(present, policy)}
    assert kept == model(candidates, policy)


def test_ten_years_of_hourly_backups() -> None:
    policy = RetentionPolicy(
        keep_last=5, keep_hourly=30, keep_daily=14, keep_weekly=9, keep_monthly=25, keep_yearly=20,
        keep_within_us=36 * 3_600_000_000,
    )  # fmt: skip
    rng, present, whole = random.Random(_SEED), [], []
    hour, number = 0, 0
    while hour < _YEARS * 8766:
        # A machine that is off for hours or weeks; a clock that was set back, or never moved on.
        hour += rng.choices([1, 0, -3, rng.randrange(48), rng.randrange(1500)], [9880, 40, 40, 37, 3])[0]
        time = _START + timedelta(hours=hour, minutes=rng.randrange(60))
        one = Candidate(
            f"{rng.randrange(1 << 32):08x}", int(time.timestamp()) * 1_000_000, rng.random() > 0.02, rng.random() < 2e-4
        )
        present.append(one)
        whole.append(one)
        number += 1
        if number % _STEP == 0:
            present = kept_of(present, policy)
    assert number > 50_000
    kept = {one.backup_id for one in kept_of(present, policy)}
    assert kept == model(whole, policy)
    assert len([one for one in present if one.backup_id in kept and not one.locked]) < 130
