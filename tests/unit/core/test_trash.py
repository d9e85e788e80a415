"""Archives in the trash: moved, taken back and removed by name, and only when they are what the catalog knows."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.archive.sidecar import SIDECAR_SUFFIX, Sidecar
from holdfast_server.core import trash
from holdfast_server.core.trash import StoredFile, hide, look, remove, reveal, trash_name
from holdfast_server.errors import DataLoss, FailedPrecondition, HoldfastError, Reason, Unavailable

BACKUP = "01234567-89ab-4def-8123-456789abcdef"
CONTENT = b"an archive"
NAME = b"photos-20250101-000000.tar.gz.age"


def stored(folder: Path, name: bytes = NAME, size: int = len(CONTENT)) -> StoredFile:
    return StoredFile(os.fsencode(folder), BACKUP, name, trash_name(BACKUP, name), size)


def put(folder: Path, name: bytes, content: bytes = CONTENT) -> Path:
    path = folder / os.fsdecode(name)
    path.write_bytes(content)
    return path


def sidecar(backup_id: str = BACKUP) -> bytes:
    return Sidecar(backup_id, "s", "WALLET", "zip", 1, 0, 0, len(CONTENT), "0" * 64, {}, True, "test").encode()


def tree(folder: Path) -> dict[bytes, bytes]:
    return {os.fsencode(path.name): path.read_bytes() for path in folder.iterdir()}


def announced(names: list[bytes]) -> Callable[[bytes], None]:
    return names.append


def test_there_and_back_with_its_sidecar(tmp_path: Path) -> None:
    put(tmp_path, NAME)
    put(tmp_path, NAME + SIDECAR_SUFFIX, sidecar())
    archive, names = stored(tmp_path), list[bytes]()
    before = tree(tmp_path)
    assert look(archive) == NAME
    assert hide(archive)
    assert tree(tmp_path) == {archive.hidden: CONTENT, archive.hidden + SIDECAR_SUFFIX: sidecar()}
    assert look(archive) == archive.hidden
    assert reveal(archive, announced(names)) == NAME
    assert (tree(tmp_path), names) == (before, [NAME])
    assert hide(archive)
    assert remove(archive) == len(CONTENT)
    assert tree(tmp_path) == {}
    assert remove(archive) == 0


def test_every_step_can_be_repeated(tmp_path: Path) -> None:
    put(tmp_path, NAME)
    archive = stored(tmp_path)
    assert [hide(archive) for _ in range(3)] == [True] * 3
    assert [reveal(archive, lambda _: None) for _ in range(3)] == [NAME] * 3
    assert tree(tmp_path) == {NAME: CONTENT}


def test_a_crash_between_archive_and_sidecar_is_made_up_for(tmp_path: Path) -> None:
    archive = stored(tmp_path)
    put(tmp_path, archive.hidden)
    put(tmp_path, NAME + SIDECAR_SUFFIX, sidecar())
    assert hide(archive)
    assert set(tree(tmp_path)) == {archive.hidden, archive.hidden + SIDECAR_SUFFIX}


def test_a_crash_between_linking_and_unlinking_is_made_up_for(tmp_path: Path) -> None:
    archive = stored(tmp_path)
    os.link(put(tmp_path, archive.hidden), tmp_path / os.fsdecode(NAME))
    assert hide(archive)
    assert set(tree(tmp_path)) == {archive.hidden}
    os.link(tmp_path / os.fsdecode(archive.hidden), tmp_path / os.fsdecode(NAME))
    assert reveal(archive, lambda _: None) == NAME
    assert set(tree(tmp_path)) == {NAME}


@pytest.mark.parametrize("taken", [NAME, NAME + SIDECAR_SUFFIX])
def test_a_taken_name_gets_a_number(tmp_path: Path, taken: bytes) -> None:
    put(tmp_path, NAME)
    put(tmp_path, NAME + SIDECAR_SUFFIX, sidecar())
    archive, names = stored(tmp_path), list[bytes]()
    assert hide(archive)
    put(tmp_path, taken, b"somebody else's")
    assert reveal(archive, announced(names)) == b"photos-20250101-000000-2.tar.gz.age"
    assert names == [b"photos-20250101-000000-2.tar.gz.age"]
    assert tree(tmp_path) == {names[0]: CONTENT, names[0] + SIDECAR_SUFFIX: sidecar(), taken: b"somebody else's"}


def test_a_name_taken_in_the_last_moment_is_not_overwritten(tmp_path: Path) -> None:
    put(tmp_path, NAME)
    put(tmp_path, NAME + SIDECAR_SUFFIX, sidecar())
    archive, names = stored(tmp_path), list[bytes]()
    assert hide(archive)

    def announce(name: bytes) -> None:
        names.append(name)
        if len(names) < 3:
            put(tmp_path, name, b"quick")

    third = b"photos-20250101-000000-3.tar.gz.age"
    assert reveal(archive, announce) == third
    assert tree(tmp_path) == {
        NAME: b"quick", names[1]: b"quick", third: CONTENT, third + SIDECAR_SUFFIX: sidecar()
    }  # fmt: skip


def test_a_sidecar_of_another_backup_stays(tmp_path: Path) -> None:
    put(tmp_path, NAME)
    for other in (sidecar("11234567-89ab-4def-8123-456789abcdef"), b"[" * 100_000, b"no json", b"[]"):
        put(tmp_path, NAME + SIDECAR_SUFFIX, other)
        archive = stored(tmp_path)
        assert hide(archive)
        assert tree(tmp_path) == {archive.hidden: CONTENT, NAME + SIDECAR_SUFFIX: other}
        (tmp_path / os.fsdecode(NAME + SIDECAR_SUFFIX)).unlink()
        reveal(archive, lambda _: None)


def link(folder: Path) -> None:
    put(folder, b"elsewhere")
    os.symlink("elsewhere", folder / os.fsdecode(NAME))


@pytest.mark.parametrize(
    "place",
    [
        lambda folder: put(folder, NAME, CONTENT + b"!"),
        link,
        lambda folder: (folder / os.fsdecode(NAME)).mkdir(),
        lambda folder: os.mkfifo(folder / os.fsdecode(NAME)),
    ],
    ids=["another size", "a link", "a folder", "a fifo"],
)
@pytest.mark.parametrize("act", [look, hide, lambda a: reveal(a, lambda _: None)], ids=["look", "hide", "reveal"])
def test_what_is_not_the_archive_is_left_alone(
    tmp_path: Path, place: Callable[[Path], None], act: Callable[[StoredFile], Any]
) -> None:
    place(tmp_path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(FailedPrecondition) as caught:
        act(stored(tmp_path))
    assert caught.value.reason is Reason.ARCHIVE_CHANGED
    assert sorted(os.listdir(tmp_path)) == before


def test_a_changed_file_in_the_trash_is_not_removed(tmp_path: Path) -> None:
    archive = stored(tmp_path)
    put(tmp_path, archive.hidden, b"grown by somebody")
    for act in (hide, remove):
        with pytest.raises(FailedPrecondition) as caught:
            act(archive)
        assert caught.value.reason is Reason.ARCHIVE_CHANGED
    assert tree(tmp_path) == {archive.hidden: b"grown by somebody"}


def test_what_replaces_the_archive_while_it_is_moved_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path, NAME)
    archive, original, swaps = stored(tmp_path), trash.publish, [1]

    def publish(fd: int, old: bytes, new: bytes) -> None:
        if swaps.pop() if swaps else 0:
            os.rename(path, tmp_path / "moved by somebody")
            put(tmp_path, NAME, b"1234567890")
        original(fd, old, new)

    monkeypatch.setattr(trash, "publish", publish)
    with pytest.raises(FailedPrecondition):
        hide(archive)
    assert tree(tmp_path) == {NAME: b"1234567890", b"moved by somebody": CONTENT}


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    archive = stored(tmp_path)
    assert look(archive) is None
    assert not hide(archive)
    with pytest.raises(DataLoss) as caught:
        reveal(archive, lambda _: None)
    assert caught.value.reason is Reason.ARCHIVE_MISSING


@pytest.mark.parametrize("act", [look, hide, remove, lambda a: reveal(a, lambda _: None)])
def test_a_folder_that_is_away_is_unreachable(tmp_path: Path, act: Callable[[StoredFile], Any]) -> None:
    with pytest.raises(Unavailable) as caught:
        act(stored(tmp_path / "away"))
    assert caught.value.reason is Reason.STORAGE_UNREACHABLE


@pytest.mark.parametrize("length", [1, 100, 200, 242, 255])
def test_names_of_any_length_fit(tmp_path: Path, length: int) -> None:
    name = (b"x" * 255 + b".zip")[-length:]
    archive = stored(tmp_path, name)
    put(tmp_path, name)
    assert len(archive.hidden + SIDECAR_SUFFIX) <= 255
    assert hide(archive)
    put(tmp_path, name, b"taken")
    second = reveal(archive, lambda _: None)
    assert second != name
    assert tree(tmp_path) == {name: b"taken", second: CONTENT}


def test_failed_system_calls_are_the_services_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, NAME)

    def fail(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(trash, "publish", fail)
    with pytest.raises(HoldfastError) as caught:
        hide(stored(tmp_path))
    assert caught.value.reason is Reason.STORAGE_UNREACHABLE
    assert tree(tmp_path) == {NAME: CONTENT}
