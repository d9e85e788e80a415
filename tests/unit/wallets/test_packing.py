from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast_server.errors import InvalidArgument, Reason
from holdfast_server.wallets import format9, packing, stack
from holdfast_server.wallets.coin import Coin, Generation
from holdfast_server.wallets.coin_file import Container, read_coin_file
from holdfast_server.wallets.packing import MAX_COINS, CoinForm, check, pack
from holdfast_server.wallets.picture import Picture
from tests.coins import second_reader, second_writer
from tests.coins.strategies import plain

ANS = bytes(range(1, 201)) * 2
POWN = "u" + "p" * 23 + "f"


def coins(generation: Generation, count: int = 3, **changes: object) -> list[Coin]:
    v3 = {"denomination": -2, "split": 3} if generation is Generation.V3 else {"denomination": 0}
    made = [
        Coin(serial=70 + n, ans=bytes([n + 1]) + ANS[1:], pown=POWN, generation=generation, **v3) for n in range(count)
    ]
    return [replace(coin, **changes) for coin in made]


CONTAINERS = {CoinForm.ZIP: Container.ZIP, CoinForm.STACK: Container.STACK, CoinForm.PNG: Container.PNG}
BINARY = {Generation.V2: Container.CCV2, Generation.V3: Container.FORMAT9}


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("form", CoinForm)
@pytest.mark.parametrize("generation", Generation)
def test_every_form_of_every_generation_is_read_by_both_readers(generation, form, count):
    if (generation, form) == (Generation.V1, CoinForm.BIN):
        return
    given = coins(generation, count)
    content = pack(given, form, generation)
    file = read_coin_file(content)
    assert file.container is CONTAINERS.get(form, BINARY.get(generation))
    # Only the file of several Format 9 coins, which is also what its picture carries, has no room for the POWN.
    kept = form in (CoinForm.ZIP, CoinForm.STACK) or generation is not Generation.V3
    assert list(file.coins) == (given if kept else [replace(coin, pown="u" * 25) for coin in given])
    assert second_reader.read(content) == [plain(coin) | ({} if kept else {"pown": None}) for coin in given]
    assert pack(given, form, generation) == content


@pytest.mark.parametrize(
    ("generation", "names"),
    [
        (Generation.V1, ["1.CloudCoin.1.70..stack", "1.CloudCoin.1.71..stack"]),
        (Generation.V2, [f"1.CloudCoin.1.70.{POWN}.bin", f"1.CloudCoin.1.71.{POWN}.bin"]),
        (Generation.V3, ["0.01 CloudCoin #70 ''.bin", "0.01 CloudCoin #71 ''.bin"]),
    ],
)
def test_members_are_named_as_the_programs_of_their_generation_do(generation, names):
    members = second_reader.zip_members(pack(coins(generation, 2), CoinForm.ZIP, generation))
    assert [name for name, _ in members] == names


def test_names_are_unique():
    same = coins(Generation.V3, 3, serial=5)
    members = second_reader.zip_members(pack(same, CoinForm.ZIP, Generation.V3))
    assert [name for name, _ in members] == [
        "0.01 CloudCoin #5 ''.bin",
        "0.01 CloudCoin #5 ''-2.bin",
        "0.01 CloudCoin #5 ''-3.bin",
    ]


def test_the_binary_file_is_the_export_form_with_the_motto():
    for count in (1, 3):
        assert pack(coins(Generation.V3, count), CoinForm.BIN, Generation.V3)[16:32] == format9.MOTTO


def test_the_first_generation_has_no_binary_file():
    with pytest.raises(InvalidArgument, match="V1 coins have no binary file") as caught:
        pack(coins(Generation.V1), CoinForm.BIN, Generation.V1)
    assert caught.value.reason is Reason.INVALID_FIELD
    assert caught.value.violations[0].field == "format"
    assert caught.value.metadata["generation"] == "V1"


@pytest.mark.parametrize("form", [CoinForm.BIN, CoinForm.PNG])
def test_what_a_ccv2_file_cannot_hold_is_refused_and_fits_into_zips_and_stacks(form):
    v2 = coins(Generation.V2)
    pans, ids = [replace(v2[0], pans=ANS), *v2[1:]], [replace(v2[0], network=2), *v2[1:]]
    for wrong in (pans, ids):
        with pytest.raises(InvalidArgument) as caught:
            check(wrong, form, Generation.V2)
        with pytest.raises(InvalidArgument, match="use ZIP"):
            pack(wrong, form, Generation.V2)
        assert caught.value.violations[0].field == "format"
        assert list(read_coin_file(pack(wrong, CoinForm.STACK, Generation.V2)).coins) == wrong
    for fitting in (pans, ids):
        assert list(read_coin_file(pack(fitting, CoinForm.ZIP, Generation.V2)).coins) == fitting
    assert read_coin_file(pack(pans[:1], form, Generation.V2)).coins == (pans[0],)


def test_proposed_numbers_are_kept():
    mixed = [replace(coin, pans=ANS if number else b"") for number, coin in enumerate(coins(Generation.V3))]
    for form in (CoinForm.ZIP, CoinForm.STACK, CoinForm.BIN):
        read = read_coin_file(pack(mixed, form, Generation.V3)).coins
        assert [coin.pans for coin in read] == [b"", ANS, ANS]


def test_a_full_file_and_one_coin_more():
    many = [replace(coin, serial=number) for number, coin in enumerate(coins(Generation.V3, 1) * MAX_COINS)]
    assert len(read_coin_file(pack(many, CoinForm.ZIP, Generation.V3)).coins) == MAX_COINS
    for wrong in ([], [*many, many[0]]):
        with pytest.raises(ValueError, match="instead of 1"):
            pack(wrong, CoinForm.STACK, Generation.V3)


def test_generations_are_not_mixed():
    with pytest.raises(ValueError, match="not all coins are of V3"):
        pack([*coins(Generation.V3), *coins(Generation.V2)], CoinForm.STACK, Generation.V3)


def test_what_does_not_hold_its_coins_is_never_given_out(monkeypatch):
    monkeypatch.setattr(
        stack, "encode", lambda coins: second_writer.stack([second_writer.stack_entry(plain(coins[0]))])
    )
    with pytest.raises(packing.Internal, match="does not hold them") as caught:
        pack(coins(Generation.V1), CoinForm.STACK, Generation.V1)
    assert caught.value.metadata == {"coins": "3", "read": "1"}


def test_the_picture_of_the_caller_carries_the_coins():
    template = second_writer.png()
    given = coins(Generation.V3)
    content = pack(given, CoinForm.PNG, Generation.V3, picture=Picture("tag", template))
    assert [kind for _, kind, _ in second_reader.png_chunks(content)][:2] == [b"IHDR", b"cLDc"]
    assert len(second_reader.read(content)) == 3
    with pytest.raises(InvalidArgument, match="carries coins already"):
        pack(given, CoinForm.PNG, Generation.V3, picture=Picture("tag", content))
