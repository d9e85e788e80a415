"""Repositories, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from holdfast.enums import RepositoryKeyKind, RepositoryState

__all__ = [
    "AddedKey",
    "CreatedRepository",
    "LogPosition",
    "Repository",
    "RepositoryKey",
    "RepositoryProblem",
    "RepositoryReceipt",
    "RepositoryStatistics",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryKey:
    """A key slot, without its secret."""

    key_id: str
    kind: RepositoryKeyKind
    display_name: str
    create_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryStatistics:
    """Sizes in bytes and counts; `original_size` is what all files of all snapshots would take."""

    snapshots: int
    objects: int
    packs: int
    chunks: int
    original_size: int
    deduplicated_size: int
    stored_size: int
    unused_size: int
    count_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPosition:
    """The newest entry seen of one writer's log."""

    writer_id: str
    sequence: int
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryReceipt:
    """Proof of the newest log state seen, signed by the service: a store that later shows less was rolled back."""

    time: datetime | None
    positions: tuple[LogPosition, ...]
    signature: bytes
    public_key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryProblem:
    """Why a repository is not READY: what a call on it fails with, or what a check found."""

    code: str
    reason: str
    message: str
    remedy: str
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A deduplicated, encrypted store of snapshots. `unlock_expire_time`: None while it is locked or not sealed;
    `problem`: why `state` is not READY."""

    repository_id: str
    display_name: str
    location: str
    state: RepositoryState
    sealed: bool
    format_version: int
    compression_level: int
    keys: tuple[RepositoryKey, ...]
    key_epoch: int
    create_time: datetime | None
    update_time: datetime | None
    unlock_expire_time: datetime | None
    statistics: RepositoryStatistics | None
    receipt: RepositoryReceipt | None
    last_check_time: datetime | None
    problem: RepositoryProblem | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedRepository:
    """A new repository, and its recovery key if one was asked for: keep it, it is shown nowhere else."""

    repository: Repository
    recovery_key: str | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedKey:
    """A new key slot, and its recovery key if it is one: keep it, it is shown nowhere else."""

    key: RepositoryKey
    recovery_key: str | None = field(repr=False)
