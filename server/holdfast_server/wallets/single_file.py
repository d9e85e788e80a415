"""The file of one coin, as the folders of a wallet hold it: what is in it, and what it is called."""

from __future__ import annotations

from holdfast_server.wallets import ccv2, format9, stack
from holdfast_server.wallets.amounts import COIN
from holdfast_server.wallets.coin import Coin, Generation
from holdfast_server.wallets.layout import single_coin_name

__all__ = ["single_file"]


def single_file(coin: Coin) -> tuple[bytes, bytes]:
    """The documented name of a coin's own file, and its content: plaintext, in the container of its generation.

    A V1 coin that is split or sharded, of which its generation knows nothing, raises ValueError; no file of that
    generation says such a thing.
    """
    if coin.generation is Generation.V3:
        return single_coin_name(coin.value, coin.serial).encode(), format9.encode_single(coin)
    if coin.generation is Generation.V2:
        name = f"1.CloudCoin.{coin.network}.{coin.serial}.{coin.pown}.bin"
        return name.encode(), ccv2.encode_single(coin)
    return f"{coin.value // COIN}.CloudCoin.{coin.network}.{coin.serial}..stack".encode(), stack.encode([coin])
