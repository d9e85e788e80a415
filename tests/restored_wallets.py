"""Wallets to restore, and backups of them with a lie in their manifest."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdfast_server.wallets.generate import generate_wallet

PASSWORD = "correct horse battery staple"
COINS = 30

EXPORT = "export-5c9f6f2e-6f0e-4d61-8f0e-0d6f2ad7f1c3"


def make_wallet(root: Path, *, coins: int = COINS, seed: int = 7) -> Path:
    """A wallet with odd names, modes and times; a hard link between coins, and a file that is no coin."""
    generate_wallet(root, coins, seed)
    first = min((root / "Bank").iterdir())
    os.link(first, root / "Trash" / "same coin.bin")
    os.chmod(first, 0o440)
    (root / "Receipts" / "note.txt").write_text("a receipt")
    os.utime(root / "Bank", ns=(1_600_000_000_123_456_789, 1_600_000_000_123_456_789))
    return root


def reserve(root: Path, count: int = 2) -> list[str]:
    """What an export under way has taken out of Bank: `count` coins, its journal and the lock. Gives their names."""
    folder = root / ".holdfast" / EXPORT
    folder.mkdir(parents=True)
    taken = sorted((root / "Bank").iterdir())[-count:]
    for coin in taken:
        os.rename(coin, folder / coin.name)
    (root / ".holdfast" / "lock").touch()
    (root / ".holdfast" / f"{EXPORT}.json").write_text(json.dumps({"state": "RESERVED", "attempt": 1}))
    return [coin.name for coin in taken]


def rewritten(
    archive: Path,
    target: Path,
    *,
    entry: Callable[[dict[str, Any], bytes], tuple[dict[str, Any], bytes]] = lambda record, content: (record, content),
    totals: Callable[[dict[str, Any]], dict[str, Any]] = lambda values: values,
    header: Callable[[dict[str, Any]], dict[str, Any]] = lambda values: values,
) -> Path:
    """A ZIP of ours with some of it changed and everything around made to agree: hashes, sizes, the list of sums."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as made:
        infos = {info.filename: info for info in source.infolist()}
        lines = source.read("holdfast-manifest.json").decode().split("\n")
        records = [json.loads(line.removesuffix(",")) for line in lines[1:-2]]
        sums = []
        for number, record in enumerate(records):
            name = record["path"]
            if record["type"] != "file":
                stored = name + "/" if record["type"] == "directory" else name
                made.writestr(infos[stored], source.read(stored))
                continue
            changed, content = entry(dict(record), source.read(name))
            changed |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            records[number] = changed
            made.writestr(infos[name], content)
            sums.append(f"{changed['sha256']}  {name}\n")
        made.writestr(infos["holdfast-sha256sums.txt"], "".join(sums))
        first = _line(header(json.loads(lines[0] + "]}")))[:-2]
        last = _line(totals(json.loads("{" + lines[-2].removeprefix("],"))))
        body = ",\n".join(map(_line, records))
        made.writestr(infos["holdfast-manifest.json"], f"{first}\n{body}\n],{last[1:]}\n")
    return target


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values, separators=(",", ":"))
