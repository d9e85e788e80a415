"""Space kept for a full disk: made as far as there is room, given back, and not taken again from who uses it."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from holdfast_server.errors import ResourceExhausted
from holdfast_server.storage.local import free_bytes
from holdfast_server.storage.objects import LocalObjects
from holdfast_server.storage.reserve import Reserve
from tests.stores import FailingCalls

from .conftest import Mounter, Opener

SHARE = 64 << 10


@pytest.fixture
def disk(tmp_path: Path, mount: Mounter) -> Path:
    path = tmp_path / "disk"
    path.mkdir()
    mount("-t", "tmpfs", "-o", "size=4m,nr_inodes=100", "tmpfs", path)
    return path


def made_of(folder: Path, files: int = 4) -> Reserve:
    return Reserve(os.fsencode(folder / "reserve"), files, SHARE)


def on_disk(folder: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in (folder / "reserve").iterdir())


def fill(folder: Path, leave: int = 0) -> None:
    fd = os.open(folder / "ballast", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    size = os.fstat(fd).st_size + free_bytes(fd) - leave
    os.posix_fallocate(fd, 0, size)
    os.close(fd)


def test_what_is_kept_is_taken_from_the_disk_and_given_back(disk: Path, opened: Opener) -> None:
    reserve, before = made_of(disk), free_bytes(opened(disk))
    assert reserve.keep()
    assert reserve.size == 4 * SHARE == on_disk(disk) == before - free_bytes(opened(disk))
    assert {stat.S_IMODE(file.stat().st_mode) for file in (disk / "reserve").iterdir()} == {0o600}
    assert stat.S_IMODE((disk / "reserve").stat().st_mode) == 0o700
    assert reserve.keep()  # once
    assert on_disk(disk) == 4 * SHARE
    assert reserve.release(1) == SHARE
    assert free_bytes(opened(disk)) == before - 3 * SHARE
    assert reserve.release() == 3 * SHARE
    assert reserve.release() == 0
    assert free_bytes(opened(disk)) == before


def test_only_as_much_is_kept_as_there_is_room_for(disk: Path, opened: Opener) -> None:
    reserve = made_of(disk)
    fill(disk, leave=3 * SHARE)
    assert not reserve.keep()
    assert on_disk(disk) == 2 * SHARE
    assert free_bytes(opened(disk)) == SHARE  # others have their share, too
    assert reserve.is_short(SHARE + 1)
    assert not reserve.is_short(SHARE)
    assert not reserve.is_full()
    fill(disk)
    assert reserve.is_full()
    (disk / "ballast").unlink()
    assert reserve.keep()
    assert on_disk(disk) == 4 * SHARE


def test_a_small_file_system_keeps_an_eighth(disk: Path) -> None:
    reserve = made_of(disk, files=100)
    assert reserve.keep()
    assert reserve.size == on_disk(disk) == 512 << 10


def test_a_reserve_half_made_is_finished(disk: Path) -> None:
    reserve = made_of(disk)
    assert reserve.keep()
    os.truncate(disk / "reserve" / "002", 100)
    (disk / "reserve" / "001").unlink()
    assert reserve.keep()
    assert on_disk(disk) == 4 * SHARE


def test_nobody_makes_again_what_is_in_use(disk: Path) -> None:
    reserve, other = made_of(disk), made_of(disk)
    assert reserve.keep()
    with reserve.in_use(), reserve.in_use():
        assert reserve.release()
        assert not other.keep()
        assert not reserve.keep()
        assert on_disk(disk) == 0
    assert other.keep()


def test_inodes_count(disk: Path) -> None:
    reserve = made_of(disk)
    assert reserve.keep()
    with pytest.raises(OSError, match="No space left"):  # noqa: PT012  which of them fails is not known
        for number in range(200):
            (disk / str(number)).touch()
    assert reserve.is_short(0)
    assert reserve.is_full()
    assert reserve.release(1)
    assert not reserve.is_short(0)
    (disk / "one more").touch()


@pytest.mark.parametrize("problem", ["lacking", "refused", "pretended"])
def test_a_file_system_that_does_not_allocate_is_written_to(
    problem: str, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_fd: int, _offset: int, _size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def pretend(fd: int, _offset: int, size: int) -> None:
        os.ftruncate(fd, size)

    if problem == "lacking":
        monkeypatch.delattr(os, "posix_fallocate")
    else:
        monkeypatch.setattr(os, "posix_fallocate", refuse if problem == "refused" else pretend)
    assert made_of(disk).keep()
    assert on_disk(disk) == 4 * SHARE
    content = b"".join(file.read_bytes() for file in (disk / "reserve").iterdir())
    assert content.count(0) < len(content) // 64  # zeros would be compressed to nothing


def test_no_reserve_where_none_can_be(tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "reserve", tmp_path / "file"):
        (tmp_path / "file").touch()
        reserve = Reserve(os.fsencode(path), 4, SHARE)
        assert not reserve.keep()
        assert reserve.release() == 0
        with reserve.in_use():
            pass
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert not Reserve(os.fsencode(tmp_path / "link"), 4, SHARE).keep()
    assert not list((tmp_path / "elsewhere").iterdir())


def require_full(store: LocalObjects) -> None:
    with pytest.raises(ResourceExhausted):
        store.put("runs/more", [b"x"])


def test_a_store_uses_its_reserve_to_make_room_alone(tmp_path: Path, mount: Mounter, opened: Opener) -> None:
    mount("-t", "tmpfs", "-o", "size=32m", "tmpfs", tmp_path)
    with LocalObjects(opened(tmp_path)) as store:
        store.put("packs/a", [os.urandom(100_000)])
        store.keep_reserve()
        assert sum(file.stat().st_blocks * 512 for file in (tmp_path / ".reserve").iterdir()) == 4 << 20
        assert [info.name for info in store.list("")] == ["packs/a"]
        store.clean(0)
        fill(tmp_path)
        require_full(store)
        with pytest.raises(KeyError), store.use_reserve():  # noqa: PT012  what is done before it fails counts
            store.put("log/aa/1", [b"a fact"])
            assert not list((tmp_path / ".reserve").iterdir())
            store.put("packs/b", [bytes(3 << 20)])
            store.delete("packs/b")
            assert store.create_if_absent("snapshots/c", b"d")
            store.delete("packs/a")
            raise KeyError  # kept again all the same
        kept = sum(file.stat().st_blocks * 512 for file in (tmp_path / ".reserve").iterdir())
        assert kept == 2 << 20  # what was written since then has its place in the rest
        (tmp_path / "ballast").unlink()
        store.put("packs/c", [b"x"])
        store.keep_reserve()
        assert len(list((tmp_path / ".reserve").iterdir())) == 2
        assert store.get("log/aa/1") == b"a fact"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["open", "writev", "fsync", "rename"])
def test_a_quota_is_a_full_disk(call: str, code: int, tmp_path: Path, opened: Opener) -> None:
    with LocalObjects(opened(tmp_path)) as store:
        store.put("runs/a", [b"old"])
        store.keep_reserve()
        whole = len(list((tmp_path / ".reserve").iterdir()))
        names = ("renameat2",) if call == "rename" else (call,)
        with store.use_reserve():
            with FailingCalls(1, code, names) as failing:
                store.put("runs/b", [b"new"])
            assert failing.fired
            assert not list((tmp_path / ".reserve").iterdir())
        assert (store.get("runs/a"), store.get("runs/b")) == (b"old", b"new")
        assert len(list((tmp_path / ".reserve").iterdir())) == whole
        with FailingCalls(1, code, names), pytest.raises(ResourceExhausted):
            store.put("runs/c", [b"new"])
        assert len(list((tmp_path / ".reserve").iterdir())) == whole


def test_a_lasting_shortage_is_told(tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalObjects(opened(tmp_path)) as store:
        store.keep_reserve()

        def refuse(*_: object) -> int:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

        with store.use_reserve(), monkeypatch.context() as patch:
            patch.setattr(os, "writev", refuse)
            with pytest.raises(ResourceExhausted):
                store.put("runs/a", [b"x"])
        assert not list(store.list(""))


@pytest.mark.parametrize("wait", [False, True])
def test_many_make_it_at_once(disk: Path, wait: bool) -> None:
    reserve = made_of(disk)
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(reserve.keep(wait=wait))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any(results)
    assert all(results) or not wait
    assert on_disk(disk) == 4 * SHARE
    with ThreadPoolExecutor(8) as executor:  # nobody is in the way of anybody once it is there
        assert all(executor.map(lambda _: reserve.keep(), range(200)))


def test_a_file_system_without_locks(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_fd: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    reserve = made_of(disk)
    assert reserve.keep()
    with reserve.in_use():
        assert reserve.release() == 4 * SHARE
