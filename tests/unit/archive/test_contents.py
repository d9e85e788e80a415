"""Pulling a stored archive: every entry beside its content, in order, and no difference from the manifest passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast_server.archive.contents import open_contents
from holdfast_server.archive.manifest import ManifestEntry
from holdfast_server.archive.member import Member
from holdfast_server.archive.reading import ArchiveReader
from holdfast_server.errors import Cancelled, DataLoss, Reason
from tests.unit.archive.samples import FILE, TREE, Entry, closing, file, forged, hardlink, reading, tar_gz

BUILD: dict[str, Callable[[list[Entry]], bytes]] = {"ZIP": forged, "TAR_GZ": tar_gz}
both = pytest.mark.parametrize("format_name", ["ZIP", "TAR_GZ"])


def pulled(reader: ArchiveReader, wants: Callable[[Member], bool] = lambda _: True) -> list[tuple[bytes, bytes]]:
    contents = open_contents(reader, check=lambda: None, on_progress=lambda *_: None)
    return [(entry.member.path, b"".join(blocks)) for entry, blocks in contents.read(wants)]


@both
def test_entries_come_with_their_contents_as_often_as_asked(tmp_path: Path, format_name: str) -> None:
    own = [
        file(b"holdfast-manifest-2.json", b'{"format":"holdfast-manifest"'),
        file(b"holdfast-sha256sums-2.txt", b"mine"),
    ]
    entries = [*own, *TREE]
    with reading(tmp_path, format_name, BUILD[format_name](entries + closing(entries))) as reader:
        contents = open_contents(reader, check=lambda: None, on_progress=lambda *_: None)
        assert contents.header["backup_id"] == "b"
        assert contents.totals == {}
        wanted = [(member.path, content) for member, content in entries]
        for _ in range(2):
            assert [(entry.member.path, b"".join(b)) for entry, b in contents.read(lambda _: True)] == wanted
        listed = list(contents.entries())
        assert [entry.member.path for entry in listed] == [path for path, _ in wanted]
        assert [entry.member.path for entry in listed if entry.member.sparse] == [b"big.bin"]
        assert contents.totals == {"complete": True}
        assert pulled(reader, lambda member: member.path == b"big.bin") == [wanted[-1]]


@both
def test_a_content_left_over_is_proved_all_the_same(tmp_path: Path, format_name: str) -> None:
    def other_hash(entry: ManifestEntry) -> ManifestEntry:
        return dataclasses.replace(entry, sha256=bytes(32)) if entry.member.path == b"big.bin" else entry

    data = BUILD[format_name](TREE + closing(TREE, other_hash))
    with reading(tmp_path, format_name, data) as reader, pytest.raises(DataLoss) as refused:  # noqa: PT012
        contents = open_contents(reader, check=lambda: None, on_progress=lambda *_: None)
        for entry, blocks in contents.read(lambda _: True):
            if entry.member.kind is FILE and entry.member.size:
                next(blocks)
    assert refused.value.reason is Reason.CHECKSUM_MISMATCH
    assert refused.value.metadata["path"] == "big.bin"


@both
@pytest.mark.parametrize("change", ["dropped", "mode", "size", "unlisted", "sums"])
def test_every_difference_ends_the_reading(tmp_path: Path, format_name: str, change: str) -> None:
    def falsify(entry: ManifestEntry) -> ManifestEntry | None:
        if entry.member.path != b"sub/a.txt":
            return entry
        values = {"mode": {"mode": 0o777}, "size": {"size": 3}}.get(change, {})
        return (
            None
            if change == "dropped"
            else dataclasses.replace(entry, member=dataclasses.replace(entry.member, **values))
        )

    sums, manifest = closing(TREE, falsify)
    middle = [file(b"stranger", b"x")] if change == "unlisted" else []
    if change == "sums":
        sums = file(b"holdfast-sha256sums.txt", sums[1].replace(b"a", b"b"))
    with reading(tmp_path, format_name, BUILD[format_name]([*TREE, *middle, sums, manifest])) as reader:
        with pytest.raises(DataLoss) as refused:
            pulled(reader)
        assert refused.value.reason is Reason.CHECKSUM_MISMATCH


@both
def test_an_archive_without_a_manifest_is_refused(tmp_path: Path, format_name: str) -> None:
    with (
        reading(tmp_path, format_name, BUILD[format_name](TREE)) as reader,
        pytest.raises(DataLoss, match="no manifest"),
    ):
        pulled(reader)


def test_an_archive_that_changes_after_its_manifest_was_read_is_refused(tmp_path: Path) -> None:
    entries = [file(b"a", b"first"), hardlink(b"b", b"a")]
    data, other = (tar_gz([*e, *closing(entries)]) for e in (entries, [file(b"a", b"other"), entries[1]]))
    with reading(tmp_path, "TAR_GZ", data) as reader:
        contents = open_contents(reader, check=lambda: None, on_progress=lambda *_: None)
        (tmp_path / "archive").write_bytes(other)
        with pytest.raises(DataLoss):
            list(contents.read(lambda _: True))


@both
def test_a_stop_is_heard(tmp_path: Path, format_name: str) -> None:
    stopped = False

    def check() -> None:
        if stopped:
            raise Cancelled

    with reading(tmp_path, format_name, BUILD[format_name](TREE + closing(TREE))) as reader:
        contents = open_contents(reader, check=check, on_progress=lambda *_: None)
        stopped = True
        with pytest.raises(Cancelled):
            list(contents.entries())
        with pytest.raises(Cancelled):
            list(contents.read(lambda _: True))
