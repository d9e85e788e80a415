"""Ignore patterns in gitignore's syntax."""

from __future__ import annotations

import pytest

from holdfast_server.core.selection import Selection, check_patterns
from holdfast_server.errors import InvalidArgument


@pytest.mark.parametrize(
    ("patterns", "path", "is_directory", "kept"),
    [
        ([], b"a", False, True),
        (["*.log"], b"deep/down/x.log", False, False),
        (["*.log", "!keep.log"], b"keep.log", False, True),
        (["/top"], b"top", False, False),
        (["/top"], b"sub/top", False, True),
        (["cache/"], b"cache", True, False),
        (["cache/"], b"cache", False, True),
        (["cache/"], b"a/cache", True, False),
        (["a/**/z"], b"a/b/c/z", False, False),
        (["# comment"], b"# comment", False, True),
        (["\\#name"], b"#name", False, False),
        (["odd\u00e9"], "odd\u00e9".encode(), False, False),
        (["*.bin"], b"\xff\xfe.bin", False, False),
        (["*"], b"new\nline", False, False),
        (["Name"], b"name", False, True),
    ],
)
def test_patterns(patterns: list[str], path: bytes, is_directory: bool, kept: bool) -> None:
    selection = Selection(patterns)
    assert selection.keep(path, is_directory) == kept
    assert selection.ignored == (not kept)


@pytest.mark.parametrize("pattern", ["", " ", "a\nb", "a\0b", "x" * 4097, "!"])
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_patterns(["fine", pattern], "ignore")
    assert caught.value.violations[0].field == "ignore[1]"


def test_too_many_patterns() -> None:
    assert len(check_patterns(["x"] * 1000, "ignore")) == 1000
    with pytest.raises(InvalidArgument):
        check_patterns(["x"] * 1001, "ignore")
