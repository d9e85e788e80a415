"""The files cache: what the last backup of a source knew of each file, so that an unchanged one is not read again.

One file per source in the data directory, written anew by each backup and only ever replaced as a whole. It holds
opaque values by keys of 16 bytes in the order of the walk, encrypted under a key of its own. Nothing depends on it:
where it is absent, torn, damaged or not this repository's it holds nothing, and a backup reads the files again.

    magic (8)  salt (32)  block*  table block*  directory  trailer: u32 block count, u32 length of the directory

Every block is AES-256-GCM under HKDF-SHA256(key, salt), its number the nonce; number, role and the caller's binding are
associated data, the directory's role marks the end. A block is columns, so that it is taken apart by few operations:

    block      the keys; u32 where each value begins in the block, and where the last one ends; the values
    table      8-byte beginnings of keys, ascending, then the u32 position of the record of each
    directory  u32 count of blocks that are no table; for each block u32 stored length, u32 count of records

Integers are in the machine's order, which is bound in: a cache does not move between machines.
"""

from __future__ import annotations

import contextlib
import os
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = ["KEY_SIZE", "FilesCacheReader", "FilesCacheWriter"]

#: Bytes of a record's key.
KEY_SIZE = 16

_MAGIC = b"HFfiles\x01"
_INFO = b"holdfast 1 files cache"
_SALT_SIZE = 32
_HEADER_SIZE = len(_MAGIC) + _SALT_SIZE
_TRAILER_SIZE = 8
_TAG_SIZE = 16

#: A block is closed as soon as it is this large; larger only for the sake of one record.
_BLOCK_SIZE = 256 << 10
#: So many blocks stay taken apart in memory, each some four times its size.
_KEPT_BLOCKS = 8
#: So many keys are sorted at once, 40 bytes each; more are distributed first.
_SORTED_AT_ONCE = 1 << 18

_DATA, _TABLE, _DIRECTORY = b"d", b"t", b"e"
_PREFIX, _POSITION = "Q", "I"


class _Cipher:
    def __init__(self, key: bytes, salt: bytes, binding: bytes) -> None:
        self._aead = AESGCM(HKDF(SHA256(), 32, salt, _INFO).derive(key))
        self._binding = sys.byteorder.encode() + binding

    def seal(self, number: int, role: bytes, content: bytes) -> bytes:
        return self._aead.encrypt(number.to_bytes(12, "big"), content, role + self._binding)

    def open(self, number: int, role: bytes, content: bytes) -> bytes:
        """The content of a block; `InvalidTag` if it is not exactly what was written."""
        return self._aead.decrypt(number.to_bytes(12, "big"), content, role + self._binding)


class FilesCacheWriter:
    """Writes a source's cache beside the one that stands, which `commit` replaces.

    A cache is worth no error: where it cannot be written the writer falls silent and `commit` says so. One writer at a
    time; of two, the later one's cache counts or none.
    """

    def __init__(self, folder_fd: int, name: str, key: bytes, binding: bytes) -> None:
        """`folder_fd` stays the caller's and open; `key` has 32 bytes; `binding` says whose cache this is."""
        self._folder = folder_fd
        self._name = name
        self._part = f"{name}.part"
        self._keys: list[bytes] = []
        self._values: list[bytes] = []
        self._size = 0
        self._prefixes = array(_PREFIX)
        #: Of each block: stored length and count of records.
        self._blocks = array("I")
        self._ended = False
        salt = os.urandom(_SALT_SIZE)
        self._cipher = _Cipher(key, salt, binding)
        self._fd = -1
        with self._or_silent():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._part, dir_fd=folder_fd)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(self._part, flags, 0o600, dir_fd=folder_fd)
            self._write(_MAGIC + salt)

    def add(self, key: bytes, value: bytes) -> None:
        """Add the next file of the walk. Of a key that is added twice either value may be found."""
        self._keys.append(key)
        self._values.append(value)
        self._size += len(value) + 20
        if self._size >= _BLOCK_SIZE:
            self._flush()

    def commit(self) -> bool:
        """Replace the cache that stands; false: it could not be written, and what stood there stands."""
        with self._or_silent():
            self._flush()
            data_blocks = array("I", (len(self._blocks) // 2,))
            for prefixes, positions in _sorted_table(self._prefixes):
                self._block(_TABLE, len(prefixes), prefixes.tobytes() + positions.tobytes())
            count = len(self._blocks) // 2
            sealed = self._cipher.seal(count, _DIRECTORY, (data_blocks + self._blocks).tobytes())
            self._write(sealed + array("I", (count, len(sealed))).tobytes())
            self._close()
            os.rename(self._part, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            self._ended = True
            return True
        return False

    def abort(self) -> None:
        """Leave the cache that stands and remove what was written; allowed at any time, also after `commit`."""
        if self._ended:
            return
        self._ended = True
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            os.unlink(self._part, dir_fd=self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _flush(self) -> None:
        keys, values = self._keys, self._values
        if not keys:
            return
        count = len(keys)
        joined = b"".join(keys)
        if len(joined) != count * KEY_SIZE:
            raise ValueError(f"a key of the files cache has {KEY_SIZE} bytes")
        ends = array("I", accumulate(map(len, values), initial=count * (KEY_SIZE + 4) + 4))
        self._block(_DATA, count, b"".join((joined, ends.tobytes(), *values)))
        self._prefixes.extend(array(_PREFIX, joined)[::2])
        self._keys, self._values, self._size = [], [], 0

    def _block(self, role: bytes, count: int, content: bytes) -> None:
        sealed = self._cipher.seal(len(self._blocks) // 2, role, content)
        self._blocks.extend((len(sealed), count))
        with self._or_silent():
            self._write(sealed)

    def _write(self, content: bytes) -> None:
        if self._ended:
            raise OSError("the files cache is not being written any more")
        view = memoryview(content)
        while view:
            view = view[os.write(self._fd, view) :]

    @contextlib.contextmanager
    def _or_silent(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self.abort()


def _sorted_table(prefixes: array[int]) -> Iterator[tuple[array[int], array[int]]]:
    """The beginnings of keys in ascending order with their positions, in several parts where they are many."""
    total = len(prefixes)
    parts = [(prefixes, array(_POSITION, range(total)))]
    if total > _SORTED_AT_ONCE:
        parts = [(array(_PREFIX), array(_POSITION)) for _ in range(256)]
        for position, prefix in enumerate(prefixes):
            some, places = parts[prefix >> 56]
            some.append(prefix)
            places.append(position)
    for some, places in parts:
        ordered = sorted([prefix << 32 | place for prefix, place in zip(some, places, strict=True)])
        if ordered:
            yield (
                array(_PREFIX, [pair >> 32 for pair in ordered]),
                array(_POSITION, [pair & 0xFFFFFFFF for pair in ordered]),
            )


class FilesCacheReader:
    """Finds what the last backup knew. Lookups in the order of the walk cost least; any order finds everything.

    Memory is a few blocks, and 12 bytes a file from the first lookup that is not where it was expected.
    """

    def __init__(self) -> None:
        """An empty one; use `open`."""
        self._fd = -1
        self._cipher: _Cipher | None = None
        #: Of each block: where it begins, and after the last one.
        self._offsets: list[int] = [0]
        #: Of each data block: the position of its first record, and after the last one.
        self._firsts: list[int] = [0]
        self._here: dict[bytes, bytes] = {}
        self._number = -1
        self._kept: OrderedDict[int, dict[bytes, bytes]] = OrderedDict()
        self._prefixes: array[int] | None = None
        self._positions = array(_POSITION)

    @classmethod
    def open(cls, folder_fd: int, name: str, key: bytes, binding: bytes) -> Self:
        """Open a source's cache: an empty one where there is none that `key` and `binding` open, whatever the cause."""
        reader = cls()
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder_fd)
        except OSError:
            return reader
        reader._fd = fd
        try:
            reader._read_directory(key, binding)
        except (OSError, InvalidTag):
            reader.close()
        except BaseException:
            reader.close()
            raise
        return reader

    def __len__(self) -> int:
        """How many files it knows."""
        return self._firsts[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; from then on nothing is found."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        self._here, self._number, self._firsts = {}, -1, [0]
        self._kept.clear()
        self._prefixes, self._positions = None, array(_POSITION)

    def lookup(self, key: bytes) -> bytes | None:
        """The value that was stored with a key of 16 bytes, or None."""
        value = self._here.get(key)
        return value if value is not None else self._elsewhere(key)

    def _elsewhere(self, key: bytes) -> bytes | None:
        if self._prefixes is None:
            # As long as nothing has changed the next block is the place, and no table is needed.
            if self._number + 1 >= len(self._firsts) - 1:
                following: dict[bytes, bytes] = {}
            else:
                following = self._block(self._number + 1)
            if key in following:
                self._number, self._here = self._number + 1, following
                return following[key]
            self._read_table()
        prefixes = self._prefixes or ()
        prefix = int.from_bytes(key[:8], sys.byteorder)
        place, end = bisect_left(prefixes, prefix), len(prefixes)
        while place < end and prefixes[place] == prefix:
            number = bisect_right(self._firsts, self._positions[place]) - 1
            block = self._block(number)
            if key in block:
                self._number, self._here = number, block
                return block[key]
            place += 1
        return None

    def _read_directory(self, key: bytes, binding: bytes) -> None:
        header = self._read(0, _HEADER_SIZE)
        if header[: len(_MAGIC)] != _MAGIC:
            raise InvalidTag
        self._cipher = _Cipher(key, header[len(_MAGIC) :], binding)
        size = os.fstat(self._fd).st_size
        count, length = array("I", self._read(size - _TRAILER_SIZE, _TRAILER_SIZE))
        start = size - _TRAILER_SIZE - length
        directory = array("I", self._cipher.open(count, _DIRECTORY, self._read(start, length)))
        data_blocks = directory[0]
        offsets = list(accumulate(directory[1::2], initial=_HEADER_SIZE))
        if offsets[-1] != start:
            raise InvalidTag
        self._offsets = offsets
        self._firsts = list(accumulate(directory[2 : 2 + 2 * data_blocks : 2], initial=0))

    def _read(self, offset: int, length: int) -> bytes:
        if offset < 0:
            raise InvalidTag
        content = os.pread(self._fd, length, offset)
        if len(content) != length:
            raise InvalidTag
        return content

    def _open_block(self, number: int, role: bytes) -> bytes:
        """A block's content; empty where it is damaged or cannot be read: then its files are read again."""
        start, end = self._offsets[number], self._offsets[number + 1]
        try:
            return self._cipher.open(number, role, self._read(start, end - start)) if self._cipher else b""
        except (OSError, InvalidTag):
            return b""

    def _block(self, number: int) -> dict[bytes, bytes]:
        """A block taken apart; the operations are few and in C, since every file pays for them."""
        kept = self._kept
        block = kept.get(number)
        if block is not None:
            kept.move_to_end(number)
            return block
        if content := self._open_block(number, _DATA):
            count = self._firsts[number + 1] - self._firsts[number]
            middle = count * KEY_SIZE
            ends = array("I", content[middle : middle + 4 * count + 4])
            keys = [content[at : at + KEY_SIZE] for at in range(0, middle, KEY_SIZE)]
            block = dict(zip(keys, [content[start:end] for start, end in pairwise(ends)], strict=True))
        else:
            block = {}
        kept[number] = block
        if len(kept) > _KEPT_BLOCKS:
            kept.popitem(last=False)
        return block

    def _read_table(self) -> None:
        prefixes = array(_PREFIX)
        for number in range(len(self._firsts) - 1, len(self._offsets) - 1):
            content = self._open_block(number, _TABLE)
            half = len(content) // 12 * 8
            prefixes.frombytes(content[:half])
            self._positions.frombytes(content[half:])
        self._prefixes = prefixes
