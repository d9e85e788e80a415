"""Small wallets of made-up coins, and where every coin of them is."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from holdfast_server.wallets import ccv2, format9, stack
from holdfast_server.wallets.amounts import COIN
from holdfast_server.wallets.coin import AN_SIZE, RAIDA, Coin, Generation
from holdfast_server.wallets.coin_file import read_coin_file
from holdfast_server.wallets.layout import STANDARD_FOLDERS, single_coin_name

__all__ = ["HEADER", "Whereabouts", "find_coins", "make_coin", "make_wallet", "v3_code", "write_coin"]

HEADER = b"Symbol,Task ID,Date & Time,Remarks,Deposit,Withdraw,Description,Balance\r\n"

_V1_FIRST_SERIAL = {1: 1, 5: 2_097_153, 25: 4_194_305, 100: 6_291_457, 250: 14_680_065}


def v3_code(units: int) -> int:
    """The denomination code of a V3 coin of this value."""
    return len(str(units)) - 9


def make_coin(rng: random.Random, units: int, generation: Generation = Generation.V3) -> Coin:
    ans = rng.randbytes(RAIDA * AN_SIZE)
    if generation is Generation.V3:
        return Coin(v3_code(units), rng.randrange(1, 2**24), ans)
    if generation is Generation.V2:
        return Coin(0, rng.randrange(1, 2**24), ans, generation=generation)
    serial = _V1_FIRST_SERIAL[units // COIN] + rng.randrange(2_000_000)
    return Coin(0, serial, ans, generation=generation)


def write_coin(folder: Path, coin: Coin, tag: str = "") -> Path:
    """The coin's own file under its documented name."""
    name = single_coin_name(coin.value, coin.serial, tag)
    match coin.generation:
        case Generation.V3:
            content = format9.encode_single(coin)
        case Generation.V2:
            content = ccv2.encode_single(coin)
        case Generation.V1:
            content, name = stack.encode([coin]), name.replace(".bin", ".stack")
    path = folder / name
    with path.open("xb") as file:
        file.write(content)
    return path


def make_wallet(root: Path, bank: Sequence[int], fracked: Sequence[int] = (), seed: int = 1) -> dict[bytes, int]:
    """A wallet of V3 coins of these values in units; gives identity → value."""
    rng = random.Random(seed)
    root.mkdir(parents=True)
    for name in STANDARD_FOLDERS:
        (root / name).mkdir()
    (root / "transactions.csv").write_bytes(HEADER)
    (root / "config.toml").write_text("[wallet]\n")
    made = {}
    for folder, values in (("Bank", bank), ("Fracked", fracked)):
        for value in values:
            coin = make_coin(rng, value)
            write_coin(root / folder, coin)
            made[coin.identity] = coin.value
    return made


@dataclass
class Whereabouts:
    """How often each coin is where: identity → times."""

    money: Counter[bytes] = field(default_factory=Counter)
    exported: Counter[bytes] = field(default_factory=Counter)
    reserved: Counter[bytes] = field(default_factory=Counter)
    elsewhere: Counter[bytes] = field(default_factory=Counter)
    outputs: Counter[bytes] = field(default_factory=Counter)
    partials: list[str] = field(default_factory=list)

    def assert_none_lost_or_doubled(self, coins: dict[bytes, int], *, reserved: bool = False) -> None:
        """The invariant: each coin in its folder and in no final output; or exported and in exactly one output; or,
        only if an export was reported as unfinished, reserved."""
        assert not self.elsewhere
        assert not self.partials or reserved
        everywhere = self.money + self.exported + self.reserved
        assert everywhere == Counter(list(coins)), "a coin is lost, doubled or strange"
        assert not self.money & self.outputs, "a coin is in its folder and in an output"
        assert self.outputs == self.exported or (reserved and not self.outputs - self.exported - self.reserved)
        assert reserved or not self.reserved


def find_coins(wallet: Path, outputs: Path) -> Whereabouts:
    """Read every file of a wallet and of a folder of outputs."""
    found = Whereabouts()
    for base, _, names in os.walk(wallet):
        parts = Path(base).relative_to(wallet).parts
        for name in names:
            coins = read_coin_file((Path(base) / name).read_bytes()).coins
            top = parts[0] if parts else ""
            if top in ("Bank", "Fracked"):
                place = found.money
            elif top == "Exported":
                place = found.exported
            else:
                place = found.reserved if top == ".holdfast" else found.elsewhere
            place.update(coin.identity for coin in coins)
    for path in outputs.iterdir() if outputs.is_dir() else ():
        if path.name.startswith("."):
            found.partials.append(path.name)
        else:
            found.outputs.update(coin.identity for coin in read_coin_file(path.read_bytes()).coins)
    return found
