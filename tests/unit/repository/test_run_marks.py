"""Marks of reading runs: a dead process's is told from a living one's, whatever happens when."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from holdfast_server.errors import HoldfastError, Reason, Unavailable
from holdfast_server.repository import ReadingRun, RunKind, end_dead_runs, end_reading_run, run_marks
from holdfast_server.repository.check import CheckLevel, CheckWatch, check_repository
from holdfast_server.repository.run_marks import RunMark
from holdfast_server.repository.runs import list_runs
from holdfast_server.storage.objects import MemoryObjects
from tests.repositories import Backups
from tests.stores import FailingObjects, Fault

NOBODY = "11111111-2222-4333-8444-555555555555"
HOLDER = """
import sys
from holdfast_server.repository.run_marks import RunMark
with RunMark(sys.argv[1].encode()) as mark:
    print(mark.run_id, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def ended_in(folder: Path) -> list[str]:
    ended: list[str] = []
    end_dead_runs(os.fsencode(folder), ended.append)
    return ended


class Holder:
    """Another process with a marked run."""

    def __init__(self, folder: Path) -> None:
        pipe = subprocess.PIPE
        arguments = [sys.executable, "-c", HOLDER, str(folder)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(arguments, stdin=pipe, stdout=pipe, env=environment, text=True)
        assert self.process.stdout is not None
        self.run_id = self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def test_a_run_that_ends_leaves_no_mark(folder: Path) -> None:
    with RunMark(os.fsencode(folder)) as mark:
        assert os.listdir(folder) == [mark.run_id]
        assert folder.stat().st_mode & 0o777 == 0o700
        mark.ended()
    assert os.listdir(folder) == []
    assert ended_in(folder) == []


def test_only_the_runs_of_dead_processes_are_ended(folder: Path) -> None:
    with RunMark(os.fsencode(folder)) as own:
        living, dead = Holder(folder), Holder(folder)
        dead.kill()
        assert ended_in(folder) == [dead.run_id]
        assert sorted(os.listdir(folder)) == sorted([own.run_id, living.run_id])
        living.kill()
        assert ended_in(folder) == [living.run_id]
        assert os.listdir(folder) == [own.run_id]


def test_what_could_not_be_ended_is_ended_next_time(folder: Path) -> None:
    with RunMark(os.fsencode(folder)) as mark:
        """Left without an end."""

    def away(run_id: str) -> None:
        raise Unavailable(Reason.STORAGE_UNREACHABLE, run_id)

    with pytest.raises(Unavailable):
        end_dead_runs(os.fsencode(folder), away)
    assert ended_in(folder) == [mark.run_id]
    assert ended_in(folder) == []


def test_marks_of_a_copied_data_directory_end_nothing(folder: Path, tmp_path: Path) -> None:
    """The run may live where it was copied from."""
    copied = tmp_path / "copy"
    with RunMark(os.fsencode(folder)) as mark:
        shutil.copytree(folder, copied)
        assert os.listdir(copied) == [mark.run_id]
        assert ended_in(copied) == []
        assert os.listdir(copied) == []
        mark.ended()


@pytest.mark.parametrize("content", [b"", b"17\n", b"\xff" * 99])
def test_a_mark_that_is_not_whole_ends_nothing(folder: Path, content: bytes) -> None:
    folder.mkdir()
    (folder / NOBODY).write_bytes(content)
    (folder / "else").write_bytes(b"")
    (folder / NOBODY.replace("1", "2")).symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic"):
        ended_in(folder)
    (folder / NOBODY.replace("1", "2")).unlink()
    assert ended_in(folder) == []
    assert os.listdir(folder) == ["else"]


def test_a_mark_that_is_taken_for_a_dead_ones_before_it_is_locked_is_made_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, swept = run_marks.fcntl.flock, []

    def sweep_first(fd: int, how: int) -> None:
        if not swept:
            swept.append(how)
            monkeypatch.setattr(run_marks.fcntl, "flock", lock)
            assert ended_in(folder) == []
            assert os.listdir(folder) == []
        lock(fd, how)

    monkeypatch.setattr(run_marks.fcntl, "flock", sweep_first)
    with RunMark(os.fsencode(folder)) as mark:
        assert swept
        assert os.listdir(folder) == [mark.run_id]
        assert ended_in(folder) == []


def test_many_runs_and_sweepers_at_once(folder: Path) -> None:
    """No run is ended while it goes on, and no mark stays."""
    wrong: list[str] = []
    living: set[str] = set()
    stop = threading.Event()

    def sweep() -> None:
        while not stop.wait(0.001):
            for run_id in ended_in(folder):
                wrong.extend({run_id} & living)

    def run() -> None:
        for number in range(40):
            with RunMark(os.fsencode(folder)) as mark:
                living.add(mark.run_id)
                os.stat(folder / mark.run_id)
                living.discard(mark.run_id)
                if number % 2:
                    mark.ended()

    threads = [threading.Thread(target=work) for work in (sweep, sweep, run, run, run)]
    for thread in threads:
        thread.start()
    for thread in threads[2:]:
        thread.join()
    stop.set()
    for thread in threads[:2]:
        thread.join()
    assert wrong == []
    ended_in(folder)
    assert os.listdir(folder) == []


def test_a_run_goes_on_where_no_mark_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for folder in (None, os.fsencode(tmp_path / "none" / "runs"), os.fsencode(tmp_path / "file")):
        with RunMark(folder) as mark:
            assert len(mark.run_id) == 36
            mark.ended()


def test_a_reading_run_is_marked_until_its_object_is_gone(tmp_path: Path, folder: Path) -> None:
    backups = Backups(tmp_path / "caches", MemoryObjects())
    repository = backups.opened()
    marks = os.fsencode(folder)
    store = repository.store

    def under_way() -> list[str]:
        return [run.run_id for run in list_runs(store, repository.index_keys)]

    with ReadingRun(repository, RunKind.RESTORE, lambda: None, lambda: 1, marks):
        assert under_way() == os.listdir(folder)
        assert ended_in(folder) == []
    assert (under_way(), os.listdir(folder)) == ([], [])

    def look(_: object = None) -> None:
        assert under_way() == os.listdir(folder) != []

    watch = CheckWatch()
    watch.check = look  # type: ignore[method-assign]
    assert check_repository(store, repository.keys, CheckLevel.STRUCTURE, now=lambda: 1, marks=marks, watch=watch).ok
    assert (under_way(), os.listdir(folder)) == ([], [])


def test_a_run_whose_end_fails_is_ended_by_its_mark(tmp_path: Path, folder: Path) -> None:
    backups = Backups(tmp_path / "caches", MemoryObjects())
    repository = backups.opened()
    inner = repository.store
    run = ReadingRun(repository, RunKind.EXPORT, lambda: None, lambda: 1, os.fsencode(folder))
    run._store = FailingObjects(inner, 1, Fault.EIO)
    with pytest.raises(HoldfastError):
        run.__exit__()
    assert len(list(list_runs(inner, repository.index_keys))) == 1
    assert end_dead_runs(os.fsencode(folder), lambda run_id: end_reading_run(inner, run_id)) == 1
    assert list(list_runs(inner, repository.index_keys)) == []
