from __future__ import annotations

import json

import pytest

from holdfast_server.wallets import stack
from holdfast_server.wallets.amounts import COIN
from holdfast_server.wallets.coin import Coin, Generation
from holdfast_server.wallets.coin_file import Container, Encryption, read_coin_file

ANS = bytes(range(1, 201)) * 2
HEX = [ANS[at : at + 16].hex() for at in range(0, 400, 16)]
V1 = Coin(denomination=0, serial=1_346_931, ans=ANS, pown="p" * 25, generation=Generation.V1)


def entry(**changes: object) -> dict:
    made = {"nn": "1", "sn": "1346931", "an": HEX, "pown": "p" * 25, "ed": "9-2021", "aoid": []} | changes
    return {key: value for key, value in made.items() if value is not ...}


def of(*entries: object) -> bytes:
    return json.dumps({"cloudcoin": list(entries)}).encode()


def problem(content: bytes) -> str:
    file = read_coin_file(content)
    assert (file.container, file.coins, file.legible) == (Container.STACK, (), True)
    assert file.problem
    assert HEX[3] not in file.problem
    return file.problem


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"nn": 1, "sn": 1346931},
        {"an": [an.upper() for an in HEX]},
        {"pown": "P" * 25},
        {"hp": 25, "DetectionResult": None, "PassCount": 25, "FailCount": 0, "pan": None},
        {"pan": [None] * 25},
        {"pan": []},
        {"nn": None},
        {"ed": ..., "aoid": ..., "nn": ...},
        {"aoid": ["fracked=sent", "free text"], "ed": None},
    ],
)
def test_dialects_of_one_coin(changes):
    assert read_coin_file(of(entry(**changes))).coins == (V1,)


def test_key_order_blanks_breaks_and_a_mark_do_not_matter():
    backwards = dict(reversed(entry().items()))
    for content in (
        of(backwards),
        b"\xef\xbb\xbf" + of(entry()),
        b" \r\n\t" + json.dumps({"version": 2, "cloudcoin": [entry()]}, indent=4).replace("\n", "\r\n").encode(),
        of(entry()).replace(b'"cloudcoin"', b'"CloudCoin"'),
        of(entry()).replace(b'"an"', b'\r\n"an"\r\n').replace(b"1346931", b"1346\r\n931"),
    ):
        assert read_coin_file(content).coins == (V1,)


@pytest.mark.parametrize(
    ("pown", "read"),
    [
        (..., "u" * 25),
        (None, "u" * 25),
        ("", "u" * 25),
        ("p" * 24, "u" * 25),
        (7, "u" * 25),
        ("x?" + "f" * 23, "uu" + "f" * 23),
    ],
)
def test_a_pown_is_no_reason_to_refuse_a_coin(pown, read):
    [coin] = read_coin_file(of(entry(pown=pown))).coins
    assert coin.pown == read


def test_proposed_numbers_are_kept_and_holes_in_them_are_zeros():
    [coin] = read_coin_file(of(entry(pan=[None, *HEX[1:]]))).coins
    assert coin.pans == bytes(16) + ANS[16:]


def test_a_stack_without_coins_is_no_problem():
    file = read_coin_file(b'{"cloudcoin": []}')
    assert (file.container, file.coins, file.problem, file.legible) == (Container.STACK, (), "", False)


@pytest.mark.parametrize("serial", [1, 2_097_152, 2_097_153, 4_194_305, 6_291_457, 14_680_065, 16_777_216])
def test_serial_numbers_decide_the_value(serial):
    [coin] = read_coin_file(of(entry(sn=serial))).coins
    worth = {1: 1, 2_097_152: 1, 2_097_153: 5, 4_194_305: 25, 6_291_457: 100, 14_680_065: 250, 16_777_216: 250}
    assert coin.value == worth[serial] * COIN


@pytest.mark.parametrize(
    "bad",
    [
        entry(sn=0),
        entry(sn="16777217"),
        entry(sn=-1),
        entry(sn=1.0),
        entry(sn=True),
        entry(sn="\uff11\uff12"),
        entry(sn=" 12"),
        entry(sn=...),
        entry(sn=10**30),
        entry(nn="one"),
        entry(an=HEX[:24]),
        entry(an=[*HEX, HEX[0]]),
        entry(an=[*HEX[:24], None]),
        entry(an=[*HEX[:24], HEX[0][:30] + " x"]),
        entry(an=[*HEX[:24], HEX[0][:30] + "  "]),
        entry(pan=[*HEX[:24], HEX[0][:30] + "  "]),
        entry(an=[*HEX[:24], HEX[0][:31]]),
        entry(an=[*HEX[:23], HEX[0][:31], HEX[0] + "1"]),
        entry(an=["0" * 32] * 25),
        entry(an="".join(HEX)),
        entry(an=None),
        entry(pan=HEX[:3]),
        entry(holdfast={"generation": "V4"}),
        entry(holdfast={"generation": "V3", "denomination": 1}),
        entry(holdfast={"generation": "V3", "denomination": 128, "split": 0, "shard": 0}),
        entry(holdfast={"generation": "V3", "denomination": 1, "split": True, "shard": 0}),
        entry(holdfast={"generation": "V3", "denomination": 1, "split": 0, "shard": 0, "more": 1}),
        entry(holdfast={"generation": "V2"}, sn="0"),
        entry(holdfast={"generation": "V2"}, sn="16777216"),
        entry(holdfast={"generation": "V2"}, nn="3"),
        entry(holdfast={"generation": "V3", "denomination": 1, "split": 0, "shard": 0}, nn="2"),
        entry(holdfast=None),
        [],
        None,
        "coin",
    ],
)
def test_one_bad_coin_makes_the_file_a_problem_and_nothing_is_taken_from_it(bad):
    for content in (of(bad), of(entry(), bad), of(bad, entry())):
        assert problem(content).startswith("coin ")


@pytest.mark.parametrize(
    "content",
    [
        of(entry())[:-200],
        of(entry()) + b"x",
        b'{"cloudcoin": {}}',
        b'{"cloudcoin": [], "cloudcoin": []}',
        b'{"cloudcoin": [], "CloudCoin": []}',
        of(entry()).replace(b'"ed"', b'"sn"'),
        of(entry()).replace(b"9-2021", b"9\xff2021"),
        b'{"other": {"cloudcoin": []}}',
        b'{"cloudcoin": [NaN]}',
    ],
)
def test_damaged_and_ambiguous_json_is_a_problem(content):
    problem(content)


def test_the_encryption_of_the_first_programs_is_recognized():
    vaulted = entry(an=[HEX[0][:8] + "(113c0871)" + HEX[0][16:], *HEX[1:]])
    file = read_coin_file(of(vaulted))
    assert (file.container, file.encryption, file.coins, file.problem) == (
        Container.STACK,
        Encryption.ENCRYPTED,
        (),
        "",
    )
    # The other 24 numbers of it are in clear, and of a file with a coin in clear everything is.
    assert file.legible
    whole = entry(an=[f"{an[:8]}(113c0871){an[16:]}" for an in HEX])
    assert not read_coin_file(of(whole)).legible
    assert "encrypted" in problem(of(whole, entry()))


def test_what_is_no_stack():
    for content in (b"{}", b"[]", b'{"cloudcoins": []}', b'["cloudcoin"]', b"cloudcoin"):
        file = read_coin_file(content)
        assert (file.container, file.problem, file.legible) == (Container.OTHER, "", False)


def test_v1_coins_make_the_classic_stack_and_nothing_else():
    [made] = json.loads(stack.encode([V1]))["cloudcoin"]
    assert made == {"nn": "1", "sn": "1346931", "an": HEX, "pown": "p" * 25, "ed": stack.EXPIRY, "aoid": []}


def test_our_key_carries_what_the_classic_stack_cannot():
    coin = Coin(denomination=-2, serial=2**32 - 1, ans=ANS, split=3, shard=9)
    [made] = json.loads(stack.encode([coin]))["cloudcoin"]
    assert made["holdfast"] == {"generation": "V3", "denomination": -2, "split": 3, "shard": 9}
    assert read_coin_file(stack.encode([coin])).coins == (coin,)


def test_what_a_stack_cannot_say_is_refused():
    with pytest.raises(ValueError, match="never split"):
        stack.encode([Coin(denomination=0, serial=1, ans=ANS, split=1, generation=Generation.V1)])
    for wrong in ([], [V1] * (stack.MAX_COINS + 1)):
        with pytest.raises(ValueError, match="instead of 1"):
            stack.encode(wrong)
