"""The table of names against a dictionary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holdfast_server.archive.reading import Names

PATHS = st.integers(0, 300).map(lambda number: b"path %d" % number)
KINDS = st.sampled_from(["file", "directory", "other"])


@given(st.lists(st.tuples(PATHS, KINDS), max_size=400))
def test_names_are_told_apart_and_known_again(asked: list[tuple[bytes, str]]) -> None:
    names = Names()
    model: dict[bytes, str] = {}
    for path, kind in asked:
        fresh = path not in model
        again = kind == "directory" and model.get(path) == "directory"
        assert names.add(path, is_file=kind == "file", is_directory=kind == "directory") == (fresh or again)
        model.setdefault(path, kind)
    for number in range(301):
        path = b"path %d" % number
        assert (path in names) == (path in model)
        assert names.has_file(path) == (model.get(path) == "file")


def test_many_names_take_little_memory() -> None:
    names = Names()
    for number in range(50_000):
        assert names.add(b"%d" % number, is_file=number % 2 == 0)
    assert not names.add(b"77")
    assert all(names.has_file(b"%d" % number) == (number % 2 == 0) for number in range(50_000))
    assert b"50000" not in names
    assert names._slots.itemsize * len(names._slots) <= 24 * 50_000
