"""Snapshots restored: what comes back, what is chosen, and that nothing appears when something is wrong."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_server.core.control import Control
from holdfast_server.errors import Cancelled, DataLoss, FailedPrecondition, NotFound, Reason
from holdfast_server.storage.objects import MemoryObjects
from tests.snapshots import Vault, described, restore

TIME = 1_600_000_000_123_456_789
MIB = 1 << 20


@pytest.fixture
def vault() -> Iterator[Vault]:
    with Vault() as vault:
        yield vault


def make_tree(root: Path) -> Path:
    """Every kind of entry, odd names, modes and times, a file of several chunks, hard links across folders."""
    (root / "a" / "deep" / "er").mkdir(parents=True)
    (root / "b").mkdir()
    (root / "empty").mkdir()
    (root / "file").write_bytes(b"content")
    (root / "nothing").write_bytes(b"")
    (root / "a" / "large").write_bytes(os.urandom(9 * MIB + 17))
    (root / "a" / "deep" / "er" / "x").write_bytes(b"x" * 70_000)
    os.link(root / "a" / "large", root / "b" / "large again")
    os.link(root / "file", root / "a" / "deep" / "name of file")
    os.link(root / "file", root / "b" / "name of file")
    for number in range(50):
        (root / "b" / f"{number}").write_bytes(b"%d" % (number % 7) * number)
    odd = os.fsencode(root) + b"/raw\xff\n\x1b"
    with open(odd, "wb") as file:
        file.write(b"odd")
    os.symlink("../../etc/passwd", root / "a" / "link")
    os.symlink(b"raw\xff\n\x1b", os.fsencode(root) + b"/link to raw")
    os.chmod(root / "file", 0o400)
    os.chmod(root / "b" / "1", 0o777)
    os.chmod(root / "a" / "deep", 0o500)
    os.chmod(root / "empty", 0o1770 & 0o777)
    for path in [odd, os.fsencode(root / "a" / "link"), os.fsencode(root / "file"), os.fsencode(root / "empty")]:
        os.utime(path, ns=(TIME, TIME), follow_symlinks=False)
    os.utime(root / "a" / "deep", ns=(-5, -5))
    os.utime(root, ns=(TIME + 1, TIME + 1))
    os.chmod(root, 0o750)
    return root


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    root.mkdir()
    return make_tree(root)


def has_xattrs(path: Path) -> bool:
    try:
        os.setxattr(path, b"user.holdfast", b"")
        os.removexattr(path, b"user.holdfast")
    except OSError:
        return False
    return True


def test_a_tree_comes_back_with_every_byte_and_attribute(vault: Vault, source: Path, tmp_path: Path) -> None:
    before = described(source)
    found = restore(vault, vault.back_up(source), tmp_path / "target")
    assert described(tmp_path / "target") == before
    kinds = [stat.S_IFMT(int(str(line[0]))) for line in before.values()]
    assert found.files == 55
    assert found.hardlinks == 3
    assert found.symlinks == kinds.count(stat.S_IFLNK)
    assert found.directories == kinds.count(stat.S_IFDIR) - 1
    assert found.warning_count == 0
    assert found.has_manifest


def test_a_second_snapshot_comes_back_as_the_first(vault: Vault, source: Path, tmp_path: Path) -> None:
    """Its small files lie in chunks of the first, in no order of its own."""
    first = vault.back_up(source)
    (source / "b" / "20").write_bytes(b"changed")
    (source / "b" / "new").write_bytes(os.urandom(2 * MIB))
    os.rename(source / "b", source / "0")
    before = described(source)
    second = vault.back_up(source)
    restore(vault, second, tmp_path / "second")
    assert described(tmp_path / "second") == before
    restore(vault, first, tmp_path / "first")
    assert (tmp_path / "first" / "b" / "20").read_bytes() == b"6" * 20


def test_extended_attributes_come_back(vault: Vault, source: Path, tmp_path: Path) -> None:
    if not has_xattrs(source / "b"):
        pytest.skip("this filesystem has no extended attributes")
    os.setxattr(source, b"user.root", b"\0\xff")
    os.setxattr(source / "b", b"user.folder", b"value")
    os.setxattr(source / "b" / "1", b"user.one", b"1" * 500)
    os.setxattr(source / "b" / "1", b"user.\xff two", b"")
    os.setxattr(source / "a" / "large", b"user.large", b"shared")
    os.chmod(source / "b" / "1", 0o444)
    before = described(source)
    assert before[b"b/large again"][4] == {"user.large": b"shared"}
    found = restore(vault, vault.back_up(source), tmp_path / "target")
    assert described(tmp_path / "target") == before
    assert found.warning_count == 0


def test_refused_attributes_are_told_once_a_kind(
    vault: Vault, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_xattrs(source / "b"):
        pytest.skip("this filesystem has no extended attributes")
    for name in ("1", "2", "3"):
        os.setxattr(source / "b" / name, b"user.one", b"1")
    snapshot = vault.back_up(source)
    told: list[tuple[bytes, str, bool]] = []

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setxattr", refuse)
    found = restore(vault, snapshot, tmp_path / "target", report=lambda *what: told.append(what))
    assert found.warning_count == 1
    [(path, what, whole)] = told
    assert path == b"b/1"
    assert "'user'" in what
    assert "those of 2 more" in what
    assert not whole
    assert (tmp_path / "target" / "b" / "3").read_bytes() == b"333"


def test_holes_come_back_as_holes(vault: Vault, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "large", "wb") as file:
        file.seek(64 * MIB)
        file.write(os.urandom(100_000))
        file.truncate(96 * MIB + 3)
    with open(source / "small", "wb") as file:
        file.seek(128 << 10)
        file.write(b"end")
    with open(source / "only a hole", "wb") as file:
        file.truncate(500_000)
    (source / "zeros").write_bytes(bytes(300_000))
    if os.stat(source / "large").st_blocks * 512 > MIB:
        pytest.skip("this filesystem keeps no holes")
    before = described(source, holes=True)
    restore(vault, vault.back_up(source), tmp_path / "target")
    assert described(tmp_path / "target", holes=True) == before


def test_set_id_bits_are_dropped_and_told(vault: Vault, source: Path, tmp_path: Path) -> None:
    os.chmod(source / "b" / "1", 0o4755)
    os.chmod(source / "empty", 0o2775)
    told: list[bytes] = []
    found = restore(vault, vault.back_up(source), tmp_path / "target", report=lambda path, *_: told.append(path))
    assert sorted(told) == [b"b/1", b"empty"]
    assert found.warning_count == 2
    assert stat.S_IMODE((tmp_path / "target" / "b" / "1").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "target" / "empty").stat().st_mode) == 0o775


def test_owners_come_back_for_root(vault: Vault, source: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give files away")
    for path in ("b/1", "b/3", "empty", "a/link", "a/large"):
        os.chown(source / path, 12_345, 54_321, follow_symlinks=False)
    os.chown(source, 1, 2)
    before = described(source)
    restore(vault, vault.back_up(source), tmp_path / "target")
    assert described(tmp_path / "target") == before


def test_chosen_paths_alone(vault: Vault, source: Path, tmp_path: Path) -> None:
    before = described(source)
    chosen = (b"b", b"a/deep/er/x", b"b/3", b"a/link")
    found = restore(vault, vault.back_up(source), tmp_path / "target", paths=chosen)
    after = described(tmp_path / "target")
    wanted = {path for path in before if path in chosen or path.startswith(b"b/")}
    assert set(after) - {b"", b"a", b"a/deep", b"a/deep/er"} == wanted
    same = {path for path in wanted if path not in (b"b/large again", b"b/name of file")}
    assert {path: after[path] for path in same} == {path: before[path] for path in same}
    # Names of files that were not chosen are files of their own, with the same content and attributes.
    for path in (b"b/large again", b"b/name of file"):
        assert after[path][:-1] == before[path][:-1]
        assert after[path][-1] == path
    assert found.hardlinks == 0
    assert found.files == 53


def test_chosen_names_of_one_file_stay_one_file(vault: Vault, source: Path, tmp_path: Path) -> None:
    os.link(source / "file", source / "b" / "third name")
    found = restore(vault, vault.back_up(source), tmp_path / "target", paths=[b"b/third name", b"b/name of file"])
    one, other = ((tmp_path / "target" / "b" / name).stat() for name in ("third name", "name of file"))
    assert one.st_ino == other.st_ino
    assert (found.files, found.hardlinks) == (1, 1)
    assert stat.S_IMODE(one.st_mode) == 0o400
    assert one.st_mtime_ns == TIME


def test_a_path_that_is_not_there(vault: Vault, source: Path, tmp_path: Path) -> None:
    snapshot = vault.back_up(source)
    for path in (b"b/no", b"file/below", b"B"):
        with pytest.raises(NotFound) as refused:
            restore(vault, snapshot, tmp_path / path.replace(b"/", b"-").decode(), paths=[b"b", path])
        assert refused.value.reason is Reason.ENTRY_NOT_FOUND
        assert os.listdir(tmp_path / path.replace(b"/", b"-").decode()) == []


def test_every_damaged_pack_is_told_and_nothing_appears(source: Path, tmp_path: Path) -> None:
    store = MemoryObjects()
    with Vault(store) as vault:
        snapshot = vault.back_up(source)
        packs = [name for name in store.contents() if name.startswith("packs/")]
        named = 0
        for number, name in enumerate(packs):
            whole = store.get(name)
            middle = len(whole) // 3
            store.put(name, [whole[:middle], bytes([whole[middle] ^ 1]), whole[middle + 1 :]])
            with pytest.raises(DataLoss) as lost:
                restore(vault, snapshot, tmp_path / f"target-{number}")
            assert lost.value.reason is Reason.CHECKSUM_MISMATCH
            named += lost.value.metadata.get("path") == "a/large"
            assert os.listdir(tmp_path / f"target-{number}") == []
            store.put(name, [whole])
        assert named == 1
        restore(vault, snapshot, tmp_path / "target")
        assert described(tmp_path / "target") == described(source)


def test_cancelled_in_the_middle_leaves_nothing(vault: Vault, source: Path, tmp_path: Path) -> None:
    class Soon(Control):
        calls = 0

        def check(self) -> None:
            self.calls += 1
            if self.calls == 30:
                self.cancel()
            super().check()

    snapshot, control = vault.back_up(source), Soon()
    with pytest.raises(Cancelled):
        restore(vault, snapshot, tmp_path / "target", control=control)
    assert control.calls == 30
    assert os.listdir(tmp_path / "target") == []


def test_a_sealed_repository_wants_its_key(source: Path, tmp_path: Path) -> None:
    with Vault(sealed=True) as vault:
        snapshot = vault.back_up(source)
        opened = vault.repository.unlock("a key file of a repository for tests: 0123456789abcdef")
        vault.content = None
        with pytest.raises(FailedPrecondition) as refused:
            restore(vault, snapshot, tmp_path / "refused")
        assert refused.value.reason is Reason.KEY_REQUIRED
        assert os.listdir(tmp_path / "refused") == []
        restore(vault, snapshot, tmp_path / "target", content=opened)
        assert described(tmp_path / "target") == described(source)


def test_extended_attributes_of_a_wallet_come_back(tmp_path: Path) -> None:
    source = tmp_path / "wallet"
    (source / "Bank").mkdir(parents=True)
    coin = source / "Bank" / "note.txt"
    coin.write_bytes(b"hello")
    (source / "link").symlink_to("Bank")
    try:
        for path in (source / "Bank", coin):
            os.setxattr(path, "user.note", path.name.encode())
    except OSError:
        pytest.skip("this file system keeps no extended attributes")
    with Vault() as vault:
        snapshot = vault.back_up(source, kind="WALLET")
        target = tmp_path / "target"
        restore(vault, snapshot, target)
    assert described(target) == described(source)
    assert os.getxattr(target / "Bank" / "note.txt", "user.note") == b"note.txt"
