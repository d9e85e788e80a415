"""Restoring a snapshot into a new folder: everything is written and proved in staging before anything appears.

What proves it is the repository: every chunk is compared with the keyed id that the snapshot's own tree names, and the
extents of each file add up to its size. The promises are those of `core.restore`, which also applies what is staged.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from holdfast_server.archive.manifest import (
    UNHASHED,
    EntryEncryption,
    ManifestEntry,
    ManifestSpool,
    ProvedManifest,
    format_mtime,
)
from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.archive.reading import Report
from holdfast_server.archive.sink import Progress as OnProgress
from holdfast_server.core.chosen_entries import ChosenEntries
from holdfast_server.core.coin_restore import CoinRestore
from holdfast_server.core.control import Control, Progress
from holdfast_server.core.restore import Restored, Room
from holdfast_server.core.staged_tree import StagedTree
from holdfast_server.repository import Blocks, Entry, EntryFlag, EntryKind, ReadAhead, SnapshotReader, SourceAttributes
from holdfast_server.storage.local import sync_filesystem, writing_back

__all__ = ["SnapshotUnpacking", "restore_snapshot_to_staging"]

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ENCRYPTED: Final = int(EntryFlag.ENCRYPTED)
_KINDS: Final = {
    EntryKind.FILE: MemberKind.FILE,
    EntryKind.DIRECTORY: MemberKind.DIRECTORY,
    EntryKind.SYMLINK: MemberKind.SYMLINK,
    EntryKind.HARDLINK: MemberKind.HARDLINK,
}


@dataclass(frozen=True, slots=True)
class SnapshotUnpacking:
    """An opened snapshot, and how it is unpacked.

    `paths`: what is restored, everything if empty. `is_wallet` and `complete` are what the snapshot says of its source.
    `reserve` bytes of the target's filesystem are left free at any time. `coins`: what is done with coins beyond
    unpacking them; None: nothing.
    """

    reader: SnapshotReader
    paths: Sequence[bytes]
    is_wallet: bool
    complete: bool
    on_progress: OnProgress
    report: Report
    reserve: int = 0
    coins: CoinRestore | None = None


def restore_snapshot_to_staging(
    unpacking: SnapshotUnpacking, root_fd: int, staging: bytes, *, needed: int, control: Control, progress: Progress
) -> Restored:
    """Write the snapshot's entries into a new staging folder below the target and prove all of it.

    `needed`: the bytes of the whole snapshot; of chosen paths they are counted here. Raises
    ResourceExhausted/DISK_FULL and NotFound/ENTRY_NOT_FOUND before anything is written, DataLoss/CHECKSUM_MISMATCH that
    names the file, FailedPrecondition (KEY_REQUIRED, FOLDER_NOT_WRITABLE) and what `CoinRestore` raises. The caller
    removes staging then.
    """
    progress.begin("extracting")
    chosen = ChosenEntries(unpacking.reader, unpacking.paths)
    room = Room(root_fd, unpacking.reserve)
    room.require(needed if chosen.is_everything else sum(entry.size for entry in chosen))
    os.mkdir(staging, 0o700, dir_fd=root_fd)
    staging_fd = os.open(staging, _OPEN, dir_fd=root_fd)
    staged = StagedTree(staging_fd, unpacking.report)
    try:
        job = _Job(unpacking, chosen, staged, room, control)
        with writing_back(staging_fd):
            job.run()
        coins = unpacking.coins
        if coins is not None:
            coins.arrange(staged.tree, job.manifest(), root_fd=staging_fd, select=None, require=room.require)
        staged.finish(control.check)
        if coins is not None:
            coins.settle(staging_fd)
        attributes = unpacking.reader.root.attributes
        staged.set_root_xattrs(attributes.xattrs)
        staged.tell()
        progress.begin("syncing")
        sync_filesystem(staging_fd)
        return _restored(staged, job, attributes, coins)
    finally:
        staged.close()
        os.close(staging_fd)


@dataclass(frozen=True, slots=True)
class _Name:
    """A hard link and what becomes of it: `target` is where the content lies already, None where it gets its own."""

    entry: Entry
    target: bytes | None


class _Job:
    """The entries of one snapshot on their way into the tree."""

    def __init__(
        self, unpacking: SnapshotUnpacking, chosen: ChosenEntries, staged: StagedTree, room: Room, control: Control
    ) -> None:
        self.encrypted = 0
        self._unpacking = unpacking
        self._chosen = chosen
        self._staged = staged
        self._room = room
        self._control = control
        #: Files that were not chosen, of which a name was: by their path, where their content is.
        self._elsewhere: dict[bytes, bytes] = {}
        self._spool: ManifestSpool | None = None
        if unpacking.coins is not None:
            self._spool = ManifestSpool({"source": {"kind": "WALLET" if unpacking.is_wallet else "DIRECTORY"}})

    def run(self) -> None:
        """Make everything but the attributes of directories."""
        check, staged = self._control.check, self._staged
        with ReadAhead[Entry | _Name](self._unpacking.reader, check) as ahead:
            for item, blocks in ahead.read(self._wanted()):
                check()
                if isinstance(item, _Name):
                    self._add_name(item, blocks)
                elif item.kind is EntryKind.FILE:
                    self._add_file(item, item, blocks)
                elif item.kind is EntryKind.DIRECTORY:
                    staged.add_directory(item)
                    self._list(item, item.path)
                else:
                    staged.add_symlink(item)
                    self._list(item, item.path)

    def manifest(self) -> ProvedManifest | None:
        """What was restored, as the manifest of an archive tells it; None where nobody needs it."""
        if self._spool is None:
            return None
        totals: dict[str, Any] = {"complete": self._unpacking.complete}
        coins = self._unpacking.reader.root.coins
        if coins is not None:
            totals["coins"] = coins
        header = {"source": {"kind": "WALLET" if self._unpacking.is_wallet else "DIRECTORY"}}
        self._spool.finish(totals)
        return ProvedManifest(header, totals, self._spool.blocks)

    def _wanted(self) -> Iterator[tuple[Entry | _Name, Entry | None]]:
        """The entries, each with the one whose content it needs."""
        for entry in self._chosen:
            if entry.kind is EntryKind.FILE:
                yield entry, entry
            elif entry.kind is EntryKind.HARDLINK:
                yield self._name(entry)
            else:
                yield entry, None

    def _name(self, entry: Entry) -> tuple[_Name, Entry | None]:
        first = entry.link_target
        if first in self._chosen:
            # An encrypted file lies under another name than in the source.
            return _Name(entry, self._first(entry).stored_path if entry.flags & _ENCRYPTED else first), None
        target = self._elsewhere.get(first)
        if target is not None:
            return _Name(entry, target), None
        self._elsewhere[first] = entry.stored_path
        return _Name(entry, None), self._first(entry)

    def _first(self, entry: Entry) -> Entry:
        """The file that a hard link is another name of."""
        first = self._unpacking.reader.find(entry.link_target)
        if first is None or first.kind is not EntryKind.FILE:
            raise entry.damaged("the file that it is another name of is not there")
        return first

    def _add_name(self, name: _Name, blocks: Blocks) -> None:
        entry = name.entry
        if name.target is None:
            self._add_file(entry, self._first(entry), blocks)
            return
        path = entry.stored_path
        self._staged.add_link(name.target, path)
        self._list(entry, path, name.target)

    def _add_file(self, entry: Entry, content: Entry, blocks: Blocks) -> None:
        """Make a file under the name of one entry with the attributes and the content of another, mostly the same."""
        folder, name = entry.folder, entry.name
        if entry.flags & _ENCRYPTED:
            name = entry.stored_path.rpartition(b"/")[2]
            self.encrypted += 1
        staged = self._staged
        staged.add_file(folder, name, content, self._watched(entry, blocks))
        self._unpacking.on_progress(staged.bytes, staged.files, entry.path)
        if self._spool is not None:
            self._list(entry, entry.stored_path, kind=MemberKind.FILE)

    def _watched(self, entry: Entry, blocks: Blocks) -> Blocks:
        """The blocks; of a file that has more than one, cancelling and the room are asked about between them."""
        self._room.look()
        if isinstance(blocks, tuple):
            return blocks
        return self._between(entry, blocks)

    def _between(self, entry: Entry, blocks: Blocks) -> Blocks:
        staged, written = self._staged, self._staged.bytes
        for block in blocks:
            self._control.check()
            self._room.look()
            yield block
            if isinstance(block, (bytes, memoryview)):
                written += len(block)
            self._unpacking.on_progress(written, staged.files, entry.path)

    def _list(self, entry: Entry, path: bytes, target: bytes = b"", kind: MemberKind | None = None) -> None:
        """Put the entry on the list that the coins are counted by."""
        if self._spool is None:
            return
        kind = kind or _KINDS[entry.kind]
        member = Member(
            path=path,
            kind=kind,
            mode=entry.mode,
            mtime_ns=entry.mtime_ns,
            uid=entry.uid,
            gid=entry.gid,
            size=entry.size,
            link_target=entry.link_target if kind is MemberKind.SYMLINK else target,
        )
        encryption, told = entry.encryption, None
        if encryption is not None:
            own = None if encryption.stored_name is None else entry.path
            told = EntryEncryption(encryption.key_id.hex(), encryption.size, encryption.sha256, own)
        self._spool.add(ManifestEntry(member, UNHASHED, encryption=told))


def _restored(staged: StagedTree, job: _Job, attributes: SourceAttributes, coins: CoinRestore | None) -> Restored:
    removed_files, removed_directories = coins.removed if coins is not None else (0, 0)
    root: dict[str, Any] = {
        "mode": f"{attributes.mode & 0o777:04o}",
        "mtime": format_mtime(attributes.mtime_ns),
        "uid": attributes.uid,
        "gid": attributes.gid,
        "xattrs": bool(attributes.xattrs),
    }
    return Restored(
        files=staged.files - removed_files,
        directories=staged.tree.directories - removed_directories,
        symlinks=staged.symlinks,
        hardlinks=staged.hardlinks,
        bytes=staged.bytes + (coins.growth if coins is not None else 0),
        warning_count=staged.warning_count,
        has_manifest=True,
        root=root,
        decrypted=coins.opened if coins is not None else 0,
        encrypted=job.encrypted if coins is None else 0,
        coins=coins.coins if coins is not None else None,
        coin_warnings=coins.warnings if coins is not None else 0,
    )
