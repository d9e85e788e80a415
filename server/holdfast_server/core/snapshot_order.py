"""The entries of a snapshot in the order of archives: what lies in a folder directly behind it.

A snapshot's tree lists all entries of a folder before those of the first folder in it. A tar has to go depth first: tar
sets a folder's time and mode once it sees a member that is not below it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from holdfast_server.errors import NotFound, Reason
from holdfast_server.repository import Entry, EntryFlag, EntryKind, SnapshotReader
from holdfast_server.storage.names import escape

__all__ = ["depth_first", "find_entries", "order_key"]

#: Entries that wait behind a folder on their way, in all open folders together. Past that a folder is read by itself.
_WAITING: Final = 20_000

_ENCRYPTED: Final = int(EntryFlag.ENCRYPTED)


def order_key(path: bytes) -> bytes:
    """What paths are sorted by."""
    return path.replace(b"/", b"\0")


def find_entries(reader: SnapshotReader, paths: Sequence[bytes]) -> list[Entry]:
    """The entries of paths as a restore makes them, in order, but for those below another of them.

    Raises NotFound/ENTRY_NOT_FOUND.
    """
    found: list[Entry] = []
    for path in sorted({path.strip(b"/") for path in paths}, key=order_key):
        if not found or not path.startswith(found[-1].path + b"/"):
            found.append(_find(reader, path))
    return found


def depth_first(
    reader: SnapshotReader, roots: Sequence[Entry] | None = None, *, waiting: int = _WAITING
) -> Iterator[Entry]:
    """The entries and all below them, without `roots` all entries; sorted by `order_key`.

    Holds `waiting` entries at most, and a page of each level of the tree for each folder on the way that has more.
    """
    if roots is None:
        yield from _Walk(reader, waiting).entries(reader.entries())
        return
    for root in roots:
        yield root
        if root.kind is EntryKind.DIRECTORY:
            yield from _Walk(reader, waiting).entries(_below(reader, root), root.path)


def _find(reader: SnapshotReader, path: bytes) -> Entry:
    entry = reader.find(path)
    if entry is not None and entry.stored_path == path:
        return entry
    for one in reader.level(path.rpartition(b"/")[0]):
        if one.flags & _ENCRYPTED and one.stored_path == path:
            return one
    shown = escape(path)
    raise NotFound(Reason.ENTRY_NOT_FOUND, f"the backup holds no entry {shown}", metadata={"path": shown})


def _below(reader: SnapshotReader, folder: Entry) -> Iterator[Entry]:
    return islice(reader.subtree(folder.path), 1, None)


class _Stream:
    """Entries in the tree's order, of which the next one can be looked at."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = iter(entries)
        self.next = next(self._entries, None)

    def take(self) -> None:
        self.next = next(self._entries, None)


@dataclass(slots=True)
class _Folder:
    """A folder on the way: where its entries come from, and those that were taken from there already.

    `apart`: the folders in it are read by themselves, and to be passed over in `stream`.
    """

    path: bytes
    stream: _Stream
    taken: deque[Entry] = field(default_factory=deque)
    apart: bool = False

    @property
    def comes_next(self) -> bool:
        """Whether the stream's next entry is one of this folder."""
        following = self.stream.next
        return following is not None and following.folder == self.path

    def skip_rest(self) -> None:
        """Pass over what lies in folders of this one."""
        prefix = self.path + b"/" if self.path else b""
        while (following := self.stream.next) is not None and following.folder.startswith(prefix):
            self.stream.take()


class _Walk:
    def __init__(self, reader: SnapshotReader, waiting: int) -> None:
        self._reader = reader
        self._free = waiting

    def entries(self, below: Iterable[Entry], path: bytes = b"") -> Iterator[Entry]:
        """What lies below a folder, of which `below` gives all in the tree's order."""
        open_folders = [_Folder(path, _Stream(below))]
        while open_folders:
            folder = open_folders[-1]
            entry = self._next(folder)
            if entry is None:
                open_folders.pop()
                if folder.apart:
                    folder.skip_rest()
                continue
            yield entry
            if entry.kind is EntryKind.DIRECTORY:
                open_folders.append(self._enter(folder, entry))

    def _next(self, folder: _Folder) -> Entry | None:
        if folder.taken:
            self._free += 1
            return folder.taken.popleft()
        if not folder.comes_next:
            return None
        entry = folder.stream.next
        folder.stream.take()
        return entry

    def _enter(self, folder: _Folder, entry: Entry) -> _Folder:
        """The folder of an entry: its own entries are the next in the stream once the rest of its folder is taken."""
        while not folder.apart and folder.comes_next:
            if not self._free:
                folder.apart = True
                break
            self._free -= 1
            assert folder.stream.next is not None
            folder.taken.append(folder.stream.next)
            folder.stream.take()
        stream = _Stream(_below(self._reader, entry)) if folder.apart else folder.stream
        return _Folder(entry.path, stream)
