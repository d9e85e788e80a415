"""SIGKILL during imports of coins, at random moments and at each step of the journal: every coin once, and no original
lost.

A kill counts only when it fired (see `test_kills`). HOLDFAST_KILLS sets how many there are, a third of them
at random moments; up to 10, each step has one.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from holdfast.v1 import source_pb2, task_pb2
from holdfast_server.wallets.coin import Coin, Generation
from holdfast_server.wallets.generate import generate_wallet
from tests.coin_files import contents, held, identities, make_coins, pack, put
from tests.fault.test_kills import KILLS, LIVE, SEED, come_back, freeze_and_kill, run_time
from tests.harness import Server, failure_of, is_stopped, until

MakeServer = Callable[..., Server]

COMPLETED, WARNED = task_pb2.TASK_STATE_COMPLETED, task_pb2.TASK_STATE_COMPLETED_WITH_WARNINGS
SINGLES = 60


class Purse:
    """A registered wallet that is given batch after batch of coins."""

    def __init__(self, server: Server, base: Path, seed: int) -> None:
        self.server, self.root, self.out = server, base / "wallet", base / "out"
        generate_wallet(self.root, 50, 1)
        server.register(self.root, "wallet", kind=source_pb2.SOURCE_KIND_WALLET)
        for path in (self.root / "Import").iterdir():
            path.unlink()
        self.rng = random.Random(seed)
        self.out.mkdir()
        self.expected = held(self.root)
        self.originals: Counter[str] = Counter()
        self.batches = 0

    def batch(self) -> None:
        """New coins in files of all kinds, in Import and elsewhere, with duplicates among them and of earlier ones."""
        self.batches += 1
        coins = make_coins(self.rng, SINGLES)
        for number, coin in enumerate(coins):
            self._put(self.root / "Import", "own", [coin], str(number))
        more = make_coins(self.rng, 20)
        for name, kind, some in (
            ("several", "own", more[:10]),
            ("zipped", "zip", [*more[5:15], coins[0]]),
            ("again", "own", more[:3]),
            ("old", "stack", make_coins(self.rng, 5, Generation.V1)),
        ):
            self._put(self.root / "Import", kind, some, name)
        self._put(self.out, "png", more[15:], f"outside {self.batches}")
        put(self.root / "Import" / "junk.bin", self.rng.randbytes(100))
        self.originals = contents(self.root / "Import", self.out)

    def start(self) -> str:
        return self.server.start_import("wallet", self.root / "Import", self.out).task_id

    def assert_whole(self, task: task_pb2.Task) -> None:
        """Each coin once among the folders that hold coins, no original lost, nothing of the journal left."""
        assert task.state == WARNED, task
        assert held(self.root) == self.expected
        after = contents(self.root)
        assert all(after[digest] >= count for digest, count in self.originals.items()), "an original is nowhere"
        assert os.listdir(self.root / "Import") == []
        assert os.listdir(self.root / ".holdfast") == ["lock"]

    def assert_untouched(self) -> None:
        """The import gave up before it committed."""
        assert os.listdir(self.root / ".holdfast") == ["lock"]
        assert contents(self.root / "Import", self.out) == self.originals

    def _put(self, where: Path, kind: str, coins: list[Coin], name: str) -> None:
        ending, content = pack(kind, coins)
        put(where / (name + ending), content)
        self.expected |= identities(coins)


@pytest.fixture
def purse(new_server: MakeServer, tmp_path: Path) -> Purse:
    return Purse(new_server(), tmp_path, SEED)


@pytest.mark.long
@pytest.mark.timeout(max(240, KILLS * 30))
def test_kills_at_random_moments_of_an_import(purse: Purse) -> None:
    server = purse.server
    purse.batch()
    first = server.ended(purse.start())
    purse.assert_whole(first)
    duration = run_time(first)
    fired, tries = 0, 0
    while fired < max(KILLS // 3, 1):
        tries += 1
        assert tries <= KILLS * 10, "too many moments came too late"
        purse.batch()
        role = ("worker", "worker", "all", "edge")[fired % 4]
        task_id = purse.start()
        until(lambda: server.task_row(task_id)["state"] != "PENDING", "the run", pause=0.001)  # noqa: B023
        time.sleep(purse.rng.uniform(0, duration))
        killed = freeze_and_kill(server, ["supervisor", "edge", "worker"] if role == "all" else [role], task_id)
        if killed:
            fired += 1
            come_back(server, role)
        purse.assert_whole(server.ended(task_id))


def _staging(service: Path) -> bool:
    return any(name.startswith("import-") and not name.endswith(".json") for name in os.listdir(service))


def _journal(service: Path) -> bool:
    return any(name.startswith("import-") and name.endswith(".json") for name in os.listdir(service))


#: A step of the journal: what can be seen of it in the wallet, and how many files Import holds at most.
STEPS: dict[str, Callable[[Path, int], bool]] = {
    "staging": lambda service, left: _staging(service) and not _journal(service),
    "committed": lambda service, left: _journal(service),
    "moving originals": lambda service, left: _journal(service) and left < SINGLES,
}


def stop_at(purse: Purse, step: str, task_id: str, pids: list[int]) -> bool:
    """Freeze the workers at a step of the task's journal; whether it was met. The caller thaws or kills them."""
    service, imports = purse.root / ".holdfast", purse.root / "Import"

    def there() -> bool:
        return STEPS[step](service, len(os.listdir(imports)))

    polls = 0
    while not there():
        polls += 1
        if not polls % 50 and purse.server.task_row(task_id)["end_time"]:
            return False
    for pid in pids:  # known beforehand: looking for them takes longer than a step
        os.kill(pid, signal.SIGSTOP)
    until(lambda: all(is_stopped(pid) for pid in pids), "the freeze", pause=0.0005)
    return there() and purse.server.task_row(task_id)["state"] in LIVE


@pytest.mark.long
@pytest.mark.timeout(max(240, KILLS * 30))
def test_kills_at_each_step_of_the_journal(purse: Purse) -> None:
    server, steps = purse.server, list(STEPS)
    (purse.root / ".holdfast").mkdir()
    seen: Counter[str] = Counter()
    tries = 0
    while seen.total() < max(KILLS - KILLS // 3 if KILLS > 10 else 0, len(steps)):
        tries += 1
        assert tries <= KILLS * 20, "too many moments came too late"
        step = steps[seen.total() % len(steps)]
        purse.batch()
        pids = server.pids("worker")
        task_id = purse.start()
        met = stop_at(purse, step, task_id, pids)
        for pid in pids:
            os.kill(pid, signal.SIGKILL if met else signal.SIGCONT)
        if met:
            seen[step] += 1
            until(lambda: server.gone(pids), "the death of what was killed")  # noqa: B023
            come_back(server, "worker")
        purse.assert_whole(server.ended(task_id))
    assert set(seen) == set(steps)


def test_a_cancel_before_the_commit_or_none(purse: Purse) -> None:
    server = purse.server
    cancelled = 0
    purse.batch()
    for number in range(4):
        task_id = purse.start()
        until(lambda: server.task_row(task_id)["state"] != "PENDING", "the run", pause=0.001)  # noqa: B023
        time.sleep(0.03 * number)
        try:
            server.cancel(task_id)
        except grpc.RpcError as error:
            if failure_of(error).reason != "TASK_COMMITTING":
                raise
        task = server.ended(task_id)
        if task.state == task_pb2.TASK_STATE_CANCELLED:
            cancelled += 1
            purse.assert_untouched()
            continue
        purse.assert_whole(task)
        purse.batch()
    assert cancelled
