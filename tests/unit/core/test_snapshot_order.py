"""The order in which a snapshot's entries go into an archive."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_server.core.snapshot_order import depth_first, find_entries, order_key
from holdfast_server.errors import NotFound
from holdfast_server.repository import SnapshotReader
from holdfast_server.repository.entries import Entry
from holdfast_server.repository.tree import TreeReader
from tests.unit.repository.pages import Chunks, make_directory, make_file, write_tree

#: Names around the slash in the order of bytes.
NAMES = st.sampled_from([b"a", b"a-b", b"a.b", b"a0", b"b", b"\xff", b"a\x01"])
PATHS = st.lists(st.lists(NAMES, min_size=1, max_size=4), max_size=24)


def tree_of(paths: list[list[bytes]]) -> tuple[SnapshotReader, list[bytes]]:
    """A tree in which these are files, or folders where something lies below, and its paths."""
    known = {b"/".join(parts[:end]) for parts in paths for end in range(1, len(parts) + 1)}
    folders = {path.rpartition(b"/")[0] for path in known}
    entries: list[Entry] = []
    for path in known:
        folder, _, name = path.rpartition(b"/")
        entries.append(make_directory(folder, name) if path in folders else make_file(folder, name))
    chunks = Chunks()
    reader: Any = TreeReader(chunks.fetch, write_tree(chunks, entries))
    return cast("SnapshotReader", reader), sorted(known, key=order_key)


@given(PATHS, st.integers(0, 9))
def test_what_lies_in_a_folder_comes_directly_behind_it(paths: list[list[bytes]], waiting: int) -> None:
    """However few entries may wait."""
    reader, known = tree_of(paths)
    assert [entry.path for entry in depth_first(reader, waiting=waiting)] == known


@given(PATHS, st.lists(st.lists(NAMES, min_size=1, max_size=3), max_size=4), st.integers(0, 5))
def test_some_paths_and_all_below_each_once(paths: list[list[bytes]], asked: list[list[bytes]], waiting: int) -> None:
    reader, known = tree_of(paths)
    wanted = [path for path in map(b"/".join, asked) if path in known]
    found = depth_first(reader, find_entries(reader, wanted), waiting=waiting)
    expected = [path for path in known if any(path == one or path.startswith(one + b"/") for one in wanted)]
    assert [entry.path for entry in found] == expected


def test_a_large_folder_is_not_gathered() -> None:
    """With folders among its files: what waits is bounded, and every entry still comes."""
    paths = [[b"large", b"%05d" % number] for number in range(3000)]
    paths += [[b"large", b"%05d-in" % number, b"x", b"y"] for number in range(0, 3000, 100)]
    reader, known = tree_of([*paths, [b"later", b"z"]])
    assert [entry.path for entry in depth_first(reader, waiting=50)] == known


def test_a_path_that_there_is_not() -> None:
    reader, _ = tree_of([[b"a", b"b"]])
    for path in (b"b", b"a/c", b"a/b/c", b"\xff"):
        with pytest.raises(NotFound):
            find_entries(reader, [path])
