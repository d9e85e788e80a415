"""An archive's members on their way into a snapshot.

A wallet's files go the way of archives (`core.backup.MemberJob`), so that an unlocked wallet is encrypted, and guarded,
by the same code whatever its backup is stored in. Here its members become entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from holdfast_server.archive.manifest import EntryEncryption, ManifestEntry
from holdfast_server.archive.member import Member, MemberKind
from holdfast_server.core.control import Control
from holdfast_server.repository import (
    LARGE_FILE,
    Encryption,
    EntryFlag,
    EntryKind,
    SnapshotWriter,
    StoredContent,
    encode_entry,
    encode_extras,
    folder_tail,
    link_tail,
)

__all__ = ["SnapshotMembers"]

_DIRECTORY: Final = int(EntryKind.DIRECTORY)
_SYMLINK: Final = int(EntryKind.SYMLINK)
_HARDLINK: Final = int(EntryKind.HARDLINK)
_SPARSE, _CHANGED, _XATTRS, _ENCRYPTED = (
    int(flag) for flag in (EntryFlag.SPARSE, EntryFlag.CHANGED, EntryFlag.XATTRS, EntryFlag.ENCRYPTED)
)


class SnapshotMembers:
    """Takes an archive's members into a snapshot. Large ones wait for the next, because they may be taken back."""

    can_rollback = True

    def __init__(self, writer: SnapshotWriter, control: Control) -> None:
        self._writer = writer
        self._control = control
        self._waiting: Callable[[], None] | None = None
        #: The source's names of files that have another one in the snapshot, for links to them.
        self._renamed: dict[bytes, bytes] = {}

    def settle(self) -> None:
        """Add what waits."""
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting()

    def mark(self) -> None:
        self.settle()

    def rollback(self, mark: object) -> None:  # noqa: ARG002  there is only one thing to take back
        self._waiting = None

    def add(
        self,
        member: Member,
        content: bytes = b"",
        *,
        changed: bool = False,
        encryption: EntryEncryption | None = None,
    ) -> None:
        self.settle()
        folder, name = self._place(member, encryption)
        if member.kind is MemberKind.FILE:
            flags, extras = _member_extras(member, encryption, name, changed=changed)
            if len(content) >= LARGE_FILE:
                stored = self._writer.store_content(_filling((content,), self._control))
                self._writer.add_large(*self._attributes(folder, name, flags, member), stored, extras, None)
            else:
                self._writer.add_small(*self._attributes(folder, name, flags, member), content, extras, None)
            return
        kind, flags, tail = _DIRECTORY, _XATTRS if member.xattrs else 0, folder_tail(member.xattrs)
        if member.kind is MemberKind.SYMLINK:
            kind, tail = _SYMLINK, link_tail(member.link_target, member.xattrs)
        elif member.kind is MemberKind.HARDLINK:
            target = self._renamed.get(member.link_target, member.link_target)
            kind, flags = _HARDLINK, _ENCRYPTED if encryption else 0
            tail = link_tail(target, (), _encryption(member, encryption, name))
        record = encode_entry(kind, flags, member.mode, member.uid, member.gid, member.mtime_ns, name, tail)
        self._writer.add_entry(folder, name, record)

    def add_stream(
        self,
        member: Member,
        blocks: Iterable[bytes],
        *,
        changed: bool | Callable[[], bool] = False,
        encryption: Callable[[], EntryEncryption | None] = lambda: None,
    ) -> int:
        self.settle()
        stored: StoredContent = self._writer.store_content(_filling(blocks, self._control))
        final, has_changed = encryption(), changed if isinstance(changed, bool) else changed()

        def add() -> None:
            folder, name = self._place(member, final)
            flags, extras = _member_extras(member, final, name, changed=has_changed)
            self._writer.add_large(*self._attributes(folder, name, flags, member), stored, extras, None)

        self._waiting = add
        return stored.size

    def _place(self, member: Member, encryption: EntryEncryption | None) -> tuple[bytes, bytes]:
        """Folder and name in the source."""
        path = ManifestEntry(member, encryption=encryption).source_path
        if path != member.path and member.kind is MemberKind.FILE:
            self._renamed[member.path] = path
        folder, _, name = path.rpartition(b"/")
        return folder, name

    @staticmethod
    def _attributes(
        folder: bytes, name: bytes, flags: int, member: Member
    ) -> tuple[bytes, bytes, int, int, int, int, int]:
        return folder, name, flags, member.mode, member.uid, member.gid, member.mtime_ns


def _member_extras(
    member: Member, encryption: EntryEncryption | None, name: bytes, *, changed: bool
) -> tuple[int, bytes]:
    flags = (_SPARSE if member.sparse else 0) | (_CHANGED if changed else 0)
    flags |= (_XATTRS if member.xattrs else 0) | (_ENCRYPTED if encryption else 0)
    return flags, encode_extras(member.xattrs, _encryption(member, encryption, name))


def _encryption(member: Member, encryption: EntryEncryption | None, name: bytes) -> Encryption | None:
    if encryption is None:
        return None
    stored = member.path.rpartition(b"/")[2]
    return Encryption(
        bytes.fromhex(encryption.key_id),
        encryption.size,
        encryption.sha256,
        None if stored == name + b".hfcc" else stored,
    )


def _filling(blocks: Iterable[bytes], control: Control) -> Callable[[memoryview], int]:
    """Reads blocks into buffers of whatever size."""
    source: Iterator[bytes] = iter(blocks)
    rest = memoryview(b"")

    def fill(view: memoryview) -> int:
        nonlocal rest
        while not rest:
            control.check()
            block = next(source, None)
            if block is None:
                return 0
            rest = memoryview(block)
        count = min(len(view), len(rest))
        view[:count] = rest[:count]
        rest = rest[count:]
        return count

    return fill
