"""What carries coin files or pictures of coins: PNG, JPEG, ZIP, and what is none of them."""

from __future__ import annotations

import re
import struct
import zipfile
from dataclasses import replace

import pytest

from holdfast_server.wallets import ccv2, coin_png, coin_zip, format9, stack
from holdfast_server.wallets.coin import Coin, Generation
from holdfast_server.wallets.coin_file import MAX_SIZE, Container, Encryption, read_coin_file
from tests.coins import second_reader, second_writer
from tests.coins.strategies import plain

ANS = bytes(range(1, 201)) * 2
V1 = Coin(denomination=0, serial=1_346_931, ans=ANS, generation=Generation.V1)
V2 = Coin(denomination=0, serial=12, ans=ANS, generation=Generation.V2)
V3 = Coin(denomination=1, serial=3574, ans=ANS, split=3)
SINGLE = format9.encode_single(V3)
ENCRYPTED = SINGLE[:5] + b"\x04" + SINGLE[6:]
PLAIN_PNG = second_writer.png()


def problem(content: bytes, container: Container) -> str:
    file = read_coin_file(content)
    assert (file.container, file.coins, file.legible) == (container, (), True)
    assert file.problem
    return file.problem


class TestFormat9:
    def test_no_coins_are_no_problem(self):
        file = read_coin_file(SINGLE[:6] + b"\0\0" + SINGLE[8:32])
        assert (file.container, file.coins, file.problem, file.legible) == (Container.FORMAT9, (), "", False)

    @pytest.mark.parametrize("encryption", [1, 4, 10, 255])
    def test_foreign_encryption_is_opaque(self, encryption):
        file = read_coin_file(SINGLE[:5] + bytes([encryption]) + SINGLE[6:] + bytes(170))
        assert (file.container, file.encryption) == (Container.FORMAT9, Encryption.ENCRYPTED)
        assert (file.coins, file.problem, file.legible) == ((), "", False)

    @pytest.mark.parametrize(
        "content",
        [
            SINGLE[:-1],
            SINGLE + bytes(32),
            SINGLE[:7] + b"\2" + SINGLE[8:],
            SINGLE[:15] + b"\1" + SINGLE[16:],
            SINGLE[:7] + b"\0" + SINGLE[8:],
            SINGLE[:39] + bytes(400),
        ],
    )
    def test_damaged_files_are_problems(self, content):
        problem(content, Container.FORMAT9)

    def test_other_coins_than_cloudcoins_are_not_taken_for_them(self):
        assert "id 7" in problem(SINGLE[:3] + b"\7" + SINGLE[4:], Container.OTHER)
        assert "format 8" in problem(b"\x08" + SINGLE[1:] + bytes(400), Container.OTHER)

    def test_a_tab_is_no_format(self):
        file = read_coin_file(b"\tindented text" * 40)
        assert (file.container, file.problem, file.legible) == (Container.OTHER, "", False)


class TestPng:
    def test_every_coin_chunk_is_read_wherever_it_is(self):
        parts = (SINGLE, ccv2.encode_single(V2), stack.encode([V1]))
        for late in (False, True):
            file = read_coin_file(second_writer.png(*parts, late=late))
            assert file.coins == (V3, V2, V1)
            assert (file.container, file.encryption, file.problem) == (Container.PNG, Encryption.PLAINTEXT, "")

    def test_a_picture_without_coins_is_no_problem(self):
        file = read_coin_file(PLAIN_PNG)
        assert (file.container, file.coins, file.problem, file.legible) == (Container.PNG, (), "", False)

    def test_encrypted_coins_are_opaque(self):
        file = read_coin_file(second_writer.png(ENCRYPTED))
        assert (file.container, file.encryption, file.problem) == (Container.PNG, Encryption.ENCRYPTED, "")
        assert not file.legible

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (second_writer.png(SINGLE)[:100] + b"\0" + second_writer.png(SINGLE)[101:], "checksum"),
            (b"".join([PLAIN_PNG[:18], b"\xff", PLAIN_PNG[19:]]), "no whole header"),
            (second_writer.png(SINGLE)[:300], "torn"),
            (PLAIN_PNG + second_writer.chunk(b"cLDc", SINGLE), "behind its end"),
            (PLAIN_PNG[:-12], "damaged"),
            (PLAIN_PNG[:40], "damaged"),
            (second_writer.png(SINGLE).replace(b"cLDc", b"cLDd"), "damaged"),
            (second_writer.png(b""), "nothing that is known"),
            (second_writer.png(b"HFCC" + bytes(600)), "nothing that is known"),
            (second_writer.png(PLAIN_PNG), "nothing that is known"),
            (second_writer.png(SINGLE[:-1]), "do not fit"),
            (second_writer.png(SINGLE, ENCRYPTED), "encrypted"),
            (coin_png.MAGIC, "no whole header|damaged"),
        ],
    )
    def test_damage_that_could_hide_coins_is_a_problem(self, content, why):
        assert re.search(why, problem(content, Container.PNG))

    def test_damaged_pixels_keep_no_coin_from_being_read(self):
        content = bytearray(second_writer.png(SINGLE))
        content[content.index(b"IDAT") + 6] ^= 1
        assert read_coin_file(bytes(content)).coins == (V3,)

    def test_a_chunk_is_put_directly_after_the_header(self):
        made = coin_png.embed(PLAIN_PNG, SINGLE)
        assert made == second_writer.png(SINGLE)
        assert struct.unpack_from(">I4s", made, 33) == (len(SINGLE), b"cLDc")
        assert second_reader.png_coin_chunk(made) == SINGLE

    @pytest.mark.parametrize("picture", [b"", b"GIF89a", second_writer.png(SINGLE), PLAIN_PNG[:40]])
    def test_nothing_is_put_into_what_carries_coins_or_is_no_picture(self, picture):
        with pytest.raises(ValueError, match=r"no PNG|already|damaged"):
            coin_png.embed(picture, SINGLE)


class TestJpeg:
    COIN = second_writer.jpeg(plain(V1))

    def test_a_coin_is_read(self):
        file = read_coin_file(self.COIN)
        assert file.coins == (V1,)
        assert (file.container, file.encryption) == (Container.JPEG, Encryption.PLAINTEXT)

    def test_its_pown_has_a_table_of_its_own(self):
        content = bytearray(self.COIN)
        content[436:439] = bytes.fromhex("012ef9")
        [coin] = read_coin_file(bytes(content)).coins
        assert coin.pown[:6] == "upnefu"

    def test_templates_and_photographs_carry_none(self):
        for content in (self.COIN[:20] + bytes(436) + self.COIN[456:], b"\xff\xd8\xff\xe0\0\x10JFIF" + ANS):
            file = read_coin_file(content)
            assert (file.container, file.coins, file.problem, file.legible) == (Container.JPEG, (), "", False)

    def test_an_encrypted_coin_is_opaque(self):
        file = read_coin_file(second_writer.jpeg(plain(V1), aoid=b"\xee" + bytes(15)))
        assert (file.container, file.encryption, file.legible) == (Container.JPEG, Encryption.ENCRYPTED, False)

    def test_torn_and_nameless_coins_are_problems(self):
        problem(self.COIN[:454], Container.JPEG)
        problem(self.COIN[:100], Container.JPEG)
        problem(second_writer.jpeg(plain(V1) | {"serial": 0}), Container.JPEG)


class TestZip:
    def test_coins_of_all_kinds_in_one(self):
        members = [
            ("Bank/", b""),
            ("Bank/1.bin", SINGLE),
            ("notes.txt", b"hello"),
            ("../../etc/2.stack", stack.encode([V1])),
            ("Bank/1.png", second_writer.png(ccv2.encode_single(V2))),
        ]
        file = read_coin_file(second_writer.zipped(members))
        assert file.coins == (V3, V1, V2)
        assert (file.container, file.encryption, file.problem) == (Container.ZIP, Encryption.PLAINTEXT, "")

    def test_members_that_are_no_coins_are_ignored(self):
        file = read_coin_file(second_writer.zipped([("a.txt", b"text"), ("b.png", PLAIN_PNG)]))
        assert (file.container, file.coins, file.problem, file.legible) == (Container.ZIP, (), "", False)
        assert read_coin_file(second_writer.zipped([])).problem == ""

    def test_a_key_among_them_is_legible(self):
        key = "\r\n".join(ANS[at : at + 16].hex() for at in range(0, 400, 16)).encode()
        file = read_coin_file(second_writer.zipped([("a.key", key)]))
        assert (file.coins, file.problem, file.legible) == ((), "", True)

    @pytest.mark.parametrize(
        ("member", "why"),
        [
            (second_writer.zipped([("b.bin", SINGLE)]), "ZIP in a ZIP"),
            (SINGLE[:-1], "do not fit"),
            (ENCRYPTED, "encrypted by another"),
        ],
    )
    def test_one_bad_member_makes_the_file_a_problem(self, member, why):
        content = second_writer.zipped([("a.bin", SINGLE), ("b.bin", member)])
        assert why in problem(content, Container.ZIP)

    def test_encrypted_members_are_opaque(self):
        content = bytearray(second_writer.zipped([("a.bin", SINGLE)], zipfile.ZIP_STORED))
        content[6] |= 1
        content[content.index(b"PK\1\2") + 8] |= 1
        file = read_coin_file(bytes(content))
        assert (file.container, file.encryption, file.problem) == (Container.ZIP, Encryption.ENCRYPTED, "")
        assert not file.legible

    def test_the_payload_that_lacks_its_header_is_a_problem(self):
        bare = second_writer.png(ccv2.encode_single(V2)[32:])
        assert "nothing that is known" in problem(second_writer.zipped([("a.png", bare)]), Container.ZIP)

    def test_damage_is_a_problem(self):
        whole = second_writer.zipped([("a.bin", SINGLE)], zipfile.ZIP_STORED)
        for content in (whole[:-1], whole[:-30], whole[:60] + b"\xff" + whole[61:], b"PK\3\4" + bytes(90)):
            problem(content, Container.ZIP)

    def test_bytes_between_members_are_a_problem(self):
        """A member that was taken off the directory is still in the file."""
        for members in ([("a.bin", SINGLE), ("b.txt", b"text")], [("a.txt", b"text"), ("b.bin", SINGLE)]):
            two = second_writer.zipped(members, zipfile.ZIP_STORED)
            at = two.index(b"PK\1\2")
            entries = two[at : two.index(b"PK\5\6")]
            second = entries.index(b"PK\1\2", 4)
            kept = entries[second:] if members[0][1] is SINGLE else entries[:second]
            end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(kept), at, 0)
            assert "no member" in problem(two[:at] + kept + end, Container.ZIP)

    def test_a_member_that_lies_about_its_length_is_a_problem(self):
        content = bytearray(second_writer.zipped([("a.bin", SINGLE)], zipfile.ZIP_STORED))
        for size_at in (22, content.index(b"PK\1\2") + 24):
            struct.pack_into("<I", content, size_at, len(SINGLE) + 5)
        problem(bytes(content), Container.ZIP)

    def test_members_that_expand_too_far_are_not_expanded(self):
        for members in ([("a", bytes(4 << 20))], [(str(n), bytes(1 << 19)) for n in range(9)]):
            assert "expand" in problem(second_writer.zipped(members), Container.ZIP)

    def test_what_is_written_never_changes(self):
        made = coin_zip.write([("a.bin", b"1"), ("b.bin", b"22")])
        assert made == coin_zip.write([("a.bin", b"1"), ("b.bin", b"22")])
        assert second_reader.zip_members(made) == [("a.bin", b"1"), ("b.bin", b"22")]


class TestOther:
    @pytest.mark.parametrize("separator", [b"\n", b"\r\n", b'", "', b" ", b""])
    def test_numbers_written_out_are_legible_and_no_coins(self, separator):
        key = separator.join(ANS[at : at + 16].hex().encode() for at in range(0, 400, 16))
        for content in (key, key.upper() + b"\n", b"some text before: " + key[: 13 * (32 + len(separator))]):
            file = read_coin_file(content)
            assert (file.container, file.coins, file.problem, file.legible) == (Container.OTHER, (), "", True)

    def test_a_stack_that_lost_its_start_is_legible(self):
        whole = stack.encode([V1])
        for content in (whole[30:], second_writer.wrapped(whole)[30:], whole[30:].decode().encode("utf-16")):
            assert read_coin_file(content).legible

    def test_some_numbers_are_not_enough(self):
        few = b"\n".join(ANS[at : at + 16].hex().encode() for at in range(0, 12 * 16, 16))
        assert not read_coin_file(few + b"\nand no more").legible
        assert not read_coin_file(b"deadbeef " * 500).legible

    def test_an_envelope_is_opaque(self):
        file = read_coin_file(b"HFCC" + bytes(600))
        assert (file.container, file.encryption) == (Container.ENVELOPE, Encryption.ENCRYPTED)
        assert (file.coins, file.problem, file.legible) == ((), "", False)

    def test_what_nobody_documents_is_opaque(self):
        for content in (b"\x0a" + ENCRYPTED[1:] + bytes(170), bytes(448), b"", b"[wallet]\nname = 1\n"):
            file = read_coin_file(content)
            assert (file.container, file.encryption) == (Container.OTHER, Encryption.UNKNOWN)
            assert (file.coins, file.problem, file.legible) == ((), "", False)

    def test_too_many_bytes_are_a_problem_only_where_coins_could_be(self):
        padding = bytes(MAX_SIZE)
        assert "more than" in problem(SINGLE + padding, Container.FORMAT9)
        assert "more than" in problem(PLAIN_PNG + padding, Container.PNG)
        assert read_coin_file(padding + b"1").problem == ""
        assert read_coin_file(b"\xff\xd8\xff" + padding).problem == ""


def test_a_problem_never_hides_what_is_legible_in_a_larger_container():
    coins = second_writer.zipped([("a.bin", SINGLE), ("b.png", second_writer.png(SINGLE[:-1]))])
    assert problem(coins, Container.ZIP)
    assert read_coin_file(second_writer.zipped([("a.bin", format9.encode_single(replace(V3, serial=1)))])).legible
