from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_server.core.control import Control
from holdfast_server.core.wallet_folder import LOCK_FILE, WalletFolder, free_names
from holdfast_server.errors import Aborted, Cancelled, Reason
from holdfast_server.storage.folder import OpenFolder
from holdfast_server.wallets.layout import RESERVED_FOLDER

HOLDER = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(fd, int(sys.argv[2]))
print("held", flush=True)
sys.stdin.readline()
"""
SHARED, EXCLUSIVE = 1, 2


class NoPatience(Control):
    """Time passes at once."""

    def wait(self, seconds: float) -> None:
        self.check()


@pytest.fixture
def wallet(tmp_path) -> Iterator[WalletFolder]:
    with OpenFolder(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY), os.fsencode(tmp_path)) as root:
        yield WalletFolder(root)


@pytest.fixture
def lock_file(wallet, tmp_path):
    with wallet.lock(Control(), exclusive=True):
        pass
    return tmp_path / RESERVED_FOLDER / os.fsdecode(LOCK_FILE)


@contextmanager
def held(path, mode: int) -> Iterator[subprocess.Popen]:
    """Another process that has the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), str(mode)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_an_exclusive_lock_is_made_with_its_folder(wallet, tmp_path, lock_file):
    assert lock_file.stat().st_mode & 0o777 == 0o600
    assert lock_file.parent.stat().st_mode & 0o777 == 0o700


def test_a_shared_lock_leaves_a_wallet_as_it_is(wallet, tmp_path):
    with wallet.lock(Control(), exclusive=False):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("theirs", "ours"), [(EXCLUSIVE, True), (EXCLUSIVE, False), (SHARED, True)])
def test_another_process_is_waited_for_and_then_named(wallet, lock_file, theirs, ours):
    with held(lock_file, theirs), pytest.raises(Aborted) as caught, wallet.lock(NoPatience(), exclusive=ours):
        pass
    assert caught.value.reason is Reason.SOURCE_BUSY
    assert str(lock_file.parent.parent) in caught.value.message


def test_two_processes_may_share(wallet, lock_file):
    with held(lock_file, SHARED), wallet.lock(NoPatience(), exclusive=False):
        pass


def test_a_killed_process_holds_nothing(wallet, lock_file):
    with held(lock_file, EXCLUSIVE) as process:
        process.kill()
        process.wait()
        with wallet.lock(NoPatience(), exclusive=True):
            pass


def test_a_process_that_lets_go_is_outwaited(wallet, lock_file):
    with held(lock_file, EXCLUSIVE) as process:
        timer = threading.Timer(0.2, process.kill)
        timer.start()
        with wallet.lock(Control(), exclusive=True):
            assert process.wait() != 0
        timer.join()


def test_who_waits_can_be_cancelled(wallet, lock_file):
    control = Control()
    with held(lock_file, EXCLUSIVE):
        timer = threading.Timer(0.2, control.cancel)
        timer.start()
        with pytest.raises(Cancelled), wallet.lock(control, exclusive=True):
            pass
        timer.join()


def test_locks_of_one_process_exclude_each_other_too(wallet, lock_file):
    with wallet.lock(Control(), exclusive=True), pytest.raises(Aborted), wallet.lock(NoPatience(), exclusive=False):
        pass


def test_a_link_is_no_folder_and_no_lock(wallet, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "Bank").symlink_to("elsewhere")
    with pytest.raises(OSError, match=r"Not a directory|symbolic"), wallet.folder(b"Bank"):
        pass
    with pytest.raises(OSError, match=r"Not a directory|symbolic"), wallet.folder(b"Bank", create=True):
        pass
    with pytest.raises(FileNotFoundError), wallet.folder(b"Fracked"):
        pass
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_no_descriptor_is_left_open(wallet, lock_file):
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    for _ in range(5):
        with wallet.lock(Control(), exclusive=True), wallet.folder(b"a", b"b", create=True):
            pass
        with pytest.raises(FileNotFoundError), wallet.folder(b"a", b"none"):
            pass
        wallet.write_record(b"r", {})
        wallet.read_record(b"r")
    assert count() == before


def test_records_are_replaced_and_forgotten(wallet, tmp_path):
    assert wallet.read_record(b"export-1.json") is None
    wallet.remove_record(b"export-1.json")
    wallet.write_record(b"export-1.json", {"state": "ONE", "name": "ü"})
    assert wallet.read_record(b"export-1.json") == {"state": "ONE", "name": "ü"}
    wallet.write_record(b"export-1.json", {"state": "TWO"})
    assert wallet.read_record(b"export-1.json") == {"state": "TWO"}
    path = tmp_path / RESERVED_FOLDER / "export-1.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["export-1.json"]
    wallet.remove_record(b"export-1.json")
    assert wallet.read_record(b"export-1.json") is None
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"[]", b'"x"', b"{", b"\xff"])
def test_what_is_no_record_is_told(wallet, tmp_path, content):
    wallet.write_record(b"r", {})
    (tmp_path / RESERVED_FOLDER / "r").write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        wallet.read_record(b"r")


class TestMove:
    @pytest.fixture
    def folders(self, wallet, tmp_path):
        with wallet.folder(b"Bank", create=True) as bank, wallet.folder(b"Exported", create=True) as exported:
            yield bank, exported

    def test_it_replaces_nothing(self, folders, tmp_path):
        bank, exported = folders
        for number in range(4):
            (tmp_path / "Bank" / "coin.bin").write_text(str(number))
            moved = WalletFolder.move(bank, b"coin.bin", exported)
            assert moved == (b"coin.bin" if number == 0 else f"coin-{number + 1}.bin".encode())
        names = {path.name: path.read_text() for path in (tmp_path / "Exported").iterdir()}
        assert names == {"coin.bin": "0", "coin-2.bin": "1", "coin-3.bin": "2", "coin-4.bin": "3"}
        assert list((tmp_path / "Bank").iterdir()) == []

    def test_within_one_folder_and_to_another_name(self, folders, tmp_path):
        bank, _ = folders
        (tmp_path / "Bank" / "a.bin").write_text("a")
        (tmp_path / "Bank" / "b.bin").write_text("b")
        assert WalletFolder.move(bank, b"a.bin", bank, b"b.bin") == b"b-2.bin"
        assert {p.name: p.read_text() for p in (tmp_path / "Bank").iterdir()} == {"b.bin": "b", "b-2.bin": "a"}

    def test_a_name_as_long_as_names_can_be(self, folders, tmp_path):
        bank, exported = folders
        for name in (
            b"x" * 251 + b".bin",
            b"\xc3\xa9" * 125 + b"b.bin",
            b"n" * 255,
            b"s." + b"x" * 253,
            b"." + b"h" * 254,
        ):
            assert len(name) == 255
            for number in range(3):
                (tmp_path / "Bank" / os.fsdecode(name)).write_text(str(number))
                WalletFolder.move(bank, name, exported)
        kept = list((tmp_path / "Exported").iterdir())
        assert len(kept) == 15
        assert sorted(path.read_text() for path in kept) == sorted("012" * 5)

    def test_a_file_that_is_gone(self, folders):
        bank, exported = folders
        with pytest.raises(FileNotFoundError):
            WalletFolder.move(bank, b"none.bin", exported)

    def test_a_dangling_link_is_a_taken_name(self, folders, tmp_path):
        bank, exported = folders
        (tmp_path / "Bank" / "coin.bin").write_text("coin")
        (tmp_path / "Exported" / "coin.bin").symlink_to("nowhere")
        assert WalletFolder.move(bank, b"coin.bin", exported) == b"coin-2.bin"
        assert (tmp_path / "Exported" / "coin.bin").is_symlink()


@given(st.binary(min_size=1, max_size=255).filter(lambda name: not {0, 47} & set(name)))
def test_free_names_are_legal_and_never_the_same(name):
    names = list(itertools.islice(free_names(name), 12))
    assert names[0] == name
    assert len(set(names)) == 12
    assert all(1 <= len(one) <= 255 for one in names)


@pytest.mark.parametrize("letter", ["a", "é", "東", "☕", "😀"])
@pytest.mark.parametrize("length", [1, 60, 240, 251])
def test_free_names_of_text_stay_text_and_lose_as_little_as_they_must(letter, length):
    stem = (letter * 255).encode()[:length].decode(errors="ignore")
    name = (stem or "n").encode() + b".bin"
    for one in itertools.islice(free_names(name), 1, 12):
        kept, _, number = one.decode().removesuffix(".bin").rpartition("-")
        assert number.isdigit()
        if len(one) < 255 - 4:
            assert kept == (stem or "n")
        assert len(one) > min(len(name), 255) - 4


def test_free_names_keep_the_suffix():
    assert list(itertools.islice(free_names(b"1,000 CloudCoin #7 'a.b'.bin"), 3)) == [
        b"1,000 CloudCoin #7 'a.b'.bin",
        b"1,000 CloudCoin #7 'a.b'-2.bin",
        b"1,000 CloudCoin #7 'a.b'-3.bin",
    ]
    assert next(itertools.islice(free_names(b".hidden"), 1, None)) == b".hidden-2"
