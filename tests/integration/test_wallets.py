"""Wallets over the wire: balance, coins, and what the edge's reader process does to them."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import uuid
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import holdfast
from holdfast.cli.app import main
from holdfast.v1 import source_pb2, wallet_pb2
from holdfast.v1 import source_service_pb2 as source_calls
from holdfast.v1 import wallet_service_pb2 as calls
from holdfast_server.wallets import envelope
from holdfast_server.wallets.envelope import KeyParameters, WalletKey
from holdfast_server.wallets.generate import generate_wallet
from tests.harness import PATIENCE, Server, until
from tests.integration.test_errors import refused
from tests.unit.core.test_wallet_contents import counted, put, put_coin

WALLET = source_pb2.SOURCE_KIND_WALLET
COIN = 10**8


class Purse:
    """A registered wallet."""

    def __init__(self, server: Server, base: Path, coins: int = 120) -> None:
        self.server, self.root = server, base / "wallet"
        generate_wallet(self.root, coins, seed=11)
        self.source_id = f"w-{uuid.uuid4().hex[:12]}"
        server.register(self.root, self.source_id, kind=WALLET)

    def balance(self) -> wallet_pb2.Balance:
        return self.server.wallets.GetBalance(calls.GetBalanceRequest(source_id=self.source_id), timeout=PATIENCE)

    def page(self, **values: Any) -> calls.ListCoinsResponse:
        request = calls.ListCoinsRequest(source_id=self.source_id, **values)
        return self.server.wallets.ListCoins(request, timeout=PATIENCE)

    def coins(self, **values: Any) -> list[wallet_pb2.Coin]:
        coins, token = [], ""
        while True:
            page = self.page(page_token=token, **values)
            assert len(page.coins) <= values.get("page_size", 50)
            coins += page.coins
            token = page.next_page_token
            if not token:
                return coins

    def refused(self, **values: Any) -> Any:
        request = calls.ListCoinsRequest(**{"source_id": self.source_id, **values})
        return refused(self.server.wallets.ListCoins, request)


@pytest.fixture(scope="module")
def purse(shared_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Purse:
    """A wallet that no test changes."""
    return Purse(shared_server, tmp_path_factory.mktemp("purse"))


@pytest.fixture
def own(shared_server: Server, tmp_path: Path) -> Purse:
    return Purse(shared_server, tmp_path, coins=0)


def units(amount: str) -> int:
    return int(Decimal(amount) * COIN)


def test_a_balance_is_that_of_an_independent_count(purse: Purse) -> None:
    expected, balance = counted(purse.root), purse.balance()
    money = [value for folder, value, _, _ in expected if folder in ("Bank", "Fracked")]
    assert (balance.source_id, balance.unlocked) == (purse.source_id, False)
    assert (balance.spendable.coins, units(balance.spendable.amount)) == (len(money), sum(money))
    assert balance.reserved == wallet_pb2.CoinTotal(coins=0, amount="0")
    for folder in balance.folders:
        mine = Counter(value for name, value, _, _ in expected if name == folder.folder)
        assert [(units(d.denomination), d.coins, units(d.amount)) for d in folder.denominations] == [
            (value, coins, value * coins) for value, coins in sorted(mine.items(), reverse=True)
        ]
        assert (folder.total.coins, units(folder.total.amount)) == (
            mine.total(),
            sum(value * coins for value, coins in mine.items()),
        )
    assert {folder.folder for folder in balance.folders} >= {one[0] for one in expected}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(1, 130))
def test_pages_of_any_size_are_all_coins_in_order(purse: Purse, size: int) -> None:
    coins = purse.coins(page_size=size)
    assert [(c.folder, units(c.denomination), c.serial_number, c.file_name) for c in coins] == [
        (folder, value, serial, name) for folder, value, serial, name in counted(purse.root)
    ]
    assert {c.generation for c in coins} == {wallet_pb2.COIN_GENERATION_V3}


def test_filters_over_the_wire(purse: Purse) -> None:
    everything = purse.coins()
    some = purse.coins(folders=["Limbo", "Bank"], page_size=9)
    assert some == [coin for coin in everything if coin.folder in ("Limbo", "Bank")]
    value = everything[0].denomination
    assert purse.coins(denomination=f"{value}.000") == [c for c in everything if c.denomination == value]
    assert purse.coins(folders=["Nowhere"]) == []


def test_wrong_requests_are_refused_by_name(purse: Purse, own: Purse) -> None:
    put_coin(own.root, "Bank/1.bin", 1)
    put_coin(own.root, "Bank/2.bin", 2)
    token = purse.page(page_size=1).next_page_token
    content = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))

    def forged(position: list[Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps([content[0], position]).encode()).decode().rstrip("=")

    for bad in ("x", "!!", forged(["zz"]), forged([1]), forged([]), forged(["é"]), token[:-3]):
        failure = purse.refused(page_token=bad)
        assert (failure.name, failure.fields) == ("INVALID_ARGUMENT/INVALID_FIELD", ["page_token"]), bad
    for values in ({"folders": ["Bank"]}, {"denomination": "1"}, {"source_id": own.source_id}):
        failure = purse.refused(page_token=token, **values)
        assert failure.fields == ["page_token"], "of another request"
    for bad in ("", "1,5", "-1", "1e3", "0", "0.000000001", "NaN", "9" * 50):
        assert purse.refused(denomination=bad).fields == ["denomination"]
    assert purse.refused(folders=["Bank", "a/b"]).fields == ["folders[1]"]
    assert purse.refused(page_size=-1).fields == ["page_size"]
    assert purse.page(page_token=forged(["00"])).coins, "any position is a place in the order"


def test_only_wallets_that_are_there_are_read(own: Purse, tmp_path: Path) -> None:
    server = own.server
    plain = f"d-{uuid.uuid4().hex[:8]}"
    server.register(tmp_path, plain)
    for source_id, name in (
        (plain, "FAILED_PRECONDITION/NOT_A_WALLET"),
        ("none-such", "NOT_FOUND/SOURCE_NOT_FOUND"),
        ("", "NOT_FOUND/SOURCE_NOT_FOUND"),
    ):
        assert refused(server.wallets.GetBalance, calls.GetBalanceRequest(source_id=source_id)).name == name
        assert own.refused(source_id=source_id).name == name
    request = calls.GetBalanceRequest(source_id=own.source_id)
    shutil.move(own.root / "Bank", tmp_path / "Bank")
    failure = refused(server.wallets.GetBalance, request)
    assert failure.name == "FAILED_PRECONDITION/NOT_A_WALLET", "a wallet without a Bank has no balance of 0"
    shutil.move(tmp_path / "Bank", own.root / "Bank")
    assert own.balance().spendable.coins == 0
    shutil.move(own.root, tmp_path / "away")
    assert refused(server.wallets.GetBalance, request).name == "UNAVAILABLE/SOURCE_OFFLINE"
    assert own.refused().name == "UNAVAILABLE/SOURCE_OFFLINE"
    shutil.move(tmp_path / "away", own.root)
    server.sources.UpdateSource(source_calls.UpdateSourceRequest(source_id=own.source_id, suspended=True))
    assert own.balance().spendable.amount == "0", "a suspended wallet may be looked at"


def test_what_is_strange_in_a_wallet_is_told_and_nothing_fails(own: Purse) -> None:
    bank = own.root / "Bank"
    put_coin(own.root, "Bank/1.bin", 1, 2)
    (bank / "shadow.bin").symlink_to("/etc/shadow")
    os.mkfifo(bank / "pipe.bin")
    put(own.root, "Bank/empty.bin", b"")
    (bank / os.fsdecode(b"\xff.bin")).write_bytes((bank / "1.bin").read_bytes())
    put_coin(own.root, ".holdfast/export-1/2.bin", 2, 1)
    balance = own.balance()
    assert (balance.spendable.coins, balance.spendable.amount) == (2, "200")
    assert (balance.reserved.coins, balance.reserved.amount) == (1, "10")
    folder = next(one for one in balance.folders if one.folder == "Bank")
    assert (folder.opaque_files, folder.encrypted_files, folder.multi_coin_files) == (3, 0, 0)
    assert [(c.folder, c.file_name) for c in own.coins(page_size=1)] == [
        (".holdfast", "export-1/2.bin"),
        ("Bank", "1.bin"),
        ("Bank", "\\xff.bin"),
    ]
    assert own.coins(folders=[".holdfast"]) == own.coins()[:1]


def test_unregistering_tells_of_reserved_coins(own: Purse, tmp_path: Path) -> None:
    for serial in (1, 2, 3):
        put_coin(own.root, f".holdfast/export-1/{serial}.bin", serial)
    server, request = own.server, source_calls.UnregisterSourceRequest(source_id=own.source_id)
    assert server.sources.UnregisterSource(request).reserved_coins_kept == 3
    server.register(own.root, own.source_id, kind=WALLET)
    shutil.move(own.root, tmp_path / "away")
    assert server.sources.UnregisterSource(request).reserved_coins_kept == 0, "nobody can see them"
    assert refused(server.sources.UnregisterSource, request).name == "NOT_FOUND/SOURCE_NOT_FOUND"
    directory = f"d-{uuid.uuid4().hex[:8]}"
    server.register(tmp_path / "away", directory)
    request = source_calls.UnregisterSourceRequest(source_id=directory)
    assert server.sources.UnregisterSource(request).reserved_coins_kept == 0, "a directory reserves nothing"


def test_an_unlocked_wallet_shows_the_coins_in_its_envelopes(own: Purse) -> None:
    key = WalletKey.derive("open sesame", KeyParameters(bytes(16), 64, 1, 1))
    for serial in (1, 2):
        sealed = envelope.encrypt(put_coin(own.root, "Bank/clear.bin", serial, 2).read_bytes(), key)
        put(own.root, f"Fracked/{serial}.bin.hfcc", sealed)
    locked = own.balance()
    assert (locked.unlocked, locked.spendable.amount) == (False, "100")
    assert next(one for one in locked.folders if one.folder == "Fracked").encrypted_files == 2
    unlock = calls.UnlockWalletRequest(source_id=own.source_id, password="open sesame")
    assert own.server.wallets.UnlockWallet(unlock, timeout=PATIENCE).key_id == key.key_id
    balance, coins = own.balance(), own.coins(page_size=1)
    assert (balance.unlocked, balance.spendable.amount) == (True, "300")
    assert [(c.folder, c.serial_number, c.encrypted) for c in coins] == [
        ("Bank", 2, False),
        ("Fracked", 1, True),
        ("Fracked", 2, True),
    ]
    token = own.page(page_size=1).next_page_token
    own.server.wallets.LockWallet(calls.LockWalletRequest(source_id=own.source_id), timeout=PATIENCE)
    assert own.balance() == locked
    assert not own.page(page_token=token).coins, "nor does a page that was listed before"


def readers(server: Server) -> list[psutil.Process]:
    edge = psutil.Process(server.pids("edge")[0])
    return [one for one in edge.children() if "holdfast_server.tasks.wallet_reader" in one.cmdline()]


def test_the_reader_is_replaced_and_ends_with_the_edge(new_server: Any, tmp_path: Path) -> None:
    server = new_server()
    own = Purse(server, tmp_path, coins=30)
    assert readers(server) == [], "no process before it is needed"
    expected = own.coins(page_size=7)
    (first,) = readers(server)
    page = own.page(page_size=7)
    first.kill()
    assert [*page.coins, *own.page(page_size=7, page_token=page.next_page_token).coins] == expected[:14]
    (second,) = readers(server)
    assert second.pid != first.pid
    server.signal("edge", signal.SIGKILL)
    until(lambda: not second.is_running() or second.status() == "zombie", "the reader's end")
    until(server.serving, "the next edge")
    assert own.balance().spendable.coins == sum(c.folder in ("Bank", "Fracked") for c in expected)
    (third,) = readers(server)
    assert server.stop() == 0
    until(lambda: not third.is_running() or third.status() == "zombie", "the reader's end")


def test_the_python_client(purse: Purse) -> None:
    with holdfast.connect(purse.server.address, token=purse.server.token) as client:
        balance = client.wallets.balance(purse.source_id)
        assert balance.spendable.amount == Decimal(purse.balance().spendable.amount)
        assert balance.folders[0].denominations[0].denomination > 0
        coins = list(client.wallets.coins(purse.source_id, page_size=11))
        assert [coin.file_name for coin in coins] == [coin.file_name for coin in purse.coins()]
        assert coins[0].generation is holdfast.CoinGeneration.V3
        tens = list(client.wallets.coins(purse.source_id, folders=["Bank"], denomination=Decimal("1E+1")))
        assert tens == [coin for coin in coins if coin.folder == "Bank" and coin.denomination == 10]
        with pytest.raises(TypeError):
            client.wallets.coins(purse.source_id, denomination=0.1)  # type: ignore[arg-type]
        with pytest.raises(holdfast.NotFound):
            client.wallets.balance("none-such")


def test_the_command(own: Purse, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        code = main(["--data-dir", str(own.server.data_dir), "wallet", *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    put_coin(own.root, "Bank/1.bin", 7, 4)
    put(own.root, "Bank/two.bin", (own.root / "Bank/1.bin").read_bytes()[:7] + b"\2" + bytes(24))
    put_coin(own.root, ".holdfast/export-1/2.bin", 8, -8)
    code, out, err = run("balance", own.source_id, "--denominations")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0] == f"{own.source_id} (locked): 10,000 in 1 coin"
    assert lines[1] == "reserved by exports: 0.00000001 in 1 coin"
    assert lines[2].split() == ["FOLDER", "COINS", "AMOUNT", "ENCRYPTED", "OPAQUE"]
    assert [line.split() for line in lines[3:5]] == [["Bank", "1", "10,000", "1"], ["10,000", "1", "10,000"]]
    code, out, _ = run("balance", own.source_id, "--json")
    shown = json.loads(out)
    assert (code, shown["type"], shown["reserved"]) == (0, "balance", {"coins": 1, "amount": "0.00000001"})
    code, out, _ = run("coins", own.source_id)
    assert [line.split() for line in out.splitlines()] == [
        ["FOLDER", "VALUE", "SERIAL", "GEN", "FILE"],
        [".holdfast", "0.00000001", "8", "V3", "export-1/2.bin"],
        ["Bank", "10,000", "7", "V3", "1.bin"],
        ["2", "coins,", "10,000.00000001"],
    ]
    code, out, _ = run("coins", own.source_id, "--folder", "Bank", "--json")
    assert (code, json.loads(out)["denomination"]) == (0, "10000")
    code, _, err = run("coins", own.source_id, "--denomination", "many")
    assert code == 2
    assert "denomination" in err
    assert run("balance", "none-such")[0] == 1
