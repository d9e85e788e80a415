"""A second writer of coin files, in the forms that other programs have written: struct, json, zlib and zipfile on the
byte tables of docs/format.md, nothing of the product. A coin is a dict as in `second_reader`."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib

FORMAT9_POWN = {"u": "0", "p": "a", "b": "b", "n": "c", "d": "d", "e": "e", "f": "f"}
CCV2_POWN = {"u": "0", "p": "a", "b": "b", "n": "d", "d": "d", "e": "e", "f": "f"}
JPEG_POWN = {"u": "0", "p": "1", "n": "2", "e": "e", "f": "f"}

JPEG_MARKER = bytes.fromhex("ffd8ffe001c34a46494600010101006000601d05")
PNG_START = b"\x89PNG\r\n\x1a\n"


def format9(coins: list[dict], *, motto: bool | None = None, pans: bool = False, trailing: bytes = b"") -> bytes:
    motto = len(coins) > 1 if motto is None else motto
    single = (
        bytes.fromhex("".join(FORMAT9_POWN[letter] for letter in (coins[0]["pown"] or "u" * 25)) + "9") + b"\x99" * 3
    )
    head = struct.pack(">BBHBBH7xB", 9, 1, 6, 0, 0, len(coins), pans)
    records = []
    for coin in coins:
        record = struct.pack(">BBbI", coin["split"], coin["shard"], coin["denomination"], coin["serial"]) + coin["ans"]
        records.append(record + (coin["pans"] or bytes(400)) if pans else record)
    return head + (b"Live Free Or Die" if motto else single) + b"".join(records) + trailing


def ccv2(coins: list[dict], *, receipt: bytes = bytes(16)) -> bytes:
    head = struct.pack(">BBH12x", 0, 0, coins[0]["network"]) + receipt
    return head + b"".join(
        struct.pack(">I", coin["serial"])[1:]
        + bytes.fromhex("".join(CCV2_POWN[letter] for letter in (coin["pown"] or "u" * 25)) + "0")
        + coin["ans"]
        + coin["pans"]
        for coin in coins
    )


def stack_entry(coin: dict, **changes: object) -> dict:
    entry = {
        "nn": str(coin["network"]),
        "sn": str(coin["serial"]),
        "an": [coin["ans"][at : at + 16].hex() for at in range(0, 400, 16)],
        "pown": coin["pown"] or "u" * 25,
        "ed": "9-2021",
        "aoid": [],
    }
    if coin["pans"]:
        entry["pan"] = [coin["pans"][at : at + 16].hex() for at in range(0, 400, 16)]
    return entry | changes


def stack(entries: list[dict]) -> bytes:
    return json.dumps({"cloudcoin": entries}).encode()


def wrapped(content: bytes, width: int = 100, end: bytes = b"\r\n") -> bytes:
    """Broken at a fixed width, inside tokens, as two real files are."""
    return end.join(content[at : at + width] for at in range(0, len(content), width)) + end


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*coin_data: bytes, late: bool = False) -> bytes:
    """A picture of one grey pixel with coin chunks after IHDR, or before IEND."""
    coins = b"".join(chunk(b"cLDc", data) for data in coin_data)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0\x80"))
    return PNG_START + head + (pixels + coins if late else coins + pixels) + chunk(b"IEND", b"")


def jpeg(coin: dict, *, aoid: bytes = b"Live Free Or Die") -> bytes:
    """The coin, and of the picture only what a reader of coins does not look at."""
    pown = bytes.fromhex("".join(JPEG_POWN[letter] for letter in (coin["pown"] or "u" * 25)) + "0")
    tail = bytes([0, 0xAC, coin["network"]]) + struct.pack(">I", coin["serial"])[1:]
    return JPEG_MARKER + coin["ans"] + aoid + pown + tail + b"\xff\xe1 rest of the picture \xff\xd9"


def zipped(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return target.getvalue()
