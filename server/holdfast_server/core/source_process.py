"""A process that walks a source for a backup and reads its small files.

To list and examine a file of some hundred bytes, to open and read it takes as long as all that a backup does with it
then, and threads cannot share that work: each of its system calls hands the interpreter's lock back and forth. So the
walk runs in a process of its own, and what it found comes through a pipe in the walk's order; what the process does not
read is read by the backup, through the directory's descriptor. Nothing depends on the process: where it dies the backup
walks on from the last entry it was given.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import marshal
import os
import socket
import subprocess
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final

from blake3 import blake3

from holdfast_server.core.reading import file_state, read_unchanged
from holdfast_server.core.selection import Selection
from holdfast_server.process import module_options, start_module
from holdfast_server.storage.descent import Level
from holdfast_server.storage.tree import EntryKind, ProblemReason, TreeEntry, TreeProblem, Xattrs, walk

__all__ = ["FoundFile", "Group", "Position", "SourceProcess", "SourceProcessDied", "entries_after"]

_log = logging.getLogger(__name__)

#: Files up to this size, in bytes, are read by the process: of larger ones the copy through the pipe costs too much.
_READ_MAX: Final = 16 << 10
#: What one message holds at most, but for what is in its last entry: entries, bytes of content, directories.
_ENTRIES: Final = 256
_CONTENT: Final = 256 << 10
_GROUPS: Final = 32
#: Messages that the backup has not taken yet.
_WINDOW: Final = 6
_PIPE: Final = 1 << 20
_F_SETPIPE_SZ: Final = 1031
_LARGEST_ORDER: Final = 1 << 17
_TICK: Final = 0.05
_GRACE_SECONDS: Final = 5.0
_READY: Final = b"ready"
_READ, _LIST = b"r", b"l"

#: Where a walk is: the directory's path with NUL for `/`, and the name. Walks by directory go in the order of these.
Position = tuple[bytes, bytes]

#: A regular file with one name: name, key for the files cache, mode, uid, gid, mtime and ctime in ns, size, whether it
#: has holes; then its content and extended attributes if it was read.
FoundFile = tuple[bytes, bytes, int, int, int, int, int, int, bool, bytes | None, Xattrs]
#: Any other entry: name, kind, target of a link, and the visible part of its status with mtime, ctime and blocks.
_Other = tuple[bytes, str, bytes, tuple[int, ...], int, int, int]


#: Directory's path and number among those that were sent along, and entries of it.
_Group = tuple[bytes, int, list["FoundFile | _Other"]]
#: Path, reason and text of a `TreeProblem`.
_Problem = tuple[bytes, str, str]
#: How many entries were ignored, and number and text of an error that ended the walk.
_End = tuple[int, "tuple[int | None, str] | None"]


@dataclass(slots=True)
class Group:
    """Entries of one directory that follow each other. `folder` is open until the next group is asked for.

    `entries` are in order, files with one name as `FoundFile`, others as `TreeEntry`.
    """

    path: bytes
    folder: Level
    entries: list[FoundFile | TreeEntry]


def entries_after(
    walked: Iterator[TreeEntry | TreeProblem], after: Position | None
) -> Iterator[TreeEntry | TreeProblem]:
    """What a walk by directory yields behind a position; problems that were met before it are left out too."""
    parent, place = None, b""
    for item in walked:
        if after is not None:
            if isinstance(item, TreeProblem):
                continue
            if item.parent is not parent:
                parent, place = item.parent, item.path[: -len(item.name) - 1].replace(b"/", b"\0")
            if (place, item.name) <= after:
                continue
            after = None
        yield item


class SourceProcessDied(Exception):
    """The process has ended before it was done."""


class SourceProcess:
    """The process, seen from the backup. For one thread, which must outlive it and `close` it.

    `OSError` where it cannot be started.
    """

    def __init__(self) -> None:
        #: How many entries were ignored, once all groups were given.
        self.ignored = 0
        self._ready = False
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        receive, send = os.pipe()
        self._answers = Connection(receive, writable=False)
        try:
            with contextlib.suppress(OSError):
                fcntl.fcntl(send, _F_SETPIPE_SZ, _PIPE)
            fds = {"orders": theirs.fileno(), "answers": send}
            self._process: subprocess.Popen[bytes] = start_module(__name__, fds)
        except BaseException:
            self._orders.close()
            self._answers.close()
            raise
        finally:
            theirs.close()
            os.close(send)

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._orders.close()
        self._answers.close()
        self._process.kill()
        try:
            self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            _log.warning("the process %d that reads a source cannot be killed: its storage does not answer", self.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_ready(self) -> bool:
        """Whether it has started. Raises SourceProcessDied."""
        with _or_died():
            if not self._ready and self._answers.poll():
                self._ready = self._answers.recv_bytes() == _READY
        return self._ready

    def groups(
        self,
        root_fd: int,
        ignore: Sequence[str],
        skip: Collection[tuple[int, int]],
        cache_key: bytes,
        after: Position,
        wants_content: Callable[[], bool],
        report: Callable[[TreeProblem], None],
        check: Callable[[], None],
    ) -> Generator[Group, None, None]:
        """All entries behind a position, `report`ing problems; to be called once.

        `cache_key` is that of the keys for the files cache. `wants_content` is asked now and then whether reading ahead
        is worth while. `check` is asked in every wait. Raises what it raises, SourceProcessDied, and
        `OSError` as `walk` does.
        """
        self._begin(root_fd, marshal.dumps((list(ignore), list(skip), cache_key, after, wants_content())))
        while True:
            groups, problems, folders, end = self._receive(check)
            try:
                for path, reason, text in problems:
                    report(TreeProblem(path, ProblemReason(reason), text))
                for path, number, entries in groups:
                    yield Group(path, folders[number], [_entry(path, folders[number], one) for one in entries])
            finally:
                for folder in folders:
                    folder.close()
            if end is not None:
                self.ignored, error = end
                if error is not None:
                    raise OSError(*error)
                return
            with contextlib.suppress(ConnectionError):  # that it has died shows when it is listened to; or it is done
                self._orders.send(_READ if wants_content() else _LIST)

    def _begin(self, root_fd: int, content: bytes) -> None:
        order = os.memfd_create("order")  # no message of a socket is sure to hold it
        try:
            os.write(order, content)
            with _or_died():
                socket.send_fds(self._orders, [b"o"], [root_fd, order])
        finally:
            os.close(order)

    def _receive(self, check: Callable[[], None]) -> tuple[list[_Group], list[_Problem], list[Level], _End | None]:
        """The next message with the directories that it names by number, which the caller closes."""
        with _or_died():
            while not self._answers.poll(_TICK):
                check()
            groups, problems, count, end = marshal.loads(self._answers.recv_bytes())  # noqa: S302  from our own process
            fds = socket.recv_fds(self._orders, 1, _GROUPS)[1] if count else []
            folders = [Level(fd, b"", os.fstat(fd)) for fd in fds]
            if len(folders) != count:
                raise EOFError
        return groups, problems, folders, end


@contextlib.contextmanager
def _or_died() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise SourceProcessDied from error


def _entry(path: bytes, folder: Level, found: FoundFile | _Other) -> FoundFile | TreeEntry:
    if len(found) != 7:
        return found
    name, kind, target, visible, mtime_ns, ctime_ns, blocks = found
    status = os.stat_result(visible, {"st_mtime_ns": mtime_ns, "st_ctime_ns": ctime_ns, "st_blocks": blocks})
    return TreeEntry(path + b"/" + name if path else name, name, EntryKind(kind), status, target, folder)


class _Sender:
    """The process' own side: gathers what the walk yields and sends it, a window of messages ahead."""

    def __init__(self, orders: socket.socket, answers: Connection, cache_key: bytes, *, reading: bool) -> None:
        self._orders = orders
        self._answers = answers
        self._cache_key = cache_key
        self._reading = reading
        self._sent = 0
        self._parent: Level | None = None
        self._entries: list[FoundFile | _Other] = []
        self._groups: list[_Group] = []
        self._folders: list[int] = []
        self._problems: list[_Problem] = []
        self._count = self._size = 0

    def add(self, item: TreeEntry | TreeProblem) -> None:
        if isinstance(item, TreeProblem):
            self._problems.append((item.path, item.reason.value, item.message))
            return
        if item.parent is not self._parent:
            if len(self._groups) == _GROUPS:
                self.flush()
            self._parent, self._entries = item.parent, []
            self._groups.append((item.path[: -len(item.name) - 1], len(self._folders), self._entries))
            self._folders.append(os.dup(item.parent.fd))
        status = item.stat
        if item.kind is EntryKind.FILE and status.st_nlink == 1:
            self._entries.append(self._file(item))
        else:
            visible = tuple(map(int, status))
            times = status.st_mtime_ns, status.st_ctime_ns, status.st_blocks
            self._entries.append((item.name, item.kind.value, item.link_target, visible, *times))
        self._count += 1
        if self._count >= _ENTRIES or self._size >= _CONTENT:
            self.flush()

    def _file(self, entry: TreeEntry) -> FoundFile:
        status = entry.stat
        size, state = status.st_size, file_state(status)
        content: bytes | None = None
        xattrs: Xattrs = ()
        if self._reading and size <= _READ_MAX:
            read = read_unchanged(entry.parent.fd, entry.name, state)
            if read is not None:
                content, xattrs = read
                self._size += size
        return (
            entry.name, blake3(entry.path + state, key=self._cache_key).digest(16), status.st_mode & 0o7777,
            status.st_uid, status.st_gid, status.st_mtime_ns, status.st_ctime_ns, size, status.st_blocks * 512 < size,
            content, xattrs,
        )  # fmt: skip

    def flush(self, end: _End | None = None) -> None:
        """Send what was gathered. Raises EOFError when nobody takes it any more."""
        self._attend()
        if self._folders:
            socket.send_fds(self._orders, [b"f"], self._folders)
        message = (self._groups, self._problems, len(self._folders), end)
        self._answers.send_bytes(marshal.dumps(message))
        self._sent += 1
        for folder in self._folders:
            os.close(folder)
        self._groups, self._folders, self._problems = [], [], []
        self._parent = None
        self._count = self._size = 0

    def _attend(self) -> None:
        """Take what the backup says of the messages it has taken; wait while it has too many before it."""
        while True:
            try:
                said = self._orders.recv(1, 0 if self._sent >= _WINDOW else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            if not said:
                raise EOFError
            self._sent -= 1
            self._reading = said == _READ


def _serve(orders: socket.socket, answers: Connection) -> None:
    answers.send_bytes(_READY)
    begun, fds, _, _ = socket.recv_fds(orders, 1, 2)
    if not begun:
        return
    root, order = fds
    with open(order, "rb") as file:
        file.seek(0)
        ignore, skip, cache_key, after, reading = marshal.loads(file.read())  # noqa: S302  from the backup
    selection = Selection(ignore)
    sender = _Sender(orders, answers, cache_key, reading=reading)
    error = None
    try:
        walked = walk(root, keep=selection.keep, check=_never, skip_identities=frozenset(skip), by_directory=True)
        for item in entries_after(walked, after):
            sender.add(item)
    except ConnectionError:
        return
    except OSError as failure:
        error = failure.errno, failure.strerror or str(failure)
    sender.flush((selection.ignored, error))
    # Whatever is unread here when this end closes would take with it what is unread there.
    while orders.recv(1):
        pass


def _never() -> None:
    """The backup ends this process when it is not wanted any more."""


def _main() -> None:
    options = module_options("orders", "answers")
    with contextlib.suppress(EOFError, ConnectionError):
        _serve(socket.socket(fileno=options.orders), Connection(options.answers, readable=False))
    os._exit(0)


if __name__ == "__main__":
    _main()
