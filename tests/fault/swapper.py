"""`python -m tests.fault.swapper COUNT LOCK PAUSE (ONE OTHER)…`: exchanges paths at full speed until its stdin ends.

Each pair is exchanged twice, so that all is as before, under LOCK: whoever holds it finds nothing swapped. COUNT is a
file of eight bytes that says how many exchanges were made. Between the two, sometimes nothing is done and sometimes as
long as a loop takes that counts to PAUSE.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import random
import select
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
#: Exchanges between two looks at stdin.
_BURST = 64


class Swapper:
    """The process, as its parent sees it."""

    def __init__(self, folder: Path, pairs: list[tuple[Path, Path]], *, pause: int) -> None:
        self._count = folder / "swaps"
        self._count.write_bytes(bytes(8))
        self._lock = (folder / "lock").open("w")
        paths = [os.fspath(path) for pair in pairs for path in pair]
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, self._count, folder / "lock", str(pause), *paths],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
        )

    @property
    def swaps(self) -> int:
        """Exchanges made so far."""
        (count,) = struct.unpack("<Q", self._count.read_bytes())
        return int(count)

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Nothing is swapped meanwhile."""
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def __enter__(self) -> Swapper:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        assert self._process.wait(60) == 0
        self._lock.close()


def main(count: str, lock_path: str, pause: str, *paths: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    pairs = [(os.fsencode(a), os.fsencode(b)) for a, b in zip(paths[::2], paths[1::2], strict=True)]
    chance = random.Random(1)
    pauses = (0, int(pause) // 50, int(pause) // 5, int(pause))

    def exchange(one: bytes, other: bytes) -> bool:
        return bool(libc.renameat2(_AT_FDCWD, one, _AT_FDCWD, other, _RENAME_EXCHANGE) == 0)

    with open(count, "r+b") as file, open(lock_path) as lock, mmap.mmap(file.fileno(), 8) as total:
        swaps = 0
        while not select.select([sys.stdin], [], [], 0)[0]:
            for _ in range(_BURST):
                one, other = chance.choice(pairs)
                fcntl.flock(lock, fcntl.LOCK_EX)
                if exchange(one, other):
                    for _ in range(chance.choice(pauses)):
                        pass
                    if not exchange(one, other):
                        raise SystemExit(f"{one!r} could not be put back")
                    swaps += 2
                    total[:] = struct.pack("<Q", swaps)
                fcntl.flock(lock, fcntl.LOCK_UN)


if __name__ == "__main__":
    main(*sys.argv[1:])
