"""Any tree, backed up in one format, exported to another and restored from that, comes back as it was."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from holdfast_server.archive.format import ArchiveFormat
from holdfast_server.archive.pool import CompressorPool
from holdfast_server.core.control import Control, Problem, Progress
from holdfast_server.core.export import BackupExport, ExportPlan, archive_contents, archive_origin
from holdfast_server.core.verify import StoredArchive, VerifyLevel, open_archive, verify_stored
from tests.property.test_round_trip import Node, back_up, describe, make, nodes, plan, restore

FORMATS = st.sampled_from([one for one in ArchiveFormat if one.writable])


@pytest.fixture(scope="module")
def pool() -> Iterator[CompressorPool]:
    pool = CompressorPool(2)
    yield pool
    pool.close()


def export(
    archive: StoredArchive, folder: bytes, how: ArchiveFormat, paths: tuple[bytes, ...], pool: CompressorPool
) -> StoredArchive:
    problems: list[Problem] = []
    backup_id = plan(archive.format).backup_id
    with open_archive(archive) as file, open(folder + b"/export", "x+b", buffering=0) as out:
        control, progress = Control(), Progress()
        contents = archive_contents(file, archive.format, control, progress)
        made = ExportPlan(backup_id, how, paths, 1, "test", origin=archive_origin(archive))
        one = BackupExport(contents, made, control, progress)
        written = one.write(out.fileno(), pool, problems.append)
    assert problems == []
    found = written.statistics
    for name in ("files", "directories", "symlinks", "hardlinks", "original_size"):
        assert getattr(one.planned, name) == getattr(found, name), name
    return StoredArchive(folder, b"export", how, written.size, written.sha256, found.original_size, found.files)


@pytest.mark.long
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(tree=nodes(), first=FORMATS, second=FORMATS, data=st.data())
def test_any_tree_comes_back(
    pool: CompressorPool, tree: list[Node], first: ArchiveFormat, second: ArchiveFormat, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = os.fsencode(name)
        root = folder + b"/source"
        os.mkdir(root, 0o755)
        make(root, tree)
        # A zip on the way makes files of their own of hard links, and cannot make links of them again.
        linked = first.has_hardlinks and second.has_hardlinks
        before = describe(root, with_links=False)
        written, problems = back_up(root, folder, pool, plan(first))
        assert problems == []
        found = written.statistics
        archive = StoredArchive(
            folder, b"archive", first, written.size, written.sha256, found.original_size, found.files
        )
        paths: tuple[bytes, ...] = ()
        if data.draw(st.booleans(), label="some paths"):
            assume(before)
            paths = tuple(data.draw(st.lists(st.sampled_from(sorted(before)), min_size=1, max_size=3, unique=True)))
        made = export(archive, folder, second, paths, pool)
        for level in VerifyLevel:
            verify_stored(made, level, Control(), Progress())
        restore(made, folder + b"/restored")
        after = describe(folder + b"/restored", with_links=False)
        if not paths:
            assert after == before
            if linked:
                assert describe(folder + b"/restored", with_links=True) == describe(root, with_links=True)
            assert os.stat(folder + b"/restored").st_mtime_ns == os.stat(root).st_mtime_ns
            return
        chosen = {p: e for p, e in before.items() if any(p == w or p.startswith(w + b"/") for w in paths)}
        # Folders above what was chosen are made, and are nobody's.
        above = {p[:at] for p in chosen for at, byte in enumerate(p) if byte == ord("/")} - chosen.keys()
        assert {p: e for p, e in after.items() if p not in above} == chosen
