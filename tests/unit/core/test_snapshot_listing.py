"""A folder of a snapshot page by page, over an index that is kept and may be too old."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_server.archive.pool import CompressorPool
from holdfast_server.core import snapshot_listing
from holdfast_server.core.repository_place import RepositoryPlace
from holdfast_server.core.snapshot_listing import EntryRow, entries_page
from holdfast_server.core.snapshot_place import ContentAccess, SnapshotPlace
from holdfast_server.errors import DataLoss, HoldfastError, Reason
from holdfast_server.repository import BrowsingIndex, Snapshot
from tests.unit.core.snapshots import LocalSnapshots
from tests.unit.core.wallets import KEY, exposed


@pytest.fixture(scope="module")
def pool() -> Iterator[CompressorPool]:
    pool = CompressorPool(1, 32 << 20)
    yield pool
    pool.close()


class Browser:
    """Counts the indexes that are loaded."""

    def __init__(self, snapshots: LocalSnapshots) -> None:
        self.snapshots = snapshots
        self.loaded: list[BrowsingIndex] = []

    def page(
        self, snapshot: Snapshot, path: bytes = b"", after: bytes | None = None, limit: int = 99
    ) -> list[EntryRow]:
        keys = self.snapshots.keys_folder
        place = RepositoryPlace("r", self.snapshots.location, keys, self.snapshots.repository.fingerprint)
        return entries_page(SnapshotPlace(place, snapshot.run_id, ContentAccess()), path, after, limit)

    def refused(self, snapshot: Snapshot, path: bytes) -> Reason:
        with pytest.raises(HoldfastError) as caught:
            self.page(snapshot, path)
        return caught.value.reason


@pytest.fixture
def browser(tmp_path: Path, pool: CompressorPool, monkeypatch: pytest.MonkeyPatch) -> Browser:
    (tmp_path / "source").mkdir()
    browser = Browser(LocalSnapshots(tmp_path, pool))

    def load(*arguments: object) -> BrowsingIndex:
        browser.loaded.append(BrowsingIndex(*arguments))  # type: ignore[arg-type]
        return browser.loaded[-1]

    monkeypatch.setattr(snapshot_listing, "BrowsingIndex", load)
    monkeypatch.setattr(snapshot_listing, "_KEPT", snapshot_listing._Indexes())
    return browser


def test_pages_go_on_behind_their_last_entry_over_one_index(browser: Browser, tmp_path: Path) -> None:
    folder = tmp_path / "source" / "many"
    folder.mkdir()
    for number in range(100):
        (folder / f"{number:03}").write_text("x")
    snapshot = browser.snapshots.back_up(tmp_path / "source")
    found: list[str] = []
    after: bytes | None = None
    while page := browser.page(snapshot, b"many", after, 7):
        assert len(page) <= 7
        found += [row.path for row in page]
        after = page[-1].position
    assert found == [f"many/{number:03}" for number in range(100)]
    assert len(browser.loaded) == 1
    assert os.listdir(os.path.join(browser.snapshots.location, b"runs")) == []


def test_what_is_no_folder(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "source" / "file").write_text("x")
    snapshot = browser.snapshots.back_up(tmp_path / "source")
    for path in (b"file", b"file/x", b"nowhere", b"\xff"):
        assert browser.refused(snapshot, path) is Reason.ENTRY_NOT_FOUND


def test_an_index_that_is_too_old_is_loaded_anew(browser: Browser, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "one").write_text("x")
    first = browser.snapshots.back_up(source)
    assert [row.path for row in browser.page(first)] == ["one"]
    (source / "two").write_text("y")
    second = browser.snapshots.back_up(source)
    assert [row.path for row in browser.page(second)] == ["one", "two"]
    assert len(browser.loaded) == 2
    assert [row.path for row in browser.page(first)] == ["one"]
    assert len(browser.loaded) == 2


def test_damage_is_told_after_one_more_look(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "source" / "one").write_text("x")
    snapshot = browser.snapshots.back_up(tmp_path / "source")
    assert browser.page(snapshot)
    for folder, _, names in os.walk(os.path.join(browser.snapshots.location, b"packs")):
        for name in names:
            os.unlink(os.path.join(folder, name))
    for _ in range(2):
        with pytest.raises(DataLoss):
            browser.page(snapshot)


def test_an_index_is_kept_for_a_minute_and_not_for_every_repository(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source" / "one").write_text("x")
    snapshot = browser.snapshots.back_up(tmp_path / "source")
    monkeypatch.setattr(snapshot_listing, "_KEEP_SECONDS", -1.0)
    monkeypatch.setattr(snapshot_listing._Indexes, "_sweep_later", lambda _: None)
    browser.page(snapshot)
    browser.page(snapshot)
    assert len(browser.loaded) == 2


def test_encrypted_files_stand_under_the_names_that_a_restore_makes(browser: Browser, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "Bank").mkdir()
    content, _ = exposed(1)["Bank/single.bin"]
    (source / "Bank" / "single.bin").write_bytes(content)
    os.link(source / "Bank" / "single.bin", source / "Bank" / "zz.bin")
    rows = browser.page(browser.snapshots.back_up(source, "WALLET", KEY), b"Bank")
    assert [(row.path, row.kind, row.link_target) for row in rows] == [
        ("Bank/single.bin.hfcc", "FILE", ""),
        ("Bank/zz.bin.hfcc", "HARDLINK", "Bank/single.bin.hfcc"),
    ]
