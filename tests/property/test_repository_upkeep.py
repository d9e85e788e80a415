"""A repository that is backed up into for years stays as small as what it keeps, without anybody's help."""

from __future__ import annotations

import os
import random
from functools import partial
from pathlib import Path

from holdfast_server.core.retention import Candidate, RetentionPolicy, plan
from holdfast_server.repository import CheckLevel, check_repository
from holdfast_server.storage.objects import MemoryObjects
from tests.harness import snapshot as tree_of
from tests.repositories import _NOW, Backups, stored_size

#: The promise is made for 10,000 hours; the quick tier has fewer.
HOURS = int(os.environ.get("HOLDFAST_HOURS", "20"))
COINS = 2_000
SEED = int(os.environ.get("HOLDFAST_SEED", "1"))
HOUR_US = 3_600_000_000
POLICY = RetentionPolicy(keep_last=12, keep_hourly=24, keep_daily=7, keep_weekly=4, keep_monthly=12, keep_yearly=10)
CHANGED = 3
COIN = 448


def test_hourly_backups_of_a_wallet_that_changes_a_little(memory_path: Path) -> None:
    """Three coins change each hour; once a day the repository is pruned and compacted."""
    draw = random.Random(SEED)
    source = memory_path / "wallet"
    source.mkdir()
    for number in range(COINS):
        (source / f"{number:05}.bin").write_bytes(draw.randbytes(COIN))
    backups = Backups(memory_path / "caches", MemoryObjects())
    begun = 1_800_000_000_000_000
    kept: dict[str, int] = {}
    most = 0
    for hour in range(HOURS):
        for number in draw.sample(range(COINS), CHANGED):
            (source / f"{number:05}.bin").write_bytes(draw.randbytes(COIN))
        kept[backups.back_up(source).run_id] = begun + hour * HOUR_US
        if hour % 24 == 23 or hour == HOURS - 1:
            candidates = [
                Candidate(run_id, time, complete=True, locked=False, in_use=False) for run_id, time in kept.items()
            ]
            gone = [one.backup_id for one in plan(candidates, POLICY) if not one.kept]
            backups.remove(gone)
            for run_id in gone:
                del kept[run_id]
            backups.prune()
            backups.compact()
            most = max(most, sum(1 for _ in backups.store.list("")))
    assert most <= 200
    last = max(kept, key=lambda run_id: kept[run_id])
    assert backups.read(last) == tree_of(source)
    assert set(backups.snapshots()) == set(kept)
    report = check_repository(
        backups.store, backups.keys, CheckLevel.READ_DATA, now=partial(next, _NOW), content=backups.content
    )
    assert report.ok
    assert report.backups == len(kept)
    fresh = Backups(memory_path / "fresh", MemoryObjects())
    fresh.back_up(source)
    whole, changes = stored_size(fresh.store), HOURS * CHANGED * COIN
    size = stored_size(backups.store)
    print(f"{HOURS} hours: {len(kept)} backups, {most} objects, {size} bytes, fresh {whole}, changes {changes}")
    # In a few hours little has changed: what is kept of each backup, pages of its tree, weighs more.
    assert size <= 1.5 * (whole + changes) + (0 if HOURS >= 1_000 else len(kept) * (160 << 10))
