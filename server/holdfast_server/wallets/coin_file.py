"""What the bytes of one file hold of coins. The bytes alone decide: names lie, mottos and POWN are no grades."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from holdfast_server.wallets import ccv2, coin_jpeg, coin_png, coin_zip, envelope, format9, stack
from holdfast_server.wallets.coin import Coin

__all__ = ["MAX_SIZE", "CoinFile", "Container", "Encryption", "read_coin_file"]

#: Larger files, in bytes, are not parsed. The largest export, 65,535 coins with proposed numbers, has 51 MiB.
MAX_SIZE = 64 << 20


class Container(StrEnum):
    """What a file's bytes are."""

    FORMAT9 = "FORMAT9"
    CCV2 = "CCV2"
    STACK = "STACK"
    PNG = "PNG"
    JPEG = "JPEG"
    ZIP = "ZIP"
    ENVELOPE = "ENVELOPE"
    OTHER = "OTHER"


class Encryption(StrEnum):
    """Whether the coins of a file can be read, and spent, by whoever holds the file.

    UNKNOWN: no coins were found (text, pictures and ZIPs without coins, formats nobody documents). `classify`, which
    sees first bytes only, also says so of containers that tell later (stack, JPEG, ZIP).
    """

    PLAINTEXT = "PLAINTEXT"
    ENCRYPTED = "ENCRYPTED"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class CoinFile:
    """One file's content.

    `coins` are all coins of a plaintext container, in its order; empty when there are none or one of them cannot be
    read: a container is given as a whole or not at all.
    `encryption` is ENCRYPTED for our own envelope and for what another program encrypted: opaque here, whatever is in
    it. `problem` says why a container that claims coins gave none (damaged, foreign, too large), empty otherwise.
    `legible` says that authenticity numbers may lie in these bytes in clear: true for every plaintext container of
    coins, damaged ones too, and for key files and the like, which are no container but show such numbers. A backup of
    an unlocked wallet never stores legible bytes.
    """

    container: Container
    coins: tuple[Coin, ...] = ()
    encryption: Encryption = Encryption.UNKNOWN
    problem: str = ""
    legible: bool = False


_MAGICS = {
    **dict.fromkeys(coin_zip.MAGICS, Container.ZIP),
    coin_png.MAGIC: Container.PNG,
    coin_jpeg.MAGIC: Container.JPEG,
}
_IN_CHUNK = frozenset({Container.FORMAT9, Container.CCV2, Container.STACK})
_PARSED = _IN_CHUNK | {Container.PNG, Container.ZIP}
_MAX_PROBLEM = 200

_FORMAT8 = b"\x08"
_FORMAT8_PLAINTEXT = b"\0\6\0\0"

# Thirteen of 25 RAIDA are a quorum. A digit before the first number would only make the search start again within it.
_NUMBERS = re.compile(rb"(?<![0-9a-fA-F])(?:[0-9a-fA-F]{32}[\s\"',\\rnt]{0,16}){13}")
_HEX = bytes(0x78 if chr(byte) in string.hexdigits else 0x2E for byte in range(256))
_WIDE_TEXTS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def read_coin_file(content: bytes) -> CoinFile:
    """Parse a whole file. Never raises, whatever the bytes.

    Either all coins of a file are given or none and a problem, so that whoever moves a file by what was read never
    leaves a coin behind in it.
    """
    return _read(content, _container(content))


def _container(content: bytes) -> Container:
    if content.startswith(envelope.MAGIC):
        return Container.ENVELOPE
    for magic, container in _MAGICS.items():
        if content.startswith(magic):
            return container
    header = format9.read_header(content, len(content))
    if header is not None and header.is_cloudcoin:
        return Container.FORMAT9
    if ccv2.claims(content):
        return Container.CCV2
    return Container.STACK if stack.claims(content) else Container.OTHER


def _read(content: bytes, container: Container) -> CoinFile:
    if len(content) > MAX_SIZE and container in _PARSED:
        return _damaged(container, f"{len(content)} bytes, more than the {MAX_SIZE} that are read")
    match container:
        case Container.FORMAT9:
            return _file(container, format9.decode, content, encrypted=content[5] != 0)
        case Container.CCV2:
            return _file(container, ccv2.decode, content, encrypted=any(content[4:6]))
        case Container.STACK:
            return _file(container, stack.decode, content)
        case Container.PNG:
            return _png(content)
        case Container.JPEG:
            return _jpeg(content)
        case Container.ZIP:
            return _zip(content)
        case Container.ENVELOPE:
            return CoinFile(container, encryption=Encryption.ENCRYPTED)
        case Container.OTHER:
            return _other(content)


def _file(
    container: Container, decode: Callable[[bytes], Sequence[Coin]], content: bytes, encrypted: bool = False
) -> CoinFile:
    if encrypted:
        return CoinFile(container, encryption=Encryption.ENCRYPTED)
    try:
        coins = tuple(decode(content))
    except stack.VaultEncryptedError:
        return CoinFile(container, encryption=Encryption.ENCRYPTED, legible=_shows_numbers(content))
    except ValueError as error:
        return _damaged(container, str(error))
    return CoinFile(container, coins, Encryption.PLAINTEXT, legible=bool(coins) or _shows_numbers(content))


def _damaged(container: Container, problem: str) -> CoinFile:
    return CoinFile(container, (), Encryption.PLAINTEXT, problem[:_MAX_PROBLEM], legible=True)


def _png(content: bytes) -> CoinFile:
    try:
        chunks = coin_png.coin_data(content)
    except ValueError as error:
        return _damaged(Container.PNG, str(error))
    return _together(Container.PNG, [_chunk(data) for data in chunks])


def _chunk(data: bytes) -> CoinFile:
    container = _container(data)
    if container in _IN_CHUNK:
        return _read(data, container)
    return _damaged(container, "a coin chunk carries nothing that is known")


def _jpeg(content: bytes) -> CoinFile:
    if not coin_jpeg.claims(content):
        return CoinFile(Container.JPEG)
    return _file(Container.JPEG, lambda content: (coin_jpeg.decode(content),), content, coin_jpeg.is_encrypted(content))


def _zip(content: bytes) -> CoinFile:
    encrypted = CoinFile(Container.OTHER, encryption=Encryption.ENCRYPTED)
    try:
        parts = [encrypted if data is None else _member(data) for data in coin_zip.members(content)]
    except ValueError as error:
        return _damaged(Container.ZIP, str(error))
    return _together(Container.ZIP, parts)


def _member(data: bytes) -> CoinFile:
    container = _container(data)
    return _damaged(container, "a ZIP in a ZIP") if container is Container.ZIP else _read(data, container)


def _together(container: Container, parts: Sequence[CoinFile]) -> CoinFile:
    """What a container of coin files holds: all their coins, or a problem if there is one with any of them."""
    coins = tuple(coin for part in parts for coin in part.coins)
    legible = any(part.legible for part in parts)
    encrypted = any(part.encryption is Encryption.ENCRYPTED for part in parts)
    problem = next((part.problem for part in parts if part.problem), "")
    if encrypted and coins and not problem:
        problem = "some of its coins are encrypted by another program, others are not"
    if problem:
        return CoinFile(container, (), Encryption.PLAINTEXT if legible else Encryption.ENCRYPTED, problem, legible)
    if encrypted:
        return CoinFile(container, encryption=Encryption.ENCRYPTED, legible=legible)
    return CoinFile(container, coins, Encryption.PLAINTEXT if coins else Encryption.UNKNOWN, legible=legible)


def _other(content: bytes) -> CoinFile:
    """No container that is read here. Its bytes may show authenticity numbers all the same: keys, parts of a stack,
    formats of coins that are no CloudCoin."""
    header = format9.read_header(content, len(content))
    if header is not None and not header.encrypted and header.count and header.consistent:
        return _damaged(Container.OTHER, f"coins of id {header.coin_id}, which are no CloudCoins")
    if content[:1] == _FORMAT8 and content[2:6] == _FORMAT8_PLAINTEXT:
        return _damaged(Container.OTHER, "a coin file of format 8, which is not read")
    return CoinFile(Container.OTHER, legible=_shows_numbers(content))


def _shows_numbers(content: bytes) -> bool:
    """Whether authenticity numbers are written out somewhere: as many in a row as make a coin worth something."""
    # The expression is slow; most files have not even one number, which these two tell at memory speed.
    if b"x" * 32 in content.translate(_HEX, b"\r\n") and (
        _NUMBERS.search(content) or _NUMBERS.search(content.translate(None, b"\r\n"))
    ):
        return True
    for mark, encoding in _WIDE_TEXTS.items():
        if content.startswith(mark):
            return _NUMBERS.search(content.decode(encoding, "replace").encode()) is not None
    return False
