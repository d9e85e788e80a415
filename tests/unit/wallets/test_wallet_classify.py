from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_server.wallets.classify import SNIFF_SIZE, Container, Encryption, FileClass, WalletCounters, classify
from holdfast_server.wallets.coin import Coin
from holdfast_server.wallets.envelope import KeyParameters, WalletKey, encrypt
from holdfast_server.wallets.format9 import encode_many, encode_single

COIN = Coin(denomination=2, serial=7, ans=bytes(range(1, 17)) * 25, pown="p" * 25)
SINGLE = encode_single(COIN)
MULTI = encode_many([COIN] * 3)
ENCRYPTED = SINGLE[:5] + b"\x04" + SINGLE[6:]
CCV2 = b"\0\0\0\1" + bytes(28) + (b"\0\0\7" + bytes(413))
CCV2_MULTI = CCV2 + CCV2[32:]
CCV2_PANS = CCV2 + bytes(400)


def of(path: str, data: bytes) -> FileClass:
    return classify(path.encode(), len(data), data[:SNIFF_SIZE])


def counted(*files: tuple[str, bytes]) -> WalletCounters:
    counters = WalletCounters()
    for path, data in files:
        counters.add(of(path, data))
    return counters


@pytest.mark.parametrize(
    ("data", "container", "encryption", "multi"),
    [
        (SINGLE, Container.FORMAT9, Encryption.PLAINTEXT, False),
        (ENCRYPTED, Container.FORMAT9, Encryption.ENCRYPTED, False),
        (ENCRYPTED + bytes(170), Container.FORMAT9, Encryption.ENCRYPTED, False),
        (MULTI, Container.FORMAT9, Encryption.PLAINTEXT, True),
        (MULTI[:5] + b"\x01" + MULTI[6:], Container.FORMAT9, Encryption.ENCRYPTED, True),
        (SINGLE[:200], Container.FORMAT9, Encryption.PLAINTEXT, False),
        (CCV2, Container.CCV2, Encryption.PLAINTEXT, False),
        (CCV2_PANS, Container.CCV2, Encryption.PLAINTEXT, False),
        (CCV2_MULTI, Container.CCV2, Encryption.PLAINTEXT, True),
        (bytes(448), Container.OTHER, Encryption.PLAINTEXT, False),
        (b"\x0a" + ENCRYPTED[1:] + bytes(170), Container.OTHER, Encryption.UNKNOWN, False),
        (b"short", Container.OTHER, Encryption.UNKNOWN, False),
    ],
)
def test_bin_files_in_bank(data, container, encryption, multi):
    assert of("Bank/x.bin", data) == FileClass(b"Bank", container, encryption, True, True, multi)


@pytest.mark.parametrize(
    "path", ["Export/a.BIN", "Import/CCv2/a.bin", "Limbo/a.bin", "Trash/a.bin", ".holdfast/export-1/a.bin"]
)
def test_coins_count_in_every_folder(path):
    for data in (SINGLE, MULTI, b"\x0a" + SINGLE[1:]):
        assert of(path, data).is_coin_file


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("Bank/empty.bin", b""),
        ("Receipts/a.bin", b"no coin"),
        ("Templates/a.bin", bytes(448)),
        ("a.bin", b"no coin"),
        ("other/a.bin", b"no coin"),
        ("Bank/a.bin.partial", SINGLE),
        ("Bank/a.txt", SINGLE),
        ("Import/a.zip", b"PK\x03\x04" + bytes(60)),
        ("Import/a.stack", b'{"cloudcoin": [ ]}'),
        ("Import/a.stack", b"{}"),
        ("config.toml", b"[wallet]\n"),
        ("Bank.bin", b"a file in the root, not in Bank"),
    ],
)
def test_what_is_no_coin_file(path, data):
    assert not of(path, data).is_coin_file


@pytest.mark.parametrize("path", ["a.bin", "my own folder/deep/a.bin", "Receipts/a.bin"])
def test_a_readable_coin_counts_wherever_it_lies(path):
    assert of(path, SINGLE).is_coin_file
    assert of(path, CCV2).is_coin_file


def test_a_ccv2_header_proves_nothing_under_another_name():
    assert of("Bank/state.db", CCV2).container is Container.OTHER


@pytest.mark.parametrize(
    ("sample", "container", "is_coin", "encryption"),
    [
        ("bin/west-format9-sample.cLDc-payload.bin", Container.FORMAT9, True, Encryption.PLAINTEXT),
        ("png/west-format9-sample.png", Container.PNG, True, Encryption.PLAINTEXT),
        ("png/template-no-coins.png", Container.PNG, False, Encryption.UNKNOWN),
        ("jpeg/1.CloudCoin.1.1346931.jpg", Container.JPEG, True, Encryption.UNKNOWN),
        ("jpeg/jpeg1-blank-template.jpg", Container.JPEG, False, Encryption.UNKNOWN),
        ("stack/0.CloudCoins..stack", Container.STACK, False, Encryption.UNKNOWN),
        ("stack/1.CloudCoin.1.1050485..stack", Container.STACK, True, Encryption.UNKNOWN),
        ("stack/2.CloudCoins..stack", Container.STACK, True, Encryption.UNKNOWN),
        ("stack/25.CloudCoin.1.5242865..stack", Container.STACK, True, Encryption.UNKNOWN),
        ("stack/250.CloudCoin.1.14691854..stack", Container.STACK, True, Encryption.UNKNOWN),
        ("stack/3.CloudCoins.573.stack", Container.STACK, True, Encryption.UNKNOWN),
    ],
)
def test_real_files(samples, sample, container, is_coin, encryption):
    data = (samples / sample).read_bytes()
    found = of(f"Import/{sample.rpartition('/')[2]}", data)
    assert (found.container, found.is_coin_file, found.encryption) == (container, is_coin, encryption)


def png(payload: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + bytes(25) + len(payload).to_bytes(4, "big") + b"cLDc" + payload + bytes(4)


@pytest.mark.parametrize(
    ("payload", "encryption", "multi"),
    [
        (SINGLE, Encryption.PLAINTEXT, False),
        (ENCRYPTED, Encryption.ENCRYPTED, False),
        (MULTI, Encryption.PLAINTEXT, True),
        (CCV2, Encryption.PLAINTEXT, False),
        (b'{"cloudcoin":[{"nn":1}]}', Encryption.UNKNOWN, False),
    ],
)
def test_the_coin_chunk_of_a_png_is_looked_into(payload, encryption, multi):
    found = of("Export/a.png", png(payload))
    assert (found.container, found.is_coin_file) == (Container.PNG, True)
    assert (found.encryption, found.multi_coin) == (encryption, multi)


prefixes = st.sampled_from(
    [b"", b"\x09", SINGLE[:16], MULTI[:40], CCV2[:33], png(b"")[:41], b'{"cloudcoin":[', b"\xff\xd8\xff\xe0"]
)
paths = st.sampled_from([b"Bank/x.bin", b"x.bin", b"", b"/", b"Fracked/\xff\xfe.png", b"Import/a/b.stack"])


@given(paths | st.binary(max_size=20), st.integers(0, 2**40), prefixes, st.binary(max_size=80))
def test_garbage_never_raises(path, size, prefix, tail):
    found = classify(path, size, prefix + tail)
    counters = WalletCounters()
    counters.add(found)
    assert counters.files_added_plaintext <= counters.coins_backed_up <= 1
    assert counters.files_added_multi_coin <= counters.money_files <= 1


def test_counters_of_a_mixed_wallet():
    counters = counted(
        ("Bank/a.bin", SINGLE),
        ("Bank/b.bin", ENCRYPTED),
        ("Bank/unknown.bin", b"\x0a" + ENCRYPTED[1:] + bytes(170)),
        ("Bank/empty.bin", b""),
        ("Bank/two.bin", MULTI),
        ("Bank/note.txt", b"hello"),
        ("Fracked/c.bin", SINGLE),
        ("Fracked/old.bin", CCV2_MULTI),
        ("Limbo/d.bin", SINGLE),
        ("Counterfeit/e.bin", SINGLE),
        ("Export/f.bin", MULTI),
        ("Import/g.stack", b'{"cloudcoin":[{"nn":1}]}'),
        ("Import/h.zip", b"PK\x03\x04"),
        ("config.toml", b"[wallet]"),
        ("transactions.csv", b"Symbol,"),
    )
    counters.skip()
    assert counters == WalletCounters(
        coins_backed_up=10,
        money_files=7,
        files_added_plaintext=7,
        files_added_multi_coin=2,
        files_reencrypted=0,
        files_skipped=1,
    )


def test_counters_of_several_wallets_add_up():
    total = counted(("Bank/a.bin", SINGLE))
    other = counted(("Fracked/b.bin", MULTI), ("Limbo/c.bin", SINGLE))
    other.skip()
    total.merge(other)
    assert total == WalletCounters(3, 2, 3, 1, 0, 1)


def test_envelopes_are_coin_files_by_the_name_before_their_suffix() -> None:
    key = WalletKey.derive("x", KeyParameters(bytes(16), 64, 1, 1))
    sealed = encrypt(MULTI, key)
    found = of("Bank/a.bin.hfcc", sealed)
    assert (found.container, found.encryption, found.is_bin) == (Container.ENVELOPE, Encryption.ENCRYPTED, True)
    counters = counted(
        ("Bank/a.bin.hfcc", sealed),
        ("Import/b.PNG.HFCC", sealed),
        ("Recovery/c.txt.hfcc", sealed),
        ("Bank/d.bin", sealed),
    )
    assert (counters.coins_backed_up, counters.money_files) == (3, 2)
    assert (counters.files_added_plaintext, counters.files_added_multi_coin) == (0, 0)
    assert not of("Bank/a.bin.hfcc", SINGLE).is_bin
