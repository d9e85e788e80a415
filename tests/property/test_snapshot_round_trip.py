"""Any tree on a disk, backed up into a repository and restored, comes back as it was, in full fidelity.

Names as bytes, kinds, content, modes, times to the nanosecond, owners, link targets, hard links, extended attributes,
and where a file has holes.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.property.test_round_trip import Node, make, nodes
from tests.snapshots import Vault, described, restore, walk_elsewhere

#: Backups into one repository: later trees find content of earlier ones.
_PER_VAULT = 20


class Vaults:
    """A repository for a few trees, then another."""

    def __init__(self) -> None:
        self._vault: Vault | None = None
        self._used = 0

    def next(self) -> Vault:
        if self._vault is None or self._used == _PER_VAULT:
            self.close()
            self._vault, self._used = Vault(), 0
        self._used += 1
        return self._vault

    def close(self) -> None:
        if self._vault is not None:
            self._vault.__exit__()
            self._vault = None


def decorate(root: bytes, seed: int) -> None:
    """Give some entries extended attributes, and other owners where that is allowed."""
    rng = random.Random(seed)
    for folder, folders, files in os.walk(root, topdown=False):
        for name in [*files, *folders]:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            if os.geteuid() == 0 and rng.random() < 0.2:
                os.chown(path, rng.choice([0, 1, 65_534, 4_000_000_000]), rng.randrange(3), follow_symlinks=False)
            if rng.random() < 0.3 and not os.path.islink(path):
                for number in range(rng.randrange(3)):
                    attribute = b"user.%d \xff" % number
                    os.setxattr(path, attribute, rng.randbytes(rng.choice([0, 1, 200])))
            os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns), follow_symlinks=False)
    if rng.random() < 0.3:
        os.setxattr(root, b"user.root", b"root")


def has_xattrs(folder: str) -> bool:
    try:
        os.setxattr(folder, b"user.holdfast", b"")
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def vaults() -> Iterator[Vaults]:
    made = Vaults()
    yield made
    made.close()


HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(deadline=None, suppress_health_check=HEALTH)
@given(tree=nodes(), seed=st.integers(0, 1 << 30))
def test_any_tree_comes_back(vaults: Vaults, tree: list[Node], seed: int) -> None:
    assert_comes_back(vaults, tree, seed)


@settings(deadline=None, suppress_health_check=HEALTH, max_examples=8)
@given(tree=nodes(), seed=st.integers(0, 1 << 30))
def test_any_tree_comes_back_that_a_process_has_walked(vaults: Vaults, tree: list[Node], seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        started = walk_elsewhere(patch)
        assert_comes_back(vaults, tree, seed)
        assert len(started) == bool(tree)


def assert_comes_back(vaults: Vaults, tree: list[Node], seed: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        if not has_xattrs(name):
            pytest.skip("this filesystem has no extended attributes")
        root, target = os.fsencode(name) + b"/source", os.fsencode(name) + b"/restored"
        os.mkdir(root, 0o755)
        make(root, tree)
        decorate(root, seed)
        before = described(root, holes=True)
        vault = vaults.next()
        snapshot = vault.back_up(root)
        assert vault.problems == []
        found = restore(vault, snapshot, target)
        assert described(target, holes=True) == before
        assert found.warning_count == 0
        assert found.files + found.hardlinks == snapshot.counts.files + snapshot.counts.hardlinks
