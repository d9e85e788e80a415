"""A second reader of Format 9, written from the byte table of the specification and from nothing in the product."""

from __future__ import annotations

import struct

POWN = {0x0: "u", 0xA: "p", 0xB: "b", 0xC: "n", 0xD: "d", 0xE: "e", 0xF: "f"}


def read(data: bytes) -> dict:
    """Header fields and coins of a plaintext file, and the proposed numbers if it has any; raises on anything out of
    order."""
    fmt, _cloud, coin_id, _experimental, encryption, count = struct.unpack(">BBHBBH", data[:8])
    assert (fmt, coin_id, encryption) == (9, 6, 0)
    assert data[15] in (0, 1)
    assert data[8:15] == bytes(7)
    size = 807 if data[15] else 407
    assert len(data) == 32 + size * count
    pown = task = None
    if data[16:32] != b"Live Free Or Die":
        assert count == 1
        digits = data[16:29].hex()
        pown = "".join(POWN[int(digit, 16)] for digit in digits[:25])
        task = int(data[29:32].hex(), 16)
    coins, pans = [], []
    for at in range(32, len(data), size):
        split, shard, code, serial = struct.unpack(">BBbI", data[at : at + 7])
        coins.append((split, shard, code, serial, data[at + 7 : at + 407]))
        pans.append(data[at + 407 : at + size])
    return {"count": count, "pown": pown, "task": task, "coins": coins, "pans": pans}
