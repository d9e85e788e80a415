"""A snapshot as the content of an archive: what its manifest would say, and each file's bytes.

Has the shape of `archive.contents.Contents`, so that `core.export` writes archives from either. What proves the content
is the repository: every chunk is compared with the keyed id that the snapshot's own tree names. Extended attributes are
left behind, because archives keep none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from holdfast_server.archive.manifest import EntryEncryption, ManifestEntry, format_mtime
from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.core.selection import PathSelection
from holdfast_server.core.snapshot_order import depth_first, find_entries, order_key
from holdfast_server.repository import Entry, EntryFlag, EntryKind, Hole, Snapshot, SnapshotReader

__all__ = ["SnapshotContents"]

_SPARSE, _CHANGED, _ENCRYPTED = (int(flag) for flag in (EntryFlag.SPARSE, EntryFlag.CHANGED, EntryFlag.ENCRYPTED))
_ZEROS: Final = bytes(1 << 20)
_KINDS: Final = {
    EntryKind.FILE: MemberKind.FILE,
    EntryKind.DIRECTORY: MemberKind.DIRECTORY,
    EntryKind.SYMLINK: MemberKind.SYMLINK,
    EntryKind.HARDLINK: MemberKind.HARDLINK,
}


class SnapshotContents:
    """The entries of a snapshot at and below `paths` (as a restore makes them), all of them without any, in the order
    of archives; each iteration is a pass of its own.

    The first name of a file in that order is the file, whichever it is in the snapshot, and others are links to it: so
    a link never stands before its file, or without it because that was not chosen.

    `header` and `totals` say what the first and the last line of the backup's own manifest would, had it been an
    archive: so `totals` are those of the whole snapshot. Constructing it raises NotFound/ENTRY_NOT_FOUND for a path
    that the snapshot does not hold, and what reading it raises.
    """

    def __init__(
        self, reader: SnapshotReader, snapshot: Snapshot, paths: Sequence[bytes], check: Callable[[], None]
    ) -> None:
        self._reader = reader
        self._check = check
        self.header: Mapping[str, Any] = _header(snapshot, reader)
        self.totals: Mapping[str, Any] = _totals(snapshot, reader)
        self._roots = find_entries(reader, paths) if paths else None
        self._chosen = None if self._roots is None else PathSelection([root.path for root in self._roots])

    def entries(self) -> Iterator[ManifestEntry]:
        """What a manifest would list, without the files' hashes, and without reading any content."""
        for listed, _ in self._all():
            yield listed

    def read(self, wants: Callable[[Member], bool]) -> Iterator[tuple[ManifestEntry, Iterator[bytes]]]:
        """Each wanted entry with its content (empty for all but files), right as far as it was taken.

        Taking it raises DataLoss/CHECKSUM_MISMATCH for what is damaged.
        """
        for listed, file in self._all():
            if wants(listed.member):
                yield listed, iter(()) if file is None else self._blocks(file)

    def _all(self) -> Iterator[tuple[ManifestEntry, Entry | None]]:
        """Each entry as a manifest says it, and for a file the entry of the snapshot that has its content."""
        # First names that stand behind another name, or are not chosen: that name, as a restore makes it.
        moved: dict[bytes, bytes] = {}
        for entry in depth_first(self._reader, self._roots):
            self._check()
            if entry.kind is EntryKind.HARDLINK:
                yield self._link(entry, moved)
            elif entry.kind is EntryKind.FILE and entry.path in moved:
                yield _linked(_manifest_entry(entry), moved[entry.path]), None
            else:
                yield _manifest_entry(entry), entry if entry.kind is EntryKind.FILE else None

    def _link(self, entry: Entry, moved: dict[bytes, bytes]) -> tuple[ManifestEntry, Entry | None]:
        first, listed = entry.link_target, _manifest_entry(entry)
        if first in moved:
            return _linked(listed, moved[first]), None
        is_behind = order_key(first) > order_key(entry.path)
        encrypted = entry.flags & _ENCRYPTED
        if not encrypted and not is_behind and self._is_chosen(first):
            return _linked(listed, first), None
        file = self._reader.find(first)
        if file is None or file.kind is not EntryKind.FILE:
            raise entry.damaged("it is another name of a file that there is not")
        if not is_behind and self._is_chosen(first):
            return _linked(listed, file.stored_path), None
        moved[first] = entry.stored_path
        sparse, changed = bool(file.flags & _SPARSE), bool(file.flags & _CHANGED)
        member = replace(listed.member, kind=MemberKind.FILE, size=file.size, sparse=sparse)
        return replace(listed, member=member, changed=changed), file

    def _is_chosen(self, path: bytes) -> bool:
        return self._chosen is None or self._chosen(path)

    def _blocks(self, entry: Entry) -> Iterator[bytes]:
        for block in self._reader.blocks(entry):
            if isinstance(block, Hole):
                yield from self._zeros(block.length)
            else:
                yield block

    def _zeros(self, length: int) -> Iterator[bytes]:
        while length > 0:
            self._check()
            yield _ZEROS[:length]
            length -= len(_ZEROS)


def _manifest_entry(entry: Entry) -> ManifestEntry:
    """An entry by itself; of a hard link without its target."""
    kind = entry.kind
    member = Member(
        path=entry.stored_path,
        kind=_KINDS[kind],
        mode=entry.mode,
        mtime_ns=entry.mtime_ns,
        uid=entry.uid,
        gid=entry.gid,
        size=entry.size if kind is EntryKind.FILE else 0,
        link_target=entry.link_target if kind is EntryKind.SYMLINK else b"",
        sparse=bool(entry.flags & _SPARSE),
    )
    return ManifestEntry(member, None, bool(entry.flags & _CHANGED), _encryption(entry))


def _linked(listed: ManifestEntry, target: bytes) -> ManifestEntry:
    member = replace(listed.member, kind=MemberKind.HARDLINK, size=0, sparse=False, link_target=target)
    return replace(listed, member=member, changed=False)


def _encryption(entry: Entry) -> EntryEncryption | None:
    known = entry.encryption
    if known is None:
        return None
    path = None if known.stored_name is None else entry.path
    return EntryEncryption(known.key_id.hex(), known.size, known.sha256, path)


def _header(snapshot: Snapshot, reader: SnapshotReader) -> dict[str, Any]:
    root = reader.root
    attributes = root.attributes
    return {
        "backup_id": snapshot.run_id,
        "name": snapshot.name,
        "source": {
            "source_id": snapshot.source_id,
            "kind": snapshot.source_kind,
            "display_name": snapshot.source_display_name,
        },
        "create_time": datetime.fromtimestamp(snapshot.create_us / 1e6, UTC).isoformat().replace("+00:00", "Z"),
        "software": snapshot.software,
        "ignore": list(root.ignore),
        "root": {
            "mode": f"{attributes.mode:04o}",
            "mtime": format_mtime(attributes.mtime_ns),
            "uid": attributes.uid,
            "gid": attributes.gid,
        },
    }


def _totals(snapshot: Snapshot, reader: SnapshotReader) -> dict[str, Any]:
    counts = snapshot.counts
    totals: dict[str, Any] = {
        "counts": {
            "files": counts.files,
            "directories": counts.directories,
            "symlinks": counts.symlinks,
            "hardlinks": counts.hardlinks,
            "bytes": counts.bytes,
            "files_skipped": counts.files_skipped,
            "files_ignored": counts.files_ignored,
            "warnings": counts.warnings,
        },
        "complete": snapshot.complete,
        "key_ids": list(reader.root.key_ids),
    }
    if snapshot.wallet is not None:
        totals["wallet"] = dict(snapshot.wallet)
    if reader.root.coins is not None:
        totals["coins"] = reader.root.coins
    return totals
