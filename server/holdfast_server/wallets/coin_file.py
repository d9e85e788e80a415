"""What the bytes of one file hold of coins. The bytes alone decide: names lie, mottos and POWN are no grades."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from holdfast_server.wallets import format9
from holdfast_server.wallets.coin import Coin

__all__ = ["CoinFile", "Container", "Encryption", "read_coin_file"]


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

    UNKNOWN: no coin header was found (text, pictures without coins, formats nobody documents), or it is one that does
    not say so in its first bytes (stack, JPEG).
    """

    PLAINTEXT = "PLAINTEXT"
    ENCRYPTED = "ENCRYPTED"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class CoinFile:
    """One file's content.

    `coins` are all coins of a plaintext container, in its order; empty when there are none or it cannot be read.
    `encryption` is ENCRYPTED for our own envelope and for what another program encrypted: opaque here, whatever is in
    it. `problem` says why a container that claims coins gave none (damaged, foreign, too large), empty otherwise.
    `legible` says that authenticity numbers may lie in these bytes in clear: true for every plaintext container of
    coins, damaged ones too. A backup of an unlocked wallet never stores legible bytes.
    """

    container: Container
    coins: tuple[Coin, ...] = ()
    encryption: Encryption = Encryption.UNKNOWN
    problem: str = ""
    legible: bool = False


def read_coin_file(content: bytes) -> CoinFile:
    """Parse a whole file. Never raises, whatever the bytes."""
    header = format9.read_header(content[: format9.HEADER_SIZE], len(content))
    if header is not None and header.is_cloudcoin:
        if header.encrypted:
            return CoinFile(Container.FORMAT9, encryption=Encryption.ENCRYPTED)
        try:
            coins = tuple(format9.decode(content))
        except ValueError as error:
            return CoinFile(Container.FORMAT9, (), Encryption.PLAINTEXT, str(error), legible=True)
        return CoinFile(Container.FORMAT9, coins, Encryption.PLAINTEXT, legible=bool(coins))
    return CoinFile(Container.OTHER)
