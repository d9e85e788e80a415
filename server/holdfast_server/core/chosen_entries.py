"""Which entries of a snapshot are restored: all of them, or those at and below named paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from holdfast_server.core.selection import PathSelection
from holdfast_server.errors import NotFound, Reason
from holdfast_server.repository import Entry, EntryFlag, SnapshotReader
from holdfast_server.storage.names import escape

__all__ = ["ChosenEntries"]

_ENCRYPTED: Final = int(EntryFlag.ENCRYPTED)


class ChosenEntries:
    """The entries of a snapshot that are at or below the paths, all of them for no paths; in the tree's order.

    A path is that of the source, or for an encrypted file also the one that a restore makes. Only the pages that hold
    what was chosen are read. Raises NotFound/ENTRY_NOT_FOUND for a path that the snapshot does not hold.
    """

    def __init__(self, reader: SnapshotReader, paths: Sequence[bytes] = ()) -> None:
        self._reader = reader
        self._entries: list[Entry] = []
        self._selection: PathSelection | None = None
        if not paths:
            return
        found = {entry.path: entry for entry in (self._find(path.strip(b"/")) for path in paths)}
        self._selection = PathSelection(list(found))
        # What lies below another chosen path comes with that one.
        self._entries = [entry for entry in found.values() if not (entry.folder and self._selection(entry.folder))]

    def __contains__(self, path: bytes) -> bool:
        """Whether the entry of a path in the source is among them, if there is one."""
        return self._selection is None or self._selection(path)

    @property
    def is_everything(self) -> bool:
        return self._selection is None

    def __iter__(self) -> Iterator[Entry]:
        if self._selection is None:
            yield from self._reader.entries()
            return
        # An entry stands in its folder's place in the order, what is below it in its own: never among each other's.
        stops = [(entry.key, entry, False) for entry in self._entries]
        stops += [((entry.path.replace(b"/", b"\0"), b""), entry, True) for entry in self._entries]
        for _, entry, below in sorted(stops, key=lambda stop: (stop[0], stop[2])):
            if below:
                yield from self._reader.below(entry.path)
            else:
                yield entry

    def _find(self, path: bytes) -> Entry:
        entry = self._reader.find(path)
        if entry is not None:
            return entry
        folder = path.rpartition(b"/")[0]
        for entry in self._reader.level(folder):
            if entry.flags & _ENCRYPTED and entry.stored_path == path:
                return entry
        shown = escape(path)
        raise NotFound(Reason.ENTRY_NOT_FOUND, f"the backup holds no entry {shown}", metadata={"path": shown})
