"""Files that change while they are read: read again, and marked when three readings do not agree."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast_server.core import reading
from holdfast_server.core.reading import SMALL_FILE, FileReader, is_sparse, read_small
from holdfast_server.storage.tree import TreeEntry, walk


def with_entry(folder: Path, use: Callable[[TreeEntry], None]) -> None:
    """Call `use` with the one file of a folder, while the walk holds the folder open."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        met = 0
        for item in walk(fd, keep=lambda *_: True, check=lambda: None, skip_identities=frozenset()):
            assert isinstance(item, TreeEntry)
            use(item)
            met += 1
        assert met == 1
    finally:
        os.close(fd)


@pytest.fixture
def happening(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Callable[[], None]]], None]:
    """Lets things happen between a reading and the look at what became of the file: one a reading."""

    def install(things: list[Callable[[], None]]) -> None:
        original = reading._read_whole

        def read_whole(fd: int, size: int) -> bytes:
            data = original(fd, size)
            if things:
                things.pop(0)()
            return data

        monkeypatch.setattr(reading, "_read_whole", read_whole)

    return install


def no_wait(_: float) -> None:
    pass


def test_a_quiet_file_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"data")

    def use(entry: TreeEntry) -> None:
        content = read_small(entry, no_wait)
        assert content is not None
        assert (content.data, content.changed) == (b"data", False)

    with_entry(tmp_path, use)


@pytest.mark.parametrize("how", ["append", "truncate", "rewrite", "chmod", "replace"])
def test_a_file_that_changes_once_is_read_again_and_clean(
    tmp_path: Path, how: str, happening: Callable[[list[Callable[[], None]]], None]
) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"first state")
    os.utime(file, ns=(0, 0))

    def change() -> None:
        if how == "append":
            with file.open("ab") as opened:
                opened.write(b"!")
        elif how == "truncate":
            os.truncate(file, 3)
        elif how == "rewrite":
            with file.open("r+b") as opened:
                opened.write(b"FIRST")
        elif how == "chmod":
            file.chmod(0o600)
        else:
            (tmp_path.parent / "new").write_bytes(b"another file")
            os.replace(tmp_path.parent / "new", file)

    happening([change])

    def use(entry: TreeEntry) -> None:
        content = read_small(entry, no_wait)
        assert content is not None
        assert content.changed is False
        if how != "replace":  # the open file is a state of its own
            assert content.data == file.read_bytes()
            assert content.stat.st_size == len(content.data)

    with_entry(tmp_path, use)


def test_a_file_that_never_rests_is_kept_and_marked(
    tmp_path: Path, happening: Callable[[list[Callable[[], None]]], None]
) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"")

    def grow() -> None:
        with file.open("ab") as opened:
            opened.write(b"x")

    happening([grow] * reading.TRIES)
    waits: list[float] = []

    def use(entry: TreeEntry) -> None:
        content = read_small(entry, waits.append)
        assert content is not None
        assert content.changed

    with_entry(tmp_path, use)
    assert len(waits) == reading.TRIES - 1


def test_a_file_that_outgrew_is_left_to_the_stream(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"x")

    def use(entry: TreeEntry) -> None:
        with file.open("ab") as opened:
            opened.write(bytes(SMALL_FILE))
        assert read_small(entry, no_wait) is None

    with_entry(tmp_path, use)


def test_a_file_that_vanished_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")

    def use(entry: TreeEntry) -> None:
        (tmp_path / "f").unlink()
        with pytest.raises(FileNotFoundError):
            read_small(entry, no_wait)

    with_entry(tmp_path, use)


def test_a_file_that_became_a_pipe_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")

    def use(entry: TreeEntry) -> None:
        (tmp_path / "f").unlink()
        os.mkfifo(tmp_path / "f")
        with pytest.raises(OSError):  # noqa: PT011  whichever the kernel says
            read_small(entry, no_wait)

    with_entry(tmp_path, use)


@pytest.mark.parametrize("size", [1, SMALL_FILE, 3 * SMALL_FILE + 17])
@pytest.mark.parametrize("data_at", [(), (0,), (1 << 20,), (700_000, 2_500_000)])
def test_holes_read_as_zeros_whatever_their_place(tmp_path: Path, size: int, data_at: tuple[int, ...]) -> None:
    file = tmp_path / "f"
    with file.open("wb") as opened:
        for position in data_at:
            if position < size:
                opened.seek(position)
                opened.write(b"data"[: size - position])
        opened.truncate(size)
    wanted = file.read_bytes()

    def use(entry: TreeEntry) -> None:
        with FileReader(entry) as reader:
            blocks = list(reader.blocks())
            assert b"".join(blocks) == wanted
            assert all(blocks)
            assert max(map(len, blocks)) <= 1 << 20
            assert not reader.changed
            if size > SMALL_FILE and not data_at:
                assert is_sparse(reader.before)

    with_entry(tmp_path, use)


def test_blocks_end_where_a_file_was_cut(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"x" * (3 << 20))

    def use(entry: TreeEntry) -> None:
        with FileReader(entry) as reader:
            blocks = reader.blocks()
            read = len(next(blocks))
            os.truncate(file, 1 << 20)
            read += sum(map(len, blocks))
            assert read == 1 << 20
            assert reader.changed

    with_entry(tmp_path, use)
