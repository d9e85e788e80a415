from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast_server.wallets import ccv2
from holdfast_server.wallets.amounts import COIN
from holdfast_server.wallets.coin import Coin, Generation
from holdfast_server.wallets.coin_file import Container, Encryption, read_coin_file

ANS = bytes(range(1, 201)) * 2
V2 = Coin(denomination=0, serial=0x01FFFE, ans=ANS, pown="u" + "p" * 24, generation=Generation.V2)

# The header of the one real public file, and the POWN of its coins: "unknown" once, then 24 passes.
HEADER = bytes.fromhex("00000001") + bytes(28)
RECORD = bytes.fromhex("01fffe" + "0" + "a" * 24 + "0") + ANS


def test_the_bytes_of_the_real_file_are_written_and_read():
    assert ccv2.encode_many([V2] * 8) == HEADER + RECORD * 8
    file = read_coin_file(HEADER + RECORD * 8)
    assert (file.container, file.encryption, file.legible) == (Container.CCV2, Encryption.PLAINTEXT, True)
    assert file.coins == (V2,) * 8
    assert V2.value == COIN


def test_proposed_numbers_only_in_a_file_of_one_coin():
    coin = replace(V2, pans=bytes(range(100, 200)) * 4)
    assert ccv2.encode_single(coin) == HEADER + RECORD + coin.pans
    assert read_coin_file(ccv2.encode_single(coin)).coins == (coin,)
    with pytest.raises(ValueError, match="proposed"):
        ccv2.encode_many([coin, V2])


def test_d_is_how_that_program_wrote_no_reply():
    read = {"0": "u", "a": "p", "b": "b", "c": "n", "d": "n", "e": "e", "f": "f", "7": "u"}
    for nibble, letter in read.items():
        [coin] = read_coin_file(HEADER + RECORD[:3] + bytes.fromhex(nibble * 26) + ANS).coins
        assert coin.pown == letter * 25
    assert ccv2.encode_single(replace(V2, pown="n" * 25))[35:47] == b"\xdd" * 12
    assert ccv2.encode_single(replace(V2, pown="d" * 25)) == ccv2.encode_single(replace(V2, pown="n" * 25))


@pytest.mark.parametrize("coin_id", [0, 1, 2])
def test_coin_ids_are_kept(coin_id):
    coin = replace(V2, network=coin_id)
    content = ccv2.encode_single(coin)
    assert content[2:4] == bytes([0, coin_id])
    assert read_coin_file(content).coins == (coin,)


@pytest.mark.parametrize("at", [4, 5])
def test_encrypted_files_are_opaque(at):
    content = bytearray(HEADER + RECORD)
    content[at], content[6:15] = 1, b"somethash"
    file = read_coin_file(bytes(content))
    assert (file.container, file.encryption, file.coins) == (Container.CCV2, Encryption.ENCRYPTED, ())
    assert not file.legible
    with pytest.raises(ValueError, match="encrypted"):
        ccv2.decode(bytes(content))


@pytest.mark.parametrize(
    "content",
    [
        bytes(448),
        bytes(32 + 416 * 9),
        HEADER + bytes(416),
        HEADER,
        HEADER + RECORD[:415],
        b"\0\0\0\3" + bytes(28) + RECORD,
        b"\0\1\0\1" + bytes(28) + RECORD,
        HEADER[:6] + b"hash" + HEADER[10:] + RECORD,
        bytes(32) + b"\0\1\0" + b"\x12" * 13 + ANS,
        b"\0\0\0\1\x67" + bytes(500),
    ],
)
def test_what_only_starts_like_one(content):
    file = read_coin_file(content)
    assert (file.container, file.coins, file.problem) == (Container.OTHER, (), "")
    with pytest.raises(ValueError, match=r"no coin|no number|has no|encrypted|a POWN"):
        ccv2.decode(content)


@pytest.mark.parametrize(
    "content",
    [
        HEADER + RECORD + RECORD[:-1],
        HEADER + RECORD + b"\0",
        HEADER + RECORD + bytes(416),
        HEADER + bytes(416) + RECORD,
        HEADER + RECORD + b"\0\0\0" + RECORD[3:],
        HEADER + RECORD + RECORD[:16] + bytes(400),
        bytes(32) + RECORD + RECORD[:3] + b"\x12" * 13 + ANS,
    ],
)
def test_damaged_files_are_problems_as_a_whole(content):
    file = read_coin_file(content)
    assert (file.container, file.coins, file.legible) == (Container.CCV2, (), True)
    assert file.problem


@pytest.mark.parametrize(
    ("coins", "why"),
    [
        ([], "exactly one coin id"),
        ([V2, replace(V2, network=2)], "exactly one coin id"),
        ([replace(V2, network=3)], "coin id 3"),
        ([replace(V2, serial=0)], "serial 0"),
        ([replace(V2, serial=16_777_216)], "serial 16777216"),
        ([Coin(denomination=0, serial=1, ans=ANS)], "only V2"),
    ],
)
def test_what_no_such_file_can_hold_is_refused(coins, why):
    with pytest.raises(ValueError, match=why):
        ccv2.encode_many(coins)
