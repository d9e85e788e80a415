"""A second reader of Format 9, written from the byte table of the specification and from nothing in the product."""

from __future__ import annotations

import struct

POWN = {0x0: "u", 0xA: "p", 0xB: "b", 0xC: "n", 0xD: "d", 0xE: "e", 0xF: "f"}


def read(data: bytes) -> dict:
    """Header fields and coins of a plaintext file without proposed numbers; raises on anything out of order."""
    fmt, _cloud, coin_id, _experimental, encryption, count = struct.unpack(">BBHBBH", data[:8])
    assert (fmt, coin_id, encryption, data[15]) == (9, 6, 0, 0)
    assert data[8:15] == bytes(7)
    assert len(data) == 32 + 407 * count
    pown = task = None
    if data[16:32] != b"Live Free Or Die":
        assert count == 1
        digits = data[16:29].hex()
        pown = "".join(POWN[int(digit, 16)] for digit in digits[:25])
        task = int(data[29:32].hex(), 16)
    coins = []
    for at in range(32, len(data), 407):
        split, shard, code, serial = struct.unpack(">BBbI", data[at : at + 7])
        coins.append((split, shard, code, serial, data[at + 7 : at + 407]))
    return {"count": count, "pown": pown, "task": task, "coins": coins}
