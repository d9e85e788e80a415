"""Applying what staging holds, once and again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdfast_server.core.restore import apply_staging
from holdfast_server.errors import FailedPrecondition, Reason

ROOT = {"mode": "0755", "mtime": "1600000000.123456789", "uid": os.getuid(), "gid": os.getgid()}
STAGING = b".holdfast-restore-x.1"


def staged(target: Path) -> int:
    staging = target / os.fsdecode(STAGING)
    (staging / "folder").mkdir(parents=True)
    (staging / "folder" / "file").write_text("content")
    (staging / "top").write_text("top")
    return os.open(target, os.O_RDONLY | os.O_DIRECTORY)


def described(target: Path) -> tuple[list[str], int, int]:
    names = sorted(str(path.relative_to(target)) for path in target.rglob("*"))
    return names, target.stat().st_mode & 0o777, target.stat().st_mtime_ns


WHOLE = (["folder", "folder/file", "top"], 0o755, 1_600_000_000_123_456_789)


def test_everything_moves_up_and_the_target_gets_the_sources_attributes(tmp_path: Path) -> None:
    fd = staged(tmp_path)
    apply_staging(fd, STAGING, ROOT, lambda: None)
    assert described(tmp_path) == WHOLE
    os.close(fd)


def test_killed_between_the_last_move_and_the_attributes(tmp_path: Path) -> None:
    """A kill there once left the target with its own mode and time."""
    fd = staged(tmp_path)
    apply_staging(fd, STAGING, ROOT, lambda: None)
    tmp_path.chmod(0o700)
    os.utime(tmp_path)
    apply_staging(fd, STAGING, ROOT, lambda: None)
    assert described(tmp_path) == WHOLE
    os.close(fd)


def test_killed_in_the_middle_of_the_moves(tmp_path: Path) -> None:
    fd = staged(tmp_path)
    os.rename(tmp_path / os.fsdecode(STAGING) / "top", tmp_path / "top")
    apply_staging(fd, STAGING, ROOT, lambda: None)
    assert described(tmp_path) == WHOLE
    os.close(fd)


def test_what_appeared_meanwhile_is_left_alone(tmp_path: Path) -> None:
    fd = staged(tmp_path)
    (tmp_path / "top").write_text("somebody's")
    with pytest.raises(FailedPrecondition) as refused:
        apply_staging(fd, STAGING, ROOT, lambda: None)
    assert refused.value.reason is Reason.TARGET_CHANGED
    assert (tmp_path / "top").read_text() == "somebody's"
    os.close(fd)
