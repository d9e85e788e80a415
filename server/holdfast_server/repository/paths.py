"""Names and paths of entries, and the order they stand in."""

from __future__ import annotations

__all__ = ["Key", "is_name", "is_path", "key_of"]

#: Sorts entries as the tree does: `key_of`.
Key = tuple[bytes, bytes]

_NO_NAMES = frozenset((b"", b".", b".."))


def key_of(folder: bytes, name: bytes) -> Key:
    """The order of the tree: by the folder's path with NUL for `/`, then by name."""
    return folder.replace(b"/", b"\0"), name


def is_name(name: bytes) -> bool:
    """Whether it can be the name of an entry."""
    return name not in _NO_NAMES and b"/" not in name and b"\0" not in name


def is_path(path: bytes) -> bool:
    """Whether it is a relative path of one or more names."""
    return b"\0" not in path and _NO_NAMES.isdisjoint(path.split(b"/"))
