"""Chunks of small files that are worth being packed anew: the next backup reads the files again that lie in them.

Two things make a chunk of small files a waste. Less than half of it is needed by any snapshot: a prune finds that, and
leaves a note for the node's backups. Or a source's chunks are too small on the average, as they become when few files
change at a time: its own backup sees that, and leaves a note in its files cache. Notes are worth no error.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Final

from holdfast_server.repository.chunks import ChunkIndex
from holdfast_server.storage.local import write_file

__all__ = ["NOTE_KEY", "Repacking", "read_note", "too_small", "write_note"]

#: The key of the files cache under which a source's note is.
NOTE_KEY: Final = bytes(16)
#: What a backup packs anew in one run, at most.
REPACKED_SIZE: Final = 64 << 20
#: Chunks of small files shall have so many bytes on the average, once there are some.
LEAST_AVERAGE: Final = 256 << 10
_SOME: Final = 8
_TINY: Final = 16 << 10
_PREFIX: Final = 16
_FILE: Final = b"waste"
_MOST: Final = 1 << 20
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def too_small(chunks: Iterable[tuple[int, bytes]]) -> bytes:
    """The note on a source's chunks of small files, given their lengths and ids: those that are too small, if the
    average is. A chunk is only packed anew with others that have as many bytes together, so that each byte is so a few
    times in its life, however often little changes."""
    ordered = sorted(chunks)
    if sum(length for length, _ in ordered) >= len(ordered) * LEAST_AVERAGE:
        return b""
    size = 0
    chosen: list[bytes] = []
    for length, chunk_id in ordered:
        if length >= LEAST_AVERAGE or length > size + _TINY or size + length > REPACKED_SIZE:
            break
        size += length
        chosen.append(chunk_id[:_PREFIX])
    return b"".join(chosen[: _MOST // _PREFIX]) if len(chosen) >= _SOME else b""


class Repacking:
    """What one backup packs anew. `numbers` are the chunks that a note names and that are there, as many as may be
    packed anew in one run."""

    def __init__(self, index: ChunkIndex, note: bytes) -> None:
        self.numbers: set[int] = set()
        self._index = index
        self._before = len(index)
        size = 0
        for at in range(0, len(note) - _PREFIX + 1, _PREFIX):
            number = index.find(note[at : at + _PREFIX])
            if number >= 0 and number not in self.numbers:
                if size + index.raw_length(number) > REPACKED_SIZE:
                    break
                size += index.raw_length(number)
                self.numbers.add(number)
        self._least = min(size, LEAST_AVERAGE)

    def choose(self, places: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
        """From which of its places, (chunk's number, offset), a file is taken; None when it is to be stored anew.

        One that is packed anew is not taken from another chunk that is as small: backups would take it from the one
        and the other in turn, for as long as older snapshots need both, and never pack it.
        """
        stale = self.numbers
        if not stale:
            return next(iter(places), None)
        every = list(places)
        anew = any(number in stale for number, _ in every)
        for number, offset in every:
            own = number >= self._before
            if number not in stale and (not anew or own or self._index.raw_length(number) >= self._least):
                return number, offset
        return None


def write_note(folder: bytes, chunk_ids: Iterable[bytes]) -> None:
    """Leave the note on chunks that are hardly needed, in this node's folder of the repository."""
    note = b"".join(chunk_id[:_PREFIX] for chunk_id in chunk_ids)[:_MOST]
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            write_file(fd, _FILE, note, 0o600)
        finally:
            os.close(fd)


def read_note(folder_fd: int) -> bytes:
    """What `write_note` has left in an opened folder; empty when there is nothing."""
    with contextlib.suppress(OSError):
        fd = os.open(_FILE, _FLAGS, dir_fd=folder_fd)
        try:
            return os.pread(fd, _MOST, 0)
        finally:
            os.close(fd)
    return b""
