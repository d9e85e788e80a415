"""Tails of entries: what the tree holds of a file or link beyond its name and attributes.

docs/format.md ("Tree") specifies them. Writing checks little, reading everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final

from holdfast_server.records import frozen_record
from holdfast_server.repository.extents import EXTENT_SIZE
from holdfast_server.repository.paths import Key, is_name, is_path, key_of

__all__ = [
    "ENVELOPE_SUFFIX",
    "Encryption",
    "EntryFlag",
    "EntryKind",
    "Tail",
    "encode_extras",
    "file_tail",
    "folder_tail",
    "link_tail",
    "parse_tail",
]

#: Stands behind the stored name of an encrypted file that has no other.
ENVELOPE_SUFFIX: Final = b".hfcc"

_FILE, _FILE_DIGEST, _ENCRYPTION = Struct("<QI"), Struct("<Q16sI"), Struct("<16sQ32sH")
_U16, _U32 = Struct("<H"), Struct("<I")
_ID = 32


class EntryKind(IntEnum):
    """What an entry is. FIFOs, sockets and devices never enter a snapshot."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    HARDLINK = 4


class EntryFlag(IntFlag):
    """What is special about an entry; those from XATTRS on say what its tail holds."""

    SPARSE = 1
    CHANGED = 2
    XATTRS = 4
    ENCRYPTED = 8
    PAGED = 16
    DIGEST = 32


_XATTRS, _ENCRYPTED = int(EntryFlag.XATTRS), int(EntryFlag.ENCRYPTED)
_PAGED, _DIGEST = int(EntryFlag.PAGED), int(EntryFlag.DIGEST)


@frozen_record
class Encryption:
    """What a file was before it was encrypted on its way into the repository.

    `key_id` (16 bytes) names the key, `size` and `sha256` (32 bytes) are those of the content inside. `stored_name` is
    the name of the envelope, None where that is the file's own with `.hfcc` behind.
    """

    key_id: bytes
    size: int
    sha256: bytes
    stored_name: bytes | None = None


@frozen_record
class Tail:
    """A tail taken apart. `references` is extents, or ids of extent pages."""

    size: int = 0
    digest: bytes | None = None
    references: bytes = b""
    target: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    encryption: Encryption | None = None


_PLAIN = Tail()


def file_tail(
    size: int,
    digest: bytes | None,
    references: bytes,
    xattrs: Sequence[tuple[bytes, bytes]] = (),
    encryption: Encryption | None = None,
    *,
    paged: bool = False,
) -> bytes:
    """The tail of a file of `size` bytes as stored.

    `references` are its encoded extents; with `paged` the ids of the pages that hold them.
    """
    number = len(references) // (_ID if paged else EXTENT_SIZE)
    head = _FILE.pack(size, number) if digest is None else _FILE_DIGEST.pack(size, digest, number)
    if xattrs or encryption:
        return head + references + encode_extras(xattrs, encryption)
    return head + references


def folder_tail(xattrs: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """The tail of a directory."""
    return encode_extras(xattrs, None)


def link_tail(target: bytes, xattrs: Sequence[tuple[bytes, bytes]] = (), encryption: Encryption | None = None) -> bytes:
    """The tail of a symbolic link, or of a hard link: `target` is the path of the file's first name in the order."""
    return _U32.pack(len(target)) + target + encode_extras(xattrs, encryption)


def encode_extras(xattrs: Sequence[tuple[bytes, bytes]], encryption: Encryption | None) -> bytes:
    """What ends any tail: extended attributes, and how the file was encrypted. Empty without either."""
    parts: list[bytes] = []
    # In one order, whatever the file system's: an unchanged entry must stay the same bytes.
    attributes = sorted(xattrs)
    if attributes:
        parts.append(_U16.pack(len(attributes)))
        for name, value in attributes:
            parts += (_U16.pack(len(name)), name, _U32.pack(len(value)), value)
    if encryption is not None:
        stored = encryption.stored_name or b""
        parts += (_ENCRYPTION.pack(encryption.key_id, encryption.size, encryption.sha256, len(stored)), stored)
    return b"".join(parts)


def parse_tail(kind: EntryKind, flags: int, tail: bytes, folder: bytes, name: bytes) -> Tail:
    """Take the tail of the entry of this name apart.

    Raises ValueError or struct.error when it is not as the format says.
    """
    if kind is EntryKind.DIRECTORY and not flags and not tail:
        return _PLAIN
    size, digest, references, target, offset = 0, None, b"", b"", 0
    if kind is EntryKind.FILE:
        if flags & _DIGEST:
            size, digest, number = _FILE_DIGEST.unpack_from(tail)
            offset = _FILE_DIGEST.size
        else:
            size, number = _FILE.unpack_from(tail)
            offset = _FILE.size
        references, offset = _take(tail, offset, number * (_ID if flags & _PAGED else EXTENT_SIZE))
        if bool(size) != bool(number):
            raise ValueError("its size and the number of its extents contradict each other")
    elif kind is not EntryKind.DIRECTORY:
        target, offset = _take(tail, _U32.size, _U32.unpack_from(tail)[0])
        _check_target(kind, key_of(folder, name), target)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    encryption = None
    if flags & _XATTRS:
        xattrs, offset = _parse_xattrs(tail, offset)
    if flags & _ENCRYPTED:
        encryption, offset = _parse_encryption(tail, offset)
    if offset != len(tail):
        raise ValueError("its tail is too long")
    return Tail(size, digest, references, target, xattrs, encryption)


def _take(tail: bytes, offset: int, length: int) -> tuple[bytes, int]:
    end = offset + length
    if end > len(tail):
        raise ValueError("its tail ends early")
    return tail[offset:end], end


def _check_target(kind: EntryKind, key: Key, target: bytes) -> None:
    if kind is EntryKind.SYMLINK:
        if not target or b"\0" in target:
            raise ValueError("it has no valid target")
        return
    folder, _, name = target.rpartition(b"/")
    if not is_path(target) or key_of(folder, name) >= key:
        raise ValueError("the file that it is another name of does not stand before it")


def _parse_xattrs(tail: bytes, offset: int) -> tuple[tuple[tuple[bytes, bytes], ...], int]:
    (number,) = _U16.unpack_from(tail, offset)
    offset += _U16.size
    found: list[tuple[bytes, bytes]] = []
    last = b""
    for _ in range(number):
        name, offset = _take(tail, offset + _U16.size, _U16.unpack_from(tail, offset)[0])
        value, offset = _take(tail, offset + _U32.size, _U32.unpack_from(tail, offset)[0])
        if name <= last or b"\0" in name:
            raise ValueError("the names of its extended attributes are malformed or out of order")
        last = name
        found.append((name, value))
    if not found:
        raise ValueError("its extended attributes are missing")
    return tuple(found), offset


def _parse_encryption(tail: bytes, offset: int) -> tuple[Encryption, int]:
    key_id, size, sha256, length = _ENCRYPTION.unpack_from(tail, offset)
    stored, offset = _take(tail, offset + _ENCRYPTION.size, length)
    if stored and not is_name(stored):
        raise ValueError("its stored name is malformed")
    return Encryption(key_id, size, sha256, stored or None), offset
