"""Coins and coin files made up for tests, and what a wallet holds of them, counted by identity."""

from __future__ import annotations

import hashlib
import os
import random
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from holdfast_server.core.holdings import is_held
from holdfast_server.wallets import ccv2, coin_png, coin_zip, format9, stack
from holdfast_server.wallets.coin import AN_SIZE, RAIDA, Coin, Generation
from holdfast_server.wallets.coin_file import read_coin_file

__all__ = ["PACKERS", "contents", "held", "identities", "make_coin", "make_coins", "pack", "put"]

_JPEG_START = bytes.fromhex("ffd8ffe001c34a46494600010101006000601d05")


def make_coin(rng: random.Random, generation: Generation = Generation.V3) -> Coin:
    ans = rng.randbytes(RAIDA * AN_SIZE)
    serial = rng.randrange(1, 16_777_216)
    if generation is Generation.V3:
        return Coin(rng.choice([-8, -2, -1, 0, 1, 2, 3]), serial, ans, pown="p" * RAIDA)
    return Coin(0, serial, ans, generation=generation)


def make_coins(rng: random.Random, count: int, generation: Generation = Generation.V3) -> list[Coin]:
    return [make_coin(rng, generation) for _ in range(count)]


def _picture() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


def _own_format(coins: Sequence[Coin]) -> tuple[str, bytes]:
    """Name's ending and content of a file of coins of one generation, in its first container."""
    if coins[0].generation is Generation.V3:
        return ".bin", format9.encode_single(coins[0]) if len(coins) == 1 else format9.encode_many(coins)
    if coins[0].generation is Generation.V2:
        return ".bin", ccv2.encode_single(coins[0]) if len(coins) == 1 else ccv2.encode_many(coins)
    return ".stack", stack.encode(coins)


def _png(coins: Sequence[Coin]) -> tuple[str, bytes]:
    return ".png", coin_png.embed(_picture(), _own_format(coins)[1])


def _zip(coins: Sequence[Coin]) -> tuple[str, bytes]:
    members = [_own_format([coin]) for coin in coins]
    return ".zip", coin_zip.write((f"{number}{ending}", data) for number, (ending, data) in enumerate(members))


def _stack(coins: Sequence[Coin]) -> tuple[str, bytes]:
    return ".stack", stack.encode(coins)


def _jpeg(coins: Sequence[Coin]) -> tuple[str, bytes]:
    """Of the first coin alone, which must be of V1."""
    tail = b"\0" * 16 + b"\0" * 13 + b"\0\0" + bytes([1]) + coins[0].serial.to_bytes(3, "big")
    return ".jpg", _JPEG_START + coins[0].ans + tail + b"\xff\xe1\0\x08rest\xff\xd9"


PACKERS: dict[str, Callable[[Sequence[Coin]], tuple[str, bytes]]] = {
    "own": _own_format,
    "stack": _stack,
    "png": _png,
    "zip": _zip,
}


def pack(kind: str, coins: Sequence[Coin]) -> tuple[str, bytes]:
    """The ending of a name, and a file's content. All coins are of one generation; `jpeg` holds one of V1."""
    return _jpeg(coins) if kind == "jpeg" else PACKERS[kind](coins)


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def identities(coins: Sequence[Coin]) -> Counter[bytes]:
    return Counter(coin.identity for coin in coins)


def held(wallet: Path) -> Counter[bytes]:
    """Each coin that the wallet holds, with how often it does."""
    found: Counter[bytes] = Counter()
    for path in _files(wallet):
        if is_held(os.fsencode(path.relative_to(wallet))):
            found.update(identities(read_coin_file(path.read_bytes()).coins))
    return found


def contents(*folders: Path) -> Counter[str]:
    """SHA-256 of every file below the folders, with how often it is there."""
    return Counter(hashlib.sha256(path.read_bytes()).hexdigest() for folder in folders for path in _files(folder))


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
