"""Objects in a folder when system calls fail one after the other, and when the process that stores them is killed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.storage.objects import LocalObjects, ObjectMissing
from tests.stores import FailingCalls

REASONS = {
    errno.ENOSPC: Reason.DISK_FULL,
    errno.EIO: Reason.STORAGE_UNREACHABLE,
    errno.EACCES: Reason.FOLDER_NOT_WRITABLE,
}
OLD = {"config": b"the configuration", "packs/old": b"an old pack", "runs/run": b"a run"}

Call = Callable[[LocalObjects], object]
#: What is done, and what the named object holds before and after it.
CALLS: dict[str, tuple[Call, str, bytes | None, bytes | None]] = {
    "put": (lambda store: store.put("packs/new", [b"new", b"", b" pack"]), "packs/new", None, b"new pack"),
    "put into a new folder": (lambda store: store.put("index/new", [b"index"]), "index/new", None, b"index"),
    "put over": (lambda store: store.put("runs/run", [b"later"]), "runs/run", b"a run", b"later"),
    "create": (lambda store: store.create_if_absent("runs/new", b"new"), "runs/new", None, b"new"),
    "create in a new folder": (lambda store: store.create_if_absent("log/a/1", b"first"), "log/a/1", None, b"first"),
    "create over": (lambda store: store.create_if_absent("runs/run", b"later"), "runs/run", b"a run", b"a run"),
    "get": (lambda store: store.get("packs/old"), "packs/old", b"an old pack", b"an old pack"),
    "list": (lambda store: [*store.list("")], "packs/old", b"an old pack", b"an old pack"),
    "delete": (lambda store: store.delete("packs/old"), "packs/old", b"an old pack", None),
}


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """A temporary folder in memory where that is possible: hundreds of syncs take seconds on a busy disk."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as path:
        yield Path(path)


@contextlib.contextmanager
def stored(folder: Path) -> Iterator[LocalObjects]:
    fd = os.open(folder, os.O_RDONLY)
    try:
        with LocalObjects(fd, str(folder)) as store:
            yield store
    finally:
        os.close(fd)


def contents(store: LocalObjects) -> dict[str, bytes]:
    return {info.name: store.get(info.name) for info in store.list("")}


def content(store: LocalObjects, name: str) -> bytes | None:
    try:
        return store.get(name)
    except ObjectMissing:
        return None


def failure(work: Callable[[], object]) -> HoldfastError | None:
    try:
        work()
    except HoldfastError as error:
        return error
    return None


def others(store: LocalObjects, name: str) -> dict[str, bytes]:
    return {key: value for key, value in contents(store).items() if key != name}


@pytest.mark.parametrize("code", REASONS, ids=errno.errorcode.get)
@pytest.mark.parametrize("no_renameat2", [False, True], ids=["renameat2", "link"])
@pytest.mark.parametrize("name", CALLS)
def test_each_system_call_fails_once(quick: Path, name: str, code: int, no_renameat2: bool) -> None:
    call, changed, before, after = CALLS[name]
    befallen = []
    for fail_at in range(1, 40):
        folder = quick / str(fail_at)
        folder.mkdir()
        with stored(folder) as store:
            for old, data in OLD.items():
                store.put(old, [data])
        with stored(folder) as store:  # one that has opened nothing yet
            with FailingCalls(fail_at, code, no_renameat2=no_renameat2) as calls:
                error = failure(lambda: call(store))
            assert bool(calls.fired) is (len(calls.calls) >= fail_at)
            unchanged = {key: data for key, data in OLD.items() if key != changed}
            assert others(store, changed) == unchanged
            if error is None:
                # A failed removal of what has its other name already harms nothing: `clean` sees to it.
                assert calls.fired in ("", "unlink")
                assert content(store, changed) == after
            else:
                assert error.reason is REASONS[code]
                assert str(folder) in error.message
                # Only the sync after an object was replaced comes too late to take the new one back.
                late = name == "put over" and calls.fired == "fsync" and calls.calls.count("fsync") == 4
                assert content(store, changed) == (after if late else before)
                call(store)  # and again, in the same process
                assert content(store, changed) == after
            store.clean(0)
            assert not list((folder / ".tmp").iterdir())
        if not calls.fired:
            break
        befallen.append(calls.fired)
    assert befallen == calls.calls  # each failed in its turn, and then none
    assert len(befallen) >= (1 if name in ("get", "list", "delete") else 8)


@pytest.mark.parametrize("name", [name for name in CALLS if name.startswith(("put", "create"))])
def test_short_writes_are_continued(quick: Path, name: str) -> None:
    call, changed, _, after = CALLS[name]
    with stored(quick) as store:
        for old, data in OLD.items():
            store.put(old, [data])
        with FailingCalls(1, 0, ["writev"]) as calls:
            call(store)
        assert calls.fired == "writev"
        assert len(calls.calls) == 2
        assert content(store, changed) == after


def test_an_object_is_synced_before_it_has_its_name_and_the_folder_after(tmp_path: Path) -> None:
    with stored(tmp_path) as store:
        store.put("packs/a", [b"x"])
        with FailingCalls(0, errno.EIO) as calls:
            store.put("packs/b", [b"x"])
            store.create_if_absent("packs/c", b"x")
            store.put("packs/b", [b"y"])
            store.create_if_absent("packs/c", b"x")
    begin = ["open", "writev", "fsync", "renameat2"]
    assert calls.calls == [
        *[*begin, "fsync", "unlink"] * 2,
        *[*begin, "rename", "fsync", "unlink"],
        *[*begin, "fsync", "unlink"],  # who is told that it exists may rely on it, too
    ]


def test_a_folder_whose_sync_failed_is_made_again(quick: Path) -> None:
    with stored(quick) as store:
        store.put("packs/a", [b""])
        for name in ("index/a", "log/a/1"):
            with FailingCalls(2, errno.EIO, ["mkdir", "fsync"]) as calls:
                assert failure(lambda: store.put(name, [b""])) is not None  # noqa: B023
            assert calls.calls == ["mkdir", "fsync"]
            # It was never told to be durable, so it must not be found and taken for that.
            assert not (quick / name.partition("/")[0]).exists()
            with FailingCalls(0, errno.EIO, ["mkdir", "fsync"]) as calls:
                store.put(name, [b""])
            assert calls.calls[:2] == ["mkdir", "fsync"]


WRITER = """
import hashlib, os, sys
from holdfast_server.storage.objects import LocalObjects
store = LocalObjects(os.open(sys.argv[1], os.O_RDONLY))
turn = 0
while True:
    data = os.urandom(200_000) * (1 + turn % 4)
    name = "packs/" + hashlib.sha256(data).hexdigest()
    store.put(name, [data[:1000], data[1000:]])
    print(name, flush=True)
    own = b"%d." % turn * 1000
    store.put("runs/run", [own])
    print("runs/run", turn, flush=True)
    created = store.create_if_absent(f"snapshots/{turn}", own)
    print(f"snapshots/{turn}", created, flush=True)
    turn += 1
"""


@pytest.mark.parametrize("seed", [1, 2, 3, *[pytest.param(seed, marks=pytest.mark.soak) for seed in range(4, 60)]])
def test_a_killed_process_leaves_whole_objects(tmp_path: Path, seed: int) -> None:
    wait = random.Random(seed).uniform(0.02, 0.3)
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = [process.stdout.readline()]
    time.sleep(wait)
    process.send_signal(signal.SIGKILL)
    said += process.stdout.readlines()
    assert process.wait(timeout=30) == -signal.SIGKILL
    process.stdout.close()
    lines = [line.split() for line in said if line.endswith("\n")]
    with stored(tmp_path) as store:
        found = contents(store)
        assert {line[0] for line in lines} <= set(found)
        for name, data in found.items():
            folder, _, last = name.partition("/")
            if folder == "packs":
                assert hashlib.sha256(data).hexdigest() == last
            elif folder == "snapshots":
                assert data == b"%s." % last.encode() * 1000
            else:
                turn = int(data.partition(b".")[0])
                assert data == b"%d." % turn * 1000
                assert turn >= max([int(line[1]) for line in lines if line[0] == name], default=0)
        assert store.clean(0) <= 1
        assert not list((tmp_path / ".tmp").iterdir())
        assert contents(store) == found
