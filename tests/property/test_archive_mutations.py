"""Mutated archives end in success or in a typed error of a known reason, within their limits, with no effect outside.

HOLDFAST_MUTATIONS sets how many archives there are (without it: as many as fit into some seconds), HOLDFAST_SEED their
seed. A failure names the case, which `Mutator.case` makes again.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.archive.extract import extract
from holdfast_server.archive.reader import Limits, open_reader
from holdfast_server.archive.reading import BLOCK
from holdfast_server.archive.verify import structure, verify_archive
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.storage.local import remove_tree
from tests.property.mutations import Case, Mutator

SEED = int(os.environ.get("HOLDFAST_SEED", "20261121"))
COUNT = int(os.environ.get("HOLDFAST_MUTATIONS", "0"))
SHARDS = 2
SECONDS = 5.0
#: Looked at in groups of so many cases; the cases of a group that did harm are run again one by one.
GROUP = 200
REASONS = frozenset((Reason.ARCHIVE_INVALID, Reason.CHECKSUM_MISMATCH))
LIMITS = Limits(total_bytes=1 << 20, entries=200)


class Harness:
    """One sandbox, used again and again: a root to restore into, and beside it what attacks aim at."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.guard = folder / "guard"
        self.guard.mkdir()
        (self.guard / "secret").write_bytes(b"untouched")
        (self.guard / "link").symlink_to("secret")
        (self.guard / "folder").mkdir()
        (self.folder / "root").mkdir()
        self._fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        # The file under the reader has no name, so that nothing around the root changes.
        self._archive = os.fdopen(os.memfd_create("archive"), "r+b", buffering=0)
        self._descriptors = len(os.listdir("/proc/self/fd"))
        self._before = self.state()
        self.outcomes: Counter[str] = Counter()

    def close(self) -> None:
        self._archive.close()
        os.close(self._fd)

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = {"around": sorted(os.listdir(self.folder))}
        for path in (self.guard, *sorted(self.guard.rglob("*"))):
            s = path.lstat()
            found[str(path)] = s.st_mode, s.st_uid, s.st_size, s.st_nlink, s.st_ino, s.st_mtime_ns, s.st_ctime_ns
        return found

    def check(self) -> None:
        assert self.state() == self._before, "something outside the root was changed"
        assert len(os.listdir("/proc/self/fd")) == self._descriptors, "a descriptor was left open"

    def use(self, case: Case) -> None:
        """Restore a case, and some cases verify too. Raises what is neither success nor a promised error."""
        self._archive.seek(0)
        self._archive.truncate()
        self._archive.write(case.data)
        if case.chance.random() < 0.2:
            with self._refusals("verify"):
                work = case.chance.choice((verify_archive, structure))
                work(self._reader(case), check=_nothing, expect_manifest=case.chance.random() < 0.5)
        root = os.open(b"root", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._fd)
        try:
            with self._refusals("restore"):
                select = None if case.chance.random() < 0.8 else _half
                special = case.chance.random() < 0.5
                done = extract(
                    self._reader(case), root, check=_nothing, select=select, preserve_special_bits=special,
                    expect_manifest=case.chance.random() < 0.2,
                )  # fmt: skip
                assert done.bytes <= LIMITS.total_bytes
            used = os.listdir(root)
        finally:
            os.close(root)
        if used:
            _, size = remove_tree(self._fd, b"root")
            assert size <= LIMITS.total_bytes + BLOCK, f"{size} bytes were written"
            os.mkdir(b"root", dir_fd=self._fd)

    def _reader(self, case: Case) -> Any:
        return open_reader(case.format, self._archive, limits=LIMITS, check=_nothing)  # type: ignore[arg-type]

    def _refusals(self, what: str) -> Any:
        return _Refusals(self.outcomes, what)


class _Refusals:
    """Counts how a block ended; lets pass what must not happen."""

    def __init__(self, outcomes: Counter[str], what: str) -> None:
        self._outcomes = outcomes
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        if isinstance(error, HoldfastError) and error.reason in REASONS:
            assert error.message.isprintable()
            self._outcomes[f"{self._what} {error.reason.name}"] += 1
            return True
        self._outcomes[f"{self._what} {'done' if error is None else 'failed'}"] += 1
        return False


def _nothing() -> None:
    pass


def _half(path: bytes) -> bool:
    return bool(sum(path) & 1)


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    memory = Path("/dev/shm")
    folder = memory / f"holdfast-mutations-{os.getpid()}" if memory.is_dir() else tmp_path / "sandbox"
    folder.mkdir()
    monkeypatch.chdir(folder)
    made = Harness(folder)
    yield made
    made.close()
    fd = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
    with suppress(OSError):
        remove_tree(fd, os.fsencode(folder.name))
    os.close(fd)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_mutations(shard: int, harness: Harness, tmp_path: Path) -> None:
    mutator = Mutator(tmp_path, SEED)
    end = time.monotonic() + SECONDS
    number = shard
    while number < COUNT if COUNT else number < SHARDS * GROUP or time.monotonic() < end:
        group = range(number, number + SHARDS * GROUP, SHARDS)
        for number in group:
            _one(harness, mutator, number)
        try:
            harness.check()
        except AssertionError as error:
            raise AssertionError(f"one of {group} with seed {SEED}") from error
        number = group[-1] + SHARDS
    print(f"{number // SHARDS} cases: {dict(sorted(harness.outcomes.items()))}")
    # Most changes are noticed; but a mutator that only makes garbage would prove nothing.
    assert harness.outcomes["restore done"] > number // SHARDS // 50
    assert harness.outcomes["verify done"] > 0


def _one(harness: Harness, mutator: Mutator, number: int) -> None:
    case = mutator.case(number)
    try:
        harness.use(case)
    except Exception as error:
        raise AssertionError(f"case {number} of seed {SEED} ({case.format}): {case.data[:50_000]!r}") from error


def test_a_case_is_the_same_whenever_it_is_made(tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        mutator = Mutator(tmp_path / name, SEED)
        made.append([mutator.case(number).data for number in (7, 8, 9, 7)])
    assert made[0] == made[1]
    assert made[0][0] == made[0][3]


def test_the_harness_notices_what_it_is_for(harness: Harness, tmp_path: Path) -> None:
    mutator = Mutator(tmp_path, SEED)
    harness._reader = lambda _case: 1 // 0  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="case 1 of"):
        _one(harness, mutator, 1)
    os.utime(harness.guard / "secret", ns=(0, 0))
    with pytest.raises(AssertionError, match="outside the root"):
        harness.check()
