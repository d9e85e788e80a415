"""docs/format.md lists exactly the keys that a backup's manifest carries."""

from __future__ import annotations

import json
import os
import re
import zipfile
from pathlib import Path

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.core.backup import ArchivePlan, write_archive
from holdfast_server.core.control import Control, Progress
from holdfast_server.storage.folder import OpenFolder

ROOT = Path(__file__).parents[3]


def keys_of_table(title: str) -> set[str]:
    """The backquoted words in the first column of the table with that title."""
    text = (ROOT / "docs/format.md").read_text()
    table = text[text.index(f"| {title} |") :].split("\n\n")[0]
    rows = table.splitlines()[2:]
    return {word for row in rows for word in re.findall(r"`(\w+)`", row.split("|")[1])}


def manifest_of(folder: Path) -> dict[str, object]:
    """The manifest of a small wallet's zip."""
    source = folder / "wallet"
    (source / "Bank").mkdir(parents=True)
    (source / "Bank" / "coin.bin").write_bytes(b"\x09" + bytes(438))
    plan = ArchivePlan(
        "id", "name", "w", "WALLET", "Wallet", [], 1_700_000_000_000_000, "test", format=ArchiveFormat.ZIP
    )
    pool = CompressorPool(1)
    fd = os.open(folder / "a.zip", os.O_RDWR | os.O_CREAT, 0o600)
    with OpenFolder(os.open(source, os.O_RDONLY), os.fsencode(source)) as opened:
        write_archive(opened, plan, fd, pool, Control(), Progress(), lambda _: None)
    os.close(fd)
    pool.close()
    with zipfile.ZipFile(folder / "a.zip") as archive:
        assert archive.namelist()[-1] == "holdfast-manifest.json"
        found: dict[str, object] = json.loads(archive.read("holdfast-manifest.json"))
    return found


def test_the_documented_keys_are_the_manifests(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path)
    first, last = keys_of_table("key of the first line"), keys_of_table("key of the last line")
    assert first | last | {"entries"} == set(manifest)
    text = (ROOT / "docs/format.md").read_text()
    for name in ("counts", "wallet", "source", "root"):
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}`"))
        inner = manifest[name]
        assert isinstance(inner, dict)
        assert set(inner) <= set(re.findall(r"`(\w+)`", row)), name
