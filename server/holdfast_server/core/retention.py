"""Which backups of one source a retention policy keeps, and why. Pure: no clock, no catalog, no store.

Rules look at complete backups alone, newest first by (time of creation, backup id); the newest of an hour, day, week,
month or year stands for it. A locked backup, and one in use, counts as any other and is kept besides. An incomplete one
never counts: it is kept until there is a newer complete one. So pruning often and pruning once keep the same, in
whatever order backups come, as long as nobody else removes any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from holdfast_server.errors import invalid_field

__all__ = ["Candidate", "Decision", "RetentionPolicy", "plan"]

_HOUR_US: Final = 3_600_000_000
_DAY_US: Final = 24 * _HOUR_US
#: Days from 0001-01-01 to 1970-01-01, days from a Monday to it, and days after which the calendar repeats.
_EPOCH_DAYS: Final = date(1970, 1, 1).toordinal() - 1
_EPOCH_WEEKDAY: Final = 3
_CYCLE_DAYS: Final = 146_097
_CYCLE_YEARS: Final = 400


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """Rules of which each keeps some backups; None switches one off. Hours, days and so on are those of UTC, weeks
    begin on Monday. `keep_within_us` keeps what is at most so much older (microseconds) than the newest complete one.
    """

    keep_last: int | None = None
    keep_hourly: int | None = None
    keep_daily: int | None = None
    keep_weekly: int | None = None
    keep_monthly: int | None = None
    keep_yearly: int | None = None
    keep_within_us: int | None = None

    def check(self, field: str = "retention") -> None:
        """Raises InvalidArgument/INVALID_FIELD for a rule that keeps nothing; `field` is the policy's own place."""
        for name, count in self._counts():
            if count is not None and count < 1:
                raise invalid_field(f"{field}.keep_{name}", "must be at least 1; leave it unset to switch the rule off")
        if self.keep_within_us is not None and self.keep_within_us <= 0:
            raise invalid_field(f"{field}.keep_within", "must be more than 0; leave it unset to switch the rule off")

    @property
    def has_rules(self) -> bool:
        """Whether it can remove anything: a policy without any rule keeps all."""
        return self.keep_within_us is not None or any(count is not None for _, count in self._counts())

    def _counts(self) -> list[tuple[str, int | None]]:
        return [
            ("last", self.keep_last),
            ("hourly", self.keep_hourly),
            ("daily", self.keep_daily),
            ("weekly", self.keep_weekly),
            ("monthly", self.keep_monthly),
            ("yearly", self.keep_yearly),
        ]

    def reasons(self, complete: Sequence[Candidate]) -> list[list[str]]:
        """The rules that keep each of the complete backups, which are given newest first."""
        found: list[list[str]] = [[] for _ in complete]
        for name, count in self._counts():
            kept, last = 0, None
            for number, one in enumerate(complete):
                if kept == (count or 0):
                    break
                # What is kept of `last` is each backup itself.
                bucket = number if name == "last" else _BUCKETS[name](one.create_us)
                if bucket != last:
                    found[number].append(name)
                    kept, last = kept + 1, bucket
        if self.keep_within_us is not None and complete:
            oldest = complete[0].create_us - self.keep_within_us
            for one, reasons in zip(complete, found, strict=True):
                if one.create_us >= oldest:
                    reasons.append("within")
        return found


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backup to decide about. `in_use`: a task makes or reads it. `create_us` in microseconds since 1970, UTC."""

    backup_id: str
    create_us: int
    complete: bool = True
    locked: bool = False
    in_use: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a backup. `reasons` say why it is kept, in words that stay: `last`, `hourly`, `daily`, `weekly`,
    `monthly`, `yearly`, `within`, `newest`, `no rule`, `incomplete, nothing newer`, `locked`, `in use`.
    """

    backup_id: str
    reasons: tuple[str, ...]

    @property
    def kept(self) -> bool:
        return bool(self.reasons)


def plan(candidates: Iterable[Candidate], policy: RetentionPolicy) -> list[Decision]:
    """Decide about all backups of one source, newest first. The newest complete one is kept whatever the policy."""
    ordered = sorted(candidates, key=lambda one: (one.create_us, one.backup_id), reverse=True)
    complete = [one for one in ordered if one.complete]
    by_rule = {one.backup_id: why for one, why in zip(complete, policy.reasons(complete), strict=True)}
    if complete and not by_rule[complete[0].backup_id]:
        by_rule[complete[0].backup_id].append("newest")
    decisions = []
    superseded = False
    for one in ordered:
        superseded = superseded or one.complete  # the newest complete one is always kept
        reasons = ["no rule"] if not policy.has_rules else by_rule.get(one.backup_id, [])
        if not (reasons or one.complete or superseded):
            reasons = ["incomplete, nothing newer"]
        protected = [word for word, holds in (("locked", one.locked), ("in use", one.in_use)) if holds]
        decisions.append(Decision(one.backup_id, (*reasons, *protected)))
    return decisions


def _month(create_us: int) -> int:
    """Months since year 0; for any time, which a clock that went wrong may have given."""
    cycle, rest = divmod(create_us // _DAY_US + _EPOCH_DAYS, _CYCLE_DAYS)
    day = date.fromordinal(rest + 1)
    return (cycle * _CYCLE_YEARS + day.year) * 12 + day.month - 1


_BUCKETS: Final[dict[str, Callable[[int], int]]] = {
    "hourly": lambda us: us // _HOUR_US,
    "daily": lambda us: us // _DAY_US,
    "weekly": lambda us: (us // _DAY_US + _EPOCH_WEEKDAY) // 7,
    "monthly": _month,
    "yearly": lambda us: _month(us) // 12,
}
