"""The search for a canary finds it wherever it claims to look."""

from __future__ import annotations

import base64
import gzip
import io
import json
import sqlite3
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from tests.canary import Canary

MARKER = bytes.fromhex("c0ffee5eaf00d1")
SECRET = b"\x01\x02\x03" + MARKER + b"\x04\x05"


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b", content)
    return file.getvalue()


def tarred(content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("x")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


HIDINGS: dict[str, Callable[[bytes], bytes]] = {
    "raw": bytes,
    "hex": lambda content: content.hex().encode(),
    "HEX": lambda content: content.hex().upper().encode(),
    "base64": base64.b64encode,
    "base64 one byte on": lambda content: base64.b64encode(b"x" + content),
    "base64 two bytes on": lambda content: base64.b64encode(b"xx" + content),
    "base64url": lambda content: base64.urlsafe_b64encode(b"x" + content),
    "repr": lambda content: repr(content).encode(),
    "zip": zipped,
    "zip of a zip": lambda content: zipped(zipped(content)),
    "tar.gz": lambda content: gzip.compress(tarred(content)),
    "tar.zst": lambda content: zstandard.compress(tarred(content)),
    "zlib in base64 in json": lambda content: json.dumps(
        {"a": base64.b64encode(zlib.compress(content)).decode()}
    ).encode(),
}


@pytest.mark.parametrize("hiding", HIDINGS)
def test_it_is_found(tmp_path: Path, hiding: str) -> None:
    content = b"much else " * 50 + SECRET * 3
    (tmp_path / "file").write_bytes(HIDINGS[hiding](content))
    assert Canary(MARKER).search(tmp_path)


@pytest.mark.parametrize("hiding", HIDINGS)
def test_another_is_not(tmp_path: Path, hiding: str) -> None:
    (tmp_path / "file").write_bytes(HIDINGS[hiding](b"much else " * 50 + MARKER[::-1][:5] * 9))
    assert not Canary(MARKER).search(tmp_path)


def test_values_of_tables_are_opened(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE notes (id INTEGER, content BLOB)")
    database.execute("INSERT INTO notes VALUES (1, ?)", [zlib.compress(SECRET * 20)])
    database.commit()
    database.close()
    assert any("table notes" in found.place for found in Canary(MARKER).search(tmp_path))


def test_what_is_skipped_is_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "wallet").mkdir()
    (tmp_path / "wallet" / "coin").write_bytes(SECRET)
    assert Canary(MARKER).search(tmp_path)
    assert not Canary(MARKER).search(tmp_path, skip=[tmp_path / "wallet"])
