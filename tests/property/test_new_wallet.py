"""Any wallet, locked or unlocked, backed up in any format, comes back as a new wallet: each byte and each coin."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast_server.archive.extract import ignore
from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.archive.reader import Limits, open_reader
from holdfast_server.core.coin_restore import CoinRestore
from holdfast_server.core.control import Control, Problem, Progress
from holdfast_server.core.restore import Restored, Unpacking, apply_staging, extract_to_staging
from holdfast_server.core.verify import StoredArchive, open_archive
from holdfast_server.wallets import envelope, format9, stack
from holdfast_server.wallets.census import Census
from holdfast_server.wallets.coin import Coin, Generation
from holdfast_server.wallets.coin_file import read_coin_file
from holdfast_server.wallets.envelope import KeyParameters, Keyring, WalletKey
from tests.property.test_round_trip import back_up, describe, plan

PASSWORD = "a password"
#: As little work as a reader accepts: what is tested is not the derivation.
KEY = WalletKey.derive(PASSWORD, KeyParameters(bytes(16), 8, 1, 1))
OTHER_SALT = WalletKey.derive(PASSWORD, KeyParameters(bytes([1] * 16), 8, 1, 1))
OTHER = WalletKey.derive("another password", KeyParameters(bytes(16), 8, 1, 1))
KEYS = {"own": KEY, "other salt": OTHER_SALT, "other": OTHER}

FOLDERS = ("", "Bank", "Fracked", "Trash", "Recovery", ".hidden", "Bank/deep")
NAMES = ("a", "a.bin", "a.bin.hfcc", "a.bin-2", "a.bin-2.hfcc", "b.stack", "\u0416 '%.bin", "x" * 251 + ".bin", ".hfcc")
STAGING = b".holdfast-restore-x.1"


@dataclass(frozen=True)
class File:
    folder: str
    name: str
    kind: str
    seed: int
    mode: int

    @property
    def content(self) -> bytes:
        rng = random.Random(self.seed)
        coins = [
            Coin(rng.randint(-8, 6), rng.randint(1, 2**32 - 1), rng.randbytes(400)) for _ in range(1 + self.seed % 3)
        ]
        match self.kind:
            case "single":
                return format9.encode_single(coins[0])
            case "many":
                return format9.encode_many(coins)
            case "stack":
                return stack.encode(
                    [replace(coin, generation=Generation.V1, denomination=0, serial=7) for coin in coins]
                )
            case "damaged":
                return format9.encode_many(coins)[:-9]
            case "text":
                return b"a receipt of nothing"
            case "empty":
                return b""
        return envelope.encrypt(format9.encode_many(coins), KEYS[self.kind])


files = st.lists(
    st.builds(
        File,
        folder=st.sampled_from(FOLDERS),
        name=st.sampled_from(NAMES),
        kind=st.sampled_from(["single", "many", "stack", "damaged", "text", "empty", *KEYS]),
        seed=st.integers(0, 5),
        mode=st.sampled_from([0o600, 0o444, 0o640, 0o755]),
    ),
    max_size=8,
    unique_by=lambda file: (file.folder, file.name),
)


def make(root: Path, wanted: list[File], linked: int) -> None:
    for folder in ("Bank/deep", "Fracked", "Trash", "Recovery", ".hidden"):
        (root / folder).mkdir(parents=True)
    (root / "config.toml").write_text("[wallet]\n")
    (root / "transactions.csv").write_text("Symbol\n")
    for number, file in enumerate(wanted):
        path = root / file.folder / file.name
        path.write_bytes(file.content)
        path.chmod(file.mode)
        os.utime(path, ns=(1_600_000_000_000_000_000 + number, 1_600_000_000_000_000_000 + number))
        if number < linked:
            os.link(path, root / "Trash" / f"link {number}.bin")


def restore_wallet(archive: StoredArchive, target: bytes, keyring: Keyring) -> tuple[Restored, list[Problem]]:
    problems: list[Problem] = []
    os.mkdir(target)
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with open_archive(archive) as file:
            control, progress = Control(), Progress()
            unpacking = Unpacking(
                open_reader(archive.format, file, limits=Limits(), check=lambda: None),
                None,
                lambda _size, _files, _path: None,
                ignore,
                needed=archive.original_size,
                coins=CoinRestore(
                    keyring, new_wallet=True, control=control, progress=progress,
                    report=problems.append, tell=lambda _line: None,
                ),
            )  # fmt: skip
            found = extract_to_staging(unpacking, fd, STAGING, control=control, progress=progress)
        apply_staging(fd, STAGING, found.root, lambda: None)
    finally:
        os.close(fd)
    return found, problems


def census(root: Path) -> Census:
    """Counted anew, the slow way: every name of every file."""
    found = Census()
    for path in sorted(root.rglob("*")):
        if path.is_file():
            relative = path.relative_to(root).parts
            for coin in read_coin_file(path.read_bytes()).coins:
                found.add(relative[0].encode() if len(relative) > 1 else b"", coin)
    return found


@pytest.fixture(scope="module")
def pool() -> Iterator[CompressorPool]:
    pool = CompressorPool(2)
    yield pool
    pool.close()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    wanted=files,
    linked=st.integers(0, 3),
    archive_format=st.sampled_from([one for one in ArchiveFormat if one.writable]),
    unlocked=st.booleans(),
    by_password=st.booleans(),
)
def test_any_wallet_comes_back(
    pool: CompressorPool,
    wanted: list[File],
    linked: int,
    archive_format: ArchiveFormat,
    unlocked: bool,
    by_password: bool,
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = os.fsencode(name)
        root = Path(name, "wallet")
        root.mkdir()
        make(root, wanted, linked)
        how = replace(plan(archive_format), source_kind="WALLET", wallet_key=KEY if unlocked else None)
        written, problems = back_up(os.fsencode(root), folder, pool, how)
        assert problems == []
        found = written.statistics
        archive = StoredArchive(
            folder, b"archive", archive_format, written.size, written.sha256, found.original_size, found.files
        )
        keyring = Keyring(password=PASSWORD) if by_password else Keyring([KEY])
        restored, warnings = restore_wallet(archive, folder + b"/back", keyring)
        assert warnings == []
        back = Path(name, "back")
        # An unlocked wallet's coin with a second name that says nothing of coins is stored twice.
        links = archive_format.has_hardlinks and not unlocked
        assert describe(folder + b"/back", with_links=links) == describe(os.fsencode(root), with_links=links)
        assert census(back) == census(root)
        assert restored.coins is not None
        assert restored.coins["total"]["coins"] == (found.census.coins if found.census else 0)
        assert restored.decrypted == found.wallet.files_reencrypted
        assert (restored.decrypted > 0) <= unlocked
