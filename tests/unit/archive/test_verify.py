"""Verification: an archive and its manifest agree in everything, or DATA_LOSS names what is damaged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast_server.archive.manifest import ManifestEntry
from holdfast_server.archive.verify import DamagedArchive, Verified, structure, verify_archive
from holdfast_server.errors import Cancelled, DataLoss, Reason
from tests.unit.archive.samples import (
    DIRECTORY,
    FILE,
    SYMLINK,
    TREE,
    Entry,
    closing,
    directory,
    file,
    forged,
    hardlink,
    reading,
    tar_gz,
)

BUILD: dict[str, Callable[[list[Entry]], bytes]] = {"ZIP": forged, "TAR_GZ": tar_gz}
both = pytest.mark.parametrize("format_name", ["ZIP", "TAR_GZ"])


def verified(tmp_path: Path, format_name: str, entries: list[Entry], **more: Any) -> Verified:
    with reading(tmp_path, format_name, BUILD[format_name](entries)) as reader:
        return verify_archive(reader, check=lambda: None, **more)


def falsified(of_kind: Any, /, **changes: Any) -> Callable[[ManifestEntry], ManifestEntry]:
    def change(entry: ManifestEntry) -> ManifestEntry:
        if entry.member.kind is not of_kind or (of_kind is FILE and not entry.member.size):
            return entry
        sha256 = changes.get("sha256", entry.sha256)
        member = dataclasses.replace(entry.member, **{k: v for k, v in changes.items() if k != "sha256"})
        return ManifestEntry(member, sha256)

    return change


@both
def test_whole_archive(tmp_path: Path, format_name: str) -> None:
    seen: list[tuple[int, int, bytes]] = []
    result = verified(tmp_path, format_name, TREE + closing(TREE), on_progress=lambda b, f, p: seen.append((b, f, p)))
    files = [c for m, c in TREE if m.kind is FILE]
    assert (result.files, result.bytes, result.members) == (len(files), sum(map(len, files)), len(TREE))
    assert result.manifest_header is not None
    assert result.manifest_header["backup_id"] == "b"
    assert result.manifest_totals == {"complete": True}
    assert [b for b, _, _ in seen] == sorted(b for b, _, _ in seen)


@both
def test_empty_archive_with_an_empty_manifest(tmp_path: Path, format_name: str) -> None:
    assert verified(tmp_path, format_name, closing([])).files == 0


@both
def test_no_manifest(tmp_path: Path, format_name: str) -> None:
    with pytest.raises(DataLoss, match="no manifest"):
        verified(tmp_path, format_name, TREE)
    assert verified(tmp_path, format_name, TREE, expect_manifest=False).members == len(TREE)


@both
def test_source_file_named_like_the_closing_members(tmp_path: Path, format_name: str) -> None:
    entries = [
        file(b"holdfast-manifest.json", b"mine"),
        file(b"holdfast-sha256sums.txt", b"mine too"),
        *TREE,
    ]
    sums, manifest = closing(entries)
    renamed = [
        (dataclasses.replace(sums[0], path=b"holdfast-sha256sums-2.txt"), sums[1]),
        (dataclasses.replace(manifest[0], path=b"holdfast-manifest-2.json"), manifest[1]),
    ]
    assert verified(tmp_path, format_name, entries + renamed).members == len(entries)


@both
def test_foreign_archive_that_ends_with_a_file_of_the_manifests_name(tmp_path: Path, format_name: str) -> None:
    entries = [file(b"a"), file(b"holdfast-manifest.json", b"no manifest")]
    assert verified(tmp_path, format_name, entries, expect_manifest=False).members == 2
    with pytest.raises(DataLoss):
        verified(tmp_path, format_name, entries)


@both
@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        (FILE, {"sha256": bytes(range(32))}, "SHA-256"),
        (FILE, {"size": 5}, "size"),
        (FILE, {"mode": 0o777}, "mode"),
        (FILE, {"mtime_ns": 5_000_000_000}, "time"),
        (DIRECTORY, {"path": b"other"}, "names 'other'"),
        (SYMLINK, {"link_target": b"elsewhere"}, "link target"),
        (SYMLINK, {"kind": DIRECTORY}, "type"),
    ],
)
def test_manifest_says_otherwise(tmp_path: Path, format_name: str, kind: Any, changes: Any, words: str) -> None:
    with pytest.raises(DataLoss, match=words) as caught:
        verified(tmp_path, format_name, TREE + closing(TREE, falsified(kind, **changes)))
    assert caught.value.reason is Reason.CHECKSUM_MISMATCH
    assert caught.value.metadata["path"]


@both
def test_time_at_the_containers_resolution(tmp_path: Path, format_name: str) -> None:
    entries = TREE + closing(
        TREE, lambda e: ManifestEntry(dataclasses.replace(e.member, mtime_ns=e.member.mtime_ns + 5), e.sha256)
    )
    if format_name == "ZIP":
        verified(tmp_path, format_name, entries)
    else:
        with pytest.raises(DataLoss, match="time"):
            verified(tmp_path, format_name, entries)


@both
@pytest.mark.parametrize("index", [0, 2, len(TREE) - 1])
def test_member_without_an_entry(tmp_path: Path, format_name: str, index: int) -> None:
    with pytest.raises(DataLoss):
        verified(tmp_path, format_name, TREE + closing(TREE[:index] + TREE[index + 1 :]))


@both
@pytest.mark.parametrize("index", [0, 2, len(TREE) - 1])
def test_entry_without_a_member(tmp_path: Path, format_name: str, index: int) -> None:
    with pytest.raises(DataLoss):
        verified(tmp_path, format_name, TREE[:index] + TREE[index + 1 :] + closing(TREE))


@both
def test_false_list_of_checksums(tmp_path: Path, format_name: str) -> None:
    sums, manifest = closing(TREE)
    false = sums[1].replace(b"0", b"1")
    with pytest.raises(DataLoss, match="list of checksums"):
        verified(tmp_path, format_name, [*TREE, (sums[0], false), manifest])


@both
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b'{"format":"holdfast-manifest","version":1,"entries":[\n',
        b'{"format":"holdfast-manifest","version":1,"entries":[\n' + b'{"a":' * 50_000 + b"\n",
        b'{"format":"holdfast-manifest","version":1,"entries":[\n{"path":"a","type":"file","mode":"0644","size":1,"sha256":"'
        + b"0" * 64
        + b'","mtime":"1.000000000","uid":Infinity,"gid":0}\n',
    ],
)
def test_broken_manifest(tmp_path: Path, format_name: str, content: bytes) -> None:
    with pytest.raises(DataLoss):
        verified(tmp_path, format_name, [file(b"a"), file(b"holdfast-manifest.json", content)])


def test_damaged_zip_members_are_collected(tmp_path: Path) -> None:
    entries = [file(b"f%03d" % i, b"content %d" % i * 20) for i in range(250)]

    def damage(i: int, fields: dict[str, Any]) -> None:
        if i < 240 and i % 2:
            fields["data"] = b"\xff" + fields["data"][1:]

    data = forged(entries + closing(entries), local=damage)
    with reading(tmp_path, "ZIP", data) as reader, pytest.raises(DamagedArchive, match="and 119 more") as caught:
        verify_archive(reader, check=lambda: None)
    assert caught.value.count == 120
    assert caught.value.damaged == tuple(b"f%03d" % i for i in range(1, 201, 2))
    assert caught.value.metadata == {"path": "f001", "damaged_count": "120"}


def test_structure_of_a_zip_reads_no_content(tmp_path: Path) -> None:
    entries = TREE + closing(TREE)

    def damage(i: int, fields: dict[str, Any]) -> None:
        if i == 1:
            fields["data"] = b"\xff" * len(fields["data"])

    with reading(tmp_path, "ZIP", forged(entries, local=damage)) as reader:
        assert structure(reader, check=lambda: None).members == len(TREE)
        with pytest.raises(DamagedArchive):
            verify_archive(reader, check=lambda: None)


@both
def test_structure_finds_what_is_missing(tmp_path: Path, format_name: str) -> None:
    data = BUILD[format_name](TREE[1:] + closing(TREE))
    with reading(tmp_path, format_name, data) as reader, pytest.raises(DataLoss):
        structure(reader, check=lambda: None)
    with reading(tmp_path, format_name, BUILD[format_name](TREE + closing(TREE))) as reader:
        assert structure(reader, check=lambda: None).members == len(TREE)


def test_hard_links(tmp_path: Path) -> None:
    entries = [directory(b"d"), file(b"d/a"), hardlink(b"d/b", b"d/a")]
    assert verified(tmp_path, "TAR_GZ", entries + closing(entries)).files == 1


@both
def test_check_stops_at_once(tmp_path: Path, format_name: str) -> None:
    def stop() -> None:
        raise Cancelled

    with reading(tmp_path, format_name, BUILD[format_name](TREE + closing(TREE))) as reader, pytest.raises(Cancelled):
        verify_archive(reader, check=stop)
