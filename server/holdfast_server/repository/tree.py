"""The tree of a snapshot: all its entries in one order, cut into pages that snapshots share.

docs/format.md ("Tree") specifies the pages. Where one ends is settled by the entries themselves, so that a change
rewrites one page of each level and an insertion moves none but its neighbours.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Final
from zlib import crc32

from holdfast_server.errors import DataLoss
from holdfast_server.records import frozen_record
from holdfast_server.repository.entries import Entry, decode_entries, encode_folder
from holdfast_server.repository.format import CHUNK_MAX, ChunkFetch, ChunkType, StoreChunk, damaged
from holdfast_server.repository.paths import Key, is_name, is_path, key_of

__all__ = ["PAGE_MAX", "PAGE_MIN", "PATH_MAX", "EntryTooLarge", "TreeReader", "TreeRoot", "TreeWriter"]

#: A page is cut from its least size on where an entry says so, and before it would pass the other.
PAGE_MIN: Final = 32 << 10
PAGE_MAX: Final = 256 << 10
#: The longest path of a folder, in bytes: two records of a higher page always fit into a chunk.
PATH_MAX: Final = (CHUNK_MAX >> 1) - (128 << 10)

#: Bytes that are expected to follow the least size before an entry ends the page.
_SPREAD = 40 << 10
#: Scatters a checksum: that of names that differ in some digits only has its upper bits in common too often.
_SCATTER = 0x9E3779B1
#: Bytes of an entry and of its folder's path that fit into a page, with the level and the head of the folder record.
_RECORD_MAX = CHUNK_MAX - 6
_ID = 32
_U16, _U32 = Struct("<H"), Struct("<I")


@frozen_record
class TreeRoot:
    """The topmost page of a tree: its level, and the id of its chunk."""

    level: int
    id: bytes


class EntryTooLarge(ValueError):
    """An entry or the path of its folder does not fit into a page. Nothing was added."""


class _Page:
    """The page of a level that is being filled. `base` is its size with the first folder record alone."""

    __slots__ = ("base", "count", "first", "only_id", "parts", "size")

    def __init__(self, level: int) -> None:
        self.parts = [bytes((level,))]
        self.size = self.base = 1
        self.count = 0
        self.first = (b"", b"")
        self.only_id = b""

    def is_full(self, more: int) -> bool:
        """Whether it must be closed before it takes `more` bytes."""
        size = self.size + more
        # A page of very long paths still takes its least size of records: else each would repeat its folder's path.
        return size > CHUNK_MAX or (size > PAGE_MAX and self.size - self.base >= PAGE_MIN)


class TreeWriter:
    """Takes entries in the order of the tree and keeps one page of each level in memory.

    `store` stores the content of a page as a chunk of type TREE and gives its id.
    """

    def __init__(self, store: StoreChunk) -> None:
        self._store = store
        #: The page being filled of each level.
        self._levels = [_Page(0)]
        self._folder: bytes | None = None
        self._folder_key = b""
        self._folder_record = b""
        self._folder_crc = 0
        #: Whether the page being filled names the folder already.
        self._named = False
        self._name = b""

    def add(self, folder: bytes, name: bytes, record: bytes) -> None:
        """Add an entry, as `encode_entry` gives it.

        Raises ValueError when it does not stand behind all before, or no entry can be called that; EntryTooLarge when
        no page can hold it. Either leaves the tree as it was.
        """
        size = len(record)
        if not is_name(name):
            raise ValueError(f"no name of an entry: {name!r}")
        if len(folder) + size > _RECORD_MAX:
            raise EntryTooLarge(f"an entry has {size} bytes, in a folder whose path has {len(folder)}")
        if folder != self._folder:
            self._enter(folder)
        elif name <= self._name:
            raise ValueError(f"{name!r} comes after {self._name!r} in {folder!r}")
        page = self._levels[0]
        if not self._named or page.size + size > PAGE_MAX:
            page = self._make_room(folder, name, size)
        page.parts.append(record)
        page.size += size
        page.count += 1
        self._name = name
        if page.size - page.base >= PAGE_MIN and _ends_page(crc32(name, self._folder_crc), size):
            self._close(0)

    def finish(self) -> TreeRoot | None:
        """The topmost page; None of a tree without entries. The writer takes no more then."""
        level = 0
        while level < len(self._levels) - 1:
            if self._levels[level].count:
                self._close(level)
            level += 1
        # The topmost level has not closed a page yet, else there were one above it.
        page = self._levels[level]
        if not page.count:
            return None
        if level and page.count == 1:
            return TreeRoot(level - 1, page.only_id)
        return TreeRoot(level, self._store(b"".join(page.parts)))

    def _enter(self, folder: bytes) -> None:
        """Go on in another folder."""
        key = folder.replace(b"/", b"\0")
        if self._folder is not None and key <= self._folder_key:
            raise ValueError(f"the folder {folder!r} comes after {self._folder!r}")
        if folder and not is_path(folder):
            raise ValueError(f"no path of a folder: {folder!r}")
        if len(folder) > PATH_MAX:
            raise EntryTooLarge(f"the path of a folder has {len(folder)} bytes, more than {PATH_MAX}")
        self._folder, self._folder_key, self._folder_record = folder, key, encode_folder(folder)
        self._folder_crc, self._named = crc32(key), False

    def _make_room(self, folder: bytes, name: bytes, size: int) -> _Page:
        """The page that an entry of `size` bytes goes to, which names its folder."""
        page, head = self._levels[0], b"" if self._named else self._folder_record
        if page.count and page.is_full(len(head) + size):
            self._close(0)
            page, head = self._levels[0], self._folder_record
        if not page.count:
            page.first = (folder, name)
            page.base += len(head)
        if head:
            page.parts.append(head)
            page.size += len(head)
            self._named = True
        return page

    def _close(self, level: int) -> None:
        """Store the page of a level and point to it from the one above."""
        page = self._levels[level]
        chunk_id = self._store(b"".join(page.parts))
        folder, name = page.first
        self._levels[level] = _Page(level)
        if not level:
            self._named = False
        if level + 1 == len(self._levels):
            self._levels.append(_Page(level + 1))
        self._point(level + 1, folder, name, chunk_id)

    def _point(self, level: int, folder: bytes, name: bytes, chunk_id: bytes) -> None:
        record = b"".join((_U32.pack(len(folder)), folder, _U16.pack(len(name)), name, chunk_id))
        size = len(record)
        page = self._levels[level]
        # Never fewer than two records in a page: else the tree would not get narrower.
        if page.count > 1 and page.is_full(size):
            self._close(level)
            page = self._levels[level]
        if not page.count:
            page.first, page.only_id = (folder, name), chunk_id
        page.parts.append(record)
        page.size += size
        page.count += 1
        if page.count > 1 and page.size >= PAGE_MIN:
            crc = crc32(name, crc32(folder.replace(b"/", b"\0"), level))
            if _ends_page(crc, size):
                self._close(level)


def _ends_page(crc: int, size: int) -> bool:
    """Whether the page ends behind a record of `size` bytes and this checksum of its key: one of _SPREAD bytes does."""
    return (crc * _SCATTER & 0xFFFFFFFF) * _SPREAD < size << 32


class TreeReader:
    """Reads a tree, one page of each level in memory.

    Everything raises DataLoss/CHECKSUM_MISMATCH, naming the page, when a page is not what the one above says, or not as
    the format says; and what `fetch` raises.
    """

    def __init__(self, fetch: ChunkFetch, root: TreeRoot | None) -> None:
        self._fetch = fetch
        self._root = root

    def entries(self, after: tuple[bytes, bytes] | None = None) -> Iterator[Entry]:
        """All entries in the order of the tree, or those behind a folder and name."""
        return self._range((b"", b"") if after is None else _behind(*after), None)

    def level(self, folder: bytes, after: bytes | None = None) -> Iterator[Entry]:
        """The entries of one folder by name, or those behind a name. No page of other folders alone is read."""
        key = folder.replace(b"/", b"\0")
        # A path that goes on below the folder's begins with NUL behind it, and no name does.
        return self._range((key, b"") if after is None else _behind(folder, after), (key + b"\0", b""))

    def find(self, path: bytes) -> Entry | None:
        """The entry of a path in the source."""
        if not is_path(path):
            return None
        folder, _, name = path.rpartition(b"/")
        return next(self._range(key_of(folder, name), _behind(folder, name)), None)

    def subtree(self, path: bytes) -> Iterator[Entry]:
        """A path's own entry, then everything below it in the order of the tree; of the empty path, everything."""
        if not path:
            yield from self.entries()
            return
        own = self.find(path)
        if own is not None:
            yield own
        yield from self.below(path)

    def below(self, path: bytes) -> Iterator[Entry]:
        """Everything below a path, which is not empty, in the order of the tree."""
        key = path.replace(b"/", b"\0")
        return self._range((key, b""), (key + b"\1", b""))

    def salvage(self, on_damage: Callable[[DataLoss], None]) -> Iterator[Entry]:
        """All entries of the pages that can be read; `on_damage` is told of each page that cannot."""
        return self._range((b"", b""), None, on_damage)

    def _range(
        self, lower: Key, upper: Key | None, on_damage: Callable[[DataLoss], None] | None = None
    ) -> Iterator[Entry]:
        """Entries from a key on, up to but without another."""
        if self._root is None:
            return
        # What is still to be read: level and id of a page, its first key as far as known, and a key behind its last.
        waiting: list[tuple[int, bytes, Key | None, Key | None]] = [(self._root.level, self._root.id, None, None)]
        while waiting:
            level, page_id, first, limit = waiting.pop()
            try:
                children, entries = self._page(level, page_id, first, limit)
            except DataLoss as error:
                if on_damage is None:
                    raise
                on_damage(error)
                continue
            if level:
                begin = max(bisect_right(children, lower, key=_child_key) - 1, 0)
                end = len(children) if upper is None else bisect_left(children, upper, key=_child_key)
                for number in range(end - 1, begin - 1, -1):
                    child_limit = children[number + 1][0] if number + 1 < len(children) else limit
                    waiting.append((level - 1, children[number][1], children[number][0], child_limit))
                continue
            begin = bisect_left(entries, lower, key=_entry_key) if entries[0].key < lower else 0
            end = len(entries)
            if upper is not None and entries[-1].key >= upper:
                end = bisect_left(entries, upper, key=_entry_key)
            yield from entries[begin:end]

    def _page(
        self, level: int, page_id: bytes, first: Key | None, limit: Key | None
    ) -> tuple[list[tuple[Key, bytes]], list[Entry]]:
        """The children of a page, or the entries of one of level 0; what it holds lies between the keys given."""
        where = f"tree page {page_id.hex()}"
        page = self._fetch(ChunkType.TREE, page_id)
        if not page or page[0] != level:
            raise damaged(where, f"it is not of level {level}")
        if level:
            children = _decode_children(page, where)
            _check_range(children[0][0], children[-1][0], first, limit, where)
            return children, []
        entries = decode_entries(page, where)
        _check_range(entries[0].key, entries[-1].key, first, limit, where)
        return [], entries


def _behind(folder: bytes, name: bytes) -> Key:
    """The least key behind an entry's: no name contains NUL."""
    return key_of(folder, name + b"\0")


def _child_key(child: tuple[Key, bytes]) -> Key:
    return child[0]


def _entry_key(entry: Entry) -> Key:
    return entry.key


def _check_range(first: Key, last: Key, expected: Key | None, limit: Key | None, where: str) -> None:
    if expected is not None and first != expected:
        raise damaged(where, "it does not begin where the page above says")
    if limit is not None and last >= limit:
        raise damaged(where, "it goes on behind where the next page begins")


def _decode_children(page: bytes, where: str) -> list[tuple[Key, bytes]]:
    """First keys and ids of the pages that a page of a higher level points to."""
    children: list[tuple[Key, bytes]] = []
    offset, end = 1, len(page)
    last: Key | None = None
    try:
        while offset < end:
            begin = offset + _U32.size
            middle = begin + _U32.unpack_from(page, offset)[0]
            folder = page[begin:middle]
            begin = middle + _U16.size
            middle = begin + _U16.unpack_from(page, middle)[0]
            name = page[begin:middle]
            offset = middle + _ID
            if offset > end or not is_name(name) or (folder and not is_path(folder)):
                raise damaged(where, "a record in it is malformed")
            key = key_of(folder, name)
            if last is not None and key <= last:
                raise damaged(where, "its records are out of order")
            last = key
            children.append((key, page[middle:offset]))
    except struct.error:
        raise damaged(where, "it ends early") from None
    if not children:
        raise damaged(where, "it holds nothing")
    return children
