"""What tests run in the reader process: it must find these by name, so they lie apart from pytest."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from pathlib import Path

from holdfast_server.errors import DataLoss, Reason, invalid_field


def refuse_field(value: str) -> None:
    raise invalid_field("page_token", "belongs to another wallet", value=value)


def refuse_damaged() -> None:
    raise DataLoss(Reason.CHECKSUM_MISMATCH, "coin is damaged", metadata={"path": "Bank/\\xff"}, retry_after=2.5)


def break_over(secret: str) -> None:
    raise ValueError(f"cannot read {secret}")


def leave() -> None:
    sys.exit(3)


def unpicklable() -> object:
    return lambda: None


def echo(content: bytes) -> bytes:
    return content


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_self_once(marker: str) -> int:
    """Dies at the first call; gives the pid at the second."""
    try:
        Path(marker).touch(exist_ok=False)
    except FileExistsError:
        return os.getpid()
    kill_self()
    return 0


def announce_and_wait(started: str, release: str) -> int:
    """Says that it runs by making one file, goes on when the other is there."""
    Path(started).touch()
    while not Path(release).exists():
        time.sleep(0.002)
    return os.getpid()


def told_and_seen(secret: str) -> tuple[bytes, bytes, tuple[int, int], set[str]]:
    """Command line, environment, core limit and imported packages of the process that knows the secret."""
    assert secret
    return (
        Path("/proc/self/cmdline").read_bytes(),
        Path("/proc/self/environ").read_bytes(),
        resource.getrlimit(resource.RLIMIT_CORE),
        {name.partition(".")[0] for name in sys.modules} | {name for name in sys.modules if name.count(".") == 1},
    )
