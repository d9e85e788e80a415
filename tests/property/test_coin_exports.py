"""Any wallet, any amount: exactly what can be made is exported, whole and once; the rest is refused with the nearest.

HOLDFAST_COIN_WALLETS sets how many wallets are made up, HOLDFAST_SEED their seed.
"""

from __future__ import annotations

import os
import random
import shutil
import uuid
from pathlib import Path

import pytest

from holdfast_server.core.coin_export import CoinExport, CoinExportPlan
from holdfast_server.core.coin_journal import ExportJournal, journals
from holdfast_server.core.coin_outputs import Packaging
from holdfast_server.core.control import Control, Problem, Progress
from holdfast_server.core.wallet_folder import WalletFolder
from holdfast_server.errors import FailedPrecondition, Reason
from holdfast_server.storage.folder import open_folder
from holdfast_server.wallets.amounts import COIN, decimal_text
from holdfast_server.wallets.coin import Generation
from holdfast_server.wallets.envelope import Keyring
from holdfast_server.wallets.packing import CoinForm
from tests.coin_wallets import find_coins, make_coin, make_wallet, write_coin

WALLETS = int(os.environ.get("HOLDFAST_COIN_WALLETS", "250"))
SEED = int(os.environ.get("HOLDFAST_SEED", "2026"))
FORMS = (CoinForm.ZIP, CoinForm.STACK)


def export(wallet_path: Path, out: Path, amount: int, form: CoinForm) -> ExportJournal:
    """A whole export, by the parts that a task uses."""
    with open_folder(str(wallet_path)) as root, open_folder(str(out)) as folder:
        wallet = WalletFolder(root)
        told: list[Problem] = []
        plan = CoinExportPlan(str(uuid.uuid4()), 1, "wallet", amount, os.fsencode(out), 0, Packaging(form))

        def go_on() -> None:
            return None

        export = CoinExport(wallet, plan, Keyring, Control(), Progress(), go_on, go_on, told.append)
        with wallet.lock(Control(), exclusive=True):
            journal = export.prepare(folder, lambda: 1_750_000_000_000_000)
            export.publish(journal, folder)
            export.retire(journal)
            journal.remove(wallet)
        assert told == []
        assert list(journals(wallet)) == []
    return journal


def made_up(rng: random.Random, root: Path) -> tuple[dict[bytes, int], list[int]]:
    """A wallet of a few coins of one to three generations; gives identity → value, and the values."""
    coins = make_wallet(root, [])
    for _ in range(rng.randrange(1, 9)):
        generation = rng.choice(list(Generation))
        units = {
            Generation.V1: rng.choice([1, 5, 25, 100, 250]) * COIN,
            Generation.V2: COIN,
            Generation.V3: 10 ** rng.randrange(6, 11),
        }[generation]
        coin = make_coin(rng, units, generation)
        write_coin(root / rng.choice(["Bank", "Fracked"]), coin)
        coins[coin.identity] = coin.value
    return coins, list(coins.values())


def assert_right(error: FailedPrecondition, amount: int, sums: set[int]) -> None:
    """The refusal is the right one, with the nearest of the sums that can be made."""
    if amount > max(sums):
        assert error.reason is Reason.INSUFFICIENT_BALANCE
        return
    assert error.reason is Reason.NO_EXACT_CHANGE
    lower = max((total for total in sums if 0 < total < amount), default=None)
    higher = min(total for total in sums if total > amount)
    near = [error.metadata.get("nearest_lower"), error.metadata.get("nearest_higher")]
    assert near == [None if lower is None else decimal_text(lower), decimal_text(higher)]


@pytest.mark.timeout(max(120, WALLETS))
def test_any_wallet_and_any_amount(memory_path: Path) -> None:
    rng = random.Random(SEED)
    exported = refused = 0
    for number in range(WALLETS):
        root, out = memory_path / f"wallet{number}", memory_path / f"out{number}"
        out.mkdir()
        coins, values = made_up(rng, root)
        sums = {0}
        for value in values:
            sums |= {value + other for other in sums}
        amount = rng.choice(sorted(sums - {0})) + rng.choice([0, 0, 0, 1, COIN, -COIN // 10])
        amount = max(amount, 1)
        before = set(coins)
        try:
            journal = export(root, out, amount, rng.choice(FORMS))
        except FailedPrecondition as error:
            refused += 1
            assert amount not in sums
            assert set(find_coins(root, out).money) == before
            assert_right(error, amount, sums)
        else:
            exported += 1
            assert amount in sums
            where = find_coins(root, out)
            where.assert_none_lost_or_doubled(coins)
            assert sum(coins[identity] for identity in where.outputs) == amount
            assert set(where.money) | set(where.outputs) == before
            assert len(journal.outputs) == len(os.listdir(out))
        shutil.rmtree(root)
        shutil.rmtree(out)
    assert exported > WALLETS // 3
    assert refused > WALLETS // 20
