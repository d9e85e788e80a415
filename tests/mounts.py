"""Real file systems for tests: small ones, bound ones, full ones."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Disk", "Mounter", "mounting"]

Mounter = Callable[..., None]
_MIB = 1 << 20


@contextmanager
def mounting() -> Iterator[Mounter]:
    """`mount(arguments…, target)`; skips where this machine does not allow mounts, unmounts at the end."""
    mounted: list[str] = []

    def run(*arguments: str | Path) -> None:
        command = ["mount", *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            pytest.skip(f"mounts cannot be made here: {result.stderr.strip().partition(chr(10))[0]}")
        mounted.append(str(arguments[-1]))

    if shutil.which("mount") is None:
        pytest.skip("there is no mount command here")
    try:
        yield run
    finally:
        for target in reversed(mounted):
            subprocess.run(["umount", "-l", target], check=True)


class Disk:
    """A mounted file system, and the file that fills it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def mount(self, mount: Mounter, mib: int) -> None:
        """Make it, of a size in MiB."""
        self.path.mkdir()
        mount("-t", "tmpfs", "-o", f"size={mib}m,nr_inodes=1000", "tmpfs", self.path)

    def fill(self, leave: int = 0) -> None:
        """To the last byte, or to as many bytes as are left; proves it."""
        if leave:
            self._take(leave)
            return
        fd = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            for size in (_MIB, 4096, 1):
                _until_full(os.write, fd, b"\xff" * size)
        finally:
            os.close(fd)
        self.require_full()

    def _take(self, leave: int) -> None:
        with self._ballast.open("ab") as file:
            free = os.fstatvfs(file.fileno())
            os.posix_fallocate(file.fileno(), 0, file.tell() + free.f_bavail * free.f_frsize - leave)

    def fill_inodes(self) -> None:
        """To the last inode; proves it."""
        folder = self.path / "many"
        folder.mkdir(exist_ok=True)
        _until_full(lambda: (folder / secrets.token_hex(8)).touch(exist_ok=False))
        self.require_full()

    def require_full(self) -> None:
        with pytest.raises(OSError, match="No space left on device"):
            (self.path / "one more").write_bytes(b"x")
        (self.path / "one more").unlink(missing_ok=True)

    def empty(self) -> None:
        self._ballast.unlink(missing_ok=True)
        for path in (self.path / "many").glob("*"):
            path.unlink()

    def reserve(self, *folder: str) -> int:
        """Bytes that a reserve takes now."""
        place = self.path.joinpath(*folder)
        return sum(file.stat().st_blocks * 512 for file in place.iterdir()) if place.exists() else 0


def _until_full(call: Callable[..., Any], *arguments: Any) -> None:
    for _ in range(100_000):
        try:
            call(*arguments)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                return
            raise
    raise AssertionError("it does not get full")
