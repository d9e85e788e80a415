"""Coins of one generation into one file: what an export writes.

| form  | V1                      | V2                          | V3                                      |
|-------|-------------------------|-----------------------------|-----------------------------------------|
| ZIP   | single `.stack` files   | single CCv2 `.bin` files    | single Format 9 `.bin` files            |
| STACK | the classic stack       | stack with our key          | stack with our key                      |
| PNG   | `cLDc` with a stack     | `cLDc` with a CCv2 file     | `cLDc` with a Format 9 file             |
| BIN   | refused: there is none  | CCv2 file                   | Format 9 file with the motto            |

Nothing of a coin but its POWN, which is no property of money, is ever lost: what a container cannot hold is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from enum import StrEnum

from holdfast_server.errors import Internal, Reason, invalid_field
from holdfast_server.wallets import ccv2, coin_png, coin_zip, format9, stack
from holdfast_server.wallets.coin import RAIDA, Coin, Generation
from holdfast_server.wallets.coin_file import read_coin_file
from holdfast_server.wallets.picture import BUILT_IN_PICTURE, Picture
from holdfast_server.wallets.single_file import single_file

__all__ = ["MAX_COINS", "CoinForm", "check", "pack"]

#: Coins a file. The present wallet program takes no more notes at a time.
MAX_COINS = 1_000

_NO_POWN = "u" * RAIDA


class CoinForm(StrEnum):
    """The file formats of an export; the value in lower case is the file's suffix."""

    ZIP = "ZIP"
    STACK = "STACK"
    PNG = "PNG"
    BIN = "BIN"


def check(coins: Sequence[Coin], form: CoinForm, generation: Generation) -> None:
    """Raise InvalidArgument/INVALID_FIELD of `format` if no file of this form can hold these coins wholly."""
    if form not in (CoinForm.BIN, CoinForm.PNG):
        return
    if generation is Generation.V1 and form is CoinForm.BIN:
        raise invalid_field("format", "V1 coins have no binary file; use ZIP, STACK or PNG", generation="V1")
    if generation is not Generation.V2:
        return
    if len({coin.network for coin in coins}) > 1:
        raise invalid_field("format", f"V2 coins of several coin ids fit into no {form}; use ZIP", generation="V2")
    if len(coins) > 1 and any(coin.pans for coin in coins):
        raise invalid_field("format", f"V2 coins with proposed numbers fit into no {form}; use ZIP", generation="V2")


def pack(
    coins: Sequence[Coin], form: CoinForm, generation: Generation, *, picture: Picture = BUILT_IN_PICTURE
) -> bytes:
    """The file of 1..1000 coins of one generation. `picture` carries them where the form is PNG.

    The same coins give the same bytes. What is returned has been read back and holds exactly these coins.

    Raises as `check` and `Picture.draw`; ValueError for no coins, too many, or those of another generation.
    """
    if not 1 <= len(coins) <= MAX_COINS:
        raise ValueError(f"{len(coins)} coins instead of 1..{MAX_COINS}")
    if any(coin.generation is not generation for coin in coins):
        raise ValueError(f"not all coins are of {generation}")
    check(coins, form, generation)
    match form:
        case CoinForm.ZIP:
            content = coin_zip.write(_singles(coins))
        case CoinForm.STACK:
            content = stack.encode(coins)
        case CoinForm.BIN:
            content = _many(coins)
        case CoinForm.PNG:
            content = coin_png.embed(picture.draw(sum(coin.value for coin in coins)), _many(coins))
    _prove(content, coins)
    return content


def _many(coins: Sequence[Coin]) -> bytes:
    """One file of all coins, in what is the native container of their generation."""
    match coins[0].generation:
        case Generation.V1:
            return stack.encode(coins)
        case Generation.V2:
            return ccv2.encode_single(coins[0]) if len(coins) == 1 else ccv2.encode_many(coins)
        case Generation.V3:
            return format9.encode_many(coins)


def _singles(coins: Sequence[Coin]) -> Iterator[tuple[str, bytes]]:
    """A name as the programs of its generation give it, and the file, for each coin. Names are unique."""
    taken: set[str] = set()
    for coin in coins:
        wanted, content = single_file(coin)
        name = wanted.decode()
        stem, dot, suffix = name.rpartition(".")
        number = 2
        while name in taken:
            name = f"{stem}-{number}{dot}{suffix}"
            number += 1
        taken.add(name)
        yield name, content


def _prove(content: bytes, coins: Sequence[Coin]) -> None:
    """Coins are moved away on the strength of this file, so that what it holds is read, not believed."""
    read = read_coin_file(content).coins
    if [replace(coin, pown=_NO_POWN) for coin in read] != [replace(coin, pown=_NO_POWN) for coin in coins]:
        raise Internal(
            Reason.INTERNAL,
            f"a file of {len(coins)} coins was made that does not hold them",
            metadata={"coins": str(len(coins)), "read": str(len(read))},
        )
