"""The entries of a source through the process that walks it: the same as of a walk here, whatever happens to it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast_server.core import source_entries
from holdfast_server.core.reading import file_state
from holdfast_server.core.source_entries import SourceEntries
from holdfast_server.core.source_process import Position, SourceProcess, entries_after
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.storage.tree import TreeEntry, TreeProblem, walk
from tests.harness import PATIENCE
from tests.snapshots import walk_elsewhere

CACHE_KEY = bytes(range(32))
Found = tuple[bytes, str, int]


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> list[SourceProcess]:
    """The process is started with the first entry, and waited for; those that were."""
    return walk_elsewhere(monkeypatch)


class Reading:
    """One walk over a folder, and what is told of it."""

    def __init__(self, root: Path, *, ignore: tuple[str, ...] = (), content: bool = True) -> None:
        self.problems: list[TreeProblem] = []
        self.checks = 0
        self.check: Callable[[], None] = lambda: None
        source = OpenFolder(os.open(root, os.O_RDONLY), os.fsencode(root))
        self.entries = SourceEntries(
            source, ignore, frozenset(), CACHE_KEY, self.problems.append, lambda: content, lambda: self.check()
        )

    def __iter__(self) -> Iterator[Found]:
        """Path, kind and mode of each entry; what came from the process is compared with the disk."""
        for entry in self.entries:
            if isinstance(entry, TreeEntry):
                yield entry.path, entry.kind.value, entry.mode & 0o7777
                continue
            path = self.path(entry[0])
            self._compare(entry, os.stat(entry[0], dir_fd=self.entries.level.fd))
            yield path, "file", entry[2]

    def path(self, name: bytes) -> bytes:
        return self.entries.folder + b"/" + name if self.entries.folder else name

    def _compare(self, entry: source_entries.FoundFile, status: os.stat_result) -> None:
        name, key, mode, uid, gid, mtime_ns, ctime_ns, size, sparse, content, xattrs = entry
        assert key == blake3(self.path(name) + file_state(status), key=CACHE_KEY).digest(16)
        assert (mode, uid, gid) == (status.st_mode & 0o7777, status.st_uid, status.st_gid)
        assert (mtime_ns, ctime_ns, size) == (status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        assert sparse == (size > status.st_blocks * 512)
        if content is not None:
            fd = os.open(name, os.O_RDONLY, dir_fd=self.entries.level.fd)
            with open(fd, "rb") as file:
                assert file.read() == content
                assert dict(xattrs) == {os.fsencode(one): os.getxattr(fd, one) for one in os.listxattr(fd)}


def walked(root: Path, ignore: tuple[str, ...] = ()) -> list[Found]:
    """The same by a walk alone."""
    selection = source_entries.Selection(ignore)
    fd = os.open(root, os.O_RDONLY)
    try:
        items = list(walk(fd, keep=selection.keep, check=lambda: None, by_directory=True))
    finally:
        os.close(fd)
    return [(one.path, one.kind.value, one.mode & 0o7777) for one in items if isinstance(one, TreeEntry)]


def make(root: Path, folders: int, files: int) -> Path:
    for folder in range(folders):
        inner = root / f"d{folder:03}" / "inner"
        inner.mkdir(parents=True)
        for number in range(files):
            (inner.parent / f"f{number:03}").write_bytes(os.urandom(number * 37))
            (inner / f"g{number}").write_bytes(b"")
        (inner / "link").symlink_to("../f000")
    return root


def test_all_kinds_of_entries_come_through_the_process(tmp_path: Path, early: list[SourceProcess]) -> None:
    root = make(tmp_path / "source", 3, 5)
    (root / "a large one").write_bytes(os.urandom(40_000))
    os.link(root / "a large one", root / "d001" / "its other name")
    (root / "holes").touch()
    os.truncate(root / "holes", 16_000)
    (root / b"not \xff utf-8".decode(errors="surrogateescape")).write_bytes(b"x")
    (root / "d000" / "f001").chmod(0o6741)
    os.setxattr(root / "d000" / "f002", "user.colour", b"blue")
    os.mkfifo(root / "fifo")
    reading = Reading(root)
    assert list(reading) == walked(root)
    assert [problem.path for problem in reading.problems] == [b"fifo"]
    assert len(early) == 1


def test_what_was_ignored_counts_once(tmp_path: Path, early: list[SourceProcess]) -> None:
    root = make(tmp_path / "source", 4, 3)
    reading = Reading(root, ignore=("inner/", "f001"))
    assert list(reading) == walked(root, ("inner/", "f001"))
    assert reading.entries.ignored == 8
    assert early


def test_nothing_is_read_ahead_that_is_not_wanted(tmp_path: Path, early: list[SourceProcess]) -> None:
    root = make(tmp_path / "source", 2, 4)
    entries = [one for one in Reading(root, content=False).entries if not isinstance(one, TreeEntry)]
    assert entries
    assert all(one[9] is None for one in entries)
    assert early


def test_more_folders_and_entries_than_a_window_of_messages_holds(tmp_path: Path, early: list[SourceProcess]) -> None:
    root = make(tmp_path / "source", 400, 1)
    (root / "many").mkdir()
    for number in range(1500):
        (root / "many" / f"{number}").write_bytes(b"content")
    before = len(os.listdir("/proc/self/fd"))
    assert list(Reading(root)) == walked(root)
    assert early
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # the source


@pytest.mark.parametrize("at", [2, 700, 1500])
def test_a_killed_process_costs_no_entry_and_none_comes_twice(
    tmp_path: Path, early: list[SourceProcess], at: int, caplog: pytest.LogCaptureFixture
) -> None:
    root = make(tmp_path / "source", 60, 30)
    reading, found = Reading(root), []
    for entry in reading:
        found.append(entry)
        if len(found) == at:
            os.kill(early[0].pid, signal.SIGKILL)
            early[0]._process.wait(PATIENCE)
    assert "has died" in caplog.text
    assert found == walked(root)


def test_a_process_that_dies_before_it_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path / "source", 3, 3)
    monkeypatch.setattr(source_entries, "_PROCESS_FROM", 1)
    monkeypatch.setattr("holdfast_server.core.source_process.__name__", "holdfast_server.no_such_module")
    assert list(Reading(root)) == walked(root)


def test_a_process_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path / "source", 3, 3)
    monkeypatch.setattr(source_entries, "_PROCESS_FROM", 1)
    monkeypatch.setattr("sys.executable", "/no/such/program")
    assert list(Reading(root)) == walked(root)


def test_a_check_that_raises_ends_the_process(tmp_path: Path, early: list[SourceProcess]) -> None:
    root = make(tmp_path / "source", 60, 20)
    reading = Reading(root)

    def stop() -> None:
        raise KeyboardInterrupt

    found = iter(reading)
    for _ in range(3):
        next(found)
    os.kill(early[0].pid, signal.SIGSTOP)  # nothing comes any more, so the check is asked
    reading.check = stop
    with pytest.raises(KeyboardInterrupt):
        list(found)
    assert early[0]._process.returncode == -signal.SIGKILL


def test_files_that_change_after_they_were_listed(tmp_path: Path, early: list[SourceProcess]) -> None:
    """They come without content, or with the state that the content had."""
    root = make(tmp_path / "source", 2, 400)
    for number, entry in enumerate(Reading(root).entries):
        if number == 3:
            for path in (root / "d001").glob("f*"):
                path.write_bytes(b"something else, and longer than it was")
        if not isinstance(entry, TreeEntry) and entry[9] is not None:
            assert len(entry[9]) == entry[7]
    assert early


NAMES = st.sampled_from([b"a", b"a-", b"a.b", b"a0", b"b", b"\x01", b"\xff", b"zz"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sets(st.lists(NAMES, min_size=1, max_size=4).map(tuple), max_size=12), st.data())
def test_a_walk_goes_on_behind_any_position(
    tmp_path_factory: pytest.TempPathFactory, paths: set[tuple[bytes, ...]], data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("source")
    for path in paths:
        folder = os.path.join(os.fsencode(root), *path[:-1])
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            os.makedirs(folder, exist_ok=True)
            os.close(os.open(os.path.join(folder, path[-1]), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    every = walked(root)
    for number, (path, _, _) in enumerate(every):
        folder, _, name = path.rpartition(b"/")
        after: Position = folder.replace(b"/", b"\0"), name
        fd = os.open(root, os.O_RDONLY)
        rest = entries_after(walk(fd, keep=lambda _, __: True, check=lambda: None, by_directory=True), after)
        assert [one.path for one in rest] == [one for one, _, _ in every[number + 1 :]]
        os.close(fd)


def test_the_process_stays_until_all_it_sent_was_taken(tmp_path: Path, early: list[SourceProcess]) -> None:
    """The kernel drops what lies in a socket whose other end closes with something unread."""
    root = make(tmp_path / "source", 12, 20)
    expected = walked(root)
    for number, entry in enumerate(Reading(root)):
        assert entry == expected[number]
        if number == len(expected) - 1:
            time.sleep(0.2)
            assert early[0]._process.poll() is None
