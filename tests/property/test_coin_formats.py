"""Every container of coins: what is written is read back, by this product and by a second reader of its own; what a
second writer makes is read; and whatever happens to the bytes, the reader neither raises nor hangs nor swells."""

from __future__ import annotations

import random
import tracemalloc
import zipfile
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_server.errors import InvalidArgument
from holdfast_server.wallets import ccv2, coin_png, format9, stack
from holdfast_server.wallets.classify import SNIFF_SIZE, classify
from holdfast_server.wallets.coin import Coin, Generation
from holdfast_server.wallets.coin_file import CoinFile, Container, Encryption, read_coin_file
from holdfast_server.wallets.listing import LISTING_SIZE, single_coin
from holdfast_server.wallets.packing import CoinForm, pack
from tests.coins import second_reader, second_writer
from tests.coins.strategies import BY_GENERATION, V1, V2, V3, plain

NO_POWN = "u" * 25


def without_pown(coins):
    return [replace(coin, pown=NO_POWN) for coin in coins]


def coins_of(content: bytes, container: Container) -> list[Coin]:
    file = read_coin_file(content)
    assert (file.container, file.problem, file.encryption) == (container, "", Encryption.PLAINTEXT)
    assert file.legible
    return list(file.coins)


@given(V3)
def test_format_9_of_one_coin(coin):
    content = format9.encode_single(coin)
    assert coins_of(content, Container.FORMAT9) == [coin]
    assert second_reader.read(content) == [plain(coin)]


@given(st.lists(V3, min_size=1, max_size=4))
def test_format_9_of_many_coins(coins):
    content = format9.encode_many(coins)
    assert coins_of(content, Container.FORMAT9) == without_pown(coins)
    assert second_reader.read(content) == [plain(coin) | {"pown": None} for coin in coins]


@given(V2)
def test_ccv2_of_one_coin(coin):
    content = ccv2.encode_single(coin)
    assert coins_of(content, Container.CCV2) == [coin]
    assert second_reader.read(content) == [plain(coin)]


@given(st.lists(V2.map(lambda coin: replace(coin, pans=b"", network=1)), min_size=1, max_size=4))
def test_ccv2_of_many_coins(coins):
    content = ccv2.encode_many(coins)
    assert coins_of(content, Container.CCV2) == coins
    assert second_reader.read(content) == [plain(coin) for coin in coins]


@given(st.lists(V1 | V2 | V3, min_size=1, max_size=4))
def test_stacks_of_any_coins(coins):
    content = stack.encode(coins)
    assert coins_of(content, Container.STACK) == coins
    assert second_reader.read(content) == [plain(coin) for coin in coins]


def fits_ccv2(coins: list[Coin]) -> bool:
    return len({coin.network for coin in coins}) == 1 and (len(coins) == 1 or not any(coin.pans for coin in coins))


@given(st.data(), st.sampled_from(Generation), st.sampled_from([CoinForm.ZIP, CoinForm.STACK, CoinForm.BIN]))
def test_packed_coins_are_read_by_both(data, generation, form):
    coins = data.draw(st.lists(BY_GENERATION[generation], min_size=1, max_size=3))
    binary = form is CoinForm.BIN
    if binary and (generation is Generation.V1 or (generation is Generation.V2 and not fits_ccv2(coins))):
        with pytest.raises(InvalidArgument, match="format"):
            pack(coins, form, generation)
        return
    content = pack(coins, form, generation)
    assert content == pack(coins, form, generation)
    assert without_pown(read_coin_file(content).coins) == without_pown(coins)
    assert [found | {"pown": ""} for found in second_reader.read(content)] == [
        plain(coin) | {"pown": ""} for coin in coins
    ]


@given(st.lists(V3, min_size=1, max_size=3), st.booleans(), st.binary(max_size=31))
def test_what_a_second_writer_makes_of_format_9(coins, motto, trailing):
    pans = any(coin.pans for coin in coins)
    content = second_writer.format9(
        [plain(coin) for coin in coins], motto=motto or len(coins) > 1, pans=pans, trailing=trailing
    )
    kept = coins if len(coins) == 1 and not motto else without_pown(coins)
    assert coins_of(content, Container.FORMAT9) == kept
    assert coins_of(second_writer.png(content), Container.PNG) == kept
    assert coins_of(second_writer.png(content, late=True), Container.PNG) == kept


@given(V2, st.binary(min_size=16, max_size=16))
def test_what_a_second_writer_makes_of_ccv2(coin, receipt):
    content = second_writer.ccv2([plain(coin)], receipt=receipt)
    assert coins_of(content, Container.CCV2) == [coin]
    assert coins_of(second_writer.png(content), Container.PNG) == [coin]


@given(V1, st.booleans(), st.sampled_from([b"\r\n", b"\n"]))
def test_what_a_second_writer_makes_of_stacks(coin, wrap, end):
    content = second_writer.stack([second_writer.stack_entry(plain(coin))] * 2)
    if wrap:
        content = second_writer.wrapped(content, end=end)
    assert coins_of(content, Container.STACK) == [coin, coin]
    assert coins_of(second_writer.png(content), Container.PNG) == [coin, coin]


@given(V1.filter(lambda coin: coin.serial < 2**24))
def test_what_a_second_writer_makes_of_jpegs(coin):
    coin = replace(coin, pans=b"", pown=coin.pown.replace("b", "e").replace("d", "n"))
    assert coins_of(second_writer.jpeg(plain(coin)), Container.JPEG) == [coin]


@given(st.lists(V1 | V2 | V3, min_size=1, max_size=4), st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
def test_what_a_second_writer_makes_of_zips(coins, method):
    makers = {Generation.V1: stack.encode, Generation.V2: lambda one: ccv2.encode_single(*one)}
    members = [("readme.txt", b"nothing")]
    for number, coin in enumerate(coins):
        make = makers.get(coin.generation, lambda one: format9.encode_single(*one))
        members.append((f"{number}", make([coin])))
    assert coins_of(second_writer.zipped(members, method), Container.ZIP) == coins


COIN3 = Coin(denomination=-2, serial=77, ans=bytes(range(1, 201)) * 2, split=3)
COIN2 = Coin(denomination=0, serial=78, ans=bytes(range(1, 201)) * 2, generation=Generation.V2)
COIN1 = Coin(denomination=0, serial=79, ans=bytes(range(1, 201)) * 2, generation=Generation.V1)
SEEDS = {
    "format 9": format9.encode_single(COIN3),
    "format 9, many": format9.encode_many([COIN3] * 3),
    "format 9, proposed": format9.encode_single(replace(COIN3, pans=bytes(range(200)) * 2)),
    "ccv2": ccv2.encode_single(COIN2),
    "ccv2, many": ccv2.encode_many([COIN2] * 3),
    "stack": stack.encode([COIN1, COIN2, COIN3]),
    "stack, wrapped": second_writer.wrapped(stack.encode([COIN1] * 2)),
    "png, format 9": second_writer.png(format9.encode_many([COIN3] * 2)),
    "png, two chunks": second_writer.png(ccv2.encode_many([COIN2] * 2), stack.encode([COIN1]), late=True),
    "png, none": second_writer.png(),
    "jpeg": second_writer.jpeg(plain(COIN1)),
    "zip": second_writer.zipped([("a.bin", format9.encode_single(COIN3)), ("b.stack", stack.encode([COIN1]))]),
    "zip, stored": second_writer.zipped([("a.png", second_writer.png(ccv2.encode_single(COIN2)))], zipfile.ZIP_STORED),
}
VALID = {(coin.generation, coin.value) for coin in (COIN1, COIN2, COIN3)}


def mutated(seed: bytes, rng: random.Random) -> bytes:
    data = bytearray(seed)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0:
                data[at:] = b""
            case 1:
                data[at:at] = rng.choice([b"\0", b"\xff", b"{", b"[", b"PK\x05\x06", b"cLDc", b"(", rng.randbytes(9)])
            case 2:
                del data[at : at + rng.choice([1, 4, 16, 400])]
            case 3:
                data[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0"])
            case 4:
                data[at:at] = data[at : at + rng.randrange(500)]
            case _ if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case _:
                pass
    return bytes(data)


def check_anything(content: bytes) -> CoinFile:
    """What must hold for all bytes there are."""
    file = read_coin_file(content)
    assert not (file.coins and file.problem)
    assert len(file.problem) <= 200
    assert file.legible or not (file.coins or file.problem)
    if file.encryption is Encryption.ENCRYPTED:
        assert not file.coins
    for coin in file.coins:
        assert any(coin.ans)
    listed = single_coin(content[:LISTING_SIZE], len(content))
    if listed is not None:
        [coin] = file.coins
        assert listed == (coin.generation, coin.value, coin.serial)
    if file.coins and file.container in (Container.FORMAT9, Container.CCV2):
        sniffed = classify(b"Bank/x.bin", len(content), content[:SNIFF_SIZE])
        assert (sniffed.container, sniffed.encryption) == (file.container, file.encryption)
        assert sniffed.multi_coin is (len(file.coins) > 1)
    return file


@pytest.mark.parametrize("name", SEEDS)
def test_mutations_of_every_container(name):
    rng = random.Random(name)
    seed = SEEDS[name]
    assert check_anything(seed).problem == ""
    for _ in range(250):
        check_anything(mutated(seed, rng))


@pytest.mark.soak
@pytest.mark.parametrize("name", SEEDS)
def test_mutations_of_every_container_in_great_number(name):
    rng = random.Random(name + " soak")
    for _ in range(40_000):
        check_anything(mutated(SEEDS[name], rng))


@pytest.mark.parametrize("name", SEEDS)
def test_every_torn_file_is_known_to_show_numbers(name):
    """What a crash leaves of a coin file may still be money: where its numbers are in clear, `legible` says so."""
    seed = SEEDS[name]
    if name == "png, none" or name == "zip":
        return
    first = seed.index(COIN3.ans[:16].hex().encode() if b"cloudcoin" in seed else COIN3.ans[:16])
    for end in range(first + 400 + 13 * 36, len(seed)):
        assert check_anything(seed[:end]).legible, end


@given(st.binary(max_size=600))
def test_any_bytes(content):
    check_anything(content)


@given(
    st.sampled_from(
        [b"\x09\1\0\6", b"\0\0\0\1", b'{"cloudcoin":', b"PK\3\4", coin_png.MAGIC, b"HFCC", b"\xff\xd8\xff"]
    ),
    st.binary(max_size=900),
)
def test_any_bytes_behind_a_magic(magic, content):
    check_anything(magic + content)


HOSTILE = {
    "nesting": lambda: b'{"cloudcoin":' + b"[" * 10**6,
    "nesting within the count": lambda: b'{"cloudcoin":' + b"[" * 240_000 + b"]" * 240_000 + b"}",
    "a million entries": lambda: b'{"cloudcoin":[' + b"0," * 10**6 + b"0]}",
    "a million objects": lambda: b'{"cloudcoin":[' + b"{}," * 10**6 + b"{}]}",
    "many objects": lambda: b'{"cloudcoin":[' + b"{}," * 200_000 + b"{}]}",
    "millions of lists": lambda: b'{"x":[' + b"[]," * (9 << 20) + b'0],"cloudcoin":[]}',
    "millions of numbers": lambda: b'{"x":[' + b"1.5," * (7 << 20) + b'0],"cloudcoin":[]}',
    "a long number": lambda: b'{"cloudcoin":[{"sn":' + b"9" * 10**6 + b"}]}",
    "an endless string": lambda: b'{"cloudcoin":["' + b"a" * 10**7,
    "too many bytes": lambda: b'{"cloudcoin":[' + b" " * (stack.MAX_SIZE + 1),
    "nan": lambda: b'{"cloudcoin":[{"sn":NaN,"an":[]}]}',
    "infinity": lambda: b'{"cloudcoin":[-Infinity]}',
    "exponent": lambda: b'{"cloudcoin":[{"sn":1e999}]}',
    "a chunk of 2 GiB": lambda: second_writer.png(b"x")[:33] + b"\x80\0\0\0cLDc",
    "a chunk of 2 GiB - 1": lambda: second_writer.png(b"x")[:33] + b"\x7f\xff\xff\xffcLDc" + bytes(999),
    "many chunks": lambda: second_writer.png()[:33] + second_writer.chunk(b"tEXt", b"") * 20_001,
    "many coin chunks": lambda: second_writer.png()[:33] + second_writer.chunk(b"cLDc", b"") * 20_001,
    "a bomb": lambda: second_writer.zipped([("a.bin", bytes(40 << 20))]),
    "bombs": lambda: second_writer.zipped([(f"{n}.bin", bytes(4 << 20)) for n in range(12)]),
    "a zip in a zip": lambda: second_writer.zipped([("a.zip", second_writer.zipped([("b", b"c")]))]),
    "a zip of many": lambda: second_writer.zipped([(f"{n}", b"") for n in range(10_001)]),
    "a zip of another method": lambda: second_writer.zipped([("a.bin", SEEDS["format 9"])], zipfile.ZIP_LZMA),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_problems_and_cost_little(name):
    content = HOSTILE[name]()
    tracemalloc.start()
    try:
        file = check_anything(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert file.problem
    assert file.coins == ()
    assert file.legible
    assert peak < 250 << 20
