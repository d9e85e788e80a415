"""Generated trees: the same bytes for the same size on every machine."""

from __future__ import annotations

import bisect
import itertools
import json
import os
import random
import zlib
from dataclasses import dataclass
from pathlib import Path

from bench.service import WORK

__all__ = [
    "COIN_SIZE",
    "SIZES",
    "TreeSize",
    "change",
    "coin_files",
    "count",
    "mixed_tree",
    "noise_tree",
    "random_files",
    "touch",
    "warm",
]

#: Bytes of a file with one coin, as wallets hold them.
COIN_SIZE = 448

_MIB = 1 << 20
_VERSION = 2


@dataclass(frozen=True, slots=True)
class TreeSize:
    files: int
    size: int


#: `full` has the shape of /usr/lib with /usr/share of a developer's machine.
SIZES = {"small": TreeSize(5_000, 128 * _MIB), "full": TreeSize(52_000, 1434 * _MIB)}


def mixed_tree(name: str, size: TreeSize) -> Path:
    """Mostly text of several kinds, some binaries: small files in number, large files in bytes."""
    return _kept(f"mixed-{name}", f"{_VERSION} {size}", lambda root: _write_mixed(root, size))


def noise_tree(name: str, size: int, files: int) -> Path:
    """Half compressible, half random files of one size."""
    return _kept(f"noise-{name}", f"{_VERSION} {size} {files}", lambda root: _write_noise(root, size, files))


def _kept(name: str, signature: str, write: object) -> Path:
    """A tree made before is used again when it was finished for the same parameters."""
    root, stamp = WORK / "trees" / name, WORK / "trees" / f"{name}.stamp"
    if stamp.exists() and stamp.read_text() == signature:
        return root
    if root.exists():
        import shutil

        shutil.rmtree(root)
    root.mkdir(parents=True)
    assert callable(write)
    write(root)
    stamp.write_text(signature)
    return root


def _write_mixed(root: Path, size: TreeSize) -> None:
    rng = random.Random(7)
    pools = [_prose(rng), _source_text(rng), _records(rng), _binary(rng)]
    weights = [0.25, 0.4, 0.15, 0.2]
    extensions = [".txt", ".py", ".json", ".so"]
    # Sizes as found in system trees: log-normal, many of some KiB, a few of many MiB.
    raw = [rng.lognormvariate(0.0, 2.0) for _ in range(size.files)]
    scale = size.size / sum(raw)
    sizes = [min(int(value * scale), 64 * _MIB) for value in raw]
    folders = [root]
    for number in range(max(size.files // 12, 1)):
        folder = rng.choice(folders[-200:]) / f"{_word(rng)}-{number}"
        if len(folder.parts) > len(root.parts) + 8:
            folder = root / f"{_word(rng)}-{number}"
        folder.mkdir()
        folders.append(folder)
    for number, length in enumerate(sizes):
        kind = rng.choices(range(4), weights)[0]
        path = rng.choice(folders) / f"{_word(rng)}{number}{extensions[kind]}"
        with path.open("wb") as file:
            while length > 0:
                start = rng.randrange(len(pools[kind]))
                file.write(part := pools[kind][start : start + length])
                length -= len(part)


def _write_noise(root: Path, size: int, files: int) -> None:
    rng = random.Random(11)
    text = _prose(rng)
    each = size // files
    for number in range(files):
        with (root / f"file-{number:04d}.bin").open("wb") as file:
            left = each
            while left:
                start = rng.randrange(len(text) // 2)
                part = rng.randbytes(min(left, _MIB)) if number % 2 else text[start : start + min(left, _MIB)]
                file.write(part)
                left -= len(part)


def _word(rng: random.Random) -> str:
    return "".join(rng.choices("etaoinshrdlucmfwypvbgk", weights=range(22, 0, -1), k=rng.randint(2, 10)))


def _zipf(words: list[str], rng: random.Random, count: int) -> list[str]:
    totals = list(itertools.accumulate(1 / (rank + 3) for rank in range(len(words))))
    return [words[bisect.bisect(totals, rng.random() * totals[-1] * 0.999999)] for _ in range(count)]


def _prose(rng: random.Random) -> bytes:
    words = [_word(rng) for _ in range(20_000)]
    chosen = _zipf(words, rng, 900_000)
    lines = [" ".join(chosen[at : at + 12]) for at in range(0, len(chosen), 12)]
    return "\n".join(lines).encode()


def _source_text(rng: random.Random) -> bytes:
    names = [f"{_word(rng)}_{_word(rng)}" for _ in range(6_000)]
    chosen = iter(_zipf(names, rng, 700_000))
    lines = []
    for _ in range(110_000):
        indent = "    " * rng.randint(0, 3)
        shape = rng.randrange(5)
        a, b, c = next(chosen), next(chosen), next(chosen)
        lines.append(
            indent
            + (
                f"def {a}(self, {b}: int, {c}: str = None) -> None:"
                if shape == 0
                else f"if {a}.{b} is not None and {c} > {rng.randint(0, 4096)}:"
                if shape == 1
                else f"{a} = {b}({c}, {rng.randint(0, 99)})"
                if shape == 2
                else f"return self.{a}[{b}].{c}"
                if shape == 3
                else f"# {a} {b} {c}"
            )
        )
    return "\n".join(lines).encode()


def _records(rng: random.Random) -> bytes:
    keys = [_word(rng) for _ in range(60)]
    rows = (
        json.dumps({key: rng.choice([rng.random(), rng.randint(0, 10**6), _word(rng)]) for key in rng.sample(keys, 8)})
        for _ in range(30_000)
    )
    return "\n".join(rows).encode()


def _binary(rng: random.Random) -> bytes:
    """As compressible as machine code: short patterns, some strings, some packed data."""
    parts: list[bytes] = []
    patterns = [rng.randbytes(rng.randint(2, 7)) for _ in range(400)]
    for _ in range(12_000):
        if rng.random() < 0.06:
            parts.append(zlib.compress(rng.randbytes(600)))
        parts.append(b"".join(p + rng.randbytes(rng.randint(0, 2)) for p in rng.choices(patterns, k=90)))
    return b"".join(parts)


def coin_files(root: Path, files: int) -> None:
    """Files of the size of a coin, random bytes, 1,000 in a folder. The folder must be new."""
    rng = random.Random(13)
    for first in range(0, files, 1000):
        folder = root / f"box {first // 1000:04d}"
        folder.mkdir(parents=True)
        fd = os.open(folder, os.O_RDONLY)
        for number in range(first, min(first + 1000, files)):
            file = os.open(f"coin {number:07d}.bin", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd)
            os.write(file, rng.randbytes(COIN_SIZE))
            os.close(file)
        os.close(fd)


def random_files(root: Path, size: int, files: int) -> None:
    """Files of `size / files` random bytes. The folder must be new."""
    rng = random.Random(17)
    root.mkdir(parents=True)
    for number in range(files):
        with (root / f"file-{number:02d}.bin").open("wb") as file:
            for _ in range(size // files // _MIB):
                file.write(rng.randbytes(_MIB))


def change(root: Path, share: float, seed: int) -> None:
    """Change a share of the files, each in one place of at most 64 KiB; of fewer than 1,000 files that share of their
    bytes, in places of a MiB. No size changes, and what is written packs as well as what was there."""
    files = sorted(Path(folder, name) for folder, _, names in os.walk(root) for name in names)
    rng = random.Random(seed)
    table = bytes(value ^ (seed % 255 + 1) for value in range(256))
    if len(files) < 1000:
        size = sum(path.stat().st_size for path in files)
        chosen, length = rng.choices(files, k=max(int(size * share) // _MIB, 1)), _MIB
    else:
        chosen, length = rng.sample(files, max(int(len(files) * share), 1)), 64 << 10
    for path in chosen:
        with path.open("r+b") as file:
            at = rng.randrange(max(path.stat().st_size - length, 0) + 1)
            file.seek(at)
            content = file.read(length)
            file.seek(at)
            file.write(content.translate(table))


def touch(root: Path) -> None:
    """Give every file the present time, and nothing else new."""
    for folder, _, names in os.walk(root):
        for name in names:
            os.utime(os.path.join(folder, name))


def warm(root: Path) -> None:
    """Read every file once, so that its pages are in memory."""
    for folder, _, names in os.walk(root):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                while file.read(1 << 20):
                    pass


def count(root: Path) -> tuple[int, int]:
    """(files, bytes) below a folder."""
    files = size = 0
    for folder, _, names in os.walk(root):
        for name in names:
            files += 1
            size += os.lstat(os.path.join(folder, name)).st_size
    return files, size
