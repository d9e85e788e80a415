"""Looking for a secret that must not be anywhere: raw, in hexadecimal, in base64 at every alignment, inside compressed
streams, and in the decoded values of every table of a SQLite database.

A canary is a few fixed bytes that every secret of a test contains. Finding nothing proves something only beside a
search that finds it where it is: `tests/unit/test_canary.py`, and in each test a place that must hold it.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import io
import re
import shutil
import sqlite3
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

__all__ = ["Canary", "Finding"]

_DEPTH = 5
_LARGEST = 1 << 28
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{24,}={0,2}")
_HEX = re.compile(rb"(?:[0-9a-fA-F]{2}){12,}")


@dataclass(frozen=True)
class Finding:
    """Where the canary was: a file, then each layer that was opened in it."""

    place: str
    form: str


class Canary:
    """`marker`: at least 6 bytes that occur nowhere by chance."""

    def __init__(self, marker: bytes) -> None:
        assert len(marker) >= 6
        self.marker = marker
        self._forms = dict(_forms(marker))

    def search(self, *roots: Path, skip: Iterable[Path] = ()) -> list[Finding]:
        """All places below the roots, files or folders, but for those below `skip`."""
        left_out = [path.resolve() for path in skip]
        found: list[Finding] = []
        for root in roots:
            files = [root] if root.is_file() else sorted(path for path in root.rglob("*"))
            for path in files:
                if path.is_symlink() or not path.is_file():
                    continue
                if any(path.resolve().is_relative_to(other) for other in left_out):
                    continue
                found += self._in_file(path)
        return found

    def in_bytes(self, content: bytes, place: str) -> list[Finding]:
        """In one byte string and in what it unfolds to."""
        found = [Finding(place, form) for form, pattern in self._forms.items() if pattern in content]
        return found + [
            deeper for name, inner in unfold(content) for deeper in self._deeper(inner, f"{place} > {name}", 1)
        ]

    def _deeper(self, content: bytes, place: str, depth: int) -> Iterator[Finding]:
        for form, pattern in self._forms.items():
            if pattern in content:
                yield Finding(place, form)
        if depth < _DEPTH:
            for name, inner in unfold(content):
                yield from self._deeper(inner, f"{place} > {name}", depth + 1)

    def _in_file(self, path: Path) -> list[Finding]:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return []
        if not content.strip(b"\0"):
            return []  # of a reserve for a full disk
        found = self.in_bytes(content, str(path))
        if content.startswith(b"SQLite format 3\0"):
            found += self._in_database(path)
        return found

    def _in_database(self, path: Path) -> Iterator[Finding]:
        """Every value of every table, with what the write-ahead log adds, read from a copy."""
        with tempfile.TemporaryDirectory() as folder:
            for suffix in ("", "-wal", "-shm"):
                if (beside := path.with_name(path.name + suffix)).exists():
                    shutil.copy(beside, folder)
            database = sqlite3.connect(Path(folder, path.name))
            database.text_factory = bytes
            tables = [
                name.decode() for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type='table'")
            ]
            assert tables
            for table in tables:
                for row in database.execute(f'SELECT * FROM "{table}"'):
                    for value in row:
                        if isinstance(value, bytes):
                            yield from self._deeper(value, f"{path} > table {table}", 0)
            database.close()


def _forms(marker: bytes) -> Iterator[tuple[str, bytes]]:
    yield "raw", marker
    yield "hex", marker.hex().encode()
    yield "HEX", marker.hex().upper().encode()
    yield "repr", repr(marker)[2:-1].encode()
    yield "reversed hex", marker[::-1].hex().encode()
    for shift in range(3):
        # What base64 makes of the marker wherever it starts: without the characters that its neighbours share in.
        encoded = base64.b64encode(bytes(shift) + marker + bytes(3))
        first, last = -(-shift * 8 // 6), (shift + len(marker)) * 8 // 6
        yield f"base64 at {shift}", encoded[first:last]
        yield f"base64url at {shift}", encoded[first:last].translate(bytes.maketrans(b"+/", b"-_"))


def unfold(content: bytes) -> Iterator[tuple[str, bytes]]:
    """What a byte string holds when it is opened, one layer deep."""
    if content.startswith(b"PK"):
        yield from _zip(content)
    elif content.startswith(b"\x1f\x8b"):
        yield from _quietly("gzip", lambda: gzip.decompress(content))
    elif content.startswith(b"\x28\xb5\x2f\xfd"):
        yield from _quietly("zstd", lambda: _zstd(content))
    elif content[:1] == b"\x78":
        yield from _quietly("zlib", lambda: zlib.decompress(content))
    elif content[257:262] == b"ustar":
        yield from _tar(content)
    if len(content) <= 1 << 20:
        for match in _BASE64.finditer(content):
            yield from _quietly("base64", lambda text=match[0]: base64.urlsafe_b64decode(_padded(text)))  # type: ignore[misc]
        for match in _HEX.finditer(content):
            yield "hex", binascii.unhexlify(match[0])


def _padded(text: bytes) -> bytes:
    text = text.rstrip(b"=").translate(bytes.maketrans(b"+/", b"-_"))
    return text + b"=" * (-len(text) % 4)


def _quietly(name: str, opened: object) -> Iterator[tuple[str, bytes]]:
    try:
        content = opened()  # type: ignore[operator]
    except (OSError, EOFError, ValueError, zlib.error, zstandard.ZstdError):
        return
    yield name, content


def _zstd(content: bytes) -> bytes:
    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(content), read_across_frames=True)
    return reader.read(_LARGEST)


def _zip(content: bytes) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield name, archive.read(name)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError):
        return


def _tar(content: bytes) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                if member.isfile() and (file := archive.extractfile(member)) is not None:
                    yield member.name, file.read()
    except (tarfile.TarError, OSError):
        return
