"""The entries of a source in the tree's order, from a walk here or, once it is worth while, in a process of its own."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from typing import Final

from holdfast_server.core.selection import Selection
from holdfast_server.core.source_process import FoundFile, Position, SourceProcess, SourceProcessDied, entries_after
from holdfast_server.storage.descent import Level
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.storage.tree import TreeEntry, TreeProblem, walk

__all__ = ["SourceEntries"]

_log = logging.getLogger(__name__)

#: So many entries take as long as the start of a process.
_PROCESS_FROM: Final = 1_024


class SourceEntries:
    """One walk over an opened source, for one thread.

    `cache_key` is that of the keys for the files cache; `ignore` are patterns, `skip` folders that are left out.
    `report` is told of problems, `wants_content` is asked whether small files are to be read ahead, `check` is asked
    often and may raise.
    """

    def __init__(
        self,
        source: OpenFolder,
        ignore: Sequence[str],
        skip: Collection[tuple[int, int]],
        cache_key: bytes,
        report: Callable[[TreeProblem], None],
        wants_content: Callable[[], bool],
        check: Callable[[], None],
    ) -> None:
        #: The path of the directory of the entry given last, and itself, open until the next entry.
        self.folder = b""
        self.level: Level
        #: How many entries were ignored; known at the end.
        self.ignored = 0
        self._source = source
        self._ignore = ignore
        self._skip = skip
        self._cache_key = cache_key
        self._report = report
        self._wants_content = wants_content
        self._check = check
        #: What was given last, and that its taker has done with.
        self._position: Position | None = None

    def __iter__(self) -> Generator[TreeEntry | FoundFile, None, None]:
        """The entries; the next one is drawn when the taker has done with the last. `OSError` as of `walk`."""
        with contextlib.ExitStack() as opened:
            process: SourceProcess | None = None
            for count, entry in enumerate(self._walk(), 1):
                yield entry
                self._position = self._place(), entry.name
                if count == _PROCESS_FROM:
                    process = _start(opened)
                if process is not None and _is_ready(process):
                    break
            else:
                return
            try:
                yield from self._from(process)
            except SourceProcessDied:
                _log.warning("the process that reads a source has died; the backup walks on without it")
                yield from self._walk()

    def _place(self) -> bytes:
        return self.folder.replace(b"/", b"\0")

    def _walk(self) -> Iterator[TreeEntry]:
        """What was not given yet."""
        selection = Selection(self._ignore)
        keep, check, skip = selection.keep, self._check, self._skip
        walked = walk(self._source.fd, keep=keep, check=check, skip_identities=skip, by_directory=True)
        parent: Level | None = None
        for item in entries_after(walked, self._position):
            if isinstance(item, TreeProblem):
                self._report(item)
                continue
            if item.parent is not parent:
                parent = self.level = item.parent
                self.folder = item.path[: -len(item.name) - 1]
            yield item
        self.ignored = selection.ignored

    def _from(self, process: SourceProcess) -> Iterator[TreeEntry | FoundFile]:
        after = self._position or (b"", b"")
        groups = process.groups(
            self._source.fd, self._ignore, self._skip, self._cache_key, after,
            self._wants_content, self._report, self._check,
        )  # fmt: skip
        with contextlib.closing(groups):
            for group in groups:
                self.folder, self.level = group.path, group.folder
                yield from group.entries
                last = group.entries[-1]
                self._position = self._place(), last.name if isinstance(last, TreeEntry) else last[0]
        self.ignored = process.ignored


def _start(opened: contextlib.ExitStack) -> SourceProcess | None:
    """The process, where there is a processor for it."""
    if not hasattr(os, "memfd_create") or len(os.sched_getaffinity(0)) < 2:
        return None
    try:
        process = SourceProcess()
    except OSError:
        return None
    opened.callback(process.close)
    return process


def _is_ready(process: SourceProcess) -> bool:
    try:
        return process.is_ready()
    except SourceProcessDied:
        return True  # which shows with the first thing that it is asked for
