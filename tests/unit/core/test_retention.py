"""What a retention policy keeps, rule by rule."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime

import pytest

from holdfast_server.core.retention import Candidate, RetentionPolicy, plan
from holdfast_server.errors import InvalidArgument, Reason


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


def made(*times: str) -> list[Candidate]:
    return [Candidate(text, at(text)) for text in times]


def kept(candidates: list[Candidate], policy: RetentionPolicy) -> dict[str, tuple[str, ...]]:
    return {one.backup_id: one.reasons for one in plan(candidates, policy) if one.kept}


def test_the_newest_few() -> None:
    found = made("2026-01-01", "2026-01-03", "2026-01-02")
    assert kept(found, RetentionPolicy(keep_last=2)) == {"2026-01-03": ("last",), "2026-01-02": ("last",)}


def test_the_newest_of_each_hour_that_has_one() -> None:
    found = made("2026-01-01T08:00", "2026-01-01T09:59", "2026-01-01T12:00", "2026-01-01T12:30")
    assert list(kept(found, RetentionPolicy(keep_hourly=2))) == ["2026-01-01T12:30", "2026-01-01T09:59"]


def test_days_are_those_of_utc() -> None:
    found = made("2026-03-29T00:00", "2026-03-29T23:59", "2026-03-30T00:00")
    assert list(kept(found, RetentionPolicy(keep_daily=5))) == ["2026-03-30T00:00", "2026-03-29T23:59"]


def test_weeks_are_those_of_iso_8601() -> None:
    """2027 begins in the last week of 2026; Sunday is a week's last day."""
    found = made("2026-12-27", "2026-12-28", "2027-01-03", "2027-01-04")
    assert list(kept(found, RetentionPolicy(keep_weekly=5))) == ["2027-01-04", "2027-01-03", "2026-12-27"]


def test_months_and_years() -> None:
    found = made("2024-02-29", "2025-02-28", "2025-12-31", "2026-01-01", "2026-02-01")
    assert list(kept(found, RetentionPolicy(keep_monthly=3))) == ["2026-02-01", "2026-01-01", "2025-12-31"]
    assert list(kept(found, RetentionPolicy(keep_yearly=3))) == ["2026-02-01", "2025-12-31", "2024-02-29"]


def test_within_counts_from_the_newest_complete_one() -> None:
    found = [*made("2026-01-01", "2026-01-02", "2026-01-03"), Candidate("torn", at("2026-01-09"), complete=False)]
    policy = RetentionPolicy(keep_within_us=86_400_000_000)
    assert list(kept(found, policy)) == ["torn", "2026-01-03", "2026-01-02"]


def test_a_backup_is_kept_if_any_rule_keeps_it() -> None:
    found = made("2025-12-31", "2026-01-01T01:00", "2026-01-01T02:00")
    assert kept(found, RetentionPolicy(keep_last=1, keep_yearly=2)) == {
        "2026-01-01T02:00": ("last", "yearly"),
        "2025-12-31": ("yearly",),
    }


def test_a_policy_without_rules_keeps_all() -> None:
    found = [*made("2026-01-02"), Candidate("torn", at("2026-01-01"), complete=False)]
    assert kept(found, RetentionPolicy()) == {"2026-01-02": ("no rule",), "torn": ("no rule",)}


def test_a_locked_backup_counts_and_is_kept_besides() -> None:
    found = [
        Candidate("a", 1),
        Candidate("b", 2, locked=True),
        Candidate("c", 3),
        Candidate("d", 4, in_use=True),
        Candidate("e", 5, locked=True),
    ]
    assert kept(found, RetentionPolicy(keep_last=2)) == {
        "e": ("last", "locked"),
        "d": ("last", "in use"),
        "b": ("locked",),
    }


def test_an_incomplete_backup_never_counts_and_goes_once_a_newer_complete_one_is_kept() -> None:
    found = [
        Candidate("old", 1),
        Candidate("torn", 2, complete=False),
        Candidate("locked", 3, complete=False, locked=True),
        Candidate("whole", 4),
        Candidate("new", 5, complete=False),
        Candidate("making", 6, complete=False, in_use=True),
    ]
    assert kept(found, RetentionPolicy(keep_last=1)) == {
        "making": ("incomplete, nothing newer", "in use"),
        "new": ("incomplete, nothing newer",),
        "whole": ("last",),
        "locked": ("locked",),
    }


def test_incomplete_backups_alone_are_all_kept() -> None:
    found = [Candidate("a", 1, complete=False), Candidate("b", 2, complete=False)]
    assert len(kept(found, RetentionPolicy(keep_last=1))) == 2


def test_the_newest_complete_backup_is_kept_whatever_the_policy() -> None:
    assert kept([Candidate("a", 1), Candidate("b", 2)], RetentionPolicy(keep_last=0)) == {"b": ("newest",)}


def test_ties_and_clocks_that_went_wrong() -> None:
    found = [Candidate("b", 5), Candidate("a", 5), Candidate("past", -(10**18)), Candidate("future", 10**18)]
    for candidates in (found, found[::-1]):
        assert [one.backup_id for one in plan(candidates, RetentionPolicy(keep_yearly=2))] == [
            "future", "b", "a", "past",
        ]  # fmt: skip
        assert list(kept(candidates, RetentionPolicy(keep_yearly=2))) == ["future", "b"]
        assert len(kept(candidates, RetentionPolicy(keep_monthly=9))) == 3


@pytest.mark.parametrize("name", [field.name for field in fields(RetentionPolicy)])
@pytest.mark.parametrize("value", [0, -1])
def test_a_rule_that_would_keep_nothing_is_refused(name: str, value: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        RetentionPolicy(**{name: value}).check("maintenance.retention")
    assert caught.value.reason == Reason.INVALID_FIELD
    assert caught.value.metadata["field"] == f"maintenance.retention.{name.removesuffix('_us')}"
    RetentionPolicy(**{name: 1}).check()
