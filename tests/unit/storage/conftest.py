"""For the storage tests: opened directories and a process without root's rights."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from holdfast_server.storage.local import remove_tree
from tests.mounts import Mounter

__all__ = ["NOBODY", "Mounter", "Opener"]

NOBODY = 65534

Opener = Callable[[Path], int]


@pytest.fixture
def opened() -> Iterator[Opener]:
    """Opens directories and closes them after the test."""
    with contextlib.ExitStack() as stack:

        def open_directory(path: Path) -> int:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, fd)
            return fd

        yield open_directory


@pytest.fixture
def unprivileged() -> Callable[[], AbstractContextManager[None]]:
    """A block in which the process has no superuser rights."""

    @contextlib.contextmanager
    def block() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)

    return block


@pytest.fixture
def public() -> Iterator[Path]:
    """A temporary folder that an unprivileged block owns and can reach by its path."""
    path = Path(tempfile.mkdtemp(dir="/tmp")).resolve()  # pytest's own lies in a folder that others may not pass
    path.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(path, NOBODY, -1)
    yield path
    subprocess.run(["chmod", "-R", "u+rwx", str(path)], check=False)
    shutil.rmtree(path)


@pytest.fixture
def roomy(tmp_path: Path) -> Iterator[Path]:
    """A temporary folder for trees too deep for pytest's clean-up, in memory where that is possible.

    Some disk file systems take seconds to make thousands of directories inside each other.
    """
    memory = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(dir=memory)) if memory.is_dir() and os.access(memory, os.W_OK) else tmp_path
    yield path
    fd = os.open(path.parent, os.O_RDONLY)
    remove_tree(fd, os.fsencode(path.name))
    os.close(fd)
