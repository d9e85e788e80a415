"""Proving that the disk kept the file that was just written, and hashing it as a whole on the way."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence

from isal import isal_zlib

from holdfast_server.archive.reading import damage
from holdfast_server.archive.writer import Stretch
from holdfast_server.core.control import Control

__all__ = ["READ_BACK_WORK", "hash_file", "read_back"]

#: What reading back an archive costs, against reading and compressing what is in it.
READ_BACK_WORK = 0.05

_HASH_BLOCK = 1 << 20


def read_back(fd: int, stretches: Sequence[Stretch], control: Control, on_read: Callable[[int], None]) -> str:
    """SHA-256 (hex) of the open file, once every byte of it is proved to be what the writer gave to the disk.

    The writer has proved that these bytes unpack to the source. `on_read` gets the bytes of each block. Raises
    DataLoss/CHECKSUM_MISMATCH, and what `control` raises.
    """
    digest, position = hashlib.sha256(), 0
    for stretch in stretches:
        crc, left = 0, stretch.size
        while left:
            control.check()
            data = os.pread(fd, min(_HASH_BLOCK, left), position)
            if not data:
                raise damage("the file ends too early", offset=position)
            digest.update(data)
            crc = isal_zlib.crc32(data, crc)
            left -= len(data)
            position += len(data)
            on_read(len(data))
        if crc != stretch.crc:
            raise damage("the disk gives back other bytes than it was given", offset=position - stretch.size)
    if os.fstat(fd).st_size != position:
        raise damage("the file is longer than it was written", offset=position)
    return digest.hexdigest()


def hash_file(fd: int, check: Callable[[], None], on_read: Callable[[int], None] = lambda _: None) -> str:
    """SHA-256 of a whole open file, in hex. Does not move the file's position. `on_read` gets the bytes of each
    block."""
    digest, position = hashlib.sha256(), 0
    while data := os.pread(fd, _HASH_BLOCK, position):
        check()
        digest.update(data)
        position += len(data)
        on_read(len(data))
    return digest.hexdigest()
