"""docs/format.md states the numbers of the tree, its entries and lists."""

from __future__ import annotations

import re
from pathlib import Path

from holdfast_server.repository.entries import ENVELOPE_SUFFIX, EntryFlag, EntryKind
from holdfast_server.repository.extents import EXTENT_SIZE
from holdfast_server.repository.root import MAX_PROBLEMS, RootInfo, SourceAttributes, encode_root

TEXT = (Path(__file__).parents[3] / "docs" / "format.md").read_text()


def section(title: str) -> str:
    found = re.search(rf"^### {title}\n(.*?)(?=^##|\Z)", TEXT[TEXT.index("## Repository") :], re.DOTALL | re.MULTILINE)
    assert found, title
    return found[1]


def test_kinds_and_flags() -> None:
    tree = section("Tree")
    kinds = dict(re.findall(r"^\| (\d) ([a-z ]+) \|", tree, re.MULTILINE))
    words = {"1": "file", "2": "directory", "3": "symbolic link", "4": "hard link"}
    assert kinds == words
    assert sorted(words) == [str(int(kind)) for kind in EntryKind]
    flags = re.findall(r"^\| (\d+) \| ", tree, re.MULTILINE)
    assert flags == [str(int(flag)) for flag in EntryFlag]
    assert f"`{ENVELOPE_SUFFIX.decode()}`" in tree


def test_files_and_roots() -> None:
    assert f"An extent is {EXTENT_SIZE} bytes" in section("Files")
    root = section("Root")
    assert f"at most {MAX_PROBLEMS:,}:" in root
    info = RootInfo(SourceAttributes(0, 0, 0, 0), None, coins={})
    written = set(re.findall(r'"(\w+)":', encode_root(info).decode()))
    documented = set(re.findall(r"^\| `(\w+)` \|", root, re.MULTILINE))
    assert documented == written - {"mode", "mtime_ns", "uid", "gid", "xattrs"}
    assert all(f"`{key}`" in root for key in written)
