"""The sources of the vectors of repositories: what never lay on a disk, and what a restore of it has to give.

A source is a list of entries in the order of the tree. A description says what JSON can hold of a source, of a restored
folder or of a snapshot: the vectors' `expected.json` is made of descriptions.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

FILE, DIRECTORY, SYMLINK, HARDLINK = "file", "directory", "symlink", "hardlink"

Description = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Made:
    """An entry. `parts` are content, and holes by their length; `sealed_as` is the name that an encrypted file gets.

    `target` is that of a link; of a hard link the path in the source.
    """

    path: bytes
    kind: str = FILE
    parts: tuple[bytes | int, ...] = ()
    mode: int = 0o644
    mtime_ns: int = 1_700_000_000_123_456_789
    owner: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    target: bytes = b""
    sealed_as: bytes | None = None

    @property
    def folder(self) -> bytes:
        return self.path.rpartition(b"/")[0]

    @property
    def name(self) -> bytes:
        return self.path.rpartition(b"/")[2]

    @property
    def restored_path(self) -> bytes:
        return self.path if self.sealed_as is None else self.path[: -len(self.name)] + self.sealed_as

    @property
    def order(self) -> tuple[bytes, bytes]:
        return self.folder.replace(b"/", b"\0"), self.name


def large_text() -> bytes:
    """More than 4 MiB, the longest chunk, of text that shrinks to little."""
    parts = (
        b"%d bottles of beer on the wall\n" % (number * number % 1_000_003) * (number % 97) for number in range(2_600)
    )
    return b"".join(parts)


def full_source() -> list[Made]:
    """Everything that a source can have."""
    many = tuple(part for number in range(1_000) for part in (b"piece %03d\n" % number, 4086))
    entries = [
        Made(b"empty", mode=0o600),
        Made(b"small.txt", parts=(b"a small file\n",)),
        Made(b"a copy.txt", parts=(b"a small file\n",), mtime_ns=-1_500_000_000),
        Made(b"large.txt", parts=(large_text(),), mode=0o4755),
        Made(b"holes", parts=many),
        Made(b"one hole", parts=(1 << 33,)),
        Made(b"linked", parts=(b"more than one name\n",), xattrs=((b"user.\xffkey", b"\0\1"), (b"user.empty", b""))),
        Made(b"owned", parts=(b"by somebody\n",), owner=(1234, 70_000)),
        Made(b"folder", DIRECTORY, mode=0o2750, xattrs=((b"user.of", b"a folder"),)),
        Made(b"folder!", DIRECTORY, mode=0o555),
        Made(b"folder/deep", DIRECTORY, mode=0o755),
        Made(b"folder/deep/link", HARDLINK, target=b"linked"),
        Made(b"folder/deep/up", SYMLINK, target=b"../../small.txt"),
        Made(b"folder/deep/to nothing", SYMLINK, target=b"/no/such\xff\n"),
        Made(b"folder!/in order", parts=(b"behind all of folder/\n",)),
        Made(b"coins", DIRECTORY, mode=0o700),
        Made(b"coins/1.bin", parts=(b"HFCC, as it were\n",), sealed_as=b"1.bin.hfcc"),
        Made(b"coins/2.bin", HARDLINK, target=b"coins/1.bin", sealed_as=b"2.bin.hfcc"),
        Made(b"coins/3.bin", parts=(b"HFCC, another one\n",), sealed_as=b"3.bin-2.hfcc"),
        Made(b"coins/3.bin.hfcc", parts=(b"was here before\n",)),
        Made(b"hostile", DIRECTORY, mode=0o755),
    ]
    names = [
        b"\xff\xfe",
        b"a\nb",
        b"-rf",
        b"*",
        b" ",
        b"\x01\x7f",
        "e\u0301".encode(),
        "\u00e9".encode(),
        b"\\",
        b"n" * 255,
    ]
    entries += [Made(b"hostile/" + name, parts=(b"called " + name,)) for name in names]
    entries += [Made(b"many", DIRECTORY, mode=0o755)]
    names = [b"%03d " % number + b"of many " * 25 for number in range(300)]
    entries += [Made(b"many/" + name, parts=(b"%d\n" % (number % 100),)) for number, name in enumerate(names)]
    return sorted(entries, key=lambda entry: entry.order)


def changed_source() -> list[Made]:
    """The same a day later: little is new."""
    kept = [entry for entry in full_source() if entry.name not in (b"empty", b"-rf")]
    new = [Made(b"new.txt", parts=(b"new\n",)), Made(b"small copy", parts=(large_text()[:1000],))]
    return sorted([*kept, *new], key=lambda entry: entry.order)


def removed_source() -> list[Made]:
    """What nothing but a removed snapshot holds."""
    return [Made(b"removed.txt", parts=(b"to be forgotten\n",))]


def late_source() -> list[Made]:
    """What was backed up just before a crash."""
    return [Made(b"late.txt", parts=(b"late\n",)), Made(b"small.txt", parts=(b"a small file\n",))]


SOURCES = {
    "full": full_source,
    "changed": changed_source,
    "empty": list[Made],
    "removed": removed_source,
    "late": late_source,
}


def describe_source(entries: Iterable[Made]) -> Description:
    """What a restore of these entries has to give."""
    entries = list(entries)
    first = {entry.path: entry for entry in entries if entry.kind == FILE}
    groups: dict[bytes, list[bytes]] = {}
    for entry in entries:
        if entry.kind in (FILE, HARDLINK):
            of = entry.path if entry.kind == FILE else entry.target
            groups.setdefault(of, []).append(entry.restored_path)
    found: Description = {}
    for entry in entries:
        real = first[entry.target] if entry.kind == HARDLINK else entry
        described: dict[str, Any] = {
            "type": real.kind,
            "mtime_ns": real.mtime_ns,
            "uid": real.owner[0],
            "gid": real.owner[1],
        }
        if real.kind != SYMLINK:
            described |= {"mode": f"{real.mode:04o}"} | _xattrs(real.xattrs)
        if real.kind == FILE:
            described |= _content(real.parts)
            described["names"] = sorted(map(show, groups[real.path]))
        elif real.kind == SYMLINK:
            described["target"] = show(real.target)
        found[show(entry.restored_path)] = described
    return found


def describe_folder(folder: bytes) -> Description:
    """What lies in a folder."""
    found: Description = {}
    names: dict[int, list[str]] = {}
    for base, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = os.path.join(base, name)
            shown, status = show(os.path.relpath(path, folder)), os.lstat(path)
            kind = {stat.S_IFREG: FILE, stat.S_IFDIR: DIRECTORY, stat.S_IFLNK: SYMLINK}[stat.S_IFMT(status.st_mode)]
            described: dict[str, Any] = {"type": kind, "mtime_ns": status.st_mtime_ns}
            described |= {"uid": status.st_uid, "gid": status.st_gid}
            if kind == SYMLINK:
                described["target"] = show(os.readlink(path))
            else:
                xattrs = [(os.fsencode(key), os.getxattr(path, key)) for key in os.listxattr(path)]
                described |= {"mode": f"{stat.S_IMODE(status.st_mode):04o}"} | _xattrs(xattrs)
            if kind == FILE:
                described |= _content(_pieces(path, status.st_size))
                described["names"] = names.setdefault(status.st_ino, [])
                described["names"].append(shown)
                described["names"].sort()
            found[shown] = described
    return found


def show(raw: bytes) -> str:
    """Bytes as JSON can hold them, told apart by what is escaped."""
    return raw.decode("utf-8", "backslashreplace") if b"\\" not in raw else "base64:" + base64.b64encode(raw).decode()


def _xattrs(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, Any]:
    shown = {show(key): show(value) for key, value in sorted(pairs)}
    return {"xattrs": shown} if shown else {}


def _content(pieces: Iterable[bytes | int]) -> dict[str, Any]:
    """Size, and SHA-256 where it does not take seconds."""
    size, digest = 0, hashlib.sha256()
    for piece in pieces:
        length = piece if isinstance(piece, int) else len(piece)
        size += length
        if length <= 1 << 26:
            digest.update(bytes(piece) if isinstance(piece, int) else piece)
    return {"size": size, "sha256": digest.hexdigest() if size <= 1 << 26 else None}


def _pieces(path: bytes, size: int) -> Iterator[bytes | int]:
    if size > 1 << 26:
        yield size
        return
    with open(path, "rb") as file:
        yield file.read()
