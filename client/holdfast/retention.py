"""What is kept of a source's backups, and what is done to a repository after a backup: values that calls take."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from holdfast.convert import to_duration
from holdfast.v1 import backup_pb2, repository_pb2

__all__ = ["Maintenance", "RetentionPolicy", "wire_maintenance", "wire_retention"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """Which backups of one source are kept: those that any rule keeps; with no rule all. Each count is at least 1.

    `keep_daily=7` keeps the newest of each of the newest seven days (UTC) that have a backup; so for hours, ISO weeks,
    months and years. `keep_within` (seconds or a span) keeps what is at most so much older than the newest complete
    one. Locked backups and those in use count, and are never removed; incomplete ones never count, and go once there
    is a newer complete one.
    """

    keep_last: int | None = None
    keep_hourly: int | None = None
    keep_daily: int | None = None
    keep_weekly: int | None = None
    keep_monthly: int | None = None
    keep_yearly: int | None = None
    keep_within: timedelta | float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintenance:
    """What is done to a repository after a backup into it. `retention` removes other backups of the same sources and
    frees what nothing needs; `compact` merges what is small; `check_percent` (0 to 100) proves a share of the stored
    bytes, in turn. What fails of it is a warning of the task, and undoes no backup.
    """

    retention: RetentionPolicy | None = None
    compact: bool = False
    check_percent: int = 0


def wire_retention(policy: RetentionPolicy) -> repository_pb2.RetentionPolicy:
    return repository_pb2.RetentionPolicy(
        keep_last=policy.keep_last,
        keep_hourly=policy.keep_hourly,
        keep_daily=policy.keep_daily,
        keep_weekly=policy.keep_weekly,
        keep_monthly=policy.keep_monthly,
        keep_yearly=policy.keep_yearly,
        keep_within=None if policy.keep_within is None else to_duration(policy.keep_within),
    )


def wire_maintenance(asked: Maintenance | None) -> backup_pb2.Maintenance | None:
    if asked is None:
        return None
    return backup_pb2.Maintenance(
        retention=None if asked.retention is None else wire_retention(asked.retention),
        prune=asked.retention is not None,
        compact=asked.compact,
        check_percent=asked.check_percent,
    )
