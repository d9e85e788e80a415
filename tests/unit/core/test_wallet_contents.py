"""Totals and coin lists of wallets, compared with counts that share nothing with the product."""

from __future__ import annotations

import os
import pickle
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_server.core import wallet_contents, wallet_scan
from holdfast_server.core.wallet_contents import (
    CoinRow,
    CoinWish,
    WalletPlace,
    WalletTotals,
    coins_page,
    read_totals,
    reserved,
)
from holdfast_server.core.wallet_scan import scan_wallet
from holdfast_server.errors import FailedPrecondition, Reason, Unavailable
from holdfast_server.storage.folder import OpenFolder, open_folder
from holdfast_server.storage.names import unescape
from holdfast_server.wallets import ccv2, envelope, format9
from holdfast_server.wallets.coin import Coin, Generation
from holdfast_server.wallets.envelope import KeyParameters, Keyring, WalletKey
from holdfast_server.wallets.generate import generate_wallet
from tests.unit.wallets import format9_reader

KEY = WalletKey.derive("secret", KeyParameters(bytes(16), 64, 1, 1))
OTHER = WalletKey.derive("other", KeyParameters(bytes(16), 64, 1, 1))
ALL = CoinWish()
NOBODY = 65534


def place(root: Path) -> WalletPlace:
    with open_folder(bytes(root)) as folder:
        return WalletPlace(bytes(root), folder.identity)


def coin(serial: int, code: int = 0) -> Coin:
    return Coin(code, serial, Random(serial).randbytes(400))


def put(root: Path, name: str, content: bytes) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def put_coin(root: Path, name: str, serial: int, code: int = 0) -> Path:
    return put(root, name, format9.encode_single(coin(serial, code)))


def listing(root: Path, wish: CoinWish = ALL, *, size: int = 1000, keys: tuple[WalletKey, ...] = ()) -> list[CoinRow]:
    """All pages."""
    rows: list[CoinRow] = []
    texts = [key.to_text() for key in keys]
    while True:
        after = rows[-1].position if rows else None
        page = coins_page(place(root), texts, wish, after, size)
        rows += page
        if len(page) < size:
            return rows


def totals(root: Path, *keys: WalletKey) -> WalletTotals:
    return read_totals(place(root), [key.to_text() for key in keys])


def facts(found: WalletTotals, folder: bytes) -> tuple[int, int, int, int]:
    """Coins, opaque, encrypted and multi-coin files."""
    one = found.folders[folder]
    return one.coins, one.opaque_files, one.encrypted_files, one.multi_coin_files


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    yield
    forget()


def forget() -> None:
    """What happens to kept listings after a minute, or with the process."""
    wallet_contents._KEPT._listings.clear()


@pytest.fixture(scope="module")
def wallet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("wallets") / "wallet"
    generate_wallet(root, 300, seed=7)
    return root


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    root = tmp_path / "wallet"
    generate_wallet(root, 0, seed=1)
    return root


def counted(root: Path) -> list[tuple[str, int, int, str]]:
    """Folder, value, serial and file name of each coin, in the order of the API, by the tests' own reader."""
    coins = []
    for path in root.rglob("*.bin"):
        for _split, _shard, code, serial, _ans in format9_reader.read(path.read_bytes())["coins"]:
            folder, _, name = str(path.relative_to(root)).partition("/")
            coins.append((folder, 10 ** (code + 8), serial, name))
    return sorted(coins, key=lambda one: (one[0].encode(), -one[1], one[2], one[3].encode()))


def test_totals_are_those_of_an_independent_count(wallet: Path) -> None:
    found, expected = totals(wallet), counted(wallet)
    assert len(expected) == 300
    for folder in {one[0] for one in expected}:
        mine = found.folders[folder.encode()]
        assert mine.values == Counter(value for name, value, _, _ in expected if name == folder)
    money = [value for folder, value, _, _ in expected if folder in ("Bank", "Fracked")]
    assert found.spendable == (len(money), sum(money))
    limbo = [value for folder, value, _, _ in expected if folder == "Limbo"]
    assert found.limbo == (len(limbo), sum(limbo))
    assert found.reserved == (0, 0)
    assert [name for name, _ in found.shown] == [b"Bank", b"Counterfeit", b"Fracked", b"Import", b"Limbo", b"Receipts"]
    assert facts(found, b"Import") == (0, 1, 0, 0), "its note is no coin file"


def test_the_list_is_that_of_an_independent_count(wallet: Path) -> None:
    rows = listing(wallet)
    assert [(row.folder, row.value, row.serial, unescape(row.name).decode()) for row in rows] == counted(wallet)
    assert {(row.generation, row.encrypted, row.multi_coin) for row in rows} == {("V3", False, False)}


@given(size=st.integers(1, 310), forgetful=st.booleans())
def test_pages_of_any_size_give_every_coin_once_in_order(wallet: Path, size: int, forgetful: bool) -> None:
    whole, rows = listing(wallet), []
    while True:
        page = coins_page(place(wallet), [], ALL, rows[-1].position if rows else None, size)
        assert len(page) <= size
        rows += page
        if forgetful:
            forget()
        if len(page) < size:
            break
    assert rows == whole


def test_filters_choose_folders_and_values(wallet: Path) -> None:
    whole = listing(wallet)
    value = whole[0].value
    for folders in ({"Bank"}, {"Limbo", "Fracked"}, {"None such"}, {""}):
        wish = CoinWish(frozenset(map(str.encode, folders)))
        assert listing(wallet, wish, size=7) == [row for row in whole if row.folder in folders]
        both = wish._replace(value=value)
        assert listing(wallet, both) == [row for row in whole if row.folder in folders and row.value == value]
    assert listing(wallet, CoinWish(value=3)) == []


@pytest.mark.parametrize("forgetful", [False, True], ids=["kept", "read again"])
def test_a_wallet_that_changes_between_pages_repeats_and_skips_nothing_that_stayed(
    tmp_path: Path, forgetful: bool
) -> None:
    root = tmp_path / "wallet"
    generate_wallet(root, 60, seed=3)
    before, rng = listing(root), Random(5)
    forget()
    gone: set[tuple[str, str]] = set()
    rows: list[CoinRow] = []
    number = 0
    while True:
        page = coins_page(place(root), [], ALL, rows[-1].position if rows else None, 7)
        rows += page
        if len(page) < 7:
            break
        taken = rng.choice([row for row in before if (row.folder, row.name) not in gone])
        (root / taken.folder / os.fsdecode(unescape(taken.name))).unlink()
        gone.add((taken.folder, taken.name))
        for folder in ("Bank", "Limbo"):
            number += 1
            put_coin(root, f"{folder}/new {number}.bin", 20_000_000 + number, rng.randrange(-8, 7))
        if forgetful:
            forget()
    assert len({row.position for row in rows}) == len(rows), "nothing came twice"
    assert rows == sorted(rows, key=lambda row: row.position)
    stayed = [row for row in before if (row.folder, row.name) not in gone]
    assert [row for row in rows if row in set(stayed)] == stayed


def test_a_first_page_reads_afresh_and_filters_do_not_share(empty: Path) -> None:
    for number in range(4):
        put_coin(empty, f"Bank/{number}.bin", 100 + number)
    first = coins_page(place(empty), [], ALL, None, 2)
    (empty / "Bank" / "3.bin").unlink()
    put_coin(empty, "Limbo/9.bin", 9)
    assert [row.name for row in coins_page(place(empty), [], ALL, first[-1].position, 9)] == ["2.bin", "3.bin"]
    wish = CoinWish(frozenset({b"Bank"}))
    assert [row.name for row in coins_page(place(empty), [], wish, first[-1].position, 9)] == ["2.bin"]
    assert [row.name for row in coins_page(place(empty), [], ALL, None, 9)] == ["0.bin", "1.bin", "2.bin", "9.bin"]


def test_kept_listings_are_bounded(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        put_coin(empty, f"Bank/{number}.bin", number + 1, number)
    monkeypatch.setattr(wallet_contents, "_MOST_LISTINGS", 3)
    for value in range(5):
        put_coin(empty, f"Bank/twin {value}.bin", 50 + value, value)
        coins_page(place(empty), [], CoinWish(value=10 ** (8 + value)), None, 1)
    assert len(wallet_contents._KEPT._listings) == 3
    monkeypatch.setattr(wallet_contents, "_MOST_COINS", 5)
    coins_page(place(empty), [], ALL, None, 1)
    assert [len(kept[1]) for kept in wallet_contents._KEPT._listings.values()] == [11], "the newest, however large"


def test_hostile_files_are_counted_and_neither_followed_nor_waited_for(empty: Path, tmp_path: Path) -> None:
    bank = empty / "Bank"
    put_coin(empty, "Bank/good.bin", 1)
    outside = put_coin(tmp_path, "outside/coin.bin", 2)
    (bank / "shadow.bin").symlink_to("/etc/shadow")
    (bank / "link.bin").symlink_to(outside)
    (bank / "folder link").symlink_to(outside.parent)
    (bank / "dangling.bin").symlink_to("nowhere")
    os.mkfifo(bank / "pipe.bin")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(bank / "socket.bin"))
    (bank / "nothing.bin").touch()
    (bank / "noise.bin").write_bytes(Random(1).randbytes(439))
    (bank / "short.bin").write_bytes(outside.read_bytes()[:300])
    with (bank / "huge.bin").open("wb") as huge:
        huge.write(outside.read_bytes()[:64])
        huge.truncate(1 << 40)
    put_coin(empty, "Bank/directory.bin/inside.bin", 3)
    (bank / os.fsdecode(b"\xff\xfe.bin")).write_bytes(format9.encode_single(coin(4)))
    (bank / "new\nline \N{RIGHT-TO-LEFT OVERRIDE}.bin").write_bytes(format9.encode_single(coin(5)))
    found = totals(empty)
    assert facts(found, b"Bank") == (4, 10, 0, 0)
    assert [row.name for row in listing(empty)] == [
        "good.bin",
        "directory.bin/inside.bin",
        "\\xff\\xfe.bin",
        "new\\x0aline \\u{202e}.bin",
    ]
    assert b"folder link" not in found.folders


def test_folders_may_be_links_deep_or_strange(empty: Path, tmp_path: Path) -> None:
    put_coin(tmp_path, "elsewhere/coin.bin", 1)
    (empty / "Linked").symlink_to(tmp_path / "elsewhere")
    (empty / os.fsdecode(b"\xff")).mkdir()
    (empty / os.fsdecode(b"\xff") / "coin.bin").write_bytes(format9.encode_single(coin(2)))
    deep = "Sent/" + "/".join(f"{level}" for level in range(70))
    put_coin(empty, deep + "/coin.bin", 3)
    put_coin(empty, "Sent/0/1/2/coin.bin", 4)
    put_coin(empty, "coin.bin", 5)
    found = totals(empty)
    assert facts(found, b"") == (1, 1, 0, 0), "the coin in the root, and the link"
    assert facts(found, b"Sent") == (1, 1, 0, 0), "what lies too deep is told"
    assert [(row.folder, row.name) for row in listing(empty)] == [
        ("", "coin.bin"),
        ("Sent", "0/1/2/coin.bin"),
        ("\\xff", "coin.bin"),
    ]


def test_several_coins_in_a_file_and_the_older_generations(empty: Path) -> None:
    put(empty, "Bank/many.bin", format9.encode_many([coin(3, 2), coin(1, 0), coin(1, 0)]))
    second = Coin(0, 77, bytes(range(200)) * 2, generation=Generation.V2, network=1)
    put(empty, "Fracked/old.bin", ccv2.encode_single(second))
    numbers = ",".join(f'"{one:032x}"' for one in range(1, 26))
    put(empty, "Fracked/old.stack", b'{"cloudcoin":[{"nn":"1","sn":"16777215","an":[%b]}]}' % numbers.encode())
    found = totals(empty)
    assert facts(found, b"Bank") == (3, 0, 0, 1)
    assert found.folders[b"Fracked"].values == {10**8: 1, 250 * 10**8: 1}
    rows = listing(empty, size=2)
    assert [(row.generation, row.value // 10**8, row.serial, row.multi_coin) for row in rows] == [
        ("V3", 100, 3, True),
        ("V3", 1, 1, True),
        ("V3", 1, 1, True),
        ("V1", 250, 16777215, False),
        ("V2", 1, 77, False),
    ]
    assert len({row.position for row in rows}) == 5, "twins have places of their own"


def test_the_vendors_encrypted_files_are_counted_alone(empty: Path) -> None:
    single, many = bytearray(format9.encode_single(coin(1))), bytearray(format9.encode_many([coin(1), coin(2)]))
    single[5] = many[5] = 4
    put(empty, "Bank/single.bin", bytes(single))
    put(empty, "Bank/many.bin", bytes(many))
    assert facts(totals(empty, KEY), b"Bank") == (0, 0, 2, 1)
    assert listing(empty, keys=(KEY,)) == []


def test_coin_envelopes_open_with_the_key_of_the_wallet(empty: Path) -> None:
    sealed = envelope.encrypt(format9.encode_single(coin(1, 3)), KEY)
    put(empty, "Bank/1.bin.hfcc", sealed)
    put(empty, "Bank/2.bin.hfcc", envelope.encrypt(format9.encode_many([coin(2), coin(3)]), KEY))
    put(empty, "Bank/cut.hfcc", sealed[:-1])
    put(empty, "Bank/header.hfcc", sealed[:50])
    put(empty, "Bank/flipped.hfcc", sealed[:-1] + bytes([sealed[-1] ^ 1]))
    put(empty, "Bank/text.hfcc", envelope.encrypt(b"no coin", KEY))
    put_coin(empty, "Bank/clear.bin", 9)
    unlocked = totals(empty, KEY)
    assert facts(unlocked, b"Bank") == (4, 4, 0, 1)
    assert unlocked.spendable == (4, 1003 * 10**8)
    assert facts(totals(empty), b"Bank") == (1, 1, 5, 0), "only a broken header shows without the key"
    assert facts(totals(empty, OTHER), b"Bank") == (1, 1, 5, 0)
    assert [(row.name, row.encrypted, row.multi_coin) for row in listing(empty, keys=(KEY,))] == [
        ("1.bin.hfcc", True, False),
        ("2.bin.hfcc", True, True),
        ("2.bin.hfcc", True, True),
        ("clear.bin", False, False),
    ]
    assert [row.name for row in listing(empty)] == ["clear.bin"]


def test_a_locked_wallet_never_shows_what_was_listed_while_it_was_open(empty: Path) -> None:
    for serial in (1, 2, 3):
        put(empty, f"Bank/{serial}.hfcc", envelope.encrypt(format9.encode_single(coin(serial)), KEY))
    first = coins_page(place(empty), [KEY.to_text()], ALL, None, 1)
    assert len(coins_page(place(empty), [KEY.to_text()], ALL, first[0].position, 9)) == 2
    assert coins_page(place(empty), [], ALL, first[0].position, 9) == []


def test_reserved_coins_stand_apart(empty: Path) -> None:
    put_coin(empty, "Bank/1.bin", 1, 2)
    put_coin(empty, ".holdfast/export-1/2.bin", 2, 1)
    put_coin(empty, ".holdfast/import-2/deep/3.bin", 3)
    put(empty, ".holdfast/lock", b"")
    put(empty, ".holdfast/export-1.json", b"{}")
    put_coin(empty, ".holdfast-restore-1/4.bin", 4)
    found = totals(empty)
    assert (found.spendable, found.reserved) == ((1, 100 * 10**8), (1, 10 * 10**8)), (
        "staged by an import is not reserved"
    )
    assert [name for name, _ in found.shown] == [b"Bank", b"Import"]
    assert reserved(place(empty)) == 1
    assert [(row.folder, row.name) for row in listing(empty)] == [
        (".holdfast", "export-1/2.bin"),
        ("Bank", "1.bin"),
    ]
    put(empty, ".holdfast/export-1/damaged.bin", b"x")
    assert [name for name, _ in totals(empty).shown] == [b".holdfast", b"Bank", b"Import"], "nothing is kept quiet"


def test_a_coin_that_moves_while_the_wallet_is_read_is_seen_once(empty: Path) -> None:
    source = put_coin(empty, "Bank/1.bin", 1)
    put_coin(empty, "Bank/2.bin", 2)
    target = empty / ".holdfast" / "export-1" / "1.bin"
    target.parent.mkdir(parents=True)
    moves = iter([(source, target), (target, source)])

    class Moving(WalletTotals):
        def coin(self, *found: Any) -> None:
            super().coin(*found)
            for old, new in moves:
                old.rename(new)
                break

    with open_folder(bytes(empty)) as root:
        found = scan_wallet(root, Keyring(), Moving)
    assert (found.spendable, found.reserved) == ((2, 2 * 10**8), (0, 0))


def test_a_wallet_that_never_rests_is_read_three_times(empty: Path) -> None:
    put_coin(empty, "Bank/1.bin", 1)
    made = []

    class Restless(WalletTotals):
        def coin(self, *found: Any) -> None:
            super().coin(*found)
            made.append(put_coin(empty, f"Limbo/{len(made)}.bin", 7))

    with open_folder(bytes(empty)) as root:
        found = scan_wallet(root, Keyring(), Restless, {b"Bank", b"Limbo"})
    assert found.spendable[0] == 1
    assert made


def test_a_folder_of_money_that_cannot_be_listed_is_an_error_and_a_file_is_not(empty: Path) -> None:
    put_coin(empty, "Bank/1.bin", 1)
    put_coin(empty, "Bank/shut.bin", 2).chmod(0)
    put_coin(empty, "Sent/3.bin", 3)
    (empty / "Sent").chmod(0)
    with open_folder(bytes(empty)) as root:
        found = _as_nobody(empty, root)
        assert facts(found, b"Bank") == (1, 1, 0, 0)
        assert facts(found, b"Sent") == (0, 1, 0, 0)
        for folder in ("Bank", "Limbo"):
            (empty / folder).chmod(0)
            with pytest.raises(FailedPrecondition) as caught:
                _as_nobody(empty, root)
            (empty / folder).chmod(0o700)
            assert caught.value.reason is Reason.SOURCE_UNREADABLE
            assert caught.value.metadata == {"path": str(empty / folder), "errno": "EACCES"}
    (empty / "Sent").chmod(0o700)


def _as_nobody(wallet: Path, root: OpenFolder) -> WalletTotals:
    """A scan without superuser rights, of a wallet that belongs to the one who scans."""
    if os.geteuid() != 0:
        return scan_wallet(root, Keyring(), WalletTotals)
    for path in (wallet, *wallet.rglob("*")):
        os.chown(path, NOBODY, -1, follow_symlinks=False)
    os.seteuid(NOBODY)
    try:
        return scan_wallet(root, Keyring(), WalletTotals)
    finally:
        os.seteuid(0)


def test_another_folder_in_the_wallets_place_is_not_read(empty: Path, tmp_path: Path) -> None:
    known = place(empty)
    empty.rename(tmp_path / "old")
    generate_wallet(empty, 3, seed=2)
    with pytest.raises(Unavailable) as caught:
        read_totals(known, [])
    assert caught.value.reason is Reason.SOURCE_OFFLINE


def test_results_hold_no_authenticity_numbers(empty: Path) -> None:
    single = coin(1)
    put(empty, "Bank/1.bin", format9.encode_single(single))
    put(empty, "Bank/2.bin", format9.encode_many([single, coin(2)]))
    shown = pickle.dumps((totals(empty), listing(empty))) + repr((totals(empty), listing(empty))).encode()
    kept = b"".join(entry for _, listed in wallet_contents._KEPT._listings.values() for entry in listed)
    for at in range(0, 400, 16):
        assert single.ans[at : at + 16] not in shown + kept
        assert single.ans[at : at + 16].hex().encode() not in shown
    assert wallet_scan.LISTING_SIZE < 32 + 7 + 400
