"""The programs that `repository` and `growth` compare: Holdfast through its running server, others as whole processes.

All of them encrypt but `cp`, each with its own defaults for it. Whatever a program keeps for itself (caches, keys) lies
beside its store, and is as new as the store.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from bench.processes import Usage, measured
from bench.service import ENDS, Api, Server, clear_peak, peak_memory
from bench.trees import count
from holdfast.v1 import task_pb2

__all__ = ["TOOLS", "Holdfast", "Keeper", "Tool", "present"]

_PASSWORD = "correct horse battery staple"
_REPOSITORY = "bench"
_SOURCE = "source"
_PAGE = 1000
_GOOD = ENDS - {task_pb2.TASK_STATE_FAILED, task_pb2.TASK_STATE_CANCELLED}


class Tool(ABC):
    """A way to copy a folder somewhere safe. While it is `opened` it has one store, `folder / "store"`."""

    #: As it is chosen on the command line.
    name: str

    def __init__(self) -> None:
        self.folder = self.source = Path()

    @property
    @abstractmethod
    def label(self) -> str:
        """As it is shown, with its version."""

    def absence(self) -> str:
        """Why it cannot be measured here, and what to do; empty if it can."""
        return ""

    @contextlib.contextmanager
    def opened(self, folder: Path, source: Path) -> Iterator[None]:
        """With an empty store in a new folder, which may be removed at the end."""
        folder.mkdir(parents=True)
        self.folder, self.source = folder, source
        self._make()
        try:
            yield
        finally:
            self._close()

    @abstractmethod
    def _make(self) -> None: ...

    @abstractmethod
    def backup(self) -> Usage:
        """Back up the source."""

    @abstractmethod
    def restore(self, target: Path) -> Usage:
        """Restore the newest backup into a new folder."""

    def _close(self) -> None:  # noqa: B027 (most tools have nothing to end)
        pass

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def stored(self) -> int:
        """Bytes of the store's files."""
        return count(self.store)[1]


class Keeper(Tool):
    """A tool that keeps many backups in one store, and whose later ones may cost less than the first."""

    @abstractmethod
    def list_backups(self) -> Usage:
        """List all backups."""


class Holdfast(Keeper):
    """From the call to the end of its task. Processor counts the supervisor, the edge and the workers; peak is the
    worker's."""

    name, label = "holdfast", "Holdfast"

    def __init__(self) -> None:
        super().__init__()
        self._server: Server
        self._api: Api
        self._started: contextlib.ExitStack
        self._newest = ""

    def stored(self) -> int:
        """Without what is set aside for a full disk, which is the same for every store."""
        return super().stored() - count(self.store / ".reserve")[1]

    def _make(self) -> None:
        self._server = Server(self.folder / "data")
        with contextlib.ExitStack() as started:
            started.callback(self._server.stop)
            self._server.start()
            self._api = started.enter_context(self._server.api())
            self._api.create_repository(_REPOSITORY, self.store)
            self._api.register(_SOURCE, self.source)
            self._started = started.pop_all()

    def _close(self) -> None:
        self._started.close()

    def backup(self) -> Usage:
        ended, usage = self._task(lambda: self._api.start_snapshot(_SOURCE, _REPOSITORY))
        self._newest = ended.backup_result.backup_ids[0]
        return usage

    def restore(self, target: Path) -> Usage:
        return self._task(lambda: self._api.start_restore(self._newest, target))[1]

    def list_backups(self) -> Usage:
        return self._measured(lambda: self._api.count_backups(_PAGE))

    def describe(self) -> Usage:
        """GetRepository, with its statistics."""
        return self._measured(lambda: self._api.get_repository(_REPOSITORY))

    def _task(self, start: Callable[[], task_pb2.Task]) -> tuple[task_pb2.Task, Usage]:
        ended = task_pb2.Task()
        usage = self._measured(lambda: ended.CopyFrom(self._api.finish(start().task_id)))
        if ended.state not in _GOOD:
            raise RuntimeError(f"the task failed: {ended.message}: {ended.error}")
        return ended, usage

    def _measured(self, work: Callable[[], object]) -> Usage:
        worker = self._server.role("worker")
        clear_peak(worker)
        processor, began = self._processor(), time.monotonic()
        work()
        seconds = time.monotonic() - began
        return Usage(seconds, self._processor() - processor, peak_memory(worker))

    def _processor(self) -> float:
        return sum(sum(process.cpu_times()[:4]) for process in self._server.processes())


class _Program(Tool):
    """A program that is run anew for each piece of work."""

    program: str
    #: How it is got.
    package: str
    title: str
    version_word = "--version"

    def absence(self) -> str:
        return "" if shutil.which(self.program) else f"`{self.program}` is not installed ({self.package})"

    @cached_property
    def label(self) -> str:
        said = subprocess.run([self.program, self.version_word], capture_output=True, text=True, check=True).stdout
        found = re.search(r"\d+\.\d+[.\w]*", said)
        return f"{self.title} {found.group()}" if found else self.title

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(self.folder / "home")}

    def _run(self, *command: str, folder: Path | None = None) -> Usage:
        return measured([self.program, *command], folder or self.source, self._environment())


class Restic(_Program, Keeper):
    """Repository version 2, which compresses; compression is left at `auto`."""

    name = program = title = "restic"
    package = "apt-get install restic"
    version_word = "version"

    def _environment(self) -> dict[str, str]:
        own = {
            "RESTIC_REPOSITORY": str(self.store),
            "RESTIC_PASSWORD": _PASSWORD,
            "RESTIC_CACHE_DIR": str(self.folder / "cache"),
        }
        return super()._environment() | own

    def _make(self) -> None:
        self._run("init", "--repository-version", "2")

    def backup(self) -> Usage:
        return self._run("backup", "--quiet", ".")

    def restore(self, target: Path) -> Usage:
        return self._run("restore", "latest", "--target", str(target))

    def list_backups(self) -> Usage:
        return self._run("snapshots")


class Borg(_Program, Keeper):
    """With `repokey-blake2`, its fastest encryption on most machines, and its most careful files cache."""

    program, title = "borg", "Borg"
    package = "apt-get install borgbackup"

    def __init__(self, compression: str) -> None:
        super().__init__()
        self.name = f"borg-{compression.partition(',')[0]}"
        self._compression = compression
        self._archives = 0

    @cached_property
    def label(self) -> str:
        return f"{super().label}, {self._compression}"

    def _environment(self) -> dict[str, str]:
        own = {
            "BORG_REPO": str(self.store),
            "BORG_PASSPHRASE": _PASSWORD,
            "BORG_BASE_DIR": str(self.folder / "home"),
            "BORG_CACHE_DIR": str(self.folder / "cache"),
            "BORG_SECURITY_DIR": str(self.folder / "security"),
        }
        return super()._environment() | own

    def _make(self) -> None:
        self._archives = 0
        self._run("init", "--encryption", "repokey-blake2")

    def backup(self) -> Usage:
        self._archives += 1
        options = ["--files-cache", "ctime,size,inode", "--compression", self._compression]
        return self._run("create", *options, f"::{self._archives}", ".")

    def restore(self, target: Path) -> Usage:
        target.mkdir()
        return self._run("extract", f"::{self._archives}", folder=target)

    def list_backups(self) -> Usage:
        return self._run("list")


class Rustic(_Program, Keeper):
    """Another program for restic's repositories."""

    name = program = title = "rustic"
    package = "cargo install rustic-rs"

    def _environment(self) -> dict[str, str]:
        own = {
            "RUSTIC_REPOSITORY": str(self.store),
            "RUSTIC_PASSWORD": _PASSWORD,
            "RUSTIC_NO_PROGRESS": "true",
        }
        return super()._environment() | own

    def _make(self) -> None:
        self._run("init")

    def backup(self) -> Usage:
        return self._run("backup", ".")

    def restore(self, target: Path) -> Usage:
        return self._run("restore", "latest", str(target))

    def list_backups(self) -> Usage:
        return self._run("snapshots")


class Copy(_Program):
    """No backup, but what copying alone takes. It does not wait for the disk."""

    name = program = "cp"
    label = "`cp -r`"
    package = "part of every system"

    def _make(self) -> None:
        pass

    def backup(self) -> Usage:
        return self._run("-r", ".", str(self.store))

    def restore(self, target: Path) -> Usage:
        return self._run("-r", str(self.store), str(target))


class SyncedCopy(Copy):
    """The same, until the copy is on the disk, where a backup and what Holdfast restores are when they are done."""

    name = "cp-sync"
    label = "`cp -r`, `sync`"

    def backup(self) -> Usage:
        return self._copy(".", str(self.store))

    def restore(self, target: Path) -> Usage:
        return self._copy(str(self.store), str(target))

    def _copy(self, source: str, target: str) -> Usage:
        command = 'cp -r "$1" "$2" && sync -f "$2"'
        return measured(["sh", "-c", command, "cp", source, target], self.source, self._environment())


#: Every tool, ours first.
TOOLS: Sequence[Callable[[], Tool]] = (
    Holdfast, Restic, lambda: Borg("lz4"), lambda: Borg("zstd,3"), Rustic, Copy, SyncedCopy,
)  # fmt: skip


def present(chosen: Sequence[str] | None) -> tuple[list[Tool], list[str]]:
    """The tools of these names, or all, that can be measured here; and why others cannot."""
    known = [make() for make in TOOLS]
    tools = [tool for tool in known if not chosen or tool.name in chosen]
    absent = [reason for tool in tools if (reason := tool.absence())]
    return [tool for tool in tools if not tool.absence()], list(dict.fromkeys(absent))
