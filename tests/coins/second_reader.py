"""A second reader of every file that coins are packed into: struct, json and zlib on the byte tables of docs/format.md,
nothing of the product. It is strict where the product is lenient: it reads what is written, not what is tolerated.

A coin is a dict of plain values: generation, denomination, serial, network, split, shard, ans, pans, pown.
"""

from __future__ import annotations

import json
import struct
import zlib

from tests.unit.wallets import format9_reader

CCV2_POWN = {"0": "u", "a": "p", "b": "b", "d": "n", "e": "e", "f": "f"}


def read(data: bytes) -> list[dict]:
    """The coins of a file of any kind."""
    if data[:4] == b"PK\x03\x04":
        return [coin for _, content in zip_members(data) for coin in read(content)]
    if data[:4] == b"\x89PNG":
        return read(png_coin_chunk(data))
    return {9: format9, 0: ccv2, ord("{"): stack}[data[0]](data)


def format9(data: bytes) -> list[dict]:
    found = format9_reader.read(data)
    return [
        coin("V3", serial, ans, pans if any(pans) else b"", found["pown"], 1, code, split, shard)
        for (split, shard, code, serial, ans), pans in zip(found["coins"], found["pans"], strict=True)
    ]


def ccv2(data: bytes) -> list[dict]:
    assert data[:3] == bytes(3)
    assert data[4:32] == bytes(28)
    size = 816 if len(data) == 32 + 816 else 416
    assert len(data) > 32
    assert (len(data) - 32) % size == 0
    coins = []
    for at in range(32, len(data), size):
        record = data[at : at + size]
        digits = record[3:16].hex()
        assert digits[25] == "0"
        pown = "".join(CCV2_POWN[digit] for digit in digits[:25])
        serial = int.from_bytes(record[:3], "big")
        coins.append(coin("V2", serial, record[16:416], record[416:], pown, data[3]))
    return coins


def stack(data: bytes) -> list[dict]:
    parsed = json.loads(data.decode("ascii"))
    assert list(parsed) == ["cloudcoin"]
    coins = []
    for entry in parsed["cloudcoin"]:
        assert {"nn", "sn", "an", "pown", "ed", "aoid"} <= set(entry) <= {*entry, "pan", "holdfast"}
        assert isinstance(entry["nn"], str)
        assert isinstance(entry["sn"], str)
        assert len(entry["an"]) == 25
        assert all(len(an) == 32 and an == an.lower() for an in entry["an"])
        numbers = [bytes.fromhex("".join(entry.get(key, []))) for key in ("an", "pan")]
        own = entry.get("holdfast", {"generation": "V1"})
        rest = own.get("denomination", 0), own.get("split", 0), own.get("shard", 0)
        coins.append(coin(own["generation"], int(entry["sn"]), *numbers, entry["pown"], int(entry["nn"]), *rest))
    return coins


def coin(generation, serial, ans, pans, pown, network, denomination=0, split=0, shard=0) -> dict:
    """Keys in the order of the arguments but the last: what a coin is, however it is kept."""
    assert len(ans) == 400
    assert len(pans) in (0, 400)
    return {
        "generation": generation,
        "serial": serial,
        "ans": ans,
        "pans": pans,
        "pown": pown,
        "network": network,
        "denomination": denomination,
        "split": split,
        "shard": shard,
    }


def png_chunks(data: bytes) -> list[tuple[int, bytes, bytes]]:
    """Offset, type and data of each chunk, every checksum proved, up to the very end."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        (crc,) = struct.unpack_from(">I", data, at + 8 + length)
        assert crc == zlib.crc32(kind + body)
        chunks.append((at, kind, body))
        at += 12 + length
    assert chunks[-1][1] == b"IEND"
    return chunks


def png_coin_chunk(data: bytes) -> bytes:
    [(at, body)] = [(at, body) for at, kind, body in png_chunks(data) if kind == b"cLDc"]
    assert at == 33
    return body


def zip_members(data: bytes) -> list[tuple[str, bytes]]:
    """Names and contents by the central directory, which must agree with the local headers; stored members only."""
    end = len(data) - 22
    assert data[end : end + 4] == b"PK\x05\x06"
    count, size, at = struct.unpack_from("<HII", data, end + 10)
    assert at + size == end
    members, covered = [], 0
    for _ in range(count):
        assert data[at : at + 4] == b"PK\x01\x02"
        method, _time, crc, packed, plain, name_size, extra, comment = struct.unpack_from("<HIIIIHHH", data, at + 10)
        (local,) = struct.unpack_from("<I", data, at + 42)
        name = data[at + 46 : at + 46 + name_size]
        assert (method, packed, extra, comment) == (0, plain, 0, 0)
        assert local == covered
        assert data[local : local + 4] == b"PK\x03\x04"
        assert data[local + 30 : local + 30 + name_size] == name
        content = data[local + 30 + name_size : local + 30 + name_size + plain]
        assert zlib.crc32(content) == crc
        members.append((name.decode("ascii"), content))
        covered = local + 30 + name_size + plain
        at += 46 + name_size
    assert at == end
    return members
