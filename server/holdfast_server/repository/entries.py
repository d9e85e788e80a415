"""Entries of a snapshot as bytes: what the tree holds of each file, folder and link.

docs/format.md ("Tree", "Files") specifies them. Writing is hot, a million times a backup: `encode_entry` and the
functions for tails check little and pack once. Reading trusts nothing: `decode_entries` checks what all entries have,
and an `Entry` takes its tail apart, as strictly, when it is first asked for what is in there.
"""

from __future__ import annotations

import struct
from dataclasses import field
from struct import Struct
from typing import Final

from holdfast_server.errors import DataLoss
from holdfast_server.records import frozen_record
from holdfast_server.repository.extents import Extent, decode_extents
from holdfast_server.repository.format import damaged
from holdfast_server.repository.paths import Key, is_name, is_path, key_of
from holdfast_server.repository.tails import (
    ENVELOPE_SUFFIX,
    Encryption,
    EntryFlag,
    EntryKind,
    Tail,
    file_tail,
    folder_tail,
    link_tail,
    parse_tail,
)
from holdfast_server.storage.names import escape

__all__ = [
    "ENVELOPE_SUFFIX",
    "MODE_MAX",
    "Encryption",
    "Entry",
    "EntryFlag",
    "EntryKind",
    "decode_entries",
    "encode_entry",
    "encode_folder",
    "file_tail",
    "folder_tail",
    "link_tail",
]

#: Permission bits.
MODE_MAX: Final = 0o7777

_ENTRY, _FOLDER = Struct("<BBHIIqHI"), Struct("<BI")
_ID = 32
_SHOWN = 300


_XATTRS, _ENCRYPTED = int(EntryFlag.XATTRS), int(EntryFlag.ENCRYPTED)
_PAGED, _DIGEST = int(EntryFlag.PAGED), int(EntryFlag.DIGEST)
_KINDS = (None, EntryKind.FILE, EntryKind.DIRECTORY, EntryKind.SYMLINK, EntryKind.HARDLINK)
#: Flags that a kind cannot have.
_FORBIDDEN = (0xFF, 0xFF & ~63, 0xFF & ~_XATTRS, 0xFF & ~_XATTRS, 0xFF & ~(_XATTRS | _ENCRYPTED))


@frozen_record
class Entry:
    """One entry of a snapshot.

    `folder` is the path of its folder, relative to the source, empty for the source itself; `mode` are permission bits;
    `flags` are bits of `EntryFlag`; `tail` is raw. Whatever is read from the tail raises DataLoss/CHECKSUM_MISMATCH,
    naming the entry, when the tail is not as the format says.
    """

    folder: bytes
    name: bytes
    kind: EntryKind
    flags: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    tail: bytes
    _parsed: Tail | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def path(self) -> bytes:
        """Its path in the source."""
        return self.folder + b"/" + self.name if self.folder else self.name

    @property
    def stored_path(self) -> bytes:
        """The path that a restore makes: another one than the source's for an encrypted file."""
        encryption = self.encryption
        if encryption is None:
            return self.path
        name = self.name + ENVELOPE_SUFFIX if encryption.stored_name is None else encryption.stored_name
        return self.folder + b"/" + name if self.folder else name

    @property
    def key(self) -> Key:
        return key_of(self.folder, self.name)

    @property
    def size(self) -> int:
        """Bytes of a file as stored, holes included; 0 for other kinds."""
        return self._read().size

    @property
    def digest(self) -> bytes | None:
        """The keyed digest (16 bytes) of a small file's content as stored."""
        return self._read().digest

    @property
    def extents(self) -> tuple[Extent, ...]:
        """Where a file's content lies; empty for other kinds, and for a file whose extents are in `pages`."""
        if self.flags & _PAGED:
            return ()
        tail = self._read()
        try:
            found = tuple(decode_extents(tail.references))
        except ValueError as error:
            raise self.damaged(str(error)) from None
        # Most files have one.
        length = found[0].length if len(found) == 1 else sum(extent.length for extent in found)
        if length != tail.size:
            raise self.damaged("its extents do not add up to its size")
        return found

    @property
    def pages(self) -> tuple[bytes, ...]:
        """Ids of the chunks that hold the file's extents, with the flag PAGED."""
        if not self.flags & _PAGED:
            return ()
        ids = self._read().references
        return tuple(ids[start : start + _ID] for start in range(0, len(ids), _ID))

    @property
    def link_target(self) -> bytes:
        """The raw target of a symbolic link; of a hard link the path in the source of the file's first name."""
        return self._read().target

    @property
    def xattrs(self) -> tuple[tuple[bytes, bytes], ...]:
        """Extended attributes, by name."""
        return self._read().xattrs

    @property
    def encryption(self) -> Encryption | None:
        """Set for a file that was encrypted on its way into the repository, and for a hard link to one."""
        return self._read().encryption if self.flags & _ENCRYPTED else None

    def encode(self) -> bytes:
        """The record that it was read from."""
        return encode_entry(
            self.kind, self.flags, self.mode, self.uid, self.gid, self.mtime_ns, self.name, self.tail
        )  # fmt: skip

    def damaged(self, what: str) -> DataLoss:
        """The error for this entry, naming its path."""
        path = self.path
        shown = escape(path[:_SHOWN]) + ("…" if len(path) > _SHOWN else "")
        return damaged(f"the entry {shown}", what, path=shown)

    def _read(self) -> Tail:
        parsed = self._parsed
        if parsed is None:
            try:
                parsed = parse_tail(self.kind, self.flags, self.tail, self.folder, self.name)
            except (ValueError, struct.error) as error:
                what = "its tail ends early" if isinstance(error, struct.error) else str(error)
                raise self.damaged(what) from None
            object.__setattr__(self, "_parsed", parsed)
        return parsed


def encode_entry(
    kind: int, flags: int, mode: int, uid: int, gid: int, mtime_ns: int, name: bytes, tail: bytes
) -> bytes:
    """The record of an entry. `flags` must say what `tail` holds: XATTRS, ENCRYPTED, PAGED and DIGEST.

    Raises ValueError for a number outside its field.
    """
    try:
        return _ENTRY.pack(kind, flags, mode, uid, gid, mtime_ns, len(name), len(tail)) + name + tail
    except struct.error as error:
        raise ValueError(f"the entry does not fit its record: {error}") from None


def encode_folder(path: bytes) -> bytes:
    """The record that names the folder of the entries behind it."""
    return _FOLDER.pack(0, len(path)) + path


def decode_entries(page: bytes, where: str) -> list[Entry]:
    """The entries of a page of level 0, in order.

    Raises DataLoss/CHECKSUM_MISMATCH, naming `where`, for a page that is not as the format says. Tails are not looked
    into.
    """
    entries: list[Entry] = []
    offset, end = 1, len(page)
    folder, folder_key, last = b"", None, b""
    unpack, forbidden, kinds = _ENTRY.unpack_from, _FORBIDDEN, _KINDS
    try:
        while offset < end:
            if not page[offset]:
                if folder_key is not None and not last:
                    raise damaged(where, "a folder in it holds nothing")
                folder, offset = _decode_folder(page, offset, where)
                key = key_of(folder, b"")
                if folder_key is not None and key <= folder_key:
                    raise damaged(where, "its folders are out of order")
                folder_key, last = key, b""
                continue
            kind, flags, mode, uid, gid, mtime_ns, name_length, tail_length = unpack(page, offset)
            begin = offset + _ENTRY.size
            middle = begin + name_length
            offset = middle + tail_length
            if folder_key is None or kind > 4 or flags & forbidden[kind] or mode > MODE_MAX or offset > end:
                raise damaged(where, "an entry in it is malformed")
            name = page[begin:middle]
            if name <= last or not is_name(name):
                raise damaged(where, "a name in it is malformed or out of order")
            last = name
            entries.append(Entry(folder, name, kinds[kind], flags, mode, uid, gid, mtime_ns, page[middle:offset]))  # type: ignore[arg-type]
    except struct.error:
        raise damaged(where, "it ends early") from None
    if not last:
        raise damaged(where, "it holds nothing" if folder_key is None else "a folder in it holds nothing")
    return entries


def _decode_folder(page: bytes, offset: int, where: str) -> tuple[bytes, int]:
    begin = offset + _FOLDER.size
    end: int = begin + _FOLDER.unpack_from(page, offset)[1]
    path = page[begin:end]
    if end > len(page) or (path and not is_path(path)):
        raise damaged(where, "the path of a folder in it is malformed")
    return path, end
