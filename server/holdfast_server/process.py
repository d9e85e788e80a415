"""What a child process owes its parent: to say when it is ready, and to vanish with it.

The supervisor passes two pipes by number: `life`, which the child only reads (end of file means that the supervisor is
gone), and `status`, on which it writes one JSON object a line.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import Any

__all__ = [
    "ALLOCATOR",
    "Child",
    "attach",
    "collect_no_garbage_yet",
    "die_with_parent",
    "forbid_core_dumps",
    "keep_what_is_loaded",
    "module_options",
    "raise_file_limit",
    "start_module",
]

_PR_SET_PDEATHSIG = 1

#: Environment of our children. glibc gives blocks of some hundred KiB back to the kernel with every free, and faults
#: them in again with every allocation: a quarter of a million faults in a backup of 1.4 GiB, a second of the
#: processors' time.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(8 << 20), "MALLOC_TRIM_THRESHOLD_": str(32 << 20)}


@dataclass(frozen=True, slots=True)
class Child:
    """The child's end of the two pipes; without a supervisor (`--role` by hand) nothing is sent anywhere."""

    status_fd: int | None

    def report(self, **message: Any) -> None:
        if self.status_fd is not None:
            os.write(self.status_fd, json.dumps(message).encode() + b"\n")


def attach(life_fd: int | None, status_fd: int | None, parent: int | None) -> Child:
    """Tie this process to its supervisor: die with it, by signal where the kernel can, else on end of file."""
    if life_fd is not None:
        die_with_parent(parent)
        threading.Thread(target=_exit_with_parent, args=(life_fd,), name="life-line", daemon=True).start()
    return Child(status_fd)


def collect_no_garbage_yet() -> None:
    """To be called before the modules of a process are imported, and `keep_what_is_loaded` after that: a fifth of the
    time that a start takes is spent on looking through what is no garbage."""
    gc.disable()


def keep_what_is_loaded() -> None:
    """Collect garbage from now on, but never look through what is there already."""
    gc.freeze()
    gc.enable()


def start_module(name: str, fds: dict[str, int], *options: str) -> subprocess.Popen[bytes]:
    """Run a module of ours as a process of its own that helps this one.

    `fds` are passed on, each as an option with its number; beside them stand `options` and `--parent`, for
    `die_with_parent`. `OSError` where it cannot be started.
    """
    numbers = [word for option, fd in fds.items() for word in (f"--{option}", str(fd))]
    return subprocess.Popen(
        [sys.executable, "-m", name, *numbers, "--parent", str(os.getpid()), *options],
        env={**ALLOCATOR, **os.environ},
        pass_fds=tuple(fds.values()),
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in the terminal is ours to handle
    )


def module_options(*names: str) -> argparse.Namespace:
    """The other end of `start_module`: numbers by name. This process dies with its parent and dumps no core."""
    parser = argparse.ArgumentParser()
    for name in (*names, "parent"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    die_with_parent(options.parent)
    forbid_core_dumps()
    return options


def die_with_parent(parent: int | None) -> None:
    """Have the kernel kill this process when the *thread* that started it ends; where it cannot, a pipe has to do."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(1)  # it died before the call above


def raise_file_limit() -> None:
    """Lift the soft limit of open files to the hard one: streams and deep folders need descriptors."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, 65_536)
    if wanted > soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            pass


def forbid_core_dumps() -> None:
    """A crash must not write to disk what this process was given to keep in memory."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _exit_with_parent(life_fd: int) -> None:
    while os.read(life_fd, 1):
        pass
    os._exit(1)
