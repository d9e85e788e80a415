"""Imports on real folders: every coin once, every original somewhere, cut off wherever it may be."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_server.core import coin_import, import_journal
from holdfast_server.core.coin_import import CoinImport, Imported
from holdfast_server.core.control import Control, Problem, Progress
from holdfast_server.core.import_journal import (
    ImportRecord,
    commit_record,
    finish_import,
    forget_record,
    read_import,
    recover_imports,
)
from holdfast_server.core.import_places import open_places
from holdfast_server.core.wallet_folder import WalletFolder
from holdfast_server.errors import Aborted, Fenced, HoldfastError
from holdfast_server.storage import syscalls
from holdfast_server.storage.folder import open_folder
from holdfast_server.storage.policy import FolderPolicy
from holdfast_server.wallets import format9
from holdfast_server.wallets.coin import Coin, Generation
from holdfast_server.wallets.coin_file import Container, read_coin_file
from holdfast_server.wallets.envelope import KeyParameters, Keyring, WalletKey, encrypt
from holdfast_server.wallets.generate import generate_wallet
from tests.coin_files import contents, held, identities, make_coin, make_coins, pack, put

KEY = WalletKey.derive("open", KeyParameters(b"0" * 16, memory_kib=64, passes=1, lanes=1))


class Death(BaseException):
    """The end of the process."""


class Wallet:
    """A made-up wallet, and imports into it."""

    def __init__(self, base: Path, coins: int = 20, seed: int = 1) -> None:
        self.base, self.root = base, base / "wallet"
        (base / "data").mkdir(exist_ok=True)
        generate_wallet(self.root, coins, seed)
        for path in (self.root / "Import").iterdir():
            path.unlink()
        self.policy = FolderPolicy(str(base / "data"), ["/"])
        self.keyring = Keyring()
        self.rng = random.Random(seed)

    @property
    def imports(self) -> Path:
        return self.root / "Import"

    @contextmanager
    def opened(self) -> Iterator[WalletFolder]:
        with open_folder(os.fsencode(self.root)) as root:
            wallet = WalletFolder(root)
            with wallet.lock(Control(), exclusive=True):
                yield wallet

    @contextmanager
    def work(self, *paths: Path, folder: bytes = b"Suspect") -> Iterator[tuple[WalletFolder, CoinImport]]:
        with self.opened() as wallet, open_places(self.policy, wallet.root, [os.fsencode(p) for p in paths]) as places:
            yield wallet, CoinImport(wallet, places, folder, self.keyring, Control(), Progress())

    def take(self, *paths: Path, folder: bytes = b"Suspect") -> tuple[Imported, list[Problem]]:
        with self.work(*paths, folder=folder) as (wallet, work):
            record, found = work.stage(str(uuid.uuid4()), 1)
            commit_record(wallet, record)
            kept = finish_import(wallet, record, lambda: None)
            forget_record(wallet, record.task_id)
        assert self.service() == ["lock"]
        return found, kept

    def survey(self, *paths: Path) -> Imported:
        with self.work(*paths) as (_, work):
            return work.survey()

    def commit(self, *paths: Path) -> ImportRecord:
        """Up to the commit, and no rename."""
        with self.work(*paths) as (wallet, work):
            record, _ = work.stage(str(uuid.uuid4()), 1)
            commit_record(wallet, record)
            return record

    def finish(self, record: ImportRecord, check: Callable[[], None] = lambda: None) -> list[Problem]:
        with self.opened() as wallet:
            return finish_import(wallet, record, check)

    def recover(self, *known: str) -> list[str]:
        with self.opened() as wallet:
            return [text for _, text in recover_imports(wallet, known.__contains__)]

    def service(self) -> list[str]:
        return sorted(os.listdir(self.root / ".holdfast"))

    def names(self, folder: str) -> list[str]:
        return sorted(os.listdir(self.root / folder)) if (self.root / folder).exists() else []

    def give(self, kind: str, coins: Sequence[Coin], name: str = "f", where: Path | None = None) -> Path:
        ending, content = pack(kind, coins)
        return put((where or self.imports) / (name + ending), content)


@pytest.fixture
def wallet(tmp_path: Path) -> Wallet:
    return Wallet(tmp_path)


GENERATIONS = [Generation.V1, Generation.V2, Generation.V3]


@pytest.mark.parametrize("kind", ["own", "stack", "png", "zip"])
@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("count", [1, 3])
def test_coins_of_every_container_are_taken_in(wallet: Wallet, kind: str, generation: Generation, count: int) -> None:
    coins = make_coins(wallet.rng, count, generation)
    original = wallet.give(kind, coins)
    before, content = held(wallet.root), original.read_bytes()
    found, _ = wallet.take()
    assert held(wallet.root) == before + identities(coins)
    assert (found.imported.coins, found.imported.amount) == (count, sum(coin.value for coin in coins))
    assert (found.read, found.moved, found.problems) == (1, 1, [])
    assert wallet.names("Import") == []
    assert (wallet.root / "Imported" / original.name).read_bytes() == content
    suspects = [wallet.root / "Suspect" / name for name in wallet.names("Suspect")]
    assert len(suspects) == count
    for path in suspects:
        file = read_coin_file(path.read_bytes())
        assert len(file.coins) == 1
        assert file.container is {
            Generation.V1: Container.STACK, Generation.V2: Container.CCV2, Generation.V3: Container.FORMAT9
        }[generation]  # fmt: skip
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_jpeg_is_taken_in(wallet: Wallet) -> None:
    coin = make_coin(wallet.rng, Generation.V1)
    wallet.give("jpeg", [coin])
    found, _ = wallet.take()
    assert found.imported.coins == 1
    assert held(wallet.root)[coin.identity] == 1


def test_a_single_coin_file_is_copied_as_it_is_and_named_as_documented(wallet: Wallet) -> None:
    coin = Coin(1, 3574, wallet.rng.randbytes(400), split=3)
    content = format9.encode_many([coin]) + b"\0" * 7  # the motto and padding: as exports of others come
    put(wallet.imports / "x.bin", content)
    wallet.take()
    assert wallet.names("Suspect") == ["10 CloudCoin #3574 ''.bin"]
    assert (wallet.root / "Suspect" / "10 CloudCoin #3574 ''.bin").read_bytes() == content


def test_duplicates_of_the_wallet_and_of_the_import_itself(wallet: Wallet) -> None:
    coins = make_coins(wallet.rng, 3)
    bank = next((wallet.root / "Bank").iterdir())
    present = read_coin_file(bank.read_bytes()).coins[0]
    before = held(wallet.root)
    wallet.give("own", [present], "a held")
    wallet.give("own", [*coins[:2], present], "b new and held")
    wallet.give("stack", coins[1:], "c new and just seen")
    wallet.give("own", [coins[0]], "d just seen")
    planned = wallet.survey()
    found, _ = wallet.take()
    assert planned == found
    assert held(wallet.root) == before + identities(coins)
    assert found.duplicates.coins == 4
    assert found.duplicates.amount == 2 * present.value + coins[1].value + coins[0].value
    assert (found.read, found.moved, found.duplicate_files) == (4, 2, 2)
    assert wallet.names("Imported") == ["b new and held.bin", "c new and just seen.stack"]
    assert wallet.names("Duplicates") == ["a held.bin", "d just seen.bin"]


@pytest.mark.parametrize("folder", ["Exported", "Sent", "Imported", "Trash", "Export", "Counterfeit"])
def test_a_coin_that_the_wallet_holds_no_more_is_taken_in_again(wallet: Wallet, folder: str) -> None:
    coin = make_coin(wallet.rng)
    wallet.give("own", [coin], "gone", wallet.root / folder)
    wallet.give("own", [coin], "back")
    found, _ = wallet.take()
    assert (found.imported.coins, found.duplicates.coins) == (1, 0)
    assert held(wallet.root)[coin.identity] == 1


@pytest.mark.parametrize("folder", ["Limbo", "Suspect", "Grade", "My Savings", "Bank/deep/er", ".holdfast/export-1"])
def test_a_coin_that_the_wallet_holds_anywhere_is_a_duplicate(wallet: Wallet, folder: str) -> None:
    coin = make_coin(wallet.rng)
    wallet.give("own", [coin], "here", wallet.root / folder)
    wallet.give("own", [coin], "again")
    with wallet.work() as (_, work):
        assert work.survey().duplicates.coins == 1


def test_the_second_import_finds_duplicates_only(wallet: Wallet, tmp_path: Path) -> None:
    coins = make_coins(wallet.rng, 5)
    out = tmp_path / "elsewhere"
    path = wallet.give("zip", coins, "payment", out)
    wallet.take(path)
    before = held(wallet.root)
    found, _ = wallet.take(out)
    assert (found.imported.coins, found.duplicates.coins) == (0, 5)
    assert held(wallet.root) == before
    assert wallet.names("Imported") == ["payment.zip"]
    assert wallet.names("Duplicates") == ["payment.zip"]


def test_files_from_elsewhere_stay_and_are_copied(wallet: Wallet, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere"
    coins = make_coins(wallet.rng, 2)
    wallet.give("own", coins, "coins", out)
    put(out / "holiday.txt", b"no coin")
    put(out / "deeper" / "more.bin", pack("own", make_coins(wallet.rng, 1))[1])
    os.utime(out / "coins.bin", ns=(1_700_000_000_000_000_000, 1_700_000_000_000_000_000))
    before = contents(out)
    found, _ = wallet.take(out)
    assert contents(out) == before
    assert held(wallet.root) >= identities(coins)
    assert (found.imported.coins, found.corrupted) == (2, 1)
    assert (wallet.root / "Imported" / "coins.bin").stat().st_mtime == 1_700_000_000
    assert wallet.names("Imported") == ["coins.bin"]
    assert wallet.names("Corrupted") == ["holiday.txt"]
    assert found.problem_files == [os.fsencode(out / "holiday.txt")]


def test_names_that_are_taken_get_a_suffix(wallet: Wallet) -> None:
    coin = make_coin(wallet.rng)
    other = Coin(coin.denomination, coin.serial, wallet.rng.randbytes(400))
    wallet.give("own", [coin], "same", wallet.root / "Imported")
    wallet.give("own", [other], "same")
    put(wallet.root / "Suspect" / wallet.names("Imported")[0], b"")
    wallet.give("own", [coin], "z")
    found, _ = wallet.take()
    assert found.imported.coins == 2, "one serial number, other authenticity numbers: not the same coin"
    assert wallet.names("Imported") == ["same-2.bin", "same.bin", "z.bin"]


def test_hostile_files_harm_nobody(wallet: Wallet, tmp_path: Path) -> None:
    coins = make_coins(wallet.rng, 2)
    long = wallet.give("own", coins[:1], "n" * 251)
    odd = Path(os.fsdecode(os.fsencode(wallet.imports) + b"/odd \xff\n.bin"))
    put(odd, pack("own", coins[1:])[1])
    os.mkfifo(wallet.imports / "pipe.bin")
    os.symlink("/etc/passwd", wallet.imports / "link.bin")
    (wallet.imports / "folder.bin").mkdir()
    put(wallet.imports / "empty.bin", b"")
    bomb = _bomb(tmp_path)
    put(wallet.imports / "bomb.zip", bomb)
    with open(wallet.imports / "huge.bin", "wb") as file:
        file.truncate((64 << 20) + 1)
    before = held(wallet.root)
    found, _ = wallet.take()
    assert held(wallet.root) == before + identities(coins)
    assert found.corrupted == 2
    reasons = {problem.path: problem.reason for problem in found.problems}
    assert reasons == {
        b"Import/bomb.zip": "CORRUPTED",
        b"Import/empty.bin": "CORRUPTED",
        b"Import/huge.bin": "TOO_LARGE",
        b"Import/link.bin": "SPECIAL_FILE_SKIPPED",
        b"Import/pipe.bin": "SPECIAL_FILE_SKIPPED",
    }
    assert set(found.problem_files) == set(reasons)
    assert wallet.names("Import") == ["folder.bin", "huge.bin", "link.bin", "pipe.bin"]
    assert os.fsencode(odd.name) in os.listdir(os.fsencode(wallet.root / "Imported"))
    assert long.name in wallet.names("Imported")


def _bomb(base: Path) -> bytes:
    import zipfile

    with zipfile.ZipFile(base / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("coins.stack", b"\0" * (80 << 20))
    return (base / "bomb.zip").read_bytes()


def test_encrypted_files_stay_where_they_are_without_a_key(wallet: Wallet) -> None:
    coins = make_coins(wallet.rng, 2)
    put(wallet.imports / "ours.bin.hfcc", encrypt(pack("own", coins[:1])[1], KEY))
    foreign = bytearray(pack("own", coins[1:])[1])
    foreign[5] = 4
    put(wallet.imports / "theirs.bin", bytes(foreign))
    before = contents(wallet.root)
    found, _ = wallet.take()
    assert (found.encrypted, found.imported.coins) == (2, 0)
    assert wallet.names("Import") == ["ours.bin.hfcc", "theirs.bin"]
    assert {problem.reason for problem in found.problems} == {"ENCRYPTED"}
    (wallet.root / ".holdfast" / "lock").unlink()
    assert contents(wallet.root) == before

    wallet.keyring = Keyring(password="wrong")
    assert wallet.take()[0].encrypted == 2
    wallet.keyring = Keyring([KEY])
    found, _ = wallet.take()
    assert (found.encrypted, found.imported.coins) == (1, 1)
    assert held(wallet.root)[coins[0].identity] == 1
    assert wallet.names("Imported") == ["ours.bin.hfcc"], "the original is kept as it came"


def test_a_damaged_envelope_is_corrupted_with_its_key_and_encrypted_without(wallet: Wallet) -> None:
    sealed = bytearray(encrypt(pack("own", make_coins(wallet.rng, 1))[1], KEY))
    sealed[-1] ^= 1
    put(wallet.imports / "x.hfcc", bytes(sealed))
    assert wallet.survey().encrypted == 1
    wallet.keyring = Keyring([KEY])
    assert wallet.survey().corrupted == 1


def test_a_wallet_with_coins_that_cannot_be_compared_needs_its_key(wallet: Wallet) -> None:
    coin = make_coin(wallet.rng)
    put(wallet.root / "Bank" / "x.bin.hfcc", encrypt(pack("own", [coin])[1], KEY))
    wallet.give("own", [coin])
    before = contents(wallet.imports)
    for keyring, reason in ((Keyring(), "KEY_REQUIRED"), (Keyring(password="wrong"), "KEY_WRONG")):
        wallet.keyring = keyring
        with pytest.raises(HoldfastError) as caught:
            wallet.take()
        assert caught.value.reason == reason
        assert wallet.service() == ["lock"]
        assert contents(wallet.imports) == before
    wallet.keyring = Keyring([KEY])
    assert wallet.take()[0].duplicates.coins == 1


def test_coins_of_another_program_s_encryption_are_told(wallet: Wallet) -> None:
    foreign = bytearray(pack("own", make_coins(wallet.rng, 1))[1])
    foreign[5] = 1
    put(wallet.root / "Bank" / "theirs.bin", bytes(foreign))
    wallet.give("own", make_coins(wallet.rng, 1))
    found, _ = wallet.take()
    assert [problem.reason for problem in found.problems] == ["HOLDINGS_ENCRYPTED"]
    assert found.imported.coins == 1


def test_no_numbers_in_the_journal(wallet: Wallet) -> None:
    coins = make_coins(wallet.rng, 3)
    wallet.give("stack", coins)
    record = wallet.commit()
    text = (wallet.root / ".holdfast" / f"import-{record.task_id}.json").read_bytes()
    for coin in coins:
        for at in range(0, 400, 16):
            number = coin.ans[at : at + 16]
            assert number not in text
            assert number.hex().encode() not in text.lower()
    assert wallet.finish(record) == []


# -- places ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["Bank", "Bank/{first}", ".", ".holdfast", "Import/../Bank", "Import/a/b", "Exported"])
def test_the_wallet_s_own_folders_may_not_be_named(wallet: Wallet, path: str) -> None:
    (wallet.imports / "a" / "b").mkdir(parents=True)
    (wallet.root / ".holdfast").mkdir()
    (wallet.root / "Exported").mkdir()
    first = next((wallet.root / "Bank").iterdir()).name
    for alias in (wallet.root, Path("/proc/self/root") / wallet.root.relative_to("/")):
        named = Path(f"{alias}/{path.format(first=first)}")
        with pytest.raises(HoldfastError) as caught, wallet.work(named):
            pass
        assert caught.value.reason == "INVALID_FIELD"
        assert "lies in the wallet itself" in caught.value.message


def test_folders_in_import_may_be_named_and_by_an_alias_too(wallet: Wallet, tmp_path: Path) -> None:
    old, plain = make_coin(wallet.rng, Generation.V1), make_coin(wallet.rng)
    wallet.give("own", [old], "old", wallet.imports / "CCv1")
    wallet.give("own", [plain], "plain")
    (tmp_path / "alias").symlink_to(wallet.imports)
    found, _ = wallet.take(tmp_path / "alias" / "CCv1", tmp_path / "alias" / "plain.bin", wallet.imports / "plain.bin")
    assert (found.imported.coins, found.read) == (2, 2)
    assert wallet.names("Import/CCv1") == []
    assert wallet.names("Imported") == ["old.stack", "plain.bin"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing.bin", "FILE_NOT_FOUND"),
        ("fifo", "FILE_NOT_FOUND"),
        ("link", "FILE_NOT_FOUND"),
        ("data", "FOLDER_INSIDE_DATA_DIR"),
        ("data/inside.bin", "FOLDER_INSIDE_DATA_DIR"),
    ],
)
def test_what_is_no_file_to_be_read_is_refused(wallet: Wallet, path: str, reason: str) -> None:
    os.mkfifo(wallet.base / "fifo")
    put(wallet.base / "data" / "inside.bin", b"x")
    (wallet.base / "link").symlink_to("data/inside.bin")
    with pytest.raises(HoldfastError) as caught, wallet.work(wallet.base / path):
        pass
    assert caught.value.reason == reason


def test_a_wallet_without_import_says_so(wallet: Wallet) -> None:
    wallet.imports.rmdir()
    with pytest.raises(HoldfastError) as caught, wallet.work():
        pass
    assert caught.value.reason == "FILE_NOT_FOUND"


# -- what changes meanwhile ------------------------------------------------------------------------------------------


def during(monkeypatch: pytest.MonkeyPatch, happenings: list[Callable[[], Any]]) -> None:
    """Let these happen, one after each pass over the originals."""
    original = CoinImport._pass

    def wrapped(self: CoinImport, *arguments: Any) -> Any:
        taken = original(self, *arguments)
        if happenings:
            happenings.pop(0)()
        return taken

    monkeypatch.setattr(CoinImport, "_pass", wrapped)


@pytest.mark.parametrize("how", ["gone", "other"])
def test_an_original_that_changes_before_the_commit_is_left_out(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    coins = make_coins(wallet.rng, 2)
    first = wallet.give("own", coins[:1], "a")
    wallet.give("own", coins, "b")  # of which one is a duplicate of the first file's, until that is left out
    after: Callable[[], Any] = first.unlink if how == "gone" else lambda: first.write_bytes(b"another")
    during(monkeypatch, [after])
    found, kept = wallet.take()
    assert (found.imported.coins, found.duplicates.coins) == (2, 0)
    assert held(wallet.root) >= identities(coins)
    assert [problem.reason for problem in found.problems] == ["CHANGED"]
    assert kept == []
    assert wallet.names("Import") == ([] if how == "gone" else ["a.bin"])


def test_coins_that_move_in_the_wallet_meanwhile_are_seen(wallet: Wallet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wallet program takes a coin in by itself while it is being imported."""
    coin = make_coin(wallet.rng)
    wallet.give("own", [coin])
    during(monkeypatch, [lambda: wallet.give("own", [coin], "taken", wallet.root / "Bank")])
    found, _ = wallet.take()
    assert (found.imported.coins, found.duplicates.coins) == (0, 1)
    assert held(wallet.root)[coin.identity] == 1


def test_a_wallet_that_never_rests_is_busy_and_nothing_has_happened(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    wallet.give("own", make_coins(wallet.rng, 1))
    number = iter(range(100))
    during(monkeypatch, [lambda: put(wallet.root / "Bank" / f"{next(number)}.txt", b"")] * 100)
    with pytest.raises(Aborted) as caught:
        wallet.take()
    assert caught.value.reason == "SOURCE_BUSY"
    assert wallet.service() == ["lock"]
    assert wallet.names("Import") == ["f.bin"]


@pytest.mark.parametrize("how", ["gone", "other"])
def test_an_original_that_changes_after_the_commit_is_told(wallet: Wallet, how: str) -> None:
    coins = make_coins(wallet.rng, 2)
    path = wallet.give("own", coins)
    record = wallet.commit()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(b"another")
    kept = wallet.finish(record)
    assert [problem.reason for problem in kept] == ["VANISHED" if how == "gone" else "CHANGED"]
    assert held(wallet.root) >= identities(coins)
    assert wallet.names("Import") == ([] if how == "gone" else ["f.bin"])


# -- deaths ----------------------------------------------------------------------------------------------------------


def a_batch(wallet: Wallet) -> tuple[list[Coin], Counter[str], Counter[bytes]]:
    """Originals of every fate: (new coins, all originals' content, what the wallet held)."""
    coins = make_coins(wallet.rng, 4)
    before = held(wallet.root)
    wallet.give("own", coins[:2], "two")
    wallet.give("zip", coins[1:3], "zipped", wallet.imports / "CCv1")
    wallet.give("own", coins[:1], "z again")
    put(wallet.imports / "junk.txt", b"junk")
    wallet.give("own", coins[3:], "outside", wallet.base / "out")
    put(wallet.base / "out" / "junk2", b"junk 2")
    return coins, contents(wallet.imports, wallet.base / "out"), before


def paths_of(wallet: Wallet) -> list[Path]:
    return [wallet.imports, wallet.imports / "CCv1", wallet.base / "out"]


def assert_whole(wallet: Wallet, coins: list[Coin], originals: Counter[str], before: Counter[bytes]) -> None:
    assert held(wallet.root) == before + identities(coins)
    after = contents(wallet.root, wallet.base / "out")
    assert all(after[digest] >= count for digest, count in originals.items()), "an original is nowhere"
    assert wallet.names("Import") == ["CCv1"]
    assert wallet.names("Imported") == ["outside.bin", "two.bin", "zipped.zip"]
    assert wallet.names("Duplicates") == ["z again.bin"]
    assert wallet.names("Corrupted") == ["junk.txt", "junk2"]
    assert wallet.service() == ["lock"]


def test_a_death_before_each_rename_is_followed_by_the_whole(wallet: Wallet, tmp_path: Path) -> None:
    a_batch(wallet)
    shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-start")
    deaths = 0
    while True:
        base = tmp_path.parent / f"{tmp_path.name}-{deaths}"
        shutil.copytree(tmp_path.parent / f"{tmp_path.name}-start", base)
        copy = _existing(base)
        coins, originals, before = _described(copy)
        record = copy.commit(*paths_of(copy))
        left = deaths

        def check() -> None:
            nonlocal left
            if left == 0:
                raise Death
            left -= 1

        died = False
        try:
            copy.finish(record, check)
        except Death:
            died = True
            assert copy.recover() != []
        else:
            with copy.opened() as opened:
                forget_record(opened, record.task_id)
        assert_whole(copy, coins, originals, before)
        if not died:
            break
        deaths += 1
    assert deaths == len(record.staged) + len(record.originals) == 10


def _existing(base: Path) -> Wallet:
    wallet = Wallet.__new__(Wallet)
    wallet.base, wallet.root = base, base / "wallet"
    wallet.policy, wallet.keyring = FolderPolicy(str(base / "data"), ["/"]), Keyring()
    return wallet


def _described(wallet: Wallet) -> tuple[list[Coin], Counter[str], Counter[bytes]]:
    files = [p for folder in paths_of(wallet) for p in folder.iterdir() if p.is_file()]
    coins = {coin.identity: coin for path in files for coin in read_coin_file(path.read_bytes()).coins}
    return list(coins.values()), contents(wallet.imports, wallet.base / "out"), held(wallet.root)


def test_a_death_before_the_commit_is_as_if_nothing_was(wallet: Wallet) -> None:
    a_batch(wallet)
    before = contents(wallet.root)
    with wallet.work(*paths_of(wallet)) as (_, work):
        work.stage("11111111-1111-1111-1111-111111111111", 3)
    assert len(wallet.service()) == 2
    assert wallet.recover("11111111-1111-1111-1111-111111111111") == [], "the catalog knows it"
    assert len(wallet.service()) == 2
    assert "had not committed" in wallet.recover()[0]
    assert wallet.service() == ["lock"]
    (wallet.root / ".holdfast" / "lock").unlink()
    assert contents(wallet.root) == before


@pytest.mark.parametrize("moved_on", [False, True])
def test_two_names_of_one_file_are_not_two_coins(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch, moved_on: bool
) -> None:
    """Where there is no rename without replacing, a crash comes between the second name and the loss of the first."""
    coins, originals, before = a_batch(wallet)

    def no_rename(*_: Any, **__: Any) -> None:
        raise OSError(errno.EINVAL, "no such rename here")

    real_unlink, unlinks = os.unlink, 0

    def unlink(name: Any, **values: Any) -> None:
        nonlocal unlinks
        unlinks += 1
        if unlinks % 2:
            raise Death
        real_unlink(name, **values)

    monkeypatch.setattr(syscalls, "rename_without_replace", no_rename)
    record = wallet.commit(*paths_of(wallet))
    while True:
        monkeypatch.setattr(os, "unlink", unlink)
        try:
            wallet.finish(record)
            break
        except Death:
            continue
        finally:
            monkeypatch.setattr(os, "unlink", real_unlink)
            if moved_on:  # the wallet program has graded what it found
                for name in wallet.names("Suspect"):
                    os.rename(wallet.root / "Suspect" / name, wallet.root / "Bank" / f"graded {name}")
    assert unlinks > 10
    with wallet.opened() as opened:
        forget_record(opened, record.task_id)
    assert_whole(wallet, coins, originals, before)


def test_a_journal_that_cannot_be_read_is_left_alone(wallet: Wallet) -> None:
    a_batch(wallet)
    record = wallet.commit(*paths_of(wallet))
    path = wallet.root / ".holdfast" / f"import-{record.task_id}.json"
    whole = json.loads(path.read_text())
    outside = {"name": "../../Bank", "folder": "Suspect", "wanted": "x"}
    versions = [json.dumps({**whole, **wrong}) for wrong in ({"version": 2}, {"staged": [outside]})]
    for wrong in ("{", "[]", "{}", *versions):
        path.write_text(wrong)
        (line,) = wallet.recover()
        assert "left alone" in line
        assert len(wallet.service()) == 3
    path.write_text(json.dumps(whole))
    assert "is finished" in wallet.recover()[0]


def test_a_later_attempt_s_journal_fences_the_earlier_one(wallet: Wallet) -> None:
    wallet.give("own", make_coins(wallet.rng, 1))
    record = wallet.commit()
    later = ImportRecord(record.task_id, 2, record.staged, record.originals)
    with wallet.opened() as opened:
        commit_record(opened, later)
        with pytest.raises(Fenced):
            commit_record(opened, record)
        assert read_import(opened, record.task_id) == later


@pytest.mark.parametrize("how", ["link", "file", "mount"])
@pytest.mark.parametrize("folder", ["Suspect", "Imported"])
def test_a_folder_that_cannot_be_renamed_into_is_found_before_the_commit(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch, how: str, folder: str
) -> None:
    wallet.give("own", make_coins(wallet.rng, 2))
    path = wallet.root / folder
    if how != "mount":
        path.rmdir()
        path.symlink_to(wallet.base) if how == "link" else path.write_bytes(b"")
    else:
        inode = path.stat().st_ino
        monkeypatch.setattr(import_journal, "mount_id", lambda fd: 2 if os.fstat(fd).st_ino == inode else 1)
    with pytest.raises(HoldfastError) as caught:
        wallet.take()
    assert caught.value.reason == "FOLDER_NOT_WRITABLE"
    assert wallet.service() == ["lock"]
    assert wallet.names("Import") == ["f.bin"]


def test_an_original_that_may_not_be_moved_does_not_hold_up_the_rest(
    wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    coins = make_coins(wallet.rng, 2)
    wallet.give("own", coins[:1], "immutable")
    wallet.give("own", coins[1:], "movable")
    real = WalletFolder.move

    def move(from_fd: int, name: bytes, *rest: Any) -> bytes:
        if name == b"immutable.bin":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return real(from_fd, name, *rest)

    monkeypatch.setattr(WalletFolder, "move", staticmethod(move))
    _, kept = wallet.take()
    assert [(problem.path, problem.reason) for problem in kept] == [(b"Import/immutable.bin", "PERMISSION_DENIED")]
    assert held(wallet.root) >= identities(coins)
    assert wallet.names("Imported") == ["movable.bin"]


def test_a_full_disk_is_foreseen(wallet: Wallet, monkeypatch: pytest.MonkeyPatch) -> None:
    wallet.give("own", make_coins(wallet.rng, 1))
    monkeypatch.setattr(coin_import, "free_bytes", lambda _: 100)
    with pytest.raises(HoldfastError) as caught:
        wallet.take()
    assert caught.value.reason == "DISK_FULL"
    assert wallet.service() == ["lock"]


def test_a_disk_that_gives_back_other_bytes_is_found_out(wallet: Wallet, monkeypatch: pytest.MonkeyPatch) -> None:
    wallet.give("own", make_coins(wallet.rng, 2))

    def sync(fd: int) -> None:
        name = os.listdir(fd)[0]
        with open(os.open(name, os.O_RDWR, dir_fd=fd), "r+b") as file:
            file.write(b"\0")

    monkeypatch.setattr("holdfast_server.core.import_staging.sync_filesystem", sync)
    with pytest.raises(HoldfastError) as caught:
        wallet.take()
    assert caught.value.reason == "CHECKSUM_MISMATCH"
    assert wallet.service() == ["lock"]
    assert wallet.names("Import") == ["f.bin"]


# -- any batch -------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 1 << 32), cut=st.integers(0, 30))
def test_any_batch(tmp_path_factory: pytest.TempPathFactory, seed: int, cut: int) -> None:
    """Files of all formats with duplicates and junk, cut off anywhere: coins after are coins before and new ones."""
    base = tmp_path_factory.mktemp("batch")
    wallet, rng = Wallet(base, coins=4, seed=seed % 100), random.Random(seed)
    before = held(wallet.root)
    pools = {generation: make_coins(rng, 4, generation) for generation in GENERATIONS}
    given_in: list[Coin] = []
    for number in range(rng.randrange(8)):
        where = rng.choice([wallet.imports, base / "out"])
        if rng.random() < 0.2:
            put(where / f"{number}.bin", rng.randbytes(rng.randrange(600)))
            continue
        pool = pools[rng.choice(GENERATIONS)]
        kind = (
            "jpeg"
            if pool[0].generation is Generation.V1 and rng.random() < 0.3
            else rng.choice(["own", "stack", "png", "zip"])
        )
        coins = rng.sample(pool, 1 if kind == "jpeg" else rng.randrange(1, 4))
        given_in += coins
        wallet.give(kind, coins, str(number), where)
    (base / "out").mkdir(exist_ok=True)
    originals = contents(wallet.imports, base / "out")
    outside = contents(base / "out")
    record = wallet.commit(wallet.imports, base / "out")
    left = cut

    def check() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Death

    try:
        wallet.finish(record, check)
    except Death:
        pass
    assert wallet.recover() != []
    expected = {coin.identity: 1 for coin in given_in}
    assert held(wallet.root) == Counter({**before, **expected})
    after = contents(wallet.root)
    assert all(after[digest] >= count for digest, count in originals.items())
    assert contents(base / "out") == outside
    again, _ = wallet.take(wallet.imports, base / "out")
    assert again.imported.coins == 0
    assert held(wallet.root) == Counter({**before, **expected})
    shutil.rmtree(base)


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.soak)])
def test_many_files(wallet: Wallet, count: int) -> None:
    coins = make_coins(wallet.rng, count)
    for number, coin in enumerate(coins):
        (wallet.imports / f"{number}.bin").write_bytes(format9.encode_single(coin))
    before = held(wallet.root)
    found, kept = wallet.take()
    assert (found.imported.coins, found.moved, kept) == (count, count, [])
    assert held(wallet.root) == before + identities(coins)
    assert len(wallet.names("Imported")) == count
