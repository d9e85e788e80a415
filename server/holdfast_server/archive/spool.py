"""Bytes and records kept in memory in compressed blocks.

An archive that is being sealed must not leave its names on a disk in clear, and a million entries must not be a million
objects: so what has to wait for the archive's end waits here.
"""

from __future__ import annotations

from collections.abc import Iterator

from isal import isal_zlib

__all__ = ["ByteSpool", "RecordSpool"]

_BLOCK = 64 << 10
_OUT_BLOCK = 1 << 20


class ByteSpool:
    """Bytes that are needed later, in order. Not thread-safe: one writer owns it."""

    def __init__(self) -> None:
        self._deflate = isal_zlib.compressobj(level=1, wbits=-15)
        self._chunks: list[bytes] = []
        self._pending: list[bytes] = []
        self._waiting = 0
        self._closed = False
        self.size = 0

    def add(self, data: bytes) -> None:
        self.size += len(data)
        self._pending.append(data)
        self._waiting += len(data)
        if self._waiting >= _BLOCK:
            self._pack()

    def blocks(self) -> Iterator[bytes]:
        """Everything added, block by block; may be called again. Nothing can be added any more."""
        if not self._closed:
            self._pack()
            self._chunks.append(self._deflate.flush())
            self._closed = True
        inflate = isal_zlib.decompressobj(wbits=-15)
        for chunk in self._chunks:
            data = inflate.decompress(chunk, _OUT_BLOCK)
            while data:
                yield data
                data = inflate.decompress(inflate.unconsumed_tail, _OUT_BLOCK)
        if rest := inflate.flush():
            yield rest

    def _pack(self) -> None:
        # Joined first: a call with a hundred bytes costs microseconds, whatever they are.
        self._chunks.append(self._deflate.compress(b"".join(self._pending)))
        self._pending.clear()
        self._waiting = 0


class RecordSpool:
    """A list of records without newlines. About 70 bytes a manifest entry; may be read while it grows."""

    def __init__(self) -> None:
        self._packed: list[bytes] = []
        self._open: list[bytes] = []
        self._open_size = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, record: bytes) -> None:
        self._open.append(record)
        self._open_size += len(record)
        self._count += 1
        if self._open_size >= _BLOCK:
            self._packed.append(isal_zlib.compress(b"\n".join(self._open), level=1, wbits=-15))
            self._open = []
            self._open_size = 0

    def __iter__(self) -> Iterator[bytes]:
        for block in self._packed:
            yield from _unpack(block)
        yield from self._open

    def __reversed__(self) -> Iterator[bytes]:
        yield from reversed(self._open)
        for block in reversed(self._packed):
            yield from reversed(_unpack(block))


def _unpack(block: bytes) -> list[bytes]:
    data: bytes = isal_zlib.decompress(block, wbits=-15)
    return data.split(b"\n")
