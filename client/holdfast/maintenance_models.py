"""What checks, prunes, compactions and repairs of repositories give, as values."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.enums import VerifyLevel

__all__ = [
    "BackupDamage",
    "CheckRepositoryResult",
    "CompactRepositoryResult",
    "PruneDecision",
    "PrunePlan",
    "PruneRepositoryResult",
    "RepairRepositoryResult",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupDamage:
    """What a backup in a repository has lost.

    `files_lost` is None where nothing was read to tell; `paths` holds at most 100, and none of a sealed repository.
    """

    backup_id: str
    files_lost: int | None
    chunks_lost: int
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRepositoryResult:
    """Result of CHECK_REPOSITORY. `percent` is the share of the data that was read. Its lists hold at most 100."""

    repository_id: str
    level: VerifyLevel
    percent: float
    backups_checked: int
    packs_checked: int
    objects_checked: int
    files_checked: int
    bytes_checked: int
    damaged_objects: tuple[str, ...]
    damaged_count: int
    damaged_backups: tuple[BackupDamage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneDecision:
    """What a prune decided about one backup. `rules` say what keeps it, such as `last` or `locked`; empty: it goes."""

    backup_id: str
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunePlan:
    """What a prune keeps and removes of one source. `locked` counts those kept only because they are, and
    `incomplete_removed` those that go because a newer complete one is kept. Its lists hold at most 100, newest first.
    """

    source_id: str
    kept: int
    removed: int
    locked: int
    incomplete_removed: int
    kept_backups: tuple[PruneDecision, ...]
    removed_backups: tuple[PruneDecision, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneRepositoryResult:
    """Result of PRUNE_REPOSITORY; of a dry run what would be done. Sizes are in bytes; `plans` holds at most 100.

    `bytes_pending` follow with a later prune, when `runs_waited_for` (backups, restores and others) have ended.
    """

    repository_id: str
    plans: tuple[PrunePlan, ...]
    backups_kept: int
    backups_removed: int
    packs_condemned: int
    packs_deleted: int
    bytes_freed: int
    bytes_pending: int
    packs_rescued: int
    runs_waited_for: int
    runs_revoked: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactRepositoryResult:
    """Result of COMPACT_REPOSITORY; of a dry run what would be done. Sizes are in bytes."""

    repository_id: str
    packs_merged: int
    packs_written: int
    indexes_merged: int
    objects_before: int
    objects_after: int
    bytes_freed: int
    bytes_pending: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairRepositoryResult:
    """Result of REPAIR_REPOSITORY; of a dry run what would be done. `chunks_lost` are so until a backup stores them
    again; `damaged_backups` holds at most 100."""

    repository_id: str
    indexes_rebuilt: int
    packs_adopted: int
    packs_set_aside: int
    chunks_lost: int
    damaged_backups: tuple[BackupDamage, ...]
    log_mended: bool
    runs_ended: int
    backups_given_up: int
    config_restored: bool
